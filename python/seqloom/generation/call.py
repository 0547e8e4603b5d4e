# SPDX-License-Identifier: Apache-2.0
"""One call of generate or stream: what goes in, checked, and what comes out."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from ..autograd import no_grad
from .beam import BeamSearch
from .cache import State
from .loop import FIRST_STEPS, Loop, prefill, to_host
from .options import Options, integer, resolve
from .processors import Processor, build
from .prompts import Prompts, as_ids, as_mask
from .stopping import StopStrings

Ints: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]
Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]

PREFILL_CHUNK = 2048
# Room in the caches to begin with; beyond it they double.
_FIRST_ROOM = 4096


def _physical_memory() -> int:
    """Bytes of memory that the machine has; 2^40 where it doesn't tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 1 << 40


@dataclass
class Memory:
    """What ``generate(..., return_state=True)`` gives: the model's state and the tokens in it.

    Handed to the next call as ``state=``, it spares reading what both prompts begin with. That
    call goes on writing into the same state, so it can be handed over once.
    """

    state: State
    tokens: list[Ints] = field(default_factory=list)
    model: Any = field(default=None, repr=False)
    used: bool = False

    def keep_common(self, prompts: Prompts) -> Ints | None:
        """Forget all but what the prompts begin with too; how much that is, None if impossible."""
        common = []
        for held, row, n in zip(self.tokens, prompts.rows, prompts.lengths.tolist(), strict=True):
            m = min(held.size, n - 1)  # the last token must be read again for its logits
            differ = np.flatnonzero(held[:m] != row[:m])
            common.append(int(differ[0]) if differ.size else m)
        kept = np.array(common, np.int64)
        if (kept < self.state.lengths).any():
            try:
                self.state.truncate(kept)
            except RuntimeError:  # a recurrent state can't go back
                return None
        return kept


