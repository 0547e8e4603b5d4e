# SPDX-License-Identifier: Apache-2.0
"""Seq2Seq: recurrent encoder and decoder, with Bahdanau's, Luong's or no attention.

How the decoder goes through a target that is known (teacher forcing), d layers, words y_t:

* none (Sutskever et al. 2014): the RNN in one call.
* Luong's (2015): the RNN in one call; all its outputs look at the memory at once, and
  ``tanh(combine [context ; output])`` goes to the head. With `input_feeding` that vector is part
  of the next step's input, so it goes step by step.
* Bahdanau's (2015): the context of step t depends on the state of t - 1 and is part of its
  input, so the first layer is a true loop; ``ops._attentive_rnn`` runs it as one op. Layers above
  read its outputs (as in Wu et al. 2016), each in one call.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from .. import ops
from ..autograd import no_grad
from ..creation import rand, zeros
from ..nn import AdditiveAttention, DotAttention, Embedding, Linear, Module, init
from ..ops._attentive_rnn import attentive_rnn
from ..tensor import Tensor, from_numpy
from .config import Config
from .encoder_decoder import BetweenVocabularies
from .inputs import as_ids
from .layers import dropped
from .recurrent import CELLS, Ints, Packing, RecurrentState, States, initialise, new_rnn, run_rnn

ATTENTION = (None, "bahdanau", "luong-dot", "luong-general", "luong-concat")


@dataclass
class Seq2SeqConfig(Config):
    """See :class:`Seq2Seq`."""

    model_type: ClassVar[str] = "seqloom-seq2seq"
    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {"cell": CELLS, "attention": ATTENTION}

    src_vocab_size: int = 0
    tgt_vocab_size: int = 0
    embed_dim: int = 256
    hidden_size: int = 256
    num_layers: int = 1
    cell: str = "gru"
    bidirectional: bool = True
    attention: str | None = "bahdanau"
    dropout: float = 0.0
    input_feeding: bool = False
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = None
    decoder_start_token_id: int | None = None

    def check(self) -> None:
        if self.input_feeding and not (self.attention or "").startswith("luong"):
            self.refuse("input_feeding", f"be False with attention = {self.attention!r}")


@dataclass
class Source:
    """What the decoder sees of its encoder.

    Attributes
    ----------
    memory : [B, S, M]
    lengths : int64 [B] or None
    keys, values : [B, S, A], [B, S, G H] or None
        The memory projected for Bahdanau's scores, and into the gates.
    rows : int64 [B]
        The source that each row belongs to: beams share one.
    """

    memory: Tensor
    lengths: Ints | None
    keys: Tensor | None
    values: Tensor | None
    rows: Ints

    def key_lengths(self) -> Tensor | None:
        return None if self.lengths is None else from_numpy(self.lengths)

    def select(self, rows: Ints) -> Source:
        wanted = self.rows[rows]
        if np.array_equal(wanted, self.rows):
            return self
        at = from_numpy(rows).to(device=self.memory.device)
        picked = [
            None if t is None else t.index_select(0, at)
            for t in (self.memory, self.keys, self.values)
        ]
        assert picked[0] is not None
        lengths = None if self.lengths is None else self.lengths[rows]
        return Source(picked[0], lengths, picked[1], picked[2], wanted)


class Seq2SeqState(RecurrentState):
    """A RecurrentState with its source, and the vector that input feeding carries on, [B, H]."""

    def __init__(self, batch: int, hidden: States, source: Source, fed: Tensor | None) -> None:
        super().__init__(batch, hidden)
        self.source, self.fed = source, fed

    def _carried(self) -> States:
        return super()._carried() + (() if self.fed is None else (self.fed,))

    def _carry(self, tensors: States) -> None:
        assert self.hidden is not None
        self.hidden = tensors[: len(self.hidden)]
        if self.fed is not None:
            self.fed = tensors[-1]

    def reorder(self, rows: Any) -> None:
        """Row i becomes what row ``rows[i]`` was."""
        super().reorder(rows)
        index = np.ascontiguousarray(rows, np.int64)
        before = self.source
        self.source = before.select(index)
        if self.source is not before:
            self._room = object()
        if self.fed is not None:
            self.fed = self.fed.index_select(0, from_numpy(index).to(device=self.fed.device))


class Seq2Seq(BetweenVocabularies):
    """A recurrent encoder-decoder for translation and other sequence-to-sequence tasks.

    Parameters
    ----------
    src_vocab_size, tgt_vocab_size : int
    embed_dim, hidden_size, num_layers : int
    cell : {"gru", "lstm", "rnn"}
    bidirectional : bool
        Of the encoder; ``tanh(bridge [forward ; backward])`` of its last states starts the decoder.
    attention : {"bahdanau", "luong-dot", "luong-general", "luong-concat", None}
        "luong-dot" sees the sum of the two directions, the others see both.
    dropout : float
        On embeddings, between layers and before the head, in training.
    input_feeding : bool
        Luong's: what went to the head is part of the next step's input.
    bos_token_id, eos_token_id, pad_token_id, decoder_start_token_id : int, optional
        Defaults of :meth:`generate`.

    Attributes
    ----------
    src_embedding, tgt_embedding : Embedding
    encoder, decoder : RNN, GRU or LSTM
        The decoder's input is [word ; context] (Bahdanau), [word ; fed] or the word.
    bridge, bridge_c : Linear or None
    attention : AdditiveAttention, DotAttention or None
    combine : Linear or None
    lm_head : Linear, without bias

    Examples
    --------
    >>> import numpy as np, seqloom as sl
    >>> model = sl.models.Seq2Seq(10, 12, embed_dim=8, hidden_size=16)
    >>> model(np.array([[1, 2, 3]]), np.array([[0, 4]])).shape
    (1, 2, 12)
    >>> model.generate(np.array([[1, 2, 3]]), decoder_start_token_id=0, max_new_tokens=4).shape
    (1, 4)
    """

    config_class = Seq2SeqConfig

    def _build(self) -> None:
        c = self.config
        e, h = c.embed_dim, c.hidden_size
        both = h * (1 + c.bidirectional)
        self._memory_width = h if c.attention == "luong-dot" else both
        self.bridge: Linear | None = None
        self.bridge_c: Linear | None = None
        self.attention: AdditiveAttention | DotAttention | None = None
        self.combine: Linear | None = None
        with init.skip():
            self.src_embedding = Embedding(c.src_vocab_size, e)
            self.encoder = new_rnn(
                c.cell, e, h, c.num_layers, dropout=c.dropout, bidirectional=c.bidirectional
            )
            if c.bidirectional:
                self.bridge = Linear(both, h)
                self.bridge_c = Linear(both, h) if c.cell == "lstm" else None
            self.tgt_embedding = Embedding(c.tgt_vocab_size, e)
            more = 0
            if c.attention == "bahdanau":
                self.attention, more = AdditiveAttention(h, both), both
            elif c.attention is not None:
                score = c.attention.removeprefix("luong-")
                self.attention = DotAttention(score, h, self._memory_width)
                self.combine = Linear(self._memory_width + h, h, bias=False)
                more = h if c.input_feeding else 0
            self.decoder = new_rnn(c.cell, e + more, h, c.num_layers, dropout=c.dropout)
            self.lm_head = Linear(h, c.tgt_vocab_size, bias=False)

    def _initialise(self, module: Module) -> None:
        if module is not self:
            initialise(module)

    # ---- encoder -------------------------------------------------------------------------------

    def _read(self, ids: Tensor, packing: Packing) -> tuple[Source, States]:
        """The source as the decoder sees it, and the states that the decoder starts from."""
        c = self.config
        ids = packing.pack(ids)
        x = dropped(self, self.src_embedding(ids.transpose(0, 1)), c.dropout)
        y, last = run_rnn(self.encoder, x, None, packing.tensor())
        batch = ids.shape[0]
        if c.bidirectional:
            last = self._bridged(last, batch)
            if c.attention == "luong-dot":
                y = y[..., : c.hidden_size] + y[..., c.hidden_size :]
        memory = dropped(self, y, c.dropout).transpose(0, 1).contiguous()
        keys = values = None
        if isinstance(self.attention, AdditiveAttention):
            keys = ops.linear(memory, self.attention.w_key)
            values = ops.linear(memory, self.decoder.weight_ih_l0[:, c.embed_dim :])
        return Source(memory, packing.lengths, keys, values, np.arange(batch)), last

    def _bridged(self, last: States, batch: int) -> States:
        c = self.config
        out = []
        for state, bridge in zip(last, (self.bridge, self.bridge_c), strict=False):
            pairs = state.reshape(c.num_layers, 2, batch, c.hidden_size)
            joined = ops.cat([pairs[:, 0], pairs[:, 1]], -1)
            assert bridge is not None
            out.append(bridge(joined))
        out[0] = out[0].tanh()  # c is not bounded by the cell
        return tuple(out)

    def encode(self, input_ids: Any, attention_mask: Any = None, *, src_lengths: Any = None) -> Any:
        """What the decoder looks at, [B, S, M]; steps of padding are zero."""
        ids, packing = self._packed(input_ids, attention_mask, src_lengths)
        return packing.unpack(self._read(ids, packing)[0].memory)

    def _packed(self, input_ids: Any, mask: Any, lengths: Any) -> tuple[Tensor, Packing]:
        owner = type(self).__name__
        ids = as_ids(owner, "input_ids", input_ids, self.device)
        return ids, Packing(owner, mask, lengths, *ids.shape)

    # ---- decoder -------------------------------------------------------------------------------

    def _steps(
        self, words: Tensor, hidden: States, source: Source, fed: Tensor | None
    ) -> tuple[Tensor, States, Tensor | None, Tensor | None]:
        """Words [T, B, E] to what the head takes [T, B, H], states, fed, weights [B, T, S]."""
        c = self.config
        if c.attention == "bahdanau":
            y, hidden, weights = self._attentive(words, hidden, source)
            return dropped(self, y, c.dropout), hidden, None, weights
        if fed is None:
            y, hidden = run_rnn(self.decoder, words, hidden)
            if self.combine is None:
                return dropped(self, y, c.dropout), hidden, None, None
            joined, weights = self._combined(y, source)
            return dropped(self, joined, c.dropout), hidden, None, weights
        outputs, seen = [], []
        for t in range(words.shape[0]):
            x = ops.cat([words[t : t + 1], fed.unsqueeze(0)], -1)
            y, hidden = run_rnn(self.decoder, x, hidden)
            joined, weights = self._combined(y, source)
            joined = dropped(self, joined, c.dropout)
            fed = joined[0]
            outputs.append(joined)
            seen.append(weights)
        return ops.cat(outputs, 0), hidden, fed, ops.cat(seen, 1)

    def _combined(self, y: Tensor, source: Source) -> tuple[Tensor, Tensor]:
        """Luong's attentional vectors [T, B, H] and weights [B, T, S]."""
        assert isinstance(self.attention, DotAttention)
        assert self.combine is not None
        context, weights = self.attention(
            y.transpose(0, 1).contiguous(), source.memory, key_lengths=source.key_lengths()
        )
        return self.combine(ops.cat([context.transpose(0, 1), y], -1)).tanh(), weights

    def _attentive(
        self, words: Tensor, hidden: States, source: Source
    ) -> tuple[Tensor, States, Tensor]:
        """Bahdanau's decoder: outputs [T, B, H], states, weights [B, T, S]."""
        c, attention = self.config, self.attention
        assert isinstance(attention, AdditiveAttention)
        assert source.keys is not None
        assert source.values is not None
        w_ih, w_hh, b_ih, b_hh = self.decoder._weights(0)[:4]
        shares = ops.linear(words, w_ih[:, : c.embed_dim], b_ih)
        first = [s[0] for s in hidden]
        y, *ends, weights = attentive_rnn(
            c.cell, shares, source.keys, source.values, first[0],
            first[1] if len(first) > 1 else None, attention.w_query, attention.v, w_hh, b_hh,
            source.key_lengths(),
        )  # fmt: skip
        last = [[end for end in ends if end is not None]]
        for layer in range(1, c.num_layers):
            start = tuple(s[layer] for s in hidden)
            x = dropped(self, y, c.dropout)
            y, *end = self.decoder._one(x, start, layer, None, False)
            last.append(end)
        return y, tuple(ops.stack(list(s), 0) for s in zip(*last, strict=True)), weights

    def _first_fed(self, source: Source) -> Tensor | None:
        if not self.config.input_feeding:
            return None
        memory = source.memory
        return zeros(
            memory.shape[0], self.config.hidden_size, dtype=memory.dtype, device=memory.device
        )

    def hidden(
        self,
        input_ids: Any,
        decoder_input_ids: Any,
        attention_mask: Any = None,
        *,
        src_lengths: Any = None,
        teacher_forcing: float = 1.0,
        maps: Any = None,
    ) -> Tensor:
        """What `lm_head` takes, [B, Tt, H]; arguments as in :meth:`forward`."""
        owner = type(self).__name__
        if isinstance(teacher_forcing, bool) or not isinstance(teacher_forcing, int | float):
            kind = type(teacher_forcing).__name__
            raise TypeError(f"{owner}: teacher_forcing must be a number, got {kind}")
        if not 0 <= teacher_forcing <= 1:
            raise ValueError(f"{owner}: teacher_forcing must be in [0, 1], got {teacher_forcing}")
        ids, packing = self._packed(input_ids, attention_mask, src_lengths)
        target = as_ids(owner, "decoder_input_ids", decoder_input_ids, self.device)
        if target.shape[0] != ids.shape[0]:
            raise ValueError(
                f"{owner}: decoder_input_ids must have shape [B, T] = [{ids.shape[0]}, any], got"
                f" {list(target.shape)}"
            )
        source, states = self._read(ids, packing)
        steps = target.transpose(0, 1)
        if not target.shape[1]:  # no step, no words
            like: dict[str, Any] = {"dtype": source.memory.dtype, "device": source.memory.device}
            if maps is not None and self.attention is not None:
                maps["cross"].append(zeros(ids.shape[0], 1, 0, ids.shape[1], **like))
            return zeros(ids.shape[0], 0, self.lm_head.weight.shape[1], **like)
        if teacher_forcing == 1.0 or target.shape[1] < 2:
            words = dropped(self, self.tgt_embedding(steps), self.config.dropout)
            y, _, _, weights = self._steps(words, states, source, self._first_fed(source))
        else:
            y, weights = self._sampled(steps, states, source, float(teacher_forcing))
        if maps is not None and weights is not None:
            maps["cross"].append(packing.unpack(weights, 2).unsqueeze(1))
        return y.transpose(0, 1)

    def _sampled(
        self, target: Tensor, states: States, source: Source, ratio: float
    ) -> tuple[Tensor, Tensor | None]:
        """Scheduled sampling (Bengio et al. 2015): each word the target's with this probability,
        else the model's own best."""
        fed = self._first_fed(source)
        outputs: list[Tensor] = []
        seen: list[Tensor] = []
        ids = target[:1]
        for t in range(target.shape[0]):
            words = dropped(self, self.tgt_embedding(ids), self.config.dropout)
            y, states, fed, weights = self._steps(words, states, source, fed)
            outputs.append(y)
            if weights is not None:
                seen.append(weights)
            if t + 1 == target.shape[0]:
                break
            with no_grad():
                own = self.lm_head(y.detach()).argmax(-1)
                told = rand(1, target.shape[1], device=target.device) < ratio
                ids = ops.where(told, target[t + 1 : t + 2], own)
        return ops.cat(outputs, 0), ops.cat(seen, 1) if seen else None

    def forward(
        self,
        input_ids: Any,
        decoder_input_ids: Any,
        attention_mask: Any = None,
        *,
        src_lengths: Any = None,
        teacher_forcing: float = 1.0,
        return_weights: bool = False,
    ) -> Any:
        """
        Parameters
        ----------
        input_ids : integers [B, S]
        decoder_input_ids : integers [B, T]
            The target behind its start token (``shift_right(labels)``).
        attention_mask : [B, S], optional
            Nonzero where `input_ids` has a token.
        src_lengths : integers [B], optional
            Tokens of each source, instead of a mask.
        teacher_forcing : float
            How likely each word that the decoder reads is the target's rather than its own.
        return_weights : bool

        Returns
        -------
        logits [B, T, V], or (logits, weights)
            weights is {"encoder": [], "decoder": [], "cross": [...]}, the last one [B, 1, T, S]
            with attention.
        """
        maps: dict[str, list[Tensor]] | None = None
        if return_weights:
            maps = {"encoder": [], "decoder": [], "cross": []}
        hidden = self.hidden(
            input_ids, decoder_input_ids, attention_mask, src_lengths=src_lengths,
            teacher_forcing=teacher_forcing, maps=maps,
        )  # fmt: skip
        logits = self.lm_head(hidden)
        return (logits, maps) if return_weights else logits

    # ---- step by step --------------------------------------------------------------------------

    def start(  # type: ignore[override]
        self, batch: int, *, capacity: int = 0, input_ids: Any = None, attention_mask: Any = None
    ) -> Seq2SeqState:
        """Run the encoder; nothing decoded yet."""
        owner = type(self).__name__
        if input_ids is None:
            raise ValueError(f"{owner}: start needs input_ids for the encoder")
        ids, packing = self._packed(input_ids, attention_mask, None)
        if ids.shape[0] != batch:
            raise ValueError(f"{owner}: input_ids must have B = {batch} rows, got {ids.shape[0]}")
        source, states = self._read(ids, packing)
        return Seq2SeqState(batch, states, source, self._first_fed(source))

    def can_capture(  # type: ignore[override]
        self, state: Seq2SeqState, counts: Any
    ) -> bool:
        """Whether :meth:`step` can be captured: padded sources are masked from the host."""
        padded = self.attention is not None and state.source.lengths is not None
        return not padded and state.can_capture(counts)

    def step(self, ids: Tensor, state: Seq2SeqState) -> Tensor:  # type: ignore[override]
        """Logits [B, V] after tokens [B, 1]."""
        assert state.hidden is not None
        words = self.tgt_embedding(ids.reshape(1, ids.shape[0]))
        y, state.hidden, state.fed, _ = self._steps(words, state.hidden, state.source, state.fed)
        logits: Tensor = self.lm_head(y[-1])
        return logits

    def decode(  # type: ignore[override]
        self, ids: Ints, state: Seq2SeqState, counts: Ints | None = None
    ) -> Tensor:
        """Read tokens [B, n]; logits [B, V] after each row's last new one."""
        tokens = from_numpy(np.ascontiguousarray(ids.T)).to(device=self.device)
        words = self.tgt_embedding(tokens)
        assert state.hidden is not None
        if counts is None or (counts == ids.shape[1]).all():
            y, state.hidden, state.fed, _ = self._steps(
                words, state.hidden, state.source, state.fed
            )
            last = y[-1]
        else:
            last = self._ragged(words, state, counts)
        state.advance(ids.shape[1], counts)
        logits: Tensor = self.lm_head(last)
        return logits

    def _ragged(self, words: Tensor, state: Seq2SeqState, counts: Ints) -> Tensor:
        """Rows that read fewer words keep the state after their own last one."""
        last: Tensor | None = None
        for t in range(words.shape[0]):
            assert state.hidden is not None
            y, hidden, fed, _ = self._steps(words[t : t + 1], state.hidden, state.source, state.fed)
            reads = from_numpy(np.ascontiguousarray(counts > t)).to(device=words.device)
            reads = reads.unsqueeze(-1)
            state.hidden = tuple(
                ops.where(reads, new, old) for new, old in zip(hidden, state.hidden, strict=True)
            )
            if fed is not None and state.fed is not None:
                state.fed = ops.where(reads, fed, state.fed)
            last = y[0] if last is None else ops.where(reads, y[0], last)
        assert last is not None
        return last
