# SPDX-License-Identifier: Apache-2.0
"""AdditiveAttention (Bahdanau) and DotAttention (Luong): decoder states look at encoder states."""

from __future__ import annotations

from typing import Any

from .. import ops
from ..ops.seq2seq_attention import additive_attention_projected, project_keys
from ..tensor import Tensor
from . import init
from .init import new_parameter
from .linear import positive
from .module import Module
from .parameter import Parameter

Looked = tuple[Tensor, "Tensor | None"]


def _check_tensors(owner: str, **given: Any) -> None:
    for name, x in given.items():
        if not isinstance(x, Tensor):
            raise TypeError(f"{owner}: {name} must be a Tensor, got {type(x).__name__}")


def _queries(owner: str, query: Tensor, keys: Tensor, widths: tuple[int | None, int]) -> Tensor:
    """The query as [B, Tq, Dq], with the shapes checked."""
    _check_tensors(owner, query=query, keys=keys)
    q = query.unsqueeze(1) if query.ndim == 2 else query
    if keys.ndim != 3 or keys.shape[2] != widths[1]:
        raise ValueError(
            f"{owner}: keys must have shape [B, Tk, {widths[1]}], got {list(keys.shape)}"
        )
    if q.ndim != 3 or q.shape[0] != keys.shape[0] or widths[0] not in (None, q.shape[2]):
        raise ValueError(
            f"{owner}: query must have shape [B, Tq, Dq] or [B, Dq] with B = {keys.shape[0]}, Dq ="
            f" {widths[0]}, got {list(query.shape)}"
        )
    return q


def _given(result: Any, query: Tensor, need_weights: bool) -> Looked:
    context, weights = result if need_weights else (result, None)
    if query.ndim == 3:
        return context, weights
    return context.squeeze(1), None if weights is None else weights.squeeze(1)


