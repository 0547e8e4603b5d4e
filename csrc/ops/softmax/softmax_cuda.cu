// SPDX-License-Identifier: Apache-2.0
// softmax and log_softmax on CUDA.
//
// Last axis: cuda/row_team.h; a row is read once, kept, and written once. One pass over what is
// kept gives the maximum and the sum of exponentials, which each thread carries along and rescales
// when it meets a larger value; one reduction makes them the row's.
//
// Other axes: 1 to 32 threads share a column by the length of the axis, side by side with those of
// its neighbours: 128 bytes of them where columns can be read 16 bytes at a time. Each thread keeps
// what it has read in shared memory, so that up to some 1,500 elements of the axis are read once;
// only what is beyond is read again.
#include "cuda/row_team.h"
#include "cuda/rows.h"
#include "ops/softmax/softmax.h"

namespace seqloom::ops {
namespace {

using cuda::MaxAndExpSum;

template <class T, bool kShared>
__global__ void __launch_bounds__(kShared ? cuda::kSharedRowThreads : cuda::kRegisterRowThreads)
    forward_rows(cuda::RowLayout layout, const T* x, T* y, bool log) {
  SHARED_ARRAY(cuda::RowScratch, scratch, [1]);
  DYNAMIC_SHARED(memory, 16);
  constexpr int kWidth = cuda::kVectorWidth<T>;
  cuda::RowTeam<kShared> team(layout, scratch);
  cuda::KeptRow<T, kShared, 1> kept(layout, memory);
  const cuda::RowChunks<T> chunks(y + team.row * layout.n, team.live ? layout.n : 0);
  const auto in = cuda::row_of(x + team.row * layout.n, chunks.phase);
  const auto out = cuda::row_of(y + team.row * layout.n, chunks.phase);
  cuda::over_chunks(team, chunks, [&](int j, const cuda::RowChunk& c) { kept.fetch(0, j, in, c); });
  kept.wait();

  float v[kWidth];
  float2 total = MaxAndExpSum::identity();
  cuda::over_chunks(team, chunks, [&](int j, const cuda::RowChunk& c) {
    kept.get(0, j, in, c, -INFINITY, v);
    cuda::add_exponentials(v, total);
  });
  total = team.template reduce<MaxAndExpSum>(total);
  const float m = total.x, factor = 1.f / total.y, offset = logf(total.y);
  cuda::over_chunks(team, chunks, [&](int j, const cuda::RowChunk& c) {
    kept.get(0, j, in, c, 0.f, v);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) v[k] = log ? v[k] - m - offset : expf(v[k] - m) * factor;
    cuda::write_chunk(out, c, v);
  });
}

template <class T, bool kShared>
__global__ void __launch_bounds__(kShared ? cuda::kSharedRowThreads : cuda::kRegisterRowThreads)
    backward_rows(cuda::RowLayout layout, const T* dy, const T* y, T* dx, bool log) {
  SHARED_ARRAY(cuda::RowScratch, scratch, [1]);
  DYNAMIC_SHARED(memory, 16);
  constexpr int kWidth = cuda::kVectorWidth<T>;
  cuda::RowTeam<kShared> team(layout, scratch);
  cuda::KeptRow<T, kShared, 2> kept(layout, memory);
  const cuda::RowChunks<T> chunks(dx + team.row * layout.n, team.live ? layout.n : 0);
  const auto gradient = cuda::row_of(dy + team.row * layout.n, chunks.phase);
  const auto result = cuda::row_of(y + team.row * layout.n, chunks.phase);
  const auto out = cuda::row_of(dx + team.row * layout.n, chunks.phase);
  cuda::over_chunks(team, chunks, [&](int j, const cuda::RowChunk& c) {
    kept.fetch(0, j, gradient, c);
    kept.fetch(1, j, result, c);
  });
  kept.wait();

  float g[kWidth], v[kWidth];
  float dot = 0.f;
  cuda::over_chunks(team, chunks, [&](int j, const cuda::RowChunk& c) {
    kept.get(0, j, gradient, c, 0.f, g);
    if (!log) kept.get(1, j, result, c, 0.f, v);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) dot += log ? g[k] : g[k] * v[k];
  });
  dot = team.sum(dot);
  cuda::over_chunks(team, chunks, [&](int j, const cuda::RowChunk& c) {
    kept.get(0, j, gradient, c, 0.f, g);
    kept.get(1, j, result, c, 0.f, v);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) g[k] = log ? g[k] - expf(v[k]) * dot : v[k] * (g[k] - dot);
    cuda::write_chunk(out, c, g);
  });
}

