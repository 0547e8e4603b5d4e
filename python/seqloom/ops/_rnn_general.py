# SPDX-License-Identifier: Apache-2.0
"""The recurrences that have no kernel of their own, as a loop of tensor ops over time; float64.

One product projects the inputs of all steps; a step is one product with the state and pointwise
ops. Sixteen-bit inputs are computed with in float32 throughout, so states are rounded once, on
their way out. Backward is what the tape has recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .. import _core
from ..dtypes import float32, float64
from ..tensor import Tensor, from_numpy
from ._double import is_double
from .activation import relu, sigmoid, tanh
from .elementwise import where
from .layout import split, stack, unbind
from .matmul import linear
from .norm import layer_norm as normalise

_FLOATS = ("float32", "float16", "bfloat16")
_NORM_EPS = 1e-5


# ---- checks -------------------------------------------------------------------------------------


def _check_inputs(op: str, x: Any) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{op}: x must be an array, got {type(x).__name__}")
    if x.dtype.name not in _FLOATS and not is_double(x):
        raise TypeError(f"{op}: x must be float32, float16 or bfloat16, got {x.dtype.name}")
    if x.ndim != 3:
        raise ValueError(f"{op}: x must have shape [T, B, I], got {list(x.shape)}")


def _check(op: str, name: str, t: Any, x: Tensor, shape: tuple[int, ...], spelled: str) -> None:
    """`t` is None or an array of this shape that goes with x."""
    if t is None:
        return
    _check_like(op, name, t, x)
    if t.shape != shape:
        raise ValueError(
            f"{op}: {name} must have shape {spelled} = {list(shape)}, got {list(t.shape)}"
        )


def _check_like(op: str, name: str, t: Any, x: Tensor) -> None:
    if not isinstance(t, Tensor):
        raise TypeError(f"{op}: {name} must be an array, got {type(t).__name__}")
    if t.dtype is not x.dtype:
        raise TypeError(
            f"{op}: {name} must have the dtype of x = {x.dtype.name}, got {t.dtype.name}"
        )
    if t.device != x.device:
        raise ValueError(f"{op}: {name} must be on the device of x = {x.device}, got {t.device}")


def _units(op: str, w_hh: Any, x: Tensor, gates: int) -> int:
    """H, from the rows of w_hh."""
    _check_like(op, "w_hh", w_hh, x)
    if w_hh.ndim != 2 or w_hh.shape[0] % gates or 0 in w_hh.shape:
        columns = "H" if gates == 3 else "P"
        raise ValueError(
            f"{op}: w_hh must have shape [{gates} H, {columns}], got {list(w_hh.shape)}"
        )
    rows: int = w_hh.shape[0]
    return rows // gates


def _valid_steps(op: str, lengths: Tensor | None, x: Tensor) -> tuple[int, Tensor | None]:
    """(steps that every sequence has, mask [T, B, 1] or None where all have all)."""
    steps, batch = x.shape[:2]
    if lengths is None:
        return steps, None
    if lengths.shape != (batch,):
        raise ValueError(
            f"{op}: lengths must have shape [B] = [{batch}], got {list(lengths.shape)}"
        )
    host = lengths.numpy()
    for b in np.flatnonzero((host < 0) | (host > steps))[:1]:
        raise ValueError(
            f"{op}: lengths must be in [0, T] = [0, {steps}], got {int(host[b])} at {int(b)}"
        )
    shortest = int(host.min()) if batch else steps
    if shortest == steps:
        return steps, None
    mask = np.arange(steps)[:, None, None] < host[None, :, None]
    return shortest, from_numpy(mask).to(device=x.device)


def _check_weights(
    op: str,
    gates: int,
    x: Tensor,
    h0: Tensor | None,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    lengths: Tensor | None,
) -> tuple[int, int, Tensor | None]:
    """(H, and what `_valid_steps` says) of a cell with one state."""
    _check_inputs(op, x)
    units = _units(op, w_hh, x, gates)
    _, batch, width = x.shape
    rows = "H" if gates == 1 else f"{gates} H"
    _check(op, "w_hh", w_hh, x, (gates * units, units), f"[{rows}, H]")
    _check_like(op, "w_ih", w_ih, x)
    _check(op, "w_ih", w_ih, x, (gates * units, width), f"[{rows}, I]")
    _check(op, "h0", h0, x, (batch, units), "[B, H]")
    _check(op, "b_ih", b_ih, x, (gates * units,), f"[{rows}]")
    _check(op, "b_hh", b_hh, x, (gates * units,), f"[{rows}]")
    return units, *_valid_steps(op, lengths, x)


# ---- the loop -----------------------------------------------------------------------------------

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


def _wide(tensors: tuple[Tensor | None, ...]) -> Iterator[Any]:
    return (t if t is None or t.dtype is float64 else t.to(dtype=float32) for t in tensors)


def _start(state: Tensor | None, batch: int, width: int, x: Tensor) -> Tensor:
    if state is not None:
        return state
    return _core.full((batch, width), 0.0, x._dtype_code, x.device)


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return a if b is None else b if a is None else a + b


def rnn_general(
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
    units, shortest, mask = _check_weights("rnn", 1, x, h0, w_ih, w_hh, b_ih, b_hh, lengths)
    steps, batch, _ = x.shape
    dtype = x.dtype
    x, h0, w_ih, w_hh, b_ih, b_hh = _wide((x, h0, w_ih, w_hh, b_ih, b_hh))
    if mask is not None:  # padding may hold anything, NaN too
        x = where(mask, x, 0.0)
    from_x = unbind(linear(x, w_ih, _sum(b_ih, b_hh)))
    function = tanh if nonlinearity == "tanh" else relu

    def step(t: int, states: States) -> States:
        return (function(from_x[t] + linear(states[0], w_hh)),)

    start = _start(h0, batch, units, x)
    y, (h_n,) = _scan(step, (start,), steps, shortest, mask, reverse)
    return y.to(dtype=dtype), h_n.to(dtype=dtype)


def gru_general(
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
    """The gated recurrent unit; without `reset_after` the reset gate comes before w_hn.

    ``n = tanh(w_in x + b_in + w_hn (r h) + b_hn)``. Shapes as in :func:`seqloom.ops.gru`.
    """
    units, shortest, mask = _check_weights("gru", 3, x, h0, w_ih, w_hh, b_ih, b_hh, lengths)
    steps, batch, _ = x.shape
    dtype = x.dtype
    x, h0, w_ih, w_hh, b_ih, b_hh = _wide((x, h0, w_ih, w_hh, b_ih, b_hh))
    if mask is not None:  # padding may hold anything, NaN too
        x = where(mask, x, 0.0)
    sizes = (2 * units, units)
    w_gates, w_new = split(w_hh, sizes)
    b_gates, b_new = (None, None) if b_hh is None else split(b_hh, sizes)
    gates_x, new_x = split(linear(x, w_ih, b_ih), sizes, -1)
    if b_gates is not None:
        gates_x = gates_x + b_gates
    if b_new is not None and not reset_after:  # nothing comes between the bias and its sum
        new_x = new_x + b_new
    gates_of, new_of = unbind(gates_x), unbind(new_x)

    def step(t: int, states: States) -> States:
        (h,) = states
        r, z = split(sigmoid(gates_of[t] + linear(h, w_gates)), units, -1)
        share = r * linear(h, w_new, b_new) if reset_after else linear(r * h, w_new)
        n = tanh(new_of[t] + share)
        return (n + z * (h - n),)

    start = _start(h0, batch, units, x)
    y, (h_n,) = _scan(step, (start,), steps, shortest, mask, reverse)
    return y.to(dtype=dtype), h_n.to(dtype=dtype)


def lstm_general(
    x: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    w_hr: Tensor | None,
    peepholes: Tensor | None,
    layer_norm: Any,
    zoneout: float,
    lengths: Tensor | None,
    reverse: bool,
    training: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Long short-term memory with any of projection, peepholes, layer norm and zoneout.

    Shapes and formulas as in :func:`seqloom.ops.lstm`.
    """
    _check_inputs("lstm", x)
    units = _units("lstm", w_hh, x, 4)
    steps, batch, width = x.shape
    shown = units
    if w_hr is not None:
        _check_like("lstm", "w_hr", w_hr, x)
        if w_hr.ndim != 2 or w_hr.shape[1] != units or w_hr.shape[0] == 0:
            raise ValueError(
                f"lstm: w_hr must have shape [P, H] = [P, {units}], got {list(w_hr.shape)}"
            )
        shown = w_hr.shape[0]
    _check("lstm", "w_hh", w_hh, x, (4 * units, shown), "[4 H, P]")
    _check_like("lstm", "w_ih", w_ih, x)
    _check("lstm", "w_ih", w_ih, x, (4 * units, width), "[4 H, I]")
    _check("lstm", "h0", h0, x, (batch, shown), "[B, P]")
    _check("lstm", "c0", c0, x, (batch, units), "[B, H]")
    _check("lstm", "b_ih", b_ih, x, (4 * units,), "[4 H]")
    _check("lstm", "b_hh", b_hh, x, (4 * units,), "[4 H]")
    _check("lstm", "peepholes", peepholes, x, (3, units), "[3, H]")
    norms: tuple[Any, ...] = (None, None, None, None)
    if layer_norm is not None:
        if not isinstance(layer_norm, (tuple, list)):
            raise TypeError(
                f"lstm: layer_norm must be a tuple of four arrays, got {type(layer_norm).__name__}"
            )
        if len(layer_norm) != 4:
            raise ValueError(
                "lstm: layer_norm must have four arrays (w_x, w_h, w_c, b_c), got"
                f" {len(layer_norm)}"
            )
        norms = tuple(layer_norm)
        for i, (count, spelled) in enumerate(((4, "[4 H]"), (4, "[4 H]"), (1, "[H]"), (1, "[H]"))):
            name = f"layer_norm[{i}]"
            _check_like("lstm", name, norms[i], x)
            _check("lstm", name, norms[i], x, (count * units,), spelled)
    shortest, mask = _valid_steps("lstm", lengths, x)

    dtype = x.dtype
    x, h0, c0, w_ih, w_hh, b_ih, b_hh = _wide((x, h0, c0, w_ih, w_hh, b_ih, b_hh))
    w_hr, peepholes = _wide((w_hr, peepholes))
    w_x, w_h, w_c, b_c = _wide(norms)
    if mask is not None:  # padding may hold anything, NaN too
        x = where(mask, x, 0.0)
    # Both biases are added to the gates of all steps at once.
    bias = _sum(b_ih, b_hh)
    if w_x is None:
        gates_x = linear(x, w_ih, bias)
    else:
        gates_x = normalise(linear(x, w_ih), w_x, bias, eps=_NORM_EPS)
    of_step = unbind(gates_x)
    peep = None if peepholes is None else unbind(peepholes)
    draw = training and zoneout > 0
    keep: tuple[Tensor, ...] = ()
    if draw:
        drawn = _core.random((steps, batch, shown), float32.code, x.device, 0)
        keep = unbind(_core.lt(drawn, zoneout))

    def step(t: int, states: States) -> States:
        h, c = states
        from_h = linear(h, w_hh)
        if w_h is not None:
            from_h = normalise(from_h, w_h, eps=_NORM_EPS)
        a = of_step[t] + from_h
        if peep is None:
            gates, a_g, a_o = split(a, (2 * units, units, units), -1)
            i, f = split(sigmoid(gates), units, -1)
            new_c = f * c + i * tanh(a_g)
        else:
            a_i, a_f, a_g, a_o = split(a, units, -1)
            new_c = sigmoid(a_f + peep[1] * c) * c + sigmoid(a_i + peep[0] * c) * tanh(a_g)
            a_o = a_o + peep[2] * new_c
        carried = new_c if w_c is None else normalise(new_c, w_c, b_c, eps=_NORM_EPS)
        new_h = sigmoid(a_o) * tanh(carried)
        if w_hr is not None:
            new_h = linear(new_h, w_hr)
        if draw:
            new_h = where(keep[t], h, new_h)
        elif zoneout > 0:
            new_h = zoneout * h + (1.0 - zoneout) * new_h
        return new_h, new_c

    starts = (_start(h0, batch, shown, x), _start(c0, batch, units, x))
    y, (h_n, c_n) = _scan(step, starts, steps, shortest, mask, reverse)
    return y.to(dtype=dtype), h_n.to(dtype=dtype), c_n.to(dtype=dtype)
