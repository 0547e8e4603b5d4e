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


# ---- sliding windows ---------------------------------------------------------------------------


def windowed(device, window=4, **fields):
    sl.manual_seed(7)
    model = sl.models.Mistral(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, sliding_window=window,
        initializer_range=0.4, eos_token_id=None, **fields,
    )  # fmt: skip
    return model.eval().to(device=device)


@pytest.mark.parametrize("window", [1, 4, 7])
@pytest.mark.parametrize("pieces", [[1] * 40, [3, 1, 1, 9] * 3 + [1] * 8, [40], [17, 23]])
def test_a_window_is_all_that_is_kept(device, window, pieces):
    model = windowed(device, window)
    ids = prompts(2, sum(pieces))
    want = logits_of(model, ids)
    cache = model.start(2, capacity=4096)
    at = 0
    for n in pieces:
        got = model.decode(ids[:, at : at + n], cache)
        at += n
        close(got, want[:, at - 1])
        assert cache.lengths.tolist() == [at, at]
        held = cache.lengths - cache.dropped
        assert (held >= min(window - 1, at)).all()
    assert cache.capacity <= window - 1 + max(*pieces, window, 2) + 1


def test_a_window_with_rows_of_unequal_length(device):
    model = windowed(device)
    ids, lengths = prompts(3, 11), np.array([3, 11, 6])
    cache = model.start(3, capacity=1)
    model.decode(ids, cache, lengths)
    rows = [list(ids[i, :n]) for i, n in enumerate(lengths)]
    for step in range(24):
        if step == 9:
            cache.reorder(np.array([2, 0, 0]))
            rows = [list(rows[2]), list(rows[0]), list(rows[0])]
        counts = np.array([1, step % 2, 1])
        token = np.array([[step % 5], [step % 3], [step % 7]])
        got = model.decode(token, cache, counts)
        for i in range(3):
            if counts[i]:
                rows[i].append(int(token[i, 0]))
                close(got[i], logits_of(model, [rows[i]])[0, -1])
    assert cache.lengths.tolist() == [len(r) for r in rows]
    assert cache.capacity <= 16


def test_what_a_window_has_left_behind_cannot_be_remembered(device):
    model = windowed(device)
    cache = model.start(1, capacity=64)
    ids = prompts(1, 20)
    for i in range(20):
        model.decode(ids[:, i : i + 1], cache)
    dropped = int(cache.dropped[0])
    assert dropped > 8
    with pytest.raises(NotImplementedError, match="left behind"):
        cache.truncate([dropped + 2])
    cache.truncate([dropped + 3])  # three keys are all that the next token sees besides itself
    got = model.decode(np.array([[5]]), cache)
    row = np.concatenate([ids[0, : dropped + 3], [5]])
    close(got[0], logits_of(model, row[None])[0, -1])


def test_a_chat_with_a_window_reads_again_what_it_has_to(device):
    model = windowed(device)
    first, memory = model.generate(prompts(1), max_new_tokens=20, return_state=True)
    assert memory.state.capacity <= 8
    longer = np.concatenate([first, prompts(1, 3, seed=9)], axis=1)
    want = model.generate(longer, max_new_tokens=5)
    got, memory = model.generate(longer, max_new_tokens=5, state=memory, return_state=True)
    assert np.array_equal(got, want)
    other = prompts(1, 9, seed=3)  # nothing in common: from the beginning
    assert np.array_equal(
        model.generate(other, max_new_tokens=5, state=memory),
        model.generate(other, max_new_tokens=5),
    )


def mixed(device, windows=(4, None, 4), **fields):
    """Layers with and without a window."""
    sl.manual_seed(7)
    kinds = ["full_attention" if w is None else "sliding_attention" for w in windows]
    model = sl.models.Qwen2(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=24, num_attention_heads=4,
        num_hidden_layers=len(windows), num_key_value_heads=2, use_sliding_window=True,
        sliding_window=4, layer_types=kinds, initializer_range=0.4, eos_token_id=None, **fields,
    )  # fmt: skip
    assert model.cache_windows() == list(windows)
    return model.eval().to(device=device)


@pytest.mark.parametrize("pieces", [[1] * 40, [3, 1, 1, 9] * 3 + [1] * 8, [40], [17, 23]])
def test_layers_without_a_window_keep_everything_the_others_do_not(device, pieces):
    model = mixed(device)
    ids = prompts(2, sum(pieces))
    want = logits_of(model, ids)
    cache = model.start(2, capacity=4)
    at = 0
    for n in pieces:
        got = model.decode(ids[:, at : at + n], cache)
        at += n
        close(got, want[:, at - 1])
        assert cache.lengths.tolist() == [at, at]
    whole, seen = cache.parts
    assert (whole.window, len(whole.keys), seen.window, len(seen.keys)) == (None, 1, 4, 2)
    assert whole.capacity >= 40
    assert seen.capacity <= 3 + max(*pieces, 4) + 1


def test_layers_with_and_without_a_window_select_and_forget_rows_together(device):
    model = mixed(device)
    ids, lengths = prompts(3, 11), np.array([3, 11, 6])
    cache = model.start(3, capacity=1)
    model.decode(ids, cache, lengths)
    rows = [list(ids[i, :n]) for i, n in enumerate(lengths)]
    for step in range(24):
        if step == 9:
            cache.reorder(np.array([2, 0, 0]))
            rows = [list(rows[2]), list(rows[0]), list(rows[0])]
        if step == 15:
            cache.truncate(cache.lengths - 1)
            rows = [row[:-1] for row in rows]
        counts = np.array([1, step % 2, 1])
        token = np.array([[step % 5], [step % 3], [step % 7]])
        got = model.decode(token, cache, counts)
        for i in range(3):
            if counts[i]:
                rows[i].append(int(token[i, 0]))
                close(got[i], logits_of(model, [rows[i]])[0, -1])
    before = [part.lengths.tolist() for part in cache.parts]
    with pytest.raises(NotImplementedError, match="left behind"):
        cache.truncate([1, 1, 1])
    assert [part.lengths.tolist() for part in cache.parts] == before


def test_a_chat_and_beams_with_windows_in_some_layers(device):
    model = mixed(device)
    first, memory = model.generate(prompts(1), max_new_tokens=20, return_state=True)
    longer = np.concatenate([first, prompts(1, 3, seed=9)], axis=1)
    got, memory = model.generate(longer, max_new_tokens=5, state=memory, return_state=True)
    assert np.array_equal(got, model.generate(longer, max_new_tokens=5))
    beams = model.generate(prompts(2, 9), max_new_tokens=12, num_beams=3)
    step = prompts(2, 9)
    scores = []
    for rows in (beams, model.generate(step, max_new_tokens=12)):
        logits = logits_of(model, rows)[:, 8:-1].astype(np.float64)
        logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
        scores.append(np.take_along_axis(logits, rows[:, 9:, None], -1).sum((1, 2)))
    assert (scores[0] >= scores[1] - 1e-4).all()


@pytest.mark.parametrize("make", [windowed, mixed])
def test_a_window_does_not_bound_positions(device, make):
    """Tables of angles reach beyond the room of the cache, on the device as well."""
    ids = prompts(1, 3)
    got = make(device).generate(ids, max_new_tokens=150)
    want = logits_of(make("cpu"), got)
    assert np.array_equal(want[0, 2:-1].argmax(-1), got[0, 3:])
