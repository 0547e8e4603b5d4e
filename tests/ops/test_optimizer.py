# SPDX-License-Identifier: Apache-2.0
"""Optimizers over twenty steps against their formulas."""

from __future__ import annotations

import numpy as np
import pytest

import reference as ref
import seqloom as sl
from support import EPS, assert_close_to_reference, make_tensor, refuses, rounded

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
    "adafactor": ("Adafactor", "adafactor_torch", {"lr": 0.1}),
    "adafactor-decay": ("Adafactor", "adafactor_torch", {"lr": 0.1, "weight_decay": 0.1, "d": 2.0}),
}
# Lengths around the vectors.
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


# Around the units of work and beyond several of them; more blocks than one for Adafactor.
LONG = [(1,), (2047,), (2048,), (2049,), (3, 700), (30, 1500), (2, 90, 301), (40_000,)]
STEPS = {
    "sgd": {"lr": 0.1, "momentum": 0.9, "nesterov": True},
    "adam": {"lr": 1e-2, "weight_decay": 0.1},
    "adamw": {"lr": 1e-2, "weight_decay": 0.3},
    "adafactor_torch": {"lr": 0.1, "weight_decay": 0.1},
}
CLASSES = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW", "adafactor_torch": "Adafactor"}


@pytest.mark.parametrize("formula", STEPS)
def test_lists_of_all_sizes(formula, dtype, isa, device, rng):
    """One kernel for the list: every element of every parameter, on every instruction set."""
    options = dict(STEPS[formula])
    start = [rounded(rng.standard_normal(s), dtype) for s in LONG]
    parameters = [make_tensor(a, dtype, device, requires_grad=True) for a in start]
    optimizer = getattr(sl.optim, CLASSES[formula])(parameters, **options)
    if formula == "adafactor_torch":
        options["spacing"] = EPS[dtype]
    step = getattr(ref.optimizer, formula)
    states, own_states = [{} for _ in LONG], [{} for _ in LONG]
    for _ in range(1 if dtype != "float32" else 2):  # the first step sets states, the second adds
        gradients = [rounded(rng.standard_normal(s), dtype) for s in LONG]
        wants, owns = [], []
        for i, (p, g) in enumerate(zip(parameters, gradients, strict=True)):
            p.grad = make_tensor(g, dtype, device)
            before = np.asarray(p.detach().cpu().numpy(), np.float64)
            want, states[i] = step(before, g, states[i], **options)
            own, own_states[i] = step(
                before.astype(np.float32), g.astype(np.float32), own_states[i], **options
            )
            wants.append(want)
            owns.append(own)
        optimizer.step()
        for p, want, own in zip(parameters, wants, owns, strict=True):
            assert_close_to_reference(p, want, own, dtype=dtype, kind="recurrence")


MIXED = {
    "SGD": {"lr": 0.1, "momentum": 0.9},
    "AdamW": {"lr": 1e-2, "amsgrad": True},
    "Adafactor": {"lr": 0.1},
}


def steps_of(kind, parameters, gradients, **step):
    optimizer = getattr(sl.optim, kind)(parameters, **MIXED[kind])
    for p, g in zip(parameters, gradients, strict=True):
        p.grad = g
    optimizer.step(**step)
    optimizer.step(**step)
    return optimizer


@pytest.mark.parametrize("kind", MIXED)
def test_bits_do_not_depend_on_threads_or_neighbours(kind, device, rng):
    values = [rng.standard_normal(s) for s in [*LONG, (300, 400)]]
    dtypes = ["float32", "bfloat16", "float64"] * 3

    def run(chosen):
        start = [make_tensor(values[i], dtypes[i], device, requires_grad=True) for i in chosen]
        gradients = [make_tensor(values[i] * 3 + 1, dtypes[i], device) for i in chosen]
        steps_of(kind, start, gradients)
        return [p.detach().cpu().numpy() for p in start]

    before = sl.get_num_threads()
    together = run(range(len(values)))
    try:
        for threads in (1, 2, 4):
            sl.set_num_threads(threads)
            for a, b in zip(together, run(range(len(values))), strict=True):
                np.testing.assert_array_equal(a, b)
    finally:
        sl.set_num_threads(before)
    for i, a in enumerate(together):
        np.testing.assert_array_equal(a, run([i])[0])


