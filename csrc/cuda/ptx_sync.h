// SPDX-License-Identifier: Apache-2.0
// Synchronisation: ordered loads and stores, named barriers, the grid barrier, clusters.
// Included by cuda/ptx.h.
#pragma once

namespace seqloom::cuda::ptx {

// ---- acquire and release at device scope -------------------------------------------------------
// A spin loop must read through load_acquire: it is what the emulator recognises as waiting.
SEQLOOM_DEVICE uint32_t load_acquire(const uint32_t* p SEQLOOM_SITE) {
#if defined(__CUDACC__)
  uint32_t v;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
  return v;
#else
  return emulation::load_ordered(p, emulation::kAcquire, site);
#endif
}
// Ordered with nothing: for polls whose result is used only after a fence.
SEQLOOM_DEVICE uint32_t load_relaxed(const uint32_t* p SEQLOOM_SITE) {
#if defined(__CUDACC__)
  uint32_t v;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
  return v;
#else
  return emulation::load_ordered(p, emulation::kRelaxed, site);
#endif
}
SEQLOOM_DEVICE void store_release(uint32_t* p, uint32_t value SEQLOOM_SITE) {
#if defined(__CUDACC__)
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(p), "r"(value) : "memory");
#else
  emulation::store_ordered(p, value, emulation::kRelease, site);
#endif
}
SEQLOOM_DEVICE void store_relaxed(uint32_t* p, uint32_t value SEQLOOM_SITE) {
#if defined(__CUDACC__)
  asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(p), "r"(value) : "memory");
#else
  emulation::store_ordered(p, value, emulation::kRelaxed, site);
#endif
}
// *p += value, without a result.
SEQLOOM_DEVICE void add_release(uint32_t* p, uint32_t value SEQLOOM_SITE) {
#if defined(__CUDACC__)
  asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(p), "r"(value) : "memory");
#else
  emulation::fetch_modify(
      p, [value](uint32_t old) { return old + value; }, emulation::kRelease, site);
#endif
}
// Returns the old value; what others released before it is visible afterwards.
SEQLOOM_DEVICE uint32_t fetch_add_acq_rel(uint32_t* p, uint32_t value SEQLOOM_SITE) {
#if defined(__CUDACC__)
  uint32_t old;
  asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], %2;"
               : "=r"(old)
               : "l"(p), "r"(value)
               : "memory");
  return old;
#else
  return emulation::fetch_modify(
      p, [value](uint32_t v) { return v + value; }, emulation::kAcquireRelease, site);
#endif
}

// ---- barriers of part of a block ----------------------------------------------------------------

// Barrier `id` (1-15; 0 is __syncthreads) of `threads` threads, a multiple of 32.
SEQLOOM_DEVICE void named_barrier_sync(int id, int threads SEQLOOM_SITE) {
#if defined(__CUDACC__)
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
#else
  emulation::named_barrier(id, threads, false, site);
#endif
}
SEQLOOM_DEVICE void named_barrier_arrive(int id, int threads SEQLOOM_SITE) {
#if defined(__CUDACC__)
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
#else
  emulation::named_barrier(id, threads, true, site);
#endif
}

// True in exactly one lane of a fully converged warp.
SEQLOOM_DEVICE bool elect_one(SEQLOOM_SITE_ONLY) {
#if defined(__CUDACC__)
  uint32_t elected = 0;
  SEQLOOM_SM90(asm volatile(
      "{\n.reg .pred p;\nelect.sync _|p, 0xffffffff;\nselp.u32 %0, 1, 0, p;\n}" : "=r"(elected)));
  return elected != 0;
#else
  return emulation::elect_one(site);
#endif
}

// ---- the grid barrier
// ---------------------------------------------------------------------------- All threads of a
// cooperative launch wait for each other, and what they wrote is visible to all. `state` is one
// zeroed word of global memory that only this barrier uses; it needs no reset between launches.
// Block 0 adds 2^31 - (blocks - 1), every other block 1, so that bit 31 flips exactly when the last
// block arrives.
SEQLOOM_DEVICE void grid_sync(uint32_t* state SEQLOOM_SITE) {
#if !defined(__CUDACC__)
  emulation::require_cooperative_launch(site);
#endif
  __syncthreads(SEQLOOM_PASS_SITE_ONLY);
  if (threadIdx.x == 0 && threadIdx.y == 0 && threadIdx.z == 0) {
    const uint32_t blocks = gridDim.x * gridDim.y * gridDim.z;
    const bool first = blockIdx.x == 0 && blockIdx.y == 0 && blockIdx.z == 0;
    const uint32_t old =
        fetch_add_acq_rel(state, first ? 0x80000000u - (blocks - 1) : 1u SEQLOOM_PASS_SITE);
    while (((old ^ load_acquire(state SEQLOOM_PASS_SITE)) & 0x80000000u) == 0) {
    }
  }
  __syncthreads(SEQLOOM_PASS_SITE_ONLY);
}

