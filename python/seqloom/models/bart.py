# SPDX-License-Identifier: Apache-2.0
"""BART and Marian: post-norm encoder-decoders with learned or sinusoidal positions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from .. import ops
from ..creation import rand, zeros
from ..generation.cache import KVCache
from ..nn import Embedding, LayerNorm, Linear, Module, ModuleList, init
from ..tensor import Tensor, from_numpy
from . import layers
from .base import CheckpointRules
from .config import Config
from .encoder_decoder import EncoderDecoder, Maps, Memory
from .inputs import NO_PADDING, Padding
from .layers import Attention, activated, dropped


@dataclass
class BartConfig(Config):
    """Fields of BART's `config.json`."""

    model_type: ClassVar[str] = "bart"
    aliases: ClassVar[dict[str, str]] = {"hidden_size": "d_model"}
    choices: ClassVar[dict[str, tuple[Any, ...]]] = {"activation_function": layers.ACTIVATIONS}
    required: ClassVar[dict[str, tuple[Any, ...]]] = {
        "add_final_layer_norm": (False, None),
        "is_decoder": (False, None),
        "is_encoder_decoder": (True, None),
        "normalize_before": (False, None),
        "normalize_embedding": (True, None),
        "static_position_embeddings": (False, None),
    }

    vocab_size: int = 50265
    max_position_embeddings: int = 1024
    encoder_layers: int = 12
    encoder_ffn_dim: int = 4096
    encoder_attention_heads: int = 16
    decoder_layers: int = 12
    decoder_ffn_dim: int = 4096
    decoder_attention_heads: int = 16
    activation_function: str = "gelu"
    d_model: int = 1024
    dropout: float = 0.1
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    encoder_layerdrop: float = 0.0
    decoder_layerdrop: float = 0.0
    init_std: float = 0.02
    scale_embedding: bool = False
    tie_word_embeddings: bool = True
    pad_token_id: int | None = 1
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 2
    decoder_start_token_id: int | None = 2
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | list[int] | None = 2

    def check(self) -> None:
        for name in ("encoder_attention_heads", "decoder_attention_heads"):
            if self.d_model % getattr(self, name):
                self.refuse("d_model", f"be a multiple of {name} = {getattr(self, name)}")
            if self.d_model // getattr(self, name) > 256:
                self.refuse(name, "leave heads of at most 256 columns")
        if self.extra.get("force_bos_token_to_be_generated") and self.forced_bos_token_id is None:
            self.forced_bos_token_id = self.bos_token_id

    @property
    def target_vocab(self) -> int:
        """How many words the decoder knows."""
        return self.vocab_size


@dataclass
class MarianConfig(BartConfig):
    """Fields of Marian's `config.json`: sinusoidal positions, perhaps two vocabularies."""

    model_type: ClassVar[str] = "marian"
    required: ClassVar[dict[str, tuple[Any, ...]]] = {
        **BartConfig.required,
        "normalize_embedding": (False, None),
        "static_position_embeddings": (True, None),
    }

    vocab_size: int = 58101
    decoder_vocab_size: int | None = None
    share_encoder_decoder_embeddings: bool = True
    pad_token_id: int | None = 58100
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = 0
    decoder_start_token_id: int | None = 58100
    forced_eos_token_id: int | list[int] | None = 0

    @property
    def target_vocab(self) -> int:
        if self.share_encoder_decoder_embeddings or self.decoder_vocab_size is None:
            return self.vocab_size
        return self.decoder_vocab_size


_NAMES = ("q_proj", "k_proj", "v_proj", "out_proj")


class BartLayer(Module):
    """One layer of the encoder, or of the decoder, which has cross attention."""

    def __init__(self, config: BartConfig, decoder: bool) -> None:
        super().__init__()
        self.config, self.decoder = config, decoder
        d = config.d_model
        heads = config.decoder_attention_heads if decoder else config.encoder_attention_heads
        inner = config.decoder_ffn_dim if decoder else config.encoder_ffn_dim
        p = config.attention_dropout
        self.self_attn = Attention(d, d, heads, _NAMES, True, p)
        self.self_attn_layer_norm = LayerNorm(d)
        if decoder:
            self.encoder_attn = Attention(d, d, heads, _NAMES, True, p)
            self.encoder_attn_layer_norm = LayerNorm(d)
        self.fc1 = Linear(d, inner)
        self.fc2 = Linear(inner, d)
        self.final_layer_norm = LayerNorm(d)

    def _added(self, y: Tensor, x: Tensor, norm: LayerNorm) -> Tensor:
        y = dropped(self, y, self.config.dropout)
        normed: Tensor = ops.add_layer_norm(y, x, norm.weight, norm.bias, eps=norm.eps)[0]
        return normed

    def forward(
        self,
        x: Tensor,
        padding: Padding,
        memory: tuple[Tensor, Tensor] | None,
        maps: tuple[list[Tensor] | None, list[Tensor] | None],
        state: KVCache | None,
        index: int,
    ) -> Tensor:
        """[B, T, D] to [B, T, D]; `padding` is that of the encoder's keys."""
        own = NO_PADDING if self.decoder else padding
        y = self.self_attn(x, None, own, maps[0], causal=self.decoder, state=state, layer=index)
        x = self._added(y, x, self.self_attn_layer_norm)
        if memory is not None:
            y = self.encoder_attn(x, memory, padding, maps[1])
            x = self._added(y, x, self.encoder_attn_layer_norm)
        y = activated(self.fc1, x, self.config.activation_function)
        y = self.fc2(dropped(self, y, self.config.activation_dropout))
        return self._added(y, x, self.final_layer_norm)


