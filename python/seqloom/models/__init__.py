# SPDX-License-Identifier: Apache-2.0
"""Named architectures, from the RNN to the LLM, and checkpoints in and out.

model = sl.models.from_pretrained("directory")
model = sl.models.GPT2(n_layer=4, n_embd=256, n_head=4)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .base import CheckpointRules, Model
from .config import Config
from .loading import from_pretrained
from .quantize import quantize_model
from .registry import CLASSES

__all__ = [
    "CheckpointRules",
    "Config",
    "Model",
    "from_pretrained",
    "quantize_model",
    *sorted(CLASSES),
]

if TYPE_CHECKING:  # the classes load when they are asked for
    from .bart import Bart as Bart
    from .bart import BartConfig as BartConfig
    from .bart import Marian as Marian
    from .bart import MarianConfig as MarianConfig
    from .bert import Bert as Bert
    from .bert import BertConfig as BertConfig
    from .bert import BertForMaskedLM as BertForMaskedLM
    from .bert import BertForQuestionAnswering as BertForQuestionAnswering
    from .bert import BertForSequenceClassification as BertForSequenceClassification
    from .bert import BertForTokenClassification as BertForTokenClassification
    from .bloom import Bloom as Bloom
    from .bloom import BloomConfig as BloomConfig
    from .classifier import SequenceClassifier as SequenceClassifier
    from .classifier import SequenceClassifierConfig as SequenceClassifierConfig
    from .classifier import SequenceTagger as SequenceTagger
    from .classifier import SequenceTaggerConfig as SequenceTaggerConfig
    from .forecaster import Forecaster as Forecaster
    from .forecaster import ForecasterConfig as ForecasterConfig
    from .gpt2 import GPT2 as GPT2
    from .gpt2 import GPT2Config as GPT2Config
    from .llama import Llama as Llama
    from .llama import LlamaConfig as LlamaConfig
    from .llama import Mistral as Mistral
    from .llama import MistralConfig as MistralConfig
    from .llama import Qwen2 as Qwen2
    from .llama import Qwen2Config as Qwen2Config
    from .llama import Qwen3 as Qwen3
    from .llama import Qwen3Config as Qwen3Config
    from .rnn_lm import RNNLanguageModel as RNNLanguageModel
    from .rnn_lm import RNNLanguageModelConfig as RNNLanguageModelConfig
    from .seq2seq import Seq2Seq as Seq2Seq
    from .seq2seq import Seq2SeqConfig as Seq2SeqConfig
    from .t5 import T5 as T5
    from .t5 import T5Config as T5Config
    from .transformer import Transformer as Transformer
    from .transformer import TransformerConfig as TransformerConfig


def __getattr__(name: str) -> Any:
    if name in CLASSES:
        return getattr(importlib.import_module(f"{__name__}.{CLASSES[name]}"), name)
    raise AttributeError(f"module 'seqloom.models' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
