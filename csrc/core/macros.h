// SPDX-License-Identifier: Apache-2.0
// Compiler attributes used throughout: one spelling for GCC, Clang, clang-cl and nvcc.
#pragma once

#if defined(__GNUC__) || defined(__clang__)
// Forced inlining also in debug builds: code shared between translation units that are built with
// different instruction sets must never be emitted as a symbol of its own.
#define SEQLOOM_ALWAYS_INLINE inline __attribute__((always_inline))
#define SEQLOOM_NOINLINE __attribute__((noinline))
#define SEQLOOM_LIKELY(x) __builtin_expect(!!(x), 1)
#define SEQLOOM_UNLIKELY(x) __builtin_expect(!!(x), 0)
#define SEQLOOM_RESTRICT __restrict__
#else
#define SEQLOOM_ALWAYS_INLINE __forceinline
#define SEQLOOM_NOINLINE __declspec(noinline)
#define SEQLOOM_LIKELY(x) (x)
#define SEQLOOM_UNLIKELY(x) (x)
#define SEQLOOM_RESTRICT __restrict
#endif

// Functions that both host compilers and nvcc's device pass see.
#if defined(__CUDACC__)
#define SEQLOOM_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define SEQLOOM_HOST_DEVICE SEQLOOM_ALWAYS_INLINE
#endif
