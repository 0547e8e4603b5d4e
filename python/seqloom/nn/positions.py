# SPDX-License-Identifier: Apache-2.0
"""Where a token stands: sinusoids, learned vectors, rotations, learned and linear biases."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import ops
from ..tensor import Tensor, from_numpy
from . import init
from .activation import probability
from .init import new_parameter
from .linear import positive
from .module import Module
from .parameter import Parameter


def _added(owner: str, x: Tensor, width: int, batch_first: bool) -> int:
    """The length T of x, whose shape is checked."""
    if x.ndim not in (2, 3) or x.shape[-1] != width:
        layout = "[B, T, D]" if batch_first else "[T, B, D]"
        raise ValueError(
            f"{owner}: x must have shape {layout} or [T, D] with D = {width}, got {list(x.shape)}"
        )
    return x.shape[1] if batch_first and x.ndim == 3 else x.shape[0]


def _laid_out(rows: Tensor, x: Tensor, batch_first: bool) -> Tensor:
    """Rows [T, D] so that they broadcast to x."""
    return rows.unsqueeze(1) if x.ndim == 3 and not batch_first else rows


def sinusoids(length: int, dim: int) -> np.ndarray[Any, Any]:
    """float32 [length, dim]: columns 2 i and 2 i + 1 are sin and cos of t / 10000^(2 i / dim)."""
    angle = np.arange(length)[:, None] * np.exp(np.arange(0, dim, 2) * (-math.log(10000.0) / dim))
    table = np.zeros((length, dim), np.float32)
    table[:, 0::2] = np.sin(angle)
    table[:, 1::2] = np.cos(angle)[:, : dim // 2]
    return table


class SinusoidalPositionalEncoding(Module):
    """Adds the sines and cosines of "Attention is all you need", then drops out.

    Parameters
    ----------
    d_model : int
    max_len : int
        Positions of the table; it grows when a longer sequence comes.
    dropout : float
    batch_first : bool
        x is [B, T, D] instead of [T, B, D].

    Examples
    --------
    >>> import seqloom as sl
    >>> sl.nn.SinusoidalPositionalEncoding(4)(sl.zeros(1, 4)).tolist()
    [[0.0, 1.0, 0.0, 1.0]]
    """

    pe: Tensor

    def __init__(
        self,
        d_model: int,
        max_len: int = 5000,
        dropout: float = 0.0,
        batch_first: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        positive("SinusoidalPositionalEncoding", d_model=d_model, max_len=max_len)
        self.d_model, self.batch_first = d_model, batch_first
        self.dropout = probability("SinusoidalPositionalEncoding", dropout, "dropout")
        table = from_numpy(sinusoids(max_len, d_model)).to(device=device, dtype=dtype)
        self.register_buffer("pe", table, persistent=False)

    def forward(self, x: Tensor, offset: int = 0) -> Tensor:
        """x [T, B, D] ([B, T, D] with batch_first) or [T, D], its step 0 being number `offset`."""
        end = offset + _added("SinusoidalPositionalEncoding", x, self.d_model, self.batch_first)
        if end > self.pe.shape[0]:
            longer = from_numpy(sinusoids(max(end, 2 * self.pe.shape[0]), self.d_model))
            self.pe = longer.to(device=self.pe.device, dtype=self.pe.dtype)
        rows = self.pe[offset:end].to(dtype=x.dtype)
        y = x + _laid_out(rows, x, self.batch_first)
        return ops.dropout(y, self.dropout) if self.training and self.dropout > 0 else y


class LearnedPositionalEmbedding(Module):
    """Adds a learned vector for each position.

    Parameters
    ----------
    num_positions, d_model : int
    dropout : float
    batch_first : bool
        x is [B, T, D] instead of [T, B, D].

    Attributes
    ----------
    weight : Parameter [num_positions, d_model]

    Examples
    --------
    >>> import seqloom as sl
    >>> sl.nn.LearnedPositionalEmbedding(16, 4, batch_first=True)(sl.zeros(2, 3, 4)).shape
    (2, 3, 4)
    """

    def __init__(
        self,
        num_positions: int,
        d_model: int,
        dropout: float = 0.0,
        batch_first: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        positive("LearnedPositionalEmbedding", num_positions=num_positions, d_model=d_model)
        self.num_positions, self.d_model, self.batch_first = num_positions, d_model, batch_first
        self.dropout = probability("LearnedPositionalEmbedding", dropout, "dropout")
        self.weight: Parameter = new_parameter(num_positions, d_model, device=device, dtype=dtype)
        init.normal_(self.weight, std=0.02)

    def forward(self, x: Tensor, offset: int = 0) -> Tensor:
        """x [T, B, D] ([B, T, D] with batch_first) or [T, D], its step 0 being number `offset`."""
        end = offset + _added("LearnedPositionalEmbedding", x, self.d_model, self.batch_first)
        if end > self.num_positions:
            raise ValueError(
                f"LearnedPositionalEmbedding: offset + T must be at most {self.num_positions}, got"
                f" {end}"
            )
        y = x + _laid_out(self.weight[offset:end], x, self.batch_first)
        return ops.dropout(y, self.dropout) if self.training and self.dropout > 0 else y


class RotaryEmbedding(Module):
    """Turns pairs of columns of queries and keys by angles that grow with the position.

    Parameters
    ----------
    dim : int
        Columns that turn, an even number; those of x beyond them pass through.
    base : float
        Pair k turns by ``position * base^(-2 k / dim)``.
    interleaved : bool
        Pairs are columns (2 k, 2 k + 1); otherwise (k, k + dim / 2).
    inv_freq : array [dim / 2], optional
        Other angles per step, for scaled variants.
    attention_factor : float
        Multiplies cos and sin (yarn).

    Examples
    --------
    >>> import seqloom as sl
    >>> sl.nn.RotaryEmbedding(4)(sl.ones(1, 2, 3, 4)).shape
    (1, 2, 3, 4)
    """

    cos: Tensor
    sin: Tensor

    def __init__(
        self,
        dim: int,
        base: float = 10000.0,
        interleaved: bool = False,
        inv_freq: Any = None,
        attention_factor: float = 1.0,
    ) -> None:
        super().__init__()
        positive("RotaryEmbedding", dim=dim)
        if dim % 2:
            raise ValueError(f"RotaryEmbedding: dim must be even, got {dim}")
        self.dim, self.base, self.interleaved = dim, float(base), interleaved
        self.attention_factor = attention_factor
        if inv_freq is None:
            inv_freq = self.base ** (-np.arange(0, dim, 2, dtype=np.float64) / dim)
        self.inv_freq = np.asarray(inv_freq, np.float64)
        if self.inv_freq.shape != (dim // 2,):
            raise ValueError(
                f"RotaryEmbedding: inv_freq must have shape [{dim // 2}], got"
                f" {list(self.inv_freq.shape)}"
            )
        self._length = 0
        self.cos, self.sin = self._table(np.zeros((0, dim // 2)), "cpu")

    def _table(self, angles: np.ndarray[Any, Any], device: str) -> tuple[Tensor, Tensor]:
        factor = self.attention_factor
        cos, sin = ((f(angles) * factor).astype(np.float32) for f in (np.cos, np.sin))
        return from_numpy(cos).to(device=device), from_numpy(sin).to(device=device)

    def tables(self, end: int, offset: int = 0, device: str = "cpu") -> tuple[Tensor, Tensor]:
        """cos and sin, float32 [end - offset, dim / 2], of the positions from offset to end."""
        if end > self._length or self.cos.device != device:
            self._length = max(end, 2 * self._length, 64)
            angles = np.arange(self._length)[:, None] * self.inv_freq
            self.cos, self.sin = self._table(angles, device)
        return self.cos[offset:end], self.sin[offset:end]

    def forward(self, x: Tensor, offset: int = 0, positions: Any = None) -> Tensor:
        """
        Parameters
        ----------
        x : [B, H, T, D], D at least dim
        offset : int
            Position of the first step.
        positions : integers [B, T] or [T], optional
            Positions of all steps, instead of `offset`.

        Returns
        -------
        [B, H, T, D]
        """
        if positions is not None:
            at = np.asarray(positions.cpu() if isinstance(positions, Tensor) else positions)
            cos, sin = self._table(at[..., None] * self.inv_freq, x.device)
        else:
            cos, sin = self.tables(offset + x.shape[-2], offset, x.device)
        return ops.rotary_embedding(x, cos, sin, interleaved=self.interleaved)

    def extra_repr(self) -> str:
        return f"{self.dim}, base={self.base}, interleaved={self.interleaved}"


def relative_buckets(
    distance: np.ndarray[Any, Any], num_buckets: int, max_distance: int, bidirectional: bool
) -> np.ndarray[Any, Any]:
    """T5's bucket of each distance (key - query): single steps first, then logarithmic."""
    bucket = np.zeros(distance.shape, np.int64)
    if bidirectional:
        num_buckets //= 2
        bucket += (distance > 0) * num_buckets
        n = np.abs(distance)
    else:
        n = np.maximum(-distance, 0)
    exact = num_buckets // 2
    # float32, as the checkpoints were trained with: buckets meet at powers that round
    ratio = np.log(np.maximum(n, 1).astype(np.float32) / np.float32(exact))
    ratio = ratio / np.float32(math.log(max_distance / exact)) * np.float32(num_buckets - exact)
    far = np.minimum(exact + ratio.astype(np.int64), num_buckets - 1)
    out: np.ndarray[Any, Any] = bucket + np.where(n < exact, n, far)
    return out


