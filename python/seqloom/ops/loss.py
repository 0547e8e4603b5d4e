# SPDX-License-Identifier: Apache-2.0
"""cross_entropy, and linear_cross_entropy, which never holds its logits."""

from __future__ import annotations

from typing import Any

from .. import _core
from ..autograd import Node, record
from ..dtypes import DType, as_dtype, float32, int64
from ..tensor import Tensor
from . import _double
from ._arrays import public
from .matmul import linear

__all__ = ["cross_entropy", "linear_cross_entropy"]

_REDUCTIONS = ("mean", "sum", "none")
# Logits that linear_cross_entropy holds at a time; a GPU needs larger products to be busy.
_CHUNK_BYTES = 32 << 20
_CHUNK_BYTES_CUDA = 256 << 20


def _check_reduction(op: str, reduction: Any) -> None:
    if reduction not in _REDUCTIONS:
        raise ValueError(f"{op}: reduction must be 'mean', 'sum' or 'none', got {reduction!r}")


def _indices(op: str, name: str, t: Any) -> Tensor:
    if not isinstance(t, Tensor):
        raise TypeError(f"{op}: {name} must be an integer array, got {type(t).__name__}")
    dtype = t.dtype
    if dtype.is_floating_point or dtype.name == "bool":
        raise TypeError(f"{op}: {name} must be integers, got {dtype.name}")
    return t if dtype is int64 else t.to(dtype=int64)


def _in_dtype(op: str, loss: Tensor, wanted: Any, rows: Tensor) -> Tensor:
    dtype: DType = rows.dtype if wanted is None else as_dtype(wanted)
    if not dtype.is_floating_point:
        raise TypeError(f"{op}: loss_dtype must be floating, got {dtype.name}")
    return loss if loss.dtype is dtype else loss.to(dtype=dtype)


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
        if not -(2**63) <= ignore_index < 2**63:
            raise ValueError(f"{op}: ignore_index must fit in int64, got {ignore_index}")
        if not isinstance(smoothing, (int, float)):
            raise TypeError(
                f"{op}: label_smoothing must be a number, got {type(smoothing).__name__}"
            )
        if not 0.0 <= smoothing <= 1.0:
            raise ValueError(f"{op}: label_smoothing must be in [0, 1], got {smoothing}")
        if weight is not None and not isinstance(weight, Tensor):
            raise TypeError(f"{op}: weight must be an array, got {type(weight).__name__}")
        self.ignore_index = ignore_index
        self.smoothing = smoothing
        self.reduction = reduction
        self.weight = None if weight is None else weight.detach().to(dtype=float32)
        self.weight_sum = float(classes) if self.weight is None else self.weight.sum().item()
        self.count: float = 1.0
        if reduction == "mean":
            if targets.is_cuda:
                targets, weight = targets.cpu(), None if self.weight is None else self.weight.cpu()
            else:
                weight = self.weight
            self.count = _core.cross_entropy_denominator(targets, weight, ignore_index)

    def arguments(self) -> tuple[Tensor | None, int, float, float]:
        return (self.weight, self.ignore_index, self.smoothing, self.weight_sum)

    @property
    def scale(self) -> float:
        return 1.0 / self.count if self.count else float("nan")

    def reduce(self, losses: Tensor) -> Tensor:
        if self.reduction == "none":
            return losses
        total: Tensor = _core.sum(losses, None, False)
        scale = self.scale
        return total if scale == 1.0 else _core.mul(total, scale)


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
    loss_dtype: Any = None,
) -> Tensor:
    """Negative log-likelihood of class indices under softmax(logits).

    Parameters
    ----------
    logits : array [N, C]
        float32, float16 or bfloat16; float64 on the CPU.
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
    loss_dtype : dtype, optional
        Of the result; float32 keeps a loss of 16-bit logits exact.

    Returns
    -------
    scalar, or array [N] with ``reduction="none"``, in the dtype of logits unless said otherwise

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
    if _double.is_double(logits):
        return _in_double(logits, ids, weight, label_smoothing, o)
    # A scalar loss scales every row alike, so its gradient is made while a row is in cache.
    recorded = logits._needs_grad
    early = recorded and reduction != "none"
    source = logits.detach() if recorded else logits
    losses, sums, gradient = _core.cross_entropy_forward(
        source, ids, *o.arguments(), None, o.scale if early else None, in_place and early
    )
    loss = _in_dtype("cross_entropy", o.reduce(losses), loss_dtype, logits)
    if recorded:
        if early:
            record(loss, "cross_entropy", (logits,), _scaled_backward, (gradient,))
        else:
            saved = (sums, logits, ids)
            record(loss, "cross_entropy", (logits,), _rows_backward, saved, o)
    return loss


def _in_double(
    logits: Tensor, ids: Tensor, weight: Tensor | None, smoothing: float, o: _Options
) -> Tensor:
    # The kernel checks shapes and ranges; it is asked about a float32 copy.
    _core.cross_entropy_forward(
        logits.detach().to(dtype=float32), ids, *o.arguments(), None, None, False
    )
    return _double.cross_entropy(logits, ids, weight, o.ignore_index, smoothing, o.reduction)


def _scaled(gradient: Tensor, factor: Tensor) -> Tensor:
    """`gradient` times a scalar tensor; the common factor 1 costs nothing."""
    if not factor.is_cuda and factor.item() == 1.0:
        return gradient.detach()
    return gradient * factor.to(dtype=gradient.dtype)


def _scaled_backward(node: Node, upstream: Tensor) -> Tensor:
    (gradient,) = node.saved_tensors()
    return _scaled(gradient, upstream)


def _rows_backward(node: Node, upstream: Tensor) -> Tensor:
    sums, logits, ids = node.saved_tensors()
    o: _Options = node.context
    return _core.cross_entropy_backward(
        upstream.to(dtype=float32), sums, logits, ids, *o.arguments()
    )


# ---- linear cross-entropy -----------------------------------------------------------------------


def _check_matrix(op: str, name: str, t: Any, spelled: str) -> None:
    if not isinstance(t, Tensor):
        raise TypeError(f"{op}: {name} must be an array, got {type(t).__name__}")
    if t.dtype.name not in ("float32", "float16", "bfloat16") and not _double.is_double(t):
        raise TypeError(f"{op}: {name} must be float32, float16 or bfloat16, got {t.dtype.name}")
    if t.ndim != 2:
        raise ValueError(f"{op}: {name} must have shape {spelled}, got {list(t.shape)}")


def _check_range(op: str, ids: Tensor, classes: int, ignore_index: int) -> None:
    """IndexError on the CPU; on a GPU the kernel raises the device's index flag."""
    if ids.is_cuda:
        return
    host = ids.numpy()
    wrong = ((host < 0) | (host >= classes)) & (host != ignore_index)
    if wrong.any():
        row = int(wrong.argmax())
        raise IndexError(
            f"{op}: targets must be in [0, {classes}) or ignore_index, got {host[row]} at row {row}"
        )


