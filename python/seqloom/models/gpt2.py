# SPDX-License-Identifier: Apache-2.0
"""GPT-2: learned positions, pre-norm blocks, a tied head."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from ..nn import Embedding, LayerNorm, Linear, Module, ModuleList, init
from ..tensor import Tensor
from .base import CheckpointRules
from .config import Config
from .decoder import DecoderOnly, Memory, Positions, added_rows
from .layers import ACTIVATIONS, Group, activated, add_layer_norm, dropped, initialise


@dataclass
class GPT2Config(Config):
    """Fields of GPT-2's `config.json`."""

    model_type: ClassVar[str] = "gpt2"
    choices: ClassVar[dict[str, tuple[Any, ...]]] = {"activation_function": ACTIVATIONS}
    aliases: ClassVar[dict[str, str]] = {
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    }

    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int | None = None
    activation_function: str = "gelu_new"
    resid_pdrop: float = 0.1
    embd_pdrop: float = 0.1
    attn_pdrop: float = 0.1
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    reorder_and_upcast_attn: bool = False  # scores are float32 here in any case
    bos_token_id: int | None = 50256
    eos_token_id: int | list[int] | None = 50256
    tie_word_embeddings: bool = True

    def check(self) -> None:
        if self.n_embd % self.n_head:
            self.refuse("n_embd", f"be a multiple of n_head = {self.n_head}")


class GPT2Block(Module):
    """The parts of one layer; :class:`GPT2Body` connects them."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        d, eps = config.n_embd, config.layer_norm_epsilon
        inner = config.n_inner or 4 * d
        self.ln_1 = LayerNorm(d, eps)
        self.attn = Group(c_attn=Linear(d, 3 * d), c_proj=Linear(d, d))
        self.ln_2 = LayerNorm(d, eps)
        self.mlp = Group(c_fc=Linear(d, inner), c_proj=Linear(inner, d))


class GPT2Body(Module):
    """Ids to hidden states."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.config = config
        self.wte = Embedding(config.vocab_size, config.n_embd)
        self.wpe = Embedding(config.n_positions, config.n_embd)
        self.h = ModuleList(GPT2Block(config) for _ in range(config.n_layer))
        self.ln_f = LayerNorm(config.n_embd, config.layer_norm_epsilon)

    def scale(self, layer: int) -> float:
        """What the scores of a layer are multiplied with."""
        config = self.config
        scale = 1.0
        if config.scale_attn_weights:
            scale /= math.sqrt(config.n_embd // config.n_head)
        return scale / (layer + 1) if config.scale_attn_by_inverse_layer_idx else scale

    def forward(self, ids: Tensor, positions: Positions, memory: Memory) -> Tensor:
        """Ids [B, T] to [B, T, D]. A sum and the norm after it are one op, across blocks too."""
        config = self.config
        heads = config.n_head
        act, p = config.activation_function, config.resid_pdrop
        x = dropped(self, added_rows(self.wte(ids), self.wpe, positions), config.embd_pdrop)
        blocks = list(self.h)
        h: Tensor = blocks[0].ln_1(x)
        for i, block in enumerate(blocks):
            a = memory.attend_joint(i, block.attn.c_attn(h), heads, False, scale=self.scale(i))
            a = dropped(self, block.attn.c_proj(a), p)
            norm = block.ln_2
            h, x = add_layer_norm(a, x, norm.weight, norm.bias, eps=norm.eps)
            m = dropped(self, block.mlp.c_proj(activated(block.mlp.c_fc, h, act)), p)
            norm = blocks[i + 1].ln_1 if i + 1 < len(blocks) else self.ln_f
            h, x = add_layer_norm(m, x, norm.weight, norm.bias, eps=norm.eps)
        return h


class GPT2(DecoderOnly):
    """GPT-2 with its language-model head.

    Parameters
    ----------
    config : GPT2Config, or its fields as keywords

    Examples
    --------
    >>> import numpy as np, seqloom as sl
    >>> model = sl.models.GPT2(vocab_size=100, n_positions=32, n_embd=16, n_layer=2, n_head=2)
    >>> model(np.array([[1, 2, 3]])).shape
    (1, 3, 100)
    """

    config_class = GPT2Config
    architectures = ("GPT2LMHeadModel", "GPT2Model")

    def __init__(self, config: GPT2Config | None = None, **fields: Any) -> None:
        super().__init__(config, **fields)
        self.transformer = GPT2Body(self.config)
        self.lm_head = Linear(self.config.n_embd, self.config.vocab_size, bias=False)
        self.apply(self._initialise)
        if self.config.tie_word_embeddings:
            self.lm_head.weight = self.transformer.wte.weight

    @classmethod
    def checkpoint_rules(cls) -> CheckpointRules:
        return CheckpointRules(
            prefix="transformer.",
            transposed=(r".*\.(c_attn|c_proj|c_fc)\.weight",),
            # masks that older checkpoints hold
            ignored=(r".*\.attn\.(bias|masked_bias)",),
        )

    def _initialise(self, module: Module) -> None:
        std = self.config.initializer_range
        initialise(module, std)
        if isinstance(module, GPT2Block):  # what ends on the residual path is smaller
            for part in (module.attn.c_proj, module.mlp.c_proj):
                init.normal_(part.weight, 0.0, std / math.sqrt(2 * self.config.n_layer))

    @property
    def max_positions(self) -> int:
        return int(self.config.n_positions)

    def cache_shape(self) -> tuple[int, int, int]:
        config = self.config
        return config.n_layer, config.n_head, config.n_embd // config.n_head

    def attention_dropout(self) -> float:
        return float(self.config.attn_pdrop)

    def body(self, ids: Tensor, positions: Positions, memory: Memory) -> Tensor:
        return self.transformer.forward(ids, positions, memory)
