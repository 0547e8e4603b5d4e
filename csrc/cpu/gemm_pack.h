// SPDX-License-Identifier: Apache-2.0
// Panels of B, and row-major copies of A.
//
// A panel is up to kNR columns of B, stored row by row, so that the kernel streams it. Its width is
// a whole number of vectors; columns past n repeat the last one and are never stored to C.
// bfloat16 panels hold pairs: 32 bits hold B[2p, j] (low half) and B[2p + 1, j].
// Included by ISA files only.
#pragma once

#include "core/half.h"
#include "cpu/gemm_vec.h"

namespace seqloom::SEQLOOM_ISA_NS {

// The columns of n in panels of near-equal width, `widest` vectors at most: [begin, end) of panel p
// in whole vectors.
struct PanelMap {
  int64_t n, vectors, panels, widest;
  SEQLOOM_ALWAYS_INLINE explicit PanelMap(int64_t n_, int64_t widest_ = kNV)
      : n(n_), vectors(ceil_div(n_, kLanes)), panels(ceil_div(vectors, widest_)), widest(widest_) {}
  SEQLOOM_ALWAYS_INLINE int64_t begin(int64_t p) const { return p * vectors / panels * kLanes; }
  SEQLOOM_ALWAYS_INLINE int64_t width(int64_t p) const { return begin(p + 1) - begin(p); }
};

// out[k * stride + j] = rows[j][k] for j < kLanes, k < count; 32-bit elements of any meaning.
SEQLOOM_ALWAYS_INLINE void transpose_words(const float* const* rows, int64_t count, float* out,
                                           int64_t stride) {
  int64_t k = 0;
  for (; k + 4 <= count; k += 4, out += 4 * stride) {
    const VecF r0 = load_quads(rows, 0, k), r1 = load_quads(rows, 1, k);
    const VecF r2 = load_quads(rows, 2, k), r3 = load_quads(rows, 3, k);
    const VecF a = low_words(r0, r1), b = high_words(r0, r1);
    const VecF c = low_words(r2, r3), d = high_words(r2, r3);
    store(out, low_doubles(a, c));
    store(out + stride, high_doubles(a, c));
    store(out + 2 * stride, low_doubles(b, d));
    store(out + 3 * stride, high_doubles(b, d));
  }
  for (; k < count; ++k, out += stride)
    for (int j = 0; j < kLanes; ++j) std::memcpy(out + j, rows[j] + k, sizeof(float));
}

// out[i, 0 .. count) = in[i, 0 .. count) as float32.
template <class T>
SEQLOOM_ALWAYS_INLINE void widen_row(const T* in, int64_t count, float* out) {
  int64_t j = 0;
  for (; j + kLanes <= count; j += kLanes) store(out + j, load(in + j));
  if (j < count) {
    const int live = static_cast<int>(count - j);
    store(out + j, load(in + j, live), live);
  }
}

// One float32 panel of B[k, n] stored by rows: columns [0, live) of `width`, rows [0, k).
template <class T>
SEQLOOM_ALWAYS_INLINE void pack_panel_by_rows(const T* b, int64_t ldb, int64_t k, int64_t live,
                                              int64_t width, float* out) {
  for (int64_t p = 0; p < k; ++p, b += ldb, out += width) {
    __builtin_prefetch(b + 8 * ldb);
    for (int64_t j = 0; j < width; j += kLanes)
      store(out + j, load(b + j, static_cast<int>(min<int64_t>(live - j, kLanes))));
  }
}

// The same for B stored by columns, [n, k].
SEQLOOM_ALWAYS_INLINE void pack_panel_by_columns(const float* b, int64_t ldb, int64_t k,
                                                 int64_t live, int64_t width, float* out) {
  for (int64_t j0 = 0; j0 < width; j0 += kLanes) {
    const float* rows[kLanes];
    for (int j = 0; j < kLanes; ++j) {
      const int64_t column = j0 + j < live ? j0 + j : live - 1;
      rows[j] = b + column * ldb;
    }
    transpose_words(rows, k, out + j0, width);
  }
}

// 16-bit columns: widen 64 rows of kLanes columns at a time, then transpose.
template <class T>
SEQLOOM_ALWAYS_INLINE void pack_panel_by_columns(const T* b, int64_t ldb, int64_t k, int64_t live,
                                                 int64_t width, float* out) {
  constexpr int64_t kRun = 64;
  float wide[kLanes][kRun];
  for (int64_t j0 = 0; j0 < width; j0 += kLanes)
    for (int64_t p = 0; p < k; p += kRun) {
      const int64_t run = k - p < kRun ? k - p : kRun;
      const float* rows[kLanes];
      for (int j = 0; j < kLanes; ++j) {
        const int64_t column = j0 + j < live ? j0 + j : live - 1;
        widen_row(b + column * ldb + p, run, wide[j]);
        rows[j] = wide[j];
      }
      transpose_words(rows, run, out + p * width + j0, width);
    }
}

// bfloat16 pairs of B[k, n] stored by rows; an odd k is completed with zeros.
SEQLOOM_ALWAYS_INLINE void pack_pairs_by_rows(const bf16* b, int64_t ldb, int64_t k, int64_t live,
                                              int64_t width, uint32_t* out) {
  for (int64_t p = 0; p < k; p += 2, b += 2 * ldb, out += width) {
    const bool pair = p + 1 < k;
    int64_t j = 0;
#if defined(__AVX512F__)
    for (; j + kLanes <= live && pair; j += kLanes) {
      const auto* low = reinterpret_cast<const __m256i*>(b + j);
      const auto* high = reinterpret_cast<const __m256i*>(b + ldb + j);
      const __m512i x = _mm512_cvtepu16_epi32(_mm256_loadu_si256(low));
      const __m512i y = _mm512_cvtepu16_epi32(_mm256_loadu_si256(high));
      _mm512_storeu_si512(out + j, _mm512_or_si512(x, _mm512_slli_epi32(y, 16)));
    }
#endif
    for (; j < width; ++j) {
      const int64_t column = j < live ? j : live - 1;
      const uint32_t high = pair ? b[ldb + column].bits : 0u;
      out[j] = b[column].bits | high << 16;
    }
  }
}

// bfloat16 pairs of B stored by columns: consecutive k are already paired in memory.
SEQLOOM_ALWAYS_INLINE void pack_pairs_by_columns(const bf16* b, int64_t ldb, int64_t k,
                                                 int64_t live, int64_t width, uint32_t* out) {
  for (int64_t j0 = 0; j0 < width; j0 += kLanes) {
    const float* rows[kLanes];
    for (int j = 0; j < kLanes; ++j) {
      const int64_t column = j0 + j < live ? j0 + j : live - 1;
      rows[j] = reinterpret_cast<const float*>(b + column * ldb);
    }
    transpose_words(rows, k / 2, reinterpret_cast<float*>(out + j0), width);
    if (k % 2)
      for (int j = 0; j < kLanes; ++j)
        out[k / 2 * width + j0 + j] = reinterpret_cast<const bf16*>(rows[j])[k - 1].bits;
  }
}

// out[i * ld_out + p] = in[p * ld_in + i]: `rows` x `count` of a transposed A, widened.
template <class T>
SEQLOOM_ALWAYS_INLINE void transpose_rows(const T* in, int64_t ld_in, int64_t rows, int64_t count,
                                          float* out, int64_t ld_out) {
  constexpr int64_t kRun = 16;
  float wide[kLanes][kRun];
  for (int64_t p = 0; p < count; p += kLanes) {
    const int lines = static_cast<int>(count - p < kLanes ? count - p : kLanes);
    for (int64_t i = 0; i < rows; i += kRun) {
      const int64_t run = rows - i < kRun ? rows - i : kRun;
      if (lines == kLanes && run == kRun) {
        const float* from[kLanes];
        for (int j = 0; j < kLanes; ++j) {
          const T* line = in + (p + j) * ld_in + i;
          if constexpr (sizeof(T) == sizeof(float)) {
            from[j] = line;
          } else {
            widen_row(line, kRun, wide[j]);
            from[j] = wide[j];
          }
        }
        transpose_words(from, kRun, out + i * ld_out + p, ld_out);
      } else {
        for (int j = 0; j < lines; ++j)
          for (int64_t r = i; r < i + run; ++r)
            out[r * ld_out + p + j] = seqloom::to_float(in[(p + j) * ld_in + r]);
      }
    }
  }
}

// The same without widening: pairs of lines are interleaved into words, which are transposed.
SEQLOOM_ALWAYS_INLINE void transpose_rows(const bf16* in, int64_t ld_in, int64_t rows,
                                          int64_t count, bf16* out, int64_t ld_out) {
  constexpr int64_t kRun = 16;
  uint32_t words[kLanes][kRun];
  const float* from[kLanes];
  for (int j = 0; j < kLanes; ++j) from[j] = reinterpret_cast<const float*>(words[j]);
  for (int64_t p = 0; p < count; p += 2 * kLanes) {
    const int64_t lines = count - p < 2 * kLanes ? count - p : 2 * kLanes;
    for (int64_t i = 0; i < rows; i += kRun) {
      const int64_t run = rows - i < kRun ? rows - i : kRun;
      if (lines == 2 * kLanes && run == kRun) {
        for (int j = 0; j < kLanes; ++j)
          pack_pairs_by_rows(in + (p + 2 * j) * ld_in + i, ld_in, 2, kRun, kRun, words[j]);
        transpose_words(from, kRun, reinterpret_cast<float*>(out + i * ld_out + p), ld_out / 2);
      } else {
        for (int64_t j = p; j < p + lines; ++j)
          for (int64_t r = i; r < i + run; ++r) out[r * ld_out + j] = in[j * ld_in + r];
      }
    }
  }
}

}  // namespace seqloom::SEQLOOM_ISA_NS
