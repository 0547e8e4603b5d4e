# SPDX-License-Identifier: Apache-2.0
"""from_pretrained: a directory to a model, with nothing in it trusted and nothing executed."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any, TypeVar

from ..dtypes import DType, as_dtype
from ..files import PathLike, read_json
from ..nn import init
from ..weights import CheckpointError, load_config, open_weights
from . import filling
from .base import Model
from .config import Config
from .registry import FAMILIES, Family

M = TypeVar("M", bound=Model)
_OP = "from_pretrained"


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
    folder = _folder(directory)
    where, values = _read_config(folder)
    family, cls = _choose(where, values)
    return _load(cls, family, where, folder, values, _Wish(device, dtype, quantize), None)


def load_as(
    cls: type[M],
    directory: PathLike,
    device: Any,
    dtype: Any,
    quantize: str | None,
    fields: dict[str, Any],
) -> M:
    """See :meth:`Model.from_pretrained`."""
    folder = _folder(directory)
    where, family, own, values = _changed(cls, folder, fields)
    wish = _Wish(device, dtype, quantize)
    model: M = _load(cls, family, where, folder, values, wish, None if own is cls else own)
    return model


def outline(directory: PathLike, cls: type[Model] | None = None, **fields: Any) -> Any:
    """The model of a directory, or of this class, with shapes only: no weight is read.

    Examples
    --------
    >>> import tempfile, seqloom as sl
    >>> model = sl.models.RNNLanguageModel(9, embed_dim=4, hidden_size=4)
    >>> folder = tempfile.mkdtemp()
    >>> model.save_pretrained(folder)
    >>> outline(folder).num_parameters() == model.num_parameters()
    True
    """
    folder = _folder(directory)
    if cls is None:
        where, values = _read_config(folder)
        family, cls = _choose(where, values)
    else:
        where, family, _, values = _changed(cls, folder, fields)
    return _unfilled(cls, _make_config(where, family, values), where)


def _changed(
    cls: type[Model], folder: Path, fields: dict[str, Any]
) -> tuple[str, Family, type[Model], dict[str, Any]]:
    """Where, family, the directory's own class, and its configuration with other fields."""
    for name in fields:
        if name not in cls.config_class.names():
            raise TypeError(f"{_OP}: {name!r} is no field of {cls.config_class.__name__}")
    where, values = _read_config(folder)
    family, own = _choose(where, values)
    if cls.__name__ not in family.architectures.values():
        raise CheckpointError(
            f"{where}: model_type must be one that {cls.__name__} can be, got"
            f" {str(values.get('model_type'))!r}"
        )
    if "num_labels" in fields:
        values = {k: v for k, v in values.items() if k not in ("id2label", "label2id")}
    return where, family, own, {**values, **fields}


def _unfilled(cls: type[Any], config: Config, where: str) -> Any:
    """A model whose parameters have no memory yet."""
    with init.shapes_only():
        try:
            return cls(config)
        except (ValueError, TypeError) as error:
            raise CheckpointError(f"{where}: {error}") from None


class _Wish:
    """How the caller wants it: device, dtype (None: the checkpoint's), quantisation."""

    def __init__(self, device: Any, dtype: Any, quantize: str | None) -> None:
        self.device = "cpu" if device is None else device
        self.dtype = None if dtype is None else _floating(dtype)
        if quantize not in (None, "int8", "int4"):
            raise ValueError(f"{_OP}: quantize must be 'int8', 'int4' or None, got {quantize!r}")
        self.quantize = quantize


def _load(
    cls: type[Any],
    family: Family,
    where: str,
    folder: Path,
    values: dict[str, Any],
    wish: _Wish,
    other: type[Model] | None,
) -> Any:
    config = _make_config(where, family, values)
    extra = folder / "generation_config.json"
    generation = _generation_config(extra) if extra.exists() else {}
    weights = open_weights(folder, what=_OP)
    model: Model = _unfilled(cls, config, where)
    filling.fill(model, weights, f"{_OP}: {folder}", wish.dtype, wish.device, other is not None)
    model.generation_config = generation
    model.to(device=wish.device)
    model.eval()
    if wish.quantize is not None:
        quantization = importlib.import_module(f"{__package__}.quantize")
        quantization.quantize_model(model, wish.quantize)
    return model


def _folder(directory: Any) -> Path:
    if not isinstance(directory, str | os.PathLike):
        raise TypeError(f"{_OP}: directory must be a path, got {type(directory).__name__}")
    return Path(directory)


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
    if not path.is_file():
        raise CheckpointError(f"{_OP}: {path} is not a regular file")
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
    name = names[0] if isinstance(names, list) and len(names) == 1 else None
    if not isinstance(name, str) or name not in family.architectures:
        raise CheckpointError(
            f"{where}: architectures must be one of {', '.join(family.architectures)}, got"
            f" {str(names)[:80]}"
        )
    module = importlib.import_module(f"{__package__}.{family.module}")
    cls: type[Model] = getattr(module, family.architectures[name])
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
    for name, value in values.items():
        if name.endswith("_token_id") and not all(
            v is None or type(v) is int for v in (value if isinstance(value, list) else [value])
        ):
            raise CheckpointError(
                f"{_OP}: {path}: {name} must be an integer or a list of them, got {str(value)[:80]}"
            )
    return values
