# SPDX-License-Identifier: Apache-2.0
"""The reference itself: every backward against finite differences, every value against torch.

Elementwise, layout, reductions, products, softmax, norms and losses are here; attention,
recurrence and optimizers in test_reference_sequence.py.
"""

from __future__ import annotations

import numpy as np
import pytest

import reference as ref
from reference_checks import (
    RNG,
    Cases,
    check_against_torch,
    check_finite_differences,
    check_keeps_float32,
    distinct,
    draw,
    positive,
)

try:
    import torch
    import torch.nn.functional as F
except ImportError:
    torch = None

CASES = Cases()
case = CASES.add

# --- elementwise ------------------------------------------------------------------------

A, B = draw(3, 4), draw(4)
case("add", ref.add, {"a": A, "b": B}, lambda a, b: a + b)
case("subtract", ref.subtract, {"a": B, "b": A}, lambda a, b: a - b)
case("multiply", ref.multiply, {"a": A, "b": draw(3, 1)}, lambda a, b: a * b)
case("divide", ref.divide, {"a": A, "b": positive(4)}, lambda a, b: a / b)
case("power", ref.power, {"a": positive(3, 4), "b": draw(4)}, lambda a, b: a**b)
case("maximum", ref.maximum, {"a": A, "b": draw(3, 4)}, lambda a, b: torch.maximum(a, b))
case("minimum", ref.minimum, {"a": A, "b": B}, lambda a, b: torch.minimum(a, b))
MASK = draw(3, 4) > 0
case(
    "where",
    ref.Op(lambda a, b: ref.where.vjp(MASK, a, b)),
    {"a": A, "b": B},
    lambda a, b: torch.where(torch.from_numpy(MASK), a, b),
)
case(
    "masked_fill",
    ref.masked_fill,
    {"x": A},
    lambda x, mask, value: x.masked_fill(torch.from_numpy(mask), value),
    mask=MASK,
    value=2.5,
)
case("clamp", ref.clamp, {"x": A}, lambda x, min, max: x.clamp(min, max), min=-0.5, max=0.7)
case("clamp-min", ref.clamp, {"x": A}, lambda x, min: x.clamp(min=min), min=-0.5)
for name, points in {
    "negative": A,
    "absolute": A,
    "exp": A,
    "log": positive(3, 4),
    "sqrt": positive(3, 4),
    "tanh": 3 * A,
    "sigmoid": 4 * A,
    "relu": A,
    "silu": 3 * A,
}.items():
    case(
        name,
        getattr(ref, name),
        {"x": points},
        lambda x, name=name: F.silu(x) if name == "silu" else getattr(torch, name)(x),
    )
for kind in ("none", "tanh"):
    case(
        f"gelu-{kind}",
        ref.gelu,
        {"x": 2 * A},
        lambda x, approximate: F.gelu(x, approximate=approximate),
        approximate=kind,
    )
case("swiglu", ref.swiglu, {"gate": A, "up": draw(3, 4)}, lambda gate, up: F.silu(gate) * up)
case("geglu", ref.geglu, {"gate": A, "up": draw(3, 4)}, lambda gate, up: F.gelu(gate) * up)
KEEP = draw(3, 4) > -0.3
case(
    "dropout",
    ref.dropout,
    {"x": A},
    lambda x, keep, p: x * torch.from_numpy(keep) / (1 - p),
    keep=KEEP,
    p=0.3,
)


def rotary_by_complex(x, cos, sin, interleaved):
    """Rotation as a product of complex numbers."""
    rotated = 2 * cos.shape[-1]
    turn = torch.from_numpy(cos + 1j * sin)
    turn = turn[:, None] if turn.ndim == 3 else turn
    head, tail = x[..., :rotated], x[..., rotated:]
    if interleaved:
        pairs = torch.view_as_complex(head.reshape(*head.shape[:-1], -1, 2).contiguous()) * turn
        return torch.cat([torch.view_as_real(pairs).flatten(-2), tail], -1)
    real, imaginary = head.chunk(2, -1)
    pairs = torch.complex(real.contiguous(), imaginary.contiguous()) * turn
    return torch.cat([pairs.real, pairs.imag, tail], -1)


