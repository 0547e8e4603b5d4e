// SPDX-License-Identifier: Apache-2.0
// softmax and log_softmax on the CPU.
//
// Last axis: threads over rows; a row is read from memory once, in pieces (cpu/vec_row.h) that give
// the running maximum and the sum of exponentials, which are kept and scaled at the end: one
// exponential an element. Rows that are few and long are cut into chunks of kChunk columns, whose
// maxima and sums are merged in order: the bits depend on the shape alone.
// Other axes: vectors run along `inner`, one column a lane, in strips that stay in L2 for the whole
// axis where that can be.
#include "ops/softmax/softmax.h"

#include "cpu/parallel.h"
#include "cpu/scratch.h"
#include "cpu/vec.h"
#include "cpu/vec_math.h"
#include "cpu/vec_row.h"

namespace seqloom::SEQLOOM_ISA_NS {
namespace {

constexpr int64_t kChunk = 16384;           // columns of one piece of a long row
constexpr int64_t kGrain = 16384;           // elements worth a thread
constexpr int64_t kFewRows = 16;            // fewer long rows than this are cut into chunks
constexpr int64_t kStripBytes = 512 << 10;  // of a strip of columns that is worth keeping in L2
constexpr int64_t kStripRows = 64;          // rows of a piece of a strip
constexpr float kNegativeInfinity = -__builtin_inff();

// A number that is a type, for generic lambdas.
template <int N>
struct IntConstant {
  static constexpr int value = N;
};

// `log` names a flag in this file.
SEQLOOM_ALWAYS_INLINE VecF log_of(VecF x) { return log(x); }

// y_i = x_i - (m + offset), in one pass over a row whose statistics are known.
template <class T>
SEQLOOM_ALWAYS_INLINE void finish_log(const T* x, T* y, int64_t n, float m, float offset,
                                      bool streaming) {
  const VecF shift = VecF::broadcast(m), off = VecF::broadcast(offset);
  write_row(y, n, streaming, [&](int64_t i, int c) {
    fetch_next_row(x + i, n);
    return get_row(x + i, c) - shift - off;
  });
}

// y_i = e_i times the factor of its piece; x is the row that e came from.
template <class T>
SEQLOOM_ALWAYS_INLINE void finish_kept(const T* x, const float* e, const float* shifts, T* y,
                                       int64_t n, MaxAndSum r, bool streaming) {
  for (int64_t start = 0; start < n; start += kRowPiece) {
    const float shift = shifts[start / kRowPiece];
    // A piece of nothing but -inf was shifted by 0, which may be far above m: it stays 0.
    const float scale = shift >= r.m ? 1.0f : __builtin_expf(shift - r.m);
    const VecF factor = VecF::broadcast(scale / r.s);
    const float* from = e + start;
    write_row(y + start, min(kRowPiece, n - start), streaming, [&](int64_t i, int c) {
      fetch_next_row(x + start + i, n);
      return get_row(from + i, c) * factor;
    });
  }
}

template <class T>
void forward_rows(const T* x, T* y, int64_t rows, int64_t n, bool log) {
  const bool streaming = rows * n * static_cast<int64_t>(sizeof(T)) >= kStreamedBytes && x != y;
  cpu::parallel_for(rows, max<int64_t>(1, kGrain / n), [=](int64_t begin, int64_t end) {
    // Exponentials wait in y for their sum, or, when y is narrow or bypasses the caches, apart.
    const bool apart = sizeof(T) != sizeof(float) || streaming;
    const int64_t pieces = (n + kRowPiece - 1) / kRowPiece;
    cpu::Scratch scratch(static_cast<size_t>(log ? 0 : pieces + (apart ? n : 0)) * sizeof(float));
    float* const shifts = scratch.as<float>();
    for (int64_t r = begin; r < end; ++r) {
      const T* from = x + r * n;
      T* to = y + r * n;
      if (log) {
        const MaxAndSum sum = row_max_and_sum<false>(from, nullptr, nullptr, n);
        finish_log(from, to, n, sum.m, __builtin_logf(sum.s), streaming);
        continue;
      }
      float* const e = apart ? shifts + pieces : reinterpret_cast<float*>(to);
      const MaxAndSum sum = row_max_and_sum<true>(from, e, shifts, n);
      finish_kept(from, e, shifts, to, n, sum, streaming);
    }
    if (streaming) stream_fence();
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
      const MaxAndSum part = row_max_and_sum<false>(x + c / chunks * n + start, nullptr, nullptr,
                                                    min(kChunk, n - start));
      partial[2 * c] = part.m;
      partial[2 * c + 1] = part.s;
    }
  });
  for (int64_t r = 0; r < rows; ++r) {
    const float* p = partial + r * chunks * 2;
    float m = kNegativeInfinity, s = 0.0f;
    for (int64_t c = 0; c < chunks; ++c) m = max(m, p[2 * c]);
    for (int64_t c = 0; c < chunks; ++c) s += p[2 * c + 1] * __builtin_expf(p[2 * c] - shift_of(m));
    merged[2 * r] = m;
    merged[2 * r + 1] = s;
  }
  cpu::parallel_for(rows * chunks, 1, [=](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      const int64_t r = c / chunks, start = c % chunks * kChunk, at = r * n + start;
      const int64_t count = min(kChunk, n - start);
      const float s = merged[2 * r + 1];
      if (log) {
        finish_log(x + at, y + at, count, merged[2 * r], __builtin_logf(s), false);
        continue;
      }
      const VecF shift = VecF::broadcast(merged[2 * r]), factor = VecF::broadcast(1.0f / s);
      const T* from = x + at;
      write_row(y + at, count, false,
                [&](int64_t i, int k) { return exp_below(get_row(from + i, k) - shift) * factor; });
    }
  });
}

