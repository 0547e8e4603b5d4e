// SPDX-License-Identifier: Apache-2.0
// The formulas of the elementwise ops, written once for both backends.
//
// V is a vector of floats or doubles on the CPU (cpu/vec.h) and a float or double in device code.
// The includer defines SEQLOOM_MATH_NS, the namespace to live in, and declares there what formulas
// are made of: arithmetic, comparisons, select(mask, a, b), min, max, abs, floor, round, sqrt,
// rsqrt, exp, log, sin, cos, tanh, sigmoid, erf, pow, fmod, copy_sign, silu, gelu_erf, gelu_tanh,
// their _grad, and constant<V>(x). min(a, b) and max(a, b) give b when either is NaN.
//
// A formula takes its inputs x[0..kInputs) and the numbers p, q. Where kRandom is set, x[kInputs]
// is the dropout factor of the element: 0, or 1 / (1 - probability).
#include "ops/elementwise/elementwise.h"

namespace seqloom::SEQLOOM_MATH_NS {

template <int Inputs, int Outputs = 1, bool Random = false>
struct Formula {
  static constexpr int kInputs = Inputs, kOutputs = Outputs;
  static constexpr bool kRandom = Random;
};

template <class V, class M>
SEQLOOM_HOST_DEVICE V truth(M mask) {
  return select(mask, constant<V>(1), constant<V>(0));
}
template <class V>
SEQLOOM_HOST_DEVICE auto is_true(V x) {
  return x != constant<V>(0);
}

// Python's modulo: the sign of the divisor.
template <class V>
SEQLOOM_HOST_DEVICE V python_mod(V a, V b) {
  const V zero = constant<V>(0), m = fmod(a, b);
  const auto other_sign = ((m < zero) & (b > zero)) | ((m > zero) & (b < zero));
  return select(other_sign, m + b, m);
}
// floor(a / b) from the exact remainder, as Python's float // does; a / b where b is zero.
template <class V>
SEQLOOM_HOST_DEVICE V python_floor_divide(V a, V b) {
  const V quotient = (a - python_mod(a, b)) / b;
  const V whole = floor(quotient);
  const V nearest = select(quotient - whole > constant<V>(0.5), whole + constant<V>(1), whole);
  return select(b == constant<V>(0), a / b, nearest);
}

#define SEQLOOM_FORMULA(name, inputs, expression)                                             \
  struct name : Formula<inputs> {                                                             \
    template <class V>                                                                        \
    static SEQLOOM_HOST_DEVICE V of(const V* x, [[maybe_unused]] V p, [[maybe_unused]] V q) { \
      return expression;                                                                      \
    }                                                                                         \
  };
#define SEQLOOM_FORMULA_RANDOM(name, inputs, expression) \
  struct name : Formula<inputs, 1, true> {               \
    template <class V>                                   \
    static SEQLOOM_HOST_DEVICE V of(const V* x, V, V) {  \
      return expression;                                 \
    }                                                    \
  };

SEQLOOM_FORMULA(Copy, 1, x[0])
SEQLOOM_FORMULA(Neg, 1, -x[0])
SEQLOOM_FORMULA(Abs, 1, abs(x[0]))
SEQLOOM_FORMULA(Sign, 1, select(x[0] == constant<V>(0), x[0], copy_sign(constant<V>(1), x[0])))
SEQLOOM_FORMULA(Exp, 1, exp(x[0]))
SEQLOOM_FORMULA(Log, 1, log(x[0]))
SEQLOOM_FORMULA(Sqrt, 1, sqrt(x[0]))
SEQLOOM_FORMULA(Rsqrt, 1, rsqrt(x[0]))
SEQLOOM_FORMULA(Sin, 1, sin(x[0]))
SEQLOOM_FORMULA(Cos, 1, cos(x[0]))
SEQLOOM_FORMULA(Tanh, 1, tanh(x[0]))
SEQLOOM_FORMULA(Sigmoid, 1, sigmoid(x[0]))
SEQLOOM_FORMULA(Erf, 1, erf(x[0]))
SEQLOOM_FORMULA(Relu, 1, max(constant<V>(0), x[0]))
SEQLOOM_FORMULA(Gelu, 1, gelu_erf(x[0]))
SEQLOOM_FORMULA(GeluTanh, 1, gelu_tanh(x[0]))
SEQLOOM_FORMULA(Silu, 1, silu(x[0]))
SEQLOOM_FORMULA(Floor, 1, floor(x[0]))
SEQLOOM_FORMULA(Round, 1, round(x[0]))
SEQLOOM_FORMULA(Reciprocal, 1, constant<V>(1) / x[0])
SEQLOOM_FORMULA(LogicalNot, 1, truth<V>(x[0] == constant<V>(0)))
SEQLOOM_FORMULA(Clamp, 1, min(q, max(p, x[0])))
SEQLOOM_FORMULA_RANDOM(Dropout, 1, x[0] * x[1])

SEQLOOM_FORMULA(Add, 2, x[0] + x[1])
SEQLOOM_FORMULA(Sub, 2, x[0] - x[1])
SEQLOOM_FORMULA(Mul, 2, x[0] * x[1])
SEQLOOM_FORMULA(Div, 2, x[0] / x[1])
SEQLOOM_FORMULA(FloorDivide, 2, python_floor_divide(x[0], x[1]))
SEQLOOM_FORMULA(Remainder, 2, python_mod(x[0], x[1]))
SEQLOOM_FORMULA(Pow, 2, pow(x[0], x[1]))
SEQLOOM_FORMULA(Maximum, 2, select(x[0] != x[0], x[0], max(x[0], x[1])))
SEQLOOM_FORMULA(Minimum, 2, select(x[0] != x[0], x[0], min(x[0], x[1])))
SEQLOOM_FORMULA(Eq, 2, truth<V>(x[0] == x[1]))
SEQLOOM_FORMULA(Ne, 2, truth<V>(x[0] != x[1]))
SEQLOOM_FORMULA(Lt, 2, truth<V>(x[0] < x[1]))
SEQLOOM_FORMULA(Le, 2, truth<V>(x[0] <= x[1]))
SEQLOOM_FORMULA(Gt, 2, truth<V>(x[0] > x[1]))
SEQLOOM_FORMULA(Ge, 2, truth<V>(x[0] >= x[1]))
SEQLOOM_FORMULA(Swiglu, 2, silu(x[0]) * x[1])
SEQLOOM_FORMULA(Geglu, 2, gelu_erf(x[0]) * x[1])
SEQLOOM_FORMULA(BiasRelu, 2, max(constant<V>(0), x[0] + x[1]))
SEQLOOM_FORMULA(BiasGelu, 2, gelu_erf(x[0] + x[1]))
SEQLOOM_FORMULA(BiasGeluTanh, 2, gelu_tanh(x[0] + x[1]))
SEQLOOM_FORMULA(BiasSilu, 2, silu(x[0] + x[1]))
SEQLOOM_FORMULA_RANDOM(DropoutAdd, 2, x[0] * x[2] + x[1])
SEQLOOM_FORMULA(ScaleAdd, 2, x[0] * p + x[1])
SEQLOOM_FORMULA(ScaleMaskedFill, 2, select(is_true(x[1]), q, x[0] * p))

SEQLOOM_FORMULA(Where, 3, select(is_true(x[0]), x[1], x[2]))
SEQLOOM_FORMULA_RANDOM(BiasDropoutAdd, 3, (x[0] + x[1]) * x[3] + x[2])

// ---- gradients: x[0] is the gradient of the output ----

SEQLOOM_FORMULA(ExpBackward, 2, x[0] * x[1])
SEQLOOM_FORMULA(LogBackward, 2, x[0] / x[1])
SEQLOOM_FORMULA(SqrtBackward, 2, x[0] / (x[1] + x[1]))
SEQLOOM_FORMULA(RsqrtBackward, 2, constant<V>(-0.5) * x[0] * x[1] * x[1] * x[1])
SEQLOOM_FORMULA(SinBackward, 2, x[0] * cos(x[1]))
SEQLOOM_FORMULA(CosBackward, 2, -(x[0] * sin(x[1])))
SEQLOOM_FORMULA(TanhBackward, 2, x[0] * ((constant<V>(1) - x[1]) * (constant<V>(1) + x[1])))
SEQLOOM_FORMULA(SigmoidBackward, 2, x[0] * (x[1] * (constant<V>(1) - x[1])))
// 2 / sqrt(pi) exp(-x^2)
SEQLOOM_FORMULA(ErfBackward, 2, x[0] * (constant<V>(1.1283791670955126) * exp(-(x[1] * x[1]))))
SEQLOOM_FORMULA(ReluBackward, 2, select(x[1] > constant<V>(0), x[0], constant<V>(0)))
SEQLOOM_FORMULA(GeluBackward, 2, x[0] * gelu_erf_grad(x[1]))
SEQLOOM_FORMULA(GeluTanhBackward, 2, x[0] * gelu_tanh_grad(x[1]))
SEQLOOM_FORMULA(SiluBackward, 2, x[0] * silu_grad(x[1]))
SEQLOOM_FORMULA(ReciprocalBackward, 2, -(x[0] * x[1] * x[1]))
SEQLOOM_FORMULA(AbsBackward, 2,
                x[0] * select(x[1] == constant<V>(0), x[1], copy_sign(constant<V>(1), x[1])))
SEQLOOM_FORMULA(ClampBackward, 2, select((x[1] < p) | (x[1] > q), constant<V>(0), x[0]))

SEQLOOM_FORMULA(DivBackward, 3, -(x[0] * x[1]) / x[2])
// 0^0 has no gradient; 0^b has none for b.
SEQLOOM_FORMULA(PowBackwardBase, 3,
                select(x[2] == constant<V>(0), constant<V>(0),
                       x[0] * x[2] * pow(x[1], x[2] - constant<V>(1))))
SEQLOOM_FORMULA(PowBackwardExponent, 3,
                select((x[1] == constant<V>(0)) & (x[2] >= constant<V>(0)), constant<V>(0),
                       x[0] * pow(x[1], x[2]) * log(x[1])))
// Ties share equally.
SEQLOOM_FORMULA(MaximumBackward, 3,
                select(x[1] == x[2], x[0] * constant<V>(0.5),
                       select(x[1] < x[2], constant<V>(0), x[0])))
SEQLOOM_FORMULA(MinimumBackward, 3,
                select(x[1] == x[2], x[0] * constant<V>(0.5),
                       select(x[1] > x[2], constant<V>(0), x[0])))
SEQLOOM_FORMULA(BiasReluBackward, 3, select(x[1] + x[2] > constant<V>(0), x[0], constant<V>(0)))
SEQLOOM_FORMULA(BiasGeluBackward, 3, x[0] * gelu_erf_grad(x[1] + x[2]))
SEQLOOM_FORMULA(BiasGeluTanhBackward, 3, x[0] * gelu_tanh_grad(x[1] + x[2]))
SEQLOOM_FORMULA(BiasSiluBackward, 3, x[0] * silu_grad(x[1] + x[2]))

struct SwigluBackward : Formula<3, 2> {
  template <class V>
  static SEQLOOM_HOST_DEVICE void both(const V* x, V* y) {
    const V g = x[0], gate = x[1], up = x[2], s = sigmoid(gate);
    y[0] = g * up * (s * (constant<V>(1) + gate * (constant<V>(1) - s)));
    y[1] = g * (gate * s);
  }
};
struct GegluBackward : Formula<3, 2> {
  template <class V>
  static SEQLOOM_HOST_DEVICE void both(const V* x, V* y) {
    y[0] = x[0] * x[2] * gelu_erf_grad(x[1]);
    y[1] = x[0] * gelu_erf(x[1]);
  }
};
#undef SEQLOOM_FORMULA
#undef SEQLOOM_FORMULA_RANDOM

// f(formula) for the formula of `op`; false for the ops of integers alone.
template <class F>
SEQLOOM_HOST_DEVICE bool visit_formula(ops::ElementwiseOp op, F&& f) {
  using Op = ops::ElementwiseOp;
#define SEQLOOM_CASE(name) \
  case Op::k##name:        \
    f(name{});             \
    return true;
  // clang-format off
  switch (op) {
    SEQLOOM_CASE(Copy)
    SEQLOOM_CASE(Neg)
    SEQLOOM_CASE(Abs)
    SEQLOOM_CASE(Sign)
    SEQLOOM_CASE(Exp)
    SEQLOOM_CASE(Log)
    SEQLOOM_CASE(Sqrt)
    SEQLOOM_CASE(Rsqrt)
    SEQLOOM_CASE(Sin)
    SEQLOOM_CASE(Cos)
    SEQLOOM_CASE(Tanh)
    SEQLOOM_CASE(Sigmoid)
    SEQLOOM_CASE(Erf)
    SEQLOOM_CASE(Relu)
    SEQLOOM_CASE(Gelu)
    SEQLOOM_CASE(GeluTanh)
    SEQLOOM_CASE(Silu)
    SEQLOOM_CASE(Floor)
    SEQLOOM_CASE(Round)
    SEQLOOM_CASE(Reciprocal)
    SEQLOOM_CASE(LogicalNot)
    SEQLOOM_CASE(Clamp)
    SEQLOOM_CASE(Dropout)
    SEQLOOM_CASE(Add)
    SEQLOOM_CASE(Sub)
    SEQLOOM_CASE(Mul)
    SEQLOOM_CASE(Div)
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
    SEQLOOM_CASE(Swiglu)
    SEQLOOM_CASE(Geglu)
    SEQLOOM_CASE(BiasRelu)
    SEQLOOM_CASE(BiasGelu)
    SEQLOOM_CASE(BiasGeluTanh)
    SEQLOOM_CASE(BiasSilu)
    SEQLOOM_CASE(DropoutAdd)
    SEQLOOM_CASE(ScaleAdd)
    SEQLOOM_CASE(ScaleMaskedFill)
    SEQLOOM_CASE(Where)
    SEQLOOM_CASE(BiasDropoutAdd)
    SEQLOOM_CASE(ExpBackward)
    SEQLOOM_CASE(LogBackward)
    SEQLOOM_CASE(SqrtBackward)
    SEQLOOM_CASE(RsqrtBackward)
    SEQLOOM_CASE(SinBackward)
    SEQLOOM_CASE(CosBackward)
    SEQLOOM_CASE(TanhBackward)
    SEQLOOM_CASE(SigmoidBackward)
    SEQLOOM_CASE(ErfBackward)
    SEQLOOM_CASE(ReluBackward)
    SEQLOOM_CASE(GeluBackward)
    SEQLOOM_CASE(GeluTanhBackward)
    SEQLOOM_CASE(SiluBackward)
    SEQLOOM_CASE(ReciprocalBackward)
    SEQLOOM_CASE(AbsBackward)
    SEQLOOM_CASE(ClampBackward)
    SEQLOOM_CASE(DivBackward)
    SEQLOOM_CASE(PowBackwardBase)
    SEQLOOM_CASE(PowBackwardExponent)
    SEQLOOM_CASE(MaximumBackward)
    SEQLOOM_CASE(MinimumBackward)
    SEQLOOM_CASE(BiasReluBackward)
    SEQLOOM_CASE(BiasGeluBackward)
    SEQLOOM_CASE(BiasGeluTanhBackward)
    SEQLOOM_CASE(BiasSiluBackward)
    SEQLOOM_CASE(SwigluBackward)
    SEQLOOM_CASE(GegluBackward)
    default: return false;
  }
    // clang-format on
#undef SEQLOOM_CASE
}

}  // namespace seqloom::SEQLOOM_MATH_NS
