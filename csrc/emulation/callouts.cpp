// SPDX-License-Identifier: Apache-2.0
// What -fsanitize=thread,undefined makes the compiler call, defined by the emulator: no sanitizer
// library is linked. Compiled into checked builds only.
#include <stdexcept>

#include "emulation/machine.h"

namespace seqloom::emulation {
void instrumented_access(const void* p, std::size_t bytes, int flags, std::uintptr_t pc);
bool built_with_checker() { return true; }

namespace {
// An undefined operation: in a kernel it ends the launch, in host code it throws.
struct SourceLocation {
  const char* file;
  std::uint32_t line, column;
};
[[noreturn]] void undefined(const void* data, const char* what) {
  const auto* where = static_cast<const SourceLocation*>(data);
  fail({where->file, static_cast<int>(where->line)}, "undefined behaviour: %s", what);
}
}  // namespace
}  // namespace seqloom::emulation

namespace emulation = seqloom::emulation;
#define SEQLOOM_PC reinterpret_cast<std::uintptr_t>(__builtin_return_address(0))

extern "C" {

#define SEQLOOM_ACCESS(n)                                                                    \
  void __tsan_read##n(void* p) {                                                             \
    emulation::instrumented_access(p, n, emulation::kRead, SEQLOOM_PC);                      \
  }                                                                                          \
  void __tsan_write##n(void* p) {                                                            \
    emulation::instrumented_access(p, n, emulation::kWrite, SEQLOOM_PC);                     \
  }                                                                                          \
  void __tsan_unaligned_read##n(void* p) {                                                   \
    emulation::instrumented_access(p, n, emulation::kRead, SEQLOOM_PC);                      \
  }                                                                                          \
  void __tsan_unaligned_write##n(void* p) {                                                  \
    emulation::instrumented_access(p, n, emulation::kWrite, SEQLOOM_PC);                     \
  }                                                                                          \
  void __tsan_volatile_read##n(void* p) {                                                    \
    emulation::instrumented_access(p, n, emulation::kAtomic, SEQLOOM_PC);                    \
    if (emulation::current_thread && !emulation::runtime_depth)                              \
      emulation::pause_thread({"a volatile read", 1});                                       \
  }                                                                                          \
  void __tsan_volatile_write##n(void* p) {                                                   \
    emulation::instrumented_access(                                                          \
        p, n, emulation::kWrite | emulation::kAtomic | emulation::kInitialises, SEQLOOM_PC); \
  }
SEQLOOM_ACCESS(1)
SEQLOOM_ACCESS(2)
SEQLOOM_ACCESS(4)
SEQLOOM_ACCESS(8)
SEQLOOM_ACCESS(16)

void __tsan_read_range(void* p, std::size_t n) {
  emulation::instrumented_access(p, n, emulation::kRead, SEQLOOM_PC);
}
void __tsan_write_range(void* p, std::size_t n) {
  emulation::instrumented_access(p, n, emulation::kWrite, SEQLOOM_PC);
}
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit(void*) {}
void __tsan_vptr_update(void*, void*) {}
void __tsan_vptr_read(void*) {}

