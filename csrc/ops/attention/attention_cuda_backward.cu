// SPDX-License-Identifier: Apache-2.0
// Attention backward on CUDA: scores are computed again, twice, and never written.
//
//   delta_i = g_i . o_i                           delta_kernel: a warp a row
//   dq_i = scale sum_j t_ij k_j                   query_kernel: a block owns query rows, walks keys
//   dk_j = scale sum_i t_ij q_i                   key_kernel: a block owns keys, walks queries
//   dv_j = sum_i drop_ij p_ij g_i                 (of all heads that read the key head)
//
// with p_ij = share_i 2^(s_ij - shift_i), t_ij = p_ij (drop_ij g_i . v_j - delta_i) cap'_ij. Every
// gradient has one owner that adds in a fixed order: no atomics, the same bits every time, and no
// memory beyond delta. The price is a second Q K^T and G V^T, seven products where five would do.
//
// Both kernels are the two products of attention_tiles_cuda.h. The key kernel works on transposed
// scores, S^T = K Q^T, so that P^T and dS^T are in registers as the left operands of dV and dK.
// Where the accumulators of dK and dV would not fit (head sizes above 128) it runs twice.
//
// A warp whose results are not finite, where pairs may be hidden, leaves them to
// attention_careful_cuda.h.
//
// The slopes of ALiBi get sum_ij ds_ij (j - position_i): the query kernel leaves a sum a row, which
// slope_kernel adds up.
#include "cuda/rows.h"
#include "ops/attention/attention_careful_cuda.h"

namespace seqloom::ops::attention_device {
namespace {

// ---- delta --------------------------------------------------------------------------------------

constexpr int kDeltaThreads = 128;

template <class T>
__global__ void __launch_bounds__(kDeltaThreads)
    delta_kernel(AttentionOperand gradient, const T* output, float* delta, int64_t rows, int heads,
                 int queries, int width) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (kDeltaThreads / 32) + (threadIdx.x >> 5);
  if (row >= rows) return;
  const int lane = static_cast<int>(threadIdx.x) & 31;
  const T* g = static_cast<const T*>(gradient.data) +
               row / queries / heads * gradient.batch_stride +
               row / queries % heads * gradient.head_stride + row % queries * gradient.row_stride;
  const T* o = output + row * width;
  float sum = 0.f;
  for (int c = lane; c < width; c += 32)
    sum = fmaf(cuda::to_float(g[c]), cuda::to_float(o[c]), sum);
  sum = cuda::warp_sum(sum);
  if (lane == 0) delta[row] = sum;
}

// d_slopes[h] = the sum of moved[b, h, i] over b and i: a block a head, in a fixed order.
__global__ void __launch_bounds__(kDeltaThreads)
    slope_kernel(const float* moved, float* d_slopes, int64_t batch, int64_t heads,
                 int64_t queries) {
  SHARED_ARRAY(float, scratch, [kDeltaThreads / 32]);
  float sum = 0.f;
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t i = threadIdx.x; i < queries; i += kDeltaThreads)
      sum += moved[(b * heads + blockIdx.x) * queries + i];
  sum = cuda::block_sum(sum, &scratch[0]);
  if (threadIdx.x == 0) d_slopes[blockIdx.x] = sum;
}

struct BackwardPlan {
  AttentionOperand gradient;
  const float* delta;
  void *d_query, *d_key, *d_value;
  float* moved;  // [B, Hq, Tq] sum_j ds_ij (j - position_i), or null
  int blocks;    // of rows, or of keys
  bool options, query_aligned, gradient_aligned, keys_aligned;
};

// ---- queries ------------------------------------------------------------------------------------

