// SPDX-License-Identifier: Apache-2.0
// What the launchers of the recurrences share on CUDA: launches over elements, products, lengths.
// Included by .cu files only.
#pragma once

#include <utility>

#include "cuda/rows.h"
#include "ops/matmul/matmul.h"
#include "ops/rnn/rnn_cuda.h"

namespace seqloom::ops {
namespace {  // each .cu has kernels of its own

constexpr int kStepThreads = 128;

// A thread for each of `elements`.
template <class... Params, class... Args>
void launch_over(int64_t elements, void (*kernel)(Params...), Args&&... args) {
  if (elements == 0) return;
  cuda::LaunchConfig c;
  c.grid = dim3(static_cast<unsigned>((elements + kStepThreads - 1) / kStepThreads));
  c.block = dim3(kStepThreads);
  cuda::launch(kernel, c, std::forward<Args>(args)...);
}

// A matrix in row-major order; ld 0: its rows touch.
struct Operand {
  const void* data;
  bool transposed = false;
  int64_t ld = 0;
};

// C [m, n] = A [m, k] B [k, n]; a transposed operand is stored the other way round. float_out: C is
// float32, whatever the operands' dtype is.
inline void product(const Operand& a, const Operand& b, void* c, int64_t m, int64_t n, int64_t k,
                    DType dtype = DType::kFloat32, bool float_out = false) {
  if (m == 0 || n == 0) return;
  ProductArgs p{};
  p.a = a.data;
  p.b = b.data;
  p.c = c;
  p.m = m;
  p.n = n;
  p.k = k;
  p.batch = 1;
  p.lda = a.ld != 0 ? a.ld : a.transposed ? m : k;
  p.ldb = b.ld != 0 ? b.ld : b.transposed ? k : n;
  p.ldc = n;
  p.trans_a = a.transposed;
  p.trans_b = b.transposed;
  p.epilogue = Epilogue::kNone;
  p.dtype = dtype;
  p.float_out = float_out;
  product_cuda(p);
}

// out[j] = sum over rows of x[row][j], in order; rows lie `stride` apart.
template <class T>
__global__ void __launch_bounds__(kStepThreads)
    column_sums_kernel(const T* x, int64_t rows, int64_t n, int64_t stride, float* out) {
  const int64_t j = static_cast<int64_t>(blockIdx.x) * kStepThreads + threadIdx.x;
  if (j >= n) return;
  float s = 0.f;
  for (int64_t r = 0; r < rows; ++r) s += cuda::to_float(x[r * stride + j]);
  out[j] = s;
}

template <class T>
__global__ void __launch_bounds__(kStepThreads) widen_kernel(const T* x, float* out, int64_t n) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kStepThreads + threadIdx.x;
  if (i < n) out[i] = cuda::to_float(x[i]);
}
template <class T>
__global__ void __launch_bounds__(kStepThreads) narrow_kernel(const float* x, T* out, int64_t n) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kStepThreads + threadIdx.x;
  if (i < n) out[i] = cuda::from_float<T>(x[i]);
}

// Steps are float32's: 16-bit arrays are widened before them and rounded after. `n` 0 or a null
// array stay null; float32 ones stay where they are.
template <class T>
class Widened {
 public:
  Widened(const void* source, int64_t n)
      : memory_(copied(source, n) ? static_cast<std::size_t>(n) * sizeof(float) : 0),
        data_(static_cast<const float*>(source)) {
    if constexpr (kCopies) {
      data_ = memory_.template as<const float>();
      if (copied(source, n))
        launch_over(n, widen_kernel<T>, static_cast<const T*>(source), memory_.template as<float>(),
                    n);
    }
  }
  const float* get() const { return data_; }

 private:
  static constexpr bool kCopies = sizeof(T) != sizeof(float);
  static bool copied(const void* source, int64_t n) {
    return kCopies && source != nullptr && n > 0;
  }
  cuda::Workspace memory_;
  const float* data_;
};

template <class T>
class Narrowed {  // an output in float32, rounded into its place by finish()
 public:
  Narrowed(void* target, int64_t n)
      : target_(static_cast<T*>(target)),
        n_(n),
        memory_(kCopies && target != nullptr ? static_cast<std::size_t>(n) * sizeof(float) : 0) {}
  float* get() const {
    if constexpr (kCopies) return memory_.template as<float>();
    return reinterpret_cast<float*>(target_);
  }
  void finish() const {
    if constexpr (kCopies)
      if (target_ != nullptr) launch_over(n_, narrow_kernel<T>, get(), target_, n_);
  }

 private:
  static constexpr bool kCopies = sizeof(T) != sizeof(float);
  T* target_;
  int64_t n_;
  cuda::Workspace memory_;
};

// The lengths in device memory for the time of a call.
class DeviceLengths {
 public:
  DeviceLengths(const int64_t* lengths, int64_t batch)
      : memory_(lengths == nullptr ? 0 : static_cast<std::size_t>(batch) * sizeof(int64_t)) {
    if (lengths != nullptr)
      cuda::copy_to_device(memory_.as<int64_t>(), lengths,
                           static_cast<std::size_t>(batch) * sizeof(int64_t),
                           cuda::current_stream());
  }
  const int64_t* get() const { return memory_.as<const int64_t>(); }

 private:
  cuda::Workspace memory_;
};

// Steps of the longest of these sequences.
inline int64_t longest(const int64_t* lengths, int64_t batch, int64_t steps) {
  if (lengths == nullptr) return steps;
  int64_t n = 0;
  for (int64_t b = 0; b < batch; ++b) n = lengths[b] > n ? lengths[b] : n;
  return n;
}

}  // namespace
}  // namespace seqloom::ops
