// SPDX-License-Identifier: Apache-2.0
// The activation that a linear layer's caller names. For front doors.
#pragma once

#include <pybind11/pybind11.h>

#include <string_view>

#include "binding/tensor_object.h"
#include "core/error.h"
#include "ops/matmul/matmul.h"

namespace seqloom::ops {

inline Epilogue epilogue_named(const char* op, pybind11::handle activation) {
  if (activation.is_none()) return Epilogue::kNone;
  check_type(PyUnicode_Check(activation.ptr()) != 0, op, ": activation must be a string, got ",
             binding::type_name(activation.ptr()));
  const char* name = PyUnicode_AsUTF8(activation.ptr());
  if (name == nullptr) throw pybind11::error_already_set();
  const std::string_view s(name);
  if (s == "relu") return Epilogue::kRelu;
  if (s == "gelu") return Epilogue::kGelu;
  if (s == "gelu_tanh") return Epilogue::kGeluTanh;
  if (s == "silu") return Epilogue::kSilu;
  throw ValueError(str(op, ": activation must be None, 'relu', 'gelu', 'gelu_tanh' or 'silu', ",
                       "got '", s, "'"));
}

}  // namespace seqloom::ops
