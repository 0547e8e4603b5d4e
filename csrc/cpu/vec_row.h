// SPDX-License-Identifier: Apache-2.0
// Passes over long rows for softmax, norms and losses. For kernel files (*_cpu.cpp) only.
//
// A row that comes from memory is taken in pieces that fit in L1. What needs two looks at the data
// (a maximum and then exponentials, a mean and then squares about it) looks twice at a piece, not
// at the row, and fetches the next piece meanwhile, so that arithmetic and memory overlap. Pieces
// depend on the length alone, and they are merged in order: so do the bits.
#pragma once

#include "cpu/isa.h"
#include "cpu/vec.h"
#include "cpu/vec_math.h"

namespace seqloom::SEQLOOM_ISA_NS {

constexpr int64_t kRowPiece = 512;   // elements between looks for a new maximum
constexpr int64_t kRowAhead = 1024;  // elements by which to fetch ahead of the exponentials

// Outputs from this size on, too large for L2, are stored past the caches: a line that is written
// whole need not be read first, which saves a third of the traffic of a forward pass.
constexpr int64_t kStreamedBytes = int64_t{4} << 20;

// f(i, count) for each vector of a row, the last with a ragged count.
template <class F>
SEQLOOM_ALWAYS_INLINE void over_row(int64_t n, const F& f) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) f(i, kLanes);
  if (i < n) f(i, static_cast<int>(n - i));
}

template <class T>
SEQLOOM_ALWAYS_INLINE VecF get_row(const T* p, int count) {
  return count == kLanes ? load(p) : load(p, count);
}
template <class T>
SEQLOOM_ALWAYS_INLINE void put_row(T* p, VecF v, int count) {
  if (count == kLanes)
    store(p, v);
  else
    store(p, v, count);
}

// y[i] = f(i, count) over a row, past the caches if `streaming` (float only; end with
// stream_fence()). Streamed stores begin at the first aligned address.
template <class T, class F>
SEQLOOM_ALWAYS_INLINE void write_row(T* y, int64_t n, bool streaming, const F& f) {
  int64_t i = 0;
  if constexpr (sizeof(T) == sizeof(float)) {
    if (streaming) {
      constexpr int64_t kBytes = kLanes * static_cast<int64_t>(sizeof(float));
      const auto misaligned = static_cast<int64_t>(reinterpret_cast<uintptr_t>(y) % kBytes);
      const int64_t head = min(n, misaligned == 0 ? 0 : (kBytes - misaligned) / 4);
      if (head > 0) store(y, f(0, static_cast<int>(head)), static_cast<int>(head));
      for (i = head; i + kLanes <= n; i += kLanes) stream(y + i, f(i, kLanes));
    }
  }
  for (; i + kLanes <= n; i += kLanes) store(y + i, f(i, kLanes));
  if (i < n) store(y + i, f(i, static_cast<int>(n - i)), static_cast<int>(n - i));
}

template <class T>
SEQLOOM_ALWAYS_INLINE float piece_max(const T* x, int64_t n) {
  const VecF lowest = VecF::broadcast(-__builtin_inff());
  VecF m0 = lowest, m1 = lowest, m2 = lowest, m3 = lowest;
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    m0 = max(m0, load(x + i));
    m1 = max(m1, load(x + i + kLanes));
    m2 = max(m2, load(x + i + 2 * kLanes));
    m3 = max(m3, load(x + i + 3 * kLanes));
  }
  for (; i + kLanes <= n; i += kLanes) m0 = max(m0, load(x + i));
  if (i < n) m1 = max(m1, load_or(x + i, static_cast<int>(n - i), lowest));
  return reduce_max(max(max(m0, m1), max(m2, m3)));
}

// Fetches what lies kAhead elements further on than kVectors vectors at p.
template <int kVectors, int64_t kAhead, class T>
SEQLOOM_ALWAYS_INLINE void fetch_next(const T* p) {
  const char* const next = reinterpret_cast<const char*>(p + kAhead);
  constexpr int kBytes = kVectors * kLanes * static_cast<int>(sizeof(T));
  for (int b = 0; b < kBytes; b += 64) prefetch(next + b);
}

