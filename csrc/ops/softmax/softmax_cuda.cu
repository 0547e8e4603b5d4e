// SPDX-License-Identifier: Apache-2.0
// softmax and log_softmax on CUDA.
//
// Last axis: cuda/row_team.h; a row is read once, kept, and written once. One pass over what is
// kept gives the maximum and the sum of exponentials, which each thread carries along and rescales
// when it meets a larger value; one reduction makes them the row's. Other axes: a thread a column,
// neighbouring threads on neighbouring columns, two passes over memory.
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

constexpr int kColumnThreads = 128;

template <class T>
__global__ void __launch_bounds__(kColumnThreads)
    forward_columns(const T* x, T* y, int64_t columns, int64_t n, int64_t inner, bool log) {
  const int64_t c = static_cast<int64_t>(blockIdx.x) * kColumnThreads + threadIdx.x;
  if (c >= columns) return;
  const int64_t base = c / inner * n * inner + c % inner;
  float2 total = MaxAndExpSum::identity();
  for (int64_t i = 0; i < n; ++i) {
    const float v[1] = {cuda::to_float(x[base + i * inner])};
    cuda::add_exponentials(v, total);
  }
  const float m = total.x, factor = 1.f / total.y, offset = logf(total.y);
  for (int64_t i = 0; i < n; ++i) {
    const float d = cuda::to_float(x[base + i * inner]) - m;
    y[base + i * inner] = cuda::from_float<T>(log ? d - offset : expf(d) * factor);
  }
}

template <class T>
__global__ void __launch_bounds__(kColumnThreads)
    backward_columns(const T* dy, const T* y, T* dx, int64_t columns, int64_t n, int64_t inner,
                     bool log) {
  const int64_t c = static_cast<int64_t>(blockIdx.x) * kColumnThreads + threadIdx.x;
  if (c >= columns) return;
  const int64_t base = c / inner * n * inner + c % inner;
  float dot = 0.f;
  for (int64_t i = 0; i < n; ++i) {
    const float g = cuda::to_float(dy[base + i * inner]);
    dot += log ? g : g * cuda::to_float(y[base + i * inner]);
  }
  for (int64_t i = 0; i < n; ++i) {
    const int64_t at = base + i * inner;
    const float g = cuda::to_float(dy[at]), v = cuda::to_float(y[at]);
    dx[at] = cuda::from_float<T>(log ? g - expf(v) * dot : v * (g - dot));
  }
}

cuda::LaunchConfig column_launch(int64_t columns) {
  cuda::LaunchConfig config;
  config.grid = dim3(static_cast<unsigned>((columns + kColumnThreads - 1) / kColumnThreads));
  config.block = dim3(kColumnThreads);
  return config;
}

template <class T>
void forward(const SoftmaxArgs& a) {
  const T* x = static_cast<const T*>(a.x);
  T* y = static_cast<T*>(a.y);
  if (a.inner > 1) {
    const int64_t columns = a.outer * a.inner;
    cuda::launch(forward_columns<T>, column_launch(columns), x, y, columns, a.length, a.inner,
                 a.log);
    return;
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
    const int64_t columns = a.outer * a.inner;
    cuda::launch(backward_columns<T>, column_launch(columns), dy, y, dx, columns, a.length, a.inner,
                 a.log);
    return;
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
