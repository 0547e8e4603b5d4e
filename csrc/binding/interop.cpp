// SPDX-License-Identifier: Apache-2.0
// NumPy arrays keep their owner alive through Storage::owner; NumPy views of ours hold the Tensor.
// DLPack capsules are consumed once, as the protocol asks, and released when the last view goes.
#include "binding/interop.h"

#include <pybind11/numpy.h>

#include <cstring>

#include "binding/caster.h"
#include "binding/dlpack.h"

namespace seqloom::binding {
namespace {

namespace py = pybind11;

// ---- dtypes ------------------------------------------------------------------------------------

PyObject* bfloat16_dtype = nullptr;  // numpy.dtype(ml_dtypes.bfloat16), made at first use

py::dtype numpy_dtype(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return py::dtype::of<float>();
    case DType::kFloat16:
      return py::dtype("float16");
    case DType::kFloat64:
      return py::dtype::of<double>();
    case DType::kInt64:
      return py::dtype::of<int64_t>();
    case DType::kInt32:
      return py::dtype::of<int32_t>();
    case DType::kInt8:
      return py::dtype::of<int8_t>();
    case DType::kUInt8:
      return py::dtype::of<uint8_t>();
    case DType::kBool:
      return py::dtype::of<bool>();
    case DType::kBFloat16:
      break;
  }
  if (bfloat16_dtype == nullptr)
    bfloat16_dtype =
        py::dtype::from_args(py::module_::import("ml_dtypes").attr("bfloat16")).release().ptr();
  return py::reinterpret_borrow<py::dtype>(bfloat16_dtype);
}

bool from_numpy_dtype(const py::dtype& d, DType* out) {
  if (d.byteorder() == '>') return false;
  const char kind = d.kind();
  const auto bytes = d.itemsize();
  if (kind == 'f' && bytes == 4)
    *out = DType::kFloat32;
  else if (kind == 'f' && bytes == 2)
    *out = DType::kFloat16;
  else if (kind == 'f' && bytes == 8)
    *out = DType::kFloat64;
  else if (kind == 'i' && bytes == 8)
    *out = DType::kInt64;
  else if (kind == 'i' && bytes == 4)
    *out = DType::kInt32;
  else if (kind == 'i' && bytes == 1)
    *out = DType::kInt8;
  else if (kind == 'u' && bytes == 1)
    *out = DType::kUInt8;
  else if (kind == 'b')
    *out = DType::kBool;
  else if (bytes == 2 && py::cast<std::string>(d.attr("name")) == "bfloat16")
    *out = DType::kBFloat16;
  else
    return false;
  return true;
}

void release_python_owner(Storage* s) {
  if (!Py_IsInitialized()) return;  // the interpreter is gone, and the memory with it
  {
    py::gil_scoped_acquire gil;
    Py_XDECREF(static_cast<PyObject*>(s->owner));
  }
  delete s;
}

// ---- NumPy -------------------------------------------------------------------------------------

Array from_numpy(const py::object& object) {
  check_type(py::isinstance<py::array>(object), "from_numpy: must be a numpy.ndarray, got ",
             type_name(object.ptr()));
  const auto a = py::reinterpret_borrow<py::array>(object);
  DType dtype;
  // NumPy takes microseconds for the name of a dtype: only where it is wanted.
  if (!from_numpy_dtype(a.dtype(), &dtype))
    throw TypeError(seqloom::str("from_numpy: dtype must be one of float32, float16, bfloat16, ",
                                 "float64, int64, int32, int8, uint8, bool, got ",
                                 py::cast<std::string>(py::str(a.dtype()))));
  check_value(a.ndim() <= kMaxRank, "from_numpy: rank must be at most ", kMaxRank, ", got ",
              a.ndim());
  Dims shape, strides;
  const int64_t item = item_size(dtype);
  const bool empty = a.size() == 0;
  for (py::ssize_t i = 0; i < a.ndim(); ++i) {
    const int64_t stride = a.strides(i);
    check_value(empty || a.shape(i) == 1 || stride % item == 0,
                "from_numpy: strides must be multiples of the item size, got ", stride);
    shape.push_back(a.shape(i));
    strides.push_back(stride / item);
  }
  const auto address = reinterpret_cast<uintptr_t>(a.data());
  check_value(empty || address % static_cast<uintptr_t>(item) == 0,
              "from_numpy: data must be aligned to the item size; copy it first");
  if (empty) strides = contiguous_strides(shape);
  void* data = const_cast<void*>(a.data());
  const bool read_only = !a.writeable();
  return Array::wrap(data, shape, strides, dtype, {}, read_only, object.inc_ref().ptr(),
                     release_python_owner);
}

py::array to_numpy(const py::object& tensor) {
  check_type(is_tensor(tensor.ptr()), "numpy: must be a Tensor, got ", type_name(tensor.ptr()));
  const Array& a = array_of(tensor.ptr());
  check_type(!a.is_cuda(), "numpy: the tensor is on ", a.device(), ", use .cpu() first");
  a.storage()->shared = true;
  std::vector<py::ssize_t> shape, strides;
  for (int i = 0; i < a.rank(); ++i) {
    shape.push_back(a.shape()[i]);
    strides.push_back(a.strides()[i] * item_size(a.dtype()));
  }
  py::array out(numpy_dtype(a.dtype()), shape, strides, a.data(), tensor);
  if (a.read_only())
    py::detail::array_proxy(out.ptr())->flags &= ~py::detail::npy_api::NPY_ARRAY_WRITEABLE_;
  return out;
}

// ---- DLPack ------------------------------------------------------------------------------------

dlpack::DLDataType to_dlpack_dtype(DType dtype) {
  const auto bits = static_cast<uint8_t>(item_size(dtype) * 8);
  switch (dtype) {
    case DType::kBFloat16:
      return {dlpack::kBfloat, bits, 1};
    case DType::kInt64:
    case DType::kInt32:
    case DType::kInt8:
      return {dlpack::kInt, bits, 1};
    case DType::kUInt8:
      return {dlpack::kUInt, bits, 1};
    case DType::kBool:
      return {dlpack::kBool, bits, 1};
    default:
      return {dlpack::kFloat, bits, 1};
  }
}

DType from_dlpack_dtype(dlpack::DLDataType d) {
  if (d.lanes == 1)
    for (int code = 0; code < kDTypeCount; ++code) {
      const auto want = to_dlpack_dtype(static_cast<DType>(code));
      if (want.code == d.code && want.bits == d.bits) return static_cast<DType>(code);
    }
  throw TypeError(str("from_dlpack: element type must be one of ours, got code ", int{d.code}, ", ",
                      int{d.bits}, " bits, ", d.lanes, " lanes"));
}

template <class Managed>
struct Exported {  // one allocation: the managed tensor and what it points to
  Managed managed;
  Array array;
  Dims shape, strides;
};

template <class Managed>
void delete_exported(Managed* m) {
  delete static_cast<Exported<Managed>*>(m->context);
}

template <class Managed>
void delete_unconsumed(PyObject* capsule) {
  const char* name =
      std::is_same_v<Managed, dlpack::DLManagedTensorVersioned> ? "dltensor_versioned" : "dltensor";
  if (!PyCapsule_IsValid(capsule, name)) return;  // a consumer has renamed it
  auto* m = static_cast<Managed*>(PyCapsule_GetPointer(capsule, name));
  if (m->deleter != nullptr) m->deleter(m);
}

template <class Managed>
py::object export_capsule(const Array& a, bool copied) {
  a.storage()->shared = true;
  auto* e = new Exported<Managed>{};
  e->array = a;
  e->shape = a.shape();
  e->strides = a.strides();
  Managed& m = e->managed;
  m.context = e;
  m.deleter = delete_exported<Managed>;
  m.tensor.data = const_cast<void*>(a.data());
  m.tensor.device = {a.is_cuda() ? dlpack::kCuda : dlpack::kCpu, a.device().index};
  m.tensor.ndim = a.rank();
  m.tensor.dtype = to_dlpack_dtype(a.dtype());
  m.tensor.shape = e->shape.begin();
  m.tensor.strides = e->strides.begin();
  m.tensor.byte_offset = 0;
  const char* name = "dltensor";
  if constexpr (std::is_same_v<Managed, dlpack::DLManagedTensorVersioned>) {
    name = "dltensor_versioned";
    m.version = {1, 0};
    m.flags = (a.read_only() ? dlpack::kFlagReadOnly : 0) | (copied ? dlpack::kFlagIsCopied : 0);
  }
  PyObject* capsule = PyCapsule_New(&m, name, delete_unconsumed<Managed>);
  if (capsule == nullptr) {
    delete e;
    throw py::error_already_set();
  }
  return py::reinterpret_steal<py::object>(capsule);
}

py::object to_dlpack(const Array& a, bool versioned, bool copied) {
  if (versioned) return export_capsule<dlpack::DLManagedTensorVersioned>(a, copied);
  if (a.read_only()) {
    PyErr_SetString(PyExc_BufferError,
                    "__dlpack__: a read-only array needs a consumer that asks for version 1");
    throw py::error_already_set();
  }
  return export_capsule<dlpack::DLManagedTensor>(a, copied);
}

template <class Managed>
void release_imported(Storage* s) {
  auto* m = static_cast<Managed*>(s->owner);
  if (m->deleter != nullptr && Py_IsInitialized()) {
    py::gil_scoped_acquire gil;  // producers may touch Python in their deleter
    m->deleter(m);
  }
  delete s;
}

template <class Managed>
Array import_managed(Managed* m, bool read_only) {
  const dlpack::DLTensor& t = m->tensor;
  check_value(t.ndim >= 0 && t.ndim <= kMaxRank, "from_dlpack: rank must be at most ", kMaxRank,
              ", got ", t.ndim);
  const DType dtype = from_dlpack_dtype(t.dtype);
  Device device;
  if (t.device.type == dlpack::kCuda || t.device.type == dlpack::kCudaManaged) {
    device = {DeviceType::kCuda, static_cast<int8_t>(t.device.id)};
    cuda_backend().require(device);
  } else {
    check_type(t.device.type == dlpack::kCpu || t.device.type == dlpack::kCudaHost,
               "from_dlpack: device must be a CPU or CUDA device, got type ", t.device.type);
  }
  Dims shape;
  for (int i = 0; i < t.ndim; ++i) shape.push_back(t.shape[i]);
  const int64_t count = checked_numel(shape, dtype);
  Dims strides = contiguous_strides(shape);
  if (t.strides != nullptr && count != 0)
    for (int i = 0; i < t.ndim; ++i) strides[i] = t.strides[i];
  char* data = static_cast<char*>(t.data) + t.byte_offset;
  check_value(count == 0 ||
                  reinterpret_cast<uintptr_t>(data) % static_cast<uintptr_t>(item_size(dtype)) == 0,
              "from_dlpack: data must be aligned to the item size");
  return Array::wrap(data, shape, strides, dtype, device, read_only, m, release_imported<Managed>);
}

Array from_dlpack(const py::object& object) {
  PyObject* capsule = object.ptr();
  if (PyCapsule_IsValid(capsule, "dltensor_versioned")) {
    auto* m = static_cast<dlpack::DLManagedTensorVersioned*>(
        PyCapsule_GetPointer(capsule, "dltensor_versioned"));
    check_value(m->version.major == 1, "from_dlpack: DLPack version must be 1.x, got ",
                m->version.major, ".", m->version.minor);
    Array a = import_managed(m, (m->flags & dlpack::kFlagReadOnly) != 0);
    PyCapsule_SetName(capsule, "used_dltensor_versioned");
    return a;
  }
  check_type(PyCapsule_IsValid(capsule, "dltensor") != 0,
             "from_dlpack: must be an unused DLPack capsule, got ", type_name(capsule));
  auto* m = static_cast<dlpack::DLManagedTensor*>(PyCapsule_GetPointer(capsule, "dltensor"));
  Array a = import_managed(m, false);
  PyCapsule_SetName(capsule, "used_dltensor");
  return a;
}

// Memory that another library describes by address (__cuda_array_interface__).
Array from_pointer(uint64_t address, const Dims& shape, const std::optional<Dims>& strides,
                   DType dtype, Device device, bool read_only, const py::object& owner) {
  check_value(address % static_cast<uint64_t>(item_size(dtype)) == 0,
              "from_pointer: data must be aligned to the item size");
  check_value(!strides || strides->size() == shape.size(),
              "from_pointer: strides must have the rank of shape ", shape);
  checked_numel(shape, dtype);
  if (device.is_cuda()) cuda_backend().require(device);
  return Array::wrap(reinterpret_cast<void*>(address), shape,
                     strides ? *strides : contiguous_strides(shape), dtype, device, read_only,
                     owner.inc_ref().ptr(), release_python_owner);
}

uint64_t data_pointer(const Array& a) {
  a.storage()->shared = true;
  return reinterpret_cast<uintptr_t>(a.data());
}

}  // namespace

void register_interop(py::module_& m) {
  m.def("from_numpy", &from_numpy, py::arg("array"));
  m.def("to_numpy", &to_numpy, py::arg("tensor"));
  m.def("to_dlpack", &to_dlpack, py::arg("tensor"), py::arg("versioned"), py::arg("copied"));
  m.def("from_dlpack", &from_dlpack, py::arg("capsule"));
  m.def("from_pointer", &from_pointer, py::arg("address"), py::arg("shape"), py::arg("strides"),
        py::arg("dtype"), py::arg("device"), py::arg("read_only"), py::arg("owner"));
  m.def("data_pointer", &data_pointer, py::arg("tensor"));
  m.def("read_only", [](const Array& a) { return a.read_only(); }, py::arg("tensor"));
  m.def(
      "shares_storage", [](const Array& a, const Array& b) { return a.storage() == b.storage(); },
      py::arg("a"), py::arg("b"));
}

}  // namespace seqloom::binding
