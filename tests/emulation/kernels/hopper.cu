// SPDX-License-Identifier: Apache-2.0
// sm_90: sums through distributed shared memory; a matrix product from tensor-map loads and wgmma
// with both operands in shared memory, or with the first in registers and the second transposed.
#include "../support.h"

namespace seqloom_test {
namespace {

constexpr int kCluster = 4;

__global__ void __launch_bounds__(64) cluster_kernel(const float* x, float* out, int n, int bug) {
  SHARED_ARRAY(float, parts, [kCluster]);
  SHARED_ARRAY(float, scratch, [2]);
  const uint32_t rank = ptx::cluster_rank();
  float s = 0.f;
  for (int i = static_cast<int>(threadIdx.x); i < n; i += 64)
    s += x[static_cast<size_t>(blockIdx.x) * n + i];
  s = block_sum(s, scratch);
  if (bug != 3) ptx::cluster_sync();  // every block has started
  if (threadIdx.x == 0)
    *ptx::map_to_rank(&parts[rank], bug == 2 ? kCluster : 0) = s;  // 2: no such block
  if (bug != 1) ptx::cluster_sync();
  if (rank == 0 && threadIdx.x == 0) {
    float total = 0.f;
    for (int r = 0; r < kCluster; ++r) total += parts[r];
    out[blockIdx.x / kCluster] = total;
  }
  if (bug == 1) ptx::cluster_sync();
}

// Blocks send their sum with st.async, which completes an mbarrier of block 0.
__global__ void __launch_bounds__(64) mailbox_kernel(const float* x, float* out, int n, int bug) {
  SHARED_ARRAY(float, parts, [kCluster]);
  SHARED_ARRAY(float, scratch, [2]);
  SHARED_ARRAY(uint64_t, barrier, [1]);
  const uint32_t rank = ptx::cluster_rank(), bar = ptx::shared_address(barrier);
  if (threadIdx.x == 0) {
    ptx::mbarrier_init(bar, 1);
    ptx::mbarrier_init_fence();
    if (rank == 0) ptx::mbarrier_arrive_expect(bar, (bug == 1 ? 5 : kCluster) * 4);
  }
  ptx::cluster_sync();
  float s = 0.f;
  for (int i = static_cast<int>(threadIdx.x); i < n; i += 64)
    s += x[static_cast<size_t>(blockIdx.x) * n + i];
  s = block_sum(s, scratch);
  if (threadIdx.x == 0)
    ptx::store_async(ptx::map_address_to_rank(ptx::shared_address(&parts[rank]), 0),
                     __float_as_uint(s), ptx::map_address_to_rank(bar, 0));
  if (rank == 0) {
    if (bug != 2) ptx::mbarrier_wait(bar, 0);
    if (threadIdx.x == 0) {
      float total = 0.f;
      for (int r = 0; r < kCluster; ++r) total += parts[r];
      out[blockIdx.x / kCluster] = total;
    }
  }
  if (bug == 3 && rank == 0) {
    if (threadIdx.x == 0) parts[0] = 0.f;
    return;  // without waiting: see below
  }
  if (bug == 3 && threadIdx.x == 0)  // late mail
    *ptx::map_to_rank(&parts[rank], 0) = 1.f;
  if (bug != 3) ptx::cluster_sync();  // block 0's memory lives until everybody is done
}

// A barrier in two halves: what is written between them is not published by it.
__global__ void __launch_bounds__(32) split_kernel(float* out, int bug) {
  SHARED_ARRAY(float, early, [32]);
  SHARED_ARRAY(float, late, [32]);
  const uint32_t rank = ptx::cluster_rank();
  const int t = static_cast<int>(threadIdx.x);
  early[t] = static_cast<float>(t);
  if (bug == 2 && t < 16) {
    ptx::cluster_arrive();
  } else {
    ptx::cluster_arrive();
  }
  late[t] = static_cast<float>(t);
  ptx::cluster_wait();
  out[rank * 32 + threadIdx.x] = *ptx::map_to_rank(bug == 1 ? &late[t] : &early[t], rank ^ 1u);
  ptx::cluster_sync();
}

// One thread hands a value to another in each phase of a barrier. It has arrived for the second
// phase before the other one has looked at the first.
__global__ void __launch_bounds__(64) phases_kernel(float* out, int bug) {
  SHARED_ARRAY(float, values, [2]);
  SHARED_ARRAY(uint64_t, barrier, [1]);
  const uint32_t bar = ptx::shared_address(barrier);
  if (threadIdx.x == 0) {
    ptx::mbarrier_init(bar, 2);
    ptx::mbarrier_init_fence();
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    values[0] = 1.f;
    ptx::mbarrier_arrive(bar);
    ptx::mbarrier_arrive(bar);
    values[1] = 2.f;
    ptx::mbarrier_arrive(bar);
  } else if (threadIdx.x == 32) {
    ptx::mbarrier_wait(bar, 0);
    out[0] = values[0];
    if (bug == 1) out[1] = values[1];
    ptx::mbarrier_arrive(bar);
    ptx::mbarrier_wait(bar, 1);
    if (bug != 1) out[1] = values[1];
  }
}

// A bulk copy reads global memory that ordinary stores of the same launch have written.
__global__ void __launch_bounds__(32) proxy_kernel(float* x, float* out, int bug) {
  SHARED_ARRAY(float4, tile, [8]);
  SHARED_ARRAY(uint64_t, barrier, [1]);
  const uint32_t bar = ptx::shared_address(barrier);
  const int t = static_cast<int>(threadIdx.x);
  if (t == 0) {
    ptx::mbarrier_init(bar, 1);
    ptx::mbarrier_init_fence();
  }
  x[t] = static_cast<float>(t);
  if (bug == 1) {
    ptx::fence_proxy_async();  // of shared memory alone
  } else if (bug != 2) {
    ptx::fence_proxy_async_all();
  }
  __syncwarp();
  if (t == 0) {
    ptx::mbarrier_arrive_expect(bar, 128);
    ptx::bulk_load(ptx::shared_address(tile), x, 128, bar);
  }
  ptx::mbarrier_wait(bar, 0);
  out[t] = reinterpret_cast<const float*>(tile)[t];
}

constexpr int kStages = 2, kDepth = 64;
constexpr uint32_t kTile = 64 * kDepth * 2;

// C[64, 64] = A[64, K] B[64, K]^T (kRegisters false) or A[64, K] B[K, 64] (true).
template <bool kRegisters>
__global__ void __launch_bounds__(128)
    wgmma_kernel(const __grid_constant__ CUtensorMap map_a,
                 const __grid_constant__ CUtensorMap map_b,
                 const __grid_constant__ CUtensorMap map_c, const BFloat16* a, int depth, int bug) {
  DYNAMIC_SHARED(smem, 1024);
  const uint32_t tiles_a = ptx::shared_address(smem), tiles_b = tiles_a + kStages * kTile,
                 tile_c = tiles_b + kStages * kTile;
  uint32_t bar[kStages];  // behind C
  for (int i = 0; i < kStages; ++i) bar[i] = tile_c + 64 * 64 * 4 + static_cast<uint32_t>(i) * 8;
  const int t = static_cast<int>(threadIdx.x), w = warp_index(), l = lane_index();
  if (t == 0) {
    for (int i = 0; i < kStages; ++i) ptx::mbarrier_init(bar[i], 1);
    if (bug != 7) ptx::mbarrier_init_fence();
  }
  __syncthreads();
  const int chunks = depth / kDepth;
  const auto issue = [&](int k) {
    const int s = k % kStages;
    const uint32_t bytes = kRegisters ? kTile : 2 * kTile;
    ptx::mbarrier_arrive_expect(bar[s], bug == 6 ? bytes / 2 : bytes);
    if (!kRegisters)
      ptx::tensor_load_2d(tiles_a + static_cast<uint32_t>(s) * kTile, &map_a, k * kDepth, 0,
                          bar[s]);
    ptx::tensor_load_2d(tiles_b + static_cast<uint32_t>(s) * kTile, &map_b,
                        kRegisters ? 0 : k * kDepth, kRegisters ? k * kDepth : 0, bar[s]);
  };
  if (t == 0)
    for (int k = 0; k < kStages && k < chunks; ++k) issue(k);
  float acc[32] = {};
  for (int k = 0; k < chunks; ++k) {
    const int s = k % kStages;
    if (bug != 1 && (bug != 15 || w != 3))
      ptx::mbarrier_wait(bar[s], (k / kStages + (bug == 5)) & 1);
    uint32_t fragments[kDepth / 16][4];
    const auto load_fragment = [&](int i, uint32_t (&fragment)[4]) {
      for (int r = 0; r < 4; ++r)
        memcpy(&fragment[r],
               a + static_cast<size_t>(w * 16 + (l >> 2) + (r & 1) * 8) * depth + k * kDepth +
                   i * 16 + (l & 3) * 2 + (r >> 1) * 8,
               4);
    };
    if (kRegisters && bug != 20)
      for (int i = 0; i < kDepth / 16; ++i) load_fragment(i, fragments[i]);
    // The second chunk needs none: nobody has touched the accumulators since they landed.
    if (bug != 8 && (kRegisters || k != 1)) ptx::wgmma_fence();
    if (kRegisters && bug == 20)
      for (int i = 0; i < kDepth / 16; ++i) load_fragment(i, fragments[i]);
    float fresh[32];  // need no fence as long as nobody writes them
    const uint32_t at_a = tiles_a + static_cast<uint32_t>(s) * kTile,
                   at_b = tiles_b + static_cast<uint32_t>(s) * kTile;
#pragma unroll
    for (int i = 0; i < kDepth / 16; ++i) {
      const uint32_t step = static_cast<uint32_t>(i);
      if constexpr (kRegisters) {
        const uint64_t desc =
            ptx::wgmma_descriptor(at_b + step * 2048, 0, bug == 2 ? 512 : 1024, ptx::Swizzle::k128);
        ptx::wgmma_rs<BFloat16, 64, 1>(acc, fragments[i], desc, 1);
        if (bug == 21) load_fragment(i ^ 1, fragments[i]);  // while the wgmma may still read them
      } else {
        const uint64_t desc_a =
            ptx::wgmma_descriptor(at_a + step * 32, 0, bug == 2 ? 512 : 1024, ptx::Swizzle::k128);
        const uint64_t desc_b = ptx::wgmma_descriptor(
            at_b + step * 32, 0, 1024, bug == 11 ? ptx::Swizzle::k64 : ptx::Swizzle::k128);
        const bool first = k == 0 && i == 0;
        if (bug == 16 && first)
          for (float& x : acc) x = 1.f;  // not read, and yet a write after the fence
        if (bug == 17 && first)
          for (float& x : fresh) x = 0.f;
        if (first) ptx::wgmma_ss<BFloat16, 64>(fresh, desc_a, desc_b, bug == 17);
        ptx::wgmma_ss<BFloat16, 64>(acc, desc_a, desc_b, first ? 0 : 1);
      }
    }
    ptx::wgmma_commit();
    if (bug == 18 && k == 0) acc[0] = 0.f;  // before the result has come
    if (bug != 3 && bug != 12) ptx::wgmma_wait<0>();
    if (bug == 9 && k == 0)
      for (float& x : acc) x *= 1.f + 1e-6f;  // and no fence before the next wgmma
    if (bug != 4) __syncthreads();            // everybody is done with stage s
    if (t == 0 && k + kStages < chunks) issue(k + kStages);
    if (bug == 9 && k == 0 && chunks > 1) {
      ptx::mbarrier_wait(bar[1], 0);
      ptx::wgmma_ss<BFloat16, 64>(
          acc, ptx::wgmma_descriptor(tiles_a + kTile, 0, 1024, ptx::Swizzle::k128),
          ptx::wgmma_descriptor(tiles_b + kTile, 0, 1024, ptx::Swizzle::k128), 1);
      ptx::wgmma_commit();
      ptx::wgmma_wait<0>();
    }
  }
  if (bug == 12) ptx::wgmma_wait<0>();
  // Out through shared memory and a tensor store.
  float* c = reinterpret_cast<float*>(smem + 2 * kStages * kTile);
#pragma unroll
  for (int j = 0; j < 8; ++j)
#pragma unroll
    for (int e = 0; e < 4; ++e)
      c[(w * 16 + (l >> 2) + (e >> 1) * 8) * 64 + j * 8 + (l & 3) * 2 + (e & 1)] = acc[j * 4 + e];
  if (bug == 3) ptx::wgmma_wait<0>();
  if (bug != 10) ptx::fence_proxy_async();
  __syncthreads();
  if (t == 0) {
    ptx::tensor_store_2d(&map_c, tile_c, 0, 0);
    ptx::bulk_commit();
    if (bug == 13) c[0] = 0.f;  // the store may not have read it yet
    if (bug != 14) ptx::bulk_wait_read<0>();
  }
}

CUtensorMap matrix_map(const void* p, TensorElement element, uint64_t columns, uint64_t rows,
                       uint32_t box_columns, uint32_t box_rows, TensorSwizzle swizzle) {
  const uint64_t dims[2] = {columns, rows};
  const uint64_t strides[1] = {columns * (element == TensorElement::kFloat32 ? 4 : 2)};
  const uint32_t box[2] = {box_columns, box_rows};
  return make_tensor_map(p, element, 2, dims, strides, box, swizzle);
}

}  // namespace

SEQLOOM_EXPORT int run_cluster(const float* x, float* out, int clusters, int n, int mailbox,
                               int bug) {
  return guarded([&] {
    LaunchConfig c;
    c.grid = dim3(static_cast<unsigned>(clusters * kCluster));
    c.block = dim3(64);
    c.cluster = dim3(kCluster);
    launch(mailbox ? mailbox_kernel : cluster_kernel, c, x, out, n, bug);
    synchronize_stream(nullptr);
  });
}

SEQLOOM_EXPORT int run_split(float* out, int bug) {
  return guarded([&] {
    LaunchConfig c;
    c.grid = c.cluster = dim3(2);
    c.block = dim3(32);
    launch(split_kernel, c, out, bug);
    synchronize_stream(nullptr);
  });
}

SEQLOOM_EXPORT int run_phases(float* out, int bug) {
  return guarded([&] {
    LaunchConfig c;
    c.block = dim3(64);
    launch(phases_kernel, c, out, bug);
    synchronize_stream(nullptr);
  });
}

SEQLOOM_EXPORT int run_proxy(float* x, float* out, int bug) {
  return guarded([&] {
    LaunchConfig c;
    c.block = dim3(32);
    launch(proxy_kernel, c, x, out, bug);
    synchronize_stream(nullptr);
  });
}

SEQLOOM_EXPORT int run_wgmma(const BFloat16* a, const BFloat16* b, float* c, int depth,
                             int registers, int bug) {
  return guarded([&] {
    LaunchConfig config;
    config.block = dim3(128);
    config.shared_bytes = 2 * kStages * kTile + 64 * 64 * 4 + kStages * 8;
    const auto k = static_cast<uint64_t>(depth);
    const auto bf16 = TensorElement::kBFloat16;
    const CUtensorMap map_a = matrix_map(a, bf16, k, 64, kDepth, 64, TensorSwizzle::k128);
    const CUtensorMap map_b = registers
                                  ? matrix_map(b, bf16, 64, k, 64, kDepth, TensorSwizzle::k128)
                                  : matrix_map(b, bf16, k, 64, kDepth, 64, TensorSwizzle::k128);
    const CUtensorMap map_c =
        matrix_map(c, TensorElement::kFloat32, 64, 64, 64, 64, TensorSwizzle::kNone);
    launch(registers ? wgmma_kernel<true> : wgmma_kernel<false>, config, map_a, map_b, map_c, a,
           depth, bug);
    synchronize_stream(nullptr);
  });
}

}  // namespace seqloom_test
