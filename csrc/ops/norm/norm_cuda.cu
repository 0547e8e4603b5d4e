// SPDX-License-Identifier: Apache-2.0
// layer_norm and rms_norm on CUDA.
//
// Forward and dx: a warp or a block a row (cuda/rows.h), the variance about the mean in a second
// pass that finds the row in cache. dweight and dbias: blocks of kTileColumns columns by
// kRowsPerBlock rows write partial sums, which a last kernel adds in order: the same bits every
// time.
#include "cuda/rows.h"
#include "ops/norm/norm.h"

namespace seqloom::ops {
namespace {

using cuda::RowTeam;

template <class T, bool kVector, bool kWarp>
__global__ void __launch_bounds__(kWarp ? cuda::kWarpRowThreads : cuda::kWideRowThreads)
    forward_rows(NormArgs a) {
  SHARED_ARRAY(float, scratch, [cuda::kMaxWarps]);
  const auto team = RowTeam<kWarp>::make(scratch);
  if (team.row >= a.rows) return;
  constexpr int kWidth = cuda::kRowWidth<T, kVector>;
  const int64_t n = a.n, at = team.row * n;
  const T* x = static_cast<const T*>(a.x) + at;
  T* y = static_cast<T*>(a.y) + at;
  const T* weight = static_cast<const T*>(a.weight);
  const T* bias = static_cast<const T*>(a.bias);
  float v[kWidth], w[kWidth];
  const float inverse_n = 1.f / static_cast<float>(n);

  const T* h = x;
  float total = 0.f;
  if (a.residual != nullptr) {
    const T* residual = static_cast<const T*>(a.residual) + at;
    T* sum = static_cast<T*>(a.sum) + at;
    cuda::over_row<T, kVector>(team.rank, team.size, n, [&](int64_t i) {
      cuda::read_row<T, kVector>(x + i, v);
      cuda::read_row<T, kVector>(residual + i, w);
      for (int k = 0; k < kWidth; ++k) {
        v[k] = cuda::to_float(cuda::from_float<T>(v[k] + w[k]));
        total += v[k];
      }
      cuda::write_row<T, kVector>(sum + i, v);
    });
    h = sum;  // every thread reads back what it wrote itself
  } else if (!a.rms) {
    cuda::over_row<T, kVector>(team.rank, team.size, n, [&](int64_t i) {
      cuda::read_row<T, kVector>(x + i, v);
      for (int k = 0; k < kWidth; ++k) total += v[k];
    });
  }
  const float mean = a.rms ? 0.f : team.sum(total) * inverse_n;
  // What the rounded mean leaves over is found from exact differences (see norm_cpu.cpp).
  float squares = 0.f, rest = 0.f;
  cuda::over_row<T, kVector>(team.rank, team.size, n, [&](int64_t i) {
    cuda::read_row<T, kVector>(h + i, v);
    for (int k = 0; k < kWidth; ++k) {
      const float d = v[k] - mean;
      rest += d;
      squares = fmaf(d, d, squares);
    }
  });
  squares = team.sum(squares);
  const float delta = a.rms ? 0.f : team.sum(rest) * inverse_n;
  const float rstd = 1.f / sqrtf(squares * inverse_n - delta * delta + a.eps);
  const float shift = -delta * rstd;
  cuda::over_row<T, kVector>(team.rank, team.size, n, [&](int64_t i) {
    cuda::read_row<T, kVector>(h + i, v);
    for (int k = 0; k < kWidth; ++k) v[k] = fmaf(v[k] - mean, rstd, shift);
    if (weight != nullptr) {
      cuda::read_row<T, kVector>(weight + i, w);
      for (int k = 0; k < kWidth; ++k) v[k] *= w[k];
    }
    if (bias != nullptr) {
      cuda::read_row<T, kVector>(bias + i, w);
      for (int k = 0; k < kWidth; ++k) v[k] += w[k];
    }
    cuda::write_row<T, kVector>(y + i, v);
  });
  if (team.rank == 0) {
    if (a.mean != nullptr) a.mean[team.row] = mean + delta;
    if (a.rstd != nullptr) a.rstd[team.row] = rstd;
  }
}

template <class T, bool kVector, bool kWarp>
__global__ void __launch_bounds__(kWarp ? cuda::kWarpRowThreads : cuda::kWideRowThreads)
    backward_rows(NormBackwardArgs a) {
  SHARED_ARRAY(float, scratch, [cuda::kMaxWarps]);
  const auto team = RowTeam<kWarp>::make(scratch);
  if (team.row >= a.rows) return;
  constexpr int kWidth = cuda::kRowWidth<T, kVector>;
  const int64_t n = a.n, at = team.row * n;
  const T* dy = static_cast<const T*>(a.dy) + at;
  const T* h = static_cast<const T*>(a.h) + at;
  const T* weight = static_cast<const T*>(a.weight);
  const float mean = a.rms ? 0.f : a.mean[team.row], rstd = a.rstd[team.row];
  float g[kWidth], v[kWidth], w[kWidth];
  float sum_g = 0.f, sum_p = 0.f;
  const auto load_terms = [&](int64_t i) {  // g = dy weight, v = xhat
    cuda::read_row<T, kVector>(dy + i, g);
    cuda::read_row<T, kVector>(h + i, v);
    if (weight != nullptr) cuda::read_row<T, kVector>(weight + i, w);
    for (int k = 0; k < kWidth; ++k) {
      if (weight != nullptr) g[k] *= w[k];
      v[k] = (v[k] - mean) * rstd;
    }
  };
  cuda::over_row<T, kVector>(team.rank, team.size, n, [&](int64_t i) {
    load_terms(i);
    for (int k = 0; k < kWidth; ++k) {
      sum_g += g[k];
      sum_p = fmaf(g[k], v[k], sum_p);
    }
  });
  const float inverse_n = 1.f / static_cast<float>(n);
  const float mean_p = team.sum(sum_p) * inverse_n;
  const float mean_g = a.rms ? 0.f : team.sum(sum_g) * inverse_n;
  cuda::over_row<T, kVector>(team.rank, team.size, n, [&](int64_t i) {
    load_terms(i);
    for (int k = 0; k < kWidth; ++k) g[k] = rstd * (g[k] - mean_g - v[k] * mean_p);
    if (a.dsum != nullptr) {
      cuda::read_row<T, kVector>(static_cast<const T*>(a.dsum) + at + i, w);
      for (int k = 0; k < kWidth; ++k) g[k] += w[k];
    }
    cuda::write_row<T, kVector>(static_cast<T*>(a.dx) + at + i, g);
  });
}

constexpr int kTileColumns = 32, kTileRows = 8;
constexpr int64_t kRowsPerBlock = 128;

// partial[block][0][column] = sum over the block's rows of dy xhat, partial[block][1][column] of
// dy.
template <class T>
__global__ void __launch_bounds__(kTileColumns* kTileRows)
    parameter_partials(NormBackwardArgs a, float* partial) {
  SHARED_ARRAY(float, sums, [2][kTileRows][kTileColumns]);
  const int tx = static_cast<int>(threadIdx.x) % kTileColumns;
  const int ty = static_cast<int>(threadIdx.x) / kTileColumns;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kTileColumns + tx;
  const int64_t first = static_cast<int64_t>(blockIdx.y) * kRowsPerBlock;
  const int64_t last = first + kRowsPerBlock < a.rows ? first + kRowsPerBlock : a.rows;
  float w = 0.f, b = 0.f;
  if (column < a.n)
    for (int64_t r = first + ty; r < last; r += kTileRows) {
      const float g = cuda::to_float(static_cast<const T*>(a.dy)[r * a.n + column]);
      const float h = cuda::to_float(static_cast<const T*>(a.h)[r * a.n + column]);
      w = fmaf(g, (h - (a.rms ? 0.f : a.mean[r])) * a.rstd[r], w);
      b += g;
    }
  sums[0][ty][tx] = w;
  sums[1][ty][tx] = b;
  __syncthreads();
  if (ty == 0 && column < a.n) {
    w = b = 0.f;
    for (int k = 0; k < kTileRows; ++k) {
      w += sums[0][k][tx];
      b += sums[1][k][tx];
    }
    partial[(static_cast<int64_t>(blockIdx.y) * 2) * a.n + column] = w;
    partial[(static_cast<int64_t>(blockIdx.y) * 2 + 1) * a.n + column] = b;
  }
}

__global__ void __launch_bounds__(256)
    parameter_sums(const float* partial, int64_t blocks, int64_t n, float* dweight, float* dbias) {
  const int64_t column = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x;
  if (column >= n) return;
  float w = 0.f, b = 0.f;
  for (int64_t k = 0; k < blocks; ++k) {
    w += partial[k * 2 * n + column];
    b += partial[(k * 2 + 1) * n + column];
  }
  if (dweight != nullptr) dweight[column] = w;
  if (dbias != nullptr) dbias[column] = b;
}

template <class T>
void forward(const NormArgs& a) {
  const auto r = cuda::row_launch(a.rows, a.n);
  const bool aligned =
      cuda::rows_are_aligned<T>(a.n, {a.x, a.residual, a.weight, a.bias, a.y, a.sum});
  cuda::launch(aligned ? (r.warp ? forward_rows<T, true, true> : forward_rows<T, true, false>)
                       : (r.warp ? forward_rows<T, false, true> : forward_rows<T, false, false>),
               r.config, a);
}

template <class T>
void backward(const NormBackwardArgs& a) {
  if (a.dweight != nullptr || a.dbias != nullptr) {
    // Before dx, which may lie over dy.
    const int64_t blocks = (a.rows + kRowsPerBlock - 1) / kRowsPerBlock;
    const cuda::Workspace partial(static_cast<std::size_t>(blocks * 2 * a.n) * sizeof(float));
    cuda::LaunchConfig config;
    config.block = dim3(kTileColumns * kTileRows);
    config.grid = dim3(static_cast<unsigned>((a.n + kTileColumns - 1) / kTileColumns),
                       static_cast<unsigned>(blocks));
    if (blocks > 0) cuda::launch(parameter_partials<T>, config, a, partial.as<float>());
    cuda::LaunchConfig sums;
    sums.block = dim3(256);
    sums.grid = dim3(static_cast<unsigned>((a.n + 255) / 256));
    cuda::launch(parameter_sums, sums, partial.as<float>(), blocks, a.n, a.dweight, a.dbias);
  }
  if (a.rows == 0) return;
  const auto r = cuda::row_launch(a.rows, a.n);
  const bool aligned = cuda::rows_are_aligned<T>(a.n, {a.dy, a.dsum, a.h, a.weight, a.dx});
  cuda::launch(aligned ? (r.warp ? backward_rows<T, true, true> : backward_rows<T, true, false>)
                       : (r.warp ? backward_rows<T, false, true> : backward_rows<T, false, false>),
               r.config, a);
}

}  // namespace

void norm_forward_cuda(const NormArgs& a) {
  dispatch_kernel_float(a.dtype, [&](auto type) {
    forward<typename cuda::DeviceType<typename decltype(type)::type>::type>(a);
  });
}

void norm_backward_cuda(const NormBackwardArgs& a) {
  dispatch_kernel_float(a.dtype, [&](auto type) {
    backward<typename cuda::DeviceType<typename decltype(type)::type>::type>(a);
  });
}

}  // namespace seqloom::ops
