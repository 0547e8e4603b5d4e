# SPDX-License-Identifier: Apache-2.0
"""T5: pre-norm encoder-decoder with learned biases for relative positions (v1.0 and v1.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from .. import ops
from ..generation.cache import KVCache
from ..nn import Embedding, Linear, Module, ModuleList, RMSNorm, init
from ..nn.positions import relative_buckets
from ..tensor import Tensor, from_numpy
from . import layers
from .base import CheckpointRules
from .config import Config
from .encoder_decoder import EncoderDecoder, Maps, Memory
from .inputs import NO_PADDING, Padding
from .layers import Attention, Group, activated, dropped

_LARGEST_HALF = 64504.0  # float16 activations are kept this small, as transformers does


@dataclass
class T5Config(Config):
    """Fields of T5's `config.json`."""

    model_type: ClassVar[str] = "t5"
    aliases: ClassVar[dict[str, str]] = {
        "hidden_size": "d_model",
        "num_attention_heads": "num_heads",
        "num_hidden_layers": "num_layers",
        "head_dim": "d_kv",
    }
    required: ClassVar[dict[str, tuple[Any, ...]]] = {
        "is_encoder_decoder": (True, None),
        "is_decoder": (False, None),
    }
    choices: ClassVar[dict[str, tuple[Any, ...]]] = {
        "feed_forward_proj": (
            *layers.ACTIVATIONS,
            *(f"gated-{name}" for name in layers.ACTIVATIONS),
        ),
    }

    vocab_size: int = 32128
    d_model: int = 512
    d_kv: int = 64
    d_ff: int = 2048
    num_layers: int = 6
    num_decoder_layers: int | None = None
    num_heads: int = 8
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    dropout_rate: float = 0.1
    layer_norm_epsilon: float = 1e-6
    initializer_factor: float = 1.0
    feed_forward_proj: str = "relu"
    tie_word_embeddings: bool = True
    pad_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 1
    decoder_start_token_id: int | None = 0

    def check(self) -> None:
        if self.num_decoder_layers is None:
            self.num_decoder_layers = self.num_layers
        if self.d_kv > 256:
            self.refuse("d_kv", "be at most 256")
        buckets = self.relative_attention_num_buckets
        if buckets < 4 or buckets % 2:
            self.refuse("relative_attention_num_buckets", "be an even number of at least 4")
        if self.relative_attention_max_distance <= buckets // 2:
            self.refuse("relative_attention_max_distance", f"be above {buckets // 2}")

    @property
    def activation(self) -> str:
        """The name of the feed-forward function; "gated-gelu" means the tanh one."""
        name = self.feed_forward_proj.removeprefix("gated-")
        return "gelu_new" if self.feed_forward_proj == "gated-gelu" else name

    @property
    def gated(self) -> bool:
        return self.feed_forward_proj.startswith("gated-")


class T5FeedForward(Module):
    """wo(f(wi x)), or wo(f(wi_0 x) * wi_1 x)."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.config = config
        for name in ("wi_0", "wi_1") if config.gated else ("wi",):
            self.add_module(name, Linear(config.d_model, config.d_ff, bias=False))
        self.wo = Linear(config.d_ff, config.d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] to [B, T, D]."""
        tree: Any = self
        name = self.config.activation
        if self.config.gated:
            inner = activated(tree.wi_0, x, name) * tree.wi_1(x)
        else:
            inner = activated(tree.wi, x, name)
        out: Tensor = self.wo(dropped(self, inner, self.config.dropout_rate))
        return out


