// SPDX-License-Identifier: Apache-2.0
#include "ops/optimizer/optimizer.h"

#include <cmath>
#include <vector>

#include "binding/registers.h"
#include "ops/common.h"
#include "ops/optimizer/adafactor.h"

namespace seqloom::ops {
namespace {

namespace py = pybind11;
using binding::array_of;

// The arrays of a Python list of Tensors.
const Array& element(const char* op, const char* name, const py::list& list, size_t i) {
  PyObject* object = PyList_GET_ITEM(list.ptr(), static_cast<Py_ssize_t>(i));
  check_type(binding::is_tensor(object), op, ": ", name, " must be a list of Tensors, got ",
             binding::type_name(object), " at ", i);
  return array_of(object);
}

void check_length(const char* op, const char* name, const py::list& list, size_t length) {
  check_value(list.size() == length, op, ": ", name,
              " must have as many elements as params = ", length, ", got ", list.size());
}

DType state_dtype(DType parameter) {
  return parameter == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
}

// Announces that a kernel will write to `a`, which must lie in one piece.
void* begin_write(const char* op, const char* name, const Array& a) {
  check_writable(op, name, a);
  check_value(a.is_contiguous(), op, ": ", name, " must be contiguous");
  a.storage()->version.fetch_add(1, std::memory_order_relaxed);
  return a.mutable_data();
}

void check_like(const char* op, const char* name, const Array& a, const Array& p, DType dtype) {
  check_type(a.dtype() == dtype, op, ": ", name, " must be ", name_of(dtype), ", got ",
             name_of(a.dtype()));
  check_value(a.numel() == p.numel(), op, ": ", name, " must have shape ", p.shape(), ", got ",
              a.shape());
  check_same_device(op, name, a, "params", p);
}

bool aligned(const void* p) { return (reinterpret_cast<uintptr_t>(p) & 15) == 0; }

// The parameters of one device and dtype, with what keeps their memory while the kernel runs
// without the interpreter.
struct Batch {
  Device device;
  OptimizerList list{};
  std::vector<OptimizerItem> items;
  std::vector<Array> kept;

