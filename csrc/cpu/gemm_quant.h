// SPDX-License-Identifier: Apache-2.0
// Weights in 8 and 4 bits.
//
//   kInt8   w[p, j] = scale[j] q[p, j],  q in -127 .. 127; a word holds q of four consecutive k
//   kInt4   w[p, j] = scale[g, j] q[p, j] + min[g, j],  q in 0 .. 15, g = p / group;
//           a word holds eight consecutive k: byte b has k = b in its low, k = 4 + b in its high
//           half
//
// Without quantize_a a block of B is widened to float32 panels where it would have been packed.
// With it each row of A becomes 8-bit integers and one scale, and the words go straight into dot
// products: exact integer sums over all of k (kInt8) or over each group (kInt4).
// Included by ISA files only.
#pragma once

#include "cpu/gemm_epilogue.h"
#include "cpu/gemm_kernel.h"
#include "cpu/parallel.h"
#include "cpu/scratch.h"

namespace seqloom::SEQLOOM_ISA_NS {

using cpu::PackedMatrix;

// Words of B, four or eight k each: types of their own, so that kernels are chosen by type.
struct Quad8 {
  uint32_t bits;
};

template <>
struct Step<uint8_t, Quad8> {
  static constexpr int kK = 4;
};

// Where the parts of a quantized matrix lie behind each other.
struct QuantLayout {
  int64_t columns, words, groups;  // words: a column's
  SEQLOOM_ALWAYS_INLINE QuantLayout(PackFormat format, int64_t k, int64_t n, int64_t group)
      : columns(padded_columns(n)),
        words(ceil_div(k, format == PackFormat::kInt8 ? 4 : 8)),
        groups(format == PackFormat::kInt8 ? 1 : ceil_div(k, group)) {}
  SEQLOOM_ALWAYS_INLINE size_t scales_at() const { return columns * words * 4; }
  SEQLOOM_ALWAYS_INLINE size_t extra_at() const { return scales_at() + columns * groups * 4; }
  SEQLOOM_ALWAYS_INLINE size_t bytes() const { return extra_at() + columns * groups * 4; }
};

// -- ahead of time -------------------------------------------------------------------------------

struct ColumnReader {
  const Source& s;
  int64_t j;
  SEQLOOM_ALWAYS_INLINE float operator()(int64_t p) const {
    return load_element(s.b, s.type, s.trans ? j * s.ldb + p : p * s.ldb + j);
  }
};

SEQLOOM_ALWAYS_INLINE int round_clamped(float x, int low, int high) {
  const float r = __builtin_rintf(x);
  return r >= static_cast<float>(high) ? high
         : r > static_cast<float>(low) ? static_cast<int>(r)
                                       : low;
}

// Column c of a panel of width w into words[], its scale and its sum.
static SEQLOOM_NOINLINE void quantize_column_int8(const ColumnReader& column, int64_t k,
                                                  uint32_t* words, int64_t w, float* scale,
                                                  int32_t* sum) {
  float largest = 0.0f;
  for (int64_t p = 0; p < k; ++p) {
    const float x = __builtin_fabsf(column(p));
    largest = x > largest || x != x ? x : largest;
  }
  *scale = largest / 127.0f;
  const float inverse = largest > 0.0f ? 127.0f / largest : 0.0f;
  *sum = 0;
  for (int64_t p = 0; p < k; p += 4) {
    uint32_t word = 0;
    for (int64_t q = p; q < min(p + 4, k); ++q) {
      const int x = round_clamped(column(q) * inverse, -127, 127);
      word |= static_cast<uint32_t>(x & 0xff) << 8 * (q - p);
      *sum += x;
    }
    words[p / 4 * w] = word;
  }
}

// The scales and minima of its groups are `stride` apart.
static SEQLOOM_NOINLINE void quantize_column_int4(const ColumnReader& column, int64_t k,
                                                  int64_t group, uint32_t* words, int64_t w,
                                                  float* scales, float* mins, int64_t stride) {
  for (int64_t g = 0; g * group < k; ++g) {
    const int64_t begin = g * group, end = min(begin + group, k);
    float low = column(begin), high = low;
    for (int64_t p = begin; p < end; ++p) {
      const float x = column(p);
      low = x < low ? x : low;
      high = x > high ? x : high;
    }
    const float scale = (high - low) / 15.0f, inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
    scales[g * stride] = scale;
    mins[g * stride] = low;
    for (int64_t p = begin; p < end; p += 8) {
      uint32_t word = 0;
      for (int64_t q = p; q < min(p + 8, end); ++q) {
        const int64_t b = q - p;
        const int x = round_clamped((column(q) - low) * inverse, 0, 15);
        word |= static_cast<uint32_t>(x) << (b < 4 ? 8 * b : 8 * (b - 4) + 4);
      }
      words[p / 8 * w] = word;
    }
  }
}

// -- widening ------------------------------------------------------------------------------------

// Rows [k0, k0 + k) of panel [j, j + w) as float32; k0 is a multiple of 8.
static SEQLOOM_NOINLINE void widen_panel(const PackedMatrix& b, int64_t k0, int64_t k, int64_t j,
                                         int64_t w, float* out) {
  const QuantLayout layout(b.format, b.k, b.n, b.group);
  const uint32_t* words = static_cast<const uint32_t*>(b.panels) + j * layout.words;
  for (int64_t c = 0; c < w; c += kLanes) {
    if (b.format == PackFormat::kInt8) {
      const VecF scale = load(b.scales + j + c);
      for (int64_t p = 0; p < k; p += 4) {
        const VecI word = load_words(words + (k0 + p) / 4 * w + c);
        const int64_t rows = min<int64_t>(4, k - p);
        for (int64_t q = 0; q < rows; ++q)
          store(out + (p + q) * w + c,
                scale * to_float(shift_right(shift_left(word, static_cast<int>(24 - 8 * q)), 24)));
      }
      continue;
    }
    const VecI nibble = VecI::broadcast(15);
    for (int64_t p = 0; p < k; p += 8) {
      const int64_t at = (k0 + p) / b.group * layout.columns + j + c;
      const VecF scale = load(b.scales + at), low = load(b.mins + at);
      const VecI word = load_words(words + (k0 + p) / 8 * w + c);
      const int64_t rows = min<int64_t>(8, k - p);
      for (int64_t q = 0; q < rows; ++q) {
        const int bit = static_cast<int>(q < 4 ? 8 * q : 8 * (q - 4) + 4);
        store(out + (p + q) * w + c, fma(scale, to_float(shift_right(word, bit) & nibble), low));
      }
    }
  }
}

// -- integer products ----------------------------------------------------------------------------

#if defined(__AVX512VNNI__)

// Rows of A in 8 bits: as unsigned bytes q + 128 for kInt8, as signed bytes q for kInt4, whose
// groups' sums go to sums[row, group]. a[i, p] = scales[i] q[i, p].
class QuantizedRows {
 public:
  QuantizedRows(const PackedMatrix& b, int64_t rows, int64_t k, const float* a, int64_t lda)
      : ld_((ceil_div(k, 64) | 1) * 64),
        groups_(b.format == PackFormat::kInt4 ? ceil_div(k, b.group) : 0),
        scratch_(rows * (ld_ + 4 + 4 * groups_)) {
    bytes_ = scratch_.as<uint8_t>();
    scales_ = reinterpret_cast<float*>(bytes_ + rows * ld_);
    sums_ = scales_ + rows;
    const int64_t grain = ceil_div(1 << 14, max<int64_t>(1, k));
    cpu::parallel_for(rows, grain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) quantize(b, k, a + i * lda, i);
    });
  }
  const uint8_t* bytes() const { return bytes_; }
  int64_t ld() const { return ld_; }
  const float* scales() const { return scales_; }
  const float* sums() const { return sums_; }
  int64_t groups() const { return groups_; }

 private:
  void quantize(const PackedMatrix& b, int64_t k, const float* a, int64_t row) {
    VecF largest = VecF::zero();
    for (int64_t p = 0; p < k; p += kLanes)
      largest = max_nan(largest, abs(load(a + p, static_cast<int>(min<int64_t>(kLanes, k - p)))));
    const float top = reduce_max_nan(largest);
    scales_[row] = top / 127.0f;
    const VecF inverse = VecF::broadcast(top > 0.0f ? 127.0f / top : 0.0f);
    uint8_t* out = bytes_ + row * ld_;
    const VecF offset = VecF::broadcast(groups_ ? 0.0f : 128.0f);
    for (int64_t p = 0; p < ld_; p += kLanes) {
      const int n = static_cast<int>(max<int64_t>(0, min<int64_t>(kLanes, k - p)));
      const VecF x = round(load(a + p, n) * inverse);
      if (groups_) {
        store(reinterpret_cast<int8_t*>(out) + p, x);
      } else {
        store(out + p, x + offset);
      }
    }
    for (int64_t g = 0; g < groups_; ++g) {
      int sum = 0;
      for (int64_t p = g * b.group; p < min((g + 1) * b.group, k); ++p)
        sum += reinterpret_cast<int8_t*>(out)[p];
      sums_[row * groups_ + g] = static_cast<float>(sum);
    }
  }

  int64_t ld_, groups_;
  cpu::Scratch scratch_;
  uint8_t* bytes_;
  float* scales_;
  float* sums_;
};

