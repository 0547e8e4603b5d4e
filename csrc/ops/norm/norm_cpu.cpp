// SPDX-License-Identifier: Apache-2.0
// layer_norm and rms_norm on the CPU.
//
// Forward: threads over rows; a row is read once from memory, in pieces that stay in L1 for their
// mean and the variance about it (cpu/vec_row.h), and from L2 for the scaling. Backward: threads
// over fixed blocks of rows; a block adds its share of dweight and dbias into a row of its own
// while dx is computed, so that no second pass over dy and h is needed, and the shares are summed
// in order: the bits don't depend on the threads.
#include "ops/norm/norm.h"

#include "cpu/parallel.h"
#include "cpu/scratch.h"
#include "cpu/vec.h"
#include "cpu/vec_row.h"

namespace seqloom::SEQLOOM_ISA_NS {
namespace {

constexpr int64_t kGrain = 16384;         // elements worth a thread
constexpr int64_t kPiece = 2048;          // elements of a piece of a row: 8 KB of float
constexpr int64_t kLongRow = 8 * kPiece;  // rows whose columns are worth dividing
constexpr int64_t kFewRows = 8;           // rows of a block whose share costs too much
constexpr int64_t kMaxBlocks = 32;  // shares of dweight: more would cost more to sum than they help

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

// The mean is mean + rest.
struct Statistics {
  float mean, rest, rstd;
};

// Mean and squares about it of each piece, merged by Chan's formula in float64: one pass over
// memory with the accuracy of two. A float32 mean of values near 1e4 is off by 1e-3; the squares'
// pass finds the rest of it from x - mean, which is exact there.
template <class T>
SEQLOOM_ALWAYS_INLINE Statistics layer_statistics(const T* h, int64_t n, float eps) {
  double mean = 0.0, squares = 0.0;
  for (int64_t start = 0; start < n; start += kPiece) {
    const int64_t count = min(kPiece, n - start);
    const Row<T> x{h + start};
    const double inverse = 1.0 / static_cast<double>(count);
    const float rough = row_sum(count, x) * static_cast<float>(inverse);
    const VecF m = VecF::broadcast(rough);
    VecF rest = VecF::zero();
    const float about_rough = row_sum(count, [&](int64_t i, int c) {
      fetch_next<1, kPiece>(h + start + i);
      const VecF d = x(i, c) - m;
      rest += zero_tail(d, c);
      return d * d;
    });
    const double delta = static_cast<double>(reduce_add(rest)) * inverse;
    const double part = rough + delta,
                 own = about_rough - delta * delta * static_cast<double>(count);
    const double share = static_cast<double>(count) / static_cast<double>(start + count);
    const double apart = part - mean;
    mean += apart * share;
    squares += own + apart * apart * share * static_cast<double>(start);
  }
  // Equal values may leave a remainder of either sign. NaN stays.
  const double variance = squares < 0.0 ? 0.0 : squares / static_cast<double>(n);
  const float rounded = static_cast<float>(mean);
  return {rounded, static_cast<float>(mean - rounded),
          static_cast<float>(1.0 / __builtin_sqrt(variance + eps))};
}

template <class T>
SEQLOOM_ALWAYS_INLINE Statistics rms_statistics(const T* h, int64_t n, float eps) {
  const Row<T> x{h};
  const float squares = row_sum(n, [&](int64_t i, int c) {
    fetch_next<1, kPiece>(h + i);
    const VecF v = x(i, c);
    return v * v;
  });
  return {0.0f, 0.0f, 1.0f / __builtin_sqrtf(squares / static_cast<float>(n) + eps)};
}

// A row whose squares or sums overflow float32: in float64, an element at a time. So is, for want
// of a distinction, a row with NaN or infinity.
template <class T>
SEQLOOM_NOINLINE void forward_huge_row(const ops::NormArgs& a, const T* h, T* y, int64_t r) {
  const auto at = [h](int64_t i) { return static_cast<double>(seqloom::to_float(h[i])); };
  const auto parameter = [](const void* p, int64_t i, double absent) {
    return p == nullptr ? absent
                        : static_cast<double>(seqloom::to_float(static_cast<const T*>(p)[i]));
  };
  const double count = static_cast<double>(a.n);
  double mean = 0.0, squares = 0.0;
  if (!a.rms) {
    for (int64_t i = 0; i < a.n; ++i) mean += at(i);
    mean /= count;
  }
  for (int64_t i = 0; i < a.n; ++i) squares += (at(i) - mean) * (at(i) - mean);
  const double rstd = 1.0 / __builtin_sqrt(squares / count + a.eps);
  for (int64_t i = 0; i < a.n; ++i) {
    const double scaled = (at(i) - mean) * rstd * parameter(a.weight, i, 1.0);
    y[i] = from_float<T>(static_cast<float>(scaled + parameter(a.bias, i, 0.0)));
  }
  if (a.mean != nullptr) a.mean[r] = static_cast<float>(mean);
  if (a.rstd != nullptr) a.rstd[r] = static_cast<float>(rstd);
}

template <class T>
void forward_row(const ops::NormArgs& a, const T* h, T* y, int64_t r, bool streaming) {
  const int64_t n = a.n;
  const Row<T> x{h};
  const Statistics p = a.rms ? rms_statistics(h, n, a.eps) : layer_statistics(h, n, a.eps);
  if (SEQLOOM_UNLIKELY(!(p.rstd > 0.0f))) return forward_huge_row(a, h, y, r);
  const VecF m = VecF::broadcast(p.mean), s = VecF::broadcast(p.rstd);
  const VecF shift = VecF::broadcast(-p.rest * p.rstd);
  const T* weight = static_cast<const T*>(a.weight);
  const T* bias = static_cast<const T*>(a.bias);
  // The three cases that models use stay free of tests inside the loop.
  if (weight != nullptr && bias != nullptr) {
    write_row(y, n, streaming, [&](int64_t i, int c) {
      fetch_next_row(h + i, n);
      return fma(fma(x(i, c) - m, s, shift), Row<T>{weight}(i, c), Row<T>{bias}(i, c));
    });
  } else if (weight != nullptr) {
    write_row(y, n, streaming, [&](int64_t i, int c) {
      fetch_next_row(h + i, n);
      return fma(x(i, c) - m, s, shift) * Row<T>{weight}(i, c);
    });
  } else {
    write_row(y, n, streaming, [&](int64_t i, int c) {
      const VecF v = fma(x(i, c) - m, s, shift);
      return bias != nullptr ? v + Row<T>{bias}(i, c) : v;
    });
  }
  if (a.mean != nullptr) a.mean[r] = p.mean;
  if (a.rstd != nullptr) a.rstd[r] = p.rstd;
}

template <class T>
void forward_rows(const ops::NormArgs& a) {
  const bool streaming =
      a.rows * a.n * static_cast<int64_t>(sizeof(T)) >= kStreamedBytes && a.y != a.x;
  cpu::parallel_for(
      a.rows, max<int64_t>(1, kGrain / a.n), [&a, streaming](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r) {
          const int64_t at = r * a.n;
          const T* h = static_cast<const T*>(a.x) + at;
          if (a.residual != nullptr) {
            T* sum = static_cast<T*>(a.sum) + at;
            const Row<T> x{h}, residual{static_cast<const T*>(a.residual) + at};
            over_row(a.n, [&](int64_t i, int c) { put_row(sum + i, x(i, c) + residual(i, c), c); });
            h = sum;
          }
          forward_row(a, h, static_cast<T*>(a.y) + at, r, streaming);
        }
        if (streaming) stream_fence();
      });
}

// Whether dx goes past the caches.
template <class T>
bool streams(const ops::NormBackwardArgs& a) {
  return a.rows * a.n * static_cast<int64_t>(sizeof(T)) >= kStreamedBytes && a.dx != a.dy &&
         a.dx != a.dsum;
}

// One row of dx, and its terms of dweight and dbias into this block's share.
template <bool Rms, class T>
void backward_row(const ops::NormBackwardArgs& a, int64_t r, float* dweight, float* dbias,
                  bool streaming) {
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
    if (dweight != nullptr) put_row(dweight + at_i, fma(d, xhat, load(dweight + at_i, c)), c);
    if (dbias != nullptr) put_row(dbias + at_i, load(dbias + at_i, c) + d, c);
  };
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    accumulate(i, kLanes, g0, p0);
    accumulate(i + kLanes, kLanes, g1, p1);
  }
  for (; i < n; i += kLanes) accumulate(i, static_cast<int>(min<int64_t>(kLanes, n - i)), g0, p0);
  const float inverse_n = 1.0f / static_cast<float>(n);
  const VecF mean_g = VecF::broadcast(Rms ? 0.0f : reduce_add(g0 + g1) * inverse_n);
  const VecF mean_p = VecF::broadcast(reduce_add(p0 + p1) * inverse_n);
  const T* dsum = a.dsum == nullptr ? nullptr : static_cast<const T*>(a.dsum) + at;
  write_row(static_cast<T*>(a.dx) + at, n, streaming, [&](int64_t j, int c) {
    const VecF g = a.weight != nullptr ? dy(j, c) * weight(j, c) : dy(j, c);
    const VecF centred = Rms ? g : g - mean_g;
    const VecF d = s * fnma((h(j, c) - m) * s, mean_p, centred);
    return dsum != nullptr ? d + Row<T>{dsum}(j, c) : d;
  });
}

