// SPDX-License-Identifier: Apache-2.0
// Lets front doors take `const Array&`, `std::optional<Array>`, DType and Device, and return them.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "binding/tensor_object.h"
#include "core/error.h"

namespace pybind11::detail {

template <>
struct type_caster<seqloom::Array> {
  static constexpr auto name = const_name("TensorBase");
  bool load(handle source, bool) {
    if (!seqloom::binding::is_tensor(source.ptr()))
      throw seqloom::TypeError(seqloom::binding::caller_name() + ": must be given a Tensor, got " +
                               seqloom::binding::type_name(source.ptr()));
    array = &seqloom::binding::array_of(source.ptr());
    return true;
  }
  static handle cast(seqloom::Array result, return_value_policy, handle) {
    return seqloom::binding::new_tensor(std::move(result));
  }
  template <class T>
  using cast_op_type =
      std::conditional_t<std::is_rvalue_reference_v<T>, seqloom::Array, const seqloom::Array&>;
  operator const seqloom::Array&() const { return *array; }
  operator seqloom::Array() const { return *array; }
  const seqloom::Array* array = nullptr;
};

// dtypes and devices cross as small integers and strings: see DType and Device in tensor.py.
template <>
struct type_caster<seqloom::DType> {
  PYBIND11_TYPE_CASTER(seqloom::DType, const_name("int"));
  bool load(handle source, bool) {
    if (!PyLong_Check(source.ptr())) return false;
    const long code = PyLong_AsLong(source.ptr());
    if (code < 0 || code >= seqloom::kDTypeCount) {
      PyErr_Clear();
      return false;
    }
    value = static_cast<seqloom::DType>(code);
    return true;
  }
  static handle cast(seqloom::DType d, return_value_policy, handle) {
    return PyLong_FromLong(static_cast<long>(d));
  }
};

template <>
struct type_caster<seqloom::Device> {
  PYBIND11_TYPE_CASTER(seqloom::Device, const_name("str"));
  bool load(handle source, bool) {
    if (!PyUnicode_Check(source.ptr())) return false;
    value = seqloom::parse_device(pybind11::cast<std::string>(source));
    return true;
  }
  static handle cast(seqloom::Device d, return_value_policy, handle) {
    const std::string spelling = seqloom::to_string(d);
    return PyUnicode_FromStringAndSize(spelling.data(), static_cast<Py_ssize_t>(spelling.size()));
  }
};

template <>
struct type_caster<seqloom::Dims> {
  PYBIND11_TYPE_CASTER(seqloom::Dims, const_name("tuple[int, ...]"));
  bool load(handle source, bool) {
    if (!PyTuple_Check(source.ptr()) && !PyList_Check(source.ptr())) return false;
    const object fast = reinterpret_steal<object>(PySequence_Fast(source.ptr(), ""));
    const Py_ssize_t n = PySequence_Fast_GET_SIZE(fast.ptr());
    if (n > seqloom::kMaxRank)
      throw seqloom::ValueError(
          seqloom::str("shape: rank must be at most ", seqloom::kMaxRank, ", got ", n));
    value = seqloom::Dims();
    for (Py_ssize_t i = 0; i < n; ++i) {
      const object index =
          reinterpret_steal<object>(PyNumber_Index(PySequence_Fast_GET_ITEM(fast.ptr(), i)));
      if (!index) {
        PyErr_Clear();
        return false;
      }
      const long long extent = PyLong_AsLongLong(index.ptr());
      if (extent == -1 && PyErr_Occurred()) {
        PyErr_Clear();
        throw seqloom::ValueError("shape: an extent does not fit in 64 bits");
      }
      value.push_back(extent);
    }
    return true;
  }
  static handle cast(const seqloom::Dims& dims, return_value_policy, handle) {
    PyObject* t = PyTuple_New(dims.size());
    for (int i = 0; i < dims.size(); ++i) PyTuple_SET_ITEM(t, i, PyLong_FromLongLong(dims[i]));
    return t;
  }
};

}  // namespace pybind11::detail

namespace seqloom::binding {

// Gives the interpreter to other threads while a call works on enough elements to matter.
class ReleaseGil {
 public:
  explicit ReleaseGil(bool worth_it) : state_(worth_it ? PyEval_SaveThread() : nullptr) {}
  explicit ReleaseGil(const Array& a) : ReleaseGil(a.numel() >= 8192 || a.is_cuda()) {}
  ~ReleaseGil() {
    if (state_ != nullptr) PyEval_RestoreThread(state_);
  }
  ReleaseGil(const ReleaseGil&) = delete;
  ReleaseGil& operator=(const ReleaseGil&) = delete;

 private:
  PyThreadState* state_;
};

}  // namespace seqloom::binding
