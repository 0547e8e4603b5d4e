# SPDX-License-Identifier: Apache-2.0
"""Transformer: the encoder-decoder of "Attention is all you need" (Vaswani et al. 2017)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from .. import nn, ops
from ..generation.cache import KVCache
from ..nn import Embedding, Linear, Module, init
from ..tensor import Tensor
from .config import Config
from .encoder_decoder import BetweenVocabularies, Maps, Memory
from .inputs import NO_PADDING, Padding
from .layers import attention, dropped, merge_heads, split_heads

POSITIONS = ("sinusoidal", "learned")
ACTIVATIONS = ("relu", "gelu", "gelu_tanh", "silu")


@dataclass
class TransformerConfig(Config):
    """See :class:`Transformer`."""

    model_type: ClassVar[str] = "seqloom-transformer"
    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "activation": ACTIVATIONS,
        "positions": POSITIONS,
    }

    src_vocab_size: int = 0
    tgt_vocab_size: int = 0
    d_model: int = 512
    nhead: int = 8
    num_encoder_layers: int = 6
    num_decoder_layers: int = 6
    dim_feedforward: int = 2048
    dropout: float = 0.1
    activation: str = "relu"
    norm_first: bool = False
    positions: str = "sinusoidal"
    max_positions: int = 1024
    tie_embeddings: bool = False
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = None
    decoder_start_token_id: int | None = None

    def check(self) -> None:
        if self.d_model % self.nhead:
            self.refuse("d_model", f"be a multiple of nhead = {self.nhead}")
        if self.tie_embeddings and self.src_vocab_size != self.tgt_vocab_size:
            self.refuse(
                "tgt_vocab_size",
                f"equal src_vocab_size = {self.src_vocab_size} with tie_embeddings",
            )


class Positions(Module):
    """Adds where each step stands to embeddings [B, T, D], then drops out."""

    table: Any

    def __init__(self, kind: str, width: int, count: int, dropout: float) -> None:
        super().__init__()
        self.p = dropout
        if kind == "learned":
            self.table = nn.LearnedPositionalEmbedding(count, width, batch_first=True)
        else:
            self.table = nn.SinusoidalPositionalEncoding(width, min(count, 1024), batch_first=True)

    def forward(self, x: Tensor, state: KVCache | None = None) -> Tensor:
        """With a state, its step's positions."""
        first = None if state is None or state.on_device else state.first
        if state is None or first is not None:
            y = self.table(x, first or 0)
        else:  # rows stand at places of their own
            at = state.where(x.shape[1])
            if state.on_device:
                far = state.capacity
                if isinstance(self.table, nn.LearnedPositionalEmbedding):
                    far = min(far, self.table.num_positions)
                at = ops.minimum(at, far - 1)
            else:
                far = int(state.positions(x.shape[1]).max(initial=0)) + 1
            zeros = x[:1, :1] * 0.0
            rows = self.table(zeros.expand(1, far, x.shape[2]))[0]
            y = x + ops.embedding(at, rows)
        return dropped(self, y, self.p)


# ---- one layer of sl.nn, with key lengths, weights on request and a cache -----------------------


def _attended(
    module: nn.MultiheadAttention,
    x: Tensor,
    padding: Padding,
    maps: list[Tensor] | None,
    causal: bool,
    state: KVCache | None,
    layer: int,
) -> Tensor:
    q, k, v = module._projected(x, x, x)
    if state is not None:
        y = merge_heads(state.attend(layer, q, k, v))
    else:
        p = module.dropout if module.training else 0.0
        y = attention(q, k, v, padding, maps, is_causal=causal, dropout_p=p)
    out: Tensor = module.out_proj(y)
    return out


def _looked(
    module: nn.MultiheadAttention,
    x: Tensor,
    memory: tuple[Tensor, Tensor],
    padding: Padding,
    maps: list[Tensor] | None,
) -> Tensor:
    """Attention to keys and values that `projected_memory` made."""
    w, b, e = module.in_proj_weight, module.in_proj_bias, module.embed_dim
    assert w is not None
    q = split_heads(ops.linear(x, w[:e], None if b is None else b[:e]), module.num_heads)
    p = module.dropout if module.training else 0.0
    out: Tensor = module.out_proj(attention(q, *memory, padding, maps, dropout_p=p))
    return out


