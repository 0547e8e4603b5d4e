// SPDX-License-Identifier: Apache-2.0
// CUDA as kernels see it, for a host compiler. The genuine NVIDIA headers supply types, enums, half
// and bfloat16 and the declarations of the runtime API (which the emulator defines); these files
// supply what device code has on top of that. Included by cuda/gpu.h only.
#pragma once
#if defined(__CUDACC__)
#error "emulation/device.h is for host compilers"
#endif
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <type_traits>

// Raw __shared__ cannot be emulated: a variable of that kind is one per block, not per thread.
#undef __shared__
#define __shared__ error_use_SHARED_ARRAY_or_DYNAMIC_SHARED

// A block larger than the kernel's bounds must be refused, but a launch knows the kernel by its
// address alone. So the bound is left in front of the code: one no-op for every 32 threads, whose
// place the compiler lists in a section of its own (launch_bounds.cpp reads it).
namespace seqloom::emulation {
constexpr int warps_of_bounds(int threads, int = 0, int = 0) { return (threads + 31) / 32; }
}  // namespace seqloom::emulation
#undef __launch_bounds__
#if defined(__GNUC__) && !defined(__clang__)
#define __launch_bounds__(...)                                                                \
  __attribute__((patchable_function_entry(::seqloom::emulation::warps_of_bounds(__VA_ARGS__), \
                                          ::seqloom::emulation::warps_of_bounds(__VA_ARGS__))))
#else
#define __launch_bounds__(...)
#endif
#if !defined(__cluster_dims__)
#define __cluster_dims__(...)
#endif

// Functions that touch memory on behalf of a kernel must not be reported as the kernel.
#define SEQLOOM_UNCHECKED __attribute__((no_sanitize("thread", "undefined")))

#include "emulation/site.h"
#include "emulation/device_context.h"
#include "emulation/device_sync.h"
#include "emulation/device_memory.h"
#include "emulation/device_math.h"
#include "emulation/device_ptx.h"
