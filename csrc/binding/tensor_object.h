// SPDX-License-Identifier: Apache-2.0
// The Python object behind sl.Tensor: an Array and the few slots that autograd needs, laid out in C
// so that a call creates one in tens of nanoseconds. seqloom/tensor.py derives Tensor from it.
//
// A view that the tape knows holds its base. The base's history is the truth: an in-place change of
// the base or of any view of it becomes part of that history, and a view whose base got another
// node since makes its own node anew, when somebody asks for it (follow_base).
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
  PyObject* base;       // of a view: the Tensor whose memory it shows, itself no view; else null
  PyObject* seen;       // of a view: the base's node when `node` was made
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
std::string caller_name();  // of the Python function that is calling: ours are named as their ops

// Brings a view's history up to date; false with a Python error set.
bool follow_base(TensorObject* t);
// Whether backward reaches the tensor; throws what follow_base set.
inline bool requires_grad(PyObject* object) {
  auto* t = reinterpret_cast<TensorObject*>(object);
  if (t->base != nullptr && !follow_base(t)) throw pybind11::error_already_set();
  return t->requires_grad;
}

bool grad_enabled();  // of this thread
void set_grad_enabled(bool enabled);

}  // namespace seqloom::binding
