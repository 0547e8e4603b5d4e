# SPDX-License-Identifier: Apache-2.0
"""Reference attention, with the whole matrix of scores in memory.

A pair (query, key) that a mask hides has no part in anything, whatever the hidden key or
value holds. A query that sees no key gives zeros, forward and backward.
"""

from __future__ import annotations

import math

import numpy as np

from .vjp import op, unbroadcast


def visible_pairs(
    shape, *, attn_mask=None, is_causal=False, causal_offset=0, key_lengths=None, window=None
):
    """bool [B, H, Tq, Tk]: the pairs that may attend. Query i stands at i + causal_offset."""
    batch, _, queries, keys = shape
    offset = np.broadcast_to(np.asarray(causal_offset), (batch,))
    position = np.arange(queries)[None, :] + offset[:, None]  # [B, Tq]
    distance = np.arange(keys)[None, None, :] - position[:, :, None]  # key - query
    visible = np.ones((batch, queries, keys), bool)
    if is_causal:
        visible &= distance <= 0
    if window is not None:
        left, right = (window, window) if np.ndim(window) == 0 else window
        visible &= (distance >= -left) & (distance <= right)
    if key_lengths is not None:
        visible &= np.arange(keys)[None, None, :] < np.asarray(key_lengths)[:, None, None]
    visible = np.broadcast_to(visible[:, None], shape)
    if attn_mask is not None:
        visible = visible & (attn_mask if attn_mask.dtype == bool else ~np.isneginf(attn_mask))
    return visible


def _masked_softmax(scores, visible):
    """Softmax over the visible keys of each row; rows without one are zeros."""
    scores = np.where(visible, scores, -np.inf)
    peak = np.max(scores, axis=-1, keepdims=True, initial=-np.inf)
    e = np.where(visible, np.exp(scores - peak), 0)
    total = e.sum(axis=-1, keepdims=True)
    return np.where(visible, e / total, 0).astype(scores.dtype)


def _softmax_backward(p, dp, visible):
    dp = np.where(visible, dp, 0)
    return p * (dp - (p * dp).sum(axis=-1, keepdims=True))


def _hide_unseen(values, visible):
    """Zeros for the keys that nobody may see, so that 0 * NaN can't reach the output."""
    return np.where(visible.any(axis=-2)[..., None], values, 0).astype(values.dtype)


@op
def scaled_dot_product_attention(
    query,
    key,
    value,
    attn_mask=None,
    *,
    dropout_p=0.0,
    keep=None,
    is_causal=False,
    causal_offset=0,
    scale=None,
    key_lengths=None,
    window=None,
    softcap=None,
    alibi_slopes=None,
    return_weights=False,
):
    """query [B, Hq, Tq, D], key [B, Hkv, Tk, D], value [B, Hkv, Tk, Dv].

    scores = cap(scale q.k) + alibi + additive mask, hidden pairs out, softmax, dropout.
    ``keep`` is the mask of the dropout, bool [B, Hq, Tq, Tk]; the weights that are returned
    are those that multiplied the values. Query head h reads key head h // (Hq / Hkv).
    An additive mask that holds -inf hides the pair.
    """
    batch, heads, queries, width = query.shape
    kv_heads, keys = key.shape[1:3]
    group = heads // max(kv_heads, 1)
    shape = (batch, heads, queries, keys)
    scale = 1 / math.sqrt(width) if scale is None else scale
    visible = visible_pairs(
        shape,
        attn_mask=attn_mask,
        is_causal=is_causal,
        causal_offset=causal_offset,
        key_lengths=key_lengths,
        window=window,
    )
    additive = attn_mask is not None and attn_mask.dtype != bool
    grouped_visible = visible.reshape(batch, kv_heads, group, queries, keys).any(axis=2)
    k = np.repeat(_hide_unseen(key, grouped_visible), group, axis=1)
    v = np.repeat(_hide_unseen(value, grouped_visible), group, axis=1)

    scores = (query @ k.swapaxes(-1, -2)) * scale
    slope = np.asarray(scale, scores.dtype)
    if softcap is not None:
        capped = np.tanh(scores / softcap)
        scores, slope = softcap * capped, scale * (1 - capped * capped)
    if additive:
        scores = scores + attn_mask
    if alibi_slopes is not None:
        offset = np.broadcast_to(np.asarray(causal_offset), (batch,))
        position = np.arange(queries)[None, :] + offset[:, None]
        distance = np.arange(keys)[None, None, :] - position[:, :, None]
        bias = np.asarray(alibi_slopes)[None, :, None, None] * distance[:, None]
        scores = scores + bias.astype(scores.dtype)
    p = _masked_softmax(scores, visible)
    drop = np.ones((), p.dtype)
    if keep is not None:
        drop = keep.astype(p.dtype) / (1 - dropout_p) if dropout_p < 1 else np.zeros_like(p)
    weights = p * drop
    output = weights @ v

    def backward(g, g_weights=None):
        d_weights = g @ v.swapaxes(-1, -2)
        if g_weights is not None:
            d_weights = d_weights + g_weights
        d_scores = _softmax_backward(p, d_weights * drop, visible)
        d_product = np.where(visible, d_scores * slope, 0).astype(p.dtype)

        def per_key_head(d):
            return d.reshape(batch, kv_heads, group, *d.shape[2:]).sum(axis=2)

        grads = {
            "query": d_product @ k,
            "key": per_key_head(d_product.swapaxes(-1, -2) @ query),
            "value": per_key_head(weights.swapaxes(-1, -2) @ g),
        }
        if additive:
            grads["attn_mask"] = unbroadcast(d_scores, attn_mask.shape)
        if alibi_slopes is not None:
            moved = d_scores * np.where(visible, distance[:, None], 0)
            grads["alibi_slopes"] = moved.sum(axis=(0, 2, 3)).astype(p.dtype)
        return grads

    return ((output, weights) if return_weights else output), backward


