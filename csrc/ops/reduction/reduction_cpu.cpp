// SPDX-License-Identifier: Apache-2.0
// Reductions on the CPU. The n elements of a column are cut into blocks of a fixed size; a block is
// reduced by vectors whose lanes are kLanes neighbouring columns (inner > 1) or the interleaved
// parts of one row (inner == 1); what the lanes found is merged in a fixed order, in float64.
#include "cpu/parallel.h"
#include "cpu/scratch.h"
#include "ops/elementwise/elementwise_driver.h"
#include "ops/reduction/reduction_lanes.h"

namespace seqloom::SEQLOOM_ISA_NS {
namespace {

using ops::ReduceArgs;
using ops::ReduceOp;

constexpr int64_t kRowBlock = 4096;    // elements of a row in one block
constexpr int64_t kColumnBlock = 256;  // rows of a group of columns in one block
constexpr int64_t kUnroll = 4;
constexpr int kMaxLanes = 16;

// Vectors x[0], x[step], ... of one block: `count` full ones, then one of `tail` lanes if tail > 0.
// In the column form of the last group every vector has `tail` lanes, and count is 0 or all of
// them.
template <class T>
struct Tile {
  const T* p;
  int64_t step, count;
  int tail;       // lanes of the vectors that are not full
  int64_t tails;  // how many of those follow
};

template <class Op, class T>
SEQLOOM_ALWAYS_INLINE void first_pass(const Tile<T>& t,
                                      typename Op::template State<typename Accumulator<T>::V>& s) {
  using V = typename Accumulator<T>::V;
  using State = typename Op::template State<V>;
  const V identity = Op::template identity<V, typename Accumulator<T>::S>();
  State part[kUnroll];
  for (State& one : part) {
    __builtin_memset(static_cast<void*>(&one), 0, sizeof(one));
    one.a = identity;
  }
  int64_t i = 0;
  for (; i + kUnroll <= t.count; i += kUnroll)
    for (int64_t k = 0; k < kUnroll; ++k) Op::step(part[k], fetch(t.p + (i + k) * t.step), i + k);
  for (; i < t.count; ++i) Op::step(part[0], fetch(t.p + i * t.step), i);
  for (int64_t k = 0; k < t.tails; ++k)
    Op::step(part[0], fetch(t.p + (i + k) * t.step, t.tail, identity), i + k);
  Op::join(part[0], part[1]);
  Op::join(part[2], part[3]);
  Op::join(part[0], part[2]);
  s = part[0];
}

// The sums of the second pass over the tile, lane by lane.
template <class Op, class T, class V>
SEQLOOM_ALWAYS_INLINE void second_pass(const Tile<T>& t, V reference, V* sum, V* rest) {
  using S = typename Accumulator<T>::S;
  const V zero = V::broadcast(S{0});
  const V fill = Op::template fill<V, S>(reference);
  V sums[kUnroll] = {zero, zero, zero, zero}, rests[kUnroll] = {zero, zero, zero, zero};
  int64_t i = 0;
  for (; i + kUnroll <= t.count; i += kUnroll)
    for (int64_t k = 0; k < kUnroll; ++k)
      Op::second(fetch(t.p + (i + k) * t.step), reference, &sums[k], &rests[k]);
  for (; i < t.count; ++i) Op::second(fetch(t.p + i * t.step), reference, &sums[0], &rests[0]);
  for (int64_t k = 0; k < t.tails; ++k)
    Op::second(fetch(t.p + (i + k) * t.step, t.tail, fill), reference, &sums[0], &rests[0]);
  *sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  *rest = (rests[0] + rests[1]) + (rests[2] + rests[3]);
}

// The partial result of every lane; `base` and `stride` say which element vector i of lane l is.
template <class Op, class T>
SEQLOOM_ALWAYS_INLINE void reduce_tile(const Tile<T>& t, int lanes, int64_t base, bool row,
                                       Partial<typename Accumulator<T>::P>* out) {
  using A = Accumulator<T>;
  using V = typename A::V;
  using S = typename A::S;
  typename Op::template State<V> s;
  first_pass<Op, T>(t, s);
  alignas(64) S a[kMaxLanes], b[kMaxLanes] = {}, rest[kMaxLanes] = {};
  if constexpr (Op::kPasses == 2) {
    V reference = s.a;
    if constexpr (Op::kCentred) {  // the mean of each lane
      alignas(64) S counts[kMaxLanes];
      for (int l = 0; l < V::kLanes; ++l) {
        const int64_t count = t.count + (l < t.tail ? t.tails : 0);
        counts[l] = static_cast<S>(count > 0 ? count : 1);
      }
      reference = s.a / load(counts);
    } else {  // the maximum, where it is finite
      const V limit = V::broadcast(Limits<S>::highest);
      reference = select(abs(s.a) == limit, V::broadcast(S{0}), s.a);
    }
    spill(reference, a);
    V sum, left;
    second_pass<Op, T, V>(t, reference, &sum, &left);
    spill(sum, b);
    spill(left, rest);
  } else {
    spill(s.a, a);
    if constexpr (sizeof(s) > sizeof(V)) spill(s.position, b);
  }
  for (int l = 0; l < lanes; ++l) {
    out[l].a = a[l];
    out[l].b = b[l];
    const double count = static_cast<double>(t.count + (l < t.tail ? t.tails : 0));
    out[l].count = count;
    if constexpr (__is_same(Op, VarLanes)) {
      out[l].a += rest[l] / count;
      out[l].b -= static_cast<double>(rest[l]) * rest[l] / count;
    }
    const int64_t at = static_cast<int64_t>(b[l]);
    out[l].index = base + (row ? at * V::kLanes + l : at);
  }
}

template <class P>
SEQLOOM_ALWAYS_INLINE void put(void* out, DType dtype, int64_t i, P value) {
  dispatch_all(dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    static_cast<T*>(out)[i] = Narrow<T, P>::of(value);
  });
}

template <class P>
SEQLOOM_ALWAYS_INLINE void finish(const ReduceArgs& args, int64_t i, const Partial<P>& p) {
  if (args.index != nullptr) args.index[i] = p.index;
  if (args.out == nullptr) return;
  P value = p.a;
  if constexpr (dtype_of<P>() == DType::kFloat64) {
    if (args.op == ReduceOp::kSum) value = p.a / args.divisor;
    if (args.op == ReduceOp::kVar) {
      const double degrees = static_cast<double>(args.n) - args.correction;
      value = p.b / (degrees > 0 ? degrees : 0);
    }
    if (args.op == ReduceOp::kLogSumExp) value = p.a + __builtin_log(p.b);
  }
  put(args.out, args.out_dtype, i, value);
}

template <class Op, class T>
void reduce_rows(const ReduceArgs& args) {
  using P = Partial<typename Accumulator<T>::P>;
  constexpr int lanes = Accumulator<T>::V::kLanes;
  const int64_t blocks = (args.n + kRowBlock - 1) / kRowBlock;
  const T* x = static_cast<const T*>(args.x);
  const auto one_block = [&](int64_t row, int64_t block) {
    const int64_t first = block * kRowBlock, n = min(kRowBlock, args.n - first);
    Tile<T> t{x + row * args.n + first, lanes, n / lanes, static_cast<int>(n % lanes), 0};
    t.tails = t.tail > 0;
    P found[kMaxLanes];
    if constexpr (__is_same(Op, SumLanes)) {
      typename Op::template State<typename Accumulator<T>::V> s;
      first_pass<Op, T>(t, s);
      found[0] = P{reduce_add(s.a), 0, 0, 0};
      return found[0];
    }
    const int used = static_cast<int>(min<int64_t>(n, lanes));
    reduce_tile<Op, T>(t, used, first, true, found);
    // Halves, quarters, ...: the tree of vec.h, on the lanes that are there.
    for (int width = lanes / 2; width > 0; width /= 2)
      for (int l = 0; l < width; ++l)
        if (l + width < used) Op::merge(found[l], found[l + width]);
    return found[0];
  };
  if (blocks == 1) {
    const int64_t grain = max<int64_t>(1, 16384 / args.n);
    cpu::parallel_for(args.outer, grain, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) finish(args, row, one_block(row, 0));
    });
    return;
  }
  const cpu::Scratch scratch(static_cast<size_t>(args.outer * blocks) * sizeof(P));
  P* partial = scratch.as<P>();
  cpu::parallel_for(args.outer * blocks, 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) partial[i] = one_block(i / blocks, i % blocks);
  });
  for (int64_t row = 0; row < args.outer; ++row) {
    P total = partial[row * blocks];
    for (int64_t b = 1; b < blocks; ++b) Op::merge(total, partial[row * blocks + b]);
    finish(args, row, total);
  }
}

