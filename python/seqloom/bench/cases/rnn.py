# SPDX-License-Identifier: Apache-2.0
"""RNN, GRU and LSTM over whole sequences: one layer, stacks, ragged batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from seqloom.bench.case import Case, Contender, Work, register
from seqloom.bench.cases.common import by_rows, module, normal
from seqloom.bench.onnx_models import node

GATES = {"rnn": 1, "gru": 3, "lstm": 4}
# ONNX wants its gates in its own order: update, reset, new; input, output, forget, cell.
_ONNX_ORDER = {"rnn": (0,), "gru": (1, 0, 2), "lstm": (0, 3, 1, 2)}
_ONNX_NAME = {"rnn": "RNN", "gru": "GRU", "lstm": "LSTM"}


def recurrent_work(
    cell: str, steps: float, batch: int, width: int, hidden: int
) -> Callable[[str, float], Work]:
    """The products of all steps; the weights count once, as if they stayed in the cache."""
    gates = GATES[cell]
    flops = 2.0 * steps * batch * gates * hidden * (width + hidden)
    weights = gates * hidden * (width + hidden)
    arrays = steps * batch * (width + hidden) + weights

    def work(mode: str, item: float) -> Work:
        ahead, back = Work(arrays * item, flops), Work(2 * arrays * item, 2 * flops)
        return {"fwd": ahead, "bwd": back, "fwdbwd": ahead + back}[mode]

    return work


def _weights(rng: np.random.Generator, cell: str, width: int, hidden: int) -> dict[str, Any]:
    # torch's initialisation: uniform within one over the square root of the hidden width.
    rows, bound = GATES[cell] * hidden, hidden**-0.5

    def uniform(*shape: int) -> Any:
        return rng.uniform(-bound, bound, shape).astype(np.float32)

    return {
        "w_ih": uniform(rows, width),
        "w_hh": uniform(rows, hidden),
        "b_ih": uniform(rows),
        "b_hh": uniform(rows),
    }


def _ours(cell: str) -> Callable[..., Any]:
    def call(sl: Any, x: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any, **more: Any) -> Any:
        states = (None, None) if cell == "lstm" else (None,)
        return getattr(sl.ops, cell)(x, *states, w_ih, w_hh, b_ih, b_hh, **more)

    return call


def _in_torch(cell: str, hidden: int) -> Callable[..., Any]:
    def call(torch: Any, x: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any) -> Any:
        function = torch.rnn_tanh if cell == "rnn" else getattr(torch, cell)
        zeros = x.new_zeros(1, x.shape[1], hidden)
        state = (zeros, zeros) if cell == "lstm" else zeros
        weights = [w_ih, w_hh, b_ih, b_hh]
        return function(x, state, weights, True, 1, 0.0, x.requires_grad, False, False)

    return call


def _in_onnx(cell: str, hidden: int) -> Contender:
    def prepare(inputs: Any) -> dict[str, Any]:
        def reorder(name: str) -> Any:
            parts = np.split(inputs[name], GATES[cell])
            return np.concatenate([parts[k] for k in _ONNX_ORDER[cell]])[None]

        bias = np.concatenate([reorder("b_ih"), reorder("b_hh")], axis=1)
        return {"x": inputs["x"], "w": reorder("w_ih"), "r": reorder("w_hh"), "b": bias}

    extra = {"linear_before_reset": 1} if cell == "gru" else {}
    return node(
        _ONNX_NAME[cell], ["x", "w", "r", "b"], constants=["w", "r", "b"], prepare=prepare,
        outputs=3 if cell == "lstm" else 2, hidden_size=hidden, **extra,
    )  # fmt: skip


def _reference(cell: str) -> Callable[..., Any]:
    def call(ref: Any, x: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any, **more: Any) -> Any:
        states = (None, None) if cell == "lstm" else (None,)
        return getattr(ref, cell).vjp(x, *states, w_ih, w_hh, b_ih, b_hh, **more)

    return call


def _of_batch(
    reference: Callable[..., Any], steps: int, batch: int, hidden: int
) -> Callable[..., Any]:
    """Sequences don't depend on each other: of long batches the first one is checked."""
    size, rows = steps * hidden, ("x", "lengths")
    return by_rows(reference, batch, size, rowwise=rows, axis=1, checked=1, whole=1 << 22)


def recurrent(cell: str, steps: int, batch: int, width: int, hidden: int, **changes: Any) -> Case:
    """One layer in one direction over [steps, batch, width]."""
    return Case(
        family="rnn",
        name=cell,
        label=f"T{steps}_B{batch}_I{width}_H{hidden}",
        sizes={"steps": steps, "batch": batch, "width": width, "hidden": hidden},
        make=lambda rng: {
            "x": normal(rng, steps, batch, width),
            **_weights(rng, cell, width, hidden),
        },
        ours=_ours(cell),
        needs=(f"ops.{cell}",),
        work=recurrent_work(cell, steps, batch, width, hidden),
        wrt=("x", "w_ih", "w_hh", "b_ih", "b_hh"),
        peers={"torch": _in_torch(cell, hidden), "onnxruntime": _in_onnx(cell, hidden)},
        reference=_of_batch(_reference(cell), steps, batch, hidden),
        **{"modes": ("fwd", "fwdbwd"), **changes},
    )


