// SPDX-License-Identifier: Apache-2.0
// The C interface of the test library of the CPU toolbox, which cpu_harness.py loads with ctypes.
#include "cpu_test.h"

#include <atomic>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <thread>
#include <vector>

#if !defined(_WIN32)
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#endif

#include "core/allocator.h"
#include "core/half.h"
#include "core/philox.h"
#include "cpu/parallel.h"
#include "cpu/scratch.h"
#include "cpu/topology.h"

#if defined(_WIN32)
#define API extern "C" __declspec(dllexport)
#else
#define API extern "C" __attribute__((visibility("default")))
#endif

using namespace seqloom;  // NOLINT: a test

namespace {

// The exact value in double; NaN where the function has none.
double reference(int function, double x, double parameter) {
  const double pi = 3.14159265358979323846;
  const double k = 1.5957691216057307117597842397375;
  switch (function) {
    case cpu_test::k_exp:
      return std::exp(x);
    case cpu_test::k_expm1:
      return std::expm1(x);
    case cpu_test::k_log:
      return std::log(x);
    case cpu_test::k_log1p:
      return std::log1p(x);
    case cpu_test::k_tanh:
      return std::tanh(x);
    case cpu_test::k_sigmoid:
      return 1.0 / (1.0 + std::exp(-x));
    case cpu_test::k_softplus:
      return x > 40 ? x : std::log1p(std::exp(x));
    case cpu_test::k_erf:
      return std::erf(x);
    case cpu_test::k_sin:
      return std::sin(x);
    case cpu_test::k_cos:
      return std::cos(x);
    case cpu_test::k_silu:
      return x == -INFINITY ? std::nan("") : x / (1.0 + std::exp(-x));
    case cpu_test::k_silu_grad: {
      if (std::isinf(x)) return std::nan("");
      const double s = 1.0 / (1.0 + std::exp(-x));
      return s * (1.0 + x / (1.0 + std::exp(x)));
    }
    case cpu_test::k_gelu_tanh: {
      if (x == -INFINITY) return std::nan("");
      return x / (1.0 + std::exp(-k * (x + 0.044715 * x * x * x)));
    }
    case cpu_test::k_gelu_tanh_grad: {
      if (std::fabs(x) > 25) return x > 0 ? 1.0 : 0.0;
      const double u = k * (x + 0.044715 * x * x * x);
      const double s = 1.0 / (1.0 + std::exp(-u)), t = 1.0 / (1.0 + std::exp(u));
      return s + x * k * (1 + 3 * 0.044715 * x * x) * s * t;
    }
    case cpu_test::k_gelu_erf:
      if (x == -INFINITY) return 0.0;
      return x * 0.5 * std::erfc(-x / std::sqrt(2.0));
    case cpu_test::k_gelu_erf_grad:
      if (std::fabs(x) > 25) return x > 0 ? 1.0 : 0.0;
      return 0.5 * std::erfc(-x / std::sqrt(2.0)) + x * std::exp(-0.5 * x * x) / std::sqrt(2 * pi);
    case cpu_test::k_sqrt:
      return std::sqrt(x);
    case cpu_test::k_rsqrt:
      return 1.0 / std::sqrt(x);
    case cpu_test::k_round:
      return std::nearbyint(x);
    case cpu_test::k_floor:
      return std::floor(x);
    case cpu_test::k_ceil:
      return std::ceil(x);
    case cpu_test::k_trunc:
      return std::trunc(x);
    case cpu_test::k_abs:
      return std::fabs(x);
    case cpu_test::k_pow:
      return std::pow(x, parameter);
    default:
      return x;
  }
}

// |got - exact| in units of the last place of float at `exact`.
double ulp_error(float got, double exact) {
  const float nearest = static_cast<float>(exact);
  if (std::isnan(exact)) return std::isnan(got) ? 0.0 : INFINITY;
  if (std::isnan(got)) return INFINITY;
  if (std::isinf(nearest) || std::isinf(got)) {
    if (got == nearest) return 0.0;
    // One side of the overflow threshold each: compare as if the range went on.
    const double limit = std::ldexp(1.0, 128);
    const double a = std::isinf(got) ? std::copysign(limit, got) : got;
    const double b = std::fabs(exact) > limit ? std::copysign(limit, exact) : exact;
    return std::fabs(a - b) / std::ldexp(1.0, 104);
  }
  int exponent;
  std::frexp(exact, &exponent);
  const double unit = std::ldexp(1.0, std::max(exponent - 24, -149));
  return std::fabs(got - exact) / unit;
}

}  // namespace

