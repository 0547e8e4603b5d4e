# SPDX-License-Identifier: Apache-2.0
"""``seqloom predict``: labels, tags, answers, transcripts and forecasts of a model directory."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from seqloom.cli import CommandError, command_parser
from seqloom.commands import options as kinds
from seqloom.commands.training_data import numbers
from seqloom.commands.training_files import Files, kind_of
from seqloom.commands.training_labels import features

EXAMPLE = """seqloom predict reviews --text "A fine book."
  seqloom predict tags < sentences.txt
  seqloom predict qa --question "Who lives in Rome?" --text "Ann lives in Rome."
  seqloom predict qa questions.jsonl --json
  seqloom predict speech recording.npy
  seqloom predict sunspots sunspots.csv

what is read and written, by the model in DIR:
  classes        lines of text             LABEL<TAB>PROBABILITY
  tags           sentences, a line each    WORD<TAB>TAG lines, a blank line after each sentence
  questions      .jsonl of question, context   the answer, an empty line for none
  recordings     .npy files [T, F]         what was said
  masked words   lines with [MASK]         the lines with their words
  time series    a .csv file               .csv of the steps that follow"""


def main(arguments: list[str]) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.question is not None and options.text is None:
        parser.error("--question goes with --text, which may answer it")
    if options.text is not None and options.files:
        parser.error("give --text or files, not both")
    if options.text is not None and not options.text.strip():
        parser.error("--text must not be empty")
    if options.threads:
        kinds.sl.set_num_threads(options.threads)
    path = kinds.model_directory(options.directory)
    kinds.machine(options.device)
    try:
        predictor = kinds.sl.train.Predictor.from_pretrained(
            path, device=options.device, dtype=options.dtype, quantize=options.quantize
        )
        for said in _METHODS[predictor.method](predictor, options):
            print(said)
    except FileNotFoundError as error:
        if error.filename:
            raise
        raise kinds.in_options(error, sizes=False) from None
    except kinds.USER_TROUBLE as error:
        raise kinds.in_options(error, sizes=False) from None
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "predict", example=EXAMPLE, usage="seqloom predict DIR [FILE ...] [options]"
    )
    add = parser.add_argument
    add("directory", metavar="DIR", help="model directory that `seqloom train` has left")
    add("files", nargs="*", metavar="FILE", help="what to judge; - or none: standard input")
    add("--text", metavar="TEXT", help="one text, instead of files")
    add("--question", metavar="TEXT", help="what --text is asked")
    add("--text-column", default="text", metavar="NAME", help="of .csv and .jsonl files (text)")
    add("--encoding", type=kinds.encoding, default="utf-8", metavar="NAME", help="of text (utf-8)")
    add("--json", action="store_true", help="an object a line, with all probabilities")
    add("--device", type=kinds.device, default="cpu", help="cpu (default), cuda or cuda:N")
    add("--dtype", choices=("float32", "bfloat16", "float16"), help="that of the file by default")
    add("--quantize", choices=("int8", "int4"), help="round the weights to so many bits")
    add("--threads", type=kinds.count, metavar="N", help="of the CPU")
    return parser


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


# ---- what is read --------------------------------------------------------------------------------


def _lines(options: argparse.Namespace) -> Iterator[str]:
    """Texts: that of --text, lines of files or of standard input, a column of tables."""
    if options.text is not None:
        yield options.text
        return
    files, name = Files(options), options.text_column
    for path in options.files or ["-"]:
        kind = kind_of(path)
        if path == "-":
            yield from _filled(kinds.standard_input("--text, files or lines").splitlines())
        elif kind in ("jsonl", "ndjson"):
            yield from (str(row[name]) for row in files.jsonl(path, fields=[name]))
        elif kind in ("csv", "tsv"):
            delimiter = "\t" if kind == "tsv" else ","
            yield from (row[name] for row in files.csv(path, columns=[name], delimiter=delimiter))
        else:
            yield from files.text(path)


def _filled(lines: Iterable[str]) -> list[str]:
    found = [line for line in lines if line.strip()]
    if not found:
        raise CommandError("standard input holds no text")
    return found


def _records(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Questions with their contexts."""
    names = ("question", "context")
    if options.text is not None:
        if options.question is None:
            raise CommandError("this model answers: give a --question beside --text")
        yield {"question": options.question, "context": options.text}
        return
    for path in options.files or ["-"]:
        if path == "-":
            for line in _filled(kinds.standard_input("--question, or .jsonl lines").splitlines()):
                try:
                    row = json.loads(line)
                    yield {name: str(row[name]) for name in names}
                except (ValueError, KeyError, TypeError):
                    raise CommandError(
                        f"standard input: must be .jsonl of question and context: {line[:60]!r}"
                    ) from None
        elif kind_of(path) not in ("jsonl", "ndjson"):
            raise CommandError(f"{path}: must be .jsonl of question and context for this model")
        else:
            for row in Files(options).jsonl(path, fields=names):
                yield {name: str(row[name]) for name in names}


def _arrays(options: argparse.Namespace) -> Iterator[Any]:
    if options.text is not None or not options.files or "-" in options.files:
        raise CommandError("this model reads numbers: name .npy files")
    from pathlib import Path

    yield from (features(Path(path)) for path in options.files)


# ---- what is said --------------------------------------------------------------------------------


def _classified(predictor: Any, options: argparse.Namespace) -> Iterator[str]:
    for text in _lines(options):
        found = predictor.classify(text)
        label, share = next(iter(found.items()))
        yield (
            _json({"label": label, "probabilities": found})
            if options.json
            else (f"{label}\t{share:.4f}")
        )


def _tagged(predictor: Any, options: argparse.Namespace) -> Iterator[str]:
    for text in _lines(options):
        found = predictor.tag(text)
        if options.json:
            yield _json({"tokens": [w for w, _ in found], "tags": [t for _, t in found]})
        else:
            yield "".join(f"{word}\t{tag}\n" for word, tag in found)


def _answered(predictor: Any, options: argparse.Namespace) -> Iterator[str]:
    for row in _records(options):
        found = predictor.answer(row["question"], row["context"])
        yield _json(found) if options.json else found["answer"]


def _said(method: str, name: str) -> Callable[[Any, argparse.Namespace], Iterator[str]]:
    def lines(predictor: Any, options: argparse.Namespace) -> Iterator[str]:
        for item in (_arrays if method == "transcribe" else _lines)(options):
            found = getattr(predictor, method)(item)
            yield _json({name: found}) if options.json else found

    return lines


def _forecast(predictor: Any, options: argparse.Namespace) -> Iterator[str]:
    if options.text is not None or len(options.files) != 1 or options.files == ["-"]:
        raise CommandError("this model reads a series: name one .csv file")
    series = numbers(Files(options), options.files, predictor.columns)
    found = predictor.forecast(series)
    names = predictor.columns or [f"feature_{i}" for i in range(found.shape[1])]
    if not options.json:
        yield ",".join(names)
    for row in found.tolist():
        told = dict(zip(names, row, strict=True))
        yield _json(told) if options.json else ",".join(f"{value:.6g}" for value in row)


_METHODS: dict[str, Callable[[Any, argparse.Namespace], Iterator[str]]] = {
    "classify": _classified,
    "tag": _tagged,
    "answer": _answered,
    "fill": _said("fill", "text"),
    "transcribe": _said("transcribe", "text"),
    "forecast": _forecast,
}
