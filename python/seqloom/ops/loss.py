# SPDX-License-Identifier: Apache-2.0
"""cross_entropy, linear_cross_entropy and ctc_loss."""

from __future__ import annotations

from typing import Any

from .. import _core
from ..autograd import Node, record
from ..dtypes import float32, int64
from ..tensor import Tensor
from ._arrays import public

__all__ = ["cross_entropy"]

_REDUCTIONS = ("mean", "sum", "none")
_CHUNK_BYTES = 32 << 20  # float32 logits that linear_cross_entropy holds at a time


def _check_reduction(op: str, reduction: Any) -> None:
    if reduction not in _REDUCTIONS:
        raise ValueError(f"{op}: reduction must be 'mean', 'sum' or 'none', got {reduction!r}")


def _indices(op: str, name: str, t: Any) -> Tensor:
    if not isinstance(t, Tensor):
        raise TypeError(f"{op}: {name} must be an integer array, got {type(t).__name__}")
    if t.dtype.is_floating_point or t.dtype.name == "bool":
        raise TypeError(f"{op}: {name} must be integers, got {t.dtype.name}")
    return t if t.dtype is int64 else t.to(dtype=int64)


class _Options:
    """The keywords of cross-entropy, checked, with what they imply for one batch of targets."""

    __slots__ = (
        "count",
        "ignore_index",
        "reduction",
        "row_scale",
        "smoothing",
        "weight",
        "weight_sum",
    )

    def __init__(
        self,
        op: str,
        targets: Tensor,
        classes: int,
        weight: Tensor | None,
        ignore_index: int,
        smoothing: float,
        reduction: str,
    ) -> None:
        _check_reduction(op, reduction)
        if not isinstance(ignore_index, int):
            raise TypeError(
                f"{op}: ignore_index must be an integer, got {type(ignore_index).__name__}"
            )
        self.ignore_index = ignore_index
        self.smoothing = smoothing
        self.reduction = reduction
        self.weight = None if weight is None else weight.detach().to(dtype=float32)
        self.weight_sum = float(classes) if self.weight is None else self.weight.sum().item()
        self.count: float = 1.0
        if reduction == "mean":
            self.count = _core.cross_entropy_denominator(
                targets.cpu(), None if self.weight is None else self.weight.cpu(), ignore_index
            )

    def arguments(self) -> tuple[Any, ...]:
        return (self.weight, self.ignore_index, self.smoothing, self.weight_sum)

    @property
    def scale(self) -> float:
        return 1.0 / self.count if self.count else float("nan")

    def reduce(self, losses: Tensor) -> Tensor:
        return losses if self.reduction == "none" else losses.sum() * self.scale


@public
def cross_entropy(
    logits: Tensor,
    targets: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    in_place: bool = False,
) -> Tensor:
    """Negative log-likelihood of class indices under softmax(logits).

    Parameters
    ----------
    logits : array [N, C]
        float32, float16 or bfloat16.
    targets : integer array [N]
        Classes in [0, C), or `ignore_index`.
    weight : array [C], optional
        Weight of each class; the mean divides by the weights of the targets.
    ignore_index : int
        Targets of this value count for nothing.
    label_smoothing : float
        In [0, 1]: this much of the target is spread over all classes.
    reduction : {"mean", "sum", "none"}
    in_place : bool
        Write the gradient over the memory of `logits`, which must not be used afterwards.

    Returns
    -------
    scalar, or array [N] with ``reduction="none"``, in the dtype of logits

    Examples
    --------
    >>> import numpy as np, seqloom as sl
    >>> logits = np.zeros((2, 4), np.float32)
    >>> round(float(sl.ops.cross_entropy(logits, np.array([0, 3]))), 4)
    1.3863
    """
    ids = _indices("cross_entropy", "targets", targets)
    if not isinstance(logits, Tensor):
        raise TypeError(f"cross_entropy: logits must be an array, got {type(logits).__name__}")
    classes = logits.shape[1] if logits.ndim == 2 else 0
    o = _Options("cross_entropy", ids, classes, weight, ignore_index, label_smoothing, reduction)
    # A scalar loss scales every row alike, so its gradient is made while a row is in cache.
    early = logits._needs_grad and reduction != "none"
    source = logits.detach()
    losses, lse, gradient = _core.cross_entropy_forward(
        source, ids, *o.arguments(), None, o.scale if early else None, in_place and early
    )
    loss = o.reduce(losses).to(dtype=logits.dtype)
    if logits._needs_grad:
        if early:
            record(loss, "cross_entropy", (logits,), _scaled_backward, (gradient,))
        else:
            saved = (lse, logits, ids)
            record(loss, "cross_entropy", (logits,), _rows_backward, saved, o)
    return loss


def _scaled(gradient: Tensor, factor: Tensor) -> Tensor:
    """`gradient` times a scalar tensor; the common factor 1 costs nothing."""
    if not factor.is_cuda and factor.item() == 1.0:
        return gradient.detach()
    return gradient * factor.to(dtype=gradient.dtype)


def _scaled_backward(node: Node, upstream: Tensor) -> Tensor:
    (gradient,) = node.saved_tensors()
    return _scaled(gradient, upstream)


def _rows_backward(node: Node, upstream: Tensor) -> Tensor:
    lse, logits, ids = node.saved_tensors()
    o: _Options = node.context
    return _core.cross_entropy_backward(
        upstream.to(dtype=float32), lse, logits, ids, *o.arguments()
    )
