# SPDX-License-Identifier: Apache-2.0
"""RNNLanguageModel: embedding, recurrent layers, head (Mikolov et al. 2010)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..generation import Generative
from ..nn import Embedding, Linear, Module, init
from ..tensor import Tensor, from_numpy
from .base import Model
from .config import Config
from .inputs import as_ids
from .layers import dropped
from .recurrent import CELLS, Packing, RecurrentState, States, initialise, new_rnn, run_rnn


@dataclass
class RNNLanguageModelConfig(Config):
    """See :class:`RNNLanguageModel`."""

    model_type: ClassVar[str] = "seqloom-rnn-lm"
    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {"cell": CELLS}

    vocab_size: int = 0
    embed_dim: int = 256
    hidden_size: int = 256
    num_layers: int = 1
    cell: str = "lstm"
    dropout: float = 0.0
    tie_weights: bool = False
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = None

    def check(self) -> None:
        if self.tie_weights and self.embed_dim != self.hidden_size:
            self.refuse("embed_dim", f"equal hidden_size = {self.hidden_size} with tie_weights")


class RNNLanguageModel(Generative, Model):
    """A recurrent language model.

    Parameters
    ----------
    vocab_size : int
    embed_dim, hidden_size, num_layers : int
    cell : {"lstm", "gru", "rnn"}
    dropout : float
        On embeddings, between layers and before the head, in training.
    tie_weights : bool
        The head is the embedding's table; embed_dim must equal hidden_size.
    bos_token_id, eos_token_id, pad_token_id : int, optional
        Defaults of :meth:`generate`.

    Attributes
    ----------
    embedding : Embedding
    rnn : RNN, GRU or LSTM
    lm_head : Linear
        Without bias, so that training may use ``ops.linear_cross_entropy``.

    Examples
    --------
    >>> import numpy as np, seqloom as sl
    >>> model = sl.models.RNNLanguageModel(10, embed_dim=8, hidden_size=16)
    >>> model(np.array([[1, 2, 3]])).shape
    (1, 3, 10)
    >>> model.generate(np.array([[1, 2, 3]]), max_new_tokens=4).shape
    (1, 7)
    """

    config_class = RNNLanguageModelConfig

    def __init__(self, vocab_size: int | Config | None = None, **fields: Any) -> None:
        if isinstance(vocab_size, Config):
            super().__init__(vocab_size, **fields)
        else:
            named = {} if vocab_size is None else {"vocab_size": vocab_size}
            super().__init__(None, **named, **fields)
        c = self.config
        with init.skip():
            self.embedding = Embedding(c.vocab_size, c.embed_dim)
            self.rnn = new_rnn(c.cell, c.embed_dim, c.hidden_size, c.num_layers, dropout=c.dropout)
            self.lm_head = Linear(c.hidden_size, c.vocab_size, bias=False)
        if c.tie_weights:
            self.lm_head.weight = self.embedding.weight
        self.apply(self._initialise)

    def _initialise(self, module: Module) -> None:
        if module is self.embedding and self.config.tie_weights:
            init.uniform_(self.embedding.weight, -0.1, 0.1)  # as a head, with logits near zero
        elif module is not self and not (module is self.lm_head and self.config.tie_weights):
            initialise(module)

    def hidden(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        *,
        lengths: Any = None,
        state: States | None = None,
        return_state: bool = False,
    ) -> Any:
        """What `lm_head` takes, [B, T, H]; arguments as in :meth:`forward`."""
        owner = type(self).__name__
        ids = as_ids(owner, "input_ids", input_ids, self.device)
        packing = Packing(owner, attention_mask, lengths, *ids.shape)
        p = self.config.dropout
        x = dropped(self, self.embedding(packing.pack(ids).transpose(0, 1)), p)
        before = None if state is None else tuple(s.detach() for s in state)
        y, last = run_rnn(self.rnn, x, before, packing.tensor())
        y = packing.unpack(dropped(self, y, p).transpose(0, 1))
        return (y, last) if return_state else y

    def forward(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        *,
        lengths: Any = None,
        state: States | None = None,
        return_state: bool = False,
    ) -> Any:
        """
        Parameters
        ----------
        input_ids : integers [B, T]
        attention_mask : [B, T], optional
            Nonzero where there is a token; what is hidden is not read.
        lengths : integers [B], optional
            Tokens of each row, instead of a mask.
        state : tuple of Tensors, optional
            What `return_state` gave for the text before; gradients stop there.
        return_state : bool

        Returns
        -------
        logits [B, T, V], or (logits, state)
        """
        y, last = self.hidden(
            input_ids, attention_mask, lengths=lengths, state=state, return_state=True
        )
        logits = self.lm_head(y)
        return (logits, last) if return_state else logits

    def start(self, batch: int, *, capacity: int = 0) -> RecurrentState:
        """An empty state for `batch` rows."""
        return RecurrentState(batch)

    def can_capture(self, state: RecurrentState, counts: Any) -> bool:
        """Whether :meth:`step` can be captured in a CUDA graph."""
        return state.can_capture(counts)

    def step(self, ids: Tensor, state: RecurrentState) -> Tensor:
        """Logits [B, V] after tokens [B, 1]."""
        words = self.embedding(ids.reshape(1, ids.shape[0]))
        _, state.hidden = run_rnn(self.rnn, words, state.hidden)
        logits: Tensor = self.lm_head(state.hidden[0][-1])
        return logits

    def decode(
        self,
        ids: np.ndarray[Any, np.dtype[np.int64]],
        state: RecurrentState,
        counts: np.ndarray[Any, np.dtype[np.int64]] | None = None,
    ) -> Tensor:
        """Read tokens [B, n]; logits [B, V] after each row's last new one."""
        tokens = from_numpy(np.ascontiguousarray(ids.T)).to(device=self.device)
        lengths = None if counts is None else from_numpy(np.ascontiguousarray(counts))
        _, state.hidden = run_rnn(self.rnn, self.embedding(tokens), state.hidden, lengths)
        state.advance(ids.shape[1], counts)
        logits: Tensor = self.lm_head(state.hidden[0][-1])
        return logits
