// SPDX-License-Identifier: Apache-2.0
// Elementwise ops on the CPU: the switch over compute types, and the block functions of floats.
#include "ops/elementwise/elementwise_block.h"
#include "ops/elementwise/elementwise_driver.h"

namespace seqloom::SEQLOOM_ISA_NS {

BlockFunction<float> float_block_function(ops::ElementwiseOp op) {
  return block_function<float>(op);
}

void elementwise(const ops::ElementwiseArgs& args) {
  switch (args.compute) {
    case DType::kFloat64:
      return run_elementwise<double>(args, double_block_function(args.op));
    case DType::kInt64:
      return run_elementwise<int64_t>(args, integer_block_function(args.op));
    default:
      return run_elementwise<float>(args, float_block_function(args.op));
  }
}

}  // namespace seqloom::SEQLOOM_ISA_NS
