# SPDX-License-Identifier: Apache-2.0
"""SequenceBody: what classifiers, taggers and forecasters share below their heads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from .. import nn, ops
from ..nn import Embedding, Linear, Module, init
from ..tensor import Tensor, from_numpy
from .config import Config
from .inputs import NO_PADDING, Padding, as_array, as_ids
from .layers import dropped
from .recurrent import CELLS, Packing, initialise, new_rnn, run_rnn
from .transformer import ACTIVATIONS, POSITIONS, Positions, encoded

BODIES = (*CELLS, "transformer")
POOLING = (None, "last", "mean", "max")


@dataclass
class BodyConfig(Config):
    """Fields of the body; heads add theirs."""

    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "body": BODIES,
        "activation": ACTIVATIONS,
        "positions": POSITIONS,
    }

    vocab_size: int | None = None
    input_size: int | None = None
    body: str = "lstm"
    embed_dim: int = 128
    hidden_size: int = 128
    num_layers: int = 1
    bidirectional: bool = True
    dropout: float = 0.0
    nhead: int = 4
    dim_feedforward: int = 512
    activation: str = "gelu"
    norm_first: bool = True
    positions: str = "sinusoidal"
    max_positions: int = 1024

    def check(self) -> None:
        if (self.vocab_size is None) == (self.input_size is None):
            self.refuse(
                "vocab_size",
                "be given, or input_size, but not both",
                (self.vocab_size, self.input_size),
            )
        if self.body == "transformer" and self.hidden_size % self.nhead:
            self.refuse("hidden_size", f"be a multiple of nhead = {self.nhead}")


class SequenceBody(Module):
    """Tokens or vectors to states [B, T, D], by an RNN or a transformer encoder.

    Attributes
    ----------
    embedding : Embedding or None
        For a transformer of vectors, `projection`, a Linear to its width.
    rnn or encoder : RNN, GRU, LSTM or TransformerEncoder
    width : int
        D.
    """

    def __init__(self, config: BodyConfig) -> None:
        super().__init__()
        c = self.config = config
        recurrent = c.body != "transformer"
        inner = c.embed_dim if recurrent else c.hidden_size
        self.embedding: Embedding | None = None
        self.projection: Linear | None = None
        if c.vocab_size is not None:
            self.embedding = Embedding(c.vocab_size, inner)
        elif recurrent:
            assert c.input_size is not None
            inner = c.input_size
        else:
            assert c.input_size is not None
            self.projection = Linear(c.input_size, inner)
        if recurrent:
            self.width = c.hidden_size * (1 + c.bidirectional)
            self.rnn = new_rnn(
                c.body, inner, c.hidden_size, c.num_layers, dropout=c.dropout,
                bidirectional=c.bidirectional,
            )  # fmt: skip
            return
        self.width = c.hidden_size
        self.place = Positions(c.positions, c.hidden_size, c.max_positions, c.dropout)
        layer = nn.TransformerEncoderLayer(
            c.hidden_size, c.nhead, c.dim_feedforward, c.dropout, c.activation,
            batch_first=True, norm_first=c.norm_first,
        )  # fmt: skip
        norm = nn.LayerNorm(c.hidden_size) if c.norm_first else None
        self.encoder = nn.TransformerEncoder(layer, c.num_layers, norm)

    def initialise(self, module: Module) -> None:
        """Initial values: those of recurrent models, or of the 2017 transformer."""
        if self.config.body != "transformer" or isinstance(module, nn.LayerNorm):
            initialise(module)
        elif isinstance(module, Embedding):
            init.normal_(module.weight, 0.0, self.config.hidden_size**-0.5)
        elif isinstance(module, Linear):
            init.xavier_uniform_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LearnedPositionalEmbedding):
            init.normal_(module.weight, std=0.02)
        elif isinstance(module, nn.MultiheadAttention):
            module.reset_parameters()

    def taken(self, owner: str, inputs: Any, mask: Any, lengths: Any) -> tuple[Tensor, Packing]:
        """Inputs as a Tensor [B, T] or [B, T, F], and what of them is valid."""
        c = self.config
        like: Tensor = next(self.parameters())
        if self.embedding is not None:
            x = as_ids(owner, "inputs", inputs, like.device)
        else:
            if not isinstance(inputs, Tensor):
                array = as_array(owner, "inputs", inputs)
                if array.dtype.kind not in "iuf":
                    raise TypeError(f"{owner}: inputs must be numbers, got {array.dtype}")
                inputs = from_numpy(np.ascontiguousarray(array, np.float32))
            if inputs.ndim != 3 or inputs.shape[2] != c.input_size:
                raise ValueError(
                    f"{owner}: inputs must have shape [B, T, F] with F = {c.input_size}, got"
                    f" {list(inputs.shape)}"
                )
            x = inputs.to(dtype=like.dtype, device=like.device)
        return x, Packing(owner, mask, lengths, x.shape[0], x.shape[1])

    def forward(
        self, x: Tensor, packing: Packing, maps: list[Tensor] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """States [B, T, D] in packed order, and an RNN's last state [B, D] of either direction."""
        c = self.config
        x = packing.pack(x)
        if c.body == "transformer":
            if self.embedding is not None:
                x = self.embedding(x) * c.hidden_size**0.5
            elif self.projection is not None:
                x = self.projection(x)
            lengths = packing.tensor()
            padding = NO_PADDING if lengths is None else Padding(lengths, None)
            return encoded(self.encoder, self.place(x), padding, maps), None
        steps = x.transpose(0, 1)
        if self.embedding is not None:
            steps = dropped(self, self.embedding(steps), c.dropout)
        y, last = run_rnn(self.rnn, steps, None, packing.tensor())
        h = last[0]
        ends = ops.cat([h[-2], h[-1]], -1) if c.bidirectional else h[-1]
        return y.transpose(0, 1), ends

    def pooled(self, y: Tensor, ends: Tensor | None, packing: Packing, how: str | None) -> Tensor:
        """One vector [B, D] of the states of each row; by default an RNN's last, a mean else."""
        how = how or ("mean" if ends is None else "last")
        batch, steps = y.shape[:2]
        if not steps and ends is None:
            raise ValueError(f"SequenceBody: inputs must have at least one step, got {steps}")
        lengths = packing.lengths
        if how == "last":
            if ends is not None:
                return ends
            at = np.full(batch, steps) if lengths is None else lengths
            rows = from_numpy(np.arange(batch)).to(device=y.device)
            columns = from_numpy(np.maximum(at, 1).astype(np.int64) - 1).to(device=y.device)
            return y[rows, columns]
        if lengths is None:
            whole: Tensor = y.mean(1) if how == "mean" else y.max(1)[0]
            return whole
        seen = np.arange(steps) < lengths[:, None]
        valid = from_numpy(seen[..., None]).to(device=y.device)
        if how == "max":
            largest: Tensor = ops.where(valid, y, float("-inf")).to(dtype=y.dtype).max(1)[0]
            return largest
        count = np.maximum(lengths, 1).astype(np.float32)[:, None]
        total = ops.where(valid, y, 0.0).to(dtype=y.dtype).sum(1)
        return total / from_numpy(count).to(device=y.device, dtype=y.dtype)