for interleaved in (False, True):
    for table in ((5, 3), (2, 5, 3)):
        angle = draw(*table)
        case(
            f"rotary-{'interleaved' if interleaved else 'halves'}-{len(table)}d",
            ref.rotary_embedding,
            {"x": draw(2, 3, 5, 8)},
            rotary_by_complex,
            cos=np.cos(angle),
            sin=np.sin(angle),
            interleaved=interleaved,
        )

# --- layout -----------------------------------------------------------------------------

for name, arrays, function in (
    ("transpose", [draw(2, 3, 4)], lambda x: x.swapaxes(0, 2)),
    ("slice", [draw(5, 6)], lambda x: x[::-2, 1:5:2]),
    ("repeated-index", [draw(4, 3)], lambda x: x[np.array([0, 2, 0, 0])]),
    ("expand", [draw(1, 3)], lambda x: np.broadcast_to(x, (4, 3))),
    ("cat", [draw(2, 3), draw(1, 3)], lambda x, y: np.concatenate([x, y])),
    ("stack", [draw(2, 3), draw(2, 3)], lambda x, y: np.stack([x, y], axis=1)),
):
    case(
        f"rearrange-{name}",
        ref.Op(lambda function=function, **xs: ref.rearrange.vjp(*xs.values(), function=function)),
        {str(i): a for i, a in enumerate(arrays)},
    )
case(
    "gather",
    ref.gather,
    {"x": draw(4, 5)},
    lambda x, index, axis: x.gather(axis, torch.from_numpy(index)),
    index=RNG.integers(0, 5, (3, 7)),
    axis=1,
)
case(
    "gather-first-axis",
    ref.gather,
    {"x": draw(4, 5, 2)},
    lambda x, index, axis: x.gather(axis, torch.from_numpy(index)),
    index=RNG.integers(0, 4, (6, 3, 2)),
    axis=-3,
)
case("tril", ref.tril, {"x": draw(2, 4, 5)}, torch and torch.tril, diagonal=-1)
case("triu", ref.triu, {"x": draw(2, 4, 5)}, torch and torch.triu, diagonal=1)
case(
    "pad",
    ref.pad,
    {"x": draw(2, 3)},
    lambda x, widths, value: F.pad(x, (*widths[1], *widths[0]), value=value),
    widths=[(1, 0), (2, 3)],
    value=0.5,
)
for padding_idx in (None, 2):
    case(
        f"embedding-{padding_idx}",
        ref.Op(
            lambda weight, ids, padding_idx: ref.embedding.vjp(ids, weight, padding_idx=padding_idx)
        ),
        {"weight": draw(5, 3)},
        lambda weight, ids, padding_idx: F.embedding(torch.from_numpy(ids), weight, padding_idx),
        ids=np.array([[0, 1, 4], [1, 2, 1]]) if padding_idx is None else np.array([[0, 1, 4]]),
        padding_idx=padding_idx,
    )

# --- reductions and orderings -----------------------------------------------------------

for axis in (None, 1, (0, 2)):
    for keepdims in (False, True):
        which = f"{axis}-{keepdims}"
        x = draw(3, 4, 2)
        options = {"axis": axis, "keepdims": keepdims}
        case(
            f"sum-{which}",
            ref.sum,
            {"x": x},
            lambda x, axis, keepdims: (
                torch.sum(x, dim=axis, keepdim=keepdims)
                if axis is not None
                else (x.sum((0, 1, 2), keepdim=keepdims))
            ),
            **options,
        )
        case(
            f"mean-{which}",
            ref.mean,
            {"x": x},
            lambda x, axis, keepdims: torch.mean(x, dim=axis, keepdim=keepdims),
            **options,
        )
        case(
            f"var-{which}",
            ref.var,
            {"x": x},
            lambda x, axis, keepdims, correction: torch.var(
                x, dim=axis, keepdim=keepdims, correction=correction
            ),
            correction=1,
            **options,
        )
