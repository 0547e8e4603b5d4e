// SPDX-License-Identifier: Apache-2.0
// Switching stacks: callee-saved registers only, in assembly for x86-64 and aarch64, through
// ucontext elsewhere (about thirty times slower, same behaviour).
#pragma once
#include <cstddef>

namespace seqloom::emulation {

// Saves the running context in *save and continues `load`.
void switch_context(void** save, void* load);
// A context that starts `entry` on the given stack; `entry` never returns. `colour` staggers the
// stack tops, which otherwise fall on the same cache lines (a factor of two).
void* make_context(unsigned char* stack, std::size_t bytes, unsigned colour, void (*entry)());
const char* context_switch_name();

}  // namespace seqloom::emulation
