// SPDX-License-Identifier: Apache-2.0
// Conformance of sm_90: clusters, mbarriers, bulk and tensor-map copies.
#include "../registry.h"

namespace seqloom_test {
namespace {

SEQLOOM_DEVICE void init_barrier(uint32_t bar, uint32_t count) {
  if (thread() == 0) {
    ptx::mbarrier_init(bar, count);
    ptx::mbarrier_init_fence();
  }
}

CONFORMANCE(elect_one, "bits", "exact", 32, 32, 90, 32, 0, out[thread()] = 0; __syncwarp();
            if (ptx::elect_one()) out[0] = in[0];)

// ---- clusters of two blocks
// -----------------------------------------------------------------------------
#define CLUSTER(name, in_words, out_words, ...)                                       \
  __global__ void __launch_bounds__(32) k_##name(const uint32_t* in, uint32_t* out) { \
    __VA_ARGS__                                                                       \
  }                                                                                   \
  const AddConformance add_##name(                                                    \
      {#name, "bits", "exact", in_words, out_words, 90,                               \
       [](const uint32_t* in, uint32_t* out) { run_block(k_##name, in, out, 32, 0, 2); }});

CLUSTER(distributed_shared, 64, 64, SHARED_ARRAY(uint32_t, tile, [32]);
        const uint32_t rank = ptx::cluster_rank(); const int base = static_cast<int>(rank) * 32;
        tile[thread()] = in[base + thread()] + ptx::cluster_size(); ptx::cluster_sync();
        out[base + thread()] = *ptx::map_to_rank(&tile[thread() ^ 5], rank ^ 1u);
        ptx::cluster_sync();)
CLUSTER(cluster_split_barrier, 64, 64, SHARED_ARRAY(uint32_t, tile, [32]);
        const uint32_t rank = ptx::cluster_rank(); const int base = static_cast<int>(rank) * 32;
        ptx::cluster_sync();
        *ptx::map_to_rank(&tile[thread()], rank ^ 1u) = in[base + thread()] + rank;
        ptx::cluster_arrive(); const uint32_t own = in[base + (thread() ^ 1)]; ptx::cluster_wait();
        out[base + thread()] = tile[thread() ^ 3] ^ own;)
CLUSTER(
    store_async, 64, 160, SHARED_ARRAY(uint32_t, words, [32]); SHARED_ARRAY(uint4, quads, [32]);
    SHARED_ARRAY(uint64_t, barrier, [1]); const uint32_t bar = ptx::shared_address(barrier);
    const uint32_t rank = ptx::cluster_rank(); const uint32_t other = rank ^ 1u;
    init_barrier(bar, 1); if (thread() == 0) ptx::mbarrier_arrive_expect(bar, 32 * 20);
    ptx::cluster_sync(); const uint32_t far_bar = ptx::map_address_to_rank(bar, other);
    const uint32_t x = in[rank * 32 + static_cast<uint32_t>(thread())];
    ptx::store_async(ptx::map_address_to_rank(ptx::shared_address(&words[thread()]), other), x,
                     far_bar);
    ptx::store_async_v4(ptx::map_address_to_rank(ptx::shared_address(&quads[thread()]), other),
                        make_uint4(x, x + 1, x + 2, x + 3), far_bar);
    ptx::mbarrier_wait(bar, 0); if (rank == 1) {
      out[thread()] = words[thread()];
      reinterpret_cast<uint4*>(out + 32)[thread()] = quads[thread()];
    } ptx::cluster_sync();)
CLUSTER(remote_arrive, 32, 64, SHARED_ARRAY(uint64_t, barrier, [1]);
        const uint32_t bar = ptx::shared_address(barrier);
        const uint32_t rank = ptx::cluster_rank(); init_barrier(bar, 64); ptx::cluster_sync();
        ptx::mbarrier_arrive(bar);
        ptx::mbarrier_arrive_remote(ptx::map_address_to_rank(bar, rank ^ 1u));
        ptx::mbarrier_wait(bar, 0);
        out[rank * 32 + static_cast<uint32_t>(thread())] = in[thread()] ^ rank;
        ptx::cluster_sync();)
CLUSTER(bulk_multicast, 64, 128, SHARED_ARRAY(uint4, tile, [16]);
        SHARED_ARRAY(uint64_t, barrier, [1]); const uint32_t bar = ptx::shared_address(barrier);
        const uint32_t rank = ptx::cluster_rank(); init_barrier(bar, 1);
        if (thread() == 0) ptx::mbarrier_arrive_expect(bar, 256); ptx::cluster_sync();
        if (thread() == 0 && rank == 0)
            ptx::bulk_load_multicast(ptx::shared_address(tile), in, 256, bar, 3);
        ptx::mbarrier_wait(bar, 0);
        if (thread() < 16) reinterpret_cast<uint4*>(
            out)[rank * 16 + static_cast<uint32_t>(thread())] = tile[thread()];
        ptx::cluster_sync();)

// ---- bulk copies
// ------------------------------------------------------------------------------------------
CONFORMANCE(
    bulk_load, "bits", "exact", 256, 257, 90, 32, 0, SHARED_ARRAY(uint4, tile, [64]);
    SHARED_ARRAY(uint64_t, barrier, [1]); const uint32_t bar = ptx::shared_address(barrier);
    init_barrier(bar, 1); __syncwarp(); if (thread() == 0) {
      ptx::mbarrier_arrive_expect(bar, 1024);
      ptx::bulk_load(ptx::shared_address(tile), in, 1024, bar);
    } ptx::mbarrier_wait(bar, 0);
    for (int i = thread(); i < 64; i += 32) reinterpret_cast<uint4*>(out)[i] = tile[i];
    if (thread() == 0) out[256] = ptx::mbarrier_test(bar, 0) && !ptx::mbarrier_test(bar, 1);)
CONFORMANCE(
    bulk_store, "bits", "exact", 128, 128, 90, 32, 0, SHARED_ARRAY(uint4, tile, [32]);
    tile[thread()] = reinterpret_cast<const uint4*>(in)[thread() ^ 3]; ptx::fence_proxy_async();
    __syncwarp(); if (thread() == 0) {
      ptx::bulk_store(out, ptx::shared_address(tile), 512);
      ptx::bulk_commit();
      ptx::bulk_wait<0>();
    })
CONFORMANCE(
    bulk_wait_read, "bits", "exact", 128, 128, 90, 32, 0, SHARED_ARRAY(uint4, tile, [32]);
    tile[thread()] = reinterpret_cast<const uint4*>(in)[thread() ^ 9]; ptx::fence_proxy_async();
    __syncwarp(); if (thread() == 0) {
      ptx::bulk_store(out, ptx::shared_address(tile), 512);
      ptx::bulk_commit();
      ptx::bulk_wait_read<0>();
    } __syncwarp();
    tile[thread()] = make_uint4(1, 2, 3, 4);  // the store has left shared memory
    __syncwarp(); if (thread() == 0) ptx::bulk_wait<0>();)
CONFORMANCE(
    bulk_reduce_add, "small", "1e-6", 128, 128, 90, 32, 0, SHARED_ARRAY(float4, tile, [32]);
    tile[thread()] = reinterpret_cast<const float4*>(in)[thread()];
    reinterpret_cast<float4*>(out)[thread()] = make_float4(1.f, 2.f, 3.f, 4.f); __threadfence();
    ptx::fence_proxy_async_all(); __syncwarp(); if (thread() == 0) {
      ptx::bulk_reduce_add_f32(reinterpret_cast<float*>(out), ptx::shared_address(tile), 512);
      ptx::bulk_commit();
      ptx::bulk_wait<0>();
    })

// ---- tensor maps: a box that hangs over two edges, loaded, read back linearly, stored shifted
// -------------
template <int Rank>
__global__ void __launch_bounds__(32)
    tensor_kernel(const __grid_constant__ CUtensorMap from, const __grid_constant__ CUtensorMap to,
                  uint32_t* out, int words) {
  DYNAMIC_SHARED(raw, 1024);
  SHARED_ARRAY(uint64_t, barrier, [1]);
  const uint32_t bar = ptx::shared_address(barrier), tile = ptx::shared_address(raw);
  init_barrier(bar, 1);
  __syncwarp();
  if (thread() == 0) {
    ptx::mbarrier_arrive_expect(bar, static_cast<uint32_t>(words) * 4);
    if (Rank == 2) ptx::tensor_load_2d(tile, &from, 8, -1, bar);
    if (Rank == 3) ptx::tensor_load_3d(tile, &from, 8, 1, 1, bar);
    if (Rank == 4) ptx::tensor_load_4d(tile, &from, 0, 1, 1, 1, bar);
  }
  ptx::mbarrier_wait(bar, 0);
  for (int i = thread(); i < words; i += 32) out[i] = reinterpret_cast<const uint32_t*>(raw)[i];
  __syncwarp();
  if (thread() == 0) {
    if (Rank == 2) ptx::tensor_store_2d(&to, tile, 16, 1);
    if (Rank == 3) ptx::tensor_store_3d(&to, tile, 8, 0, 1);
    if (Rank == 4) ptx::tensor_store_4d(&to, tile, 8, 0, 1, 0);
    ptx::bulk_commit();
    ptx::bulk_wait<0>();
  }
}

// in: a bfloat16 array [.., 8, 40] of 256 32-bit words at most; out: the box, then the stored copy.
template <int Rank>
void run_tensor(const uint32_t* in, uint32_t* out, TensorSwizzle swizzle, uint32_t inner) {
  const uint64_t dims[4] = {40, 6, Rank > 2 ? 2u : 1u, Rank > 3 ? 2u : 1u};
  const uint64_t strides[3] = {80, 480, 960};
  const uint32_t box[4] = {inner, 4, Rank > 2 ? 2u : 1u, Rank > 3 ? 2u : 1u};
  const int words = static_cast<int>(inner * 4 * box[2] * box[3] / 2);
  const int copy_words = 20 * 6 * static_cast<int>(dims[2] * dims[3]);
  const CUtensorMap from =
      make_tensor_map(in, TensorElement::kBFloat16, Rank, dims, strides, box, swizzle);
  const CUtensorMap to =
      make_tensor_map(out + 256, TensorElement::kBFloat16, Rank, dims, strides, box, swizzle);
  fill_bytes(out, 0, static_cast<size_t>(256 + copy_words) * 4, current_stream());
  LaunchConfig c;
  c.block = dim3(32);
  c.shared_bytes = 2048;
  launch(tensor_kernel<Rank>, c, from, to, out, words);
}

#define TENSOR(name, rank, swizzle, inner, in_words)                                           \
  const AddConformance add_##name({#name, "bits", "exact", in_words, 256 + in_words, 90,       \
                                   [](const uint32_t* in, uint32_t* out) {                     \
                                     run_tensor<rank>(in, out, TensorSwizzle::swizzle, inner); \
                                   }});
TENSOR(tensor_2d_linear, 2, kNone, 32, 120)
TENSOR(tensor_2d_swizzle32, 2, k32, 16, 120)
TENSOR(tensor_2d_swizzle64, 2, k64, 32, 120)
TENSOR(tensor_2d_swizzle128, 2, k128, 64, 120)
TENSOR(tensor_3d, 3, kNone, 24, 240)
TENSOR(tensor_4d, 4, kNone, 24, 480)

}  // namespace
}  // namespace seqloom_test
