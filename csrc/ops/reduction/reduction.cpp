// SPDX-License-Identifier: Apache-2.0
// Front door of the reductions: axes, output shapes and dtypes, and the [outer, n, inner] form that
// the kernels work on. Axes that are not neighbours, and inputs that are not contiguous, are
// copied.
#include "ops/reduction/reduction.h"

#include <pybind11/pybind11.h>

#include "binding/registers.h"
#include "ops/elementwise/plan.h"

namespace seqloom::ops {
namespace {

namespace py = pybind11;

struct Axes {
  bool reduced[kMaxRank] = {};
  int count = 0;
};

// None is all axes; an int or a sequence of ints.
Axes parse_axes(const char* op, py::handle axis, int rank) {
  Axes axes;
  const auto add = [&](py::handle h) {
    check_type(PyLong_Check(h.ptr()) && !PyBool_Check(h.ptr()), op,
               ": axis must be an int or a tuple of ints, got ", Py_TYPE(h.ptr())->tp_name);
    const int64_t value = PyLong_AsLongLong(h.ptr());
    if (value == -1 && PyErr_Occurred()) PyErr_Clear();
    const int i = checked_axis(op, value, rank);
    if (rank == 0) return;
    check_value(!axes.reduced[i], op, ": axis must not repeat, got ", value, " twice");
    axes.reduced[i] = true;
    ++axes.count;
  };
  if (axis.is_none()) {
    for (int i = 0; i < rank; ++i) axes.reduced[i] = true;
    axes.count = rank;
  } else if (PyTuple_Check(axis.ptr()) || PyList_Check(axis.ptr())) {
    const auto items = py::reinterpret_steal<py::object>(PySequence_Fast(axis.ptr(), ""));
    const Py_ssize_t n = PySequence_Fast_GET_SIZE(items.ptr());
    for (Py_ssize_t i = 0; i < n; ++i) add(PySequence_Fast_GET_ITEM(items.ptr(), i));
    if (n == 0) return parse_axes(op, py::none(), rank);  // torch: an empty tuple is all axes
  } else {
    add(axis);
  }
  return axes;
}

Dims reduced_shape(const Array& x, const Axes& axes, bool keepdim) {
  Dims shape;
  for (int i = 0; i < x.rank(); ++i) {
    if (!axes.reduced[i])
      shape.push_back(x.shape()[i]);
    else if (keepdim)
      shape.push_back(1);
  }
  return shape;
}

// x as [outer, n, inner] with the reduced axes in the middle.
struct Matrix {
  Array x;
  int64_t outer = 1, n = 1, inner = 1;
};

Matrix as_matrix(const Array& x, const Axes& axes) {
  Matrix m;
  int first = kMaxRank, last = -1;
  bool neighbours = true;
  for (int i = 0; i < x.rank(); ++i) {
    if (!axes.reduced[i] || x.shape()[i] == 1) continue;
    if (first == kMaxRank) first = i;
    last = i;
  }
  for (int i = first; i < last; ++i) neighbours &= axes.reduced[i] || x.shape()[i] == 1;
  if (neighbours) {
    m.x = contiguous(x);
    for (int i = 0; i < x.rank(); ++i) {
      if (first <= i && i <= last)
        m.n *= x.shape()[i];
      else if (i > last && last >= 0)
        m.inner *= x.shape()[i];
      else
        m.outer *= x.shape()[i];
    }
    return m;
  }
  Dims shape, strides;
  for (const bool reduced : {false, true})
    for (int i = 0; i < x.rank(); ++i) {
      if (axes.reduced[i] != reduced) continue;
      shape.push_back(x.shape()[i]);
      strides.push_back(x.strides()[i]);
      (reduced ? m.n : m.outer) *= x.shape()[i];
    }
  m.x = contiguous(x.view(shape, strides));
  return m;
}

int64_t reduced_count(const Array& x, const Axes& axes) {
  int64_t n = 1;
  for (int i = 0; i < x.rank(); ++i)
    if (axes.reduced[i]) n *= x.shape()[i];
  return n;
}

// How many blocks of a GPU share one column: 1 unless columns are few and long.
int64_t slices_for(const Matrix& m) {
  const int64_t columns = m.outer * m.inner;
  if (columns >= 1024 || m.n < 8192) return 1;
  const int64_t wanted = 1024 / columns, most = m.n / 4096;
  return wanted < most ? (wanted < 1 ? 1 : wanted) : most;
}

void run(ReduceOp op, const Matrix& m, const Array* out, const Array* index, double divisor,
         double correction) {
  ReduceArgs args;
  args.op = op;
  args.dtype = m.x.dtype();
  args.outer = m.outer;
  args.n = m.n;
  args.inner = m.inner;
  args.x = m.x.data();
  args.out = out != nullptr ? out->mutable_data() : nullptr;
  args.out_dtype = out != nullptr ? out->dtype() : DType::kInt64;
  args.index = index != nullptr ? index->mutable_as<int64_t>() : nullptr;
  args.divisor = divisor;
  args.correction = correction;
  args.workspace = nullptr;
  args.slices = 1;
  Array workspace;
  if (m.x.is_cuda() && (args.slices = slices_for(m)) > 1) {
    workspace = Array::empty({m.outer * args.slices * m.inner * 4}, DType::kFloat64, m.x.device());
    args.workspace = workspace.mutable_data();
  }
  SEQLOOM_RUN(m.x.device(), m.x.numel(), reduce, args);
}

DType summed_dtype(DType d) { return is_floating(d) ? d : DType::kInt64; }

Array reduce_axes(const char* name, ReduceOp op, const Array& x, py::handle axis, bool keepdim,
                  DType out_dtype, bool mean = false, double correction = 0) {
  const Axes axes = parse_axes(name, axis, x.rank());
  const Array out = Array::empty(reduced_shape(x, axes, keepdim), out_dtype, x.device());
  const double divisor = mean ? static_cast<double>(reduced_count(x, axes)) : 1;
  run(op, as_matrix(x, axes), &out, nullptr, divisor, correction);
  return out;
}

void check_float(const char* name, const Array& x) {
  check_type(is_floating(x.dtype()), name, ": dtype must be floating, got ", name_of(x.dtype()));
}

// ---- extremes --------------------------------------------------------------------------------

void check_not_empty(const char* name, const Array& x, const Axes& axes) {
  check_value(reduced_count(x, axes) > 0, name, ": must have at least one element to choose from, ",
              "got shape ", x.shape());
}

Array extreme_of_all(const char* name, ReduceOp op, const Array& x) {
  const Axes axes = parse_axes(name, py::none(), x.rank());
  check_not_empty(name, x, axes);
  const Array out = Array::empty({}, x.dtype(), x.device());
  run(op, as_matrix(x, axes), &out, nullptr, 1, 0);
  return out;
}

// (values, indices), or the indices alone.
std::pair<Array, Array> extreme(const char* name, ReduceOp op, const Array& x, py::handle axis,
                                bool keepdim, bool want_values) {
  const Axes axes = parse_axes(name, axis, x.rank());
  check_value(axes.count <= 1 || axis.is_none(), name, ": axis must be one axis, got ", axes.count);
  check_not_empty(name, x, axes);
  const Dims shape = reduced_shape(x, axes, keepdim);
  Array values;
  if (want_values) values = Array::empty(shape, x.dtype(), x.device());
  const Array indices = Array::empty(shape, DType::kInt64, x.device());
  run(op, as_matrix(x, axes), want_values ? &values : nullptr, &indices, 1, 0);
  return {values, indices};
}

// outer, n, inner of one axis of a contiguous array.
Matrix along(const char* name, const Array& x, int64_t axis) {
  const int a = checked_axis(name, axis, x.rank());
  Matrix m;
  m.x = contiguous(x);
  for (int i = 0; i < x.rank(); ++i) (i < a ? m.outer : i == a ? m.n : m.inner) *= x.shape()[i];
  return m;
}

Array extreme_backward(const Array& grad, const Array& index, const Dims& shape, int64_t axis) {
  const Array dx = Array::empty(shape, grad.dtype(), grad.device());
  const Matrix m = along("max", dx, axis);
  check_value(grad.numel() == m.outer * m.inner && index.numel() == grad.numel(),
              "max: gradient does not fit");
  const Array g = contiguous(grad), at = contiguous(index);
  ExtremeBackwardArgs args;
  args.item_size = static_cast<int32_t>(item_size(grad.dtype()));
  args.outer = m.outer;
  args.n = m.n;
  args.inner = m.inner;
  args.grad = g.data();
  args.index = at.data_as<int64_t>();
  args.dx = dx.mutable_data();
  if (dx.numel() > 0) SEQLOOM_RUN(dx.device(), dx.numel(), extreme_backward, args);
  return dx;
}

// ---- products and scans ------------------------------------------------------------------------

// The gradient of prod over `axis`, or over everything where axis is None.
Array prod_backward(const Array& grad, const Array& x, py::handle axis) {
  check_float("prod", x);
  const Axes axes = parse_axes("prod", axis, x.rank());
  const Array in = contiguous(x);
  Matrix m = as_matrix(in, axes);
  const Array g = contiguous(grad);
  check_value(g.numel() == m.outer * m.inner && axes.count <= 1 + (axis.is_none() ? kMaxRank : 0),
              "prod: gradient does not fit");
  const Array dx = Array::empty_like(in);
  ProdBackwardArgs args;
  args.dtype = x.dtype();
  args.outer = m.outer;
  args.n = m.n;
  args.inner = m.inner;
  args.grad = g.data();
  args.x = in.data();
  args.dx = dx.mutable_data();
  if (dx.numel() > 0) SEQLOOM_RUN(dx.device(), dx.numel(), prod_backward, args);
  return dx;
}

Array cumsum(const Array& x, int64_t axis, bool reverse) {
  const Matrix m = along("cumsum", x, axis);
  const Array out = Array::empty(x.shape(), summed_dtype(x.dtype()), x.device());
  CumsumArgs args;
  args.dtype = x.dtype();
  args.out_dtype = out.dtype();
  args.reverse = reverse;
  args.outer = m.outer;
  args.n = m.n;
  args.inner = m.inner;
  args.x = m.x.data();
  args.out = out.mutable_data();
  if (out.numel() > 0) SEQLOOM_RUN(out.device(), out.numel(), cumsum, args);
  return out;
}

// ---- broadcasting and its reverse
// ----------------------------------------------------------------

// The sum of `grad` over the axes along which `shape` was broadcast to it.
Array sum_to(const Array& grad, const Dims& shape, std::optional<DType> wanted) {
  const DType dtype = wanted.value_or(grad.dtype());
  if (grad.shape() == shape) return convert(grad, dtype, grad.device(), false);
  const int missing = grad.rank() - shape.size();
  check_value(missing >= 0, "sum_to: ", grad.shape(), " does not come from ", shape);
  Axes axes;
  for (int i = 0; i < grad.rank(); ++i) {
    axes.reduced[i] = i < missing || (shape[i - missing] == 1 && grad.shape()[i] != 1);
    axes.count += axes.reduced[i];
    check_value(axes.reduced[i] || shape[i - missing] == grad.shape()[i], "sum_to: ", grad.shape(),
                " does not come from ", shape);
  }
  const Array out = Array::empty(shape, dtype, grad.device());
  if (!is_floating(grad.dtype()) && is_floating(dtype))
    return sum_to(convert(grad, dtype, grad.device(), false), shape, dtype);
  run(ReduceOp::kSum, as_matrix(grad, axes), &out, nullptr, 1, 0);
  return out;
}

// `reduced` (with or without the reduced axes) seen as `shape`: a view with strides of 0.
Array expand_reduced(const Array& reduced, const Dims& shape, py::handle axis) {
  const Axes axes = parse_axes("expand", axis, shape.size());
  const bool kept = reduced.rank() == shape.size();
  check_value(kept || reduced.rank() == shape.size() - axes.count, "expand: gradient does not fit");
  Dims strides = Dims::filled(shape.size(), 0);
  int from = 0;
  for (int i = 0; i < shape.size(); ++i) {
    if (axes.reduced[i]) {
      from += kept;
      continue;
    }
    check_value(reduced.shape()[from] == shape[i], "expand: gradient does not fit");
    strides[i] = reduced.strides()[from++];
  }
  return reduced.view(shape, strides);
}

}  // namespace

void register_reduction(py::module_& m) {
  const auto x = py::arg("x"), axis = py::arg("axis"), keepdim = py::arg("keepdim");
  m.def(
      "sum",
      [](const Array& a, py::handle d, bool k) {
        return reduce_axes("sum", ReduceOp::kSum, a, d, k, summed_dtype(a.dtype()));
      },
      x, axis, keepdim);
  m.def(
      "mean",
      [](const Array& a, py::handle d, bool k, std::optional<DType> dtype) {
        check_float("mean", a);
        return reduce_axes("mean", ReduceOp::kSum, a, d, k, dtype.value_or(a.dtype()), true);
      },
      x, axis, keepdim, py::arg("dtype") = py::none());
  m.def(
      "prod",
      [](const Array& a, py::handle d, bool k) {
        return reduce_axes("prod", ReduceOp::kProd, a, d, k, summed_dtype(a.dtype()));
      },
      x, axis, keepdim);
  m.def(
      "var",
      [](const Array& a, py::handle d, double correction, bool k) {
        check_float("var", a);
        return reduce_axes("var", ReduceOp::kVar, a, d, k, a.dtype(), false, correction);
      },
      x, axis, py::arg("correction"), keepdim);
  m.def(
      "any",
      [](const Array& a, py::handle d, bool k) {
        return reduce_axes("any", ReduceOp::kAny, a, d, k, DType::kBool);
      },
      x, axis, keepdim);
  m.def(
      "all",
      [](const Array& a, py::handle d, bool k) {
        return reduce_axes("all", ReduceOp::kAll, a, d, k, DType::kBool);
      },
      x, axis, keepdim);
  m.def(
      "logsumexp",
      [](const Array& a, py::handle d, bool k, std::optional<DType> dtype) {
        check_float("logsumexp", a);
        return reduce_axes("logsumexp", ReduceOp::kLogSumExp, a, d, k, dtype.value_or(a.dtype()));
      },
      x, axis, keepdim, py::arg("dtype") = py::none());
  m.def("max_all", [](const Array& a) { return extreme_of_all("max", ReduceOp::kMax, a); }, x);
  m.def("min_all", [](const Array& a) { return extreme_of_all("min", ReduceOp::kMin, a); }, x);
  m.def(
      "max",
      [](const Array& a, py::handle d, bool k) {
        return extreme("max", ReduceOp::kMax, a, d, k, true);
      },
      x, axis, keepdim);
  m.def(
      "min",
      [](const Array& a, py::handle d, bool k) {
        return extreme("min", ReduceOp::kMin, a, d, k, true);
      },
      x, axis, keepdim);
  m.def(
      "argmax",
      [](const Array& a, py::handle d, bool k) {
        return extreme("argmax", ReduceOp::kMax, a, d, k, false).second;
      },
      x, axis, keepdim);
  m.def(
      "argmin",
      [](const Array& a, py::handle d, bool k) {
        return extreme("argmin", ReduceOp::kMin, a, d, k, false).second;
      },
      x, axis, keepdim);
  m.def("extreme_backward", &extreme_backward, py::arg("grad"), py::arg("index"), py::arg("shape"),
        axis);
  m.def("prod_backward", &prod_backward, py::arg("grad"), x, axis);
  m.def("cumsum", &cumsum, x, axis, py::arg("reverse"));
  m.def("sum_to", &sum_to, py::arg("grad"), py::arg("shape"), py::arg("dtype") = py::none());
  m.def("expand_reduced", &expand_reduced, py::arg("reduced"), py::arg("shape"), axis);
}

}  // namespace seqloom::ops
