// SPDX-License-Identifier: Apache-2.0
// The per-ISA entry points behind gemm.h.
#pragma once

#include "cpu/gemm.h"
#include "cpu/isa.h"

namespace seqloom::cpu {

struct PackedBytesArgs {
  PackFormat format;
  int64_t k, n, group;
  size_t* bytes;
};

}  // namespace seqloom::cpu

namespace seqloom {
SEQLOOM_DECLARE_CPU_BF16(gemm_execute, cpu::GemmArgs)
SEQLOOM_DECLARE_CPU_BF16(gemm_pack, cpu::PackArgs)
SEQLOOM_DECLARE_CPU_BF16(gemm_packed_bytes, cpu::PackedBytesArgs)
}  // namespace seqloom
