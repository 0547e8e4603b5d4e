# SPDX-License-Identifier: Apache-2.0
"""Losses over the steps of a training."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from seqloom.files import PathLike, check_regular_file
from seqloom.plot.figure import BLUE, GREEN, GRID, INK, ORANGE, SOFT, matplotlib, new_figure, save

_STEP_NAMES = ("step", "steps", "iteration", "epoch")
_TRAIN_NAMES = ("loss", "train_loss", "train/loss", "training_loss")
_EVAL_NAMES = ("eval_loss", "valid_loss", "val_loss", "validation_loss", "eval/loss")
_RATE_NAMES = ("lr", "learning_rate", "train/lr")


def _number(text: Any) -> float:
    try:
        return float(text)
    except (TypeError, ValueError):
        return math.nan


def _read_log(log: Any) -> dict[str, npt.NDArray[np.float64]]:
    """Columns of a log: a CSV file, rows as dictionaries, or a dictionary of columns."""
    if isinstance(log, (str, os.PathLike)):
        check_regular_file(log, "plot.training_curve")
        with open(log, newline="", encoding="utf-8") as handle:
            try:
                rows: list[Mapping[str, Any]] = list(csv.DictReader(handle))
            except (csv.Error, UnicodeDecodeError) as error:
                raise ValueError(
                    f"plot.training_curve: {os.fspath(log)} is not a CSV file: {error}"
                ) from None
        if not rows:
            raise ValueError(f"plot.training_curve: {os.fspath(log)} has no rows")
    elif isinstance(log, Mapping):
        return {str(k): np.asarray([_number(x) for x in v], np.float64) for k, v in log.items()}
    else:
        rows = list(log)
        if not rows or not all(isinstance(row, Mapping) for row in rows):
            raise TypeError(
                "plot.training_curve: log must be a CSV file, rows as dictionaries, or a "
                "dictionary of columns"
            )
    names = dict.fromkeys(str(name) for row in rows for name in row)
    return {
        name: np.asarray([_number(row.get(name)) for row in rows], np.float64) for name in names
    }


def _first(columns: Mapping[str, Any], names: Iterable[str]) -> str | None:
    return next((name for name in names if name in columns), None)


def smoothed(values: npt.NDArray[np.float64], weight: float) -> npt.NDArray[np.float64]:
    """Exponential moving average over both sides, so that the curve doesn't lag behind.

    Examples
    --------
    >>> smoothed(np.array([4.0, 4.0, 4.0]), 0.9).tolist()
    [4.0, 4.0, 4.0]
    """
    past, past_weight = _sums(values, weight)
    future, future_weight = (part[::-1] for part in _sums(values[::-1], weight))
    # Each value is in both sums.
    return (past + future - values) / (past_weight + future_weight - 1)


def _sums(
    values: npt.NDArray[np.float64], weight: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Sums of all values so far, the older the lighter, and the sums of their weights."""
    sums, weights = np.empty_like(values), np.empty_like(values)
    total = share = 0.0
    for i, value in enumerate(values):
        total, share = weight * total + value, weight * share + 1
        sums[i], weights[i] = total, share
    return sums, weights


