// SPDX-License-Identifier: Apache-2.0
// The blocked product of one A (row-major) and one B (packed, in place, or packed on the way).
//
// C is cut into blocks of a few panels of columns by many rows, one task each. A task walks k in
// blocks of kc. With many rows each block of B (kc x 192 columns) is packed into, or drawn through,
// the L2 cache and every strip of kMR rows of A passes over its panels:
//
//   for k block:  pack panels;  for strip of rows:  for panel:  register tile += A strip * panel
//
// With few rows and a packed B the panel is the outermost loop, so that B is one linear stream, and
// each strip fetches its share of the stream's next block while it works on this one.
// A is read in place: a strip of kMR rows by kc fits the L1 cache.
// Included by ISA files only.
#pragma once

#include <type_traits>

#include "cpu/gemm_epilogue.h"
#include "cpu/gemm_kernel.h"
#include "cpu/gemm_quant.h"
#include "cpu/gemm_source.h"
#include "cpu/parallel.h"
#include "cpu/scratch.h"

namespace seqloom::SEQLOOM_ISA_NS {

constexpr int64_t kBlockColumns = 192;  // of one task: kc x 192 floats stay in L2
constexpr int64_t kBlockBytes = 384 << 10;
constexpr int64_t kTaskWork = 1 << 17;  // multiply-adds that are worth a task
constexpr int64_t kStreamRows = 64;     // up to here a packed B is streamed

struct TileCall {
  int64_t k;
  const void* a;
  int64_t lda;
  const void* b;
  int64_t ldb;
  Ahead ahead;
  float* c;
  int64_t ldc;
  int last;
  bool accumulate;
  const int32_t* b_sums;                           // kInt8
  const float *row_scales, *column_scales, *bias;  // kInt8, see IntegerEpilogue
};

using TileFn = void (*)(const TileCall&);

template <class A, class B, int MR, int NV, bool kMasked>
void run_tile(const TileCall& t) {
#if defined(__AVX512VNNI__)
  if constexpr (sizeof(A) == 1)
    return micro_kernel_int8<MR, NV>(t.k, static_cast<const A*>(t.a), t.lda,
                                     static_cast<const B*>(t.b), t.ldb, t.ahead, t.b_sums,
                                     {t.row_scales, t.column_scales, t.bias}, t.c, t.ldc, t.last);
#endif
  if constexpr (sizeof(A) > 1)
    micro_kernel<MR, NV, kMasked>(t.k, static_cast<const A*>(t.a), t.lda,
                                  static_cast<const B*>(t.b), t.ldb, t.ahead, t.c, t.ldc, t.last,
                                  t.accumulate);
}

template <class A, class B, int MR, bool kMasked>
SEQLOOM_ALWAYS_INLINE TileFn tile_of_width(int vectors) {
  if constexpr (kNV >= 3)
    if (vectors == 3) return run_tile<A, B, MR, 3, kMasked>;
  return vectors == 2 ? run_tile<A, B, MR, 2, kMasked> : run_tile<A, B, MR, 1, kMasked>;
}

template <class A, class B, bool kMasked>
SEQLOOM_NOINLINE TileFn find_tile(int rows, int vectors) {
  switch (rows) {
    case 1:
      return tile_of_width<A, B, 1, kMasked>(vectors);
    case 2:
      return tile_of_width<A, B, 2, kMasked>(vectors);
    case 3:
      return tile_of_width<A, B, 3, kMasked>(vectors);
    case 4:
      return tile_of_width<A, B, 4, kMasked>(vectors);
    case 5:
      return tile_of_width<A, B, 5, kMasked>(vectors);
    case 6:
      return tile_of_width<A, B, 6, kMasked>(vectors);
    default:
      break;
  }
  if constexpr (kMR >= 8) {
    if (rows == 7) return tile_of_width<A, B, 7, kMasked>(vectors);
    return tile_of_width<A, B, 8, kMasked>(vectors);
  }
  return nullptr;
}

// Only A and B of one element a step are read as they lie.
template <class A, class B>
constexpr bool kCanBeInPlace = sizeof(A) == sizeof(float) && Step<A, B>::kK == 1;

// Where panels come from: packed ahead of time, B as it lies, packed or widened block by block.
enum class Feed { kPacked, kInPlace, kPack, kWiden };

template <class A, class B>
struct Job {
  const GemmArgs& g;
  const A* a;  // row-major
  int64_t lda, a_batch;
  Feed feed;
  const B* b;  // kPacked: panels; kInPlace: B itself
  PanelMap map;
  int64_t kc;               // block of k
  bool plain;               // sums go to C as they are
  bool stream;              // the panel is the outermost loop
  const float* row_scales;  // of a quantized A
  bool scaled;              // the tile applies them
};

// Rows of a panel that hold k elements of k.
template <class A, class B>
SEQLOOM_ALWAYS_INLINE int64_t panel_rows(int64_t k) {
  return ceil_div(k, Step<A, B>::kK);
}

// One task's block of C: rows [i0, i1) by panels [p0, p1).
template <class A, class B>
struct Block {
  const Job<A, B>& job;
  int64_t batch, i0, i1, p0, p1;
  int64_t j0, width;  // first column, columns including the last panel's padding
  B* packed;          // kPack, kWiden: this block of k
  bool many;          // more than one block of k
  bool sums_in_c;     // sums rest in C between blocks of k
  float* sums;        // of the block; of one tile where neither `many` nor `sums_in_c`
  int64_t ld_sums;

