// SPDX-License-Identifier: Apache-2.0
// softmax and log_softmax on CUDA.
//
// Last axis: cuda/row_team.h; a row is read once, kept, and written once. One pass over what is
// kept gives the maximum and the sum of exponentials, which each thread carries along and rescales
// when it meets a larger value; one reduction makes them the row's.
//
// Other axes: a block takes a tile of neighbouring columns, 128 bytes wide where they can be read
// 16 bytes at a time, and its threads share the axis. Each keeps what it has read in shared memory,
// so that up to some 1,500 elements of the axis are read once; only what is beyond is read again.
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

// kWidth neighbouring columns a thread: 16 bytes, or one. kAcross threads lie side by side.
template <int kWidth>
constexpr int kAcross = kWidth > 1 ? 8 : 32;

// The place of a thread in the tile of its block, and what it keeps of each array.
template <class T, int kWidth>
struct ColumnTile {
  int64_t base;  // of the thread's first column, in elements
  bool live;     // columns beyond the last only take part in barriers
  int row;       // the first of this thread's rows, which are kDown apart
  static constexpr int kDown = kTileThreads / kAcross<kWidth>;

  SEQLOOM_DEVICE ColumnTile(int64_t tiles, int64_t n, int64_t inner, int kept,
                            unsigned char* memory)
      : row(static_cast<int>(threadIdx.x) / kAcross<kWidth>), kept_(kept), memory_(memory) {
    const int64_t tile = blockIdx.x % tiles;
    const int64_t column = (tile * kAcross<kWidth> + threadIdx.x % kAcross<kWidth>)*kWidth;
    base = blockIdx.x / tiles * n * inner + column;
    live = column < inner;
  }
  // Row i of an array, the j-th of this thread; `first` time it is kept.
  SEQLOOM_DEVICE void get(const T* p, int64_t at, int array, int j, bool first,
                          float (&v)[kWidth]) const {
    T raw[kWidth];
    unsigned char* const slot =
        memory_ + ((static_cast<int64_t>(array) * kept_ + j) * kTileThreads + threadIdx.x) *
                      static_cast<int>(sizeof(raw));
    using Word = Raw<sizeof(raw)>;
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
  template <std::size_t kBytes>
  using Raw = std::conditional_t<kBytes == 16, uint4,
                                 std::conditional_t<kBytes == 4, unsigned, unsigned short>>;
  int kept_;
  unsigned char* memory_;
};

constexpr int kTileWarps = kTileThreads / 32;
constexpr int kTileColumns = 64;  // at most

// The values of all rows of each column, to all threads. Warps are combined in order.
template <class Op, int kWidth>
SEQLOOM_DEVICE void reduce_columns(float2 (&value)[kWidth], float2 (*parts)[kTileColumns]) {
  constexpr int across = kAcross<kWidth>;
  const int lane = cuda::lane_index(), column = lane % across * kWidth;
#pragma unroll
  for (int k = 0; k < kWidth; ++k) {
#pragma unroll
    for (int offset = across; offset < 32; offset <<= 1) {
      float2 other;
      other.x = __shfl_xor_sync(cuda::kFullWarp, value[k].x, offset);
      other.y = __shfl_xor_sync(cuda::kFullWarp, value[k].y, offset);
      value[k] = (lane & offset) ? Op::combine(other, value[k]) : Op::combine(value[k], other);
    }
    if (lane < across) parts[cuda::warp_index()][column + k] = value[k];
  }
  __syncthreads();
#pragma unroll
  for (int k = 0; k < kWidth; ++k) {
    value[k] = parts[0][column + k];
    for (int w = 1; w < kTileWarps; ++w) value[k] = Op::combine(value[k], parts[w][column + k]);
  }
}

template <class T, int kWidth>
__global__ void __launch_bounds__(kTileThreads)
    forward_columns(const T* x, T* y, int64_t tiles, int64_t n, int64_t inner, int kept, bool log) {
  SHARED_ARRAY(float2, parts, [kTileWarps][kTileColumns]);
  DYNAMIC_SHARED(memory, 16);
  const ColumnTile<T, kWidth> tile(tiles, n, inner, kept, memory);
  constexpr int kDown = ColumnTile<T, kWidth>::kDown, kAtOnce = 4;
  const int64_t rows = tile.live ? n : 0;
  float2 total[kWidth];
  float v[kWidth];
#pragma unroll
  for (int k = 0; k < kWidth; ++k) total[k] = cuda::MaxAndExpSum::identity();
  for (int64_t i = tile.row, j = 0; i < rows; i += kAtOnce * kDown, j += kAtOnce) {
    float several[kWidth][kAtOnce];
#pragma unroll
    for (int q = 0; q < kAtOnce; ++q) {
      const bool inside = i + q * kDown < rows;
      if (inside)
        tile.get(x, tile.base + (i + q * kDown) * inner, 0, static_cast<int>(j) + q, true, v);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) several[k][q] = inside ? v[k] : -INFINITY;
    }
#pragma unroll
    for (int k = 0; k < kWidth; ++k) cuda::add_exponentials(several[k], total[k]);
  }
  reduce_columns<cuda::MaxAndExpSum>(total, parts);
#pragma unroll
  for (int k = 0; k < kWidth; ++k) total[k].y = log ? logf(total[k].y) : 1.f / total[k].y;
  for (int64_t i = tile.row, j = 0; i < rows; i += kDown, ++j) {
    const int64_t at = tile.base + i * inner;
    tile.get(x, at, 0, static_cast<int>(j), false, v);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      const float d = v[k] - total[k].x;
      v[k] = log ? d - total[k].y : expf(d) * total[k].y;
    }
    tile.put(y, at, v);
  }
}