template <class Op, class T>
void reduce_columns(const ReduceArgs& args) {
  using P = Partial<typename Accumulator<T>::P>;
  constexpr int lanes = Accumulator<T>::V::kLanes;
  const int64_t blocks = (args.n + kColumnBlock - 1) / kColumnBlock;
  const int64_t groups = (args.inner + lanes - 1) / lanes;
  const T* x = static_cast<const T*>(args.x);
  const auto one_block = [&](int64_t o, int64_t block, int64_t group, P* found) {
    const int64_t first = block * kColumnBlock, n = min(kColumnBlock, args.n - first);
    const int64_t column = group * lanes;
    const int used = static_cast<int>(min<int64_t>(lanes, args.inner - column));
    const T* p = x + (o * args.n + first) * args.inner + column;
    Tile<T> t{p, args.inner, n, 0, 0};
    if (used < lanes) t = Tile<T>{p, args.inner, 0, used, n};
    reduce_tile<Op, T>(t, used, first, false, found);
    return used;
  };
  const int64_t rows = min(args.n, kColumnBlock);
  const int64_t grain = max<int64_t>(1, 16384 / (rows * lanes));
  if (blocks == 1) {
    cpu::parallel_for(args.outer * groups, grain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        P found[kMaxLanes];
        const int used = one_block(i / groups, 0, i % groups, found);
        const int64_t at = i / groups * args.inner + i % groups * lanes;
        for (int l = 0; l < used; ++l) finish(args, at + l, found[l]);
      }
    });
    return;
  }
  // Partial results [outer, blocks, inner], then one pass over them.
  const cpu::Scratch scratch(static_cast<size_t>(args.outer * blocks * args.inner) * sizeof(P));
  P* partial = scratch.as<P>();
  cpu::parallel_for(args.outer * blocks * groups, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t line = i / groups, group = i % groups;
      one_block(line / blocks, line % blocks, group, partial + line * args.inner + group * lanes);
    }
  });
  cpu::parallel_for(args.outer * args.inner, 256, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const P* of = partial + i / args.inner * blocks * args.inner + i % args.inner;
      P total = of[0];
      for (int64_t b = 1; b < blocks; ++b) Op::merge(total, of[b * args.inner]);
      finish(args, i, total);
    }
  });
}