constexpr int kTileThreads = 256;
constexpr int kTileWarps = kTileThreads / 32;

// kWidth neighbouring columns a thread: 16 bytes, or one. kAcross threads lie side by side.
template <int kWidth>
constexpr int kAcross = kWidth > 1 ? 8 : 32;

// How columns are shared out.
struct ColumnLayout {
  int64_t columns, n, inner;  // columns: outer times inner
  int down;                   // threads of a column: a power of two
  int kept;                   // rows of a thread in shared memory
};

// The columns of a thread and what it keeps of each array.
template <class T, int kWidth>
struct ColumnTeam {
  int64_t base;  // of the thread's first column, in elements
  int64_t rows;  // n, or 0 beyond the last column, where threads only take part in barriers
  int row;       // the first of this thread's rows, which are `down` apart

  SEQLOOM_DEVICE ColumnTeam(const ColumnLayout& layout, unsigned char* memory)
      : row(static_cast<int>(threadIdx.x) / kAcross<kWidth> % layout.down),
        kept_(layout.kept),
        memory_(memory) {
    const int size = kAcross<kWidth> * layout.down, thread = static_cast<int>(threadIdx.x);
    const int64_t tile = static_cast<int64_t>(blockIdx.x) * (kTileThreads / size) + thread / size;
    const int64_t column = (tile * kAcross<kWidth> + thread % kAcross<kWidth>)*kWidth;
    base = column + column / layout.inner * (layout.n - 1) * layout.inner;
    rows = column < layout.columns ? layout.n : 0;
  }
  // The thread's columns in its j-th row, at `at`, which are kept the `first` time.
  SEQLOOM_DEVICE void get(const T* p, int64_t at, int array, int j, bool first,
                          float (&v)[kWidth]) const {
    T raw[kWidth];
    using Word = std::conditional_t<(kWidth > 1), uint4, T>;
    unsigned char* const slot =
        memory_ + ((static_cast<int64_t>(array) * kept_ + j) * kTileThreads + threadIdx.x) *
                      static_cast<int>(sizeof(raw));
    const bool keeps = j < kept_;
    const Word word = keeps && !first ? *reinterpret_cast<const Word*>(slot)
                                      : *reinterpret_cast<const Word*>(p + at);
    if (keeps && first) *reinterpret_cast<Word*>(slot) = word;
    memcpy(static_cast<void*>(raw), &word, sizeof(raw));
#pragma unroll
    for (int k = 0; k < kWidth; ++k) v[k] = cuda::to_float(raw[k]);
  }
  SEQLOOM_DEVICE static void put(T* p, int64_t at, const float (&v)[kWidth]) {
    if constexpr (kWidth > 1) {
      cuda::store_vector(p + at, v);
    } else {
      p[at] = cuda::from_float<T>(v[0]);
    }
  }

 private:
  int kept_;
  unsigned char* memory_;
};

// A warp's part of each of its columns.
template <int kWidth>
using ColumnParts = float2[kAcross<kWidth> * kWidth];

// The values of all rows of each column, to all of its threads. Warps are combined in order.
template <class Op, int kWidth>
SEQLOOM_DEVICE void reduce_columns(float2 (&value)[kWidth], int down, ColumnParts<kWidth>* parts) {
  constexpr int across = kAcross<kWidth>;
  const int lane = cuda::lane_index(), column = lane % across * kWidth;
  const int warps = across * down / 32;  // of a team; 0 or 1 where it is in one warp
#pragma unroll
  for (int k = 0; k < kWidth; ++k) {
    for (int offset = across; offset < 32 && offset < across * down; offset <<= 1) {
      float2 other;
      other.x = __shfl_xor_sync(cuda::kFullWarp, value[k].x, offset);
      other.y = __shfl_xor_sync(cuda::kFullWarp, value[k].y, offset);
      value[k] = (lane & offset) ? Op::combine(other, value[k]) : Op::combine(value[k], other);
    }
    if (warps > 1 && lane < across) parts[cuda::warp_index()][column + k] = value[k];
  }
  if (warps <= 1) return;
  __syncthreads();
  const int first = cuda::warp_index() / warps * warps;
#pragma unroll
  for (int k = 0; k < kWidth; ++k) {
    value[k] = parts[first][column + k];
    for (int w = 1; w < warps; ++w) value[k] = Op::combine(value[k], parts[first + w][column + k]);
  }
}

