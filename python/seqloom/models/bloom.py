# SPDX-License-Identifier: Apache-2.0
"""BLOOM: no positions but ALiBi, queries, keys and values interleaved by head, a tied head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..nn import Alibi, Embedding, LayerNorm, Linear, Module, ModuleList
from ..tensor import Tensor
from .base import CheckpointRules
from .config import Config
from .decoder import DecoderOnly, Memory, Positions
from .layers import Group, activated, add_layer_norm, dropped, initialise


@dataclass
class BloomConfig(Config):
    """Fields of BLOOM's `config.json`."""

    model_type: ClassVar[str] = "bloom"
    aliases: ClassVar[dict[str, str]] = {
        "n_embed": "hidden_size",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    }

    vocab_size: int = 250880
    hidden_size: int = 64
    n_layer: int = 2
    n_head: int = 8
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    apply_residual_connection_post_layernorm: bool = False
    hidden_dropout: float = 0.0
    attention_dropout: float = 0.0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    tie_word_embeddings: bool = True

    def check(self) -> None:
        if self.hidden_size % self.n_head:
            self.refuse("hidden_size", f"be a multiple of n_head = {self.n_head}")


class BloomBlock(Module):
    """The parts of one layer; :class:`BloomBody` connects them."""

    def __init__(self, config: BloomConfig) -> None:
        super().__init__()
        d, eps = config.hidden_size, config.layer_norm_epsilon
        self.input_layernorm = LayerNorm(d, eps)
        self.self_attention = Group(query_key_value=Linear(d, 3 * d), dense=Linear(d, d))
        self.post_attention_layernorm = LayerNorm(d, eps)
        self.mlp = Group(dense_h_to_4h=Linear(d, 4 * d), dense_4h_to_h=Linear(4 * d, d))


class BloomBody(Module):
    """Ids to hidden states."""

    def __init__(self, config: BloomConfig) -> None:
        super().__init__()
        d, eps = config.hidden_size, config.layer_norm_epsilon
        self.config = config
        self.word_embeddings = Embedding(config.vocab_size, d)
        self.word_embeddings_layernorm = LayerNorm(d, eps)
        self.h = ModuleList(BloomBlock(config) for _ in range(config.n_layer))
        self.ln_f = LayerNorm(d, eps)
        self._slopes = Alibi(config.n_head).slopes  # float32 whatever the dtype of the model

    def slopes(self, device: str) -> Tensor:
        """ALiBi's slope of each head."""
        if self._slopes.device != device:
            self._slopes = self._slopes.to(device=device)
        return self._slopes

    def forward(self, ids: Tensor, memory: Memory) -> Tensor:
        """Ids [B, T] to [B, T, D]. A sum and the norm after it are one op, across blocks too."""
        config = self.config
        heads = config.n_head
        p, post = config.hidden_dropout, config.apply_residual_connection_post_layernorm
        slopes = self.slopes(ids.device)
        x = self.word_embeddings_layernorm(self.word_embeddings(ids))
        blocks = list(self.h)
        h: Tensor = blocks[0].input_layernorm(x)
        for i, block in enumerate(blocks):
            attention, mlp = block.self_attention, block.mlp
            a = memory.attend_joint(i, attention.query_key_value(h), heads, True, slopes=slopes)
            a = dropped(self, attention.dense(a), p)
            norm = block.post_attention_layernorm
            h, x = add_layer_norm(a, h if post else x, norm.weight, norm.bias, eps=norm.eps)
            m = mlp.dense_4h_to_h(activated(mlp.dense_h_to_4h, h, "gelu_new"))
            norm = blocks[i + 1].input_layernorm if i + 1 < len(blocks) else self.ln_f
            m = dropped(self, m, p)
            h, x = add_layer_norm(m, h if post else x, norm.weight, norm.bias, eps=norm.eps)
        return h


class Bloom(DecoderOnly):
    """BLOOM with its language-model head.

    Parameters
    ----------
    config : BloomConfig, or its fields as keywords

    Examples
    --------
    >>> import numpy as np, seqloom as sl
    >>> model = sl.models.Bloom(vocab_size=100, hidden_size=16, n_layer=2, n_head=2)
    >>> model(np.array([[1, 2, 3]])).shape
    (1, 3, 100)
    """

    config_class = BloomConfig
    architectures = ("BloomForCausalLM", "BloomModel")

    def __init__(self, config: BloomConfig | None = None, **fields: Any) -> None:
        super().__init__(config, **fields)
        self.transformer = BloomBody(self.config)
        self.lm_head = Linear(self.config.hidden_size, self.config.vocab_size, bias=False)
        self.apply(self._initialise)
        if self.config.tie_word_embeddings:
            self.lm_head.weight = self.transformer.word_embeddings.weight

    @classmethod
    def checkpoint_rules(cls) -> CheckpointRules:
        return CheckpointRules(prefix="transformer.")

    def _initialise(self, module: Module) -> None:
        initialise(module, self.config.initializer_range)

    def cache_shape(self) -> tuple[int, int, int]:
        config = self.config
        return config.n_layer, config.n_head, config.hidden_size // config.n_head

    def attention_dropout(self) -> float:
        return float(self.config.attention_dropout)

    def body(self, ids: Tensor, positions: Positions, memory: Memory) -> Tensor:
        return self.transformer.forward(ids, memory)
