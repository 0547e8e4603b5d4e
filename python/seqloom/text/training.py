# SPDX-License-Identifier: Apache-2.0
"""Training of subword vocabularies over the `tokenizers` package, the same result every time.

The package's WordPiece and unigram trainers walk over hash tables whose order changes from run to
run. Here the tokens that such a walk would number are numbered beforehand, and scores that differ
in their last digits are rounded and sorted.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from seqloom.text.subword import SubwordEngine, bert_pipeline, guard, import_tokenizers, template

_PREFIX = "##"
_ALPHABET = 1000


def _train_bpe(
    tokenizers: Any, texts: Iterable[str], reserved: Sequence[str], size: int, min_frequency: int,
    lowercase: bool,
) -> Any:  # fmt: skip
    byte_level = tokenizers.pre_tokenizers.ByteLevel
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    if lowercase:
        tokenizer.normalizer = tokenizers.normalizers.Lowercase()
    tokenizer.pre_tokenizer = byte_level(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.post_processor = tokenizers.processors.ByteLevel(trim_offsets=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(reserved),
        min_frequency=min_frequency,
        initial_alphabet=byte_level.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _inner_characters(tokenizer: Any, texts: Iterable[str]) -> list[str]:
    """Characters that occur behind the first one of a word, sorted."""
    counts: Counter[str] = Counter()
    for text in texts:
        text = tokenizer.normalizer.normalize_str(text)
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text):
            counts.update(word[1:])
    ranked = sorted(counts, key=lambda c: (-counts[c], c))
    return sorted(ranked[:_ALPHABET])


def _train_wordpiece(
    tokenizers: Any, texts: Iterable[str], reserved: Sequence[str], unk: str, size: int,
    min_frequency: int, lowercase: bool,
) -> Any:  # fmt: skip
    def fresh(model: Any) -> Any:
        return bert_pipeline(tokenizers, tokenizers.Tokenizer(model), lowercase, None, True)

    scratch = fresh(tokenizers.models.WordPiece(unk_token=unk))
    inner = [_PREFIX + c for c in _inner_characters(scratch, texts)]
    # "Special" tokens are numbered first; the scratch object that believes in them is dropped.
    trainer = tokenizers.trainers.WordPieceTrainer(
        vocab_size=size,
        special_tokens=[*reserved, *inner],
        min_frequency=min_frequency,
        limit_alphabet=_ALPHABET,
        continuing_subword_prefix=_PREFIX,
        show_progress=False,
    )
    scratch.train_from_iterator(texts, trainer)
    table = scratch.get_vocab(with_added_tokens=False)
    return fresh(tokenizers.models.WordPiece(table, unk_token=unk))


def _order_rare_characters(scores: dict[str, float]) -> None:
    """Redistribute, in place, the scores of characters that are kept for coverage alone.

    The trainer gives them the lowest score and steps of 0.0001 above it, in the order in which
    they come out of a hash table; here that order is the characters' own.
    """
    lowest = min(scores.values(), default=0.0)
    rare: list[str] = []
    for token in sorted((t for t in scores if len(t) == 1), key=lambda t: scores[t]):
        if abs(scores[token] - (lowest + 1e-4 * len(rare))) > 2e-6:
            break
        rare.append(token)
    for step, token in enumerate(sorted(rare)):
        scores[token] = round(lowest + 1e-4 * step, 6)


def _train_unigram(
    tokenizers: Any, texts: Iterable[str], reserved: Sequence[str], unk: str, size: int,
    lowercase: bool,
) -> Any:  # fmt: skip
    normalizers = tokenizers.normalizers
    tokenizer = tokenizers.Tokenizer(tokenizers.models.Unigram())
    steps = [normalizers.NFKC(), normalizers.Replace(tokenizers.Regex(r"\s+"), " ")]
    if lowercase:
        steps.append(normalizers.Lowercase())
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    tokenizer.decoder = tokenizers.decoders.Metaspace()
    trainer = tokenizers.trainers.UnigramTrainer(
        vocab_size=size, special_tokens=list(reserved), unk_token=unk, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    found = json.loads(tokenizer.to_str())["model"]["vocab"]
    scores = {token: round(score, 6) for token, score in found if token not in set(reserved)}
    _order_rare_characters(scores)
    ranked = sorted(scores.items(), key=lambda item: (-item[1], item[0]))
    pieces = [*((token, 0.0) for token in reserved), *ranked]
    tokenizer.model = tokenizers.models.Unigram(pieces, list(reserved).index(unk), False)
    return tokenizer


def train_subword(
    texts: Iterable[str],
    kind: str,
    *,
    vocab_size: int,
    special: Mapping[str, str],
    extra: Sequence[str] = (),
    min_frequency: int = 2,
    lowercase: bool = False,
    add_bos: bool = False,
    add_eos: bool = False,
) -> SubwordEngine:
    """Train a byte-level BPE, WordPiece or unigram vocabulary.

    Examples
    --------
    >>> engine = train_subword(["low lower lowest"] * 3, "bpe", vocab_size=270, special={})
    >>> engine.decode(engine.encode(["lower"], None, special=False, max_length=None,
    ...     truncation_side="right")[0].ids, skip_special=True)
    'lower'
    """
    tokenizers = import_tokenizers("Tokenizer.train")
    reserved = list(dict.fromkeys([*special.values(), *extra]))
    needed = len(reserved) + (256 if kind == "bpe" else 1)
    if vocab_size < needed:
        raise ValueError(
            f"Tokenizer.train: vocab_size must be at least {needed} for kind={kind!r} with "
            f"{len(reserved)} special tokens, got {vocab_size}"
        )
    if kind != "bpe" and "unk" not in special:
        raise ValueError(f"Tokenizer.train: kind={kind!r} needs a special token 'unk'")

    def train() -> Any:
        if kind == "bpe":
            return _train_bpe(tokenizers, texts, reserved, vocab_size, min_frequency, lowercase)
        if kind == "wordpiece":
            return _train_wordpiece(
                tokenizers, texts, reserved, special["unk"], vocab_size, min_frequency, lowercase
            )
        return _train_unigram(tokenizers, texts, reserved, special["unk"], vocab_size, lowercase)

    tokenizer = guard(train, "Tokenizer.train: training failed")
    tokenizer.add_special_tokens(reserved)
    table = tokenizer.get_vocab(with_added_tokens=True)
    if "cls" in special and "sep" in special:
        tokenizer.post_processor = template(
            tokenizers, [special["cls"]], [special["sep"]], [special["sep"]], table
        )
    elif add_bos or add_eos:
        for role, wanted in (("bos", add_bos), ("eos", add_eos)):
            if wanted and role not in special:
                raise ValueError(f"Tokenizer.train: add_{role} needs a special token {role!r}")
        separator = special.get("sep", special.get("eos"))
        tokenizer.post_processor = template(
            tokenizers,
            [special["bos"]] if add_bos else [],
            [separator] if separator is not None else [],
            [special["eos"]] if add_eos else [],
            table,
        )
    return SubwordEngine(tokenizer)
