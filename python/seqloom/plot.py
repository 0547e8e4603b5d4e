# SPDX-License-Identifier: Apache-2.0
"""Pictures of attention and of training; matplotlib is needed: `pip install 'seqloom[plot]'`.

Figures are made without `pyplot`, so that no window opens and no global state changes; they show
by themselves in notebooks, and `path=` writes them to a file (`.png`, `.pdf`, `.svg`).
"""

from __future__ import annotations

import csv
import importlib
import math
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from seqloom.files import PathLike, check_regular_file

HINT = "pip install 'seqloom[plot]'"

_INK, _SOFT, _GRID = "#1f2430", "#6b7280", "#e5e7eb"
_BLUE, _ORANGE, _GREEN = "#2563eb", "#ea580c", "#059669"
_OTHER_SCRIPTS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "Hiragino Sans", "PingFang SC",
    "Microsoft YaHei", "Malgun Gothic", "Noto Sans", "Noto Sans Arabic", "Noto Sans Devanagari",
    "Noto Emoji",
)  # fmt: skip
_STEP_NAMES = ("step", "steps", "iteration", "epoch")
_TRAIN_NAMES = ("loss", "train_loss", "train/loss", "training_loss")
_EVAL_NAMES = ("eval_loss", "valid_loss", "val_loss", "validation_loss", "eval/loss")
_RATE_NAMES = ("lr", "learning_rate", "train/lr")


def _matplotlib(name: str) -> Any:
    try:
        return importlib.import_module(f"matplotlib.{name}")
    except ImportError as error:
        raise ImportError(f"plot: needs matplotlib: {HINT}") from error


def _figure(width: float, height: float) -> Any:
    figure = _matplotlib("figure").Figure(figsize=(width, height), layout="constrained")
    # A canvas of its own: savefig works whatever the backend.
    _matplotlib("backends.backend_agg").FigureCanvasAgg(figure)
    return figure


def _save(figure: Any, path: PathLike | None, dpi: int) -> None:
    if path is not None:
        with warnings.catch_warnings():
            # A character that no font has is drawn as a box, which says it all.
            warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)
            figure.savefig(os.fspath(path), dpi=dpi, facecolor="white")


def _families() -> list[str]:
    """Fonts for tokens: the default one, then what this machine has for other scripts."""
    installed = {font.name for font in _matplotlib("font_manager").fontManager.ttflist}
    return ["DejaVu Sans", *(name for name in _OTHER_SCRIPTS if name in installed)]


def _label(token: str) -> str:
    """A token as people read it: byte-level and SentencePiece marks become spaces, those dots."""
    text = str(token).replace("\u0120", " ").replace("\u2581", " ").replace("\u010a", "\\n")
    text = text.replace("\n", "\\n").replace("\t", "\\t")
    text = "".join(c if c.isprintable() else "\u25a1" for c in text)
    if text.strip() == "":
        return "\u00b7" * max(1, len(text))
    text = text.strip(" ")
    return text if len(text) <= 24 else text[:23] + "\u2026"


def _weights(weights: Any) -> npt.NDArray[np.float64]:
    if hasattr(weights, "detach"):
        weights = weights.detach()
    if hasattr(weights, "cpu"):
        weights = weights.cpu()
    array = np.asarray(weights)
    if array.dtype.kind not in "fiuV" or array.dtype == object:
        raise TypeError(f"plot.attention: weights must be numbers, got {array.dtype}")
    array = array.astype(np.float64)
    if array.ndim == 4:
        if len(array) != 1:
            raise ValueError(
                "plot.attention: weights of a batch must be of one example, [1, H, Tq, Tk], got "
                f"{list(array.shape)}; pass weights[i]"
            )
        array = array[0]
    if array.ndim == 2:
        array = array[None]
    if array.ndim != 3 or array.size == 0:
        raise ValueError(
            f"plot.attention: weights must have shape [Tq, Tk] or [H, Tq, Tk], got "
            f"{list(np.shape(weights))}"
        )
    if not np.isfinite(array).all():
        raise ValueError("plot.attention: weights must be finite")
    return array


