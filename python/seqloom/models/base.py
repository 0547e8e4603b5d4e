# SPDX-License-Identifier: Apache-2.0
"""Model: a Module with a configuration, that directories hold and give back."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np

from ..files import PathLike, write_json
from ..nn import Module
from ..weights import save_config, save_weights
from .config import Config
from .quantize import is_quantized

M = TypeVar("M", bound="Model")


@dataclass(frozen=True)
class CheckpointRules:
    """How the names and layouts in a checkpoint differ from those of the module tree.

    Patterns are regular expressions that the whole name matches.

    Attributes
    ----------
    prefix : str
        What the names of the bare model begin with ("transformer."). Checkpoints of the bare
        model lack it and load all the same.
    transposed : tuple of patterns
        Matrices that the checkpoint holds as [in, out].
    renamed : tuple of (pattern, replacement)
        Older names; the replacement is that of ``re.sub``.
    ignored : tuple of patterns
        Tensors that may be in a checkpoint and aren't needed (buffers, unused heads).
    optional : tuple of patterns
        Buffers that a checkpoint may lack; they keep their initial values.
    heads : tuple of patterns
        Tensors of one class of the family that its other classes lack. When a checkpoint is
        loaded with another class than its own, such tensors may be there for nothing, or be
        missing and start afresh.
    """

    prefix: str = ""
    transposed: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    ignored: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    _cache: dict[str, re.Pattern[str]] = field(default_factory=dict, repr=False, compare=False)

    def matches(self, kind: str, name: str) -> bool:
        """Whether one of the patterns of that kind matches the name."""
        pattern = self._cache.get(kind)
        if pattern is None:
            pattern = re.compile("|".join(f"(?:{p})" for p in getattr(self, kind)) or r"(?!)")
            self._cache[kind] = pattern
        return pattern.fullmatch(name) is not None


class Model(Module):
    """Base of the models of ``sl.models``.

    A subclass sets ``config_class`` and ``architectures`` (the class names in `config.json` that it
    stands for, its own first), passes its arguments to ``super().__init__`` and builds its modules
    from ``self.config``. Names of the tree equal those of the checkpoint but for what
    :meth:`checkpoint_rules` says.

    Parameters
    ----------
    config : Config, optional
    **fields
        Fields of the configuration, instead of `config`.

    Attributes
    ----------
    config : Config
    generation_config : dict
        What `generation_config.json` held; defaults of ``generate``.
    """

    config_class: ClassVar[type[Config]] = Config
    architectures: ClassVar[tuple[str, ...]] = ()
    generation_config: dict[str, Any]

    def __init__(self, config: Config | None = None, **fields: Any) -> None:
        super().__init__()
        owner = type(self).__name__
        if config is None:
            try:
                config = self.config_class(**fields)
            except TypeError as error:
                if "unexpected keyword argument" not in str(error):
                    raise
                name = str(error).rpartition("argument ")[2]
                raise TypeError(f"{owner}: {name} is no field of its configuration") from None
        elif fields:
            raise TypeError(f"{owner}: give a configuration or its fields, not both")
        if not isinstance(config, self.config_class):
            raise TypeError(
                f"{owner}: config must be a {self.config_class.__name__}, got"
                f" {type(config).__name__}"
            )
        self.config: Any = config
        self.generation_config = {}

    @classmethod
    def checkpoint_rules(cls) -> CheckpointRules:
        """How checkpoints of this family differ from the module tree."""
        return CheckpointRules()

    def _initialise(self, module: Module) -> None:
        """Give one module of the tree its initial values."""
        reset = getattr(module, "reset_parameters", None)
        if reset is not None:
            reset()

    @classmethod
    def from_pretrained(
        cls: type[M],
        directory: PathLike,
        *,
        device: Any = None,
        dtype: Any = None,
        quantize: str | None = None,
        **fields: Any,
    ) -> M:
        """Load a directory with this class, whatever its `config.json` names of the same family.

        A head that the checkpoint lacks starts afresh, with a warning that names its tensors: that
        is how a pretrained encoder is given a new task.

        Parameters
        ----------
        directory, device, dtype, quantize
            As in :func:`from_pretrained`.
        **fields
            Fields of the configuration that are to differ (``num_labels=5``).
        """
        from .loading import load_as

        return load_as(cls, directory, device, dtype, quantize, fields)

    @property
    def device(self) -> str:
        """Where the parameters are."""
        for p in self.parameters():
            return str(p.device)
        return "cpu"

    @property
    def dtype(self) -> Any:
        """The dtype of the (first floating) parameters."""
        for p in self.parameters():
            if p.dtype.is_floating_point:
                return p.dtype
        raise ValueError(f"{type(self).__name__}: has no floating-point parameters")

    def setting(self, name: str, default: Any = None) -> Any:
        """A default of generation: from `generation_config.json`, else from the configuration."""
        value = self.generation_config.get(name)
        if value is None:
            value = self.config.get(name)
        return default if value is None else value

    def checkpoint_tensors(self) -> dict[str, np.ndarray[Any, Any]]:
        """The state under the checkpoint's names and in its layouts, as NumPy arrays."""
        rules = self.checkpoint_rules()
        arrays: dict[str, np.ndarray[Any, Any]] = {}
        seen: dict[int, np.ndarray[Any, Any]] = {}
        own = {**dict(self.named_parameters(remove_duplicate=False))}
        for name, t in self.state_dict().items():
            key = id(own[name]) if name in own else id(t)
            if key not in seen:  # tied tensors are one array, which is written once
                array = t.cpu().numpy()
                seen[key] = array.T if rules.matches("transposed", name) else array
            arrays[name] = seen[key]
        return arrays

    def save_pretrained(
        self, directory: PathLike, *, max_shard_size: int | str | None = None
    ) -> None:
        """Write `config.json` and the weights such that ``transformers`` loads them.

        Each file changes whole or not at all. Quantised models can't be saved.

        Parameters
        ----------
        directory : path
            Created when it doesn't exist.
        max_shard_size : int or str, optional
            Several files of at most that size ("2GB").
        """
        if not isinstance(directory, str | os.PathLike):
            kind = type(directory).__name__
            raise TypeError(f"save_pretrained: directory must be a path, got {kind}")
        target = Path(directory)
        if target.exists() and not target.is_dir():
            raise NotADirectoryError(f"save_pretrained: {target} is a file, not a directory")
        if is_quantized(self):
            raise ValueError(
                "save_pretrained: the model must have float weights, got quantised ones; save it"
                " before, and quantise when loading"
            )
        save_weights(target, self.checkpoint_tensors(), max_shard_size=max_shard_size)
        values: Mapping[str, Any] = {
            **self.config.to_dict(),
            "architectures": [(self.architectures or (type(self).__name__,))[0]],
            "torch_dtype": self.dtype.name,
        }
        save_config(target, {k: v for k, v in values.items() if k != "dtype"})
        if self.generation_config:
            write_json(target / "generation_config.json", self.generation_config)

    def extra_repr(self) -> str:
        return str(self.config.model_type)
