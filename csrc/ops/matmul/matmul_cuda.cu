// SPDX-License-Identifier: Apache-2.0
// Products on CUDA: the choice of strategy, products without tensor cores for every dtype, float16
// on sm_75, and sums of columns.
#include "core/dtype.h"
#include "cuda/cublaslt.h"
#include "cuda/ptx.h"
#include "cuda/runtime.h"
#include "ops/matmul/epilogue_cuda.h"
#include "ops/matmul/gemm_cuda.h"

namespace seqloom::ops {
namespace {

namespace ptx = cuda::ptx;

template <class T>
SEQLOOM_DEVICE auto widened(T x) {
  if constexpr (std::is_same_v<T, cuda::Half> || std::is_same_v<T, cuda::BFloat16>)
    return cuda::to_float(x);
  else
    return x;
}

// ---- without tensor cores -----------------------------------------------------------------------
// 256 threads, a 64 x 64 tile of C, 4 x 4 elements a thread, panels of 16 in k. Each panel is read
// along the direction in which its matrix lies and kept in shared memory as [k][m] and [k][n].
constexpr int kTile = 64, kDepth = 16;

template <class Sum, class T>
SEQLOOM_DEVICE void load_tile(Sum (*to)[kTile + 4], const T* from, int64_t row_step,
                              int64_t depth_step, int64_t rows, int64_t depth) {
  const bool along_depth = depth_step == 1;
#pragma unroll
  for (int c = 0; c < kTile * kDepth / 256; ++c) {
    const int at = static_cast<int>(threadIdx.x) + c * 256;
    const int row = along_depth ? at / kDepth : at % kTile;
    const int k = along_depth ? at % kDepth : at / kTile;
    Sum value = 0;
    if (row < rows && k < depth) value = widened(from[row * row_step + k * depth_step]);
    to[k][row] = value;
  }
}

template <class T, class Sum>
__global__ void __launch_bounds__(256) plain_kernel(ProductArgs p) {
  SHARED_ARRAY(Sum, tile_a, [kDepth][kTile + 4]);
  SHARED_ARRAY(Sum, tile_b, [kDepth][kTile + 4]);
  const int64_t m0 = static_cast<int64_t>(blockIdx.x) * kTile;
  const int64_t n0 = static_cast<int64_t>(blockIdx.y) * kTile;
  const int64_t a_row = p.trans_a ? 1 : p.lda, a_k = p.trans_a ? p.lda : 1;
  const int64_t b_column = p.trans_b ? p.ldb : 1, b_k = p.trans_b ? 1 : p.ldb;
  const int tx = static_cast<int>(threadIdx.x) % 16, ty = static_cast<int>(threadIdx.x) / 16;
  for (int64_t batch = blockIdx.z; batch < p.batch; batch += gridDim.z) {
    const T* a = static_cast<const T*>(p.a) + batch * p.a_batch + m0 * a_row;
    const T* b = static_cast<const T*>(p.b) + batch * p.b_batch + n0 * b_column;
    Sum sums[4][4] = {};
    for (int64_t k0 = 0; k0 < p.k; k0 += kDepth) {
      __syncthreads();
      load_tile<Sum>(tile_a, a + k0 * a_k, a_row, a_k, p.m - m0, p.k - k0);
      load_tile<Sum>(tile_b, b + k0 * b_k, b_column, b_k, p.n - n0, p.k - k0);
      __syncthreads();
#pragma unroll
      for (int k = 0; k < kDepth; ++k) {
        Sum x[4], y[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) x[i] = tile_a[k][ty * 4 + i];
#pragma unroll
        for (int j = 0; j < 4; ++j) y[j] = tile_b[k][tx * 4 + j];
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            // Integers wrap.
            if constexpr (std::is_integral_v<Sum>) {
              using U = std::make_unsigned_t<Sum>;
              sums[i][j] = static_cast<Sum>(static_cast<U>(sums[i][j]) +
                                            static_cast<U>(x[i]) * static_cast<U>(y[j]));
            } else {
              sums[i][j] = fma(x[i], y[j], sums[i][j]);
            }
          }
      }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int64_t row = m0 + ty * 4 + i, column = n0 + tx * 4 + j;
        if (row < p.m && column < p.n) finish<T>(p, batch, row, column, sums[i][j]);
      }
  }
}

template <class T, class Sum>
void launch_plain(const ProductArgs& p) {
  cuda::LaunchConfig config;
  config.grid = dim3(static_cast<unsigned>((p.m + kTile - 1) / kTile),
                     static_cast<unsigned>((p.n + kTile - 1) / kTile),
                     static_cast<unsigned>(p.batch < 65535 ? p.batch : 65535));
  config.block = dim3(256);
  cuda::launch(plain_kernel<T, Sum>, config, p);
}

// ---- float16 on sm_75 ---------------------------------------------------------------------------
// 128 threads, a 64 x 64 tile, each warp 32 x 32 by mma m16n8k8. Panels are 32 in k, kept as [m][k]
// and [n][k], which are the fragments' own directions.
constexpr int kHalfDepth = 32, kHalfLine = kHalfDepth + 8;

SEQLOOM_DEVICE void load_half_tile(cuda::Half (*to)[kHalfLine], const cuda::Half* from,
                                   int64_t row_step, int64_t depth_step, int64_t rows,
                                   int64_t depth) {
  const bool along_depth = depth_step == 1;
  for (int at = static_cast<int>(threadIdx.x); at < kTile * kHalfDepth; at += 128) {
    const int row = along_depth ? at / kHalfDepth : at % kTile;
    const int k = along_depth ? at % kHalfDepth : at / kTile;
    const bool live = row < rows && k < depth;
    to[row][k] = live ? from[row * row_step + k * depth_step] : cuda::from_float<cuda::Half>(0.f);
  }
}

__global__ void __launch_bounds__(128, 1) turing_kernel(ProductArgs p) {
  using cuda::Half;
  SHARED_ARRAY(Half, tile_a, [kTile][kHalfLine]);
  SHARED_ARRAY(Half, tile_b, [kTile][kHalfLine]);
  const int64_t m0 = static_cast<int64_t>(blockIdx.x) * kTile;
  const int64_t n0 = static_cast<int64_t>(blockIdx.y) * kTile;
  const int64_t a_row = p.trans_a ? 1 : p.lda, a_k = p.trans_a ? p.lda : 1;
  const int64_t b_column = p.trans_b ? p.ldb : 1, b_k = p.trans_b ? 1 : p.ldb;
  const int lane = static_cast<int>(threadIdx.x) & 31, warp = static_cast<int>(threadIdx.x) >> 5;
  const int warp_m = (warp & 1) * 32, warp_n = (warp >> 1) * 32, g = lane >> 2, t = (lane & 3) * 2;
  for (int64_t batch = blockIdx.z; batch < p.batch; batch += gridDim.z) {
    const Half* a = static_cast<const Half*>(p.a) + batch * p.a_batch + m0 * a_row;
    const Half* b = static_cast<const Half*>(p.b) + batch * p.b_batch + n0 * b_column;
    float sums[2][4][4] = {};
    for (int64_t k0 = 0; k0 < p.k; k0 += kHalfDepth) {
      __syncthreads();
      load_half_tile(tile_a, a + k0 * a_k, a_row, a_k, p.m - m0, p.k - k0);
      load_half_tile(tile_b, b + k0 * b_k, b_column, b_k, p.n - n0, p.k - k0);
      __syncthreads();
#pragma unroll
      for (int k = 0; k < kHalfDepth; k += 8) {
        uint32_t x[2][2], y[4];
#pragma unroll
        for (int i = 0; i < 2; ++i)
#pragma unroll
          for (int h = 0; h < 2; ++h)
            memcpy(&x[i][h], static_cast<const void*>(&tile_a[warp_m + i * 16 + h * 8 + g][k + t]),
                   4);
#pragma unroll
        for (int j = 0; j < 4; ++j)
          memcpy(&y[j], static_cast<const void*>(&tile_b[warp_n + j * 8 + g][k + t]), 4);
#pragma unroll
        for (int i = 0; i < 2; ++i)
#pragma unroll
          for (int j = 0; j < 4; ++j) ptx::mma_m16n8k8_f16(sums[i][j], x[i], y[j], sums[i][j]);
      }
    }
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int64_t row = m0 + warp_m + i * 16 + g + (e >> 1) * 8;
          const int64_t column = n0 + warp_n + j * 8 + t + (e & 1);
          if (row < p.m && column < p.n) finish<Half, false>(p, batch, row, column, sums[i][j][e]);
        }
  }
}

