// SPDX-License-Identifier: Apache-2.0
// The random streams of core/philox.h, a vector of blocks at a time. For kernel files only.
//
//   philox_uniforms(seed, offset, n, [&](int64_t i, VecF u, int count) { ... });
//
// calls the function for consecutive groups that cover [0, n): lane j < count of `u` is element i +
// j of the stream (seed, offset). philox_normals does so with normals. Offsets that are multiples
// of 4 are the fast case. Any part of a stream can be made by itself: pass offset + begin for a
// chunk.
#pragma once

#include "core/philox.h"
#include "cpu/vec.h"
#include "cpu/vec_math.h"

namespace seqloom::SEQLOOM_ISA_NS {

// Word w of kLanes consecutive blocks, for w = 0..3.
struct PhiloxWords {
  VecI word[4];
};

SEQLOOM_ALWAYS_INLINE VecI broadcast_low(uint64_t x) {
  return VecI::broadcast(static_cast<int32_t>(static_cast<uint32_t>(x)));
}

SEQLOOM_ALWAYS_INLINE PhiloxWords philox_blocks(uint64_t seed, uint64_t first_block,
                                                uint64_t substream = 0) {
  // A 64-bit sum in two halves; the carry shows in an unsigned comparison.
  const VecI top = VecI::broadcast(static_cast<int32_t>(0x80000000u));
  VecI c0 = broadcast_low(first_block) + VecI::iota();
  const Mask carry = (c0 ^ top) < (broadcast_low(first_block) ^ top);
  VecI c1 = broadcast_low(first_block >> 32) + select(carry, VecI::broadcast(1), VecI::zero());
  VecI c2 = broadcast_low(substream), c3 = broadcast_low(substream >> 32);
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < seqloom::detail::kPhiloxRounds; ++round) {
    VecI high0, low0, high1, low1;
    mul_wide(broadcast_low(seqloom::detail::kPhiloxMultiplier0), c0, &high0, &low0);
    mul_wide(broadcast_low(seqloom::detail::kPhiloxMultiplier1), c2, &high1, &low1);
    c0 = high1 ^ c1 ^ broadcast_low(k0);
    c1 = low1;
    c2 = high0 ^ c3 ^ broadcast_low(k1);
    c3 = low0;
    k0 += seqloom::detail::kPhiloxWeyl0;
    k1 += seqloom::detail::kPhiloxWeyl1;
  }
  return {{c0, c1, c2, c3}};
}

SEQLOOM_ALWAYS_INLINE VecF philox_to_uniform(VecI word) {
  return to_float(shift_right_logical(word, 8)) * VecF::broadcast(5.9604644775390625e-8f);
}

SEQLOOM_ALWAYS_INLINE void philox_to_normals(VecI word0, VecI word1, VecF* first, VecF* second) {
  const VecF u = fma(uint_to_float(word0), VecF::broadcast(2.3283064365386963e-10f),
                     VecF::broadcast(1.1641532182693481e-10f));
  const VecF log_u = log_of_bits(as_int(u), VecF::zero(), VecF::zero());
  const VecF radius = sqrt(VecF::broadcast(-2.0f) * log_u);
  VecF sine, cosine;
  sincos_turns(philox_to_uniform(word1), &sine, &cosine);
  *first = radius * cosine;
  *second = radius * sine;
}

// Four vectors with lane = block into the order of elements: word 0..3 of block 0, of block 1, ...
SEQLOOM_ALWAYS_INLINE void to_element_order(VecF v[4]) {
  VecF even_low, even_high, odd_low, odd_high;
  interleave(v[0], v[2], &even_low, &even_high);
  interleave(v[1], v[3], &odd_low, &odd_high);
  interleave(even_low, odd_low, &v[0], &v[1]);
  interleave(even_high, odd_high, &v[2], &v[3]);
}

// Elements 4 first_block .. 4 first_block + 4 kLanes - 1 of the stream `seed`.
SEQLOOM_ALWAYS_INLINE void uniform_blocks(uint64_t seed, uint64_t first_block, VecF out[4]) {
  const PhiloxWords words = philox_blocks(seed, first_block);
  for (int w = 0; w < 4; ++w) out[w] = philox_to_uniform(words.word[w]);
  to_element_order(out);
}
SEQLOOM_ALWAYS_INLINE void normal_blocks(uint64_t seed, uint64_t first_block, VecF out[4]) {
  const PhiloxWords words = philox_blocks(seed, first_block);
  philox_to_normals(words.word[0], words.word[1], &out[0], &out[1]);
  philox_to_normals(words.word[2], words.word[3], &out[2], &out[3]);
  to_element_order(out);
}

template <class Generate, class Body>
SEQLOOM_ALWAYS_INLINE void philox_groups(uint64_t seed, uint64_t offset, int64_t n,
                                         Generate generate, const Body& body) {
  VecF v[4];
  uint64_t block = offset / 4;
  int64_t i = 0;
  if (const int skip = static_cast<int>(offset % 4); skip != 0 && n > 0) {
    // The first group starts inside a block: through memory.
    float group[4 * kLanes];
    generate(seed, block, v);
    for (int w = 0; w < 4; ++w) store(group + w * kLanes, v[w]);
    for (int at = skip; at < 4 * kLanes && i < n;) {
      const int count =
          static_cast<int>(min<int64_t>(min<int64_t>(kLanes, 4 * kLanes - at), n - i));
      body(i, load(group + at, count), count);
      at += count;
      i += count;
    }
    block += kLanes;
  }
  for (; i < n; block += kLanes) {
    generate(seed, block, v);
    for (int w = 0; w < 4 && i < n; ++w) {
      const int count = static_cast<int>(min<int64_t>(kLanes, n - i));
      body(i, v[w], count);
      i += count;
    }
  }
}

template <class Body>
SEQLOOM_ALWAYS_INLINE void philox_uniforms(uint64_t seed, uint64_t offset, int64_t n,
                                           const Body& body) {
  struct Generate {
    SEQLOOM_ALWAYS_INLINE void operator()(uint64_t s, uint64_t block, VecF out[4]) const {
      uniform_blocks(s, block, out);
    }
  };
  philox_groups(seed, offset, n, Generate{}, body);
}

template <class Body>
SEQLOOM_ALWAYS_INLINE void philox_normals(uint64_t seed, uint64_t offset, int64_t n,
                                          const Body& body) {
  struct Generate {
    SEQLOOM_ALWAYS_INLINE void operator()(uint64_t s, uint64_t block, VecF out[4]) const {
      normal_blocks(s, block, out);
    }
  };
  philox_groups(seed, offset, n, Generate{}, body);
}

}  // namespace seqloom::SEQLOOM_ISA_NS
