// SPDX-License-Identifier: Apache-2.0
// Kernels that work on rows: a warp a row for short rows, a block a row for long ones, 16-byte
// accesses where the rows allow them. A row is read from memory once; later passes find it in L1 or
// L2.
#pragma once

#include "core/dtype.h"
#include "cuda/gpu.h"
#include "cuda/half_types.h"
#include "cuda/reduce.h"
#include "cuda/vector_access.h"

namespace seqloom::cuda {

constexpr int kWarpRowThreads = 128;  // four rows a block
constexpr int64_t kWarpRowColumns = 1024;
constexpr int kBlockRowThreads = 256;
constexpr int64_t kWideRowColumns = 16384;
constexpr int kWideRowThreads = 1024;
constexpr int kMaxWarps = 32;

// Who works on a row together.
template <bool kWarp>
struct RowTeam {
  int rank, size;
  int64_t row;
  float* scratch;  // shared, kMaxWarps floats; block teams only

  SEQLOOM_DEVICE static RowTeam make(float* scratch) {
    RowTeam t;
    t.scratch = scratch;
    if (kWarp) {
      t.rank = lane_index();
      t.size = 32;
      t.row = static_cast<int64_t>(blockIdx.x) * (blockDim.x >> 5) + warp_index();
    } else {
      t.rank = static_cast<int>(threadIdx.x);
      t.size = static_cast<int>(blockDim.x);
      t.row = blockIdx.x;
    }
    return t;
  }
  SEQLOOM_DEVICE float sum(float x SEQLOOM_SITE) const {
    if (kWarp) return warp_sum(x SEQLOOM_PASS_SITE);
    return block_sum(x, scratch SEQLOOM_PASS_SITE);
  }
  SEQLOOM_DEVICE float max(float x SEQLOOM_SITE) const {
    if (kWarp) return warp_max(x SEQLOOM_PASS_SITE);
    return block_max(x, scratch SEQLOOM_PASS_SITE);
  }
};

// Elements that one access of a thread moves.
template <class T, bool kVector>
constexpr int kRowWidth = kVector ? kVectorWidth<T> : 1;

template <class T, bool kVector>
SEQLOOM_DEVICE void read_row(const T* p, float (&v)[kRowWidth<T, kVector>]) {
  if constexpr (kVector)
    load_vector(p, v);
  else
    v[0] = to_float(*p);
}
template <class T, bool kVector>
SEQLOOM_DEVICE void write_row(T* p, const float (&v)[kRowWidth<T, kVector>]) {
  if constexpr (kVector)
    store_vector(p, v);
  else
    *p = from_float<T>(v[0]);
}

// f(i) for the first element of each of this thread's accesses to a row of n.
template <class T, bool kVector, class F>
SEQLOOM_DEVICE void over_row(int rank, int size, int64_t n, const F& f) {
  constexpr int kWidth = kRowWidth<T, kVector>;
  for (int64_t i = static_cast<int64_t>(rank) * kWidth; i < n;
       i += static_cast<int64_t>(size) * kWidth)
    f(i);
}

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

struct RowLaunch {
  LaunchConfig config;
  bool warp;
};
inline RowLaunch row_launch(int64_t rows, int64_t n) {
  RowLaunch r;
  r.warp = n <= kWarpRowColumns;
  const int threads = r.warp                 ? kWarpRowThreads
                      : n >= kWideRowColumns ? kWideRowThreads
                                             : kBlockRowThreads;
  const int64_t per_block = r.warp ? threads / 32 : 1;
  r.config.grid = dim3(static_cast<unsigned>((rows + per_block - 1) / per_block));
  r.config.block = dim3(static_cast<unsigned>(threads));
  return r;
}

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