class RelativePositionBias(Module):
    """T5's learned bias per head for the distance between query and key.

    Parameters
    ----------
    num_heads : int
    num_buckets, max_distance : int
        Distances share buckets, logarithmically up to `max_distance`, one bucket beyond.
    bidirectional : bool
        Keys after the query have buckets of their own; otherwise they share that of distance 0.

    Attributes
    ----------
    weight : Parameter [num_buckets, num_heads]

    Examples
    --------
    >>> import seqloom as sl
    >>> sl.nn.RelativePositionBias(8)(3, 5).shape
    (1, 8, 3, 5)
    """

    def __init__(
        self,
        num_heads: int,
        num_buckets: int = 32,
        max_distance: int = 128,
        bidirectional: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        owner = "RelativePositionBias"
        positive(owner, num_heads=num_heads, num_buckets=num_buckets, max_distance=max_distance)
        self.num_heads, self.num_buckets = num_heads, num_buckets
        self.max_distance, self.bidirectional = max_distance, bidirectional
        self.weight: Parameter = new_parameter(num_buckets, num_heads, device=device, dtype=dtype)
        init.normal_(self.weight, std=0.02)

    def forward(self, query_length: int, key_length: int, offset: int = 0) -> Tensor:
        """The bias [1, H, Tq, Tk] to add to scores; query i stands at ``i + offset``."""
        distance = np.arange(key_length) - (np.arange(query_length)[:, None] + offset)
        buckets = relative_buckets(
            distance, self.num_buckets, self.max_distance, self.bidirectional
        )
        ids = from_numpy(buckets).to(device=self.weight.device)
        return ops.embedding(ids, self.weight).permute(2, 0, 1).unsqueeze(0)


class Alibi(Module):
    """A bias that falls linearly with the distance, with a fixed slope per head.

    Parameters
    ----------
    num_heads : int

    Attributes
    ----------
    slopes : Tensor [num_heads], float32
        What ``scaled_dot_product_attention(alibi_slopes=)`` takes, which stores no bias at all.

    Examples
    --------
    >>> import seqloom as sl
    >>> sl.nn.Alibi(8).slopes.tolist()[:2]
    [0.5, 0.25]
    """

    slopes: Tensor

    def __init__(self, num_heads: int, device: Any = None) -> None:
        super().__init__()
        positive("Alibi", num_heads=num_heads)
        # Powers of 2^(-8 / n) for the power of two below num_heads, then odd powers of its root.
        n = 2 ** int(math.log2(num_heads))
        slopes = [2.0 ** (-8.0 * (i + 1) / n) for i in range(n)]
        slopes += [2.0 ** (-4.0 * (2 * i + 1) / n) for i in range(num_heads - n)]
        values = from_numpy(np.array(slopes, np.float32))
        self.register_buffer("slopes", values.to(device=device), persistent=False)

    def forward(self, query_length: int, key_length: int, offset: int = 0) -> Tensor:
        """The bias [H, Tq, Tk] to add to scores; query i stands at ``i + offset``."""
        distance = np.arange(key_length) - (np.arange(query_length)[:, None] + offset)
        table = from_numpy(distance.astype(np.float32)).to(device=self.slopes.device)
        return self.slopes.reshape(-1, 1, 1) * table