  void finish() {
    list.items = items.data();
    list.count = static_cast<int64_t>(items.size());
  }
  int64_t work() const { return list.units * kOptimizerUnit; }
};

Batch& batch_for(std::vector<Batch>& batches, const Array& a) {
  for (Batch& b : batches)
    if (b.device == a.device() && b.list.dtype == a.dtype()) return b;
  batches.emplace_back();
  batches.back().device = a.device();
  batches.back().list.dtype = a.dtype();
  return batches.back();
}

// Adds an item whose parameter (or gradient alone) is given; the caller fills in the rest.
OptimizerItem& add_item(Batch& batch, int64_t size) {
  OptimizerItem item{};
  item.size = size;
  item.start = batch.list.units;
  batch.list.units += (size + kOptimizerUnit - 1) / kOptimizerUnit;
  batch.items.push_back(item);
  return batch.items.back();
}

// What sgd and adam share: clipping by a norm that was computed before, and maximizing.
void set_factor(const char* op, Batch& batch, const std::optional<Array>& norm, double max_norm,
                bool maximize) {
  batch.list.negate = maximize;
  batch.finish();
  if (!norm) return;
  check_type(norm->dtype() == DType::kFloat32 && norm->numel() == 1, op,
             ": norm must be one float32");
  batch.list.max_norm = static_cast<float>(max_norm);
  check_value(norm->device() == batch.device, op,
              ": norm must be on the device of params = ", batch.device, ", got ", norm->device());
  batch.list.norm = norm->data_as<float>();
}

struct States {
  const char* name;
  const py::list* list;
  void* OptimizerItem::* slot;
};

// Items of all parameters, by device and dtype. States of empty lists stay null.
std::vector<Batch> batches_of(const char* op, const py::list& params, const py::list& gradients,
                              std::initializer_list<States> states) {
  std::vector<Batch> batches;
  const size_t n = params.size();
  check_length(op, "gradients", gradients, n);
  for (const States& s : states)
    if (!s.list->empty()) check_length(op, s.name, *s.list, n);
  for (size_t i = 0; i < n; ++i) {
    const Array& p = element(op, "params", params, i);
    const Array& g = element(op, "gradients", gradients, i);
    check_type(is_floating(p.dtype()), op, ": params must be floating, got ", name_of(p.dtype()));
    check_like(op, "gradients", g, p, p.dtype());
    Batch& batch = batch_for(batches, p);
    const Array gradient = contiguous(g);
    void* data = begin_write(op, "params", p);
    batch.kept.push_back(p);
    batch.kept.push_back(gradient);
    for (const States& s : states)
      if (!s.list->empty()) {
        const Array& state = element(op, s.name, *s.list, i);
        check_like(op, s.name, state, p, state_dtype(p.dtype()));
        batch.kept.push_back(state);
      }
    if (p.numel() == 0) continue;
    OptimizerItem& item = add_item(batch, p.numel());
    item.parameter = data;
    item.gradient = gradient.mutable_data();
    item.aligned = aligned(item.parameter) && aligned(item.gradient);
    for (const States& s : states)
      if (!s.list->empty()) {
        void* at = begin_write(op, s.name, element(op, s.name, *s.list, i));
        item.*s.slot = at;
        item.aligned = item.aligned && aligned(at);
      }
  }
  return batches;
}

// fresh: bytes, one per parameter: 1 where the momentum buffer is new.
void sgd(const py::list& params, const py::list& gradients, const py::list& buffers,
         const py::list& fresh, double lr, double momentum, double dampening, double weight_decay,
         bool nesterov, bool maximize, const std::optional<Array>& norm, double max_norm) {
  const char* op = "SGD";
  if (!buffers.empty()) check_length(op, "fresh", fresh, params.size());
  std::vector<Batch> batches =
      batches_of(op, params, gradients, {{"momentum_buffer", &buffers, &OptimizerItem::first}});
  if (!buffers.empty()) {
    std::vector<size_t> at(batches.size(), 0);
    for (size_t i = 0; i < params.size(); ++i) {
      const Array& p = element(op, "params", params, i);
      if (p.numel() == 0) continue;
      Batch& batch = batch_for(batches, p);
      const size_t b = static_cast<size_t>(&batch - batches.data());
      batch.items[at[b]++].fresh =
          PyObject_IsTrue(PyList_GET_ITEM(fresh.ptr(), static_cast<Py_ssize_t>(i))) != 0;
    }
  }
  for (Batch& batch : batches) {
    if (batch.items.empty()) continue;
    set_factor(op, batch, norm, max_norm, maximize);
    SgdArgs args{};
    args.list = batch.list;
    args.lr = lr;
    args.momentum = momentum;
    args.dampening = dampening;
    args.decay = weight_decay;
    args.nesterov = nesterov;
    SEQLOOM_RUN(batch.device, batch.work(), sgd_step, args);
  }
}

void adam(const py::list& params, const py::list& gradients, const py::list& means,
          const py::list& squares, const py::list& largest, const py::list& steps, double lr,
          double beta1, double beta2, double eps, double weight_decay, bool decoupled,
          bool maximize, const std::optional<Array>& norm, double max_norm) {
  const char* op = decoupled ? "AdamW" : "Adam";
  check_length(op, "step", steps, params.size());
  std::vector<Batch> batches = batches_of(op, params, gradients,
                                          {{"exp_avg", &means, &OptimizerItem::first},
                                           {"exp_avg_sq", &squares, &OptimizerItem::second},
                                           {"max_exp_avg_sq", &largest, &OptimizerItem::largest}});
  // Bias corrections; most often all parameters have taken as many steps.
  std::vector<size_t> at(batches.size(), 0);
  double last = -1.0, step_size = 0.0, root = 0.0;
  for (size_t i = 0; i < params.size(); ++i) {
    const Array& p = element(op, "params", params, i);
    if (p.numel() == 0) continue;
    const double step = PyFloat_AsDouble(PyList_GET_ITEM(steps.ptr(), static_cast<Py_ssize_t>(i)));
    if (step == -1.0 && PyErr_Occurred() != nullptr) throw py::error_already_set();
    if (step != last) {
      last = step;
      step_size = lr / (1.0 - std::pow(beta1, step));
      root = 1.0 / std::sqrt(1.0 - std::pow(beta2, step));
    }
    Batch& batch = batch_for(batches, p);
    OptimizerItem& item = batch.items[at[static_cast<size_t>(&batch - batches.data())]++];
    item.step_size = step_size;
    item.root = root;
  }
  for (Batch& batch : batches) {
    if (batch.items.empty()) continue;
    set_factor(op, batch, norm, max_norm, maximize);
    AdamArgs args{};
    args.list = batch.list;
    args.beta1 = beta1;
    args.beta2 = beta2;
    args.eps = eps;
    args.decay = decoupled ? 0.0 : weight_decay;
    args.shrink = decoupled ? 1.0 - lr * weight_decay : 1.0;
    SEQLOOM_RUN(batch.device, batch.work(), adam_step, args);
  }
}

// Blocks of rows by the shape alone, each worth a thread.
void divide(AdafactorItem& item, AdafactorArgs& args) {
  constexpr int64_t kBlockElements = 16384;
  const bool matrix = item.row != nullptr;
  const int64_t length = matrix ? item.rows : item.columns;
  const int64_t least =
      matrix ? (kBlockElements + item.columns - 1) / item.columns : kBlockElements;
  const int64_t even = (length + kAdafactorMaxBlocks - 1) / kAdafactorMaxBlocks;
  item.block = least > even ? least : even;
  // Vectors are cut between whole vectors of any width.
  if (!matrix) item.block = (item.block + 63) / 64 * 64;
  item.blocks = (length + item.block - 1) / item.block;
  item.start = args.blocks;
  item.matrix = args.matrices;
  item.scratch = args.scratch;
  args.blocks += item.batch * item.blocks;
  args.matrices += item.batch;
  if (matrix) args.scratch += item.batch * item.blocks * item.columns;
}

void adafactor(const py::list& params, const py::list& gradients, const py::list& rows,
               const py::list& columns, const py::list& steps, double lr, double beta2_decay,
               const std::optional<double>& eps, double floor, double d, double weight_decay,
               bool maximize, const std::optional<Array>& norm, double max_norm) {
  const char* op = "Adafactor";
  const size_t n = params.size();
  check_length(op, "gradients", gradients, n);
  check_length(op, "row_var", rows, n);
  check_length(op, "col_var", columns, n);
  check_length(op, "step", steps, n);
  struct Part {
    Batch batch;  // device, dtype, and what is kept
    std::vector<AdafactorItem> items;
    AdafactorArgs args{};
  };
  std::vector<Part> parts;
  const auto part_for = [&parts](const Array& a) -> Part& {
    for (Part& p : parts)
      if (p.batch.device == a.device() && p.args.dtype == a.dtype()) return p;
    parts.emplace_back();
    parts.back().batch.device = a.device();
    parts.back().args.dtype = a.dtype();
    return parts.back();
  };
  for (size_t i = 0; i < n; ++i) {
    const Array& p = element(op, "params", params, i);
    const Array& g = element(op, "gradients", gradients, i);
    const Array& column = element(op, "col_var", columns, i);
    check_type(is_floating(p.dtype()), op, ": params must be floating, got ", name_of(p.dtype()));
    check_like(op, "gradients", g, p, p.dtype());
    if (p.numel() == 0) continue;
    Part& part = part_for(p);
    const DType kept = state_dtype(p.dtype());
    const double step = PyFloat_AsDouble(PyList_GET_ITEM(steps.ptr(), static_cast<Py_ssize_t>(i)));
    if (step == -1.0 && PyErr_Occurred() != nullptr) throw py::error_already_set();
    AdafactorItem item{};
    item.columns = p.rank() == 0 ? 1 : p.size(-1);
    item.rows = p.rank() >= 2 ? p.size(-2) : 1;
    item.batch = p.numel() / (item.rows * item.columns);
    const Array gradient = contiguous(g);
    item.parameter = begin_write(op, "params", p);
    item.gradient = gradient.data();
    const auto state = [&](const char* name, const Array& a, int64_t size) {
      check_type(a.dtype() == kept, op, ": ", name, " must be ", name_of(kept), ", got ",
                 name_of(a.dtype()));
      check_value(a.numel() == size, op, ": ", name, " must have ", size, " elements, got shape ",
                  a.shape());
      check_same_device(op, name, a, "params", p);
      part.batch.kept.push_back(a);
      return begin_write(op, name, a);
    };
    if (p.rank() >= 2)
      item.row = state("row_var", element(op, "row_var", rows, i), item.batch * item.rows);
    item.column = state(p.rank() >= 2 ? "col_var" : "variance", column, item.batch * item.columns);
    item.fresh = std::pow(step, beta2_decay);
    item.relative = std::min(lr, 1.0 / std::sqrt(step));
    constexpr double kSpacing[] = {0x1p-23, 0x1p-10, 0x1p-7, 0x1p-52};
    item.eps = eps.value_or(kSpacing[static_cast<int>(p.dtype())]);
    divide(item, part.args);
    part.items.push_back(item);
    part.batch.kept.push_back(p);
    part.batch.kept.push_back(gradient);
  }
  for (Part& part : parts) {
    set_factor(op, part.batch, norm, max_norm, maximize);
    AdafactorArgs& args = part.args;
    args.items = part.items.data();
    args.count = static_cast<int64_t>(part.items.size());
    args.floor = floor;
    args.d = d;
    args.shrink = 1.0 - lr * weight_decay;
    args.norm = part.batch.list.norm;
    args.max_norm = part.batch.list.max_norm;
    args.negate = maximize;
    SEQLOOM_RUN(part.batch.device, args.blocks * 16384, adafactor_step, args);
  }
}

std::vector<Batch> gradient_batches(const char* op, const py::list& gradients, bool write) {
  std::vector<Batch> batches;
  for (size_t i = 0; i < gradients.size(); ++i) {
    const Array& g = element(op, "gradients", gradients, i);
    check_type(is_floating(g.dtype()), op, ": gradients must be floating, got ",
               name_of(g.dtype()));
    Batch& batch = batch_for(batches, g);
    const Array held = contiguous(g);
    if (write) begin_write(op, "gradients", g);
    batch.kept.push_back(held);
    if (held.numel() == 0) continue;
    OptimizerItem& item = add_item(batch, held.numel());
    item.gradient = held.mutable_data();
    item.aligned = aligned(item.gradient);
  }
  return batches;
}

// The norms of the gradients of each device and dtype, each a float32 of rank 0 there.
py::list gradient_norms(const py::list& gradients) {
  std::vector<Batch> batches = gradient_batches("clip_grad_norm_", gradients, false);
  py::list norms;
  for (Batch& batch : batches) {
    if (batch.items.empty()) continue;
    batch.finish();
    Array norm = Array::empty(Dims{}, DType::kFloat32, batch.device);
    GradientNormArgs args{batch.list, norm.mutable_as<float>()};
    SEQLOOM_RUN(batch.device, batch.work(), gradient_norm, args);
    norms.append(py::cast(std::move(norm)));
  }
  return norms;
}

// Multiplies contiguous gradients by min(1, max_norm / (norm + 1e-6)).
void clip_gradients(const py::list& gradients, const Array& norm, double max_norm) {
  const char* op = "clip_grad_norm_";
  std::vector<Batch> batches = gradient_batches(op, gradients, true);
  for (Batch& batch : batches) {
    if (batch.items.empty()) continue;
    set_factor(op, batch, norm, max_norm, false);
    GradientScaleArgs args{batch.list};
    SEQLOOM_RUN(batch.device, batch.work(), gradient_scale, args);
  }
}

// Whether a kernel can take these as they are: parameters in one piece, gradients of their dtype.
bool suits_kernels(const py::list& params, const py::list& gradients) {
  check_length("step", "gradients", gradients, params.size());
  for (size_t i = 0; i < params.size(); ++i) {
    const Array& p = element("step", "params", params, i);
    const Array& g = element("step", "gradients", gradients, i);
    if (!p.is_contiguous() || g.dtype() != p.dtype() || g.device() != p.device()) return false;
  }
  return true;
}

}  // namespace

void register_optimizer(py::module_& m) {
  m.def("sgd_step", &sgd, py::arg("params"), py::arg("gradients"), py::arg("buffers"),
        py::arg("fresh"), py::arg("lr"), py::arg("momentum"), py::arg("dampening"),
        py::arg("weight_decay"), py::arg("nesterov"), py::arg("maximize"), py::arg("norm"),
        py::arg("max_norm"));
  m.def("adam_step", &adam, py::arg("params"), py::arg("gradients"), py::arg("means"),
        py::arg("squares"), py::arg("largest"), py::arg("steps"), py::arg("lr"), py::arg("beta1"),
        py::arg("beta2"), py::arg("eps"), py::arg("weight_decay"), py::arg("decoupled"),
        py::arg("maximize"), py::arg("norm"), py::arg("max_norm"));
  m.def("adafactor_step", &adafactor, py::arg("params"), py::arg("gradients"), py::arg("rows"),
        py::arg("columns"), py::arg("steps"), py::arg("lr"), py::arg("beta2_decay"), py::arg("eps"),
        py::arg("floor"), py::arg("d"), py::arg("weight_decay"), py::arg("maximize"),
        py::arg("norm"), py::arg("max_norm"));
  m.def("gradient_norms", &gradient_norms, py::arg("gradients"));
  m.def("clip_gradients", &clip_gradients, py::arg("gradients"), py::arg("norm"),
        py::arg("max_norm"));
  m.def("suits_kernels", &suits_kernels, py::arg("params"), py::arg("gradients"));
}

}  // namespace seqloom::ops
