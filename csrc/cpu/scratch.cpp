// SPDX-License-Identifier: Apache-2.0
#include "cpu/scratch.h"

#include <algorithm>
#include <new>

#include "core/allocator.h"

namespace seqloom::cpu {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kFirst = size_t{64} << 10;

// One contiguous arena a thread, used as a stack. When it is too small, the request is served by a
// block of its own, and the arena grows to what was wanted once it is empty again: after the first
// calls of a kernel everything comes from the arena.
struct Arena {
  char* memory = nullptr;
  size_t size = 0;
  size_t used = 0;
  size_t outside = 0;  // bytes in blocks of their own
  size_t highest = 0;  // the largest used + outside since the arena was last empty

  ~Arena() { trim(); }

  void trim() noexcept {
    if (used != 0 || memory == nullptr) return;
    seqloom::detail::system_free(memory, size);
    memory = nullptr;
    size = 0;
  }

  void grow() noexcept {
    const size_t wanted = std::min(std::max(highest, kFirst), kScratchKept);
    highest = 0;
    if (wanted <= size) return;
    trim();
    size_t rounded = kFirst;
    while (rounded < wanted) rounded *= 2;
    memory = static_cast<char*>(seqloom::detail::system_allocate(rounded));
    size = memory != nullptr ? rounded : 0;
  }
};

thread_local Arena arena;

size_t rounded_up(size_t bytes) {
  return (std::max<size_t>(bytes, 1) + kAlignment - 1) & ~(kAlignment - 1);
}

}  // namespace

namespace detail {

void* scratch_acquire(size_t bytes) {
  if (bytes > (~size_t{0} >> 2)) throw std::bad_alloc();
  const size_t need = rounded_up(bytes);
  Arena& a = arena;
  if (SEQLOOM_LIKELY(a.size - a.used >= need)) {
    char* memory = a.memory + a.used;
    a.used += need;
    return memory;
  }
  void* memory = cpu_allocate(need);
  if (memory == nullptr) throw std::bad_alloc();
  a.outside += need;
  a.highest = std::max(a.highest, a.used + a.outside);
  return memory;
}

void scratch_release(void* memory, size_t bytes) noexcept {
  const size_t need = rounded_up(bytes);
  Arena& a = arena;
  char* start = static_cast<char*>(memory);
  if (SEQLOOM_LIKELY(start >= a.memory && start < a.memory + a.size)) {
    a.used = static_cast<size_t>(start - a.memory);
  } else {
    cpu_free(memory, need);
    a.outside -= need;
  }
  if (SEQLOOM_UNLIKELY(a.highest != 0) && a.used == 0 && a.outside == 0) a.grow();
}

}  // namespace detail

void scratch_trim() noexcept { arena.trim(); }

}  // namespace seqloom::cpu
