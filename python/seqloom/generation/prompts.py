# SPDX-License-Identifier: Apache-2.0
"""Prompts of unequal length in one batch: padding comes off on the way in, back on the way out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from ..tensor import Tensor

Ints: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]
Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]


def as_array(owner: str, name: str, value: Any) -> np.ndarray[Any, Any]:
    """An array, a Tensor or lists, as an array on the host.

    >>> as_array("generate", "attention_mask", [[1, 1], [1]])
    Traceback (most recent call last):
        ...
    ValueError: generate: attention_mask must be rectangular, got rows of unequal length
    """
    if isinstance(value, Tensor):
        return value.detach().cpu().numpy()
    try:
        return np.asarray(value)
    except ValueError as error:
        if "inhomogeneous" not in str(error):
            raise ValueError(f"{owner}: {name} must be an array, {error}") from None
    raise ValueError(f"{owner}: {name} must be rectangular, got rows of unequal length")


def as_ids(owner: str, name: str, value: Any, vocabulary: int | None) -> Ints:
    """Token ids [B, T] as int64 on the host."""
    a = as_array(owner, name, value)
    if a.dtype.kind not in "iu":
        raise TypeError(f"{owner}: {name} must be integers, got {a.dtype}")
    if a.ndim != 2 or 0 in a.shape:
        raise ValueError(
            f"{owner}: {name} must have shape [B, T] with at least one token, got {list(a.shape)}"
        )
    ids: Ints = np.ascontiguousarray(a, np.int64)
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or (vocabulary is not None and high >= vocabulary):
        bound = "at least 0" if vocabulary is None else f"in [0, {vocabulary})"
        raise IndexError(f"{owner}: {name} must be {bound}, got {low if low < 0 else high}")
    return ids


def as_mask(owner: str, value: Any, shape: tuple[int, ...]) -> np.ndarray[Any, Any] | None:
    """A mask [B, T] as bool; None when it hides nothing."""
    if value is None:
        return None
    a = as_array(owner, "attention_mask", value)
    if a.dtype.kind not in "biuf":
        raise TypeError(f"{owner}: attention_mask must be numbers or bools, got {a.dtype}")
    if a.shape != shape:
        raise ValueError(
            f"{owner}: attention_mask must have shape [B, T] = {list(shape)}, got {list(a.shape)}"
        )
    if a.dtype != np.bool_ and not ((a == 0) | (a == 1)).all():
        raise ValueError(f"{owner}: attention_mask must be 0 or 1")
    seen = a.astype(np.bool_)
    empty = np.flatnonzero(~seen.any(axis=1))
    if empty.size:
        raise ValueError(
            f"{owner}: attention_mask must leave a token in every row, got none in row {empty[0]}"
        )
    return None if seen.all() else seen


@dataclass
class Prompts:
    """What the rows begin with.

    Attributes
    ----------
    given : int64 [B, T], as they came
    rows : int64 [B, P], tokens first, then filling
    lengths : int64 [B]
    left : bool
        Results keep the columns that came and go on behind them; otherwise each row's text follows
        its prompt without a gap, filled up at the end.
    """

    given: Ints
    rows: Ints
    lengths: Ints
    left: bool

    @classmethod
    def make(cls, ids: Ints, mask: np.ndarray[Any, Any] | None) -> Prompts:
        batch, width = ids.shape
        if mask is None:
            return cls(ids, ids, np.full(batch, width, np.int64), True)
        lengths = mask.sum(axis=1, dtype=np.int64)
        order = np.argsort(~mask, axis=1, kind="stable")
        rows = np.take_along_axis(ids, order, axis=1)[:, : int(lengths.max())]
        left = bool((mask == (np.arange(width) >= (width - lengths)[:, None])).all())
        return cls(ids, np.ascontiguousarray(rows), lengths, left)

    @property
    def width(self) -> int:
        """The longest prompt."""
        return int(self.rows.shape[1])

    def history(self, room: int) -> Ints:
        """[B, P + room]: prompts aligned at the end of P, -1 before them and after."""
        batch, width = self.rows.shape
        out = np.full((batch, width + room), -1, np.int64)
        if (self.lengths == width).all():
            out[:, :width] = self.rows
            return out
        for i, n in enumerate(self.lengths.tolist()):
            out[i, width - n : width] = self.rows[i, :n]
        return out

    def joined(self, new: Ints, counts: Ints, fill: int, repeat: int) -> Ints:
        """Prompts, each `repeat` times, followed by counts[i] of the tokens new[i]."""
        steps = int(counts.max(initial=0))
        new = np.where(np.arange(steps) < counts[:, None], new[:, :steps], fill)
        given = np.repeat(self.given, repeat, axis=0) if repeat > 1 else self.given
        if self.left:
            return np.concatenate([given, new], axis=1)
        prompt = np.repeat(self.lengths, repeat)
        rows = np.repeat(self.rows, repeat, axis=0)
        total = prompt + counts
        out = np.full((new.shape[0], int(total.max())), fill, np.int64)
        for i, (p, c) in enumerate(zip(prompt.tolist(), counts.tolist(), strict=True)):
            out[i, :p] = rows[i, :p]
            out[i, p : p + c] = new[i, :c]
        return out
