# SPDX-License-Identifier: Apache-2.0
"""The encoder and decoder of "Attention is all you need", by torch's signatures and names."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from .. import ops
from ..creation import zeros
from ..tensor import Tensor
from . import init
from .activation import Dropout
from .attention import MultiheadAttention
from .container import ModuleList
from .linear import LayerNorm, Linear, positive
from .module import Module

_FUSED: dict[Any, str] = {ops.relu: "relu", ops.gelu: "gelu", ops.silu: "silu"}


class _Layer(Module):
    """Linear maps, residuals and norms that encoder and decoder layers share."""

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int,
        dropout: float,
        activation: str | Callable[[Tensor], Tensor],
        layer_norm_eps: float,
        batch_first: bool,
        norm_first: bool,
        bias: bool,
        device: Any,
        dtype: Any,
        norms: int,
    ) -> None:
        super().__init__()
        owner = type(self).__name__
        positive(owner, d_model=d_model, nhead=nhead, dim_feedforward=dim_feedforward)
        self._fused: str | None = None
        self.activation: Callable[[Tensor], Tensor] | None = None
        if isinstance(activation, str):
            if activation not in ("relu", "gelu", "gelu_tanh", "silu"):
                raise ValueError(
                    f"{owner}: activation must be 'relu', 'gelu', 'gelu_tanh', 'silu' or a"
                    f" function, got {activation!r}"
                )
            self._fused = activation
        elif callable(activation):
            self._fused = _FUSED.get(activation)
            self.activation = None if self._fused else activation
        else:
            raise TypeError(
                f"{owner}: activation must be a string or a function, got"
                f" {type(activation).__name__}"
            )
        self.norm_first = norm_first

        def attention() -> MultiheadAttention:
            return MultiheadAttention(
                d_model, nhead, dropout, bias, batch_first=batch_first, device=device, dtype=dtype
            )

        self.self_attn = attention()
        if norms == 3:
            self.multihead_attn = attention()
        self.linear1 = Linear(d_model, dim_feedforward, bias, device, dtype)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias, device, dtype)
        for i in range(1, norms + 1):
            norm = LayerNorm(d_model, layer_norm_eps, bias=bias, device=device, dtype=dtype)
            setattr(self, f"norm{i}", norm)
        for i in range(1, norms + 1):
            setattr(self, f"dropout{i}", Dropout(dropout))

    norm1: LayerNorm
    norm2: LayerNorm
    norm3: LayerNorm
    dropout1: Dropout
    dropout2: Dropout
    dropout3: Dropout

    def _feed_forward(self, x: Tensor) -> Tensor:
        hidden = self.linear1.activated(x, self._fused)
        if self.activation is not None:
            hidden = self.activation(hidden)
        y: Tensor = self.linear2(self.dropout(hidden))
        return y

    def _joined(
        self, x: Tensor, residual: Tensor, drop: Dropout, norm: LayerNorm
    ) -> tuple[Tensor, Tensor]:
        """norm(s) and s = residual + dropout(x), in one pass."""
        return ops.add_layer_norm(drop(x), residual, norm.weight, norm.bias, eps=norm.eps)

    def _stack(self, x: Tensor, blocks: list[Callable[[Tensor], Tensor]]) -> Tensor:
        """Every block with its residual; norms before the blocks or after the sums."""
        norms = [getattr(self, f"norm{i}") for i in range(1, len(blocks) + 1)]
        drops = [getattr(self, f"dropout{i}") for i in range(1, len(blocks) + 1)]
        if not self.norm_first:
            for block, norm, drop in zip(blocks, norms, drops, strict=True):
                x = self._joined(block(x), x, drop, norm)[0]
            return x
        h = norms[0](x)
        for i, block in enumerate(blocks):
            y = block(h)
            if i + 1 < len(blocks):
                h, x = self._joined(y, x, drops[i], norms[i + 1])
            else:
                x = x + drops[i](y)
        return x


class TransformerEncoderLayer(_Layer):
    """Self-attention and a feed-forward network, each with residual and layer norm.

    Parameters
    ----------
    d_model, nhead : int
    dim_feedforward : int
    dropout : float
    activation : {"relu", "gelu", "gelu_tanh", "silu"} or function of a Tensor
    layer_norm_eps : float
    batch_first : bool
        [B, T, E] instead of [T, B, E].
    norm_first : bool
        Norms before attention and network instead of after the sums.
    bias : bool

    Examples
    --------
    >>> import seqloom as sl
    >>> sl.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)(sl.ones(2, 3, 8)).shape
    (2, 3, 8)
    """

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Callable[[Tensor], Tensor] = "relu",
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, batch_first,
            norm_first, bias, device, dtype, norms=2,
        )  # fmt: skip

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """
        Parameters
        ----------
        src : [T, B, E] ([B, T, E] with batch_first), or [T, E]
        src_mask : [T, T] or [B * H, T, T], optional
            bool, True = hidden, or numbers to add to the scores.
        src_key_padding_mask : [B, T], optional
        is_causal : bool
            Step i sees steps up to i; no mask is needed for that.

        Returns
        -------
        as src
        """

        def attend(x: Tensor) -> Tensor:
            return self.self_attn(  # type: ignore[no-any-return]
                x, x, x, src_key_padding_mask, False, src_mask, is_causal=is_causal
            )[0]

        return self._stack(src, [attend, self._feed_forward])


class TransformerDecoderLayer(_Layer):
    """Self-attention, attention to the encoder's output, and a feed-forward network.

    Parameters
    ----------
    d_model, nhead : int
    dim_feedforward : int
    dropout : float
    activation : {"relu", "gelu", "gelu_tanh", "silu"} or function of a Tensor
    layer_norm_eps : float
    batch_first, norm_first, bias : bool
        As in :class:`TransformerEncoderLayer`.

    Examples
    --------
    >>> import seqloom as sl
    >>> layer = sl.nn.TransformerDecoderLayer(8, 2, 16, batch_first=True)
    >>> layer(sl.ones(2, 3, 8), sl.ones(2, 5, 8)).shape
    (2, 3, 8)
    """

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Callable[[Tensor], Tensor] = "relu",
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, batch_first,
            norm_first, bias, device, dtype, norms=3,
        )  # fmt: skip

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> Tensor:
        """
        Parameters
        ----------
        tgt : [T, B, E] ([B, T, E] with batch_first), or [T, E]
        memory : [S, B, E], laid out as tgt
            The encoder's output.
        tgt_mask, memory_mask : [T, T] and [T, S], optional
            bool, True = hidden, or numbers to add to the scores.
        tgt_key_padding_mask, memory_key_padding_mask : [B, T] and [B, S], optional
        tgt_is_causal, memory_is_causal : bool
            Step i sees steps up to i; no mask is needed for that.

        Returns
        -------
        as tgt
        """

        def attend(x: Tensor) -> Tensor:
            return self.self_attn(  # type: ignore[no-any-return]
                x, x, x, tgt_key_padding_mask, False, tgt_mask, is_causal=tgt_is_causal
            )[0]

        def look(x: Tensor) -> Tensor:
            return self.multihead_attn(  # type: ignore[no-any-return]
                x, memory, memory, memory_key_padding_mask, False, memory_mask,
                is_causal=memory_is_causal,
            )[0]  # fmt: skip

        return self._stack(tgt, [attend, look, self._feed_forward])


def _copies(owner: str, layer: Module, count: int) -> ModuleList:
    positive(owner, num_layers=count)
    return ModuleList(copy.deepcopy(layer) for _ in range(count))


class TransformerEncoder(Module):
    """Copies of an encoder layer, one after the other.

    Parameters
    ----------
    encoder_layer : TransformerEncoderLayer
        Copied with its values.
    num_layers : int
    norm : Module, optional
        Applied at the end.
    enable_nested_tensor, mask_check : bool
        Of torch's signature, without effect.

    Examples
    --------
    >>> import seqloom as sl
    >>> layer = sl.nn.TransformerEncoderLayer(8, 2, 16)
    >>> sl.nn.TransformerEncoder(layer, 2)(sl.ones(3, 1, 8)).shape
    (3, 1, 8)
    """

    def __init__(
        self,
        encoder_layer: Module,
        num_layers: int,
        norm: Module | None = None,
        enable_nested_tensor: bool = True,
        mask_check: bool = True,
    ) -> None:
        super().__init__()
        self.layers = _copies("TransformerEncoder", encoder_layer, num_layers)
        self.num_layers = num_layers
        self.norm = norm

    def forward(
        self,
        src: Tensor,
        mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool | None = None,
    ) -> Tensor:
        """Arguments of the layers' forward; [T, B, E] to the same shape."""
        x = src
        for layer in self.layers:
            x = layer(x, mask, src_key_padding_mask, bool(is_causal))
        return x if self.norm is None else self.norm(x)


