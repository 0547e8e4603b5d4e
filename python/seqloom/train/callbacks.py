# SPDX-License-Identifier: Apache-2.0
"""What may look in on a training, and stop it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .trainer import Trainer

Row = dict[str, Any]


class Callback:
    """Override what you need; `trainer.stop(reason)` ends the training after the present step.

    Examples
    --------
    >>> class Printer(Callback):
    ...     def on_evaluate(self, trainer, metrics):
    ...         print(trainer.step, metrics["eval_loss"])
    """

    def on_train_begin(self, trainer: Trainer) -> None:
        """Before the first step, after a checkpoint was read."""

    def on_step(self, trainer: Trainer, row: Row) -> None:
        """After every step: `step`, `epoch`, `loss`, `lr`, `grad_norm`."""

    def on_log(self, trainer: Trainer, row: Row) -> None:
        """When a row goes to the log."""

    def on_evaluate(self, trainer: Trainer, metrics: Row) -> None:
        """After an evaluation; what is added to `metrics` is logged and can be the best metric."""

    def on_save(self, trainer: Trainer, path: Path) -> None:
        """After a checkpoint was written."""

    def on_train_end(self, trainer: Trainer) -> None:
        """After the last step."""

    def state_dict(self) -> dict[str, Any]:
        """What must survive an interruption, as plain JSON data."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""


class EarlyStopping(Callback):
    """Stop when the best metric has not improved for `patience` evaluations.

    Parameters
    ----------
    patience : int
    min_delta : float
        Smaller improvements don't count.

    Examples
    --------
    >>> EarlyStopping(3).patience
    3
    """

    def __init__(self, patience: int, min_delta: float = 0.0) -> None:
        if isinstance(patience, bool) or not isinstance(patience, int):
            raise TypeError(
                f"EarlyStopping: patience must be an integer, got {type(patience).__name__}"
            )
        if patience < 1 or not min_delta >= 0:
            raise ValueError(
                "EarlyStopping: patience must be at least 1 and min_delta not negative, got "
                f"{patience} and {min_delta}"
            )
        self.patience, self.min_delta = patience, min_delta
        self.reference = math.inf
        self.waited = 0

    def on_evaluate(self, trainer: Trainer, metrics: Row) -> None:
        value = metrics[trainer.best_metric]
        value = -value if trainer.greater_is_better else value
        if value < self.reference - self.min_delta:
            self.reference, self.waited = value, 0
            return
        self.waited += 1
        if self.waited >= self.patience:
            trainer.stop(f"{trainer.best_metric} has not improved in {self.waited} evaluations")

    def state_dict(self) -> dict[str, Any]:
        return {"reference": repr(self.reference), "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.reference, self.waited = float(state["reference"]), int(state["waited"])
