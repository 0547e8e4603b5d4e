// SPDX-License-Identifier: Apache-2.0
// Loads and stores of the first n elements of a small vector, where the hardware has no masked
// form.
//
// They touch exactly the n elements (a tensor may end at an unmapped page) with a few overlapping
// or halving moves instead of a loop.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/macros.h"

namespace seqloom::SEQLOOM_ISA_NS {

struct Bytes16 {
  uint64_t low, high;
};

// The first `bytes` (0..8) bytes at p, zero-extended.
SEQLOOM_ALWAYS_INLINE uint64_t load_bytes8(const void* p, int bytes) {
  const char* c = static_cast<const char*>(p);
  uint64_t value = 0;
  if (bytes >= 8) {
    memcpy(&value, c, 8);
    return value;
  }
  int at = 0;
  if (bytes & 4) {
    uint32_t part;
    memcpy(&part, c, 4);
    value = part;
    at = 4;
  }
  if (bytes & 2) {
    uint16_t part;
    memcpy(&part, c + at, 2);
    value |= static_cast<uint64_t>(part) << (8 * at);
    at += 2;
  }
  if (bytes & 1) value |= static_cast<uint64_t>(static_cast<uint8_t>(c[at])) << (8 * at);
  return value;
}

// The first `bytes` (0..16) bytes at p, zero-extended.
SEQLOOM_ALWAYS_INLINE Bytes16 load_bytes16(const void* p, int bytes) {
  if (bytes < 8) return {load_bytes8(p, bytes), 0};
  return {load_bytes8(p, 8), load_bytes8(static_cast<const char*>(p) + 8, bytes - 8)};
}

SEQLOOM_ALWAYS_INLINE void store_bytes8(void* p, uint64_t value, int bytes) {
  char* c = static_cast<char*>(p);
  if (bytes >= 8) {
    memcpy(c, &value, 8);
    return;
  }
  if (bytes & 4) {
    const uint32_t part = static_cast<uint32_t>(value);
    memcpy(c, &part, 4);
    value >>= 32;
    c += 4;
  }
  if (bytes & 2) {
    const uint16_t part = static_cast<uint16_t>(value);
    memcpy(c, &part, 2);
    value >>= 16;
    c += 2;
  }
  if (bytes & 1) *c = static_cast<char>(value);
}

SEQLOOM_ALWAYS_INLINE void store_bytes16(void* p, Bytes16 value, int bytes) {
  if (bytes < 8) return store_bytes8(p, value.low, bytes);
  memcpy(p, &value.low, 8);
  store_bytes8(static_cast<char*>(p) + 8, value.high, bytes - 8);
}

}  // namespace seqloom::SEQLOOM_ISA_NS
