// SPDX-License-Identifier: Apache-2.0
// Backward of the recurrences with options on the CPU: the steps in reverse, then the weights'
// gradients as products over all steps.
//
// What the norms' and peepholes' gradients sum over steps is kept a sequence (rows of sums), so
// that rows stay independent and the bits do not depend on the threads; the sequences meet at the
// end.
#include "ops/rnn/rnn_general_cpu.h"

namespace seqloom::SEQLOOM_ISA_NS {
namespace {

struct Backward {
  const ops::GeneralBackwardArgs& a;
  const int64_t B, H, P, G;
  Schedule schedule;
  float* carry;   // [B, P], rows in the schedule's order: dh
  float* dc;      // [B, H]
  float* gates;   // [B, G]: what the product with w_hh takes
  float* shown;   // [B, P]: dh past zoneout
  float* middle;  // [B, H]: gradient of what the second product took or gave
  float* sums;    // [B, 9 H]
  // For the weights' gradients, by slot.
  float* states;    // [T, B, P]: h before the step
  float* dgates_h;  // [T, B, G]: of w_hh h; dgates_x without a norm
  float* dshown;    // [T, B, P]: of the projection; with w_hr
  float* hidden;    // [T, B, H]: o tanh(c'); with w_hr

  // The array's row before step s, or null for zeros.
  SEQLOOM_ALWAYS_INLINE const float* before(const float* of_steps, const float* first, int64_t r,
                                            int64_t s, int64_t width) const {
    if (s > 0) return of_steps + schedule.slot(r, s - 1) * width;
    return first == nullptr ? nullptr : first + schedule.sequence(r) * width;
  }

  // dh = carry + dy, parted by zoneout: what the old state got stays in carry, the rest is `to`.
  void part(int64_t r, int64_t s, float* to) const {
    const int64_t slot = schedule.slot(r, s);
    const auto& f = a.forward;
    over_units(P, [&](int64_t u, int count) {
      VecF d = get(carry + r * P + u, count), direct = VecF::zero();
      if (a.dy != nullptr) d += get(a.dy + slot * P + u, count);
      if (f.keep != nullptr || f.shape.zoneout > 0.0f) {
        const VecF share = f.keep != nullptr ? load(f.keep + slot * P + u, count)
                                             : VecF::broadcast(f.shape.zoneout);
        direct = share * d;
        d = d * (VecF::broadcast(1.0f) - share);
      }
      put(carry + r * P + u, direct, count);
      put(to + u, d, count);
    });
    copy_row(states + slot * P, before(f.y, f.h0, r, s, P), P);
  }

  // ---- LSTM -------------------------------------------------------------------------------------

