// SPDX-License-Identifier: Apache-2.0
// How the CPU kernels walk any operands: the iteration space is cut into blocks of consecutive
// elements; each input of a block is made available as contiguous values of the compute type C (in
// place where it already is that, else converted or gathered into a buffer that stays in L1); one
// vector loop per op then sees nothing but contiguous arrays. For kernel files (*_cpu.cpp) only.
#pragma once

#include "cpu/parallel.h"
#include "cpu/vec_philox.h"
#include "ops/elementwise/elementwise.h"

namespace seqloom::SEQLOOM_ISA_NS {

using ops::ElementwiseArgs;
using ops::Operand;

constexpr int64_t kBlock = 1024;        // elements, where some operand needs a buffer
constexpr int64_t kDirectBlock = 8192;  // ... where none does
// Outputs of this size don't fit in a cache: they are written past it, which saves reading them
// first.
constexpr int64_t kStreamedBytes = int64_t{32} << 20;

template <class C>
struct Block {
  const C* in[ops::kMaxInputs];
  C* out[ops::kMaxOutputs];
  int64_t first, count;  // elements [first, first + count) of the iteration space
  const ElementwiseArgs* args;
};
template <class C>
using BlockFunction = void (*)(const Block<C>& block);

// The block function of an op, or null (elementwise_{float,double,integer}_cpu.cpp).
BlockFunction<float> float_block_function(ops::ElementwiseOp op);
BlockFunction<double> double_block_function(ops::ElementwiseOp op);
BlockFunction<int64_t> integer_block_function(ops::ElementwiseOp op);

// ---- one value -------------------------------------------------------------------------------

template <class C, class T>
SEQLOOM_ALWAYS_INLINE C widen(T x) {
  return static_cast<C>(x);
}
template <>
SEQLOOM_ALWAYS_INLINE float widen<float, f16>(f16 x) {
  return to_float(x);
}
template <>
SEQLOOM_ALWAYS_INLINE float widen<float, bf16>(bf16 x) {
  return to_float(x);
}
template <>
SEQLOOM_ALWAYS_INLINE double widen<double, f16>(f16 x) {
  return to_float(x);
}
template <>
SEQLOOM_ALWAYS_INLINE double widen<double, bf16>(bf16 x) {
  return to_float(x);
}
template <>
SEQLOOM_ALWAYS_INLINE int64_t widen<int64_t, f16>(f16 x) {
  return static_cast<int64_t>(to_float(x));
}
template <>
SEQLOOM_ALWAYS_INLINE int64_t widen<int64_t, bf16>(bf16 x) {
  return static_cast<int64_t>(to_float(x));
}

// Saturates; NaN gives 0. (The cast alone is undefined there.)
SEQLOOM_ALWAYS_INLINE int64_t to_integer(double x) {
  if (!(x > -9223372036854775808.0)) return x != x ? 0 : INT64_MIN;
  return x < 9223372036854775808.0 ? static_cast<int64_t>(x) : INT64_MAX;
}

template <class T, class C>
struct Narrow {  // integers are cut to their low bits
  static SEQLOOM_ALWAYS_INLINE T of(C x) {
    if constexpr (dtype_of<C>() == DType::kInt64)
      return static_cast<T>(x);
    else
      return static_cast<T>(to_integer(static_cast<double>(x)));
  }
};
template <class C>
struct Narrow<bool, C> {
  static SEQLOOM_ALWAYS_INLINE bool of(C x) { return x != 0; }
};
template <class C>
struct Narrow<float, C> {
  static SEQLOOM_ALWAYS_INLINE float of(C x) { return static_cast<float>(x); }
};
template <class C>
struct Narrow<double, C> {
  static SEQLOOM_ALWAYS_INLINE double of(C x) { return static_cast<double>(x); }
};
template <class C>
struct Narrow<f16, C> {
  static SEQLOOM_ALWAYS_INLINE f16 of(C x) { return from_float<f16>(static_cast<float>(x)); }
};
template <class C>
struct Narrow<bf16, C> {
  static SEQLOOM_ALWAYS_INLINE bf16 of(C x) { return from_float<bf16>(static_cast<float>(x)); }
};

// ---- one run: n elements a fixed stride apart ----------------------------------------------

template <class C, class T>
void load_run(C* to, const T* from, int64_t stride, int64_t n) {
  int64_t i = 0;
  if (stride == 0) {
    const C value = n > 0 ? widen<C>(from[0]) : C{};
    for (; i < n; ++i) to[i] = value;
    return;
  }
  if (stride == 1) {
    if constexpr (dtype_of<C>() == DType::kFloat32 && is_kernel_float(dtype_of<T>())) {
      for (; i + kLanes <= n; i += kLanes) store(to + i, load(from + i));
      store(to + i, load(from + i, static_cast<int>(n - i)), static_cast<int>(n - i));
      return;
    }
    for (; i + 16 <= n; i += 16)
      for (int j = 0; j < 16; ++j) to[i + j] = widen<C>(from[i + j]);
  }
  for (; i < n; ++i) to[i] = widen<C>(from[i * stride]);
}

template <class C, class T>
void store_run(T* to, const C* from, int64_t stride, int64_t n) {
  int64_t i = 0;
  if (stride == 1) {
    if constexpr (dtype_of<C>() == DType::kFloat32 && is_kernel_float(dtype_of<T>())) {
      for (; i + kLanes <= n; i += kLanes) store(to + i, load(from + i));
      store(to + i, load(from + i, static_cast<int>(n - i)), static_cast<int>(n - i));
      return;
    }
    for (; i + 16 <= n; i += 16)
      for (int j = 0; j < 16; ++j) to[i + j] = Narrow<T, C>::of(from[i + j]);
  }
  for (; i < n; ++i) to[i * stride] = Narrow<T, C>::of(from[i]);
}

// ---- one operand -----------------------------------------------------------------------------

// Calls run(offset, done, n) for every stretch of elements [first, first + count) that lies in one
// row of the last axis; `offset` is that of its first element in the operand.
template <class F>
SEQLOOM_ALWAYS_INLINE void for_runs(const ElementwiseArgs& args, const int64_t* strides,
                                    int64_t first, int64_t count, const F& run) {
  const int last = args.rank - 1;
  int64_t index[ops::kMaxElementwiseRank];
  int64_t offset = 0, rest = first;
  for (int i = last; i >= 0; --i) {
    const int64_t extent = args.shape[i];
    const int64_t quotient = rest / extent;
    index[i] = rest - quotient * extent;
    offset += index[i] * strides[i];
    rest = quotient;
  }
  for (int64_t done = 0; done < count;) {
    const int64_t n = min<int64_t>(args.shape[last] - index[last], count - done);
    run(offset, done, n);
    done += n;
    index[last] += n;
    offset += n * strides[last];
    for (int i = last; i > 0 && index[i] == args.shape[i]; --i) {
      index[i] = 0;
      offset += strides[i - 1] - args.shape[i] * strides[i];
      ++index[i - 1];
    }
  }
}

SEQLOOM_ALWAYS_INLINE bool is_constant(const ElementwiseArgs& args, const Operand& o) {
  if (o.data == nullptr) return true;
  for (int i = 0; i < args.rank; ++i)
    if (o.strides[i] != 0) return false;
  return true;
}

template <class C>
void load_constant(C* to, const Operand& o, int64_t n) {
  C value;
  if (o.data != nullptr) {
    dispatch_all(o.dtype, [&](auto t) {
      value = widen<C>(*static_cast<const typename decltype(t)::type*>(o.data));
    });
  } else if constexpr (dtype_of<C>() == DType::kInt64) {
    value = o.integer;
  } else {
    value = static_cast<C>(o.real);
  }
  for (int64_t i = 0; i < n; ++i) to[i] = value;
}

template <class C>
const C* load_block(const ElementwiseArgs& args, const Operand& o, int64_t first, int64_t count,
                    C* buffer) {
  const bool same = o.dtype == dtype_of<C>();
  if (o.flat && same) return static_cast<const C*>(o.data) + first;
  const C* direct = nullptr;
  dispatch_all(o.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    const T* data = static_cast<const T*>(o.data);
    if (o.flat) return load_run<C, T>(buffer, data + first, 1, count);
    const int64_t stride = o.strides[args.rank - 1];
    for_runs(args, o.strides, first, count, [&](int64_t offset, int64_t done, int64_t n) {
      if (same && stride == 1 && n == count)
        direct = reinterpret_cast<const C*>(data + offset);  // the block lies in one row
      else
        load_run<C, T>(buffer + done, data + offset, stride, n);
    });
  });
  return direct != nullptr ? direct : buffer;
}

