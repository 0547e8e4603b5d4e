# SPDX-License-Identifier: Apache-2.0
"""Attention over keys and values that lie in pages, as servers of many sequences keep them."""

from __future__ import annotations

import math

from .. import _core
from ..dtypes import float32, int64
from ..tensor import Tensor
from ._arrays import public
from .attention import _UNBOUNDED, _cap, _integers, _lengths, _number, _tensor

__all__ = ["paged_attention"]

_OP = "paged_attention"


@public
def paged_attention(
    query: Tensor,
    key_pages: Tensor,
    value_pages: Tensor,
    block_tables: Tensor,
    key_lengths: Tensor,
    *,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
    alibi_slopes: Tensor | None = None,
) -> Tensor:
    """Causal attention of the last tokens of each sequence over a cache in pages.

    Key j of sequence b is row j % page of page ``block_tables[b, j // page]``. The queries are the
    last Tq tokens: query i of sequence b stands at position ``key_lengths[b] - Tq + i``, its own
    key and value being in the cache already. For inference: nothing is recorded for backward.

    Parameters
    ----------
    query : array [B, Hq, Tq, D]
        float32, float16 or bfloat16.
    key_pages : array [pages, Hkv, page, D]
        The pool of all sequences; a page holds a power of two of keys. Hq is a multiple of Hkv.
    value_pages : array [pages, Hkv, page, Dv]
    block_tables : integer array [B, most pages of a sequence]
        Entries past a sequence's last page are not looked at.
    key_lengths : integer array [B]
    scale : float, optional
        1 / sqrt(D) by default.
    window : int, optional
        Keys further back than that are not seen.
    softcap : float, optional
        Scores become softcap * tanh(score / softcap).
    alibi_slopes : array [Hq], optional
        slope * (key - query position) is added to the scores.

    Returns
    -------
    array [B, Hq, Tq, Dv]
        A query that sees no key gives zeros.

    Examples
    --------
    >>> import numpy as np, seqloom as sl
    >>> keys = np.zeros((4, 1, 2, 8), np.float32)
    >>> values = np.arange(8, dtype=np.float32).reshape(4, 1, 2, 1)
    >>> tables, lengths = np.array([[3, 0]]), np.array([3])
    >>> sl.ops.paged_attention(np.ones((1, 1, 1, 8), np.float32), keys, values, tables, lengths)
    array([[[[4.3333335]]]], dtype=float32)
    """
    given = {"query": query, "key_pages": key_pages, "value_pages": value_pages}
    if alibi_slopes is not None:
        given["alibi_slopes"] = alibi_slopes
    for name, t in given.items():
        if _tensor(_OP, name, t)._needs_grad:
            raise ValueError(f"{_OP}: {name} must not require a gradient: nothing is recorded")
    if query.ndim != 4:
        raise ValueError(f"{_OP}: query must have shape [B, Hq, Tq, D], got {list(query.shape)}")
    batch, heads, queries, width = query.shape
    tables = _tensor(_OP, "block_tables", block_tables)
    if tables.dtype.is_floating_point or tables.dtype.name == "bool":
        raise TypeError(f"{_OP}: block_tables must be integers, got {tables.dtype.name}")
    if _tensor(_OP, "key_lengths", key_lengths).ndim != 1:  # the other checks are _lengths'
        _integers(_OP, "key_lengths", key_lengths, batch, query.device)
    page = key_pages.shape[2] if key_pages.ndim == 4 else 0
    capacity = (tables.shape[1] if tables.ndim == 2 else 0) * page
    lengths = _lengths(_OP, key_lengths, batch, capacity, query.device)
    assert lengths is not None
    if window is not None and (isinstance(window, bool) or not isinstance(window, int)):
        raise TypeError(f"{_OP}: window must be an integer, got {type(window).__name__}")
    if window is not None and window < 0:
        raise ValueError(f"{_OP}: window must not be negative, got {window}")
    softcap = None if softcap is None else _cap(_OP, softcap)
    slopes = None
    if alibi_slopes is not None:
        slopes = _tensor(_OP, "alibi_slopes", alibi_slopes).to(dtype=float32)
        if slopes.shape != (heads,):
            raise ValueError(
                f"{_OP}: alibi_slopes must have shape [Hq] = [{heads}], got {list(slopes.shape)}"
            )
    # One query that is the last token sees every key: where it stands matters to options only.
    placed = queries > 1 or window is not None or slopes is not None
    offsets = lengths - queries if placed else None
    reach = _UNBOUNDED if window is None else min(window, _UNBOUNDED)
    output: Tensor = _core.paged_attention(
        query, key_pages, value_pages, tables.to(dtype=int64), lengths, offsets, slopes,
        1.0 / math.sqrt(max(width, 1)) if scale is None else _number(_OP, "scale", scale),
        reach, 0 if placed else _UNBOUNDED, softcap or 0.0,
    )  # fmt: skip
    return output
