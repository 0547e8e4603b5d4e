// SPDX-License-Identifier: Apache-2.0
// The recurrence on CUDA, step by step: right for every shape. It prefers the persistent kernel
// (rnn_cuda_persistent.cu) where the weights fit on the chip.
//
// The input's share of all gates is one product over all steps, of 16-bit operands where they are;
// each step is one product of the states with w_hh and one launch of the cell's equations, in
// float32. Sequences that have ended are masked: lengths are given to the kernels, and a step's
// products cost the whole batch.
#include "ops/rnn/rnn_cuda_launch.h"

namespace seqloom::ops {
namespace {

// The initial states; outputs past the lengths are cleared.
__global__ void __launch_bounds__(kStepThreads)
    begin_kernel(Steps q, RnnForwardArgs a, float* h, float* c) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kStepThreads + threadIdx.x;
  if (i >= q.batch * q.units) return;
  const int64_t b = i / q.units;
  const float h0 = at_or_zero(a.h0, i), c0 = at_or_zero(a.c0, i);
  h[i] = h0;
  c[i] = c0;
  for (int64_t t = q.length(b); t < q.steps; ++t)
    static_cast<float*>(a.y)[t * q.batch * q.units + i] = 0.f;
  if (q.length(b) == 0) {
    static_cast<float*>(a.h_n)[i] = h0;
    if (a.c_n != nullptr) static_cast<float*>(a.c_n)[i] = c0;
  }
}

// One step: products [B, G H] = h w_hh^T, and the cell of every unit that still runs.
template <CellKind kKind, bool kPeepholes>
__global__ void __launch_bounds__(kStepThreads)
    step_kernel(Steps q, RnnForwardArgs a, int64_t s, const float* gates_x, const float* products,
                float* h, float* c) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kStepThreads + threadIdx.x;
  if (i >= q.batch * q.units) return;
  constexpr int kGates = gate_count(kKind);
  const int64_t H = q.units, b = i / H, unit = i % H, n = q.length(b);
  if (s >= n) return;
  const float* gx = gates_x + (q.time(b, s) * q.batch + b) * kGates * H + unit;
  const float* gh = products + b * kGates * H + unit;
  float from_x[kGates], from_h[kGates];
  for (int g = 0; g < kGates; ++g) {
    from_x[g] = gx[g * H];
    from_h[g] = gh[g * H];
  }
  h[i] = cell_step<kKind, kPeepholes>(q, a, s, b, unit, from_x, from_h, h[i], c[i]);
}

// The steps of a float32 layer, in one launch or one by one.
template <CellKind kKind, bool kPeepholes>
void run_steps(const RnnForwardArgs& a, const Steps& q, DType state, int64_t last,
               const float* gates_x, float* h, float* c) {
  if (rnn_forward_persistent(a, q, state, last, gates_x, h, c)) return;
  const int64_t B = q.batch, H = q.units, G = gate_count(kKind) * H;
  const cuda::Workspace products(static_cast<std::size_t>(B * G) * sizeof(float));
  for (int64_t s = 0; s < last; ++s) {
    product({h}, {a.weights.w_hh, true}, products.as<float>(), B, G, H);
    launch_over(B * H, step_kernel<kKind, kPeepholes>, q, a, s, gates_x, products.as<float>(), h,
                c);
  }
}

template <class... Args>
void run_cell(const RnnForwardArgs& a, Args... args) {
  switch (a.shape.cell) {
    case CellKind::kTanh:
      return run_steps<CellKind::kTanh, false>(a, args...);
    case CellKind::kRelu:
      return run_steps<CellKind::kRelu, false>(a, args...);
    case CellKind::kGru:
      return run_steps<CellKind::kGru, false>(a, args...);
    case CellKind::kLstm:
      if (a.weights.peepholes != nullptr) return run_steps<CellKind::kLstm, true>(a, args...);
      return run_steps<CellKind::kLstm, false>(a, args...);
  }
}

template <class T>
void forward(const RnnForwardArgs& a) {
  const RnnShape& s = a.shape;
  const int64_t all = s.batch * s.units, G = gate_count(s.cell) * s.units;
  const int64_t rows = s.steps * s.batch;
  const Widened<T> h0(a.h0, all), c0(a.c0, all), w_hh(a.weights.w_hh, G * s.units);
  const Widened<T> b_ih(a.weights.b_ih, G), b_hh(a.weights.b_hh, G);
  const Widened<T> peepholes(a.weights.peepholes, 3 * s.units);
  const Narrowed<T> y(a.y, s.steps * all), h_n(a.h_n, all), c_n(a.c_n, all);
  RnnForwardArgs w = a;
  w.h0 = h0.get();
  w.c0 = c0.get();
  w.weights = {nullptr, w_hh.get(), b_ih.get(), b_hh.get(), peepholes.get()};
  w.y = y.get();
  w.h_n = h_n.get();
  w.c_n = c_n.get();
  const DeviceLengths lengths(s.lengths, s.batch);
  const Steps q{s.steps, s.batch, s.units, lengths.get(), s.reverse};
  const auto bytes = [](int64_t n) { return static_cast<std::size_t>(n) * sizeof(float); };
  const cuda::Workspace gates_x(bytes(rows * G)), h(bytes(all)), c(bytes(all));
  launch_over(all, begin_kernel, q, w, h.as<float>(), c.as<float>());
  const int64_t last = longest(s.lengths, s.batch, s.steps);
  if (last > 0) {
    product({a.x}, {a.weights.w_ih, true}, gates_x.as<float>(), rows, G, s.inputs, s.dtype, true);
    run_cell(w, q, s.dtype, last, gates_x.as<float>(), h.as<float>(), c.as<float>());
  }
  y.finish();
  h_n.finish();
  c_n.finish();
}

}  // namespace

void rnn_forward_cuda(const RnnForwardArgs& a) {
  switch (a.shape.dtype) {
    case DType::kFloat16:
      return forward<cuda::Half>(a);
    case DType::kBFloat16:
      return forward<cuda::BFloat16>(a);
    default:
      return forward<float>(a);
  }
}

}  // namespace seqloom::ops
