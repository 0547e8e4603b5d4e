// SPDX-License-Identifier: Apache-2.0
// Front door of the layout kernels.
#include "ops/layout/layout.h"

#include <pybind11/pybind11.h>

#include <vector>

#include "ops/common.h"
#include "ops/elementwise/plan.h"
#include "ops/layout/layout_views.h"

namespace seqloom::ops {
namespace {

namespace py = pybind11;

// Axes [first, last) of `a`, neighbours that lie as one joined, axes of one element left out.
Extents extents_of(const Array& a, int first, int last) {
  Extents e;
  e.rank = 0;
  e.count = 1;
  for (int i = first; i < last; ++i) {
    const int64_t extent = a.shape()[i], stride = a.strides()[i];
    e.count *= extent;
    if (extent == 1) continue;
    if (e.rank > 0 && e.strides[e.rank - 1] == extent * stride) {
      e.shape[e.rank - 1] *= extent;
      e.strides[e.rank - 1] = stride;
    } else {
      e.shape[e.rank] = extent;
      e.strides[e.rank++] = stride;
    }
  }
  return e;
}

const Array& tensor_argument(const char* op, const char* name, py::handle value) {
  check_type(binding::is_tensor(value.ptr()), op, ": ", name, " must be a Tensor, got ",
             binding::type_name(value.ptr()));
  return binding::array_of(value.ptr());
}

// The arrays of a list or tuple of Tensors; one dtype and one device.
std::vector<Array> tensor_list(const char* op, py::handle tensors) {
  PyObject* o = tensors.ptr();
  check_type(PyTuple_Check(o) || PyList_Check(o), op, ": tensors must be a list of Tensors, got ",
             binding::type_name(o));
  const Py_ssize_t n = PySequence_Fast_GET_SIZE(o);
  check_value(n > 0, op, ": tensors must have at least one entry");
  std::vector<Array> arrays;
  arrays.reserve(static_cast<size_t>(n));
  for (Py_ssize_t i = 0; i < n; ++i) {
    arrays.push_back(tensor_argument(op, "every entry of tensors", PySequence_Fast_GET_ITEM(o, i)));
    check_same_dtype(op, "every entry of tensors", arrays.back(), "the first", arrays.front());
    check_same_device(op, "every entry of tensors", arrays.back(), "the first", arrays.front());
  }
  return arrays;
}

// ---- joining -----------------------------------------------------------------------------------

Array join(const char* op, const std::vector<Array>& parts, int axis) {
  Dims shape = parts[0].shape();
  shape[axis] = 0;
  for (const Array& part : parts) {
    check_value(part.rank() == shape.size(), op, ": every entry of tensors must have ",
                shape.size(), " axes, got shape ", part.shape());
    for (int i = 0; i < shape.size(); ++i)
      check_value(i == axis || part.shape()[i] == shape[i], op, ": every entry of tensors must ",
                  "have shape ", parts[0].shape(), " but for axis ", axis, ", got ", part.shape());
    check_value(!__builtin_add_overflow(shape[axis], part.shape()[axis], &shape[axis]), op,
                ": the result does not fit in memory");
  }
  const Array out = Array::empty(shape, parts[0].dtype(), parts[0].device());
  int64_t at = 0;
  for (const Array& part : parts) {
    const int64_t extent = part.shape()[axis];
    if (part.numel() > 0) copy_into(narrow_view(out, axis, at, extent), part);
    at += extent;
  }
  return out;
}

Array cat(py::handle tensors, py::handle dim) {
  const std::vector<Array> parts = tensor_list("cat", tensors);
  check_value(parts[0].rank() > 0, "cat: tensors must have at least one axis; use stack");
  return join("cat", parts,
              checked_axis("cat", index_argument("cat", "dim", dim), parts[0].rank()));
}

Array stack(py::handle tensors, py::handle dim) {
  std::vector<Array> parts = tensor_list("stack", tensors);
  const Dims shape = parts[0].shape();
  check_value(shape.size() < kMaxRank, "stack: the result must have at most ", kMaxRank, " axes");
  const int axis = checked_axis("stack", index_argument("stack", "dim", dim), shape.size() + 1);
  for (Array& part : parts) {
    check_value(part.shape() == shape, "stack: every entry of tensors must have shape ", shape,
                ", got ", part.shape());
    Dims s, strides;
    for (int i = 0; i <= shape.size(); ++i) {
      if (i == axis) {
        s.push_back(1);
        strides.push_back(1);
      }
      if (i < shape.size()) {
        s.push_back(shape[i]);
        strides.push_back(part.strides()[i]);
      }
    }
    part = part.view(s, strides);
  }
  return join("stack", parts, axis);
}

// One view for each position of an axis, without that axis.
py::tuple unbind(const Array& a, int axis) {
  Dims shape, strides;
  for (int i = 0; i < a.rank(); ++i) {
    if (i == axis) continue;
    shape.push_back(a.shape()[i]);
    strides.push_back(a.strides()[i]);
  }
  py::tuple views(a.shape()[axis]);
  for (int64_t i = 0; i < a.shape()[axis]; ++i)
    views[static_cast<size_t>(i)] = py::cast(a.view(shape, strides, i * a.strides()[axis]));
  return views;
}

// ---- ids ---------------------------------------------------------------------------------------

// Which index is out of range, in the order of the elements.
void raise_index_error(const char* op, const IndexIdsArgs& a, int first_axis) {
  for (int64_t j = 0; j < a.count; ++j)
    for (int k = 0; k < a.indices; ++k) {
      int64_t rest = j, offset = 0;
      for (int d = a.rank - 1; d >= 0; --d) {
        offset += rest % a.shape[d] * a.index_strides[k][d];
        rest /= a.shape[d];
      }
      const int64_t at = a.narrow[k] ? static_cast<const int32_t*>(a.index[k])[offset]
                                     : static_cast<const int64_t*>(a.index[k])[offset];
      const int64_t n = a.extents[k];
      if (at >= n || at < (a.wrap ? -n : 0)) {
        check_index(a.wrap, op, ": ids must be in [0, ", n, "), got ", at);
        throw IndexError(str(op, ": index ", at, " is out of bounds for axis ", first_axis + k,
                             " with size ", n));
      }
    }
}

struct Selection {
  Array ids;       // [n] int64
  Dims shape;      // of the index
  Dims out_shape;  // of take's result
};

// Row-major ids of the positions that `indices` name in axes first, first + 1, ... of x.
Selection select(const char* op, const Array& x, int first, const std::vector<Array>& indices,
                 bool wrap) {
  Selection s;
  const int count = static_cast<int>(indices.size());
  check_index(first >= 0 && first + count <= x.rank(), op, ": too many indices for shape ",
              x.shape());
  int rank = 0;
  for (const Array& index : indices) rank = index.rank() > rank ? index.rank() : rank;
  s.shape = Dims::filled(rank, 1);
  for (const Array& index : indices) {
    check_type(index.dtype() == DType::kInt64 || index.dtype() == DType::kInt32, op,
               ": an index must be an integer array, got ", name_of(index.dtype()));
    check_same_device(op, "an index", index, "x", x);
    for (int i = 0; i < index.rank(); ++i) {
      int64_t& extent = s.shape[i + rank - index.rank()];
      if (extent == 1) extent = index.shape()[i];
      check_index(index.shape()[i] == 1 || index.shape()[i] == extent, op,
                  ": indices must broadcast to one shape, got ", index.shape(), " beside ",
                  s.shape);
    }
  }
  check_index(x.rank() - count + rank <= kMaxRank, op, ": the result must have at most ", kMaxRank,
              " axes");
  for (int i = 0; i < first; ++i) s.out_shape.push_back(x.shape()[i]);
  for (int64_t extent : s.shape) s.out_shape.push_back(extent);
  for (int i = first + count; i < x.rank(); ++i) s.out_shape.push_back(x.shape()[i]);

  IndexIdsArgs args;
  args.indices = count;
  args.wrap = wrap;
  args.count = checked_numel(s.shape, DType::kInt64);
  std::vector<Array> flat;  // keeps contiguous copies alive
  bool joined = true;       // one run: every index covers the whole shape without gaps
  for (const Array& index : indices) joined &= index.shape() == s.shape && index.is_contiguous();
  args.rank = joined ? 1 : rank;
  if (joined)
    args.shape[0] = args.count;
  else
    for (int i = 0; i < rank; ++i) args.shape[i] = s.shape[i];
  for (int k = 0; k < count; ++k) {
    const Array& index = indices[static_cast<size_t>(k)];
    args.index[k] = index.data();
    args.narrow[k] = index.dtype() == DType::kInt32;
    args.extents[k] = x.shape()[first + k];
    if (joined)
      args.index_strides[k][0] = 1;
    else
      for (int i = 0; i < rank; ++i) {
        const int d = i - (rank - index.rank());
        args.index_strides[k][i] = d < 0 || index.shape()[d] == 1 ? 0 : index.strides()[d];
      }
  }
  s.ids = Array::empty({args.count}, DType::kInt64, x.device());
  args.ids = s.ids.mutable_as<int64_t>();
  int32_t bad = 0;
  args.bad = x.is_cuda() ? nullptr : &bad;
  if (args.count > 0) SEQLOOM_RUN(x.device(), args.count, index_ids, args);
  if (bad != 0) raise_index_error(op, args, first);
  return s;
}

std::vector<Array> index_list(const char* op, py::handle indices) {
  std::vector<Array> arrays;
  for (py::handle index : py::reinterpret_borrow<py::sequence>(indices))
    arrays.push_back(tensor_argument(op, "an index", index));
  return arrays;
}

Array take_rows(const Array& x, int first, int count, const Selection& s) {
  const Array out = Array::empty(s.out_shape, x.dtype(), x.device());
  TakeArgs args;
  args.x = x.data();
  args.out = out.mutable_data();
  args.ids = s.ids.data_as<int64_t>();
  args.n = s.ids.numel();
  args.item_size = static_cast<int32_t>(item_size(x.dtype()));
  args.outer = extents_of(x, 0, first);
  args.indexed = extents_of(x, first, first + count);
  args.inner = extents_of(x, first + count, x.rank());
  if (out.numel() > 0) SEQLOOM_RUN(x.device(), out.numel(), take, args);
  return out;
}

// -> (x[..., indices, ...], ids)
py::tuple take(const char* op, const Array& x, int first, py::handle indices) {
  const std::vector<Array> list = index_list(op, indices);
  const Selection s = select(op, x, first, list, true);
  const Array out = take_rows(x, first, static_cast<int>(list.size()), s);
  return py::make_tuple(out, s.ids);
}

// The gradient of `take` for x of `shape`: `count` axes from `first` were indexed by ids.
Array take_backward(const Array& grad, const Array& ids, const Dims& shape, int first, int count,
                    int64_t skip) {
  const Array g = contiguous(grad);
  const Array out = Array::empty(shape, grad.dtype(), grad.device());
  ScatterAddArgs args;
  args.grad = g.data();
  args.out = out.mutable_data();
  args.ids = ids.data_as<int64_t>();
  args.n = ids.numel();
  args.outer = args.rows = args.inner = 1;
  for (int i = 0; i < shape.size(); ++i)
    (i < first ? args.outer : i < first + count ? args.rows : args.inner) *= shape[i];
  args.skip = skip;
  args.dtype = grad.dtype();
  args.workspace = nullptr;
  Array workspace;
  if constexpr (kBuiltWithCuda) {
    if (grad.is_cuda()) {
      workspace = Array::empty({scatter_add_workspace(args.n)}, DType::kUInt8, grad.device());
      args.workspace = workspace.mutable_data();
    }
  }
  if (out.numel() > 0) SEQLOOM_RUN(grad.device(), out.numel() + g.numel(), scatter_add, args);
  return out;
}

// x[..., indices, ...] = value; `unique` promises that no position is named twice.
void put(const Array& x, int first, py::handle indices, const Array& value, bool unique) {
  const std::vector<Array> list = index_list("setitem", indices);
  const Selection s = select("setitem", x, first, list, true);
  check_writable("setitem", "the tensor", x);
  check_same_dtype("setitem", "value", value, "the tensor", x);
  check_same_device("setitem", "value", value, "the tensor", x);
  // As in NumPy, leading axes of one element may be left over.
  Array v = value;
  while (v.rank() > s.out_shape.size() && v.shape()[0] == 1) {
    Dims shape, strides;
    for (int i = 1; i < v.rank(); ++i) {
      shape.push_back(v.shape()[i]);
      strides.push_back(v.strides()[i]);
    }
    v = v.view(shape, strides);
  }
  v = expand_view("setitem", v, s.out_shape);
  PutArgs args;
  args.scalar = value.numel() == 1;
  if (!args.scalar) v = contiguous(v);
  if (v.storage() == x.storage() && !args.scalar) {
    const Array copy = Array::empty_like(v);
    copy_into(copy, v);
    v = copy;
  }
  const int count = static_cast<int>(list.size());
  args.x = x.mutable_data();
  args.value = v.data();
  args.ids = s.ids.data_as<int64_t>();
  args.n = s.ids.numel();
  args.item_size = static_cast<int32_t>(item_size(x.dtype()));
  args.unique = unique || args.n <= 1;
  args.outer = extents_of(x, 0, first);
  args.indexed = extents_of(x, first, first + count);
  args.inner = extents_of(x, first + count, x.rank());
  args.workspace = nullptr;
  Array workspace;
  if constexpr (kBuiltWithCuda) {
    if (x.is_cuda() && !args.unique) {
      workspace = Array::empty({scatter_add_workspace(args.n)}, DType::kUInt8, x.device());
      args.workspace = workspace.mutable_data();
    }
  }
  x.storage()->version.fetch_add(1, std::memory_order_relaxed);
  const int64_t work = args.outer.count * args.n * args.inner.count;
  if (work > 0) SEQLOOM_RUN(x.device(), work, put, args);
}

// ---- embedding ---------------------------------------------------------------------------------

// -> (weight[ids], ids as int64 [n])
py::tuple embedding(const Array& ids, const Array& weight) {
  check_type(ids.dtype() == DType::kInt64 || ids.dtype() == DType::kInt32,
             "embedding: ids must be int64 or int32, got ", name_of(ids.dtype()));
  check_value(weight.rank() == 2, "embedding: weight must have shape [V, D], got ", weight.shape());
  check_value(ids.rank() < kMaxRank, "embedding: ids must have at most ", kMaxRank - 1,
              " axes, got ", ids.rank());
  check_same_device("embedding", "ids", ids, "weight", weight);
  const Selection s = select("embedding", weight, 0, {ids}, false);
  const Array out = take_rows(weight, 0, 1, s);
  return py::make_tuple(out, s.ids);
}

// ---- gather along an axis ----------------------------------------------------------------------

void check_gather(const Array& x, const Array& index, int axis) {
  check_type(index.dtype() == DType::kInt64, "gather: index must be int64, got ",
             name_of(index.dtype()));
  check_same_device("gather", "index", index, "x", x);
  check_value(index.rank() == x.rank(), "gather: index must have the ", x.rank(),
              " axes of x, got shape ", index.shape());
  for (int i = 0; i < x.rank(); ++i)
    check_value(i == axis || index.shape()[i] <= x.shape()[i], "gather: index must have at most ",
                x.shape(), " positions but for axis ", axis, ", got ", index.shape());
}

GatherArgs gather_args(const Dims& shape, const Dims& strides, int axis, int64_t extent,
                       DType dtype) {
  GatherArgs args;
  args.rank = shape.size();
  args.axis = axis;
  for (int i = 0; i < shape.size(); ++i) {
    args.shape[i] = shape[i];
    args.strides[i] = strides[i];
  }
  args.extent = extent;
  args.count = shape.product();
  args.dtype = dtype;
  args.unique = false;
  return args;
}

Array gather(const Array& x_argument, py::handle dim, const Array& index_argument_) {
  const int64_t d = index_argument("gather", "dim", dim);
  const int axis = checked_axis("gather", d, x_argument.rank());
  check_gather(x_argument, index_argument_, axis);
  const Array index = contiguous(index_argument_);
  const Array out = Array::empty(index.shape(), x_argument.dtype(), x_argument.device());
  const Array x = x_argument.rank() == 0 ? x_argument.reshaped({1}) : x_argument;
  const Dims shape = index.rank() == 0 ? Dims{1} : index.shape();
  GatherArgs args = gather_args(shape, x.strides(), axis, x.shape()[axis], x.dtype());
  int32_t bad = 0;
  args.x = x.data();
  args.index = index.data_as<int64_t>();
  args.out = out.mutable_data();
  args.bad = x.is_cuda() ? nullptr : &bad;
  if (args.count > 0) SEQLOOM_RUN(x.device(), args.count, gather, args);
  if (bad != 0)
    for (int64_t i = 0; i < args.count; ++i)
      check_index(args.index[i] >= -args.extent && args.index[i] < args.extent, "gather: index ",
                  args.index[i], " is out of bounds for axis ", axis, " with size ", args.extent);
  return out;
}

// Zeros of `shape` with grad added where `index` points; `unique` where no line names one twice.
Array gather_backward(const Array& grad, const Array& index, const Dims& x_shape, int axis,
                      bool unique) {
  check_type(unique || grad.dtype() == DType::kFloat32 || grad.dtype() == DType::kFloat64,
             "gather_backward: grad must be float32 or float64, got ", name_of(grad.dtype()));
  const Dims shape = x_shape.empty() ? Dims{1} : x_shape;
  const Array out = Array::empty(x_shape, grad.dtype(), grad.device());
  const Array g = contiguous(grad), positions = contiguous(index);
  GatherArgs args = gather_args(index.rank() == 0 ? Dims{1} : index.shape(),
                                contiguous_strides(shape), axis, shape[axis], grad.dtype());
  int32_t bad = 0;
  args.x = g.data();
  args.index = positions.data_as<int64_t>();
  args.out = out.mutable_data();
  args.out_count = out.numel();
  args.unique = unique;
  args.bad = grad.is_cuda() ? nullptr : &bad;
  if (out.numel() > 0) SEQLOOM_RUN(grad.device(), args.count + args.out_count, gather_add, args);
  return out;
}

// ---- triangles, order, true elements -----------------------------------------------------------

Array triangle(const Array& x, py::handle diagonal, bool upper) {
  const char* op = upper ? "triu" : "tril";
  check_value(x.rank() >= 2, op, ": must have at least two axes, got shape ", x.shape());
  const Array from = contiguous(x);
  const Array out = Array::empty_like(x);
  TriangleArgs args;
  args.x = from.data();
  args.out = out.mutable_data();
  args.rows = x.size(-2);
  args.columns = x.size(-1);
  const int64_t d = index_argument(op, "diagonal", diagonal);
  args.diagonal = d < -args.rows ? -args.rows : d > args.columns ? args.columns : d;
  args.upper = upper;
  args.item_size = static_cast<int32_t>(item_size(x.dtype()));
  if (x.numel() == 0) return out;
  args.batch = x.numel() / (args.rows * args.columns);
  SEQLOOM_RUN(x.device(), x.numel(), triangle, args);
  return out;
}

// -> (values, int64 indices) of the first k along an axis; k < 0 means all.
py::tuple sort(const char* op, const Array& x, py::handle dim, py::handle k_argument,
               bool descending) {
  const int axis = checked_axis(op, index_argument(op, "dim", dim), x.rank());
  const int last = x.rank() == 0 ? 0 : x.rank() - 1;
  const Array lines = x.rank() == 0 ? x.reshaped({1}) : transpose_view(x, axis, last);
  const int64_t n = lines.shape()[last];
  int64_t k = n;
  if (!k_argument.is_none()) {
    k = index_argument(op, "k", k_argument);
    const int64_t least = x.rank() == 0 ? 1 : 0;  // of one element there is no axis to empty
    check_value(k >= least && k <= n, op, ": k must be in [", least, ", ", n, "], got ", k);
  }
  check_value(n <= INT32_MAX, op, ": an axis must have at most ", INT32_MAX, " elements, got ", n);
  const Array from = contiguous(lines);
  Dims shape = lines.shape();
  shape[last] = k;
  const Array values = Array::empty(shape, x.dtype(), x.device());
  const Array indices = Array::empty(shape, DType::kInt64, x.device());
  SortArgs args;
  args.x = from.data();
  args.values = values.mutable_data();
  args.indices = indices.mutable_as<int64_t>();
  args.rows = n > 0 ? from.numel() / n : 0;
  args.n = n;
  args.k = k;
  args.descending = descending;
  args.dtype = x.dtype();
  args.workspace = nullptr;
  Array workspace;
  if constexpr (kBuiltWithCuda) {
    if (x.is_cuda()) {
      workspace = Array::empty({sort_workspace(args)}, DType::kUInt8, x.device());
      args.workspace = workspace.mutable_data();
    }
  }
  if (values.numel() > 0) SEQLOOM_RUN(x.device(), from.numel() * 4, sort_rows, args);
  if (x.rank() == 0) return py::make_tuple(values.reshaped({}), indices.reshaped({}));
  return py::make_tuple(transpose_view(values, axis, last), transpose_view(indices, axis, last));
}

// Coordinates of the true elements of a mask on the CPU: one int64 array for each axis.
py::tuple nonzero(const Array& mask_argument) {
  check_type(mask_argument.dtype() == DType::kBool || mask_argument.dtype() == DType::kUInt8,
             "nonzero: must be a mask, got ", name_of(mask_argument.dtype()));
  check_value(!mask_argument.is_cuda(), "nonzero: must be on the CPU");
  const Array mask = contiguous(mask_argument);
  NonzeroArgs args;
  args.mask = mask.data_as<uint8_t>();
  args.rank = mask.rank();
  for (int i = 0; i < mask.rank(); ++i) args.shape[i] = mask.shape()[i];
  args.total = mask.numel();
  const int64_t blocks = (args.total + kNonzeroBlock - 1) / kNonzeroBlock;
  std::vector<int64_t> counts(static_cast<size_t>(blocks));
  args.counts = counts.data();
  args.count = 0;
  args.indices = nullptr;
  const auto visit = [&args] {
    const ReleaseGil release_gil(args.total >= 16384);
    SEQLOOM_CPU(nonzero)(args);
  };
  visit();
  for (int64_t& c : counts) {
    const int64_t found = c;
    c = args.count;
    args.count += found;
  }
  const Array out = Array::empty({mask.rank(), args.count}, DType::kInt64);
  args.indices = out.mutable_as<int64_t>();
  if (args.count > 0) visit();
  return unbind(out, 0);
}

}  // namespace

void register_layout(py::module_& m) {
  register_views(m);
  m.def("promote", &promote, py::arg("a"), py::arg("b"));
  m.def("cat", &cat, py::arg("tensors"), py::arg("dim"));
  m.def("stack", &stack, py::arg("tensors"), py::arg("dim"));
  m.def(
      "unbind",
      [](const Array& x, int axis) { return unbind(x, checked_axis("unbind", axis, x.rank())); },
      py::arg("x"), py::arg("axis"));
  m.def("take", &take, py::arg("op"), py::arg("x"), py::arg("first"), py::arg("indices"));
  m.def("take_backward", &take_backward, py::arg("grad"), py::arg("ids"), py::arg("shape"),
        py::arg("first"), py::arg("count"), py::arg("skip") = -1);
  m.def("put", &put, py::arg("x"), py::arg("first"), py::arg("indices"), py::arg("value"),
        py::arg("unique"));
  m.def("embedding", &embedding, py::arg("ids"), py::arg("weight"));
  m.def("gather", &gather, py::arg("x"), py::arg("dim"), py::arg("index"));
  m.def("gather_backward", &gather_backward, py::arg("grad"), py::arg("index"), py::arg("shape"),
        py::arg("axis"), py::arg("unique"));
  m.def("triangle", &triangle, py::arg("x"), py::arg("diagonal"), py::arg("upper"));
  m.def("sort", &sort, py::arg("op"), py::arg("x"), py::arg("dim"), py::arg("k"),
        py::arg("descending"));
  m.def("nonzero", &nonzero, py::arg("mask"));
}

}  // namespace seqloom::ops