  void lstm_row(int64_t r, int64_t s, const float* dm) const {
    const auto& f = a.forward;
    const int64_t slot = schedule.slot(r, s);
    const float* saved = f.saved + slot * G;
    const float* cells = f.cells + slot * H;
    const float* c_before = before(f.cells, f.c0, r, s, H);
    float* row_sums = sums + r * ops::kSumRow * H;
    float* dx = a.dgates_x + slot * G;
    float* d_cell = dc + r * H;
    const bool normed = f.norm_h != nullptr;
    // Through the norm of c': dc becomes the whole gradient of c' but the peephole's share. The
    // output gate's gradient waits in its place of dx.
    RowMoments n{0.0f, 1.0f};
    if (normed) n = row_moments(cells, H);
    const VecF mean = VecF::broadcast(n.mean), rstd = VecF::broadcast(n.rstd);
    VecF sum_d = VecF::zero(), sum_dx = VecF::zero();
    over_units(H, [&](int64_t u, int count) {
      const VecF o = get(saved + 3 * H + u, count), c_new = get(cells + u, count);
      const VecF d = get(dm + u, count);
      VecF carried = c_new, xhat = c_new;
      if (normed) {
        xhat = (c_new - mean) * rstd;
        carried = fma(xhat, get(f.norm_c + u, count), get(f.norm_b + u, count));
      }
      if (hidden != nullptr) put(hidden + slot * H + u, o * GateMath::tanh(carried), count);
      VecF d_o, d_carried;
      ops::lstm_shown_backward<GateMath>(o, carried, d, d_o, d_carried);
      put(dx + 3 * H + u, d_o, count);
      if (!normed) {
        put(d_cell + u, get(d_cell + u, count) + d_carried, count);
        return;
      }
      add(row_sums + ops::kSumNormC * H + u, d_carried * xhat, count);
      add(row_sums + ops::kSumNormB * H + u, d_carried, count);
      // Lanes past the row hold zeros in d, so in what is summed.
      const VecF d_xhat = d_carried * get(f.norm_c + u, count);
      sum_d += d_xhat;
      sum_dx = fma(d_xhat, xhat, sum_dx);
    });
    if (normed) {
      const VecF mean_d = VecF::broadcast(reduce_add(sum_d) / static_cast<float>(H));
      const VecF mean_dx = VecF::broadcast(reduce_add(sum_dx) / static_cast<float>(H));
      over_units(H, [&](int64_t u, int count) {
        const VecF o = get(saved + 3 * H + u, count), norm_c = get(f.norm_c + u, count);
        const VecF xhat = (get(cells + u, count) - mean) * rstd;
        const VecF t = GateMath::tanh(fma(xhat, norm_c, get(f.norm_b + u, count)));
        const VecF d = get(dm + u, count) * o * (VecF::broadcast(1.0f) - t * t) * norm_c;
        add(d_cell + u, ops::norm_backward<GateMath>(d, xhat, rstd, mean_d, mean_dx), count);
      });
    }
    over_units(H, [&](int64_t u, int count) {
      ops::LstmGates<VecF> g{get(saved + u, count), get(saved + H + u, count),
                             get(saved + 2 * H + u, count), get(saved + 3 * H + u, count)};
      const VecF c = c_before == nullptr ? VecF::zero() : get(c_before + u, count);
      const VecF d =
          ops::lstm_cell_backward<GateMath>(g, peepholes_at(f.peepholes, H, u, count), c,
                                            get(dx + 3 * H + u, count), get(d_cell + u, count));
      put(d_cell + u, d, count);
      put(dx + u, g.i, count);
      put(dx + H + u, g.f, count);
      put(dx + 2 * H + u, g.g, count);
      if (a.dpeepholes == nullptr) return;
      float* peep = row_sums + ops::kSumPeepholes * H + u;
      add(peep, g.i * c, count);
      add(peep + H, g.f * c, count);
      add(peep + 2 * H, g.o * get(cells + u, count), count);
    });
    if (normed) through_norm(slot, row_sums);
    if (schedule.order != nullptr) copy_row(gates + r * G, dgates_h + slot * G, G);
  }

  SEQLOOM_ALWAYS_INLINE static void add(float* to, VecF v, int count) {
    put(to, get(to, count) + v, count);
  }

  // dgates_h from dgates_x through the norm of the product.
  void through_norm(int64_t slot, float* row_sums) const {
    const auto& f = a.forward;
    const float *raw = f.raw + slot * G, *dx = a.dgates_x + slot * G;
    const RowMoments n = row_moments(raw, G);
    const VecF mean = VecF::broadcast(n.mean), rstd = VecF::broadcast(n.rstd);
    VecF sum_d = VecF::zero(), sum_dx = VecF::zero();
    over_units(G, [&](int64_t j, int count) {
      const VecF xhat = (get(raw + j, count) - mean) * rstd, d = get(dx + j, count);
      add(row_sums + ops::kSumNormH * H + j, d * xhat, count);
      const VecF d_xhat = d * get(f.norm_h + j, count);
      sum_d += d_xhat;
      sum_dx = fma(d_xhat, xhat, sum_dx);
    });
    const VecF mean_d = VecF::broadcast(reduce_add(sum_d) / static_cast<float>(G));
    const VecF mean_dx = VecF::broadcast(reduce_add(sum_dx) / static_cast<float>(G));
    over_units(G, [&](int64_t j, int count) {
      const VecF xhat = (get(raw + j, count) - mean) * rstd;
      const VecF d = get(dx + j, count) * get(f.norm_h + j, count);
      put(dgates_h + slot * G + j, ops::norm_backward<GateMath>(d, xhat, rstd, mean_d, mean_dx),
          count);
    });
  }

