# SPDX-License-Identifier: Apache-2.0
"""Attention over rows of large scores: a finite number of any size hides nothing by itself."""

from __future__ import annotations

import numpy as np
import pytest

import seqloom as sl
from support import assert_close_to_reference

SIZES = [(4, 4, 8), (1, 9, 8), (70, 70, 64), (1, 300, 64)]
CONSTANTS = [-1e9, -1.6e9, -7.7e9, -1.3e11, -1e12, -1e30, 1e10, 3e12, 1e37]


def drawn(rng, **shapes):
    return {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def expected(q, k, v, g, dtype):
    """Output and gradients where every weight is one in so many, and the sizes of their terms."""
    q, k, v, g = (x.astype(dtype) for x in (q, k, v, g))
    p = dtype(1 / k.shape[2])
    scale = dtype(q.shape[3] ** -0.5)
    dp = g @ v.swapaxes(2, 3)
    ds = p * (dp - p * dp.sum(-1, keepdims=True)) * scale
    results = [p * v.sum(2, keepdims=True) + 0 * g, ds @ k, ds.swapaxes(2, 3) @ q]
    results.append(p * g.sum(2, keepdims=True) + 0 * v)
    size = np.abs(g) @ np.abs(v).swapaxes(2, 3) * scale * p
    sizes = [0, np.abs(size @ np.abs(k)).max(), np.abs(size.swapaxes(2, 3) @ np.abs(q)).max(), 0]
    return results, [2 * float(x) for x in sizes]


@pytest.mark.parametrize("constant", CONSTANTS)
@pytest.mark.parametrize(("queries", "keys", "width"), SIZES)
def test_a_constant_that_swallows_the_scores(queries, keys, width, constant, isa, device, rng):
    shape = (1, 2, keys, width)
    made = drawn(rng, q=(1, 2, queries, width), k=shape, v=shape, g=(1, 2, queries, width))
    q, k, v, g = (made[name] for name in "qkvg")
    tensors = [sl.tensor(x, device=device, requires_grad=True) for x in (q, k, v)]
    mask = sl.full((queries, keys), constant, device=device)
    y = sl.ops.scaled_dot_product_attention(*tensors, mask)
    y.backward(sl.tensor(g, device=device))
    got = [y.detach(), *(t.grad for t in tensors)]
    truth, sizes = expected(q, k, v, g, np.float64)
    yardstick, _ = expected(q, k, v, g, np.float32)
    names = ("output", "query", "key", "value")
    for name, actual, true, way, size in zip(names, got, truth, yardstick, sizes, strict=True):
        values = actual.cpu().numpy()
        assert_close_to_reference(values, true, way, dtype="float32", scale=size, what=name)


@pytest.mark.parametrize("queries", [1, 5])
def test_the_least_numbers_hide_no_row(queries, isa, device, rng):
    made = drawn(rng, q=(1, 2, queries, 16), k=(1, 2, 6, 16), v=(1, 2, 6, 16))
    mask = np.full((queries, 6), np.finfo(np.float32).min, np.float32)
    tensors = (sl.tensor(x, device=device) for x in (made["q"], made["k"], made["v"], mask))
    y = sl.ops.scaled_dot_product_attention(*tensors).cpu().numpy()
    mean = made["v"].astype(np.float64).mean(2, keepdims=True) + np.zeros(y.shape)
    yardstick = made["v"].mean(2, keepdims=True) + np.zeros(y.shape, np.float32)
    assert_close_to_reference(y, mean, yardstick, dtype="float32")


def test_the_larger_of_two_large_scores_wins(isa, device, rng):
    made = drawn(rng, q=(1, 1, 3, 8), k=(1, 1, 6, 8), v=(1, 1, 6, 8))
    mask = np.full((3, 6), -1.5e12, np.float32)
    mask[:, 2] = -1e12
    y = sl.ops.scaled_dot_product_attention(
        *(sl.tensor(made[name], device=device) for name in "qkv"), sl.tensor(mask, device=device)
    )
    np.testing.assert_array_equal(y.cpu().numpy()[0, 0], made["v"][0, 0, [2, 2, 2]])
