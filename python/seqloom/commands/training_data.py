# SPDX-License-Identifier: Apache-2.0
"""From the files that ``seqloom train`` is given to loaders, by task."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from typing import Any

import numpy as np

from seqloom.cli import CommandError
from seqloom.commands import training_labels
from seqloom.commands.training_files import (
    Data,
    Files,
    Saved,
    kind_of,
    loaders_of,
    split,
    tokenizer_of,
)
from seqloom.data import (
    DataError,
    ForecastWindows,
    LMWindows,
    Loader,
    MaskCollate,
    PairCollate,
    RandomWindows,
    Standardizer,
    encode_corpus,
    encode_pairs,
    encode_texts,
)

SCALING = "scaling.json"


def prepare(options: argparse.Namespace, task: str, model: str) -> Data:
    """Loaders, tokenizer and labels for a task."""
    makers = {
        "next-token": _next_token,
        "masked-token": _masked,
        "classification": training_labels.classification,
        "tagging": training_labels.tagging,
        "question-answering": training_labels.questions,
        "ctc": training_labels.speech,
        "seq2seq": _pairs,
        "forecasting": _series,
    }
    return makers[task](options, model)


def _next_token(options: argparse.Namespace, model: str) -> Data:
    files = Files(options)

    def reader(paths: Sequence[str]) -> Any:
        if all(kind_of(p) == "jsonl" for p in paths):
            rows = files.jsonl(paths, fields=[options.text_column])
            return rows.map(lambda row: str(row[options.text_column]) + "\n")
        return files.text(paths, keep_newlines=True, skip_blank=False)

    tokenizer = tokenizer_of(options, "next-token", reader(options.data), model)
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
    files = Files(options)
    tokenizer = tokenizer_of(options, "masked-token", files.text(options.data), model)
    every = [encode_texts(files.text(options.data), tokenizer, max_length=options.length)]
    if options.eval_data:
        train, held_out = every[0], encode_texts(
            files.text(options.eval_data), tokenizer, max_length=options.length
        )  # fmt: skip
    else:
        train, held_out = split(every[0], options)
    collate = MaskCollate(tokenizer, whole_words=options.whole_words)
    loaders = loaders_of(train, held_out, options, collate)
    text = f"{len(train):,} lines to learn from, {len(held_out):,} held out"
    return Data(*loaders, tokenizer, extras=[tokenizer], text=text)


def _pairs(options: argparse.Namespace, model: str) -> Data:
    files = Files(options)

    def pairs(paths: Sequence[str], target: str | None) -> list[tuple[str, str]]:
        if target is None:
            return [pair for path in paths for pair in files.pairs(path)]
        return list(files.pairs(paths[0], target))

    every = pairs(options.data, options.target)
    if options.eval_data:
        train, held_out = every, pairs(options.eval_data, None)
    else:
        train, held_out = split(every, options)
    tokenizer = tokenizer_of(options, "seq2seq", [text for pair in train for text in pair], model)
    parts = [encode_pairs(p, tokenizer, tokenizer, max_length=options.length)
             for p in (train, held_out)]  # fmt: skip
    if not parts[0]:
        raise CommandError(f"{options.data[0]}: no pair is shorter than --length {options.length}")
    pad = tokenizer.pad_token_id or 0
    loaders = loaders_of(parts[0], parts[1], options, PairCollate(pad, pad))
    text = f"{len(parts[0]):,} pairs to learn from, {len(parts[1]):,} held out"
    return Data(*loaders, tokenizer, extras=[tokenizer], text=text)


def numbers(files: Files, paths: Sequence[str], columns: list[str] | None) -> Any:
    """Steps of a time series, float32 [T, F]."""
    rows: list[list[float]] = []
    for path in paths:
        before = len(rows)
        delimiter = "\t" if kind_of(path) == "tsv" else ","
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
    files = Files(options)
    series = numbers(files, options.data, options.columns)
    length, horizon, size = options.length, options.horizon, options.batch_size
    first = options.data[0]
    delimiter = "\t" if kind_of(first) == "tsv" else ","
    columns = options.columns or list(next(iter(files.csv(first, delimiter=delimiter)), {}))
    if options.eval_data:
        seen, unseen = series, numbers(files, options.eval_data, columns)
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
    scaling = Saved(
        SCALING,
        {
            "mean": scaler.mean.tolist(),
            "scale": scaler.scale.tolist(),
            "columns": columns,
            "length": length,
        },
    )
    text = f"{len(seen):,} steps to learn from, {len(unseen):,} held out"
    width = series.shape[1]
    return Data(train, evaluation, features=width, targets=width, extras=[scaling], text=text)
