// SPDX-License-Identifier: Apache-2.0
// Adafactor on the CPU: the four passes of adafactor.h, threads over blocks of all parameters. The
// first pass reads gradient and parameter once for both means and rms(w); the update is computed
// again for the last one, which costs less than a stream to memory and back.
#include "ops/optimizer/adafactor.h"

#include "cpu/parallel.h"
#include "cpu/scratch.h"
#include "cpu/vec.h"
#include "ops/optimizer/optimizer.h"

namespace seqloom::SEQLOOM_ISA_NS {
namespace {

using ops::AdafactorArgs;
using ops::AdafactorItem;

template <class T>
struct StateOf {
  using Type = float;
};
template <>
struct StateOf<double> {
  using Type = double;
};

template <class T>
SEQLOOM_ALWAYS_INLINE Vec<T> get(const T* p, int count) {
  return count == Vec<T>::kLanes ? load(p) : load(p, count);
}
template <class T>
SEQLOOM_ALWAYS_INLINE void put(T* p, Vec<T> v, int count) {
  if (count == Vec<T>::kLanes)
    store(p, v);
  else
    store(p, v, count);
}
template <int kWidth, class F>
SEQLOOM_ALWAYS_INLINE void over_vectors(int64_t n, const F& f) {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) f(i, kWidth);
  if (i < n) f(i, static_cast<int>(n - i));
}

// What the passes hand on.
template <class S>
struct Work {
  S* column;          // [columns of all blocks]: sums of g^2 over a block's rows
  S* inverse;         // [matrices]: 1 / max(eps, mean r)
  double* parameter;  // [blocks]: sums of w^2
  double* update;     // [blocks]: sums of u^2
  double* scale;      // [items]: the factor of u
  float factor;       // of the gradient
};

// A block: rows [first, last) of matrix `matrix` of the item, or elements of a vector.
struct Block {
  const AdafactorItem* item;
  int64_t matrix, first, last, index;
};

template <class F>
void over_blocks(const AdafactorArgs& a, const F& f) {
  cpu::parallel_for(a.blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const AdafactorItem& item = a.items[ops::item_of_block(a.items, a.count, b)];
      const int64_t inside = b - item.start,
                    length = item.row != nullptr ? item.rows : item.columns;
      const int64_t first = inside % item.blocks * item.block;
      f(Block{&item, inside / item.blocks, first, min(length, first + item.block), b});
    }
  });
}

// Sums of squares of n elements; the running sums are added in a fixed order.
template <class T>
SEQLOOM_ALWAYS_INLINE Vec<T> squares_of(const T* w, int64_t n, Vec<T> sum) {
  over_vectors<Vec<T>::kLanes>(n, [&](int64_t i, int c) {
    const Vec<T> x = get(w + i, c);
    sum = fma(x, x, sum);
  });
  return sum;
}

template <class T>
void statistics(const Block& block, const Work<typename StateOf<T>::Type>& work) {
  using S = typename StateOf<T>::Type;
  using V = Vec<T>;
  const AdafactorItem& item = *block.item;
  const int64_t n = item.columns;
  const V fresh = V::broadcast(static_cast<S>(item.fresh));
  const V old = V::broadcast(static_cast<S>(1.0 - item.fresh)), factor = V::broadcast(work.factor);
  double parameter = 0.0;
  if (item.row == nullptr) {
    const T* g = static_cast<const T*>(item.gradient) + block.first;
    const T* w = static_cast<const T*>(item.parameter) + block.first;
    S* v = static_cast<S*>(item.column) + block.first;
    V sum = V::zero();
    over_vectors<V::kLanes>(block.last - block.first, [&](int64_t i, int c) {
      const V d = get(g + i, c) * factor, x = get(w + i, c);
      put(v + i, fma(d * d, fresh, get(v + i, c) * old), c);
      sum = fma(x, x, sum);
    });
    work.parameter[block.index] = reduce_add(sum);
    return;
  }
  S* const column = work.column + item.scratch + (block.index - item.start) * n;
  __builtin_memset(column, 0, static_cast<size_t>(n) * sizeof(S));
  S* const row = static_cast<S*>(item.row) + block.matrix * item.rows;
  for (int64_t r = block.first; r < block.last; ++r) {
    const int64_t at = (block.matrix * item.rows + r) * n;
    const T* g = static_cast<const T*>(item.gradient) + at;
    V sum = V::zero();
    over_vectors<V::kLanes>(n, [&](int64_t i, int c) {
      const V d = get(g + i, c) * factor, square = d * d;
      sum += square;
      put(column + i, get(column + i, c) + square, c);
    });
    const S mean = reduce_add(sum) / static_cast<S>(n);
    row[r] = row[r] * static_cast<S>(1.0 - item.fresh) + mean * static_cast<S>(item.fresh);
    parameter += reduce_add(squares_of(static_cast<const T*>(item.parameter) + at, n, V::zero()));
  }
  work.parameter[block.index] = parameter;
}

