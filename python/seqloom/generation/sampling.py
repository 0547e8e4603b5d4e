# SPDX-License-Identifier: Apache-2.0
"""Choosing tokens from logits: the largest, or a draw from what temperature and cuts leave."""

from __future__ import annotations

from typing import Any, NoReturn, TypeAlias

import numpy as np

from ..creation import randint
from .options import Options

Ints: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]
Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]

_BLOCK = 512  # probabilities that are summed before a draw looks closer


def largest(row: Floats, k: int) -> Ints:
    """Places of the k largest, in descending order; of equals the first come first."""
    if k < row.size:
        found = np.flatnonzero(row >= np.partition(row, row.size - k)[row.size - k])
    else:
        found = np.arange(row.size)
    order = np.argsort(-row[found], kind="stable")[:k]
    out: Ints = found[order]
    return out


def _nucleus(p: Floats, mass: float) -> Ints:
    """Places of the fewest largest probabilities that sum to `mass`."""
    k = 256
    while True:  # rarely needs to look at more than the first few hundred
        places = largest(p, k)
        before = np.cumsum(p[places], dtype=np.float64)
        if before[-1] >= mass or k >= p.size:
            return places[: int(np.searchsorted(before, mass, side="left")) + 1]
        k *= 8


def candidates(
    logits: Floats,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> tuple[Ints | None, Floats]:
    """Tokens that may be drawn (None: all of them) and their probabilities, up to a factor.

    >>> import numpy as np
    >>> ids, p = candidates(np.log(np.array([0.5, 0.1, 0.4], np.float32)), top_p=0.8)
    >>> ids.tolist(), [round(x, 2) for x in (p / p.sum()).tolist()]
    ([0, 2], [0.56, 0.44])
    """
    ids: Ints | None = None
    x = logits
    if 0 < top_k < x.size:  # ties with the last one stay, as everywhere
        ids = np.flatnonzero(x >= np.partition(x, x.size - top_k)[x.size - top_k])
        x = x[ids]
    x = x - x.max()
    if temperature != 1.0:
        x /= np.float32(temperature)
    p = np.exp(x)
    if top_p < 1.0:
        kept = _nucleus(p / p.sum(), top_p)
        ids, p = kept if ids is None else ids[kept], p[kept]
    if min_p > 0.0:
        kept = np.flatnonzero(p >= np.float32(min_p) * p.max())
        ids, p = kept if ids is None else ids[kept], p[kept]
    return ids, p


def _reached(sums: np.ndarray[Any, Any], target: float) -> int:
    """The first place whose sum is above the target, at most the last that adds to the sum."""
    place = int(np.searchsorted(sums, target, side="right"))
    return min(place, int(np.searchsorted(sums, sums[-1], side="left")))


def drawn(p: Floats, u: float) -> int | None:
    """The place where the running sum of p passes u times its total; None without such a place."""
    starts = np.arange(0, p.size, _BLOCK)
    blocks = np.cumsum(np.add.reduceat(p, starts), dtype=np.float64)
    target = u * blocks[-1]
    if not 0 < blocks[-1] < np.inf:
        return None
    block = _reached(blocks, target)
    inside = np.cumsum(p[starts[block] : starts[block] + _BLOCK], dtype=np.float64)
    return int(starts[block]) + _reached(inside, target - (blocks[block - 1] if block else 0.0))


class Sampler:
    """Chooses a token per row. Rows draw from streams of their own: a row's text does not depend
    on the others in the batch."""

    def __init__(self, owner: str, o: Options, rows: int) -> None:
        self.owner, self.o = owner, o
        self.streams: list[np.random.Generator] = []
        if o.do_sample:
            seed = o.seed
            if seed is None:  # from the stream that manual_seed sets
                high, low = randint(0, 2**31, (2,)).tolist()
                seed = high << 31 | low
            self.streams = [
                np.random.Generator(np.random.Philox(key=[seed, row])) for row in range(rows)
            ]

    def __call__(self, logits: Floats) -> Ints:
        """Tokens [N] for logits [N, V]."""
        if not self.o.do_sample:
            chosen: Ints = logits.argmax(axis=1)
            picked = logits[np.arange(chosen.size), chosen]
            if not np.isfinite(picked).all():
                self.refuse(logits, int(np.flatnonzero(~np.isfinite(picked))[0]))
            return chosen
        return np.array([self._draw(i, row) for i, row in enumerate(logits)], np.int64)

    def _draw(self, i: int, row: Floats) -> int:
        o = self.o
        with np.errstate(invalid="ignore", over="ignore"):
            ids, p = candidates(row, o.temperature, o.top_k, o.top_p, o.min_p)
            place = drawn(p, self.streams[i].random())
        if place is None:
            self.refuse(row[None], 0)
        return place if ids is None else int(ids[place])

    def refuse(self, logits: Floats, row: int) -> NoReturn:
        """Say why nothing can be chosen from logits[row]."""
        if np.isnan(logits[row]).any():
            raise ValueError(f"{self.owner}: logits must be numbers, got NaN from the model")
        if np.isposinf(logits[row]).any():
            raise ValueError(f"{self.owner}: logits must be finite, got infinity")
        raise ValueError(
            f"{self.owner}: logits must leave at least one token to choose, got -inf for all"
        )


def log_sum_exp(logits: Floats) -> Floats:
    """[N] of [N, V]."""
    top = logits.max(axis=1)
    out: Floats = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
    return out
