// SPDX-License-Identifier: Apache-2.0
// The Python object behind sl.Tensor: an Array and the few slots that autograd needs, laid out in C
// so that a call creates one in tens of nanoseconds. seqloom/tensor.py derives Tensor from it.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "core/array.h"

namespace seqloom::binding {

struct TensorObject {
  PyObject_HEAD Array array;
  PyObject* grad;   // Tensor or null
  PyObject* node;   // the autograd node that made it, or null for a leaf
  PyObject* hooks;  // list of callables or null
  PyObject* weakrefs;
  int32_t node_output;  // which output of `node`
  bool requires_grad;
};

void register_tensor_type(pybind11::module_& m);
bool is_tensor(PyObject* object);
inline const Array& array_of(PyObject* object) {
  return reinterpret_cast<TensorObject*>(object)->array;
}
PyObject* new_tensor(Array array);  // new reference, or null with a Python error set
std::string type_name(PyObject* object);

bool grad_enabled();  // of this thread
void set_grad_enabled(bool enabled);

}  // namespace seqloom::binding
