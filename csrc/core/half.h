// SPDX-License-Identifier: Apache-2.0
// The 16-bit storage types and their scalar conversions.
//
//   bf16   1 sign, 8 exponent, 7 mantissa bits: the upper half of a float
//   f16    1 sign, 5 exponent, 10 mantissa bits: IEEE 754 binary16
//
// Widening is exact. Narrowing rounds to nearest, ties to even, gives infinity past the largest
// finite value, keeps subnormals, and keeps a NaN a (quiet) NaN with its sign and upper payload.
// The conversions use integer arithmetic only where the hardware's mode could change a result, so
// they agree bit for bit with F16C, AVX-512, NEON and CUDA.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/macros.h"

namespace seqloom {

struct bf16 {
  uint16_t bits;
};

struct f16 {
  uint16_t bits;
};

namespace detail {

SEQLOOM_HOST_DEVICE uint32_t float_to_bits(float x) {
  uint32_t u;
  memcpy(&u, &x, sizeof(u));
  return u;
}

SEQLOOM_HOST_DEVICE float bits_to_float(uint32_t u) {
  float x;
  memcpy(&x, &u, sizeof(x));
  return x;
}

}  // namespace detail

SEQLOOM_HOST_DEVICE float to_float(float x) { return x; }

SEQLOOM_HOST_DEVICE float to_float(bf16 x) {
  return detail::bits_to_float(static_cast<uint32_t>(x.bits) << 16);
}

SEQLOOM_HOST_DEVICE float to_float(f16 x) {
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16;
  const uint32_t magnitude = static_cast<uint32_t>(x.bits & 0x7fffu) << 13;
  const uint32_t exponent = magnitude & 0x0f800000u;
  uint32_t bits = magnitude + (112u << 23);  // rebias 15 -> 127
  if (exponent == 0x0f800000u) {             // infinity and NaN: exponent 255, NaN made quiet
    bits += 112u << 23;
    if (magnitude != 0x0f800000u) bits |= 0x00400000u;
  } else if (exponent == 0) {  // zero and subnormals: normalise by an exact subtraction of 2^-14
    bits = detail::float_to_bits(detail::bits_to_float(bits + (1u << 23)) -
                                 detail::bits_to_float(113u << 23));
  }
  return detail::bits_to_float(bits | sign);
}

// from_float<T>(x): T is float, bf16 or f16.
template <class T>
SEQLOOM_HOST_DEVICE T from_float(float x);

template <>
SEQLOOM_HOST_DEVICE float from_float<float>(float x) {
  return x;
}

template <>
SEQLOOM_HOST_DEVICE bf16 from_float<bf16>(float x) {
  const uint32_t bits = detail::float_to_bits(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) {
    return bf16{static_cast<uint16_t>((bits >> 16) | 0x0040u)};
  }
  return bf16{static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

template <>
SEQLOOM_HOST_DEVICE f16 from_float<f16>(float x) {
  const uint32_t bits = detail::float_to_bits(x);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  uint32_t half;
  if (magnitude > 0x7f800000u) {  // NaN
    half = 0x7e00u | ((magnitude >> 13) & 0x01ffu);
  } else if (magnitude >= 0x477ff000u) {  // 65520 and up round to infinity
    half = 0x7c00u;
  } else if (magnitude < 0x38800000u) {
    // Below 2^-14 the unit is 2^-24, that of 0.5f: the addition does the rounding.
    half = detail::float_to_bits(detail::bits_to_float(magnitude) + 0.5f) - 0x3f000000u;
  } else {
    half = (magnitude - (112u << 23) + 0x0fffu + ((magnitude >> 13) & 1u)) >> 13;
  }
  return f16{static_cast<uint16_t>(half | sign)};
}

}  // namespace seqloom
