// SPDX-License-Identifier: Apache-2.0
// Copies rows into a cache on CUDA: a thread a piece of 16 bytes, or of 4 or 1 where rows do not
// lie on 16. Starts and counts that are on the host travel with the launch, 64 batch rows at a
// time, so that a step of decoding copies no small arrays to the device; those on the device are
// read there, so that a captured launch writes further on with every replay.
#include "cuda/gpu.h"
#include "cuda/vector_access.h"
#include "ops/cache/cache.h"

namespace seqloom::ops {
namespace {

constexpr int kThreads = 256;
constexpr int kBatch = 64;

struct Places {
  int64_t start[kBatch], count[kBatch];
};

template <class Piece>
__global__ void __launch_bounds__(kThreads)
    cache_write_kernel(CacheWriteArgs a, Places places, int64_t first) {
  const int64_t pieces = a.row_bytes / static_cast<int64_t>(sizeof(Piece));
  const int64_t b = blockIdx.y, of_batch = a.heads * a.length * pieces;
  const char* rows = static_cast<const char*>(a.rows) + (first + b) * a.rows_strides[0];
  char* buffer = static_cast<char*>(a.buffer) + (first + b) * a.buffer_strides[0];
  int64_t start = places.start[b], count = places.count[b];
  if (a.on_device) {
    start = a.starts[first + b];
    count = a.counts != nullptr ? a.counts[first + b] : a.length;
    if (start < 0) return;
    count = count < a.room - start ? count : a.room - start;
  }
  for (int64_t t = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; t < of_batch;
       t += static_cast<int64_t>(gridDim.x) * kThreads) {
    const int64_t piece = t % pieces, i = t / pieces % a.length, h = t / pieces / a.length;
    if (i >= count) continue;
    const char* from = rows + h * a.rows_strides[1] + i * a.rows_strides[2];
    char* to = buffer + h * a.buffer_strides[1] + (start + i) * a.buffer_strides[2];
    reinterpret_cast<Piece*>(to)[piece] = reinterpret_cast<const Piece*>(from)[piece];
  }
}

template <class Piece>
void write(const CacheWriteArgs& a) {
  const int64_t work = a.heads * a.length * (a.row_bytes / static_cast<int64_t>(sizeof(Piece)));
  const int64_t blocks = (work + kThreads - 1) / kThreads;
  CacheWriteArgs device = a;
  if (!a.on_device) device.starts = device.counts = nullptr;  // the host's pointers
  for (int64_t first = 0; first < a.batch; first += kBatch) {
    const int64_t live = a.batch - first < kBatch ? a.batch - first : kBatch;
    Places places{};
    for (int64_t b = 0; b < live && !a.on_device; ++b) {
      places.start[b] = a.starts != nullptr ? a.starts[first + b] : a.start;
      places.count[b] = a.counts != nullptr ? a.counts[first + b] : a.length;
    }
    cuda::LaunchConfig config;
    config.grid =
        dim3(static_cast<unsigned>(blocks < 1024 ? blocks : 1024), static_cast<unsigned>(live));
    config.block = dim3(kThreads);
    cuda::launch(cache_write_kernel<Piece>, config, device, places, first);
  }
}

}  // namespace

void cache_write_cuda(const CacheWriteArgs& a) {
  uint64_t all = reinterpret_cast<uintptr_t>(a.buffer) | reinterpret_cast<uintptr_t>(a.rows) |
                 static_cast<uint64_t>(a.row_bytes);
  for (int i = 0; i < 3; ++i)
    all |= static_cast<uint64_t>(a.buffer_strides[i]) | static_cast<uint64_t>(a.rows_strides[i]);
  if (all % 16 == 0) return write<uint4>(a);
  if (all % 4 == 0) return write<uint32_t>(a);
  write<uint8_t>(a);
}

}  // namespace seqloom::ops