template <class C>
void store_block(const ElementwiseArgs& args, const Operand& o, int64_t first, int64_t count,
                 const C* buffer) {
  dispatch_all(o.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    T* data = static_cast<T*>(o.data);
    if (o.flat) return store_run<C, T>(data + first, buffer, 1, count);
    for_runs(args, o.strides, first, count, [&](int64_t offset, int64_t done, int64_t n) {
      store_run<C, T>(data + offset, buffer + done, o.strides[args.rank - 1], n);
    });
  });
}

SEQLOOM_ALWAYS_INLINE bool is_random(ops::ElementwiseOp op) {
  return op == ops::ElementwiseOp::kDropout || op == ops::ElementwiseOp::kDropoutAdd ||
         op == ops::ElementwiseOp::kBiasDropoutAdd;
}

// The dropout factor of every element of a block: p is the probability of 0, q the factor else.
template <class C>
SEQLOOM_NOINLINE void dropout_factors(const ElementwiseArgs& args, int64_t first, int64_t count,
                                      C* to) {
  const VecF p = VecF::broadcast(static_cast<float>(args.p));
  const uint64_t offset = args.offset + static_cast<uint64_t>(first);
  philox_uniforms(args.seed, offset, count, [&](int64_t i, VecF u, int n) {
    if constexpr (dtype_of<C>() == DType::kFloat32) {
      store(to + i, zero_unless(u >= p, VecF::broadcast(static_cast<float>(args.q))), n);
    } else {
      const uint32_t kept = bits(u >= p);
      for (int j = 0; j < n; ++j) to[i + j] = (kept >> j & 1) != 0 ? static_cast<C>(args.q) : C{};
    }
  });
}

