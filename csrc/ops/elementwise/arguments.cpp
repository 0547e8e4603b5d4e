// SPDX-License-Identifier: Apache-2.0
#include "ops/elementwise/arguments.h"

#include <cmath>

namespace seqloom::ops {

bool parse_input(pybind11::handle object, Input* input) {
  PyObject* o = object.ptr();
  if (binding::is_tensor(o)) {
    *input = Input(binding::array_of(o));
  } else if (PyFloat_Check(o)) {
    *input = Input::number(PyFloat_AS_DOUBLE(o));
  } else if (PyBool_Check(o)) {
    *input = Input::number(int64_t{o == Py_True}, DType::kBool);
  } else if (PyLong_Check(o)) {
    int overflow = 0;
    const long long value = PyLong_AsLongLongAndOverflow(o, &overflow);
    if (overflow != 0) {
      const double real = PyLong_AsDouble(o);
      const bool beyond = PyErr_Occurred() != nullptr;
      if (beyond) PyErr_Clear();
      *input = Input::number(beyond ? overflow * __builtin_inf() : real);
      input->integer = overflow;
    } else {
      *input = Input::number(static_cast<int64_t>(value));
    }
  } else {
    return false;
  }
  return true;
}

Input parse_operand(const char* op, const char* name, pybind11::handle object) {
  Input input;
  check_type(parse_input(object, &input), op, ": ", name, " must be a Tensor or a number, got ",
             Py_TYPE(object.ptr())->tp_name);
  return input;
}

const Array& parse_tensor(const char* op, const char* name, pybind11::handle object) {
  check_type(binding::is_tensor(object.ptr()), op, ": ", name, " must be a Tensor, got ",
             Py_TYPE(object.ptr())->tp_name);
  return binding::array_of(object.ptr());
}

Input fitted(const char* op, const Input& in, DType dtype) {
  if (in.array != nullptr || is_floating(dtype)) return in;
  if (dtype == DType::kBool) return Input::number(int64_t{in.real != 0}, DType::kBool);
  const int bits = static_cast<int>(8 * item_size(dtype));
  const bool has_sign = dtype != DType::kUInt8;
  const int64_t low = has_sign ? INT64_MIN >> (64 - bits) : 0, top = has_sign ? ~low : 255;
  if (!is_floating(in.number_dtype)) {
    check_value(in.integer >= low && in.integer <= top, op, ": value must be in [", low, ", ", top,
                "] for ", name_of(dtype), ", got ", in.integer);
    return in;
  }
  const double x = in.real, end = std::ldexp(1.0, has_sign ? bits - 1 : bits);
  check_value(std::isfinite(x), op, ": value must be finite for ", name_of(dtype), ", got ", x);
  check_value(in.integer == 0 && x >= static_cast<double>(low) && x < end, op,
              ": value must be in [", low, ", ", top, "] for ", name_of(dtype), ", got ", x);
  check_value(x == std::trunc(x), op, ": value must be an integer for ", name_of(dtype), ", got ",
              x);
  return Input::number(static_cast<int64_t>(x));
}

void settle_devices(const char* op, Input* inputs, int count) {
  const Array* first = nullptr;
  for (int i = 0; i < count; ++i) {
    const Array* a = inputs[i].array;
    if (a != nullptr && (first == nullptr || (!first->is_cuda() && a->is_cuda()))) first = a;
  }
  for (int i = 0; i < count; ++i) {
    const Array* a = inputs[i].array;
    if (a == nullptr || a->device() == first->device()) continue;
    check_value(!a->is_cuda() && a->rank() == 0, op, ": tensors must be on one device, got ",
                first->device(), " and ", a->device());
    dispatch_all(a->dtype(), [&](auto t) {
      using T = typename decltype(t)::type;
      const T value = *a->data_as<T>();
      double real;
      if constexpr (sizeof(T) == 2)
        real = to_float(value);
      else
        real = static_cast<double>(value);
      inputs[i] = Input::number(real);
      if constexpr (dtype_of<T>() == DType::kInt64)
        inputs[i].integer = value;
      else if (!is_floating(dtype_of<T>()))
        inputs[i].integer = static_cast<int64_t>(real);
    });
  }
}

}  // namespace seqloom::ops
