// SPDX-License-Identifier: Apache-2.0
// Contract of the optimizers: one call takes a step for a whole list of parameters.
//
// Everything is elementwise over each parameter w with gradient g, in float32 (float64 beside
// float64 parameters); parameters and gradients in 16 bits are widened, and the new parameter is
// rounded once. First g <- c g, with c = -1 to maximize, times the clipping factor
// min(1, max_norm / (norm + 1e-6)) when a norm is given.
//
//   SGD    g += decay w      b = momentum b + (1 - dampening) g  (g itself in the first step)
//          w -= lr (momentum == 0 ? g : nesterov ? g + momentum b : b)
//   Adam   w = shrink w      g += decay w       (AdamW: shrink = 1 - lr decay; Adam: g += decay w)
//          m = beta1 m + (1 - beta1) g          v = beta2 v + (1 - beta2) g^2
//          amsgrad: v^ = max(v^, v), else v^ = v
//          w -= step_size m / (sqrt(v^) root + eps)
//          step_size = lr / (1 - beta1^t)       root = 1 / sqrt(1 - beta2^t)
//
// Work is divided into units of kOptimizerUnit elements that belong to one parameter each, counted
// through the list: item i owns units [start_i, start_i + ceil(size_i / kOptimizerUnit)). Every
// parameter has at least one element. Adafactor has a contract of its own, adafactor.h.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "cpu/isa.h"

namespace seqloom::ops {

constexpr int64_t kOptimizerUnit = 2048;

struct OptimizerItem {
  void* parameter;   // [size]; null for gradient_norm and gradient_scale
  void* gradient;    // [size], dtype of the parameter; written by gradient_scale alone
  void* first;       // [size] b of SGD (null without momentum), m of Adam; dtype of the state
  void* second;      // [size] v of Adam
  void* largest;     // [size] v^ of Adam, null without amsgrad
  int64_t size;      // > 0
  int64_t start;     // units of the items before
  double step_size;  // Adam
  double root;       // Adam
  bool fresh;        // SGD: b is uninitialised
  bool aligned;      // every address is a multiple of 16
};

struct OptimizerList {
  const OptimizerItem* items;  // [count], in host memory
  int64_t count, units;
  DType dtype;  // of parameters and gradients; the state is float64 beside float64, or float32
  const float* norm;  // [1] of the gradients, where they are; or null
  float max_norm;
  bool negate;  // maximize
};

struct SgdArgs {
  OptimizerList list;
  double lr, momentum, dampening, decay;
  bool nesterov;
};

struct AdamArgs {
  OptimizerList list;
  double beta1, beta2, eps;
  double decay;   // added to the gradient, times the parameter
  double shrink;  // multiplies the parameter
};

struct GradientNormArgs {
  OptimizerList list;
  float* norm;  // [1], where the gradients are: root of the sum of their squares
};

struct GradientScaleArgs {
  OptimizerList list;  // gradients are multiplied by c
};

void sgd_step_cuda(const SgdArgs& args);
void adam_step_cuda(const AdamArgs& args);
void gradient_norm_cuda(const GradientNormArgs& args);
void gradient_scale_cuda(const GradientScaleArgs& args);

// c, from the norm when there is one. A NaN norm gives NaN, as in torch.
SEQLOOM_HOST_DEVICE float gradient_factor(const OptimizerList& list) {
  float c = 1.0f;
  if (list.norm != nullptr) {
    const float limit = list.max_norm / (*list.norm + 1e-6f);
    c = limit >= 1.0f ? 1.0f : limit;
  }
  return list.negate ? -c : c;
}

// The item that owns a unit: the last one that starts at or before it.
SEQLOOM_HOST_DEVICE int64_t item_of_unit(const OptimizerItem* items, int64_t count, int64_t unit) {
  int64_t low = 0, high = count;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    if (items[middle].start <= unit)
      low = middle;
    else
      high = middle;
  }
  return low;
}

}  // namespace seqloom::ops

namespace seqloom {
SEQLOOM_DECLARE_CPU(sgd_step, ops::SgdArgs)
SEQLOOM_DECLARE_CPU(adam_step, ops::AdamArgs)
SEQLOOM_DECLARE_CPU(gradient_norm, ops::GradientNormArgs)
SEQLOOM_DECLARE_CPU(gradient_scale, ops::GradientScaleArgs)
}  // namespace seqloom
