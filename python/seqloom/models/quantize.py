# SPDX-License-Identifier: Apache-2.0
"""Linear layers of a model with 8- or 4-bit weights."""

from __future__ import annotations

from typing import TypeVar

from ..nn import Linear, Module, QuantizedLinear

M = TypeVar("M", bound=Module)


def quantize_model(model: M, kind: str) -> M:
    """Replace every Linear by a QuantizedLinear, in place, one after the other.

    Embedding tables stay as they are; a head that shares one gets a copy in few bits. The model is
    left in evaluation mode, and its parameters take no gradients. How activations are rounded on
    the way is told at :func:`seqloom.ops.quantized_linear`.

    Parameters
    ----------
    model : Module
    kind : "int8" or "int4"
        A scale a row, or one for 32 weights.

    Returns
    -------
    model

    Examples
    --------
    >>> import numpy as np, seqloom as sl
    >>> model = sl.models.GPT2(vocab_size=100, n_positions=32, n_embd=64, n_layer=1, n_head=2)
    >>> sl.models.quantize_model(model, "int8").lm_head
    QuantizedLinear(64, 100, kind='int8', bias=False)
    """
    if kind not in ("int8", "int4"):
        raise ValueError(f"quantize_model: kind must be 'int8' or 'int4', got {kind!r}")
    if isinstance(model, Linear):
        raise TypeError("quantize_model: model must hold its layers; use nn.QuantizedLinear")
    done: dict[int, QuantizedLinear] = {}  # modules that occur twice stay shared
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is Linear:
                if id(child) not in done:
                    done[id(child)] = QuantizedLinear(child, kind)
                setattr(module, name, done[id(child)])
    model.eval()
    model.requires_grad_(False)
    return model


def is_quantized(model: Module) -> bool:
    """Whether any layer has few bits."""
    return any(isinstance(m, QuantizedLinear) for m in model.modules())
