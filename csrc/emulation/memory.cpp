// SPDX-License-Identifier: Apache-2.0
// Device memory and shared-memory windows: one reserved range with a state for every byte. Fresh
// memory reads as NaN; red zones between allocations are not addressable.
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <new>

#include "emulation/machine.h"

namespace seqloom::emulation {
namespace {

struct Heap {
  std::map<unsigned char*, std::size_t> allocations;         // bytes asked for
  std::unordered_map<unsigned char*, std::size_t> capacity;  // of every block ever made
  std::multimap<std::size_t, unsigned char*> free_blocks;    // by rounded size
  unsigned char* next = nullptr;
  std::size_t in_use = 0;
} heap;

std::size_t rounded(std::size_t bytes) {
  return std::max<std::size_t>((bytes + 255) & ~std::size_t{255}, 256);
}

unsigned char* reserve(std::size_t bytes) {
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) throw std::bad_alloc();
  return static_cast<unsigned char*>(p);
}

constexpr std::uint32_t kRankShift = 24;  // shared::cluster addresses: (rank + 1) << 24 | offset

}  // namespace

void initialise() {
  if (machine.heap) return;
  const std::size_t bytes = kHeapBytes + kWindows * kWindowBytes;
  machine.states = reserve(bytes);
  machine.heap = reserve(bytes);
  machine.windows = machine.heap + kHeapBytes;
  machine.arena_end = machine.heap + bytes;
  heap.next = machine.heap + kRedZone;
  for (const auto& [name, variable] :
       {std::pair<const char*, const char*>{"schedule", "SEQLOOM_EMULATION_SCHEDULE"},
        {"seed", "SEQLOOM_EMULATION_SEED"},
        {"async", "SEQLOOM_EMULATION_ASYNC"},
        {"streams", "SEQLOOM_EMULATION_STREAMS"},
        {"check", "SEQLOOM_EMULATION_CHECK"},
        {"sms", "SEQLOOM_EMULATION_SMS"},
        {"capability", "SEQLOOM_EMULATION_CAPABILITY"},
        {"library", "SEQLOOM_EMULATION_LIBRARY"}})
    if (const char* value = std::getenv(variable)) configure(name, value);
}

bool in_arena(const void* p) {
  return static_cast<const unsigned char*>(p) >= machine.heap &&
         static_cast<const unsigned char*>(p) < machine.arena_end;
}

void set_state(const void* p, std::size_t bytes, ByteState state) {
  std::memset(machine.states + (static_cast<const unsigned char*>(p) - machine.heap), state, bytes);
}

void* device_allocate(std::size_t bytes) {
  initialise();
  const std::size_t size = rounded(bytes);
  unsigned char* p = nullptr;
  const auto fit = heap.free_blocks.lower_bound(size);
  if (fit != heap.free_blocks.end() && fit->first <= size + size / 4) {
    p = fit->second;
    heap.free_blocks.erase(fit);
  } else {
    if (size + kRedZone > static_cast<std::size_t>(machine.windows - heap.next)) return nullptr;
    p = heap.next;
    heap.next += size + kRedZone;
    heap.capacity[p] = size;
  }
  heap.allocations[p] = bytes;
  heap.in_use += bytes;
  std::memset(p, kPoison, bytes);
  set_state(p, bytes, kUninitialised);
  return p;
}

bool device_release(void* pointer) {
  auto* p = static_cast<unsigned char*>(pointer);
  const auto found = heap.allocations.find(p);
  if (found == heap.allocations.end()) return false;
  const std::size_t bytes = found->second;
  heap.allocations.erase(found);
  heap.in_use -= bytes;
  set_state(p, bytes, kUnaddressable);
  heap.free_blocks.emplace(heap.capacity[p], p);
  return true;
}

bool is_device_range(const void* pointer, std::size_t bytes) {
  const auto* p = static_cast<const unsigned char*>(pointer);
  if (!machine.heap || p < machine.heap || p > machine.windows) return false;
  auto after = heap.allocations.upper_bound(const_cast<unsigned char*>(p));
  if (after == heap.allocations.begin()) return false;
  --after;
  return p + bytes <= after->first + after->second;
}

std::size_t device_bytes_in_use() { return heap.in_use; }

void prepare_window(Block& b, std::size_t dynamic_bytes) {
  b.window = machine.windows + static_cast<std::size_t>(b.slot) * kWindowBytes;
  set_state(b.window, kWindowBytes, kUnaddressable);
  unsigned char* dynamic = b.window + kDynamicOffset;
  std::memset(dynamic, kPoison, dynamic_bytes);
  set_state(dynamic, dynamic_bytes, kUninitialised);
  reset_shadow(dynamic, dynamic_bytes);
  b.shared_used = kDynamicOffset + dynamic_bytes + (dynamic_bytes ? 64 : 0);
}

