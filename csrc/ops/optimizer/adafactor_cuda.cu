// SPDX-License-Identifier: Apache-2.0
// Adafactor on CUDA: the passes of adafactor.h, each one launch for the whole list.
//
//   rows     a warp a row: row means, sums of w^2          (blocks of the list)
//   columns  a thread a column: sums of g^2 over a block's rows, coalesced
//   merge    a block a matrix: column means from the sums in order, the mean of the row means
//   update   a warp a row: sums of u^2
//   apply    every block adds up its item's sums in one order, then the new parameters
//
// A vector is one row that is cut into blocks; its threads run along it.
#include "cuda/reduce.h"
#include "cuda/rows.h"
#include "ops/optimizer/adafactor.h"
#include "ops/optimizer/optimizer.h"

namespace seqloom::ops {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;

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

SEQLOOM_DEVICE float widen(float x) { return x; }
SEQLOOM_DEVICE float widen(cuda::Half x) { return cuda::to_float(x); }
SEQLOOM_DEVICE float widen(cuda::BFloat16 x) { return cuda::to_float(x); }
SEQLOOM_DEVICE double widen(double x) { return x; }
template <class T, class S>
SEQLOOM_DEVICE T narrow(S x) {
  if constexpr (std::is_same_v<T, double>)
    return x;
  else
    return cuda::from_float<T>(x);
}
SEQLOOM_DEVICE float root_of(float x) { return ::sqrtf(x); }
SEQLOOM_DEVICE double root_of(double x) { return ::sqrt(x); }

template <class S>
struct Work {
  S* column;          // [columns of all blocks]
  S* inverse;         // [matrices]
  double* parameter;  // [blocks]
  double* update;     // [blocks]
};

// Rows [first, last) of a matrix, or elements of a vector.
struct Block {
  const AdafactorItem* item;
  int64_t matrix, first, last;
};
SEQLOOM_DEVICE Block this_block(const AdafactorArgs& a) {
  const int64_t b = blockIdx.x;
  const AdafactorItem& item = a.items[item_of_block(a.items, a.count, b)];
  const int64_t inside = b - item.start, length = item.row != nullptr ? item.rows : item.columns;
  const int64_t first = inside % item.blocks * item.block;
  const int64_t last = first + item.block < length ? first + item.block : length;
  return {&item, inside / item.blocks, first, last};
}

SEQLOOM_DEVICE float factor_of(const AdafactorArgs& a) {
  OptimizerList clipping{};
  clipping.norm = a.norm;
  clipping.max_norm = a.max_norm;
  clipping.negate = a.negate;
  return gradient_factor(clipping);
}

template <class T>
__global__ void __launch_bounds__(kThreads) rows_kernel(AdafactorArgs a, Work<State<T>> work) {
  using S = State<T>;
  SHARED_ARRAY(double, scratch, [cuda::kMaxWarps]);
  const Block block = this_block(a);
  const AdafactorItem& item = *block.item;
  const S factor = factor_of(a), fresh = static_cast<S>(item.fresh);
  const S old = static_cast<S>(1.0 - item.fresh);
  const T* const g = static_cast<const T*>(item.gradient);
  const T* const w = static_cast<const T*>(item.parameter);
  double sum = 0.0;
  if (item.row == nullptr) {
    S* const v = static_cast<S*>(item.column);
    S some = S(0);
    for (int64_t i = block.first + threadIdx.x; i < block.last; i += kThreads) {
      const S d = widen(g[i]) * factor, x = widen(w[i]);
      v[i] = v[i] * old + d * d * fresh;
      some += x * x;
    }
    sum = some;
  } else {
    S* const row = static_cast<S*>(item.row);
    for (int64_t r = block.first + cuda::warp_index(); r < block.last; r += kWarps) {
      const int64_t line = block.matrix * item.rows + r, at = line * item.columns;
      S squares = S(0), some = S(0);
      for (int64_t i = cuda::lane_index(); i < item.columns; i += 32) {
        const S d = widen(g[at + i]) * factor, x = widen(w[at + i]);
        squares += d * d;
        some += x * x;
      }
      squares = cuda::warp_sum(squares);
      sum += some;
      if (cuda::lane_index() == 0)
        row[line] = row[line] * old + squares / static_cast<S>(item.columns) * fresh;
    }
  }
  sum = cuda::block_sum(sum, scratch);
  if (threadIdx.x == 0) work.parameter[blockIdx.x] = sum;
}

template <class T>
__global__ void __launch_bounds__(kThreads) columns_kernel(AdafactorArgs a, Work<State<T>> work) {
  using S = State<T>;
  const Block block = this_block(a);
  const AdafactorItem& item = *block.item;
  if (item.row == nullptr) return;
  const S factor = factor_of(a);
  const int64_t n = item.columns;
  const T* const g =
      static_cast<const T*>(item.gradient) + (block.matrix * item.rows + block.first) * n;
  S* const out = work.column + item.scratch + (blockIdx.x - item.start) * n;
  for (int64_t i = threadIdx.x; i < n; i += kThreads) {
    S sum = S(0);
    for (int64_t r = 0; r < block.last - block.first; ++r) {
      const S d = widen(g[r * n + i]) * factor;
      sum += d * d;
    }
    out[i] = sum;
  }
}

template <class S>
__global__ void __launch_bounds__(kThreads) merge_kernel(AdafactorArgs a, Work<S> work) {
  SHARED_ARRAY(S, scratch, [cuda::kMaxWarps]);
  int64_t at = 0, high = a.count;
  while (high - at > 1) {
    const int64_t middle = (at + high) / 2;
    if (a.items[middle].matrix <= blockIdx.x)
      at = middle;
    else
      high = middle;
  }
  const AdafactorItem& item = a.items[at];
  if (item.row == nullptr) return;
  const int64_t m = blockIdx.x - item.matrix, n = item.columns;
  const S fresh = static_cast<S>(item.fresh / static_cast<double>(item.rows));
  const S old = static_cast<S>(1.0 - item.fresh);
  const S* const partial = work.column + item.scratch + m * item.blocks * n;
  S* const column = static_cast<S*>(item.column) + m * n;
  for (int64_t i = threadIdx.x; i < n; i += kThreads) {
    S sum = S(0);
    for (int64_t b = 0; b < item.blocks; ++b) sum += partial[b * n + i];
    column[i] = column[i] * old + sum * fresh;
  }
  const S* const row = static_cast<const S*>(item.row) + m * item.rows;
  S sum = S(0);
  for (int64_t i = threadIdx.x; i < item.rows; i += kThreads) sum += row[i];
  const S mean = cuda::block_sum(sum, scratch) / static_cast<S>(item.rows);
  const S eps = static_cast<S>(item.eps);
  if (threadIdx.x == 0) work.inverse[blockIdx.x] = S(1) / (mean < eps ? eps : mean);
}

// f(at, u) for the elements of this thread.
template <class T, class F>
SEQLOOM_DEVICE void over_updates(const AdafactorArgs& a, const Block& block,
                                 const Work<State<T>>& work, const F& f) {
  using S = State<T>;
  const AdafactorItem& item = *block.item;
  const S factor = factor_of(a), least = static_cast<S>(item.eps * item.eps);
  const T* const g = static_cast<const T*>(item.gradient);
  const auto update = [&](int64_t at, S variance) {
    variance = variance < least ? least : variance;
    f(at, widen(g[at]) * factor / root_of(variance));
  };
  if (item.row == nullptr) {
    const S* const v = static_cast<const S*>(item.column);
    for (int64_t i = block.first + threadIdx.x; i < block.last; i += kThreads) update(i, v[i]);
    return;
  }
  const S* const column = static_cast<const S*>(item.column) + block.matrix * item.columns;
  const S inverse = work.inverse[item.matrix + block.matrix];
  for (int64_t r = block.first + cuda::warp_index(); r < block.last; r += kWarps) {
    const int64_t line = block.matrix * item.rows + r, at = line * item.columns;
    const S row = static_cast<const S*>(item.row)[line] * inverse;
    for (int64_t i = cuda::lane_index(); i < item.columns; i += 32) update(at + i, row * column[i]);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) update_kernel(AdafactorArgs a, Work<State<T>> work) {
  SHARED_ARRAY(double, scratch, [cuda::kMaxWarps]);
  double sum = 0.0;
  over_updates<T>(a, this_block(a), work, [&](int64_t, State<T> u) { sum += u * u; });
  sum = cuda::block_sum(sum, scratch);
  if (threadIdx.x == 0) work.update[blockIdx.x] = sum;
}

template <class T>
__global__ void __launch_bounds__(kThreads) apply_kernel(AdafactorArgs a, Work<State<T>> work) {
  using S = State<T>;
  SHARED_ARRAY(double, scratch, [cuda::kMaxWarps]);
  const Block block = this_block(a);
  const AdafactorItem& item = *block.item;
  double parameter = 0.0, update = 0.0;
  for (int64_t b = threadIdx.x; b < item.batch * item.blocks; b += kThreads) {
    parameter += work.parameter[item.start + b];
    update += work.update[item.start + b];
  }
  parameter = cuda::block_sum(parameter, scratch);
  update = cuda::block_sum(update, scratch);
  const double size = static_cast<double>(item.batch * item.rows * item.columns);
  const double root = ::sqrt(parameter / size), ratio = ::sqrt(update / size) / a.d;
  const S scale = static_cast<S>((root < a.floor ? a.floor : root) * item.relative /
                                 (ratio < 1.0 ? 1.0 : ratio));
  const S shrink = static_cast<S>(a.shrink);
  T* const w = static_cast<T*>(item.parameter);
  over_updates<T>(a, block, work, [&](int64_t at, S u) {
    w[at] = narrow<T>(static_cast<S>(widen(w[at])) * shrink - u * scale);
  });
}

template <class T>
void step(const AdafactorArgs& args) {
  using S = State<T>;
  const std::size_t table = static_cast<std::size_t>(args.count) * sizeof(AdafactorItem);
  const cuda::Workspace items(table);
  cuda::copy_to_device(items.as<AdafactorItem>(), args.items, table, cuda::current_stream());
  const cuda::Workspace sums(static_cast<std::size_t>(2 * args.blocks) * sizeof(double));
  const cuda::Workspace means(static_cast<std::size_t>(args.scratch + args.matrices) * sizeof(S));
  AdafactorArgs a = args;
  a.items = items.as<AdafactorItem>();
  Work<S> work{};
  work.parameter = sums.as<double>();
  work.update = work.parameter + args.blocks;
  work.column = means.as<S>();
  work.inverse = work.column + args.scratch;
  cuda::LaunchConfig config;
  config.grid = dim3(static_cast<unsigned>(args.blocks));
  config.block = dim3(kThreads);
  cuda::launch(rows_kernel<T>, config, a, work);
  if (args.scratch > 0) {
    cuda::launch(columns_kernel<T>, config, a, work);
    cuda::LaunchConfig matrices = config;
    matrices.grid = dim3(static_cast<unsigned>(args.matrices));
    cuda::launch(merge_kernel<S>, matrices, a, work);
  }
  cuda::launch(update_kernel<T>, config, a, work);
  cuda::launch(apply_kernel<T>, config, a, work);
}

}  // namespace

void adafactor_step_cuda(const AdafactorArgs& args) {
  dispatch_float(args.dtype, [&args](auto type) {
    step<typename cuda::DeviceType<typename decltype(type)::type>::type>(args);
  });
}

}  // namespace seqloom::ops
