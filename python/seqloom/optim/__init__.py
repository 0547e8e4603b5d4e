# SPDX-License-Identifier: Apache-2.0
"""Optimizers, learning-rate schedules and gradient clipping."""

from ..nn.utils import clip_grad_norm_, clip_grad_value_
from .adafactor import Adafactor
from .adam import Adam, AdamW
from .optimizer import Optimizer
from .schedule import Schedule, constant, cosine, inverse_sqrt, linear
from .sgd import SGD

__all__ = [
    "SGD",
    "Adafactor",
    "Adam",
    "AdamW",
    "Optimizer",
    "Schedule",
    "clip_grad_norm_",
    "clip_grad_value_",
    "constant",
    "cosine",
    "inverse_sqrt",
    "linear",
]
