// SPDX-License-Identifier: Apache-2.0
// The state of the default random stream. Every random op draws a RandomKey: a seed and the
// position in the Philox stream from which its element i takes number `offset + i`.
#pragma once

#include <cstdint>

namespace seqloom {

struct RandomKey {
  uint64_t seed;
  uint64_t offset;
};

void manual_seed(uint64_t seed);           // offset back to 0
RandomKey next_random_key(int64_t count);  // reserves `count` numbers (rounded up to 4)
RandomKey random_state();
void set_random_state(RandomKey state);

}  // namespace seqloom
