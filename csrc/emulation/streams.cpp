// SPDX-License-Identifier: Apache-2.0
// Stream order. In the lazy mode nothing runs before somebody waits for it, and only what the
// waited-for stream depends on runs then: a missing synchronisation or event wait shows as stale or
// NaN data, every time.
#include "emulation/streams.h"

#include <algorithm>
#include <stdexcept>

namespace seqloom::emulation {
namespace {

constexpr std::uint64_t kQueueLimit = 4096;  // work may run any time: bound what is kept

struct Streams {
  Stream legacy;
  std::vector<std::unique_ptr<Stream>> made;
};
Streams& streams() {
  static Streams s;
  return s;
}

cudaStream_t handle_of(Stream* s) { return reinterpret_cast<cudaStream_t>(s); }

// After a failure: forget what is queued, except that memory is given back.
void discard_all() {
  const auto discard = [](Stream& s) {
    for (StreamWork& w : s.queue)
      if (w.releases_memory) w.run();
    s.completed = s.issued;
    s.queue.clear();
  };
  discard(streams().legacy);
  for (auto& s : streams().made) discard(*s);
}

// Legacy stream semantics: it waits for all blocking streams, and they wait for it.
std::vector<Position> implicit_dependencies(Stream& s) {
  std::vector<Position> after;
  const auto add = [&](Stream& other) {
    if (other.issued > other.completed) after.push_back({&other, other.issued});
  };
  if (&s == &streams().legacy) {
    for (auto& other : streams().made)
      if (other->blocking) add(*other);
  } else if (s.blocking) {
    add(streams().legacy);
  }
  return after;
}

}  // namespace

Graph::~Graph() {
  for (const GraphMemory& m : memory) device_release(m.p);
}

bool is_stream(cudaStream_t h) {
  if (h == nullptr || h == cudaStreamLegacy) return true;
  for (auto& s : streams().made)
    if (handle_of(s.get()) == h) return true;
  return false;
}

Stream& stream_of(cudaStream_t h) {
  if (h == nullptr || h == cudaStreamLegacy) return streams().legacy;
  if (h == cudaStreamPerThread)
    throw std::runtime_error("emulated device: cudaStreamPerThread is not emulated");
  if (!is_stream(h)) throw std::runtime_error("emulated device: use of a destroyed stream");
  return *reinterpret_cast<Stream*>(h);
}

cudaStream_t make_stream(bool blocking) {
  streams().made.push_back(std::make_unique<Stream>());
  streams().made.back()->blocking = blocking;
  return handle_of(streams().made.back().get());
}

void drop_stream(cudaStream_t h) {
  auto& made = streams().made;
  made.erase(
      std::remove_if(made.begin(), made.end(), [&](auto& s) { return handle_of(s.get()) == h; }),
      made.end());
}

cudaError_t run_one(Stream& s) {
  StreamWork w = std::move(s.queue.front());
  s.queue.pop_front();
  ++s.completed;
  for (const Position& p : w.after)
    if (const cudaError_t e = run_until(p)) {
      if (w.releases_memory) w.run();
      return e;
    }
  const cudaError_t e = w.run();
  if (e != cudaSuccess) {
    const std::string report = machine.last_report;
    discard_all();
    machine.last_report = report;
  }
  return e;
}

cudaError_t run_until(const Position& p) {
  if (!p.stream) return cudaSuccess;
  bool alive = p.stream == &streams().legacy;
  for (auto& s : streams().made) alive |= s.get() == p.stream;
  if (!alive) return cudaSuccess;  // destroyed after finishing its work
  while (p.stream->completed < p.sequence && !p.stream->queue.empty())
    if (const cudaError_t e = run_one(*p.stream)) return e;
  return cudaSuccess;
}

cudaError_t enqueue(cudaStream_t h, std::function<cudaError_t()> work, bool releases_memory) {
  initialise();
  Stream& s = stream_of(h);
  if (s.capture) {
    s.capture->work.push_back(std::move(work));
    return cudaSuccess;
  }
  if (&s == &streams().legacy) {
    bool waits = false;
    for (auto& other : streams().made)
      if (other->capture && other->blocking) waits = other->capture_broken = true;
    if (waits) {
      machine.last_report =
          "work on the legacy stream while a stream that it waits for is captured";
      return cudaErrorStreamCaptureImplicit;
    }
  }
  s.queue.push_back({std::move(work), implicit_dependencies(s), releases_memory});
  ++s.issued;
  if (machine.settings.streams == StreamMode::kEager) return run_until({&s, s.issued});
  if (s.issued - s.completed > kQueueLimit) return run_until({&s, s.issued - kQueueLimit / 2});
  return cudaSuccess;
}

void enqueue_wait(cudaStream_t h, const Position& p) {
  Stream& s = stream_of(h);
  std::vector<Position> after = implicit_dependencies(s);
  after.push_back(p);
  s.queue.push_back({[] { return cudaSuccess; }, std::move(after), false});
  ++s.issued;
}

void defer_error(cudaError_t e) {
  if (e == cudaSuccess) return;
  machine.deferred = e;
  machine.deferred_report = machine.last_report;
}

namespace {
cudaError_t take_deferred() {
  const cudaError_t e = machine.deferred;
  if (e == cudaSuccess) return e;
  machine.deferred = cudaSuccess;
  machine.last_report = machine.deferred_report;
  return e;
}
}  // namespace

cudaError_t finish_stream(cudaStream_t h) {
  if (const cudaError_t e = take_deferred()) return e;
  Stream& s = stream_of(h);
  for (const Position& p : implicit_dependencies(s))
    if (&s == &streams().legacy)
      if (const cudaError_t e = run_until(p)) return e;
  return run_until({&s, s.issued});
}

cudaError_t finish_all_streams() {
  cudaError_t first = take_deferred();
  const auto finish = [&](Stream& s) {
    const cudaError_t e = run_until({&s, s.issued});
    if (first == cudaSuccess) first = e;
  };
  finish(streams().legacy);
  for (std::size_t i = 0; i < streams().made.size(); ++i) finish(*streams().made[i]);
  return first;
}

cudaError_t refuse_in_capture(const char* call, CaptureRule rule) {
  bool refused = false;
  for (auto& s : streams().made) {
    const bool mine = s->capturing_thread == std::this_thread::get_id();
    const bool forbidden = rule == CaptureRule::kWaits ||
                           s->capture_mode == cudaStreamCaptureModeGlobal ||
                           (s->capture_mode == cudaStreamCaptureModeThreadLocal && mine);
    if (s->capture && forbidden) refused = s->capture_broken = true;
  }
  if (!refused) return cudaSuccess;
  machine.last_report = std::string(call) + " during stream capture";
  return cudaErrorStreamCaptureUnsupported;
}

bool is_capturing(cudaStream_t h) { return stream_of(h).capture != nullptr; }

void give_memory_to_capture(cudaStream_t h, void* p, std::size_t bytes) {
  Stream& s = stream_of(h);
  s.capture->memory.push_back({p, bytes, false});
  // Every replay starts with fresh memory at the same address.
  s.capture->work.push_back([p, bytes] {
    std::memset(p, kPoison, bytes);
    set_state(p, bytes, kUninitialised);
    return cudaSuccess;
  });
  set_state(p, bytes, kUnaddressable);
}

bool release_in_capture(cudaStream_t h, void* p) {
  Stream& s = stream_of(h);
  for (GraphMemory& m : s.capture->memory)
    if (m.p == p) {
      m.released_inside = true;
      const std::size_t bytes = m.bytes;
      s.capture->work.push_back([p, bytes] {
        set_state(p, bytes, kUnaddressable);
        return cudaSuccess;
      });
      return true;
    }
  return false;
}

}  // namespace seqloom::emulation
