// SPDX-License-Identifier: Apache-2.0
// The recurrences with options on CUDA, step by step: products, and between them launches of the
// cell. Where a layer norm needs whole rows, a block owns a sequence; the rest is a thread a unit.
// Sequences that have ended, or not begun, are masked.
//
// The states live in h_n and c_n from the first step on.
#include "cuda/reduce.h"
#include "ops/rnn/rnn_cuda_launch.h"
#include "ops/rnn/rnn_general.h"

namespace seqloom::ops {
namespace {

constexpr int kRowThreads = 256;

struct RowMoments {
  float mean, rstd;
};

// Of a row of n, by the whole block, in two passes.
SEQLOOM_DEVICE RowMoments row_moments(const float* x, int64_t n, float* scratch) {
  const int t = static_cast<int>(threadIdx.x);
  float sum = 0.f;
  for (int64_t i = t; i < n; i += kRowThreads) sum += x[i];
  RowMoments m;
  m.mean = cuda::block_sum(sum, scratch) / static_cast<float>(n);
  float squares = 0.f;
  for (int64_t i = t; i < n; i += kRowThreads) squares += (x[i] - m.mean) * (x[i] - m.mean);
  const float variance = cuda::block_sum(squares, scratch) / static_cast<float>(n);
  m.rstd = 1.f / sqrtf(variance + kRecurrentNormEps);
  return m;
}

SEQLOOM_DEVICE Peepholes<float> peepholes_at(const float* p, int64_t H, int64_t u) {
  if (p == nullptr) return {0.f, 0.f, 0.f};
  return {p[u], p[H + u], p[2 * H + u]};
}

SEQLOOM_DEVICE float kept_share(const GeneralForwardArgs& a, int64_t at) {
  if (a.keep != nullptr) return a.keep[at] != 0 ? 1.f : 0.f;
  return a.shape.zoneout;
}

// ---- forward ------------------------------------------------------------------------------------

// to [B, width] = the initial state.
__global__ void __launch_bounds__(kStepThreads)
    begin_kernel(const float* from, float* to, int64_t n) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kStepThreads + threadIdx.x;
  if (i < n) to[i] = from == nullptr ? 0.f : from[i];
}

// Zeros where t is past a sequence's length, in [T, B, stride] arrays: `width` at each.
__global__ void __launch_bounds__(kStepThreads)
    clear_kernel(Steps q, float* to, int64_t width, int64_t stride) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kStepThreads + threadIdx.x;
  if (i >= q.batch * width) return;
  const int64_t b = i / width;
  for (int64_t t = q.length(b); t < q.steps; ++t) to[(t * q.batch + b) * stride + i % width] = 0.f;
}

// The new state of a unit that is shown: zoneout, output, state.
SEQLOOM_DEVICE void show(const Steps& q, const GeneralForwardArgs& a, int64_t s, int64_t b,
                         int64_t u, float fresh) {
  const int64_t P = a.shape.shown, at = (q.time(b, s) * q.batch + b) * P + u;
  const float h = zone_out<CellMath>(kept_share(a, at), a.h_n[b * P + u], fresh);
  a.h_n[b * P + u] = h;
  a.y[at] = h;
}

__global__ void __launch_bounds__(kStepThreads)
    show_kernel(Steps q, GeneralForwardArgs a, int64_t s, const float* fresh) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kStepThreads + threadIdx.x;
  const int64_t P = a.shape.shown, b = i / P;
  if (i < q.batch * P && s < q.length(b)) show(q, a, s, b, i % P, fresh[i]);
}

