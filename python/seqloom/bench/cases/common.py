# SPDX-License-Identifier: Apache-2.0
"""What the families share: inputs, work, and modules that exist here and in torch alike."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from seqloom.bench.case import DTYPE_NAMES, Answer, Array, Built, Context, Part, Work
from seqloom.bench.libraries import first

# Rows by columns of the row-wise families: a transformer's activations, ones that outgrow every
# cache, a vocabulary, and one so small that only the call is left.
ROW_SIZES = ((4096, 768), (4096, 4096), (32, 50257), (8, 64))
CUDA_ROW_SIZES = ((16384, 4096), (4096, 32768), (512, 262144))
QUICK = ("fwd/f32", "bwd/f32")
QUICK_CUDA = ("fwd/bf16", "bwd/bf16")


# Beyond this many numbers the same ones come again: a host draws a GPU's gigabytes too slowly.
_DRAWN = 1 << 25
# Of arrays larger than this the first rows are checked.
_WHOLE, _CHECKED_ROWS = 1 << 25, 64


def normal(rng: np.random.Generator, *shape: int, scale: float = 1.0) -> Array:
    """float32 normal numbers."""
    count = math.prod(shape)
    if count > _DRAWN:
        values = np.resize(rng.standard_normal(_DRAWN, np.float32), shape)
    else:
        values = rng.standard_normal(shape, np.float32)
    return values if scale == 1.0 else values * np.float32(scale)


def glorot(rng: np.random.Generator, rows: int, columns: int) -> Array:
    """A weight whose products stay of order one."""
    return normal(rng, rows, columns, scale=float(columns) ** -0.5)


def elementwise_work(
    count: float, *, fwd: tuple[float, float], bwd: tuple[float, float]
) -> Callable[[str, float], Work]:
    """Work in arrays moved and operations, both for each element."""

    def work(mode: str, item: float) -> Work:
        ahead = Work(fwd[0] * count * item, fwd[1] * count)
        back = Work(bwd[0] * count * item, bwd[1] * count)
        return {"fwd": ahead, "bwd": back, "fwdbwd": ahead + back}[mode]

    return work


def by_rows(
    reference: Callable[..., Any],
    rows: int,
    columns: int,
    *,
    rowwise: tuple[str, ...] = ("x",),
    axis: int = 0,
    checked: int = _CHECKED_ROWS,
    whole: int = _WHOLE,
) -> Callable[..., Any]:
    """The reference of an operation on each row for itself, of the first rows where there are many.

    `rowwise` names the inputs that have the rows along `axis` (or are one number a row); gradients
    of others, which sum over all rows, are compared at whole arrays only.
    """
    if rows * columns <= whole:
        return reference
    head = (slice(None),) * axis + (slice(0, checked),)

    def part(ref: Any, **inputs: Any) -> Any:
        cut = {n: v[head[-v.ndim :]] if n in rowwise else v for n, v in inputs.items()}
        value, pull = reference(ref, **cut)
        value = first(value)

        def backward(dy: Array) -> dict[str, Part]:
            return {n: Part(head, g) for n, g in pull(dy[head]).items() if n in rowwise}

        return Part(head, value), backward

    return part


def cache_of(count: float) -> str:
    """Rows that measure the call rather than the memory are warm."""
    return "warm" if count <= 4096 else "cold"


def module(
    make: Callable[[Any], Any],
    truth: Callable[[Any, dict[str, Array], Array], Array],
    call: Callable[[Any, Any], Any] | None = None,
) -> Built:
    """A contestant from an ``nn`` module that torch and seqloom spell the same way.

    ``make(nn)`` builds it, ``call(module, x)`` gives its output (by default ``module(x)``), and
    ``truth(reference, parameters, x)`` the same from NumPy arrays. Forward runs in evaluation mode
    without a graph; with a backward pass the gradients of the input and of all parameters are
    computed.
    """
    apply = call if call is not None else (lambda built, x: built(x))

    def prepare(context: Context) -> tuple[Any, Any]:
        library, training = context.library, context.mode != "fwd"
        built = make(library.nn)
        dtype = dtype_of(context)
        built = built.to(dtype=dtype, device=context.device)
        built.train() if training else built.eval()
        x = to_tensor(library, context.inputs["x"]).to(dtype=dtype, device=context.device)
        return built, x

    def build(context: Context) -> Callable[[], Any]:
        library = context.library
        built, x = prepare(context)
        if context.mode == "fwd":

            def forward() -> Any:
                with library.no_grad():
                    return apply(built, x)

            return forward
        x.requires_grad = True
        leaves = [x, *built.parameters()]
        shape = first(apply(built, x)).shape
        rng = np.random.default_rng(7)
        dy = to_tensor(library, rng.standard_normal(tuple(shape), np.float32))
        dy = dy.to(dtype=dtype_of(context), device=context.device)
        grad = library.autograd.grad
        return lambda: grad(first(apply(built, x)), leaves, dy)

    def judged(context: Context, reference: Any) -> Answer:
        built, x = prepare(context)
        with context.library.no_grad():
            value = first(apply(built, x))
        parameters = {name: _array(p) for name, p in built.named_parameters()}

        def expected(dtype: Any) -> Array:
            exact = {name: p.astype(dtype) for name, p in parameters.items()}
            return truth(reference, exact, _array(x).astype(dtype))

        return Answer(value, expected)

    return Built(build, modes=("fwd", "fwdbwd"), dtypes=("f32", "bf16"), judged=judged)


def dtype_of(context: Context) -> Any:
    """The dtype of the case as the library spells it."""
    return getattr(context.library, DTYPE_NAMES[context.dtype])


def _array(tensor: Any) -> Array:
    return np.asarray(tensor.detach().cpu().numpy())


def to_tensor(library: Any, array: Array) -> Any:
    """A copy of a NumPy array as torch's or seqloom's Tensor."""
    return library.tensor(np.ascontiguousarray(array))
