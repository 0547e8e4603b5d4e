# SPDX-License-Identifier: Apache-2.0
"""Automatic differentiation: modes, gradients, hooks, your own ops, recomputation, checks."""

from .checking import gradcheck
from .checkpointing import checkpoint
from .function import Context, Function
from .tape import (
    Gradients,
    Node,
    backward,
    enable_grad,
    grad,
    is_grad_enabled,
    no_grad,
    record,
    record_in_place,
    register_hook,
)

__all__ = [
    "Context",
    "Function",
    "Gradients",
    "Node",
    "backward",
    "checkpoint",
    "enable_grad",
    "grad",
    "gradcheck",
    "is_grad_enabled",
    "no_grad",
    "record",
    "record_in_place",
    "register_hook",
]
