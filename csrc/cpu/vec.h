// SPDX-License-Identifier: Apache-2.0
// The vector types of the active instruction set. For kernel files (*_cpu.cpp) only.
//
// This header documents the interface; vec_generic.h is its plainest implementation, one lane rule
// a line, and vec_avx2.h, vec_avx512.h, vec_neon.h implement the same. Everything lives in
// seqloom::SEQLOOM_ISA_NS and is forced inline, so no symbol is shared between levels.
//
//   VecF   kLanes float32      Mask    one truth value per lane of VecF and VecI
//   VecI   kLanes int32        VecD    kLanes / 2 float64, with MaskD (vec_double.h)
//   kLanes 16 (AVX-512), 8 (AVX2), 4 (baseline, NEON)
//   Vec<T> the type that load(const T*) returns: VecD for double, VecF for float, bf16, f16, int8,
//   uint8
//
// Values        VecF::broadcast(x)  VecF::zero()  VecI::broadcast(i)  VecI::iota() = 0, 1, 2, ...
//
// Memory        no alignment needed anywhere; 0 <= n <= kLanes; partial forms touch n elements only
//   load(p)          VecF from float, bf16, f16, int8_t, uint8_t storage
//   load(p, n)       the first n lanes, the rest 0         load_or(p, n, fill)  the rest `fill`
//   store(p, v)      to float; to bf16, f16 rounding to nearest even (NaN stays NaN); to int8_t,
//   store(p, v, n)   uint8_t rounding to nearest even and saturating (NaN gives the lowest value)
//   load_int(p[, n]), store_int(p, v[, n])                 VecI, int32_t storage
//   load_mask(p, n)  lane < n and p[lane] != 0, uint8_t storage
//   gather(base, index)                                    base[index[lane]], float
//   stream(p, v)     store past the caches, p aligned to 4 * kLanes bytes; stream_fence()
//   afterwards prefetch(p)      into L1; prefetch_l2(p)
//
// Arithmetic    + - * / (IEEE), unary -
//   fma(a, b, c) = a b + c   fnma(a, b, c) = c - a b   fms(a, b, c) = a b - c
//                    one rounding where kFusedMultiplyAdd; the SSE2 baseline has no such
//                    instruction
//   min(a, b) = a < b ? a : b   max(a, b) = a > b ? a : b   so a NaN in a or b gives b
//   min_nan, max_nan            a NaN in a or b gives NaN
//   abs sqrt (IEEE)  rsqrt = 1 / sqrt(x), two roundings  copy_sign(magnitude, sign)
//   round (to nearest even)  floor  ceil  trunc
//
// Masks         a < b  <=  >  >=  ==  != (IEEE: false with NaN, != true)  is_nan(a)
//   m & n  m | n  ~m  any(m)  all(m)  bits(m) = bit per lane  first_n(n) = lanes below n
//   select(m, a, b) = m ? a : b, for VecF and VecI         zero_unless(m, a) = m ? a : 0
//
// Integers      + - * (low 32 bits) & | ^ ~  == > <  min max  select
//   shift_left(a, k)  shift_right(a, k) (arithmetic)  shift_right_logical(a, k)
//   mul_wide(a, b, &high, &low)    unsigned 32 x 32 -> 64
//   to_float(VecI)   round_to_int(VecF) (nearest even)   trunc_to_int(VecF); in range only
//   uint_to_float(VecI)            the lanes as uint32, rounded to nearest
//   as_int(VecF)  as_float(VecI)   the same bits
//
// Across lanes  lane i with lane i + w/2, then w/4, ..., 1: a fixed tree, whatever the values
//   reduce_add(v)  reduce_max(v)  reduce_min(v)  (max and min ignore NaN or return it: unspecified)
//   reduce_max_nan(v)              NaN if any lane is
//   get(v, i)                      one lane, slow
//   interleave(a, b, &lo, &hi)     lo = a0 b0 a1 b1 ..., hi = the second half
//   deinterleave(lo, hi, &a, &b)   its inverse
//   transpose(rows)                VecF rows[kLanes], in place
//
// vec_math.h adds exp, log, tanh, sigmoid, ...; vec_philox.h adds random numbers.
#pragma once

