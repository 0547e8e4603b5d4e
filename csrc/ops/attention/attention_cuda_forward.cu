// SPDX-License-Identifier: Apache-2.0
// Attention forward on CUDA: online softmax over tiles of keys.
//
// A block owns kM packed query rows (attention_cuda.h), 16 of them a warp, and walks over the tiles
// of keys that any of its rows sees; nothing else of the window, the causal triangle or the padding
// is touched. For every tile a warp has S = Q K^T in registers, folds it into each row's running
// maximum m and sum l,
//
//   m' = max(m, max s)    l' = l 2^(m - m') + sum 2^(s - m')    O' = O 2^(m - m') + 2^(s - m') V
//
// and at the end writes O / l, m and 1 / l. Scores are kept in base 2: exp2 is one instruction.
// Tiles of K and V are copied asynchronously into one of two stages while the other is multiplied.
//
// When rows are few (decoding) the keys are cut into splits, so that all multiprocessors read them;
// each split leaves its own O, m and l, and combine_kernel weighs them. Keys and values may then
// lie in pages, which a table names. The number of splits depends on shapes and on the device
// alone, so bits do not change from call to call.
//
// A warp whose results are not finite, where pairs may be hidden, leaves them to
// attention_careful_cuda.h.
//
// No atomics. Shared memory: one tile of Q, kStages tiles each of K and V.
#include "cuda/rows.h"
#include "ops/attention/attention_careful_cuda.h"

