# SPDX-License-Identifier: Apache-2.0
"""linear and matmul: big products, thin ones against cold weights, recurrent ones against hot."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from seqloom.bench.case import EPSILON, Answer, Built, Case, Context, Part, Work, register
from seqloom.bench.cases.common import glorot, normal
from seqloom.bench.onnx_models import node

# M x K x N. Big: a transformer's layers and its head. Thin: decoding, each layer's weights come
# from memory. Recurrent: a cell's step, whose weights stay in the cache.
BIG = (
    (512, 768, 768), (128, 768, 3072), (2048, 768, 3072), (512, 3072, 768), (128, 768, 50257),
    (512, 4096, 4096),
)  # fmt: skip
THIN = (
    (1, 768, 3072), (4, 768, 3072), (8, 768, 3072), (16, 768, 3072), (1, 4096, 4096),
)  # fmt: skip
RECURRENT = (
    (1, 64, 256), (1, 256, 1024), (32, 256, 1024), (8, 512, 2048), (64, 512, 2048),
    (1, 1024, 4096), (32, 1024, 4096),
)  # fmt: skip


def product_work(m: int, k: int, n: int) -> Callable[[str, float], Work]:
    """One product forward, two of the same size backward."""
    flops, arrays = 2.0 * m * k * n, float(m * k + k * n + m * n)

    def work(mode: str, item: float) -> Work:
        ahead, back = Work(arrays * item, flops), Work(2 * arrays * item, 2 * flops)
        return {"fwd": ahead, "bwd": back, "fwdbwd": ahead + back}[mode]

    return work


def _reference(ref: Any, x: Any, weight: Any) -> tuple[Any, Callable[[Any], dict[str, Any]]]:
    head = slice(0, 64)

    def backward(dy: Any) -> dict[str, Any]:
        return {
            "x": Part((head,), dy[head] @ weight),
            "weight": Part((head,), dy[:, head].T @ x),
        }

    # Of a GPU's products the first rows.
    if x.shape[0] * weight.size > 1 << 34:
        return Part((head,), ref.linear(x[head], weight)), backward
    return ref.linear(x, weight), backward


def linear(m: int, k: int, n: int, **changes: Any) -> Case:
    """x [m, k] @ weight [n, k].T."""

    def make(rng: np.random.Generator) -> dict[str, Any]:
        return {"x": normal(rng, m, k), "weight": glorot(rng, n, k)}

    return Case(
        family="matmul",
        name="linear",
        label=f"{m}x{k}x{n}",
        sizes={"m": m, "k": k, "n": n},
        make=make,
        ours=lambda sl, x, weight: sl.ops.linear(x, weight),
        needs=("ops.linear",),
        work=product_work(m, k, n),
        wrt=("x", "weight"),
        peers={
            "numpy": lambda np, x, weight: x @ weight.T,
            "torch": lambda torch, x, weight: torch.nn.functional.linear(x, weight),
            "onnxruntime": node(
                "MatMul", ["x", "w"], constants=["w"],
                prepare=lambda inputs: {"x": inputs["x"], "w": inputs["weight"].T},
            ),
            "jax": lambda jax, x, weight: x @ weight.T,
        },
        reference=_reference,
        **changes,
    )  # fmt: skip


def linear_gelu(m: int, k: int, n: int, **changes: Any) -> Case:
    """gelu_tanh(x @ weight.T + bias) in one call."""

    def make(rng: np.random.Generator) -> dict[str, Any]:
        return {"x": normal(rng, m, k), "weight": glorot(rng, n, k), "bias": normal(rng, n)}

    def in_torch(torch: Any, x: Any, weight: Any, bias: Any) -> Any:
        functional = torch.nn.functional
        return functional.gelu(functional.linear(x, weight, bias), approximate="tanh")

    return Case(
        family="matmul",
        name="linear_gelu",
        label=f"{m}x{k}x{n}",
        sizes={"m": m, "k": k, "n": n},
        make=make,
        ours=lambda sl, x, weight, bias: sl.ops.linear(x, weight, bias, activation="gelu_tanh"),
        needs=("ops.linear",),
        work=product_work(m, k, n),
        wrt=("x", "weight", "bias"),
        peers={"torch": in_torch},
        reference=lambda ref, x, weight, bias: ref.linear.vjp(
            x, weight, bias, activation="gelu_tanh"
        ),
        compiled=True,
        **changes,
    )


def quantized_linear(m: int, k: int, n: int, **changes: Any) -> Case:
    """x [m, k] @ weight.T + bias, the weight [n, k] in 8 or 4 bits."""

    def make(rng: np.random.Generator) -> dict[str, Any]:
        return {"x": normal(rng, m, k), "weight": glorot(rng, n, k), "bias": normal(rng, n)}

    def arguments(context: Context) -> tuple[Any, ...]:
        sl, inputs, device = context.library, context.inputs, context.device
        x, weight, bias = (sl.tensor(inputs[a], device=device) for a in ("x", "weight", "bias"))
        return (x, *sl.ops.quantize_weight(weight, context.dtype), bias)

    def build(context: Context) -> Callable[[], Any]:
        given, kind, sl = arguments(context), context.dtype, context.library
        return lambda: sl.ops.quantized_linear(*given, kind=kind)

    def judged(context: Context, ref: Any) -> Answer:
        given, kind = arguments(context), context.dtype
        value = context.library.ops.quantized_linear(*given, kind=kind).cpu().numpy()
        x, q, scales, bias = (a.cpu().numpy() for a in given)

        def truth(dtype: Any) -> Any:
            return ref.quantized_linear(x.astype(dtype), q, scales, bias.astype(dtype), kind=kind)

        # The weights are exact; beyond four rows x is rounded to 8 bits.
        return Answer(value, truth, rounding=EPSILON["int8"])

    def work(mode: str, item: float) -> Work:
        scales = n * 4.0 if item == 1 else n * k / 32 * 2.0
        return Work(n * k * item + scales + 4.0 * (m * k + m * n + n), 2.0 * m * k * n)

    return Case(
        family="matmul",
        name="quantized_linear",
        label=f"{m}x{k}x{n}",
        sizes={"m": m, "k": k, "n": n},
        make=make,
        ours=Built(build, dtypes=("int8", "int4"), judged=judged),
        needs=("ops.quantized_linear",),
        work=work,
        modes=("fwd",),
        dtypes=("int8", "int4"),
        **changes,
    )


def matmul(batch: int, m: int, k: int, n: int, **changes: Any) -> Case:
    """a [batch, m, k] @ b [batch, k, n]."""
    one = product_work(m, k, n)

    def work(mode: str, item: float) -> Work:
        single = one(mode, item)
        return Work(batch * single.bytes, batch * single.flops)

    return Case(
        family="matmul",
        name="matmul",
        label=f"{batch}x{m}x{k}x{n}",
        sizes={"batch": batch, "m": m, "k": k, "n": n},
        make=lambda rng: {"a": normal(rng, batch, m, k), "b": normal(rng, batch, k, n)},
        ours=lambda sl, a, b: sl.ops.matmul(a, b),
        needs=("ops.matmul",),
        work=work,
        wrt=("a", "b"),
        peers={
            "numpy": lambda np, a, b: a @ b,
            "torch": lambda torch, a, b: a @ b,
            "jax": lambda jax, a, b: a @ b,
        },
        reference=lambda ref, a, b: ref.matmul.vjp(a, b),
        **changes,
    )


@register("matmul")
def cases() -> Iterable[Case]:
    for shape in BIG:
        usual = shape == (512, 768, 768)
        yield linear(*shape, quick=("fwd/f32", "fwd/bf16") if usual else ())
    for shape in THIN:
        yield linear(*shape, modes=("fwd",), quick=("fwd/f32",) if shape == (1, 768, 3072) else ())
    for shape in RECURRENT:
        yield linear(*shape, modes=("fwd",), cache="warm")
    for shape in (*THIN, (512, 768, 3072)):
        yield quantized_linear(*shape, quick=("fwd/int8",) if shape == (1, 768, 3072) else ())
    yield linear_gelu(512, 768, 3072)
    yield matmul(96, 128, 64, 128)
    yield linear(8192, 4096, 4096, devices=("cuda",), quick_cuda=("fwd/bf16",))
