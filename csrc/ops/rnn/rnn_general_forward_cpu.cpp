// SPDX-License-Identifier: Apache-2.0
// Forward of the recurrences with options on the CPU: packed products and passes over rows.
#include "ops/rnn/rnn_general_cpu.h"

namespace seqloom::SEQLOOM_ISA_NS {
namespace {

struct Forward {
  const ops::GeneralForwardArgs& a;
  const int64_t B, H, P, G;
  Schedule schedule;
  float* h;        // [B, P], rows in the schedule's order, as those below
  float* c;        // [B, H]
  float* product;  // [B, G]
  float* hidden;   // [B, H]: what the second product takes; o tanh(c') or r h
  float* second;   // [B, max(P, H)]: its result

  bool normed() const { return a.norm_h != nullptr; }

  // ---- LSTM -------------------------------------------------------------------------------------

  // `from_h`: the row's product. Leaves o tanh(c') in `m`.
  void lstm_row(int64_t r, int64_t s, float* from_h, float* m) const {
    const int64_t slot = schedule.slot(r, s);
    const float* gx = a.gates_x + slot * G;
    float* cell = c + r * H;
    float* saved = a.saved == nullptr ? nullptr : a.saved + slot * G;
    RowMoments norm{0.0f, 1.0f};
    if (normed()) {
      if (a.raw != nullptr && from_h != a.raw + slot * G) copy_row(a.raw + slot * G, from_h, G);
      norm = row_moments(from_h, G);
    }
    const VecF mean = VecF::broadcast(norm.mean), rstd = VecF::broadcast(norm.rstd);
    over_units(H, [&](int64_t u, int count) {
      VecF pre[4];
#pragma GCC unroll 4
      for (int64_t k = 0; k < 4; ++k) {
        const VecF p = get(from_h + k * H + u, count), x = get(gx + k * H + u, count);
        pre[k] = normed() ? fma((p - mean) * rstd, get(a.norm_h + k * H + u, count), x) : p + x;
      }
      ops::LstmGates<VecF> g{pre[0], pre[1], pre[2], pre[3]};
      const VecF c_new =
          ops::lstm_cell<GateMath>(g, peepholes_at(a.peepholes, H, u, count), get(cell + u, count));
      put(cell + u, c_new, count);
      // With a norm the output gate waits in m for the whole of c'.
      put(m + u, normed() ? g.o : g.o * GateMath::tanh(c_new), count);
      if (saved != nullptr) {
        put(saved + u, g.i, count);
        put(saved + H + u, g.f, count);
        put(saved + 2 * H + u, g.g, count);
        put(saved + 3 * H + u, g.o, count);
        put(a.cells + slot * H + u, c_new, count);
      }
    });
    if (!normed()) return;
    const RowMoments n = row_moments(cell, H);
    over_units(H, [&](int64_t u, int count) {
      const VecF xhat = (get(cell + u, count) - VecF::broadcast(n.mean)) * VecF::broadcast(n.rstd);
      const VecF carried = fma(xhat, get(a.norm_c + u, count), get(a.norm_b + u, count));
      put(m + u, get(m + u, count) * GateMath::tanh(carried), count);
    });
  }

  // The new state of a row: zoneout, output, state.
  void show(int64_t r, int64_t s, const float* fresh) const {
    const int64_t slot = schedule.slot(r, s);
    float* state = h + r * P;
    over_units(P, [&](int64_t u, int count) {
      VecF v = get(fresh + u, count);
      if (a.keep != nullptr || a.shape.zoneout > 0.0f) {
        const VecF share = a.keep != nullptr ? load(a.keep + slot * P + u, count)
                                             : VecF::broadcast(a.shape.zoneout);
        v = ops::zone_out<GateMath>(share, get(state + u, count), v);
      }
      put(state + u, v, count);
      put(a.y + slot * P + u, v, count);
    });
  }

  // A step worth sharing is shared by a team: products by columns, passes by rows.
  void lstm(const StepWeights& w_hh, const StepWeights& w_hr) const {
    if (B * G * P < ops::kSharedStepWork) {
      cpu::TeamBarrier nobody(1);
      return lstm_member(w_hh, w_hr, 0, 1, nobody);
    }
    cpu::parallel_team([&](int rank, int size, cpu::TeamBarrier& barrier) {
      lstm_member(w_hh, w_hr, rank, size, barrier);
    });
  }

  void lstm_member(const StepWeights& w_hh, const StepWeights& w_hr, int rank, int size,
                   cpu::TeamBarrier& barrier) const {
    const Share share(rank, size, 0, 0, true);
    const auto over_own_rows = [&](int64_t rows, const auto& f) {
      barrier.wait();
      for (int64_t r = rows * rank / size; r < rows * (rank + 1) / size; ++r) f(r);
      barrier.wait();
    };
    for (int64_t s = 0; s < schedule.longest(); ++s) {
      const int64_t rows = schedule.active(s);
      // What backward wants of the product is written where it will look for it.
      const bool in_place = a.raw != nullptr && schedule.order == nullptr;
      float* from_h = in_place ? a.raw + schedule.slot(0, s) * G : product;
      w_hh.multiply(s, h, rows, from_h, share);
      over_own_rows(rows, [&](int64_t r) {
        lstm_row(r, s, from_h + r * G, hidden + r * H);
        if (a.w_hr == nullptr) show(r, s, hidden + r * H);
      });
      if (a.w_hr == nullptr) continue;
      w_hr.multiply(s, hidden, rows, second, share);
      over_own_rows(rows, [&](int64_t r) { show(r, s, second + r * P); });
    }
  }

