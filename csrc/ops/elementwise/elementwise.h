// SPDX-License-Identifier: Apache-2.0
// Contract of the elementwise kernels: one args struct, one op code, any strides.
//
// An op maps up to four inputs to one or two outputs, element by element, over one iteration space.
// Every operand has its own dtype and strides (0 where it is broadcast, negative where it is
// flipped); the kernel converts each input to the compute type, applies the formula and converts
// the result to the output's dtype:
//
//   compute    operands
//   float32    anything; what float32, float16, bfloat16 and mixtures with integers are computed in
//   float64    anything
//   int64      integers and bool; sums and products wrap
//
// The formulas are in elementwise_math.h, shared by both backends. Outputs may be one of the inputs
// (same memory, same strides); other overlap must not be.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "cpu/isa.h"

namespace seqloom::ops {

inline constexpr int kMaxInputs = 4;
inline constexpr int kMaxOutputs = 2;
inline constexpr int kMaxElementwiseRank = 8;

// In the comments x, y, z are the inputs, g the gradient of the output, p and q the args' numbers.
enum class ElementwiseOp : uint8_t {
  // one input
  kCopy,
  kNeg,
  kAbs,
  kSign,
  kExp,
  kLog,
  kSqrt,
  kRsqrt,
  kSin,
  kCos,
  kTanh,
  kSigmoid,
  kErf,
  kRelu,
  kGelu,
  kGeluTanh,
  kSilu,
  kFloor,
  kRound,  // to even
  kReciprocal,
  kLogicalNot,
  kBitwiseNot,
  kClamp,    // min(max(x, p), q), NaN stays
  kDropout,  // keep ? x * q : 0 with P(drop) = p; element i keeps by number offset + i of the seed
  // two inputs
  kAdd,
  kSub,
  kMul,
  kDiv,
  kFloorDivide,
  kRemainder,  // the sign of the divisor
  kPow,
  kMaximum,  // NaN wins
  kMinimum,
  kEq,
  kNe,
  kLt,
  kLe,
  kGt,
  kGe,
  kAnd,  // bits, like the two that follow
  kOr,
  kXor,
  kSwiglu,    // silu(x) y
  kGeglu,     // gelu(x) y
  kBiasRelu,  // relu(x + y)
  kBiasGelu,  // gelu(x + y)
  kBiasGeluTanh,
  kBiasSilu,
  kDropoutAdd,       // dropout(x) + y
  kScaleAdd,         // x p + y: scores and an additive mask
  kScaleMaskedFill,  // y ? q : x p: scores and a boolean mask (true = hidden)
  // three inputs
  kWhere,           // x ? y : z
  kBiasDropoutAdd,  // dropout(x + y) + z
  // gradients, two inputs: g and what forward kept
  kExpBackward,  // ... y = exp(x), and so on
  kLogBackward,
  kSqrtBackward,
  kRsqrtBackward,
  kSinBackward,
  kCosBackward,
  kTanhBackward,
  kSigmoidBackward,
  kErfBackward,
  kReluBackward,
  kGeluBackward,
  kGeluTanhBackward,
  kSiluBackward,
  kReciprocalBackward,
  kAbsBackward,
  kClampBackward,
  // gradients, three inputs
  kDivBackward,      // of the divisor: g, y = a / b, b
  kPowBackwardBase,  // g, base, exponent
  kPowBackwardExponent,
  kMaximumBackward,  // of the first: g, a, b; of the second: g, b, a
  kMinimumBackward,
  kBiasReluBackward,  // of x + bias: g, x, bias
  kBiasGeluBackward,
  kBiasGeluTanhBackward,
  kBiasSiluBackward,
  kSwigluBackward,  // g, gate, up -> gradients of gate and up
  kGegluBackward,
};

// On CUDA float64 is for moving and comparing data: conversions, arithmetic, choices.
constexpr bool has_float64_on_cuda(ElementwiseOp op) {
  using Op = ElementwiseOp;
  return op == Op::kCopy || op == Op::kNeg || op == Op::kAbs || op == Op::kSqrt ||
         op == Op::kLogicalNot || op == Op::kClamp || op == Op::kAdd || op == Op::kSub ||
         op == Op::kMul || op == Op::kDiv || op == Op::kMaximum || op == Op::kMinimum ||
         (op >= Op::kEq && op <= Op::kGe) || op == Op::kWhere;
}

struct Operand {
  void* data;       // first element; null for a number
  double real;      // the number
  int64_t integer;  // the number, where compute is int64
  DType dtype;
  uint8_t flat;                          // elements lie in iteration order without gaps
  int64_t strides[kMaxElementwiseRank];  // in elements
};

struct ElementwiseArgs {
  ElementwiseOp op;
  DType compute;  // float32, float64 or int64
  uint8_t inputs, outputs;
  int32_t rank;   // after axes that can be walked as one were joined
  int64_t count;  // product of shape
  double p, q;
  uint64_t seed, offset;
  int64_t shape[kMaxElementwiseRank];
  Operand in[kMaxInputs];
  Operand out[kMaxOutputs];
};

// to[i] = from[i] for operands of one item size, bit by bit.
struct StridedCopyArgs {
  const void* from;
  void* to;
  int32_t item_size;  // 1, 2, 4 or 8
  int32_t rank;
  int64_t count;
  int64_t shape[kMaxElementwiseRank];
  int64_t from_strides[kMaxElementwiseRank];  // in elements
  int64_t to_strides[kMaxElementwiseRank];
};

// out[i] by number offset + i of the Philox stream of `seed`.
struct RandomArgs {
  void* out;  // [count]
  int64_t count;
  DType dtype;
  uint8_t kind;  // 0 uniform in [0, 1), 1 standard normal, 2 integers in [low, low + range)
  uint64_t seed, offset;
  int64_t low;
  uint64_t range;
};

void elementwise_cuda(const ElementwiseArgs& args);
void strided_copy_cuda(const StridedCopyArgs& args);
void random_cuda(const RandomArgs& args);

}  // namespace seqloom::ops

namespace seqloom {
SEQLOOM_DECLARE_CPU(elementwise, ops::ElementwiseArgs)
SEQLOOM_DECLARE_CPU(strided_copy, ops::StridedCopyArgs)
SEQLOOM_DECLARE_CPU(random_fill, ops::RandomArgs)
}  // namespace seqloom
