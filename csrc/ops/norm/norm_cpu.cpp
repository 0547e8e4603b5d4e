// SPDX-License-Identifier: Apache-2.0
// layer_norm and rms_norm on the CPU.
//
// Forward: threads over rows; a row is read once from memory and stays in L1 for its mean, its
// variance about that mean, and the scaling. Backward: threads over fixed blocks of rows; a block
// adds its share of dweight and dbias into a row of its own while dx is computed, so that no second
// pass over dy and h is needed, and the shares are summed in order: the bits don't depend on the
// threads.
#include "ops/norm/norm.h"

#include "cpu/parallel.h"
#include "cpu/scratch.h"
#include "cpu/vec.h"

namespace seqloom::SEQLOOM_ISA_NS {
namespace {

constexpr int64_t kGrain = 16384;   // elements worth a thread
constexpr int64_t kMaxBlocks = 32;  // shares of dweight: more would cost more to sum than they help

// f(i, count) over a row, the last call with a ragged count.
template <class F>
SEQLOOM_ALWAYS_INLINE void over_row(int64_t n, F f) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) f(i, kLanes);
  if (i < n) f(i, static_cast<int>(n - i));
}

SEQLOOM_ALWAYS_INLINE VecF zero_tail(VecF v, int count) {
  return count == kLanes ? v : zero_unless(first_n(count), v);
}

// Four running sums of term(i, count): the adds don't wait for each other.
template <class F>
SEQLOOM_ALWAYS_INLINE float row_sum(int64_t n, F term) {
  VecF s0 = VecF::zero(), s1 = s0, s2 = s0, s3 = s0;
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    s0 += term(i, kLanes);
    s1 += term(i + kLanes, kLanes);
    s2 += term(i + 2 * kLanes, kLanes);
    s3 += term(i + 3 * kLanes, kLanes);
  }
  for (; i + kLanes <= n; i += kLanes) s0 += term(i, kLanes);
  if (i < n) {
    const int tail = static_cast<int>(n - i);
    s1 += zero_tail(term(i, tail), tail);
  }
  return reduce_add((s0 + s1) + (s2 + s3));
}

template <class T>
struct Row {
  const T* p;
  SEQLOOM_ALWAYS_INLINE VecF operator()(int64_t i, int count) const {
    return count == kLanes ? load(p + i) : load(p + i, count);
  }
};

template <class T>
SEQLOOM_ALWAYS_INLINE void put(T* p, VecF v, int count) {
  if (count == kLanes)
    store(p, v);
  else
    store(p, v, count);
}

template <class T>
void forward_row(const ops::NormArgs& a, const T* h, T* y, int64_t r) {
  const int64_t n = a.n;
  const Row<T> x{h};
  const float inverse_n = 1.0f / static_cast<float>(n);
  float mean = 0.0f;
  if (!a.rms) mean = row_sum(n, x) * inverse_n;
  const VecF m = VecF::broadcast(mean);
  // A float32 mean of values near 1e4 is off by 1e-3. The second pass finds the rest of it from
  // x - mean, which is exact there.
  VecF rest = VecF::zero();
  const float squares = row_sum(n, [&](int64_t i, int count) {
    const VecF d = x(i, count) - m;
    if (!a.rms) rest += zero_tail(d, count);
    return d * d;
  });
  const float delta = a.rms ? 0.0f : reduce_add(rest) * inverse_n;
  const float variance = squares * inverse_n - delta * delta;
  const float rstd = 1.0f / __builtin_sqrtf(variance + a.eps);
  const VecF s = VecF::broadcast(rstd), shift = VecF::broadcast(-delta * rstd);
  const T* weight = static_cast<const T*>(a.weight);
  const T* bias = static_cast<const T*>(a.bias);
  // The three cases that models use stay free of tests inside the loop.
  if (weight != nullptr && bias != nullptr) {
    over_row(n, [&](int64_t i, int c) {
      put(y + i, fma(fma(x(i, c) - m, s, shift), Row<T>{weight}(i, c), Row<T>{bias}(i, c)), c);
    });
  } else if (weight != nullptr) {
    over_row(n, [&](int64_t i, int c) {
      put(y + i, fma(x(i, c) - m, s, shift) * Row<T>{weight}(i, c), c);
    });
  } else {
    over_row(n, [&](int64_t i, int c) {
      const VecF v = fma(x(i, c) - m, s, shift);
      put(y + i, bias != nullptr ? v + Row<T>{bias}(i, c) : v, c);
    });
  }
  if (a.mean != nullptr) a.mean[r] = mean + delta;
  if (a.rstd != nullptr) a.rstd[r] = rstd;
}

template <class T>
void forward_rows(const ops::NormArgs& a) {
  cpu::parallel_for(a.rows, max<int64_t>(1, kGrain / a.n), [&a](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const int64_t at = r * a.n;
      const T* h = static_cast<const T*>(a.x) + at;
      if (a.residual != nullptr) {
        T* sum = static_cast<T*>(a.sum) + at;
        const Row<T> x{h}, residual{static_cast<const T*>(a.residual) + at};
        over_row(a.n, [&](int64_t i, int c) { put(sum + i, x(i, c) + residual(i, c), c); });
        h = sum;
      }
      forward_row(a, h, static_cast<T*>(a.y) + at, r);
    }
  });
}

