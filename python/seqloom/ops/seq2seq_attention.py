# SPDX-License-Identifier: Apache-2.0
"""The attention of recurrent decoders: Bahdanau's and Luong's."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import _core
from ..autograd import Node, record
from ..dtypes import float32, float64
from ..tensor import Tensor, from_numpy
from ._arrays import on_tensors, public
from .attention import (
    Gradients,
    _floating,
    _lengths,
    _masked_softmax,
    _tensor,
    scaled_dot_product_attention,
)
from .elementwise import where
from .matmul import linear, matmul

__all__ = ["additive_attention", "dot_attention"]


def _check_decoder(op: str, query: Tensor, keys: Tensor, values: Tensor | None) -> None:
    if query.ndim != 3:
        raise ValueError(f"{op}: query must have shape [B, Tq, Dq], got {list(query.shape)}")
    if keys.ndim != 3 or keys.shape[0] != query.shape[0]:
        raise ValueError(
            f"{op}: keys must have shape [B, Tk, Dk] = [{query.shape[0]}, any, any], got"
            f" {list(keys.shape)}"
        )
    if values is not None and (values.ndim != 3 or values.shape[:2] != keys.shape[:2]):
        raise ValueError(
            f"{op}: values must have shape [B, Tk, Dv] ="
            f" [{keys.shape[0]}, {keys.shape[1]}, any], got {list(values.shape)}"
        )


def _visible_keys(lengths: Tensor | None, keys: int, device: str) -> Tensor | None:
    if lengths is None:
        return None
    seen = np.arange(keys) < lengths.cpu().numpy()[:, None, None]
    return from_numpy(seen).to(device=device)


def without_padding(x: Tensor, lengths: Tensor | None) -> Tensor:
    """x [B, Tk, D] with zeros past the lengths: a weight of zero times NaN would be NaN."""
    visible = _visible_keys(lengths, x.shape[1], x.device)
    return x if visible is None else where(visible.transpose(1, 2), x, 0.0)


def _attend(scores: Tensor, values: Tensor, lengths: Tensor | None, return_weights: bool) -> Any:
    """Context [B, Tq, Dv] (and weights) of scores [B, Tq, Tk]."""
    visible = _visible_keys(lengths, scores.shape[-1], scores.device)
    weights = _masked_softmax(scores, visible)
    if values.is_cuda:
        values = without_padding(values, lengths)
    context = matmul(weights, values.to(dtype=weights.dtype))
    cheap = visible is not None and not values.is_cuda
    if cheap and not math.isfinite(context.detach().sum().item()):
        clean = without_padding(values, lengths)  # seldom needed, and looking is cheap here
        context = matmul(weights, clean.to(dtype=weights.dtype))
    context = context.to(dtype=values.dtype)
    return (context, weights.to(dtype=values.dtype)) if return_weights else context


@public
def additive_attention(
    query: Tensor,
    keys: Tensor,
    w_query: Tensor,
    w_key: Tensor,
    v: Tensor,
    *,
    values: Tensor | None = None,
    key_lengths: Tensor | None = None,
    return_weights: bool = False,
) -> Any:
    """Bahdanau's attention: score = v . tanh(w_query query + w_key key).

    The hidden layer of the score is never in memory for all pairs.

    Parameters
    ----------
    query : array [B, Tq, Dq]
        float32, float16 or bfloat16.
    keys : array [B, Tk, Dk]
    w_query : array [A, Dq]
    w_key : array [A, Dk]
    v : array [A]
    values : array [B, Tk, Dv], optional
        The keys by default.
    key_lengths : integer array [B], optional
        Keys at or past the length are padding.
    return_weights : bool

    Returns
    -------
    context [B, Tq, Dv], or (context, weights [B, Tq, Tk])

    Examples
    --------
    >>> import numpy as np, seqloom as sl
    >>> query, keys = np.ones((1, 1, 2), np.float32), np.ones((1, 3, 2), np.float32)
    >>> w = np.eye(2, dtype=np.float32)
    >>> sl.ops.additive_attention(query, keys, w, w, np.ones(2, np.float32)).shape
    (1, 1, 2)
    """
    op = "additive_attention"
    given = {"query": query, "keys": keys, "w_query": w_query, "w_key": w_key, "v": v}
    for name, t in given.items():
        if _tensor(op, name, t).dtype is not query.dtype:
            raise TypeError(
                f"{op}: {name} must have the dtype of query = {query.dtype.name}, got"
                f" {t.dtype.name}"
            )
    _floating(op, "query", query)
    if values is not None:
        _floating(op, "values", _tensor(op, "values", values))
    _check_decoder(op, query, keys, values)
    units = v.shape[0] if v.ndim == 1 else -1
    if v.ndim != 1:
        raise ValueError(f"{op}: v must have shape [A], got {list(v.shape)}")
    for name, w, x in (("w_query", w_query, query), ("w_key", w_key, keys)):
        if w.shape != (units, x.shape[2]):
            raise ValueError(
                f"{op}: {name} must have shape [A, D] = [{units}, {x.shape[2]}], got"
                f" {list(w.shape)}"
            )
    lengths = _lengths(op, key_lengths, query.shape[0], keys.shape[1], query.device)
    keys = without_padding(keys, lengths)
    projected = on_tensors(project_keys)(keys, w_key)
    values = keys if values is None else values
    return on_tensors(additive_attention_projected)(
        query, projected, values, w_query, v, lengths, return_weights
    )


def _wide(t: Tensor) -> Tensor:
    return t if t.dtype is float64 else t.to(dtype=float32)


def _wide_linear(x: Tensor, weight: Tensor) -> Tensor:
    return linear(_wide(x), _wide(weight))


@public
def project_keys(keys: Tensor, w_key: Tensor, key_lengths: Tensor | None = None) -> Tensor:
    """w_key keys [B, Tk, A], in float32 or wider, for `additive_attention_projected`."""
    lengths = _lengths("project_keys", key_lengths, keys.shape[0], keys.shape[1], keys.device)
    return _wide_linear(without_padding(keys, lengths), w_key)


@public
def additive_attention_projected(
    query: Tensor,
    projected_keys: Tensor,
    values: Tensor,
    w_query: Tensor,
    v: Tensor,
    key_lengths: Tensor | None = None,
    return_weights: bool = False,
) -> Any:
    """additive_attention with w_key keys given: a decoder projects its keys once for all steps.

    `projected_keys` is [B, Tk, A], as `project_keys` gives it.
    """
    batch, keys = query.shape[0], values.shape[1]
    lengths = _lengths("additive_attention", key_lengths, batch, keys, query.device)
    x, y, u = _wide_linear(query, w_query), _wide(projected_keys), _wide(v)
    if x.dtype is float64:
        y = without_padding(y, lengths)
        hidden = (x.unsqueeze(2) + y.unsqueeze(1)).tanh()
        return _attend(matmul(hidden, u), values, lengths, return_weights)
    scores = _core.additive_scores(x, y, u, lengths)
    if x._needs_grad or y._needs_grad or u._needs_grad:
        record(scores, "additive_scores", (x, y, u), _additive_backward, (x, y, u, lengths))
    return _attend(scores, values, lengths, return_weights)


def _additive_backward(node: Node, gradient: Tensor) -> Gradients:
    dx, dy, dv = _core.additive_scores_backward(gradient, *node.saved_tensors())
    return dx, dy, dv.sum(dim=0)


@public
def dot_attention(
    query: Tensor,
    keys: Tensor,
    *,
    weight: Tensor | None = None,
    values: Tensor | None = None,
    key_lengths: Tensor | None = None,
    return_weights: bool = False,
) -> Any:
    """Luong's attention: score = query . key, or query . (weight key); not scaled.

    Parameters
    ----------
    query : array [B, Tq, Dq]
        float32, float16 or bfloat16.
    keys : array [B, Tk, Dk]
    weight : array [Dq, Dk], optional
        The "general" score.
    values : array [B, Tk, Dv], optional
        The keys by default.
    key_lengths : integer array [B], optional
        Keys at or past the length are padding.
    return_weights : bool

    Returns
    -------
    context [B, Tq, Dv], or (context, weights [B, Tq, Tk])

    Examples
    --------
    >>> import numpy as np, seqloom as sl
    >>> keys = np.array([[[0.0, 1.0], [0.0, 3.0]]], np.float32)
    >>> sl.ops.dot_attention(np.zeros((1, 1, 2), np.float32), keys)
    array([[[0., 2.]]], dtype=float32)
    """
    op = "dot_attention"
    for name, t in (("query", query), ("keys", keys), ("weight", weight), ("values", values)):
        if t is None and name in ("weight", "values"):
            continue
        given = _tensor(op, name, t)
        if given.dtype is not query.dtype:
            raise TypeError(
                f"{op}: {name} must have the dtype of query = {query.dtype.name}, got"
                f" {given.dtype.name}"
            )
    _floating(op, "query", query)
    _check_decoder(op, query, keys, values)
    if weight is not None and weight.shape != (query.shape[2], keys.shape[2]):
        raise ValueError(
            f"{op}: weight must have shape [Dq, Dk] = [{query.shape[2]}, {keys.shape[2]}], got"
            f" {list(weight.shape)}"
        )
    if weight is None and query.shape[2] != keys.shape[2]:
        raise ValueError(
            f"{op}: keys must have shape [B, Tk, Dq] = [{query.shape[0]}, any, {query.shape[2]}],"
            f" got {list(keys.shape)}"
        )
    lengths = _lengths(op, key_lengths, query.shape[0], keys.shape[1], query.device)
    values = keys if values is None else values
    projected = _wide(query) if weight is None else matmul(_wide(query), _wide(weight))
    # A 16-bit projection would lose what float32 keeps, so it stays out of the fused kernel.
    narrow = projected.dtype is not query.dtype and weight is not None
    if return_weights or narrow or query.dtype is float64:
        keys = without_padding(keys, lengths)
        scores = matmul(projected, _wide(keys).transpose(-1, -2))
        return _attend(scores, values, lengths, return_weights)
    projected = projected.to(dtype=query.dtype)
    context = scaled_dot_product_attention(
        projected.unsqueeze(1), keys.unsqueeze(1), values.unsqueeze(1), scale=1.0,
        key_lengths=lengths,
    )  # fmt: skip
    return context.squeeze(1)
