// SPDX-License-Identifier: Apache-2.0
// Contract of the rotary position embedding: pairs of columns turned by an angle of their position.
//
//   y1 = x1 cos - x2 sin      pair k is (k, k + R/2), or (2 k, 2 k + 1) when interleaved
//   y2 = x2 cos + x1 sin      columns R .. D pass through
//
// Backward is the same with the sine negated, applied to the gradient.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "cpu/isa.h"

namespace seqloom::ops {

struct RotaryArgs {
  DType dtype;        // of x and out; float64 on the CPU only
  DType table_dtype;  // of cos and sin: x's or float32
  bool interleaved;
  bool negate;                          // use -sin
  int64_t batch, heads, length, width;  // B, H, T, D
  int64_t pairs;                        // R / 2
  int64_t strides[3];                   // of x along B, H, T, in elements; along D it is 1
  int64_t table_batch_stride;           // 0, or T R/2 where every batch row has its own angles
  const void* x;
  const void* cos;  // [T, R/2] or [B, T, R/2]
  const void* sin;
  void* out;  // [B, H, T, D]
};

void rotary_cuda(const RotaryArgs& args);

}  // namespace seqloom::ops

namespace seqloom {
SEQLOOM_DECLARE_CPU(rotary, ops::RotaryArgs)
}  // namespace seqloom
