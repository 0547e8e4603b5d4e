// SPDX-License-Identifier: Apache-2.0
// Products whose two operands both run along k: C[i, j] = sum over k of A[i, k] * B[j, k].
//
// For few rows (or few columns) packing B would cost more than the product, so both operands are
// read in place, kLanes elements of k at a time, in 4 x 4 tiles of vector accumulators that are
// summed across lanes at the end. An element's bits depend on k only. Included by ISA files only.
//
// A cold B is bound by memory alone, and four lines side by side reach 83 % of a core's bandwidth
// where four runs of lines, far apart and each read end to end, reach all of it: dot_streams.
#pragma once

#include "cpu/gemm_pack.h"

namespace seqloom::SEQLOOM_ISA_NS {

// The lane sums of four vectors.
SEQLOOM_ALWAYS_INLINE void sum_lanes(const VecF& a, const VecF& b, const VecF& c, const VecF& d,
                                     float* out) {
  const VecF ab = low_words(a, b) + high_words(a, b);
  const VecF cd = low_words(c, d) + high_words(c, d);
  const VecF x = low_doubles(ab, cd) + high_doubles(ab, cd);  // each 128-bit lane: sums of a b c d
#if defined(__AVX512F__)
  const __m256 y = _mm256_add_ps(_mm512_castps512_ps256(x.v), _mm512_extractf32x8_ps(x.v, 1));
  _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1)));
#elif defined(__AVX2__)
  _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(x.v), _mm256_extractf128_ps(x.v, 1)));
#else
  store(out, x);
#endif
}

template <class T>
struct DotLoad {
  static constexpr int kK = kLanes;
  using V = VecF;
  static SEQLOOM_ALWAYS_INLINE V load(const T* p) { return seqloom::SEQLOOM_ISA_NS::load(p); }
  static SEQLOOM_ALWAYS_INLINE V load(const T* p, int64_t live) {
    return seqloom::SEQLOOM_ISA_NS::load(p, static_cast<int>(live));
  }
};

template <class TA, class TB>
struct DotStep {
  using LA = DotLoad<TA>;
  using LB = DotLoad<TB>;
  static SEQLOOM_ALWAYS_INLINE VecF madd(VecF a, VecF b, VecF c) { return fma(a, b, c); }
};

#if defined(__AVX512BF16__)
struct DotLoadPairs {
  static constexpr int kK = 2 * kLanes;
  using V = VecI;
  static SEQLOOM_ALWAYS_INLINE V load(const bf16* p) { return load_words(p); }
  static SEQLOOM_ALWAYS_INLINE V load(const bf16* p, int64_t live) {
    return {_mm512_maskz_loadu_epi16(static_cast<__mmask32>((uint64_t{1} << live) - 1), p)};
  }
};
template <>
struct DotStep<bf16, bf16> {
  using LA = DotLoadPairs;
  using LB = DotLoadPairs;
  static SEQLOOM_ALWAYS_INLINE VecF madd(VecI a, VecI b, VecF c) {
    return {_mm512_dpbf16_ps(c.v, (__m512bh)a.v, (__m512bh)b.v)};
  }
};
#endif

// What a tile fetches ahead: 1 KB on in each line, or in the one that follows it, `next` elements
// further on.
struct FetchLines {
  int64_t next;
  template <class TB>
  SEQLOOM_ALWAYS_INLINE void operator()(const TB* line, int64_t p, int64_t k) const {
    constexpr int64_t kAhead = 1024 / sizeof(TB);
    __builtin_prefetch(line + (p + kAhead < k ? p + kAhead : p + kAhead - k + next));
  }
};

