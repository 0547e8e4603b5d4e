// SPDX-License-Identifier: Apache-2.0
// Register-tile kernels: C[MR, NV vectors] (+)= A[MR, k] * B[k, NV vectors].
//
// A is read in place (row i at a + i * lda, k contiguous), one broadcast an element; B is read one
// row of NV vectors at a time, row k at b + k * ldb, either out of a packed panel (ldb = the
// panel's width) or straight out of a row-major matrix. Every element of C is one sequential chain
// of multiply-adds over k, so its bits do not depend on MR, NV or on how the matrix was tiled. The
// exceptions are MR = 1 and 2, which break the chain in four and two to hide the FMA latency.
// Included by ISA files only.
#pragma once

#include "core/half.h"
#include "cpu/gemm_vec.h"

namespace seqloom::SEQLOOM_ISA_NS {

// Where to fetch B ahead of use: NV cache lines at `at` in the first step, `step` bytes on in the
// next. 24 rows of 192 bytes cover the DRAM latency of a cold panel.
constexpr int kPrefetchRows = 24;

struct Ahead {
  const char* at;
  int64_t step;
};

template <class B>
SEQLOOM_ALWAYS_INLINE Ahead rows_ahead(const B* b, int64_t ldb) {
  return {reinterpret_cast<const char*>(b + kPrefetchRows * ldb),
          ldb * static_cast<int64_t>(sizeof(B))};
}

template <int MR, int NV>
struct Tile {
  VecF v[MR][NV];
};

template <int MR, int NV>
SEQLOOM_ALWAYS_INLINE void tile_zero(Tile<MR, NV>& t) {
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) t.v[i][j] = VecF::zero();
}

// One row of B against kK consecutive elements of A's rows. Which one is meant follows from the
// element types: float x float, bf16 or f16 (widened), float x bf16 pairs (widened), bf16 x bf16
// pairs (dot product). kMasked reads only `last` lanes of the row's last vector.
template <class A, class B>
struct Step {
  static_assert(sizeof(A) == sizeof(float));
  static constexpr int kK = 1;
  template <int MR, int NV, bool kMasked>
  static SEQLOOM_ALWAYS_INLINE void run(const float* a, int64_t lda, const B* b, int last,
                                        Tile<MR, NV>& acc) {
    VecF row[NV];
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j)
      row[j] = (kMasked && j == NV - 1) ? load(b + j * kLanes, last) : load(b + j * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) {
      const VecF x = VecF::broadcast(a[i * lda]);
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) acc.v[i][j] = fma(x, row[j], acc.v[i][j]);
    }
  }
};

template <>
struct Step<float, uint32_t> {
  static constexpr int kK = 2;
  template <int MR, int NV, bool kMasked>
  static SEQLOOM_ALWAYS_INLINE void run(const float* a, int64_t lda, const uint32_t* b,
                                        int /*last*/, Tile<MR, NV>& acc) {
    half<MR, NV, false>(a, lda, b, acc);
    half<MR, NV, true>(a + 1, lda, b, acc);
  }
  template <int MR, int NV>
  static SEQLOOM_ALWAYS_INLINE void tail(const float* a, int64_t lda, const uint32_t* b,
                                         Tile<MR, NV>& acc) {
    half<MR, NV, false>(a, lda, b, acc);
  }
  template <int MR, int NV, bool kHigh>
  static SEQLOOM_ALWAYS_INLINE void half(const float* a, int64_t lda, const uint32_t* b,
                                         Tile<MR, NV>& acc) {
    VecF row[NV];
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) {
      const VecI bits = load_words(b + j * kLanes);
      row[j] = kHigh ? high_bf16(bits) : low_bf16(bits);
    }
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) {
      const VecF x = VecF::broadcast(a[i * lda]);
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) acc.v[i][j] = fma(x, row[j], acc.v[i][j]);
    }
  }
};

