# SPDX-License-Identifier: Apache-2.0
"""Cross-entropy over a vocabulary, with and without the projection to it, and CTC."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from seqloom.bench.case import Case, Part, Work, register
from seqloom.bench.cases.common import by_rows, glorot, normal

# Rows whose gradient is compared: float64 gradients of a whole vocabulary would take gigabytes.
_CHECKED = 64


def _in_chunks(ref: Any, logits: Any, targets: Any) -> tuple[Any, Callable[[Any], dict[str, Any]]]:
    """The mean cross-entropy a few rows at a time, and the gradient of the first rows."""
    rows = len(targets)
    total = np.asarray(0.0, logits.dtype)
    for start in range(0, rows, 128):
        chunk = slice(start, start + 128)
        total = total + ref.cross_entropy(logits[chunk], targets[chunk], reduction="sum")

    def backward(dy: Any) -> dict[str, Any]:
        head = slice(0, _CHECKED)
        _, pull = ref.cross_entropy.vjp(logits[head], targets[head], reduction="sum")
        return {"logits": Part((head,), pull(dy / rows)["logits"])}

    return total / rows, backward


def _each(ref: Any, logits: Any, targets: Any) -> Any:
    return ref.cross_entropy.vjp(logits, targets, reduction="none")


def _jax_cross_entropy(jax: Any, logits: Any, targets: Any) -> Any:
    logp = jax.nn.log_softmax(logits.astype("float32"))
    return -jax.numpy.take_along_axis(logp, targets[:, None], 1).mean()


def _numpy_cross_entropy(np: Any, logits: Any, targets: Any) -> Any:
    z = logits - logits.max(-1, keepdims=True)
    return (np.log(np.exp(z).sum(-1)) - z[np.arange(len(targets)), targets]).mean()


def cross_entropy(rows: int, classes: int, *, each: bool = False, **changes: Any) -> Case:
    """The cross-entropy of logits [rows, classes]: the mean, or that of each row."""
    count = float(rows) * classes
    way = {"reduction": "none"} if each else {}

    def work(mode: str, item: float) -> Work:
        # One pass over the logits is enough for both: the gradient can be written as they are read.
        moved = {"fwd": 1.0, "bwd": 2.0, "fwdbwd": 2.0}[mode]
        return Work(moved * count * item, {"fwd": 4.0, "bwd": 4.0, "fwdbwd": 6.0}[mode] * count)

    return Case(
        family="loss",
        name="cross_entropy",
        label=f"{rows}x{classes}" + ("_each" if each else ""),
        sizes={"rows": rows, "classes": classes},
        make=lambda rng: {
            "logits": normal(rng, rows, classes),
            "targets": rng.integers(0, classes, rows),
        },
        ours=lambda sl, logits, targets: sl.ops.cross_entropy(logits, targets, **way),
        needs=("ops.cross_entropy",),
        work=work,
        wrt=("logits",),
        peers={
            "torch": lambda torch, logits, targets: torch.nn.functional.cross_entropy(
                logits, targets, **way
            ),
            **({} if each else {"numpy": _numpy_cross_entropy, "jax": _jax_cross_entropy}),
        },
        reference=by_rows(_each, rows, classes, rowwise=("logits", "targets"))
        if each
        else _in_chunks,
        modes=("fwd", "fwdbwd"),
        compiled=True,
        **changes,
    )


def linear_cross_entropy(
    rows: int, width: int, classes: int, *, each: bool = False, **changes: Any
) -> Case:
    """Cross-entropy of ``hidden @ weight.T`` without ever holding those logits."""
    way = {"reduction": "none"} if each else {}

    def work(mode: str, item: float) -> Work:
        product = 2.0 * rows * width * classes
        arrays = (rows * width + classes * width) * item
        return {
            "fwd": Work(arrays, product),
            "bwd": Work(2 * arrays, 3 * product),
            "fwdbwd": Work(3 * arrays, 3 * product),
        }[mode]

    def reference(ref: Any, hidden: Any, weight: Any, targets: Any) -> Any:
        total = np.asarray(0.0, hidden.dtype)
        for start in range(0, rows, 128):
            chunk = slice(start, start + 128)
            logits = hidden[chunk] @ weight.T
            total = total + ref.cross_entropy(logits, targets[chunk], reduction="sum")

        def backward(dy: Any) -> dict[str, Any]:
            head = slice(0, _CHECKED)
            _, pull = ref.cross_entropy.vjp(hidden[head] @ weight.T, targets[head], reduction="sum")
            return {"hidden": Part((head,), pull(dy / rows)["logits"] @ weight)}

        return total / rows, backward

    def each_reference(ref: Any, hidden: Any, weight: Any, targets: Any) -> Any:
        value, pull = _each(ref, hidden @ weight.T, targets)
        return value, lambda dy: {"hidden": pull(dy)["logits"] @ weight}

    return Case(
        family="loss",
        name="linear_cross_entropy",
        label=f"{rows}x{width}x{classes}" + ("_each" if each else ""),
        sizes={"rows": rows, "width": width, "classes": classes},
        make=lambda rng: {
            "hidden": normal(rng, rows, width),
            "weight": glorot(rng, classes, width),
            "targets": rng.integers(0, classes, rows),
        },
        ours=lambda sl, hidden, weight, targets: sl.ops.linear_cross_entropy(
            hidden, weight, targets, **way
        ),
        needs=("ops.linear_cross_entropy",),
        work=work,
        wrt=("hidden", "weight"),
        peers={
            "torch": lambda torch, hidden, weight, targets: torch.nn.functional.cross_entropy(
                hidden @ weight.T, targets, **way
            ),
        },
        reference=by_rows(each_reference, rows, classes, rowwise=("hidden", "targets"))
        if each
        else reference,
        modes=("fwd", "fwdbwd"),
        **changes,
    )


def ctc_loss(length: int, batch: int, classes: int, labels: int, **changes: Any) -> Case:
    """CTC of [length, batch, classes] against `labels` labels a sequence."""
    count = float(length) * batch * classes

    def make(rng: np.random.Generator) -> dict[str, Any]:
        logits = normal(rng, length, batch, classes)
        logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        return {
            "log_probs": logp.astype(np.float32),
            "targets": rng.integers(1, classes, (batch, labels)),
            "input_lengths": np.full(batch, length),
            "target_lengths": np.full(batch, labels),
        }

    def work(mode: str, item: float) -> Work:
        states = float(length) * batch * (2 * labels + 1)
        moved = {"fwd": 1.0, "bwd": 2.0, "fwdbwd": 2.0}[mode]
        return Work(moved * count * item, {"fwd": 6, "bwd": 12, "fwdbwd": 18}[mode] * states)

    return Case(
        family="loss",
        name="ctc_loss",
        label=f"T{length}_B{batch}_C{classes}_L{labels}",
        sizes={"length": length, "batch": batch, "classes": classes, "labels": labels},
        make=make,
        ours=lambda sl, **inputs: sl.ops.ctc_loss(**inputs),
        needs=("ops.ctc_loss",),
        work=work,
        wrt=("log_probs",),
        peers={"torch": lambda torch, **inputs: torch.nn.functional.ctc_loss(**inputs)},
        reference=lambda ref, **inputs: ref.ctc_loss.vjp(**inputs),
        modes=("fwd", "fwdbwd"),
        dtypes=("f32",),
        **changes,
    )


@register("loss")
def cases() -> Iterable[Case]:
    yield cross_entropy(2048, 50257)
    yield cross_entropy(256, 50257, quick=("fwd/f32", "fwdbwd/f32"))
    yield linear_cross_entropy(1024, 768, 50257)
    yield ctc_loss(256, 16, 64, 48)
    on_gpu: dict[str, Any] = {"each": True, "devices": ("cuda",)}
    yield cross_entropy(8192, 131072, quick_cuda=("fwd/bf16", "fwdbwd/bf16"), **on_gpu)
    yield linear_cross_entropy(8192, 4096, 131072, quick_cuda=("fwdbwd/bf16",), **on_gpu)
