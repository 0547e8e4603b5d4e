// SPDX-License-Identifier: Apache-2.0
// Asynchronous copies: cp.async (sm_80), and mbarriers with bulk and tensor-map copies (sm_90).
// Included by cuda/ptx.h. Shared addresses are 32-bit, from ptx::shared_address.
#pragma once

namespace seqloom::cuda::ptx {

// ---- cp.async
// -------------------------------------------------------------------------------------- Copies 16
// bytes from global to shared memory; the last 16 - source_bytes are zero-filled.
SEQLOOM_DEVICE void cp_async_16(uint32_t target, const void* source,
                                int source_bytes = 16 SEQLOOM_SITE) {
#if defined(__CUDACC__)
  SEQLOOM_SM80(asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(target),
                            "l"(__cvta_generic_to_global(source)), "r"(source_bytes) : "memory"));
#else
  emulation::cp_async(target, source, 16, source_bytes, site);
#endif
}
// 4 or 8 bytes, for rows that are not 16-byte aligned.
template <int Bytes>
SEQLOOM_DEVICE void cp_async_small(uint32_t target, const void* source,
                                   int source_bytes = Bytes SEQLOOM_SITE) {
  static_assert(Bytes == 4 || Bytes == 8, "cp.async.ca moves 4, 8 or 16 bytes");
#if defined(__CUDACC__)
  SEQLOOM_SM80(asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(target),
                            "l"(__cvta_generic_to_global(source)), "n"(Bytes),
                            "r"(source_bytes) : "memory"));
#else
  emulation::cp_async(target, source, Bytes, source_bytes, site);
#endif
}
SEQLOOM_DEVICE void cp_async_commit(SEQLOOM_SITE_ONLY) {
#if defined(__CUDACC__)
  SEQLOOM_SM80(asm volatile("cp.async.commit_group;" :: : "memory"));
#else
  emulation::cp_async_commit(site);
#endif
}
// Returns when at most Pending of this thread's newest groups are still under way. The data of
// other threads' copies is visible only after a barrier on top.
template <int Pending>
SEQLOOM_DEVICE void cp_async_wait(SEQLOOM_SITE_ONLY) {
#if defined(__CUDACC__)
  SEQLOOM_SM80(asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory"));
#else
  emulation::cp_async_wait(Pending, site);
#endif
}

// ---- mbarrier
// ---------------------------------------------------------------------------------------- A phase
// completes when `count` arrivals have happened and all announced bytes have landed.
SEQLOOM_DEVICE void mbarrier_init(uint32_t barrier, uint32_t count SEQLOOM_SITE) {
#if defined(__CUDACC__)
  SEQLOOM_SM90(asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier),
                            "r"(count) : "memory"));
#else
  emulation::mbarrier_init(barrier, count, site);
#endif
}
// Makes initialised barriers visible to asynchronous copies and to the cluster: once, by the
// thread that initialised them, before the block's (or cluster's) barrier.
SEQLOOM_DEVICE void mbarrier_init_fence(SEQLOOM_SITE_ONLY) {
#if defined(__CUDACC__)
  SEQLOOM_SM90(asm volatile("fence.mbarrier_init.release.cluster;" :: : "memory"));
#else
  emulation::mbarrier_init_fence(site);
#endif
}
SEQLOOM_DEVICE void mbarrier_arrive(uint32_t barrier SEQLOOM_SITE) {
#if defined(__CUDACC__)
  SEQLOOM_SM90(asm volatile(
      "{\n.reg .b64 t;\nmbarrier.arrive.shared::cta.b64 t, [%0];\n}" ::"r"(barrier) : "memory"));
#else
  emulation::mbarrier_arrive(barrier, 0, site);
#endif
}
// One arrival that also announces `bytes` of asynchronous copies.
SEQLOOM_DEVICE void mbarrier_arrive_expect(uint32_t barrier, uint32_t bytes SEQLOOM_SITE) {
#if defined(__CUDACC__)
  SEQLOOM_SM90(asm volatile(
      "{\n.reg .b64 t;\nmbarrier.arrive.expect_tx.shared::cta.b64 t, [%0], %1;\n}" ::"r"(barrier),
      "r"(bytes) : "memory"));
#else
  emulation::mbarrier_arrive(barrier, bytes, site);
#endif
}
// Arrives at a barrier of another block: `barrier` comes from map_address_to_rank.
SEQLOOM_DEVICE void mbarrier_arrive_remote(uint32_t barrier SEQLOOM_SITE) {
#if defined(__CUDACC__)
  SEQLOOM_SM90(asm volatile(
      "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];" ::"r"(barrier) : "memory"));
#else
  emulation::mbarrier_arrive(barrier, 0, site);
#endif
}
// True when the phase of this parity has completed. The first phase has parity 0; a fresh barrier
// counts as having completed a phase of parity 1.
SEQLOOM_DEVICE bool mbarrier_test(uint32_t barrier, uint32_t parity SEQLOOM_SITE) {
#if defined(__CUDACC__)
  uint32_t done = 0;
  SEQLOOM_SM90(asm volatile(
      "{\n.reg .pred p;\nmbarrier.test_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\n"
      "selp.u32 %0, 1, 0, p;\n}" : "=r"(done) : "r"(barrier),
      "r"(parity) : "memory"));
  return done != 0;
#else
  return emulation::mbarrier_test(barrier, parity, site);
#endif
}
SEQLOOM_DEVICE void mbarrier_wait(uint32_t barrier, uint32_t parity SEQLOOM_SITE) {
#if defined(__CUDACC__)
  SEQLOOM_SM90(
      asm volatile("{\n.reg .pred p;\nTRY_%=:\n"
                   "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%0], %1;\n"
                   "@p bra DONE_%=;\nbra TRY_%=;\nDONE_%=:\n}" ::"r"(barrier),
                   "r"(parity) : "memory"));
#else
  emulation::mbarrier_wait(barrier, parity, site);
#endif
}

