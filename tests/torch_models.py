# SPDX-License-Identifier: Apache-2.0
"""The models that have no checkpoint family, put together from torch's parts under our names."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import torch
from torch import nn

CELLS = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


def ids_of(x: Any) -> torch.Tensor:
    return torch.tensor(np.asarray(x))


def run(rnn: nn.Module, x: torch.Tensor, states: Any, lengths: Any = None) -> tuple[Any, Any]:
    """Outputs [B, T, H] and states as a tuple, of [B, T, I]; lengths by packing."""
    if states is not None:
        states = tuple(states) if isinstance(rnn, nn.LSTM) else states[0]
    if lengths is not None:
        x = nn.utils.rnn.pack_padded_sequence(
            x, torch.tensor(lengths), batch_first=True, enforce_sorted=False
        )
    y, last = rnn(x, states)
    if lengths is not None:
        y, _ = nn.utils.rnn.pad_packed_sequence(y, batch_first=True)
    return y, last if isinstance(last, tuple) else (last,)


class RNNLanguageModel(nn.Module):
    def __init__(self, c: Any) -> None:
        super().__init__()
        self.embedding = nn.Embedding(c.vocab_size, c.embed_dim)
        self.rnn = CELLS[c.cell](c.embed_dim, c.hidden_size, c.num_layers, batch_first=True)
        self.lm_head = nn.Linear(c.hidden_size, c.vocab_size, bias=False)
        if c.tie_weights:
            self.lm_head.weight = self.embedding.weight

    def forward(self, ids: Any) -> torch.Tensor:
        return self.lm_head(self.rnn(self.embedding(ids_of(ids)))[0])


class Attention(nn.Module):
    """Weights [B, S] of scores of a query [B, H] over the memory."""

    def __init__(self, c: Any, memory: int) -> None:
        super().__init__()
        h, self.kind = c.hidden_size, c.attention
        if self.kind == "bahdanau":
            self.w_query = nn.Parameter(torch.empty(h, h))
            self.w_key = nn.Parameter(torch.empty(h, memory))
            self.v = nn.Parameter(torch.empty(h))
        elif self.kind == "luong-general":
            self.weight = nn.Parameter(torch.empty(h, memory))
        elif self.kind == "luong-concat":
            self.weight = nn.Parameter(torch.empty(h, h + memory))
            self.v = nn.Parameter(torch.empty(h))

    def forward(self, query: torch.Tensor, memory: torch.Tensor, hidden: Any) -> torch.Tensor:
        if self.kind == "bahdanau":
            keys = memory @ self.w_key.T
            scores = torch.tanh((query @ self.w_query.T)[:, None] + keys) @ self.v
        elif self.kind == "luong-concat":
            pairs = torch.cat([query[:, None].expand(-1, memory.shape[1], -1), memory], -1)
            scores = torch.tanh(pairs @ self.weight.T) @ self.v
        else:
            q = query @ self.weight if self.kind == "luong-general" else query
            scores = (memory @ q[:, :, None])[..., 0]
        if hidden is not None:
            scores = scores.masked_fill(hidden, -math.inf)
        return torch.softmax(scores, -1)


class Seq2Seq(nn.Module):
    """Every decoder as its paper has it: word by word."""

    def __init__(self, c: Any) -> None:
        super().__init__()
        self.c = c
        e, h = c.embed_dim, c.hidden_size
        both = h * (1 + c.bidirectional)
        memory = h if c.attention == "luong-dot" else both
        if c.bidirectional:
            self.bridge = nn.Linear(both, h)
            if c.cell == "lstm":
                self.bridge_c = nn.Linear(both, h)
        more = 0
        if c.attention is not None:
            self.attention = Attention(c, memory)
            if c.attention == "bahdanau":
                more = both
            else:
                self.combine = nn.Linear(memory + h, h, bias=False)
                more = h if c.input_feeding else 0
        self.src_embedding = nn.Embedding(c.src_vocab_size, e)
        self.encoder = CELLS[c.cell](
            e, h, c.num_layers, batch_first=True, bidirectional=c.bidirectional
        )
        self.tgt_embedding = nn.Embedding(c.tgt_vocab_size, e)
        self.decoder = CELLS[c.cell](e + more, h, c.num_layers, batch_first=True)
        self.lm_head = nn.Linear(h, c.tgt_vocab_size, bias=False)

    def forward(self, source: Any, target: Any, lengths: Any = None) -> torch.Tensor:
        c = self.c
        memory, last = run(self.encoder, self.src_embedding(ids_of(source)), None, lengths)
        if c.bidirectional:
            pairs = [s.reshape(c.num_layers, 2, *s.shape[1:]) for s in last]
            joined = [torch.cat([p[:, 0], p[:, 1]], -1) for p in pairs]
            last = [torch.tanh(self.bridge(joined[0]))]
            if c.cell == "lstm":
                last.append(self.bridge_c(joined[1]))
            if c.attention == "luong-dot":
                memory = memory[..., : c.hidden_size] + memory[..., c.hidden_size :]
        hidden = None
        if lengths is not None:
            hidden = torch.arange(memory.shape[1])[None] >= torch.tensor(lengths)[:, None]
        words, out, states = self.tgt_embedding(ids_of(target)), [], tuple(last)
        fed = torch.zeros(len(source), c.hidden_size)
        for t in range(words.shape[1]):
            x = words[:, t]
            if c.attention == "bahdanau":  # the first layer's state looks
                weights = self.attention(states[0][0], memory, hidden)
                x = torch.cat([x, (weights[:, None] @ memory)[:, 0]], -1)
            elif c.input_feeding:
                x = torch.cat([x, fed], -1)
            y, states = run(self.decoder, x[:, None], states)
            y = y[:, 0]
            if c.attention is not None and c.attention != "bahdanau":
                context = (self.attention(y, memory, hidden)[:, None] @ memory)[:, 0]
                y = fed = torch.tanh(self.combine(torch.cat([context, y], -1)))
            out.append(self.lm_head(y))
        return torch.stack(out, 1)


def sinusoids(length: int, width: int) -> torch.Tensor:
    at = torch.arange(length, dtype=torch.float64)[:, None]
    angle = at / 10000 ** (torch.arange(0, width, 2, dtype=torch.float64) / width)
    return torch.stack([angle.sin(), angle.cos()], -1).reshape(length, width).float()


class Table(nn.Module):
    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count, width))


class Positions(nn.Module):
    def __init__(self, kind: str, count: int, width: int) -> None:
        super().__init__()
        if kind == "learned":
            self.table = Table(count, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        table = self.table.weight if hasattr(self, "table") else sinusoids(*x.shape[1:])
        return x + table[: x.shape[1]]


class Transformer(nn.Module):
    def __init__(self, c: Any) -> None:
        super().__init__()
        d = self.width = c.d_model
        self.src_embedding = nn.Embedding(c.src_vocab_size, d)
        self.tgt_embedding = nn.Embedding(c.tgt_vocab_size, d)
        self.positions = Positions(c.positions, c.max_positions, d)
        activation = "gelu" if c.activation == "gelu" else "relu"
        with warnings.catch_warnings():  # that pre-norm layers use no nested tensors
            warnings.simplefilter("ignore")
            self.transformer = nn.Transformer(
                d, c.nhead, c.num_encoder_layers, c.num_decoder_layers, c.dim_feedforward, 0.0,
                activation, batch_first=True, norm_first=c.norm_first,
            )  # fmt: skip
        self.lm_head = nn.Linear(d, c.tgt_vocab_size, bias=False)
        if c.tie_embeddings:
            self.tgt_embedding.weight = self.lm_head.weight = self.src_embedding.weight

    def forward(self, source: Any, target: Any, mask: Any = None) -> torch.Tensor:
        x = self.positions(self.src_embedding(ids_of(source)) * self.width**0.5)
        y = self.positions(self.tgt_embedding(ids_of(target)) * self.width**0.5)
        hidden = None if mask is None else ~torch.tensor(mask, dtype=torch.bool)
        causal = torch.ones(y.shape[1], y.shape[1], dtype=torch.bool).triu(1)
        out = self.transformer(
            x, y, tgt_mask=causal, src_key_padding_mask=hidden, memory_key_padding_mask=hidden
        )
        return self.lm_head(out)


class Body(nn.Module):
    def __init__(self, c: Any) -> None:
        super().__init__()
        self.c, recurrent = c, c.body != "transformer"
        inner = c.embed_dim if recurrent else c.hidden_size
        if c.vocab_size is not None:
            self.embedding = nn.Embedding(c.vocab_size, inner)
        elif recurrent:
            inner = c.input_size
        else:
            self.projection = nn.Linear(c.input_size, inner)
        if recurrent:
            self.rnn = CELLS[c.body](
                inner, c.hidden_size, c.num_layers, batch_first=True, bidirectional=c.bidirectional
            )
            return
        self.place = Positions(c.positions, c.max_positions, c.hidden_size)
        layer = nn.TransformerEncoderLayer(
            c.hidden_size, c.nhead, c.dim_feedforward, 0.0, c.activation, batch_first=True,
            norm_first=c.norm_first,
        )  # fmt: skip
        norm = nn.LayerNorm(c.hidden_size) if c.norm_first else None
        self.encoder = nn.TransformerEncoder(layer, c.num_layers, norm, enable_nested_tensor=False)

    def forward(self, x: Any, lengths: Any) -> tuple[torch.Tensor, Any]:
        c = self.c
        y = self.embedding(ids_of(x)) if c.vocab_size is not None else torch.tensor(x)
        if c.body != "transformer":
            y, last = run(self.rnn, y, None, lengths)
            h = last[0]
            return y, torch.cat([h[-2], h[-1]], -1) if c.bidirectional else h[-1]
        y = y * c.hidden_size**0.5 if c.vocab_size is not None else self.projection(y)
        hidden = None
        if lengths is not None:
            hidden = torch.arange(y.shape[1])[None] >= torch.tensor(lengths)[:, None]
        return self.encoder(self.place(y), src_key_padding_mask=hidden), None


class Headed(nn.Module):
    """SequenceClassifier, SequenceTagger or Forecaster."""

    def __init__(self, c: Any, outputs: int, kind: str) -> None:
        super().__init__()
        self.c, self.kind = c, kind
        self.body = Body(c)
        width = c.hidden_size * (1 + (c.body != "transformer" and c.bidirectional))
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Any, lengths: Any = None) -> torch.Tensor:
        y, ends = self.body(x, lengths)
        if self.kind == "tagger":
            return self.head(y)
        how = self.c.pooling or ("mean" if ends is None else "last")
        steps = torch.full((len(y),), y.shape[1])
        if lengths is not None:
            steps = torch.tensor(lengths)
        seen = (torch.arange(y.shape[1])[None] < steps[:, None])[..., None]
        if how == "mean":
            pooled = (y * seen).sum(1) / steps[:, None]
        elif how == "max":
            pooled = y.masked_fill(~seen, -math.inf).max(1)[0]
        else:
            pooled = y[torch.arange(len(y)), steps - 1] if ends is None else ends
        return self.head(pooled)
