// SPDX-License-Identifier: Apache-2.0
// Emulator bodies of the instruction wrappers in cuda/ptx_*.h. Included by emulation/device.h.
#pragma once
#include <initializer_list>

namespace seqloom::emulation {

// ---- arithmetic ----
float ex2_ftz(float);
float lg2_ftz(float);
std::uint32_t round_to_tf32(float, Site);

// ---- warp matrix instructions ----
enum class MmaKind { kBf16K16, kF16K16, kBf16K8, kF16K8, kTf32K8 };
void mma(MmaKind, float* d, const std::uint32_t* a, const std::uint32_t* b, const float* c, Site);
void ldmatrix(std::uint32_t* r, int matrices, bool trans, std::uint32_t address, Site);
void stmatrix(const std::uint32_t* r, int matrices, bool trans, std::uint32_t address, Site);
bool elect_one(Site);

// ---- grid and cluster ----
void require_cooperative_launch(Site);
std::uint32_t cluster_rank(Site);
std::uint32_t cluster_size(Site);
void cluster_arrive(Site);
void cluster_wait(Site);
std::uint32_t shared_address(const void* p, Site);
void* map_to_rank(const void* p, std::uint32_t rank, Site);
std::uint32_t map_address_to_rank(std::uint32_t address, std::uint32_t rank, Site);
void set_max_registers(int count, bool increase, Site);

// ---- asynchronous copies ----
void cp_async(std::uint32_t target, const void* source, int bytes, int source_bytes, Site);
void cp_async_commit(Site);
void cp_async_wait(int pending, Site);
void mbarrier_init(std::uint32_t barrier, std::uint32_t count, Site);
void mbarrier_init_fence(Site);
void mbarrier_arrive(std::uint32_t barrier, std::uint32_t expected_bytes, Site);
bool mbarrier_test(std::uint32_t barrier, std::uint32_t parity, Site);
void mbarrier_wait(std::uint32_t barrier, std::uint32_t parity, Site);
void fence_proxy_async(bool all, Site);  // or of shared memory alone
void store_async(std::uint32_t target, const void* value, int bytes, std::uint32_t barrier, Site);
void bulk_load(std::uint32_t target, const void* source, std::uint32_t bytes, std::uint32_t barrier,
               Site);
void bulk_load_multicast(std::uint32_t target, const void* source, std::uint32_t bytes,
                         std::uint32_t barrier, std::uint16_t ranks, Site);
enum class BulkReduce { kNone, kAddF32 };
void bulk_store(void* target, std::uint32_t source, std::uint32_t bytes, BulkReduce, Site);
void bulk_commit(Site);
void bulk_wait(int pending, Site);
void bulk_wait_read(int pending, Site);
void tensor_load(std::uint32_t target, const void* map, std::initializer_list<int> coordinates,
                 std::uint32_t barrier, Site);
void tensor_store(const void* map, std::uint32_t source, std::initializer_list<int> coordinates,
                  Site);

// ---- warpgroup matrix instructions ----
struct WgmmaShape {
  int columns;
  bool is_half, trans_a, trans_b;
};
void wgmma(WgmmaShape, float* d, const std::uint32_t* a, std::uint64_t descriptor_a,
           std::uint64_t descriptor_b, bool accumulate, Site);
void wgmma_fence(Site);
void wgmma_commit(Site);
void wgmma_wait(int pending, Site);

}  // namespace seqloom::emulation
