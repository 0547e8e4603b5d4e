# SPDX-License-Identifier: Apache-2.0
"""MultiheadAttention with torch's signature and parameters."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import ops
from ..creation import ones, zeros
from ..tensor import Tensor, from_numpy
from . import init
from .activation import probability
from .init import new_parameter
from .linear import Linear, positive
from .module import Module
from .parameter import Parameter


def _is_bool(mask: Tensor) -> bool:
    return mask.dtype.name == "bool"


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    """A mask as numbers to add: -inf where a bool mask is True."""
    if not _is_bool(mask):
        return mask.to(dtype=like.dtype)
    return ops.where(mask, float("-inf"), 0.0).to(dtype=like.dtype, device=like.device)


def merged_mask(
    query: Tensor,
    num_heads: int,
    attn_mask: Tensor | None,
    key_padding_mask: Tensor | None,
    batch: int,
    lengths: tuple[int, int],
) -> Tensor | None:
    """Both masks of a torch module (True = hidden) as one for ``sl.ops`` (True = attend)."""
    tq, tk = lengths
    masks: list[Tensor] = []
    if attn_mask is not None:
        _check_mask("attn_mask", attn_mask)
        if attn_mask.shape == (tq, tk):
            masks.append(attn_mask.reshape(1, 1, tq, tk))
        elif attn_mask.shape == (batch * num_heads, tq, tk):
            masks.append(attn_mask.reshape(batch, num_heads, tq, tk))
        else:
            raise ValueError(
                f"MultiheadAttention: attn_mask must have shape [Tq, Tk] = {[tq, tk]} or [B * H,"
                f" Tq, Tk] = {[batch * num_heads, tq, tk]}, got {list(attn_mask.shape)}"
            )
    if key_padding_mask is not None:
        masks.append(key_padding_mask.reshape(batch, 1, 1, tk))
    if not masks:
        return None
    if all(_is_bool(m) for m in masks):
        hidden = masks[0] if len(masks) == 1 else masks[0] | masks[1]
        return ~hidden
    added = [_additive(m, query) for m in masks]
    return added[0] if len(added) == 1 else added[0] + added[1]


def _check_padding(mask: Any, batch: int, keys: int) -> None:
    _check_mask("key_padding_mask", mask)
    if mask.shape != (batch, keys):
        raise ValueError(
            f"MultiheadAttention: key_padding_mask must have shape [B, Tk] = {[batch, keys]}, got"
            f" {list(mask.shape)}"
        )


def visible_lengths(hidden: Tensor) -> tuple[Tensor, bool]:
    """Where the last key of each row ends that a padding mask [B, Tk] does not hide.

    Also whether the lengths say it all. Only on the CPU: on a GPU looking would mean waiting.
    """
    keys = hidden.shape[1]
    if hidden.is_cuda:
        hides = hidden if _is_bool(hidden) else hidden.detach() == float("-inf")
        ends = ones(keys, dtype="int64", device=hidden.device).cumsum(0)
        return ops.where(hides, 0, ends).max(1)[0], False
    values = hidden.detach().numpy()
    visible = ~values if _is_bool(hidden) else values != -np.inf
    at = np.arange(keys)
    lengths = np.where(visible, at + 1, 0).max(axis=1)
    suffix = _is_bool(hidden) and bool((visible == (at < lengths[:, None])).all())
    return from_numpy(lengths), suffix


def _check_mask(name: str, mask: Any) -> None:
    if not isinstance(mask, Tensor):
        raise TypeError(f"MultiheadAttention: {name} must be a Tensor, got {type(mask).__name__}")
    if not _is_bool(mask) and not mask.dtype.is_floating_point:
        raise TypeError(
            f"MultiheadAttention: {name} must be bool or floating, got {mask.dtype.name}"
        )


def _causal(mask: Tensor | None, lengths: tuple[int, int], device: str) -> Tensor:
    """`mask` (True = attend, or numbers) where query i sees the keys up to i."""
    seen = from_numpy(np.tri(*lengths, dtype=bool)).to(device=device)
    if mask is None or _is_bool(mask):
        return seen if mask is None else seen & mask
    return ops.where(seen, mask, float("-inf"))


class MultiheadAttention(Module):
    """Attention of several heads between linear maps.

    Parameters
    ----------
    embed_dim, num_heads : int
        `num_heads` divides `embed_dim`.
    dropout : float
        On the attention weights, in training.
    bias : bool
    add_bias_kv, add_zero_attn : bool
        One more key and value that every query sees: learned, or zeros. Weights get a column each.
    kdim, vdim : int, optional
        Widths of key and value where they differ from `embed_dim`.
    batch_first : bool
        [B, T, E] instead of [T, B, E].

    Attributes
    ----------
    in_proj_weight : Parameter [3 E, E]
        Or, with kdim or vdim, q_proj_weight [E, E], k_proj_weight [E, kdim] and
        v_proj_weight [E, vdim].
    in_proj_bias : Parameter [3 E] or None
    bias_k, bias_v : Parameter [1, 1, E] or None
    out_proj : Linear

    Examples
    --------
    >>> import seqloom as sl
    >>> attention = sl.nn.MultiheadAttention(8, 2, batch_first=True)
    >>> x = sl.ones(1, 3, 8)
    >>> y, weights = attention(x, x, x)
    >>> y.shape, weights.shape
    ((1, 3, 8), (1, 3, 3))
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        positive("MultiheadAttention", embed_dim=embed_dim, num_heads=num_heads)
        if embed_dim % num_heads:
            raise ValueError(
                f"MultiheadAttention: embed_dim must be a multiple of num_heads = {num_heads}, got"
                f" {embed_dim}"
            )
        self.embed_dim, self.num_heads = embed_dim, num_heads
        self.head_dim = embed_dim // num_heads
        self.kdim = embed_dim if kdim is None else kdim
        self.vdim = embed_dim if vdim is None else vdim
        self.dropout = probability("MultiheadAttention", dropout, "dropout")
        self.batch_first = batch_first

        def new(*shape: int) -> Parameter:
            return new_parameter(*shape, device=device, dtype=dtype)  # type: ignore[no-any-return]

        e = embed_dim
        same = self.kdim == e and self.vdim == e
        self.in_proj_weight = new(3 * e, e) if same else None
        self.q_proj_weight = None if same else new(e, e)
        self.k_proj_weight = None if same else new(e, self.kdim)
        self.v_proj_weight = None if same else new(e, self.vdim)
        self.in_proj_bias = new(3 * e) if bias else None
        self.bias_k = new(1, 1, e) if add_bias_kv else None
        self.bias_v = new(1, 1, e) if add_bias_kv else None
        self.add_zero_attn = add_zero_attn
        self.out_proj = Linear(e, e, bias, device, dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for w in (self.in_proj_weight, self.q_proj_weight, self.k_proj_weight, self.v_proj_weight):
            if w is not None:
                init.xavier_uniform_(w)
        if self.in_proj_bias is not None:
            init.zeros_(self.in_proj_bias)
        if self.out_proj.bias is not None:
            init.zeros_(self.out_proj.bias)
        for b in (self.bias_k, self.bias_v):
            if b is not None:
                init.xavier_normal_(b)

    def _heads(self, x: Tensor) -> Tensor:
        """[B, T, E] to [B, H, T, E / H]."""
        return x.reshape(x.shape[0], x.shape[1], self.num_heads, self.head_dim).transpose(1, 2)

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        """Queries, keys and values [B, H, T, E / H]."""
        e, w, b = self.embed_dim, self.in_proj_weight, self.in_proj_bias
        if w is None:
            assert self.q_proj_weight is not None
            assert self.k_proj_weight is not None
            assert self.v_proj_weight is not None
            weights: list[Tensor] = [self.q_proj_weight, self.k_proj_weight, self.v_proj_weight]
            shares = [(query, 0, 1), (key, 1, 2), (value, 2, 3)]
        else:
            weights = [w[:e], w[e : 2 * e], w[2 * e :]]
            if query is key and key is value:
                shares = [(query, 0, 3)]
            elif key is value:
                shares = [(query, 0, 1), (key, 1, 3)]
            else:
                shares = [(query, 0, 1), (key, 1, 2), (value, 2, 3)]
        parts: list[Tensor] = []
        for x, first, last in shares:
            weight = weights[first] if w is None else w
            bias: Tensor | None = b
            if last - first < 3:
                weight = weights[first] if w is None else w[first * e : last * e]
                bias = None if b is None else b[first * e : last * e]
            y = ops.linear(x, weight, bias)
            parts += [y] if last - first == 1 else y.chunk(last - first, -1)
        return [self._heads(p) for p in parts]

    def _more_keys(self, keys: Tensor, bias: Tensor | None) -> Tensor:
        """Keys or values [B, H, Tk, D] with the rows behind them that every query sees."""
        batch, shape = keys.shape[0], (1, self.num_heads, 1, self.head_dim)
        parts = [keys]
        if bias is not None:
            parts.append(bias.to(dtype=keys.dtype).reshape(*shape).expand(batch, *shape[1:]))
        if self.add_zero_attn:
            parts.append(zeros(batch, *shape[1:], dtype=keys.dtype, device=keys.device))
        return ops.cat(parts, 2)

    def _check(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        widths = (self.embed_dim, self.kdim, self.vdim)
        for name, x, n in zip(("query", "key", "value"), (query, key, value), widths, strict=True):
            if not isinstance(x, Tensor):
                raise TypeError(
                    f"MultiheadAttention: {name} must be a Tensor, got {type(x).__name__}"
                )
            if x.ndim != query.ndim or x.ndim not in (2, 3) or x.shape[-1] != n:
                layout = "[B, T, E]" if self.batch_first else "[T, B, E]"
                raise ValueError(
                    f"MultiheadAttention: {name} must have shape {layout} or [T, E] with E = {n},"
                    f" like the others, got {list(x.shape)}"
                )

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """
        Parameters
        ----------
        query : [Tq, B, E] ([B, Tq, E] with batch_first), or [Tq, E]
        key, value : [Tk, B, kdim], [Tk, B, vdim], laid out as query
        key_padding_mask : [B, Tk] or [Tk], optional
            bool, True = hidden, or numbers to add to the scores. Without weights what lies behind
            a row's last visible key costs nothing.
        need_weights : bool
            Also return the attention weights; False is the faster way.
        attn_mask : [Tq, Tk] or [B * H, Tq, Tk], optional
            bool, True = hidden, or numbers to add to the scores.
        average_attn_weights : bool
            The mean of the heads' weights instead of each head's.
        is_causal : bool
            Query i sees keys up to i; no mask is needed for that.

        Returns
        -------
        (output, weights)
            output as query; weights [B, Tq, Tk], per head [B, H, Tq, Tk], or None. A query that may
            see nothing gives weights of zero.
        """
        self._check(query, key, value)
        batched = query.ndim == 3
        same = key is query, value is key
        if not batched:
            query, key, value = (x.unsqueeze(0) for x in (query, key, value))
            if key_padding_mask is not None:
                _check_mask("key_padding_mask", key_padding_mask)
                key_padding_mask = key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        key = query if same[0] else key  # one product projects what is the same
        value = key if same[1] else value
        batch, tq, tk = query.shape[0], query.shape[1], key.shape[1]
        more_keys = self.bias_k is not None or self.add_zero_attn
        lengths: Tensor | None = None
        if key_padding_mask is not None:
            _check_padding(key_padding_mask, batch, tk)
            if tk > 0 and not (need_weights or more_keys):
                lengths, enough = visible_lengths(key_padding_mask)
                key_padding_mask = None if enough else key_padding_mask
        mask = merged_mask(query, self.num_heads, attn_mask, key_padding_mask, batch, (tq, tk))
        q, k, v = self._projected(query, key, value)
        if more_keys:
            k, v = self._more_keys(k, self.bias_k), self._more_keys(v, self.bias_v)
            if is_causal:
                mask, is_causal = _causal(mask, (tq, tk), query.device), False
            if mask is not None:
                fill = ones if _is_bool(mask) else zeros
                more = (*mask.shape[:-1], k.shape[2] - tk)
                mask = ops.cat([mask, fill(*more, dtype=mask.dtype, device=mask.device)], -1)
        weights: Tensor | None = None
        result = ops.scaled_dot_product_attention(
            q, k, v, mask,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=is_causal,
            key_lengths=lengths,
            return_weights=need_weights,
        )  # fmt: skip
        if need_weights:
            result, weights = result
        y = self.out_proj(result.transpose(1, 2).reshape(batch, tq, self.embed_dim))
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if not batched:
            return y.squeeze(0), None if weights is None else weights.squeeze(0)
        return (y if self.batch_first else y.transpose(0, 1)), weights

    def extra_repr(self) -> str:
        return f"{self.embed_dim}, {self.num_heads}, batch_first={self.batch_first}"
