# SPDX-License-Identifier: Apache-2.0
"""Reference of the linear layer with 8- and 4-bit weights."""

from __future__ import annotations

import numpy as np

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


def quantized_linear(x, quantized, scales, bias=None, *, kind, activation=None, bits=None):
    """linear by the dequantized weight; `bits` rounds the activations as a kernel may."""
    weight = dequantize_weight(quantized, scales, kind=kind, width=x.shape[-1]).astype(x.dtype)
    return linear(x if bits is None else round_activations(x, bits), weight, bias,
                  activation=activation)  # fmt: skip
