// SPDX-License-Identifier: Apache-2.0
#include "emulation/host_gemm.h"

#include <vector>

#include "emulation/machine.h"

namespace seqloom::emulation {
namespace {

std::size_t size_of(DType t) { return t == DType::kFloat32 ? 4 : 2; }

float load(const void* p, std::int64_t i, DType t) {
  if (t == DType::kFloat32) return static_cast<const float*>(p)[i];
  if (t == DType::kFloat16) return __half2float(static_cast<const __half*>(p)[i]);
  return __bfloat162float(static_cast<const __nv_bfloat16*>(p)[i]);
}
void store(void* p, std::int64_t i, DType t, float v) {
  if (t == DType::kFloat32) {
    static_cast<float*>(p)[i] = v;
  } else if (t == DType::kFloat16) {
    static_cast<__half*>(p)[i] = __float2half_rn(v);
  } else {
    static_cast<__nv_bfloat16*>(p)[i] = __float2bfloat16_rn(v);
  }
}
template <class T>
T* advance(T* p, std::int64_t elements, DType t) {
  using Bytes = std::conditional_t<std::is_const_v<T>, const unsigned char, unsigned char>;
  return static_cast<Bytes*>(p) + elements * static_cast<std::int64_t>(size_of(t));
}

cudaError_t complain(const char* operand, const char* what) {
  machine.last_report = std::string("matrix product: ") + operand + " " + what;
  return cudaErrorLaunchFailure;
}

// A rows x columns matrix at p must lie in one allocation and, when read, be initialised. Only the
// checker knows what kernels have written; elsewhere NaN tells.
cudaError_t check_matrix(const char* operand, const void* p, std::int64_t rows,
                         std::int64_t columns, std::int64_t row, DType t, bool read) {
  if (rows == 0 || columns == 0) return cudaSuccess;
  const std::size_t bytes = static_cast<std::size_t>((rows - 1) * row + columns) * size_of(t);
  if (!is_device_range(p, bytes)) return complain(operand, "is not inside one live allocation");
  if (!read || !built_with_checker() || !machine.settings.check) return cudaSuccess;
  for (std::int64_t r = 0; r < rows; ++r) {
    const auto* begin = static_cast<const unsigned char*>(advance(p, r * row, t));
    const std::uint8_t* state = machine.states + (begin - machine.heap);
    for (std::size_t i = 0; i < static_cast<std::size_t>(columns) * size_of(t); ++i)
      if (state[i] != kInitialised) return complain(operand, "was not initialised");
  }
  return cudaSuccess;
}

// rows x columns floats, from the matrix or its transpose.
std::vector<float> gather(const void* p, std::int64_t rows, std::int64_t columns, std::int64_t row,
                          bool transposed, DType t) {
  std::vector<float> out(static_cast<std::size_t>(rows * columns));
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < columns; ++c)
      out[static_cast<std::size_t>(r * columns + c)] =
          load(p, transposed ? c * row + r : r * row + c, t);
  return out;
}

cudaError_t product(const cuda::GemmArgs& g, const void* a, const void* b, void* c) {
  const std::int64_t row_a = g.row_a ? g.row_a : (g.transpose_a ? g.m : g.k);
  const std::int64_t row_b = g.row_b ? g.row_b : (g.transpose_b ? g.k : g.n);
  const std::int64_t row_c = g.row_c ? g.row_c : g.n;
  if (const cudaError_t e = check_matrix("a", a, g.transpose_a ? g.k : g.m,
                                         g.transpose_a ? g.m : g.k, row_a, g.dtype, true))
    return e;
  if (const cudaError_t e = check_matrix("b", b, g.transpose_b ? g.n : g.k,
                                         g.transpose_b ? g.k : g.n, row_b, g.dtype, true))
    return e;
  if (const cudaError_t e = check_matrix("c", c, g.m, g.n, row_c, g.out_dtype, g.beta != 0.f))
    return e;
  if (g.bias)
    if (const cudaError_t e = check_matrix("bias", g.bias, 1, g.n, g.n, g.dtype, true)) return e;
  const std::vector<float> x = gather(a, g.m, g.k, row_a, g.transpose_a, g.dtype);
  const std::vector<float> y = gather(b, g.k, g.n, row_b, g.transpose_b, g.dtype);
  std::vector<float> sums(static_cast<std::size_t>(g.n));
  for (std::int64_t i = 0; i < g.m; ++i) {
    std::fill(sums.begin(), sums.end(), 0.f);
    for (std::int64_t k = 0; k < g.k; ++k) {
      const float v = x[static_cast<std::size_t>(i * g.k + k)];
      const float* line = y.data() + k * g.n;
      for (std::int64_t j = 0; j < g.n; ++j) sums[static_cast<std::size_t>(j)] += v * line[j];
    }
    for (std::int64_t j = 0; j < g.n; ++j) {
      float v = g.alpha * sums[static_cast<std::size_t>(j)];
      if (g.beta != 0.f) v += g.beta * load(c, i * row_c + j, g.out_dtype);
      if (g.bias) v += load(g.bias, j, g.dtype);
      store(c, i * row_c + j, g.out_dtype, v);
    }
    set_state(advance(c, i * row_c, g.out_dtype),
              static_cast<std::size_t>(g.n) * size_of(g.out_dtype), kInitialised);
  }
  return cudaSuccess;
}

}  // namespace

cudaError_t host_gemm(const cuda::GemmArgs& g, cudaStream_t stream) {
  std::lock_guard<std::recursive_mutex> hold(machine.lock);
  return enqueue(stream, [g] {
    for (std::int64_t i = 0; i < g.batch; ++i)
      if (const cudaError_t e = product(g, advance(g.a, i * g.stride_a, g.dtype),
                                        advance(g.b, i * g.stride_b, g.dtype),
                                        advance(g.c, i * g.stride_c, g.out_dtype)))
        return e;
    return cudaSuccess;
  });
}

}  // namespace seqloom::emulation
