// SPDX-License-Identifier: Apache-2.0
// VecD: kLanes / 2 doubles, for the float64 path that references and gradient checks use.
//
// Operations have the names of vec.h, so a kernel written on Vec<T> serves float64 as well. Written
// once in GNU vector extensions, at the width of the level; functions that the language has no
// operator for call the C library lane by lane.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "core/macros.h"

namespace seqloom::SEQLOOM_ISA_NS {

typedef double DoubleLanes __attribute__((vector_size(4 * kLanes)));
typedef int64_t LongLanes __attribute__((vector_size(4 * kLanes)));

struct MaskD {
  LongLanes v;  // all ones or all zeros
};

struct VecD {
  static constexpr int kLanes = SEQLOOM_ISA_NS::kLanes / 2;
  DoubleLanes v;
  static SEQLOOM_ALWAYS_INLINE VecD broadcast(double x) { return {x - DoubleLanes{}}; }
  static SEQLOOM_ALWAYS_INLINE VecD zero() { return {DoubleLanes{}}; }
};

SEQLOOM_ALWAYS_INLINE VecD operator+(VecD a, VecD b) { return {a.v + b.v}; }
SEQLOOM_ALWAYS_INLINE VecD operator-(VecD a, VecD b) { return {a.v - b.v}; }
SEQLOOM_ALWAYS_INLINE VecD operator*(VecD a, VecD b) { return {a.v * b.v}; }
SEQLOOM_ALWAYS_INLINE VecD operator/(VecD a, VecD b) { return {a.v / b.v}; }
SEQLOOM_ALWAYS_INLINE VecD operator-(VecD a) { return {-a.v}; }
SEQLOOM_ALWAYS_INLINE VecD& operator+=(VecD& a, VecD b) { return a = a + b; }
SEQLOOM_ALWAYS_INLINE VecD& operator-=(VecD& a, VecD b) { return a = a - b; }
SEQLOOM_ALWAYS_INLINE VecD& operator*=(VecD& a, VecD b) { return a = a * b; }
SEQLOOM_ALWAYS_INLINE VecD& operator/=(VecD& a, VecD b) { return a = a / b; }
// Two roundings: float64 is the reference path and need not be fused.
SEQLOOM_ALWAYS_INLINE VecD fma(VecD a, VecD b, VecD c) { return {a.v * b.v + c.v}; }
SEQLOOM_ALWAYS_INLINE VecD fnma(VecD a, VecD b, VecD c) { return {c.v - a.v * b.v}; }
SEQLOOM_ALWAYS_INLINE VecD fms(VecD a, VecD b, VecD c) { return {a.v * b.v - c.v}; }

SEQLOOM_ALWAYS_INLINE MaskD operator<(VecD a, VecD b) { return {(LongLanes)(a.v < b.v)}; }
SEQLOOM_ALWAYS_INLINE MaskD operator<=(VecD a, VecD b) { return {(LongLanes)(a.v <= b.v)}; }
SEQLOOM_ALWAYS_INLINE MaskD operator>(VecD a, VecD b) { return {(LongLanes)(a.v > b.v)}; }
SEQLOOM_ALWAYS_INLINE MaskD operator>=(VecD a, VecD b) { return {(LongLanes)(a.v >= b.v)}; }
SEQLOOM_ALWAYS_INLINE MaskD operator==(VecD a, VecD b) { return {(LongLanes)(a.v == b.v)}; }
SEQLOOM_ALWAYS_INLINE MaskD operator!=(VecD a, VecD b) { return {(LongLanes)(a.v != b.v)}; }
SEQLOOM_ALWAYS_INLINE MaskD operator&(MaskD a, MaskD b) { return {a.v & b.v}; }
SEQLOOM_ALWAYS_INLINE MaskD operator|(MaskD a, MaskD b) { return {a.v | b.v}; }
SEQLOOM_ALWAYS_INLINE MaskD operator~(MaskD a) { return {~a.v}; }
SEQLOOM_ALWAYS_INLINE bool any(MaskD m) {
  int64_t joined = 0;
  for (int i = 0; i < VecD::kLanes; ++i) joined |= m.v[i];
  return joined != 0;
}
SEQLOOM_ALWAYS_INLINE VecD select(MaskD m, VecD a, VecD b) {
  return {(DoubleLanes)(((LongLanes)a.v & m.v) | ((LongLanes)b.v & ~m.v))};
}
SEQLOOM_ALWAYS_INLINE VecD zero_unless(MaskD m, VecD a) {
  return {(DoubleLanes)((LongLanes)a.v & m.v)};
}
SEQLOOM_ALWAYS_INLINE MaskD is_nan(VecD a) { return a != a; }
SEQLOOM_ALWAYS_INLINE VecD min(VecD a, VecD b) { return select(a < b, a, b); }
SEQLOOM_ALWAYS_INLINE VecD max(VecD a, VecD b) { return select(a > b, a, b); }
SEQLOOM_ALWAYS_INLINE VecD min_nan(VecD a, VecD b) { return select(is_nan(a), a, min(a, b)); }
SEQLOOM_ALWAYS_INLINE VecD max_nan(VecD a, VecD b) { return select(is_nan(a), a, max(a, b)); }
SEQLOOM_ALWAYS_INLINE VecD abs(VecD a) {
  return {(DoubleLanes)((LongLanes)a.v & (LongLanes{} + 0x7fffffffffffffffll))};
}
SEQLOOM_ALWAYS_INLINE VecD copy_sign(VecD magnitude, VecD sign) {
  const LongLanes low = LongLanes{} + 0x7fffffffffffffffll;
  return {(DoubleLanes)(((LongLanes)magnitude.v & low) | ((LongLanes)sign.v & ~low))};
}

SEQLOOM_ALWAYS_INLINE VecD load(const double* p) {
  VecD a;
  memcpy(&a.v, p, sizeof(a.v));
  return a;
}
SEQLOOM_ALWAYS_INLINE VecD load(const double* p, int n) {
  VecD a = VecD::zero();
  for (int i = 0; i < VecD::kLanes; ++i) {
    if (i < n) a.v[i] = p[i];
  }
  return a;
}
SEQLOOM_ALWAYS_INLINE VecD load_or(const double* p, int n, VecD fill) {
  for (int i = 0; i < VecD::kLanes; ++i) {
    if (i < n) fill.v[i] = p[i];
  }
  return fill;
}
SEQLOOM_ALWAYS_INLINE void store(double* p, VecD a) { memcpy(p, &a.v, sizeof(a.v)); }
SEQLOOM_ALWAYS_INLINE void store(double* p, VecD a, int n) {
  for (int i = 0; i < VecD::kLanes; ++i) {
    if (i < n) p[i] = a.v[i];
  }
}

// Across lanes: the tree of vec.h.
SEQLOOM_ALWAYS_INLINE double reduce_add(VecD a) {
  for (int w = VecD::kLanes / 2; w > 0; w /= 2) {
    for (int i = 0; i < w; ++i) a.v[i] += a.v[i + w];
  }
  return a.v[0];
}
SEQLOOM_ALWAYS_INLINE double reduce_max(VecD a) {
  for (int w = VecD::kLanes / 2; w > 0; w /= 2) {
    for (int i = 0; i < w; ++i) a.v[i] = max<double>(a.v[i], a.v[i + w]);
  }
  return a.v[0];
}
SEQLOOM_ALWAYS_INLINE double reduce_min(VecD a) {
  for (int w = VecD::kLanes / 2; w > 0; w /= 2) {
    for (int i = 0; i < w; ++i) a.v[i] = min<double>(a.v[i], a.v[i + w]);
  }
  return a.v[0];
}
SEQLOOM_ALWAYS_INLINE double reduce_max_nan(VecD a) {
  return any(is_nan(a)) ? __builtin_nan("") : reduce_max(a);
}

#define SEQLOOM_LANEWISE(name, expression)   \
  SEQLOOM_ALWAYS_INLINE VecD name(VecD a) {  \
    for (int i = 0; i < VecD::kLanes; ++i) { \
      const double x = a.v[i];               \
      a.v[i] = (expression);                 \
    }                                        \
    return a;                                \
  }
SEQLOOM_LANEWISE(sqrt, __builtin_sqrt(x))
SEQLOOM_LANEWISE(rsqrt, 1.0 / __builtin_sqrt(x))
SEQLOOM_LANEWISE(round, __builtin_nearbyint(x))
SEQLOOM_LANEWISE(floor, __builtin_floor(x))
SEQLOOM_LANEWISE(ceil, __builtin_ceil(x))
SEQLOOM_LANEWISE(trunc, __builtin_trunc(x))
SEQLOOM_LANEWISE(exp, __builtin_exp(x))
SEQLOOM_LANEWISE(expm1, __builtin_expm1(x))
SEQLOOM_LANEWISE(log, __builtin_log(x))
SEQLOOM_LANEWISE(log1p, __builtin_log1p(x))
SEQLOOM_LANEWISE(sin, __builtin_sin(x))
SEQLOOM_LANEWISE(cos, __builtin_cos(x))
SEQLOOM_LANEWISE(tanh, __builtin_tanh(x))
SEQLOOM_LANEWISE(erf, __builtin_erf(x))
#undef SEQLOOM_LANEWISE

SEQLOOM_ALWAYS_INLINE VecD pow(VecD a, VecD b) {
  for (int i = 0; i < VecD::kLanes; ++i) a.v[i] = __builtin_pow(a.v[i], b.v[i]);
  return a;
}

}  // namespace seqloom::SEQLOOM_ISA_NS
