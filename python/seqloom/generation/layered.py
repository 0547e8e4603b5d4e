# SPDX-License-Identifier: Apache-2.0
"""A cache for models whose layers see unequally far: each kind of them keeps what it needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..tensor import Tensor
from .cache import Ints, KVCache


class LayeredCache(KVCache):
    """Keys and values of layers with and without sliding windows: a :class:`KVCache` for each kind.

    All of them hold the same tokens; those with a window forget what it has left behind.

    Parameters
    ----------
    windows : sequence of int or None
        For each layer how many tokens it sees, None for all.
    batch, heads, width, capacity, dtype, device
        As of :class:`KVCache`.

    Examples
    --------
    >>> import seqloom as sl
    >>> cache = LayeredCache([None, 4, 4], 1, heads=1, width=8, capacity=100)
    >>> [(len(part.keys), part.capacity) for part in cache.parts]
    [(1, 100), (2, 8)]
    """

    def __init__(
        self,
        windows: Sequence[int | None],
        batch: int,
        *,
        heads: int,
        width: int,
        capacity: int,
        dtype: Any = None,
        device: Any = None,
    ) -> None:
        # Those that keep everything come first: their room is the largest.
        kinds = sorted(set(windows), key=lambda w: (w is not None, w))
        self.parts = [
            KVCache(
                list(windows).count(window), batch, heads=heads, width=width, capacity=capacity,
                dtype=dtype, device=device, window=window,
            )
            for window in kinds
        ]  # fmt: skip
        self._of = [
            (self.parts[kinds.index(w)], list(windows[:i]).count(w)) for i, w in enumerate(windows)
        ]
        self.device, self.cross, self.cross_lengths = self.parts[0].device, [], None
        self._rooms: list[object] = []
        self._room = object()

    # ---- what all parts have in common -----------------------------------------------------------

    @property
    def lengths(self) -> Ints:
        return self.parts[0].lengths

    @lengths.setter
    def lengths(self, values: Ints) -> None:
        for part in self.parts:
            part.lengths = values

    @property
    def announced(self) -> int:
        return self.parts[0].announced

    @announced.setter
    def announced(self, count: int) -> None:
        for part in self.parts:
            part.announced = count

    @property
    def capacity(self) -> int:  # type: ignore[override]
        return max(part.capacity for part in self.parts)

    @property
    def span(self) -> int:  # type: ignore[override]
        return max(part.span for part in self.parts)

    @property
    def first(self) -> int | None:  # type: ignore[override]
        return self.parts[0].first

    def where(self, n: int) -> Tensor:
        return self.parts[0].where(n)

    def reach(self) -> int:
        return self.parts[0].reach()

    # ---- steps, rows and room --------------------------------------------------------------------

    def begin(self, n: int, counts: Ints | None = None) -> None:
        for part in self.parts:
            part.begin(n, counts)

    def commit(self) -> None:
        for part in self.parts:
            part.commit()

    def make_room(self, n: int) -> None:
        for part in self.parts:
            part.make_room(n)

    def room(self) -> object:
        rooms = [part.room() for part in self.parts]
        if len(rooms) != len(self._rooms) or any(
            a is not b for a, b in zip(rooms, self._rooms, strict=True)
        ):
            self._rooms, self._room = rooms, object()
        return self._room

    def can_capture(self) -> bool:
        return all(part.can_capture() for part in self.parts)

    def prepare_on_device(self) -> None:
        for part in self.parts:
            part.prepare_on_device()

    def begin_on_device(self, starts: Tensor, counts: Tensor) -> None:
        for part in self.parts:
            part.begin_on_device(starts, counts)

    def end_on_device(self) -> None:
        for part in self.parts:
            part.end_on_device()

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, **how: Any) -> Tensor:
        part, index = self._of[layer]
        return part.attend(index, query, key, value, **how)

    def attend_joint(
        self, layer: int, joint: Tensor, heads: int, by_head: bool, **how: Any
    ) -> Tensor:
        part, index = self._of[layer]
        return part.attend_joint(index, joint, heads, by_head, **how)

    def reorder(self, rows: Ints | Sequence[int]) -> None:
        for part in self.parts:
            part.reorder(rows)

    def truncate(self, lengths: Ints | Sequence[int]) -> None:
        for part in self.parts:  # before one of them forgets anything
            part.check_truncation(lengths)
        for part in self.parts:
            part.truncate(lengths)
