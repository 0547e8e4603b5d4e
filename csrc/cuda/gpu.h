// SPDX-License-Identifier: Apache-2.0
// What kernels include for CUDA itself. nvcc sees the CUDA headers; a host compiler sees the same
// API served by the emulator (csrc/emulation), so that one source runs in both worlds.
//
//   SEQLOOM_DEVICE            __device__ __forceinline__ (SEQLOOM_DEVICE_NOINLINE: out of line)
//   SHARED_ARRAY(T, a, [n])   static shared memory:  __shared__ T a[n]
//   DYNAMIC_SHARED(a, align)  dynamic shared memory: unsigned char a[]
//   cuda::launch(...)         the only way to start a kernel (cuda/launch.h)
//
// Instructions that CUDA C++ does not name are in cuda/ptx.h.
#pragma once

#if defined(__CUDACC__)
#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <cstddef>
#include <cstdint>
#include <cstring>

#define SHARED_ARRAY(T, name, dims) __shared__ T name dims
#define DYNAMIC_SHARED(name, align)  \
  extern __shared__ __align__(align) \
  unsigned char name[]

// A wrapper that synchronises or touches memory carries its caller's source line in the emulated
// build, so that a report names the kernel's line and not the wrapper's. Under nvcc: nothing.
#define SEQLOOM_SITE_ONLY
#define SEQLOOM_SITE
#define SEQLOOM_PASS_SITE_ONLY
#define SEQLOOM_PASS_SITE

// Zero in nvcc's host pass, which compiles no device code.
#if defined(__CUDA_ARCH__)
#define SEQLOOM_ARCH __CUDA_ARCH__
#else
#define SEQLOOM_ARCH 0
#endif
#else
#include <cuda.h>
#include "emulation/device.h"
#endif

#define SEQLOOM_DEVICE __device__ __forceinline__
// Out of line. (__noinline__ itself cannot be spelled for a host compiler: its library uses the
// word.)
#if defined(__CUDACC__)
#define SEQLOOM_DEVICE_NOINLINE __device__ __noinline__
#else
#define SEQLOOM_DEVICE_NOINLINE __attribute__((noinline))
#endif

#include "cuda/launch.h"
