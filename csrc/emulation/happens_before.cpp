// SPDX-License-Identifier: Apache-2.0
// Which accesses are ordered before which: vector clocks, one entry a warp. Barriers join whole
// warps; a release by one lane publishes that lane's own accesses and what its warp had
// synchronised, so that a missing __syncwarp before lane 0's release is seen.
//
// Known limits: an acquire by one lane is taken for its whole warp, and scopes (.cta, .gpu) are not
// told apart.
#include "emulation/machine.h"

namespace seqloom::emulation {
namespace {

struct SyncVariable {
  VectorClock known;
  ProxyClock proxy;
};
std::unordered_map<const void*, SyncVariable> sync_variables;

Stamp& entry(VectorClock& v, const Warp& w) {
  if (v.resident.size() <= static_cast<std::size_t>(w.slot))
    v.resident.resize(static_cast<std::size_t>(w.slot) + 1);
  return v.resident[static_cast<std::size_t>(w.slot)];
}

void retire(VectorClock& v, const std::vector<std::uint32_t>& ids) {
  for (std::size_t i = 0; i < v.resident.size(); ++i)
    if (v.resident[i].full || v.resident[i].lanes) v.earlier[ids[i]].join(v.resident[i]);
  v.resident.clear();
}

}  // namespace

void VectorClock::join(const VectorClock& o) {
  if (resident.size() < o.resident.size()) resident.resize(o.resident.size());
  for (std::size_t i = 0; i < o.resident.size(); ++i) resident[i].join(o.resident[i]);
  for (const auto& [id, stamp] : o.earlier) earlier[id].join(stamp);
}

const Stamp& stamp_of(const VectorClock& v, std::uint32_t warp_id) {
  static const Stamp nothing;
  const int slot = machine.slot_of_block[warp_id >> 5];
  if (slot >= 0) {
    const std::size_t warps = machine.blocks[0].warps.size();
    const std::size_t i = static_cast<std::size_t>(slot) * warps + (warp_id & 31);
    return i < v.resident.size() ? v.resident[i] : nothing;
  }
  const auto found = v.earlier.find(warp_id);
  return found == v.earlier.end() ? nothing : found->second;
}

VectorClock released_by(const Fiber& f) {
  VectorClock v = f.warp->known;
  Stamp own;
  own.partial = f.warp->clock;
  own.lanes = 1u << f.lane;
  entry(v, *f.warp).join(own);
  return v;
}

void release_into(VectorClock& known, ProxyClock& proxy) {
  if (!machine.checking) return;
  Fiber& f = *self();
  known.join(released_by(f));
  proxy.join(f.warp->proxy_visible);
  ++f.warp->clock;
}

void release_warp_into(const Warp& w, VectorClock& known, ProxyClock& proxy) {
  if (!machine.checking) return;
  known.join(w.known);
  Stamp own;
  own.full = w.clock;
  entry(known, w).join(own);
  proxy.join(w.proxy_visible);
}

void acquire_from(const VectorClock& known, const ProxyClock& proxy) {
  if (!machine.checking) return;
  Warp& w = *self()->warp;
  w.known.join(known);
  w.proxy_visible.join(proxy);
}

void warp_synchronised(Warp& w, unsigned lanes) {
  if (!machine.checking) return;
  Stamp own;
  if (lanes == w.live) {
    own.full = w.clock;
  } else {
    own.partial = w.clock;
    own.lanes = lanes;
  }
  entry(w.known, w).join(own);
  ++w.clock;
}

void join_warps(const std::vector<Warp*>& warps, const VectorClock& known,
                const ProxyClock& proxy) {
  VectorClock all = known;
  ProxyClock all_proxy = proxy;
  for (Warp* w : warps) {
    all.join(w->known);
    Stamp own;
    own.full = w->clock;
    entry(all, *w).join(own);
    all_proxy.join(w->proxy_visible);
  }
  for (Warp* w : warps) {
    w->known = all;
    w->proxy_visible = all_proxy;
    ++w->clock;
  }
}

// ---- fences and atomics: release = fence then atomic write, acquire = atomic read then fence
// -------
void memory_fence() {
  InRuntime guard;
  if (!machine.checking) return;
  Fiber& f = *self();
  Warp& w = *f.warp;
  w.fenced = w.known;
  f.fence_clock = w.clock++;
  w.known.join(w.observed);
}

void fence_proxy_async(bool all, Site site) {
  InRuntime guard;
  require_capability(90, "fence.proxy.async", site);
  Fiber& f = *self();
  for (auto& [address, m] : f.block->mbarriers)
    if (m.initialiser == f.warp) m.fenced = true;
  if (!machine.checking) return;
  const VectorClock own = released_by(f);
  f.warp->proxy_visible.shared.join(own);
  if (all) f.warp->proxy_visible.global.join(own);
  ++f.warp->clock;
}

void note_atomic(const void* p, std::size_t bytes, MemoryOrder order, AtomicKind kind, Site site) {
  InRuntime guard;
  if (kind != AtomicKind::kLoad) progress();
  Fiber* f = self();
  if (!f) return;
  if (reinterpret_cast<std::uintptr_t>(p) % bytes)
    fail(site, "atomic access of %zu bytes at misaligned address %p", bytes, p);
  check_access(p, bytes,
               kAtomic | (kind == AtomicKind::kLoad ? 0 : kWrite) |
                   (kind == AtomicKind::kStore ? kInitialises : 0),
               site);
  if (!machine.checking) return;
  SyncVariable& s = sync_variables[p];
  if (order & kRelease) {
    release_into(s.known, s.proxy);
  } else if (kind != AtomicKind::kLoad && f->fence_clock) {
    VectorClock v = f->warp->fenced;
    Stamp own;
    own.partial = f->fence_clock;
    own.lanes = 1u << f->lane;
    entry(v, *f->warp).join(own);
    s.known.join(v);
    s.proxy.join(f->warp->proxy_visible);
  }
  if (order & kAcquire) {
    acquire_from(s.known, s.proxy);
  } else {
    f->warp->observed.join(s.known);
  }
}

void forget_sync_variables() { sync_variables.clear(); }

void group_retired() {
  if (!machine.checking || sync_variables.empty()) return;
  std::vector<std::uint32_t> ids;
  for (const Block& b : machine.blocks)
    for (std::size_t w = 0; w < b.warps.size(); ++w)
      ids.push_back(b.linear << 5 | static_cast<std::uint32_t>(w));
  for (auto& [address, s] : sync_variables) {
    retire(s.known, ids);
    retire(s.proxy.shared, ids);
    retire(s.proxy.global, ids);
  }
}

}  // namespace seqloom::emulation
