// SPDX-License-Identifier: Apache-2.0
// Kernels that work on rows of 1 to millions of columns, each read once and written once.
//
// A row is cut into 16-byte chunks, and chunk c belongs to thread c modulo the team. Between the
// passes over a row every thread keeps its own chunks, so that passes need no barrier beside those
// of their reductions. Who works on a row together, and where it is kept, depends on its length:
//
//   up to   2 KB   1 to 32 lanes of a warp        four chunks a thread in registers
//   up to  16 KB   a block of up to 256 threads   four chunks a thread in registers
//   up to  64 KB   a block of up to 512 threads   eight chunks a thread in shared memory, copied
//                                                 there asynchronously (sm_80)
//   longer         a cluster of 2 to 8 blocks     the same; the blocks exchange their sums through
//                  of up to 1024 threads (sm_90)  distributed shared memory
//
// On devices without clusters (sm_75 to sm_89) long rows have one block. What a thread cannot keep
// is read again in every pass: there rows above the shared memory that a block may have (64 KB on
// sm_75, 99 to 163 KB on sm_80 to sm_89), with clusters those above eight times it (1.8 MB on
// sm_90, 0.8 MB on sm_120). Few rows are spread over more blocks than their length asks for.
//
// Chunks lie at aligned addresses of the output, whatever the length and the alignment of rows: the
// first and the last chunk of a row may be partial, and are accessed by elements. So is an input
// whose rows are aligned otherwise.
#pragma once

#include "cuda/gpu.h"
#include "cuda/half_types.h"
#include "cuda/reduce.h"
#include "cuda/vector_access.h"

namespace seqloom::cuda {

constexpr int kRowChunks = 4;  // that a thread keeps in registers
constexpr int kRegisterRowThreads = 256;
constexpr int kSharedRowThreads = 1024;
constexpr int kMaxClusterBlocks = 8;

// How rows are shared out: chosen by plan_rows, given to the kernel.
struct RowLayout {
  int64_t rows, n;
  int lanes;   // of a warp that share a row; 32 where whole warps do
  int warps;   // that share a row, in one block
  int blocks;  // that share a row: a cluster
  int kept;    // chunks of each array that a thread keeps in shared memory
  bool async;  // whether the device copies to shared memory asynchronously (sm_80)
};

// Shared memory of a team's reductions.
struct RowScratch {
  float2 warps[2][32];
  float2 blocks[2][kMaxClusterBlocks];
};

// Pairs are reduced: two sums at once, or a maximum and a sum that belongs to it.
struct PairSum {
  SEQLOOM_DEVICE static float2 identity() { return make_float2(0.f, 0.f); }
  SEQLOOM_DEVICE static float2 combine(float2 a, float2 b) {
    return make_float2(a.x + b.x, a.y + b.y);
  }
};
// x = max x_i, y = sum exp(x_i - x). Nothing but -inf gives (-inf, 0); +inf and NaN make y NaN.
struct MaxAndExpSum {
  SEQLOOM_DEVICE static float2 identity() { return make_float2(-INFINITY, 0.f); }
  // What to subtract for a maximum m, so that -inf minus itself does not make NaN of nothing.
  SEQLOOM_DEVICE static float shift(float m) { return m == -INFINITY ? 0.f : m; }
  SEQLOOM_DEVICE static float2 combine(float2 a, float2 b) {
    const float m = fmaxf(a.x, b.x);
    return make_float2(m, a.y * expf(a.x - shift(m)) + b.y * expf(b.x - shift(m)));
  }
};

// Adds the elements of v to a running maximum and sum.
template <int kWidth>
SEQLOOM_DEVICE void add_exponentials(const float (&v)[kWidth], float2& total) {
  float m = total.x;
#pragma unroll
  for (int k = 0; k < kWidth; ++k) m = fmaxf(m, v[k]);
  const float shift = MaxAndExpSum::shift(m);
  float s = total.y * expf(total.x - shift);
#pragma unroll
  for (int k = 0; k < kWidth; ++k) s += expf(v[k] - shift);
  total = make_float2(m, s);
}

// The threads that share a row. kShared: a block or a cluster, else at most a block, perhaps with
// several rows.
template <bool kShared>
struct RowTeam {
  int64_t row;
  bool live;       // false for teams beyond the last row, which only take part in barriers
  int rank, size;  // this thread among those of the row