template <class P, int kD>
struct QueryShape {
  static constexpr bool kFloat = !P::kTensorCores;
  static constexpr int kWarps =
      kFloat ? by_width(kD, 4, 2, 1) : by_width(kD, 4, 4, P::kAsync ? 4 : 2);
  static constexpr int kN =
      kFloat ? by_width(kD, 32, 16, 8) : by_width(kD, 64, P::kAsync ? 64 : 32, 16);
  static constexpr int kStages = P::kAsync && kD <= 128 ? 2 : 1;
  static constexpr int kM = kWarps * 16, kThreads = kWarps * 32;
  using Layout = Tile<typename P::Element, kD>;
  static constexpr int kRowTile = kM * Layout::kRowBytes, kKeyTile = kN * Layout::kRowBytes;
  static constexpr int kSharedBytes =
      2 * kRowTile + 2 * kStages * kKeyTile + kWarps * P::template kStagingFloats<kN> * 4;
  static_assert(kSharedBytes <= P::kSharedLimit);
};

template <class P, int kD>
__global__ void __launch_bounds__(QueryShape<P, kD>::kThreads, 1)
    query_kernel(AttentionArgs a, BackwardPlan plan) {
  if constexpr (P::kCompiled) {
    using T = typename P::Element;
    using Shape = QueryShape<P, kD>;
    constexpr int kM = Shape::kM, kN = Shape::kN, kStages = Shape::kStages;
    constexpr int kThreads = Shape::kThreads, kTiles = kN / 8;
    // There is no register for slopes and for shares there: rows that need them go the careful way.
    constexpr bool kWide = kD > 128, kFolded = kWide && P::kTensorCores;
    DYNAMIC_SHARED(raw, 128);
    unsigned char* const q_tile = raw;
    unsigned char* const g_tile = q_tile + Shape::kRowTile;
    unsigned char* const k_tiles = g_tile + Shape::kRowTile;
    unsigned char* const v_tiles = k_tiles + kStages * Shape::kKeyTile;
    const int lane = static_cast<int>(threadIdx.x) & 31, warp = static_cast<int>(threadIdx.x) >> 5;
    float* const staging = reinterpret_cast<float*>(v_tiles + kStages * Shape::kKeyTile) +
                           warp * P::template kStagingFloats<kN>;

    const int64_t id = blockIdx.x;
    const int row_block = plan.blocks - 1 - static_cast<int>(id % plan.blocks);
    const RowBlock rows(a, id / plan.blocks, row_block * kM, kM);
    const KeyStages<P, Shape, kD, false> stages{a, rows, k_tiles, v_tiles, plan.keys_aligned};
    const int tile_begin = rows.lo / kN;
    const int tile_end = rows.hi > rows.lo ? (rows.hi + kN - 1) / kN : tile_begin;

    load_packed_rows<P, kM, kD, kThreads>(q_tile, rows, a.query, a.width, plan.query_aligned);
    load_packed_rows<P, kM, kD, kThreads>(g_tile, rows, plan.gradient, a.value_width,
                                          plan.gradient_aligned);
    if (P::kAsync) ptx::cp_async_commit();

    const int warp_row = rows.first + warp * 16;
    const bool active = warp_row < rows.rows;
    RowSums sums[2];
    float delta[2];
    const auto read_rows = [&] {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int64_t at = rows.flat(a, rows.clamp(warp_row + (lane >> 2) + r * 8));
        sums[r] = sums_of<P>(a, at);
        if constexpr (kFolded) sums[r] = {a.sums[2 * at] - log2f(a.sums[2 * at + 1]), 1.f};
        delta[r] = plan.delta[at];
      }
    };
    read_rows();
    const float factor = a.scale * kLog2e;
    const bool coarse = is_coarse<P>(sums[0].shift) || is_coarse<P>(sums[1].shift);
    const bool general =
        kFolded ? plan.options : __any_sync(kAllLanes, plan.options || coarse) != 0;

    float dq[kD / 8][4], moved[2];
    if (kStages == 2 && tile_begin < tile_end) stages.load(tile_begin);
    moved[0] = moved[1] = 0.f;
#pragma unroll
    for (int n = 0; n < kD / 8; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) dq[n][e] = 0.f;

    for (int tile = tile_begin; tile < tile_end; ++tile) {
      if (kStages == 1) {
        __syncthreads();  // everyone has left the tile
        stages.load(tile);
      }
      if (P::kAsync) ptx::cp_async_wait<0>();
      __syncthreads();  // the tile is there for all; with two stages, all have left the other one
      if (kStages == 2 && tile + 1 < tile_end) stages.load(tile + 1);
      if (!active) continue;

      const int j0 = tile * kN;
      const unsigned char* const k_tile = stages.keys(tile);
      float s[kTiles][4], dp[kTiles][4];
      P::template product_nt<kN, kD>(s, q_tile, warp * 16, k_tile, lane);
      P::template product_nt<kN, kD>(dp, g_tile, warp * 16, stages.values(tile), lane);
      // There is no register either that would keep these from tile to tile.
      if constexpr (kFolded) read_rows();
      const auto seen_by = [&](int r) {
        return visible_range(a, rows.offset, rows.length,
                             rows.clamp(warp_row + (lane >> 2) + r * 8) % rows.queries);
      };
      if (general) {
        const auto add_moved = [&](int x, const PairPlace& p, float ds) {
          if (kWide || plan.moved == nullptr) return;
          const float by = ds * static_cast<float>(p.j - p.row.position);
          moved[0] += x >> 1 & 1 ? 0.f : by;
          moved[1] += x >> 1 & 1 ? by : 0.f;
        };
        const auto pair_at = [&](int x) {
          const int r = x >> 1 & 1, row = rows.clamp(warp_row + (lane >> 2) + r * 8);
          const Range seen = seen_by(r);
          PairPlace p;
          p.row = place_of(a, rows.offset, rows.b, rows.head_of(row), row % rows.queries);
          p.j = j0 + (x >> 2) * 8 + (lane & 3) * 2 + (x & 1);
          p.visible = p.j >= seen.lo && p.j < seen.hi;
          p.sums = r ? sums[1] : sums[0];
          p.delta = r ? delta[1] : delta[0];
          return p;
        };
        gradients_with_options(a, s, dp, true, pair_at, add_moved);
      } else {
#pragma unroll
        for (int n = 0; n < kTiles; ++n)
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const RowSums& row = sums[e >> 1];
            const float p = weight_of<P>(fmaf(s[n][e], factor, -row.shift), row.share);
            dp[n][e] = p * (dp[n][e] - delta[e >> 1]);
          }
        if (j0 < rows.full_lo || j0 + kN > rows.full_hi) {
          const Range seen[2] = {seen_by(0), seen_by(1)};
#pragma unroll
          for (int n = 0; n < kTiles; ++n)
#pragma unroll
            for (int e = 0; e < 4; ++e) {
              const int j = j0 + n * 8 + (lane & 3) * 2 + (e & 1);
              if (j < seen[e >> 1].lo || j >= seen[e >> 1].hi) dp[n][e] = 0.f;
            }
        }
      }
      P::template product_nn<kN, kD>(dq, dp, k_tile, staging, lane);
    }
    if (P::kAsync) ptx::cp_async_wait<0>();  // the rows, where there were no tiles of keys
    if (active && (rows.may_hide(a, tile_begin * kN, tile_end * kN) || kWide)) {
      const int row = warp_row + (lane >> 2);
      bool special = any_special(dq, row < rows.rows, row + 8 < rows.rows);
      if constexpr (kFolded)
        for (int r = 0; r < 16; r += 8)
          special |= is_coarse<P>(a.sums[2 * rows.flat(a, rows.clamp(row + r))]);
      if (__any_sync(kAllLanes, special || (kWide && plan.moved != nullptr)) != 0)
        return queries_with_care<T>(a, plan.gradient, plan.delta, plan.d_query, plan.moved,
                                    id / plan.blocks, warp_row);
    }

