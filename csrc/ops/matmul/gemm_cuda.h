// SPDX-License-Identifier: Apache-2.0
// The strategies behind product_cuda, for its launcher.
#pragma once

#include "ops/matmul/matmul.h"

namespace seqloom::ops {

// float16 and bfloat16 from sm_80 on; false where it can't serve.
bool tensor_core_product(const ProductArgs& args);
// float16 on sm_75.
bool turing_product(const ProductArgs& args);

}  // namespace seqloom::ops
