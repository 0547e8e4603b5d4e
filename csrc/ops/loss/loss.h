// SPDX-License-Identifier: Apache-2.0
// Contract of cross-entropy over rows of logits against class indices.
//
//   m_r = max_c x_rc     s_r = sum_c exp(x_rc - m_r)     q_rc = (m_r - x_rc) + log s_r
//   t = target_r         e = label_smoothing             C = classes
//   loss_r = (1 - e) w_t q_rt + e / C sum_c w_c q_rc                           0 for ignored rows
//   dx_rc  = g_r (p_rc ((1 - e) w_t + e / C sum w) - e / C w_c - [c == t] (1 - e) w_t)
// with p_rc = exp(x_rc - m_r) / s_r, and w = 1 when no class weights are given. g_r is the gradient
// of loss_r. m and log s are never added before x is subtracted: next to a maximum of 1e4 their sum
// would have lost the logarithm's digits.
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
  float* max_sum;          // [rows, 2]: m and s; written, or read when given
  void* dlogits;           // [rows, classes] in the dtype of logits, or null
  const float* row_scale;  // [rows]: g_r; null: g_r = scale
  float scale;
  int64_t rows, classes;
  int64_t ignore_index;
  float smoothing;
  float weight_sum;  // sum of weight, or classes
  bool given;        // max_sum is what forward gave
  DType dtype;       // float32, float16, bfloat16
};

void cross_entropy_cuda(const CrossEntropyArgs& args);

}  // namespace seqloom::ops

namespace seqloom {
SEQLOOM_DECLARE_CPU(cross_entropy, ops::CrossEntropyArgs)
}  // namespace seqloom
