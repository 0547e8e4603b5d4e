// SPDX-License-Identifier: Apache-2.0
// Facts of this build that code may branch on.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/macros.h"

// The build may define:
//   SEQLOOM_WITH_CUDA          CUDA kernels are linked in (real or emulated)
//   SEQLOOM_CUDA_EMULATED      device "cuda" is the emulator of csrc/emulation
//   SEQLOOM_EMULATION_CHECKED  its kernels are instrumented (race, memory, init, sync checks)
namespace seqloom {

#if defined(SEQLOOM_WITH_CUDA)
inline constexpr bool kBuiltWithCuda = true;
#else
inline constexpr bool kBuiltWithCuda = false;
#endif
#if defined(SEQLOOM_CUDA_EMULATED)
inline constexpr bool kCudaEmulated = true;
#else
inline constexpr bool kCudaEmulated = false;
#endif
#if defined(SEQLOOM_EMULATION_CHECKED)
inline constexpr bool kEmulationChecked = true;
#else
inline constexpr bool kEmulationChecked = false;
#endif

}  // namespace seqloom
