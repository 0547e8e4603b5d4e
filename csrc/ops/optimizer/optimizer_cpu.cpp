// SPDX-License-Identifier: Apache-2.0
// SGD, Adam and gradient clipping over lists of parameters on the CPU.
//
// Threads take runs of units, wherever in the list those lie, so that a model of one large and many
// small tensors is divided evenly. A step is bound by memory: Adam reads four streams and writes
// three of them back. What helps is a prefetch some vectors ahead, across the page ends at which
// the hardware's stops; stores past the caches lose, because each line has just been read.
#include "ops/optimizer/optimizer.h"

#include "cpu/parallel.h"
#include "cpu/scratch.h"
#include "cpu/vec.h"

namespace seqloom::SEQLOOM_ISA_NS {
namespace {

using ops::kOptimizerUnit;
using ops::OptimizerItem;
using ops::OptimizerList;

constexpr int64_t kUnitGrain = 8;      // units worth a thread
constexpr int64_t kNormUnits = 32;     // units of one partial sum of the norm
constexpr int64_t kAheadBytes = 1024;  // distance of the prefetch

template <class T>
struct StateOf {
  using Type = float;
};
template <>
struct StateOf<double> {
  using Type = double;
};
template <class T>
using State = typename StateOf<T>::Type;

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
template <class T>
SEQLOOM_ALWAYS_INLINE void prefetch_ahead(const T* p) {
  prefetch(reinterpret_cast<const char*>(p) + kAheadBytes);
}

// f(item, begin, end): the elements of each parameter that units [begin, end) cover.
template <class F>
SEQLOOM_ALWAYS_INLINE void over_units(const OptimizerList& list, int64_t begin, int64_t end,
                                      const F& f) {
  const OptimizerItem* item = list.items + ops::item_of_unit(list.items, list.count, begin);
  while (begin < end) {
    const int64_t first = (begin - item->start) * kOptimizerUnit;
    const int64_t last = min(item->size, (end - item->start) * kOptimizerUnit);
    f(*item, first, last);
    begin = item->start + (item->size + kOptimizerUnit - 1) / kOptimizerUnit;
    ++item;
  }
}

// f(i, count) for each vector of [begin, end).
template <int kWidth, class F>
SEQLOOM_ALWAYS_INLINE void over_vectors(int64_t begin, int64_t end, const F& f) {
  int64_t i = begin;
  for (; i + kWidth <= end; i += kWidth) f(i, kWidth);
  if (i < end) f(i, static_cast<int>(end - i));
}

template <class T>
void sgd_span(const ops::SgdArgs& a, const OptimizerItem& item, int64_t begin, int64_t end,
              float factor) {
  using S = State<T>;
  using V = Vec<T>;
  T* const w = static_cast<T*>(item.parameter);
  const T* const g = static_cast<const T*>(item.gradient);
  S* const b = static_cast<S*>(item.first);
  const V scale = V::broadcast(factor), decay = V::broadcast(static_cast<S>(a.decay));
  const V momentum = V::broadcast(static_cast<S>(a.momentum));
  const V share = V::broadcast(static_cast<S>(1.0 - a.dampening));
  const V lr = V::broadcast(static_cast<S>(a.lr));
  const bool decays = a.decay != 0.0;
  over_vectors<V::kLanes>(begin, end, [&](int64_t i, int n) {
    prefetch_ahead(g + i);
    prefetch_ahead(w + i);
    V x = get(w + i, n), d = get(g + i, n) * scale;
    if (decays) d = fma(x, decay, d);
    if (b != nullptr) {
      prefetch_ahead(b + i);
      const V held = item.fresh ? d : fma(d, share, get(b + i, n) * momentum);
      put(b + i, held, n);
      d = a.nesterov ? fma(held, momentum, d) : held;
    }
    put(w + i, fnma(d, lr, x), n);
  });
}

template <bool kAmsgrad, class T>
void adam_span(const ops::AdamArgs& a, const OptimizerItem& item, int64_t begin, int64_t end,
               float factor) {
  using S = State<T>;
  using V = Vec<T>;
  T* const w = static_cast<T*>(item.parameter);
  const T* const g = static_cast<const T*>(item.gradient);
  S* const m = static_cast<S*>(item.first);
  S* const v = static_cast<S*>(item.second);
  S* const largest = static_cast<S*>(item.largest);
  const V scale = V::broadcast(factor), decay = V::broadcast(static_cast<S>(a.decay));
  const V shrink = V::broadcast(static_cast<S>(a.shrink));
  const V beta1 = V::broadcast(static_cast<S>(a.beta1));
  const V beta2 = V::broadcast(static_cast<S>(a.beta2));
  const V share1 = V::broadcast(static_cast<S>(1.0 - a.beta1));
  const V share2 = V::broadcast(static_cast<S>(1.0 - a.beta2));
  const V root = V::broadcast(static_cast<S>(item.root));
  const V step = V::broadcast(static_cast<S>(item.step_size));
  const V eps = V::broadcast(static_cast<S>(a.eps));
  const bool decays = a.decay != 0.0;
  over_vectors<V::kLanes>(begin, end, [&](int64_t i, int n) {
    prefetch_ahead(g + i);
    prefetch_ahead(m + i);
    prefetch_ahead(v + i);
    prefetch_ahead(w + i);
    const V x = get(w + i, n);
    V d = get(g + i, n) * scale;
    if (decays) d = fma(x, decay, d);
    const V mean = fma(d, share1, get(m + i, n) * beta1);
    V square = fma(d * share2, d, get(v + i, n) * beta2);
    put(m + i, mean, n);
    put(v + i, square, n);
    if (kAmsgrad) {
      prefetch_ahead(largest + i);
      square = max_nan(get(largest + i, n), square);
      put(largest + i, square, n);
    }
    put(w + i, fnma(mean / fma(sqrt(square), root, eps), step, x * shrink), n);
  });
}

// The sum of squares of a span: four running sums, added in a fixed order.
template <class T>
double span_squares(const T* g, int64_t begin, int64_t end) {
  using V = Vec<T>;
  constexpr int kWidth = V::kLanes;
  V s0 = V::zero(), s1 = s0, s2 = s0, s3 = s0;
  int64_t i = begin;
  for (; i + 4 * kWidth <= end; i += 4 * kWidth) {
    const V a = load(g + i), b = load(g + i + kWidth);
    const V c = load(g + i + 2 * kWidth), d = load(g + i + 3 * kWidth);
    s0 = fma(a, a, s0);
    s1 = fma(b, b, s1);
    s2 = fma(c, c, s2);
    s3 = fma(d, d, s3);
  }
  over_vectors<kWidth>(i, end, [&](int64_t j, int n) {
    const V a = get(g + j, n);
    s0 = fma(a, a, s0);
  });
  return reduce_add((s0 + s1) + (s2 + s3));
}

}  // namespace

void sgd_step(const ops::SgdArgs& a) {
  dispatch_float(a.list.dtype, [&a](auto type) {
    using T = typename decltype(type)::type;
    const float factor = ops::gradient_factor(a.list);
    cpu::parallel_for(a.list.units, kUnitGrain, [&a, factor](int64_t begin, int64_t end) {
      over_units(a.list, begin, end, [&](const OptimizerItem& item, int64_t i, int64_t last) {
        sgd_span<T>(a, item, i, last, factor);
      });
    });
  });
}

void adam_step(const ops::AdamArgs& a) {
  dispatch_float(a.list.dtype, [&a](auto type) {
    using T = typename decltype(type)::type;
    const float factor = ops::gradient_factor(a.list);
    cpu::parallel_for(a.list.units, kUnitGrain, [&a, factor](int64_t begin, int64_t end) {
      over_units(a.list, begin, end, [&](const OptimizerItem& item, int64_t i, int64_t last) {
        if (item.largest != nullptr)
          adam_span<true, T>(a, item, i, last, factor);
        else
          adam_span<false, T>(a, item, i, last, factor);
      });
    });
  });
}

void gradient_norm(const ops::GradientNormArgs& a) {
  const OptimizerList& list = a.list;
  const int64_t blocks = (list.units + kNormUnits - 1) / kNormUnits;
  cpu::Scratch scratch(static_cast<size_t>(blocks) * sizeof(double));
  double* const partial = scratch.as<double>();
  dispatch_float(list.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    cpu::parallel_for(blocks, 1, [&list, partial](int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block) {
        double sum = 0.0;
        over_units(list, block * kNormUnits, min(list.units, (block + 1) * kNormUnits),
                   [&sum](const OptimizerItem& item, int64_t i, int64_t last) {
                     // A unit at a time: float32 sums stay short.
                     for (; i < last; i += kOptimizerUnit)
                       sum += span_squares(static_cast<const T*>(item.gradient), i,
                                           min(last, i + kOptimizerUnit));
                   });
        partial[block] = sum;
      }
    });
  });
  double total = 0.0;
  for (int64_t block = 0; block < blocks; ++block) total += partial[block];
  *a.norm = static_cast<float>(__builtin_sqrt(total));
}

void gradient_scale(const ops::GradientScaleArgs& a) {
  const float factor = ops::gradient_factor(a.list);
  if (factor == 1.0f) return;
  dispatch_float(a.list.dtype, [&a, factor](auto type) {
    using T = typename decltype(type)::type;
    cpu::parallel_for(a.list.units, kUnitGrain, [&a, factor](int64_t begin, int64_t end) {
      over_units(a.list, begin, end, [factor](const OptimizerItem& item, int64_t i, int64_t last) {
        T* const g = static_cast<T*>(item.gradient);
        const Vec<T> scale = Vec<T>::broadcast(factor);
        over_vectors<Vec<T>::kLanes>(
            i, last, [&](int64_t j, int n) { put(g + j, get(g + j, n) * scale, n); });
      });
    });
  });
}

}  // namespace seqloom::SEQLOOM_ISA_NS
