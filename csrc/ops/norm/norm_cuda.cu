// SPDX-License-Identifier: Apache-2.0
// layer_norm and rms_norm on CUDA.
//
// Rows are read once, kept, and written once (cuda/row_team.h); the variance about the mean is a
// second pass over what is kept.
//
// dweight and dbias: where the sums fit, the blocks that compute dx stay for many rows, and every
// thread adds up its own columns in shared memory, so that dy and h are read once for all three
// gradients. Chunks then begin with the row, wherever it lies, so that a thread has the same
// columns in each; those of misaligned rows are accessed by elements. Elsewhere blocks of
// kTileColumns columns by some 128 rows read dy and h again. Either way each block leaves one row
// of partial sums, which a last kernel adds in order: the same bits every time.
#include "cuda/row_team.h"
#include "cuda/rows.h"
#include "ops/norm/norm.h"

namespace seqloom::ops {
namespace {

// Rows whose squares overflow are taken times this: then neither those of the largest float nor
// their sum does.
constexpr float kShrink = 0x1p-80f;

struct Statistics {
  float mean, rest, rstd;  // the mean is mean + rest
};

template <class T, bool kShared>
__global__ void __launch_bounds__(kShared ? cuda::kSharedRowThreads : cuda::kRegisterRowThreads)
    forward_rows(NormArgs a, cuda::RowLayout layout) {
  SHARED_ARRAY(cuda::RowScratch, scratch, [1]);
  DYNAMIC_SHARED(memory, 16);
  constexpr int kWidth = cuda::kVectorWidth<T>;
  cuda::RowTeam<kShared> team(layout, scratch);
  cuda::KeptRow<T, kShared, 2> kept(layout, memory);
  const int64_t at = team.row * a.n;
  const cuda::RowChunks<T> chunks(static_cast<T*>(a.y) + at, team.live ? a.n : 0);
  const auto row = [&](const void* p, int64_t offset) {
    return cuda::row_of(static_cast<const T*>(p) + offset, chunks.phase);
  };
  const bool added = a.residual != nullptr;
  auto h = row(a.x, at);
  cuda::over_chunks(team, chunks, [&](int j, const cuda::RowChunk& c) {
    kept.fetch(0, j, h, c);
    if (added) kept.fetch(1, j, row(a.residual, at), c);
  });
  kept.wait();

  float v[kWidth], w[kWidth];
  const float count = static_cast<float>(a.n);
  float total = 0.f;
  if (added || !a.rms) {
    const auto sum = cuda::row_of(added ? static_cast<T*>(a.sum) + at : nullptr, chunks.phase);
    cuda::over_chunks(team, chunks, [&](int j, const cuda::RowChunk& c) {
      kept.get(0, j, h, c, 0.f, v);
      if (added) {
        kept.get(1, j, row(a.residual, at), c, 0.f, w);
#pragma unroll
        for (int k = 0; k < kWidth; ++k) v[k] = cuda::to_float(cuda::from_float<T>(v[k] + w[k]));
        kept.put(0, j, v);
        cuda::write_chunk(sum, c, v);
      }
#pragma unroll
      for (int k = 0; k < kWidth; ++k) total += v[k];
    });
    if (added) h = row(a.sum, at);  // what is not kept is read back by who wrote it
  }
  // Of the row times `scale`, whose sum is `total`; each(fill, f) gives f its elements.
  const auto measure = [&](float total_, float scale_, float eps, const auto& each) {
    const float mean = a.rms ? 0.f : team.sum(total_) / count;
    // What the rounded mean leaves over is found from exact differences (see norm_cpu.cpp).
    float2 sums = make_float2(0.f, 0.f);  // of squares, and of differences
    each(mean / scale_, [&](const float (&x)[kWidth]) {
#pragma unroll
      for (int k = 0; k < kWidth; ++k) {
        const float d = fmaf(x[k], scale_, -mean);
        sums = make_float2(fmaf(d, d, sums.x), sums.y + d);
      }
    });
    sums = team.template reduce<cuda::PairSum>(sums);
    // Divided, not multiplied by 1 / n, so that equal values leave nothing; what rounding leaves
    // may have either sign. NaN stays.
    const float delta = a.rms ? 0.f : sums.y / count;
    const float variance = sums.x / count - delta * delta;
    const float rounded = mean + delta;
    return Statistics{rounded, mean - rounded + delta,
                      1.f / sqrtf((variance < 0.f ? 0.f : variance) + eps)};
  };
  Statistics row_is = measure(total, 1.f, a.eps, [&](float fill, const auto& f) {
    cuda::over_chunks(team, chunks, [&](int j, const cuda::RowChunk& c) {
      kept.get(0, j, h, c, fill, v);
      f(v);
    });
  });
  // Rarely, rows overflow: they are read again, by all teams of the warp, or the reductions hang.
  float scale = 1.f;
  const bool huge = !(row_is.rstd > 0.f);
  if (__any_sync(cuda::kFullWarp, huge)) {
    const auto each = [&](float fill, const auto& f) {
#pragma unroll 1
      for (int64_t i = team.rank; i < chunks.count; i += team.size) {
        const cuda::RowChunk c = chunks.at(i);
        cuda::unpack_chunk<T>(cuda::read_chunk(h, c), c, fill, v);
        f(v);
      }
    };
    total = 0.f;
    each(0.f, [&](const float (&x)[kWidth]) {
#pragma unroll
      for (int k = 0; k < kWidth; ++k) total = fmaf(x[k], kShrink, total);
    });
    const Statistics shrunk = measure(total, kShrink, 1.17549435e-38f, each);
    if (huge) {
      row_is = shrunk;
      scale = kShrink;
    }
  }
  const float mean = row_is.mean, rstd = row_is.rstd, shift = -row_is.rest * rstd;
  const auto out = cuda::row_of(static_cast<T*>(a.y) + at, chunks.phase);
  cuda::over_chunks(team, chunks, [&](int j, const cuda::RowChunk& c) {
    kept.get(0, j, h, c, 0.f, v);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) v[k] = fmaf(fmaf(v[k], scale, -mean), rstd, shift);
    if (a.weight != nullptr) {
      cuda::unpack_chunk<T>(cuda::read_chunk(row(a.weight, 0), c), c, 0.f, w);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) v[k] *= w[k];
    }
    if (a.bias != nullptr) {
      cuda::unpack_chunk<T>(cuda::read_chunk(row(a.bias, 0), c), c, 0.f, w);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) v[k] += w[k];
    }
    cuda::write_chunk(out, c, v);
  });
  if (team.rank == 0 && team.live) {
    if (a.mean != nullptr) a.mean[team.row] = mean / scale;
    if (a.rstd != nullptr) a.rstd[team.row] = rstd * scale;
  }
}

