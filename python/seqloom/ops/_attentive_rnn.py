# SPDX-License-Identifier: Apache-2.0
"""A recurrent decoder that looks before every step: Bahdanau's, as one op over the whole target.

With the state h, the encoder's outputs m_j and the word y_t, a step is

    a_t = softmax_j(v . tanh(w_query h + w_key m_j))
    h'  = cell(w_ih [y_t ; sum_j a_tj m_j] + b_ih, w_hh h + b_hh).

The context meets nothing but its block of w_ih, and the block of a mean is the mean of the blocks:
``w_ih sum_j a_tj m_j = sum_j a_tj (w_ih m_j)``. So the encoder's outputs are projected into the
gates once, as are the words of all steps, and what remains in the loop is one product with
[w_query ; w_hh], the scores and the cell. Going back, the loop makes only what the recurrence
needs; the gradients of all matrices are one product each after it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _core
from ..autograd import Node, record
from ..creation import zeros
from ..tensor import Tensor, from_numpy
from .attention import _lengths
from .layout import cat, stack
from .matmul import linear, matmul
from .seq2seq_attention import _wide
from .softmax import softmax

GATES = {"rnn": 1, "gru": 3, "lstm": 4}
State = tuple[Tensor, "Tensor | None"]


# ---- the cells: gate shares a (input) and b (state) to the next state, and back -----------------


def cell_step(cell: str, a: Tensor, b: Tensor, state: State) -> tuple[State, tuple[Tensor, ...]]:
    """The next (h, c) of gate shares [B, G H], and what going back needs."""
    h, c = state
    n = h.shape[-1]
    if cell == "gru":
        rz = (a[:, : 2 * n] + b[:, : 2 * n]).sigmoid()
        r, z, hn = rz[:, :n], rz[:, n:], b[:, 2 * n :]
        new = (a[:, 2 * n :] + r * hn).tanh()
        apart = h - new
        return (new + z * apart, None), (rz, new, hn, apart)
    total = a + b
    if cell == "rnn":
        h = total.tanh()
        return (h, None), (h,)
    assert c is not None
    i_f = total[:, : 2 * n].sigmoid()
    g, o = total[:, 2 * n : 3 * n].tanh(), total[:, 3 * n :].sigmoid()
    c_new = i_f[:, n:] * c + i_f[:, :n] * g
    bounded = c_new.tanh()
    return (o * bounded, c_new), (i_f, g, o, c, bounded)


def _cell_back(
    cell: str, kept: tuple[Tensor, ...], dh: Tensor, dc: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Gradients of the shares a and b, and what passes to the states before without a product."""
    if cell == "rnn":
        da = _core.tanh_backward(dh, kept[0])
        return da, da, None, None
    if cell == "gru":
        rz, new, hn, apart = kept
        n = new.shape[-1]
        through = dh * rz[:, n:]
        d_new = _core.tanh_backward(dh - through, new)
        d_rz = _core.sigmoid_backward(cat([d_new * hn, dh * apart], -1), rz)
        return cat([d_rz, d_new], -1), cat([d_rz, d_new * rz[:, :n]], -1), through, None
    i_f, g, o, c, bounded = kept
    n = g.shape[-1]
    into = _core.tanh_backward(dh * o, bounded)
    dc = into if dc is None else dc + into
    d_if = _core.sigmoid_backward(cat([dc * g, dc * c], -1), i_f)
    dg = _core.tanh_backward(dc * i_f[:, :n], g)
    da = cat([d_if, dg, _core.sigmoid_backward(dh * bounded, o)], -1)
    return da, da, None, dc * i_f[:, n:]


# ---- the op ------------------------------------------------------------------------------------


def _hiding(lengths: Tensor | None, keys: int, device: str) -> tuple[Tensor | None, Tensor | None]:
    """What to add to scores [B, 1, Tk], and a factor of zero for rows that may see nothing."""
    if lengths is None:
        return None, None
    host = lengths.numpy()
    hidden = (np.arange(keys) >= host[:, None]) & (host > 0)[:, None]
    added = np.where(hidden, -np.inf, 0.0).astype(np.float32)[:, None]
    alive = None
    if host.size and host.min() == 0:
        alive = from_numpy((host > 0).astype(np.float32)[:, None, None]).to(device=device)
    return from_numpy(added).to(device=device), alive


def _weights_of(scores: Tensor, added: Tensor | None, alive: Tensor | None) -> Tensor:
    weights = softmax(scores if added is None else scores + added)
    return weights if alive is None else weights * alive