case(
    "var-0",
    ref.var,
    {"x": draw(3, 4)},
    lambda x, axis, correction: torch.var(x, dim=axis, correction=correction),
    axis=1,
    correction=0,
)
case("prod", ref.prod, {"x": np.where(MASK, A, 0)}, lambda x, axis: x.prod(axis), axis=1)
for name in ("max", "min"):
    op = getattr(ref, name)
    case(
        f"{name}-axis",
        op,
        {"x": distinct(3, 4)},
        lambda x, axis, name=name: tuple(getattr(x, name)(axis)),
        axis=1,
    )
    case(
        f"{name}-keepdims",
        op,
        {"x": distinct(3, 4)},
        lambda x, axis, keepdims, name=name: tuple(getattr(x, name)(axis, keepdims)),
        axis=0,
        keepdims=True,
    )
    case(f"{name}-all", op, {"x": distinct(3, 4)}, lambda x, name=name: getattr(x, name)())
case("cumsum", ref.cumsum, {"x": draw(3, 4)}, lambda x, axis: x.cumsum(axis), axis=1)
case(
    "sort",
    ref.sort,
    {"x": distinct(3, 4)},
    lambda x, axis, descending: tuple(x.sort(axis, descending)),
    axis=0,
    descending=True,
)
case(
    "topk",
    ref.topk,
    {"x": distinct(3, 6)},
    lambda x, k, axis, largest: tuple(x.topk(k, axis, largest)),
    k=3,
    axis=1,
    largest=True,
)
case(
    "topk-smallest",
    ref.topk,
    {"x": distinct(6, 2)},
    lambda x, k, axis, largest: tuple(x.topk(k, axis, largest)),
    k=2,
    axis=0,
    largest=False,
)

# --- products ---------------------------------------------------------------------------

for a, b in (
    ((3, 4), (4, 5)),
    ((4,), (4,)),
    ((4,), (2, 4, 5)),
    ((2, 3, 4), (4,)),
    ((2, 1, 3, 4), (5, 4, 2)),
):
    case(f"matmul-{a}-{b}", ref.matmul, {"a": draw(*a), "b": draw(*b)}, lambda a, b: a @ b)
for activation in (None, "relu", "gelu", "gelu_tanh", "silu"):
    function = {
        None: lambda z: z,
        "relu": lambda z: F.relu(z),
        "gelu": lambda z: F.gelu(z),
        "gelu_tanh": lambda z: F.gelu(z, approximate="tanh"),
        "silu": lambda z: F.silu(z),
    }[activation]
    case(
        f"linear-{activation}",
        ref.linear,
        {"x": draw(2, 3, 4), "weight": draw(5, 4), "bias": draw(5)},
        lambda x, weight, bias, activation, function=function: function(F.linear(x, weight, bias)),
        activation=activation,
    )
for equation, shapes in (
    ("ij,jk->ik", [(3, 4), (4, 5)]),
    ("bij,bkj->bik", [(2, 3, 4), (2, 5, 4)]),
    ("ijk->ki", [(2, 3, 4)]),
    ("i,j->ij", [(3,), (4,)]),
    ("ij,jk,k->i", [(3, 4), (4, 5), (5,)]),
):
    case(
        f"einsum-{equation}",
        ref.Op(lambda equation, **xs: ref.einsum.vjp(equation, *xs.values())),
        {str(i): draw(*shape) for i, shape in enumerate(shapes)},
        lambda equation, **xs: torch.einsum(equation, *xs.values()),
        equation=equation,
    )

# --- softmax, norms ---------------------------------------------------------------------

for axis in (-1, 0):
    case(
        f"softmax{axis}", ref.softmax, {"x": draw(4, 5)}, lambda x, axis: x.softmax(axis), axis=axis
    )
    case(
        f"log_softmax{axis}",
        ref.log_softmax,
        {"x": draw(4, 5)},
        lambda x, axis: x.log_softmax(axis),
        axis=axis,
    )
