// SPDX-License-Identifier: Apache-2.0
// Contract of connectionist temporal classification.
//
// The states of a sequence are its labels with a blank before, between and after them: state 2k + 1
// is label k. A path starts in state 0 or 1, ends in the last or the one before, and goes from a
// state to itself, to the next, or over the blank between two different labels.
//
//   alpha_t(s) = emit_t(s) + log sum over predecessors exp alpha_{t-1}
//   beta_t(s)  = log sum over successors exp(beta_{t+1} + emit_{t+1})
//   loss       = -log(exp alpha_last(last) + exp alpha_last(last - 1))
//   gradient   = share (exp(log_probs) - sum over states of a class exp(alpha + beta + loss))
//
// which is torch's convention: the gradient for log_softmax's argument. All in log space; each step
// is taken relative to the largest value of the one before, and what is taken out is summed in
// float64, so that long sequences lose nothing. log 0 is kNoPath, finite, so that differences of
// two of them are no NaN.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "cpu/isa.h"

namespace seqloom::ops {

constexpr float kNoPath = -1e30f;
constexpr float kHasPath = -1e29f;  // anything above has met no log 0

struct CtcArgs {
  const void* log_probs;    // [steps, batch, classes]
  const int64_t* labels;    // [batch, longest], in [0, classes)
  const int64_t* steps_of;  // [batch], at most steps
  const int64_t* sizes;     // [batch], at most longest
  const float* share;       // [batch]: multiplies the gradient
  float* losses;            // [batch]; infinite, or 0 with zero_infinity, without any path
  float* gradient;  // [steps, batch, classes] or null; 0 past a sequence's steps, NaN (0 with
                    // zero_infinity) without any path
  int64_t steps, batch, classes, longest, blank;
  DType dtype;
  bool zero_infinity;
};

void ctc_cuda(const CtcArgs& args);

}  // namespace seqloom::ops

namespace seqloom {
SEQLOOM_DECLARE_CPU(ctc, ops::CtcArgs)
}  // namespace seqloom
