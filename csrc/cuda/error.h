// SPDX-License-Identifier: Apache-2.0
// Exceptions of the CUDA toolbox. Plain C++: front doors include this without any CUDA header.
#pragma once
#include <cstddef>
#include <string>

#include "core/error.h"

namespace seqloom::cuda {

// Device trouble: the CUDA error's own name and text, what was being done, and in the emulated
// build the emulator's full report.
class CudaError : public DeviceError {
 public:
  CudaError(int code, const std::string& message) : DeviceError(message), code_(code) {}
  int code() const { return code_; }  // a cudaError_t

 private:
  int code_;
};

// The device has no room left.
class OutOfDeviceMemory : public MemoryError {
 public:
  OutOfDeviceMemory(std::size_t requested, std::size_t in_use, const std::string& message)
      : MemoryError(message), requested_(requested), in_use_(in_use) {}
  std::size_t requested_bytes() const { return requested_; }
  std::size_t bytes_in_use() const { return in_use_; }

 private:
  std::size_t requested_, in_use_;
};

// Throws CudaError for `code` (a cudaError_t) that came from `what`.
[[noreturn]] void throw_cuda_error(int code, const char* what);

// Every CUDA call goes through here: check(cudaFoo(...), "cudaFoo").
template <class Code>
inline void check(Code code, const char* what) {
  if (static_cast<int>(code) != 0) throw_cuda_error(static_cast<int>(code), what);
}

}  // namespace seqloom::cuda
