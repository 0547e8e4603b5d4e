// SPDX-License-Identifier: Apache-2.0
// Attention of sixteen rows or keys by one warp, pair by pair: what hidden pairs hold has no part.
//
// In a product of tiles a hidden key meets a weight of zero, and zero times NaN is NaN. Kernels
// whose results are not finite, where pairs may be hidden, call these functions instead of writing
// them: slowly, each visible pair is multiplied by itself. Lanes share the head's columns.
//
// Out of line, called when nothing else is alive, and with arguments by value: the kernels that
// call them need no register more.
#pragma once

#include "cuda/reduce.h"
#include "ops/attention/attention_cuda.h"

namespace seqloom::ops::attention_device {
namespace {

constexpr int kCarefulRows = 16, kColumnsOfLane = 256 / 32;

template <class T>
SEQLOOM_DEVICE float dot_of(const T* x, const T* y, int width, int lane) {
  float sum = 0.f;
  for (int c = lane; c < width; c += 32)
    sum = fmaf(cuda::to_float(x[c]), cuda::to_float(y[c]), sum);
  return cuda::warp_sum(sum);
}

// out += weight * row; an infinity times a weight of zero has no part.
template <class T>
SEQLOOM_DEVICE void add_row(float (&out)[kColumnsOfLane], float weight, const T* row, int width,
                            int lane) {
  if (weight == 0.f) return;
#pragma unroll
  for (int x = 0; x < kColumnsOfLane; ++x)
    if (lane + 32 * x < width) out[x] = fmaf(weight, cuda::to_float(row[lane + 32 * x]), out[x]);
}

template <class To>
SEQLOOM_DEVICE void write_row(To* row, int width, const float (&values)[kColumnsOfLane],
                              float factor, int lane) {
#pragma unroll
  for (int x = 0; x < kColumnsOfLane; ++x)
    if (lane + 32 * x < width) row[lane + 32 * x] = cuda::from_float<To>(values[x] * factor);
}

// Key or value j, in its page where there are pages.
template <class T>
SEQLOOM_DEVICE const T* key_row(const AttentionArgs& a, const AttentionOperand& x, int b, int h,
                                int j) {
  if (a.table == nullptr) return head_of<T>(x, b, h) + j * x.row_stride;
  const int64_t given = a.table[b * a.table_width + (j >> a.page_shift)];
  const int64_t page = given < 0 ? 0 : given >= a.pages ? a.pages - 1 : given;
  return static_cast<const T*>(x.data) + page * x.batch_stride + h * x.head_stride +
         (j & ((1 << a.page_shift) - 1)) * x.row_stride;
}

SEQLOOM_DEVICE void write_sums(float* sums, int64_t row, float shift, float sum) {
  const float2 pair = sum == 0.f ? make_float2(INFINITY, 0.f) : make_float2(shift, 1.f / sum);
  *reinterpret_cast<float2*>(sums + 2 * row) = pair;
}

// The packed rows first_row.. against the keys [begin, end): the output, or that of one split.
template <class T>
SEQLOOM_DEVICE_NOINLINE void forward_with_care(AttentionArgs a, int64_t batch_head, int first_row,
                                               int begin, int end, float* partial,
                                               float2* partial_sums) {
  const int lane = static_cast<int>(threadIdx.x) & 31;
  const RowBlock rows(a, batch_head, first_row, kCarefulRows);
  const int key_width = static_cast<int>(a.width), width = static_cast<int>(a.value_width);
  const int last = rows.clamp(first_row + kCarefulRows - 1);
#pragma unroll 1
  for (int row = first_row; row <= last; ++row) {
    const int i = row % rows.queries;
    const RowPlace place = place_of(a, rows.offset, rows.b, rows.head_of(row), i);
    const Range seen = visible_range(a, rows.offset, rows.length, i);
    const T* const q = rows.template row_of<T>(a.query, row);
    float o[kColumnsOfLane] = {}, peak = -INFINITY, sum = 0.f;
#pragma unroll 1
    for (int j = seen.lo > begin ? seen.lo : begin; j < seen.hi && j < end; ++j) {
      float cap;
      const T* const k = key_row<T>(a, a.key, rows.b, rows.kv_head, j);
      const float score = score_of(a, place, j, dot_of(q, k, key_width, lane), cap);
      if (score == -INFINITY) continue;
      const float now = fmaxf(peak, score), base = now == -INFINITY ? 0.f : now;
      const float shrink = ptx::ex2_approx(peak - base), p = ptx::ex2_approx(score - base);
      peak = now;
      sum = fmaf(sum, shrink, p);
#pragma unroll
      for (int x = 0; x < kColumnsOfLane; ++x) o[x] *= shrink;
      if (a.dropout > 0.f && !is_kept(a, place, j)) continue;
      add_row(o, p, key_row<T>(a, a.value, rows.b, rows.kv_head, j), width, lane);
    }
    const float scale = a.dropout > 0.f ? keep_scale(a) : 1.f;
    const int64_t at = rows.flat(a, row);
    if (partial != nullptr) {
      write_row(partial + at * width, width, o, scale, lane);
      if (lane == 0) partial_sums[at] = make_float2(sum == 0.f ? -INFINITY : peak, sum);
    } else {
      write_row(static_cast<T*>(a.output) + at * width, width, o, sum == 0.f ? 0.f : scale / sum,
                lane);
      if (a.sums != nullptr && lane == 0) write_sums(a.sums, at, peak, sum);
    }
  }
}

// A pair's weight (dropout apart) and how dropout scales it.
struct CarefulPair {
  float weight, kept, cap;
};
template <class T>
SEQLOOM_DEVICE CarefulPair careful_pair(const AttentionArgs& a, const RowPlace& place, int64_t at,
                                        const T* q, const T* k, int j, int lane) {
  CarefulPair pair;
  const float product = dot_of(q, k, static_cast<int>(a.width), lane);
  const float score = score_of(a, place, j, product, pair.cap);
  pair.weight = ptx::ex2_approx(score - a.sums[2 * at]) * a.sums[2 * at + 1];
  pair.kept = a.dropout == 0.f ? 1.f : is_kept(a, place, j) ? keep_scale(a) : 0.f;
  return pair;
}

// dq of the packed rows first_row.., and their sums ds_ij (j - position_i) unless `moved` is null.
template <class T>
SEQLOOM_DEVICE_NOINLINE void queries_with_care(AttentionArgs a, AttentionOperand gradient,
                                               const float* delta, void* d_query, float* moved,
                                               int64_t batch_head, int first_row) {
  const int lane = static_cast<int>(threadIdx.x) & 31;
  const RowBlock rows(a, batch_head, first_row, kCarefulRows);
  const int last = rows.clamp(first_row + kCarefulRows - 1), width = static_cast<int>(a.width);
#pragma unroll 1
  for (int row = first_row; row <= last; ++row) {
    const int i = row % rows.queries;
    const int64_t at = rows.flat(a, row);
    const RowPlace place = place_of(a, rows.offset, rows.b, rows.head_of(row), i);
    const Range seen = visible_range(a, rows.offset, rows.length, i);
    const T* const q = rows.template row_of<T>(a.query, row);
    const T* const g = rows.template row_of<T>(gradient, row);
    float dq[kColumnsOfLane] = {}, pull = 0.f;
#pragma unroll 1
    for (int j = seen.lo; j < seen.hi; ++j) {
      const T* const k = key_row<T>(a, a.key, rows.b, rows.kv_head, j);
      const CarefulPair pair = careful_pair(a, place, at, q, k, j, lane);
      if (pair.weight == 0.f) continue;
      const T* const v = key_row<T>(a, a.value, rows.b, rows.kv_head, j);
      const float dp = dot_of(g, v, static_cast<int>(a.value_width), lane) * pair.kept;
      const float ds = pair.weight * (dp - delta[at]);
      pull = fmaf(ds, static_cast<float>(j - place.position), pull);
      add_row(dq, ds * pair.cap, k, width, lane);
    }
    write_row(static_cast<T*>(d_query) + at * width, width, dq, a.scale, lane);
    if (moved != nullptr && lane == 0) moved[at] = pull;
  }
}

// dk and dv, unless null, of the keys first_key..
template <class T>
SEQLOOM_DEVICE_NOINLINE void keys_with_care(AttentionArgs a, AttentionOperand gradient,
                                            const float* delta, void* d_key, void* d_value,
                                            int64_t batch_head, int first_key) {
  const int lane = static_cast<int>(threadIdx.x) & 31;
  const int b = static_cast<int>(batch_head / a.kv_heads);
  const int kv_head = static_cast<int>(batch_head % a.kv_heads);
  const int group = static_cast<int>(a.heads / a.kv_heads), length = length_of(a, b);
  const int width = static_cast<int>(a.width), value_width = static_cast<int>(a.value_width);
  const int64_t offset = offset_of(a, b);
#pragma unroll 1
  for (int j = first_key; j < first_key + kCarefulRows && j < a.keys; ++j) {
    const T* const k = key_row<T>(a, a.key, b, kv_head, j);
    const T* const v = key_row<T>(a, a.value, b, kv_head, j);
    float dk[kColumnsOfLane] = {}, dv[kColumnsOfLane] = {};
#pragma unroll 1
    for (int64_t n = 0; j < length && n < group * a.queries; ++n) {
      const int h = kv_head * group + static_cast<int>(n / a.queries);
      const int i = static_cast<int>(n % a.queries);
      const Range seen = visible_range(a, offset, length, i);
      if (j < seen.lo || j >= seen.hi) continue;
      const int64_t at = (b * a.heads + h) * a.queries + i;
      const T* const q = head_of<T>(a.query, b, h) + i * a.query.row_stride;
      const T* const g = head_of<T>(gradient, b, h) + i * gradient.row_stride;
      const CarefulPair pair = careful_pair(a, place_of(a, offset, b, h, i), at, q, k, j, lane);
      if (pair.weight == 0.f) continue;
      const float dp = dot_of(g, v, value_width, lane) * pair.kept;
      add_row(dv, pair.weight * pair.kept, g, value_width, lane);
      add_row(dk, pair.weight * (dp - delta[at]) * pair.cap, q, width, lane);
    }
    const int64_t at = batch_head * a.keys + j;
    if (d_key != nullptr) write_row(static_cast<T*>(d_key) + at * width, width, dk, a.scale, lane);
    if (d_value != nullptr)
      write_row(static_cast<T*>(d_value) + at * value_width, value_width, dv, 1.f, lane);
  }
}

}  // namespace
}  // namespace seqloom::ops::attention_device
