// SPDX-License-Identifier: Apache-2.0
// Few rows of x against streamed bytes of weights, by dot products of bytes (vpdpbusd).
//
// An activation becomes v = round(x / s), 16 bits, s = largest / 32512, and is split into two
// signed bytes, v = 256 high + low: two planes. One plane is 8 bits, s = largest / 127. Weights are
// the unsigned operand (q + 128, or q + 8 in a nibble), and what that adds is taken off where the
// sums start:
//
//   int8   sums of all of k stay integers, 16 lanes of them for each plane
//   int4   a 128-bit lane of a vector is one group of 32; its four sums become float32, times the
//          group's scale
//
// As in dot_streams, columns are cut into far runs, each one stream of memory.
// Included by ISA files only.
#pragma once

#if defined(__AVX512VNNI__)

#include "cpu/gemm_dot.h"
#include "cpu/scratch.h"
#include "ops/quantized/quantized.h"

namespace seqloom::SEQLOOM_ISA_NS {

SEQLOOM_ALWAYS_INLINE VecI dot_bytes(VecI sum, VecI unsigned_bytes, VecI signed_bytes) {
  return {_mm512_dpbusd_epi32(sum.v, unsigned_bytes.v, signed_bytes.v)};
}

// The first n of 64 bytes, n may be more.
SEQLOOM_ALWAYS_INLINE VecI load_bytes(const void* p, int64_t n) {
  const auto mask = n >= 64 ? ~uint64_t{0} : (uint64_t{1} << n) - 1;
  return {_mm512_maskz_loadu_epi8(static_cast<__mmask64>(mask), p)};
}

SEQLOOM_ALWAYS_INLINE int32_t sum_bytes(const int8_t* q, int64_t k) {
  const VecI ones = VecI::broadcast(0x01010101);
  VecI sum = VecI::zero();
  for (int64_t p = 0; p < k; p += 64) sum = dot_bytes(sum, ones, load_bytes(q + p, k - p));
  return _mm512_reduce_add_epi32(sum.v);
}

// ---- the two kinds of weights ------------------------------------------------------------------

// A block of activations that meets 64 bytes of weights: kParts vectors of each plane.
template <int kPlaneCount>
struct Int8Weights {
  static constexpr int kParts = 1, kPlanes = kPlaneCount;
  static constexpr int64_t kBytesAhead = 1024;  // of prefetching, in each stream
  static constexpr int64_t kBlock = 64;         // elements
  static constexpr uint32_t kOffset = 128;
  const char* bytes;
  int64_t row_bytes, k;
  const float* column_scales;
  explicit Int8Weights(const ops::QuantizedLinearArgs& a)
      : bytes(static_cast<const char*>(a.quantized)),
        row_bytes(a.k),
        k(a.k),
        column_scales(static_cast<const float*>(a.scales)) {}
};

struct Int4Weights {
  static constexpr int kParts = 2, kPlanes = 2;
  static constexpr int64_t kBytesAhead = 2048;
  static constexpr int64_t kBlock = 128;
  static constexpr uint32_t kOffset = 8;
  const char* bytes;
  const bf16* scales;
  int64_t row_bytes, k, groups;
  const float* column_scales = nullptr;
  explicit Int4Weights(const ops::QuantizedLinearArgs& a)
      : bytes(static_cast<const char*>(a.quantized)),
        scales(static_cast<const bf16*>(a.scales)),
        row_bytes(ceil_div(a.k, ops::kQuantGroup) * 16),
        k(a.k),
        groups(ceil_div(a.k, ops::kQuantGroup)) {}
};

// ---- activations -------------------------------------------------------------------------------

// Rows of x as bytes: a block is kParts vectors of high bytes, then as many of low ones. Part 0 of
// int4 holds the first halves of four groups, part 1 the second halves.
// start(i): where sums begin. kInt8: a vector a plane. kInt4: a vector a block.
template <class Weights>
class SplitRows {
 public:
  explicit SplitRows(const ops::QuantizedLinearArgs& a)
      : blocks_(ceil_div(a.k, Weights::kBlock)),
        ld_(blocks_ * Weights::kPlanes * Weights::kBlock),
        starts_(Weights::kParts == 1 ? Weights::kPlanes : blocks_),
        scratch_(
            static_cast<size_t>(a.m * (ld_ + starts_ * 64 + 64) + blocks_ * Weights::kBlock * 4)) {
    bytes_ = scratch_.template as<int8_t>();
    start_ = reinterpret_cast<int32_t*>(bytes_ + a.m * ld_);
    scales_ = reinterpret_cast<float*>(start_ + a.m * starts_ * 16);
    float* const wide = scales_ + ceil_div(a.m, 16) * 16;
    for (int64_t i = 0; i < a.m; ++i) {
      const int64_t at = i * a.ldx;
      if (a.dtype == DType::kFloat16) {
        split(a.k, static_cast<const f16*>(a.x) + at, i, wide);
      } else if (a.dtype == DType::kBFloat16) {
        split(a.k, static_cast<const bf16*>(a.x) + at, i, wide);
      } else {
        split(a.k, static_cast<const float*>(a.x) + at, i, wide);
      }
    }
  }
  const int8_t* row(int64_t i) const { return bytes_ + i * ld_; }
  const int32_t* start(int64_t i) const { return start_ + i * starts_ * 16; }
  const float* scales() const { return scales_; }
  int64_t blocks() const { return blocks_; }

