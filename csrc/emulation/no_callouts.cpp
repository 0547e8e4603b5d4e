// SPDX-License-Identifier: Apache-2.0
// Plain builds: kernels are not instrumented.
#include "emulation/control.h"

namespace seqloom::emulation {
bool built_with_checker() { return false; }
}  // namespace seqloom::emulation
