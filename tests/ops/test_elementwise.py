# SPDX-License-Identifier: Apache-2.0
"""Elementwise ops: arithmetic with broadcasting, activations, gates, dropout, rotary positions."""

from __future__ import annotations

import numpy as np
import pytest

import reference as ref
import seqloom as sl
from support import (
    LAYOUTS,
    ODD_SIZES,
    assert_close_to_reference,
    check_op,
    draws,
    make_tensor,
    refuses,
    rounded,
)


def positive(x):
    return np.abs(x) + 0.1


# name: (function, reference, what the inputs go through, kind of tolerance)
UNARY = {
    "neg": (lambda x: -x, ref.negative, None, "ulp"),
    "abs": (lambda x: abs(x), ref.absolute, None, "ulp"),
    "exp": (lambda x: x.exp(), ref.exp, lambda x: 2 * x, "ulp"),
    "log": (lambda x: x.log(), ref.log, positive, "ulp"),
    "sqrt": (lambda x: x.sqrt(), ref.sqrt, positive, "ulp"),
    "tanh": (sl.ops.tanh, ref.tanh, lambda x: 3 * x, "ulp"),
    "sigmoid": (sl.ops.sigmoid, ref.sigmoid, lambda x: 4 * x, "ulp"),
    "relu": (sl.ops.relu, ref.relu, None, "ulp"),
    "silu": (sl.ops.silu, ref.silu, lambda x: 4 * x, "ulp"),
    "gelu": (sl.ops.gelu, ref.gelu, lambda x: 3 * x, "formula"),
    "gelu_tanh": (
        lambda x: sl.ops.gelu(x, approximate="tanh"),
        ref.Op(lambda x: ref.gelu.vjp(x, approximate="tanh")),
        lambda x: 3 * x,
        "formula",
    ),
    "square": (
        lambda x: x**2,
        ref.Op(lambda x: (x * x, lambda g: {"x": 2 * g * x})),
        None,
        "ulp",
    ),
    "clamp": (
        lambda x: x.clamp(-0.5, 0.75),
        ref.Op(lambda x: ref.clamp.vjp(x, -0.5, 0.75)),
        None,
        "ulp",
    ),
}
BINARY = {
    "add": (lambda a, b: a + b, ref.add, "ulp"),
    "sub": (lambda a, b: a - b, ref.subtract, "ulp"),
    "mul": (lambda a, b: a * b, ref.multiply, "ulp"),
    "div": (lambda a, b: a / b, ref.divide, "ulp"),
    "pow": (lambda a, b: a**b, ref.power, "product"),
}
# These may start their backward from the output, whose rounding is then the gradient's.
SCALES = {"tanh": {"x": 1.0}, "sigmoid": {"x": 1.0}}
GATES = {"swiglu": (sl.ops.swiglu, ref.swiglu), "geglu": (sl.ops.geglu, ref.geglu)}


def unary_input(name, rng, *shape):
    prepare = UNARY[name][2]
    x = rng.standard_normal(shape)
    return {"x": x if prepare is None else prepare(x)}


def binary_inputs(name, rng, a_shape, b_shape):
    inputs = draws(rng, a=a_shape, b=b_shape)
    if name == "div":
        inputs["b"] = positive(inputs["b"])
    if name == "pow":
        inputs = {"a": positive(inputs["a"]) + 0.4, "b": np.clip(inputs["b"], -2, 2)}
    return inputs


@pytest.mark.parametrize("name", UNARY)
def test_unary_over_sizes_and_alignments(name, isa, dtype, device, rng):
    function, reference, _, kind = UNARY[name]
    for size in ODD_SIZES:
        for layout in ("contiguous", "misaligned"):
            check_op(
                function,
                reference,
                unary_input(name, rng, size),
                device=device,
                dtype=dtype,
                layout=layout,
                kind=kind,
                scales=SCALES.get(name),
            )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", UNARY)