// ---- sums of columns ----------------------------------------------------------------------------
// A block of 32 x 8 threads sums 32 columns of one block of rows; a second kernel adds the blocks
// in order.
template <class T>
__global__ void __launch_bounds__(256) column_partial_kernel(ColumnSumArgs a) {
  SHARED_ARRAY(float, sums, [8][33]);
  const int tx = static_cast<int>(threadIdx.x) % 32, ty = static_cast<int>(threadIdx.x) / 32;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * 32 + tx;
  const int64_t blocks = (a.rows + kColumnSumRows - 1) / kColumnSumRows;
  for (int64_t block = blockIdx.y; block < blocks; block += gridDim.y) {
    const int64_t first = block * kColumnSumRows;
    const int64_t last = first + kColumnSumRows < a.rows ? first + kColumnSumRows : a.rows;
    float sum = 0.f;
    if (column < a.columns)
      for (int64_t i = first + ty; i < last; i += 8)
        sum += cuda::to_float(static_cast<const T*>(a.x)[i * a.columns + column]);
    __syncthreads();
    sums[ty][tx] = sum;
    __syncthreads();
    if (ty == 0 && column < a.columns) {
      for (int r = 1; r < 8; ++r) sum += sums[r][tx];
      a.partial[block * a.columns + column] = sum;
    }
  }
}

template <class T>
__global__ void __launch_bounds__(128) column_total_kernel(ColumnSumArgs a) {
  const int64_t column = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (column >= a.columns) return;
  const int64_t blocks = (a.rows + kColumnSumRows - 1) / kColumnSumRows;
  float sum = 0.f;
  for (int64_t b = 0; b < blocks; ++b) sum += a.partial[b * a.columns + column];
  static_cast<T*>(a.out)[column] = cuda::from_float<T>(sum);
}

