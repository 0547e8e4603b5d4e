// SPDX-License-Identifier: Apache-2.0
// SEQLOOM_CUDA=OFF: the questions that every build answers.
#include "cuda/runtime.h"

namespace seqloom::cuda {

std::string why_unavailable() {
  return "this build of seqloom has no CUDA support (rebuild with SEQLOOM_CUDA=ON)";
}
bool is_available() { return false; }
int device_count() { return 0; }
std::string runtime_version() { return ""; }
std::string driver_version() { return ""; }

}  // namespace seqloom::cuda
