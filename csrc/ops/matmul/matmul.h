// SPDX-License-Identifier: Apache-2.0
// Contract of the matrix products. The CPU's product is the toolbox's (cpu/gemm.h); CUDA's is
// cuBLASLt where it is found, else gemm_cuda below. Both take the same description:
//
//   C[b] = activation(A[b] B[b] + bias),  b < batch
//
//   A [m, k] rows lda apart, or stored as [k, m] with trans_a; B [k, n], or [n, k] with trans_b
//   C [m, n] rows ldc apart; bias [n] or null
//   preact [m, n] like C, contiguous: A B + bias before the activation, for backward; or null
//   dtype float32, float16, bfloat16 (float32 accumulation), float64, int32, int64
//   batch strides in elements; 0 repeats an operand. C overlaps nothing else.
//   float_out: C is float32 whatever dtype is; without bias, preact and activation (CUDA only)
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "cpu/isa.h"

namespace seqloom::ops {

enum class Epilogue : uint8_t { kNone, kRelu, kGelu, kGeluTanh, kSilu };

struct ProductArgs {
  const void* a;
  const void* b;
  void* c;
  const void* bias;
  void* preact;
  int64_t m, n, k, batch;
  int64_t lda, ldb, ldc;
  int64_t a_batch, b_batch, c_batch;
  bool trans_a, trans_b;
  Epilogue epilogue;
  DType dtype;
  bool float_out;
};

// out[j] = sum over i of x[i, j], float32 accumulation: bias gradients.
struct ColumnSumArgs {
  const void* x;   // [rows, columns], contiguous
  void* out;       // [columns]
  float* partial;  // [column_sum_blocks(rows), columns], scratch
  int64_t rows, columns;
  DType dtype;
};
inline constexpr int64_t kColumnSumRows = 128;  // a block of rows: the order of the sum
inline int64_t column_sum_blocks(int64_t rows) {
  return (rows + kColumnSumRows - 1) / kColumnSumRows;
}

void product_cuda(const ProductArgs& args);
void column_sum_cuda(const ColumnSumArgs& args);

}  // namespace seqloom::ops

namespace seqloom {
SEQLOOM_DECLARE_CPU(column_sum, ops::ColumnSumArgs)
}  // namespace seqloom
