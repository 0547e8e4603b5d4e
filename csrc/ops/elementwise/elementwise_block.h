// SPDX-License-Identifier: Apache-2.0
// The vector loop of every formula over one block. For kernel files (*_cpu.cpp) only.
#pragma once

#include "cpu/vec_math.h"
#include "ops/elementwise/elementwise_driver.h"

namespace seqloom::SEQLOOM_ISA_NS {

template <class V>
SEQLOOM_ALWAYS_INLINE V constant(double x) {
  return V::broadcast(x);
}
template <>
SEQLOOM_ALWAYS_INLINE VecF constant<VecF>(double x) {
  return VecF::broadcast(static_cast<float>(x));
}

// The C library's, lane by lane: exact, and rarely used.
SEQLOOM_ALWAYS_INLINE VecF fmod(VecF a, VecF b) {
  float x[kLanes], y[kLanes];
  store(x, a);
  store(y, b);
  for (int i = 0; i < kLanes; ++i) x[i] = __builtin_fmodf(x[i], y[i]);
  return load(x);
}
SEQLOOM_ALWAYS_INLINE VecD fmod(VecD a, VecD b) {
  for (int i = 0; i < VecD::kLanes; ++i) a.v[i] = __builtin_fmod(a.v[i], b.v[i]);
  return a;
}

}  // namespace seqloom::SEQLOOM_ISA_NS

#define SEQLOOM_MATH_NS SEQLOOM_ISA_NS
#include "ops/elementwise/elementwise_math.h"
#undef SEQLOOM_MATH_NS

namespace seqloom::SEQLOOM_ISA_NS {

// One vector, or its first n lanes where Partial.
template <class F, bool Partial, class C>
SEQLOOM_ALWAYS_INLINE void apply_formula(const Block<C>& b, int64_t i, int n, Vec<C> p, Vec<C> q) {
  using V = Vec<C>;
  V x[F::kInputs + 1];
  for (int k = 0; k < F::kInputs; ++k) x[k] = Partial ? load(b.in[k] + i, n) : load(b.in[k] + i);
  if constexpr (F::kRandom)
    x[F::kInputs] = Partial ? load(b.in[F::kInputs] + i, n) : load(b.in[F::kInputs] + i);
  V y[F::kOutputs];
  if constexpr (F::kOutputs == 1)
    y[0] = F::of(x, p, q);
  else
    F::both(x, y);
  for (int k = 0; k < F::kOutputs; ++k) {
    if constexpr (Partial)
      store(b.out[k] + i, y[k], n);
    else
      store(b.out[k] + i, y[k]);
  }
}

template <class C, class F>
void formula_block(const Block<C>& b) {
  using V = Vec<C>;
  const V p = constant<V>(b.args->p), q = constant<V>(b.args->q);
  int64_t i = 0;
  for (; i + V::kLanes <= b.count; i += V::kLanes) apply_formula<F, false>(b, i, V::kLanes, p, q);
  if (i < b.count) apply_formula<F, true>(b, i, static_cast<int>(b.count - i), p, q);
}

template <class C>
SEQLOOM_ALWAYS_INLINE BlockFunction<C> block_function(ops::ElementwiseOp op) {
  BlockFunction<C> found = nullptr;
  visit_formula(op, [&](auto formula) { found = &formula_block<C, decltype(formula)>; });
  return found;
}

}  // namespace seqloom::SEQLOOM_ISA_NS
