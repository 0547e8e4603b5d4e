# SPDX-License-Identifier: Apache-2.0
"""`config.json` of a model directory."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seqloom.files import PathLike, read_json, write_json


def load_config(path: PathLike) -> dict[str, Any]:
    """Read `config.json` from a model directory (or the file itself).

    Examples
    --------
    >>> import tempfile
    >>> directory = tempfile.mkdtemp()
    >>> save_config(directory, {"model_type": "gpt2", "n_layer": 2})
    >>> load_config(directory)["n_layer"]
    2
    """
    target = Path(path)
    if target.is_dir():
        target = target / "config.json"
        if not target.exists():
            raise FileNotFoundError(
                f"load_config: {os.fspath(path)} holds no config.json; a model directory has one"
            )
    config = read_json(target, "load_config")
    if not isinstance(config, dict):
        raise ValueError(
            f"load_config: {target} must hold a JSON object, got {type(config).__name__}"
        )
    return config


def save_config(directory: PathLike, config: Mapping[str, Any]) -> None:
    """Write `config.json` into a model directory, atomically; keys are sorted.

    Examples
    --------
    >>> import tempfile
    >>> directory = tempfile.mkdtemp()
    >>> save_config(directory, {"b": 1, "a": 2})
    >>> list(load_config(directory))
    ['a', 'b']
    """
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", {key: config[key] for key in sorted(config)})