// ---- all of them -----------------------------------------------------------------------------

template <class C>
SEQLOOM_ALWAYS_INLINE bool is_direct(const Operand& o) {
  return o.flat && o.dtype == dtype_of<C>();
}

template <class C>
SEQLOOM_ALWAYS_INLINE bool is_streamed(const Operand& o, int64_t count) {
  if constexpr (dtype_of<C>() != DType::kFloat32) return false;
  return is_direct<C>(o) && count * 4 >= kStreamedBytes &&
         reinterpret_cast<uintptr_t>(o.data) % 64 == 0;
}
SEQLOOM_ALWAYS_INLINE void stream_block(float* to, const float* from, int64_t count) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) stream(to + i, load(from + i));
  store(to + i, load(from + i, static_cast<int>(count - i)), static_cast<int>(count - i));
}

// Elements [begin, end) in blocks of kBlock.
template <class C>
SEQLOOM_NOINLINE void run_buffered(const ElementwiseArgs& args, BlockFunction<C> function,
                                   int64_t begin, int64_t end) {
  alignas(64) C in[ops::kMaxInputs][kBlock];
  alignas(64) C out[ops::kMaxOutputs][kBlock];
  Block<C> block;
  block.args = &args;
  const bool random = is_random(args.op);
  if (random) block.in[args.inputs] = in[args.inputs];
  bool constant[ops::kMaxInputs];
  for (int i = 0; i < args.inputs; ++i) {
    constant[i] = is_constant(args, args.in[i]);
    if (constant[i]) load_constant(in[i], args.in[i], min(kBlock, end - begin));
    block.in[i] = in[i];
  }
  for (int64_t first = begin; first < end; first += kBlock) {
    block.first = first;
    block.count = min(kBlock, end - first);
    for (int i = 0; i < args.inputs; ++i)
      if (!constant[i]) block.in[i] = load_block(args, args.in[i], first, block.count, in[i]);
    if (random) dropout_factors(args, first, block.count, in[args.inputs]);
    for (int i = 0; i < args.outputs; ++i) {
      const Operand& o = args.out[i];
      const bool in_place = is_direct<C>(o) && !is_streamed<C>(o, args.count);
      block.out[i] = in_place ? static_cast<C*>(o.data) + first : out[i];
    }
    function(block);
    for (int i = 0; i < args.outputs; ++i) {
      const Operand& o = args.out[i];
      if (block.out[i] != out[i]) continue;
      if constexpr (dtype_of<C>() == DType::kFloat32) {
        if (is_streamed<C>(o, args.count)) {
          stream_block(static_cast<float*>(o.data) + first, out[i], block.count);
          continue;
        }
      }
      store_block(args, o, first, block.count, out[i]);
    }
  }
  stream_fence();
}

template <class C>
SEQLOOM_ALWAYS_INLINE void run_direct(const ElementwiseArgs& args, BlockFunction<C> function,
                                      int64_t begin, int64_t end) {
  Block<C> block;
  block.args = &args;
  block.first = begin;
  block.count = end - begin;
  for (int i = 0; i < args.inputs; ++i)
    block.in[i] = static_cast<const C*>(args.in[i].data) + begin;
  for (int i = 0; i < args.outputs; ++i) block.out[i] = static_cast<C*>(args.out[i].data) + begin;
  function(block);
}

template <class C>
SEQLOOM_ALWAYS_INLINE void run_elementwise(const ElementwiseArgs& args, BlockFunction<C> function) {
  if (function == nullptr) return;  // the front door asks for formulas that exist only
  bool direct = !is_random(args.op);
  for (int i = 0; i < args.inputs; ++i) direct &= args.in[i].data && is_direct<C>(args.in[i]);
  for (int i = 0; i < args.outputs; ++i)
    direct &= is_direct<C>(args.out[i]) && !is_streamed<C>(args.out[i], args.count);
  // Chunks are multiples of kDirectBlock, so blocks of kBlock stay whole as well.
  cpu::parallel_for(args.count, kDirectBlock, [&](int64_t begin, int64_t end) {
    if (direct)
      run_direct(args, function, begin, end);
    else
      run_buffered(args, function, begin, end);
  });
}

}  // namespace seqloom::SEQLOOM_ISA_NS
