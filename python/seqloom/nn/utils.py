# SPDX-License-Identifier: Apache-2.0
"""Gradient clipping."""

from __future__ import annotations

import math
from collections.abc import Iterable

from ..autograd import no_grad
from ..ops import stack
from ..ops.optimizer import clip_gradients, gradient_norm
from ..tensor import Tensor, tensor

__all__ = ["clip_grad_norm_", "clip_grad_value_"]


def _gradients(parameters: Tensor | Iterable[Tensor]) -> list[Tensor]:
    if isinstance(parameters, Tensor):
        parameters = [parameters]
    return [p.grad for p in parameters if p.grad is not None]


def _norm(g: Tensor, kind: float) -> Tensor:
    wide = g.detach() if g.dtype.name == "float64" else g.detach().to(dtype="float32")
    if kind == math.inf:
        largest: Tensor = wide.abs().max()
        return largest
    return (wide.abs() ** kind).sum()


def _other_norm(gradients: list[Tensor], kind: float) -> Tensor:
    home = gradients[0].device
    parts = stack([_norm(g, kind).to(device=home, dtype="float32") for g in gradients])
    total: Tensor = parts.max() if kind == math.inf else parts.sum() ** (1.0 / kind)
    return total


@no_grad()
def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
) -> Tensor:
    """Scale all gradients by one factor so that their common norm is at most `max_norm`.

    Parameters
    ----------
    parameters : Tensor or iterable of Tensors
        Those without a gradient are passed over.
    max_norm : float
    norm_type : float
        2, any other positive power, or ``inf`` for the largest absolute value.
    error_if_nonfinite : bool
        Raise a RuntimeError when the norm is NaN or infinite.

    Returns
    -------
    scalar Tensor, the norm before clipping

    Examples
    --------
    >>> import seqloom as sl
    >>> p = sl.nn.Parameter([0.0, 0.0])
    >>> p.grad = sl.tensor([3.0, 4.0])
    >>> sl.nn.utils.clip_grad_norm_([p], 1.0).item(), p.grad.numpy().round(4).tolist()
    (5.0, [0.6000000238418579, 0.800000011920929])
    """
    kind = float(norm_type)
    if not kind > 0:
        raise ValueError(f"clip_grad_norm_: norm_type must be positive, got {norm_type}")
    gradients = _gradients(parameters)
    if not gradients:
        return tensor(0.0)
    total = gradient_norm(gradients) if kind == 2.0 else _other_norm(gradients, kind)
    if error_if_nonfinite and not math.isfinite(total.item()):
        raise RuntimeError(f"clip_grad_norm_: the norm of the gradients is {total.item()}")
    clip_gradients(gradients, total, float(max_norm))
    return total


@no_grad()
def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float) -> None:
    """Clamp every element of the gradients to [-clip_value, clip_value].

    >>> import seqloom as sl
    >>> p = sl.nn.Parameter([0.0, 0.0])
    >>> p.grad = sl.tensor([3.0, -0.5])
    >>> sl.nn.utils.clip_grad_value_([p], 1.0)
    >>> p.grad.tolist()
    [1.0, -0.5]
    """
    bound = float(clip_value)
    for g in _gradients(parameters):
        g.copy_(g.clamp(-bound, bound))
