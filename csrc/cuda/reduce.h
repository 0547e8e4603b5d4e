// SPDX-License-Identifier: Apache-2.0
// Reductions over a warp, a block and a cluster: sum, max and Welford mean/variance. Every result
// is given to all threads that took part, and the order of operations is fixed, so the same input
// gives the same bits.
//
// Block size must be a multiple of 32, and all threads of the block must call the block version.
#pragma once
#include "cuda/ptx.h"

namespace seqloom::cuda {

constexpr unsigned kFullWarp = 0xffffffffu;
constexpr int kWarpSize = 32;

SEQLOOM_DEVICE int lane_index() { return static_cast<int>(threadIdx.x) & 31; }
SEQLOOM_DEVICE int warp_index() { return static_cast<int>(threadIdx.x) >> 5; }  // 1-D blocks

struct Sum {
  template <class T>
  SEQLOOM_DEVICE static T combine(T a, T b) {
    return a + b;
  }
};
struct Max {
  SEQLOOM_DEVICE static float combine(float a, float b) { return fmaxf(a, b); }
  SEQLOOM_DEVICE static int combine(int a, int b) { return a < b ? b : a; }
};

// Mean and sum of squared deviations of `count` values: merged by Chan's formula, which keeps the
// accuracy of the two-pass variance where E[x^2] - E[x]^2 would cancel.
struct Moments {
  float mean, m2, count;  // no initialisers, so that arrays of it may be shared: write Moments{}

  SEQLOOM_DEVICE void add(float x) {
    count += 1.f;
    const float delta = x - mean;
    mean += delta / count;
    m2 += delta * (x - mean);
  }
  SEQLOOM_DEVICE float variance() const { return m2 / count; }
};

SEQLOOM_DEVICE Moments merge(const Moments& a, const Moments& b) {
  Moments r{};
  r.count = a.count + b.count;
  if (r.count == 0.f) return r;
  const float delta = b.mean - a.mean;
  const float share = b.count / r.count;
  r.mean = a.mean + delta * share;
  r.m2 = a.m2 + b.m2 + delta * delta * a.count * share;
  return r;
}

// Butterfly over groups of Width consecutive lanes (a power of two up to 32).
template <class Op, int Width = 32, class T>
SEQLOOM_DEVICE T warp_reduce(T value SEQLOOM_SITE) {
#pragma unroll
  for (int offset = Width / 2; offset > 0; offset >>= 1)
    value = Op::combine(value, __shfl_xor_sync(kFullWarp, value, offset, 32 SEQLOOM_PASS_SITE));
  return value;
}
template <int Width = 32, class T>
SEQLOOM_DEVICE T warp_sum(T value SEQLOOM_SITE) {
  return warp_reduce<Sum, Width>(value SEQLOOM_PASS_SITE);
}
template <int Width = 32, class T>
SEQLOOM_DEVICE T warp_max(T value SEQLOOM_SITE) {
  return warp_reduce<Max, Width>(value SEQLOOM_PASS_SITE);
}
template <int Width = 32>
SEQLOOM_DEVICE Moments warp_moments(Moments value SEQLOOM_SITE) {
#pragma unroll
  for (int offset = Width / 2; offset > 0; offset >>= 1) {
    Moments other{};
    other.mean = __shfl_xor_sync(kFullWarp, value.mean, offset, 32 SEQLOOM_PASS_SITE);
    other.m2 = __shfl_xor_sync(kFullWarp, value.m2, offset, 32 SEQLOOM_PASS_SITE);
    other.count = __shfl_xor_sync(kFullWarp, value.count, offset, 32 SEQLOOM_PASS_SITE);
    // Both partners must merge in the same order, or their bits differ.
    value = (lane_index() & offset) ? merge(other, value) : merge(value, other);
  }
  return value;
}

// One value a warp is parked in `scratch` (shared memory, at least one element a warp), then every
// warp folds all of them. The leading barrier lets `scratch` be reused by consecutive calls.
template <class Op, class T>
SEQLOOM_DEVICE T block_reduce(T value, T* scratch SEQLOOM_SITE) {
  const int warps = static_cast<int>(blockDim.x) >> 5;
  value = warp_reduce<Op>(value SEQLOOM_PASS_SITE);
  if (warps == 1) return value;
  __syncthreads(SEQLOOM_PASS_SITE_ONLY);
  if (lane_index() == 0) scratch[warp_index()] = value;
  __syncthreads(SEQLOOM_PASS_SITE_ONLY);
  T total = scratch[0];
  for (int w = 1; w < warps; ++w) total = Op::combine(total, scratch[w]);
  return total;
}
template <class T>
SEQLOOM_DEVICE T block_sum(T value, T* scratch SEQLOOM_SITE) {
  return block_reduce<Sum>(value, scratch SEQLOOM_PASS_SITE);
}
template <class T>
SEQLOOM_DEVICE T block_max(T value, T* scratch SEQLOOM_SITE) {
  return block_reduce<Max>(value, scratch SEQLOOM_PASS_SITE);
}
SEQLOOM_DEVICE Moments block_moments(Moments value, Moments* scratch SEQLOOM_SITE) {
  const int warps = static_cast<int>(blockDim.x) >> 5;
  value = warp_moments(value SEQLOOM_PASS_SITE);
  if (warps == 1) return value;
  __syncthreads(SEQLOOM_PASS_SITE_ONLY);
  if (lane_index() == 0) scratch[warp_index()] = value;
  __syncthreads(SEQLOOM_PASS_SITE_ONLY);
  Moments total = scratch[0];
  for (int w = 1; w < warps; ++w) total = merge(total, scratch[w]);
  return total;
}

// Over all blocks of a cluster (sm_90). `scratch` holds one element a warp, `parts` one element a
// block of the cluster, and both lie at the same shared offset in every block.
template <class Op, class T>
SEQLOOM_DEVICE T cluster_reduce(T value, T* scratch, T* parts SEQLOOM_SITE) {
  value = block_reduce<Op>(value, scratch SEQLOOM_PASS_SITE);
  const uint32_t blocks = ptx::cluster_size(), rank = ptx::cluster_rank();
  // Everyone has read the parts of an earlier call, and every block has started.
  ptx::cluster_sync(SEQLOOM_PASS_SITE_ONLY);
  if (threadIdx.x < blocks) *ptx::map_to_rank(&parts[rank], threadIdx.x SEQLOOM_PASS_SITE) = value;
  ptx::cluster_sync(SEQLOOM_PASS_SITE_ONLY);
  T total = parts[0];
  for (uint32_t b = 1; b < blocks; ++b) total = Op::combine(total, parts[b]);
  return total;
}

}  // namespace seqloom::cuda
