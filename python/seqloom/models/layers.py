# SPDX-License-Identifier: Apache-2.0
"""Pieces that pretrained families share: activations by name, heads, groups, initial values."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .. import ops
from ..nn import Embedding, LayerNorm, Linear, Module, QuantizedLinear, RMSNorm, init
from ..ops._arrays import on_tensors
from ..tensor import Tensor
from .inputs import NO_PADDING, Padding

Function = Callable[[Tensor], Tensor]

# Between the layers of a decoder, where each step of a token counts.
add_layer_norm = on_tensors(ops.add_layer_norm)
add_rms_norm = on_tensors(ops.add_rms_norm)
rotary_embedding = on_tensors(ops.rotary_embedding)
swiglu = on_tensors(ops.swiglu)


def _gelu_tanh(x: Tensor) -> Tensor:
    return ops.gelu(x, "tanh")


def _quick_gelu(x: Tensor) -> Tensor:
    return x * ops.sigmoid(x * 1.702)


# transformers' name -> (name in ops.linear, function)
_ACTIVATIONS: dict[str, tuple[str | None, Function]] = {
    "gelu": ("gelu", ops.gelu),
    "gelu_fast": ("gelu_tanh", _gelu_tanh),
    "gelu_new": ("gelu_tanh", _gelu_tanh),
    "gelu_python": ("gelu", ops.gelu),
    "gelu_pytorch_tanh": ("gelu_tanh", _gelu_tanh),
    "quick_gelu": (None, _quick_gelu),
    "relu": ("relu", ops.relu),
    "sigmoid": (None, ops.sigmoid),
    "silu": ("silu", ops.silu),
    "swish": ("silu", ops.silu),
    "tanh": (None, ops.tanh),
}
ACTIVATIONS: tuple[str, ...] = tuple(_ACTIVATIONS)


def activation(name: str) -> Function:
    """The function that transformers calls by this name."""
    return _ACTIVATIONS[name][1]


def activated(layer: Any, x: Tensor, name: str) -> Tensor:
    """``activation(layer(x))``, in one kernel where there is one."""
    fused, function = _ACTIVATIONS[name]
    if fused is not None and type(layer) in (Linear, QuantizedLinear):
        y: Tensor = layer.activated(x, fused)
        return y
    return function(layer(x))


class Group(Module):
    """Modules under names, for trees that a checkpoint prescribes.

    >>> list(Group(dense=Linear(1, 1)).state_dict())
    ['dense.weight', 'dense.bias']
    """

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    def __init__(self, /, **modules: Module) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[B, T, H D] as [B, H, T, D]."""
    batch, length, width = x.shape
    return x.reshape(batch, length, heads, width // heads).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """[B, H, T, D] as [B, T, H D]."""
    batch, heads, length, width = x.shape
    return x.transpose(1, 2).reshape(batch, length, heads * width)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    padding: Padding,
    maps: list[Tensor] | None = None,
    **options: Any,
) -> Tensor:
    """Attention of heads [B, H, T, D], merged to [B, T, H D]; weights are appended to `maps`."""
    mask = options.pop("attn_mask", padding.attn_mask)
    y = ops.scaled_dot_product_attention(
        query, key, value, mask, key_lengths=padding.key_lengths,
        return_weights=maps is not None, **options,
    )  # fmt: skip
    if maps is not None:
        y, weights = y
        maps.append(weights)
    return merge_heads(y)


def dropped(module: Module, x: Tensor, p: float) -> Tensor:
    """x with dropout, when the module is in training."""
    return ops.dropout(x, p) if module.training and p > 0 else x


def initialise(module: Module, std: float) -> None:
    """What transformers' `_init_weights` does for most families."""
    if isinstance(module, Linear):
        init.normal_(module.weight, 0.0, std)
        if module.bias is not None:
            init.zeros_(module.bias)
    elif isinstance(module, Embedding):
        init.normal_(module.weight, 0.0, std)
        if module.padding_idx is not None:
            init.zeros_(module.weight.detach()[module.padding_idx])
    elif isinstance(module, LayerNorm | RMSNorm):
        module.reset_parameters()


class Attention(Module):
    """Query, key, value and output projections around attention, for trees of many names.

    Parameters
    ----------
    width, inner, heads : int
        x is [B, T, width]; the heads have inner / heads columns each.
    names : four strings
        Of the projections in the tree: query, key, value, output.
    bias : bool
    dropout : float
        On the attention weights, in training.
    scale : float, optional
        1 / sqrt(head width) by default.
    """

    def __init__(
        self,
        width: int,
        inner: int,
        heads: int,
        names: tuple[str, str, str, str],
        bias: bool,
        dropout: float,
        scale: float | None = None,
    ) -> None:
        super().__init__()
        self.heads, self.names = heads, names
        self.dropout, self.scale = dropout, scale
        for name in names:
            sizes = (inner, width) if name == names[3] else (width, inner)
            self.add_module(name, Linear(*sizes, bias=bias))

    def project(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [B, H, S, D] of what is attended to, [B, S, width]."""
        _, key, value, _ = self.names
        return (
            split_heads(getattr(self, key)(memory), self.heads),
            split_heads(getattr(self, value)(memory), self.heads),
        )

    def forward(
        self,
        x: Tensor,
        memory: tuple[Tensor, Tensor] | None = None,
        padding: Padding = NO_PADDING,
        maps: list[Tensor] | None = None,
        *,
        mask: Tensor | None = None,
        causal: bool = False,
        state: Any = None,
        layer: int = 0,
    ) -> Tensor:
        """
        Parameters
        ----------
        x : [B, T, width]
        memory : (keys, values) [B, H, S, D], optional
            What `project` gave; x itself by default.
        padding : Padding of the keys
        maps : list, optional
            Gets the weights.
        mask : Tensor, optional
            Added to the scores, instead of ``padding.attn_mask``.
        state : KVCache, optional
            Keeps keys and values of x as those of layer `layer`.
        """
        query = split_heads(getattr(self, self.names[0])(x), self.heads)
        key, value = self.project(x) if memory is None else memory
        if state is not None and memory is None:
            y = merge_heads(state.attend(layer, query, key, value, scale=self.scale, mask=mask))
        else:
            y = attention(
                query, key, value, padding, maps,
                attn_mask=padding.attn_mask if mask is None else mask, is_causal=causal,
                scale=self.scale, dropout_p=self.dropout if self.training else 0.0,
            )  # fmt: skip
        out: Tensor = getattr(self, self.names[3])(y)
        return out
