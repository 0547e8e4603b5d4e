// SPDX-License-Identifier: Apache-2.0
// Backward recurrence on CUDA, step by step: right for every shape. It prefers the persistent
// kernel (rnn_backward_cuda_persistent.cu) where the weights fit on the chip.
//
// The steps, in float32, leave the gradients of all gates. The gradients of weights and inputs are
// products over all steps at once, of 16-bit operands where the layer is of 16 bits. Sequences that
// have not begun, seen backwards, are masked.
#include "ops/rnn/rnn_cuda_launch.h"

namespace seqloom::ops {
namespace {

// carry = dh_n, dc = dc_n, and zeros where no step writes.
__global__ void __launch_bounds__(kStepThreads)
    begin_backward_kernel(Steps q, RnnBackwardArgs a, GateGradients to, int64_t gates, float* carry,
                          float* dc) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kStepThreads + threadIdx.x;
  const int64_t H = q.units, all = q.batch * H;
  if (i >= all) return;
  const int64_t b = i / H, unit = i % H;
  carry[i] = at_or_zero(a.dh_n, i);
  dc[i] = at_or_zero(a.dc_n, i);
  if (to.peep_terms != nullptr)
    for (int k = 0; k < 3; ++k) to.peep_terms[k * all + i] = 0.f;
  for (int64_t t = q.length(b); t < q.steps; ++t) {
    const int64_t slot = t * q.batch + b;
    for (int64_t k = 0; k < gates; ++k) {
      to.gates_x[(slot * gates + k) * H + unit] = 0.f;
      if (to.gates_h != to.gates_x) to.gates_h[(slot * gates + k) * H + unit] = 0.f;
    }
  }
}

// One step backwards. `products` [B, H] is what the next step's gates send to h; `step_gates` are
// the gradients that the product with w_hh takes for the step before. s = -1 hands what is left to
// the initial states.
template <CellKind kKind, bool kPeepholes>
__global__ void __launch_bounds__(kStepThreads)
    step_backward_kernel(Steps q, RnnBackwardArgs a, GateGradients to, int64_t s,
                         const float* products, float* carry, float* dc, float* step_gates) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kStepThreads + threadIdx.x;
  if (i >= q.batch * q.units) return;
  constexpr int kGates = gate_count(kKind);
  const int64_t H = q.units, b = i / H, unit = i % H, n = q.length(b);
  float to_h[kGates] = {};
  if (s < n) {
    const float dh = carry[i] + (s + 1 < n ? products[i] : 0.f);
    if (s < 0) {
      static_cast<float*>(a.dh0)[i] = dh;
      if (kKind == CellKind::kLstm) static_cast<float*>(a.dc0)[i] = dc[i];
      return;
    }
    const StepInputs in = load_step<kKind>(q, a, s, b, unit);
    carry[i] = cell_step_backward<kKind, kPeepholes>(q, a, to, in, s, b, unit, dh, dc[i], to_h);
  }
  // Zeros of a sequence that has not begun.
  for (int k = 0; k < kGates; ++k) step_gates[(b * kGates + k) * H + unit] = to_h[k];
}

// states [T, B, H]: h before each step, zeros past the lengths.
template <class T>
__global__ void __launch_bounds__(kStepThreads)
    states_kernel(Steps q, const T* y, const T* h0, T* states) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kStepThreads + threadIdx.x;
  const int64_t all = q.batch * q.units;
  if (i >= q.steps * all) return;
  const int64_t t = i / all, b = i % all / q.units, n = q.length(b);
  const int64_t s = q.reverse ? n - 1 - t : t;
  T h = cuda::from_float<T>(0.f);
  if (t < n && s > 0)
    h = y[q.time(b, s - 1) * all + i % all];
  else if (t < n && h0 != nullptr)
    h = h0[i % all];
  states[i] = h;
}

// The steps of a float32 layer, in one launch or one by one.
template <CellKind kKind, bool kPeepholes>
void run_steps(const RnnBackwardArgs& a, const Steps& q, DType state, int64_t last,
               const GateGradients& to, float* carry, float* dc) {
  if (last > 0 && rnn_backward_persistent(a, q, state, last, to, carry, dc)) return;
  const int64_t B = q.batch, H = q.units, G = gate_count(kKind) * H;
  const auto bytes = [](int64_t n) { return static_cast<std::size_t>(n) * sizeof(float); };
  const cuda::Workspace products(bytes(B * H)), step_gates(bytes(B * G));
  for (int64_t s = last - 1; s >= -1; --s) {
    if (s + 1 < last)
      product({step_gates.as<float>()}, {a.forward.weights.w_hh}, products.as<float>(), B, H, G);
    launch_over(B * H, step_backward_kernel<kKind, kPeepholes>, q, a, to, s, products.as<float>(),
                carry, dc, step_gates.as<float>());
  }
}

template <class... Args>
void run_cell(const RnnBackwardArgs& a, Args... args) {
  switch (a.forward.shape.cell) {
    case CellKind::kTanh:
      return run_steps<CellKind::kTanh, false>(a, args...);
    case CellKind::kRelu:
      return run_steps<CellKind::kRelu, false>(a, args...);
    case CellKind::kGru:
      return run_steps<CellKind::kGru, false>(a, args...);
    case CellKind::kLstm:
      if (a.forward.weights.peepholes != nullptr)
        return run_steps<CellKind::kLstm, true>(a, args...);
      return run_steps<CellKind::kLstm, false>(a, args...);
  }
}