#if defined(__AVX512BF16__)
template <>
struct Step<bf16, uint32_t> {
  static constexpr int kK = 2;
  template <int MR, int NV, bool kMasked>
  static SEQLOOM_ALWAYS_INLINE void run(const bf16* a, int64_t lda, const uint32_t* b, int /*last*/,
                                        Tile<MR, NV>& acc) {
    VecI row[NV];
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) row[j] = load_words(b + j * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) {
      int32_t pair;
      std::memcpy(&pair, a + i * lda, sizeof pair);
      madd<NV>(VecI::broadcast(pair), row, acc.v[i]);
    }
  }
  // The last k of an odd k: A's element alone, so that nothing past the row's end is read.
  template <int MR, int NV>
  static SEQLOOM_ALWAYS_INLINE void tail(const bf16* a, int64_t lda, const uint32_t* b,
                                         Tile<MR, NV>& acc) {
    VecI row[NV];
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) row[j] = load_words(b + j * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) madd<NV>(VecI::broadcast(a[i * lda].bits), row, acc.v[i]);
  }
  template <int NV>
  static SEQLOOM_ALWAYS_INLINE void madd(VecI x, const VecI (&row)[NV], VecF (&acc)[NV]) {
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j)
      acc[j] = {_mm512_dpbf16_ps(acc[j].v, (__m512bh)x.v, (__m512bh)row[j].v)};
  }
};
#endif

// acc += A[MR, k] * B[k, NV].
template <int MR, int NV, bool kMasked, class A, class B>
SEQLOOM_ALWAYS_INLINE void tile_multiply(int64_t k, const A* a, int64_t lda, const B* b,
                                         int64_t ldb, int last, Ahead ahead, Tile<MR, NV>& acc) {
  using S = Step<A, B>;
  constexpr int kChains = MR == 1 ? 4 : MR == 2 ? 2 : 1;
  constexpr int kLines = (NV * kLanes * static_cast<int>(sizeof(B)) + 63) / 64;
  const int64_t rows = k / S::kK;
  Tile<MR, NV> part[kChains];
#pragma GCC unroll 4
  for (int c = 1; c < kChains; ++c) tile_zero(part[c]);
  int64_t p = 0;
#pragma GCC unroll 4
  for (; p + kChains <= rows; p += kChains) {
#pragma GCC unroll 4
    for (int c = 0; c < kChains; ++c) {
#pragma GCC unroll 4
      for (int j = 0; j < kLines; ++j) __builtin_prefetch(ahead.at + 64 * j);
      ahead.at += ahead.step;
      S::template run<MR, NV, kMasked>(a, lda, b, last, c == 0 ? acc : part[c]);
      a += S::kK;
      b += ldb;
    }
  }
  if constexpr (kChains > 1)
    for (; p < rows; ++p, a += S::kK, b += ldb)
      S::template run<MR, NV, kMasked>(a, lda, b, last, acc);
  if constexpr (S::kK > 1)
    if (k % S::kK) S::template tail<MR, NV>(a, lda, b, acc);
  if constexpr (kChains > 1) {
#pragma GCC unroll 4
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) {
        if constexpr (kChains == 4) {
          acc.v[i][j] = (acc.v[i][j] + part[2].v[i][j]) + (part[1].v[i][j] + part[3].v[i][j]);
        } else {
          acc.v[i][j] = acc.v[i][j] + part[1].v[i][j];
        }
      }
  }
}

// The tile times a panel, stored to (or added to) c. `last` counts the live lanes of the last
// vector of each row of C, and with kMasked of B too.
template <int MR, int NV, bool kMasked = false, class A, class B>
SEQLOOM_ALWAYS_INLINE void micro_kernel(int64_t k, const A* a, int64_t lda, const B* b, int64_t ldb,
                                        Ahead ahead, float* c, int64_t ldc, int last,
                                        bool accumulate) {
  Tile<MR, NV> acc;
  tile_zero(acc);
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) __builtin_prefetch(c + i * ldc + j * kLanes, 1);
  tile_multiply<MR, NV, kMasked>(k, a, lda, b, ldb, last, ahead, acc);
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) {
      float* p = c + i * ldc + j * kLanes;
      if (j == NV - 1 && last < kLanes) {
        store(p, accumulate ? acc.v[i][j] + load(p, last) : acc.v[i][j], last);
      } else {
        store(p, accumulate ? acc.v[i][j] + load(p) : acc.v[i][j]);
      }
    }
  }
}

template <int MR, int NV, class A, class B>
SEQLOOM_ALWAYS_INLINE void micro_kernel(int64_t k, const A* a, int64_t lda, const B* b, int64_t ldb,
                                        float* c, int64_t ldc, bool accumulate) {
  micro_kernel<MR, NV>(k, a, lda, b, ldb, rows_ahead(b, ldb), c, ldc, kLanes, accumulate);
}

}  // namespace seqloom::SEQLOOM_ISA_NS
