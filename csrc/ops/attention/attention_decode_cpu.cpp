// SPDX-License-Identifier: Apache-2.0
// Attention of few queries, as in decoding: keys and values are read once, where they lie.
//
// The rows of a group (heads times queries, at most 8 or so) meet tiles of 64 keys by dot products
// along the head, then the tile's values by rank-one updates of outputs in L1. While a tile's keys
// are read its values are fetched, and with the values the next tile's keys. One row of a usual
// head size goes further: a tile's values and the next tile's keys are multiplied in one loop, so
// that memory never waits for a softmax. Where key heads are few, the keys that a head's rows see
// are cut into runs, as many as shapes say; each run leaves its outputs, maxima (of scores times
// log2(e)) and sums, which are combined in order. A tile of keys in pages begins at a multiple of
// 64 and may span pages of four keys and more. What follows a page in memory is not what is read
// next, so the next tiles are fetched by name.
//
// Results that are not finite are computed again, with care that hidden keys and values have no
// part whatever they hold.
#include "cpu/gemm_dot.h"
#include "ops/attention/attention_cpu.h"

namespace seqloom::SEQLOOM_ISA_NS {
namespace {

// While keys are read: the values, into L1 where both tiles fit it, else into L2.
template <bool kNear>
struct FetchValues {
  int64_t distance;  // from keys to values, in bytes
  template <class T>
  SEQLOOM_ALWAYS_INLINE void operator()(const T* line, int64_t p, int64_t /*k*/) const {
    const auto at = reinterpret_cast<uintptr_t>(line + p) + static_cast<uintptr_t>(distance);
    __builtin_prefetch(reinterpret_cast<const void*>(at), 0, kNear ? 3 : 2);
  }
};

// c[MR, width] = factor[i] c + A B, B of any storage type, its last vector partial.
template <int MR, int NV, class T>
SEQLOOM_ALWAYS_INLINE void weigh_columns(int64_t k, const float* a, const T* b, int64_t ldb,
                                         int last, Ahead ahead, const float* factor, float* c,
                                         int64_t ldc) {
  Tile<MR, NV> acc;
  tile_zero(acc);
  tile_multiply<MR, NV, NV == 1>(k, a, kTile, b, ldb, last, ahead, acc);
#pragma GCC unroll 4
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) {
      float* const at = c + i * ldc + j * kLanes;
      store(at, fma(load(at), VecF::broadcast(factor[i]), acc.v[i][j]));
    }
}

// `next` is the tile of keys that is read afterwards.
template <int MR, class T>
SEQLOOM_NOINLINE void weigh_rows(int64_t k, int64_t width, const float* a, const T* b, int64_t ldb,
                                 const T* next, int64_t ld_next, const float* factor, float* c,
                                 int64_t ldc) {
  const int64_t step = ld_next * static_cast<int64_t>(sizeof(T));
  const auto ahead = [&](int64_t j) {
    return Ahead{reinterpret_cast<const char*>(next + j), step};
  };
  int64_t j = 0;
  for (; j + kPanel <= width; j += kPanel)
    weigh_columns<MR, kVectors>(k, a, b + j, ldb, kLanes, ahead(j), factor, c + j, ldc);
  for (; j < width; j += kLanes)
    weigh_columns<MR, 1>(k, a, b + j, ldb, static_cast<int>(min<int64_t>(width - j, kLanes)),
                         ahead(j), factor, c + j, ldc);
}

// Where key or value j of a head lies.
template <class T>
SEQLOOM_ALWAYS_INLINE const T* row_at(const AttentionArgs& a, const AttentionOperand& x, int64_t b,
                                      int64_t kv_head, int64_t j) {
  if (a.table == nullptr) return head_of<T>(x, b, kv_head) + j * x.row_stride;
  const int64_t page = a.table[b * a.table_width + (j >> a.page_shift)];
  return head_of<T>(x, page, kv_head) + (j & ((int64_t{1} << a.page_shift) - 1)) * x.row_stride;
}

// The rows of a tile, four at a time: one after the other, or in pages. Rows in pages fetch the
// rows of a later tile, of which there may be fewer.
template <class T>
struct AdjacentRows {
  const T* at;
  SEQLOOM_ALWAYS_INLINE const T* row(int four, int x, int64_t ld) const {
    return at + (four + x) * ld;
  }
  template <int NV>
  SEQLOOM_ALWAYS_INLINE void fetch(int, int64_t) const {}
};
template <class T>
struct PagedRows {
  const T *at[kTile / 4], *later[kTile / 4];
  SEQLOOM_ALWAYS_INLINE const T* row(int four, int x, int64_t ld) const {
    return at[four / 4] + x * ld;
  }
  template <int NV>
  SEQLOOM_ALWAYS_INLINE void fetch(int j, int64_t ld) const {
    constexpr int kLine = 64 / static_cast<int>(sizeof(T));
#pragma GCC unroll 4
    for (int x = 0; x < 4; ++x)
#pragma GCC unroll 8
      for (int c = 0; c < NV * kLanes; c += kLine)
        __builtin_prefetch(later[j / 4] + x * ld + c, 0, 2);
  }
};

template <class Lines>
struct By {
  using Type = Lines;
};

// One row against a whole tile of keys while the values of the tile before it are weighed: out =
// factor out + weights values, scores = query keys^T. Both are read side by side, so that memory is
// busy throughout, and the dot products cover the latency of the sums. NV vectors wide.
template <int NV, class T, class Lines>
SEQLOOM_NOINLINE void weigh_and_dot(const float* query, Lines keys, int64_t ldk, float* scores,
                                    const float* weights, Lines values, int64_t ldv, float factor,
                                    float* out) {
  constexpr int kChains = NV <= 4 ? 2 : 1;
  VecF q[NV], o[kChains][NV];
#pragma GCC unroll 8
  for (int c = 0; c < NV; ++c) {
    q[c] = load(query + c * kLanes);
    for (int chain = 0; chain < kChains; ++chain) o[chain][c] = VecF::zero();
  }
  for (int j = 0; j < kTile; j += 4) {
    VecF dot[4];
    keys.template fetch<NV>(j, ldk);
    values.template fetch<NV>(j, ldv);
#pragma GCC unroll 4
    for (int x = 0; x < 4; ++x) {
      const T* const k = keys.row(j, x, ldk);
      const T* const v = values.row(j, x, ldv);
      const VecF weight = VecF::broadcast(weights[j + x]);
      VecF* const to = o[x % kChains];
      dot[x] = VecF::zero();
#pragma GCC unroll 8
      for (int c = 0; c < NV; ++c) {
        dot[x] = fma(q[c], load(k + c * kLanes), dot[x]);
        to[c] = fma(weight, load(v + c * kLanes), to[c]);
      }
    }
    sum_lanes(dot[0], dot[1], dot[2], dot[3], scores + j);
  }
#pragma GCC unroll 8
  for (int c = 0; c < NV; ++c) {
    const VecF sum = kChains == 2 ? o[0][c] + o[kChains - 1][c] : o[0][c];
    store(out + c * kLanes, fma(load(out + c * kLanes), VecF::broadcast(factor), sum));
  }
}

// Keys [j0, j0 + live) of a head.
template <class T>
struct KeyTile {
  int64_t j0, live;
  const T *keys, *values;
};

// Rows of one key head against a run of its keys: outputs [count, width] not divided by the sums,
// maxima and sums [count].
template <class T>
struct DecodeRun {
  const AttentionArgs& a;
  Rows rows;
  float *out, *peak, *sum;
  int64_t count, out_width, query_width, end;
  float *query, *weights[2], *factor;
  bool careful;

