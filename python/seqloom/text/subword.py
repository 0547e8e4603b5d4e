# SPDX-License-Identifier: Apache-2.0
"""Subword tokenizers of the Hugging Face file formats, over the `tokenizers` package."""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from seqloom.files import atomic_write, check_regular_file, read_json
from seqloom.text.engine import Encoded

T = TypeVar("T")

HINT = "pip install 'seqloom[text]'"
BERT_SPECIAL = {
    "pad": "[PAD]",
    "unk": "[UNK]",
    "cls": "[CLS]",
    "sep": "[SEP]",
    "mask": "[MASK]",
}


def import_tokenizers(what: str) -> Any:
    """Import the `tokenizers` package or say how to get it.

    Examples
    --------
    >>> import_tokenizers("train").__name__
    'tokenizers'
    """
    try:
        return importlib.import_module("tokenizers")
    except ImportError as error:
        raise ImportError(
            f"{what}: needs the 'tokenizers' package: {HINT} "
            "(character and word vocabularies work without it)"
        ) from error


def guard(function: Callable[[], T], message: str) -> T:
    """Run a call into `tokenizers`; whatever it throws becomes a `ValueError`.

    The package raises bare `Exception`, and its panics derive from `BaseException` alone.
    """
    try:
        return function()
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:
        text = str(error).strip().splitlines()
        raise ValueError(f"{message}: {text[0] if text else type(error).__name__}") from None


class SubwordEngine:
    """A `tokenizers.Tokenizer` behind the interface of this package."""

    def __init__(self, tokenizer: Any) -> None:
        # Padding and truncation are decided per call, not by what the file was saved with.
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self.tokenizer = tokenizer
        model = type(tokenizer.model).__name__.lower()
        self.kind = {"wordlevel": "word"}.get(model, model)
        # Truncation is a setting of the shared object: one encoding at a time.
        self._lock = threading.Lock()

    def encode(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None,
        *,
        special: bool,
        max_length: int | None,
        truncation_side: str,
    ) -> list[Encoded]:
        """Encode texts, or pairs of texts."""
        items = list(texts) if pairs is None else list(zip(texts, pairs, strict=True))
        with self._lock:
            if max_length is not None:
                around = self.tokenizer.num_special_tokens_to_add(pairs is not None)
                if max_length <= (around if special else 0):
                    raise ValueError(
                        f"Tokenizer: max_length must leave room beside {around} special tokens, "
                        f"got {max_length}"
                    )
                self.tokenizer.enable_truncation(max_length, direction=truncation_side)
            try:
                found = guard(
                    lambda: self.tokenizer.encode_batch(items, add_special_tokens=special),
                    "Tokenizer: cannot encode",
                )
            finally:
                self.tokenizer.no_truncation()
        return [
            Encoded(
                list(e.ids),
                list(e.type_ids),
                list(e.offsets),
                list(e.special_tokens_mask),
                [-1 if word is None else word for word in e.word_ids],
            )
            for e in found
        ]

    def encode_ids(self, texts: Sequence[str], *, special: bool) -> list[list[int]]:
        """Ids alone, whole texts: the quick way."""
        with self._lock:
            found = guard(
                lambda: self.tokenizer.encode_batch(list(texts), add_special_tokens=special),
                "Tokenizer: cannot encode",
            )
        return [list(e.ids) for e in found]

    def decode(self, ids: Sequence[int], *, skip_special: bool) -> str:
        """Turn ids back into text."""
        size = self.size()
        for number in ids:
            if not 0 <= number < size:
                raise IndexError(f"decode: ids must be in [0, {size}), got {number}")
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=skip_special)
        return text

    def vocabulary(self) -> dict[str, int]:
        """Token -> id."""
        table: dict[str, int] = self.tokenizer.get_vocab(with_added_tokens=True)
        return table

    def size(self) -> int:
        """One more than the largest id."""
        if not hasattr(self, "_size"):
            self._size = max(self.vocabulary().values(), default=-1) + 1
        return self._size

    def add_special(self, tokens: Iterable[str]) -> None:
        """Make tokens special; those that the vocabulary lacks are added."""
        self.tokenizer.add_special_tokens(list(tokens))
        self._size = max(self.vocabulary().values(), default=-1) + 1

    def save(self, directory: Path) -> None:
        """Write `tokenizer.json`."""
        with atomic_write(directory / "tokenizer.json") as handle:
            handle.write(self.tokenizer.to_str(pretty=True).encode("utf-8"))


