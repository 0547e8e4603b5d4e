# SPDX-License-Identifier: Apache-2.0
"""rnn, gru and lstm: one layer, one direction, the whole sequence in one call."""

from __future__ import annotations

from typing import Any

from .. import _core
from ..autograd import Node, record
from ..dtypes import int64
from ..tensor import Tensor
from ._arrays import public
from ._double import is_double

__all__ = ["gru", "lstm", "rnn"]

_CELLS = {"tanh": 0, "relu": 1, "gru": 2, "lstm": 3}
_OPS = ("rnn", "rnn", "gru", "lstm")
_INPUTS = ("x", "h0", "c0", "w_ih", "w_hh", "b_ih", "b_hh", "peepholes")


def host_lengths(op: str, lengths: Any) -> Tensor | None:
    """`lengths` as int64 on the CPU."""
    if lengths is None:
        return None
    if not isinstance(lengths, Tensor) or lengths.dtype.is_floating_point:
        raise TypeError(f"{op}: lengths must be an integer array")
    return lengths.detach().to(dtype=int64, device="cpu")


def _no_array(op: str, inputs: tuple[Any, ...]) -> TypeError:
    """The error that names the first input that is no array."""
    for name, t in zip(_INPUTS, inputs, strict=True):
        if t is not None and not isinstance(t, Tensor):
            return TypeError(f"{op}: {name} must be an array, got {type(t).__name__}")
    raise AssertionError


