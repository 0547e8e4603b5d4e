# SPDX-License-Identifier: Apache-2.0
"""Forecaster: the next steps of a time series, all at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ..nn import Linear, Module, init
from ..tensor import Tensor
from .base import Model
from .body import BODIES, POOLING, BodyConfig, SequenceBody
from .config import Config
from .layers import dropped


@dataclass
class ForecasterConfig(BodyConfig):
    """See :class:`Forecaster`."""

    model_type: ClassVar[str] = "seqloom-forecaster"
    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **BodyConfig.choices,
        "cell": BODIES,
        "pooling": POOLING,
    }

    horizon: int = 0
    output_size: int | None = None
    cell: str = "gru"
    bidirectional: bool = False
    pooling: str | None = "last"

    def check(self) -> None:
        if self.vocab_size is not None:
            self.refuse("vocab_size", "be None: a series has no vocabulary")
        self.body = self.cell
        super().check()


class Forecaster(Model):
    """The next `horizon` steps of a series from its past, in one step (direct forecasting).

    Parameters
    ----------
    input_size : int
        Features of a step.
    horizon : int
    output_size : int, optional
        Features that are forecast; input_size by default.
    hidden_size, num_layers : int
    cell : {"gru", "lstm", "rnn", "transformer"}
    dropout : float
        Between layers and before the head, in training.
    bidirectional, pooling, nhead, dim_feedforward, activation, norm_first, positions
        As of :class:`SequenceClassifier`; one direction and the last state by default.

    Examples
    --------
    >>> import numpy as np, seqloom as sl
    >>> model = sl.models.Forecaster(2, 6, hidden_size=16)
    >>> model(np.zeros((4, 24, 2), np.float32)).shape
    (4, 6, 2)
    """

    config_class = ForecasterConfig

    def __init__(
        self, input_size: int | Config | None = None, horizon: int | None = None, **fields: Any
    ) -> None:
        if isinstance(input_size, Config):
            super().__init__(input_size, **fields)
        else:
            sizes = {"input_size": input_size, "horizon": horizon}
            super().__init__(None, **{k: v for k, v in sizes.items() if v is not None}, **fields)
        c = self.config
        self._outputs: int = c.input_size if c.output_size is None else c.output_size
        with init.skip():
            self.body = SequenceBody(c)
            self.head = Linear(self.body.width, c.horizon * self._outputs)
        self.apply(self._initialise)

    def _initialise(self, module: Module) -> None:
        if module is not self and module is not self.body:
            self.body.initialise(module)

    def forward(
        self,
        inputs: Any,
        attention_mask: Any = None,
        *,
        lengths: Any = None,
        return_weights: bool = False,
    ) -> Any:
        """
        Parameters
        ----------
        inputs : [B, T, F]
        attention_mask : [B, T], optional
            Nonzero where there is a step.
        lengths : integers [B], optional
            Steps of each row, instead of a mask.
        return_weights : bool

        Returns
        -------
        values [B, horizon, output_size], or (values, [weights [B, H, T, T] of each transformer
        layer])
        """
        x, packing = self.body.taken(type(self).__name__, inputs, attention_mask, lengths)
        maps: list[Tensor] | None = [] if return_weights else None
        y, ends = self.body(x, packing, maps)
        pooled = self.body.pooled(y, ends, packing, self.config.pooling)
        out: Tensor = self.head(dropped(self, pooled, self.config.dropout))
        values = out.reshape(-1, self.config.horizon, self._outputs)
        if maps is None:
            return values
        return values, [packing.unpack(packing.unpack(w, 2), 3) for w in maps]
