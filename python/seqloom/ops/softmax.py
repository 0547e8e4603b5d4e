# SPDX-License-Identifier: Apache-2.0
"""softmax and log_softmax."""

from __future__ import annotations

from .. import _core
from ..autograd import Node, record
from ..tensor import Tensor
from ._arrays import public

__all__ = ["log_softmax", "softmax"]


@public
def softmax(x: Tensor, axis: int = -1) -> Tensor:
    """exp(x) / sum(exp(x)) along one axis, the maximum subtracted first.

    Parameters
    ----------
    x : array, any shape
        float32, float16 or bfloat16 (summed in float32); float64 on the CPU.
    axis : int

    Returns
    -------
    array with the shape and dtype of x
        A row that holds NaN, +inf or nothing but -inf is NaN.

    Examples
    --------
    >>> import numpy as np, seqloom as sl
    >>> sl.ops.softmax(np.zeros((1, 4), np.float32))
    array([[0.25, 0.25, 0.25, 0.25]], dtype=float32)
    """
    y = _core.softmax_forward(x, axis)
    if x._needs_grad:
        record(y, "softmax", (x,), _softmax_backward, (y.detach(),), axis)
    return y


def _softmax_backward(node: Node, gradient: Tensor) -> Tensor:
    (y,) = node.saved_tensors()
    return _core.softmax_backward(gradient, y, node.context)


@public
def log_softmax(x: Tensor, axis: int = -1) -> Tensor:
    """x - log(sum(exp(x))) along one axis, the maximum subtracted first.

    Parameters
    ----------
    x : array, any shape
        float32, float16 or bfloat16 (summed in float32); float64 on the CPU.
    axis : int

    Returns
    -------
    array with the shape and dtype of x

    Examples
    --------
    >>> import numpy as np, seqloom as sl
    >>> bool(np.allclose(sl.ops.log_softmax(np.zeros(2, np.float32)), np.log(0.5)))
    True
    """
    y = _core.log_softmax_forward(x, axis)
    if x._needs_grad:
        record(y, "log_softmax", (x,), _log_softmax_backward, (y.detach(),), axis)
    return y


def _log_softmax_backward(node: Node, gradient: Tensor) -> Tensor:
    (y,) = node.saved_tensors()
    return _core.log_softmax_backward(gradient, y, node.context)
