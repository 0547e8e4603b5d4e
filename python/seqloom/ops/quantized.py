# SPDX-License-Identifier: Apache-2.0
"""Linear layers with 8- and 4-bit weights, for inference."""

from __future__ import annotations

from typing import Any

from .. import _core
from ..dtypes import as_dtype, float32
from ..tensor import Tensor
from ._arrays import public

__all__ = ["dequantize_weight", "quantize_weight", "quantized_linear"]


@public
def quantize_weight(weight: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """The weight of a linear layer in 8 or 4 bits.

    Parameters
    ----------
    weight : array [out, in]
        float32, float16 or bfloat16.
    kind : "int8" or "int4"

    Returns
    -------
    (quantized, scales)
        "int8": int8 [out, in] and float32 [out]; weight = scale * integer.
        "int4": uint8 [out, 16 G] and bfloat16 [out, G], G = ceil(in / 32). Groups of 32 along `in`
        share a scale; byte i of a group holds element i in its low and element 16 + i in its high
        half, plus 8.

    Examples
    --------
    >>> import numpy as np, seqloom as sl
    >>> q, scales = sl.ops.quantize_weight(np.array([[0.5, -1.0]], np.float32), "int8")
    >>> q.tolist(), float((scales * 127)[0])
    ([[64, -127]], 1.0)
    """
    q, scales = _core.quantize_weight(weight, kind)
    return q, scales


@public
def dequantize_weight(
    weight: Tensor, scales: Tensor, *, kind: str, width: int, dtype: Any = float32
) -> Tensor:
    """The float weight [out, width] of what :func:`quantize_weight` gave.

    Parameters
    ----------
    weight, scales : arrays
        As quantize_weight returns them.
    kind : "int8" or "int4"
    width : int
        in
    dtype : dtype
        float32, float16 or bfloat16.

    Examples
    --------
    >>> import seqloom as sl
    >>> q, scales = sl.ops.quantize_weight(sl.tensor([[0.0, -2.0, 1.0]]), "int4")
    >>> sl.ops.dequantize_weight(q, scales, kind="int4", width=3).tolist()
    [[0.0, -2.0, 1.0]]
    """
    return _core.dequantize_weight(weight, scales, kind, width, as_dtype(dtype).code)


@public
def quantized_linear(
    x: Tensor,
    weight: Tensor,
    scales: Tensor,
    bias: Tensor | None = None,
    *,
    kind: str,
    activation: str | None = None,
) -> Tensor:
    """``activation(x @ W.T + bias)`` with W in 8 or 4 bits; without gradients.

    On CPUs that multiply bytes (AVX-512 VNNI) activations are rounded too: to 16 bits of their
    row's largest element for up to 4 rows of an "int8" weight and 16 of an "int4" one; for more
    rows to 8 bits ("int8") or bfloat16 ("int4").

    Parameters
    ----------
    x : array [..., in]
        float32, float16 or bfloat16.
    weight, scales : arrays
        As quantize_weight returns them.
    bias : array [out], optional
    kind : "int8" or "int4"
    activation : None, "relu", "gelu", "gelu_tanh" or "silu"

    Returns
    -------
    array [..., out] of x's dtype

    Examples
    --------
    >>> import seqloom as sl
    >>> q, scales = sl.ops.quantize_weight(sl.tensor([[1.0, -1.0]]), "int8")
    >>> y = sl.ops.quantized_linear(sl.tensor([[3.0, 1.0]]), q, scales, kind="int8")
    >>> round(y.item(), 3)
    2.0
    """
    if x._needs_grad or (bias is not None and bias._needs_grad):
        raise ValueError(
            "quantized_linear: x and bias must not require a gradient; call it under no_grad"
        )
    return _core.quantized_linear(x, weight, scales, bias, kind, activation)
