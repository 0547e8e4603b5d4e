// SPDX-License-Identifier: Apache-2.0
// Block, named and cluster barriers.
#include <algorithm>

#include "emulation/machine.h"

namespace seqloom::emulation {
namespace {

void release(Barrier& b) {
  if (machine.checking) {
    std::vector<Warp*> warps = b.warps;
    std::sort(warps.begin(), warps.end());
    warps.erase(std::unique(warps.begin(), warps.end()), warps.end());
    join_warps(warps, b.released, b.released_proxy);
  }
  const int result = b.vote == Vote::kOr ? b.any : b.vote == Vote::kAnd ? b.all : b.count;
  std::vector<Fiber*> waiters;
  waiters.swap(b.waiters);
  b = Barrier{};
  for (Fiber* f : waiters) {
    f->barrier_result = result;
    wake(f);
  }
  if (Fiber* f = self()) f->barrier_result = result;
  progress();
}

// Counts one arrival; true when the barrier is complete.
bool arrive(Barrier& b, int expected, bool arrive_only, int predicate, Vote vote, Site site) {
  Fiber* f = self();
  if (!b.arrived) {
    b.first = site;
    b.expected = expected;
    b.vote = vote;
  }
  ++b.arrived;
  b.any |= predicate != 0;
  b.all &= predicate != 0;
  b.count += predicate != 0;
  if (machine.checking) {
    if (arrive_only) {
      release_into(b.released, b.released_proxy);
    } else if (b.warps.empty() || b.warps.back() != f->warp) {
      b.warps.push_back(f->warp);
    }
  }
  return b.arrived >= (expected ? expected : f->block->live);
}

void complete_cluster(Cluster& c) {
  if (machine.checking) {
    std::vector<Warp*> warps;
    for (Block& b : machine.blocks)
      if (&machine.clusters[static_cast<std::size_t>(b.cluster)] == &c)
        for (Warp& w : b.warps) warps.push_back(&w);
    join_warps(warps, {}, {});
  }
  c.arrived = 0;
  ++c.phase;
  std::vector<Fiber*> waiters;
  waiters.swap(c.waiters);
  for (Fiber* f : waiters) wake(f);
  progress();
}

}  // namespace

int block_barrier(int predicate, Vote vote, Site site) {
  InRuntime guard;
  Fiber* f = self();
  Barrier& b = f->block->barriers[0];
  if (b.arrived && b.first != site)
    fail(site, "divergent __syncthreads: this thread is here, another waits at %s",
         describe(b.first).c_str());
  if (arrive(b, 0, false, predicate, vote, site)) {
    release(b);
    return f->barrier_result;
  }
  b.waiters.push_back(f);
  suspend("__syncthreads", site);
  return f->barrier_result;
}

void named_barrier(int id, int threads, bool arrive_only, Site site) {
  InRuntime guard;
  Fiber* f = self();
  if (id < 0 || id > 15) fail(site, "named barrier %d: there are 16", id);
  if (threads <= 0 || threads % 32)
    fail(site, "named barrier %d: thread count %d is not a positive multiple of 32", id, threads);
  Barrier& b = f->block->barriers[id];
  if (b.arrived && b.expected != threads)
    fail(site, "named barrier %d: %d threads here, %d at %s", id, threads, b.expected,
         describe(b.first).c_str());
  if (arrive(b, threads, arrive_only, 0, Vote::kNone, site)) {
    release(b);
    return;
  }
  if (arrive_only) return;
  b.waiters.push_back(f);
  suspend("a named barrier", site);
}

// Threads that have exited no longer count for __syncthreads.
void block_thread_exited(Block& block) {
  Barrier& b = block.barriers[0];
  if (b.arrived && !b.expected && block.live && b.arrived >= block.live) release(b);
}

void require_cooperative_launch(Site site) {
  if (!machine.launch.cooperative) {
    InRuntime guard;
    fail(site, "grid barrier in a launch that is not cooperative");
  }
}

void cluster_arrive(Site site) {
  InRuntime guard;
  require_capability(90, "barrier.cluster", site);
  Fiber* f = self();
  if (f->cluster_arrived) fail(site, "barrier.cluster.arrive twice without a wait");
  f->cluster_arrived = true;
  Cluster& c = machine.clusters[static_cast<std::size_t>(f->block->cluster)];
  f->cluster_phase = c.phase;
  if (++c.arrived >= c.live) complete_cluster(c);
}

void cluster_wait(Site site) {
  InRuntime guard;
  require_capability(90, "barrier.cluster", site);
  Fiber* f = self();
  if (!f->cluster_arrived) fail(site, "barrier.cluster.wait without an arrive");
  f->cluster_arrived = false;
  Cluster& c = machine.clusters[static_cast<std::size_t>(f->block->cluster)];
  if (c.phase != f->cluster_phase) return;
  c.waiters.push_back(f);
  suspend("the cluster barrier", site);
}

void cluster_thread_exited(Cluster& c) {
  if (c.arrived && c.live && c.arrived >= c.live) complete_cluster(c);
}

void set_max_registers(int, Site site) {
  InRuntime guard;
  require_hopper("setmaxnreg", site);
  const Fiber* f = self();
  if (f->block->warps.size() % 4)
    fail(site, "setmaxnreg: the block is not made of whole warpgroups of 128 threads");
}

}  // namespace seqloom::emulation