@pytest.mark.parametrize("kind", MIXED)
@pytest.mark.parametrize("limit", [0.5, 1e6])
def test_clipping_inside_the_step_is_clipping_before_it(kind, limit, dtype, device, rng):
    values = [rounded(rng.standard_normal(s), dtype) for s in LONG[:6]]
    results = []
    for inside in (False, True):
        start = [make_tensor(v, dtype, device, requires_grad=True) for v in values]
        gradients = [make_tensor(v, dtype, device) for v in values]
        optimizer = getattr(sl.optim, kind)(start, **MIXED[kind])
        for p, g in zip(start, gradients, strict=True):
            p.grad = g
        if inside:
            optimizer.step(max_norm=limit)
            norm = optimizer.grad_norm
            for g, v in zip(gradients, values, strict=True):  # as they were
                np.testing.assert_array_equal(np.asarray(g.cpu().numpy(), np.float64), v)
        else:
            norm = sl.optim.clip_grad_norm_(start, limit)
            optimizer.step()
        exact = np.sqrt(sum((v.astype(np.float64) ** 2).sum() for v in values))
        assert_close_to_reference(norm, exact, dtype="float32")
        results.append([np.asarray(p.detach().cpu().numpy(), np.float64) for p in start])
    for a, b in zip(*results, strict=True):
        if dtype == "float32" or limit > 1:
            np.testing.assert_array_equal(a, b)
        else:  # clipping before rounds the gradients to 16 bits once more
            assert_close_to_reference(a, b, dtype=dtype, kind="product")


def test_norm_of_mixed_dtypes_and_views(device, rng):
    values = [rng.standard_normal((70, 50)) for _ in range(3)]
    dtypes, layouts = ["float32", "bfloat16", "float64"], ["transposed", "misaligned", "contiguous"]
    parameters = []
    for v, dtype, layout in zip(values, dtypes, layouts, strict=True):
        p = make_tensor(v, dtype, device, requires_grad=True)
        p.grad = make_tensor(v, dtype, device, layout)
        parameters.append(p)
    held = [rounded(v, d) for v, d in zip(values, dtypes, strict=True)]
    norm = np.sqrt(sum((v**2).sum() for v in held))
    got = sl.optim.clip_grad_norm_(parameters, 2.0)
    assert_close_to_reference(got, norm, dtype="float32")
    for p, v, d in zip(parameters, held, dtypes, strict=True):
        want = v * 2.0 / (norm + 1e-6)
        assert_close_to_reference(p.grad, want, dtype=d if d != "float64" else "float32")


def test_gradients_of_another_dtype(device, rng):
    """A float32 gradient of a 16-bit parameter is not rounded on its way."""
    value, gradient = rounded(rng.standard_normal(100), "bfloat16"), rng.standard_normal(100)
    p = make_tensor(value, "bfloat16", device, requires_grad=True)
    p.grad = make_tensor(gradient, "float32", device)
    sl.optim.SGD([p], lr=1.0).step()
    g = rounded(gradient, "float32")
    assert_close_to_reference(p, value - g, (value - g).astype(np.float32), dtype="bfloat16")


@pytest.mark.parametrize("kind", MIXED)
def test_not_a_number_reaches_the_parameters_and_no_neighbour(kind, device):
    a, b = (make_tensor(np.ones((4, 40)), "float32", device, requires_grad=True) for _ in range(2))
    bad = np.ones((4, 40))
    bad[2, 3] = np.nan
    steps_of(kind, [a, b], [make_tensor(bad, "float32", device), sl.ones(4, 40, device=device)])
    assert np.isnan(a.detach().cpu().numpy()[2, 3])
    assert np.isfinite(b.detach().cpu().numpy()).all()
    c = make_tensor(np.ones((4, 40)), "float32", device, requires_grad=True)
    steps_of(kind, [c], [make_tensor(bad, "float32", device)], max_norm=1.0)
    assert np.isnan(c.detach().cpu().numpy()).all()


def test_steps_refuse_what_they_cannot_write(device):
    p = sl.ones(3, device=device, requires_grad=True)
    p.grad = sl.ones(3, device=device)
    optimizer = sl.optim.AdamW([p])
    optimizer.step()
    optimizer.state[p]["exp_avg"] = sl.ones(4, device=device)
    with refuses(ValueError, "AdamW"):
        optimizer.step()
    optimizer.state[p]["exp_avg"] = sl.ones(3, dtype="float64", device=device)
    with refuses(TypeError, "AdamW"):
        optimizer.step()
    optimizer.state[p]["exp_avg"] = None
    with refuses(TypeError, "AdamW"):
        optimizer.step()
    if device == "cpu":
        fixed = np.ones(3, np.float32)
        fixed.flags.writeable = False
        q = sl.from_numpy(fixed)
        q.requires_grad = True
        q.grad = sl.ones(3)
        with refuses(ValueError, "SGD"):
            sl.optim.SGD([q]).step()


def test_a_step_counts_as_a_change_in_place():
    p = sl.ones(3, requires_grad=True)
    loss = (p * p).sum()
    p.grad = sl.ones(3)
    sl.optim.SGD([p]).step()
    with pytest.raises(RuntimeError, match="in place"):
        loss.backward()


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
