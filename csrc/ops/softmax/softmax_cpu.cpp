// SPDX-License-Identifier: Apache-2.0
// softmax and log_softmax on the CPU.
//
// Last axis: threads over rows; within a row, three passes over memory that stays in cache
// (maximum; exponentials and their sum; scaling), so that memory is read and written once. Four
// accumulators hide the latency of max and add. Rows that are few and long are cut into chunks of
// kChunk columns, whose maxima and sums are merged in order: the bits depend on the shape alone.
// Other axes: a vector runs along `inner`, one column a lane.
#include "ops/softmax/softmax.h"

#include "cpu/parallel.h"
#include "cpu/scratch.h"
#include "cpu/vec.h"
#include "cpu/vec_math.h"

namespace seqloom::SEQLOOM_ISA_NS {
namespace {

constexpr int64_t kChunk = 16384;  // columns of one piece of a long row
constexpr int64_t kGrain = 16384;  // elements worth a thread
constexpr int64_t kFewRows = 16;   // fewer long rows than this are cut into chunks
constexpr float kNegativeInfinity = -__builtin_inff();

// `log` names a flag in this file.
SEQLOOM_ALWAYS_INLINE VecF log_of(VecF x) { return log(x); }

template <class T>
float row_max(const T* x, int64_t n) {
  VecF m0 = VecF::broadcast(kNegativeInfinity), m1 = m0, m2 = m0, m3 = m0;
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    m0 = max(m0, load(x + i));
    m1 = max(m1, load(x + i + kLanes));
    m2 = max(m2, load(x + i + 2 * kLanes));
    m3 = max(m3, load(x + i + 3 * kLanes));
  }
  for (; i + kLanes <= n; i += kLanes) m0 = max(m0, load(x + i));
  if (i < n)
    m1 = max(m1, load_or(x + i, static_cast<int>(n - i), VecF::broadcast(kNegativeInfinity)));
  return reduce_max(max(max(m0, m1), max(m2, m3)));
}

// sum_j exp(x_j - m); Keep: also e_j = exp(x_j - m).
template <bool Keep, class T>
float row_exp_sum(const T* x, float* e, int64_t n, float m) {
  const VecF shift = VecF::broadcast(m);
  VecF s0 = VecF::zero(), s1 = s0, s2 = s0, s3 = s0;
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    const VecF e0 = exp(load(x + i) - shift), e1 = exp(load(x + i + kLanes) - shift);
    const VecF e2 = exp(load(x + i + 2 * kLanes) - shift);
    const VecF e3 = exp(load(x + i + 3 * kLanes) - shift);
    if (Keep) {
      store(e + i, e0);
      store(e + i + kLanes, e1);
      store(e + i + 2 * kLanes, e2);
      store(e + i + 3 * kLanes, e3);
    }
    s0 += e0;
    s1 += e1;
    s2 += e2;
    s3 += e3;
  }
  for (; i + kLanes <= n; i += kLanes) {
    const VecF e0 = exp(load(x + i) - shift);
    if (Keep) store(e + i, e0);
    s0 += e0;
  }
  if (i < n) {
    const int tail = static_cast<int>(n - i);
    const VecF e1 = zero_unless(first_n(tail), exp(load(x + i, tail) - shift));
    if (Keep) store(e + i, e1, tail);
    s1 += e1;
  }
  return reduce_add((s0 + s1) + (s2 + s3));
}

template <class T>
void scale_row(const float* e, T* y, int64_t n, float factor) {
  const VecF f = VecF::broadcast(factor);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(y + i, load(e + i) * f);
  if (i < n) store(y + i, load(e + i, static_cast<int>(n - i)) * f, static_cast<int>(n - i));
}

// y = exp(x - m) * factor, or x - m - offset: one pass when the statistics are known.
template <class T>
void finish_row(const T* x, T* y, int64_t n, float m, float factor, float offset, bool log) {
  const VecF shift = VecF::broadcast(m), f = VecF::broadcast(factor);
  const VecF off = VecF::broadcast(offset);
  for (int64_t i = 0; i < n; i += kLanes) {
    const int count = n - i < kLanes ? static_cast<int>(n - i) : kLanes;
    const VecF d = load(x + i, count) - shift;
    store(y + i, log ? d - off : exp(d) * f, count);
  }
}

