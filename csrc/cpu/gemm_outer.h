// SPDX-License-Identifier: Apache-2.0
// The product with a transposed A, C = A^T B for A [k, m] and B [k, n]: what every gradient of a
// weight is, with k the rows of a batch.
//
// Nothing is transposed. Both operands are copied, block by block, into panels whose rows follow k,
// so a register tile broadcasts adjacent elements of a line of A:
//
//   for k block:  pack B;  for group of A panels:  pack;  for strip of A:  for panel of B:  tile
//
// A block of B stays in L2, a strip of A in L1. Each element of C is one sum in the order of k.
// Included by ISA files only.
#pragma once

#include "cpu/gemm_block.h"

namespace seqloom::SEQLOOM_ISA_NS {

constexpr int kOuterVectors = kLanes % kMR == 0 ? 1 : 3;  // of a panel of A: whole strips
constexpr int64_t kOuterGroup = 64;                       // columns of A that are packed together
constexpr int64_t kOuterDepth = 256;                      // rows of a packed block
constexpr int64_t kOuterRows = 256;                       // of C, of one task

// t.lda is the width of A's panel; C's old values start the sums where they are accumulated.
template <class A, class B, int MR, int NV>
void run_outer_tile(const TileCall& t) {
  using S = Step<A, B>;
  Tile<MR, NV> acc;
  tile_zero(acc);
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) __builtin_prefetch(t.c + i * t.ldc + j * kLanes, 1);
  const A* a = static_cast<const A*>(t.a);
  const B* b = static_cast<const B*>(t.b);
#pragma GCC unroll 4
  for (int64_t p = 0; p < t.k; ++p) {
    S::template run<MR, NV, false>(a, S::kK, b, kLanes, acc);
    a += t.lda * S::kK;
    b += NV * kLanes;
  }
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) {
      float* c = t.c + i * t.ldc + j * kLanes;
      const int live = j == NV - 1 ? t.last : kLanes;
      if (t.accumulate) acc.v[i][j] = acc.v[i][j] + load(c, live);
      store(c, acc.v[i][j], live);
    }
  }
}

template <class A, class B, int MR>
SEQLOOM_ALWAYS_INLINE TileFn outer_tile_of_width(int vectors) {
  if constexpr (kNV >= 3)
    if (vectors == 3) return run_outer_tile<A, B, MR, 3>;
  return vectors == 2 ? run_outer_tile<A, B, MR, 2> : run_outer_tile<A, B, MR, 1>;
}

template <class A, class B, int MR = kMR>
TileFn find_outer_tile(int rows, int vectors) {
  if constexpr (MR > 1)
    if (rows < MR) return find_outer_tile<A, B, MR - 1>(rows, vectors);
  return outer_tile_of_width<A, B, MR>(vectors);
}

template <class A, class B>
struct OuterBlock {
  const GemmArgs& g;
  const PanelMap& map_a;
  const PanelMap& map_b;
  int64_t batch, i0, j0, ld_sums;
  float* sums;
  bool sums_in_c, many, plain;

  // Strip [i, i + mr) of C by panel q of B, over `rows` packed rows from k0 on.
  void tile(const B* a, int64_t lda, const B* b, int64_t i, int64_t mr, int64_t q, int64_t rows,
            int64_t k0, bool last) const {
    const int64_t j = map_b.begin(q), w = map_b.width(q), live = min(w, g.n - j);
    TileCall t{};
    t.k = rows;
    t.a = a;
    t.lda = lda;
    t.b = b;
    t.c = sums_in_c || many ? sums + (i - i0) * ld_sums + (j - j0) : sums;
    t.ldc = ld_sums;
    t.last = sums_in_c ? static_cast<int>(live - (w - kLanes)) : kLanes;
    t.accumulate = k0 > 0 || (plain && g.beta == 1.0);
    find_outer_tile<A, B>(static_cast<int>(mr), static_cast<int>(w / kLanes))(t);
    if (last && !plain) finish_tile(g, batch, i, mr, j, live, t.c, t.ldc, nullptr, nullptr);
  }
};

