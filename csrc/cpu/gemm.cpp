// SPDX-License-Identifier: Apache-2.0
// gemm.h: dispatch to the instruction set. A packed B decides for the level that packed it.
#include "cpu/gemm.h"

#include "cpu/gemm_internal.h"

namespace seqloom::cpu {
namespace {

using Execute = void (*)(const GemmArgs&);

// Panels are read by the level that laid them out.
Execute execute_of(Isa isa) {
  switch (isa) {
#if defined(SEQLOOM_HAVE_AVX2)
    case Isa::kAvx2:
      return isa_avx2::gemm_execute;
#endif
#if defined(SEQLOOM_HAVE_AVX512)
    case Isa::kAvx512:
      return isa_avx512::gemm_execute;
#endif
#if defined(SEQLOOM_HAVE_AVX512BF16)
    case Isa::kAvx512Bf16:
      return isa_avx512bf16::gemm_execute;
#endif
#if defined(SEQLOOM_HAVE_NEON)
    case Isa::kNeon:
      return isa_neon::gemm_execute;
#endif
    default:
      return isa_baseline::gemm_execute;
  }
}

}  // namespace

void gemm(const GemmArgs& args) {
  const Isa isa = args.packed_b ? static_cast<Isa>(args.packed_b->isa) : active_isa();
  execute_of(isa)(args);
}

size_t packed_bytes(PackFormat format, int64_t k, int64_t n, int64_t group) {
  size_t bytes = 0;
  SEQLOOM_CPU_BF16(gemm_packed_bytes)(PackedBytesArgs{format, k, n, group, &bytes});
  return bytes;
}

void pack_b(const PackArgs& args) {
  args.out->isa = static_cast<int>(active_isa());
  SEQLOOM_CPU_BF16(gemm_pack)(args);
}

}  // namespace seqloom::cpu
