// SPDX-License-Identifier: Apache-2.0
#include "ops/rnn/rnn.h"

#include <atomic>
#include <thread>
#include <vector>

#include "binding/registers.h"
#include "cpu/parallel.h"
#include "ops/common.h"
#include "ops/matmul/matmul_packed.h"

namespace seqloom::ops {
namespace {

namespace py = pybind11;
using OptionalArray = std::optional<Array>;

std::atomic<int> grid_limit{0};  // RnnShape::grid of every call

const char* op_name(CellKind cell) {
  return cell == CellKind::kLstm ? "lstm" : cell == CellKind::kGru ? "gru" : "rnn";
}

OptionalArray contiguous_or_none(const OptionalArray& a) {
  return a ? OptionalArray(contiguous(*a)) : std::nullopt;
}
const void* data_or_null(const OptionalArray& a) { return a ? a->data() : nullptr; }

// The inputs of a layer, checked and contiguous. Gates of the weights: [G H, I] and [G H, H].
struct Layer {
  CellKind cell;
  Array x, w_ih, w_hh;
  OptionalArray h0, c0, b_ih, b_hh, peepholes, lengths;
  bool reverse;

  Dims state_shape() const { return {x.size(1), w_hh.size(1)}; }

  RnnForwardArgs args() const {
    RnnForwardArgs a{};
    a.shape = {cell,
               x.dtype(),
               reverse,
               x.size(0),
               x.size(1),
               x.size(2),
               w_hh.size(1),
               lengths ? lengths->data_as<int64_t>() : nullptr,
               grid_limit.load(std::memory_order_relaxed)};
    a.weights = {w_ih.data(), w_hh.data(), data_or_null(b_ih), data_or_null(b_hh),
                 data_or_null(peepholes)};
    a.x = x.data();
    a.h0 = data_or_null(h0);
    a.c0 = data_or_null(c0);
    return a;
  }
  int64_t work() const { return x.size(0) * x.size(1) * w_hh.numel(); }
};

void check_like_x(const char* op, const char* name, const Array& a, const Array& x) {
  check_same_dtype(op, name, a, "x", x);
  check_same_device(op, name, a, "x", x);
}

void check_optional(const char* op, const char* name, const OptionalArray& a, const Array& x,
                    const Dims& shape, const char* spelled) {
  if (!a) return;
  check_like_x(op, name, *a, x);
  check_shape(op, name, *a, shape, spelled);
}

Layer layer(int cell_code, const Array& x, const OptionalArray& h0, const OptionalArray& c0,
            const Array& w_ih, const Array& w_hh, const OptionalArray& b_ih,
            const OptionalArray& b_hh, const OptionalArray& peepholes, const OptionalArray& lengths,
            bool reverse) {
  const auto cell = static_cast<CellKind>(cell_code);
  const char* op = op_name(cell);
  check_kernel_float(op, "x", x);
  check_value(x.rank() == 3, op, ": x must have shape [T, B, I], got ", x.shape());
  check_like_x(op, "w_ih", w_ih, x);
  check_like_x(op, "w_hh", w_hh, x);
  check_value(w_hh.rank() == 2, op, ": w_hh must have shape [G H, H], got ", w_hh.shape());
  const int64_t gates = gate_count(cell), units = w_hh.size(1), batch = x.size(1);
  check_value(units > 0, op, ": w_hh must have at least one unit, got shape ", w_hh.shape());
  check_shape(op, "w_hh", w_hh, Dims{gates * units, units}, "[G H, H]");
  check_shape(op, "w_ih", w_ih, Dims{gates * units, x.size(2)}, "[G H, I]");
  check_optional(op, "h0", h0, x, Dims{batch, units}, "[B, H]");
  check_optional(op, "c0", c0, x, Dims{batch, units}, "[B, H]");
  check_optional(op, "b_ih", b_ih, x, Dims{gates * units}, "[G H]");
  check_optional(op, "b_hh", b_hh, x, Dims{gates * units}, "[G H]");
  check_optional(op, "peepholes", peepholes, x, Dims{3, units}, "[3, H]");
  Layer l{cell,
          contiguous(x),
          contiguous(w_ih),
          contiguous(w_hh),
          contiguous_or_none(h0),
          contiguous_or_none(c0),
          contiguous_or_none(b_ih),
          contiguous_or_none(b_hh),
          contiguous_or_none(peepholes),
          std::nullopt,
          reverse};
  if (lengths) {
    check_type(lengths->dtype() == DType::kInt64 && !lengths->is_cuda(), op,
               ": lengths must be int64 on the CPU, got ", name_of(lengths->dtype()), " on ",
               lengths->device());
    check_shape(op, "lengths", *lengths, Dims{batch}, "[B]");
    l.lengths = contiguous(*lengths);
    for (int64_t b = 0; b < batch; ++b) {
      const int64_t n = l.lengths->data_as<int64_t>()[b];
      check_value(n >= 0 && n <= x.size(0), op, ": lengths must be in [0, T] = [0, ", x.size(0),
                  "], got ", n, " at ", b);
    }
  }
  return l;
}

// A weight in the layout of the CPU's forward, kept from call to call while it stays as it is.
PackedUse packed(const Layer& l, const Array& weight) {
  int64_t bytes = 0;
  RnnPackArgs args{l.cell,        weight.dtype(), l.w_hh.size(1), weight.size(1),
                   weight.data(), nullptr,        &bytes};
  SEQLOOM_CPU_BF16(rnn_pack)(args);
  return packed_form(weight, gate_count(l.cell), bytes, [&](void* memory) {
    args.memory = memory;
    SEQLOOM_CPU_BF16(rnn_pack)(args);
  });
}

// One layer's forward pass, ready to run.
struct ForwardCall {
  Layer l;
  Array y, h_n;
  OptionalArray c_n, saved, cells;
  PackedUse w_ih, w_hh;
  RnnForwardArgs args;

