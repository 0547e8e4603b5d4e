# SPDX-License-Identifier: Apache-2.0
"""What changes logits before a token is chosen.

A processor is called with ``(history, logits)``: history int64 [N, L], the tokens of each row so
far, prompt included, with -1 before the first token of a shorter row; logits float32 [N, V], its
own to change. It gives the logits to go on with (None: those that it was given).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from .options import Options

Ints: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]
Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]
Processor: TypeAlias = Callable[[Ints, Floats], "Floats | None"]

_OUT = np.float32(-np.inf)


class RepetitionPenalty:
    """Tokens of the history: positive logits are divided by the penalty, negative multiplied.

    >>> import numpy as np
    >>> logits = np.array([[2.0, 2.0, -2.0]], np.float32)
    >>> RepetitionPenalty(2.0)(np.array([[0, 2]]), logits).tolist()
    [[1.0, 2.0, -4.0]]
    """

    def __init__(self, penalty: float) -> None:
        self.penalty = np.float32(penalty)

    def __call__(self, history: Ints, logits: Floats) -> Floats:
        for row, seen in zip(logits, history, strict=True):
            ids = seen[seen >= 0]
            x = row[ids]
            row[ids] = np.where(x < 0, x * self.penalty, x / self.penalty)
        return logits


class NoRepeatNGram:
    """No sequence of n tokens occurs twice.

    >>> import numpy as np
    >>> NoRepeatNGram(2)(np.array([[1, 2, 1]]), np.zeros((1, 3), np.float32)).tolist()
    [[0.0, 0.0, -inf]]
    """

    def __init__(self, n: int) -> None:
        self.n = n

    def __call__(self, history: Ints, logits: Floats) -> Floats:
        n = self.n
        for row, seen in zip(logits, history, strict=True):
            ids = seen[seen >= 0]
            if ids.size < n:
                continue
            grams = np.lib.stride_tricks.sliding_window_view(ids, n)
            again = (grams[:, :-1] == ids[ids.size - n + 1 :]).all(axis=1)
            row[grams[again, -1]] = _OUT
        return logits


class BadWords:
    """Words, given as their tokens, that are never completed."""

    def __init__(self, words: Sequence[Sequence[int]]) -> None:
        self.single = np.array([w[0] for w in words if len(w) == 1], np.int64)
        self.longer = [np.array(w, np.int64) for w in words if len(w) > 1]

    def __call__(self, history: Ints, logits: Floats) -> Floats:
        logits[:, self.single] = _OUT
        for word in self.longer:
            n = word.size - 1
            if history.shape[1] >= n:
                begun = (history[:, -n:] == word[:-1]).all(axis=1)
                logits[begun, word[-1]] = _OUT
        return logits


class Suppress:
    """Tokens that are not chosen in the steps from `first` up to `end`; `prompt` is step 0."""

    def __init__(
        self, tokens: Sequence[int], prompt: int = 0, first: int = 0, end: int | None = None
    ) -> None:
        self.tokens = np.array(tokens, np.int64)
        self.first = prompt + first
        self.end = None if end is None else prompt + end

    def __call__(self, history: Ints, logits: Floats) -> Floats:
        at = history.shape[1]
        if at >= self.first and (self.end is None or at < self.end):
            logits[:, self.tokens] = _OUT
        return logits


class Forced:
    """At one step nothing but `tokens` may be chosen."""

    def __init__(self, tokens: Sequence[int], at: int) -> None:
        self.tokens, self.at = np.array(tokens, np.int64), at

    def __call__(self, history: Ints, logits: Floats) -> Floats:
        if history.shape[1] == self.at:
            logits[:] = _OUT
            logits[:, self.tokens] = 0
        return logits


class Checked:
    """A user's processor, whose result is looked at."""

    def __init__(self, owner: str, processor: Callable[..., Any]) -> None:
        self.owner, self.processor = owner, processor

    def __call__(self, history: Ints, logits: Floats) -> Floats:
        seen = history.view()
        seen.flags.writeable = False  # it is the text itself
        out = self.processor(seen, logits)
        if out is None:
            return logits
        a = np.asarray(out)
        if a.shape != logits.shape:
            raise ValueError(
                f"{self.owner}: logits_processors must give shape {list(logits.shape)}, got"
                f" {list(a.shape)}"
            )
        if a.dtype.kind not in "fiu":
            raise TypeError(
                f"{self.owner}: logits_processors must give floating logits, got {a.dtype}"
            )
        return a if a.dtype == np.float32 and a.flags.writeable else a.astype(np.float32)


def build(owner: str, o: Options, prompt: int, encoder_decoder: bool) -> list[Processor]:
    """The processors that these options ask for; `prompt` is the length of the history at first."""
    out: list[Processor] = []
    if o.repetition_penalty != 1.0:
        out.append(RepetitionPenalty(o.repetition_penalty))
    if o.no_repeat_ngram_size:
        out.append(NoRepeatNGram(o.no_repeat_ngram_size))
    words = [w for w in o.bad_words if not (len(w) == 1 and w[0] in o.eos)]
    if words:
        out.append(BadWords(words))
    if o.min_new_tokens and o.eos:
        out.append(Suppress(o.eos, prompt, 0, o.min_new_tokens))
    if o.forced_bos is not None and encoder_decoder and prompt == 1:
        out.append(Forced([o.forced_bos], prompt))
    if o.forced_eos:
        out.append(Forced(o.forced_eos, prompt + o.max_new_tokens - 1))
    if o.suppress:
        out.append(Suppress(o.suppress))
    if o.begin_suppress:
        begin = 1 if o.forced_bos is not None and encoder_decoder and prompt == 1 else 0
        out.append(Suppress(o.begin_suppress, prompt, begin, begin + 1))
    out += [Checked(owner, p) for p in o.processors]
    return out