 private:
  static constexpr float kSteps = Weights::kPlanes == 2 ? 32512.0f : 127.0f;

  template <class T>
  SEQLOOM_ALWAYS_INLINE void split(int64_t k, const T* x, int64_t row, float* wide) {
    VecF largest = VecF::zero();
    for (int64_t p = 0; p < k; p += kLanes) {
      const VecF v = load(x + p, static_cast<int>(min<int64_t>(kLanes, k - p)));
      store(wide + p, v);
      largest = max_nan(largest, abs(v));
    }
    for (int64_t p = ceil_div(k, kLanes) * kLanes; p < blocks_ * Weights::kBlock; p += kLanes)
      store(wide + p, VecF::zero());
    const float top = reduce_max_nan(largest);
    // An infinity or NaN makes the whole row NaN.
    const bool finite = top < __builtin_inff();
    scales_[row] = finite ? top / kSteps : __builtin_nanf("");
    const VecF inverse = VecF::broadcast(finite && top > 1e-30f ? kSteps / top : 0.0f);
    int8_t* out = bytes_ + row * ld_;
    int32_t* start = start_ + row * starts_ * 16;
    VecI high_start = VecI::zero(), low_start = high_start;
    const VecI offset = VecI::broadcast(static_cast<int32_t>(Weights::kOffset * 0x01010101u));
    for (int64_t b = 0; b < blocks_; ++b, out += Weights::kPlanes * Weights::kBlock) {
      for (int64_t c = 0; c < Weights::kBlock; c += kLanes) {
        const VecI v = round_to_int(load(wide + b * Weights::kBlock + c) * inverse);
        // int4: half h of group g goes to lane g of part h.
        const int64_t at = Weights::kParts == 1 ? c : c / 16 % 2 * 64 + c / 32 * 16;
        if constexpr (Weights::kPlanes == 1) {
          store_bytes(out + at, v);
        } else {
          const VecI high = shift_right(v + VecI::broadcast(128), 8);
          store_bytes(out + at, high);
          store_bytes(out + Weights::kBlock + at, v - shift_left(high, 8));
        }
      }
      VecI high = VecI::zero(), low = high;
      for (int part = 0; part < Weights::kParts; ++part) {
        high = dot_bytes(high, offset, load_words(out + 64 * part));
        if constexpr (Weights::kPlanes == 2)
          low = dot_bytes(low, offset, load_words(out + Weights::kBlock + 64 * part));
      }
      if constexpr (Weights::kParts == 2) {
        store_int(start + b * 16, VecI::zero() - shift_left(high, 8) - low);
      } else {
        high_start = high_start - high;
        low_start = low_start - low;
      }
    }
    if constexpr (Weights::kParts == 1) {
      store_int(start, high_start);
      if constexpr (Weights::kPlanes == 2) store_int(start + 16, low_start);
    }
  }
  static SEQLOOM_ALWAYS_INLINE void store_bytes(int8_t* p, VecI v) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(v.v));
  }

  int64_t blocks_, ld_, starts_;
  cpu::Scratch scratch_;
  int8_t* bytes_;
  int32_t* start_;
  float* scales_;
};

// ---- tiles -------------------------------------------------------------------------------------

template <int N>
struct Count {
  static constexpr int value = N;
};

