// SPDX-License-Identifier: Apache-2.0
// Linear layers with 8- and 4-bit weights on CUDA.
//
// Few rows: a warp a column of the result reads that column's weights once, 16 bytes a lane (16 or
// 32 weights), for up to four rows of x, which all warps share through the caches. More rows than
// kFewRows go through the dequantized weight and the ordinary product.
#include "core/dtype.h"
#include "cuda/gpu.h"
#include "cuda/reduce.h"
#include "cuda/vector_access.h"
#include "ops/matmul/epilogue_cuda.h"
#include "ops/quantized/quantized.h"

namespace seqloom::ops {
namespace {

using cuda::BFloat16;

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;
constexpr int kRows = 4;  // of x at a time

// How many weights 16 bytes hold, and whether they are two to a byte.
template <QuantKind kKind>
constexpr int kPiece = kKind == QuantKind::kInt8 ? 16 : 32;

// The weights of piece `piece` of row j, times their group's scale (int4). kWhole: rows of int8 are
// whole pieces that lie on 16 bytes; rows of int4 always are.
template <QuantKind kKind, bool kWhole>
SEQLOOM_DEVICE void read_piece(const QuantizedLinearArgs& a, int64_t j, int64_t piece,
                               float (&w)[kPiece<kKind>]) {
  if constexpr (kKind == QuantKind::kInt8) {
    const int8_t* q = static_cast<const int8_t*>(a.quantized) + j * a.k + piece * 16;
    int8_t bytes[16];
    if constexpr (kWhole) {
      const uint4 raw = *reinterpret_cast<const uint4*>(q);
      memcpy(static_cast<void*>(bytes), &raw, 16);
    } else {
#pragma unroll
      for (int i = 0; i < 16; ++i) bytes[i] = piece * 16 + i < a.k ? q[i] : static_cast<int8_t>(0);
    }
#pragma unroll
    for (int i = 0; i < 16; ++i) w[i] = static_cast<float>(bytes[i]);
  } else {
    const int64_t groups = (a.k + kQuantGroup - 1) / kQuantGroup, at = j * groups + piece;
    const uint4 raw = static_cast<const uint4*>(a.quantized)[at];
    const float scale = cuda::to_float(static_cast<const BFloat16*>(a.scales)[at]);
    uint8_t bytes[16];
    memcpy(static_cast<void*>(bytes), &raw, 16);
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      w[i] = scale * static_cast<float>(static_cast<int>(bytes[i] & 15) - 8);
      w[16 + i] = scale * static_cast<float>(static_cast<int>(bytes[i] >> 4) - 8);
    }
  }
}

// kWhole: rows of x are whole pieces too, and lie on 16 bytes.
template <class T, QuantKind kKind, bool kWhole>
__global__ void __launch_bounds__(kThreads) quantized_linear_kernel(QuantizedLinearArgs a) {
  constexpr int kCount = kPiece<kKind>, kWidth = cuda::kVectorWidth<T>;
  const int64_t j = static_cast<int64_t>(blockIdx.x) * kWarps + cuda::warp_index();
  if (j >= a.n) return;  // a whole warp
  const int64_t row0 = static_cast<int64_t>(blockIdx.y) * kRows;
  const T* x = static_cast<const T*>(a.x) + row0 * a.ldx;
  const int rows = static_cast<int>(a.m - row0 < kRows ? a.m - row0 : kRows);
  float acc[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) acc[r] = 0.f;
  for (int64_t piece = cuda::lane_index(); piece * kCount < a.k; piece += 32) {
    float w[kCount];
    read_piece<kKind, kWhole>(a, j, piece, w);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (r >= rows) break;
      const T* from = x + r * a.ldx + piece * kCount;
      if constexpr (kWhole) {
#pragma unroll
        for (int i = 0; i < kCount; i += kWidth) {
          float v[kWidth];
          cuda::load_vector(from + i, v);
#pragma unroll
          for (int c = 0; c < kWidth; ++c) acc[r] = fmaf(w[i + c], v[c], acc[r]);
        }
      } else {
#pragma unroll
        for (int i = 0; i < kCount; ++i)
          if (piece * kCount + i < a.k) acc[r] = fmaf(w[i], cuda::to_float(from[i]), acc[r]);
      }
    }
  }
  const float scale = kKind == QuantKind::kInt8 ? static_cast<const float*>(a.scales)[j] : 1.f;
  const float bias = a.bias != nullptr ? cuda::to_float(static_cast<const T*>(a.bias)[j]) : 0.f;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    if (r >= rows) break;
    float y = cuda::warp_sum(acc[r]) * scale + bias;
    if (cuda::lane_index() != 0) continue;
    if (a.epilogue != Epilogue::kNone) y = activate(a.epilogue, y);
    static_cast<T*>(a.out)[(row0 + r) * a.n + j] = cuda::from_float<T>(y);
  }
}

