// SPDX-License-Identifier: Apache-2.0
#include "ops/softmax/softmax.h"

#include "binding/registers.h"
#include "ops/common.h"

namespace seqloom::ops {
namespace {

namespace py = pybind11;

struct Extents {
  int64_t outer = 1, length = 1, inner = 1;
};

Extents extents_of(const Dims& shape, int axis) {
  Extents e;
  for (int i = 0; i < shape.size(); ++i)
    (i < axis ? e.outer : i == axis ? e.length : e.inner) *= shape[i];
  return e;
}

void check_dtype(const char* op, const char* name, const Array& a) {
  check_type(is_floating(a.dtype()) && !(a.is_cuda() && a.dtype() == DType::kFloat64), op, ": ",
             name, " must be float32, float16, bfloat16, or float64 on the CPU, got ",
             name_of(a.dtype()), " on ", a.device());
}

Array forward(const Array& x, int64_t axis, bool log) {
  const char* op = log ? "log_softmax" : "softmax";
  check_dtype(op, "x", x);
  const Extents e = extents_of(x.shape(), checked_axis(op, axis, x.rank()));
  const Array input = contiguous(x);
  Array y = Array::empty_like(input);
  if (y.numel() == 0) return y;
  const SoftmaxArgs args{input.data(), y.mutable_data(), e.outer, e.length,
                         e.inner,      x.dtype(),        log};
  SEQLOOM_RUN(x.device(), x.numel(), softmax_forward, args);
  return y;
}

Array backward(const Array& dy, const Array& y, int64_t axis, bool log) {
  const char* op = log ? "log_softmax" : "softmax";
  check_dtype(op, "y", y);
  check_same_dtype(op, "gradient", dy, "y", y);
  check_same_device(op, "gradient", dy, "y", y);
  check_shape(op, "gradient", dy, y.shape(), "of y");
  const Extents e = extents_of(y.shape(), checked_axis(op, axis, y.rank()));
  const Array gradient = contiguous(dy), output = contiguous(y);
  Array dx = Array::empty_like(output);
  if (dx.numel() == 0) return dx;
  const SoftmaxBackwardArgs args{gradient.data(), output.data(), dx.mutable_data(), e.outer,
                                 e.length,        e.inner,       y.dtype(),         log};
  SEQLOOM_RUN(y.device(), y.numel(), softmax_backward, args);
  return dx;
}

}  // namespace

void register_softmax(py::module_& m) {
  m.def(
      "softmax_forward", [](const Array& x, int64_t axis) { return forward(x, axis, false); },
      py::arg("x"), py::arg("axis"));
  m.def(
      "log_softmax_forward", [](const Array& x, int64_t axis) { return forward(x, axis, true); },
      py::arg("x"), py::arg("axis"));
  m.def(
      "softmax_backward",
      [](const Array& dy, const Array& y, int64_t axis) { return backward(dy, y, axis, false); },
      py::arg("gradient"), py::arg("y"), py::arg("axis"));
  m.def(
      "log_softmax_backward",
      [](const Array& dy, const Array& y, int64_t axis) { return backward(dy, y, axis, true); },
      py::arg("gradient"), py::arg("y"), py::arg("axis"));
}

}  // namespace seqloom::ops