void* static_shared(const void* key, std::size_t bytes, std::size_t align, const char* name) {
  InRuntime guard;
  Block& b = *self()->block;
  for (const auto& [known, p] : b.statics)
    if (known == key) return p;
  std::size_t offset = (b.shared_used + align - 1) & ~(align - 1);
  // No more aligned than its type promises, so that a wider access shows.
  if (align < 16 && offset % 16 == 0) offset += align;
  b.shared_used = offset + bytes + 32;
  b.static_bytes += bytes;
  if (b.static_bytes > 48 << 10)
    fail({}, "static shared memory of a block exceeds 48 KB: %zu bytes with %s", b.static_bytes,
         name);
  const std::size_t dynamic = machine.launch.shared_bytes;
  if (b.static_bytes + dynamic > shared_room() || b.shared_used > kWindowBytes)
    fail({},
         "%zu bytes of static (with %s) and %zu of dynamic shared memory exceed the %zu bytes that "
         "this launch may have on compute capability %d.%d",
         b.static_bytes, name, dynamic, shared_room(), machine.settings.compute_capability / 10,
         machine.settings.compute_capability % 10);
  unsigned char* p = b.window + offset;
  b.statics.emplace_back(key, p);
  std::memset(p, kPoison, bytes);
  set_state(p, bytes, kUninitialised);
  reset_shadow(p, bytes);
  return p;
}

SharedRef shared_at(std::uint32_t address, std::size_t bytes, Site site) {
  Fiber* f = self();
  Block* block = f->block;
  const std::uint32_t rank = address >> kRankShift;
  const std::uint32_t offset = address & ((1u << kRankShift) - 1);
  if (rank) {
    if (rank > f->cluster_size)
      fail(site, "shared address 0x%x names block %u of a cluster of %u", address, rank - 1,
           f->cluster_size);
    block =
        &machine
             .blocks[static_cast<std::size_t>(f->block->slot - f->block->cluster_rank) + rank - 1];
  }
  if (offset + bytes > kWindowBytes)
    fail(site, "shared address 0x%x is outside shared memory", address);
  if (block != f->block) check_remote_block(*block, site, 0);
  return {block, block->window + offset, offset};
}

std::uint32_t shared_address(const void* p, Site site) {
  InRuntime guard;
  const Block& b = *self()->block;
  const auto* c = static_cast<const unsigned char*>(p);
  if (c < b.window || c >= b.window + kWindowBytes)
    fail(site, "pointer %p is not in this block's shared memory", p);
  return static_cast<std::uint32_t>(c - b.window);
}

void* map_to_rank(const void* p, std::uint32_t rank, Site site) {
  InRuntime guard;
  const std::uint32_t offset = shared_address(p, site);
  map_address_to_rank(offset, rank, site);  // checks the rank
  const Block& own = *self()->block;
  return machine.blocks[static_cast<std::size_t>(own.slot - own.cluster_rank) + rank].window +
         offset;
}

std::uint32_t map_address_to_rank(std::uint32_t address, std::uint32_t rank, Site site) {
  InRuntime guard;
  require_capability(90, "mapa", site);
  if (rank >= self()->cluster_size)
    fail(site, "mapa: rank %u in a cluster of %u", rank, self()->cluster_size);
  return (address & ((1u << kRankShift) - 1)) | (rank + 1) << kRankShift;
}

std::string describe_address(const void* pointer) {
  const auto* p = static_cast<const unsigned char*>(pointer);
  char text[160];
  if (p >= machine.windows && p < machine.arena_end) {
    const auto offset = static_cast<unsigned long>(p - machine.windows);
    const auto in_window = offset % kWindowBytes;
    if (machine.launch.shared_bytes && in_window >= kDynamicOffset &&
        in_window < kDynamicOffset + machine.launch.shared_bytes + 64) {
      std::snprintf(text, sizeof text, "dynamic shared memory + %lu", in_window - kDynamicOffset);
    } else {
      std::snprintf(text, sizeof text, "static shared memory 0x%lx", in_window);
    }
    return text;
  }
  auto after = heap.allocations.upper_bound(const_cast<unsigned char*>(p));
  if (after != heap.allocations.begin()) {
    --after;
    if (p < after->first + after->second + kRedZone) {
      std::snprintf(text, sizeof text, "global memory, offset %ld of an allocation of %zu bytes",
                    static_cast<long>(p - after->first), after->second);
      return text;
    }
  }
  std::snprintf(text, sizeof text, "global address %p", pointer);
  return text;
}

}  // namespace seqloom::emulation
