// SPDX-License-Identifier: Apache-2.0
// The recurrence on CUDA, step by step: right for every shape. Forward prefers the persistent
// kernel (rnn_cuda_persistent.cu) where the weights fit on the chip.
//
// The input's share of all gates is one product over all steps; each step is one product of the
// states with w_hh and one launch of the cell's equations. Backward runs the same steps in reverse
// and ends with a few large products. Sequences that have ended, or not begun, are masked: lengths
// are given to the kernels, and a step's products cost the whole batch.
#include "ops/rnn/rnn_cuda.h"

#include "ops/matmul/matmul.h"

namespace seqloom::ops {
namespace {

constexpr int kThreads = 128;

// The initial states in float32; outputs past the lengths are cleared.
template <class T>
__global__ void __launch_bounds__(kThreads)
    begin_kernel(Steps q, RnnForwardArgs a, float* h, float* c) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= q.batch * q.units) return;
  const int64_t b = i / q.units;
  const float h0 = at_or_zero<T>(a.h0, i), c0 = at_or_zero<T>(a.c0, i);
  h[i] = h0;
  if (c != nullptr) c[i] = c0;
  for (int64_t t = q.length(b); t < q.steps; ++t)
    static_cast<T*>(a.y)[t * q.batch * q.units + i] = cuda::from_float<T>(0.f);
  if (q.length(b) == 0) {
    static_cast<T*>(a.h_n)[i] = cuda::from_float<T>(h0);
    if (a.c_n != nullptr) static_cast<T*>(a.c_n)[i] = cuda::from_float<T>(c0);
  }
}

// One step: products [B, G H] = h w_hh^T, and the cell of every unit that still runs.
template <class T, CellKind kKind, bool kPeepholes>
__global__ void __launch_bounds__(kThreads)
    step_kernel(Steps q, RnnForwardArgs a, int64_t s, const float* gates_x, const float* products,
                float* h, float* c) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
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
  h[i] = cell_step<T, kKind, kPeepholes>(q, a, s, b, unit, from_x, from_h, h[i], c[i]);
}

// One step backwards. `products` [B, H] is what the next step's gates send to h; `step_gates` are
// the gradients that the product with w_hh takes for the step before; gates_x and gates_h those of
// the weight gradients. s = -1 hands what is left to the initial states.
template <class T, CellKind kKind, bool kPeepholes>
__global__ void __launch_bounds__(kThreads)
    step_backward_kernel(Steps q, RnnBackwardArgs a, int64_t s, const float* products, float* carry,
                         float* dc, float* step_gates, T* gates_x, T* gates_h, T* states,
                         float* peep_terms) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= q.batch * q.units) return;
  constexpr int kGates = gate_count(kKind);
  const int64_t H = q.units, b = i / H, unit = i % H, n = q.length(b);
  const RnnForwardArgs& f = a.forward;
  if (s >= n) {  // has not begun, seen backwards: nothing for the product, zeros in the sums
    for (int g = 0; g < kGates; ++g) step_gates[b * kGates * H + g * H + unit] = 0.f;
    return;
  }
  const float from_next = s + 1 < n ? products[i] : 0.f;
  float dh = carry[i] + from_next;
  if (s < 0) {
    static_cast<T*>(a.dh0)[i] = cuda::from_float<T>(dh);
    if (kKind == CellKind::kLstm) static_cast<T*>(a.dc0)[i] = cuda::from_float<T>(dc[i]);
    return;
  }
  const int64_t slot = q.time(b, s) * q.batch + b;
  const int64_t before = s > 0 ? q.time(b, s - 1) * q.batch + b : 0;
  dh += at_or_zero<T>(a.dy, slot * H + unit);
  const float h = s > 0 ? cuda::to_float(static_cast<const T*>(f.y)[before * H + unit])
                        : at_or_zero<T>(f.h0, i);
  states[slot * H + unit] = cuda::from_float<T>(h);
  const float* saved = f.saved + slot * 4 * H + unit;
  float to_x[kGates], to_h[kGates];
  float direct = 0.f;
  if constexpr (kKind == CellKind::kLstm) {
    LstmGates<float> g{saved[0], saved[H], saved[2 * H], saved[3 * H]};
    Peepholes<float> p{0.f, 0.f, 0.f};
    if (kPeepholes)
      p = {at_or_zero<T>(f.weights.peepholes, unit), at_or_zero<T>(f.weights.peepholes, H + unit),
           at_or_zero<T>(f.weights.peepholes, 2 * H + unit)};
    const float c = s > 0 ? f.cells[before * H + unit] : at_or_zero<T>(f.c0, i);
    const float c_new = f.cells[slot * H + unit];
    float dc_before;
    lstm_backward<CellMath, kPeepholes>(g, p, c, c_new, dh, dc[i], dc_before);
    dc[i] = dc_before;
    const float d[4] = {g.i, g.f, g.g, g.o};
    for (int k = 0; k < 4; ++k) to_x[k] = to_h[k] = d[k];
    if (kPeepholes && peep_terms != nullptr) {
      peep_terms[i] += g.i * c;
      peep_terms[q.batch * H + i] += g.f * c;
      peep_terms[2 * q.batch * H + i] += g.o * c_new;
    }
  } else if constexpr (kKind == CellKind::kGru) {
    GruGates<float> g{saved[0], saved[H], saved[2 * H], saved[3 * H]};
    gru_backward<CellMath>(g, h, dh, direct);
    to_x[0] = to_h[0] = g.r;
    to_x[1] = to_h[1] = g.z;
    to_x[2] = g.n;
    to_h[2] = g.q;
  } else {
    const float out = f.saved != nullptr
                          ? f.saved[slot * H + unit]
                          : cuda::to_float(static_cast<const T*>(f.y)[slot * H + unit]);
    to_x[0] = to_h[0] = plain_backward<CellMath, kKind == CellKind::kRelu>(out, dh);
  }
  carry[i] = direct;
  for (int k = 0; k < kGates; ++k) {
    step_gates[b * kGates * H + k * H + unit] = to_h[k];
    gates_x[(slot * kGates + k) * H + unit] = cuda::from_float<T>(to_x[k]);
    if (gates_h != gates_x) gates_h[(slot * kGates + k) * H + unit] = cuda::from_float<T>(to_h[k]);
  }
}

