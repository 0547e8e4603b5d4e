# SPDX-License-Identifier: Apache-2.0
"""Reference recurrence: rnn, gru, lstm over a whole sequence, backward through time.

x [T, B, I], states [B, H]. A step past a sequence's length leaves the state as it is and
outputs zeros, so that a reversed pass starts at the last valid step and a forward pass
ends there. Each cell is its step function; the recurrence is written once.
"""

from __future__ import annotations

import numpy as np

from .elementwise import logistic
from .norm import layer_norm
from .vjp import op


def _scan(step, x, states, lengths, reverse):
    """Run ``step`` over time; states is a tuple of [B, *], the first of them is the output.

    ``step(t, states)`` gives (new states, step_backward), and ``step_backward(grads)`` adds
    to the parameters' gradients and gives the gradients of the step's incoming states.
    """
    steps, batch = x.shape[:2]
    lengths = np.full(batch, steps) if lengths is None else np.asarray(lengths)
    times = range(steps - 1, -1, -1) if reverse else range(steps)
    output = np.zeros((steps, *states[0].shape), x.dtype)
    tape = []
    for t in times:
        valid = (t < lengths)[:, None]
        new, step_backward = step(t, states)
        states = tuple(np.where(valid, n, s) for n, s in zip(new, states, strict=True))
        output[t] = np.where(valid, states[0], 0)
        tape.append((t, valid, step_backward))

    def backward(g_output, *g_states):
        g_states = [
            np.zeros_like(s) if g is None else np.asarray(g)
            for s, g in zip(states, g_states or (None,) * len(states), strict=True)
        ]
        for t, valid, step_backward in reversed(tape):
            inner = [np.where(valid, g, 0) for g in g_states]
            if g_output is not None:
                inner[0] = inner[0] + np.where(valid, g_output[t], 0)
            incoming = step_backward(*inner)
            g_states = [np.where(valid, i, g) for i, g in zip(incoming, g_states, strict=True)]
        return g_states

    return output, states, backward


class _Gradients(dict):
    """Sums of gradients by name, beginning with zeros."""

    def __init__(self, **arrays):
        super().__init__({n: np.zeros_like(a) for n, a in arrays.items() if a is not None})

    def clear_sums(self):
        for value in self.values():
            value[...] = 0

    def add(self, name, value):
        if name in self:
            self[name] += value


def _zeros_if_none(state, batch, width, x):
    return np.zeros((batch, width), x.dtype) if state is None else state


def _plus(product, bias):
    return product if bias is None else product + bias


@op
def rnn(
    x, h0, w_ih, w_hh, b_ih=None, b_hh=None, *, nonlinearity="tanh", lengths=None, reverse=False
):
    """h' = f(w_ih x + b_ih + w_hh h + b_hh) -> (output [T, B, H], h_n [B, H])."""
    start = _zeros_if_none(h0, x.shape[1], w_hh.shape[1], x)
    total = _Gradients(x=x, w_ih=w_ih, w_hh=w_hh, b_ih=b_ih, b_hh=b_hh)

    def step(t, states):
        (h,) = states
        a = _plus(x[t] @ w_ih.T, b_ih) + _plus(h @ w_hh.T, b_hh)
        new = np.tanh(a) if nonlinearity == "tanh" else np.maximum(a, np.asarray(0, a.dtype))

        def step_backward(g):
            d = g * (1 - new * new) if nonlinearity == "tanh" else np.where(a > 0, g, 0)
            total["x"][t] = d @ w_ih
            total.add("w_ih", d.T @ x[t])
            total.add("w_hh", d.T @ h)
            total.add("b_ih", d.sum(axis=0))
            total.add("b_hh", d.sum(axis=0))
            return (d @ w_hh,)

        return (new,), step_backward

    output, (h_n,), scan_backward = _scan(step, x, (start,), lengths, reverse)

    def backward(g_output, g_h=None):
        total.clear_sums()
        (g_start,) = scan_backward(g_output, g_h)
        return dict(total) | ({} if h0 is None else {"h0": g_start})

    return (output, h_n), backward