template <class T>
void forward_row(const T* x, T* y, float* scratch, int64_t n, bool log) {
  const float m = row_max(x, n);
  if (log) {
    const float s = row_exp_sum<false>(x, nullptr, n, m);
    finish_row(x, y, n, m, 1.0f, __builtin_logf(s), true);
  } else if (n <= kChunk) {
    const float s = row_exp_sum<true>(x, scratch, n, m);
    scale_row(scratch, y, n, 1.0f / s);
  } else {
    const float s = row_exp_sum<false>(x, nullptr, n, m);
    finish_row(x, y, n, m, 1.0f / s, 0.0f, false);
  }
}

template <class T>
void forward_rows(const T* x, T* y, int64_t rows, int64_t n, bool log) {
  cpu::parallel_for(rows, max<int64_t>(1, kGrain / n), [=](int64_t begin, int64_t end) {
    cpu::Scratch scratch(static_cast<size_t>(min(n, kChunk)) * sizeof(float));
    for (int64_t r = begin; r < end; ++r)
      forward_row(x + r * n, y + r * n, scratch.as<float>(), n, log);
  });
}

// A few long rows: chunks give (max, sum), which are merged in order, then chunks are finished.
template <class T>
void forward_long_rows(const T* x, T* y, int64_t rows, int64_t n, bool log) {
  const int64_t chunks = (n + kChunk - 1) / kChunk;
  cpu::Scratch scratch(static_cast<size_t>(rows * chunks * 2 + rows * 2) * sizeof(float));
  float* const partial = scratch.as<float>();         // [rows, chunks, 2]
  float* const merged = partial + rows * chunks * 2;  // [rows, 2]: max, sum
  cpu::parallel_for(rows * chunks, 1, [=](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      const int64_t start = c % chunks * kChunk;
      const T* piece = x + c / chunks * n + start;
      const int64_t count = min(kChunk, n - start);
      const float m = row_max(piece, count);
      partial[2 * c] = m;
      partial[2 * c + 1] = row_exp_sum<false>(piece, nullptr, count, m);
    }
  });
  for (int64_t r = 0; r < rows; ++r) {
    const float* p = partial + r * chunks * 2;
    float m = kNegativeInfinity, s = 0.0f;
    for (int64_t c = 0; c < chunks; ++c) m = max(m, p[2 * c]);
    for (int64_t c = 0; c < chunks; ++c) {
      // A chunk of nothing but -inf has sum NaN by itself, but adds nothing to a row that has more.
      const bool nothing = p[2 * c] == kNegativeInfinity && m != kNegativeInfinity;
      bool poisoned = false;
      if (nothing)
        for (int64_t i = c * kChunk; i < min(n, (c + 1) * kChunk); ++i)
          poisoned |= seqloom::to_float(x[r * n + i]) != kNegativeInfinity;  // a NaN among them
      if (!nothing || poisoned) s += p[2 * c + 1] * __builtin_expf(p[2 * c] - m);
    }
    merged[2 * r] = m;
    merged[2 * r + 1] = s;
  }
  cpu::parallel_for(rows * chunks, 1, [=](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      const int64_t r = c / chunks, start = c % chunks * kChunk, at = r * n + start;
      const float s = merged[2 * r + 1];
      finish_row(x + at, y + at, min(kChunk, n - start), merged[2 * r], 1.0f / s,
                 log ? __builtin_logf(s) : 0.0f, log);
    }
  });
}

