// SPDX-License-Identifier: Apache-2.0
// Conformance of warp collectives, matrix instructions, atomics and cp.async.
#include "../registry.h"
#include "cuda/ptx_packets.h"

namespace seqloom_test {
namespace {

#define WARP_FUNCTION(name, expression)                                                  \
  CONFORMANCE(name, "bits", "exact", 32, 32, 75, 32, 0, const uint32_t x = in[thread()]; \
              out[thread()] = static_cast<uint32_t>(expression);)
WARP_FUNCTION(shfl, __shfl_sync(kFullWarp, x, x & 63))
WARP_FUNCTION(shfl_width8, __shfl_sync(kFullWarp, x, 3, 8))
WARP_FUNCTION(shfl_up, __shfl_up_sync(kFullWarp, x, 3))
WARP_FUNCTION(shfl_up_width8, __shfl_up_sync(kFullWarp, x, 3, 8))
WARP_FUNCTION(shfl_down, __shfl_down_sync(kFullWarp, x, 5))
WARP_FUNCTION(shfl_down_width16, __shfl_down_sync(kFullWarp, x, 5, 16))
WARP_FUNCTION(shfl_xor, __shfl_xor_sync(kFullWarp, x, 21))
WARP_FUNCTION(shfl_xor_width4, __shfl_xor_sync(kFullWarp, x, 1, 4))
WARP_FUNCTION(ballot, __ballot_sync(kFullWarp, x & 1))
// 32 votes of each half of the warp, of which some are lost and some are won.
#define VOTES(name, vote)                                                                        \
  CONFORMANCE(name, "bits", "exact", 32, 32, 75, 32, 0, const uint32_t x = in[thread()];         \
              const unsigned half = thread() < 16 ? 0x0000ffffu : 0xffff0000u; uint32_t won = 0; \
              for (uint32_t k = 0; k < 32; ++k) won |= static_cast<uint32_t>(vote != 0) << k;    \
              out[thread()] = won;)
VOTES(any, __any_sync(half, (x & 31) == k))
VOTES(all, __all_sync(half, (x & 31) != k))
WARP_FUNCTION(half_warp_ballot, thread() < 16 ? __ballot_sync(0x0000ffffu, x & 2) : 0)
CONFORMANCE(match_any, "bits", "exact", 32, 32, 75, 32, 0,
            out[thread()] = __match_any_sync(kFullWarp, in[thread()] & 3);)

#define REDUCE_FUNCTION(name, expression)                                                \
  CONFORMANCE(name, "bits", "exact", 32, 32, 80, 32, 0, const uint32_t x = in[thread()]; \
              SEQLOOM_SM80(out[thread()] = static_cast<uint32_t>(expression));)
#if defined(__CUDACC__) && SEQLOOM_ARCH < 800
#define REDUCE(call) 0
#else
#define REDUCE(call) call
#endif
REDUCE_FUNCTION(reduce_add, REDUCE(__reduce_add_sync(kFullWarp, x)))
REDUCE_FUNCTION(reduce_max, REDUCE(__reduce_max_sync(kFullWarp, x)))
REDUCE_FUNCTION(reduce_max_signed, REDUCE(__reduce_max_sync(kFullWarp, static_cast<int>(x))))
REDUCE_FUNCTION(reduce_min, REDUCE(__reduce_min_sync(kFullWarp, x)))
REDUCE_FUNCTION(reduce_min_signed, REDUCE(__reduce_min_sync(kFullWarp, static_cast<int>(x))))
REDUCE_FUNCTION(reduce_and, REDUCE(__reduce_and_sync(kFullWarp, x | 0xffff0000u)))
REDUCE_FUNCTION(reduce_or, REDUCE(__reduce_or_sync(kFullWarp, x & 0x00ff00ffu)))
REDUCE_FUNCTION(reduce_xor, REDUCE(__reduce_xor_sync(kFullWarp, x)))

CONFORMANCE(block_votes, "bits", "exact", 128, 384, 75, 128, 0, const int p = in[thread()] & 1;
            out[3 * thread()] = static_cast<uint32_t>(__syncthreads_or(p));
            out[3 * thread() + 1] = static_cast<uint32_t>(__syncthreads_and(p));
            out[3 * thread() + 2] = static_cast<uint32_t>(__syncthreads_count(p));)
CONFORMANCE(block_reductions, "small", "1e-5", 128, 384, 75, 128, 0,
            SHARED_ARRAY(float, scratch, [4]);
            SHARED_ARRAY(Moments, parts, [4]); const float x = as_float(in[thread()]); Moments m{};
            m.add(x); m = block_moments(m, parts);
            out[3 * thread()] = as_bits(block_sum(fabsf(x), scratch));
            out[3 * thread() + 1] = as_bits(block_max(x, scratch));
            out[3 * thread() + 2] = as_bits(m.variance());)

// Each edge value in turn in one of 128 places.
CONFORMANCE(
    block_reductions_edges, "float", "1e-5", 256, 72, 75, 128, 0, SHARED_ARRAY(float, scratch, [4]);
    SHARED_ARRAY(Moments, parts, [4]); for (int e = 0; e < 24; ++e) {
      const bool edge = thread() == (e * 37) % 128;
      const float x = edge ? as_float(in[e]) : as_float(in[128 + thread()]);
      Moments m{};
      m.add(x);
      m = block_moments(m, parts);
      const float sum = block_sum(fabsf(x), scratch);
      const float most = block_max(x, scratch);
      if (thread() == 0) {
        out[3 * e] = as_bits(sum);
        out[3 * e + 1] = as_bits(most);
        out[3 * e + 2] = as_bits(m.variance());
      }
    })

// ---- mma.sync: words 0-3 of a lane are A, 4-5 B, 6-9 C
// ------------------------------------------------
#define MMA(name, inputs, capability, call)                                                       \
  CONFORMANCE(                                                                                    \
      name, inputs, "mma", 320, 128, capability, 32, 0, uint32_t a[4]; uint32_t b[2]; float c[4]; \
      uint32_t a2[2]; const uint32_t* w = in + thread() * 10;                                     \
      for (int i = 0; i < 4; ++i) a[i] = w[i]; for (int i = 0; i < 2; ++i) {                      \
        b[i] = w[4 + i];                                                                          \
        a2[i] = w[i];                                                                             \
      } for (int i = 0; i < 4; ++i) c[i] = static_cast<float>(thread() * 4 + i) * 0.01f;          \
      float d[4]; (void)a2; call;                                                                 \
      for (int i = 0; i < 4; ++i) out[thread() * 4 + i] = as_bits(d[i]);)
MMA(mma_bf16_k16, "bfloat16", 80, ptx::mma_m16n8k16_bf16(d, a, b, c))
MMA(mma_f16_k16, "half", 80, ptx::mma_m16n8k16_f16(d, a, b, c))
MMA(mma_bf16_k8, "bfloat16", 80, ptx::mma_m16n8k8_bf16(d, a2, b[0], c))
MMA(mma_f16_k8, "half", 75, ptx::mma_m16n8k8_f16(d, a2, b[0], c))
MMA(mma_tf32_k8, "float", 80, ptx::mma_m16n8k8_tf32(d, a, b, c))
MMA(mma_typed_bf16_k16, "bfloat16", 80, ptx::mma_m16n8k16<BFloat16>(d, a, b, c))
MMA(mma_typed_f16_k16, "half", 80, ptx::mma_m16n8k16<Half>(d, a, b, c))
MMA(mma_bf16_edges, "bfloat16 edges", 80, ptx::mma_m16n8k16_bf16(d, a, b, c))
MMA(mma_f16_edges, "half edges", 80, ptx::mma_m16n8k16_f16(d, a, b, c))
MMA(mma_tf32_edges, "float edges", 80, ptx::mma_m16n8k8_tf32(d, a, b, c))

// ---- ldmatrix and stmatrix: rows in a shuffled order
// --------------------------------------------------
#define LDMATRIX(name, n)                                                                     \
  CONFORMANCE(name, "bits", "exact", 128, 32 * n, 75, 32, 0, SHARED_ARRAY(uint4, tile, [32]); \
              tile[thread()] = reinterpret_cast<const uint4*>(in)[thread()]; __syncwarp();    \
              uint32_t r[n]; ptx::name(r, ptx::shared_address(&tile[(thread() * 13) & 31]));  \
              for (int i = 0; i < n; ++i) out[thread() * n + i] = r[i];)
LDMATRIX(ldmatrix_x1, 1)
LDMATRIX(ldmatrix_x2, 2)
LDMATRIX(ldmatrix_x4, 4)
LDMATRIX(ldmatrix_x1_trans, 1)
LDMATRIX(ldmatrix_x2_trans, 2)
LDMATRIX(ldmatrix_x4_trans, 4)
#define STMATRIX(name, n)                                                                     \
  CONFORMANCE(name, "bits", "exact", 128, 32 * n, 90, 32, 0, SHARED_ARRAY(uint4, tile, [32]); \
              uint32_t r[n]; for (int i = 0; i < n; ++i) r[i] = in[thread() * n + i];         \
              ptx::name(ptx::shared_address(&tile[(thread() * 13) & (8 * n - 1)]), r);        \
              __syncwarp();                                                                   \
              if (thread() < 8 * n) reinterpret_cast<uint4*>(out)[thread()] = tile[thread()];)
STMATRIX(stmatrix_x2, 2)
STMATRIX(stmatrix_x4, 4)
STMATRIX(stmatrix_x4_trans, 4)

// ---- cp.async
// -----------------------------------------------------------------------------------------
CONFORMANCE(cp_async_16, "bits", "exact", 128, 128, 80, 32, 0, SHARED_ARRAY(uint4, tile, [32]);
            ptx::cp_async_16(ptx::shared_address(&tile[thread()]),
                             reinterpret_cast<const uint4*>(in) + thread(), thread() % 17);
            ptx::cp_async_commit(); ptx::cp_async_wait<0>();
            reinterpret_cast<uint4*>(out)[thread()] = tile[thread()];)
CONFORMANCE(cp_async_small, "bits", "exact", 96, 96, 80, 32, 0, SHARED_ARRAY(uint2, pairs, [32]);
            SHARED_ARRAY(uint32_t, words, [32]);
            ptx::cp_async_small<8>(ptx::shared_address(&pairs[thread()]),
                                   reinterpret_cast<const uint2*>(in) + thread(), thread() % 9);
            ptx::cp_async_small<4>(ptx::shared_address(&words[thread()]), in + 64 + thread());
            ptx::cp_async_commit(); ptx::cp_async_wait<0>();
            reinterpret_cast<uint2*>(out)[thread()] = pairs[thread()];
            out[64 + thread()] = words[thread()];)

// ---- atomics: order-independent results, and ordered accesses
// -----------------------------------------
CONFORMANCE(more_atomics, "bits", "exact", 64, 4, 75, 64, 0, SHARED_ARRAY(uint32_t, cells, [3]);
            SHARED_ARRAY(float, total, [1]); if (thread() < 3) cells[thread()] = 0xfffffff0u;
            if (thread() == 0) total[0] = 0.f; __syncthreads(); atomicMin(&cells[0], in[thread()]);
            atomicDec(&cells[1], 20u); if (thread() == 5) atomicExch(&cells[2], in[5]);
            atomicAdd(&total[0], static_cast<float>(in[thread()] & 15)); __syncthreads();
            if (thread() < 3) out[thread()] = cells[thread()];
            if (thread() == 3) out[3] = as_bits(total[0]);)
CONFORMANCE(fenced_accesses, "bits", "exact", 64, 64, 75, 64, 0, SHARED_ARRAY(uint32_t, tile, [64]);
            SHARED_ARRAY(uint32_t, flags, [2]); if (thread() < 2) flags[thread()] = 0;
            __syncthreads(); tile[thread()] = in[thread()]; __threadfence_system(); __syncwarp();
            __threadfence_block(); if ((thread() & 31) == 0) atomicExch(&flags[thread() >> 5], 1u);
            while (atomicAdd(&flags[(thread() >> 5) ^ 1], 0u) == 0) __nanosleep(20);
            __threadfence(); out[thread()] = tile[thread() ^ 32];)
CONFORMANCE(atomics, "bits", "exact", 64, 8, 75, 64, 0, SHARED_ARRAY(uint32_t, cells, [8]);
            if (thread() < 8) cells[thread()] = thread() == 3 ? 0xffffffffu : 0u; __syncthreads();
            const uint32_t x = in[thread()]; atomicAdd(&cells[0], x); atomicSub(&cells[1], x);
            atomicMax(&cells[2], x); atomicAnd(&cells[3], x); atomicOr(&cells[4], x & 0xff00u);
            atomicXor(&cells[5], x); atomicInc(&cells[6], 40u); atomicCAS(&cells[7], 0u, 5u);
            __syncthreads(); if (thread() < 8) out[thread()] = cells[thread()];)
CONFORMANCE(
    ordered_accesses, "bits", "exact", 64, 8, 75, 64, 0,
    if (thread() == 0) {
      ptx::store_relaxed(out, in[0]);
      ptx::store_release(out + 1, in[1]);
      out[2] = ptx::load_relaxed(out) + ptx::load_acquire(out + 1);
      ptx::store_relaxed(out + 3, 0);
      ptx::store_packets(reinterpret_cast<uint4*>(out + 4), make_uint4(in[4], in[5], in[6], in[7]));
    } __syncthreads();
    ptx::add_release(out + 3, 1); __syncthreads(); if (thread() == 1) {
      const uint4 v = ptx::load_packets(reinterpret_cast<const uint4*>(out + 4), in[7]);
      out[0] += v.x ^ v.y ^ v.z ^ v.w;
      out[1] += ptx::fetch_add_acq_rel(out + 3, 2);
    })
// ---- the grid barrier: four blocks of one cooperative launch, twice
// ------------------------------------------
__global__ void __launch_bounds__(64)
    k_grid_sync(const uint32_t* in, uint32_t* out, uint32_t* parts, uint32_t* state) {
  const int block = static_cast<int>(blockIdx.x), i = block * 64 + thread();
  parts[i] = in[i];
  ptx::grid_sync(state);
  const uint32_t x = parts[(i + 64) & 255];
  ptx::grid_sync(state);
  parts[i] = x + 1;
  ptx::grid_sync(state);
  out[i] = parts[(i + 128) & 255] ^ x;
}
const AddConformance add_grid_sync({"grid_sync", "bits", "exact", 256, 513, 75,
                                    [](const uint32_t* in, uint32_t* out) {
                                      fill_bytes(out + 256, 0, 257 * 4, current_stream());
                                      LaunchConfig c;
                                      c.grid = dim3(4);
                                      c.block = dim3(64);
                                      c.cooperative = true;
                                      launch(k_grid_sync, c, in, out, out + 256, out + 512);
                                    }});
CONFORMANCE(
    named_barriers, "bits", "exact", 128, 64, 75, 128, 0, SHARED_ARRAY(uint32_t, tile, [64]);
    if (thread() >= 64) {
      tile[thread() - 64] = in[thread()];
      ptx::named_barrier_arrive(1, 128);
    } else {
      ptx::named_barrier_sync(1, 128);
      out[thread()] = tile[thread() ^ 33];
    })

}  // namespace
}  // namespace seqloom_test
