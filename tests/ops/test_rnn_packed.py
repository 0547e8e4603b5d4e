# SPDX-License-Identifier: Apache-2.0
"""Recurrent weights that are packed once and kept: never stale, never without bounds."""

from __future__ import annotations

import numpy as np
import pytest

import seqloom as sl
from support import make_tensor, to_float64

GATES = {"rnn": 1, "gru": 3, "lstm": 4}


def arrays(name, rng, dtype, hidden=17, width=5):
    rows = GATES[name] * hidden
    shapes = {"x": (3, 2, width), "w_ih": (rows, width), "w_hh": (rows, hidden)}
    return {n: make_tensor(0.4 * rng.standard_normal(s), dtype) for n, s in shapes.items()}


def run(name, x, w_ih, w_hh):
    states = (None, None) if name == "lstm" else (None,)
    return to_float64(getattr(sl.ops, name)(x, *states, w_ih, w_hh)[0])


def check(name, x, w_ih, w_hh):
    """Weights seen before give the bits of copies that nobody has seen."""
    for _ in range(3):
        found = run(name, x, w_ih, w_hh)
        np.testing.assert_array_equal(found, run(name, x, w_ih.clone(), w_hh.clone()))
    return found


@pytest.mark.parametrize("name", GATES)
def test_packed_weights_follow_every_change(name, isa, dtype, rng):
    before = sl._core.packed_bytes_in_use()
    given = arrays(name, rng, dtype)
    first = check(name, **given)
    assert sl._core.packed_bytes_in_use() > before
    given["w_hh"].mul_(2.0)
    second = check(name, **given)
    given["w_ih"][3] = 1.0
    third = check(name, **given)
    assert (first != second).any()
    assert (second != third).any()
    given["w_hh"].numpy()[:] = 0.25  # from here on NumPy may write it at any time
    check(name, **given)
    given["w_hh"].numpy()[:] = -0.25
    check(name, **given)
    del given
    assert sl._core.packed_bytes_in_use() == before


def test_memory_of_numpy_is_never_kept(rng):
    before = sl._core.packed_bytes_in_use()
    given = {n: to_float64(t).astype(np.float32) for n, t in arrays("lstm", rng, "float32").items()}
    shared = {n: sl.from_numpy(a) for n, a in given.items()}
    for value in (0.5, -0.5, 0.125):
        given["w_hh"][:], given["w_ih"][:] = value, -value
        check("lstm", **shared)
    assert sl._core.packed_bytes_in_use() == before


def test_weights_that_an_optimizer_moves(rng):
    given = arrays("gru", rng, "float32")
    weights = [given["w_ih"], given["w_hh"]]
    for w in weights:
        w.requires_grad = True
    optimizer = sl.optim.SGD(weights, lr=0.1)
    for _ in range(3):
        for _ in range(2):  # the second sees packed weights, and its gradients are the same
            output = sl.ops.gru(given["x"], None, *weights)[0]
            optimizer.zero_grad()
            (output * output).sum().backward()
        with sl.no_grad():
            check("gru", given["x"], *weights)
        optimizer.step()


def test_one_matrix_in_two_layouts(rng):
    """An LSTM's weight may be four plain cells' as well."""
    w = make_tensor(0.4 * rng.standard_normal((16, 16)), "float32")
    x = make_tensor(rng.standard_normal((3, 2, 16)), "float32")
    hidden = make_tensor(0.4 * rng.standard_normal((16, 4)), "float32")
    for _ in range(3):
        check("rnn", x, w, w)
        check("lstm", x, w, hidden)
        np.testing.assert_array_equal(
            to_float64(sl.ops.linear(x, w)), to_float64(sl.ops.linear(x, w.clone()))
        )


def test_the_limit_holds(rng):
    before = sl._core.packed_bytes_in_use()
    sl._core.set_packed_limit(before)
    try:
        given = arrays("rnn", rng, "float32")
        check("rnn", **given)
        assert sl._core.packed_bytes_in_use() == before
    finally:
        sl._core.set_packed_limit(1 << 30)
