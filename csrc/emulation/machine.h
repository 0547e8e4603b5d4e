// SPDX-License-Identifier: Apache-2.0
// The emulated device: fibers for threads, warps, blocks, clusters, and the state of the launch
// under way. Shared by the emulator's own files only.
//
// One kernel runs at a time, on the OS thread that holds the device lock. Every CUDA thread is a
// fiber that runs until it must wait. Blocks run one after another; the blocks of a cluster or of
// a cooperative grid are resident together.
#pragma once
#include "emulation/control.h"
#include "emulation/device.h"
// The runtime's own code must say what it means by these.
#undef threadIdx
#undef blockIdx
#undef blockDim
#undef gridDim
#undef warpSize

#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace seqloom::emulation {

constexpr std::size_t kStackBytes = 128 << 10;
constexpr std::size_t kHeapBytes = std::size_t{4} << 30;  // device memory, reserved lazily
constexpr std::size_t kWindowBytes = 256 << 10;           // shared memory of a block
constexpr std::size_t kWindows = 1024;                    // blocks resident together
constexpr std::size_t kRedZone = 256;
constexpr std::size_t kDynamicOffset = 1024;  // dynamic shared memory within a window
constexpr unsigned char kPoison = 0xff;       // NaN in every float type

// ---- happens-before
// -------------------------------------------------------------------------------- How much of one
// warp's past is known. Everything up to `full`, and up to `partial` of the lanes in `lanes` (a
// single lane may release what it did before its warp synchronises).
struct Stamp {
  std::uint32_t full = 0, partial = 0, lanes = 0;
  bool covers(std::uint32_t clock, std::uint32_t lane_mask) const {
    return full >= clock || (partial >= clock && !(lane_mask & ~lanes));
  }
  void join(const Stamp& o) {
    if (o.full > full) full = o.full;
    if (o.lanes) {
      if (o.partial > partial) partial = o.partial;
      lanes |= o.lanes;
    }
    if (partial <= full) partial = lanes = 0;
  }
};
// One stamp for every warp of the resident group, and a map for warps of blocks that ran earlier.
struct VectorClock {
  std::vector<Stamp> resident;
  std::unordered_map<std::uint32_t, Stamp> earlier;  // by block << 5 | warp
  bool empty() const { return resident.empty() && earlier.empty(); }
  void join(const VectorClock& o);
};
// The same for the async proxy: one of the two fences covers shared memory alone.
struct ProxyClock {
  VectorClock shared, global;
  void join(const ProxyClock& o) {
    shared.join(o.shared);
    global.join(o.global);
  }
};

// ---- threads
// ---------------------------------------------------------------------------------------
enum class FiberState : std::uint8_t { kNew, kReady, kRunning, kWaiting, kDone };
struct Block;
struct Warp;
struct CpAsync {
  unsigned char* target;
  const unsigned char* source;
  int bytes, source_bytes, group;
  Site site;
};
struct StoreGroupEntry {  // a bulk or tensor store that still has to read its shared memory
  std::vector<std::pair<unsigned char*, const unsigned char*>> rows;  // target, source
  std::size_t row_bytes;
  BulkReduce reduce;
  int group;
  Site site;
  bool has_read = false;  // its shared memory may be reused; `payload` is what it read
  std::vector<unsigned char> payload;
};
struct LaneRequest {
  unsigned mask = 0;
  WarpOp op{};
  Site site{};
  const void* in = nullptr;
  void* out = nullptr;
  std::uint64_t arg = 0;
};
struct Fiber : ThreadContext {
  void* stack_pointer = nullptr;
  unsigned char* stack = nullptr;
  Block* block = nullptr;
  Warp* warp = nullptr;
  int index = 0;  // within the block
  FiberState state = FiberState::kNew;
  LaneRequest request{};
  const char* waits_for = "";
  Site wait_site{};
  int barrier_result = 0;
  bool cluster_arrived = false;
  int cluster_phase = 0;          // the cluster barrier's phase when this thread arrived
  std::uint32_t fence_clock = 0;  // warp clock of this lane's last __threadfence
  int cp_group = 0, store_group = 0;
  unsigned char* stack_base = nullptr;  // the kernel's frames lie below
  // Registers are locals: what the stack held at this thread's last wgmma_fence, and from where on.
  const unsigned char* fenced_from = nullptr;
  std::vector<unsigned char> fenced_stack;
  std::vector<CpAsync> copies;
  std::vector<StoreGroupEntry> stores;
};

