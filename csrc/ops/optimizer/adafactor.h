// SPDX-License-Identifier: Apache-2.0
// Contract of Adafactor: one call takes a step for a whole list of parameters.
//
// A parameter with two or more axes is seen as [batch, rows, columns] and keeps the means of its
// squared gradient along both axes of each matrix; others are one row and keep all of it. With
// f = step^beta2_decay and mean(...) over the axis that is missing:
//
//   matrices  r_i = (1 - f) r_i + f mean_j g_ij^2      c_j = (1 - f) c_j + f mean_i g_ij^2
//             v_ij = r_i c_j / max(eps, mean_i r_i)
//   others    v_j = (1 - f) v_j + f g_j^2
//   u = g / sqrt(max(v, eps^2))
//   w = shrink w - u max(floor, rms(w)) relative / max(1, rms(u) / d)
//   relative = min(lr, 1 / sqrt(step))       shrink = 1 - lr weight_decay
//
// Four passes over the list, because both root mean squares and the means must be complete before
// what they divide: statistics, their merging, rms(u), and the new parameters. Work is divided into
// blocks of `block` rows of one matrix (elements of a vector), counted through the list; sums go
// from blocks to the whole in a fixed order.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "cpu/isa.h"

namespace seqloom::ops {

constexpr int64_t kAdafactorMaxBlocks = 64;  // of one matrix

struct AdafactorItem {
  void* parameter;       // [batch, rows, columns] or [columns]
  const void* gradient;  // the same, dtype of the parameter
  void* row;             // [batch, rows], or null for vectors; dtype of the state
  void* column;          // [batch, columns], or [columns] for vectors
  int64_t batch, rows, columns;
  int64_t block;    // rows (elements) of a block
  int64_t blocks;   // of one matrix
  int64_t start;    // blocks of the items before
  int64_t matrix;   // matrices of the items before
  int64_t scratch;  // columns of the blocks before: where its partial sums of columns lie
  double fresh;     // f
  double relative, eps;
};

struct AdafactorArgs {
  const AdafactorItem* items;  // [count], in host memory
  int64_t count, blocks, matrices;
  int64_t scratch;  // columns of all blocks
  double floor, d, shrink;
  const float* norm;  // as in optimizer.h
  float max_norm;
  bool negate;
  DType dtype;
};

void adafactor_step_cuda(const AdafactorArgs& args);

// The item that owns a block.
SEQLOOM_HOST_DEVICE int64_t item_of_block(const AdafactorItem* items, int64_t count,
                                          int64_t block) {
  int64_t low = 0, high = count;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    if (items[middle].start <= block)
      low = middle;
    else
      high = middle;
  }
  return low;
}

}  // namespace seqloom::ops

namespace seqloom {
SEQLOOM_DECLARE_CPU(adafactor_step, ops::AdafactorArgs)
}  // namespace seqloom