// Ordinary writes to shared memory become visible to what the async proxy does later: wgmma
// operands, bulk and tensor stores. By the writing threads, before the barrier that publishes.
SEQLOOM_DEVICE void fence_proxy_async(SEQLOOM_SITE_ONLY) {
#if defined(__CUDACC__)
  SEQLOOM_SM90(asm volatile("fence.proxy.async.shared::cta;" :: : "memory"));
#else
  emulation::fence_proxy_async(false, site);
#endif
}

// The same for memory of every kind: before an asynchronous copy reads global memory that the same
// kernel has written.
SEQLOOM_DEVICE void fence_proxy_async_all(SEQLOOM_SITE_ONLY) {
#if defined(__CUDACC__)
  SEQLOOM_SM90(asm volatile("fence.proxy.async;" :: : "memory"));
#else
  emulation::fence_proxy_async(true, site);
#endif
}

// Stores a 32-bit word into another block's shared memory and reports 4 bytes to a barrier of that
// block (both addresses from map_address_to_rank).
SEQLOOM_DEVICE void store_async(uint32_t target, uint32_t value, uint32_t barrier SEQLOOM_SITE) {
#if defined(__CUDACC__)
  SEQLOOM_SM90(asm volatile(
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.u32 [%0], %1, [%2];" ::"r"(target),
      "r"(value), "r"(barrier) : "memory"));
#else
  emulation::store_async(target, &value, 4, barrier, site);
#endif
}
SEQLOOM_DEVICE void store_async_v4(uint32_t target, uint4 v, uint32_t barrier SEQLOOM_SITE) {
#if defined(__CUDACC__)
  SEQLOOM_SM90(asm volatile(
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1,%2,%3,%4}, [%5];" ::
          "r"(target),
      "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w), "r"(barrier) : "memory"));
#else
  emulation::store_async(target, &v, 16, barrier, site);
#endif
}

// ---- bulk copies: 16-byte aligned runs
// ---------------------------------------------------------------
SEQLOOM_DEVICE void bulk_load(uint32_t target, const void* source, uint32_t bytes,
                              uint32_t barrier SEQLOOM_SITE) {
#if defined(__CUDACC__)
  SEQLOOM_SM90(asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(target),
      "l"(__cvta_generic_to_global(source)), "r"(bytes), "r"(barrier) : "memory"));
#else
  emulation::bulk_load(target, source, bytes, barrier, site);
#endif
}
// The same into every block of the cluster whose bit is set: same offset, same barrier offset.
SEQLOOM_DEVICE void bulk_load_multicast(uint32_t target, const void* source, uint32_t bytes,
                                        uint32_t barrier, uint16_t ranks SEQLOOM_SITE) {
#if defined(__CUDACC__)
  SEQLOOM_SM90(asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes"
      ".multicast::cluster [%0], [%1], %2, [%3], %4;" ::"r"(target),
      "l"(__cvta_generic_to_global(source)), "r"(bytes), "r"(barrier), "h"(ranks) : "memory"));
#else
  emulation::bulk_load_multicast(target, source, bytes, barrier, ranks, site);
#endif
}
SEQLOOM_DEVICE void bulk_store(void* target, uint32_t source, uint32_t bytes SEQLOOM_SITE) {
#if defined(__CUDACC__)
  SEQLOOM_SM90(asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(
                                __cvta_generic_to_global(target)),
                            "r"(source), "r"(bytes) : "memory"));
#else
  emulation::bulk_store(target, source, bytes, emulation::BulkReduce::kNone, site);
