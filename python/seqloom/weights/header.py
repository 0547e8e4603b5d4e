# SPDX-License-Identifier: Apache-2.0
"""The header of a `.safetensors` file, read with suspicion.

The format is eight bytes (the header's length N, little-endian), N bytes of JSON that map each
name to its dtype, shape and byte range, and the data. Every statement of the header is checked
against the others and against the size of the file before a single number is looked at.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from seqloom.files import PathLike, check_regular_file, parse_json

#: Reference implementations refuse longer headers, too.
MAX_HEADER_BYTES = 100_000_000

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype("<u1"),
    "I8": np.dtype("<i1"),
    "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"),
    "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"),
    "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "C64": np.dtype("<c8"),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
}
NAMES: dict[np.dtype[Any], str] = {dtype: name for name, dtype in DTYPES.items()}


class CheckpointError(ValueError):
    """A weights file that can't be trusted; the message names the file and the reason."""


@dataclass(frozen=True)
class TensorInfo:
    """One tensor's entry: dtype, shape, and its byte range in the file."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Header:
    """What a file says about itself, after all checks."""

    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]
    file_size: int


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def _entry(name: str, entry: object, data_start: int, data_size: int, where: str) -> TensorInfo:
    label = repr(name[:80])
    if not isinstance(entry, dict):
        raise CheckpointError(f"{where}: the entry of {label} is not a JSON object")
    if set(entry) != {"dtype", "shape", "data_offsets"}:
        keys = ", ".join(sorted(str(key)[:40] for key in entry)[:6])
        raise CheckpointError(
            f"{where}: the entry of {label} must have dtype, shape and data_offsets, got [{keys}]"
        )
    dtype_name, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    dtype = DTYPES.get(dtype_name) if isinstance(dtype_name, str) else None
    if dtype is None:
        raise CheckpointError(f"{where}: {label} has the unknown dtype {str(dtype_name)[:40]!r}")
    if not isinstance(shape, list) or not all(map(_is_count, shape)):
        raise CheckpointError(f"{where}: {label} has the impossible shape {str(shape)[:80]}")
    if len(shape) > 64:
        raise CheckpointError(f"{where}: {label} has {len(shape)} dimensions, more than 64")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_count, offsets)):
        raise CheckpointError(f"{where}: {label} has the impossible offsets {str(offsets)[:80]}")
    begin, end = offsets
    if begin > end or end > data_size:
        raise CheckpointError(
            f"{where}: {label} claims the bytes {begin} to {end} of {data_size} that the file has"
        )
    size = dtype.itemsize
    for dimension in shape:
        size *= dimension
    if size != end - begin:
        raise CheckpointError(
            f"{where}: {label} of {dtype_name} {shape} takes {size} bytes, "
            f"but its offsets span {end - begin}"
        )
    return TensorInfo(dtype, tuple(shape), data_start + begin, data_start + end)


def _check_layout(tensors: dict[str, TensorInfo], start: int, size: int, where: str) -> None:
    """The ranges must tile the data: an overlap or a gap hides something."""
    position, before = start, ""
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if info.begin < position:
            raise CheckpointError(f"{where}: {name[:80]!r} overlaps {before[:80]!r}")
        if info.begin > position:
            raise CheckpointError(
                f"{where}: {info.begin - position} bytes before {name[:80]!r} belong to no tensor"
            )
        position, before = info.end, name
    if position != start + size:
        raise CheckpointError(
            f"{where}: the last {start + size - position} bytes belong to no tensor"
        )


def read_header(path: PathLike, what: str = "load_weights") -> Header:
    """Read and check the header of one `.safetensors` file.

    Raises
    ------
    CheckpointError
        When the file contradicts itself or its size in any way.

    Examples
    --------
    >>> import tempfile
    >>> from seqloom.weights import save_weights
    >>> path = tempfile.mkdtemp() + "/model.safetensors"
    >>> save_weights(path, {"w": np.zeros((2, 3), np.float32)})
    >>> read_header(path).tensors["w"].shape
    (2, 3)
    """
    try:
        file_size = check_regular_file(path, what)
    except ValueError as error:
        raise CheckpointError(str(error)) from None
    where = f"{what}: {os.fspath(path)}"
    if file_size < 8:
        raise CheckpointError(f"{where}: {file_size} bytes are too short for a safetensors file")
    with open(path, "rb") as handle:
        (length,) = struct.unpack("<Q", handle.read(8))
        if length > MAX_HEADER_BYTES:
            raise CheckpointError(
                f"{where}: not a safetensors file: a header of {length} bytes is announced, "
                f"at most {MAX_HEADER_BYTES} are allowed"
            )
        if length > file_size - 8:
            raise CheckpointError(
                f"{where}: truncated or not a safetensors file: a header of {length} bytes is "
                f"announced, {file_size - 8} bytes follow"
            )
        text = handle.read(length)
    if len(text) != length or not text.startswith(b"{"):
        raise CheckpointError(f"{where}: not a safetensors file: the header is no JSON object")
    try:
        raw = parse_json(text, f"{where}: header")
    except ValueError as error:
        raise CheckpointError(str(error)) from None
    metadata = raw.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise CheckpointError(f"{where}: __metadata__ must map strings to strings")
    start, size = 8 + length, file_size - 8 - length
    tensors = {name: _entry(name, entry, start, size, where) for name, entry in raw.items()}
    _check_layout(tensors, start, size, where)
    return Header(tensors, metadata, file_size)