// One row of dx, and its terms of dweight and dbias into this block's share.
template <bool Rms, class T>
void backward_row(const ops::NormBackwardArgs& a, int64_t r, float* dweight, float* dbias) {
  const int64_t n = a.n, at = r * n;
  const Row<T> dy{static_cast<const T*>(a.dy) + at}, h{static_cast<const T*>(a.h) + at};
  const Row<T> weight{static_cast<const T*>(a.weight)};
  const VecF one = VecF::broadcast(1.0f);
  const VecF m = VecF::broadcast(Rms ? 0.0f : a.mean[r]), s = VecF::broadcast(a.rstd[r]);
  VecF g0 = VecF::zero(), g1 = g0, p0 = g0, p1 = g0;
  int64_t i = 0;
  const auto accumulate = [&](int64_t at_i, int c, VecF& g_sum, VecF& p_sum) {
    const VecF d = dy(at_i, c);
    const VecF xhat = (h(at_i, c) - m) * s;
    const VecF g = d * (a.weight != nullptr ? weight(at_i, c) : one);
    if (!Rms) g_sum += g;
    p_sum = fma(g, c == kLanes ? xhat : zero_unless(first_n(c), xhat), p_sum);
    if (dweight != nullptr) put(dweight + at_i, fma(d, xhat, load(dweight + at_i, c)), c);
    if (dbias != nullptr) put(dbias + at_i, load(dbias + at_i, c) + d, c);
  };
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    accumulate(i, kLanes, g0, p0);
    accumulate(i + kLanes, kLanes, g1, p1);
  }
  for (; i < n; i += kLanes) accumulate(i, static_cast<int>(min<int64_t>(kLanes, n - i)), g0, p0);
  const float inverse_n = 1.0f / static_cast<float>(n);
  const VecF mean_g = VecF::broadcast(Rms ? 0.0f : reduce_add(g0 + g1) * inverse_n);
  const VecF mean_p = VecF::broadcast(reduce_add(p0 + p1) * inverse_n);
  T* dx = static_cast<T*>(a.dx) + at;
  const T* dsum = a.dsum == nullptr ? nullptr : static_cast<const T*>(a.dsum) + at;
  over_row(n, [&](int64_t j, int c) {
    const VecF g = a.weight != nullptr ? dy(j, c) * weight(j, c) : dy(j, c);
    const VecF centred = Rms ? g : g - mean_g;
    VecF d = s * fnma((h(j, c) - m) * s, mean_p, centred);
    if (dsum != nullptr) d += Row<T>{dsum}(j, c);
    put(dx + j, d, c);
  });
}

template <bool Rms, class T>
void backward_rows(const ops::NormBackwardArgs& a) {
  const int64_t n = a.n;
  // Blocks of rows by the shape alone.
  const int64_t least = max<int64_t>(1, kGrain / n);
  const int64_t per_block = max(least, (a.rows + kMaxBlocks - 1) / kMaxBlocks);
  const int64_t blocks = (a.rows + per_block - 1) / per_block;
  const bool shares = a.dweight != nullptr || a.dbias != nullptr;
  cpu::Scratch scratch(shares ? static_cast<size_t>(blocks * 2 * n) * sizeof(float) : 0);
  float* const share = shares ? scratch.as<float>() : nullptr;  // [blocks, 2, n]
  cpu::parallel_for(blocks, 1, [&a, share, n, per_block](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      float* dweight = a.dweight != nullptr ? share + b * 2 * n : nullptr;
      float* dbias = a.dbias != nullptr ? share + (b * 2 + 1) * n : nullptr;
      if (dweight != nullptr) __builtin_memset(dweight, 0, static_cast<size_t>(n) * sizeof(float));
      if (dbias != nullptr) __builtin_memset(dbias, 0, static_cast<size_t>(n) * sizeof(float));
      const int64_t last = min(a.rows, (b + 1) * per_block);
      for (int64_t r = b * per_block; r < last; ++r) backward_row<Rms, T>(a, r, dweight, dbias);
    }
  });
  if (!shares) return;
  cpu::parallel_for(n, max<int64_t>(kLanes, kGrain / max<int64_t>(1, blocks)),
                    [&a, share, blocks, n](int64_t begin, int64_t end) {
                      for (int64_t i = begin; i < end; i += kLanes) {
                        const int c = static_cast<int>(min<int64_t>(kLanes, end - i));
                        VecF w = VecF::zero(), b = VecF::zero();
                        for (int64_t k = 0; k < blocks; ++k) {
                          if (a.dweight != nullptr) w += load(share + k * 2 * n + i, c);
                          if (a.dbias != nullptr) b += load(share + (k * 2 + 1) * n + i, c);
                        }
                        if (a.dweight != nullptr) put(a.dweight + i, w, c);
                        if (a.dbias != nullptr) put(a.dbias + i, b, c);
                      }
                    });
}

}  // namespace

void norm_forward(const ops::NormArgs& a) {
  dispatch_kernel_float(a.dtype,
                        [&](auto type) { forward_rows<typename decltype(type)::type>(a); });
}

void norm_backward(const ops::NormBackwardArgs& a) {
  dispatch_kernel_float(a.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    if (a.rms)
      backward_rows<true, T>(a);
    else
      backward_rows<false, T>(a);
  });
}

}  // namespace seqloom::SEQLOOM_ISA_NS