// The axis is not the last: columns are taken in strips of 1, 2 or 4 vectors, as wide as still
// stay in L2 over `arrays` of them, and what strips leave over in single vectors.
struct Strips {
  int vectors;           // of a strip
  int64_t whole, count;  // strips, and those and single vectors
  bool fits;             // in L2
};
template <class T>
Strips cut_strips(int64_t outer, int64_t n, int64_t inner, int64_t arrays) {
  const int64_t vector_bytes = n * arrays * kLanes * static_cast<int64_t>(sizeof(float));
  int vectors = 4;
  // Not so wide, either, that there is nothing to divide.
  while (vectors > 1 &&
         (vectors * vector_bytes > kStripBytes || outer * inner < vectors * kLanes * kFewRows))
    vectors /= 2;
  const int64_t columns = vectors * kLanes, whole = vectors == 1 ? 0 : inner / columns;
  const int64_t rest = inner - whole * columns;
  return {vectors, whole, whole + (rest + kLanes - 1) / kLanes,
          vectors * vector_bytes <= kStripBytes};
}

// f(vectors, offset of its first column, lanes of its last vector) for each strip in parallel.
template <class F>
void over_strips(const Strips& strips, int64_t outer, int64_t n, int64_t inner, const F& f) {
  const int64_t columns = strips.vectors * kLanes;
  const int64_t grain = max<int64_t>(1, kGrain / (n * columns));
  cpu::parallel_for(outer * strips.count, grain, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const int64_t base = b / strips.count * n * inner, strip = b % strips.count;
      if (strip < strips.whole) {
        const int64_t at = base + strip * columns;
        if (strips.vectors == 4)
          f(IntConstant<4>(), at, kLanes);
        else
          f(IntConstant<2>(), at, kLanes);
        continue;
      }
      const int64_t column = strips.whole * columns + (strip - strips.whole) * kLanes;
      f(IntConstant<1>(), base + column, static_cast<int>(min<int64_t>(kLanes, inner - column)));
    }
  });
}

// One strip of W vectors. Rows are taken in pieces that stay in L1, whose exponentials are relative
// to the maximum so far; with `kept` they wait there for their sum, after the pieces' maxima.
template <int W, bool Log, class T>
SEQLOOM_ALWAYS_INLINE void forward_strip(const T* x, T* y, float* kept, int64_t n, int64_t stride,
                                         int lanes) {
  constexpr int64_t kWide = W * kLanes;
  const VecF lowest = VecF::broadcast(kNegativeInfinity);
  float* const e = kept == nullptr ? nullptr : kept + (n + kStripRows - 1) / kStripRows * kWide;
  VecF m[W], s[W], shift[W];
  for (int w = 0; w < W; ++w) {
    m[w] = lowest;
    s[w] = VecF::zero();
  }
  for (int64_t start = 0; start < n; start += kStripRows) {
    const int64_t end = min(n, start + kStripRows);
    VecF top[W];
    for (int w = 0; w < W; ++w) top[w] = m[w];
    for (int64_t i = start; i < end; ++i)
      for (int w = 0; w < W; ++w) top[w] = max(top[w], get_row(x + i * stride + w * kLanes, lanes));
    for (int w = 0; w < W; ++w) {
      shift[w] = select(top[w] == lowest, VecF::zero(), top[w]);
      s[w] = s[w] * exp(m[w] - shift[w]);
      m[w] = top[w];
      if (kept != nullptr) store(kept + start / kStripRows * kWide + w * kLanes, shift[w]);
    }
    for (int64_t i = start; i < end; ++i)
      for (int w = 0; w < W; ++w) {
        // Of the next piece: its rows lie too far apart to be guessed.
        prefetch(x + (i + kStripRows) * stride + w * kLanes);
        const VecF v = exp_below(get_row(x + i * stride + w * kLanes, lanes) - shift[w]);
        s[w] = s[w] + v;
        if (kept != nullptr) store(e + i * kWide + w * kLanes, v);
      }
  }
  const VecF one = VecF::broadcast(1.0f);
  VecF factor[W];
  for (int w = 0; w < W; ++w) factor[w] = Log ? log_of(s[w]) : one / s[w];
  if (kept == nullptr) {
    for (int64_t i = 0; i < n; ++i)
      for (int w = 0; w < W; ++w) {
        const int64_t at = i * stride + w * kLanes;
        const VecF d = get_row(x + at, lanes) - m[w];
        put_row(y + at, Log ? d - factor[w] : exp_below(d) * factor[w], lanes);
      }
    return;
  }
  for (int64_t start = 0; start < n; start += kStripRows) {
    VecF own[W];
    for (int w = 0; w < W; ++w) {
      const VecF from = load(kept + start / kStripRows * kWide + w * kLanes);
      own[w] = select(from >= m[w], one, exp(from - m[w])) * factor[w];
    }
    for (int64_t i = start; i < min(n, start + kStripRows); ++i)
      for (int w = 0; w < W; ++w)
        put_row(y + i * stride + w * kLanes, load(e + i * kWide + w * kLanes) * own[w], lanes);
  }
}