@op
def gru(x, h0, w_ih, w_hh, b_ih=None, b_hh=None, *, reset_after=True, lengths=None, reverse=False):
    """Gates r z n: h' = (1 - z) n + z h -> (output [T, B, H], h_n [B, H]).

    reset_after: n = tanh(w_in x + b_in + r (w_hn h + b_hn)), torch's;
    otherwise:   n = tanh(w_in x + b_in + w_hn (r h) + b_hn), Cho's first.
    """
    width = w_hh.shape[1]
    start = _zeros_if_none(h0, x.shape[1], width, x)
    total = _Gradients(x=x, w_ih=w_ih, w_hh=w_hh, b_ih=b_ih, b_hh=b_hh)
    gates = slice(0, 2 * width)
    new_gate = slice(2 * width, 3 * width)

    def step(t, states):
        (h,) = states
        from_x = _plus(x[t] @ w_ih.T, b_ih)
        b_gates = None if b_hh is None else b_hh[gates]
        b_new = None if b_hh is None else b_hh[new_gate]
        r, z = np.split(logistic(from_x[:, gates] + _plus(h @ w_hh[gates].T, b_gates)), 2, axis=1)
        carried = h if reset_after else r * h
        recurrent = _plus(carried @ w_hh[new_gate].T, b_new)
        n = np.tanh(from_x[:, new_gate] + (r * recurrent if reset_after else recurrent))

        def step_backward(g):
            d_z = g * (h - n) * z * (1 - z)
            d_n = g * (1 - z) * (1 - n * n)
            d_recurrent = d_n * r if reset_after else d_n
            d_carried = d_recurrent @ w_hh[new_gate]
            d_r = (d_n * recurrent if reset_after else d_carried * h) * r * (1 - r)
            d_gates = np.concatenate([d_r, d_z], axis=1)
            d_from_x = np.concatenate([d_gates, d_n], axis=1)
            total["x"][t] = d_from_x @ w_ih
            total.add("w_ih", d_from_x.T @ x[t])
            total.add("b_ih", d_from_x.sum(axis=0))
            total.add("w_hh", np.concatenate([d_gates.T @ h, d_recurrent.T @ carried]))
            total.add("b_hh", np.concatenate([d_gates, d_recurrent], axis=1).sum(axis=0))
            d_h = g * z + d_gates @ w_hh[gates]
            return (d_h + (d_carried if reset_after else d_carried * r),)

        return ((1 - z) * n + z * h,), step_backward

    output, (h_n,), scan_backward = _scan(step, x, (start,), lengths, reverse)

    def backward(g_output, g_h=None):
        total.clear_sums()
        (g_start,) = scan_backward(g_output, g_h)
        return dict(total) | ({} if h0 is None else {"h0": g_start})

    return (output, h_n), backward


LAYER_NORM_EPS = 1e-5