// The axis is not the last: lanes are neighbouring columns.
template <class T>
void forward_columns(const T* x, T* y, int64_t outer, int64_t n, int64_t inner, bool log) {
  const int64_t blocks = (inner + kLanes - 1) / kLanes;
  const int64_t grain = max<int64_t>(1, kGrain / (n * kLanes));
  cpu::parallel_for(outer * blocks, grain, [=](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const int64_t column = b % blocks * kLanes, base = b / blocks * n * inner + column;
      const int count = static_cast<int>(min<int64_t>(kLanes, inner - column));
      VecF m = VecF::broadcast(kNegativeInfinity), s = VecF::zero();
      for (int64_t i = 0; i < n; ++i) m = max(m, load(x + base + i * inner, count));
      for (int64_t i = 0; i < n; ++i) s += exp(load(x + base + i * inner, count) - m);
      const VecF factor = VecF::broadcast(1.0f) / s, offset = log_of(s);
      for (int64_t i = 0; i < n; ++i) {
        const VecF d = load(x + base + i * inner, count) - m;
        store(y + base + i * inner, log ? d - offset : exp(d) * factor, count);
      }
    }
  });
}

// sum_j dy_j y_j, or sum_j dy_j.
template <bool Log, class T>
float row_dot(const T* dy, const T* y, int64_t n) {
  VecF s0 = VecF::zero(), s1 = s0;
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    if (Log) {
      s0 += load(dy + i);
      s1 += load(dy + i + kLanes);
    } else {
      s0 = fma(load(dy + i), load(y + i), s0);
      s1 = fma(load(dy + i + kLanes), load(y + i + kLanes), s1);
    }
  }
  for (; i < n; i += kLanes) {
    const int count = static_cast<int>(min<int64_t>(kLanes, n - i));
    const VecF g = load(dy + i, count);
    s0 = Log ? s0 + g : fma(g, load(y + i, count), s0);
  }
  return reduce_add(s0 + s1);
}

template <bool Log>
SEQLOOM_ALWAYS_INLINE VecF input_gradient(VecF dy, VecF y, VecF dot) {
  return Log ? fnma(exp(y), dot, dy) : y * (dy - dot);
}

template <bool Log, class T>
void backward_row(const T* dy, const T* y, T* dx, int64_t n, float dot) {
  const VecF d = VecF::broadcast(dot);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    store(dx + i, input_gradient<Log>(load(dy + i), load(y + i), d));
  if (i < n) {
    const int tail = static_cast<int>(n - i);
    store(dx + i, input_gradient<Log>(load(dy + i, tail), load(y + i, tail), d), tail);
  }
}

template <bool Log, class T>
void backward_rows(const T* dy, const T* y, T* dx, int64_t rows, int64_t n) {
  cpu::parallel_for(rows, max<int64_t>(1, kGrain / n), [=](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const int64_t at = r * n;
      backward_row<Log>(dy + at, y + at, dx + at, n, row_dot<Log>(dy + at, y + at, n));
    }
  });
}

template <bool Log, class T>
void backward_long_rows(const T* dy, const T* y, T* dx, int64_t rows, int64_t n) {
  const int64_t chunks = (n + kChunk - 1) / kChunk;
  cpu::Scratch scratch(static_cast<size_t>(rows * chunks) * sizeof(float));
  float* const partial = scratch.as<float>();
  cpu::parallel_for(rows * chunks, 1, [=](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      const int64_t start = c % chunks * kChunk, at = c / chunks * n + start;
      partial[c] = row_dot<Log>(dy + at, y + at, min(kChunk, n - start));
    }
  });
  cpu::parallel_for(rows * chunks, 1, [=](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      const int64_t r = c / chunks, start = c % chunks * kChunk, at = r * n + start;
      float dot = 0.0f;
      for (int64_t k = 0; k < chunks; ++k) dot += partial[r * chunks + k];
      backward_row<Log>(dy + at, y + at, dx + at, min(kChunk, n - start), dot);
    }
  });
}

