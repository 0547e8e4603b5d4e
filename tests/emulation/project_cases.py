# SPDX-License-Identifier: Apache-2.0
"""Runs one case of project_mutations.py under several schedules; prints how an error showed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import reference as ref
import seqloom as sl
from seqloom import _core
from seqloom.ops.cache import cache_write as write_rows

RUNS = [("fifo", 1, "lazy"), ("reverse", 1, "lazy"), ("random", 1, "lazy"), ("random", 2, "eager")]
Pairs = list[tuple[Any, np.ndarray]]


def device(a: np.ndarray, dtype: str = "float32", grad: bool = False) -> sl.Tensor:
    t = sl.tensor(a).to(device="cuda")
    t = t.to(dtype=dtype) if np.issubdtype(a.dtype, np.floating) else t
    t.requires_grad = grad
    return t


def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def softmax(shape: tuple[int, ...], axis: int = -1) -> Pairs:
    x = rng().standard_normal(shape).astype(np.float32) * 3
    e = np.exp(x.astype(np.float64) - x.max(axis, keepdims=True))
    return [(sl.ops.softmax(device(x), axis=axis), e / e.sum(axis, keepdims=True))]


def softmax_misaligned() -> Pairs:
    x = rng().standard_normal(4 * 64 + 1).astype(np.float32)
    e = np.exp(x[1:].reshape(4, 64).astype(np.float64))
    return [(sl.ops.softmax(device(x)[1:].reshape(4, 64)), e / e.sum(-1, keepdims=True))]


def softmax_backward() -> Pairs:
    x, g = rng().standard_normal((2, 3, 500)).astype(np.float32)
    t = device(x, grad=True)
    sl.ops.softmax(t).backward(device(g))
    e = np.exp(x.astype(np.float64) - x.max(-1, keepdims=True))
    y = e / e.sum(-1, keepdims=True)
    return [(t.grad, y * (g - (g * y).sum(-1, keepdims=True)))]


def normed(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    d = x.astype(np.float64) - x.mean(-1, keepdims=True, dtype=np.float64)
    r = 1 / np.sqrt((d * d).mean(-1, keepdims=True) + 1e-5)
    return d * r, r


def norm(shape: tuple[int, int], weights: bool = True) -> Pairs:
    x = rng().standard_normal(shape).astype(np.float32) + 2
    w = rng().standard_normal(shape[1]).astype(np.float32)
    y = sl.ops.layer_norm(device(x), device(w) if weights else None)
    return [(y, normed(x)[0] * (w if weights else 1))]


def norm_backward(columns: int, rows: int = 200, capability: int = 90) -> Pairs:
    """The parameters with the rows; or, where shared memory is too small for them, apart."""
    _core.emulation_configure("capability", str(capability))
    r = rng()
    x, g = r.standard_normal((2, rows, columns)).astype(np.float32)
    w, b = r.standard_normal((2, columns)).astype(np.float32)
    t, weight, bias = device(x, grad=True), device(w, grad=True), device(b, grad=True)
    sl.ops.layer_norm(t, weight, bias).backward(device(g))
    _core.emulation_configure("capability", "90")
    xhat, scale = normed(x)
    gw = g * w
    dx = scale * (gw - gw.mean(-1, keepdims=True) - xhat * (gw * xhat).mean(-1, keepdims=True))
    return [(t.grad, dx), (weight.grad, (g * xhat).sum(0)), (bias.grad, g.sum(0))]


def product(dtype: str, m: int, k: int, n: int, capability: int = 90) -> Pairs:
    _core.emulation_configure("capability", str(capability))
    r = rng()
    a, b = (device(r.standard_normal(s).astype(np.float32), dtype) for s in ((m, k), (k, n)))
    want = [x.to(dtype="float32").cpu().numpy().astype(np.float64) for x in (a, b)]
    got = sl.ops.matmul(a, b)
    _core.emulation_configure("capability", "90")
    return [(got, want[0] @ want[1])]


def column_sums() -> Pairs:
    r = rng()
    x, w, b = (r.standard_normal(s).astype(np.float32) for s in ((90, 24), (70, 24), (70,)))
    bias = device(b, grad=True)
    y = sl.ops.linear(device(x), device(w), bias)
    g = r.standard_normal((90, 70)).astype(np.float32)
    y.backward(device(g))
    return [(y, x.astype(np.float64) @ w.T + b), (bias.grad, g.sum(0, dtype=np.float64))]


def embedding_backward() -> Pairs:
    r = rng()
    ids, table = r.integers(0, 9, 50), r.standard_normal((11, 20)).astype(np.float32)
    g = r.standard_normal((50, 20)).astype(np.float32)
    weight = device(table, grad=True)
    y = sl.ops.embedding(device(ids), weight)
    y.backward(device(g))
    want = np.zeros((11, 20))
    np.add.at(want, ids, g)
    return [(y, table[ids]), (weight.grad, want)]


def reduced(name: str, axis: int, shape: tuple[int, ...] = (7, 600)) -> Pairs:
    x = rng().standard_normal(shape).astype(np.float32)
    return [(getattr(device(x), name)(axis), getattr(np, name)(x.astype(np.float64), axis))]


def sort_rows() -> Pairs:
    x = rng().standard_normal((3, 300)).astype(np.float32)
    values, order = device(x).sort(-1)
    return [(values, np.sort(x, -1)), (order, np.argsort(x, -1, kind="stable"))]


def triangle() -> Pairs:
    x = rng().standard_normal((20, 30)).astype(np.float32)
    return [(device(x).tril(), np.tril(x))]


def rotary() -> Pairs:
    r = rng()
    x = r.standard_normal((2, 3, 5, 16)).astype(np.float32)
    c, s = r.standard_normal((2, 5, 8)).astype(np.float32)
    a, b = x[..., :8], x[..., 8:]
    return [(sl.ops.rotary_embedding(device(x), device(c), device(s)),
             np.concatenate([a * c - b * s, b * c + a * s], -1))]  # fmt: skip


def cross_entropy() -> Pairs:
    r = rng()
    x, t = r.standard_normal((5, 2000)).astype(np.float32) * 3, r.integers(0, 2000, 5)
    logits = device(x, grad=True)
    loss = sl.ops.cross_entropy(logits, device(t))
    loss.backward()
    e = np.exp(x.astype(np.float64) - x.max(-1, keepdims=True))
    p = e / e.sum(-1, keepdims=True)
    onehot = np.eye(2000)[t]
    return [(loss, -np.log(p[np.arange(5), t]).mean()), (logits.grad, (p - onehot) / 5)]


def as_on_cpu(compute: Callable[[str], list[sl.Tensor]]) -> Pairs:
    """What another backend computes, which tests of its own hold to the reference."""
    wanted = [t.detach().to(dtype="float32").numpy().astype(np.float64) for t in compute("cpu")]
    return list(zip(compute("cuda"), wanted, strict=True))


def activation(where: str) -> list[sl.Tensor]:
    x = rng().standard_normal(1003).astype(np.float32)
    return [sl.ops.gelu(sl.tensor(x, device=where)), sl.tensor(x, device=where)[1:] * 2.0]


def dropout(where: str) -> list[sl.Tensor]:
    return [sl.ops.dropout(sl.ones(1000, device=where), 0.3, seed=5)]


def transpose() -> Pairs:
    x = rng().standard_normal((45, 70)).astype(np.float32)
    return [(device(x).transpose(0, 1).contiguous(), x.T)]


def recurrence(where: str, grid: int = -1) -> list[sl.Tensor]:
    """Step by step, or in one launch of `grid` blocks."""
    if where == "cuda":
        _core.rnn_set_grid(grid)
    r = rng()
    shapes = ((5, 3, 7), (3, 9), (36, 7), (36, 9), (36,), (36,))
    x, h0, *weights = (sl.tensor(r.standard_normal(s).astype(np.float32), device=where) * 0.3
                       for s in shapes)  # fmt: skip
    leaves = [x, h0, *weights]
    for t in leaves:
        t.requires_grad = True
    y, h, c = sl.ops.lstm(x, h0, h0, *weights, lengths=np.array([5, 2, 4]))
    (y.sum() + (h * h).sum() + c.sum()).backward()
    return [y, h, c, *(t.grad for t in leaves if t.grad is not None)]


def recurrence_options(where: str) -> list[sl.Tensor]:
    """Projection, layer norm, peepholes and zoneout at once; the GRU whose reset comes first."""
    r = rng()
    shapes = {"x": (4, 3, 5), "h0": (3, 6), "c0": (3, 9), "w_ih": (36, 5), "w_hh": (36, 6),
              "w_hr": (6, 9), "peepholes": (3, 9)}  # fmt: skip
    given = {n: sl.tensor(r.standard_normal(s).astype(np.float32), device=where) * 0.5
             for n, s in shapes.items()}  # fmt: skip
    norm = [sl.tensor(r.standard_normal(n).astype(np.float32), device=where)
            for n in (36, 36, 9, 9)]  # fmt: skip
    first = [sl.tensor(r.standard_normal(s).astype(np.float32), device=where) * 0.5
             for s in ((27, 5), (27, 9))]  # fmt: skip
    leaves = [*given.values(), *norm, *first]
    for t in leaves:
        t.requires_grad = True
    lengths = np.array([4, 1, 3])
    y, h, c = sl.ops.lstm(
        **given, layer_norm=norm, zoneout=0.3, training=False, lengths=lengths
    )  # fmt: skip
    z, last = sl.ops.gru(given["x"], given["c0"], *first, reset_after=False, lengths=lengths)
    ((y * y).sum() + (h * h).sum() + c.sum() + (z * z).sum() + last.sum()).backward()
    return [y, h, c, z, last, *(t.grad for t in leaves if t.grad is not None)]


def adamw(where: str) -> list[sl.Tensor]:
    r = rng()
    leaves = [sl.tensor(r.standard_normal(n).astype(np.float32), device=where) for n in (5000, 70)]
    for t in leaves:
        t.requires_grad = True
        t.grad = t.detach() * 3.0
    optimizer = sl.optim.AdamW(leaves, lr=0.1)
    sl.optim.clip_grad_norm_(leaves, 1.0)
    optimizer.step()
    return [*leaves, *(t.grad for t in leaves if t.grad is not None)]


def adafactor(where: str) -> list[sl.Tensor]:
    r = rng()
    leaves = [sl.tensor(r.standard_normal(s).astype(np.float32), device=where)
              for s in ((300, 70), (2, 9, 5), (500,))]  # fmt: skip
    for t in leaves:
        t.requires_grad = True
        t.grad = t.detach() * 3.0
    optimizer = sl.optim.Adafactor(leaves, lr=0.1)
    optimizer.step()
    return leaves


def ctc(where: str) -> list[sl.Tensor]:
    r = rng()
    x = sl.tensor(r.standard_normal((9, 3, 7)).astype(np.float32), device=where)
    x.requires_grad = True
    targets = sl.tensor(np.array([[1, 2, 2], [3, 0, 0], [5, 1, 5]]), device=where)
    loss = sl.ops.ctc_loss(sl.ops.log_softmax(x), targets, np.array([9, 6, 8]), np.array([3, 1, 3]))
    loss.backward()
    assert x.grad is not None
    return [loss, x.grad]


def quantized() -> Pairs:
    """Ragged and whole rows; the weights as NumPy widens them."""
    r, pairs = rng(), []
    for kind, k in (("int8", 70), ("int8", 64), ("int4", 70), ("int4", 64)):
        w, x = r.standard_normal((9, k)).astype(np.float32), r.standard_normal((6, k))
        q, scales = sl.ops.quantize_weight(device(w), kind)
        back = sl.ops.dequantize_weight(q, scales, kind=kind, width=k)
        wide = sl.ops.dequantize_weight(q.cpu(), scales.cpu(), kind=kind, width=k).numpy()
        wanted = sl.ops.dequantize_weight(*sl.ops.quantize_weight(sl.tensor(w), kind), kind=kind,
                                          width=k)  # fmt: skip
        y = sl.ops.quantized_linear(device(x.astype(np.float32)), q, scales, kind=kind)
        pairs += [(back, wanted.numpy()), (y, x.astype(np.float32) @ wide.T.astype(np.float64))]
    return pairs


def cache_write() -> Pairs:
    """Starts and counts on the device: a row that is left alone, one that meets the end."""
    r, pairs = rng(), []
    for width in (8, 5):
        rows = r.standard_normal((3, 2, 4, width)).astype(np.float32)
        want, buffer = np.zeros((3, 2, 10, width)), sl.zeros(3, 2, 10, width, device="cuda")
        starts, counts = np.array([-1, 2, 8]), np.array([4, 3, 4])
        write_rows(buffer, device(rows), device(starts), device(counts))
        for b, (start, count) in enumerate(zip(starts, counts, strict=True)):
            if start >= 0:
                end = min(start + count, 10)
                want[b, :, start:end] = rows[b, :, : end - start]
        pairs.append((buffer, want))
    return pairs


def attention_widened() -> Pairs:
    """bfloat16 where tensor cores do not know it."""
    _core.emulation_configure("capability", "75")
    try:
        return attended("bfloat16", 40, 70, 16)
    finally:
        _core.emulation_configure("capability", "90")


def attended(
    dtype: str, queries: int, keys: int, width: int, heads: int = 2, mask: bool = False
) -> Pairs:
    r = rng()
    arrays = {"query": r.standard_normal((1, heads, queries, width))}
    arrays |= {n: r.standard_normal((1, 1, keys, width)) for n in ("key", "value")}
    if mask:
        arrays["attn_mask"] = r.standard_normal((heads, 1, keys))
    given = {n: device(a.astype(np.float32), dtype, True) for n, a in arrays.items()}
    exact = {n: t.detach().to(dtype="float32").cpu().numpy().astype(np.float64)
             for n, t in given.items()}  # fmt: skip
    options: dict[str, Any] = {"is_causal": True, "causal_offset": keys - queries}
    y, pull = ref.scaled_dot_product_attention.vjp(**exact, **options)
    got = sl.ops.scaled_dot_product_attention(**given, **options)
    g = device(r.standard_normal(y.shape).astype(np.float32), dtype)
    got.backward(g)
    wanted = pull(g.to(dtype="float32").cpu().numpy().astype(np.float64))
    return [(got, y), *((t.grad, wanted[n]) for n, t in given.items())]


def additive_scores() -> Pairs:
    r = rng()
    x, y, v = (r.standard_normal(s).astype(np.float32) for s in ((1, 9, 70), (1, 40, 70), (70,)))
    got = _core.additive_scores(device(x), device(y), device(v), None)
    return [(got, np.tanh(x[:, :, None].astype(np.float64) + y[:, None]) @ v)]


CASES: dict[str, Callable[[], Pairs]] = {
    "softmax_short": lambda: softmax((6, 300)),
    "softmax_odd": lambda: softmax((6, 301)),
    "softmax_long": lambda: softmax((3, 2500)),
    "softmax_misaligned": softmax_misaligned,
    "softmax_cluster": lambda: softmax((2, 20000)),
    "softmax_columns": lambda: softmax((40, 70), 0),
    "softmax_backward": softmax_backward,
    "norm_plain": lambda: norm((5, 64), False),
    "norm_long": lambda: norm((3, 2048)),
    "norm_backward": lambda: norm_backward(40),
    "norm_apart": lambda: norm_backward(8001, 70, 75),
    "sum_rows": lambda: reduced("sum", -1),
    "sum_columns": lambda: reduced("sum", 0, (50, 70)),
    "cumsum": lambda: reduced("cumsum", -1),
    "sort_rows": sort_rows,
    "tensor_product": lambda: product("bfloat16", 100, 200, 90),
    "plain_product": lambda: product("float32", 70, 50, 90),
    "turing_product": lambda: product("float16", 70, 72, 90, 75),
    "column_sums": column_sums,
    "embedding_backward": embedding_backward,
    "triangle": triangle,
    "rotary": rotary,
    "cross_entropy": cross_entropy,
    "activation": lambda: as_on_cpu(activation),
    "dropout": lambda: as_on_cpu(dropout),
    "transpose": transpose,
    "recurrence": lambda: as_on_cpu(recurrence),
    "recurrence_grid": lambda: as_on_cpu(lambda where: recurrence(where, 2)),
    "recurrence_options": lambda: as_on_cpu(recurrence_options),
    "adamw": lambda: as_on_cpu(adamw),
    "adafactor": lambda: as_on_cpu(adafactor),
    "ctc": lambda: as_on_cpu(ctc),
    "quantized": quantized,
    "cache_write": cache_write,
    "attention_widened": attention_widened,
    "attention": lambda: attended("bfloat16", 70, 150, 64),
    "attention_float": lambda: attended("float32", 40, 70, 24),
    "attention_decode": lambda: attended("float32", 1, 700, 16, 1),
    "attention_mask": lambda: attended("float32", 40, 70, 24, mask=True),
    "additive_scores": additive_scores,
}


def wrong(pairs: Pairs) -> str:
    for got, want in pairs:
        values = got.detach().to(dtype="float32").cpu().numpy().astype(np.float64)
        tolerance = 2e-2 if "bfloat16" in str(got.dtype) or "float16" in str(got.dtype) else 1e-4
        error = np.abs(values - want) / (1 + np.abs(want))
        worst = np.where(np.isnan(error), np.inf, error).max()
        if not worst < tolerance:
            return f"error {worst:.3g}"
    return ""


def main() -> None:
    for number, (schedule, seed, copies) in enumerate(RUNS, 1):
        for name, value in (("schedule", schedule), ("seed", seed), ("async", copies)):
            _core.emulation_configure(name, str(value))
        try:
            text, kind = wrong(CASES[sys.argv[1]]()), "numbers"
        except RuntimeError as e:
            lines = [line.strip() for line in str(e).splitlines()]
            text, kind = (
                next((x for x in lines if x.startswith("*")), lines[0]).removeprefix("* "),
                "report",
            )
        if text:
            print(json.dumps([kind, number, text]))
            return
    print(json.dumps(["missed", len(RUNS), ""]))


if __name__ == "__main__":
    main()
