// SPDX-License-Identifier: Apache-2.0
// What module.cpp calls. A new op family adds its line here and there.
#pragma once

#include <pybind11/pybind11.h>

namespace seqloom::binding {

void register_errors(pybind11::module_& m);
void register_tensor_type(pybind11::module_& m);
void register_interop(pybind11::module_& m);
void register_runtime(pybind11::module_& m);
void register_cuda(pybind11::module_& m);
void register_roofline(pybind11::module_& m);

}  // namespace seqloom::binding

namespace seqloom::ops {

void register_attention(pybind11::module_& m);
void register_cache(pybind11::module_& m);
void register_elementwise(pybind11::module_& m);
void register_layout(pybind11::module_& m);
void register_loss(pybind11::module_& m);
void register_matmul(pybind11::module_& m);
void register_norm(pybind11::module_& m);
void register_optimizer(pybind11::module_& m);
void register_quantized(pybind11::module_& m);
void register_reduction(pybind11::module_& m);
void register_rnn(pybind11::module_& m);
void register_softmax(pybind11::module_& m);

}  // namespace seqloom::ops