namespace seqloom::ops::attention_device {
namespace {

// Tiles by head size.
template <class P, int kD>
struct ForwardShape {
  static constexpr bool kFloat = !P::kTensorCores;
  static constexpr int kWarps =
      kFloat ? by_width(kD, 4, 2, 1) : by_width(kD, 4, P::kAsync ? 8 : 4, 4);
  static constexpr int kN = kFloat ? (kD <= 32 ? 64 : by_width(kD, 32, 32, 16))
                                   : by_width(kD, 64, 64, P::kAsync ? 32 : 16);
  static constexpr int kStages = P::kAsync ? 2 : 1;
  static constexpr int kM = kWarps * 16, kThreads = kWarps * 32;
  using Layout = Tile<typename P::Element, kD>;
  static constexpr int kRowTile = kM * Layout::kRowBytes, kKeyTile = kN * Layout::kRowBytes;
  static constexpr int kSharedBytes =
      kRowTile + 2 * kStages * kKeyTile + kWarps * P::template kStagingFloats<kN> * 4;
  static_assert(kSharedBytes <= P::kSharedLimit);
};

struct ForwardPlan {
  int row_blocks, splits;
  bool options, query_aligned, keys_aligned;
  float* partial;        // [splits, B Hq Tq, Dv] not divided by l, or null: rows go to the output
  float2* partial_sums;  // [splits, B Hq Tq]: m in base 2 and l; -inf and 0 where it saw nothing
};

// Scores of a tile with options, hidden pairs -inf. Bit x of the result: dropout keeps element x.
template <int kTiles>
SEQLOOM_DEVICE uint32_t scores_with_options(const AttentionArgs& a, const RowBlock& rows,
                                            int first_row, int j0, int lane,
                                            float (&s)[kTiles][4]) {
  float values[kTiles * 4];
  uint32_t kept = 0xffffffffu;
#pragma unroll
  for (int x = 0; x < kTiles * 4; ++x) values[x] = s[x >> 2][x & 3];
#pragma unroll 1
  for (int r = 0; r < 2; ++r) {
    const int row = rows.clamp(first_row + (lane >> 2) + r * 8), i = row % rows.queries;
    const RowPlace place = place_of(a, rows.offset, rows.b, rows.head_of(row), i);
    const Range seen = visible_range(a, rows.offset, rows.length, i);
#pragma unroll 1
    for (int y = 0; y < kTiles * 2; ++y) {
      const int x = (y >> 1) * 4 + r * 2 + (y & 1);
      const int j = j0 + (y >> 1) * 8 + (lane & 3) * 2 + (y & 1);
      float score = -INFINITY, cap;
      if (j >= seen.lo && j < seen.hi) {
        score = score_of(a, place, j, values[x], cap);
        if (a.dropout > 0.f && !is_kept(a, place, j)) kept &= ~(1u << x);
      }
      values[x] = score;
    }
  }
#pragma unroll
  for (int x = 0; x < kTiles * 4; ++x) s[x >> 2][x & 3] = values[x];
  return kept;
}

template <class P, int kD>
__global__ void __launch_bounds__(ForwardShape<P, kD>::kThreads, 1)
    forward_kernel(AttentionArgs a, ForwardPlan plan) {
  if constexpr (P::kCompiled) {
    using T = typename P::Element;
    using Shape = ForwardShape<P, kD>;
    constexpr int kM = Shape::kM, kN = Shape::kN, kStages = Shape::kStages;
    constexpr int kThreads = Shape::kThreads, kTiles = kN / 8;
    DYNAMIC_SHARED(raw, 128);
    unsigned char* const q_tile = raw;
    unsigned char* const k_tiles = q_tile + Shape::kRowTile;
    unsigned char* const v_tiles = k_tiles + kStages * Shape::kKeyTile;
    const int lane = static_cast<int>(threadIdx.x) & 31, warp = static_cast<int>(threadIdx.x) >> 5;
    float* const staging = reinterpret_cast<float*>(v_tiles + kStages * Shape::kKeyTile) +
                           warp * P::template kStagingFloats<kN>;

    // Row blocks of a head are neighbours in the grid and share its keys in L2. Under a causal mask
    // the last rows see most, and start first.
    const int64_t id = blockIdx.x;
    const int row_block = plan.row_blocks - 1 - static_cast<int>(id % plan.row_blocks);
    const int split = static_cast<int>(id / plan.row_blocks % plan.splits);
    const RowBlock rows(a, id / plan.row_blocks / plan.splits, row_block * kM, kM);
    const KeyStages<P, Shape, kD, true> stages{a, rows, k_tiles, v_tiles, plan.keys_aligned};

    // This split's share of the tiles.
    const int first_tile = rows.lo / kN,
              tiles = rows.hi > rows.lo ? (rows.hi + kN - 1) / kN - first_tile : 0;
    const int tile_begin =
        first_tile + static_cast<int>(static_cast<int64_t>(tiles) * split / plan.splits);
    const int tile_end =
        first_tile + static_cast<int>(static_cast<int64_t>(tiles) * (split + 1) / plan.splits);

    load_packed_rows<P, kM, kD, kThreads>(q_tile, rows, a.query, a.width, plan.query_aligned);
    if (P::kAsync) ptx::cp_async_commit();

    const int warp_row = rows.first + warp * 16;
    const bool active = warp_row < rows.rows;
    // Products times this are scores in base 2; with options scores_with_options sees to that.
    const float factor = plan.options ? 1.f : a.scale * kLog2e;

    float o[kD / 8][4], peak[2], sum[2];  // peak: running maximum in base 2
    if (kStages == 2 && tile_begin < tile_end) stages.load(tile_begin);
#pragma unroll
    for (int n = 0; n < kD / 8; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) o[n][e] = 0.f;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      peak[r] = -INFINITY;
      sum[r] = 0.f;
    }

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
      float s[kTiles][4];
      P::template product_nt<kN, kD>(s, q_tile, warp * 16, stages.keys(tile), lane);
      uint32_t kept = 0xffffffffu;
      if (plan.options) {
        kept = scores_with_options<kTiles>(a, rows, warp_row, j0, lane, s);
      } else if (j0 < rows.full_lo || j0 + kN > rows.full_hi) {
        Range seen[2];
#pragma unroll
        for (int r = 0; r < 2; ++r)
          seen[r] = visible_range(a, rows.offset, rows.length,
                                  rows.clamp(warp_row + (lane >> 2) + r * 8) % rows.queries);
#pragma unroll
        for (int n = 0; n < kTiles; ++n)
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const int j = j0 + n * 8 + (lane & 3) * 2 + (e & 1);
            if (j < seen[e >> 1].lo || j >= seen[e >> 1].hi) s[n][e] = -INFINITY;
          }
      }