// carry = dh_n, dc = dc_n, and zeros where no step writes.
template <class T>
__global__ void __launch_bounds__(kThreads)
    begin_backward_kernel(Steps q, RnnBackwardArgs a, int64_t gates, float* carry, float* dc,
                          T* gates_x, T* gates_h, T* states, float* peep_terms) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t H = q.units, all = q.batch * H;
  if (i >= all) return;
  const int64_t b = i / H, unit = i % H;
  carry[i] = at_or_zero<T>(a.dh_n, i);
  if (dc != nullptr) dc[i] = at_or_zero<T>(a.dc_n, i);
  if (peep_terms != nullptr)
    for (int k = 0; k < 3; ++k) peep_terms[k * all + i] = 0.f;
  for (int64_t t = q.length(b); t < q.steps; ++t) {
    const int64_t slot = t * q.batch + b;
    states[slot * H + unit] = cuda::from_float<T>(0.f);
    for (int64_t k = 0; k < gates; ++k) {
      gates_x[(slot * gates + k) * H + unit] = cuda::from_float<T>(0.f);
      if (gates_h != gates_x) gates_h[(slot * gates + k) * H + unit] = cuda::from_float<T>(0.f);
    }
  }
}

// out[j] = sum over rows of x[row][j], in order.
template <class T>
__global__ void __launch_bounds__(kThreads)
    column_sums_kernel(const T* x, int64_t rows, int64_t n, float* out) {
  const int64_t j = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (j >= n) return;
  float s = 0.f;
  for (int64_t r = 0; r < rows; ++r) s += cuda::to_float(x[r * n + j]);
  out[j] = s;
}

template <class T>
__global__ void __launch_bounds__(kThreads) widen_kernel(const T* x, float* out, int64_t n) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < n) out[i] = cuda::to_float(x[i]);
}

// A thread for each of `elements`.
template <class... Params, class... Args>
void launch_over(int64_t elements, void (*kernel)(Params...), Args&&... args) {
  if (elements == 0) return;
  cuda::LaunchConfig c;
  c.grid = dim3(static_cast<unsigned>((elements + kThreads - 1) / kThreads));
  c.block = dim3(kThreads);
  cuda::launch(kernel, c, std::forward<Args>(args)...);
}

// C [m, n] = A [m, k] B, row-major; trans_b: B is [n, k]; trans_a: A is [k, m].
void product(const void* a, bool trans_a, const void* b, bool trans_b, const void* bias, void* c,
             int64_t m, int64_t n, int64_t k, DType dtype) {
  if (m == 0 || n == 0) return;
  ProductArgs p{};
  p.a = a;
  p.b = b;
  p.c = c;
  p.bias = bias;
  p.m = m;
  p.n = n;
  p.k = k;
  p.batch = 1;
  p.lda = trans_a ? m : k;
  p.ldb = trans_b ? k : n;
  p.ldc = n;
  p.trans_a = trans_a;
  p.trans_b = trans_b;
  p.epilogue = Epilogue::kNone;
  p.dtype = dtype;
  product_cuda(p);
}