template <class T, QuantKind kKind>
void multiply(const QuantizedLinearArgs& a) {
  cuda::LaunchConfig config;
  config.grid = dim3(static_cast<unsigned>((a.n + kWarps - 1) / kWarps),
                     static_cast<unsigned>((a.m + kRows - 1) / kRows));
  config.block = dim3(kThreads);
  const auto lies_on_16 = [](const void* p, int64_t bytes) {
    return (reinterpret_cast<uintptr_t>(p) | static_cast<uintptr_t>(bytes)) % 16 == 0;
  };
  const bool whole = a.k % kPiece<kKind> == 0 &&
                     lies_on_16(a.x, a.ldx * static_cast<int64_t>(sizeof(T))) &&
                     lies_on_16(a.quantized, kKind == QuantKind::kInt8 ? a.k : 0);
  if (whole)
    cuda::launch(quantized_linear_kernel<T, kKind, true>, config, a);
  else
    cuda::launch(quantized_linear_kernel<T, kKind, false>, config, a);
}

template <class T>
void multiply_any(const QuantizedLinearArgs& a) {
  if (a.kind == QuantKind::kInt8) return multiply<T, QuantKind::kInt8>(a);
  multiply<T, QuantKind::kInt4>(a);
}

// ---- float to integers and back ----------------------------------------------------------------

// A warp a row.
template <class T>
__global__ void __launch_bounds__(kThreads) quantize_int8_kernel(QuantizeArgs a) {
  const int64_t j = static_cast<int64_t>(blockIdx.x) * kWarps + cuda::warp_index();
  if (j >= a.n) return;
  const T* w = static_cast<const T*>(a.weight) + j * a.k;
  int8_t* q = static_cast<int8_t*>(a.quantized) + j * a.k;
  float top = 0.f, broken = 0.f;  // a NaN is lost by fmaxf, so it is counted
  for (int64_t p = cuda::lane_index(); p < a.k; p += 32) {
    const float x = cuda::to_float(w[p]);
    top = fmaxf(top, fabsf(x));
    if (x != x) broken = 1.f;
  }
  top = cuda::warp_max(top);
  broken = cuda::warp_max(broken);
  const float inverse = top > 0.f ? 127.f / top : 0.f;
  for (int64_t p = cuda::lane_index(); p < a.k; p += 32) {
    const float x = rintf(cuda::to_float(w[p]) * inverse);
    q[p] = static_cast<int8_t>(x > 127.f ? 127.f : x >= -127.f ? x : -127.f);
  }
  if (cuda::lane_index() == 0) static_cast<float*>(a.scales)[j] = broken > 0.f ? NAN : top / 127.f;
}

