# SPDX-License-Identifier: Apache-2.0
"""Recurrent models and the Transformer learn small tasks, judged by examples they never saw."""

from __future__ import annotations

import numpy as np
import pytest

import seqloom as sl
from seqloom.nn.utils import clip_grad_norm_
from seqloom.optim import AdamW

PAD, START, SEPARATOR, FIRST = 0, 1, 2, 3
SYMBOLS = 8


def strings(rng: np.random.Generator, batch: int, length: int) -> np.ndarray:
    return rng.integers(FIRST, FIRST + SYMBOLS, (batch, length))


def held_out(sources: np.ndarray) -> np.ndarray:
    """A tenth of all strings, told by the string alone."""
    return (sources * (7 ** np.arange(sources.shape[1]))).sum(1) % 10 == 3


def split(rng, make, batch: int, unseen: bool):
    """Examples, all of the unseen tenth or none."""
    while True:
        sources, targets = make(rng, (16 if unseen else 2) * batch)
        keep = held_out(sources) == unseen
        if keep.sum() >= batch:
            return sources[keep][:batch], targets[keep][:batch]


def reverse(length: int):
    def make(rng, batch):
        s = strings(rng, batch, length)
        return s, s[:, ::-1].copy()

    return make


def copy(length: int):
    def make(rng, batch):
        s = strings(rng, batch, length)
        return s, s.copy()

    return make


def addition(digits: int):
    """Digits of a + b, the smallest first, as are those of both numbers."""

    def make(rng, batch):
        a, b = rng.integers(0, 10**digits, (2, batch))

        def spelled(n, count):
            return n[:, None] // 10 ** np.arange(count) % 10 + FIRST

        plus = np.full((batch, 1), SEPARATOR)
        source = np.concatenate([spelled(a, digits), plus, spelled(b, digits)], 1)
        return source, spelled(a + b, digits + 1)

    return make


def train(model, make, rng, *, steps: int, rate: float, batch: int = 64, check=None) -> float:
    """The share of unseen examples whose every token is right, in greedy generation."""
    optimizer = AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    model.train()
    for step in range(steps):
        warm = min(1.0, (step + 1) / 50) * max(0.02, 1 - step / steps)
        optimizer.param_groups[0]["lr"] = rate * warm
        sources, targets = split(rng, make, batch, False)
        if model._is_encoder_decoder():
            logits = model(sources, model.shift_right(targets))
            wanted = targets
        else:
            rows = language(sources, targets)
            logits = model(rows[:, :-1])[:, sources.shape[1] :]
            wanted = targets
        loss = sl.ops.cross_entropy(
            logits.reshape(-1, logits.shape[-1]), sl.tensor(wanted.reshape(-1))
        )
        optimizer.zero_grad()
        loss.backward()
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()
    sources, targets = split(rng, make, 200, True)
    written = answers(model, sources, targets.shape[1])
    return float((written == targets).all(1).mean())


