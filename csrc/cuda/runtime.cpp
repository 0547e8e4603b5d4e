// SPDX-License-Identifier: Apache-2.0
// Devices, streams, events and graphs over the CUDA runtime API: the static runtime library in real
// builds, the emulator's definitions in emulated ones.
#include "cuda/runtime.h"

#include <cuda_runtime.h>
#include <dlfcn.h>

#include <mutex>
#include <vector>

#include "cuda/error.h"
#include "cuda/fault.h"
#if defined(SEQLOOM_CUDA_EMULATED)
#include "emulation/control.h"
#endif

namespace seqloom::cuda {
namespace {

std::string version_text(int v) {
  return std::to_string(v / 1000) + "." + std::to_string(v % 1000 / 10);
}

thread_local StreamHandle t_stream = nullptr;

DeviceProperties query(int device) {
  cudaDeviceProp p;
  check(cudaGetDeviceProperties(&p, device), "cudaGetDeviceProperties");
  DeviceProperties r;
  r.name = p.name;
  r.major = p.major;
  r.minor = p.minor;
  r.multiprocessors = p.multiProcessorCount;
  r.max_threads_per_multiprocessor = p.maxThreadsPerMultiProcessor;
  r.total_memory = p.totalGlobalMem;
  r.shared_bytes_per_block = p.sharedMemPerBlockOptin;
  r.l2_bytes = static_cast<std::size_t>(p.l2CacheSize);
  r.emulated = kCudaEmulated;
  return r;
}

}  // namespace

void throw_cuda_error(int code, const char* what) {
  const auto error = static_cast<cudaError_t>(code);
  cudaGetLastError();  // it has been reported: do not report it again at the next call
  std::string text =
      std::string(what) + ": " + cudaGetErrorName(error) + " (" + cudaGetErrorString(error) + ")";
#if defined(SEQLOOM_CUDA_EMULATED)
  const std::string report = emulation::last_report();
  if (!report.empty()) text += "\n" + report;
#endif
  throw CudaError(code, text);
}

// ---- availability
// ------------------------------------------------------------------------------------
std::string why_unavailable() {
#if !defined(SEQLOOM_CUDA_EMULATED)
  // Asked of the loader first: the runtime's own message does not tell a missing driver from an
  // old one.
  static const bool has_driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL) != nullptr;
  if (!has_driver) return "no NVIDIA driver is installed (libcuda.so.1 was not found)";
#endif
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  cudaGetLastError();
  if (error == cudaErrorInsufficientDriver)
    return "the NVIDIA driver is older than CUDA " + runtime_version() + " needs";
  if (error == cudaErrorNoDevice || (error == cudaSuccess && count == 0))
    return "the NVIDIA driver finds no GPU";
  if (error != cudaSuccess) return std::string("CUDA does not start: ") + cudaGetErrorString(error);
  return "";
}

bool is_available() { return why_unavailable().empty(); }

int device_count() {
  int count = 0;
  if (!is_available() || cudaGetDeviceCount(&count) != cudaSuccess) return 0;
  return count;
}

std::string runtime_version() {
  int v = 0;
  if (cudaRuntimeGetVersion(&v) != cudaSuccess) return "";
  return version_text(v) + (kCudaEmulated ? " (emulated)" : "");
}

std::string driver_version() {
  int v = 0;
  if (cudaDriverGetVersion(&v) != cudaSuccess || v == 0) return "";
  return version_text(v);
}

// ---- devices
// -----------------------------------------------------------------------------------------
DeviceProperties device_properties(int device) {
  const std::string why = why_unavailable();
  if (!why.empty()) throw CudaError(cudaErrorNoDevice, "cuda: " + why);
  const int count = device_count();
  if (device < 0 || device >= count)
    throw CudaError(cudaErrorInvalidDevice, "cuda: device must be 0 to " +
                                                std::to_string(count - 1) + ", got " +
                                                std::to_string(device));
  return query(device);
}

const DeviceProperties& current_device_properties() {
  thread_local std::vector<std::unique_ptr<DeviceProperties>> cache;
  const auto device = static_cast<std::size_t>(current_device());
  if (cache.size() <= device) cache.resize(device + 1);
  // The emulated device can be reconfigured, so it is asked again.
  if (!cache[device] || kCudaEmulated)
    cache[device] = std::make_unique<DeviceProperties>(device_properties(current_device()));
  return *cache[device];
}

int current_device() {
  int device = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  return device;
}

void set_device(int device) { check(cudaSetDevice(device), "cudaSetDevice"); }

