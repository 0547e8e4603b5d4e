// SPDX-License-Identifier: Apache-2.0
// Warpgroup matrix multiply (sm_90a): D[64, N] (+)= A[64, 16] B[16, N], asynchronous, 128 threads.
// Included by cuda/ptx.h.
//
// A comes from shared memory (wgmma_ss) or registers (wgmma_rs), B always from shared memory, both
// described by 64-bit descriptors. In thread i of the warpgroup with w = i / 32, g = i % 32 / 4,
// t = i % 4, accumulator d[4j + e] is row 16w + g + 8 (e / 2), column 8j + 2t + e % 2; a register
// A operand is the mma.sync A fragment of rows 16w .. 16w + 15.
//
// Protocol: wgmma_fence, any number of wgmma, wgmma_commit, wgmma_wait<n>. Between the last fence
// and a wgmma no other code may write its accumulators or its registers of A, whether it
// accumulates or not. Until the wait accumulators are undefined, and the registers of A must stay
// as they are: each wgmma in flight has its own, alive until then.
#pragma once

namespace seqloom::cuda::ptx {

// How a shared-memory operand is swizzled: must match the tensor map that filled it.
enum class Swizzle : uint32_t { kNone = 0, k128 = 1, k64 = 2, k32 = 3 };

// Descriptor of an operand tile at `address`.
// K contiguous: `stride_bytes` from one group of 8 rows to the next; `leading_bytes` from one
//   16-byte column to the next without swizzle, else unused.
// M or N contiguous (Trans): rows of 128, 64 or 32 bytes, 8 values of k high; `leading_bytes` to
//   the next such block along M or N, `stride_bytes` to the next 8 values of k (exchanged without
//   swizzle).
SEQLOOM_DEVICE uint64_t wgmma_descriptor(uint32_t address, uint32_t leading_bytes,
                                         uint32_t stride_bytes, Swizzle swizzle) {
  return static_cast<uint64_t>((address & 0x3ffff) >> 4) |
         static_cast<uint64_t>((leading_bytes & 0x3ffff) >> 4) << 16 |
         static_cast<uint64_t>((stride_bytes & 0x3ffff) >> 4) << 32 |
         static_cast<uint64_t>(swizzle) << 62;
}

SEQLOOM_DEVICE void wgmma_fence(SEQLOOM_SITE_ONLY) {
#if defined(__CUDACC__)
  SEQLOOM_SM90A(asm volatile("wgmma.fence.sync.aligned;" :: : "memory"));
#else
  emulation::wgmma_fence(site);
#endif
}
SEQLOOM_DEVICE void wgmma_commit(SEQLOOM_SITE_ONLY) {
#if defined(__CUDACC__)
  SEQLOOM_SM90A(asm volatile("wgmma.commit_group.sync.aligned;" :: : "memory"));
#else
  emulation::wgmma_commit(site);
#endif
}
template <int Pending>
SEQLOOM_DEVICE void wgmma_wait(SEQLOOM_SITE_ONLY) {
#if defined(__CUDACC__)
  SEQLOOM_SM90A(asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory"));
#else
  emulation::wgmma_wait(Pending, site);
#endif
}
// Keeps the compiler from moving accesses of an accumulator across the asynchronous instructions.
template <int Count>
SEQLOOM_DEVICE void wgmma_keep(float (&d)[Count]) {
#if defined(__CUDACC__)
#pragma unroll
  for (int i = 0; i < Count; ++i) asm volatile("" : "+f"(d[i])::"memory");
#else
  (void)d;
#endif
}

#if defined(__CUDACC__)
// Accumulator operands eight at a time, and their numbers in the instruction text.
#define SEQLOOM_D8(b)                                                                         \
  "+f"(d[b]), "+f"(d[b + 1]), "+f"(d[b + 2]), "+f"(d[b + 3]), "+f"(d[b + 4]), "+f"(d[b + 5]), \
      "+f"(d[b + 6]), "+f"(d[b + 7])
#define SEQLOOM_D16(b) SEQLOOM_D8(b), SEQLOOM_D8(b + 8)
#define SEQLOOM_D32(b) SEQLOOM_D16(b), SEQLOOM_D16(b + 16)
#define SEQLOOM_D64(b) SEQLOOM_D32(b), SEQLOOM_D32(b + 32)
#define SEQLOOM_T4 "%0,%1,%2,%3"
#define SEQLOOM_T8 SEQLOOM_T4 ",%4,%5,%6,%7"
#define SEQLOOM_T16 SEQLOOM_T8 ",%8,%9,%10,%11,%12,%13,%14,%15"
#define SEQLOOM_T32 SEQLOOM_T16 ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define SEQLOOM_T40 SEQLOOM_T32 ",%32,%33,%34,%35,%36,%37,%38,%39"
#define SEQLOOM_T48 SEQLOOM_T40 ",%40,%41,%42,%43,%44,%45,%46,%47"
#define SEQLOOM_T64 SEQLOOM_T48 ",%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define SEQLOOM_T80 SEQLOOM_T64 ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79"
#define SEQLOOM_T88 SEQLOOM_T80 ",%80,%81,%82,%83,%84,%85,%86,%87"
#define SEQLOOM_T96 SEQLOOM_T88 ",%88,%89,%90,%91,%92,%93,%94,%95"
#define SEQLOOM_T128                                                                            \
  SEQLOOM_T96                                                                                   \
  ",%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,%112,%113,%114" \
  ",%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"

// p0 .. p6: numbers of the operands after the accumulators. n: columns, text: accumulator numbers.
#define SEQLOOM_WGMMA_SS_AS(n, type, text, p0, p1, p2, p3, p4, ...)                      \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #p2                                  \
               ", 0;\n"                                                                  \
               "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type " {" text \
               "}, "                                                                     \
               "%" #p0 ", %" #p1 ", p, 1, 1, %" #p3 ", %" #p4 ";\n}"                     \
               : __VA_ARGS__                                                             \
               : "l"(a), "l"(b), "r"(accumulate), "n"(TransA), "n"(TransB))
#define SEQLOOM_WGMMA_RS_AS(n, type, text, p0, p1, p2, p3, p4, p5, p6, ...)              \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #p5                                  \
               ", 0;\n"                                                                  \
               "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type " {" text \
               "}, "                                                                     \
               "{%" #p0 ",%" #p1 ",%" #p2 ",%" #p3 "}, %" #p4 ", p, 1, 1, %" #p6 ";\n}"  \
               : __VA_ARGS__                                                             \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate), "n"(TransB))
