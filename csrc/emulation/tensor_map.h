// SPDX-License-Identifier: Apache-2.0
// The emulator's view of a tensor map: stored in the 128 opaque bytes of a CUtensorMap.
#pragma once
#include <cstdint>

namespace seqloom::emulation {

struct TensorMapRecord {
  static constexpr std::uint64_t kMagic = 0x70616d726f736e74ull;
  std::uint64_t magic;
  unsigned char* base;
  std::uint64_t dims[4];
  std::uint64_t strides[3];  // bytes, of dimensions 1 to 3
  std::uint32_t box[4];
  std::uint8_t rank, element_bytes, swizzle;  // swizzle: 0, 32, 64 or 128 bytes
};
static_assert(sizeof(TensorMapRecord) <= 128, "must fit into a CUtensorMap");

// Shared address of a byte after swizzling: bits 7-9 are folded into bits 4-6 (fewer for narrower
// patterns).
inline std::uint32_t swizzle_address(std::uint32_t address, int bytes) {
  switch (bytes) {
    case 128:
      return address ^ ((address >> 3) & 0x70);
    case 64:
      return address ^ ((address >> 3) & 0x30);
    case 32:
      return address ^ ((address >> 3) & 0x10);
    default:
      return address;
  }
}

}  // namespace seqloom::emulation
