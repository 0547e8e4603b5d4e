// SPDX-License-Identifier: Apache-2.0
// The formulas on integers, for both backends: everything is computed in 64 bits, wraps, and is cut
// to the output's dtype afterwards, which gives the same bits as wrapping in that dtype. Division
// by zero gives 0, as in NumPy. The includer defines SEQLOOM_MATH_NS.
#include "ops/elementwise/elementwise.h"

namespace seqloom::SEQLOOM_MATH_NS {

SEQLOOM_HOST_DEVICE int64_t wrap_add(int64_t a, int64_t b) {
  return static_cast<int64_t>(static_cast<uint64_t>(a) + static_cast<uint64_t>(b));
}
SEQLOOM_HOST_DEVICE int64_t wrap_neg(int64_t a) {
  return static_cast<int64_t>(0 - static_cast<uint64_t>(a));
}
SEQLOOM_HOST_DEVICE int64_t wrap_mul(int64_t a, int64_t b) {
  return static_cast<int64_t>(static_cast<uint64_t>(a) * static_cast<uint64_t>(b));
}
SEQLOOM_HOST_DEVICE int64_t integer_floor_divide(int64_t a, int64_t b) {
  if (b == 0) return 0;
  if (b == -1) return wrap_neg(a);  // the one quotient that overflows
  const int64_t q = a / b;
  return a % b != 0 && (a < 0) != (b < 0) ? q - 1 : q;
}
SEQLOOM_HOST_DEVICE int64_t integer_mod(int64_t a, int64_t b) {
  if (b == 0 || b == -1) return 0;
  const int64_t m = a % b;
  return m != 0 && (m < 0) != (b < 0) ? m + b : m;
}
// By squaring; a negative exponent gives the truncated value: 0 unless the base is 1 or -1.
SEQLOOM_HOST_DEVICE int64_t integer_pow(int64_t a, int64_t b) {
  if (b < 0) return a == 1 ? 1 : a == -1 ? (b & 1 ? -1 : 1) : 0;
  int64_t result = 1;
  for (; b != 0; b >>= 1) {
    if (b & 1) result = wrap_mul(result, a);
    a = wrap_mul(a, a);
  }
  return result;
}

#define SEQLOOM_INTEGER(name, inputs, expression)                                       \
  struct Integer##name {                                                                \
    static constexpr int kInputs = inputs;                                              \
    static SEQLOOM_HOST_DEVICE int64_t of(const int64_t* x, [[maybe_unused]] int64_t p, \
                                          [[maybe_unused]] int64_t q) {                 \
      return expression;                                                                \
    }                                                                                   \
  };
SEQLOOM_INTEGER(Copy, 1, x[0])
SEQLOOM_INTEGER(Neg, 1, wrap_neg(x[0]))
SEQLOOM_INTEGER(Abs, 1, x[0] < 0 ? wrap_neg(x[0]) : x[0])
SEQLOOM_INTEGER(Sign, 1, x[0] > 0 ? 1 : x[0] < 0 ? -1 : 0)
SEQLOOM_INTEGER(Relu, 1, x[0] > 0 ? x[0] : 0)
SEQLOOM_INTEGER(LogicalNot, 1, x[0] == 0)
SEQLOOM_INTEGER(BitwiseNot, 1, ~x[0])
SEQLOOM_INTEGER(Clamp, 1, (x[0] < p ? p : x[0]) > q ? q : (x[0] < p ? p : x[0]))
SEQLOOM_INTEGER(Add, 2, wrap_add(x[0], x[1]))
SEQLOOM_INTEGER(Sub, 2, wrap_add(x[0], wrap_neg(x[1])))
SEQLOOM_INTEGER(Mul, 2, wrap_mul(x[0], x[1]))
SEQLOOM_INTEGER(FloorDivide, 2, integer_floor_divide(x[0], x[1]))
SEQLOOM_INTEGER(Remainder, 2, integer_mod(x[0], x[1]))
SEQLOOM_INTEGER(Pow, 2, integer_pow(x[0], x[1]))
SEQLOOM_INTEGER(Maximum, 2, x[0] > x[1] ? x[0] : x[1])
SEQLOOM_INTEGER(Minimum, 2, x[0] < x[1] ? x[0] : x[1])
SEQLOOM_INTEGER(Eq, 2, x[0] == x[1])
SEQLOOM_INTEGER(Ne, 2, x[0] != x[1])
SEQLOOM_INTEGER(Lt, 2, x[0] < x[1])
SEQLOOM_INTEGER(Le, 2, x[0] <= x[1])
SEQLOOM_INTEGER(Gt, 2, x[0] > x[1])
SEQLOOM_INTEGER(Ge, 2, x[0] >= x[1])
SEQLOOM_INTEGER(And, 2, x[0] & x[1])
SEQLOOM_INTEGER(Or, 2, x[0] | x[1])
SEQLOOM_INTEGER(Xor, 2, x[0] ^ x[1])
SEQLOOM_INTEGER(Where, 3, x[0] != 0 ? x[1] : x[2])
#undef SEQLOOM_INTEGER

// f(formula) for the formula of `op`; false where integers have none.
template <class F>
SEQLOOM_HOST_DEVICE bool visit_integer_formula(ops::ElementwiseOp op, F&& f) {
  using Op = ops::ElementwiseOp;
#define SEQLOOM_CASE(name) \
  case Op::k##name:        \
    f(Integer##name{});    \
    return true;
  // clang-format off
  switch (op) {
    SEQLOOM_CASE(Copy)
    SEQLOOM_CASE(Neg)
    SEQLOOM_CASE(Abs)
    SEQLOOM_CASE(Sign)
    SEQLOOM_CASE(Relu)
    SEQLOOM_CASE(LogicalNot)
    SEQLOOM_CASE(BitwiseNot)
    SEQLOOM_CASE(Clamp)
    SEQLOOM_CASE(Add)
    SEQLOOM_CASE(Sub)
    SEQLOOM_CASE(Mul)
    SEQLOOM_CASE(FloorDivide)
    SEQLOOM_CASE(Remainder)
    SEQLOOM_CASE(Pow)
    SEQLOOM_CASE(Maximum)
    SEQLOOM_CASE(Minimum)
    SEQLOOM_CASE(Eq)
    SEQLOOM_CASE(Ne)
    SEQLOOM_CASE(Lt)
    SEQLOOM_CASE(Le)
    SEQLOOM_CASE(Gt)
    SEQLOOM_CASE(Ge)
    SEQLOOM_CASE(And)
    SEQLOOM_CASE(Or)
    SEQLOOM_CASE(Xor)
    SEQLOOM_CASE(Where)
    default: return false;
  }
    // clang-format on
#undef SEQLOOM_CASE
}

}  // namespace seqloom::SEQLOOM_MATH_NS
