# SPDX-License-Identifier: Apache-2.0
"""softmax and log_softmax."""

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

OPS = {
    "softmax": (sl.ops.softmax, ref.softmax),
    "log_softmax": (sl.ops.log_softmax, ref.log_softmax),
}

# The gradient is what remains of the output gradient, and may start from the rounded output.
SCALES = {"x": 1.0}


@pytest.mark.parametrize("name", OPS)
def test_over_sizes_and_alignments(name, isa, dtype, device, rng):
    function, reference = OPS[name]
    for size in (*ODD_SIZES, 1000):
        for layout in ("contiguous", "misaligned"):
            inputs = {"x": rng.standard_normal((3, size)) * 3}
            check_op(
                function,
                reference,
                inputs,
                device=device,
                dtype=dtype,
                layout=layout,
                scales=SCALES,
            )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("axis", [-1, 0, 1, -2])
@pytest.mark.parametrize("name", OPS)
def test_over_axes(name, axis, layout, dtype, device, rng):
    function, reference = OPS[name]
    check_op(
        function,
        reference,
        draws(rng, x=(4, 5, 18)),
        {"axis": axis},
        device=device,
        dtype=dtype,
        layout=layout,
        scales=SCALES,
    )


# Columns around the vectors and the strips of them, axes around the pieces of a strip, and one that
# is too long to be kept.
@pytest.mark.parametrize("inner", [2, 16, 17, 64, 83, 136])
@pytest.mark.parametrize("length", [1, 3, 9, 20, 63, 65, 130, 1100])
@pytest.mark.parametrize("name", OPS)
def test_columns(name, length, inner, isa, device, rng):
    function, reference = OPS[name]
    check_op(
        function,
        reference,
        {"x": rng.standard_normal((2, length, inner)) * 3},
        {"axis": 1},
        device=device,
        kind="long",
        scales=SCALES,
    )


@pytest.mark.parametrize("name", OPS)
def test_a_long_axis_before_few_columns(name, isa, device, rng):
    function, reference = OPS[name]
    inputs = {"x": rng.standard_normal((9001, 3)) * 3}
    options = {"axis": 0}
    check_op(function, reference, inputs, options, device=device, kind="long", scales=SCALES)


@pytest.mark.parametrize("inner", [3, 64])
@pytest.mark.parametrize("name", OPS)
def test_special_columns(name, inner, isa, dtype, device, rng):
    function, reference = OPS[name]
    x = rng.standard_normal((200, inner))
    x[:, 0] -= np.linspace(-40, 40, 200)
    x[:150, 1] = -np.inf
    x[150:, 1] -= 300  # far below the 0 that stands for a maximum of nothing
    x[7, 2] = np.nan
    if inner > 3:
        x[:, 3] = -np.inf
        x[180, 4] = np.inf
        x[3:, 5] = -np.inf
        x[:, 6] = x[:, 6] * 1e3 + 6e4
    exact = rounded(x, dtype)
    with np.errstate(all="ignore"):
        want, own = reference(exact, 0), reference(exact.astype(np.float32), 0)
    y = function(make_tensor(x, dtype, device), axis=0)
    assert_close_to_reference(y, want, own, dtype=dtype)


@pytest.mark.parametrize("far", [-90.0, -200.0, -1e4])
@pytest.mark.parametrize("name", OPS)
def test_what_follows_pieces_of_nothing_may_be_small(name, far, isa, device, rng):
    x = rounded(rng.standard_normal((3, 3001)) + far, "float32")
    x[0, :700] = x[1, :3000] = x[2, 600:2900] = -np.inf
    y = OPS[name][0](make_tensor(x, "float32", device))
    reference = OPS[name][1]
    assert_close_to_reference(y, reference(x), reference(x.astype(np.float32)), dtype="float32")


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("name", OPS)
def test_few_long_rows(name, rows, isa, dtype, device, rng):
    function, reference = OPS[name]
    inputs = {"x": rng.standard_normal((rows, 50257)) * 4}
    check_op(function, reference, inputs, device=device, dtype=dtype, kind="long", scales=SCALES)


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 3), (1, 1)], ids=str)
@pytest.mark.parametrize("name", OPS)
def test_empty_and_single(name, shape, device, rng):
    function, reference = OPS[name]
    check_op(function, reference, {"x": rng.standard_normal(shape)}, device=device)


