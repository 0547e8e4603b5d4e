# SPDX-License-Identifier: Apache-2.0
"""Losses and metrics of the tasks against what NumPy makes of the same logits."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

import seqloom as sl
from seqloom import nn
from seqloom.train import (
    CTC,
    TASKS,
    Classification,
    Forecasting,
    MaskedToken,
    NextToken,
    QuestionAnswering,
    Seq2SeqTask,
    Tagging,
    best_path,
)
from seqloom.train.task import Context
from seqloom.train.tasks import _edits, task_of

EVAL, TRAIN = Context(training=False), Context(step=100)


class Fixed(nn.Module):
    """A model that says what it was told to say, and notes what it was called with."""

    def __init__(self, *outputs):
        super().__init__()
        self.outputs = [sl.nn.Parameter(np.asarray(o, np.float32)) for o in outputs]
        self.scale = sl.nn.Parameter(np.ones(1, np.float32))
        self.called = {}

    def said(self):
        return tuple(o * self.scale for o in self.outputs)


class Masked(Fixed):
    def forward(self, input_ids, attention_mask=None, token_type_ids=None):
        self.called = {"mask": attention_mask, "types": token_type_ids, "ids": input_ids}
        out = self.said()
        return out if len(out) > 1 else out[0]


class WithLengths(Fixed):
    def forward(self, inputs, lengths=None):
        self.called = {"lengths": lengths}
        return self.said()[0]


def nll(logits, labels):
    """Mean over labels that are not -100, in float64."""
    logits = np.asarray(logits, np.float64).reshape(-1, np.shape(logits)[-1])
    labels = np.asarray(labels).reshape(-1)
    shifted = logits - logits.max(-1, keepdims=True)
    scores = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    kept = labels != -100
    return -scores[kept, labels[kept]].mean()


def logits_of(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def test_next_token_shifts_and_leaves_padding_out():
    ids = np.array([[1, 2, 3, 4], [3, 2, 0, 0]])
    mask = np.array([[1, 1, 1, 1], [1, 1, 0, 0]])
    logits = logits_of(2, 3, 6)
    task, model = NextToken(), Masked(logits)
    batch = {"input_ids": ids, "attention_mask": mask}
    labels = np.array([[2, 3, 4], [2, -100, -100]])
    assert task.size(batch) == 4
    assert task.loss(model, batch, TRAIN).loss.item() == pytest.approx(nll(logits, labels), 1e-6)
    assert model.called["mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    inputs, targets = ids[:, :-1], ids[:, 1:]
    assert task.size((inputs, targets)) == task.tokens((inputs, targets)) == 6
    got = task.loss(model, (inputs, targets), TRAIN).loss.item()
    assert got == pytest.approx(nll(logits, targets), 1e-6)
    assert task.finish({"eval_loss": 1.0})["eval_perplexity"] == pytest.approx(np.e)


def test_next_token_takes_the_fused_way_where_it_can():
    class Hidden(nn.Module):
        def __init__(self, bias):
            super().__init__()
            self.table = nn.Embedding(7, 5)
            self.lm_head = nn.Linear(5, 7, bias=bias)
            self.fused = 0

        def hidden(self, input_ids, attention_mask=None):
            self.fused += 1
            return self.table(input_ids)

        def forward(self, input_ids, attention_mask=None):
            return self.lm_head(self.table(input_ids))

    batch = (np.array([[1, 2, 3]]), np.array([[2, 3, -100]]))
    for bias in (True, False):
        model = Hidden(bias)
        loss = NextToken().loss(model, batch, TRAIN).loss
        loss.backward()
        logits = model(sl.tensor(batch[0])).detach().numpy()
        assert loss.item() == pytest.approx(nll(logits, batch[1]), 1e-5)
        assert model.fused == (0 if bias else 1)
        assert model.lm_head.weight.grad is not None


def test_masked_token_counts_only_what_was_hidden():
    logits = logits_of(2, 3, 5)
    labels = np.full((2, 3), -100)
    labels[0, 1], labels[1, 2] = 4, int(np.argmax(logits[1, 2]))
    batch = {"input_ids": np.zeros((2, 3), int), "labels": labels}
    outcome = MaskedToken().loss(Masked(logits), batch, EVAL)
    assert MaskedToken().size(batch) == 2
    assert outcome.loss.item() == pytest.approx(nll(logits, labels), 1e-6)
    hit = int(np.argmax(logits[0, 1]) == 4)
    assert outcome.sums == {"accuracy": 1 + hit}


@pytest.mark.parametrize("kind", [Classification, Tagging])
def test_classes(kind):
    logits = logits_of(3, 4) if kind is Classification else logits_of(3, 2, 4)
    labels = (
        np.array([1, 0, 3]) if kind is Classification else np.array([[1, 0], [3, -100], [2, 2]])
    )
    mask = np.array([[1, 1], [1, 0], [1, 1]])
    batch = {
        "input_ids": np.zeros((3, 2), int), "attention_mask": mask,
        "token_type_ids": np.ones((3, 2), int), "labels": labels,
    }  # fmt: skip
    model = Masked(logits)
    outcome = kind().loss(model, batch, EVAL)
    assert outcome.loss.item() == pytest.approx(nll(logits, labels), 1e-6)
    kept = labels != -100
    assert outcome.sums["accuracy"] == (logits.argmax(-1) == labels)[kept].sum()
    assert model.called["types"].tolist() == [[1, 1]] * 3
    assert model.called["mask"].tolist() == mask.tolist()
    # A batch without padding needs no mask; a model that takes lengths gets those.
    kind().loss(model, {**batch, "attention_mask": np.ones((3, 2))}, EVAL)
    assert model.called["mask"] is None
    recurrent = WithLengths(logits)
    kind().loss(recurrent, batch, EVAL)
    assert recurrent.called["lengths"].tolist() == [2, 1, 2]
    smooth = kind(label_smoothing=0.5)
    assert smooth.loss(model, batch, EVAL).loss.item() == pytest.approx(outcome.loss.item())
    assert smooth.loss(model, batch, TRAIN).loss.item() != pytest.approx(outcome.loss.item())


def test_question_answering_leaves_answers_beyond_the_text_out():
    first, second = logits_of(3, 5), logits_of(3, 5, seed=1)
    starts = np.array([int(first[0].argmax()), 1, -100])
    ends = np.array([int(second[0].argmax()), int(second[1].argmax()), 3])
    batch = {
        "input_ids": np.zeros((3, 5), int), "start_positions": starts, "end_positions": ends
    }  # fmt: skip
    outcome = QuestionAnswering().loss(Masked(first, second), batch, EVAL)
    expected = 0.5 * (nll(first[:2], starts[:2]) + nll(second[:2], ends[:2]))
    assert outcome.loss.item() == pytest.approx(expected, 1e-6)
    assert outcome.sums["exact_match"] == 1 + int(first[1].argmax() == 1)
    assert QuestionAnswering().size(batch) == 2
    # One without a start, one without an end: the batch has no terms, not terms of NaN.
    missing = {**batch, "start_positions": np.array([-1, 1, -100]), "end_positions": [2, -100, -1]}
    assert QuestionAnswering().size(missing) == 0


class Pair(Fixed):
    def forward(self, src_ids, tgt_ids, *, src_lengths=None, teacher_forcing=1.0):
        self.called = {"lengths": src_lengths, "ratio": teacher_forcing}
        return self.said()[0]


class Encoder(Fixed):
    def forward(self, input_ids, decoder_input_ids, attention_mask=None):
        self.called = {"mask": attention_mask}
        return self.said()[0]


def test_seq2seq_passes_lengths_and_the_ratio_of_the_step():
    logits, labels = logits_of(2, 3, 6), np.array([[1, 2, 3], [4, 3, -100]])
    batch = {
        "src_ids": np.array([[5, 6], [5, 0]]), "src_lengths": np.array([2, 1]),
        "tgt_ids": np.zeros((2, 3), int), "labels": labels,
    }  # fmt: skip
    task = Seq2SeqTask(teacher_forcing=lambda step: 1 - step / 200)
    model = Pair(logits)
    assert task.loss(model, batch, TRAIN).loss.item() == pytest.approx(nll(logits, labels), 1e-6)
    assert model.called["ratio"] == 0.5
    assert model.called["lengths"].tolist() == [2, 1]
    task.loss(model, batch, EVAL)
    assert model.called["ratio"] == 1.0
    assert task.size(batch) == 5
    assert task.tokens(batch) == 9
    encoder = Encoder(logits)
    task.loss(encoder, batch, TRAIN)
    assert encoder.called["mask"].tolist() == [[1, 1], [1, 0]]
    with pytest.raises(ValueError, match="teacher_forcing must be in"):
        Seq2SeqTask(teacher_forcing=1.5)


def test_forecasting():
    said, future = logits_of(2, 3), logits_of(2, 3, 1, seed=1).astype(np.float32)
    past = np.zeros((2, 4, 1), np.float32)
    error = said - future[..., 0]
    for kind, expected in (("mse", (error**2).mean()), ("l1", np.abs(error).mean())):
        outcome = Forecasting(loss=kind).loss(WithLengths(said), (past, future), EVAL)
        assert outcome.loss.item() == pytest.approx(expected, 1e-5)
        assert outcome.sums["mae"] == pytest.approx(np.abs(error).sum(), 1e-5)
    with pytest.raises(ValueError, match="the model must give"):
        Forecasting().loss(WithLengths(said[:, :2]), (past, future), EVAL)


def test_ctc_and_its_error_rate():
    logits = logits_of(2, 6, 4) * 3
    labels = np.array([[1, 2, 2], [3, -100, -100]])
    lengths = np.array([6, 4])
    batch = {"inputs": np.zeros((2, 6, 3), np.float32), "lengths": lengths, "labels": labels}
    outcome = CTC().loss(WithLengths(logits), batch, EVAL)
    paths = [best_path(logits[b, : lengths[b]].argmax(-1)) for b in range(2)]
    rates = _edits(paths[0], [1, 2, 2]) / 3 + _edits(paths[1], [3])
    assert outcome.sums["label_error_rate"] == pytest.approx(rates)
    mask = np.arange(6) < lengths[:, None]
    masked = {"inputs": batch["inputs"], "attention_mask": mask, "labels": labels}
    assert CTC().loss(WithLengths(logits), masked, EVAL).loss.item() == outcome.loss.item()
    if importlib.util.find_spec("torch") is not None:
        import torch

        scores = torch.tensor(logits).log_softmax(-1).transpose(0, 1)
        expected = torch.nn.functional.ctc_loss(
            scores, torch.tensor(np.where(labels < 0, 0, labels)), torch.tensor(lengths),
            torch.tensor([3, 1]),
        )  # fmt: skip
        assert outcome.loss.item() == pytest.approx(expected.item(), 1e-5)
    assert _edits("kitten", "sitting") == 3


def test_bad_batches_are_named():
    with pytest.raises(ValueError, match="masked-token: a batch must have input_ids, got ids"):
        MaskedToken().loss(Masked(logits_of(1, 1, 2)), {"ids": [[1]]}, TRAIN)
    with pytest.raises(TypeError, match="classification: a batch must be a dict"):
        Classification().size([1, 2])
    assert {task_of(name).name for name in TASKS} == set(TASKS)
