// SPDX-License-Identifier: Apache-2.0
// Cumulative sums and the gradients of reductions that need more than a broadcast. Scans run along
// the axis one element after another, in float64 or int64; threads take whole columns.
#include "cpu/parallel.h"
#include "cpu/scratch.h"
#include "ops/elementwise/elementwise_driver.h"
#include "ops/reduction/reduction.h"

namespace seqloom::SEQLOOM_ISA_NS {
namespace {

constexpr int64_t kColumns = 64;  // walked side by side

int64_t grain_of(int64_t n, int64_t inner) {
  return max<int64_t>(1, 8192 / (n * min(inner, kColumns)));
}

// Calls f(offset of the first element, columns) for groups of columns of [outer, n, inner].
template <class F>
void for_column_groups(int64_t outer, int64_t n, int64_t inner, const F& f) {
  const int64_t groups = (inner + kColumns - 1) / kColumns;
  cpu::parallel_for(outer * groups, grain_of(n, inner), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i % groups * kColumns;
      f(i / groups, first, min(kColumns, inner - first));
    }
  });
}

template <class P>
SEQLOOM_ALWAYS_INLINE P plus(P a, P b) {
  if constexpr (dtype_of<P>() == DType::kInt64)
    return static_cast<P>(static_cast<uint64_t>(a) + static_cast<uint64_t>(b));
  else
    return a + b;
}

// Rows side by side, so that their chains of additions overlap.
template <int Rows, class T, class P, class Out>
SEQLOOM_ALWAYS_INLINE void cumsum_rows(const T* x, Out* out, int64_t n, bool reverse) {
  P total[Rows] = {};
  for (int64_t k = 0; k < n; ++k) {
    const int64_t i = reverse ? n - 1 - k : k;
    for (int r = 0; r < Rows; ++r) {
      total[r] = plus(total[r], widen<P>(x[r * n + i]));
      out[r * n + i] = Narrow<Out, P>::of(total[r]);
    }
  }
}

template <class T, class P, class Out>
void cumsum_as(const ops::CumsumArgs& a) {
  const T* x = static_cast<const T*>(a.x);
  Out* out = static_cast<Out*>(a.out);
  if (a.inner == 1) {
    constexpr int64_t kRows = 8;
    cpu::parallel_for((a.outer + kRows - 1) / kRows, max<int64_t>(1, 1024 / a.n),
                      [&](int64_t begin, int64_t end) {
                        for (int64_t row = begin * kRows; row < min(a.outer, end * kRows);) {
                          const int64_t at = row * a.n;
                          if (a.outer - row >= kRows) {
                            cumsum_rows<kRows, T, P>(x + at, out + at, a.n, a.reverse);
                            row += kRows;
                          } else {
                            cumsum_rows<1, T, P>(x + at, out + at, a.n, a.reverse);
                            row += 1;
                          }
                        }
                      });
    return;
  }
  for_column_groups(a.outer, a.n, a.inner, [&](int64_t o, int64_t first, int64_t columns) {
    P total[kColumns] = {};
    for (int64_t k = 0; k < a.n; ++k) {
      const int64_t i = a.reverse ? a.n - 1 - k : k;
      const int64_t at = (o * a.n + i) * a.inner + first;
      for (int64_t c = 0; c < columns; ++c) {
        total[c] = plus(total[c], widen<P>(x[at + c]));
        out[at + c] = Narrow<Out, P>::of(total[c]);
      }
    }
  });
}

}  // namespace

void cumsum(const ops::CumsumArgs& args) {
  dispatch_all(args.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    if constexpr (is_floating(dtype_of<T>()))
      cumsum_as<T, double, T>(args);
    else
      cumsum_as<T, int64_t, int64_t>(args);
  });
}

// Products of everything before and of everything after, so that zeros need no division.
void prod_backward(const ops::ProdBackwardArgs& args) {
  dispatch_float(args.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    const T* x = static_cast<const T*>(args.x);
    const T* grad = static_cast<const T*>(args.grad);
    T* dx = static_cast<T*>(args.dx);
    cpu::parallel_for(args.outer * args.inner, max<int64_t>(1, 4096 / max<int64_t>(args.n, 1)),
                      [&](int64_t begin, int64_t end) {
                        const cpu::Scratch scratch(static_cast<size_t>(args.n) * sizeof(double));
                        double* before = scratch.as<double>();
                        for (int64_t column = begin; column < end; ++column) {
                          const int64_t at =
                              column / args.inner * args.n * args.inner + column % args.inner;
                          double product = 1;
                          for (int64_t i = 0; i < args.n; ++i) {
                            before[i] = product;
                            product *= widen<double>(x[at + i * args.inner]);
                          }
                          double after = widen<double>(grad[column]);
                          for (int64_t i = args.n - 1; i >= 0; --i) {
                            dx[at + i * args.inner] = Narrow<T, double>::of(before[i] * after);
                            after *= widen<double>(x[at + i * args.inner]);
                          }
                        }
                      });
  });
}

template <class T>
static void extreme_backward_as(const ops::ExtremeBackwardArgs& a) {
  const T* grad = static_cast<const T*>(a.grad);
  T* dx = static_cast<T*>(a.dx);
  for_column_groups(a.outer, a.n, a.inner, [&](int64_t o, int64_t first, int64_t columns) {
    const int64_t line = o * a.inner + first;
    for (int64_t i = 0; i < a.n; ++i) {
      T* to = dx + (o * a.n + i) * a.inner + first;
      for (int64_t c = 0; c < columns; ++c) to[c] = a.index[line + c] == i ? grad[line + c] : T{0};
    }
  });
}

void extreme_backward(const ops::ExtremeBackwardArgs& args) {
  switch (args.item_size) {  // zero is all bits zero in every dtype
    case 2:
      return extreme_backward_as<uint16_t>(args);
    case 4:
      return extreme_backward_as<uint32_t>(args);
    default:
      return extreme_backward_as<uint64_t>(args);
  }
}

}  // namespace seqloom::SEQLOOM_ISA_NS