template <class Op, class T>
void reduce_array(const ReduceArgs& args) {
  if (args.inner == 1)
    reduce_rows<Op, T>(args);
  else
    reduce_columns<Op, T>(args);
}

template <class T>
void reduce_dtype(const ReduceArgs& args) {
  switch (args.op) {
    case ReduceOp::kSum:
      return reduce_array<SumLanes, T>(args);
    case ReduceOp::kProd:
      return reduce_array<ProdLanes, T>(args);
    case ReduceOp::kMax:
      return reduce_array<ExtremeLanes<true>, T>(args);
    case ReduceOp::kMin:
      return reduce_array<ExtremeLanes<false>, T>(args);
    case ReduceOp::kAny:
      return reduce_array<TruthLanes<true>, T>(args);
    case ReduceOp::kAll:
      return reduce_array<TruthLanes<false>, T>(args);
    case ReduceOp::kVar:
      if constexpr (is_floating(dtype_of<T>())) return reduce_array<VarLanes, T>(args);
      return;
    case ReduceOp::kLogSumExp:
      if constexpr (is_floating(dtype_of<T>())) return reduce_array<LogSumExpLanes, T>(args);
      return;
  }
}

// What a reduction of nothing gives; the front door refuses the extremes.
void reduce_nothing(const ReduceArgs& args) {
  Partial<double> p{};
  if (args.op == ReduceOp::kProd || args.op == ReduceOp::kAll) p.a = 1;
  for (int64_t i = 0; i < args.outer * args.inner; ++i) finish(args, i, p);
}

}  // namespace

void reduce(const ops::ReduceArgs& args) {
  if (args.outer * args.inner == 0) return;
  if (args.n == 0) return reduce_nothing(args);
  dispatch_all(args.dtype, [&](auto t) { reduce_dtype<typename decltype(t)::type>(args); });
}

}  // namespace seqloom::SEQLOOM_ISA_NS