def ragged(cell: str, steps: int, batch: int, width: int, hidden: int, **changes: Any) -> Case:
    """The same with lengths between one and `steps`, half of it on average; torch packs."""
    plain = recurrent(cell, steps, batch, width, hidden)

    def make(rng: np.random.Generator) -> dict[str, Any]:
        lengths = np.linspace(1, steps, batch).round().astype(np.int64)
        return {**plain.make(rng), "lengths": rng.permutation(lengths)}

    def in_torch(
        torch: Any, x: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any, lengths: Any
    ) -> Any:
        utilities = torch.nn.utils.rnn
        packed = utilities.pack_padded_sequence(x, lengths.cpu(), enforce_sorted=False)
        zeros = x.new_zeros(1, batch, hidden)
        state = (zeros, zeros) if cell == "lstm" else zeros
        function = torch.rnn_tanh if cell == "rnn" else getattr(torch, cell)
        out = function(
            packed.data, packed.batch_sizes, state, [w_ih, w_hh, b_ih, b_hh], True, 1, 0.0,
            x.requires_grad, False,
        )  # fmt: skip
        rows = utilities.PackedSequence(
            out[0], packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices
        )
        return utilities.pad_packed_sequence(rows, total_length=steps)[0]

    return replace(
        plain,
        name=f"{cell}_ragged",
        make=make,
        work=recurrent_work(cell, (steps + 1) / 2, batch, width, hidden),
        peers={"torch": in_torch},
        **{"dtypes": ("f32",), **changes},
    )


def stack(cell: str, steps: int, batch: int, width: int, hidden: int, **changes: Any) -> Case:
    """Two bidirectional layers, through the modules."""
    class_name = _ONNX_NAME[cell]

    def truth(ref: Any, p: dict[str, Any], x: Any) -> Any:
        states = (None, None) if cell == "lstm" else (None,)
        for layer in range(2):
            ways = []
            for suffix in ("", "_reverse"):
                names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
                weights = [p[f"{name}_l{layer}{suffix}"] for name in names]
                ways.append(getattr(ref, cell)(x, *states, *weights, reverse=bool(suffix))[0])
            x = np.concatenate(ways, axis=-1)
        return x

    contestant = module(
        lambda nn: getattr(nn, class_name)(width, hidden, num_layers=2, bidirectional=True),
        truth,
        lambda built, x: built(x)[0],
    )
    first = recurrent_work(cell, steps, batch, width, hidden)
    second = recurrent_work(cell, steps, batch, 2 * hidden, hidden)

    def work(mode: str, item: float) -> Work:
        both = first(mode, item) + second(mode, item)
        return both + both

    return Case(
        family="rnn",
        name=f"{cell}_2bi",
        label=f"T{steps}_B{batch}_I{width}_H{hidden}",
        sizes={"steps": steps, "batch": batch, "width": width, "hidden": hidden},
        make=lambda rng: {"x": normal(rng, steps, batch, width)},
        ours=contestant,
        needs=(f"nn.{class_name}",),
        work=work,
        peers={"torch": contestant},
        **{"modes": ("fwd", "fwdbwd"), "dtypes": ("f32",), **changes},
    )


def layer_norm_lstm(steps: int, batch: int, width: int, hidden: int, **changes: Any) -> Case:
    """The LSTM with normalised gates and cell; no peer has a kernel for it."""
    plain = recurrent("lstm", steps, batch, width, hidden)
    scales = {"norm_x": 4 * hidden, "norm_h": 4 * hidden, "norm_c": hidden, "shift_c": hidden}

    def make(rng: np.random.Generator) -> dict[str, Any]:
        return {**plain.make(rng), **{k: 1 + normal(rng, n, scale=0.1) for k, n in scales.items()}}

    def split(inputs: dict[str, Any]) -> tuple[list[Any], tuple[Any, ...]]:
        weights = tuple(inputs.pop(name) for name in scales)
        return [inputs[name] for name in ("w_ih", "w_hh", "b_ih", "b_hh")], weights

    def ours(sl: Any, x: Any, **inputs: Any) -> Any:
        weights, norms = split(inputs)
        return sl.ops.lstm(x, None, None, *weights, layer_norm=norms)

    def reference(ref: Any, x: Any, **inputs: Any) -> Any:
        weights, norms = split(inputs)
        return ref.lstm.vjp(x, None, None, *weights, layer_norm_weights=norms)

    return replace(
        plain,
        name="lstm_layer_norm",
        make=make,
        ours=ours,
        peers={},
        reference=_of_batch(reference, steps, batch, hidden),
        **changes,
    )


@register("rnn")
def cases() -> Iterable[Case]:
    for cell in ("rnn", "gru", "lstm"):
        small = ("fwd/f32", "fwdbwd/f32") if cell == "lstm" else ()
        yield recurrent(cell, 128, 1, 64, 64, quick=small)
        yield recurrent(cell, 128, 32, 128, 256, quick=("fwd/f32",) if cell == "lstm" else ())
        yield recurrent(cell, 64, 64, 512, 512)
        yield recurrent(cell, 512, 1, 256, 1024)
        yield ragged(cell, 128, 32, 128, 256)
    yield layer_norm_lstm(128, 32, 128, 256, dtypes=("f32",))
    yield stack("gru", 128, 1, 64, 64)
    yield stack("lstm", 128, 32, 128, 256)

    on_gpu: dict[str, Any] = {"devices": ("cuda",), "dtypes": ("bf16", "f32")}
    ahead, both = ("fwd/bf16",), ("fwd/bf16", "fwdbwd/bf16")
    for cell in ("lstm", "gru"):
        for batch, hidden in ((16, 768), (16, 512), (16, 1024), (64, 1024)):
            short = both if hidden == 768 else ahead if cell == "lstm" else ()
            yield recurrent(cell, 1024, batch, hidden, hidden, quick_cuda=short, **on_gpu)
        yield ragged(cell, 1024, 16, 768, 768, quick_cuda=ahead, **on_gpu)
    yield layer_norm_lstm(1024, 16, 768, 768, quick_cuda=ahead, **on_gpu)
