// SPDX-License-Identifier: Apache-2.0
// Instructions that CUDA C++ has no name for. The ptx_*.h files behind this header are the only
// ones with inline assembly: every wrapper has an asm body for nvcc and an emulator body for a host
// compiler. On an architecture that lacks the instruction the asm body is a trap, so that one
// source compiles for all of them; launchers choose kernels by compute capability.
#pragma once
#include "cuda/gpu.h"

// Statement for device code of at least this architecture, a trap below it.
#if SEQLOOM_ARCH >= 750 || !defined(__CUDACC__)
#define SEQLOOM_SM75(...) __VA_ARGS__
#else
#define SEQLOOM_SM75(...) __trap()
#endif
#if SEQLOOM_ARCH >= 800 || !defined(__CUDACC__)
#define SEQLOOM_SM80(...) __VA_ARGS__
#else
#define SEQLOOM_SM80(...) __trap()
#endif
#if SEQLOOM_ARCH >= 900 || !defined(__CUDACC__)
#define SEQLOOM_SM90(...) __VA_ARGS__
#else
#define SEQLOOM_SM90(...) __trap()
#endif
// wgmma and setmaxnreg exist in sm_90a alone.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDACC__)
#define SEQLOOM_SM90A(...) __VA_ARGS__
#else
#define SEQLOOM_SM90A(...) __trap()
#endif

#include "cuda/ptx_async.h"
#include "cuda/ptx_math.h"
#include "cuda/ptx_mma.h"
#include "cuda/ptx_sync.h"
#include "cuda/ptx_wgmma.h"