#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int row = warp_row + (lane >> 2) + r * 8;
      if constexpr (!kWide) {
        moved[r] += __shfl_xor_sync(kAllLanes, moved[r], 1);
        moved[r] += __shfl_xor_sync(kAllLanes, moved[r], 2);
        if (plan.moved != nullptr && row < rows.rows && (lane & 3) == 0)
          plan.moved[rows.flat(a, row)] = moved[r];
      }
      if (row < rows.rows)
        store_row<P, kD>(static_cast<T*>(plan.d_query) + rows.flat(a, row) * a.width,
                         static_cast<int>(a.width), dq, 2 * r, a.scale, lane);
    }
  }
}

// ---- keys and values ----------------------------------------------------------------------------

enum Wanted { kKeys = 1, kValues = 2, kBoth = 3 };

// What the key kernel needs of the queries of a tile.
template <int kN>
struct QueryFacts {
  float shift[kN], share[kN], delta[kN];
  int lo[kN], hi[kN];
  int coarse[2];  // whether some of 32 queries is
};

template <class P, int kD>
struct KeyShape {
  static constexpr bool kFloat = !P::kTensorCores;
  static constexpr int kWarps =
      kFloat ? by_width(kD, 4, 2, 1) : by_width(kD, 4, 4, P::kAsync ? 4 : 2);
  // Queries of a tile.
  static constexpr int kN = kFloat      ? by_width(kD, 32, 16, 8)
                            : P::kAsync ? by_width(kD, 64, 32, 32)
                                        : by_width(kD, 64, 16, 16);
  static constexpr int kStages = P::kAsync && kD <= 128 ? 2 : 1;
  static constexpr int kM = kWarps * 16, kThreads = kWarps * 32;
  using Layout = Tile<typename P::Element, kD>;
  static constexpr int kKeyTile = kM * Layout::kRowBytes, kRowTile = kN * Layout::kRowBytes;
  static constexpr int kSharedBytes = 2 * kKeyTile +
                                      kStages * (2 * kRowTile + int{sizeof(QueryFacts<kN>)}) +
                                      kWarps * P::template kStagingFloats<kN> * 4;
  static_assert(kSharedBytes <= P::kSharedLimit);
};

