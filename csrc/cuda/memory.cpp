// SPDX-License-Identifier: Apache-2.0
// Device memory from the stream-ordered pool, with byte accounting, and copies.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <mutex>
#include <unordered_map>

#include "cuda/error.h"
#include "cuda/runtime.h"

namespace seqloom::cuda {
namespace {

struct Accounts {
  std::mutex lock;
  std::unordered_map<void*, std::size_t> sizes;
  std::size_t allocated = 0, peak = 0;
};
// Never destroyed: arrays may be released while the process ends.
Accounts& accounts() {
  static Accounts* a = new Accounts;
  return *a;
}

cudaMemPool_t pool_of_current_device() {
  cudaMemPool_t pool;
  check(cudaDeviceGetDefaultMemPool(&pool, current_device()), "cudaDeviceGetDefaultMemPool");
  return pool;
}

// Unused memory stays in the pool: without this every synchronisation gives it back to the driver
// and the next allocation pays for it again.
void keep_memory_by_default() {
  static std::once_flag once;
  std::call_once(once, [] {
    for (int d = 0; d < device_count(); ++d) {
      cudaMemPool_t pool;
      std::uint64_t all = UINT64_MAX;
      check(cudaDeviceGetDefaultMemPool(&pool, d), "cudaDeviceGetDefaultMemPool");
      check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &all),
            "cudaMemPoolSetAttribute");
    }
  });
}

}  // namespace

void* allocate(std::size_t bytes, StreamHandle stream) {
  if (bytes == 0) return nullptr;
  keep_memory_by_default();
  void* p = nullptr;
  cudaError_t error = cudaMallocAsync(&p, bytes, stream);
  if (error == cudaErrorMemoryAllocation) {
    // Memory that other streams have released but not yet reached becomes usable once they have.
    cudaGetLastError();
    cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    cudaStreamIsCapturing(stream, &capture);
    if (capture == cudaStreamCaptureStatusNone && cudaDeviceSynchronize() == cudaSuccess) {
      cudaMemPoolTrimTo(pool_of_current_device(), 0);
      error = cudaMallocAsync(&p, bytes, stream);
    }
  }
  Accounts& a = accounts();
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    std::lock_guard<std::mutex> hold(a.lock);
    throw OutOfDeviceMemory(bytes, a.allocated,
                            "cuda: out of device memory: " + std::to_string(bytes) +
                                " bytes requested, " + std::to_string(a.allocated) +
                                " bytes in use");
  }
  check(error, "cudaMallocAsync");
  std::lock_guard<std::mutex> hold(a.lock);
  a.sizes[p] = bytes;
  a.allocated += bytes;
  a.peak = std::max(a.peak, a.allocated);
  return p;
}

void release(void* p, StreamHandle stream) noexcept {
  if (!p) return;
  Accounts& a = accounts();
  {
    std::lock_guard<std::mutex> hold(a.lock);
    const auto found = a.sizes.find(p);
    if (found != a.sizes.end()) {
      a.allocated -= found->second;
      a.sizes.erase(found);
    }
  }
  // Nothing useful can be done about a failure here: the device is gone, or the process is ending.
  if (cudaFreeAsync(p, stream) != cudaSuccess) cudaGetLastError();
}

MemoryStatistics memory_statistics() {
  Accounts& a = accounts();
  MemoryStatistics s{};
  if (is_available()) {
    std::uint64_t reserved = 0;
    check(cudaMemPoolGetAttribute(pool_of_current_device(), cudaMemPoolAttrReservedMemCurrent,
                                  &reserved),
          "cudaMemPoolGetAttribute");
    s.reserved = reserved;
  }
  std::lock_guard<std::mutex> hold(a.lock);
  s.allocated = a.allocated;
  s.peak_allocated = a.peak;
  return s;
}

void reset_peak_memory() noexcept {
  Accounts& a = accounts();
  std::lock_guard<std::mutex> hold(a.lock);
  a.peak = a.allocated;
}

void set_release_threshold(std::size_t bytes) {
  keep_memory_by_default();
  std::uint64_t value = bytes;
  check(cudaMemPoolSetAttribute(pool_of_current_device(), cudaMemPoolAttrReleaseThreshold, &value),
        "cudaMemPoolSetAttribute");
}

void trim_pool(std::size_t keep_bytes) {
  check(cudaMemPoolTrimTo(pool_of_current_device(), keep_bytes), "cudaMemPoolTrimTo");
}

void* allocate_pinned(std::size_t bytes) {
  if (bytes == 0) return nullptr;
  void* p = nullptr;
  check(cudaMallocHost(&p, bytes), "cudaMallocHost");
  return p;
}
void release_pinned(void* p) noexcept {
  if (p) cudaFreeHost(p);
}

void copy_to_device(void* target, const void* source, std::size_t bytes, StreamHandle stream) {
  if (bytes == 0) return;
  // A graph would read the host's memory again at every replay, long after it is gone.
  cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
  check(cudaStreamIsCapturing(stream, &capture), "cudaStreamIsCapturing");
  if (capture != cudaStreamCaptureStatusNone)
    throw CudaError(cudaErrorStreamCaptureUnsupported, "copy from the host during a capture");
  check(cudaMemcpyAsync(target, source, bytes, cudaMemcpyHostToDevice, stream), "cudaMemcpyAsync");
}
void copy_to_host(void* target, const void* source, std::size_t bytes, StreamHandle stream) {
  if (bytes == 0) return;
  check(cudaMemcpyAsync(target, source, bytes, cudaMemcpyDeviceToHost, stream), "cudaMemcpyAsync");
}
void copy_on_device(void* target, const void* source, std::size_t bytes, StreamHandle stream) {
  if (bytes == 0) return;
  check(cudaMemcpyAsync(target, source, bytes, cudaMemcpyDeviceToDevice, stream),
        "cudaMemcpyAsync");
}
void fill_bytes(void* target, int value, std::size_t bytes, StreamHandle stream) {
  if (bytes == 0) return;
  check(cudaMemsetAsync(target, value, bytes, stream), "cudaMemsetAsync");
}

bool is_device_pointer(const void* p) {
  cudaPointerAttributes a{};
  if (cudaPointerGetAttributes(&a, p) != cudaSuccess) {
    cudaGetLastError();
    return false;
  }
  return a.type == cudaMemoryTypeDevice || a.type == cudaMemoryTypeManaged;
}

int device_of_pointer(const void* p) {
  cudaPointerAttributes a{};
  check(cudaPointerGetAttributes(&a, p), "cudaPointerGetAttributes");
  return a.device;
}

}  // namespace seqloom::cuda
