# SPDX-License-Identifier: Apache-2.0
"""LLaMA and what follows its plan: Mistral, Qwen2, Qwen3."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..generation import KVCache
from ..nn import Embedding, Linear, Module, ModuleList, RMSNorm
from ..tensor import Tensor
from .base import CheckpointRules
from .config import Config
from .decoder import DecoderOnly, Memory, Positions, merged
from .layers import (
    ACTIVATIONS,
    Group,
    activated,
    add_rms_norm,
    initialise,
    rotary_embedding,
    swiglu,
)
from .rope import LARGEST, Rope, check_scaling


@dataclass
class LlamaConfig(Config):
    """Fields of LLaMA's `config.json`."""

    model_type: ClassVar[str] = "llama"
    choices: ClassVar[dict[str, tuple[Any, ...]]] = {"hidden_act": ACTIVATIONS}
    required: ClassVar[dict[str, tuple[Any, ...]]] = {"partial_rotary_factor": (1.0, None)}

    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    hidden_act: str = "silu"
    max_position_embeddings: int = 2048
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_scaling: dict[str, Any] | None = None
    attention_bias: bool = False
    attention_dropout: float = 0.0
    mlp_bias: bool = False
    pad_token_id: int | None = None
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    tie_word_embeddings: bool = False

    def check(self) -> None:
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.num_attention_heads % self.num_key_value_heads:
            self.refuse(
                "num_key_value_heads",
                f"divide num_attention_heads = {self.num_attention_heads}",
            )
        if self.head_dim is None:
            if self.hidden_size % self.num_attention_heads:
                self.refuse(
                    "hidden_size",
                    f"be a multiple of num_attention_heads = {self.num_attention_heads}",
                )
            self.head_dim = self.hidden_size // self.num_attention_heads
        if self.head_dim % 2 or self.head_dim > 256:
            self.refuse("head_dim", "be even and at most 256")
        # Newer files have the base and the scaling in one field.
        newer = self.extra.get("rope_parameters")
        if newer is not None:
            if not isinstance(newer, dict):
                self.refuse("rope_parameters", "be an object or null", newer)
            theta = newer.get("rope_theta", self.rope_theta)
            if isinstance(theta, bool) or not isinstance(theta, (int, float)):
                self.refuse("rope_parameters.rope_theta", "be a number", theta)
            self.rope_theta = float(min(theta, 2 * LARGEST))
            scaling = {k: v for k, v in newer.items() if k != "rope_theta"}
            check_scaling(self.refuse, scaling)
            if scaling.get("rope_type", scaling.get("type", "default")) != "default":
                self.rope_scaling = scaling
        if not 1 < self.rope_theta <= LARGEST:
            self.refuse("rope_theta", f"be above 1 and at most {LARGEST:g}")
        if self.rope_scaling is not None:
            check_scaling(self.refuse, self.rope_scaling)
            kind = self.rope_scaling.get("rope_type", self.rope_scaling.get("type"))
            if kind == "dynamic" and self.head_dim < 4:
                self.refuse("head_dim", "be at least 4 when rope_scaling is dynamic")

    # What the families differ in.

    @property
    def biases(self) -> tuple[bool, bool]:
        """Whether the projections of queries, keys and values have biases; and the one after."""
        return self.attention_bias, self.attention_bias

    @property
    def head_norms(self) -> bool:
        """Whether heads of queries and keys are normalised."""
        return False

    def window(self, layer: int) -> int | None:
        """How many tokens a layer sees, itself included."""
        return None


@dataclass
class MistralConfig(LlamaConfig):
    """Fields of Mistral's `config.json`: every layer sees `sliding_window` tokens."""

    model_type: ClassVar[str] = "mistral"

    intermediate_size: int = 14336
    num_key_value_heads: int | None = 8
    max_position_embeddings: int = 4096 * 32
    sliding_window: int | None = 4096

    @property
    def biases(self) -> tuple[bool, bool]:
        return False, False

    def window(self, layer: int) -> int | None:
        return self.sliding_window