template <class P, int kD, Wanted kWanted>
__global__ void __launch_bounds__(KeyShape<P, kD>::kThreads, 1)
    key_kernel(AttentionArgs a, BackwardPlan plan) {
  if constexpr (P::kCompiled) {
    using T = typename P::Element;
    using Shape = KeyShape<P, kD>;
    constexpr int kM = Shape::kM, kN = Shape::kN, kStages = Shape::kStages;
    constexpr int kThreads = Shape::kThreads, kTiles = kN / 8;
    constexpr int kKeyColumns = kWanted & kKeys ? kD / 8 : 1;
    constexpr int kValueColumns = kWanted & kValues ? kD / 8 : 1;
    static_assert(kN <= kThreads, "a thread a query");
    DYNAMIC_SHARED(raw, 128);
    unsigned char* const k_tile = raw;
    unsigned char* const v_tile = k_tile + Shape::kKeyTile;
    unsigned char* const q_tiles = v_tile + Shape::kKeyTile;
    unsigned char* const g_tiles = q_tiles + kStages * Shape::kRowTile;
    auto* const facts = reinterpret_cast<QueryFacts<kN>*>(g_tiles + kStages * Shape::kRowTile);
    const int lane = static_cast<int>(threadIdx.x) & 31, warp = static_cast<int>(threadIdx.x) >> 5;
    float* const staging =
        reinterpret_cast<float*>(facts + kStages) + warp * P::template kStagingFloats<kN>;

    // Under a causal mask the first keys are seen by most queries, and start first.
    const int64_t id = blockIdx.x;
    const int j_block = static_cast<int>(id % plan.blocks) * kM;
    const int64_t batch_head = id / plan.blocks;
    const int b = static_cast<int>(batch_head / a.kv_heads);
    const int kv_head = static_cast<int>(batch_head % a.kv_heads);
    const int group = static_cast<int>(a.heads / a.kv_heads);
    const int queries = static_cast<int>(a.queries), length = length_of(a, b);
    const int64_t offset = offset_of(a, b);

    // The queries [i_begin, i_end) may see some of these keys.
    int64_t i_begin = j_block - a.right - offset, i_end = j_block + kM + a.left - offset;
    i_begin = i_begin < 0 ? 0 : i_begin;
    i_end = i_end > queries ? queries : i_end;
    if (j_block >= length || i_end < i_begin) i_end = i_begin;
    const int first_tile = static_cast<int>(i_begin / kN);
    const int tiles_per_head =
        i_end > i_begin ? static_cast<int>((i_end + kN - 1) / kN) - first_tile : 0;
    const int tiles = tiles_per_head * group;  // head by head

    const auto load_rows = [&](int tile) {
      const int i0 = (first_tile + tile % tiles_per_head) * kN, stage = tile % kStages;
      const int h = kv_head * group + tile / tiles_per_head;
      const T* const q = head_of<T>(a.query, b, h);
      const T* const g = head_of<T>(plan.gradient, b, h);
      load_matrix<P, kN, kD, kThreads>(q_tiles + stage * Shape::kRowTile, q, a.query.row_stride, i0,
                                       queries, a.width, plan.query_aligned);
      load_matrix<P, kN, kD, kThreads>(g_tiles + stage * Shape::kRowTile, g,
                                       plan.gradient.row_stride, i0, queries, a.value_width,
                                       plan.gradient_aligned);
      if (P::kAsync) ptx::cp_async_commit();
      const int x = static_cast<int>(threadIdx.x), i = i0 + x;
      bool coarse = false;
      QueryFacts<kN>& f = facts[stage];
      if (x < kN) {
        const bool exists = i < queries;
        const int64_t at = (b * a.heads + h) * a.queries + (exists ? i : 0);
        const Range seen = visible_range(a, offset, length, i);
        const RowSums sums = sums_of<P>(a, at);
        f.shift[x] = exists ? sums.shift : INFINITY;  // weights of zero
        f.share[x] = exists ? sums.share : 0.f;
        f.delta[x] = exists ? plan.delta[at] : 0.f;
        f.lo[x] = exists ? seen.lo : 0;
        f.hi[x] = exists ? seen.hi : 0;
        coarse = exists && is_coarse<P>(sums.shift);
      }
      coarse = __any_sync(kAllLanes, coarse) != 0;
      if (lane == 0 && x < kN) f.coarse[warp] = coarse;
    };
    const T* const keys = head_of<T>(a.key, b, kv_head);
    const T* const values = head_of<T>(a.value, b, kv_head);
    load_matrix<P, kM, kD, kThreads>(k_tile, keys, a.key.row_stride, j_block, length, a.width,
                                     plan.keys_aligned);
    load_matrix<P, kM, kD, kThreads>(v_tile, values, a.value.row_stride, j_block, length,
                                     a.value_width, plan.keys_aligned);
    if (P::kAsync) ptx::cp_async_commit();

    const int j_warp = j_block + warp * 16;
    const bool active = j_warp < length;
    const float factor = a.scale * kLog2e;
    float dk[kKeyColumns][4], dv[kValueColumns][4];
    if (kStages == 2 && tiles > 0) load_rows(0);
#pragma unroll
    for (int n = 0; n < kKeyColumns; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) dk[n][e] = 0.f;
#pragma unroll
    for (int n = 0; n < kValueColumns; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) dv[n][e] = 0.f;
    bool hides = a.mask != nullptr;  // some of the pairs

    for (int tile = 0; tile < tiles; ++tile) {
      if (kStages == 1) {
        __syncthreads();  // everyone has left the tile
        load_rows(tile);
      }
      if (P::kAsync) ptx::cp_async_wait<0>();
      __syncthreads();  // the tile is there for all; with two stages, all have left the other one
      if (kStages == 2 && tile + 1 < tiles) load_rows(tile + 1);
      const int i0 = (first_tile + tile % tiles_per_head) * kN, stage = tile % kStages;
      const unsigned char* const q_tile = q_tiles + stage * Shape::kRowTile;
      const unsigned char* const g_tile = g_tiles + stage * Shape::kRowTile;
      const QueryFacts<kN>& f = facts[stage];
      // Every query of the tile sees every key of the block?
      const Range first = visible_range(a, offset, length, i0);
      const Range last = visible_range(a, offset, length, i0 + kN - 1);
      const bool edge = j_block < last.lo || j_block + kM > first.hi;
      hides = hides || edge;
      if (!active) continue;

      // Transposed: rows are keys, columns are queries.
      float s[kTiles][4], ds[kTiles][4];
      P::template product_nt<kN, kD>(s, k_tile, warp * 16, q_tile, lane);
      if constexpr (kWanted & kKeys)
        P::template product_nt<kN, kD>(ds, v_tile, warp * 16, g_tile, lane);
      else
        memset(static_cast<void*>(ds), 0, sizeof(ds));
      if (plan.options || f.coarse[0] != 0 || (kN > 32 && f.coarse[1] != 0)) {
        const int h = kv_head * group + tile / tiles_per_head;
        gradients_with_options(a, s, ds, true, [&](int x) {
          const int column = (x >> 2) * 8 + (lane & 3) * 2 + (x & 1);
          PairPlace p;
          p.row = place_of(a, offset, b, h, i0 + column);
          p.j = j_warp + (lane >> 2) + (x >> 1 & 1) * 8;
          p.visible = p.j >= f.lo[column] && p.j < f.hi[column];
          p.sums = {f.shift[column], f.share[column]};
          p.delta = f.delta[column];
          return p;
        });
      } else {
#pragma unroll
        for (int n = 0; n < kTiles; ++n)
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const int column = n * 8 + (lane & 3) * 2 + (e & 1);
            float p = weight_of<P>(fmaf(s[n][e], factor, -f.shift[column]), f.share[column]);
            float change = p * (ds[n][e] - f.delta[column]);
            if (edge) {
              const int j = j_warp + (lane >> 2) + (e >> 1) * 8;
              if (j < f.lo[column] || j >= f.hi[column]) p = change = 0.f;
            }
            s[n][e] = p;
            if constexpr (kWanted & kKeys) ds[n][e] = change;
          }
      }
      if constexpr (kWanted & kValues) P::template product_nn<kN, kD>(dv, s, g_tile, staging, lane);
      if constexpr (kWanted & kKeys) P::template product_nn<kN, kD>(dk, ds, q_tile, staging, lane);
    }
    if (P::kAsync) ptx::cp_async_wait<0>();  // the keys, where there were no tiles of queries
    if (active && hides) {
      bool special = false;
      if constexpr (kWanted & kKeys) special |= any_special(dk, true, true);
      if constexpr (kWanted & kValues) special |= any_special(dv, true, true);
      if (__any_sync(kAllLanes, special) != 0)
        return keys_with_care<T>(a, plan.gradient, plan.delta,
                                 kWanted & kKeys ? plan.d_key : nullptr,
                                 kWanted & kValues ? plan.d_value : nullptr, batch_head, j_warp);
    }

#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int j = j_warp + (lane >> 2) + r * 8;
      if (j >= a.keys) continue;
      const int64_t at = batch_head * a.keys + j;
      if constexpr (kWanted & kKeys)
        store_row<P, kD>(static_cast<T*>(plan.d_key) + at * a.width, static_cast<int>(a.width), dk,
                         2 * r, a.scale, lane);
      if constexpr (kWanted & kValues)
        store_row<P, kD>(static_cast<T*>(plan.d_value) + at * a.value_width,
                         static_cast<int>(a.value_width), dv, 2 * r, 1.f, lane);
    }
  }
}