  // ---- GRU --------------------------------------------------------------------------------------

  void gru(const Packed& w_rz, const Packed& w_n) const {
    for (int64_t s = 0; s < schedule.longest(); ++s) {
      const int64_t rows = schedule.active(s);
      w_rz.multiply(h, H, rows, product, 2 * H, false);
      over_rows(rows, 2 * H, [&](int64_t r) {
        const float* gx = a.gates_x + schedule.slot(r, s) * G;
        float* rz = product + r * 2 * H;
        over_units(H, [&](int64_t u, int count) {
          const VecF reset = GateMath::sigmoid(get(rz + u, count) + get(gx + u, count));
          put(rz + u, reset, count);
          put(rz + H + u, GateMath::sigmoid(get(rz + H + u, count) + get(gx + H + u, count)),
              count);
          put(hidden + r * H + u, reset * get(h + r * H + u, count), count);
        });
      });
      w_n.multiply(hidden, H, rows, second, H, false);
      over_rows(rows, H, [&](int64_t r) { gru_row(r, s); });
    }
  }

  void gru_row(int64_t r, int64_t s) const {
    const int64_t slot = schedule.slot(r, s);
    const float* rz = product + r * 2 * H;
    float* saved = a.saved == nullptr ? nullptr : a.saved + slot * 4 * H;
    over_units(H, [&](int64_t u, int count) {
      const VecF n = GateMath::tanh(get(second + r * H + u, count) +
                                    get(a.gates_x + slot * G + 2 * H + u, count));
      const VecF z = get(rz + H + u, count), before = get(h + r * H + u, count);
      const VecF after = fma(z, before - n, n);
      put(h + r * H + u, after, count);
      put(a.y + slot * H + u, after, count);
      if (saved == nullptr) return;
      put(saved + u, get(rz + u, count), count);
      put(saved + H + u, z, count);
      put(saved + 2 * H + u, n, count);
      put(saved + 3 * H + u, get(hidden + r * H + u, count), count);
    });
  }
};

}  // namespace

void rnn_general_forward(const ops::GeneralForwardArgs& a) {
  const int64_t T = a.shape.steps, B = a.shape.batch, H = a.shape.units, P = a.shape.shown;
  const bool is_lstm = a.shape.cell == CellKind::kLstm, ragged = a.shape.lengths != nullptr;
  const int64_t G = ops::gate_count(a.shape.cell) * H;
  int64_t* order = nullptr;
  float *h = nullptr, *c = nullptr, *product = nullptr, *hidden = nullptr, *second = nullptr;
  const auto carve = [&](Carver at) {
    h = at.take<float>(B * P);
    c = at.take<float>(is_lstm ? B * H : 0);
    product = at.take<float>(B * G);
    hidden = at.take<float>(B * H);
    second = at.take<float>(B * max(P, H));
    order = at.take<int64_t>(ragged ? B + T + 2 : 0);
    return at.bytes;
  };
  const cpu::Scratch scratch(static_cast<size_t>(carve(Carver{})));
  carve(Carver{0, scratch.as<char>()});
  const Schedule schedule{T, B, a.shape.lengths, ragged ? order : nullptr, a.shape.reverse};
  if (ragged) {
    sort_by_length(a.shape.lengths, B, T, order, order + B);
    for (int64_t b = 0; b < B; ++b)  // outputs past a length
      for (int64_t t = schedule.length(b); t < T; ++t) {
        const int64_t slot = t * B + b;
        copy_row(a.y + slot * P, nullptr, P);
        // An operand of a weight gradient, where zeros meet it.
        if (!is_lstm && a.saved != nullptr) copy_row(a.saved + slot * 4 * H + 3 * H, nullptr, H);
      }
  }
  for (int64_t r = 0; r < B; ++r) {
    const int64_t b = schedule.sequence(r);
    copy_row(h + r * P, a.h0 == nullptr ? nullptr : a.h0 + b * P, P);
    if (is_lstm) copy_row(c + r * H, a.c0 == nullptr ? nullptr : a.c0 + b * H, H);
  }
  const Forward forward{a, B, H, P, G, schedule, h, c, product, hidden, second};
  if (is_lstm) {
    const StepWeights w_hh(a.w_hh, G, P), w_hr(a.w_hr, P, H);
    forward.lstm(w_hh, w_hr);
  } else {
    const Packed w_rz(a.w_hh, H, 2 * H, true), w_n(a.w_hh + 2 * H * H, H, H, true);
    forward.gru(w_rz, w_n);
  }
  for (int64_t r = 0; r < B; ++r) {
    const int64_t b = schedule.sequence(r);
    copy_row(a.h_n + b * P, h + r * P, P);
    if (is_lstm) copy_row(a.c_n + b * H, c + r * H, H);
  }
}

}  // namespace seqloom::SEQLOOM_ISA_NS