LN = {"weight": draw(5), "bias": draw(5)}
case(
    "layer_norm",
    ref.layer_norm,
    {"x": draw(2, 3, 5), **LN},
    lambda x, weight, bias, eps: F.layer_norm(x, (5,), weight, bias, eps),
    eps=1e-3,
)
case("layer_norm-plain", ref.layer_norm, {"x": draw(3, 5)}, lambda x: F.layer_norm(x, (5,)))
case(
    "rms_norm",
    ref.rms_norm,
    {"x": draw(3, 5), "weight": draw(5)},
    lambda x, weight, eps: F.rms_norm(x, (5,), weight, eps),
    eps=1e-3,
)
RESIDUAL = {"x": draw(3, 5), "residual": draw(3, 5)}
case(
    "add_layer_norm",
    ref.add_layer_norm,
    RESIDUAL | LN,
    lambda x, residual, weight, bias: (
        F.layer_norm(x + residual, (5,), weight, bias),
        x + residual,
    ),
)
case(
    "add_rms_norm",
    ref.add_rms_norm,
    RESIDUAL | {"weight": draw(5)},
    lambda x, residual, weight: (F.rms_norm(x + residual, (5,), weight, 1e-6), x + residual),
)

# --- losses -----------------------------------------------------------------------------

TARGETS = np.array([1, 0, -100, 4, 2, 1])
for reduction in ("mean", "sum", "none"):
    for smoothing in (0.0, 0.2):
        for weight in (None, positive(5)):
            options = {
                "weight": weight,
                "ignore_index": -100,
                "label_smoothing": smoothing,
                "reduction": reduction,
            }
            case(
                f"cross_entropy-{reduction}-{smoothing}-{weight is not None}",
                ref.cross_entropy,
                {"logits": draw(6, 5)},
                lambda logits, targets, weight, **options: F.cross_entropy(
                    logits,
                    torch.from_numpy(targets),
                    None if weight is None else torch.from_numpy(weight),
                    **options,
                ),
                targets=TARGETS,
                **options,
            )
case(
    "linear_cross_entropy",
    ref.linear_cross_entropy,
    {"hidden": draw(6, 3), "weight": draw(5, 3)},
    lambda hidden, weight, targets, **options: F.cross_entropy(
        hidden @ weight.T, torch.from_numpy(targets), **options
    ),
    targets=TARGETS,
    label_smoothing=0.1,
)
CTC = {
    "targets": np.array([[1, 2, 2, 3], [4, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 0]]),
    "input_lengths": np.array([9, 7, 4, 8]),
    "target_lengths": np.array([4, 1, 0, 3]),
}


def ctc_of_logits(logits, targets, input_lengths, target_lengths, **options):
    logp, to_logits = ref.log_softmax.vjp(logits)
    loss, to_logp = ref.ctc_loss.vjp(logp, targets, input_lengths, target_lengths, **options)
    return loss, lambda g: {"logits": to_logits(to_logp(g)["log_probs"])["x"]}


for reduction in ("mean", "sum", "none"):
    for flat in (False, True):
        options = dict(CTC)
        if flat:
            options["targets"] = np.array([1, 2, 2, 3, 4, 1, 1, 1])
        case(
            f"ctc-{reduction}-{'flat' if flat else 'padded'}",
            ref.Op(ctc_of_logits),
            {"logits": draw(9, 4, 5)},
            lambda logits, targets, input_lengths, target_lengths, **options: F.ctc_loss(
                logits.log_softmax(-1),
                torch.from_numpy(targets),
                torch.from_numpy(input_lengths),
                torch.from_numpy(target_lengths),
                **options,
            ),
            reduction=reduction,
            blank=0,
            **options,
        )


@pytest.mark.parametrize("c", CASES, ids=lambda c: c.name)
def test_backward_is_the_finite_difference(c):
    check_finite_differences(c.op, c.inputs, c.options, c.constant)


@pytest.mark.skipif(torch is None, reason="torch is not installed")
@pytest.mark.parametrize("c", [c for c in CASES if c.torch], ids=lambda c: c.name)
def test_agrees_with_torch(c):
    check_against_torch(c.op, c.inputs, c.options, c.torch)


@pytest.mark.parametrize("c", CASES, ids=lambda c: c.name)
def test_computes_in_the_dtype_of_its_arguments(c):
    check_keeps_float32(c.op, c.inputs, c.options)
