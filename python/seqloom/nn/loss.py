# SPDX-License-Identifier: Apache-2.0
"""Losses: cross-entropy, CTC, and the elementwise ones."""

from __future__ import annotations

from typing import Any

from .. import ops
from ..tensor import Tensor
from .module import Module


class _Loss(Module):
    def __init__(self, reduction: str) -> None:
        super().__init__()
        if reduction not in ("mean", "sum", "none"):
            raise ValueError(
                f"{type(self).__name__}: reduction must be 'mean', 'sum' or 'none', got"
                f" {reduction!r}"
            )
        self.reduction = reduction

    def _reduce(self, losses: Tensor) -> Tensor:
        if self.reduction == "none":
            return losses
        return losses.mean() if self.reduction == "mean" else losses.sum()

    def _check(self, x: Tensor, target: Tensor) -> None:
        if x.shape != target.shape:
            raise ValueError(
                f"{type(self).__name__}: target must have shape {list(x.shape)}, got"
                f" {list(target.shape)}"
            )

    def extra_repr(self) -> str:
        return f"reduction={self.reduction!r}"


class CrossEntropyLoss(_Loss):
    """Negative log-likelihood of the targets under softmax(logits).

    Parameters
    ----------
    weight : array [C], optional
        A weight for each class.
    ignore_index : int
        Targets of this value count for nothing.
    reduction : {"mean", "sum", "none"}
    label_smoothing : float
        In [0, 1].

    Examples
    --------
    >>> import seqloom as sl
    >>> loss = sl.nn.CrossEntropyLoss()
    >>> round(loss(sl.zeros(2, 4), sl.tensor([0, 3])).item(), 4)
    1.3863
    """

    def __init__(
        self,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(reduction)
        self.register_buffer("weight", weight)
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing

    weight: Tensor | None

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """
        Parameters
        ----------
        logits : [C], [N, C] or [N, C, d1, ...]
        target : integers [], [N] or [N, d1, ...], or probabilities of the shape of logits

        Returns
        -------
        scalar, or the shape of the integer targets with ``reduction="none"``
        """
        if target.dtype.is_floating_point:
            return self._of_probabilities(logits, target)
        classes_at = 0 if logits.ndim == 1 else 1
        wanted = tuple(n for i, n in enumerate(logits.shape) if i != classes_at)
        if logits.ndim < 1 or target.shape != wanted:
            raise ValueError(
                f"CrossEntropyLoss: target must have shape {list(wanted)} for logits"
                f" {list(logits.shape)}, got {list(target.shape)}"
            )
        if logits.ndim == 1:
            rows = logits.unsqueeze(0)
        elif logits.ndim == 2:
            rows = logits
        else:
            order = (0, *range(2, logits.ndim), 1)
            rows = logits.permute(*order).reshape(-1, logits.shape[1])
        loss = ops.cross_entropy(
            rows,
            target.reshape(-1),
            weight=self.weight,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            reduction=self.reduction,
        )
        return loss.reshape(wanted) if self.reduction == "none" else loss

    def _of_probabilities(self, logits: Tensor, target: Tensor) -> Tensor:
        self._check(logits, target)
        axis = 0 if logits.ndim == 1 else 1
        classes = logits.shape[axis]
        if self.label_smoothing > 0:
            target = target * (1 - self.label_smoothing) + self.label_smoothing / classes
        if self.weight is not None:
            target = target * self.weight.reshape(classes, *(1,) * (logits.ndim - axis - 1))
        losses = -(ops.log_softmax(logits, axis) * target).sum(axis)
        return self._reduce(losses)

    def extra_repr(self) -> str:
        return (
            f"ignore_index={self.ignore_index}, label_smoothing={self.label_smoothing},"
            f" {super().extra_repr()}"
        )


class CTCLoss(_Loss):
    """Connectionist temporal classification: the targets with any blanks and repetitions.

    Parameters
    ----------
    blank : int
        The class that means nothing.
    reduction : {"mean", "sum", "none"}
        "mean" divides each loss by its target's length first, as torch does.
    zero_infinity : bool
        Zero instead of the infinite loss of a target that doesn't fit its input.

    Examples
    --------
    >>> import seqloom as sl
    >>> log_probs = sl.ops.log_softmax(sl.zeros(5, 1, 3))
    >>> loss = sl.nn.CTCLoss()(log_probs, sl.tensor([[1, 2]]), sl.tensor([5]), sl.tensor([2]))
    >>> loss.item() > 0
    True
    """

    def __init__(
        self, blank: int = 0, reduction: str = "mean", zero_infinity: bool = False
    ) -> None:
        super().__init__(reduction)
        self.blank = blank
        self.zero_infinity = zero_infinity

    def forward(
        self, log_probs: Tensor, targets: Tensor, input_lengths: Any, target_lengths: Any
    ) -> Tensor:
        """
        Parameters
        ----------
        log_probs : [T, N, C]
        targets : integers [N, S], or all targets one after the other
        input_lengths, target_lengths : integers [N]

        Returns
        -------
        scalar, or [N] with ``reduction="none"``
        """
        return ops.ctc_loss(  # type: ignore[no-any-return, attr-defined, unused-ignore]
            log_probs,
            targets,
            input_lengths,
            target_lengths,
            blank=self.blank,
            reduction=self.reduction,
            zero_infinity=self.zero_infinity,
        )

    def extra_repr(self) -> str:
        return f"blank={self.blank}, zero_infinity={self.zero_infinity}, {super().extra_repr()}"


class MSELoss(_Loss):
    """(x - target)^2.

    >>> import seqloom as sl
    >>> sl.nn.MSELoss()(sl.tensor([1.0, 3.0]), sl.zeros(2)).item()
    5.0
    """

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__(reduction)

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """x and target of one shape."""
        self._check(x, target)
        difference = x - target
        return self._reduce(difference * difference)


class L1Loss(_Loss):
    """|x - target|.

    >>> import seqloom as sl
    >>> sl.nn.L1Loss()(sl.tensor([1.0, -3.0]), sl.zeros(2)).item()
    2.0
    """

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__(reduction)

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """x and target of one shape."""
        self._check(x, target)
        return self._reduce((x - target).abs())


class BCEWithLogitsLoss(_Loss):
    """-(t log sigmoid(x) + (1 - t) log(1 - sigmoid(x))), without overflow.

    Parameters
    ----------
    weight : array that broadcasts to x, optional
    reduction : {"mean", "sum", "none"}
    pos_weight : array that broadcasts to x, optional
        Weight of the positive term.

    Examples
    --------
    >>> import seqloom as sl
    >>> round(sl.nn.BCEWithLogitsLoss()(sl.zeros(2), sl.ones(2)).item(), 4)
    0.6931
    """

    weight: Tensor | None
    pos_weight: Tensor | None

    def __init__(
        self,
        weight: Tensor | None = None,
        reduction: str = "mean",
        pos_weight: Tensor | None = None,
    ) -> None:
        super().__init__(reduction)
        self.register_buffer("weight", weight)
        self.register_buffer("pos_weight", pos_weight)

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """x and target of one shape."""
        self._check(x, target)
        dtype = x.dtype
        if dtype.itemsize == 2:
            x, target = x.float(), target.float()
        # softplus(-x) = max(-x, 0) + log(1 + exp(-|x|)) = -log sigmoid(x)
        softplus = ops.maximum(-x, 0.0) + ((-x.abs()).exp() + 1.0).log()
        if self.pos_weight is not None:
            softplus = softplus * ((self.pos_weight - 1.0) * target + 1.0)
        losses = (1.0 - target) * x + softplus
        if self.weight is not None:
            losses = losses * self.weight
        return self._reduce(losses.to(dtype=dtype))
