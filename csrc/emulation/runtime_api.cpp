// SPDX-License-Identifier: Apache-2.0
// The part of the CUDA runtime API that the library calls, against NVIDIA's own declarations. A
// function that is missing here is an undefined symbol with its name when the module is loaded.
#include <cuda.h>

#include <cstdlib>
#include <new>

#include "emulation/streams.h"
#include "emulation/tensor_map.h"

namespace seqloom::emulation {
namespace {

thread_local cudaError_t t_last_error = cudaSuccess;
std::map<const void*, std::size_t> pinned;
std::vector<std::weak_ptr<Graph>> graphs;

cudaError_t note(cudaError_t e) {
  if (e != cudaSuccess) t_last_error = e;
  return e;
}
cudaError_t refuse(cudaError_t e, const char* why) {
  machine.last_report = why;
  return note(e);
}

struct Hold {
  std::lock_guard<std::recursive_mutex> lock{machine.lock};
  Hold() { initialise(); }
};

bool is_pinned(const void* p, std::size_t bytes) {
  auto after = pinned.upper_bound(p);
  if (after == pinned.begin()) return false;
  --after;
  return static_cast<const char*>(p) + bytes <=
         static_cast<const char*>(after->first) + after->second;
}

bool graph_owns(void* p) {
  for (auto& weak : graphs)
    if (auto g = weak.lock())
      for (const GraphMemory& m : g->memory)
        if (m.p == p) return true;
  return false;
}

cudaError_t copy_now(void* target, const void* source, std::size_t bytes) {
  const bool to_device = in_arena(target), from_device = in_arena(source);
  if (to_device && !is_device_range(target, bytes))
    return refuse(cudaErrorInvalidValue, "copy: the target is not inside one live allocation");
  if (from_device && !is_device_range(source, bytes))
    return refuse(cudaErrorInvalidValue, "copy: the source is not inside one live allocation");
  std::memmove(target, source, bytes);
  if (to_device) {
    auto* states = machine.states;
    const auto offset = static_cast<unsigned char*>(target) - machine.heap;
    if (from_device) {
      std::memmove(states + offset,
                   states + (static_cast<const unsigned char*>(source) - machine.heap), bytes);
    } else {
      std::memset(states + offset, kInitialised, bytes);
    }
  }
  return cudaSuccess;
}

cudaError_t fill_now(void* target, int value, std::size_t bytes) {
  if (!is_device_range(target, bytes))
    return refuse(cudaErrorInvalidValue, "fill: the target is not inside one live allocation");
  std::memset(target, value, bytes);
  set_state(target, bytes, kInitialised);
  return cudaSuccess;
}

cudaError_t no_capture(cudaStream_t s) {
  if (!is_capturing(s)) return cudaSuccess;
  stream_of(s).capture_broken = true;
  return refuse(cudaErrorStreamCaptureUnsupported, "a call that waits during stream capture");
}

CUresult encode_tiled(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* base,
                      const cuuint64_t* dims, const cuuint64_t* strides, const cuuint32_t* box,
                      const cuuint32_t* element_strides, CUtensorMapInterleave interleave,
                      CUtensorMapSwizzle swizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
  TensorMapRecord t{};
  t.magic = TensorMapRecord::kMagic;
  t.base = static_cast<unsigned char*>(base);
  t.rank = static_cast<std::uint8_t>(rank);
  switch (type) {
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT32:
      t.element_bytes = 4;
      break;
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT16:
    case CU_TENSOR_MAP_DATA_TYPE_BFLOAT16:
      t.element_bytes = 2;
      break;
    default:
      return CUDA_ERROR_NOT_SUPPORTED;
  }
  switch (swizzle) {
    case CU_TENSOR_MAP_SWIZZLE_NONE:
      t.swizzle = 0;
      break;
    case CU_TENSOR_MAP_SWIZZLE_32B:
      t.swizzle = 32;
      break;
    case CU_TENSOR_MAP_SWIZZLE_64B:
      t.swizzle = 64;
      break;
    case CU_TENSOR_MAP_SWIZZLE_128B:
      t.swizzle = 128;
      break;
    default:
      return CUDA_ERROR_NOT_SUPPORTED;
  }
  if (interleave != CU_TENSOR_MAP_INTERLEAVE_NONE) return CUDA_ERROR_NOT_SUPPORTED;
  // The driver's own rules.
  if (rank < 1 || rank > 4 || reinterpret_cast<std::uintptr_t>(base) % 16)
    return CUDA_ERROR_INVALID_VALUE;
  for (std::uint32_t d = 0; d < 4; ++d) {
    t.dims[d] = d < rank ? dims[d] : 1;
    t.box[d] = d < rank ? box[d] : 1;
    if (!t.dims[d] || !t.box[d] || t.box[d] > 256) return CUDA_ERROR_INVALID_VALUE;
    if (d < rank && element_strides[d] != 1) return CUDA_ERROR_NOT_SUPPORTED;
    if (d + 1 < rank) {
      t.strides[d] = strides[d];
      if (strides[d] % 16 || strides[d] >= (std::uint64_t{1} << 40))
        return CUDA_ERROR_INVALID_VALUE;
    }
  }
  const std::uint32_t inner = t.box[0] * t.element_bytes;
  if (inner % 16 || (t.swizzle && inner > t.swizzle)) return CUDA_ERROR_INVALID_VALUE;
  std::memset(static_cast<void*>(map), 0, sizeof *map);
  std::memcpy(static_cast<void*>(map), &t, sizeof t);
  return CUDA_SUCCESS;
}

// The pool's handle is only ever compared and passed back.
cudaMemPool_t the_pool() { return reinterpret_cast<cudaMemPool_t>(&machine); }
std::uint64_t release_threshold = 0;

}  // namespace

void remember_graph(const std::shared_ptr<Graph>& g) { graphs.push_back(g); }

}  // namespace seqloom::emulation

