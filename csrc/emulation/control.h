// SPDX-License-Identifier: Apache-2.0
// Settings and reports of the emulator: what tests and the Python binding use. Plain C++.
//
// Settings come from the environment at first use (SEQLOOM_EMULATION_SCHEDULE=fifo, ...) and can
// be changed between launches.
#pragma once
#include <cstdint>
#include <string>

namespace seqloom::emulation {

enum class Schedule { kFifo, kReverse, kRandom };  // order of lanes, warps and blocks
enum class AsyncMode {
  kEager,  // copies happen at once
  kLazy,   // destinations hold NaN until the last legal moment
  kRandom  // copies happen at random moments
};
enum class StreamMode {
  kEager,  // launches and copies run inside the call
  kLazy    // they run when something waits for them, other streams last
};

struct Settings {
  Schedule schedule = Schedule::kFifo;        // SEQLOOM_EMULATION_SCHEDULE=fifo|reverse|random
  std::uint64_t seed = 1;                     // SEQLOOM_EMULATION_SEED
  AsyncMode async_copies = AsyncMode::kLazy;  // SEQLOOM_EMULATION_ASYNC=eager|lazy|random
  StreamMode streams = StreamMode::kLazy;     // SEQLOOM_EMULATION_STREAMS=eager|lazy
  bool check = true;                          // SEQLOOM_EMULATION_CHECK=0|1: only in checked builds
  int multiprocessors = 8;                    // SEQLOOM_EMULATION_SMS: bounds cooperative grids
  int compute_capability = 90;                // SEQLOOM_EMULATION_CAPABILITY=75|80|...
  bool library = false;  // SEQLOOM_EMULATION_LIBRARY=0|1: products as where cuBLASLt is loaded
  int max_reports = 10;
};

Settings settings();
// Waits for everything under way first. Throws std::invalid_argument on nonsense.
void configure(const Settings&);
// One setting by its name in the environment variables ("schedule", "seed", "async", "streams",
// "check", "sms", "capability", "library"), for the binding.
void configure(const std::string& name, const std::string& value);

// True where kernels were compiled with call-outs, so that `check` can work.
bool built_with_checker();

// The full text of the last failed launch or call; empty after success.
std::string last_report();

struct Statistics {
  std::uint64_t launches, blocks, threads, switches, collectives, mma, checked_accesses, ldmatrix,
      ldmatrix_conflicts;
};
Statistics statistics();
void reset_statistics();

}  // namespace seqloom::emulation
