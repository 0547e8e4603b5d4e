# SPDX-License-Identifier: Apache-2.0
"""The cache of keys and values: growth, unequal rows, selection, forgetting."""

from __future__ import annotations

import numpy as np
import pytest

import seqloom as sl
from generation_support import VOCABULARY, logits_of, prompts, tiny
from seqloom.generation import Decodable, KVCache, State


@pytest.fixture(scope="module", params=["GPT2", "Llama"])
def model(request, device):
    return tiny(device, request.param)


def close(a, b):
    np.testing.assert_allclose(a.cpu().numpy(), b, atol=2e-4)


def test_models_and_caches_follow_the_protocol(model):
    assert isinstance(model, Decodable)
    assert isinstance(model.start(1, capacity=1), State)


@pytest.mark.parametrize("pieces", [[1] * 9, [9], [4, 1, 4], [2, 7]])
@pytest.mark.parametrize("capacity", [1, 5, 9, 64])
def test_steps_of_any_size_and_buffers_that_grow(model, pieces, capacity):
    ids = prompts(2, 9)
    want = logits_of(model, ids)
    cache = model.start(2, capacity=capacity)
    at = 0
    for n in pieces:
        got = model.decode(ids[:, at : at + n], cache)
        at += n
        close(got, want[:, at - 1])
        assert cache.lengths.tolist() == [at, at]
    assert cache.capacity >= 9
    assert cache.keys[0].shape[2] == cache.capacity


def test_rows_of_unequal_length(model):
    ids = prompts(3, 8)
    lengths = np.array([3, 8, 5])
    cache = model.start(3, capacity=2)
    got = model.decode(ids, cache, lengths)
    for i, n in enumerate(lengths):
        close(got[i], logits_of(model, ids[i : i + 1, :n])[0, -1])
    assert cache.lengths.tolist() == lengths.tolist()
    more = prompts(3, 4, seed=8)
    counts = np.array([4, 0, 2])
    got = model.decode(more, cache, counts)
    for i, n in enumerate(lengths):
        if counts[i]:
            row = np.concatenate([ids[i, :n], more[i, : counts[i]]])
            close(got[i], logits_of(model, row[None])[0, -1])
    got = model.decode(more[:, :1], cache)
    for i, n in enumerate(lengths):
        row = np.concatenate([ids[i, :n], more[i, : counts[i]], more[i, :1]])
        close(got[i], logits_of(model, row[None])[0, -1])


def test_selecting_rows(model):
    ids = prompts(3, 6)
    lengths = np.array([4, 6, 5])
    token = np.array([[1], [2], [3], [4]])
    for rows in ([2, 0, 1], [1, 1, 1, 0], [2], [0, 1, 2]):
        cache = model.start(3, capacity=6)
        model.decode(ids, cache, lengths)
        cache.reorder(np.array(rows))
        assert cache.lengths.tolist() == lengths[rows].tolist()
        got = model.decode(token[: len(rows)], cache)
        for i, r in enumerate(rows):
            row = np.concatenate([ids[r, : lengths[r]], token[i]])
            close(got[i], logits_of(model, row[None])[0, -1])


def test_forgetting(model):
    ids = prompts(2, 7)
    cache = model.start(2, capacity=7)
    model.decode(ids, cache)
    cache.truncate([2, 5])
    got = model.decode(np.array([[3], [4]]), cache)
    for i, n in enumerate((2, 5)):
        row = np.concatenate([ids[i, :n], [3 + i]])
        close(got[i], logits_of(model, row[None])[0, -1])
    for wrong in ([9, 9], [-1, 0]):
        with pytest.raises(ValueError, match="lengths"):
            cache.truncate(wrong)
    with pytest.raises(ValueError, match="shape"):
        cache.truncate([1])


def test_a_step_that_fails_leaves_the_lengths_alone(model):
    cache = model.start(1, capacity=8)
    model.decode(prompts(1, 3), cache)
    if str(model.device) != "cpu":
        pytest.skip("CUDA reports an index later")
    with pytest.raises(IndexError):
        model.decode(np.array([[VOCABULARY + 5]]), cache)
    assert cache.lengths.tolist() == [3]


def test_memory_is_taken_in_advance(model):
    layers, heads, width = model.cache_shape()
    cache = KVCache(layers, 2, heads=heads, width=width, capacity=50)
    assert all(k.shape == (2, heads, 50, width) for k in cache.keys)


def test_quantised_models_write_and_read_alike(device):
    model = sl.models.quantize_model(tiny(device), "int8")
    ids = prompts(2, 9)
    cache = model.start(2, capacity=9)
    got, want = model.decode(ids, cache).cpu().numpy(), logits_of(model, ids)[:, -1]
    # Few rows and many may be multiplied by kernels that round differently.
    assert np.abs(got - want).max() <= 0.05 * np.abs(want).max()
    assert model.generate(ids, max_new_tokens=3).shape == (2, 12)
