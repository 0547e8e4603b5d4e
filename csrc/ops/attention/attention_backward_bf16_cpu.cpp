// SPDX-License-Identifier: Apache-2.0
// Attention backward: scores are computed again, tile of keys by tile of keys.
//
// An item is one key head (with all query rows of its group) and a run of key tiles. For each tile
// and each block of 96 rows: weights P from scores, shift and share, then dS = P (dP - delta), both
// kept for the block; queries' gradients grow by dS K, and the tile's own gradients by P^T g and
// dS^T Q. So keys and values get their gradients from one item alone, in the order of the rows.
// Queries do too where key heads are many; otherwise items hold partial sums that are added in
// order at the end.
//
// Queries are multiplied by the scale on entry, which serves scores and key gradients; query
// gradients get it when they are written.
//
// An item whose gradients are not finite is computed again, multiplying only the pairs that are
// seen: what hidden keys, values and queries hold has no part.
#include "cpu/gemm_dot.h"
#include "ops/attention/attention_cpu.h"

namespace seqloom::SEQLOOM_ISA_NS {

using ops::AttentionBackwardArgs;

namespace {

constexpr int kBlock = 16 * kStrip;  // rows that share a buffer of weights
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kKeyStrip = 8;
#else
constexpr int kKeyStrip = 4;
#endif
static_assert(kTile % kKeyStrip == 0);

// c[kKeyStrip, NV vectors] += A^T B over k rows; element (i, k) of A^T is a[k * lda + i].
template <int NV>
inline SEQLOOM_NOINLINE void transposed_multiply(int64_t k, const float* a, int64_t lda,
                                                 const float* b, int64_t ldb, float* c,
                                                 int64_t ldc) {
  Tile<kKeyStrip, NV> acc;
#pragma GCC unroll 8
  for (int i = 0; i < kKeyStrip; ++i)
#pragma GCC unroll 2
    for (int j = 0; j < NV; ++j) acc.v[i][j] = VecF::zero();
#pragma GCC unroll 2
  for (int64_t p = 0; p < k; ++p, a += lda, b += ldb) {
    VecF row[NV];
#pragma GCC unroll 2
    for (int j = 0; j < NV; ++j) row[j] = load(b + j * kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < kKeyStrip; ++i) {
      const VecF x = VecF::broadcast(a[i]);
#pragma GCC unroll 2
      for (int j = 0; j < NV; ++j) acc.v[i][j] = fma(x, row[j], acc.v[i][j]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kKeyStrip; ++i)
#pragma GCC unroll 2
    for (int j = 0; j < NV; ++j)
      store(c + i * ldc + j * kLanes, load(c + i * ldc + j * kLanes) + acc.v[i][j]);
}

// c[kTile, width] += A[k, kTile]^T B[k, width]; rows of A and B lie kTile and `width` apart.
SEQLOOM_ALWAYS_INLINE void tile_gradient(int64_t k, int64_t live, int64_t width, const float* a,
                                         const float* b, float* c) {
  for (int64_t i = 0; i < live; i += kKeyStrip) {
    int64_t j = 0;
    for (; j + 2 * kLanes <= width; j += 2 * kLanes)
      transposed_multiply<2>(k, a + i, kTile, b + j, width, c + i * width + j, width);
    if (j < width) transposed_multiply<1>(k, a + i, kTile, b + j, width, c + i * width + j, width);
  }
}

// One item and its buffers.
struct Work {
  Rows rows;
  int64_t width, value_width;  // D and Dv in whole vectors
  float* query;                // [padded, width], times the scale
  float* gradient;             // [padded, value_width]
  float* d_query;              // [padded, width], before the scale
  float* shift;                // [padded]
  float* share;                // [padded]
  float* delta;                // [padded]
  float* key_panels;           // packed tile
  float* value_panels;         // packed tile
  float* key_rows;             // [kTile, width], unless keys are read in place
  float* d_key;                // [kTile, width]
  float* d_value;              // [kTile, value_width]
  float* weights;              // [kBlock, kTile]: P, dropped and scaled
  float* d_scores;             // [kBlock, kTile]
  float* moved;                // [group] sums of ds_ij (j - position_i)
  bool careful;                // the second time

  static SEQLOOM_ALWAYS_INLINE int64_t bytes(const AttentionArgs& a, int64_t padded) {
    const int64_t d = round_up(a.width, kLanes), dv = round_up(a.value_width, kLanes);
    return Carve::bytes<Range>(padded) + 2 * Carve::bytes<float>(padded * d) +
           Carve::bytes<float>(padded * dv) + 3 * Carve::bytes<float>(padded) +
           3 * Carve::bytes<float>(kTile * d) + 2 * Carve::bytes<float>(kTile * dv) +
           2 * Carve::bytes<float>(kBlock * kTile) + Carve::bytes<float>(a.heads / a.kv_heads);
  }
  SEQLOOM_ALWAYS_INLINE Work(const AttentionArgs& a, int64_t b, int64_t kv_head, int64_t count,
                             char* memory) {
    Carve carve(memory);
    const int64_t padded = round_up(count, kStrip);
    rows = {b, kv_head, a.heads / a.kv_heads, 0, count, padded, carve.take<Range>(padded), 0, 0};
    width = round_up(a.width, kLanes);
    value_width = round_up(a.value_width, kLanes);
    query = carve.take<float>(padded * width);
    gradient = carve.take<float>(padded * value_width);
    d_query = carve.take<float>(padded * width);
    shift = carve.take<float>(padded);
    share = carve.take<float>(padded);
    delta = carve.take<float>(padded);
    key_panels = carve.take<float>(kTile * width);
    value_panels = carve.take<float>(kTile * value_width);
    key_rows = carve.take<float>(kTile * width);
    d_key = carve.take<float>(kTile * width);
    d_value = carve.take<float>(kTile * value_width);
    weights = carve.take<float>(kBlock * kTile);
    d_scores = carve.take<float>(kBlock * kTile);
    moved = carve.take<float>(rows.group);
    careful = false;
  }
};

template <class T>
SEQLOOM_ALWAYS_INLINE void widen_scaled(const T* from, int64_t width, int64_t padded, float scale,
                                        float* to) {
  const VecF factor = VecF::broadcast(scale);
  for (int64_t c = 0; c < padded; c += kLanes)
    store(to + c, load(from + c, static_cast<int>(min<int64_t>(width - c, kLanes))) * factor);
}

// Queries, gradients, sums and delta of all rows as float32; rows that only fill a strip are zeros.
template <class T>
SEQLOOM_NOINLINE void load_rows(const AttentionBackwardArgs& args, Work& w) {
  const AttentionArgs& a = args.forward;
  const Rows& rows = w.rows;
  for (int64_t r = 0; r < rows.padded; ++r) {
    float* query = w.query + r * w.width;
    float* gradient = w.gradient + r * w.value_width;
    if (r >= rows.count) {
      for (int64_t c = 0; c < w.width; ++c) query[c] = 0;
      for (int64_t c = 0; c < w.value_width; ++c) gradient[c] = 0;
      w.shift[r] = kInfinity;
      w.share[r] = 0;
      w.delta[r] = 0;
      continue;
    }
    const int64_t h = rows.range[r].head, i = rows.range[r].query;
    const int64_t row = (rows.b * a.heads + h) * a.queries + i;
    widen_scaled(head_of<T>(a.query, rows.b, h) + i * a.query.row_stride, a.width, w.width, a.scale,
                 query);
    widen_scaled(head_of<T>(args.gradient, rows.b, h) + i * args.gradient.row_stride, a.value_width,
                 w.value_width, 1.0f, gradient);
    const T* out = static_cast<const T*>(a.output) + row * a.value_width;
    VecF sum = VecF::zero();
    for (int64_t c = 0; c < a.value_width; c += kLanes) {
      const int n = static_cast<int>(min<int64_t>(a.value_width - c, kLanes));
      sum = fma(load(out + c, n), load(gradient + c), sum);
    }
    w.shift[r] = a.sums[2 * row];
    w.share[r] = a.sums[2 * row + 1];
    w.delta[r] = reduce_add(sum);
  }
  for (int64_t i = 0; i < rows.padded * w.width; ++i) w.d_query[i] = 0;
  for (int64_t h = 0; h < rows.group; ++h) w.moved[h] = 0;
}

SEQLOOM_ALWAYS_INLINE void zero_strip(float* x) {
  for (int i = 0; i < kStrip * kTile; i += kLanes) store(x + i, VecF::zero());
}

// Columns of a strip that it does not see, which the tile's own gradients do read.
SEQLOOM_ALWAYS_INLINE void zero_outside(int begin, int end, float* x) {
  for (int i = 0; i < kStrip; ++i, x += kTile) {
    for (int c = 0; c < begin; c += kLanes) store(x + c, VecF::zero());
    for (int c = end; c < kTile; c += kLanes) store(x + c, VecF::zero());
  }
}

// Adds the score gradients of one row to those of the mask.
inline SEQLOOM_NOINLINE void add_mask_gradient(const AttentionBackwardArgs& args, int64_t b,
                                               int64_t h, int64_t i, int64_t j0, int begin, int end,
                                               const float* ds) {
  const AttentionArgs& a = args.forward;
  float* to = args.d_mask + b * a.mask_stride[0] + h * a.mask_stride[1] + i * a.mask_stride[2];
  const int live = static_cast<int>(min<int64_t>(end, a.keys - j0));
  VecF sum = VecF::zero();
  for (int c = begin; c < live; c += kLanes) {
    const int n = min(live - c, kLanes);
    if (a.mask_stride[3] == 0) {
      sum += load(ds + c, n);
    } else {
      store(to + j0 + c, load(to + j0 + c, n) + load(ds + c, n), n);
    }
  }
  if (a.mask_stride[3] == 0) *to += reduce_add(sum);
}

// How far one row's score gradients pull along the keys: the gradient of its slope.
inline SEQLOOM_NOINLINE float moved_by(int64_t distance, int begin, int end, const float* ds) {
  VecF sum = VecF::zero();
  for (int c = begin; c < end; c += kLanes)
    sum = fma(load(ds + c),
              VecF::broadcast(static_cast<float>(distance + c)) + to_float(VecI::iota()), sum);
  return reduce_add(sum);
}

// Few rows have their scores from dot products, as attention_decode adds them up.
struct NoFetch {
  template <class T>
  SEQLOOM_ALWAYS_INLINE void operator()(const T*, int64_t, int64_t) const {}
};
template <class T>
SEQLOOM_NOINLINE void dot_scores(const AttentionArgs& a, const Work& w, int64_t r0, const T* keys,
                                 int64_t live, float* to) {
  dot_block(kStrip, live, a.width, w.query + r0 * w.width, w.width, keys, a.key.row_stride,
            NoFetch{}, to, kTile);
}

// P and dS of six rows against the tile, at rows `at` of the block's buffers.
template <class T>
SEQLOOM_NOINLINE void strip_gradients(const AttentionBackwardArgs& args, Work& w, int64_t r0,
                                      int64_t at, int64_t j0, StripView view, bool plain,
                                      const T* keys) {
  const AttentionArgs& a = args.forward;
  const int begin = view.first / kLanes * kLanes;
  const int end = static_cast<int>(round_up(view.last, kLanes));
  float* p = w.weights + at * kTile;
  float* ds = w.d_scores + at * kTile;
  float slope[kStrip * kTile];
  if (is_decoding(a)) {
    dot_scores(a, w, r0, keys, min<int64_t>(kTile, a.keys - j0), p);
  } else {
    strip_times_panels(a.width, a.width, begin, end, w.query + r0 * w.width, w.width, w.key_panels,
                       p);
  }
  strip_times_panels(a.value_width, a.value_width, begin, end, w.gradient + r0 * w.value_width,
                     w.value_width, w.value_panels, ds);
  if (begin != 0 || end != kTile) {
    zero_outside(begin, end, p);
    zero_outside(begin, end, ds);
  }
  const bool masked = !plain || !view.full;
  const VecF hidden = VecF::broadcast(-kInfinity);
  const VecF scale = VecF::broadcast(keep_scale(a));
  for (int i = 0; i < kStrip; ++i, p += kTile, ds += kTile) {
    const int64_t r = r0 + i;
    const VecF shift = VecF::broadcast(w.shift[r]), share = VecF::broadcast(w.share[r]);
    const VecF delta = VecF::broadcast(w.delta[r]);
    if (SEQLOOM_LIKELY(!masked && a.dropout == 0)) {
      const bool coarse = round_coarse_row(w.shift[r], kLog2e, begin, end, p);
      const VecF log2e = VecF::broadcast(coarse ? 1 : kLog2e);
#pragma GCC unroll 4
      for (int c = begin; c < end; c += kLanes) {
        const VecF weight = exp2_weight(fms(load(p + c), log2e, shift)) * share;
        store(p + c, weight);
        store(ds + c, weight * (load(ds + c) - delta));
      }
      continue;
    }
    const Range& range = w.rows.range[r];
    float keep[kTile + kLanes];
    if (plain) {
      hide_row(range, j0, begin, end, p);
    } else {
      score_row(a, w.rows.b, range, j0, begin, end, 1.0f, p, a.softcap > 0 ? slope : nullptr);
    }
    if (a.dropout > 0) dropout_row(a, w.rows.b, range, j0, begin, end, keep);
    const bool coarse = round_coarse_row(w.shift[r], kLog2e, begin, end, p);
    const VecF log2e = VecF::broadcast(coarse ? 1 : kLog2e);
    for (int c = begin; c < end; c += kLanes) {
      // Hidden pairs are zero whatever their values hold.
      const VecF score = load(p + c);
      const VecF weight =
          zero_unless(score != hidden, exp2_weight(fms(score, log2e, shift)) * share);
      VecF dropped = weight, dp = load(ds + c);
      if (a.dropout > 0) {
        const VecF factor = load(keep + c) * scale;
        dropped = weight * factor;
        dp = dp * factor;
      }
      store(p + c, dropped);
      store(ds + c, zero_unless(weight != VecF::zero(), weight * (dp - delta)));
    }
    if (args.d_slopes != nullptr && r < w.rows.count)
      w.moved[range.head - w.rows.kv_head * w.rows.group] +=
          moved_by(j0 - range.query - offset_of(a, w.rows.b), begin, end, ds);
    if (args.d_mask != nullptr && r < w.rows.count && !w.careful)
      add_mask_gradient(args, w.rows.b, range.head, range.query, j0, begin, end, ds);
    if (a.softcap > 0)
      for (int c = begin; c < end; c += kLanes) store(ds + c, load(ds + c) * load(slope + c));
  }
}

// One tile of keys against all rows. Returns whether its own gradients are not finite somewhere.
template <class T>
SEQLOOM_NOINLINE bool tile_backward(const AttentionBackwardArgs& args, Work& w, int64_t j0) {
  const AttentionArgs& a = args.forward;
  Rows& rows = w.rows;
  const int64_t live = min<int64_t>(kTile, a.keys - j0);
  for (int64_t i = 0; i < kTile * w.width; i += kLanes) store(w.d_key + i, VecF::zero());
  for (int64_t i = 0; i < kTile * w.value_width; i += kLanes) store(w.d_value + i, VecF::zero());
  if (j0 < rows.hi && j0 + kTile > rows.lo) {
    const T* keys = head_of<T>(a.key, rows.b, rows.kv_head) + j0 * a.key.row_stride;
    const T* values = head_of<T>(a.value, rows.b, rows.kv_head) + j0 * a.value.row_stride;
    pack_tile(keys, a.key.row_stride, a.width, live, w.key_panels);
    pack_tile(values, a.value.row_stride, a.value_width, live, w.value_panels);
    const float* key_rows = w.key_rows;
    int64_t ld = w.width;
    if (dtype_of<T>() == DType::kFloat32 && w.width == a.width) {
      key_rows = reinterpret_cast<const float*>(keys);
      ld = a.key.row_stride;
    } else {
      widen_tile(keys, a.key.row_stride, a.width, live, w.width, w.key_rows);
    }
    const float ones[kStrip] = {1, 1, 1, 1, 1, 1};
    const bool plain = !has_score_options(a);
    for (int64_t block = 0; block < rows.padded; block += kBlock) {
      // The strips between the first and the last that see the tile.
      const int64_t stop = min(block + kBlock, rows.padded);
      int64_t first = stop, last = block;
      for (int64_t r0 = block; r0 < stop; r0 += kStrip) {
        const StripView view = strip_view(rows.range + r0, j0);
        const int64_t at = r0 - block;
        if (view.first < view.last) {
          strip_gradients(args, w, r0, at, j0, view, plain, keys);
          first = min(first, r0);
          last = r0 + kStrip;
        } else if (first < stop) {
          zero_strip(w.weights + at * kTile);
          zero_strip(w.d_scores + at * kTile);
        }
      }
      if (first >= last) continue;
      for (int64_t r0 = first; r0 < last; r0 += kStrip) {
        const StripView view = strip_view(rows.range + r0, j0);
        if (view.first >= view.last) continue;
        if (w.careful)
          multiply_seen(kStrip, view.last - view.first, a.width,
                        w.d_scores + (r0 - block) * kTile + view.first, kTile, 1,
                        keys + view.first * a.key.row_stride, a.key.row_stride, nullptr,
                        w.d_query + r0 * w.width, w.width);
        else
          strip_times_rows(view.last - view.first, w.width,
                           w.d_scores + (r0 - block) * kTile + view.first, kTile,
                           key_rows + view.first * ld, ld, ones, w.d_query + r0 * w.width, w.width);
      }
      const float* p = w.weights + (first - block) * kTile;
      const float* ds = w.d_scores + (first - block) * kTile;
      const float* gradient = w.gradient + first * w.value_width;
      const float* query = w.query + first * w.width;
      if (w.careful) {
        multiply_seen(live, last - first, w.value_width, p, 1, kTile, gradient, w.value_width,
                      nullptr, w.d_value, w.value_width);
        multiply_seen(live, last - first, w.width, ds, 1, kTile, query, w.width, nullptr, w.d_key,
                      w.width);
      } else {
        tile_gradient(last - first, live, w.value_width, p, gradient, w.d_value);
        tile_gradient(last - first, live, w.width, ds, query, w.d_key);
      }
    }
  }
  const int64_t row = (rows.b * a.kv_heads + rows.kv_head) * a.keys + j0;
  VecF trace = VecF::zero();
  for (int64_t j = 0; j < live; ++j) {
    T* dk = static_cast<T*>(args.d_key) + (row + j) * a.width;
    T* dv = static_cast<T*>(args.d_value) + (row + j) * a.value_width;
    for (int64_t c = 0; c < a.width; c += kLanes) {
      const VecF x = load(w.d_key + j * w.width + c);
      trace_special(x, trace);
      store(dk + c, x, static_cast<int>(min<int64_t>(a.width - c, kLanes)));
    }
    for (int64_t c = 0; c < a.value_width; c += kLanes) {
      const VecF x = load(w.d_value + j * w.value_width + c);
      trace_special(x, trace);
      store(dv + c, x, static_cast<int>(min<int64_t>(a.value_width - c, kLanes)));
    }
  }
  return has_special(trace);
}

// How the work is cut: rounds follow each other, the items of a round run in parallel. Rounds keep
// apart the items that would add to the same element of the mask's gradient.
struct Plan {
  int64_t rows, parts, tiles;
  int64_t batch_rounds, head_rounds, part_rounds;

  explicit SEQLOOM_ALWAYS_INLINE Plan(const AttentionBackwardArgs& args) {
    const AttentionArgs& a = args.forward;
    rows = a.heads / a.kv_heads * a.queries;
    tiles = (a.keys + kTile - 1) / kTile;
    const bool mask = args.d_mask != nullptr;
    batch_rounds = mask && a.mask_stride[0] == 0 ? a.batch : 1;
    head_rounds = mask && a.mask_stride[1] == 0 ? a.kv_heads : 1;
    const int64_t together = a.batch / batch_rounds * (a.kv_heads / head_rounds);
    // Below 8 heads at a time, cut the keys, but keep 8 tiles a part.
    parts = max<int64_t>(1, min((15 + together) / together, tiles / 8));
    if (together >= 8) parts = 1;
    part_rounds = mask && a.mask_stride[3] == 0 ? parts : 1;
  }
};

// Writes rows of query gradients, `parts` partial sums of them `apart` from each other.
template <class T>
SEQLOOM_ALWAYS_INLINE void write_rows(const float* from, int64_t ld, int64_t parts, int64_t apart,
                                      int64_t count, int64_t width, float scale, T* to) {
  for (int64_t r = 0; r < count; ++r)
    for (int64_t c = 0; c < width; c += kLanes) {
      VecF sum = load(from + r * ld + c);
      for (int64_t p = 1; p < parts; ++p) sum += load(from + p * apart + r * ld + c);
      store(to + r * width + c, sum * VecF::broadcast(scale),
            static_cast<int>(min<int64_t>(width - c, kLanes)));
    }
}

// Tiles [first, last) of a head. Returns whether a gradient is not finite somewhere.
template <class T>
SEQLOOM_NOINLINE bool tiles_backward(const AttentionBackwardArgs& args, Work& w, int64_t first,
                                     int64_t last) {
  load_rows<T>(args, w);
  bool special = false;
  for (int64_t tile = first; tile < last; ++tile)
    special = tile_backward<T>(args, w, tile * kTile) || special;
  VecF trace = VecF::zero();
  for (int64_t i = 0; i < w.rows.count * w.width; i += kLanes)
    trace_special(load(w.d_query + i), trace);
  return special || has_special(trace);
}

template <class T>
void backward(const AttentionBackwardArgs& args) {
  const AttentionArgs& a = args.forward;
  const Plan plan(args);
  const int64_t padded = round_up(plan.rows, kStrip), width = round_up(a.width, kLanes);
  const int64_t heads = a.batch * a.kv_heads, apart = heads * plan.rows * width;
  const cpu::Scratch partial(
      plan.parts > 1 ? static_cast<size_t>(plan.parts * apart) * sizeof(float) : 0);
  float* partial_sums = partial.as<float>();
  const int64_t group = a.heads / a.kv_heads;
  const cpu::Scratch moved(args.d_slopes != nullptr
                               ? static_cast<size_t>(plan.parts * a.batch * a.heads) * sizeof(float)
                               : 0);

  const auto run = [&](int64_t b, int64_t kv_head, int64_t part) {
    const cpu::Scratch scratch(static_cast<size_t>(Work::bytes(a, padded)));
    Work w(a, b, kv_head, plan.rows, scratch.as<char>());
    fill_ranges(a, w.rows);
    const int64_t first = part * plan.tiles / plan.parts;
    const int64_t last = (part + 1) * plan.tiles / plan.parts;
    if (tiles_backward<T>(args, w, first, last)) {
      w.careful = true;
      tiles_backward<T>(args, w, first, last);
    }
    const int64_t head = b * a.kv_heads + kv_head;
    if (args.d_slopes != nullptr)
      for (int64_t g = 0; g < group; ++g)
        moved.as<float>()[(part * a.batch * a.kv_heads + head) * group + g] = w.moved[g];
    if (plan.parts == 1) {
      write_rows(w.d_query, width, 1, 0, plan.rows, a.width, a.scale,
                 static_cast<T*>(args.d_query) + head * plan.rows * a.width);
    } else {
      float* to = partial_sums + part * apart + head * plan.rows * width;
      for (int64_t i = 0; i < plan.rows * width; i += kLanes) store(to + i, load(w.d_query + i));
    }
  };

  const int64_t rounds = plan.batch_rounds * plan.head_rounds * plan.part_rounds;
  const int64_t batches = a.batch / plan.batch_rounds, kv_heads = a.kv_heads / plan.head_rounds;
  const int64_t parts = plan.parts / plan.part_rounds;
  for (int64_t round = 0; round < rounds; ++round) {
    const int64_t part0 = plan.part_rounds > 1 ? round % plan.part_rounds : 0;
    const int64_t rest = round / plan.part_rounds;
    const int64_t head0 = plan.head_rounds > 1 ? rest % plan.head_rounds : 0;
    const int64_t batch0 = plan.batch_rounds > 1 ? rest / plan.head_rounds : 0;
    cpu::parallel_for(batches * kv_heads * parts, 1, [&](int64_t begin, int64_t end) {
      for (int64_t item = begin; item < end; ++item) {
        const int64_t head = item / parts;
        run(batch0 + head / kv_heads, head0 + head % kv_heads, part0 + item % parts);
      }
    });
  }
  if (plan.parts > 1)
    cpu::parallel_for(heads * plan.rows, 64, [&](int64_t begin, int64_t end) {
      write_rows(partial_sums + begin * width, width, plan.parts, apart, end - begin, a.width,
                 a.scale, static_cast<T*>(args.d_query) + begin * a.width);
    });
  if (args.d_slopes != nullptr)
    for (int64_t h = 0; h < a.heads; ++h) {
      args.d_slopes[h] = 0;
      for (int64_t i = 0; i < plan.parts * a.batch; ++i)
        args.d_slopes[h] += moved.as<float>()[i * a.heads + h];
    }
}

}  // namespace

void attention_backward(const AttentionBackwardArgs& args) {
  switch (args.forward.dtype) {
    case DType::kFloat16:
      return backward<f16>(args);
    case DType::kBFloat16:
      return backward<bf16>(args);
    default:
      return backward<float>(args);
  }
}

}  // namespace seqloom::SEQLOOM_ISA_NS
