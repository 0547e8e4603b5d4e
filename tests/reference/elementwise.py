# SPDX-License-Identifier: Apache-2.0
"""Elementwise reference ops: arithmetic, activations, gates, dropout, rotary positions."""

from __future__ import annotations

import math

import numpy as np

from .vjp import op, unbroadcast

_erf_object = np.frompyfunc(math.erf, 1, 1)


def erf(x):
    """The error function, correctly rounded to within an ulp of x's dtype."""
    x = np.asarray(x)
    return np.asarray(_erf_object(x.astype(np.float64)), dtype=np.float64).astype(x.dtype)


# --- arithmetic with broadcasting -------------------------------------------------------


@op
def add(a, b):
    return a + b, lambda g: {"a": unbroadcast(g, np.shape(a)), "b": unbroadcast(g, np.shape(b))}


@op
def subtract(a, b):
    return a - b, lambda g: {"a": unbroadcast(g, np.shape(a)), "b": unbroadcast(-g, np.shape(b))}


@op
def multiply(a, b):
    def backward(g):
        return {"a": unbroadcast(g * b, np.shape(a)), "b": unbroadcast(g * a, np.shape(b))}

    return a * b, backward


@op
def divide(a, b):
    def backward(g):
        return {
            "a": unbroadcast(g / b, np.shape(a)),
            "b": unbroadcast(-g * (a / b) / b, np.shape(b)),
        }

    return a / b, backward


@op
def power(a, b):
    """a ** b; 0 ** 0 is 1 with no gradient, and 0 ** b has none for b, as in torch."""
    y = np.power(a, b)

    def backward(g):
        da = np.where(np.equal(b, 0), 0, g * b * np.power(a, b - 1))
        db = np.where(np.equal(a, 0) & np.greater_equal(b, 0), 0, g * y * np.log(a))
        dtype = np.asarray(g).dtype
        return {
            "a": unbroadcast(da, np.shape(a)).astype(dtype),
            "b": unbroadcast(db, np.shape(b)).astype(dtype),
        }

    return y, backward


def _extremum(function, a, b):
    def backward(g):
        # Ties share the gradient equally, as torch.maximum and torch.minimum do.
        y = function(a, b)
        to_a = np.where(np.equal(a, b), 0.5, np.equal(y, a)).astype(g.dtype)
        return {
            "a": unbroadcast(g * to_a, np.shape(a)),
            "b": unbroadcast(g - g * to_a, np.shape(b)),
        }

    return function(a, b), backward


@op
def maximum(a, b):
    return _extremum(np.maximum, a, b)


@op
def minimum(a, b):
    return _extremum(np.minimum, a, b)


@op
def where(condition, a, b):
    def backward(g):
        return {
            "a": unbroadcast(np.where(condition, g, 0), np.shape(a)),
            "b": unbroadcast(np.where(condition, 0, g), np.shape(b)),
        }

    return np.where(condition, a, b), backward


@op
def masked_fill(x, mask, value):
    """``value`` (a number) where mask is True. The mask broadcasts to x."""
    return np.where(mask, np.asarray(value, x.dtype), x), lambda g: {"x": np.where(mask, 0, g)}


@op
def clamp(x, min=None, max=None):
    """Limits to [min, max]; the gradient passes inside and on the limits."""
    inside = np.ones(np.shape(x), bool)
    if min is not None:
        inside &= x >= min
    if max is not None:
        inside &= x <= max
    y = x
    if min is not None:
        y = np.maximum(y, np.asarray(min, x.dtype))
    if max is not None:
        y = np.minimum(y, np.asarray(max, x.dtype))
    return y, lambda g: {"x": np.where(inside | np.isnan(x), g, 0)}


# --- functions of one variable ----------------------------------------------------------


@op
def negative(x):
    return -x, lambda g: {"x": -g}


@op
def absolute(x):
    return np.abs(x), lambda g: {"x": g * np.sign(x)}


@op
def exp(x):
    y = np.exp(x)
    return y, lambda g: {"x": g * y}


@op
def log(x):
    return np.log(x), lambda g: {"x": g / x}


@op
def sqrt(x):
    y = np.sqrt(x)
    return y, lambda g: {"x": g / (2 * y)}


