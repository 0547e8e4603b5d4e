// SPDX-License-Identifier: Apache-2.0
// wgmma: 128 threads meet, the operation is queued, and the operands are read when the group is
// waited for. Until then the accumulators hold NaN.
//
// Registers are local variables, so "written since the last fence" is a comparison with a copy of
// the thread's stack made at the fence, and "written before the wait" one with what was there when
// the wgmma was issued. Values are compared: writing what was there already goes unnoticed, as do
// reads.
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

using Fibers = Fiber* const (&)[128];

// Reads rows x 16 values; out[mn * 16 + k]. With out == null only the checks are made: each of the
// four warps must have waited for all of the data. Who overwrites it later must wait for all four;
// so that each of them leaves its trace, they take turns from chunk to chunk.
void read_operand(std::uint64_t descriptor, bool trans, bool is_half, int rows, float* out,
                  Fibers fibers, std::size_t turn, Site site) {
  const Operand o = decode(descriptor, site);
  const auto take = [&](int mn, int k, int step_mn, int step_k) {
    ActAs reader(fibers[turn++ % 4 * 32]);
    const SharedRef ref = shared_at(chunk_address(o, trans, mn, k), 16, site);
    if (!out && machine.checking)
      for (int w = 0; w < 4; ++w) {
        ActAs waiter(fibers[w * 32]);
        check_access(ref.p, 16, kRead | kAsyncProxy | kProbe, site);
      }
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

// Makes the accesses (and on landing the reads) of one operation.
void read_operands(const WgmmaOp& op, Fibers fibers, float* a, float* b) {
  const auto turn = static_cast<std::size_t>(op.group);
  if (!op.has_a_registers) {
    read_operand(op.descriptor_a, op.shape.trans_a, op.shape.is_half, 64, a, fibers, turn, op.site);
  } else if (a) {
    for (int t = 0; t < 128; ++t)
      for (int r = 0; r < 4; ++r) {
        const int row = t / 32 * 16 + t % 32 / 4 + (r & 1) * 8, k = t % 4 * 2 + (r >> 1) * 8;
        a[row * 16 + k] = value_of(op.a[t][r] & 0xffff, op.shape.is_half);
        a[row * 16 + k + 1] =
            value_of(static_cast<std::uint16_t>(op.a[t][r] >> 16), op.shape.is_half);
      }
  }
  read_operand(op.descriptor_b, op.shape.trans_b, op.shape.is_half, op.shape.columns, b, fibers,
               turn, op.site);
}

void land(WarpGroup& g, const WgmmaOp& op) {
  static float a[64 * 16], b[256 * 16];
  if (op.has_a_registers)
    for (int t = 0; t < 128; ++t)
      if (std::memcmp(op.a_at[t], op.a[t], sizeof op.a[t]) != 0)
        fail(op.site, "wgmma: registers of A were written before its wgmma_wait (thread %d)", t);
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

bool all_bytes_are(const void* p, std::size_t bytes, unsigned char value) {
  const auto* c = static_cast<const unsigned char*>(p);
  return std::all_of(c, c + bytes, [=](unsigned char x) { return x == value; });
}

// No write between this thread's last wgmma_fence and now. An array that is not read may be one
// that nobody has written at all: it holds what the compiler puts into locals (emulation.cmake).
void require_fenced(const Fiber& f, const void* registers, std::size_t bytes, bool reads,
                    const char* what, Site site) {
  constexpr unsigned char kNeverWritten = 0xfe;
  const auto* p = static_cast<const unsigned char*>(registers);
  if (p < f.stack || p >= f.stack_base) fail(site, "wgmma: %s are not local variables", what);
  if (p >= f.fenced_from && std::memcmp(p, f.fenced_stack.data() + (p - f.fenced_from), bytes) == 0)
    return;
  if (!reads && all_bytes_are(p, bytes, kNeverWritten)) return;
  fail(site, "wgmma: %s were written after the last wgmma_fence", what);
}

void require_accumulator(WarpGroup& g, const Fiber& f, float* d, int columns, bool accumulate,
                         Site site) {
  const auto count = static_cast<std::size_t>(columns / 2);
  const auto flying = g.accumulators.find(d);
  if (flying != g.accumulators.end()) {
    if (flying->second.size() != count)
      fail(site, "wgmma: accumulators of another shape are still under way in these registers");
    return;
  }
  const auto known = g.settled.find(d);
  if (known != g.settled.end() && known->second.size() == count &&
      std::memcmp(known->second.data(), d, count * sizeof(float)) == 0)
    return;
  require_fenced(f, d, count * sizeof(float), accumulate, "accumulator registers", site);
}

// An accumulator enters flight: its value is kept aside and the registers turn to NaN.
void take_accumulator(WarpGroup& g, float* d, int columns) {
  if (g.accumulators.count(d)) return;
  const auto count = static_cast<std::size_t>(columns / 2);
  g.accumulators[d].assign(d, d + count);
  std::memset(d, kPoison, count * sizeof(float));
  g.settled.erase(d);
}

}  // namespace

void wgmma(WgmmaShape shape, float* d, const std::uint32_t* a, std::uint64_t descriptor_a,
           std::uint64_t descriptor_b, bool accumulate, Site site) {
  InRuntime guard;
  require_hopper("wgmma", site);
  Fiber* f = self();
  WarpGroup& g = group_of(*f);
  const int slot = f->index % 128;
  if (!f->fenced_from) fail(site, "wgmma without a wgmma_fence before it");
  require_accumulator(g, *f, d, shape.columns, accumulate, site);
  g.d[slot] = d;
  g.a_at[slot] = a;
  if (a) {
    require_fenced(*f, a, sizeof g.a[slot], true, "registers of A", site);
    std::memcpy(g.a[slot], a, sizeof g.a[slot]);
  }
  if (!g.arrived) {
    g.descriptor_a = descriptor_a;
    g.descriptor_b = descriptor_b;
  } else if (descriptor_b != g.descriptor_b || (!a && descriptor_a != g.descriptor_a)) {
    fail(site, "wgmma: threads of the warpgroup give different descriptors");
  }
  if (!meet("wgmma", site, g, slot)) return;
  WgmmaOp op;
  std::copy(std::begin(g.d), std::end(g.d), op.d);
  std::copy(std::begin(g.a_at), std::end(g.a_at), op.a_at);
  std::memcpy(op.a, g.a, sizeof op.a);
  op.has_a_registers = a != nullptr;
  op.descriptor_a = descriptor_a;
  op.descriptor_b = descriptor_b;
  op.shape = shape;
  op.accumulate = accumulate;
  op.group = g.group;
  op.site = site;
  for (float* registers : op.d) take_accumulator(g, registers, shape.columns);
  read_operands(op, g.fibers, nullptr, nullptr);
  g.queue.push_back(op);
  leave(g);
}

// ---- setmaxnreg
// ------------------------------------------------------------------------------------ A block
// starts with what its size leaves a thread, at most; how many the compiler gave it is not known
// here. Groups that take wait until the others have given back enough.
namespace {
constexpr int kRegisterFile = 65536;

int registers_as_launched(const Block& b) {
  const int threads = static_cast<int>(b.warpgroups.size()) * 128;
  return std::min(kRegisterFile / threads / 8 * 8, 256);
}
int registers_of(const Block& b, const WarpGroup& g) {
  return g.registers ? g.registers : registers_as_launched(b);
}
bool pool_has(const Block& b, const WarpGroup& g, int count) {
  int free = registers_of(b, g) - count;
  for (const WarpGroup& other : b.warpgroups)
    free += registers_as_launched(b) - registers_of(b, other);
  return free >= 0;
}
}  // namespace

void set_max_registers(int count, bool increase, Site site) {
  InRuntime guard;
  const char* const op = increase ? "setmaxnreg.inc" : "setmaxnreg.dec";
  require_hopper(op, site);
  Fiber* f = self();
  Block& b = *f->block;
  if (b.warps.size() % 4)
    fail(site, "setmaxnreg: the block is not made of whole warpgroups of 128 threads");
  if (count < 24 || count > 256 || count % 8)
    fail(site, "%s: %d registers: 24 to 256 in steps of 8 are possible", op, count);
  WarpGroup& g = group_of(*f);
  if (g.arrived && g.asked != count)
    fail(site, "%s: threads of the warpgroup ask for %d and for %d registers", op, g.asked, count);
  g.asked = count;
  if (!meet(op, site, g, f->index % 128)) return;
  const int held = registers_of(b, g);
  if (increase ? count < held && g.registers : count > held)
    fail(site, "%s to %d registers: a thread of the warpgroup has %s%d", op, count,
         g.registers ? "" : "at most ", held);
  while (increase && !pool_has(b, g, count)) {
    b.register_waiters.push_back(f);
    suspend(op, site);
  }
  g.registers = count;
  std::vector<Fiber*> waiters;
  waiters.swap(b.register_waiters);
  for (Fiber* waiter : waiters) wake(waiter);
  leave(g);
}

// From here until the next wgmma its registers must not change: remember all locals of the kernel.
void wgmma_fence(Site site) {
  InRuntime guard;
  require_hopper("wgmma.fence", site);
  Fiber* f = self();
  WarpGroup& g = group_of(*f);
  f->fenced_from = static_cast<const unsigned char*>(__builtin_frame_address(0));
  f->fenced_stack.assign(f->fenced_from, static_cast<const unsigned char*>(f->stack_base));
  if (!meet("wgmma_fence", site, g, f->index % 128)) return;
  g.settled.clear();
  leave(g);
}

void wgmma_commit(Site site) {
  InRuntime guard;
  require_hopper("wgmma.commit_group", site);
  Fiber* f = self();
  WarpGroup& g = group_of(*f);
  if (!meet("wgmma_commit", site, g, f->index % 128)) return;
  ++g.group;
  leave(g);
}

void wgmma_wait(int pending, Site site) {
  InRuntime guard;
  require_hopper("wgmma.wait_group", site);
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
    if (!all_bytes_are(it->first, it->second.size() * sizeof(float), kPoison))
      fail(site, "wgmma: accumulator registers were written before this wgmma_wait");
    std::copy(it->second.begin(), it->second.end(), it->first);
    g.settled[it->first] = std::move(it->second);
    it = g.accumulators.erase(it);
  }
  leave(g);
}

}  // namespace seqloom::emulation
