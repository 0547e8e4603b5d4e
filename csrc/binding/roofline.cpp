// SPDX-License-Identifier: Apache-2.0
// What the benchmarks ask for: the arithmetic peak of the calling thread's core, and an allocator
// that holds nothing, so that the memory of one call can be seen.
#include "cpu/roofline.h"

#include <pybind11/pybind11.h>

#include <chrono>
#include <stdexcept>
#include <string>

#include "binding/registers.h"
#include "core/allocator.h"

namespace seqloom::binding {
namespace {

cpu::PeakKind peak_kind(const std::string& name) {
  if (name == "f32") return cpu::PeakKind::kF32;
  if (name == "bf16") return cpu::PeakKind::kBf16;
  if (name == "int8") return cpu::PeakKind::kInt8;
  throw std::invalid_argument("roofline_fma_gflops: dtype must be f32, bf16 or int8, got " + name);
}

// Billions of operations per second on this thread; 0 where this machine has no such instruction.
double roofline_fma_gflops(const std::string& dtype) {
  const cpu::PeakKind kind = peak_kind(dtype);
  pybind11::gil_scoped_release release;
  using Clock = std::chrono::steady_clock;
  for (int64_t iterations = 1 << 14;; iterations *= 2) {
    double operations = 0;
    const auto start = Clock::now();
    SEQLOOM_CPU_BF16(multiply_add_peak)({kind, iterations, &operations});
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    if (operations == 0 || seconds > 0.02) return operations / seconds * 1e-9;
  }
}

}  // namespace

void register_roofline(pybind11::module_& m) {
  m.def("roofline_fma_gflops", &roofline_fma_gflops, pybind11::arg("dtype"));
  m.def("cpu_empty_cache", [] { cpu_empty_cache(); });
}

}  // namespace seqloom::binding