template <class T, int kWidth>
__global__ void __launch_bounds__(kTileThreads)
    forward_columns(ColumnLayout layout, const T* x, T* y, bool log) {
  SHARED_ARRAY(float2, parts, [kTileWarps][kAcross<kWidth> * kWidth]);
  DYNAMIC_SHARED(memory, 16);
  const ColumnTeam<T, kWidth> team(layout, memory);
  constexpr int kAtOnce = 4;
  const int64_t rows = team.rows, inner = layout.inner;
  const int down = layout.down;
  float2 total[kWidth];
  float v[kWidth];
#pragma unroll
  for (int k = 0; k < kWidth; ++k) total[k] = cuda::MaxAndExpSum::identity();
  for (int64_t i = team.row, j = 0; i < rows; i += kAtOnce * down, j += kAtOnce) {
    float several[kWidth][kAtOnce];
#pragma unroll
    for (int q = 0; q < kAtOnce; ++q) {
      const bool inside = i + q * down < rows;
      if (inside)
        team.get(x, team.base + (i + q * down) * inner, 0, static_cast<int>(j) + q, true, v);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) several[k][q] = inside ? v[k] : -INFINITY;
    }
#pragma unroll
    for (int k = 0; k < kWidth; ++k) cuda::add_exponentials(several[k], total[k]);
  }
  reduce_columns<cuda::MaxAndExpSum>(total, down, parts);
#pragma unroll
  for (int k = 0; k < kWidth; ++k) total[k].y = log ? logf(total[k].y) : 1.f / total[k].y;
  for (int64_t i = team.row, j = 0; i < rows; i += down, ++j) {
    const int64_t at = team.base + i * inner;
    team.get(x, at, 0, static_cast<int>(j), false, v);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      const float d = v[k] - total[k].x;
      v[k] = log ? d - total[k].y : expf(d) * total[k].y;
    }
    team.put(y, at, v);
  }
}

template <class T, int kWidth>
__global__ void __launch_bounds__(kTileThreads)
    backward_columns(ColumnLayout layout, const T* dy, const T* y, T* dx, bool log) {
  SHARED_ARRAY(float2, parts, [kTileWarps][kAcross<kWidth> * kWidth]);
  DYNAMIC_SHARED(memory, 16);
  const ColumnTeam<T, kWidth> team(layout, memory);
  const int64_t rows = team.rows, inner = layout.inner;
  const int down = layout.down;
  float2 dot[kWidth];
  float g[kWidth], v[kWidth];
#pragma unroll
  for (int k = 0; k < kWidth; ++k) dot[k] = make_float2(0.f, 0.f);
  for (int64_t i = team.row, j = 0; i < rows; i += down, ++j) {
    const int64_t at = team.base + i * inner;
    team.get(dy, at, 0, static_cast<int>(j), true, g);
    team.get(y, at, 1, static_cast<int>(j), true, v);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) dot[k].x += log ? g[k] : g[k] * v[k];
  }
  reduce_columns<cuda::PairSum>(dot, down, parts);
  for (int64_t i = team.row, j = 0; i < rows; i += down, ++j) {
    const int64_t at = team.base + i * inner;
    team.get(dy, at, 0, static_cast<int>(j), false, g);
    team.get(y, at, 1, static_cast<int>(j), false, v);
#pragma unroll
    for (int k = 0; k < kWidth; ++k)
      g[k] = log ? g[k] - expf(v[k]) * dot[k].x : v[k] * (g[k] - dot[k].x);
    team.put(dx, at, g);
  }
}

