# SPDX-License-Identifier: Apache-2.0
"""Connectionist temporal classification: the forward-backward recursion in log space.

float32 and 16-bit log-probabilities go to a kernel; float64 ones, as gradient checks use them, to
the formula in NumPy.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import _core
from ..autograd import Node, record
from ..creation import full
from ..tensor import Tensor, from_numpy
from ._arrays import public
from .loss import _check_reduction

__all__ = ["ctc_loss"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

# log 0, finite so that differences of two of them are no NaN; sums stay far from overflow.
_NONE = -1e300
_IMPOSSIBLE = -1e290  # log-likelihoods below this have met a log 0


def _integers(name: str, value: Any) -> Ints:
    """An integer tensor, or a list of integers, on the host."""
    if isinstance(value, Tensor):
        a = value.detach().cpu().numpy()
    elif isinstance(value, (tuple, list)):
        try:
            a = np.asarray(value)
        except ValueError:
            raise TypeError(
                f"ctc_loss: {name} must be a list of integers, got a ragged one"
            ) from None
        a = a.astype(np.int64) if a.size == 0 else a
    else:
        raise TypeError(f"ctc_loss: {name} must be an integer array, got {type(value).__name__}")
    if a.dtype.kind not in "iu":
        raise TypeError(f"ctc_loss: {name} must be integers, got {a.dtype}")
    return a.astype(np.int64)


def _lengths(name: str, value: Any, batch: int, limit: int | None, spelled: str) -> Ints:
    lengths = _integers(name, value)
    if lengths.shape != (batch,):
        raise ValueError(
            f"ctc_loss: {name} must have shape [B] = [{batch}], got {list(lengths.shape)}"
        )
    wrong = lengths < 0 if limit is None else (lengths < 0) | (lengths > limit)
    if wrong.any():
        b = int(np.argmax(wrong))
        wanted = "at least 0" if limit is None else f"in [0, {spelled}] = [0, {limit}]"
        raise ValueError(f"ctc_loss: {name} must be {wanted}, got {lengths[b]} at {b}")
    return lengths


def _labels(targets: Any, target_lengths: Any, batch: int, classes: int, blank: int) -> Any:
    """(labels [B, L] filled up with blanks, their lengths), from either layout of the targets."""
    given = _integers("targets", targets)
    if given.ndim == 2:
        if given.shape[0] != batch:
            raise ValueError(
                f"ctc_loss: targets must have shape [B, S] = [{batch}, S], got {list(given.shape)}"
            )
        lengths = _lengths("target_lengths", target_lengths, batch, given.shape[1], "S")
        longest = int(lengths.max(initial=0))
        inside = np.arange(longest) < lengths[:, None]
        labels = np.where(inside, given[:, :longest], blank)
    elif given.ndim == 1:
        lengths = _lengths("target_lengths", target_lengths, batch, None, "")
        if lengths.sum() != given.size:
            raise ValueError(
                "ctc_loss: targets must have as many elements as target_lengths add up to ="
                f" {lengths.sum()}, got {given.size}"
            )
        inside = np.arange(int(lengths.max(initial=0))) < lengths[:, None]
        labels = np.full(inside.shape, blank)
        labels[inside] = given
    else:
        raise ValueError(
            f"ctc_loss: targets must have shape [B, S] or [sum], got {list(given.shape)}"
        )
    outside = inside & ((labels < 0) | (labels >= classes))
    if outside.any():
        b, s = np.argwhere(outside)[0]
        raise IndexError(
            f"ctc_loss: targets must be in [0, {classes}), got {labels[b, s]} at sequence {b},"
            f" label {s}"
        )
    return labels, lengths


def _log_add(a: Floats, b: Floats, c: Floats) -> Floats:
    most = np.maximum(np.maximum(a, b), c)
    total = np.exp(a - most)
    total += np.exp(b - most)
    total += np.exp(c - most)
    result: Floats = np.log(total, out=total)
    result += most
    return result


def _forward_backward(
    logp: Floats, labels: Ints, steps_of: Ints, sizes: Ints, blank: int, want_slope: bool
) -> tuple[Floats, Floats | None]:
    """(loss [B], exp(logp) - posterior [T, B, C] or None).

    The states of a sequence are its labels with a blank before, between and after them. A state is
    reached from itself, from the one before, and from two before unless a blank must part two equal
    labels.
    """
    steps, batch, classes = logp.shape
    extended = np.full((batch, 2 * labels.shape[1] + 1), blank)
    extended[:, 1::2] = labels
    states = extended.shape[1]
    rows = np.arange(batch)
    last = 2 * sizes  # the blank after the last label
    skip = np.zeros((batch, states), bool)
    skip[:, 3::2] = labels[:, 1:] != labels[:, :-1]
    closed = np.where(skip, 0.0, _NONE)
    emit = np.maximum(np.take_along_axis(logp, extended[None], axis=2), _NONE)
    emit[:, np.arange(states) > last[:, None]] = _NONE

    alpha = np.full((steps, batch, states), _NONE)
    shifted = np.full((2, batch, states), _NONE)
    if steps > 0:
        alpha[0, :, :2] = emit[0, :, :2]
    for t in range(1, steps):
        before = alpha[t - 1]
        shifted[0, :, 1:] = before[:, :-1]
        shifted[1, :, 2:] = before[:, :-2]
        np.add(_log_add(before, shifted[0], shifted[1] + closed), emit[t], out=alpha[t])

    likelihood = np.where(sizes == 0, 0.0, _NONE)  # of no steps
    run = np.flatnonzero(steps_of > 0)
    if run.size:
        final = alpha[steps_of[run] - 1, run]
        at = np.arange(run.size)
        end = final[at, last[run]]
        label_end = np.where(sizes[run] > 0, final[at, last[run] - 1], _NONE)
        likelihood[run] = np.logaddexp(end, label_end)
    impossible = likelihood < _IMPOSSIBLE
    loss = np.where(impossible, np.inf, -likelihood)
    if not want_slope:
        return loss, None

    # beta leaves the emission at t out, so that alpha + beta counts it once.
    beta = np.full((batch, states), _NONE)
    start = np.full((batch, states), _NONE)
    start[rows, last] = 0.0
    labelled = np.flatnonzero(sizes > 0)
    start[labelled, last[labelled] - 1] = 0.0
    onward = np.full((batch, states), _NONE)
    onward[:, :-2] = closed[:, 2:]
    shifted[...] = _NONE
    scale = np.where(impossible, 0.0, likelihood)[:, None]
    for t in range(steps - 1, -1, -1):
        if t + 1 < steps:
            after = beta + emit[t + 1]
            shifted[0, :, :-1] = after[:, 1:]
            shifted[1, :, :-2] = after[:, 2:]
            beta = _log_add(after, shifted[0], shifted[1] + onward)
        beta = np.where((steps_of == t + 1)[:, None], start, beta)
        alpha[t] += beta - scale
    posterior = np.exp(np.minimum(alpha, 1.0), out=alpha)
    posterior[np.arange(steps)[:, None] >= steps_of] = 0.0
    cells = (np.arange(steps * batch) * classes).reshape(steps, batch, 1) + extended
    summed = np.bincount(cells.ravel(), posterior.ravel(), steps * batch * classes)
    slope: Floats = np.exp(logp) - summed.reshape(logp.shape)
    slope[:, impossible] = np.nan
    slope[np.arange(steps)[:, None] >= steps_of] = 0.0
    return loss, slope


@public
def ctc_loss(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    *,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Tensor:
    """Negative log-likelihood of label sequences that may be stretched and parted by blanks.

    The gradient is torch's: ``exp(log_probs) - posterior``, the gradient for the argument of
    log_softmax, which log_softmax's own backward leaves as it is.

    Parameters
    ----------
    log_probs : array [T, B, C]
        Logarithms of probabilities, as log_softmax gives them.
    targets : integer array [B, S], or [sum of target_lengths]
        Classes without the blank; past a target's length anything may stand.
    input_lengths : integer array [B]
        Valid steps of each sequence.
    target_lengths : integer array [B]
        Labels of each sequence; 0 for none.
    blank : int
        The class that means nothing.
    reduction : {"mean", "sum", "none"}
        "mean" divides each loss by its target's length (at least 1) first.
    zero_infinity : bool
        Zero, and zero gradient, where a target doesn't fit its input; otherwise the loss is
        infinite and its gradient NaN.

    Returns
    -------
    scalar, or array [B] with ``reduction="none"``, in the dtype of log_probs

    Examples
    --------
    >>> import numpy as np, seqloom as sl
    >>> logp = np.log(np.full((2, 1, 2), 0.5, np.float32))
    >>> loss = sl.ops.ctc_loss(logp, np.array([[1]]), np.array([2]), np.array([1]))
    >>> round(float(np.exp(-loss)), 4)
    0.75
    """
    _check_reduction("ctc_loss", reduction)
    if not isinstance(log_probs, Tensor):
        raise TypeError(f"ctc_loss: log_probs must be an array, got {type(log_probs).__name__}")
    if not log_probs.dtype.is_floating_point:
        raise TypeError(f"ctc_loss: log_probs must be floating, got {log_probs.dtype.name}")
    if log_probs.ndim != 3:
        raise ValueError(
            f"ctc_loss: log_probs must have shape [T, B, C], got {list(log_probs.shape)}"
        )
    steps, batch, classes = log_probs.shape
    if isinstance(blank, bool) or not isinstance(blank, int):
        raise TypeError(f"ctc_loss: blank must be an integer, got {type(blank).__name__}")
    if not 0 <= blank < classes:
        raise ValueError(f"ctc_loss: blank must be in [0, C) = [0, {classes}), got {blank}")
    steps_of = _lengths("input_lengths", input_lengths, batch, steps, "T")
    labels, sizes = _labels(targets, target_lengths, batch, classes, blank)

    share = np.ones(batch)
    if reduction == "mean":
        share /= np.maximum(sizes, 1) * max(batch, 1)
    run = _in_float64 if log_probs.dtype.name == "float64" else _in_kernel
    losses, gradient = run(log_probs, labels, steps_of, sizes, share, blank, zero_infinity)
    if reduction == "none":
        loss = losses.to(dtype=log_probs.dtype)
    elif reduction == "mean" and batch == 0:
        loss = full((), math.nan, dtype=log_probs.dtype, device=log_probs.device)
    else:
        loss = losses.sum().to(dtype=log_probs.dtype)
    if gradient is not None:
        record(loss, "ctc_loss", (log_probs,), _ctc_backward, (gradient,), log_probs.dtype)
    return loss


Parts = tuple[Tensor, Tensor | None]  # losses [B] and gradient [T, B, C], both times the share


def _in_kernel(
    log_probs: Tensor,
    labels: Ints,
    steps_of: Ints,
    sizes: Ints,
    share: Floats,
    blank: int,
    zero_infinity: bool,
) -> Parts:
    def there(a: npt.NDArray[Any]) -> Tensor:
        return from_numpy(np.ascontiguousarray(a)).to(device=log_probs.device)

    shares = there(share.astype(np.float32))
    losses, gradient = _core.ctc_forward(
        log_probs.detach(),
        there(labels.astype(np.int64)),
        there(steps_of),
        there(sizes),
        shares,
        blank,
        zero_infinity,
        log_probs._needs_grad,
    )
    return losses * shares, gradient


def _in_float64(
    log_probs: Tensor,
    labels: Ints,
    steps_of: Ints,
    sizes: Ints,
    share: Floats,
    blank: int,
    zero_infinity: bool,
) -> Parts:
    logp = log_probs.detach().cpu().numpy()
    wanted = log_probs._needs_grad
    with np.errstate(under="ignore", over="ignore", invalid="ignore"):
        losses, slope = _forward_backward(logp, labels, steps_of, sizes, blank, wanted)
    if zero_infinity:
        infinite = np.isinf(losses)
        losses[infinite] = 0.0
        if slope is not None:
            slope[:, infinite] = 0.0
    losses *= share
    if slope is not None:
        slope *= share[:, None]
    home = log_probs.device
    gradient = None if slope is None else from_numpy(slope).to(device=home)
    return from_numpy(losses).to(device=home), gradient


def _ctc_backward(node: Node, upstream: Tensor) -> Tensor:
    (gradient,) = node.saved_tensors()
    factor = upstream.to(dtype=gradient.dtype)
    if factor.ndim == 1:
        factor = factor.reshape(1, -1, 1)
    scaled: Tensor = (gradient * factor).to(dtype=node.context)
    return scaled