API int cpu_test_set_isa(const char* name) {
  try {
    cpu::set_isa(cpu::isa_from_name(name));
    return 0;
  } catch (const std::invalid_argument&) {
    return 1;
  }
}
API const char* cpu_test_active_isa() { return cpu::isa_name(cpu::active_isa()); }
API const char* cpu_test_isa_error() { return cpu::isa_environment_error(); }
API int cpu_test_threads_error() {
  try {
    cpu::check_threads_environment();
    return 0;
  } catch (const std::invalid_argument&) {
    return 1;
  }
}
API void cpu_test_caches(int64_t* sizes) {
  sizes[0] = static_cast<int64_t>(cpu::cache_sizes().l1d);
  sizes[1] = static_cast<int64_t>(cpu::cache_sizes().l2);
  sizes[2] = static_cast<int64_t>(cpu::cache_sizes().l3);
}
API int cpu_test_lane_count() {
  int lanes = 0;
  SEQLOOM_CPU_BF16(cpu_test_lanes)({&lanes});
  return lanes;
}
API void cpu_test_map_run(int function, const float* in, float* out, int64_t n, float parameter) {
  SEQLOOM_CPU_BF16(cpu_test_map)({function, in, out, n, parameter});
}
API void cpu_test_binary_run(int function, const float* x, const float* y, const float* z,
                             float* out, int64_t n) {
  const cpu_test::BinaryArgs args{function, x, y, z, out, n};
  if (function >= cpu_test::k_reduce_add) {
    SEQLOOM_CPU_BF16(cpu_test_lanewise)(args);
  } else {
    SEQLOOM_CPU_BF16(cpu_test_binary)(args);
  }
}
API void cpu_test_convert_run(int kind, const void* in, void* out, int64_t n, int partial_only) {
  SEQLOOM_CPU_BF16(cpu_test_convert)({kind, in, out, n, partial_only != 0});
}
API void cpu_test_random_run(int normal, uint64_t seed, uint64_t offset, float* out, int64_t n) {
  SEQLOOM_CPU_BF16(cpu_test_random)({normal != 0, seed, offset, out, n});
}
API void cpu_test_double_run(int function, const double* in, double* out, int64_t n,
                             double* reduced) {
  SEQLOOM_CPU_BF16(cpu_test_double)({function, in, out, n, reduced});
}

// The largest errors of a function over the floats with bits first, first + stride, ... < end: in
// ULP, and absolutely among those whose ULP error exceeds `forgiven`. Results below 2^-126 are left
// out when `flush` is set, provided that what came is as small. Returns the bits of the worst
// input.
API void cpu_test_sweep(int function, float parameter, uint64_t first, uint64_t end,
                        uint64_t stride, double forgiven, int flush, double* worst_ulp,
                        double* worst_absolute, uint32_t* worst_bits) {
  constexpr int kBlock = 4096;
  std::vector<float> in(kBlock), out(kBlock);
  *worst_ulp = *worst_absolute = 0;
  *worst_bits = 0;
  const double tiny = std::ldexp(1.0, -126);
  for (uint64_t start = first; start < end;) {
    int n = 0;
    for (; n < kBlock && start < end; ++n, start += stride) {
      const uint32_t bits = static_cast<uint32_t>(start);
      std::memcpy(&in[n], &bits, 4);
    }
    cpu_test_map_run(function, in.data(), out.data(), n, parameter);
    for (int i = 0; i < n; ++i) {
      const double exact = reference(function, in[i], parameter);
      if (flush && std::fabs(exact) < tiny && std::fabs(out[i]) <= tiny) continue;
      const double ulp = ulp_error(out[i], exact);
      if (ulp > forgiven) {
        *worst_absolute = std::fmax(*worst_absolute, std::fabs(out[i] - exact));
      }
      if (ulp > *worst_ulp) {
        *worst_ulp = ulp;
        std::memcpy(worst_bits, &in[i], 4);
      }
    }
  }
}
API double cpu_test_reference(int function, double x, double parameter) {
  return reference(function, x, parameter);
}