class AdditiveAttention(Module):
    """Bahdanau's: ``score = v . tanh(w_query q + w_key k)``.

    Parameters
    ----------
    query_dim, key_dim : int
    hidden_dim : int, optional
        Width A of the tanh layer; query_dim by default.

    Attributes
    ----------
    w_query [A, query_dim], w_key [A, key_dim], v [A] : Parameter

    Examples
    --------
    A decoder projects its keys once for all steps:

    >>> import seqloom as sl
    >>> attention = sl.nn.AdditiveAttention(4, 6)
    >>> keys = sl.ones(2, 5, 6)
    >>> projected = attention.project_keys(keys)
    >>> for step in range(3):
    ...     context, weights = attention(sl.ones(2, 4), keys, projected_keys=projected)

    Batches of different lengths:

    >>> context, weights = attention(sl.ones(2, 4), sl.ones(2, 5, 6), key_lengths=sl.tensor([5, 3]))
    >>> context.shape, weights.shape
    ((2, 6), (2, 5))
    """

    def __init__(
        self,
        query_dim: int,
        key_dim: int,
        hidden_dim: int | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        width = query_dim if hidden_dim is None else hidden_dim
        positive("AdditiveAttention", query_dim=query_dim, key_dim=key_dim, hidden_dim=width)
        self.query_dim, self.key_dim, self.hidden_dim = query_dim, key_dim, width
        self.w_query: Parameter = new_parameter(width, query_dim, device=device, dtype=dtype)
        self.w_key: Parameter = new_parameter(width, key_dim, device=device, dtype=dtype)
        self.v: Parameter = new_parameter(width, device=device, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        init.xavier_uniform_(self.w_query)
        init.xavier_uniform_(self.w_key)
        init.uniform_(self.v, -(self.hidden_dim**-0.5), self.hidden_dim**-0.5)

    def project_keys(self, keys: Tensor, key_lengths: Any = None) -> Tensor:
        """``w_key keys`` [B, Tk, A], which does not change while a decoder walks on.

        With `key_lengths` what lies past them may be anything, NaN too.
        """
        _check_tensors("AdditiveAttention", keys=keys)
        if keys.ndim != 3 or keys.shape[2] != self.key_dim:
            raise ValueError(
                f"AdditiveAttention: keys must have shape [B, Tk, {self.key_dim}], got"
                f" {list(keys.shape)}"
            )
        return project_keys(keys, self.w_key, key_lengths)

    def forward(
        self,
        query: Tensor,
        keys: Tensor,
        values: Tensor | None = None,
        key_lengths: Any = None,
        need_weights: bool = True,
        projected_keys: Tensor | None = None,
    ) -> Looked:
        """
        Parameters
        ----------
        query : [B, Tq, query_dim] or [B, query_dim]
        keys : [B, Tk, key_dim]
        values : [B, Tk, Dv], optional
            What is averaged; keys by default.
        key_lengths : integers [B], optional
        need_weights : bool
        projected_keys : [B, Tk, A], optional
            What `project_keys` made of the keys.

        Returns
        -------
        (context, weights) : [B, Tq, Dv], [B, Tq, Tk] or None; without Tq where query has none
        """
        q = _queries("AdditiveAttention", query, keys, (self.query_dim, self.key_dim))
        if projected_keys is not None:
            _check_tensors("AdditiveAttention", projected_keys=projected_keys)
            wanted = (*keys.shape[:2], self.hidden_dim)
            if projected_keys.shape != wanted:
                raise ValueError(
                    f"AdditiveAttention: projected_keys must have shape {list(wanted)}, got"
                    f" {list(projected_keys.shape)}"
                )
            averaged = keys if values is None else values
            result = additive_attention_projected(
                q, projected_keys, averaged, self.w_query, self.v, key_lengths, need_weights
            )
            return _given(result, query, need_weights)
        result = ops.additive_attention(
            q, keys, self.w_query, self.w_key, self.v,
            values=values, key_lengths=key_lengths, return_weights=need_weights,
        )  # fmt: skip
        return _given(result, query, need_weights)

    def extra_repr(self) -> str:
        return f"{self.query_dim}, {self.key_dim}, {self.hidden_dim}"


class DotAttention(Module):
    """Luong's, with one of three scores.

    Parameters
    ----------
    score : {"dot", "general", "concat"}
        ``q . k``, ``q . weight k`` or ``v . tanh(weight [q; k])``.
    query_dim, key_dim : int, optional
        Widths, for "general" and "concat".
    hidden_dim : int, optional
        Width A of the tanh layer of "concat"; query_dim by default.

    Attributes
    ----------
    weight : Parameter [query_dim, key_dim] ("general"), [A, query_dim + key_dim] ("concat") or None
    v : Parameter [A] ("concat") or None

    Examples
    --------
    >>> import seqloom as sl
    >>> context, weights = sl.nn.DotAttention()(sl.ones(2, 3, 4), sl.ones(2, 5, 4))
    >>> context.shape, weights.shape
    ((2, 3, 4), (2, 3, 5))
    """

    def __init__(
        self,
        score: str = "dot",
        query_dim: int | None = None,
        key_dim: int | None = None,
        hidden_dim: int | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if score not in ("dot", "general", "concat"):
            raise ValueError(
                f"DotAttention: score must be 'dot', 'general' or 'concat', got {score!r}"
            )
        self.score, self.query_dim, self.hidden_dim = score, query_dim, hidden_dim
        self.key_dim = query_dim if key_dim is None else key_dim
        self.weight: Parameter | None = None
        self.v: Parameter | None = None
        if score == "dot":
            if self.key_dim != query_dim:
                raise ValueError(
                    f"DotAttention: key_dim must equal query_dim = {query_dim} for 'dot', got"
                    f" {key_dim}"
                )
            return
        positive("DotAttention", query_dim=query_dim, key_dim=self.key_dim)
        assert query_dim is not None
        assert self.key_dim is not None
        if score == "general":
            self.weight = new_parameter(query_dim, self.key_dim, device=device, dtype=dtype)
        else:
            self.hidden_dim = query_dim if hidden_dim is None else hidden_dim
            positive("DotAttention", hidden_dim=self.hidden_dim)
            columns = query_dim + self.key_dim
            self.weight = new_parameter(self.hidden_dim, columns, device=device, dtype=dtype)
            self.v = new_parameter(self.hidden_dim, device=device, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.weight is not None:
            init.xavier_uniform_(self.weight)
        if self.v is not None:
            init.uniform_(self.v, -(self.v.size**-0.5), self.v.size**-0.5)

    def forward(
        self,
        query: Tensor,
        keys: Tensor,
        values: Tensor | None = None,
        key_lengths: Any = None,
        need_weights: bool = True,
    ) -> Looked:
        """
        Parameters
        ----------
        query : [B, Tq, Dq] or [B, Dq]
        keys : [B, Tk, Dk]
        values : [B, Tk, Dv], optional
            What is averaged; keys by default.
        key_lengths : integers [B], optional
        need_weights : bool

        Returns
        -------
        (context, weights) : [B, Tq, Dv], [B, Tq, Tk] or None; without Tq where query has none
        """
        _check_tensors("DotAttention", keys=keys)
        width = (keys.shape or (0,))[-1] if self.key_dim is None else self.key_dim
        wanted = width if self.score == "dot" else self.query_dim
        q = _queries("DotAttention", query, keys, (wanted, width))
        if self.v is not None and self.weight is not None:
            split = q.shape[2]
            w_query, w_key = self.weight[:, :split], self.weight[:, split:]
            result = ops.additive_attention(
                q, keys, w_query, w_key, self.v,
                values=values, key_lengths=key_lengths, return_weights=need_weights,
            )  # fmt: skip
        else:
            result = ops.dot_attention(
                q, keys,
                weight=self.weight, values=values, key_lengths=key_lengths,
                return_weights=need_weights,
            )  # fmt: skip
        return _given(result, query, need_weights)

    def extra_repr(self) -> str:
        widths = "" if self.query_dim is None else f", {self.query_dim}, {self.key_dim}"
        return f"{self.score!r}{widths}"