def _attend(scores, values, key_lengths):
    """(output, weights, backward) of softmax(scores) @ values; scores [B, Tq, Tk]."""
    visible = np.ones(scores.shape, bool)
    if key_lengths is not None:
        lengths = np.asarray(key_lengths)[:, None, None]
        visible = np.broadcast_to(np.arange(scores.shape[-1]) < lengths, scores.shape)
    v = _hide_unseen(values, visible)
    p = _masked_softmax(scores, visible)

    def backward(g, g_weights):
        d_weights = g @ v.swapaxes(-1, -2)
        if g_weights is not None:
            d_weights = d_weights + g_weights
        return _softmax_backward(p, d_weights, visible), p.swapaxes(-1, -2) @ g

    return p @ v, p, backward


@op
def additive_attention(
    query, keys, w_query, w_key, v, *, values=None, key_lengths=None, return_weights=False
):
    """Bahdanau: score = v . tanh(w_query q + w_key k).

    query [B, Tq, Dq], keys [B, Tk, Dk], w_query [A, Dq], w_key [A, Dk], v [A]; values
    [B, Tk, Dv] are the keys where they are not given.
    """
    hidden = np.tanh((query @ w_query.T)[:, :, None, :] + (keys @ w_key.T)[:, None, :, :])
    output, weights, attend_backward = _attend(
        hidden @ v, keys if values is None else values, key_lengths
    )

    def backward(g, g_weights=None):
        d_scores, d_values = attend_backward(g, g_weights)
        d_hidden = d_scores[..., None] * v * (1 - hidden * hidden)  # [B, Tq, Tk, A]
        d_query_proj, d_key_proj = d_hidden.sum(axis=2), d_hidden.sum(axis=1)
        grads = {
            "query": d_query_proj @ w_query,
            "keys": d_key_proj @ w_key,
            "w_query": np.einsum("bta,btd->ad", d_query_proj, query),
            "w_key": np.einsum("bta,btd->ad", d_key_proj, keys),
            "v": np.einsum("bij,bija->a", d_scores, hidden),
        }
        if values is None:
            grads["keys"] = grads["keys"] + d_values
        else:
            grads["values"] = d_values
        return grads

    return ((output, weights) if return_weights else output), backward


@op
def dot_attention(query, keys, *, weight=None, values=None, key_lengths=None, return_weights=False):
    """Luong: score = q . k, or q . (weight k) with weight [Dq, Dk]; no scaling."""
    projected = query if weight is None else query @ weight
    output, weights, attend_backward = _attend(
        projected @ keys.swapaxes(-1, -2), keys if values is None else values, key_lengths
    )

    def backward(g, g_weights=None):
        d_scores, d_values = attend_backward(g, g_weights)
        d_projected = d_scores @ keys
        grads = {"keys": d_scores.swapaxes(-1, -2) @ projected}
        if weight is None:
            grads["query"] = d_projected
        else:
            grads["query"] = d_projected @ weight.T
            grads["weight"] = np.einsum("btd,bte->de", query, d_projected)
        if values is None:
            grads["keys"] = grads["keys"] + d_values
        else:
            grads["values"] = d_values
        return grads

    return ((output, weights) if return_weights else output), backward
