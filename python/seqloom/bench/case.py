# SPDX-License-Identifier: Apache-2.0
"""What a benchmark case is: one operation at one size, described once for timing and for the tests.

A case says how to make its inputs, how seqloom and every peer compute it, what the float64
reference says, and how many bytes and operations the mathematics requires. Everything else
(dtypes, modes, cold caches, interleaving, statistics) belongs to the harness.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Inputs = dict[str, Any]

# Forward, backward, both; a whole training step; an optimizer's step.
MODES = ("fwd", "bwd", "fwdbwd", "train", "step")
ITEM_SIZE = {"f32": 4, "f16": 2, "bf16": 2, "int8": 1, "int4": 0.5}
DTYPE_NAMES = {
    "f32": "float32", "f16": "float16", "bf16": "bfloat16", "int8": "int8", "int4": "int4",
}  # fmt: skip
# Unit roundoff of what is stored; of 8 and 4 bits what quantizing a weight costs a product.
EPSILON = {"f32": 2.0**-24, "f16": 2.0**-11, "bf16": 2.0**-8, "int8": 2.0**-6, "int4": 2.0**-3}


class Work(NamedTuple):
    """Compulsory traffic and useful operations of one call."""

    bytes: float
    flops: float

    def __add__(self, other: object) -> Work:
        if not isinstance(other, Work):
            return NotImplemented
        return Work(self.bytes + other.bytes, self.flops + other.flops)


class Part(NamedTuple):
    """An expected result for a part of the output: large cases are checked on a slice."""

    index: Any
    value: Array


@dataclass(frozen=True)
class Context:
    """What a `Built` contestant is told when it prepares one of its calls."""

    library: Any
    inputs: Inputs
    mode: str
    dtype: str
    device: str
    threads: int
    copy: int = 0


class Answer(NamedTuple):
    """What a contestant computed, and the truth as a function of the dtype to compute it in.

    A deep model rounds once more in each of its `layers`; `rounding` takes the place of the dtype's
    where the truth holds some of its roundings already.
    """

    value: Any
    truth: Callable[[Any], Array]
    layers: int = 1
    rounding: float = 0.0


@dataclass(frozen=True)
class Built:
    """A contestant that is more than a function of arrays (a session, a model, an optimizer).

    ``build(context)`` returns the call to be timed. It does its own conversion of the inputs.
    ``modes`` and ``dtypes`` name what it can do. ``judged(context, reference)``, where it is
    there, computes the same once and returns an `Answer`.
    """

    build: Callable[[Context], Callable[[], Any]]
    modes: tuple[str, ...] = ("fwd",)
    dtypes: tuple[str, ...] = ("f32",)
    judged: Callable[[Context, Any], Answer] | None = None


Contender = Callable[..., Any] | Built


@dataclass(frozen=True)
class Case:
    """One operation at one size.

    `ours` and the plain functions in `peers` are called as ``f(library, **inputs)`` on that
    library's own arrays; the harness derives backward passes from them: the gradient flows into
    the first output. `reference` is called as ``f(reference_package, **inputs)`` on float64 (and,
    to see what the formula loses, on float32) arrays and returns ``(value, backward)`` where
    ``backward(dy)`` maps the names in `wrt` to gradients. Either may be a `Part`.
    `work` is called as ``f(mode, item_size)``. `quick` and `quick_cuda` name the rows
    (``mode/dtype``) of the short runs on a CPU and on a GPU.
    """

    family: str
    name: str
    label: str
    sizes: Mapping[str, int]
    make: Callable[[np.random.Generator], Inputs]
    ours: Contender
    needs: tuple[str, ...]
    work: Callable[[str, float], Work]
    wrt: tuple[str, ...] = ()
    peers: Mapping[str, Contender] = field(default_factory=dict)
    reference: Callable[..., Any] | None = None
    modes: tuple[str, ...] = ("fwd", "bwd")
    dtypes: tuple[str, ...] = ("f32", "bf16")
    devices: tuple[str, ...] = ("cpu", "cuda")
    keep_f32: tuple[str, ...] = ()
    cache: str = "cold"
    quick: tuple[str, ...] = ()
    quick_cuda: tuple[str, ...] = ()
    compiled: bool = False
    unit: str = ""
    per_call: float = 0.0

    @property
    def id(self) -> str:
        return f"{self.name}/{self.label}"

    def missing(self, library: Any) -> str:
        """The first thing in `needs` that `library` lacks, or an empty string."""
        for need in self.needs:
            value = library
            try:
                for part in need.split("."):
                    value = getattr(value, part)
            except (AttributeError, ImportError):  # a room that this seqloom doesn't have
                return need
        return ""


_FAMILIES: dict[str, Callable[[], Iterable[Case]]] = {}


def register(family: str) -> Callable[[Callable[[], Iterable[Case]]], Any]:
    """Decorate a function that yields the cases of `family`."""

    def keep(function: Callable[[], Iterable[Case]]) -> Callable[[], Iterable[Case]]:
        _FAMILIES[family] = function
        return function

    return keep


def all_cases() -> list[Case]:
    """Every case of every family, in the order of the table."""
    from seqloom.bench import cases

    cases.load()
    return [case for family in _FAMILIES.values() for case in family()]


def select(cases: Iterable[Case], patterns: Sequence[str]) -> list[Case]:
    """The cases whose family, name or ``name/label`` matches one of the patterns (``*`` and ``?``).

    A plain word also matches as the beginning of a name, so ``sdpa`` finds ``sdpa_causal``. A
    pattern that matches nothing is a `KeyError`.
    """
    pool = list(cases)
    if not patterns:
        return pool
    chosen: dict[str, Case] = {}
    for pattern in patterns:
        found = list(_matching(pool, pattern))
        if not found:
            raise KeyError(pattern)
        chosen.update((case.id, case) for case in found)
    return [case for case in pool if case.id in chosen]


def _matching(pool: Sequence[Case], pattern: str) -> Iterator[Case]:
    exact = [c for c in pool if pattern in (c.family, c.name, c.id)]
    if exact:
        yield from exact
        return
    for case in pool:
        if any(
            fnmatchcase(text, pattern) or fnmatchcase(text, f"{pattern}*")
            for text in (case.name, case.id)
        ):
            yield case
