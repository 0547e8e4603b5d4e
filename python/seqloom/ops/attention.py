# SPDX-License-Identifier: Apache-2.0
"""Scaled dot-product attention with every option."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np

from .. import _core
from ..autograd import Node, record
from ..dtypes import float32, float64, int64
from ..tensor import Tensor, from_numpy
from ._arrays import public
from .activation import _dropout_backward
from .elementwise import where
from .matmul import matmul
from .softmax import softmax

__all__ = ["scaled_dot_product_attention"]

_SDPA = "scaled_dot_product_attention"
_UNBOUNDED = 1 << 40
_WIDEST_ON_CUDA = 256  # head size of the fused kernels
_CAPS = (2.0**-126, 2.0**126)  # where a softcap and its reciprocal are numbers of float32
Gradients = tuple["Tensor | None", ...]


# ---- checks -------------------------------------------------------------------------------------


def _tensor(op: str, name: str, value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(f"{op}: {name} must be an array, got {type(value).__name__}")
    return value


def _number(op: str, name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{op}: {name} must be a number, got {type(value).__name__}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{op}: {name} must be a number that fits in a float") from None


def _cap(op: str, value: Any) -> float:
    cap = _number(op, "softcap", value)
    if not _CAPS[0] <= cap <= _CAPS[1]:
        raise ValueError(f"{op}: softcap must be positive, in [2^-126, 2^126], got {cap}")
    return cap


def _floating(op: str, name: str, value: Tensor) -> None:
    if not value.dtype.is_floating_point:
        raise TypeError(
            f"{op}: {name} must be float32, float16, bfloat16 or float64, got {value.dtype.name}"
        )


def _integers(op: str, name: str, value: Any, batch: int, device: str) -> Tensor | None:
    """An array [batch] of integers as int64 on the device."""
    if value is None:
        return None
    if not isinstance(value, Tensor):
        raise TypeError(f"{op}: {name} must be an integer array, got {type(value).__name__}")
    if value.dtype.is_floating_point or value.dtype.name == "bool":
        raise TypeError(f"{op}: {name} must be integers, got {value.dtype.name}")
    if value.shape != (batch,):
        raise ValueError(f"{op}: {name} must have shape [B] = [{batch}], got {list(value.shape)}")
    return value.detach().to(dtype=int64, device=device)


def _lengths(op: str, value: Any, batch: int, keys: int, device: str) -> Tensor | None:
    lengths = _integers(op, "key_lengths", value, batch, device)
    # Lengths that are on the GPU already are not checked, which would wait for it: kernels clamp.
    if lengths is not None and batch > 0 and not (lengths.is_cuda and value.is_cuda):
        host = value.cpu().numpy()
        if host.min() < 0 or host.max() > keys:
            raise ValueError(
                f"{op}: key_lengths must be in [0, {keys}], got"
                f" {int(host.min() if host.min() < 0 else host.max())}"
            )
    return lengths


def _window(window: Any, is_causal: bool) -> tuple[int, int]:
    """How far a query sees to the left and to the right."""
    left = right = _UNBOUNDED
    if window is not None:
        sides = (window, window) if isinstance(window, int) else window
        if not isinstance(sides, (tuple, list)):
            raise TypeError(
                f"{_SDPA}: window must be an integer or a pair, got {type(window).__name__}"
            )
        try:
            steps = [operator.index(n) for n in sides]  # of NumPy too
        except TypeError:
            raise TypeError(f"{_SDPA}: window must be integers, got {window}") from None
        if len(steps) != 2 or min(steps) < 0:
            raise ValueError(
                f"{_SDPA}: window must be one or two integers that are not negative, got {window}"
            )
        left, right = (min(n, _UNBOUNDED) for n in steps)
    return left, 0 if is_causal else right


def _mask(mask: Any, query: Tensor) -> Tensor | None:
    if mask is None:
        return None
    t = _tensor(_SDPA, "attn_mask", mask)
    if t.dtype.name == "bool" or t.dtype is query.dtype or t.dtype is float32:
        return t
    if not t.dtype.is_floating_point:
        raise TypeError(f"{_SDPA}: attn_mask must be bool or floating point, got {t.dtype.name}")
    return t.to(dtype=query.dtype)


# ---- scaled dot-product attention ---------------------------------------------------------------


@public
def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    *,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    causal_offset: int | Tensor = 0,
    scale: float | None = None,
    key_lengths: Tensor | None = None,
    window: int | tuple[int, int] | None = None,
    softcap: float | None = None,
    alibi_slopes: Tensor | None = None,
    return_weights: bool = False,
) -> Any:
    """softmax(scale * query @ key^T + masks) @ value, without the matrix of scores in memory.

    Query i stands at position i + causal_offset among the keys.

    Parameters
    ----------
    query : array [B, Hq, Tq, D]
        float32, float16 or bfloat16 (accumulated in float32); float64 on the CPU.
    key : array [B, Hkv, Tk, D]
        Hq is a multiple of Hkv: query head h reads key head h // (Hq / Hkv).
    value : array [B, Hkv, Tk, Dv]
    attn_mask : array, optional
        Broadcast to [B, Hq, Tq, Tk]. bool: True attends. Otherwise added to the scores; -inf
        hides; it may require a gradient.
    dropout_p : float
        Weights are dropped with this probability, the others scaled by 1 / (1 - dropout_p).
    is_causal : bool
        Query i sees the keys j <= i + causal_offset.
    causal_offset : int or integer array [B]
    scale : float, optional
        1 / sqrt(D) by default.
    key_lengths : integer array [B], optional
        Keys at or past the length are padding.
    window : int or (left, right), optional
        Keys further than that from the query's position are not seen. An int is both sides.
    softcap : float, optional
        Scores become softcap * tanh(score / softcap) before masks and biases.
    alibi_slopes : array [Hq], optional
        slope * (key - query position) is added to the scores; they may require a gradient.
    return_weights : bool
        Also return the weights that multiplied the values.

    Returns
    -------
    array [B, Hq, Tq, Dv], or (that, weights [B, Hq, Tq, Tk])
        A query that sees no key gives zeros. What a hidden key or value holds, NaN even, has no
        part in any result or gradient.

    Examples
    --------
    >>> import numpy as np, seqloom as sl
    >>> q = k = np.zeros((1, 1, 2, 4), np.float32)
    >>> v = np.array([[[[1.0], [3.0]]]], np.float32)
    >>> sl.ops.scaled_dot_product_attention(q, k, v, is_causal=True)
    array([[[[1.],
             [2.]]]], dtype=float32)
    """
    if not (isinstance(query, Tensor) and isinstance(key, Tensor) and isinstance(value, Tensor)):
        for name, t in (("query", query), ("key", key), ("value", value)):
            _tensor(_SDPA, name, t)
    shape = query.shape
    if len(shape) != 4:
        raise ValueError(f"{_SDPA}: query must have shape [B, Hq, Tq, D], got {list(shape)}")
    batch, heads, _, width = shape
    left, right = _UNBOUNDED, 0 if is_causal else _UNBOUNDED
    if window is not None:
        left, right = _window(window, is_causal)
    mask = None if attn_mask is None else _mask(attn_mask, query)
    offset: int = 0
    offsets = lengths = slopes = None
    if isinstance(causal_offset, int):
        if causal_offset:
            offset = max(-_UNBOUNDED, min(causal_offset, _UNBOUNDED))
    else:
        offsets = _integers(_SDPA, "causal_offset", causal_offset, batch, query.device)
    if key_lengths is not None:
        keys = key.shape[2] if key.ndim == 4 else 0
        lengths = _lengths(_SDPA, key_lengths, batch, keys, query.device)
    if softcap is not None:
        softcap = _cap(_SDPA, softcap)
    if alibi_slopes is not None:
        slopes = _tensor(_SDPA, "alibi_slopes", alibi_slopes)
        if slopes.shape != (heads,):
            raise ValueError(
                f"{_SDPA}: alibi_slopes must have shape [Hq] = [{heads}], got {list(slopes.shape)}"
            )
        slopes = slopes.to(dtype=float64 if query.dtype is float64 else float32)
    scale = 1.0 / math.sqrt(max(width, 1)) if scale is None else _number(_SDPA, "scale", scale)
    drop = (0.0, 0, 0)
    if dropout_p != 0.0:
        p = _number(_SDPA, "dropout_p", dropout_p)
        if not 0 <= p <= 1:
            raise ValueError(f"{_SDPA}: dropout_p must be in [0, 1], got {p}")
        _check_shapes(query, key, value)  # key may be of any rank so far
        drop = (p, *_core.next_random_key(query.size // max(width, 1) * key.shape[-2]))

    too_wide = query.is_cuda and max(width, value.shape[-1] if value.ndim else 0) > _WIDEST_ON_CUDA
    if return_weights or query.dtype is float64 or too_wide:
        _check_shapes(query, key, value)
        output, weights = _compose(
            query, key, value, mask, lengths, offset if offsets is None else offsets, slopes,
            scale, left, right, softcap, drop,
        )  # fmt: skip
        return (output, weights) if return_weights else output

    recorded = (
        query._needs_grad
        or key._needs_grad
        or value._needs_grad
        or (mask is not None and mask._needs_grad)
        or (slopes is not None and slopes._needs_grad)
    )
    numbers = (scale, offset, left, right, softcap or 0.0, *drop)
    arrays = (mask, lengths, offsets, slopes)
    output, sums = _core.attention_forward(query, key, value, *arrays, *numbers, recorded)
    if recorded:
        saved = (query, key, value, output.detach(), sums, *arrays)
        wanted = tuple(t is not None and t._needs_grad for t in (mask, slopes))
        inputs = (query, key, value, mask, slopes)
        record(output, _SDPA, inputs, _attention_backward, saved, (*numbers, *wanted))
    return output


def _attention_backward(node: Node, gradient: Tensor) -> Gradients:
    saved = node.saved_tensors()
    dq, dk, dv, dm, ds = _core.attention_backward(gradient, *saved, *node.context)
    query, mask, slopes = saved[0], saved[5], saved[8]
    if 0 in query.shape[:2]:
        dm, ds = (None if d is None else t.detach() * 0.0 for d, t in ((dm, mask), (ds, slopes)))
    return dq, dk, dv, None if dm is None else dm.to(dtype=mask.dtype), ds


# ---- the same with the matrix in memory: weights on demand, float64, very wide heads on CUDA ----


def _check_shapes(query: Tensor, key: Tensor, value: Tensor) -> None:
    _floating(_SDPA, "query", query)
    batch, heads, _, width = query.shape
    if key.ndim != 4 or key.shape[0] != batch or key.shape[3] != width:
        raise ValueError(
            f"{_SDPA}: key must have shape [B, Hkv, Tk, D] = [{batch}, any, any, {width}], got"
            f" {list(key.shape)}"
        )
    kv_heads = key.shape[1]
    if heads % kv_heads if kv_heads else heads:
        raise ValueError(
            f"{_SDPA}: key must have a number of heads that divides Hq = {heads}, got {kv_heads}"
        )
    if value.ndim != 4 or value.shape[:3] != key.shape[:3]:
        raise ValueError(
            f"{_SDPA}: value must have shape [B, Hkv, Tk, Dv] ="
            f" {[*key.shape[:3], 'any']}, got {list(value.shape)}".replace("'", "")
        )
    for name, t in (("key", key), ("value", value)):
        if t.dtype is not query.dtype:
            raise TypeError(
                f"{_SDPA}: {name} must have the dtype of query = {query.dtype.name}, got"
                f" {t.dtype.name}"
            )


def _check_mask(mask: Tensor, scores: tuple[int, ...]) -> None:
    sizes = zip(reversed(mask.shape), reversed(scores), strict=False)
    if mask.ndim > 4 or any(n not in (1, wanted) for n, wanted in sizes):
        raise ValueError(
            f"{_SDPA}: attn_mask must broadcast to [B, Hq, Tq, Tk] = {list(scores)}, got"
            f" {list(mask.shape)}"
        )


def _without_unseen(x: Tensor, visible: Tensor) -> Tensor:
    """x [B, Hkv, Tk, D] with zeros where nobody looks: a weight of zero times NaN would be NaN.

    visible is [B or 1, Hq or 1, Tq or 1, Tk].
    """
    seen = visible.any(dim=2)  # [B or 1, Hq or 1, Tk]
    if seen.shape[1] > 1:
        groups = (seen.shape[0], x.shape[1], seen.shape[1] // x.shape[1], x.shape[2])
        seen = seen.reshape(*groups).any(dim=2)
    return where(seen.unsqueeze(-1), x, 0.0)


def _compose(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    lengths: Tensor | None,
    offset: int | Tensor,
    slopes: Tensor | None,
    scale: float,
    left: int,
    right: int,
    softcap: float | None,
    drop: tuple[float, int, int],
) -> tuple[Tensor, Tensor]:
    """(output, weights) from tensor operations in float32 or wider."""
    batch, heads, queries, width = query.shape
    kv_heads, keys, value_width = value.shape[1:]
    group = heads // max(kv_heads, 1)
    rows = (batch, kv_heads, group * queries)
    others = {"key": key, "value": value, "attn_mask": mask, "alibi_slopes": slopes}
    for name, t in others.items():
        if t is not None and t.device != query.device:
            raise ValueError(
                f"{_SDPA}: {name} must be on the device of query = {query.device}, got {t.device}"
            )
    if mask is not None:
        _check_mask(mask, (batch, heads, queries, keys))
    start = np.asarray(offset if isinstance(offset, int) else offset.cpu().numpy())
    if start.size and max(int(start.max()), -int(start.min())) > _UNBOUNDED:
        raise ValueError(f"{_SDPA}: causal_offset must be within 2^40, got {start.tolist()}")
    held = None if lengths is None else lengths.cpu().numpy()
    start = start.reshape(-1, 1, 1)
    distance = np.arange(keys) - (np.arange(queries)[:, None] + start)  # [B or 1, Tq, Tk]
    seen = (distance >= -left) & (distance <= right)
    if held is not None:
        seen = seen & (np.arange(keys) < held[:, None, None])
    visible = from_numpy(np.ascontiguousarray(seen[:, None])).to(device=query.device)
    if mask is not None:
        visible = visible & (mask if mask.dtype.name == "bool" else mask.detach() != -math.inf)
    if held is not None or mask is not None or not seen.all():
        key, value = _without_unseen(key, visible), _without_unseen(value, visible)
    wide = float64 if query.dtype is float64 else float32
    q, k = query.to(dtype=wide) * scale, key.to(dtype=wide)
    scores = matmul(q.reshape(*rows, width), k.transpose(-1, -2))
    scores = scores.reshape(batch, heads, queries, keys)
    if softcap is not None:
        scores = (scores / softcap).tanh() * softcap
    if slopes is not None:
        away = from_numpy(np.ascontiguousarray(distance[:, None])).to(
            device=query.device, dtype=wide
        )
        scores = scores + away * slopes.reshape(heads, 1, 1)
    if mask is not None and mask.dtype.name != "bool":
        scores = scores + mask.to(dtype=wide)
    weights = _masked_softmax(scores, visible)
    if drop[0] > 0:
        dropped = _core.dropout(weights, *drop)
        if weights._needs_grad:
            record(dropped, "dropout", (weights,), _dropout_backward, (), drop)
        weights = dropped
    weights = weights.to(dtype=query.dtype)
    output = matmul(weights.reshape(*rows, keys), value)
    return output.reshape(batch, heads, queries, value_width), weights


def _masked_softmax(scores: Tensor, visible: Tensor | None) -> Tensor:
    """softmax over the last axis of what is visible; a row without anything visible is zeros."""
    if visible is None:
        return softmax(scores)
    if scores.shape[-1] == 0:
        return scores
    anything = visible.any(dim=-1, keepdim=True)
    lowest = where(anything, -math.inf, 0.0).to(dtype=scores.dtype)
    return where(visible, softmax(where(visible, scores, lowest)), 0.0)
