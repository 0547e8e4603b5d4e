// SPDX-License-Identifier: Apache-2.0
// The thread pool: parallel loops and teams.
//
//   parallel_for(n, grain, [&](int64_t begin, int64_t end) { ... });
//
// covers [0, n) with chunks whose boundaries depend on n and grain alone, never on the number of
// threads, so that even a result that depends on the boundaries (a partial sum per chunk) has the
// same bits on any machine. A chunk is a multiple of `grain`, except the last; there are at most
// kMaxChunks. Choose the grain so that one chunk is worth about 5 microseconds of work or more.
//
//   parallel_team([&](int rank, int size, TeamBarrier& barrier) { ... });
//
// runs the function once on each of `size` threads that are all running at the same time, for
// recurrences that must meet at every step. size is anything from 1 to num_threads(); work must be
// divided so that the bits do not depend on it.
//
// Calls from inside a chunk, calls while another thread uses the pool, loops of one chunk and
// num_threads() == 1 run in the calling thread, with the same chunks. An exception in a chunk is
// rethrown to the caller after the other threads have stopped. Worker threads take over the
// caller's floating-point mode; they spin for some 50 microseconds after the last loop and then
// sleep. A forked child gets a pool of its own when it first needs one.
#pragma once

#include <cstdint>

#include "core/macros.h"

namespace seqloom::cpu {

// Threads that loops may use, the caller included. Default: SEQLOOM_NUM_THREADS, else the
// processors that the process may run on, bounded by the container's quota.
int num_threads();

// 1 .. kMaxThreads; std::invalid_argument otherwise.
void set_num_threads(int n);
constexpr int kMaxThreads = 256;

// Throws what was wrong with SEQLOOM_NUM_THREADS at load time as std::invalid_argument: for the
// module's initialisation. A bad value leaves the default in force.
void check_threads_environment();

// Whether the calling thread is inside a chunk or a team.
bool in_parallel_region();

constexpr int64_t kMaxChunks = 512;

// The chunk size of parallel_for(n, grain, ...): chunk i is [i * size, min(n, (i + 1) * size)).
SEQLOOM_ALWAYS_INLINE constexpr int64_t chunk_size(int64_t n, int64_t grain) {
  const int64_t units = (n + grain - 1) / grain;
  return grain * ((units + kMaxChunks - 1) / kMaxChunks);
}
SEQLOOM_ALWAYS_INLINE constexpr int64_t chunk_count(int64_t n, int64_t grain) {
  const int64_t size = n > 0 ? chunk_size(n, grain) : 1;
  return (n + size - 1) / size;
}

// A barrier for the members of a team. It spins, then yields the processor, and makes the writes
// before it visible after it. If a member leaves by an exception, wait() throws in the others.
class TeamBarrier {
 public:
  void wait();

  explicit TeamBarrier(int size) : size_(size) {}
  void abort();

 private:
  const int size_;
  alignas(64) uint32_t arrived_ = 0;
  alignas(64) uint32_t phase_ = 0;
  uint32_t aborted_ = 0;
};

namespace detail {

using ChunkFunction = void (*)(void* context, int64_t begin, int64_t end);
using TeamFunction = void (*)(void* context, int rank, int size, TeamBarrier& barrier);

// More than one chunk.
void run_chunks(int64_t n, int64_t size, int64_t count, ChunkFunction function, void* context);
void run_team(TeamFunction function, void* context);

}  // namespace detail

template <class F>
SEQLOOM_ALWAYS_INLINE void parallel_for(int64_t n, int64_t grain, const F& f) {
  if (n <= 0) return;
  if (n <= grain) {
    f(int64_t{0}, n);
    return;
  }
  // A local type keeps the trampoline in the name of the caller's instruction set.
  struct Trampoline {
    const F* function;
    static void call(void* context, int64_t begin, int64_t end) {
      (*static_cast<Trampoline*>(context)->function)(begin, end);
    }
  };
  Trampoline trampoline{&f};
  const int64_t size = chunk_size(n, grain);
  detail::run_chunks(n, size, (n + size - 1) / size, &Trampoline::call, &trampoline);
}

template <class F>
SEQLOOM_ALWAYS_INLINE void parallel_team(const F& f) {
  struct Trampoline {
    const F* function;
    static void call(void* context, int rank, int size, TeamBarrier& barrier) {
      (*static_cast<Trampoline*>(context)->function)(rank, size, barrier);
    }
  };
  Trampoline trampoline{&f};
  detail::run_team(&Trampoline::call, &trampoline);
}

}  // namespace seqloom::cpu
