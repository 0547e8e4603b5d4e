// SPDX-License-Identifier: Apache-2.0
// The list of conformance kernels: one per wrapper or intrinsic, all of the form
// kernel(in, out) over 32-bit words. Files add themselves at load time.
#pragma once
#include <vector>

#include "../emulation/support.h"

namespace seqloom_test {

struct Conformance {
  const char* name;
  const char* inputs;  // which words: "float", "half", "bfloat16", "bits", "small"
  const char*
      compare;  // "exact" (floats: any NaN is a NaN), "words", "mma" or a relative tolerance
  int in_words, out_words;
  int capability;  // 75, 80, 90; 91 stands for sm_90a
  void (*run)(const uint32_t* in, uint32_t* out);
};

std::vector<Conformance>& conformance_list();

struct AddConformance {
  explicit AddConformance(const Conformance& c) { conformance_list().push_back(c); }
};

// One block of `threads`; `shared` bytes of dynamic shared memory.
template <class Kernel>
void run_block(Kernel kernel, const uint32_t* in, uint32_t* out, unsigned threads = 32,
               size_t shared = 0, unsigned blocks = 1) {
  LaunchConfig c;
  c.grid = dim3(blocks);
  c.block = dim3(threads);
  c.cluster = dim3(blocks);
  c.shared_bytes = shared;
  launch(kernel, c, in, out);
}

SEQLOOM_DEVICE int thread() { return static_cast<int>(threadIdx.x); }
SEQLOOM_DEVICE float as_float(uint32_t bits) { return __uint_as_float(bits); }
SEQLOOM_DEVICE uint32_t as_bits(float x) { return __float_as_uint(x); }

}  // namespace seqloom_test

// Defines kernel k_<name> with this body over (in, out) and lists it with a launch of `threads`.
#define CONFORMANCE(name, inputs, compare, in_words, out_words, capability, threads, shared, ...) \
  __global__ void __launch_bounds__(threads) k_##name(const uint32_t* in, uint32_t* out) {        \
    __VA_ARGS__                                                                                   \
  }                                                                                               \
  const AddConformance add_##name(                                                                \
      {#name, inputs, compare, in_words, out_words, capability,                                   \
       [](const uint32_t* in, uint32_t* out) { run_block(k_##name, in, out, threads, shared); }});
