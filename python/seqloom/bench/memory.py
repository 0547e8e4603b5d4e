# SPDX-License-Identifier: Apache-2.0
"""Peak memory of one call: how far the resident set grows above where it was."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Callable
from typing import Any

STATUS = "/proc/self/status"


def _kibibytes(name: str) -> int | None:
    try:
        with open(STATUS, encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith(name):
                    return int(line.split()[1])
    except (OSError, IndexError, ValueError):
        pass
    return None


def _release() -> None:
    """Give free memory back, so that reuse of it is seen as growth."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)


def peak_of_call(call: Callable[[], Any], release: Callable[[], None] | None = None) -> int | None:
    """Bytes by which one call raises the resident set at its worst, its result included.

    ``release`` empties the library's own cache of buffers first. None where the system does not
    let a process reset its high-water mark.
    """
    if release is not None:
        release()
    _release()
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")
    except OSError:
        return None
    before = _kibibytes("VmRSS:")
    result = call()
    peak = _kibibytes("VmHWM:")
    del result
    if before is None or peak is None:
        return None
    return max(0, peak - before) * 1024
