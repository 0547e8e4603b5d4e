# SPDX-License-Identifier: Apache-2.0
"""What the fuzz test calls: every public op and Tensor method with arguments that fit.

A case draws a `Call`: a function and its arguments by name. As drawn they are valid; the test
then replaces some of them with `junk`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

import seqloom as sl
from support import np_dtype

KERNEL_FLOATS = ("float32", "float16", "bfloat16")
DTYPES = (*KERNEL_FLOATS, "float64", "int64", "int32", "int8", "uint8", "bool")
EXTENTS = st.sampled_from([0, 1, 1, 2, 3, 4, 5, 8, 17])


@dataclass
class Call:
    function: Callable[..., Any]
    arguments: dict[str, Any]


class Drawer:
    """Draws for one call: extents, tensors of one dtype on one device, options."""

    def __init__(self, draw: Callable[[st.SearchStrategy[Any]], Any], device: str) -> None:
        self.draw, self.device = draw, device
        self.dtype = draw(st.sampled_from(KERNEL_FLOATS))
        self.rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    def extent(self, least: int = 0) -> int:
        return max(least, self.draw(EXTENTS))

    def extents(self, least: int = 0, most: int = 4) -> tuple[int, ...]:
        return tuple(self.draw(st.lists(EXTENTS, min_size=least, max_size=most)))

    def tensor(self, *shape: int, dtype: str | None = None) -> sl.Tensor:
        dtype = dtype or self.dtype
        kind = np_dtype(dtype)
        if dtype in (*KERNEL_FLOATS, "float64"):
            a = self.rng.standard_normal(shape)
            if self.chance(0.05) and a.size:
                a.flat[0] = self.choose(np.nan, np.inf, -np.inf)
        else:
            a = self.rng.integers(0, 2 if dtype == "bool" else 5, shape)
        t = sl.tensor(a.astype(kind), device=self.device)
        if t.dtype.is_floating_point and self.chance(0.5):
            t.requires_grad = True
        return t

    def any_of(self, *shape: int) -> sl.Tensor:
        return self.tensor(*shape, dtype=self.draw(st.sampled_from(DTYPES)))

    def any_tensor(self, least: int = 0, most: int = 4) -> sl.Tensor:
        return self.any_of(*self.extents(least, most))

    def integers(self, high: int, *shape: int) -> sl.Tensor:
        a = self.rng.integers(0, max(high, 1), shape)
        return sl.tensor(a.astype(self.choose("int64", "int32")), device=self.device)

    def lengths(self, high: int, batch: int) -> Any:
        a = self.rng.integers(0, high + 1, batch)
        return self.choose(a, sl.tensor(a, device=self.device))

    def choose(self, *values: Any) -> Any:
        return self.draw(st.sampled_from(values))

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def axis(self, rank: int) -> int:
        return self.draw(st.integers(-max(rank, 1), max(rank, 1) - 1))

    def options(self, **values: Any) -> dict[str, Any]:
        """Some of these keywords."""
        return {n: v for n, v in values.items() if self.chance(0.4)}


CASES: dict[str, Callable[[Drawer], Call]] = {}


def case(function: Callable[[Drawer], Call]) -> Callable[[Drawer], Call]:
    CASES[function.__name__.removesuffix("_case")] = function
    return function


def method(name: str) -> Callable[..., Any]:
    """The Tensor method with its arguments in order."""

    def call(x: sl.Tensor, **arguments: Any) -> Any:
        return getattr(x, name)(*arguments.values())

    call.__name__ = name
    return call


# --- elementwise, layout, reductions ----------------------------------------------------

UNARY_METHODS = ("exp", "log", "sqrt", "tanh", "sigmoid", "abs", "contiguous", "detach", "tolist")
UNARY_OPERATORS = {"neg": lambda x: -x, "invert": lambda x: ~x, "repr": lambda x: repr(x)}
BINARY_OPERATORS = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "floordiv": lambda a, b: a // b,
    "mod": lambda a, b: a % b,
    "pow": lambda a, b: a**b,
    "eq": lambda a, b: a == b,
    "lt": lambda a, b: a < b,
    "ge": lambda a, b: a >= b,
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "radd": lambda a, b: b + a,
    "rsub": lambda a, b: b - a,
    "rpow": lambda a, b: b**a,
}
ACTIVATIONS = ("relu", "gelu", "silu", "tanh", "sigmoid")


@case
def unary_method_case(d: Drawer) -> Call:
    name = d.choose(*UNARY_METHODS)
    return Call(method(name), {"x": d.tensor(*d.extents())})


@case
def unary_operator_case(d: Drawer) -> Call:
    name = d.choose(*UNARY_OPERATORS)
    dtype = "bool" if name == "invert" else None
    return Call(UNARY_OPERATORS[name], {"x": d.tensor(*d.extents(), dtype=dtype)})


@case
def binary_operator_case(d: Drawer) -> Call:
    name = d.choose(*BINARY_OPERATORS)
    shape = d.extents()
    other = tuple(1 if d.chance(0.3) else n for n in shape)[d.choose(0, 1, 2) :]
    dtype = "bool" if name in ("and", "or") else None
    b = d.tensor(*other, dtype=dtype)
    b = d.choose(2, 0.5, -1) if dtype is None and d.chance(0.3) else b
    operator = BINARY_OPERATORS[name]
    arguments = {"x": d.tensor(*shape, dtype=dtype), "b": b}
    return Call(lambda x, b: operator(x, b), arguments)


@case
def activation_case(d: Drawer) -> Call:
    name = d.choose(*ACTIVATIONS)
    options = d.options(approximate=d.choose("none", "tanh")) if name == "gelu" else {}
    return Call(getattr(sl.ops, name), {"x": d.tensor(*d.extents()), **options})


@case
def gate_case(d: Drawer) -> Call:
    shape = d.extents()
    function = d.choose(sl.ops.swiglu, sl.ops.geglu)
    return Call(function, {"gate": d.tensor(*shape), "up": d.tensor(*shape)})


@case
def dropout_case(d: Drawer) -> Call:
    options = d.options(p=d.choose(0.0, 0.3, 1.0), training=d.choose(True, False), seed=5)
    return Call(sl.ops.dropout, {"x": d.tensor(*d.extents()), **options})


@case
def rotary_embedding_case(d: Drawer) -> Call:
    b, h, t, half = d.extent(), d.extent(), d.extent(), d.extent(1)
    table = (b, t, half) if d.chance(0.4) else (t, half)
    x = d.tensor(b, h, t, 2 * half + d.extent())
    cos, sin = (d.tensor(*table).detach() for _ in range(2))
    options = d.options(interleaved=d.choose(True, False))
    return Call(sl.ops.rotary_embedding, {"x": x, "cos": cos, "sin": sin, **options})


@case
def clamp_case(d: Drawer) -> Call:
    arguments = {"min": d.choose(None, -0.5, 0), "max": d.choose(0.5, 1)}
    return Call(method("clamp"), {"x": d.tensor(*d.extents()), **arguments})


@case
def where_case(d: Drawer) -> Call:
    shape = d.extents()
    arguments = {"condition": d.tensor(*shape, dtype="bool"), "a": d.tensor(*shape)}
    arguments["b"] = d.tensor(*shape)
    return Call(lambda condition, a, b: sl.where(condition, a, b), arguments)


@case
def masked_fill_case(d: Drawer) -> Call:
    shape = d.extents()
    arguments = {"x": d.tensor(*shape), "mask": d.tensor(*shape, dtype="bool"), "value": -1.0}
    return Call(method("masked_fill"), arguments)


@case
def reshape_case(d: Drawer) -> Call:
    shape = d.extents()
    new = d.draw(st.permutations(shape))
    return Call(method(d.choose("reshape", "view")), {"x": d.any_of(*shape), "shape": tuple(new)})


@case
def transpose_case(d: Drawer) -> Call:
    x = d.any_tensor(1)
    arguments = {"a": d.axis(x.ndim), "b": d.axis(x.ndim)}
    return Call(method("transpose"), {"x": x, **arguments})


@case
def permute_case(d: Drawer) -> Call:
    x = d.any_tensor()
    return Call(method("permute"), {"x": x, "dims": tuple(d.draw(st.permutations(range(x.ndim))))})


@case
def expand_case(d: Drawer) -> Call:
    shape = d.extents()
    small = [1 if d.chance(0.5) else n for n in shape]
    return Call(method("expand"), {"x": d.any_of(*small), "shape": tuple(shape)})


@case
def squeeze_case(d: Drawer) -> Call:
    x = d.any_tensor(1)
    name = d.choose("squeeze", "unsqueeze", "flatten", "tril", "triu")
    arguments = {"axis": d.axis(x.ndim)} if name in ("squeeze", "unsqueeze", "flatten") else {}
    if name in ("tril", "triu"):
        x = d.any_tensor(2)
        arguments = {"diagonal": d.choose(-20, -1, 0, 1, 20)}
    return Call(method(name), {"x": x, **arguments})


@case
def split_case(d: Drawer) -> Call:
    x = d.any_tensor(1)
    arguments = {"size": d.extent(1), "axis": d.axis(x.ndim)}
    return Call(method(d.choose("split", "chunk")), {"x": x, **arguments})


@case
def join_case(d: Drawer) -> Call:
    shape = d.extents(1)
    xs = [d.tensor(*shape) for _ in range(d.choose(1, 2, 3))]
    function = d.choose(sl.cat, sl.stack)
    return Call(
        lambda xs, axis: function(xs, axis),
        {"xs": xs, "axis": d.axis(len(shape))},
    )


@case
def gather_case(d: Drawer) -> Call:
    shape = d.extents(1)
    axis = d.axis(len(shape))
    index = tuple(n for n in shape)
    if shape[axis] == 0:
        index = tuple(0 for _ in shape)
    arguments = {"axis": axis, "index": d.integers(shape[axis], *index)}
    arguments["index"] = arguments["index"].to(dtype="int64")
    return Call(method("gather"), {"x": d.any_of(*shape), **arguments})


@case
def index_case(d: Drawer) -> Call:
    x = d.any_tensor(1)
    n = x.shape[0]
    keys = [slice(1, None, 2), (Ellipsis, None), slice(-3, 99), slice(None)]
    if n:
        keys += [0, -1, n - 1, [0, n - 1], np.zeros((2, 1), np.int64), (0, Ellipsis)]
    if x.ndim > 1:
        keys += [(slice(None), slice(0, 2))]
    keys.append(np.ones(n, bool))
    return Call(lambda x, key: x[key], {"x": x, "key": keys[d.choose(*range(len(keys)))]})


@case
def assign_case(d: Drawer) -> Call:
    x = d.any_tensor(1).detach()

    def assign(x: sl.Tensor, key: Any, value: Any) -> None:
        x[key] = value

    return Call(assign, {"x": x, "key": d.choose(slice(1), Ellipsis), "value": d.choose(0, 1)})


@case
def reduce_case(d: Drawer) -> Call:
    name = d.choose("sum", "mean", "var", "max", "min", "argmax", "cumsum", "sort")
    x = d.tensor(*(max(1, n) for n in d.extents(1)))
    axis = d.axis(x.ndim)
    if name in ("var", "argmax", "cumsum", "sort") or d.chance(0.7):
        return Call(method(name), {"x": x, "axis": axis})
    return Call(method(name), {"x": x})


@case
def topk_case(d: Drawer) -> Call:
    x = d.tensor(*d.extents(1))
    axis = d.axis(x.ndim)
    k = int(d.rng.integers(0, x.shape[axis] + 1))
    return Call(method("topk"), {"x": x, "k": k, "axis": axis, "largest": d.choose(True, False)})


@case
def embedding_case(d: Drawer) -> Call:
    rows = d.extent(1)
    options = d.options(padding_idx=0)
    ids, weight = d.integers(rows, *d.extents(0, 3)), d.tensor(rows, d.extent())
    return Call(sl.ops.embedding, {"ids": ids, "weight": weight, **options})


@case
def convert_case(d: Drawer) -> Call:
    return Call(
        lambda x, dtype: x.to(dtype=dtype),
        {"x": d.any_tensor(), "dtype": d.draw(st.sampled_from(DTYPES))},
    )


@case
def create_case(d: Drawer) -> Call:
    function = d.choose(sl.zeros, sl.ones, sl.empty, sl.rand, sl.randn)
    return Call(lambda shape, dtype: function(shape, dtype=dtype), {
        "shape": d.extents(), "dtype": d.dtype})  # fmt: skip


@case
def arange_case(d: Drawer) -> Call:
    return Call(sl.arange, {"start": d.choose(0, 1, -2), "stop": d.choose(5, 0), "step": 1})


@case
def tensor_case(d: Drawer) -> Call:
    data = d.choose(1, 2.5, True, [1, 2], [[1.0], [2.0]], [], np.ones((2, 3)), (1, 2.5))
    return Call(sl.tensor, {"data": data, "dtype": d.choose(None, *DTYPES)})


# --- products, rows, losses -------------------------------------------------------------


@case
def matmul_case(d: Drawer) -> Call:
    m, k, n = d.extent(), d.extent(), d.extent()
    batch = d.extents(0, 2)
    arguments = {"a": d.tensor(*batch, m, k), "b": d.tensor(*batch[d.choose(0, 1, 2) :], k, n)}
    return Call(sl.ops.matmul, arguments)


@case
def linear_case(d: Drawer) -> Call:
    rows, width, out = d.extents(0, 3), d.extent(), d.extent()
    options = d.options(
        bias=d.tensor(out), activation=d.choose("relu", "gelu", "gelu_tanh", "silu", None)
    )
    x, weight = d.tensor(*rows, width), d.tensor(out, width)
    return Call(sl.ops.linear, {"x": x, "weight": weight, **options})


@case
def einsum_case(d: Drawer) -> Call:
    i, j, k = d.extent(), d.extent(), d.extent()
    arguments = {"equation": "ij,jk->ik", "a": d.tensor(i, j), "b": d.tensor(j, k)}
    return Call(lambda equation, a, b: sl.einsum(equation, a, b), arguments)


@case
def softmax_case(d: Drawer) -> Call:
    x = d.tensor(*d.extents(1))
    return Call(d.choose(sl.ops.softmax, sl.ops.log_softmax), {"x": x, "axis": d.axis(x.ndim)})


@case
def norm_case(d: Drawer) -> Call:
    x = d.tensor(*d.extents(1))
    name = d.choose("layer_norm", "rms_norm", "add_layer_norm", "add_rms_norm")
    arguments = {"x": x}
    if name.startswith("add"):
        arguments["residual"] = d.tensor(*x.shape)
    arguments["weight"] = d.tensor(x.shape[-1])
    if "layer" in name:
        arguments["bias"] = d.tensor(x.shape[-1])
    return Call(getattr(sl.ops, name), arguments | d.options(eps=d.choose(1e-6, 1e-3)))


@case
def cross_entropy_case(d: Drawer) -> Call:
    rows, classes = d.extent(), d.extent(1)
    options = d.options(
        label_smoothing=d.choose(0.0, 0.1),
        reduction=d.choose("mean", "sum", "none"),
        ignore_index=d.choose(-100, 0),
    )
    targets = d.integers(classes, rows)
    if d.chance(0.5):
        width = d.extent(1)
        arguments = {"hidden": d.tensor(rows, width), "weight": d.tensor(classes, width)}
        return Call(sl.ops.linear_cross_entropy, {**arguments, "targets": targets, **options})
    options |= d.options(weight=d.tensor(classes, dtype="float32").detach())
    arguments = {"logits": d.tensor(rows, classes), "targets": targets}
    return Call(sl.ops.cross_entropy, {**arguments, **options})


@case
def ctc_loss_case(d: Drawer) -> Call:
    steps, batch, classes, longest = d.extent(1), d.extent(1), d.extent(2), d.extent()
    return Call(
        sl.ops.ctc_loss,
        {
            "log_probs": d.tensor(steps, batch, classes),
            "targets": d.integers(classes, batch, longest),
            "input_lengths": d.lengths(steps, batch),
            "target_lengths": d.lengths(longest, batch),
            **d.options(blank=d.choose(0, classes - 1), reduction=d.choose("mean", "none")),
        },
    )


# --- attention, recurrence --------------------------------------------------------------


@case
def scaled_dot_product_attention_case(d: Drawer) -> Call:
    b, kv, group = d.extent(), d.extent(), d.choose(1, 2)
    tq, tk, width, value_width = d.extent(), d.extent(), d.extent(1), d.extent(1)
    heads = kv * group
    mask = tuple(d.choose(1, n) for n in (b, heads, tq, tk))
    return Call(
        sl.ops.scaled_dot_product_attention,
        {
            "query": d.tensor(b, heads, tq, width),
            "key": d.tensor(b, kv, tk, width),
            "value": d.tensor(b, kv, tk, value_width),
            **d.options(
                attn_mask=d.tensor(*mask, dtype=d.choose("bool", d.dtype)),
                dropout_p=d.choose(0.0, 0.5),
                is_causal=True,
                causal_offset=d.choose(0, 3, -2),
                scale=d.choose(None, 0.5),
                key_lengths=d.lengths(tk, b),
                window=d.choose(None, 2, (1, 0)),
                softcap=d.choose(None, 5.0),
                alibi_slopes=sl.tensor(np.ones(heads, np.float32), device=d.device),
                return_weights=True,
            ),
        },
    )


@case
def paged_attention_case(d: Drawer) -> Call:
    b, kv, group, tq, width, value_width, pages = (d.extent(1) for _ in range(7))
    page, most = d.choose(1, 4, 16), d.extent(1)
    tables = d.rng.integers(0, pages, (b, most))
    return Call(
        sl.ops.paged_attention,
        {
            "query": d.tensor(b, kv * group, tq, width).detach(),
            "key_pages": d.tensor(pages, kv, page, width).detach(),
            "value_pages": d.tensor(pages, kv, page, value_width).detach(),
            "block_tables": sl.tensor(tables, device=d.device),
            "key_lengths": d.lengths(most * page, b),
            **d.options(
                scale=d.choose(None, 0.5),
                window=d.choose(None, 0, 3),
                softcap=d.choose(None, 5.0),
                alibi_slopes=sl.tensor(np.ones(kv * group, np.float32), device=d.device),
            ),
        },
    )


@case
def additive_attention_case(d: Drawer) -> Call:
    b, tq, tk, dq, dk, hidden = (d.extent(1) for _ in range(6))
    return Call(
        sl.ops.additive_attention,
        {
            "query": d.tensor(b, tq, dq),
            "keys": d.tensor(b, tk, dk),
            "w_query": d.tensor(hidden, dq),
            "w_key": d.tensor(hidden, dk),
            "v": d.tensor(hidden),
            **d.options(
                values=d.tensor(b, tk, d.extent(1)),
                key_lengths=d.lengths(tk, b),
                return_weights=True,
            ),
        },
    )


@case
def dot_attention_case(d: Drawer) -> Call:
    b, tq, tk, dq, dk = (d.extent(1) for _ in range(5))
    general = d.chance(0.5)
    arguments = {"query": d.tensor(b, tq, dq), "keys": d.tensor(b, tk, dk if general else dq)}
    if general:
        arguments["weight"] = d.tensor(dq, dk)
    options = d.options(key_lengths=d.lengths(tk, b), return_weights=True)
    return Call(sl.ops.dot_attention, {**arguments, **options})


@case
def recurrence_case(d: Drawer) -> Call:
    name = d.choose("rnn", "gru", "lstm")
    rows = {"rnn": 1, "gru": 3, "lstm": 4}[name]
    steps, batch, width, hidden = d.extent(), d.extent(), d.extent(1), d.extent(1)
    arguments = {
        "x": d.tensor(steps, batch, width),
        "h0": d.choose(None, d.tensor(batch, hidden)),
        "w_ih": d.tensor(rows * hidden, width),
        "w_hh": d.tensor(rows * hidden, hidden),
        **d.options(
            b_ih=d.tensor(rows * hidden),
            b_hh=d.tensor(rows * hidden),
            lengths=d.lengths(steps, batch),
            reverse=True,
        ),
    }
    if name == "rnn":
        arguments |= d.options(nonlinearity=d.choose("tanh", "relu"))
    if name == "gru":
        arguments |= d.options(reset_after=d.choose(True, False))
    if name == "lstm":
        arguments["c0"] = d.choose(None, d.tensor(batch, hidden))
        arguments |= d.options(peepholes=d.tensor(3, hidden), zoneout=d.choose(0.0, 0.2))
    return Call(getattr(sl.ops, name), arguments)


# --- what does not fit ------------------------------------------------------------------

# Sizes are either small or so large that nothing can be made of them.
JUNK = (
    None,
    True,
    0,
    -1,
    3,
    7,
    -(2**40),  # -(2**31) would be a range of 16 GiB
    2**62,
    -(2**63),
    2**64,
    0.5,
    -1.0,
    float("nan"),
    float("inf"),
    "text",
    "",
    b"bytes",
    [],
    [1, "a"],
    [[1, 2], [3]],
    (),
    (1, 2, 3),
    (2**62, 2**62),
    (-1, -1),
    {},
    object(),
    1j,
    np.ones(3, np.complex64),
    np.array(["a", "b"]),
    np.ones((2, 3)),
    np.ones((2, 0, 3), np.float32),
    np.array(3),
    np.array([True, False]),
    np.arange(12, dtype=np.int16).reshape(3, 4)[::-1, ::2],
    np.ones((1,) * 12, np.float32),
)


def junk(d: Drawer) -> Any:
    if d.chance(0.4):
        return d.any_tensor(0, 5)
    return JUNK[d.draw(st.integers(0, len(JUNK) - 1))]