#if !defined(_WIN32)
// Partial loads and stores of every kind and length that end where the mapped memory ends, and
// start where it starts: a touch outside is a crash. Returns the number of wrong values.
API int cpu_test_guard_pages() {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const int lanes = cpu_test_lane_count();
  auto* map = static_cast<unsigned char*>(
      mmap(nullptr, 3 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  if (map == MAP_FAILED) return -1;
  mprotect(map, page, PROT_NONE);
  mprotect(map + 2 * page, page, PROT_NONE);
  unsigned char* first = map + page;
  unsigned char* last = map + 2 * page;
  const size_t sizes[] = {4, 2, 2, 1, 1, 2, 2, 1, 1};  // of Conversion's storage
  std::vector<float> ones(static_cast<size_t>(lanes), 1.0f), back(static_cast<size_t>(lanes));
  int wrong = 0;
  for (int n = 0; n <= lanes; ++n) {
    for (int kind = cpu_test::k_from_float32; kind <= cpu_test::k_to_uint8; ++kind) {
      const size_t bytes = sizes[kind] * static_cast<size_t>(n);
      const bool narrowing = kind >= cpu_test::k_to_bf16;
      for (unsigned char* edge : {first, last - bytes}) {
        std::memset(first, 0, page);
        if (narrowing) {
          cpu_test_convert_run(kind, ones.data(), edge, n, 1);
          // Nothing beside the n elements was written, and each was.
          for (size_t i = 0; i < page; ++i) {
            const bool inside = first + i >= edge && first + i < edge + bytes;
            wrong += !inside && first[i] != 0;
          }
          for (int i = 0; i < n; ++i) {
            const unsigned char* e = edge + sizes[kind] * static_cast<size_t>(i);
            wrong += e[sizes[kind] - 1] == 0;
          }
        } else {
          cpu_test_convert_run(kind, edge, back.data(), n, 1);
          for (int i = 0; i < n; ++i) wrong += back[static_cast<size_t>(i)] != 0.0f;
        }
      }
    }
    // float32 stores, int32 loads and stores.
    auto* floats = reinterpret_cast<float*>(last - 4 * static_cast<size_t>(n));
    cpu_test_convert_run(cpu_test::k_from_float32, ones.data(), floats, n, 1);
    for (int i = 0; i < n; ++i) wrong += floats[i] != 1.0f;
    cpu_test_binary_run(cpu_test::k_load_int, floats, ones.data(), ones.data(), floats, n);
    for (int i = 0; i < n; ++i) wrong += floats[i] != 1.0f;
    cpu_test_binary_run(cpu_test::k_load_or, floats, ones.data(), ones.data(), back.data(), n);
    cpu_test_binary_run(cpu_test::k_load_mask, reinterpret_cast<float*>(last - n), ones.data(),
                        ones.data(), back.data(), n);
  }
  munmap(map, 3 * page);
  return wrong;
}
#endif

// ---- half.h ----
API void cpu_test_scalar_convert(int kind, const void* in, void* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const float* f = static_cast<const float*>(in);
    switch (kind) {
      case cpu_test::k_from_bf16:
        static_cast<float*>(out)[i] = to_float(static_cast<const bf16*>(in)[i]);
        break;
      case cpu_test::k_from_f16:
        static_cast<float*>(out)[i] = to_float(static_cast<const f16*>(in)[i]);
        break;
      case cpu_test::k_to_bf16:
        static_cast<bf16*>(out)[i] = from_float<bf16>(f[i]);
        break;
      case cpu_test::k_to_f16:
        static_cast<f16*>(out)[i] = from_float<f16>(f[i]);
        break;
    }
  }
}

// ---- philox.h ----
API void cpu_test_philox_block(uint64_t seed, uint64_t block, uint64_t substream, uint32_t* out) {
  const PhiloxBlock b = philox_block(seed, block, substream);
  std::memcpy(out, b.word, sizeof(b.word));
}
API void cpu_test_philox_scalar(int normal, uint64_t seed, uint64_t offset, float* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    out[i] = normal ? philox_normal(seed, offset + i) : philox_uniform(seed, offset + i);
  }
}

// ---- parallel.h ----
API int cpu_test_num_threads() { return cpu::num_threads(); }
API int cpu_test_set_num_threads(int n) {
  try {
    cpu::set_num_threads(n);
    return 0;
  } catch (const std::invalid_argument&) {
    return 1;
  }
}
API int64_t cpu_test_chunk_size(int64_t n, int64_t grain) { return cpu::chunk_size(n, grain); }

