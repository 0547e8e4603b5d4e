# SPDX-License-Identifier: Apache-2.0
"""When a row is over: end tokens, and strings in its text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

Ints: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]


def _strings(owner: str, value: Any) -> tuple[str, ...]:
    given = (value,) if isinstance(value, str) else value
    if not isinstance(given, (list, tuple)):
        raise TypeError(f"{owner}: stop must be strings, got {type(value).__name__}")
    for s in given:
        if not isinstance(s, str):
            raise TypeError(f"{owner}: stop must be strings, got {type(s).__name__}")
        if not s:
            raise ValueError(f"{owner}: stop must not hold an empty string")
    return tuple(given)


class StopStrings:
    """Strings that end the row in whose new text they come up.

    Parameters
    ----------
    stop : str, sequence of str, or one sequence of str for each row
    tokenizer
        Its ``decode(ids)`` gives the text.
    rows : int
        Prompts of the batch.
    """

    def __init__(self, owner: str, stop: Any, tokenizer: Any, rows: int) -> None:
        if isinstance(stop, (list, tuple)) and any(isinstance(s, (list, tuple)) for s in stop):
            if len(stop) != rows:
                raise ValueError(
                    f"{owner}: stop must have one list for each of {rows} rows, got {len(stop)}"
                )
            self.strings: list[tuple[str, ...]] = [_strings(owner, s) for s in stop]
        else:
            self.strings = [_strings(owner, stop)] * rows
        if tokenizer is None:
            raise ValueError(f"{owner}: tokenizer must be given with stop, got None")
        if not callable(getattr(tokenizer, "decode", None)):
            raise TypeError(
                f"{owner}: tokenizer must have a method decode, got {type(tokenizer).__name__}"
            )
        self.owner, self.tokenizer = owner, tokenizer
        # A token is a byte or more, but special ones, which may be no text at all.
        longest = max((len(s.encode()) for of_row in self.strings for s in of_row), default=0)
        self._window = 16 + 2 * longest

    def __call__(self, row: int, new: Sequence[int]) -> bool:
        """Whether the new tokens of prompt `row` hold one of its strings."""
        wanted = self.strings[row]
        if not wanted:
            return False
        text = self.tokenizer.decode(list(new[-self._window :]))
        if not isinstance(text, str):
            raise TypeError(
                f"{self.owner}: tokenizer must decode to a string, got {type(text).__name__}"
            )
        return any(s in text for s in wanted)


def hits(tokens: Ints, eos: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Where a token is one of the end tokens."""
    if not eos:
        return np.zeros(tokens.shape, np.bool_)
    out: np.ndarray[Any, np.dtype[np.bool_]] = tokens == eos[0]
    for e in eos[1:]:
        out |= tokens == e
    return out
