# SPDX-License-Identifier: Apache-2.0
"""What decoder-only models share: whole sequences and single steps through the same layers."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

import numpy as np

from .. import ops
from ..autograd import no_grad
from ..generation import Generative, KVCache, LayeredCache
from ..nn import Embedding, Linear
from ..ops.cache import split_joint
from ..tensor import Tensor, from_numpy
from .base import Model
from .inputs import Padding, as_array, as_ids, as_padding

Ints: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]
# Of the tokens at hand: the position of the first in every row, or int64 [B, T] of them all, as a
# Tensor where only the device knows them.
Positions: TypeAlias = "int | Ints | Tensor"


class Memory(Protocol):
    """What a layer asks for the other tokens: a :class:`KVCache`, or :class:`Whole`."""

    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        scale: float | None = None,
        left: int | None = None,
        slopes: Tensor | None = None,
    ) -> Tensor:
        """Query [B, Hq, T, D] to key and value [B, Hkv, T, D] and those before: [B, Hq, T, D]."""

    def attend_joint(
        self,
        layer: int,
        joint: Tensor,
        heads: int,
        by_head: bool,
        *,
        scale: float | None = None,
        slopes: Tensor | None = None,
    ) -> Tensor:
        """The same of the product [B, T, 3 H D] that made all three; gives [B, T, H D]."""


class Whole:
    """Causal attention within sequences that are there as a whole.

    Parameters
    ----------
    padding : Padding
    dropout : float
    maps : list, optional
        Gets the weights [B, Hq, T, T] of each layer.
    """

    def __init__(
        self, padding: Padding, dropout: float = 0.0, maps: list[Tensor] | None = None
    ) -> None:
        self.padding, self.dropout, self.maps = padding, dropout, maps

    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        scale: float | None = None,
        left: int | None = None,
        slopes: Tensor | None = None,
    ) -> Tensor:
        out = ops.scaled_dot_product_attention(
            query, key, value, self.padding.attn_mask, dropout_p=self.dropout, is_causal=True,
            scale=scale, key_lengths=self.padding.key_lengths, alibi_slopes=slopes,
            window=None if left is None else (left, 0), return_weights=self.maps is not None,
        )  # fmt: skip
        if self.maps is None:
            return out  # type: ignore[no-any-return]
        self.maps.append(out[1])
        return out[0]  # type: ignore[no-any-return]

    def attend_joint(
        self,
        layer: int,
        joint: Tensor,
        heads: int,
        by_head: bool,
        *,
        scale: float | None = None,
        slopes: Tensor | None = None,
    ) -> Tensor:
        query, key, value = split_joint(joint, heads, by_head)
        return merged(self.attend(layer, query, key, value, scale=scale, slopes=slopes))


def merged(x: Tensor) -> Tensor:
    """[B, H, T, D] as [B, T, H D]."""
    batch, heads, length, width = x.shape
    return x.transpose(1, 2).reshape(batch, length, heads * width)


def added_rows(x: Tensor, table: Embedding, positions: Positions) -> Tensor:
    """x [B, T, D] plus the table's rows at these positions."""
    if isinstance(positions, int):
        y: Tensor = x + table.weight[positions : positions + x.shape[1]]
        return y
    # Positions past the table are those of padding.
    last = table.num_embeddings - 1
    if isinstance(positions, Tensor):
        where = ops.minimum(positions, last)
    else:
        where = from_numpy(np.ascontiguousarray(np.minimum(positions, last))).to(device=x.device)
    rows: Tensor = table(where)
    return x + rows


