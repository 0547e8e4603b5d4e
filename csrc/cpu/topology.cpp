// SPDX-License-Identifier: Apache-2.0
#include "cpu/topology.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

namespace seqloom::cpu {
namespace {

#if defined(__linux__)
// The mask at load time, before anything else in the process binds its threads. Static sets hold
// 1024 processors, which is what the scheduler's interface takes by default.
struct LoadTimeMask {
  cpu_set_t set;
  int count = 0;
  LoadTimeMask() {
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof(set), &set) == 0) count = CPU_COUNT(&set);
  }
};

const LoadTimeMask& load_time_mask() {
  static const LoadTimeMask mask;
  return mask;
}
[[maybe_unused]] const LoadTimeMask& captured_at_load = load_time_mask();

std::string read_text(const std::string& path) {
  std::string text;
  if (FILE* file = std::fopen(path.c_str(), "r")) {
    char buffer[1024];
    const size_t n = std::fread(buffer, 1, sizeof(buffer), file);
    text.assign(buffer, n);
    std::fclose(file);
  }
  return text;
}

// Processors' worth of run time that `quota` microseconds in `period` give; 0 for no limit.
int quota_processors(double quota, double period) {
  if (quota <= 0 || period <= 0) return 0;
  return std::max(1, static_cast<int>((quota + period - 1) / period));
}

void apply_limit(int limit, int* processors) {
  if (limit > 0) *processors = std::min(*processors, limit);
}

// cgroup v2: "max 100000" or "150000 100000" in cpu.max of our group and of those above it.
void apply_cgroup2(int* processors) {
  std::string group;
  const std::string table = read_text("/proc/self/cgroup");
  const size_t at = table.find("0::/");
  if (at != std::string::npos) {
    group = table.substr(at + 3, table.find('\n', at) - at - 3);
  }
  for (;;) {
    while (!group.empty() && group.back() == '/') group.pop_back();
    const std::string text = read_text("/sys/fs/cgroup" + group + "/cpu.max");
    double quota = 0, period = 0;
    if (std::sscanf(text.c_str(), "%lf %lf", &quota, &period) == 2) {
      apply_limit(quota_processors(quota, period), processors);
    }
    if (group.empty()) return;
    group.resize(group.rfind('/') == std::string::npos ? 0 : group.rfind('/'));
  }
}

void apply_cgroup1(int* processors) {
  for (const char* folder : {"/sys/fs/cgroup/cpu/", "/sys/fs/cgroup/cpu,cpuacct/"}) {
    const std::string quota = read_text(std::string(folder) + "cpu.cfs_quota_us");
    const std::string period = read_text(std::string(folder) + "cpu.cfs_period_us");
    if (quota.empty() || period.empty()) continue;
    apply_limit(quota_processors(std::atof(quota.c_str()), std::atof(period.c_str())), processors);
  }
}
#endif

}  // namespace

int available_processors() {
  int processors = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
#if defined(__linux__)
  if (load_time_mask().count > 0) processors = load_time_mask().count;
  apply_cgroup2(&processors);
  apply_cgroup1(&processors);
#endif
  return processors;
}

int current_processor() {
#if defined(__linux__)
  return sched_getcpu();
#else
  return -1;
#endif
}

void widen_affinity() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) != 0 || CPU_COUNT(&set) > 1) return;
  if (load_time_mask().count > 1) sched_setaffinity(0, sizeof(set), &load_time_mask().set);
#endif
}

void leave_processor(int processor) {
#if defined(__linux__)
  cpu_set_t all;
  if (sched_getaffinity(0, sizeof(all), &all) != 0) return;
  cpu_set_t others = all;
  CPU_CLR(processor, &others);
  if (CPU_COUNT(&others) == 0) return;
  // The first call moves the thread at once; the second gives the scheduler its freedom back.
  if (sched_setaffinity(0, sizeof(others), &others) == 0) {
    sched_setaffinity(0, sizeof(all), &all);
  }
#else
  (void)processor;
#endif
}

}  // namespace seqloom::cpu
