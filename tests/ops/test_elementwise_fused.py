# SPDX-License-Identifier: Apache-2.0
"""The fused chains of the elementwise family, and gradients by finite differences in float64."""

from __future__ import annotations

import numpy as np
import pytest

import reference as ref
import seqloom as sl
from reference.elementwise import ACTIVATIONS
from reference.vjp import unbroadcast
from support import LAYOUTS, check_op, draws, refuses, to_float64

NAMES = ("relu", "gelu", "gelu_tanh", "silu")


def bias_activation_reference(name):
    function, options = ACTIVATIONS[name]

    def vjp(x, bias):
        y, backward = function.vjp(x + bias, **options)

        def both(g):
            dx = backward(g)["x"]
            return {"x": dx, "bias": unbroadcast(dx, bias.shape)}

        return y, both

    return ref.Op(vjp)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", NAMES)
def test_bias_activation(name, layout, isa, dtype, device, rng):
    for shape in ((3, 17), (2, 5, 64), (1, 1)):
        check_op(
            lambda x, bias: sl.ops.bias_activation(x, bias, name),
            bias_activation_reference(name),
            draws(rng, x=shape, bias=shape[-1:]),
            device=device,
            dtype=dtype,
            layout=layout,
            kind="product",
        )


def dropout_add_reference(factor):
    def vjp(x, residual, bias=None):
        inner = x if bias is None else x + bias
        scale = factor.astype(x.dtype)

        def backward(g):
            dx = g * scale
            grads = {"x": dx, "residual": g}
            return grads if bias is None else {**grads, "bias": unbroadcast(dx, bias.shape)}

        return inner * scale + residual, backward

    return ref.Op(vjp)


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("p", [0.0, 0.5])
def test_dropout_add(p, with_bias, isa, dtype, device, rng):
    shape = (7, 33)
    factor = to_float64(sl.ops.dropout(sl.ones(*shape, device=device), p, seed=5))
    assert set(factor.ravel().tolist()) == ({0.0, 2.0} if p else {1.0})
    inputs = draws(rng, x=shape, residual=shape)
    if with_bias:
        inputs["bias"] = rng.standard_normal(33)
    check_op(
        lambda x, residual, bias=None: sl.ops.dropout_add(x, residual, p, bias=bias, seed=5),
        dropout_add_reference(factor),
        inputs,
        device=device,
        dtype=dtype,
        kind="product",
    )


def scaled_and_added(x, mask, scale):
    def backward(g):
        return {"x": g * scale, "mask": unbroadcast(g, mask.shape)}

    return x * scale + mask, backward


@pytest.mark.parametrize("mask_shape", [(5, 16), (3, 1, 16), (2, 3, 5, 16)], ids=str)
def test_scale_and_additive_mask(mask_shape, isa, dtype, device, rng):
    check_op(
        lambda x, mask: sl.ops.scale_mask(x, mask, 0.125),
        ref.Op(lambda x, mask: scaled_and_added(x, mask, x.dtype.type(0.125))),
        draws(rng, x=(2, 3, 5, 16), mask=mask_shape),
        device=device,
        dtype=dtype,
        kind="product",
    )


@pytest.mark.parametrize("mask_shape", [(5, 16), (5, 1), (2, 1, 1, 16)], ids=str)
def test_scale_and_boolean_mask(mask_shape, isa, dtype, device, rng):
    mask = rng.random(mask_shape) > 0.5

    def reference(x):
        y = np.where(mask, x.dtype.type(-100), x * x.dtype.type(0.5))
        return y, lambda g: {"x": np.where(mask, 0, g * g.dtype.type(0.5))}

    hidden = sl.tensor(mask, device=device)
    check_op(
        lambda x: sl.ops.scale_mask(x, hidden, 0.5, -100.0),
        ref.Op(reference),
        draws(rng, x=(2, 3, 5, 16)),
        device=device,
        dtype=dtype,
    )


def test_fused_chains_name_their_mistakes(device):
    x = sl.ones(2, 3, device=device)
    with refuses(ValueError, "bias_activation"):
        sl.ops.bias_activation(x, sl.ones(2, device=device))
    with refuses(ValueError, "bias_activation"):
        sl.ops.bias_activation(x, sl.ones(3, device=device), "softplus")
    with refuses(ValueError, "dropout_add"):
        sl.ops.dropout_add(x, sl.ones(3, device=device))
    with refuses(ValueError, "scale_mask"):
        sl.ops.scale_mask(x, sl.ones(2, device=device))
    with refuses(TypeError, "geglu"):
        sl.ops.geglu(x, x.half())
    with refuses(TypeError, "silu"):
        sl.ops.silu([1.0])


# --- finite differences ---------------------------------------------------------------------

