// SPDX-License-Identifier: Apache-2.0
// C functions through which the Python tests of the emulator drive a library of test kernels.
#include "support.h"

#include <cstdio>

#if defined(SEQLOOM_CUDA_EMULATED)
#include "emulation/control.h"
#endif

namespace seqloom_test {
std::string& error_text() {
  static thread_local std::string text;
  return text;
}
}  // namespace seqloom_test
using seqloom_test::error_text;
using seqloom_test::guarded;

SEQLOOM_EXPORT const char* test_error() { return error_text().c_str(); }
SEQLOOM_EXPORT void* test_allocate(std::size_t bytes) {
  void* p = nullptr;
  guarded([&] { p = seqloom::cuda::allocate(bytes, nullptr); });
  return p;
}
SEQLOOM_EXPORT void test_release(void* p) { seqloom::cuda::release(p, nullptr); }
SEQLOOM_EXPORT int test_copy_in(void* target, const void* source, std::size_t bytes) {
  return guarded([&] { seqloom::cuda::copy_to_device(target, source, bytes, nullptr); });
}
SEQLOOM_EXPORT int test_copy_out(void* target, const void* source, std::size_t bytes) {
  return guarded([&] {
    seqloom::cuda::copy_to_host(target, source, bytes, nullptr);
    seqloom::cuda::synchronize_stream(nullptr);
  });
}
SEQLOOM_EXPORT int test_synchronize() {
  return guarded([] { seqloom::cuda::synchronize_device(); });
}
SEQLOOM_EXPORT int test_is_emulated() { return seqloom::kCudaEmulated; }
SEQLOOM_EXPORT int test_device_name(char* out, int size) {
  return guarded([&] {
    std::snprintf(out, static_cast<std::size_t>(size), "%s",
                  seqloom::cuda::device_properties(0).name.c_str());
  });
}
SEQLOOM_EXPORT int test_device_count() { return seqloom::cuda::device_count(); }
SEQLOOM_EXPORT int test_capability() { return seqloom::cuda::device_properties(0).capability(); }
#if defined(SEQLOOM_CUDA_EMULATED)
SEQLOOM_EXPORT int test_configure(const char* name, const char* value) {
  return guarded([&] { seqloom::emulation::configure(name, value); });
}
SEQLOOM_EXPORT int test_has_checker() { return seqloom::emulation::built_with_checker(); }
SEQLOOM_EXPORT void test_statistics(unsigned long long* out) {
  const auto s = seqloom::emulation::statistics();
  const unsigned long long values[] = {s.launches,         s.blocks,      s.threads,
                                       s.switches,         s.collectives, s.mma,
                                       s.checked_accesses, s.ldmatrix,    s.ldmatrix_conflicts};
  for (int i = 0; i < 9; ++i) out[i] = values[i];
}
#endif