// out[r * S + s]: lanes whose sum is row r times column s, divided by the row's scale.
template <int MR, int S, int kPlanes>
SEQLOOM_ALWAYS_INLINE void byte_tile(const Int8Weights<kPlanes>& w,
                                     const SplitRows<Int8Weights<kPlanes>>& x, int64_t row,
                                     const char* const* lines, VecF* out) {
  VecI sum[kPlanes][MR][S];
  const int8_t* a[MR];
#pragma GCC unroll 4
  for (int r = 0; r < MR; ++r) {
    a[r] = x.row(row + r);
#pragma GCC unroll 4
    for (int s = 0; s < S; ++s)
#pragma GCC unroll 2
      for (int h = 0; h < kPlanes; ++h) sum[h][r][s] = load_int(x.start(row + r) + 16 * h);
  }
  const VecI flip = VecI::broadcast(static_cast<int32_t>(0x80808080u));
  const auto step = [&](int64_t p, auto read) __attribute__((always_inline)) {
    VecI q[S];
#pragma GCC unroll 4
    for (int s = 0; s < S; ++s) q[s] = read(lines[s] + p) ^ flip;
#pragma GCC unroll 4
    for (int r = 0; r < MR; ++r)
#pragma GCC unroll 2
      for (int h = 0; h < kPlanes; ++h) {
        const VecI v = load_words(a[r] + kPlanes * p + 64 * h);
#pragma GCC unroll 4
        for (int s = 0; s < S; ++s) sum[h][r][s] = dot_bytes(sum[h][r][s], q[s], v);
      }
  };
  int64_t p = 0;
  for (; p + 64 <= w.k; p += 64) {
#pragma GCC unroll 4
    for (int s = 0; s < S; ++s) __builtin_prefetch(lines[s] + p + w.kBytesAhead);
    step(p, [](const char* at) __attribute__((always_inline)) { return load_words(at); });
  }
  if (p < w.k)
    step(p, [&](const char* at) __attribute__((always_inline)) { return load_bytes(at, w.k - p); });
  const VecF base = VecF::broadcast(256.0f);
#pragma GCC unroll 4
  for (int r = 0; r < MR; ++r)
#pragma GCC unroll 4
    for (int s = 0; s < S; ++s) {
      const VecF high = to_float(sum[0][r][s]);
      if constexpr (kPlanes == 2) {
        out[r * S + s] = fma(base, high, to_float(sum[1][r][s]));
      } else {
        out[r * S + s] = high;
      }
    }
}

template <int MR, int S>
SEQLOOM_ALWAYS_INLINE void byte_tile(const Int4Weights& w, const SplitRows<Int4Weights>& x,
                                     int64_t row, const char* const* lines, VecF* out) {
  VecF acc[MR][S];
  const int8_t* a[MR];
  const int32_t* start[MR];
#pragma GCC unroll 4
  for (int r = 0; r < MR; ++r) {
    a[r] = x.row(row + r);
    start[r] = x.start(row + r);
#pragma GCC unroll 4
    for (int s = 0; s < S; ++s) acc[r][s] = VecF::zero();
  }
  const bf16* scales[S];
#pragma GCC unroll 4
  for (int s = 0; s < S; ++s) scales[s] = w.scales + (lines[s] - w.bytes) / 16;
  const VecI nibble = VecI::broadcast(0x0f0f0f0f);
  // 64 bytes at p are four groups; `spread` picks their scales out of `scale`.
  const auto step = [&](int64_t p, const VecI& spread, const VecF* scale,
                        auto read) __attribute__((always_inline)) {
#pragma GCC unroll 4
    for (int s = 0; s < S; ++s) {
      const VecI both = read(lines[s] + p);
      const VecI first = both & nibble, second = shift_right_logical(both, 4) & nibble;
      const VecF factor = {_mm512_permutexvar_ps(spread.v, scale[s].v)};
#pragma GCC unroll 4
      for (int r = 0; r < MR; ++r) {
        const int8_t* v = a[r] + 4 * p;
        VecI sum = dot_bytes(VecI::zero(), first, load_words(v));
        sum = dot_bytes(sum, second, load_words(v + 64));
        sum = shift_left(sum, 8) + load_int(start[r] + p / 4);
        sum = dot_bytes(sum, first, load_words(v + 128));
        sum = dot_bytes(sum, second, load_words(v + 192));
        acc[r][s] = fma(to_float(sum), factor, acc[r][s]);
      }
    }
  };
  VecI spread[4];
#pragma GCC unroll 4
  for (int v = 0; v < 4; ++v)
    spread[v] = {_mm512_srli_epi32(_mm512_add_epi32(VecI::iota().v, _mm512_set1_epi32(16 * v)), 2)};
  VecF scale[S];
  // `count` vectors of 64 bytes from p on, whose scales are one load.
  const auto whole = [&](int64_t p, auto count) __attribute__((always_inline)) {
#pragma GCC unroll 4
    for (int s = 0; s < S; ++s) {
      scale[s] = load(scales[s] + p / 16, 4 * count.value);
      __builtin_prefetch(scales[s] + p / 16 + w.kBytesAhead / 16);
    }
#pragma GCC unroll 4
    for (int v = 0; v < count.value; ++v) {
#pragma GCC unroll 4
      for (int s = 0; s < S; ++s) __builtin_prefetch(lines[s] + p + 64 * v + w.kBytesAhead);
      step(p + 64 * v, spread[v], scale,
           [](const char* at) __attribute__((always_inline)) { return load_words(at); });
    }
  };
  int64_t p = 0;
  for (; p + 256 <= w.row_bytes; p += 256) whole(p, Count<4>{});
  if (p + 128 <= w.row_bytes) {
    whole(p, Count<2>{});
    p += 128;
  }
  for (; p < w.row_bytes; p += 64) {
    const int64_t left = w.row_bytes - p;
#pragma GCC unroll 4
    for (int s = 0; s < S; ++s)
      scale[s] = load(scales[s] + p / 16, static_cast<int>(min<int64_t>(4, left / 16)));
    step(p, spread[0], scale,
         [&](const char* at) __attribute__((always_inline)) { return load_bytes(at, left); });
  }
#pragma GCC unroll 4
  for (int r = 0; r < MR; ++r)
#pragma GCC unroll 4
    for (int s = 0; s < S; ++s) out[r * S + s] = acc[r][s];
}