// The lengths in device memory for the time of a call.
class DeviceLengths {
 public:
  explicit DeviceLengths(const RnnShape& s)
      : memory_(s.lengths == nullptr ? 0 : static_cast<std::size_t>(s.batch) * sizeof(int64_t)) {
    if (s.lengths != nullptr)
      cuda::copy_to_device(memory_.as<int64_t>(), s.lengths,
                           static_cast<std::size_t>(s.batch) * sizeof(int64_t),
                           cuda::current_stream());
  }
  const int64_t* get() const { return memory_.as<const int64_t>(); }

 private:
  cuda::Workspace memory_;
};

int64_t longest(const RnnShape& s) {
  if (s.lengths == nullptr) return s.steps;
  int64_t n = 0;
  for (int64_t b = 0; b < s.batch; ++b) n = s.lengths[b] > n ? s.lengths[b] : n;
  return n;
}

// `state`: the type that the caller's weights and states had, before they were widened.
template <class T, CellKind kKind, bool kPeepholes>
void forward(const RnnForwardArgs& a, DType state) {
  const RnnShape& s = a.shape;
  constexpr int64_t kGates = gate_count(kKind);
  const int64_t all = s.batch * s.units, G = kGates * s.units;
  const DeviceLengths lengths(s);
  const Steps q{s.steps, s.batch, s.units, lengths.get(), s.reverse};
  const auto bytes = [](int64_t n, std::size_t each) { return static_cast<std::size_t>(n) * each; };
  const cuda::Workspace gates_x(bytes(s.steps * s.batch * G, 4));
  // The state, and its products, stay in float32, whatever the weights are.
  const cuda::Workspace products(bytes(s.batch * G, 4)), w_hh(bytes(G * s.units, 4));
  const cuda::Workspace h(bytes(all, 4)), c(bytes(all, 4));
  launch_over(G * s.units, widen_kernel<T>, static_cast<const T*>(a.weights.w_hh), w_hh.as<float>(),
              G * s.units);
  launch_over(all, begin_kernel<T>, q, a, h.as<float>(), c.as<float>());
  const int64_t last = longest(s);
  if (last == 0) return;
  const int64_t rows = s.steps * s.batch;
  if (s.dtype == DType::kFloat32) {
    product(a.x, false, a.weights.w_ih, true, nullptr, gates_x.as<float>(), rows, G, s.inputs,
            DType::kFloat32);
  } else {
    const cuda::Workspace x(bytes(rows * s.inputs, 4)), w_ih(bytes(G * s.inputs, 4));
    launch_over(rows * s.inputs, widen_kernel<T>, static_cast<const T*>(a.x), x.as<float>(),
                rows * s.inputs);
    launch_over(G * s.inputs, widen_kernel<T>, static_cast<const T*>(a.weights.w_ih),
                w_ih.as<float>(), G * s.inputs);
    product(x.as<float>(), false, w_ih.as<float>(), true, nullptr, gates_x.as<float>(), rows, G,
            s.inputs, DType::kFloat32);
  }
  if (rnn_forward_persistent(a, q, state, last, gates_x.as<float>(), h.as<float>(), c.as<float>()))
    return;
  for (int64_t step = 0; step < last; ++step) {
    product(h.as<float>(), false, w_hh.as<float>(), true, nullptr, products.as<float>(), s.batch, G,
            s.units, DType::kFloat32);
    launch_over(all, step_kernel<T, kKind, kPeepholes>, q, a, step, gates_x.as<float>(),
                products.as<float>(), h.as<float>(), c.as<float>());
  }
}

