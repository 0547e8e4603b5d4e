// SPDX-License-Identifier: Apache-2.0
// Front door of gates, dropout and the fused chains: bias + activation, residual + dropout,
// scale + mask. Each is one kernel, forward and backward.
#include <pybind11/pybind11.h>

#include <cstring>

#include "binding/registers.h"
#include "ops/elementwise/arguments.h"

namespace seqloom::ops {
namespace {

namespace py = pybind11;
using Op = ElementwiseOp;

void check_float(const char* op, const char* name, const Array& a) {
  check_type(is_floating(a.dtype()), op, ": ", name, " must be a floating dtype, got ",
             name_of(a.dtype()));
}

// ---- gates -----------------------------------------------------------------------------------

void check_gate(const char* op, const Array& gate, const Array& up) {
  check_float(op, "gate", gate);
  check_same_dtype(op, "up", up, "gate", gate);
  check_same_device(op, "up", up, "gate", gate);
  check_shape(op, "up", up, gate.shape(), "of gate");
}

Array gate(const char* name, Op op, const Array& gate, const Array& up) {
  check_gate(name, gate, up);
  return map(op, gate.dtype(), gate.shape(), {gate, up});
}

std::pair<Array, Array> gate_backward(const char* name, Op op, const Array& grad, const Array& gate,
                                      const Array& up) {
  check_gate(name, gate, up);
  check_gate(name, grad, up);
  const Input inputs[3] = {grad, gate, up};
  const Array outputs[2] = {Array::empty_like(gate), Array::empty_like(up)};
  run_elementwise(op, compute_dtype(gate.dtype()), inputs, 3, outputs, 2);
  return {outputs[0], outputs[1]};
}

// ---- bias + activation -----------------------------------------------------------------------

struct Activation {
  const char* name;
  Op forward, backward;
};
constexpr Activation kActivations[] = {
    {"relu", Op::kBiasRelu, Op::kBiasReluBackward},
    {"gelu", Op::kBiasGelu, Op::kBiasGeluBackward},
    {"gelu_tanh", Op::kBiasGeluTanh, Op::kBiasGeluTanhBackward},
    {"silu", Op::kBiasSilu, Op::kBiasSiluBackward},
};

const Activation& find_activation(const char* op, const std::string& name) {
  for (const Activation& a : kActivations)
    if (name == a.name) return a;
  throw ValueError(str(op, ": activation must be relu, gelu, gelu_tanh or silu, got '", name, "'"));
}

void check_bias(const char* op, const Array& x, const Array& bias) {
  check_float(op, "x", x);
  check_same_device(op, "bias", bias, "x", x);
  check_value(broadcast_shapes(op, x.shape(), bias.shape()) == x.shape(), op,
              ": bias must broadcast to x ", x.shape(), ", got ", bias.shape());
}

Array bias_activation(const Array& x, const Array& bias, const std::string& name) {
  check_bias("bias_activation", x, bias);
  const Op op = find_activation("bias_activation", name).forward;
  return map(op, x.dtype(), x.shape(), {x, bias});
}

// The gradient of x + bias.
Array bias_activation_backward(const Array& grad, const Array& x, const Array& bias,
                               const std::string& name) {
  check_bias("bias_activation", x, bias);
  check_shape("bias_activation", "gradient", grad, x.shape(), "of x");
  check_same_device("bias_activation", "gradient", grad, "x", x);
  const Op op = find_activation("bias_activation", name).backward;
  return map(op, x.dtype(), x.shape(), {grad, x, bias});
}

// ---- dropout ---------------------------------------------------------------------------------

Numbers dropout_numbers(const char* op, double p, uint64_t seed, uint64_t offset) {
  check_value(p >= 0 && p <= 1, op, ": p must be in [0, 1], got ", p);
  // A draw in [0, 1) below p drops; the factor of the kept keeps the mean.
  return {p, p < 1 ? 1 / (1 - p) : 0, seed, offset};
}

Array dropout(const Array& x, double p, uint64_t seed, uint64_t offset) {
  check_float("dropout", "x", x);
  return map(Op::kDropout, x.dtype(), x.shape(), {x}, dropout_numbers("dropout", p, seed, offset));
}

Array dropout_add(const Array& x, const std::optional<Array>& bias, const Array& residual, double p,
                  uint64_t seed, uint64_t offset) {
  const char* op = "dropout_add";
  check_float(op, "x", x);
  check_same_dtype(op, "residual", residual, "x", x);
  check_same_device(op, "residual", residual, "x", x);
  check_shape(op, "residual", residual, x.shape(), "of x");
  const Numbers numbers = dropout_numbers(op, p, seed, offset);
  if (!bias) return map(Op::kDropoutAdd, x.dtype(), x.shape(), {x, residual}, numbers);
  check_bias(op, x, *bias);
  return map(Op::kBiasDropoutAdd, x.dtype(), x.shape(), {x, *bias, residual}, numbers);
}

// ---- scale + mask ----------------------------------------------------------------------------

Array scale_mask(const Array& x, const Array& mask, double scale, double fill) {
  const char* op = "scale_mask";
  check_float(op, "x", x);
  check_same_device(op, "mask", mask, "x", x);
  check_value(broadcast_shapes(op, x.shape(), mask.shape()) == x.shape(), op,
              ": mask must broadcast to x ", x.shape(), ", got ", mask.shape());
  const Op which = mask.dtype() == DType::kBool ? Op::kScaleMaskedFill : Op::kScaleAdd;
  return map(which, x.dtype(), x.shape(), {x, mask}, {scale, fill});
}

}  // namespace

void register_activation(py::module_& m) {
  struct Gate {
    const char* name;
    const char* backward_name;
    Op forward, backward;
  };
  static constexpr Gate gates[] = {
      {"swiglu", "swiglu_backward", Op::kSwiglu, Op::kSwigluBackward},
      {"geglu", "geglu_backward", Op::kGeglu, Op::kGegluBackward},
  };
  for (const Gate& g : gates) {
    m.def(
        g.name,
        [&g](const Array& gated, const Array& up) { return gate(g.name, g.forward, gated, up); },
        py::arg("gate"), py::arg("up"));
    m.def(
        g.backward_name,
        [&g](const Array& grad, const Array& gated, const Array& up) {
          return gate_backward(g.name, g.backward, grad, gated, up);
        },
        py::arg("grad"), py::arg("gate"), py::arg("up"));
  }
  m.def("bias_activation", &bias_activation, py::arg("x"), py::arg("bias"), py::arg("activation"));
  m.def("bias_activation_backward", &bias_activation_backward, py::arg("grad"), py::arg("x"),
        py::arg("bias"), py::arg("activation"));
  m.def("dropout", &dropout, py::arg("x"), py::arg("p"), py::arg("seed"), py::arg("offset"));
  m.def("dropout_add", &dropout_add, py::arg("x"), py::arg("bias"), py::arg("residual"),
        py::arg("p"), py::arg("seed"), py::arg("offset"));
  m.def("scale_mask", &scale_mask, py::arg("x"), py::arg("mask"), py::arg("scale"),
        py::arg("fill"));
}

}  // namespace seqloom::ops
