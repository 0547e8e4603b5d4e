// SPDX-License-Identifier: Apache-2.0
// The C interface of the matrix product's test library (loaded by tests/cpu/gemm_harness.py).
#include <chrono>
#include <exception>

#include "cpu/gemm.h"
#include "cpu/isa.h"
#include "cpu/parallel.h"
#include "cpu/roofline.h"

#define API extern "C" __attribute__((visibility("default")))

using namespace seqloom;  // NOLINT: a test

API int gemm_test_set_isa(const char* name) {
  try {
    cpu::set_isa(cpu::isa_from_name(name));
    return 0;
  } catch (const std::exception&) {
    return 1;
  }
}

API void gemm_test_set_threads(int n) { cpu::set_num_threads(n); }

API int64_t gemm_test_sizeof(int which) {
  return which == 0   ? sizeof(cpu::GemmArgs)
         : which == 1 ? sizeof(cpu::PackArgs)
                      : sizeof(cpu::PackedMatrix);
}

API void gemm_test_run(const cpu::GemmArgs* args) { cpu::gemm(*args); }

API uint64_t gemm_test_packed_bytes(int format, int64_t k, int64_t n, int64_t group) {
  return cpu::packed_bytes(static_cast<cpu::PackFormat>(format), k, n, group);
}

API void gemm_test_pack(const cpu::PackArgs* args) { cpu::pack_b(*args); }

// Seconds a call, over `repeats` rounds through `count` products.
API double gemm_test_time(const cpu::GemmArgs* args, int64_t count, int64_t repeats) {
  const auto start = std::chrono::steady_clock::now();
  for (int64_t r = 0; r < repeats; ++r)
    for (int64_t i = 0; i < count; ++i) cpu::gemm(args[i]);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  return seconds.count() / static_cast<double>(repeats * count);
}

// Operations a second of all threads at the arithmetic peak.
API double gemm_test_peak(int kind, int64_t iterations) {
  double total = 0;
  const auto start = std::chrono::steady_clock::now();
  cpu::parallel_team([&](int rank, int size, cpu::TeamBarrier& barrier) {
    double operations = 0;
    barrier.wait();
    SEQLOOM_CPU_BF16(multiply_add_peak)
    (cpu::PeakArgs{static_cast<cpu::PeakKind>(kind), iterations, &operations});
    barrier.wait();
    if (rank == 0) total = operations * size;
  });
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  return total / seconds.count();
}
