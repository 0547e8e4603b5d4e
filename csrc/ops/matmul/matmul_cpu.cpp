// SPDX-License-Identifier: Apache-2.0
// Sums of columns on the CPU: blocks of 128 rows are summed on their own, then the blocks in order,
// so that neither the number of threads nor the width of a vector changes the bits.
#include "cpu/parallel.h"
#include "cpu/vec.h"
#include "ops/matmul/matmul.h"

namespace seqloom::SEQLOOM_ISA_NS {
namespace {

using ops::kColumnSumRows;

// sums[0 .. width) = rows of x added up.
template <class T>
void sum_block(const T* x, int64_t rows, int64_t columns, int64_t width, float* sums) {
  int64_t j = 0;
  for (; j + 4 * kLanes <= width; j += 4 * kLanes) {
    VecF a = VecF::zero(), b = a, c = a, d = a;
    for (int64_t i = 0; i < rows; ++i) {
      const T* p = x + i * columns + j;
      a += load(p);
      b += load(p + kLanes);
      c += load(p + 2 * kLanes);
      d += load(p + 3 * kLanes);
    }
    store(sums + j, a);
    store(sums + j + kLanes, b);
    store(sums + j + 2 * kLanes, c);
    store(sums + j + 3 * kLanes, d);
  }
  for (; j < width; j += kLanes) {
    const int live = static_cast<int>(min<int64_t>(kLanes, width - j));
    VecF a = VecF::zero();
    for (int64_t i = 0; i < rows; ++i) a += load(x + i * columns + j, live);
    store(sums + j, a, live);
  }
}

template <class T>
void column_sum_typed(const ops::ColumnSumArgs& a) {
  const T* x = static_cast<const T*>(a.x);
  T* out = static_cast<T*>(a.out);
  const int64_t blocks = ops::column_sum_blocks(a.rows);
  const int64_t grain = max<int64_t>(1, 16384 / max<int64_t>(1, kColumnSumRows * a.columns));
  cpu::parallel_for(blocks, grain, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const int64_t first = b * kColumnSumRows;
      sum_block(x + first * a.columns, min(kColumnSumRows, a.rows - first), a.columns, a.columns,
                a.partial + b * a.columns);
    }
  });
  cpu::parallel_for(a.columns, 4096, [&](int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end; j += kLanes) {
      const int live = static_cast<int>(min<int64_t>(kLanes, end - j));
      VecF sum = VecF::zero();
      for (int64_t b = 0; b < blocks; ++b) sum += load(a.partial + b * a.columns + j, live);
      store(out + j, sum, live);
    }
  });
}

void column_sum_double(const ops::ColumnSumArgs& a) {
  const double* x = static_cast<const double*>(a.x);
  double* out = static_cast<double*>(a.out);
  for (int64_t j = 0; j < a.columns; ++j) out[j] = 0;
  for (int64_t i = 0; i < a.rows; ++i)
    for (int64_t j = 0; j < a.columns; ++j) out[j] += x[i * a.columns + j];
}

}  // namespace

void column_sum(const ops::ColumnSumArgs& a) {
  switch (a.dtype) {
    case DType::kFloat64:
      return column_sum_double(a);
    case DType::kFloat16:
      return column_sum_typed<f16>(a);
    case DType::kBFloat16:
      return column_sum_typed<bf16>(a);
    default:
      return column_sum_typed<float>(a);
  }
}

}  // namespace seqloom::SEQLOOM_ISA_NS
