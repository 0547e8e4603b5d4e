// SPDX-License-Identifier: Apache-2.0
// Exceptions of the CUDA toolbox. Plain C++: front doors include this without any CUDA header.
#pragma once
#include <cstddef>
#include <stdexcept>
#include <string>

namespace seqloom::cuda {

// Device trouble: the CUDA error's own name and text, what was being done, and in the emulated
// build the emulator's full report.
class CudaError : public std::runtime_error {
 public:
  CudaError(int code, const std::string& message) : std::runtime_error(message), code_(code) {}
  int code() const { return code_; }  // a cudaError_t

 private:
  int code_;
};

// The device has no room left. A separate type, so that Python can be told MemoryError.
class OutOfDeviceMemory : public CudaError {
 public:
  OutOfDeviceMemory(int code, std::size_t requested, std::size_t in_use, const std::string& message)
      : CudaError(code, message), requested_(requested), in_use_(in_use) {}
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
