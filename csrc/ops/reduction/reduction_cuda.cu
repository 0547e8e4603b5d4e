// SPDX-License-Identifier: Apache-2.0
// Reductions on CUDA, without atomics, so that a result has the same bits at every run.
//
//   rows     inner == 1: a block a row (or a slice of one), threads along it
//   columns  inner > 1: a block of 32 columns x 8, the eight going down the column in turns
//
// Either way a thread folds its elements into a Partial, the block folds its threads in shared
// memory as a tree, and where few long columns are shared by several blocks a second kernel folds
// the slices. Kernels exist per op and accumulation type (float, double, int64); dtypes are told
// apart at run time.
#include "cuda/gpu.h"
#include "ops/elementwise/elementwise_device.h"
#include "ops/reduction/reduction.h"

namespace seqloom::ops {
namespace {

using device_math::load_as;
using device_math::store_as;

constexpr int kThreads = 256;
constexpr int kColumns = 32;
constexpr int kLines = kThreads / kColumns;

// No initialisers, so that arrays of it may be shared.
template <class C>
struct Partial {
  C a, b;
  int64_t index;
  int64_t count;
};

template <class C>
SEQLOOM_DEVICE C lowest() {
  if constexpr (dtype_of<C>() == DType::kInt64)
    return INT64_MIN;
  else
    return -static_cast<C>(INFINITY);
}
template <class C>
SEQLOOM_DEVICE C highest() {
  if constexpr (dtype_of<C>() == DType::kInt64)
    return INT64_MAX;
  else
    return static_cast<C>(INFINITY);
}

// Each op: identity, step with element i, merge (which must not care about an empty partner).
struct Sum {
  template <class C>
  static SEQLOOM_DEVICE C start() {
    return C(0);
  }
  template <class C>
  static SEQLOOM_DEVICE void step(Partial<C>& p, C x, int64_t) {
    if constexpr (dtype_of<C>() == DType::kInt64)
      p.a = device_math::wrap_add(p.a, x);
    else
      p.a += x;
  }
  template <class C>
  static SEQLOOM_DEVICE void merge(Partial<C>& p, const Partial<C>& o) {
    step(p, o.a, 0);
  }
};
struct Prod {
  template <class C>
  static SEQLOOM_DEVICE C start() {
    return C(1);
  }
  template <class C>
  static SEQLOOM_DEVICE void step(Partial<C>& p, C x, int64_t) {
    if constexpr (dtype_of<C>() == DType::kInt64)
      p.a = device_math::wrap_mul(p.a, x);
    else
      p.a *= x;
  }
  template <class C>
  static SEQLOOM_DEVICE void merge(Partial<C>& p, const Partial<C>& o) {
    step(p, o.a, 0);
  }
};
template <bool Largest>
struct Extreme {
  template <class C>
  static SEQLOOM_DEVICE C start() {
    return Largest ? lowest<C>() : highest<C>();
  }
  template <class C>
  static SEQLOOM_DEVICE void step(Partial<C>& p, C x, int64_t i) {
    const bool better = (Largest ? x > p.a : x < p.a) || (x != x && p.a == p.a);
    if (better || p.count == 0) {
      p.a = x;
      p.index = i;
    }
  }
  template <class C>
  static SEQLOOM_DEVICE void merge(Partial<C>& p, const Partial<C>& o) {
    if (o.count == 0) return;
    const bool same = o.a == p.a || (o.a != o.a && p.a != p.a);
    const bool better = (Largest ? o.a > p.a : o.a < p.a) || (o.a != o.a && p.a == p.a);
    if (better || p.count == 0 || (same && o.index < p.index)) {
      p.a = o.a;
      p.index = o.index;
    }
  }
};
template <bool Any>
struct Truth {
  template <class C>
  static SEQLOOM_DEVICE C start() {
    return Any ? C(0) : C(1);
  }
  template <class C>
  static SEQLOOM_DEVICE void step(Partial<C>& p, C x, int64_t) {
    if (Any ? x != C(0) : x == C(0)) p.a = Any ? C(1) : C(0);
  }
  template <class C>
  static SEQLOOM_DEVICE void merge(Partial<C>& p, const Partial<C>& o) {
    step(p, o.a, 0);
  }
};
// Mean a and sum of squared deviations b: Welford's step, Chan's merge. The values come less the
// first one of their column, so that a mean far from zero costs no digits.
struct Var {
  template <class C>
  static SEQLOOM_DEVICE C start() {
    return C(0);
  }
  template <class C>
  static SEQLOOM_DEVICE void step(Partial<C>& p, C x, int64_t) {
    const C delta = x - p.a;
    p.a += delta / static_cast<C>(p.count + 1);
    p.b += delta * (x - p.a);
  }
  template <class C>
  static SEQLOOM_DEVICE void merge(Partial<C>& p, const Partial<C>& o) {
    if (o.count == 0) return;
    const C total = static_cast<C>(p.count + o.count);
    const C delta = o.a - p.a, share = static_cast<C>(o.count) / total;
    p.b += o.b + delta * delta * static_cast<C>(p.count) * share;
    p.a += delta * share;
  }
};
// Maximum a and sum b of exp(x - a), rescaled when the maximum moves. An infinite maximum counts as
// 0.
struct LogSumExp {
  template <class C>
  static SEQLOOM_DEVICE C start() {
    return lowest<C>();
  }
  template <class C>
  static SEQLOOM_DEVICE C finite(C x) {
    return x == lowest<C>() || x == highest<C>() ? C(0) : x;
  }
  template <class C>
  static SEQLOOM_DEVICE void add(Partial<C>& p, C top, C sum) {
    const C larger = top > p.a ? top : p.a, at = finite(larger);
    p.b = rescaled(p.b, finite(p.a) - at) + rescaled(sum, finite(top) - at);
    p.a = larger;
  }
  // sum exp(shift) where 0 and infinity stay what they are.
  template <class C>
  static SEQLOOM_DEVICE C rescaled(C sum, C shift) {
    return sum == C(0) || sum == highest<C>() ? sum : sum * device_math::exp(shift);
  }
  template <class C>
  static SEQLOOM_DEVICE void step(Partial<C>& p, C x, int64_t) {
    if (x != x || x == highest<C>())
      p.b += x;  // NaN and +inf are the result
    else if (x != lowest<C>())
      add(p, x, C(1));
  }
  template <class C>
  static SEQLOOM_DEVICE void merge(Partial<C>& p, const Partial<C>& o) {
    add(p, o.a, o.b);
  }
};

template <class Op, class C>
SEQLOOM_DEVICE Partial<C> begin() {
  Partial<C> p;
  p.a = Op::template start<C>();
  p.b = C(0);
  p.index = 0;
  p.count = 0;
  return p;
}
// What is subtracted from every element of the column that begins at `first`.
template <class Op, class C>
SEQLOOM_DEVICE C shift_of(const ReduceArgs& args, int64_t first) {
  if constexpr (std::is_same_v<Op, Var>)
    return load_as<C>(args.x, args.dtype, first);
  else
    return C(0);
}
template <class Op, class C>
SEQLOOM_DEVICE C shifted(C x, C shift) {
  if constexpr (std::is_same_v<Op, Var>)
    return x - shift;
  else
    return x;
}
template <class Op, class C>
SEQLOOM_DEVICE void take(Partial<C>& p, C x, int64_t i) {
  Op::step(p, x, i);
  ++p.count;
}
template <class Op, class C>
SEQLOOM_DEVICE void join(Partial<C>& p, const Partial<C>& o) {
  Op::merge(p, o);
  p.count += o.count;
}

template <class C>
SEQLOOM_DEVICE void finish(const ReduceArgs& args, int64_t i, const Partial<C>& p) {
  if (args.index != nullptr) args.index[i] = p.index;
  if (args.out == nullptr) return;
  C value = p.a;
  if constexpr (dtype_of<C>() != DType::kInt64) {
    if (args.op == ReduceOp::kSum) value = static_cast<C>(p.a / args.divisor);
    if (args.op == ReduceOp::kVar) {
      const double degrees = static_cast<double>(args.n) - args.correction;
      value = static_cast<C>(p.b / (degrees > 0 ? degrees : 0.0));
    }
    if (args.op == ReduceOp::kLogSumExp) value = LogSumExp::finite(p.a) + device_math::log(p.b);
  }
  store_as<C>(args.out, args.out_dtype, i, value);
}

// Element i of the output, or the partial result of its slice.
template <class C>
SEQLOOM_DEVICE void give(const ReduceArgs& args, int64_t i, int64_t slice, const Partial<C>& p) {
  if (args.slices == 1)
    finish(args, i, p);
  else
    static_cast<Partial<C>*>(args.workspace)[slice * args.outer * args.inner + i] = p;
}

// The part [begin, end) of the n elements that a slice covers.
struct Range {
  int64_t begin, end;
};
SEQLOOM_DEVICE Range slice_range(const ReduceArgs& args, int64_t slice) {
  const int64_t length = (args.n + args.slices - 1) / args.slices;
  const int64_t begin = slice * length;
  return {begin, begin + length < args.n ? begin + length : args.n};
}

template <class Op, class C>
__global__ void __launch_bounds__(kThreads, 1) rows_kernel(ReduceArgs args) {
  SHARED_ARRAY(Partial<C>, shared, [kThreads]);
  const int tid = static_cast<int>(threadIdx.x);
  const Range range = slice_range(args, blockIdx.y);
  for (int64_t row = blockIdx.x; row < args.outer; row += gridDim.x) {
    Partial<C> p = begin<Op, C>();
    const C shift = shift_of<Op, C>(args, row * args.n);
    for (int64_t i = range.begin + tid; i < range.end; i += blockDim.x)
      take<Op>(p, shifted<Op>(load_as<C>(args.x, args.dtype, row * args.n + i), shift), i);
    shared[tid] = p;
    __syncthreads();
    for (int half = static_cast<int>(blockDim.x) / 2; half > 0; half /= 2) {
      if (tid < half) {
        join<Op>(p, shared[tid + half]);
        shared[tid] = p;
      }
      __syncthreads();
    }
    if (tid == 0) give(args, row, blockIdx.y, p);
  }
}

template <class Op, class C>
__global__ void __launch_bounds__(kThreads, 1) columns_kernel(ReduceArgs args) {
  SHARED_ARRAY(Partial<C>, shared, [kLines][kColumns]);
  const int tx = static_cast<int>(threadIdx.x), ty = static_cast<int>(threadIdx.y);
  const Range range = slice_range(args, blockIdx.y);
  const int64_t groups = (args.inner + kColumns - 1) / kColumns;
  for (int64_t unit = blockIdx.x; unit < args.outer * groups; unit += gridDim.x) {
    const int64_t o = unit / groups, column = unit % groups * kColumns + tx;
    Partial<C> p = begin<Op, C>();
    if (column < args.inner) {
      const C shift = shift_of<Op, C>(args, o * args.n * args.inner + column);
      for (int64_t i = range.begin + ty; i < range.end; i += kLines) {
        const int64_t at = (o * args.n + i) * args.inner + column;
        take<Op>(p, shifted<Op>(load_as<C>(args.x, args.dtype, at), shift), i);
      }
    }
    shared[ty][tx] = p;
    __syncthreads();
    for (int half = kLines / 2; half > 0; half /= 2) {
      if (ty < half) {
        join<Op>(p, shared[ty + half][tx]);
        shared[ty][tx] = p;
      }
      __syncthreads();
    }
    if (ty == 0 && column < args.inner) give(args, o * args.inner + column, blockIdx.y, p);
  }
}

template <class Op, class C>
__global__ void __launch_bounds__(kThreads) slices_kernel(ReduceArgs args) {
  const int64_t count = args.outer * args.inner;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const Partial<C>* partial = static_cast<const Partial<C>*>(args.workspace);
  Partial<C> p = partial[i];
  for (int64_t s = 1; s < args.slices; ++s) join<Op>(p, partial[s * count + i]);
  finish(args, i, p);
}

unsigned capped(int64_t blocks) { return static_cast<unsigned>(blocks < 65536 ? blocks : 65536); }

template <class Op, class C>
void launch_reduce(const ReduceArgs& args) {
  static_assert(sizeof(Partial<C>) <= 4 * sizeof(double), "the workspace has room for this much");
  const unsigned slices = static_cast<unsigned>(args.slices);
  if (args.inner == 1) {
    const int threads = args.n <= 64 ? 32 : args.n <= 512 ? 64 : kThreads;
    cuda::launch(rows_kernel<Op, C>, {dim3(capped(args.outer), slices), dim3(threads)}, args);
  } else {
    const int64_t units = args.outer * ((args.inner + kColumns - 1) / kColumns);
    cuda::launch(columns_kernel<Op, C>, {dim3(capped(units), slices), dim3(kColumns, kLines)},
                 args);
  }
  if (args.slices == 1) return;
  const int64_t blocks = (args.outer * args.inner + kThreads - 1) / kThreads;
  cuda::launch(slices_kernel<Op, C>, {dim3(static_cast<unsigned>(blocks)), dim3(kThreads)}, args);
}

template <class C>
void reduce_as(const ReduceArgs& args) {
  switch (args.op) {
    case ReduceOp::kSum:
      return launch_reduce<Sum, C>(args);
    case ReduceOp::kProd:
      return launch_reduce<Prod, C>(args);
    case ReduceOp::kMax:
      return launch_reduce<Extreme<true>, C>(args);
    case ReduceOp::kMin:
      return launch_reduce<Extreme<false>, C>(args);
    case ReduceOp::kAny:
      return launch_reduce<Truth<true>, C>(args);
    case ReduceOp::kAll:
      return launch_reduce<Truth<false>, C>(args);
    default:
      break;
  }
  if constexpr (dtype_of<C>() != DType::kInt64) {
    if (args.op == ReduceOp::kVar)
      launch_reduce<Var, C>(args);
    else
      launch_reduce<LogSumExp, C>(args);
  }
}

DType accumulation(DType d) {
  return d == DType::kFloat64 ? d : is_floating(d) ? DType::kFloat32 : DType::kInt64;
}

// ---- scans and gradients
// -------------------------------------------------------------------------

// A thread a column; neighbouring threads take neighbouring columns.
template <class C>
__global__ void __launch_bounds__(kThreads, 1) cumsum_kernel(CumsumArgs a) {
  const int64_t column = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (column >= a.outer * a.inner) return;
  const int64_t at = column / a.inner * a.n * a.inner + column % a.inner;
  C total = C(0);
  for (int64_t k = 0; k < a.n; ++k) {
    const int64_t i = at + (a.reverse ? a.n - 1 - k : k) * a.inner;
    if constexpr (dtype_of<C>() == DType::kInt64)
      total = device_math::wrap_add(total, load_as<C>(a.x, a.dtype, i));
    else
      total += load_as<C>(a.x, a.dtype, i);
    store_as<C>(a.out, a.out_dtype, i, total);
  }
}

// Contiguous rows: a block scans kThreads elements at a time, carrying the total along. Doubling
// steps in shared memory: after step s every element holds the sum of the 2^(s+1) up to it.
template <class C>
__global__ void __launch_bounds__(kThreads) cumsum_rows_kernel(CumsumArgs a) {
  SHARED_ARRAY(C, sums, [2][kThreads]);
  const int tid = static_cast<int>(threadIdx.x);
  for (int64_t row = blockIdx.x; row < a.outer; row += gridDim.x) {
    C carry = C(0);
    for (int64_t first = 0; first < a.n; first += kThreads) {
      const int64_t k = first + tid;
      const int64_t i = row * a.n + (a.reverse ? a.n - 1 - k : k);
      C x = k < a.n ? load_as<C>(a.x, a.dtype, i) : C(0);
      int buffer = 0;
      sums[0][tid] = x;
      __syncthreads();
      for (int distance = 1; distance < kThreads; distance *= 2) {
        if (tid >= distance) x += sums[buffer][tid - distance];
        buffer ^= 1;
        sums[buffer][tid] = x;
        __syncthreads();
      }
      if (k < a.n) store_as<C>(a.out, a.out_dtype, i, carry + x);
      carry += sums[buffer][kThreads - 1];
      __syncthreads();
    }
  }
}

template <class C>
void launch_cumsum(const CumsumArgs& a) {
  const int64_t columns = a.outer * a.inner;
  if (a.inner == 1) {
    cuda::launch(cumsum_rows_kernel<C>, {dim3(capped(a.outer)), dim3(kThreads)}, a);
    return;
  }
  const unsigned blocks = static_cast<unsigned>((columns + kThreads - 1) / kThreads);
  cuda::launch(cumsum_kernel<C>, {dim3(blocks), dim3(kThreads)}, a);
}

// A thread an element: the product of the others, O(n) each, for axes that are short; no division,
// so zeros need no special case.
template <class C>
__global__ void __launch_bounds__(kThreads, 1) prod_backward_kernel(ProdBackwardArgs a) {
  const int64_t count = a.outer * a.n * a.inner;
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t e = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; e < count;
       e += step) {
    const int64_t c = e % a.inner, i = e / a.inner % a.n, o = e / a.inner / a.n;
    C product = load_as<C>(a.grad, a.dtype, o * a.inner + c);
    for (int64_t j = 0; j < a.n; ++j)
      if (j != i) product *= load_as<C>(a.x, a.dtype, (o * a.n + j) * a.inner + c);
    store_as<C>(a.dx, a.dtype, e, product);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) extreme_backward_kernel(ExtremeBackwardArgs a) {
  const int64_t count = a.outer * a.n * a.inner;
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t e = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; e < count;
       e += step) {
    const int64_t c = e % a.inner, i = e / a.inner % a.n, o = e / a.inner / a.n;
    const int64_t at = o * a.inner + c;
    static_cast<T*>(a.dx)[e] = a.index[at] == i ? static_cast<const T*>(a.grad)[at] : T{0};
  }
}

// What a reduction of nothing gives.
__global__ void __launch_bounds__(kThreads) nothing_kernel(ReduceArgs args) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= args.outer * args.inner) return;
  Partial<double> p = begin<Sum, double>();
  if (args.op == ReduceOp::kProd || args.op == ReduceOp::kAll) p.a = 1;
  finish(args, i, p);
}