def training_curve(
    log: Any,
    *,
    path: PathLike | None = None,
    title: str | None = None,
    smooth: float | None = None,
    log_scale: bool = False,
    show_lr: bool = True,
    unit: str | None = None,
    ax: Any = None,
    dpi: int = 200,
) -> Any:
    """Draw the loss over the steps: training, its moving average, evaluation with the best one.

    Parameters
    ----------
    log
        The Trainer's CSV file, rows as dictionaries, or a dictionary of columns. Understood are
        `step`, `loss`, `eval_loss`, `lr` and their usual other names; cells may be empty.
    path
        Write the figure to this file.
    title
        Above the figure.
    smooth
        Weight of the past in the moving average, in [0, 1); by the number of points when absent.
    log_scale
        A logarithmic axis for the loss.
    show_lr
        Show the learning rate, where the log has it, in a strip below.
    unit
        Of the loss, for its axis: "nats a token", say.
    ax
        Draw into these axes of a figure of your own (without the learning rate).
    dpi
        Resolution of the file.

    Returns
    -------
    matplotlib.figure.Figure

    Examples
    --------
    >>> log = [{"step": i, "loss": 4 / (1 + i)} for i in range(50)]
    >>> figure = training_curve(log, title="a model that learns")
    >>> figure.axes[0].get_ylabel()
    'loss'
    """
    columns = _read_log(log)
    train, held_out = _first(columns, _TRAIN_NAMES), _first(columns, _EVAL_NAMES)
    if train is None and held_out is None:
        raise ValueError(
            f"plot.training_curve: log must have a column loss or eval_loss, got {list(columns)}"
        )
    if smooth is not None and not 0 <= smooth < 1:
        raise ValueError(f"plot.training_curve: smooth must be in [0, 1), got {smooth}")
    step_name = _first(columns, _STEP_NAMES)
    length = len(next(iter(columns.values())))
    if any(len(column) != length for column in columns.values()):
        raise ValueError("plot.training_curve: all columns of log must have the same length")
    steps = columns[step_name] if step_name else np.arange(1, length + 1, dtype=np.float64)
    rate_name = _first(columns, _RATE_NAMES) if show_lr and ax is None else None
    if rate_name is not None and not np.isfinite(columns[rate_name]).any():
        rate_name = None
    strip = None
    if ax is not None:
        figure, axes = ax.figure, ax
    elif rate_name is not None:
        figure = new_figure(6.4, 4.4)
        axes, strip = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    else:
        figure = new_figure(6.4, 3.9)
        axes = figure.subplots()
    along = step_name if step_name in ("epoch", "iteration") else "step"
    if train is not None:
        _draw_training(axes, steps, columns[train], smooth)
    if held_out is not None:
        _draw_evaluation(axes, steps, columns[held_out], along)
    if log_scale:
        axes.set_yscale("log")
    axes.set_ylabel(f"loss ({unit})" if unit else "loss", color=INK)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    _plain(axes)
    lowest = axes
    if strip is not None and rate_name is not None:
        known = np.isfinite(columns[rate_name])
        strip.plot(steps[known], columns[rate_name][known], color=GREEN, linewidth=1.4)
        strip.set_ylabel("learning\nrate", color=INK, fontsize=9)
        strip.set_ylim(bottom=0)
        strip.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=True)
        strip.yaxis.get_offset_text().set_fontsize(8)
        _plain(strip)
        lowest = strip
    lowest.xaxis.set_major_locator(matplotlib("ticker").MaxNLocator(integer=True))
    lowest.set_xlabel(along, color=INK)
    if title:
        axes.set_title(title, fontsize=12, color=INK, fontweight="bold", loc="left")
    if ax is None:
        save(figure, path, dpi)
    return figure


def _draw_training(
    axes: Any, steps: npt.NDArray[np.float64], loss: npt.NDArray[np.float64], smooth: float | None
) -> None:
    known = np.isfinite(steps) & np.isfinite(loss)
    x, y = steps[known], loss[known]
    if smooth is None:
        # Averages over about a sixtieth of the curve.
        smooth = max(0.0, 1 - 120 / len(y)) if len(y) > 60 else 0.0
    if smooth > 0:
        axes.plot(x, y, color=BLUE, alpha=0.22, linewidth=0.8)
        y = smoothed(y, smooth)
    axes.plot(x, y, color=BLUE, linewidth=1.8, label="training")


def _draw_evaluation(
    axes: Any, steps: npt.NDArray[np.float64], loss: npt.NDArray[np.float64], along: str
) -> None:
    known = np.isfinite(steps) & np.isfinite(loss)
    x, y = steps[known], loss[known]
    if not len(y):
        return
    axes.plot(x, y, color=ORANGE, linewidth=1.6, marker="o", markersize=3.2, label="evaluation")
    best = int(np.argmin(y))
    axes.plot(
        x[best], y[best], "o", markersize=9, markerfacecolor="none", markeredgecolor=ORANGE,
        markeredgewidth=1.4, label=f"best {y[best]:.4g} at {along} {x[best]:g}", clip_on=False,
        zorder=3,
    )  # fmt: skip


def _plain(axes: Any) -> None:
    for name in ("top", "right"):
        axes.spines[name].set_visible(False)
    for name in ("left", "bottom"):
        axes.spines[name].set_color(SOFT)
    axes.tick_params(colors=SOFT, labelcolor=INK, labelsize=9)
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.margins(x=0.01)
