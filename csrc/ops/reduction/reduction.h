// SPDX-License-Identifier: Apache-2.0
// Contract of the reductions: the middle axis of a row-major [outer, n, inner] array goes away.
//
// float32, float16 and bfloat16 are accumulated in float32 within blocks of a fixed size and in
// float64 between them; float64 in float64; integers and bool in int64 (sums wrap). Blocks and the
// order in which they are joined depend on the shape alone, so results have the same bits whatever
// the threads.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "cpu/isa.h"

namespace seqloom::ops {

enum class ReduceOp : uint8_t {
  kSum,  // sum / divisor: a mean where divisor is n
  kProd,
  kMax,  // NaN wins; of equals the first has the index
  kMin,
  kVar,  // sum((x - mean)^2) / max(n - correction, 0), two passes over each block
  kAny,  // some x != 0
  kAll,
  kLogSumExp,  // log sum exp x
};

struct ReduceArgs {
  ReduceOp op;
  DType dtype;      // of x
  DType out_dtype;  // any; int64 or bool for integers
  int64_t outer, n, inner;
  const void* x;      // [outer, n, inner]
  void* out;          // [outer, inner], or null where only the index is wanted
  int64_t* index;     // [outer, inner] position along n of the extreme (kMax, kMin), or null
  double divisor;     // kSum
  double correction;  // kVar
  void* workspace;    // CUDA: [outer, slices, inner] partial results
  int64_t slices;     // CUDA: how many blocks share one column
};

// out[o, i, c] = x[o, 0, c] + ... + x[o, i, c]; with `reverse` from the other end.
struct CumsumArgs {
  DType dtype, out_dtype;
  bool reverse;
  int64_t outer, n, inner;
  const void* x;  // [outer, n, inner]
  void* out;      // [outer, n, inner]
};

// The gradient of kProd: dx[o, i, c] = g[o, c] times the x[o, j, c] of all j != i.
struct ProdBackwardArgs {
  DType dtype;
  int64_t outer, n, inner;
  const void* grad;  // [outer, inner]
  const void* x;     // [outer, n, inner]
  void* dx;          // [outer, n, inner]
};

// The gradient of kMax and kMin along an axis: dx[o, index[o, c], c] = g[o, c], zeros elsewhere.
struct ExtremeBackwardArgs {
  int32_t item_size;
  int64_t outer, n, inner;
  const void* grad;      // [outer, inner]
  const int64_t* index;  // [outer, inner]
  void* dx;              // [outer, n, inner]
};

void reduce_cuda(const ReduceArgs& args);
void cumsum_cuda(const CumsumArgs& args);
void prod_backward_cuda(const ProdBackwardArgs& args);
void extreme_backward_cuda(const ExtremeBackwardArgs& args);

}  // namespace seqloom::ops

namespace seqloom {
SEQLOOM_DECLARE_CPU(reduce, ops::ReduceArgs)
SEQLOOM_DECLARE_CPU(cumsum, ops::CumsumArgs)
SEQLOOM_DECLARE_CPU(prod_backward, ops::ProdBackwardArgs)
SEQLOOM_DECLARE_CPU(extreme_backward, ops::ExtremeBackwardArgs)
}  // namespace seqloom