def test_unary_of_views(name, layout, dtype, device, rng):
    function, reference, _, kind = UNARY[name]
    for shape in ((3, 5), (2, 3, 33)):
        inputs = unary_input(name, rng, *shape)
        check_op(
            function,
            reference,
            inputs,
            device=device,
            dtype=dtype,
            layout=layout,
            kind=kind,
            scales=SCALES.get(name),
        )


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1, 1, 1)], ids=str)
@pytest.mark.parametrize("name", UNARY)
def test_unary_of_empty_and_single(name, shape, device, rng):
    function, reference, _, kind = UNARY[name]
    inputs = unary_input(name, rng, *shape)
    check_op(function, reference, inputs, device=device, kind=kind, scales=SCALES.get(name))


@pytest.mark.parametrize("name", UNARY)
def test_unary_in_float64(name, rng):
    function, reference, _, kind = UNARY[name]
    check_op(
        function,
        reference,
        unary_input(name, rng, 37),
        dtype="float64",
        kind=kind,
        scales=SCALES.get(name),
    )


SPECIAL = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-40, -1e-7, 1.0, 88.8, -104.5, 3e38])


@pytest.mark.parametrize("name", ["neg", "abs", "exp", "log", "sqrt", "tanh", "sigmoid", "relu"])
def test_special_values_do_as_the_formula_does(name, isa, dtype, device):
    function, reference, _, kind = UNARY[name]
    x = np.tile(SPECIAL, 5)
    with np.errstate(all="ignore"):
        exact = rounded(x, dtype)
    y = function(make_tensor(x, dtype, device))
    assert_close_to_reference(y, reference(exact), dtype=dtype, kind=kind)


@pytest.mark.parametrize("name", BINARY)
def test_binary_over_sizes_and_alignments(name, isa, dtype, device, rng):
    function, reference, kind = BINARY[name]
    for size in ODD_SIZES:
        for layout in ("contiguous", "misaligned"):
            check_op(
                function,
                reference,
                binary_inputs(name, rng, (size,), (size,)),
                device=device,
                dtype=dtype,
                layout=layout,
                kind=kind,
            )


BROADCASTS = [
    ((3, 5), (5,)),
    ((3, 5), (3, 1)),
    ((4, 1, 7), (3, 1)),
    ((), (2, 3)),
    ((2, 3), ()),
    ((1,), (4, 33)),
    ((2, 1, 3, 1), (5, 1, 9)),
    ((0, 3), (1, 3)),
    ((2, 0), (2, 1)),
]


@pytest.mark.parametrize(("a_shape", "b_shape"), BROADCASTS, ids=str)
@pytest.mark.parametrize("name", BINARY)
def test_binary_broadcasts(name, a_shape, b_shape, dtype, device, rng):
    function, reference, _ = BINARY[name]
    # Positive terms: what a sum over the broadcast axes loses is then no accident.
    inputs = {n: positive(a) + 1 for n, a in binary_inputs(name, rng, a_shape, b_shape).items()}
    check_op(function, reference, inputs, device=device, dtype=dtype, kind="product", positive=True)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", BINARY)
def test_binary_of_views(name, layout, dtype, device, rng):
    function, reference, kind = BINARY[name]
    inputs = binary_inputs(name, rng, (2, 5, 17), (5, 17))
    check_op(function, reference, inputs, device=device, dtype=dtype, layout=layout, kind=kind)


def test_numbers_join_in_on_either_side(dtype, device, rng):
    x = rng.standard_normal(9) + 3
    for function in (
        lambda x: x + 2.5,
        lambda x: 2.5 + x,
        lambda x: x - 1,
        lambda x: 1 - x,
        lambda x: x * 3,
        lambda x: x / 2,
        lambda x: 2 / x,
        lambda x: x**3,
    ):
        t = make_tensor(x, dtype, device)
        y = function(t)
        assert y.dtype == t.dtype
        exact = function(rounded(x, dtype))
        own = function(rounded(x, dtype).astype(np.float32))
        assert_close_to_reference(y, exact, own, dtype=dtype)


