# SPDX-License-Identifier: Apache-2.0
"""Random numbers that depend on a key alone: the same seed gives the same data everywhere."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def _bits(key: tuple[int, ...]) -> np.random.Philox:
    for part in key:
        if part < 0:
            raise ValueError(f"seed must not be negative, got {part}")
    return np.random.Philox(np.random.SeedSequence(list(key)))


def generator(*key: int) -> np.random.Generator:
    """A NumPy generator for a key such as (seed, epoch, batch): Philox, counter-based.

    Examples
    --------
    >>> a, b = generator(7, 0, 3).random(4), generator(7, 0, 3).random(4)
    >>> bool((a == b).all())
    True
    """
    return np.random.Generator(_bits(key))


def raw(count: int, *key: int) -> npt.NDArray[np.uint64]:
    """64 random bits, `count` times, for a key.

    Examples
    --------
    >>> raw(3, 1, 2).dtype
    dtype('uint64')
    """
    return np.asarray(_bits(key).random_raw(count), dtype=np.uint64).reshape(count)


def permutation(count: int, *key: int) -> npt.NDArray[np.int64]:
    """A permutation of `range(count)` for a key.

    It sorts raw bits of the generator, which NumPy promises never to change.

    Examples
    --------
    >>> sorted(permutation(5, 1, 0).tolist())
    [0, 1, 2, 3, 4]
    """
    return np.argsort(raw(count, *key), kind="stable").astype(np.int64, copy=False)
