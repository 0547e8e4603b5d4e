// SPDX-License-Identifier: Apache-2.0
// Contract of the recurrent layers: one layer, one direction, the whole sequence in one call.
//
//   T steps, B sequences, I inputs, H units, G = gate_count(cell) gates.
//   a_t = x_t w_ih^T + b_ih + h w_hh^T + b_hh, then the cell of cell.h, gate by gate.
// Sequence b has lengths[b] valid steps. Forward in time they are t = 0 .. length - 1; a reversed
// layer runs t = length - 1 .. 0. Outputs past a length are zero, and h_n is the state after the
// last step run.
//
// For backward, forward keeps `saved` (activations, saved_count(cell) H floats a step; of plain
// cells the outputs in float32 where they are rounded to 16 bits) and, for the LSTM, `cells`. With
// neither, backward makes them again from the outputs (`recompute`): the states alone are then what
// a training step holds.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "cpu/isa.h"
#include "ops/rnn/cell.h"

namespace seqloom::ops {

struct RnnShape {
  CellKind cell;
  DType dtype;  // of x, weights and states: float32, float16 or bfloat16; arithmetic in float32
  bool reverse;
  int64_t steps, batch, inputs, units;
  const int64_t* lengths;  // [B] in 0 .. T, in host memory; null: all T
  int grid = 0;  // CUDA: most blocks of the persistent kernel; 0: the device's choice, -1: none
};

struct RnnWeights {
  const void* w_ih;       // [G H, I]
  const void* w_hh;       // [G H, H]
  const void* b_ih;       // [G H] or null
  const void* b_hh;       // [G H] or null
  const void* peepholes;  // [3, H] (i f o) or null; LSTM only
  // CPU: w_ih and w_hh as rnn_pack() made them for the active instruction set, or null.
  const void* packed_ih = nullptr;
  const void* packed_hh = nullptr;
};

struct RnnForwardArgs {
  RnnShape shape;
  RnnWeights weights;
  const void* x;   // [T, B, I]
  const void* h0;  // [B, H] or null (zeros)
  const void* c0;  // [B, H] or null; LSTM only
  void* y;         // [T, B, H]
  void* h_n;       // [B, H]
  void* c_n;       // [B, H]; LSTM only
  float* saved;    // [T, B, saved_count, H] or null
  float* cells;    // [T, B, H] or null: c after each step; LSTM only
  // CPU, for layers that run at once: the steps of x that are there, the steps of y that are.
  const int64_t* ready = nullptr;
  int64_t* done = nullptr;
};

// Several layers of the same shape but for their inputs, forward, on the CPU.
struct RnnManyArgs {
  const RnnForwardArgs* runs;
  int count;
  bool chained;  // x of each is y of the one before; then each has `ready` and `done`
};

// Multiply-adds that make a step worth sharing among threads with a barrier at its end.
constexpr int64_t kSharedStepWork = 120000;
// Whether a step is worth sharing among threads: on the shape alone, as bits may follow from it.
SEQLOOM_ALWAYS_INLINE constexpr bool rnn_shares_steps(const RnnShape& s) {
  return s.batch * gate_count(s.cell) * s.units * s.units >= kSharedStepWork;
}

// One weight [G H, depth] as forward reads it on the active instruction set.
struct RnnPackArgs {
  CellKind cell;
  DType dtype;
  int64_t units, depth;
  const void* weight;
  void* memory;    // *bytes of them; null: only count
  int64_t* bytes;  // how many
};

// Returns when *counter has reached `wanted`.
void rnn_await(const int64_t* counter, int64_t wanted);

struct RnnBackwardArgs {
  RnnForwardArgs forward;  // the same arrays; y, saved and cells are read
  const void* dy;          // [T, B, H] or null
  const void* dh_n;        // [B, H] or null
  const void* dc_n;        // [B, H] or null
  void* dx;                // [T, B, I] or null
  void* dh0;               // [B, H]
  void* dc0;               // [B, H]; LSTM only
  void* dw_ih;             // [G H, I] or null
  void* dw_hh;             // [G H, H] or null
  float* db_ih;            // [G H] float32, or null
  float* db_hh;            // [G H] float32, or null; differs from db_ih in the GRU's n gate
  float* dpeepholes;       // [3, H] float32, or null
};

struct RnnManyBackwardArgs {
  const RnnBackwardArgs* runs;
  int count;
};

void rnn_forward_cuda(const RnnForwardArgs& args);
void rnn_backward_cuda(const RnnBackwardArgs& args);

}  // namespace seqloom::ops

namespace seqloom {
SEQLOOM_DECLARE_CPU_BF16(rnn_forward, ops::RnnForwardArgs)
SEQLOOM_DECLARE_CPU_BF16(rnn_backward, ops::RnnBackwardArgs)
SEQLOOM_DECLARE_CPU_BF16(rnn_pack, ops::RnnPackArgs)
SEQLOOM_DECLARE_CPU_BF16(rnn_forward_many, ops::RnnManyArgs)
SEQLOOM_DECLARE_CPU_BF16(rnn_backward_many, ops::RnnManyBackwardArgs)
}  // namespace seqloom
