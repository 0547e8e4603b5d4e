// SPDX-License-Identifier: Apache-2.0
// What elementwise_math.h is made of, for float and double in device code. For .cu files only.
#pragma once

#include "core/philox.h"
#include "cuda/half_types.h"
#include "cuda/vector_access.h"

namespace seqloom::device_math {

template <class V>
SEQLOOM_DEVICE V constant(double x) {
  return static_cast<V>(x);
}
template <class V>
SEQLOOM_DEVICE V select(bool which, V a, V b) {
  return which ? a : b;
}
template <class V>
SEQLOOM_DEVICE V min(V a, V b) {
  return a < b ? a : b;
}
template <class V>
SEQLOOM_DEVICE V max(V a, V b) {
  return a > b ? a : b;
}

SEQLOOM_DEVICE float abs(float x) { return ::fabsf(x); }
SEQLOOM_DEVICE float floor(float x) { return ::floorf(x); }
SEQLOOM_DEVICE float round(float x) { return ::rintf(x); }
SEQLOOM_DEVICE float sqrt(float x) { return ::sqrtf(x); }
SEQLOOM_DEVICE float exp(float x) { return ::expf(x); }
SEQLOOM_DEVICE float log(float x) { return ::logf(x); }
SEQLOOM_DEVICE float sin(float x) { return ::sinf(x); }
SEQLOOM_DEVICE float cos(float x) { return ::cosf(x); }
SEQLOOM_DEVICE float tanh(float x) { return ::tanhf(x); }
SEQLOOM_DEVICE float erf(float x) { return ::erff(x); }
SEQLOOM_DEVICE float erfc(float x) { return ::erfcf(x); }
SEQLOOM_DEVICE float pow(float x, float y) { return ::powf(x, y); }
SEQLOOM_DEVICE float fmod(float x, float y) { return ::fmodf(x, y); }
SEQLOOM_DEVICE float copy_sign(float x, float y) { return ::copysignf(x, y); }

SEQLOOM_DEVICE double abs(double x) { return ::fabs(x); }
SEQLOOM_DEVICE double floor(double x) { return ::floor(x); }
SEQLOOM_DEVICE double round(double x) { return ::rint(x); }
SEQLOOM_DEVICE double sqrt(double x) { return ::sqrt(x); }
SEQLOOM_DEVICE double exp(double x) { return ::exp(x); }
SEQLOOM_DEVICE double log(double x) { return ::log(x); }
SEQLOOM_DEVICE double sin(double x) { return ::sin(x); }
SEQLOOM_DEVICE double cos(double x) { return ::cos(x); }
SEQLOOM_DEVICE double tanh(double x) { return ::tanh(x); }
SEQLOOM_DEVICE double erf(double x) { return ::erf(x); }
SEQLOOM_DEVICE double erfc(double x) { return ::erfc(x); }
SEQLOOM_DEVICE double pow(double x, double y) { return ::pow(x, y); }
SEQLOOM_DEVICE double fmod(double x, double y) { return ::fmod(x, y); }
SEQLOOM_DEVICE double copy_sign(double x, double y) { return ::copysign(x, y); }

template <class V>
SEQLOOM_DEVICE V rsqrt(V x) {
  return V(1) / sqrt(x);
}
template <class V>
SEQLOOM_DEVICE V sigmoid(V x) {
  return V(1) / (V(1) + exp(-x));
}
template <class V>
SEQLOOM_DEVICE V silu(V x) {
  return x * sigmoid(x);
}
// d/dx x s(x) = s (1 + x (1 - s)), where 1 - s = s(-x)
template <class V>
SEQLOOM_DEVICE V silu_grad(V x) {
  const V s = sigmoid(x);
  return s * (V(1) + x * sigmoid(-x));
}

// x (1 + tanh u) / 2 = x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3).
constexpr double kTwoRootTwoOverPi = 1.5957691216057307;
constexpr double kGeluCubic = 0.044715;
template <class V>
SEQLOOM_DEVICE V gelu_tanh_argument(V x) {
  return x * (V(kTwoRootTwoOverPi) + x * x * V(kGeluCubic * kTwoRootTwoOverPi));
}
template <class V>
SEQLOOM_DEVICE V gelu_tanh(V x) {
  return x * sigmoid(gelu_tanh_argument(x));
}
template <class V>
SEQLOOM_DEVICE V gelu_tanh_grad(V x) {
  // Past |x| = 20 the derivative is 0 or 1; the clamp keeps x^3 finite. NaN passes.
  x = min(V(20), max(V(-20), x));
  const V u = gelu_tanh_argument(x), s = sigmoid(u);
  const V slope = V(kTwoRootTwoOverPi) + x * x * V(3 * kGeluCubic * kTwoRootTwoOverPi);
  return s + x * slope * s * sigmoid(-u);
}

// x Phi(x), Phi(x) = erfc(-x / sqrt 2) / 2; its derivative Phi(x) + x phi(x).
template <class V>
SEQLOOM_DEVICE V normal_cdf(V x) {
  return V(0.5) * erfc(V(-0.70710678118654752) * x);
}
template <class V>
SEQLOOM_DEVICE V gelu_erf(V x) {
  return x * normal_cdf(max(V(-40), x));
}
template <class V>
SEQLOOM_DEVICE V gelu_erf_grad(V x) {
  x = min(V(40), max(V(-40), x));
  return normal_cdf(x) + x * V(0.39894228040143268) * exp(V(-0.5) * x * x);
}

}  // namespace seqloom::device_math

