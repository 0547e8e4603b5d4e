// SPDX-License-Identifier: Apache-2.0
// Cross-entropy on the CPU: threads over rows. A row of logits (200 KB for GPT-2) is read from
// memory once, in pieces (cpu/vec_row.h); the gradient then finds it in L2. Gradients that will not
// fit in the caches are stored past them.
#include "ops/loss/loss.h"

#include "cpu/parallel.h"
#include "cpu/vec.h"
#include "cpu/vec_row.h"

namespace seqloom::SEQLOOM_ISA_NS {
namespace {

constexpr int64_t kGrain = 16384;           // elements worth a thread
constexpr int64_t kStreamBytes = 16 << 20;  // outputs from this size on bypass the caches

// sum_c w_c (m - x_c + log s)
template <class T>
float smooth_loss(const T* x, const float* weight, int64_t n, float m, float log_s) {
  const VecF most = VecF::broadcast(m), l = VecF::broadcast(log_s), one = VecF::broadcast(1.0f);
  VecF s = VecF::zero();
  for (int64_t i = 0; i < n; i += kLanes) {
    const int count = static_cast<int>(min<int64_t>(kLanes, n - i));
    const VecF w = weight != nullptr ? load(weight + i, count) : one;
    s += zero_unless(first_n(count), w * (most - get_row(x + i, count) + l));
  }
  return reduce_add(s);
}

// dx_c = a exp(x_c - m) - b w_c; the target's own term is subtracted afterwards.
template <class T>
void row_gradient(const T* x, T* dx, const float* weight, int64_t n, float m, float a, float b,
                  bool streaming) {
  const VecF most = VecF::broadcast(m), fa = VecF::broadcast(a), fb = VecF::broadcast(b);
  write_row(dx, n, streaming, [&](int64_t i, int count) {
    const VecF p = fa * exp_below(get_row(x + i, count) - most);
    if (weight != nullptr) return fnma(fb, load(weight + i, count), p);
    return p - fb;
  });
}

template <class T>
void one_row(const ops::CrossEntropyArgs& a, int64_t r, bool streaming) {
  const int64_t n = a.classes, t = a.targets[r];
  const T* x = static_cast<const T*>(a.logits) + r * n;
  T* dx = a.dlogits == nullptr ? nullptr : static_cast<T*>(a.dlogits) + r * n;
  if (t == a.ignore_index) {
    if (a.losses != nullptr) a.losses[r] = 0.0f;
    if (!a.given) a.max_sum[2 * r] = a.max_sum[2 * r + 1] = 0.0f;
    if (dx != nullptr)
      __builtin_memset(static_cast<void*>(dx), 0, static_cast<size_t>(n) * sizeof(T));
    return;
  }
  const MaxAndSum sum = a.given ? MaxAndSum{a.max_sum[2 * r], a.max_sum[2 * r + 1]}
                                : row_max_and_sum<false>(x, nullptr, nullptr, n);
  const float wt = a.weight != nullptr ? a.weight[t] : 1.0f;
  const float hit = (1.0f - a.smoothing) * wt, each = a.smoothing / static_cast<float>(n);
  const float xt = seqloom::to_float(x[t]);
  if (!a.given) {
    a.max_sum[2 * r] = sum.m;
    a.max_sum[2 * r + 1] = sum.s;
  }
  if (a.losses != nullptr) {
    const float log_s = __builtin_logf(sum.s);
    float loss = hit * (sum.m - xt + log_s);
    if (each != 0.0f) loss += each * smooth_loss(x, a.weight, n, sum.m, log_s);
    a.losses[r] = loss;
  }
  if (dx == nullptr) return;
  const float g = a.row_scale != nullptr ? a.row_scale[r] : a.scale;
  const float pull = g * (hit + each * a.weight_sum) / sum.s, push = g * each;
  row_gradient(x, dx, a.weight, n, sum.m, pull, push, streaming);
  const float smooth = a.weight != nullptr ? push * wt : push;
  if (streaming) stream_fence();
  dx[t] = from_float<T>(pull * __builtin_expf(xt - sum.m) - smooth - g * hit);
}

}  // namespace

void cross_entropy(const ops::CrossEntropyArgs& a) {
  dispatch_kernel_float(a.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    const bool streaming = a.dlogits != nullptr && a.dlogits != a.logits &&
                           a.rows * a.classes * static_cast<int64_t>(sizeof(T)) >= kStreamBytes;
    cpu::parallel_for(a.rows, max<int64_t>(1, kGrain / max<int64_t>(1, a.classes)),
                      [&a, streaming](int64_t begin, int64_t end) {
                        for (int64_t r = begin; r < end; ++r) one_row<T>(a, r, streaming);
                      });
  });
}

}  // namespace seqloom::SEQLOOM_ISA_NS
