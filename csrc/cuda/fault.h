// SPDX-License-Identifier: Apache-2.0
// Errors that only a kernel can see: an index out of range. The kernel leaves memory alone, notes
// the first such index in a slot of its device, and the host raises it as an IndexError at the next
// synchronisation or copy to the host.
//
//   launch(kernel, ..., cuda::fault_slot());                            // kernel(Fault* fault,
//   ...) cuda::report_fault(fault, FaultOp::kEmbedding, index, extent);      // device code
//   cuda::raise_faults();                                             // host, after the work
#pragma once

#include <cstdint>

namespace seqloom::cuda {

struct Fault {
  int32_t raised;  // 0: nothing is wrong
  int32_t op;
  int64_t index, extent;
};

// Which op a kernel works for, in the words of its message.
enum class FaultOp : int32_t { kIndex, kEmbedding, kGather, kTargets };

// The slot of the calling thread's device; from now on raise_faults() looks at it.
Fault* fault_slot();

// Throws IndexError for the first fault since the last call, on the calling thread's device. The
// work that might have raised one has finished.
void raise_faults();

}  // namespace seqloom::cuda

#if defined(SEQLOOM_DEVICE)
namespace seqloom::cuda {
SEQLOOM_DEVICE void report_fault(Fault* fault, FaultOp op, int64_t index, int64_t extent) {
  if (atomicCAS(&fault->raised, 0, 1) != 0) return;
  fault->op = static_cast<int32_t>(op);
  fault->index = index;
  fault->extent = extent;
}
}  // namespace seqloom::cuda
#endif