def load_tokenizer_json(path: Path) -> SubwordEngine:
    """Read `tokenizer.json`.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> from seqloom.text.training import train_subword
    >>> train_subword(["a b a b"], "bpe", vocab_size=260, special={}).save(folder)
    >>> load_tokenizer_json(folder / "tokenizer.json").kind
    'bpe'
    """
    tokenizers = import_tokenizers("from_pretrained")
    check_regular_file(path, "from_pretrained")
    return SubwordEngine(
        guard(
            lambda: tokenizers.Tokenizer.from_file(os.fspath(path)),
            f"from_pretrained: {path} is not a usable tokenizer.json",
        )
    )


def load_gpt2_files(
    vocab: Path, merges: Path, special: Mapping[str, str], *, wrap: bool, prefix_space: bool
) -> SubwordEngine:
    """Read `vocab.json` and `merges.txt` (GPT-2; with `wrap`, RoBERTa and BART)."""
    tokenizers = import_tokenizers("from_pretrained")
    table = read_json(vocab, "from_pretrained")
    if not isinstance(table, dict) or not all(
        isinstance(i, int) and 0 <= i < 1 << 31 for i in table.values()
    ):
        raise ValueError(f"from_pretrained: {vocab} must map tokens to ids")
    check_regular_file(merges, "from_pretrained")

    def build() -> Any:
        bpe = tokenizers.models.BPE.from_file(os.fspath(vocab), os.fspath(merges))
        result = tokenizers.Tokenizer(bpe)
        result.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
        result.decoder = tokenizers.decoders.ByteLevel()
        if wrap:
            result.post_processor = tokenizers.processors.RobertaProcessing(
                (special["sep"], table[special["sep"]]),
                (special["cls"], table[special["cls"]]),
                trim_offsets=True,
                add_prefix_space=prefix_space,
            )
        else:
            result.post_processor = tokenizers.processors.ByteLevel(trim_offsets=False)
        return result

    message = f"from_pretrained: {vocab} and {merges.name} are not a usable vocabulary"
    engine = SubwordEngine(guard(build, message))
    engine.add_special(t for t in dict.fromkeys(special.values()) if t in table)
    return engine


def load_bert_vocab(
    path: Path, special: Mapping[str, str], *, lowercase: bool, strip_accents: bool | None,
    chinese: bool,
) -> SubwordEngine:  # fmt: skip
    """Read BERT's `vocab.txt`."""
    tokenizers = import_tokenizers("from_pretrained")
    check_regular_file(path, "from_pretrained")
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"from_pretrained: {path}: byte {error.start}: not valid UTF-8") from None
    if lines and not lines[-1]:
        lines.pop()
    table = {line.rstrip("\r"): number for number, line in enumerate(lines)}
    for role in ("unk", "cls", "sep"):
        if special.get(role) not in table:
            raise ValueError(f"from_pretrained: {path} lacks the token {special.get(role)!r}")

    def build() -> Any:
        model = tokenizers.models.WordPiece(
            table, unk_token=special["unk"], max_input_chars_per_word=100
        )
        return bert_pipeline(
            tokenizers, tokenizers.Tokenizer(model), lowercase, strip_accents, chinese
        )

    engine = SubwordEngine(guard(build, f"from_pretrained: {path} is not a usable vocabulary"))
    engine.tokenizer.post_processor = template(
        tokenizers, [special["cls"]], [special["sep"]], [special["sep"]], table
    )
    engine.add_special(t for t in special.values() if t in table)
    return engine


def bert_pipeline(
    tokenizers: Any, tokenizer: Any, lowercase: bool, strip_accents: bool | None, chinese: bool
) -> Any:
    """Put BERT's normalizer, word splitter and decoder around a WordPiece model."""
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=chinese,
        strip_accents=strip_accents,
        lowercase=lowercase,
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = tokenizers.decoders.WordPiece(prefix="##")
    return tokenizer


def template(
    tokenizers: Any,
    prefix: Sequence[str],
    middle: Sequence[str],
    suffix: Sequence[str],
    table: Mapping[str, int],
) -> Any:
    """Make a post-processor that puts special tokens around a text and between two."""
    used = dict.fromkeys([*prefix, *middle, *suffix])
    return tokenizers.processors.TemplateProcessing(
        single=[*prefix, "$A", *suffix],
        pair=[*prefix, "$A:0", *middle, "$B:1", *(f"{token}:1" for token in suffix)],
        special_tokens=[(token, table[token]) for token in used],
    )
