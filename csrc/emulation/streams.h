// SPDX-License-Identifier: Apache-2.0
// Streams, events and graphs as queues of closures. Included by streams.cpp and runtime_api.cpp.
#pragma once
#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "emulation/machine.h"

struct CUgraph_st {};
struct CUgraphExec_st {};

namespace seqloom::emulation {

struct Stream;
struct Position {  // "everything this stream was given up to here"
  Stream* stream = nullptr;
  std::uint64_t sequence = 0;
};
struct StreamWork {
  std::function<cudaError_t()> run;
  std::vector<Position> after;
  bool releases_memory = false;
};
struct GraphMemory {
  void* p;
  std::size_t bytes;
  bool released_inside;
};
struct Graph : CUgraph_st {
  std::vector<std::function<cudaError_t()>> work;
  std::vector<GraphMemory> memory;
  ~Graph();
};
struct GraphExec : CUgraphExec_st {
  std::shared_ptr<Graph> graph;
};
struct Stream {
  bool blocking = true;  // ordered with the legacy default stream
  std::deque<StreamWork> queue;
  std::uint64_t issued = 0, completed = 0;
  std::shared_ptr<Graph> capture;
  bool capture_broken = false;
  cudaStreamCaptureMode capture_mode = cudaStreamCaptureModeGlobal;
  std::thread::id capturing_thread;
};
struct Event {
  Position recorded;
  bool timing = true;
  std::shared_ptr<std::chrono::steady_clock::time_point> time;
};

Stream& stream_of(cudaStream_t);  // throws for a handle that was never made
cudaStream_t make_stream(bool blocking);
void drop_stream(cudaStream_t);
cudaError_t run_until(const Position&);
cudaError_t run_one(Stream&);
bool is_stream(cudaStream_t);
void enqueue_wait(cudaStream_t, const Position&);
// What waits for the whole device is forbidden while any stream is captured; what may wait for it
// (allocating and releasing outside of streams) by the capture's mode. A forbidden call ends the
// captures that it would have disturbed and says so.
enum class CaptureRule { kWaits, kMayWait };
cudaError_t refuse_in_capture(const char* call, CaptureRule);

}  // namespace seqloom::emulation