// The cell of one sequence. products [B, 4 H] = h w_hh^T. m [B, H]: o tanh(c'), for the projection.
__global__ void __launch_bounds__(kRowThreads, 2)
    lstm_step_kernel(Steps q, GeneralForwardArgs a, int64_t s, const float* products, float* m) {
  SHARED_ARRAY(float, scratch, [cuda::kMaxWarps]);
  const int64_t b = blockIdx.x, H = q.units, G = 4 * H;
  if (s >= q.length(b)) return;
  const int t = static_cast<int>(threadIdx.x);
  const int64_t slot = q.time(b, s) * q.batch + b;
  const float *from_h = products + b * G, *from_x = a.gates_x + slot * G;
  const bool normed = a.norm_h != nullptr;
  RowMoments n{0.f, 1.f};
  if (normed) n = row_moments(from_h, G, scratch);
  for (int64_t u = t; u < H; u += kRowThreads) {
    float pre[4];
    for (int k = 0; k < 4; ++k) {
      const int64_t j = k * H + u;
      float p = from_h[j];
      if (normed) {
        if (a.raw != nullptr) a.raw[slot * G + j] = p;
        p = (p - n.mean) * n.rstd * a.norm_h[j];
      }
      pre[k] = from_x[j] + p;
    }
    LstmGates<float> g{pre[0], pre[1], pre[2], pre[3]};
    const float c = lstm_cell<CellMath>(g, peepholes_at(a.peepholes, H, u), a.c_n[b * H + u]);
    a.c_n[b * H + u] = c;
    // With a norm the output gate waits for the whole of c'.
    m[b * H + u] = normed ? g.o : g.o * CellMath::tanh(c);
    if (a.saved == nullptr) continue;
    float* saved = a.saved + slot * G + u;
    saved[0] = g.i;
    saved[H] = g.f;
    saved[2 * H] = g.g;
    saved[3 * H] = g.o;
    a.cells[slot * H + u] = c;
  }
  if (normed) n = row_moments(a.c_n + b * H, H, scratch);  // each thread reads its own units
  for (int64_t u = t; u < H; u += kRowThreads) {           // its own units again
    float fresh = m[b * H + u];
    if (normed)
      fresh *= CellMath::tanh(fmaf((a.c_n[b * H + u] - n.mean) * n.rstd, a.norm_c[u], a.norm_b[u]));
    if (a.w_hr != nullptr)
      m[b * H + u] = fresh;
    else
      show(q, a, s, b, u, fresh);
  }
}

// First half of a GRU's step: r and z into rz [B, 2 H], which held their products; r h into
// `reset`.
__global__ void __launch_bounds__(kStepThreads)
    gru_gates_kernel(Steps q, GeneralForwardArgs a, int64_t s, float* rz, float* reset) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kStepThreads + threadIdx.x;
  const int64_t H = q.units, b = i / H, u = i % H;
  if (i >= q.batch * H || s >= q.length(b)) return;
  const float* from_x = a.gates_x + (q.time(b, s) * q.batch + b) * 3 * H + u;
  float* own = rz + b * 2 * H + u;
  own[0] = CellMath::sigmoid(own[0] + from_x[0]);
  own[H] = CellMath::sigmoid(own[H] + from_x[H]);
  reset[i] = own[0] * a.h_n[i];
}

// Second half. products [B, H] = (r h) w_hn^T.
__global__ void __launch_bounds__(kStepThreads)
    gru_step_kernel(Steps q, GeneralForwardArgs a, int64_t s, const float* rz, const float* reset,
                    const float* products) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kStepThreads + threadIdx.x;
  const int64_t H = q.units, b = i / H, u = i % H;
  if (i >= q.batch * H || s >= q.length(b)) return;
  const int64_t slot = q.time(b, s) * q.batch + b;
  const float n = CellMath::tanh(products[i] + a.gates_x[(slot * 3 + 2) * H + u]);
  const float r = rz[b * 2 * H + u], z = rz[b * 2 * H + H + u];
  const float h = fmaf(z, a.h_n[i] - n, n);
  a.h_n[i] = h;
  a.y[slot * H + u] = h;
  if (a.saved == nullptr) return;
  float* saved = a.saved + slot * 4 * H + u;
  saved[0] = r;
  saved[H] = z;
  saved[2 * H] = n;
  saved[3 * H] = reset[i];
}

// ---- backward -----------------------------------------------------------------------------------

