// SPDX-License-Identifier: Apache-2.0
// What the tests call on every instruction set: compiled once per level, like a kernel file.
#include "cpu/parallel.h"
#include "cpu/scratch.h"
#include "cpu/vec.h"
#include "cpu/vec_math.h"
#include "cpu/vec_philox.h"
#include "cpu_test.h"

namespace seqloom::SEQLOOM_ISA_NS {
namespace {

template <class F>
SEQLOOM_ALWAYS_INLINE void map_floats(const cpu_test::MapArgs& a, const F& f) {
  int64_t i = 0;
  for (; i + kLanes <= a.n; i += kLanes) store(a.out + i, f(load(a.in + i)));
  if (i < a.n) {
    const int n = static_cast<int>(a.n - i);
    store(a.out + i, f(load(a.in + i, n)), n);
  }
}

// Storage of type T widened to float, and float narrowed to T.
template <class T>
SEQLOOM_ALWAYS_INLINE void widen(const cpu_test::ConvertArgs& a) {
  const T* in = static_cast<const T*>(a.in);
  float* out = static_cast<float*>(a.out);
  int64_t i = 0;
  if (!a.partial_only) {
    for (; i + kLanes <= a.n; i += kLanes) store(out + i, load(in + i));
  }
  while (i < a.n) {
    const int n = static_cast<int>(min<int64_t>(kLanes, a.n - i));
    store(out + i, load(in + i, n), n);
    i += n;
  }
}
template <class T>
SEQLOOM_ALWAYS_INLINE void narrow(const cpu_test::ConvertArgs& a) {
  const float* in = static_cast<const float*>(a.in);
  T* out = static_cast<T*>(a.out);
  int64_t i = 0;
  if (!a.partial_only) {
    for (; i + kLanes <= a.n; i += kLanes) store(out + i, load(in + i));
  }
  while (i < a.n) {
    const int n = static_cast<int>(min<int64_t>(kLanes, a.n - i));
    store(out + i, load(in + i, n), n);
    i += n;
  }
}

}  // namespace

void cpu_test_lanes(const cpu_test::LanesArgs& a) { *a.lanes = kLanes; }

void cpu_test_map(const cpu_test::MapArgs& a) {
  switch (a.function) {
#define SEQLOOM_CASE(name, expression)                 \
  case cpu_test::k_##name:                             \
    map_floats(a, [&](VecF x) { return expression; }); \
    break;
    SEQLOOM_CASE(copy, x)
    SEQLOOM_CASE(exp, exp(x))
    SEQLOOM_CASE(expm1, expm1(x))
    SEQLOOM_CASE(log, log(x))
    SEQLOOM_CASE(log1p, log1p(x))
    SEQLOOM_CASE(tanh, tanh(x))
    SEQLOOM_CASE(sigmoid, sigmoid(x))
    SEQLOOM_CASE(softplus, softplus(x))
    SEQLOOM_CASE(erf, erf(x))
    SEQLOOM_CASE(sin, sin(x))
    SEQLOOM_CASE(cos, cos(x))
    SEQLOOM_CASE(silu, silu(x))
    SEQLOOM_CASE(silu_grad, silu_grad(x))
    SEQLOOM_CASE(gelu_tanh, gelu_tanh(x))
    SEQLOOM_CASE(gelu_tanh_grad, gelu_tanh_grad(x))
    SEQLOOM_CASE(gelu_erf, gelu_erf(x))
    SEQLOOM_CASE(gelu_erf_grad, gelu_erf_grad(x))
    SEQLOOM_CASE(sqrt, sqrt(x))
    SEQLOOM_CASE(rsqrt, rsqrt(x))
    SEQLOOM_CASE(round, round(x))
    SEQLOOM_CASE(floor, floor(x))
    SEQLOOM_CASE(ceil, ceil(x))
    SEQLOOM_CASE(trunc, trunc(x))
    SEQLOOM_CASE(abs, abs(x))
    SEQLOOM_CASE(pow, pow(x, VecF::broadcast(a.parameter)))
    SEQLOOM_CASE(uint_to_float, uint_to_float(as_int(x)))
    SEQLOOM_CASE(int_to_float, to_float(as_int(x)))
    SEQLOOM_CASE(round_to_int, as_float(round_to_int(x)))
    SEQLOOM_CASE(trunc_to_int, as_float(trunc_to_int(x)))
#undef SEQLOOM_CASE
  }
}

void cpu_test_binary(const cpu_test::BinaryArgs& a) {
  for (int64_t i = 0; i + kLanes <= a.n; i += kLanes) {
    const VecF x = load(a.x + i), y = load(a.y + i), z = load(a.z + i);
    const VecI ix = as_int(x), iy = as_int(y);
    VecF r = VecF::zero();
    VecI high, low;
    mul_wide(ix, iy, &high, &low);
    switch (a.function) {
      case cpu_test::k_add:
        r = x + y;
        break;
      case cpu_test::k_sub:
        r = x - y;
        break;
      case cpu_test::k_mul:
        r = x * y;
        break;
      case cpu_test::k_div:
        r = x / y;
        break;
      case cpu_test::k_fma:
        r = fma(x, y, z);
        break;
      case cpu_test::k_fnma:
        r = fnma(x, y, z);
        break;
      case cpu_test::k_fms:
        r = fms(x, y, z);
        break;
      case cpu_test::k_min:
        r = min(x, y);
        break;
      case cpu_test::k_max:
        r = max(x, y);
        break;
      case cpu_test::k_min_nan:
        r = min_nan(x, y);
        break;
      case cpu_test::k_max_nan:
        r = max_nan(x, y);
        break;
      case cpu_test::k_copy_sign:
        r = copy_sign(x, y);
        break;
      case cpu_test::k_less:
        r = select(x < y, x, z);
        break;
      case cpu_test::k_less_equal:
        r = select(x <= y, x, z);
        break;
      case cpu_test::k_greater:
        r = select(x > y, x, z);
        break;
      case cpu_test::k_greater_equal:
        r = select(x >= y, x, z);
        break;
      case cpu_test::k_equal:
        r = select(x == y, x, z);
        break;
      case cpu_test::k_not_equal:
        r = select(x != y, x, z);
        break;
      case cpu_test::k_zero_unless:
        r = zero_unless((x < y) | ~(y == z), x);
        break;
      case cpu_test::k_int_add:
        r = as_float(ix + iy);
        break;
      case cpu_test::k_int_sub:
        r = as_float(ix - iy);
        break;
      case cpu_test::k_int_mul:
        r = as_float(ix * iy);
        break;
      case cpu_test::k_int_and:
        r = as_float(ix & iy);
        break;
      case cpu_test::k_int_or:
        r = as_float(ix | iy);
        break;
      case cpu_test::k_int_xor:
        r = as_float(ix ^ iy);
        break;
      case cpu_test::k_int_not:
        r = as_float(~ix);
        break;
      case cpu_test::k_int_min:
        r = as_float(min(ix, iy));
        break;
      case cpu_test::k_int_max:
        r = as_float(max(ix, iy));
        break;
      case cpu_test::k_int_greater:
        r = as_float(select(ix > iy, ix, as_int(z)));
        break;
      case cpu_test::k_int_less:
        r = as_float(select(ix < iy, ix, as_int(z)));
        break;
      case cpu_test::k_int_equal:
        r = as_float(select(ix == iy, ix, as_int(z)));
        break;
      case cpu_test::k_shift_left:
        r = as_float(shift_left(ix, 5));
        break;
      case cpu_test::k_shift_right:
        r = as_float(shift_right(ix, 5));
        break;
      case cpu_test::k_shift_right_logical:
        r = as_float(shift_right_logical(ix, 5));
        break;
      case cpu_test::k_mul_high:
        r = as_float(high);
        break;
      case cpu_test::k_mul_low:
        r = as_float(low);
        break;
    }
    store(a.out + i, r);
  }
}

// out[0..]: reductions of each group of kLanes, masks as bits, and whole-vector permutations.
void cpu_test_lanewise(const cpu_test::BinaryArgs& a) {
  const int whole =
      a.function < cpu_test::k_load_or ? kLanes : 0;  // the others load for themselves
  const VecF x = load(a.x, whole), y = load(a.y, whole);
  switch (a.function) {
    case cpu_test::k_reduce_add:
      a.out[0] = reduce_add(x);
      break;
    case cpu_test::k_reduce_max:
      a.out[0] = reduce_max(x);
      break;
    case cpu_test::k_reduce_min:
      a.out[0] = reduce_min(x);
      break;
    case cpu_test::k_reduce_max_nan:
      a.out[0] = reduce_max_nan(x);
      break;
    case cpu_test::k_mask_bits:
      a.out[0] = static_cast<float>(bits(x < y));
      a.out[1] = any(x < y);
      a.out[2] = all(x < y);
      break;
    case cpu_test::k_interleave: {
      VecF lo, hi;
      interleave(x, y, &lo, &hi);
      store(a.out, lo);
      store(a.out + kLanes, hi);
      break;
    }
    case cpu_test::k_deinterleave: {
      VecF p, q;
      deinterleave(x, y, &p, &q);
      store(a.out, p);
      store(a.out + kLanes, q);
      break;
    }
    case cpu_test::k_transpose: {
      VecF rows[kLanes];
      for (int i = 0; i < kLanes; ++i) rows[i] = load(a.x + i * kLanes);
      transpose(rows);
      for (int i = 0; i < kLanes; ++i) store(a.out + i * kLanes, rows[i]);
      break;
    }
    case cpu_test::k_gather: {
      VecI index;
      float raw[kLanes];
      store(raw, y);
      int32_t positions[kLanes];
      for (int i = 0; i < kLanes; ++i) positions[i] = static_cast<int32_t>(raw[i]);
      index = load_int(positions);
      store(a.out, gather(a.x, index));
      break;
    }
    case cpu_test::k_load_or:
      store(a.out, load_or(a.x, static_cast<int>(a.n), VecF::broadcast(-7.0f)));
      break;
    case cpu_test::k_load_mask: {
      const auto* bytes = reinterpret_cast<const uint8_t*>(a.x);
      store(a.out, zero_unless(load_mask(bytes, static_cast<int>(a.n)), VecF::broadcast(1.0f)));
      break;
    }
    case cpu_test::k_load_int: {
      const auto* in = reinterpret_cast<const int32_t*>(a.x);
      auto* out = reinterpret_cast<int32_t*>(a.out);
      const int n = static_cast<int>(a.n);
      if (n == kLanes) {
        store_int(out, load_int(in));
      } else {
        store_int(out, load_int(in, n), n);
      }
      break;
    }
  }
}

void cpu_test_convert(const cpu_test::ConvertArgs& a) {
  switch (a.kind) {
    case cpu_test::k_from_float32:
      widen<float>(a);
      break;
    case cpu_test::k_from_bf16:
      widen<bf16>(a);
      break;
    case cpu_test::k_from_f16:
      widen<f16>(a);
      break;
    case cpu_test::k_from_int8:
      widen<int8_t>(a);
      break;
    case cpu_test::k_from_uint8:
      widen<uint8_t>(a);
      break;
    case cpu_test::k_to_bf16:
      narrow<bf16>(a);
      break;
    case cpu_test::k_to_f16:
      narrow<f16>(a);
      break;
    case cpu_test::k_to_int8:
      narrow<int8_t>(a);
      break;
    case cpu_test::k_to_uint8:
      narrow<uint8_t>(a);
      break;
  }
}

void cpu_test_random(const cpu_test::RandomArgs& a) {
  const auto put = [&](int64_t i, VecF v, int count) { store(a.out + i, v, count); };
  if (a.normal) {
    philox_normals(a.seed, a.offset, a.n, put);
  } else {
    philox_uniforms(a.seed, a.offset, a.n, put);
  }
}

// Asks for more scratch memory than there is, in every chunk.
void cpu_test_exhaust(const cpu_test::ExhaustArgs& a) {
  cpu::parallel_for(a.n, 1, [&](int64_t, int64_t) {
    cpu::Scratch scratch(size_t{1} << 60);
    scratch.as<char>()[0] = 1;
  });
}

// Sums, maxima and activations on doubles.
void cpu_test_double(const cpu_test::DoubleArgs& a) {
  VecD sum = VecD::zero(), top = VecD::broadcast(-__builtin_inf());
  for (int64_t i = 0; i < a.n; i += VecD::kLanes) {
    const int n = static_cast<int>(min<int64_t>(VecD::kLanes, a.n - i));
    const VecD x = load(a.in + i, n);
    sum += x;
    top = max(top, load_or(a.in + i, n, VecD::broadcast(-__builtin_inf())));
    VecD y = x;
    switch (a.function) {
      case cpu_test::k_exp:
        y = exp(x);
        break;
      case cpu_test::k_tanh:
        y = tanh(x);
        break;
      case cpu_test::k_sigmoid:
        y = sigmoid(x);
        break;
      case cpu_test::k_gelu_tanh:
        y = gelu_tanh(x);
        break;
      case cpu_test::k_gelu_tanh_grad:
        y = gelu_tanh_grad(x);
        break;
      case cpu_test::k_gelu_erf:
        y = gelu_erf(x);
        break;
      case cpu_test::k_gelu_erf_grad:
        y = gelu_erf_grad(x);
        break;
      case cpu_test::k_silu_grad:
        y = silu_grad(x);
        break;
      default:
        y = select(x < VecD::zero(), -abs(x), fma(x, x, x) - x * x);
        break;
    }
    store(a.out + i, y, n);
  }
  a.reduced[0] = reduce_add(sum);
  a.reduced[1] = reduce_max(top);
}

}  // namespace seqloom::SEQLOOM_ISA_NS