// out[i * ld_out + j], i < MA, j < 4.
template <int MA, class TA, class TB, class Fetch>
SEQLOOM_ALWAYS_INLINE void dot_tile(int64_t k, const TA* a, int64_t lda, const TB* const* b,
                                    Fetch fetch, float* out, int64_t ld_out) {
  using S = DotStep<TA, TB>;
  constexpr int kK = S::LA::kK;
  VecF acc[MA][4];
#pragma GCC unroll 4
  for (int i = 0; i < MA; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) acc[i][j] = VecF::zero();
  int64_t p = 0;
  for (; p + kK <= k; p += kK) {
    typename S::LA::V x[MA];
#pragma GCC unroll 4
    for (int i = 0; i < MA; ++i) x[i] = S::LA::load(a + i * lda + p);
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const auto y = S::LB::load(b[j] + p);
      fetch(b[j], p, k);
#pragma GCC unroll 4
      for (int i = 0; i < MA; ++i) acc[i][j] = S::madd(x[i], y, acc[i][j]);
    }
  }
  if (p < k) {
    typename S::LA::V x[MA];
#pragma GCC unroll 4
    for (int i = 0; i < MA; ++i) x[i] = S::LA::load(a + i * lda + p, k - p);
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const auto y = S::LB::load(b[j] + p, k - p);
#pragma GCC unroll 4
      for (int i = 0; i < MA; ++i) acc[i][j] = S::madd(x[i], y, acc[i][j]);
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < MA; ++i)
    sum_lanes(acc[i][0], acc[i][1], acc[i][2], acc[i][3], out + i * ld_out);
}

// out[i * ld_out + j] for i < rows, j < columns; `out` has room for a multiple of four columns.
template <class TA, class TB, class Fetch>
SEQLOOM_ALWAYS_INLINE void dot_block(int64_t rows, int64_t columns, int64_t k, const TA* a,
                                     int64_t lda, const TB* b, int64_t ldb, Fetch fetch, float* out,
                                     int64_t ld_out) {
  for (int64_t j = 0; j < columns; j += 4) {
    const TB* lines[4];
    for (int64_t q = 0; q < 4; ++q) lines[q] = b + (j + q < columns ? j + q : columns - 1) * ldb;
    int64_t i = 0;
    for (; i + 4 <= rows; i += 4)
      dot_tile<4>(k, a + i * lda, lda, lines, fetch, out + i * ld_out + j, ld_out);
    if (rows - i == 3) dot_tile<3>(k, a + i * lda, lda, lines, fetch, out + i * ld_out + j, ld_out);
    if (rows - i == 2) dot_tile<2>(k, a + i * lda, lda, lines, fetch, out + i * ld_out + j, ld_out);
    if (rows - i == 1) dot_tile<1>(k, a + i * lda, lda, lines, fetch, out + i * ld_out + j, ld_out);
  }
}

// The same in four streams: the columns are cut into four runs, and lines j of all runs are one
// tile. `out` has room for `columns` columns.
template <class TA, class TB>
SEQLOOM_ALWAYS_INLINE void dot_streams(int64_t rows, int64_t columns, int64_t k, const TA* a,
                                       int64_t lda, const TB* b, int64_t ldb, float* out,
                                       int64_t ld_out) {
  const int64_t run = ceil_div(columns, 4);
  for (int64_t j = 0; j < run; ++j) {
    const TB* lines[4];
    for (int64_t q = 0; q < 4; ++q) lines[q] = b + min(q * run + j, columns - 1) * ldb;
    for (int64_t i = 0; i < rows; i += 4) {
      float part[4][4];
      const int64_t live = min<int64_t>(4, rows - i);
      const TA* x = a + i * lda;
      if (live == 4) dot_tile<4>(k, x, lda, lines, FetchLines{ldb}, part[0], 4);
      if (live == 3) dot_tile<3>(k, x, lda, lines, FetchLines{ldb}, part[0], 4);
      if (live == 2) dot_tile<2>(k, x, lda, lines, FetchLines{ldb}, part[0], 4);
      if (live == 1) dot_tile<1>(k, x, lda, lines, FetchLines{ldb}, part[0], 4);
      for (int64_t r = 0; r < live; ++r)
        for (int64_t q = 0; q < 4 && q * run + j < columns; ++q)
          out[(i + r) * ld_out + q * run + j] = part[r][q];
    }
  }
}

}  // namespace seqloom::SEQLOOM_ISA_NS