struct Warp {
  Block* block = nullptr;
  int slot = 0;  // among all warps of the resident group: index into VectorClock::resident
  std::uint32_t live = 0, pending = 0;  // lanes not yet exited; lanes waiting in a collective
  Fiber* lanes[32] = {};
  std::uint32_t clock = 1;
  VectorClock known;         // what happened before this warp's present
  VectorClock fenced;        // `known` at the last __threadfence
  VectorClock observed;      // read by relaxed atomics; known after the next fence
  ProxyClock proxy_visible;  // ordinary writes that a proxy fence made visible to async copies
};

struct Barrier {  // __syncthreads and named barriers
  int arrived = 0, expected = 0;
  Site first{};
  std::vector<Fiber*> waiters;
  std::vector<Warp*> warps;
  VectorClock released;  // by threads that arrive without waiting
  ProxyClock released_proxy;
  int any = 0, all = 1, count = 0;
  Vote vote = Vote::kNone;
};
struct Mbarrier {
  std::uint32_t count = 0, pending = 0, phase = 0;
  std::int64_t bytes = 0;  // announced and not yet landed
  bool fenced = false;     // visible to the async proxy
  Warp* initialiser = nullptr;
  std::vector<std::pair<Fiber*, std::uint32_t>> waiters;  // and the parity each waits for
  VectorClock released, arriving;  // by the phases that have completed; by this one so far
  ProxyClock released_proxy, arriving_proxy;
};
struct WgmmaOp {
  float* d[128];
  std::uint32_t a[128][4];
  const std::uint32_t* a_at[128];  // where they came from: must not change before the wait
  bool has_a_registers;
  std::uint64_t descriptor_a, descriptor_b;
  WgmmaShape shape;
  bool accumulate;
  int group;
  Site site;
};
struct WarpGroup {
  int arrived = 0;
  const char* op = "";
  Site site{};
  Fiber* fibers[128] = {};
  float* d[128] = {};
  std::uint32_t a[128][4];
  const std::uint32_t* a_at[128] = {};
  std::uint64_t descriptor_a = 0, descriptor_b = 0;
  std::vector<WgmmaOp> queue;
  int group = 0;
  int registers = 0, asked = 0;  // a thread's, after setmaxnreg; 0: as launched
  std::unordered_map<float*, std::vector<float>> accumulators;  // in flight, by register array
  std::unordered_map<float*, std::vector<float>> settled;       // landed since the last fence
};
struct RemoteAccess {  // the newest by one warp of another block of the cluster
  Stamp stamp;
  Site site;
  std::uintptr_t pc;
};
struct Block {
  uint3 index{};
  std::uint32_t linear = 0;
  int slot = 0, cluster = 0, cluster_rank = 0, live = 0;
  unsigned char* window = nullptr;
  std::size_t shared_used = 0, static_bytes = 0;
  std::vector<std::pair<const void*, unsigned char*>> statics;
  std::vector<Warp> warps;
  Barrier barriers[16];
  std::map<std::uint32_t, Mbarrier> mbarriers;
  std::vector<WarpGroup> warpgroups;
  std::vector<Fiber*> register_waiters;          // in setmaxnreg.inc, until others give theirs back
  std::map<std::uint32_t, RemoteAccess> remote;  // by warp id of the accessing warp
};
struct Cluster {
  int arrived = 0, phase = 0, live = 0;
  std::vector<Fiber*> waiters;
  VectorClock released, arriving;  // as of an mbarrier
  ProxyClock released_proxy, arriving_proxy;
};
// A copy by the async proxy into shared memory, under way.
struct AsyncLoad {
  std::vector<std::pair<unsigned char*, const unsigned char*>> rows;  // null source: zeros
  std::size_t row_bytes;
  std::vector<unsigned char> payload;  // st.async carries its value
  Block* block;                        // whose mbarrier completes
  std::uint32_t barrier, bytes;
  Fiber* issuer;
  Site site;
};