// ---- clusters (sm_90)
// ------------------------------------------------------------------------------
SEQLOOM_DEVICE uint32_t cluster_rank(SEQLOOM_SITE_ONLY) {
#if defined(__CUDACC__)
  uint32_t r = 0;
  SEQLOOM_SM90(asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(r)));
  return r;
#else
  return emulation::cluster_rank(site);
#endif
}
SEQLOOM_DEVICE uint32_t cluster_size(SEQLOOM_SITE_ONLY) {
#if defined(__CUDACC__)
  uint32_t r = 1;
  SEQLOOM_SM90(asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(r)));
  return r;
#else
  return emulation::cluster_size(site);
#endif
}
SEQLOOM_DEVICE void cluster_arrive(SEQLOOM_SITE_ONLY) {
#if defined(__CUDACC__)
  SEQLOOM_SM90(asm volatile("barrier.cluster.arrive.release.aligned;" :: : "memory"));
#else
  emulation::cluster_arrive(site);
#endif
}
SEQLOOM_DEVICE void cluster_wait(SEQLOOM_SITE_ONLY) {
#if defined(__CUDACC__)
  SEQLOOM_SM90(asm volatile("barrier.cluster.wait.acquire.aligned;" :: : "memory"));
#else
  emulation::cluster_wait(site);
#endif
}
SEQLOOM_DEVICE void cluster_sync(SEQLOOM_SITE_ONLY) {
  ptx::cluster_arrive(SEQLOOM_PASS_SITE_ONLY);
  ptx::cluster_wait(SEQLOOM_PASS_SITE_ONLY);
}

// 32-bit address of a shared-memory object, as most instructions below want it.
SEQLOOM_DEVICE uint32_t shared_address(const void* p SEQLOOM_SITE) {
#if defined(__CUDACC__)
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
#else
  return emulation::shared_address(p, site);
#endif
}
// The same object in block `rank` of the cluster, as a pointer for ordinary loads and stores.
template <class T>
SEQLOOM_DEVICE T* map_to_rank(T* p, uint32_t rank SEQLOOM_SITE) {
#if defined(__CUDACC__)
  uint64_t r = 0;
  SEQLOOM_SM90(asm volatile("mapa.u64 %0, %1, %2;" : "=l"(r) : "l"(p), "r"(rank)));
  return reinterpret_cast<T*>(r);
#else
  return static_cast<T*>(emulation::map_to_rank(p, rank, site));
#endif
}
// The same as a 32-bit shared::cluster address.
SEQLOOM_DEVICE uint32_t map_address_to_rank(uint32_t address, uint32_t rank SEQLOOM_SITE) {
#if defined(__CUDACC__)
  uint32_t r = 0;
  SEQLOOM_SM90(
      asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(r) : "r"(address), "r"(rank)));
  return r;
#else
  return emulation::map_address_to_rank(address, rank, site);
#endif
}

// Gives registers back to, or takes them from, the pool of the block's warpgroups (sm_90a). All
// four warps of a group do so together; taking waits until others have given enough.
template <int Count>
SEQLOOM_DEVICE void decrease_registers(SEQLOOM_SITE_ONLY) {
  static_assert(Count >= 24 && Count <= 256 && Count % 8 == 0, "24 to 256 in steps of 8");
#if defined(__CUDACC__)
  SEQLOOM_SM90A(asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Count)));
#else
  emulation::set_max_registers(Count, false, site);
#endif
}
template <int Count>
SEQLOOM_DEVICE void increase_registers(SEQLOOM_SITE_ONLY) {
  static_assert(Count >= 24 && Count <= 256 && Count % 8 == 0, "24 to 256 in steps of 8");
#if defined(__CUDACC__)
  SEQLOOM_SM90A(asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Count)));
#else
  emulation::set_max_registers(Count, true, site);
#endif
}

}  // namespace seqloom::cuda::ptx
