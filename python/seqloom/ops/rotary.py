# SPDX-License-Identifier: Apache-2.0
"""Rotary position embedding."""

from __future__ import annotations

from .. import _core
from ..autograd import Node, record
from ..tensor import Tensor
from ._arrays import public

__all__ = ["rotary_embedding"]


@public
def rotary_embedding(x: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool = False) -> Tensor:
    """Turn pairs of columns by the angle of their position.

    Parameters
    ----------
    x : array [B, H, T, D]
    cos, sin : array [T, R/2] or [B, T, R/2], R <= D
        Of x's dtype or float32. They get no gradient. Columns R and up pass through.
    interleaved : bool
        Pairs are columns (2 k, 2 k + 1); otherwise (k, k + R/2).

    Returns
    -------
    array [B, H, T, D]

    Examples
    --------
    >>> import numpy as np, seqloom as sl
    >>> x = np.array([1.0, 2.0], np.float32).reshape(1, 1, 1, 2)
    >>> quarter = np.zeros((1, 1), np.float32), np.ones((1, 1), np.float32)
    >>> sl.ops.rotary_embedding(x, *quarter).ravel()
    array([-2.,  1.], dtype=float32)
    """
    y = _core.rotary(x, cos, sin, bool(interleaved), False)
    if x._needs_grad:
        record(y, "rotary_embedding", (x,), _rotary_backward, (cos, sin), bool(interleaved))
    return y


def _rotary_backward(node: Node, gradient: Tensor) -> Tensor:
    cos, sin = node.saved_tensors()
    return _core.rotary(gradient, cos, sin, node.context, True)