class T5Stack(Module):
    """The encoder, or the decoder.

    A block is a list of layers (attention, cross attention in the decoder, feed-forward), each
    with the norm of its input.
    """

    def __init__(self, config: T5Config, embed: Embedding, decoder: bool) -> None:
        super().__init__()
        self.config, self.decoder = config, decoder
        self.embed_tokens = embed
        depth = config.num_decoder_layers if decoder else config.num_layers
        assert depth is not None
        self.block = ModuleList([Group(layer=self._layers(i)) for i in range(depth)])
        self.final_layer_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)

    def _layers(self, index: int) -> ModuleList:
        config, d = self.config, self.config.d_model
        inner, eps = config.d_kv * config.num_heads, config.layer_norm_epsilon

        def attention() -> Attention:
            names = ("q", "k", "v", "o")
            return Attention(d, inner, config.num_heads, names, False, config.dropout_rate, 1.0)

        first: Any = attention()
        if index == 0:
            first.relative_attention_bias = Embedding(
                config.relative_attention_num_buckets, config.num_heads
            )
        parts: list[Module] = [Group(SelfAttention=first, layer_norm=RMSNorm(d, eps))]
        if self.decoder:
            parts.append(Group(EncDecAttention=attention(), layer_norm=RMSNorm(d, eps)))
        parts.append(Group(DenseReluDense=T5FeedForward(config), layer_norm=RMSNorm(d, eps)))
        return ModuleList(parts)

    @property
    def _table(self) -> Tensor:
        first: Any = self.block[0]
        weight: Tensor = first.layer[0].SelfAttention.relative_attention_bias.weight
        return weight

    def bias(self, positions: np.ndarray[Any, Any], keys: int) -> Tensor:
        """[B, H, n, keys], to add to scores of queries at positions [B, n]."""
        config = self.config
        distance = np.arange(keys) - positions[:, :, None]
        buckets = relative_buckets(
            distance, config.relative_attention_num_buckets,
            config.relative_attention_max_distance, not self.decoder,
        )  # fmt: skip
        table = self._table
        ids = from_numpy(np.ascontiguousarray(buckets)).to(device=table.device)
        return ops.embedding(ids, table).permute(0, 3, 1, 2)

    def step_bias(self, state: Any, n: int) -> Tensor:
        """The bias of n new tokens against all the room of the state."""
        room = state.capacity
        if state.on_device:
            return self._bias_on_device(state)
        if n > 1 or state.first is None:
            positions = state.positions(n)
            return self.bias(positions if state.first is None else positions[:1], room)
        # One token at a position p that all rows share: bias by distance p - j, read backwards,
        # is a window of one table that serves every step.
        table: Tensor | None = getattr(state, "bias_by_distance", None)
        if table is None or table.shape[-1] < 2 * room:
            distances = np.maximum(room - 1 - np.arange(2 * room), 0)
            table = self.bias(distances[:, None, None].reshape(1, -1), 1)  # [1, H, 2 room, 1]
            table = table.reshape(1, -1, 1, 2 * room).contiguous()
            state.bias_by_distance = table
        first = table.shape[-1] // 2 - 1 - state.first
        return table[..., first : first + room]

    def _bias_on_device(self, state: Any) -> Tensor:
        """[B, H, 1, room] for rows whose positions the device alone knows."""
        room = state.capacity
        kept: tuple[Tensor, Tensor] | None = getattr(state, "bias_rows", None)
        if kept is None or kept[1].shape[1] != room:
            # Row p - j + room of the table is for the key at j and the query at p.
            distances = np.arange(-room, room)
            rows = self.bias(distances[None], 1)[0, :, :, 0].permute(1, 0).contiguous()
            places = from_numpy(room - np.arange(room)[None]).to(device=rows.device)
            kept = state.bias_rows = rows, places
        rows, places = kept
        at = ops.minimum(state.where(1) + places, rows.shape[0] - 1)
        bias: Tensor = ops.embedding(at, rows).permute(0, 2, 1)
        return bias.unsqueeze(2)

    def forward(
        self,
        ids: Tensor,
        padding: Padding,
        cross: Memory | None = None,
        maps: tuple[list[Tensor] | None, list[Tensor] | None] = (None, None),
        state: KVCache | None = None,
    ) -> Tensor:
        """Ids [B, T] to normalised states [B, T, D]; `padding` is that of the encoder's keys."""
        config, length = self.config, ids.shape[1]
        p, half = config.dropout_rate, None
        if state is not None:
            bias = self.step_bias(state, length)
        else:
            bias = self.bias(np.arange(length)[None], length)
        own = NO_PADDING if self.decoder else padding
        if own.attn_mask is not None:
            bias = ops.where(own.attn_mask, bias, float("-inf")).to(dtype=bias.dtype)
        x = dropped(self, self.embed_tokens(ids), p)
        half = x.dtype.name == "float16"
        blocks: Any = self.block
        norms = [part.layer_norm for block in blocks for part in block.layer][1:]
        norms.append(self.final_layer_norm)
        todo = iter(norms)
        normed = blocks[0].layer[0].layer_norm(x)
        for index, block in enumerate(blocks):
            for part in block.layer:
                kind = part.named_children()
                name = next(kind)[0]
                if name == "SelfAttention":
                    y = part.SelfAttention(
                        normed, None, own, maps[0], mask=bias, causal=self.decoder,
                        state=state, layer=index,
                    )  # fmt: skip
                elif name == "EncDecAttention":
                    assert cross is not None
                    y = part.EncDecAttention(normed, cross[index], padding, maps[1])
                else:
                    y = part.DenseReluDense(normed)
                norm = next(todo)
                y = dropped(self, y, p)
                if half:
                    y = y.clamp(-_LARGEST_HALF, _LARGEST_HALF)
                normed, x = ops.add_rms_norm(y, x, norm.weight, eps=norm.eps)
        return dropped(self, normed, p)


