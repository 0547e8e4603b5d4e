// SPDX-License-Identifier: Apache-2.0
// softmax and log_softmax on CUDA.
//
// Last axis: cuda/rows.h, a warp or a block a row; the maximum, the sum of exponentials and the
// result are three passes, of which the last two find the row in cache. Other axes: a thread a
// column, neighbouring threads on neighbouring columns.
#include "cuda/rows.h"
#include "ops/softmax/softmax.h"

namespace seqloom::ops {
namespace {

using cuda::RowTeam;

template <class T, bool kVector, bool kWarp>
__global__ void __launch_bounds__(kWarp ? cuda::kWarpRowThreads : cuda::kWideRowThreads)
    forward_rows(const T* x, T* y, int64_t rows, int64_t n, bool log) {
  SHARED_ARRAY(float, scratch, [cuda::kMaxWarps]);
  const auto team = RowTeam<kWarp>::make(scratch);
  if (team.row >= rows) return;  // a whole warp, or nobody
  constexpr int kWidth = cuda::kRowWidth<T, kVector>;
  const T* in = x + team.row * n;
  T* out = y + team.row * n;
  float v[kWidth];
  float m = -INFINITY;
  cuda::over_row<T, kVector>(team.rank, team.size, n, [&](int64_t i) {
    cuda::read_row<T, kVector>(in + i, v);
    for (int k = 0; k < kWidth; ++k) m = fmaxf(m, v[k]);
  });
  m = team.max(m);
  float s = 0.f;
  cuda::over_row<T, kVector>(team.rank, team.size, n, [&](int64_t i) {
    cuda::read_row<T, kVector>(in + i, v);
    for (int k = 0; k < kWidth; ++k) s += expf(v[k] - m);
  });
  s = team.sum(s);
  const float factor = 1.f / s, offset = logf(s);
  cuda::over_row<T, kVector>(team.rank, team.size, n, [&](int64_t i) {
    cuda::read_row<T, kVector>(in + i, v);
    for (int k = 0; k < kWidth; ++k) v[k] = log ? v[k] - m - offset : expf(v[k] - m) * factor;
    cuda::write_row<T, kVector>(out + i, v);
  });
}

template <class T, bool kVector, bool kWarp>
__global__ void __launch_bounds__(kWarp ? cuda::kWarpRowThreads : cuda::kWideRowThreads)
    backward_rows(const T* dy, const T* y, T* dx, int64_t rows, int64_t n, bool log) {
  SHARED_ARRAY(float, scratch, [cuda::kMaxWarps]);
  const auto team = RowTeam<kWarp>::make(scratch);
  if (team.row >= rows) return;
  constexpr int kWidth = cuda::kRowWidth<T, kVector>;
  const int64_t at = team.row * n;
  float g[kWidth], v[kWidth];
  float dot = 0.f;
  cuda::over_row<T, kVector>(team.rank, team.size, n, [&](int64_t i) {
    cuda::read_row<T, kVector>(dy + at + i, g);
    if (!log) cuda::read_row<T, kVector>(y + at + i, v);
    for (int k = 0; k < kWidth; ++k) dot += log ? g[k] : g[k] * v[k];
  });
  dot = team.sum(dot);
  cuda::over_row<T, kVector>(team.rank, team.size, n, [&](int64_t i) {
    cuda::read_row<T, kVector>(dy + at + i, g);
    cuda::read_row<T, kVector>(y + at + i, v);
    for (int k = 0; k < kWidth; ++k) g[k] = log ? g[k] - expf(v[k]) * dot : v[k] * (g[k] - dot);
    cuda::write_row<T, kVector>(dx + at + i, g);
  });
}

constexpr int kColumnThreads = 128;

template <class T>
__global__ void __launch_bounds__(kColumnThreads)
    forward_columns(const T* x, T* y, int64_t columns, int64_t n, int64_t inner, bool log) {
  const int64_t c = static_cast<int64_t>(blockIdx.x) * kColumnThreads + threadIdx.x;
  if (c >= columns) return;
  const int64_t base = c / inner * n * inner + c % inner;
  float m = -INFINITY, s = 0.f;
  for (int64_t i = 0; i < n; ++i) m = fmaxf(m, cuda::to_float(x[base + i * inner]));
  for (int64_t i = 0; i < n; ++i) s += expf(cuda::to_float(x[base + i * inner]) - m);
  const float factor = 1.f / s, offset = logf(s);
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
  const auto r = cuda::row_launch(a.outer, a.length);
  const bool aligned = cuda::rows_are_aligned<T>(a.length, {x, y});
  const auto kernel = aligned
                          ? (r.warp ? forward_rows<T, true, true> : forward_rows<T, true, false>)
                          : (r.warp ? forward_rows<T, false, true> : forward_rows<T, false, false>);
  cuda::launch(kernel, r.config, x, y, a.outer, a.length, a.log);
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
  const auto r = cuda::row_launch(a.outer, a.length);
  const bool aligned = cuda::rows_are_aligned<T>(a.length, {dy, y, dx});
  const auto kernel =
      aligned ? (r.warp ? backward_rows<T, true, true> : backward_rows<T, true, false>)
              : (r.warp ? backward_rows<T, false, true> : backward_rows<T, false, false>);
  cuda::launch(kernel, r.config, dy, y, dx, a.outer, a.length, a.log);
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
