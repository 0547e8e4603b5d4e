// SPDX-License-Identifier: Apache-2.0
// 16-byte loads and stores of float, half and bfloat16 with conversion to and from float. A warp
// reads or writes 512 consecutive bytes with one instruction a lane.
#pragma once
#include "cuda/half_types.h"

namespace seqloom::cuda {

// How many elements of T one 16-byte access moves.
template <class T>
constexpr int kVectorWidth = 16 / static_cast<int>(sizeof(T));

// True where `p` may be accessed 16 bytes at a time.
template <class T>
SEQLOOM_DEVICE bool is_aligned16(const T* p) {
  return (reinterpret_cast<std::uintptr_t>(p) & 15) == 0;
}

namespace detail {
template <class T>
SEQLOOM_DEVICE void unpack16(const uint4& raw, float (&out)[kVectorWidth<T>]) {
  T values[kVectorWidth<T>];
  memcpy(static_cast<void*>(values), &raw, 16);
#pragma unroll
  for (int i = 0; i < kVectorWidth<T>; ++i) out[i] = to_float(values[i]);
}
template <class T>
SEQLOOM_DEVICE uint4 pack16(const float (&in)[kVectorWidth<T>]) {
  T values[kVectorWidth<T>];
#pragma unroll
  for (int i = 0; i < kVectorWidth<T>; ++i) values[i] = from_float<T>(in[i]);
  uint4 raw;
  memcpy(&raw, static_cast<const void*>(values), 16);
  return raw;
}
}  // namespace detail

// out[i] = p[i]; p is 16-byte aligned and holds kVectorWidth<T> elements.
template <class T>
SEQLOOM_DEVICE void load_vector(const T* p, float (&out)[kVectorWidth<T>]) {
  detail::unpack16<T>(*reinterpret_cast<const uint4*>(p), out);
}

// The same for data that is read once: marked to leave the caches early.
template <class T>
SEQLOOM_DEVICE void load_vector_streaming(const T* p, float (&out)[kVectorWidth<T>]) {
  detail::unpack16<T>(__ldcs(reinterpret_cast<const uint4*>(p)), out);
}

// The same for data that no thread writes while the kernel runs (read-only cache).
template <class T>
SEQLOOM_DEVICE void load_vector_readonly(const T* p, float (&out)[kVectorWidth<T>] SEQLOOM_SITE) {
  detail::unpack16<T>(__ldg(reinterpret_cast<const uint4*>(p) SEQLOOM_PASS_SITE), out);
}

// p[i] = in[i], rounded to T.
template <class T>
SEQLOOM_DEVICE void store_vector(T* p, const float (&in)[kVectorWidth<T>]) {
  *reinterpret_cast<uint4*>(p) = detail::pack16<T>(in);
}

template <class T>
SEQLOOM_DEVICE void store_vector_streaming(T* p, const float (&in)[kVectorWidth<T>]) {
  __stcs(reinterpret_cast<uint4*>(p), detail::pack16<T>(in));
}

// Ragged ends: the first `count` elements, the others of `out` become `fill`.
template <class T>
SEQLOOM_DEVICE void load_partial(const T* p, int count, float fill, float (&out)[kVectorWidth<T>]) {
#pragma unroll
  for (int i = 0; i < kVectorWidth<T>; ++i) out[i] = i < count ? to_float(p[i]) : fill;
}

template <class T>
SEQLOOM_DEVICE void store_partial(T* p, int count, const float (&in)[kVectorWidth<T>]) {
#pragma unroll
  for (int i = 0; i < kVectorWidth<T>; ++i)
    if (i < count) p[i] = from_float<T>(in[i]);
}

}  // namespace seqloom::cuda