void sum_columns(const float* x, int64_t rows, int64_t columns, float* out) {
  if (out == nullptr) return;
  const cuda::Workspace partial(static_cast<std::size_t>(column_sum_blocks(rows) * columns) *
                                sizeof(float));
  column_sum_cuda({x, out, partial.as<float>(), rows, columns, DType::kFloat32});
}

template <class T>
void backward(const RnnBackwardArgs& a) {
  const RnnForwardArgs& f = a.forward;
  const RnnShape& s = f.shape;
  const bool two = s.cell == CellKind::kGru;  // the shares of x and h differ
  const bool gated = saved_count(s.cell) > 0, reads_y = two || (!gated && f.saved == nullptr);
  const int64_t all = s.batch * s.units, slots = s.steps * s.batch;
  const int64_t gates = gate_count(s.cell), G = gates * s.units;
  const auto bytes = [](int64_t n, std::size_t each) { return static_cast<std::size_t>(n) * each; };

  const Widened<T> h0(f.h0, all), c0(f.c0, all), w_hh(f.weights.w_hh, G * s.units);
  const Widened<T> peepholes(f.weights.peepholes, 3 * s.units), y(f.y, reads_y ? s.steps * all : 0);
  const Widened<T> dy(a.dy, s.steps * all), dh_n(a.dh_n, all), dc_n(a.dc_n, all);
  const Narrowed<T> dh0(a.dh0, all), dc0(a.dc0, all);
  RnnBackwardArgs w = a;
  w.forward.h0 = h0.get();
  w.forward.c0 = c0.get();
  w.forward.weights = {nullptr, w_hh.get(), nullptr, nullptr, peepholes.get()};
  w.forward.y = const_cast<float*>(y.get());  // read only
  w.dy = dy.get();
  w.dh_n = dh_n.get();
  w.dc_n = dc_n.get();
  w.dh0 = dh0.get();
  w.dc0 = dc0.get();

  const DeviceLengths lengths(s.lengths, s.batch);
  const Steps q{s.steps, s.batch, s.units, lengths.get(), s.reverse};
  const cuda::Workspace carry(bytes(all, 4)), dc(bytes(all, 4)), own_x(bytes(slots * G, 4));
  const cuda::Workspace own_h(bytes(two ? slots * G : 0, 4));
  const cuda::Workspace peep(bytes(a.dpeepholes != nullptr ? 3 * all : 0, 4));
  const GateGradients to{own_x.as<float>(), two ? own_h.as<float>() : own_x.as<float>(),
                         peep.as<float>()};
  launch_over(all, begin_backward_kernel, q, w, to, gates, carry.as<float>(), dc.as<float>());
  run_cell(w, q, s.dtype, longest(s.lengths, s.batch, s.steps), to, carry.as<float>(),
           dc.as<float>());
  dh0.finish();
  dc0.finish();

  // Over all steps at once.
  constexpr bool kRounds = sizeof(T) != sizeof(float);
  const cuda::Workspace narrow_x(kRounds ? bytes(slots * G, sizeof(T)) : 0);
  const cuda::Workspace narrow_h(kRounds && two ? bytes(slots * G, sizeof(T)) : 0);
  const void *gates_x = to.gates_x, *gates_h = to.gates_h;
  if constexpr (kRounds) {
    launch_over(slots * G, narrow_kernel<T>, to.gates_x, narrow_x.as<T>(), slots * G);
    if (two) launch_over(slots * G, narrow_kernel<T>, to.gates_h, narrow_h.as<T>(), slots * G);
    gates_x = narrow_x.as<T>();
    gates_h = two ? narrow_h.as<T>() : narrow_x.as<T>();
  }
  if (a.dw_ih != nullptr) product({gates_x, true}, {f.x}, a.dw_ih, G, s.inputs, slots, s.dtype);
  if (a.dw_hh != nullptr) {
    const cuda::Workspace states(bytes(slots * s.units, sizeof(T)));
    launch_over(slots * s.units, states_kernel<T>, q, static_cast<const T*>(f.y),
                static_cast<const T*>(f.h0), states.as<T>());
    product({gates_h, true}, {states.as<T>()}, a.dw_hh, G, s.units, slots, s.dtype);
  }
  if (a.dx != nullptr) product({gates_x}, {f.weights.w_ih}, a.dx, slots, s.inputs, G, s.dtype);
  sum_columns(to.gates_x, slots, G, a.db_ih);
  sum_columns(to.gates_h, slots, G, a.db_hh);
  if (a.dpeepholes != nullptr)
    for (int64_t k = 0; k < 3; ++k)
      launch_over(s.units, column_sums_kernel<float>, peep.as<float>() + k * all, s.batch, s.units,
                  s.units, a.dpeepholes + k * s.units);
}

}  // namespace

void rnn_backward_cuda(const RnnBackwardArgs& a) {
  switch (a.forward.shape.dtype) {
    case DType::kFloat16:
      return backward<cuda::Half>(a);
    case DType::kBFloat16:
      return backward<cuda::BFloat16>(a);
    default:
      return backward<float>(a);
  }
}

}  // namespace seqloom::ops
