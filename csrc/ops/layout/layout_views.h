// SPDX-License-Identifier: Apache-2.0
// Views: other shapes and strides over the same storage. No kernel runs, nothing is copied.
// Python arguments come in as handles, so that a wrong one gives our own message.
#pragma once

#include <cstdint>
#include <optional>

#include "binding/tensor_object.h"

namespace seqloom::ops {

// An integer argument (anything with __index__ but bool and arrays); TypeError names it.
int64_t index_argument(const char* op, const char* name, pybind11::handle value);
// A tuple or list of integers; ValueError past kMaxRank entries.
Dims dims_argument(const char* op, const char* name, pybind11::handle values);

// Strides with which `shape` addresses the elements of `a` in row-major order, if there are any.
std::optional<Dims> view_strides(const Array& a, const Dims& shape);

Array transpose_view(const Array& a, int axis0, int axis1);
Array permute_view(const char* op, const Array& a, const Dims& axes);
Array expand_view(const char* op, const Array& a, Dims shape);
// Elements [start, start + length) of an axis.
Array narrow_view(const Array& a, int axis, int64_t start, int64_t length);

// The view that integers, slices, None and Ellipsis select; nothing when `key` holds a mask, an
// array or a list. IndexError for positions that don't exist.
std::optional<Array> index_view(const char* op, const Array& a, pybind11::handle key);

void register_views(pybind11::module_& m);

}  // namespace seqloom::ops
