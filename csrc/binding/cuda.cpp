// SPDX-License-Identifier: Apache-2.0
// sl.cuda: availability, devices, streams, events, graphs, and the CUDA storage that core/device.h
// asks for. In a build without CUDA the questions are answered and everything else says why not.
#include <pybind11/pybind11.h>

#include "binding/caster.h"
#include "binding/registers.h"
#include "core/config.h"
#include "cuda/fault.h"
#include "cuda/runtime.h"
#if defined(SEQLOOM_WITH_CUDA)
#include "cuda/cublaslt.h"
#include "cuda/error.h"
#endif
#if defined(SEQLOOM_CUDA_EMULATED)
#include "emulation/control.h"
#endif

namespace seqloom::binding {
namespace {

namespace py = pybind11;

void register_questions(py::module_& m) {
  m.def("cuda_why_unavailable", &cuda::why_unavailable);
  m.def("cuda_device_count", &cuda::device_count);
  m.def("cuda_runtime_version", &cuda::runtime_version);
  m.def("cuda_driver_version", &cuda::driver_version);
}

#if defined(SEQLOOM_WITH_CUDA)

void require(Device device) {
  const std::string why = cuda::why_unavailable();
  if (!why.empty()) throw DeviceError("device: 'cuda' is not available, " + why);
  const int count = cuda::device_count();
  if (device.index >= count)
    throw DeviceError(str("device: ", device, " does not exist, there are ", count, " devices"));
}

void* allocate(Device device, size_t bytes) {
  require(device);
  cuda::DeviceScope scope(device.index);
  try {
    // Empty arrays have an address too: null means that there is no memory left.
    return cuda::allocate(bytes > 0 ? bytes : 1, cuda::current_stream());
  } catch (const cuda::OutOfDeviceMemory&) {
    return nullptr;
  }
}

void release(Device device, void* data, size_t) {
  cuda::DeviceScope scope(device.index);
  cuda::release(data, cuda::current_stream());
}

void copy(Device device, void* to, const void* from, size_t bytes, CopyKind kind) {
  if (bytes == 0) return;
  cuda::DeviceScope scope(device.index);
  const cuda::StreamHandle stream = cuda::current_stream();
  switch (kind) {
    case CopyKind::kHostToDevice:
      return cuda::copy_to_device(to, from, bytes, stream);
    case CopyKind::kDeviceToHost:
      cuda::copy_to_host(to, from, bytes, stream);
      return cuda::raise_faults();
    case CopyKind::kDeviceToDevice:
      return cuda::copy_on_device(to, from, bytes, stream);
  }
}

int64_t bytes_in_use(Device) { return static_cast<int64_t>(cuda::memory_statistics().allocated); }

const DeviceBackend backend{require, allocate, release, copy, bytes_in_use};

// Streams and events are owned by their Python objects.
struct Stream {
  explicit Stream(int device) : device(device) {
    require({DeviceType::kCuda, static_cast<int8_t>(device)});
    cuda::DeviceScope scope(device);
    handle = cuda::create_stream();
  }
  ~Stream() { cuda::destroy_stream(handle); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  int device;
  cuda::StreamHandle handle;
};

struct Event {
  explicit Event(bool timing) {
    require({DeviceType::kCuda, 0});
    handle = cuda::create_event(timing);
  }
  ~Event() { cuda::destroy_event(handle); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  cuda::EventHandle handle;
};

cuda::StreamHandle handle_of(uintptr_t address) {
  // 1 and 2 are CUDA's names for the legacy and the per-thread default stream.
  return address == 1 ? nullptr : reinterpret_cast<cuda::StreamHandle>(address);
}

// The work of one stream waits for what the other has been given so far.
void order_streams(const Array& tensor, uintptr_t other, bool we_wait) {
  if (!tensor.is_cuda()) return;
  cuda::DeviceScope scope(tensor.device().index);
  const cuda::StreamHandle ours = cuda::current_stream(), theirs = handle_of(other);
  if (ours == theirs) return;
  const cuda::EventHandle event = cuda::create_event(false);
  cuda::record_event(event, we_wait ? theirs : ours);
  cuda::wait_for_event(we_wait ? ours : theirs, event);
  cuda::destroy_event(event);
}

uintptr_t current_stream(const std::string& device) {
  const Device d = parse_device(device);
  require(d);
  cuda::DeviceScope scope(d.index);
  return reinterpret_cast<uintptr_t>(cuda::current_stream());
}

// The device whose memory `address` is.
int pointer_device(uintptr_t address) {
  require({DeviceType::kCuda, 0});
  const auto* p = reinterpret_cast<const void*>(address);
  check_value(cuda::is_device_pointer(p), "from_dlpack: data must be memory of a CUDA device, got ",
              "address ", address);
  return cuda::device_of_pointer(p);
}

py::dict device_properties(int index) {
  require({DeviceType::kCuda, static_cast<int8_t>(index)});
  const cuda::DeviceProperties p = cuda::device_properties(index);
  py::dict d;
  d["name"] = p.name;
  d["major"] = p.major;
  d["minor"] = p.minor;
  d["multi_processor_count"] = p.multiprocessors;
  d["total_memory"] = p.total_memory;
  d["shared_memory_per_block"] = p.shared_bytes_per_block;
  d["l2_cache_size"] = p.l2_bytes;
  d["emulated"] = p.emulated;
  return d;
}

// Python knows where packages are; the search for cuBLASLt must not fail because Python does.
std::string find_cublaslt() {
  py::gil_scoped_acquire gil;
  try {
    return py::module_::import("seqloom.cublaslt").attr("candidates")().cast<std::string>();
  } catch (py::error_already_set& e) {
    e.discard_as_unraisable("the search for cuBLASLt");
    return {};
  }
}

void warn_without_cublaslt(const std::string& why) {
  py::gil_scoped_acquire gil;
  const std::string text =
      "seqloom's own tensor-core kernels compute matrix products on CUDA, which is slower: " + why +
      " (pip install 'seqloom[cuda13]', or set SEQLOOM_CUBLASLT)";
  if (PyErr_WarnEx(PyExc_RuntimeWarning, text.c_str(), 1) != 0) PyErr_Clear();
}

void register_runtime_calls(py::module_& m) {
  cuda::set_cublaslt_hooks({&find_cublaslt, &warn_without_cublaslt});
  m.def("cublaslt_status", &cuda::cublaslt_status, py::call_guard<py::gil_scoped_release>());
  const auto no_gil = py::call_guard<py::gil_scoped_release>();
  m.def(
      "cuda_require", [](int index) { require({DeviceType::kCuda, static_cast<int8_t>(index)}); },
      py::arg("index"));
  m.def("cuda_device_properties", &device_properties, py::arg("index"));
  m.def(
      "cuda_synchronize",
      [](int index) {
        require({DeviceType::kCuda, static_cast<int8_t>(index)});
        py::gil_scoped_release release_gil;
        cuda::DeviceScope scope(index);
        cuda::synchronize_device();
      },
      py::arg("index"));
  m.def(
      "cuda_memory",
      [](int index) {
        require({DeviceType::kCuda, static_cast<int8_t>(index)});
        cuda::DeviceScope scope(index);
        const cuda::MemoryStatistics s = cuda::memory_statistics();
        return py::make_tuple(s.allocated, s.peak_allocated, s.reserved);
      },
      py::arg("index"));
  m.def("cuda_reset_peak_memory", &cuda::reset_peak_memory);
  m.def("cuda_empty_cache", [] { cuda::trim_pool(0); }, no_gil);
  m.def("current_stream", &current_stream, py::arg("device"));
  m.def("order_streams", &order_streams, py::arg("tensor"), py::arg("other"), py::arg("we_wait"));
  m.def("pointer_device", &pointer_device, py::arg("address"));

  py::classh<Stream>(m, "CudaStream")
      .def(py::init<int>(), py::arg("device"))
      .def_property_readonly("handle",
                             [](const Stream& s) { return reinterpret_cast<uintptr_t>(s.handle); })
      .def(
          "synchronize", [](const Stream& s) { cuda::synchronize_stream(s.handle); }, no_gil)
      .def("query", [](const Stream& s) { return cuda::stream_is_idle(s.handle); })
      .def(
          "wait_event",
          [](const Stream& s, const Event& e) { cuda::wait_for_event(s.handle, e.handle); },
          py::arg("event"))
      .def("make_current", [](const Stream& s) {
        const auto before = reinterpret_cast<uintptr_t>(cuda::current_stream());
        cuda::set_current_stream(s.handle);
        return before;
      });
  m.def(
      "set_current_stream",
      [](uintptr_t handle) {
        cuda::set_current_stream(reinterpret_cast<cuda::StreamHandle>(handle));
      },
      py::arg("handle"));
  py::classh<Event>(m, "CudaEvent")
      .def(py::init<bool>(), py::arg("timing"))
      .def("record", [](const Event& e) { cuda::record_event(e.handle, cuda::current_stream()); })
      .def(
          "synchronize", [](const Event& e) { cuda::synchronize_event(e.handle); }, no_gil)
      .def("query", [](const Event& e) { return cuda::event_is_done(e.handle); })
      .def(
          "elapsed_time",
          [](const Event& start, const Event& stop) {
            return cuda::elapsed_milliseconds(start.handle, stop.handle);
          },
          py::arg("stop"));
  py::classh<cuda::Graph>(m, "CudaGraph")
      .def(py::init([] {
        require({DeviceType::kCuda, 0});
        return std::make_unique<cuda::Graph>();
      }))
      .def("begin_capture", [](cuda::Graph& g) { g.begin_capture(cuda::current_stream()); })
      .def("end_capture", &cuda::Graph::end_capture)
      .def("replay", [](cuda::Graph& g) { g.replay(cuda::current_stream()); }, no_gil);

  py::register_exception_translator([](std::exception_ptr p) {
    try {
      if (p) std::rethrow_exception(p);
    } catch (const cuda::OutOfDeviceMemory& e) {
      PyErr_SetString(PyExc_MemoryError, e.what());
    } catch (const cuda::CudaError& e) {
      PyErr_SetString(PyExc_RuntimeError, e.what());
    }
  });
}

#else

[[noreturn]] void refuse() {
  throw DeviceError("device: 'cuda' is not available, " + cuda::why_unavailable());
}

void register_runtime_calls(py::module_& m) {
  m.def("cuda_require", [](int) { refuse(); }, py::arg("index"));
  m.def("current_stream", [](const std::string&) -> uintptr_t { refuse(); }, py::arg("device"));
  m.def("pointer_device", [](uintptr_t) -> int { refuse(); }, py::arg("address"));
  m.def(
      "order_streams", [](const Array&, uintptr_t, bool) {}, py::arg("tensor"), py::arg("other"),
      py::arg("we_wait"));
}

#endif

#if defined(SEQLOOM_CUDA_EMULATED)
void register_emulation(py::module_& m) {
  m.def(
      "emulation_configure",
      [](const std::string& name, const std::string& value) { emulation::configure(name, value); },
      py::arg("name"), py::arg("value"));
  m.def("emulation_report", &emulation::last_report);
  m.def("emulation_checked", &emulation::built_with_checker);
  m.def("emulation_reset_statistics", &emulation::reset_statistics);
  m.def("emulation_statistics", [] {
    const emulation::Statistics s = emulation::statistics();
    py::dict d;
    d["launches"] = s.launches;
    d["blocks"] = s.blocks;
    d["threads"] = s.threads;
    d["mma"] = s.mma;
    d["ldmatrix"] = s.ldmatrix;
    d["ldmatrix_conflicts"] = s.ldmatrix_conflicts;
    d["checked_accesses"] = s.checked_accesses;
    return d;
  });
}
#endif

}  // namespace

void register_cuda(py::module_& m) {
  register_questions(m);
  register_runtime_calls(m);
#if defined(SEQLOOM_WITH_CUDA)
  register_cuda_backend(&backend);
#endif
#if defined(SEQLOOM_CUDA_EMULATED)
  register_emulation(m);
#endif
}

}  // namespace seqloom::binding
