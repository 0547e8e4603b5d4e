// SPDX-License-Identifier: Apache-2.0
// The thread pool behind parallel_for and parallel_team.
//
// One word, `state`, carries the protocol: the number of the current job, how many workers may
// join, whether it is still open, and how many are inside. The caller publishes a job by opening
// it, works on it like everybody else, closes it when no chunk is left, and waits only for the
// workers that had joined by then. A worker that is asleep or descheduled therefore never delays a
// job: its share is taken by the others.
#include "cpu/parallel.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>

#include "cpu/topology.h"

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif
#if !defined(_WIN32)
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#endif

namespace seqloom::cpu {
namespace {

// The static TLS block has no room for the 12 KB that CUDA's static runtime brings into the module.
#if defined(__GNUC__) && defined(__linux__) && \
    (!defined(SEQLOOM_WITH_CUDA) || defined(SEQLOOM_CUDA_EMULATED))
#define SEQLOOM_FAST_TLS __attribute__((tls_model("initial-exec")))
#else
#define SEQLOOM_FAST_TLS
#endif

thread_local SEQLOOM_FAST_TLS bool inside_region = false;

void pause() {
#if defined(__x86_64__) || defined(_M_X64)
  _mm_pause();
#elif defined(__aarch64__)
  __asm__ volatile("isb" ::: "memory");
#endif
}

void yield_processor() {
#if defined(_WIN32)
  std::this_thread::yield();
#else
  sched_yield();
#endif
}

// Rounding mode, flush-to-zero and the like: workers compute under the caller's.
uint64_t floating_point_mode() {
#if defined(__x86_64__) || defined(_M_X64)
  return _mm_getcsr() & ~0x3fu;  // without the sticky exception flags
#elif defined(__aarch64__)
  uint64_t mode;
  __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
  return mode;
#else
  return 0;
#endif
}

void set_floating_point_mode(uint64_t mode) {
  if (mode == floating_point_mode()) return;
#if defined(__x86_64__) || defined(_M_X64)
  _mm_setcsr(static_cast<unsigned>(mode));
#elif defined(__aarch64__)
  __asm__ volatile("msr fpcr, %0" ::"r"(mode));
#endif
}

// Spins on `done` for a moment, then lets other threads have the processor between looks.
template <class Done>
void spin_until(Done done) {
  for (int i = 0; i < 2000; ++i) {
    if (done()) return;
    pause();
  }
  while (!done()) yield_processor();
}

struct TeamAborted {};

// What a participant has been given first; others help themselves when they have finished theirs.
struct alignas(64) Share {
  std::atomic<int64_t> next{0};
  int64_t end = 0;
};

struct Job {
  // Loops.
  detail::ChunkFunction chunk_function = nullptr;
  int64_t n = 0, size = 0, count = 0;
  // Teams.
  detail::TeamFunction team_function = nullptr;
  TeamBarrier* barrier = nullptr;
  int team_size = 0;
  // Both.
  void* context = nullptr;
  int participants = 1;
  int caller_processor = -1;
  uint64_t mode = 0;
};

class Pool {
 public:
  // Marks the pool as used by this thread; false if another one is using it.
  bool try_acquire() { return !busy_.exchange(true, std::memory_order_acquire); }
  void release() { busy_.store(false, std::memory_order_release); }

  void run_chunks(int threads, int64_t n, int64_t size, int64_t count,
                  detail::ChunkFunction function, void* context);
  void run_team(int threads, detail::TeamFunction function, void* context);

 private:
  // state = job number << 32 | workers that may join << 16 | open << 15 | workers inside
  static constexpr uint64_t kInside = 0x7fff;
  static constexpr uint64_t kOpen = 0x8000;
  static int allowed(uint64_t state) { return static_cast<int>(state >> 16 & 0xffff); }

  void start_workers(int wanted);
  void open(int workers);
  uint64_t close() { return state_.fetch_and(~kOpen, std::memory_order_acq_rel); }
  void wait_for_workers();
  void rethrow_failure();

  void worker_main(int id);
  uint64_t wait_for_job(uint64_t last, std::chrono::nanoseconds* patience);
  void take_part(int rank);
  void work_on_chunks(int rank);
  void work_in_team(int rank);
  void record_failure() noexcept;

