// SPDX-License-Identifier: Apache-2.0
// Front door of the recurrences with options. ops/_rnn_general.py projects and widens the inputs.
#include "ops/rnn/rnn_general.h"

#include "binding/registers.h"
#include "ops/common.h"

namespace seqloom::ops {
namespace {

namespace py = pybind11;
using OptionalArray = std::optional<Array>;

// The arrays of a call, in the order in which Python passes them; lengths last.
enum Input { kGatesX, kH0, kC0, kWHh, kWHr, kPeepholes, kNormH, kNormC, kNormB, kKeep, kLengths };
constexpr const char* kInputNames[] = {"gates_x", "h0",     "c0",     "w_hh", "w_hr",   "peepholes",
                                       "norm_h",  "norm_c", "norm_b", "keep", "lengths"};
constexpr int kInputs = 11;

struct General {
  const char* op;
  CellKind cell;
  OptionalArray in[kInputs];
  bool reverse;
  float zoneout;
  int64_t steps, batch, units, shown, gates;

  const float* floats(Input i) const { return in[i] ? in[i]->data_as<float>() : nullptr; }
  bool lstm() const { return cell == CellKind::kLstm; }
  Device device() const { return in[kGatesX]->device(); }
  int64_t work() const { return steps * batch * in[kWHh]->numel(); }

