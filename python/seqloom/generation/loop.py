# SPDX-License-Identifier: Apache-2.0
"""One token after the other: reading the prompt, and the loop of greedy search and sampling."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np

from ..autograd import no_grad
from ..dtypes import float32
from ..nn import Module
from ..tensor import Tensor
from .cache import Decodable, KVCache, State
from .graph import Steps
from .options import Options
from .processors import Processor
from .sampling import Sampler, log_sum_exp
from .stopping import StopStrings, hits

Ints: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]
Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]

FIRST_STEPS = 1024  # room for new tokens to begin with; doubled when it is used up


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """No dropout inside; after it the modules that were in training are so again, no others."""
    training = [m for m in model.modules() if m.training] if isinstance(model, Module) else []
    for m in training:
        m.training = False
    try:
        yield
    finally:
        for m in training:
            m.training = True


def feed(model: Decodable, state: State, ids: Ints, counts: Ints | None) -> Tensor:
    """One step of the model, unrecorded."""
    with no_grad():
        return model.decode(ids, state, counts)


def prefill(
    model: Decodable, state: State, rows: Ints, lengths: Ints, chunk: int
) -> Tensor | Floats:
    """Read rows[i, :lengths[i]] in pieces of `chunk` columns; logits after their last tokens."""
    width = rows.shape[1]
    if isinstance(state, KVCache):
        state.announced = int((state.lengths + lengths).max())
    even = bool((lengths == width).all())
    if even and width <= chunk:
        return feed(model, state, rows, None)
    logits: Tensor | None = None
    kept: Floats | None = None
    for first in range(0, width, chunk):
        piece = rows[:, first : first + chunk]
        counts = None if even else np.clip(lengths - first, 0, piece.shape[1])
        logits = feed(model, state, np.ascontiguousarray(piece), counts)
        if counts is None or piece.shape[1] == width:
            continue
        values = to_host(logits)
        if kept is None:
            kept = np.empty_like(values)
        kept[counts > 0] = values[counts > 0]
    assert logits is not None
    return logits if kept is None else kept


def to_host(logits: Tensor | Floats) -> Floats:
    """float32 [N, V] in memory that may be changed."""
    if isinstance(logits, np.ndarray):
        return logits
    if logits.dtype is not float32:
        logits = logits.to(dtype=float32)
    return logits.cpu().numpy()


class Loop:
    """Greedy search or sampling over N rows, with what they have written so far.

    Attributes
    ----------
    history : int64 [N, P + room], prompts then new tokens, -1 where there is none; room grows
    counts : int64 [N], new tokens of each row
    scores : float32 [N, room] or None, the model's log-probability of each new token
    """

    def __init__(
        self,
        owner: str,
        model: Decodable,
        o: Options,
        history: Ints,
        prompt: int,
        processors: list[Processor],
        stop: StopStrings | None,
        *,
        repeat: int,
        scores: bool,
        exact: bool,
    ) -> None:
        rows = history.shape[0]
        self.model, self.o = model, o
        self.history, self.prompt = history, prompt
        self.processors, self.stop, self.repeat = processors, stop, repeat
        self.sampler = Sampler(owner, o, rows)
        self.steps = Steps(model)
        self.counts: Ints = np.zeros(rows, np.int64)
        self.scores: Floats | None = None
        if scores:
            self.scores = np.zeros((rows, history.shape[1] - prompt), np.float32)
        # Rows that are over are fed filling that counts in the state, unless it is wanted later.
        self.exact = exact

    def _grow(self) -> None:
        """Room for as many tokens again: max_new_tokens may be far beyond what will be written."""
        rows, width = self.history.shape
        more = min(width - self.prompt, self.prompt + self.o.max_new_tokens - width)
        self.history = np.concatenate([self.history, np.full((rows, more), -1)], axis=1)
        if self.scores is not None:
            zeros = np.zeros((rows, more), np.float32)
            self.scores = np.concatenate([self.scores, zeros], axis=1)

    def _choose(self, logits: Tensor | Floats, at: int) -> Ints:
        plain = not self.o.do_sample and not self.processors and self.scores is None
        if plain and isinstance(logits, Tensor) and logits.is_cuda:
            return self.steps.likeliest(logits)
        values = to_host(logits)
        if self.scores is not None:
            base, raw = log_sum_exp(values), values
            if self.processors:
                raw = values.copy()
        for process in self.processors:
            changed = process(self.history[:, :at], values)
            values = values if changed is None else changed
        chosen = self.sampler(values)
        if self.scores is not None:
            step = at - self.prompt
            self.scores[:, step] = raw[np.arange(chosen.size), chosen] - base
        return chosen

    def run(self, state: State, logits: Tensor | Floats) -> Iterator[Ints]:
        """The new tokens [N] of each step, -1 for rows that are over.

        `state` has read the prompts, `logits` [N, V] come after them.
        """
        o = self.o
        rows = self.history.shape[0]
        done = np.zeros(rows, np.bool_)
        anyone_done = False
        for step in range(o.max_new_tokens):
            at = self.prompt + step
            if at == self.history.shape[1]:
                self._grow()
            history = self.history
            chosen = self._choose(logits, at)
            if anyone_done:
                history[~done, at] = chosen[~done]
                self.counts += ~done
                if self.scores is not None:
                    self.scores[done, step] = 0
                fed = np.where(done, o.fill, chosen)
            else:
                history[:, at] = fed = chosen
                self.counts += 1
            if o.eos:
                done |= hits(chosen, o.eos)
            if self.stop is not None:
                for row in np.flatnonzero(~done):
                    new = history[row, self.prompt : at + 1].tolist()
                    done[row] = self.stop(int(row) // self.repeat, new)
            anyone_done = bool(done.any())
            yield history[:, at]
            if step + 1 == o.max_new_tokens or (anyone_done and done.all()):
                return
            kept = None
            if self.exact and anyone_done:
                # The token that ended a row is not read either, so its state is one behind.
                kept = np.where(done, 0, 1)
            logits = self.steps(state, fed[:, None], kept)
