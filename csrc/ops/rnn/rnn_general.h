// SPDX-License-Identifier: Apache-2.0
// Contract of the recurrences with options: the LSTM with any of projection, peepholes, layer norm
// and zoneout, and the GRU whose reset gate comes before its product. One layer, one direction, the
// whole sequence in one call; steps, lengths and their meaning as in rnn.h.
//
//   T steps, B sequences, H units, P shown units (H without w_hr), G gates (LSTM 4, GRU 3).
//   LSTM   a = gates_x + LN(w_hh h; norm_h), the cell with peepholes,
//          h' = zone(w_hr (o tanh(LN(c'; norm_c, norm_b))))          each part where it is given
//   GRU    r z = sigmoid(gates_x + w_hh[r z] h), n = tanh(gates_x + w_hn (r h)),
//          h' = (1 - z) n + z h
//
// The input's share of the gates, gates_x, comes finished: product, norm and biases of all steps.
// Everything is float32, contiguous and on one device; 16-bit layers are widened before.
#pragma once

#include <cstdint>

#include "cpu/isa.h"
#include "ops/rnn/cell_general.h"

namespace seqloom::ops {

struct GeneralShape {
  CellKind cell;  // kLstm or kGru
  bool reverse;
  int64_t steps, batch, units, shown;
  const int64_t* lengths;  // [B] in 0 .. T, in host memory; null: all T
  float zoneout;           // share of the old state, where `keep` does not say
};

struct GeneralForwardArgs {
  GeneralShape shape;
  const float* gates_x;    // [T, B, G H]
  const float* h0;         // [B, P] or null (zeros)
  const float* c0;         // [B, H] or null; LSTM only, as all that follows but w_hh
  const float* w_hh;       // [G H, P]
  const float* w_hr;       // [P, H] or null
  const float* peepholes;  // [3, H] (i f o) or null
  const float* norm_h;     // [4 H], or null: no layer norm
  const float* norm_c;     // [H], with norm_h
  const float* norm_b;     // [H], with norm_h
  const uint8_t* keep;     // [T, B, P], 1 where a unit keeps its old state; or null
  float* y;                // [T, B, P]
  float* h_n;              // [B, P]
  float* c_n;              // [B, H]
  // Kept for backward, or null all three.
  float* saved;  // [T, B, 4, H]: activations i f g o; r z n and r h
  float* cells;  // [T, B, H]: c'
  float* raw;    // [T, B, 4 H]: w_hh h, with norm_h
};

struct GeneralBackwardArgs {
  GeneralForwardArgs forward;  // the same arrays; y, saved, cells and raw are read
  const float* dy;             // [T, B, P] or null
  const float* dh_n;           // [B, P] or null
  const float* dc_n;           // [B, H] or null
  float* dgates_x;             // [T, B, G H]
  float* dh0;                  // [B, P]
  float* dc0;                  // [B, H]; LSTM only
  // Null where not wanted.
  float* dw_hh;       // [G H, P]
  float* dw_hr;       // [P, H]
  float* dpeepholes;  // [3, H]
  float* dnorm_h;     // [4 H]
  float* dnorm_c;     // [H]
  float* dnorm_b;     // [H]
};

// Sums over steps that backward keeps a sequence: rows of 9 H floats, at these multiples of H.
constexpr int64_t kSumNormH = 0, kSumNormC = 4, kSumNormB = 5, kSumPeepholes = 6, kSumRow = 9;

void rnn_general_forward_cuda(const GeneralForwardArgs& args);
void rnn_general_backward_cuda(const GeneralBackwardArgs& args);

}  // namespace seqloom::ops

namespace seqloom {
SEQLOOM_DECLARE_CPU(rnn_general_forward, ops::GeneralForwardArgs)
SEQLOOM_DECLARE_CPU(rnn_general_backward, ops::GeneralBackwardArgs)
}  // namespace seqloom
