// SPDX-License-Identifier: Apache-2.0
// Strided copies of 1, 2, 4 or 8-byte elements. Rows that are contiguous on both sides are moved by
// memcpy; where the source walks columns (a transpose), square tiles keep every cache line in use.
#include <cstring>

#include "cpu/parallel.h"
#include "cpu/vec.h"
#include "ops/elementwise/elementwise.h"

namespace seqloom::SEQLOOM_ISA_NS {
namespace {

using ops::StridedCopyArgs;

constexpr int64_t kTile = 32;

// rows x columns elements; the strides are in elements.
template <class T>
void copy_matrix(T* to, int64_t to_row, int64_t to_column, const T* from, int64_t from_row,
                 int64_t from_column, int64_t rows, int64_t columns) {
  if (to_column == 1 && from_column == 1) {
    for (int64_t r = 0; r < rows; ++r)
      memcpy(to + r * to_row, from + r * from_row, static_cast<size_t>(columns) * sizeof(T));
    return;
  }
  if (from_column == 0 && to_column == 1) {
    for (int64_t r = 0; r < rows; ++r) {
      const T value = from[r * from_row];
      for (int64_t c = 0; c < columns; ++c) to[r * to_row + c] = value;
    }
    return;
  }
  for (int64_t r0 = 0; r0 < rows; r0 += kTile) {
    const int64_t r1 = min(rows, r0 + kTile);
    for (int64_t c0 = 0; c0 < columns; c0 += kTile) {
      const int64_t c1 = min(columns, c0 + kTile);
      for (int64_t r = r0; r < r1; ++r)
        for (int64_t c = c0; c < c1; ++c)
          to[r * to_row + c * to_column] = from[r * from_row + c * from_column];
    }
  }
}

template <class T>
void copy_all(const StridedCopyArgs& a) {
  const int last = a.rank - 1;
  // The two axes of a matrix: the last, and the one that the source walks in the smallest steps
  // (the partner of the last axis in a transpose), else the one before.
  int row_axis = last - 1;
  for (int i = 0; i < last; ++i)
    if (a.from_strides[i] == 1 && a.from_strides[last] != 1) row_axis = i;
  const int64_t columns = a.shape[last];
  const int64_t rows = row_axis >= 0 ? a.shape[row_axis] : 1;
  const int64_t matrices = a.count / (rows * columns);
  const int64_t to_row = row_axis >= 0 ? a.to_strides[row_axis] : 0;
  const int64_t from_row = row_axis >= 0 ? a.from_strides[row_axis] : 0;
  // Work is divided by stripes of rows of one matrix, or of columns where there is one row.
  const bool by_rows = rows > 1;
  const int64_t lines = by_rows ? rows : columns;
  const int64_t line_length = by_rows ? columns : 1;
  const int64_t stripe = max<int64_t>(kTile, 16384 / line_length / kTile * kTile);
  const int64_t stripes = (lines + stripe - 1) / stripe;
  const int64_t per_stripe = min(stripe, lines) * line_length;
  const int64_t grain = max<int64_t>(1, 16384 / max<int64_t>(per_stripe, 1));
  cpu::parallel_for(matrices * stripes, grain, [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      int64_t rest = unit / stripes;
      const int64_t first = (unit % stripes) * stripe;
      const int64_t n = min(stripe, lines - first);
      int64_t from = first * (by_rows ? from_row : a.from_strides[last]);
      int64_t to = first * (by_rows ? to_row : a.to_strides[last]);
      for (int i = last - 1; i >= 0; --i) {
        if (i == row_axis) continue;
        const int64_t index = rest % a.shape[i];
        rest /= a.shape[i];
        from += index * a.from_strides[i];
        to += index * a.to_strides[i];
      }
      copy_matrix(static_cast<T*>(a.to) + to, to_row, a.to_strides[last],
                  static_cast<const T*>(a.from) + from, from_row, a.from_strides[last],
                  by_rows ? n : 1, by_rows ? columns : n);
    }
  });
}

}  // namespace

void strided_copy(const ops::StridedCopyArgs& args) {
  if (args.count == 0) return;
  switch (args.item_size) {
    case 1:
      return copy_all<uint8_t>(args);
    case 2:
      return copy_all<uint16_t>(args);
    case 4:
      return copy_all<uint32_t>(args);
    default:
      return copy_all<uint64_t>(args);
  }
}

}  // namespace seqloom::SEQLOOM_ISA_NS
