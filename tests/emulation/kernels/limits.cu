// SPDX-License-Identifier: Apache-2.0
// Launches at the limits of a device, for tests/emulation/test_limits.py.
#include <thread>
#include <utility>

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

// One instruction that older devices lack.
template <int kWhich>
__global__ void __launch_bounds__(32) instruction_kernel(float* out) {
  if (kWhich == 0) __reduce_add_sync(kFullWarp, 1u);
  if (kWhich == 1) __reduce_max_sync(kFullWarp, 1);
  if (kWhich == 2) ptx::to_tf32(1.f);
  if (kWhich == 3) ptx::cp_async_commit();
  if (kWhich == 4) ptx::cp_async_wait<0>();
  if (kWhich == 5) ptx::cluster_rank();
  if (kWhich == 6) ptx::cluster_size();
  if (kWhich == 7) ptx::bulk_commit();
  if (kWhich == 8) ptx::bulk_wait<0>();
  if (kWhich == 9) ptx::bulk_wait_read<0>();
  if (kWhich == 10) ptx::elect_one();
  if (kWhich == 11) ptx::fence_proxy_async();
  if (kWhich == 12) ptx::cluster_sync();
  if (kWhich == 13) ptx::mbarrier_init_fence();
  out[threadIdx.x] = 1.f;
}
template <int... kWhich>
void launch_instruction(int which, float* out, std::integer_sequence<int, kWhich...>) {
  LaunchConfig c;
  c.block = dim3(32);
  ((which == kWhich ? launch(instruction_kernel<kWhich>, c, out) : void()), ...);
}

// Registers move from one warpgroup to the others; `bug` is a way in which that cannot be.
template <int kCount>
SEQLOOM_DEVICE void give() {
  ptx::decrease_registers<kCount>();
}
__global__ void __launch_bounds__(384, 1) registers_kernel(float* out, int bug) {
  if (threadIdx.x >= 128) {
    ptx::increase_registers<232>();
  } else if (bug == 1) {  // half of the group asks for another number
    if (threadIdx.x < 64) {
      give<40>();
    } else {
      give<48>();
    }
  } else if (bug == 2) {
    ptx::decrease_registers<232>();  // a block of 384 threads starts with 168
  } else if (bug == 3) {
    ptx::decrease_registers<48>();  // not enough for the other two groups
  } else {
    ptx::decrease_registers<40>();
    if (bug == 4) ptx::increase_registers<32>();  // fewer than it has
    if (bug == 5) ptx::decrease_registers<48>();  // more than it has
  }
  out[threadIdx.x] = 1.f;
}

}  // namespace

SEQLOOM_EXPORT int run_instruction(float* out, int which) {
  return guarded([&] {
    launch_instruction(which, out, std::make_integer_sequence<int, 14>{});
    synchronize_stream(nullptr);
  });
}

SEQLOOM_EXPORT int run_registers(float* out, int threads, int bug) {
  return guarded([&] {
    LaunchConfig c;
    c.block = dim3(static_cast<unsigned>(threads));
    launch(registers_kernel, c, out, bug);
    synchronize_stream(nullptr);
  });
}

// What a call that waits, or may wait, returns while a stream is captured, and what the capture
// returns at its end. `elsewhere`: the call comes from another thread than the capture.
SEQLOOM_EXPORT int run_capture(float* errors, int call, int mode, int elsewhere) {
  return guarded([&] {
    cudaStream_t stream = nullptr;
    if (call == 8) {
      cudaStreamCreate(&stream);  // one that waits for the legacy stream
    } else {
      stream = create_stream();
    }
    void *device = nullptr, *host = nullptr, *more = nullptr, *more_host = nullptr;
    cudaMalloc(&device, 256);
    cudaMallocHost(&host, 256);
    const auto act = [&]() -> cudaError_t {
      void* p = nullptr;
      cudaError_t e = cudaSuccess;
      switch (call) {
        case 0:
          return cudaDeviceSynchronize();
        case 1:
          return cudaStreamSynchronize(stream);
        case 2:
          return cudaStreamQuery(stream);
        case 3:
          e = cudaMalloc(&p, 256);
          if (e == cudaSuccess) more = p;
          return e;
        case 4:
          return cudaFree(std::exchange(device, nullptr));
        case 5:
          e = cudaMallocHost(&p, 256);
          if (e == cudaSuccess) more_host = p;
          return e;
        case 6:
          return cudaFreeHost(std::exchange(host, nullptr));
        default:
          return cudaMemsetAsync(device, 0, 256, nullptr);
      }
    };
    cudaStreamBeginCapture(stream, static_cast<cudaStreamCaptureMode>(mode));
    cudaError_t found = cudaSuccess;
    if (elsewhere) {
      std::thread([&] { found = act(); }).join();
    } else {
      found = act();
    }
    cudaGraph_t graph = nullptr;
    const cudaError_t end = cudaStreamEndCapture(stream, &graph);
    cudaGetLastError();
    if (graph != nullptr) cudaGraphDestroy(graph);
    const float values[2] = {static_cast<float>(found), static_cast<float>(end)};
    copy_to_device(errors, values, sizeof values, nullptr);
    synchronize_stream(nullptr);
    destroy_stream(stream);
    for (void* p : {device, more}) cudaFree(p);
    for (void* p : {host, more_host}) cudaFreeHost(p);
  });
}

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
