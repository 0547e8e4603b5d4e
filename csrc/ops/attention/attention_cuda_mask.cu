// SPDX-License-Identifier: Apache-2.0
// The gradient of an additive mask on CUDA: dmask = sum of ds over the axes that the mask was
// broadcast along.
//
// A block owns kM x kN elements of the mask (fewer where an axis is broadcast) and walks over all
// tiles of scores that they were added to, computing ds again for each. Sums along a broadcast axis
// stay in registers until the end, and are folded in a fixed order: no atomics, and the same bits
// every time. Every element of the gradient is written. Only calls whose mask requires a gradient
// come here.
#include "cuda/reduce.h"
#include "ops/attention/attention_cuda.h"

namespace seqloom::ops::attention_device {
namespace {

template <class P, int kD>
struct MaskShape {
  static constexpr bool kFloat = !P::kTensorCores;
  static constexpr int kWarps =
      kFloat ? by_width(kD, 4, 2, 1) : by_width(kD, 4, 4, P::kAsync ? 4 : 2);
  static constexpr int kN = kFloat      ? by_width(kD, 32, 16, 8)
                            : P::kAsync ? by_width(kD, 64, 64, 32)
                                        : by_width(kD, 32, 32, 16);
  static constexpr int kM = kWarps * 16, kThreads = kWarps * 32;
  using Layout = Tile<typename P::Element, kD>;
  static constexpr int kRowTile = kM * Layout::kRowBytes, kKeyTile = kN * Layout::kRowBytes;
  static constexpr int kSharedBytes = 2 * kRowTile + 2 * kKeyTile + kWarps * kN * 4;
  static_assert(kSharedBytes <= P::kSharedLimit);
};

struct MaskPlan {
  AttentionOperand gradient;
  const float* delta;
  float* d_mask;
  int row_blocks, key_blocks;  // of the mask; 1 where it is broadcast
  bool query_aligned, gradient_aligned, keys_aligned;
};

template <class P, int kD>
__global__ void __launch_bounds__(MaskShape<P, kD>::kThreads, 1)
    mask_kernel(AttentionArgs a, MaskPlan plan) {
  if constexpr (P::kCompiled) {
    using T = typename P::Element;
    using Shape = MaskShape<P, kD>;
    constexpr int kM = Shape::kM, kN = Shape::kN, kThreads = Shape::kThreads, kTiles = kN / 8;
    DYNAMIC_SHARED(raw, 128);
    unsigned char* const q_tile = raw;
    unsigned char* const g_tile = q_tile + Shape::kRowTile;
    unsigned char* const k_tile = g_tile + Shape::kRowTile;
    unsigned char* const v_tile = k_tile + Shape::kKeyTile;
    float* const columns = reinterpret_cast<float*>(v_tile + Shape::kKeyTile);  // [warps][kN]
    const int lane = static_cast<int>(threadIdx.x) & 31, warp = static_cast<int>(threadIdx.x) >> 5;
    const int queries = static_cast<int>(a.queries), keys = static_cast<int>(a.keys);
    const int group = static_cast<int>(a.heads / a.kv_heads);
    const bool one_row = a.mask_stride[2] == 0, one_column = a.mask_stride[3] == 0;

    int64_t id = blockIdx.x;
    const int key_block = static_cast<int>(id % plan.key_blocks);
    id /= plan.key_blocks;
    const int row_block = static_cast<int>(id % plan.row_blocks);
    id /= plan.row_blocks;
    const int64_t mask_heads = a.mask_stride[1] != 0 ? a.heads : 1;
    const int own_head = static_cast<int>(id % mask_heads),
              own_batch = static_cast<int>(id / mask_heads);
    const int b_begin = own_batch,
              b_end = a.mask_stride[0] != 0 ? own_batch + 1 : static_cast<int>(a.batch);
    const int h_begin = own_head,
              h_end = a.mask_stride[1] != 0 ? own_head + 1 : static_cast<int>(a.heads);
    const int i_begin = row_block * kM, i_end = one_row ? queries : i_begin + 1;
    const int j_begin = key_block * kN, j_end = one_column ? keys : j_begin + 1;

    float total[kTiles][4];
#pragma unroll
    for (int n = 0; n < kTiles; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) total[n][e] = 0.f;

    for (int b = b_begin; b < b_end; ++b) {
      const int length = length_of(a, b);
      const int64_t offset = offset_of(a, b);
      for (int h = h_begin; h < h_end; ++h) {
        const T* const query = head_of<T>(a.query, b, h);
        const T* const gradient = head_of<T>(plan.gradient, b, h);
        const T* const key = head_of<T>(a.key, b, h / group);
        const T* const value = head_of<T>(a.value, b, h / group);
        for (int i0 = i_begin; i0 < i_end; i0 += kM) {
          const int last = i0 + kM < queries ? i0 + kM - 1 : queries - 1;
          const int lo = visible_range(a, offset, length, i0).lo;
          const int hi = visible_range(a, offset, length, last).hi;
          bool fresh = true;  // rows, which serve all tiles of keys
          for (int j0 = j_begin; j0 < j_end; j0 += kN) {
            if (j0 >= hi || j0 + kN <= lo) continue;
            __syncthreads();  // everyone has left the tiles
            if (fresh) {
              load_matrix<P, kM, kD, kThreads>(q_tile, query, a.query.row_stride, i0, queries,
                                               a.width, plan.query_aligned);
              load_matrix<P, kM, kD, kThreads>(g_tile, gradient, plan.gradient.row_stride, i0,
                                               queries, a.value_width, plan.gradient_aligned);
              fresh = false;
            }
            load_matrix<P, kN, kD, kThreads>(k_tile, key, a.key.row_stride, j0, length, a.width,
                                             plan.keys_aligned);
            load_matrix<P, kN, kD, kThreads>(v_tile, value, a.value.row_stride, j0, length,
                                             a.value_width, plan.keys_aligned);
            if (P::kAsync) {
              ptx::cp_async_commit();
              ptx::cp_async_wait<0>();
            }
            __syncthreads();

            float s[kTiles][4], ds[kTiles][4];
            P::template product_nt<kN, kD>(s, q_tile, warp * 16, k_tile, lane);
            P::template product_nt<kN, kD>(ds, g_tile, warp * 16, v_tile, lane);
            gradients_with_options(a, s, ds, false, [&](int x) {
              const int row = i0 + warp * 16 + (lane >> 2) + (x >> 1 & 1) * 8;
              const int i = row < queries ? row : queries - 1;
              const Range seen = visible_range(a, offset, length, i);
              const int64_t at = (b * a.heads + h) * a.queries + i;
              PairPlace p;
              p.row = place_of(a, offset, b, h, i);
              p.j = j0 + (x >> 2) * 8 + (lane & 3) * 2 + (x & 1);
              p.visible = row < queries && p.j >= seen.lo && p.j < seen.hi;
              p.sums = sums_of<P>(a, at);
              p.delta = plan.delta[at];
              return p;
            });
#pragma unroll
            for (int n = 0; n < kTiles; ++n)
#pragma unroll
              for (int e = 0; e < 4; ++e) total[n][e] += ds[n][e];
          }
        }
      }
    }

    float* const out = plan.d_mask + own_batch * a.mask_stride[0] + own_head * a.mask_stride[1];
    const int warp_row = i_begin + warp * 16 + (lane >> 2);
    if (one_row) {
      // Down the columns: over the lanes that hold other rows, then over the warps.
#pragma unroll
      for (int n = 0; n < kTiles; ++n)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float sum = total[n][e] + total[n][e + 2];
#pragma unroll
          for (int other = 4; other < 32; other <<= 1)
            sum += __shfl_xor_sync(kAllLanes, sum, other);
          if (lane < 4) columns[warp * kN + n * 8 + lane * 2 + e] = sum;
        }
      __syncthreads();
      const int x = static_cast<int>(threadIdx.x);
      if (x < kN)
        for (int w = 1; w < Shape::kWarps; ++w) columns[x] += columns[w * kN + x];
      __syncthreads();
      if (one_column) {
        if (x == 0) {
          float sum = 0.f;
          for (int c = 0; c < kN; ++c) sum += columns[c];
          *out = sum;
        }
      } else if (x < kN && j_begin + x < keys) {
        out[j_begin + x] = columns[x];
      }
    } else {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int i = warp_row + r * 8;
        float sum = 0.f;
#pragma unroll
        for (int n = 0; n < kTiles; ++n)
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const int j = j_begin + n * 8 + (lane & 3) * 2 + e;
            const float value = total[n][2 * r + e];
            if (!one_column && i < queries && j < keys) out[i * a.mask_stride[2] + j] = value;
            sum += value;
          }
        if (one_column) {
          sum += __shfl_xor_sync(kAllLanes, sum, 1);
          sum += __shfl_xor_sync(kAllLanes, sum, 2);
          if (i < queries && (lane & 3) == 0) out[i * a.mask_stride[2]] = sum;
        }
      }
    }
  }
}

}  // namespace