template <class P, int kD, Wanted kWanted>
void launch_keys(const AttentionArgs& a, BackwardPlan plan) {
  using Shape = KeyShape<P, kD>;
  plan.blocks = static_cast<int>((a.keys + Shape::kM - 1) / Shape::kM);
  cuda::LaunchConfig config;
  config.grid = dim3(static_cast<unsigned>(plan.blocks * a.batch * a.kv_heads));
  config.block = dim3(Shape::kThreads);
  config.shared_bytes = Shape::kSharedBytes;
  if (config.grid.x > 0) cuda::launch(key_kernel<P, kD, kWanted>, config, a, plan);
}

}  // namespace

void launch_backward(const AttentionBackwardArgs& args) {
  const AttentionArgs& a = args.forward;
  const int64_t item = item_size(a.dtype), rows = a.batch * a.heads * a.queries;
  const cuda::Workspace delta(static_cast<std::size_t>(rows) * sizeof(float));
  const bool slopes = args.d_slopes != nullptr;
  const cuda::Workspace moved(slopes ? static_cast<std::size_t>(rows) * sizeof(float) : 0);
  dispatch_kernel(a, [&](auto core, auto width) {
    using P = decltype(core);
    using T = typename P::Element;
    constexpr int kD = decltype(width)::value;
    BackwardPlan plan{};
    plan.gradient = args.gradient;
    plan.delta = delta.as<float>();
    plan.d_query = args.d_query;
    plan.d_key = args.d_key;
    plan.d_value = args.d_value;
    plan.moved = slopes ? moved.as<float>() : nullptr;
    plan.options = has_options(a);
    plan.query_aligned = is_aligned(a.query, item);
    plan.gradient_aligned = is_aligned(args.gradient, item);
    plan.keys_aligned = is_aligned(a.key, item) && is_aligned(a.value, item);
    if (rows > 0) {
      constexpr int kRows = kDeltaThreads / 32;
      cuda::LaunchConfig config;
      config.grid = dim3(static_cast<unsigned>((rows + kRows - 1) / kRows));
      config.block = dim3(kDeltaThreads);
      cuda::launch(delta_kernel<T>, config, args.gradient, static_cast<const T*>(a.output),
                   delta.as<float>(), rows, static_cast<int>(a.heads), static_cast<int>(a.queries),
                   static_cast<int>(a.value_width));

      using Shape = QueryShape<P, kD>;
      plan.blocks =
          static_cast<int>((a.heads / a.kv_heads * a.queries + Shape::kM - 1) / Shape::kM);
      config.grid = dim3(static_cast<unsigned>(plan.blocks * a.batch * a.kv_heads));
      config.block = dim3(Shape::kThreads);
      config.shared_bytes = Shape::kSharedBytes;
      cuda::launch(query_kernel<P, kD>, config, a, plan);
    }
    if constexpr (kD <= 128) {
      launch_keys<P, kD, kBoth>(a, plan);
    } else {
      launch_keys<P, kD, kKeys>(a, plan);
      launch_keys<P, kD, kValues>(a, plan);
    }
  });
  if (slopes && a.heads > 0) {
    cuda::LaunchConfig config;
    config.grid = dim3(static_cast<unsigned>(a.heads));
    config.block = dim3(kDeltaThreads);
    cuda::launch(slope_kernel, config, moved.as<float>(), args.d_slopes, a.batch, a.heads,
                 a.queries);
  }
  if (args.d_mask != nullptr) launch_mask_gradient(args, delta.as<float>());
}

}  // namespace seqloom::ops::attention_device
