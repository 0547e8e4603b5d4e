// SPDX-License-Identifier: Apache-2.0
// 64 fibers take turns and keep their registers: run natively, with ucontext, and under qemu for
// other processors. Exits with the number of fibers whose values changed.
#include <cstdio>
#include <vector>

#include "emulation/fiber_switch.h"

namespace {

using seqloom::emulation::make_context;
using seqloom::emulation::switch_context;

constexpr int kFibers = 64, kRounds = 1000;
void* main_context;
void* contexts[kFibers];
double results[kFibers];
int turn = 0, finished = 0;

template <class F>
double work(int me, F between) {
  double a = me + 0.5, b = 1.0;
  long c = me * 3;
  float f = static_cast<float>(me);
  for (int i = 0; i < kRounds; ++i) {
    b = b * 1.0001 + a;
    c += i;
    f += 0.25f;
    between();
  }
  return b + static_cast<double>(c) + f;
}

void pass_on(int me) {
  turn = (me + 1) % kFibers;
  switch_context(&contexts[me], contexts[turn]);
}

void body() {
  const int me = turn;
  results[me] = work(me, [me] { pass_on(me); });
  if (++finished == kFibers) {
    void* unused;
    switch_context(&unused, main_context);
  }
  for (;;) pass_on(me);
}

}  // namespace

int main() {
  std::vector<std::vector<unsigned char>> stacks(kFibers, std::vector<unsigned char>(128 << 10));
  for (int i = 0; i < kFibers; ++i)
    contexts[i] = make_context(stacks[static_cast<std::size_t>(i)].data(), 128 << 10,
                               static_cast<unsigned>(i), body);
  switch_context(&main_context, contexts[0]);
  int wrong = 0;
  for (int i = 0; i < kFibers; ++i) wrong += results[i] != work(i, [] {});
  std::printf("%s: %d wrong\n", seqloom::emulation::context_switch_name(), wrong);
  return wrong;
}
