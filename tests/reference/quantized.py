# SPDX-License-Identifier: Apache-2.0
"""Reference of the linear layer with 8- and 4-bit weights."""

from __future__ import annotations

import numpy as np
from ml_dtypes import bfloat16

from .matmul import linear

GROUP = 32


def dequantize_weight(quantized, scales, *, kind, width):
    """The float weight [out, width]: int8 with a scale a row, or nibbles with one a group."""
    scales = np.asarray(scales, np.float64)
    if kind == "int8":
        return quantized.astype(np.float64) * scales[:, None]
    rows = quantized.shape[0]
    groups = quantized.reshape(rows, -1, GROUP // 2).astype(np.int64)
    integers = np.concatenate([groups & 15, groups >> 4], axis=2) - 8
    return (integers * scales[:, :, None]).reshape(rows, -1)[:, :width]


def round_activations(x, bits):
    """Each row of x in integers of `bits` bits times one step."""
    steps = {16: 32512, 8: 127}[bits]
    step = np.abs(x).max(axis=-1, keepdims=True, initial=0) / steps
    return np.round(x / np.where(step > 0, step, 1)) * step


def quantized_linear(x, quantized, scales, bias=None, *, kind, activation=None, rounding=None):
    """linear by the dequantized weight; `rounding` is what a kernel may do to the operands.

    16 or 8: activations in so many bits; "bfloat16": activations and weights in that type.
    """
    weight = dequantize_weight(quantized, scales, kind=kind, width=x.shape[-1]).astype(x.dtype)
    if rounding == "bfloat16":
        x, weight = (a.astype(bfloat16).astype(a.dtype) for a in (x, weight))
    elif rounding is not None:
        x = round_activations(x, rounding)
    return linear(x, weight, bias, activation=activation)
