// SPDX-License-Identifier: Apache-2.0
// Arguments of the test functions that exist on every instruction set.
#pragma once

#include <cstdint>

#include "cpu/isa.h"

namespace seqloom::cpu_test {

// The order is known to tests/cpu/cpu_harness.py.
enum Function : int {
  k_copy,
  k_exp,
  k_expm1,
  k_log,
  k_log1p,
  k_tanh,
  k_sigmoid,
  k_softplus,
  k_erf,
  k_sin,
  k_cos,
  k_silu,
  k_silu_grad,
  k_gelu_tanh,
  k_gelu_tanh_grad,
  k_gelu_erf,
  k_gelu_erf_grad,
  k_sqrt,
  k_rsqrt,
  k_round,
  k_floor,
  k_ceil,
  k_trunc,
  k_abs,
  k_pow,
  k_uint_to_float,
  k_int_to_float,
  k_round_to_int,
  k_trunc_to_int,
  k_functions
};

enum Binary : int {
  k_add,
  k_sub,
  k_mul,
  k_div,
  k_fma,
  k_fnma,
  k_fms,
  k_min,
  k_max,
  k_min_nan,
  k_max_nan,
  k_copy_sign,
  k_less,
  k_less_equal,
  k_greater,
  k_greater_equal,
  k_equal,
  k_not_equal,
  k_zero_unless,
  k_int_add,
  k_int_sub,
  k_int_mul,
  k_int_and,
  k_int_or,
  k_int_xor,
  k_int_not,
  k_int_min,
  k_int_max,
  k_int_greater,
  k_int_less,
  k_int_equal,
  k_shift_left,
  k_shift_right,
  k_shift_right_logical,
  k_mul_high,
  k_mul_low,
  k_reduce_add,
  k_reduce_max,
  k_reduce_min,
  k_reduce_max_nan,
  k_mask_bits,
  k_interleave,
  k_deinterleave,
  k_transpose,
  k_gather,
  k_load_or,
  k_load_mask,
  k_load_int
};

enum Conversion : int {
  k_from_float32,
  k_from_bf16,
  k_from_f16,
  k_from_int8,
  k_from_uint8,
  k_to_bf16,
  k_to_f16,
  k_to_int8,
  k_to_uint8
};

struct LanesArgs {
  int* lanes;
};
struct MapArgs {
  int function;
  const float* in;  // [n]
  float* out;       // [n]
  int64_t n;
  float parameter;
};
struct BinaryArgs {
  int function;
  const float* x;  // [n], n a multiple of the lanes
  const float* y;
  const float* z;
  float* out;
  int64_t n;
};
struct ConvertArgs {
  int kind;
  const void* in;
  void* out;
  int64_t n;
  bool partial_only;  // never a whole vector's load or store
};
struct RandomArgs {
  bool normal;
  uint64_t seed, offset;
  float* out;
  int64_t n;
};
struct ExhaustArgs {
  int64_t n;
};
struct DoubleArgs {
  int function;
  const double* in;
  double* out;
  int64_t n;
  double* reduced;  // sum, maximum
};

}  // namespace seqloom::cpu_test

namespace seqloom {

SEQLOOM_DECLARE_CPU_BF16(cpu_test_lanes, cpu_test::LanesArgs)
SEQLOOM_DECLARE_CPU_BF16(cpu_test_map, cpu_test::MapArgs)
SEQLOOM_DECLARE_CPU_BF16(cpu_test_binary, cpu_test::BinaryArgs)
SEQLOOM_DECLARE_CPU_BF16(cpu_test_lanewise, cpu_test::BinaryArgs)
SEQLOOM_DECLARE_CPU_BF16(cpu_test_convert, cpu_test::ConvertArgs)
SEQLOOM_DECLARE_CPU_BF16(cpu_test_random, cpu_test::RandomArgs)
SEQLOOM_DECLARE_CPU_BF16(cpu_test_exhaust, cpu_test::ExhaustArgs)
SEQLOOM_DECLARE_CPU_BF16(cpu_test_double, cpu_test::DoubleArgs)

}  // namespace seqloom
