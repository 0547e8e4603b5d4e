// SPDX-License-Identifier: Apache-2.0
// Rotary position embedding on CUDA. A thread turns W neighbouring pairs of a row, or copies W
// columns that pass through; W is 16 bytes of elements where sizes and addresses allow, else 1.
#include "cuda/gpu.h"
#include "cuda/vector_access.h"
#include "ops/elementwise/rotary.h"

namespace seqloom::ops {
namespace {

constexpr int kThreads = 256;

template <class T, int W>
SEQLOOM_DEVICE void load_some(const T* p, float (&x)[W]) {
  constexpr int V = cuda::kVectorWidth<T>;
  if constexpr (W >= V) {
#pragma unroll
    for (int i = 0; i < W; i += V) {
      float part[V];
      cuda::load_vector(p + i, part);
#pragma unroll
      for (int k = 0; k < V; ++k) x[i + k] = part[k];
    }
  } else {
#pragma unroll
    for (int i = 0; i < W; ++i) x[i] = cuda::to_float(p[i]);
  }
}
template <class T, int W>
SEQLOOM_DEVICE void store_some(T* p, const float (&x)[W]) {
  if constexpr (W == cuda::kVectorWidth<T>) {
    cuda::store_vector(p, x);
  } else {
#pragma unroll
    for (int i = 0; i < W; ++i) p[i] = cuda::from_float<T>(x[i]);
  }
}

template <class T, class Table, int W>
__global__ void __launch_bounds__(kThreads) rotary_kernel(RotaryArgs a) {
  const int64_t turned = a.pairs / W, passed = (a.width - 2 * a.pairs) / W;
  const int64_t units = turned + passed, rows = a.batch * a.heads * a.length;
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < rows * units;
       i += step) {
    const int64_t row = i / units, unit = i - row * units;
    const int64_t t = row % a.length, h = row / a.length % a.heads, b = row / a.length / a.heads;
    const T* x =
        static_cast<const T*>(a.x) + b * a.strides[0] + h * a.strides[1] + t * a.strides[2];
    T* y = static_cast<T*>(a.out) + row * a.width;
    float first[W], second[W], c[W], s[W];
    if (unit >= turned) {
      const int64_t at = 2 * a.pairs + (unit - turned) * W;
      load_some<T, W>(x + at, first);
      store_some<T, W>(y + at, first);
      continue;
    }
    const int64_t k = unit * W;
    const int64_t at = b * a.table_batch_stride + t * a.pairs + k;
    load_some<Table, W>(static_cast<const Table*>(a.cos) + at, c);
    load_some<Table, W>(static_cast<const Table*>(a.sin) + at, s);
    const float sign = a.negate ? -1.f : 1.f;
    // Interleaved, 2 W consecutive columns hold the pairs: even ones first, odd ones second.
    const int64_t left = a.interleaved ? 2 * k : k;
    const int64_t right = a.interleaved ? 2 * k + W : k + a.pairs;
    load_some<T, W>(x + left, first);
    load_some<T, W>(x + right, second);
    float out_first[W], out_second[W];
#pragma unroll
    for (int j = 0; j < W; ++j) {
      if (a.interleaved) {
        // Column j of the 2 W; its pair is j / 2 (or W / 2 + j / 2 in the second half).
        const int mate = j ^ 1;
        const float turn = (j & 1) ? 1.f : -1.f;
        if constexpr (W > 1) {
          out_first[j] = first[j] * c[j / 2] + turn * sign * first[mate] * s[j / 2];
          out_second[j] =
              second[j] * c[W / 2 + j / 2] + turn * sign * second[mate] * s[W / 2 + j / 2];
        } else {
          out_first[j] = first[j] * c[j] - sign * second[j] * s[j];
          out_second[j] = second[j] * c[j] + sign * first[j] * s[j];
        }
      } else {
        out_first[j] = first[j] * c[j] - sign * second[j] * s[j];
        out_second[j] = second[j] * c[j] + sign * first[j] * s[j];
      }
    }
    store_some<T, W>(y + left, out_first);
    store_some<T, W>(y + right, out_second);
  }
}

bool aligned(const void* p) { return (reinterpret_cast<uintptr_t>(p) & 15) == 0; }

template <class T, class Table>
void launch_rotary(const RotaryArgs& a) {
  constexpr int W = cuda::kVectorWidth<T>;
  bool vectors = a.pairs % W == 0 && a.width % W == 0 && aligned(a.x) && aligned(a.cos) &&
                 aligned(a.sin) && aligned(a.out);
  for (const int64_t stride : a.strides) vectors &= stride % W == 0;
  const int width = vectors ? W : 1;
  const int64_t units = a.batch * a.heads * a.length * ((a.width - a.pairs) / width);
  const int64_t blocks = (units + kThreads - 1) / kThreads;
  const cuda::LaunchConfig config{dim3(static_cast<unsigned>(blocks < 65536 ? blocks : 65536)),
                                  dim3(kThreads)};
  if (vectors)
    cuda::launch(rotary_kernel<T, Table, W>, config, a);
  else
    cuda::launch(rotary_kernel<T, Table, 1>, config, a);
}

}  // namespace

void rotary_cuda(const RotaryArgs& args) {
  const bool wide = args.table_dtype == DType::kFloat32;
  switch (args.dtype) {
    case DType::kFloat16:
      return wide ? launch_rotary<cuda::Half, float>(args)
                  : launch_rotary<cuda::Half, cuda::Half>(args);
    case DType::kBFloat16:
      return wide ? launch_rotary<cuda::BFloat16, float>(args)
                  : launch_rotary<cuda::BFloat16, cuda::BFloat16>(args);
    default:
      return launch_rotary<float, float>(args);
  }
}

}  // namespace seqloom::ops
