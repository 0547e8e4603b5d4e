// SPDX-License-Identifier: Apache-2.0
// Attention forward: online softmax over tiles of 64 keys.
//
// A part is a run of query rows of one key head (all heads of its group, one after the other). For
// each tile of keys, packed once a part: every strip of six rows makes its scores, raises its
// running maximum, and leaves exp(score - maximum) in a buffer; then every strip multiplies its
// share of the buffer by the values and adds that to its outputs, which stay in L2 with the
// maxima and sums. Tiles that no row sees are skipped, and products stop at the last key that a
// strip sees. Parts are cut by shape and run in parallel.
//
// What a hidden key or value holds has no part, yet its weight of zero times NaN would be NaN: a
// part whose results are not finite is computed again, multiplying only the pairs that are seen.
//
// With dot-product instructions bfloat16 operands multiply as pairs, the weights rounded to
// bfloat16; otherwise 16-bit inputs are widened on their way into the packed tile.
#include "ops/attention/attention_cpu.h"

namespace seqloom::SEQLOOM_ISA_NS {
namespace {

// How operands of type M (float, or bf16 for pairs) are packed.
template <class M>
struct Packing {
  using Element = float;
  static constexpr int kPair = 1;
  template <class T>
  static SEQLOOM_ALWAYS_INLINE void keys(const T* x, int64_t ld, int64_t width, int64_t live,
                                         float* out) {
    pack_tile(x, ld, width, live, out);
  }
  template <class T>
  static SEQLOOM_ALWAYS_INLINE void values(const T* x, int64_t ld, int64_t width, int64_t live,
                                           int64_t padded, float* out) {
    widen_tile(x, ld, width, live, padded, out);
  }
};

#if defined(__AVX512BF16__)
template <>
struct Packing<bf16> {
  using Element = uint32_t;
  static constexpr int kPair = 2;
  static SEQLOOM_NOINLINE void keys(const bf16* x, int64_t ld, int64_t width, int64_t live,
                                    uint32_t* out) {
    for (int64_t j = 0; j < live; j += kPanel)
      pack_pairs_by_columns(x + j * ld, ld, width, min<int64_t>(live - j, kPanel), kPanel,
                            out + j * ((width + 1) / 2));
  }
  static SEQLOOM_NOINLINE void values(const bf16* x, int64_t ld, int64_t width, int64_t live,
                                      int64_t padded, uint32_t* out) {
    pack_pairs_by_rows(x, ld, live, width, padded, out);
  }
};
#endif

// What a part keeps from tile to tile, and its buffers.
template <class M>
struct Part {
  Rows rows;
  M* query;                              // [padded, D], times the scale unless M is bf16
  float* out;                            // [padded, width of out], not yet divided by the sums
  float* peak;                           // [padded] running maxima times log2(e)
  float* sum;                            // [padded, kLanes] running sums, lane by lane
  typename Packing<M>::Element* keys;    // packed tile
  typename Packing<M>::Element* values;  // packed tile, unless values are read in place
  float* scores;                         // [kStrip, kTile]
  M* weights;                            // [padded, kTile]
  float* factor;                         // [padded]: exp(old maximum - new maximum)
  int64_t out_width;
};

// Scores of six rows against the tile, then weights: 2^(score log2(e) - maximum).
template <class M>
void strip_weights(const AttentionArgs& a, Part<M>& part, int64_t r0, int64_t j0, StripView view,
                   float scale, bool plain) {
  const int begin = view.first / kLanes * kLanes;
  const int end = static_cast<int>(round_up(view.last, kLanes));
  constexpr int kPair = Packing<M>::kPair;
  const int64_t depth = (a.width + kPair - 1) / kPair;
  float* s = part.scores;
  const Range* range = part.rows.range + r0;
  strip_times_panels(a.width, depth, begin, end, part.query + r0 * a.width, a.width, part.keys, s);
  if (!plain) {
    for (int i = 0; i < kStrip; ++i)
      score_row(a, part.rows.b, range[i], j0, begin, end, scale, s + i * kTile, nullptr);
    scale = 1;
  } else if (!view.full) {
    for (int i = 0; i < kStrip; ++i) hide_row(range[i], j0, begin, end, s + i * kTile);
  }

  // Exponents are to base 2. A row that has seen nothing yet takes zero for its maximum, so that
  // -inf - -inf can't arise.
  scale *= kLog2e;
  float fresh[round_up(kStrip, kLanes)];
  for (int i = 0; i < kStrip; ++i) {
    const float* row = s + i * kTile;
    VecF top = load(row + begin);
    for (int c = begin + kLanes; c < end; c += kLanes) top = max(load(row + c), top);
    const float peak = reduce_max(top) * scale, old = part.peak[r0 + i];
    fresh[i] = peak > old ? peak : old;
  }
  for (int i = 0; i < kStrip; i += kLanes) {
    const int n = min(kStrip - i, kLanes);
    const VecF now = load(fresh + i, n), old = load(part.peak + r0 + i, n);
    const VecF base = select(now == VecF::broadcast(-kInfinity), VecF::zero(), now);
    store(part.factor + r0 + i, exp2_weight(old - base), n);
    store(part.peak + r0 + i, now, n);
    store(fresh + i, base, n);
  }

  for (int i = 0; i < kStrip; ++i) {
    float* row = s + i * kTile;
    const bool coarse = round_coarse_row(fresh[i], scale, begin, end, row);
    const VecF slope = VecF::broadcast(coarse ? 1 : scale);
    M* to = part.weights + (r0 + i) * kTile;
    const VecF base = VecF::broadcast(fresh[i]);
    float* total = part.sum + (r0 + i) * kLanes;
    VecF sum = load(total) * VecF::broadcast(part.factor[r0 + i]);
    if (SEQLOOM_LIKELY(a.dropout == 0)) {
#pragma GCC unroll 4
      for (int c = begin; c < end; c += kLanes) {
        const VecF p = exp2_weight(fms(load(row + c), slope, base));
        sum += p;
        store(to + c, p);
      }
    } else {
      float keep[kTile + kLanes];
      dropout_row(a, part.rows.b, range[i], j0, begin, end, keep);
      for (int c = begin; c < end; c += kLanes) {
        const VecF p = exp2_weight(fms(load(row + c), slope, base));
        sum += p;
        store(to + c, p * load(keep + c));
      }
    }
    store(total, sum);
  }
}

// Divides by the sums and writes the rows, and what backward needs to find their weights again.
// Returns whether something was not finite.
template <class T, class M>
bool finish_rows(const AttentionArgs& a, const Part<M>& part) {
  const Rows& rows = part.rows;
  const float scale = keep_scale(a);
  VecF trace = VecF::zero();
  for (int64_t r = 0; r < rows.count; ++r) {
    const Range& at = rows.range[r];
    const int64_t row = (rows.b * a.heads + at.head) * a.queries + at.query;
    const float sum = reduce_add(load(part.sum + r * kLanes));
    const VecF factor = VecF::broadcast(sum == 0 ? 0 : scale);
    const VecF divisor = VecF::broadcast(sum == 0 ? 1 : sum);
    T* to = static_cast<T*>(a.output) + row * a.value_width;
    const float* from = part.out + r * part.out_width;
    for (int64_t c = 0; c < a.value_width; c += kLanes) {
      const VecF x = load(from + c) * factor / divisor;
      trace_special(x, trace);
      store(to + c, x, static_cast<int>(min<int64_t>(a.value_width - c, kLanes)));
    }
    if (a.sums != nullptr) {
      a.sums[2 * row] = sum == 0 ? kInfinity : part.peak[r];
      a.sums[2 * row + 1] = sum == 0 ? 0 : 1 / sum;
    }
  }
  return has_special(trace);
}

template <class T, class M>
SEQLOOM_NOINLINE bool forward_part(const AttentionArgs& a, int64_t b, int64_t kv_head,
                                   int64_t begin, int64_t count, bool careful) {
  using Element = typename Packing<M>::Element;
  constexpr int kPair = Packing<M>::kPair;
  constexpr bool kDot = kPair == 2;
  const int64_t padded = round_up(count, kStrip), out_width = round_up(a.value_width, kLanes);
  const int64_t key_words = (a.width + kPair - 1) / kPair * kTile;
  const int64_t value_words = kTile / kPair * out_width;
  // Float values whose rows are whole vectors are multiplied where they are.
  const bool in_place = dtype_of<T>() == DType::kFloat32 && a.value_width == out_width;
  const int64_t bytes = Carve::bytes<Range>(padded) + Carve::bytes<M>(padded * a.width) +
                        Carve::bytes<float>(padded * out_width) + 2 * Carve::bytes<float>(padded) +
                        Carve::bytes<float>(padded * kLanes) + Carve::bytes<Element>(key_words) +
                        Carve::bytes<Element>(in_place ? 0 : value_words) +
                        Carve::bytes<float>(kStrip * kTile) + Carve::bytes<M>(padded * kTile);
  const cpu::Scratch scratch(static_cast<size_t>(bytes));
  Carve carve(scratch.as<char>());

  Part<M> part;
  part.rows = {b, kv_head, a.heads / a.kv_heads, begin, count, padded, carve.take<Range>(padded),
               0, 0};
  part.query = carve.take<M>(padded * a.width);
  part.out = carve.take<float>(padded * out_width);
  part.peak = carve.take<float>(padded);
  part.factor = carve.take<float>(padded);
  part.sum = carve.take<float>(padded * kLanes);
  part.keys = carve.take<Element>(key_words);
  part.values = carve.take<Element>(in_place ? 0 : value_words);
  part.scores = carve.take<float>(kStrip * kTile);
  part.weights = carve.take<M>(padded * kTile);
  part.out_width = out_width;
  Rows& rows = part.rows;
  fill_ranges(a, rows);

  const VecF scale = VecF::broadcast(kDot ? 1.0f : a.scale);
  for (int64_t r = 0; r < padded; ++r) {
    const T* from =
        head_of<T>(a.query, b, rows.range[r].head) + rows.range[r].query * a.query.row_stride;
    M* to = part.query + r * a.width;
    for (int64_t c = 0; c < a.width; c += kLanes) {
      const int n = static_cast<int>(min<int64_t>(a.width - c, kLanes));
      store(to + c, load(from + c, n) * scale, n);
    }
    part.peak[r] = -kInfinity;
  }
  for (int64_t i = 0; i < padded * kLanes; ++i) part.sum[i] = 0;
  for (int64_t i = 0; i < padded * out_width; ++i) part.out[i] = 0;

  const T* keys = head_of<T>(a.key, b, kv_head);
  const T* values = head_of<T>(a.value, b, kv_head);
  const bool plain = !has_score_options(a) && (!kDot || a.scale > 0);
  for (int64_t j0 = rows.lo / kTile * kTile; j0 < rows.hi; j0 += kTile) {
    const int64_t live = min<int64_t>(kTile, rows.hi - j0);
    Packing<M>::keys(keys + j0 * a.key.row_stride, a.key.row_stride, a.width, live, part.keys);
    for (int64_t r0 = 0; r0 < padded; r0 += kStrip) {
      const StripView view = strip_view(rows.range + r0, j0);
      if (view.first < view.last)
        strip_weights(a, part, r0, j0, view, kDot ? a.scale : 1.0f, plain);
    }
    const T* tile = values + j0 * a.value.row_stride;
    if (!in_place)
      Packing<M>::values(tile, a.value.row_stride, a.value_width, live, out_width, part.values);
    for (int64_t r0 = 0; r0 < padded; r0 += kStrip) {
      const StripView view = strip_view(rows.range + r0, j0);
      if (view.first >= view.last) continue;
      const int first = view.first / kPair * kPair;
      const M* weights = part.weights + r0 * kTile + first;
      float* to = part.out + r0 * out_width;
      bool done = careful && (a.mask != nullptr || !view.full);
      if (done)
        multiply_seen(kStrip, view.last - first, a.value_width, weights, kTile, 1,
                      tile + first * a.value.row_stride, a.value.row_stride, part.factor + r0, to,
                      out_width);
      if constexpr (!kDot && dtype_of<T>() == DType::kFloat32) {
        if (in_place && !done) {
          strip_times_rows(view.last - first, out_width, weights, kTile,
                           tile + first * a.value.row_stride, a.value.row_stride, part.factor + r0,
                           to, out_width);
          done = true;
        }
      }
      if (!done)
        strip_times_rows(view.last - first, out_width, weights, kTile,
                         part.values + first / kPair * out_width, out_width, part.factor + r0, to,
                         out_width);
    }
  }
  return finish_rows<T>(a, part);
}

// Rows of a part: its outputs and queries fill at most half of L2, and there are 32 parts or more
// where the rows suffice.
int64_t part_rows(const AttentionArgs& a) {
  const int64_t rows = a.heads / a.kv_heads * a.queries;
  const int64_t widest = max<int64_t>(64, max(a.width, a.value_width));
  const int64_t most = max<int64_t>(64 * kStrip * 64 / widest, 16 * kStrip);
  const int64_t wanted = (rows * a.batch * a.kv_heads + 31) / 32;
  return round_up(min(min(max<int64_t>(wanted, 16 * kStrip), most), rows), kStrip);
}

template <class T, class M>
void forward(const AttentionArgs& a) {
  const int64_t rows = a.heads / a.kv_heads * a.queries, each = part_rows(a);
  const int64_t parts = (rows + each - 1) / each;
  cpu::parallel_for(a.batch * a.kv_heads * parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      // Later rows see more under a causal mask: they go first.
      const int64_t head = item / parts, first = (parts - 1 - item % parts) * each;
      const int64_t b = head / a.kv_heads, h = head % a.kv_heads, n = min(each, rows - first);
      if (forward_part<T, M>(a, b, h, first, n, false)) forward_part<T, M>(a, b, h, first, n, true);
    }
  });
}

}  // namespace

void attention_forward(const AttentionArgs& a) {
  if (a.dtype == DType::kFloat32) return forward<float, float>(a);
#if defined(__AVX512BF16__)
  if (a.dtype == DType::kBFloat16) return forward<bf16, bf16>(a);
#else
  if (a.dtype == DType::kBFloat16) return forward<bf16, float>(a);
#endif
  forward<f16, float>(a);
}

}  // namespace seqloom::SEQLOOM_ISA_NS