#define SEQLOOM_WGMMA_SS(n, text, p0, p1, p2, p3, p4, ...)                   \
  else if constexpr (N == n) {                                               \
    if constexpr (kHalf) {                                                   \
      SEQLOOM_WGMMA_SS_AS(n, "f16", text, p0, p1, p2, p3, p4, __VA_ARGS__);  \
    } else {                                                                 \
      SEQLOOM_WGMMA_SS_AS(n, "bf16", text, p0, p1, p2, p3, p4, __VA_ARGS__); \
    }                                                                        \
  }
#define SEQLOOM_WGMMA_RS(n, text, p0, p1, p2, p3, p4, p5, p6, ...)                   \
  else if constexpr (N == n) {                                                       \
    if constexpr (kHalf) {                                                           \
      SEQLOOM_WGMMA_RS_AS(n, "f16", text, p0, p1, p2, p3, p4, p5, p6, __VA_ARGS__);  \
    } else {                                                                         \
      SEQLOOM_WGMMA_RS_AS(n, "bf16", text, p0, p1, p2, p3, p4, p5, p6, __VA_ARGS__); \
    }                                                                                \
  }
#endif

template <int N>
constexpr bool kWgmmaColumns = N == 8 || N == 16 || N == 32 || N == 64 || N == 80 || N == 96 ||
                               N == 128 || N == 160 || N == 176 || N == 192 || N == 256;