@op
def tanh(x):
    y = np.tanh(x)
    return y, lambda g: {"x": g * (1 - y) * (1 + y)}


def logistic(x):
    """1 / (1 + exp(-x)) without overflow."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e)).astype(np.asarray(x).dtype)


@op
def sigmoid(x):
    y = logistic(x)
    return y, lambda g: {"x": g * y * logistic(-x)}


@op
def relu(x):
    # maximum(x, 0) keeps NaN; the gradient at zero is zero.
    return np.maximum(x, np.asarray(0, x.dtype)), lambda g: {"x": np.where(x > 0, g, 0)}


_INV_SQRT_2 = 1 / math.sqrt(2)
_INV_SQRT_2PI = 1 / math.sqrt(2 * math.pi)
_SQRT_2_OVER_PI = math.sqrt(2 / math.pi)
_GELU_CUBIC = 0.044715


def _gelu_value_and_slope(x, approximate):
    if approximate == "none":
        # x * Phi(x); 1 + erf cancels for x << 0, erfc does not matter in float64 here.
        cdf = 0.5 * (1 + erf(x * _INV_SQRT_2))
        return x * cdf, cdf + x * _INV_SQRT_2PI * np.exp(-0.5 * x * x)
    if approximate == "tanh":
        inner = np.tanh(_SQRT_2_OVER_PI * (x + _GELU_CUBIC * x * x * x))
        d_inner = (1 - inner * inner) * _SQRT_2_OVER_PI * (1 + 3 * _GELU_CUBIC * x * x)
        return 0.5 * x * (1 + inner), 0.5 * (1 + inner) + 0.5 * x * d_inner
    raise ValueError(f"approximate must be 'none' or 'tanh', got {approximate!r}")


def _silu_value_and_slope(x):
    s = logistic(x)
    return x * s, s * (1 + x * logistic(-x))


@op
def gelu(x, approximate="none"):
    y, slope = _gelu_value_and_slope(x, approximate)
    return y, lambda g: {"x": g * slope}


@op
def silu(x):
    y, slope = _silu_value_and_slope(x)
    return y, lambda g: {"x": g * slope}


@op
def swiglu(gate, up):
    """silu(gate) * up."""
    y, slope = _silu_value_and_slope(gate)
    return y * up, lambda g: {"gate": g * up * slope, "up": g * y}


@op
def geglu(gate, up):
    """gelu(gate) * up, with the exact gelu."""
    y, slope = _gelu_value_and_slope(gate, "none")
    return y * up, lambda g: {"gate": g * up * slope, "up": g * y}


ACTIVATIONS = {
    "relu": (relu, {}),
    "gelu": (gelu, {}),
    "gelu_tanh": (gelu, {"approximate": "tanh"}),
    "silu": (silu, {}),
    "tanh": (tanh, {}),
    "sigmoid": (sigmoid, {}),
}


@op
def dropout(x, keep, p=0.5):
    """x * keep / (1 - p) for a given mask; p = 1 gives zeros."""
    factor = np.zeros_like(x) if p == 1 else keep.astype(x.dtype) / (1 - p)
    return x * factor, lambda g: {"x": g * factor}


# --- rotary positions -------------------------------------------------------------------


def _rotary_halves(rotated, interleaved):
    if interleaved:
        return (..., slice(0, rotated, 2)), (..., slice(1, rotated, 2))
    half = rotated // 2
    return (..., slice(0, half)), (..., slice(half, rotated))


@op
def rotary_embedding(x, cos, sin, *, interleaved=False):
    """Rotate pairs of x [B, H, T, D] by the angles of cos, sin [T, R/2] or [B, T, R/2].

    Pairs are (k, k + R/2), or (2k, 2k + 1) when interleaved. Columns R..D pass through.
    """
    first, second = _rotary_halves(2 * cos.shape[-1], interleaved)
    if cos.ndim == 3:  # a table a batch row: [B, T, R/2] -> [B, 1, T, R/2]
        cos, sin = cos[:, None], sin[:, None]

    def rotate(v, s):
        out = v.copy()
        out[first] = v[first] * cos - v[second] * s
        out[second] = v[second] * cos + v[first] * s
        return out

    return rotate(x, sin), lambda g: {"x": rotate(g, -sin)}
