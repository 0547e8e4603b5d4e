// SPDX-License-Identifier: Apache-2.0
// The arithmetic peak of one core: endless multiply-adds on registers, no memory.
//
// Benchmarks divide by it. Every chain depends on itself only, and there are enough chains to cover
// the latency of two units, so the loop runs at the rate that the instruction set allows.
#pragma once

#include <cstdint>

#include "cpu/isa.h"

namespace seqloom {
namespace cpu {

enum class PeakKind : int { kF32 = 0, kBf16 = 1, kInt8 = 2 };

struct PeakArgs {
  PeakKind kind;
  int64_t iterations;
  double* operations;  // out: multiplications and additions that were done; 0 where the level has
                       // no instruction for the kind
};

}  // namespace cpu

SEQLOOM_DECLARE_CPU_BF16(multiply_add_peak, cpu::PeakArgs)

}  // namespace seqloom
