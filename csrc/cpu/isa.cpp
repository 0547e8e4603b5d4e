// SPDX-License-Identifier: Apache-2.0
// CPU detection: cpuid with the operating system's saved state, cache sizes, the active level.
#include "cpu/isa.h"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#if defined(__x86_64__) || defined(_M_X64)
#define SEQLOOM_X86 1
#if defined(_MSC_VER)
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#endif
#if defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace seqloom::cpu {
namespace {

#if defined(SEQLOOM_X86)
struct Registers {
  uint32_t eax, ebx, ecx, edx;
};

Registers cpuid(uint32_t leaf, uint32_t subleaf) {
  Registers r{};
#if defined(_MSC_VER)
  int out[4];
  __cpuidex(out, static_cast<int>(leaf), static_cast<int>(subleaf));
  r = {uint32_t(out[0]), uint32_t(out[1]), uint32_t(out[2]), uint32_t(out[3])};
#else
  __cpuid_count(leaf, subleaf, r.eax, r.ebx, r.ecx, r.edx);
#endif
  return r;
}

// XCR0: which register states the operating system saves.
uint64_t saved_state() {
#if defined(_MSC_VER)
  return _xgetbv(0);
#else
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<uint64_t>(high) << 32) | low;
#endif
}

CpuFeatures detect_features() {
  CpuFeatures f;
  const uint32_t max_leaf = cpuid(0, 0).eax;
  if (max_leaf < 7) return f;
  const auto bit = [](uint32_t value, int n) { return ((value >> n) & 1u) != 0; };
  const Registers leaf1 = cpuid(1, 0);
  if (!bit(leaf1.ecx, 27)) return f;  // OSXSAVE
  const uint64_t state = saved_state();
  const bool ymm = (state & 0x06) == 0x06;
  const bool zmm = (state & 0xe6) == 0xe6;
  const Registers leaf7 = cpuid(7, 0);
  const Registers leaf7_1 = leaf7.eax >= 1 ? cpuid(7, 1) : Registers{};
  f.f16c = ymm && bit(leaf1.ecx, 29);
  f.avx2 =
      f.f16c && bit(leaf1.ecx, 12) && bit(leaf1.ecx, 28) && bit(leaf7.ebx, 5) && bit(leaf7.ebx, 8);
  f.avx_vnni = f.avx2 && bit(leaf7_1.eax, 4);
  f.avx512 = f.avx2 && zmm && bit(leaf7.ebx, 16) && bit(leaf7.ebx, 17) && bit(leaf7.ebx, 28) &&
             bit(leaf7.ebx, 30) && bit(leaf7.ebx, 31);
  f.avx512_vnni = f.avx512 && bit(leaf7.ecx, 11);
  f.avx512_bf16 = f.avx512 && bit(leaf7_1.eax, 5);
  return f;
}

// Deterministic cache parameters: leaf 4 on Intel, 0x8000001d on AMD, in the same format.
void caches_from_cpuid(CacheSizes* sizes) {
  const bool amd = cpuid(0x80000000u, 0).eax >= 0x8000001du &&
                   (cpuid(0x80000001u, 0).ecx >> 22 & 1u) != 0;  // topology extensions
  const uint32_t leaf = amd ? 0x8000001du : 4u;
  if (!amd && cpuid(0, 0).eax < 4) return;
  for (uint32_t i = 0; i < 8; ++i) {
    const Registers r = cpuid(leaf, i);
    const uint32_t type = r.eax & 31u;
    if (type == 0) break;
    if (type == 2) continue;  // instructions
    const size_t bytes = size_t((r.ebx >> 22) + 1) * ((r.ebx >> 12 & 0x3ffu) + 1) *
                         ((r.ebx & 0xfffu) + 1) * (size_t(r.ecx) + 1);
    const uint32_t level = r.eax >> 5 & 7u;
    if (level == 1) sizes->l1d = bytes;
    if (level == 2) sizes->l2 = bytes;
    if (level == 3) sizes->l3 = bytes;
  }
}
#else
CpuFeatures detect_features() {
  CpuFeatures f;
#if defined(__aarch64__) || defined(_M_ARM64)
  f.neon = true;
#endif
  return f;
}
#endif

