# SPDX-License-Identifier: Apache-2.0
"""One AdamW step over all parameters of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from seqloom.bench.case import Answer, Array, Built, Case, Context, Work, register
from seqloom.bench.cases.common import normal, to_tensor

# GPT-2's parameters by size: embeddings, then the four matrices of its twelve blocks.
GPT2_SHAPES = [(50257, 768), (1024, 768)] + [(2304, 768), (768, 768), (3072, 768), (768, 3072)] * 12


RATE, DECAY, BETAS, EPS = 1e-4, 0.01, (0.9, 0.999), 1e-8


def _step(**options: Any) -> Built:
    def prepare(context: Context, first: int = 0) -> tuple[Any, list[Any]]:
        """The optimizer and its parameters from the `first` on."""
        library = context.library
        parameters, total = [], 0
        for index, shape in enumerate(context.inputs["shapes"]):
            size = shape[0] * shape[1]
            values = context.inputs["values"][total : total + size].reshape(shape)
            total += size
            if index < first:
                continue
            parameter = to_tensor(library, values).to(context.device)
            parameter.requires_grad = True
            parameter.grad = to_tensor(library, values).to(context.device)
            parameters.append(parameter)
        # torch has its optimizers under `optim`, and so have we.
        return library.optim.AdamW(parameters, lr=RATE, weight_decay=DECAY, **options), parameters

    def build(context: Context) -> Callable[[], Any]:
        return prepare(context)[0].step  # type: ignore[no-any-return]

    def judged(context: Context, reference: Any) -> Answer:
        """The last tensor after two steps."""
        optimizer, parameters = prepare(context, len(context.inputs["shapes"]) - 1)
        optimizer.step()
        optimizer.step()
        last = parameters[-1]
        start = context.inputs["values"][-last.size :].reshape(last.shape)

        def truth(dtype: Any) -> Array:
            p: Array = start.astype(dtype)
            state: dict[str, Any] = {}
            for _ in range(2):
                p, state = reference.optimizer.adamw(
                    p, start.astype(dtype), state, lr=RATE, betas=BETAS, eps=EPS, weight_decay=DECAY
                )
            return p

        return Answer(last, truth)

    return Built(build, modes=("step",), dtypes=("f32",), judged=judged)


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
        modes=("step",),
        dtypes=("f32",),
        **changes,
    )


@register("optimizer")
def cases() -> Iterable[Case]:
    yield adamw(GPT2_SHAPES, "124M", quick_cuda=("step/f32",))
    yield adamw([(768, 768)] * 8, "5M", quick=("step/f32",))
