// SPDX-License-Identifier: Apache-2.0
// Additive scores on CUDA: the hidden layer of a pair lives in a register and is computed again
// backward.
//
// Forward: a block owns kRows x kColumns scores and walks over the hidden units in runs that lie in
// shared memory; a thread adds up two scores of one key. Backward: a thread owns one unit of one
// query (dx, and its part of dv) or of one key (dy), neighbouring threads neighbouring units, and
// walks over the other side. Every sum has one owner and a fixed order.
#include "cuda/rows.h"
#include "ops/attention/attention.h"

namespace seqloom::ops {
namespace {

constexpr int kColumns = 32, kRows = 8, kUnits = 32, kThreads = 128;

SEQLOOM_DEVICE int64_t length_of(const AdditiveScoreArgs& a, int64_t b) {
  if (a.key_lengths == nullptr) return a.keys;
  const int64_t n = a.key_lengths[b];  // nobody has checked lengths that were on the device already
  return n < 0 ? 0 : n > a.keys ? a.keys : n;
}

__global__ void __launch_bounds__(kThreads) score_kernel(AdditiveScoreArgs a) {
  SHARED_ARRAY(float, x, [kRows][kUnits]);
  SHARED_ARRAY(float, y, [kColumns][kUnits + 1]);
  SHARED_ARRAY(float, v, [kUnits]);
  const int lane = static_cast<int>(threadIdx.x) & 31, warp = static_cast<int>(threadIdx.x) >> 5;
  const int64_t key_blocks = (a.keys + kColumns - 1) / kColumns;
  const int64_t row_blocks = (a.queries + kRows - 1) / kRows;
  const int64_t j0 = blockIdx.x % key_blocks * kColumns;
  const int64_t i0 = blockIdx.x / key_blocks % row_blocks * kRows;
  const int64_t b = blockIdx.x / key_blocks / row_blocks;
  const int64_t length = length_of(a, b), j = j0 + lane;
  float sum[2] = {0.f, 0.f};
  for (int64_t c = 0; j0 < length && c < a.width; c += kUnits) {
    const bool unit = c + lane < a.width;
    __syncthreads();  // the previous run has been read
    for (int r = warp; r < kRows; r += kThreads / 32)
      x[r][lane] =
          unit && i0 + r < a.queries ? a.query[(b * a.queries + i0 + r) * a.width + c + lane] : 0.f;
    for (int r = warp; r < kColumns; r += kThreads / 32)
      y[r][lane] =
          unit && j0 + r < length ? a.key[(b * a.keys + j0 + r) * a.width + c + lane] : 0.f;
    if (warp == 0) v[lane] = unit ? a.v[c + lane] : 0.f;
    __syncthreads();
    const int units = a.width - c < kUnits ? static_cast<int>(a.width - c) : kUnits;
    for (int k = 0; k < units; ++k) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int row = warp + r * (kThreads / 32);
        if (i0 + row < a.queries) sum[r] = fmaf(v[k], tanhf(x[row][k] + y[lane][k]), sum[r]);
      }
    }
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int64_t i = i0 + warp + r * (kThreads / 32);
    if (i < a.queries && j < a.keys)
      a.scores[(b * a.queries + i) * a.keys + j] = j < length ? sum[r] : 0.f;
  }
}

// dx and, before the sum over queries, dv: a thread a unit of a query.
__global__ void __launch_bounds__(kThreads)
    query_gradient_kernel(AdditiveScoreBackwardArgs args, float* dv, int64_t unit_blocks) {
  const AdditiveScoreArgs& a = args.forward;
  const int64_t c = blockIdx.x % unit_blocks * kThreads + threadIdx.x,
                row = blockIdx.x / unit_blocks;
  if (c >= a.width) return;
  const int64_t b = row / a.queries, length = length_of(a, b);
  const float* const y = a.key + b * a.keys * a.width + c;
  const float* const g = args.gradient + row * a.keys;
  const float x = a.query[row * a.width + c];
  float sum = 0.f, weighted = 0.f;
  for (int64_t j = 0; j < length; ++j) {
    const float h = tanhf(x + y[j * a.width]);
    weighted = fmaf(g[j], h, weighted);
    sum = fmaf(g[j], fmaf(-h, h, 1.f), sum);
  }
  args.d_query[row * a.width + c] = sum * a.v[c];
  dv[row * a.width + c] = weighted;
}

// dy: a thread a unit of a key.
__global__ void __launch_bounds__(kThreads)
    key_gradient_kernel(AdditiveScoreBackwardArgs args, int64_t unit_blocks) {
  const AdditiveScoreArgs& a = args.forward;
  const int64_t c = blockIdx.x % unit_blocks * kThreads + threadIdx.x,
                row = blockIdx.x / unit_blocks;
  if (c >= a.width) return;
  const int64_t b = row / a.keys, j = row % a.keys;
  float sum = 0.f;
  if (j < length_of(a, b)) {
    const float* const x = a.query + b * a.queries * a.width + c;
    const float* const g = args.gradient + b * a.queries * a.keys + j;
    const float y = a.key[row * a.width + c];
    for (int64_t i = 0; i < a.queries; ++i) {
      const float h = tanhf(x[i * a.width] + y);
      sum = fmaf(g[i * a.keys], fmaf(-h, h, 1.f), sum);
    }
  }
  args.d_key[row * a.width + c] = sum * a.v[c];
}

// d_v[b] = sum over queries.
__global__ void __launch_bounds__(kThreads)
    sum_queries_kernel(const float* parts, float* out, int64_t count, int64_t queries,
                       int64_t width) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= count) return;
  const float* const part = parts + at / width * queries * width + at % width;
  float sum = 0.f;
  for (int64_t i = 0; i < queries; ++i) sum += part[i * width];
  out[at] = sum;
}

cuda::LaunchConfig grid_of(int64_t blocks) {
  cuda::LaunchConfig config;
  config.grid = dim3(static_cast<unsigned>(blocks));
  config.block = dim3(kThreads);
  return config;
}

}  // namespace

void additive_score_cuda(const AdditiveScoreArgs& a) {
  const int64_t blocks =
      (a.keys + kColumns - 1) / kColumns * ((a.queries + kRows - 1) / kRows) * a.batch;
  if (blocks > 0) cuda::launch(score_kernel, grid_of(blocks), a);
}

void additive_score_backward_cuda(const AdditiveScoreBackwardArgs& args) {
  const AdditiveScoreArgs& a = args.forward;
  const int64_t unit_blocks = (a.width + kThreads - 1) / kThreads, rows = a.batch * a.queries;
  const cuda::Workspace parts(static_cast<std::size_t>(rows * a.width) * sizeof(float));
  if (rows * unit_blocks > 0)
    cuda::launch(query_gradient_kernel, grid_of(rows * unit_blocks), args, parts.as<float>(),
                 unit_blocks);
  if (a.batch * a.keys * unit_blocks > 0)
    cuda::launch(key_gradient_kernel, grid_of(a.batch * a.keys * unit_blocks), args, unit_blocks);
  const int64_t count = a.batch * a.width;
  if (count > 0)
    cuda::launch(sum_queries_kernel, grid_of((count + kThreads - 1) / kThreads), parts.as<float>(),
                 args.d_v, count, a.queries, a.width);
}

}  // namespace seqloom::ops