def _tokens(tokens: Sequence[str] | None, size: int, name: str) -> list[str] | None:
    if tokens is None:
        return None
    if isinstance(tokens, str):
        raise TypeError(f"plot.attention: {name} must be a sequence of tokens, got one str")
    if len(tokens) != size:
        raise ValueError(
            f"plot.attention: {name} must have one entry for each of the {size} rows or columns, "
            f"got {len(tokens)}"
        )
    return [_label(token) for token in tokens]


def _ticks(axis: Any, labels: list[str] | None, size: int, font: float, **options: Any) -> None:
    if labels is None:
        step = max(1, math.ceil(size / 12))
        axis.set_ticks(range(0, size, step))
    else:
        axis.set_ticks(range(size))
        # Tokens hold dollars and backslashes; they are no formulas.
        axis.set_ticklabels(labels, **options)
        families = _families()
        for text in axis.get_ticklabels():
            text.set_parse_math(False)
            text.set_fontfamily(families)
    axis.set_tick_params(length=0, labelsize=font, labelcolor=_INK, pad=2)


def _heatmap(
    axes: Any,
    matrix: npt.NDArray[np.float64],
    queries: list[str] | None,
    keys: list[str] | None,
    *,
    top: float,
    font: float,
    cmap: str,
    numbers: bool,
) -> Any:
    rows, columns = matrix.shape
    image = axes.imshow(matrix, cmap=cmap, vmin=0.0, vmax=top, interpolation="nearest")
    if queries is not None or keys is not None:
        # Thin lines between the cells keep pale ones apart.
        axes.set_xticks(np.arange(columns + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(rows + 1) - 0.5, minor=True)
        if max(rows, columns) <= 64:
            axes.grid(which="minor", color="white", linewidth=0.6)
        axes.tick_params(which="minor", length=0)
    _ticks(axes.yaxis, queries, rows, font)
    long = keys is not None and (max(map(len, keys)) > 3 or columns > 24)
    options = {"rotation": 60, "ha": "left", "rotation_mode": "anchor"} if long else {}
    axes.xaxis.tick_top()
    _ticks(axes.xaxis, keys, columns, font, **options)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if numbers:
        for (row, column), value in np.ndenumerate(matrix):
            if value >= 0.005 * top:
                axes.text(
                    column,
                    row,
                    f"{value:.2f}".removeprefix("0"),
                    ha="center",
                    va="center",
                    fontsize=font * 0.72,
                    color="white" if value > 0.55 * top else _INK,
                )
    return image


def attention(
    weights: Any,
    queries: Sequence[str] | None = None,
    keys: Sequence[str] | None = None,
    *,
    path: PathLike | None = None,
    title: str | None = None,
    heads: Sequence[str] | None = None,
    columns: int | None = None,
    cmap: str = "Blues",
    vmax: float | None = None,
    numbers: bool | None = None,
    query_label: str | None = None,
    key_label: str | None = None,
    ax: Any = None,
    dpi: int = 200,
) -> Any:
    """Draw attention weights as a heatmap, several heads as a grid.

    Parameters
    ----------
    weights
        `[Tq, Tk]`, `[H, Tq, Tk]` or `[1, H, Tq, Tk]`: row i says where query i looks.
    queries
        Tokens of the rows (the translation, say). For self-attention one list is enough.
    keys
        Tokens of the columns (the source); `queries` when absent and as many.
    path
        Write the figure to this file.
    title
        Above the figure.
    heads
        Names of the heads; "head 1" and so on when absent.
    columns
        Heads in a row of the grid.
    cmap
        A colormap of matplotlib, light for 0.
    vmax
        The weight that gets the darkest colour; the largest one when absent. All heads share it.
    numbers
        Write the weights into the cells; done for small maps of one head when absent.
    query_label, key_label
        Names of the two axes.
    ax
        Draw one head into these axes of a figure of your own.
    dpi
        Resolution of the file.

    Returns
    -------
    matplotlib.figure.Figure

    Examples
    --------
    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/attention.png"
    >>> figure = attention([[0.9, 0.1], [0.2, 0.8]], ["le", "chat"], ["the", "cat"], path=path)
    >>> os.path.getsize(path) > 1000
    True
    """
    array = _weights(weights)
    count, rows, cols = array.shape
    if keys is None and queries is not None and rows == cols:
        keys = queries
    row_names = _tokens(queries, rows, "queries")
    column_names = _tokens(keys, cols, "keys")
    if heads is not None and len(heads) != count:
        raise ValueError(f"plot.attention: heads must have {count} names, got {len(heads)}")
    if ax is not None and count != 1:
        raise ValueError(f"plot.attention: ax takes one head, got {count}")
    if columns is not None and columns < 1:
        raise ValueError(f"plot.attention: columns must be positive, got {columns}")
    top = float(array.max()) if vmax is None else float(vmax)
    top = top if top > 0 else 1.0
    if numbers is None:
        numbers = count == 1 and max(rows, cols) <= 12
    # A cell has the size that a line of text needs, within what a page has.
    across = columns or (1 if count == 1 else min(count, 4 if count > 3 else count))
    down = -(-count // across)
    named = row_names is not None or column_names is not None
    cell = 0.34 if count == 1 else min(0.24, 11.0 / (across * max(cols, 4)))
    cell = max(0.06 if named else 0.02, min(cell, 9.0 / max(rows, cols)))
    font = min(9.5, max(3.5, cell * 72 * 0.42)) if named else 7.0
    chars = 0.0075 * font
    left = chars * max(map(len, row_names)) + 0.15 if row_names else 0.3
    above = 0.87 * chars * max(map(len, column_names)) + 0.15 if column_names else 0.25
    panel_width, panel_height = max(cols * cell, 0.9), max(rows * cell, 0.9)
    if ax is not None:
        figure, grid = ax.figure, [ax]
    else:
        width = across * panel_width + left + (across - 1) * 0.25 + 0.75
        height = down * (panel_height + (0.28 if count > 1 else 0.0)) + above * (
            1 if count == 1 else down
        )
        figure = _figure(width + (0.25 if query_label else 0), height + (0.4 if title else 0.15))
        # Labels once per row and column of the grid, unless rows of heads would hide them.
        grid = list(np.ravel(figure.subplots(down, across, squeeze=False)))
    image = None
    for number, axes in enumerate(grid):
        if number >= count:
            axes.set_axis_off()
            continue
        first_in_row = number % across == 0
        image = _heatmap(
            axes,
            array[number],
            row_names if first_in_row else ([""] * rows if row_names else None),
            column_names,
            top=top,
            font=font,
            cmap=cmap,
            numbers=numbers,
        )
        if count > 1:
            name = heads[number] if heads is not None else f"head {number + 1}"
            axes.set_xlabel(name, fontsize=8.5, color=_SOFT, labelpad=4)
            axes.xaxis.set_label_position("bottom")
        if query_label and first_in_row:
            axes.set_ylabel(query_label, fontsize=9, color=_SOFT)
        if key_label and count == 1:
            axes.set_xlabel(key_label, fontsize=9, color=_SOFT)
            axes.xaxis.set_label_position("bottom")
    if ax is None:
        bar = figure.colorbar(
            image, ax=grid, shrink=0.9 if count == 1 else 0.6, aspect=24, pad=0.02
        )
        bar.outline.set_visible(False)
        bar.ax.tick_params(length=0, labelsize=7.5, labelcolor=_SOFT)
    if title:
        if ax is None:
            figure.suptitle(title, fontsize=11, color=_INK, fontweight="bold")
        else:
            ax.set_title(title, fontsize=11, color=_INK)
    if ax is None:
        _save(figure, path, dpi)
    return figure


# ------------------------------------------------------------------------- training curves


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
    past, future = _average(values, weight), _average(values[::-1], weight)[::-1]
    return (past + future) / 2


def _average(values: npt.NDArray[np.float64], weight: float) -> npt.NDArray[np.float64]:
    """Exponential moving average without the bias of its beginning."""
    result = np.empty_like(values)
    total = share = 0.0
    for i, value in enumerate(values):
        total = weight * total + (1 - weight) * value
        share = weight * share + (1 - weight)
        result[i] = total / share
    return result


def training_curve(
    log: Any,
    *,
    path: PathLike | None = None,
    title: str | None = None,
    smooth: float | None = None,
    log_scale: bool = False,
    show_lr: bool = True,
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
        figure = _figure(6.4, 4.4)
        axes, strip = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    else:
        figure = _figure(6.4, 3.9)
        axes = figure.subplots()
    if train is not None:
        _draw_training(axes, steps, columns[train], smooth)
    if held_out is not None:
        _draw_evaluation(axes, steps, columns[held_out])
    if log_scale:
        axes.set_yscale("log")
    axes.set_ylabel("loss", color=_INK)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9, labelcolor=_INK)
    _plain(axes)
    lowest = axes
    if strip is not None and rate_name is not None:
        known = np.isfinite(columns[rate_name])
        strip.plot(steps[known], columns[rate_name][known], color=_GREEN, linewidth=1.4)
        strip.set_ylabel("learning\nrate", color=_INK, fontsize=9)
        strip.set_ylim(bottom=0)
        strip.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=True)
        strip.yaxis.get_offset_text().set_fontsize(8)
        _plain(strip)
        lowest = strip
    lowest.xaxis.set_major_locator(_matplotlib("ticker").MaxNLocator(integer=True))
    lowest.set_xlabel(step_name if step_name in ("epoch", "iteration") else "step", color=_INK)
    if title:
        axes.set_title(title, fontsize=12, color=_INK, fontweight="bold", loc="left")
    if ax is None:
        _save(figure, path, dpi)
    return figure


def _draw_training(
    axes: Any, steps: npt.NDArray[np.float64], loss: npt.NDArray[np.float64], smooth: float | None
) -> None:
    known = np.isfinite(steps) & np.isfinite(loss)
    x, y = steps[known], loss[known]
    if smooth is None:
        # Averages over about a fiftieth of the curve.
        smooth = max(0.0, 1 - 50 / len(y)) if len(y) > 60 else 0.0
    if smooth > 0:
        axes.plot(x, y, color=_BLUE, alpha=0.22, linewidth=0.8)
        y = smoothed(y, smooth)
    axes.plot(x, y, color=_BLUE, linewidth=1.8, label="training")


def _draw_evaluation(
    axes: Any, steps: npt.NDArray[np.float64], loss: npt.NDArray[np.float64]
) -> None:
    known = np.isfinite(steps) & np.isfinite(loss)
    x, y = steps[known], loss[known]
    if not len(y):
        return
    axes.plot(x, y, color=_ORANGE, linewidth=1.6, marker="o", markersize=3.2, label="evaluation")
    best = int(np.argmin(y))
    axes.plot(
        x[best], y[best], "o", markersize=9, markerfacecolor="none", markeredgecolor=_ORANGE,
        markeredgewidth=1.4, label=f"best {y[best]:.4g} at {x[best]:g}",
    )  # fmt: skip


def _plain(axes: Any) -> None:
    for name in ("top", "right"):
        axes.spines[name].set_visible(False)
    for name in ("left", "bottom"):
        axes.spines[name].set_color(_SOFT)
    axes.tick_params(colors=_SOFT, labelcolor=_INK, labelsize=9)
    axes.grid(True, color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.margins(x=0.01)
