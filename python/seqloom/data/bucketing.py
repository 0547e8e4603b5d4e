# SPDX-License-Identifier: Apache-2.0
"""Batches of similar length, as many sequences as a budget of padded tokens allows."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from seqloom.data.random import permutation

Indices = npt.NDArray[np.int64]


class TokenBudget:
    """Group examples by length such that every padded batch stays within a budget.

    Parameters
    ----------
    lengths
        int `[N]`, or `[N, S]` for examples of S sequences (pairs, say) whose padded sizes add up.
    max_tokens
        Limit for `batch size x (sum of the padded widths)`.
    max_batch
        Limit for the batch size.
    shuffle
        Examples of similar length meet in other batches, and batches come in another order, in
        every epoch.
    seed
        For the shuffling.
    pool
        Sort by length only within shuffled pools of so many examples: more variety, a little more
        padding. All at once when absent.
    drop_long
        Leave out examples that exceed the budget alone; otherwise they are an error.

    Examples
    --------
    >>> budget = TokenBudget([3, 9, 4, 8, 3], max_tokens=18, shuffle=False)
    >>> [batch.tolist() for batch in budget.batches(0)]
    [[0, 4, 2], [3, 1]]
    """

    def __init__(
        self,
        lengths: Any,
        max_tokens: int,
        *,
        max_batch: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
        pool: int | None = None,
        drop_long: bool = False,
    ) -> None:
        sizes = np.asarray(lengths, np.int64)
        if sizes.ndim not in (1, 2):
            raise ValueError(
                f"TokenBudget: lengths must have shape [N] or [N, S], got {list(sizes.shape)}"
            )
        if (sizes < 0).any():
            raise ValueError(f"TokenBudget: lengths must not be negative, got {sizes.min()}")
        if max_tokens < 1 or (max_batch is not None and max_batch < 1):
            raise ValueError(
                "TokenBudget: max_tokens and max_batch must be positive, "
                f"got {max_tokens} and {max_batch}"
            )
        if pool is not None and pool < 1:
            raise ValueError(f"TokenBudget: pool must be positive, got {pool}")
        self.lengths = sizes[:, None] if sizes.ndim == 1 else sizes
        long = np.flatnonzero(self.lengths.sum(axis=1) > max_tokens)
        if len(long) and not drop_long:
            raise ValueError(
                f"TokenBudget: lengths must be at most max_tokens = {max_tokens}, got "
                f"{self.lengths[long[0]].sum()} at {long[0]}; shorten, or pass drop_long=True"
            )
        self.kept = np.setdiff1d(np.arange(len(sizes)), long)
        self.max_tokens, self.max_batch = max_tokens, max_batch
        self.shuffle, self.seed, self.pool = shuffle, seed, pool

    def batches(self, epoch: int) -> list[Indices]:
        """Indices of every batch of an epoch."""
        order = self.kept
        if self.shuffle:
            order = order[permutation(len(order), self.seed, 1, epoch)]
        result: list[Indices] = []
        step = self.pool or max(len(order), 1)
        for start in range(0, len(order), step):
            part = order[start : start + step]
            # The first sequence's length decides, then the next; lexsort wants the last key first.
            result += self._cut(part[np.lexsort(self.lengths[part].T[::-1])])
        if self.shuffle:
            result = [result[i] for i in permutation(len(result), self.seed, 2, epoch)]
        return result

    def _cut(self, order: Indices) -> list[Indices]:
        result: list[Indices] = []
        start = 0
        widest = np.zeros(self.lengths.shape[1], np.int64)
        for position, index in enumerate(order):
            grown = np.maximum(widest, self.lengths[index])
            count = position - start + 1
            full = self.max_batch is not None and count > self.max_batch
            if count > 1 and (full or count * int(grown.sum()) > self.max_tokens):
                result.append(order[start:position])
                start, grown = position, self.lengths[index]
            widest = grown
        if len(order):
            result.append(order[start:])
        return result

    def efficiency(self, epoch: int = 0) -> float:
        """Share of the padded tokens that are real ones.

        Examples
        --------
        >>> TokenBudget([2, 4], max_tokens=8).efficiency()
        0.75
        """
        batches = self.batches(epoch)
        padded = sum(len(b) * int(self.lengths[b].max(axis=0).sum()) for b in batches)
        return int(self.lengths[self.kept].sum()) / padded if padded else 1.0

    def fingerprint(self) -> dict[str, Any]:
        """What must be the same for a saved position to mean the same batches."""
        return {
            "max_tokens": self.max_tokens,
            "max_batch": self.max_batch,
            "shuffle": self.shuffle,
            "seed": self.seed,
            "pool": self.pool,
            "examples": len(self.kept),
            "tokens": int(self.lengths[self.kept].sum()),
        }
