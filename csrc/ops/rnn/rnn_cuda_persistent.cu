// SPDX-License-Identifier: Apache-2.0
// The recurrence on CUDA in one launch: every block keeps the recurrent weights of some units in
// shared memory for the whole sequence, and the blocks hand their new states to each other.
//
// A step, in each block:
//   1. collect h [B, H] from all blocks into shared memory;
//   2. multiply it with the block's weights: the warps share tiles of the product and the sums
//      over k, whose parts meet in shared memory in a fixed order;
//   3. the cell's equations, one thread a unit and sequence;
//   4. publish the block's part of h'.
//
// Exchange with one hop: 16 bytes travel as one access and carry three words of h and the number of
// the step, so whoever reads the number it waits for has the data too; there is no other
// synchronisation between blocks. Two buffers suffice: a block publishes step s + 1 only after it
// has all of step s, which every block publishes only after it has read all of step s - 1.
//
// The grid is cooperative (all blocks resident) and of any size that leaves a block's share within
// its shared memory. Sequences that have ended publish the state they have.
#include "ops/rnn/rnn_cuda.h"

#include "cuda/ptx.h"

namespace seqloom::ops {
namespace {

constexpr int kThreads = 256;     // of a block, at most
constexpr int kHeld = 2;          // items of a thread whose projections are fetched ahead
constexpr int kCollect = 4;       // accesses of a thread under way while it collects h
constexpr int kEmulatedGrid = 4;  // blocks where a multiprocessor is a host thread's fiction
constexpr int kLeastUnits = 4;    // of a block

constexpr int round_up(int n, int to) { return (n + to - 1) / to * to; }

// Who does what. C: type of the weights and of the state that is multiplied.
struct Plan {
  int threads;                      // of a block
  int batch, units, steps;          // B, H, steps that run
  int blocks, block_units;          // the last block may own fewer
  int rows, padded_rows;            // gates x block_units, in tiles
  int padded_batch, depth;          // of the product's operands in shared memory; depth covers H
  int weight_stride, state_stride;  // elements
  int splits;                       // parts that the sums over k are made in
  int words, vectors;               // of a block's part of a sequence's state, three words a vector
};

// Offsets into a block's shared memory, in bytes.
struct SharedLayout {
  int state, partial, stage, c, h, total;
};

template <class C>
__host__ __device__ inline SharedLayout shared_layout(const Plan& p) {
  constexpr int kBytes = static_cast<int>(sizeof(C));
  SharedLayout l;
  l.state = round_up(p.padded_rows * p.weight_stride * kBytes, 16);
  l.partial = l.state + round_up(p.padded_batch * p.state_stride * kBytes, 16);
  l.stage = l.partial + p.splits * p.padded_batch * p.padded_rows * 4;
  l.c = l.stage + round_up(p.batch * p.words * 4, 16);
  l.h = l.c + p.batch * p.block_units * 4;
  l.total = l.h + p.batch * p.block_units * 4;
  return l;
}

// ---- the product: partial[split][sequence][row] -------------------------------------------------

// float32: a lane owns a row, eight sequences at a time.
constexpr int kFloatRows = 32, kFloatBatch = 8;

SEQLOOM_DEVICE void multiply(const Plan& p, const float* weights, const float* state,
                             float* partial) {
  const int row_tiles = p.padded_rows / kFloatRows, batch_tiles = p.padded_batch / kFloatBatch;
  const int items = row_tiles * batch_tiles * p.splits;
  for (int item = cuda::warp_index(); item < items; item += p.threads / 32) {
    const int split = item % p.splits, tile = item / p.splits;
    const int row = tile % row_tiles * kFloatRows + cuda::lane_index();
    const int first = tile / row_tiles * kFloatBatch;
    const int k0 = p.depth * split / p.splits, k1 = p.depth * (split + 1) / p.splits;
    float sum[kFloatBatch] = {};
    const float* w = weights + row * p.weight_stride;
    const float* h = state + first * p.state_stride;
    for (int k = k0; k < k1; ++k) {
      const float x = w[k];
      for (int j = 0; j < kFloatBatch; ++j) sum[j] = fmaf(x, h[j * p.state_stride + k], sum[j]);
    }
    float* out = partial + (split * p.padded_batch + first) * p.padded_rows + row;
    for (int j = 0; j < kFloatBatch; ++j) out[j * p.padded_rows] = sum[j];
  }
}

// 16 bits: tensor-core tiles, gates as rows and sequences as columns, 16 x 32 a warp.
constexpr int kTileRows = 16, kTilePairs = 2, kPairBatch = 16, kTileDepth = 16;

template <class C>
SEQLOOM_DEVICE void multiply(const Plan& p, const C* weights, const C* state, float* partial) {
  const int row_tiles = p.padded_rows / kTileRows, pairs = p.padded_batch / kPairBatch;
  const int batch_tiles = (pairs + kTilePairs - 1) / kTilePairs;
  const int items = row_tiles * batch_tiles * p.splits, chunks = p.depth / kTileDepth;
  const int lane = cuda::lane_index();
  // The rows that this lane points ldmatrix at: 16 x 16 of the weights, and of the state the 8 x 8
  // parts (sequences 0-7, k 0-7), (0-7, 8-15), (8-15, 0-7), (8-15, 8-15).
  const int weight_at = lane % 16 * p.weight_stride + lane / 16 * 8;
  const int state_at = (lane / 16 * 8 + lane % 8) * p.state_stride + lane / 8 % 2 * 8;
  for (int item = cuda::warp_index(); item < items; item += p.threads / 32) {
    const int split = item % p.splits, tile = item / p.splits;
    const int row = tile % row_tiles * kTileRows, pair0 = tile / row_tiles * kTilePairs;
    const int chunk0 = chunks * split / p.splits, chunk1 = chunks * (split + 1) / p.splits;
    float sum[2 * kTilePairs][4] = {};
    for (int chunk = chunk0; chunk < chunk1; ++chunk) {
      const int k = chunk * kTileDepth;
      uint32_t a[4];
      cuda::ptx::ldmatrix_x4(
          a, cuda::ptx::shared_address(weights + row * p.weight_stride + weight_at + k));
#pragma unroll
      for (int i = 0; i < kTilePairs; ++i) {
        if (pair0 + i < pairs) {
          uint32_t b[4];
          cuda::ptx::ldmatrix_x4(
              b, cuda::ptx::shared_address(state + (pair0 + i) * kPairBatch * p.state_stride +
                                           state_at + k));
          const uint32_t b0[2] = {b[0], b[1]}, b1[2] = {b[2], b[3]};
          cuda::ptx::mma_m16n8k16<C>(sum[2 * i], a, b0, sum[2 * i]);
          cuda::ptx::mma_m16n8k16<C>(sum[2 * i + 1], a, b1, sum[2 * i + 1]);
        }
      }
    }
    const int g = lane / 4, t = lane % 4;
#pragma unroll
    for (int j = 0; j < 2 * kTilePairs; ++j) {
      const int b = pair0 * kPairBatch + j * 8 + 2 * t;
      if (b < p.padded_batch) {
        float* out = partial + (split * p.padded_batch + b) * p.padded_rows + row + g;
        out[0] = sum[j][0];
        out[p.padded_rows] = sum[j][1];
        out[8] = sum[j][2];
        out[p.padded_rows + 8] = sum[j][3];
      }
    }
  }
}

// ---- the exchange -------------------------------------------------------------------------------

// All of h, as published with the number `step`, into `state`.
template <class C>
SEQLOOM_DEVICE void collect(const Plan& p, const uint4* from, uint32_t step, C* state) {
  const int part = p.blocks * p.vectors, total = p.batch * part;
  const int row_words = p.depth * static_cast<int>(sizeof(C)) / 4;
  for (int first = static_cast<int>(threadIdx.x); first < total; first += kCollect * p.threads) {
    uint4 v[kCollect];
#pragma unroll
    for (int j = 0; j < kCollect; ++j)
      if (first + j * p.threads < total)
        v[j] = cuda::ptx::load_relaxed_v4(from + first + j * p.threads);
#pragma unroll
    for (int j = 0; j < kCollect; ++j) {
      const int i = first + j * p.threads;
      if (i >= total) continue;
      while (v[j].w != step) v[j] = cuda::ptx::load_relaxed_v4(from + i);
      const int b = i / part, block = i % part / p.vectors, word0 = i % p.vectors * 3;
      C* row = state + b * p.state_stride;
      const uint32_t words[3] = {v[j].x, v[j].y, v[j].z};
#pragma unroll
      for (int w = 0; w < 3; ++w) {
        const int at = block * p.words + word0 + w;
        if (word0 + w < p.words && at < row_words)
          memcpy(static_cast<void*>(row + at * (4 / static_cast<int>(sizeof(C)))), &words[w], 4);
      }
    }
  }
}

// The block's part of h, from `stage` [B][words], with the number `step`.
SEQLOOM_DEVICE void publish(const Plan& p, const uint32_t* stage, uint32_t step, uint4* to) {
  for (int i = static_cast<int>(threadIdx.x); i < p.batch * p.vectors; i += p.threads) {
    const int b = i / p.vectors, word0 = i % p.vectors * 3;
    uint4 v = make_uint4(0, 0, 0, step);
    v.x = stage[b * p.words + word0];
    if (word0 + 1 < p.words) v.y = stage[b * p.words + word0 + 1];
    if (word0 + 2 < p.words) v.z = stage[b * p.words + word0 + 2];
    cuda::ptx::store_relaxed_v4(
        to + (b * p.blocks + static_cast<int>(blockIdx.x)) * p.vectors + i % p.vectors, v);
  }
}

// exchange: two buffers of [B, blocks, vectors], zeroed.
template <class C, CellKind kKind, bool kPeepholes>
__global__ void __launch_bounds__(kThreads, 1)
    persistent_kernel(Steps q, RnnForwardArgs a, Plan p, const float* gates_x, const float* h0,
                      const float* c0, uint4* exchange) {
  DYNAMIC_SHARED(raw, 16);
  const SharedLayout layout = shared_layout<C>(p);
  C* const weights = reinterpret_cast<C*>(raw);
  C* const state = reinterpret_cast<C*>(raw + layout.state);
  float* const partial = reinterpret_cast<float*>(raw + layout.partial);
  C* const stage = reinterpret_cast<C*>(raw + layout.stage);
  float* const c = reinterpret_cast<float*>(raw + layout.c);
  float* const h = reinterpret_cast<float*>(raw + layout.h);
  constexpr int kGates = gate_count(kKind);
  const int t = static_cast<int>(threadIdx.x), U = p.block_units;
  const int unit0 = static_cast<int>(blockIdx.x) * U;
  const int own = p.units - unit0 < U ? p.units - unit0 : U;
  const int items = p.batch * U, stage_units = p.words * 4 / static_cast<int>(sizeof(C));

  // Row g U + u of the weights is gate g of the block's unit u; zeros where there is none.
  const float* w_hh = static_cast<const float*>(a.weights.w_hh);
  for (int i = t; i < p.padded_rows * p.depth; i += p.threads) {
    const int row = i / p.depth, k = i % p.depth, g = row / U, u = row % U;
    const bool live = g < kGates && u < own && k < p.units;
    const int64_t at = (static_cast<int64_t>(g) * p.units + unit0 + u) * p.units + k;
    weights[row * p.weight_stride + k] = cuda::from_float<C>(live ? w_hh[at] : 0.f);
  }
  for (int i = t; i < p.padded_batch * p.depth; i += p.threads) {
    const int b = i / p.depth, k = i % p.depth;
    const bool live = b < p.batch && k < p.units;
    const float x = live ? h0[static_cast<int64_t>(b) * p.units + k] : 0.f;
    state[b * p.state_stride + k] = cuda::from_float<C>(x);
  }
  for (int i = t; i < items; i += p.threads) {
    const int b = i / U, u = i % U;
    const int64_t at = static_cast<int64_t>(b) * p.units + unit0 + u;
    c[i] = u < own ? c0[at] : 0.f;
    h[i] = u < own ? h0[at] : 0.f;
  }
  for (int i = t; i < p.batch * stage_units; i += p.threads) stage[i] = cuda::from_float<C>(0.f);

  const int64_t buffer = static_cast<int64_t>(p.batch) * p.blocks * p.vectors;
  for (int s = 0; s < p.steps; ++s) {
    // On their way while the block waits for the others.
    float held[kHeld][kGates];
#pragma unroll
    for (int j = 0; j < kHeld; ++j) {
      const int i = t + j * p.threads, b = i / U, u = i % U;
      const bool live = i < items && u < own && s < q.length(b);
      const int64_t slot = live ? q.time(b, s) * q.batch + b : 0;
#pragma unroll
      for (int g = 0; g < kGates; ++g)
        held[j][g] = live ? gates_x[(slot * kGates + g) * p.units + unit0 + u] : 0.f;
    }
    if (s > 0) collect(p, exchange + (s & 1) * buffer, static_cast<uint32_t>(s), state);
    __syncthreads();
    multiply(p, weights, state, partial);
    __syncthreads();
    int j = 0;
    for (int i = t; i < items; i += p.threads, ++j) {
      const int b = i / U, u = i % U;
      if (u >= own || s >= q.length(b)) continue;
      float from_x[kGates], from_h[kGates];
#pragma unroll
      for (int g = 0; g < kGates; ++g) {
        if (j < kHeld) {
          from_x[g] = j == 0 ? held[0][g] : held[kHeld - 1][g];
        } else {
          const int64_t slot = q.time(b, s) * q.batch + b;
          from_x[g] = gates_x[(slot * kGates + g) * p.units + unit0 + u];
        }
        from_h[g] = 0.f;
        for (int split = 0; split < p.splits; ++split)
          from_h[g] += partial[(split * p.padded_batch + b) * p.padded_rows + g * U + u];
      }
      h[i] = cell_step<float, kKind, kPeepholes>(q, a, s, b, unit0 + u, from_x, from_h, h[i], c[i]);
    }
    if (s + 1 == p.steps) break;
    for (int i = t; i < items; i += p.threads)  // its own items: no barrier needed before
      stage[i / U * stage_units + i % U] = cuda::from_float<C>(h[i]);
    __syncthreads();
    publish(p, reinterpret_cast<const uint32_t*>(stage), static_cast<uint32_t>(s + 1),
            exchange + ((s + 1) & 1) * buffer);
  }
}

// ---- the launch ---------------------------------------------------------------------------------

template <class C>
Plan make_plan(const RnnForwardArgs& a, int64_t longest, int gates, int grid, bool emulated) {
  constexpr int kPerWord = 4 / static_cast<int>(sizeof(C));
  constexpr bool kTensorCores = sizeof(C) == 2;
  Plan p{};
  p.batch = static_cast<int>(a.shape.batch);
  p.units = static_cast<int>(a.shape.units);
  p.steps = static_cast<int>(longest);
  const int share = (p.units + grid - 1) / grid;
  p.block_units = round_up(share < kLeastUnits ? kLeastUnits : share, kPerWord);
  p.blocks = (p.units + p.block_units - 1) / p.block_units;
  // An emulated thread is a stack of its own: of many blocks, the small form.
  p.threads = emulated && p.blocks > 64 ? kThreads / 2 : kThreads;
  p.rows = gates * p.block_units;
  p.padded_rows = round_up(p.rows, kTensorCores ? kTileRows : kFloatRows);
  p.padded_batch = round_up(p.batch, kTensorCores ? kPairBatch : kFloatBatch);
  p.depth = round_up(p.units, kTileDepth);
  // Rows 16 bytes apart modulo the banks for ldmatrix, an odd number of words for lanes on rows.
  p.weight_stride = p.depth + (kTensorCores ? 8 : 1);
  p.state_stride = p.weight_stride;
  const int tiles = kTensorCores ? p.padded_rows / kTileRows * round_up(p.padded_batch, 32) / 32
                                 : p.padded_rows / kFloatRows * p.padded_batch / kFloatBatch;
  const int warps = p.threads / 32;
  p.splits = tiles < warps ? warps / tiles : 1;
  p.words = p.block_units / kPerWord;
  p.vectors = (p.words + 2) / 3;
  return p;
}

template <class C, CellKind kKind, bool kPeepholes>
bool run(const RnnForwardArgs& a, const Steps& q, int64_t longest, const float* gates_x,
         const float* h, const float* c) {
  constexpr int64_t kMost = int64_t{1} << 20;  // what the plan's ints hold with room to spare
  if (a.shape.batch * a.shape.units > kMost || longest > (int64_t{1} << 30)) return false;
  const auto& device = cuda::current_device_properties();
  int grid = a.shape.grid;
  if (grid == 0) grid = device.emulated ? kEmulatedGrid : device.multiprocessors;
  const Plan p = make_plan<C>(a, longest, gate_count(kKind), grid, device.emulated);
  const auto shared = static_cast<std::size_t>(shared_layout<C>(p).total);
  if (shared > device.shared_bytes_per_block) return false;
  auto* kernel = persistent_kernel<C, kKind, kPeepholes>;
  cuda::allow_shared_bytes(reinterpret_cast<const void*>(kernel), shared);
  if (p.blocks > cuda::resident_blocks(kernel, p.threads, shared)) return false;
  const std::size_t bytes =
      std::size_t{2} * static_cast<std::size_t>(p.batch * p.blocks * p.vectors) * sizeof(uint4);
  const cuda::Workspace exchange(bytes);
  cuda::fill_bytes(exchange.as<void>(), 0, bytes, cuda::current_stream());
  cuda::LaunchConfig config;
  config.grid = dim3(static_cast<unsigned>(p.blocks));
  config.block = dim3(static_cast<unsigned>(p.threads));
  config.shared_bytes = shared;
  config.cooperative = true;
  cuda::launch(kernel, config, q, a, p, gates_x, h, c, exchange.as<uint4>());
  return true;
}

template <class C, class... Args>
bool run_cell(const RnnForwardArgs& a, Args... args) {
  switch (a.shape.cell) {
    case CellKind::kTanh:
      return run<C, CellKind::kTanh, false>(a, args...);
    case CellKind::kRelu:
      return run<C, CellKind::kRelu, false>(a, args...);
    case CellKind::kGru:
      return run<C, CellKind::kGru, false>(a, args...);
    case CellKind::kLstm:
      break;
  }
  if (a.weights.peepholes != nullptr) return run<C, CellKind::kLstm, true>(a, args...);
  return run<C, CellKind::kLstm, false>(a, args...);
}

}  // namespace

bool rnn_forward_persistent(const RnnForwardArgs& a, const Steps& q, DType state, int64_t longest,
                            const float* gates_x, const float* h, const float* c) {
  if (a.shape.grid < 0) return false;
  const bool tensor_cores = cuda::current_device_properties().capability() >= 80;
  if (state == DType::kFloat16 && tensor_cores)
    return run_cell<cuda::Half>(a, q, longest, gates_x, h, c);
  if (state == DType::kBFloat16 && tensor_cores)
    return run_cell<cuda::BFloat16>(a, q, longest, gates_x, h, c);
  return run_cell<float>(a, q, longest, gates_x, h, c);
}

}  // namespace seqloom::ops