class T5(EncoderDecoder):
    """T5 with its language-model head.

    Parameters
    ----------
    config : T5Config, optional
    **fields
        Fields of the configuration, instead of `config`.

    Examples
    --------
    >>> import numpy as np, seqloom as sl
    >>> model = sl.models.T5(vocab_size=9, d_model=8, d_kv=4, d_ff=16, num_layers=1,
    ...                      num_heads=2).eval()
    >>> model(np.array([[1, 2, 3]]), np.array([[0, 4]])).shape
    (1, 2, 9)
    """

    config_class = T5Config
    architectures = ("T5ForConditionalGeneration",)

    def __init__(self, config: T5Config | None = None, **fields: Any) -> None:
        super().__init__(config, **fields)
        config = self.config
        assert isinstance(config, T5Config)
        with init.skip():
            self.shared = Embedding(config.vocab_size, config.d_model)
            self.encoder = T5Stack(config, self.shared, False)
            self.decoder = T5Stack(config, self.shared, True)
            self.lm_head = Linear(config.d_model, config.vocab_size, bias=False)
            if config.tie_word_embeddings:
                self.lm_head.weight = self.shared.weight
        self.apply(self._initialise)

    def _initialise(self, module: Module) -> None:
        config = self.config
        factor, d = config.initializer_factor, config.d_model
        if isinstance(module, RMSNorm):
            module.reset_parameters()
        elif isinstance(module, Attention):
            inner = config.d_kv * config.num_heads
            stds = {"q": (d * config.d_kv) ** -0.5, "k": d**-0.5, "v": d**-0.5, "o": inner**-0.5}
            for name, std in stds.items():
                init.normal_(getattr(module, name).weight, 0.0, factor * std)
            bias = getattr(module, "relative_attention_bias", None)
            if bias is not None:
                init.normal_(bias.weight, 0.0, factor * d**-0.5)
        elif isinstance(module, T5FeedForward):
            for name, layer in module.named_children():
                assert isinstance(layer, Linear)
                width = config.d_ff if name == "wo" else d
                init.normal_(layer.weight, 0.0, factor * width**-0.5)
        elif module is self:
            init.normal_(self.shared.weight, 0.0, factor)
            if not config.tie_word_embeddings:
                init.normal_(self.lm_head.weight, 0.0, factor)

    @classmethod
    def checkpoint_rules(cls) -> CheckpointRules:
        unused = r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight"
        return CheckpointRules(ignored=(unused,))

    def _encode(self, ids: Tensor, padding: Padding, maps: list[Tensor] | None) -> Tensor:
        states: Tensor = self.encoder(ids, padding, maps=(maps, None))
        return states

    def _cross(self, memory: Tensor) -> Memory:
        blocks: Any = self.decoder.block
        return [block.layer[1].EncDecAttention.project(memory) for block in blocks]

    def _decode(
        self,
        ids: Tensor,
        cross: Memory,
        padding: Padding,
        maps: Maps | None,
        state: KVCache | None,
    ) -> Tensor:
        two = (None, None) if maps is None else (maps["decoder"], maps["cross"])
        states: Tensor = self.decoder(ids, padding, cross, two, state)
        # A tied head wants the states smaller, as in the Mesh TensorFlow original.
        return states * self.config.d_model**-0.5 if self.config.tie_word_embeddings else states

    def _cache_shape(self) -> tuple[int, int, int]:
        config = self.config
        return config.num_decoder_layers, config.num_heads, config.d_kv
