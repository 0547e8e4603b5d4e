# SPDX-License-Identifier: Apache-2.0
"""Activations, gates, dropout, and the chains that models use as one kernel each."""

from __future__ import annotations

from typing import Any

from .. import _core
from ..autograd import Node, record
from ..tensor import Tensor
from ._arrays import public

__all__ = [
    "bias_activation",
    "dropout",
    "dropout_add",
    "geglu",
    "gelu",
    "relu",
    "scale_mask",
    "sigmoid",
    "silu",
    "swiglu",
    "tanh",
]

Gradients = tuple["Tensor | None", ...]


# ---- functions of one variable ------------------------------------------------------------------


@public
def relu(x: Tensor) -> Tensor:
    """max(x, 0), element by element.

    Parameters
    ----------
    x : array, any shape

    Returns
    -------
    array with the shape and dtype of x

    Examples
    --------
    >>> import numpy as np, seqloom as sl
    >>> sl.ops.relu(np.array([-1.0, 2.0], np.float32))
    array([0., 2.], dtype=float32)
    """
    y = _core.relu(x)
    if y.requires_grad:
        record(y, "relu", (x,), _relu_backward, (y.detach(),))
    return y


def _relu_backward(node: Node, gradient: Tensor) -> Tensor:
    (y,) = node.saved_tensors()
    return _core.relu_backward(gradient, y)


@public
def gelu(x: Tensor, approximate: str = "none") -> Tensor:
    """x Phi(x), Phi being the normal distribution function, element by element.

    Parameters
    ----------
    x : array, any shape
    approximate : {"none", "tanh"}
        "tanh" takes 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), as GPT-2 does.

    Returns
    -------
    array with the shape and dtype of x

    Examples
    --------
    >>> import numpy as np, seqloom as sl
    >>> sl.ops.gelu(np.array([0.0, 3.0], np.float32)).round(3)
    array([0.   , 2.996], dtype=float32)
    """
    if approximate == "none":
        y = _core.gelu(x)
    elif approximate == "tanh":
        y = _core.gelu_tanh(x)
    else:
        raise ValueError(f"gelu: approximate must be 'none' or 'tanh', got {approximate!r}")
    if y.requires_grad:
        record(y, "gelu", (x,), _gelu_backward, (x,), approximate)
    return y


def _gelu_backward(node: Node, gradient: Tensor) -> Tensor:
    (x,) = node.saved_tensors()
    kernel = _core.gelu_backward if node.context == "none" else _core.gelu_tanh_backward
    return kernel(gradient, x)


@public
def silu(x: Tensor) -> Tensor:
    """x sigmoid(x), element by element.

    Parameters
    ----------
    x : array, any shape

    Returns
    -------
    array with the shape and dtype of x

    Examples
    --------
    >>> import numpy as np, seqloom as sl
    >>> sl.ops.silu(np.array([0.0, 10.0], np.float32)).round(3)
    array([ 0., 10.], dtype=float32)
    """
    y = _core.silu(x)
    if y.requires_grad:
        record(y, "silu", (x,), _silu_backward, (x,))
    return y


def _silu_backward(node: Node, gradient: Tensor) -> Tensor:
    (x,) = node.saved_tensors()
    return _core.silu_backward(gradient, x)


@public
def tanh(x: Tensor) -> Tensor:
    """The hyperbolic tangent, element by element.

    Parameters
    ----------
    x : array, any shape

    Returns
    -------
    array with the shape and dtype of x

    Examples
    --------
    >>> import numpy as np, seqloom as sl
    >>> sl.ops.tanh(np.array([0.0, 20.0], np.float32))
    array([0., 1.], dtype=float32)
    """
    y = _core.tanh(x)
    if y.requires_grad:
        record(y, "tanh", (x,), _tanh_backward, (y.detach(),))
    return y


def _tanh_backward(node: Node, gradient: Tensor) -> Tensor:
    (y,) = node.saved_tensors()
    return _core.tanh_backward(gradient, y)


