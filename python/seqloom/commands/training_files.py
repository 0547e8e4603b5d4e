# SPDX-License-Identifier: Apache-2.0
"""What the tasks of ``seqloom train`` share: reading, tokenizers, what is held out, loaders."""

from __future__ import annotations

import argparse
import contextlib
import gzip
import os
import shutil
import sys
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seqloom.cli import CommandError
from seqloom.commands.options import USER_TROUBLE
from seqloom.data import Loader, read_csv, read_jsonl, read_pairs, read_text
from seqloom.data.random import permutation
from seqloom.files import PathLike, write_json
from seqloom.text import Tokenizer

_TOKENIZERS = {
    "next-token": "char",
    "masked-token": "wordpiece",
    "classification": "word",
    "tagging": "word",
    "question-answering": "wordpiece",
    "ctc": "char",
    "seq2seq": "bpe",
}


class Saved:
    """A JSON file that belongs into the model's directory."""

    def __init__(self, name: str, value: Any) -> None:
        self.name, self.value = name, value

    def save_pretrained(self, directory: PathLike) -> None:
        write_json(Path(directory) / self.name, self.value)


# What standard input holds for a task, unless its first line is a JSON object.
_PIPED = {"classification": "csv", "forecasting": "csv", "seq2seq": "tsv"}


@contextlib.contextmanager
def standard_input_as_file(options: argparse.Namespace, task: str) -> Iterator[None]:
    """`--data -` as a file for as long as it is read, more than once; errors name the pipe."""
    if "-" not in options.data:
        yield
        return
    if options.data.count("-") > 1 or sys.stdin is None or sys.stdin.isatty():
        raise CommandError("--data -: needs data on standard input, once")
    with tempfile.TemporaryDirectory(prefix="seqloom-") as folder:
        path = Path(folder) / "standard-input"
        with open(path, "wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        with open(path, "rb") as file:
            start = file.read(2)
        packed = start == b"\x1f\x8b"
        with gzip.open(path) if packed else open(path, "rb") as file:
            try:
                kind = "jsonl" if file.read(64).lstrip().startswith(b"{") else _PIPED.get(task)
            except (OSError, EOFError, zlib.error):  # whoever reads it whole tells
                kind = None
        name = path.with_suffix(("." + kind if kind else "") + (".gz" if packed else ""))
        path.rename(name)
        options.data = [str(name) if p == "-" else p for p in options.data]
        try:
            yield
        except (CommandError, *USER_TROUBLE) as error:
            raise CommandError(str(error).replace(str(name), "standard input")) from None


@dataclass
class Data:
    """What a training needs beside the model."""

    train: Loader
    evaluation: Loader | None
    tokenizer: Any = None
    labels: list[str] = field(default_factory=list)
    features: int = 0
    targets: int = 0
    extras: list[Any] = field(default_factory=list)
    text: str = ""


class Files:
    """The readers, in the encoding that the command line says."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._how = {"encoding": options.encoding}

    def text(self, paths: Any, **more: Any) -> Any:
        return read_text(paths, **more, **self._how)

    def csv(self, paths: Any, **more: Any) -> Any:
        return read_csv(paths, **more, **self._how)

    def jsonl(self, paths: Any, **more: Any) -> Any:
        return read_jsonl(paths, **more, **self._how)

    def pairs(self, source: str, target: str | None = None) -> Any:
        return read_pairs(source, target, **self._how)


def kind_of(path: str) -> str:
    return Path(path.removesuffix(".gz")).suffix.lstrip(".").lower()


def tokenizer_of(
    options: argparse.Namespace, task: str, texts: Iterable[str], model: str
) -> Tokenizer:
    """The tokenizer of --from, of --tokenizer DIR, or one that is trained on the texts."""
    given = options.tokenizer
    if options.start_from is not None and given is None:
        return Tokenizer.from_pretrained(options.start_from)
    if given is not None and os.path.isdir(given):
        return Tokenizer.from_pretrained(given)
    kind = given or ("wordpiece" if model == "bert" else _TOKENIZERS[task])
    if kind not in ("char", "word", "bpe", "wordpiece", "unigram"):
        raise CommandError(f"--tokenizer {kind}: neither a kind of tokenizer nor a directory")
    more: dict[str, Any] = {"lowercase": True} if options.lowercase else {}
    made: Any = Tokenizer.train_from_texts
    tokenizer: Tokenizer = made(texts, kind, options.vocab_size, **more)
    return tokenizer


def split(items: Sequence[Any], options: argparse.Namespace) -> tuple[list[Any], list[Any]]:
    """Items for training and for evaluation, by a shuffle that depends on the seed alone."""
    order = permutation(len(items), options.seed, 11)
    held_out = round(len(items) * options.eval_share)
    if not items or held_out >= len(items):
        raise CommandError(f"{options.data[0]}: {len(items)} examples are too few")
    rest = [items[int(i)] for i in order[held_out:]]
    return rest, [items[int(i)] for i in order[:held_out]]


def loaders_of(
    train: list[Any], held_out: list[Any], options: argparse.Namespace, collate: Any
) -> tuple[Loader, Loader | None]:
    size, seed = options.batch_size, options.seed
    evaluation = Loader(held_out, size, collate=collate, seed=seed) if held_out else None
    return Loader(train, size, shuffle=True, collate=collate, seed=seed), evaluation
