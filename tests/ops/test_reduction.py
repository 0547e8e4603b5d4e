# SPDX-License-Identifier: Apache-2.0
"""Reductions and orderings of the matmul family: sum to topk, with their gradients."""

from __future__ import annotations

import numpy as np
import pytest

import reference as ref
import seqloom as sl
from support import (
    LAYOUTS,
    ODD_SIZES,
    check_op,
    distinct,
    draws,
    make_tensor,
    refuses,
)

REDUCTIONS = ("sum", "mean", "var")
AXES = [None, 0, -1, 1, (0, 2), (0, 1, 2)]


def reduced(name):
    """The Tensor method with the reference's arguments."""

    def call(x, axis=None, keepdims=False):
        return getattr(x, name)(axis, keepdim=keepdims)

    return call


@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions_over_sizes(name, isa, dtype, device, rng):
    for size in ODD_SIZES:
        if name == "var" and size == 1:
            continue  # 0 / 0, tested below
        for layout in ("contiguous", "misaligned"):
            inputs = {"x": rng.standard_normal((3, size)) + 1}
            options = {"axis": -1}
            check_op(
                reduced(name),
                getattr(ref, name),
                inputs,
                options,
                device=device,
                dtype=dtype,
                layout=layout,
            )


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("axis", AXES, ids=str)
@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions_over_axes(name, axis, keepdims, dtype, device, rng):
    if axis is None and keepdims:
        axis = (0, 1, 2)
    check_op(
        reduced(name),
        getattr(ref, name),
        draws(rng, x=(3, 5, 18)),
        {"axis": axis, "keepdims": keepdims},
        device=device,
        dtype=dtype,
    )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("axis", [None, 0, 1], ids=str)
@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions_of_views(name, axis, layout, dtype, device, rng):
    inputs, options = draws(rng, x=(9, 34)), {"axis": axis}
    check_op(
        reduced(name),
        getattr(ref, name),
        inputs,
        options,
        device=device,
        dtype=dtype,
        layout=layout,
    )


@pytest.mark.parametrize("correction", [0, 1, 2])
def test_var_with_correction(correction, dtype, device, rng):
    check_op(
        lambda x, axis, correction: x.var(axis, correction=correction),
        ref.var,
        draws(rng, x=(4, 9)),
        {"axis": 1, "correction": correction},
        device=device,
        dtype=dtype,
    )


def test_var_of_a_large_mean_keeps_its_digits(device, rng):
    """E[x^2] - E[x]^2 in float32 would lose every digit here."""
    inputs = {"x": rng.standard_normal((3, 1000)) + 1e4}
    check_op(reduced("var"), ref.var, inputs, {"axis": 1}, device=device)


@pytest.mark.filterwarnings("ignore")
def test_reductions_of_nothing(device):
    x = sl.zeros(3, 0, device=device)
    np.testing.assert_array_equal(x.sum(1).cpu().numpy(), np.zeros(3, np.float32))
    assert np.isnan(x.mean(1).cpu().numpy()).all()
    assert x.sum(0).shape == (0,)
    assert np.isnan(sl.ones(3, 1, device=device).var(1).cpu().numpy()).all()
    for name in ("max", "min", "argmax"):
        with refuses((ValueError, IndexError), name):
            getattr(x, name)(1)


def test_long_sums_accumulate_in_float32(dtype, device):
    a = np.ones((3, 6000))
    check_op(reduced("sum"), ref.sum, {"x": a}, {"axis": 1}, device=device, dtype=dtype)
    check_op(reduced("mean"), ref.mean, {"x": a.T}, {"axis": 0}, device=device, dtype=dtype)


def test_sums_of_integers_and_bools_are_int64(device):
    for kind in ("int64", "int32", "int8", "uint8", "bool"):
        a = (np.arange(300) % 120).astype(kind).reshape(3, 100)
        y = sl.tensor(a, device=device).sum(1)
        assert y.dtype == sl.int64
        np.testing.assert_array_equal(y.cpu().numpy(), a.sum(1, dtype=np.int64))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["max", "min"])