  ForwardCall(Layer layer_, bool keep) : l(std::move(layer_)) {
    const Array& x = l.x;
    const int64_t steps = x.size(0), batch = x.size(1), units = l.w_hh.size(1);
    const bool lstm = l.cell == CellKind::kLstm;
    y = Array::empty(Dims{steps, batch, units}, x.dtype(), x.device());
    h_n = Array::empty(l.state_shape(), x.dtype(), x.device());
    if (lstm) c_n = Array::empty_like(h_n);
    // A plain cell's backward needs its outputs alone, but not rounded to 16 bits.
    const int64_t rounded = x.dtype() == DType::kFloat32 ? 0 : 1;
    const int64_t kept = saved_count(l.cell) > 0 ? saved_count(l.cell) : rounded;
    if (keep && kept > 0)
      saved = Array::empty(Dims{steps, batch, kept, units}, DType::kFloat32, x.device());
    if (keep && lstm) cells = Array::empty(y.shape(), DType::kFloat32, x.device());
    args = l.args();
    args.y = y.mutable_data();
    args.h_n = h_n.mutable_data();
    args.c_n = c_n ? c_n->mutable_data() : nullptr;
    args.saved = saved ? saved->mutable_as<float>() : nullptr;
    args.cells = cells ? cells->mutable_as<float>() : nullptr;
    if (x.is_cuda()) return;
    w_ih = packed(l, l.w_ih);
    w_hh = packed(l, l.w_hh);
    args.weights.packed_ih = w_ih.data();
    args.weights.packed_hh = w_hh.data();
  }
  py::tuple results() const { return py::make_tuple(y, h_n, c_n, saved, cells); }
};

// (y, h_n, c_n or None, saved or None, cells or None); the last two with `keep`.
py::tuple forward(int cell_code, const Array& x, const OptionalArray& h0, const OptionalArray& c0,
                  const Array& w_ih, const Array& w_hh, const OptionalArray& b_ih,
                  const OptionalArray& b_hh, const OptionalArray& peepholes,
                  const OptionalArray& lengths, bool reverse, bool keep) {
  const ForwardCall call(
      layer(cell_code, x, h0, c0, w_ih, w_hh, b_ih, b_hh, peepholes, lengths, reverse), keep);
  if (x.size(1) > 0) SEQLOOM_RUN_BF16(x.device(), call.l.work(), rnn_forward, call.args);
  return call.results();
}

template <class T>
T element(const py::handle& t, size_t i) {
  return py::reinterpret_borrow<py::tuple>(t)[i].cast<T>();
}

// The layer of a tuple (x, h0, c0, w_ih, w_hh, b_ih, b_hh, peepholes).
Layer layer_of(int cell_code, const Array& x, const py::handle& inputs,
               const OptionalArray& lengths, bool reverse) {
  return layer(cell_code, x, element<OptionalArray>(inputs, 1), element<OptionalArray>(inputs, 2),
               element<Array>(inputs, 3), element<Array>(inputs, 4),
               element<OptionalArray>(inputs, 5), element<OptionalArray>(inputs, 6),
               element<OptionalArray>(inputs, 7), lengths, reverse);
}

// Layers on the CPU whose steps are not worth a team each: as a wave where each takes the outputs
// of the one before (their x is None but for the first), else side by side, the second in reverse.
py::list forward_many(int cell_code, const py::list& layers, const OptionalArray& lengths,
                      bool chained, bool keep) {
  struct alignas(64) Counter {
    int64_t steps = 0;
  };
  std::vector<ForwardCall> calls;
  std::vector<Counter> done(layers.size());
  std::vector<RnnForwardArgs> args;
  int64_t work = 0;
  calls.reserve(layers.size());
  for (size_t i = 0; i < layers.size(); ++i) {
    const Array x = chained && i > 0 ? calls.back().y : element<Array>(layers[i], 0);
    calls.emplace_back(layer_of(cell_code, x, layers[i], lengths, !chained && i == 1), keep);
    args.push_back(calls.back().args);
    if (chained) {
      args.back().done = &done[i].steps;
      args.back().ready = i > 0 ? &done[i - 1].steps : nullptr;
    }
    work += calls.back().l.work();
    check_value(!calls.back().y.is_cuda(), op_name(calls[0].l.cell),
                ": layers run at once on the CPU only");
  }
  if (!calls.empty() && calls[0].args.shape.batch > 0) {
    const RnnManyArgs many{args.data(), static_cast<int>(args.size()), chained};
    ReleaseGil release_gil(work >= 16384);
    SEQLOOM_CPU_BF16(rnn_forward_many)(many);
  }
  py::list results;
  for (const ForwardCall& call : calls) results.append(call.results());
  return results;
}

// One layer's backward pass, ready to run.
struct BackwardCall {
  Layer l;
  OptionalArray gy, gh, gc;
  Array dh0;
  OptionalArray dx, dc0, dw_ih, dw_hh, db_ih, db_hh, dpeepholes;
  RnnBackwardArgs args{};

