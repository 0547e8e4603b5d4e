// SPDX-License-Identifier: Apache-2.0
// Front door of the elementwise ops: operators, functions of one variable, and their gradients.
//
// Binary operators take Tensors and Python numbers and give None for anything else, so that the
// caller can try other types. A result whose inputs are being recorded says requires_grad.
#include "ops/elementwise/elementwise.h"

#include <pybind11/pybind11.h>

#include "binding/registers.h"
#include "ops/elementwise/arguments.h"

namespace seqloom::ops {
namespace {

namespace py = pybind11;
using Op = ElementwiseOp;

// ---- two inputs ------------------------------------------------------------------------------

enum class BinaryRule : uint8_t {
  kArithmetic,  // the promoted dtype
  kSubtract,    // ... which may not be bool
  kTrueDivide,  // ... integers give float32
  kCompare,     // computed in the promoted dtype, gives bool
  kBits,        // integers and bool
};

struct BinarySpec {
  const char* name;
  Op op;
  BinaryRule rule;
};

constexpr BinarySpec kBinaries[] = {
    {"add", Op::kAdd, BinaryRule::kArithmetic},
    {"sub", Op::kSub, BinaryRule::kSubtract},
    {"mul", Op::kMul, BinaryRule::kArithmetic},
    {"div", Op::kDiv, BinaryRule::kTrueDivide},
    {"floor_divide", Op::kFloorDivide, BinaryRule::kSubtract},
    {"remainder", Op::kRemainder, BinaryRule::kSubtract},
    {"pow", Op::kPow, BinaryRule::kArithmetic},
    {"maximum", Op::kMaximum, BinaryRule::kArithmetic},
    {"minimum", Op::kMinimum, BinaryRule::kArithmetic},
    {"eq", Op::kEq, BinaryRule::kCompare},
    {"ne", Op::kNe, BinaryRule::kCompare},
    {"lt", Op::kLt, BinaryRule::kCompare},
    {"le", Op::kLe, BinaryRule::kCompare},
    {"gt", Op::kGt, BinaryRule::kCompare},
    {"ge", Op::kGe, BinaryRule::kCompare},
    {"bitwise_and", Op::kAnd, BinaryRule::kBits},
    {"bitwise_or", Op::kOr, BinaryRule::kBits},
    {"bitwise_xor", Op::kXor, BinaryRule::kBits},
};
constexpr BinarySpec kInPlace[] = {
    {"add_", Op::kAdd, BinaryRule::kArithmetic},
    {"sub_", Op::kSub, BinaryRule::kSubtract},
    {"mul_", Op::kMul, BinaryRule::kArithmetic},
    {"div_", Op::kDiv, BinaryRule::kTrueDivide},
};

DType checked_dtype(const BinarySpec& spec, const Input* inputs) {
  const DType d = result_dtype(inputs, 2);
  if (spec.rule == BinaryRule::kSubtract)
    check_type(d != DType::kBool, spec.name, ": dtype must be a number type, got bool");
  if (spec.rule == BinaryRule::kBits)
    check_type(!is_floating(d), spec.name, ": dtype must be an integer or bool, got ", name_of(d));
  if (spec.rule == BinaryRule::kTrueDivide && !is_floating(d)) return DType::kFloat32;
  return d;
}

// x ** 2 and its like, which need no pow.
Op simpler_pow(double exponent, Input* inputs) {
  if (exponent == 2) {
    inputs[1] = inputs[0];
    return Op::kMul;
  }
  if (exponent == 0.5) return Op::kSqrt;
  if (exponent == -0.5) return Op::kRsqrt;
  if (exponent == -1) return Op::kReciprocal;
  if (exponent == 1) return Op::kCopy;
  return Op::kPow;
}

py::object binary(const BinarySpec& spec, py::handle a, py::handle b) {
  Input inputs[2];
  if (!parse_input(a, &inputs[0]) || !parse_input(b, &inputs[1])) return py::none();
  if (inputs[0].array == nullptr && inputs[1].array == nullptr) return py::none();
  const DType dtype = checked_dtype(spec, inputs);
  settle_devices(spec.name, inputs, 2);
  const Array* x = inputs[0].array;
  const Array* y = inputs[1].array;
  const Dims shape = x == nullptr   ? y->shape()
                     : y == nullptr ? x->shape()
                                    : broadcast_shapes(spec.name, x->shape(), y->shape());
  Op op = spec.op;
  int count = 2;
  if (op == Op::kPow && y == nullptr) {
    if (is_floating(dtype)) {
      op = simpler_pow(inputs[1].real, inputs);
      count = op == Op::kMul || op == Op::kPow ? 2 : 1;
    } else {
      check_value(inputs[1].integer >= 0, "pow: exponent must not be negative for integers, got ",
                  inputs[1].integer);
    }
  }
  const DType out_dtype = spec.rule == BinaryRule::kCompare ? DType::kBool : dtype;
  Array out = Array::empty(shape, out_dtype, (x != nullptr ? x : y)->device());
  run_elementwise(op, compute_dtype(dtype), inputs, count, &out, 1);
  return give(std::move(out), wants_grad(a) || wants_grad(b));
}

// Announces a write to the memory of `a`.
void begin_write(const char* op, const Array& a) {
  check_writable(op, "tensor", a);
  a.storage()->version.fetch_add(1, std::memory_order_relaxed);
}

// An input that shares memory with the output but is not the same view is copied first.
Array apart_from(const Array& out, const Array& in) {
  const bool same =
      in.storage() == out.storage() &&
      (in.data() != out.data() || in.strides() != out.strides() || in.shape() != out.shape());
  return same ? convert(in, in.dtype(), in.device(), true) : in;
}

py::object binary_in_place(const BinarySpec& spec, py::handle a, py::handle b) {
  const Array& target = parse_tensor(spec.name, "tensor", a);
  Input inputs[2] = {Input(target), parse_operand(spec.name, "other", b)};
  const DType dtype = checked_dtype(spec, inputs);
  check_type(
      promote(dtype, target.dtype()) == target.dtype() ||
          (is_floating(dtype) == is_floating(target.dtype()) && target.dtype() != DType::kBool),
      spec.name, ": result of dtype ", name_of(dtype), " can't be stored in ",
      name_of(target.dtype()));
  settle_devices(spec.name, inputs, 2);
  Array other;
  if (inputs[1].array != nullptr) {
    check_value(
        broadcast_shapes(spec.name, target.shape(), inputs[1].array->shape()) == target.shape(),
        spec.name, ": other must broadcast to ", target.shape(), ", got ",
        inputs[1].array->shape());
    other = apart_from(target, *inputs[1].array);
    inputs[1] = Input(other);
  }
  begin_write(spec.name, target);
  run_elementwise(spec.op, compute_dtype(dtype), inputs, 2, &target, 1);
  return py::reinterpret_borrow<py::object>(a);
}

// ---- one input -------------------------------------------------------------------------------

enum class UnaryRule : uint8_t {
  kNumbers,   // any dtype but bool, kept
  kFloat,     // integers give float32
  kRounding,  // integers stay what they are
  kLogical,   // gives bool
  kBits,
};

struct UnarySpec {
  const char* name;
  Op op;
  UnaryRule rule;
};

constexpr UnarySpec kUnaries[] = {
    {"neg", Op::kNeg, UnaryRule::kNumbers},
    {"abs", Op::kAbs, UnaryRule::kNumbers},
    {"sign", Op::kSign, UnaryRule::kNumbers},
    {"relu", Op::kRelu, UnaryRule::kNumbers},
    {"exp", Op::kExp, UnaryRule::kFloat},
    {"log", Op::kLog, UnaryRule::kFloat},
    {"sqrt", Op::kSqrt, UnaryRule::kFloat},
    {"rsqrt", Op::kRsqrt, UnaryRule::kFloat},
    {"sin", Op::kSin, UnaryRule::kFloat},
    {"cos", Op::kCos, UnaryRule::kFloat},
    {"tanh", Op::kTanh, UnaryRule::kFloat},
    {"sigmoid", Op::kSigmoid, UnaryRule::kFloat},
    {"erf", Op::kErf, UnaryRule::kFloat},
    {"gelu", Op::kGelu, UnaryRule::kFloat},
    {"gelu_tanh", Op::kGeluTanh, UnaryRule::kFloat},
    {"silu", Op::kSilu, UnaryRule::kFloat},
    {"reciprocal", Op::kReciprocal, UnaryRule::kFloat},
    {"floor", Op::kFloor, UnaryRule::kRounding},
    {"round", Op::kRound, UnaryRule::kRounding},
    {"logical_not", Op::kLogicalNot, UnaryRule::kLogical},
    {"bitwise_not", Op::kBitwiseNot, UnaryRule::kBits},
};

py::object unary(const UnarySpec& spec, py::handle x) {
  const Array& a = parse_tensor(spec.name, "x", x);
  const DType d = a.dtype();
  DType out = d, compute = compute_dtype(d);
  Op op = spec.op;
  switch (spec.rule) {
    case UnaryRule::kNumbers:
      check_type(d != DType::kBool, spec.name, ": dtype must be a number type, got bool");
      break;
    case UnaryRule::kFloat:
      if (!is_floating(d)) out = compute = DType::kFloat32;
      break;
    case UnaryRule::kRounding:
      if (!is_floating(d)) op = Op::kCopy;
      break;
    case UnaryRule::kLogical:
      out = DType::kBool;
      break;
    case UnaryRule::kBits:
      check_type(!is_floating(d), spec.name, ": dtype must be an integer or bool, got ",
                 name_of(d));
      if (d == DType::kBool) op = Op::kLogicalNot;
      break;
  }
  const Input input(a);
  Array y = Array::empty(a.shape(), out, a.device());
  run_elementwise(op, compute, &input, 1, &y, 1);
  return give(std::move(y), wants_grad(x));
}

// ---- gradients: the shape and dtype of `grad` --------------------------------------------------

struct GradientSpec {
  const char* name;
  Op op;
};
constexpr GradientSpec kGradients2[] = {
    {"exp_backward", Op::kExpBackward},   {"log_backward", Op::kLogBackward},
    {"sqrt_backward", Op::kSqrtBackward}, {"rsqrt_backward", Op::kRsqrtBackward},
    {"sin_backward", Op::kSinBackward},   {"cos_backward", Op::kCosBackward},
    {"tanh_backward", Op::kTanhBackward}, {"sigmoid_backward", Op::kSigmoidBackward},
    {"erf_backward", Op::kErfBackward},   {"relu_backward", Op::kReluBackward},
    {"gelu_backward", Op::kGeluBackward}, {"gelu_tanh_backward", Op::kGeluTanhBackward},
    {"silu_backward", Op::kSiluBackward}, {"reciprocal_backward", Op::kReciprocalBackward},
    {"abs_backward", Op::kAbsBackward},
};
constexpr GradientSpec kGradients3[] = {
    {"div_backward", Op::kDivBackward},
    {"pow_backward_base", Op::kPowBackwardBase},
    {"pow_backward_exponent", Op::kPowBackwardExponent},
    {"maximum_backward", Op::kMaximumBackward},
    {"minimum_backward", Op::kMinimumBackward},
};

void check_covers(const char* op, const Array& grad, const Input& in) {
  if (in.array == nullptr || in.array->shape() == grad.shape()) return;
  check_value(broadcast_shapes(op, grad.shape(), in.array->shape()) == grad.shape(), op,
              ": inputs must broadcast to ", grad.shape(), ", got ", in.array->shape());
}

Array gradient(const char* name, Op op, Input* inputs, int count, const Numbers& numbers = {}) {
  const Array grad = *inputs[0].array;
  settle_devices(name, inputs, count);
  for (int i = 1; i < count; ++i) check_covers(name, grad, inputs[i]);
  Array out = Array::empty(grad.shape(), grad.dtype(), grad.device());
  run_elementwise(op, compute_dtype(grad.dtype()), inputs, count, &out, 1, numbers);
  return out;
}

// ---- the rest --------------------------------------------------------------------------------

py::object clamp(py::handle x, std::optional<double> low, std::optional<double> high) {
  const Array& a = parse_tensor("clamp", "x", x);
  check_type(a.dtype() != DType::kBool, "clamp: dtype must be a number type, got bool");
  const double infinity = __builtin_inf();
  const Numbers limits{low.value_or(-infinity), high.value_or(infinity)};
  Array y = map(Op::kClamp, a.dtype(), a.shape(), {a}, limits);
  return give(std::move(y), wants_grad(x));
}

Array clamp_backward(const Array& grad, const Array& x, std::optional<double> low,
                     std::optional<double> high) {
  Input inputs[2] = {grad, x};
  const double infinity = __builtin_inf();
  return gradient("clamp_backward", Op::kClampBackward, inputs, 2,
                  {low.value_or(-infinity), high.value_or(infinity)});
}

py::object where(py::handle condition, py::handle a, py::handle b) {
  Input inputs[3] = {Input(parse_tensor("where", "condition", condition)),
                     parse_operand("where", "x", a), parse_operand("where", "y", b)};
  check_type(inputs[0].array->dtype() == DType::kBool, "where: condition must be bool, got ",
             name_of(inputs[0].array->dtype()));
  const DType dtype = result_dtype(inputs + 1, 2);
  settle_devices("where", inputs, 3);
  Dims shape = inputs[0].array == nullptr ? Dims() : inputs[0].array->shape();
  Device device;
  for (const Input& in : inputs) {
    if (in.array == nullptr) continue;
    shape = broadcast_shapes("where", shape, in.array->shape());
    device = in.array->device();
  }
  Array out = Array::empty(shape, dtype, device);
  run_elementwise(Op::kWhere, compute_dtype(dtype), inputs, 3, &out, 1);
  return give(std::move(out), wants_grad(a) || wants_grad(b));
}

py::object masked_fill(py::handle x, py::handle mask, py::handle value) {
  Input inputs[3] = {Input(parse_tensor("masked_fill", "mask", mask)),
                     parse_operand("masked_fill", "value", value),
                     Input(parse_tensor("masked_fill", "x", x))};
  check_type(inputs[0].array->dtype() == DType::kBool, "masked_fill: mask must be bool, got ",
             name_of(inputs[0].array->dtype()));
  const Array& a = *inputs[2].array;
  const DType kinds[2] = {result_dtype(inputs + 1, 1), a.dtype()};
  check_type(is_floating(a.dtype()) || !is_floating(kinds[0]), "masked_fill: value must be an ",
             "integer for dtype ", name_of(a.dtype()));
  check_value(inputs[1].array == nullptr || inputs[1].array->numel() == 1,
              "masked_fill: value must have one element");
  const Dims shape = broadcast_shapes("masked_fill", a.shape(), inputs[0].array->shape());
  settle_devices("masked_fill", inputs, 3);
  Array out = Array::empty(shape, a.dtype(), a.device());
  run_elementwise(Op::kWhere, compute_dtype(a.dtype()), inputs, 3, &out, 1);
  return give(std::move(out), wants_grad(x));
}

void fill_in_place(const Array& target, py::handle value) {
  Input in = parse_operand("fill_", "value", value);
  check_value(in.array == nullptr || in.array->numel() == 1, "fill_: value must have one element");
  in = fitted("fill_", in, target.dtype());
  settle_devices("fill_", &in, 1);
  begin_write("fill_", target);
  run_elementwise(Op::kCopy, compute_dtype(target.dtype()), &in, 1, &target, 1);
}

void copy_in_place(const Array& target, const Array& source) {
  check_value(broadcast_shapes("copy_", target.shape(), source.shape()) == target.shape(),
              "copy_: source must broadcast to ", target.shape(), ", got ", source.shape());
  Array from = apart_from(target, source);
  if (from.device() != target.device())
    from = convert(from, target.dtype(), target.device(), false);
  begin_write("copy_", target);
  if (from.dtype() == target.dtype()) return copy_into(target, from);
  const Input in(from);
  run_elementwise(Op::kCopy, conversion_dtype(from.dtype(), target.dtype()), &in, 1, &target, 1);
}

// None when both inputs have the shape and dtype of `out`, so that gradients need no reshaping;
// else a pair of (shape, dtype) or None for a number.
py::object fit_context(const Array& out, py::handle a, py::handle b) {
  const auto same = [&](py::handle h) {
    if (!binding::is_tensor(h.ptr())) return true;
    const Array& in = binding::array_of(h.ptr());
    return in.dtype() == out.dtype() && in.shape() == out.shape();
  };
  const auto describe = [](py::handle h) -> py::object {
    if (!binding::is_tensor(h.ptr())) return py::none();
    const Array& in = binding::array_of(h.ptr());
    return py::make_tuple(in.shape(), in.dtype());
  };
  if (same(a) && same(b)) return py::none();
  return py::make_tuple(describe(a), describe(b));
}

}  // namespace

void register_elementwise(py::module_& m) {
  for (const BinarySpec& spec : kBinaries)
    m.def(
        spec.name, [&spec](py::handle a, py::handle b) { return binary(spec, a, b); }, py::arg("a"),
        py::arg("b"));
  for (const BinarySpec& spec : kInPlace)
    m.def(
        spec.name, [&spec](py::handle a, py::handle b) { return binary_in_place(spec, a, b); },
        py::arg("a"), py::arg("b"));
  for (const UnarySpec& spec : kUnaries)
    m.def(spec.name, [&spec](py::handle x) { return unary(spec, x); }, py::arg("x"));
  for (const GradientSpec& spec : kGradients2)
    m.def(
        spec.name,
        [&spec](const Array& grad, const Array& saved) {
          Input inputs[2] = {grad, saved};
          return gradient(spec.name, spec.op, inputs, 2);
        },
        py::arg("grad"), py::arg("saved"));
  for (const GradientSpec& spec : kGradients3)
    m.def(
        spec.name,
        [&spec](const Array& grad, py::handle a, py::handle b) {
          Input inputs[3] = {Input(grad), parse_operand(spec.name, "a", a),
                             parse_operand(spec.name, "b", b)};
          return gradient(spec.name, spec.op, inputs, 3);
        },
        py::arg("grad"), py::arg("a"), py::arg("b"));
  m.def("clamp", &clamp, py::arg("x"), py::arg("low"), py::arg("high"));
  m.def("clamp_backward", &clamp_backward, py::arg("grad"), py::arg("x"), py::arg("low"),
        py::arg("high"));
  m.def("where", &where, py::arg("condition"), py::arg("x"), py::arg("y"));
  m.def("masked_fill", &masked_fill, py::arg("x"), py::arg("mask"), py::arg("value"));
  m.def("fill_", &fill_in_place, py::arg("tensor"), py::arg("value"));
  m.def("copy_", &copy_in_place, py::arg("tensor"), py::arg("source"));
  m.def("fit_context", &fit_context, py::arg("out"), py::arg("a"), py::arg("b"));
  register_creation(m);
  register_activation(m);
  register_rotary(m);
}

}  // namespace seqloom::ops