// D = A B, or D += A B where `accumulate` is not 0. T is __half or __nv_bfloat16; TransA, TransB
// are 0 for operands contiguous along K, 1 for M or N.
template <class T, int N, int TransA = 0, int TransB = 0>
SEQLOOM_DEVICE void wgmma_ss(float (&d)[N / 2], uint64_t a, uint64_t b,
                             int accumulate SEQLOOM_SITE) {
  static_assert(kWgmmaColumns<N>, "wgmma is wrapped for the tile widths listed above");
  constexpr bool kHalf = std::is_same_v<T, __half>;
  static_assert(kHalf || std::is_same_v<T, __nv_bfloat16>, "wgmma takes half or bfloat16");
#if defined(__CUDACC__)
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  if constexpr (N == 0) {
  }
  SEQLOOM_WGMMA_SS(8, SEQLOOM_T4, 4, 5, 6, 7, 8, "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]))
  SEQLOOM_WGMMA_SS(16, SEQLOOM_T8, 8, 9, 10, 11, 12, SEQLOOM_D8(0))
  SEQLOOM_WGMMA_SS(32, SEQLOOM_T16, 16, 17, 18, 19, 20, SEQLOOM_D16(0))
  SEQLOOM_WGMMA_SS(64, SEQLOOM_T32, 32, 33, 34, 35, 36, SEQLOOM_D32(0))
  SEQLOOM_WGMMA_SS(80, SEQLOOM_T40, 40, 41, 42, 43, 44, SEQLOOM_D32(0), SEQLOOM_D8(32))
  SEQLOOM_WGMMA_SS(96, SEQLOOM_T48, 48, 49, 50, 51, 52, SEQLOOM_D32(0), SEQLOOM_D16(32))
  SEQLOOM_WGMMA_SS(128, SEQLOOM_T64, 64, 65, 66, 67, 68, SEQLOOM_D64(0))
  SEQLOOM_WGMMA_SS(160, SEQLOOM_T80, 80, 81, 82, 83, 84, SEQLOOM_D64(0), SEQLOOM_D16(64))
  SEQLOOM_WGMMA_SS(176, SEQLOOM_T88, 88, 89, 90, 91, 92, SEQLOOM_D64(0), SEQLOOM_D16(64),
                   SEQLOOM_D8(80))
  SEQLOOM_WGMMA_SS(192, SEQLOOM_T96, 96, 97, 98, 99, 100, SEQLOOM_D64(0), SEQLOOM_D32(64))
  SEQLOOM_WGMMA_SS(256, SEQLOOM_T128, 128, 129, 130, 131, 132, SEQLOOM_D64(0), SEQLOOM_D64(64))
#else
  __trap();
#endif
#else
  emulation::wgmma({N, kHalf, TransA != 0, TransB != 0}, d, nullptr, a, b, accumulate != 0, site);
#endif
}

template <class T, int N, int TransB = 0>
SEQLOOM_DEVICE void wgmma_rs(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b,
                             int accumulate SEQLOOM_SITE) {
  static_assert(kWgmmaColumns<N>, "wgmma is wrapped for the tile widths listed above");
  constexpr bool kHalf = std::is_same_v<T, __half>;
  static_assert(kHalf || std::is_same_v<T, __nv_bfloat16>, "wgmma takes half or bfloat16");
#if defined(__CUDACC__)
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  if constexpr (N == 0) {
  }
  SEQLOOM_WGMMA_RS(8, SEQLOOM_T4, 4, 5, 6, 7, 8, 9, 10, "+f"(d[0]), "+f"(d[1]), "+f"(d[2]),
                   "+f"(d[3]))
  SEQLOOM_WGMMA_RS(16, SEQLOOM_T8, 8, 9, 10, 11, 12, 13, 14, SEQLOOM_D8(0))
  SEQLOOM_WGMMA_RS(32, SEQLOOM_T16, 16, 17, 18, 19, 20, 21, 22, SEQLOOM_D16(0))
  SEQLOOM_WGMMA_RS(64, SEQLOOM_T32, 32, 33, 34, 35, 36, 37, 38, SEQLOOM_D32(0))
  SEQLOOM_WGMMA_RS(80, SEQLOOM_T40, 40, 41, 42, 43, 44, 45, 46, SEQLOOM_D32(0), SEQLOOM_D8(32))
  SEQLOOM_WGMMA_RS(96, SEQLOOM_T48, 48, 49, 50, 51, 52, 53, 54, SEQLOOM_D32(0), SEQLOOM_D16(32))
  SEQLOOM_WGMMA_RS(128, SEQLOOM_T64, 64, 65, 66, 67, 68, 69, 70, SEQLOOM_D64(0))
  SEQLOOM_WGMMA_RS(160, SEQLOOM_T80, 80, 81, 82, 83, 84, 85, 86, SEQLOOM_D64(0), SEQLOOM_D16(64))
  SEQLOOM_WGMMA_RS(176, SEQLOOM_T88, 88, 89, 90, 91, 92, 93, 94, SEQLOOM_D64(0), SEQLOOM_D16(64),
                   SEQLOOM_D8(80))
  SEQLOOM_WGMMA_RS(192, SEQLOOM_T96, 96, 97, 98, 99, 100, 101, 102, SEQLOOM_D64(0), SEQLOOM_D32(64))
  SEQLOOM_WGMMA_RS(256, SEQLOOM_T128, 128, 129, 130, 131, 132, 133, 134, SEQLOOM_D64(0),
                   SEQLOOM_D64(64))
#else
  __trap();
#endif
#else
  emulation::wgmma({N, kHalf, false, TransB != 0}, d, a, 0, b, accumulate != 0, site);
#endif
}

#if defined(__CUDACC__)
#undef SEQLOOM_WGMMA_SS
#undef SEQLOOM_WGMMA_RS
#undef SEQLOOM_WGMMA_SS_AS
#undef SEQLOOM_WGMMA_RS_AS
#endif

}  // namespace seqloom::cuda::ptx