class TransformerDecoder(Module):
    """Copies of a decoder layer, one after the other.

    Parameters
    ----------
    decoder_layer : TransformerDecoderLayer
        Copied with its values.
    num_layers : int
    norm : Module, optional
        Applied at the end.

    Examples
    --------
    >>> import seqloom as sl
    >>> layer = sl.nn.TransformerDecoderLayer(8, 2, 16)
    >>> sl.nn.TransformerDecoder(layer, 2)(sl.ones(3, 1, 8), sl.ones(5, 1, 8)).shape
    (3, 1, 8)
    """

    def __init__(self, decoder_layer: Module, num_layers: int, norm: Module | None = None) -> None:
        super().__init__()
        self.layers = _copies("TransformerDecoder", decoder_layer, num_layers)
        self.num_layers = num_layers
        self.norm = norm

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> Tensor:
        """Arguments of the layers' forward; [T, B, E] to the same shape."""
        x = tgt
        for layer in self.layers:
            x = layer(
                x, memory, tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask,
                bool(tgt_is_causal), memory_is_causal,
            )  # fmt: skip
        return x if self.norm is None else self.norm(x)


class Transformer(Module):
    """Encoder and decoder, without embeddings and head (those are in ``sl.models.Transformer``).

    Parameters
    ----------
    d_model, nhead, num_encoder_layers, num_decoder_layers, dim_feedforward : int
    dropout : float
    activation : {"relu", "gelu", "gelu_tanh", "silu"} or function of a Tensor
    custom_encoder, custom_decoder : Module, optional
        Instead of the standard ones.
    layer_norm_eps : float
    batch_first, norm_first, bias : bool
        As in :class:`TransformerEncoderLayer`.

    Examples
    --------
    >>> import seqloom as sl
    >>> model = sl.nn.Transformer(8, 2, 1, 1, 16, batch_first=True)
    >>> model(sl.ones(2, 5, 8), sl.ones(2, 3, 8), tgt_is_causal=True).shape
    (2, 3, 8)
    """

    def __init__(
        self,
        d_model: int = 512,
        nhead: int = 8,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Callable[[Tensor], Tensor] = "relu",
        custom_encoder: Module | None = None,
        custom_decoder: Module | None = None,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        options = (
            d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, batch_first,
            norm_first, bias, device, dtype,
        )  # fmt: skip

        def norm() -> LayerNorm:
            return LayerNorm(d_model, layer_norm_eps, bias=bias, device=device, dtype=dtype)

        self.d_model, self.nhead, self.batch_first = d_model, nhead, batch_first
        self.encoder = custom_encoder or TransformerEncoder(
            TransformerEncoderLayer(*options), num_encoder_layers, norm()
        )
        self.decoder = custom_decoder or TransformerDecoder(
            TransformerDecoderLayer(*options), num_decoder_layers, norm()
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for p in self.parameters():
            if p.ndim > 1:
                init.xavier_uniform_(p)

    def forward(
        self,
        src: Tensor,
        tgt: Tensor,
        src_mask: Tensor | None = None,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        src_is_causal: bool | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> Tensor:
        """
        Parameters
        ----------
        src : [S, B, E] ([B, S, E] with batch_first), or [S, E]
        tgt : [T, B, E], laid out as src
        src_mask, tgt_mask, memory_mask : [S, S], [T, T] and [T, S], optional
            bool, True = hidden, or numbers to add to the scores.
        src_key_padding_mask, tgt_key_padding_mask, memory_key_padding_mask : [B, S], [B, T], [B, S]
        src_is_causal, tgt_is_causal, memory_is_causal : bool
            Step i sees steps up to i; no mask is needed for that.

        Returns
        -------
        as tgt
        """
        if src.shape[-1] != self.d_model or tgt.shape[-1] != self.d_model:
            raise ValueError(
                f"Transformer: src and tgt must end with d_model = {self.d_model}, got"
                f" {list(src.shape)} and {list(tgt.shape)}"
            )
        memory = self.encoder(src, src_mask, src_key_padding_mask, src_is_causal)
        return self.decoder(  # type: ignore[no-any-return]
            tgt, memory, tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask,
            tgt_is_causal, memory_is_causal,
        )  # fmt: skip

    @staticmethod
    def generate_square_subsequent_mask(sz: int, device: Any = None, dtype: Any = None) -> Tensor:
        """[sz, sz] with -inf above the diagonal and 0 elsewhere.

        >>> import seqloom as sl
        >>> sl.nn.Transformer.generate_square_subsequent_mask(2).tolist()
        [[0.0, -inf], [0.0, 0.0]]
        """
        ones = zeros(sz, sz, dtype="float32", device=device) + 1.0
        hidden = ones.triu(1) > 0
        return zeros(sz, sz, dtype=dtype, device=device).masked_fill(hidden, float("-inf"))