@op
def lstm(
    x,
    h0,
    c0,
    w_ih,
    w_hh,
    b_ih=None,
    b_hh=None,
    *,
    w_hr=None,
    peepholes=None,
    layer_norm_weights=None,
    zoneout=0.0,
    zoneout_keep_old=None,
    lengths=None,
    reverse=False,
):
    """Gates i f g o -> (output [T, B, P], h_n [B, P], c_n [B, H]); P = H without w_hr [P, H].

    a  = w_ih x + b_ih + w_hh h + b_hh, its quarters a_i a_f a_g a_o
    i  = sigmoid(a_i + p_i c)    f = sigmoid(a_f + p_f c)    g = tanh(a_g)
    c' = f c + i g               o = sigmoid(a_o + p_o c')
    h' = w_hr (o tanh(c'))

    peepholes [3, H] in the order i f o. layer_norm_weights = (w_x [4H], w_h [4H], w_c [H],
    b_c [H]) normalises, over all 4H gates at once and with eps 1e-5, the two products before
    the biases are added, and the cell where it leaves:
    a = LN(w_ih x; w_x) + b_ih + LN(w_hh h; w_h) + b_hh and h' = w_hr (o tanh(LN(c'; w_c, b_c))).
    The cell that is carried on, and that the peepholes see, is c' itself.

    zoneout mixes the outgoing h' with the old h: by ``zoneout_keep_old`` (bool [T, B, P], True
    keeps the old value) where it is given, otherwise by the expected value
    zoneout h + (1 - zoneout) h'. The cell has no zoneout.
    """
    batch, width = x.shape[1], w_hh.shape[0] // 4
    states = (
        _zeros_if_none(h0, batch, w_hh.shape[1], x),
        _zeros_if_none(c0, batch, width, x),
    )
    peep = np.zeros((3, width), x.dtype) if peepholes is None else np.asarray(peepholes)
    norms = layer_norm_weights
    total = _Gradients(x=x, w_ih=w_ih, w_hh=w_hh, b_ih=b_ih, b_hh=b_hh, w_hr=w_hr)
    if peepholes is not None:
        total["peepholes"] = np.zeros_like(peep)
    if norms is not None:
        total.update({f"layer_norm_weights.{i}": np.zeros_like(w) for i, w in enumerate(norms)})

    def normalise(v, weight_at, bias_at=None):
        """LN(v) and a backward that adds the gradients of its weights; no-op without norms."""
        if norms is None:
            return v, lambda g: g
        bias = None if bias_at is None else norms[bias_at]
        y, norm_backward = layer_norm.vjp(v, norms[weight_at], bias, eps=LAYER_NORM_EPS)

        def back(g):
            grads = norm_backward(g)
            total.add(f"layer_norm_weights.{weight_at}", grads["weight"])
            if bias_at is not None:
                total.add(f"layer_norm_weights.{bias_at}", grads["bias"])
            return grads["x"]

        return y, back

    def step(t, states):
        h, c = states
        from_x, x_backward = normalise(x[t] @ w_ih.T, 0)
        from_h, h_backward = normalise(h @ w_hh.T, 1)
        a_i, a_f, a_g, a_o = np.split(_plus(from_x, b_ih) + _plus(from_h, b_hh), 4, axis=1)
        i, f, g = logistic(a_i + peep[0] * c), logistic(a_f + peep[1] * c), np.tanh(a_g)
        new_c = f * c + i * g
        o = logistic(a_o + peep[2] * new_c)
        shown, c_backward = normalise(new_c, 2, 3)
        squashed = np.tanh(shown)
        cell_output = o * squashed
        new_h = cell_output if w_hr is None else cell_output @ w_hr.T
        if zoneout_keep_old is not None:
            old_part = zoneout_keep_old[t].astype(x.dtype)
        else:
            old_part = np.asarray(zoneout, x.dtype)
        mixed = old_part * h + (1 - old_part) * new_h

        def step_backward(d_h, d_c):
            d_new_h = d_h * (1 - old_part)
            d_cell_output = d_new_h
            if w_hr is not None:
                total.add("w_hr", d_new_h.T @ cell_output)
                d_cell_output = d_new_h @ w_hr
            d_o = d_cell_output * squashed * o * (1 - o)
            d_c = d_c + c_backward(d_cell_output * o * (1 - squashed * squashed)) + d_o * peep[2]
            d_i = d_c * g * i * (1 - i)
            d_f = d_c * c * f * (1 - f)
            d_g = d_c * i * (1 - g * g)
            d_a = np.concatenate([d_i, d_f, d_g, d_o], axis=1)
            total.add("b_ih", d_a.sum(axis=0))
            total.add("b_hh", d_a.sum(axis=0))
            pairs = [(d_i, c), (d_f, c), (d_o, new_c)]
            total.add("peepholes", np.stack([(d * s).sum(axis=0) for d, s in pairs]))
            d_from_x, d_from_h = x_backward(d_a), h_backward(d_a)
            total["x"][t] = d_from_x @ w_ih
            total.add("w_ih", d_from_x.T @ x[t])
            total.add("w_hh", d_from_h.T @ h)
            d_old_c = d_c * f + d_i * peep[0] + d_f * peep[1]
            return d_h * old_part + d_from_h @ w_hh, d_old_c

        return (mixed, new_c), step_backward

    output, (h_n, c_n), scan_backward = _scan(step, x, states, lengths, reverse)

    def backward(g_output, g_h=None, g_c=None):
        total.clear_sums()
        g_h0, g_c0 = scan_backward(g_output, g_h, g_c)
        grads = dict(total)
        if h0 is not None:
            grads["h0"] = g_h0
        if c0 is not None:
            grads["c0"] = g_c0
        return grads

    return (output, h_n, c_n), backward