class DecoderOnly(Generative, Model):
    """Base of models that continue text; a subclass has :meth:`body` and ``lm_head``."""

    lm_head: Linear

    # Of the caches; subclasses whose configuration says it otherwise override it.
    def cache_shape(self) -> tuple[int, int, int]:
        """Layers, key heads and width of a head."""
        raise NotImplementedError

    def cache_windows(self) -> list[int | None]:
        """How many tokens each layer sees, the one at hand included; None for all."""
        return [None] * self.cache_shape()[0]

    def body(self, ids: Tensor, positions: Positions, memory: Memory) -> Tensor:
        """Ids [B, T] to hidden states [B, T, D]."""
        raise NotImplementedError

    def attention_dropout(self) -> float:
        """Of the attention weights, in training."""
        return 0.0

    def hidden(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        *,
        position_ids: Any = None,
        maps: list[Tensor] | None = None,
    ) -> Tensor:
        """What the last layer gives, [B, T, D]; ``lm_head`` makes logits of it.

        Parameters
        ----------
        input_ids : integers [B, T]
        attention_mask : [B, T], optional
            0 marks padding.
        position_ids : integers [B, T] or [T], optional
            0, 1, 2... by default, whatever the mask.
        maps : list, optional
            Gets the attention weights of each layer.
        """
        owner = type(self).__name__
        ids = as_ids(owner, "input_ids", input_ids, self.device)
        batch, length = ids.shape
        padding = as_padding(owner, attention_mask, batch, length, ids.device)
        dropout = self.attention_dropout() if self.training else 0.0
        positions: Positions = 0
        last = length - 1
        if position_ids is not None:
            given = self._positions(owner, position_ids, batch, length)
            positions, last = given, int(given.max(initial=0))
        longest = self.max_positions
        if longest is not None and last >= longest:
            raise ValueError(f"{owner}: input_ids must have positions below {longest}, got {last}")
        return self.body(ids, positions, Whole(padding, dropout, maps))

    def _positions(self, owner: str, given: Any, batch: int, length: int) -> Ints:
        a = as_array(owner, "position_ids", given)
        if a.dtype.kind not in "iu":
            raise TypeError(f"{owner}: position_ids must be integers, got {a.dtype}")
        if a.shape not in ((batch, length), (1, length), (length,)):
            raise ValueError(
                f"{owner}: position_ids must have shape [B, T] = [{batch}, {length}], got"
                f" {list(a.shape)}"
            )
        if (a < 0).any():
            raise ValueError(f"{owner}: position_ids must not be negative, got {int(a.min())}")
        return np.broadcast_to(a, (batch, length)).astype(np.int64)

    def forward(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        *,
        position_ids: Any = None,
        return_weights: bool = False,
    ) -> Any:
        """Logits of the next token after each one.

        Parameters
        ----------
        input_ids : integers [B, T]
        attention_mask : [B, T], optional
            0 marks padding, on either side. Logits at padding mean nothing.
        position_ids : integers [B, T] or [T], optional
        return_weights : bool
            Also give the attention weights.

        Returns
        -------
        Tensor [B, T, V], or (that, [weights [B, H, T, T] of each layer])
        """
        maps: list[Tensor] | None = [] if return_weights else None
        logits = self.lm_head(
            self.hidden(input_ids, attention_mask, position_ids=position_ids, maps=maps)
        )
        return (logits, maps) if return_weights else logits

    # ---- generation ----------------------------------------------------------------------------

    def start(self, batch: int, *, capacity: int) -> KVCache:
        """An empty cache for `batch` rows with room for `capacity` tokens."""
        layers, heads, width = self.cache_shape()
        windows = self.cache_windows()
        shape: dict[str, Any] = {"heads": heads, "width": width, "capacity": capacity}
        where: dict[str, Any] = {"dtype": self.dtype, "device": self.device}
        if len(set(windows)) > 1:
            return LayeredCache(windows, batch, **shape, **where)
        return KVCache(layers, batch, **shape, **where, window=windows[0] if windows else None)

    def can_capture(self, state: KVCache, counts: Ints | None) -> bool:
        """Whether :meth:`step` can be captured in a CUDA graph."""
        return state.can_capture()

    def step(self, ids: Tensor, state: KVCache) -> Tensor:
        """Logits [B, V] after tokens [B, 1] of a step that `state` runs from device memory."""
        x = self.body(ids, state.where(1), state)
        logits: Tensor = self.lm_head(x.reshape(ids.shape[0], x.shape[2]))
        return logits

    def decode(self, ids: Ints, state: KVCache, counts: Ints | None = None) -> Tensor:
        """Append tokens [B, n], counts[b] of them in row b; logits [B, V] after the last ones."""
        batch, n = ids.shape
        with no_grad():
            state.begin(n, counts)
            first = state.first
            positions: Positions = state.positions(n) if first is None else first
            tokens = from_numpy(np.ascontiguousarray(ids, np.int64))
            if state.device != "cpu":
                tokens = tokens.to(device=state.device)
            x = self.body(tokens, positions, state)
            if n == 1:
                last = x.reshape(batch, x.shape[2])
            elif counts is None:
                last = x[:, n - 1]
            else:
                rows = np.arange(batch) * n + np.maximum(counts - 1, 0)
                index = from_numpy(rows).to(device=x.device)
                last = x.reshape(batch * n, x.shape[2]).index_select(0, index)
            logits: Tensor = self.lm_head(last)
            state.commit()
        return logits
