# SPDX-License-Identifier: Apache-2.0
"""What a model remembers between steps: the protocol, and keys and values in buffers that grow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ..creation import zeros
from ..ops.cache import cache_write, cached_attention
from ..tensor import Tensor, from_numpy

Ints = np.ndarray[Any, np.dtype[np.int64]]


@runtime_checkable
class State(Protocol):
    """The memory of a batch that is being decoded.

    Attributes
    ----------
    lengths : int64 array [B]
        Tokens that each row has seen.
    """

    lengths: Ints

    def reorder(self, rows: Ints) -> None:
        """Row i becomes what row ``rows[i]`` was; the batch may grow or shrink."""

    def truncate(self, lengths: Ints) -> None:
        """Forget what came after so many tokens; NotImplementedError where that can't be done."""


@runtime_checkable
class Decodable(Protocol):
    """What generation needs of a model."""

    def start(self, batch: int, *, capacity: int, **encoder_inputs: Any) -> State:
        """An empty state for `batch` rows, room for `capacity` tokens made in advance."""

    def decode(self, ids: Ints, state: State, counts: Ints | None = None) -> Tensor:
        """Append tokens [B, n] (counts[b] of them in row b, all by default) to the state.

        Gives the logits [B, V] after each row's last new token; those of a row without new tokens
        mean nothing.
        """


