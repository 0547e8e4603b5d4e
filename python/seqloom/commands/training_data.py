# SPDX-License-Identifier: Apache-2.0
"""From the files that ``seqloom train`` is given to loaders, by task."""

from __future__ import annotations

import argparse
import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from seqloom.cli import CommandError
from seqloom.data import (
    DataError,
    ForecastWindows,
    LMWindows,
    Loader,
    MaskCollate,
    PadCollate,
    PairCollate,
    RandomWindows,
    Standardizer,
    encode_corpus,
    encode_pairs,
    encode_questions,
    encode_texts,
    read_csv,
    read_jsonl,
    read_pairs,
    read_text,
)
from seqloom.data.random import permutation
from seqloom.files import PathLike, read_json, write_json
from seqloom.text import Tokenizer

LABELS, SCALING = "labels.json", "scaling.json"
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


class _Files:
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


def read_labels(folder: Path) -> list[str]:
    """The names of a model's classes.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> Saved(LABELS, ["bad", "good"]).save_pretrained(folder)
    >>> read_labels(folder)
    ['bad', 'good']
    """
    value = read_json(folder / LABELS, "labels")
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise CommandError(f"{folder / LABELS}: must be a list of names")
    return value


def prepare(options: argparse.Namespace, task: str, model: str) -> Data:
    """Loaders, tokenizer and labels for a task."""
    makers = {
        "next-token": _next_token,
        "masked-token": _masked,
        "classification": _classification,
        "tagging": _tagging,
        "question-answering": _questions,
        "ctc": _speech,
        "seq2seq": _pairs,
        "forecasting": _series,
    }
    return makers[task](options, model)


# ---- tokenizers and splits -----------------------------------------------------------------------


