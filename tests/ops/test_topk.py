# SPDX-License-Identifier: Apache-2.0
"""The first k of rows that are hard on a partial selection, and where masks are true."""

from __future__ import annotations

import numpy as np
import pytest

import seqloom as sl
from support import np_dtype


def in_order(a: np.ndarray, descending: bool) -> np.ndarray:
    """Positions by value, equal values by position, NaN as the largest."""
    wide = a if a.dtype == np.int64 else a.astype(np.float64)
    hidden = np.zeros(a.shape, bool) if a.dtype == np.int64 else np.isnan(wide)
    values = np.unique(wide[~hidden])
    rank = np.where(hidden, len(values), np.searchsorted(values, np.where(hidden, 0, wide)))
    return np.argsort(-rank if descending else rank, axis=-1, kind="stable")


def row(kind: str, n: int, rng: np.random.Generator) -> np.ndarray:
    if kind == "random":
        return rng.standard_normal(n)
    if kind == "ties":
        return np.round(rng.standard_normal(n) * 3)
    if kind == "rising":
        return np.arange(n) * (200 / n) - 100
    if kind == "falling":
        return 100 - np.arange(n) * (200 / n)
    if kind == "zeros":
        return rng.choice([0.0, -0.0], n)
    a = rng.standard_normal(n)
    if kind == "nan":
        a[rng.random(n) < 0.3] = np.nan
    elif kind == "all nan":
        a[:] = np.nan
    elif kind == "infinite":
        a[rng.random(n) < 0.3] = np.inf
        a[rng.random(n) < 0.3] = -np.inf
    return a


ROWS = ("random", "ties", "rising", "falling", "zeros", "nan", "all nan", "infinite")


def check(a: np.ndarray, k: int, largest: bool, device: str) -> None:
    values, indices = sl.tensor(a, device=device).topk(k, largest=largest)
    expected = in_order(a, largest)[:, :k]
    np.testing.assert_array_equal(indices.cpu().numpy(), expected)
    chosen = np.take_along_axis(a, expected, 1)
    np.testing.assert_array_equal(
        values.cpu().numpy().astype(np.float64), chosen.astype(np.float64)
    )


@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize(
    ("n", "k"), [(64, 2), (70, 16), (512, 1), (1023, 10), (1023, 50), (3001, 64), (2600, 300)]
)
def test_hard_rows(kind, n, k, largest, isa, device, rng):
    check(np.stack([row(kind, n, rng).astype(np.float32) for _ in range(2)]), k, largest, device)


@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize(
    "dtype", ["float16", "bfloat16", "float64", "int64", "int32", "int8", "uint8", "bool"]
)
def test_every_dtype(dtype, largest, isa, device, rng):
    if device == "cuda" and dtype == "float64":
        pytest.skip("float64 is a dtype of the CPU")
    for kind in ROWS if "float" in dtype else ("random", "rising", "falling"):
        a = np.stack([row(kind, n, rng) for n in (1500, 1500)])
        if dtype == "uint8":
            a = np.abs(a)
        if dtype == "int64" and kind == "random":
            a = a * 2.0**60
        a = (a > 0 if dtype == "bool" else a).astype(np_dtype(dtype))
        for k in (7, 40):
            check(a, k, largest, device)


@pytest.mark.parametrize("k", [1000, 2048, 2049, 20000])
def test_many_of_many(k, device, rng):
    check(np.round(rng.standard_normal((1, 20000)) * 1000).astype(np.float32), k, True, device)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 1.0])
@pytest.mark.parametrize(
    "shape",
    [(), (1,), (63,), (300,), (70001,), (0, 3), (7, 5), (257, 300), (1000, 1, 70), (9, 2, 5, 3)],
)
def test_nonzero(shape, share, isa, device, rng):
    mask = rng.random(shape) < share
    a = rng.standard_normal(shape).astype(np.float32)
    got = sl.tensor(a, device=device)[sl.tensor(mask, device=device)]
    np.testing.assert_array_equal(got.cpu().numpy(), a[mask])


def test_nonzero_of_bytes(isa, rng):
    mask = rng.choice(np.array([0, 1, 2, 128, 255], np.uint8), (130, 521))
    got = sl._core.nonzero(sl.tensor(mask))
    for ours, expected in zip(got, np.nonzero(mask), strict=True):
        np.testing.assert_array_equal(ours.numpy(), expected)