  SEQLOOM_ALWAYS_INLINE KeyTile<T> tile_at(int64_t j0) const {
    if (j0 >= end) return {j0, 0, nullptr, nullptr};
    int64_t live = min<int64_t>(kTile, end - j0);
    if (a.table != nullptr) {
      const int64_t most = a.page_shift < 2 ? int64_t{1} << a.page_shift : kTile;
      live = min(live, most - (j0 & (most - 1)));
    }
    return {j0, live, row_at<T>(a, a.key, rows.b, rows.kv_head, j0),
            row_at<T>(a, a.value, rows.b, rows.kv_head, j0)};
  }

  SEQLOOM_NOINLINE void load_queries() const {
    const VecF scale = VecF::broadcast(a.scale);
    for (int64_t r = 0; r < count; ++r) {
      const T* from = head_of<T>(a.query, rows.b, rows.range[r].head) +
                      rows.range[r].query * a.query.row_stride;
      for (int64_t c = 0; c < a.width; c += kLanes)
        store(query + r * query_width + c,
              load(from + c, static_cast<int>(min<int64_t>(a.width - c, kLanes))) * scale);
      peak[r] = -kInfinity;
      sum[r] = 0;
    }
    for (int64_t i = 0; i < count * out_width; i += kLanes) store(out + i, VecF::zero());
  }