// dh = carry + products (from the step after) + dy, parted by zoneout: what the old state got stays
// in carry, the rest goes to `shown` [B, P] and, where there is one, dshown [T, B, P].
// states [T, B, P]: h before the step. s = -1 hands what is left to the initial state.
__global__ void __launch_bounds__(kStepThreads)
    part_kernel(Steps q, GeneralBackwardArgs a, int64_t s, const float* products, float* carry,
                float* shown, float* states, float* dshown) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kStepThreads + threadIdx.x;
  const GeneralForwardArgs& f = a.forward;
  const int64_t P = f.shape.shown, b = i / P, u = i % P;
  if (i >= q.batch * P || s >= q.length(b)) return;
  float d = carry[i] + (s + 1 < q.length(b) ? products[i] : 0.f);
  if (s < 0) {
    a.dh0[i] = d;
    return;
  }
  const int64_t slot = q.time(b, s) * q.batch + b;
  if (a.dy != nullptr) d += a.dy[slot * P + u];
  const float share = kept_share(f, slot * P + u);
  carry[i] = share * d;
  d *= 1.f - share;
  shown[i] = d;
  if (dshown != nullptr) dshown[slot * P + u] = d;
  float before = f.h0 == nullptr ? 0.f : f.h0[i];
  if (s > 0) before = f.y[(q.time(b, s - 1) * q.batch + b) * P + u];
  states[slot * P + u] = before;
}

struct LstmBackward {
  float* dc;        // [B, H], in and out
  float* gates;     // [B, 4 H]: gradient of w_hh h, for the product
  float* dgates_h;  // [T, B, 4 H]: the same; dgates_x without a norm
  float* hidden;    // [T, B, H]: o tanh(c'), or null
  float* sums;      // [B, 9 H]
};

