// SPDX-License-Identifier: Apache-2.0
// Launches at the limits of a device, for tests/emulation/test_limits.py.
#include "../support.h"

namespace seqloom_test {
namespace {

template <int kThreads>
struct Shape {
  static constexpr int kBlock = kThreads;
};

__global__ void __launch_bounds__(96) plain_bound_kernel(float* out) { out[threadIdx.x] = 1.f; }

template <int kThreads>
__global__ void __launch_bounds__(Shape<kThreads>::kBlock, 1) template_bound_kernel(float* out) {
  out[threadIdx.x] = 1.f;
}

__global__ void no_bound_kernel(float* out) {
  if (blockIdx.x == 0) out[threadIdx.x] = 1.f;
}

// 16 KB of static shared memory in two arrays, beside the dynamic part. One kernel for each kind of
// test, since a kernel that has once opted in to more dynamic memory stays so.
template <bool kOptsIn>
__global__ void __launch_bounds__(32) shared_kernel(float* out) {
  SHARED_ARRAY(float, first, [1024]);
  SHARED_ARRAY(float, second, [3072]);
  const int t = static_cast<int>(threadIdx.x);
  first[t] = second[t] = 0.5f;
  out[t] = first[t] + second[t];
}

__global__ void __launch_bounds__(128) warpgroup_kernel(float* out) {
  ptx::wgmma_fence();
  out[threadIdx.x] = 1.f;
}

}  // namespace

SEQLOOM_EXPORT int run_limits(float* out, int kernel, int threads, int shared_bytes, int cluster) {
  return guarded([&] {
    LaunchConfig c;
    c.block = dim3(static_cast<unsigned>(threads));
    c.grid = c.cluster = dim3(static_cast<unsigned>(cluster));
    c.shared_bytes = static_cast<size_t>(shared_bytes);
    void (*const kernels[])(float*) = {plain_bound_kernel,  template_bound_kernel<256>,
                                       no_bound_kernel,     shared_kernel<false>,
                                       shared_kernel<true>, warpgroup_kernel};
    launch(kernels[kernel], c, out);
    synchronize_stream(nullptr);
  });
}

SEQLOOM_EXPORT int run_resident(float* blocks, int threads, int shared_bytes) {
  return guarded([&] {
    const int n = resident_blocks(no_bound_kernel, threads, static_cast<size_t>(shared_bytes));
    const float value = static_cast<float>(n / current_device_properties().multiprocessors);
    copy_to_device(blocks, &value, sizeof value, nullptr);
    synchronize_stream(nullptr);
  });
}

}  // namespace seqloom_test
