// SPDX-License-Identifier: Apache-2.0
#include "ops/layout/layout_views.h"

#include <pybind11/pybind11.h>

#include <cstring>
#include <vector>

#include "ops/common.h"

namespace seqloom::ops {

namespace py = pybind11;

int64_t index_argument(const char* op, const char* name, py::handle value) {
  PyObject* o = value.ptr();
  if (SEQLOOM_LIKELY(PyLong_CheckExact(o))) {
    int overflow = 0;
    const long long i = PyLong_AsLongLongAndOverflow(o, &overflow);
    check_value(overflow == 0, op, ": ", name, " must fit in 64 bits");
    return i;
  }
  check_type(!PyBool_Check(o) && PyIndex_Check(o), op, ": ", name, " must be an integer, got ",
             binding::type_name(o));
  const py::object exact = py::reinterpret_steal<py::object>(PyNumber_Index(o));
  if (!exact) {
    PyErr_Clear();
    throw TypeError(str(op, ": ", name, " must be an integer, got ", binding::type_name(o)));
  }
  return index_argument(op, name, exact);
}

Dims dims_argument(const char* op, const char* name, py::handle values) {
  PyObject* o = values.ptr();
  check_type(PyTuple_Check(o) || PyList_Check(o), op, ": ", name,
             " must be a tuple of integers, got ", binding::type_name(o));
  const Py_ssize_t n = PySequence_Fast_GET_SIZE(o);
  check_value(n <= kMaxRank, op, ": ", name, " must have at most ", kMaxRank, " entries, got ", n);
  Dims dims;
  for (Py_ssize_t i = 0; i < n; ++i)
    dims.push_back(index_argument(op, name, PySequence_Fast_GET_ITEM(o, i)));
  return dims;
}

std::optional<Dims> view_strides(const Array& a, const Dims& shape) {
  if (a.numel() == 0 || a.is_contiguous()) return contiguous_strides(shape);
  // Walk both shapes from the end. A run of old axes that lie as one must cover the same number
  // of elements as a run of new axes.
  Dims strides = Dims::filled(shape.size(), 1);
  int j = shape.size() - 1;
  int64_t run = 1, base = 0;
  bool open = false;
  for (int i = a.rank() - 1; i >= 0; --i) {
    if (a.shape()[i] == 1) continue;
    if (!open) base = a.strides()[i];
    run *= a.shape()[i];
    open = true;
    int next = i - 1;
    while (next >= 0 && a.shape()[next] == 1) --next;
    if (next >= 0 && a.strides()[next] == run * base) continue;
    int64_t covered = 1;
    while (j >= 0 && (covered < run || shape[j] == 1)) {
      strides[j] = covered * base;
      covered *= shape[j--];
    }
    if (covered != run) return std::nullopt;
    run = 1;
    open = false;
  }
  for (; j >= 0; --j) strides[j] = 1;  // what is left are axes of one element
  return strides;
}

Array transpose_view(const Array& a, int axis0, int axis1) {
  Dims shape = a.shape(), strides = a.strides();
  std::swap(shape[axis0], shape[axis1]);
  std::swap(strides[axis0], strides[axis1]);
  return a.view(shape, strides);
}

Array permute_view(const char* op, const Array& a, const Dims& axes) {
  check_value(axes.size() == a.rank(), op, ": dims must name each of the ", a.rank(),
              " axes once, got ", axes);
  Dims shape, strides;
  unsigned seen = 0;
  for (int64_t axis : axes) {
    const int i = checked_axis(op, axis, a.rank());
    check_value((seen >> i & 1u) == 0, op, ": dims must name each axis once, got ", axes);
    seen |= 1u << i;
    shape.push_back(a.shape()[i]);
    strides.push_back(a.strides()[i]);
  }
  return a.view(shape, strides);
}

Array expand_view(const char* op, const Array& a, Dims shape) {
  const int extra = shape.size() - a.rank();
  check_value(extra >= 0, op, ": shape must have at least the ", a.rank(), " axes of ", a.shape(),
              ", got ", shape);
  Dims strides = Dims::filled(shape.size(), 0);
  const Dims asked = shape;
  for (int i = 0; i < shape.size(); ++i) {
    const int64_t have = i < extra ? 1 : a.shape()[i - extra];
    if (shape[i] == -1 && i >= extra) shape[i] = have;
    check_value(shape[i] >= 0 && (have == 1 || have == shape[i]), op, ": ", a.shape(),
                " can't be broadcast to shape ", asked);
    strides[i] = have == 1 && shape[i] != 1 ? 0 : (i < extra ? 0 : a.strides()[i - extra]);
  }
  int64_t elements = 1;
  bool fits = true;
  for (int64_t extent : shape)
    fits &= extent == 0 || !__builtin_mul_overflow(elements, extent, &elements);
  check_value(fits && elements <= INT64_MAX / item_size(a.dtype()), op, ": shape must have fewer ",
              "than 2^63 bytes, got ", asked);
  return a.view(shape, strides);
}

Array narrow_view(const Array& a, int axis, int64_t start, int64_t length) {
  Dims shape = a.shape();
  shape[axis] = length;
  return a.view(shape, a.strides(), length == 0 ? 0 : start * a.strides()[axis]);
}

namespace {

// Fills in the one -1; ValueError when the sizes differ.
Dims resolved_shape(const char* op, const Array& a, Dims shape) {
  int unknown = -1;
  int64_t known = 1;
  bool fits = true, empty = false;
  for (int i = 0; i < shape.size(); ++i) {
    if (shape[i] == -1) {
      check_value(unknown < 0, op, ": shape must have at most one -1, got ", shape);
      unknown = i;
    } else {
      check_value(shape[i] >= 0, op, ": shape must not be negative, got ", shape);
      // With an extent 0 the product is 0, whatever the others overflow to.
      if (shape[i] == 0)
        empty = true;
      else
        fits &= !__builtin_mul_overflow(known, shape[i], &known);
    }
  }
  if (empty) {
    known = 0;
    fits = true;
  }
  if (unknown >= 0) {
    fits &= known != 0 && a.numel() % known == 0;
    check_value(fits, op, ": shape must hold the ", a.numel(), " elements of ", a.shape(), ", got ",
                shape);
    shape[unknown] = a.numel() / known;
  } else {
    check_value(fits && known == a.numel(), op, ": shape must hold the ", a.numel(),
                " elements of ", a.shape(), ", got ", shape);
  }
  return shape;
}

Array reshape(const Array& a, py::handle shape_argument, bool copy) {
  const char* op = copy ? "reshape" : "view";
  const Dims shape = resolved_shape(op, a, dims_argument(op, "shape", shape_argument));
  if (const auto strides = view_strides(a, shape)) return a.view(shape, *strides);
  check_value(copy, "view: shape ", shape, " can't be had without a copy of shape ", a.shape(),
              " with strides ", a.strides(), "; use reshape");
  return contiguous(a).reshaped(shape);
}

Array flatten(const Array& a, py::handle start, py::handle end) {
  const int first =
      checked_axis("flatten", index_argument("flatten", "start_dim", start), a.rank());
  const int last = checked_axis("flatten", index_argument("flatten", "end_dim", end), a.rank());
  check_value(first <= last, "flatten: start_dim must not come after end_dim, got ", first, " and ",
              last);
  Dims shape;
  int64_t merged = 1;
  for (int i = 0; i < a.rank(); ++i) {
    if (i < first || i > last) shape.push_back(a.shape()[i]);
    if (i >= first && i <= last) merged *= a.shape()[i];
    if (i == last) shape.push_back(merged);
  }
  if (a.rank() == 0) shape.push_back(1);
  if (const auto strides = view_strides(a, shape)) return a.view(shape, *strides);
  return contiguous(a).reshaped(shape);
}

Array transpose(const Array& a, py::handle dim0, py::handle dim1) {
  const int axis0 = checked_axis("transpose", index_argument("transpose", "dim0", dim0), a.rank());
  const int axis1 = checked_axis("transpose", index_argument("transpose", "dim1", dim1), a.rank());
  return a.rank() == 0 ? a : transpose_view(a, axis0, axis1);
}

Array permute(const Array& a, py::handle dims) {
  return permute_view("permute", a, dims_argument("permute", "dims", dims));
}

Array expand(const Array& a, py::handle shape) {
  return expand_view("expand", a, dims_argument("expand", "shape", shape));
}

Array squeeze(const Array& a, py::handle dim) {
  unsigned wanted = ~0u;
  if (!dim.is_none()) {
    wanted = 0;
    const bool many = PyTuple_Check(dim.ptr()) || PyList_Check(dim.ptr());
    const Dims axes =
        many ? dims_argument("squeeze", "dim", dim) : Dims{index_argument("squeeze", "dim", dim)};
    for (int64_t axis : axes) wanted |= 1u << checked_axis("squeeze", axis, a.rank());
  }
  Dims shape, strides;
  for (int i = 0; i < a.rank(); ++i) {
    if ((wanted >> i & 1u) != 0 && a.shape()[i] == 1) continue;
    shape.push_back(a.shape()[i]);
    strides.push_back(a.strides()[i]);
  }
  return a.view(shape, strides);
}

Array unsqueeze(const Array& a, py::handle dim) {
  check_value(a.rank() < kMaxRank, "unsqueeze: the result must have at most ", kMaxRank, " axes");
  const int axis = checked_axis("unsqueeze", index_argument("unsqueeze", "dim", dim), a.rank() + 1);
  Dims shape, strides;
  for (int i = 0; i <= a.rank(); ++i) {
    if (i == axis) {
      shape.push_back(1);
      strides.push_back(i < a.rank() ? a.shape()[i] * a.strides()[i] : 1);
    }
    if (i < a.rank()) {
      shape.push_back(a.shape()[i]);
      strides.push_back(a.strides()[i]);
    }
  }
  return a.view(shape, strides);
}

Array flip(const Array& a, py::handle dims) {
  Dims strides = a.strides();
  int64_t offset = 0;
  unsigned seen = 0;
  for (int64_t axis : dims_argument("flip", "dims", dims)) {
    const int i = checked_axis("flip", axis, a.rank());
    check_value((seen >> i & 1u) == 0, "flip: dims must name an axis once, got ", axis, " again");
    seen |= 1u << i;
    if (a.rank() == 0 || a.numel() == 0) continue;
    offset += (a.shape()[i] - 1) * strides[i];
    strides[i] = -strides[i];
  }
  return a.view(a.shape(), strides, offset);
}

// Pieces of an axis: `size` is the length of each, or a list of lengths that add up.
py::tuple split(const Array& a, py::handle size, py::handle dim) {
  check_value(a.rank() > 0, "split: must have at least one axis");
  const int axis = checked_axis("split", index_argument("split", "dim", dim), a.rank());
  const int64_t extent = a.shape()[axis];
  std::vector<int64_t> lengths;
  if (PyTuple_Check(size.ptr()) || PyList_Check(size.ptr())) {
    int64_t total = 0;
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(size.ptr()); ++i) {
      const int64_t n =
          index_argument("split", "sections", PySequence_Fast_GET_ITEM(size.ptr(), i));
      check_value(n >= 0 && n <= extent, "split: sections must be in [0, ", extent, "], got ", n);
      lengths.push_back(n);
      total += n;
    }
    check_value(total == extent, "split: sections must add up to ", extent, ", got ", total);
  } else {
    const int64_t step = index_argument("split", "split_size", size);
    check_value(step > 0, "split: split_size must be positive, got ", step);
    for (int64_t at = 0; at < extent; at += step)
      lengths.push_back(extent - at < step ? extent - at : step);
    if (extent == 0) lengths.push_back(0);
  }
  py::tuple pieces(lengths.size());
  int64_t at = 0;
  for (size_t i = 0; i < lengths.size(); at += lengths[i++])
    pieces[i] = py::cast(narrow_view(a, axis, at, lengths[i]));
  return pieces;
}

// Elements of a row-major array under any geometry that stays inside it.
Array as_strided(const Array& a, const Dims& shape, const Dims& strides, int64_t offset) {
  check_value(shape.size() == strides.size() && a.is_contiguous(),
              "as_strided: shape and strides must be of one rank, x contiguous");
  int64_t low = offset, high = offset;
  bool empty = false;
  for (int i = 0; i < shape.size(); ++i) {
    check_value(shape[i] >= 0, "as_strided: shape must not be negative, got ", shape);
    empty |= shape[i] == 0;
    (strides[i] < 0 ? low : high) += (shape[i] - 1) * strides[i];
  }
  if (empty) return a.view(shape, strides, 0);
  check_value(low >= 0 && high < a.numel(), "as_strided: must stay inside ", a.numel(),
              " elements, got ", low, " to ", high);
  return a.view(shape, strides, offset);
}

// Where the first element of a view lies, counted from the first of its base.
int64_t view_offset(const Array& base, const Array& view) {
  return (static_cast<const char*>(view.data()) - static_cast<const char*>(base.data())) /
         item_size(base.dtype());
}

// Whether an entry of a key selects by itself, without an array.
bool is_integer_entry(PyObject* o) {
  if (PyLong_CheckExact(o)) return true;
  if (PyBool_Check(o) || binding::is_tensor(o) || !PyIndex_Check(o)) return false;
  const char* name = Py_TYPE(o)->tp_name;
  if (std::strncmp(name, "numpy.", 6) == 0)
    return std::strncmp(name + 6, "bool", 4) != 0 && std::strcmp(name + 6, "ndarray") != 0;
  return PyLong_Check(o) || !PyObject_HasAttrString(o, "__array__");
}

// Whether the tape must follow an in-place change of `x` by `source`; throws where it can't, or
// where the memory may not be written.
bool check_in_place(const char* op, py::handle x, py::handle source) {
  const Array& a = binding::array_of(x.ptr());
  check_writable(op, "the tensor", a);
  for (int i = 0; i < a.rank(); ++i)
    check_value(a.strides()[i] != 0 || a.shape()[i] <= 1, op,
                ": an expanded tensor can't be changed in place; use clone() first");
  const auto wants = [](py::handle t) {
    return binding::is_tensor(t.ptr()) && binding::requires_grad(t.ptr());
  };
  if (!binding::grad_enabled() || !is_floating(a.dtype()) || !(wants(x) || wants(source)))
    return false;
  const auto* t = reinterpret_cast<binding::TensorObject*>(x.ptr());
  const auto* base = reinterpret_cast<binding::TensorObject*>(t->base);
  if (t->requires_grad && t->node == nullptr)
    throw DeviceError(
        str(op, ": a leaf that requires a gradient can't be changed in place; use ", "no_grad()"));
  if (base != nullptr && base->requires_grad && base->node == nullptr)
    throw DeviceError(str(op, ": a view of a leaf that requires a gradient can't be changed in ",
                          "place; use no_grad()"));
  if (base == nullptr && a.is_view() && a.storage()->references.load(std::memory_order_relaxed) > 1)
    throw DeviceError(str(op, ": a view that was made in no_grad() can't be changed in place with ",
                          "a gradient; use clone() first"));
  return true;
}

}  // namespace

