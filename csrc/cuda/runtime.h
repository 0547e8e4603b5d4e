// SPDX-License-Identifier: Apache-2.0
// Devices, streams, events, memory and graphs. Plain C++ without any CUDA header, so that front
// doors may include it; a build without CUDA (kBuiltWithCuda, core/config.h) does not link it.
//
// Nothing here touches the driver before the first call that needs a device.
#pragma once
#include <cstddef>
#include <memory>
#include <string>

#include "core/config.h"

struct CUstream_st;
struct CUevent_st;

namespace seqloom::cuda {

using StreamHandle = CUstream_st*;  // the same type as cudaStream_t
using EventHandle = CUevent_st*;

// ---- availability: never throws, never initialises more than it must
// --------------------------------- Empty when a device can be used, else what is missing: a
// driver, a new enough one, or a GPU.
std::string why_unavailable();
bool is_available();
int device_count();
std::string runtime_version();  // "13.0", "13.0 (emulated)" or ""
std::string driver_version();   // "" without a driver

// ---- devices
// -----------------------------------------------------------------------------------------
struct DeviceProperties {
  std::string name;
  int major, minor;  // compute capability
  int multiprocessors;
  int max_threads_per_multiprocessor;
  std::size_t total_memory;
  std::size_t shared_bytes_per_block;  // the most a block may opt in to
  std::size_t l2_bytes;
  bool emulated;
  int capability() const { return major * 10 + minor; }
};
// Throws CudaError with the reason when there is no such device.
DeviceProperties device_properties(int device);
int current_device();
void set_device(int device);
// Properties of the calling thread's device, from a cache: cheap enough for every launch.
const DeviceProperties& current_device_properties();

class DeviceScope {  // another current device for a while
 public:
  explicit DeviceScope(int device);
  ~DeviceScope();
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;

 private:
  int before_;
};

// ---- streams and events
// ------------------------------------------------------------------------------ Each thread has a
// current stream; at first the legacy default stream (null).
StreamHandle current_stream();
void set_current_stream(StreamHandle);
class StreamScope {
 public:
  explicit StreamScope(StreamHandle stream) : before_(current_stream()) {
    set_current_stream(stream);
  }
  ~StreamScope() { set_current_stream(before_); }
  StreamScope(const StreamScope&) = delete;
  StreamScope& operator=(const StreamScope&) = delete;

 private:
  StreamHandle before_;
};
StreamHandle create_stream();
void destroy_stream(StreamHandle) noexcept;
void synchronize_stream(StreamHandle);
void synchronize_device();
bool stream_is_idle(StreamHandle);

EventHandle create_event(bool timing);
void destroy_event(EventHandle) noexcept;
void record_event(EventHandle, StreamHandle);
void wait_for_event(StreamHandle, EventHandle);  // the stream waits, not the host
void synchronize_event(EventHandle);
bool event_is_done(EventHandle);
float elapsed_milliseconds(EventHandle start, EventHandle stop);

// ---- memory
// ------------------------------------------------------------------------------------------ From
// the device's stream-ordered pool: fresh memory may be used by work on `stream`, and released
// memory is reused by later work on it. Throws OutOfDeviceMemory.
void* allocate(std::size_t bytes, StreamHandle stream);
void release(void* p, StreamHandle stream) noexcept;

struct MemoryStatistics {
  std::size_t allocated, peak_allocated;  // bytes that the library holds
  std::size_t reserved;                   // bytes that the pool holds on the device
};
MemoryStatistics memory_statistics();
void reset_peak_memory() noexcept;
// Keeps up to this many unused bytes in the pool across synchronisations (default: all).
void set_release_threshold(std::size_t bytes);
void trim_pool(std::size_t keep_bytes = 0);

void* allocate_pinned(std::size_t bytes);
void release_pinned(void* p) noexcept;

// Asynchronous on `stream`. A copy from pageable host memory has read it when the call returns; a
// copy to pageable host memory is complete when the call returns.
void copy_to_device(void* target, const void* source, std::size_t bytes, StreamHandle stream);
void copy_to_host(void* target, const void* source, std::size_t bytes, StreamHandle stream);
void copy_on_device(void* target, const void* source, std::size_t bytes, StreamHandle stream);
void fill_bytes(void* target, int value, std::size_t bytes, StreamHandle stream);
// True for memory that kernels on this process's devices can use.
bool is_device_pointer(const void* p);
int device_of_pointer(const void* p);

// ---- kernels: see cuda/launch.h
// ------------------------------------------------------------------------ Allows `kernel` this
// much dynamic shared memory (a no-op up to 48 KB).
void allow_shared_bytes(const void* kernel, std::size_t bytes);

// Largest number of blocks of `kernel` that are resident at once on the current device: the upper
// bound of a cooperative grid. Persistent kernels take their grid as a parameter below this.
int resident_blocks(const void* kernel, int threads, std::size_t shared_bytes);

// ---- graphs
// ------------------------------------------------------------------------------------------ Work
// recorded once and launched many times with one call.
class Graph {
 public:
  Graph();
  ~Graph();
  Graph(Graph&&) noexcept;
  Graph& operator=(Graph&&) noexcept;

  // Everything given to `stream` between the two calls is recorded and not run. The legacy default
  // stream cannot be captured.
  void begin_capture(StreamHandle stream);
  void end_capture();
  bool is_captured() const;
  void replay(StreamHandle stream);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace seqloom::cuda
