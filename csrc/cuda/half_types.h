// SPDX-License-Identifier: Apache-2.0
// Conversions between float and the 16-bit types that kernels are instantiated for, and the packed
// pairs that tensor-core instructions take. All arithmetic is done in float.
#pragma once
#include "cuda/gpu.h"

namespace seqloom::cuda {

using Half = __half;
using BFloat16 = __nv_bfloat16;

SEQLOOM_DEVICE float to_float(float x) { return x; }
SEQLOOM_DEVICE float to_float(Half x) { return __half2float(x); }
SEQLOOM_DEVICE float to_float(BFloat16 x) { return __bfloat162float(x); }

template <class T>
SEQLOOM_DEVICE T from_float(float x);
template <>
SEQLOOM_DEVICE float from_float<float>(float x) {
  return x;
}
template <>
SEQLOOM_DEVICE Half from_float<Half>(float x) {
  return __float2half_rn(x);
}
template <>
SEQLOOM_DEVICE BFloat16 from_float<BFloat16>(float x) {
  return __float2bfloat16_rn(x);
}

// Two values rounded to T in one 32-bit register, `low` in bits 0-15: an mma operand register.
template <class T>
SEQLOOM_DEVICE uint32_t pack_pair(float low, float high);
template <>
SEQLOOM_DEVICE uint32_t pack_pair<Half>(float low, float high) {
  const __half2 v = __floats2half2_rn(low, high);
  uint32_t bits;
  memcpy(&bits, static_cast<const void*>(&v), 4);
  return bits;
}
template <>
SEQLOOM_DEVICE uint32_t pack_pair<BFloat16>(float low, float high) {
  const __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
  uint32_t bits;
  memcpy(&bits, static_cast<const void*>(&v), 4);
  return bits;
}

// The reverse: both halves as floats.
template <class T>
SEQLOOM_DEVICE float2 unpack_pair(uint32_t bits);
template <>
SEQLOOM_DEVICE float2 unpack_pair<Half>(uint32_t bits) {
  __half2 v;
  memcpy(static_cast<void*>(&v), &bits, 4);
  return __half22float2(v);
}
template <>
SEQLOOM_DEVICE float2 unpack_pair<BFloat16>(uint32_t bits) {
  return make_float2(__uint_as_float(bits << 16), __uint_as_float(bits & 0xffff0000u));
}

}  // namespace seqloom::cuda
