// SPDX-License-Identifier: Apache-2.0
// Rotary position embedding on the CPU: rows of D elements, vectorised over pairs.
#include "cpu/parallel.h"
#include "cpu/vec.h"
#include "core/dtype.h"
#include "ops/elementwise/rotary.h"

namespace seqloom::SEQLOOM_ISA_NS {
namespace {

using ops::RotaryArgs;

template <class V>
SEQLOOM_ALWAYS_INLINE void turn(V& first, V& second, V c, V s) {
  const V y = first * c - second * s;
  second = second * c + first * s;
  first = y;
}

// Pairs (k, k + pairs).
template <class T, class Table, bool Negate>
void row_of_halves(const T* x, T* y, const Table* cos, const Table* sin, int64_t pairs) {
  using V = Vec<T>;
  for (int64_t k = 0; k < pairs; k += V::kLanes) {
    const int n = static_cast<int>(min<int64_t>(V::kLanes, pairs - k));
    V a = load(x + k, n), b = load(x + pairs + k, n);
    const V s = load(sin + k, n);
    turn(a, b, load(cos + k, n), Negate ? -s : s);
    store(y + k, a, n);
    store(y + pairs + k, b, n);
  }
}

// Pairs (2 k, 2 k + 1), which are taken apart and put together again in registers.
template <class T, class Table, bool Negate>
void row_of_neighbours(const T* x, T* y, const Table* cos, const Table* sin, int64_t pairs) {
  if constexpr (dtype_of<T>() == DType::kFloat64) {
    for (int64_t k = 0; k < pairs; ++k) {
      double a = x[2 * k], b = x[2 * k + 1];
      turn<double>(a, b, cos[k], Negate ? -sin[k] : sin[k]);
      y[2 * k] = a;
      y[2 * k + 1] = b;
    }
  } else {
    for (int64_t k = 0; k < pairs; k += kLanes) {
      const int n = static_cast<int>(min<int64_t>(kLanes, pairs - k));
      const int low = min(2 * n, kLanes), high = 2 * n - low;
      VecF lo = load(x + 2 * k, low), hi = load(x + 2 * k + low, high), a, b;
      deinterleave(lo, hi, &a, &b);
      const VecF s = load(sin + k, n);
      turn(a, b, load(cos + k, n), Negate ? -s : s);
      interleave(a, b, &lo, &hi);
      store(y + 2 * k, lo, low);
      store(y + 2 * k + low, hi, high);
    }
  }
}

template <class T, class Table, bool Negate>
void rotary_rows(const RotaryArgs& a) {
  const int64_t rows = a.batch * a.heads * a.length;
  const int64_t grain = max<int64_t>(1, 8192 / max<int64_t>(a.width, 1));
  cpu::parallel_for(rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t t = row % a.length, h = row / a.length % a.heads;
      const int64_t b = row / a.length / a.heads;
      const T* x =
          static_cast<const T*>(a.x) + b * a.strides[0] + h * a.strides[1] + t * a.strides[2];
      T* y = static_cast<T*>(a.out) + row * a.width;
      const int64_t at = b * a.table_batch_stride + t * a.pairs;
      const Table* cos = static_cast<const Table*>(a.cos) + at;
      const Table* sin = static_cast<const Table*>(a.sin) + at;
      if (a.interleaved)
        row_of_neighbours<T, Table, Negate>(x, y, cos, sin, a.pairs);
      else
        row_of_halves<T, Table, Negate>(x, y, cos, sin, a.pairs);
      const int64_t rotated = 2 * a.pairs;
      memcpy(y + rotated, x + rotated, static_cast<size_t>(a.width - rotated) * sizeof(T));
    }
  });
}

template <class T, class Table>
SEQLOOM_ALWAYS_INLINE void rotary_signed(const RotaryArgs& args) {
  if (args.negate)
    rotary_rows<T, Table, true>(args);
  else
    rotary_rows<T, Table, false>(args);
}

}  // namespace

void rotary(const ops::RotaryArgs& args) {
  if (args.dtype == DType::kFloat64) {  // the front door widens float32 tables
    return rotary_signed<double, double>(args);
  }
  dispatch_kernel_float(args.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    if (args.table_dtype == args.dtype)
      rotary_signed<T, T>(args);
    else
      rotary_signed<T, float>(args);
  });
}

}  // namespace seqloom::SEQLOOM_ISA_NS
