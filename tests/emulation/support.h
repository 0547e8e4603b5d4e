// SPDX-License-Identifier: Apache-2.0
// Shared by the test kernels of the emulator. Every kernel takes `bug`: 0 runs it as it should be,
// any other number plants the error of that number (tests/emulation/mutations.py lists them).
#pragma once
#include <exception>
#include <string>

#include "cuda/reduce.h"
#include "cuda/tensor_map.h"
#include "cuda/vector_access.h"

#define SEQLOOM_EXPORT extern "C" __attribute__((visibility("default")))

namespace seqloom_test {
using namespace seqloom;        // NOLINT
using namespace seqloom::cuda;  // NOLINT

std::string& error_text();  // support.cpp

// 0, or 1 with the exception's text in error_text().
template <class F>
int guarded(F f) {
  try {
    error_text().clear();
    f();
    return 0;
  } catch (const std::exception& e) {
    error_text() = e.what();
    return 1;
  }
}
}  // namespace seqloom_test