@public
def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x)), element by element.

    Parameters
    ----------
    x : array, any shape

    Returns
    -------
    array with the shape and dtype of x

    Examples
    --------
    >>> import numpy as np, seqloom as sl
    >>> sl.ops.sigmoid(np.array([0.0, 100.0], np.float32))
    array([0.5, 1. ], dtype=float32)
    """
    y = _core.sigmoid(x)
    if y.requires_grad:
        record(y, "sigmoid", (x,), _sigmoid_backward, (y.detach(),))
    return y


def _sigmoid_backward(node: Node, gradient: Tensor) -> Tensor:
    (y,) = node.saved_tensors()
    return _core.sigmoid_backward(gradient, y)


# ---- gates --------------------------------------------------------------------------------------


@public
def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up in one kernel.

    Parameters
    ----------
    gate, up : array, any shape, the same for both

    Returns
    -------
    array with the shape and dtype of gate

    Examples
    --------
    >>> import numpy as np, seqloom as sl
    >>> sl.ops.swiglu(np.zeros(2, np.float32), np.ones(2, np.float32))
    array([0., 0.], dtype=float32)
    """
    y = _core.swiglu(gate, up)
    if gate._needs_grad or up._needs_grad:
        record(y, "swiglu", (gate, up), _swiglu_backward, (gate, up))
    return y


def _swiglu_backward(node: Node, gradient: Tensor) -> Gradients:
    gate, up = node.saved_tensors()
    return _core.swiglu_backward(gradient, gate, up)


@public
def geglu(gate: Tensor, up: Tensor) -> Tensor:
    """gelu(gate) * up in one kernel, with the exact gelu.

    Parameters
    ----------
    gate, up : array, any shape, the same for both

    Returns
    -------
    array with the shape and dtype of gate

    Examples
    --------
    >>> import numpy as np, seqloom as sl
    >>> sl.ops.geglu(np.zeros(2, np.float32), np.ones(2, np.float32))
    array([0., 0.], dtype=float32)
    """
    y = _core.geglu(gate, up)
    if gate._needs_grad or up._needs_grad:
        record(y, "geglu", (gate, up), _geglu_backward, (gate, up))
    return y


def _geglu_backward(node: Node, gradient: Tensor) -> Gradients:
    gate, up = node.saved_tensors()
    return _core.geglu_backward(gradient, gate, up)


# ---- dropout ------------------------------------------------------------------------------------


def _probability(op: str, p: Any) -> float:
    if isinstance(p, bool) or not isinstance(p, (int, float)):
        raise TypeError(f"{op}: p must be a number, got {type(p).__name__}")
    if not 0 <= p <= 1:
        raise ValueError(f"{op}: p must be in [0, 1], got {p}")
    return float(p)


def _key(op: str, seed: int | None, count: int) -> tuple[int, int]:
    """Seed and offset of `count` random numbers: the default stream's, or a stream's own."""
    if seed is None:
        return _core.next_random_key(count)
    if not isinstance(seed, int):
        raise TypeError(f"{op}: seed must be an integer, got {type(seed).__name__}")
    return seed % 2**64, 0


@public
def dropout(x: Tensor, p: float = 0.5, *, training: bool = True, seed: int | None = None) -> Tensor:
    """Zero each element with probability p and scale the others by 1 / (1 - p).

    No mask is kept: backward draws the same numbers again.

    Parameters
    ----------
    x : array, any shape
    p : float
        In [0, 1].
    training : bool
        False gives x.
    seed : int, optional
        A stream of its own; otherwise the default one (:func:`seqloom.manual_seed`).

    Returns
    -------
    array with the shape and dtype of x

    Examples
    --------
    >>> import numpy as np, seqloom as sl
    >>> sorted(set(sl.ops.dropout(np.ones(99, np.float32), 0.5, seed=1).tolist()))
    [0.0, 2.0]
    """
    p = _probability("dropout", p)
    if not training or p == 0:
        return x
    key = _key("dropout", seed, x.size)
    y = _core.dropout(x, p, *key)
    if x._needs_grad:
        record(y, "dropout", (x,), _dropout_backward, (), (p, *key))
    return y


def _dropout_backward(node: Node, gradient: Tensor) -> Tensor:
    return _core.dropout(gradient, *node.context)