std::optional<Array> index_view(const char* op, const Array& a, py::handle key) {
  PyObject* single = key.ptr();
  const bool many = PyTuple_Check(single);
  const Py_ssize_t count = many ? PyTuple_GET_SIZE(single) : 1;
  const auto entry = [&](Py_ssize_t i) { return many ? PyTuple_GET_ITEM(single, i) : single; };
  int used = 0, ellipses = 0;
  for (Py_ssize_t i = 0; i < count; ++i) {
    PyObject* e = entry(i);
    if (e == Py_Ellipsis)
      ++ellipses;
    else if (e == Py_None)
      continue;
    else if (PySlice_Check(e) || is_integer_entry(e))
      ++used;
    else
      return std::nullopt;
  }
  check_index(ellipses <= 1, op, ": key must have at most one ellipsis, got ", ellipses);
  check_index(used <= a.rank(), op, ": key must have at most ", a.rank(), " indices, got ", used);

  Dims shape, strides;
  int64_t offset = 0;
  int axis = 0;
  const auto push = [&](int64_t extent, int64_t stride) {
    check_index(shape.size() < kMaxRank, op, ": the result must have at most ", kMaxRank, " axes");
    shape.push_back(extent);
    strides.push_back(stride);
  };
  const auto keep = [&](int n) {
    for (; n > 0; --n, ++axis) push(a.shape()[axis], a.strides()[axis]);
  };
  for (Py_ssize_t i = 0; i < count; ++i) {
    PyObject* e = entry(i);
    if (e == Py_Ellipsis) {
      keep(a.rank() - used);
    } else if (e == Py_None) {
      push(1, 0);
    } else if (PySlice_Check(e)) {
      Py_ssize_t start, stop, step;
      if (PySlice_Unpack(e, &start, &stop, &step) < 0) {
        const bool zero = PyErr_ExceptionMatches(PyExc_ValueError) != 0;
        PyErr_Clear();
        check_value(!zero, op, ": the step of a slice must not be 0");
        throw TypeError(str(op, ": slices must be of integers or None, got ",
                            py::cast<std::string>(py::repr(e))));
      }
      const int64_t extent = a.shape()[axis], stride = a.strides()[axis];
      const Py_ssize_t length = PySlice_AdjustIndices(extent, &start, &stop, step);
      if (length > 0) offset += start * stride;
      push(length, length > 1 ? stride * step : stride);
      ++axis;
    } else {
      const int64_t extent = a.shape()[axis];
      int64_t at;
      try {
        at = index_argument(op, "index", e);
      } catch (const ValueError&) {
        at = INT64_MAX;  // past 64 bits is past the end
      }
      check_index(at >= -extent && at < extent, op, ": index ", at, " is out of bounds for axis ",
                  axis, " with size ", extent);
      offset += (at < 0 ? at + extent : at) * a.strides()[axis];
      ++axis;
    }
  }
  if (axis < a.rank()) keep(a.rank() - axis);
  bool zero = false;
  for (int64_t extent : shape) zero |= extent == 0;
  return a.view(shape, strides, zero ? 0 : offset);
}