def _tokenizer(
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


def _parts(items: Sequence[Any], options: argparse.Namespace) -> tuple[list[Any], list[Any]]:
    """Items for training and for evaluation, by a shuffle that depends on the seed alone."""
    order = permutation(len(items), options.seed, 11)
    held_out = round(len(items) * options.eval_share)
    if not items or held_out >= len(items):
        raise CommandError(f"{options.data[0]}: {len(items)} examples are too few")
    rest = [items[int(i)] for i in order[held_out:]]
    return rest, [items[int(i)] for i in order[:held_out]]


def _loaders(
    train: list[Any], held_out: list[Any], options: argparse.Namespace, collate: Any
) -> tuple[Loader, Loader | None]:
    size, seed = options.batch_size, options.seed
    evaluation = Loader(held_out, size, collate=collate, seed=seed) if held_out else None
    return Loader(train, size, shuffle=True, collate=collate, seed=seed), evaluation


# ---- tasks ---------------------------------------------------------------------------------------


def _next_token(options: argparse.Namespace, model: str) -> Data:
    files = _Files(options)

    def reader(paths: Sequence[str]) -> Any:
        if all(_kind(p) == "jsonl" for p in paths):
            rows = files.jsonl(paths, fields=[options.text_column])
            return rows.map(lambda row: str(row[options.text_column]) + "\n")
        return files.text(paths, keep_newlines=True, skip_blank=False)

    tokenizer = _tokenizer(options, "next-token", reader(options.data), model)
    tokens = encode_corpus(reader(options.data), tokenizer)
    if options.eval_data:
        seen, unseen = tokens, encode_corpus(reader(options.eval_data), tokenizer)
    else:
        cut = len(tokens) - round(len(tokens) * options.eval_share)
        seen, unseen = tokens[:cut], tokens[cut:]
    length, size = options.length, options.batch_size
    if not len(tokens):
        raise CommandError(f"{options.data[0]}: holds no text")
    if len(seen) <= length:
        raise CommandError(
            f"{options.data[0]}: {len(seen)} tokens are too few for sequences of {length}; "
            "choose a smaller --length"
        )
    evaluation = None
    if len(unseen) > 1:
        evaluation = Loader(LMWindows(unseen, min(length, len(unseen) - 1)), size)
    train = Loader(RandomWindows(seen, length, seed=options.seed), size, seed=options.seed)
    text = f"{len(seen):,} tokens to learn from, {len(unseen):,} held out"
    return Data(train, evaluation, tokenizer, extras=[tokenizer], text=text)


def _masked(options: argparse.Namespace, model: str) -> Data:
    files = _Files(options)
    tokenizer = _tokenizer(options, "masked-token", files.text(options.data), model)
    every = [encode_texts(files.text(options.data), tokenizer, max_length=options.length)]
    if options.eval_data:
        train, held_out = every[0], encode_texts(
            files.text(options.eval_data), tokenizer, max_length=options.length
        )  # fmt: skip
    else:
        train, held_out = _parts(every[0], options)
    collate = MaskCollate(tokenizer, whole_words=options.whole_words)
    loaders = _loaders(train, held_out, options, collate)
    text = f"{len(train):,} lines to learn from, {len(held_out):,} held out"
    return Data(*loaders, tokenizer, extras=[tokenizer], text=text)


def _kind(path: str) -> str:
    return Path(path.removesuffix(".gz")).suffix.lstrip(".").lower()


def _records(files: _Files, paths: Sequence[str], columns: list[str]) -> list[dict[str, Any]]:
    """Rows of CSV, TSV or JSONL files."""
    found: list[dict[str, Any]] = []
    for path in paths:
        kind = _kind(path)
        if kind in ("jsonl", "ndjson"):
            found += files.jsonl(path, fields=columns)
        elif kind in ("csv", "tsv"):
            found += files.csv(path, columns=columns, delimiter="\t" if kind == "tsv" else ",")
        else:
            raise CommandError(f"{path}: must be .csv, .tsv or .jsonl for this task")
    return found


def _classification(options: argparse.Namespace, model: str) -> Data:
    files, text, label = _Files(options), options.text_column, options.label_column
    rows = _records(files, options.data, [text, label])
    names = sorted({str(row[label]) for row in rows})
    numbers = {name: i for i, name in enumerate(names)}
    if len(names) < 2:
        raise CommandError(f"{options.data[0]}: needs at least two labels, got {names}")
    if options.eval_data:
        train, held_out = rows, _records(files, options.eval_data, [text, label])
    else:
        train, held_out = _parts(rows, options)
    tokenizer = _tokenizer(options, "classification", [str(r[text]) for r in train], model)

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
    loaders = _loaders(items(train), items(held_out), options, collate)
    text_line = (
        f"{len(train):,} texts to learn from, {len(held_out):,} held out; {len(names)} labels"
    )
    extras = [tokenizer, Saved(LABELS, names)]
    return Data(*loaders, tokenizer, labels=names, extras=extras, text=text_line)


def _questions(options: argparse.Namespace, model: str) -> Data:
    def records(paths: Sequence[str]) -> list[dict[str, Any]]:
        for path in paths:
            if _kind(path) not in ("jsonl", "ndjson"):
                raise CommandError(f"{path}: must be .jsonl for this task")
        return list(_Files(options).jsonl(paths, fields=["question", "context", "answer"]))

    if options.eval_data:
        train, held_out = records(options.data), records(options.eval_data)
    else:
        train, held_out = _parts(records(options.data), options)
    texts = [str(row[name]) for row in train for name in ("question", "context")]
    tokenizer = _tokenizer(options, "question-answering", texts, model)
    parts = [encode_questions(p, tokenizer, max_length=options.length) for p in (train, held_out)]
    whole = [item for item in parts[0] if item["start_positions"] >= 0]
    cut = len(parts[0]) - len(whole)
    if not whole:
        raise CommandError(
            f"{options.data[0]}: every answer lies beyond {options.length} tokens; choose a "
            "larger --length"
        )
    collate = PadCollate({"input_ids": tokenizer.pad_token_id or 0})
    loaders = _loaders(whole, parts[1], options, collate)
    text = f"{len(whole):,} questions to learn from, {len(held_out):,} held out"
    if cut:
        text += f"; {cut:,} left out, their answers lie beyond {options.length} tokens"
    return Data(*loaders, tokenizer, extras=[tokenizer], text=text)


def _speech(options: argparse.Namespace, model: str) -> Data:
    """Records of features [T, F] in .npy files, beside the list, and what is said in them."""

    def records(paths: Sequence[str]) -> list[tuple[Any, str]]:
        found: list[tuple[Any, str]] = []
        for path in paths:
            if _kind(path) not in ("jsonl", "ndjson"):
                raise CommandError(f"{path}: must be .jsonl for this task")
            for row in _Files(options).jsonl(path, fields=["features", "text"]):
                file = Path(path).parent / str(row["features"])
                found.append((_features(file), str(row["text"])))
                if found[-1][0].shape[1] != found[0][0].shape[1]:
                    raise CommandError(
                        f"{file}: has {found[-1][0].shape[1]} features a step, the first file has "
                        f"{found[0][0].shape[1]}"
                    )
        return found

    if options.eval_data:
        train, held_out = records(options.data), records(options.eval_data)
    else:
        train, held_out = _parts(records(options.data), options)
    tokenizer = _tokenizer(options, "ctc", [text for _, text in train], model)
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
    loaders = _loaders(parts[0], parts[1], options, PadCollate())
    text = f"{len(parts[0]):,} recordings to learn from, {len(parts[1]):,} held out"
    width = train[0][0].shape[1]
    return Data(*loaders, tokenizer, features=width, extras=[tokenizer], text=text)


def _features(file: Path) -> Any:
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


def _sentences(files: _Files, paths: Sequence[str]) -> list[tuple[list[str], list[str]]]:
    """(words, tags) of JSONL records, or of lines `word ... tag` with blank lines between."""
    found: list[tuple[list[str], list[str]]] = []
    for path in paths:
        if _kind(path) in ("jsonl", "ndjson"):
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


def _tagging(options: argparse.Namespace, model: str) -> Data:
    files = _Files(options)
    sentences = _sentences(files, options.data)
    names = sorted({tag for _, tags in sentences for tag in tags})
    numbers = {name: i for i, name in enumerate(names)}
    if options.eval_data:
        train, held_out = sentences, _sentences(files, options.eval_data)
    else:
        train, held_out = _parts(sentences, options)
    tokenizer = _tokenizer(options, "tagging", (" ".join(words) for words, _ in train), model)
    collate = PadCollate({"input_ids": tokenizer.pad_token_id or 0})
    parts = [tagged(part, tokenizer, numbers, options.length) for part in (train, held_out)]
    loaders = _loaders(parts[0], parts[1], options, collate)
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


def _pairs(options: argparse.Namespace, model: str) -> Data:
    files = _Files(options)

    def pairs(paths: Sequence[str], target: str | None) -> list[tuple[str, str]]:
        if target is None:
            return [pair for path in paths for pair in files.pairs(path)]
        return list(files.pairs(paths[0], target))

    every = pairs(options.data, options.target)
    if options.eval_data:
        train, held_out = every, pairs(options.eval_data, None)
    else:
        train, held_out = _parts(every, options)
    tokenizer = _tokenizer(options, "seq2seq", [text for pair in train for text in pair], model)
    parts = [encode_pairs(p, tokenizer, tokenizer, max_length=options.length)
             for p in (train, held_out)]  # fmt: skip
    if not parts[0]:
        raise CommandError(f"{options.data[0]}: no pair is shorter than --length {options.length}")
    pad = tokenizer.pad_token_id or 0
    loaders = _loaders(parts[0], parts[1], options, PairCollate(pad, pad))
    text = f"{len(parts[0]):,} pairs to learn from, {len(parts[1]):,} held out"
    return Data(*loaders, tokenizer, extras=[tokenizer], text=text)


def _numbers(files: _Files, paths: Sequence[str], columns: list[str] | None) -> Any:
    """Steps of a time series, float32 [T, F]."""
    rows: list[list[float]] = []
    for path in paths:
        before = len(rows)
        delimiter = "\t" if _kind(path) == "tsv" else ","
        try:
            for row in files.csv(path, columns=columns, delimiter=delimiter):
                rows.append([float(value) for value in (row[c] for c in columns or row)])
        except (ValueError, csv.Error) as error:
            if isinstance(error, DataError):
                raise
            at = len(rows) - before + 1
            raise CommandError(f"{path}: row {at}: {error}; name --columns") from None
        if len(rows) == before:
            raise CommandError(f"{path}: holds no rows")
        if len(rows[before]) != len(rows[0]):
            raise CommandError(
                f"{path}: has {len(rows[before])} columns, {paths[0]} {len(rows[0])}"
            )
    return np.asarray(rows, np.float32)


def _series(options: argparse.Namespace, model: str) -> Data:
    files = _Files(options)
    series = _numbers(files, options.data, options.columns)
    length, horizon, size = options.length, options.horizon, options.batch_size
    if options.eval_data:
        columns = options.columns or list(next(iter(files.csv(options.data[0])), {}))
        seen, unseen = series, _numbers(files, options.eval_data, columns)
        rest = unseen
    else:
        cut = len(series) - round(len(series) * options.eval_share)
        seen, unseen = series[:cut], series[cut:]
        rest = series[max(0, cut - length) :] if len(unseen) else unseen
    scaler = Standardizer(seen)
    train = Loader(ForecastWindows(scaler.transform(seen), length, horizon), size, shuffle=True,
                   seed=options.seed)  # fmt: skip
    evaluation = None
    if options.eval_data or len(rest) >= length + horizon:
        evaluation = Loader(ForecastWindows(scaler.transform(rest), length, horizon), size)
    scaling = Saved(SCALING, {"mean": scaler.mean.tolist(), "scale": scaler.scale.tolist()})
    text = f"{len(seen):,} steps to learn from, {len(unseen):,} held out"
    width = series.shape[1]
    return Data(train, evaluation, features=width, targets=width, extras=[scaling], text=text)