#define SEQLOOM_MATH_NS device_math
#include "ops/elementwise/elementwise_integer.h"
#include "ops/elementwise/elementwise_math.h"
#undef SEQLOOM_MATH_NS

namespace seqloom::device_math {

// ---- any dtype as the compute type C, and back -------------------------------------------------

// Saturates; NaN gives 0.
SEQLOOM_DEVICE int64_t to_integer(double x) {
  if (!(x > -9223372036854775808.0)) return x != x ? 0 : INT64_MIN;
  return x < 9223372036854775808.0 ? static_cast<int64_t>(x) : INT64_MAX;
}
SEQLOOM_DEVICE int64_t to_integer(int64_t x) { return x; }
SEQLOOM_DEVICE int64_t to_integer(float x) { return to_integer(static_cast<double>(x)); }

template <class C>
SEQLOOM_DEVICE C load_as(const void* data, DType dtype, int64_t i) {
  switch (dtype) {
    case DType::kFloat32:
      return static_cast<C>(static_cast<const float*>(data)[i]);
    case DType::kFloat16:
      return static_cast<C>(cuda::to_float(static_cast<const cuda::Half*>(data)[i]));
    case DType::kBFloat16:
      return static_cast<C>(cuda::to_float(static_cast<const cuda::BFloat16*>(data)[i]));
    case DType::kFloat64:
      return static_cast<C>(static_cast<const double*>(data)[i]);
    case DType::kInt64:
      return static_cast<C>(static_cast<const int64_t*>(data)[i]);
    case DType::kInt32:
      return static_cast<C>(static_cast<const int32_t*>(data)[i]);
    case DType::kInt8:
      return static_cast<C>(static_cast<const int8_t*>(data)[i]);
    default:
      return static_cast<C>(static_cast<const uint8_t*>(data)[i]);  // bool is 0 or 1
  }
}

template <class C>
SEQLOOM_DEVICE void store_as(void* data, DType dtype, int64_t i, C x) {
  switch (dtype) {
    case DType::kFloat32:
      static_cast<float*>(data)[i] = static_cast<float>(x);
      return;
    case DType::kFloat16:
      static_cast<cuda::Half*>(data)[i] = cuda::from_float<cuda::Half>(static_cast<float>(x));
      return;
    case DType::kBFloat16:
      static_cast<cuda::BFloat16*>(data)[i] =
          cuda::from_float<cuda::BFloat16>(static_cast<float>(x));
      return;
    case DType::kFloat64:
      static_cast<double*>(data)[i] = static_cast<double>(x);
      return;
    case DType::kInt64:
      static_cast<int64_t*>(data)[i] = to_integer(x);
      return;
    case DType::kInt32:
      static_cast<int32_t*>(data)[i] = static_cast<int32_t>(to_integer(x));
      return;
    case DType::kInt8:
      static_cast<int8_t*>(data)[i] = static_cast<int8_t>(to_integer(x));
      return;
    case DType::kUInt8:
      static_cast<uint8_t*>(data)[i] = static_cast<uint8_t>(to_integer(x));
      return;
    default:
      static_cast<uint8_t*>(data)[i] = x != C(0);
      return;
  }
}

}  // namespace seqloom::device_math
