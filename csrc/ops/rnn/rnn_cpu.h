// SPDX-License-Identifier: Apache-2.0
// What forward and backward of the recurrence share on the CPU. Included by ISA files only.
//
// A step is one product h w_hh^T whose tiles stay in registers until the cell's equations have used
// them: a tile is kRows sequences by the G gates of kLanes units (of 4 kLanes units for the
// plain cells), so the weights are packed in panels that interleave the gates of the same units.
//
// Sequences are held in order of falling length, so that the ones still running at a step are a
// prefix, and every step costs its valid rows only.
#pragma once

#include "cpu/gemm_kernel.h"
#include "cpu/parallel.h"
#include "cpu/scratch.h"
#include "cpu/vec.h"
#include "cpu/vec_math.h"
#include "ops/rnn/rnn.h"

namespace seqloom::SEQLOOM_ISA_NS {

using ops::CellKind;

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kTileRegisters = 24;
#else
constexpr int kTileRegisters = 12;
#endif

struct CellMath {
  static SEQLOOM_ALWAYS_INLINE VecF constant(float x) { return VecF::broadcast(x); }
  static SEQLOOM_ALWAYS_INLINE VecF fma(VecF a, VecF b, VecF c) {
    return SEQLOOM_ISA_NS::fma(a, b, c);
  }
  static SEQLOOM_ALWAYS_INLINE VecF sigmoid(VecF x) { return SEQLOOM_ISA_NS::sigmoid(x); }
  static SEQLOOM_ALWAYS_INLINE VecF tanh(VecF x) { return SEQLOOM_ISA_NS::tanh(x); }
  static SEQLOOM_ALWAYS_INLINE VecF relu(VecF x) {  // NaN stays NaN
    return select(x < VecF::zero(), VecF::zero(), x);
  }
  static SEQLOOM_ALWAYS_INLINE VecF where_positive(VecF h, VecF v) {
    return zero_unless(h > VecF::zero(), v);
  }
};

// For the gated cells.
struct GateMath : CellMath {
  // A minimax quotient on |x| <= 7.9, past which tanh rounds to 1 but for an ulp or two: half the
  // operations of the one that is right to an ulp. Within 3.3e-7 of the value, which gates dampen
  // and the plain cell does not.
  static SEQLOOM_ALWAYS_INLINE VecF tanh(VecF x) {
    x = max(VecF::broadcast(-7.9f), min(VecF::broadcast(7.9f), x));  // NaN passes
    const VecF z = x * x;
    const VecF p = polynomial(z, 1.0f, 0.13450664f, 0.003579044f, 2.2024095e-05f, 1.5429142e-08f);
    const VecF q = polynomial(z, 1.0f, 0.46783993f, 0.026192436f, 0.00034237353f, 8.59926e-07f);
    return x * p / q;
  }
};

template <class T>
SEQLOOM_ALWAYS_INLINE VecF get(const T* p, int count) {
  return count == kLanes ? load(p) : load(p, count);
}
template <class T>
SEQLOOM_ALWAYS_INLINE void put(T* p, VecF v, int count) {
  if (count == kLanes)
    store(p, v);
  else
    store(p, v, count);
}

// A finished tile in memory: row i, vector v at (i NV + v) kLanes. Only constant indices touch the
// accumulators, or the compiler would keep them in memory during the product.
template <int MR, int NV>
SEQLOOM_ALWAYS_INLINE void tile_spill(const Tile<MR, NV>& t, float* to) {
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) store(to + (i * NV + v) * kLanes, t.v[i][v]);
}

