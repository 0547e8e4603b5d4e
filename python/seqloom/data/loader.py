# SPDX-License-Identifier: Apache-2.0
"""Batches from a dataset, prepared ahead in a thread, with a position that can be saved."""

from __future__ import annotations

import contextlib
import copy
import inspect
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from itertools import islice
from numbers import Integral
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from seqloom.data.checksum import checksum
from seqloom.data.padding import default_collate
from seqloom.data.random import generator, permutation


class BatchPlan(Protocol):
    """What `Loader(batches=...)` takes, such as `TokenBudget`."""

    def batches(self, epoch: int) -> list[npt.NDArray[np.int64]]:
        """Indices of every batch of an epoch."""

    def fingerprint(self) -> dict[str, Any]:
        """What must be the same for a saved position to mean the same batches."""


_END = object()


class _Failure:
    def __init__(self, error: BaseException) -> None:
        self.error = error


def prefetched(source: Iterator[Any], depth: int) -> Generator[Any, None, None]:
    """Run an iterator ahead in a thread, by at most `depth` items.

    What the iterator raises is raised here; closing the generator ends the thread.

    Examples
    --------
    >>> list(prefetched(iter("abc"), 2))
    ['a', 'b', 'c']
    """
    waiting: queue.Queue[Any] = queue.Queue(maxsize=depth)
    stopped = threading.Event()

    def put(item: Any) -> bool:
        while not stopped.is_set():
            try:
                waiting.put(item, timeout=0.05)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            for item in source:
                if not put(item):
                    return
            put(_END)
        except BaseException as error:
            put(_Failure(error))

    thread = threading.Thread(target=work, name="seqloom-loader", daemon=True)
    thread.start()
    try:
        while (item := waiting.get()) is not _END:
            if isinstance(item, _Failure):
                raise item.error
            yield item
    finally:
        stopped.set()
        with contextlib.suppress(queue.Empty):  # room, so that the thread wakes up at once
            while True:
                waiting.get_nowait()
        thread.join()
        close = getattr(source, "close", None)
        if close is not None:
            close()