def attentive_rnn(
    cell: str,
    x: Tensor,
    keys: Tensor,
    values: Tensor,
    h0: Tensor,
    c0: Tensor | None,
    w_query: Tensor,
    v: Tensor,
    w_hh: Tensor,
    b_hh: Tensor,
    key_lengths: Any = None,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """The whole target through a decoder that attends before each step.

    Parameters
    ----------
    cell : {"rnn", "gru", "lstm"}
    x : Tensor [T, B, G H]
        The words' share of the gates, with b_ih.
    keys : Tensor [B, Tk, A]
        ``linear(memory, w_key)``.
    values : Tensor [B, Tk, G H]
        The memory's share of the gates: ``linear(memory, w_ih[:, words:])``.
    h0, c0 : Tensors [B, H]
    w_query, v, w_hh, b_hh : Tensors [A, H], [A], [G H, H], [G H]
    key_lengths : integers [B], optional

    Returns
    -------
    (output [T, B, H], h_n [B, H], c_n [B, H] or None, weights [B, T, Tk])
        Weights carry no gradient. 16-bit inputs are computed in float32.
    """
    dtype = x.dtype
    lengths = _lengths("additive_attention", key_lengths, x.shape[1], keys.shape[1], "cpu")
    given = [None if t is None else _wide(t) for t in (x, keys, values, h0, c0, w_query, v, w_hh)]
    run: Any = _composed if x.is_cuda or dtype.name == "float64" else _fused
    y, h, c, weights = run(cell, *given, _wide(b_hh), lengths)
    y, h, weights = (t.to(dtype=dtype) for t in (y, h, weights))
    return y, h, None if c is None else c.to(dtype=dtype), weights


def _composed(
    cell: str, x: Any, keys: Any, values: Any, h: Any, c: Any, w_query: Any, v: Any, w_hh: Any,
    b_hh: Any, lengths: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:  # fmt: skip
    """From tensor operations that follow themselves: float64, and devices without the kernel."""
    added, alive = _hiding(lengths, keys.shape[1], x.device)
    outputs, all_weights = [], []
    state: State = (h, c)
    for t in range(x.shape[0]):
        query = linear(state[0], w_query).unsqueeze(1)
        scores = matmul((query.unsqueeze(2) + keys.unsqueeze(1)).tanh(), v)
        weights = _weights_of(scores, added, alive)
        share = matmul(weights, values).squeeze(1) + x[t]
        state, _ = cell_step(cell, share, linear(state[0], w_hh, b_hh), state)
        outputs.append(state[0])
        all_weights.append(weights.detach())
    return stack(outputs), *state, cat(all_weights, 1)


def _fused(
    cell: str, x: Any, keys: Any, values: Any, h0: Any, c0: Any, w_query: Any, v: Any, w_hh: Any,
    b_hh: Any, lengths: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:  # fmt: skip
    inputs = (x, keys, values, h0, c0, w_query, v, w_hh, b_hh)
    training = any(t is not None and t._needs_grad for t in inputs)
    x, keys, values, h0, c0, w_query, v, w_hh, b_hh = (
        None if t is None else t.detach() for t in inputs
    )
    units = w_query.shape[0]
    w = cat([w_query, w_hh])  # one product with the state a step
    bias = cat([zeros(units), b_hh])
    added, alive = _hiding(lengths, keys.shape[1], "cpu")
    outputs, queries, weights, kept = [], [], [], []
    state: State = (h0, c0)
    for t in range(x.shape[0]):
        both = linear(state[0], w, bias)
        query = both[:, :units].unsqueeze(1).contiguous()
        seen = _weights_of(_core.additive_scores(query, keys, v, lengths), added, alive)
        share = x[t] + matmul(seen, values).squeeze(1)
        state, needed = cell_step(cell, share, both[:, units:], state)
        outputs.append(state[0])
        weights.append(seen)
        if training:
            queries.append(query)
            kept.append(needed)
    y, all_weights = stack(outputs), cat(weights, 1)
    h, c = state[0].clone(), state[1]
    if training:
        saved = (keys, values, h0, v, w, lengths, y.detach(), all_weights, alive)
        results = (y, h) if c is None else (y, h, c)
        record(results, "attentive_rnn", inputs, _backward, saved, (cell, units, queries, kept))
    return y, h, c, all_weights


def _backward(
    node: Node, dy: Tensor | None, dh_n: Tensor | None, dc_n: Tensor | None = None
) -> tuple[Tensor | None, ...]:
    cell, units, queries, kept = node.context
    keys, values, h0, v, w, lengths, y, weights, alive = node.saved_tensors()
    steps, batch, width = y.shape
    dh = zeros(batch, width) if dh_n is None else dh_n
    dc = dc_n
    d_keys, d_v = zeros(*keys.shape), zeros(batch, units)
    shares: list[Tensor] = []  # gradients of the input's gates
    states: list[Tensor] = []  # gradients of w_query h and w_hh h
    for t in reversed(range(steps)):
        if dy is not None:
            dh = dh + dy[t]
        da, db, through, dc = _cell_back(cell, kept[t], dh, dc)
        seen = weights[:, t : t + 1].contiguous()
        d_seen = matmul(values, da.unsqueeze(2)).transpose(1, 2)
        if alive is not None:
            d_seen = d_seen * alive
        d_scores = _core.softmax_backward(d_seen.contiguous(), seen, -1)
        dq, dk, du = _core.additive_scores_backward(d_scores, queries[t], keys, v, lengths)
        _core.add_(d_keys, dk)
        _core.add_(d_v, du)
        both = cat([dq.squeeze(1), db], -1)
        shares.append(da)
        states.append(both)
        dh = matmul(both, w)
        if through is not None:
            dh = dh + through
    dx, d_both = stack(shares[::-1]), stack(states[::-1])
    before = cat([h0.unsqueeze(0), y[:-1]]).reshape(-1, width)
    flat = d_both.reshape(-1, d_both.shape[-1])
    dw = matmul(flat.transpose(0, 1), before)
    d_bias = flat.sum(0)
    d_values = matmul(weights.transpose(1, 2), dx.transpose(0, 1))
    return (
        dx, d_keys, d_values, dh, dc, dw[:units], d_v.sum(0), dw[units:], d_bias[units:],
    )  # fmt: skip
