# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of random weights in Hugging Face's layout, so that every library loads the same one.

They are written to a temporary folder at first use and removed when the process ends.
"""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from seqloom.bench.case import Array


@functools.cache
def _folder() -> Path:
    path = Path(tempfile.mkdtemp(prefix="seqloom-bench-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


class _Weights:
    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.tensors: dict[str, Array] = {}

    def matrix(self, name: str, *shape: int) -> None:
        self.tensors[name] = self.rng.standard_normal(shape, np.float32) * np.float32(0.02)

    def linear(self, name: str, *shape: int, bias: int) -> None:
        self.matrix(f"{name}.weight", *shape)
        self.tensors[f"{name}.bias"] = np.zeros(bias, np.float32)

    def norm(self, name: str, width: int) -> None:
        self.tensors[f"{name}.weight"] = np.ones(width, np.float32)
        self.tensors[f"{name}.bias"] = np.zeros(width, np.float32)


def _save(name: str, config: dict[str, Any], weights: _Weights) -> Path:
    from safetensors.numpy import save_file

    path = _folder() / name
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(weights.tensors, path / "model.safetensors", metadata={"format": "pt"})
    return path


@functools.cache
def gpt2(layers: int, width: int, heads: int, vocabulary: int, positions: int) -> Path:
    """A GPT-2 of this size without dropout."""
    weights = _Weights()
    weights.matrix("transformer.wte.weight", vocabulary, width)
    weights.matrix("transformer.wpe.weight", positions, width)
    for k in range(layers):
        block = f"transformer.h.{k}"
        weights.norm(f"{block}.ln_1", width)
        weights.linear(f"{block}.attn.c_attn", width, 3 * width, bias=3 * width)
        weights.linear(f"{block}.attn.c_proj", width, width, bias=width)
        weights.norm(f"{block}.ln_2", width)
        weights.linear(f"{block}.mlp.c_fc", width, 4 * width, bias=4 * width)
        weights.linear(f"{block}.mlp.c_proj", 4 * width, width, bias=width)
    weights.norm("transformer.ln_f", width)
    config = {
        "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": vocabulary,
        "n_positions": positions, "n_ctx": positions, "n_embd": width, "n_layer": layers,
        "n_head": heads, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5,
        "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "tie_word_embeddings": True,
        "bos_token_id": vocabulary - 1, "eos_token_id": None,
    }  # fmt: skip
    path = _save(f"gpt2-{layers}-{width}-{vocabulary}", config, weights)
    # CTranslate2 takes its vocabulary from a tokenizer; the words don't matter.
    words = {f"w{k}": k for k in range(vocabulary - 1)} | {"<|endoftext|>": vocabulary - 1}
    (path / "vocab.json").write_text(json.dumps(words), encoding="utf-8")
    (path / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    tokenizer = {"tokenizer_class": "GPT2Tokenizer"}
    (path / "tokenizer_config.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    return path


@functools.cache
def bert(layers: int, width: int, heads: int, vocabulary: int, positions: int) -> Path:
    """A bare BERT encoder of this size."""
    weights = _Weights()
    weights.matrix("embeddings.word_embeddings.weight", vocabulary, width)
    weights.matrix("embeddings.position_embeddings.weight", positions, width)
    weights.matrix("embeddings.token_type_embeddings.weight", 2, width)
    weights.norm("embeddings.LayerNorm", width)
    for k in range(layers):
        block = f"encoder.layer.{k}"
        for part in ("query", "key", "value"):
            weights.linear(f"{block}.attention.self.{part}", width, width, bias=width)
        weights.linear(f"{block}.attention.output.dense", width, width, bias=width)
        weights.norm(f"{block}.attention.output.LayerNorm", width)
        weights.linear(f"{block}.intermediate.dense", 4 * width, width, bias=4 * width)
        weights.linear(f"{block}.output.dense", width, 4 * width, bias=width)
        weights.norm(f"{block}.output.LayerNorm", width)
    weights.linear("pooler.dense", width, width, bias=width)
    config = {
        "model_type": "bert", "architectures": ["BertModel"], "vocab_size": vocabulary,
        "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads,
        "intermediate_size": 4 * width, "max_position_embeddings": positions,
        "type_vocab_size": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-12,
        "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "pad_token_id": 0,
    }  # fmt: skip
    path = _save(f"bert-{layers}-{width}-{vocabulary}", config, weights)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words += [f"w{k}" for k in range(len(words), vocabulary)]
    (path / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    tokenizer = {"tokenizer_class": "BertTokenizer"}
    (path / "tokenizer_config.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    return path


@functools.cache
def ctranslate2(source: Path) -> Path:
    """The same weights as CTranslate2 keeps them."""
    from ctranslate2.converters import TransformersConverter

    target = source.with_name(source.name + "-ct2")
    TransformersConverter(str(source)).convert(str(target))
    return target
