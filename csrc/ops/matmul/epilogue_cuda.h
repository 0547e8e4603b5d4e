// SPDX-License-Identifier: Apache-2.0
// What happens to a finished sum of the CUDA products: x = sum + bias, preact = x, C =
// activation(x). For .cu files only.
#pragma once

#include "cuda/gpu.h"
#include "cuda/half_types.h"
#include "ops/matmul/matmul.h"

namespace seqloom::ops {

// Called, not inlined: kernels hold dozens of sums in registers, and each would bring its own copy.
static __device__ SEQLOOM_NOINLINE float activate(Epilogue epilogue, float x) {
  switch (epilogue) {
    case Epilogue::kRelu:
      return x < 0.f ? 0.f : x;  // NaN stays
    case Epilogue::kGelu:
      return 0.5f * x * (1.f + erff(x * 0.70710678f));
    case Epilogue::kGeluTanh:
      return 0.5f * x * (1.f + tanhf(0.79788456f * (x + 0.044715f * x * x * x)));
    case Epilogue::kSilu:
      return x / (1.f + expf(-x));
    default:
      return x;
  }
}
[[maybe_unused]] static __device__ SEQLOOM_NOINLINE double activate(Epilogue epilogue, double x) {
  switch (epilogue) {
    case Epilogue::kRelu:
      return x < 0.0 ? 0.0 : x;
    case Epilogue::kGelu:
      return 0.5 * x * (1.0 + erf(x * 0.7071067811865476));
    case Epilogue::kGeluTanh:
      return 0.5 * x * (1.0 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
    case Epilogue::kSilu:
      return x / (1.0 + exp(-x));
    default:
      return x;
  }
}

// Element (row, column) of batch entry `batch`, inside C. Integers have neither bias nor
// activation. kFloatOut: the kernel serves float_out.
template <class T, bool kFloatOut = true, class Sum>
SEQLOOM_DEVICE void finish(const ProductArgs& p, int64_t batch, int64_t row, int64_t column,
                           Sum sum) {
  const int64_t at = batch * p.c_batch + row * p.ldc + column;
  T* c = static_cast<T*>(p.c) + at;
  if constexpr (kFloatOut && sizeof(T) == 2) {
    if (p.float_out) {
      static_cast<float*>(p.c)[at] = sum;
      return;
    }
  }
  if constexpr (std::is_integral_v<T>) {
    *c = static_cast<T>(sum);
  } else {
    const auto rounded = [](Sum x) {
      if constexpr (sizeof(T) == 8)
        return x;
      else
        return cuda::from_float<T>(x);
    };
    if (p.bias != nullptr) {
      const T b = static_cast<const T*>(p.bias)[column];
      if constexpr (sizeof(T) == 8)
        sum += b;
      else
        sum += cuda::to_float(b);
    }
    if (p.preact != nullptr)
      static_cast<T*>(p.preact)[(batch * p.m + row) * p.n + column] = rounded(sum);
    if (p.epilogue != Epilogue::kNone) sum = activate(p.epilogue, sum);
    *c = rounded(sum);
  }
}

}  // namespace seqloom::ops
