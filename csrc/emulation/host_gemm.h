// SPDX-License-Identifier: Apache-2.0
// What stands in for cuBLASLt on the emulated device.
#pragma once
#include <cuda_runtime.h>

#include "cuda/cublaslt.h"

namespace seqloom::emulation {

// Queued on the stream like a kernel; an error says which operand is wrong.
cudaError_t host_gemm(const cuda::GemmArgs&, cudaStream_t);

}  // namespace seqloom::emulation
