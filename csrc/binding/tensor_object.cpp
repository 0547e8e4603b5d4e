// SPDX-License-Identifier: Apache-2.0
#include "binding/tensor_object.h"

#include <structmember.h>

#include <new>

#include "binding/caster.h"

namespace seqloom::binding {
namespace {

PyTypeObject* base_type = nullptr;    // _core.TensorBase
PyTypeObject* tensor_type = nullptr;  // sl.Tensor once tensor.py has registered it
PyObject* view_recorder = nullptr;    // makes the node of a view from its base: autograd/tape.py
thread_local bool grad_mode = true;

TensorObject* self_of(PyObject* o) { return reinterpret_cast<TensorObject*>(o); }

PyObject* or_none(PyObject* o) { return Py_NewRef(o != nullptr ? o : Py_None); }

PyObject* tensor_new(PyTypeObject* type, PyObject*, PyObject*) {
  PyErr_Format(PyExc_TypeError, "%s: use sl.tensor(data) to make one", type->tp_name);
  return nullptr;
}

int tensor_traverse(PyObject* o, visitproc visit, void* arg) {
  TensorObject* t = self_of(o);
  Py_VISIT(t->grad);
  Py_VISIT(t->node);
  Py_VISIT(t->hooks);
  Py_VISIT(t->base);
  Py_VISIT(t->seen);
  Py_VISIT(Py_TYPE(o));
  return 0;
}

int tensor_clear(PyObject* o) {
  TensorObject* t = self_of(o);
  Py_CLEAR(t->grad);
  Py_CLEAR(t->node);
  Py_CLEAR(t->hooks);
  Py_CLEAR(t->base);
  Py_CLEAR(t->seen);
  return 0;
}

void tensor_dealloc(PyObject* o) {
  PyTypeObject* type = Py_TYPE(o);
  PyObject_GC_UnTrack(o);
  // A long chain of nodes and tensors must not exhaust the C stack.
  Py_TRASHCAN_BEGIN(o, tensor_dealloc) if (self_of(o)->weakrefs != nullptr)
      PyObject_ClearWeakRefs(o);
  tensor_clear(o);
  self_of(o)->array.~Array();
  type->tp_free(o);
  Py_DECREF(type);
  Py_TRASHCAN_END
}

PyObject* get_shape(PyObject* o, void*) {
  const Dims& shape = array_of(o).shape();
  PyObject* t = PyTuple_New(shape.size());
  if (t == nullptr) return nullptr;
  for (int i = 0; i < shape.size(); ++i) PyTuple_SET_ITEM(t, i, PyLong_FromLongLong(shape[i]));
  return t;
}
PyObject* get_strides(PyObject* o, void*) {
  return pybind11::cast(array_of(o).strides()).release().ptr();
}
PyObject* get_ndim(PyObject* o, void*) { return PyLong_FromLong(array_of(o).rank()); }
PyObject* get_size(PyObject* o, void*) { return PyLong_FromLongLong(array_of(o).numel()); }
PyObject* get_dtype_code(PyObject* o, void*) {
  return PyLong_FromLong(static_cast<long>(array_of(o).dtype()));
}
PyObject* get_device(PyObject* o, void*) {
  return pybind11::cast(array_of(o).device()).release().ptr();
}
PyObject* get_is_cuda(PyObject* o, void*) { return PyBool_FromLong(array_of(o).is_cuda()); }
PyObject* get_version(PyObject* o, void*) {
  return PyLong_FromUnsignedLongLong(
      array_of(o).storage()->version.load(std::memory_order_relaxed));
}
// The tensor, its history up to date, or null with a Python error.
TensorObject* current(PyObject* o) {
  TensorObject* t = self_of(o);
  return t->base == nullptr || follow_base(t) ? t : nullptr;
}

PyObject* get_requires_grad(PyObject* o, void*) {
  const TensorObject* t = current(o);
  return t == nullptr ? nullptr : PyBool_FromLong(t->requires_grad);
}
int set_requires_grad(PyObject* o, PyObject* value, void*) {
  if (value == nullptr || !PyBool_Check(value)) {
    PyErr_Format(PyExc_TypeError, "requires_grad: must be True or False, got %s",
                 value == nullptr ? "nothing" : Py_TYPE(value)->tp_name);
    return -1;
  }
  TensorObject* t = current(o);
  if (t == nullptr) return -1;
  const bool flag = value == Py_True;
  if (flag && !is_floating(array_of(o).dtype())) {
    PyErr_Format(PyExc_TypeError, "requires_grad: dtype must be floating, got %s",
                 name_of(array_of(o).dtype()));
    return -1;
  }
  if (!flag && t->node != nullptr) {
    PyErr_SetString(PyExc_RuntimeError,
                    "requires_grad: can't be turned off for the result of an op, use detach()");
    return -1;
  }
  if (flag && t->node == nullptr) Py_CLEAR(t->base);  // a leaf has a history of its own
  t->requires_grad = flag;
  return 0;
}
PyObject* get_needs_grad(PyObject* o, void*) {
  const TensorObject* t = current(o);
  return t == nullptr ? nullptr : PyBool_FromLong(t->requires_grad && grad_mode);
}
PyObject* get_grad(PyObject* o, void*) { return or_none(self_of(o)->grad); }
int set_grad(PyObject* o, PyObject* value, void*) {
  if (value == Py_None) value = nullptr;
  if (value != nullptr) {
    if (!is_tensor(value)) {
      PyErr_Format(PyExc_TypeError, "grad: must be a Tensor or None, got %s",
                   Py_TYPE(value)->tp_name);
      return -1;
    }
    if (array_of(value).shape() != array_of(o).shape()) {
      PyErr_SetString(PyExc_ValueError, str("grad: must have shape ", array_of(o).shape(), ", got ",
                                            array_of(value).shape())
                                            .c_str());
      return -1;
    }
  }
  Py_XINCREF(value);
  Py_XSETREF(self_of(o)->grad, value);
  return 0;
}
PyObject* get_node(PyObject* o, void*) {
  const TensorObject* t = current(o);
  return t == nullptr ? nullptr : or_none(t->node);
}
PyObject* get_node_output(PyObject* o, void*) {
  const TensorObject* t = current(o);
  return t == nullptr ? nullptr : PyLong_FromLong(t->node_output);
}
PyObject* get_base(PyObject* o, void*) { return or_none(self_of(o)->base); }
PyObject* get_hooks(PyObject* o, void*) { return or_none(self_of(o)->hooks); }
int set_hooks(PyObject* o, PyObject* value, void*) {
  if (value == Py_None) value = nullptr;
  Py_XINCREF(value);
  Py_XSETREF(self_of(o)->hooks, value);
  return 0;
}

PyGetSetDef tensor_getset[] = {
    {"shape", get_shape, nullptr, "extents, a tuple of int", nullptr},
    {"strides", get_strides, nullptr, "strides in elements", nullptr},
    {"ndim", get_ndim, nullptr, "number of axes", nullptr},
    {"size", get_size, nullptr, "number of elements", nullptr},
    {"device", get_device, nullptr, "'cpu' or 'cuda:N'", nullptr},
    {"is_cuda", get_is_cuda, nullptr, "True on a CUDA device", nullptr},
    {"requires_grad", get_requires_grad, set_requires_grad,
     "True when backward computes a gradient for it", nullptr},
    {"grad", get_grad, set_grad, "the accumulated gradient, a Tensor or None", nullptr},
    {"_dtype_code", get_dtype_code, nullptr, nullptr, nullptr},
    {"_version", get_version, nullptr, "counts in-place changes of the storage", nullptr},
    {"_needs_grad", get_needs_grad, nullptr, "requires_grad, unless in no_grad", nullptr},
    {"_node", get_node, nullptr, nullptr, nullptr},
    {"_node_output", get_node_output, nullptr, nullptr, nullptr},
    {"_base", get_base, nullptr, "of a view that the tape knows: the tensor it shows", nullptr},
    {"_hooks", get_hooks, set_hooks, nullptr, nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr}};

// _set_node(node, output): this tensor is output number `output` of `node`.
PyObject* set_node(PyObject* o, PyObject* const* args, Py_ssize_t count) {
  if (count != 2) {
    PyErr_SetString(PyExc_TypeError, "_set_node: takes node and output");
    return nullptr;
  }
  const long output = PyLong_AsLong(args[1]);
  if (output == -1 && PyErr_Occurred()) return nullptr;
  TensorObject* t = self_of(o);
  PyObject* node = args[0] == Py_None ? nullptr : args[0];
  Py_XINCREF(node);
  Py_XSETREF(t->node, node);
  t->node_output = static_cast<int32_t>(output);
  t->requires_grad = node != nullptr;
  Py_RETURN_NONE;
}

// _set_base(x): this tensor, just made, shows elements of x. Nothing is noted in no_grad.
PyObject* set_base(PyObject* o, PyObject* x) {
  if (!is_tensor(x)) {
    PyErr_SetString(PyExc_TypeError, "_set_base: must be a Tensor");
    return nullptr;
  }
  if (!grad_mode || o == x || array_of(o).storage() != array_of(x).storage()) Py_RETURN_NONE;
  TensorObject* t = self_of(o);
  PyObject* base = self_of(x)->base != nullptr ? self_of(x)->base : x;
  Py_XSETREF(t->base, Py_NewRef(base));
  Py_XSETREF(t->seen, Py_XNewRef(self_of(base)->node));
  Py_RETURN_NONE;
}

PyObject* detach(PyObject* o, PyObject*) { return new_tensor(array_of(o).unviewed()); }

PyObject* is_contiguous(PyObject* o, PyObject*) {
  return PyBool_FromLong(array_of(o).is_contiguous());
}

PyObject* bump_version(PyObject* o, PyObject*) {
  array_of(o).storage()->version.fetch_add(1, std::memory_order_relaxed);
  Py_RETURN_NONE;
}

// _adopt(other): take over another tensor's array (load_state_dict, optimizers, .to on modules).
PyObject* adopt(PyObject* o, PyObject* other) {
  if (!is_tensor(other)) {
    PyErr_SetString(PyExc_TypeError, "_adopt: must be a Tensor");
    return nullptr;
  }
  self_of(o)->array = array_of(other);
  Py_CLEAR(self_of(o)->base);
  Py_RETURN_NONE;
}

PyMethodDef tensor_methods[] = {
    {"_set_node", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(set_node)),
     METH_FASTCALL, nullptr},
    {"_set_base", set_base, METH_O, nullptr},
    {"_bump_version", bump_version, METH_NOARGS, nullptr},
    {"_adopt", adopt, METH_O, nullptr},
    {"detach", detach, METH_NOARGS, "The same values without gradient history; shares memory."},
    {"is_contiguous", is_contiguous, METH_NOARGS, "True when elements lie in row-major order."},
    {nullptr, nullptr, 0, nullptr}};

PyMemberDef tensor_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(TensorObject, weakrefs), READONLY, nullptr},
    {nullptr, 0, 0, 0, nullptr}};

