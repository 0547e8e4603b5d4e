# SPDX-License-Identifier: Apache-2.0
"""Layers without parameters: activations, softmax, dropout, identity."""

from __future__ import annotations

from typing import Any

from .. import ops
from ..tensor import Tensor
from .module import Module


class Identity(Module):
    """x itself; arguments are accepted and ignored."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def forward(self, x: Any) -> Any:
        return x


class ReLU(Module):
    """max(x, 0).

    >>> import seqloom as sl
    >>> sl.nn.ReLU()(sl.tensor([-1.0, 2.0])).tolist()
    [0.0, 2.0]
    """

    def forward(self, x: Tensor) -> Tensor:
        return ops.relu(x)


class GELU(Module):
    """x times the normal distribution function; ``approximate="tanh"`` for GPT-2's formula.

    >>> import seqloom as sl
    >>> sl.nn.GELU("tanh")(sl.zeros(1)).tolist()
    [0.0]
    """

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        if approximate not in ("none", "tanh"):
            raise ValueError(f"GELU: approximate must be 'none' or 'tanh', got {approximate!r}")
        self.approximate = approximate

    def forward(self, x: Tensor) -> Tensor:
        return ops.gelu(x, self.approximate)

    def extra_repr(self) -> str:
        return f"approximate={self.approximate!r}"


class SiLU(Module):
    """x sigmoid(x).

    >>> import seqloom as sl
    >>> sl.nn.SiLU()(sl.zeros(1)).tolist()
    [0.0]
    """

    def forward(self, x: Tensor) -> Tensor:
        return ops.silu(x)


class Tanh(Module):
    """The hyperbolic tangent.

    >>> import seqloom as sl
    >>> sl.nn.Tanh()(sl.zeros(1)).tolist()
    [0.0]
    """

    def forward(self, x: Tensor) -> Tensor:
        return ops.tanh(x)


class Sigmoid(Module):
    """1 / (1 + exp(-x)).

    >>> import seqloom as sl
    >>> sl.nn.Sigmoid()(sl.zeros(1)).tolist()
    [0.5]
    """

    def forward(self, x: Tensor) -> Tensor:
        return ops.sigmoid(x)


class Softmax(Module):
    """exp(x) / sum(exp(x)) along one axis.

    Parameters
    ----------
    dim : int

    Examples
    --------
    >>> import seqloom as sl
    >>> sl.nn.Softmax(dim=-1)(sl.zeros(1, 4)).tolist()
    [[0.25, 0.25, 0.25, 0.25]]
    """

    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        return ops.softmax(x, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class Dropout(Module):
    """In training, zero each element with probability p and scale the others by 1 / (1 - p).

    Parameters
    ----------
    p : float
        In [0, 1].

    Examples
    --------
    >>> import seqloom as sl
    >>> drop = sl.nn.Dropout(0.5)
    >>> drop.eval()(sl.ones(3)).tolist()
    [1.0, 1.0, 1.0]
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.p = probability("Dropout", p)

    def forward(self, x: Tensor) -> Tensor:
        return ops.dropout(x, self.p) if self.training and self.p > 0 else x

    def extra_repr(self) -> str:
        return f"p={self.p}"


def probability(owner: str, p: Any, name: str = "p") -> float:
    """`p` checked to be in [0, 1]."""
    if isinstance(p, bool) or not isinstance(p, (int, float)):
        raise TypeError(f"{owner}: {name} must be a number, got {type(p).__name__}")
    if not 0 <= p <= 1:
        raise ValueError(f"{owner}: {name} must be in [0, 1], got {p}")
    return float(p)
