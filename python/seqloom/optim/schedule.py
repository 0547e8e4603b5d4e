# SPDX-License-Identifier: Apache-2.0
"""Learning rates over time: constant, linear, cosine and inverse square root, with warm-up."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from numbers import Integral
from typing import Any

from .optimizer import Optimizer


class Schedule:
    """Multiplies each group's learning rate by a function of the number of steps.

    Parameters
    ----------
    optimizer : Optimizer
        Its groups' present ``lr`` (or ``initial_lr``) is what the factor multiplies.
    factor : callable int -> float
    last_epoch : int
        Steps done before, less one; -1 starts afresh.

    Examples
    --------
    >>> import seqloom as sl
    >>> optimizer = sl.optim.SGD([sl.nn.Parameter([1.0])], lr=1.0)
    >>> schedule = sl.optim.Schedule(optimizer, lambda step: 0.5 ** step)
    >>> schedule.step()
    >>> optimizer.param_groups[0]["lr"]
    0.5
    """

    def __init__(
        self, optimizer: Optimizer, factor: Callable[[int], float], last_epoch: int = -1
    ) -> None:
        self.optimizer = optimizer
        self.factor = factor
        self.last_epoch = last_epoch
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self.base_lrs: list[float] = [g["initial_lr"] for g in optimizer.param_groups]
        self.step()

    def step(self) -> None:
        """Set the learning rates of the next step; to be called after ``optimizer.step()``."""
        self.last_epoch += 1
        self._set()

    def _set(self) -> None:
        now = self.factor(self.last_epoch)
        for group, base in zip(self.optimizer.param_groups, self.base_lrs, strict=False):
            group["lr"] = base * now

    def get_last_lr(self) -> list[float]:
        """The present learning rate of each group."""
        return [g["lr"] for g in self.optimizer.param_groups]

    def describe(self) -> dict[str, Any]:
        """What the function is, as plain data: equal for equal schedules.

        Examples
        --------
        >>> import seqloom as sl
        >>> optimizer = sl.optim.SGD([sl.nn.Parameter([1.0])], lr=1.0)
        >>> sl.optim.linear(optimizer, 10, 100).describe()
        {'name': 'linear', 'warmup_steps': 10, 'total_steps': 100, 'min_ratio': 0.0}
        """
        name = getattr(self.factor, "__qualname__", type(self.factor).__name__)
        if isinstance(self.factor, functools.partial) and self.factor.func in _NAMES:
            name, fields = _NAMES[self.factor.func]
            return {"name": name, **dict(zip(fields, self.factor.args, strict=True))}
        return {"name": name, "factors": [round(self.factor(step), 9) for step in _PROBES]}

    def state_dict(self) -> dict[str, Any]:
        """The position, for a checkpoint; the function itself is not in it."""
        return {"last_epoch": self.last_epoch, "base_lrs": list(self.base_lrs)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.last_epoch = int(state_dict["last_epoch"])
        self.base_lrs = [float(lr) for lr in state_dict["base_lrs"]]
        self._set()


def _count(op: str, **counts: Any) -> None:
    for name, n in counts.items():
        if isinstance(n, bool) or not isinstance(n, Integral):
            raise TypeError(f"{op}: {name} must be an integer, got {type(n).__name__}")
        if n < 0:
            raise ValueError(f"{op}: {name} must not be negative, got {n}")


def _warm(step: int, warmup_steps: int) -> float | None:
    """The factor of warm-up, 0 before the first step to 1 after the last."""
    return step / warmup_steps if step < warmup_steps else None


def _progress(step: int, warmup_steps: int, total_steps: int) -> float:
    return min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))


def _constant(warmup_steps: int, step: int) -> float:
    warm = _warm(step, warmup_steps)
    return 1.0 if warm is None else warm


def _linear(warmup_steps: int, total_steps: int, floor: float, step: int) -> float:
    warm = _warm(step, warmup_steps)
    if warm is not None:
        return warm
    return floor + (1 - floor) * (1 - _progress(step, warmup_steps, total_steps))


def _cosine(warmup_steps: int, total_steps: int, floor: float, step: int) -> float:
    warm = _warm(step, warmup_steps)
    if warm is not None:
        return warm
    angle = math.pi * _progress(step, warmup_steps, total_steps)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(angle))


def _inverse_sqrt(warmup_steps: int, timescale: int, step: int) -> float:
    warm = _warm(step, warmup_steps)
    if warm is not None:
        return warm
    return math.sqrt(timescale / (step - warmup_steps + timescale))


_NAMES: dict[Any, tuple[str, tuple[str, ...]]] = {
    _constant: ("constant", ("warmup_steps",)),
    _linear: ("linear", ("warmup_steps", "total_steps", "min_ratio")),
    _cosine: ("cosine", ("warmup_steps", "total_steps", "min_ratio")),
    _inverse_sqrt: ("inverse_sqrt", ("warmup_steps", "timescale")),
}
# Steps at which two functions are compared that have nothing but their values.
_PROBES = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 100_000)


def constant(optimizer: Optimizer, warmup_steps: int = 0) -> Schedule:
    """Linear warm-up, then the optimizer's learning rate.

    >>> import seqloom as sl
    >>> optimizer = sl.optim.SGD([sl.nn.Parameter([1.0])], lr=1.0)
    >>> sl.optim.constant(optimizer, warmup_steps=4).get_last_lr()
    [0.0]
    """
    _count("constant", warmup_steps=warmup_steps)
    return Schedule(optimizer, functools.partial(_constant, warmup_steps))


def linear(
    optimizer: Optimizer, warmup_steps: int, total_steps: int, min_ratio: float = 0.0
) -> Schedule:
    """Linear warm-up, then a straight line down to ``min_ratio * lr`` at `total_steps`.

    >>> import seqloom as sl
    >>> optimizer = sl.optim.SGD([sl.nn.Parameter([1.0])], lr=1.0)
    >>> schedule = sl.optim.linear(optimizer, 0, 4)
    >>> schedule.step()
    >>> schedule.get_last_lr()
    [0.75]
    """
    _count("linear", warmup_steps=warmup_steps, total_steps=total_steps)
    return Schedule(
        optimizer, functools.partial(_linear, warmup_steps, total_steps, float(min_ratio))
    )


def cosine(
    optimizer: Optimizer, warmup_steps: int, total_steps: int, min_ratio: float = 0.0
) -> Schedule:
    """Linear warm-up, then half a cosine down to ``min_ratio * lr`` at `total_steps`.

    >>> import seqloom as sl
    >>> optimizer = sl.optim.SGD([sl.nn.Parameter([1.0])], lr=1.0)
    >>> schedule = sl.optim.cosine(optimizer, 0, 2)
    >>> schedule.step()
    >>> round(schedule.get_last_lr()[0], 6)
    0.5
    """
    _count("cosine", warmup_steps=warmup_steps, total_steps=total_steps)
    return Schedule(
        optimizer, functools.partial(_cosine, warmup_steps, total_steps, float(min_ratio))
    )


def inverse_sqrt(
    optimizer: Optimizer, warmup_steps: int = 0, timescale: int | None = None
) -> Schedule:
    """Linear warm-up, then ``sqrt(timescale / (steps since warm-up + timescale))``.

    `timescale` is warmup_steps by default, 10000 without warm-up.

    >>> import seqloom as sl
    >>> optimizer = sl.optim.SGD([sl.nn.Parameter([1.0])], lr=1.0)
    >>> schedule = sl.optim.inverse_sqrt(optimizer, timescale=1)
    >>> [schedule.step() for _ in range(3)]
    [None, None, None]
    >>> schedule.get_last_lr()
    [0.5]
    """
    scale = (warmup_steps or 10_000) if timescale is None else timescale
    _count("inverse_sqrt", warmup_steps=warmup_steps, timescale=scale)
    return Schedule(optimizer, functools.partial(_inverse_sqrt, warmup_steps, max(1, scale)))
