// SPDX-License-Identifier: Apache-2.0
#include "ops/norm/norm.h"

#include <algorithm>

#include "binding/registers.h"
#include "ops/common.h"

namespace seqloom::ops {
namespace {

namespace py = pybind11;
using OptionalArray = std::optional<Array>;

void check_parameter(const char* op, const char* name, const OptionalArray& p, const Array& x) {
  if (!p) return;
  check_same_dtype(op, name, *p, "x", x);
  check_same_device(op, name, *p, "x", x);
  check_shape(op, name, *p, Dims{x.shape().back()}, "[x.shape[-1]]");
}

const void* data_or_null(const OptionalArray& a) { return a ? a->data() : nullptr; }
OptionalArray contiguous_or_none(const OptionalArray& a) {
  return a ? OptionalArray(contiguous(*a)) : std::nullopt;
}

struct Forward {
  Array y, sum, mean, rstd;  // sum only with a residual; mean and rstd only for backward
};

Forward forward(const char* op, const Array& x, const OptionalArray& residual,
                const OptionalArray& weight, const OptionalArray& bias, double eps, bool rms,
                bool keep) {
  check_kernel_float(op, "x", x);
  check_value(x.rank() >= 1, op, ": x must have at least one axis, got shape ", x.shape());
  check_value(eps > 0 && eps < 1e30, op, ": eps must be positive, got ", eps);
  check_parameter(op, "weight", weight, x);
  check_parameter(op, "bias", bias, x);
  if (residual) {
    check_same_dtype(op, "residual", *residual, "x", x);
    check_same_device(op, "residual", *residual, "x", x);
    check_shape(op, "residual", *residual, x.shape(), "of x");
  }
  const int64_t n = x.shape().back(), rows = n == 0 ? 0 : x.numel() / n;
  const Array input = contiguous(x);
  const OptionalArray added = contiguous_or_none(residual);
  const OptionalArray w = contiguous_or_none(weight), b = contiguous_or_none(bias);
  Forward out;
  out.y = Array::empty_like(input);
  if (residual) out.sum = Array::empty_like(input);
  if (keep) {
    const Dims statistics{rows};
    out.rstd = Array::empty(statistics, DType::kFloat32, x.device());
    if (!rms) out.mean = Array::empty(statistics, DType::kFloat32, x.device());
  }
  if (x.numel() == 0) return out;
  NormArgs args{};
  args.x = input.data();
  args.residual = data_or_null(added);
  args.weight = data_or_null(w);
  args.bias = data_or_null(b);
  args.y = out.y.mutable_data();
  args.sum = residual ? out.sum.mutable_data() : nullptr;
  args.mean = keep && !rms ? out.mean.mutable_as<float>() : nullptr;
  args.rstd = keep ? out.rstd.mutable_as<float>() : nullptr;
  args.rows = rows;
  args.n = n;
  args.eps = std::max(static_cast<float>(eps), 1.17549435e-38f);  // positive in float32 too
  args.dtype = x.dtype();
  args.rms = rms;
  SEQLOOM_RUN(x.device(), x.numel(), norm_forward, args);
  return out;
}

py::tuple backward(const Array& dy, const OptionalArray& dsum, const Array& h,
                   const OptionalArray& weight, const OptionalArray& mean, const Array& rstd,
                   bool want_weight, bool want_bias) {
  const bool rms = !mean;
  const char* op = rms ? "rms_norm" : "layer_norm";
  check_same_dtype(op, "gradient", dy, "x", h);
  check_same_device(op, "gradient", dy, "x", h);
  check_shape(op, "gradient", dy, h.shape(), "of x");
  const int64_t n = h.shape().back(), rows = n == 0 ? 0 : h.numel() / n;
  const Array gradient = contiguous(dy), input = contiguous(h);
  const OptionalArray sum_gradient = contiguous_or_none(dsum), w = contiguous_or_none(weight);
  Array dx = Array::empty_like(input);
  OptionalArray dweight, dbias;
  if (want_weight) dweight = Array::empty(Dims{n}, DType::kFloat32, h.device());
  if (want_bias) dbias = Array::empty(Dims{n}, DType::kFloat32, h.device());
  if (n != 0) {
    NormBackwardArgs args{};
    args.dy = gradient.data();
    args.dsum = data_or_null(sum_gradient);
    args.h = input.data();
    args.weight = data_or_null(w);
    args.mean = mean ? mean->data_as<float>() : nullptr;
    args.rstd = rstd.data_as<float>();
    args.dx = dx.mutable_data();
    args.dweight = dweight ? dweight->mutable_as<float>() : nullptr;
    args.dbias = dbias ? dbias->mutable_as<float>() : nullptr;
    args.rows = rows;
    args.n = n;
    args.dtype = h.dtype();
    args.rms = rms;
    SEQLOOM_RUN(h.device(), h.numel(), norm_backward, args);
  }
  return py::make_tuple(dx, dweight, dbias);
}

py::object layer_norm(const Array& x, const OptionalArray& weight, const OptionalArray& bias,
                      double eps, bool keep) {
  Forward f = forward("layer_norm", x, {}, weight, bias, eps, false, keep);
  if (!keep) return py::cast(std::move(f.y));
  return py::make_tuple(std::move(f.y), std::move(f.mean), std::move(f.rstd));
}

py::object rms_norm(const Array& x, const OptionalArray& weight, double eps, bool keep) {
  Forward f = forward("rms_norm", x, {}, weight, {}, eps, true, keep);
  if (!keep) return py::cast(std::move(f.y));
  return py::make_tuple(std::move(f.y), std::move(f.rstd));
}

py::tuple add_layer_norm(const Array& x, const Array& residual, const OptionalArray& weight,
                         const OptionalArray& bias, double eps, bool keep) {
  Forward f = forward("add_layer_norm", x, residual, weight, bias, eps, false, keep);
  if (!keep) return py::make_tuple(std::move(f.y), std::move(f.sum));
  return py::make_tuple(std::move(f.y), std::move(f.sum), std::move(f.mean), std::move(f.rstd));
}

py::tuple add_rms_norm(const Array& x, const Array& residual, const OptionalArray& weight,
                       double eps, bool keep) {
  Forward f = forward("add_rms_norm", x, residual, weight, {}, eps, true, keep);
  if (!keep) return py::make_tuple(std::move(f.y), std::move(f.sum));
  return py::make_tuple(std::move(f.y), std::move(f.sum), std::move(f.rstd));
}

}  // namespace

void register_norm(py::module_& m) {
  m.def("layer_norm_forward", &layer_norm, py::arg("x"), py::arg("weight"), py::arg("bias"),
        py::arg("eps"), py::arg("keep_statistics"));
  m.def("rms_norm_forward", &rms_norm, py::arg("x"), py::arg("weight"), py::arg("eps"),
        py::arg("keep_statistics"));
  m.def("add_layer_norm_forward", &add_layer_norm, py::arg("x"), py::arg("residual"),
        py::arg("weight"), py::arg("bias"), py::arg("eps"), py::arg("keep_statistics"));
  m.def("add_rms_norm_forward", &add_rms_norm, py::arg("x"), py::arg("residual"), py::arg("weight"),
        py::arg("eps"), py::arg("keep_statistics"));
  m.def("norm_backward", &backward, py::arg("gradient"), py::arg("sum_gradient"), py::arg("x"),
        py::arg("weight"), py::arg("mean"), py::arg("rstd"), py::arg("want_weight"),
        py::arg("want_bias"));
}

}  // namespace seqloom::ops
