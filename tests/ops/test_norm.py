# SPDX-License-Identifier: Apache-2.0
"""layer_norm and rms_norm, plain and with a residual added."""

from __future__ import annotations

import numpy as np
import pytest

import reference as ref
import seqloom as sl
from support import LAYOUTS, ODD_SIZES, assert_close_to_reference, check_op, draws, refuses

# name: (arguments beside the rows, which of them are rows)
NORMS = {
    "layer_norm": ("weight", "bias"),
    "rms_norm": ("weight",),
    "add_layer_norm": ("residual", "weight", "bias"),
    "add_rms_norm": ("residual", "weight"),
}


def inputs_of(name, rng, *shape):
    shapes = {n: shape if n == "residual" else shape[-1:] for n in NORMS[name]}
    return draws(rng, x=shape, **shapes)


def scales_of(inputs, eps=1e-5):
    """In a short row most of the gradient cancels: its terms have the size w g / deviation."""
    rows = inputs["x"] + inputs.get("residual", 0.0)
    inverse = float((1 / np.sqrt(rows.var(-1) + eps)).max(initial=0.0))
    weight = float(np.abs(inputs.get("weight", np.ones(1))).max(initial=0.0))
    size = float(np.abs(rows).max(initial=0.0))
    return {"x": inverse * weight, "residual": inverse * weight, "weight": inverse * size}


@pytest.mark.parametrize("name", NORMS)
def test_over_sizes_and_alignments(name, isa, dtype, device, rng):
    for size in (*ODD_SIZES, 1000):
        for layout in ("contiguous", "misaligned"):
            inputs = inputs_of(name, rng, 3, size)
            check_op(
                getattr(sl.ops, name),
                getattr(ref, name),
                inputs,
                device=device,
                dtype=dtype,
                layout=layout,
                kind="product",
                scales=scales_of(inputs),
            )


# Several pieces of a row; rows that are divided by columns in backward; more than those.
@pytest.mark.parametrize("shape", [(3, 5000), (5, 20001), (26, 41003)], ids=str)
@pytest.mark.parametrize("name", ["layer_norm", "rms_norm", "add_layer_norm"])
def test_long_rows(name, shape, isa, device, rng):
    if device != "cpu" and shape[0] > 3:
        pytest.skip("divided on the CPU alone")
    inputs = inputs_of(name, rng, *shape)
    inputs["x"] += np.linspace(0, 3, shape[-1])  # pieces of different means
    check_op(getattr(sl.ops, name), getattr(ref, name), inputs, device=device, kind="long")


def test_gradients_of_few_long_rows_have_the_same_bits_on_any_number_of_threads(rng):
    values = inputs_of("layer_norm", rng, 6, 20001)
    before = sl.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 4):
            sl.set_num_threads(threads)
            given = {n: sl.tensor(np.float32(v), requires_grad=True) for n, v in values.items()}
            y = sl.ops.layer_norm(**given)
            (y * y * y).sum().backward()
            results.append([y.detach().numpy(), *(t.grad.numpy() for t in given.values())])
    finally:
        sl.set_num_threads(before)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(18,), (2, 3, 18), (70, 33)], ids=str)
@pytest.mark.parametrize("name", NORMS)
def test_of_views_and_ranks(name, shape, layout, dtype, device, rng):
    check_op(
        getattr(sl.ops, name),
        getattr(ref, name),
        inputs_of(name, rng, *shape),
        device=device,
        dtype=dtype,
        layout=layout,
        kind="product",
    )


@pytest.mark.parametrize("given", [(), ("weight",), ("bias",)], ids=str)
@pytest.mark.parametrize("name", ["layer_norm", "rms_norm"])
def test_weights_are_optional(name, given, dtype, device, rng):
    if given == ("bias",) and name == "rms_norm":
        pytest.skip("rms_norm has no bias")
    inputs = {n: a for n, a in inputs_of(name, rng, 4, 37).items() if n == "x" or n in given}
    check_op(
        getattr(sl.ops, name),
        getattr(ref, name),
        inputs,
        device=device,
        dtype=dtype,
        kind="product",
    )


@pytest.mark.parametrize("eps", [1e-12, 1e-5, 0.1])
@pytest.mark.parametrize("name", NORMS)
def test_eps_is_used(name, eps, device, rng):
    inputs = inputs_of(name, rng, 3, 40)
    inputs["x"] *= 1e-3
    if "residual" in inputs:
        inputs["residual"] *= 1e-3
    check_op(getattr(sl.ops, name), getattr(ref, name), inputs, {"eps": eps}, device=device)


@pytest.mark.parametrize("size", [64, 1000, 5000])
def test_a_large_mean_keeps_its_digits(size, isa, device, rng):
    """A variance as E[x^2] - E[x]^2 has no digit left at a mean of 1e4.

    The mean itself is rounded at 1e-3, which every centred value, and so the gradient, carries.
    """
    inputs = inputs_of("layer_norm", rng, 4, size)
    inputs["x"] += 1e4
    check_op(
        sl.ops.layer_norm, ref.layer_norm, inputs, device=device, kind="product", scales={"x": 1e3}
    )


