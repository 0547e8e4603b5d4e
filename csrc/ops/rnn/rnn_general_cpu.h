// SPDX-License-Identifier: Apache-2.0
// What forward and backward of the recurrences with options share on the CPU. Included by ISA files
// only.
//
// A step alternates products over all running sequences with passes over rows (sequences): a layer
// norm needs the whole row of a product, a projection the whole row of the cell. Rows are in the
// order of Schedule, so that the running ones are a prefix.
#pragma once

#include "cpu/gemm.h"
#include "ops/rnn/rnn_general.h"
#include "ops/rnn/rnn_panels.h"

namespace seqloom::SEQLOOM_ISA_NS {

// f(unit, count) for the vectors of a row of n.
template <class F>
SEQLOOM_ALWAYS_INLINE void over_units(int64_t n, const F& f) {
  int64_t u = 0;
  for (; u + kLanes <= n; u += kLanes) f(u, kLanes);
  if (u < n) f(u, static_cast<int>(n - u));
}

// f(row) for rows [0, rows), a few microseconds' worth at a time.
template <class F>
SEQLOOM_ALWAYS_INLINE void over_rows(int64_t rows, int64_t width, const F& f) {
  constexpr int64_t kChunkUnits = 8192;
  cpu::parallel_for(rows, max<int64_t>(1, kChunkUnits / width), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) f(r);
  });
}

struct RowMoments {
  float mean, rstd;
};

// Two passes; four sums in flight.
SEQLOOM_ALWAYS_INLINE RowMoments row_moments(const float* x, int64_t n) {
  VecF sum[4] = {VecF::zero(), VecF::zero(), VecF::zero(), VecF::zero()};
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes)
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) sum[v] += load(x + i + v * kLanes);
  for (; i + kLanes <= n; i += kLanes) sum[0] += load(x + i);
  if (i < n) sum[1] += load(x + i, static_cast<int>(n - i));
  RowMoments m;
  m.mean = reduce_add((sum[0] + sum[1]) + (sum[2] + sum[3])) / static_cast<float>(n);
  const VecF mean = VecF::broadcast(m.mean);
#pragma GCC unroll 4
  for (int v = 0; v < 4; ++v) sum[v] = VecF::zero();
  for (i = 0; i + 4 * kLanes <= n; i += 4 * kLanes)
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      const VecF d = load(x + i + v * kLanes) - mean;
      sum[v] = fma(d, d, sum[v]);
    }
  for (; i + kLanes <= n; i += kLanes) {
    const VecF d = load(x + i) - mean;
    sum[0] = fma(d, d, sum[0]);
  }
  if (i < n) {
    const VecF d = load_or(x + i, static_cast<int>(n - i), mean) - mean;
    sum[1] = fma(d, d, sum[1]);
  }
  const float variance = reduce_add((sum[0] + sum[1]) + (sum[2] + sum[3])) / static_cast<float>(n);
  m.rstd = 1.0f / __builtin_sqrtf(variance + ops::kRecurrentNormEps);
  return m;
}

SEQLOOM_ALWAYS_INLINE ops::Peepholes<VecF> peepholes_at(const float* p, int64_t H, int64_t u,
                                                        int count) {
  if (p == nullptr) return {VecF::zero(), VecF::zero(), VecF::zero()};
  return {get(p + u, count), get(p + H + u, count), get(p + 2 * H + u, count)};
}

// A [k, n] (or [n, k] with trans) matrix packed for the products of all steps.
class Packed {
 public:
  Packed(const float* b, int64_t k, int64_t n, bool trans)
      : scratch_(b == nullptr ? 0 : cpu::packed_bytes(cpu::PackFormat::kF32, k, n)) {
    if (b == nullptr) return;
    cpu::PackArgs p;
    p.k = k;
    p.n = n;
    p.b = b;
    p.ldb = trans ? k : n;
    p.trans_b = trans;
    p.memory = scratch_.as<void>();
    p.out = &matrix_;
    cpu::pack_b(p);
  }