// A few long rows: a share of dweight for each block of rows would be as large as dy itself.
// Threads first take rows, for their two sums; then columns, for dx and the finished dweight and
// dbias, while dy and h are still in the last level of the caches.
template <bool Rms, class T>
void backward_columns(const ops::NormBackwardArgs& a) {
  const int64_t n = a.n, rows = a.rows;
  const T* const dy = static_cast<const T*>(a.dy);
  const T* const h = static_cast<const T*>(a.h);
  const T* const weight = static_cast<const T*>(a.weight);
  const T* const dsum = static_cast<const T*>(a.dsum);
  const int64_t pieces = (n + kPiece - 1) / kPiece;
  cpu::Scratch scratch(static_cast<size_t>(2 * rows) * sizeof(float));
  float* const means = scratch.as<float>();  // [rows, 2]: of g and of g xhat
  cpu::parallel_for(rows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const Row<T> d{dy + r * n}, x{h + r * n}, w{weight};
      const VecF m = VecF::broadcast(Rms ? 0.0f : a.mean[r]);
      VecF g0 = VecF::zero(), g1 = g0, p0 = g0, p1 = g0;
      const auto add = [&](int64_t i, int c, VecF& g_sum, VecF& p_sum) {
        const VecF g = weight != nullptr ? d(i, c) * w(i, c) : d(i, c);
        if (!Rms) g_sum += g;
        p_sum = fma(g, x(i, c) - m, p_sum);  // g is 0 past the end
      };
      int64_t i = 0;
      for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
        add(i, kLanes, g0, p0);
        add(i + kLanes, kLanes, g1, p1);
      }
      for (; i < n; i += kLanes) add(i, static_cast<int>(min<int64_t>(kLanes, n - i)), g0, p0);
      means[2 * r] = Rms ? 0.0f : reduce_add(g0 + g1) / static_cast<float>(n);
      means[2 * r + 1] = reduce_add(p0 + p1) * a.rstd[r] / static_cast<float>(n);
    }
  });
  const bool streaming = streams<T>(a);
  cpu::parallel_for(pieces, 1, [&](int64_t begin, int64_t end) {
    float dweight[kPiece], dbias[kPiece];
    for (int64_t piece = begin; piece < end; ++piece) {
      const int64_t start = piece * kPiece, count = min(kPiece, n - start);
      __builtin_memset(dweight, 0, sizeof(dweight));
      __builtin_memset(dbias, 0, sizeof(dbias));
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t at = r * n + start;
        const VecF m = VecF::broadcast(Rms ? 0.0f : a.mean[r]), s = VecF::broadcast(a.rstd[r]);
        const VecF mean_g = VecF::broadcast(means[2 * r]),
                   mean_p = VecF::broadcast(means[2 * r + 1]);
        const Row<T> d{dy + at}, x{h + at}, w{weight == nullptr ? nullptr : weight + start};
        write_row(static_cast<T*>(a.dx) + at, count, streaming, [&](int64_t i, int c) {
          prefetch(dy + at + n + i);
          prefetch(h + at + n + i);
          const VecF up = d(i, c), xhat = (x(i, c) - m) * s;
          put_row(dweight + i, fma(up, xhat, get_row(dweight + i, c)), c);
          put_row(dbias + i, get_row(dbias + i, c) + up, c);
          const VecF g = weight != nullptr ? up * w(i, c) : up;
          const VecF dh = s * fnma(xhat, mean_p, Rms ? g : g - mean_g);
          return dsum != nullptr ? dh + Row<T>{dsum + at}(i, c) : dh;
        });
      }
      if (a.dweight != nullptr)
        over_row(count, [&](int64_t i, int c) {
          put_row(a.dweight + start + i, get_row(dweight + i, c), c);
        });
      if (a.dbias != nullptr)
        over_row(count,
                 [&](int64_t i, int c) { put_row(a.dbias + start + i, get_row(dbias + i, c), c); });
    }
    if (streaming) stream_fence();
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
  if (shares && n >= kLongRow && per_block < kFewRows) return backward_columns<Rms, T>(a);
  cpu::Scratch scratch(shares ? static_cast<size_t>(blocks * 2 * n) * sizeof(float) : 0);
  float* const share = shares ? scratch.as<float>() : nullptr;  // [blocks, 2, n]
  const bool streaming = streams<T>(a);
  cpu::parallel_for(blocks, 1, [&a, share, n, per_block, streaming](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      float* dweight = a.dweight != nullptr ? share + b * 2 * n : nullptr;
      float* dbias = a.dbias != nullptr ? share + (b * 2 + 1) * n : nullptr;
      if (dweight != nullptr) __builtin_memset(dweight, 0, static_cast<size_t>(n) * sizeof(float));
      if (dbias != nullptr) __builtin_memset(dbias, 0, static_cast<size_t>(n) * sizeof(float));
      const int64_t last = min(a.rows, (b + 1) * per_block);
      for (int64_t r = b * per_block; r < last; ++r)
        backward_row<Rms, T>(a, r, dweight, dbias, streaming);
    }
    if (streaming) stream_fence();
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
                        if (a.dweight != nullptr) put_row(a.dweight + i, w, c);
                        if (a.dbias != nullptr) put_row(a.dbias + i, b, c);
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
