// SPDX-License-Identifier: Apache-2.0
// Contract of cross-entropy over rows of logits against class indices.
//
//   lse_r = log sum_c exp(x_rc)       t = target_r     e = label_smoothing     C = classes
//   loss_r = (1 - e) w_t (lse_r - x_rt) + e / C sum_c w_c (lse_r - x_rc)       0 for ignored rows
//   dx_rc  = g_r (p_rc ((1 - e) w_t + e / C sum w) - e / C w_c - [c == t] (1 - e) w_t)
// with w = 1 when no class weights are given. g_r is the gradient of loss_r.
//
// Training asks for the gradient in forward already (`dlogits`): a row is then in cache, and memory
// is read once and written once. `dlogits` may be `logits` itself.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "cpu/isa.h"

namespace seqloom::ops {

struct CrossEntropyArgs {
  const void* logits;      // [rows, classes]
  const int64_t* targets;  // [rows]; in range or equal to ignore_index (checked before)
  const float* weight;     // [classes] or null
  float* losses;           // [rows]; null when only the gradient is wanted
  float* lse;              // [rows]; written, or read when given_lse
  void* dlogits;           // [rows, classes] in the dtype of logits, or null
  const float* row_scale;  // [rows]: g_r; null: g_r = scale
  float scale;
  int64_t rows, classes;
  int64_t ignore_index;
  float smoothing;
  float weight_sum;  // sum of weight, or classes
  bool given_lse;
  DType dtype;  // float32, float16, bfloat16
};

void cross_entropy_cuda(const CrossEntropyArgs& args);

}  // namespace seqloom::ops

namespace seqloom {
SEQLOOM_DECLARE_CPU(cross_entropy, ops::CrossEntropyArgs)
}  // namespace seqloom