struct ColumnPlan {
  ColumnLayout layout;
  cuda::LaunchConfig config;
};
template <class T, int kWidth>
ColumnPlan plan_columns(int64_t outer, int64_t n, int64_t inner, int arrays) {
  constexpr int64_t kColumns = kAcross<kWidth> * kWidth;
  const auto ceil_div = [](int64_t a, int64_t b) { return (a + b - 1) / b; };
  ColumnPlan plan{};
  ColumnLayout& l = plan.layout;
  l.columns = outer * inner;
  l.n = n;
  l.inner = inner;
  l.down = 1;
  while (l.down < kTileThreads / kAcross<kWidth> && l.down * 4 < n) l.down *= 2;
  const int64_t slots = kTileThreads * kWidth * static_cast<int64_t>(sizeof(T)) * arrays;
  const int64_t room =
      static_cast<int64_t>(cuda::current_device_properties().shared_bytes_per_block) -
      static_cast<int64_t>(sizeof(float2)) * kTileWarps * kColumns - 1024;
  const int64_t fits = room / slots, wanted = ceil_div(n, l.down);
  l.kept = static_cast<int>(wanted < fits ? wanted : fits);
  const int64_t tiles = ceil_div(l.columns, kColumns);
  const int64_t tiles_a_block = kTileThreads / (kAcross<kWidth> * l.down);
  plan.config.grid = dim3(static_cast<unsigned>(ceil_div(tiles, tiles_a_block)));
  plan.config.block = dim3(kTileThreads);
  plan.config.shared_bytes = static_cast<std::size_t>(l.kept * slots);
  return plan;
}

template <class T, int kWidth>
void launch_forward_columns(const SoftmaxArgs& a) {
  const ColumnPlan plan = plan_columns<T, kWidth>(a.outer, a.length, a.inner, 1);
  cuda::launch(forward_columns<T, kWidth>, plan.config, plan.layout, static_cast<const T*>(a.x),
               static_cast<T*>(a.y), a.log);
}
template <class T, int kWidth>
void launch_backward_columns(const SoftmaxBackwardArgs& a) {
  const ColumnPlan plan = plan_columns<T, kWidth>(a.outer, a.length, a.inner, 2);
  cuda::launch(backward_columns<T, kWidth>, plan.config, plan.layout, static_cast<const T*>(a.dy),
               static_cast<const T*>(a.y), static_cast<T*>(a.dx), a.log);
}

template <class T>
void forward(const SoftmaxArgs& a) {
  const T* x = static_cast<const T*>(a.x);
  T* y = static_cast<T*>(a.y);
  if (a.inner > 1) {
    return cuda::rows_are_aligned<T>(a.inner, {x, y})
               ? launch_forward_columns<T, cuda::kVectorWidth<T>>(a)
               : launch_forward_columns<T, 1>(a);
  }
  const auto plan = cuda::plan_rows(y, a.outer, a.length, sizeof(T), 1);
  cuda::launch(plan.shared ? forward_rows<T, true> : forward_rows<T, false>, plan.config,
               plan.layout, x, y, a.log);
}

template <class T>
void backward(const SoftmaxBackwardArgs& a) {
  const T* dy = static_cast<const T*>(a.dy);
  const T* y = static_cast<const T*>(a.y);
  T* dx = static_cast<T*>(a.dx);
  if (a.inner > 1) {
    return cuda::rows_are_aligned<T>(a.inner, {dy, y, dx})
               ? launch_backward_columns<T, cuda::kVectorWidth<T>>(a)
               : launch_backward_columns<T, 1>(a);
  }
  const auto plan = cuda::plan_rows(dx, a.outer, a.length, sizeof(T), 2);
  cuda::launch(plan.shared ? backward_rows<T, true> : backward_rows<T, false>, plan.config,
               plan.layout, dy, y, dx, a.log);
}

}  // namespace

void softmax_forward_cuda(const SoftmaxArgs& a) {
  dispatch_kernel_float(a.dtype, [&](auto type) {
    forward<typename cuda::DeviceType<typename decltype(type)::type>::type>(a);
  });
}

void softmax_backward_cuda(const SoftmaxBackwardArgs& a) {
  dispatch_kernel_float(a.dtype, [&](auto type) {
    backward<typename cuda::DeviceType<typename decltype(type)::type>::type>(a);
  });
}

}  // namespace seqloom::ops
