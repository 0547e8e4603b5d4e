// SPDX-License-Identifier: Apache-2.0
// Device mathematics that host headers lack. Approximate functions are computed accurately: tests
// must not take their tolerances from here. Included by emulation/device.h.
#pragma once

// glibc declares some of these names itself, hence function-like macros.
#define __expf(x) (::expf(x))
#define __exp10f(x) (::exp2f((x) * 3.3219280949f))
#define __logf(x) (::logf(x))
#define __log2f(x) (::log2f(x))
#define __log10f(x) (::log10f(x))
#define __powf(x, y) (::exp2f((y) * ::log2f(x)))  // NaN for a negative x, unlike powf
#define __sinf(x) (::sinf(x))
#define __cosf(x) (::cosf(x))
#define __sincosf(x, s, c) (*(s) = ::sinf(x), *(c) = ::cosf(x))

inline float rsqrtf(float x) { return static_cast<float>(1.0 / std::sqrt(static_cast<double>(x))); }
inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline float __frsqrt_rn(float x) { return rsqrtf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __saturatef(float a) { return a > 0.f ? (a < 1.f ? a : 1.f) : 0.f; }  // NaN -> 0
inline float normcdff(float x) { return 0.5f * std::erfc(-x * 0.70710678118654752f); }

inline int __float_as_int(float f) {
  return ::seqloom::emulation::from_bits<int>(::seqloom::emulation::to_bits(f));
}
inline unsigned __float_as_uint(float f) {
  return ::seqloom::emulation::from_bits<unsigned>(::seqloom::emulation::to_bits(f));
}
inline float __int_as_float(int i) {
  return ::seqloom::emulation::from_bits<float>(::seqloom::emulation::to_bits(i));
}
inline float __uint_as_float(unsigned i) {
  return ::seqloom::emulation::from_bits<float>(::seqloom::emulation::to_bits(i));
}
inline long long __double_as_longlong(double d) {
  return ::seqloom::emulation::from_bits<long long>(::seqloom::emulation::to_bits(d));
}
inline double __longlong_as_double(long long i) {
  return ::seqloom::emulation::from_bits<double>(::seqloom::emulation::to_bits(i));
}
// As the instruction does: what is out of range ends at the nearest integer, NaN is 0.
inline int __float2int_rz(float x) {
  if (!(x < 2147483648.f)) return x > 0.f ? 2147483647 : 0;
  return x < -2147483648.f ? -2147483647 - 1 : static_cast<int>(x);
}
inline int __float2int_rn(float x) { return __float2int_rz(std::nearbyint(x)); }
inline int __float2int_rd(float x) { return __float2int_rz(std::floor(x)); }
inline int __float2int_ru(float x) { return __float2int_rz(std::ceil(x)); }
inline unsigned __float2uint_rz(float x) {
  if (!(x < 4294967296.f)) return x > 0.f ? 4294967295u : 0u;
  return x > 0.f ? static_cast<unsigned>(x) : 0u;
}
inline unsigned __float2uint_rn(float x) { return __float2uint_rz(std::nearbyint(x)); }
inline unsigned __float2uint_rd(float x) { return __float2uint_rz(std::floor(x)); }
inline unsigned __float2uint_ru(float x) { return __float2uint_rz(std::ceil(x)); }
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline float __uint2float_rn(unsigned x) { return static_cast<float>(x); }

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
inline int __clzll(long long x) {
  return x ? __builtin_clzll(static_cast<unsigned long long>(x)) : 64;
}
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __brev(unsigned x) {
  unsigned r = 0;
  for (int i = 0; i < 32; ++i) r |= ((x >> i) & 1u) << (31 - i);
  return r;
}
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>((static_cast<std::uint64_t>(a) * b) >> 32);
}
inline int __mulhi(int a, int b) {
  return static_cast<int>((static_cast<std::int64_t>(a) * b) >> 32);
}
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return static_cast<unsigned long long>((static_cast<unsigned __int128>(a) * b) >> 64);
}
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  const std::uint64_t v = (static_cast<std::uint64_t>(b) << 32) | a;
  unsigned r = 0;
  for (int i = 0; i < 4; ++i)
    r |= static_cast<unsigned>((v >> (8 * ((selector >> (4 * i)) & 7))) & 0xff) << (8 * i);
  return r;
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned n) {
  n &= 31;
  return n ? (high << n) | (low >> (32 - n)) : high;
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned n) {
  n &= 31;
  return n ? (low >> n) | (high << (32 - n)) : low;
}

namespace seqloom::emulation {
long long clock_ticks();
[[noreturn]] void device_trap(Site);
}  // namespace seqloom::emulation
inline long long clock64() { return ::seqloom::emulation::clock_ticks(); }
inline void __trap(SEQLOOM_SITE_ONLY) { ::seqloom::emulation::device_trap(site); }

#define SEQLOOM_MIN_MAX(T)                         \
  inline T min(T a, T b) { return b < a ? b : a; } \
  inline T max(T a, T b) { return a < b ? b : a; }
SEQLOOM_MIN_MAX(int)
SEQLOOM_MIN_MAX(unsigned)
SEQLOOM_MIN_MAX(long)
SEQLOOM_MIN_MAX(unsigned long)
SEQLOOM_MIN_MAX(long long)
SEQLOOM_MIN_MAX(unsigned long long)
#undef SEQLOOM_MIN_MAX
// For floats CUDA's min and max drop a NaN, as fminf and fmaxf do.
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }

// Packed fma: exact product and sum in double, one rounding to float and one to 16 bits.
inline __nv_bfloat162 __hfma2(__nv_bfloat162 a, __nv_bfloat162 b, __nv_bfloat162 c) {
  const float2 x = __bfloat1622float2(a), y = __bfloat1622float2(b), z = __bfloat1622float2(c);
  return __floats2bfloat162_rn(std::fma(x.x, y.x, z.x), std::fma(x.y, y.y, z.y));
}
inline __half2 __hfma2(__half2 a, __half2 b, __half2 c) {
  const float2 x = __half22float2(a), y = __half22float2(b), z = __half22float2(c);
  return __floats2half2_rn(std::fma(x.x, y.x, z.x), std::fma(x.y, y.y, z.y));
}
inline __nv_bfloat16 __hfma(__nv_bfloat16 a, __nv_bfloat16 b, __nv_bfloat16 c) {
  return __float2bfloat16_rn(
      std::fma(__bfloat162float(a), __bfloat162float(b), __bfloat162float(c)));
}
inline __half __hfma(__half a, __half b, __half c) {
  return __float2half_rn(std::fma(__half2float(a), __half2float(b), __half2float(c)));
}
