// SPDX-License-Identifier: Apache-2.0
#include "core/allocator.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <limits>
#include <thread>

#include "core/macros.h"

#if defined(_WIN32)
#include <malloc.h>
#else
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace seqloom {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kLargest = std::numeric_limits<size_t>::max() / 4;

// ---- size classes ----
// Up to 1 KB multiples of 64; then eight steps per power of two, so that at most 1/8 is wasted.
constexpr int kSmallClasses = 16;
constexpr int kStepBits = 3;
constexpr int kFirstLog = 10;
constexpr int kClasses = kSmallClasses + ((62 - kFirstLog) << kStepBits);

int floor_log2(size_t x) {
#if defined(__GNUC__)
  return 63 - __builtin_clzll(x);
#else
  int log = 0;
  while (x >>= 1) ++log;
  return log;
#endif
}

struct SizeClass {
  int index;
  size_t bytes;
};

SizeClass size_class(size_t bytes) {
  if (bytes <= kSmallClasses * kAlignment) {
    const size_t units = std::max<size_t>(1, (bytes + kAlignment - 1) / kAlignment);
    return {static_cast<int>(units) - 1, units * kAlignment};
  }
  // 2^log < bytes <= 2^(log + 1), divided into steps of 2^(log - 3).
  const int log = floor_log2(bytes - 1);
  const size_t step = size_t{1} << (log - kStepBits);
  const size_t steps = (bytes - (size_t{1} << log) + step - 1) / step;  // 1 .. 8
  return {kSmallClasses + ((log - kFirstLog) << kStepBits) + static_cast<int>(steps) - 1,
          (size_t{1} << log) + steps * step};
}

// ---- lock ----
// Held for some ten instructions; yields when its holder has lost the processor.
class SpinLock {
 public:
  void lock() {
    while (SEQLOOM_UNLIKELY(held_.exchange(true, std::memory_order_acquire))) {
      for (int i = 0; held_.load(std::memory_order_relaxed); ++i) {
        if (i > 100) std::this_thread::yield();
      }
    }
  }
  void unlock() { held_.store(false, std::memory_order_release); }

 private:
  std::atomic<bool> held_{false};
};

// ---- cache ----
// A freed block holds its own links: a stack per class, newest first.
struct Block {
  Block* older;
  Block* newer;
  uint64_t time;  // of the free
  size_t bytes;
};

struct Stack {
  Block* newest = nullptr;
  Block* oldest = nullptr;
};

struct Cache {
  SpinLock lock;
  Stack stacks[kClasses];
  int highest_class = 0;  // no block lies in a class above
  uint64_t clock = 0;
  CpuMemoryStats stats{};
};

size_t default_cache_limit() {
  if (const char* text = std::getenv("SEQLOOM_CPU_CACHE_MB")) {
    char* end = nullptr;
    const unsigned long long megabytes = std::strtoull(text, &end, 10);
    if (end != text && *end == '\0' && megabytes < (1ull << 40)) {
      return static_cast<size_t>(megabytes) << 20;
    }
  }
  // An eighth of the memory, at most 4 GB.
  size_t limit = size_t{1} << 30;
#if defined(_SC_PHYS_PAGES)
  const long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
  if (pages > 0 && page > 0) limit = static_cast<size_t>(pages) * static_cast<size_t>(page) / 8;
#endif
  return std::min(limit, size_t{4} << 30);
}

// On the heap for ever: arrays may be freed after static objects are gone.
Cache& cache() {
  static Cache* const instance = [] {
    auto* c = new Cache;
    c->stats.cache_limit = default_cache_limit();
    return c;
  }();
  return *instance;
}

#if !defined(_WIN32)
// Holding the lock across a fork keeps the child's cache whole.
const int registered_fork_handlers = pthread_atfork(
    [] { cache().lock.lock(); }, [] { cache().lock.unlock(); }, [] { cache().lock.unlock(); });
#endif

void unlink(Stack* stack, Block* block) {
  (block->newer != nullptr ? block->newer->older : stack->newest) = block->older;
  (block->older != nullptr ? block->older->newer : stack->oldest) = block->newer;
}

// Takes out blocks, longest unused first, until at most `limit` bytes are cached; returns them
// linked by `older`, to be given back to the system without the lock.
Block* evict(Cache& c, size_t limit) {
  Block* out = nullptr;
  while (c.stats.cached > limit) {
    Stack* victim = nullptr;
    while (c.highest_class > 0 && c.stacks[c.highest_class].oldest == nullptr) --c.highest_class;
    for (int i = 0; i <= c.highest_class; ++i) {
      Stack& s = c.stacks[i];
      if (s.oldest == nullptr) continue;
      if (victim == nullptr || s.oldest->time < victim->oldest->time) victim = &s;
    }
    if (victim == nullptr) break;
    Block* block = victim->oldest;
    unlink(victim, block);
    c.stats.cached -= block->bytes;
    block->older = out;
    out = block;
  }
  return out;
}

void release_list(Block* block) {
  while (block != nullptr) {
    Block* next = block->older;
    detail::system_free(block, block->bytes);
    block = next;
  }
}

}  // namespace