  SEQLOOM_NOINLINE void score(const KeyTile<T>& tile, float* to) const {
    for_runs(tile, [&](int64_t offset, int64_t live) {
      const T* const keys = key_at(tile, offset);
      const auto distance = static_cast<int64_t>(
          reinterpret_cast<uintptr_t>(value_at(tile, offset)) - reinterpret_cast<uintptr_t>(keys));
      if (kTile * a.width * int64_t{sizeof(T)} <= 16384)
        dot_block(count, live, a.width, query, query_width, keys, a.key.row_stride,
                  FetchValues<true>{distance}, to + offset, kTile);
      else
        dot_block(count, live, a.width, query, query_width, keys, a.key.row_stride,
                  FetchValues<false>{distance}, to + offset, kTile);
    });
  }

  // Calls f(offset, keys) for the runs of a tile whose rows follow each other in memory.
  template <class F>
  SEQLOOM_ALWAYS_INLINE void for_runs(const KeyTile<T>& tile, const F& f) const {
    if (a.table == nullptr) return f(int64_t{0}, tile.live);
    const int64_t page = int64_t{1} << a.page_shift;
    for (int64_t done = 0; done < tile.live;) {
      const int64_t n = min(tile.live - done, page - ((tile.j0 + done) & (page - 1)));
      f(done, n);
      done += n;
    }
  }
  SEQLOOM_ALWAYS_INLINE const T* key_at(const KeyTile<T>& tile, int64_t offset) const {
    return offset == 0 ? tile.keys : row_at<T>(a, a.key, rows.b, rows.kv_head, tile.j0 + offset);
  }
  SEQLOOM_ALWAYS_INLINE const T* value_at(const KeyTile<T>& tile, int64_t offset) const {
    return offset == 0 ? tile.values
                       : row_at<T>(a, a.value, rows.b, rows.kv_head, tile.j0 + offset);
  }
  // The rows from j0 on, and those of the tile behind them.
  SEQLOOM_ALWAYS_INLINE PagedRows<T> paged_rows(const AttentionOperand& x, int64_t j0) const {
    PagedRows<T> out;
    const int64_t last = (end - 1) & ~int64_t{3};
    const int run = static_cast<int>(min<int64_t>(kTile, int64_t{1} << a.page_shift));
    for (int first = 0; first < kTile; first += run) {
      const T* const here = row_at<T>(a, x, rows.b, rows.kv_head, j0 + first);
      const T* const there = row_at<T>(a, x, rows.b, rows.kv_head, min(j0 + kTile + first, last));
      for (int j = 0; j < run; j += 4) {
        out.at[(first + j) / 4] = here + j * x.row_stride;
        out.later[(first + j) / 4] = there + j * x.row_stride;
      }
    }
    return out;
  }

  // Products become weights; maxima, sums and factors follow.
  SEQLOOM_NOINLINE void soften(const KeyTile<T>& tile, bool plain, float* to) const {
    const int padded = static_cast<int>(round_up(tile.live, kLanes));
    for (int64_t r = 0; r < count; ++r) {
      float* s = to + r * kTile;
      Range range = rows.range[r];
      range.hi = min(range.hi, tile.j0 + tile.live);
      if (!plain || tile.live < kTile || range.lo > tile.j0 || range.hi < tile.j0 + kTile)
        score_row(a, rows.b, range, tile.j0, 0, padded, 1.0f, s, nullptr);
      VecF top = load(s);
      for (int c = kLanes; c < padded; c += kLanes) top = max(load(s + c), top);
      const float here = reduce_max(top) * kLog2e, now = here > peak[r] ? here : peak[r];
      const VecF base = VecF::broadcast(now == -kInfinity ? 0 : now);
      factor[r] = get(exp2_weight(VecF::broadcast(peak[r]) - base), 0);
      peak[r] = now;
      const bool coarse = round_coarse_row(now, kLog2e, 0, padded, s);
      const VecF slope = VecF::broadcast(coarse ? 1 : kLog2e);
      VecF total = VecF::zero();
      for (int c = 0; c < padded; c += kLanes) {
        const VecF p = exp2_weight(fms(load(s + c), slope, base));
        total += p;
        store(s + c, p);
      }
      sum[r] = sum[r] * factor[r] + reduce_add(total);
    }
  }

