// SPDX-License-Identifier: Apache-2.0
// Additive scores: the hidden layer of a pair lives in registers and is computed again backward.
//
// Forward takes four keys at a time against one query, over the hidden units in vectors. Backward
// is cut over units, in runs of two vectors, because every gradient is a sum over pairs and none is
// a sum over units: no two items write the same element.
#include "cpu/gemm_dot.h"
#include "cpu/parallel.h"
#include "cpu/vec_math.h"
#include "ops/attention/attention.h"

namespace seqloom::SEQLOOM_ISA_NS {
namespace {

constexpr int kUnits = 2 * kLanes;  // of a backward item

SEQLOOM_ALWAYS_INLINE int64_t length_of(const ops::AdditiveScoreArgs& a, int64_t b) {
  return a.key_lengths != nullptr ? a.key_lengths[b] : a.keys;
}

// Scores of query x against the keys [0, length).
void score_keys(const ops::AdditiveScoreArgs& a, const float* x, const float* keys, int64_t length,
                float* scores) {
  for (int64_t j = 0; j < length; j += 4) {
    const float* y[4];
    for (int64_t q = 0; q < 4; ++q) y[q] = keys + min(j + q, length - 1) * a.width;
    VecF sum[4] = {VecF::zero(), VecF::zero(), VecF::zero(), VecF::zero()};
    for (int64_t c = 0; c < a.width; c += kLanes) {
      const int n = static_cast<int>(min<int64_t>(a.width - c, kLanes));
      const VecF u = load(x + c, n), v = load(a.v + c, n);
#pragma GCC unroll 4
      for (int q = 0; q < 4; ++q) sum[q] = fma(v, tanh(u + load(y[q] + c, n)), sum[q]);
    }
    float four[4];
    sum_lanes(sum[0], sum[1], sum[2], sum[3], four);
    for (int64_t q = 0; q < 4 && j + q < length; ++q) scores[j + q] = four[q];
  }
  for (int64_t j = length; j < a.keys; ++j) scores[j] = 0;
}

// Gradients of units [c, c + n0 + n1) of one batch; a vector with n = 0 is not touched.
void unit_gradients(const ops::AdditiveScoreBackwardArgs& args, int64_t b, int64_t c) {
  const ops::AdditiveScoreArgs& a = args.forward;
  const int64_t length = length_of(a, b);
  const int n[2] = {static_cast<int>(min<int64_t>(a.width - c, kLanes)),
                    static_cast<int>(max<int64_t>(min<int64_t>(a.width - c - kLanes, kLanes), 0))};
  const int vectors = n[1] > 0 ? 2 : 1;
  const float* x = a.query + b * a.queries * a.width + c;
  const float* y = a.key + b * a.keys * a.width + c;
  float* dx = args.d_query + b * a.queries * a.width + c;
  float* dy = args.d_key + b * a.keys * a.width + c;
  const float* g = args.gradient + b * a.queries * a.keys;
  for (int u = 0; u < vectors; ++u) {
    const int64_t at = u * kLanes;
    const VecF v = load(a.v + c + at, n[u]);
    VecF dv = VecF::zero();
    for (int64_t j = 0; j < a.keys; ++j) store(dy + j * a.width + at, VecF::zero(), n[u]);
    for (int64_t i = 0; i < a.queries; ++i) {
      const VecF query = load(x + i * a.width + at, n[u]);
      VecF sum = VecF::zero();
      for (int64_t j = 0; j < length; ++j) {
        const VecF h = tanh(query + load(y + j * a.width + at, n[u]));
        const VecF weight = VecF::broadcast(g[i * a.keys + j]);
        const VecF d = weight * fnma(h, h, VecF::broadcast(1.0f));
        dv = fma(weight, h, dv);
        sum += d;
        float* to = dy + j * a.width + at;
        store(to, fma(d, v, load(to, n[u])), n[u]);
      }
      store(dx + i * a.width + at, sum * v, n[u]);
    }
    store(args.d_v + b * a.width + c + at, dv, n[u]);
  }
}

}  // namespace

void additive_score(const ops::AdditiveScoreArgs& a) {
  // Some 16 operations a unit and pair: a chunk is 5 microseconds or more.
  const int64_t pair_cost = max<int64_t>(1, a.keys * a.width);
  const int64_t grain = max<int64_t>(1, 16384 / pair_cost);
  cpu::parallel_for(a.batch * a.queries, grain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t b = row / a.queries;
      score_keys(a, a.query + row * a.width, a.key + b * a.keys * a.width, length_of(a, b),
                 a.scores + row * a.keys);
    }
  });
}

void additive_score_backward(const ops::AdditiveScoreBackwardArgs& args) {
  const ops::AdditiveScoreArgs& a = args.forward;
  const int64_t runs = (a.width + kUnits - 1) / kUnits;
  const int64_t item_cost = max<int64_t>(1, a.queries * a.keys * kUnits);
  const int64_t grain = max<int64_t>(1, 16384 / item_cost);
  cpu::parallel_for(a.batch * runs, grain, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item)
      unit_gradients(args, item / runs, item % runs * kUnits);
  });
}

}  // namespace seqloom::SEQLOOM_ISA_NS
