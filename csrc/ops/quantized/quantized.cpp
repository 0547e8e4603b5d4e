// SPDX-License-Identifier: Apache-2.0
#include "ops/quantized/quantized.h"

#include <string_view>

#include "binding/registers.h"
#include "ops/common.h"
#include "ops/elementwise/arguments.h"
#include "ops/matmul/activation_name.h"

namespace seqloom::ops {
namespace {

namespace py = pybind11;

QuantKind kind_of(const char* op, py::handle kind) {
  check_type(PyUnicode_Check(kind.ptr()) != 0, op, ": kind must be a string, got ",
             binding::type_name(kind.ptr()));
  const char* name = PyUnicode_AsUTF8(kind.ptr());
  if (name == nullptr) throw py::error_already_set();
  const std::string_view s(name);
  if (s == "int8") return QuantKind::kInt8;
  if (s == "int4") return QuantKind::kInt4;
  throw ValueError(str(op, ": kind must be 'int8' or 'int4', got '", s, "'"));
}

int64_t groups_of(int64_t k) { return (k + kQuantGroup - 1) / kQuantGroup; }

// The weight's shape, checked against its scales; k = -1: whatever the weight says.
Dims check_quantized(const char* op, QuantKind kind, const Array& q, const Array& scales,
                     int64_t k) {
  const bool int8 = kind == QuantKind::kInt8;
  check_type(q.dtype() == (int8 ? DType::kInt8 : DType::kUInt8), op, ": weight must be ",
             int8 ? "int8" : "uint8", ", got ", name_of(q.dtype()));
  check_type(scales.dtype() == (int8 ? DType::kFloat32 : DType::kBFloat16), op, ": scales must be ",
             int8 ? "float32" : "bfloat16", ", got ", name_of(scales.dtype()));
  check_same_device(op, "scales", scales, "weight", q);
  check_value(q.rank() == 2, op, ": weight must have two axes, got shape ", q.shape());
  const int64_t n = q.shape()[0], width = q.shape()[1];
  if (int8) {
    check_value(k < 0 || width == k, op, ": weight must have shape [out, in] = [any, ", k,
                "], got ", q.shape());
    check_shape(op, "scales", scales, Dims{n}, "[out]");
    return Dims{n, width};
  }
  check_value(k < 0 ? width % 16 == 0 : width == 16 * groups_of(k), op,
              ": weight must have shape [out, 16 ceil(in / 32)], got ", q.shape());
  check_shape(op, "scales", scales, Dims{n, width / 16}, "[out, ceil(in / 32)]");
  return Dims{n, k < 0 ? 2 * width : k};
}

// (weight, scales) as quantized.h describes them.
py::tuple quantize_weight(const Array& given, py::handle kind_name) {
  const char* op = "quantize_weight";
  const QuantKind kind = kind_of(op, kind_name);
  check_kernel_float(op, "weight", given);
  check_value(given.rank() == 2, op, ": weight must have shape [out, in], got ", given.shape());
  const Array weight = contiguous(given);
  const int64_t n = weight.shape()[0], k = weight.shape()[1], groups = groups_of(k);
  const bool int8 = kind == QuantKind::kInt8;
  const Array q = int8 ? Array::empty({n, k}, DType::kInt8, weight.device())
                       : Array::empty({n, 16 * groups}, DType::kUInt8, weight.device());
  const Array scales = int8 ? Array::empty({n}, DType::kFloat32, weight.device())
                            : Array::empty({n, groups}, DType::kBFloat16, weight.device());
  const QuantizeArgs args{weight.data(), q.mutable_data(), scales.mutable_data(), n, k,
                          kind,          weight.dtype()};
  if (n > 0) SEQLOOM_RUN_BF16(weight.device(), weight.numel(), quantize_weight, args);
  return py::make_tuple(q, scales);
}

Array dequantize(const Array& quantized, const Array& scales, const Dims& shape, QuantKind kind,
                 DType dtype) {
  const Array q = contiguous(quantized), s = contiguous(scales);
  Array weight = Array::empty(shape, dtype, q.device());
  const DequantizeArgs args{q.data(), s.data(), weight.mutable_data(), shape[0], shape[1],
                            kind,     dtype};
  if (weight.numel() > 0) SEQLOOM_RUN_BF16(q.device(), weight.numel(), dequantize_weight, args);
  return weight;
}

// The float weight [out, in]; `width` is in.
Array dequantize_weight(const Array& quantized, const Array& scales, py::handle kind_name,
                        int64_t width, DType dtype) {
  const char* op = "dequantize_weight";
  const QuantKind kind = kind_of(op, kind_name);
  check_value(width >= 0, op, ": in must not be negative, got ", width);
  check_type(is_kernel_float(dtype), op, ": dtype must be float32, float16 or bfloat16");
  return dequantize(quantized, scales, check_quantized(op, kind, quantized, scales, width), kind,
                    dtype);
}

Array quantized_linear(const Array& x, const Array& quantized, const Array& scales,
                       const std::optional<Array>& bias, py::handle kind_name,
                       py::handle activation) {
  const char* op = "quantized_linear";
  const QuantKind kind = kind_of(op, kind_name);
  check_kernel_float(op, "x", x);
  check_value(x.rank() > 0, op, ": x must have shape [..., in], got ", x.shape());
  const int64_t k = x.size(-1);
  check_same_device(op, "weight", quantized, "x", x);
  const int64_t n = check_quantized(op, kind, quantized, scales, k)[0];
  Array bias_row;
  if (bias) {
    check_same_dtype(op, "bias", *bias, "x", x);
    check_same_device(op, "bias", *bias, "x", x);
    check_shape(op, "bias", *bias, Dims{n}, "[out]");
    bias_row = contiguous(*bias);
  }
  Dims shape = x.shape();
  shape.back() = n;
  Array out = Array::empty(shape, x.dtype(), x.device());
  if (out.numel() == 0) return out;

  // Rows of a view, such as the last position of each sequence, are read in place.
  const bool rows_in_place = x.rank() == 2 && (x.stride(1) == 1 || k <= 1) && x.stride(0) >= k;
  const Array rows = rows_in_place ? x : contiguous(x);
  const Array q = contiguous(quantized), s = contiguous(scales);
  QuantizedLinearArgs args{};
  args.x = rows.data();
  args.ldx = rows_in_place ? x.stride(0) : k;
  args.quantized = q.data();
  args.scales = s.data();
  args.bias = bias ? bias_row.data() : nullptr;
  args.out = out.mutable_data();
  args.m = out.numel() / n;
  args.n = n;
  args.k = k;
  args.epilogue = epilogue_named(op, activation);
  args.kind = kind;
  args.dtype = x.dtype();
#if SEQLOOM_WITH_CUDA
  if (x.is_cuda() && args.m > kFewRows) {
    const Array weight = dequantize(q, s, Dims{n, k}, kind, x.dtype());
    ProductArgs p{};
    p.a = args.x;
    p.lda = args.ldx > 0 ? args.ldx : 1;
    p.b = weight.data();
    p.ldb = k > 0 ? k : 1;
    p.trans_b = true;
    p.c = args.out;
    p.ldc = n;
    p.bias = args.bias;
    p.m = args.m;
    p.n = n;
    p.k = k;
    p.batch = 1;
    p.epilogue = args.epilogue;
    p.dtype = x.dtype();
    const ReleaseGil release(true);
    const cuda::DeviceScope scope(x.device().index);
    product_cuda(p);
    return out;
  }
#endif
  SEQLOOM_RUN_BF16(x.device(), args.m * n * k, quantized_linear, args);
  return out;
}

}  // namespace

void register_quantized(py::module_& m) {
  m.def("quantize_weight", &quantize_weight, py::arg("weight"), py::arg("kind"));
  m.def("dequantize_weight", &dequantize_weight, py::arg("weight"), py::arg("scales"),
        py::arg("kind"), py::arg("width"), py::arg("dtype"));
  m.def("quantized_linear", &quantized_linear, py::arg("x"), py::arg("weight"), py::arg("scales"),
        py::arg("bias"), py::arg("kind"), py::arg("activation"));
}

}  // namespace seqloom::ops
