# SPDX-License-Identifier: Apache-2.0
"""One AdamW step over all parameters of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from seqloom.bench.case import Built, Case, Context, Work, register
from seqloom.bench.cases.common import normal, to_tensor

# GPT-2's parameters by size: embeddings, then the four matrices of its twelve blocks.
GPT2_SHAPES = [(50257, 768), (1024, 768)] + [(2304, 768), (768, 768), (3072, 768), (768, 3072)] * 12


def _step(**options: Any) -> Built:
    def build(context: Context) -> Callable[[], Any]:
        library = context.library
        parameters, total = [], 0
        for shape in context.inputs["shapes"]:
            size = shape[0] * shape[1]
            values = context.inputs["values"][total : total + size].reshape(shape)
            total += size
            parameter = to_tensor(library, values).to(context.device)
            parameter.requires_grad = True
            parameter.grad = to_tensor(library, values).to(context.device)
            parameters.append(parameter)
        # torch has its optimizers under `optim`, and so have we.
        optimizer = library.optim.AdamW(parameters, lr=1e-4, weight_decay=0.01, **options)
        return optimizer.step  # type: ignore[no-any-return]

    return Built(build, modes=("fwd",), dtypes=("f32",))


def adamw(shapes: list[tuple[int, int]], label: str, **changes: Any) -> Case:
    """Read parameter, gradient and two moments; write three of them."""
    count = sum(rows * columns for rows, columns in shapes)

    def make(rng: np.random.Generator) -> dict[str, Any]:
        return {"values": normal(rng, count, scale=0.02), "shapes": shapes}

    return Case(
        family="optimizer",
        name="adamw",
        label=label,
        sizes={"parameters": count},
        make=make,
        ours=_step(),
        needs=("optim.AdamW",),
        work=lambda mode, item: Work(7 * count * item, 14.0 * count),
        peers={"torch": _step(), "torch.fused": _step(fused=True)},
        modes=("fwd",),
        dtypes=("f32",),
        **changes,
    )


@register("optimizer")
def cases() -> Iterable[Case]:
    yield adamw(GPT2_SHAPES, "124M")
    yield adamw([(768, 768)] * 8, "5M", quick=("fwd/f32",))
