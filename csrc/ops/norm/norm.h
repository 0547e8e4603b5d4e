// SPDX-License-Identifier: Apache-2.0
// Contract of layer_norm and rms_norm over the last axis, with an optional residual added first.
//
//   h = x + residual (or x)
//   layer   mean = sum h / n     rstd = 1 / sqrt(sum (h - mean)^2 / n + eps)
//           y = (h - mean) rstd weight + bias
//   rms     rstd = 1 / sqrt(sum h^2 / n + eps)     y = h rstd weight
//
// Variances come from two passes over a row in cache, never from E[h^2] - E[h]^2.
// Backward, with g = dy weight and xhat = (h - mean) rstd (rms: h rstd):
//   layer   dh = rstd (g - mean(g) - xhat mean(g xhat)) + dsum
//   rms     dh = rstd (g - xhat mean(g xhat)) + dsum
//   dweight = sum over rows dy xhat     dbias = sum over rows dy
// where dsum is the gradient of the second result x + residual. dx and dresidual are both dh.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "cpu/isa.h"

namespace seqloom::ops {

struct NormArgs {
  const void* x;         // [rows, n]
  const void* residual;  // [rows, n] or null
  const void* weight;    // [n] or null (ones), dtype of x
  const void* bias;      // [n] or null (zeros), dtype of x; layer only
  void* y;               // [rows, n]
  void* sum;             // [rows, n]: x + residual rounded to the dtype; null without residual.
                         // With it, h is the rounded sum, so that backward sees the same numbers.
  float* mean;           // [rows], layer only; null when no backward will come
  float* rstd;           // [rows]; null when no backward will come
  int64_t rows, n;
  float eps;
  DType dtype;
  bool rms;
};

struct NormBackwardArgs {
  const void* dy;      // [rows, n]
  const void* dsum;    // [rows, n] or null
  const void* h;       // [rows, n]: x, or the sum of forward
  const void* weight;  // [n] or null
  const float* mean;   // [rows], layer only
  const float* rstd;   // [rows]
  void* dx;            // [rows, n]; may be dy itself
  float* dweight;      // [n] float32, or null; overwritten
  float* dbias;        // [n] float32, or null; overwritten
  int64_t rows, n;
  DType dtype;
  bool rms;
};

void norm_forward_cuda(const NormArgs& args);
void norm_backward_cuda(const NormBackwardArgs& args);

}  // namespace seqloom::ops

namespace seqloom {
SEQLOOM_DECLARE_CPU(norm_forward, ops::NormArgs)
SEQLOOM_DECLARE_CPU(norm_backward, ops::NormBackwardArgs)
}  // namespace seqloom
