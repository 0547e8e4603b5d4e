// SPDX-License-Identifier: Apache-2.0
// What the CUDA kernels of attention share: which keys a row sees, the options that turn products
// into scores, dropout, and the choice of a kernel by dtype and head size.
//
// Rows are packed: the queries of all heads that read one key head, head by head, so that a step of
// decoding reads keys and values once for the group. Row r is query r % Tq of head r / Tq.
//
// Options that most calls do not use (softcap, ALiBi, masks, dropout) cost no registers and little
// code: the products of a tile go through a local array in a loop that is not unrolled, and only
// when `options` is set.
#pragma once

#include "core/philox.h"
#include "ops/attention/attention.h"
#include "ops/attention/attention_tiles_cuda.h"

namespace seqloom::ops::attention_device {

constexpr float kLog2e = 1.44269504f;
constexpr float kLargest = 1.7014118e38f;  // 2^127: its product with log2(e) is finite

// ---- which keys a row sees ----------------------------------------------------------------------

struct Range {
  int lo, hi;  // keys [lo, hi)
};

SEQLOOM_DEVICE int64_t offset_of(const AttentionArgs& a, int b) {
  const int64_t n = a.offsets != nullptr ? a.offsets[b] : a.offset;
  return n < -kUnbounded ? -kUnbounded : n > kUnbounded ? kUnbounded : n;
}
SEQLOOM_DEVICE int length_of(const AttentionArgs& a, int b) {
  int64_t n = a.keys;
  if (a.key_lengths != nullptr) {
    n = a.key_lengths[b];  // nobody has checked lengths that were on the device already
    n = n < 0 ? 0 : n > a.keys ? a.keys : n;
  }
  return static_cast<int>(n);
}

SEQLOOM_DEVICE Range visible_range(const AttentionArgs& a, int64_t offset, int length, int64_t i) {
  const int64_t position = i + offset;
  int64_t lo = position - a.left, hi = position + a.right + 1;
  lo = lo < 0 ? 0 : lo > length ? length : lo;
  hi = hi > length ? length : hi < lo ? lo : hi;
  return {static_cast<int>(lo), static_cast<int>(hi < lo ? lo : hi)};
}

// The rows that a block owns: which batch and heads they belong to, and what they see. Ranges move
// right with the query, so the first and the last query bound all of them.
struct RowBlock {
  int b, kv_head, group, queries, rows, first;
  int length;
  int64_t offset;
  int lo, hi;            // what some row sees lies in here
  int full_lo, full_hi;  // every row sees all of this

