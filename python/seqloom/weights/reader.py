# SPDX-License-Identifier: Apache-2.0
"""Reading weights: one mapped file, or a sharded set behind its index, as NumPy views."""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from seqloom.files import PathLike, check_regular_file, parse_json, read_json
from seqloom.weights.header import CheckpointError, Header, TensorInfo, read_header

Array = npt.NDArray[Any]

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
TIED_KEY = "seqloom.tied"
SET_KEY = "seqloom.set"


class SafetensorsFile(Mapping[str, Array]):
    """One `.safetensors` file: name -> read-only NumPy view of the mapped file.

    The views keep the mapping alive; there is nothing to close. Pages come from the disk when
    they are first touched, so opening is quick and loading takes no more memory than the file.
    The file must not be shortened by somebody else while views of it are in use; writers that
    replace it (as `save_weights` does) are fine.

    Examples
    --------
    >>> import tempfile
    >>> from seqloom.weights import save_weights
    >>> path = tempfile.mkdtemp() + "/model.safetensors"
    >>> save_weights(path, {"w": np.arange(3, dtype=np.float32)})
    >>> file = SafetensorsFile(path)
    >>> file["w"]
    array([0., 1., 2.], dtype=float32)
    >>> file["w"].flags.writeable
    False
    """

    def __init__(self, path: PathLike, *, what: str = "load_weights") -> None:
        self.path = os.fspath(path)
        self.header: Header = read_header(path, what)
        with open(path, "rb") as handle:
            self._map = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
        if len(self._map) != self.header.file_size:
            raise CheckpointError(f"{what}: {self.path}: the file changed while it was read")
        self._aliases = _read_aliases(self.header, f"{what}: {self.path}")

    @property
    def metadata(self) -> dict[str, str]:
        """The free-form strings of the header."""
        return dict(self.header.metadata)

    @property
    def aliases(self) -> dict[str, str]:
        """Tied names that the file holds once: name -> the name that has the data."""
        return dict(self._aliases)

    def info(self, name: str) -> TensorInfo:
        """Dtype, shape and byte range of one tensor, without touching its data."""
        return self.header.tensors[self._aliases.get(name, name)]

    def __getitem__(self, name: str) -> Array:
        info = self.info(name)
        count = (info.end - info.begin) // info.dtype.itemsize
        if count == 0:
            array = np.empty(info.shape, info.dtype)
        else:
            flat: Array = np.frombuffer(self._map, info.dtype, count, info.begin)
            # Kernels want aligned data; files from elsewhere may have it at any byte.
            array = (flat if flat.flags.aligned else flat.copy()).reshape(info.shape)
        array.flags.writeable = False
        return array

    def release(self, begin: int, end: int) -> None:
        """Give back the memory that holds these bytes of the file; they can be read again.

        Pages of a mapped file count as the process's memory once they are touched. Who copies
        tensors out of it calls this as it goes along, so that it never has both.
        """
        if hasattr(self._map, "madvise") and end > begin:
            first = begin - begin % mmap.PAGESIZE
            self._map.madvise(mmap.MADV_DONTNEED, first, end - first)

    def __iter__(self) -> Iterator[str]:
        yield from self.header.tensors
        yield from self._aliases

    def __len__(self) -> int:
        return len(self.header.tensors) + len(self._aliases)

    def __repr__(self) -> str:
        return f"SafetensorsFile({self.path!r}, {len(self)} tensors)"


def _read_aliases(header: Header, where: str) -> dict[str, str]:
    text = header.metadata.get(TIED_KEY)
    if text is None:
        return {}
    try:
        pairs = parse_json(text.encode("utf-8", "replace"), where)
    except ValueError as error:
        raise CheckpointError(str(error)) from None
    if not isinstance(pairs, dict) or not all(
        isinstance(kept, str) and kept in header.tensors and name not in header.tensors
        for name, kept in pairs.items()
    ):
        raise CheckpointError(f"{where}: {TIED_KEY} must map absent names to tensors of this file")
    return pairs


class Weights(Mapping[str, Array]):
    """All tensors of a checkpoint, in one file or many: name -> read-only NumPy view.

    `files` maps each name to its opened file; `metadata` are the strings of the first file.

    Examples
    --------
    >>> import tempfile
    >>> from seqloom.weights import save_weights
    >>> directory = tempfile.mkdtemp()
    >>> save_weights(directory, {"a": np.ones(4), "b": np.zeros(4)}, max_shard_size=32)
    >>> weights = open_weights(directory)
    >>> sorted(weights), weights.nbytes
    (['a', 'b'], 64)
    """

    def __init__(self, files: Mapping[str, SafetensorsFile]) -> None:
        self.files = dict(files)

    @property
    def metadata(self) -> dict[str, str]:
        """The free-form strings of the (first) file."""
        for file in self.files.values():
            return file.metadata
        return {}

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors; tied ones count once."""
        infos = {(f.path, f.info(name)) for name, f in self.files.items()}
        return sum(info.end - info.begin for _, info in infos)

    def info(self, name: str) -> TensorInfo:
        """Dtype, shape and byte range of one tensor, without touching its data."""
        return self.files[name].info(name)

    def __getitem__(self, name: str) -> Array:
        return self.files[name][name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)


def _shard_name_problem(name: object) -> str | None:
    """Why a shard's name is refused: only plain names beside the index are followed."""
    if not isinstance(name, str) or not name:
        return "is not a file name"
    if any(c in name for c in "/\\:\0") or name.startswith(".") or Path(name).name != name:
        return "points outside the directory"
    if not name.endswith(".safetensors"):
        return "is not a .safetensors file"
    return None


