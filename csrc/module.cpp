// SPDX-License-Identifier: Apache-2.0
// The extension module seqloom._core: one register call for each room.
#include <pybind11/pybind11.h>

#include "binding/registers.h"

PYBIND11_MODULE(_core, m) {
  m.doc() = "Kernels and arrays of seqloom; use the public API in the package seqloom.";
  seqloom::binding::register_errors(m);
  seqloom::binding::register_tensor_type(m);
  seqloom::binding::register_interop(m);
  seqloom::binding::register_runtime(m);
  seqloom::binding::register_cuda(m);
  seqloom::binding::register_roofline(m);

  seqloom::ops::register_attention(m);
  seqloom::ops::register_cache(m);
  seqloom::ops::register_elementwise(m);
  seqloom::ops::register_layout(m);
  seqloom::ops::register_loss(m);
  seqloom::ops::register_matmul(m);
  seqloom::ops::register_norm(m);
  seqloom::ops::register_optimizer(m);
  seqloom::ops::register_quantized(m);
  seqloom::ops::register_reduction(m);
  seqloom::ops::register_rnn(m);
  seqloom::ops::register_softmax(m);
}