// What becomes of a tile's integer sums: c = (row scale * sum) * column scale + bias, or the sums
// as float where there is no `rows`; finish_tile goes on with those.
struct IntegerEpilogue {
  const float* rows;     // scales of A's rows, or null
  const float* columns;  // scales of B's columns
  const float* bias;     // of columns, or null
};

// c[i, j] = sum over k of (a[i, k] - 128) b[k, j]: the sums start at -128 times b's.
template <int MR, int NV>
SEQLOOM_ALWAYS_INLINE void micro_kernel_int8(int64_t k, const uint8_t* a, int64_t lda,
                                             const Quad8* b, int64_t ldb, Ahead ahead,
                                             const int32_t* b_sums, const IntegerEpilogue& e,
                                             float* c, int64_t ldc, int last) {
  VecI acc[MR][NV];
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) __builtin_prefetch(c + i * ldc + j * kLanes, 1);
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j)
      acc[i][j] = shift_left(VecI::zero() - load_int(b_sums + j * kLanes), 7);
  const int64_t rows = ceil_div(k, 4);
#pragma GCC unroll 4
  for (int64_t p = 0; p < rows; ++p, a += 4, b += ldb, ahead.at += ahead.step) {
    VecI row[NV];
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) row[j] = load_words(b + j * kLanes);
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) __builtin_prefetch(ahead.at + 64 * j);
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) {
      int32_t quad;
      std::memcpy(&quad, a + i * lda, sizeof quad);
      const VecI x = VecI::broadcast(quad);
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) acc[i][j] = {_mm512_dpbusd_epi32(acc[i][j].v, x.v, row[j].v)};
    }
  }
