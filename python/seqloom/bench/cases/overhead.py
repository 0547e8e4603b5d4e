# SPDX-License-Identifier: Apache-2.0
"""What a call costs when there is next to nothing to compute."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from seqloom.bench.case import Case, Work, register
from seqloom.bench.cases.common import normal

ROWS, COLUMNS = 8, 64


def _same(function: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    return lambda library, x, y: function(x, y)


def overhead(
    name: str, function: Callable[[Any, Any], Any], reference: str, need: str, **changes: Any
) -> Case:
    """An operator of Tensors of 8 by 64, which every library spells alike."""
    rows = ROWS if name == "add" else COLUMNS

    def call_reference(ref: Any, x: Any, y: Any) -> Any:
        value, pull = getattr(ref, reference).vjp(x, y)
        return value, lambda dy: {"x": pull(dy)["a"], "y": pull(dy)["b"]}

    return Case(
        family="overhead",
        name=f"overhead_{name}",
        label=f"{ROWS}x{COLUMNS}",
        sizes={"rows": ROWS, "columns": COLUMNS},
        make=lambda rng: {"x": normal(rng, ROWS, COLUMNS), "y": normal(rng, rows, COLUMNS)},
        ours=_same(function),
        needs=(need,),
        work=lambda mode, item: Work(3 * ROWS * COLUMNS * item, ROWS * COLUMNS),
        wrt=("x", "y"),
        peers={"numpy": _same(function), "torch": _same(function), "jax": _same(function)},
        reference=call_reference,
        modes=("fwd", "fwdbwd"),
        dtypes=("f32",),
        cache="warm",
        **changes,
    )


@register("overhead")
def cases() -> Iterable[Case]:
    yield overhead("add", lambda x, y: x + y, "add", "tensor", quick=("fwd/f32",))
    yield overhead("matmul", lambda x, y: x @ y, "matmul", "ops.matmul")