def _open_index(path: Path, what: str) -> Weights:
    where = f"{what}: {path}"
    try:
        index = read_json(path, what)
    except FileNotFoundError:
        raise
    except ValueError as error:
        raise CheckpointError(str(error)) from None
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{where}: must hold an object weight_map: name -> file")
    opened: dict[str, SafetensorsFile] = {}
    for name, shard in weight_map.items():
        problem = _shard_name_problem(shard)
        if problem is not None:
            raise CheckpointError(f"{where}: the shard {str(shard)[:80]!r} {problem}")
        if shard not in opened:
            if not (path.parent / shard).exists():
                raise CheckpointError(f"{where}: the shard {shard!r} is missing")
            opened[shard] = SafetensorsFile(path.parent / shard, what=what)
        if name not in opened[shard]:
            raise CheckpointError(f"{where}: {name[:80]!r} is not in its shard {shard!r}")
    if len({file.header.metadata.get(SET_KEY) for file in opened.values()}) > 1:
        raise CheckpointError(f"{where}: the shards come from different saves")
    return Weights({name: opened[shard] for name, shard in weight_map.items()})


def _find(directory: Path, what: str) -> Path:
    for name in (SINGLE, INDEX):
        if (directory / name).exists():
            return directory / name
    found = sorted(directory.glob("*.safetensors"))
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(p.name for p in found[:4])
        raise FileNotFoundError(
            f"{what}: {directory} holds {len(found)} .safetensors files ({names}, ...) but "
            f"neither {SINGLE} nor {INDEX}"
        )
    pickles = sorted(p.name for ext in ("*.bin", "*.pt", "*.pth") for p in directory.glob(ext))
    if pickles:
        raise FileNotFoundError(
            f"{what}: {directory} has no .safetensors weights, only {pickles[0]}; pickled weights "
            "can run code and aren't read: convert them with safetensors.torch.save_file"
        )
    raise FileNotFoundError(f"{what}: {directory} holds no .safetensors weights")


def open_weights(path: PathLike, *, what: str = "load_weights") -> Weights:
    """Open a checkpoint without reading its data.

    Parameters
    ----------
    path
        A `.safetensors` file, a `.safetensors.index.json` file, or a model directory with one
        of the two.
    what
        The name that errors begin with.

    Returns
    -------
    Weights
        A mapping of names to read-only NumPy views of the mapped files. bfloat16 arrives as
        `ml_dtypes.bfloat16`. Names that were saved as tied share one view.

    Raises
    ------
    CheckpointError
        (a `ValueError`) when a file contradicts itself: lying offsets, sizes, dtypes,
        overlaps, shard paths that leave the directory, and so on. The message names the file.

    Examples
    --------
    >>> import tempfile
    >>> from seqloom.weights import save_weights
    >>> directory = tempfile.mkdtemp()
    >>> save_weights(directory, {"w": np.ones((2, 2), np.float16)})
    >>> open_weights(directory)["w"].dtype
    dtype('float16')
    """
    target = Path(path)
    try:
        is_directory = target.is_dir()
    except ValueError as error:
        raise ValueError(f"{what}: {os.fspath(path)!r} is not a usable path ({error})") from None
    if is_directory:
        target = _find(target, what)
    if target.name.endswith(".json"):
        return _open_index(target, what)
    if target.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl"):
        check_regular_file(target, what)
        raise CheckpointError(
            f"{what}: {target} looks like pickled weights, which can run code and aren't read: "
            "convert them with safetensors.torch.save_file"
        )
    file = SafetensorsFile(target, what=what)
    return Weights(dict.fromkeys(file, file))


def load_weights(path: PathLike, *, what: str = "load_weights") -> dict[str, Array]:
    """Read a checkpoint as a dictionary: name -> read-only NumPy view of the mapped file.

    Takes and refuses what `open_weights` does.

    Examples
    --------
    >>> import tempfile
    >>> from seqloom.weights import save_weights
    >>> path = tempfile.mkdtemp() + "/model.safetensors"
    >>> save_weights(path, {"w": np.arange(2, dtype=np.int64)})
    >>> load_weights(path)
    {'w': array([0, 1])}
    """
    return dict(open_weights(path, what=what))


def encode_aliases(aliases: Mapping[str, str]) -> str:
    """The metadata string that `SafetensorsFile.aliases` is read from.

    Examples
    --------
    >>> encode_aliases({"head": "embedding"})
    '{"head": "embedding"}'
    """
    return json.dumps(dict(aliases), sort_keys=True)
