# SPDX-License-Identifier: Apache-2.0
"""What models are called with: ids, masks, lengths, brought into one form."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..generation.prompts import as_array
from ..tensor import Tensor, from_numpy

__all__ = ["NO_PADDING", "Padding", "as_array", "as_ids", "as_padding"]


def as_ids(owner: str, name: str, ids: Any, device: str) -> Tensor:
    """Token ids as an int64 Tensor [B, T] on `device`.

    >>> as_ids("GPT2", "input_ids", np.array([[1, 2]]), "cpu").tolist()
    [[1, 2]]
    """
    if not isinstance(ids, Tensor):
        array = as_array(owner, name, ids)
        if array.dtype.kind not in "iu":
            raise TypeError(f"{owner}: {name} must hold integers, got {array.dtype}")
        ids = from_numpy(np.ascontiguousarray(array, np.int64))
    if ids.dtype.is_floating_point or ids.dtype.name == "bool":
        raise TypeError(f"{owner}: {name} must hold integers, got {ids.dtype.name}")
    if ids.ndim != 2:
        raise ValueError(f"{owner}: {name} must have shape [B, T], got {list(ids.shape)}")
    t: Tensor = ids.to(dtype="int64", device=device)
    return t


class Padding(NamedTuple):
    """Keys that are padding, as attention takes it: at most one of the two is there."""

    key_lengths: Tensor | None  # int64 [B], for rows that are padded on the right
    attn_mask: Tensor | None  # bool [B, 1, 1, T], for any other mask


NO_PADDING = Padding(None, None)


def as_padding(owner: str, mask: Any, batch: int, length: int, device: str) -> Padding:
    """An attention mask [B, T] (nonzero = a token) as attention takes it.

    >>> as_padding("GPT2", [[1, 1, 0]], 1, 3, "cpu").key_lengths.tolist()
    [2]
    >>> as_padding("GPT2", [[0, 1, 1]], 1, 3, "cpu").attn_mask.tolist()
    [[[[False, True, True]]]]
    """
    if mask is None:
        return NO_PADDING
    array = as_array(owner, "attention_mask", mask)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{owner}: attention_mask must hold numbers, got {array.dtype}")
    if array.shape != (batch, length):
        raise ValueError(
            f"{owner}: attention_mask must have shape [B, T] = {[batch, length]}, got"
            f" {list(array.shape)}"
        )
    kept = array != 0
    if kept.all():
        return NO_PADDING
    lengths = kept.sum(axis=1)
    if (kept == (np.arange(length) < lengths[:, None])).all():
        return Padding(from_numpy(lengths.astype(np.int64)), None)
    return Padding(None, from_numpy(kept[:, None, None, :].copy()).to(device=device))
