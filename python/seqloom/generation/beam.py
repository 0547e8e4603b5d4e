# SPDX-License-Identifier: Apache-2.0
"""Beam search: the best continuations of each prompt by the sum of their log-probabilities.

The rules are those of transformers, so that results agree: of the 2 k best candidates (more with
several end tokens) those that end compete, divided by length^length_penalty, for k places, when
they are among the first k; the best k of the others go on. A prompt is over when no running beam
could still beat its worst finished one, under the heuristic that `early_stopping` selects.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from ..dtypes import float32
from ..ops import log_softmax
from ..tensor import Tensor, from_numpy
from .cache import Decodable, State
from .graph import Steps
from .loop import FIRST_STEPS, to_host
from .options import Options
from .processors import Processor
from .sampling import Sampler, candidates, largest
from .stopping import StopStrings, hits

Ints: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]
Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]

_NEVER = np.float32(-1e9)


@dataclass
class Beams:
    """Candidates of every prompt: tokens [B, K, steps], what each token scored, their number."""

    tokens: Ints
    scores: Floats
    counts: Ints

    def pick(self, index: Ints) -> Beams:
        """Candidate index[b, i] of each prompt b."""
        at = np.arange(index.shape[0])[:, None]
        return Beams(self.tokens[at, index], self.scores[at, index], self.counts[at, index])

    def wider(self, room: int, fill: int) -> Beams:
        """The same with room for so many more steps."""
        batch, k, _ = self.tokens.shape
        return Beams(
            np.concatenate([self.tokens, np.full((batch, k, room), fill)], axis=2),
            np.concatenate([self.scores, np.zeros((batch, k, room), np.float32)], axis=2),
            self.counts,
        )

    def beside(self, other: Beams) -> Beams:
        return Beams(
            np.concatenate([self.tokens, other.tokens], axis=1),
            np.concatenate([self.scores, other.scores], axis=1),
            np.concatenate([self.counts, other.counts], axis=1),
        )


def _order(scores: Floats, k: int) -> Ints:
    """[B, k]: the best first."""
    out: Ints = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return out


class BeamSearch:
    """A search over B prompts with num_beams beams each."""

    def __init__(
        self,
        owner: str,
        model: Decodable,
        state: State,
        o: Options,
        prompts: Ints,
        processors: list[Processor],
        stop: StopStrings | None,
    ) -> None:
        self.model, self.state, self.o = model, state, o
        self.prompts = prompts  # [B, P]: the history before the first step
        self.processors, self.stop = processors, stop
        self.sampler = Sampler(owner, o, prompts.shape[0])
        self.steps = Steps(model)

    def _log_probs(self, logits: Tensor | Floats) -> Floats:
        t = from_numpy(logits) if isinstance(logits, np.ndarray) else logits
        return to_host(log_softmax(t.to(dtype=float32)))

    def _check(self, flat: Floats, is_final: np.ndarray[Any, np.dtype[np.bool_]]) -> None:
        """Refuse candidates [B, K V] that are no numbers, or none where there's no answer yet."""
        top = flat.max(axis=1)
        for b in np.flatnonzero(~np.isfinite(top)):
            if not np.isneginf(top[b]) or not is_final[b].any():
                self.sampler.refuse(flat, int(b))

    def _best(self, flat: Floats, k: int) -> tuple[Floats, Ints]:
        """The k best of [B, K V] (or k draws without replacement), best first."""
        chosen = np.empty((flat.shape[0], k), np.int64)
        for b, row in enumerate(flat):
            if self.o.do_sample:  # the largest of log p + Gumbel noise are such draws
                alive = np.flatnonzero(np.isfinite(row))
                noise = self.sampler.streams[b].gumbel(size=alive.size).astype(np.float32)
                found = alive[largest(row[alive] + noise, k)]
                if found.size < k:
                    rest = np.setdiff1d(np.arange(row.size), found)[: k - found.size]
                    found = np.concatenate([found, rest])
                chosen[b] = found
            else:
                chosen[b] = largest(row, k)
        return np.take_along_axis(flat, chosen, axis=1), chosen

    def _stops(self, new: Ints) -> np.ndarray[Any, np.dtype[np.bool_]]:
        assert self.stop is not None
        batch, k, _ = new.shape
        return np.array(
            [[self.stop(b, new[b, i].tolist()) for i in range(k)] for b in range(batch)]
        )

    def run(self, logits: Tensor | Floats) -> tuple[Ints, Ints, Floats]:
        """Tokens [B R, room], their counts and log-probabilities; logits [B, V] of the prompts."""
        o, batch, beams = self.o, self.prompts.shape[0], self.o.num_beams
        steps = o.max_new_tokens
        k = min(max(2, 1 + len(o.eos)), int(logits.shape[1])) * beams
        rows = np.arange(batch)[:, None]

        room = min(steps, FIRST_STEPS)
        running = Beams(
            np.full((batch, beams, room), o.fill, np.int64),
            np.zeros((batch, beams, room), np.float32),
            np.zeros((batch, beams), np.int64),
        )
        finished = running
        totals = np.zeros((batch, beams), np.float32)
        totals[:, 1:] = _NEVER  # the beams begin alike: only the first counts
        final = np.full((batch, beams), _NEVER)
        is_final = np.zeros((batch, beams), np.bool_)
        hopeful = np.ones((batch, 1), np.bool_)
        prompts = np.repeat(self.prompts, beams, axis=0)

        raw = np.repeat(self._log_probs(logits), beams, axis=0)
        self.state.reorder(np.repeat(np.arange(batch), beams))
        for step in range(steps):
            if step == room:
                more = min(room, steps - room)
                running, finished = running.wider(more, o.fill), finished.wider(more, o.fill)
                room += more
            scored = self._processed(raw, prompts, running.tokens, step)
            vocabulary = scored.shape[1]
            summed = scored.reshape(batch, beams, vocabulary) + totals[:, :, None]
            flat = summed.reshape(batch, beams * vocabulary)
            self._check(flat, is_final)
            best, places = self._best(flat, k)
            parent, token = places // vocabulary, places % vocabulary

            found = running.pick(parent)
            found.tokens[:, :, step] = token
            found.scores[:, :, step] = raw[rows * beams + parent, token]
            found.counts += 1
            ends = hits(token, o.eos)
            if step + 1 == steps:
                ends[:] = True
            elif self.stop is not None:
                ends |= self._stops(found.tokens[:, :, : step + 1])

            going: Floats = best + np.where(ends, _NEVER, np.float32(0))
            order = _order(going, beams)
            running, totals = found.pick(order), np.take_along_axis(going, order, axis=1)
            parent = np.take_along_axis(parent, order, axis=1)

            ended = ends & (np.arange(k) < beams)
            worth = best / np.float32((step + 1) ** o.length_penalty)
            full = is_final.all(axis=1, keepdims=True) & (o.early_stopping is True)
            worth = worth + full * _NEVER + ~hopeful * _NEVER + ~ended * _NEVER
            merged = np.concatenate([final, worth], axis=1)
            order = _order(merged, beams)
            finished = finished.beside(found).pick(order)
            final = np.take_along_axis(merged, order, axis=1)
            both = np.concatenate([is_final, ended], axis=1)
            is_final = np.take_along_axis(both, order, axis=1)

            never = o.early_stopping == "never" and o.length_penalty > 0
            length = steps if never else step + 1
            possible = totals[:, :1] / np.float32(length**o.length_penalty)
            worst = np.where(is_final, final.min(axis=1, keepdims=True), _NEVER)
            hopeful = hopeful & (possible > worst).any(axis=1, keepdims=True)
            if ends.all() or not hopeful.any():
                break
            if o.early_stopping is True and is_final.all():
                break
            self.state.reorder((rows * beams + parent).ravel())
            last = np.ascontiguousarray(running.tokens[:, :, step].reshape(-1, 1))
            raw = self._log_probs(self.steps(self.state, last, None))

        kept = finished.pick(np.tile(np.arange(o.num_return_sequences), (batch, 1)))
        return kept.tokens.reshape(-1, room), kept.counts.ravel(), kept.scores.reshape(-1, room)

    def _processed(self, raw: Floats, prompts: Ints, tokens: Ints, step: int) -> Floats:
        """Log-probabilities as the options want them; `raw` itself when they want nothing."""
        o = self.o
        scored = raw
        if self.processors:
            new = tokens[:, :, :step].reshape(prompts.shape[0], step)
            history = np.concatenate([prompts, new], axis=1)
            scored = raw.copy()
            for process in self.processors:
                changed = process(history, scored)
                scored = scored if changed is None else changed
        if o.do_sample:
            cut = np.full_like(scored, -np.inf)
            for row, x in zip(cut, scored, strict=True):
                ids, _ = candidates(x, 1.0, o.top_k, o.top_p, o.min_p)
                ids = np.arange(x.size) if ids is None else ids
                row[ids] = x[ids] / np.float32(o.temperature)
            scored = cut
        return scored