#pragma GCC unroll 4
  for (int j = 0; j < NV; ++j) {
    const int live = j == NV - 1 ? last : kLanes;
    VecF scale = VecF::zero(), bias = scale;
    if (e.rows) scale = load(e.columns + j * kLanes, live);
    if (e.bias) bias = load(e.bias + j * kLanes, live);
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) {
      VecF x = to_float(acc[i][j]);
      if (e.rows) x = scale * (VecF::broadcast(e.rows[i]) * x);
      if (e.bias) x = x + bias;
      store(c + i * ldc + j * kLanes, x, live);
    }
  }
}

// c[i, j] = sum over groups of scale[g, j] (sum of a q) + min[g, j] (sum of a), a in signed bytes.
template <int MR, int NV>
static SEQLOOM_NOINLINE void micro_kernel_int4(const PackedMatrix& b, int64_t j, int64_t w,
                                               const uint8_t* a, int64_t lda, const float* a_sums,
                                               int64_t groups, float* c) {
  const QuantLayout layout(b.format, b.k, b.n, b.group);
  const uint32_t* words = static_cast<const uint32_t*>(b.panels) + j * layout.words;
  const VecI nibbles = VecI::broadcast(0x0f0f0f0f);
  Tile<MR, NV> acc;
  tile_zero(acc);
  for (int64_t g = 0; g < groups; ++g) {
    VecI sum[MR][NV];
#pragma GCC unroll 4
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) sum[i][v] = VecI::zero();
    const int64_t end = min((g + 1) * b.group, b.k);
    for (int64_t p = g * b.group; p < end; p += 8, words += w) {
      VecI low[NV], high[NV];
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) {
        const VecI word = load_words(words + v * kLanes);
        __builtin_prefetch(words + kPrefetchRows * w + v * kLanes);
        low[v] = word & nibbles;
        high[v] = shift_right(word, 4) & nibbles;
      }
#pragma GCC unroll 4
      for (int i = 0; i < MR; ++i) {
        int32_t quads[2];
        std::memcpy(quads, a + i * lda + p, sizeof quads);
        const VecI x = VecI::broadcast(quads[0]), y = VecI::broadcast(quads[1]);
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v) {
          sum[i][v] = {_mm512_dpbusd_epi32(sum[i][v].v, low[v].v, x.v)};
          sum[i][v] = {_mm512_dpbusd_epi32(sum[i][v].v, high[v].v, y.v)};
        }
      }
    }
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) {
      const int64_t at = g * layout.columns + j + v * kLanes;
      const VecF scale = load(b.scales + at), least = load(b.mins + at);
#pragma GCC unroll 4
      for (int i = 0; i < MR; ++i) {
        acc.v[i][v] = fma(scale, to_float(sum[i][v]), acc.v[i][v]);
        acc.v[i][v] = fma(least, VecF::broadcast(a_sums[i * groups + g]), acc.v[i][v]);
      }
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) store(c + i * kNR + v * kLanes, acc.v[i][v]);
}

