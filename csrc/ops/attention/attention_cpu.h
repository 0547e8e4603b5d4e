// SPDX-License-Identifier: Apache-2.0
// What forward, backward and decoding share: strips of query rows against tiles of keys, which keys
// a row sees, and the options that turn products into scores.
//
// Rows are the queries of all heads that read one key head, head by head: row r is query r % Tq of
// head r / Tq in the group. Six of them make a strip, which meets a tile of 64 keys in registers.
// Included by ISA files only.
#pragma once

#include "cpu/gemm_kernel.h"
#include "cpu/gemm_pack.h"
#include "cpu/parallel.h"
#include "cpu/scratch.h"
#include "cpu/vec_math.h"
#include "cpu/vec_philox.h"
#include "ops/attention/attention.h"

namespace seqloom::SEQLOOM_ISA_NS {

using ops::AttentionArgs;
using ops::AttentionOperand;

constexpr int kStrip = 6;  // query rows
constexpr int kTile = 64;  // keys
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kVectors = 4;  // of a strip's accumulators
#else
constexpr int kVectors = 2;
#endif
constexpr int kPanel = kVectors * kLanes;  // keys of a packed panel; divides kTile
static_assert(kTile % kPanel == 0);

SEQLOOM_ALWAYS_INLINE int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
constexpr float kInfinity = __builtin_inff();

template <class T>
SEQLOOM_ALWAYS_INLINE const T* head_of(const AttentionOperand& x, int64_t b, int64_t h) {
  return static_cast<const T*>(x.data) + b * x.batch_stride + h * x.head_stride;
}

// The keys [lo, hi) that a row may see by position and length, and which row it is.
struct Range {
  int64_t lo, hi;
  int64_t head, query;
};

// 2^x for x <= 0 (a little above is fine), 1 ULP; zero from -150 down, NaN stays.
SEQLOOM_ALWAYS_INLINE VecF exp2_weight(VecF x) {
  x = max(VecF::broadcast(-160.0f), x);
  const VecF n = round(x);
  return scale_pow2(polynomial(x - n, 1.0f, 0.6931472f, 0.24022648f, 0.055503324f, 0.009618437f,
                               0.0013398875f, 0.00015353362f),
                    n);
}
constexpr float kLog2e = 1.44269504f;
constexpr float kLargest = 1.7014118e38f;  // 2^127: its product with log2(e) is finite
constexpr float kCoarse = 2147483648.0f;   // 2^31

SEQLOOM_ALWAYS_INLINE int64_t offset_of(const AttentionArgs& a, int64_t b) {
  return a.offsets != nullptr ? a.offsets[b] : a.offset;
}

SEQLOOM_ALWAYS_INLINE Range visible_range(const AttentionArgs& a, int64_t b, int64_t h, int64_t i) {
  const int64_t position = i + offset_of(a, b);
  const int64_t length = a.key_lengths != nullptr ? a.key_lengths[b] : a.keys;
  const int64_t lo = max<int64_t>(0, position - a.left);
  const int64_t hi = min<int64_t>(length, position + a.right + 1);
  return {min(lo, length), max(hi, min(lo, length)), h, i};
}

// Whether scores are more than products times the scale.
SEQLOOM_ALWAYS_INLINE bool has_score_options(const AttentionArgs& a) {
  return a.mask != nullptr || a.softcap > 0 || a.slopes != nullptr;
}

SEQLOOM_ALWAYS_INLINE VecF load_mask_values(const AttentionArgs& a, int64_t at, int n) {
  switch (a.mask_dtype) {
    case DType::kFloat16:
      return load(static_cast<const f16*>(a.mask) + at, n);
    case DType::kBFloat16:
      return load(static_cast<const bf16*>(a.mask) + at, n);
    default:
      return load(static_cast<const float*>(a.mask) + at, n);
  }
}

SEQLOOM_ALWAYS_INLINE float load_mask_value(const AttentionArgs& a, int64_t at) {
  switch (a.mask_dtype) {
    case DType::kFloat16:
      return seqloom::to_float(static_cast<const f16*>(a.mask)[at]);
    case DType::kBFloat16:
      return seqloom::to_float(static_cast<const bf16*>(a.mask)[at]);
    default:
      return static_cast<const float*>(a.mask)[at];
  }
}

// Where the shift of a row is 2^31 or more it is rounded by 64 or more, which the exact product of
// a score would leave in the exponent. Scores lie as far apart there, so rounded products do: equal
// to the shift, weight one, or far below it. Puts them into s and tells whether it did.
SEQLOOM_ALWAYS_INLINE bool round_coarse_row(float shift, float scale, int begin, int end,
                                            float* s) {
  if (SEQLOOM_LIKELY(shift > -kCoarse && shift < kCoarse)) return false;
  const VecF factor = VecF::broadcast(scale);
  for (int c = begin; c < end; c += kLanes) store(s + c, load(s + c) * factor);
  return true;
}

// Turns scale * q . k in s[begin, end) of the tile that starts at key j0 into scores, hidden pairs
// into -inf; begin is a multiple of kLanes. `slope` gets the derivative of the cap, if asked for.
inline SEQLOOM_NOINLINE void score_row(const AttentionArgs& a, int64_t b, const Range& range,
                                       int64_t j0, int begin, int end, float scale, float* s,
                                       float* slope) {
  const int64_t h = range.head, i = range.query;
  const VecF hidden = VecF::broadcast(-kInfinity);
  const VecF factor = VecF::broadcast(scale);
  const VecF cap = VecF::broadcast(a.softcap);
  const VecF per_cap = VecF::broadcast(a.softcap > 0 ? 1 / a.softcap : 0);
  const int64_t row = b * a.mask_stride[0] + h * a.mask_stride[1] + i * a.mask_stride[2];
  const bool broadcast_mask = a.mask_stride[3] == 0;
  const bool boolean = a.mask_dtype == DType::kBool;
  const int64_t distance = j0 - (i + offset_of(a, b));
  const int lo = static_cast<int>(max<int64_t>(range.lo - j0, 0));
  const int hi = static_cast<int>(max<int64_t>(min<int64_t>(range.hi - j0, kTile), 0));
  for (int c = begin; c < end; c += kLanes) {
    VecF x = load(s + c) * factor;
    if (a.softcap > 0) {
      const VecF t = tanh(x * per_cap);
      x = cap * t;
      if (slope != nullptr) store(slope + c, fnma(t, t, VecF::broadcast(1.0f)));
    }
    if (a.slopes != nullptr) {
      const VecF away = VecF::broadcast(static_cast<float>(distance + c)) + to_float(VecI::iota());
      x = fma(VecF::broadcast(a.slopes[h]), away, x);
    }
    const int left = max(lo - c, 0), live = min(max(hi - c, 0), kLanes);
    if (left >= live) {
      store(s + c, hidden);
      continue;
    }
    Mask seen = first_n(live);
    if (left > 0) seen = seen & ~first_n(left);
    if (a.mask != nullptr && boolean) {
      const auto* mask = static_cast<const uint8_t*>(a.mask) + row;
      if (broadcast_mask) {
        if (*mask == 0) seen = first_n(0);
      } else {
        seen = seen & load_mask(mask + j0 + c, live);
      }
    } else if (a.mask != nullptr) {
      const VecF m = broadcast_mask ? VecF::broadcast(load_mask_value(a, row))
                                    : load_mask_values(a, row + j0 + c, live);
      // Finite in powers of two, too: a row of the least numbers is not one that sees nothing.
      x = max(VecF::broadcast(-kLargest), x + m);
      seen = seen & (m != hidden);  // true for NaN
    }
    store(s + c, select(seen, x, hidden));
  }
}

// The same where position and length alone decide, the scale being in the product already.
SEQLOOM_ALWAYS_INLINE void hide_row(const Range& range, int64_t j0, int begin, int end, float* s) {
  const VecI lo = VecI::broadcast(static_cast<int>(max<int64_t>(range.lo - j0, 0)) - 1);
  const VecI hi =
      VecI::broadcast(static_cast<int>(max<int64_t>(min<int64_t>(range.hi - j0, kTile), 0)));
  for (int c = begin; c < end; c += kLanes) {
    const VecI column = VecI::iota() + VecI::broadcast(c);
    store(s + c, select((column > lo) & (column < hi), load(s + c), VecF::broadcast(-kInfinity)));
  }
}

// The dropout numbers of a row: keep[c] = 1 or 0 for keys j0 + [begin, end).
inline SEQLOOM_NOINLINE void dropout_row(const AttentionArgs& a, int64_t b, const Range& range,
                                         int64_t j0, int begin, int end, float* keep) {
  const uint64_t element = static_cast<uint64_t>(
      ((b * a.heads + range.head) * a.queries + range.query) * a.keys + j0 + begin);
  const VecF p = VecF::broadcast(a.dropout);
  const VecF one = VecF::broadcast(1.0f);
  philox_uniforms(a.seed, a.stream_offset + element, end - begin,
                  [&](int64_t at, VecF u, int count) {
                    store(keep + begin + at, zero_unless(u >= p, one), count);
                  });
}

SEQLOOM_ALWAYS_INLINE float keep_scale(const AttentionArgs& a) {
  return a.dropout < 1 ? 1 / (1 - a.dropout) : 0;
}

// c[kStrip, NV vectors] = factor[i] c + A B; factor = nullptr: c = A B. What c holds is added last:
// in one chain with the products, a sum over all tiles would round at its full size every time.
template <int NV, class A, class B>
inline SEQLOOM_NOINLINE void strip_multiply(int64_t k, const A* a, int64_t lda, const B* b,
                                            int64_t ldb, const float* factor, float* c,
                                            int64_t ldc) {
  Tile<kStrip, NV> acc;
  tile_zero(acc);
  tile_multiply<kStrip, NV, false>(k, a, lda, b, ldb, kLanes, rows_ahead(b, ldb), acc);
  if (factor != nullptr) {
#pragma GCC unroll 8
    for (int i = 0; i < kStrip; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j)
        acc.v[i][j] = fma(load(c + i * ldc + j * kLanes), VecF::broadcast(factor[i]), acc.v[i][j]);
  }
#pragma GCC unroll 8
  for (int i = 0; i < kStrip; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) store(c + i * ldc + j * kLanes, acc.v[i][j]);
}

// The same over `width` columns, a multiple of kLanes, of a row-major B.
template <class A, class B>
SEQLOOM_ALWAYS_INLINE void strip_times_rows(int64_t k, int64_t width, const A* a, int64_t lda,
                                            const B* b, int64_t ldb, const float* factor, float* c,
                                            int64_t ldc) {
  int64_t j = 0;
  for (; j + kPanel <= width; j += kPanel)
    strip_multiply<kVectors>(k, a, lda, b + j, ldb, factor, c + j, ldc);
  if constexpr (kVectors > 2)
    for (; j + 2 * kLanes <= width; j += 2 * kLanes)
      strip_multiply<2>(k, a, lda, b + j, ldb, factor, c + j, ldc);
  for (; j < width; j += kLanes) strip_multiply<1>(k, a, lda, b + j, ldb, factor, c + j, ldc);
}

// s[kStrip, columns begin to end of the tile] = A times packed panels, each `depth` rows long.
// Whole panels are computed, halves where that is enough.
template <class A, class B>
SEQLOOM_ALWAYS_INLINE void strip_times_panels(int64_t k, int64_t depth, int begin, int end,
                                              const A* a, int64_t lda, const B* panels, float* s) {
  for (int c = begin / kPanel * kPanel; c < end; c += kPanel) {
    if (kVectors > 2 && end - c <= 2 * kLanes) {
      strip_multiply<2>(k, a, lda, panels + c * depth, kPanel, nullptr, s + c, kTile);
    } else {
      strip_multiply<kVectors>(k, a, lda, panels + c * depth, kPanel, nullptr, s + c, kTile);
    }
  }
}

// c[rows, width] = factor[i] c + A B over the pairs whose weight in A is not zero, so that what the
// others meet, NaN even, has no part. Element (i, p) of A is a[i * row_step + p * step]. Slow: for
// results that were not finite, where pairs may be hidden.
template <class M, class T>
inline SEQLOOM_NOINLINE void multiply_seen(int64_t rows, int64_t k, int64_t width, const M* a,
                                           int64_t row_step, int64_t step, const T* b, int64_t ldb,
                                           const float* factor, float* c, int64_t ldc) {
  for (int64_t i = 0; i < rows; ++i, a += row_step, c += ldc) {
    if (factor != nullptr)
      for (int64_t j = 0; j < width; j += kLanes)
        store(c + j, load(c + j) * VecF::broadcast(factor[i]));
    for (int64_t p = 0; p < k; ++p) {
      const float weight = get(load(a + p * step, 1), 0);
      if (weight == 0) continue;
      const VecF by = VecF::broadcast(weight);
      for (int64_t j = 0; j < width; j += kLanes) {
        const int n = static_cast<int>(min<int64_t>(width - j, kLanes));
        store(c + j, fma(by, load(b + p * ldb + j, n), load(c + j)));
      }
    }
  }
}

// Adds zero to `trace`, or NaN where x is not finite.
SEQLOOM_ALWAYS_INLINE void trace_special(VecF x, VecF& trace) { trace += x - x; }
SEQLOOM_ALWAYS_INLINE bool has_special(VecF trace) { return reduce_add(trace) != 0; }

// Panels of the transposed tile: keys [0, live) of x, each `width` long.
template <class T>
inline SEQLOOM_NOINLINE void pack_tile(const T* x, int64_t ld, int64_t width, int64_t live,
                                       float* out) {
  for (int64_t j = 0; j < live; j += kPanel)
    pack_panel_by_columns(x + j * ld, ld, width, min<int64_t>(live - j, kPanel), kPanel,
                          out + j * width);
}

// Rows [0, live) of x as float32, `padded` wide.
template <class T>
inline SEQLOOM_NOINLINE void widen_tile(const T* x, int64_t ld, int64_t width, int64_t live,
                                        int64_t padded, float* out) {
  pack_panel_by_rows(x, ld, live, width, padded, out);
}

// The rows of one part, with the keys that each sees. Rows past `count` fill the last strip: they
// see what the last row sees and their results are dropped.
struct Rows {
  int64_t b, kv_head, group, begin, count, padded;
  Range* range;    // [padded]
  int64_t lo, hi;  // of all rows together
};

SEQLOOM_ALWAYS_INLINE void fill_ranges(const AttentionArgs& a, Rows& rows) {
  rows.lo = a.keys;
  rows.hi = 0;
  for (int64_t r = 0; r < rows.padded; ++r) {
    const int64_t at = rows.begin + min(r, rows.count - 1);
    const Range range =
        visible_range(a, rows.b, rows.kv_head * rows.group + at / a.queries, at % a.queries);
    rows.range[r] = range;
    if (range.lo < range.hi) {
      rows.lo = min(rows.lo, range.lo);
      rows.hi = max(rows.hi, range.hi);
    }
  }
}

// Columns of a tile that a strip needs, and whether every row sees the whole tile.
struct StripView {
  int first, last;  // keys, relative to the tile
  bool full;
};

SEQLOOM_ALWAYS_INLINE StripView strip_view(const Range* range, int64_t j0) {
  int64_t lo = j0 + kTile, hi = j0;
  bool full = true;
#pragma GCC unroll 8
  for (int i = 0; i < kStrip; ++i) {
    full = full && range[i].lo <= j0 && range[i].hi >= j0 + kTile;
    if (range[i].lo >= range[i].hi) continue;
    lo = min(lo, range[i].lo);
    hi = max(hi, range[i].hi);
  }
  const int first = static_cast<int>(max(lo, j0) - j0);
  const int last = static_cast<int>(min<int64_t>(hi, j0 + kTile) - j0);
  return {first, last, full};
}

// Hands out aligned pieces of one block of scratch memory.
class Carve {
 public:
  SEQLOOM_ALWAYS_INLINE explicit Carve(char* at) : at_(at) {}
  template <class T>
  SEQLOOM_ALWAYS_INLINE T* take(int64_t count) {
    T* piece = reinterpret_cast<T*>(at_);
    at_ += bytes<T>(count);
    return piece;
  }
  template <class T>
  static SEQLOOM_ALWAYS_INLINE int64_t bytes(int64_t count) {
    return round_up(count * static_cast<int64_t>(sizeof(T)), 64);
  }

 private:
  char* at_;
};

}  // namespace seqloom::SEQLOOM_ISA_NS
