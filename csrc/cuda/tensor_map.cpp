// SPDX-License-Identifier: Apache-2.0
#include "cuda/tensor_map.h"

#include <cuda_runtime.h>

#include <string>

#include "cuda/error.h"

namespace seqloom::cuda {
namespace {

using Encode = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*,
                            const cuuint64_t*, const cuuint32_t*, const cuuint32_t*,
                            CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion,
                            CUtensorMapFloatOOBfill);

// Asked of the runtime, so that nothing links against libcuda.
Encode encoder() {
  void* p = nullptr;
  cudaDriverEntryPointQueryResult found;
  check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &p, 12000, cudaEnableDefault,
                                         &found),
        "cudaGetDriverEntryPointByVersion");
  if (found != cudaDriverEntryPointSuccess || !p)
    throw CudaError(cudaErrorNotSupported, "cuda: the driver has no cuTensorMapEncodeTiled");
  return reinterpret_cast<Encode>(p);
}

}  // namespace

CUtensorMap make_tensor_map(const void* base, TensorElement element, int rank,
                            const std::uint64_t* dims, const std::uint64_t* strides,
                            const std::uint32_t* box, TensorSwizzle swizzle) {
  static const Encode encode = encoder();
  if (rank < 2 || rank > 4)
    throw CudaError(cudaErrorInvalidValue,
                    "tensor map: rank must be 2 to 4, got " + std::to_string(rank));
  const CUtensorMapDataType types[] = {CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
                                       CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
                                       CU_TENSOR_MAP_DATA_TYPE_BFLOAT16};
  const CUtensorMapSwizzle swizzles[] = {CU_TENSOR_MAP_SWIZZLE_NONE, CU_TENSOR_MAP_SWIZZLE_32B,
                                         CU_TENSOR_MAP_SWIZZLE_64B, CU_TENSOR_MAP_SWIZZLE_128B};
  cuuint64_t sizes[4], pitches[4];
  cuuint32_t boxes[4], element_strides[4] = {1, 1, 1, 1};
  for (int d = 0; d < rank; ++d) {
    sizes[d] = dims[d];
    boxes[d] = box[d];
    if (d + 1 < rank) pitches[d] = strides[d];
  }
  CUtensorMap map;
  const CUresult result =
      encode(&map, types[static_cast<int>(element)], static_cast<cuuint32_t>(rank),
             const_cast<void*>(base), sizes, pitches, boxes, element_strides,
             CU_TENSOR_MAP_INTERLEAVE_NONE, swizzles[static_cast<int>(swizzle)],
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS)
    throw CudaError(cudaErrorInvalidValue, "tensor map: refused by the driver (CUresult " +
                                               std::to_string(static_cast<int>(result)) + ")");
  return map;
}

}  // namespace seqloom::cuda