  SEQLOOM_DEVICE RowTeam(const RowLayout& layout, RowScratch* scratch SEQLOOM_SITE)
      : lanes_(layout.lanes), warps_(layout.warps), blocks_(layout.blocks), scratch_(scratch) {
    const int thread = static_cast<int>(threadIdx.x);
    if (kShared && blocks_ > 1) ptx::cluster_arrive(SEQLOOM_PASS_SITE_ONLY);
    if (kShared) {
      row = blockIdx.x / static_cast<unsigned>(blocks_);
      block_ = blocks_ > 1 ? static_cast<int>(ptx::cluster_rank()) : 0;
      rank = block_ * static_cast<int>(blockDim.x) + thread;
      size = blocks_ * static_cast<int>(blockDim.x);
    } else {
      size = lanes_ * warps_;
      row =
          static_cast<int64_t>(blockIdx.x) * (static_cast<int>(blockDim.x) / size) + thread / size;
      rank = thread % size;
    }
    live = row < layout.rows;
  }

  // The value of all threads of the row, to all of them; a barrier of the row, as sync() is. Every
  // thread must call it.
  template <class Op>
  SEQLOOM_DEVICE float2 reduce(float2 value SEQLOOM_SITE) {
    value = fold<Op>(value, lanes_ SEQLOOM_PASS_SITE);
    turn_ ^= 1;  // two buffers take turns, so that one barrier separates reading from writing again
    if (warps_ > 1) {
      float2* parts = scratch_->warps[turn_];
      if (lane_index() == 0) parts[warp_index()] = value;
      __syncthreads(SEQLOOM_PASS_SITE_ONLY);
      value = lane_index() < warps_ ? parts[lane_index()] : Op::identity();
      value = fold<Op>(value, 32 SEQLOOM_PASS_SITE);
    } else {
      __syncwarp(kFullWarp SEQLOOM_PASS_SITE);  // shuffles order no memory
    }
    if (kShared && blocks_ > 1) {
      if (!met_) {  // every block has started: its shared memory may be written
        ptx::cluster_wait(SEQLOOM_PASS_SITE_ONLY);
        met_ = true;
      }
      float2* parts = scratch_->blocks[turn_];
      if (static_cast<int>(threadIdx.x) < blocks_)
        *ptx::map_to_rank(&parts[block_], threadIdx.x SEQLOOM_PASS_SITE) = value;
      ptx::cluster_sync(SEQLOOM_PASS_SITE_ONLY);
      const int b = lane_index() % kMaxClusterBlocks;
      value = b < blocks_ ? parts[b] : Op::identity();
      value = fold<Op>(value, kMaxClusterBlocks SEQLOOM_PASS_SITE);
    }
    return value;
  }
  SEQLOOM_DEVICE float sum(float value SEQLOOM_SITE) {
    return reduce<PairSum>(make_float2(value, 0.f) SEQLOOM_PASS_SITE).x;
  }
  // What all threads of the row did before comes before what they do next. A kernel without a
  // reduction must call it: no block may end before its cluster has met.
  SEQLOOM_DEVICE void sync(SEQLOOM_SITE_ONLY) {
    if (kShared && blocks_ > 1) {
      if (!met_) ptx::cluster_wait(SEQLOOM_PASS_SITE_ONLY);
      met_ = true;
      ptx::cluster_sync(SEQLOOM_PASS_SITE_ONLY);
    } else if (warps_ > 1) {
      __syncthreads(SEQLOOM_PASS_SITE_ONLY);
    } else {
      __syncwarp(kFullWarp SEQLOOM_PASS_SITE);
    }
  }

 private:
  // Over groups of `width` lanes. Both partners combine in the same order, or their bits differ.
  template <class Op>
  SEQLOOM_DEVICE static float2 fold(float2 value, int width SEQLOOM_SITE) {
    for (int offset = width >> 1; offset > 0; offset >>= 1) {
      float2 other;
      other.x = __shfl_xor_sync(kFullWarp, value.x, offset, 32 SEQLOOM_PASS_SITE);
      other.y = __shfl_xor_sync(kFullWarp, value.y, offset, 32 SEQLOOM_PASS_SITE);
      value = (lane_index() & offset) ? Op::combine(other, value) : Op::combine(value, other);
    }
    return value;
  }

  int lanes_, warps_, blocks_, block_ = 0, turn_ = 0;
  bool met_ = false;
  RowScratch* scratch_;
};

// One chunk of a row: elements [first, first + width), of which [lo, hi) belong to the row.
struct RowChunk {
  int64_t first;
  int lo, hi;
  bool full;
};

// The chunks of one row, as its output lies.
template <class T>
struct RowChunks {
  static constexpr int kWidth = kVectorWidth<T>;
  int64_t n, count;
  int phase;  // elements between the aligned address and the row's first