class Loader:
    """Iterate over a dataset in batches.

    Parameters
    ----------
    dataset
        Map-style (`len(dataset)`, `dataset[i]`), or a stream: anything that can be iterated again
        and again, such as a `Reader`. A dataset with `take(indices)` makes whole batches itself;
        one with `set_epoch(epoch)` is told the epoch.
    batch_size
        Items per batch; None when the dataset's items are batches already (`ContiguousBatches`).
    batches
        In place of `batch_size` and `shuffle`: a `TokenBudget`, or a like plan of batches.
    shuffle
        Another order in every epoch. A stream is shuffled in a buffer of `shuffle_buffer` items.
    seed
        The order depends on the seed and the epoch alone.
    collate
        Makes a batch of a list of items; stacks arrays when absent. One with a parameter `rng` gets
        a NumPy generator that depends on the seed, the epoch and the batch alone.
    drop_last
        Leave out a last batch that isn't full.
    prefetch
        Batches that a thread prepares ahead; 0 for none.
    shuffle_buffer
        For shuffled streams.

    Iterating gives one epoch. `state_dict()` says where the loader stands, at any moment;
    `load_state_dict()` makes the next iteration go on from there with the very same batches.

    Examples
    --------
    >>> loader = Loader(np.arange(6), batch_size=2, shuffle=True, seed=3)
    >>> first = [batch.tolist() for batch in loader]
    >>> half = Loader(np.arange(6), batch_size=2, shuffle=True, seed=3)
    >>> _ = next(iter(half))
    >>> rest = Loader(np.arange(6), batch_size=2, shuffle=True, seed=3)
    >>> rest.load_state_dict(half.state_dict())
    >>> [batch.tolist() for batch in rest] == first[1:]
    True
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int | None = None,
        *,
        batches: BatchPlan | None = None,
        shuffle: bool = False,
        seed: int = 0,
        collate: Callable[..., Any] | None = None,
        drop_last: bool = False,
        prefetch: int = 2,
        shuffle_buffer: int = 4096,
    ) -> None:
        self._streaming = not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__"))
        if batch_size is not None and (
            isinstance(batch_size, bool) or not isinstance(batch_size, Integral)
        ):
            kind = type(batch_size).__name__
            raise TypeError(f"Loader: batch_size must be an integer, got {kind}")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"Loader: batch_size must be positive, got {batch_size}")
        if batches is not None and (batch_size is not None or shuffle or self._streaming):
            raise ValueError(
                "Loader: batches replaces batch_size and shuffle and needs a map-style dataset"
            )
        if prefetch < 0 or shuffle_buffer < 1:
            raise ValueError(
                "Loader: prefetch must not be negative and shuffle_buffer must be positive, "
                f"got {prefetch} and {shuffle_buffer}"
            )
        if self._streaming and not isinstance(dataset, Iterable):
            raise TypeError(
                f"Loader: dataset must be map-style or iterable, got {type(dataset).__name__}"
            )
        if isinstance(dataset, Iterator):
            raise TypeError(
                "Loader: dataset must be iterable again and again, got an iterator, which is not"
            )
        self.dataset, self.batch_size, self.batches = dataset, batch_size, batches
        self.shuffle, self.seed, self.drop_last = shuffle, seed, drop_last
        self.prefetch, self.shuffle_buffer = prefetch, shuffle_buffer
        self._takes = collate is None and hasattr(dataset, "take") and not isinstance(
            dataset, np.ndarray
        )  # fmt: skip
        self._collate: Callable[..., Any] | None = collate
        self._random = collate is not None and "rng" in inspect.signature(collate).parameters
        self.epoch = 0
        self._batch = 0
        self._resume = False
        self._turn = 0
        self._plan_of: tuple[int, list[Any]] | None = None
        self._seen: tuple[Any, int | None] | None = None  # a dataset and its checksum

    # ---------------------------------------------------------------------------- position

    def _fingerprint(self) -> dict[str, Any]:
        result: dict[str, Any] = {
            "seed": self.seed,
            "batch_size": self.batch_size,
            "shuffle": self.shuffle,
            "drop_last": self.drop_last,
        }
        if self._streaming:
            result["shuffle_buffer"] = self.shuffle_buffer if self.shuffle else 0
        else:
            result["examples"] = len(self.dataset)
        if self._seen is None or self._seen[0] is not self.dataset:
            self._seen = (self.dataset, checksum(self.dataset))
        if self._seen[1] is not None:
            result["checksum"] = self._seen[1]
        for name, part in (("batches", self.batches), ("dataset", self.dataset)):
            describe = getattr(part, "fingerprint", None)
            if describe is not None:
                result[name] = describe()
        return result

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands, as plain data: epoch, batches given out, and what they hang on.

        Batches that wait in the thread don't count as given out.
        """
        return {
            "version": 1,
            "epoch": self.epoch,
            "batch": self._batch,
            "settings": self._fingerprint(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a saved position; a loader with other settings or data refuses it."""
        if not isinstance(state, Mapping) or state.get("version") != 1:
            raise ValueError("Loader.load_state_dict: state must come from Loader.state_dict")
        ours, theirs = self._fingerprint(), state.get("settings")
        if not isinstance(theirs, Mapping):
            raise ValueError("Loader.load_state_dict: state lacks its settings")
        for name in {**ours, **theirs}:
            if ours.get(name) != theirs.get(name):
                raise ValueError(
                    f"Loader.load_state_dict: {name} must be as it was saved, "
                    f"{theirs.get(name)!r}, got {ours.get(name)!r}"
                )
        counts: list[int] = []
        for name in ("epoch", "batch"):
            value = state.get(name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ValueError(f"Loader.load_state_dict: {name} must be a count, got {value!r}")
            counts.append(value)
        self.epoch, self._batch = counts
        self._resume = True
        self._turn += 1  # an iteration in progress no longer moves the position

    def apart(self) -> Loader:
        """A loader of the same batches, at its beginning; iterating it leaves this one's position.

        Examples
        --------
        >>> loader = Loader(range(6), batch_size=2)
        >>> batches = iter(loader)
        >>> next(batches).tolist(), [batch.tolist() for batch in loader.apart()][0]
        ([0, 1], [0, 1])
        >>> next(batches).tolist()
        [2, 3]
        """
        other = copy.copy(self)
        if hasattr(self.dataset, "set_epoch"):  # two epochs at once are two datasets
            other.dataset = copy.copy(self.dataset)
            if self._seen is not None and self._seen[0] is self.dataset:
                other._seen = (other.dataset, self._seen[1])
        other.epoch = other._batch = other._turn = 0
        other._resume, other._plan_of = False, None
        return other

    def __len__(self) -> int:
        """Batches per epoch (a stream doesn't know)."""
        if self._streaming:
            raise TypeError("Loader: the length of a stream isn't known")
        if self.batches is not None or self.batch_size is None:
            return len(self._plan(self.epoch))
        full, rest = divmod(len(self.dataset), self.batch_size)
        return full + (1 if rest and not self.drop_last else 0)

    # -------------------------------------------------------------------------- iteration

    def __iter__(self) -> Iterator[Any]:
        start = self._batch if self._resume else 0
        self._resume = False
        self._batch = start
        self._turn += 1
        return self._run(self.epoch, start, self._turn)

    def _run(self, epoch: int, start: int, turn: int) -> Iterator[Any]:
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)
        source = self._stream(epoch, start) if self._streaming else self._map(epoch, start)
        if self.prefetch:
            source = prefetched(source, self.prefetch)
        number = start
        try:
            for batch in source:
                number += 1
                if turn == self._turn:
                    self._batch = number
                yield batch
        finally:
            source.close()
        if turn == self._turn:
            self.epoch, self._batch = epoch + 1, 0

    def _make(self, items: Any, epoch: int, number: int) -> Any:
        if self._collate is None:
            whole = self.batch_size is None and self.batches is None
            return items if whole else default_collate(items)
        if self._random:
            return self._collate(items, rng=generator(self.seed, 5, epoch, number))
        return self._collate(items)

    def _plan(self, epoch: int) -> list[Any]:
        if self._plan_of is not None and self._plan_of[0] == epoch:
            return self._plan_of[1]
        if self.batches is not None:
            plan: list[Any] = self.batches.batches(epoch)
        else:
            size = len(self.dataset)
            order = permutation(size, self.seed, 4, epoch) if self.shuffle else np.arange(size)
            step = self.batch_size or 1
            plan = [order[i : i + step] for i in range(0, size, step)]
            if self.drop_last and plan and len(plan[-1]) < step:
                plan.pop()
        self._plan_of = (epoch, plan)
        return plan

    def _map(self, epoch: int, start: int) -> Generator[Any, None, None]:
        plan = self._plan(epoch)
        single = self.batch_size is None and self.batches is None
        for number in range(start, len(plan)):
            indices = plan[number]
            if single:
                yield self._make(self.dataset[int(indices[0])], epoch, number)
            elif self._takes:
                yield self.dataset.take(indices)
            else:
                yield self._make([self.dataset[int(i)] for i in indices], epoch, number)

    def _stream(self, epoch: int, start: int) -> Generator[Any, None, None]:
        items = iter(self.dataset)
        if self.shuffle:
            items = self._shuffled(items, epoch)
        if self.batch_size is None:
            for number, item in enumerate(islice(items, start, None), start):
                yield self._make(item, epoch, number)
            return
        # What was given out is read again and dropped: slower than seeking, but always exact.
        items = islice(items, start * self.batch_size, None)
        number = start
        while block := list(islice(items, self.batch_size)):
            if len(block) < self.batch_size and self.drop_last:
                return
            yield self._make(block, epoch, number)
            number += 1

    def _shuffled(self, items: Iterator[Any], epoch: int) -> Iterator[Any]:
        rng = generator(self.seed, 6, epoch)
        buffer: list[Any] = list(islice(items, self.shuffle_buffer))
        for item in items:
            place = int(rng.integers(len(buffer)))
            out, buffer[place] = buffer[place], item
            yield out
        for place in rng.permutation(len(buffer)):
            yield buffer[place]
