# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a training: directories that are there whole or not at all.

`step-00000100/` holds the model as `save_pretrained` writes it, the optimizer's arrays
(`training.safetensors`) and everything else (`training.json`, with size and checksum of every
file and its own checksum). A directory takes its name in one step when it is complete, and one that
is no longer needed loses its name before it is deleted: whatever has the name is good.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import random
import re
import secrets
import shutil
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..creation import get_random_state
from ..creation import set_random_state as set_own_state
from ..files import atomic_directory, read_json, write_json
from ..nn import Module
from ..optim import Optimizer
from ..tensor import Tensor
from ..weights import CheckpointError, load_weights, save_weights

STATE, ARRAYS = "training.json", "training.safetensors"
FORMAT, VERSION = "seqloom-training", 1
_NAME = re.compile(r"step-(\d{8,})")
_LEFTOVER = re.compile(r"\.step-\d{8,}\.[0-9a-f]{12}\.(tmp|old)")
_CHUNK = 8 << 20


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return folder / f"step-{step:08d}"


def checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """(step, path) of the checkpoints of a directory, the newest last.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> checkpoint_path(folder, 20).mkdir()
    >>> [(step, path.name) for step, path in checkpoints(folder)]
    [(20, 'step-00000020')]
    """
    if not folder.is_dir():
        return []
    found = [(_NAME.fullmatch(p.name), p) for p in folder.iterdir() if p.is_dir()]
    return sorted((int(match[1]), path) for match, path in found if match)


