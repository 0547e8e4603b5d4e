# SPDX-License-Identifier: Apache-2.0
"""Optimizers, schedules and loaders from a few words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any

from ..data import Loader
from ..nn import Module
from ..optim import (
    SGD,
    Adafactor,
    Adam,
    AdamW,
    Optimizer,
    Schedule,
    constant,
    cosine,
    inverse_sqrt,
    linear,
)
from .callbacks import Callback

OPTIMIZERS: dict[str, type[Optimizer]] = {
    "adamw": AdamW,
    "adam": Adam,
    "sgd": SGD,
    "adafactor": Adafactor,
}
SCHEDULES = ("constant", "linear", "cosine", "inverse_sqrt")


def check_numbers(**options: Any) -> None:
    """Refuse what is no number before a training has begun; `warmup_steps` counts.

    Examples
    --------
    >>> check_numbers(lr="fast")
    Traceback (most recent call last):
        ...
    TypeError: Trainer: lr must be a number, got str
    """
    for name, value in options.items():
        if value is None:
            continue
        kind, what = (Integral, "an integer") if name == "warmup_steps" else (Real, "a number")
        if isinstance(value, bool) or not isinstance(value, kind):
            raise TypeError(f"Trainer: {name} must be {what}, got {type(value).__name__}")
        if name == "warmup_steps" and value < 0:
            raise ValueError(f"Trainer: warmup_steps must not be negative, got {value}")


def check_parts(callbacks: Sequence[Any], extras: Sequence[Any]) -> None:
    """Refuse callbacks and extras that would fail hours later, at the first checkpoint.

    Examples
    --------
    >>> check_parts([], ["tokenizer"])
    Traceback (most recent call last):
        ...
    TypeError: Trainer: extras must have save_pretrained, got str
    """
    for part in callbacks:
        if not isinstance(part, Callback):
            raise TypeError(f"Trainer: callbacks must be Callbacks, got {type(part).__name__}")
    for part in extras:
        if not callable(getattr(part, "save_pretrained", None)):
            raise TypeError(f"Trainer: extras must have save_pretrained, got {type(part).__name__}")


def parameter_groups(model: Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: matrices shrink, biases and the weights of norms don't.

    Examples
    --------
    >>> import seqloom as sl
    >>> [(len(g["params"]), g["weight_decay"])
    ...  for g in parameter_groups(sl.nn.Linear(2, 3), 0.1)]
    [(1, 0.1), (1, 0.0)]
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def optimizer_of(
    optimizer: str | Optimizer, model: Module, lr: float | None, weight_decay: float
) -> Optimizer:
    """An optimizer by its name over a model's parameters, or the optimizer itself."""
    if isinstance(optimizer, Optimizer):
        if lr is not None:
            raise ValueError("Trainer: lr belongs to an optimizer that is given by its name")
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if held.isdisjoint(id(p) for p in model.parameters()):
            raise ValueError("Trainer: optimizer must hold parameters of the model")
        return optimizer
    if optimizer not in OPTIMIZERS:
        raise ValueError(
            f"Trainer: optimizer must be one of {', '.join(OPTIMIZERS)}, got {optimizer!r}"
        )
    kind: Any = OPTIMIZERS[optimizer]
    groups = parameter_groups(model, weight_decay)
    if not groups:
        raise ValueError("Trainer: model must have parameters that require gradients")
    made: Optimizer = kind(groups) if lr is None else kind(groups, lr=lr)
    return made


def schedule_of(
    schedule: str | Schedule | Callable[[Optimizer], Schedule],
    optimizer: Optimizer,
    warmup_steps: int,
    total_steps: int | None,
    min_ratio: float,
) -> Schedule:
    """A schedule by its name, the result of a function of the optimizer, or the schedule itself."""
    if isinstance(schedule, Schedule):
        return schedule
    if not isinstance(schedule, str):
        return schedule(optimizer)
    if schedule not in SCHEDULES:
        raise ValueError(
            f"Trainer: schedule must be one of {', '.join(SCHEDULES)}, got {schedule!r}"
        )
    if schedule == "constant":
        return constant(optimizer, warmup_steps)
    if schedule == "inverse_sqrt":
        return inverse_sqrt(optimizer, warmup_steps)
    if total_steps is None:
        raise ValueError(f"Trainer: schedule {schedule!r} needs steps, or epochs of known length")
    make = linear if schedule == "linear" else cosine
    return make(optimizer, warmup_steps, total_steps, min_ratio)


def loader_of(data: Any, batch_size: int | None, seed: int, name: str, shuffle: bool) -> Loader:
    """A loader over a dataset, or the loader itself."""
    if isinstance(data, Loader):
        return data
    if batch_size is None:
        raise ValueError(f"Trainer: {name} must be a Loader, or batch_size must be given")
    return Loader(data, batch_size, shuffle=shuffle, seed=seed)