  alignas(64) std::atomic<uint64_t> state_{0};
  alignas(64) std::atomic<int> sleepers_{0};
  alignas(64) std::atomic<uint32_t> team_go_{0};
  alignas(64) Job job_;
  Share shares_[kMaxThreads];
  std::atomic<bool> failed_{false};
  std::exception_ptr failure_;
  std::mutex failure_mutex_;

  std::mutex sleep_mutex_;
  std::condition_variable wake_;
  std::atomic<bool> busy_{false};
  int workers_ = 0;
};

void Pool::start_workers(int wanted) {
#if !defined(_WIN32)
  // Signals are for the main thread.
  sigset_t all, before;
  sigfillset(&all);
  const bool masked = workers_ < wanted && pthread_sigmask(SIG_SETMASK, &all, &before) == 0;
#endif
  while (workers_ < wanted) {
    try {
      std::thread([this, id = workers_] { worker_main(id); }).detach();
    } catch (const std::system_error&) {
      break;  // fewer threads then
    }
    ++workers_;
  }
#if !defined(_WIN32)
  if (masked) pthread_sigmask(SIG_SETMASK, &before, nullptr);
#endif
}

// Publishes job_. Sequentially consistent against a worker that is about to sleep: either it sees
// the new state, or it has been counted in sleepers_ and is woken.
void Pool::open(int workers) {
  const uint64_t number = (state_.load(std::memory_order_relaxed) >> 32) + 1;
  state_.store(number << 32 | static_cast<uint64_t>(workers) << 16 | kOpen,
               std::memory_order_seq_cst);
  if (sleepers_.load(std::memory_order_seq_cst) > 0) {
    {
      std::lock_guard<std::mutex> lock(sleep_mutex_);
    }
    wake_.notify_all();
  }
}

void Pool::wait_for_workers() {
  spin_until([this] { return (state_.load(std::memory_order_acquire) & kInside) == 0; });
}

void Pool::record_failure() noexcept {
  std::lock_guard<std::mutex> lock(failure_mutex_);
  if (!failure_) failure_ = std::current_exception();
  failed_.store(true, std::memory_order_relaxed);
}

void Pool::rethrow_failure() {
  if (SEQLOOM_LIKELY(!failed_.load(std::memory_order_relaxed))) {
    release();
    return;
  }
  std::exception_ptr failure = std::move(failure_);
  failure_ = nullptr;
  failed_.store(false, std::memory_order_relaxed);
  release();
  std::rethrow_exception(failure);
}

void Pool::work_on_chunks(int rank) {
  const Job& job = job_;
  try {
    for (int k = 0; k < job.participants; ++k) {
      const int owner = rank + k < job.participants ? rank + k : rank + k - job.participants;
      Share& share = shares_[owner];
      while (share.next.load(std::memory_order_relaxed) < share.end) {
        const int64_t chunk = share.next.fetch_add(1, std::memory_order_relaxed);
        if (chunk >= share.end) break;
        if (SEQLOOM_UNLIKELY(failed_.load(std::memory_order_relaxed))) return;
        const int64_t begin = chunk * job.size;
        job.chunk_function(job.context, begin, std::min(job.n, begin + job.size));
      }
    }
  } catch (...) {
    record_failure();
  }
}

void Pool::work_in_team(int rank) {
  try {
    job_.team_function(job_.context, rank, job_.team_size, *job_.barrier);
  } catch (const TeamAborted&) {
    // The member that failed has recorded why.
  } catch (...) {
    record_failure();
    job_.barrier->abort();
  }
}

void Pool::take_part(int rank) {
  inside_region = true;
  if (job_.team_function != nullptr) {
    work_in_team(rank);
  } else {
    work_on_chunks(rank);
  }
  inside_region = false;
}

void Pool::run_chunks(int threads, int64_t n, int64_t size, int64_t count,
                      detail::ChunkFunction function, void* context) {
  const int wanted = static_cast<int>(std::min<int64_t>(threads, count)) - 1;
  if (SEQLOOM_UNLIKELY(workers_ < wanted)) start_workers(wanted);
  const int workers = std::min(wanted, workers_);
  job_.chunk_function = function;
  job_.team_function = nullptr;
  job_.context = context;
  job_.n = n;
  job_.size = size;
  job_.count = count;
  job_.participants = workers + 1;
  job_.caller_processor = current_processor();
  job_.mode = floating_point_mode();
  // Neighbouring chunks to one thread, the same in every loop of this length: its cache may still
  // hold what the loop before wrote there.
  for (int r = 0; r <= workers; ++r) {
    shares_[r].next.store(count * r / (workers + 1), std::memory_order_relaxed);
    shares_[r].end = count * (r + 1) / (workers + 1);
  }
  open(workers);
  take_part(0);
  close();
  wait_for_workers();
  rethrow_failure();
}

void Pool::run_team(int threads, detail::TeamFunction function, void* context) {
  if (SEQLOOM_UNLIKELY(workers_ < threads - 1)) start_workers(threads - 1);
  const int workers = std::min(threads - 1, workers_);
  job_.team_function = function;
  job_.context = context;
  job_.caller_processor = current_processor();
  job_.mode = floating_point_mode();
  const uint32_t go = team_go_.load(std::memory_order_relaxed);
  open(workers);
  // The team is whoever is there in time: a thread that the system keeps waiting would keep all of
  // them waiting at every barrier.
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::microseconds(300);
  while (static_cast<int>(state_.load(std::memory_order_relaxed) & kInside) < workers) {
    for (int i = 0; i < 16; ++i) pause();
    if (std::chrono::steady_clock::now() > deadline) break;
  }
  const int size = static_cast<int>(close() & kInside) + 1;
  TeamBarrier barrier(size);
  job_.barrier = &barrier;
  job_.team_size = size;
  team_go_.store(go + 1, std::memory_order_release);
  take_part(0);
  wait_for_workers();
  rethrow_failure();
}

// Returns the state of a job that is newer than `last`. Spins for `*patience`, then sleeps;
// patience grows while spinning pays and shrinks while it does not.
uint64_t Pool::wait_for_job(uint64_t last, std::chrono::nanoseconds* patience) {
  constexpr std::chrono::nanoseconds kLeast = std::chrono::microseconds(20);
  constexpr std::chrono::nanoseconds kMost = std::chrono::microseconds(100);
  uint64_t state;
  const auto fresh = [&](std::memory_order order) {
    state = state_.load(order);
    return state >> 32 != last;
  };
  const auto deadline = std::chrono::steady_clock::now() + *patience;
  do {
    for (int i = 0; i < 32; ++i) {
      if (fresh(std::memory_order_acquire)) {
        *patience = std::min(kMost, *patience * 2);
        return state;
      }
      pause();
    }
  } while (std::chrono::steady_clock::now() < deadline);
  *patience = std::max(kLeast, *patience / 2);
  std::unique_lock<std::mutex> lock(sleep_mutex_);
  sleepers_.fetch_add(1, std::memory_order_seq_cst);
  while (!fresh(std::memory_order_seq_cst)) wake_.wait(lock);
  sleepers_.fetch_sub(1, std::memory_order_relaxed);
  return state;
}

void Pool::worker_main(int id) {
  widen_affinity();
  uint64_t last = 0;
  std::chrono::nanoseconds patience = std::chrono::microseconds(50);
  for (;;) {
    uint64_t state = wait_for_job(last, &patience);
    last = state >> 32;
    // Join: one more inside, provided that the job is still open.
    bool joined = false;
    uint32_t go = 0;
    while ((state & kOpen) != 0 && id < allowed(state) && state >> 32 == last) {
      go = team_go_.load(std::memory_order_relaxed);
      if (state_.compare_exchange_weak(state, state + 1, std::memory_order_acq_rel,
                                       std::memory_order_acquire)) {
        joined = true;
        break;
      }
    }
    if (!joined) continue;
    const int processor = job_.caller_processor;
    if (SEQLOOM_UNLIKELY(processor >= 0 && current_processor() == processor)) {
      leave_processor(processor);  // the caller cannot be running now
    }
    set_floating_point_mode(job_.mode);
    int rank = id + 1;
    if (job_.team_function != nullptr) {
      rank = static_cast<int>(state & kInside) + 1;
      spin_until([&] { return team_go_.load(std::memory_order_acquire) != go; });
    }
    take_part(rank);
    state_.fetch_sub(1, std::memory_order_release);
  }
}

// The pool lives on the heap for ever: its threads are still there when static objects are
// destroyed.
std::atomic<Pool*> the_pool{nullptr};

Pool& pool() {
  Pool* p = the_pool.load(std::memory_order_acquire);
  if (SEQLOOM_LIKELY(p != nullptr)) return *p;
  Pool* fresh = new Pool;
  if (the_pool.compare_exchange_strong(p, fresh, std::memory_order_acq_rel)) {
#if !defined(_WIN32)
    // Threads do not survive a fork: the child forgets the pool and makes its own.
    static std::once_flag once;
    std::call_once(once, [] {
      pthread_atfork(nullptr, nullptr, [] { the_pool.store(nullptr, std::memory_order_relaxed); });
    });
#endif
    return *fresh;
  }
  delete fresh;
  return *p;
}

struct ThreadCount {
  std::atomic<int> value{1};
  std::string error;
  ThreadCount() {
    value = std::min(available_processors(), kMaxThreads);
    const char* text = std::getenv("SEQLOOM_NUM_THREADS");
    if (text == nullptr || *text == '\0') return;
    char* end = nullptr;
    const long n = std::strtol(text, &end, 10);
    if (*end != '\0' || n < 1 || n > kMaxThreads) {
      error = "SEQLOOM_NUM_THREADS must be an integer from 1 to " + std::to_string(kMaxThreads) +
              ", got '" + text + "'";
    } else {
      value = static_cast<int>(n);
    }
  }
};

ThreadCount& thread_count() {
  static ThreadCount* const count = new ThreadCount;
  return *count;
}

}  // namespace

int num_threads() { return thread_count().value.load(std::memory_order_relaxed); }

void set_num_threads(int n) {
  if (n < 1 || n > kMaxThreads) {
    throw std::invalid_argument("set_num_threads: n must be from 1 to " +
                                std::to_string(kMaxThreads) + ", got " + std::to_string(n));
  }
  thread_count().value.store(n, std::memory_order_relaxed);
}

void check_threads_environment() {
  if (!thread_count().error.empty()) throw std::invalid_argument(thread_count().error);
}

bool in_parallel_region() { return inside_region; }

void TeamBarrier::wait() {
  if (size_ == 1) return;
  const uint32_t phase = __atomic_load_n(&phase_, __ATOMIC_RELAXED);
  if (__atomic_add_fetch(&arrived_, 1, __ATOMIC_ACQ_REL) == static_cast<uint32_t>(size_)) {
    __atomic_store_n(&arrived_, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&phase_, phase + 1, __ATOMIC_RELEASE);
  } else {
    spin_until([&] {
      return __atomic_load_n(&phase_, __ATOMIC_ACQUIRE) != phase ||
             __atomic_load_n(&aborted_, __ATOMIC_RELAXED) != 0;
    });
  }
  if (SEQLOOM_UNLIKELY(__atomic_load_n(&aborted_, __ATOMIC_RELAXED) != 0)) throw TeamAborted{};
}

void TeamBarrier::abort() { __atomic_store_n(&aborted_, 1, __ATOMIC_RELEASE); }

namespace detail {

void run_chunks(int64_t n, int64_t size, int64_t count, ChunkFunction function, void* context) {
  const int threads = num_threads();
  if (threads > 1 && count > 1 && !inside_region) {
    Pool& p = pool();
    if (p.try_acquire()) {
      p.run_chunks(threads, n, size, count, function, context);
      return;
    }
  }
  for (int64_t begin = 0; begin < n; begin += size) {
    function(context, begin, std::min(n, begin + size));
  }
}

void run_team(TeamFunction function, void* context) {
  const int threads = num_threads();
  if (threads > 1 && !inside_region) {
    Pool& p = pool();
    if (p.try_acquire()) {
      p.run_team(threads, function, context);
      return;
    }
  }
  TeamBarrier alone(1);
  function(context, 0, 1, alone);
}

}  // namespace detail
}  // namespace seqloom::cpu
