// SPDX-License-Identifier: Apache-2.0
// Working memory of a kernel: per thread, 64-byte aligned, reused from call to call.
//
//   Scratch scratch(rows * sizeof(float));      // in a chunk of parallel_for: this thread's own
//   float* partial = scratch.as<float>();       // not initialised
//
// Scratches nest like stack frames: release them in the reverse order of construction, in the
// thread that made them. The memory is kept for the next kernel, up to kScratchKept bytes a thread;
// larger needs are served from the caching pool of core/allocator.h. Throws std::bad_alloc.
#pragma once

#include <cstddef>

#include "core/macros.h"

namespace seqloom::cpu {

constexpr size_t kScratchKept = size_t{16} << 20;

namespace detail {

void* scratch_acquire(size_t bytes);
void scratch_release(void* memory, size_t bytes) noexcept;

}  // namespace detail

class Scratch {
 public:
  SEQLOOM_ALWAYS_INLINE explicit Scratch(size_t bytes)
      : memory_(detail::scratch_acquire(bytes)), bytes_(bytes) {}
  SEQLOOM_ALWAYS_INLINE ~Scratch() { detail::scratch_release(memory_, bytes_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  template <class T>
  SEQLOOM_ALWAYS_INLINE T* as() const {
    return static_cast<T*>(memory_);
  }

 private:
  void* memory_;
  size_t bytes_;
};

// Gives the calling thread's idle scratch memory back to the system.
void scratch_trim() noexcept;

}  // namespace seqloom::cpu