  SEQLOOM_ALWAYS_INLINE int64_t strips() const { return ceil_div(i1 - i0, kMR); }
};

// Strip s of A by panel p, for k in [k0, k0 + kc).
template <class A, class B>
SEQLOOM_ALWAYS_INLINE void run_strip(const Block<A, B>& block, int64_t s, int64_t p, int64_t k0,
                                     int64_t kc) {
  const Job<A, B>& job = block.job;
  const GemmArgs& g = job.g;
  const int64_t rows = block.i1 - block.i0, strips = block.strips();
  const int64_t i = s * rows / strips, mr = (s + 1) * rows / strips - i;
  const int64_t j = job.map.begin(p), w = job.map.width(p), live = min(w, g.n - j);
  const int vectors = static_cast<int>(w / kLanes);
  const int last = static_cast<int>(live - (w - kLanes));
  TileCall t;
  t.k = kc;
  t.a = job.a + block.batch * job.a_batch + (block.i0 + i) * job.lda + k0;
  t.lda = job.lda;
  t.ldb = w;
  t.last = block.sums_in_c ? last : kLanes;
  t.ldc = block.ld_sums;
  t.c = block.sums_in_c || block.many ? block.sums + i * t.ldc + (j - block.j0) : block.sums;
  t.accumulate = k0 > 0 || (job.plain && g.beta == 1.0);
  t.b_sums = sizeof(A) == 1 ? g.packed_b->sums + j : nullptr;
  t.row_scales = job.scaled ? job.row_scales + block.i0 + i : nullptr;
  t.column_scales = job.scaled ? g.packed_b->scales + j : nullptr;
  t.bias = job.scaled && g.bias ? static_cast<const float*>(g.bias) + j : nullptr;
  TileFn tile = nullptr;
  if (job.feed == Feed::kInPlace) {
    if constexpr (kCanBeInPlace<A, B>) {
      const B* b = job.b + block.batch * g.b_batch + k0 * g.ldb + j;
      t.b = b;
      t.ldb = g.ldb;
      t.ahead = {reinterpret_cast<const char*>(b + 2 * kNR), g.ldb * int64_t{sizeof(B)}};
      t.last = last;
      if (last < kLanes) tile = find_tile<A, B, true>(static_cast<int>(mr), vectors);
    }
  } else {
    const int64_t used = panel_rows<A, B>(kc);
    const B* b = job.feed == Feed::kPacked
                     ? job.b + j * panel_rows<A, B>(g.k) + k0 / Step<A, B>::kK * w
                     : block.packed + (j - block.j0) * used;
    t.b = b;
    t.ahead = rows_ahead(b, w);
    if (job.stream && strips > 1) {
      t.ahead.at = reinterpret_cast<const char*>(b + used * w + s * used / strips * w);
      t.ahead.step = w * int64_t{sizeof(B)} / strips;
    }
  }
  if (!tile) tile = find_tile<A, B, false>(static_cast<int>(mr), vectors);
  tile(t);
  if (k0 + kc == g.k && !job.plain && !job.scaled)
    finish_tile(g, block.batch, block.i0 + i, mr, j, live, t.c, t.ldc,
                job.row_scales ? job.row_scales + block.i0 + i : nullptr,
                job.row_scales ? g.packed_b->scales : nullptr);
}

template <class A, class B>
SEQLOOM_NOINLINE void run_block(const Job<A, B>& job, int64_t batch, int64_t i0, int64_t i1,
                                int64_t p0, int64_t p1) {
  const GemmArgs& g = job.g;
  Block<A, B> block{job, batch,   i0,    i1,    p0,      p1, job.map.begin(p0),
                    0,   nullptr, false, false, nullptr, 0};
  block.width = job.map.begin(p1) - block.j0;
  block.many = job.kc < g.k;
  block.sums_in_c = g.c_type == DType::kFloat32 && (job.plain || g.beta == 0.0);
  const int64_t rows = i1 - i0;
  const bool buffered = job.feed == Feed::kPack || job.feed == Feed::kWiden;
  const int64_t packed = buffered ? panel_rows<A, B>(job.kc) * block.width : 0;
  const int64_t spare = block.sums_in_c ? 0 : block.many ? rows * block.width : int64_t{kMR} * kNR;
  const cpu::Scratch scratch((packed + spare) * sizeof(float));
  float* const buffer = scratch.as<float>();
  block.packed = reinterpret_cast<B*>(buffer);
  block.sums = buffer + packed;
  block.ld_sums = block.many ? block.width : kNR;
  if (block.sums_in_c) {
    block.sums = static_cast<float*>(g.c) + batch * g.c_batch + i0 * g.ldc + block.j0;
    block.ld_sums = g.ldc;
  }

  if (job.stream) {
    for (int64_t p = p0; p < p1; ++p)
      for (int64_t k0 = 0; k0 == 0 || k0 < g.k; k0 += job.kc)
        for (int64_t s = 0; s < block.strips(); ++s)
          run_strip(block, s, p, k0, min(job.kc, g.k - k0));
    return;
  }
  for (int64_t k0 = 0; k0 == 0 || k0 < g.k; k0 += job.kc) {
    const int64_t kc = min(job.kc, g.k - k0);
    if constexpr (sizeof(A) > 1 && sizeof(B) == 4) {
      if (job.feed == Feed::kPack)
        pack_panels({g.b, g.b_type, g.ldb, g.trans_b}, job.map, batch * g.b_batch, k0, kc, p0, p1,
                    Step<A, B>::kK, block.packed);
    }
    if constexpr (std::is_same_v<B, float>) {
      if (job.feed == Feed::kWiden)
        for (int64_t p = p0; p < p1; ++p)
          widen_panel(*g.packed_b, k0, kc, job.map.begin(p), job.map.width(p),
                      block.packed + (job.map.begin(p) - block.j0) * kc);
    }
    for (int64_t s = 0; s < block.strips(); ++s)
      for (int64_t p = p0; p < p1; ++p) run_strip(block, s, p, k0, kc);
  }
}

// Cuts C into tasks. The cut follows from the shape alone, and no element's bits follow from it.
template <class A, class B>
void run_blocks(const Job<A, B>& job) {
  const GemmArgs& g = job.g;
  const int64_t panels = job.map.panels;
  const int64_t total = g.m * g.n * max<int64_t>(g.k, 1);
  const int64_t limit = max<int64_t>(1, total / kTaskWork);  // tasks for one product of the batch
  const bool buffered = job.feed == Feed::kPack || job.feed == Feed::kWiden;
  // Fewer columns where kc is long, for kc x columns to stay in L2.
  const int64_t depth = panel_rows<A, B>(job.kc) * int64_t{sizeof(B)};
  const int64_t columns =
      g.m <= kMR ? kBlockColumns : min(kBlockColumns, kBlockBytes / max<int64_t>(1, depth));
  const int64_t wanted = ceil_div(panels, max<int64_t>(1, columns / (job.map.widest * kLanes)));
  // Long blocks of rows share what was packed, but every thread needs one.
  const bool few = g.batch * wanted * ceil_div(g.m, 1024) < 4;
  const int64_t row_blocks = min(ceil_div(g.m, buffered && !few ? 1024 : 256), limit);
  const int64_t column_blocks = min(wanted, max<int64_t>(1, limit / row_blocks));
  const int64_t tasks = g.batch * row_blocks * column_blocks;
  const auto run = [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t r = t % row_blocks, c = t / row_blocks % column_blocks;
      const int64_t batch = t / (row_blocks * column_blocks);
      run_block(job, batch, r * g.m / row_blocks, (r + 1) * g.m / row_blocks,
                c * panels / column_blocks, (c + 1) * panels / column_blocks);
    }
  };
  if (tasks == 1) return run(0, 1);
  const int64_t work = total / (row_blocks * column_blocks);
  cpu::parallel_for(tasks, max<int64_t>(1, kTaskWork / max<int64_t>(work, 1)), run);
}

template <class A, class B>
void run_product(const GemmArgs& g, const A* a, int64_t lda, int64_t a_batch, Feed feed, const B* b,
                 const float* row_scales = nullptr) {
  constexpr int64_t kStep = Step<A, B>::kK;
  const bool stream = feed == Feed::kPacked && g.m <= kStreamRows;
  // In place few rows of B are swept across all columns, page by page.
  const int64_t limit = (feed == Feed::kInPlace ? 64 : 384) * kStep;
  int64_t kc = max<int64_t>(g.k, 1);
  const bool whole = (stream && g.m <= kMR) || sizeof(A) == 1;  // integer sums are not split
  if (kc > limit && !whole) kc = ceil_div(ceil_div(kc, ceil_div(kc, limit)), 16) * 16;
  const bool plain = epilogue_is_plain(g) && !row_scales;
  const bool scaled = row_scales && epilogue_is_bias(g);
  const PanelMap map = g.packed_b ? panel_map(g.packed_b->format, g.n) : PanelMap(g.n);
  run_blocks(Job<A, B>{g, a, lda, a_batch, feed, b, map, kc, plain, stream, row_scales, scaled});
}

}  // namespace seqloom::SEQLOOM_ISA_NS
