# SPDX-License-Identifier: Apache-2.0
"""Attention over keys and values that grow step by step. Nothing here is recorded for backward."""

from __future__ import annotations

import math

from .. import _core
from ..dtypes import float64
from ..tensor import Tensor
from .attention import _UNBOUNDED, _WIDEST_ON_CUDA, scaled_dot_product_attention
from .layout import unbind

__all__: list[str] = []


def cache_write(
    buffer: Tensor, new: Tensor, starts: int | Tensor, counts: Tensor | None = None
) -> None:
    """``buffer[b, :, starts[b] + i] = new[b, :, i]`` for i below counts[b].

    buffer [B, H, capacity, D], new [B, H, n, D]; starts and counts int64 [B], both on the CPU or
    both on the buffer's device, where nobody checks them and what would lie outside is not
    written; an int start is that of every row, counts None means n for every row.
    """
    _core.cache_write(buffer, new, starts, counts)


class Step:
    """Where the tokens of a step stand, the same for every layer.

    Parameters
    ----------
    starts : int or int64 Tensor [B]
        Places of the first tokens in the buffers.
    counts : int64 Tensor [B] or None
        How many are valid.
    lengths : int64 Tensor [B]
        What the buffers hold with them.

    Tensors lie on the buffers' device; `counts` on the CPU where `starts` is an int.
    """

    __slots__ = ("counts", "lengths", "starts")

    def __init__(self, starts: int | Tensor, counts: Tensor | None, lengths: Tensor) -> None:
        self.starts, self.counts, self.lengths = starts, counts, lengths


def is_composed(keys: Tensor) -> bool:
    """Whether attention over such buffers has no kernel of its own."""
    return keys.dtype is float64 or (keys.is_cuda and keys.shape[3] > _WIDEST_ON_CUDA)


def cached_attention(
    step: Step,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    keys: Tensor,
    values: Tensor,
    scale: float | None,
    left: int | None,
    slopes: Tensor | None,
    mask: Tensor | None = None,
) -> Tensor:
    """Keep key and value [B, Hkv, n, D] in buffers [B, Hkv, capacity, D]; causal attention of
    query [B, Hq, n, D] over all that they hold, `left` being how far back a query sees.
    """
    if scale is None:
        scale = 1.0 / math.sqrt(query.shape[3])
    if is_composed(keys):
        cache_write(keys, key, step.starts, step.counts)
        cache_write(values, value, step.starts, step.counts)
        result: Tensor = scaled_dot_product_attention(
            query, keys, values, mask, is_causal=True, causal_offset=step.starts, scale=scale,
            key_lengths=step.lengths, window=None if left is None else (left, 0),
            alibi_slopes=slopes,
        )  # fmt: skip
        return result
    return _core.cached_attention(
        query, key, value, keys, values, step.starts, step.counts, step.lengths, mask, slopes,
        scale, _UNBOUNDED if left is None else left,
    )  # fmt: skip


def cached_attention_joint(
    step: Step,
    joint: Tensor,
    keys: Tensor,
    values: Tensor,
    by_head: bool,
    scale: float | None,
    slopes: Tensor | None,
) -> Tensor:
    """The same of the product [B, n, 3 H D] that made query, key and value; gives [B, n, H D].

    Its columns are [3, H, D], or [H, 3, D] with `by_head`.
    """
    if scale is None:
        scale = 1.0 / math.sqrt(keys.shape[3])
    if is_composed(keys):
        batch, length, columns = joint.shape
        query, key, value = split_joint(joint, keys.shape[1], by_head)
        y = cached_attention(step, query, key, value, keys, values, scale, None, slopes)
        merged: Tensor = y.transpose(1, 2).reshape(batch, length, columns // 3)
        return merged
    return _core.cached_attention_joint(
        joint, keys, values, by_head, step.starts, step.counts, step.lengths, slopes, scale,
        _UNBOUNDED,
    )  # fmt: skip


def split_joint(joint: Tensor, heads: int, by_head: bool) -> tuple[Tensor, ...]:
    """Query, key and value [B, H, T, D] of [B, T, 3 H D]."""
    batch, length, columns = joint.shape
    width = columns // (3 * heads)
    if by_head:
        parts = joint.reshape(batch, length, heads, 3, width).permute(3, 0, 2, 1, 4)
    else:
        parts = joint.reshape(batch, length, 3, heads, width).permute(2, 0, 3, 1, 4)
    return tuple(unbind(parts))
