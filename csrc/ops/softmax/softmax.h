// SPDX-License-Identifier: Apache-2.0
// Contract of softmax and log_softmax over one axis of a row-major array.
//
// The array is seen as [outer, length, inner], the axis in the middle; inner == 1 for the last
// axis.
//   forward    m = max_j x_j      s = sum_j exp(x_j - m)
//              softmax      y_i = exp(x_i - m) / s
//              log_softmax  y_i = x_i - m - log s
//   backward   softmax      dx_i = y_i (dy_i - sum_j dy_j y_j)
//              log_softmax  dx_i = dy_i - exp(y_i) sum_j dy_j
// A row with NaN, +inf or nothing but -inf gives NaN, as the formula does. Backward needs y alone.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "cpu/isa.h"

namespace seqloom::ops {

struct SoftmaxArgs {
  const void* x;  // [outer, length, inner]
  void* y;        // [outer, length, inner]; may be x itself
  int64_t outer, length, inner;
  DType dtype;  // float32, float16 or bfloat16; float64 on the CPU
  bool log;     // log_softmax
};

struct SoftmaxBackwardArgs {
  const void* dy;  // [outer, length, inner]
  const void* y;   // [outer, length, inner]: what forward gave
  void* dx;        // [outer, length, inner]; may be dy itself
  int64_t outer, length, inner;
  DType dtype;
  bool log;
};

void softmax_forward_cuda(const SoftmaxArgs& args);
void softmax_backward_cuda(const SoftmaxBackwardArgs& args);

}  // namespace seqloom::ops

namespace seqloom {
SEQLOOM_DECLARE_CPU(softmax_forward, ops::SoftmaxArgs)
SEQLOOM_DECLARE_CPU(softmax_backward, ops::SoftmaxBackwardArgs)
}  // namespace seqloom
