# SPDX-License-Identifier: Apache-2.0
"""Attention over keys and values that grow step by step. Nothing here is recorded for backward."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import _core
from ..dtypes import float64
from ..tensor import Tensor
from .attention import _UNBOUNDED, scaled_dot_product_attention

__all__: list[str] = []

Ints = np.ndarray[Any, np.dtype[np.int64]]
_EVERYTHING = slice(None)


def cache_write(buffer: Tensor, new: Tensor, starts: int | Ints, counts: Ints | None) -> None:
    """``buffer[b, :, starts[b] + i] = new[b, :, i]`` for i below counts[b].

    buffer [B, H, capacity, D], new [B, H, n, D]; an int start is that of every row, counts None
    means n for every row.
    """
    n = new.shape[2]
    if counts is None and isinstance(starts, int):
        key = (_EVERYTHING, _EVERYTHING, slice(starts, starts + n))
        _core.copy_(_core.index(buffer, key), new)  # type: ignore[arg-type]
        return
    first = [starts] * new.shape[0] if isinstance(starts, int) else starts.tolist()
    many = [n] * new.shape[0] if counts is None else counts.tolist()
    for row, (start, count) in enumerate(zip(first, many, strict=True)):
        if count:
            place = _core.index(buffer, (row, _EVERYTHING, slice(start, start + count)))
            values = _core.index(new, (row, _EVERYTHING, slice(0, count)))
            _core.copy_(place, values)  # type: ignore[arg-type]


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
