// SPDX-License-Identifier: Apache-2.0
// Memory, initialisation and race checks, and the call-outs that feed them.
//
// In the checked build the compiler calls __tsan_read4 and friends before every access of a kernel
// (-fsanitize=thread); they are defined here instead of linking the sanitizer's library. For every
// 8 bytes of device memory eight cells remember who accessed them. Two accesses race when they
// overlap, one writes, not both are atomic, and neither is ordered before the other.
//
// History: a cell holds all lanes of one warp that read the same bytes at the same time. What is
// ordered before a newer access that implies it is dropped, which loses nothing: a byte has one
// last write. When all eight are still needed, a read takes the place of a random read and never
// that of a write; where eight writes stand (single bytes by eight threads) it is not remembered.
// So a race with a write is always seen, and one between a new write and a forgotten read is missed
// in that schedule; other seeds forget others. Only relaxed atomic stores can push out a write.
#include <dlfcn.h>
#include <link.h>
#include <sys/mman.h>

#include <new>
#include <set>

#include "emulation/machine.h"

namespace seqloom::emulation {
namespace {

struct Cell {
  std::uint32_t warp, clock, lanes, launch;
  std::uint32_t where;  // offset of an instruction in the module, or kSiteBit | index of a site
  std::uint8_t bytes, flags;
  std::uint16_t unused;
};
static_assert(sizeof(Cell) == 24, "the shadow is sized for this");
constexpr std::uint32_t kSiteBit = 0x80000000u;
constexpr int kCells = 8;

struct Range {
  std::uintptr_t low, high;
};
struct Checker {
  Cell* cells = nullptr;
  std::uint32_t launch = 1;
  std::uintptr_t module_base = 0;
  std::vector<Range> module_data;
  std::vector<Site> sites{Site{}};
  std::map<std::pair<const char*, int>, std::uint32_t> site_index;
  std::set<std::tuple<int, std::uint32_t, std::uint32_t>> reported;
} checker;

enum ReportKind {
  kRaceReport,
  kUninitialisedReport,
  kReadOnlyReport,
  kProxyReport,
  kLifetimeReport
};

std::uint32_t where_of(Site site) {
  const auto [it, fresh] = checker.site_index.try_emplace(
      {site.file, site.line}, static_cast<std::uint32_t>(checker.sites.size()));
  if (fresh) checker.sites.push_back(site);
  return kSiteBit | it->second;
}
std::uint32_t where_of(std::uintptr_t pc) {
  return static_cast<std::uint32_t>(pc - checker.module_base) & ~kSiteBit;
}
std::string describe_where(std::uint32_t where) {
  return where & kSiteBit ? describe(checker.sites[where & ~kSiteBit])
                          : describe_pc(checker.module_base + where);
}
bool first_time(ReportKind kind, std::uint32_t a, std::uint32_t b) {
  return checker.reported.insert({kind, a, b}).second;
}

const char* verb(int flags) {
  if (flags & kAtomic) return flags & kWrite ? "atomic update" : "atomic read";
  return flags & kWrite ? "write" : "read";
}

std::string describe_owner(const Cell& x) {
  const std::uint32_t block = x.warp >> 5;
  const dim3 grid = machine.launch.grid;
  char text[120];
  std::snprintf(text, sizeof text, "block (%u,%u,%u) thread %u", block % grid.x,
                block / grid.x % grid.y, block / grid.x / grid.y,
                (x.warp & 31) * 32 + static_cast<unsigned>(__builtin_ctz(x.lanes)));
  return text;
}

[[noreturn]] void report_invalid(const void* p, std::size_t bytes, int flags, std::uint32_t where,
                                 const std::string& why) {
  fail({}, "invalid %s of %zu bytes at %s: %s, in %s", flags & kWrite ? "write" : "read", bytes,
       describe_address(p).c_str(), why.c_str(), describe_where(where).c_str());
}

// Addressability and initialisation of every byte.
void check_bytes(const unsigned char* p, std::size_t bytes, int flags, std::uint32_t where) {
  std::uint8_t* state = machine.states + (p - machine.heap);
  bool uninitialised = false;
  for (std::size_t i = 0; i < bytes; ++i) {
    if (state[i] == kUnaddressable)
      report_invalid(p, bytes, flags, where,
                     "byte " + std::to_string(i) + " is outside every live allocation");
    uninitialised |= state[i] == kUninitialised;
  }
  const bool reads = !(flags & kWrite) || ((flags & kAtomic) && !(flags & kInitialises));
  if (reads && uninitialised && machine.checking && first_time(kUninitialisedReport, where, 0))
    add_report("uninitialised " + std::string(verb(flags)) + " of " + std::to_string(bytes) +
               " bytes at " + describe_address(p) + ", in " + describe_where(where) + " [" +
               describe(*self()) + "]");
  if (flags & kWrite) std::memset(state, kInitialised, bytes);
}

void report_pair(ReportKind kind, const char* text, const void* p, int flags, std::uint32_t where,
                 const Cell& x, const char* hint) {
  if (!first_time(kind, where, x.where)) return;
  add_report(std::string(text) + " on " + describe_address(p) + ": " + verb(flags) + " in " +
             describe_where(where) + " [" + describe(*self()) + "] and " + verb(x.flags) + " in " +
             describe_where(x.where) + " [" + describe_owner(x) + "]" + hint);
}

// Where a new access goes when all cells are in use; null when it is not worth any of them.
Cell* victim(Cell* cells, bool writes) {
  Cell* reads[kCells];
  unsigned count = 0;
  for (Cell* x = cells; x < cells + kCells; ++x)
    if (!(x->flags & kWrite)) reads[count++] = x;
  if (count) return reads[random_bits() % count];
  return writes ? &cells[random_bits() % kCells] : nullptr;
}

// One granule of 8 bytes; `touched` has a bit for each byte accessed.
void check_granule(const Fiber& f, const unsigned char* granule, std::uint8_t touched, int flags,
                   std::uint32_t where) {
  const std::uint32_t warp = f.block->linear << 5 | static_cast<std::uint32_t>(f.index >> 5);
  const std::uint32_t lane = 1u << f.lane;
  const Warp& w = *f.warp;
  const bool probes = (flags & kProbe) != 0;
  flags &= ~kProbe;
  Cell* cells = checker.cells + (granule - machine.heap) / 8 * kCells;
  Cell* slot = nullptr;  // free or superseded
  Cell* redundant = nullptr;
  bool stored = false;
  for (Cell* x = cells; x < cells + kCells; ++x) {
    if (x->launch != checker.launch) {  // nor is any cell after it of this launch
      x->bytes = 0;
      if (!slot) slot = x;
      break;
    }
    if (!x->bytes) {
      if (!slot) slot = x;
      continue;
    }
    if (!(x->bytes & touched)) continue;
    const bool inside = !(x->bytes & ~touched);
    const bool writes = ((x->flags | flags) & kWrite) != 0;
    if (writes && ((flags | x->flags) & kReadOnly))
      report_pair(kReadOnlyReport, "read-only load of memory that the same launch writes", granule,
                  flags, where, *x, "");
    const std::uint32_t others = x->warp == warp ? x->lanes & ~lane : x->lanes;
    const bool proxy_crossing =
        (flags & kAsyncProxy) && (x->flags & kWrite) && !(x->flags & kAsyncProxy);
    const bool in_shared = granule >= machine.windows;
    const VectorClock& fenced = in_shared ? w.proxy_visible.shared : w.proxy_visible.global;
    if (proxy_crossing && !stamp_of(fenced, x->warp).covers(x->clock, x->lanes))
      report_pair(kProxyReport,
                  in_shared ? "missing fence_proxy_async" : "missing fence_proxy_async_all",
                  granule, flags, where, *x,
                  " (an asynchronous instruction touches what ordinary code wrote)");
    if (!others) {  // this very thread
      if (probes) continue;
      if (inside && (x->flags == flags || ((flags & kWrite) && !(x->flags & kWrite)))) {
        *x = {warp, w.clock, lane, checker.launch, where, touched, static_cast<std::uint8_t>(flags),
              0};
        stored = true;
      }
      continue;
    }
    if (!writes) {
      if (probes) continue;
      if (x->warp == warp && x->clock == w.clock && x->flags == flags && x->bytes == touched) {
        x->lanes |= lane;
        stored = true;
      } else if (inside && x->flags == flags &&
                 stamp_of(w.known, x->warp).covers(x->clock, x->lanes)) {
        redundant = x;
      }
      continue;
    }
    if (x->flags & flags & kAtomic) {
      // An atomic update comes after the earlier ones of its location in their common order.
      if (!probes && inside && (flags & kWrite) && !(flags & kInitialises)) {
        x->bytes = 0;
        slot = x;
      }
      continue;
    }
    if (stamp_of(w.known, x->warp).covers(x->clock, others)) {
      // Whoever is ordered after this write is so after the older access to the same bytes, too;
      // an atomic write does not stand for a plain access, which races with other atomics.
      if (!probes && (flags & kWrite) && others == x->lanes &&
          (!(flags & kAtomic) || (x->flags & kAtomic))) {
        x->bytes = static_cast<std::uint8_t>(x->bytes & ~touched);
        if (!x->bytes) slot = x;
      }
      continue;
    }
    report_pair(kRaceReport, "race", granule, flags, where, *x, " (nothing orders them)");
  }
  if (stored || probes) return;
  if (!slot) slot = redundant ? redundant : victim(cells, (flags & kWrite) != 0);
  if (!slot) return;
  *slot = {warp, w.clock, lane, checker.launch, where, touched, static_cast<std::uint8_t>(flags),
           0};
}

void check(const void* pointer, std::size_t bytes, int flags, Site site, std::uintptr_t pc) {
  const auto* p = static_cast<const unsigned char*>(pointer);
  const std::uint32_t where = pc ? where_of(pc) : where_of(site);
  if (p >= machine.windows) {
    const auto slot = static_cast<std::size_t>(p - machine.windows) / kWindowBytes;
    if (slot != static_cast<std::size_t>(self()->block->slot) && slot < machine.blocks.size())
      check_remote_block(machine.blocks[slot], site, pc);
  }
  check_bytes(p, bytes, flags, where);
  if (!machine.checking) return;
  const Fiber& f = *self();
  const auto begin = reinterpret_cast<std::uintptr_t>(p), end = begin + bytes;
  for (std::uintptr_t g = begin & ~std::uintptr_t{7}; g < end; g += 8) {
    const unsigned low = g < begin ? static_cast<unsigned>(begin - g) : 0;
    const unsigned high = end - g >= 8 ? 8 : static_cast<unsigned>(end - g);
    check_granule(f, reinterpret_cast<const unsigned char*>(g),
                  static_cast<std::uint8_t>(((1u << high) - 1) & ~((1u << low) - 1)), flags, where);
  }
}

// Memory that is neither device memory nor the thread's own stack.
void check_outside(const void* p, std::size_t bytes, int flags, std::uint32_t where) {
  const auto a = reinterpret_cast<std::uintptr_t>(p);
  const auto call = reinterpret_cast<std::uintptr_t>(machine.launch.call.get());
  if (!(flags & kWrite) && a >= call && a < call + machine.launch.call_bytes) return;
  const char* what = "host memory";
  for (const Range& r : checker.module_data)
    if (a >= r.low && a < r.high) {
      if (!(flags & kWrite)) return;
      what = "a host global variable (pass a workspace instead)";
    }
  for (const Fiber& f : machine.fibers)
    if (f.stack && a - reinterpret_cast<std::uintptr_t>(f.stack) < kStackBytes)
      what = "another thread's local memory";
  fail({}, "invalid %s of %zu bytes at %p: %s, in %s", flags & kWrite ? "write" : "read", bytes, p,
       what, describe_where(where).c_str());
}

}  // namespace

void check_access(const void* p, std::size_t bytes, int flags, Site site) {
  InRuntime guard;
  Fiber* f = self();
  if (!f || !bytes) return;
  if (in_arena(p)) {
    if (machine.checking) ++machine.stats.checked_accesses;
    check(p, bytes, flags, site, 0);
    return;
  }
  const auto a = reinterpret_cast<std::uintptr_t>(p);
  if (a - reinterpret_cast<std::uintptr_t>(f->stack) < kStackBytes) return;
  check_outside(p, bytes, flags, where_of(site));
}

void check_remote_block(Block& b, Site site, std::uintptr_t pc) {
  const auto where = [&] { return pc ? where_of(pc) : where_of(site); };
  if (!b.live)
    fail({}, "shared memory of a block that has already exited is accessed in %s",
         describe_where(where()).c_str());
  if (!machine.checking) return;
  const Fiber& f = *self();
  bool started = false;
  for (std::size_t w = 0; w < b.warps.size(); ++w) {
    const Stamp& s = stamp_of(f.warp->known, b.linear << 5 | static_cast<std::uint32_t>(w));
    started |= s.full || s.lanes;
  }
  if (!started && first_time(kLifetimeReport, where(), 0))
    add_report(
        "shared memory of another block is accessed before that block is known to have "
        "started (cluster barrier), in " +
        describe_where(where()) + " [" + describe(f) + "]");
  Stamp now;
  now.partial = f.warp->clock;
  now.lanes = 1u << f.lane;
  RemoteAccess& r = b.remote[f.block->linear << 5 | static_cast<std::uint32_t>(f.index >> 5)];
  r.stamp.join(now);
  r.site = site;
  r.pc = pc;
}

void check_block_end(Block& b) {
  if (!machine.checking || b.remote.empty()) return;
  VectorClock all;
  for (const Warp& w : b.warps) all.join(w.known);
  for (const auto& [warp, r] : b.remote) {
    if (stamp_of(all, warp).covers(r.stamp.partial, r.stamp.lanes)) continue;
    add_report("block (" + std::to_string(b.index.x) + "," + std::to_string(b.index.y) + "," +
               std::to_string(b.index.z) +
               ") may exit while another block of its cluster still "
               "accesses its shared memory, in " +
               describe_where(r.pc ? where_of(r.pc) : where_of(r.site)));
    return;
  }
}

void note_readonly_load(const void* p, std::size_t bytes, Site site) {
  check_access(p, bytes, kReadOnly, site);
}

void reset_shadow(const void* p, std::size_t bytes) {
  if (!checker.cells || !bytes) return;
  const auto first =
      static_cast<std::size_t>(static_cast<const unsigned char*>(p) - machine.heap) / 8;
  std::memset(static_cast<void*>(checker.cells + first * kCells), 0,
              (bytes + 15) / 8 * kCells * sizeof(Cell));
}

void checker_launch_begins() {
  machine.checking = machine.settings.check && built_with_checker();
  checker.reported.clear();
  ++checker.launch;
  forget_sync_variables();
  if (checker.module_data.empty()) {
    Dl_info info;
    if (dladdr(reinterpret_cast<void*>(&checker_launch_begins), &info)) {
      checker.module_base = reinterpret_cast<std::uintptr_t>(info.dli_fbase);
      dl_iterate_phdr(
          [](dl_phdr_info* i, std::size_t, void*) {
            const std::uintptr_t load = i->dlpi_addr;
            std::vector<Range> ranges;
            bool mine = false;
            for (int k = 0; k < i->dlpi_phnum; ++k) {
              const auto& h = i->dlpi_phdr[k];
              if (h.p_type != PT_LOAD) continue;
              ranges.push_back({load + h.p_vaddr, load + h.p_vaddr + h.p_memsz});
              mine |= checker.module_base >= ranges.back().low &&
                      checker.module_base < ranges.back().high;
            }
            if (mine) checker.module_data = ranges;
            return mine ? 1 : 0;
          },
          nullptr);
    }
  }
  if (machine.checking && !checker.cells) {
    void* p = mmap(nullptr, (kHeapBytes + kWindows * kWindowBytes) / 8 * kCells * sizeof(Cell),
                   PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
    checker.cells = static_cast<Cell*>(p);
  }
}

void checker_launch_ends() { machine.checking = false; }

// Every access of instrumented code. Own stack first: that is most of them.
void instrumented_access(const void* p, std::size_t bytes, int flags, std::uintptr_t pc) {
  Fiber* f = self();
  if (!f || runtime_depth || !machine.settings.check) return;
  const auto a = reinterpret_cast<std::uintptr_t>(p);
  if (__builtin_expect(a - reinterpret_cast<std::uintptr_t>(f->stack) < kStackBytes, 1)) return;
  InRuntime guard;
  ++machine.stats.checked_accesses;
  if (in_arena(p)) {
    check(p, bytes, flags, {}, pc);
  } else {
    check_outside(p, bytes, flags, where_of(pc));
  }
}

}  // namespace seqloom::emulation
