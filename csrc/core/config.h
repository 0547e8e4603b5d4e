// SPDX-License-Identifier: Apache-2.0
// Facts of this build that code may branch on.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/macros.h"

#ifndef SEQLOOM_WITH_CUDA
#define SEQLOOM_WITH_CUDA 0  // 1: CUDA kernels are linked in (real or emulated)
#endif
#ifndef SEQLOOM_CUDA_EMULATED
#define SEQLOOM_CUDA_EMULATED 0  // 1: device "cuda" is the emulator of csrc/emulation
#endif
#ifndef SEQLOOM_EMULATION_CHECKED
#define SEQLOOM_EMULATION_CHECKED 0  // 1: kernels are instrumented (race, memory, init checks)
#endif

namespace seqloom {

inline constexpr bool kBuiltWithCuda = SEQLOOM_WITH_CUDA != 0;
inline constexpr bool kCudaEmulated = SEQLOOM_CUDA_EMULATED != 0;

}  // namespace seqloom