void register_views(py::module_& m) {
  m.def(
      "reshape", [](const Array& x, py::handle shape) { return reshape(x, shape, true); },
      py::arg("x"), py::arg("shape"));
  m.def(
      "view", [](const Array& x, py::handle shape) { return reshape(x, shape, false); },
      py::arg("x"), py::arg("shape"));
  m.def("flatten", &flatten, py::arg("x"), py::arg("start_dim"), py::arg("end_dim"));
  m.def("transpose", &transpose, py::arg("x"), py::arg("dim0"), py::arg("dim1"));
  m.def("permute", &permute, py::arg("x"), py::arg("dims"));
  m.def("expand", &expand, py::arg("x"), py::arg("shape"));
  m.def("squeeze", &squeeze, py::arg("x"), py::arg("dim"));
  m.def("unsqueeze", &unsqueeze, py::arg("x"), py::arg("dim"));
  m.def("flip", &flip, py::arg("x"), py::arg("dims"));
  m.def("split", &split, py::arg("x"), py::arg("size"), py::arg("dim"));
  m.def("as_strided", &as_strided, py::arg("x"), py::arg("shape"), py::arg("strides"),
        py::arg("offset"));
  m.def("view_offset", &view_offset, py::arg("base"), py::arg("view"));
  m.def(
      "check_in_place",
      [](const char* op, py::handle x, py::handle source) {
        check_type(binding::is_tensor(x.ptr()), op, ": must be a Tensor, got ",
                   binding::type_name(x.ptr()));
        return check_in_place(op, x, source);
      },
      py::arg("op"), py::arg("x"), py::arg("source"));
  m.def(
      "index",
      [](const Array& x, py::handle key, const char* op) { return index_view(op, x, key); },
      py::arg("x"), py::arg("key"), py::arg("op") = "getitem");
}

}  // namespace seqloom::ops
