# SPDX-License-Identifier: Apache-2.0
"""A number that tells one dataset from another, so that a training isn't resumed on other data."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_WHOLE = 64 << 20  # larger arrays are looked at in blocks
_BLOCKS, _BLOCK = 1024, 64 << 10
_ITEMS = 2048  # of longer lists, evenly spread


def checksum(dataset: Any) -> int | None:
    """The checksum of a dataset that lies in memory; None of others, such as streams.

    Lists, arrays, and datasets over one array (`tokens`, `series`). Of large ones a sample is
    taken, evenly spread: other files and other tokenizers show, a single changed word may not.

    Examples
    --------
    >>> checksum([1, 2, 3]) == checksum([1, 2, 3]), checksum([1, 2, 3]) == checksum([1, 2, 4])
    (True, False)
    """
    for name in ("tokens", "series"):
        held = getattr(dataset, name, None)
        if isinstance(held, np.ndarray):
            return _of_array(held, 0)
    if isinstance(dataset, np.ndarray):
        return _of_array(dataset, 0)
    if isinstance(dataset, (list, tuple)):
        return _of_items(dataset)
    return None


def _of_array(array: Any, total: int) -> int:
    total = zlib.crc32(f"{array.dtype.str}{array.shape}".encode(), total)
    if array.dtype.hasobject:
        return zlib.crc32(repr(array.tolist()).encode(), total)
    if array.nbytes <= _WHOLE:
        return zlib.crc32(np.ascontiguousarray(array).tobytes(), total)
    rows = max(1, _BLOCK * len(array) // array.nbytes)
    for start in np.linspace(0, len(array) - rows, _BLOCKS).astype(int):
        block = np.ascontiguousarray(array[start : start + rows])
        total = zlib.crc32(block.tobytes(), total)
    return total


def _of_items(items: Sequence[Any]) -> int:
    total = len(items)
    places = range(len(items))
    if len(items) > _ITEMS:
        places = np.linspace(0, len(items) - 1, _ITEMS).astype(int).tolist()
    for place in places:
        total = _of_value(items[place], total)
    return total


def _of_value(value: Any, total: int) -> int:
    if isinstance(value, Mapping):
        for name in sorted(value, key=str):
            total = _of_value(value[name], zlib.crc32(str(name).encode(), total))
        return total
    if hasattr(value, "numpy"):
        value = value.numpy()
    if isinstance(value, np.ndarray):
        return _of_array(value, total)
    if isinstance(value, (list, tuple)):
        for part in value:
            total = _of_value(part, total)
        return zlib.crc32(b"]", total)
    # Anything else by what it says, unless that is where it lies in memory.
    plain = isinstance(value, (str, bytes, int, float, np.generic)) or value is None
    return zlib.crc32((repr(value) if plain else type(value).__name__).encode(), total)