// The cell of one sequence. dm [B, H]: gradient of o tanh(c').
__global__ void __launch_bounds__(kRowThreads, 2)
    lstm_backward_kernel(Steps q, GeneralBackwardArgs a, LstmBackward w, int64_t s,
                         const float* dm) {
  SHARED_ARRAY(float, scratch, [cuda::kMaxWarps]);
  const int64_t b = blockIdx.x, H = q.units, G = 4 * H;
  if (s >= q.length(b)) return;
  const GeneralForwardArgs& f = a.forward;
  const int t = static_cast<int>(threadIdx.x);
  const int64_t slot = q.time(b, s) * q.batch + b;
  const float *saved = f.saved + slot * G, *cells = f.cells + slot * H;
  const float* c_before = f.c0 == nullptr ? nullptr : f.c0 + b * H;
  if (s > 0) c_before = f.cells + (q.time(b, s - 1) * q.batch + b) * H;
  float *dx = a.dgates_x + slot * G, *sums = w.sums + b * kSumRow * H, *dc = w.dc + b * H;
  const bool normed = f.norm_h != nullptr;
  RowMoments n{0.f, 1.f};
  float mean_d = 0.f, mean_dx = 0.f;
  if (normed) {  // the two means over the gradient of c' normed
    n = row_moments(cells, H, scratch);
    float sum_d = 0.f, sum_dx = 0.f;
    for (int64_t u = t; u < H; u += kRowThreads) {
      const float xhat = (cells[u] - n.mean) * n.rstd;
      float d_o, d;
      lstm_shown_backward<CellMath>(saved[3 * H + u], fmaf(xhat, f.norm_c[u], f.norm_b[u]),
                                    dm[b * H + u], d_o, d);
      sums[kSumNormC * H + u] += d * xhat;
      sums[kSumNormB * H + u] += d;
      sum_d += d * f.norm_c[u];
      sum_dx += d * f.norm_c[u] * xhat;
    }
    mean_d = cuda::block_sum(sum_d, scratch) / static_cast<float>(H);
    mean_dx = cuda::block_sum(sum_dx, scratch) / static_cast<float>(H);
  }
  for (int64_t u = t; u < H; u += kRowThreads) {
    const float xhat = (cells[u] - n.mean) * n.rstd, o = saved[3 * H + u];
    const float carried = normed ? fmaf(xhat, f.norm_c[u], f.norm_b[u]) : cells[u];
    float d_o, d;
    lstm_shown_backward<CellMath>(o, carried, dm[b * H + u], d_o, d);
    if (normed) d = norm_backward<CellMath>(d * f.norm_c[u], xhat, n.rstd, mean_d, mean_dx);
    if (w.hidden != nullptr) w.hidden[slot * H + u] = o * CellMath::tanh(carried);
    const float c = c_before == nullptr ? 0.f : c_before[u];
    LstmGates<float> g{saved[u], saved[H + u], saved[2 * H + u], o};
    dc[u] = lstm_cell_backward<CellMath>(g, peepholes_at(f.peepholes, H, u), c, d_o, dc[u] + d);
    const float gates[4] = {g.i, g.f, g.g, g.o};
    for (int k = 0; k < 4; ++k) {
      dx[k * H + u] = gates[k];
      if (!normed) w.gates[b * G + k * H + u] = gates[k];
    }
    if (a.dpeepholes == nullptr) continue;
    sums[kSumPeepholes * H + u] += g.i * c;
    sums[(kSumPeepholes + 1) * H + u] += g.f * c;
    sums[(kSumPeepholes + 2) * H + u] += g.o * cells[u];
  }
  if (!normed) return;
  // Through the norm of the product.
  const float* raw = f.raw + slot * G;
  n = row_moments(raw, G, scratch);  // its barriers part the units above from the gates below
  float sum_d = 0.f, sum_dx = 0.f;
  for (int64_t j = t; j < G; j += kRowThreads) {
    const float xhat = (raw[j] - n.mean) * n.rstd, d = dx[j];
    sums[kSumNormH * H + j] += d * xhat;
    sum_d += d * f.norm_h[j];
    sum_dx += d * f.norm_h[j] * xhat;
  }
  mean_d = cuda::block_sum(sum_d, scratch) / static_cast<float>(G);
  mean_dx = cuda::block_sum(sum_dx, scratch) / static_cast<float>(G);
  for (int64_t j = t; j < G; j += kRowThreads) {
    const float xhat = (raw[j] - n.mean) * n.rstd;
    const float d = norm_backward<CellMath>(dx[j] * f.norm_h[j], xhat, n.rstd, mean_d, mean_dx);
    w.gates[b * G + j] = d;
    w.dgates_h[slot * G + j] = d;
  }
}

// First half of a GRU's step backwards: z and n from dh; dn [B, H] goes to the product with w_hn.
__global__ void __launch_bounds__(kStepThreads)
    gru_backward_kernel(Steps q, GeneralBackwardArgs a, int64_t s, const float* states,
                        float* carry, float* gates, float* dn) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kStepThreads + threadIdx.x;
  const int64_t H = q.units, b = i / H, u = i % H;
  if (i >= q.batch * H || s >= q.length(b)) return;
  const int64_t slot = q.time(b, s) * q.batch + b;
  const float* saved = a.forward.saved + slot * 4 * H + u;
  float dz, d;
  carry[i] +=
      gru_first_backward<CellMath>(saved[H], saved[2 * H], states[slot * H + u], dn[i], dz, d);
  gates[b * 2 * H + H + u] = dz;
  a.dgates_x[(slot * 3 + 1) * H + u] = dz;
  a.dgates_x[(slot * 3 + 2) * H + u] = d;
  dn[i] = d;
}

// Second half. dq [B, H] = dn w_hn.
__global__ void __launch_bounds__(kStepThreads)
    gru_reset_kernel(Steps q, GeneralBackwardArgs a, int64_t s, const float* states, float* carry,
                     float* gates, const float* dq) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kStepThreads + threadIdx.x;
  const int64_t H = q.units, b = i / H, u = i % H;
  if (i >= q.batch * H || s >= q.length(b)) return;
  const int64_t slot = q.time(b, s) * q.batch + b;
  const float r = a.forward.saved[slot * 4 * H + u];
  const float dr = gru_reset_backward<CellMath>(r, states[slot * H + u], dq[i]);
  carry[i] += dq[i] * r;
  gates[b * 2 * H + u] = dr;
  a.dgates_x[slot * 3 * H + u] = dr;
}