// Counts how often each index was visited, marks where chunks begin, and records the threads' ids.
API int64_t cpu_test_parallel_for(int64_t n, int64_t grain, int32_t* visits, int8_t* begins,
                                  int64_t spin) {
  std::atomic<int64_t> chunks{0};
  cpu::parallel_for(n, grain, [&](int64_t begin, int64_t end) {
    begins[begin] = 1;
    volatile int64_t busy = 0;
    for (int64_t i = 0; i < spin; ++i) busy = busy + 1;
    for (int64_t i = begin; i < end; ++i) ++visits[i];
    chunks.fetch_add(1);
  });
  return chunks.load();
}
// A sum of partial sums per chunk, which depends on the boundaries.
API float cpu_test_parallel_sum(const float* x, int64_t n, int64_t grain) {
  std::vector<float> partial(static_cast<size_t>(cpu::chunk_count(n, grain)));
  const int64_t size = cpu::chunk_size(n, grain);
  cpu::parallel_for(n, grain, [&](int64_t begin, int64_t end) {
    float sum = 0;
    for (int64_t i = begin; i < end; ++i) sum += x[i];
    partial[static_cast<size_t>(begin / size)] = sum;
  });
  float sum = 0;
  for (float p : partial) sum += p;
  return sum;
}
// Throws in the chunk that holds `index`; returns 1 if the exception arrived.
API int cpu_test_parallel_throw(int64_t n, int64_t grain, int64_t index) {
  try {
    cpu::parallel_for(n, grain, [&](int64_t begin, int64_t end) {
      if (index >= begin && index < end) throw std::runtime_error("chunk");
    });
  } catch (const std::runtime_error& e) {
    return std::strcmp(e.what(), "chunk") == 0 && !cpu::in_parallel_region();
  }
  return 0;
}
// Scratch memory that cannot be had, asked for in a kernel's chunk: the exception must pass through
// code that was compiled for each instruction set.
API int cpu_test_kernel_throw() {
  try {
    SEQLOOM_CPU_BF16(cpu_test_exhaust)({4000});
  } catch (const std::bad_alloc&) {
    return 1;
  }
  return 0;
}
API int64_t cpu_test_parallel_nested(int64_t n) {
  std::atomic<int64_t> total{0};
  cpu::parallel_for(n, 1, [&](int64_t begin, int64_t end) {
    cpu::parallel_for(end - begin + 9, 1, [&](int64_t b, int64_t e) { total += e - b; });
  });
  return total.load();
}
// `callers` threads run loops at the same time; returns the number of wrong sums.
API int cpu_test_parallel_callers(int callers, int rounds) {
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int c = 0; c < callers; ++c) {
    threads.emplace_back([&] {
      for (int r = 0; r < rounds; ++r) {
        std::atomic<int64_t> sum{0};
        cpu::parallel_for(1000 + r, 10, [&](int64_t b, int64_t e) { sum += (e - b); });
        if (sum.load() != 1000 + r) ++wrong;
      }
    });
  }
  for (std::thread& t : threads) t.join();
  return wrong.load();
}
// A recurrence over a team: step s of cell i adds neighbours of step s - 1. Returns the team's
// size.
API int cpu_test_team(int64_t* cells, int64_t n, int64_t steps) {
  std::vector<int64_t> other(static_cast<size_t>(n));
  int team = 0;
  cpu::parallel_team([&](int rank, int size, cpu::TeamBarrier& barrier) {
    if (rank == 0) team = size;
    for (int64_t s = 0; s < steps; ++s) {
      const int64_t* from = s % 2 ? other.data() : cells;
      int64_t* to = s % 2 ? cells : other.data();
      for (int64_t i = n * rank / size; i < n * (rank + 1) / size; ++i) {
        to[i] = (from[i] + from[(i + 1) % n] + from[(i + n - 1) % n]) % 1000003;
      }
      barrier.wait();
    }
  });
  if (steps % 2) std::memcpy(cells, other.data(), static_cast<size_t>(n) * sizeof(int64_t));
  return team;
}
API int cpu_test_team_throw(int thrower) {
  try {
    cpu::parallel_team([&](int rank, int size, cpu::TeamBarrier& barrier) {
      for (int s = 0; s < 100; ++s) {
        if (s == 50 && rank == thrower % size) throw std::runtime_error("member");
        barrier.wait();
      }
    });
  } catch (const std::runtime_error& e) {
    return std::strcmp(e.what(), "member") == 0;
  }
  return 0;
}
#if !defined(_WIN32)
// Forks with the pool awake; the child runs loops of its own and exits with 0 if they are right.
API int cpu_test_fork(int64_t n) {
  std::vector<int32_t> visits(static_cast<size_t>(n));
  std::vector<int8_t> begins(static_cast<size_t>(n));
  cpu_test_parallel_for(n, 1, visits.data(), begins.data(), 0);
  const pid_t child = fork();
  if (child == 0) {
    int wrong = 0;
    for (int r = 0; r < 3; ++r) {
      std::fill(visits.begin(), visits.end(), 0);
      cpu_test_parallel_for(n, 1, visits.data(), begins.data(), 0);
      for (int32_t v : visits) wrong += v != 1;
      void* block = cpu_allocate(3 << 20);
      wrong += block == nullptr;
      cpu_free(block, 3 << 20);
    }
    _exit(wrong == 0 ? 0 : 1);
  }
  int status = -1;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}