PyType_Slot tensor_slots[] = {{Py_tp_new, reinterpret_cast<void*>(tensor_new)},
                              {Py_tp_dealloc, reinterpret_cast<void*>(tensor_dealloc)},
                              {Py_tp_traverse, reinterpret_cast<void*>(tensor_traverse)},
                              {Py_tp_clear, reinterpret_cast<void*>(tensor_clear)},
                              {Py_tp_getset, tensor_getset},
                              {Py_tp_methods, tensor_methods},
                              {Py_tp_members, tensor_members},
                              {0, nullptr}};

PyType_Spec tensor_spec = {"seqloom._core.TensorBase", sizeof(TensorObject), 0,
                           Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
                           tensor_slots};

}  // namespace

bool is_tensor(PyObject* o) {
  return Py_TYPE(o) == tensor_type || PyObject_TypeCheck(o, base_type);
}

PyObject* new_tensor(Array array) {
  PyObject* o = tensor_type->tp_alloc(tensor_type, 0);
  if (o == nullptr) return nullptr;
  new (&self_of(o)->array) Array(std::move(array));  // the other slots are zero
  return o;
}

std::string type_name(PyObject* o) { return Py_TYPE(o)->tp_name; }

std::string caller_name() {
  PyFrameObject* frame = PyEval_GetFrame();  // borrowed
  if (frame == nullptr) return "seqloom";
  PyCodeObject* code = PyFrame_GetCode(frame);
  const char* name = PyUnicode_AsUTF8(code->co_name);
  std::string out = name != nullptr && name[0] != '<' ? name : "seqloom";
  Py_DECREF(code);
  return out;
}

