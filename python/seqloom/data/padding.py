# SPDX-License-Identifier: Apache-2.0
"""From sequences of different lengths to arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def pad(
    sequences: Sequence[Any],
    value: float = 0,
    *,
    side: str = "right",
    length: int | None = None,
    multiple_of: int = 1,
    dtype: npt.DTypeLike | None = None,
) -> tuple[Array, npt.NDArray[np.int64]]:
    """Stack sequences of different lengths into one array.

    Parameters
    ----------
    sequences
        Arrays or lists `[T_i, ...]` with the same trailing shape.
    value
        What fills the rest.
    side
        `"right"` or `"left"`.
    length
        The width; the longest sequence's when absent.
    multiple_of
        Round the width up.
    dtype
        Of the result; that of the sequences when absent.

    Returns
    -------
    (array, lengths)
        `[B, T, ...]` and int64 `[B]`.

    Examples
    --------
    >>> pad([[1, 2, 3], [4]], value=-1)
    (array([[ 1,  2,  3],
           [ 4, -1, -1]]), array([3, 1]))
    """
    if side not in ("left", "right"):
        raise ValueError(f"pad: side must be 'left' or 'right', got {side!r}")
    if multiple_of < 1:
        raise ValueError(f"pad: multiple_of must be positive, got {multiple_of}")
    rows = [np.asarray(s) for s in sequences]
    for number, row in enumerate(rows):
        if row.ndim < 1 or row.shape[1:] != rows[0].shape[1:]:
            raise ValueError(
                f"pad: sequences must have shape [T, ...] = [any, {list(rows[0].shape[1:])}], "
                f"got {list(row.shape)} at {number}"
            )
    lengths = np.array([len(row) for row in rows], np.int64)
    longest = int(lengths.max(initial=0))
    width = longest if length is None else length
    if width < longest:
        raise ValueError(
            f"pad: length must be at least the longest sequence {longest}, got {width}"
        )
    width = -(-width // multiple_of) * multiple_of
    if dtype is not None:
        kind = np.dtype(dtype)
    else:  # an empty list has no dtype of its own
        filled = [row.dtype for row in rows if row.size]
        kind = np.result_type(*filled) if filled else np.dtype(np.int64)
    result = np.full((len(rows), width, *(rows[0].shape[1:] if rows else ())), value, kind)
    for number, row in enumerate(rows):
        at = slice(0, len(row)) if side == "right" else slice(width - len(row), width)
        result[number, at] = row
    return result, lengths


def mask_from_lengths(lengths: Any, width: int | None = None) -> npt.NDArray[np.int64]:
    """Attention mask `[B, T]` with 1 on tokens and 0 on padding (at the right).

    Examples
    --------
    >>> mask_from_lengths([2, 1], 3)
    array([[1, 1, 0],
           [1, 0, 0]])
    """
    sizes = np.asarray(lengths, np.int64)
    columns = int(sizes.max(initial=0)) if width is None else width
    return (np.arange(columns) < sizes[:, None]).astype(np.int64)


def default_collate(items: Sequence[Any]) -> Any:
    """Stack items of equal shape: arrays, numbers, and tuples, lists or dictionaries of them.

    Strings and anything else stay a list.

    Examples
    --------
    >>> default_collate([{"x": [1, 2], "y": 0}, {"x": [3, 4], "y": 1}])
    {'x': array([[1, 2],
           [3, 4]]), 'y': array([0, 1])}
    """
    first = items[0]
    if isinstance(first, Mapping):
        return {key: default_collate([item[key] for item in items]) for key in first}
    if isinstance(first, tuple):
        return tuple(default_collate(list(column)) for column in zip(*items, strict=True))
    if isinstance(first, (np.ndarray, np.generic, int, float, bool)) or (
        isinstance(first, list) and all(isinstance(x, (int, float)) for x in first)
    ):
        shapes = {np.shape(item) for item in items}
        if len(shapes) > 1:
            raise ValueError(
                "default_collate: items must have one shape, got "
                f"{sorted(list(s) for s in shapes)[:4]}; use PadCollate for sequences"
            )
        return np.stack([np.asarray(item) for item in items])
    return list(items)


class PadCollate:
    """Batch dictionaries: one-dimensional fields are padded, numbers are stacked.

    Parameters
    ----------
    values
        What fills a field; `-100` for fields called `labels`, 0 for others, when absent.
    side
        `"right"` or `"left"`.
    multiple_of
        Round widths up.

    With a field `input_ids`, or `inputs` where there is none, come `attention_mask` and `lengths`.

    Examples
    --------
    >>> collate = PadCollate({"input_ids": 9})
    >>> batch = collate([{"input_ids": [1, 2], "labels": 1}, {"input_ids": [3], "labels": 0}])
    >>> batch["input_ids"].tolist(), batch["labels"].tolist(), batch["attention_mask"].tolist()
    ([[1, 2], [3, 9]], [1, 0], [[1, 1], [1, 0]])
    """

    def __init__(
        self,
        values: Mapping[str, float] | None = None,
        *,
        side: str = "right",
        multiple_of: int = 1,
    ) -> None:
        self.values, self.side, self.multiple_of = dict(values or {}), side, multiple_of

    def __call__(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Make one batch."""
        batch: dict[str, Any] = {}
        leading = "input_ids" if "input_ids" in items[0] else "inputs"
        for key, first in items[0].items():
            column = [item[key] for item in items]
            if isinstance(first, str) or np.ndim(first) == 0:
                batch[key] = default_collate(column)
                continue
            fill = self.values.get(key, -100 if key == "labels" else 0)
            batch[key], lengths = pad(column, fill, side=self.side, multiple_of=self.multiple_of)
            if key == leading:
                mask = mask_from_lengths(lengths, batch[key].shape[1])
                batch["attention_mask"] = mask if self.side == "right" else mask[:, ::-1].copy()
                batch["lengths"] = lengths
        return batch
