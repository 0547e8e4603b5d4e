// SPDX-License-Identifier: Apache-2.0
// Matrix product on the CPU: C = epilogue(alpha * A * B + beta * C).
//
//   A [m, k], B [k, n], C [m, n], each with a leading dimension, optionally batched with strides.
//   A, B and C are each float32, bfloat16 or float16 (float32 accumulation), or all operands are of
//   one of the types float64, int64 and int32. B may be packed once, ahead of time, into a
//   PackedMatrix.
//
// The same arguments give the same bits whatever the number of threads: each element of C is one
// sum in an order that follows from m, n, k and the operands' layout only.
// Callers check shapes; here m, n, k = 0 are fine and nothing else is validated.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/dtype.h"

namespace seqloom::cpu {

enum class Activation : uint8_t { kNone, kRelu, kGelu, kGeluTanh, kSilu };

// How a packed B is stored. 16-bit formats are widened in the kernel unless both operands are
// bfloat16 and the CPU multiplies bfloat16 pairs. kInt8 holds one scale a column, kInt4 one scale
// and one minimum for each group of `group` consecutive k.
enum class PackFormat : uint8_t { kF32, kBF16, kF16, kInt8, kInt4 };

// A view of packed weights; the memory is the caller's. Only valid for the instruction set that
// packed it (`isa`), which gemm() uses whatever level is active by then.
struct PackedMatrix {
  PackFormat format = PackFormat::kF32;
  int isa = 0;
  int64_t k = 0, n = 0;
  int64_t group = 0;              // kInt4: 32, 64 or 128
  const void* panels = nullptr;   // panel p holds its columns for k = 0, 1, ... in one stretch
  const float* scales = nullptr;  // kInt8 [n]; kInt4 [k / group, n]
  const float* mins = nullptr;    // kInt4 [k / group, n]
  const int32_t* sums = nullptr;  // kInt8 [n]: sum of the column's integers
};

struct PackArgs {
  PackFormat format = PackFormat::kF32;
  DType type = DType::kFloat32;  // of the source: kF32, kBF16 or kF16
  int64_t k = 0, n = 0;
  const void* b = nullptr;  // [k, n], or [n, k] with trans_b (the layout of Linear weights)
  int64_t ldb = 0;
  bool trans_b = false;
  int64_t group = 0;
  void* memory = nullptr;  // packed_bytes() bytes, 64-byte aligned; huge pages pay off
  PackedMatrix* out = nullptr;
};

struct GemmArgs {
  int64_t m = 0, n = 0, k = 0;

  // A: [m, k] with rows lda apart, or [k, m] with trans_a.
  const void* a = nullptr;
  int64_t lda = 0;
  bool trans_a = false;
  DType a_type = DType::kFloat32;

  // B: [k, n] with rows ldb apart, or [n, k] with trans_b. Ignored where packed_b is set.
  const void* b = nullptr;
  int64_t ldb = 0;
  bool trans_b = false;
  DType b_type = DType::kFloat32;
  const PackedMatrix* packed_b = nullptr;
  // kInt8 and kInt4 only: round each row of A to 8 bits and multiply integers. Without it, and on
  // CPUs that lack the instruction, the weights are widened and the product is float32's.
  bool quantize_a = false;

  // C: [m, n] with rows ldc apart. C may not overlap A, B, bias, residual or preact.
  void* c = nullptr;
  int64_t ldc = 0;
  DType c_type = DType::kFloat32;

  double alpha = 1.0, beta = 0.0;

  // Batch strides in elements; 0 repeats an operand.
  int64_t batch = 1;
  int64_t a_batch = 0, b_batch = 0, c_batch = 0;

  // x = alpha * A * B + beta * C + bias;  preact = x;  C = activation(x) + residual.
  const void* bias = nullptr;  // [n], or [m] with bias_per_row
  DType bias_type = DType::kFloat32;
  bool bias_per_row = false;
  Activation activation = Activation::kNone;
  const void* residual = nullptr;  // C's type, shape [m, n]
  int64_t ld_residual = 0, residual_batch = 0;
  void* preact = nullptr;  // C's type, shape [m, n]
  int64_t ld_preact = 0, preact_batch = 0;
};

void gemm(const GemmArgs& args);

// Memory that pack_b() needs for the active instruction set.
size_t packed_bytes(PackFormat format, int64_t k, int64_t n, int64_t group = 0);

// Packs B for gemm() on the active instruction set and fills *args.out.
void pack_b(const PackArgs& args);

}  // namespace seqloom::cpu
