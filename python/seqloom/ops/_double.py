# SPDX-License-Identifier: Apache-2.0
"""Ops in float64, put together from others: the CPU's path for references and gradient checks.

Arguments of the same dtype on the CPU only; speed is no concern here.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..dtypes import float64
from ..tensor import Tensor, from_numpy
from .elementwise import where
from .softmax import log_softmax


def is_double(x: Any) -> bool:
    return isinstance(x, Tensor) and x.dtype is float64 and not x.is_cuda


def _check(op: str, x: Tensor, shape: tuple[int, ...], **others: Tensor | None) -> None:
    for name, t in others.items():
        if t is None:
            continue
        if not isinstance(t, Tensor):
            raise TypeError(f"{op}: {name} must be an array, got {type(t).__name__}")
        if t.dtype is not x.dtype:
            raise TypeError(f"{op}: {name} must be float64 like x, got {t.dtype.name}")
        if t.shape != shape:
            raise ValueError(f"{op}: {name} must have shape {list(shape)}, got {list(t.shape)}")


def norm(
    op: str, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, centred: bool
) -> Tensor:
    """Layer norm over the last axis, or RMS norm where it is not `centred`."""
    if isinstance(eps, bool) or not isinstance(eps, (int, float)):
        raise TypeError(f"{op}: eps must be a number, got {type(eps).__name__}")
    if not eps > 0:
        raise ValueError(f"{op}: eps must be positive, got {eps}")
    if x.ndim == 0:
        raise ValueError(f"{op}: x must have shape [..., N], got []")
    _check(op, x, x.shape[-1:], weight=weight, bias=bias)
    d = x - x.mean(-1, keepdim=True) if centred else x
    y = d / ((d * d).mean(-1, keepdim=True) + eps).sqrt()
    if weight is not None:
        y = y * weight
    return y if bias is None else y + bias


def added(op: str, x: Tensor, residual: Tensor) -> Tensor:
    """x + residual of one shape."""
    _check(op, x, x.shape, residual=residual)
    return x + residual


def cross_entropy(
    logits: Tensor,
    ids: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    smoothing: float,
    reduction: str,
) -> Tensor:
    """Checked arguments; logits [N, C], ids int64 [N], weight [C]."""
    classes, host = logits.shape[1], ids.numpy()
    live = host != ignore_index
    logp = log_softmax(logits)
    w = np.ones(classes) if weight is None else weight.detach().numpy().astype(np.float64)
    # The target distribution times the classes' weights, as constants [N, C].
    kept = np.where(live, host, 0)
    target = np.full((len(host), classes), smoothing / max(classes, 1)) * w
    rows = np.arange(len(host))
    of_target = w[kept] if classes else np.zeros(len(host))
    if classes:
        target[rows, kept] += (1 - smoothing) * of_target
    target[~live] = 0
    # A probability of zero that no target asks for is no loss, where 0 * -inf would be NaN.
    constant = from_numpy(target)
    terms = where(constant == 0, 0.0, logp * constant)
    losses = -terms.sum(-1)
    if reduction == "none":
        return losses
    total = losses.sum()
    if reduction == "sum":
        return total
    count = float(of_target[live].sum())
    return total * (1.0 / count if count else float("nan"))
