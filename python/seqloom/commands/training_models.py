# SPDX-License-Identifier: Apache-2.0
"""The models that ``seqloom train`` builds, from a few sizes that they all understand."""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from seqloom.cli import CommandError
from seqloom.commands.training_files import Data
from seqloom.models.loading import outline
from seqloom.nn.init import only_shapes

models: Any = importlib.import_module("seqloom.models")


@dataclass(frozen=True)
class Choice:
    """A word for --model: its tasks (the first is meant when none is said) and its sizes."""

    tasks: tuple[str, ...]
    build: Callable[[argparse.Namespace, Data, str], Any]
    layers: int = 4
    width: int = 256
    heads: int = 4


def build(options: argparse.Namespace, data: Data, task: str) -> Any:
    """The model of --model, or of the directory of --from."""
    if options.start_from is not None:
        model = _started(options, data, task)
        model.train()
        return model
    model = CHOICES[options.model].build(options, data, task)
    return model if only_shapes() else model.to(device=options.device)


def _started(options: argparse.Namespace, data: Data, task: str) -> Any:
    """The model of --from; with `only_shapes` without its weights."""
    kind = None
    fields: dict[str, Any] = {}
    if options.model == "bert":  # whatever its head was, this task's one
        kind, fields = getattr(models, _BERTS[task]), _bert_labels(data)
    if only_shapes():
        model = outline(options.start_from, kind, **fields)
    elif kind is not None:
        model = kind.from_pretrained(
            options.start_from, dtype="float32", device=options.device, **fields
        )
    else:
        model = models.from_pretrained(options.start_from, dtype="float32", device=options.device)
    if kind is None:
        _must_fit(model, options)
    return model


def _must_fit(model: Any, options: argparse.Namespace) -> None:
    """Refuse the weights of a model that --model doesn't mean."""
    pairs = getattr(model, "_is_encoder_decoder", lambda: False)()
    name, writes = type(model).__name__, hasattr(model, "generate")
    own = {"lstm": "RNNLanguageModel", "gru": "RNNLanguageModel", "rnn": "RNNLanguageModel",
           "seq2seq": "Seq2Seq", "classifier": "SequenceClassifier", "tagger": "SequenceTagger",
           "forecaster": "Forecaster"}  # fmt: skip
    if options.model in own:
        fits = name == own[options.model]
        if fits and own[options.model] == "RNNLanguageModel":
            fits = model.config.cell == options.model
    else:  # families: gpt2 and llama write on, transformer translates
        fits = writes and pairs == (options.model == "transformer") and name not in own.values()
    if not fits:
        raise CommandError(
            f"--from {options.start_from}: holds a {name}, not a model for --model {options.model}"
        )


def _made(options: argparse.Namespace, name: str, **fields: Any) -> Any:
    """A model with --model-config over the fields that the sizes say."""
    extra = dict(setting(text) for text in options.model_config or ())
    return getattr(models, name)(**{**fields, **extra})


def setting(text: str) -> tuple[str, Any]:
    """KEY=VALUE with a value of JSON, or a word.

    Examples
    --------
    >>> setting("n_layer=3"), setting("hidden_act=relu")
    (('n_layer', 3), ('hidden_act', 'relu'))
    """
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise argparse.ArgumentTypeError(f"must be KEY=VALUE, got {text!r}")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, {"True": True, "False": False}.get(value, value)


def _ends(data: Data) -> dict[str, Any]:
    return {
        "bos_token_id": data.tokenizer.bos_token_id,
        "eos_token_id": data.tokenizer.eos_token_id,
    }


def _gpt2(o: argparse.Namespace, data: Data, task: str) -> Any:
    drop = o.dropout
    return _made(
        o, "GPT2", vocab_size=len(data.tokenizer), n_positions=o.length, n_embd=o.width,
        n_layer=o.layers, n_head=o.heads, embd_pdrop=drop, attn_pdrop=drop, resid_pdrop=drop,
        **_ends(data),
    )  # fmt: skip