  SEQLOOM_DEVICE RowChunks(const T* out, int64_t n_)
      : n(n_), phase(static_cast<int>((reinterpret_cast<std::uintptr_t>(out) & 15) / sizeof(T))) {
    count = n == 0 ? 0 : (n + phase + kWidth - 1) / kWidth;
  }
  SEQLOOM_DEVICE RowChunk at(int64_t c) const {
    RowChunk r;
    r.first = c * kWidth - phase;
    r.lo = r.first < 0 ? static_cast<int>(-r.first) : 0;
    r.hi = n - r.first < kWidth ? static_cast<int>(n - r.first) : kWidth;
    r.full = r.lo == 0 && r.hi == kWidth;
    return r;
  }
};

// A row of an input or output; `vector`: its chunks can be accessed whole.
template <class T>
struct RowPointer {
  T* p;
  bool vector;
};
template <class T>
SEQLOOM_DEVICE RowPointer<T> row_of(T* p, int phase) {
  const int own = static_cast<int>((reinterpret_cast<std::uintptr_t>(p) & 15) / sizeof(T));
  return {p, own == phase};
}

template <class T>
SEQLOOM_DEVICE uint4 read_chunk(const RowPointer<const T>& row, const RowChunk& c) {
  if (c.full && row.vector) return *reinterpret_cast<const uint4*>(row.p + c.first);
  T values[kVectorWidth<T>];
#pragma unroll
  for (int k = 0; k < kVectorWidth<T>; ++k)
    values[k] = k >= c.lo && k < c.hi ? row.p[c.first + k] : from_float<T>(0.f);
  uint4 raw;
  memcpy(&raw, static_cast<const void*>(values), 16);
  return raw;
}

// v = the chunk's elements; those outside the row become `fill`.
template <class T>
SEQLOOM_DEVICE void unpack_chunk(const uint4& raw, const RowChunk& c, float fill,
                                 float (&v)[kVectorWidth<T>]) {
  detail::unpack16<T>(raw, v);
  if (c.full) return;
#pragma unroll
  for (int k = 0; k < kVectorWidth<T>; ++k)
    if (k < c.lo || k >= c.hi) v[k] = fill;
}

template <class T>
SEQLOOM_DEVICE void write_chunk(const RowPointer<T>& row, const RowChunk& c,
                                const float (&v)[kVectorWidth<T>]) {
  const uint4 raw = detail::pack16<T>(v);
  if (c.full && row.vector) {
    *reinterpret_cast<uint4*>(row.p + c.first) = raw;
    return;
  }
#pragma unroll
  for (int k = 0; k < kVectorWidth<T>; ++k)
    if (k >= c.lo && k < c.hi) row.p[c.first + k] = from_float<T>(v[k]);
}

// f(j, chunk) for each chunk of this thread, its j-th.
template <bool kShared, class T, class F>
SEQLOOM_DEVICE void over_chunks(const RowTeam<kShared>& team, const RowChunks<T>& chunks,
                                const F& f) {
  if constexpr (kShared) {
    int j = 0;
    for (int64_t c = team.rank; c < chunks.count; c += team.size) f(j++, chunks.at(c));
  } else {
#pragma unroll
    for (int j = 0; j < kRowChunks; ++j) {
      const int64_t c = team.rank + j * team.size;
      if (c < chunks.count) f(j, chunks.at(c));
    }
  }
}

// Shared memory of `threads` threads that keep chunks of `arrays` arrays there.
SEQLOOM_DEVICE int kept_bytes(const RowLayout& layout, int arrays, int threads) {
  return layout.kept * arrays * threads * 16;
}

// What a thread keeps of a row: its chunks of kArrays arrays.
template <class T, bool kShared, int kArrays>
class KeptRow {
 public:
  SEQLOOM_DEVICE KeptRow(const RowLayout& layout, unsigned char* memory)
      : slots_(reinterpret_cast<uint4*>(memory)), kept_(layout.kept), async_(layout.async) {}

