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
// The grid is cooperative (all blocks resident) and of any size that leaves a block's share within
// its shared memory.
#include "ops/rnn/rnn_cuda_persistent.h"

namespace seqloom::ops {
namespace {

constexpr int kThreads = kPersistentThreads;
constexpr int kHeld = 2;  // items of a thread whose projections are fetched ahead

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

// ---- the kernel
// ----------------------------------------------------------------------------------

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
  float* const c = reinterpret_cast<float*>(raw + layout.first);
  float* const h = reinterpret_cast<float*>(raw + layout.second);
  int* const lengths = reinterpret_cast<int*>(raw + layout.lengths);
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
  for (int b = t; b < p.batch; b += p.threads) lengths[b] = static_cast<int>(q.length(b));
  __syncthreads();

  const int64_t buffer = static_cast<int64_t>(p.batch) * p.blocks * p.vectors;
  for (int s = 0; s < p.steps; ++s) {
    // On their way while the block waits for the others.
    float held[kHeld][kGates];
#pragma unroll
    for (int j = 0; j < kHeld; ++j) {
      const int i = t + j * p.threads, b = i / U, u = i % U;
      const bool live = i < items && u < own && s < lengths[b];
      const int64_t slot = live ? q.time(b, s) * q.batch + b : 0;
#pragma unroll
      for (int g = 0; g < kGates; ++g)
        held[j][g] = live ? gates_x[(slot * kGates + g) * p.units + unit0 + u] : 0.f;
    }
    if (s > 0) collect(p, exchange + (s & 1) * buffer, static_cast<uint32_t>(s), lengths, s, state);
    __syncthreads();
    multiply(p, weights, state, partial);
    __syncthreads();
    int j = 0;
    for (int i = t; i < items; i += p.threads, ++j) {
      const int b = i / U, u = i % U;
      if (u >= own || s >= lengths[b]) continue;
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
      h[i] = cell_step<kKind, kPeepholes>(q, a, s, b, unit0 + u, from_x, from_h, h[i], c[i]);
    }
    if (s + 1 == p.steps) break;
    for (int i = t; i < items; i += p.threads)  // its own items: no barrier needed before
      stage[i / U * stage_units + i % U] = cuda::from_float<C>(h[i]);
    __syncthreads();
    publish(p, reinterpret_cast<const uint32_t*>(stage), static_cast<uint32_t>(s + 1), lengths,
            s + 1, exchange + ((s + 1) & 1) * buffer);
  }
}

// ---- the launch ---------------------------------------------------------------------------------

template <class C>
void finish_plan(int gates, Plan& p) {
  constexpr bool kTensorCores = sizeof(C) == 2;
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
  p.words = p.block_units * static_cast<int>(sizeof(C)) / 4;
  p.vectors = (p.words + 1) / 2;
}

template <class C, CellKind kKind, bool kPeepholes>
bool run(const RnnForwardArgs& a, const Steps& q, int64_t longest, const float* gates_x,
         const float* h, const float* c) {
  Plan p{};
  if (!begin_plan<C>(a.shape, longest, p)) return false;
  finish_plan<C>(gate_count(kKind), p);
  return launch_persistent<C>(p, persistent_kernel<C, kKind, kPeepholes>, q, a, p, gates_x, h, c);
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
  const bool tensor_cores = cuda::current_device_properties().capability() >= 80;
  if (state == DType::kFloat16 && tensor_cores)
    return run_cell<cuda::Half>(a, q, longest, gates_x, h, c);
  if (state == DType::kBFloat16 && tensor_cores)
    return run_cell<cuda::BFloat16>(a, q, longest, gates_x, h, c);
  return run_cell<float>(a, q, longest, gates_x, h, c);
}

}  // namespace seqloom::ops