  GeneralForwardArgs args() const {
    GeneralForwardArgs a{};
    a.shape = {cell, reverse, steps, batch, units, shown, nullptr, zoneout};
    if (in[kLengths]) a.shape.lengths = in[kLengths]->data_as<int64_t>();
    a.gates_x = floats(kGatesX);
    a.h0 = floats(kH0);
    a.c0 = floats(kC0);
    a.w_hh = floats(kWHh);
    a.w_hr = floats(kWHr);
    a.peepholes = floats(kPeepholes);
    a.norm_h = floats(kNormH);
    a.norm_c = floats(kNormC);
    a.norm_b = floats(kNormB);
    if (in[kKeep]) a.keep = static_cast<const uint8_t*>(in[kKeep]->data());
    return a;
  }
};

void check_lengths(const General& g) {
  const Array& lengths = *g.in[kLengths];
  check_type(lengths.dtype() == DType::kInt64 && !lengths.is_cuda(), g.op,
             ": lengths must be int64 on the CPU, got ", name_of(lengths.dtype()), " on ",
             lengths.device());
  check_shape(g.op, "lengths", lengths, Dims{g.batch}, "[B]");
  for (int64_t b = 0; b < g.batch; ++b) {
    const int64_t n = lengths.data_as<int64_t>()[b];
    check_value(n >= 0 && n <= g.steps, g.op, ": lengths must be in [0, T] = [0, ", g.steps,
                "], got ", n, " at ", b);
  }
}

// The inputs, checked and contiguous.
General general(int cell_code, const py::tuple& inputs, bool reverse, double zoneout) {
  General g{};
  g.cell = static_cast<CellKind>(cell_code);
  g.op = g.lstm() ? "lstm" : "gru";
  check_value(g.lstm() || g.cell == CellKind::kGru, "rnn: cell must be 2 or 3, got ", cell_code);
  check_value(inputs.size() == kInputs, g.op, ": inputs must be ", kInputs, ", got ",
              inputs.size());
  check_value(zoneout >= 0.0 && zoneout <= 1.0, g.op, ": zoneout must be in [0, 1], got ", zoneout);
  g.reverse = reverse;
  g.zoneout = static_cast<float>(zoneout);
  for (int i = 0; i < kInputs; ++i) {
    const auto a = inputs[static_cast<size_t>(i)].cast<OptionalArray>();
    if (!a) continue;
    g.in[i] = contiguous(*a);
    if (i >= kKeep) continue;
    check_type(a->dtype() == DType::kFloat32, g.op, ": ", kInputNames[i], " must be float32, got ",
               name_of(a->dtype()));
  }
  check_value(g.in[kGatesX] && g.in[kWHh], g.op, ": gates_x and w_hh must be arrays");
  const Array &x = *g.in[kGatesX], &w_hh = *g.in[kWHh];
  check_value(x.rank() == 3, g.op, ": gates_x must have shape [T, B, G H], got ", x.shape());
  check_value(w_hh.rank() == 2 && w_hh.numel() > 0, g.op, ": w_hh must have shape [G H, P], got ",
              w_hh.shape());
  const int64_t G = gate_count(g.cell);
  g.steps = x.size(0);
  g.batch = x.size(1);
  g.gates = w_hh.size(0);
  g.units = g.gates / G;
  g.shown = w_hh.size(1);
  check_value(g.units * G == g.gates, g.op, ": w_hh must have shape [G H, P], got ", w_hh.shape());
  const int64_t T = g.steps, B = g.batch, H = g.units, P = g.shown;
  const auto check = [&](Input i, const Dims& shape, const char* spelled) {
    if (!g.in[i]) return;
    check_same_device(g.op, kInputNames[i], *g.in[i], "gates_x", x);
    check_shape(g.op, kInputNames[i], *g.in[i], shape, spelled);
  };
  check(kGatesX, Dims{T, B, G * H}, "[T, B, G H]");
  check(kH0, Dims{B, P}, "[B, P]");
  check(kC0, Dims{B, H}, "[B, H]");
  check(kWHh, Dims{G * H, P}, "[G H, P]");
  check(kWHr, Dims{P, H}, "[P, H]");
  check(kPeepholes, Dims{3, H}, "[3, H]");
  check(kNormH, Dims{4 * H}, "[4 H]");
  check(kNormC, Dims{H}, "[H]");
  check(kNormB, Dims{H}, "[H]");
  check(kKeep, Dims{T, B, P}, "[T, B, P]");
  check_value(g.in[kWHr] || P == H, g.op, ": w_hh must have H columns without w_hr, got ", P);
  check_value(g.in[kNormH].has_value() == g.in[kNormC].has_value() &&
                  g.in[kNormC].has_value() == g.in[kNormB].has_value(),
              g.op, ": layer norm must have all of its arrays or none");
  if (g.in[kKeep])
    check_type(g.in[kKeep]->dtype() == DType::kBool, g.op, ": keep must be bool, got ",
               name_of(g.in[kKeep]->dtype()));
  if (!g.lstm())
    for (const Input i : {kC0, kWHr, kPeepholes, kNormH, kKeep})
      check_value(!g.in[i], g.op, ": ", kInputNames[i], " must be None");
  if (g.in[kLengths]) check_lengths(g);
  return g;
}

// (y, h_n, c_n or None, saved, cells, raw); the last three with `keep`, where they apply.
py::tuple forward(int cell, const py::tuple& inputs, bool reverse, double zoneout, bool keep) {
  const General g = general(cell, inputs, reverse, zoneout);
  const auto make = [&](bool wanted, const Dims& shape) {
    return wanted ? OptionalArray(Array::empty(shape, DType::kFloat32, g.device())) : std::nullopt;
  };
  const auto data = [](const OptionalArray& a) { return a ? a->mutable_as<float>() : nullptr; };
  const int64_t T = g.steps, B = g.batch, H = g.units, P = g.shown;
  const OptionalArray y = make(true, Dims{T, B, P}), h_n = make(true, Dims{B, P});
  const OptionalArray c_n = make(g.lstm(), Dims{B, H}), saved = make(keep, Dims{T, B, 4, H});
  const OptionalArray cells = make(keep && g.lstm(), Dims{T, B, H});
  const OptionalArray raw = make(keep && g.in[kNormH], Dims{T, B, 4 * H});
  GeneralForwardArgs a = g.args();
  a.y = data(y);
  a.h_n = data(h_n);
  a.c_n = data(c_n);
  a.saved = data(saved);
  a.cells = data(cells);
  a.raw = data(raw);
  if (B > 0) SEQLOOM_RUN(g.device(), g.work(), rnn_general_forward, a);
  return py::make_tuple(y, h_n, c_n, saved, cells, raw);
}

// (dgates_x, dh0, dc0, dw_hh, dw_hr, dpeepholes, dnorm_h, dnorm_c, dnorm_b), None where nothing was
// given. results: (y, saved, cells, raw) of forward.
py::tuple backward(int cell, const py::tuple& inputs, bool reverse, double zoneout,
                   const py::tuple& results, const OptionalArray& dy, const OptionalArray& dh_n,
                   const OptionalArray& dc_n) {
  const General g = general(cell, inputs, reverse, zoneout);
  const int64_t T = g.steps, B = g.batch, H = g.units, P = g.shown;
  // An array of float32 of this shape, contiguous; null where it may be and is None.
  const auto given = [&](const char* name, const OptionalArray& a, const Dims& shape,
                         bool required) -> OptionalArray {
    check_value(a || !required, g.op, ": ", name, " must be an array");
    if (!a) return std::nullopt;
    check_type(a->dtype() == DType::kFloat32, g.op, ": ", name, " must be float32, got ",
               name_of(a->dtype()));
    check_same_device(g.op, name, *a, "gates_x", *g.in[kGatesX]);
    check_shape(g.op, name, *a, shape, "that of forward");
    return contiguous(*a);
  };
  check_value(results.size() == 4, g.op, ": results must be 4, got ", results.size());
  const auto result = [&](size_t i) { return results[i].cast<OptionalArray>(); };
  const OptionalArray y = given("y", result(0), Dims{T, B, P}, true);
  const OptionalArray saved = given("saved", result(1), Dims{T, B, 4, H}, true);
  const OptionalArray cells = given("cells", result(2), Dims{T, B, H}, g.lstm());
  const OptionalArray raw = given("raw", result(3), Dims{T, B, 4 * H}, g.in[kNormH].has_value());
  const OptionalArray gy = given("gradient of output", dy, Dims{T, B, P}, false);
  const OptionalArray gh = given("gradient of h_n", dh_n, Dims{B, P}, false);
  const OptionalArray gc = given("gradient of c_n", dc_n, Dims{B, H}, false);
  const auto data = [](const OptionalArray& a) { return a ? a->mutable_as<float>() : nullptr; };
  GeneralBackwardArgs a{};
  a.forward = g.args();
  a.forward.y = data(y);
  a.forward.saved = data(saved);
  a.forward.cells = data(cells);
  a.forward.raw = data(raw);
  a.dy = data(gy);
  a.dh_n = data(gh);
  a.dc_n = data(gc);
  const auto like = [&](Input i, const Dims& shape, bool wanted, float** to) -> OptionalArray {
    if (!wanted && !g.in[i]) return std::nullopt;
    const Array made = Array::empty(shape, DType::kFloat32, g.device());
    *to = made.mutable_as<float>();
    return made;
  };
  const OptionalArray dx = like(kGatesX, g.in[kGatesX]->shape(), true, &a.dgates_x);
  const OptionalArray dh0 = like(kH0, Dims{B, P}, true, &a.dh0);
  const OptionalArray dc0 = like(kC0, Dims{B, H}, g.lstm(), &a.dc0);
  const OptionalArray dw_hh = like(kWHh, g.in[kWHh]->shape(), true, &a.dw_hh);
  const OptionalArray dw_hr = like(kWHr, Dims{P, H}, false, &a.dw_hr);
  const OptionalArray dpeep = like(kPeepholes, Dims{3, H}, false, &a.dpeepholes);
  const OptionalArray dnorm_h = like(kNormH, Dims{4 * H}, false, &a.dnorm_h);
  const OptionalArray dnorm_c = like(kNormC, Dims{H}, false, &a.dnorm_c);
  const OptionalArray dnorm_b = like(kNormB, Dims{H}, false, &a.dnorm_b);
  SEQLOOM_RUN(g.device(), g.work(), rnn_general_backward, a);
  return py::make_tuple(dx, dh0, dc0, dw_hh, dw_hr, dpeep, dnorm_h, dnorm_c, dnorm_b);
}

}  // namespace

void register_rnn_general(py::module_& m) {
  m.def("rnn_general_forward", &forward, py::arg("cell"), py::arg("inputs"), py::arg("reverse"),
        py::arg("zoneout"), py::arg("keep"));
  m.def("rnn_general_backward", &backward, py::arg("cell"), py::arg("inputs"), py::arg("reverse"),
        py::arg("zoneout"), py::arg("results"), py::arg("dy"), py::arg("dh_n"), py::arg("dc_n"));
}

}  // namespace seqloom::ops
