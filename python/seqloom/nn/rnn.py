# SPDX-License-Identifier: Apache-2.0
"""RNN, GRU and LSTM: layers and directions over the recurrent ops."""

from __future__ import annotations

import math
from typing import Any

from .. import ops
from ..ops._rnn_many import run_at_once, run_directions, run_stack
from ..tensor import Tensor
from . import init
from .activation import probability
from .init import new_parameter
from .linear import positive
from .module import Module
from .parameter import Parameter


class _Recurrent(Module):
    """What the three share; a subclass runs one layer in one direction."""

    _gates = 1
    _usual = True  # no options beyond torch's
    _cell = "tanh"  # "relu", "gru", "lstm"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
        proj_size: int,
        device: Any,
        dtype: Any,
        extra: dict[str, tuple[int, ...]] | None = None,
    ) -> None:
        """extra: further parameters of each layer and direction, with their shapes."""
        super().__init__()
        owner = type(self).__name__
        positive(owner, input_size=input_size, hidden_size=hidden_size, num_layers=num_layers)
        if proj_size:
            positive(owner, proj_size=proj_size)
            if proj_size >= hidden_size:
                raise ValueError(
                    f"{owner}: proj_size must be below hidden_size = {hidden_size}, got {proj_size}"
                )
        self.input_size, self.hidden_size, self.proj_size = input_size, hidden_size, proj_size
        self.num_layers, self.bias, self.batch_first = num_layers, bias, batch_first
        self.dropout = probability(owner, dropout, "dropout")
        self.bidirectional = bidirectional
        self._names: list[tuple[str, ...]] = []  # per layer and direction
        self._suffixes: list[str] = []
        rows, out = self._gates * hidden_size, proj_size or hidden_size
        for layer in range(num_layers):
            columns = input_size if layer == 0 else out * (1 + bidirectional)
            for suffix in ("", "_reverse")[: 1 + bidirectional]:
                shapes: dict[str, tuple[int, ...]] = {
                    "weight_ih": (rows, columns),
                    "weight_hh": (rows, out),
                }
                if bias:
                    shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
                if proj_size:
                    shapes["weight_hr"] = (proj_size, hidden_size)
                self._suffixes.append(f"_l{layer}{suffix}")
                for kind, shape in (shapes | (extra or {})).items():
                    p = new_parameter(*shape, device=device, dtype=dtype)
                    setattr(self, f"{kind}_l{layer}{suffix}", p)
                kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
                self._names.append(
                    tuple(f"{k}_l{layer}{suffix}" if k in shapes else "" for k in kinds)
                )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        bound = 1 / math.sqrt(self.hidden_size)
        for name, p in self.named_parameters():
            if name.startswith("norm_"):
                init.constant_(p, 0.0 if name.startswith("norm_bias") else 1.0)
            else:
                init.uniform_(p, -bound, bound)

    def _weights(self, index: int) -> list[Parameter | None]:
        """w_ih, w_hh, b_ih, b_hh, w_hr of one layer and direction."""
        return [getattr(self, name) if name else None for name in self._names[index]]

    def _layer(
        self, index: int, states: tuple[Tensor, ...] | None
    ) -> tuple[Tensor | Parameter | None, ...]:
        """h0, c0, w_ih, w_hh, b_ih, b_hh of one layer and direction without projection."""
        start = [] if states is None else [s[index] for s in states]
        return (*start, *[None] * (2 - len(start)), *self._weights(index)[:4])

    def _extra(self, kind: str, index: int) -> Parameter:
        """One of the further parameters of a layer and direction."""
        found: Parameter = getattr(self, kind + self._suffixes[index])
        return found

    def _one(
        self, x: Tensor, states: tuple[Tensor | None, ...], index: int, lengths: Any, reverse: bool
    ) -> tuple[Tensor, ...]:
        raise NotImplementedError

    def _check_state(self, state: Any, width: int, batch: int) -> Tensor:
        """A state [layers * directions, B, width]."""
        if not isinstance(state, Tensor):
            raise TypeError(
                f"{type(self).__name__}: hx must be a Tensor, got {type(state).__name__}"
            )
        found: Tensor = state.unsqueeze(1) if state.ndim == 2 and batch == 1 else state
        wanted = (len(self._names), batch, width)
        if found.shape != wanted:
            raise ValueError(
                f"{type(self).__name__}: hx must have shape [layers * directions, B, H] ="
                f" {list(wanted)}, got {list(found.shape)}"
            )
        return found

    def _run(
        self, x: Tensor, states: tuple[Tensor, ...] | None, lengths: Any
    ) -> tuple[Tensor, list[Tensor]]:
        """Outputs [T, B, D * out] and the last states, each [layers * directions, B, ...]."""
        directions = 1 + self.bidirectional
        last: list[tuple[Tensor, ...]] = []
        drops = self.training and self.dropout > 0
        usual = self._usual and not self.proj_size
        at_once = usual and run_at_once(self._cell, x, self.hidden_size)
        if at_once and directions == 1 and self.num_layers > 1 and not drops:
            layers = tuple(self._layer(i, states) for i in range(self.num_layers))
            done = run_stack(self._cell, x, layers, lengths)
            x, last = done[-1][0], [tuple(end) for _, *end in done]
            return x, [ops.stack(list(s), 0) for s in zip(*last, strict=True)]
        for layer in range(self.num_layers):
            indices = range(layer * directions, (layer + 1) * directions)
            if at_once and directions == 2:
                pair = tuple(self._layer(i, states) for i in indices)
                results = run_directions(self._cell, x, pair, lengths)
            else:
                results = []
                for index in indices:
                    start = (None, None) if states is None else tuple(s[index] for s in states)
                    results.append(self._one(x, start, index, lengths, index % directions == 1))
            last += [tuple(end) for _, *end in results]
            x = results[0][0] if directions == 1 else ops.cat([y for y, *_ in results], -1)
            if drops and layer + 1 < self.num_layers:
                x = ops.dropout(x, self.dropout)
        if len(last) == 1:
            return x, [s.unsqueeze(0) for s in last[0]]
        return x, [ops.stack(list(s), 0) for s in zip(*last, strict=True)]

    def _forward(
        self, x: Tensor, states: tuple[Any, ...] | None, lengths: Any
    ) -> tuple[Tensor, list[Tensor]]:
        owner = type(self).__name__
        if not isinstance(x, Tensor):
            raise TypeError(f"{owner}: x must be a Tensor, got {type(x).__name__}")
        if x.ndim not in (2, 3) or x.shape[-1] != self.input_size:
            layout = "[B, T, I]" if self.batch_first else "[T, B, I]"
            raise ValueError(
                f"{owner}: x must have shape {layout} or [T, I] with I = {self.input_size}, got"
                f" {list(x.shape)}"
            )
        batched = x.ndim == 3
        if not batched:
            x = x.unsqueeze(1)
        elif self.batch_first:
            x = x.transpose(0, 1)
        if states is not None:
            widths = (self.proj_size or self.hidden_size, self.hidden_size)
            states = tuple(
                self._check_state(s, w, x.shape[1]) for s, w in zip(states, widths, strict=False)
            )
        y, last = self._run(x, states, lengths)
        if not batched:
            return y.squeeze(1), [s.squeeze(1) for s in last]
        return (y.transpose(0, 1) if self.batch_first else y), last

    def extra_repr(self) -> str:
        options = {
            "num_layers": (self.num_layers, 1),
            "bias": (self.bias, True),
            "batch_first": (self.batch_first, False),
            "dropout": (self.dropout, 0.0),
            "bidirectional": (self.bidirectional, False),
            "proj_size": (self.proj_size, 0),
            "peepholes": (getattr(self, "peepholes", False), False),
            "layer_norm": (getattr(self, "layer_norm", False), False),
            "zoneout": (getattr(self, "zoneout", 0.0), 0.0),
            "reset_after": (getattr(self, "reset_after", True), True),
        }
        changed = "".join(f", {k}={v}" for k, (v, usual) in options.items() if v != usual)
        return f"{self.input_size}, {self.hidden_size}{changed}"