void launch_mask_gradient(const AttentionBackwardArgs& args, const float* delta) {
  const AttentionArgs& a = args.forward;
  const int64_t item = item_size(a.dtype);
  dispatch_kernel(a, [&](auto core, auto width) {
    using P = decltype(core);
    constexpr int kD = decltype(width)::value;
    using Shape = MaskShape<P, kD>;
    MaskPlan plan{};
    plan.gradient = args.gradient;
    plan.delta = delta;
    plan.d_mask = args.d_mask;
    plan.row_blocks =
        a.mask_stride[2] == 0 ? 1 : static_cast<int>((a.queries + Shape::kM - 1) / Shape::kM);
    plan.key_blocks =
        a.mask_stride[3] == 0 ? 1 : static_cast<int>((a.keys + Shape::kN - 1) / Shape::kN);
    plan.query_aligned = is_aligned(a.query, item);
    plan.gradient_aligned = is_aligned(args.gradient, item);
    plan.keys_aligned = is_aligned(a.key, item) && is_aligned(a.value, item);
    const int64_t batches = a.mask_stride[0] != 0 ? a.batch : 1;
    const int64_t heads = a.mask_stride[1] != 0 ? a.heads : 1;
    cuda::LaunchConfig config;
    config.grid = dim3(static_cast<unsigned>(batches * heads * plan.row_blocks * plan.key_blocks));
    config.block = dim3(Shape::kThreads);
    config.shared_bytes = Shape::kSharedBytes;
    if (config.grid.x > 0) cuda::launch(mask_kernel<P, kD>, config, a, plan);
  });
}

}  // namespace seqloom::ops::attention_device
