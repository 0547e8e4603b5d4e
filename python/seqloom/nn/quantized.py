# SPDX-License-Identifier: Apache-2.0
"""QuantizedLinear: a linear layer with 8- or 4-bit weights, for inference."""

from __future__ import annotations

from typing import Any, ClassVar

from .. import ops
from ..autograd import no_grad
from ..ops._arrays import on_tensors
from ..tensor import Tensor
from .linear import Linear
from .module import Module
from .parameter import Parameter

_on_tensors = on_tensors(ops.quantized_linear)


class QuantizedLinear(Module):
    """``x @ weight.T + bias`` with the weight in 8 or 4 bits.

    Parameters
    ----------
    layer : Linear
        Its weight is rounded; the bias is shared.
    kind : "int8" or "int4"
        See :func:`seqloom.ops.quantize_weight`.

    Attributes
    ----------
    weight : Tensor, int8 [out_features, in_features] or uint8 (two weights to a byte)
    scales : Tensor
        Keeps its dtype whatever the module is converted to.
    bias : Parameter [out_features] or None

    Examples
    --------
    >>> import seqloom as sl
    >>> layer = sl.nn.QuantizedLinear(sl.nn.Linear(64, 2), "int8")
    >>> layer(sl.ones(3, 64)).shape
    (3, 2)
    """

    weight: Tensor
    scales: Tensor
    _exact_buffers: ClassVar[frozenset[str]] = frozenset({"scales"})

    def __init__(self, layer: Linear, kind: str) -> None:
        super().__init__()
        if not isinstance(layer, Linear):
            raise TypeError(f"QuantizedLinear: layer must be a Linear, got {type(layer).__name__}")
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.kind = kind
        with no_grad():
            weight, scales = ops.quantize_weight(layer.weight.detach(), kind)
        self.register_buffer("weight", weight)
        self.register_buffer("scales", scales)
        self.bias: Parameter | None = layer.bias
        self.training = False

    def activated(self, x: Tensor, activation: str | None) -> Tensor:
        """``activation(forward(x))`` in one kernel; the names of :func:`seqloom.ops.linear`."""
        multiply = _on_tensors if isinstance(x, Tensor) else ops.quantized_linear
        return multiply(
            x, self.weight, self.scales, self.bias, kind=self.kind, activation=activation
        )

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_features] to [..., out_features]."""
        return self.activated(x, None)

    def dequantized(self, dtype: Any = "float32") -> Tensor:
        """The float weight [out_features, in_features]."""
        return ops.dequantize_weight(
            self.weight, self.scales, kind=self.kind, width=self.in_features, dtype=dtype
        )

    def extra_repr(self) -> str:
        bias = self.bias is not None
        return f"{self.in_features}, {self.out_features}, kind={self.kind!r}, bias={bias}"
