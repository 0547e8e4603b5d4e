// SPDX-License-Identifier: Apache-2.0
// Panels out of any B: types, layouts and blocks of several panels.
// Included by ISA files only.
#pragma once

#include "cpu/gemm.h"
#include "cpu/gemm_pack.h"

namespace seqloom::SEQLOOM_ISA_NS {

using cpu::PackFormat;

// Zen 5 multiplies bytes a third faster in 16 chains (8 rows x 2 vectors) than in 24.
SEQLOOM_ALWAYS_INLINE PanelMap panel_map(PackFormat format, int64_t n) {
  return PanelMap(n, format == PackFormat::kInt8 ? 2 : kNV);
}

// All columns of a quantized B, padded to whole vectors: the length of a row of scales.
SEQLOOM_ALWAYS_INLINE int64_t padded_columns(int64_t n) { return ceil_div(n, kLanes) * kLanes; }

SEQLOOM_ALWAYS_INLINE float load_element(const void* p, DType type, int64_t i) {
  if (type == DType::kFloat32) return static_cast<const float*>(p)[i];
  if (type == DType::kBFloat16) return seqloom::to_float(static_cast<const bf16*>(p)[i]);
  return seqloom::to_float(static_cast<const f16*>(p)[i]);
}

template <class T>
SEQLOOM_ALWAYS_INLINE void pack_typed(const T* b, int64_t ldb, bool trans, int64_t k, int64_t live,
                                      int64_t width, float* out) {
  if (trans) {
    pack_panel_by_columns(b, ldb, k, live, width, out);
  } else {
    pack_panel_by_rows(b, ldb, k, live, width, out);
  }
}

struct Source {
  const void* b;
  DType type;
  int64_t ldb;
  bool trans;
};

// Columns [j, j + live) and rows [k0, k0 + k) of B as one panel.
[[maybe_unused]] static SEQLOOM_NOINLINE void pack_panel(const Source& s, int64_t offset,
                                                         int64_t k0, int64_t k, int64_t j,
                                                         int64_t live, int64_t width, float* out) {
  offset += s.trans ? j * s.ldb + k0 : k0 * s.ldb + j;
  if (s.type == DType::kFloat32) {
    pack_typed(static_cast<const float*>(s.b) + offset, s.ldb, s.trans, k, live, width, out);
  } else if (s.type == DType::kBFloat16) {
    pack_typed(static_cast<const bf16*>(s.b) + offset, s.ldb, s.trans, k, live, width, out);
  } else {
    pack_typed(static_cast<const f16*>(s.b) + offset, s.ldb, s.trans, k, live, width, out);
  }
}

[[maybe_unused]] static SEQLOOM_NOINLINE void pack_panel(const Source& s, int64_t offset,
                                                         int64_t k0, int64_t k, int64_t j,
                                                         int64_t live, int64_t width,
                                                         uint32_t* out) {
  offset += s.trans ? j * s.ldb + k0 : k0 * s.ldb + j;
  if (s.type == DType::kBFloat16) {
    const bf16* b = static_cast<const bf16*>(s.b) + offset;
    if (s.trans) {
      pack_pairs_by_columns(b, s.ldb, k, live, width, out);
    } else {
      pack_pairs_by_rows(b, s.ldb, k, live, width, out);
    }
    return;
  }
  // Rounded to bfloat16 on the way; only ahead of time, so not tuned.
  const int64_t step_k = s.trans ? 1 : s.ldb, step_j = s.trans ? s.ldb : 1;
  for (int64_t p = 0; p < k; p += 2, out += width)
    for (int64_t c = 0; c < width; ++c) {
      const int64_t at = offset + p * step_k + min(c, live - 1) * step_j;
      const uint32_t low = from_float<bf16>(load_element(s.b, s.type, at)).bits;
      const uint32_t high =
          p + 1 < k ? from_float<bf16>(load_element(s.b, s.type, at + step_k)).bits : 0;
      out[c] = low | high << 16;
    }
}

// float16 panels; only ahead of time, so not tuned.
[[maybe_unused]] static SEQLOOM_NOINLINE void pack_panel(const Source& s, int64_t offset,
                                                         int64_t k0, int64_t k, int64_t j,
                                                         int64_t live, int64_t width, f16* out) {
  const int64_t step_k = s.trans ? 1 : s.ldb, step_j = s.trans ? s.ldb : 1;
  offset += k0 * step_k + j * step_j;
  for (int64_t p = 0; p < k; ++p, out += width)
    for (int64_t c = 0; c < width; ++c)
      out[c] = from_float<f16>(
          load_element(s.b, s.type, offset + p * step_k + min(c, live - 1) * step_j));
}

// Panels [p0, p1) of rows [k0, k0 + k), one after the other; a row of a panel
// holds `per_row` elements of k.
template <class Out>
SEQLOOM_ALWAYS_INLINE void pack_panels(const Source& s, const PanelMap& map, int64_t offset,
                                       int64_t k0, int64_t k, int64_t p0, int64_t p1,
                                       int64_t per_row, Out* out) {
  // Row-major B: a few rows at a time across all panels, so that its lines are read end to end.
  const int64_t run = s.trans ? max<int64_t>(k, 1) : 8;
  for (int64_t k1 = 0; k1 < k; k1 += run)
    for (int64_t p = p0; p < p1; ++p) {
      const int64_t j = map.begin(p), w = map.width(p);
      const int64_t skipped = (j - map.begin(p0)) * ceil_div(k, per_row) + k1 / per_row * w;
      pack_panel(s, offset, k0 + k1, min(run, k - k1), j, min(w, map.n - j), w, out + skipped);
    }
}

}  // namespace seqloom::SEQLOOM_ISA_NS