  // c [m, n] = a [m, k] b (+ c).
  void multiply(const float* a, int64_t lda, int64_t m, float* c, int64_t ldc, bool add) const {
    if (m == 0) return;
    cpu::GemmArgs g;
    g.m = m;
    g.n = matrix_.n;
    g.k = matrix_.k;
    g.a = a;
    g.lda = lda;
    g.packed_b = &matrix_;
    g.c = c;
    g.ldc = ldc;
    g.beta = add ? 1.0 : 0.0;
    cpu::gemm(g);
  }

 private:
  cpu::Scratch scratch_;
  cpu::PackedMatrix matrix_;
};

// A matrix [n, k] in panels of rows, for the products of a team's steps: each member makes the
// columns of its panels, which then stay in its own L2.
class StepWeights {
 public:
  StepWeights(const float* w, int64_t n, int64_t k)
      : n_(n),
        k_(k),
        blocks_((n + L::kUnits - 1) / L::kUnits),
        scratch_(w == nullptr ? 0 : static_cast<size_t>(blocks_ * k * L::kUnits) * sizeof(float)) {
    if (w != nullptr) pack_weight<L>(w, n, k, scratch_.as<float>());
  }

  // The member's columns of c [rows, n] = a [rows, k] w^T.
  void multiply(int64_t step, const float* a, int64_t rows, float* c, const Share& share) const {
    const Groups groups(rows, L::kRows);
    const bool far = beyond_l2(blocks_ * k_ * L::kUnits * int64_t{sizeof(float)}, rows);
    const int64_t first = share.first_block(blocks_), last = share.last_block(blocks_);
    for (int64_t i = first; i < last; ++i) {
      const int64_t column = there_and_back(step, i, first, last) * L::kUnits;
      const float* panel = scratch_.as<float>() + column * k_;
      for (int64_t g = 0; g < groups.count; ++g) {
        const int64_t row = groups.begin(g);
        with_rows<L::kRows>(groups.begin(g + 1) - row, [&](auto m) {
          tile<decltype(m)::value>(far, a + row * k_, panel, c + row * n_ + column,
                                   min(L::kUnits, n_ - column));
        });
      }
    }
  }

 private:
  using L = Layout<CellKind::kTanh>;  // panels of consecutive rows

  template <int MR>
  void tile(bool far, const float* a, const float* panel, float* c, int64_t columns) const {
    Tile<MR, L::kVecs> acc;
    tile_zero(acc);
    SEQLOOM_ISA_NS::multiply<MR, L::kVecs>(far, k_, a, k_, panel, acc);
    alignas(64) float sums[MR * L::kUnits];
    tile_spill(acc, sums);
    for (int i = 0; i < MR; ++i)
      over_units(columns, [&](int64_t u, int count) {
        put(c + i * n_ + u, get(sums + i * L::kUnits + u, count), count);
      });
  }

  int64_t n_, k_, blocks_;
  cpu::Scratch scratch_;
};

// Consecutive arrays in one scratch, each 64-byte aligned: sizes first, then addresses.
struct Carver {
  int64_t bytes = 0;
  char* base = nullptr;

  template <class T>
  SEQLOOM_ALWAYS_INLINE T* take(int64_t n) {
    T* p = base == nullptr ? nullptr : reinterpret_cast<T*>(base + bytes);
    bytes += (n * static_cast<int64_t>(sizeof(T)) + 63) / 64 * 64;
    return p;
  }
};

SEQLOOM_ALWAYS_INLINE void copy_row(float* to, const float* from, int64_t n) {
  if (from == nullptr)
    __builtin_memset(to, 0, static_cast<size_t>(n) * sizeof(float));
  else
    __builtin_memcpy(to, from, static_cast<size_t>(n) * sizeof(float));
}

}  // namespace seqloom::SEQLOOM_ISA_NS