def test_extremes(name, layout, isa, dtype, device, rng):
    for shape in ((1, 1), (3, 5), (7, 33), (2, 127)):
        for axis in (0, 1, None):
            for keepdims in (False, True) if axis is not None else (False,):
                call = (
                    reduced(name) if axis is not None else (lambda x, name=name: getattr(x, name)())
                )
                check_op(
                    call,
                    getattr(ref, name),
                    {"x": distinct(rng, *shape)},
                    {"axis": axis, "keepdims": keepdims} if axis is not None else {},
                    device=device,
                    dtype=dtype,
                    layout=layout,
                )


def test_ties_share_without_an_axis_and_go_to_the_first_with_one(device):
    a = np.array([[1.0, 3.0, 3.0], [3.0, 0.0, 3.0]])
    check_op(lambda x: x.max(), ref.max, {"x": a}, device=device)
    check_op(lambda x, axis: x.max(axis), ref.max, {"x": a}, {"axis": 1}, device=device)
    check_op(lambda x, axis: x.min(axis), ref.min, {"x": -a}, {"axis": 1}, device=device)
    np.testing.assert_array_equal(sl.tensor(a, device=device).argmax(1).cpu().numpy(), [1, 0])
    assert sl.tensor(a, device=device).argmax().item() == 1


@pytest.mark.parametrize("size", ODD_SIZES)
def test_nan_wins_every_extreme(size, isa, dtype, device, rng):
    a = rng.standard_normal((2, size))
    a[1, size // 2] = np.nan
    x = make_tensor(a, dtype, device)
    for name in ("max", "min"):
        values = getattr(x, name)(1)[0].cpu().numpy().astype(np.float64)
        np.testing.assert_array_equal(np.isnan(values), [False, True])
        assert np.isnan(getattr(x, name)().item())
    assert x.argmax(1).tolist()[1] == size // 2


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_cumsum(axis, layout, dtype, device, rng):
    inputs, options = draws(rng, x=(5, 35)), {"axis": axis}
    check_op(
        lambda x, axis: x.cumsum(axis),
        ref.cumsum,
        inputs,
        options,
        device=device,
        dtype=dtype,
        layout=layout,
    )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("descending", [False, True])
def test_sort(descending, layout, dtype, device, rng):
    for shape, axis in (((1, 1), 0), ((3, 17), -1), ((9, 4), 0), ((2, 100), 1), ((0, 3), 1)):
        check_op(
            lambda x, axis, descending: x.sort(axis, descending),
            ref.sort,
            {"x": distinct(rng, *shape)},
            {"axis": axis, "descending": descending},
            device=device,
            dtype=dtype,
            layout=layout,
        )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("largest", [True, False])
def test_topk(largest, layout, dtype, device, rng):
    for shape, k, axis in (((1, 1), 1, 0), ((3, 17), 5, -1), ((9, 4), 2, 0), ((2, 100), 100, 1)):
        check_op(
            lambda x, k, axis, largest: x.topk(k, axis, largest),
            ref.topk,
            {"x": distinct(rng, *shape)},
            {"k": k, "axis": axis, "largest": largest},
            device=device,
            dtype=dtype,
            layout=layout,
        )


@pytest.mark.parametrize(
    ("error", "name", "call"),
    [
        ((ValueError, IndexError), "sum", lambda x: x.sum(2)),
        ((ValueError, IndexError), "mean", lambda x: x.mean(-3)),
        (ValueError, "sum", lambda x: x.sum((0, 0))),
        ((ValueError, IndexError), "cumsum", lambda x: x.cumsum(5)),
        (ValueError, "topk", lambda x: x.topk(5)),
        (TypeError, "mean", lambda x: x.to(dtype="int64").mean()),
    ],
)
def test_mistakes_are_named(error, name, call):
    with refuses(error, name):
        call(sl.ones(3, 4))