// ---- launches -----------------------------------------------------------------------------------

template <class... Params, class... Args>
void launch_rows(int64_t rows, void (*kernel)(Params...), Args&&... args) {
  if (rows == 0) return;
  cuda::LaunchConfig c;
  c.grid = dim3(static_cast<unsigned>(rows));
  c.block = dim3(kRowThreads);
  cuda::launch(kernel, c, std::forward<Args>(args)...);
}

std::size_t bytes(int64_t floats) { return static_cast<std::size_t>(floats) * sizeof(float); }

// Zeros in the rows of sequences that a step leaves out: what multiplies them is not used, but
// read.
void clear(float* p, int64_t floats) {
  if (floats > 0) cuda::fill_bytes(p, 0, bytes(floats), cuda::current_stream());
}

}  // namespace

void rnn_general_forward_cuda(const GeneralForwardArgs& a) {
  const GeneralShape& shape = a.shape;
  const int64_t B = shape.batch, H = shape.units, P = shape.shown;
  const int64_t G = gate_count(shape.cell) * H, last = longest(shape.lengths, B, shape.steps);
  const DeviceLengths lengths(shape.lengths, B);
  const Steps q{shape.steps, B, H, lengths.get(), shape.reverse};
  const cuda::Workspace product_memory(bytes(B * G)), hidden_memory(bytes(B * H));
  const cuda::Workspace second_memory(bytes(B * (P > H ? P : H)));
  float *products = product_memory.as<float>(), *hidden = hidden_memory.as<float>();
  float* second = second_memory.as<float>();
  clear(hidden, B * H);
  launch_over(B * P, begin_kernel, a.h0, a.h_n, B * P);
  if (a.c_n != nullptr) launch_over(B * H, begin_kernel, a.c0, a.c_n, B * H);
  if (shape.lengths != nullptr) {
    launch_over(B * P, clear_kernel, q, a.y, P, P);
    // An operand of a weight gradient, where zeros meet it.
    if (shape.cell == CellKind::kGru && a.saved != nullptr)
      launch_over(B * H, clear_kernel, q, a.saved + 3 * H, H, 4 * H);
  }
  for (int64_t s = 0; s < last; ++s) {
    if (shape.cell == CellKind::kLstm) {
      product({a.h_n}, {a.w_hh, true}, products, B, G, P);
      launch_rows(B, lstm_step_kernel, q, a, s, products, hidden);
      if (a.w_hr == nullptr) continue;
      product({hidden}, {a.w_hr, true}, second, B, P, H);
      launch_over(B * P, show_kernel, q, a, s, second);
    } else {
      product({a.h_n}, {a.w_hh, true}, products, B, 2 * H, H);
      launch_over(B * H, gru_gates_kernel, q, a, s, products, hidden);
      product({hidden}, {a.w_hh + 2 * H * H, true}, second, B, H, H);
      launch_over(B * H, gru_step_kernel, q, a, s, products, hidden, second);
    }
  }
}

