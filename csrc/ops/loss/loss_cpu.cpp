// SPDX-License-Identifier: Apache-2.0
// Cross-entropy on the CPU: threads over rows. A row of logits (200 KB for GPT-2) is read from
// memory once, for its maximum; the sum of exponentials and the gradient then find it in L2.
// Gradients that will not fit in the caches are stored past them.
#include "ops/loss/loss.h"

#include "cpu/parallel.h"
#include "cpu/vec.h"
#include "cpu/vec_math.h"

namespace seqloom::SEQLOOM_ISA_NS {
namespace {

constexpr int64_t kGrain = 16384;           // elements worth a thread
constexpr int64_t kStreamBytes = 16 << 20;  // outputs from this size on bypass the caches

template <class T>
SEQLOOM_ALWAYS_INLINE VecF get_row(const T* p, int count) {
  return count == kLanes ? load(p) : load(p, count);
}

template <class T>
float log_sum_exp(const T* x, int64_t n) {
  const VecF lowest = VecF::broadcast(-__builtin_inff());
  VecF m0 = lowest, m1 = lowest, m2 = lowest, m3 = lowest;
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    m0 = max(m0, load(x + i));
    m1 = max(m1, load(x + i + kLanes));
    m2 = max(m2, load(x + i + 2 * kLanes));
    m3 = max(m3, load(x + i + 3 * kLanes));
  }
  for (; i < n; i += kLanes)
    m0 = max(m0, load_or(x + i, static_cast<int>(min<int64_t>(kLanes, n - i)), lowest));
  const float m = reduce_max(max(max(m0, m1), max(m2, m3)));
  const VecF shift = VecF::broadcast(m);
  VecF s0 = VecF::zero(), s1 = s0, s2 = s0, s3 = s0;
  for (i = 0; i + 4 * kLanes <= n; i += 4 * kLanes) {
    s0 += exp(load(x + i) - shift);
    s1 += exp(load(x + i + kLanes) - shift);
    s2 += exp(load(x + i + 2 * kLanes) - shift);
    s3 += exp(load(x + i + 3 * kLanes) - shift);
  }
  for (; i < n; i += kLanes) {
    const int count = static_cast<int>(min<int64_t>(kLanes, n - i));
    s0 += zero_unless(first_n(count), exp(get_row(x + i, count) - shift));
  }
  return m + __builtin_logf(reduce_add((s0 + s1) + (s2 + s3)));
}

// sum_c w_c (lse - x_c)
template <class T>
float smooth_loss(const T* x, const float* weight, int64_t n, float lse) {
  const VecF l = VecF::broadcast(lse), one = VecF::broadcast(1.0f);
  VecF s = VecF::zero();
  for (int64_t i = 0; i < n; i += kLanes) {
    const int count = static_cast<int>(min<int64_t>(kLanes, n - i));
    const VecF w = weight != nullptr ? load(weight + i, count) : one;
    s += zero_unless(first_n(count), w * (l - get_row(x + i, count)));
  }
  return reduce_add(s);
}

// dx_c = a exp(x_c - lse) - b w_c; the target's own term is subtracted afterwards.
template <class T>
void row_gradient(const T* x, T* dx, const float* weight, int64_t n, float lse, float a, float b,
                  bool streaming) {
  const VecF l = VecF::broadcast(lse), fa = VecF::broadcast(a), fb = VecF::broadcast(b);
  int64_t i = 0;
  const auto term = [&](int64_t at, int count) {
    const VecF p = fa * exp(get_row(x + at, count) - l);
    if (weight != nullptr) return fnma(fb, load(weight + at, count), p);
    return p - fb;
  };
  if constexpr (sizeof(T) == sizeof(float)) {
    if (streaming) {
      // Up to the first 64-byte boundary with ordinary stores, then whole vectors past the caches.
      constexpr int64_t kBytes = kLanes * static_cast<int64_t>(sizeof(float));
      const auto misaligned = static_cast<int64_t>(reinterpret_cast<uintptr_t>(dx) % kBytes);
      const int64_t head = min(n, misaligned == 0 ? 0 : (kBytes - misaligned) / 4);
      if (head > 0) store(dx, term(0, static_cast<int>(head)), static_cast<int>(head));
      for (i = head; i + kLanes <= n; i += kLanes) stream(dx + i, term(i, kLanes));
    }
  }
  for (; i + kLanes <= n; i += kLanes) store(dx + i, term(i, kLanes));
  if (i < n) store(dx + i, term(i, static_cast<int>(n - i)), static_cast<int>(n - i));
}

template <class T>
void one_row(const ops::CrossEntropyArgs& a, int64_t r, bool streaming) {
  const int64_t n = a.classes, t = a.targets[r];
  const T* x = static_cast<const T*>(a.logits) + r * n;
  T* dx = a.dlogits == nullptr ? nullptr : static_cast<T*>(a.dlogits) + r * n;
  if (t == a.ignore_index) {
    if (a.losses != nullptr) a.losses[r] = 0.0f;
    if (!a.given_lse) a.lse[r] = 0.0f;
    if (dx != nullptr)
      __builtin_memset(static_cast<void*>(dx), 0, static_cast<size_t>(n) * sizeof(T));
    return;
  }
  const float lse = a.given_lse ? a.lse[r] : log_sum_exp(x, n);
  const float wt = a.weight != nullptr ? a.weight[t] : 1.0f;
  const float hit = (1.0f - a.smoothing) * wt, each = a.smoothing / static_cast<float>(n);
  const float xt = seqloom::to_float(x[t]);
  if (!a.given_lse) a.lse[r] = lse;
  if (a.losses != nullptr) {
    float loss = hit * (lse - xt);
    if (each != 0.0f) loss += each * smooth_loss(x, a.weight, n, lse);
    a.losses[r] = loss;
  }
  if (dx == nullptr) return;
  const float g = a.row_scale != nullptr ? a.row_scale[r] : a.scale;
  const float pull = g * (hit + each * a.weight_sum), push = g * each;
  row_gradient(x, dx, a.weight, n, lse, pull, push, streaming);
  const float smooth = a.weight != nullptr ? push * wt : push;
  if (streaming) stream_fence();
  dx[t] = from_float<T>(pull * __builtin_expf(xt - lse) - smooth - g * hit);
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
