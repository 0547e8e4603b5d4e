# SPDX-License-Identifier: Apache-2.0
"""Where the rows of a training go: a CSV file, TensorBoard, a bar on the terminal."""

from __future__ import annotations

import csv
import importlib
import io
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from ..files import PathLike, atomic_write, check_regular_file

Row = dict[str, Any]


def _cell(value: Any) -> str:
    # NumPy's numbers are floats whose repr says so.
    return repr(float(value)) if isinstance(value, float) else str(value)


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


class CSVLog:
    """Rows under named columns; every row is on its way to the disk when `write` returns.

    Examples
    --------
    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/log.csv"
    >>> with CSVLog(path, ["step", "loss"]) as log:
    ...     log.write({"step": 1, "loss": 2.5})
    >>> CSVLog.read(path)
    [{'step': 1, 'loss': 2.5}]
    """

    def __init__(self, path: PathLike, columns: Sequence[str], rows: Sequence[Row] = ()) -> None:
        """Begin a file with these rows, which replaces one that is there."""
        self.path = Path(path)
        self._begin([*columns, *(name for row in rows for name in row)], rows)

    def _begin(self, columns: Sequence[str], rows: Sequence[Row]) -> None:
        self.columns = list(dict.fromkeys(columns))
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(self.columns)
        for row in rows:
            writer.writerow([_cell(row[c]) if c in row else "" for c in self.columns])
        with atomic_write(self.path) as handle:
            handle.write(text.getvalue().encode("utf-8"))
        self._file: IO[str] = self.path.open("a", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file)

    @staticmethod
    def read(path: PathLike) -> list[Row]:
        """The rows of a file, without its empty cells; a last line that was cut is left out."""
        check_regular_file(path, "CSVLog.read")
        with open(path, newline="", encoding="utf-8", errors="replace") as handle:
            lines = list(csv.reader(handle))
        if not lines:
            return []
        names = lines[0]
        return [
            {n: _value(cell) for n, cell in zip(names, line, strict=True) if cell != ""}
            for line in lines[1:]
            if len(line) == len(names)
        ]

    def write(self, row: Row) -> None:
        """Append a row; columns that the file lacks are added to it."""
        fresh = [name for name in row if name not in self.columns]
        if fresh:
            held = self.read(self.path)
            self.close()
            self._begin([*self.columns, *fresh], held)
        try:
            self._writer.writerow([_cell(row[c]) if c in row else "" for c in self.columns])
            self._file.flush()
        except OSError as error:
            raise OSError(
                error.errno, f"cannot write {self.path}: {os.strerror(error.errno or 0)}"
            ) from error

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> CSVLog:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()


class TensorBoardLog:
    """Scalars for TensorBoard, through the `tensorboardX` package.

    Parameters
    ----------
    directory
        Of the event files.
    step
        Steps that were done before; events of later ones are hidden.
    """

    def __init__(self, directory: PathLike, step: int = 0) -> None:
        try:
            module = importlib.import_module("tensorboardX")
        except ImportError as error:
            raise ImportError(
                "TensorBoardLog: needs tensorboardX: pip install 'seqloom[log]'"
            ) from error
        more = {"purge_step": step + 1} if step else {}
        self._writer = module.SummaryWriter(os.fspath(directory), **more)

    def write(self, row: Row) -> None:
        for name, value in row.items():
            if name != "step" and isinstance(value, (int, float)):
                group = "eval" if name.startswith("eval_") else "train"
                self._writer.add_scalar(f"{group}/{name.removeprefix('eval_')}", value, row["step"])
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def _width() -> dict[str, Any]:
    """The bar follows the terminal; one that doesn't know its width gets the usual 80."""
    try:
        known = os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except (AttributeError, OSError, ValueError):  # not a terminal: there is no bar
        known = True
    return {"dynamic_ncols": True} if known else {"ncols": 80, "nrows": 24}


class Progress:
    """A bar with loss, speed and time left; nothing where stderr is no terminal."""

    def __init__(self, total: int | None, seconds: float | None, start: int, show: bool | None):
        tqdm = importlib.import_module("tqdm").tqdm
        self._timed = total is None and seconds is not None
        left = "{remaining} left" if total is not None or self._timed else "{elapsed}"
        share = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}" if "left" in left else "{n_fmt}"
        self._bar = tqdm(
            total=round(seconds) if self._timed and seconds is not None else total,
            initial=0 if self._timed else start,
            desc="training",
            unit="s" if self._timed else "step",
            disable=None if show is None else not show,
            **_width(),
            leave=False,
            file=sys.stderr,
            bar_format="{desc} " + share + " {unit}  " + left + "{postfix}",
        )
        self._speed = 0.0
        self._loss = math.nan

    def update(self, step: int, elapsed: float, loss: float, tokens: float, seconds: float) -> None:
        """A step was done: `tokens` in `seconds`."""
        if self._bar.disable:
            return
        fresh = tokens / max(seconds, 1e-9)
        first = not self._speed
        self._speed = fresh if first else 0.95 * self._speed + 0.05 * fresh
        self._loss = loss if math.isnan(self._loss) else 0.9 * self._loss + 0.1 * loss
        text = f"loss {self._loss:.3f}, {self._speed:,.0f} tokens/s"
        self._bar.set_postfix_str(text, refresh=False)
        now = min(round(elapsed), self._bar.total) if self._timed else step
        self._bar.update(now - self._bar.n)

    def close(self) -> None:
        self._bar.close()