#if !defined(SEQLOOM_ISA_NS)
#error "cpu/vec.h is for files that are compiled once per instruction set"
#endif
#if !defined(__GNUC__)
#error "kernel files need GCC, Clang or clang-cl"
#endif

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "core/half.h"
#include "core/macros.h"

namespace seqloom::SEQLOOM_ISA_NS {

// std::min and std::max would be shared between levels where they are not inlined.
template <class T>
SEQLOOM_ALWAYS_INLINE constexpr T min(T a, T b) {
  return a < b ? a : b;
}
template <class T>
SEQLOOM_ALWAYS_INLINE constexpr T max(T a, T b) {
  return a > b ? a : b;
}

}  // namespace seqloom::SEQLOOM_ISA_NS

#include "cpu/vec_partial.h"

#if defined(__AVX512F__)
#include "cpu/vec_avx512.h"
#elif defined(__AVX2__)
#include "cpu/vec_avx2.h"
#elif defined(__aarch64__)
#include "cpu/vec_neon.h"
#else
#include "cpu/vec_generic.h"
#endif

#include "cpu/vec_double.h"

namespace seqloom::SEQLOOM_ISA_NS {

// The rest is the same everywhere.

SEQLOOM_ALWAYS_INLINE VecF load_or(const float* p, int n, VecF fill) {
  return select(first_n(n), load(p, n), fill);
}
SEQLOOM_ALWAYS_INLINE VecF load_or(const bf16* p, int n, VecF fill) {
  return select(first_n(n), load(p, n), fill);
}
SEQLOOM_ALWAYS_INLINE VecF load_or(const f16* p, int n, VecF fill) {
  return select(first_n(n), load(p, n), fill);
}

SEQLOOM_ALWAYS_INLINE VecF fms(VecF a, VecF b, VecF c) { return fma(a, b, -c); }

SEQLOOM_ALWAYS_INLINE VecF rsqrt(VecF x) { return VecF::broadcast(1.0f) / sqrt(x); }

SEQLOOM_ALWAYS_INLINE Mask is_nan(VecF x) { return x != x; }

SEQLOOM_ALWAYS_INLINE VecF min_nan(VecF a, VecF b) { return select(is_nan(a), a, min(a, b)); }
SEQLOOM_ALWAYS_INLINE VecF max_nan(VecF a, VecF b) { return select(is_nan(a), a, max(a, b)); }

SEQLOOM_ALWAYS_INLINE VecF& operator+=(VecF& a, VecF b) { return a = a + b; }
SEQLOOM_ALWAYS_INLINE VecF& operator-=(VecF& a, VecF b) { return a = a - b; }
SEQLOOM_ALWAYS_INLINE VecF& operator*=(VecF& a, VecF b) { return a = a * b; }
SEQLOOM_ALWAYS_INLINE VecF& operator/=(VecF& a, VecF b) { return a = a / b; }
SEQLOOM_ALWAYS_INLINE VecI& operator+=(VecI& a, VecI b) { return a = a + b; }

SEQLOOM_ALWAYS_INLINE VecF copy_sign(VecF magnitude, VecF sign) {
  const VecI top = VecI::broadcast(static_cast<int32_t>(0x80000000u));
  return as_float(select_bits(top, as_int(sign), as_int(magnitude)));
}

SEQLOOM_ALWAYS_INLINE float reduce_max_nan(VecF v) {
  return any(is_nan(v)) ? __builtin_nanf("") : reduce_max(v);
}

SEQLOOM_ALWAYS_INLINE float get(VecF v, int lane) {
  float lanes[kLanes];
  store(lanes, v);
  return lanes[lane];
}

SEQLOOM_ALWAYS_INLINE void prefetch(const void* p) { __builtin_prefetch(p, 0, 3); }
SEQLOOM_ALWAYS_INLINE void prefetch_l2(const void* p) { __builtin_prefetch(p, 0, 2); }

template <class T>
struct VecOf {
  using Type = VecF;
};
template <>
struct VecOf<double> {
  using Type = VecD;
};
template <class T>
using Vec = typename VecOf<T>::Type;

}  // namespace seqloom::SEQLOOM_ISA_NS