  SEQLOOM_NOINLINE void weigh(const KeyTile<T>& tile, const KeyTile<T>& next,
                              const float* by) const {
    for_runs(tile, [&](int64_t offset, int64_t live) {
      weigh_run(value_at(tile, offset), live, next.live > 0 ? next.keys : tile.keys, by + offset);
      for (int64_t r = 0; r < count; ++r) factor[r] = 1;  // for the tile's other runs
    });
  }
  SEQLOOM_ALWAYS_INLINE void weigh_run(const T* values, int64_t live, const T* fetched,
                                       const float* by) const {
    const int64_t ld = a.value.row_stride, dv = a.value_width, ldk = a.key.row_stride;
    if (careful)
      return multiply_seen(count, live, dv, by, kTile, 1, values, ld, factor, out, out_width);
    int64_t r = 0;
    for (; r + 4 <= count; r += 4)
      weigh_rows<4>(live, dv, by + r * kTile, values, ld, fetched, ldk, factor + r,
                    out + r * out_width, out_width);
    if (count - r >= 2) {
      weigh_rows<2>(live, dv, by + r * kTile, values, ld, fetched, ldk, factor + r,
                    out + r * out_width, out_width);
      r += 2;
    }
    if (r < count)
      weigh_rows<1>(live, dv, by + r * kTile, values, ld, fetched, ldk, factor + r,
                    out + r * out_width, out_width);
  }

