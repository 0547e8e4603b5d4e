# SPDX-License-Identifier: Apache-2.0
"""Beam search against exhaustive search; its results as transformers has them are elsewhere."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import seqloom as sl
from generation_support import Letters, logits_of, prompts, tiny

V = 5


@pytest.fixture(scope="module")
def model(device):
    sl.manual_seed(1)
    small = sl.models.GPT2(
        vocab_size=V, n_positions=32, n_embd=16, n_layer=1, n_head=2, initializer_range=0.4
    )
    return small.eval().to(device=device)


def everything(model, prompt, steps, eos, penalty):
    """All continuations with their scores, best first."""
    found = {}
    sequences = list(itertools.product(range(V), repeat=steps))
    ids = np.array([[*prompt, *s] for s in sequences])
    logits = logits_of(model, ids).astype(np.float64)
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    for row, s in enumerate(sequences):
        end = s.index(eos) + 1 if eos in s else steps
        total = sum(logp[row, len(prompt) - 1 + i, s[i]] for i in range(end))
        found[s[:end]] = total / end**penalty
    return sorted(found.items(), key=lambda item: -item[1])


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
def test_with_enough_beams_the_best_are_found(model, penalty):
    prompt, steps, eos = np.array([1, 3, 2]), 4, 0
    best = everything(model, prompt, steps, eos, penalty)
    out, scores = model.generate(
        prompt[None], max_new_tokens=steps, num_beams=V**3, num_return_sequences=6,
        eos_token_id=eos, length_penalty=penalty, early_stopping="never", pad_token_id=eos,
        return_scores=True,
    )  # fmt: skip
    for row, token_scores, (want, score) in zip(out, scores, best, strict=False):
        got = row[3:].tolist()
        assert got[: len(want)] == list(want)
        assert set(got[len(want) :]) <= {eos}
        assert token_scores.sum() / len(want) ** penalty == pytest.approx(score, abs=1e-4)


def test_one_beam_is_greedy():
    model = tiny()
    ids = prompts()
    np.testing.assert_array_equal(
        model.generate(ids, num_beams=1, max_new_tokens=8), model.generate(ids, max_new_tokens=8)
    )


@pytest.mark.parametrize("kind", ["GPT2", "Llama", "LSTM"])
def test_beams_of_a_batch_are_those_of_its_rows(kind, device):
    model = tiny(device, kind)
    ids = prompts(3, 7)
    mask = np.ones_like(ids)
    mask[1, :3] = 0
    options = {"num_beams": 3, "max_new_tokens": 8, "eos_token_id": 4, "pad_token_id": 16}
    out = model.generate(ids, attention_mask=mask, **options)
    for i, keep in enumerate(mask.astype(bool)):
        alone = model.generate(ids[i : i + 1, keep[: ids.shape[1]]], **options)[0, keep.sum() :]
        got = out[i, 7:]
        np.testing.assert_array_equal(got[: alone.size], alone)
        assert set(got[alone.size :].tolist()) <= {16}


def test_n_best_are_different_and_in_order():
    model = tiny()
    ids = prompts(2)
    out, scores = model.generate(
        ids, num_beams=5, num_return_sequences=5, max_new_tokens=6, return_scores=True
    )
    assert out.shape == (10, 12)
    for rows, values in ((out[:5], scores[:5]), (out[5:], scores[5:])):
        assert len({tuple(r) for r in rows.tolist()}) == 5
        totals = values.sum(1)
        assert (np.diff(totals) <= 1e-5).all()


def test_beams_end_at_stop_strings():
    model, letters = tiny(), Letters()
    ids = prompts(1)
    free = letters.decode(model.generate(ids, num_beams=3, max_new_tokens=10)[0, 6:])
    stop = free[2:4]
    out = model.generate(
        ids, num_beams=3, num_return_sequences=3, max_new_tokens=10, stop=stop,
        tokenizer=letters, pad_token_id=16,
    )  # fmt: skip
    texts = [letters.decode(row[6:]) for row in out]
    assert any(t.endswith(stop) for t in texts)
    for t in texts:
        assert stop not in t[:-1] or t.endswith(stop)


def test_drawn_beams_reproduce_and_differ():
    model = tiny()
    ids = prompts(2)
    options = {"num_beams": 4, "do_sample": True, "max_new_tokens": 8, "temperature": 1.5}
    one = model.generate(ids, seed=1, **options)
    np.testing.assert_array_equal(model.generate(ids, seed=1, **options), one)
    assert any((model.generate(ids, seed=s, **options) != one).any() for s in (2, 3, 4))
    cut = model.generate(ids, seed=1, top_k=1, **options)
    assert cut.shape == one.shape


def test_processors_see_the_beams_histories():
    model = tiny()
    seen = []

    def look(history, logits):
        seen.append(history.shape)
        logits[:, 3] = -np.inf

    out = model.generate(prompts(2), num_beams=3, max_new_tokens=4, logits_processors=look)
    assert seen == [(6, 6 + i) for i in range(4)]
    assert 3 not in out[:, 6:]


@pytest.mark.parametrize("eos", [list(range(V)), [0, 1, 2, 3]])
def test_more_end_tokens_than_there_are_others(model, eos):
    """Twice as many candidates as beams, and more for end tokens: but never beyond all tokens."""
    options = {"num_beams": 3, "max_new_tokens": 4, "eos_token_id": eos, "pad_token_id": 0}
    out = model.generate(np.array([[1, 3, 2]]), **options)
    assert out.shape[1] == 4 or out[0, 3] not in eos


def test_a_vocabulary_of_one_token():
    only = sl.models.GPT2(vocab_size=1, n_positions=8, n_embd=4, n_layer=1, n_head=1).eval()
    out = only.generate(np.zeros((1, 2), np.int64), num_beams=3, max_new_tokens=3, eos_token_id=[])
    assert out.tolist() == [[0] * 5]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_leave_no_choice(model, value):
    text = {"nan": "NaN", "inf": "infinity", "-inf": "-inf"}[str(value)]

    def spoil(history, logits):
        logits[:] = value
        return logits

    with pytest.raises(ValueError, match=f"generate: logits must .*{text}"):
        model.generate(np.array([[1, 2]]), num_beams=2, logits_processors=[spoil])


def test_a_prompt_that_has_answers_may_run_out_of_tokens(model):
    """After the end token is taken out nothing is left, but beams have ended by then."""

    def spoil(history, logits):
        logits[:] = 0 if history.shape[1] == 2 else -np.inf
        return logits

    out = model.generate(
        np.array([[1, 2]]), num_beams=3, max_new_tokens=4, logits_processors=[spoil],
        eos_token_id=[0, 1, 2], early_stopping="never", length_penalty=3.0,
    )  # fmt: skip
    assert out.shape == (1, 3)
