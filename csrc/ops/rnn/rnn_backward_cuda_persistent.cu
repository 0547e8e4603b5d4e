// SPDX-License-Identifier: Apache-2.0
// Backward recurrence on CUDA in one launch: every block keeps the columns of the recurrent weights
// that lead to some units in shared memory for the whole sequence, and the blocks hand the gate
// gradients of their units to each other.
//
// A step s, backwards, in each block:
//   1. collect the gate gradients [B, G H] of step s + 1 from all blocks into shared memory;
//   2. multiply them with the block's columns: dh of its units, in parts that meet in shared memory
//      in a fixed order;
//   3. the cell's equations backwards, one thread a unit and sequence;
//   4. publish the block's gate gradients of step s.
// After step 0 one more product gives the gradients of the initial states.
//
// The vector that travels is in the order of the blocks, and within a block by gate and unit; the
// weights' rows are stored in that order. The exchange is that of rnn_cuda_persistent.h.
#include "ops/rnn/rnn_cuda_persistent.h"

namespace seqloom::ops {
namespace {

constexpr int kThreads = kPersistentThreads;

// ---- the product: partial[split][sequence][unit] = state[sequence] . weights[unit] --------------

// float32: lanes share the sums over k; a warp has 4 sequences by 4 units of them.
constexpr int kFloatTile = 4;

SEQLOOM_DEVICE void multiply(const Plan& p, const float* weights, const float* state,
                             float* partial) {
  const int unit_tiles = p.padded_rows / kFloatTile, batch_tiles = p.padded_batch / kFloatTile;
  const int items = unit_tiles * batch_tiles * p.splits, lane = cuda::lane_index();
  for (int item = cuda::warp_index(); item < items; item += p.threads / 32) {
    const int split = item % p.splits, tile = item / p.splits;
    const int unit = tile % unit_tiles * kFloatTile, first = tile / unit_tiles * kFloatTile;
    const int k0 = p.depth * split / p.splits, k1 = p.depth * (split + 1) / p.splits;
    float sum[kFloatTile][kFloatTile] = {};
    for (int k = k0 + lane; k < k1; k += 32) {
      float x[kFloatTile], w[kFloatTile];
#pragma unroll
      for (int i = 0; i < kFloatTile; ++i) {
        x[i] = state[(first + i) * p.state_stride + k];
        w[i] = weights[(unit + i) * p.weight_stride + k];
      }
#pragma unroll
      for (int i = 0; i < kFloatTile; ++i)
#pragma unroll
        for (int j = 0; j < kFloatTile; ++j) sum[i][j] = fmaf(x[i], w[j], sum[i][j]);
    }
    float* out = partial + (split * p.padded_batch + first) * p.padded_rows + unit;
#pragma unroll
    for (int i = 0; i < kFloatTile; ++i)
#pragma unroll
      for (int j = 0; j < kFloatTile; ++j) {
        const float total = cuda::warp_sum(sum[i][j]);
        if (lane == i * kFloatTile + j) out[i * p.padded_rows + j] = total;
      }
  }
}

// 16 bits: tensor-core tiles, 16 sequences by 8 units, 32 of k at a time.
constexpr int kTileBatch = 16, kTileUnits = 8, kTileDepth = 32;

template <class C>
SEQLOOM_DEVICE void multiply(const Plan& p, const C* weights, const C* state, float* partial) {
  const int unit_tiles = p.padded_rows / kTileUnits, batch_tiles = p.padded_batch / kTileBatch;
  const int items = unit_tiles * batch_tiles * p.splits, chunks = p.depth / kTileDepth;
  const int lane = cuda::lane_index();
  // The rows that this lane points ldmatrix at: 16 x 16 of the state, and of the weights four 8 x 8
  // parts that follow each other in k.
  const int state_at = lane % 16 * p.state_stride + lane / 16 * 8;
  const int weight_at = lane % 8 * p.weight_stride + lane / 8 * 8;
  for (int item = cuda::warp_index(); item < items; item += p.threads / 32) {
    const int split = item % p.splits, tile = item / p.splits;
    const int unit = tile % unit_tiles * kTileUnits, first = tile / unit_tiles * kTileBatch;
    const int chunk0 = chunks * split / p.splits, chunk1 = chunks * (split + 1) / p.splits;
    float even[4] = {}, odd[4] = {};
    for (int chunk = chunk0; chunk < chunk1; ++chunk) {
      const int k = chunk * kTileDepth;
      const C* rows = state + first * p.state_stride + state_at + k;
      uint32_t a0[4], a1[4], b[4];
      cuda::ptx::ldmatrix_x4(a0, cuda::ptx::shared_address(rows));
      cuda::ptx::ldmatrix_x4(a1, cuda::ptx::shared_address(rows + 16));
      cuda::ptx::ldmatrix_x4(
          b, cuda::ptx::shared_address(weights + unit * p.weight_stride + weight_at + k));
      const uint32_t b0[2] = {b[0], b[1]}, b1[2] = {b[2], b[3]};
      cuda::ptx::mma_m16n8k16<C>(even, a0, b0, even);
      cuda::ptx::mma_m16n8k16<C>(odd, a1, b1, odd);
    }
    const int g = lane / 4, t = lane % 4;
    float* out = partial + (split * p.padded_batch + first + g) * p.padded_rows + unit + 2 * t;
    out[0] = even[0] + odd[0];
    out[1] = even[1] + odd[1];
    out[8 * p.padded_rows] = even[2] + odd[2];
    out[8 * p.padded_rows + 1] = even[3] + odd[3];
  }
}

// ---- the kernel ---------------------------------------------------------------------------------

// exchange: two buffers of [B, blocks, vectors], zeroed.
template <class C, CellKind kKind, bool kPeepholes>
__global__ void __launch_bounds__(kThreads, 1)
    persistent_backward_kernel(Steps q, RnnBackwardArgs a, GateGradients to, Plan p,
                               const float* carry0, const float* dc0, uint4* exchange) {
  DYNAMIC_SHARED(raw, 16);
  const SharedLayout layout = shared_layout<C>(p);
  C* const weights = reinterpret_cast<C*>(raw);
  C* const state = reinterpret_cast<C*>(raw + layout.state);
  float* const partial = reinterpret_cast<float*>(raw + layout.partial);
  C* const stage = reinterpret_cast<C*>(raw + layout.stage);
  float* const carry = reinterpret_cast<float*>(raw + layout.first);
  float* const dc = reinterpret_cast<float*>(raw + layout.second);
  int* const lengths = reinterpret_cast<int*>(raw + layout.lengths);
  constexpr int kGates = gate_count(kKind);
  const int t = static_cast<int>(threadIdx.x), U = p.block_units, values = kGates * U;
  const int unit0 = static_cast<int>(blockIdx.x) * U;
  const int own = p.units - unit0 < U ? p.units - unit0 : U;
  const int items = p.batch * U;

  // Row u of the weights leads to the block's unit u; column k comes from gate k % values / U of
  // unit k % U of block k / values. Zeros where there is none.
  const float* w_hh = static_cast<const float*>(a.forward.weights.w_hh);
  for (int i = t; i < p.padded_rows * p.depth; i += p.threads) {
    const int u = i / p.depth, k = i % p.depth;
    const int g = k % values / U, from = k / values * U + k % U;
    const bool live = u < own && from < p.units && k < p.blocks * values;
    const int64_t at = (static_cast<int64_t>(g) * p.units + from) * p.units + unit0 + u;
    weights[u * p.weight_stride + k] = cuda::from_float<C>(live ? w_hh[at] : 0.f);
  }
  // A sequence that has not begun, seen backwards, sends zeros.
  for (int i = t; i < p.padded_batch * p.state_stride; i += p.threads)
    state[i] = cuda::from_float<C>(0.f);
  for (int i = t; i < p.batch * values; i += p.threads) stage[i] = cuda::from_float<C>(0.f);
  for (int i = t; i < items; i += p.threads) {
    const int64_t at = static_cast<int64_t>(i / U) * p.units + unit0 + i % U;
    carry[i] = i % U < own ? carry0[at] : 0.f;
    dc[i] = i % U < own ? dc0[at] : 0.f;
  }
  for (int b = t; b < p.batch; b += p.threads) lengths[b] = static_cast<int>(q.length(b));
  __syncthreads();

  const int64_t buffer = static_cast<int64_t>(p.batch) * p.blocks * p.vectors;
  for (int s = p.steps - 1; s >= -1; --s) {
    // On its way while the block waits for the others: what the thread's first item reads.
    StepInputs held{};
    if (s >= 0 && t < items && t % U < own && s < lengths[t / U])
      held = load_step<kKind>(q, a, s, t / U, unit0 + t % U);
    const auto number = static_cast<uint32_t>(p.steps - 1 - s);  // of what was published last
    if (s + 1 < p.steps) {
      collect(p, exchange + (number & 1) * buffer, number, lengths, s + 1, state);
      __syncthreads();
      multiply(p, weights, state, partial);
    }
    __syncthreads();
    for (int i = t; i < items; i += p.threads) {
      const int b = i / U, u = i % U;
      if (u >= own || s >= lengths[b]) continue;
      float dh = carry[i];
      if (s + 1 < lengths[b])
        for (int split = 0; split < p.splits; ++split)
          dh += partial[(split * p.padded_batch + b) * p.padded_rows + u];
      if (s < 0) {
        const int64_t at = static_cast<int64_t>(b) * p.units + unit0 + u;
        static_cast<float*>(a.dh0)[at] = dh;
        if (kKind == CellKind::kLstm) static_cast<float*>(a.dc0)[at] = dc[i];
        continue;
      }
      const StepInputs in = i == t ? held : load_step<kKind>(q, a, s, b, unit0 + u);
      float to_h[kGates];
      carry[i] =
          cell_step_backward<kKind, kPeepholes>(q, a, to, in, s, b, unit0 + u, dh, dc[i], to_h);
#pragma unroll
      for (int g = 0; g < kGates; ++g) stage[b * values + g * U + u] = cuda::from_float<C>(to_h[g]);
    }
    if (s < 0) break;
    __syncthreads();
    publish(p, reinterpret_cast<const uint32_t*>(stage), number + 1, lengths, s,
            exchange + ((number + 1) & 1) * buffer);
  }
}

// ---- the launch ---------------------------------------------------------------------------------

template <class C>
void finish_plan(int gates, Plan& p) {
  constexpr bool kTensorCores = sizeof(C) == 2;
  const int values = gates * p.block_units;
  p.rows = p.block_units;
  p.padded_rows = round_up(p.rows, kTensorCores ? kTileUnits : kFloatTile);
  p.padded_batch = round_up(p.batch, kTensorCores ? kTileBatch : kFloatTile);
  p.depth = round_up(p.blocks * values, kTileDepth);
  // Rows 16 bytes apart modulo the banks for ldmatrix.
  p.weight_stride = p.depth + (kTensorCores ? 8 : 0);
  p.state_stride = p.weight_stride;
  const int tiles = kTensorCores ? p.padded_rows / kTileUnits * (p.padded_batch / kTileBatch)
                                 : p.padded_rows / kFloatTile * (p.padded_batch / kFloatTile);
  const int warps = p.threads / 32;
  p.splits = tiles < warps ? warps / tiles : 1;
  p.words = values * static_cast<int>(sizeof(C)) / 4;
  p.vectors = (p.words + 1) / 2;
}

template <class C, CellKind kKind, bool kPeepholes>
bool run(const RnnBackwardArgs& a, const Steps& q, int64_t longest, const GateGradients& to,
         const float* carry, const float* dc) {
  Plan p{};
  if (!begin_plan<C>(a.forward.shape, longest, p)) return false;
  finish_plan<C>(gate_count(kKind), p);
  return launch_persistent<C>(p, persistent_backward_kernel<C, kKind, kPeepholes>, q, a, to, p,
                              carry, dc);
}

template <class C, class... Args>
bool run_cell(const RnnBackwardArgs& a, Args... args) {
  switch (a.forward.shape.cell) {
    case CellKind::kTanh:
      return run<C, CellKind::kTanh, false>(a, args...);
    case CellKind::kRelu:
      return run<C, CellKind::kRelu, false>(a, args...);
    case CellKind::kGru:
      return run<C, CellKind::kGru, false>(a, args...);
    case CellKind::kLstm:
      break;
  }
  if (a.forward.weights.peepholes != nullptr) return run<C, CellKind::kLstm, true>(a, args...);
  return run<C, CellKind::kLstm, false>(a, args...);
}

}  // namespace

bool rnn_backward_persistent(const RnnBackwardArgs& a, const Steps& q, DType state, int64_t longest,
                             const GateGradients& to, const float* carry, const float* dc) {
  const bool tensor_cores = cuda::current_device_properties().capability() >= 80;
  if (state == DType::kFloat16 && tensor_cores)
    return run_cell<cuda::Half>(a, q, longest, to, carry, dc);
  if (state == DType::kBFloat16 && tensor_cores)
    return run_cell<cuda::BFloat16>(a, q, longest, to, carry, dc);
  return run_cell<float>(a, q, longest, to, carry, dc);
}

}  // namespace seqloom::ops
