# SPDX-License-Identifier: Apache-2.0
"""Config: what a model is made of, with Hugging Face's field names and defaults.

A dataclass per family declares the fields that the model reads. Fields of `config.json` that it
doesn't know are kept and written back; those that would change the maths in a way that we can't
represent are refused by name.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

C = TypeVar("C", bound="Config")

_LARGEST = 2**31 - 1
_MOST_LAYERS = 4096


@dataclasses.dataclass
class Config:
    """Base of all configurations; subclasses are dataclasses whose fields have defaults.

    A subclass may set these class attributes:

    * ``model_type``: the word in `config.json`;
    * ``required``: name -> values that a field may have which the class doesn't declare (absent
      is fine); any other value is refused;
    * ``choices``: name -> values that a declared field may have;
    * ``aliases``: other names of declared fields in `config.json`;
    * ``may_be_zero``: integer fields that need not be positive,

    and override :meth:`check` for conditions among fields.

    Attributes
    ----------
    extra : dict
        Fields of `config.json` that the model doesn't need; :meth:`to_dict` gives them back.

    Examples
    --------
    >>> @dataclasses.dataclass
    ... class Tiny(Config):
    ...     model_type: ClassVar[str] = "tiny"
    ...     width: int = 8
    >>> Tiny.from_dict({"width": 4, "note": "hello"})
    Tiny(width=4)
    >>> Tiny(width=0)
    Traceback (most recent call last):
        ...
    ValueError: Tiny: width must be a positive integer, got 0
    """

    model_type: ClassVar[str] = ""
    required: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    aliases: ClassVar[Mapping[str, str]] = {}
    may_be_zero: ClassVar[frozenset[str]] = frozenset()

    extra: dict[str, Any] = dataclasses.field(default_factory=dict, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        for name, hint in _hints(type(self)).items():
            self._check_field(name, getattr(self, name), hint)
        for name, allowed in self.choices.items():
            if getattr(self, name) not in allowed:
                self.refuse(name, f"be {_listed(allowed)}")
        for name, allowed in {**_REQUIRED, **self.required}.items():
            if name in self.extra and self.extra[name] not in allowed:
                self.refuse(name, f"be {_listed(allowed)}", self.extra[name])
        self.check()

    def check(self) -> None:
        """Conditions among fields, for subclasses; use :meth:`refuse`."""

    def refuse(self, name: str, must: str, *got: Any) -> typing.NoReturn:
        """Raise ``ValueError: Class: name must ..., got value``."""
        value = got[0] if got else getattr(self, name)
        raise ValueError(f"{type(self).__name__}: {name} must {must}, got {_short(value)}")

    def _check_field(self, name: str, value: Any, hint: Any) -> None:
        if type(value) is int and _fits(1.0, hint) and not _fits(value, hint):
            value = float(value) if abs(value) <= 2**53 else math.inf
            setattr(self, name, value)
        if not _fits(value, hint):
            raise TypeError(
                f"{type(self).__name__}: {name} must be {_spelled(hint)}, got {_short(value)}"
            )
        if isinstance(value, float):
            if not math.isfinite(value):
                self.refuse(name, "be finite")
            if ("drop" in name or "pdrop" in name) and not 0 <= value <= 1:
                self.refuse(name, "be in [0, 1]")
            if ("eps" in name or name.endswith("_std") or "theta" in name) and value < 0:
                self.refuse(name, "not be negative")
        if isinstance(value, int) and not isinstance(value, bool):
            if name.endswith(("token_id", "_index", "_idx")):
                return
            if value < (0 if name in self.may_be_zero else 1):
                kind = (
                    "an integer of at least 0" if name in self.may_be_zero else "a positive integer"
                )
                self.refuse(name, f"be {kind}")
            most = _MOST_LAYERS if "layer" in name else _LARGEST
            if value > most:
                self.refuse(name, f"be at most {most}")

    @classmethod
    def from_dict(cls: type[C], values: Mapping[str, Any]) -> C:
        """A configuration from the fields of `config.json`.

        Raises
        ------
        ValueError, TypeError
            Naming the field that has an impossible value, or one that can't be represented.
        """
        if not isinstance(values, Mapping):
            raise TypeError(
                f"{cls.__name__}: values must be a mapping, got {type(values).__name__}"
            )
        known = _hints(cls)
        fields: dict[str, Any] = {}
        extra: dict[str, Any] = {}
        for name, value in values.items():
            field = cls.aliases.get(name, name)
            if field in known:
                if field != name and field in values:
                    continue
                fields[field] = value
            elif name == "model_type":
                if value != cls.model_type:
                    raise ValueError(
                        f"{cls.__name__}: model_type must be {cls.model_type!r}, got"
                        f" {_short(value)}"
                    )
            elif name != "extra":
                extra[name] = value
        return cls(**fields, extra=extra)

    def to_dict(self) -> dict[str, Any]:
        """The fields of `config.json`: those that were read, and those of the model."""
        own = {name: getattr(self, name) for name in _hints(type(self))}
        return {**self.extra, **own, "model_type": self.model_type}

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The declared fields."""
        return tuple(_hints(cls))

    def get(self, name: str, default: Any = None) -> Any:
        """A field by name, declared or extra."""
        if name in _hints(type(self)):
            return getattr(self, name)
        return self.extra.get(name, default)


# Fields of transformers' base class that change what a model computes.
_REQUIRED: dict[str, tuple[Any, ...]] = {
    "add_cross_attention": (False, None),
    "cross_attention_hidden_size": (None,),
    "pruned_heads": ({}, None),
    "quantization_config": (None,),
    "tie_encoder_decoder": (False, None),
}


_cached_hints: dict[type[Config], dict[str, Any]] = {}


def _hints(cls: type[Config]) -> dict[str, Any]:
    """The declared fields and their types, without `extra`."""
    if cls not in _cached_hints:
        hints = typing.get_type_hints(cls)
        names = [f.name for f in dataclasses.fields(cls) if f.name != "extra"]
        _cached_hints[cls] = {name: hints[name] for name in names}
    return _cached_hints[cls]


def _fits(value: Any, hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if hint is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, h) for h in typing.get_args(hint))
    if origin is list:
        (item,) = typing.get_args(hint)
        return isinstance(value, list) and all(_fits(v, item) for v in value)
    if origin is dict:
        return isinstance(value, dict) and all(isinstance(k, str) for k in value)
    if hint is None or hint is type(None):
        return value is None
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


_WORDS = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}


def _spelled(hint: Any) -> str:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_spelled(h) for h in typing.get_args(hint))
    if origin is list:
        return "a list"
    if origin is dict:
        return "an object"
    return "null" if hint is type(None) else _WORDS.get(hint, str(hint))


def _listed(allowed: tuple[Any, ...]) -> str:
    values = [repr(a) for a in allowed if a is not None] or ["null"]
    return values[0] if len(values) == 1 else f"one of {', '.join(values)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
