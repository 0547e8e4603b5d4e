// SPDX-License-Identifier: Apache-2.0
// Approximate functions of the special-function unit, and rounding to tf32. Included by cuda/ptx.h.
#pragma once

namespace seqloom::cuda::ptx {

// 2^x within 2 ulp; subnormal inputs and results are flushed to zero.
SEQLOOM_DEVICE float ex2_approx(float x) {
#if defined(__CUDACC__)
  float r;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
#else
  return emulation::ex2_ftz(x);
#endif
}

// log2(x), absolute error 2^-22 near 1; subnormals flushed.
SEQLOOM_DEVICE float lg2_approx(float x) {
#if defined(__CUDACC__)
  float r;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
#else
  return emulation::lg2_ftz(x);
#endif
}

// tanh with a relative error of 2^-11: good enough for 16-bit results only.
SEQLOOM_DEVICE float tanh_approx(float x) {
#if defined(__CUDACC__)
  float r = 0.f;
  SEQLOOM_SM75(asm("tanh.approx.f32 %0, %1;" : "=f"(r) : "f"(x)));
  return r;
#else
  return ::tanhf(x);
#endif
}

// float -> tf32 (10 mantissa bits), ties away from zero: operands of mma_m16n8k8_tf32.
SEQLOOM_DEVICE uint32_t to_tf32(float x SEQLOOM_SITE) {
#if defined(__CUDACC__)
  uint32_t r = 0;
  SEQLOOM_SM80(asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(x)));
  return r;
#else
  return emulation::round_to_tf32(x, site);
#endif
}

}  // namespace seqloom::cuda::ptx
