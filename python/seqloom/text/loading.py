# SPDX-License-Identifier: Apache-2.0
"""Which files of a model directory make a tokenizer, and what they say about special tokens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seqloom.files import read_json
from seqloom.text.engine import ROLES, Engine
from seqloom.text.pieces import MODEL_FILES, SentencePieceEngine, load_marian
from seqloom.text.subword import (
    BERT_SPECIAL,
    load_bert_vocab,
    load_gpt2_files,
    load_tokenizer_json,
)
from seqloom.text.vocabulary import FILE, VocabularyEngine

_GUESSES = {
    "pad": ("[PAD]", "<pad>", "<|pad|>", "<|endoftext|>"),
    "unk": ("[UNK]", "<unk>", "<|endoftext|>"),
    "bos": ("<s>", "<|begin_of_text|>", "<|endoftext|>"),
    "eos": ("</s>", "<|end_of_text|>", "<|endoftext|>"),
    "cls": ("[CLS]",),
    "sep": ("[SEP]",),
    "mask": ("[MASK]", "<mask>"),
}
_GPT2_SPECIAL = dict.fromkeys(("unk", "bos", "eos"), "<|endoftext|>")
_BART_SPECIAL = {
    "bos": "<s>",
    "eos": "</s>",
    "unk": "<unk>",
    "cls": "<s>",
    "sep": "</s>",
    "pad": "<pad>",
    "mask": "<mask>",
}
_T5_SPECIAL = {"pad": "<pad>", "eos": "</s>", "unk": "<unk>"}
_LLAMA_SPECIAL = {"bos": "<s>", "eos": "</s>", "unk": "<unk>"}
_MARIAN_SPECIAL = {"pad": "<pad>", "eos": "</s>", "unk": "<unk>"}


def _object(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    value = read_json(path, "from_pretrained")
    if not isinstance(value, dict):
        raise ValueError(f"from_pretrained: {path} must hold a JSON object")
    return value


def _content(value: object) -> str | None:
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def read_settings(folder: Path) -> tuple[dict[str, Any], dict[str, str], str]:
    """`tokenizer_config.json`, special tokens by role, and the model's type.

    Examples
    --------
    >>> import tempfile
    >>> read_settings(Path(tempfile.mkdtemp()))
    ({}, {}, '')
    """
    settings = _object(folder / "tokenizer_config.json")
    mapping = _object(folder / "special_tokens_map.json")
    special: dict[str, str] = {}
    for role in ROLES:
        for source in (settings, mapping):
            token = _content(source.get(f"{role}_token"))
            if token is not None:
                special.setdefault(role, token)
    model_type = _object(folder / "config.json").get("model_type")
    return settings, special, model_type if isinstance(model_type, str) else ""


def detect_special(vocabulary: Mapping[str, int]) -> dict[str, str]:
    """Special tokens of a vocabulary that says nothing about them, by their usual names.

    Examples
    --------
    >>> detect_special({"<|endoftext|>": 0, "a": 1})["eos"]
    '<|endoftext|>'
    """
    found = {}
    for role, names in _GUESSES.items():
        for name in names:
            if name in vocabulary:
                found[role] = name
                break
    return found


def load_engine(
    folder: Path, settings: dict[str, Any], special: dict[str, str], model_type: str
) -> tuple[Engine, dict[str, str]]:
    """Read the vocabulary of a directory; returns it with the special tokens that hold."""
    if (folder / FILE).exists():
        own = VocabularyEngine.load(folder / FILE)
        return own, own.special
    if (folder / "tokenizer.json").exists():
        return load_tokenizer_json(folder / "tokenizer.json"), special
    vocab, merges = folder / "vocab.json", folder / "merges.txt"
    if vocab.exists() and merges.exists():
        table = _object(vocab)
        wrap = "<s>" in table and "</s>" in table
        special = {**(_BART_SPECIAL if wrap else _GPT2_SPECIAL), **special}
        space = settings.get("add_prefix_space") is True
        return load_gpt2_files(vocab, merges, special, wrap=wrap, prefix_space=space), special
    if (folder / "vocab.txt").exists():
        special = {**BERT_SPECIAL, **special}
        accents = settings.get("strip_accents")
        bert = load_bert_vocab(
            folder / "vocab.txt",
            special,
            lowercase=settings.get("do_lower_case") is not False,
            strip_accents=accents if isinstance(accents, bool) else None,
            chinese=settings.get("tokenize_chinese_chars") is not False,
        )
        return bert, special
    if (folder / "source.spm").exists() and vocab.exists():
        special = {**_MARIAN_SPECIAL, **special}
        return load_marian(folder, special), special
    for name in MODEL_FILES:
        if (folder / name).exists():
            return _load_pieces(folder / name, settings, special, model_type)
    raise FileNotFoundError(
        f"from_pretrained: {folder} holds no tokenizer: looked for {FILE}, tokenizer.json, "
        f"vocab.json with merges.txt, vocab.txt, source.spm, {', '.join(MODEL_FILES)}"
    )


def _load_pieces(
    path: Path, settings: dict[str, Any], special: dict[str, str], model_type: str
) -> tuple[Engine, dict[str, str]]:
    family = str(settings.get("tokenizer_class", "")).lower() or model_type
    if "t5" in family or path.name == "spiece.model":
        settings.setdefault("tokenizer_class", "T5Tokenizer")
        special = {**_T5_SPECIAL, **special}
        extra = settings.get("extra_ids", 100)
        count = extra if isinstance(extra, int) and 0 <= extra <= 1000 else 100
        engine = SentencePieceEngine(path, special, extra_ids=count, suffix=[special["eos"]])
    else:
        settings.setdefault("tokenizer_class", "LlamaTokenizer")
        special = {**_LLAMA_SPECIAL, **special}
        first = settings.get("add_bos_token") is not False
        last = settings.get("add_eos_token") is True
        engine = SentencePieceEngine(
            path,
            special,
            prefix=[special["bos"]] if first else [],
            suffix=[special["eos"]] if last else [],
        )
    return engine, engine.special
