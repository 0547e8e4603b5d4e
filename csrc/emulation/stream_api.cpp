// SPDX-License-Identifier: Apache-2.0
// Streams, events and graphs of the CUDA runtime API.
#include <algorithm>

#include "emulation/streams.h"

namespace seqloom::emulation {
namespace {

std::vector<std::unique_ptr<Event>> events;

struct Hold {
  std::lock_guard<std::recursive_mutex> lock{machine.lock};
  Hold() { initialise(); }
};
cudaError_t refuse(cudaError_t e, const char* why) {
  machine.last_report = why;
  return e;
}
Event* event_of(cudaEvent_t h) {
  for (auto& e : events)
    if (reinterpret_cast<cudaEvent_t>(e.get()) == h) return e.get();
  return nullptr;
}
std::vector<std::unique_ptr<GraphExec>> executables;
std::vector<std::shared_ptr<Graph>> captured;

}  // namespace
void remember_graph(const std::shared_ptr<Graph>&);
}  // namespace seqloom::emulation

using namespace seqloom::emulation;

extern "C" {

// ---- streams
// -------------------------------------------------------------------------------------------
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* s, unsigned flags) {
  Hold hold;
  *s = make_stream(!(flags & cudaStreamNonBlocking));
  return cudaSuccess;
}
cudaError_t cudaStreamCreate(cudaStream_t* s) { return cudaStreamCreateWithFlags(s, 0); }
cudaError_t cudaStreamDestroy(cudaStream_t s) {
  Hold hold;
  if (s == nullptr || !is_stream(s)) return refuse(cudaErrorInvalidResourceHandle, "not a stream");
  defer_error(finish_stream(s));  // callers that destroy rarely look at the result
  drop_stream(s);
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t s) {
  Hold hold;
  if (is_capturing(s)) {
    stream_of(s).capture_broken = true;
    return refuse(cudaErrorStreamCaptureUnsupported, "cudaStreamSynchronize during capture");
  }
  return finish_stream(s);
}
// A poll lets one piece of work happen, so that a polling loop ends.
cudaError_t cudaStreamQuery(cudaStream_t h) {
  Hold hold;
  Stream& s = stream_of(h);
  if (s.capture) {
    s.capture_broken = true;
    return refuse(cudaErrorStreamCaptureUnsupported, "cudaStreamQuery during capture");
  }
  if (s.queue.empty()) return cudaSuccess;
  if (const cudaError_t e = run_one(s)) return e;
  return s.queue.empty() ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t h, unsigned) {
  Hold hold;
  Event* e = event_of(h);
  if (!e) return refuse(cudaErrorInvalidResourceHandle, "not an event");
  if (is_capturing(s))
    return refuse(cudaErrorNotSupported, "capture that waits for another stream is not emulated");
  if (e->recorded.stream) enqueue_wait(s, e->recorded);
  return cudaSuccess;
}
cudaError_t cudaLaunchHostFunc(cudaStream_t s, cudaHostFn_t f, void* data) {
  Hold hold;
  return enqueue(s, [f, data] {
    f(data);
    return cudaSuccess;
  });
}

