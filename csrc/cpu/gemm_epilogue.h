// SPDX-License-Identifier: Apache-2.0
// What happens to a finished tile of float32 sums on its way to C:
//   x = alpha * sum + beta * C + bias;  preact = x;  C = activation(x) + residual.
// Included by ISA files only.
#pragma once

#include "cpu/gemm_source.h"
#include "cpu/vec_math.h"

namespace seqloom::SEQLOOM_ISA_NS {

using cpu::Activation;
using cpu::GemmArgs;

// `count` elements, 1 .. kLanes, at p[at].
SEQLOOM_ALWAYS_INLINE VecF load_any(const void* p, DType type, int64_t at, int count) {
  if (type == DType::kFloat32) return load(static_cast<const float*>(p) + at, count);
  if (type == DType::kBFloat16) return load(static_cast<const bf16*>(p) + at, count);
  return load(static_cast<const f16*>(p) + at, count);
}

SEQLOOM_ALWAYS_INLINE void store_any(void* p, DType type, int64_t at, VecF x, int count) {
  if (type == DType::kFloat32) return store(static_cast<float*>(p) + at, x, count);
  if (type == DType::kBFloat16) return store(static_cast<bf16*>(p) + at, x, count);
  store(static_cast<f16*>(p) + at, x, count);
}

SEQLOOM_ALWAYS_INLINE VecF activate(Activation activation, VecF x) {
  switch (activation) {
    case Activation::kRelu:
      return select(x < VecF::zero(), VecF::zero(), x);
    case Activation::kGelu:
      return gelu_erf(x);
    case Activation::kGeluTanh:
      return gelu_tanh(x);
    case Activation::kSilu:
      return silu(x);
    default:
      return x;
  }
}

// Whether the sums may be stored to C as they are (C += sums where beta is 1).
SEQLOOM_ALWAYS_INLINE bool epilogue_is_plain(const GemmArgs& g) {
  return g.c_type == DType::kFloat32 && g.alpha == 1.0 && (g.beta == 0.0 || g.beta == 1.0) &&
         !g.bias && g.activation == Activation::kNone && !g.residual && !g.preact;
}

// Whether a bias for each column is all there is.
SEQLOOM_ALWAYS_INLINE bool epilogue_is_bias(const GemmArgs& g) {
  return g.c_type == DType::kFloat32 && g.alpha == 1.0 && g.beta == 0.0 &&
         (!g.bias || (g.bias_type == DType::kFloat32 && !g.bias_per_row)) &&
         g.activation == Activation::kNone && !g.residual && !g.preact;
}

// Rows [i0, i0 + rows) x columns [j0, j0 + columns) of C of one batch entry. `sums` may be C's own
// tile. A quantized product also has the scales of its rows and of all columns.
static SEQLOOM_NOINLINE void finish_tile(const GemmArgs& g, int64_t batch, int64_t i0, int64_t rows,
                                         int64_t j0, int64_t columns, const float* sums,
                                         int64_t ld_sums, const float* row_scales,
                                         const float* column_scales) {
  const VecF alpha = VecF::broadcast(static_cast<float>(g.alpha));
  const VecF beta = VecF::broadcast(static_cast<float>(g.beta));
  for (int64_t j = 0; j < columns; j += kLanes) {
    const int n = static_cast<int>(min<int64_t>(kLanes, columns - j));
    VecF bias = VecF::zero();
    if (g.bias && !g.bias_per_row) bias = load_any(g.bias, g.bias_type, j0 + j, n);
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t row = i0 + i, column = j0 + j;
      const int64_t at = batch * g.c_batch + row * g.ldc + column;
      if (g.bias_per_row && g.bias) bias = VecF::broadcast(load_element(g.bias, g.bias_type, row));
      VecF x = load(sums + i * ld_sums + j, n);
      if (row_scales) x = VecF::broadcast(row_scales[i]) * x;
      if (column_scales) x = load(column_scales + column, n) * x;
      if (g.alpha != 1.0) x = alpha * x;
      if (g.beta != 0.0) x = fma(beta, load_any(g.c, g.c_type, at, n), x);
      if (g.bias) x = x + bias;
      if (g.preact)
        store_any(g.preact, g.c_type, batch * g.preact_batch + row * g.ld_preact + column, x, n);
      x = activate(g.activation, x);
      if (g.residual)
        x = x + load_any(g.residual, g.c_type,
                         batch * g.residual_batch + row * g.ld_residual + column, n);
      store_any(g.c, g.c_type, at, x, n);
    }
  }
}

}  // namespace seqloom::SEQLOOM_ISA_NS
