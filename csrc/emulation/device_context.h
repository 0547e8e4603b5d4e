// SPDX-License-Identifier: Apache-2.0
// Built-in variables, shared memory and the launch request. Included by emulation/device.h.
#pragma once

namespace seqloom::emulation {

// What one emulated thread knows about itself. The runtime's Fiber derives from it.
struct ThreadContext {
  uint3 thread_index, block_index;
  dim3 block_dim, grid_dim;
  int lane;
  unsigned char* dynamic_shared;
  unsigned cluster_rank, cluster_size;
};
// The thread that runs now, null in host code. Per OS thread, so that host code in other Python
// threads is never taken for device code.
extern __thread ThreadContext* current_thread __attribute__((tls_model("initial-exec")));

// By value and uninstrumented: threadIdx.x costs no call-outs.
inline SEQLOOM_UNCHECKED uint3 thread_index() { return current_thread->thread_index; }
inline SEQLOOM_UNCHECKED uint3 block_index() { return current_thread->block_index; }
inline SEQLOOM_UNCHECKED dim3 block_dim() { return current_thread->block_dim; }
inline SEQLOOM_UNCHECKED dim3 grid_dim() { return current_thread->grid_dim; }
inline SEQLOOM_UNCHECKED int lane() { return current_thread->lane; }
inline SEQLOOM_UNCHECKED unsigned char* dynamic_shared() { return current_thread->dynamic_shared; }

// Ends the running launch with a report.
[[noreturn]] void fail(Site, const char* format, ...) __attribute__((format(printf, 2, 3)));

// The block's instance of a static shared variable; `key` is unique to the declaration.
void* static_shared(const void* key, std::size_t bytes, std::size_t align, const char* name);

struct LaunchRequest {
  dim3 grid, block, cluster;
  std::size_t shared_bytes = 0;
  bool cooperative = false;
  cudaStream_t stream = nullptr;
  const void* function = nullptr;
  std::shared_ptr<void> call;  // kernel and arguments
  std::size_t call_bytes = 0;
  void (*run)(const void* call) = nullptr;  // one thread of the kernel
  Site site{};
};
cudaError_t launch(const LaunchRequest&);

}  // namespace seqloom::emulation

#define threadIdx (::seqloom::emulation::thread_index())
#define blockIdx (::seqloom::emulation::block_index())
#define blockDim (::seqloom::emulation::block_dim())
#define gridDim (::seqloom::emulation::grid_dim())
#define warpSize 32

#define SHARED_ARRAY(T, name, dims)                                               \
  using name##_shared_type = T dims;                                              \
  static char name##_shared_key;                                                  \
  name##_shared_type& name =                                                      \
      *reinterpret_cast<name##_shared_type*>(::seqloom::emulation::static_shared( \
          &name##_shared_key, sizeof(name##_shared_type), alignof(name##_shared_type), #name))
#define DYNAMIC_SHARED(name, align)                                                 \
  static_assert((align) <= 1024, "dynamic shared memory is aligned to 1024 bytes"); \
  unsigned char* name = ::seqloom::emulation::dynamic_shared()
