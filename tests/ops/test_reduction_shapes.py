# SPDX-License-Identifier: Apache-2.0
"""Reductions over long rows and columns, of every dtype, of nothing, and independent of threads."""

from __future__ import annotations

import numpy as np
import pytest

import reference as ref
import seqloom as sl
from support import assert_close_to_reference, check_op, make_tensor, refuses, to_float64

# Longer than one block of rows (4096) and of columns (256), and not a multiple of either.
SHAPES = [((2, 9001), 1), ((3, 4097), 1), ((700, 37), 0), ((2, 300, 5), 1), ((257, 130), 0)]


@pytest.mark.parametrize(("shape", "axis"), SHAPES, ids=str)
@pytest.mark.parametrize("name", ["sum", "mean", "var", "max", "min"])
def test_many_blocks(name, shape, axis, isa, dtype, device, rng):
    if device == "cuda" and np.prod(shape) > 20000:
        pytest.skip("slow under emulation")
    x = rng.standard_normal(shape) + 1
    method = {"x": x}
    check_op(
        lambda x, axis: getattr(x, name)(axis),
        getattr(ref, name),
        method,
        {"axis": axis},
        device=device,
        dtype=dtype,
        gradients=name in ("sum", "var"),
        positive=True,
    )


def logsumexp(x, axis):
    top = x.max(axis, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        top = np.where(np.isinf(top), 0, top)
        y = np.log(np.exp(x - top).sum(axis)) + top.squeeze(axis)
        share = np.exp(x - np.expand_dims(y, axis))
    return y, lambda g: {"x": np.expand_dims(g, axis) * share}


@pytest.mark.parametrize("shape", [(1, 20000), (20000, 1), (2, 9001)], ids=str)
def test_long_columns_are_shared_by_blocks(shape, dtype, device, rng):
    axis = int(np.argmax(shape))
    x = rng.standard_normal(shape) + 1
    options = {"axis": axis}
    for function, reference in (
        (lambda x, axis: x.sum(axis), ref.sum),
        (lambda x, axis: x.var(axis), ref.var),
        (lambda x, axis: x.logsumexp(axis), ref.Op(logsumexp)),
    ):
        check_op(
            function, reference, {"x": x}, options, device=device, dtype=dtype, gradients=False
        )
    t = make_tensor(x, dtype, device)
    exact = to_float64(t)
    np.testing.assert_array_equal(t.argmax(axis).cpu().numpy(), exact.argmax(axis))
    np.testing.assert_array_equal(t.argmin(axis).cpu().numpy(), exact.argmin(axis))


@pytest.mark.parametrize("axis", [0, 1])
def test_logsumexp_and_its_gradient(axis, isa, dtype, device, rng):
    check_op(
        lambda x, axis: x.logsumexp(axis),
        ref.Op(logsumexp),
        {"x": rng.standard_normal((9, 37)) * 4},
        {"axis": axis},
        device=device,
        dtype=dtype,
        kind="product",
    )


def test_threads_do_not_change_bits(device, rng):
    if device == "cuda":
        pytest.skip("threads are the CPU's")
    x = sl.tensor(rng.standard_normal((300, 1001)).astype(np.float32))
    results = []
    before = sl.get_num_threads()
    try:
        for threads in (1, 2, 4):
            sl.set_num_threads(threads)
            results.append(
                [t.numpy() for t in (x.sum(), x.sum(0), x.var(), x.cumsum(0), x.mean(1))]
            )
    finally:
        sl.set_num_threads(before)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", ["int64", "int32", "int8", "uint8", "bool"])
def test_integers_reduce(kind, isa, device, rng):
    a = (rng.integers(0, 5, (7, 19)) - (2 if kind in ("int64", "int32", "int8") else 0)).astype(
        kind
    )
    x = sl.tensor(a, device=device)
    for axis in (None, 0, 1):
        np.testing.assert_array_equal(x.sum(axis).cpu().numpy(), a.sum(axis, dtype=np.int64))
        np.testing.assert_array_equal(x.prod(axis).cpu().numpy(), a.prod(axis, dtype=np.int64))
        np.testing.assert_array_equal(x.any(axis).cpu().numpy(), a.any(axis))
        np.testing.assert_array_equal(x.all(axis).cpu().numpy(), a.all(axis))
    for axis in (0, 1):
        np.testing.assert_array_equal(x.max(axis)[0].cpu().numpy(), a.max(axis))
        np.testing.assert_array_equal(x.max(axis)[1].cpu().numpy(), a.argmax(axis))
        np.testing.assert_array_equal(x.min(axis)[0].cpu().numpy(), a.min(axis))
        np.testing.assert_array_equal(x.argmin(axis).cpu().numpy(), a.argmin(axis))
        np.testing.assert_array_equal(x.cumsum(axis).cpu().numpy(), a.cumsum(axis, dtype=np.int64))


def test_logsumexp_of_extremes(isa, dtype, device):
    inf, nan = np.inf, np.nan
    rows = np.array([[0, 0], [-inf, -inf], [inf, 1], [-inf, 3], [1e4, 1e4], [nan, 0], [-inf, inf]])
    want = np.array([np.log(2), -inf, inf, 3.0, 1e4 + np.log(2), nan, inf])
    want[4] += to_float64(make_tensor(1e4, dtype)).item() - 1e4
    got = make_tensor(rows, dtype, device).logsumexp(1)
    assert_close_to_reference(got, want, dtype=dtype)
    got = make_tensor(rows.T, dtype, device).logsumexp(0)
    assert_close_to_reference(got, want, dtype=dtype)


def test_prod_beside_zeros(dtype, device):
    a = np.array([[2.0, 0.0, 3.0], [0.0, 0.0, 3.0], [1.0, 2.0, 4.0]])
    check_op(
        lambda x, axis: x.prod(axis), ref.prod, {"x": a}, {"axis": 1}, device=device, dtype=dtype
    )
    check_op(
        lambda x, axis: x.prod(axis), ref.prod, {"x": a}, {"axis": 0}, device=device, dtype=dtype
    )


def test_axes_that_are_not_neighbours(isa, dtype, device, rng):
    for axis in ((0, 2), (0, 3), (1, 3), (0, 1, 3), (-1, 0)):
        check_op(
            lambda x, axis: x.sum(axis),
            ref.sum,
            {"x": rng.standard_normal((2, 3, 4, 5)) + 2},
            {"axis": axis},
            device=device,
            dtype=dtype,
        )


def test_reductions_of_empty_axes(device):
    x = sl.zeros(2, 0, 3, device=device)
    assert x.sum(1).tolist() == [[0.0] * 3] * 2
    assert x.prod(1).tolist() == [[1.0] * 3] * 2
    assert x.any(1).tolist() == [[False] * 3] * 2
    assert x.all(1).tolist() == [[True] * 3] * 2
    assert np.isneginf(x.logsumexp(1).cpu().numpy()).all()
    assert x.cumsum(1).shape == (2, 0, 3)
    assert x.max(0)[0].shape == (0, 3)
    with refuses(ValueError, "max"):
        x.max()
    with refuses(ValueError, "argmin"):
        x.argmin(1)
    with refuses(ValueError, "max"):
        sl.ones(2, 3, device=device).max((0, 1))


def test_scalars_reduce_to_themselves(dtype, device):
    x = make_tensor(np.array(3.0), dtype, device)
    for y in (x.sum(), x.mean(), x.prod(), x.max(), x.min(), x.sum(0), x.logsumexp(-1)):
        assert y.shape == ()
        assert y.item() == 3.0
    assert x.argmax().item() == 0
    assert x.max(0)[1].item() == 0
