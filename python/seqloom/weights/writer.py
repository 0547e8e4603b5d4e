# SPDX-License-Identifier: Apache-2.0
"""Writing weights: one `.safetensors` file or a sharded set, atomically."""

from __future__ import annotations

import json
import os
import re
import secrets
import struct
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from seqloom.files import PathLike, atomic_write, write_json
from seqloom.weights.header import MAX_HEADER_BYTES, NAMES
from seqloom.weights.reader import INDEX, SET_KEY, SINGLE, TIED_KEY, encode_aliases

Array = npt.NDArray[Any]

_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
_CHUNK = 16 << 20
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 1 << 10, "MIB": 1 << 20,
          "GIB": 1 << 30}  # fmt: skip


def _as_array(name: object, value: Any) -> Array:
    if not isinstance(name, str):
        raise TypeError(f"save_weights: names must be strings, got {type(name).__name__}")
    if name == "__metadata__":
        raise ValueError("save_weights: the name '__metadata__' is reserved by the file format")
    array: Array = value if isinstance(value, np.ndarray) else np.asarray(value)
    dtype = array.dtype.newbyteorder("<") if array.dtype.kind in "iufc" else array.dtype
    if dtype not in NAMES:
        raise TypeError(
            f"save_weights: {name!r} has the dtype {array.dtype}, which a safetensors file "
            f"can't hold; it holds {', '.join(sorted(str(d) for d in NAMES))}"
        )
    return array


def _identity(array: Array) -> tuple[Any, ...]:
    return (array.__array_interface__["data"][0], array.shape, array.strides, array.dtype.str,
            array.dtype.name)  # fmt: skip


def _drop_tied(
    arrays: dict[str, Array], tied: Mapping[str, str]
) -> tuple[dict[str, Array], dict[str, str]]:
    """Split into the arrays to be written and name -> kept name for those that share memory."""
    for name, kept in tied.items():
        if kept not in arrays or kept in tied:
            raise ValueError(
                "save_weights: tied must map names to names that are saved, "
                f"got {name!r} -> {kept!r}"
            )
        if name in arrays and arrays[name].shape != arrays[kept].shape:
            raise ValueError(
                f"save_weights: {name!r} {list(arrays[name].shape)} can't be tied to "
                f"{kept!r} {list(arrays[kept].shape)}"
            )
    kept_arrays: dict[str, Array] = {}
    aliases = dict(tied)
    seen: dict[tuple[Any, ...], str] = {}
    for name, array in arrays.items():
        if name in tied:
            continue
        first = seen.setdefault(_identity(array), name) if array.size else name
        if first != name:
            aliases[name] = first
        else:
            kept_arrays[name] = array
    return kept_arrays, aliases


def _write_file(handle: IO[bytes], arrays: Mapping[str, Array], metadata: dict[str, str]) -> None:
    # Wide dtypes first keeps every tensor aligned; names second makes equal content equal bytes.
    order = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    position = 0
    for name in order:
        array = arrays[name]
        little = array.dtype.newbyteorder("<") if array.dtype.kind in "iufc" else array.dtype
        header[name] = {
            "dtype": NAMES[little],
            "shape": list(array.shape),
            "data_offsets": [position, position + array.nbytes],
        }
        position += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    text += b" " * (-(8 + len(text)) % 64)  # the data begins on a cache line
    if len(text) > MAX_HEADER_BYTES:
        raise ValueError(f"save_weights: the names need a header of {len(text)} bytes, too long")
    handle.write(struct.pack("<Q", len(text)))
    handle.write(text)
    for name in order:
        array = arrays[name]
        if array.dtype.byteorder == ">":
            array = array.astype(array.dtype.newbyteorder("<"))
        # One contiguous tensor at a time; uint8 because bfloat16 has no buffer interface.
        raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        for start in range(0, len(raw), _CHUNK):
            handle.write(raw[start : start + _CHUNK])