template <bool Log, class T>
void backward_columns(const T* dy, const T* y, T* dx, int64_t outer, int64_t n, int64_t inner) {
  const int64_t blocks = (inner + kLanes - 1) / kLanes;
  const int64_t grain = max<int64_t>(1, kGrain / (n * kLanes));
  cpu::parallel_for(outer * blocks, grain, [=](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const int64_t column = b % blocks * kLanes, base = b / blocks * n * inner + column;
      const int count = static_cast<int>(min<int64_t>(kLanes, inner - column));
      VecF dot = VecF::zero();
      for (int64_t i = 0; i < n; ++i) {
        const VecF g = load(dy + base + i * inner, count);
        dot = Log ? dot + g : fma(g, load(y + base + i * inner, count), dot);
      }
      for (int64_t i = 0; i < n; ++i) {
        const int64_t at = base + i * inner;
        store(dx + at, input_gradient<Log>(load(dy + at, count), load(y + at, count), dot), count);
      }
    }
  });
}

// float64 is the reference path: plain loops, one column at a time.
void forward_double(const ops::SoftmaxArgs& a) {
  const double* x = static_cast<const double*>(a.x);
  double* y = static_cast<double*>(a.y);
  const int64_t n = a.length, inner = a.inner;
  const bool log = a.log;
  cpu::parallel_for(a.outer * inner, max<int64_t>(1, kGrain / n), [=](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      const int64_t base = c / inner * n * inner + c % inner;
      double m = -__builtin_inf(), s = 0.0;
      for (int64_t i = 0; i < n; ++i) m = max(m, x[base + i * inner]);
      for (int64_t i = 0; i < n; ++i) s += __builtin_exp(x[base + i * inner] - m);
      const double offset = __builtin_log(s);
      for (int64_t i = 0; i < n; ++i) {
        const double d = x[base + i * inner] - m;
        y[base + i * inner] = log ? d - offset : __builtin_exp(d) / s;
      }
    }
  });
}

void backward_double(const ops::SoftmaxBackwardArgs& a) {
  const double* dy = static_cast<const double*>(a.dy);
  const double* y = static_cast<const double*>(a.y);
  double* dx = static_cast<double*>(a.dx);
  const int64_t n = a.length, inner = a.inner;
  const bool log = a.log;
  cpu::parallel_for(a.outer * inner, max<int64_t>(1, kGrain / n), [=](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      const int64_t base = c / inner * n * inner + c % inner;
      double dot = 0.0;
      for (int64_t i = 0; i < n; ++i)
        dot += dy[base + i * inner] * (log ? 1.0 : y[base + i * inner]);
      for (int64_t i = 0; i < n; ++i) {
        const int64_t at = base + i * inner;
        dx[at] = log ? dy[at] - __builtin_exp(y[at]) * dot : y[at] * (dy[at] - dot);
      }
    }
  });
}

template <bool Log, class T>
void backward_of(const ops::SoftmaxBackwardArgs& a) {
  const T* dy = static_cast<const T*>(a.dy);
  const T* y = static_cast<const T*>(a.y);
  T* dx = static_cast<T*>(a.dx);
  if (a.inner > 1)
    backward_columns<Log>(dy, y, dx, a.outer, a.length, a.inner);
  else if (a.outer < kFewRows && a.length > 2 * kChunk)
    backward_long_rows<Log>(dy, y, dx, a.outer, a.length);
  else
    backward_rows<Log>(dy, y, dx, a.outer, a.length);
}

}  // namespace

void softmax_forward(const ops::SoftmaxArgs& a) {
  if (a.dtype == DType::kFloat64) return forward_double(a);
  dispatch_kernel_float(a.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    const T* x = static_cast<const T*>(a.x);
    T* y = static_cast<T*>(a.y);
    if (a.inner > 1)
      forward_columns(x, y, a.outer, a.length, a.inner, a.log);
    else if (a.outer < kFewRows && a.length > 2 * kChunk)
      forward_long_rows(x, y, a.outer, a.length, a.log);
    else
      forward_rows(x, y, a.outer, a.length, a.log);
  });
}

void softmax_backward(const ops::SoftmaxBackwardArgs& a) {
  if (a.dtype == DType::kFloat64) return backward_double(a);
  dispatch_kernel_float(a.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    if (a.log)
      backward_of<true, T>(a);
    else
      backward_of<false, T>(a);
  });
}

}  // namespace seqloom::SEQLOOM_ISA_NS
