// SPDX-License-Identifier: Apache-2.0
// cp.async, mbarriers, bulk and tensor-map copies.
//
// In the default lazy mode a copy's destination turns to NaN when the copy is issued and the data
// arrives at the last legal moment: at the wait for cp.async and stores, when no thread can run for
// copies that complete on an mbarrier. Reading too early and overwriting too early both show.
#include <algorithm>

#include "emulation/machine.h"
#include "emulation/tensor_map.h"

namespace seqloom::emulation {
namespace {

bool eager() { return machine.settings.async_copies == AsyncMode::kEager; }

// ---- cp.async
// ----------------------------------------------------------------------------------------
void land(Fiber* f, const CpAsync& c) {
  ActAs issuer(f);
  if (c.source_bytes)
    check_access(c.source, static_cast<std::size_t>(c.source_bytes), kRead, c.site);
  check_access(c.target, static_cast<std::size_t>(c.bytes), kWrite, c.site);
  std::memcpy(c.target, c.source, static_cast<std::size_t>(c.source_bytes));
  std::memset(c.target + c.source_bytes, 0, static_cast<std::size_t>(c.bytes - c.source_bytes));
  set_state(c.target, static_cast<std::size_t>(c.bytes), kInitialised);
}

void land_copies(Fiber* f, int last_group) {
  std::size_t n = 0;
  while (n < f->copies.size() && f->copies[n].group <= last_group) land(f, f->copies[n++]);
  f->copies.erase(f->copies.begin(), f->copies.begin() + static_cast<std::ptrdiff_t>(n));
}

// ---- mbarriers
// -----------------------------------------------------------------------------------------
struct BarrierRef {
  Mbarrier& barrier;
  Block* block;
  std::uint32_t offset;
};
BarrierRef mbarrier_at(std::uint32_t address, Site site) {
  const SharedRef ref = shared_at(address, 8, site);
  const auto found = ref.block->mbarriers.find(ref.offset);
  if (found == ref.block->mbarriers.end())
    fail(site, "mbarrier at shared address 0x%x was never initialised", address);
  return {found->second, ref.block, ref.offset};
}

void try_flip(Mbarrier& m) {
  if (m.pending || m.bytes) return;
  ++m.phase;
  m.pending = m.count;
  // Who waited for this phase knows what arrived in it and before, and nothing of the next one.
  m.released.join(m.arriving);
  m.released_proxy.join(m.arriving_proxy);
  m.arriving = VectorClock{};
  m.arriving_proxy = ProxyClock{};
  std::vector<std::pair<Fiber*, std::uint32_t>> waiters;
  waiters.swap(m.waiters);
  for (const auto& [fiber, parity] : waiters) {
    if ((m.phase & 1) != parity) {
      wake(fiber);
    } else {
      m.waiters.emplace_back(fiber, parity);
    }
  }
  progress();
}

// ---- loads by the async proxy
// --------------------------------------------------------------------------
void land(AsyncLoad& a) {
  ActAs issuer(a.issuer);
  for (const auto& [target, source] : a.rows) {
    if (!source) {
      std::memset(target, 0, a.row_bytes);
    } else {
      if (a.payload.empty()) check_access(source, a.row_bytes, kRead | kAsyncProxy, a.site);
      std::memcpy(target, a.payload.empty() ? source : a.payload.data(), a.row_bytes);
    }
    set_state(target, a.row_bytes, kInitialised);
  }
  Mbarrier& m = a.block->mbarriers[a.barrier];
  m.bytes -= a.bytes;
  try_flip(m);
}

void start(AsyncLoad load, Mbarrier& m) {
  if (!m.fenced)
    fail(load.site,
         "asynchronous copy onto an mbarrier that was not fenced after its initialisation "
         "(mbarrier_init_fence)");
  for (const auto& [target, source] : load.rows) {
    check_access(target, load.row_bytes, kWrite | kAsyncProxy, load.site);
    if (!eager()) {
      std::memset(target, kPoison, load.row_bytes);
      set_state(target, load.row_bytes, kUninitialised);
    }
  }
  release_into(m.arriving, m.arriving_proxy);
  if (eager()) {
    land(load);
  } else {
    machine.async_loads.push_back(std::move(load));
  }
}

// ---- stores by the async proxy
// -------------------------------------------------------------------------
// Its shared memory is read for good; the target is written when the store lands.
void read_source(Fiber* f, StoreGroupEntry& s) {
  if (s.has_read) return;
  ActAs issuer(f);
  for (auto& [target, source] : s.rows) {
    check_access(source, s.row_bytes, kRead | kAsyncProxy, s.site);
    s.payload.insert(s.payload.end(), source, source + s.row_bytes);
  }
  s.has_read = true;
}

void land(Fiber* f, StoreGroupEntry& s) {
  read_source(f, s);
  ActAs issuer(f);
  const unsigned char* source = s.payload.data();
  for (const auto& row : s.rows) {
    unsigned char* const target = row.first;
    if (s.reduce == BulkReduce::kAddF32) {
      check_access(target, s.row_bytes, kWrite | kAtomic | kAsyncProxy, s.site);
      for (std::size_t i = 0; i < s.row_bytes; i += 4) {
        float x, y;
        std::memcpy(&x, target + i, 4);
        std::memcpy(&y, source + i, 4);
        x += y;
        std::memcpy(target + i, &x, 4);
      }
    } else {
      check_access(target, s.row_bytes, kWrite | kAsyncProxy, s.site);
      std::memcpy(target, source, s.row_bytes);
    }
    set_state(target, s.row_bytes, kInitialised);
    source += s.row_bytes;
  }
}

void land_stores(Fiber* f, int last_group) {
  std::size_t n = 0;
  while (n < f->stores.size() && f->stores[n].group <= last_group) land(f, f->stores[n++]);
  f->stores.erase(f->stores.begin(), f->stores.begin() + static_cast<std::ptrdiff_t>(n));
}

void queue_store(StoreGroupEntry s) {
  Fiber* f = self();
  for (const auto& row : s.rows) check_access(row.second, s.row_bytes, kRead | kAsyncProxy, s.site);
  s.group = f->store_group;
  if (eager()) {
    land(f, s);
  } else {
    f->stores.push_back(std::move(s));
  }
}

void require_multiple_of_16(const char* what, std::uint32_t shared, const void* global,
                            std::uint32_t bytes, Site site) {
  if ((shared & 15) || (reinterpret_cast<std::uintptr_t>(global) & 15) || (bytes & 15))
    fail(site, "%s: shared address 0x%x, global address %p and size %u must be multiples of 16",
         what, shared, global, bytes);
}

// ---- tensor maps
// ---------------------------------------------------------------------------------------
const TensorMapRecord& record_of(const void* map, std::size_t rank, Site site) {
  const auto* t = static_cast<const TensorMapRecord*>(map);
  if (t->magic != TensorMapRecord::kMagic) fail(site, "not a tensor map");
  if (t->rank != rank)
    fail(site, "a copy of rank %zu through a tensor map of rank %d", rank, t->rank);
  return *t;
}

// Calls f(shared offset, global element or null) for every run of the box's innermost dimension
// that is whole: elements one by one, since a box may hang over the edge anywhere.
template <class F>
void for_each_element_run(const TensorMapRecord& t, const std::int64_t (&at)[4], std::uint32_t base,
                          F f) {
  const std::uint32_t run = std::min<std::uint32_t>(16, t.box[0] * t.element_bytes);
  const std::uint32_t per_run = run / t.element_bytes;
  std::uint32_t offset = 0;
  for (std::uint32_t w = 0; w < t.box[3]; ++w)
    for (std::uint32_t z = 0; z < t.box[2]; ++z)
      for (std::uint32_t y = 0; y < t.box[1]; ++y)
        for (std::uint32_t x = 0; x < t.box[0]; x += per_run, offset += run) {
          const std::int64_t rest[3] = {at[1] + y, at[2] + z, at[3] + w};
          bool inside = true;
          std::int64_t bytes = 0;
          for (int d = 0; d < 3; ++d) {
            inside &= rest[d] >= 0 && rest[d] < static_cast<std::int64_t>(t.dims[d + 1]);
            bytes += rest[d] * static_cast<std::int64_t>(t.strides[d]);
          }
          f(swizzle_address(base + offset, t.swizzle), run, per_run, at[0] + x, inside, bytes);
        }
}

}  // namespace

void cp_async(std::uint32_t target, const void* source, int bytes, int source_bytes, Site site) {
  InRuntime guard;
  require_capability(80, "cp.async", site);
  Fiber* f = self();
  if (target % static_cast<unsigned>(bytes))
    fail(site, "cp.async: shared address 0x%x is not %d-byte aligned", target, bytes);
  if (reinterpret_cast<std::uintptr_t>(source) % static_cast<unsigned>(bytes))
    fail(site, "cp.async: global address %p is not %d-byte aligned", source, bytes);
  if (source_bytes < 0 || source_bytes > bytes)
    fail(site, "cp.async: %d source bytes of a %d-byte copy", source_bytes, bytes);
  const CpAsync c{shared_at(target, static_cast<std::size_t>(bytes), site).p,
                  static_cast<const unsigned char*>(source),
                  bytes,
                  source_bytes,
                  f->cp_group,
                  site};
  if (eager()) {
    land(f, c);
    return;
  }
  if (source_bytes) check_access(source, static_cast<std::size_t>(source_bytes), kRead, site);
  check_access(c.target, static_cast<std::size_t>(bytes), kWrite, site);
  std::memset(c.target, kPoison, static_cast<std::size_t>(bytes));
  set_state(c.target, static_cast<std::size_t>(bytes), kUninitialised);
  f->copies.push_back(c);
}

void cp_async_commit(Site site) {
  require_capability(80, "cp.async.commit_group", site);
  ++self()->cp_group;
}

void cp_async_wait(int pending, Site site) {
  InRuntime guard;
  require_capability(80, "cp.async.wait_group", site);
  land_copies(self(), self()->cp_group - 1 - pending);
}

void thread_exits_with_copies(Fiber* f) {
  if (!f->copies.empty()) fail(f->copies[0].site, "thread exits with cp.async still under way");
  for (StoreGroupEntry& s : f->stores) {
    if (!s.has_read)
      fail(s.site,
           "thread exits while a bulk store still reads its shared memory (bulk_wait_read)");
    land(f, s);
  }
  f->stores.clear();
}

void mbarrier_init(std::uint32_t barrier, std::uint32_t count, Site site) {
  InRuntime guard;
  require_capability(90, "mbarrier.init", site);
  if (barrier & 7) fail(site, "mbarrier at 0x%x is not 8-byte aligned", barrier);
  if (!count) fail(site, "mbarrier with a count of zero");
  const SharedRef ref = shared_at(barrier, 8, site);
  check_access(ref.p, 8, kWrite, site);
  Mbarrier m;
  m.count = m.pending = count;
  m.initialiser = self()->warp;
  ref.block->mbarriers[ref.offset] = std::move(m);
}

void mbarrier_init_fence(Site site) {
  InRuntime guard;
  require_capability(90, "fence.mbarrier_init", site);
  for (auto& [offset, m] : self()->block->mbarriers)
    if (m.initialiser == self()->warp) m.fenced = true;
}

void mbarrier_arrive(std::uint32_t barrier, std::uint32_t expected_bytes, Site site) {
  InRuntime guard;
  require_capability(90, "mbarrier.arrive", site);
  Mbarrier& m = mbarrier_at(barrier, site).barrier;
  if (!m.pending) fail(site, "mbarrier: more arrivals in this phase than its count of %u", m.count);
  m.bytes += expected_bytes;
  --m.pending;
  release_into(m.arriving, m.arriving_proxy);
  try_flip(m);
}

bool mbarrier_test(std::uint32_t barrier, std::uint32_t parity, Site site) {
  InRuntime guard;
  require_capability(90, "mbarrier.test_wait", site);
  pause_thread(site);
  Mbarrier& m = mbarrier_at(barrier, site).barrier;
  if ((m.phase & 1) == (parity & 1)) return false;
  acquire_from(m.released, m.released_proxy);
  return true;
}

void mbarrier_wait(std::uint32_t barrier, std::uint32_t parity, Site site) {
  InRuntime guard;
  require_capability(90, "mbarrier.try_wait", site);
  Mbarrier& m = mbarrier_at(barrier, site).barrier;
  while ((m.phase & 1) == (parity & 1)) {
    m.waiters.emplace_back(self(), parity & 1);
    suspend("an mbarrier wait", site);
  }
  acquire_from(m.released, m.released_proxy);
}

void store_async(std::uint32_t target, const void* value, int bytes, std::uint32_t barrier,
                 Site site) {
  InRuntime guard;
  require_capability(90, "st.async", site);
  if (target % static_cast<unsigned>(bytes))
    fail(site, "st.async: shared address 0x%x is not %d-byte aligned", target, bytes);
  const SharedRef ref = shared_at(target, static_cast<std::size_t>(bytes), site);
  const BarrierRef b = mbarrier_at(barrier, site);
  if (b.block != ref.block) fail(site, "st.async: data and mbarrier are in different blocks");
  AsyncLoad load;
  const auto* v = static_cast<const unsigned char*>(value);
  load.payload.assign(v, v + bytes);
  load.rows.emplace_back(ref.p, v);
  load.row_bytes = static_cast<std::size_t>(bytes);
  load.block = b.block;
  load.barrier = b.offset;
  load.bytes = static_cast<std::uint32_t>(bytes);
  load.issuer = self();
  load.site = site;
  start(std::move(load), b.barrier);
}

void bulk_load(std::uint32_t target, const void* source, std::uint32_t bytes, std::uint32_t barrier,
               Site site) {
  InRuntime guard;
  require_capability(90, "cp.async.bulk", site);
  require_multiple_of_16("cp.async.bulk", target, source, bytes, site);
  const BarrierRef b = mbarrier_at(barrier, site);
  AsyncLoad load;
  load.rows.emplace_back(shared_at(target, bytes, site).p,
                         static_cast<const unsigned char*>(source));
  load.row_bytes = load.bytes = bytes;
  load.block = b.block;
  load.barrier = b.offset;
  load.issuer = self();
  load.site = site;
  start(std::move(load), b.barrier);
}

void bulk_load_multicast(std::uint32_t target, const void* source, std::uint32_t bytes,
                         std::uint32_t barrier, std::uint16_t ranks, Site site) {
  for (std::uint32_t rank = 0; rank < 16; ++rank)
    if (ranks >> rank & 1)
      bulk_load(map_address_to_rank(target, rank, site), source, bytes,
                map_address_to_rank(barrier, rank, site), site);
}

void bulk_store(void* target, std::uint32_t source, std::uint32_t bytes, BulkReduce reduce,
                Site site) {
  InRuntime guard;
  require_capability(90, "cp.async.bulk", site);
  require_multiple_of_16("cp.async.bulk", source, target, bytes, site);
  StoreGroupEntry s;
  s.rows.emplace_back(static_cast<unsigned char*>(target), shared_at(source, bytes, site).p);
  s.row_bytes = bytes;
  s.reduce = reduce;
  s.site = site;
  queue_store(std::move(s));
}

void bulk_commit(Site site) {
  require_capability(90, "cp.async.bulk.commit_group", site);
  ++self()->store_group;
}

void bulk_wait_read(int pending, Site site) {
  InRuntime guard;
  require_capability(90, "cp.async.bulk.wait_group.read", site);
  Fiber* f = self();
  for (StoreGroupEntry& s : f->stores)
    if (s.group <= f->store_group - 1 - pending) read_source(f, s);
}

void bulk_wait(int pending, Site site) {
  InRuntime guard;
  require_capability(90, "cp.async.bulk.wait_group", site);
  land_stores(self(), self()->store_group - 1 - pending);
}

void tensor_load(std::uint32_t target, const void* map, std::initializer_list<int> coordinates,
                 std::uint32_t barrier, Site site) {
  InRuntime guard;
  require_capability(90, "cp.async.bulk.tensor", site);
  const TensorMapRecord& t = record_of(map, coordinates.size(), site);
  if (target & 127) fail(site, "tensor copy: shared address 0x%x is not 128-byte aligned", target);
  std::int64_t at[4] = {};
  std::copy(coordinates.begin(), coordinates.end(), at);
  const BarrierRef b = mbarrier_at(barrier, site);
  // Element by element at the edges, so that a box may end inside a 16-byte run.
  AsyncLoad load;
  load.row_bytes = t.element_bytes;
  load.bytes = 0;
  load.block = b.block;
  load.barrier = b.offset;
  load.issuer = self();
  load.site = site;
  const std::uint32_t inner = t.box[0] * t.element_bytes;
  const bool whole =
      at[0] >= 0 && at[0] + t.box[0] <= static_cast<std::int64_t>(t.dims[0]) && inner % 16 == 0;
  if (whole) load.row_bytes = 16;
  for_each_element_run(
      t, at, target,
      [&](std::uint32_t shared, std::uint32_t run, std::uint32_t per_run, std::int64_t x,
          bool inside, std::int64_t bytes) {
        load.bytes += run;
        for (std::uint32_t i = 0; i < per_run; i += whole ? per_run : 1) {
          const std::int64_t column = x + i;
          const bool exists =
              inside && column >= 0 && column < static_cast<std::int64_t>(t.dims[0]);
          load.rows.emplace_back(shared_at(shared + i * t.element_bytes, load.row_bytes, site).p,
                                 exists ? t.base + bytes + column * t.element_bytes : nullptr);
        }
      });
  start(std::move(load), b.barrier);
}

void tensor_store(const void* map, std::uint32_t source, std::initializer_list<int> coordinates,
                  Site site) {
  InRuntime guard;
  require_capability(90, "cp.async.bulk.tensor", site);
  const TensorMapRecord& t = record_of(map, coordinates.size(), site);
  if (source & 127) fail(site, "tensor copy: shared address 0x%x is not 128-byte aligned", source);
  std::int64_t at[4] = {};
  std::copy(coordinates.begin(), coordinates.end(), at);
  StoreGroupEntry s;
  s.row_bytes = t.element_bytes;
  s.reduce = BulkReduce::kNone;
  s.site = site;
  for_each_element_run(
      t, at, source,
      [&](std::uint32_t shared, std::uint32_t, std::uint32_t per_run, std::int64_t x, bool inside,
          std::int64_t bytes) {
        for (std::uint32_t i = 0; i < per_run; ++i) {
          const std::int64_t column = x + i;
          if (!inside || column < 0 || column >= static_cast<std::int64_t>(t.dims[0])) continue;
          s.rows.emplace_back(t.base + bytes + column * t.element_bytes,
                              shared_at(shared + i * t.element_bytes, s.row_bytes, site).p);
        }
      });
  queue_store(std::move(s));
}

bool advance_async(bool all) {
  if (machine.async_loads.empty()) return false;
  do {
    const std::size_t i = machine.settings.async_copies == AsyncMode::kRandom
                              ? random_bits() % machine.async_loads.size()
                              : 0;
    AsyncLoad load = std::move(machine.async_loads[i]);
    machine.async_loads.erase(machine.async_loads.begin() + static_cast<std::ptrdiff_t>(i));
    land(load);
  } while (all && !machine.async_loads.empty());
  return true;
}

void random_async_progress(Fiber* f) {
  if (machine.settings.async_copies != AsyncMode::kRandom) return;
  if (!f->copies.empty() && !(random_bits() & 3)) land_copies(f, f->copies.front().group);
  if (!(random_bits() & 3)) advance_async(false);
}

}  // namespace seqloom::emulation