__global__ void __launch_bounds__(128) column_sum_double_kernel(ColumnSumArgs a) {
  const int64_t column = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (column >= a.columns) return;
  double sum = 0;
  for (int64_t i = 0; i < a.rows; ++i)
    sum += static_cast<const double*>(a.x)[i * a.columns + column];
  static_cast<double*>(a.out)[column] = sum;
}

// ---- the library's product ----------------------------------------------------------------------
template <class T>
__global__ void __launch_bounds__(256)
    activate_kernel(const T* x, T* out, int64_t count, Epilogue epilogue) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
       i += step)
    out[i] = cuda::from_float<T>(activate(epilogue, cuda::to_float(x[i])));
}

unsigned ceil_div(int64_t n, int64_t by) { return static_cast<unsigned>((n + by - 1) / by); }

template <class T>
void launch_column_sum(const ColumnSumArgs& a) {
  const int64_t blocks = column_sum_blocks(a.rows);
  if (blocks > 0) {
    cuda::LaunchConfig config;
    config.grid =
        dim3(ceil_div(a.columns, 32), static_cast<unsigned>(blocks < 65535 ? blocks : 65535));
    config.block = dim3(256);
    cuda::launch(column_partial_kernel<T>, config, a);
  }
  cuda::launch(column_total_kernel<T>, {ceil_div(a.columns, 128), 128}, a);
}

template <class T>
void launch_activate(const void* x, void* out, int64_t count, Epilogue epilogue) {
  const int64_t blocks = (count + 255) / 256;
  cuda::launch(activate_kernel<T>, {static_cast<unsigned>(blocks < 65535 ? blocks : 65535), 256},
               static_cast<const T*>(x), static_cast<T*>(out), count, epilogue);
}

// cuBLASLt where it is there: the product and the bias, then the activation in a pass of its own.
bool library_product(const ProductArgs& p) {
  if (!is_kernel_float(p.dtype) || p.k == 0) return false;
  const bool activated = p.epilogue != Epilogue::kNone;
  if (activated && (p.ldc != p.n || (p.batch > 1 && p.c_batch != p.m * p.n))) return false;
  cuda::GemmArgs g;
  g.dtype = p.dtype;
  g.out_dtype = p.float_out ? DType::kFloat32 : p.dtype;
  g.m = p.m;
  g.n = p.n;
  g.k = p.k;
  g.a = p.a;
  g.b = p.b;
  g.c = activated && p.preact != nullptr ? p.preact : p.c;
  g.bias = p.bias;
  g.transpose_a = p.trans_a;
  g.transpose_b = p.trans_b;
  g.row_a = p.lda;
  g.row_b = p.ldb;
  g.row_c = p.ldc;
  g.batch = p.batch;
  g.stride_a = p.a_batch;
  g.stride_b = p.b_batch;
  g.stride_c = p.c_batch;
  if (!cuda::gemm(g, cuda::current_stream())) return false;
  if (!activated) return true;
  const int64_t count = p.batch * p.m * p.n;
  switch (p.dtype) {
    case DType::kFloat16:
      launch_activate<cuda::Half>(g.c, p.c, count, p.epilogue);
      break;
    case DType::kBFloat16:
      launch_activate<cuda::BFloat16>(g.c, p.c, count, p.epilogue);
      break;
    default:
      launch_activate<float>(g.c, p.c, count, p.epilogue);
  }
  return true;
}

}  // namespace

bool turing_product(const ProductArgs& p) {
  if (p.dtype != DType::kFloat16 || p.float_out) return false;
  cuda::LaunchConfig config;
  config.grid = dim3(ceil_div(p.m, kTile), ceil_div(p.n, kTile),
                     static_cast<unsigned>(p.batch < 65535 ? p.batch : 65535));
  config.block = dim3(128);
  cuda::launch(turing_kernel, config, p);
  return true;
}

void product_cuda(const ProductArgs& p) {
  if (library_product(p) || tensor_core_product(p) || turing_product(p)) return;
  switch (p.dtype) {
    case DType::kBFloat16:
      return launch_plain<cuda::BFloat16, float>(p);
    case DType::kFloat16:
      return launch_plain<cuda::Half, float>(p);
    case DType::kFloat64:
      return launch_plain<double, double>(p);
    case DType::kInt32:
      return launch_plain<int32_t, int32_t>(p);
    case DType::kInt64:
      return launch_plain<int64_t, int64_t>(p);
    default:
      return launch_plain<float, float>(p);
  }
}

void column_sum_cuda(const ColumnSumArgs& a) {
  switch (a.dtype) {
    case DType::kFloat16:
      return launch_column_sum<cuda::Half>(a);
    case DType::kBFloat16:
      return launch_column_sum<cuda::BFloat16>(a);
    case DType::kFloat64:
      return cuda::launch(column_sum_double_kernel, {ceil_div(a.columns, 128), 128}, a);
    default:
      return launch_column_sum<float>(a);
  }
}

}  // namespace seqloom::ops
