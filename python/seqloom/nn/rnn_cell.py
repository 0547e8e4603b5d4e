# SPDX-License-Identifier: Apache-2.0
"""RNNCell, GRUCell and LSTMCell: one step, for loops that feed outputs back."""

from __future__ import annotations

import math
from typing import Any

from .. import ops
from ..tensor import Tensor
from . import init
from .init import new_parameter
from .linear import positive
from .module import Module
from .parameter import Parameter


class _Cell(Module):
    _gates = 1

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool, device: Any, dtype: Any
    ) -> None:
        super().__init__()
        positive(type(self).__name__, input_size=input_size, hidden_size=hidden_size)
        self.input_size, self.hidden_size = input_size, hidden_size

        def new(*shape: int) -> Parameter:
            return new_parameter(*shape, device=device, dtype=dtype)  # type: ignore[no-any-return]

        rows = self._gates * hidden_size
        self.weight_ih, self.weight_hh = new(rows, input_size), new(rows, hidden_size)
        self.bias_ih = new(rows) if bias else None
        self.bias_hh = new(rows) if bias else None
        bound = 1 / math.sqrt(hidden_size)
        for p in self.parameters():
            init.uniform_(p, -bound, bound)

    def _sequence(self, x: Tensor) -> Tensor:
        """[B, I] or [I] as one step [1, B, I]."""
        if x.ndim not in (1, 2) or x.shape[-1] != self.input_size:
            raise ValueError(
                f"{type(self).__name__}: x must have shape [B, I] or [I] with I ="
                f" {self.input_size}, got {list(x.shape)}"
            )
        return x.reshape(1, -1, self.input_size)

    def _state(self, state: Tensor | None) -> Tensor | None:
        return None if state is None else state.reshape(-1, self.hidden_size)

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}"


class RNNCell(_Cell):
    """One step of :class:`RNN`.

    Parameters
    ----------
    input_size, hidden_size : int
    bias : bool
    nonlinearity : {"tanh", "relu"}

    Examples
    --------
    >>> import seqloom as sl
    >>> sl.nn.RNNCell(4, 8)(sl.ones(2, 4)).shape
    (2, 8)
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, device, dtype)
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(
                f"RNNCell: nonlinearity must be 'tanh' or 'relu', got {nonlinearity!r}"
            )
        self.nonlinearity = nonlinearity

    def forward(self, x: Tensor, hx: Tensor | None = None) -> Tensor:
        """x [B, I] and the state [B, H], or both without B, to the next state."""
        weights = (self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)
        step = self._sequence(x)
        _, h = ops.rnn(step, self._state(hx), *weights, nonlinearity=self.nonlinearity)
        return h if x.ndim == 2 else h.squeeze(0)


class GRUCell(_Cell):
    """One step of :class:`GRU`.

    Parameters
    ----------
    input_size, hidden_size : int
    bias : bool

    Examples
    --------
    >>> import seqloom as sl
    >>> sl.nn.GRUCell(4, 8)(sl.ones(2, 4)).shape
    (2, 8)
    """

    _gates = 3

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, device, dtype)

    def forward(self, x: Tensor, hx: Tensor | None = None) -> Tensor:
        """x [B, I] and the state [B, H], or both without B, to the next state."""
        weights = (self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)
        _, h = ops.gru(self._sequence(x), self._state(hx), *weights)
        return h if x.ndim == 2 else h.squeeze(0)


class LSTMCell(_Cell):
    """One step of :class:`LSTM`.

    Parameters
    ----------
    input_size, hidden_size : int
    bias : bool

    Examples
    --------
    >>> import seqloom as sl
    >>> h, c = sl.nn.LSTMCell(4, 8)(sl.ones(2, 4))
    >>> h.shape, c.shape
    ((2, 8), (2, 8))
    """

    _gates = 4

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, device, dtype)

    def forward(self, x: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """x [B, I] and the states (h, c) [B, H], or all without B, to the next states."""
        weights = (self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)
        h0, c0 = (None, None) if hx is None else hx
        _, h, c = ops.lstm(self._sequence(x), self._state(h0), self._state(c0), *weights)
        return (h, c) if x.ndim == 2 else (h.squeeze(0), c.squeeze(0))
