# SPDX-License-Identifier: Apache-2.0
"""Activations, gates, dropout and rotary positions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from seqloom.bench.case import Case, Contender, Work, register
from seqloom.bench.cases.common import elementwise_work, normal
from seqloom.bench.onnx_models import node

_TANH_SCALE = 0.7978845608028654  # sqrt(2 / pi)


def _numpy_gelu_tanh(np: Any, x: Any) -> Any:
    return 0.5 * x * (1 + np.tanh(np.float32(_TANH_SCALE) * (x + np.float32(0.044715) * x * x * x)))


def _numpy_silu(np: Any, x: Any) -> Any:
    return x / (1 + np.exp(-x))


def activation(
    name: str,
    rows: int,
    columns: int,
    ours: Callable[..., Any],
    reference: Callable[..., Any],
    peers: dict[str, Contender],
    flops: tuple[float, float],
    **changes: Any,
) -> Case:
    """A function of each element of [rows, columns]."""
    return Case(
        family="elementwise",
        name=name,
        label=f"{rows}x{columns}",
        sizes={"rows": rows, "columns": columns},
        make=lambda rng: {"x": normal(rng, rows, columns, scale=2.0)},
        ours=ours,
        needs=(f"ops.{name.partition('_')[0]}",),
        work=elementwise_work(rows * columns, fwd=(2, flops[0]), bwd=(3, flops[1])),
        wrt=("x",),
        peers=peers,
        reference=reference,
        **changes,
    )


def gelu_tanh(rows: int, columns: int, **changes: Any) -> Case:
    return activation(
        "gelu_tanh", rows, columns,
        lambda sl, x: sl.ops.gelu(x, approximate="tanh"),
        lambda ref, x: ref.gelu.vjp(x, "tanh"),
        {
            "numpy": _numpy_gelu_tanh,
            "torch": lambda torch, x: torch.nn.functional.gelu(x, approximate="tanh"),
            "onnxruntime": node("Gelu", ["x"], approximate="tanh"),
            "jax": lambda jax, x: jax.nn.gelu(x, approximate=True),
        },
        (15, 25),
        **changes,
    )  # fmt: skip


def gelu_erf(rows: int, columns: int, **changes: Any) -> Case:
    return activation(
        "gelu_erf", rows, columns,
        lambda sl, x: sl.ops.gelu(x),
        lambda ref, x: ref.gelu.vjp(x),
        {
            "torch": lambda torch, x: torch.nn.functional.gelu(x),
            "onnxruntime": node("Gelu", ["x"]),
            "jax": lambda jax, x: jax.nn.gelu(x, approximate=False),
        },
        (15, 25),
        **changes,
    )  # fmt: skip


def silu(rows: int, columns: int, **changes: Any) -> Case:
    return activation(
        "silu", rows, columns,
        lambda sl, x: sl.ops.silu(x),
        lambda ref, x: ref.silu.vjp(x),
        {
            "numpy": _numpy_silu,
            "torch": lambda torch, x: torch.nn.functional.silu(x),
            "jax": lambda jax, x: jax.nn.silu(x),
        },
        (8, 12),
        **changes,
    )  # fmt: skip


def swiglu(rows: int, columns: int, **changes: Any) -> Case:
    """silu(gate) * up."""
    return Case(
        family="elementwise",
        name="swiglu",
        label=f"{rows}x{columns}",
        sizes={"rows": rows, "columns": columns},
        make=lambda rng: {"gate": normal(rng, rows, columns), "up": normal(rng, rows, columns)},
        ours=lambda sl, gate, up: sl.ops.swiglu(gate, up),
        needs=("ops.swiglu",),
        work=elementwise_work(rows * columns, fwd=(3, 9), bwd=(5, 15)),
        wrt=("gate", "up"),
        peers={
            "numpy": lambda np, gate, up: _numpy_silu(np, gate) * up,
            "torch": lambda torch, gate, up: torch.nn.functional.silu(gate) * up,
            "jax": lambda jax, gate, up: jax.nn.silu(gate) * up,
        },
        reference=lambda ref, gate, up: ref.swiglu.vjp(gate, up),
        compiled=True,
        **changes,
    )


def _torch_rotary(torch: Any, x: Any, cos: Any, sin: Any) -> Any:
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def rotary(batch: int, heads: int, length: int, width: int, **changes: Any) -> Case:
    """Rotary positions over the whole width of [batch, heads, length, width]."""

    def make(rng: np.random.Generator) -> dict[str, Any]:
        frequency = 10000.0 ** (-np.arange(0, width, 2) / width)
        angles = np.outer(np.arange(length), frequency)
        return {
            "x": normal(rng, batch, heads, length, width),
            "cos": np.cos(angles).astype(np.float32),
            "sin": np.sin(angles).astype(np.float32),
        }

    return Case(
        family="elementwise",
        name="rotary_embedding",
        label=f"{batch}x{heads}x{length}x{width}",
        sizes={"batch": batch, "heads": heads, "length": length, "width": width},
        make=make,
        ours=lambda sl, x, cos, sin: sl.ops.rotary_embedding(x, cos, sin),
        needs=("ops.rotary_embedding",),
        work=elementwise_work(batch * heads * length * width, fwd=(2, 3), bwd=(2, 3)),
        wrt=("x",),
        peers={"torch": _torch_rotary},
        reference=lambda ref, x, cos, sin: ref.rotary_embedding.vjp(x, cos, sin),
        compiled=True,
        **changes,
    )


def dropout(rows: int, columns: int, **changes: Any) -> Case:
    """dropout(p=0.1); random, so its values are the tests' business."""
    count = rows * columns

    def work(mode: str, item: float) -> Work:
        passes = {"fwd": 2.0, "bwd": 2.0, "fwdbwd": 4.0}[mode]
        return Work(passes * count * item, 0.0)

    return Case(
        family="elementwise",
        name="dropout",
        label=f"{rows}x{columns}",
        sizes={"rows": rows, "columns": columns},
        make=lambda rng: {"x": normal(rng, rows, columns)},
        ours=lambda sl, x: sl.ops.dropout(x, 0.1, training=True),
        needs=("ops.dropout",),
        work=work,
        wrt=("x",),
        peers={"torch": lambda torch, x: torch.nn.functional.dropout(x, 0.1)},
        **changes,
    )


@register("elementwise")
def cases() -> Iterable[Case]:
    yield gelu_tanh(4096, 3072, compiled=True)
    yield gelu_tanh(1024, 3072, quick=("fwd/f32", "bwd/f32"))
    yield gelu_erf(4096, 3072)
    yield silu(4096, 3072)
    yield swiglu(4096, 3072)
    yield rotary(1, 32, 2048, 128)
    yield dropout(4096, 768)
