# SPDX-License-Identifier: Apache-2.0
"""Text from tokens as they come, character by whole character."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from seqloom.text.tokenizer import Tokenizer

_REPLACEMENT = "\ufffd"
# A character has at most four bytes, so at most three of them can wait for the rest.
_MAX_PENDING = 3
# The window is shortened when it is longer than this; what stays behind gives the context.
_WINDOW, _CONTEXT = 24, 8


class IncrementalDecoder:
    """Decode a stream of token ids; bytes of an unfinished character wait for the rest.

    The pieces that `push` and `finish` give are, put together, what `Tokenizer.decode` gives for
    all the ids at once.

    Parameters
    ----------
    tokenizer
        Whose ids they are.
    skip_special_tokens
        Leave special tokens out.

    Examples
    --------
    >>> tokenizer = Tokenizer.train_from_texts(["snow"], kind="bpe", vocab_size=260)
    >>> decoder = IncrementalDecoder(tokenizer)
    >>> [decoder.push(i) for i in tokenizer.encode("o\\u2603")]  # the snowman is three bytes
    ['o', '', '', '\\u2603']
    >>> decoder.finish()
    ''
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip = skip_special_tokens
        self._skipped = frozenset(tokenizer.special_ids if skip_special_tokens else ())
        self._ids: list[int] = []
        self._emitted = 0  # characters of the window's text that were given out

    def _text(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=self._skip) if ids else ""

    def push(self, ids: Any) -> str:
        """Take one id or several; returns the text that they complete."""
        new = [int(i) for i in np.asarray(ids, dtype=np.int64).reshape(-1)]
        self._ids.extend(i for i in new if i not in self._skipped)
        text = self._text(self._ids)
        whole = text.rstrip(_REPLACEMENT)
        waiting = min(len(text) - len(whole), _MAX_PENDING)
        end = len(text) - waiting
        piece = text[self._emitted : end]
        self._emitted = max(self._emitted, end)
        if len(self._ids) > _WINDOW:
            self._shorten(text, waiting)
        return piece

    def _shorten(self, text: str, waiting: int) -> None:
        """Forget the oldest ids where the rest still decodes to the end of the text."""
        kept = self._ids[-_CONTEXT:]
        tail = self._text(kept)
        if len(tail) > waiting and text.endswith(tail):
            self._ids, self._emitted = kept, len(tail) - waiting

    def finish(self) -> str:
        """The rest, unfinished characters as U+FFFD; the decoder is fresh after that."""
        piece = self._text(self._ids)[self._emitted :]
        self._ids, self._emitted = [], 0
        return piece

    def stream(self, ids: Iterable[Any]) -> Iterator[str]:
        """Decode an iterable of ids, yielding text as soon as it is complete.

        Examples
        --------
        >>> tokenizer = Tokenizer.train_from_texts(["abc"], kind="char")
        >>> list(IncrementalDecoder(tokenizer).stream(tokenizer.encode("cab")))
        ['c', 'a', 'b']
        """
        for number in ids:
            piece = self.push(number)
            if piece:
                yield piece
        rest = self.finish()
        if rest:
            yield rest