def language(sources: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Source, separator and target as one text."""
    middle = np.full((len(sources), 1), SEPARATOR)
    return np.concatenate([sources, middle, targets], 1)


def answers(model, sources: np.ndarray, length: int) -> np.ndarray:
    if model._is_encoder_decoder():
        return model.generate(sources, max_new_tokens=length)
    prompts = language(sources, sources[:, :0])
    return model.generate(prompts, max_new_tokens=length)[:, prompts.shape[1] :]


VOCABULARY = FIRST + 10
SEQ2SEQ = {"embed_dim": 32, "hidden_size": 64, "decoder_start_token_id": START}
TRANSFORMER = {
    "d_model": 64, "nhead": 4, "num_encoder_layers": 2, "num_decoder_layers": 2,
    "dim_feedforward": 128, "dropout": 0.0, "decoder_start_token_id": START,
}  # fmt: skip


def seq2seq(**fields):
    return sl.models.Seq2Seq(VOCABULARY, VOCABULARY, **SEQ2SEQ, **fields)


def transformer(**fields):
    return sl.models.Transformer(VOCABULARY, VOCABULARY, **TRANSFORMER, **fields)


def language_model(**fields):
    return sl.models.RNNLanguageModel(VOCABULARY, **fields)


TASKS = {
    "bahdanau gru reverses": (seq2seq, {}, reverse(8), 500, 1e-2),
    "bahdanau lstm of 2 layers copies": (
        seq2seq, {"cell": "lstm", "num_layers": 2}, copy(6), 500, 5e-3,
    ),
    "luong-dot rnn reverses": (seq2seq, {"attention": "luong-dot", "cell": "rnn"}, reverse(6), 600,
                               5e-3),
    "luong-general lstm copies": (
        seq2seq, {"attention": "luong-general", "cell": "lstm"}, copy(8), 500, 1e-2,
    ),
    "luong-concat with input feeding reverses": (
        seq2seq, {"attention": "luong-concat", "input_feeding": True}, reverse(6), 500, 1e-2,
    ),
    "gru without attention adds": (seq2seq, {"attention": None}, addition(2), 1000, 1e-2),
    "post-norm transformer copies": (transformer, {}, copy(8), 500, 3e-3),
    "pre-norm transformer with learned positions reverses": (
        transformer, {"norm_first": True, "positions": "learned"}, reverse(8), 500, 3e-3,
    ),
    "tied transformer adds": (
        transformer, {"norm_first": True, "tie_embeddings": True}, addition(2), 800, 3e-3,
    ),
    "lstm language model reverses": (
        language_model, {"embed_dim": 32, "hidden_size": 96}, reverse(4), 800, 1e-2,
    ),
    "tied gru language model adds": (
        language_model,
        {"embed_dim": 96, "hidden_size": 96, "cell": "gru", "tie_weights": True},
        addition(2), 1000, 1e-2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TASKS)
def test_it_learns(name):
    make_model, fields, make, steps, rate = TASKS[name]
    sl.manual_seed(0)
    rng = np.random.default_rng(0)
    model = make_model(**fields)
    assert train(model, make, rng, steps=steps, rate=rate) > 0.99


def test_scheduled_sampling_and_padded_batches_learn_too():
    """Sources of many lengths in one batch, and words of the decoder's own half of the time."""
    sl.manual_seed(0)
    rng = np.random.default_rng(0)
    model = seq2seq(dropout=0.1, pad_token_id=PAD, eos_token_id=SEPARATOR)
    optimizer = AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)

    def batch(count):
        lengths = rng.integers(3, 8, count)
        sources = np.full((count, 7), PAD)
        targets = np.full((count, 8), -100)
        for row, n in enumerate(lengths):
            s = strings(rng, 1, n)[0]
            sources[row, :n], targets[row, :n], targets[row, n] = s, s[::-1], SEPARATOR
        return sources, targets, lengths

    for step in range(600):
        optimizer.param_groups[0]["lr"] = 1e-2 * max(0.02, 1 - step / 600)
        sources, targets, lengths = batch(64)
        forcing = 1.0 if step < 200 else 0.5
        logits = model(
            sources, model.shift_right(targets), src_lengths=lengths, teacher_forcing=forcing
        )
        loss = sl.ops.cross_entropy(logits.reshape(-1, VOCABULARY), sl.tensor(targets.reshape(-1)))
        optimizer.zero_grad()
        loss.backward()
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()
    sources, targets, _ = batch(200)
    written = model.generate(sources, attention_mask=sources != PAD, max_new_tokens=8, num_beams=2)
    wanted = np.where(targets == -100, PAD, targets)
    assert (written == wanted[:, : written.shape[1]]).all(1).mean() > 0.99


def test_classifier_tagger_and_forecaster_learn():
    rng = np.random.default_rng(0)
    sl.manual_seed(0)
    for body in ("lstm", "transformer"):
        # Does the string hold more 4s than 3s? And for each step: was there a 4 before it?
        whole = sl.models.SequenceClassifier(2, vocab_size=5, body=body, hidden_size=32)
        each = sl.models.SequenceTagger(2, vocab_size=5, body=body, hidden_size=32)
        both = [*whole.parameters(), *each.parameters()]
        optimizer = AdamW(both, lr=3e-3, weight_decay=0.0)
        for step in range(400):
            optimizer.param_groups[0]["lr"] = 3e-3 * max(0.02, 1 - step / 400)
            x = rng.integers(3, 5, (64, 9))
            more, before = (x == 4).sum(1) > 4, np.cumsum(x == 4, 1) > 0
            loss = sl.ops.cross_entropy(whole(x), sl.tensor(more.astype(np.int64)))
            tags = each(x).reshape(-1, 2)
            loss = loss + sl.ops.cross_entropy(tags, sl.tensor(before.reshape(-1).astype(np.int64)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        x = rng.integers(3, 5, (500, 9))
        assert ((whole(x).argmax(-1).numpy() == 1) == ((x == 4).sum(1) > 4)).mean() > 0.99
        assert ((each(x).argmax(-1).numpy() == 1) == (np.cumsum(x == 4, 1) > 0)).mean() > 0.99
    model = sl.models.Forecaster(1, 4, hidden_size=32)
    optimizer = AdamW(model.parameters(), lr=5e-3, weight_decay=0.0)

    def waves(count):
        phase, pace = rng.uniform(0, 6, (count, 1)), rng.uniform(0.2, 0.6, (count, 1))
        series = np.sin(phase + pace * np.arange(24)).astype(np.float32)[..., None]
        return series[:, :20], series[:, 20:]

    for step in range(400):
        optimizer.param_groups[0]["lr"] = 5e-3 * max(0.02, 1 - step / 400)
        past, future = waves(64)
        loss = ((model(past) - sl.tensor(future)) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    past, future = waves(200)
    assert ((model(past).detach().numpy() - future) ** 2).mean() < 0.01 * future.var()