  SEQLOOM_DEVICE RowBlock(const AttentionArgs& a, int64_t batch_head, int first_row, int count)
      : b(static_cast<int>(batch_head / a.kv_heads)),
        kv_head(static_cast<int>(batch_head % a.kv_heads)),
        group(static_cast<int>(a.heads / a.kv_heads)),
        queries(static_cast<int>(a.queries)),
        rows(group * queries),
        first(first_row),
        length(length_of(a, b)),
        offset(offset_of(a, b)) {
    const int last = first + count < rows ? first + count - 1 : rows - 1;
    const bool one_head = first / queries == last / queries;
    const Range low = visible_range(a, offset, length, one_head ? first % queries : 0);
    const Range high = visible_range(a, offset, length, one_head ? last % queries : queries - 1);
    lo = low.lo;
    hi = high.hi;
    full_lo = high.lo;
    full_hi = low.hi;
  }
  // Whether some row may not see some of the keys [begin, end).
  SEQLOOM_DEVICE bool may_hide(const AttentionArgs& a, int begin, int end) const {
    return a.mask != nullptr || begin < full_lo || end > full_hi;
  }
  SEQLOOM_DEVICE int head_of(int row) const { return kv_head * group + row / queries; }
  SEQLOOM_DEVICE int clamp(int row) const { return row < rows ? row : rows - 1; }
  // Packed rows of contiguous [B, Hq, Tq, ..] are neighbours.
  SEQLOOM_DEVICE int64_t flat(const AttentionArgs& a, int row) const {
    return (static_cast<int64_t>(b) * a.heads + static_cast<int64_t>(kv_head) * group) * queries +
           row;
  }
  template <class T>
  SEQLOOM_DEVICE const T* row_of(const AttentionOperand& x, int row) const {
    return static_cast<const T*>(x.data) + b * x.batch_stride + head_of(row) * x.head_stride +
           row % queries * x.row_stride;
  }
};

template <class T>
SEQLOOM_DEVICE const T* head_of(const AttentionOperand& x, int b, int h) {
  return static_cast<const T*>(x.data) + b * x.batch_stride + h * x.head_stride;
}

// ---- tiles of rows and keys ---------------------------------------------------------------------

// The packed rows of a block, out of queries or gradients.
template <class P, int kM, int kD, int kThreads>
SEQLOOM_DEVICE void load_packed_rows(unsigned char* tile, const RowBlock& rows,
                                     const AttentionOperand& x, int64_t width, bool aligned) {
  using T = typename P::Element;
  load_tile<T, kM, kD, kThreads, P::kAsync>(
      tile, rows.rows - rows.first, static_cast<int>(width), aligned,
      [&](int r) { return rows.template row_of<T>(x, rows.first + r); });
}

// The keys and values that a block of rows meets, tile by tile: `kStages` tiles of each in shared
// memory, of which one is copied while the other is multiplied.
template <class P, class Shape, int kD, bool kPaged>
struct KeyStages {
  using T = typename P::Element;
  static constexpr int kN = Shape::kN;
  const AttentionArgs& a;
  const RowBlock& rows;
  unsigned char *k_tiles, *v_tiles;
  bool aligned;

  SEQLOOM_DEVICE const unsigned char* keys(int tile) const {
    return k_tiles + tile % Shape::kStages * Shape::kKeyTile;
  }
  SEQLOOM_DEVICE const unsigned char* values(int tile) const {
    return v_tiles + tile % Shape::kStages * Shape::kKeyTile;
  }

  SEQLOOM_DEVICE void load(int tile) const {
    const int j0 = tile * kN, stage = tile % Shape::kStages;
    load_operand(k_tiles + stage * Shape::kKeyTile, a.key, j0, a.width);
    load_operand(v_tiles + stage * Shape::kKeyTile, a.value, j0, a.value_width);
    if (P::kAsync) ptx::cp_async_commit();
  }

  SEQLOOM_DEVICE void load_operand(unsigned char* tile, const AttentionOperand& x, int j0,
                                   int64_t width) const {
    if constexpr (kPaged) {
      if (a.table != nullptr) return load_from_pages(tile, x, j0, width);
    }
    load_matrix<P, kN, kD, Shape::kThreads>(tile, head_of<T>(x, rows.b, rows.kv_head), x.row_stride,
                                            j0, rows.hi, width, aligned);
  }