// ---- events
// --------------------------------------------------------------------------------------------
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* e, unsigned flags) {
  Hold hold;
  events.push_back(std::make_unique<Event>());
  events.back()->timing = !(flags & cudaEventDisableTiming);
  *e = reinterpret_cast<cudaEvent_t>(events.back().get());
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* e) { return cudaEventCreateWithFlags(e, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t h) {
  Hold hold;
  const auto it = std::find_if(events.begin(), events.end(), [&](auto& e) {
    return reinterpret_cast<cudaEvent_t>(e.get()) == h;
  });
  if (it == events.end()) return refuse(cudaErrorInvalidResourceHandle, "not an event");
  events.erase(it);
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t h, cudaStream_t s) {
  Hold hold;
  Event* e = event_of(h);
  if (!e) return refuse(cudaErrorInvalidResourceHandle, "not an event");
  if (is_capturing(s))
    return refuse(cudaErrorNotSupported, "an event recorded during capture is not emulated");
  auto time = std::make_shared<std::chrono::steady_clock::time_point>();
  e->time = time;
  const cudaError_t error = enqueue(s, [time] {
    *time = std::chrono::steady_clock::now();
    return cudaSuccess;
  });
  e->recorded = {&stream_of(s), stream_of(s).issued};
  return error;
}
cudaError_t cudaEventSynchronize(cudaEvent_t h) {
  Hold hold;
  Event* e = event_of(h);
  return e ? run_until(e->recorded) : refuse(cudaErrorInvalidResourceHandle, "not an event");
}
cudaError_t cudaEventQuery(cudaEvent_t h) {
  Hold hold;
  Event* e = event_of(h);
  if (!e) return refuse(cudaErrorInvalidResourceHandle, "not an event");
  Stream* s = e->recorded.stream;
  if (!s || s->completed >= e->recorded.sequence || s->queue.empty()) return cudaSuccess;
  if (const cudaError_t error = run_one(*s)) return error;
  return s->completed >= e->recorded.sequence ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t a, cudaEvent_t b) {
  Hold hold;
  const Event *start = event_of(a), *stop = event_of(b);
  if (!start || !stop || !start->time || !stop->time || !start->timing || !stop->timing)
    return refuse(cudaErrorInvalidResourceHandle, "elapsed time of events that were not recorded");
  for (const Event* e : {start, stop})
    if (e->recorded.stream && e->recorded.stream->completed < e->recorded.sequence)
      return cudaErrorNotReady;
  *ms = std::chrono::duration<float, std::milli>(*stop->time - *start->time).count();
  return cudaSuccess;
}

// ---- graphs: one stream, captured and replayed
// -----------------------------------------------------------
cudaError_t cudaStreamBeginCapture(cudaStream_t h, cudaStreamCaptureMode mode) {
  Hold hold;
  if (h == nullptr || h == cudaStreamLegacy)
    return refuse(cudaErrorStreamCaptureUnsupported,
                  "the legacy default stream cannot be captured");
  Stream& s = stream_of(h);
  if (s.capture) return refuse(cudaErrorIllegalState, "the stream is being captured already");
  s.capture = std::make_shared<Graph>();
  s.capture_broken = false;
  s.capture_mode = mode;
  s.capturing_thread = std::this_thread::get_id();
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t h, cudaStreamCaptureStatus* status) {
  Hold hold;
  *status = !is_capturing(h)              ? cudaStreamCaptureStatusNone
            : stream_of(h).capture_broken ? cudaStreamCaptureStatusInvalidated
                                          : cudaStreamCaptureStatusActive;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t h, cudaGraph_t* graph) {
  Hold hold;
  Stream& s = stream_of(h);
  if (!s.capture) return refuse(cudaErrorIllegalState, "the stream is not being captured");
  std::shared_ptr<Graph> g = std::move(s.capture);
  s.capture = nullptr;
  *graph = nullptr;
  if (s.capture_broken)
    return refuse(cudaErrorStreamCaptureInvalidated, "a forbidden call was made during capture");
  captured.push_back(g);
  remember_graph(g);
  *graph = g.get();
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* exec, cudaGraph_t graph,
                                          unsigned long long) {
  Hold hold;
  for (auto& g : captured)
    if (g.get() == graph) {
      executables.push_back(std::make_unique<GraphExec>());
      executables.back()->graph = g;
      *exec = executables.back().get();
      return cudaSuccess;
    }
  return refuse(cudaErrorInvalidValue, "not a captured graph");
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t s) {
  Hold hold;
  for (auto& x : executables)
    if (x.get() == exec) {
      std::shared_ptr<Graph> g = x->graph;
      return enqueue(s, [g] {
        for (auto& work : g->work)
          if (const cudaError_t e = work()) return e;
        return cudaSuccess;
      });
    }
  return refuse(cudaErrorInvalidValue, "not an instantiated graph");
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  Hold hold;
  executables.erase(std::remove_if(executables.begin(), executables.end(),
                                   [&](auto& x) { return x.get() == exec; }),
                    executables.end());
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  Hold hold;
  captured.erase(
      std::remove_if(captured.begin(), captured.end(), [&](auto& g) { return g.get() == graph; }),
      captured.end());
  return cudaSuccess;
}

}  // extern "C"