using namespace seqloom::emulation;

extern "C" {

// ---- errors, versions, devices
// -----------------------------------------------------------------------
cudaError_t cudaGetLastError() {
  const cudaError_t e = t_last_error;
  t_last_error = cudaSuccess;
  return e;
}
cudaError_t cudaPeekAtLastError() { return t_last_error; }
const char* cudaGetErrorName(cudaError_t e) {
  switch (e) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration:
      return "cudaErrorInvalidConfiguration";
    case cudaErrorLaunchFailure:
      return "cudaErrorLaunchFailure";
    case cudaErrorCooperativeLaunchTooLarge:
      return "cudaErrorCooperativeLaunchTooLarge";
    case cudaErrorInvalidDevice:
      return "cudaErrorInvalidDevice";
    case cudaErrorNotReady:
      return "cudaErrorNotReady";
    case cudaErrorStreamCaptureUnsupported:
      return "cudaErrorStreamCaptureUnsupported";
    case cudaErrorStreamCaptureInvalidated:
      return "cudaErrorStreamCaptureInvalidated";
    case cudaErrorStreamCaptureImplicit:
      return "cudaErrorStreamCaptureImplicit";
    case cudaErrorInvalidResourceHandle:
      return "cudaErrorInvalidResourceHandle";
    case cudaErrorIllegalState:
      return "cudaErrorIllegalState";
    case cudaErrorNotSupported:
      return "cudaErrorNotSupported";
    default:
      return "cudaErrorUnknown";
  }
}
const char* cudaGetErrorString(cudaError_t e) {
  switch (e) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorLaunchFailure:
      return "unspecified launch failure";
    case cudaErrorCooperativeLaunchTooLarge:
      return "too many blocks in cooperative launch";
    case cudaErrorInvalidDevice:
      return "invalid device ordinal";
    case cudaErrorNotReady:
      return "device not ready";
    case cudaErrorStreamCaptureUnsupported:
      return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureInvalidated:
      return "operation failed due to a previous error during capture";
    case cudaErrorStreamCaptureImplicit:
      return "operation would make the legacy stream depend on a capturing blocking stream";
    case cudaErrorInvalidResourceHandle:
      return "invalid resource handle";
    case cudaErrorIllegalState:
      return "the operation cannot be performed in the present state";
    case cudaErrorNotSupported:
      return "operation not supported";
    default:
      return "unknown error";
  }
}
cudaError_t cudaRuntimeGetVersion(int* v) { return *v = CUDART_VERSION, cudaSuccess; }
cudaError_t cudaDriverGetVersion(int* v) { return *v = CUDART_VERSION, cudaSuccess; }
cudaError_t cudaGetDeviceCount(int* n) { return *n = 1, cudaSuccess; }
cudaError_t cudaGetDevice(int* d) { return *d = 0, cudaSuccess; }
cudaError_t cudaSetDevice(int d) {
  return d == 0 ? cudaSuccess : refuse(cudaErrorInvalidDevice, "there is one emulated device");
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int device) {
  Hold hold;
  if (device != 0) return refuse(cudaErrorInvalidDevice, "there is one emulated device");
  std::memset(static_cast<void*>(p), 0, sizeof *p);
  std::snprintf(p->name, sizeof p->name, "seqloom emulated device");
  p->major = machine.settings.compute_capability / 10;
  p->minor = machine.settings.compute_capability % 10;
  p->multiProcessorCount = machine.settings.multiprocessors;
  p->maxThreadsPerMultiProcessor = threads_per_multiprocessor();
  p->maxThreadsPerBlock = 1024;
  p->warpSize = 32;
  p->totalGlobalMem = kHeapBytes;
  p->sharedMemPerBlock = 48 << 10;
  p->sharedMemPerBlockOptin = shared_limits().per_block;
  p->sharedMemPerMultiprocessor = shared_limits().per_multiprocessor;
  p->reservedSharedMemPerBlock = shared_limits().reserved;
  p->regsPerBlock = 65536;
  p->regsPerMultiprocessor = 65536;
  p->l2CacheSize = 50 << 20;
  p->cooperativeLaunch = 1;
  p->memoryPoolsSupported = 1;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr a, int device) {
  cudaDeviceProp p;
  if (const cudaError_t e = cudaGetDeviceProperties(&p, device)) return e;
  switch (a) {
    case cudaDevAttrMultiProcessorCount:
      *value = p.multiProcessorCount;
      break;
    case cudaDevAttrComputeCapabilityMajor:
      *value = p.major;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = p.minor;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(p.sharedMemPerBlockOptin);
      break;
    case cudaDevAttrCooperativeLaunch:
      *value = 1;
      break;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
      *value = p.maxThreadsPerMultiProcessor;
      break;
    default:
      return refuse(cudaErrorNotSupported,
                    "cudaDeviceGetAttribute: not emulated for this attribute");
  }
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
  Hold hold;
  if (const cudaError_t e = refuse_in_capture("cudaDeviceSynchronize", CaptureRule::kWaits))
    return note(e);
  return note(finish_all_streams());
}
cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** function, unsigned int,
                                             unsigned long long,
                                             cudaDriverEntryPointQueryResult* result) {
  if (std::strcmp(symbol, "cuTensorMapEncodeTiled") == 0) {
    *function = reinterpret_cast<void*>(&encode_tiled);
    if (result) *result = cudaDriverEntryPointSuccess;
    return cudaSuccess;
  }
  if (result) *result = cudaDriverEntryPointSymbolNotFound;
  return refuse(cudaErrorNotSupported, symbol);
}