bool follow_base(TensorObject* t) {
  PyObject* now = self_of(t->base)->node;
  if (SEQLOOM_LIKELY(now == t->seen)) return true;
  Py_XSETREF(t->seen, Py_XNewRef(now));  // first: the recorder reads this tensor
  PyObject* node = PyObject_CallOneArg(view_recorder, reinterpret_cast<PyObject*>(t));
  if (node == nullptr) return false;
  Py_XSETREF(t->node, node);
  t->node_output = 0;
  t->requires_grad = true;
  return true;
}

bool grad_enabled() { return grad_mode; }
void set_grad_enabled(bool enabled) { grad_mode = enabled; }

void register_tensor_type(pybind11::module_& m) {
  base_type = reinterpret_cast<PyTypeObject*>(PyType_FromSpec(&tensor_spec));
  if (base_type == nullptr) throw pybind11::error_already_set();
  tensor_type = base_type;
  m.attr("TensorBase") = pybind11::handle(reinterpret_cast<PyObject*>(base_type));
  m.def("_set_tensor_type", [](pybind11::type type) {
    if (!PyType_IsSubtype(reinterpret_cast<PyTypeObject*>(type.ptr()), base_type))
      throw TypeError("_set_tensor_type: must derive from TensorBase");
    tensor_type = reinterpret_cast<PyTypeObject*>(type.inc_ref().ptr());
  });
  m.def(
      "_set_view_recorder",
      [](pybind11::object recorder) { view_recorder = recorder.release().ptr(); },
      pybind11::arg("recorder"));
  m.def("grad_enabled", &grad_enabled);
  m.def("set_grad_enabled", &set_grad_enabled);
}

}  // namespace seqloom::binding