// A thread a group; quantized_bf16_cpu.cpp says how the scale is chosen.
template <class T>
__global__ void __launch_bounds__(kThreads) quantize_int4_kernel(QuantizeArgs a) {
  const int64_t groups = (a.k + kQuantGroup - 1) / kQuantGroup;
  const int64_t t = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (t >= a.n * groups) return;
  const int64_t j = t / groups, first = t % groups * kQuantGroup;
  const T* w = static_cast<const T*>(a.weight) + j * a.k + first;
  const int count =
      static_cast<int>(a.k - first < kQuantGroup ? a.k - first : int64_t{kQuantGroup});
  const auto nibble = [](float x, float inverse) {
    return fmaxf(fminf(rintf(x * inverse), 7.f), -8.f);
  };
  float largest = 0.f;
  for (int i = 0; i < count; ++i) {
    const float x = cuda::to_float(w[i]);
    if (fabsf(x) > fabsf(largest) || x != x) largest = x;
  }
  float best = 0.f, scale = largest != largest ? largest : 0.f;
  if (fabsf(largest) > 1e-30f)
    for (int step = -4; step <= 4; ++step) {
      const float inverse = -(8.f + 0.25f * static_cast<float>(step)) / largest;
      float xq = 0.f, qq = 0.f;
      for (int i = 0; i < count; ++i) {
        const float x = cuda::to_float(w[i]), q = nibble(x, inverse);
        xq = fmaf(x, q, xq);
        qq = fmaf(q, q, qq);
      }
      if (qq > 0.f && xq / qq * xq > best) {
        best = xq / qq * xq;
        scale = xq / qq;
      }
    }
  const BFloat16 kept = cuda::from_float<BFloat16>(scale);
  static_cast<BFloat16*>(a.scales)[t] = kept;
  const float rounded = cuda::to_float(kept), inverse = rounded != 0.f ? 1.f / rounded : 0.f;
  uint8_t* out = static_cast<uint8_t*>(a.quantized) + t * 16;
  for (int i = 0; i < 16; ++i) {
    const float low = i < count ? nibble(cuda::to_float(w[i]), inverse) : 0.f;
    const float high = 16 + i < count ? nibble(cuda::to_float(w[16 + i]), inverse) : 0.f;
    out[i] = static_cast<uint8_t>((static_cast<int>(low) + 8) | (static_cast<int>(high) + 8) << 4);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) dequantize_kernel(DequantizeArgs a) {
  const int64_t groups = (a.k + kQuantGroup - 1) / kQuantGroup;
  for (int64_t t = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; t < a.n * a.k;
       t += static_cast<int64_t>(gridDim.x) * kThreads) {
    const int64_t j = t / a.k, p = t % a.k;
    float w;
    if (a.kind == QuantKind::kInt8) {
      w = static_cast<const float*>(a.scales)[j] *
          static_cast<float>(static_cast<const int8_t*>(a.quantized)[t]);
    } else {
      const int64_t g = j * groups + p / kQuantGroup;
      const int i = static_cast<int>(p % kQuantGroup);
      const int byte = static_cast<const uint8_t*>(a.quantized)[g * 16 + i % 16];
      w = cuda::to_float(static_cast<const BFloat16*>(a.scales)[g]) *
          static_cast<float>((i < 16 ? byte & 15 : byte >> 4) - 8);
    }
    static_cast<T*>(a.weight)[t] = cuda::from_float<T>(w);
  }
}

template <class T>
void quantize(const QuantizeArgs& a) {
  cuda::LaunchConfig config;
  config.block = dim3(kThreads);
  if (a.kind == QuantKind::kInt8) {
    config.grid = dim3(static_cast<unsigned>((a.n + kWarps - 1) / kWarps));
    cuda::launch(quantize_int8_kernel<T>, config, a);
  } else if (const int64_t items = a.n * ((a.k + kQuantGroup - 1) / kQuantGroup); items > 0) {
    config.grid = dim3(static_cast<unsigned>((items + kThreads - 1) / kThreads));
    cuda::launch(quantize_int4_kernel<T>, config, a);
  }
}

template <class T>
void dequantize(const DequantizeArgs& a) {
  const int64_t blocks = (a.n * a.k + kThreads - 1) / kThreads;
  cuda::LaunchConfig config;
  config.block = dim3(kThreads);
  config.grid = dim3(static_cast<unsigned>(blocks < 65535 ? blocks : 65535));
  cuda::launch(dequantize_kernel<T>, config, a);
}

}  // namespace

void quantize_weight_cuda(const QuantizeArgs& a) {
  if (a.dtype == DType::kFloat16) return quantize<cuda::Half>(a);
  if (a.dtype == DType::kBFloat16) return quantize<BFloat16>(a);
  quantize<float>(a);
}

void dequantize_weight_cuda(const DequantizeArgs& a) {
  if (a.dtype == DType::kFloat16) return dequantize<cuda::Half>(a);
  if (a.dtype == DType::kBFloat16) return dequantize<BFloat16>(a);
  dequantize<float>(a);
}

void quantized_linear_cuda(const QuantizedLinearArgs& a) {
  if (a.dtype == DType::kFloat16) return multiply_any<cuda::Half>(a);
  if (a.dtype == DType::kBFloat16) return multiply_any<BFloat16>(a);
  multiply_any<float>(a);
}

}  // namespace seqloom::ops
