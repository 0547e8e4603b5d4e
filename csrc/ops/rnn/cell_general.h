// SPDX-License-Identifier: Apache-2.0
// The pointwise equations of the cells with options, once for every backend, in the parts between
// which a layer norm or a product may stand. V and M as in cell.h.
#pragma once

#include "ops/rnn/cell.h"

namespace seqloom::ops {

constexpr float kRecurrentNormEps = 1e-5f;

// ---- LSTM: gates and c' -> (layer norm of c') -> shown state -> (projection) -> zoneout ---------

// In: pre-activations, peephole weights (zeros without), c. Out: activations in place; c'.
template <class M, class V>
SEQLOOM_HOST_DEVICE V lstm_cell(LstmGates<V>& a, const Peepholes<V>& p, V c) {
  a.i = M::sigmoid(M::fma(p.i, c, a.i));
  a.f = M::sigmoid(M::fma(p.f, c, a.f));
  a.g = M::tanh(a.g);
  const V c_new = M::fma(a.f, c, a.i * a.g);
  a.o = M::sigmoid(M::fma(p.o, c_new, a.o));
  return c_new;
}

// The gradient of m = o tanh(carried), carried = c' or its norm: of o's pre-activation and of
// carried.
template <class M, class V>
SEQLOOM_HOST_DEVICE void lstm_shown_backward(V o, V carried, V dm, V& d_o, V& d_carried) {
  const V one = M::constant(1.0f);
  const V t = M::tanh(carried);
  d_o = dm * t * o * (one - o);
  d_carried = dm * o * (one - t * t);
}

// In: activations, c, d_o of lstm_shown_backward, and the gradient of c' without the peephole's
// share. Out: gradients of the pre-activations in place; that of c.
template <class M, class V>
SEQLOOM_HOST_DEVICE V lstm_cell_backward(LstmGates<V>& a, const Peepholes<V>& p, V c, V d_o,
                                         V dc_new) {
  const V one = M::constant(1.0f);
  const V total = M::fma(p.o, d_o, dc_new);
  const V di = total * a.g * a.i * (one - a.i);
  const V df = total * c * a.f * (one - a.f);
  const V dc = M::fma(p.i, di, M::fma(p.f, df, total * a.f));
  a.g = total * a.i * (one - a.g * a.g);
  a.i = di;
  a.f = df;
  a.o = d_o;
  return dc;
}

// share of the old state, the rest of the new one. Exact for 0 and 1.
template <class M, class V>
SEQLOOM_HOST_DEVICE V zone_out(V share, V before, V fresh) {
  return M::fma(share, before, (M::constant(1.0f) - share) * fresh);
}

// ---- layer norm of a row ------------------------------------------------------------------------

// The gradient of x where xhat = (x - mean) rstd, from that of xhat and its two means over the row.
template <class M, class V>
SEQLOOM_HOST_DEVICE V norm_backward(V d, V xhat, V rstd, V mean_d, V mean_d_xhat) {
  return rstd * (d - mean_d - xhat * mean_d_xhat);
}

// ---- GRU with the reset gate before the product -------------------------------------------------
//   n = tanh(x_n + w_hn (r h))      h' = (1 - z) n + z h

template <class M, class V>
SEQLOOM_HOST_DEVICE V gru_first_backward(V z, V n, V h, V dh_new, V& dz, V& dn) {
  const V one = M::constant(1.0f);
  dz = dh_new * (h - n) * z * (one - z);
  dn = dh_new * (one - z) * (one - n * n);
  return dh_new * z;  // the direct part of dh
}

// dq: gradient of q = r h. Returns that of r's pre-activation.
template <class M, class V>
SEQLOOM_HOST_DEVICE V gru_reset_backward(V r, V h, V dq) {
  return dq * h * r * (M::constant(1.0f) - r);
}

}  // namespace seqloom::ops