// ---- the machine
// -----------------------------------------------------------------------------------
struct Machine {
  std::recursive_mutex lock;
  Settings settings;
  Statistics stats{};

  // memory (memory.cpp)
  unsigned char* heap = nullptr;  // [heap | shared windows]
  unsigned char* windows = nullptr;
  unsigned char* arena_end = nullptr;
  std::uint8_t* states = nullptr;  // one a byte

  // the launch under way (launch.cpp)
  LaunchRequest launch;
  bool running = false, aborted = false;
  bool checking = false;
  std::vector<Fiber> fibers;
  std::vector<Block> blocks;
  std::vector<Cluster> clusters;
  std::vector<int> slot_of_block;  // of the grid: slot in `blocks`, or -1
  std::deque<AsyncLoad> async_loads;
  std::size_t done = 0;
  int dead_ends = 0;

  std::uint64_t random_state = 0;
  std::vector<std::string> reports;
  std::string last_report;
  // A failure that came up in a call which cannot return it; the next wait does.
  cudaError_t deferred = cudaSuccess;
  std::string deferred_report;
};
extern Machine machine;

// Calls from instrumented code that reach the checker while the emulator itself runs (merged
// copies of inline functions) must be ignored; every entry point holds one of these.
extern __thread int runtime_depth __attribute__((tls_model("initial-exec")));
struct InRuntime {
  InRuntime() { ++runtime_depth; }
  ~InRuntime() { --runtime_depth; }
};

inline Fiber* self() { return static_cast<Fiber*>(current_thread); }
std::uint32_t random_bits();

// Acts as another thread for a while: work done on its behalf is reported as its own.
struct ActAs {
  ThreadContext* before = current_thread;
  explicit ActAs(Fiber* f) { current_thread = f; }
  ~ActAs() { current_thread = before; }
};

// ---- scheduler.cpp
// ---------------------------------------------------------------------------------
void run_fibers();                          // until all of machine.fibers are done
void suspend(const char* waits_for, Site);  // until somebody wakes this fiber
void wake(Fiber*);
void progress();  // something happened: spin loops start counting anew
[[noreturn]] void abandon_launch();

// ---- collectives.cpp, barriers.cpp
// ------------------------------------------------------------------
void warp_lane_exited(Warp&);
void block_thread_exited(Block&);
void cluster_thread_exited(Cluster&);
void warp_arrives_at_cluster(Warp&);
void perform_mma(Warp&, MmaKind);
void perform_ldmatrix(Warp&, unsigned lanes, std::uint64_t arg);
void perform_stmatrix(Warp&, std::uint64_t arg);

// ---- async_copy.cpp, wgmma.cpp
// -----------------------------------------------------------------------
bool advance_async(bool all);  // lands one (or all) copies; false if there were none
void random_async_progress(Fiber*);
void thread_exits_with_copies(Fiber*);

