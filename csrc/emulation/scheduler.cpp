// SPDX-License-Identifier: Apache-2.0
// Runs the fibers of the resident blocks: a ring of ready fibers in fifo, reversed or random order,
// asynchronous copies when nobody can run, and a deadlock report when those are used up.
#include <sys/mman.h>

#include <new>

#include "emulation/fiber_switch.h"
#include "emulation/machine.h"

namespace seqloom::emulation {

__thread ThreadContext* current_thread = nullptr;
__thread int runtime_depth = 0;
Machine machine;

namespace {

struct Scheduler {
  std::vector<Fiber*> ring;
  std::size_t head = 0, ready = 0, mask = 0;
  std::vector<unsigned char*> free_stacks;
  void* main_context = nullptr;
  unsigned colour = 0;
  std::int64_t idle_polls = 0;
} scheduler;

void push(Fiber* f) {
  if (f->state != FiberState::kNew) f->state = FiberState::kReady;
  scheduler.ring[(scheduler.head + scheduler.ready++) & scheduler.mask] = f;
}

Fiber* pop() {
  Scheduler& s = scheduler;
  if (!s.ready) return nullptr;
  if (machine.settings.schedule == Schedule::kRandom)
    std::swap(s.ring[s.head & s.mask], s.ring[(s.head + random_bits() % s.ready) & s.mask]);
  Fiber* f = s.ring[s.head & s.mask];
  ++s.head;
  --s.ready;
  return f;
}

constexpr std::size_t kPage = 4096;

// Stacks end in a page that may not be touched: an overflow is a crash, never silent damage.
unsigned char* take_stack() {
  if (scheduler.free_stacks.empty()) {
    void* p = mmap(nullptr, kStackBytes + kPage, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
    mprotect(p, kPage, PROT_NONE);
    return static_cast<unsigned char*>(p) + kPage;
  }
  unsigned char* p = scheduler.free_stacks.back();
  scheduler.free_stacks.pop_back();
  return p;
}

[[noreturn]] void fiber_main();

void prepare(Fiber* f) {
  f->stack = take_stack();
  f->stack_pointer = make_context(f->stack, kStackBytes, scheduler.colour++, fiber_main);
}

void resume(Fiber* from, Fiber* to) {
  ++machine.stats.switches;
  const int depth = runtime_depth;
  if (to->state == FiberState::kNew) prepare(to);
  to->state = FiberState::kRunning;
  current_thread = to;
  switch_context(&from->stack_pointer, to->stack_pointer);
  runtime_depth = depth;
}

[[noreturn]] void report_deadlock() {
  std::map<std::string, std::vector<const Fiber*>> groups;
  std::size_t exited = 0;
  for (const Fiber& f : machine.fibers) {
    if (f.state == FiberState::kWaiting)
      groups[std::string(f.waits_for) + " at " + describe(f.wait_site)].push_back(&f);
    exited += f.state == FiberState::kDone;
  }
  std::string text = "deadlock: no thread can run";
  int listed = 0;
  for (const auto& [what, fibers] : groups) {
    if (listed++ == 8) break;
    text += "\n      " + std::to_string(fibers.size()) + " thread(s) wait in " + what +
            " (first: " + describe(*fibers[0]) + ")";
  }
  text += "\n      " + std::to_string(exited) + " thread(s) have exited";
  current_thread = nullptr;
  add_report(text);
  abandon_launch();
}

// The next fiber to run, or null when all are done.
Fiber* next_fiber() {
  for (;;) {
    if (Fiber* f = pop()) return f;
    if (machine.done == machine.fibers.size()) return nullptr;
    if (!advance_async(false)) report_deadlock();
  }
}

void finish_thread() {
  Fiber* f = self();
  progress();
  thread_exits_with_copies(f);
  f->state = FiberState::kDone;
  ++machine.done;
  if (--f->block->live == 0) check_block_end(*f->block);
  f->warp->live &= ~(1u << f->lane);
  Cluster& cluster = machine.clusters[static_cast<std::size_t>(f->block->cluster)];
  --cluster.live;
  warp_lane_exited(*f->warp);
  block_thread_exited(*f->block);
  cluster_thread_exited(cluster);
}

// A fiber that returns without having waited hands its stack to the next thread, so that
// elementwise kernels cost no switches.
void fiber_main() {
  for (;;) {
    runtime_depth = 0;
    self()->stack_base = static_cast<unsigned char*>(__builtin_frame_address(0));
    machine.launch.run(machine.launch.call.get());
    runtime_depth = 1;
    finish_thread();
    Fiber* done = self();
    Fiber* next = next_fiber();
    if (!next) {
      runtime_depth = 0;
      current_thread = nullptr;
      void* unused;
      switch_context(&unused, scheduler.main_context);
    }
    if (next->state == FiberState::kNew) {
      next->stack = done->stack;
      done->stack = nullptr;
      next->state = FiberState::kRunning;
      current_thread = next;
      continue;
    }
    scheduler.free_stacks.push_back(done->stack);
    done->stack = nullptr;
    ++machine.stats.switches;
    next->state = FiberState::kRunning;
    current_thread = next;
    void* unused;
    switch_context(&unused, next->stack_pointer);
  }
}

}  // namespace

std::uint32_t random_bits() {
  std::uint64_t& x = machine.random_state;
  x ^= x << 13;
  x ^= x >> 7;
  x ^= x << 17;
  return static_cast<std::uint32_t>(x >> 16);
}

void run_fibers() {
  Scheduler& s = scheduler;
  std::size_t capacity = 64;
  while (capacity < machine.fibers.size() + 1) capacity *= 2;
  s.ring.assign(capacity, nullptr);
  s.head = s.ready = 0;
  s.mask = capacity - 1;
  s.idle_polls = 0;
  machine.done = 0;
  if (machine.settings.schedule == Schedule::kReverse) {
    for (std::size_t i = machine.fibers.size(); i-- > 0;) push(&machine.fibers[i]);
  } else {
    for (Fiber& f : machine.fibers) push(&f);
  }
  Fiber* first = pop();
  prepare(first);
  first->state = FiberState::kRunning;
  const int depth = runtime_depth;
  current_thread = first;
  switch_context(&s.main_context, first->stack_pointer);
  current_thread = nullptr;
  runtime_depth = depth;
  // An abandoned launch leaves fibers in the middle of their work: only their stacks are reused.
  for (Fiber& f : machine.fibers)
    if (f.stack) {
      s.free_stacks.push_back(f.stack);
      f.stack = nullptr;
    }
}

void abandon_launch() {
  machine.aborted = true;
  current_thread = nullptr;
  void* unused;
  switch_context(&unused, scheduler.main_context);
  __builtin_unreachable();
}

void suspend(const char* waits_for, Site site) {
  Fiber* me = self();
  me->state = FiberState::kWaiting;
  me->waits_for = waits_for;
  me->wait_site = site;
  random_async_progress(me);
  Fiber* next = next_fiber();
  if (next == me) {
    me->state = FiberState::kRunning;
    current_thread = me;
    return;
  }
  resume(me, next);
}

void wake(Fiber* f) {
  progress();
  if (f->state == FiberState::kWaiting) push(f);
}

void progress() { scheduler.idle_polls = 0; }

// A poll that finds nothing new must end some day: after every fiber has had several turns without
// any progress, asynchronous copies land, and then it is a deadlock.
void pause_thread(Site site) {
  InRuntime guard;
  Fiber* me = self();
  if (!me) return;
  if (++scheduler.idle_polls > 64 + 16 * static_cast<std::int64_t>(machine.fibers.size())) {
    if (!advance_async(false)) {
      me->state = FiberState::kWaiting;
      me->waits_for = "a spin loop";
      me->wait_site = site;
      report_deadlock();
    }
    scheduler.idle_polls = 0;
  }
  if (!scheduler.ready) return;
  me->state = FiberState::kReady;
  push(me);
  Fiber* next = pop();
  if (next == me) {
    me->state = FiberState::kRunning;
    return;
  }
  resume(me, next);
}

long long clock_ticks() {
  static long long ticks;
  return ticks += 10;
}

}  // namespace seqloom::emulation
