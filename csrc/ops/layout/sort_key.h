// SPDX-License-Identifier: Apache-2.0
// Sort keys: elements as unsigned integers whose order is the elements' order. Shared by both
// backends, so that ties, NaN and signed zeros come out alike.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/half.h"

namespace seqloom::ops {

template <class T>
struct SortKey;  // kBits of key; of(x) with NaN above everything and -0 equal to +0

template <>
struct SortKey<float> {
  static constexpr int kBits = 32;
  static SEQLOOM_HOST_DEVICE uint64_t of(float x) {
    if (x != x) return 0xffffffffu;
    uint32_t u;
    x += 0.0f;  // -0 becomes +0
    memcpy(&u, &x, sizeof(u));
    return (u & 0x80000000u) != 0 ? static_cast<uint32_t>(~u) : u | 0x80000000u;
  }
};
template <class T>
struct SixteenBitKey {
  static constexpr int kBits = 16;
  static SEQLOOM_HOST_DEVICE uint64_t of(T x) {
    if ((x.bits & 0x7fffu) == 0) return 0x8000u;
    if ((x.bits & 0x7fffu) > infinity(x)) return 0xffffu;
    return (x.bits & 0x8000u) != 0 ? static_cast<uint16_t>(~x.bits) : x.bits | 0x8000u;
  }
  static SEQLOOM_HOST_DEVICE uint16_t infinity(f16) { return 0x7c00u; }
  static SEQLOOM_HOST_DEVICE uint16_t infinity(bf16) { return 0x7f80u; }
};
template <>
struct SortKey<f16> : SixteenBitKey<f16> {};
template <>
struct SortKey<bf16> : SixteenBitKey<bf16> {};
template <>
struct SortKey<double> {
  static constexpr int kBits = 64;
  static SEQLOOM_HOST_DEVICE uint64_t of(double x) {
    if (x != x) return ~uint64_t{0};
    uint64_t u;
    x += 0.0;
    memcpy(&u, &x, sizeof(u));
    return u >> 63 != 0 ? ~u : u | uint64_t{1} << 63;
  }
};
template <>
struct SortKey<int64_t> {
  static constexpr int kBits = 64;
  static SEQLOOM_HOST_DEVICE uint64_t of(int64_t x) {
    return static_cast<uint64_t>(x) ^ uint64_t { 1 } << 63;
  }
};
template <>
struct SortKey<int32_t> {
  static constexpr int kBits = 32;
  static SEQLOOM_HOST_DEVICE uint64_t of(int32_t x) {
    return static_cast<uint32_t>(x) ^ 0x80000000u;
  }
};
template <>
struct SortKey<int8_t> {
  static constexpr int kBits = 8;
  static SEQLOOM_HOST_DEVICE uint64_t of(int8_t x) { return static_cast<uint8_t>(x) ^ 0x80u; }
};
template <>
struct SortKey<uint8_t> {
  static constexpr int kBits = 8;
  static SEQLOOM_HOST_DEVICE uint64_t of(uint8_t x) { return x; }
};
template <>
struct SortKey<bool> {
  static constexpr int kBits = 8;
  static SEQLOOM_HOST_DEVICE uint64_t of(bool x) { return x ? 1 : 0; }
};

// The key of the wanted direction: all ones flipped for descending.
template <class T>
SEQLOOM_HOST_DEVICE uint64_t sort_key(T x, bool descending) {
  constexpr uint64_t kAll = ~uint64_t{0} >> (64 - SortKey<T>::kBits);
  return descending ? SortKey<T>::of(x) ^ kAll : SortKey<T>::of(x);
}

}  // namespace seqloom::ops
