// SPDX-License-Identifier: Apache-2.0
// Python operands as inputs of elementwise ops. For front doors.
#pragma once

#include "binding/tensor_object.h"
#include "ops/elementwise/plan.h"

namespace seqloom::ops {

// A Tensor, bool, int or float; false for anything else. An int that does not fit in 64 bits
// becomes its float. `op` names the op in errors.
bool parse_input(pybind11::handle object, Input* input);
// The same, but TypeError "op: name must be a Tensor or a number, got ...".
Input parse_operand(const char* op, const char* name, pybind11::handle object);
const Array& parse_tensor(const char* op, const char* name, pybind11::handle object);

// Every array on one device; CPU arrays of rank 0 beside CUDA arrays turn into numbers in place.
// The ints are the ranks of standing that result_dtype saw before.
void settle_devices(const char* op, Input* inputs, int count);

// A number on its way into integers is one of them: ValueError "op: value must ..." where it is
// not.
Input fitted(const char* op, const Input& in, DType dtype);

inline bool wants_grad(pybind11::handle object) {
  return binding::is_tensor(object.ptr()) && binding::requires_grad(object.ptr()) &&
         binding::grad_enabled();
}

// The Tensor of `array`; with `recorded` it says that it requires a gradient, and the caller
// records how (record() in autograd.py).
inline pybind11::object give(Array array, bool recorded) {
  const bool differentiable = recorded && is_floating(array.dtype());
  PyObject* out = binding::new_tensor(std::move(array));
  if (out == nullptr) throw pybind11::error_already_set();
  if (differentiable) reinterpret_cast<binding::TensorObject*>(out)->requires_grad = true;
  return pybind11::reinterpret_steal<pybind11::object>(out);
}

}  // namespace seqloom::ops