def remove(path: Path) -> None:
    """Delete a checkpoint; a kill on the way leaves nothing that looks like one."""
    hidden = path.with_name(f".{path.name}.{secrets.token_hex(6)}.old")
    with contextlib.suppress(OSError):
        os.replace(path, hidden)
        shutil.rmtree(hidden, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Delete what killed trainings left half done."""
    if folder.is_dir():
        for path in folder.iterdir():
            if _LEFTOVER.fullmatch(path.name):
                shutil.rmtree(path, ignore_errors=True)


def _checksum(path: Path) -> list[int]:
    total, size = 0, 0
    with open(path, "rb") as handle:
        while block := handle.read(_CHUNK):
            total, size = zlib.crc32(block, total), size + len(block)
    return [size, total]


def _checksum_of_state(state: Mapping[str, Any]) -> int:
    """Of everything in `training.json` but this number itself."""
    rest = {name: value for name, value in state.items() if name != "checksum"}
    return zlib.crc32(json.dumps(rest, sort_keys=True).encode())


# ---- random numbers and the optimizer ------------------------------------------------------------


def random_state() -> dict[str, Any]:
    """The random streams of seqloom, Python and NumPy as JSON data."""
    legacy: Any = np.random.get_state(legacy=False)
    inner = {name: np.asarray(value).tolist() for name, value in legacy["state"].items()}
    return {
        "seqloom": list(get_random_state()),
        "python": list(random.getstate()),
        "numpy": {**legacy, "state": inner},
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Go on where `random_state` was called."""
    seed, offset = state["seqloom"]
    set_own_state((seed, offset))
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    legacy = dict(state["numpy"])
    inner = dict(legacy["state"])
    inner["key"] = np.asarray(inner["key"], np.uint32)
    np.random.set_state({**legacy, "state": inner})


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def _pack(optimizer: Optimizer) -> tuple[dict[str, Any], dict[str, Any]]:
    """The optimizer's state as JSON data and arrays."""
    state = optimizer.state_dict()
    arrays: dict[str, Any] = {}
    numbers: dict[str, dict[str, Any]] = {}
    for number, entries in state["state"].items():
        plain = numbers[str(number)] = {}
        for name, value in entries.items():
            if isinstance(value, Tensor):
                arrays[f"{number}.{name}"] = value.detach().cpu().numpy()
            else:
                plain[name] = value
    return {"groups": state["param_groups"], "numbers": numbers}, arrays


def _unpack(optimizer: Optimizer, packed: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
    state: dict[int, dict[str, Any]] = {int(n): dict(v) for n, v in packed["numbers"].items()}
    for key, value in arrays.items():
        number, _, name = key.partition(".")
        state[int(number)][name] = value
    groups = [
        {name: value if name == "params" else _tuples(value) for name, value in group.items()}
        for group in packed["groups"]
    ]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def plain(value: Any) -> Any:
    """What JSON takes in place of a number of NumPy's, for `json.dumps(default=plain)`.

    Examples
    --------
    >>> json.dumps({"clip_norm": np.float32(0.5)}, default=plain)
    '{"clip_norm": 0.5}'
    """
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"checkpoint: {type(value).__name__} is no JSON data")


# ---- writing and reading -------------------------------------------------------------------------


def save_model(model: Module, folder: Path, extras: Sequence[Any] = ()) -> None:
    """A model and what belongs to it (a tokenizer, say) into a directory."""
    if hasattr(model, "save_pretrained"):
        model.save_pretrained(folder)
    else:
        save_weights(folder, {n: t.cpu().numpy() for n, t in model.state_dict().items()})
    for extra in extras:
        extra.save_pretrained(folder)


def load_model(model: Module, folder: Path) -> None:
    """The weights of a checkpoint into a model that is there."""
    if hasattr(model, "save_pretrained"):
        models: Any = importlib.import_module("seqloom.models")
        held = models.from_pretrained(folder)
        if type(held) is not type(model):
            raise CheckpointError(
                f"{folder}: holds a {type(held).__name__}, not a {type(model).__name__}"
            )
        model.load_state_dict(held.state_dict())
    else:
        model.load_state_dict(load_weights(folder))


def save_checkpoint(
    path: Path,
    model: Module,
    optimizer: Optimizer,
    state: Mapping[str, Any],
    extras: Sequence[Any] = (),
) -> None:
    """Write a checkpoint; it is there when it is complete, and not before.

    Raises
    ------
    OSError
        On a full disk, say. Checkpoints that were there are untouched.
    """
    packed, arrays = _pack(optimizer)
    with atomic_directory(path) as folder:
        save_model(model, folder, extras)
        save_weights(folder / ARRAYS, arrays)
        files = {p.name: _checksum(p) for p in sorted(folder.iterdir()) if p.is_file()}
        whole = {"format": FORMAT, "version": VERSION, **state, "optimizer": packed, "files": files}
        whole = json.loads(json.dumps(whole, default=plain))
        whole["checksum"] = _checksum_of_state(whole)
        write_json(folder / STATE, whole, indent=None)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The state of a checkpoint whose files are all as they were written."""
    what = "resume"
    if not path.is_dir():
        raise CheckpointError(f"{what}: {path} is not a directory")
    if not (path / STATE).is_file():
        raise CheckpointError(f"{what}: {path} is not a checkpoint of a training: lacks {STATE}")
    try:
        state = read_json(path / STATE, what)
    except ValueError as error:
        raise CheckpointError(str(error)) from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"{what}: {path / STATE} is not the state of a seqloom training")
    if state.get("version") != VERSION:
        raise CheckpointError(
            f"{what}: {path / STATE} has version {state.get('version')!r}; this release reads "
            f"version {VERSION}"
        )
    if state.get("checksum") != _checksum_of_state(state):
        raise CheckpointError(f"{what}: {path / STATE} is corrupt: its checksum differs")
    files = state.get("files")
    if not isinstance(files, dict) or ARRAYS not in files:
        raise CheckpointError(f"{what}: {path / STATE} lacks the list of files")
    for name, (size, checksum) in files.items():
        target = path / name
        if not target.is_file():
            raise CheckpointError(f"{what}: {target} is missing")
        found = _checksum(target)
        if found[0] != size:
            raise CheckpointError(
                f"{what}: {target} has {found[0]} bytes, {size} were written: it is truncated or "
                "was changed"
            )
        if found[1] != checksum:
            raise CheckpointError(f"{what}: {target} is corrupt: its checksum differs")
    return state


def restore(path: Path, state: Mapping[str, Any], model: Module, optimizer: Optimizer) -> None:
    """Model and optimizer as they were when the checkpoint was written."""
    load_model(model, path)
    _unpack(optimizer, state["optimizer"], load_weights(path / ARRAYS))
