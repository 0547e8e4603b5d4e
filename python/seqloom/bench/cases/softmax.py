# SPDX-License-Identifier: Apache-2.0
"""softmax and log_softmax over rows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from seqloom.bench.case import Case, register
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


def _numpy_softmax(np: Any, x: Any) -> Any:
    e = np.exp(x - x.max(-1, keepdims=True))
    e /= e.sum(-1, keepdims=True)
    return e


def _numpy_log_softmax(np: Any, x: Any) -> Any:
    z = x - x.max(-1, keepdims=True)
    z -= np.log(np.exp(z).sum(-1, keepdims=True))
    return z


def softmax(rows: int, columns: int, *, log: bool = False, **changes: Any) -> Case:
    """softmax or log_softmax of [rows, columns]."""
    name = "log_softmax" if log else "softmax"
    return Case(
        family="softmax",
        name=name,
        label=f"{rows}x{columns}",
        sizes={"rows": rows, "columns": columns},
        make=lambda rng: {"x": normal(rng, rows, columns, scale=2.0)},
        ours=lambda sl, x: getattr(sl.ops, name)(x),
        needs=(f"ops.{name}",),
        work=elementwise_work(rows * columns, fwd=(2, 5), bwd=(3, 4)),
        wrt=("x",),
        peers={
            "numpy": _numpy_log_softmax if log else _numpy_softmax,
            "torch": lambda torch, x: getattr(torch, name)(x, -1),
            "onnxruntime": node("LogSoftmax" if log else "Softmax", ["x"], axis=-1),
            "jax": lambda jax, x: getattr(jax.nn, name)(x),
        },
        reference=by_rows(lambda ref, x: getattr(ref, name).vjp(x, -1), rows, columns),
        cache=cache_of(rows * columns),
        **changes,
    )


@register("softmax")
def cases() -> Iterable[Case]:
    for log in (False, True):
        for rows, columns in ROW_SIZES:
            quick = QUICK if (rows, columns) == (4096, 768) and not log else ()
            yield softmax(rows, columns, log=log, quick=quick, compiled=columns == 768)
        for rows, columns in CUDA_ROW_SIZES:
            quick = QUICK_CUDA if columns == 4096 and not log else ()
            yield softmax(rows, columns, log=log, devices=("cuda",), quick_cuda=quick)