template <int MR>
SEQLOOM_ALWAYS_INLINE void run_int4_tile(const PackedMatrix& b, int64_t j, int64_t w,
                                         const uint8_t* a, int64_t lda, const float* a_sums,
                                         int64_t groups, float* c) {
  switch (w / kLanes) {
    case 3:
      return micro_kernel_int4<MR, 3>(b, j, w, a, lda, a_sums, groups, c);
    case 2:
      return micro_kernel_int4<MR, 2>(b, j, w, a, lda, a_sums, groups, c);
    default:
      return micro_kernel_int4<MR, 1>(b, j, w, a, lda, a_sums, groups, c);
  }
}

// One product (no batch) with a kInt4 B; a task is one panel by up to 64 rows.
static SEQLOOM_NOINLINE void run_int4(const GemmArgs& g, int64_t batch, const QuantizedRows& a) {
  const PackedMatrix& b = *g.packed_b;
  const PanelMap map = panel_map(b.format, g.n);
  constexpr int64_t kRows = 64;
  const int64_t row_blocks = ceil_div(g.m, kRows);
  const int64_t work = min(g.m, kRows) * kNR * max<int64_t>(1, g.k);
  const auto run = [&](int64_t begin, int64_t end) {
    alignas(64) float sums[4 * kNR];
    for (int64_t t = begin; t < end; ++t) {
      const int64_t p = t / row_blocks, j = map.begin(p), w = map.width(p);
      const int64_t i1 = min(g.m, (t % row_blocks + 1) * kRows);
      for (int64_t i = t % row_blocks * kRows; i < i1; i += 4) {
        const int64_t rows = min<int64_t>(4, i1 - i);
        const uint8_t* line = a.bytes() + i * a.ld();
        const float* line_sums = a.sums() + i * a.groups();
        const int64_t n = a.groups();
        if (rows == 1) run_int4_tile<1>(b, j, w, line, a.ld(), line_sums, n, sums);
        if (rows == 2) run_int4_tile<2>(b, j, w, line, a.ld(), line_sums, n, sums);
        if (rows == 3) run_int4_tile<3>(b, j, w, line, a.ld(), line_sums, n, sums);
        if (rows == 4) run_int4_tile<4>(b, j, w, line, a.ld(), line_sums, n, sums);
        finish_tile(g, batch, i, rows, j, min(w, g.n - j), sums, kNR, a.scales() + i, nullptr);
      }
    }
  };
  cpu::parallel_for(map.panels * row_blocks, ceil_div(1 << 17, work), run);
}

#endif

}  // namespace seqloom::SEQLOOM_ISA_NS