      float shift[2], slope[2] = {factor, factor};
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        float top = -INFINITY;
#pragma unroll
        for (int n = 0; n < kTiles; ++n) top = fmaxf(top, fmaxf(s[n][2 * r], s[n][2 * r + 1]));
        top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 1));
        top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 2));
        float now = fmaxf(peak[r], top * factor);
        if (!plan.options && is_coarse<P>(now)) {
          const auto score = [&](float x) { return __fmul_rn(__fmul_rn(x, a.scale), kLog2e); };
          now = fmaxf(peak[r], score(top));
          slope[r] = 1.f;
#pragma unroll
          for (int n = 0; n < kTiles; ++n) {
            s[n][2 * r] = score(s[n][2 * r]);
            s[n][2 * r + 1] = score(s[n][2 * r + 1]);
          }
        }
        // While a row has seen nothing, 0 stands for its maximum: -inf - -inf would be NaN.
        shift[r] = now == -INFINITY ? 0.f : now;
        const float shrink = ptx::ex2_approx(peak[r] - shift[r]);
        peak[r] = now;
        sum[r] *= shrink;
#pragma unroll
        for (int n = 0; n < kD / 8; ++n) {
          o[n][2 * r] *= shrink;
          o[n][2 * r + 1] *= shrink;
        }
      }
#pragma unroll
      for (int n = 0; n < kTiles; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          s[n][e] = ptx::ex2_approx(fmaf(s[n][e], slope[e >> 1], -shift[e >> 1]));
          sum[e >> 1] += s[n][e];
        }
      if (plan.options && a.dropout > 0.f) {
#pragma unroll
        for (int n = 0; n < kTiles; ++n)
#pragma unroll
          for (int e = 0; e < 4; ++e)
            if ((kept >> (n * 4 + e) & 1u) == 0) s[n][e] = 0.f;
      }
      P::template product_nn<kN, kD>(o, s, stages.values(tile), staging, lane);
    }
    if (P::kAsync) ptx::cp_async_wait<0>();  // the tile of Q, where there were no tiles of keys
    if (active && rows.may_hide(a, tile_begin * kN, tile_end * kN)) {
      const int row = warp_row + (lane >> 2);
      if (__any_sync(kAllLanes, any_special(o, row < rows.rows, row + 8 < rows.rows)) != 0) {
        const int64_t split_rows = split * (a.batch * a.heads * a.queries);
        return forward_with_care<T>(
            a, id / plan.row_blocks / plan.splits, warp_row, tile_begin * kN, tile_end * kN,
            plan.partial == nullptr ? nullptr : plan.partial + split_rows * a.value_width,
            plan.partial == nullptr ? nullptr : plan.partial_sums + split_rows);
      }
    }

    const float scale = a.dropout > 0.f ? keep_scale(a) : 1.f;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      sum[r] += __shfl_xor_sync(kAllLanes, sum[r], 1);
      sum[r] += __shfl_xor_sync(kAllLanes, sum[r], 2);
      const int row = warp_row + (lane >> 2) + r * 8;
      if (row >= rows.rows) continue;
      const int64_t at = rows.flat(a, row);
      float inverse = sum[r] == 0.f ? 0.f : scale / sum[r];
      const int width = static_cast<int>(a.value_width);
      // A reciprocal would round a second time, which 16 bits do not see.
      if (!P::kTensorCores && plan.partial == nullptr && sum[r] != 0.f) {
#pragma unroll
        for (int n = 0; n < kD / 8; ++n)
#pragma unroll
          for (int e = 2 * r; e < 2 * r + 2; ++e) o[n][e] = o[n][e] * scale / sum[r];
        inverse = 1.f;
      }
      if (plan.partial != nullptr) {
        const int64_t to = split * (a.batch * a.heads * a.queries) + at;
        store_row<P, kD>(plan.partial + to * a.value_width, width, o, 2 * r, scale, lane);
        if ((lane & 3) == 0)
          plan.partial_sums[to] = make_float2(sum[r] == 0.f ? -INFINITY : peak[r], sum[r]);
      } else {
        store_row<P, kD>(static_cast<T*>(a.output) + at * a.value_width, width, o, 2 * r, inverse,
                         lane);
        if (a.sums != nullptr && (lane & 3) == 0) write_sums(a.sums, at, peak[r], sum[r]);
      }
    }
  }
}

constexpr int kCombineThreads = 128;