class Call:
    """The checked arguments of a call."""

    def __init__(
        self,
        owner: str,
        model: Any,
        input_ids: Any,
        attention_mask: Any,
        arguments: dict[str, Any],
        stop: Any,
        tokenizer: Any,
        decoder_input_ids: Any,
        memory: Memory | None,
        prefill_chunk: Any,
    ) -> None:
        self.owner, self.model = owner, model
        self.encoder_decoder = model._is_encoder_decoder()
        read, written = model._vocabularies()
        ids = as_ids(owner, "input_ids", input_ids, read)
        mask = as_mask(owner, attention_mask, ids.shape)
        self.batch = ids.shape[0]
        self.encoder_inputs: dict[str, Any] = {}
        chunk = PREFILL_CHUNK if prefill_chunk is None else prefill_chunk
        self.chunk = integer(owner, "prefill_chunk", chunk, 1)
        if self.encoder_decoder:
            self.encoder_inputs = {"input_ids": ids, "attention_mask": mask}
            begun = decoder_input_ids
            width = 1
            if begun is not None:
                begun = as_ids(owner, "decoder_input_ids", begun, written)
                if begun.shape[0] != self.batch:
                    raise ValueError(
                        f"{owner}: decoder_input_ids must have {self.batch} rows, got"
                        f" {begun.shape[0]}"
                    )
                width = begun.shape[1]
        else:
            if decoder_input_ids is not None:
                raise TypeError(f"{owner}: decoder_input_ids is for encoder-decoders only")
            self.prompts = Prompts.make(ids, mask)
            width = self.prompts.width
        self.o: Options = resolve(
            owner, model, arguments, prompt=width, longest=model.max_positions,
            vocabulary=written, encoder_decoder=self.encoder_decoder,
        )  # fmt: skip
        self._check_memory(written)
        if self.encoder_decoder:
            if begun is None:
                if self.o.decoder_start is None:
                    raise ValueError(f"{owner}: decoder_start_token_id must be given, got None")
                begun = np.full((self.batch, 1), self.o.decoder_start, np.int64)
            self.prompts = Prompts.make(begun, None)
        self.stop: StopStrings | None = None
        if stop is not None:
            self.stop = StopStrings(owner, stop, tokenizer, self.batch)
        self.given = self._accept(memory)

    def _check_memory(self, vocabulary: int | None) -> None:
        """Refuse more rows than the machine could hold, before it begins to swap."""
        o = self.o
        name = "num_beams" if o.num_beams > 1 else "num_return_sequences"
        per_prompt = max(o.num_beams, o.num_return_sequences)
        if per_prompt == 1:
            return
        # Logits as they come, widened, scored and ranked; text, as running and finished beams.
        text = min(o.max_new_tokens, FIRST_STEPS)
        row = (vocabulary or 1) * 16 + text * (48 if o.num_beams > 1 else 8)
        needed = self.batch * per_prompt * row
        if needed > _physical_memory():
            raise MemoryError(
                f"{self.owner}: {name} = {per_prompt} needs some {needed} bytes for {self.batch}"
                f" prompts, more than the {_physical_memory()} of this machine"
            )

    def _accept(self, memory: Any) -> Memory | None:
        if memory is None:
            return None
        if not isinstance(memory, Memory):
            raise TypeError(
                f"{self.owner}: state must be what return_state gave, got {type(memory).__name__}"
            )
        if self.encoder_decoder:
            raise ValueError(f"{self.owner}: state can't be used with encoder-decoders")
        if len(memory.tokens) != self.batch:
            raise ValueError(
                f"{self.owner}: state must have {self.batch} rows, got {len(memory.tokens)}"
            )
        if memory.model is not self.model:
            raise ValueError(f"{self.owner}: state must be that of this model, got another's")
        self._check_unused(memory)
        return memory

    def _check_unused(self, memory: Memory) -> None:
        if memory.used:
            raise ValueError(f"{self.owner}: state must be new, got one that a call has used up")

    def read(self) -> tuple[State, Any]:
        """A state that has read the prompts, and the logits [N, V] after them."""
        rows, lengths = self.prompts.rows, self.prompts.lengths
        if self.given is not None:
            self._check_unused(self.given)
            self.given.used = True
            kept = self.given.keep_common(self.prompts)
            if kept is not None:
                state = self.given.state
                rest = lengths - kept
                late = np.zeros((self.batch, int(rest.max())), np.int64)
                for i, (k, n) in enumerate(zip(kept.tolist(), rest.tolist(), strict=True)):
                    late[i, :n] = rows[i, k : k + n]
                return self._expanded(state, prefill(self.model, state, late, rest, self.chunk))
        total = self.prompts.width + self.o.max_new_tokens
        capacity = min(total, max(_FIRST_ROOM, 2 * self.prompts.width))
        with no_grad():
            state = self.model.start(self.batch, capacity=capacity, **self.encoder_inputs)
        return self._expanded(state, prefill(self.model, state, rows, lengths, self.chunk))

    def _expanded(self, state: State, logits: Any) -> tuple[State, Any]:
        """A row for each draw."""
        n = self.o.num_return_sequences
        if n == 1 or self.o.num_beams > 1:
            return state, logits
        order = np.repeat(np.arange(self.batch), n)
        state.reorder(order)
        return state, to_host(logits)[order]

    def loop(self, *, scores: bool, exact: bool) -> Loop:
        """Greedy search or sampling, which begins with what :meth:`read` gives."""
        repeat = self.o.num_return_sequences
        history = self.prompts.history(min(self.o.max_new_tokens, FIRST_STEPS))
        if repeat > 1:
            history = np.repeat(history, repeat, axis=0)
        return Loop(
            self.owner, self.model, self.o, history, self.prompts.width, self._processors(),
            self.stop, repeat=repeat, scores=scores, exact=exact,
        )  # fmt: skip

    def beams(self) -> tuple[Ints, Ints, Floats]:
        """Tokens [N, steps] of a beam search, how many count, and their log-probabilities."""
        state, logits = self.read()
        prompts = self.prompts.history(0)
        search = BeamSearch(
            self.owner, self.model, state, self.o, prompts, self._processors(), self.stop
        )
        return search.run(logits)

    def _processors(self) -> list[Processor]:
        return build(self.owner, self.o, self.prompts.width, self.encoder_decoder)

    def result(self, tokens: Ints, counts: Ints) -> Ints:
        """What generate gives back, from new tokens [N, steps] of which counts[i] are valid."""
        if self.encoder_decoder:
            steps = int(counts.max(initial=0))
            return np.where(np.arange(steps) < counts[:, None], tokens[:, :steps], self.o.fill)
        return self.prompts.joined(tokens, counts, self.o.fill, tokens.shape[0] // self.batch)

    def memory(self, state: State, loop: Loop) -> Memory:
        """The state with the tokens that it has read."""
        repeat = self.o.num_return_sequences
        held = []
        for i, n in enumerate(state.lengths.tolist()):
            before = int(self.prompts.lengths[i // repeat])
            row = loop.history[i, self.prompts.width - before :]
            held.append(row[:n].copy())
        return Memory(state, held, self.model)
