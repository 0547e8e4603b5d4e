// SPDX-License-Identifier: Apache-2.0
// Matrix products by cuBLASLt, which is opened at the first product and never linked. In the
// emulated build a plain host product stands behind the same function, where its setting "library"
// asks for it: otherwise the project's own kernels are what is tested.
#pragma once
#include <cstdint>
#include <string>

#include "core/dtype.h"
#include "cuda/runtime.h"

namespace seqloom::cuda {

// c[M, N] = alpha a[M, K] b[K, N] (+ bias[N]) + beta c, row-major, accumulated in float32; once for
// each of `batch` matrices that lie stride_* elements apart.
struct GemmArgs {
  DType dtype = DType::kFloat32;      // of a, b and bias: float32, float16 or bfloat16
  DType out_dtype = DType::kFloat32;  // of c: dtype, or float32
  std::int64_t m = 0, n = 0, k = 0;
  const void* a = nullptr;     // [M, K], or [K, M] where transpose_a
  const void* b = nullptr;     // [K, N], or [N, K] where transpose_b
  void* c = nullptr;           // [M, N]
  const void* bias = nullptr;  // [N], or null; needs out_dtype == dtype
  bool transpose_a = false, transpose_b = false;
  std::int64_t row_a = 0, row_b = 0, row_c = 0;  // elements from row to row; 0: dense
  std::int64_t batch = 1, stride_a = 0, stride_b = 0, stride_c = 0;
  float alpha = 1.f, beta = 0.f;
  bool allow_tf32 = false;  // float32 inputs may be rounded to tf32
};

// False when cuBLASLt cannot be loaded or has no way to compute this product: the caller's own
// kernel serves then. Throws CudaError when a product that was started fails.
bool gemm(const GemmArgs&, StreamHandle stream);

// What the library's search needs from outside: `find` gives the paths to try before the loader's
// own search, one a line; `warn` is told when nothing was found. Both are called at most once, at
// the first product, by the thread that asks for it, with no lock held.
struct CublasLtHooks {
  std::string (*find)() = nullptr;
  void (*warn)(const std::string& why) = nullptr;
};
void set_cublaslt_hooks(const CublasLtHooks&);
// The loaded file, or every step that was tried and failed. Both search if nobody has.
std::string cublaslt_status();
bool cublaslt_is_loaded();

}  // namespace seqloom::cuda
