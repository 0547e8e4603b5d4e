# SPDX-License-Identifier: Apache-2.0
"""A bar on stderr that says where a long run is; nothing at all where stderr is no terminal."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TextIO


class Progress:
    """``with Progress(total) as bar: bar.step("softmax 4096x768")``."""

    def __init__(self, total: int, stream: TextIO | None = None) -> None:
        self.total = max(1, total)
        self.stream = stream if stream is not None else sys.stderr
        self.live = bool(getattr(self.stream, "isatty", lambda: False)())
        self.done = 0
        self.start = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def show(self, label: str) -> None:
        """Say what is being worked on."""
        if not self.live:
            return
        width = min(100, shutil.get_terminal_size((100, 24)).columns) - 1
        filled = 24 * self.done // self.total
        bar = "#" * filled + "." * (24 - filled)
        text = f"[{bar}] {self.done}/{self.total}{self._left()}  {label}"
        self.stream.write("\r" + text[:width].ljust(width))
        self.stream.flush()

    def step(self) -> None:
        """One more is done."""
        self.done += 1

    def clear(self) -> None:
        """Wipe the line, so that results can be printed."""
        if self.live:
            width = min(100, shutil.get_terminal_size((100, 24)).columns) - 1
            self.stream.write("\r" + " " * width + "\r")
            self.stream.flush()

    def _left(self) -> str:
        if self.done == 0:
            return ""
        seconds = (time.monotonic() - self.start) / self.done * (self.total - self.done)
        return f"  {int(seconds) // 60}:{int(seconds) % 60:02d} left"
