// SPDX-License-Identifier: Apache-2.0
// Causal attention forward, bfloat16, head size 64: four warps of 16 query rows, tiles of 64 keys
// double-buffered by cp.async, swizzled shared memory, ldmatrix and mma.sync.
#include "../support.h"

namespace seqloom_test {
namespace {

constexpr int kRows = 64, kKeys = 64, kHead = 64, kThreads = 128;
constexpr uint32_t kTileBytes = kKeys * kHead * 2;

// 128-byte rows of eight 16-byte chunks; the chunk number is xored with the row.
SEQLOOM_DEVICE uint32_t swizzled(int row, int chunk) {
  return static_cast<uint32_t>(row * 128 + ((chunk ^ (row & 7)) << 4));
}

SEQLOOM_DEVICE void load_tile(uint32_t target, const BFloat16* source, int row0, int length,
                              int bug) {
#pragma unroll
  for (int i = 0; i < kKeys * 8 / kThreads; ++i) {
    const int id = i * kThreads + static_cast<int>(threadIdx.x), r = id >> 3, c = id & 7;
    const bool inside = row0 + r < length || bug == 5;  // 5: no bound check on the ragged tail
    ptx::cp_async_16(target + swizzled(r, c),
                     inside ? source + static_cast<size_t>(row0 + r) * kHead + c * 8 : source,
                     inside ? 16 : 0);
  }
}

__global__ void __launch_bounds__(kThreads)
    attention_kernel(const BFloat16* q, const BFloat16* k, const BFloat16* v, BFloat16* o,
                     int length, float scale_log2, int bug) {
  DYNAMIC_SHARED(smem, 128);
  const uint32_t q_tile = ptx::shared_address(smem), k_tiles = q_tile + kRows * kHead * 2,
                 v_tiles = k_tiles + 2 * kTileBytes;
  const int w = warp_index(), l = lane_index(), row0 = static_cast<int>(blockIdx.x) * kRows;
  const size_t base = static_cast<size_t>(blockIdx.y) * length * kHead;
  q += base, k += base, v += base, o += base;
  const int tiles = min((row0 + kRows + kKeys - 1) / kKeys, (length + kKeys - 1) / kKeys);

  load_tile(q_tile, q, row0, length, 0);
  load_tile(k_tiles, k, 0, length, bug);
  load_tile(v_tiles, v, 0, length, bug);
  ptx::cp_async_commit();
  float acc[8][4] = {}, top[2] = {-INFINITY, -INFINITY}, sum[2] = {0.f, 0.f};
  uint32_t qf[4][4];
  for (int t = 0; t < tiles; ++t) {
    const uint32_t stage = t & 1;
    if (t + 1 < tiles) {
      load_tile(k_tiles + (stage ^ 1) * kTileBytes, k, (t + 1) * kKeys, length, bug);
      load_tile(v_tiles + (stage ^ 1) * kTileBytes, v, (t + 1) * kKeys, length, bug);
    }
    ptx::cp_async_commit();
    if (bug == 1) {
      ptx::cp_async_wait<2>();  // tile t may still be on its way
    } else {
      ptx::cp_async_wait<1>();
    }
    if (bug != 2) __syncthreads();  // the copies of all threads are visible
    if (t == 0) {
#pragma unroll
      for (int kk = 0; kk < 4; ++kk)
        ptx::ldmatrix_x4(qf[kk], q_tile + swizzled(w * 16 + (l & 15), kk * 2 + (l >> 4)));
    }
    float s[8][4] = {};
#pragma unroll
    for (int kk = 0; kk < 4; ++kk)
#pragma unroll
      for (int n = 0; n < 8; n += 2) {
        uint32_t kf[4];
        const int chunk = kk * 2 + (bug == 3 ? l >> 4 : (l >> 3) & 1);  // 3: wrong half
        ptx::ldmatrix_x4(kf, k_tiles + stage * kTileBytes +
                                 swizzled(n * 8 + (l & 7) + ((l >> 4) << 3), chunk) +
                                 (bug == 7 ? 8u : 0u));  // 7: not a multiple of 16
        const uint32_t b0[2] = {kf[0], kf[1]}, b1[2] = {kf[2], kf[3]};
        ptx::mma_m16n8k16_bf16(s[n], qf[kk], b0, s[n]);
        ptx::mma_m16n8k16_bf16(s[n + 1], qf[kk], b1, s[n + 1]);
      }
    float now[2] = {top[0], top[1]}, alpha[2], offset[2];
#pragma unroll
    for (int n = 0; n < 8; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int column = t * kKeys + n * 8 + (l & 3) * 2 + (e & 1);
        const int row = row0 + w * 16 + (l >> 2) + (e >> 1) * 8;
        if (column > row - (bug == 8) || column >= length)
          s[n][e] = -INFINITY;  // 8: mask off by one
        now[e >> 1] = fmaxf(now[e >> 1], s[n][e]);
      }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      now[h] = warp_max<4>(now[h]);
      offset[h] = now[h] == -INFINITY ? 0.f : now[h] * scale_log2;
      alpha[h] = ptx::ex2_approx(top[h] * scale_log2 - offset[h]);
      top[h] = now[h];
      sum[h] *= alpha[h];
    }
    uint32_t pf[4][4];
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      float p[4];
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        p[e] = ptx::ex2_approx(s[n][e] * scale_log2 - offset[e >> 1]);
        sum[e >> 1] += p[e];
        if (bug != 9) acc[n][e] *= alpha[e >> 1];  // 9: the running output is not rescaled
      }
      pf[n >> 1][(n & 1) * 2] = pack_pair<BFloat16>(p[0], p[1]);
      pf[n >> 1][(n & 1) * 2 + 1] = pack_pair<BFloat16>(p[2], p[3]);
    }
#pragma unroll
    for (int kk = 0; kk < 4; ++kk)
#pragma unroll
      for (int n = 0; n < 8; n += 2) {
        uint32_t vf[4];
        const uint32_t at =
            v_tiles + stage * kTileBytes + swizzled(kk * 16 + (l & 15), n + (l >> 4));
        if (bug == 4) {
          ptx::ldmatrix_x4(vf, at);  // V must be read transposed
        } else {
          ptx::ldmatrix_x4_trans(vf, at);
        }
        const uint32_t b0[2] = {vf[0], vf[1]}, b1[2] = {vf[2], vf[3]};
        ptx::mma_m16n8k16_bf16(acc[n], pf[kk], b0, acc[n]);
        ptx::mma_m16n8k16_bf16(acc[n + 1], pf[kk], b1, acc[n + 1]);
      }
    if (bug != 6) __syncthreads();  // the next prefetch overwrites this stage
  }
  if (bug != 10) ptx::cp_async_wait<0>();
  if (bug == 10) ptx::cp_async_16(q_tile + swizzled(w, l & 7), q, 16);  // left in flight
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    sum[h] = warp_sum<4>(sum[h]);
    const int row = row0 + w * 16 + (l >> 2) + h * 8;
    if (row >= length) continue;
    const float inverse = 1.f / sum[h];
#pragma unroll
    for (int n = 0; n < 8; ++n)
      *reinterpret_cast<uint32_t*>(o + static_cast<size_t>(row) * kHead + n * 8 + (l & 3) * 2) =
          pack_pair<BFloat16>(acc[n][h * 2] * inverse, acc[n][h * 2 + 1] * inverse);
  }
}

}  // namespace

SEQLOOM_EXPORT int run_attention(const BFloat16* q, const BFloat16* k, const BFloat16* v,
                                 BFloat16* o, int heads, int length, int bug) {
  return guarded([&] {
    LaunchConfig c;
    c.grid =
        dim3(static_cast<unsigned>((length + kRows - 1) / kRows), static_cast<unsigned>(heads));
    c.block = dim3(kThreads);
    c.shared_bytes = kRows * kHead * 2 + 4 * kTileBytes;
    launch(attention_kernel, c, q, k, v, o, length,
           1.44269504089f / sqrtf(static_cast<float>(kHead)), bug);
    synchronize_stream(nullptr);
  });
}

}  // namespace seqloom_test