  BackwardCall(Layer layer_, const py::tuple& results, const OptionalArray& dy,
               const OptionalArray& dh_n, const OptionalArray& dc_n, bool want_x, bool want_weights)
      : l(std::move(layer_)) {
    const char* op = op_name(l.cell);
    const Array y = element<Array>(results, 0);
    const auto saved = element<OptionalArray>(results, 1);
    const auto cells = element<OptionalArray>(results, 2);
    check_optional(op, "gradient of output", dy, l.x, y.shape(), "[T, B, H]");
    check_optional(op, "gradient of h_n", dh_n, l.x, l.state_shape(), "[B, H]");
    check_optional(op, "gradient of c_n", dc_n, l.x, l.state_shape(), "[B, H]");
    gy = contiguous_or_none(dy);
    gh = contiguous_or_none(dh_n);
    gc = contiguous_or_none(dc_n);
    const int64_t gates = l.w_hh.size(0), units = l.w_hh.size(1);
    args.forward = l.args();
    args.forward.y = y.mutable_data();
    args.forward.saved = saved ? saved->mutable_as<float>() : nullptr;
    args.forward.cells = cells ? cells->mutable_as<float>() : nullptr;
    args.dy = data_or_null(gy);
    args.dh_n = data_or_null(gh);
    args.dc_n = data_or_null(gc);
    dh0 = Array::empty(l.state_shape(), l.x.dtype(), l.x.device());
    args.dh0 = dh0.mutable_data();
    const auto make = [&](bool wanted, const Dims& shape, DType dtype,
                          OptionalArray* out) -> void* {
      if (!wanted) return nullptr;
      *out = Array::empty(shape, dtype, l.x.device());
      return (*out)->mutable_data();
    };
    args.dc0 = make(l.cell == CellKind::kLstm, l.state_shape(), l.x.dtype(), &dc0);
    args.dx = make(want_x, l.x.shape(), l.x.dtype(), &dx);
    args.dw_ih = make(want_weights, l.w_ih.shape(), l.x.dtype(), &dw_ih);
    args.dw_hh = make(want_weights, l.w_hh.shape(), l.x.dtype(), &dw_hh);
    const auto floats = [&](bool wanted, const Dims& shape, OptionalArray* out) {
      return static_cast<float*>(make(wanted, shape, DType::kFloat32, out));
    };
    args.db_ih = floats(want_weights && l.b_ih.has_value(), Dims{gates}, &db_ih);
    args.db_hh = floats(want_weights && l.b_hh.has_value(), Dims{gates}, &db_hh);
    args.dpeepholes = floats(want_weights && l.peepholes.has_value(), Dims{3, units}, &dpeepholes);
  }
  py::tuple gradients() const {
    return py::make_tuple(dx, dh0, dc0, dw_ih, dw_hh, db_ih, db_hh, dpeepholes);
  }
};

// (dx, dh0, dc0, dw_ih, dw_hh, db_ih, db_hh, dpeepholes), None where not wanted. Bias and peephole
// gradients are float32.
py::tuple backward(int cell_code, const py::tuple& inputs, const py::tuple& results,
                   const OptionalArray& dy, const OptionalArray& dh_n, const OptionalArray& dc_n,
                   bool reverse, bool want_x, bool want_weights) {
  const BackwardCall call(layer_of(cell_code, element<Array>(inputs, 0), inputs,
                                   element<OptionalArray>(inputs, 8), reverse),
                          results, dy, dh_n, dc_n, want_x, want_weights);
  SEQLOOM_RUN_BF16(call.l.x.device(), call.l.work(), rnn_backward, call.args);
  return call.gradients();
}

// Two directions on the CPU, side by side. Each tuple is (inputs, results, dy, dh_n, dc_n).
py::list backward_pair(int cell_code, const py::list& layers, bool want_x, bool want_weights) {
  std::vector<BackwardCall> calls;
  std::vector<RnnBackwardArgs> args;
  calls.reserve(layers.size());
  for (size_t i = 0; i < layers.size(); ++i) {
    const auto inputs = element<py::tuple>(layers[i], 0);
    calls.emplace_back(layer_of(cell_code, element<Array>(inputs, 0), inputs,
                                element<OptionalArray>(inputs, 8), i == 1),
                       element<py::tuple>(layers[i], 1), element<OptionalArray>(layers[i], 2),
                       element<OptionalArray>(layers[i], 3), element<OptionalArray>(layers[i], 4),
                       want_x, want_weights);
    args.push_back(calls.back().args);
  }
  {
    const RnnManyBackwardArgs many{args.data(), static_cast<int>(args.size())};
    ReleaseGil release_gil(true);
    SEQLOOM_CPU_BF16(rnn_backward_many)(many);
  }
  py::list gradients;
  for (const BackwardCall& call : calls) gradients.append(call.gradients());
  return gradients;
}

}  // namespace

void rnn_await(const int64_t* counter, int64_t wanted) {
  for (int i = 0; __atomic_load_n(counter, __ATOMIC_ACQUIRE) < wanted; ++i)
    if (i > 2000) std::this_thread::yield();
}

void register_rnn_general(py::module_& m);  // rnn_general.cpp

void register_rnn(py::module_& m) {
  register_rnn_general(m);
  // Most blocks of the persistent CUDA kernel: 0 lets the device choose, -1 runs step by step.
  m.def(
      "rnn_set_grid",
      [](int blocks) { return grid_limit.exchange(blocks, std::memory_order_relaxed); },
      py::arg("blocks"));
  m.def("rnn_forward", &forward, py::arg("cell"), py::arg("x"), py::arg("h0"), py::arg("c0"),
        py::arg("w_ih"), py::arg("w_hh"), py::arg("b_ih"), py::arg("b_hh"), py::arg("peepholes"),
        py::arg("lengths"), py::arg("reverse"), py::arg("keep"));
  m.def("rnn_backward", &backward, py::arg("cell"), py::arg("inputs"), py::arg("results"),
        py::arg("dy"), py::arg("dh_n"), py::arg("dc_n"), py::arg("reverse"), py::arg("want_x"),
        py::arg("want_weights"));
  m.def("rnn_forward_many", &forward_many, py::arg("cell"), py::arg("layers"), py::arg("lengths"),
        py::arg("chained"), py::arg("keep"));
  m.def("rnn_backward_pair", &backward_pair, py::arg("cell"), py::arg("layers"), py::arg("want_x"),
        py::arg("want_weights"));
  // Whether the threads share each step of a layer.
  m.def(
      "rnn_shares_steps",
      [](int cell, int64_t batch, int64_t units) {
        RnnShape shape{};
        shape.cell = static_cast<CellKind>(cell);
        shape.batch = batch;
        shape.units = units;
        return rnn_shares_steps(shape);
      },
      py::arg("cell"), py::arg("batch"), py::arg("units"));
}

}  // namespace seqloom::ops
