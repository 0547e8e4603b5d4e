// SPDX-License-Identifier: Apache-2.0
// The arithmetic of each reduction on vectors whose lanes are independent columns (or, when a
// contiguous row is reduced, interleaved parts of it). For kernel files (*_cpu.cpp) only.
//
// An op has a State (vectors), step(state, x, i) for the i-th vector, join(state, other), and a
// Partial (scalars: a, b, the position, the count) with merge(partial, other). Ops with kPasses 2
// look at the block again, knowing the first pass's result: mean for the variance, maximum for
// logsumexp.
#pragma once

#include "cpu/vec_math.h"
#include "ops/reduction/reduction.h"

namespace seqloom::SEQLOOM_ISA_NS {

// Eight int64, with the operations that reductions use.
struct MaskL {
  int64_t v __attribute__((vector_size(64)));
};
struct VecL {
  static constexpr int kLanes = 8;
  int64_t v __attribute__((vector_size(64)));
  static SEQLOOM_ALWAYS_INLINE VecL broadcast(int64_t x) {
    VecL a;
    for (int i = 0; i < kLanes; ++i) a.v[i] = x;
    return a;
  }
};
SEQLOOM_ALWAYS_INLINE VecL operator+(VecL a, VecL b) {
  typedef uint64_t Unsigned __attribute__((vector_size(64)));
  return {(decltype(a.v))((Unsigned)a.v + (Unsigned)b.v)};
}
SEQLOOM_ALWAYS_INLINE VecL operator*(VecL a, VecL b) {
  typedef uint64_t Unsigned __attribute__((vector_size(64)));
  return {(decltype(a.v))((Unsigned)a.v * (Unsigned)b.v)};
}
SEQLOOM_ALWAYS_INLINE MaskL operator>(VecL a, VecL b) { return {a.v > b.v}; }
SEQLOOM_ALWAYS_INLINE MaskL operator<(VecL a, VecL b) { return {a.v < b.v}; }
SEQLOOM_ALWAYS_INLINE MaskL operator==(VecL a, VecL b) { return {a.v == b.v}; }
SEQLOOM_ALWAYS_INLINE MaskL operator!=(VecL a, VecL b) { return {a.v != b.v}; }
SEQLOOM_ALWAYS_INLINE MaskL operator&(MaskL a, MaskL b) { return {a.v & b.v}; }
SEQLOOM_ALWAYS_INLINE MaskL operator|(MaskL a, MaskL b) { return {a.v | b.v}; }
SEQLOOM_ALWAYS_INLINE VecL select(MaskL m, VecL a, VecL b) { return {(m.v & a.v) | (~m.v & b.v)}; }

SEQLOOM_ALWAYS_INLINE int64_t reduce_add(VecL a) {
  uint64_t sum = 0;
  for (int i = 0; i < VecL::kLanes; ++i) sum += static_cast<uint64_t>(a.v[i]);
  return static_cast<int64_t>(sum);
}

// What x's dtype is accumulated in: vectors V of scalars S, partial results in P.
template <class T>
struct Accumulator {
  using V = VecL;
  using S = int64_t;
  using P = int64_t;
};
template <>
struct Accumulator<float> {
  using V = VecF;
  using S = float;
  using P = double;
};
template <>
struct Accumulator<f16> : Accumulator<float> {};
template <>
struct Accumulator<bf16> : Accumulator<float> {};
template <>
struct Accumulator<double> {
  using V = VecD;
  using S = double;
  using P = double;
};

template <class T>
SEQLOOM_ALWAYS_INLINE typename Accumulator<T>::V fetch(const T* p) {
  if constexpr (is_floating(dtype_of<T>())) {
    return load(p);
  } else {
    VecL a;
    for (int i = 0; i < VecL::kLanes; ++i) a.v[i] = p[i];
    return a;
  }
}
template <class T>
SEQLOOM_ALWAYS_INLINE typename Accumulator<T>::V fetch(const T* p, int n,
                                                       typename Accumulator<T>::V fill) {
  if constexpr (is_floating(dtype_of<T>())) {
    return load_or(p, n, fill);
  } else {
    for (int i = 0; i < n; ++i) fill.v[i] = p[i];
    return fill;
  }
}
// The lanes of a vector, in memory.
SEQLOOM_ALWAYS_INLINE void spill(VecF a, float* to) { store(to, a); }
SEQLOOM_ALWAYS_INLINE void spill(VecD a, double* to) { store(to, a); }
SEQLOOM_ALWAYS_INLINE void spill(VecL a, int64_t* to) { memcpy(to, &a.v, sizeof(a.v)); }

template <class P>
struct Partial {
  P a, b;
  int64_t index;  // of the extreme
  double count;   // of elements (variance)
};

// ---- sum, product ----------------------------------------------------------------------------

struct SumLanes {
  static constexpr int kPasses = 1;
  template <class V>
  struct State {
    V a;
  };
  template <class V, class S>
  static SEQLOOM_ALWAYS_INLINE V identity() {
    return V::broadcast(S{0});
  }
  template <class V>
  static SEQLOOM_ALWAYS_INLINE void step(State<V>& s, V x, int64_t) {
    s.a = s.a + x;
  }
  template <class V>
  static SEQLOOM_ALWAYS_INLINE void join(State<V>& s, const State<V>& o) {
    s.a = s.a + o.a;
  }
  template <class P>
  static SEQLOOM_ALWAYS_INLINE void merge(Partial<P>& p, const Partial<P>& o) {
    if constexpr (static_cast<P>(0.5) == 0)
      p.a = static_cast<P>(static_cast<uint64_t>(p.a) + static_cast<uint64_t>(o.a));
    else
      p.a += o.a;
  }
};

struct ProdLanes {
  static constexpr int kPasses = 1;
  template <class V>
  struct State {
    V a;
  };
  template <class V, class S>
  static SEQLOOM_ALWAYS_INLINE V identity() {
    return V::broadcast(S{1});
  }
  template <class V>
  static SEQLOOM_ALWAYS_INLINE void step(State<V>& s, V x, int64_t) {
    s.a = s.a * x;
  }
  template <class V>
  static SEQLOOM_ALWAYS_INLINE void join(State<V>& s, const State<V>& o) {
    s.a = s.a * o.a;
  }
  template <class P>
  static SEQLOOM_ALWAYS_INLINE void merge(Partial<P>& p, const Partial<P>& o) {
    if constexpr (static_cast<P>(0.5) == 0)
      p.a = static_cast<P>(static_cast<uint64_t>(p.a) * static_cast<uint64_t>(o.a));
    else
      p.a *= o.a;
  }
};

// ---- extremes: the value and which vector it came from -----------------------------------------

template <class S>
struct Limits {
  static constexpr S lowest = -__builtin_inf(), highest = __builtin_inf();
};
template <>
struct Limits<int64_t> {
  static constexpr int64_t lowest = INT64_MIN, highest = INT64_MAX;
};

template <bool Largest>
struct ExtremeLanes {
  static constexpr int kPasses = 1;
  template <class V>
  struct State {
    V a, position;
  };
  template <class V, class S>
  static SEQLOOM_ALWAYS_INLINE V identity() {
    return V::broadcast(Largest ? Limits<S>::lowest : Limits<S>::highest);
  }
  template <class V>
  static SEQLOOM_ALWAYS_INLINE auto beats(V x, V held) {
    if constexpr (Largest)
      return (x > held) | ((x != x) & (held == held));
    else
      return (x < held) | ((x != x) & (held == held));
  }
  template <class V>
  static SEQLOOM_ALWAYS_INLINE void step(State<V>& s, V x, int64_t i) {
    const auto better = beats(x, s.a);
    s.a = select(better, x, s.a);
    s.position = select(better, V::broadcast(i), s.position);
  }
  template <class V>
  static SEQLOOM_ALWAYS_INLINE void join(State<V>& s, const State<V>& o) {
    // Of equals (or two NaN) the earlier.
    const auto same = (o.a == s.a) | ((o.a != o.a) & (s.a != s.a));
    const auto better = beats(o.a, s.a) | (same & (o.position < s.position));
    s.a = select(better, o.a, s.a);
    s.position = select(better, o.position, s.position);
  }
  template <class P>
  static SEQLOOM_ALWAYS_INLINE void merge(Partial<P>& p, const Partial<P>& o) {
    const bool same = o.a == p.a || (o.a != o.a && p.a != p.a);
    const bool better = Largest ? o.a > p.a : o.a < p.a;
    if (better || (o.a != o.a && p.a == p.a) || (same && o.index < p.index)) p = o;
  }
};

// ---- truth -----------------------------------------------------------------------------------

template <bool Any>
struct TruthLanes {
  static constexpr int kPasses = 1;
  template <class V>
  struct State {
    V a;
  };
  template <class V, class S>
  static SEQLOOM_ALWAYS_INLINE V identity() {
    return V::broadcast(Any ? S{0} : S{1});
  }
  template <class V>
  static SEQLOOM_ALWAYS_INLINE void step(State<V>& s, V x, int64_t) {
    const V zero = V::broadcast(0), one = V::broadcast(1);
    s.a = Any ? select(x != zero, one, s.a) : select(x == zero, zero, s.a);
  }
  template <class V>
  static SEQLOOM_ALWAYS_INLINE void join(State<V>& s, const State<V>& o) {
    step(s, o.a, 0);
  }
  template <class P>
  static SEQLOOM_ALWAYS_INLINE void merge(Partial<P>& p, const Partial<P>& o) {
    p.a = Any ? (p.a != 0 || o.a != 0) : (p.a != 0 && o.a != 0);
  }
};

// ---- two passes --------------------------------------------------------------------------------

// First pass: the sum. Second: deviations from the lane's mean, and their squares; what the rounded
// mean is off by shows in the sum of the deviations. Merged by Chan's formula.
struct VarLanes {
  static constexpr int kPasses = 2;
  static constexpr bool kCentred = true;
  template <class V>
  struct State {
    V a, b;
  };
  template <class V, class S>
  static SEQLOOM_ALWAYS_INLINE V identity() {
    return V::broadcast(S{0});
  }
  template <class V>
  static SEQLOOM_ALWAYS_INLINE void step(State<V>& s, V x, int64_t) {
    s.a = s.a + x;
  }
  template <class V>
  static SEQLOOM_ALWAYS_INLINE void join(State<V>& s, const State<V>& o) {
    s.a = s.a + o.a;
  }
  template <class V>
  static SEQLOOM_ALWAYS_INLINE void second(V x, V mean, V* sum, V* rest) {
    const V d = x - mean;
    *sum = *sum + d * d;
    *rest = *rest + d;
  }
  // What lanes without an element hold in the second pass: it adds 0 to the sums.
  template <class V, class S>
  static SEQLOOM_ALWAYS_INLINE V fill(V mean) {
    return mean;
  }
  template <class P>
  static SEQLOOM_ALWAYS_INLINE void merge(Partial<P>& p, const Partial<P>& o) {
    const double total = p.count + o.count;
    if (total == 0) return;
    const double delta = o.a - p.a, share = o.count / total;
    p.a += delta * share;
    p.b += o.b + delta * delta * p.count * share;
    p.count = total;
  }
};

// First pass: the maximum. Second: exp(x - maximum).
struct LogSumExpLanes {
  static constexpr int kPasses = 2;
  static constexpr bool kCentred = false;
  template <class V>
  struct State {
    V a, b;
  };
  template <class V, class S>
  static SEQLOOM_ALWAYS_INLINE V identity() {
    return V::broadcast(Limits<S>::lowest);
  }
  template <class V>
  static SEQLOOM_ALWAYS_INLINE void step(State<V>& s, V x, int64_t) {
    s.a = max(x, s.a);  // a NaN shows in the second pass
  }
  template <class V>
  static SEQLOOM_ALWAYS_INLINE void join(State<V>& s, const State<V>& o) {
    s.a = max(o.a, s.a);
  }
  template <class V>
  static SEQLOOM_ALWAYS_INLINE void second(V x, V maximum, V* sum, V*) {
    *sum = *sum + exp(x - maximum);
  }
  template <class V, class S>
  static SEQLOOM_ALWAYS_INLINE V fill(V) {
    return V::broadcast(Limits<S>::lowest);
  }
  template <class P>
  static SEQLOOM_ALWAYS_INLINE void merge(Partial<P>& p, const Partial<P>& o) {
    if (o.b == 0) return;  // nothing but -inf
    if (p.b == 0) {
      p = o;
      return;
    }
    const double top = p.a > o.a ? p.a : o.a;
    p.b = p.b * __builtin_exp(p.a - top) + o.b * __builtin_exp(o.a - top);
    p.a = top;
  }
};

}  // namespace seqloom::SEQLOOM_ISA_NS