  // Pages are found row by row: they may be smaller than a tile.
  SEQLOOM_DEVICE void load_from_pages(unsigned char* tile, const AttentionOperand& x, int j0,
                                      int64_t width) const {
    const int64_t* const table = a.table + rows.b * a.table_width;
    const int in_page = (1 << a.page_shift) - 1, last = static_cast<int>(a.pages) - 1;
    const T* const head = static_cast<const T*>(x.data) + rows.kv_head * x.head_stride;
    load_tile<T, kN, kD, Shape::kThreads, P::kAsync>(
        tile, rows.hi - j0, static_cast<int>(width), aligned, [&](int r) {
          const int64_t given = table[(j0 + r) >> a.page_shift];
          const int page = given < 0 ? 0 : given > last ? last : static_cast<int>(given);
          return head + page * x.batch_stride + ((j0 + r) & in_page) * x.row_stride;
        });
  }
};

// ---- options ------------------------------------------------------------------------------------

// What a pair needs beside its keys' products: where its row stands.
struct RowPlace {
  int64_t mask_at;   // of the row's first key
  uint64_t element;  // of the row's first key in the dropout stream
  int64_t position;
  float slope;
};

SEQLOOM_DEVICE RowPlace place_of(const AttentionArgs& a, int64_t offset, int b, int h, int i) {
  RowPlace p;
  p.mask_at = b * a.mask_stride[0] + h * a.mask_stride[1] + i * a.mask_stride[2];
  p.element = a.stream_offset + static_cast<uint64_t>(((b * a.heads + h) * a.queries + i) * a.keys);
  p.position = i + offset;
  p.slope = a.slopes != nullptr ? a.slopes[h] : 0.f;
  return p;
}

// What a mask adds to a score.
SEQLOOM_DEVICE float mask_term(const AttentionArgs& a, int64_t at) {
  switch (a.mask_dtype) {
    case DType::kBool:
      return static_cast<const uint8_t*>(a.mask)[at] != 0 ? 0.f : -INFINITY;
    case DType::kFloat16:
      return cuda::to_float(static_cast<const cuda::Half*>(a.mask)[at]);
    case DType::kBFloat16:
      return cuda::to_float(static_cast<const cuda::BFloat16*>(a.mask)[at]);
    default:
      return static_cast<const float*>(a.mask)[at];
  }
}

// The score of a visible pair in base 2, so that exp2 of it is the weight; `cap` is the derivative
// of the softcap. Its products are rounded by name: joined with the sum behind them, here or where
// the shift is taken off, they would differ between forward and backward.
SEQLOOM_DEVICE float score_of(const AttentionArgs& a, const RowPlace& row, int j, float product,
                              float& cap) {
  float x = __fmul_rn(product, a.scale);
  cap = 1.f;
  if (a.softcap > 0.f) {
    const float t = tanhf(x / a.softcap);
    x = __fmul_rn(a.softcap, t);
    cap = fmaf(-t, t, 1.f);
  }
  if (a.slopes != nullptr) x = fmaf(row.slope, static_cast<float>(j - row.position), x);
  if (a.mask != nullptr) {
    const float m = mask_term(a, row.mask_at + j * a.mask_stride[3]), sum = x + m;
    // Finite in base 2, too: a row of the least numbers is not one that sees nothing.
    x = m == -INFINITY ? m : sum < -kLargest ? -kLargest : sum;
  }
  return __fmul_rn(x, kLog2e);
}

SEQLOOM_DEVICE bool is_kept(const AttentionArgs& a, const RowPlace& row, int j) {
  return philox_uniform(a.seed, row.element + static_cast<uint64_t>(j)) >= a.dropout;
}
SEQLOOM_DEVICE float keep_scale(const AttentionArgs& a) {
  return a.dropout < 1.f ? 1.f / (1.f - a.dropout) : 0.f;
}

// Where the exact product of a score would leave what rounding took from the shift in the exponent,
// scores are rounded as well: equal to the shift, or spacings below it. For tensor cores that
// begins where the shift could no longer take the share in.
template <class P>
SEQLOOM_DEVICE bool is_coarse(float shift) {
  const float size = fabsf(shift);
  return size >= (P::kTensorCores ? 4096.f : 2147483648.f) && size < INFINITY;
}

// How backward finds a row's weights again: share 2^(score - shift), scores in base 2. Tensor cores
// round weights to 16 bits, so there one exponent serves, and the share is one.
struct RowSums {
  float shift, share;
};
template <class P>
SEQLOOM_DEVICE RowSums sums_of(const AttentionArgs& a, int64_t row) {
  const float shift = a.sums[2 * row], share = a.sums[2 * row + 1];
  if (P::kTensorCores && !is_coarse<P>(shift)) return {shift - log2f(share), 1.f};
  return {shift, share};
}
template <class P>
SEQLOOM_DEVICE float weight_of(float exponent, float share) {
  const float weight = ptx::ex2_approx(exponent);
  if constexpr (P::kTensorCores) return weight;
  return weight * share;
}

// Gradients of the scores of a tile, options included. Element x of a thread stands for the pair
// that `pair_at(x)` describes. Products q.k become dropped weights, products g.v become ds, times
// the derivative of the cap where `capped`; `also(x, place, ds)` is called before that.
struct PairPlace {
  RowPlace row;
  int j;
  bool visible;
  RowSums sums;
  float delta;  // g . o
};
struct NothingElse {
  SEQLOOM_DEVICE void operator()(int, const PairPlace&, float) const {}
};
template <int kTiles, class PairAt, class Also = NothingElse>
SEQLOOM_DEVICE void gradients_with_options(const AttentionArgs& a, float (&s)[kTiles][4],
                                           float (&dp)[kTiles][4], bool capped,
                                           const PairAt& pair_at, const Also& also = {}) {
  float weights[kTiles * 4], changes[kTiles * 4];
#pragma unroll
  for (int x = 0; x < kTiles * 4; ++x) {
    weights[x] = s[x >> 2][x & 3];
    changes[x] = dp[x >> 2][x & 3];
  }
  const float factor = keep_scale(a);
#pragma unroll 1
  for (int x = 0; x < kTiles * 4; ++x) {
    const PairPlace p = pair_at(x);
    float weight = 0.f, change = 0.f;
    if (p.visible) {
      float cap;
      weight = ptx::ex2_approx(score_of(a, p.row, p.j, weights[x], cap) - p.sums.shift);
      weight *= p.sums.share;
      float d = changes[x], kept = 1.f;
      if (a.dropout > 0.f) {
        kept = is_kept(a, p.row, p.j) ? factor : 0.f;
        d *= kept;
      }
      // A pair of no weight is hidden, whatever its value holds.
      if (weight != 0.f) {
        change = weight * (d - p.delta);
        also(x, p, change);
        if (capped) change *= cap;
      }
      weight *= kept;
    }
    weights[x] = weight;
    changes[x] = change;
  }
#pragma unroll
  for (int x = 0; x < kTiles * 4; ++x) {
    s[x >> 2][x & 3] = weights[x];
    dp[x >> 2][x & 3] = changes[x];
  }
}

// ---- choice of a kernel -------------------------------------------------------------------------

// Which operands may be copied 16 bytes at a time.
inline bool is_aligned(const AttentionOperand& x, int64_t item) {
  const auto bits =
      reinterpret_cast<std::uintptr_t>(x.data) |
      static_cast<std::uintptr_t>((x.batch_stride | x.head_stride | x.row_stride) * item);
  return (bits & 15) == 0;
}

// True where scores are more than products times a positive scale.
inline bool has_options(const AttentionArgs& a) {
  return a.mask != nullptr || a.softcap > 0 || a.slopes != nullptr || a.dropout > 0 ||
         !(a.scale > 0);
}

template <int kValue>
using Width = std::integral_constant<int, kValue>;

template <class P, class F>
void dispatch_width(int64_t width, const F& f) {
  if constexpr (P::kSmallHeads)
    if (width <= 32) return f(P{}, Width<32>{});
  if (width <= 64) return f(P{}, Width<64>{});
  if (width <= 128) return f(P{}, Width<128>{});
  f(P{}, Width<256>{});
}

// Calls f(core, width) for the dtype and head size; both widths of a head share one bucket.
template <class F>
void dispatch_kernel(const AttentionArgs& a, const F& f) {
  const int64_t width = a.width > a.value_width ? a.width : a.value_width;
  const bool turing = cuda::current_device_properties().capability() < 80;
  if (a.dtype == DType::kFloat16 && turing)
    return dispatch_width<TensorCore<cuda::Half, true>>(width, f);
  if (a.dtype == DType::kFloat16) return dispatch_width<TensorCore<cuda::Half, false>>(width, f);
  if (a.dtype == DType::kBFloat16)
    return dispatch_width<TensorCore<cuda::BFloat16, false>>(width, f);
  dispatch_width<FloatCore>(width, f);
}

// Both take device pointers throughout and any dtype but bfloat16 on sm_75.
void launch_forward(const AttentionArgs& a);
void launch_backward(const AttentionBackwardArgs& a);
void launch_mask_gradient(const AttentionBackwardArgs& a, const float* delta);

}  // namespace seqloom::ops::attention_device
