# SPDX-License-Identifier: Apache-2.0
"""from_pretrained: a directory to a model, with nothing in it trusted and nothing executed."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import numpy as np

from ..creation import empty
from ..dtypes import DType, as_dtype
from ..files import PathLike, read_json
from ..nn import init, state
from ..tensor import Tensor, from_numpy
from ..weights import CheckpointError, Weights, load_config, open_weights
from .base import CheckpointRules, Model
from .config import Config
from .registry import FAMILIES, Family

_OP = "from_pretrained"
_SHOWN = 8


def from_pretrained(
    directory: PathLike, *, device: Any = None, dtype: Any = None, quantize: str | None = None
) -> Any:
    """Load a model directory in the layout of Hugging Face.

    Parameters
    ----------
    directory : path
        Holds `config.json` and `model.safetensors`, or shards with their index.
    device : str, optional
        "cpu" by default.
    dtype : dtype, optional
        float32, float16 or bfloat16; by default that of the checkpoint.
    quantize : "int8" or "int4", optional
        Weight-only, for inference.

    Returns
    -------
    Model
        In evaluation mode; the class follows `model_type` and `architectures`.

    Raises
    ------
    CheckpointError
        (a ValueError) naming the file and the field or tensor that can't be used.

    Examples
    --------
    >>> import tempfile, seqloom as sl
    >>> sl.models.from_pretrained(tempfile.mkdtemp())  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    FileNotFoundError: from_pretrained: ... holds no config.json; a model directory has one
    """
    wanted = None if dtype is None else _floating(dtype)
    if quantize not in (None, "int8", "int4"):
        raise ValueError(f"{_OP}: quantize must be 'int8', 'int4' or None, got {quantize!r}")
    folder = Path(directory)
    where, values = _read_config(folder)
    family, cls = _choose(where, values)
    config = _make_config(where, family, values)
    weights = open_weights(folder, what=_OP)
    with init.shapes_only():
        model: Model = cls(config)
    _fill(model, weights, cls.checkpoint_rules(), wanted, device, str(folder))
    extra = folder / "generation_config.json"
    if extra.exists():
        model.generation_config = _generation_config(extra)
    model.eval()
    if quantize is not None:
        quantization = importlib.import_module(f"{__package__}.quantize")
        quantization.quantize_model(model, quantize)
    return model


def _floating(dtype: Any) -> DType:
    wanted = as_dtype(dtype)
    if not wanted.is_floating_point:
        raise TypeError(f"{_OP}: dtype must be floating, got {wanted.name}")
    return wanted


# ---- what it is ----------------------------------------------------------------------------------


def _read_config(folder: Path) -> tuple[str, dict[str, Any]]:
    if not folder.exists():
        raise FileNotFoundError(f"{_OP}: {folder} does not exist")
    if not folder.is_dir():
        raise NotADirectoryError(f"{_OP}: {folder} is a file; give the directory that holds it")
    path = folder / "config.json"
    if not path.exists():
        raise FileNotFoundError(f"{_OP}: {folder} holds no config.json; a model directory has one")
    try:
        return f"{_OP}: {path}", load_config(path)
    except ValueError as error:
        raise CheckpointError(str(error).replace("load_config", _OP, 1)) from None


def _choose(where: str, values: dict[str, Any]) -> tuple[Family, type[Model]]:
    kind = values.get("model_type")
    family = FAMILIES.get(kind) if isinstance(kind, str) else None
    if family is None:
        raise CheckpointError(
            f"{where}: model_type must be one of {', '.join(FAMILIES)}, got {str(kind)[:80]!r}"
        )
    if values.get("auto_map"):
        raise CheckpointError(
            f"{where}: auto_map asks for code of the checkpoint's own, which is never executed"
        )
    names = values.get("architectures") or [next(iter(family.architectures))]
    if not isinstance(names, list) or len(names) != 1 or names[0] not in family.architectures:
        raise CheckpointError(
            f"{where}: architectures must be one of {', '.join(family.architectures)}, got"
            f" {str(names)[:80]}"
        )
    module = importlib.import_module(f"{__package__}.{family.module}")
    cls: type[Model] = getattr(module, family.architectures[names[0]])
    return family, cls


def _make_config(where: str, family: Family, values: dict[str, Any]) -> Config:
    module = importlib.import_module(f"{__package__}.{family.module}")
    config_class: type[Config] = getattr(module, family.config)
    try:
        return config_class.from_dict(values)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{where}: {error}") from None


def _generation_config(path: Path) -> dict[str, Any]:
    try:
        values = read_json(path, _OP)
    except ValueError as error:
        raise CheckpointError(str(error)) from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{_OP}: {path}: must hold a JSON object")
    return values


# ---- its tensors ---------------------------------------------------------------------------------


def _own_names(model: Model, weights: Weights, rules: CheckpointRules) -> dict[str, str]:
    """Own name -> name in the file, for all tensors of the file that aren't ignored."""
    own = set(model.state_dict())
    bare = rules.prefix and not any(name.startswith(rules.prefix) for name in weights)
    found: dict[str, str] = {}
    for name in weights:
        new = name
        for pattern, replacement in rules.renamed:
            new = re.sub(pattern, replacement, new)
        if bare and new not in own and rules.prefix + new in own:
            new = rules.prefix + new
        if new in own or not (rules.matches("ignored", name) or rules.matches("ignored", new)):
            found[new] = name
    return found


def _listed(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(n[:80] for n in names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _fill(
    model: Model,
    weights: Weights,
    rules: CheckpointRules,
    wanted: DType | None,
    device: Any,
    where: str,
) -> None:
    own = dict(state.entries(model, ""))
    groups: dict[int, list[str]] = {}
    for name, t in own.items():
        groups.setdefault(id(t), []).append(name)
    found = _own_names(model, weights, rules)
    missing = [
        " = ".join(names)
        for names in groups.values()
        if not any(n in found or rules.matches("optional", n) for n in names)
    ]
    unexpected = [found[name] for name in found if name not in own]
    faults = []
    if missing:
        faults.append(f"missing {_listed(missing)}")
    if unexpected:
        faults.append(f"unexpected {_listed(unexpected)}")
    for name in own:
        if name in found:
            shape = weights.info(found[name]).shape
            if rules.matches("transposed", name):
                shape = shape[::-1]
            if shape != own[name].shape:
                faults.append(
                    f"{found[name]} must have shape {list(own[name].shape)}, got {list(shape)}"
                )
    if faults:
        raise CheckpointError(
            f"{_OP}: {where}: the weights must fit {type(model).__name__}, got " + "; ".join(faults)
        )
    for names in groups.values():
        given = [n for n in names if n in found]
        if not given:
            continue
        target = own[names[0]]
        array = weights[found[given[0]]]
        if rules.matches("transposed", given[0]):
            array = array.T
        kind = wanted if target.dtype.is_floating_point else target.dtype
        target._adopt(_copied(array, kind, device))


def _copied(array: np.ndarray[Any, Any], dtype: DType | None, device: Any) -> Tensor:
    source = from_numpy(array)
    t = empty(*array.shape, dtype=dtype or source.dtype, device=device)
    t.copy_(source.to(device=device, dtype=t.dtype))
    return t
