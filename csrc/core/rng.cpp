// SPDX-License-Identifier: Apache-2.0
#include "core/rng.h"

#include <mutex>

namespace seqloom {
namespace {
std::mutex guard;
RandomKey state{0x5eed, 0};
}  // namespace

void manual_seed(uint64_t seed) { set_random_state({seed, 0}); }

RandomKey next_random_key(int64_t count) {
  std::lock_guard<std::mutex> lock(guard);
  const RandomKey key = state;
  state.offset += (static_cast<uint64_t>(count) + 3) / 4 * 4;
  return key;
}

RandomKey random_state() {
  std::lock_guard<std::mutex> lock(guard);
  return state;
}

void set_random_state(RandomKey new_state) {
  std::lock_guard<std::mutex> lock(guard);
  state = new_state;
}

}  // namespace seqloom
