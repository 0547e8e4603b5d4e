// SPDX-License-Identifier: Apache-2.0
// Run-time choice of the instruction set.
//
// A kernel file `<family>_cpu.cpp` is compiled once per level, each time into the namespace that
// the build passes as SEQLOOM_ISA_NS; nothing that it defines is shared between levels.
//
//   level         namespace        needs
//   kBaseline     isa_baseline     nothing beyond the platform (SSE2 on x86-64)
//   kAvx2         isa_avx2         AVX2, FMA, F16C, BMI2
//   kAvx512       isa_avx512       kAvx2 and AVX-512 F, BW, VL, DQ, CD
//   kAvx512Bf16   isa_avx512bf16   kAvx512 and AVX-512 BF16, VNNI
//   kNeon         isa_neon         64-bit ARM
//
// Only files that use dot-product instructions (the matrix product) are compiled for kAvx512Bf16
// and are called through SEQLOOM_CPU_BF16; at that level SEQLOOM_CPU gives the kAvx512 function.
// The build defines SEQLOOM_HAVE_{AVX2,AVX512,AVX512BF16,NEON} for the levels that it compiled.
//
//   namespace seqloom { SEQLOOM_DECLARE_CPU(softmax_forward, ops::SoftmaxArgs) }   // softmax.h
//   SEQLOOM_CPU(softmax_forward)(args);                                            // softmax.cpp
//   namespace seqloom::SEQLOOM_ISA_NS {                                            //
//   softmax_cpu.cpp void softmax_forward(const ops::SoftmaxArgs& args) { ... }
//   }
//
// The environment variable SEQLOOM_ISA (baseline, avx2, avx512, avx512bf16, neon) lowers the level
// at load time; set_isa() does so later, for tests.
#pragma once

#include <cstddef>

#include "core/macros.h"

namespace seqloom::cpu {

enum class Isa : int { kBaseline = 0, kAvx2 = 1, kAvx512 = 2, kAvx512Bf16 = 3, kNeon = 4 };

struct CpuFeatures {
  bool avx2 = false;         // AVX2, FMA, F16C and BMI2, enabled by the operating system
  bool avx512 = false;       // F, BW, VL, DQ and CD, enabled by the operating system
  bool avx512_bf16 = false;  // vdpbf16ps, vcvtneps2bf16
  bool avx512_vnni = false;  // vpdpbusd on 512 bits
  bool avx_vnni = false;     // vpdpbusd, VEX form, on 256 bits
  bool f16c = false;
  bool neon = false;
};

struct CacheSizes {
  size_t l1d;  // bytes, of one core
  size_t l2;   // bytes, of one core
  size_t l3;   // bytes, of the cores that share it; 0 where there is none
};

const CpuFeatures& cpu_features();
const CacheSizes& cache_sizes();

SEQLOOM_ALWAYS_INLINE bool has_avx512_bf16() { return cpu_features().avx512_bf16; }
SEQLOOM_ALWAYS_INLINE bool has_avx512_vnni() { return cpu_features().avx512_vnni; }
SEQLOOM_ALWAYS_INLINE bool has_avx_vnni() { return cpu_features().avx_vnni; }
SEQLOOM_ALWAYS_INLINE bool has_f16c() { return cpu_features().f16c; }

// Whether this build has the level and this machine can run it.
bool isa_supported(Isa isa);

// The highest supported level.
Isa best_isa();

const char* isa_name(Isa isa);

// The level named `name`; std::invalid_argument for an unknown name.
Isa isa_from_name(const char* name);

// Selects a level; std::invalid_argument where it is not supported. Not while kernels run.
void set_isa(Isa isa);

// What was wrong with SEQLOOM_ISA at load time, or nullptr. A bad value leaves best_isa() active.
const char* isa_environment_error();

// Throws isa_environment_error() as std::invalid_argument: for the module's initialisation.
void check_isa_environment();

namespace detail {

extern int active_isa_value;

// Picks by the active level; levels that the build lacks are not parameters.
template <class F>
SEQLOOM_ALWAYS_INLINE F select_isa(F baseline
#if defined(SEQLOOM_HAVE_AVX2)
                                   ,
                                   F avx2
#endif
#if defined(SEQLOOM_HAVE_AVX512)
                                   ,
                                   F avx512, F avx512bf16
#endif
#if defined(SEQLOOM_HAVE_NEON)
                                   ,
                                   F neon
#endif
) {
  switch (__atomic_load_n(&active_isa_value, __ATOMIC_RELAXED)) {
#if defined(SEQLOOM_HAVE_AVX2)
    case static_cast<int>(Isa::kAvx2):
      return avx2;
#endif
#if defined(SEQLOOM_HAVE_AVX512)
    case static_cast<int>(Isa::kAvx512):
      return avx512;
    case static_cast<int>(Isa::kAvx512Bf16):
      return avx512bf16;
#endif
#if defined(SEQLOOM_HAVE_NEON)
    case static_cast<int>(Isa::kNeon):
      return neon;
#endif
    default:
      return baseline;
  }
}

}  // namespace detail

SEQLOOM_ALWAYS_INLINE Isa active_isa() {
  return static_cast<Isa>(__atomic_load_n(&detail::active_isa_value, __ATOMIC_RELAXED));
}

}  // namespace seqloom::cpu

