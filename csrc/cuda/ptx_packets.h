// SPDX-License-Identifier: Apache-2.0
// Packets between blocks: data that carries its own validity.
//
// PTX's memory model knows scalar accesses of up to 64 bits; a vector access counts as several of
// them, in any order. So the unit that travels whole is 64 bits: a word of data beside the word
// that says what it is. Two such packets move with one 16-byte instruction, and each has to be
// judged by itself.
#pragma once

#include "cuda/ptx.h"

namespace seqloom::cuda::ptx {

#if !defined(__CUDACC__)
SEQLOOM_UNCHECKED inline uint2 read_packet(const uint2* p, emulation::Site site) {
  emulation::note_atomic(p, sizeof(uint2), emulation::kRelaxed, emulation::AtomicKind::kLoad, site);
  return *p;
}
#endif

// x, y: data and mark of the first packet; z, w: of the second. Ordered with nothing else. `mark`
// is what the caller waits for: the emulator lets others run where it is not there yet.
SEQLOOM_DEVICE uint4 load_packets(const uint4* p, uint32_t mark SEQLOOM_SITE) {
#if defined(__CUDACC__)
  static_cast<void>(mark);
  uint64_t first, second;
  asm volatile("ld.relaxed.gpu.global.v2.b64 {%0,%1}, [%2];"
               : "=l"(first), "=l"(second)
               : "l"(p)
               : "memory");
  return make_uint4(static_cast<uint32_t>(first), static_cast<uint32_t>(first >> 32),
                    static_cast<uint32_t>(second), static_cast<uint32_t>(second >> 32));
#else
  const uint2* halves = reinterpret_cast<const uint2*>(p);
  const uint2 second = read_packet(halves + 1, site);
  if (second.y != mark) emulation::pause_thread(site);
  const uint2 first = read_packet(halves, site);
  if (first.y != mark) emulation::pause_thread(site);
  return make_uint4(first.x, first.y, second.x, second.y);
#endif
}
SEQLOOM_DEVICE void store_packets(uint4* p, uint4 v SEQLOOM_SITE) {
#if defined(__CUDACC__)
  const uint64_t first = static_cast<uint64_t>(v.y) << 32 | v.x;
  const uint64_t second = static_cast<uint64_t>(v.w) << 32 | v.z;
  asm volatile("st.relaxed.gpu.global.v2.b64 [%0], {%1,%2};" ::"l"(p), "l"(first), "l"(second)
               : "memory");
#else
  uint2* halves = reinterpret_cast<uint2*>(p);
  emulation::store_ordered(halves, make_uint2(v.x, v.y), emulation::kRelaxed, site);
  emulation::store_ordered(halves + 1, make_uint2(v.z, v.w), emulation::kRelaxed, site);
#endif
}

}  // namespace seqloom::cuda::ptx