// Host code of a kernel's file may use C++ atomics (shared_ptr): they do what they say.
#define SEQLOOM_ATOMICS(bits, T)                                                            \
  T __tsan_atomic##bits##_load(const volatile T* p, int) {                                  \
    return __atomic_load_n(p, __ATOMIC_SEQ_CST);                                            \
  }                                                                                         \
  void __tsan_atomic##bits##_store(volatile T* p, T v, int) {                               \
    __atomic_store_n(p, v, __ATOMIC_SEQ_CST);                                               \
  }                                                                                         \
  T __tsan_atomic##bits##_exchange(volatile T* p, T v, int) {                               \
    return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST);                                     \
  }                                                                                         \
  T __tsan_atomic##bits##_fetch_add(volatile T* p, T v, int) {                              \
    return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST);                                      \
  }                                                                                         \
  T __tsan_atomic##bits##_fetch_sub(volatile T* p, T v, int) {                              \
    return __atomic_fetch_sub(p, v, __ATOMIC_SEQ_CST);                                      \
  }                                                                                         \
  T __tsan_atomic##bits##_fetch_and(volatile T* p, T v, int) {                              \
    return __atomic_fetch_and(p, v, __ATOMIC_SEQ_CST);                                      \
  }                                                                                         \
  T __tsan_atomic##bits##_fetch_or(volatile T* p, T v, int) {                               \
    return __atomic_fetch_or(p, v, __ATOMIC_SEQ_CST);                                       \
  }                                                                                         \
  int __tsan_atomic##bits##_compare_exchange_strong(volatile T* p, T* c, T v, int, int) {   \
    return __atomic_compare_exchange_n(p, c, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); \
  }                                                                                         \
  int __tsan_atomic##bits##_compare_exchange_weak(volatile T* p, T* c, T v, int, int) {     \
    return __atomic_compare_exchange_n(p, c, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); \
  }
SEQLOOM_ATOMICS(8, std::uint8_t)
SEQLOOM_ATOMICS(16, std::uint16_t)
SEQLOOM_ATOMICS(32, std::uint32_t)
SEQLOOM_ATOMICS(64, std::uint64_t)
void __tsan_atomic_thread_fence(int) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
void __tsan_atomic_signal_fence(int) {}

// ---- undefined behaviour: every data block starts with its source location
// --------------------------
#define SEQLOOM_UB(name, text, ...) \
  void __ubsan_handle_##name(void* data __VA_ARGS__) { emulation::undefined(data, text); }
#define SEQLOOM_ONE , void*
#define SEQLOOM_TWO , void*, void*
SEQLOOM_UB(add_overflow, "signed overflow in an addition", SEQLOOM_TWO)
SEQLOOM_UB(sub_overflow, "signed overflow in a subtraction", SEQLOOM_TWO)
SEQLOOM_UB(mul_overflow, "signed overflow in a multiplication", SEQLOOM_TWO)
SEQLOOM_UB(negate_overflow, "negation of the smallest integer", SEQLOOM_ONE)
SEQLOOM_UB(divrem_overflow, "division by zero or overflow", SEQLOOM_TWO)
SEQLOOM_UB(shift_out_of_bounds, "shift by a negative or too large amount", SEQLOOM_TWO)
SEQLOOM_UB(out_of_bounds, "index outside an array", SEQLOOM_ONE)
SEQLOOM_UB(builtin_unreachable, "unreachable code was reached", )
SEQLOOM_UB(missing_return, "end of a function without a value", )
SEQLOOM_UB(vla_bound_not_positive, "array length is not positive", SEQLOOM_ONE)
SEQLOOM_UB(float_cast_overflow, "float does not fit the integer type", SEQLOOM_ONE)
SEQLOOM_UB(load_invalid_value, "invalid bool or enum value", SEQLOOM_ONE)
SEQLOOM_UB(nonnull_arg, "null passed where that is not allowed", )
SEQLOOM_UB(pointer_overflow, "pointer arithmetic overflow", SEQLOOM_TWO)
SEQLOOM_UB(invalid_builtin, "invalid argument of a builtin", )
void __ubsan_handle_nonnull_return_v1(void*, void* where) {
  emulation::undefined(where, "null returned where that is not allowed");
}
struct TypeMismatch {
  emulation::SourceLocation where;
  void* type;
  unsigned char log_alignment, kind;
};
void __ubsan_handle_type_mismatch_v1(void* data, void* pointer) {
  const auto* d = static_cast<const TypeMismatch*>(data);
  const auto align = std::uintptr_t{1} << d->log_alignment;
  if (!pointer) emulation::undefined(data, "null pointer used");
  if (reinterpret_cast<std::uintptr_t>(pointer) & (align - 1))
    emulation::fail({d->where.file, static_cast<int>(d->where.line)},
                    "misaligned access: address %p is not a multiple of %zu", pointer,
                    static_cast<std::size_t>(align));
  emulation::undefined(data, "object too small for its type");
}

}  // extern "C"