// Where a thread adds up the parameter gradients of its own columns: four floats for each array
// (dweight, dbias), chunk and quarter or half of it, those of neighbouring threads side by side.
struct ParameterSums {
  float* partial;  // [blocks or clusters of the grid, 2, n]; null: none wanted here
  int chunks;      // of a thread
};

// At least two blocks a multiprocessor, so that one loads while the other computes.
template <class T, bool kShared>
__global__ void __launch_bounds__(kShared ? cuda::kSharedRowThreads : cuda::kRegisterRowThreads,
                                  kShared ? 1 : 2)
    backward_rows(NormBackwardArgs a, cuda::RowLayout layout, ParameterSums parameters) {
  SHARED_ARRAY(cuda::RowScratch, scratch, [1]);
  DYNAMIC_SHARED(memory, 16);
  constexpr int kWidth = cuda::kVectorWidth<T>;
  cuda::RowTeam<kShared> team(layout, scratch);
  cuda::KeptRow<T, kShared, 2> kept(layout, memory);
  const int threads = static_cast<int>(blockDim.x), own = static_cast<int>(threadIdx.x);
  const bool summing = parameters.partial != nullptr;
  constexpr int kQuads = kWidth / 4;
  float4* sums = reinterpret_cast<float4*>(memory + cuda::kept_bytes(layout, 2, threads));
  const auto quad = [&](int array, int j, int q) -> float4& {
    return sums[((array * parameters.chunks + j) * kQuads + q) * threads + own];
  };
  if (summing)
    for (int i = 0; i < 2 * parameters.chunks * kQuads; ++i)
      sums[i * threads + own] = make_float4(0.f, 0.f, 0.f, 0.f);

  const float inverse_n = 1.f / static_cast<float>(a.n);
  const int64_t rows_a_grid =
      static_cast<int64_t>(gridDim.x) / layout.blocks * (kShared ? 1 : threads / team.size);
  for (int64_t first = 0; first < a.rows; first += rows_a_grid) {
    const int64_t r = team.row + first, at = r * a.n;
    const bool live = r < a.rows;
    const T* const begin = summing ? nullptr : static_cast<T*>(a.dx) + at;
    const cuda::RowChunks<T> chunks(begin, live ? a.n : 0);
    const auto row = [&](const void* p, int64_t offset) {
      return cuda::row_of(static_cast<const T*>(p) + offset, chunks.phase);
    };
    const auto dy = row(a.dy, at), h = row(a.h, at);
    cuda::over_chunks(team, chunks, [&](int j, const cuda::RowChunk& c) {
      kept.fetch(0, j, dy, c);
      kept.fetch(1, j, h, c);
    });
    const float mean = a.rms || !live ? 0.f : a.mean[r], rstd = live ? a.rstd[r] : 0.f;
    kept.wait();

    float g[kWidth], v[kWidth], w[kWidth];
    const auto weigh = [&](const cuda::RowChunk& c) {  // g = dy weight
      if (a.weight == nullptr) return;
      cuda::unpack_chunk<T>(cuda::read_chunk(row(a.weight, 0), c), c, 0.f, w);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) g[k] *= w[k];
    };
    float2 total = make_float2(0.f, 0.f);  // sum g, sum g xhat
    cuda::over_chunks(team, chunks, [&](int j, const cuda::RowChunk& c) {
      kept.get(0, j, dy, c, 0.f, g);
      kept.get(1, j, h, c, 0.f, v);
      if (summing) {
#pragma unroll
        for (int q = 0; q < kQuads; ++q) {
          float4 dw = quad(0, j, q), db = quad(1, j, q);
          const float *d = g + 4 * q, *x = v + 4 * q;
          dw.x = fmaf(d[0], (x[0] - mean) * rstd, dw.x);
          dw.y = fmaf(d[1], (x[1] - mean) * rstd, dw.y);
          dw.z = fmaf(d[2], (x[2] - mean) * rstd, dw.z);
          dw.w = fmaf(d[3], (x[3] - mean) * rstd, dw.w);
          db = make_float4(db.x + d[0], db.y + d[1], db.z + d[2], db.w + d[3]);
          quad(0, j, q) = dw;
          quad(1, j, q) = db;
        }
      }
      weigh(c);
#pragma unroll
      for (int k = 0; k < kWidth; ++k) {
        total.x += g[k];
        total.y = fmaf(g[k], (v[k] - mean) * rstd, total.y);
      }
    });
    total = team.template reduce<cuda::PairSum>(total);
    const float mean_g = a.rms ? 0.f : total.x * inverse_n, mean_p = total.y * inverse_n;
    const auto out = cuda::row_of(static_cast<T*>(a.dx) + at, chunks.phase);
    cuda::over_chunks(team, chunks, [&](int j, const cuda::RowChunk& c) {
      kept.get(0, j, dy, c, 0.f, g);
      kept.get(1, j, h, c, 0.f, v);
      weigh(c);
#pragma unroll
      for (int k = 0; k < kWidth; ++k)
        g[k] = rstd * (g[k] - mean_g - (v[k] - mean) * rstd * mean_p);
      if (a.dsum != nullptr) {
        cuda::unpack_chunk<T>(cuda::read_chunk(row(a.dsum, at), c), c, 0.f, w);
#pragma unroll
        for (int k = 0; k < kWidth; ++k) g[k] += w[k];
      }
      cuda::write_chunk(out, c, g);
    });
  }
  if (!summing) return;

  // The teams of a block, in order; columns are c kWidth + k of chunk c = rank + j size.
  __syncthreads();
  const int share = kShared ? threads : team.size;  // threads of this block that share a row
  const int64_t block = static_cast<int64_t>(blockIdx.x) / layout.blocks;
  const float* single = reinterpret_cast<const float*>(sums);
  for (int i = own; i < 2 * parameters.chunks * kQuads * share * 4; i += threads) {
    const int q = i / (4 * share), t = i / 4 % share, k = q % kQuads * 4 + i % 4;
    float total = 0.f;
    for (int start = t; start < threads; start += share)
      total += single[(q * threads + start) * 4 + i % 4];
    const int j = q / kQuads % parameters.chunks, array = q / kQuads / parameters.chunks;
    const int64_t c = (kShared ? team.rank - own : 0) + t + static_cast<int64_t>(j) * team.size;
    if (c * kWidth + k < a.n)
      parameters.partial[(block * 2 + array) * a.n + c * kWidth + k] = total;
  }
}

