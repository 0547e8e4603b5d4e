# SPDX-License-Identifier: Apache-2.0
"""What a task is: it turns a model and a batch of NumPy arrays into a loss.

A loss is a mean over the batch's terms (tokens, sequences), and a task can say beforehand how many
terms a batch has. So several small batches can be weighed to give exactly one large one's gradient.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from .. import ops
from ..nn import Module
from ..tensor import Tensor, from_numpy

Array = npt.NDArray[Any]
Batch = Any
IGNORED = -100


@dataclass(frozen=True)
class Context:
    """Where and when a loss is computed."""

    device: str = "cpu"
    step: int = 0
    training: bool = True


@dataclass
class Outcome:
    """A mean loss, and sums of metrics over the same terms."""

    loss: Tensor
    sums: dict[str, float]


def on_device(array: Any, device: str) -> Tensor:
    """An array of a batch as a Tensor; shares the memory on the CPU."""
    if isinstance(array, Tensor):
        return array.to(device=device)
    made = np.ascontiguousarray(array)
    if made.dtype == np.float64:
        made = made.astype(np.float32)
    return from_numpy(made).to(device=device)


def field_of(batch: Batch, *names: str, task: str) -> Any:
    if not isinstance(batch, Mapping):
        raise TypeError(f"{task}: a batch must be a dict of arrays, got {type(batch).__name__}")
    for name in names:
        if name in batch:
            return batch[name]
    raise ValueError(f"{task}: a batch must have {' or '.join(names)}, got {', '.join(batch)}")


_ACCEPTED: dict[type, frozenset[str]] = {}


def accepted(model: Module) -> frozenset[str]:
    """Names of the parameters of a model's forward."""
    found = _ACCEPTED.get(type(model))
    if found is None:
        found = _ACCEPTED[type(model)] = frozenset(inspect.signature(model.forward).parameters)
    return found


def masks(model: Module, batch: Mapping[str, Any], device: str) -> dict[str, Any]:
    """What a batch says about padding and segments, as far as the model takes it."""
    names = accepted(model)
    found: dict[str, Any] = {}
    mask, lengths = batch.get("attention_mask"), batch.get("lengths")
    if mask is not None and bool(np.asarray(mask).all()):
        mask = lengths = None  # nothing is padded
    if "lengths" in names and lengths is None and mask is not None:
        lengths = np.asarray(mask).sum(axis=1)
    if lengths is not None and "lengths" in names:
        found["lengths"] = on_device(lengths, device)
    elif mask is not None and "attention_mask" in names:
        found["attention_mask"] = on_device(mask, device)
    if "token_type_ids" in names and "token_type_ids" in batch:
        found["token_type_ids"] = on_device(batch["token_type_ids"], device)
    return found


def logits_of(output: Any) -> Tensor:
    """The logits of models that give (logits, state)."""
    found = output[0] if isinstance(output, tuple) else output
    assert isinstance(found, Tensor)
    return found


class Task:
    """Base of the tasks: define `labels` and `loss`.

    Parameters
    ----------
    label_smoothing : float
        For tasks with classes.
    """

    name: ClassVar[str] = "task"
    metrics: ClassVar[tuple[str, ...]] = ()
    with_perplexity: ClassVar[bool] = False

    def __init__(self, *, label_smoothing: float = 0.0) -> None:
        self.label_smoothing = label_smoothing

    def settings(self) -> dict[str, Any]:
        """What must be the same when a training goes on."""
        return {"name": self.name, "label_smoothing": self.label_smoothing}

    def labels(self, batch: Batch) -> Array:
        """Targets of a batch; those of -100 don't count."""
        return np.asarray(field_of(batch, "labels", task=self.name))

    def size(self, batch: Batch) -> int:
        """Number of terms that the mean loss of a batch is over."""
        return int(np.count_nonzero(self.labels(batch) != IGNORED))

    def tokens(self, batch: Batch) -> int:
        """Input tokens (or time steps) of a batch, for the speed."""
        if isinstance(batch, Mapping):
            for name in ("attention_mask", "lengths", "src_lengths"):
                if name in batch:
                    extra = np.asarray(batch["tgt_ids"]).size if "tgt_ids" in batch else 0
                    return int(np.asarray(batch[name]).sum()) + extra
            first = next(iter(batch.values()))
        else:
            first = batch[0]
        shape = np.shape(first)
        return int(np.prod(shape[:2]))

    def loss(self, model: Module, batch: Batch, context: Context) -> Outcome:
        """The mean loss of a batch."""
        raise NotImplementedError

    def finish(self, metrics: dict[str, float]) -> dict[str, float]:
        """Metrics of an evaluation that follow from its means."""
        if self.with_perplexity:
            metrics["eval_perplexity"] = math.exp(min(metrics["eval_loss"], 700.0))
        return metrics

    def columns(self) -> list[str]:
        """Names of all metrics of an evaluation."""
        names = ["eval_loss", *(f"eval_{name}" for name in self.metrics)]
        return [*names, "eval_perplexity"] if self.with_perplexity else names

    def of_logits(self, logits: Tensor, labels: Array, context: Context) -> Outcome:
        """Cross-entropy of logits [..., C] and labels [...], with the accuracy outside training."""
        rows = logits.reshape(-1, logits.shape[-1])
        flat = np.ascontiguousarray(labels.reshape(-1))
        loss = ops.cross_entropy(
            rows,
            on_device(flat.astype(np.int64, copy=False), context.device),
            label_smoothing=self.label_smoothing if context.training else 0.0,
            loss_dtype="float32",
        )
        sums: dict[str, float] = {}
        if "accuracy" in self.metrics and not context.training:
            chosen = rows.detach().argmax(-1).cpu().numpy()
            sums["accuracy"] = float(((chosen == flat) & (flat != IGNORED)).sum())
        return Outcome(loss, sums)
