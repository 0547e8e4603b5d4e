// SPDX-License-Identifier: Apache-2.0
// What the stepwise and the persistent recurrence share on CUDA. Included by .cu files only.
#pragma once

#include "cuda/rows.h"
#include "ops/rnn/rnn.h"

namespace seqloom::ops {

struct CellMath {
  SEQLOOM_DEVICE static float constant(float x) { return x; }
  SEQLOOM_DEVICE static float fma(float a, float b, float c) { return fmaf(a, b, c); }
  SEQLOOM_DEVICE static float sigmoid(float x) { return 1.f / (1.f + expf(-x)); }
  SEQLOOM_DEVICE static float tanh(float x) { return tanhf(x); }
  SEQLOOM_DEVICE static float relu(float x) { return x < 0.f ? 0.f : x; }
  SEQLOOM_DEVICE static float where_positive(float h, float v) { return h > 0.f ? v : 0.f; }
};

// What every launch of a sequence is told.
struct Steps {
  int64_t steps, batch, units;
  const int64_t* lengths;  // device memory, or null
  bool reverse;

  SEQLOOM_DEVICE int64_t length(int64_t b) const { return lengths != nullptr ? lengths[b] : steps; }
  SEQLOOM_DEVICE int64_t time(int64_t b, int64_t s) const {
    return reverse ? length(b) - 1 - s : s;
  }
};

SEQLOOM_DEVICE float at_or_zero(const void* p, int64_t i) {
  return p == nullptr ? 0.f : static_cast<const float*>(p)[i];
}

SEQLOOM_DEVICE Peepholes<float> peepholes_of(const RnnForwardArgs& a, int64_t unit) {
  const int64_t H = a.shape.units;
  return {at_or_zero(a.weights.peepholes, unit), at_or_zero(a.weights.peepholes, H + unit),
          at_or_zero(a.weights.peepholes, 2 * H + unit)};
}

// One step of one unit of a sequence that still runs: gates from x w_ih^T (`from_x`) and h w_hh^T
// (`from_h`), both without biases. Writes what the step leaves behind, updates c, returns h'. All
// arrays of `a` are float32, here and below.
template <CellKind kKind, bool kPeepholes, int kGates>
SEQLOOM_DEVICE float cell_step(const Steps& q, const RnnForwardArgs& a, int64_t s, int64_t b,
                               int64_t unit, const float (&from_x)[kGates],
                               const float (&from_h)[kGates], float h, float& c) {
  const int64_t H = q.units, i = b * H + unit, n = q.length(b);
  const int64_t slot = q.time(b, s) * q.batch + b;
  float pre[kGates], hidden[kGates];
  for (int g = 0; g < kGates; ++g) {
    hidden[g] = from_h[g] + at_or_zero(a.weights.b_hh, g * H + unit);
    pre[g] = from_x[g] + at_or_zero(a.weights.b_ih, g * H + unit);
  }
  float h_new;
  float* saved = a.saved == nullptr ? nullptr : a.saved + slot * 4 * H + unit;
  if constexpr (kKind == CellKind::kLstm) {
    LstmGates<float> g{pre[0] + hidden[0], pre[1] + hidden[1], pre[2] + hidden[2],
                       pre[3] + hidden[3]};
    Peepholes<float> p{0.f, 0.f, 0.f};
    if (kPeepholes) p = peepholes_of(a, unit);
    float c_new;
    lstm_forward<CellMath, kPeepholes>(g, p, c, c_new, h_new);
    c = c_new;
    if (saved != nullptr) {
      saved[0] = g.i;
      saved[H] = g.f;
      saved[2 * H] = g.g;
      saved[3 * H] = g.o;
    }
    if (a.cells != nullptr) a.cells[slot * H + unit] = c_new;
    if (s + 1 == n) static_cast<float*>(a.c_n)[i] = c_new;
  } else if constexpr (kKind == CellKind::kGru) {
    GruGates<float> g{pre[0] + hidden[0], pre[1] + hidden[1], pre[2], hidden[2]};
    gru_forward<CellMath>(g, h, h_new);
    if (saved != nullptr) {
      saved[0] = g.r;
      saved[H] = g.z;
      saved[2 * H] = g.n;
      saved[3 * H] = g.q;
    }
  } else {
    h_new = plain_forward<CellMath, kKind == CellKind::kRelu>(pre[0] + hidden[0]);
    if (a.saved != nullptr) a.saved[slot * H + unit] = h_new;
  }
  static_cast<float*>(a.y)[slot * H + unit] = h_new;
  if (s + 1 == n) static_cast<float*>(a.h_n)[i] = h_new;
  return h_new;
}

// ---- backward -----------------------------------------------------------------------------------

// Where the gradients of the gates go, by slot: [T, B, G H] of x w_ih^T + b_ih and of h w_hh^T +
// b_hh (the same memory but for the GRU), and [3, B, H] sums for the peepholes, or null.
struct GateGradients {
  float *gates_x, *gates_h, *peep_terms;
};

// What backward reads of one step of one unit: these can be under way before they are needed.
struct StepInputs {
  float saved[4];  // activations; of plain cells the output
  float c, c_new;  // LSTM: before and after the step
  float h;         // GRU: before the step
  float dy;
};

template <CellKind kKind>
SEQLOOM_DEVICE StepInputs load_step(const Steps& q, const RnnBackwardArgs& a, int64_t s, int64_t b,
                                    int64_t unit) {
  const RnnForwardArgs& f = a.forward;
  const int64_t H = q.units, i = b * H + unit, slot = q.time(b, s) * q.batch + b;
  const int64_t before = s > 0 ? (q.time(b, s - 1) * q.batch + b) * H + unit : 0;
  StepInputs in{};
  in.dy = at_or_zero(a.dy, slot * H + unit);
  if constexpr (kKind == CellKind::kLstm || kKind == CellKind::kGru) {
    for (int k = 0; k < 4; ++k) in.saved[k] = f.saved[(slot * 4 + k) * H + unit];
  } else {
    const float* out = f.saved != nullptr ? f.saved : static_cast<const float*>(f.y);
    in.saved[0] = out[slot * H + unit];
  }
  if (kKind == CellKind::kLstm) {
    in.c = s > 0 ? f.cells[before] : at_or_zero(f.c0, i);
    in.c_new = f.cells[slot * H + unit];
  }
  if (kKind == CellKind::kGru)
    in.h = s > 0 ? static_cast<const float*>(f.y)[before] : at_or_zero(f.h0, i);
  return in;
}

// One step backwards of one unit, dh complete but for dy. Updates dc, writes the step's gate
// gradients; to_h are those that the product with w_hh takes. Returns what reaches h besides it.
template <CellKind kKind, bool kPeepholes, int kGates>
SEQLOOM_DEVICE float cell_step_backward(const Steps& q, const RnnBackwardArgs& a,
                                        const GateGradients& to, const StepInputs& in, int64_t s,
                                        int64_t b, int64_t unit, float dh, float& dc,
                                        float (&to_h)[kGates]) {
  const int64_t H = q.units, i = b * H + unit, slot = q.time(b, s) * q.batch + b;
  float to_x[kGates], direct = 0.f;
  dh += in.dy;
  if constexpr (kKind == CellKind::kLstm) {
    LstmGates<float> g{in.saved[0], in.saved[1], in.saved[2], in.saved[3]};
    Peepholes<float> p{0.f, 0.f, 0.f};
    if (kPeepholes) p = peepholes_of(a.forward, unit);
    float dc_before;
    lstm_backward<CellMath, kPeepholes>(g, p, in.c, in.c_new, dh, dc, dc_before);
    dc = dc_before;
    to_x[0] = to_h[0] = g.i;
    to_x[1] = to_h[1] = g.f;
    to_x[2] = to_h[2] = g.g;
    to_x[3] = to_h[3] = g.o;
    if (kPeepholes && to.peep_terms != nullptr) {
      to.peep_terms[i] += g.i * in.c;
      to.peep_terms[q.batch * H + i] += g.f * in.c;
      to.peep_terms[2 * q.batch * H + i] += g.o * in.c_new;
    }
  } else if constexpr (kKind == CellKind::kGru) {
    GruGates<float> g{in.saved[0], in.saved[1], in.saved[2], in.saved[3]};
    gru_backward<CellMath>(g, in.h, dh, direct);
    to_x[0] = to_h[0] = g.r;
    to_x[1] = to_h[1] = g.z;
    to_x[2] = g.n;
    to_h[2] = g.q;
  } else {
    to_x[0] = to_h[0] = plain_backward<CellMath, kKind == CellKind::kRelu>(in.saved[0], dh);
  }
  for (int k = 0; k < kGates; ++k) {
    to.gates_x[(slot * kGates + k) * H + unit] = to_x[k];
    if (kKind == CellKind::kGru) to.gates_h[(slot * kGates + k) * H + unit] = to_h[k];
  }
  return direct;
}

// ---- in one launch ------------------------------------------------------------------------------

// All steps in one launch, for float32 arrays: the state is rounded to `state` before it is
// multiplied (where w_hh came from that type, it loses nothing). gates_x [T, B, G H] is
// x w_ih^T; h and c [B, H] are the initial states. False where the weights do not fit on the chip,
// or `a.shape.grid` asks for none of it: nothing has been done then.
bool rnn_forward_persistent(const RnnForwardArgs& a, const Steps& q, DType state, int64_t longest,
                            const float* gates_x, const float* h, const float* c);

// The same backwards, down to dh0 and dc0. carry and dc [B, H]: the gradients of h_n and c_n. The
// gate gradients are rounded to `state` before they are multiplied.
bool rnn_backward_persistent(const RnnBackwardArgs& a, const Steps& q, DType state, int64_t longest,
                             const GateGradients& to, const float* carry, const float* dc);

}  // namespace seqloom::ops
