# SPDX-License-Identifier: Apache-2.0
"""Files that are written whole or not at all, and JSON that is read with suspicion.

A leaf of the package: it knows no tensor and no model. Everything that a model directory
holds (weights, configuration, vocabulary) goes through here.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, TypeAlias

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

PathLike: TypeAlias = str | os.PathLike[str]

#: A configuration, index or vocabulary file above this is refused unread.
MAX_JSON_BYTES = 256 << 20


def _sync_directory(directory: Path) -> None:
    """Make a rename durable; a file system that can't do it is left as it is."""
    with contextlib.suppress(OSError):
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def only_one(directory: PathLike, what: str) -> Iterator[None]:
    """Make a directory, and refuse to be a second process at work in it.

    The system forgets the mark with the process, however that ends, and no file is left. Where
    the system or the file system has no such marks, nothing is refused.

    Examples
    --------
    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> with only_one(folder, "Trainer"):
    ...     with only_one(folder, "Trainer"):  # doctest: +ELLIPSIS
    ...         pass
    Traceback (most recent call last):
        ...
    BlockingIOError: [Errno 11] Trainer: another process is at work in ...
    """
    Path(directory).mkdir(parents=True, exist_ok=True)
    handle = None
    try:
        if fcntl is not None:
            with contextlib.suppress(OSError):
                handle = os.open(directory, os.O_RDONLY)
        if handle is not None:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise BlockingIOError(
                    error.errno, f"{what}: another process is at work in {os.fspath(directory)}"
                ) from None
            except OSError:
                pass  # a file system without locks
        yield
    finally:
        if handle is not None:
            os.close(handle)


@contextlib.contextmanager
def atomic_write(path: PathLike) -> Iterator[IO[bytes]]:
    """Open `path` for binary writing such that it changes whole or not at all.

    The bytes go to a temporary file beside `path`, are forced to the disk, and take the name
    in one step. When anything goes wrong before that (an exception, a full disk, a kill) the
    file that was there stays as it was.

    Examples
    --------
    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "note.txt"
    >>> with atomic_write(target) as handle:
    ...     _ = handle.write(b"first")
    >>> try:
    ...     with atomic_write(target) as handle:
    ...         _ = handle.write(b"second")
    ...         raise KeyboardInterrupt
    ... except KeyboardInterrupt:
    ...     target.read_bytes()
    b'first'
    """
    target = Path(path)
    if target.is_dir():
        raise IsADirectoryError(f"atomic_write: {target} is a directory")
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")
    try:
        with open(temporary, "xb") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and error.errno is not None:
            kept = "; the file that was there is untouched" if target.exists() else ""
            raise OSError(
                error.errno, f"cannot write {target}: {os.strerror(error.errno)}{kept}"
            ) from error
        raise
    _sync_directory(target.parent)


@contextlib.contextmanager
def atomic_directory(path: PathLike) -> Iterator[Path]:
    """Fill a directory that takes its name only when it is complete.

    Yields a temporary directory beside `path`. On success its files are forced to the disk and
    it takes the name `path`; a directory that had the name goes away after that. On an error
    the temporary directory is removed and `path` stays as it was.

    Examples
    --------
    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "step-100"
    >>> with atomic_directory(target) as directory:
    ...     _ = (directory / "state.bin").write_bytes(b"state")
    >>> sorted(p.name for p in target.iterdir())
    ['state.bin']
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    token = secrets.token_hex(6)
    temporary = target.with_name(f".{target.name}.{token}.tmp")
    temporary.mkdir()
    try:
        yield temporary
        for folder, _, names in os.walk(temporary):
            for name in names:
                handle = os.open(os.path.join(folder, name), os.O_RDONLY)
                try:
                    os.fsync(handle)
                finally:
                    os.close(handle)
            _sync_directory(Path(folder))
        old = target.with_name(f".{target.name}.{token}.old")
        if target.exists():
            os.replace(target, old)
        try:
            os.replace(temporary, target)
        except BaseException:
            if old.exists():
                os.replace(old, target)
            raise
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _sync_directory(target.parent)


def check_regular_file(path: PathLike, what: str) -> int:
    """Return the size of a regular file; a pipe, a device or a directory is refused.

    Examples
    --------
    >>> check_regular_file(os.devnull, "load")
    Traceback (most recent call last):
        ...
    ValueError: load: /dev/null is not a regular file
    """
    try:
        status = os.stat(path)
    except (ValueError, TypeError) as error:  # an embedded NUL, say
        raise ValueError(f"{what}: {os.fspath(path)!r} is not a usable path ({error})") from error
    except FileNotFoundError:
        raise FileNotFoundError(f"{what}: {os.fspath(path)} does not exist") from None
    except OSError as error:  # links that lead in a circle, a file where a folder should be
        raise type(error)(f"{what}: {os.fspath(path)}: {error.strerror}") from None
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{what}: {os.fspath(path)} is not a regular file")
    return status.st_size


def _unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the key {key[:80]!r} occurs twice")
        result[key] = value
    return result


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def parse_json(data: bytes, source: str) -> Any:
    """Parse UTF-8 JSON; a key that occurs twice, NaN or absurd nesting is a `ValueError`.

    Examples
    --------
    >>> parse_json(b'{"a": [1, 2]}', "load: x.json")
    {'a': [1, 2]}
    >>> parse_json(b'{"a": 1, "a": 2}', "load: x.json")
    Traceback (most recent call last):
        ...
    ValueError: load: x.json: not valid JSON: the key 'a' occurs twice
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{source}: not valid UTF-8 at byte {error.start}") from None
    try:
        return json.loads(text, object_pairs_hook=_unique_pairs, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError(f"{source}: not valid JSON: nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{source}: not valid JSON: {error}") from None


def read_json(path: PathLike, what: str = "read_json") -> Any:
    """Read one JSON file; every error names the file.

    Examples
    --------
    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "config.json"
    >>> write_json(target, {"model_type": "gpt2"})
    >>> read_json(target)
    {'model_type': 'gpt2'}
    """
    size = check_regular_file(path, what)
    if size > MAX_JSON_BYTES:
        raise ValueError(
            f"{what}: {os.fspath(path)} has {size} bytes, more than the {MAX_JSON_BYTES} "
            "that a JSON file here may have"
        )
    with open(path, "rb") as handle:
        return parse_json(handle.read(MAX_JSON_BYTES + 1), f"{what}: {os.fspath(path)}")


def write_json(path: PathLike, value: Any, *, indent: int | None = 2) -> None:
    """Write one JSON file atomically.

    Examples
    --------
    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "x.json"
    >>> write_json(target, [1, "\u00e9"], indent=None)
    >>> target.read_text(encoding="utf-8")
    '[1, "\u00e9"]\\n'
    """
    try:
        data = json.dumps(value, indent=indent, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:  # a lone surrogate travels as an escape
        data = json.dumps(value, indent=indent).encode("ascii")
    with atomic_write(path) as handle:
        handle.write(data + b"\n")
