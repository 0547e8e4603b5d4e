# SPDX-License-Identifier: Apache-2.0
"""Quantiles, and the Mann-Whitney test that decides whether two sets of timings differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# With fewer samples than this on either side no p-value can be trusted to be small by effect
# rather than by luck, so the answer is always 'no difference'.
MIN_SAMPLES = 5


@dataclass(frozen=True)
class Summary:
    """p50 with p20 and p80, in the unit of the samples."""

    p20: float
    p50: float
    p80: float
    count: int


def summarize(samples: Sequence[float]) -> Summary:
    """Quantiles of the samples; at least one sample is required."""
    if len(samples) == 0:
        raise ValueError("summarize: samples must not be empty, got none")
    p20, p50, p80 = np.quantile(np.asarray(samples, np.float64), (0.2, 0.5, 0.8))
    return Summary(float(p20), float(p50), float(p80), len(samples))


def mann_whitney(a: Sequence[float], b: Sequence[float]) -> float:
    """Two-sided p-value of the hypothesis that `a` and `b` come from one distribution.

    Exact where both sides are small and no values tie, else the normal approximation with the
    corrections for ties and continuity. It looks at ranks only, so outliers, which timings are
    full of, count no more than other values.
    """
    n, m = len(a), len(b)
    if n == 0 or m == 0:
        return 1.0
    values = np.concatenate([np.asarray(a, np.float64), np.asarray(b, np.float64)])
    unique, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks = (ends - (counts - 1) / 2.0)[inverse]
    u = float(ranks[:n].sum()) - n * (n + 1) / 2.0
    if len(unique) == n + m and n * m <= 900:
        return _exact(round(u), n, m)
    mean = n * m / 2.0
    total = n + m
    ties = float(((counts**3) - counts).sum())
    variance = n * m / 12.0 * ((total + 1) - ties / (total * (total - 1)))
    if variance <= 0:
        return 1.0
    z = max(abs(u - mean) - 0.5, 0.0) / math.sqrt(variance)
    return min(1.0, math.erfc(z / math.sqrt(2.0)))


def _exact(u: int, n: int, m: int) -> float:
    # Number of ways to reach each value of U: the coefficients of the Gaussian binomial
    # [n+m choose n]_q = prod_i (1 - q^(m+i)) / (1 - q^i).
    size = n * m + 1
    ways = np.zeros(size)
    ways[0] = 1.0
    for i in range(1, n + 1):
        for k in range(size - 1, m + i - 1, -1):
            ways[k] -= ways[k - m - i]
        for k in range(i, size):
            ways[k] += ways[k - i]
    low = min(u, n * m - u)
    return float(min(1.0, 2.0 * ways[: low + 1].sum() / ways.sum()))