def _llama(o: argparse.Namespace, data: Data, task: str) -> Any:
    return _made(
        o, "Llama", vocab_size=len(data.tokenizer), hidden_size=o.width,
        num_hidden_layers=o.layers, num_attention_heads=o.heads, num_key_value_heads=o.heads,
        intermediate_size=-(-o.width * 8 // 3 // 32) * 32, max_position_embeddings=o.length,
        **_ends(data),
    )  # fmt: skip


def _recurrent(cell: str) -> Callable[[argparse.Namespace, Data, str], Any]:
    def make(o: argparse.Namespace, data: Data, task: str) -> Any:
        return _made(
            o, "RNNLanguageModel", vocab_size=len(data.tokenizer), embed_dim=o.width,
            hidden_size=o.width, num_layers=o.layers, cell=cell, dropout=o.dropout,
            **_ends(data),
        )  # fmt: skip

    return make


def _bert(o: argparse.Namespace, data: Data, task: str) -> Any:
    return _made(
        o, _BERTS[task], vocab_size=len(data.tokenizer), hidden_size=o.width,
        num_hidden_layers=o.layers, num_attention_heads=o.heads, intermediate_size=4 * o.width,
        max_position_embeddings=o.length, hidden_dropout_prob=o.dropout,
        attention_probs_dropout_prob=o.dropout, pad_token_id=data.tokenizer.pad_token_id or 0,
        **_bert_labels(data),
    )  # fmt: skip


def _bert_labels(data: Data) -> dict[str, Any]:
    if not data.labels:
        return {}
    return {"id2label": {str(i): name for i, name in enumerate(data.labels)}}


def _heads(o: argparse.Namespace) -> dict[str, Any]:
    if o.body != "transformer":
        return {}
    return {"nhead": o.heads, "dim_feedforward": 4 * o.width}


def _labelled(name: str) -> Callable[[argparse.Namespace, Data, str], Any]:
    def make(o: argparse.Namespace, data: Data, task: str) -> Any:
        size = {"vocab_size": len(data.tokenizer), "embed_dim": o.width}
        classes = len(data.labels)
        if task == "ctc":  # features in, the tokens of the text out
            size, classes = {"input_size": data.features}, len(data.tokenizer)
        return _made(
            o, name, num_classes=classes, body=o.body, hidden_size=o.width, num_layers=o.layers,
            dropout=o.dropout, **size, **_heads(o),
        )  # fmt: skip

    return make


def _seq2seq(o: argparse.Namespace, data: Data, task: str) -> Any:
    size = len(data.tokenizer)
    return _made(
        o, "Seq2Seq", src_vocab_size=size, tgt_vocab_size=size, embed_dim=o.width,
        hidden_size=o.width, num_layers=o.layers, attention=o.attention, dropout=o.dropout,
        **_answer_tokens(data),
    )  # fmt: skip


def _transformer(o: argparse.Namespace, data: Data, task: str) -> Any:
    size = len(data.tokenizer)
    return _made(
        o, "Transformer", src_vocab_size=size, tgt_vocab_size=size, d_model=o.width, nhead=o.heads,
        num_encoder_layers=o.layers, num_decoder_layers=o.layers, dim_feedforward=4 * o.width,
        dropout=o.dropout, tie_embeddings=True, norm_first=True, **_answer_tokens(data),
    )  # fmt: skip


def _answer_tokens(data: Data) -> dict[str, Any]:
    """What an answer begins and ends with, as `encode_pairs` writes it."""
    t = data.tokenizer
    first = t.bos_token_id if t.bos_token_id is not None else t.pad_token_id
    return {
        "decoder_start_token_id": first,
        "eos_token_id": t.eos_token_id,
        "pad_token_id": t.pad_token_id,
    }


def _forecaster(o: argparse.Namespace, data: Data, task: str) -> Any:
    return _made(
        o, "Forecaster", input_size=data.features, horizon=o.horizon, hidden_size=o.width,
        num_layers=o.layers, cell=o.body, dropout=o.dropout, **_heads(o),
    )  # fmt: skip


_BERTS = {
    "masked-token": "BertForMaskedLM",
    "classification": "BertForSequenceClassification",
    "tagging": "BertForTokenClassification",
    "question-answering": "BertForQuestionAnswering",
}
_LM, _PAIRS = ("next-token",), ("seq2seq",)
CHOICES: dict[str, Choice] = {
    "gpt2": Choice(_LM, _gpt2),
    "llama": Choice(_LM, _llama),
    "lstm": Choice(_LM, _recurrent("lstm"), layers=2),
    "gru": Choice(_LM, _recurrent("gru"), layers=2),
    "rnn": Choice(_LM, _recurrent("rnn"), layers=2),
    "bert": Choice(tuple(_BERTS), _bert),
    "classifier": Choice(("classification",), _labelled("SequenceClassifier"), layers=1, width=128),
    "tagger": Choice(("tagging", "ctc"), _labelled("SequenceTagger"), layers=1, width=128),
    "seq2seq": Choice(_PAIRS, _seq2seq, layers=1),
    "transformer": Choice(_PAIRS, _transformer, layers=3),
    "forecaster": Choice(("forecasting",), _forecaster, layers=1, width=64),
}
