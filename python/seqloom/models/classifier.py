# SPDX-License-Identifier: Apache-2.0
"""SequenceClassifier and SequenceTagger: a label for a sequence, or for each of its steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ..nn import Linear, Module, init
from ..tensor import Tensor
from .base import Model
from .body import POOLING, BodyConfig, SequenceBody
from .config import Config
from .layers import dropped
from .recurrent import Packing


@dataclass
class SequenceTaggerConfig(BodyConfig):
    """See :class:`SequenceTagger`."""

    model_type: ClassVar[str] = "seqloom-tagger"

    num_classes: int = 0


@dataclass
class SequenceClassifierConfig(BodyConfig):
    """See :class:`SequenceClassifier`."""

    model_type: ClassVar[str] = "seqloom-classifier"
    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {**BodyConfig.choices, "pooling": POOLING}

    num_classes: int = 0
    pooling: str | None = None


class _Labelling(Model):
    """A body and a Linear."""

    def __init__(self, num_classes: int | Config | None = None, **fields: Any) -> None:
        if isinstance(num_classes, Config):
            super().__init__(num_classes, **fields)
        else:
            named = {} if num_classes is None else {"num_classes": num_classes}
            super().__init__(None, **named, **fields)
        with init.skip():
            self.body = SequenceBody(self.config)
            self.head = Linear(self.body.width, self.config.num_classes)
        self.apply(self._initialise)

    def _initialise(self, module: Module) -> None:
        if module is not self and module is not self.body:
            self.body.initialise(module)

    def _labelled(self, y: Tensor, ends: Tensor | None, packing: Packing) -> Tensor:
        """Logits of the body's states [B, T, D], in packed order, and its last ones."""
        raise NotImplementedError

    def _logits(self, inputs: Any, mask: Any, lengths: Any, return_weights: bool) -> Any:
        x, packing = self.body.taken(type(self).__name__, inputs, mask, lengths)
        maps: list[Tensor] | None = [] if return_weights else None
        y, ends = self.body(x, packing, maps)
        logits = self._labelled(y, ends, packing)
        if maps is None:
            return logits
        return logits, [packing.unpack(packing.unpack(w, 2), 3) for w in maps]


class SequenceClassifier(_Labelling):
    """One label for a sequence of tokens or vectors.

    Parameters
    ----------
    num_classes : int
    vocab_size, input_size : int
        One of them: inputs are ids [B, T] or vectors [B, T, input_size].
    body : {"lstm", "gru", "rnn", "transformer"}
    embed_dim : int
        Of an RNN's tokens; a transformer's have hidden_size.
    hidden_size, num_layers : int
    bidirectional : bool
        Of an RNN.
    dropout : float
        On embeddings, between layers and before the head, in training.
    pooling : {"last", "mean", "max"}, optional
        What of the states the head sees: by default an RNN's last ones, a transformer's mean.
    nhead, dim_feedforward : int
    activation : {"relu", "gelu", "gelu_tanh", "silu"}
    norm_first : bool
    positions : {"sinusoidal", "learned"}
    max_positions : int
        Of a transformer.

    Examples
    --------
    >>> import numpy as np, seqloom as sl
    >>> model = sl.models.SequenceClassifier(3, vocab_size=10, hidden_size=16)
    >>> model(np.array([[1, 2, 3], [4, 5, 0]]), lengths=np.array([3, 2])).shape
    (2, 3)
    """

    config_class = SequenceClassifierConfig

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
        inputs : integers [B, T], or [B, T, F]
        attention_mask : [B, T], optional
            Nonzero where there is a step.
        lengths : integers [B], optional
            Steps of each row, instead of a mask.
        return_weights : bool

        Returns
        -------
        logits [B, num_classes], or (logits, [weights [B, H, T, T] of each transformer layer])
        """
        return self._logits(inputs, attention_mask, lengths, return_weights)

    def _labelled(self, y: Tensor, ends: Tensor | None, packing: Packing) -> Tensor:
        pooled = self.body.pooled(y, ends, packing, self.config.pooling)
        logits: Tensor = self.head(dropped(self, pooled, self.config.dropout))
        return logits


class SequenceTagger(_Labelling):
    """A label for every step: names in text, frames for CTC.

    Parameters
    ----------
    num_classes : int
    vocab_size, input_size, body, ...
        As of :class:`SequenceClassifier`, without pooling.

    Examples
    --------
    >>> import numpy as np, seqloom as sl
    >>> model = sl.models.SequenceTagger(5, input_size=4, body="gru", hidden_size=16)
    >>> model(np.zeros((2, 7, 4), np.float32)).shape
    (2, 7, 5)
    """

    config_class = SequenceTaggerConfig

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
        inputs : integers [B, T], or [B, T, F]
        attention_mask : [B, T], optional
            Nonzero where there is a step.
        lengths : integers [B], optional
            Steps of each row, instead of a mask.
        return_weights : bool

        Returns
        -------
        logits [B, T, num_classes], or (logits, [weights [B, H, T, T] of each transformer layer])
        """
        return self._logits(inputs, attention_mask, lengths, return_weights)

    def _labelled(self, y: Tensor, ends: Tensor | None, packing: Packing) -> Tensor:
        logits: Tensor = self.head(packing.unpack(dropped(self, y, self.config.dropout)))
        return logits