@public
def dropout_add(
    x: Tensor,
    residual: Tensor,
    p: float = 0.0,
    *,
    bias: Tensor | None = None,
    training: bool = True,
    seed: int | None = None,
) -> Tensor:
    """residual + dropout(x + bias) in one kernel.

    Parameters
    ----------
    x, residual : array, any shape, the same for both
    p : float
        Probability of dropping, in [0, 1].
    bias : array [x.shape[-1]], optional
    training : bool
        False drops nothing.
    seed : int, optional
        A stream of its own; otherwise the default one.

    Returns
    -------
    array with the shape and dtype of x

    Examples
    --------
    >>> import numpy as np, seqloom as sl
    >>> one = np.ones(2, np.float32)
    >>> sl.ops.dropout_add(one, one, bias=one)
    array([3., 3.], dtype=float32)
    """
    p = _probability("dropout_add", p) if training else 0.0
    key = _key("dropout_add", seed, x.size) if p > 0 else (0, 0)
    y = _core.dropout_add(x, bias, residual, p, *key)
    if x._needs_grad or residual._needs_grad or (bias is not None and bias._needs_grad):
        fit = None if bias is None else (bias.shape, bias._dtype_code)
        context = (fit, (p, *key))
        record(y, "dropout_add", (x, residual, bias), _dropout_add_backward, (), context)
    return y


def _dropout_add_backward(node: Node, gradient: Tensor) -> Gradients:
    fit, drawn = node.context
    of_x = _core.dropout(gradient, *drawn) if drawn[0] > 0 else gradient
    return of_x, gradient, None if fit is None else _core.sum_to(of_x, *fit)


# ---- bias + activation, scale + mask ------------------------------------------------------------


@public
def bias_activation(x: Tensor, bias: Tensor, activation: str = "gelu") -> Tensor:
    """activation(x + bias) in one kernel.

    Parameters
    ----------
    x : array [..., N]
    bias : array [N]
    activation : {"relu", "gelu", "gelu_tanh", "silu"}

    Returns
    -------
    array with the shape and dtype of x

    Examples
    --------
    >>> import numpy as np, seqloom as sl
    >>> one = np.ones(2, np.float32)
    >>> sl.ops.bias_activation(-2 * one, one, "relu")
    array([0., 0.], dtype=float32)
    """
    y = _core.bias_activation(x, bias, activation)
    if x._needs_grad or bias._needs_grad:
        record(y, "bias_activation", (x, bias), _bias_activation_backward, (x, bias), activation)
    return y


def _bias_activation_backward(node: Node, gradient: Tensor) -> Gradients:
    x, bias = node.saved_tensors()
    of_sum = _core.bias_activation_backward(gradient, x, bias, node.context)
    of_bias = None
    if bias.requires_grad:
        of_bias = _core.sum_to(of_sum, bias.shape, bias._dtype_code)
    return of_sum, of_bias


@public
def scale_mask(x: Tensor, mask: Tensor, scale: float = 1.0, fill: float = -float("inf")) -> Tensor:
    """Attention scores: x * scale + mask, or x * scale with `fill` where a bool mask is True.

    Parameters
    ----------
    x : array, any shape
    mask : array that broadcasts to x
        Of numbers to add, or bool with True for what is hidden.
    scale, fill : float

    Returns
    -------
    array with the shape and dtype of x

    Examples
    --------
    >>> import numpy as np, seqloom as sl
    >>> sl.ops.scale_mask(np.ones(2, np.float32), np.array([False, True]), 0.5)
    array([ 0.5, -inf], dtype=float32)
    """
    y = _core.scale_mask(x, mask, float(scale), float(fill))
    if x._needs_grad or mask._needs_grad:
        hides = mask.dtype.name == "bool"
        context = (float(scale), None if hides else (mask.shape, mask._dtype_code))
        record(
            y, "scale_mask", (x, mask), _scale_mask_backward, (mask if hides else None,), context
        )
    return y


def _scale_mask_backward(node: Node, gradient: Tensor) -> Gradients:
    (mask,) = node.saved_tensors()
    scale, fit = node.context
    if mask is not None:
        return _core.scale_mask(gradient, mask, scale, 0.0), None
    edges = node.edges
    of_mask = None if edges is None or edges[1] is None else _core.sum_to(gradient, *fit)
    return _core.mul(gradient, scale), of_mask