namespace detail {

// From 2 MB on a mapping of its own, aligned to huge pages, cut out of a slightly larger one.
void* system_allocate(size_t bytes) noexcept {
#if defined(_WIN32)
  return _aligned_malloc(bytes, bytes >= kHugePage ? 4096 : kAlignment);
#else
  if (bytes < kHugePage) {
    void* block = nullptr;
    return posix_memalign(&block, kAlignment, bytes) == 0 ? block : nullptr;
  }
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t length = (bytes + page - 1) / page * page;
  void* mapping =
      mmap(nullptr, length + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) return nullptr;
  const uintptr_t start = reinterpret_cast<uintptr_t>(mapping);
  const uintptr_t aligned = (start + kHugePage - 1) / kHugePage * kHugePage;
  if (aligned > start) munmap(mapping, aligned - start);
  const uintptr_t end = aligned + length, mapped_end = start + length + kHugePage;
  if (mapped_end > end) munmap(reinterpret_cast<void*>(end), mapped_end - end);
#if defined(MADV_HUGEPAGE)
  madvise(reinterpret_cast<void*>(aligned), length, MADV_HUGEPAGE);
#endif
  return reinterpret_cast<void*>(aligned);
#endif
}

void system_free(void* block, size_t bytes) noexcept {
#if defined(_WIN32)
  (void)bytes;
  _aligned_free(block);
#else
  if (bytes < kHugePage) {
    std::free(block);
    return;
  }
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  munmap(block, (bytes + page - 1) / page * page);
#endif
}

}  // namespace detail

void* cpu_allocate(size_t bytes) noexcept {
  if (bytes > kLargest) return nullptr;
  const SizeClass wanted = size_class(bytes);
  Cache& c = cache();
  const auto count = [&c, &wanted] {
    c.stats.in_use += wanted.bytes;
    if (c.stats.in_use > c.stats.peak_in_use) c.stats.peak_in_use = c.stats.in_use;
    ++c.stats.allocations;
  };
  c.lock.lock();
  Stack& stack = c.stacks[wanted.index];
  if (Block* block = stack.newest; SEQLOOM_LIKELY(block != nullptr)) {
    stack.newest = block->older;
    (block->older != nullptr ? block->older->newer : stack.oldest) = nullptr;
    c.stats.cached -= wanted.bytes;
    count();
    c.lock.unlock();
    return block;
  }
  c.lock.unlock();
  void* block = detail::system_allocate(wanted.bytes);
  if (block == nullptr) {
    cpu_empty_cache();
    block = detail::system_allocate(wanted.bytes);
    if (block == nullptr) return nullptr;
  }
  c.lock.lock();
  count();
  ++c.stats.system_allocations;
  c.lock.unlock();
  return block;
}

void cpu_free(void* memory, size_t bytes) noexcept {
  if (memory == nullptr) return;
  const SizeClass size = size_class(bytes);
  Cache& c = cache();
  Block* evicted = nullptr;
  c.lock.lock();
  c.stats.in_use -= size.bytes;
  if (SEQLOOM_UNLIKELY(size.bytes > c.stats.cache_limit)) {
    c.lock.unlock();
    detail::system_free(memory, size.bytes);
    return;
  }
  Block* block = static_cast<Block*>(memory);
  Stack& stack = c.stacks[size.index];
  *block = Block{stack.newest, nullptr, ++c.clock, size.bytes};
  (stack.newest != nullptr ? stack.newest->newer : stack.oldest) = block;
  stack.newest = block;
  c.stats.cached += size.bytes;
  if (size.index > c.highest_class) c.highest_class = size.index;
  if (SEQLOOM_UNLIKELY(c.stats.cached > c.stats.cache_limit)) {
    evicted = evict(c, c.stats.cache_limit);
  }
  c.lock.unlock();
  release_list(evicted);
}

CpuMemoryStats cpu_memory_stats() noexcept {
  Cache& c = cache();
  c.lock.lock();
  const CpuMemoryStats stats = c.stats;
  c.lock.unlock();
  return stats;
}

void cpu_reset_peak() noexcept {
  Cache& c = cache();
  c.lock.lock();
  c.stats.peak_in_use = c.stats.in_use;
  c.lock.unlock();
}

void cpu_empty_cache() noexcept {
  Cache& c = cache();
  c.lock.lock();
  Block* evicted = evict(c, 0);
  c.lock.unlock();
  release_list(evicted);
}

void cpu_set_cache_limit(size_t bytes) noexcept {
  Cache& c = cache();
  c.lock.lock();
  c.stats.cache_limit = bytes;
  Block* evicted = evict(c, bytes);
  c.lock.unlock();
  release_list(evicted);
}

}  // namespace seqloom