def parse_size(size: int | str, what: str = "save_weights: max_shard_size") -> int:
    """Bytes from a number or from text as `"500MB"` and `"2GiB"`.

    Examples
    --------
    >>> parse_size("5GB"), parse_size("1 KiB"), parse_size(77)
    (5000000000, 1024, 77)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(size))
    if isinstance(size, bool) or not match or match[2].upper() not in _UNITS:
        raise ValueError(f"{what} must be bytes or text as '5GB', got {size!r}")
    value = int(float(match[1]) * _UNITS[match[2].upper()])
    if value <= 0:
        raise ValueError(f"{what} must be positive, got {size!r}")
    return value


def _partition(arrays: Mapping[str, Array], limit: int) -> list[dict[str, Array]]:
    shards: list[dict[str, Array]] = [{}]
    used = 0
    for name, array in arrays.items():
        if shards[-1] and used + array.nbytes > limit:
            shards.append({})
            used = 0
        shards[-1][name] = array
        used += array.nbytes
    return shards


def _save_shards(
    directory: Path, shards: list[dict[str, Array]], metadata: dict[str, str],
    aliases: dict[str, str],
) -> set[str]:  # fmt: skip
    """Write every shard in full, only then rename them all, and the index last."""
    metadata = {**metadata, SET_KEY: secrets.token_hex(8)}
    weight_map: dict[str, str] = {}
    with ExitStack() as stack:
        for number, shard in enumerate(shards, 1):
            name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            here = {alias: kept for alias, kept in aliases.items() if kept in shard}
            extra = {TIED_KEY: encode_aliases(here)} if here else {}
            handle = stack.enter_context(atomic_write(directory / name))
            _write_file(handle, shard, {**metadata, **extra})
            # On the disk before the first rename: a full disk must fail here.
            handle.flush()
            os.fsync(handle.fileno())
            weight_map.update(dict.fromkeys([*shard, *here], name))
    total = sum(array.nbytes for shard in shards for array in shard.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    write_json(directory / INDEX, index)
    return set(weight_map.values())


def save_weights(
    path: PathLike,
    tensors: Mapping[str, Any],
    *,
    metadata: Mapping[str, str] | None = None,
    tied: Mapping[str, str] | None = None,
    max_shard_size: int | str | None = None,
) -> None:
    """Write tensors as `.safetensors`, atomically.

    Parameters
    ----------
    path
        A file, or a directory, which gets `model.safetensors` (or shards and their index).
        A path that doesn't exist is a directory unless it ends in `.safetensors`.
    tensors
        name -> array: NumPy, or anything that `numpy.asarray` takes.
    metadata
        Strings for the header; `{"format": "pt"}` is always there, as `transformers` asks.
    tied
        name -> name of the tensor that has its data; such names aren't written a second time.
        Arrays that are the very same memory are found without being told; the first name stays.
        Reading gives all the names back.
    max_shard_size
        Bytes, or text as `"5GB"`: the directory gets shards of at most that size (a larger
        tensor has a shard of its own).

    Raises
    ------
    OSError
        On a full disk, say. The checkpoint that was there is untouched then.

    Examples
    --------
    >>> import tempfile
    >>> from seqloom.weights import load_weights
    >>> embedding = np.ones((4, 2), np.float32)
    >>> path = tempfile.mkdtemp() + "/model.safetensors"
    >>> save_weights(path, {"embedding": embedding, "head": embedding})
    >>> sorted(load_weights(path)), os.path.getsize(path) < 250
    (['embedding', 'head'], True)
    """
    target = Path(path)
    arrays = {name: _as_array(name, value) for name, value in tensors.items()}
    kept, aliases = _drop_tied(arrays, tied or {})
    strings = {"format": "pt", **(metadata or {})}
    if not all(isinstance(k, str) and isinstance(v, str) for k, v in strings.items()):
        raise TypeError("save_weights: metadata must map strings to strings")
    if target.suffix == ".safetensors" and not target.is_dir():
        if max_shard_size is not None:
            raise ValueError("save_weights: max_shard_size needs path to be a directory")
        directory, single = target.parent, target.name
    else:
        directory, single = target, SINGLE
        directory.mkdir(parents=True, exist_ok=True)
    shards = [kept]
    if max_shard_size is not None:
        shards = _partition(kept, parse_size(max_shard_size))
    if len(shards) > 1:
        current = _save_shards(directory, shards, strings, aliases)
        # Readers prefer the single file: one from an earlier save would hide this one.
        (directory / SINGLE).unlink(missing_ok=True)
    else:
        if aliases:
            strings[TIED_KEY] = encode_aliases(aliases)
        with atomic_write(directory / single) as handle:
            _write_file(handle, kept, strings)
        current = {single}
        if directory == target:
            (directory / INDEX).unlink(missing_ok=True)
    if directory == target:
        for old in directory.glob("model-*-of-*.safetensors"):
            if old.name not in current and _SHARD.fullmatch(old.name):
                old.unlink(missing_ok=True)
