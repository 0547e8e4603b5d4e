# SPDX-License-Identifier: Apache-2.0
"""Reference reductions, scans and orderings. ``axis`` is None, an int or a tuple."""

from __future__ import annotations

import math

import numpy as np

from .vjp import op


def _axes(x, axis):
    if axis is None:
        return tuple(range(x.ndim))
    return tuple(a % x.ndim for a in ((axis,) if np.ndim(axis) == 0 else axis))


def _restore(g, x, axis, keepdims):
    """The gradient of a reduced array with its axes back, ready to broadcast to x."""
    g = np.asarray(g)
    return g if keepdims else np.expand_dims(g, _axes(x, axis))


def _count(x, axis):
    return math.prod(x.shape[a] for a in _axes(x, axis))


@op
def sum(x, axis=None, keepdims=False):
    y = np.sum(x, axis=_axes(x, axis), keepdims=keepdims)
    return y, lambda g: {"x": np.broadcast_to(_restore(g, x, axis, keepdims), x.shape)}


@op
def mean(x, axis=None, keepdims=False):
    n = np.asarray(_count(x, axis), x.dtype)
    y = np.sum(x, axis=_axes(x, axis), keepdims=keepdims) / n
    return y, lambda g: {"x": np.broadcast_to(_restore(g, x, axis, keepdims) / n, x.shape)}


@op
def var(x, axis=None, correction=1, keepdims=False):
    """sum((x - mean)^2) / max(0, n - correction): torch's default correction is 1."""
    axes = _axes(x, axis)
    n = np.asarray(_count(x, axis), x.dtype)
    degrees = np.maximum(n - np.asarray(correction, x.dtype), 0)
    centred = x - np.sum(x, axis=axes, keepdims=True) / n
    y = np.sum(centred * centred, axis=axes, keepdims=keepdims) / degrees
    return y, lambda g: {"x": _restore(g, x, axis, keepdims) * 2 * centred / degrees}


@op
def prod(x, axis, keepdims=False):
    """Product over one axis; the gradient is the product of the others, also beside zeros."""
    moved = np.moveaxis(x, axis, -1)
    n = moved.shape[-1]
    others = np.stack(
        [np.prod(np.delete(moved, i, axis=-1), axis=-1) for i in range(n)] or [moved[..., 0:0]],
        axis=-1,
    )

    def backward(g):
        return {"x": _restore(g, x, axis, keepdims) * np.moveaxis(others, -1, axis)}

    return np.prod(x, axis=axis, keepdims=keepdims), backward


def _extreme(x, axis, keepdims, value, argument):
    if axis is None:
        # Without an axis the gradient is shared equally among ties.
        y = value(x)
        ties = (x == y) | (np.isnan(x) & np.isnan(y))
        return y, lambda g: {"x": np.where(ties, g / ties.sum(dtype=x.dtype), 0)}
    # With an axis the first extreme element is the one, and it gets all.
    index = np.expand_dims(argument(x, axis=axis), axis)
    y = np.take_along_axis(x, index, axis)

    def backward(g):
        dx = np.zeros(x.shape, g.dtype)
        np.put_along_axis(dx, index, _restore(g, x, axis, keepdims), axis)
        return {"x": dx}

    if keepdims:
        return (y, index), backward
    return (np.squeeze(y, axis), np.squeeze(index, axis)), backward


@op
def max(x, axis=None, keepdims=False):
    """Without an axis the value; with one (values, indices), the first of equals."""
    return _extreme(x, axis, keepdims, np.max, np.argmax)


@op
def min(x, axis=None, keepdims=False):
    """Without an axis the value; with one (values, indices), the first of equals."""
    return _extreme(x, axis, keepdims, np.min, np.argmin)


@op
def cumsum(x, axis):
    def backward(g):
        return {"x": np.flip(np.cumsum(np.flip(g, axis), axis=axis), axis)}

    return np.cumsum(x, axis=axis), backward


def _take(x, order, axis):
    def backward(g):
        dx = np.zeros(x.shape, g.dtype)
        np.put_along_axis(dx, order, g, axis)
        return {"x": dx}

    return (np.take_along_axis(x, order, axis), order), backward


@op
def sort(x, axis=-1, descending=False):
    """(values, indices), stable."""
    order = np.argsort(-x if descending else x, axis=axis, kind="stable")
    return _take(x, order, axis)


@op
def topk(x, k, axis=-1, largest=True):
    """(values, indices) of the k largest or smallest, in order."""
    order = np.argsort(-x if largest else x, axis=axis, kind="stable")
    return _take(x, np.take(order, np.arange(k), axis=axis), axis)
