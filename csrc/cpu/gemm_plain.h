// SPDX-License-Identifier: Apache-2.0
// The product in float64, int64 and int32: the reference path, blocked for cache and registers but
// not tuned. All operands have the type T; sums run over k in order.
// Included by ISA files only.
#pragma once

#include <cmath>

#include "cpu/gemm.h"
#include "cpu/gemm_vec.h"
#include "cpu/parallel.h"

namespace seqloom::SEQLOOM_ISA_NS {

template <class T>
SEQLOOM_ALWAYS_INLINE T activate_plain(cpu::Activation activation, T value) {
  const double x = static_cast<double>(value);
  switch (activation) {
    case cpu::Activation::kRelu:
      return x < 0 ? T(0) : value;
    case cpu::Activation::kGelu:
      return T(0.5 * x * (1.0 + ::erf(x * 0.70710678118654752)));
    case cpu::Activation::kGeluTanh:
      return T(0.5 * x * (1.0 + ::tanh(0.79788456080286536 * (x + 0.044715 * x * x * x))));
    case cpu::Activation::kSilu:
      return T(x / (1.0 + ::exp(-x)));
    default:
      return value;
  }
}

template <class T>
void run_plain(const cpu::GemmArgs& g) {
  constexpr int64_t kRows = 4, kBlockRows = 32, kColumns = 64, kDepth = 64;
  const int64_t row_blocks = ceil_div(g.m, kBlockRows), column_blocks = ceil_div(g.n, kColumns);
  const int64_t a_row = g.trans_a ? 1 : g.lda, a_k = g.trans_a ? g.lda : 1;
  const int64_t b_k = g.trans_b ? 1 : g.ldb, b_column = g.trans_b ? g.ldb : 1;
  const auto run = [&](int64_t begin, int64_t end) {
    alignas(64) T b[kDepth][kColumns];
    alignas(64) T sums[kBlockRows][kColumns];
    for (int64_t t = begin; t < end; ++t) {
      const int64_t i0 = t % row_blocks * kBlockRows;
      const int64_t j0 = t / row_blocks % column_blocks * kColumns;
      const int64_t batch = t / (row_blocks * column_blocks);
      const int64_t rows = min(kBlockRows, g.m - i0), columns = min(kColumns, g.n - j0);
      const T* const from_a = static_cast<const T*>(g.a) + batch * g.a_batch + i0 * a_row;
      const T* const from_b = static_cast<const T*>(g.b) + batch * g.b_batch + j0 * b_column;
      for (auto& line : sums)
        for (T& x : line) x = T(0);
      for (int64_t k0 = 0; k0 < g.k; k0 += kDepth) {
        const int64_t depth = min(kDepth, g.k - k0);
        for (int64_t p = 0; p < depth; ++p)
          for (int64_t j = 0; j < kColumns; ++j)
            b[p][j] = j < columns ? from_b[(k0 + p) * b_k + j * b_column] : T(0);
        for (int64_t i = 0; i < rows; i += kRows) {
          // Rows past the end repeat the last one; only live rows are stored.
          for (int64_t p = 0; p < depth; ++p)
            for (int64_t q = i; q < i + kRows; ++q) {
              const T x = from_a[min(q, rows - 1) * a_row + (k0 + p) * a_k];
              for (int64_t j = 0; j < kColumns; ++j) sums[q][j] += x * b[p][j];
            }
        }
      }
      for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < columns; ++j) {
          const int64_t row = i0 + i, column = j0 + j;
          T& c = static_cast<T*>(g.c)[batch * g.c_batch + row * g.ldc + column];
          T x = static_cast<T>(g.alpha) * sums[i][j];
          if (g.beta != 0.0) x += static_cast<T>(g.beta) * c;
          if (g.bias) x += static_cast<const T*>(g.bias)[g.bias_per_row ? row : column];
          if (g.preact)
            static_cast<T*>(g.preact)[batch * g.preact_batch + row * g.ld_preact + column] = x;
          x = activate_plain(g.activation, x);
          if (g.residual)
            x += static_cast<const T*>(
                g.residual)[batch * g.residual_batch + row * g.ld_residual + column];
          c = x;
        }
    }
  };
  const int64_t work = kBlockRows * kColumns * max<int64_t>(1, g.k);
  cpu::parallel_for(g.batch * row_blocks * column_blocks, ceil_div(1 << 17, work), run);
}

}  // namespace seqloom::SEQLOOM_ISA_NS
