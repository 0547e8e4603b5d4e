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
#if !defined(__launch_bounds__)
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
