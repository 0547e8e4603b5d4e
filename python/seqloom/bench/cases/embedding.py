# SPDX-License-Identifier: Apache-2.0
"""Rows of a table, and the sum of gradients back into it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from seqloom.bench.case import Case, Work, register
from seqloom.bench.cases.common import normal


def embedding(count: int, vocabulary: int, width: int, **changes: Any) -> Case:
    """`count` random rows of [vocabulary, width]; the gradient of the table is dense."""

    def work(mode: str, item: float) -> Work:
        rows = 2.0 * count * width * item + 8.0 * count
        table = vocabulary * width * item + count * width * item + 8.0 * count
        return {
            "fwd": Work(rows, 0.0),
            "bwd": Work(table, float(count * width)),
            "fwdbwd": Work(rows + table, float(count * width)),
        }[mode]

    return Case(
        family="embedding",
        name="embedding",
        label=f"{count}of{vocabulary}x{width}",
        sizes={"count": count, "vocabulary": vocabulary, "width": width},
        make=lambda rng: {
            "ids": rng.integers(0, vocabulary, count),
            "weight": normal(rng, vocabulary, width),
        },
        ours=lambda sl, ids, weight: sl.ops.embedding(ids, weight),
        needs=("ops.embedding",),
        work=work,
        wrt=("weight",),
        peers={
            "numpy": lambda np, ids, weight: weight[ids],
            "torch": lambda torch, ids, weight: torch.nn.functional.embedding(ids, weight),
            "jax": lambda jax, ids, weight: weight[ids],
        },
        reference=lambda ref, ids, weight: ref.embedding.vjp(ids, weight),
        modes=("fwd", "fwdbwd"),
        **changes,
    )


@register("embedding")
def cases() -> Iterable[Case]:
    yield embedding(8192, 50257, 768, quick=("fwd/f32",))