// acc += A[MR, k] * panel[k, NV], as tile_multiply; without its prefetches, which only take issue
// slots where the panel is in L2 already.
template <int MR, int NV, class A, class B>
SEQLOOM_ALWAYS_INLINE void tile_multiply_near(int64_t k, const A* a, int64_t lda, const B* b,
                                              Tile<MR, NV>& acc) {
  using S = Step<A, B>;
  constexpr int kChains = MR == 1 ? 4 : MR == 2 ? 2 : 1;
  constexpr int64_t kRow = static_cast<int64_t>(NV) * kLanes;
  const int64_t rows = k / S::kK;
  Tile<MR, NV> part[kChains];
#pragma GCC unroll 4
  for (int c = 1; c < kChains; ++c) tile_zero(part[c]);
  int64_t p = 0;
#pragma GCC unroll 2
  for (; p + kChains <= rows; p += kChains) {
#pragma GCC unroll 4
    for (int c = 0; c < kChains; ++c) {
      S::template run<MR, NV, false>(a, lda, b, kLanes, c == 0 ? acc : part[c]);
      a += S::kK;
      b += kRow;
    }
  }
  if constexpr (kChains > 1)
    for (; p < rows; ++p, a += S::kK, b += kRow)
      S::template run<MR, NV, false>(a, lda, b, kLanes, acc);
  if constexpr (S::kK > 1)
    if (k % S::kK) S::template tail<MR, NV>(a, lda, b, acc);
  if constexpr (kChains > 1) {
#pragma GCC unroll 4
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) {
        VecF sum = acc.v[i][j] + part[1].v[i][j];
        if constexpr (kChains == 4) sum = sum + (part[2].v[i][j] + part[3].v[i][j]);
        acc.v[i][j] = sum;
      }
  }
}

// Whether the rows that share weights of this size are too few to hide what fetching them costs.
constexpr int kFarRows = 4;
SEQLOOM_ALWAYS_INLINE bool beyond_l2(int64_t weight_bytes, int64_t batch) {
  return batch <= kFarRows && weight_bytes > (int64_t{1} << 20);
}

// acc += A[MR, k] * panel[k, NV], A's rows lda apart.
template <int MR, int NV, class A, class B>
SEQLOOM_ALWAYS_INLINE void multiply(bool far, int64_t k, const A* a, int64_t lda, const B* panel,
                                    Tile<MR, NV>& acc) {
  constexpr int64_t kRow = static_cast<int64_t>(NV) * kLanes;
  if (MR <= kFarRows && far)
    tile_multiply<MR, NV, false>(k, a, lda, panel, kRow, kLanes, rows_ahead(panel, kRow), acc);
  else
    tile_multiply_near<MR, NV>(k, a, lda, panel, acc);
}

// Words of W hold two bf16; panels of float hold widened weights, whatever their storage was.
template <class W>
constexpr bool kPairWords = false;
template <>
constexpr bool kPairWords<uint32_t> = true;

template <class W>
constexpr int64_t panel_rows(int64_t k) {
  return kPairWords<W> ? (k + 1) / 2 : k;
}

// Block i of a step. Every other step runs from the last block to the first: what the cache still
// holds of the weights is used before it is replaced.
SEQLOOM_ALWAYS_INLINE int64_t there_and_back(int64_t step, int64_t i, int64_t first, int64_t last) {
  return step % 2 == 0 ? i : first + last - 1 - i;
}

// Where each sequence stands at each step.
struct Schedule {
  int64_t steps, batch;
  const int64_t* lengths;  // null: all run `steps`
  const int64_t* order;    // [batch]: sequences by falling length; null: as they come
  bool reverse;

  SEQLOOM_ALWAYS_INLINE int64_t sequence(int64_t row) const {
    return order != nullptr ? order[row] : row;
  }
  SEQLOOM_ALWAYS_INLINE int64_t length(int64_t sequence) const {
    return lengths != nullptr ? lengths[sequence] : steps;
  }
  // The time of step s of a sequence.
  SEQLOOM_ALWAYS_INLINE int64_t time(int64_t sequence, int64_t s) const {
    return reverse ? length(sequence) - 1 - s : s;
  }
  // Index of (time, sequence) into [T, B, ...].
  SEQLOOM_ALWAYS_INLINE int64_t slot(int64_t row, int64_t s) const {
    const int64_t b = sequence(row);
    return time(b, s) * batch + b;
  }
  // Rows that run at step s.
  int64_t active(int64_t s) const {
    if (lengths == nullptr) return batch;
    int64_t rows = batch;
    while (rows > 0 && lengths[order[rows - 1]] <= s) --rows;
    return rows;
  }
  int64_t longest() const { return batch == 0 ? 0 : length(sequence(0)); }
};

