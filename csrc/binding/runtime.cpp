// SPDX-License-Identifier: Apache-2.0
// Facts about this build and this process, and the switches that a user may turn.
#include <pybind11/pybind11.h>

#include "binding/caster.h"
#include "binding/registers.h"
#include "core/config.h"
#include "core/rng.h"
#include "cpu/isa.h"
#include "cpu/parallel.h"

namespace seqloom::binding {
namespace {

namespace py = pybind11;

const char* compiler() {
#if defined(__clang__)
  return "clang " __clang_version__;
#elif defined(__GNUC__)
  return "gcc " __VERSION__;
#else
  return "unknown";
#endif
}

const char* cuda_build() {
  if (!kBuiltWithCuda) return "none";
  if (!kCudaEmulated) return "cuda";
  return kEmulationChecked ? "emulated, checked" : "emulated";
}

py::dict build_info() {
  py::dict info;
  info["version"] = SEQLOOM_VERSION;
  info["compiler"] = compiler();
  info["cuda"] = cuda_build();
  return info;
}

}  // namespace

void register_runtime(py::module_& m) {
  cpu::check_isa_environment();
  m.def("build_info", &build_info);

  m.def("active_isa", [] { return std::string(cpu::isa_name(cpu::active_isa())); });
  m.def(
      "set_isa", [](const std::string& name) { cpu::set_isa(cpu::isa_from_name(name.c_str())); },
      py::arg("name"));
  m.def("supported_isas", [] {
    std::vector<std::string> names;
    for (int i = 0; i <= static_cast<int>(cpu::Isa::kNeon); ++i)
      if (cpu::isa_supported(static_cast<cpu::Isa>(i)))
        names.emplace_back(cpu::isa_name(static_cast<cpu::Isa>(i)));
    return names;
  });

  m.def("get_num_threads", &cpu::num_threads);
  m.def(
      "set_num_threads",
      [](int n) {
        check_value(n >= 1 && n <= cpu::kMaxThreads, "set_num_threads: n must be in [1, ",
                    cpu::kMaxThreads, "], got ", n);
        cpu::set_num_threads(n);
      },
      py::arg("n"));

  m.def("manual_seed", &manual_seed, py::arg("seed"));
  m.def("random_state", [] {
    const RandomKey key = random_state();
    return py::make_tuple(key.seed, key.offset);
  });
  m.def(
      "set_random_state", [](uint64_t seed, uint64_t offset) { set_random_state({seed, offset}); },
      py::arg("seed"), py::arg("offset"));
  // How many arrays hold the memory of `tensor`: 1 means that nobody else sees it.
  m.def(
      "storage_references",
      [](const Array& a) { return a.storage()->references.load(std::memory_order_relaxed); },
      py::arg("tensor"));
}

}  // namespace seqloom::binding