@pytest.mark.parametrize("name", OPS)
def test_in_float64(name, rng):
    function, reference = OPS[name]
    check_op(function, reference, draws(rng, x=(4, 9)), dtype="float64")


@pytest.mark.parametrize("size", [1, 4, 17, 64, 100])
@pytest.mark.parametrize("name", OPS)
def test_special_rows_do_as_the_formula_does(name, size, isa, dtype, device, rng):
    """+inf, NaN or nothing but -inf make a row NaN; some -inf and huge values do not."""
    function, reference = OPS[name]
    x = rng.standard_normal((7, size))
    x[1, size // 2] = np.inf
    x[2, size // 3] = np.nan
    x[3] = -np.inf
    x[4, 1:] = -np.inf
    x[5] = x[5] * 1e3 + 6e4
    x[6] *= 1e-30
    exact = rounded(x, dtype)
    own = reference(exact.astype(np.float32))
    y = function(make_tensor(x, dtype, device))
    assert_close_to_reference(y, reference(exact), own, dtype=dtype)


@pytest.mark.parametrize("name", OPS)
def test_a_shift_changes_nothing(name, device, rng):
    function, reference = OPS[name]
    x = rng.integers(-8, 8, (3, 50)).astype(np.float64)
    check_op(function, reference, {"x": x + 2.0**20}, device=device)


def test_softmax_rows_sum_to_one(dtype, device, rng):
    y = sl.ops.softmax(make_tensor(rng.standard_normal((5, 333)), dtype, device))
    total = y.cpu().numpy().astype(np.float64).sum(-1)
    assert_close_to_reference(total, np.ones(5), np.ones(5), dtype=dtype, kind="product")


@pytest.mark.parametrize("name", OPS)
def test_numpy_in_numpy_out(name, rng):
    function, reference = OPS[name]
    x = rng.standard_normal((3, 5)).astype(np.float32)
    y = function(x, axis=0)
    assert type(y) is np.ndarray
    own = reference(x, 0)
    assert_close_to_reference(y, reference(x.astype(np.float64), 0), own, dtype="float32")


@pytest.mark.parametrize("name", OPS)
def test_mistakes_are_named(name):
    function = OPS[name][0]
    with refuses((ValueError, IndexError), name):
        function(sl.ones(2, 3), axis=2)
    with refuses((ValueError, IndexError), name):
        function(sl.ones(2, 3), axis=-3)
    with refuses(TypeError, name):
        function(sl.ones(2, 3).to(dtype="int64"))
    with refuses(TypeError, name):
        function(sl.ones(2, 3), axis="last")
    with refuses(TypeError, name):
        function("rows")


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_rows_of_several_pieces(name, isa, dtype, device, rng):
    """The maximum grows, falls and is -inf from piece to piece."""
    x = rng.standard_normal((6, 3001))
    x[1] += np.linspace(-40, 40, 3001)
    x[2] -= np.linspace(-40, 40, 3001)
    x[3, :1300] = -np.inf
    x[4, 600:2900] = -np.inf
    x[5, :3000] = -np.inf
    x = rounded(x, dtype)
    y = getattr(sl.ops, name)(make_tensor(x, dtype, device))
    exact = getattr(ref, name)(x)
    own = getattr(ref, name)(x.astype(np.float32))
    assert_close_to_reference(y, exact, own, dtype=dtype)


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("at", [3, 700, 1999])
def test_one_bad_value_reaches_the_whole_row(name, bad, at, isa, device, rng):
    x = rng.standard_normal((3, 2000)).astype(np.float32)
    x[1, at] = bad
    x[2] = -np.inf
    y = getattr(sl.ops, name)(make_tensor(x, "float32", device)).cpu().numpy()
    assert np.isfinite(y[0]).all()
    assert np.isnan(y[1, at])
    with np.errstate(all="ignore"):
        want = getattr(ref, name)(x.astype(np.float64))
    np.testing.assert_array_equal(np.isnan(y), np.isnan(want))