  // The one row of a head of 64 or 128, tile after tile, both whole; false where it is not that.
  SEQLOOM_ALWAYS_INLINE bool weigh_and_score(const KeyTile<T>& tile, const KeyTile<T>& next,
                                             const float* by, float* to) const {
    if constexpr (kLanes == 16) {
      if (careful || count != 1 || tile.live != kTile || next.live != kTile ||
          a.width != a.value_width)
        return false;
      const int64_t ldk = a.key.row_stride, ldv = a.value.row_stride;
      if (a.width != 4 * kLanes && a.width != 8 * kLanes) return false;
      const auto both = [&](auto lines, const auto& keys, const auto& values) {
        using Lines = typename decltype(lines)::Type;
        if (a.width == 4 * kLanes)
          weigh_and_dot<4, T, Lines>(query, keys, ldk, to, by, values, ldv, *factor, out);
        else
          weigh_and_dot<8, T, Lines>(query, keys, ldk, to, by, values, ldv, *factor, out);
      };
      if (a.table == nullptr)
        both(By<AdjacentRows<T>>{}, AdjacentRows<T>{next.keys}, AdjacentRows<T>{tile.values});
      else
        both(By<const PagedRows<T>&>{}, paged_rows(a.key, next.j0), paged_rows(a.value, tile.j0));
      return true;
    }
    return false;
  }
};

template <class T>
SEQLOOM_NOINLINE void decode_run(const AttentionArgs& a, int64_t b, int64_t kv_head, int64_t count,
                                 int64_t run, int64_t runs, bool careful, float* out, float* peak,
                                 float* sum) {
  const int64_t out_width = round_up(a.value_width, kLanes),
                query_width = round_up(a.width, kLanes);
  const cpu::Scratch scratch(
      static_cast<size_t>(Carve::bytes<Range>(count) + Carve::bytes<float>(count * query_width) +
                          2 * Carve::bytes<float>(count * kTile) + Carve::bytes<float>(count)));
  Carve carve(scratch.as<char>());
  Rows rows{b, kv_head, a.heads / a.kv_heads, 0, count, count, carve.take<Range>(count), 0, 0};
  fill_ranges(a, rows);
  const int64_t span = max<int64_t>(rows.hi - rows.lo, 0);
  const auto cut = [&](int64_t r) {  // of pages at whole tiles
    const int64_t at = rows.lo + span * r / runs;
    return a.table == nullptr || r == runs ? at : max(rows.lo, at & ~int64_t{kTile - 1});
  };
  const int64_t begin = cut(run), end = cut(run + 1);
  float* const query = carve.take<float>(count * query_width);
  float* const first = carve.take<float>(count * kTile);
  float* const second = carve.take<float>(count * kTile);
  const DecodeRun<T> it{a,
                        rows,
                        out,
                        peak,
                        sum,
                        count,
                        out_width,
                        query_width,
                        end,
                        query,
                        {first, second},
                        carve.take<float>(count),
                        careful};
  it.load_queries();
  const bool plain = !has_score_options(a);
  KeyTile<T> tile = it.tile_at(begin);
  if (tile.live > 0) it.score(tile, it.weights[0]);
  for (int side = 0; tile.live > 0; side ^= 1) {
    it.soften(tile, plain, it.weights[side]);
    const KeyTile<T> next = it.tile_at(tile.j0 + tile.live);
    if (!it.weigh_and_score(tile, next, it.weights[side], it.weights[side ^ 1])) {
      it.weigh(tile, next, it.weights[side]);
      if (next.live > 0) it.score(next, it.weights[side ^ 1]);
    }
    tile = next;
  }
}

template <class T>
void decode(const AttentionArgs& a, bool careful) {
  const int64_t heads = a.batch * a.kv_heads, group = a.heads / a.kv_heads;
  const int64_t count = group * a.queries, out_width = round_up(a.value_width, kLanes);
  // At least 16 items where every run still has 256 keys, and none with more than 4096.
  const int64_t wanted = max((15 + heads) / heads, (a.keys + 4095) / 4096);
  const int64_t runs = max<int64_t>(1, min(wanted, a.keys / 256));
  const int64_t rows = heads * count;
  const int64_t out_bytes = Carve::bytes<float>(runs * rows * out_width);
  const int64_t row_bytes = Carve::bytes<float>(runs * rows);
  const cpu::Scratch scratch(static_cast<size_t>(out_bytes + 2 * row_bytes));
  Carve carve(scratch.as<char>());
  float* out = carve.take<float>(runs * rows * out_width);
  float* peak = carve.take<float>(runs * rows);
  float* sum = carve.take<float>(runs * rows);
  // Some 16 bytes a nanosecond: a chunk is 5 microseconds or more.
  const int64_t item_bytes = a.keys / runs * (a.width + a.value_width) * sizeof(T);
  const int64_t grain = max<int64_t>(1, 65536 / max<int64_t>(item_bytes, 1));
  cpu::parallel_for(heads * runs, grain, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t head = item / runs, run = item % runs, at = (run * heads + head) * count;
      decode_run<T>(a, head / a.kv_heads, head % a.kv_heads, count, run, runs, careful,
                    out + at * out_width, peak + at, sum + at);
    }
  });

  VecF trace = VecF::zero();
  for (int64_t r = 0; r < rows; ++r) {
    float top = peak[r], total = 0;
    for (int64_t run = 1; run < runs; ++run) top = max(peak[run * rows + r], top);
    const VecF base = VecF::broadcast(top == -kInfinity ? 0 : top);
    // Each run's share: 2^(its maximum - the maximum of all).
    for (int64_t run = 0; run < runs; ++run) {
      float& share = peak[run * rows + r];
      share = get(exp2_weight(VecF::broadcast(share) - base), 0);
      total += share * sum[run * rows + r];
    }
    const VecF divisor = VecF::broadcast(total == 0 ? 1 : total);  // of zeros then
    // Row r belongs to key head r / count; query heads are in the same order.
    T* to = static_cast<T*>(a.output) + r * a.value_width;
    for (int64_t c = 0; c < a.value_width; c += kLanes) {
      VecF x = VecF::zero();
      for (int64_t run = 0; run < runs; ++run)
        x = fma(load(out + (run * rows + r) * out_width + c), VecF::broadcast(peak[run * rows + r]),
                x);
      x = x / divisor;
      trace_special(x, trace);
      store(to + c, x, static_cast<int>(min<int64_t>(a.value_width - c, kLanes)));
    }
    if (a.sums != nullptr) {
      a.sums[2 * r] = total == 0 ? kInfinity : top;
      a.sums[2 * r + 1] = total == 0 ? 0 : 1 / total;
    }
  }
  if (!careful && has_special(trace)) decode<T>(a, true);
}

}  // namespace

void attention_decode(const AttentionArgs& a) {
  switch (a.dtype) {
    case DType::kFloat16:
      return decode<f16>(a, false);
    case DType::kBFloat16:
      return decode<bf16>(a, false);
    default:
      return decode<float>(a, false);
  }
}

}  // namespace seqloom::SEQLOOM_ISA_NS