// Sequences by falling length, equal ones in their own order (counting sort).
inline __attribute__((always_inline)) void sort_by_length(const int64_t* lengths, int64_t batch,
                                                          int64_t steps, int64_t* order,
                                                          int64_t* counts /* [steps + 2] */) {
  for (int64_t i = 0; i <= steps + 1; ++i) counts[i] = 0;
  for (int64_t b = 0; b < batch; ++b) ++counts[steps - lengths[b] + 1];
  for (int64_t i = 1; i <= steps + 1; ++i) counts[i] += counts[i - 1];
  for (int64_t b = 0; b < batch; ++b) order[counts[steps - lengths[b]]++] = b;
}

// The rows of a step in groups of nearly equal size, at most `most` each.
struct Groups {
  int64_t rows, count;

  Groups(int64_t rows, int64_t most) : rows(rows), count((rows + most - 1) / most) {}
  SEQLOOM_ALWAYS_INLINE int64_t begin(int64_t g) const { return rows * g / count; }
};

// How the threads of a team share a step. Small weights stay in every core's L2, and rows never
// wait for each other: groups of rows go to threads, and no step needs a barrier. Larger weights
// are shared by units, so that a core streams its part only, and every step ends at a barrier.
// Either way the tiles are the same, and so are the bits. Rows may go to threads only if their
// groups stay as they are from step to step: in a ragged batch they are cut anew as sequences end.
constexpr int64_t kSharedWeightBytes = 384 << 10;

struct Share {
  int rank, size;
  bool by_rows;

  Share(int rank, int size, int64_t groups, int64_t weight_bytes, bool only_units)
      : rank(rank),
        size(size),
        by_rows(!only_units && groups >= size && weight_bytes <= kSharedWeightBytes) {}
  SEQLOOM_ALWAYS_INLINE int64_t first_group() const { return by_rows ? rank : 0; }
  SEQLOOM_ALWAYS_INLINE int64_t group_step() const { return by_rows ? size : 1; }
  SEQLOOM_ALWAYS_INLINE int64_t first_block(int64_t blocks) const {
    return by_rows ? 0 : blocks * rank / size;
  }
  SEQLOOM_ALWAYS_INLINE int64_t last_block(int64_t blocks) const {
    return by_rows ? blocks : blocks * (rank + 1) / size;
  }
};

template <int kValue>
struct Constant {
  static constexpr int value = kValue;
};

// Calls f(Constant<rows>) for the run-time number of rows of a tile, 1 .. kMax.
template <int kMax, class F>
SEQLOOM_ALWAYS_INLINE void with_rows(int64_t rows, const F& f) {
  switch (rows) {
    case 1:
      return f(Constant<1>{});
    case 2:
      return f(Constant<(kMax >= 2 ? 2 : kMax)>{});
    case 3:
      return f(Constant<(kMax >= 3 ? 3 : kMax)>{});
    case 4:
      return f(Constant<(kMax >= 4 ? 4 : kMax)>{});
    case 5:
      return f(Constant<(kMax >= 5 ? 5 : kMax)>{});
    case 6:
      return f(Constant<(kMax >= 6 ? 6 : kMax)>{});
    case 7:
      return f(Constant<(kMax >= 7 ? 7 : kMax)>{});
    default:
      return f(Constant<kMax>{});
  }
}

}  // namespace seqloom::SEQLOOM_ISA_NS