constexpr int kTileColumns = 32, kTileRows = 8;
constexpr int64_t kMostBlocks = 512;  // along the rows

// partial[block][0][column] = sum over the block's rows of dy xhat, partial[block][1][column] of
// dy.
template <class T>
__global__ void __launch_bounds__(kTileColumns* kTileRows)
    parameter_partials(NormBackwardArgs a, int64_t rows_a_block, float* partial) {
  SHARED_ARRAY(float, sums, [2][kTileRows][kTileColumns]);
  const int tx = static_cast<int>(threadIdx.x) % kTileColumns;
  const int ty = static_cast<int>(threadIdx.x) / kTileColumns;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kTileColumns + tx;
  const int64_t first = static_cast<int64_t>(blockIdx.y) * rows_a_block;
  const int64_t last = first + rows_a_block < a.rows ? first + rows_a_block : a.rows;
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

// A column of blocks adds kTileRows interleaved parts of the partial sums, then those in order.
__global__ void __launch_bounds__(kTileColumns* kTileRows)
    parameter_sums(const float* partial, int64_t blocks, int64_t n, float* dweight, float* dbias) {
  SHARED_ARRAY(float, sums, [2][kTileRows][kTileColumns]);
  const int tx = static_cast<int>(threadIdx.x) % kTileColumns;
  const int ty = static_cast<int>(threadIdx.x) / kTileColumns;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kTileColumns + tx;
  float w = 0.f, b = 0.f;
  if (column < n)
    for (int64_t k = ty; k < blocks; k += kTileRows) {
      w += partial[k * 2 * n + column];
      b += partial[(k * 2 + 1) * n + column];
    }
  sums[0][ty][tx] = w;
  sums[1][ty][tx] = b;
  __syncthreads();
  if (ty != 0 || column >= n) return;
  w = b = 0.f;
  for (int k = 0; k < kTileRows; ++k) {
    w += sums[0][k][tx];
    b += sums[1][k][tx];
  }
  if (dweight != nullptr) dweight[column] = w;
  if (dbias != nullptr) dbias[column] = b;
}

template <class T>
void forward(const NormArgs& a) {
  const auto plan = cuda::plan_rows(a.y, a.rows, a.n, sizeof(T), a.residual != nullptr ? 2 : 1);
  cuda::launch(plan.shared ? forward_rows<T, true> : forward_rows<T, false>, plan.config, a,
               plan.layout);
}

void add_partials(const NormBackwardArgs& a, const float* partial, int64_t blocks) {
  cuda::LaunchConfig config;
  config.block = dim3(kTileColumns * kTileRows);
  config.grid = dim3(static_cast<unsigned>((a.n + kTileColumns - 1) / kTileColumns));
  cuda::launch(parameter_sums, config, partial, blocks, a.n, a.dweight, a.dbias);
}

// The parameters' gradients alone. Before dx, which may lie over dy.
template <class T>
void parameters_apart(const NormBackwardArgs& a) {
  const int64_t share = (a.rows + kMostBlocks - 1) / kMostBlocks;
  const int64_t rows_a_block = share > 128 ? share : 128;
  const int64_t blocks = (a.rows + rows_a_block - 1) / rows_a_block;
  const cuda::Workspace partial(static_cast<std::size_t>(blocks * 2 * a.n) * sizeof(float));
  cuda::LaunchConfig config;
  config.block = dim3(kTileColumns * kTileRows);
  config.grid = dim3(static_cast<unsigned>((a.n + kTileColumns - 1) / kTileColumns),
                     static_cast<unsigned>(blocks));
  if (blocks > 0) cuda::launch(parameter_partials<T>, config, a, rows_a_block, partial.as<float>());
  add_partials(a, partial.as<float>(), blocks);
}

template <class T>
void backward(const NormBackwardArgs& a) {
  const bool wanted = a.dweight != nullptr || a.dbias != nullptr;
  if (a.rows == 0) {
    if (wanted) parameters_apart<T>(a);
    return;
  }
  auto plan = cuda::plan_rows(a.dx, a.rows, a.n, sizeof(T), 2);
  const auto kernel = plan.shared ? backward_rows<T, true> : backward_rows<T, false>;
  const int threads = static_cast<int>(plan.config.block.x);
  const int team = plan.layout.lanes * plan.layout.warps * plan.layout.blocks;
  ParameterSums sums{};
  const int64_t whole_chunks = (a.n + cuda::kVectorWidth<T> - 1) / cuda::kVectorWidth<T>;
  sums.chunks = static_cast<int>((whole_chunks + team - 1) / team);
  const std::size_t bytes =
      plan.config.shared_bytes +
      static_cast<std::size_t>(2 * sums.chunks * threads) * cuda::kVectorWidth<T> * sizeof(float);
  if (!wanted || bytes > cuda::current_device_properties().shared_bytes_per_block - 2048) {
    if (wanted) parameters_apart<T>(a);
    cuda::launch(kernel, plan.config, a, plan.layout, ParameterSums{});
    return;
  }
  plan.config.shared_bytes = bytes;
  // As many blocks as are resident, in whole clusters, stay for all rows.
  const int blocks = plan.layout.blocks;
  const int64_t resident = static_cast<int64_t>(cuda::resident_blocks(kernel, threads, bytes));
  const int64_t groups = plan.config.grid.x / static_cast<unsigned>(blocks);
  const int64_t most = resident / blocks < 1 ? 1 : resident / blocks;
  const int64_t kept = groups < most ? groups : most;
  plan.config.grid = dim3(static_cast<unsigned>(kept * blocks));
  const cuda::Workspace partial(static_cast<std::size_t>(kept * 2 * a.n) * sizeof(float));
  sums.partial = partial.as<float>();
  cuda::launch(kernel, plan.config, a, plan.layout, sums);
  add_partials(a, sums.partial, kept);
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