// ---- kernels
// -------------------------------------------------------------------------------------------
cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute a, int value) {
  Hold hold;
  switch (a) {
    case cudaFuncAttributeMaxDynamicSharedMemorySize:
      if (value < 0 || static_cast<std::size_t>(value) > shared_limits().per_block) {
        const std::string why = std::to_string(value) +
                                " bytes of dynamic shared memory: a block of compute capability " +
                                std::to_string(machine.settings.compute_capability / 10) + "." +
                                std::to_string(machine.settings.compute_capability % 10) +
                                " has at most " + std::to_string(shared_limits().per_block);
        return refuse(cudaErrorInvalidValue, why.c_str());
      }
      set_function_shared_limit(function, static_cast<std::size_t>(value));
      return cudaSuccess;
    case cudaFuncAttributePreferredSharedMemoryCarveout:
      return cudaSuccess;
    case cudaFuncAttributeNonPortableClusterSizeAllowed:
      return refuse(cudaErrorNotSupported, "clusters of more than 8 blocks are not emulated");
    default:
      return refuse(cudaErrorNotSupported, "cudaFuncSetAttribute: not emulated for this attribute");
  }
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* function,
                                                          int threads, std::size_t shared) {
  Hold hold;
  *blocks = resident_blocks_per_multiprocessor(function, threads, shared);
  return cudaSuccess;
}