@pytest.mark.parametrize("name", ["layer_norm", "rms_norm"])
def test_constant_and_zero_rows(name, dtype, device):
    x = np.stack([np.zeros(33), np.full(33, 2.0)])
    check_op(getattr(sl.ops, name), getattr(ref, name), {"x": x}, device=device, dtype=dtype)


@pytest.mark.parametrize("size", [1e15, 1e19, 1e25, 1e38])
@pytest.mark.parametrize("n", [5, 64, 1000, 5000])
@pytest.mark.parametrize("name", ["layer_norm", "rms_norm", "add_layer_norm"])
def test_rows_whose_squares_overflow(name, n, size, isa, device, rng):
    """Their sum may overflow as well; rows of the usual size beside them stay exact."""
    inputs = inputs_of(name, rng, 6, n)
    inputs["x"] = inputs["x"].clip(-1.5, 1.5) + 1
    inputs["x"][1::2] *= size
    check_op(
        getattr(sl.ops, name),
        getattr(ref, name),
        inputs,
        device=device,
        kind="product",
        gradients=False,
    )


@pytest.mark.parametrize("size", [1e15, 1e25, 1e37])
@pytest.mark.parametrize("name", ["layer_norm", "rms_norm"])
def test_gradients_of_rows_whose_squares_overflow(name, size, isa, device, rng):
    inputs = inputs_of(name, rng, 3, 40)
    inputs["x"] = (inputs["x"].clip(-1.5, 1.5) + 1) * size
    inputs["weight"] *= size  # the gradient is weight / x
    check_op(getattr(sl.ops, name), getattr(ref, name), inputs, device=device, kind="product")


@pytest.mark.parametrize("n", [2, 3, 7, 33, 768, 5000])
def test_equal_values_of_any_size(n, isa, device):
    """Their variance is nothing, never negative, and their mean is what they are."""
    x = np.float32([1e3, 12345.678, 1e6, 1e8, 1e10, 3.3e12, 1e15, 1e18])
    rows = np.repeat(x[:, None], n, axis=1)
    y = sl.ops.layer_norm(sl.tensor(rows, device=device)).cpu().numpy()
    np.testing.assert_array_equal(y, np.zeros_like(y))
    rows[:] = np.float32(3e38)
    assert np.isfinite(sl.ops.layer_norm(sl.tensor(rows, device=device)).cpu().numpy()).all()


@pytest.mark.parametrize("eps", [1e-40, 1e-60])
@pytest.mark.parametrize("name", ["layer_norm", "rms_norm"])
def test_an_eps_below_float32_is_still_positive(name, eps, device):
    y = getattr(sl.ops, name)(sl.zeros(2, 9, device=device), eps=eps)
    np.testing.assert_array_equal(y.cpu().numpy(), np.zeros((2, 9)))


@pytest.mark.parametrize("shape", [(0, 5), (2, 0, 5), (1, 1)], ids=str)
@pytest.mark.parametrize("name", NORMS)
def test_empty_and_single(name, shape, device, rng):
    inputs = inputs_of(name, rng, *shape)
    check_op(
        getattr(sl.ops, name),
        getattr(ref, name),
        inputs,
        device=device,
        scales=scales_of(inputs),
    )


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("name", ["layer_norm", "rms_norm"])
def test_infinities_and_nan_stay_in_their_row(name, bad, isa, device, rng):
    x = rng.standard_normal((3, 21)).astype(np.float32)
    x[1, 4] = bad
    y = getattr(sl.ops, name)(sl.tensor(x, device=device))
    reference = getattr(ref, name)
    want, own = reference(x.astype(np.float64)), reference(x)
    assert_close_to_reference(y, want, own, dtype="float32", kind="product")


@pytest.mark.parametrize("name", NORMS)
def test_mistakes_are_named(name):
    function = getattr(sl.ops, name)
    x = sl.ones(2, 3)
    first = (x, sl.ones(2, 3)) if "residual" in NORMS[name] else (x,)
    rest = {n: sl.ones(3) for n in NORMS[name] if n != "residual"}
    with refuses(ValueError, name):
        function(*first, **(rest | {"weight": sl.ones(4)}))
    with refuses(ValueError, name):
        function(*first, **rest, eps=0.0)
    with refuses(ValueError, name):
        function(*first, **rest, eps=-1e-5)
    with refuses(ValueError, name):
        function(sl.tensor(1.0), *first[1:], **rest)
    with refuses(TypeError, name):
        function(x.to(dtype="int64"), *first[1:], **rest)
    if "residual" in NORMS[name]:
        with refuses(ValueError, name):
            function(x, sl.ones(2, 4), **rest)