  // Begins to read chunk j of array a; wait() before the first get.
  SEQLOOM_DEVICE void fetch(int a, int j, const RowPointer<const T>& row,
                            const RowChunk& c SEQLOOM_SITE) {
    if constexpr (kShared) {
      if (j >= kept_) return;
      if (async_ && c.full && row.vector)
        ptx::cp_async_16(ptx::shared_address(slot(a, j) SEQLOOM_PASS_SITE), row.p + c.first,
                         16 SEQLOOM_PASS_SITE);
      else
        *slot(a, j) = read_chunk<T>(row, c);
    } else {
      registers_[a][j] = read_chunk<T>(row, c);
    }
  }
  SEQLOOM_DEVICE void wait(SEQLOOM_SITE_ONLY) const {
    if constexpr (kShared) {
      if (!async_) return;
      ptx::cp_async_commit();
      ptx::cp_async_wait<0>(SEQLOOM_PASS_SITE_ONLY);
    }
  }
  SEQLOOM_DEVICE void get(int a, int j, const RowPointer<const T>& row, const RowChunk& c,
                          float fill, float (&v)[kVectorWidth<T>]) const {
    if constexpr (kShared)
      unpack_chunk<T>(j < kept_ ? *slot(a, j) : read_chunk<T>(row, c), c, fill, v);
    else
      unpack_chunk<T>(registers_[a][j], c, fill, v);
  }
  // Replaces a chunk by v, rounded to T. A chunk that does not fit must be in memory by itself.
  SEQLOOM_DEVICE void put(int a, int j, const float (&v)[kVectorWidth<T>]) {
    if constexpr (kShared) {
      if (j < kept_) *slot(a, j) = detail::pack16<T>(v);
    } else {
      registers_[a][j] = detail::pack16<T>(v);
    }
  }

 private:
  // Neighbouring threads, neighbouring banks.
  SEQLOOM_DEVICE uint4* slot(int a, int j) const {
    return slots_ + (a * kept_ + j) * static_cast<int>(blockDim.x) + static_cast<int>(threadIdx.x);
  }
  uint4* slots_;
  int kept_;
  bool async_;
  uint4 registers_[kShared ? 1 : kArrays][kShared ? 1 : kRowChunks];
};

// ---- on the host
// ---------------------------------------------------------------------------------

// `out`: rows of n elements of `bytes` bytes each. `arrays` of its size are kept.
struct RowPlan {
  RowLayout layout;
  LaunchConfig config;
  bool shared;
};
inline RowPlan plan_rows(const void* out, int64_t rows, int64_t n, int bytes, int arrays) {
  const auto& device = current_device_properties();
  const int64_t width = 16 / bytes;
  const bool aligned =
      (n * bytes | static_cast<int64_t>(reinterpret_cast<std::uintptr_t>(out))) % 16 == 0;
  const int64_t chunks = aligned ? n / width : (n + 2 * width - 2) / width;
  const auto ceil_div = [](int64_t a, int64_t b) { return (a + b - 1) / b; };
  RowPlan plan{};
  RowLayout& l = plan.layout;
  l.rows = rows;
  l.n = n;
  l.lanes = 32;
  l.warps = l.blocks = 1;
  plan.shared = chunks > kRegisterRowThreads * kRowChunks;
  int threads = 128;
  int64_t rows_a_block = 1;
  if (chunks <= 32 * kRowChunks) {
    while (l.lanes > 1 && l.lanes / 2 >= chunks) l.lanes /= 2;
    rows_a_block = threads / l.lanes;
  } else if (!plan.shared) {
    l.warps = static_cast<int>(ceil_div(chunks, 32 * kRowChunks));
    threads = 32 * l.warps;
  } else {
    const int64_t row_bytes = chunks * 16 * arrays;
    const auto spread = [&](int64_t least) {
      return l.blocks < kMaxClusterBlocks && row_bytes / l.blocks > least;
    };
    if (device.capability() >= 90) {
      while (spread(64 << 10)) l.blocks *= 2;
      while (spread(16 << 10) && rows * l.blocks * 2 <= device.multiprocessors) l.blocks *= 2;
    }
    const int64_t share = ceil_div(chunks, l.blocks);
    l.warps = static_cast<int>(ceil_div(share * arrays, 32 * 8));
    if (l.warps > kSharedRowThreads / 32) l.warps = kSharedRowThreads / 32;
    threads = 32 * l.warps;
    const int64_t room = static_cast<int64_t>(device.shared_bytes_per_block) - 2048;
    const int64_t fits = room / (static_cast<int64_t>(threads) * 16 * arrays);
    const int64_t wanted = ceil_div(share, threads);
    l.kept = static_cast<int>(wanted < fits ? wanted : fits);
    l.async = device.capability() >= 80;
    plan.config.shared_bytes = static_cast<std::size_t>(l.kept) * arrays * threads * 16;
    plan.config.cluster = dim3(static_cast<unsigned>(l.blocks));
  }
  plan.config.block = dim3(static_cast<unsigned>(threads));
  plan.config.grid = dim3(static_cast<unsigned>(ceil_div(rows, rows_a_block) * l.blocks));
  return plan;
}

}  // namespace seqloom::cuda
