# SPDX-License-Identifier: Apache-2.0
"""Attention over keys and values that grow step by step. Nothing here is recorded for backward."""

from __future__ import annotations

import math

from .. import _core
from ..dtypes import float64
from ..tensor import Tensor
from .attention import _UNBOUNDED, scaled_dot_product_attention

__all__: list[str] = []


def cache_write(
    buffer: Tensor, new: Tensor, starts: int | Tensor, counts: Tensor | None = None
) -> None:
    """``buffer[b, :, starts[b] + i] = new[b, :, i]`` for i below counts[b].

    buffer [B, H, capacity, D], new [B, H, n, D]; starts and counts int64 [B] on the CPU; an int
    start is that of every row, counts None means n for every row.
    """
    _core.cache_write(buffer, new, starts, counts)


def cached_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    key_lengths: Tensor,
    offset: int | Tensor,
    scale: float | None,
    left: int | None,
    slopes: Tensor | None,
    mask: Tensor | None = None,
) -> Tensor:
    """Causal attention of query [B, Hq, n, D] over whole buffers [B, Hkv, capacity, D].

    key_lengths, and the positions `offset` of the first queries where they differ, are int64 [B]
    on the CPU; `left` is how far back a query sees.
    """
    if query.is_cuda or query.dtype is float64:
        result: Tensor = scaled_dot_product_attention(
            query, keys, values, mask, is_causal=True, causal_offset=offset, scale=scale,
            key_lengths=key_lengths, window=None if left is None else (left, 0),
            alibi_slopes=slopes,
        )  # fmt: skip
        return result
    if scale is None:
        scale = 1.0 / math.sqrt(query.shape[3])
    reach = _UNBOUNDED if left is None else left
    if isinstance(offset, int):
        first, offsets = offset, None
    else:
        first, offsets = 0, offset
    output: Tensor
    output, _ = _core.attention_forward(
        query, keys, values, mask, key_lengths, offsets, slopes,
        scale, first, reach, 0, 0.0, 0.0, 0, 0, False,
    )  # fmt: skip
    return output