def test_integers_keep_python_arithmetic(device):
    a = np.array([7, -7, 5, -5, 0], np.int64)
    b = np.array([2, 2, -3, -3, 4], np.int64)
    x, y = sl.tensor(a, device=device), sl.tensor(b, device=device)
    for got, want in (
        (x + y, a + b),
        (x - y, a - b),
        (x * y, a * b),
        (x // y, a // b),
        (x % y, a % b),
        (-x, -a),
        (abs(x), abs(a)),
    ):
        assert got.dtype == sl.int64
        np.testing.assert_array_equal(got.cpu().numpy(), want)
    quotient = x / y
    assert quotient.dtype == sl.float32
    np.testing.assert_array_equal(quotient.cpu().numpy(), (a / b).astype(np.float32))


def test_comparisons_give_bool(device):
    a, b = np.array([1.0, 2.0, np.nan, 4.0]), np.array([1.0, 3.0, np.nan, 2.0])
    x, y = sl.tensor(a, device=device), sl.tensor(b, device=device)
    for got, want in (
        (x == y, a == b),
        (x != y, a != b),
        (x < y, a < b),
        (x <= y, a <= b),
        (x > y, a > b),
        (x >= y, a >= b),
        (x > 1.5, a > 1.5),
    ):
        assert got.dtype == sl.bool_
        np.testing.assert_array_equal(got.cpu().numpy(), want)
    p, q = x > 1.5, x > 3
    np.testing.assert_array_equal((p & q).cpu().numpy(), (a > 1.5) & (a > 3))
    np.testing.assert_array_equal((p | q).cpu().numpy(), (a > 1.5) | (a > 3))
    np.testing.assert_array_equal((~p).cpu().numpy(), ~(a > 1.5))


def test_where_and_masked_fill(dtype, device, rng):
    mask = rng.random((4, 1, 7)) > 0.5
    condition = sl.tensor(mask, device=device)
    check_op(
        lambda a, b: sl.where(condition, a, b),
        ref.Op(lambda a, b: ref.where.vjp(mask, a, b)),
        draws(rng, a=(3, 7), b=(4, 3, 1)),
        device=device,
        dtype=dtype,
    )
    fill = rng.random((3, 7)) > 0.5
    check_op(
        lambda x, mask, value: x.masked_fill(mask, value),
        ref.masked_fill,
        draws(rng, x=(2, 3, 7)),
        {"mask": fill, "value": -1.5},
        device=device,
        dtype=dtype,
    )


@pytest.mark.parametrize("limits", [(None, 0.5), (-0.5, None), (-0.25, 0.25)], ids=str)
def test_clamp_with_one_limit_or_two(limits, dtype, device, rng):
    check_op(
        lambda x, min, max: x.clamp(min=min, max=max),
        ref.clamp,
        draws(rng, x=(5, 13)),
        {"min": limits[0], "max": limits[1]},
        device=device,
        dtype=dtype,
    )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", GATES)
def test_gates(name, layout, dtype, device, rng):
    function, reference = GATES[name]
    for size in (1, 7, 16, 33, 130):
        inputs = draws(rng, gate=(3, size), up=(3, size))
        check_op(function, reference, inputs, device=device, dtype=dtype, layout=layout)


# --- dropout ----------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_scales_what_it_keeps_and_passes_the_same_gradient(p, dtype, device, rng):
    x = np.abs(rng.standard_normal(20011)) + 0.5
    t = make_tensor(x, dtype, device, requires_grad=True)
    y = sl.ops.dropout(t, p, seed=7)
    keep = y.detach().cpu().numpy().astype(np.float64) != 0
    # Five standard deviations of the share that a fair coin keeps.
    assert abs(keep.mean() - (1 - p)) < 5 * np.sqrt(p * (1 - p) / x.size)
    exact = rounded(x, dtype)
    own = ref.dropout(exact.astype(np.float32), keep, p)
    assert_close_to_reference(y, ref.dropout(exact, keep, p), own, dtype=dtype)
    y.backward(make_tensor(np.ones_like(x), dtype, device))
    want = ref.dropout(np.ones_like(x), keep, p)
    assert_close_to_reference(t.grad, want, want, dtype=dtype)


def test_dropout_follows_its_seed(device):
    x = sl.ones(1000, device=device)
    first = sl.ops.dropout(x, 0.5, seed=3).cpu().numpy()
    np.testing.assert_array_equal(first, sl.ops.dropout(x, 0.5, seed=3).cpu().numpy())
    assert (first != sl.ops.dropout(x, 0.5, seed=4).cpu().numpy()).any()
    sl.manual_seed(11)
    a, b = sl.ops.dropout(x).cpu().numpy(), sl.ops.dropout(x).cpu().numpy()
    assert (a != b).any()
    sl.manual_seed(11)
    np.testing.assert_array_equal(a, sl.ops.dropout(x).cpu().numpy())


def test_dropout_at_its_limits(dtype, device, rng):
    x = make_tensor(rng.standard_normal(33), dtype, device)
    for y in (sl.ops.dropout(x, 0.0), sl.ops.dropout(x, 0.7, training=False)):
        np.testing.assert_array_equal(y.cpu().numpy(), x.cpu().numpy())
    assert not sl.ops.dropout(x, 1.0).cpu().numpy().astype(np.float64).any()
    for p in (-0.1, 1.1, float("nan")):
        with refuses(ValueError, "dropout"):
            sl.ops.dropout(x, p)


# --- rotary positions -------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["contiguous", "misaligned", "transposed"])
@pytest.mark.parametrize("per_batch", [False, True])
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize(("width", "rotated"), [(8, 8), (64, 64), (6, 2), (33, 32), (20, 6)])
def test_rotary_embedding(width, rotated, interleaved, per_batch, layout, dtype, device, rng):
    table = (2, 5, rotated // 2) if per_batch else (5, rotated // 2)
    angle = rng.standard_normal(table) * 3
    check_op(
        sl.ops.rotary_embedding,
        ref.rotary_embedding,
        draws(rng, x=(2, 3, 5, width)),
        {"cos": np.cos(angle), "sin": np.sin(angle), "interleaved": interleaved},
        device=device,
        dtype=dtype,
        layout=layout,
    )


@pytest.mark.parametrize("narrow", ["float16", "bfloat16"])
def test_rotary_embedding_with_float32_tables(narrow, device, rng):
    x, angle = rng.standard_normal((2, 1, 4, 8)), rng.standard_normal((4, 4))
    cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
    tables = {"cos": sl.tensor(cos, device=device), "sin": sl.tensor(sin, device=device)}
    y = sl.ops.rotary_embedding(make_tensor(x, narrow, device), **tables)
    exact = rounded(x, narrow)
    want = ref.rotary_embedding(exact, cos.astype(np.float64), sin.astype(np.float64))
    own = ref.rotary_embedding(exact.astype(np.float32), cos, sin)
    assert y.dtype == getattr(sl, narrow)
    assert_close_to_reference(y, want, own, dtype=narrow)


# --- arrays of others, and mistakes -----------------------------------------------------


def test_numpy_in_gives_numpy_out(rng):
    x = rng.standard_normal((3, 5)).astype(np.float32)
    for name in ("relu", "gelu", "silu", "tanh", "sigmoid"):
        y = getattr(sl.ops, name)(x)
        assert type(y) is np.ndarray
        assert y.dtype == np.float32
        assert_close_to_reference(y, getattr(ref, name)(x.astype(np.float64)), dtype="float32")


def test_shapes_that_do_not_fit_are_refused(device):
    a, b = sl.ones(2, 3, device=device), sl.ones(2, 4, device=device)
    with refuses(ValueError, "add"):
        a + b
    with refuses(ValueError, "swiglu"):
        sl.ops.swiglu(a, b)
    with refuses(ValueError, "gelu"):
        sl.ops.gelu(a, approximate="fast")
    with refuses(ValueError, "rotary_embedding"):
        sl.ops.rotary_embedding(a, a, a)