  void lstm(const Packed& w_hh, const Packed& w_hr) const {
    const bool projected = a.forward.w_hr != nullptr;
    for (int64_t s = schedule.longest() - 1; s >= 0; --s) {
      const int64_t rows = schedule.active(s);
      if (projected) {
        over_rows(rows, P, [&](int64_t r) {
          part(r, s, shown + r * P);
          copy_row(dshown + schedule.slot(r, s) * P, shown + r * P, P);
        });
        w_hr.multiply(shown, P, rows, middle, H, false);
      }
      over_rows(rows, G, [&](int64_t r) {
        if (!projected) part(r, s, middle + r * H);
        lstm_row(r, s, middle + r * H);
      });
      // Rows in another order than the slots have been gathered.
      const float* from = schedule.order == nullptr ? dgates_h + schedule.slot(0, s) * G : gates;
      w_hh.multiply(from, G, rows, carry, P, true);
    }
  }

  // ---- GRU --------------------------------------------------------------------------------------

  void gru(const Packed& w_rz, const Packed& w_n) const {
    const auto& f = a.forward;
    for (int64_t s = schedule.longest() - 1; s >= 0; --s) {
      const int64_t rows = schedule.active(s);
      over_rows(rows, G, [&](int64_t r) {
        part(r, s, shown + r * H);
        const int64_t slot = schedule.slot(r, s);
        const float *saved = f.saved + slot * 4 * H, *h = states + slot * H;
        over_units(H, [&](int64_t u, int count) {
          VecF dz, dn;
          const VecF direct = ops::gru_first_backward<GateMath>(
              get(saved + H + u, count), get(saved + 2 * H + u, count), get(h + u, count),
              get(shown + r * H + u, count), dz, dn);
          put(carry + r * H + u, direct, count);
          put(gates + r * 2 * H + H + u, dz, count);
          put(a.dgates_x + slot * G + H + u, dz, count);
          put(a.dgates_x + slot * G + 2 * H + u, dn, count);
          put(shown + r * H + u, dn, count);
        });
      });
      w_n.multiply(shown, H, rows, middle, H, false);
      over_rows(rows, H, [&](int64_t r) {
        const int64_t slot = schedule.slot(r, s);
        const float *saved = f.saved + slot * 4 * H, *h = states + slot * H;
        over_units(H, [&](int64_t u, int count) {
          const VecF reset = get(saved + u, count), dq = get(middle + r * H + u, count);
          const VecF dr = ops::gru_reset_backward<GateMath>(reset, get(h + u, count), dq);
          add(carry + r * H + u, dq * reset, count);
          put(gates + r * 2 * H + u, dr, count);
          put(a.dgates_x + slot * G + u, dr, count);
        });
      });
      w_rz.multiply(gates, 2 * H, rows, carry, H, true);
    }
  }
};

// c [m, n] = a^T b over k rows.
void outer(const float* a, int64_t lda, const float* b, int64_t ldb, float* c, int64_t m, int64_t n,
           int64_t k) {
  cpu::GemmArgs g;
  g.m = m;
  g.n = n;
  g.k = k;
  g.a = a;
  g.lda = lda;
  g.trans_a = true;
  g.b = b;
  g.ldb = ldb;
  g.c = c;
  g.ldc = n;
  cpu::gemm(g);
}

// to[j] = sum over sequences of sums[b][first + j].
void sum_rows(const float* sums, int64_t B, int64_t row, int64_t first, int64_t n, float* to) {
  if (to == nullptr) return;
  over_units(n, [&](int64_t j, int count) {
    VecF sum = VecF::zero();
    for (int64_t b = 0; b < B; ++b) sum += get(sums + b * row + first + j, count);
    put(to + j, sum, count);
  });
}

}  // namespace

void rnn_general_backward(const ops::GeneralBackwardArgs& a) {
  const auto& f = a.forward;
  const int64_t T = f.shape.steps, B = f.shape.batch, H = f.shape.units, P = f.shape.shown;
  const bool is_lstm = f.shape.cell == CellKind::kLstm, ragged = f.shape.lengths != nullptr;
  const bool normed = f.norm_h != nullptr, projected = f.w_hr != nullptr;
  const int64_t G = ops::gate_count(f.shape.cell) * H, slots = T * B;
  const int64_t summed = B * ops::kSumRow * H;
  float *carry = nullptr, *dc = nullptr, *gates = nullptr, *shown = nullptr, *middle = nullptr;
  float *sums = nullptr, *states = nullptr, *own = nullptr, *dshown = nullptr, *hidden = nullptr;
  int64_t* order = nullptr;
  const auto carve = [&](Carver at) {
    carry = at.take<float>(B * P);
    dc = at.take<float>(is_lstm ? B * H : 0);
    gates = at.take<float>(B * G);
    shown = at.take<float>(B * P);
    middle = at.take<float>(B * H);
    sums = at.take<float>(summed);
    states = at.take<float>(slots * P);
    own = at.take<float>(normed ? slots * G : 0);
    dshown = at.take<float>(projected ? slots * P : 0);
    hidden = at.take<float>(projected ? slots * H : 0);
    order = at.take<int64_t>(ragged ? B + T + 2 : 0);
    return at.bytes;
  };
  const cpu::Scratch scratch(static_cast<size_t>(carve(Carver{})));
  carve(Carver{0, scratch.as<char>()});
  float* dgates_h = normed ? own : a.dgates_x;
  if (!projected) hidden = nullptr;
  const Schedule schedule{T, B, f.shape.lengths, ragged ? order : nullptr, f.shape.reverse};
  copy_row(sums, nullptr, summed);
  if (ragged) {
    sort_by_length(f.shape.lengths, B, T, order, order + B);
    for (int64_t b = 0; b < B; ++b)  // slots past a length add nothing to any sum
      for (int64_t t = schedule.length(b); t < T; ++t) {
        const int64_t slot = t * B + b;
        copy_row(a.dgates_x + slot * G, nullptr, G);
        copy_row(states + slot * P, nullptr, P);
        if (normed) copy_row(dgates_h + slot * G, nullptr, G);
        if (projected) copy_row(dshown + slot * P, nullptr, P);
        if (projected) copy_row(hidden + slot * H, nullptr, H);
      }
  }
  for (int64_t r = 0; r < B; ++r) {
    const int64_t b = schedule.sequence(r);
    copy_row(carry + r * P, a.dh_n == nullptr ? nullptr : a.dh_n + b * P, P);
    if (is_lstm) copy_row(dc + r * H, a.dc_n == nullptr ? nullptr : a.dc_n + b * H, H);
  }
  const Backward backward{a,     B,     H,      P,    G,      schedule, carry,  dc,
                          gates, shown, middle, sums, states, dgates_h, dshown, hidden};
  if (is_lstm) {
    const Packed w_hh(f.w_hh, G, P, false), w_hr(f.w_hr, P, H, false);
    backward.lstm(w_hh, w_hr);
  } else {
    const Packed w_rz(f.w_hh, 2 * H, H, false), w_n(f.w_hh + 2 * H * H, H, H, false);
    backward.gru(w_rz, w_n);
  }
  for (int64_t r = 0; r < B; ++r) {
    const int64_t b = schedule.sequence(r);
    copy_row(a.dh0 + b * P, carry + r * P, P);
    if (is_lstm) copy_row(a.dc0 + b * H, dc + r * H, H);
  }
  if (a.dw_hh != nullptr && is_lstm) outer(dgates_h, G, states, P, a.dw_hh, G, P, slots);
  if (a.dw_hh != nullptr && !is_lstm) {
    outer(a.dgates_x, G, states, H, a.dw_hh, 2 * H, H, slots);
    outer(a.dgates_x + 2 * H, G, f.saved + 3 * H, 4 * H, a.dw_hh + 2 * H * H, H, H, slots);
  }
  if (a.dw_hr != nullptr) outer(dshown, P, hidden, H, a.dw_hr, P, H, slots);
  const int64_t row = ops::kSumRow * H;
  sum_rows(sums, B, row, ops::kSumNormH * H, 4 * H, a.dnorm_h);
  sum_rows(sums, B, row, ops::kSumNormC * H, H, a.dnorm_c);
  sum_rows(sums, B, row, ops::kSumNormB * H, H, a.dnorm_b);
  sum_rows(sums, B, row, ops::kSumPeepholes * H, 3 * H, a.dpeepholes);
}

}  // namespace seqloom::SEQLOOM_ISA_NS