template <int MR, int S, class Weights>
SEQLOOM_NOINLINE void byte_rows(const Weights& w, const SplitRows<Weights>& x, int64_t row,
                                const char* const* lines, float* out) {
  static_assert(MR * S % 4 == 0);
  VecF sums[MR * S];
  byte_tile<MR, S>(w, x, row, lines, sums);
#pragma GCC unroll 4
  for (int i = 0; i < MR * S; i += 4)
    sum_lanes(sums[i], sums[i + 1], sums[i + 2], sums[i + 3], out + i);
}

// out[i * ld_out + j] = row i times column j0 + j, over the row's scale (and column_scales').
template <class Weights>
SEQLOOM_ALWAYS_INLINE void byte_streams(const Weights& w, const SplitRows<Weights>& x, int64_t j0,
                                        int64_t columns, int64_t rows, float* out, int64_t ld_out) {
  // Four streams, or two where four rows of two planes fill the registers.
  const int64_t streams = rows <= 3 || Weights::kPlanes == 1 ? 4 : 2,
                run = ceil_div(columns, streams);
  for (int64_t j = 0; j < run; ++j) {
    const char* lines[4];
    for (int64_t s = 0; s < streams; ++s)
      lines[s] = w.bytes + (j0 + min(s * run + j, columns - 1)) * w.row_bytes;
    for (int64_t i = 0; i < rows; i += 4) {
      float part[16];
      const int64_t live = min<int64_t>(4, rows - i);
      if (streams == 4) {
        if (live == 1) byte_rows<1, 4>(w, x, i, lines, part);
        if (live == 2) byte_rows<2, 4>(w, x, i, lines, part);
        if (live == 3) byte_rows<3, 4>(w, x, i, lines, part);
        if constexpr (Weights::kPlanes == 1)
          if (live == 4) byte_rows<4, 4>(w, x, i, lines, part);
      } else if (live <= 2) {
        // Two rows; the last one alone again, doubled.
        byte_rows<2, 2>(w, x, live == 2 ? i : i - 1, lines, part);
      } else {
        byte_rows<4, 2>(w, x, live == 4 ? i : i - 1, lines, part);
      }
      // Where a tile began one row early, its first row was there before.
      const int64_t early = streams == 2 && live % 2 == 1 ? 1 : 0;
      for (int64_t r = 0; r < live; ++r)
        for (int64_t s = 0; s < streams && s * run + j < columns; ++s)
          out[(i + r) * ld_out + s * run + j] = part[(r + early) * streams + s];
    }
  }
}

}  // namespace seqloom::SEQLOOM_ISA_NS

#endif
