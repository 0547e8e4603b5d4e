// SPDX-License-Identifier: Apache-2.0
// What the matrix product needs beyond vec.h: the shape of its register tile, the two halves of
// packed bfloat16 pairs, and transpositions inside 128-bit lanes.
// Included by ISA files only.
#pragma once

#include "cpu/vec.h"

namespace seqloom::SEQLOOM_ISA_NS {

// kMR rows by kNV vectors of C: accumulators, one row of B and one broadcast element of A fill the
// 32 registers of AVX-512 and NEON or the 16 of AVX2 and SSE.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kMR = 8, kNV = 3;
#else
constexpr int kMR = 6, kNV = 2;
#endif

constexpr int kNR = kNV * kLanes;  // widest panel, in columns

SEQLOOM_ALWAYS_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// 32 bits of any meaning in each lane.
SEQLOOM_ALWAYS_INLINE VecI load_words(const void* p) {
  return load_int(static_cast<const int32_t*>(p));
}

// Words that hold two bfloat16: the first is the low half.
SEQLOOM_ALWAYS_INLINE VecF low_bf16(VecI pairs) { return as_float(shift_left(pairs, 16)); }
SEQLOOM_ALWAYS_INLINE VecF high_bf16(VecI pairs) {
  return as_float(pairs & VecI::broadcast(-65536));
}

// Lane group l (128 bits) of the result is rows[4 l + r][k .. k + 3].
// low_words(a, b) = a0 b0 a1 b1, high_words = a2 b2 a3 b3, low_doubles = a0 a1 b0 b1,
// high_doubles = a2 a3 b2 b3 in every lane group.
#if defined(__AVX512F__)
SEQLOOM_ALWAYS_INLINE VecF load_quads(const float* const* rows, int r, int64_t k) {
  __m512 x = _mm512_castps128_ps512(_mm_loadu_ps(rows[r] + k));
  x = _mm512_insertf32x4(x, _mm_loadu_ps(rows[4 + r] + k), 1);
  x = _mm512_insertf32x4(x, _mm_loadu_ps(rows[8 + r] + k), 2);
  return {_mm512_insertf32x4(x, _mm_loadu_ps(rows[12 + r] + k), 3)};
}
SEQLOOM_ALWAYS_INLINE VecF low_words(VecF a, VecF b) { return {_mm512_unpacklo_ps(a.v, b.v)}; }
SEQLOOM_ALWAYS_INLINE VecF high_words(VecF a, VecF b) { return {_mm512_unpackhi_ps(a.v, b.v)}; }
SEQLOOM_ALWAYS_INLINE VecF low_doubles(VecF a, VecF b) {
  return {_mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a.v), _mm512_castps_pd(b.v)))};
}
SEQLOOM_ALWAYS_INLINE VecF high_doubles(VecF a, VecF b) {
  return {_mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a.v), _mm512_castps_pd(b.v)))};
}
#elif defined(__AVX2__)
SEQLOOM_ALWAYS_INLINE VecF load_quads(const float* const* rows, int r, int64_t k) {
  const __m256 x = _mm256_castps128_ps256(_mm_loadu_ps(rows[r] + k));
  return {_mm256_insertf128_ps(x, _mm_loadu_ps(rows[4 + r] + k), 1)};
}
SEQLOOM_ALWAYS_INLINE VecF low_words(VecF a, VecF b) { return {_mm256_unpacklo_ps(a.v, b.v)}; }
SEQLOOM_ALWAYS_INLINE VecF high_words(VecF a, VecF b) { return {_mm256_unpackhi_ps(a.v, b.v)}; }
SEQLOOM_ALWAYS_INLINE VecF low_doubles(VecF a, VecF b) {
  return {_mm256_castpd_ps(_mm256_unpacklo_pd(_mm256_castps_pd(a.v), _mm256_castps_pd(b.v)))};
}
SEQLOOM_ALWAYS_INLINE VecF high_doubles(VecF a, VecF b) {
  return {_mm256_castpd_ps(_mm256_unpackhi_pd(_mm256_castps_pd(a.v), _mm256_castps_pd(b.v)))};
}
#else
SEQLOOM_ALWAYS_INLINE VecF load_quads(const float* const* rows, int r, int64_t k) {
  return load(rows[r] + k);
}
SEQLOOM_ALWAYS_INLINE VecF low_words(VecF a, VecF b) {
  return {__builtin_shufflevector(a.v, b.v, 0, 4, 1, 5)};
}
SEQLOOM_ALWAYS_INLINE VecF high_words(VecF a, VecF b) {
  return {__builtin_shufflevector(a.v, b.v, 2, 6, 3, 7)};
}
SEQLOOM_ALWAYS_INLINE VecF low_doubles(VecF a, VecF b) {
  return {__builtin_shufflevector(a.v, b.v, 0, 1, 4, 5)};
}
SEQLOOM_ALWAYS_INLINE VecF high_doubles(VecF a, VecF b) {
  return {__builtin_shufflevector(a.v, b.v, 2, 3, 6, 7)};
}
#endif

}  // namespace seqloom::SEQLOOM_ISA_NS