// ---- memory
// --------------------------------------------------------------------------------------------
cudaError_t cudaMalloc(void** p, std::size_t bytes) {
  Hold hold;
  if (const cudaError_t e = refuse_in_capture("cudaMalloc", CaptureRule::kMayWait)) return note(e);
  *p = device_allocate(bytes);
  return *p ? cudaSuccess : note(cudaErrorMemoryAllocation);
}
cudaError_t cudaFree(void* p) {
  Hold hold;
  if (!p) return cudaSuccess;
  if (const cudaError_t e = refuse_in_capture("cudaFree", CaptureRule::kMayWait)) return note(e);
  if (const cudaError_t e = finish_all_streams()) return note(e);
  return device_release(p) ? cudaSuccess
                           : refuse(cudaErrorInvalidValue, "cudaFree: not a live allocation");
}
cudaError_t cudaMallocAsync(void** p, std::size_t bytes, cudaStream_t s) {
  Hold hold;
  *p = device_allocate(bytes);
  if (!*p) {
    if (is_capturing(s)) return note(cudaErrorMemoryAllocation);
    if (const cudaError_t e = finish_all_streams()) return note(e);  // runs queued releases
    *p = device_allocate(bytes);
  }
  if (!*p) return note(cudaErrorMemoryAllocation);
  if (is_capturing(s)) give_memory_to_capture(s, *p, bytes);
  return cudaSuccess;
}
cudaError_t cudaMallocFromPoolAsync(void** p, std::size_t bytes, cudaMemPool_t, cudaStream_t s) {
  return cudaMallocAsync(p, bytes, s);
}
cudaError_t cudaFreeAsync(void* p, cudaStream_t s) {
  Hold hold;
  if (!p) return cudaSuccess;
  if (is_capturing(s)) {
    if (release_in_capture(s, p)) return cudaSuccess;
    return refuse(cudaErrorInvalidValue, "cudaFreeAsync in a capture of memory from outside it");
  }
  if (graph_owns(p)) return cudaSuccess;  // until the graph's next launch or its end
  if (!is_device_range(p, 0))
    return refuse(cudaErrorInvalidValue, "cudaFreeAsync: not a live allocation");
  return note(enqueue(
      s,
      [p] {
        return device_release(p) ? cudaSuccess
                                 : refuse(cudaErrorInvalidValue, "cudaFreeAsync: released twice");
      },
      true));
}
cudaError_t cudaMallocHost(void** p, std::size_t bytes) {
  Hold hold;
  if (const cudaError_t e = refuse_in_capture("cudaMallocHost", CaptureRule::kMayWait))
    return note(e);
  *p = std::malloc(bytes ? bytes : 1);
  if (!*p) return note(cudaErrorMemoryAllocation);
  std::memset(*p, kPoison, bytes);
  pinned[*p] = bytes;
  return cudaSuccess;
}
cudaError_t cudaFreeHost(void* p) {
  Hold hold;
  if (!p) return cudaSuccess;
  if (const cudaError_t e = refuse_in_capture("cudaFreeHost", CaptureRule::kMayWait))
    return note(e);
  if (!pinned.count(p)) return refuse(cudaErrorInvalidValue, "cudaFreeHost: not pinned memory");
  defer_error(finish_all_streams());
  pinned.erase(p);
  std::free(p);
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* target, const void* source, std::size_t bytes,
                            cudaMemcpyKind kind, cudaStream_t s) {
  Hold hold;
  if (!bytes) return cudaSuccess;
  const bool to_device = in_arena(target), from_device = in_arena(source);
  const bool says_to = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const bool says_from = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  if (kind != cudaMemcpyDefault && (to_device != says_to || from_device != says_from))
    return refuse(cudaErrorInvalidValue, "cudaMemcpy: the direction does not fit the pointers");
  if ((to_device && !is_device_range(target, bytes)) ||
      (from_device && !is_device_range(source, bytes)))
    return refuse(cudaErrorInvalidValue, "cudaMemcpy: a device range is not inside one allocation");
  if (!from_device && !is_pinned(source, bytes)) {
    // Pageable memory has been read when the call returns.
    auto staged = std::make_shared<std::vector<unsigned char>>(
        static_cast<const unsigned char*>(source),
        static_cast<const unsigned char*>(source) + bytes);
    return note(enqueue(s, [=] { return copy_now(target, staged->data(), bytes); }));
  }
  if (!to_device && !is_pinned(target, bytes)) {
    if (const cudaError_t e = no_capture(s)) return e;
    const cudaError_t e = enqueue(s, [=] { return copy_now(target, source, bytes); });
    return note(e != cudaSuccess ? e : finish_stream(s));
  }
  return note(enqueue(s, [=] { return copy_now(target, source, bytes); }));
}
cudaError_t cudaMemcpy(void* target, const void* source, std::size_t bytes, cudaMemcpyKind kind) {
  Hold hold;
  if (const cudaError_t e = cudaMemcpyAsync(target, source, bytes, kind, nullptr)) return e;
  return note(finish_stream(nullptr));
}
cudaError_t cudaMemsetAsync(void* target, int value, std::size_t bytes, cudaStream_t s) {
  Hold hold;
  if (!bytes) return cudaSuccess;
  return note(enqueue(s, [=] { return fill_now(target, value, bytes); }));
}
cudaError_t cudaMemset(void* target, int value, std::size_t bytes) {
  Hold hold;
  if (const cudaError_t e = cudaMemsetAsync(target, value, bytes, nullptr)) return e;
  return note(finish_stream(nullptr));
}
cudaError_t cudaMemGetInfo(std::size_t* free_bytes, std::size_t* total) {
  Hold hold;
  *total = kHeapBytes;
  *free_bytes = kHeapBytes - device_bytes_in_use();
  return cudaSuccess;
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* a, const void* p) {
  Hold hold;
  std::memset(static_cast<void*>(a), 0, sizeof *a);
  a->type = is_device_range(p, 0) ? cudaMemoryTypeDevice
            : is_pinned(p, 1)     ? cudaMemoryTypeHost
                                  : cudaMemoryTypeUnregistered;
  a->devicePointer = a->type == cudaMemoryTypeDevice ? const_cast<void*>(p) : nullptr;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int) {
  return *pool = the_pool(), cudaSuccess;
}
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr a, void* value) {
  if (a != cudaMemPoolAttrReleaseThreshold)
    return refuse(cudaErrorNotSupported,
                  "cudaMemPoolSetAttribute: not emulated for this attribute");
  std::memcpy(&release_threshold, value, 8);
  return cudaSuccess;
}
cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t, cudaMemPoolAttr a, void* value) {
  Hold hold;
  std::uint64_t v = 0;
  switch (a) {
    case cudaMemPoolAttrReleaseThreshold:
      v = release_threshold;
      break;
    case cudaMemPoolAttrReservedMemCurrent:
    case cudaMemPoolAttrUsedMemCurrent:
      v = device_bytes_in_use();
      break;
    default:
      return refuse(cudaErrorNotSupported,
                    "cudaMemPoolGetAttribute: not emulated for this attribute");
  }
  std::memcpy(value, &v, 8);
  return cudaSuccess;
}
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t, std::size_t) { return cudaSuccess; }

}  // extern "C"