FUNCTIONS = {
    "exp": lambda x: x.exp(),
    "log": lambda x: (x * x + 0.5).log(),
    "sqrt": lambda x: (x * x + 0.5).sqrt(),
    "rsqrt": lambda x: (x * x + 0.5).rsqrt(),
    "sin": lambda x: x.sin(),
    "cos": lambda x: x.cos(),
    "tanh": lambda x: x.tanh(),
    "sigmoid": lambda x: x.sigmoid(),
    "erf": lambda x: x.erf(),
    "relu": lambda x: x.relu(),
    "reciprocal": lambda x: (x * x + 0.5).reciprocal(),
    "abs": lambda x: abs(x),
    "neg": lambda x: -x,
    "gelu": lambda x: sl.ops.gelu(x),
    "gelu_tanh": lambda x: sl.ops.gelu(x, "tanh"),
    "silu": lambda x: sl.ops.silu(x),
    "cube": lambda x: x**3,
    "root": lambda x: (x * x + 0.5) ** 0.5,
    "power_of_two": lambda x: 2.0**x,
    "clamp": lambda x: x.clamp(-0.7, 0.9),
    "to": lambda x: x.to(dtype="float64") * 2,
    "remainder": lambda x: x % 0.75,
    "where": lambda x: sl.where(x > 0, x * 2, x * x),
    "masked_fill": lambda x: x.masked_fill(x > 1, 3.0) * x,
    "dropout": lambda x: sl.ops.dropout(x, 0.4, seed=3),
    "sum": lambda x: x.sum(0) * x.sum((0, 1)),
    "mean": lambda x: x.mean(1, keepdim=True) * x,
    "var": lambda x: x.var(1) + x.var(),
    "std": lambda x: x.std(0),
    "prod": lambda x: x.prod(1) + x.prod(),
    "max": lambda x: x.max(1)[0] + x.max(),
    "min": lambda x: x.min(0)[0] + x.min(),
    "logsumexp": lambda x: x.logsumexp(1) + x.logsumexp((0, 1)),
    "cumsum": lambda x: x.cumsum(1) * x.cumsum(0),
    "norm": lambda x: x.norm(1),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_by_differences(name, isa, device, rng):
    if device == "cuda":
        pytest.skip("float64 is a dtype of the CPU")
    x = sl.tensor(rng.standard_normal((3, 5)), requires_grad=True)
    assert sl.autograd.gradcheck(FUNCTIONS[name], x)


OPERATORS = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / (b * b + 0.5),
    "pow": lambda a, b: (a * a + 0.5) ** b,
    "remainder": lambda a, b: a % (b * b + 0.5),
    "maximum": lambda a, b: sl.ops.maximum(a, b),
    "minimum": lambda a, b: sl.ops.minimum(a, b),
    "clamp": lambda a, b: a.clamp(b, b + 1),
    "where": lambda a, b: sl.where(sl.tensor([[True], [False], [True]]), a, b),
}


@pytest.mark.parametrize("shapes", [((3, 4), (3, 4)), ((3, 4), (4,)), ((3, 1), (1, 4))], ids=str)
@pytest.mark.parametrize("name", OPERATORS)
def test_operators_by_differences(name, shapes, device, rng):
    if device == "cuda":
        pytest.skip("float64 is a dtype of the CPU")
    a, b = (sl.tensor(rng.standard_normal(s), requires_grad=True) for s in shapes)
    assert sl.autograd.gradcheck(OPERATORS[name], (a, b))


def test_gradients_at_the_edges(device):
    def gradient(function, values):
        x = sl.tensor(values, device=device, requires_grad=True)
        function(x).sum().backward()
        return x.grad.tolist()

    assert gradient(lambda x: x**0, [0.0, 2.0]) == [0.0, 0.0]
    assert gradient(lambda x: x**1, [0.0, 2.0]) == [1.0, 1.0]
    assert gradient(lambda x: x**2, [0.0, 2.0]) == [0.0, 4.0]
    assert gradient(lambda x: 0.0**x, [1.0, 2.0]) == [0.0, 0.0]
    assert gradient(lambda x: x.clamp(0, 1), [0.0, 1.0, 1.5, -1.0]) == [1.0, 1.0, 0.0, 0.0]
    assert gradient(lambda x: x.relu(), [0.0, -0.0, 1.0]) == [0.0, 0.0, 1.0]
    assert gradient(abs, [0.0, -2.0]) == [0.0, -1.0]
    assert gradient(lambda x: sl.ops.maximum(x, 1.0), [1.0, 2.0, 0.0]) == [0.5, 1.0, 0.0]
    assert gradient(lambda x: x.floor() + x.round() + x // 2, [1.5, 2.5]) == [0.0, 0.0]
    # A masked infinity gives no NaN.
    assert gradient(lambda x: sl.where(x > 0, x, 0.0), [float("-inf"), 2.0]) == [0.0, 1.0]


def test_mixed_dtypes_give_gradients_in_their_own(device):
    a = sl.ones(3, dtype="float16", device=device, requires_grad=True)
    b = sl.ones(2, 3, device=device, requires_grad=True)
    y = a * b
    assert y.dtype == sl.float32
    y.sum().backward()
    assert a.grad.dtype == sl.float16
    assert b.grad.dtype == sl.float32
    assert a.grad.tolist() == [2.0, 2.0, 2.0]