// clang-format off
#if defined(SEQLOOM_HAVE_AVX2)
#define SEQLOOM_DETAIL_DECLARE_AVX2(name, ...) namespace isa_avx2 { void name(const __VA_ARGS__&); }
#define SEQLOOM_DETAIL_SELECT_AVX2(name) , &::seqloom::isa_avx2::name
#else
#define SEQLOOM_DETAIL_DECLARE_AVX2(name, ...)
#define SEQLOOM_DETAIL_SELECT_AVX2(name)
#endif

#if defined(SEQLOOM_HAVE_AVX512)
#define SEQLOOM_DETAIL_DECLARE_AVX512(name, ...) \
  namespace isa_avx512 { void name(const __VA_ARGS__&); }
#define SEQLOOM_DETAIL_SELECT_AVX512(name) \
  , &::seqloom::isa_avx512::name, &::seqloom::isa_avx512::name
#else
#define SEQLOOM_DETAIL_DECLARE_AVX512(name, ...)
#define SEQLOOM_DETAIL_SELECT_AVX512(name)
#endif

#if defined(SEQLOOM_HAVE_AVX512BF16)
#define SEQLOOM_DETAIL_DECLARE_AVX512BF16(name, ...) \
  namespace isa_avx512bf16 { void name(const __VA_ARGS__&); }
#define SEQLOOM_DETAIL_SELECT_AVX512_BF16(name) \
  , &::seqloom::isa_avx512::name, &::seqloom::isa_avx512bf16::name
#else
#define SEQLOOM_DETAIL_DECLARE_AVX512BF16(name, ...)
#define SEQLOOM_DETAIL_SELECT_AVX512_BF16(name) SEQLOOM_DETAIL_SELECT_AVX512(name)
#endif

#if defined(SEQLOOM_HAVE_NEON)
#define SEQLOOM_DETAIL_DECLARE_NEON(name, ...) namespace isa_neon { void name(const __VA_ARGS__&); }
#define SEQLOOM_DETAIL_SELECT_NEON(name) , &::seqloom::isa_neon::name
#else
#define SEQLOOM_DETAIL_DECLARE_NEON(name, ...)
#define SEQLOOM_DETAIL_SELECT_NEON(name)
#endif

// Declares `void name(const Args&)` in the namespace of every level; use inside namespace seqloom.
#define SEQLOOM_DECLARE_CPU(name, ...)                            \
  namespace isa_baseline { void name(const __VA_ARGS__&); }       \
  SEQLOOM_DETAIL_DECLARE_AVX2(name, __VA_ARGS__)                  \
  SEQLOOM_DETAIL_DECLARE_AVX512(name, __VA_ARGS__)                \
  SEQLOOM_DETAIL_DECLARE_NEON(name, __VA_ARGS__)
// clang-format on

// The same for files that are compiled for kAvx512Bf16 as well.
#define SEQLOOM_DECLARE_CPU_BF16(name, ...) \
  SEQLOOM_DECLARE_CPU(name, __VA_ARGS__)    \
  SEQLOOM_DETAIL_DECLARE_AVX512BF16(name, __VA_ARGS__)

// The function pointer for the active level.
#define SEQLOOM_CPU(name)                                                        \
  (::seqloom::cpu::detail::select_isa<decltype(&::seqloom::isa_baseline::name)>( \
      &::seqloom::isa_baseline::name SEQLOOM_DETAIL_SELECT_AVX2(name)            \
          SEQLOOM_DETAIL_SELECT_AVX512(name) SEQLOOM_DETAIL_SELECT_NEON(name)))

#define SEQLOOM_CPU_BF16(name)                                                   \
  (::seqloom::cpu::detail::select_isa<decltype(&::seqloom::isa_baseline::name)>( \
      &::seqloom::isa_baseline::name SEQLOOM_DETAIL_SELECT_AVX2(name)            \
          SEQLOOM_DETAIL_SELECT_AVX512_BF16(name) SEQLOOM_DETAIL_SELECT_NEON(name)))
