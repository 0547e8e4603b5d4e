// SPDX-License-Identifier: Apache-2.0
// Checked kernel launches. Arguments are converted to the kernel's own parameter types before
// their addresses are taken, so a wrong count or type is a compile error and never a wrong read.
#pragma once
#include <memory>
#include <tuple>
#include <utility>

#include "cuda/error.h"
#include "cuda/runtime.h"

namespace seqloom::cuda {

struct LaunchConfig {
  dim3 grid{1, 1, 1};
  dim3 block{1, 1, 1};
  std::size_t shared_bytes = 0;            // dynamic shared memory; opted in beyond 48 KB
  cudaStream_t stream = current_stream();  // the calling thread's stream
  bool cooperative = false;                // all blocks resident: needed for ptx::grid_sync
  dim3 cluster{1, 1, 1};                   // sm_90: blocks that share distributed memory
};

template <class... Params, class... Args>
void launch(void (*kernel)(Params...), const LaunchConfig& config, Args&&... args) {
  static_assert(sizeof...(Params) == sizeof...(Args), "wrong number of kernel arguments");
  using Arguments = std::tuple<Params...>;
  const void* function = reinterpret_cast<const void*>(kernel);
  allow_shared_bytes(function, config.shared_bytes);
#if defined(__CUDACC__)
  Arguments values(static_cast<Params>(args)...);
  cudaLaunchConfig_t cfg{};
  cfg.gridDim = config.grid;
  cfg.blockDim = config.block;
  cfg.dynamicSmemBytes = config.shared_bytes;
  cfg.stream = config.stream;
  cudaLaunchAttribute attributes[2];
  if (config.cooperative) {
    attributes[cfg.numAttrs].id = cudaLaunchAttributeCooperative;
    attributes[cfg.numAttrs++].val.cooperative = 1;
  }
  if (config.cluster.x * config.cluster.y * config.cluster.z > 1) {
    attributes[cfg.numAttrs].id = cudaLaunchAttributeClusterDimension;
    attributes[cfg.numAttrs].val.clusterDim.x = config.cluster.x;
    attributes[cfg.numAttrs].val.clusterDim.y = config.cluster.y;
    attributes[cfg.numAttrs++].val.clusterDim.z = config.cluster.z;
  }
  cfg.attrs = attributes;
  void* pointers[sizeof...(Params) + 1];
  int n = 0;
  std::apply(
      [&](auto&... value) {
        ((pointers[n++] = const_cast<void*>(static_cast<const void*>(&value))), ...);
      },
      values);
  check(cudaLaunchKernelExC(&cfg, function, pointers), "kernel launch");
#else
  // The emulator may run the kernel later (streams are asynchronous), so it owns the arguments.
  struct Call {
    void (*kernel)(Params...);
    Arguments values;
  };
  emulation::LaunchRequest request;
  request.grid = config.grid;
  request.block = config.block;
  request.cluster = config.cluster;
  request.shared_bytes = config.shared_bytes;
  request.cooperative = config.cooperative;
  request.stream = config.stream;
  request.function = function;
  request.call = std::make_shared<Call>(Call{kernel, Arguments(static_cast<Params>(args)...)});
  request.call_bytes = sizeof(Call);
  request.run = [](const void* call) {
    const Call* c = static_cast<const Call*>(call);
    std::apply(c->kernel, c->values);
  };
  check(emulation::launch(request), "kernel launch");
#endif
}

template <class... Params>
int resident_blocks(void (*kernel)(Params...), int threads, std::size_t shared_bytes) {
  return resident_blocks(reinterpret_cast<const void*>(kernel), threads, shared_bytes);
}

}  // namespace seqloom::cuda
