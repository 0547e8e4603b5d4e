# SPDX-License-Identifier: Apache-2.0
"""Optimizers over twenty steps against their formulas."""

from __future__ import annotations

import numpy as np
import pytest

import reference as ref
import seqloom as sl
from support import assert_close_to_reference, make_tensor, rounded

CASES = {
    "sgd": ("SGD", "sgd", {"lr": 0.1}),
    "sgd-decay": ("SGD", "sgd", {"lr": 0.1, "weight_decay": 0.1}),
    "sgd-momentum": ("SGD", "sgd", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
    "sgd-dampening": ("SGD", "sgd", {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}),
    "sgd-nesterov": ("SGD", "sgd", {"lr": 0.05, "momentum": 0.9, "nesterov": True}),
    "adam": ("Adam", "adam", {"lr": 1e-2}),
    "adam-decay": ("Adam", "adam", {"lr": 1e-2, "weight_decay": 0.1, "betas": (0.8, 0.95)}),
    "adam-eps": ("Adam", "adam", {"lr": 1e-2, "eps": 1e-3}),
    "adamw": ("AdamW", "adamw", {"lr": 1e-2}),
    "adamw-decay": ("AdamW", "adamw", {"lr": 1e-2, "weight_decay": 0.3}),
}
# Lengths around the vectors. Adafactor is compared with torch's in test_optim.py.
SHAPES = [(1,), (7,), (33,), (5, 9), (17, 16), (2, 3, 5), ()]


@pytest.mark.parametrize("name", CASES)
def test_twenty_steps(name, device, rng):
    ours, formula, options = CASES[name]
    shapes = SHAPES
    start = [rounded(rng.standard_normal(s), "float32") for s in shapes]
    parameters = [make_tensor(a, "float32", device, requires_grad=True) for a in start]
    optimizer = getattr(sl.optim, ours)(parameters, **options)
    step = getattr(ref.optimizer, formula)
    exact, exact_states = list(start), [{} for _ in start]
    plain, plain_states = [a.astype(np.float32) for a in start], [{} for _ in start]
    for _ in range(20):
        for i, p in enumerate(parameters):
            g = rounded(rng.standard_normal(shapes[i]), "float32")
            p.grad = make_tensor(g, "float32", device)
            exact[i], exact_states[i] = step(exact[i], g, exact_states[i], **options)
            g = np.asarray(g, np.float32)
            plain[i], plain_states[i] = step(plain[i], g, plain_states[i], **options)
        optimizer.step()
    for p, want, own in zip(parameters, exact, plain, strict=True):
        assert_close_to_reference(p, want, own, dtype="float32", kind="recurrence")


@pytest.mark.parametrize("layout", ["misaligned", "transposed"])
@pytest.mark.parametrize("name", ["sgd-momentum", "adam", "adamw"])
def test_parameters_that_are_views(name, layout, isa, device, rng):
    ours, formula, options = CASES[name]
    start, g = (rounded(rng.standard_normal((5, 33)), "float32") for _ in range(2))
    p = make_tensor(start, "float32", device, layout, requires_grad=True)
    p.grad = make_tensor(g, "float32", device)
    getattr(sl.optim, ours)([p], **options).step()
    step = getattr(ref.optimizer, formula)
    want, own = step(start, g, {}, **options)[0], step(*np.float32([start, g]), {}, **options)[0]
    assert_close_to_reference(p, want, own, dtype="float32")


@pytest.mark.parametrize("narrow", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_one_step_of_narrow_parameters(name, narrow, device, rng):
    ours, formula, options = CASES[name]
    start, g = (rounded(rng.standard_normal(65), narrow) for _ in range(2))
    p = make_tensor(start, narrow, device, requires_grad=True)
    p.grad = make_tensor(g, narrow, device)
    getattr(sl.optim, ours)([p], **options).step()
    step = getattr(ref.optimizer, formula)
    want = step(start, g, {}, **options)[0]
    own = step(start.astype(np.float32), g.astype(np.float32), {}, **options)[0]
    assert_close_to_reference(p, want, own, dtype=narrow)


def test_parameters_without_a_gradient_stay(device):
    a = sl.ones(3, device=device, requires_grad=True)
    b = sl.ones(3, device=device, requires_grad=True)
    optimizer = sl.optim.AdamW([a, b], lr=0.1)
    a.grad = sl.ones(3, device=device)
    optimizer.step()
    assert (a.detach().cpu().numpy() < 1).all()
    np.testing.assert_array_equal(b.detach().cpu().numpy(), 1)
    optimizer.zero_grad()
    assert a.grad is None or not a.grad.cpu().numpy().any()


def test_groups_have_their_own_options(device):
    a = sl.ones(3, device=device, requires_grad=True)
    b = sl.ones(3, device=device, requires_grad=True)
    optimizer = sl.optim.SGD([{"params": [a]}, {"params": [b], "lr": 0.5}], lr=0.25)
    a.grad, b.grad = sl.ones(3, device=device), sl.ones(3, device=device)
    optimizer.step()
    assert a.tolist() == [0.75] * 3
    assert b.tolist() == [0.5] * 3


@pytest.mark.parametrize("name", CASES)
def test_a_saved_state_goes_on_as_if_nothing_had_happened(name, device, rng):
    ours, _, options = CASES[name]
    grads = [rng.standard_normal((4, 5)) for _ in range(6)]
    start = rng.standard_normal((4, 5))

    def run(optimizer, p, some):
        for g in some:
            p.grad = make_tensor(g, "float32", device)
            optimizer.step()

    def fresh():
        p = make_tensor(start, "float32", device, requires_grad=True)
        return p, getattr(sl.optim, ours)([p], **options)

    whole, optimizer = fresh()
    run(optimizer, whole, grads)
    p, optimizer = fresh()
    run(optimizer, p, grads[:3])
    q = make_tensor(p.detach().cpu().numpy(), "float32", device, requires_grad=True)
    resumed = getattr(sl.optim, ours)([q], **options)
    resumed.load_state_dict(optimizer.state_dict())
    run(resumed, q, grads[3:])
    np.testing.assert_array_equal(whole.detach().cpu().numpy(), q.detach().cpu().numpy())


@pytest.mark.parametrize(
    ("ours", "options"),
    [
        ("SGD", {"lr": -1.0}),
        ("SGD", {"lr": 0.1, "momentum": -0.5}),
        ("Adam", {"lr": 0.1, "betas": (1.0, 0.9)}),
        ("AdamW", {"lr": 0.1, "eps": -1.0}),
    ],
)
def test_impossible_options_are_refused(ours, options):
    with pytest.raises(ValueError, match=rf"^{ours}"):
        getattr(sl.optim, ours)([sl.ones(2, requires_grad=True)], **options)