def _float32(t: Tensor) -> Tensor:
    return _core.convert(t, float32.code, t.device, False)


def _of_chunks(
    hidden: Tensor,
    weight: Tensor,
    ids: Tensor,
    o: _Options,
    upstream: Tensor | None,
    wants: tuple[bool, bool],
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """(losses [N], gradient of hidden, gradient of weight), some rows' logits at a time.

    The gradients are those of the reduced loss, or of the losses weighted by `upstream` [N]. They
    take the place of the logits they are made from; the weight's is summed in float32.
    """
    hidden, weight, kind = hidden.detach(), weight.detach(), hidden._dtype_code
    if hidden.dtype.name == "float16":
        # Gradients of logits are too small for float16: keep both in float32.
        hidden, weight = _float32(hidden), _float32(weight)
    rows, classes = hidden.shape[0], weight.shape[0]
    budget = _CHUNK_BYTES_CUDA if hidden.is_cuda else _CHUNK_BYTES
    most = max(1, budget // max(1, classes * hidden.dtype.itemsize))
    count = max(1, -(-rows // most))
    size = max(1, -(-rows // count))
    # Gradients of a mean are too small for float16 until the product has summed them.
    late = hidden.dtype.name == "float16" and upstream is None
    scale = None if upstream is not None or not any(wants) else 1.0 if late else o.scale
    losses: list[Tensor] = []
    of_hidden: list[Tensor] = []
    of_weight: Tensor | None = None
    for start in range(0, rows, size):
        piece = slice(start, start + size)
        h = hidden[piece]
        part, _, gradient = _core.cross_entropy_forward(
            _core.linear(h, weight, None, None),
            ids[piece],
            *o.arguments(),
            None if upstream is None else upstream[piece],
            scale,
            any(wants),
        )
        losses.append(part)
        if wants[0]:
            of_hidden.append(_core.matmul(gradient, weight))
        if wants[1]:
            product = _core.matmul(gradient.transpose(0, 1), h)
            if of_weight is None:
                of_weight = product if size >= rows else _float32(product)
            else:
                _core.add_(of_weight, _float32(product))
    if not losses:
        zeros = [_core.full(t.shape, 0.0, kind, t.device) for t in (hidden, weight)]
        nothing = _core.full((0,), 0.0, float32.code, hidden.device)
        return nothing, zeros[0] if wants[0] else None, zeros[1] if wants[1] else None

    def finish(t: Tensor | None) -> Tensor | None:
        if t is None:
            return None
        if late and o.count not in (0.0, 1.0):
            t = _core.mul(t, o.scale)
        return _core.convert(t, kind, hidden.device, False)

    joined = finish(_core.cat(of_hidden, 0)) if wants[0] else None
    return _core.cat(losses, 0), joined, finish(of_weight)


@public
def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    loss_dtype: Any = None,
) -> Tensor:
    """``cross_entropy(hidden @ weight.T, targets)`` without ever holding those logits.

    Rows go through in chunks; their gradients are made at once from the logits that are there, so
    backward has nothing left to compute. With ``reduction="none"`` it goes through them again.

    Parameters
    ----------
    hidden : array [N, D]
        float32, float16 or bfloat16; float64 on the CPU.
    weight : array [C, D]
    targets : integer array [N]
        Classes in [0, C), or `ignore_index`.
    ignore_index : int
        Targets of this value count for nothing.
    label_smoothing : float
        In [0, 1]: this much of the target is spread over all classes.
    reduction : {"mean", "sum", "none"}
    loss_dtype : dtype, optional
        Of the result; float32 keeps a loss of 16-bit rows exact.

    Returns
    -------
    scalar, or array [N] with ``reduction="none"``, in the dtype of hidden unless said otherwise

    Examples
    --------
    >>> import numpy as np, seqloom as sl
    >>> hidden, weight = np.ones((2, 3), np.float32), np.zeros((4, 3), np.float32)
    >>> round(float(sl.ops.linear_cross_entropy(hidden, weight, np.array([0, 3]))), 4)
    1.3863
    """
    op = "linear_cross_entropy"
    ids = _indices(op, "targets", targets)
    _check_matrix(op, "hidden", hidden, "[N, D]")
    _check_matrix(op, "weight", weight, "[C, D]")
    if weight.dtype is not hidden.dtype:
        raise TypeError(
            f"{op}: weight must have the dtype of hidden = {hidden.dtype.name}, got"
            f" {weight.dtype.name}"
        )
    if weight.shape[1] != hidden.shape[1]:
        raise ValueError(
            f"{op}: weight must have shape [C, D] = [C, {hidden.shape[1]}], got"
            f" {list(weight.shape)}"
        )
    if ids.shape != hidden.shape[:1]:
        raise ValueError(
            f"{op}: targets must have shape [N] = {list(hidden.shape[:1])}, got {list(ids.shape)}"
        )
    for name, t in (("weight", weight), ("targets", ids)):
        if t.device != hidden.device:
            raise ValueError(
                f"{op}: {name} must be on the device of hidden = {hidden.device}, got {t.device}"
            )
    o = _Options(op, ids, weight.shape[0], None, ignore_index, label_smoothing, reduction)
    _check_range(op, ids, weight.shape[0], ignore_index)
    if _double.is_double(hidden):
        logits = linear(hidden, weight)
        return _double.cross_entropy(logits, ids, None, ignore_index, label_smoothing, reduction)
    recorded = hidden._needs_grad or weight._needs_grad
    early = recorded and reduction != "none"
    wants = (early and hidden._needs_grad, early and weight._needs_grad)
    losses, of_hidden, of_weight = _of_chunks(hidden, weight, ids, o, None, wants)
    loss = _in_dtype(op, o.reduce(losses), loss_dtype, hidden)
    if early:
        saved = (of_hidden, of_weight)
        record(loss, op, (hidden, weight), _scaled_pair_backward, saved)
    elif recorded:
        record(loss, op, (hidden, weight), _chunks_backward, (hidden, weight, ids), o)
    return loss


def _scaled_pair_backward(node: Node, upstream: Tensor) -> tuple[Tensor | None, ...]:
    return tuple(None if g is None else _scaled(g, upstream) for g in node.saved_tensors())


def _chunks_backward(node: Node, upstream: Tensor) -> tuple[Tensor | None, ...]:
    hidden, weight, ids = node.saved_tensors()
    wants = (hidden.requires_grad, weight.requires_grad)
    return _of_chunks(
        hidden, weight, ids, node.context, upstream.detach().to(dtype=float32), wants
    )[1:]
