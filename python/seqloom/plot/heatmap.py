# SPDX-License-Identifier: Apache-2.0
"""Attention weights as heatmaps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from seqloom.files import PathLike
from seqloom.plot.figure import INK, SOFT, families, new_figure, save


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
        names = families()
        for text in axis.get_ticklabels():
            text.set_parse_math(False)
            text.set_fontfamily(names)
    axis.set_tick_params(length=0, labelsize=font, labelcolor=INK, pad=2)


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
                    color="white" if value > 0.55 * top else INK,
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
    >>> import os, tempfile
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
        figure = new_figure(
            width + (0.25 if query_label else 0),
            height + (0.4 if title else 0.15) + (0.25 if key_label else 0),
        )
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
            axes.set_xlabel(name, fontsize=8.5, color=SOFT, labelpad=4)
            axes.xaxis.set_label_position("bottom")
        if query_label and first_in_row:
            axes.set_ylabel(query_label, fontsize=9, color=SOFT)
        if key_label and count == 1:
            axes.set_xlabel(key_label, fontsize=9, color=SOFT)
            axes.xaxis.set_label_position("bottom")
    if key_label and count > 1 and ax is None:
        figure.supxlabel(key_label, fontsize=9, color=SOFT)
    if ax is None:
        bar = figure.colorbar(
            image, ax=grid, shrink=0.9 if count == 1 else 0.6, aspect=24, pad=0.02
        )
        bar.outline.set_visible(False)
        bar.set_label("weight", fontsize=8, color=SOFT)
        bar.ax.tick_params(length=0, labelsize=7.5, labelcolor=SOFT)
    if title:
        if ax is None:
            figure.suptitle(title, fontsize=11, color=INK, fontweight="bold")
        else:
            ax.set_title(title, fontsize=11, color=INK)
    if ax is None:
        save(figure, path, dpi)
    return figure