@dataclass
class Qwen2Config(LlamaConfig):
    """Fields of Qwen2's `config.json`: biases, windows from layer `max_window_layers` on."""

    model_type: ClassVar[str] = "qwen2"
    may_be_zero: ClassVar[frozenset[str]] = frozenset({"max_window_layers"})

    vocab_size: int = 151936
    intermediate_size: int = 22016
    num_key_value_heads: int | None = 32
    max_position_embeddings: int = 32768
    use_sliding_window: bool = False
    sliding_window: int | None = 4096
    max_window_layers: int = 28
    layer_types: list[str] | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def check(self) -> None:
        super().check()
        if not self.use_sliding_window:
            self.sliding_window = None
        if self.layer_types is None:
            self.layer_types = [
                "sliding_attention"
                if self.sliding_window is not None and i >= self.max_window_layers
                else "full_attention"
                for i in range(self.num_hidden_layers)
            ]
        kinds = ("full_attention", "sliding_attention")
        if len(self.layer_types) != self.num_hidden_layers or set(self.layer_types) - set(kinds):
            self.refuse("layer_types", f"be {self.num_hidden_layers} of {' and '.join(kinds)}")

    @property
    def biases(self) -> tuple[bool, bool]:
        return True, False

    def window(self, layer: int) -> int | None:
        assert self.layer_types is not None
        return self.sliding_window if self.layer_types[layer] == "sliding_attention" else None


@dataclass
class Qwen3Config(Qwen2Config):
    """Fields of Qwen3's `config.json`: normalised heads instead of biases."""

    model_type: ClassVar[str] = "qwen3"

    head_dim: int | None = 128

    @property
    def biases(self) -> tuple[bool, bool]:
        return self.attention_bias, self.attention_bias

    @property
    def head_norms(self) -> bool:
        return True


class LlamaBlock(Module):
    """The parts of one layer; :class:`LlamaBody` connects them."""

    def __init__(self, config: LlamaConfig, layer: int) -> None:
        super().__init__()
        d, inner, eps = config.hidden_size, config.intermediate_size, config.rms_norm_eps
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        width = config.head_dim
        assert width is not None
        assert kv_heads is not None
        bias, out_bias = config.biases
        self.window = config.window(layer)
        self.input_layernorm = RMSNorm(d, eps)
        self.self_attn = Group(
            q_proj=Linear(d, heads * width, bias),
            k_proj=Linear(d, kv_heads * width, bias),
            v_proj=Linear(d, kv_heads * width, bias),
            o_proj=Linear(heads * width, d, out_bias),
        )
        if config.head_norms:
            self.self_attn.add_module("q_norm", RMSNorm(width, eps))
            self.self_attn.add_module("k_norm", RMSNorm(width, eps))
        self.post_attention_layernorm = RMSNorm(d, eps)
        self.mlp = Group(
            gate_proj=Linear(d, inner, config.mlp_bias),
            up_proj=Linear(d, inner, config.mlp_bias),
            down_proj=Linear(inner, d, config.mlp_bias),
        )


