# SPDX-License-Identifier: Apache-2.0
"""Which class stands for what a `config.json` names; modules load when they are asked for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """A model_type: its module, its configuration, and architecture -> class.

    Without `architectures` in a `config.json` the first one is meant.
    """

    module: str
    config: str
    architectures: dict[str, str]


def _llama(config: str, stem: str) -> Family:
    return Family("llama", config, {f"{stem}ForCausalLM": stem, f"{stem}Model": stem})


FAMILIES: dict[str, Family] = {
    "gpt2": Family("gpt2", "GPT2Config", {"GPT2LMHeadModel": "GPT2", "GPT2Model": "GPT2"}),
    "llama": _llama("LlamaConfig", "Llama"),
    "mistral": _llama("MistralConfig", "Mistral"),
    "qwen2": _llama("Qwen2Config", "Qwen2"),
    "qwen3": _llama("Qwen3Config", "Qwen3"),
    "bloom": Family("bloom", "BloomConfig", {"BloomForCausalLM": "Bloom", "BloomModel": "Bloom"}),
    "bert": Family(
        "bert",
        "BertConfig",
        {
            "BertModel": "Bert",
            "BertForMaskedLM": "BertForMaskedLM",
            "BertForPreTraining": "BertForMaskedLM",
            "BertForSequenceClassification": "BertForSequenceClassification",
            "BertForTokenClassification": "BertForTokenClassification",
            "BertForQuestionAnswering": "BertForQuestionAnswering",
        },
    ),
    "t5": Family(
        "t5",
        "T5Config",
        {"T5ForConditionalGeneration": "T5", "T5WithLMHeadModel": "T5", "T5Model": "T5"},
    ),
    "bart": Family(
        "bart", "BartConfig", {"BartForConditionalGeneration": "Bart", "BartModel": "Bart"}
    ),
    "marian": Family("bart", "MarianConfig", {"MarianMTModel": "Marian", "MarianModel": "Marian"}),
    "seqloom-rnn-lm": Family(
        "rnn_lm", "RNNLanguageModelConfig", {"RNNLanguageModel": "RNNLanguageModel"}
    ),
    "seqloom-seq2seq": Family("seq2seq", "Seq2SeqConfig", {"Seq2Seq": "Seq2Seq"}),
    "seqloom-transformer": Family(
        "transformer", "TransformerConfig", {"Transformer": "Transformer"}
    ),
    "seqloom-classifier": Family(
        "classifier", "SequenceClassifierConfig", {"SequenceClassifier": "SequenceClassifier"}
    ),
    "seqloom-tagger": Family(
        "classifier", "SequenceTaggerConfig", {"SequenceTagger": "SequenceTagger"}
    ),
    "seqloom-forecaster": Family("forecaster", "ForecasterConfig", {"Forecaster": "Forecaster"}),
}

# Every public class and configuration -> the module that has it.
CLASSES: dict[str, str] = {
    name: family.module
    for family in FAMILIES.values()
    for name in (*family.architectures.values(), family.config)
}