// While a long row is finished: fetches the same place of the next row into L2, where the first
// pass over it will look. Short rows have been fetched by fetch_next.
template <class T>
SEQLOOM_ALWAYS_INLINE void fetch_next_row(const T* p, int64_t n) {
  if (n > 2 * kRowAhead) prefetch_l2(p + n);
}

// exp of what a maximum was subtracted from: no upper bound to look after.
SEQLOOM_ALWAYS_INLINE VecF exp_below(VecF x) {
  const ExpArgument a = reduce_exp(max(VecF::broadcast(-104.0f), x));
  const VecF p = polynomial(a.r, 1.0f, 1.0f, 0.49999994f, 0.1666652f, 0.041668408f, 0.0083689215f,
                            0.0013814174f);
  return scale_pow2(p, a.n);
}

// sum_i exp(x_i - shift) over a piece, and the terms into e to Keep. Meanwhile fetches the next.
template <bool Keep, class T>
SEQLOOM_ALWAYS_INLINE float piece_exp_sum(const T* x, float* e, int64_t n, float shift) {
  const VecF m = VecF::broadcast(shift);
  VecF s0 = VecF::zero(), s1 = s0, s2 = s0, s3 = s0;
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    fetch_next<4, kRowAhead>(x + i);
    const VecF e0 = exp_below(load(x + i) - m), e1 = exp_below(load(x + i + kLanes) - m);
    const VecF e2 = exp_below(load(x + i + 2 * kLanes) - m);
    const VecF e3 = exp_below(load(x + i + 3 * kLanes) - m);
    if (Keep) {
      store(e + i, e0);
      store(e + i + kLanes, e1);
      store(e + i + 2 * kLanes, e2);
      store(e + i + 3 * kLanes, e3);
    }
    s0 += e0;
    s1 += e1;
    s2 += e2;
    s3 += e3;
  }
  for (; i + kLanes <= n; i += kLanes) {
    const VecF e0 = exp_below(load(x + i) - m);
    if (Keep) store(e + i, e0);
    s0 += e0;
  }
  if (i < n) {
    const int tail = static_cast<int>(n - i);
    const VecF e1 = zero_unless(first_n(tail), exp_below(load(x + i, tail) - m));
    if (Keep) store(e + i, e1, tail);
    s1 += e1;
  }
  return reduce_add((s0 + s1) + (s2 + s3));
}

// m = max_i x_i and s = sum_i exp(x_i - m). NaN, +inf and nothing but -inf give what the formula
// gives: s is NaN, or m infinite.
struct MaxAndSum {
  float m, s;
};

// What is subtracted for a maximum m: pieces of nothing but -inf then add nothing, where -inf minus
// itself would add NaN.
SEQLOOM_ALWAYS_INLINE float shift_of(float m) { return m == -__builtin_inff() ? 0.0f : m; }

// One pass over a row. Keep: e_i = exp(x_i - shifts[i / kRowPiece]) as well.
template <bool Keep, class T>
SEQLOOM_ALWAYS_INLINE MaxAndSum row_max_and_sum(const T* x, float* e, float* shifts, int64_t n) {
  MaxAndSum r{-__builtin_inff(), 0.0f};
  for (int64_t start = 0; start < n; start += kRowPiece) {
    const int64_t count = min(kRowPiece, n - start);
    const float m = piece_max(x + start, count);
    if (m > r.m) {
      if (start > 0) r.s *= __builtin_expf(r.m - m);
      r.m = m;
    }
    const float shift = shift_of(r.m);
    r.s += piece_exp_sum<Keep>(x + start, Keep ? e + start : nullptr, count, shift);
    if (Keep) shifts[start / kRowPiece] = shift;
  }
  return r;
}

}  // namespace seqloom::SEQLOOM_ISA_NS