template <class T, CellKind kKind, bool kPeepholes>
void backward(const RnnBackwardArgs& a) {
  const RnnShape& s = a.forward.shape;
  constexpr int64_t kGates = gate_count(kKind);
  constexpr bool kTwo = kKind == CellKind::kGru;
  const int64_t all = s.batch * s.units, G = kGates * s.units, slots = s.steps * s.batch;
  const DeviceLengths lengths(s);
  const Steps q{s.steps, s.batch, s.units, lengths.get(), s.reverse};
  const auto bytes = [](int64_t n, std::size_t each) { return static_cast<std::size_t>(n) * each; };
  const cuda::Workspace carry(bytes(all, 4)), dc(bytes(all, 4)), products(bytes(all, 4));
  // What flows from step to step stays in float32, whatever the weights are.
  const cuda::Workspace step_gates(bytes(s.batch * G, 4)), w_hh(bytes(G * s.units, 4));
  launch_over(G * s.units, widen_kernel<T>, static_cast<const T*>(a.forward.weights.w_hh),
              w_hh.as<float>(), G * s.units);
  const cuda::Workspace own_x(bytes(slots * G, sizeof(T)));
  const cuda::Workspace own_h(kTwo ? bytes(slots * G, sizeof(T)) : 0);
  const cuda::Workspace states(bytes(slots * s.units, sizeof(T)));
  const cuda::Workspace peep(kPeepholes ? bytes(3 * all, 4) : 0);
  T* gates_x = own_x.as<T>();
  T* gates_h = kTwo ? own_h.as<T>() : gates_x;
  launch_over(all, begin_backward_kernel<T>, q, a, kGates, carry.as<float>(), dc.as<float>(),
              gates_x, gates_h, states.as<T>(), peep.as<float>());
  const int64_t last = longest(s);
  for (int64_t step = last - 1; step >= -1; --step) {
    if (step + 1 < last)
      product(step_gates.as<float>(), false, w_hh.as<float>(), false, nullptr, products.as<float>(),
              s.batch, s.units, G, DType::kFloat32);
    launch_over(all, step_backward_kernel<T, kKind, kPeepholes>, q, a, step, products.as<float>(),
                carry.as<float>(), dc.as<float>(), step_gates.as<float>(), gates_x, gates_h,
                states.as<T>(), peep.as<float>());
  }
  if (a.dw_ih != nullptr)
    product(gates_x, true, a.forward.x, false, nullptr, a.dw_ih, G, s.inputs, slots, s.dtype);
  if (a.dw_hh != nullptr)
    product(gates_h, true, states.as<T>(), false, nullptr, a.dw_hh, G, s.units, slots, s.dtype);
  if (a.dx != nullptr)
    product(gates_x, false, a.forward.weights.w_ih, false, nullptr, a.dx, slots, s.inputs, G,
            s.dtype);
  if (a.db_ih != nullptr) launch_over(G, column_sums_kernel<T>, gates_x, slots, G, a.db_ih);
  if (a.db_hh != nullptr) launch_over(G, column_sums_kernel<T>, gates_h, slots, G, a.db_hh);
  if (kPeepholes && a.dpeepholes != nullptr)
    for (int64_t k = 0; k < 3; ++k)
      launch_over(s.units, column_sums_kernel<float>, peep.as<float>() + k * all, s.batch, s.units,
                  a.dpeepholes + k * s.units);
}

void forward_cell(const RnnForwardArgs& a, DType state) {
  switch (a.shape.cell) {
    case CellKind::kTanh:
      return forward<float, CellKind::kTanh, false>(a, state);
    case CellKind::kRelu:
      return forward<float, CellKind::kRelu, false>(a, state);
    case CellKind::kGru:
      return forward<float, CellKind::kGru, false>(a, state);
    case CellKind::kLstm:
      if (a.weights.peepholes != nullptr) return forward<float, CellKind::kLstm, true>(a, state);
      return forward<float, CellKind::kLstm, false>(a, state);
  }
}

void backward_cell(const RnnBackwardArgs& a) {
  switch (a.forward.shape.cell) {
    case CellKind::kTanh:
      return backward<float, CellKind::kTanh, false>(a);
    case CellKind::kRelu:
      return backward<float, CellKind::kRelu, false>(a);
    case CellKind::kGru:
      return backward<float, CellKind::kGru, false>(a);
    case CellKind::kLstm:
      if (a.forward.weights.peepholes != nullptr) return backward<float, CellKind::kLstm, true>(a);
      return backward<float, CellKind::kLstm, false>(a);
  }
}

// 16-bit layers run in float32: their arrays are widened before, and the results rounded after.
template <class T>
__global__ void __launch_bounds__(kThreads) narrow_kernel(const float* x, T* out, int64_t n) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < n) out[i] = cuda::from_float<T>(x[i]);
}

template <class T>
class Widened {  // an input in float32, or null
 public:
  Widened(const void* source, int64_t n)
      : memory_(source == nullptr ? 0 : static_cast<std::size_t>(n) * sizeof(float)) {
    if (source != nullptr)
      launch_over(n, widen_kernel<T>, static_cast<const T*>(source), memory_.as<float>(), n);
  }
  const float* get() const { return memory_.as<const float>(); }

 private:
  cuda::Workspace memory_;
};

