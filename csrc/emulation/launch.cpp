// SPDX-License-Identifier: Apache-2.0
// Kernel launches: limits of the device, then the grid block by block (or cluster by cluster, or
// all together for a cooperative launch). Also the emulator's settings.
#include <algorithm>
#include <cstdlib>
#include <stdexcept>

#include "emulation/machine.h"

namespace seqloom::emulation {
namespace {

std::unordered_map<const void*, std::size_t> function_shared_limit;

std::size_t volume(const dim3& d) { return static_cast<std::size_t>(d.x) * d.y * d.z; }

cudaError_t refuse(cudaError_t code, const std::string& why) {
  machine.last_report = why;
  return code;
}

// Makes the blocks of one resident group, with all their fibers.
void build_group(const std::vector<std::size_t>& linear) {
  const LaunchRequest& l = machine.launch;
  const std::size_t threads = volume(l.block), warps = (threads + 31) / 32, count = linear.size();
  const std::size_t cluster_size = volume(l.cluster);
  machine.fibers.assign(count * threads, Fiber{});
  machine.blocks.clear();
  machine.blocks.resize(count);
  machine.clusters.assign((count + cluster_size - 1) / cluster_size, Cluster{});
  machine.async_loads.clear();
  for (std::size_t i = 0; i < count; ++i) {
    Block& b = machine.blocks[i];
    const std::size_t n = linear[i];
    b.linear = static_cast<std::uint32_t>(n);
    b.index = {static_cast<unsigned>(n % l.grid.x), static_cast<unsigned>(n / l.grid.x % l.grid.y),
               static_cast<unsigned>(n / l.grid.x / l.grid.y)};
    b.slot = static_cast<int>(i);
    b.cluster = static_cast<int>(i / cluster_size);
    b.cluster_rank = static_cast<int>(i % cluster_size);
    b.live = static_cast<int>(threads);
    machine.slot_of_block[n] = b.slot;
    machine.clusters[static_cast<std::size_t>(b.cluster)].live += b.live;
    prepare_window(b, l.shared_bytes);
    b.warps.resize(warps);
    b.warpgroups.resize((threads + 127) / 128);
    for (std::size_t w = 0; w < warps; ++w) {
      b.warps[w].block = &b;
      b.warps[w].slot = static_cast<int>(i * warps + w);
    }
    for (std::size_t t = 0; t < threads; ++t) {
      Fiber& f = machine.fibers[i * threads + t];
      f.thread_index = {static_cast<unsigned>(t % l.block.x),
                        static_cast<unsigned>(t / l.block.x % l.block.y),
                        static_cast<unsigned>(t / l.block.x / l.block.y)};
      f.block_index = b.index;
      f.block_dim = l.block;
      f.grid_dim = l.grid;
      f.lane = static_cast<int>(t & 31);
      f.index = static_cast<int>(t);
      f.block = &b;
      f.warp = &b.warps[t >> 5];
      f.warp->lanes[t & 31] = &f;
      f.warp->live |= 1u << (t & 31);
      f.dynamic_shared = l.shared_bytes ? b.window + kDynamicOffset : nullptr;
      f.cluster_rank = static_cast<unsigned>(b.cluster_rank);
      f.cluster_size = static_cast<unsigned>(cluster_size);
    }
  }
}

void run_group(const std::vector<std::size_t>& linear) {
  build_group(linear);
  machine.stats.blocks += linear.size();
  machine.stats.threads += machine.fibers.size();
  run_fibers();
  if (!machine.aborted) advance_async(true);
  group_retired();
  for (const std::size_t n : linear) machine.slot_of_block[n] = -1;
}

// Linear indices of the blocks of cluster number `n`.
std::vector<std::size_t> blocks_of_cluster(std::size_t n) {
  const LaunchRequest& l = machine.launch;
  const std::size_t across = l.grid.x / l.cluster.x, down = l.grid.y / l.cluster.y;
  const std::size_t cx = n % across, cy = n / across % down, cz = n / across / down;
  std::vector<std::size_t> blocks;
  for (unsigned z = 0; z < l.cluster.z; ++z)
    for (unsigned y = 0; y < l.cluster.y; ++y)
      for (unsigned x = 0; x < l.cluster.x; ++x)
        blocks.push_back(((cz * l.cluster.z + z) * l.grid.y + cy * l.cluster.y + y) * l.grid.x +
                         cx * l.cluster.x + x);
  return blocks;
}

void run_grid() {
  const LaunchRequest& l = machine.launch;
  const std::size_t blocks = volume(l.grid);
  machine.slot_of_block.assign(blocks, -1);
  if (l.cooperative) {
    std::vector<std::size_t> all(blocks);
    // Clusters stay together in a cooperative grid as well.
    std::size_t n = 0;
    for (std::size_t c = 0; c < blocks / volume(l.cluster); ++c)
      for (const std::size_t b : blocks_of_cluster(c)) all[n++] = b;
    run_group(all);
    return;
  }
  const std::size_t groups = blocks / volume(l.cluster);
  std::vector<std::size_t> order(groups);
  for (std::size_t i = 0; i < groups; ++i)
    order[i] = machine.settings.schedule == Schedule::kReverse ? groups - 1 - i : i;
  if (machine.settings.schedule == Schedule::kRandom)
    for (std::size_t i = groups; i > 1; --i) std::swap(order[i - 1], order[random_bits() % i]);
  for (const std::size_t g : order) {
    run_group(blocks_of_cluster(g));
    if (machine.aborted) return;
  }
}

// The devices that can be chosen, by compute capability, with NVIDIA's figures.
struct Device {
  int capability, threads_per_multiprocessor, blocks_per_multiprocessor;
  SharedLimits shared;
};
constexpr std::size_t kKilobyte = 1024;
constexpr Device kDevices[] = {
    {75, 1024, 16, {64 * kKilobyte, 64 * kKilobyte, 0}},
    {80, 2048, 32, {163 * kKilobyte, 164 * kKilobyte, kKilobyte}},
    {86, 1536, 16, {99 * kKilobyte, 100 * kKilobyte, kKilobyte}},
    {89, 1536, 24, {99 * kKilobyte, 100 * kKilobyte, kKilobyte}},
    {90, 2048, 32, {227 * kKilobyte, 228 * kKilobyte, kKilobyte}},
    {100, 2048, 32, {227 * kKilobyte, 228 * kKilobyte, kKilobyte}},
    {120, 1536, 24, {99 * kKilobyte, 100 * kKilobyte, kKilobyte}},
};

const Device* find_device(int capability) {
  for (const Device& d : kDevices)
    if (d.capability == capability) return &d;
  return nullptr;
}
const Device& device() { return *find_device(machine.settings.compute_capability); }
std::string device_text() {
  const int c = machine.settings.compute_capability;
  return "compute capability " + std::to_string(c / 10) + "." + std::to_string(c % 10);
}

std::size_t dynamic_limit(const void* function) {
  const auto limit = function_shared_limit.find(function);
  return std::min(device().shared.per_block, limit == function_shared_limit.end()
                                                 ? 48 * kKilobyte
                                                 : std::max(limit->second, 48 * kKilobyte));
}

}  // namespace

void set_function_shared_limit(const void* function, std::size_t bytes) {
  function_shared_limit[function] = bytes;
}
SharedLimits shared_limits() { return device().shared; }
int threads_per_multiprocessor() { return device().threads_per_multiprocessor; }

std::size_t shared_room() {
  // Opting in opens the whole block's limit, for static memory beside 48 KB of dynamic as well.
  return function_shared_limit.count(machine.launch.function) ? device().shared.per_block
                                                              : 48 * kKilobyte;
}

int resident_blocks_per_multiprocessor(const void* function, int threads,
                                       std::size_t shared_bytes) {
  const Device& d = device();
  const int bound = launch_bound(function);
  if (threads <= 0 || threads > 1024 || shared_bytes > d.shared.per_block ||
      (bound && threads > bound))
    return 0;
  const int by_threads = d.threads_per_multiprocessor / ((threads + 31) / 32 * 32);
  const std::size_t each = shared_bytes + d.shared.reserved;
  const int by_shared = each ? static_cast<int>(d.shared.per_multiprocessor / each) : by_threads;
  return std::min({by_threads, by_shared, d.blocks_per_multiprocessor});
}

void require_hopper(const char* what, Site site) {
  if (machine.settings.compute_capability != 90)
    fail(site, "%s exists on compute capability 9.0 alone (sm_90a), the emulated device has %d.%d",
         what, machine.settings.compute_capability / 10, machine.settings.compute_capability % 10);
}

void require_capability(int capability, const char* what, Site site) {
  if (machine.settings.compute_capability < capability)
    fail(site, "%s needs compute capability %d.%d, the emulated device has %d.%d", what,
         capability / 10, capability % 10, machine.settings.compute_capability / 10,
         machine.settings.compute_capability % 10);
}

cudaError_t validate_launch(const LaunchRequest& r) {
  const std::size_t threads = volume(r.block), blocks = volume(r.grid), cluster = volume(r.cluster);
  if (!threads || threads > 1024 || r.block.z > 64)
    return refuse(cudaErrorInvalidConfiguration,
                  "block of " + std::to_string(threads) + " threads: 1 to 1024 are possible");
  const int bound = launch_bound(r.function);
  if (bound && threads > static_cast<std::size_t>(bound))
    return refuse(cudaErrorInvalidConfiguration,
                  "block of " + std::to_string(threads) +
                      " threads: the kernel's __launch_bounds__ allow " + std::to_string(bound));
  if (!blocks || r.grid.x > 0x7fffffffu || r.grid.y > 65535 || r.grid.z > 65535)
    return refuse(cudaErrorInvalidConfiguration, "grid dimensions out of range");
  const std::size_t allowed = dynamic_limit(r.function);
  if (r.shared_bytes > allowed)
    return refuse(cudaErrorInvalidValue, std::to_string(r.shared_bytes) +
                                             " bytes of dynamic shared memory, allowed are " +
                                             std::to_string(allowed) + " on " + device_text());
  if (cluster > 1 && machine.settings.compute_capability < 90)
    return refuse(cudaErrorInvalidConfiguration,
                  "clusters need compute capability 9.0, the emulated device has " + device_text());
  if (!cluster || cluster > 8)
    return refuse(cudaErrorInvalidConfiguration,
                  "cluster of " + std::to_string(cluster) +
                      " blocks: 1 to 8 are portable, more are not emulated");
  if (r.grid.x % r.cluster.x || r.grid.y % r.cluster.y || r.grid.z % r.cluster.z)
    return refuse(cudaErrorInvalidConfiguration, "the grid is not made of whole clusters");
  if (r.cooperative) {
    const std::size_t resident = static_cast<std::size_t>(machine.settings.multiprocessors) *
                                 static_cast<std::size_t>(resident_blocks_per_multiprocessor(
                                     r.function, static_cast<int>(threads), r.shared_bytes));
    if (blocks > resident || blocks > kWindows)
      return refuse(cudaErrorCooperativeLaunchTooLarge,
                    "cooperative grid of " + std::to_string(blocks) + " blocks, " +
                        std::to_string(resident) + " can be resident");
  }
  return cudaSuccess;
}

cudaError_t run_launch(const LaunchRequest& request) {
  if (machine.running) throw std::logic_error("emulated device: a launch within a launch");
  InRuntime guard;
  machine.launch = request;
  machine.aborted = false;
  machine.reports.clear();
  machine.last_report.clear();
  machine.random_state = 88172645463325252ull ^ (machine.settings.seed * 0x9E3779B97F4A7C15ull);
  for (int i = 0; i < 8; ++i) random_bits();
  ++machine.stats.launches;
  checker_launch_begins();
  machine.running = true;
  try {
    run_grid();
  } catch (...) {
    machine.running = false;
    current_thread = nullptr;
    checker_launch_ends();
    throw;
  }
  machine.running = false;
  checker_launch_ends();
  machine.launch.call.reset();
  if (machine.reports.empty()) return cudaSuccess;
  machine.last_report =
      "kernel " + describe_pc(reinterpret_cast<std::uintptr_t>(request.function) + 1) + ", grid (" +
      std::to_string(request.grid.x) + "," + std::to_string(request.grid.y) + "," +
      std::to_string(request.grid.z) + "), block (" + std::to_string(request.block.x) + "," +
      std::to_string(request.block.y) + "," + std::to_string(request.block.z) + ")";
  for (const std::string& r : machine.reports) machine.last_report += "\n  * " + r;
  return cudaErrorLaunchFailure;
}

cudaError_t launch(const LaunchRequest& request) {
  std::lock_guard<std::recursive_mutex> hold(machine.lock);
  initialise();
  const cudaError_t valid = validate_launch(request);
  if (valid != cudaSuccess) return valid;
  return enqueue(request.stream, [request] { return run_launch(request); });
}

// ---- settings
// ---------------------------------------------------------------------------------------
Settings settings() {
  std::lock_guard<std::recursive_mutex> hold(machine.lock);
  initialise();
  return machine.settings;
}

void configure(const Settings& s) {
  std::lock_guard<std::recursive_mutex> hold(machine.lock);
  initialise();
  if (s.multiprocessors < 1 || s.multiprocessors > 1024)
    throw std::invalid_argument("emulated multiprocessors must be 1 to 1024");
  if (!find_device(s.compute_capability)) {
    std::string known;
    for (const Device& d : kDevices) known += " " + std::to_string(d.capability);
    throw std::invalid_argument("emulated compute capability must be one of" + known + ", got " +
                                std::to_string(s.compute_capability));
  }
  const cudaError_t failed = finish_all_streams();
  machine.settings = s;
  if (failed != cudaSuccess)  // nobody else would hear of it
    throw std::runtime_error("emulated device: a launch failed before new settings were made\n" +
                             machine.last_report);
}

void configure(const std::string& name, const std::string& value) {
  std::lock_guard<std::recursive_mutex> hold(machine.lock);
  initialise();
  Settings s = machine.settings;
  const auto choose = [&](std::initializer_list<const char*> names) {
    int i = 0;
    for (const char* n : names) {
      if (value == n) return i;
      ++i;
    }
    throw std::invalid_argument("emulation setting " + name + ": unknown value " + value);
  };
  const auto number = [&] {
    char* end = nullptr;
    const long long n = std::strtoll(value.c_str(), &end, 10);
    if (value.empty() || *end || n < 0)
      throw std::invalid_argument("emulation setting " + name + ": not a number: " + value);
    return n;
  };
  if (name == "schedule") {
    s.schedule = static_cast<Schedule>(choose({"fifo", "reverse", "random"}));
  } else if (name == "async") {
    s.async_copies = static_cast<AsyncMode>(choose({"eager", "lazy", "random"}));
  } else if (name == "streams") {
    s.streams = static_cast<StreamMode>(choose({"eager", "lazy"}));
  } else if (name == "check") {
    s.check = number() != 0;
  } else if (name == "seed") {
    s.seed = static_cast<std::uint64_t>(number());
  } else if (name == "library") {
    s.library = number() != 0;
  } else if (name == "sms") {
    s.multiprocessors = static_cast<int>(number());
  } else if (name == "capability") {
    s.compute_capability = static_cast<int>(number());
  } else {
    throw std::invalid_argument("unknown emulation setting: " + name);
  }
  configure(s);
}

std::string last_report() {
  std::lock_guard<std::recursive_mutex> hold(machine.lock);
  return machine.last_report;
}
Statistics statistics() {
  std::lock_guard<std::recursive_mutex> hold(machine.lock);
  return machine.stats;
}
void reset_statistics() {
  std::lock_guard<std::recursive_mutex> hold(machine.lock);
  machine.stats = Statistics{};
}

}  // namespace seqloom::emulation
