// SPDX-License-Identifier: Apache-2.0
#include "binding/registers.h"
#include "ops/common.h"
#include "ops/loss/ctc.h"
#include "ops/loss/loss.h"

namespace seqloom::ops {
namespace {

namespace py = pybind11;

// Checks logits, targets and class weights, and fills what forward and backward share.
struct CrossEntropyInputs {
  Array logits, targets;
  std::optional<Array> weight;
  CrossEntropyArgs args{};
};

CrossEntropyInputs cross_entropy_inputs(const Array& logits, const Array& targets,
                                        const std::optional<Array>& weight, int64_t ignore_index,
                                        double smoothing, double weight_sum) {
  const char* op = "cross_entropy";
  check_kernel_float(op, "logits", logits);
  check_value(logits.rank() == 2, op, ": logits must have shape [N, C], got ", logits.shape());
  const int64_t rows = logits.size(0), classes = logits.size(1);
  check_type(targets.dtype() == DType::kInt64, op, ": targets must be int64, got ",
             name_of(targets.dtype()));
  check_shape(op, "targets", targets, Dims{rows}, "[N]");
  check_same_device(op, "targets", targets, "logits", logits);
  check_value(smoothing >= 0 && smoothing <= 1, op, ": label_smoothing must be in [0, 1], got ",
              smoothing);
  if (weight) {
    check_type(weight->dtype() == DType::kFloat32, op, ": weight must be float32, got ",
               name_of(weight->dtype()));
    check_shape(op, "weight", *weight, Dims{classes}, "[C]");
    check_same_device(op, "weight", *weight, "logits", logits);
  }
  CrossEntropyInputs in;
  in.logits = contiguous(logits);
  in.targets = contiguous(targets);
  if (weight) in.weight = contiguous(*weight);
  CrossEntropyArgs& a = in.args;
  a.logits = in.logits.data();
  a.targets = in.targets.data_as<int64_t>();
  a.weight = in.weight ? in.weight->data_as<float>() : nullptr;
  a.rows = rows;
  a.classes = classes;
  a.ignore_index = ignore_index;
  a.smoothing = static_cast<float>(smoothing);
  a.weight_sum = static_cast<float>(weight_sum);
  a.dtype = logits.dtype();
  return in;
}

// IndexError on the CPU; kernels skip such rows on CUDA and raise the device's index flag.
void check_targets(const CrossEntropyInputs& in) {
  if (in.logits.is_cuda()) return;
  const CrossEntropyArgs& a = in.args;
  for (int64_t r = 0; r < a.rows; ++r)
    check_index(a.targets[r] == a.ignore_index || (a.targets[r] >= 0 && a.targets[r] < a.classes),
                "cross_entropy: targets must be in [0, ", a.classes, ") or ignore_index, got ",
                a.targets[r], " at row ", r);
}

// What the mean divides by: the number of targets that count, or the sum of their class weights.
double cross_entropy_denominator(const Array& targets, const std::optional<Array>& weight,
                                 int64_t ignore_index) {
  const Array t = contiguous(targets);
  const std::optional<Array> w = weight ? std::optional<Array>(contiguous(*weight)) : std::nullopt;
  const int64_t* ids = t.data_as<int64_t>();
  double total = 0;
  for (int64_t r = 0; r < t.numel(); ++r)
    if (ids[r] != ignore_index)
      total += w && ids[r] >= 0 && ids[r] < w->numel() ? w->data_as<float>()[ids[r]] : 1.0;
  return total;
}

// (losses [N], max and sum [N, 2], gradient or None). `gradient_scale` (a number) or `row_scale`
// [N] asks for the gradient of the losses times that, in the memory of the logits themselves when
// `in_place`.
py::tuple cross_entropy_forward(const Array& logits, const Array& targets,
                                const std::optional<Array>& weight, int64_t ignore_index,
                                double smoothing, double weight_sum,
                                const std::optional<Array>& row_scale,
                                std::optional<double> gradient_scale, bool in_place) {
  CrossEntropyInputs in =
      cross_entropy_inputs(logits, targets, weight, ignore_index, smoothing, weight_sum);
  check_targets(in);
  Array losses = Array::empty(Dims{in.args.rows}, DType::kFloat32, logits.device());
  Array max_sum = Array::empty(Dims{in.args.rows, 2}, DType::kFloat32, logits.device());
  std::optional<Array> gradient;
  const std::optional<Array> scales =
      row_scale ? std::optional<Array>(contiguous(*row_scale)) : std::nullopt;
  if (scales) {
    check_shape("cross_entropy", "row_scale", *scales, targets.shape(), "[N]");
    in.args.row_scale = scales->data_as<float>();
  }
  if (gradient_scale || scales) {
    if (in_place) {
      check_writable("cross_entropy", "logits", in.logits);
      in.logits.storage()->version.fetch_add(1, std::memory_order_relaxed);
    }
    gradient = in_place ? in.logits : Array::empty_like(in.logits);
    in.args.dlogits = gradient->mutable_data();
    in.args.scale = static_cast<float>(gradient_scale.value_or(1.0));
  }
  in.args.losses = losses.mutable_as<float>();
  in.args.max_sum = max_sum.mutable_as<float>();
  if (in.args.rows > 0) SEQLOOM_RUN(logits.device(), logits.numel(), cross_entropy, in.args);
  return py::make_tuple(losses, max_sum, gradient);
}

// The gradient of losses weighted by row_scale [N], from the logits and the maxima and sums that
// forward gave.
Array cross_entropy_backward(const Array& row_scale, const Array& max_sum, const Array& logits,
                             const Array& targets, const std::optional<Array>& weight,
                             int64_t ignore_index, double smoothing, double weight_sum) {
  CrossEntropyInputs in =
      cross_entropy_inputs(logits, targets, weight, ignore_index, smoothing, weight_sum);
  check_shape("cross_entropy", "gradient", row_scale, targets.shape(), "[N]");
  check_shape("cross_entropy", "max_sum", max_sum, Dims{in.args.rows, 2}, "[N, 2]");
  const Array scale = contiguous(row_scale), sums = contiguous(max_sum);
  Array gradient = Array::empty_like(in.logits);
  in.args.dlogits = gradient.mutable_data();
  in.args.row_scale = scale.data_as<float>();
  in.args.max_sum = sums.mutable_as<float>();
  in.args.given = true;
  if (in.args.rows > 0) SEQLOOM_RUN(logits.device(), logits.numel(), cross_entropy, in.args);
  return gradient;
}

// (losses [B], gradient [T, B, C] times share [B], or None). Labels and lengths have been checked.
py::tuple ctc_forward(const Array& log_probs, const Array& labels, const Array& steps_of,
                      const Array& sizes, const Array& share, int64_t blank, bool zero_infinity,
                      bool want_gradient) {
  const char* op = "ctc_loss";
  check_kernel_float(op, "log_probs", log_probs);
  check_value(log_probs.rank() == 3, op, ": log_probs must have shape [T, B, C], got ",
              log_probs.shape());
  const int64_t batch = log_probs.size(1);
  check_value(labels.rank() == 2 && labels.size(0) == batch, op,
              ": labels must have shape [B, L], got ", labels.shape());
  check_shape(op, "steps", steps_of, Dims{batch}, "[B]");
  check_shape(op, "sizes", sizes, Dims{batch}, "[B]");
  check_shape(op, "share", share, Dims{batch}, "[B]");
  for (const Array* a : {&labels, &steps_of, &sizes})
    check_type(a->dtype() == DType::kInt64, op, ": lengths and labels must be int64, got ",
               name_of(a->dtype()));
  check_type(share.dtype() == DType::kFloat32, op, ": share must be float32, got ",
             name_of(share.dtype()));
  for (const Array* a : {&labels, &steps_of, &sizes, &share})
    check_same_device(op, "labels", *a, "log_probs", log_probs);
  const Array input = contiguous(log_probs), classes = contiguous(labels);
  const Array steps = contiguous(steps_of), lengths = contiguous(sizes), scale = contiguous(share);
  Array losses = Array::empty(Dims{batch}, DType::kFloat32, log_probs.device());
  std::optional<Array> gradient;
  if (want_gradient)
    gradient = Array::empty(log_probs.shape(), DType::kFloat32, log_probs.device());
  CtcArgs args{};
  args.log_probs = input.data();
  args.labels = classes.data_as<int64_t>();
  args.steps_of = steps.data_as<int64_t>();
  args.sizes = lengths.data_as<int64_t>();
  args.share = scale.data_as<float>();
  args.losses = losses.mutable_as<float>();
  args.gradient = gradient ? gradient->mutable_as<float>() : nullptr;
  args.steps = log_probs.size(0);
  args.batch = batch;
  args.classes = log_probs.size(2);
  args.longest = labels.size(1);
  args.blank = blank;
  args.dtype = log_probs.dtype();
  args.zero_infinity = zero_infinity;
  if (batch > 0) SEQLOOM_RUN(log_probs.device(), log_probs.numel() + 16384, ctc, args);
  return py::make_tuple(losses, gradient);
}

}  // namespace

void register_loss(py::module_& m) {
  m.def("cross_entropy_forward", &cross_entropy_forward, py::arg("logits"), py::arg("targets"),
        py::arg("weight"), py::arg("ignore_index"), py::arg("label_smoothing"),
        py::arg("weight_sum"), py::arg("row_scale"), py::arg("gradient_scale"),
        py::arg("in_place"));
  m.def("cross_entropy_denominator", &cross_entropy_denominator, py::arg("targets"),
        py::arg("weight"), py::arg("ignore_index"));
  m.def("ctc_forward", &ctc_forward, py::arg("log_probs"), py::arg("labels"), py::arg("steps"),
        py::arg("sizes"), py::arg("share"), py::arg("blank"), py::arg("zero_infinity"),
        py::arg("want_gradient"));
  m.def("cross_entropy_backward", &cross_entropy_backward, py::arg("row_scale"), py::arg("max_sum"),
        py::arg("logits"), py::arg("targets"), py::arg("weight"), py::arg("ignore_index"),
        py::arg("label_smoothing"), py::arg("weight_sum"));
}

}  // namespace seqloom::ops