#endif
}
// target[i] += source[i] over fp32 elements.
SEQLOOM_DEVICE void bulk_reduce_add_f32(float* target, uint32_t source,
                                        uint32_t bytes SEQLOOM_SITE) {
#if defined(__CUDACC__)
  SEQLOOM_SM90(asm volatile(
      "cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;" ::"l"(
          __cvta_generic_to_global(target)),
      "r"(source), "r"(bytes) : "memory"));
#else
  emulation::bulk_store(target, source, bytes, emulation::BulkReduce::kAddF32, site);
#endif
}
SEQLOOM_DEVICE void bulk_commit(SEQLOOM_SITE_ONLY) {
#if defined(__CUDACC__)
  SEQLOOM_SM90(asm volatile("cp.async.bulk.commit_group;" :: : "memory"));
#else
  emulation::bulk_commit(site);
#endif
}
// Waits until at most Pending of this thread's store groups still read their shared memory (the
// buffer may then be reused) or, with bulk_wait, are still under way at all.
template <int Pending>
SEQLOOM_DEVICE void bulk_wait_read(SEQLOOM_SITE_ONLY) {
#if defined(__CUDACC__)
  SEQLOOM_SM90(asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(Pending) : "memory"));
#else
  emulation::bulk_wait_read(Pending, site);
#endif
}
template <int Pending>
SEQLOOM_DEVICE void bulk_wait(SEQLOOM_SITE_ONLY) {
#if defined(__CUDACC__)
  SEQLOOM_SM90(asm volatile("cp.async.bulk.wait_group %0;" ::"n"(Pending) : "memory"));
#else
  emulation::bulk_wait(Pending, site);
#endif
}

// ---- tensor-map copies: boxes of a 2- to 4-dimensional array
// --------------------------------------- `map` is a __grid_constant__ kernel parameter made by
// cuda::make_tensor_map. Coordinates are in elements, innermost first; out-of-range elements read
// as zero and are not written.
SEQLOOM_DEVICE void tensor_load_2d(uint32_t target, const CUtensorMap* map, int x, int y,
                                   uint32_t barrier SEQLOOM_SITE) {
#if defined(__CUDACC__)
  SEQLOOM_SM90(
      asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
                   " [%0], [%1, {%3, %4}], [%2];" ::"r"(target),
                   "l"(map), "r"(barrier), "r"(x), "r"(y) : "memory"));
#else
  emulation::tensor_load(target, map, {x, y}, barrier, site);
#endif
}
SEQLOOM_DEVICE void tensor_load_3d(uint32_t target, const CUtensorMap* map, int x, int y, int z,
                                   uint32_t barrier SEQLOOM_SITE) {
#if defined(__CUDACC__)
  SEQLOOM_SM90(
      asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes"
                   " [%0], [%1, {%3, %4, %5}], [%2];" ::"r"(target),
                   "l"(map), "r"(barrier), "r"(x), "r"(y), "r"(z) : "memory"));
#else
  emulation::tensor_load(target, map, {x, y, z}, barrier, site);
#endif
}
SEQLOOM_DEVICE void tensor_load_4d(uint32_t target, const CUtensorMap* map, int x, int y, int z,
                                   int w, uint32_t barrier SEQLOOM_SITE) {
#if defined(__CUDACC__)
  SEQLOOM_SM90(
      asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes"
                   " [%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(target),
                   "l"(map), "r"(barrier), "r"(x), "r"(y), "r"(z), "r"(w) : "memory"));
#else
  emulation::tensor_load(target, map, {x, y, z, w}, barrier, site);
#endif
}
SEQLOOM_DEVICE void tensor_store_2d(const CUtensorMap* map, uint32_t source, int x,
                                    int y SEQLOOM_SITE) {
#if defined(__CUDACC__)
  SEQLOOM_SM90(
      asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group"
                   " [%0, {%2, %3}], [%1];" ::"l"(map),
                   "r"(source), "r"(x), "r"(y) : "memory"));
#else
  emulation::tensor_store(map, source, {x, y}, site);
#endif
}
SEQLOOM_DEVICE void tensor_store_3d(const CUtensorMap* map, uint32_t source, int x, int y,
                                    int z SEQLOOM_SITE) {
#if defined(__CUDACC__)
  SEQLOOM_SM90(
      asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.bulk_group"
                   " [%0, {%2, %3, %4}], [%1];" ::"l"(map),
                   "r"(source), "r"(x), "r"(y), "r"(z) : "memory"));
#else
  emulation::tensor_store(map, source, {x, y, z}, site);
#endif
}
SEQLOOM_DEVICE void tensor_store_4d(const CUtensorMap* map, uint32_t source, int x, int y, int z,
                                    int w SEQLOOM_SITE) {
#if defined(__CUDACC__)
  SEQLOOM_SM90(
      asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.bulk_group"
                   " [%0, {%2, %3, %4, %5}], [%1];" ::"l"(map),
                   "r"(source), "r"(x), "r"(y), "r"(z), "r"(w) : "memory"));
#else
  emulation::tensor_store(map, source, {x, y, z, w}, site);
#endif
}

}  // namespace seqloom::cuda::ptx
