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

template <class T>
SEQLOOM_DEVICE float at_or_zero(const void* p, int64_t i) {
  return p == nullptr ? 0.f : cuda::to_float(static_cast<const T*>(p)[i]);
}

// One step of one unit of a sequence that still runs: gates from x w_ih^T (`from_x`) and h w_hh^T
// (`from_h`), both without biases. Writes what the step leaves behind, updates c, returns h'.
template <class T, CellKind kKind, bool kPeepholes, int kGates>
SEQLOOM_DEVICE float cell_step(const Steps& q, const RnnForwardArgs& a, int64_t s, int64_t b,
                               int64_t unit, const float (&from_x)[kGates],
                               const float (&from_h)[kGates], float h, float& c) {
  const int64_t H = q.units, i = b * H + unit, n = q.length(b);
  const int64_t slot = q.time(b, s) * q.batch + b;
  float pre[kGates], hidden[kGates];
  for (int g = 0; g < kGates; ++g) {
    hidden[g] = from_h[g] + at_or_zero<T>(a.weights.b_hh, g * H + unit);
    pre[g] = from_x[g] + at_or_zero<T>(a.weights.b_ih, g * H + unit);
  }
  float h_new;
  float* saved = a.saved == nullptr ? nullptr : a.saved + slot * 4 * H + unit;
  if constexpr (kKind == CellKind::kLstm) {
    LstmGates<float> g{pre[0] + hidden[0], pre[1] + hidden[1], pre[2] + hidden[2],
                       pre[3] + hidden[3]};
    Peepholes<float> p{0.f, 0.f, 0.f};
    if (kPeepholes)
      p = {at_or_zero<T>(a.weights.peepholes, unit), at_or_zero<T>(a.weights.peepholes, H + unit),
           at_or_zero<T>(a.weights.peepholes, 2 * H + unit)};
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
    if (s + 1 == n) static_cast<T*>(a.c_n)[i] = cuda::from_float<T>(c_new);
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
  const T rounded = cuda::from_float<T>(h_new);
  static_cast<T*>(a.y)[slot * H + unit] = rounded;
  if (s + 1 == n) static_cast<T*>(a.h_n)[i] = rounded;
  return h_new;
}

// All steps in one launch, for float32 arrays: the state is rounded to `state` before it is
// multiplied (where w_hh came from that type, it loses nothing). gates_x [T, B, G H] is
// x w_ih^T; h and c [B, H] are the initial states. False where the weights do not fit on the chip,
// or `a.shape.grid` asks for none of it: nothing has been done then.
bool rnn_forward_persistent(const RnnForwardArgs& a, const Steps& q, DType state, int64_t longest,
                            const float* gates_x, const float* h, const float* c);

}  // namespace seqloom::ops
