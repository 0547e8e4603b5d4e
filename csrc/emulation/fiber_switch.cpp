// SPDX-License-Identifier: Apache-2.0
#include "emulation/fiber_switch.h"

#include <cstdint>

#if !defined(SEQLOOM_FIBER_UCONTEXT) && !defined(__x86_64__) && !defined(__aarch64__)
#define SEQLOOM_FIBER_UCONTEXT 1
#endif

#if defined(SEQLOOM_FIBER_UCONTEXT)
#include <ucontext.h>
#endif

namespace seqloom::emulation {
namespace {
// Tops differ by an odd number of cache lines.
unsigned char* stack_top(unsigned char* stack, std::size_t bytes, unsigned colour) {
  const auto top = reinterpret_cast<std::uintptr_t>(stack + bytes - 64 - (colour % 31) * (64 * 17));
  return reinterpret_cast<unsigned char*>(top & ~std::uintptr_t{63});
}
}  // namespace

#if defined(SEQLOOM_FIBER_UCONTEXT)

// The context record lives at the bottom of its own stack.
void switch_context(void** save, void* load) {
  ucontext_t here;
  *save = &here;
  swapcontext(&here, static_cast<ucontext_t*>(load));
}
void* make_context(unsigned char* stack, std::size_t bytes, unsigned colour, void (*entry)()) {
  auto* context = reinterpret_cast<ucontext_t*>(stack);
  getcontext(context);
  unsigned char* bottom = stack + sizeof(ucontext_t) + 64;
  context->uc_stack.ss_sp = bottom;
  context->uc_stack.ss_size = static_cast<std::size_t>(stack_top(stack, bytes, colour) - bottom);
  context->uc_link = nullptr;
  makecontext(context, entry, 0);
  return context;
}
const char* context_switch_name() { return "ucontext"; }

#elif defined(__x86_64__)

extern "C" void seqloom_switch_context(void** save, void* load);
asm(R"(
.text
.p2align 4
.globl seqloom_switch_context
.hidden seqloom_switch_context
.type seqloom_switch_context,@function
seqloom_switch_context:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size seqloom_switch_context, .-seqloom_switch_context
)");
void switch_context(void** save, void* load) { seqloom_switch_context(save, load); }
void* make_context(unsigned char* stack, std::size_t bytes, unsigned colour, void (*entry)()) {
  void** slot = reinterpret_cast<void**>(stack_top(stack, bytes, colour));
  *--slot = nullptr;  // where entry's return address would be
  *--slot = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; ++i) *--slot = nullptr;
  return slot;
}
const char* context_switch_name() { return "x86-64"; }

#else  // aarch64

extern "C" void seqloom_switch_context(void** save, void* load);
asm(R"(
.text
.p2align 4
.globl seqloom_switch_context
.hidden seqloom_switch_context
.type seqloom_switch_context,%function
seqloom_switch_context:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size seqloom_switch_context, .-seqloom_switch_context
)");
void switch_context(void** save, void* load) { seqloom_switch_context(save, load); }
void* make_context(unsigned char* stack, std::size_t bytes, unsigned colour, void (*entry)()) {
  auto* slots = reinterpret_cast<void**>(stack_top(stack, bytes, colour) - 160);
  for (int i = 0; i < 20; ++i) slots[i] = nullptr;
  slots[11] = reinterpret_cast<void*>(entry);  // x30, the link register
  return slots;
}
const char* context_switch_name() { return "aarch64"; }

#endif

}  // namespace seqloom::emulation
