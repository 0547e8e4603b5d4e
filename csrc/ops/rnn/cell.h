// SPDX-License-Identifier: Apache-2.0
// The pointwise equations of the recurrent cells, once for every backend: V is a SIMD vector on the
// CPU and float on CUDA, M supplies sigmoid, tanh and fma for it. Gate order is torch's.
#pragma once

#include <cstdint>

#include "core/macros.h"

namespace seqloom::ops {

enum class CellKind : uint8_t { kTanh, kRelu, kGru, kLstm };

// Gates whose products with h a step needs.
constexpr int gate_count(CellKind kind) {
  return kind == CellKind::kLstm ? 4 : kind == CellKind::kGru ? 3 : 1;
}
// Values per unit and step that forward keeps for backward: i f g o; r z n and the n-gate's product
// with h; nothing for the plain cells, whose output says it all.
constexpr int saved_count(CellKind kind) {
  return kind == CellKind::kLstm || kind == CellKind::kGru ? 4 : 0;
}

// ---- LSTM ---------------------------------------------------------------------------------------
//   i, f, o = sigmoid   g = tanh   c' = f c + i g   h' = o tanh(c')

template <class V>
struct LstmGates {
  V i, f, g, o;
};

// Peephole weights; zeros without peepholes.
template <class V>
struct Peepholes {
  V i, f, o;
};

// In: pre-activations, c. Out: activations in place, c' and h'.
template <class M, bool kPeepholes, class V>
SEQLOOM_HOST_DEVICE void lstm_forward(LstmGates<V>& a, const Peepholes<V>& p, V c, V& c_new,
                                      V& h_new) {
  if (kPeepholes) {
    a.i = M::fma(p.i, c, a.i);
    a.f = M::fma(p.f, c, a.f);
  }
  a.i = M::sigmoid(a.i);
  a.f = M::sigmoid(a.f);
  a.g = M::tanh(a.g);
  c_new = M::fma(a.f, c, a.i * a.g);
  if (kPeepholes) a.o = M::fma(p.o, c_new, a.o);
  a.o = M::sigmoid(a.o);
  h_new = a.o * M::tanh(c_new);
}

// In: activations, c (before the step), c' (after it), dh', dc'. Out: gradients of the
// pre-activations in place of the activations, and of c.
template <class M, bool kPeepholes, class V>
SEQLOOM_HOST_DEVICE void lstm_backward(LstmGates<V>& a, const Peepholes<V>& p, V c, V c_new, V dh,
                                       V dc_new, V& dc) {
  const V one = M::constant(1.0f);
  const V t = M::tanh(c_new);
  const V d_o = dh * t * a.o * (one - a.o);
  V total = M::fma(dh * a.o, one - t * t, dc_new);
  if (kPeepholes) total = M::fma(p.o, d_o, total);
  const V di = total * a.g * a.i * (one - a.i);
  const V df = total * c * a.f * (one - a.f);
  dc = total * a.f;
  if (kPeepholes) dc = M::fma(p.i, di, M::fma(p.f, df, dc));
  a.g = total * a.i * (one - a.g * a.g);
  a.i = di;
  a.f = df;
  a.o = d_o;
}

// ---- GRU ----------------------------------------------------------------------------------------
//   r, z = sigmoid   n = tanh(x_n + r q)   h' = (1 - z) n + z h      with q = W_hn h + b_hn

template <class V>
struct GruGates {
  V r, z, n, q;
};

// In: r and z pre-activations, x_n in n, q. Out: activations in place, h'.
template <class M, class V>
SEQLOOM_HOST_DEVICE void gru_forward(GruGates<V>& a, V h, V& h_new) {
  a.r = M::sigmoid(a.r);
  a.z = M::sigmoid(a.z);
  a.n = M::tanh(M::fma(a.r, a.q, a.n));
  h_new = M::fma(a.z, h - a.n, a.n);
}

// In: activations and q, h (before the step), dh'. Out: pre-activation gradients of r, z and n in
// place, that of q in q, and the direct part of dh.
template <class M, class V>
SEQLOOM_HOST_DEVICE void gru_backward(GruGates<V>& a, V h, V dh_new, V& dh) {
  const V one = M::constant(1.0f);
  const V dz = dh_new * (h - a.n) * a.z * (one - a.z);
  const V dn = dh_new * (one - a.z) * (one - a.n * a.n);
  const V dr = dn * a.q * a.r * (one - a.r);
  dh = dh_new * a.z;
  a.q = dn * a.r;
  a.r = dr;
  a.z = dz;
  a.n = dn;
}

// ---- plain cells --------------------------------------------------------------------------------

template <class M, bool kRelu, class V>
SEQLOOM_HOST_DEVICE V plain_forward(V a) {
  return kRelu ? M::relu(a) : M::tanh(a);
}
// From the output alone: relu' = [h > 0], tanh' = 1 - h^2.
template <class M, bool kRelu, class V>
SEQLOOM_HOST_DEVICE V plain_backward(V h, V dh) {
  return kRelu ? M::where_positive(h, dh) : dh * (M::constant(1.0f) - h * h);
}

}  // namespace seqloom::ops
