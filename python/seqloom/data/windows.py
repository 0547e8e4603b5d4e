# SPDX-License-Identifier: Apache-2.0
"""Language-model data: a corpus as one array of ids, and windows over it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from seqloom.data.random import raw
from seqloom.files import PathLike, atomic_write

Ids = npt.NDArray[np.int64]
Tokens = npt.NDArray[np.integer[Any]]
_BATCH = 512


class Encoder(Protocol):
    """What a tokenizer must offer here."""

    def encode_batch(
        self, texts: Sequence[str], *, add_special_tokens: bool = True
    ) -> list[list[int]]:
        """Ids of many texts."""

    def __len__(self) -> int: ...


def _encoded(texts: Iterable[str], tokenizer: Encoder, separator: int | None) -> Iterator[Tokens]:
    dtype: Any = np.uint16 if len(tokenizer) <= 1 << 16 else np.int32
    source = iter(texts)
    while batch := list(islice(source, _BATCH)):
        rows = tokenizer.encode_batch(batch, add_special_tokens=False)
        if separator is not None:
            rows = [[*row, separator] for row in rows]
        yield np.array([token for row in rows for token in row], dtype)


def encode_corpus(
    texts: Iterable[str],
    tokenizer: Encoder,
    *,
    separator: int | None = None,
    path: PathLike | None = None,
) -> Tokens:
    """Tokenize texts into one array of ids, in memory or in a file.

    Parameters
    ----------
    texts
        Strings, streamed; `read_text(files, keep_newlines=True, skip_blank=False)` gives a file
        as it is.
    tokenizer
        A `text.Tokenizer`.
    separator
        An id that is put behind every text, `tokenizer.eos_token_id` for separate documents.
    path
        Write to this `.npy` file and return it memory-mapped: the corpus may exceed the memory.

    Returns
    -------
    array
        `[N]`, uint16 or int32 as the vocabulary needs.

    Examples
    --------
    >>> from seqloom.text import Tokenizer
    >>> tokenizer = Tokenizer.train_from_texts(["abc"], kind="char", special_tokens={})
    >>> encode_corpus(["ab", "c"], tokenizer)
    array([0, 1, 2], dtype=uint16)
    """
    parts = _encoded(texts, tokenizer, separator)
    dtype = np.dtype(np.uint16 if len(tokenizer) <= 1 << 16 else np.int32).newbyteorder("<")
    if path is None:
        found = list(parts)
        return np.concatenate(found) if found else np.zeros(0, dtype)
    total = 0
    with atomic_write(path) as handle:
        # The header is written again when the length is known; its size doesn't change.
        for final in (False, True):
            handle.seek(0)
            shape = (total,) if final else (1 << 60,)
            header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(handle, header)
            if not final:
                for part in parts:
                    handle.write(part.astype(dtype, copy=False).tobytes())
                    total += len(part)
    if total == 0:
        return np.zeros(0, dtype)
    result: Tokens = np.load(os.fspath(path), mmap_mode="r", allow_pickle=False)
    return result


def _check_tokens(tokens: Any, what: str) -> Tokens:
    array = tokens if isinstance(tokens, np.ndarray) else np.asarray(tokens)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(
            f"{what}: tokens must be integers of shape [N], got {array.dtype} {list(array.shape)}"
        )
    return array


def _positive(what: str, **values: int | None) -> None:
    for name, value in values.items():
        if value is not None and value < 1:
            raise ValueError(f"{what}: {name} must be positive, got {value}")


class ContiguousBatches:
    """The corpus as `batch_size` parallel streams, for models that carry their state along.

    Row b of batch i + 1 continues row b of batch i. Item i is `(inputs, targets)`, int64
    `[batch_size, seq_len]` both, targets being one token ahead. What is left at the end and is
    shorter than a batch is dropped.

    Examples
    --------
    >>> batches = ContiguousBatches(np.arange(13), batch_size=2, seq_len=3)
    >>> len(batches), batches[0][0].tolist(), batches[1][1].tolist()
    (2, [[0, 1, 2], [6, 7, 8]], [[4, 5, 6], [10, 11, 12]])
    """

    def __init__(self, tokens: Any, batch_size: int, seq_len: int) -> None:
        _positive("ContiguousBatches", batch_size=batch_size, seq_len=seq_len)
        self.tokens = _check_tokens(tokens, "ContiguousBatches")
        self.batch_size, self.seq_len = batch_size, seq_len
        self._row = max(len(self.tokens) - 1, 0) // batch_size
        if self._row < seq_len:
            raise ValueError(
                f"ContiguousBatches: tokens must number more than batch_size * seq_len = "
                f"{batch_size * seq_len}, got {len(self.tokens)}"
            )

    def __len__(self) -> int:
        return self._row // self.seq_len

    def __getitem__(self, index: int) -> tuple[Ids, Ids]:
        if not 0 <= index < len(self):
            raise IndexError(f"ContiguousBatches: index must be in [0, {len(self)}), got {index}")
        starts = np.arange(self.batch_size) * self._row + index * self.seq_len
        return _gather(self.tokens, starts, self.seq_len)


def _gather(tokens: Tokens, starts: npt.NDArray[Any], seq_len: int) -> tuple[Ids, Ids]:
    block = np.empty((len(starts), seq_len + 1), np.int64)
    for row, start in zip(block, starts.tolist(), strict=True):
        row[:] = tokens[start : start + seq_len + 1]
    return block[:, :-1].copy(), block[:, 1:].copy()


class LMWindows:
    """Windows of a corpus at a fixed stride, a map-style dataset.

    Item i is `(inputs, targets)`, int64 `[seq_len]` both; `take(indices)` gives a batch at once.

    Examples
    --------
    >>> windows = LMWindows(np.arange(8), seq_len=3)
    >>> len(windows), windows[1]
    (2, (array([3, 4, 5]), array([4, 5, 6])))
    """

    def __init__(self, tokens: Any, seq_len: int, stride: int | None = None) -> None:
        _positive("LMWindows", seq_len=seq_len, stride=stride)
        self.tokens = _check_tokens(tokens, "LMWindows")
        self.seq_len, self.stride = seq_len, stride or seq_len
        if len(self.tokens) <= seq_len:
            raise ValueError(
                f"LMWindows: tokens must number more than seq_len = {seq_len}, "
                f"got {len(self.tokens)}"
            )

    def __len__(self) -> int:
        return (len(self.tokens) - self.seq_len - 1) // self.stride + 1

    def _starts(self, indices: Any) -> npt.NDArray[Any]:
        chosen = np.asarray(indices, np.int64).reshape(-1)
        if len(chosen) and not (chosen.min() >= 0 and chosen.max() < len(self)):
            raise IndexError(
                f"{type(self).__name__}: index must be in [0, {len(self)}), got {indices}"
            )
        return chosen * self.stride

    def __getitem__(self, index: int) -> tuple[Ids, Ids]:
        inputs, targets = self.take([index])
        return inputs[0], targets[0]

    def take(self, indices: Any) -> tuple[Ids, Ids]:
        """A batch: inputs and targets, int64 `[len(indices), seq_len]`."""
        return _gather(self.tokens, self._starts(indices), self.seq_len)


class RandomWindows(LMWindows):
    """Windows at random places, other ones in every epoch, a map-style dataset.

    Parameters
    ----------
    tokens
        int `[N]`.
    seq_len
        Length of inputs and targets.
    count
        Windows per epoch; as many as cover the corpus once when absent.
    seed
        The places depend on the seed and the epoch alone.

    Examples
    --------
    >>> windows = RandomWindows(np.arange(100), seq_len=4, count=3, seed=1)
    >>> inputs, targets = windows.take([0, 2])
    >>> bool((targets == inputs + 1).all())
    True
    """

    def __init__(self, tokens: Any, seq_len: int, count: int | None = None, seed: int = 0) -> None:
        _positive("RandomWindows", count=count)
        super().__init__(tokens, seq_len)
        self.count = count or len(self.tokens) // seq_len
        self.seed = seed
        self.set_epoch(0)

    def __len__(self) -> int:
        return self.count

    def set_epoch(self, epoch: int) -> None:
        """Move to the places of an epoch (the loader does)."""
        places = len(self.tokens) - self.seq_len
        self._places = (raw(self.count, self.seed, 3, epoch) % np.uint64(places)).astype(np.int64)

    def _starts(self, indices: Any) -> npt.NDArray[Any]:
        super()._starts(indices)
        places: npt.NDArray[Any] = self._places[np.asarray(indices, np.int64).reshape(-1)]
        return places

    def fingerprint(self) -> dict[str, Any]:
        """What must be the same for a saved position to mean the same batches."""
        return {"tokens": len(self.tokens), "seq_len": self.seq_len, "seed": self.seed}
