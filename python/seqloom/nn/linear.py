# SPDX-License-Identifier: Apache-2.0
"""Linear, Embedding, LayerNorm, RMSNorm: the layers that are one op and its parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from .. import ops
from ..ops._arrays import on_tensors
from ..tensor import Tensor
from . import init
from .init import new_parameter
from .module import Module
from .parameter import Parameter

_linear = on_tensors(ops.linear)


def positive(owner: str, **sizes: Any) -> None:
    """Refuse sizes that are no positive integers."""
    for name, n in sizes.items():
        if isinstance(n, bool) or not isinstance(n, int):
            raise TypeError(f"{owner}: {name} must be an integer, got {type(n).__name__}")
        if n < 1:
            raise ValueError(f"{owner}: {name} must be positive, got {n}")


class Linear(Module):
    """``x @ weight.T + bias``.

    Parameters
    ----------
    in_features, out_features : int
    bias : bool

    Attributes
    ----------
    weight : Parameter [out_features, in_features]
    bias : Parameter [out_features] or None

    Examples
    --------
    >>> import seqloom as sl
    >>> sl.nn.Linear(4, 2)(sl.ones(3, 4)).shape
    (3, 2)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        positive("Linear", in_features=in_features, out_features=out_features)
        self.in_features, self.out_features = in_features, out_features
        self.weight: Parameter = new_parameter(
            out_features, in_features, device=device, dtype=dtype
        )
        self.bias: Parameter | None = (
            new_parameter(out_features, device=device, dtype=dtype) if bias else None
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.in_features)
            init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_features] to [..., out_features]."""
        multiply = _linear if isinstance(x, Tensor) else ops.linear
        return multiply(x, self.weight, self.bias)

    def activated(self, x: Tensor, activation: str | None) -> Tensor:
        """``activation(forward(x))`` in one kernel; the names of :func:`seqloom.ops.linear`."""
        multiply = _linear if isinstance(x, Tensor) else ops.linear
        return multiply(x, self.weight, self.bias, activation=activation)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"


class Embedding(Module):
    """Rows of a table.

    Parameters
    ----------
    num_embeddings, embedding_dim : int
    padding_idx : int, optional
        A row that starts as zeros and gets no gradient.

    Attributes
    ----------
    weight : Parameter [num_embeddings, embedding_dim]

    Examples
    --------
    >>> import seqloom as sl
    >>> sl.nn.Embedding(10, 4)(sl.tensor([[1, 2, 3]])).shape
    (1, 3, 4)
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        positive("Embedding", num_embeddings=num_embeddings, embedding_dim=embedding_dim)
        if padding_idx is not None:
            if not -num_embeddings <= padding_idx < num_embeddings:
                raise ValueError(
                    f"Embedding: padding_idx must be in [{-num_embeddings}, {num_embeddings}), got"
                    f" {padding_idx}"
                )
            padding_idx %= num_embeddings
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.padding_idx = padding_idx
        self.weight: Parameter = new_parameter(
            num_embeddings, embedding_dim, device=device, dtype=dtype
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        init.normal_(self.weight)
        if self.padding_idx is not None:
            init.zeros_(self.weight.detach()[self.padding_idx])

    @classmethod
    def from_pretrained(
        cls, embeddings: Any, freeze: bool = True, padding_idx: int | None = None
    ) -> Embedding:
        """An Embedding with these vectors [num_embeddings, embedding_dim]."""
        table = Parameter(embeddings, not freeze)
        if table.ndim != 2:
            raise ValueError(
                f"Embedding: embeddings must have shape [V, D], got {list(table.shape)}"
            )
        with init.skip():
            module = cls(table.shape[0], table.shape[1], padding_idx)
        module.weight = table
        return module

    def forward(self, ids: Tensor) -> Tensor:
        """Integers [...] to [..., embedding_dim]."""
        return ops.embedding(ids, self.weight, padding_idx=self.padding_idx)

    def extra_repr(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}"


def _extents(owner: str, normalized_shape: int | Sequence[int]) -> tuple[int, ...]:
    given = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    if not given:
        raise ValueError(f"{owner}: normalized_shape must not be empty")
    for n in given:
        positive(owner, normalized_shape=n)
    return given


class _Norm(Module):
    weight: Parameter | None

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None,
        elementwise_affine: bool,
        device: Any,
        dtype: Any,
    ) -> None:
        super().__init__()
        self.normalized_shape = _extents(type(self).__name__, normalized_shape)
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        self.weight = (
            new_parameter(*self.normalized_shape, device=device, dtype=dtype)
            if elementwise_affine
            else None
        )

    def _flat(self, x: Tensor) -> Tensor:
        """Several normalised axes as one; the ops work on the last."""
        n = len(self.normalized_shape)
        if x.shape[-n:] != self.normalized_shape:
            wanted = ", ".join(map(str, self.normalized_shape))
            raise ValueError(
                f"{type(self).__name__}: x must have shape [..., {wanted}], got {list(x.shape)}"
            )
        return x if n == 1 else x.flatten(-n)

    def extra_repr(self) -> str:
        return (
            f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"
        )


class LayerNorm(_Norm):
    """``(x - mean) / sqrt(variance + eps) * weight + bias`` over the last axes.

    Parameters
    ----------
    normalized_shape : int or sequence of int
        Extents of the axes that are normalised.
    eps : float
    elementwise_affine, bias : bool

    Attributes
    ----------
    weight, bias : Parameter [*normalized_shape] or None

    Examples
    --------
    >>> import seqloom as sl
    >>> sl.nn.LayerNorm(2, eps=1e-9)(sl.tensor([[1.0, 3.0]])).tolist()
    [[-1.0, 1.0]]
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(normalized_shape, eps, elementwise_affine, device, dtype)
        self.eps: float = eps
        self.bias: Parameter | None = (
            new_parameter(*self.normalized_shape, device=device, dtype=dtype)
            if elementwise_affine and bias
            else None
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.weight is not None:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[..., *normalized_shape] to the same shape."""
        if len(self.normalized_shape) == 1:
            return ops.layer_norm(x, self.weight, self.bias, eps=self.eps)
        weight = None if self.weight is None else self.weight.flatten()
        bias = None if self.bias is None else self.bias.flatten()
        return ops.layer_norm(self._flat(x), weight, bias, eps=self.eps).reshape(x.shape)


class RMSNorm(_Norm):
    """``x / sqrt(mean(x^2) + eps) * weight`` over the last axes.

    Parameters
    ----------
    normalized_shape : int or sequence of int
    eps : float, optional
        By default, as in torch, the smallest step of x's dtype.
    elementwise_affine : bool

    Attributes
    ----------
    weight : Parameter [*normalized_shape] or None

    Examples
    --------
    >>> import seqloom as sl
    >>> sl.nn.RMSNorm(2, eps=1e-9)(sl.tensor([[2.0, -2.0]])).tolist()
    [[1.0, -1.0]]
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(normalized_shape, eps, elementwise_affine, device, dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.weight is not None:
            init.ones_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[..., *normalized_shape] to the same shape."""
        eps = _EPS.get(x.dtype.name, 2.0**-23) if self.eps is None else self.eps
        if len(self.normalized_shape) == 1:
            return ops.rms_norm(x, self.weight, eps=eps)
        weight = None if self.weight is None else self.weight.flatten()
        return ops.rms_norm(self._flat(x), weight, eps=eps).reshape(x.shape)


_EPS = {"float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7, "float64": 2.0**-52}