// output = sum over splits of 2^(m_s - m) O_s / sum of 2^(m_s - m) l_s, m being the largest: a warp
// a row, lanes over its columns.
template <class T>
__global__ void __launch_bounds__(kCombineThreads)
    combine_kernel(const float* partial, const float2* partial_sums, T* output, float* sums,
                   int64_t rows, int splits, int width) {
  const int64_t row =
      static_cast<int64_t>(blockIdx.x) * (kCombineThreads / 32) + (threadIdx.x >> 5);
  if (row >= rows) return;
  const int lane = static_cast<int>(threadIdx.x) & 31;
  const float2* const parts = partial_sums + row;
  float highest = -INFINITY;
#pragma unroll 1
  for (int s = 0; s < splits; ++s) highest = fmaxf(highest, parts[s * rows].x);
  const float shift = highest == -INFINITY ? 0.f : highest;
  float sum = 0.f;
#pragma unroll 1
  for (int s = 0; s < splits; ++s)
    sum = fmaf(ptx::ex2_approx(parts[s * rows].x - shift), parts[s * rows].y, sum);
  for (int c = lane; c < width; c += 32) {
    const float* const part = partial + row * width + c;
    float o = 0.f;
#pragma unroll 4
    for (int s = 0; s < splits; ++s)
      o = fmaf(ptx::ex2_approx(parts[s * rows].x - shift), part[s * rows * width], o);
    output[row * width + c] = cuda::from_float<T>(sum == 0.f ? 0.f : o / sum);
  }
  if (sums != nullptr && lane == 0) write_sums(sums, row, shift, sum);
}

// Enough splits to give every multiprocessor two blocks, but no split of fewer than two tiles.
int splits_of(const AttentionArgs& a, int64_t blocks, int keys_per_tile) {
  const int64_t wanted = 2 * cuda::current_device_properties().multiprocessors;
  const int64_t span = a.left + a.right + a.queries;  // of keys that the queries see
  const int64_t keys = span < a.keys ? span : a.keys;
  const int64_t most = keys / (2 * keys_per_tile);
  int64_t n = blocks >= wanted ? 1 : wanted / blocks;
  n = n < most ? n : most;
  return static_cast<int>(n < 1 ? 1 : n < 128 ? n : 128);
}

}  // namespace

void launch_forward(const AttentionArgs& a) {
  const int64_t item = item_size(a.dtype);
  dispatch_kernel(a, [&](auto core, auto width) {
    using P = decltype(core);
    using T = typename P::Element;
    constexpr int kD = decltype(width)::value;
    using Shape = ForwardShape<P, kD>;
    ForwardPlan plan{};
    plan.row_blocks =
        static_cast<int>((a.heads / a.kv_heads * a.queries + Shape::kM - 1) / Shape::kM);
    const int64_t blocks = plan.row_blocks * a.batch * a.kv_heads;
    plan.splits = splits_of(a, blocks, Shape::kN);
    plan.options = has_options(a);
    plan.query_aligned = is_aligned(a.query, item);
    plan.keys_aligned = is_aligned(a.key, item) && is_aligned(a.value, item);
    const int64_t rows = a.batch * a.heads * a.queries;
    const cuda::Workspace workspace(
        plan.splits > 1
            ? static_cast<std::size_t>(plan.splits * rows * (a.value_width + 2)) * sizeof(float)
            : 0);
    if (plan.splits > 1) {
      plan.partial_sums = workspace.as<float2>();
      plan.partial = reinterpret_cast<float*>(plan.partial_sums + plan.splits * rows);
    }
    cuda::LaunchConfig config;
    config.grid = dim3(static_cast<unsigned>(blocks * plan.splits));
    config.block = dim3(Shape::kThreads);
    config.shared_bytes = Shape::kSharedBytes;
    cuda::launch(forward_kernel<P, kD>, config, a, plan);
    if (plan.splits > 1) {
      constexpr int kRows = kCombineThreads / 32;
      cuda::LaunchConfig combine;
      combine.grid = dim3(static_cast<unsigned>((rows + kRows - 1) / kRows));
      combine.block = dim3(kCombineThreads);
      cuda::launch(combine_kernel<T>, combine, plan.partial, plan.partial_sums,
                   static_cast<T*>(a.output), a.sums, rows, plan.splits,
                   static_cast<int>(a.value_width));
    }
  });
}

}  // namespace seqloom::ops::attention_device
