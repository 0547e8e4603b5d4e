// SPDX-License-Identifier: Apache-2.0
// Reads a kernel's __launch_bounds__ back from its code: emulation/device.h makes the compiler put
// one no-op for every 32 threads before the entry, and list where they begin.
#include "emulation/machine.h"

extern "C" {
// Made by the linker around the section of that name; null where nothing has bounds.
extern const std::uintptr_t __start___patchable_function_entries[]
    __attribute__((weak, visibility("hidden")));
extern const std::uintptr_t __stop___patchable_function_entries[]
    __attribute__((weak, visibility("hidden")));
}

namespace seqloom::emulation {
namespace {

#if defined(__aarch64__)
using Instruction = std::uint32_t;
constexpr Instruction kNoOperation = 0xd503201f;
#else
using Instruction = std::uint8_t;
constexpr Instruction kNoOperation = 0x90;
#endif
constexpr int kMostWarps = 32;  // 1024 threads

}  // namespace

int launch_bound(const void* function) {
  const auto entry = reinterpret_cast<std::uintptr_t>(function);
  std::uintptr_t begin = 0;
  for (const std::uintptr_t* p = __start___patchable_function_entries;
       p < __stop___patchable_function_entries; ++p)
    if (*p < entry && *p > begin) begin = *p;
  const std::uintptr_t bytes = entry - begin;
  if (!begin || bytes > kMostWarps * sizeof(Instruction)) return 0;
  // Something else than no-ops is the code of the function before this one.
  const auto* code = reinterpret_cast<const Instruction*>(begin);
  for (std::uintptr_t i = 0; i < bytes / sizeof(Instruction); ++i)
    if (code[i] != kNoOperation) return 0;
  return static_cast<int>(bytes / sizeof(Instruction)) * 32;
}

}  // namespace seqloom::emulation