// The column means of each matrix of an item, and the mean of its row means.
template <class S>
void merge(const AdafactorItem& item, const Work<S>& work) {
  using V = Vec<S>;
  if (item.row == nullptr) return;
  const int64_t n = item.columns;
  const V fresh = V::broadcast(static_cast<S>(item.fresh / static_cast<double>(item.rows)));
  const V old = V::broadcast(static_cast<S>(1.0 - item.fresh));
  for (int64_t m = 0; m < item.batch; ++m) {
    const S* partial = work.column + item.scratch + m * item.blocks * n;
    S* const column = static_cast<S*>(item.column) + m * n;
    over_vectors<V::kLanes>(n, [&](int64_t i, int c) {
      V sum = V::zero();
      for (int64_t b = 0; b < item.blocks; ++b) sum += get(partial + b * n + i, c);
      put(column + i, fma(sum, fresh, get(column + i, c) * old), c);
    });
    const S* const row = static_cast<const S*>(item.row) + m * item.rows;
    V sum = V::zero();
    over_vectors<V::kLanes>(item.rows, [&](int64_t i, int c) { sum += get(row + i, c); });
    const S mean = reduce_add(sum) / static_cast<S>(item.rows), eps = static_cast<S>(item.eps);
    work.inverse[item.matrix + m] = S(1) / (mean < eps ? eps : mean);
  }
}

// f(at, count, u): the update of each vector of a block; `at` counts from the parameter's start.
template <class T, class F>
SEQLOOM_ALWAYS_INLINE void over_updates(const Block& block,
                                        const Work<typename StateOf<T>::Type>& work, const F& f) {
  using S = typename StateOf<T>::Type;
  using V = Vec<T>;
  const AdafactorItem& item = *block.item;
  const V least = V::broadcast(static_cast<S>(item.eps * item.eps));
  const V factor = V::broadcast(work.factor);
  const bool matrix = item.row != nullptr;
  const int64_t n = item.columns, rows = matrix ? block.last - block.first : 1;
  for (int64_t k = 0; k < rows; ++k) {
    const int64_t r = block.matrix * item.rows + block.first + k;
    const int64_t at = matrix ? r * n : block.first;
    const int64_t length = matrix ? n : block.last - block.first;
    const S* const v = static_cast<const S*>(item.column) + (matrix ? block.matrix * n : at);
    const S row =
        matrix ? static_cast<const S*>(item.row)[r] * work.inverse[item.matrix + block.matrix]
               : S(1);
    const T* const g = static_cast<const T*>(item.gradient) + at;
    over_vectors<V::kLanes>(length, [&](int64_t i, int c) {
      // max(least, NaN) is NaN: the second operand.
      const V variance = max(least, V::broadcast(row) * get(v + i, c));
      f(at + i, c, rsqrt(variance) * (get(g + i, c) * factor));
    });
  }
}

template <class T>
void step(const AdafactorArgs& a) {
  using S = typename StateOf<T>::Type;
  using V = Vec<T>;
  const auto n = [](int64_t count) { return static_cast<size_t>(count); };
  cpu::Scratch sums(n(2 * a.blocks + a.count) * sizeof(double));
  cpu::Scratch columns(n(a.scratch + a.matrices) * sizeof(S));
  Work<S> work{};
  work.parameter = sums.as<double>();
  work.update = work.parameter + a.blocks;
  work.scale = work.update + a.blocks;
  work.column = columns.as<S>();
  work.inverse = work.column + a.scratch;
  ops::OptimizerList clipping{};
  clipping.norm = a.norm;
  clipping.max_norm = a.max_norm;
  clipping.negate = a.negate;
  work.factor = ops::gradient_factor(clipping);
  over_blocks(a, [&](const Block& block) { statistics<T>(block, work); });
  cpu::parallel_for(a.count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) merge(a.items[i], work);
  });
  over_blocks(a, [&](const Block& block) {
    V sum = V::zero();
    over_updates<T>(block, work, [&](int64_t, int, V u) { sum = fma(u, u, sum); });
    work.update[block.index] = reduce_add(sum);
  });
  for (int64_t i = 0; i < a.count; ++i) {
    const AdafactorItem& item = a.items[i];
    const double size = static_cast<double>(item.batch * item.rows * item.columns);
    double parameter = 0.0, update = 0.0;
    for (int64_t b = item.start; b < item.start + item.batch * item.blocks; ++b) {
      parameter += work.parameter[b];
      update += work.update[b];
    }
    const double root = __builtin_sqrt(parameter / size);
    const double ratio = __builtin_sqrt(update / size) / a.d;
    work.scale[i] = (root < a.floor ? a.floor : root) * item.relative / (ratio < 1.0 ? 1.0 : ratio);
  }
  const V shrink = V::broadcast(static_cast<S>(a.shrink));
  over_blocks(a, [&](const Block& block) {
    T* const w = static_cast<T*>(block.item->parameter);
    const V scale = V::broadcast(static_cast<S>(work.scale[block.item - a.items]));
    over_updates<T>(block, work, [&](int64_t i, int c, V u) {
      put(w + i, fnma(u, scale, get(w + i, c) * shrink), c);
    });
  });
}

}  // namespace

void adafactor_step(const AdafactorArgs& a) {
  dispatch_float(a.dtype, [&a](auto type) { step<typename decltype(type)::type>(a); });
}

}  // namespace seqloom::SEQLOOM_ISA_NS
