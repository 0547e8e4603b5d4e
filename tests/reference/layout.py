# SPDX-License-Identifier: Apache-2.0
"""Layout reference ops: everything that moves elements, and the lookups."""

from __future__ import annotations

import numpy as np

from .vjp import op


@op
def rearrange(*arrays, function):
    """``function(*arrays)`` for a function that only moves, repeats or drops elements.

    The function is applied to the elements' numbers, so that the backward of every
    reshape, view, slice, index, expand, cat, stack, sort order... is the same scatter-add.
    Gradients are named "0", "1", ... in the order of the arrays.
    """
    sizes = [a.size for a in arrays]
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    numbers = [
        np.arange(s, s + n).reshape(a.shape) for a, s, n in zip(arrays, starts, sizes, strict=False)
    ]
    index = np.asarray(function(*numbers))
    flat = np.concatenate([a.ravel() for a in arrays])

    def backward(g):
        total = np.zeros(flat.size, g.dtype)
        np.add.at(total, index.ravel(), np.asarray(g).ravel())
        return {
            str(i): total[starts[i] : starts[i + 1]].reshape(a.shape) for i, a in enumerate(arrays)
        }

    return flat[index], backward


@op
def gather(x, index, axis):
    """y[i, j, ...] = x[.., index[i, j, ...], ..]: torch.gather; index may cover a part of x."""
    axis %= x.ndim
    where = list(np.indices(index.shape, sparse=True)) if index.ndim else []
    where[axis] = index
    where = tuple(where)

    def backward(g):
        dx = np.zeros(x.shape, g.dtype)
        np.add.at(dx, where, g)
        return {"x": dx}

    return x[where], backward


@op
def tril(x, diagonal=0):
    return np.tril(x, diagonal), lambda g: {"x": np.tril(g, diagonal)}


@op
def triu(x, diagonal=0):
    return np.triu(x, diagonal), lambda g: {"x": np.triu(g, diagonal)}


@op
def pad(x, widths, value=0.0):
    """Constant padding; widths is NumPy's list of (before, after), one pair an axis."""
    inner = tuple(slice(b, b + n) for (b, _), n in zip(widths, x.shape, strict=True))
    return np.pad(x, widths, constant_values=value), lambda g: {"x": g[inner]}


@op
def embedding(ids, weight, *, padding_idx=None):
    """Rows of weight; the row padding_idx is read as any other and gets no gradient."""

    def backward(g):
        dw = np.zeros(weight.shape, g.dtype)
        np.add.at(dw, ids, g)
        if padding_idx is not None:
            dw[padding_idx] = 0
        return {"weight": dw}

    return weight[ids], backward
