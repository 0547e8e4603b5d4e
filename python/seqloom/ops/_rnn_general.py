# SPDX-License-Identifier: Apache-2.0
"""The recurrences with options: projection, layer norm, zoneout, the reset gate before its product.

The input's share of the gates is one product (and one norm) over all steps, as ops of their own; a
kernel runs the steps. Sixteen-bit inputs are computed with in float32 throughout, so states are
rounded once, on their way out. float64 runs as a loop of tensor ops, see `_rnn_double`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .. import _core
from ..autograd import Node, record
from ..dtypes import float32, float64
from ..tensor import Tensor, from_numpy
from ._double import is_double
from .elementwise import where
from .matmul import linear
from .norm import layer_norm as normalise

_FLOATS = ("float32", "float16", "bfloat16")
NORM_EPS = 1e-5
_GRU, _LSTM = 2, 3


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


def valid_steps(op: str, lengths: Tensor | None, x: Tensor) -> tuple[int, Tensor | None]:
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


def check_weights(
    op: str,
    gates: int,
    x: Tensor,
    h0: Tensor | None,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
) -> int:
    """H of a cell with one state."""
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
    return units


def _check_lstm(
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
) -> tuple[Any, ...]:
    """The four arrays of layer_norm, or four times None."""
    _check_inputs("lstm", x)
    units = _units("lstm", w_hh, x, 4)
    _, batch, width = x.shape
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
    if layer_norm is None:
        return (None, None, None, None)
    if not isinstance(layer_norm, (tuple, list)):
        raise TypeError(
            f"lstm: layer_norm must be a tuple of four arrays, got {type(layer_norm).__name__}"
        )
    if len(layer_norm) != 4:
        raise ValueError(
            f"lstm: layer_norm must have four arrays (w_x, w_h, w_c, b_c), got {len(layer_norm)}"
        )
    for i, (count, spelled) in enumerate(((4, "[4 H]"), (4, "[4 H]"), (1, "[H]"), (1, "[H]"))):
        name = f"layer_norm[{i}]"
        _check_like("lstm", name, layer_norm[i], x)
        _check("lstm", name, layer_norm[i], x, (count * units,), spelled)
    return tuple(layer_norm)


# ---- the steps ----------------------------------------------------------------------------------


def _run(
    cell: int,
    inputs: tuple[Tensor | None, ...],
    keep: Tensor | None,
    lengths: Tensor | None,
    reverse: bool,
    zoneout: float,
    recompute: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """(y, h_n, c_n) of inputs (gates_x, h0, c0, w_hh, w_hr, peepholes and three of the norm)."""
    training = any(t is not None and t._needs_grad for t in inputs)
    given = (*inputs, keep, lengths)
    y, h_n, c_n, *kept = _core.rnn_general_forward(
        cell, given, reverse, zoneout, training and not recompute
    )
    if training:
        outputs = (y, h_n) if c_n is None else (y, h_n, c_n)
        saved = (*given, y.detach(), *kept)
        name = "gru" if cell == _GRU else "lstm"
        record(outputs, name, inputs, _backward, saved, (cell, reverse, zoneout))
    return y, h_n, c_n


def _backward(
    node: Node, dy: Tensor | None, dh_n: Tensor | None, dc_n: Tensor | None = None
) -> tuple[Tensor | None, ...]:
    cell, reverse, zoneout = node.context
    saved = node.saved_tensors()
    given, results = tuple(saved[:11]), tuple(saved[11:])
    if results[1] is None:  # recompute: only the outputs were kept
        again = _core.rnn_general_forward(cell, given, reverse, zoneout, True)
        results = (results[0], *again[3:])
    gradients: tuple[Tensor | None, ...] = _core.rnn_general_backward(
        cell, given, reverse, zoneout, results, dy, dh_n, dc_n
    )
    return gradients


def _wide(*tensors: Tensor | None) -> Iterator[Any]:
    return (t if t is None or t.dtype is float64 else t.to(dtype=float32) for t in tensors)


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return a if b is None else b if a is None else a + b


def projected(
    x: Tensor, w_ih: Tensor, bias: Tensor | None, norm: Tensor | None, mask: Tensor | None
) -> Tensor:
    """The input's share of the gates of all steps, norm and bias included."""
    if mask is not None:  # padding may hold anything, NaN too
        x = where(mask, x, 0.0)
    if norm is None:
        return linear(x, w_ih, bias)
    return normalise(linear(x, w_ih), norm, bias, eps=NORM_EPS)


def gru_first(
    x: Tensor,
    h0: Tensor | None,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    lengths: Tensor | None,
    reverse: bool,
    recompute: bool,
) -> tuple[Tensor, Tensor]:
    """The gated recurrent unit with the reset gate before w_hn. Shapes as in `seqloom.ops.gru`."""
    check_weights("gru", 3, x, h0, w_ih, w_hh, b_ih, b_hh)
    _, mask = valid_steps("gru", lengths, x)
    dtype = x.dtype
    x, h0, w_ih, w_hh, b_ih, b_hh = _wide(x, h0, w_ih, w_hh, b_ih, b_hh)
    gates_x = projected(x, w_ih, _sum(b_ih, b_hh), None, mask)
    inputs = (gates_x, h0, None, w_hh, None, None, None, None, None)
    y, h_n, _ = _run(_GRU, inputs, None, lengths, reverse, 0.0, recompute)
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
    recompute: bool,
    training: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Long short-term memory with any of projection, peepholes, layer norm and zoneout.

    Shapes and formulas as in :func:`seqloom.ops.lstm`.
    """
    norms = _check_lstm(x, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr, peepholes, layer_norm)
    shortest, mask = valid_steps("lstm", lengths, x)
    dtype = x.dtype
    x, h0, c0, w_ih, w_hh, b_ih, b_hh = _wide(x, h0, c0, w_ih, w_hh, b_ih, b_hh)
    w_hr, peepholes, norm_x, norm_h, norm_c, norm_b = _wide(w_hr, peepholes, *norms)
    gates_x = projected(x, w_ih, _sum(b_ih, b_hh), norm_x, mask)
    keep = None
    if training and zoneout > 0:
        steps, batch, _ = x.shape
        drawn = _core.random((steps, batch, w_hh.shape[1]), float32.code, x.device, 0)
        keep = _core.lt(drawn, zoneout)
    inputs = (gates_x, h0, c0, w_hh, w_hr, peepholes, norm_h, norm_c, norm_b)
    if dtype is float64:
        from ._rnn_double import lstm_steps

        return lstm_steps(*inputs, keep, zoneout, shortest, mask, reverse)
    y, h_n, c_n = _run(_LSTM, inputs, keep, lengths, reverse, zoneout, recompute)
    assert c_n is not None
    return y.to(dtype=dtype), h_n.to(dtype=dtype), c_n.to(dtype=dtype)