// Panels [a0, a1) of A by panels [b0, b1) of B, over all of k.
template <class A, class B>
SEQLOOM_NOINLINE void run_outer_block(const GemmArgs& g, const PanelMap& map_a,
                                      const PanelMap& map_b, int64_t batch, int64_t a0, int64_t a1,
                                      int64_t b0, int64_t b1) {
  constexpr int64_t kStep = Step<A, B>::kK, kDepth = kOuterDepth * kStep;
  OuterBlock<A, B> block{g,       map_a, map_b, batch, map_a.begin(a0), map_b.begin(b0), 0,
                         nullptr, false, false, false};
  block.many = g.k > kDepth;
  block.plain = epilogue_is_plain(g);
  block.sums_in_c = g.c_type == DType::kFloat32 && (block.plain || g.beta == 0.0);
  const int64_t width = map_b.begin(b1) - block.j0, depth = min(kOuterDepth, ceil_div(g.k, kStep));
  const int64_t rows_of_c = map_a.begin(a1) - block.i0;
  const int64_t spare = block.sums_in_c ? 0 : block.many ? rows_of_c * width : int64_t{kMR} * kNR;
  const int64_t group = max<int64_t>(1, kOuterGroup / (kOuterVectors * kLanes));
  const int64_t words_a = depth * group * kOuterVectors * kLanes;
  const cpu::Scratch scratch(static_cast<size_t>(depth * width + words_a + spare) * sizeof(float));
  B* const packed_b = scratch.as<B>();
  B* const packed_a = packed_b + depth * width;
  block.sums = reinterpret_cast<float*>(packed_a + words_a);
  block.ld_sums = block.many ? width : kNR;
  if (block.sums_in_c) {
    block.sums = static_cast<float*>(g.c) + batch * g.c_batch + block.i0 * g.ldc + block.j0;
    block.ld_sums = g.ldc;
  }
  const Source source_a{g.a, g.a_type, g.lda, false};
  const Source source_b{g.b, g.b_type, g.ldb, g.trans_b};
  for (int64_t k0 = 0; k0 < g.k; k0 += kDepth) {
    const int64_t kc = min(kDepth, g.k - k0), rows = ceil_div(kc, kStep);
    pack_panels(source_b, map_b, batch * g.b_batch, k0, kc, b0, b1, kStep, packed_b);
    for (int64_t p0 = a0; p0 < a1; p0 += group) {
      const int64_t p1 = min(a1, p0 + group);
      pack_panels(source_a, map_a, batch * g.a_batch, k0, kc, p0, p1, kStep, packed_a);
      for (int64_t p = p0; p < p1; ++p) {
        const int64_t first = map_a.begin(p), w = map_a.width(p), live = min(w, g.m - first);
        const int64_t strips = ceil_div(live, kMR);
        const B* a = packed_a + (first - map_a.begin(p0)) * rows;
        for (int64_t s = 0; s < strips; ++s) {
          const int64_t i = s * live / strips, mr = (s + 1) * live / strips - i;
          for (int64_t q = b0; q < b1; ++q)
            block.tile(a + i, w, packed_b + (map_b.begin(q) - block.j0) * rows, first + i, mr, q,
                       rows, k0, k0 + kc == g.k);
        }
      }
    }
  }
}

// Cuts C into tasks; no element's bits follow from the cut.
template <class A, class B>
void run_outer(const GemmArgs& g) {
  const PanelMap map_a(g.m, kOuterVectors), map_b(g.n);
  const int64_t total = g.m * g.n * g.k, limit = max<int64_t>(1, total / kTaskWork);
  const int64_t column_blocks = min(ceil_div(map_b.panels, kBlockColumns / kNR), limit);
  const int64_t rows = g.batch * column_blocks * ceil_div(g.m, kOuterRows) < 4 ? 128 : kOuterRows;
  const int64_t row_blocks =
      min(min(ceil_div(g.m, rows), map_a.panels), max<int64_t>(1, limit / column_blocks));
  const auto run = [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t r = t % row_blocks, c = t / row_blocks % column_blocks;
      run_outer_block<A, B>(g, map_a, map_b, t / (row_blocks * column_blocks),
                            r * map_a.panels / row_blocks, (r + 1) * map_a.panels / row_blocks,
                            c * map_b.panels / column_blocks,
                            (c + 1) * map_b.panels / column_blocks);
    }
  };
  const int64_t tasks = g.batch * row_blocks * column_blocks;
  if (tasks == 1) return run(0, 1);
  const int64_t work = total / (row_blocks * column_blocks);
  cpu::parallel_for(tasks, max<int64_t>(1, kTaskWork / max<int64_t>(work, 1)), run);
}

// Which products go this way. Few rows of C are not worth packing A for, and many columns would
// fetch and pack a large A once for every block of them: there one transposed copy is cheaper.
SEQLOOM_ALWAYS_INLINE bool is_outer(const GemmArgs& g) {
  return g.trans_a && g.m > 4 * kMR && g.n <= 2 * kBlockColumns && g.k > 0;
}

}  // namespace seqloom::SEQLOOM_ISA_NS
