# SPDX-License-Identifier: Apache-2.0
"""What a model remembers between steps: the protocol, and keys and values in buffers that grow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ..creation import zeros
from ..ops.cache import (
    Step,
    cache_write,
    cached_attention,
    cached_attention_joint,
    is_composed,
)
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


def _common(values: Ints) -> int | None:
    """What all of them are, None where they differ."""
    first = int(values[0]) if values.size else 0
    return first if values.size == 1 or (values == first).all() else None


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
    window : int, optional
        How many tokens every layer sees, the one at hand included. What it has left behind is
        forgotten when room is wanted, instead of growing beyond two windows.

    Attributes
    ----------
    lengths : int64 array [B]
        Tokens that each row has seen.
    dropped : int64 array [B]
        How many of them are forgotten: position p is at place ``p - dropped`` of the buffers.
    cross : list of (keys, values) [B, H, S, D], one a layer, or empty
        What a decoder sees of its encoder; selected along with the rest.
    cross_lengths : int64 array [B] or None
        Encoder positions at or past them are padding.
    announced : int
        Tokens of the longest row when the prompt will have been read, in however many pieces.
    span : int
        Positions of a step on the device stay below it; beyond the capacity with a window.

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
        window: int | None = None,
    ) -> None:
        self.lengths: Ints = np.zeros(batch, np.int64)
        self.dropped: Ints = np.zeros(batch, np.int64)
        self.window = window
        self.span = max(int(capacity), 1)
        self.capacity = self.span if window is None else min(self.span, 2 * window)
        shape = (batch, heads, self.capacity, width)

        def buffers() -> list[Tensor]:  # zeros: what is masked may be multiplied by zero
            return [zeros(*shape, dtype=dtype, device=device) for _ in range(layers)]

        self.keys, self.values = buffers(), buffers()
        self.device: str = self.keys[0].device if self.keys else "cpu"
        self.cross: list[tuple[Tensor, Tensor]] = []
        self.cross_lengths: Ints | None = None
        self.announced = 0
        self._sources: Ints = np.arange(batch)  # the row each one came from
        self._cross_lengths: Tensor | None = None  # on the device, for steps that run there
        self._dropped: tuple[Ints, Tensor] | None = None  # the same
        self._room = object()
        # Of the step that is going on:
        self.first: int | None = 0  # position of its first token, None where rows differ
        self.on_device = False  # whether its positions are read from device memory
        self._after = self.lengths
        self._nothing = Step(0, None, from_numpy(self.lengths))
        self._step = self._nothing
        self._positions = self._nothing.lengths

    # ---- one step ------------------------------------------------------------------------------

    def begin(self, n: int, counts: Ints | None = None) -> None:
        """A step of `n` tokens a row, `counts` of them valid, is about to come."""
        self.make_room(n)
        before = self.lengths
        self._after = before + (n if counts is None else counts)
        self.first = _common(before)
        if self.window is None:
            places, after = before, self._after
        else:
            places, after = before - self.dropped, self._after - self.dropped
        place = _common(places)
        lengths, device = from_numpy(after), self.device
        valid = None if counts is None else from_numpy(counts)
        if device != "cpu":
            lengths = lengths.to(device=device)
        starts: int | Tensor = from_numpy(places) if place is None else place
        if device != "cpu" and isinstance(starts, Tensor):
            starts = starts.to(device=device)
            valid = None if valid is None else valid.to(device=device)
        self._step = Step(starts, valid, lengths)

    def make_room(self, n: int) -> None:
        """Have places for `n` more tokens a row."""
        needed = self._used() + n
        if needed <= self.capacity:
            return
        room = max(needed, 2 * self.capacity)
        if self.window is not None:
            # Room for as many tokens as the window has: to forget costs a copy in so many steps.
            enough = self.window - 1 + max(n, self.window)
            if room > enough:
                self._forget(self.window - 1)
                room = enough
        if room > self.capacity:
            self._grow(room)

    def _forget(self, kept: int) -> None:
        """Move the last `kept` tokens of every row to the front."""
        held = self.lengths - self.dropped
        late = np.minimum(held, kept)
        first, last = _common(held), _common(late)
        for b in self.keys + self.values:
            if first is not None and last is not None:
                if last and first > last:
                    cache_write(b, b[:, :, first - last : first].clone(), 0)
                continue
            for i, (have, keep) in enumerate(zip(held.tolist(), late.tolist(), strict=True)):
                if keep and have > keep:
                    row = b[i : i + 1]
                    cache_write(row, row[:, :, have - keep : have].clone(), 0)
        self.dropped = self.dropped + held - late

    def room(self) -> object:
        """Another object whenever the buffers have moved."""
        return self._room

    def can_capture(self) -> bool:
        """Whether a step over it can be captured: on CUDA, by the kernel of attention."""
        return self.device != "cpu" and bool(self.keys) and not is_composed(self.keys[0])

    def prepare_on_device(self) -> None:
        """Bring what a step on the device reads there, besides the numbers of that step."""
        self.make_room(1)
        reach = int(self.lengths.max(initial=0)) + 1
        if max(reach, self.capacity) > self.span:  # whoever has tables of so many makes others
            self.span, self._room = max(reach, self.capacity, 2 * self.span), object()
        if self.cross_lengths is not None and self._cross_lengths is None:
            self._cross_lengths = from_numpy(self.cross_lengths).to(device=self.device)
        if self.window is None:
            return
        if self._dropped is None or self._dropped[0].size != self.dropped.size:
            self._dropped = self.dropped, from_numpy(self.dropped).to(device=self.device)
        elif self._dropped[0] is not self.dropped:
            self._dropped[1].copy_(from_numpy(self.dropped))
            self._dropped = self.dropped, self._dropped[1]

    def begin_on_device(self, starts: Tensor, counts: Tensor) -> None:
        """A step of one token a row whose numbers, int64 [B], the device alone reads.

        Rows hold `starts` tokens and get `counts` more (0 or 1).
        """
        places = starts if self._dropped is None else starts - self._dropped[1]
        self._step = Step(places, counts, places + counts)
        self.on_device, self._positions = True, starts.reshape(-1, 1)

    def end_on_device(self) -> None:
        """That step is over; its numbers are let go."""
        self.on_device, self._step = False, self._nothing
        self._positions = self._nothing.lengths

    def where(self, n: int) -> Tensor:
        """int64 [B, n] on the device: where the tokens of this step stand."""
        if self.on_device:
            return self._positions
        return from_numpy(self.positions(n)).to(device=self.device)

    def cross_padding(self) -> Tensor | None:
        """`cross_lengths` as attention takes them."""
        if self.cross_lengths is None:
            return None
        return self._cross_lengths if self.on_device else from_numpy(self.cross_lengths)

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
        return cached_attention(
            self._step, query, key, value, self.keys[layer], self.values[layer], scale, left,
            slopes, mask,
        )  # fmt: skip

    def attend_joint(
        self,
        layer: int,
        joint: Tensor,
        heads: int,
        by_head: bool,
        *,
        scale: float | None = None,
        slopes: Tensor | None = None,
    ) -> Tensor:
        """The same of the product [B, n, 3 H D] that made all three; gives [B, n, H D]."""
        return cached_attention_joint(
            self._step, joint, self.keys[layer], self.values[layer], by_head, scale, slopes
        )

    def commit(self) -> None:
        """The step is over: its tokens count."""
        self.lengths = self._after

    # ---- rows and room -------------------------------------------------------------------------

    def _used(self) -> int:
        """Places of the buffers that hold something."""
        held = self.lengths if self.window is None else self.lengths - self.dropped
        return int(held.max(initial=0))

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
        self.capacity, self._room = capacity, object()

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
        if self.cross_lengths is not None and moved:
            self.cross_lengths, self._cross_lengths = self.cross_lengths[rows], None
        if rows.size != batch or (self.cross and moved):
            self._room = object()
        self._sources = sources
        self.lengths, self.dropped = self.lengths[rows], self.dropped[rows]

    def check_truncation(self, lengths: Ints | Sequence[int]) -> Ints:
        """What :meth:`truncate` would refuse; gives `lengths` as an array."""
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
        seen = 0 if self.window is None else self.window - 1
        if (np.maximum(wanted - seen, 0) < self.dropped).any():
            raise NotImplementedError(
                "KVCache.truncate: tokens that the window has left behind are forgotten"
            )
        return wanted

    def truncate(self, lengths: Ints | Sequence[int]) -> None:
        """Forget the tokens past `lengths`."""
        self.lengths = self.check_truncation(lengths).copy()
