// SPDX-License-Identifier: Apache-2.0
// Counter-based random numbers: Philox4x32-10 (Salmon, Moraes, Dror, Shaw, SC'11), scalar form, for
// host code and CUDA kernels alike. cpu/vec_philox.h is the vector form of the same functions.
//
// A stream is a pure function. With e = offset + i, element i of the stream (seed, offset) comes
// from
//
//   block   e / 4   the 128-bit counter {block low, block high, substream low, substream high}
//   key             {seed low, seed high}
//   word    e % 4   which of the block's four 32-bit outputs
//
//   uniform   u = (word >> 8) 2^-24, in [0, 1)
//   normal    words 0, 1 of a block give elements 0, 1 and words 2, 3 give elements 2, 3:
//             u = float(word_0) 2^-32 + 2^-33 rounded to float, t = (word_1 >> 8) 2^-24,
//             sqrt(-2 ln u) cos(2 pi t) and sqrt(-2 ln u) sin(2 pi t)
//
// Uniforms are equal bit for bit everywhere. Normals are computed with fused multiply-adds and
// correctly rounded operations only, so they are too, wherever the hardware has them: on CUDA,
// AVX2, AVX-512 and NEON; the vectors of the SSE2 baseline differ by at most 4 ULP of the larger of
// the pair.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/macros.h"

namespace seqloom {

struct PhiloxBlock {
  uint32_t word[4];
};

namespace detail {

constexpr uint32_t kPhiloxMultiplier0 = 0xD2511F53u;
constexpr uint32_t kPhiloxMultiplier1 = 0xCD9E8D57u;
constexpr uint32_t kPhiloxWeyl0 = 0x9E3779B9u;
constexpr uint32_t kPhiloxWeyl1 = 0xBB67AE85u;
constexpr int kPhiloxRounds = 10;

SEQLOOM_HOST_DEVICE float philox_fma(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
  return __fmaf_rn(a, b, c);
#else
  return __builtin_fmaf(a, b, c);
#endif
}

SEQLOOM_HOST_DEVICE float philox_sqrt(float x) {
#if defined(__CUDA_ARCH__)
  return __fsqrt_rn(x);
#else
  return __builtin_sqrtf(x);
#endif
}

SEQLOOM_HOST_DEVICE uint32_t philox_bits(float x) {
  uint32_t u;
  memcpy(&u, &x, sizeof(u));
  return u;
}

SEQLOOM_HOST_DEVICE float philox_float(uint32_t u) {
  float x;
  memcpy(&x, &u, sizeof(x));
  return x;
}

// ln u for normal u > 0: log in cpu/vec_math.h, operation by operation.
SEQLOOM_HOST_DEVICE float philox_log(float u) {
  const int32_t shifted = static_cast<int32_t>(philox_bits(u)) - 0x3f3504f3;
  const float n = static_cast<float>(shifted >> 23);
  const float f = philox_float(static_cast<uint32_t>((shifted & 0x007fffff) + 0x3f3504f3)) - 1.0f;
  float p = 0.06746641f;
  p = philox_fma(p, f, -0.11675652f);
  p = philox_fma(p, f, 0.11888162f);
  p = philox_fma(p, f, -0.12405589f);
  p = philox_fma(p, f, 0.14219552f);
  p = philox_fma(p, f, -0.16667996f);
  p = philox_fma(p, f, 0.20002119f);
  p = philox_fma(p, f, -0.2500001f);
  p = philox_fma(p, f, 0.33333313f);
  const float square = f * f;
  float tail = philox_fma(square * f, p, n * -2.12194440e-4f);
  tail = philox_fma(-0.5f, square, tail);
  return philox_fma(n, 0.693359375f, f + tail);
}

// sin and cos of 2 pi t, t in [0, 1]: sincos_turns in cpu/vec_math.h, operation by operation.
SEQLOOM_HOST_DEVICE void philox_sincos_turns(float t, float* sine, float* cosine) {
  const float quarters = t * 4.0f;
  // Nearest even integer of a number in [0, 4]: no fraction bits are left at 2^23.
  const float n = (quarters + 8388608.0f) - 8388608.0f;
  const float r = (quarters - n) * 1.57079633f;
  const uint32_t q = static_cast<uint32_t>(n);
  const float z = r * r;
  float s = philox_fma(-0.00019515284f, z, 0.00833216f);
  s = philox_fma(s, z, -0.16666655f);
  s = philox_fma(r * z, s, r);
  float c = philox_fma(2.4433157e-05f, z, -0.0013887316f);
  c = philox_fma(c, z, 0.041666646f);
  c = philox_fma(z * z, c, philox_fma(z, -0.5f, 1.0f));
  const bool swap = (q & 1u) != 0;
  *sine = philox_float(philox_bits(swap ? c : s) ^ ((q & 2u) << 30));
  *cosine = philox_float(philox_bits(swap ? s : c) ^ (((q + 1u) & 2u) << 30));
}

}  // namespace detail

// The four words of one block.
SEQLOOM_HOST_DEVICE PhiloxBlock philox_block(uint64_t seed, uint64_t block,
                                             uint64_t substream = 0) {
  uint32_t c0 = static_cast<uint32_t>(block), c1 = static_cast<uint32_t>(block >> 32);
  uint32_t c2 = static_cast<uint32_t>(substream), c3 = static_cast<uint32_t>(substream >> 32);
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < detail::kPhiloxRounds; ++round) {
    const uint64_t product0 = static_cast<uint64_t>(detail::kPhiloxMultiplier0) * c0;
    const uint64_t product1 = static_cast<uint64_t>(detail::kPhiloxMultiplier1) * c2;
    c0 = static_cast<uint32_t>(product1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(product1);
    c2 = static_cast<uint32_t>(product0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(product0);
    k0 += detail::kPhiloxWeyl0;
    k1 += detail::kPhiloxWeyl1;
  }
  return PhiloxBlock{{c0, c1, c2, c3}};
}

SEQLOOM_HOST_DEVICE float philox_to_uniform(uint32_t word) {
  return static_cast<float>(word >> 8) * 5.9604644775390625e-8f;  // 2^-24
}

// Two normals from two words.
SEQLOOM_HOST_DEVICE void philox_to_normals(uint32_t word0, uint32_t word1, float* first,
                                           float* second) {
  const float u = detail::philox_fma(static_cast<float>(word0), 2.3283064365386963e-10f,
                                     1.1641532182693481e-10f);  // 2^-32, 2^-33
  const float radius = detail::philox_sqrt(-2.0f * detail::philox_log(u));
  float sine, cosine;
  detail::philox_sincos_turns(philox_to_uniform(word1), &sine, &cosine);
  *first = radius * cosine;
  *second = radius * sine;
}

// Element i of the stream (seed, offset) is philox_uniform(seed, offset + i).
SEQLOOM_HOST_DEVICE float philox_uniform(uint64_t seed, uint64_t element, uint64_t substream = 0) {
  return philox_to_uniform(philox_block(seed, element / 4, substream).word[element % 4]);
}

SEQLOOM_HOST_DEVICE float philox_normal(uint64_t seed, uint64_t element, uint64_t substream = 0) {
  const PhiloxBlock b = philox_block(seed, element / 4, substream);
  float first, second;
  if (element & 2) {
    philox_to_normals(b.word[2], b.word[3], &first, &second);
  } else {
    philox_to_normals(b.word[0], b.word[1], &first, &second);
  }
  return (element & 1) ? second : first;
}

}  // namespace seqloom
