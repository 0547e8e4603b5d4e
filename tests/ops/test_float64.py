# SPDX-License-Identifier: Apache-2.0
"""Every op runs in float64 on the CPU, and its gradients equal differences of its values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import reference as ref
import seqloom as sl
from support import assert_close_to_reference

ops = sl.ops
IDS = np.array([0, 4, -100])


def tensors(*shapes: tuple[int, ...]) -> list[sl.Tensor]:
    r = np.random.default_rng(sum(map(sum, shapes)))
    return [sl.tensor(r.standard_normal(s), requires_grad=True) for s in shapes]


def ctc(x: sl.Tensor) -> sl.Tensor:
    return ops.ctc_loss(
        ops.log_softmax(x), sl.tensor([[1, 2]]), sl.tensor([4]), sl.tensor([2])
    )  # fmt: skip


LENGTHS = sl.tensor([3, 1])


def recurrent(gates: int) -> list[tuple[int, ...]]:
    """x [T, B, I], h0, w_ih, w_hh, b_ih, b_hh of three units."""
    rows = 3 * gates
    return [(3, 2, 2), (2, 3), (rows, 2), (rows, 3), (rows,), (rows,)]


def sum_of(results: tuple[sl.Tensor, ...]) -> sl.Tensor:
    return sum(r.sum() for r in results)


CASES: dict[str, tuple[Callable[..., Any], list[tuple[int, ...]]]] = {
    "softmax": (ops.softmax, [(3, 5)]),
    "log_softmax": (ops.log_softmax, [(3, 5)]),
    "layer_norm": (ops.layer_norm, [(3, 5), (5,), (5,)]),
    "rms_norm": (ops.rms_norm, [(3, 5), (5,)]),
    "add_layer_norm": (lambda *a: sum(ops.add_layer_norm(*a)), [(3, 5), (3, 5), (5,), (5,)]),
    "add_rms_norm": (lambda *a: sum(ops.add_rms_norm(*a)), [(3, 5), (3, 5), (5,)]),
    "linear": (lambda *a: ops.linear(*a, activation="gelu"), [(3, 4), (2, 4), (2,)]),
    "matmul": (ops.matmul, [(2, 3, 4), (4, 2)]),
    "gelu": (ops.gelu, [(3, 5)]),
    "gelu_tanh": (lambda x: ops.gelu(x, "tanh"), [(3, 5)]),
    "silu": (ops.silu, [(3, 5)]),
    "tanh": (ops.tanh, [(3, 5)]),
    "sigmoid": (ops.sigmoid, [(3, 5)]),
    "swiglu": (ops.swiglu, [(3, 5), (3, 5)]),
    "geglu": (ops.geglu, [(3, 5), (3, 5)]),
    "dropout": (lambda x: ops.dropout(x, 0.4, seed=3), [(3, 5)]),
    "embedding": (lambda w: ops.embedding(sl.tensor([[1, 0], [1, 2]]), w), [(3, 4)]),
    "rotary": (lambda x: ops.rotary_embedding(x, *ROTATION), [(1, 2, 3, 4)]),
    "attention": (
        lambda q, k, v: ops.scaled_dot_product_attention(q, k, v, is_causal=True, softcap=2.0),
        [(1, 2, 3, 4), (1, 1, 3, 4), (1, 1, 3, 2)],
    ),
    "additive": (ops.additive_attention, [(1, 2, 3), (1, 4, 3), (5, 3), (5, 3), (5,)]),
    "dot": (lambda q, k, w: ops.dot_attention(q, k, weight=w), [(1, 2, 3), (1, 4, 3), (3, 3)]),
    "cross_entropy": (lambda x: ops.cross_entropy(x, sl.tensor(IDS)), [(3, 5)]),
    "cross_entropy_smooth": (
        lambda x: ops.cross_entropy(
            x, sl.tensor(IDS), label_smoothing=0.2, weight=sl.arange(1, 6, dtype="float32")
        ),
        [(3, 5)],
    ),
    "linear_cross_entropy": (
        lambda h, w: ops.linear_cross_entropy(h, w, sl.tensor(IDS), reduction="sum"),
        [(3, 4), (5, 4)],
    ),
    "ctc": (ctc, [(4, 1, 5)]),
    "rnn": (lambda *a: sum_of(ops.rnn(*a, nonlinearity="relu", lengths=LENGTHS)), recurrent(1)),
    "gru": (lambda *a: sum_of(ops.gru(*a, lengths=LENGTHS)), recurrent(3)),
    "gru_before": (lambda *a: sum_of(ops.gru(*a, reset_after=False, reverse=True)), recurrent(3)),
    "lstm": (
        lambda x, h, *a: sum_of(ops.lstm(x, h, h * 0.5, *a, lengths=LENGTHS)),
        recurrent(4),
    ),
}
ROTATION = (sl.tensor(np.full((3, 2), 0.6)), sl.tensor(np.full((3, 2), 0.8)))


@pytest.mark.parametrize("name", CASES)
def test_gradients_equal_differences(name):
    function, shapes = CASES[name]
    inputs = tensors(*shapes)
    output = function(*inputs)
    output = output[0] if isinstance(output, tuple) else output
    assert output.dtype is sl.float64
    assert sl.autograd.gradcheck(function, inputs)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy_equals_the_reference(reduction):
    x, w = np.random.default_rng(1).standard_normal((3, 5)), np.arange(1.0, 6.0, dtype=np.float32)
    got = ops.cross_entropy(x, IDS, weight=w, label_smoothing=0.1, reduction=reduction)
    want = ref.cross_entropy(
        x, IDS, weight=w.astype(np.float64), label_smoothing=0.1, reduction=reduction
    )
    assert_close_to_reference(got, want, dtype="float64")


@pytest.mark.parametrize("name", ["rnn", "gru", "lstm"])
def test_recurrences_equal_the_reference(name):
    gates = {"rnn": 1, "gru": 3, "lstm": 4}[name]
    r = np.random.default_rng(4)
    x, h, *weights = (r.standard_normal(s) for s in recurrent(gates))
    states = (h, h) if name == "lstm" else (h,)
    got = getattr(ops, name)(x, *states, *weights, lengths=np.array([3, 1]))
    want = getattr(ref, name)(x, *states, *weights, lengths=np.array([3, 1]))
    for a, b in zip(got, want, strict=True):
        assert_close_to_reference(a, b, dtype="float64")


def test_norms_keep_the_last_bits():
    offset, noise = 1e4, 1e-3
    x = np.random.default_rng(2).standard_normal((4, 33)) * noise + offset
    got, want = ops.layer_norm(x, eps=1e-12), ref.layer_norm(x, eps=1e-12)
    assert_close_to_reference(got, want, dtype="float64", scale=offset / noise)
    assert_close_to_reference(ops.rms_norm(x), ref.rms_norm(x), dtype="float64")


def test_wrong_arguments_are_refused_as_in_other_dtypes():
    x = np.ones((3, 5))
    for error, call in [
        (ValueError, lambda: ops.layer_norm(x, eps=0.0)),
        (ValueError, lambda: ops.rms_norm(x, np.ones(4))),
        (TypeError, lambda: ops.layer_norm(x, np.ones(5, np.float32))),
        (ValueError, lambda: ops.add_rms_norm(x, np.ones((3, 4)))),
        (IndexError, lambda: ops.cross_entropy(x, np.array([5, 0, 0]))),
        (ValueError, lambda: ops.cross_entropy(x, np.array([0, 0]))),
        (TypeError, lambda: ops.linear_cross_entropy(x, np.ones((2, 5), np.float32), IDS % 2)),
    ]:
        with pytest.raises(error, match=r"^\w+: "):
            call()