class KVCache:
    """Keys and values of every layer, in buffers with room for more.

    Parameters
    ----------
    layers, batch, heads, width : int
        Buffers are [batch, heads, capacity, width] for each layer.
    capacity : int
        Positions to begin with; doubled when they are used up.
    dtype, device
        Of the model.

    Attributes
    ----------
    lengths : int64 array [B]
    cross : list of (keys, values) [B, H, S, D], one a layer, or empty
        What a decoder sees of its encoder; selected along with the rest.
    cross_lengths : int64 array [B] or None
        Encoder positions at or past them are padding.
    announced : int
        Tokens of the longest row when the prompt will have been read, in however many pieces.

    Examples
    --------
    >>> import numpy as np, seqloom as sl
    >>> cache = KVCache(1, 2, heads=1, width=4, capacity=8)
    >>> x = sl.ones(2, 1, 3, 4)
    >>> cache.begin(3)
    >>> cache.attend(0, x, x, x).shape
    (2, 1, 3, 4)
    >>> cache.commit()
    >>> cache.lengths.tolist()
    [3, 3]
    """

    def __init__(
        self,
        layers: int,
        batch: int,
        *,
        heads: int,
        width: int,
        capacity: int,
        dtype: Any = None,
        device: Any = None,
    ) -> None:
        self.lengths: Ints = np.zeros(batch, np.int64)
        self.capacity = max(int(capacity), 1)
        shape = (batch, heads, self.capacity, width)

        def buffers() -> list[Tensor]:  # zeros: what is masked may be multiplied by zero
            return [zeros(*shape, dtype=dtype, device=device) for _ in range(layers)]

        self.keys, self.values = buffers(), buffers()
        self.device: str = self.keys[0].device if self.keys else "cpu"
        self.cross: list[tuple[Tensor, Tensor]] = []
        self.cross_lengths: Ints | None = None
        self.announced = 0
        self._sources: Ints = np.arange(batch)  # the row each one came from
        # Of the step that is going on:
        self.offset: int | Tensor = 0  # position of its first token, for all rows or each
        self._counts: Tensor | None = None
        self._after = self.lengths
        self._key_lengths = from_numpy(self._after)

    # ---- one step ------------------------------------------------------------------------------

    def begin(self, n: int, counts: Ints | None = None) -> None:
        """A step of `n` tokens a row, `counts` of them valid, is about to come."""
        before = self.lengths
        first = int(before[0]) if before.size else 0
        self._counts = None if counts is None else from_numpy(counts)
        self._after = before + (n if counts is None else counts)
        self._key_lengths = from_numpy(self._after)
        if before.size == 1 or (before == first).all():
            self.offset = first
            needed = first + n
        else:
            self.offset = from_numpy(before)
            needed = int(before.max()) + n
        if needed > self.capacity:
            self._grow(max(needed, 2 * self.capacity))

    def reach(self) -> int:
        """Length of the longest row with the tokens of this step, and of its announced ones."""
        return max(int(self._after.max(initial=0)), self.announced)

    def positions(self, n: int) -> Ints:
        """int64 [B, n]: where the tokens of this step stand."""
        out: Ints = self.lengths[:, None] + np.arange(n)
        return out

    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        scale: float | None = None,
        left: int | None = None,
        slopes: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Keep key and value [B, Hkv, n, D], attend to all that is kept: [B, Hq, n, D].

        A `mask` is added to the scores against all the room, [B, H, n, capacity].
        """
        keys, values = self.keys[layer], self.values[layer]
        cache_write(keys, key, self.offset, self._counts)
        cache_write(values, value, self.offset, self._counts)
        return cached_attention(
            query, keys, values, self._key_lengths, self.offset, scale, left, slopes, mask
        )

    def commit(self) -> None:
        """The step is over: its tokens count."""
        self.lengths = self._after

    # ---- rows and room -------------------------------------------------------------------------

    def _used(self) -> int:
        return int(self.lengths.max(initial=0))

    def _moved(self, buffer: Tensor, batch: int, capacity: int, content: Tensor) -> Tensor:
        """A buffer of this size that begins with `content`."""
        _, heads, _, width = buffer.shape
        new = zeros(batch, heads, capacity, width, dtype=buffer.dtype, device=buffer.device)
        if content.shape[2]:
            cache_write(new, content, 0)
        return new

    def _grow(self, capacity: int) -> None:
        batch, used = self.lengths.size, self._used()
        for buffers in (self.keys, self.values):
            for i, b in enumerate(buffers):
                buffers[i] = self._moved(b, batch, capacity, b[:, :, :used])
        self.capacity = capacity

    def reorder(self, rows: Ints | Sequence[int]) -> None:
        """Row i becomes what row ``rows[i]`` was."""
        rows = np.ascontiguousarray(rows, np.int64)
        batch = self.lengths.size
        if rows.size == batch and (rows == np.arange(batch)).all():
            return
        used = self._used()
        index: Tensor | None = None
        for buffers in (self.keys, self.values):
            for i, b in enumerate(buffers):
                if index is None:
                    index = from_numpy(rows).to(device=b.device)
                content = b[:, :, :used].index_select(0, index)
                if rows.size == batch:
                    if used:
                        cache_write(b, content, 0)
                else:
                    buffers[i] = self._moved(b, rows.size, self.capacity, content)
        sources = self._sources[rows]
        # Beams of one prompt have the same source: nothing to move among them.
        moved = not np.array_equal(sources, self._sources)
        if self.cross and moved:
            if index is None:
                index = from_numpy(rows).to(device=self.cross[0][0].device)
            self.cross = [
                (k.index_select(0, index), v.index_select(0, index)) for k, v in self.cross
            ]
        if self.cross_lengths is not None:
            self.cross_lengths = self.cross_lengths[rows]
        self._sources = sources
        self.lengths = self.lengths[rows]

    def truncate(self, lengths: Ints | Sequence[int]) -> None:
        """Forget the tokens past `lengths`."""
        wanted = np.asarray(lengths, np.int64)
        if wanted.shape != self.lengths.shape:
            raise ValueError(
                f"KVCache.truncate: lengths must have shape [B] = [{self.lengths.size}], got"
                f" {list(wanted.shape)}"
            )
        if (wanted < 0).any() or (wanted > self.lengths).any():
            raise ValueError(
                "KVCache.truncate: lengths must be in [0, length] = "
                f"{self.lengths.tolist()}, got {wanted.tolist()}"
            )
        self.lengths = wanted.copy()