#if defined(__linux__)
// One line of a sysfs file, without the newline; empty where the file is missing.
std::string read_line(const std::string& path) {
  std::string text;
  if (FILE* file = std::fopen(path.c_str(), "r")) {
    char buffer[64];
    if (std::fgets(buffer, sizeof(buffer), file) != nullptr) text = buffer;
    std::fclose(file);
  }
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

void caches_from_sysfs(CacheSizes* sizes) {
  for (int i = 0; i < 8; ++i) {
    const std::string folder = "/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(i) + "/";
    const std::string level = read_line(folder + "level");
    const std::string size = read_line(folder + "size");
    if (level.empty() || size.empty() || read_line(folder + "type") == "Instruction") continue;
    char* unit = nullptr;
    size_t bytes = std::strtoull(size.c_str(), &unit, 10);
    if (*unit == 'K') bytes <<= 10;
    if (*unit == 'M') bytes <<= 20;
    if (bytes == 0) continue;
    if (level == "1") sizes->l1d = bytes;
    if (level == "2") sizes->l2 = bytes;
    if (level == "3") sizes->l3 = bytes;
  }
}
#endif

CacheSizes detect_caches() {
  CacheSizes sizes{};
#if defined(SEQLOOM_X86)
  caches_from_cpuid(&sizes);
#endif
#if defined(__linux__)
  caches_from_sysfs(&sizes);
#elif defined(__APPLE__)
  size_t length = sizeof(size_t);
  sysctlbyname("hw.l1dcachesize", &sizes.l1d, &length, nullptr, 0);
  sysctlbyname("hw.l2cachesize", &sizes.l2, &length, nullptr, 0);
#endif
  // Plausible values for what could not be found (virtual machines hide some levels).
  if (sizes.l1d < (8u << 10)) sizes.l1d = 32u << 10;
  if (sizes.l2 < (64u << 10)) sizes.l2 = 512u << 10;
  return sizes;
}

struct Name {
  const char* text;
  Isa isa;
};

constexpr Name kNames[] = {{"baseline", Isa::kBaseline},
                           {"avx2", Isa::kAvx2},
                           {"avx512", Isa::kAvx512},
                           {"avx512bf16", Isa::kAvx512Bf16},
                           {"neon", Isa::kNeon}};

std::string unsupported_message(Isa isa) {
  return std::string("isa must be a level that this build and this CPU have (best: ") +
         isa_name(best_isa()) + "), got " + isa_name(isa);
}

struct Startup {
  int level = static_cast<int>(Isa::kBaseline);
  std::string error;
};

// The level that holds from load time on: the best one, or the one the environment asks for.
const Startup& startup() {
  static const Startup* const state = [] {
    auto* s = new Startup;
    Isa isa = best_isa();
    if (const char* name = std::getenv("SEQLOOM_ISA"); name != nullptr && *name != '\0') {
      try {
        const Isa wanted = isa_from_name(name);
        if (isa_supported(wanted)) {
          isa = wanted;
        } else {
          s->error = "SEQLOOM_ISA: " + unsupported_message(wanted);
        }
      } catch (const std::invalid_argument& problem) {
        s->error = std::string("SEQLOOM_ISA: ") + problem.what();
      }
    }
    s->level = static_cast<int>(isa);
    return s;
  }();
  return *state;
}

}  // namespace

namespace detail {
int active_isa_value = startup().level;
}

const CpuFeatures& cpu_features() {
  static const CpuFeatures features = detect_features();
  return features;
}

const CacheSizes& cache_sizes() {
  static const CacheSizes sizes = detect_caches();
  return sizes;
}

bool isa_supported(Isa isa) {
  switch (isa) {
    case Isa::kBaseline:
      return true;
    case Isa::kAvx2:
#if defined(SEQLOOM_HAVE_AVX2)
      return cpu_features().avx2;
#else
      return false;
#endif
    case Isa::kAvx512:
#if defined(SEQLOOM_HAVE_AVX512)
      return cpu_features().avx512;
#else
      return false;
#endif
    case Isa::kAvx512Bf16:
#if defined(SEQLOOM_HAVE_AVX512) && defined(SEQLOOM_HAVE_AVX512BF16)
      return cpu_features().avx512_bf16 && cpu_features().avx512_vnni;
#else
      return false;
#endif
    case Isa::kNeon:
#if defined(SEQLOOM_HAVE_NEON)
      return cpu_features().neon;
#else
      return false;
#endif
  }
  return false;
}

Isa best_isa() {
  for (Isa isa : {Isa::kNeon, Isa::kAvx512Bf16, Isa::kAvx512, Isa::kAvx2}) {
    if (isa_supported(isa)) return isa;
  }
  return Isa::kBaseline;
}

const char* isa_name(Isa isa) {
  for (const Name& name : kNames) {
    if (name.isa == isa) return name.text;
  }
  return "unknown";
}

Isa isa_from_name(const char* text) {
  for (const Name& name : kNames) {
    if (std::strcmp(name.text, text) == 0) return name.isa;
  }
  throw std::invalid_argument(
      std::string("isa must be one of baseline, avx2, avx512, avx512bf16, neon, got '") + text +
      "'");
}

void set_isa(Isa isa) {
  if (!isa_supported(isa)) throw std::invalid_argument(unsupported_message(isa));
  __atomic_store_n(&detail::active_isa_value, static_cast<int>(isa), __ATOMIC_RELAXED);
}

const char* isa_environment_error() {
  return startup().error.empty() ? nullptr : startup().error.c_str();
}

void check_isa_environment() {
  if (const char* error = isa_environment_error()) throw std::invalid_argument(error);
}

}  // namespace seqloom::cpu