def _run(
    cell: int,
    x: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    peepholes: Tensor | None,
    lengths: Tensor | None,
    reverse: bool,
    recompute: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    inputs = (x, h0, c0, w_ih, w_hh, b_ih, b_hh, peepholes)
    try:
        training = any(t is not None and t._needs_grad for t in inputs)
    except AttributeError:
        raise _no_array(_OPS[cell], inputs) from None
    y, h_n, c_n, saved, cells = _core.rnn_forward(
        cell, *inputs, lengths, reverse, training and not recompute
    )
    if training:
        kept = (*inputs, lengths, y.detach(), saved, cells)
        outputs = (y, h_n) if c_n is None else (y, h_n, c_n)
        record(outputs, _OPS[cell], inputs, _backward, kept, (cell, reverse))
    return y, h_n, c_n


def _backward(
    node: Node, dy: Tensor | None, dh_n: Tensor | None, dc_n: Tensor | None = None
) -> tuple[Tensor | None, ...]:
    cell, reverse = node.context
    *inputs, lengths, y, saved, cells = node.saved_tensors()
    x, h0, c0, w_ih, w_hh, b_ih, b_hh, peepholes = inputs
    if saved is None and cell >= 2:  # recompute: only the outputs were kept
        saved, cells = _core.rnn_forward(
            cell, x, h0, c0, w_ih, w_hh, b_ih, b_hh, peepholes, lengths, reverse, True
        )[3:]
    weights = (w_ih, w_hh, b_ih, b_hh, peepholes)
    dx, dh0, dc0, dw_ih, dw_hh, *small = _core.rnn_backward(
        cell,
        (*inputs, lengths),
        (y, saved, cells),
        dy,
        dh_n,
        dc_n,
        reverse,
        x.requires_grad,
        any(w is not None and w.requires_grad for w in weights),
    )
    return (dx, dh0, dc0, dw_ih, dw_hh, *_small_gradients(small, (b_ih, b_hh, peepholes)))


def _small_gradients(gradients: Any, parameters: Any) -> list[Tensor | None]:
    """Gradients of the biases and peepholes, which come as float32, in their dtypes."""
    return [
        None if g is None or p is None else _core.convert(g, p._dtype_code, p.device, False)
        for g, p in zip(gradients, parameters, strict=True)
    ]


@public
def rnn(
    x: Tensor,
    h0: Tensor | None,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    *,
    nonlinearity: str = "tanh",
    lengths: Tensor | None = None,
    reverse: bool = False,
    recompute: bool = False,
) -> tuple[Tensor, Tensor]:
    """h' = nonlinearity(w_ih x + b_ih + w_hh h + b_hh), over a whole sequence.

    Parameters
    ----------
    x : array [T, B, I]
    h0 : array [B, H] or None (zeros)
    w_ih, w_hh : arrays [H, I], [H, H]
    b_ih, b_hh : arrays [H], optional
    nonlinearity : {"tanh", "relu"}
    lengths : integer array [B], optional
        Valid steps of each sequence, in any order. Outputs past a length are zero.
    reverse : bool
        Run from the last valid step to the first.
    recompute : bool
        Keep only the states for backward.

    Returns
    -------
    (output [T, B, H], h_n [B, H])

    Examples
    --------
    >>> import numpy as np, seqloom as sl
    >>> x = np.ones((5, 2, 3), np.float32)
    >>> w_ih, w_hh = np.ones((4, 3), np.float32), np.zeros((4, 4), np.float32)
    >>> output, h_n = sl.ops.rnn(x, None, w_ih, w_hh, lengths=np.array([5, 2]))
    >>> output.shape, h_n.shape, float(output[2, 1, 0])
    ((5, 2, 4), (2, 4), 0.0)
    """
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(f"rnn: nonlinearity must be 'tanh' or 'relu', got {nonlinearity!r}")
    steps = host_lengths("rnn", lengths)
    if is_double(x):
        from ._rnn_double import rnn_double

        return rnn_double(x, h0, w_ih, w_hh, b_ih, b_hh, nonlinearity, steps, reverse)
    y, h_n, _ = _run(
        _CELLS[nonlinearity], x, h0, None, w_ih, w_hh, b_ih, b_hh, None, steps, reverse, recompute
    )
    return y, h_n


@public
def gru(
    x: Tensor,
    h0: Tensor | None,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    *,
    reset_after: bool = True,
    lengths: Tensor | None = None,
    reverse: bool = False,
    recompute: bool = False,
) -> tuple[Tensor, Tensor]:
    """Gated recurrent unit, gates in torch's order r z n.

    ``r, z = sigmoid(w x + b + u h + c)``, ``n = tanh(w x + b + r (u h + c))``,
    ``h' = (1 - z) n + z h``. With ``reset_after=False``, Cho's first formula:
    ``n = tanh(w x + b + u (r h) + c)``.

    Parameters
    ----------
    x : array [T, B, I]
    h0 : array [B, H] or None (zeros)
    w_ih, w_hh : arrays [3 H, I], [3 H, H]
    b_ih, b_hh : arrays [3 H], optional
    reset_after : bool
    lengths : integer array [B], optional
        Valid steps of each sequence, in any order. Outputs past a length are zero.
    reverse : bool
        Run from the last valid step to the first.
    recompute : bool
        Keep only the states for backward.

    Returns
    -------
    (output [T, B, H], h_n [B, H])

    Examples
    --------
    >>> import numpy as np, seqloom as sl
    >>> x = np.ones((5, 2, 3), np.float32)
    >>> w_ih, w_hh = np.zeros((12, 3), np.float32), np.zeros((12, 4), np.float32)
    >>> output, h_n = sl.ops.gru(x, np.ones((2, 4), np.float32), w_ih, w_hh)
    >>> float(output[0, 0, 0])
    0.5
    """
    steps = host_lengths("gru", lengths)
    if is_double(x):
        from ._rnn_double import gru_double

        return gru_double(x, h0, w_ih, w_hh, b_ih, b_hh, reset_after, steps, reverse)
    if not reset_after:
        from ._rnn_general import gru_first

        return gru_first(x, h0, w_ih, w_hh, b_ih, b_hh, steps, reverse, recompute)
    y, h_n, _ = _run(
        _CELLS["gru"], x, h0, None, w_ih, w_hh, b_ih, b_hh, None, steps, reverse, recompute
    )
    return y, h_n


def _stacked(peepholes: Any) -> Tensor:
    """Three arrays [H] as one [3, H]."""
    from .layout import stack

    for p in peepholes:
        if not isinstance(p, Tensor):
            raise TypeError(f"lstm: peepholes must be arrays, got {type(p).__name__}")
    shapes = [list(p.shape) for p in peepholes]
    if len(shapes) != 3 or any(shape != shapes[0] for shape in shapes):
        raise ValueError(f"lstm: peepholes must be three arrays [H], got shapes {shapes}")
    return stack(tuple(peepholes))


@public
def lstm(
    x: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    *,
    w_hr: Tensor | None = None,
    peepholes: Any = None,
    layer_norm: Any = None,
    zoneout: float = 0.0,
    lengths: Tensor | None = None,
    reverse: bool = False,
    recompute: bool = False,
    training: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Long short-term memory, gates in torch's order i f g o.

    ``i, f, o = sigmoid(...)``, ``g = tanh(...)``, ``c' = f c + i g``, ``h' = o tanh(c')``.

    Parameters
    ----------
    x : array [T, B, I]
    h0 : array [B, P] or None (zeros)
    c0 : array [B, H] or None (zeros)
    w_ih, w_hh : arrays [4 H, I], [4 H, P]
    b_ih, b_hh : arrays [4 H], optional
    w_hr : array [P, H], optional
        Projection of the output: ``h' = w_hr (o tanh(c'))``. P = H without it.
    peepholes : array [3, H] or three arrays [H], optional
        Weights of c in the gates i and f, and of c' in o.
    layer_norm : (w_x [4 H], w_h [4 H], w_c [H], b_c [H]), optional
        ``LN(w_ih x; w_x) + LN(w_hh h; w_h)`` before the biases, and
        ``tanh(LN(c'; w_c, b_c))``; eps 1e-5.
    zoneout : float
        Probability with which a unit of h keeps its old value; the mean when not training.
    lengths : integer array [B], optional
        Valid steps of each sequence, in any order. Outputs past a length are zero.
    reverse : bool
        Run from the last valid step to the first.
    recompute : bool
        Keep only the states for backward.
    training : bool
        Draw zoneout at random.

    Returns
    -------
    (output [T, B, P], h_n [B, P], c_n [B, H])

    Examples
    --------
    >>> import numpy as np, seqloom as sl
    >>> x = np.ones((5, 2, 3), np.float32)
    >>> w_ih, w_hh = np.zeros((16, 3), np.float32), np.zeros((16, 4), np.float32)
    >>> output, h_n, c_n = sl.ops.lstm(x, None, np.ones((2, 4), np.float32), w_ih, w_hh)
    >>> c_n.shape, float(c_n[0, 0])
    ((2, 4), 0.03125)
    """
    steps = host_lengths("lstm", lengths)
    if not isinstance(zoneout, (int, float)):
        raise TypeError(f"lstm: zoneout must be a number, got {type(zoneout).__name__}")
    if not 0.0 <= zoneout <= 1.0:
        raise ValueError(f"lstm: zoneout must be in [0, 1], got {zoneout}")
    if isinstance(peepholes, (tuple, list)):
        peepholes = _stacked(peepholes)
    if w_hr is not None or layer_norm is not None or zoneout > 0.0 or is_double(x):
        from ._rnn_general import lstm_general

        return lstm_general(
            x,
            h0,
            c0,
            w_ih,
            w_hh,
            b_ih,
            b_hh,
            w_hr,
            peepholes,
            layer_norm,
            zoneout,
            steps,
            reverse,
            recompute,
            training,
        )
    y, h_n, c_n = _run(
        _CELLS["lstm"], x, h0, c0, w_ih, w_hh, b_ih, b_hh, peepholes, steps, reverse, recompute
    )
    assert c_n is not None
    return y, h_n, c_n