template <class T, int kWidth>
__global__ void __launch_bounds__(kTileThreads)
    backward_columns(const T* dy, const T* y, T* dx, int64_t tiles, int64_t n, int64_t inner,
                     int kept, bool log) {
  SHARED_ARRAY(float2, parts, [kTileWarps][kTileColumns]);
  DYNAMIC_SHARED(memory, 16);
  const ColumnTile<T, kWidth> tile(tiles, n, inner, kept, memory);
  constexpr int kDown = ColumnTile<T, kWidth>::kDown;
  const int64_t rows = tile.live ? n : 0;
  float2 dot[kWidth];
  float g[kWidth], v[kWidth];
#pragma unroll
  for (int k = 0; k < kWidth; ++k) dot[k] = make_float2(0.f, 0.f);
  for (int64_t i = tile.row, j = 0; i < rows; i += kDown, ++j) {
    const int64_t at = tile.base + i * inner;
    tile.get(dy, at, 0, static_cast<int>(j), true, g);
    tile.get(y, at, 1, static_cast<int>(j), true, v);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) dot[k].x += log ? g[k] : g[k] * v[k];
  }
  reduce_columns<cuda::PairSum>(dot, parts);
  for (int64_t i = tile.row, j = 0; i < rows; i += kDown, ++j) {
    const int64_t at = tile.base + i * inner;
    tile.get(dy, at, 0, static_cast<int>(j), false, g);
    tile.get(y, at, 1, static_cast<int>(j), false, v);
#pragma unroll
    for (int k = 0; k < kWidth; ++k)
      g[k] = log ? g[k] - expf(v[k]) * dot[k].x : v[k] * (g[k] - dot[k].x);
    tile.put(dx, at, g);
  }
}

struct ColumnPlan {
  cuda::LaunchConfig config;
  int64_t tiles;  // of columns, for each of the outer
  int kept;       // rows of a thread in shared memory
};
template <class T, int kWidth>
ColumnPlan plan_columns(int64_t outer, int64_t n, int64_t inner, int arrays) {
  constexpr int64_t kColumns = kAcross<kWidth> * kWidth, kDown = kTileThreads / kAcross<kWidth>;
  const int64_t slots = kTileThreads * kWidth * static_cast<int64_t>(sizeof(T)) * arrays;
  const int64_t room =
      static_cast<int64_t>(cuda::current_device_properties().shared_bytes_per_block) -
      static_cast<int64_t>(sizeof(float2)) * kTileWarps * kTileColumns - 1024;
  const int64_t fits = room / slots, wanted = (n + kDown - 1) / kDown;
  ColumnPlan plan{};
  plan.tiles = (inner + kColumns - 1) / kColumns;
  plan.kept = static_cast<int>(wanted < fits ? wanted : fits);
  plan.config.grid = dim3(static_cast<unsigned>(outer * plan.tiles));
  plan.config.block = dim3(kTileThreads);
  plan.config.shared_bytes = static_cast<std::size_t>(plan.kept * slots);
  return plan;
}

template <class T, int kWidth>
void launch_forward_columns(const SoftmaxArgs& a) {
  const ColumnPlan plan = plan_columns<T, kWidth>(a.outer, a.length, a.inner, 1);
  cuda::launch(forward_columns<T, kWidth>, plan.config, static_cast<const T*>(a.x),
               static_cast<T*>(a.y), plan.tiles, a.length, a.inner, plan.kept, a.log);
}
template <class T, int kWidth>
void launch_backward_columns(const SoftmaxBackwardArgs& a) {
  const ColumnPlan plan = plan_columns<T, kWidth>(a.outer, a.length, a.inner, 2);
  cuda::launch(backward_columns<T, kWidth>, plan.config, static_cast<const T*>(a.dy),
               static_cast<const T*>(a.y), static_cast<T*>(a.dx), plan.tiles, a.length, a.inner,
               plan.kept, a.log);
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