template <class T>
class Narrowed {  // an output in float32, rounded into its place by finish()
 public:
  Narrowed(void* target, int64_t n)
      : target_(static_cast<T*>(target)),
        n_(n),
        memory_(target == nullptr ? 0 : static_cast<std::size_t>(n) * sizeof(float)) {}
  float* get() const { return memory_.as<float>(); }
  void finish() const {
    if (target_ != nullptr) launch_over(n_, narrow_kernel<T>, get(), target_, n_);
  }

 private:
  T* target_;
  int64_t n_;
  cuda::Workspace memory_;
};

// The inputs of a layer in float32.
template <class T>
struct WideLayer {
  Widened<T> x, h0, c0, w_ih, w_hh, b_ih, b_hh, peepholes;

  explicit WideLayer(const RnnForwardArgs& a)
      : x(a.x, a.shape.steps * a.shape.batch * a.shape.inputs),
        h0(a.h0, a.shape.batch * a.shape.units),
        c0(a.c0, a.shape.batch * a.shape.units),
        w_ih(a.weights.w_ih, gate_count(a.shape.cell) * a.shape.units * a.shape.inputs),
        w_hh(a.weights.w_hh, gate_count(a.shape.cell) * a.shape.units * a.shape.units),
        b_ih(a.weights.b_ih, gate_count(a.shape.cell) * a.shape.units),
        b_hh(a.weights.b_hh, gate_count(a.shape.cell) * a.shape.units),
        peepholes(a.weights.peepholes, 3 * a.shape.units) {}

  RnnForwardArgs args(const RnnForwardArgs& a) const {
    RnnForwardArgs w = a;
    w.shape.dtype = DType::kFloat32;
    w.x = x.get();
    w.h0 = h0.get();
    w.c0 = c0.get();
    w.weights = {w_ih.get(), w_hh.get(), b_ih.get(), b_hh.get(), peepholes.get()};
    return w;
  }
};

template <class T>
void forward_narrow(const RnnForwardArgs& a) {
  const int64_t states = a.shape.batch * a.shape.units;
  const WideLayer<T> layer(a);
  const Narrowed<T> y(a.y, a.shape.steps * states), h_n(a.h_n, states), c_n(a.c_n, states);
  RnnForwardArgs w = layer.args(a);
  w.y = y.get();
  w.h_n = h_n.get();
  w.c_n = c_n.get();
  forward_cell(w, a.shape.dtype);
  y.finish();
  h_n.finish();
  c_n.finish();
}

template <class T>
void backward_narrow(const RnnBackwardArgs& a) {
  const RnnShape& s = a.forward.shape;
  const int64_t states = s.batch * s.units, G = gate_count(s.cell) * s.units;
  const WideLayer<T> layer(a.forward);
  const Widened<T> y(a.forward.y, s.steps * states), dy(a.dy, s.steps * states);
  const Widened<T> dh_n(a.dh_n, states), dc_n(a.dc_n, states);
  const Narrowed<T> dx(a.dx, s.steps * s.batch * s.inputs), dh0(a.dh0, states), dc0(a.dc0, states);
  const Narrowed<T> dw_ih(a.dw_ih, G * s.inputs), dw_hh(a.dw_hh, G * s.units);
  RnnBackwardArgs w = a;
  w.forward = layer.args(a.forward);
  w.forward.y = const_cast<float*>(y.get());  // read only
  w.dy = dy.get();
  w.dh_n = dh_n.get();
  w.dc_n = dc_n.get();
  w.dx = dx.get();
  w.dh0 = dh0.get();
  w.dc0 = dc0.get();
  w.dw_ih = dw_ih.get();
  w.dw_hh = dw_hh.get();
  backward_cell(w);
  for (const Narrowed<T>* out : {&dx, &dh0, &dc0, &dw_ih, &dw_hh}) out->finish();
}

}  // namespace

void rnn_forward_cuda(const RnnForwardArgs& a) {
  if (a.shape.dtype == DType::kFloat32) return forward_cell(a, DType::kFloat32);
  if (a.shape.dtype == DType::kFloat16) return forward_narrow<cuda::Half>(a);
  forward_narrow<cuda::BFloat16>(a);
}

void rnn_backward_cuda(const RnnBackwardArgs& a) {
  const DType dtype = a.forward.shape.dtype;
  if (dtype == DType::kFloat32) return backward_cell(a);
  if (dtype == DType::kFloat16) return backward_narrow<cuda::Half>(a);
  backward_narrow<cuda::BFloat16>(a);
}

}  // namespace seqloom::ops
