# SPDX-License-Identifier: Apache-2.0
"""layer_norm and rms_norm over the last axis, alone or with a residual added first."""

from __future__ import annotations

from .. import _core
from ..autograd import Node, record
from ..tensor import Tensor
from . import _double
from ._arrays import public

__all__ = ["add_layer_norm", "add_rms_norm", "layer_norm", "rms_norm"]


def _records(*tensors: Tensor | None) -> bool:
    for t in tensors:  # noqa: SIM110  any() costs more than the loop
        if isinstance(t, Tensor) and t._needs_grad:
            return True
    return False


def _parameter_gradient(gradient: Tensor | None, parameter: Tensor | None) -> Tensor | None:
    if gradient is None or parameter is None:
        return None
    return _core.convert(gradient, parameter._dtype_code, parameter.device, False)


@public
def layer_norm(
    x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, *, eps: float = 1e-5
) -> Tensor:
    """(x - mean) / sqrt(variance + eps) * weight + bias, over the last axis.

    Parameters
    ----------
    x : array [..., N]
        float32, float16 or bfloat16, with statistics in float32; float64 on the CPU.
    weight, bias : array [N], optional
    eps : float
        Positive.

    Returns
    -------
    array [..., N]

    Examples
    --------
    >>> import numpy as np, seqloom as sl
    >>> sl.ops.layer_norm(np.array([[1.0, 3.0]], np.float32), eps=1e-12)
    array([[-1.,  1.]], dtype=float32)
    """
    if _double.is_double(x):
        return _double.norm("layer_norm", x, weight, bias, eps, True)
    if not _records(x, weight, bias):
        y: Tensor = _core.layer_norm_forward(x, weight, bias, eps, False)
        return y
    y, mean, rstd = _core.layer_norm_forward(x, weight, bias, eps, True)
    saved = (x, weight, bias, mean, rstd)
    record(y, "layer_norm", (x, weight, bias), _layer_norm_backward, saved)
    return y


def _layer_norm_backward(node: Node, gradient: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, bias, mean, rstd = node.saved_tensors()
    dx, dweight, dbias = _core.norm_backward(
        gradient,
        None,
        x,
        weight,
        mean,
        rstd,
        weight is not None and weight.requires_grad,
        bias is not None and bias.requires_grad,
    )
    return dx, _parameter_gradient(dweight, weight), _parameter_gradient(dbias, bias)


@public
def rms_norm(x: Tensor, weight: Tensor | None = None, *, eps: float = 1e-6) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight, over the last axis.

    Parameters
    ----------
    x : array [..., N]
        float32, float16 or bfloat16, with statistics in float32; float64 on the CPU.
    weight : array [N], optional
    eps : float
        Positive.

    Returns
    -------
    array [..., N]

    Examples
    --------
    >>> import numpy as np, seqloom as sl
    >>> sl.ops.rms_norm(np.array([[2.0, -2.0]], np.float32), eps=1e-12)
    array([[ 1., -1.]], dtype=float32)
    """
    if _double.is_double(x):
        return _double.norm("rms_norm", x, weight, None, eps, False)
    if not _records(x, weight):
        y: Tensor = _core.rms_norm_forward(x, weight, eps, False)
        return y
    y, rstd = _core.rms_norm_forward(x, weight, eps, True)
    record(y, "rms_norm", (x, weight), _rms_norm_backward, (x, weight, rstd))
    return y


def _rms_norm_backward(node: Node, gradient: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, rstd = node.saved_tensors()
    dx, dweight, _ = _core.norm_backward(
        gradient, None, x, weight, None, rstd, weight is not None and weight.requires_grad, False
    )
    return dx, _parameter_gradient(dweight, weight)


@public
def add_layer_norm(
    x: Tensor,
    residual: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor]:
    """``s = x + residual`` and its layer norm, in one pass over memory.

    Parameters
    ----------
    x, residual : array [..., N]
    weight, bias : array [N], optional
    eps : float

    Returns
    -------
    (y, s) : arrays [..., N]
        The normalised sum, and the sum.

    Examples
    --------
    >>> import numpy as np, seqloom as sl
    >>> x = np.array([[0.0, 1.0]], np.float32)
    >>> y, s = sl.ops.add_layer_norm(x, x, eps=1e-12)
    >>> s
    array([[0., 2.]], dtype=float32)
    """
    if _double.is_double(x):
        total = _double.added("add_layer_norm", x, residual)
        return _double.norm("add_layer_norm", total, weight, bias, eps, True), total
    if not _records(x, residual, weight, bias):
        y, total = _core.add_layer_norm_forward(x, residual, weight, bias, eps, False)
        return y, total
    y, total, mean, rstd = _core.add_layer_norm_forward(x, residual, weight, bias, eps, True)
    saved = (total.detach(), weight, bias, mean, rstd)
    record((y, total), "add_layer_norm", (x, residual, weight, bias), _add_backward, saved)
    return y, total


@public
def add_rms_norm(
    x: Tensor, residual: Tensor, weight: Tensor | None = None, *, eps: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """``s = x + residual`` and its RMS norm, in one pass over memory.

    Parameters
    ----------
    x, residual : array [..., N]
    weight : array [N], optional
    eps : float

    Returns
    -------
    (y, s) : arrays [..., N]
        The normalised sum, and the sum.

    Examples
    --------
    >>> import numpy as np, seqloom as sl
    >>> x = np.array([[1.0, -1.0]], np.float32)
    >>> y, s = sl.ops.add_rms_norm(x, x, eps=1e-12)
    >>> s
    array([[ 2., -2.]], dtype=float32)
    """
    if _double.is_double(x):
        total = _double.added("add_rms_norm", x, residual)
        return _double.norm("add_rms_norm", total, weight, None, eps, False), total
    if not _records(x, residual, weight):
        y, total = _core.add_rms_norm_forward(x, residual, weight, eps, False)
        return y, total
    y, total, rstd = _core.add_rms_norm_forward(x, residual, weight, eps, True)
    saved = (total.detach(), weight, None, None, rstd)
    record((y, total), "add_rms_norm", (x, residual, weight), _add_backward, saved)
    return y, total


def _add_backward(node: Node, dy: Tensor | None, dsum: Tensor | None) -> tuple[Tensor | None, ...]:
    total, weight, bias, mean, rstd = node.saved_tensors()
    if dy is None:  # only the sum was used
        both: tuple[Tensor | None, ...] = (dsum, dsum)
        return both + (None,) * (1 if mean is None else 2)
    dx, dweight, dbias = _core.norm_backward(
        dy,
        dsum,
        total,
        weight,
        mean,
        rstd,
        weight is not None and weight.requires_grad,
        bias is not None and bias.requires_grad,
    )
    dw = _parameter_gradient(dweight, weight)
    if mean is None:
        return dx, dx, dw
    return dx, dx, dw, _parameter_gradient(dbias, bias)
