// SPDX-License-Identifier: Apache-2.0
// Elementary functions on VecF. For kernel files (*_cpu.cpp) only.
//
// Error bounds in ULP of the exact result, measured over a dense sample of all floats on every
// level (tests/cpu/test_vec_math.py asserts them). A lane's result depends on that lane alone.
//
//   exp 1.2          expm1 2         log 1           log1p 2        softplus 2.5
//   tanh 2.5         sigmoid 2.5     erf 3           sin, cos 1.6   pow 1 (C library, lane by lane)
//   silu, silu_grad, gelu_tanh, gelu_erf and their derivatives: 4 ULP or an absolute error of 1e-7
//   (1.5e-7 gelu_tanh_grad), whichever is larger
//
// Infinities, zeros and NaN give what the C library gives. Results below 2^-126 are gradual in exp,
// expm1, log1p, tanh and erf, and may be zero in the others.
//
// Coefficients are weighted minimax fits on the stated interval, rounded to float.
#pragma once

#include "cpu/vec.h"

namespace seqloom::SEQLOOM_ISA_NS {

// Horner's rule: c0 + x (c1 + x (c2 + ...)).
SEQLOOM_ALWAYS_INLINE VecF polynomial(VecF, float c0) { return VecF::broadcast(c0); }
template <class... Rest>
SEQLOOM_ALWAYS_INLINE VecF polynomial(VecF x, float c0, Rest... rest) {
  return fma(polynomial(x, rest...), x, VecF::broadcast(c0));
}

// 2^n for integral n in [-126, 127].
SEQLOOM_ALWAYS_INLINE VecF pow2(VecF n) {
  return as_float(shift_left(round_to_int(n) + VecI::broadcast(127), 23));
}

// p 2^n, correctly rounded, for p in [0.5, 2) and integral n in [-252, 254].
SEQLOOM_ALWAYS_INLINE VecF scale_pow2(VecF p, VecF n) {
#if defined(__AVX512F__)
  return {_mm512_scalef_ps(p.v, n.v)};
#else
  const VecI e = round_to_int(n);
  // Adding to the exponent field is enough unless the result leaves the normal range.
  if (SEQLOOM_LIKELY(!any(abs(n) > VecF::broadcast(125.0f)))) {
    return as_float(as_int(p) + shift_left(e, 23));
  }
  const VecI half = shift_right(e, 1);
  const VecI bias = VecI::broadcast(127);
  const VecF first = as_float(shift_left(half + bias, 23));
  const VecF second = as_float(shift_left(e - half + bias, 23));
  return (p * first) * second;
#endif
}

// x = n ln 2 + r with n integral and |r| <= ln 2 / 2; n ln2_high is exact.
struct ExpArgument {
  VecF n, r;
};
SEQLOOM_ALWAYS_INLINE ExpArgument reduce_exp(VecF x) {
  const VecF n = round(x * VecF::broadcast(1.44269504f));
  VecF r = fnma(n, VecF::broadcast(0.693359375f), x);
  r = fnma(n, VecF::broadcast(-2.12194440e-4f), r);
  return {n, r};
}

// exp(x) = 2^n (1 + r + r^2 q(r)).
SEQLOOM_ALWAYS_INLINE VecF exp(VecF x) {
  // The bounds lie where the result is 0 and infinity; a NaN passes min and max as second operand.
  x = min(VecF::broadcast(89.0f), max(VecF::broadcast(-104.0f), x));
  const ExpArgument a = reduce_exp(x);
  const VecF p = polynomial(a.r, 1.0f, 1.0f, 0.49999994f, 0.1666652f, 0.041668408f, 0.0083689215f,
                            0.0013814174f);
  return scale_pow2(p, a.n);
}

// expm1(x) = 2^n (e^r - 1) + (2^n - 1), which cancels nowhere; formed at half its size, so that n =
// 128 is in range.
SEQLOOM_ALWAYS_INLINE VecF half_expm1(VecF x) {
  const ExpArgument a = reduce_exp(x);
  const VecF q =
      polynomial(a.r, 0.5f, 0.16666666f, 0.04166636f, 0.00833339f, 0.0013940927f, 0.00019845902f);
  const VecF em1 = fma(a.r * a.r, q, a.r);
  const VecF scale = pow2(a.n - VecF::broadcast(1.0f));
  return fma(scale, em1, scale - VecF::broadcast(0.5f));
}
SEQLOOM_ALWAYS_INLINE VecF expm1(VecF x) {
  const VecF half = half_expm1(min(VecF::broadcast(89.0f), max(VecF::broadcast(-20.0f), x)));
  // Below 2^-60 the result is x, which halving could lose to underflow and its sign to 2^n - 1.
  return select(abs(x) < VecF::broadcast(8.6736174e-19f), x, half + half);
}

// log(m 2^e (1 + c)) for the m, e of `bits`, where m is in [sqrt 1/2, sqrt 2) and c 2^e = `low`.
SEQLOOM_ALWAYS_INLINE VecF log_of_bits(VecI u, VecF low, VecF exponent_offset) {
  const VecI root_half = VecI::broadcast(0x3f3504f3);
  const VecI shifted = u - root_half;
  const VecI e = shift_right(shifted, 23);
  const VecI mantissa = (shifted & VecI::broadcast(0x007fffff)) + root_half;
  VecF f = as_float(mantissa) - VecF::broadcast(1.0f);
  f = f + low;
  const VecF n = to_float(e) + exponent_offset;
  const VecF p = polynomial(f, 0.33333313f, -0.2500001f, 0.20002119f, -0.16667996f, 0.14219552f,
                            -0.12405589f, 0.11888162f, -0.11675652f, 0.06746641f);
  // log(1 + f) = f - f^2 / 2 + f^3 p(f), small terms first.
  const VecF square = f * f;
  VecF tail = fma(square * f, p, n * VecF::broadcast(-2.12194440e-4f));
  tail = fnma(VecF::broadcast(0.5f), square, tail);
  return fma(n, VecF::broadcast(0.693359375f), f + tail);
}

SEQLOOM_ALWAYS_INLINE VecF log(VecF x) {
  const VecF tiny = VecF::broadcast(1.17549435e-38f);
  const Mask subnormal = x < tiny;
  const VecF scaled = select(subnormal, x * VecF::broadcast(8388608.0f), x);
  const VecF offset = zero_unless(subnormal, VecF::broadcast(-23.0f));
  VecF y = log_of_bits(as_int(scaled), VecF::zero(), offset);
  const VecF infinity = VecF::broadcast(__builtin_inff());
  y = select(x < infinity, y, x);  // infinity and NaN
  // Zero gives -infinity, negative numbers NaN.
  const VecF below = select(x == VecF::zero(), -infinity, VecF::broadcast(__builtin_nanf("")));
  return select(x <= VecF::zero(),
                select(x < VecF::zero(), VecF::broadcast(__builtin_nanf("")), below), y);
}

// u = 1 + x rounded; what the rounding lost goes into the logarithm's argument.
SEQLOOM_ALWAYS_INLINE VecF log1p(VecF x) {
  const VecF one = VecF::broadcast(1.0f);
  const VecF u = one + x;
  const VecF lost = select(x > one, one - (u - x), x - (u - one));
  const VecI bits = as_int(u);
  // lost / 2^e, e being the exponent that log_of_bits takes out (0 for u near 1, at most 127).
  const VecI e = shift_right(bits - VecI::broadcast(0x3f3504f3), 23);
  const VecI down = VecI::broadcast(127) - min(e, VecI::broadcast(126));
  VecF y = log_of_bits(bits, lost * as_float(shift_left(down, 23)), VecF::zero());
  const VecF infinity = VecF::broadcast(__builtin_inff());
  y = select(x < infinity, y, x);
  y = select(x == -one, -infinity, y);
  y = select(x < -one, VecF::broadcast(__builtin_nanf("")), y);
  return select(x == VecF::zero(), x, y);
}

// tanh |x| = h / (h + 1) with h = expm1(2 |x|) / 2: no cancellation, and 1 from |x| = 9.02 on.
SEQLOOM_ALWAYS_INLINE VecF tanh(VecF x) {
  const VecF twice = abs(x) + abs(x);
  const VecF h = half_expm1(min(VecF::broadcast(20.0f), twice));
  return copy_sign(h / (h + VecF::broadcast(1.0f)), x);
}

// 1 / (1 + exp(-x)).
SEQLOOM_ALWAYS_INLINE VecF sigmoid(VecF x) {
  const VecF one = VecF::broadcast(1.0f);
  return one / (one + exp(-x));
}

// log(1 + exp(x)) = max(x, 0) + log1p(t), t = exp(-|x|) in [0, 1].
SEQLOOM_ALWAYS_INLINE VecF softplus(VecF x) {
  const VecF t = exp(-abs(x));
  const VecF p = polynomial(t, -0.4999993f, 0.33330512f, -0.24958588f, 0.19695401f, -0.15355396f,
                            0.10680556f, -0.05766445f, 0.020204589f, -0.0033184732f);
  return max(VecF::zero(), x) + fma(t * t, p, t);
}

// erf |x| = 1 - 2^(-y), y = |x| s(|x|) with s the smooth function -log2(erfc a) / a on [0, 3.94],
// past which the result rounds to 1. 1 - 2^(-y) is formed as in expm1.
SEQLOOM_ALWAYS_INLINE VecF erf(VecF x) {
  const VecF a = min(VecF::broadcast(3.94f), abs(x));
  const VecF y = a * polynomial(a, 1.627907f, 0.9184479f, 0.14826936f, -0.027579477f,
                                -0.00038737367f, 0.002647147f, -0.0011248953f, 0.00027586072f,
                                -4.252973e-05f, 3.8281914e-06f, -1.5368782e-07f);
  const VecF n = round(y);
  const VecF r = n - y;
  const VecF em1 = r * polynomial(r, 0.6931472f, 0.24022649f, 0.055503573f, 0.009618238f,
                                  0.0013390849f, 0.00015403512f);
  const VecF scale = pow2(-n);
  return copy_sign(fnma(scale, em1, VecF::broadcast(1.0f) - scale), x);
}

// ---- activations and their derivatives ----

// s = sigmoid(x) and 1 - s without cancellation: with e = exp(-x), s = 1 / (1 + e) and 1 - s = e s.
struct SigmoidPair {
  VecF s, one_minus_s;
};
SEQLOOM_ALWAYS_INLINE SigmoidPair sigmoid_pair(VecF x) {
  const VecF one = VecF::broadcast(1.0f);
  const VecF e = exp(-max(VecF::broadcast(-87.0f), x));
  const VecF s = one / (one + e);
  return {s, e * s};
}

SEQLOOM_ALWAYS_INLINE VecF silu(VecF x) { return x * sigmoid(x); }
// d/dx x s(x) = s + x s (1 - s); past |x| = 87 it is 0 or 1.
SEQLOOM_ALWAYS_INLINE VecF silu_grad(VecF x) {
  x = min(VecF::broadcast(87.0f), max(VecF::broadcast(-87.0f), x));
  const SigmoidPair p = sigmoid_pair(x);
  return fma(x * p.s, p.one_minus_s, p.s);
}

// x (1 + tanh u) / 2 = x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3).
constexpr float kGeluLinear = 1.59576912f;  // 2 sqrt(2 / pi)
constexpr float kGeluCubic = 0.0713548163f;
SEQLOOM_ALWAYS_INLINE VecF gelu_tanh_argument(VecF x) {
  return x * fma(x * x, VecF::broadcast(kGeluCubic), VecF::broadcast(kGeluLinear));
}
SEQLOOM_ALWAYS_INLINE VecF gelu_tanh(VecF x) { return x * sigmoid(gelu_tanh_argument(x)); }
SEQLOOM_ALWAYS_INLINE VecF gelu_tanh_grad(VecF x) {
  // Past |x| = 20 the derivative is 0 or 1; the clamp keeps x^3 finite. NaN passes.
  x = min(VecF::broadcast(20.0f), max(VecF::broadcast(-20.0f), x));
  const SigmoidPair p = sigmoid_pair(gelu_tanh_argument(x));
  const VecF slope = fma(x * x, VecF::broadcast(3.0f * kGeluCubic), VecF::broadcast(kGeluLinear));
  return fma(x * slope, p.s * p.one_minus_s, p.s);
}

// Phi(-a), a >= 0, as 2^-(1 + t(a)): a fit of the exponent keeps the relative accuracy of the tail
// (absolute accuracy from a = 6 on) and needs neither erf nor a division.
SEQLOOM_ALWAYS_INLINE VecF normal_tail(VecF a) {
  VecF t = a * polynomial(a, 1.1511049f, 0.4592127f, 0.052469432f, -0.006993075f, 4.1318945e-05f,
                          0.00025810683f, -6.974673e-05f, 9.743773e-06f, -7.3856086e-07f,
                          2.3921901e-08f);
  t = min(VecF::broadcast(150.0f), t);  // where the result is 0; NaN passes
  const VecF n = round(t);
  const VecF r = n - t;
  const VecF p = polynomial(r, 0.5f, 0.3465736f, 0.12011324f, 0.02775166f, 0.0048092195f,
                            0.00066995015f, 7.6766295e-05f);
  return scale_pow2(p, -n);
}
// x Phi(x) = max(x, 0) - |x| Phi(-|x|)
SEQLOOM_ALWAYS_INLINE VecF gelu_erf(VecF x) {
  const VecF a = min(VecF::broadcast(13.0f), abs(x));
  return fnma(a, normal_tail(a), max(VecF::zero(), x));
}
// Phi(x) + x phi(x)
SEQLOOM_ALWAYS_INLINE VecF gelu_erf_grad(VecF x) {
  const VecF a = min(VecF::broadcast(13.0f), abs(x));
  const VecF tail = normal_tail(a);
  const VecF cdf = select(x < VecF::zero(), tail, VecF::broadcast(1.0f) - tail);
  const VecF density = VecF::broadcast(0.398942280f) * exp(VecF::broadcast(-0.5f) * a * a);
  return fma(copy_sign(a, x), density, cdf);
}

// ---- sine and cosine ----

// Lane by lane through the C library, in double: for arguments past the fast reduction.
inline SEQLOOM_NOINLINE void sincos_lanes(const float* x, float* sine, float* cosine) {
  for (int i = 0; i < kLanes; ++i) {
    sine[i] = static_cast<float>(__builtin_sin(static_cast<double>(x[i])));
    cosine[i] = static_cast<float>(__builtin_cos(static_cast<double>(x[i])));
  }
}

// sin and cos of r in [-pi/4, pi/4], turned by q quarter turns.
SEQLOOM_ALWAYS_INLINE void sincos_quadrant(VecF r, VecI q, VecF* sine, VecF* cosine) {
  const VecF z = r * r;
  const VecF s = fma(r * z, polynomial(z, -0.16666655f, 0.00833216f, -0.00019515284f), r);
  const VecF c = fma(z * z, polynomial(z, 0.041666646f, -0.0013887316f, 2.4433157e-05f),
                     fma(z, VecF::broadcast(-0.5f), VecF::broadcast(1.0f)));
  const VecI one = VecI::broadcast(1);
  const Mask swap = (q & one) == one;
  const VecI sine_sign = shift_left(q & VecI::broadcast(2), 30);
  const VecI cosine_sign = shift_left((q + one) & VecI::broadcast(2), 30);
  *sine = as_float(as_int(select(swap, c, s)) ^ sine_sign);
  *cosine = as_float(as_int(select(swap, s, c)) ^ cosine_sign);
}

// Both at once. Vectorised up to |x| = 2^16 where the level has fused multiply-add, on which the
// three-part reduction by pi / 2 relies.
SEQLOOM_ALWAYS_INLINE void sincos(VecF x, VecF* sine, VecF* cosine) {
  Mask reducible = x != x;  // none
  if constexpr (kFusedMultiplyAdd) {
    const VecF n = round(x * VecF::broadcast(0.636619772f));
    VecF r = fnma(n, VecF::broadcast(1.57079637f), x);
    r = fnma(n, VecF::broadcast(-4.37113883e-08f), r);
    r = fnma(n, VecF::broadcast(-1.71512489e-15f), r);
    sincos_quadrant(r, round_to_int(n), sine, cosine);
    *sine = select(x == VecF::zero(), x, *sine);
    reducible = abs(x) <= VecF::broadcast(65536.0f);
    if (SEQLOOM_LIKELY(all(reducible))) return;
  } else {
    *sine = *cosine = x;
  }
  float in[kLanes], s[kLanes], c[kLanes];
  store(in, x);
  sincos_lanes(in, s, c);
  *sine = select(reducible, *sine, load(s));
  *cosine = select(reducible, *cosine, load(c));
}
SEQLOOM_ALWAYS_INLINE VecF sin(VecF x) {
  VecF s, c;
  sincos(x, &s, &c);
  return s;
}
SEQLOOM_ALWAYS_INLINE VecF cos(VecF x) {
  VecF s, c;
  sincos(x, &s, &c);
  return c;
}

// sin and cos of 2 pi t, t in [-2^20, 2^20]: the reduction is exact.
SEQLOOM_ALWAYS_INLINE void sincos_turns(VecF t, VecF* sine, VecF* cosine) {
  const VecF quarters = t * VecF::broadcast(4.0f);
  const VecF n = round(quarters);
  sincos_quadrant((quarters - n) * VecF::broadcast(1.57079633f), round_to_int(n), sine, cosine);
}

// ---- powers ----

inline SEQLOOM_NOINLINE void pow_lanes(float* x, const float* y) {
  for (int i = 0; i < kLanes; ++i) x[i] = __builtin_powf(x[i], y[i]);
}
SEQLOOM_ALWAYS_INLINE VecF pow(VecF x, VecF y) {
  float base[kLanes], exponent[kLanes];
  store(base, x);
  store(exponent, y);
  pow_lanes(base, exponent);
  return load(base);
}

// ---- the same names on doubles ----

SEQLOOM_ALWAYS_INLINE VecD sigmoid(VecD x) {
  const VecD one = VecD::broadcast(1.0);
  return one / (one + exp(-x));
}
SEQLOOM_ALWAYS_INLINE VecD softplus(VecD x) { return max(VecD::zero(), x) + log1p(exp(-abs(x))); }
SEQLOOM_ALWAYS_INLINE VecD silu(VecD x) { return x * sigmoid(x); }
SEQLOOM_ALWAYS_INLINE VecD silu_grad(VecD x) {
  const VecD one = VecD::broadcast(1.0);
  const VecD s = sigmoid(x);
  return s * (one + x * (one - s));
}
constexpr double kGeluLinearD = 1.5957691216057307117597842397375;
SEQLOOM_ALWAYS_INLINE VecD gelu_tanh_argument(VecD x) {
  return x * (VecD::broadcast(kGeluLinearD) + x * x * VecD::broadcast(0.044715 * kGeluLinearD));
}
SEQLOOM_ALWAYS_INLINE VecD gelu_tanh(VecD x) { return x * sigmoid(gelu_tanh_argument(x)); }
SEQLOOM_ALWAYS_INLINE VecD gelu_tanh_grad(VecD x) {
  x = min(VecD::broadcast(40.0), max(VecD::broadcast(-40.0), x));
  const VecD one = VecD::broadcast(1.0);
  const VecD s = sigmoid(gelu_tanh_argument(x));
  const VecD slope =
      VecD::broadcast(kGeluLinearD) + x * x * VecD::broadcast(3 * 0.044715 * kGeluLinearD);
  return s + x * slope * s * (one - s);
}
// Phi(x) = erfc(-x / sqrt 2) / 2
SEQLOOM_ALWAYS_INLINE VecD normal_cdf(VecD x) {
  for (int i = 0; i < VecD::kLanes; ++i) {
    x.v[i] = 0.5 * __builtin_erfc(-0.70710678118654752440 * x.v[i]);
  }
  return x;
}
SEQLOOM_ALWAYS_INLINE VecD gelu_erf(VecD x) {
  return x * normal_cdf(max(VecD::broadcast(-40.0), x));
}
SEQLOOM_ALWAYS_INLINE VecD gelu_erf_grad(VecD x) {
  x = min(VecD::broadcast(40.0), max(VecD::broadcast(-40.0), x));
  return normal_cdf(x) +
         x * VecD::broadcast(0.39894228040143267794) * exp(VecD::broadcast(-0.5) * x * x);
}
SEQLOOM_ALWAYS_INLINE void sincos(VecD x, VecD* sine, VecD* cosine) {
  *sine = sin(x);
  *cosine = cos(x);
}

}  // namespace seqloom::SEQLOOM_ISA_NS
