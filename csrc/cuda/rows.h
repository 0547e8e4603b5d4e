// SPDX-License-Identifier: Apache-2.0
// What launchers of kernels over rows share: the CUDA type of a storage type, whether rows can be
// read 16 bytes at a time, and device memory for the length of a launcher. Kernels:
// cuda/row_team.h.
#pragma once

#include "core/dtype.h"
#include "cuda/gpu.h"
#include "cuda/half_types.h"
#include "cuda/reduce.h"
#include "cuda/vector_access.h"

namespace seqloom::cuda {

constexpr int kMaxWarps = 32;  // of a block

// The CUDA type of a storage type of core/half.h.
template <class T>
struct DeviceType {
  using type = T;
};
template <>
struct DeviceType<f16> {
  using type = Half;
};
template <>
struct DeviceType<bf16> {
  using type = BFloat16;
};

// Whether rows of n elements of T at these addresses can be read 16 bytes at a time.
template <class T>
bool rows_are_aligned(int64_t n, std::initializer_list<const void*> addresses) {
  std::uintptr_t bits = static_cast<std::uintptr_t>(n * static_cast<int64_t>(sizeof(T)));
  for (const void* p : addresses) bits |= reinterpret_cast<std::uintptr_t>(p);
  return (bits & 15) == 0;
}

// Device memory for the length of a launcher, on the current stream.
class Workspace {
 public:
  explicit Workspace(std::size_t bytes)
      : stream_(current_stream()), data_(bytes == 0 ? nullptr : allocate(bytes, stream_)) {}
  ~Workspace() {
    if (data_ != nullptr) release(data_, stream_);
  }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  StreamHandle stream_;
  void* data_;
};

}  // namespace seqloom::cuda
