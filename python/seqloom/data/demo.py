# SPDX-License-Identifier: Apache-2.0
"""The bundled demo text: small stories of our own, free to use as the rest of the package."""

from __future__ import annotations

from importlib.resources import files


def demo_text() -> str:
    """The text that `seqloom demo` learns from: short fables and dialogues, about 100 KB.

    Examples
    --------
    >>> text = demo_text()
    >>> len(text) > 50_000, text.isascii()
    (True, True)
    """
    return files("seqloom").joinpath("assets", "demo.txt").read_text(encoding="utf-8")
