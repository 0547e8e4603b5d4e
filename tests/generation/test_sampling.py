# SPDX-License-Identifier: Apache-2.0
"""Cuts of the distribution against their definitions, and against transformers' warpers."""

from __future__ import annotations

import numpy as np
import pytest

from seqloom.generation import candidates
from seqloom.generation.sampling import drawn, largest


def by_definition(logits, temperature, top_k, top_p, min_p):
    """Kept tokens and their probabilities, in float64 with full sorts."""
    x = logits.astype(np.float64) / temperature
    p = np.exp(x - x.max())
    p /= p.sum()
    kept = np.ones(p.size, bool)
    if top_k:
        kept &= p >= np.sort(p)[-min(top_k, p.size)]
    p = np.where(kept, p, 0) / p[kept].sum()
    order = np.argsort(-p, kind="stable")
    before = np.cumsum(p[order]) - p[order]
    in_nucleus = np.zeros(p.size, bool)
    in_nucleus[order[before < top_p]] = True
    kept &= in_nucleus
    kept &= p >= min_p * p.max()
    p = np.where(kept, p, 0)
    return kept, p / p.sum()


@pytest.mark.parametrize("size", [1, 2, 10, 1000, 5000])
@pytest.mark.parametrize(
    "cuts",
    [
        {},
        {"temperature": 0.5},
        {"top_k": 3},
        {"top_k": 10_000},
        {"top_p": 0.9},
        {"top_p": 0.999},
        {"top_p": 1e-9},
        {"min_p": 0.1},
        {"temperature": 1.7, "top_k": 40, "top_p": 0.7, "min_p": 0.2},
    ],
    ids=str,
)
def test_cuts(size, cuts, rng):
    full = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, **cuts}
    logits = (rng.standard_normal(size) * 2).astype(np.float32)
    before = logits.copy()
    ids, p = candidates(logits, **full)
    np.testing.assert_array_equal(logits, before)
    kept, want = by_definition(logits, **full)
    got = np.zeros(size)
    got[np.arange(size) if ids is None else ids] = p / p.sum(dtype=np.float64)
    np.testing.assert_array_equal(got > 0, kept)
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_a_flat_distribution_has_a_nucleus(rng):
    ids, _ = candidates(np.zeros(50_000, np.float32), top_p=0.5)
    assert abs(ids.size - 25_000) < 20


def test_ties_at_the_last_place_stay():
    ids, _ = candidates(np.array([1, 2, 2, 0], np.float32), top_k=1)
    assert sorted(ids.tolist()) == [1, 2]


def test_largest(rng):
    x = rng.integers(0, 50, 300).astype(np.float32)
    for k in (1, 7, 299, 300, 400):
        np.testing.assert_array_equal(largest(x, k), np.argsort(-x, kind="stable")[:k])


@pytest.mark.parametrize("size", [1, 3, 511, 512, 513, 5000])
def test_draws_are_where_the_running_sum_passes(size, rng):
    p = rng.random(size).astype(np.float32) * (rng.random(size) < 0.5)
    p[size // 2] = 1
    sums = np.cumsum(p, dtype=np.float64)
    for u in [0.0, 1 - 2**-53, *rng.random(200)]:
        place = drawn(p.astype(np.float32), u)
        assert p[place] > 0
        assert sums[place] - p[place] - 1e-4 <= u * sums[-1] <= sums[place] + 1e-4
    assert drawn(np.zeros(size, np.float32), 0.5) is None
    assert drawn(np.full(size, np.nan, np.float32), 0.5) is None


def test_hidden_tokens_are_never_kept():
    x = np.array([0, -np.inf, 1, -np.inf], np.float32)
    for cuts in ({}, {"top_k": 3}, {"top_p": 0.99}, {"min_p": 0.01}):
        ids, p = candidates(x, **cuts)
        chance = np.zeros(4)
        chance[np.arange(4) if ids is None else ids] = p
        assert chance[1] == 0 == chance[3]


def test_transformers_cuts_the_same(rng):
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from transformers.generation import logits_process as theirs

    x = (rng.standard_normal(500) * 3).astype(np.float32)
    for cuts, warper in (
        ({"top_k": 20}, theirs.TopKLogitsWarper(20)),
        ({"top_p": 0.83}, theirs.TopPLogitsWarper(0.83)),
        ({"min_p": 0.07}, theirs.MinPLogitsWarper(0.07)),
    ):
        kept = torch.isfinite(warper(None, torch.tensor(x)[None])[0]).numpy()
        ids, _ = candidates(x, **cuts)
        assert sorted(ids.tolist()) == np.flatnonzero(kept).tolist()


def test_transformers_processes_the_same(rng):
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from transformers.generation import logits_process as theirs

    from seqloom import generation as ours

    history = rng.integers(0, 12, (4, 30))
    x = rng.standard_normal((4, 12)).astype(np.float32)
    words = [[3], [5, 6], [1, 2, 3], [*history[0, -2:].tolist(), 7]]
    for mine, other in (
        (ours.RepetitionPenalty(1.3), theirs.RepetitionPenaltyLogitsProcessor(1.3)),
        (ours.NoRepeatNGram(1), theirs.NoRepeatNGramLogitsProcessor(1)),
        (ours.NoRepeatNGram(2), theirs.NoRepeatNGramLogitsProcessor(2)),
        (ours.NoRepeatNGram(3), theirs.NoRepeatNGramLogitsProcessor(3)),
        (ours.BadWords(words), theirs.NoBadWordsLogitsProcessor(words)),
    ):
        want = other(torch.tensor(history), torch.tensor(x)).numpy()
        np.testing.assert_allclose(mine(history, x.copy()), want, rtol=1e-6)