// ---- memory.cpp
// --------------------------------------------------------------------------------------
enum ByteState : std::uint8_t { kUnaddressable = 0, kUninitialised = 1, kInitialised = 2 };
void initialise();
bool in_arena(const void*);
void set_state(const void*, std::size_t bytes, ByteState);
void* device_allocate(std::size_t bytes);  // null when there is no room
bool device_release(void*);                // false for a pointer that is not an allocation
bool is_device_range(const void*, std::size_t bytes);
std::size_t device_bytes_in_use();
void prepare_window(Block&, std::size_t dynamic_bytes);
struct SharedRef {
  Block* block;
  unsigned char* p;
  std::uint32_t offset;
};
// Resolves a shared (or shared::cluster) address of `bytes` bytes for the current thread.
SharedRef shared_at(std::uint32_t address, std::size_t bytes, Site);
std::string describe_address(const void*);

// ---- checker.cpp: accesses
// ---------------------------------------------------------------------------
enum AccessFlags : int {
  kRead = 0,
  kWrite = 1,
  kAtomic = 2,
  kReadOnly = 4,      // __ldg
  kAsyncProxy = 8,    // by wgmma, bulk and tensor copies
  kInitialises = 16,  // an atomic that does not look at the old value
  kProbe = 32         // only asks whether the access would be right
};
// Access by the current thread that the emulator performs for an instruction.
void check_access(const void*, std::size_t bytes, int flags, Site);
void reset_shadow(const void*, std::size_t bytes);
// The lifetime of distributed shared memory: the other block must be known to have started, and
// must not end before the access is over.
void check_remote_block(Block&, Site, std::uintptr_t pc);
void check_block_end(Block&);
void checker_launch_begins();
void checker_launch_ends();

// ---- happens_before.cpp
// ------------------------------------------------------------------------------
VectorClock released_by(const Fiber&);                     // what a release by this lane publishes
void release_into(VectorClock& known, ProxyClock& proxy);  // by the current thread
void release_warp_into(const Warp&, VectorClock& known, ProxyClock& proxy);  // by all of its lanes
void acquire_from(const VectorClock& known, const ProxyClock& proxy);
void warp_synchronised(Warp&, unsigned lanes);
void join_warps(const std::vector<Warp*>&, const VectorClock& known, const ProxyClock& proxy);
const Stamp& stamp_of(const VectorClock&, std::uint32_t warp_id);  // block << 5 | warp
void forget_sync_variables();
void group_retired();  // the resident blocks are done: their stamps move to `earlier`

// ---- launch.cpp
// ------------------------------------------------------------------------------------------
void require_capability(int capability, const char* what, Site);
void require_hopper(const char* what, Site);  // what sm_90a alone has
// What a device of the chosen compute capability has room for, in bytes.
struct SharedLimits {
  std::size_t per_block, per_multiprocessor, reserved;
};
SharedLimits shared_limits();
int threads_per_multiprocessor();
// The kernel's __launch_bounds__ in whole warps of threads; 0 where it has none.
int launch_bound(const void* function);
cudaError_t validate_launch(const LaunchRequest&);
cudaError_t run_launch(const LaunchRequest&);  // now, on this OS thread
void set_function_shared_limit(const void* function, std::size_t bytes);
// Static and dynamic shared memory together: what the launch under way may have.
std::size_t shared_room();
int resident_blocks_per_multiprocessor(const void* function, int threads, std::size_t shared_bytes);

// ---- streams.cpp
// ----------------------------------------------------------------------------------------- Queues
// work on a stream (or runs it at once in the eager mode). Work that frees memory runs even when
// something before it has failed.
cudaError_t enqueue(cudaStream_t, std::function<cudaError_t()> work, bool releases_memory = false);
cudaError_t finish_stream(cudaStream_t);
cudaError_t finish_all_streams();
void defer_error(cudaError_t);
bool is_capturing(cudaStream_t);
// Memory made during a capture belongs to the graph.
void give_memory_to_capture(cudaStream_t, void* p, std::size_t bytes);
bool release_in_capture(cudaStream_t, void* p);

// ---- report.cpp
// --------------------------------------------------------------------------------------
std::string describe(const Fiber&);
std::string describe(Site);
std::string describe_pc(std::uintptr_t pc);
void add_report(const std::string&);

}  // namespace seqloom::emulation
