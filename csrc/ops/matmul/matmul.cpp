// SPDX-License-Identifier: Apache-2.0
// Front door of the matrix products: broadcasting of batches, transposed operands in place (a
// matrix with either stride 1 is read as it lies), and the gradients.
#include "ops/matmul/matmul.h"

#include <pybind11/pybind11.h>

#include "cpu/gemm.h"
#include "ops/common.h"
#include "ops/elementwise/arguments.h"
#include "ops/matmul/activation_name.h"
#include "ops/matmul/matmul_packed.h"

namespace seqloom::ops {
namespace {

namespace py = pybind11;

cpu::Activation activation_of(Epilogue e) { return static_cast<cpu::Activation>(e); }

void run_product(Device device, const ProductArgs& p, const cpu::PackedMatrix* packed = nullptr) {
  if (p.m == 0 || p.n == 0 || p.batch == 0) return;
  const int64_t work = p.m * p.n * p.k * p.batch;
  const ReleaseGil release(device.is_cuda() || work > 262144 || work < 0);
#if SEQLOOM_WITH_CUDA
  if (device.is_cuda()) {
    const cuda::DeviceScope scope(device.index);
    return product_cuda(p);
  }
#endif
  cpu::GemmArgs g;
  g.m = p.m;
  g.n = p.n;
  g.k = p.k;
  g.a = p.a;
  g.lda = p.lda;
  g.trans_a = p.trans_a;
  g.b = p.b;
  g.ldb = p.ldb;
  g.trans_b = p.trans_b;
  g.packed_b = packed;
  g.a_type = g.b_type = g.c_type = g.bias_type = p.dtype;
  g.c = p.c;
  g.ldc = p.ldc;
  g.batch = p.batch;
  g.a_batch = p.a_batch;
  g.b_batch = p.b_batch;
  g.c_batch = p.c_batch;
  g.bias = p.bias;
  g.activation = activation_of(p.epilogue);
  g.preact = p.preact;
  g.ld_preact = p.n;
  g.preact_batch = p.m * p.n;
  cpu::gemm(g);
}

// The last two axes of an array as a matrix that a product can read in place.
struct Matrix {
  Array array;  // after a copy, where neither stride is 1
  int64_t rows, columns, ld;
  bool transposed;
};

Matrix matrix_of(const Array& a) {
  Matrix m;
  m.array = a;
  m.rows = a.size(-2);
  m.columns = a.size(-1);
  const int64_t row = a.stride(-2), column = a.stride(-1);
  if ((column == 1 || m.columns == 1) && (row >= m.columns || m.rows <= 1)) {
    m.ld = m.rows <= 1 && row < m.columns ? m.columns : row;
    m.transposed = false;
  } else if ((row == 1 || m.rows == 1) && (column >= m.rows || m.columns <= 1)) {
    m.ld = m.columns <= 1 && column < m.rows ? m.rows : column;
    m.transposed = true;
  } else {
    m.array = contiguous(a);
    m.ld = m.columns;
    m.transposed = false;
  }
  if (m.ld < 1) m.ld = 1;
  return m;
}

// Neighbouring axes of [first, last) that lie as one: their joint stride, or nothing.
bool joint_stride(const Array& a, int first, int last, int64_t* stride) {
  *stride = 0;
  int64_t expected = -1;
  for (int i = last - 1; i >= first; --i) {
    if (a.shape()[i] == 1) continue;
    if (expected < 0) *stride = expected = a.strides()[i];
    if (a.strides()[i] != expected) return false;
    expected *= a.shape()[i];
  }
  return true;
}

// a [batch..., m, k] times b [batch..., k, n], both of rank >= 2 and one dtype.
Array product(const Array& a_argument, const Array& b_argument) {
  const int batch_rank =
      (a_argument.rank() > b_argument.rank() ? a_argument.rank() : b_argument.rank()) - 2;
  Dims shape = Dims::filled(batch_rank, 1);
  for (const Array* x : {&a_argument, &b_argument})
    for (int i = 0; i < x->rank() - 2; ++i) {
      int64_t& extent = shape[i + batch_rank - (x->rank() - 2)];
      if (extent == 1) extent = x->shape()[i];
      check_value(x->shape()[i] == 1 || x->shape()[i] == extent,
                  "matmul: batches must broadcast together, got ", a_argument.shape(), " and ",
                  b_argument.shape());
    }
  const Matrix a = matrix_of(a_argument), b = matrix_of(b_argument);
  Dims out_shape = shape;
  check_value(batch_rank + 2 <= kMaxRank, "matmul: the result must have at most ", kMaxRank,
              " axes");
  out_shape.push_back(a.rows);
  out_shape.push_back(b.columns);
  const Array out = Array::empty(out_shape, a.array.dtype(), a.array.device());

  ProductArgs p{};
  p.a = a.array.data();
  p.b = b.array.data();
  p.c = out.mutable_data();
  p.m = a.rows;
  p.n = b.columns;
  p.k = a.columns;
  p.batch = 1;
  p.lda = a.ld;
  p.ldb = b.ld;
  p.ldc = b.columns > 0 ? b.columns : 1;
  p.trans_a = a.transposed;
  p.trans_b = b.transposed;
  p.dtype = out.dtype();
  if (out.numel() == 0) return out;
  const Device device = out.device();
  if (batch_rank == 0) {
    run_product(device, p);
    return out;
  }
  // One matrix b for all rows of a: the batch is more rows.
  int64_t joint = 0;
  if (b.array.rank() == 2 && !a.transposed &&
      joint_stride(a.array, 0, a.array.rank() - 1, &joint)) {
    p.m = out.numel() / p.n;
    p.lda = p.m == a.rows && a.rows > 1 ? a.ld : joint > 0 ? joint : a.ld;
    if (p.lda >= p.k) {
      run_product(device, p);
      return out;
    }
    p.m = a.rows;
    p.lda = a.ld;
  }
  // Join batch axes that both operands walk with one stride, and loop over what is left.
  int rank = 0;
  int64_t extents[kMaxRank], a_strides[kMaxRank], b_strides[kMaxRank];
  const auto stride_of = [&](const Array& x, int i) {
    const int d = i - (batch_rank - (x.rank() - 2));
    return d < 0 || x.shape()[d] == 1 ? int64_t{0} : x.strides()[d];
  };
  for (int i = 0; i < batch_rank; ++i) {
    if (shape[i] == 1) continue;
    const int64_t s = stride_of(a.array, i), t = stride_of(b.array, i);
    if (rank > 0 && a_strides[rank - 1] == s * shape[i] && b_strides[rank - 1] == t * shape[i]) {
      extents[rank - 1] *= shape[i];
      a_strides[rank - 1] = s;
      b_strides[rank - 1] = t;
    } else {
      extents[rank] = shape[i];
      a_strides[rank] = s;
      b_strides[rank++] = t;
    }
  }
  if (rank == 0) {
    run_product(device, p);
    return out;
  }
  p.batch = extents[rank - 1];
  p.a_batch = a_strides[rank - 1];
  p.b_batch = b_strides[rank - 1];
  p.c_batch = p.m * p.n;
  const int64_t item = item_size(out.dtype());
  const int64_t products = shape.product() / p.batch;
  for (int64_t i = 0; i < products; ++i) {
    int64_t rest = i, a_offset = 0, b_offset = 0;
    for (int d = rank - 2; d >= 0; --d) {
      a_offset += rest % extents[d] * a_strides[d];
      b_offset += rest % extents[d] * b_strides[d];
      rest /= extents[d];
    }
    ProductArgs one = p;
    one.a = static_cast<const char*>(p.a) + a_offset * item;
    one.b = static_cast<const char*>(p.b) + b_offset * item;
    one.c = static_cast<char*>(p.c) + i * p.batch * p.c_batch * item;
    run_product(device, one);
  }
  return out;
}

Array as_rows(const Array& a) {  // [k] -> [1, k]
  return a.view({1, a.shape()[0]}, {a.shape()[0], a.strides()[0]});
}
Array as_column(const Array& a) {  // [k] -> [k, 1]
  return a.view({a.shape()[0], 1}, {a.strides()[0], 1});
}
Array transposed(const Array& a) {
  Dims shape = a.shape(), strides = a.strides();
  const int r = a.rank();
  shape[r - 2] = a.size(-1);
  shape[r - 1] = a.size(-2);
  strides[r - 2] = a.stride(-1);
  strides[r - 1] = a.stride(-2);
  return a.view(shape, strides);
}
// Without axis -2 or -1, which has extent 1; `a` is contiguous.
Array without_axis(const Array& a, int from_end) {
  Dims shape;
  for (int i = 0; i < a.rank(); ++i)
    if (i != a.rank() - from_end) shape.push_back(a.shape()[i]);
  return a.reshaped(shape);
}

py::object matmul(py::handle left, py::handle right) {
  const Array& a = parse_tensor("matmul", "a", left);
  const Array& b = parse_tensor("matmul", "b", right);
  check_value(a.rank() > 0 && b.rank() > 0, "matmul: a and b must have at least one axis, got ",
              a.shape(), " and ", b.shape());
  check_same_dtype("matmul", "b", b, "a", a);
  check_same_device("matmul", "b", b, "a", a);
  const int64_t k = b.rank() == 1 ? b.shape()[0] : b.size(-2);
  check_value(a.size(-1) == k, "matmul: the last axis of a must have the extent of the ",
              b.rank() == 1 ? "only" : "second last", " axis of b = ", k, ", got shapes ",
              a.shape(), " and ", b.shape());
  check_type(a.dtype() != DType::kBool, "matmul: a must be numbers, got bool");
  const bool recorded = wants_grad(left) || wants_grad(right);
  if (SEQLOOM_LIKELY(a.rank() >= 2 && b.rank() >= 2 && item_size(a.dtype()) > 1))
    return give(product(a, b), recorded);
  const bool small = item_size(a.dtype()) == 1;  // int8 and uint8: products modulo 256
  const Array wide_a = small ? convert(a, DType::kInt32, a.device(), false) : a;
  const Array wide_b = small ? convert(b, DType::kInt32, b.device(), false) : b;
  Array out =
      product(a.rank() == 1 ? as_rows(wide_a) : wide_a, b.rank() == 1 ? as_column(wide_b) : wide_b);
  if (b.rank() == 1) out = without_axis(out, 1);
  if (a.rank() == 1) out = without_axis(out, b.rank() == 1 ? 1 : 2);
  if (small) out = convert(out, a.dtype(), a.device(), false);
  return give(out, recorded);
}

// Sum over leading rows of x [..., m, k] and y [..., m, n]: the product [k, n] of the joined rows.
Array rows_product(const Array& x, const Array& y) {
  const Array left = contiguous(x), right = contiguous(y);
  const int64_t rows = left.size(-1) > 0
                           ? left.numel() / left.size(-1)
                           : (right.size(-1) > 0 ? right.numel() / right.size(-1) : 0);
  return product(transposed(left.reshaped({rows, left.size(-1)})),
                 right.reshaped({rows, right.size(-1)}));
}

// -> gradients of a and b, or None; broadcast batch axes are still there.
py::tuple matmul_backward(const Array& grad, const Array& a, const Array& b, bool need_a,
                          bool need_b) {
  const Array left = a.rank() == 1 ? as_rows(a) : a, right = b.rank() == 1 ? as_column(b) : b;
  Array g = grad;
  if (a.rank() == 1 || b.rank() == 1) {
    Dims shape = grad.shape(), strides = grad.strides();
    const auto insert = [&](int at) {
      shape.push_back(1);
      strides.push_back(1);
      for (int i = shape.size() - 1; i > at; --i) {
        shape[i] = shape[i - 1];
        strides[i] = strides[i - 1];
      }
      shape[at] = 1;
      strides[at] = 1;
    };
    check_value(grad.rank() + 2 <= kMaxRank, "matmul: too many axes for a gradient");
    if (b.rank() == 1) insert(shape.size());
    if (a.rank() == 1) insert(shape.size() - 1);
    g = grad.view(shape, strides);
  }
  py::object grad_a = py::none(), grad_b = py::none();
  if (need_a) {
    Array out = product(g, transposed(right));
    if (a.rank() == 1) out = without_axis(contiguous(out), 2);
    grad_a = py::cast(out);
  }
  if (need_b) {
    Array out =
        right.rank() == 2 && left.rank() > 2 ? rows_product(left, g) : product(transposed(left), g);
    if (b.rank() == 1) out = without_axis(contiguous(out), 1);
    grad_b = py::cast(out);
  }
  return py::make_tuple(grad_a, grad_b);
}

// ---- linear ------------------------------------------------------------------------------------

Epilogue epilogue_of(py::handle activation) { return epilogue_named("linear", activation); }

// -> the result, or (the result, what backward of the activation needs) where that is not the
// result itself.
py::object linear(py::handle x_argument, py::handle weight_argument, py::handle bias_argument,
                  py::handle activation) {
  const Array& x = parse_tensor("linear", "x", x_argument);
  const Array& weight = parse_tensor("linear", "weight", weight_argument);
  check_value(weight.rank() == 2, "linear: weight must have shape [out, in], got ", weight.shape());
  const int64_t width = weight.shape()[1], columns = weight.shape()[0];
  check_value(x.rank() > 0 && x.size(-1) == width, "linear: x must have shape [..., in] = [..., ",
              width, "], got ", x.shape());
  check_same_dtype("linear", "weight", weight, "x", x);
  check_same_device("linear", "weight", weight, "x", x);
  check_type(is_floating(x.dtype()), "linear: x must be floating, got ", name_of(x.dtype()));
  const Array* bias = nullptr;
  Array bias_rows;
  if (!bias_argument.is_none()) {
    bias = &parse_tensor("linear", "bias", bias_argument);
    check_value(bias->rank() == 1 && bias->shape()[0] == columns,
                "linear: bias must have shape [out] = [", columns, "], got ", bias->shape());
    check_same_dtype("linear", "bias", *bias, "x", x);
    check_same_device("linear", "bias", *bias, "x", x);
    bias_rows = contiguous(*bias);
  }
  const Epilogue epilogue = epilogue_of(activation);
  const bool recorded = wants_grad(x_argument) || wants_grad(weight_argument) ||
                        (bias != nullptr && wants_grad(bias_argument));
  Dims shape = x.shape();
  shape.back() = columns;
  Array out = Array::empty(shape, x.dtype(), x.device());
  const bool keep = recorded && epilogue != Epilogue::kNone && epilogue != Epilogue::kRelu;
  const Array preact = keep ? Array::empty_like(out) : Array();

  Array rows = x;  // one matrix of all rows
  int64_t joint = 0;
  ProductArgs p{};
  p.m = columns > 0 ? out.numel() / columns : 0;
  const bool in_place = (x.stride(-1) == 1 || width == 1) &&
                        joint_stride(x, 0, x.rank() - 1, &joint) && (joint >= width || p.m <= 1);
  if (!in_place) rows = contiguous(x);
  p.lda = in_place && p.m > 1 ? joint : (width > 0 ? width : 1);
  const Matrix w = matrix_of(weight);
  p.a = rows.data();
  p.b = w.array.data();
  p.c = out.mutable_data();
  p.bias = bias != nullptr ? bias_rows.data() : nullptr;
  p.preact = keep ? preact.mutable_data() : nullptr;
  p.n = columns;
  p.k = width;
  p.batch = 1;
  p.ldb = w.ld;
  p.ldc = columns > 0 ? columns : 1;
  p.trans_b = !w.transposed;  // the product reads weight as [in, out]
  p.epilogue = epilogue;
  p.dtype = x.dtype();
  if (!recorded && !x.is_cuda()) {
    const PackedUse packed = packed_weight(weight, p.m);
    run_product(x.device(), p, packed.matrix());
  } else {
    run_product(x.device(), p);
  }
  if (!keep) return give(out, recorded);
  return py::make_tuple(give(out, recorded), preact);
}

ElementwiseOp backward_of(Epilogue e) {
  switch (e) {
    case Epilogue::kGelu:
      return ElementwiseOp::kGeluBackward;
    case Epilogue::kGeluTanh:
      return ElementwiseOp::kGeluTanhBackward;
    case Epilogue::kSilu:
      return ElementwiseOp::kSiluBackward;
    default:
      return ElementwiseOp::kReluBackward;
  }
}

Array column_sum(const Array& x) {  // [rows, columns], contiguous
  const Array out = Array::empty({x.shape()[1]}, x.dtype(), x.device());
  ColumnSumArgs args;
  args.rows = x.shape()[0];
  args.columns = x.shape()[1];
  const Array partial =
      Array::empty({column_sum_blocks(args.rows), args.columns}, DType::kFloat32, x.device());
  args.x = x.data();
  args.out = out.mutable_data();
  args.partial = partial.mutable_as<float>();
  args.dtype = x.dtype();
  if (args.columns > 0) SEQLOOM_RUN(x.device(), x.numel() + args.columns, column_sum, args);
  return out;
}

// -> gradients of x, weight and bias, each None where not needed. `kept` is the value before the
// activation (after it for relu), or None.
py::tuple linear_backward(const Array& grad, const Array& x, const Array& weight,
                          const std::optional<Array>& kept, py::handle activation, bool need_x,
                          bool need_weight, bool need_bias) {
  Array g = contiguous(grad);
  const Epilogue epilogue = epilogue_of(activation);
  if (epilogue != Epilogue::kNone)
    g = map(backward_of(epilogue), g.dtype(), g.shape(), {Input(g), Input(*kept)});
  const int64_t columns = weight.shape()[0];
  const int64_t width = weight.shape()[1];
  const int64_t rows = columns > 0 ? g.numel() / columns : (width > 0 ? x.numel() / width : 0);
  const Array g2 = g.reshaped({rows, columns});
  py::object of_x = py::none(), of_weight = py::none(), of_bias = py::none();
  if (need_x) of_x = py::cast(product(g2, weight).reshaped(x.shape()));
  if (need_weight)
    of_weight = py::cast(product(transposed(g2), contiguous(x).reshaped({rows, width})));
  if (need_bias) of_bias = py::cast(column_sum(g2));
  return py::make_tuple(of_x, of_weight, of_bias);
}

}  // namespace

void register_matmul(py::module_& m) {
  m.def("matmul", &matmul, py::arg("a"), py::arg("b"));
  m.def("matmul_backward", &matmul_backward, py::arg("grad"), py::arg("a"), py::arg("b"),
        py::arg("need_a"), py::arg("need_b"));
  m.def("linear", &linear, py::arg("x"), py::arg("weight"), py::arg("bias"), py::arg("activation"));
  m.def("linear_backward", &linear_backward, py::arg("grad"), py::arg("x"), py::arg("weight"),
        py::arg("kept"), py::arg("activation"), py::arg("need_x"), py::arg("need_weight"),
        py::arg("need_bias"));
  register_packed_weights(m);
}

}  // namespace seqloom::ops
