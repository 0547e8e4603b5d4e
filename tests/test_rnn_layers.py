# SPDX-License-Identifier: Apache-2.0
"""Stacks and directions that run at once give what the layers give one after the other."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import seqloom as sl
from seqloom import nn
from support import assert_close_to_reference, make_tensor, to_float64

KINDS = {"RNN": "rnn", "GRU": "gru", "LSTM": "lstm"}


def one_by_one(module, kind, x, states, lengths):
    """The same through sl.ops, layer by layer."""
    directions, ends = 1 + module.bidirectional, []
    for layer in range(module.num_layers):
        outputs = []
        for direction in range(directions):
            i = layer * directions + direction
            suffix = f"l{layer}" + "_reverse" * direction
            names = ("weight_ih_", "weight_hh_", "bias_ih_", "bias_hh_")
            weights = [getattr(module, n + suffix) for n in names]
            y, *end = getattr(sl.ops, KINDS[kind])(
                x, *[s[i] for s in states], *weights, lengths=lengths, reverse=direction == 1
            )
            outputs.append(y)
            ends.append(end)
        x = sl.cat(outputs, -1)
    return x, [sl.ops.stack(list(s), 0) for s in zip(*ends, strict=True)]


def gradients(outputs, leaves):
    total = sum((o * o).sum() for o in outputs)
    return [to_float64(g) for g in sl.autograd.grad(total, leaves)]


@pytest.mark.parametrize("lengths", [None, (40, 7, 0), (1, 39, 40)], ids=str)
@pytest.mark.parametrize(("layers", "bidirectional"), [(2, False), (3, False), (2, True)])
@pytest.mark.parametrize("kind", KINDS)
def test_layers_at_once(kind, layers, bidirectional, lengths, dtype, device, rng):
    module = getattr(nn, kind)(5, 17, layers, bidirectional=bidirectional).to(device, dtype)
    x = make_tensor(rng.standard_normal((40, 3, 5)), dtype, device, requires_grad=True)
    count = layers * (1 + bidirectional)
    states = [
        make_tensor(rng.standard_normal((count, 3, 17)), dtype, device, requires_grad=True)
        for _ in range(2 if kind == "LSTM" else 1)
    ]
    lengths = None if lengths is None else np.array(lengths)
    leaves = [x, *states, *module.parameters()]
    y, end = module(x, tuple(states) if kind == "LSTM" else states[0], lengths)
    ours = (y, *(end if kind == "LSTM" else (end,)))
    wanted, ends = one_by_one(module, kind, x, states, lengths)
    theirs = (wanted, *ends)
    for one, other in zip(ours, theirs, strict=True):
        a, b = to_float64(one), to_float64(other)
        assert_close_to_reference(a, b, b, dtype=dtype, kind="recurrence")
    for a, b in zip(gradients(ours, leaves), gradients(theirs, leaves), strict=True):
        assert_close_to_reference(a, b, b, dtype=dtype, kind="recurrence")


@pytest.mark.parametrize("options", [{"num_layers": 3}, {"num_layers": 2, "bidirectional": True}])
@pytest.mark.parametrize("kind", KINDS)
def test_bits_do_not_follow_from_the_threads(kind, options, rng):
    module = getattr(nn, kind)(8, 24, **options)
    x = make_tensor(rng.standard_normal((53, 2, 8)), "float32", requires_grad=True)
    before, results = sl.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            sl.set_num_threads(threads)
            y, _ = module(x)
            results.append([to_float64(y), *gradients((y,), [x, *module.parameters()])])
            with sl.no_grad():
                np.testing.assert_array_equal(to_float64(module(x)[0]), results[-1][0])
    finally:
        sl.set_num_threads(before)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_frozen_layer_below(rng):
    module = nn.LSTM(4, 8, num_layers=2)
    module.weight_ih_l0.requires_grad = module.weight_hh_l0.requires_grad = False
    module.bias_ih_l0.requires_grad = module.bias_hh_l0.requires_grad = False
    x = make_tensor(rng.standard_normal((6, 1, 4)), "float32")
    y, _ = module(x)
    y.sum().backward()
    assert module.weight_ih_l0.grad is None
    assert module.weight_ih_l1.grad is not None


def test_a_mistake_in_a_stack_is_named():
    module = nn.GRU(4, 8, num_layers=2)
    with pytest.raises(ValueError, match="gru: lengths"):
        module(sl.ones(3, 2, 4), lengths=np.array([4, 1]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_hundred_thousand_steps_are_their_halves(kind, rng):
    steps, module = 100_000, getattr(nn, kind)(3, 8)
    x = make_tensor(rng.standard_normal((steps, 1, 3)), "float32")
    with sl.no_grad():
        y, end = module(x)
        half, middle = module(x[: steps // 2])
        rest, other = module(x[steps // 2 :], middle)
    ends = (end[0], other[0]) if kind == "LSTM" else (end, other)
    for pair in ((y[: steps // 2], half), (y[steps // 2 :], rest), ends):
        a, b = (to_float64(t) for t in pair)
        assert_close_to_reference(a, b, b, dtype="float32", kind="recurrence")


LONG = """
import resource, seqloom as sl
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
for kind in ("RNN", "GRU", "LSTM"):
    module = getattr(sl.nn, kind)(2, 16)
    x = sl.ones(100_000, 1, 2)
    with sl.no_grad():
        module(x[:1000])
        before = peak()
        y, _ = module(x)
        print(kind, peak() - before - y.nbytes)
    del y
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs the resource module")
def test_a_hundred_thousand_steps_need_memory_for_their_outputs_only():
    """The gates of all steps would be 26 MB, what backward needs another 26."""
    done = subprocess.run([sys.executable, "-c", LONG], capture_output=True, text=True, check=True)
    for line in done.stdout.splitlines():
        assert int(line.split()[1]) < 8 << 20, line
    assert len(done.stdout.splitlines()) == 3
