// SPDX-License-Identifier: Apache-2.0
// The block functions of doubles (references and gradient checks) and of integers.
#include "ops/elementwise/elementwise_block.h"

#define SEQLOOM_MATH_NS SEQLOOM_ISA_NS
#include "ops/elementwise/elementwise_integer.h"
#undef SEQLOOM_MATH_NS

namespace seqloom::SEQLOOM_ISA_NS {

BlockFunction<double> double_block_function(ops::ElementwiseOp op) {
  return block_function<double>(op);
}

template <class F>
void integer_block(const Block<int64_t>& b) {
  const int64_t p = to_integer(b.args->p), q = to_integer(b.args->q);
  for (int64_t i = 0; i < b.count; ++i) {
    int64_t x[F::kInputs];
    for (int k = 0; k < F::kInputs; ++k) x[k] = b.in[k][i];
    b.out[0][i] = F::of(x, p, q);
  }
}

BlockFunction<int64_t> integer_block_function(ops::ElementwiseOp op) {
  BlockFunction<int64_t> found = nullptr;
  visit_integer_formula(op, [&](auto formula) { found = &integer_block<decltype(formula)>; });
  return found;
}

}  // namespace seqloom::SEQLOOM_ISA_NS
