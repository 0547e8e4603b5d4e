// SPDX-License-Identifier: Apache-2.0
// Sorting on CUDA: a bitonic network over (key, place) pairs, which are all different, so the
// result is the stable one. Pieces of up to 2048 pairs are sorted in shared memory; longer rows
// exchange through global memory.
#pragma once

#include <cstdint>

namespace seqloom::ops {

// The power of two that a row of n pairs takes.
inline int64_t padded_length(int64_t n) {
  int64_t p = 2;
  while (p < n) p *= 2;
  return p;
}

// Rows of n keys in ascending order, as unsigned numbers, with the places where they stood.
// `sorted` and `places` hold rows * padded_length(n); what lies past n in a row is padding.
void sort_keys(const uint64_t* keys, int64_t rows, int64_t n, uint64_t* sorted, uint32_t* places);

}  // namespace seqloom::ops
