# SPDX-License-Identifier: Apache-2.0
"""THE reference: every op in NumPy, forward and backward, for tests and benchmarks alike.

``reference.softmax(x)`` is the value; ``value, backward = reference.softmax.vjp(x)`` adds
the backward, a function from output gradients to a dict of input gradients. Ops compute in
the dtype of their arguments: give float64 for the truth, float32 for a yardstick.
``reference.optimizer`` holds the optimizer steps.
"""

from . import optimizer
from .attention import (
    additive_attention,
    dot_attention,
    scaled_dot_product_attention,
    visible_pairs,
)
from .elementwise import (
    absolute,
    add,
    clamp,
    divide,
    dropout,
    exp,
    geglu,
    gelu,
    log,
    masked_fill,
    maximum,
    minimum,
    multiply,
    negative,
    power,
    relu,
    rotary_embedding,
    sigmoid,
    silu,
    sqrt,
    subtract,
    swiglu,
    tanh,
    where,
)
from .layout import embedding, gather, pad, rearrange, tril, triu
from .loss import cross_entropy, ctc_loss, linear_cross_entropy
from .matmul import einsum, linear, matmul
from .norm import add_layer_norm, add_rms_norm, layer_norm, rms_norm
from .quantized import dequantize_weight, quantized_linear, round_activations
from .reduction import cumsum, max, mean, min, prod, sort, sum, topk, var
from .rnn import gru, lstm, rnn
from .softmax import log_softmax, softmax
from .vjp import Op

__all__ = [
    "Op",
    "absolute",
    "add",
    "add_layer_norm",
    "add_rms_norm",
    "additive_attention",
    "clamp",
    "cross_entropy",
    "ctc_loss",
    "cumsum",
    "dequantize_weight",
    "divide",
    "dot_attention",
    "dropout",
    "einsum",
    "embedding",
    "exp",
    "gather",
    "geglu",
    "gelu",
    "gru",
    "layer_norm",
    "linear",
    "linear_cross_entropy",
    "log",
    "log_softmax",
    "lstm",
    "masked_fill",
    "matmul",
    "max",
    "maximum",
    "mean",
    "min",
    "minimum",
    "multiply",
    "negative",
    "optimizer",
    "pad",
    "power",
    "prod",
    "quantized_linear",
    "rearrange",
    "relu",
    "rms_norm",
    "rnn",
    "rotary_embedding",
    "round_activations",
    "scaled_dot_product_attention",
    "sigmoid",
    "silu",
    "softmax",
    "sort",
    "sqrt",
    "subtract",
    "sum",
    "swiglu",
    "tanh",
    "topk",
    "tril",
    "triu",
    "var",
    "visible_pairs",
    "where",
]