#endif
// Whether workers compute in the caller's rounding mode: 1/3 in every chunk, bit for bit.
API int cpu_test_rounding_mode([[maybe_unused]] int mode) {
#if defined(__x86_64__)
  const unsigned before = __builtin_ia32_stmxcsr();
  __builtin_ia32_ldmxcsr((before & ~0x6000u) | (static_cast<unsigned>(mode) << 13));
#endif
  std::vector<float> thirds(4000);
  volatile float one = 1.0f, three = 3.0f;
  cpu::parallel_for(4000, 1, [&](int64_t begin, int64_t end) {
    volatile int busy = 0;
    for (int i = 0; i < 2000; ++i) busy = busy + 1;
    for (int64_t i = begin; i < end; ++i) thirds[static_cast<size_t>(i)] = one / three;
  });
  const float own = one / three;
  int wrong = 0;
  for (float t : thirds) wrong += t != own;
#if defined(__x86_64__)
  __builtin_ia32_ldmxcsr(before);
#endif
  return wrong;
}

// ---- allocator.h, scratch.h ----
API void* cpu_test_allocate(uint64_t bytes) { return cpu_allocate(bytes); }
API void cpu_test_free(void* p, uint64_t bytes) { cpu_free(p, bytes); }
API void cpu_test_empty_cache() { cpu_empty_cache(); }
API void cpu_test_set_cache_limit(uint64_t bytes) { cpu_set_cache_limit(bytes); }
API void cpu_test_memory_stats(uint64_t* out) {
  const CpuMemoryStats s = cpu_memory_stats();
  const uint64_t values[] = {s.in_use,      s.peak_in_use, s.cached,
                             s.cache_limit, s.allocations, s.system_allocations};
  std::memcpy(out, values, sizeof(values));
}
// Threads that allocate, fill, check and free blocks of many sizes; returns corrupted blocks.
API int cpu_test_allocator_threads(int threads, int rounds) {
  std::atomic<int> wrong{0};
  std::vector<std::thread> running;
  for (int t = 0; t < threads; ++t) {
    running.emplace_back([&, t] {
      uint64_t random = 88172645463325252ull + t;
      std::vector<std::pair<unsigned char*, size_t>> blocks;
      for (int r = 0; r < rounds; ++r) {
        random ^= random << 13, random ^= random >> 7, random ^= random << 17;
        if (blocks.size() < 20 && random % 3 != 0) {
          const size_t bytes = (random >> 8) % (size_t{1} << (4 + (random >> 40) % 16));
          auto* p = static_cast<unsigned char*>(cpu_allocate(bytes));
          if (p == nullptr || reinterpret_cast<uintptr_t>(p) % 64 != 0) {
            ++wrong;
            continue;
          }
          std::memset(p, static_cast<int>(bytes % 251), bytes);
          blocks.emplace_back(p, bytes);
        } else if (!blocks.empty()) {
          const size_t at = random % blocks.size();
          const auto [p, bytes] = blocks[at];
          for (size_t i = 0; i < bytes; ++i) {
            if (p[i] != bytes % 251) {
              ++wrong;
              break;
            }
          }
          cpu_free(p, bytes);
          blocks[at] = blocks.back();
          blocks.pop_back();
        }
      }
      for (const auto& [p, bytes] : blocks) cpu_free(p, bytes);
    });
  }
  for (std::thread& t : running) t.join();
  return wrong.load();
}
// Nested scratches keep their contents and alignment; returns the number of faults.
API int cpu_test_scratch(int64_t bytes, int depth) {
  int wrong = 0;
  for (int round = 0; round < 3; ++round) {
    struct Frame {
      static void run(int64_t size, int level, int* faults) {
        cpu::Scratch scratch(static_cast<size_t>(size));
        auto* p = scratch.as<unsigned char>();
        *faults += reinterpret_cast<uintptr_t>(p) % 64 != 0;
        std::memset(p, level + 1, static_cast<size_t>(size));
        if (level > 0) run(size / 2 + 1, level - 1, faults);
        for (int64_t i = 0; i < size; ++i) *faults += p[i] != level + 1;
      }
    };
    Frame::run(bytes, depth, &wrong);
  }
  return wrong;
}
