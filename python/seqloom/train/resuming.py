# SPDX-License-Identifier: Apache-2.0
"""Whether a checkpoint is of this training, and what is taken over from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..files import read_json
from ..weights import CheckpointError
from . import checkpoint

if TYPE_CHECKING:
    from .trainer import Trainer

# What no other training can take over, whatever it allows.
_FIXED = ("model", "number of parameters", "optimizer")
_SHOWN = 6  # differences that an error names


class OtherTrainingError(CheckpointError):
    """A checkpoint that is whole, but not of this training."""


def describe(trainer: Trainer) -> dict[str, Any]:
    """What must be the same for a checkpoint to be of this training, as JSON has it."""
    groups = trainer.optimizer.param_groups
    apart = ("params", "lr", "initial_lr", "weight_decay")
    config = getattr(trainer.model, "config", None)
    told: dict[str, Any] = {
        "model": type(trainer.model).__name__,
        "number of parameters": trainer.model.num_parameters(),
        "optimizer": type(trainer.optimizer).__name__,
        "config": {} if config is None else config.to_dict(),
        "task": trainer.task.settings(),
        "lr": list(trainer.schedule.base_lrs),
        "weight_decay": [group["weight_decay"] for group in groups],
        "optimizer options": [
            {name: value for name, value in group.items() if name not in apart} for group in groups
        ],
        "schedule": trainer.schedule.describe(),
        "evaluation": _judged_by(trainer),
        "seconds": trainer.timed_schedule,
        "precision": trainer.precision.name,
        "accumulate": trainer.accumulate,
        "clip_norm": trainer.clip_norm,
    }
    found: dict[str, Any] = _json(told)
    return found


def _judged_by(trainer: Trainer) -> dict[str, Any] | None:
    """What tells one `eval_data` from another."""
    if trainer.eval_loader is None:
        return None
    settings = trainer.eval_loader.state_dict()["settings"]
    return {k: v for k, v in settings.items() if k in ("examples", "checksum", "dataset")}


def _json(value: Any) -> Any:
    def told(other: Any) -> Any:
        return other.item() if isinstance(other, np.generic) else str(other)

    return json.loads(json.dumps(value, default=told))


def stored_warmup(out: Path) -> int | None:
    """`warmup_steps` of the newest checkpoint's schedule; None where that has none."""
    try:
        newest = checkpoint.checkpoints(out / "checkpoints")[-1][1]
        state = read_json(newest / checkpoint.STATE, "resume")
        found = state["run"]["schedule"]["warmup_steps"]
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None  # whoever reads it whole says what is wrong with it
    return found if isinstance(found, int) and found >= 0 else None


def differences(theirs: Any, ours: Any, name: str = "") -> list[tuple[str, str]]:
    """(outermost name, what differs in words) of two pieces of JSON data.

    Examples
    --------
    >>> differences({"lr": 0.1, "task": {"name": "ctc"}}, {"lr": 0.2, "task": {"name": "ctc"}})
    [('lr', "its lr is 0.1, this one's 0.2")]
    """
    if isinstance(theirs, Mapping) and isinstance(ours, Mapping):
        found = []
        for key in {**ours, **theirs}:
            inner = f"{name}.{key}" if name else str(key)
            found += differences(theirs.get(key), ours.get(key), inner)
        return found
    if theirs == ours:
        return []
    return [(name.partition(".")[0], f"its {name} is {theirs!r}, this one's {ours!r}")]


def is_longer(theirs: Any, ours: Any) -> bool:
    """Whether a schedule is another one for the one reason that it has more steps.

    Examples
    --------
    >>> short = {"name": "cosine", "warmup_steps": 2, "total_steps": 40, "min_ratio": 0.1}
    >>> is_longer(short, {**short, "total_steps": 80}), is_longer(short, short)
    (True, False)
    """
    if not isinstance(theirs, Mapping) or "total_steps" not in theirs:
        return False
    more = ours.get("total_steps") or 0
    return bool(more > theirs["total_steps"] and {**theirs, "total_steps": more} == ours)


def take_over(trainer: Trainer, path: Path, allow_changes: bool) -> dict[str, Any]:
    """Model, optimizer, schedule, loader and random numbers of a checkpoint; gives its state.

    What was best, by whose judgement, is forgotten when the evaluation is another one.
    """
    state = checkpoint.read_checkpoint(path)
    try:
        _take_over(trainer, path, state, allow_changes)
    except CheckpointError:
        raise
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise CheckpointError(f"resume: {path} does not fit: {error}") from error
    if state["run"].get("evaluation") != _json(_judged_by(trainer)):
        state.update(best=None, callbacks=[], stop_reason=None)
    return state


def _take_over(trainer: Trainer, path: Path, state: Mapping[str, Any], allow_changes: bool) -> None:
    run, mine = state["run"], describe(trainer)
    other = differences(run, mine)
    refused = other
    if is_longer(run.get("schedule"), mine["schedule"]):
        refused = [(name, text) for name, text in other if name != "schedule"]
    theirs, ours = state["loader"]["settings"], _json(trainer.loader.state_dict()["settings"])
    other_data = differences(theirs, ours, "data")
    fixed = any(name in _FIXED for name, _ in refused)
    told = [text for _, text in refused + other_data]
    if fixed or (told and not allow_changes):
        if len(told) > _SHOWN:
            told[_SHOWN:] = [f"and {len(told) - _SHOWN} more"]
        advice = "" if fixed else "; allow changes (--allow-changes) to go on with this one's"
        raise OtherTrainingError(
            f"resume: {path} is of another training: {', '.join(told)}{advice}"
        )
    if other_data:  # a position in data that are gone means nothing
        trainer.loader.epoch = int(state["loader"]["epoch"])
    else:
        trainer.loader.load_state_dict(state["loader"])
    groups = trainer.optimizer.param_groups
    options = [{n: v for n, v in group.items() if n != "params"} for group in groups]
    rates = list(trainer.schedule.base_lrs)
    checkpoint.restore(path, state, trainer.model, trainer.optimizer)
    trainer.schedule.load_state_dict(state["schedule"])
    if other:
        for group, own in zip(trainer.optimizer.param_groups, options, strict=True):
            group.update(own)
        trainer.schedule.load_state_dict({**state["schedule"], "base_lrs": rates})
    trainer.precision.changed()
    checkpoint.set_random_state(state["random"])