class RNN(_Recurrent):
    """Elman's network: ``h' = tanh(W x + b + U h + c)``.

    Parameters
    ----------
    input_size, hidden_size, num_layers : int
    nonlinearity : {"tanh", "relu"}
    bias : bool
    batch_first : bool
        Inputs and outputs [B, T, ...] instead of [T, B, ...]; states stay [..., B, H].
    dropout : float
        Between layers, in training.
    bidirectional : bool
        A second pass from the last step to the first; its outputs follow in the last axis.

    Attributes
    ----------
    weight_ih_l0, weight_hh_l0, bias_ih_l0, bias_hh_l0, weight_ih_l0_reverse, ... : Parameter
        Of each layer and direction, torch's names and shapes.

    Examples
    --------
    >>> import seqloom as sl
    >>> y, h = sl.nn.RNN(4, 8, bidirectional=True)(sl.ones(5, 2, 4), lengths=sl.tensor([5, 3]))
    >>> y.shape, h.shape
    ((5, 2, 16), (2, 2, 8))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"RNN: nonlinearity must be 'tanh' or 'relu', got {nonlinearity!r}")
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, 0,
            device, dtype,
        )  # fmt: skip
        self.nonlinearity = self._cell = nonlinearity

    def _one(
        self, x: Tensor, states: tuple[Tensor | None, ...], index: int, lengths: Any, reverse: bool
    ) -> tuple[Tensor, ...]:
        w_ih, w_hh, b_ih, b_hh, _ = self._weights(index)
        assert w_ih is not None
        assert w_hh is not None
        return ops.rnn(
            x, states[0], w_ih, w_hh, b_ih, b_hh,
            nonlinearity=self.nonlinearity, lengths=lengths, reverse=reverse,
        )  # fmt: skip

    def forward(
        self, x: Tensor, hx: Tensor | None = None, lengths: Any = None
    ) -> tuple[Tensor, Tensor]:
        """
        Parameters
        ----------
        x : [T, B, I] ([B, T, I] with batch_first), or [T, I]
        hx : [layers * directions, B, H], optional
        lengths : integers [B], optional
            Valid steps of each sequence, in any order; outputs past them are zero.

        Returns
        -------
        (output [T, B, directions * H], h_n [layers * directions, B, H])
        """
        y, (h,) = self._forward(x, None if hx is None else (hx,), lengths)
        return y, h


class GRU(_Recurrent):
    """Gated recurrent unit with torch's gate order r z n.

    Parameters
    ----------
    input_size, hidden_size, num_layers : int
    bias, batch_first : bool
    dropout : float
        Between layers, in training.
    bidirectional : bool
    reset_after : bool
        False: the reset gate comes before the product with the state, Cho's first formula.

    Attributes
    ----------
    weight_ih_l0 [3 H, I], weight_hh_l0 [3 H, H], bias_ih_l0, bias_hh_l0 [3 H], ... : Parameter

    Examples
    --------
    >>> import seqloom as sl
    >>> y, h = sl.nn.GRU(4, 8, num_layers=2, batch_first=True)(sl.ones(2, 5, 4))
    >>> y.shape, h.shape
    ((2, 5, 8), (2, 2, 8))
    """

    _gates = 3
    _cell = "gru"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        reset_after: bool = True,
    ) -> None:
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, 0,
            device, dtype,
        )  # fmt: skip
        self.reset_after = self._usual = reset_after

    def _one(
        self, x: Tensor, states: tuple[Tensor | None, ...], index: int, lengths: Any, reverse: bool
    ) -> tuple[Tensor, ...]:
        w_ih, w_hh, b_ih, b_hh, _ = self._weights(index)
        assert w_ih is not None
        assert w_hh is not None
        return ops.gru(
            x, states[0], w_ih, w_hh, b_ih, b_hh,
            reset_after=self.reset_after, lengths=lengths, reverse=reverse,
        )  # fmt: skip

    def forward(
        self, x: Tensor, hx: Tensor | None = None, lengths: Any = None
    ) -> tuple[Tensor, Tensor]:
        """
        Parameters
        ----------
        x : [T, B, I] ([B, T, I] with batch_first), or [T, I]
        hx : [layers * directions, B, H], optional
        lengths : integers [B], optional
            Valid steps of each sequence, in any order; outputs past them are zero.

        Returns
        -------
        (output [T, B, directions * H], h_n [layers * directions, B, H])
        """
        y, (h,) = self._forward(x, None if hx is None else (hx,), lengths)
        return y, h


class LSTM(_Recurrent):
    """Long short-term memory with torch's gate order i f g o.

    Parameters
    ----------
    input_size, hidden_size, num_layers : int
    bias, batch_first : bool
    dropout : float
        Between layers, in training.
    bidirectional : bool
    proj_size : int
        When positive, outputs are projected to this size P before they recur.
    peepholes : bool
        The gates see the cell: i and f before the step, o after it.
    layer_norm : bool
        Of the input's and the state's share of the gates, and of the cell before it is shown.
    zoneout : float
        Probability with which a unit of the state keeps its old value; the mean in evaluation.

    Attributes
    ----------
    weight_ih_l0 [4 H, I], weight_hh_l0 [4 H, P or H], bias_ih_l0, bias_hh_l0 [4 H],
    weight_hr_l0 [P, H], peepholes_l0 [3, H], norm_ih_l0, norm_hh_l0 [4 H], norm_cell_l0,
    norm_bias_l0 [H], ... : Parameter

    Examples
    --------
    >>> import seqloom as sl
    >>> y, (h, c) = sl.nn.LSTM(4, 8)(sl.ones(5, 2, 4))
    >>> y.shape, h.shape, c.shape
    ((5, 2, 8), (1, 2, 8), (1, 2, 8))
    """

    _gates = 4
    _cell = "lstm"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
        *,
        peepholes: bool = False,
        layer_norm: bool = False,
        zoneout: float = 0.0,
    ) -> None:
        gates, units = (4 * hidden_size,), (hidden_size,)
        extra: dict[str, tuple[int, ...]] = {}
        if peepholes:
            extra["peepholes"] = (3, hidden_size)
        if layer_norm:
            extra |= {"norm_ih": gates, "norm_hh": gates, "norm_cell": units, "norm_bias": units}
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional,
            proj_size, device, dtype, extra,
        )  # fmt: skip
        self.peepholes, self.layer_norm = peepholes, layer_norm
        self.zoneout = probability("LSTM", zoneout, "zoneout")
        self._usual = not (peepholes or layer_norm or self.zoneout)

    def _one(
        self, x: Tensor, states: tuple[Tensor | None, ...], index: int, lengths: Any, reverse: bool
    ) -> tuple[Tensor, ...]:
        w_ih, w_hh, b_ih, b_hh, w_hr = self._weights(index)
        assert w_ih is not None
        assert w_hh is not None
        norms = ("norm_ih", "norm_hh", "norm_cell", "norm_bias")
        return ops.lstm(
            x, states[0], states[1], w_ih, w_hh, b_ih, b_hh, w_hr=w_hr,
            peepholes=self._extra("peepholes", index) if self.peepholes else None,
            layer_norm=tuple(self._extra(n, index) for n in norms) if self.layer_norm else None,
            zoneout=self.zoneout, lengths=lengths, reverse=reverse, training=self.training,
        )  # fmt: skip

    def forward(
        self, x: Tensor, hx: tuple[Tensor, Tensor] | None = None, lengths: Any = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """
        Parameters
        ----------
        x : [T, B, I] ([B, T, I] with batch_first), or [T, I]
        hx : (h_0 [layers * directions, B, P or H], c_0 [layers * directions, B, H]), optional
        lengths : integers [B], optional
            Valid steps of each sequence, in any order; outputs past them are zero.

        Returns
        -------
        (output [T, B, directions * (P or H)], (h_n, c_n)), states shaped as hx
        """
        if hx is not None and not (isinstance(hx, (tuple, list)) and len(hx) == 2):
            raise TypeError(f"LSTM: hx must be a pair (h_0, c_0), got {type(hx).__name__}")
        y, (h, c) = self._forward(x, None if hx is None else tuple(hx), lengths)
        return y, (h, c)
