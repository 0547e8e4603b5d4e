# SPDX-License-Identifier: Apache-2.0
"""Readers of text, CSV and JSON Lines that stream: a file is never held as a whole.

Every reader can be iterated again and again. Files ending in `.gz` are unpacked on the way. What
can't be read is a `DataError` that names the file and the line (and the byte, for bad UTF-8).
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, Any, Generic, Literal, TypeAlias, TypeVar, cast

from seqloom.files import PathLike, check_regular_file

T = TypeVar("T")
Paths: TypeAlias = PathLike | Sequence[PathLike]

#: A "line" above this isn't text; without a limit such a file would fill the memory.
MAX_LINE_BYTES = 256 << 20


class DataError(ValueError):
    """A data file that can't be read; the message names the file and the place."""


class Reader(Generic[T]):
    """Records of some files, read as they are asked for, any number of times.

    Examples
    --------
    >>> reader = Reader(lambda: iter("abc"))
    >>> list(reader), list(reader)
    (['a', 'b', 'c'], ['a', 'b', 'c'])
    """

    def __init__(self, start: Callable[[], Iterator[T]]) -> None:
        self._start = start

    def __iter__(self) -> Iterator[T]:
        return self._start()

    def map(self, function: Callable[[T], Any]) -> Reader[Any]:
        """Apply a function to every record, as they come.

        Examples
        --------
        >>> list(Reader(lambda: iter("abc")).map(str.upper))
        ['A', 'B', 'C']
        """
        return Reader(lambda: map(function, self))


def as_paths(paths: Paths, what: str) -> list[str]:
    """One path or many as a list; every file must be there.

    Examples
    --------
    >>> as_paths([], "read_text")
    Traceback (most recent call last):
        ...
    ValueError: read_text: paths must name at least one file
    """
    if not isinstance(paths, (str, os.PathLike, Iterable)):
        raise TypeError(f"{what}: paths must be a path or many, got {type(paths).__name__}")
    many = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    if not many:
        raise ValueError(f"{what}: paths must name at least one file")
    for path in many:
        check_regular_file(path, what)
    return [os.fspath(path) for path in many]


def is_encoding(name: str) -> bool:
    """Whether Python reads text in this encoding; some of its codecs are for other things.

    Examples
    --------
    >>> is_encoding("latin-1"), is_encoding("rot13"), is_encoding("klingon")
    (True, False, False)
    """
    try:
        io.TextIOWrapper(io.BytesIO(), encoding=name)
    except (LookupError, ValueError):
        return False
    return True


def _open(path: str, what: str) -> IO[bytes]:
    try:
        if path.endswith(".gz"):
            return cast("IO[bytes]", gzip.open(path, "rb"))
        return open(path, "rb")
    except OSError as error:
        raise type(error)(f"{what}: cannot read {path}: {error.strerror or error}") from error


def _utf8_lines(handle: IO[bytes], where: str) -> Iterator[tuple[int, str]]:
    offset, number = 0, 0
    while raw := handle.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(raw) > MAX_LINE_BYTES:
            raise DataError(f"{where}: line {number}: longer than {MAX_LINE_BYTES} bytes")
        if number == 1:
            if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
                raise DataError(f"{where}: looks like UTF-16; pass encoding='utf-16'")
            if raw.startswith(b"\xef\xbb\xbf"):
                raw, offset = raw[3:], 3
        try:
            line = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{where}: line {number}, byte {offset + error.start}: not valid UTF-8 "
                f"(0x{raw[error.start]:02x}); save the file as UTF-8 or pass its encoding, "
                "such as encoding='latin-1'"
            ) from None
        offset += len(raw)
        yield number, line


def _other_lines(handle: IO[bytes], encoding: str, where: str) -> Iterator[tuple[int, str]]:
    number = 0
    if not is_encoding(encoding):
        raise DataError(f"{where}: there is no encoding {encoding!r}")
    try:
        with io.TextIOWrapper(handle, encoding=encoding, newline="\n") as lines:
            for line in lines:
                number += 1
                yield number, line
    except UnicodeError as error:
        raise DataError(
            f"{where}: near line {number + 1}: not valid {encoding} ({error})"
        ) from None


def numbered_lines(path: str, encoding: str, what: str) -> Iterator[tuple[int, str]]:
    """Lines of one file with their numbers (from 1), line ends included.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile("w", suffix=".txt", delete=False) as f:
    ...     _ = f.write("one\\ntwo")
    >>> list(numbered_lines(f.name, "utf-8", "read_text"))
    [(1, 'one\\n'), (2, 'two')]
    """
    where = f"{what}: {path}"
    with _open(path, what) as handle:
        try:
            if encoding.lower().replace("_", "-") in ("utf-8", "utf8", "utf-8-sig"):
                yield from _utf8_lines(handle, where)
            else:
                yield from _other_lines(handle, encoding, where)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(f"{where}: broken gzip file ({error})") from None
        except OSError as error:
            raise type(error)(f"{where}: {error.strerror or error}") from error


