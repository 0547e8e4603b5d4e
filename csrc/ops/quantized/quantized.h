// SPDX-License-Identifier: Apache-2.0
// Contract of linear layers whose weights have 8 or 4 bits:
//
//   C = activation(x W^T + bias),   W [n, k]
//
//   kInt8   W[j, p] = scale[j] q[j, p],     q int8 [n, k] in -127 .. 127, scale float32 [n]
//   kInt4   W[j, p] = scale[j, g] q[j, p],  q in -8 .. 7, g = p / 32, scale bfloat16 [n, groups];
//           uint8 [n, 16 groups], groups = ceil(k / 32): byte i of a group holds q + 8 of element i
//           in its low half and of element 16 + i in its high half. Elements past k have q = 0.
//
// Both lie in the order of the layer's float weight, are read where they lie by every kernel, and
// mean the same on every device. Sums are float32's, or exact integer sums of rounded activations:
//
//   few rows          an activation becomes 16 bits, in two parts of 8: the error of a row is 2^-16
//                     of its largest element, below what bfloat16 loses
//   more rows, kInt8  8 bits, error 2^-8 of the row's largest element
//   more rows, kInt4  bfloat16, as are the weights that come out of the integers
//
// where the CPU multiplies bytes and bfloat16 pairs (AVX-512 VNNI, BF16); otherwise, and on CUDA,
// they stay as they are. Few are kFewRows of kInt4, and kFineRows of kInt8: with more of them 16
// bits would take longer to multiply than the weights take to be read.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "cpu/isa.h"
#include "ops/matmul/matmul.h"

namespace seqloom::ops {

enum class QuantKind : uint8_t { kInt8, kInt4 };

inline constexpr int64_t kQuantGroup = 32;
inline constexpr int64_t kFewRows = 16;  // whose weights are streamed as they lie
inline constexpr int64_t kFineRows = 4;

struct QuantizeArgs {
  const void* weight;  // [n, k] contiguous
  void* quantized;     // written, see above
  void* scales;        // written, see above
  int64_t n, k;
  QuantKind kind;
  DType dtype;  // of weight: float32, float16 or bfloat16
};

struct DequantizeArgs {
  const void* quantized;
  const void* scales;
  void* weight;  // [n, k] contiguous, written
  int64_t n, k;
  QuantKind kind;
  DType dtype;  // of weight
};

struct QuantizedLinearArgs {
  const void* x;  // [m, k], rows ldx apart
  const void* quantized;
  const void* scales;
  const void* bias;  // [n] or null
  void* out;         // [m, n] contiguous
  int64_t m, n, k, ldx;
  Epilogue epilogue;
  QuantKind kind;
  DType dtype;  // of x, bias and out
};

void quantize_weight_cuda(const QuantizeArgs& args);
void dequantize_weight_cuda(const DequantizeArgs& args);
// Up to kFewRows rows; the front door multiplies more by the dequantized weight.
void quantized_linear_cuda(const QuantizedLinearArgs& args);

}  // namespace seqloom::ops

namespace seqloom {
SEQLOOM_DECLARE_CPU_BF16(quantize_weight, ops::QuantizeArgs)
SEQLOOM_DECLARE_CPU_BF16(dequantize_weight, ops::DequantizeArgs)
SEQLOOM_DECLARE_CPU_BF16(quantized_linear, ops::QuantizedLinearArgs)
}  // namespace seqloom
