// SPDX-License-Identifier: Apache-2.0
// CPU memory for arrays: 64-byte aligned blocks from a cache, on huge pages from 2 MB on.
//
// A fresh large block costs a page fault for every page that is touched, four times the run time of
// a memory-bound kernel, so freed blocks are kept for the next request of their size class. Classes
// are an eighth of a power of two apart from 1 KB on. The cache is bounded: SEQLOOM_CPU_CACHE_MB in
// the environment or cpu_set_cache_limit; past the limit the blocks that have lain longest go back
// to the system. All functions are thread-safe and survive a fork.
#pragma once

#include <cstddef>
#include <cstdint>

namespace seqloom {

struct CpuMemoryStats {
  size_t in_use;       // bytes in blocks that are handed out, as rounded to their class
  size_t peak_in_use;  // the largest value of in_use so far (cpu_reset_peak)
  size_t cached;       // bytes in freed blocks that are kept
  size_t cache_limit;
  uint64_t allocations;         // calls of cpu_allocate that succeeded
  uint64_t system_allocations;  // those among them that the cache could not serve
};

// At least `bytes` bytes (0 gives a valid block too), aligned to 64 bytes (2 MB for huge pages),
// not initialised; nullptr when the system has no memory left, even after the cache has been
// emptied.
void* cpu_allocate(size_t bytes) noexcept;

// `bytes` as it was asked for. nullptr is ignored.
void cpu_free(void* block, size_t bytes) noexcept;

CpuMemoryStats cpu_memory_stats() noexcept;
void cpu_reset_peak() noexcept;

// Returns every cached block to the system.
void cpu_empty_cache() noexcept;

// Shrinks the cache at once if it holds more.
void cpu_set_cache_limit(size_t bytes) noexcept;

namespace detail {

// Blocks straight from the system, uncounted: for what must not pass through the cache.
void* system_allocate(size_t bytes) noexcept;
void system_free(void* block, size_t bytes) noexcept;

}  // namespace detail
}  // namespace seqloom