void rnn_general_backward_cuda(const GeneralBackwardArgs& a) {
  const GeneralForwardArgs& f = a.forward;
  const GeneralShape& shape = f.shape;
  const bool lstm = shape.cell == CellKind::kLstm, normed = f.norm_h != nullptr;
  const bool projected = f.w_hr != nullptr;
  const int64_t B = shape.batch, H = shape.units, P = shape.shown, slots = shape.steps * B;
  const int64_t G = gate_count(shape.cell) * H, last = longest(shape.lengths, B, shape.steps);
  const int64_t row = kSumRow * H;
  const DeviceLengths lengths(shape.lengths, B);
  const Steps q{shape.steps, B, H, lengths.get(), shape.reverse};
  const cuda::Workspace carry_memory(bytes(B * P)), product_memory(bytes(B * P));
  const cuda::Workspace shown_memory(bytes(B * P)), middle_memory(bytes(B * H));
  const cuda::Workspace gate_memory(bytes(B * G)), sum_memory(bytes(lstm ? B * row : 0));
  const cuda::Workspace state_memory(bytes(slots * P)), own(bytes(normed ? slots * G : 0));
  const cuda::Workspace dshown_memory(bytes(projected ? slots * P : 0));
  const cuda::Workspace hidden_memory(bytes(projected ? slots * H : 0));
  float *carry = carry_memory.as<float>(), *products = product_memory.as<float>();
  float *shown = shown_memory.as<float>(), *middle = middle_memory.as<float>();
  float *gates = gate_memory.as<float>(), *sums = sum_memory.as<float>();
  float *states = state_memory.as<float>(), *dshown = dshown_memory.as<float>();
  LstmBackward w{a.dc0, gates, normed ? own.as<float>() : a.dgates_x, hidden_memory.as<float>(),
                 sums};
  launch_over(B * P, begin_kernel, a.dh_n, carry, B * P);
  if (lstm) launch_over(B * H, begin_kernel, a.dc_n, a.dc0, B * H);
  clear(gates, B * G);
  clear(shown, B * P);
  if (lstm) clear(sums, B * row);
  if (shape.lengths != nullptr) {  // slots past a length add nothing to any sum
    launch_over(B * G, clear_kernel, q, a.dgates_x, G, G);
    launch_over(B * P, clear_kernel, q, states, P, P);
    if (normed) launch_over(B * G, clear_kernel, q, w.dgates_h, G, G);
    if (projected) launch_over(B * P, clear_kernel, q, dshown, P, P);
    if (projected) launch_over(B * H, clear_kernel, q, w.hidden, H, H);
  }
  for (int64_t s = last - 1; s >= 0; --s) {
    launch_over(B * P, part_kernel, q, a, s, products, carry, shown, states, dshown);
    if (lstm) {
      if (projected) product({shown}, {f.w_hr}, middle, B, H, P);
      launch_rows(B, lstm_backward_kernel, q, a, w, s, projected ? middle : shown);
      product({gates}, {f.w_hh}, products, B, P, G);
    } else {
      launch_over(B * H, gru_backward_kernel, q, a, s, states, carry, gates, shown);
      product({shown}, {f.w_hh + 2 * H * H}, middle, B, H, H);
      launch_over(B * H, gru_reset_kernel, q, a, s, states, carry, gates, middle);
      product({gates}, {f.w_hh}, products, B, H, 2 * H);
    }
  }
  launch_over(B * P, part_kernel, q, a, int64_t{-1}, products, carry, shown, states, dshown);
  if (a.dw_hh != nullptr && lstm) {
    product({w.dgates_h, true}, {states}, a.dw_hh, G, P, slots);
  } else if (a.dw_hh != nullptr) {
    product({a.dgates_x, true, G}, {states}, a.dw_hh, 2 * H, H, slots);
    product({a.dgates_x + 2 * H, true, G}, {f.saved + 3 * H, false, 4 * H}, a.dw_hh + 2 * H * H, H,
            H, slots);
  }
  if (a.dw_hr != nullptr) product({dshown, true}, {w.hidden}, a.dw_hr, P, H, slots);
  const auto sum = [&](int64_t first, int64_t n, float* to) {
    if (to != nullptr) launch_over(n, column_sums_kernel<float>, sums + first * H, B, n, row, to);
  };
  sum(kSumNormH, 4 * H, a.dnorm_h);
  sum(kSumNormC, H, a.dnorm_c);
  sum(kSumNormB, H, a.dnorm_b);
  sum(kSumPeepholes, 3 * H, a.dpeepholes);
}

}  // namespace seqloom::ops