DeviceScope::DeviceScope(int device) : before_(current_device()) {
  if (device != before_) set_device(device);
}
DeviceScope::~DeviceScope() { cudaSetDevice(before_); }

// ---- streams and events
// ------------------------------------------------------------------------------
StreamHandle current_stream() { return t_stream; }
void set_current_stream(StreamHandle stream) { t_stream = stream; }

StreamHandle create_stream() {
  cudaStream_t s;
  check(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  return s;
}
void destroy_stream(StreamHandle s) noexcept { cudaStreamDestroy(s); }
void synchronize_stream(StreamHandle s) {
  check(cudaStreamSynchronize(s), "cudaStreamSynchronize");
  raise_faults();
}
void synchronize_device() {
  const std::string why = why_unavailable();
  if (!why.empty()) throw CudaError(cudaErrorNoDevice, "cuda: " + why);
  check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  raise_faults();
}
bool stream_is_idle(StreamHandle s) {
  const cudaError_t e = cudaStreamQuery(s);
  if (e == cudaErrorNotReady) {
    cudaGetLastError();
    return false;
  }
  check(e, "cudaStreamQuery");
  return true;
}

EventHandle create_event(bool timing) {
  cudaEvent_t e;
  check(cudaEventCreateWithFlags(&e, timing ? cudaEventDefault : cudaEventDisableTiming),
        "cudaEventCreateWithFlags");
  return e;
}
void destroy_event(EventHandle e) noexcept { cudaEventDestroy(e); }
void record_event(EventHandle e, StreamHandle s) {
  check(cudaEventRecord(e, s), "cudaEventRecord");
}
void wait_for_event(StreamHandle s, EventHandle e) {
  check(cudaStreamWaitEvent(s, e, 0), "cudaStreamWaitEvent");
}
void synchronize_event(EventHandle e) { check(cudaEventSynchronize(e), "cudaEventSynchronize"); }
bool event_is_done(EventHandle event) {
  const cudaError_t e = cudaEventQuery(event);
  if (e == cudaErrorNotReady) {
    cudaGetLastError();
    return false;
  }
  check(e, "cudaEventQuery");
  return true;
}
float elapsed_milliseconds(EventHandle start, EventHandle stop) {
  float ms = 0.f;
  check(cudaEventElapsedTime(&ms, start, stop), "cudaEventElapsedTime");
  return ms;
}

// ---- launches
// ----------------------------------------------------------------------------------------
void allow_shared_bytes(const void* kernel, std::size_t bytes) {
  // Static shared memory counts against the 48 KB as well; kernels with both have less than 8 KB.
  if (bytes <= 40 * 1024) return;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(bytes)),
        "cudaFuncSetAttribute(MaxDynamicSharedMemorySize)");
}

int resident_blocks(const void* kernel, int threads, std::size_t shared_bytes) {
  allow_shared_bytes(kernel, shared_bytes);
  int per_multiprocessor = 0;
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_multiprocessor, kernel, threads,
                                                      shared_bytes),
        "cudaOccupancyMaxActiveBlocksPerMultiprocessor");
  return per_multiprocessor * current_device_properties().multiprocessors;
}

// ---- graphs
// ------------------------------------------------------------------------------------------
struct Graph::State {
  StreamHandle capturing = nullptr;
  bool active = false;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  ~State() {
    if (active) cudaStreamEndCapture(capturing, &graph);
    if (exec) cudaGraphExecDestroy(exec);
    if (graph) cudaGraphDestroy(graph);
  }
};
Graph::Graph() : state_(std::make_unique<State>()) {}
Graph::~Graph() = default;
Graph::Graph(Graph&&) noexcept = default;
Graph& Graph::operator=(Graph&&) noexcept = default;

void Graph::begin_capture(StreamHandle stream) {
  state_ = std::make_unique<State>();
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
  state_->capturing = stream;
  state_->active = true;
}
void Graph::end_capture() {
  state_->active = false;
  check(cudaStreamEndCapture(state_->capturing, &state_->graph), "cudaStreamEndCapture");
  // Memory that the graph allocates and does not free is freed by its next launch.
  check(cudaGraphInstantiateWithFlags(&state_->exec, state_->graph,
                                      cudaGraphInstantiateFlagAutoFreeOnLaunch),
        "cudaGraphInstantiateWithFlags");
}
bool Graph::is_captured() const { return state_->exec != nullptr; }
void Graph::replay(StreamHandle stream) {
  if (!is_captured()) throw CudaError(cudaErrorInvalidValue, "graph replay: nothing was captured");
  check(cudaGraphLaunch(state_->exec, stream), "cudaGraphLaunch");
}

}  // namespace seqloom::cuda