def _marian_sinusoids(length: int, width: int) -> np.ndarray[Any, Any]:
    """float32 [length, width]: all sines first, then all cosines."""
    angle = np.arange(length)[:, None] / np.power(10000, 2 * (np.arange(width) // 2) / width)
    return np.concatenate([np.sin(angle[:, 0::2]), np.cos(angle[:, 1::2])], 1).astype(np.float32)


class BartStack(Module):
    """The encoder, or the decoder: embedded words and positions, then layers."""

    layers: ModuleList

    def __init__(self, config: BartConfig, embed: Embedding, decoder: bool) -> None:
        super().__init__()
        self.config, self.decoder = config, decoder
        self.embed_tokens = embed
        d = config.d_model
        self.learned = not isinstance(config, MarianConfig)
        if self.learned:
            # The first two rows of the table belong to no position.
            self.embed_positions = Embedding(config.max_position_embeddings + 2, d)
        self._sinusoids: Tensor | None = None
        depth = config.decoder_layers if decoder else config.encoder_layers
        self.layers = ModuleList([BartLayer(config, decoder) for _ in range(depth)])
        if self.learned:
            self.layernorm_embedding = LayerNorm(d)

    def _positions(self, state: KVCache | None, length: int) -> Tensor:
        """[T, D], or [B, T, D] where rows differ."""
        most, skipped = self.config.max_position_embeddings, 2 if self.learned else 0
        if state is not None and state.on_device:
            # Generation stays below the longest; room for more than that is never reached.
            table = self.embed_positions.weight if self.learned else self._table(state.capacity)
            at = ops.minimum(state.where(length) + skipped, table.shape[0] - 1)
            return ops.embedding(at, table)
        first = 0 if state is None else state.first
        before = first if state is None or first is not None else int(state.lengths.max())
        last = length + (before or 0)
        if last > most:
            owner = "Bart" if self.learned else "Marian"
            raise ValueError(f"{owner}: a sequence must have at most {most} positions, got {last}")
        table = self.embed_positions.weight if self.learned else self._table(last)
        if first is not None:
            return table[first + skipped : last + skipped]
        assert state is not None
        rows: Tensor = ops.embedding(state.where(length) + skipped, table)
        return rows

    def _table(self, length: int) -> Tensor:
        """Sinusoids of at least so many positions, kept for the next call."""
        kept, device = self._sinusoids, self.embed_tokens.weight.device
        if kept is None or kept.shape[0] < length or kept.device != device:
            rows = max(length, 64, 0 if kept is None else 2 * kept.shape[0])
            kept = from_numpy(_marian_sinusoids(rows, self.config.d_model)).to(device=device)
            self._sinusoids = kept
        return kept

    def forward(
        self,
        ids: Tensor,
        padding: Padding,
        cross: Memory | None = None,
        maps: tuple[list[Tensor] | None, list[Tensor] | None] = (None, None),
        state: KVCache | None = None,
    ) -> Tensor:
        """Ids [B, T] to states [B, T, D]; `padding` is that of the encoder's keys."""
        config = self.config
        x: Tensor = self.embed_tokens(ids)
        if config.scale_embedding:
            x = x * math.sqrt(config.d_model)
        x = x + self._positions(state, ids.shape[1]).to(dtype=x.dtype)
        if self.learned:
            x = self.layernorm_embedding(x)
        x = dropped(self, x, config.dropout)
        drop = config.decoder_layerdrop if self.decoder else config.encoder_layerdrop
        for index, layer in enumerate(self.layers):
            if self.training and drop > 0 and rand(1).item() < drop:
                continue
            x = layer(x, padding, None if cross is None else cross[index], maps, state, index)
        return x


class _BartTree(Module):
    """The tree below "model."."""

    def __init__(self, config: BartConfig) -> None:
        super().__init__()
        d, padding = config.d_model, config.pad_token_id
        apart = isinstance(config, MarianConfig) and not config.share_encoder_decoder_embeddings
        source = target = Embedding(config.vocab_size, d, padding)
        if apart:
            inside = padding is not None and padding < config.target_vocab
            target = Embedding(config.target_vocab, d, padding if inside else None)
        else:
            self.shared = source
        self.encoder = BartStack(config, source, False)
        self.decoder = BartStack(config, target, True)


class Bart(EncoderDecoder):
    """BART with its language-model head.

    Parameters
    ----------
    config : BartConfig, optional
    **fields
        Fields of the configuration, instead of `config`.

    Examples
    --------
    >>> import numpy as np, seqloom as sl
    >>> model = sl.models.Bart(vocab_size=9, d_model=8, encoder_layers=1, decoder_layers=1,
    ...     encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16,
    ...     decoder_ffn_dim=16, max_position_embeddings=12).eval()
    >>> model(np.array([[0, 4, 2]]), np.array([[2, 0]])).shape
    (1, 2, 9)
    """

    config_class = BartConfig
    architectures = ("BartForConditionalGeneration",)

    final_logits_bias: Tensor

    def __init__(self, config: BartConfig | None = None, **fields: Any) -> None:
        super().__init__(config, **fields)
        config = self.config
        assert isinstance(config, BartConfig)
        with init.skip():
            self.model = _BartTree(config)
            self.lm_head = Linear(config.d_model, config.target_vocab, bias=False)
            if config.tie_word_embeddings:
                self.lm_head.weight = self.model.decoder.embed_tokens.weight
        bias = zeros(1, 1).expand(1, config.target_vocab)
        self.register_buffer("final_logits_bias", bias if init.only_shapes() else bias.clone())
        self.apply(self._initialise)

    def _initialise(self, module: Module) -> None:
        layers.initialise(module, self.config.init_std)

    @classmethod
    def checkpoint_rules(cls) -> CheckpointRules:
        return CheckpointRules(
            prefix="model.",
            ignored=(r"(model\.)?(en|de)coder\.version",),
            optional=("final_logits_bias",),
        )

    @property
    def max_positions(self) -> int | None:
        """The longest text that the decoder has positions for."""
        return int(self.config.max_position_embeddings)

    @property
    def lm_bias(self) -> Tensor:
        """What is added to the logits of `lm_head`, [V]."""
        return self.final_logits_bias.reshape(-1)

    def _logits(self, hidden: Tensor) -> Tensor:
        if type(self.lm_head) is Linear:
            return ops.linear(hidden, self.lm_head.weight, self.lm_bias)
        logits: Tensor = self.lm_head(hidden) + self.lm_bias
        return logits

    def _encode(self, ids: Tensor, padding: Padding, maps: list[Tensor] | None) -> Tensor:
        states: Tensor = self.model.encoder(ids, padding, maps=(maps, None))
        return states

    def _cross(self, memory: Tensor) -> Memory:
        stack: Any = self.model.decoder.layers
        return [layer.encoder_attn.project(memory) for layer in stack]

    def _decode(
        self,
        ids: Tensor,
        cross: Memory,
        padding: Padding,
        maps: Maps | None,
        state: KVCache | None,
    ) -> Tensor:
        two = (None, None) if maps is None else (maps["decoder"], maps["cross"])
        states: Tensor = self.model.decoder(ids, padding, cross, two, state)
        return states

    def _cache_shape(self) -> tuple[int, int, int]:
        config = self.config
        heads = config.decoder_attention_heads
        return config.decoder_layers, heads, config.d_model // heads


class Marian(Bart):
    """Marian's translation models: BART's layers, sinusoidal positions, no embedding norm.

    Examples
    --------
    >>> import numpy as np, seqloom as sl
    >>> model = sl.models.Marian(vocab_size=9, d_model=8, encoder_layers=1, decoder_layers=1,
    ...     encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16,
    ...     decoder_ffn_dim=16, pad_token_id=8, decoder_start_token_id=8).eval()
    >>> model(np.array([[4, 0]]), np.array([[8, 3]])).shape
    (1, 2, 9)
    """

    config_class = MarianConfig
    architectures = ("MarianMTModel",)

    @classmethod
    def checkpoint_rules(cls) -> CheckpointRules:
        return CheckpointRules(
            prefix="model.",
            ignored=(
                r"(model\.)?(en|de)coder\.version",
                r"(model\.)?(en|de)coder\.embed_positions\.weight",
            ),
            optional=("final_logits_bias",),
        )
