// SPDX-License-Identifier: Apache-2.0
// wgmma: 128 threads meet, the operation is queued, and the operands are read when the group is
// waited for. Until then the accumulators hold NaN.
#include <algorithm>

#include "emulation/machine.h"
#include "emulation/tensor_map.h"

namespace seqloom::emulation {
namespace {

// Meets the other 127 threads of the warpgroup in `op`; true in the last one, which does the work
// and then calls leave().
bool meet(const char* op, Site site, WarpGroup& g, int slot) {
  Fiber* f = self();
  if (g.arrived && (g.op != op || g.site != site))
    fail(site, "divergent warpgroup: %s here, %s at %s", op, g.op, describe(g.site).c_str());
  const int threads =
      static_cast<int>(machine.launch.block.x * machine.launch.block.y * machine.launch.block.z);
  if (f->index / 128 * 128 + 128 > threads)
    fail(site, "%s: the block's last warpgroup is not complete", op);
  g.op = op;
  g.site = site;
  g.fibers[slot] = f;
  if (++g.arrived == 128) return true;
  suspend(op, site);
  return false;
}

void leave(WarpGroup& g) {
  g.arrived = 0;
  Fiber* fibers[128];
  std::copy(std::begin(g.fibers), std::end(g.fibers), fibers);
  for (Fiber* f : fibers)
    if (f != self()) wake(f);
  progress();
}

WarpGroup& group_of(const Fiber& f) {
  return f.block->warpgroups[static_cast<std::size_t>(f.index) / 128];
}

struct Operand {
  std::uint32_t start, leading, stride;
  int swizzle;  // bytes: 0, 32, 64, 128
};
Operand decode(std::uint64_t d, Site site) {
  if (d >> 49 & 7) fail(site, "wgmma: descriptor with a base offset is not emulated");
  static const int kSwizzle[] = {0, 128, 64, 32};
  return {static_cast<std::uint32_t>(d & 0x3fff) << 4,
          static_cast<std::uint32_t>(d >> 16 & 0x3fff) << 4,
          static_cast<std::uint32_t>(d >> 32 & 0x3fff) << 4, kSwizzle[d >> 62]};
}

// Shared address of 16 bytes: 8 values along the contiguous direction, starting at (mn, k).
std::uint32_t chunk_address(const Operand& o, bool trans, int mn, int k) {
  const auto u = [](int x) { return static_cast<std::uint32_t>(x); };
  std::uint32_t a;
  if (!trans) {
    if (!o.swizzle) return o.start + u(mn / 8) * o.stride + u(mn % 8) * 16 + u(k / 8) * o.leading;
    a = o.start + u(mn / 8) * o.stride + u(mn % 8) * u(o.swizzle) + u(k) * 2;
  } else {
    if (!o.swizzle) return o.start + u(mn / 8) * o.stride + u(k % 8) * 16 + u(k / 8) * o.leading;
    const int width = o.swizzle / 2;  // values in one row of the pattern
    a = o.start + u(mn / width) * o.leading + u(mn % width) * 2 + u(k % 8) * u(o.swizzle) +
        u(k / 8) * o.stride;
  }
  return swizzle_address(a, o.swizzle);
}

float value_of(std::uint16_t bits, bool is_half) {
  if (!is_half) return from_bits<float>(static_cast<std::uint32_t>(bits) << 16);
  __half_raw raw;
  raw.x = bits;
  return __half2float(__half(raw));
}

// Reads rows x 16 values; out[mn * 16 + k]. With out == null only the checks are made.
void read_operand(std::uint64_t descriptor, bool trans, bool is_half, int rows, float* out,
                  Site site) {
  const Operand o = decode(descriptor, site);
  const auto take = [&](int mn, int k, int step_mn, int step_k) {
    const SharedRef ref = shared_at(chunk_address(o, trans, mn, k), 16, site);
    check_access(ref.p, 16, kRead | kAsyncProxy, site);
    if (!out) return;
    std::uint16_t bits[8];
    std::memcpy(bits, ref.p, 16);
    for (int i = 0; i < 8; ++i)
      out[(mn + i * step_mn) * 16 + k + i * step_k] = value_of(bits[i], is_half);
  };
  if (!trans) {
    for (int mn = 0; mn < rows; ++mn)
      for (int k = 0; k < 16; k += 8) take(mn, k, 0, 1);
  } else {
    for (int k = 0; k < 16; ++k)
      for (int mn = 0; mn < rows; mn += 8) take(mn, k, 1, 0);
  }
}

// Makes the accesses (and on landing the reads) of one operation. The four warps take turns, since
// each of them must have waited for the data.
void read_operands(const WgmmaOp& op, Fiber* const (&fibers)[128], float* a, float* b) {
  const std::size_t turn = static_cast<std::size_t>(op.group) % 4;
  if (!op.has_a_registers) {
    ActAs reader(fibers[(turn + 1) % 4 * 32]);
    read_operand(op.descriptor_a, op.shape.trans_a, op.shape.is_half, 64, a, op.site);
  } else if (a) {
    for (int t = 0; t < 128; ++t)
      for (int r = 0; r < 4; ++r) {
        const int row = t / 32 * 16 + t % 32 / 4 + (r & 1) * 8, k = t % 4 * 2 + (r >> 1) * 8;
        a[row * 16 + k] = value_of(op.a[t][r] & 0xffff, op.shape.is_half);
        a[row * 16 + k + 1] =
            value_of(static_cast<std::uint16_t>(op.a[t][r] >> 16), op.shape.is_half);
      }
  }
  ActAs reader(fibers[turn * 32]);
  read_operand(op.descriptor_b, op.shape.trans_b, op.shape.is_half, op.shape.columns, b, op.site);
}

void land(WarpGroup& g, const WgmmaOp& op) {
  static float a[64 * 16], b[256 * 16];
  read_operands(op, g.fibers, a, b);
  for (int t = 0; t < 128; ++t) {
    std::vector<float>& d = g.accumulators[op.d[t]];
    for (int j = 0; j < op.shape.columns / 8; ++j)
      for (int e = 0; e < 4; ++e) {
        const int row = t / 32 * 16 + t % 32 / 4 + (e >> 1) * 8;
        const int column = j * 8 + t % 4 * 2 + (e & 1);
        float& x = d[static_cast<std::size_t>(j * 4 + e)];
        float sum = 0.f;
        for (int k = 0; k < 16; ++k) sum += a[row * 16 + k] * b[column * 16 + k];
        x = op.accumulate ? x + sum : sum;
      }
  }
}

bool in_flight(const WarpGroup& g, const float* d) {
  for (const WgmmaOp& op : g.queue)
    for (const float* p : op.d)
      if (p == d) return true;
  return false;
}

bool same_bits(const std::vector<float>& kept, const float* d) {
  return std::memcmp(kept.data(), d, kept.size() * sizeof(float)) == 0;
}

// An accumulator enters flight: its value is kept aside and the registers turn to NaN.
void take_accumulator(WarpGroup& g, float* d, int columns, bool accumulate, Site site) {
  const auto count = static_cast<std::size_t>(columns / 2);
  const auto known = g.settled.find(d);
  if (known != g.settled.end() && accumulate && known->second.size() == count &&
      !same_bits(known->second, d))
    fail(site, "wgmma: accumulator registers were changed after the last wgmma_fence");
  if (g.accumulators.count(d)) return;
  g.accumulators[d].assign(d, d + count);
  std::memset(d, kPoison, count * sizeof(float));
  g.settled.erase(d);
}

}  // namespace

void wgmma(WgmmaShape shape, float* d, const std::uint32_t* a, std::uint64_t descriptor_a,
           std::uint64_t descriptor_b, bool accumulate, Site site) {
  InRuntime guard;
  require_capability(90, "wgmma", site);
  Fiber* f = self();
  WarpGroup& g = group_of(*f);
  const int slot = f->index % 128;
  g.d[slot] = d;
  if (a) std::memcpy(g.a[slot], a, 16);
  if (!g.arrived) {
    g.descriptor_a = descriptor_a;
    g.descriptor_b = descriptor_b;
  } else if (descriptor_b != g.descriptor_b || (!a && descriptor_a != g.descriptor_a)) {
    fail(site, "wgmma: threads of the warpgroup give different descriptors");
  }
  if (!meet("wgmma", site, g, slot)) return;
  if (!g.fenced) fail(site, "wgmma without a wgmma_fence before it");
  WgmmaOp op;
  std::copy(std::begin(g.d), std::end(g.d), op.d);
  std::memcpy(op.a, g.a, sizeof op.a);
  op.has_a_registers = a != nullptr;
  op.descriptor_a = descriptor_a;
  op.descriptor_b = descriptor_b;
  op.shape = shape;
  op.accumulate = accumulate;
  op.group = g.group;
  op.site = site;
  for (int t = 0; t < 128; ++t) {
    ActAs owner(g.fibers[t]);
    take_accumulator(g, op.d[t], shape.columns, accumulate, site);
  }
  read_operands(op, g.fibers, nullptr, nullptr);
  g.queue.push_back(op);
  leave(g);
}

// From here until the next wgmma the registers must not change: remember them.
void wgmma_fence(Site site) {
  InRuntime guard;
  require_capability(90, "wgmma.fence", site);
  Fiber* f = self();
  WarpGroup& g = group_of(*f);
  if (!meet("wgmma_fence", site, g, f->index % 128)) return;
  g.fenced = true;
  for (auto it = g.settled.begin(); it != g.settled.end();) {
    std::copy(it->first, it->first + it->second.size(), it->second.begin());
    ++it;
  }
  leave(g);
}

void wgmma_commit(Site site) {
  InRuntime guard;
  require_capability(90, "wgmma.commit_group", site);
  Fiber* f = self();
  WarpGroup& g = group_of(*f);
  if (!meet("wgmma_commit", site, g, f->index % 128)) return;
  ++g.group;
  leave(g);
}

void wgmma_wait(int pending, Site site) {
  InRuntime guard;
  require_capability(90, "wgmma.wait_group", site);
  Fiber* f = self();
  WarpGroup& g = group_of(*f);
  if (!meet("wgmma_wait", site, g, f->index % 128)) return;
  std::size_t done = 0;
  while (done < g.queue.size() && g.queue[done].group <= g.group - 1 - pending)
    land(g, g.queue[done++]);
  g.queue.erase(g.queue.begin(), g.queue.begin() + static_cast<std::ptrdiff_t>(done));
  for (auto it = g.accumulators.begin(); it != g.accumulators.end();) {
    if (in_flight(g, it->first)) {
      ++it;
      continue;
    }
    std::copy(it->second.begin(), it->second.end(), it->first);
    g.settled[it->first] = std::move(it->second);
    it = g.accumulators.erase(it);
  }
  leave(g);
}

}  // namespace seqloom::emulation
