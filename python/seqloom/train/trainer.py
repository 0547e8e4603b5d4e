# SPDX-License-Identifier: Apache-2.0
"""Trainer: the loop around a model, a task and a loader."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from ..autograd import no_grad
from ..data import Loader
from ..files import PathLike, only_one
from ..nn import Module
from ..optim import Optimizer, Schedule, clip_grad_norm_
from ..weights import CheckpointError
from . import checkpoint, resuming
from .callbacks import Callback, EarlyStopping, Row
from .logs import CSVLog, Progress, TensorBoardLog
from .precision import precision_of
from .setup import check_numbers, check_parts, loader_of, optimizer_of, schedule_of
from .task import Context, Task
from .tasks import task_of

LOG = "log.csv"
_COLUMNS = ("step", "epoch", "loss", "lr", "grad_norm", "tokens", "tokens_per_second", "seconds")
_GREATER = ("accuracy", "exact_match", "bleu", "f1")
# The schedule of a training that is limited by time counts thousandths of a percent.
_VIRTUAL_STEPS = 100_000


class TrainingError(RuntimeError):
    """A training that can't go on: the loss is not a number, say."""


class Trainer:
    """Train a model.

    Parameters
    ----------
    model : Module
    task : str or Task
        "next-token", "masked-token", "classification", "tagging", "question-answering", "seq2seq",
        "forecasting", "ctc", or an object of :mod:`seqloom.train.tasks` with its options.
    train_data, eval_data : Loader or dataset
        A dataset needs `batch_size`; the training's is shuffled.
    out : path, optional
        Directory of checkpoints, log and, in the end, the model.
    optimizer : str or Optimizer
        "adamw", "adam", "sgd", "adafactor", over all parameters that require gradients; biases and
        weights of norms don't decay.
    lr, weight_decay : float
        Of an optimizer given by its name.
    schedule : str, Schedule or callable
        "constant", "linear", "cosine", "inverse_sqrt", or a function of the optimizer.
    warmup_steps : int
    min_lr_ratio : float
        Where "linear" and "cosine" end, as a share of `lr`.
    steps, epochs, seconds : number
        When to stop: whichever comes first. Time makes a schedule that can't be repeated exactly.
    batch_size : int
        For datasets that are not loaders.
    accumulate : int
        Batches per step. Gradients are weighed by tokens, so that a step equals one of the joined
        batch.
    precision : "float32" or "bfloat16"
        bfloat16 computes with 16-bit copies of the weights; the weights that are trained, their
        gradients and the optimizer's state stay float32.
    clip_norm : float or None
        Largest norm of all gradients together.
    eval_every, save_every, log_every : int
        Steps between evaluations (an epoch when absent), checkpoints (`eval_every` when absent) and
        rows of the log.
    keep : int
        Newest checkpoints that stay, beside the best one.
    best_metric : str
        Decides which checkpoint is best; names of accuracies are to be large, others small.
    restore_best : bool
        Whether model and `out` are the best ones in the end, rather than the last ones.
    early_stopping : int or EarlyStopping
        Evaluations without improvement before the training stops.
    callbacks : sequence of Callback
    extras : sequence
        What goes into every model directory by its `save_pretrained`: the tokenizer.
    tensorboard : bool
        Write events into `out/tensorboard` beside the CSV file.
    progress : bool, optional
        A bar on stderr; only on a terminal when absent.
    seed : int
        Of the order of datasets that are not loaders.
    device : str, optional
        Where batches go: where the model is.

    Attributes
    ----------
    step, epoch : int
        Steps done, epochs begun.
    history : list of dict
        The rows of the log.
    best : dict or None
        Step and value of the best evaluation.
    stop_reason : str or None

    Examples
    --------
    >>> import numpy as np, seqloom as sl
    >>> class Model(sl.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.table = sl.nn.Embedding(5, 5)
    ...     def forward(self, ids):
    ...         return self.table(ids)
    >>> windows = sl.data.LMWindows(np.arange(400) % 5, seq_len=8)
    >>> trainer = sl.train.Trainer(Model(), "next-token", windows, batch_size=4, lr=0.3, steps=30)
    >>> rows = trainer.train()
    >>> rows[-1]["loss"] < 0.1
    True
    """

    def __init__(
        self,
        model: Module,
        task: str | Task,
        train_data: Any,
        eval_data: Any = None,
        *,
        out: PathLike | None = None,
        optimizer: str | Optimizer = "adamw",
        lr: float | None = None,
        weight_decay: float = 0.01,
        schedule: str | Schedule | Callable[[Optimizer], Schedule] = "constant",
        warmup_steps: int = 0,
        min_lr_ratio: float = 0.0,
        steps: int | None = None,
        epochs: int | None = None,
        seconds: float | None = None,
        batch_size: int | None = None,
        accumulate: int = 1,
        precision: str = "float32",
        clip_norm: float | None = 1.0,
        eval_every: int | None = None,
        save_every: int | None = None,
        log_every: int = 10,
        keep: int = 1,
        best_metric: str = "eval_loss",
        restore_best: bool = True,
        early_stopping: int | EarlyStopping | None = None,
        callbacks: Sequence[Callback] = (),
        extras: Sequence[Any] = (),
        tensorboard: bool = False,
        progress: bool | None = None,
        seed: int = 0,
        device: str | None = None,
    ) -> None:
        for name, value in (
            ("steps", steps), ("epochs", epochs), ("seconds", seconds), ("eval_every", eval_every),
            ("save_every", save_every), ("clip_norm", clip_norm), ("accumulate", accumulate),
            ("log_every", log_every), ("keep", keep),
        ):  # fmt: skip
            if value is None:
                continue
            real = name in ("seconds", "clip_norm")
            if isinstance(value, bool) or not isinstance(value, Real if real else Integral):
                kind = "a number" if real else "an integer"
                raise TypeError(f"Trainer: {name} must be {kind}, got {type(value).__name__}")
            if not value > 0 or (name == "seconds" and value == math.inf):
                raise ValueError(f"Trainer: {name} must be positive, got {value}")
        check_numbers(
            lr=lr, weight_decay=weight_decay, min_lr_ratio=min_lr_ratio, warmup_steps=warmup_steps
        )
        check_parts(callbacks, extras)
        if not 0 <= min_lr_ratio <= 1:
            raise ValueError(f"Trainer: min_lr_ratio must be in [0, 1], got {min_lr_ratio}")
        if not isinstance(best_metric, str):
            raise TypeError(
                f"Trainer: best_metric must be a name, got {type(best_metric).__name__}"
            )
        if steps is None and epochs is None and seconds is None:
            raise ValueError("Trainer: steps, epochs or seconds must say when to stop")
        self.model, self.task = model, task_of(task)
        self.loader = loader_of(train_data, batch_size, seed, "train_data", True)
        self.eval_loader: Loader | None = None
        if eval_data is not None:
            self.eval_loader = loader_of(eval_data, batch_size, seed, "eval_data", False)
        elif early_stopping is not None:
            raise ValueError("Trainer: early_stopping needs eval_data")
        self.out = None if out is None else Path(out)
        if tensorboard and out is None:
            raise ValueError("Trainer: tensorboard needs out")
        self.optimizer = optimizer_of(optimizer, model, lr, weight_decay)
        self.accumulate, self.clip_norm = accumulate, clip_norm
        try:
            self.steps_per_epoch: int | None = -(-len(self.loader) // accumulate)
        except TypeError:  # a stream
            self.steps_per_epoch = None
        ends = [steps] if steps is not None else []
        if epochs is not None and self.steps_per_epoch is not None:
            ends.append(epochs * self.steps_per_epoch)
        self.total_steps = min(ends) if ends else None
        self.epochs, self.seconds = epochs, seconds
        self._timed = self.total_steps is None and epochs is None
        scheduled = self.total_steps
        if self._timed:
            share = warmup_steps / (warmup_steps + 1000)  # beside a training of thousand steps
            warmup_steps, scheduled = round(share * _VIRTUAL_STEPS), _VIRTUAL_STEPS
        self.schedule = schedule_of(schedule, self.optimizer, warmup_steps, scheduled, min_lr_ratio)
        self.precision = precision_of(model, precision)
        self.eval_every = eval_every or self.steps_per_epoch or 1000
        self.save_every = save_every or self.eval_every
        self.log_every, self.keep = log_every, keep
        self.best_metric, self.restore_best = best_metric, restore_best
        self.greater_is_better = any(word in best_metric for word in _GREATER)
        self.callbacks = list(callbacks)
        if early_stopping is not None:
            self.callbacks.append(
                early_stopping
                if isinstance(early_stopping, Callback)
                else EarlyStopping(early_stopping)
            )
        self.extras, self._tensorboard, self._progress = list(extras), tensorboard, progress
        self.device = device or str(next(model.parameters()).device)
        self.step = self.epoch = 0
        self.elapsed = 0.0
        self.tokens = 0
        self.best: dict[str, Any] | None = None
        self.history: list[Row] = []
        self.stop_reason: str | None = None
        self._final = True
        self._saved = -1
        self._position = self.loader.state_dict()
        self._window = [0.0, 0.0]  # loss times terms, terms, since the last row of the log

    # ---- the loop --------------------------------------------------------------------------------

    def stop(self, reason: str = "a callback said so", *, final: bool = True) -> None:
        """End the training after the present step; one that isn't `final` can be resumed."""
        self.stop_reason, self._final = reason, final

    def train(self, resume: bool | PathLike = False, *, allow_changes: bool = False) -> list[Row]:
        """Train to the end and return the rows of the log.

        Parameters
        ----------
        resume : bool or path
            Go on from the newest checkpoint in `out` (from the beginning when there is none), or
            from the one at this path. The result has the same bits as an uninterrupted training.
        allow_changes : bool
            Go on although data, schedule, learning rate or other options differ from those that the
            checkpoint was made with, which is refused otherwise. This trainer's hold; other data
            begin the epoch anew, and another evaluation knows no best checkpoint yet. More steps or
            epochs may always be asked for: the learning rate goes on where the longer schedule has
            it. Fewer, and other seconds, may as far as the schedule doesn't hang on them.

        Raises
        ------
        TrainingError
            When the loss or a gradient is not finite. The weights are those before the bad step.
        CheckpointError
            When the checkpoint to resume from is damaged, or of another training.
        """
        with self._alone():
            return self._train(resume, allow_changes)

    def _train(self, resume: bool | PathLike, allow_changes: bool) -> list[Row]:
        self._begin(resume, allow_changes)
        logs = self._logs()
        bar = Progress(self.total_steps, self.seconds, self.step, self._progress)
        began = time.monotonic() - self.elapsed
        try:
            for callback in self.callbacks:
                callback.on_train_begin(self)
            groups = self._groups()
            batches = None if self._finished() else next(groups, None)
            while batches is not None:
                tick = time.monotonic()
                row, tokens = self._one_step(batches)
                self.elapsed = time.monotonic() - began
                spent = time.monotonic() - tick
                self._position = self.loader.state_dict()
                for callback in self.callbacks:
                    callback.on_step(self, row)
                # Looking ahead tells the last step of a stream, which doesn't know its length.
                trouble: Exception | None = None
                try:
                    batches = None if self._finished() else next(groups, None)
                except Exception as error:  # bad data ahead; this step was good
                    trouble = error
                last = batches is None and self._final and trouble is None
                self._report(row, tokens, spent, last, logs)
                if trouble is not None:
                    raise trouble
                bar.update(self.step, self.elapsed, row["loss"], tokens, spent)
                if self._finished():
                    break
            groups.close()
            if self._final:
                self._end()
            elif self.out is not None and self._saved != self.step:
                self.save()
        finally:
            bar.close()
            for log in logs:
                log.close()
        return self.history

    def _alone(self) -> contextlib.AbstractContextManager[None]:
        """Two trainings in one directory would sweep each other's files away."""
        return contextlib.nullcontext() if self.out is None else only_one(self.out, "Trainer")

    def _groups(self) -> Generator[list[Any]]:
        """The batches of every step; a step never spans two epochs."""
        while self.epochs is None or self.loader.epoch < self.epochs:
            self.epoch = self.loader.epoch
            group: list[Any] = []
            bare = True
            resumed = self.loader.state_dict()["batch"] > 0
            for batch in self.loader:
                bare = False
                group.append(batch)
                if len(group) == self.accumulate:
                    yield group
                    group = []
            if group:
                yield group
            elif bare and not resumed:
                raise ValueError("Trainer: train_data must have at least one batch")

    @property
    def timed_schedule(self) -> float | None:
        """The seconds that the schedule spans, where time and not steps end the training."""
        return self.seconds if self._timed else None

    def _finished(self) -> bool:
        done = self.total_steps is not None and self.step >= self.total_steps
        late = self.seconds is not None and self.elapsed >= self.seconds
        return done or late or self.stop_reason is not None

    def _one_step(self, batches: list[Any]) -> tuple[Row, int]:
        """Gradients of some batches, weighed by their terms, and one step of the optimizer."""
        self.model.train()
        sizes = [self.task.size(batch) for batch in batches]
        terms = sum(sizes)
        if terms == 0:
            raise ValueError(f"Trainer: step {self.step + 1}: the batch has no targets")
        rate = self.optimizer.param_groups[0]["lr"]
        total = 0.0
        for batch, size in zip(batches, sizes, strict=True):
            if size:
                with self.precision:
                    context = Context(self.device, self.step)
                    loss = self.task.loss(self.model, batch, context).loss
                    self.precision.backward(loss, size / terms)
                total += loss.item() * (size / terms)
        norm = float(
            clip_grad_norm_(self.optimizer_parameters(), self.clip_norm or math.inf).item()
        )
        if not (math.isfinite(total) and math.isfinite(norm)):
            what = "the loss" if not math.isfinite(total) else "the norm of the gradients"
            value = total if not math.isfinite(total) else norm
            self.optimizer.zero_grad()
            raise TrainingError(
                f"Trainer: {what} is {value} at step {self.step + 1} (learning rate {rate:.3g}); "
                f"{self._where_to_go_on()}"
            )
        self.optimizer.step()
        self.precision.changed()
        self.optimizer.zero_grad()
        self.step += 1
        self._advance_schedule()
        tokens = sum(self.task.tokens(batch) for batch in batches)
        self.tokens += tokens
        self._window[0] += total * terms
        self._window[1] += terms
        row = {"step": self.step, "epoch": self.epoch, "loss": total, "lr": rate, "grad_norm": norm}
        return row, tokens

    def optimizer_parameters(self) -> list[Any]:
        """All parameters that are trained."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def _advance_schedule(self) -> None:
        if self._timed and self.seconds is not None:
            done = min(1.0, self.elapsed / self.seconds)
            self.schedule.last_epoch = max(0, round(done * _VIRTUAL_STEPS) - 1)
        self.schedule.step()

    def _report(self, row: Row, tokens: int, spent: float, last: bool, logs: list[Any]) -> None:
        """Log, evaluate, save, as it is their turn."""
        evaluated = self.eval_loader is not None and (self.step % self.eval_every == 0 or last)
        improved = False
        if evaluated:
            metrics = self.evaluate()
            for callback in self.callbacks:
                callback.on_evaluate(self, metrics)
            row.update(metrics)
            improved = self._judge(metrics)
            last = last or (self._finished() and self._final)
        if last or evaluated or self.step % self.log_every == 0:
            row["loss"] = self._window[0] / self._window[1]
            self._window = [0.0, 0.0]
            row.update(tokens=self.tokens, seconds=round(self.elapsed, 3))
            row["tokens_per_second"] = round(tokens / max(spent, 1e-9), 1)
            self.history.append(row)
            for log in logs:
                log.write(row)
            for callback in self.callbacks:
                callback.on_log(self, row)
        if self.out is not None and (improved or last or self.step % self.save_every == 0):
            self.save()

    def _judge(self, metrics: Mapping[str, Any]) -> bool:
        if self.best_metric not in metrics:
            raise ValueError(
                f"Trainer: best_metric must be one of {', '.join(metrics)}, got "
                f"{self.best_metric!r}"
            )
        value = float(metrics[self.best_metric])
        if not math.isfinite(value):
            return False
        if self.best is not None:
            held = self.best["value"]
            if not (value > held if self.greater_is_better else value < held):
                return False
        self.best = {"step": self.step, "value": value}
        return True

    def evaluate(self, data: Any = None) -> dict[str, float]:
        """The mean loss and metrics over `eval_data`, or over another loader.

        Examples
        --------
        >>> import numpy as np, seqloom as sl
        >>> model = sl.nn.Sequential(sl.nn.Embedding(3, 3))
        >>> data = sl.data.LMWindows(np.arange(30) % 3, 4)
        >>> trainer = Trainer(model, "next-token", data, data, batch_size=2, steps=1)
        >>> sorted(trainer.evaluate())
        ['eval_loss', 'eval_perplexity']
        """
        loader = self.eval_loader if data is None else data
        if loader is None:
            raise ValueError("Trainer.evaluate: needs eval_data")
        if isinstance(loader, Loader):
            # Every evaluation sees the same batches, masked tokens included, and the training's
            # position stays where it is, although both may read one dataset.
            loader = loader.apart()
        training = self.model.training
        self.model.eval()
        totals: dict[str, float] = {}
        terms = 0
        try:
            with no_grad(), self.precision:
                for batch in loader:
                    size = self.task.size(batch)
                    if size == 0:
                        continue
                    context = Context(self.device, self.step, training=False)
                    outcome = self.task.loss(self.model, batch, context)
                    terms += size
                    totals["loss"] = totals.get("loss", 0.0) + outcome.loss.item() * size
                    for name, value in outcome.sums.items():
                        totals[name] = totals.get(name, 0.0) + value
        finally:
            self.model.train(training)
        if terms == 0:
            raise ValueError("Trainer.evaluate: eval_data must have targets")
        return self.task.finish({f"eval_{name}": value / terms for name, value in totals.items()})

    # ---- checkpoints -----------------------------------------------------------------------------

    @property
    def checkpoint_folder(self) -> Path:
        """Where the checkpoints lie."""
        if self.out is None:
            raise ValueError("Trainer: checkpoints need out")
        return self.out / "checkpoints"

    def save(self) -> Path:
        """Write a checkpoint and forget the ones that are no longer needed."""
        path = checkpoint.checkpoint_path(self.checkpoint_folder, self.step)
        state = {
            "run": resuming.describe(self),
            "step": self.step,
            "tokens": self.tokens,
            "seconds": self.elapsed,
            "best": self.best,
            "window": self._window,
            "loader": self._position,
            "schedule": self.schedule.state_dict(),
            "random": checkpoint.random_state(),
            "callbacks": [[type(c).__name__, c.state_dict()] for c in self.callbacks],
            "stop_reason": self.stop_reason if self._final else None,
        }
        checkpoint.save_checkpoint(path, self.model, self.optimizer, state, self.extras)
        self._saved = self.step
        found = checkpoint.checkpoints(self.checkpoint_folder)
        wanted = {step for step, _ in found[-self.keep :]}
        if self.best is not None:
            wanted.add(self.best["step"])
        for step, old in found:
            if step not in wanted:
                checkpoint.remove(old)
        for callback in self.callbacks:
            callback.on_save(self, path)
        return path

    def _begin(self, resume: bool | PathLike, allow_changes: bool) -> None:
        if self.out is None:
            if resume is not False:
                raise ValueError("Trainer: resume needs out")
            return
        found = checkpoint.checkpoints(self.checkpoint_folder)
        if not isinstance(resume, bool):
            self._restore(Path(resume), allow_changes)
        elif found and not resume:
            raise ValueError(
                f"Trainer: {self.out} holds checkpoints of an earlier training; go on with it "
                "(resume) or choose another directory"
            )
        elif found:
            try:
                self._restore(found[-1][1], allow_changes)
            except CheckpointError as error:
                if len(found) < 2 or isinstance(error, resuming.OtherTrainingError):
                    raise
                raise CheckpointError(
                    f"{error}; an older checkpoint to resume from is {found[-2][1]} (a plain "
                    "resume takes it once the damaged one is deleted)"
                ) from None
        checkpoint.sweep(self.checkpoint_folder)

    def _restore(self, path: Path, allow_changes: bool) -> None:
        state = resuming.take_over(self, path, allow_changes)
        held = [(str(name), values) for name, values in state["callbacks"]]
        for callback in self.callbacks:  # those of one class in their order; new ones begin anew
            name = type(callback).__name__
            found = next((i for i, (theirs, _) in enumerate(held) if theirs == name), None)
            if found is not None:
                callback.load_state_dict(held.pop(found)[1])
        self.step, self.tokens, self.elapsed = state["step"], state["tokens"], state["seconds"]
        self.epoch = self.loader.epoch
        self.best, self._window = state["best"], list(state["window"])
        self.stop_reason = state["stop_reason"]
        self._position, self._saved = self.loader.state_dict(), self.step

    def _logs(self) -> list[Any]:
        if self.out is None:
            return []
        path = self.out / LOG
        if self.step and path.is_file():
            # What came after the checkpoint will come again.
            self.history = [row for row in CSVLog.read(path) if row.get("step", 0) <= self.step]
        columns = [*_COLUMNS, *(self.task.columns() if self.eval_loader is not None else ())]
        if self.best_metric not in columns and self.eval_loader is not None:
            columns.append(self.best_metric)
        logs: list[Any] = [CSVLog(path, columns, self.history)]
        if self._tensorboard:
            logs.append(TensorBoardLog(self.out / "tensorboard", self.step))
        return logs

    def _where_to_go_on(self) -> str:
        found = [] if self.out is None else checkpoint.checkpoints(self.checkpoint_folder)
        if not found:
            return "try a smaller learning rate, warm-up or clipping"
        return f"the last good checkpoint is {found[-1][1]}"

    def _end(self) -> None:
        """The last or the best model into `out`, and into the model."""
        if self.out is not None:
            best = self.best
            if self.restore_best and best is not None and best["step"] != self.step:
                checkpoint.load_model(
                    self.model, checkpoint.checkpoint_path(self.checkpoint_folder, best["step"])
                )
                self.precision.changed()
            checkpoint.save_model(self.model, self.out, self.extras)
        for callback in self.callbacks:
            callback.on_train_end(self)
