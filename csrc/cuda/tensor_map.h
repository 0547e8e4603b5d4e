// SPDX-License-Identifier: Apache-2.0
// Tensor maps: how the copy engine of sm_90 sees an array of 2 to 4 dimensions.
#pragma once
#include <cuda.h>
#include <cstdint>

namespace seqloom::cuda {

enum class TensorSwizzle { kNone, k32, k64, k128 };
enum class TensorElement { kFloat32, kFloat16, kBFloat16 };

// dims and box are in elements, innermost dimension first; strides are in bytes, of dimensions 1
// and up, multiples of 16. The box's innermost extent must fit the swizzle's 32, 64 or 128 bytes.
// Pass the result by value to a kernel as `const __grid_constant__ CUtensorMap`.
CUtensorMap make_tensor_map(const void* base, TensorElement element, int rank,
                            const std::uint64_t* dims, const std::uint64_t* strides,
                            const std::uint32_t* box, TensorSwizzle swizzle);

}  // namespace seqloom::cuda
