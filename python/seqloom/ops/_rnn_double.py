# SPDX-License-Identifier: Apache-2.0
"""The recurrences in float64, as a loop of tensor ops over time: references and gradient checks.

Backward is what the tape has recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import _core
from ..tensor import Tensor
from ._rnn_general import NORM_EPS, check_weights, projected, valid_steps
from .activation import relu, sigmoid, tanh
from .elementwise import where
from .layout import split, stack, unbind
from .matmul import linear
from .norm import layer_norm as normalise

States = tuple[Tensor, ...]


def _scan(
    step: Callable[[int, States], States],
    states: States,
    steps: int,
    shortest: int,
    mask: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, States]:
    """Run `step` over time -> (outputs [T, B, *], final states); the first state is the output.

    Past a sequence's length its states stay as they are and its outputs are zero.
    """
    masks = None if mask is None else unbind(mask)
    outputs: list[Tensor] = []
    for t in range(steps - 1, -1, -1) if reverse else range(steps):
        new = step(t, states)
        if masks is not None and t >= shortest:
            new = tuple(where(masks[t], n, s) for n, s in zip(new, states, strict=True))
        states = new
        outputs.append(states[0])
    if not outputs:
        empty = _core.full((0, *states[0].shape), 0.0, states[0]._dtype_code, states[0].device)
        return empty, tuple(s.clone() for s in states)
    if reverse:
        outputs.reverse()
    y = stack(outputs)
    return (y if mask is None else where(mask, y, 0.0)), states


def _start(state: Tensor | None, batch: int, width: int, x: Tensor) -> Tensor:
    if state is not None:
        return state
    return _core.full((batch, width), 0.0, x._dtype_code, x.device)


def rnn_double(
    x: Tensor,
    h0: Tensor | None,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    nonlinearity: str,
    lengths: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """The plain recurrence. Shapes as in :func:`seqloom.ops.rnn`."""
    units = check_weights("rnn", 1, x, h0, w_ih, w_hh, b_ih, b_hh)
    shortest, mask = valid_steps("rnn", lengths, x)
    steps, batch, _ = x.shape
    from_x = unbind(projected(x, w_ih, b_ih, None, mask))
    function = tanh if nonlinearity == "tanh" else relu

    def step(t: int, states: States) -> States:
        return (function(from_x[t] + linear(states[0], w_hh, b_hh)),)

    start = _start(h0, batch, units, x)
    y, (h_n,) = _scan(step, (start,), steps, shortest, mask, reverse)
    return y, h_n


def gru_double(
    x: Tensor,
    h0: Tensor | None,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    reset_after: bool,
    lengths: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """The gated recurrent unit. Shapes as in :func:`seqloom.ops.gru`."""
    units = check_weights("gru", 3, x, h0, w_ih, w_hh, b_ih, b_hh)
    shortest, mask = valid_steps("gru", lengths, x)
    steps, batch, _ = x.shape
    sizes = (2 * units, units)
    w_gates, w_new = split(w_hh, sizes)
    b_gates, b_new = (None, None) if b_hh is None else split(b_hh, sizes)
    gates_of, new_of = map(unbind, split(projected(x, w_ih, b_ih, None, mask), sizes, -1))

    def step(t: int, states: States) -> States:
        (h,) = states
        r, z = split(sigmoid(gates_of[t] + linear(h, w_gates, b_gates)), units, -1)
        share = r * linear(h, w_new, b_new) if reset_after else linear(r * h, w_new, b_new)
        n = tanh(new_of[t] + share)
        return (n + z * (h - n),)

    start = _start(h0, batch, units, x)
    y, (h_n,) = _scan(step, (start,), steps, shortest, mask, reverse)
    return y, h_n


def lstm_steps(
    gates_x: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    w_hh: Tensor,
    w_hr: Tensor | None,
    peepholes: Tensor | None,
    norm_h: Tensor | None,
    norm_c: Tensor | None,
    norm_b: Tensor | None,
    keep: Tensor | None,
    zoneout: float,
    shortest: int,
    mask: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The steps of a long short-term memory with options, from the input's share of the gates."""
    steps, batch, gates = gates_x.shape
    units = gates // 4
    of_step = unbind(gates_x)
    kept: Any = None if keep is None else unbind(keep)
    peep = None if peepholes is None else unbind(peepholes)

    def step(t: int, states: States) -> States:
        h, c = states
        from_h = linear(h, w_hh)
        if norm_h is not None:
            from_h = normalise(from_h, norm_h, eps=NORM_EPS)
        a_i, a_f, a_g, a_o = split(of_step[t] + from_h, units, -1)
        if peep is not None:
            a_i, a_f = a_i + peep[0] * c, a_f + peep[1] * c
        new_c = sigmoid(a_f) * c + sigmoid(a_i) * tanh(a_g)
        if peep is not None:
            a_o = a_o + peep[2] * new_c
        carried = new_c if norm_c is None else normalise(new_c, norm_c, norm_b, eps=NORM_EPS)
        new_h = sigmoid(a_o) * tanh(carried)
        if w_hr is not None:
            new_h = linear(new_h, w_hr)
        if kept is not None:
            new_h = where(kept[t], h, new_h)
        elif zoneout > 0:
            new_h = zoneout * h + (1.0 - zoneout) * new_h
        return new_h, new_c

    starts = (
        _start(h0, batch, w_hh.shape[1], gates_x),
        _start(c0, batch, units, gates_x),
    )
    y, (h_n, c_n) = _scan(step, starts, steps, shortest, mask, reverse)
    return y, h_n, c_n
