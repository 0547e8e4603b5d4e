# SPDX-License-Identifier: Apache-2.0
"""Reference layer_norm and rms_norm over the last axis, plain and with a residual added."""

from __future__ import annotations

import numpy as np

from .vjp import op


def _affine_gradients(g, normalised, weight, bias):
    """Gradient of the normalised rows, and those of weight and bias where they exist."""
    rows, columns = g.reshape(-1, g.shape[-1]), normalised.reshape(-1, g.shape[-1])
    grads = {}
    if weight is not None:
        grads["weight"] = (rows * columns).sum(axis=0)
    if bias is not None:
        grads["bias"] = rows.sum(axis=0)
    return (g if weight is None else g * weight), grads


@op
def layer_norm(x, weight=None, bias=None, *, eps=1e-5):
    n = np.asarray(max(x.shape[-1], 1), x.dtype)

    def mean(v):
        return v.sum(axis=-1, keepdims=True) / n

    centred = x - mean(x)
    inverse = 1 / np.sqrt(mean(centred * centred) + eps)
    normalised = centred * inverse
    y = normalised if weight is None else normalised * weight
    y = y if bias is None else y + bias

    def backward(g):
        d, grads = _affine_gradients(g, normalised, weight, bias)
        grads["x"] = inverse * (d - mean(d) - normalised * mean(d * normalised))
        return grads

    return y, backward


@op
def rms_norm(x, weight=None, *, eps=1e-6):
    n = np.asarray(max(x.shape[-1], 1), x.dtype)
    inverse = 1 / np.sqrt((x * x).sum(axis=-1, keepdims=True) / n + eps)
    normalised = x * inverse
    y = normalised if weight is None else normalised * weight

    def backward(g):
        d, grads = _affine_gradients(g, normalised, weight, None)
        mean = (d * normalised).sum(axis=-1, keepdims=True) / n
        grads["x"] = inverse * (d - normalised * mean)
        return grads

    return y, backward


def _with_residual(x, residual, norm, *args, **kwargs):
    total = x + residual
    y, norm_backward = norm.vjp(total, *args, **kwargs)

    def backward(g, g_total=None):
        grads = norm_backward(g)
        if g_total is not None:
            grads["x"] = grads["x"] + g_total
        grads["residual"] = grads["x"]
        return grads

    return (y, total), backward


@op
def add_layer_norm(x, residual, weight=None, bias=None, *, eps=1e-5):
    """(layer_norm(x + residual), x + residual)."""
    return _with_residual(x, residual, layer_norm, weight, bias, eps=eps)


@op
def add_rms_norm(x, residual, weight=None, *, eps=1e-6):
    """(rms_norm(x + residual), x + residual)."""
    return _with_residual(x, residual, rms_norm, weight, eps=eps)
