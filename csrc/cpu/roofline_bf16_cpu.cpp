// SPDX-License-Identifier: Apache-2.0
// Chains of multiply-adds at each level's full width.
#include "cpu/roofline.h"

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace seqloom::SEQLOOM_ISA_NS {
namespace {

#if defined(__AVX512F__)
#define SEQLOOM_VECTOR "+v"
#elif defined(__AVX2__)
#define SEQLOOM_VECTOR "+x"
#elif defined(__aarch64__)
#define SEQLOOM_VECTOR "+w"
#endif

// Fourteen chains in fourteen registers: two units with a latency of up to seven cycles are never
// idle. The empty assembly claims to change them all, so that no iteration can be folded into the
// next.
#define SEQLOOM_CHANGED(a, b, c, d, e, f, g)                                                     \
  __asm__ volatile(""                                                                            \
                   : SEQLOOM_VECTOR(a), SEQLOOM_VECTOR(b), SEQLOOM_VECTOR(c), SEQLOOM_VECTOR(d), \
                     SEQLOOM_VECTOR(e), SEQLOOM_VECTOR(f), SEQLOOM_VECTOR(g))
#define SEQLOOM_CHAINS(Vector, zero, step, operations)                         \
  Vector a = zero, b = zero, c = zero, d = zero, e = zero, f = zero, g = zero; \
  Vector h = zero, i = zero, j = zero, k = zero, l = zero, m = zero, n = zero; \
  for (int64_t turn = 0; turn < iterations; ++turn) {                          \
    a = step(a), b = step(b), c = step(c), d = step(d), e = step(e);           \
    f = step(f), g = step(g), h = step(h), i = step(i), j = step(j);           \
    k = step(k), l = step(l), m = step(m), n = step(n);                        \
    SEQLOOM_CHANGED(a, b, c, d, e, f, g);                                      \
    SEQLOOM_CHANGED(h, i, j, k, l, m, n);                                      \
  }                                                                            \
  return 14.0 * (operations) * static_cast<double>(iterations)

// Each returns the operations done, which are twice the lanes of an instruction: 0 without one.

double f32_peak(int64_t iterations) {
#if defined(__AVX512F__)
  const __m512 half = _mm512_set1_ps(0.5f);
  const auto step = [half](__m512 v) { return _mm512_fmadd_ps(v, half, half); };
  SEQLOOM_CHAINS(__m512, half, step, 32);
#elif defined(__AVX2__)
  const __m256 half = _mm256_set1_ps(0.5f);
  const auto step = [half](__m256 v) { return _mm256_fmadd_ps(v, half, half); };
  SEQLOOM_CHAINS(__m256, half, step, 16);
#elif defined(__aarch64__)
  const float32x4_t half = vdupq_n_f32(0.5f);
  const auto step = [half](float32x4_t v) { return vfmaq_f32(half, v, half); };
  SEQLOOM_CHAINS(float32x4_t, half, step, 8);
#else
  return static_cast<double>(iterations) * 0.0;
#endif
}

double bf16_peak(int64_t iterations) {
#if defined(__AVX512BF16__)
  const __m512bh half = (__m512bh)_mm512_set1_epi16(0x3f00);
  const auto step = [half](__m512 v) { return _mm512_dpbf16_ps(v, half, half); };
  SEQLOOM_CHAINS(__m512, _mm512_setzero_ps(), step, 64);
#else
  return static_cast<double>(iterations) * 0.0;
#endif
}

double int8_peak(int64_t iterations) {
#if defined(__AVX512VNNI__)
  const __m512i one = _mm512_set1_epi8(1);
  const auto step = [one](__m512i v) { return _mm512_dpbusd_epi32(v, one, one); };
  SEQLOOM_CHAINS(__m512i, _mm512_setzero_si512(), step, 128);
#else
  return static_cast<double>(iterations) * 0.0;
#endif
}

}  // namespace

void multiply_add_peak(const cpu::PeakArgs& args) {
  switch (args.kind) {
    case cpu::PeakKind::kF32:
      *args.operations = f32_peak(args.iterations);
      return;
    case cpu::PeakKind::kBf16:
      *args.operations = bf16_peak(args.iterations);
      return;
    case cpu::PeakKind::kInt8:
      *args.operations = int8_peak(args.iterations);
      return;
  }
}

}  // namespace seqloom::SEQLOOM_ISA_NS
