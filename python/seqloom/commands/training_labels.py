# SPDX-License-Identifier: Apache-2.0
"""Labelled data for ``seqloom train``: classes, tags, questions and recordings."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seqloom.cli import CommandError
from seqloom.commands.training_files import (
    Data,
    Files,
    Saved,
    kind_of,
    loaders_of,
    split,
    tokenizer_of,
)
from seqloom.data import DataError, PadCollate, encode_questions, encode_texts
from seqloom.text import Tokenizer

LABELS = "labels.json"


def _records(files: Files, paths: Sequence[str], columns: list[str]) -> list[dict[str, Any]]:
    """Rows of CSV, TSV or JSONL files."""
    found: list[dict[str, Any]] = []
    for path in paths:
        kind = kind_of(path)
        if kind in ("jsonl", "ndjson"):
            found += files.jsonl(path, fields=columns)
        elif kind in ("csv", "tsv"):
            found += files.csv(path, columns=columns, delimiter="\t" if kind == "tsv" else ",")
        else:
            raise CommandError(f"{path}: must be .csv, .tsv or .jsonl for this task")
    return found


def classification(options: argparse.Namespace, model: str) -> Data:
    files, text, label = Files(options), options.text_column, options.label_column
    rows = _records(files, options.data, [text, label])
    names = sorted({str(row[label]) for row in rows})
    numbers = {name: i for i, name in enumerate(names)}
    if len(names) < 2:
        raise CommandError(f"{options.data[0]}: needs at least two labels, got {names}")
    if options.eval_data:
        train, held_out = rows, _records(files, options.eval_data, [text, label])
    else:
        train, held_out = split(rows, options)
    tokenizer = tokenizer_of(options, "classification", [str(r[text]) for r in train], model)

    def items(part: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for row in part:
            if str(row[label]) not in numbers:
                raise CommandError(f"{options.eval_data[0]}: unknown label {row[label]!r}")
        encoded = encode_texts(
            [str(r[text]) for r in part],
            tokenizer,
            labels=[numbers[str(r[label])] for r in part],
            max_length=options.length,
        )
        keys = ["input_ids", "labels"] + ["token_type_ids"] * (model == "bert")
        return [{key: item[key] for key in keys} for item in encoded if len(item["input_ids"])]

    collate = PadCollate({"input_ids": tokenizer.pad_token_id or 0})
    loaders = loaders_of(items(train), items(held_out), options, collate)
    text_line = (
        f"{len(train):,} texts to learn from, {len(held_out):,} held out; {len(names)} labels"
    )
    extras = [tokenizer, Saved(LABELS, names)]
    return Data(*loaders, tokenizer, labels=names, extras=extras, text=text_line)


def questions(options: argparse.Namespace, model: str) -> Data:
    def records(paths: Sequence[str]) -> list[dict[str, Any]]:
        for path in paths:
            if kind_of(path) not in ("jsonl", "ndjson"):
                raise CommandError(f"{path}: must be .jsonl for this task")
        return list(Files(options).jsonl(paths, fields=["question", "context", "answer"]))

    if options.eval_data:
        train, held_out = records(options.data), records(options.eval_data)
    else:
        train, held_out = split(records(options.data), options)
    texts = [str(row[name]) for row in train for name in ("question", "context")]
    tokenizer = tokenizer_of(options, "question-answering", texts, model)
    parts = [encode_questions(p, tokenizer, max_length=options.length) for p in (train, held_out)]
    whole = [item for item in parts[0] if item["start_positions"] >= 0]
    cut = len(parts[0]) - len(whole)
    if not whole:
        raise CommandError(
            f"{options.data[0]}: every answer lies beyond {options.length} tokens; choose a "
            "larger --length"
        )
    collate = PadCollate({"input_ids": tokenizer.pad_token_id or 0})
    loaders = loaders_of(whole, parts[1], options, collate)
    text = f"{len(whole):,} questions to learn from, {len(held_out):,} held out"
    if cut:
        text += f"; {cut:,} left out, their answers lie beyond {options.length} tokens"
    return Data(*loaders, tokenizer, extras=[tokenizer], text=text)


def speech(options: argparse.Namespace, model: str) -> Data:
    """Records of features [T, F] in .npy files, beside the list, and what is said in them."""

    def records(paths: Sequence[str]) -> list[tuple[Any, str]]:
        found: list[tuple[Any, str]] = []
        for path in paths:
            if kind_of(path) not in ("jsonl", "ndjson"):
                raise CommandError(f"{path}: must be .jsonl for this task")
            for row in Files(options).jsonl(path, fields=["features", "text"]):
                file = Path(path).parent / str(row["features"])
                found.append((features(file), str(row["text"])))
                if found[-1][0].shape[1] != found[0][0].shape[1]:
                    raise CommandError(
                        f"{file}: has {found[-1][0].shape[1]} features a step, the first file has "
                        f"{found[0][0].shape[1]}"
                    )
        return found

    if options.eval_data:
        train, held_out = records(options.data), records(options.eval_data)
    else:
        train, held_out = split(records(options.data), options)
    tokenizer = tokenizer_of(options, "ctc", [text for _, text in train], model)
    if tokenizer.pad_token_id is None:
        raise CommandError("--tokenizer: needs a padding token, which is the blank")
    parts = [
        [
            {"inputs": features, "labels": np.array(ids, np.int64)}
            for features, text in part
            if (ids := tokenizer.encode(text, add_special_tokens=False))
        ]
        for part in (train, held_out)
    ]
    if not parts[0]:
        raise CommandError(f"{options.data[0]}: no text has tokens")
    loaders = loaders_of(parts[0], parts[1], options, PadCollate())
    text = f"{len(parts[0]):,} recordings to learn from, {len(parts[1]):,} held out"
    width = train[0][0].shape[1]
    return Data(*loaders, tokenizer, features=width, extras=[tokenizer], text=text)


def features(file: Path) -> Any:
    """An array [T, F] of a .npy file."""
    if not file.is_file():
        raise CommandError(f"{file}: there is no such file")
    try:
        array = np.load(file, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise CommandError(f"{file}: not a .npy file of numbers: {error}") from None
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind not in "fiu":
        shape = list(getattr(array, "shape", ()))
        raise CommandError(f"{file}: must hold numbers [T, F], got shape {shape}")
    if not (array.size and np.isfinite(array).all()):
        raise CommandError(f"{file}: must hold finite numbers, and some")
    return array.astype(np.float32)


def _sentences(files: Files, paths: Sequence[str]) -> list[tuple[list[str], list[str]]]:
    """(words, tags) of JSONL records, or of lines `word ... tag` with blank lines between."""
    found: list[tuple[list[str], list[str]]] = []
    for path in paths:
        if kind_of(path) in ("jsonl", "ndjson"):
            for row in files.jsonl(path, fields=["tokens", "tags"]):
                lists = [row[name] for name in ("tokens", "tags")]
                if not all(isinstance(x, list) for x in lists) or len({*map(len, lists)}) > 1:
                    raise DataError(f"{path}: tokens and tags must be lists of one length")
                found.append(([str(w) for w in row["tokens"]], [str(t) for t in row["tags"]]))
            continue
        for block in files.text(path, unit="paragraph"):
            lines = [
                line.split() for line in block.splitlines() if not line.startswith("-DOCSTART")
            ]
            if any(len(line) < 2 for line in lines):
                raise DataError(f"{path}: a line must hold a word and its tag: {block[:60]!r}")
            if lines:
                found.append(([line[0] for line in lines], [line[-1] for line in lines]))
    return found


def tagging(options: argparse.Namespace, model: str) -> Data:
    files = Files(options)
    sentences = _sentences(files, options.data)
    names = sorted({tag for _, tags in sentences for tag in tags})
    numbers = {name: i for i, name in enumerate(names)}
    if options.eval_data:
        train, held_out = sentences, _sentences(files, options.eval_data)
    else:
        train, held_out = split(sentences, options)
    tokenizer = tokenizer_of(options, "tagging", (" ".join(words) for words, _ in train), model)
    collate = PadCollate({"input_ids": tokenizer.pad_token_id or 0})
    parts = [tagged(part, tokenizer, numbers, options.length) for part in (train, held_out)]
    loaders = loaders_of(parts[0], parts[1], options, collate)
    text = f"{len(train):,} sentences to learn from, {len(held_out):,} held out; {len(names)} tags"
    extras = [tokenizer, Saved(LABELS, names)]
    return Data(*loaders, tokenizer, labels=names, extras=extras, text=text)


def tagged(
    sentences: Sequence[tuple[Sequence[str], Sequence[str]]],
    tokenizer: Tokenizer,
    numbers: Mapping[str, int],
    max_length: int,
) -> list[dict[str, Any]]:
    """Sentences as items: the first token of a word has its label, all others have -100.

    Examples
    --------
    >>> tokenizer = Tokenizer.train_from_texts(["abc"], kind="char")
    >>> tagged([(["ab", "c"], ["X", "Y"])], tokenizer, {"X": 0, "Y": 1}, 9)[0]["labels"]
    array([   0, -100,    1])
    """
    items = []
    for words, tags in sentences:
        ids: list[int] = []
        labels: list[int] = []
        for word, tag in zip(words, tags, strict=True):
            pieces = tokenizer.encode(word, add_special_tokens=False)
            ids += pieces
            labels += [numbers.get(tag, -100), *[-100] * (len(pieces) - 1)][: len(pieces)]
        if ids:
            cut = slice(0, max_length)
            items.append({"input_ids": np.array(ids[cut]), "labels": np.array(labels[cut])})
    return items
