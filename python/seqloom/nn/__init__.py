# SPDX-License-Identifier: Apache-2.0
"""Layers, from Linear to Transformer, with torch's names, signatures and parameter names.

Boolean masks follow torch's modules: True = hidden.
"""

from . import init, utils
from .activation import GELU, Dropout, Identity, ReLU, Sigmoid, SiLU, Softmax, Tanh
from .attention import MultiheadAttention
from .container import ModuleDict, ModuleList, Sequential
from .linear import Embedding, LayerNorm, Linear, RMSNorm
from .loss import BCEWithLogitsLoss, CrossEntropyLoss, CTCLoss, L1Loss, MSELoss
from .module import Module
from .parameter import Parameter
from .positions import (
    Alibi,
    LearnedPositionalEmbedding,
    RelativePositionBias,
    RotaryEmbedding,
    SinusoidalPositionalEncoding,
)
from .quantized import QuantizedLinear
from .rnn import GRU, LSTM, RNN
from .rnn_cell import GRUCell, LSTMCell, RNNCell
from .seq2seq_attention import AdditiveAttention, DotAttention
from .transformer import (
    Transformer,
    TransformerDecoder,
    TransformerDecoderLayer,
    TransformerEncoder,
    TransformerEncoderLayer,
)

__all__ = [
    "GELU",
    "GRU",
    "LSTM",
    "RNN",
    "AdditiveAttention",
    "Alibi",
    "BCEWithLogitsLoss",
    "CTCLoss",
    "CrossEntropyLoss",
    "DotAttention",
    "Dropout",
    "Embedding",
    "GRUCell",
    "Identity",
    "L1Loss",
    "LSTMCell",
    "LayerNorm",
    "LearnedPositionalEmbedding",
    "Linear",
    "MSELoss",
    "Module",
    "ModuleDict",
    "ModuleList",
    "MultiheadAttention",
    "Parameter",
    "QuantizedLinear",
    "RMSNorm",
    "RNNCell",
    "ReLU",
    "RelativePositionBias",
    "RotaryEmbedding",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "SinusoidalPositionalEncoding",
    "Softmax",
    "Tanh",
    "Transformer",
    "TransformerDecoder",
    "TransformerDecoderLayer",
    "TransformerEncoder",
    "TransformerEncoderLayer",
    "init",
    "utils",
]
