// SPDX-License-Identifier: Apache-2.0
// Arrays to and from NumPy, DLPack and raw pointers, without a copy.
#pragma once

#include <pybind11/pybind11.h>

namespace seqloom::binding {

void register_interop(pybind11::module_& m);

}  // namespace seqloom::binding