template <bool Log, class T>
void forward_columns(const T* x, T* y, int64_t outer, int64_t n, int64_t inner) {
  // What is kept takes as much room as x.
  const Strips strips = cut_strips<T>(outer, n, inner, Log ? 1 : 2);
  const int64_t pieces = (n + kStripRows - 1) / kStripRows;
  over_strips(strips, outer, n, inner, [=](auto vectors, int64_t at, int lanes) {
    constexpr int W = decltype(vectors)::value;
    const bool keep = !Log && strips.fits;
    cpu::Scratch scratch(keep ? static_cast<size_t>((n + pieces) * W * kLanes) * sizeof(float) : 0);
    forward_strip<W, Log>(x + at, y + at, keep ? scratch.as<float>() : nullptr, n, inner, lanes);
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
SEQLOOM_ALWAYS_INLINE void backward_row(const T* dy, const T* y, T* dx, int64_t n, float dot,
                                        bool streaming) {
  const VecF d = VecF::broadcast(dot);
  write_row(dx, n, streaming, [&](int64_t i, int c) {
    return input_gradient<Log>(get_row(dy + i, c), get_row(y + i, c), d);
  });
}

template <bool Log, class T>
void backward_rows(const T* dy, const T* y, T* dx, int64_t rows, int64_t n) {
  const bool streaming = rows * n * static_cast<int64_t>(sizeof(T)) >= kStreamedBytes && dx != dy;
  cpu::parallel_for(rows, max<int64_t>(1, kGrain / n), [=](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const int64_t at = r * n;
      backward_row<Log>(dy + at, y + at, dx + at, n, row_dot<Log>(dy + at, y + at, n), streaming);
    }
    if (streaming) stream_fence();
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
      backward_row<Log>(dy + at, y + at, dx + at, min(kChunk, n - start), dot, false);
    }
  });
}

template <int W, bool Log, class T>
SEQLOOM_ALWAYS_INLINE void backward_strip(const T* dy, const T* y, T* dx, int64_t n, int64_t stride,
                                          int lanes) {
  VecF dot[W];
  for (int w = 0; w < W; ++w) dot[w] = VecF::zero();
  for (int64_t i = 0; i < n; ++i)
    for (int w = 0; w < W; ++w) {
      const int64_t at = i * stride + w * kLanes;
      const VecF g = get_row(dy + at, lanes);
      dot[w] = Log ? dot[w] + g : fma(g, get_row(y + at, lanes), dot[w]);
    }
  for (int64_t i = 0; i < n; ++i)
    for (int w = 0; w < W; ++w) {
      const int64_t at = i * stride + w * kLanes;
      const VecF g = get_row(dy + at, lanes), v = get_row(y + at, lanes);
      put_row(dx + at, input_gradient<Log>(g, v, dot[w]), lanes);
    }
}

template <bool Log, class T>
void backward_columns(const T* dy, const T* y, T* dx, int64_t outer, int64_t n, int64_t inner) {
  over_strips(cut_strips<T>(outer, n, inner, 2), outer, n, inner,
              [=](auto vectors, int64_t at, int lanes) {
                constexpr int W = decltype(vectors)::value;
                backward_strip<W, Log>(dy + at, y + at, dx + at, n, inner, lanes);
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
    if (a.inner > 1 && a.log)
      forward_columns<true>(x, y, a.outer, a.length, a.inner);
    else if (a.inner > 1)
      forward_columns<false>(x, y, a.outer, a.length, a.inner);
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
