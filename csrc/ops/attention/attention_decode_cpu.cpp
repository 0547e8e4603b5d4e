// SPDX-License-Identifier: Apache-2.0
// Attention of few queries, as in decoding: keys and values are read once, where they lie.
//
// The rows of a group (heads times queries, at most 8 or so) meet tiles of 64 keys by dot products
// along the head, then the tile's values by rank-one updates of outputs in L1. While a tile's keys
// are read its values are fetched, and with the values the next tile's keys, so that memory is
// never waited for and never idle. Where key heads are
// few, their keys are cut into runs by shape; each run leaves its outputs, maxima and sums, which
// are combined in order.
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
#pragma GCC unroll 4
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j)
      acc.v[i][j] = load(c + i * ldc + j * kLanes) * VecF::broadcast(factor[i]);
  tile_multiply<MR, NV, NV == 1>(k, a, kTile, b, ldb, last, ahead, acc);
#pragma GCC unroll 4
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) store(c + i * ldc + j * kLanes, acc.v[i][j]);
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

// Rows of one key head against its keys [begin, end): outputs [count, width] not divided by the
// sums, maxima and sums [count].
template <class T>
SEQLOOM_NOINLINE void decode_run(const AttentionArgs& a, int64_t b, int64_t kv_head, int64_t count,
                                 int64_t begin, int64_t end, float* out, float* peak, float* sum) {
  const int64_t out_width = round_up(a.value_width, kLanes),
                query_width = round_up(a.width, kLanes);
  const cpu::Scratch scratch(
      static_cast<size_t>(Carve::bytes<Range>(count) + Carve::bytes<float>(count * query_width) +
                          Carve::bytes<float>(count * kTile) + Carve::bytes<float>(count)));
  Carve carve(scratch.as<char>());
  Rows rows{b, kv_head, a.heads / a.kv_heads, 0, count, count, carve.take<Range>(count), 0, 0};
  float* query = carve.take<float>(count * query_width);
  float* weights = carve.take<float>(count * kTile);
  float* factor = carve.take<float>(count);
  fill_ranges(a, rows);
  const VecF scale = VecF::broadcast(a.scale);
  for (int64_t r = 0; r < count; ++r) {
    const T* from =
        head_of<T>(a.query, b, rows.range[r].head) + rows.range[r].query * a.query.row_stride;
    for (int64_t c = 0; c < a.width; c += kLanes)
      store(query + r * query_width + c,
            load(from + c, static_cast<int>(min<int64_t>(a.width - c, kLanes))) * scale);
    peak[r] = -kInfinity;
    sum[r] = 0;
  }
  for (int64_t i = 0; i < count * out_width; i += kLanes) store(out + i, VecF::zero());

  begin = max(begin, rows.lo);
  end = min(end, rows.hi);
  const bool plain = !has_score_options(a);
  const bool near = kTile * a.width * int64_t{sizeof(T)} <= 16384;
  const T* keys = head_of<T>(a.key, b, kv_head);
  const T* values = head_of<T>(a.value, b, kv_head);
  for (int64_t j0 = begin; j0 < end; j0 += kTile) {
    const int64_t live = min<int64_t>(kTile, end - j0);
    const T* const tile = values + j0 * a.value.row_stride;
    const T* const lines = keys + j0 * a.key.row_stride;
    const auto distance = static_cast<int64_t>(reinterpret_cast<uintptr_t>(tile) -
                                               reinterpret_cast<uintptr_t>(lines));
    if (near)
      dot_block(count, live, a.width, query, query_width, lines, a.key.row_stride,
                FetchValues<true>{distance}, weights, kTile);
    else
      dot_block(count, live, a.width, query, query_width, lines, a.key.row_stride,
                FetchValues<false>{distance}, weights, kTile);
    const int padded = static_cast<int>(round_up(live, kLanes));
    for (int64_t r = 0; r < count; ++r) {
      float* s = weights + r * kTile;
      Range range = rows.range[r];
      range.hi = min(range.hi, end);
      if (!plain || live < kTile || range.lo > j0 || range.hi < j0 + kTile)
        score_row(a, b, range, j0, 0, padded, 1.0f, s, nullptr);
      VecF top = load(s);
      for (int c = kLanes; c < padded; c += kLanes) top = max(load(s + c), top);
      const float here = reduce_max(top), now = here > peak[r] ? here : peak[r];
      const VecF base = VecF::broadcast(now == -kInfinity ? 0 : now);
      factor[r] = get(exp(VecF::broadcast(peak[r]) - base), 0);
      peak[r] = now;
      VecF total = VecF::zero();
      for (int c = 0; c < padded; c += kLanes) {
        const VecF p = exp(load(s + c) - base);
        total += p;
        store(s + c, p);
      }
      sum[r] = sum[r] * factor[r] + reduce_add(total);
    }
    const int64_t ld = a.value.row_stride, dv = a.value_width, ldk = a.key.row_stride;
    const T* const next = lines + kTile * ldk;
    int64_t r = 0;
    for (; r + 4 <= count; r += 4)
      weigh_rows<4>(live, dv, weights + r * kTile, tile, ld, next, ldk, factor + r,
                    out + r * out_width, out_width);
    if (count - r >= 2) {
      weigh_rows<2>(live, dv, weights + r * kTile, tile, ld, next, ldk, factor + r,
                    out + r * out_width, out_width);
      r += 2;
    }
    if (r < count)
      weigh_rows<1>(live, dv, weights + r * kTile, tile, ld, next, ldk, factor + r,
                    out + r * out_width, out_width);
  }
}

template <class T>
void decode(const AttentionArgs& a) {
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
      decode_run<T>(a, head / a.kv_heads, head % a.kv_heads, count, run * a.keys / runs,
                    (run + 1) * a.keys / runs, out + at * out_width, peak + at, sum + at);
    }
  });

  for (int64_t r = 0; r < rows; ++r) {
    float top = peak[r], total = 0;
    for (int64_t run = 1; run < runs; ++run) top = max(peak[run * rows + r], top);
    const VecF base = VecF::broadcast(top == -kInfinity ? 0 : top);
    // Each run's share: exp(its maximum - the maximum of all).
    for (int64_t run = 0; run < runs; ++run) {
      float& share = peak[run * rows + r];
      share = get(exp(VecF::broadcast(share) - base), 0);
      total += share * sum[run * rows + r];
    }
    const VecF factor = VecF::broadcast(total == 0 ? 0 : 1 / total);
    // Row r belongs to key head r / count; query heads are in the same order.
    T* to = static_cast<T*>(a.output) + r * a.value_width;
    for (int64_t c = 0; c < a.value_width; c += kLanes) {
      VecF x = VecF::zero();
      for (int64_t run = 0; run < runs; ++run)
        x = fma(load(out + (run * rows + r) * out_width + c), VecF::broadcast(peak[run * rows + r]),
                x);
      store(to + c, x * factor, static_cast<int>(min<int64_t>(a.value_width - c, kLanes)));
    }
    if (a.lse != nullptr)
      a.lse[r] = total == 0 ? kInfinity : top + get(log(VecF::broadcast(total)), 0);
  }
}

}  // namespace

void attention_decode(const AttentionArgs& a) {
  switch (a.dtype) {
    case DType::kFloat16:
      return decode<f16>(a);
    case DType::kBFloat16:
      return decode<bf16>(a);
    default:
      return decode<float>(a);
  }
}

}  // namespace seqloom::SEQLOOM_ISA_NS
