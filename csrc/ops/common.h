// SPDX-License-Identifier: Apache-2.0
// What every front door needs: checks with one form of message, and the switch over device and ISA.
#pragma once

#include <cstdint>

#include "binding/caster.h"
#include "core/array.h"
#include "core/error.h"
#include "cpu/isa.h"
#if SEQLOOM_WITH_CUDA
#include "cuda/runtime.h"
#endif

namespace seqloom::ops {

using binding::ReleaseGil;

// Runs `name(args)` of the active ISA, or `name_cuda(args)` on the device's current stream. The
// interpreter is released when `work` (elements touched) is worth it.
#if SEQLOOM_WITH_CUDA
#define SEQLOOM_RUN(device, work, name, args)                                      \
  do {                                                                             \
    ::seqloom::ops::ReleaseGil release_gil((device).is_cuda() || (work) >= 16384); \
    if ((device).is_cuda()) {                                                      \
      ::seqloom::cuda::DeviceScope device_scope((device).index);                   \
      name##_cuda(args);                                                           \
    } else {                                                                       \
      SEQLOOM_CPU(name)(args);                                                     \
    }                                                                              \
  } while (false)
#else
#define SEQLOOM_RUN(device, work, name, args)                \
  do {                                                       \
    ::seqloom::ops::ReleaseGil release_gil((work) >= 16384); \
    SEQLOOM_CPU(name)(args);                                 \
  } while (false)
#endif

// The same for kernels that are compiled for the dot-product level as well (*_bf16_cpu.cpp).
#if SEQLOOM_WITH_CUDA
#define SEQLOOM_RUN_BF16(device, work, name, args)                                 \
  do {                                                                             \
    ::seqloom::ops::ReleaseGil release_gil((device).is_cuda() || (work) >= 16384); \
    if ((device).is_cuda()) {                                                      \
      ::seqloom::cuda::DeviceScope device_scope((device).index);                   \
      name##_cuda(args);                                                           \
    } else {                                                                       \
      SEQLOOM_CPU_BF16(name)(args);                                                \
    }                                                                              \
  } while (false)
#else
#define SEQLOOM_RUN_BF16(device, work, name, args)           \
  do {                                                       \
    ::seqloom::ops::ReleaseGil release_gil((work) >= 16384); \
    SEQLOOM_CPU_BF16(name)(args);                            \
  } while (false)
#endif

// -1 means the last axis; ValueError names the op.
inline int checked_axis(const char* op, int64_t axis, int rank) {
  const int64_t n = rank > 0 ? rank : 1;
  check_value(axis >= -n && axis < n, op, ": axis must be in [", -n, ", ", n - 1, "], got ", axis);
  return static_cast<int>(axis < 0 ? axis + n : axis);
}

inline void check_kernel_float(const char* op, const char* name, const Array& a) {
  check_type(is_kernel_float(a.dtype()), op, ": ", name,
             " must be float32, float16 or bfloat16, got ", name_of(a.dtype()));
}

inline void check_same_dtype(const char* op, const char* name, const Array& a, const char* other,
                             const Array& b) {
  check_type(a.dtype() == b.dtype(), op, ": ", name, " must have the dtype of ", other, " = ",
             name_of(b.dtype()), ", got ", name_of(a.dtype()));
}

inline void check_same_device(const char* op, const char* name, const Array& a, const char* other,
                              const Array& b) {
  check_value(a.device() == b.device(), op, ": ", name, " must be on the device of ", other, " = ",
              b.device(), ", got ", a.device());
}

inline void check_shape(const char* op, const char* name, const Array& a, const Dims& expected,
                        const char* spelled) {
  check_value(a.shape() == expected, op, ": ", name, " must have shape ", spelled, " = ", expected,
              ", got ", a.shape());
}

inline void check_writable(const char* op, const char* name, const Array& a) {
  check_value(!a.read_only(), op, ": ", name, " is read-only memory");
}

// The array itself when its elements lie in row-major order, else a copy that does.
Array contiguous(const Array& a);  // ops/layout/layout.cpp

}  // namespace seqloom::ops
