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
  for (Block& b : machine.blocks)  // a warp that has ended counts as arrived
    if (&machine.clusters[static_cast<std::size_t>(b.cluster)] == &c)
      for (const Warp& w : b.warps)
        if (!w.live) release_warp_into(w, c.arriving, c.arriving_proxy);
  c.arrived = 0;
  ++c.phase;
  c.released.join(c.arriving);
  c.released_proxy.join(c.arriving_proxy);
  c.arriving = VectorClock{};
  c.arriving_proxy = ProxyClock{};
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

std::uint32_t cluster_rank(Site site) {
  require_capability(90, "%cluster_ctarank", site);
  return self()->cluster_rank;
}
std::uint32_t cluster_size(Site site) {
  require_capability(90, "%cluster_nctarank", site);
  return self()->cluster_size;
}

void cluster_arrive(Site site) {
  InRuntime guard;
  require_capability(90, "barrier.cluster", site);
  Fiber* f = self();
  if (f->cluster_arrived) fail(site, "barrier.cluster.arrive twice without a wait");
  f->cluster_arrived = true;
  warp_collective(WarpOp::kClusterArrive, f->warp->live, site, nullptr, nullptr, 0);
  Cluster& c = machine.clusters[static_cast<std::size_t>(f->block->cluster)];
  f->cluster_phase = c.phase;
  if (++c.arrived >= c.live) complete_cluster(c);
}

// What the warp did up to here is released; what its lanes do between here and their wait is not.
void warp_arrives_at_cluster(Warp& w) {
  Cluster& c = machine.clusters[static_cast<std::size_t>(w.block->cluster)];
  release_warp_into(w, c.arriving, c.arriving_proxy);
  ++w.clock;
}

void cluster_wait(Site site) {
  InRuntime guard;
  require_capability(90, "barrier.cluster", site);
  Fiber* f = self();
  if (!f->cluster_arrived) fail(site, "barrier.cluster.wait without an arrive");
  f->cluster_arrived = false;
  Cluster& c = machine.clusters[static_cast<std::size_t>(f->block->cluster)];
  if (c.phase == f->cluster_phase) {
    c.waiters.push_back(f);
    suspend("the cluster barrier", site);
  }
  acquire_from(c.released, c.released_proxy);
}

void cluster_thread_exited(Cluster& c) {
  if (c.arrived && c.live && c.arrived >= c.live) complete_cluster(c);
}

}  // namespace seqloom::emulation
