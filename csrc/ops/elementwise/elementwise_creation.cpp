// SPDX-License-Identifier: Apache-2.0
// Making arrays, moving them between dtypes and devices, and random numbers.
#include <pybind11/pybind11.h>

#include "core/rng.h"
#include "ops/elementwise/arguments.h"

namespace seqloom::ops {
namespace {

namespace py = pybind11;

Array full(const Dims& shape, py::handle value, DType dtype, Device device, const char* op) {
  const Input in = fitted(op, parse_operand(op, "value", value), dtype);
  check_type(in.array == nullptr, op, ": value must be a number, got a Tensor");
  if (device.is_cuda()) cuda_backend().require(device);
  const Array out = Array::empty(shape, dtype, device);
  run_elementwise(ElementwiseOp::kCopy, compute_dtype(dtype), &in, 1, &out, 1);
  return out;
}

Array empty(const Dims& shape, DType dtype, Device device) {
  if (device.is_cuda()) cuda_backend().require(device);
  return Array::empty(shape, dtype, device);
}

void copy_between_devices(const Array& to, const Array& from) {
  if (to.numel() == 0) return;
  const size_t bytes = static_cast<size_t>(to.bytes());
  ReleaseGil release(true);
  if (!from.is_cuda())
    cuda_backend().copy(to.device(), to.mutable_data(), from.data(), bytes,
                        CopyKind::kHostToDevice);
  else if (!to.is_cuda())
    cuda_backend().copy(from.device(), to.mutable_data(), from.data(), bytes,
                        CopyKind::kDeviceToHost);
  else
    cuda_backend().copy(to.device(), to.mutable_data(), from.data(), bytes,
                        CopyKind::kDeviceToDevice);
}

Array random(const Dims& shape, DType dtype, Device device, uint8_t kind, int64_t low,
             uint64_t range) {
  RandomArgs args;
  const Array out = empty(shape, dtype, device);
  args.out = out.mutable_data();
  args.count = out.numel();
  args.dtype = dtype;
  args.kind = kind;
  args.low = low;
  args.range = range;
  const RandomKey key = next_random_key(args.count);
  args.seed = key.seed;
  args.offset = key.offset;
  if (args.count == 0) return out;
#if SEQLOOM_WITH_CUDA
  if (device.is_cuda()) {
    ReleaseGil release(true);
    cuda::DeviceScope scope(device.index);
    random_cuda(args);
    return out;
  }
#endif
  ReleaseGil release(args.count >= 4096);
  SEQLOOM_CPU(random_fill)(args);
  return out;
}

}  // namespace

DType conversion_dtype(DType from, DType to) {
  if (is_kernel_float(to)) return DType::kFloat32;
  if (to == DType::kFloat64) return to;
  return is_floating(from) ? DType::kFloat64 : DType::kInt64;
}

Array contiguous(const Array& a) {
  if (a.is_contiguous()) return a;
  const Array out = Array::empty_like(a);
  copy_into(out, a);
  return out;
}

Array convert(const Array& a, DType dtype, Device device, bool always_copy) {
  if (device != a.device()) {
    if (device.is_cuda()) cuda_backend().require(device);
    // The narrower of the two dtypes travels.
    const bool before = item_size(dtype) < item_size(a.dtype());
    const Array source = contiguous(before ? convert(a, dtype, a.device(), false) : a);
    const Array moved = Array::empty(a.shape(), source.dtype(), device);
    copy_between_devices(moved, source);
    return before ? moved : convert(moved, dtype, device, false);
  }
  if (dtype == a.dtype() && !always_copy) return a;
  const Array out = Array::empty(a.shape(), dtype, device);
  if (dtype == a.dtype()) {
    copy_into(out, a);
  } else {
    const Input in(a);
    run_elementwise(ElementwiseOp::kCopy, conversion_dtype(a.dtype(), dtype), &in, 1, &out, 1);
  }
  return out;
}

void register_creation(py::module_& m) {
  m.def("empty", &empty, py::arg("shape"), py::arg("dtype"), py::arg("device"));
  m.def("full", &full, py::arg("shape"), py::arg("value"), py::arg("dtype"), py::arg("device"),
        py::arg("op") = "full");
  m.def("convert", &convert, py::arg("x"), py::arg("dtype"), py::arg("device"),
        py::arg("always_copy"));
  m.def("contiguous", &contiguous, py::arg("x"));
  m.def(
      "clone", [](const Array& a) { return convert(a, a.dtype(), a.device(), true); },
      py::arg("x"));
  m.def(
      "random",
      [](const Dims& shape, DType dtype, Device device, int kind) {
        check_type(is_floating(dtype), "random: dtype must be floating, got ", name_of(dtype));
        return random(shape, dtype, device, static_cast<uint8_t>(kind == 1), 0, 0);
      },
      py::arg("shape"), py::arg("dtype"), py::arg("device"), py::arg("kind"));
  m.def(
      "random_integers",
      [](const Dims& shape, int64_t low, int64_t high, DType dtype, Device device) {
        check_value(low < high, "randint: high must be above low = ", low, ", got ", high);
        check_type(!is_floating(dtype), "randint: dtype must be an integer, got ", name_of(dtype));
        const uint64_t range = static_cast<uint64_t>(high) - static_cast<uint64_t>(low);
        return random(shape, dtype, device, 2, low, range);
      },
      py::arg("shape"), py::arg("low"), py::arg("high"), py::arg("dtype"), py::arg("device"));
  // A key for `count` numbers of the default stream: (seed, offset).
  m.def(
      "next_random_key",
      [](int64_t count) {
        const RandomKey key = next_random_key(count);
        return py::make_tuple(key.seed, key.offset);
      },
      py::arg("count"));
}

}  // namespace seqloom::ops