def projected_memory(module: nn.MultiheadAttention, memory: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values [B, H, S, D] of what a decoder layer looks at."""
    w, b, e = module.in_proj_weight, module.in_proj_bias, module.embed_dim
    assert w is not None
    both = ops.linear(memory, w[e:], None if b is None else b[e:])
    return (
        split_heads(both[..., :e], module.num_heads),
        split_heads(both[..., e:], module.num_heads),
    )


def encoded(stack: Any, x: Tensor, padding: Padding, maps: list[Tensor] | None = None) -> Tensor:
    """x [B, T, D] through a TransformerEncoder."""
    for layer in stack.layers:

        def attend(h: Tensor, layer: Any = layer) -> Tensor:
            return _attended(layer.self_attn, h, padding, maps, False, None, 0)

        x = layer._stack(x, [attend, layer._feed_forward])
    return x if stack.norm is None else stack.norm(x)


class Transformer(BetweenVocabularies):
    """The 2017 encoder-decoder, with embeddings, positions and head around ``nn.Transformer``.

    Embeddings are multiplied by sqrt(d_model). As in ``torch.nn.Transformer`` there is a last
    layer norm behind either stack, after post-norm layers too. Matrices start as Glorot's uniform,
    embeddings normal with standard deviation d_model^-0.5.

    Parameters
    ----------
    src_vocab_size, tgt_vocab_size : int
    d_model, nhead, num_encoder_layers, num_decoder_layers, dim_feedforward : int
    dropout : float
        On embeddings, attention weights and every sublayer, in training.
    activation : {"relu", "gelu", "gelu_tanh", "silu"}
    norm_first : bool
        Norms before the sublayers (pre-norm) instead of after the sums.
    positions : {"sinusoidal", "learned"}
    max_positions : int
        Rows of the table of learned positions; sinusoids have no end.
    tie_embeddings : bool
        One table for source, target and head.
    bos_token_id, eos_token_id, pad_token_id, decoder_start_token_id : int, optional
        Defaults of :meth:`generate`.

    Attributes
    ----------
    src_embedding, tgt_embedding : Embedding
    transformer : nn.Transformer
    lm_head : Linear, without bias

    Examples
    --------
    >>> import numpy as np, seqloom as sl
    >>> model = sl.models.Transformer(10, 12, d_model=8, nhead=2, num_encoder_layers=1,
    ...                               num_decoder_layers=1, dim_feedforward=16).eval()
    >>> model(np.array([[1, 2, 3]]), np.array([[0, 4]])).shape
    (1, 2, 12)
    >>> model.generate(np.array([[1, 2, 3]]), decoder_start_token_id=0, max_new_tokens=4).shape
    (1, 4)
    """

    config_class = TransformerConfig

    def _build(self) -> None:
        c = self.config
        with init.skip():
            self.src_embedding = Embedding(c.src_vocab_size, c.d_model)
            self.tgt_embedding = Embedding(c.tgt_vocab_size, c.d_model)
            self.positions = Positions(c.positions, c.d_model, c.max_positions, c.dropout)
            self.transformer = nn.Transformer(
                c.d_model, c.nhead, c.num_encoder_layers, c.num_decoder_layers,
                c.dim_feedforward, c.dropout, c.activation, batch_first=True,
                norm_first=c.norm_first,
            )  # fmt: skip
            self.lm_head = Linear(c.d_model, c.tgt_vocab_size, bias=False)
        if c.tie_embeddings:
            self.tgt_embedding.weight = self.src_embedding.weight
            self.lm_head.weight = self.src_embedding.weight

    def _initialise(self, module: Module) -> None:
        if isinstance(module, Embedding) or module is self.lm_head:
            init.normal_(module.weight, 0.0, self.config.d_model**-0.5)
        elif isinstance(module, Linear):
            init.xavier_uniform_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LearnedPositionalEmbedding):
            init.normal_(module.weight, std=0.02)
        elif isinstance(module, nn.LayerNorm | nn.MultiheadAttention):
            module.reset_parameters()

    @property
    def max_positions(self) -> int | None:
        """Of learned positions; None for sinusoids."""
        return int(self.config.max_positions) if self.config.positions == "learned" else None

    def _embedded(self, table: Embedding, ids: Tensor, state: KVCache | None = None) -> Tensor:
        y: Tensor = self.positions(table(ids) * self.config.d_model**0.5, state)
        return y

    def _encode(self, ids: Tensor, padding: Padding, maps: list[Tensor] | None) -> Tensor:
        x = self._embedded(self.src_embedding, ids)
        return encoded(self.transformer.encoder, x, padding, maps)

    def _cross(self, memory: Tensor) -> Memory:
        stack: Any = self.transformer.decoder
        return [projected_memory(layer.multihead_attn, memory) for layer in stack.layers]

    def _decode(
        self,
        ids: Tensor,
        cross: Memory,
        padding: Padding,
        maps: Maps | None,
        state: KVCache | None,
    ) -> Tensor:
        stack: Any = self.transformer.decoder
        own, other = (None, None) if maps is None else (maps["decoder"], maps["cross"])
        x = self._embedded(self.tgt_embedding, ids, state)
        for index, layer in enumerate(stack.layers):

            def attend(h: Tensor, layer: Any = layer, index: int = index) -> Tensor:
                return _attended(layer.self_attn, h, NO_PADDING, own, True, state, index)

            def look(h: Tensor, layer: Any = layer, index: int = index) -> Tensor:
                return _looked(layer.multihead_attn, h, cross[index], padding, other)

            x = layer._stack(x, [attend, look, layer._feed_forward])
        y: Tensor = stack.norm(x)
        return y

    def _cache_shape(self) -> tuple[int, int, int]:
        c = self.config
        return c.num_decoder_layers, c.nhead, c.d_model // c.nhead
