# SPDX-License-Identifier: Apache-2.0
"""The tasks: next and masked token, classes, tags, answers, translation, forecasts, CTC."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .. import ops
from ..nn import Module
from .task import (
    IGNORED,
    Array,
    Batch,
    Context,
    Outcome,
    Task,
    accepted,
    field_of,
    logits_of,
    masks,
    on_device,
)


class NextToken(Task):
    """Predict every token from those before it.

    Batches are `(inputs, targets)` as `LMWindows` gives them, or dictionaries with `input_ids` and
    perhaps `labels` (not yet shifted, -100 ignored) and `attention_mask`.

    Examples
    --------
    >>> NextToken().size((np.zeros((2, 3), int), np.zeros((2, 3), int)))
    6
    """

    name = "next-token"
    with_perplexity = True

    def _parts(self, batch: Batch) -> tuple[Array, Array, dict[str, Any]]:
        if isinstance(batch, Mapping):
            ids = np.asarray(field_of(batch, "input_ids", task=self.name))
            labels = np.asarray(batch.get("labels", ids))
            mask = batch.get("attention_mask")
            rest: dict[str, Any] = {}
            if mask is not None:
                mask = np.asarray(mask)
                labels = np.where(mask != 0, labels, IGNORED)
                rest["attention_mask"] = mask[:, :-1]
            return ids[:, :-1], labels[:, 1:], rest
        inputs, targets = batch
        return np.asarray(inputs), np.asarray(targets), {}

    def labels(self, batch: Batch) -> Array:
        return self._parts(batch)[1]

    def loss(self, model: Module, batch: Batch, context: Context) -> Outcome:
        ids, labels, rest = self._parts(batch)
        inputs = on_device(ids, context.device)
        more = masks(model, rest, context.device)
        head = getattr(model, "lm_head", None)
        if hasattr(model, "hidden") and head is not None and getattr(head, "bias", None) is None:
            hidden = logits_of(model.hidden(inputs, **more))
            loss = ops.linear_cross_entropy(
                hidden.reshape(-1, hidden.shape[-1]),
                head.weight,
                on_device(labels.reshape(-1).astype(np.int64), context.device),
                label_smoothing=self.label_smoothing if context.training else 0.0,
                loss_dtype="float32",
            )
            return Outcome(loss, {})
        return self.of_logits(logits_of(model(inputs, **more)), labels, context)


class MaskedToken(Task):
    """Predict the tokens that `MaskCollate` hid: `input_ids`, `attention_mask`, `labels`."""

    name = "masked-token"
    metrics = ("accuracy",)
    with_perplexity = True

    def loss(self, model: Module, batch: Batch, context: Context) -> Outcome:
        inputs = on_device(field_of(batch, "input_ids", task=self.name), context.device)
        more, labels = masks(model, batch, context.device), self.labels(batch)
        head = getattr(model, "lm_head", None)
        if head is None or not hasattr(model, "hidden"):
            return self.of_logits(logits_of(model(inputs, **more)), labels, context)
        # Only hidden tokens count, so only they need logits: a seventh of the product.
        rows = np.flatnonzero(labels.reshape(-1) != IGNORED)
        hidden = logits_of(model.hidden(inputs, **more))
        chosen = hidden.reshape(-1, hidden.shape[-1])[on_device(rows, context.device)]
        return self.of_logits(head(chosen), labels.reshape(-1)[rows], context)


class Classification(Task):
    """One label for a sequence: `input_ids` (or `inputs`), `labels` [B]."""

    name = "classification"
    metrics = ("accuracy",)

    def loss(self, model: Module, batch: Batch, context: Context) -> Outcome:
        inputs = on_device(field_of(batch, "input_ids", "inputs", task=self.name), context.device)
        logits = logits_of(model(inputs, **masks(model, batch, context.device)))
        return self.of_logits(logits, self.labels(batch), context)


class Tagging(Classification):
    """One label for every token: `input_ids` (or `inputs`), `labels` [B, T], -100 ignored."""

    name = "tagging"


class QuestionAnswering(Task):
    """Where an answer begins and ends: `input_ids`, `start_positions` [B], `end_positions` [B]."""

    name = "question-answering"
    metrics = ("exact_match",)

    def _places(self, batch: Batch) -> tuple[Array, Array]:
        """Starts and ends; an answer beyond the text has no place, and lacks both."""
        starts = np.asarray(field_of(batch, "start_positions", task=self.name))
        ends = np.asarray(field_of(batch, "end_positions", task=self.name))
        known = (starts >= 0) & (ends >= 0)
        return np.where(known, starts, IGNORED), np.where(known, ends, IGNORED)

    def labels(self, batch: Batch) -> Array:
        return self._places(batch)[0]

    def loss(self, model: Module, batch: Batch, context: Context) -> Outcome:
        inputs = on_device(field_of(batch, "input_ids", task=self.name), context.device)
        scores = model(inputs, **masks(model, batch, context.device))
        if not isinstance(scores, tuple) or len(scores) != 2:
            raise TypeError(f"{self.name}: the model must give (start_logits, end_logits)")
        wanted = self._places(batch)
        parts = [
            self.of_logits(score, part, context).loss
            for score, part in zip(scores, wanted, strict=True)
        ]
        sums: dict[str, float] = {}
        if not context.training:
            hits = [
                score.detach().argmax(-1).cpu().numpy() == part
                for score, part in zip(scores, wanted, strict=True)
            ]
            sums["exact_match"] = float((hits[0] & hits[1]).sum())
        return Outcome((parts[0] + parts[1]) * 0.5, sums)


class Seq2SeqTask(Task):
    """Translation with teacher forcing; batches as `PairCollate` gives them.

    Parameters
    ----------
    teacher_forcing : float or callable
        Share of decoder inputs that are the true tokens rather than the model's own choices, for
        models whose call takes `teacher_forcing`; a function of the step makes a schedule.
    label_smoothing : float

    Examples
    --------
    >>> task = Seq2SeqTask(teacher_forcing=lambda step: max(0.5, 1 - step / 10_000))
    >>> task.ratio(2000)
    0.8
    """

    name = "seq2seq"
    metrics = ("accuracy",)
    with_perplexity = True

    def __init__(
        self,
        *,
        teacher_forcing: float | Callable[[int], float] = 1.0,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(label_smoothing=label_smoothing)
        if not callable(teacher_forcing) and not 0.0 <= teacher_forcing <= 1.0:
            raise ValueError(f"seq2seq: teacher_forcing must be in [0, 1], got {teacher_forcing}")
        self.teacher_forcing = teacher_forcing

    def settings(self) -> dict[str, Any]:
        ratio = "schedule" if callable(self.teacher_forcing) else float(self.teacher_forcing)
        return {**super().settings(), "teacher_forcing": ratio}

    def ratio(self, step: int) -> float:
        """The share of true tokens at a step."""
        if not callable(self.teacher_forcing):
            return self.teacher_forcing
        return min(1.0, max(0.0, float(self.teacher_forcing(step))))

    def loss(self, model: Module, batch: Batch, context: Context) -> Outcome:
        source = np.asarray(field_of(batch, "src_ids", "input_ids", task=self.name))
        target = on_device(
            field_of(batch, "tgt_ids", "decoder_input_ids", task=self.name), context.device
        )
        names = accepted(model)
        more: dict[str, Any] = {}
        lengths = batch.get("src_lengths", batch.get("lengths"))
        if "src_lengths" in names and lengths is not None:
            more["src_lengths"] = on_device(lengths, context.device)
        elif "attention_mask" in names:
            mask = batch.get("attention_mask")
            if mask is None and lengths is not None:
                mask = np.arange(source.shape[1]) < np.asarray(lengths)[:, None]
            if mask is not None and not np.asarray(mask).all():
                more["attention_mask"] = on_device(np.asarray(mask, np.int64), context.device)
        if "teacher_forcing" in names:
            more["teacher_forcing"] = self.ratio(context.step) if context.training else 1.0
        logits = logits_of(model(on_device(source, context.device), target, **more))
        return self.of_logits(logits, self.labels(batch), context)


class Forecasting(Task):
    """The future of a series; batches `(past, future)` as `ForecastWindows` gives them.

    Parameters
    ----------
    loss : {"mse", "l1"}
    """

    name = "forecasting"
    metrics = ("mae",)

    def __init__(self, *, loss: str = "mse") -> None:
        super().__init__()
        if loss not in ("mse", "l1"):
            raise ValueError(f"forecasting: loss must be 'mse' or 'l1', got {loss!r}")
        self.kind = loss

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "loss": self.kind}

    def _parts(self, batch: Batch) -> tuple[Array, Array]:
        if isinstance(batch, Mapping):
            past = field_of(batch, "inputs", "past", task=self.name)
            return np.asarray(past), np.asarray(field_of(batch, "labels", "future", task=self.name))
        past, future = batch
        return np.asarray(past), np.asarray(future)

    def labels(self, batch: Batch) -> Array:
        return self._parts(batch)[1]

    def size(self, batch: Batch) -> int:
        return int(self.labels(batch).size)

    def loss(self, model: Module, batch: Batch, context: Context) -> Outcome:
        past, future = self._parts(batch)
        inputs = on_device(past, context.device)
        first = next(model.parameters())
        said = logits_of(model(inputs.to(dtype=first.dtype))).to(dtype="float32")
        truth = on_device(future, context.device)
        if said.size != truth.size:
            raise ValueError(
                f"forecasting: the model must give {list(truth.shape)} values, got "
                f"{list(said.shape)}"
            )
        error = said.reshape(*truth.shape) - truth
        sums: dict[str, float] = {}
        if not context.training:
            sums["mae"] = float(error.detach().abs().sum().item())
        return Outcome((error.abs() if self.kind == "l1" else error * error).mean(), sums)


class CTC(Task):
    """Labels without alignment: `inputs` [B, T, F] (or `input_ids`), `lengths`, `labels` [B, L].

    Labels are filled up with -100. The evaluation counts edits a label, of the best path.

    Parameters
    ----------
    blank : int
    """

    name = "ctc"
    metrics = ("label_error_rate",)

    def __init__(self, *, blank: int = 0) -> None:
        super().__init__()
        self.blank = blank

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "blank": self.blank}

    def size(self, batch: Batch) -> int:
        return len(self.labels(batch))

    def loss(self, model: Module, batch: Batch, context: Context) -> Outcome:
        given = np.asarray(field_of(batch, "inputs", "input_ids", task=self.name))
        inputs = on_device(given, context.device)
        if given.dtype.kind == "f":
            inputs = inputs.to(dtype=next(model.parameters()).dtype)
        labels = self.labels(batch)
        sizes = (labels != IGNORED).sum(axis=1)
        lengths, mask = batch.get("lengths"), batch.get("attention_mask")
        if lengths is None:
            whole = np.full(len(given), given.shape[1])
            lengths = whole if mask is None else np.asarray(mask).sum(axis=1)
        lengths = np.asarray(lengths)
        logits = logits_of(model(inputs, **masks(model, {"lengths": lengths}, context.device)))
        # A model that shortens its input says so by the length of its output.
        times = -(-lengths * logits.shape[1] // given.shape[1])
        scores = ops.log_softmax(logits.to(dtype="float32"), -1)
        loss = ops.ctc_loss(
            scores.transpose(0, 1).contiguous(),
            on_device(np.where(labels == IGNORED, 0, labels).astype(np.int64), context.device),
            on_device(times.astype(np.int64), context.device),
            on_device(sizes.astype(np.int64), context.device),
            blank=self.blank,
        )
        sums: dict[str, float] = {}
        if not context.training:
            paths = logits.detach().argmax(-1).cpu().numpy()
            sums["label_error_rate"] = sum(
                _edits(best_path(path[:time], self.blank), row[:size].tolist()) / max(1, size)
                for path, time, row, size in zip(paths, times, labels, sizes, strict=True)
            )
        return Outcome(loss, sums)


def best_path(path: Any, blank: int = 0) -> list[int]:
    """Labels of a path: repeats are one, blanks are none.

    Examples
    --------
    >>> best_path([0, 3, 3, 0, 3, 5])
    [3, 3, 5]
    """
    steps = np.asarray(path).tolist()
    return [
        label
        for label, before in zip(steps, [None, *steps[:-1]], strict=True)
        if label not in (blank, before)
    ]


def _edits(left: Sequence[int], right: Sequence[int]) -> int:
    """Levenshtein distance."""
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        before, row[0] = row[0], i
        for j, b in enumerate(right, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]


TASKS: dict[str, type[Task]] = {
    kind.name: kind
    for kind in (
        NextToken,
        MaskedToken,
        Classification,
        Tagging,
        QuestionAnswering,
        Seq2SeqTask,
        Forecasting,
        CTC,
    )
}


def task_of(task: str | Task) -> Task:
    """A task by its name, or the task itself.

    Examples
    --------
    >>> task_of("tagging").name
    'tagging'
    """
    if isinstance(task, Task):
        return task
    if task not in TASKS:
        raise ValueError(f"Trainer: task must be one of {', '.join(TASKS)}, got {task!r}")
    return TASKS[task]()
