# SPDX-License-Identifier: Apache-2.0
"""layer_norm and rms_norm over rows, plain and with a residual added."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from seqloom.bench.case import Case, Inputs, register
from seqloom.bench.cases.common import (
    CUDA_ROW_SIZES,
    QUICK,
    QUICK_CUDA,
    ROW_SIZES,
    by_rows,
    cache_of,
    elementwise_work,
    normal,
)
from seqloom.bench.onnx_models import node


def _numpy_layer_norm(np: Any, x: Any, weight: Any, bias: Any) -> Any:
    z = x - x.mean(-1, keepdims=True)
    z /= np.sqrt((z * z).mean(-1, keepdims=True) + 1e-5)
    return z * weight + bias


def _numpy_rms_norm(np: Any, x: Any, weight: Any) -> Any:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * weight


def _jax_layer_norm(jax: Any, x: Any, weight: Any, bias: Any) -> Any:
    z = x - x.mean(-1, keepdims=True)
    return z * jax.lax.rsqrt((z * z).mean(-1, keepdims=True) + 1e-5) * weight + bias


def _jax_rms_norm(jax: Any, x: Any, weight: Any) -> Any:
    return x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-6) * weight


def _torch_layer_norm(torch: Any, x: Any, weight: Any, bias: Any) -> Any:
    return torch.nn.functional.layer_norm(x, (x.shape[-1],), weight, bias, 1e-5)


def _torch_rms_norm(torch: Any, x: Any, weight: Any) -> Any:
    return torch.nn.functional.rms_norm(x, (x.shape[-1],), weight, 1e-6)


def _inputs(
    rng: np.random.Generator, rows: int, columns: int, *, bias: bool, residual: bool
) -> Inputs:
    inputs = {"x": normal(rng, rows, columns)}
    if residual:
        inputs["residual"] = normal(rng, rows, columns)
    inputs["weight"] = 1 + normal(rng, columns, scale=0.1)
    if bias:
        inputs["bias"] = normal(rng, columns, scale=0.1)
    return inputs


def layer_norm(rows: int, columns: int, **changes: Any) -> Case:
    """layer_norm of [rows, columns] with weight and bias."""
    return Case(
        family="norm",
        name="layer_norm",
        label=f"{rows}x{columns}",
        sizes={"rows": rows, "columns": columns},
        make=lambda rng: _inputs(rng, rows, columns, bias=True, residual=False),
        ours=lambda sl, x, weight, bias: sl.ops.layer_norm(x, weight, bias),
        needs=("ops.layer_norm",),
        work=elementwise_work(rows * columns, fwd=(2, 8), bwd=(3, 14)),
        wrt=("x", "weight", "bias"),
        peers={
            "numpy": _numpy_layer_norm,
            "torch": _torch_layer_norm,
            "onnxruntime": node("LayerNormalization", ["x", "weight", "bias"], axis=-1),
            "jax": _jax_layer_norm,
        },
        reference=by_rows(
            lambda ref, x, weight, bias: ref.layer_norm.vjp(x, weight, bias), rows, columns
        ),
        cache=cache_of(rows * columns),
        **changes,
    )


def rms_norm(rows: int, columns: int, **changes: Any) -> Case:
    """rms_norm of [rows, columns] with weight."""
    return Case(
        family="norm",
        name="rms_norm",
        label=f"{rows}x{columns}",
        sizes={"rows": rows, "columns": columns},
        make=lambda rng: _inputs(rng, rows, columns, bias=False, residual=False),
        ours=lambda sl, x, weight: sl.ops.rms_norm(x, weight),
        needs=("ops.rms_norm",),
        work=elementwise_work(rows * columns, fwd=(2, 4), bwd=(3, 10)),
        wrt=("x", "weight"),
        peers={"numpy": _numpy_rms_norm, "torch": _torch_rms_norm, "jax": _jax_rms_norm},
        reference=by_rows(lambda ref, x, weight: ref.rms_norm.vjp(x, weight), rows, columns),
        cache=cache_of(rows * columns),
        **changes,
    )


def add_layer_norm(rows: int, columns: int, **changes: Any) -> Case:
    """(layer_norm(x + residual), x + residual): the step between two transformer blocks."""
    return Case(
        family="norm",
        name="add_layer_norm",
        label=f"{rows}x{columns}",
        sizes={"rows": rows, "columns": columns},
        make=lambda rng: _inputs(rng, rows, columns, bias=True, residual=True),
        ours=lambda sl, x, residual, weight, bias: sl.ops.add_layer_norm(
            x, residual, weight, bias, eps=1e-5
        ),
        needs=("ops.add_layer_norm",),
        work=elementwise_work(rows * columns, fwd=(4, 9), bwd=(3, 14)),
        wrt=("x", "weight", "bias"),
        peers={
            "torch": lambda torch, x, residual, weight, bias: (
                _torch_layer_norm(torch, total := x + residual, weight, bias),
                total,
            ),
        },
        reference=lambda ref, x, residual, weight, bias: ref.add_layer_norm.vjp(
            x, residual, weight, bias
        ),
        cache=cache_of(rows * columns),
        **changes,
    )


def add_rms_norm(rows: int, columns: int, **changes: Any) -> Case:
    """(rms_norm(x + residual), x + residual)."""
    return Case(
        family="norm",
        name="add_rms_norm",
        label=f"{rows}x{columns}",
        sizes={"rows": rows, "columns": columns},
        make=lambda rng: _inputs(rng, rows, columns, bias=False, residual=True),
        ours=lambda sl, x, residual, weight: sl.ops.add_rms_norm(x, residual, weight, eps=1e-6),
        needs=("ops.add_rms_norm",),
        work=elementwise_work(rows * columns, fwd=(4, 5), bwd=(3, 10)),
        wrt=("x", "weight"),
        peers={
            "torch": lambda torch, x, residual, weight: (
                _torch_rms_norm(torch, total := x + residual, weight),
                total,
            ),
        },
        reference=lambda ref, x, residual, weight: ref.add_rms_norm.vjp(x, residual, weight),
        cache=cache_of(rows * columns),
        **changes,
    )


@register("norm")
def cases() -> Iterable[Case]:
    for build in (layer_norm, rms_norm):
        for rows, columns in ROW_SIZES:
            usual = (rows, columns) == (4096, 768)
            quick = QUICK if usual and build is layer_norm else ("fwd/f32",) if usual else ()
            yield build(rows, columns, quick=quick, compiled=usual)
        for rows, columns in CUDA_ROW_SIZES:
            quick = QUICK_CUDA if columns == 4096 else ()
            yield build(rows, columns, devices=("cuda",), quick_cuda=quick)
    yield add_layer_norm(4096, 768, compiled=True)
    yield add_rms_norm(4096, 768, compiled=True)