class LlamaBody(Module):
    """Ids to hidden states."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size)
        self.layers = ModuleList(LlamaBlock(config, i) for i in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        assert config.head_dim is not None
        self.rope = Rope(
            config.head_dim,
            config.rope_theta,
            config.rope_scaling,
            config.max_position_embeddings,
        )

    def forward(self, ids: Tensor, positions: Positions, memory: Memory) -> Tensor:
        """Ids [B, T] to [B, T, D]. A sum and the norm after it are one op, across blocks too."""
        config, eps = self.config, self.config.rms_norm_eps
        batch, length = ids.shape
        shape = (batch, length, -1, config.head_dim)
        act = config.hidden_act
        reach = None
        if isinstance(positions, Tensor):
            assert isinstance(memory, KVCache)
            reach = memory.span
        elif self.rope.dynamic is not None and isinstance(memory, KVCache):
            reach = memory.reach()
        cos, sin = self.rope.tables(positions, length, ids.device, reach)
        x = self.embed_tokens(ids)
        blocks = list(self.layers)
        h: Tensor = blocks[0].input_layernorm(x)
        for i, block in enumerate(blocks):
            attention, mlp = block.self_attn, block.mlp
            q = attention.q_proj(h).reshape(shape)
            k = attention.k_proj(h).reshape(shape)
            v = attention.v_proj(h).reshape(shape)
            if config.head_norms:
                q, k = attention.q_norm(q), attention.k_norm(k)
            q = rotary_embedding(q.transpose(1, 2), cos, sin)
            k = rotary_embedding(k.transpose(1, 2), cos, sin)
            left = None if block.window is None else block.window - 1
            a = attention.o_proj(merged(memory.attend(i, q, k, v.transpose(1, 2), left=left)))
            h, x = add_rms_norm(a, x, block.post_attention_layernorm.weight, eps=eps)
            if act == "silu":
                m = swiglu(mlp.gate_proj(h), mlp.up_proj(h))
            else:
                m = activated(mlp.gate_proj, h, act) * mlp.up_proj(h)
            norm = blocks[i + 1].input_layernorm if i + 1 < len(blocks) else self.norm
            h, x = add_rms_norm(mlp.down_proj(m), x, norm.weight, eps=eps)
        return h


class Llama(DecoderOnly):
    """LLaMA with its language-model head.

    Parameters
    ----------
    config : LlamaConfig, or its fields as keywords

    Examples
    --------
    >>> import numpy as np, seqloom as sl
    >>> model = sl.models.Llama(vocab_size=100, hidden_size=16, intermediate_size=32,
    ...                         num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
    >>> model(np.array([[1, 2, 3]])).shape
    (1, 3, 100)
    """

    config_class = LlamaConfig
    architectures: ClassVar[tuple[str, ...]] = ("LlamaForCausalLM", "LlamaModel")

    def __init__(self, config: LlamaConfig | None = None, **fields: Any) -> None:
        super().__init__(config, **fields)
        if isinstance(config, LlamaConfig):  # Llama(MistralConfig()) is a Mistral in its files
            self.__dict__["architectures"] = _ARCHITECTURES[config.model_type]
        self.model = LlamaBody(self.config)
        self.lm_head = Linear(self.config.hidden_size, self.config.vocab_size, bias=False)
        self.apply(self._initialise)
        if self.config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    @classmethod
    def checkpoint_rules(cls) -> CheckpointRules:
        return CheckpointRules(
            prefix="model.", ignored=(r".*rotary_emb\.(inv_freq|cos_cached|sin_cached)",)
        )

    def _initialise(self, module: Module) -> None:
        initialise(module, self.config.initializer_range)

    def cache_shape(self) -> tuple[int, int, int]:
        config = self.config
        return config.num_hidden_layers, config.num_key_value_heads, config.head_dim

    def cache_windows(self) -> list[int | None]:
        return [self.config.window(i) for i in range(self.config.num_hidden_layers)]

    def can_capture(self, state: KVCache, counts: Any) -> bool:
        """Not where the angles may change with the length of the text."""
        rope = self.model.rope
        most = max(state.capacity, int(state.lengths.max(initial=0)) + 1)
        steady = rope.dynamic is None or most <= rope.longest
        return steady and super().can_capture(state, counts)

    def attention_dropout(self) -> float:
        return float(self.config.attention_dropout)

    def body(self, ids: Tensor, positions: Positions, memory: Memory) -> Tensor:
        return self.model.forward(ids, positions, memory)


_ARCHITECTURES = {
    kind: (f"{stem}ForCausalLM", f"{stem}Model")
    for kind, stem in (
        ("llama", "Llama"),
        ("mistral", "Mistral"),
        ("qwen2", "Qwen2"),
        ("qwen3", "Qwen3"),
    )
}


class Mistral(Llama):
    """Mistral: LLaMA with a sliding window. Takes a MistralConfig or its fields."""

    config_class = MistralConfig
    architectures = ("MistralForCausalLM", "MistralModel")


class Qwen2(Llama):
    """Qwen2: LLaMA with biases on queries, keys and values. Takes a Qwen2Config or its fields."""

    config_class = Qwen2Config
    architectures = ("Qwen2ForCausalLM", "Qwen2Model")


class Qwen3(Llama):
    """Qwen3: LLaMA with normalised heads. Takes a Qwen3Config or its fields."""

    config_class = Qwen3Config
    architectures = ("Qwen3ForCausalLM", "Qwen3Model")