dim3 elements(int64_t count) { return dim3(capped((count + kThreads - 1) / kThreads)); }

}  // namespace

void reduce_cuda(const ReduceArgs& args) {
  if (args.outer * args.inner == 0) return;
  if (args.n == 0) {
    const int64_t blocks = (args.outer * args.inner + kThreads - 1) / kThreads;
    cuda::launch(nothing_kernel, {dim3(static_cast<unsigned>(blocks)), dim3(kThreads)}, args);
    return;
  }
  switch (accumulation(args.dtype)) {
    case DType::kFloat64:
      return reduce_as<double>(args);
    case DType::kInt64:
      return reduce_as<int64_t>(args);
    default:
      return reduce_as<float>(args);
  }
}

void cumsum_cuda(const CumsumArgs& args) {
  switch (accumulation(args.dtype)) {
    case DType::kFloat64:
      return launch_cumsum<double>(args);
    case DType::kInt64:
      return launch_cumsum<int64_t>(args);
    default:
      return launch_cumsum<float>(args);
  }
}

void prod_backward_cuda(const ProdBackwardArgs& args) {
  const dim3 grid = elements(args.outer * args.n * args.inner);
  if (args.dtype == DType::kFloat64)
    cuda::launch(prod_backward_kernel<double>, {grid, dim3(kThreads)}, args);
  else
    cuda::launch(prod_backward_kernel<float>, {grid, dim3(kThreads)}, args);
}

void extreme_backward_cuda(const ExtremeBackwardArgs& args) {
  const dim3 grid = elements(args.outer * args.n * args.inner);
  switch (args.item_size) {
    case 2:
      return cuda::launch(extreme_backward_kernel<uint16_t>, {grid, dim3(kThreads)}, args);
    case 4:
      return cuda::launch(extreme_backward_kernel<uint32_t>, {grid, dim3(kThreads)}, args);
    default:
      return cuda::launch(extreme_backward_kernel<uint64_t>, {grid, dim3(kThreads)}, args);
  }
}

}  // namespace seqloom::ops
