// SPDX-License-Identifier: Apache-2.0
// Layer norm forward, one block a row: shuffles and one shared buffer that is used twice.
#include "../support.h"

namespace seqloom_test {
namespace {

constexpr int kThreads = 256;

SEQLOOM_DEVICE float sum_of_block(float v, float* scratch, int bug) {
  const int w = warp_index(), l = lane_index();
  v = warp_sum(v);
  if (l == 0) scratch[w] = v;
  if (bug != 1) __syncthreads();
  v = l < kThreads / 32 ? scratch[l] : 0.f;
  v = warp_sum(v);
  if (bug != 2) __syncthreads();  // the next call overwrites scratch
  return v;
}

__global__ void __launch_bounds__(kThreads)
    layer_norm_kernel(const float* __restrict__ x, const float* __restrict__ weight,
                      const float* __restrict__ bias, float* __restrict__ y, int n, float eps,
                      int bug) {
  SHARED_ARRAY(float, scratch, [kThreads / 32]);
  const auto* xr = reinterpret_cast<const float4*>(x + static_cast<size_t>(blockIdx.x) * n);
  auto* yr = reinterpret_cast<float4*>(y + static_cast<size_t>(blockIdx.x) * n);
  const int t = static_cast<int>(threadIdx.x);
  if (bug == 3 && blockIdx.x == 1 && t >= 64) return;  // others still count on these threads

  float s = 0.f;
  for (int i = t; i < n / 4; i += kThreads) {
    const float4 v = __ldg(xr + i);
    s += (v.x + v.y) + (v.z + v.w);
  }
  if (bug == 4) {  // barriers on two sides of a branch
    if (t < 64) {
      s = sum_of_block(s, scratch, bug);
    } else {
      s = sum_of_block(s, scratch, bug) + 0.f;
    }
    if (t < 32) __syncthreads();
  } else {
    s = sum_of_block(s, scratch, bug);
  }
  const float mean = s / static_cast<float>(n);
  float q = 0.f;
  for (int i = t; i < n / 4 + (bug == 5); i += kThreads) {  // 5: one float4 past the last row
    const float4 v = __ldg(xr + i);
    const float a = v.x - mean, b = v.y - mean, c = v.z - mean, d = v.w - mean;
    q += (a * a + b * b) + (c * c + d * d);
  }
  q = sum_of_block(q, scratch, bug);
  if (bug == 6 && (t & 31) < 16) q = __shfl_xor_sync(kFullWarp, q, 1);  // half of the warp
  if (bug == 7 && (t & 31) < 16) q = __shfl_down_sync(0x0000ffffu, q, 16) * 0.f + q;
  const float r = rsqrtf(q / static_cast<float>(n) + eps);
  for (int i = t; i < n / 4; i += kThreads) {
    const float4 v = __ldg(xr + i), g = __ldg(reinterpret_cast<const float4*>(weight) + i),
                 b = __ldg(reinterpret_cast<const float4*>(bias) + i);
    float4 o;
    o.x = (v.x - mean) * r * g.x + b.x;
    o.y = (v.y - mean) * r * g.y + b.y;
    o.z = (v.z - mean) * r * g.z + b.z;
    o.w = (v.w - mean) * r * g.w + b.w;
    if (bug != 8 || i != n / 4 - 1) yr[i] = o;  // 8: the last element is never written
  }
}

}  // namespace

SEQLOOM_EXPORT int run_layer_norm(const float* x, const float* weight, const float* bias, float* y,
                                  int rows, int n, float eps, int bug) {
  return guarded([&] {
    LaunchConfig c;
    c.grid = dim3(static_cast<unsigned>(rows));
    c.block = dim3(kThreads);
    launch(layer_norm_kernel, c, x, weight, bias, y, n, eps, bug);
    synchronize_stream(nullptr);
  });
}

}  // namespace seqloom_test