def read_text(
    paths: Paths,
    *,
    unit: Literal["line", "paragraph", "file"] = "line",
    encoding: str = "utf-8",
    keep_newlines: bool = False,
    skip_blank: bool = True,
) -> Reader[str]:
    """Stream text files.

    Parameters
    ----------
    paths
        One file or many; `.gz` files are unpacked on the way.
    unit
        What one record is: a line, a paragraph (lines up to a blank one), or a whole file.
    encoding
        The files' encoding; a byte order mark is skipped.
    keep_newlines
        Leave the line ends in place (with `unit="line"`).
    skip_blank
        Leave out lines that hold nothing but white space (with `unit="line"`).

    Returns
    -------
    Reader
        of strings; can be iterated again.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile("w", suffix=".txt", delete=False) as f:
    ...     _ = f.write("one\\n\\ntwo\\nthree\\n")
    >>> list(read_text(f.name))
    ['one', 'two', 'three']
    >>> list(read_text(f.name, unit="paragraph"))
    ['one', 'two\\nthree']
    """
    if unit not in ("line", "paragraph", "file"):
        raise ValueError(f"read_text: unit must be 'line', 'paragraph' or 'file', got {unit!r}")
    names = as_paths(paths, "read_text")

    def start() -> Iterator[str]:
        for path in names:
            lines = (line for _, line in numbered_lines(path, encoding, "read_text"))
            if unit == "line":
                for line in lines:
                    if line.strip() or not skip_blank:
                        yield line if keep_newlines else line.rstrip("\r\n")
            elif unit == "file":
                yield "".join(lines)
            else:
                yield from _paragraphs(lines)

    return Reader(start)


def _paragraphs(lines: Iterable[str]) -> Iterator[str]:
    block: list[str] = []
    for line in lines:
        if line.strip():
            block.append(line.rstrip("\r\n"))
        elif block:
            yield "\n".join(block)
            block = []
    if block:
        yield "\n".join(block)


def read_csv(
    paths: Paths,
    *,
    columns: Sequence[str] | None = None,
    header: Sequence[str] | None = None,
    delimiter: str = ",",
    encoding: str = "utf-8",
) -> Reader[dict[str, str]]:
    """Stream CSV (or TSV) files as dictionaries of strings.

    Parameters
    ----------
    paths
        One file or many; `.gz` files are unpacked on the way.
    columns
        The columns that are wanted, all when absent. One that a file lacks is an error, and an
        empty file lacks all.
    header
        Names of the columns, for files whose first line is data already.
    delimiter
        `"\\t"` for TSV.
    encoding
        The files' encoding.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile("w", suffix=".csv", delete=False) as f:
    ...     _ = f.write('label,text\\n1,"good, really"\\n0,bad\\n')
    >>> list(read_csv(f.name))
    [{'label': '1', 'text': 'good, really'}, {'label': '0', 'text': 'bad'}]
    """
    names = as_paths(paths, "read_csv")
    if not isinstance(delimiter, str) or len(delimiter) != 1 or delimiter in '"\r\n':
        raise ValueError(
            f"read_csv: delimiter must be one character, no quote or line end, got {delimiter!r}"
        )

    def start() -> Iterator[dict[str, str]]:
        for path in names:
            yield from _csv_rows(path, columns, header, delimiter, encoding)

    return Reader(start)


def _csv_rows(
    path: str,
    columns: Sequence[str] | None,
    header: Sequence[str] | None,
    delimiter: str,
    encoding: str,
) -> Iterator[dict[str, str]]:
    where = f"read_csv: {path}"
    rows = csv.reader(
        (line for _, line in numbered_lines(path, encoding, "read_csv")),
        delimiter=delimiter,
        strict=True,
    )
    names = None if header is None else list(header)
    if names is not None:
        _must_have(names, columns, where)
    while True:
        try:
            row = next(rows)
        except StopIteration:
            if names is None and columns:
                raise DataError(
                    f"{where}: is empty, without a first line that names {', '.join(columns)[:200]}"
                ) from None
            return
        except csv.Error as error:
            hint = "; raise csv.field_size_limit" if "field limit" in str(error) else ""
            raise DataError(f"{where}: line {rows.line_num}: {error}{hint}") from None
        if not row:
            continue
        if names is None:
            names = row
            if len(set(names)) != len(names):
                raise DataError(f"{where}: line {rows.line_num}: a column name occurs twice")
            _must_have(names, columns, where)
            continue
        if len(row) != len(names):
            raise DataError(
                f"{where}: line {rows.line_num}: {len(row)} fields, but {len(names)} columns"
            )
        record = dict(zip(names, row, strict=True))
        yield record if columns is None else {name: record[name] for name in columns}


def _must_have(names: Sequence[str], columns: Sequence[str] | None, where: str) -> None:
    for column in columns or ():
        if column not in names:
            raise DataError(f"{where}: has no column {column!r}, only {', '.join(names)[:200]}")


def read_jsonl(
    paths: Paths, *, fields: Sequence[str] | None = None, encoding: str = "utf-8"
) -> Reader[dict[str, Any]]:
    """Stream JSON Lines files: one JSON object a line.

    Parameters
    ----------
    paths
        One file or many; `.gz` files are unpacked on the way.
    fields
        The fields that are wanted, all when absent. A record that lacks one is an error.
    encoding
        The files' encoding.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile("w", suffix=".jsonl", delete=False) as f:
    ...     _ = f.write('{"text": "a", "label": 1}\\n\\n{"text": "b", "label": 0}\\n')
    >>> list(read_jsonl(f.name, fields=["label"]))
    [{'label': 1}, {'label': 0}]
    """
    names = as_paths(paths, "read_jsonl")

    def start() -> Iterator[dict[str, Any]]:
        for path in names:
            for number, line in numbered_lines(path, encoding, "read_jsonl"):
                if line.strip():
                    yield _json_record(line, fields, f"read_jsonl: {path}: line {number}")

    return Reader(start)


def _json_record(line: str, fields: Sequence[str] | None, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}, column {error.colno}: not JSON: {error.msg}") from None
    except RecursionError:
        raise DataError(f"{where}: nested too deeply") from None
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None
    if not isinstance(record, dict):
        raise DataError(f"{where}: must be a JSON object, got {type(record).__name__}")
    if fields is None:
        return record
    for field in fields:
        if field not in record:
            raise DataError(f"{where}: has no field {field!r}, only {', '.join(record)[:200]}")
    return {field: record[field] for field in fields}
