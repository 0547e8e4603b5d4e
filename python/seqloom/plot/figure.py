# SPDX-License-Identifier: Apache-2.0
"""What all pictures share: figures without `pyplot`, colours, fonts."""

from __future__ import annotations

import importlib
import os
import warnings
from typing import Any

from seqloom.files import PathLike

HINT = "pip install 'seqloom[plot]'"

INK, SOFT, GRID = "#1f2430", "#6b7280", "#e5e7eb"
BLUE, ORANGE, GREEN = "#2563eb", "#ea580c", "#059669"
_OTHER_SCRIPTS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "Hiragino Sans", "PingFang SC",
    "Microsoft YaHei", "Malgun Gothic", "Noto Sans", "Noto Sans Arabic", "Noto Sans Devanagari",
    "Noto Emoji",
)  # fmt: skip


def matplotlib(name: str) -> Any:
    """Import a module of matplotlib or say how to get it."""
    try:
        return importlib.import_module(f"matplotlib.{name}")
    except ImportError as error:
        raise ImportError(f"plot: needs matplotlib: {HINT}") from error


def new_figure(width: float, height: float) -> Any:
    """An empty figure of so many inches, known to no window."""
    figure = matplotlib("figure").Figure(figsize=(width, height), layout="constrained")
    # A canvas of its own: savefig works whatever the backend.
    matplotlib("backends.backend_agg").FigureCanvasAgg(figure)
    return figure


def save(figure: Any, path: PathLike | None, dpi: int) -> None:
    """Write a figure where a path is given."""
    if path is not None:
        with warnings.catch_warnings():
            # A character that no font has is drawn as a box, which says it all.
            warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)
            # Tight: a label at the rim that the layout has not foreseen is not cut.
            figure.savefig(
                os.fspath(path), dpi=dpi, facecolor="white", bbox_inches="tight", pad_inches=0.06
            )


def families() -> list[str]:
    """Fonts for tokens: the default one, then what this machine has for other scripts."""
    installed = {font.name for font in matplotlib("font_manager").fontManager.ttflist}
    return ["DejaVu Sans", *(name for name in _OTHER_SCRIPTS if name in installed)]
