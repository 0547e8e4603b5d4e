# SPDX-License-Identifier: Apache-2.0
"""Optimizers against torch's over twenty steps, states that resume, schedules, errors."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest

import seqloom as sl
from nn_support import assert_close, plain
from seqloom import nn, optim

STEPS = 20

CASES = {
    "SGD": [
        {"lr": 0.1},
        {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01},
        {"lr": 0.1, "momentum": 0.9, "nesterov": True},
        {"lr": 0.1, "momentum": 0.8, "dampening": 0.3, "maximize": True},
    ],
    "Adam": [
        {"lr": 0.03},
        {"lr": 0.03, "betas": (0.8, 0.95), "eps": 1e-4, "weight_decay": 0.1},
        {"lr": 0.03, "amsgrad": True, "maximize": True},
    ],
    "AdamW": [{"lr": 0.03}, {"lr": 0.03, "weight_decay": 0.3, "amsgrad": True}],
    "Adafactor": [
        {"lr": 0.1},
        {"lr": 0.5, "weight_decay": 0.1, "d": 2.0, "eps": (1e-10, 1e-2), "beta2_decay": -0.5},
    ],
}
ALL = [(kind, options) for kind, every in CASES.items() for options in every]


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def values_of(rng: np.random.Generator) -> list[np.ndarray]:
    return [rng.standard_normal(s).astype(np.float32) for s in ((4, 3), (5,), (2, 3, 4), ())]


def gradients_of(rng: np.random.Generator, steps: int) -> list[list[np.ndarray]]:
    """Gradients of all parameters for every step; the second gets none in the third step."""
    return [
        [None if i == 1 and step == 2 else g for i, g in enumerate(values_of(rng))]
        for step in range(steps)
    ]


def run(optimizer, parameters, gradients, to_tensor) -> None:
    for step in gradients:
        for p, g in zip(parameters, step, strict=True):
            p.grad = None if g is None else to_tensor(g)
        optimizer.step()


@pytest.mark.parametrize(("kind", "options"), ALL)
def test_twenty_steps_as_torch(torch, rng, device, kind, options):
    values, gradients = values_of(rng), gradients_of(rng, STEPS)
    mine = [nn.Parameter(sl.tensor(v, device=device)) for v in values]
    theirs = [torch.nn.Parameter(torch.tensor(v)) for v in values]
    ours = getattr(optim, kind)(mine, **options)
    run(ours, mine, gradients, lambda g: sl.tensor(g, device=device))
    other = getattr(torch.optim, kind)(theirs, **options)
    run(other, theirs, gradients, torch.tensor)
    for i, (p, t) in enumerate(zip(mine, theirs, strict=True)):
        assert_close(p, t, f"parameter {i}", 5e-5)
    state = other.state_dict()["state"]
    for number, entry in ours.state_dict()["state"].items():
        assert set(entry) == {k for k, v in state.get(number, {}).items() if v is not None}
        for name, value in entry.items():
            assert_close(value, state[number][name], f"{name} of {number}", 5e-5)


@pytest.mark.parametrize("kind", CASES)
def test_groups_clipping_and_a_schedule_as_torch(torch, rng, device, kind):
    """Twenty steps as trainings take them: decay for matrices only, warm-up, cosine, clipping."""
    values, gradients = values_of(rng), [values_of(rng) for _ in range(STEPS)]

    def factor(step):
        return min(1.0, step / 4) * 0.5 * (1 + math.cos(math.pi * step / STEPS))

    def groups(parameters):
        matrices = [p for p in parameters if p.ndim >= 2]
        rest = [p for p in parameters if p.ndim < 2]
        return [{"params": matrices, "weight_decay": 0.2}, {"params": rest, "weight_decay": 0.0}]

    mine = [nn.Parameter(sl.tensor(v, device=device)) for v in values]
    theirs = [torch.nn.Parameter(torch.tensor(v)) for v in values]
    ours = getattr(optim, kind)(groups(mine), lr=0.05)
    other = getattr(torch.optim, kind)(groups(theirs), lr=0.05)
    schedule = optim.Schedule(ours, factor)
    their_schedule = torch.optim.lr_scheduler.LambdaLR(other, factor)
    for step in gradients:
        for p, t, g in zip(mine, theirs, step, strict=True):
            p.grad, t.grad = sl.tensor(g, device=device), torch.tensor(g)
        norm = nn.utils.clip_grad_norm_(mine, 1.0).item()
        assert norm == pytest.approx(torch.nn.utils.clip_grad_norm_(theirs, 1.0).item(), rel=1e-5)
        ours.step()
        other.step()
        schedule.step()
        their_schedule.step()
        assert schedule.get_last_lr() == pytest.approx(their_schedule.get_last_lr())
    for i, (p, t) in enumerate(zip(mine, theirs, strict=True)):
        assert_close(p, t, f"parameter {i}", 5e-5)


@pytest.mark.parametrize(("kind", "options"), ALL)
def test_state_resumes_bit_for_bit(rng, kind, options):
    values, gradients = values_of(rng), gradients_of(rng, 6)
    through, first = ([nn.Parameter(v) for v in values] for _ in range(2))
    run(getattr(optim, kind)(through, **options), through, gradients, sl.tensor)
    early = getattr(optim, kind)(first, **options)
    run(early, first, gradients[:3], sl.tensor)
    second = [nn.Parameter(p.detach().clone()) for p in first]
    late = getattr(optim, kind)(second, lr=9.0)
    late.load_state_dict(copy.deepcopy(early.state_dict()))
    assert late.param_groups[0]["lr"] == options["lr"]
    run(early, first, [[np.ones_like(v) for v in values]], sl.tensor)  # shares nothing with `late`
    run(late, second, gradients[3:], sl.tensor)
    for a, b in zip(through, second, strict=True):
        np.testing.assert_array_equal(plain(a), plain(b))


def test_loads_a_state_of_torch(torch, rng):
    values, gradients = values_of(rng), gradients_of(rng, 6)
    theirs = [torch.nn.Parameter(torch.tensor(v)) for v in values]
    other = torch.optim.AdamW(theirs, lr=0.03)
    run(other, theirs, gradients[:3], torch.tensor)
    mine = [nn.Parameter(plain(t).copy()) for t in theirs]
    ours = optim.AdamW(mine)
    ours.load_state_dict(other.state_dict())
    run(ours, mine, gradients[3:], sl.tensor)
    run(other, theirs, gradients[3:], torch.tensor)
    for p, t in zip(mine, theirs, strict=True):
        assert_close(p, t, "parameter", 5e-5)


@pytest.mark.parametrize("kind", CASES)
def test_sixteen_bit_parameters_keep_float32_states(rng, kind):
    start = rng.standard_normal((4, 3)).astype(np.float32)
    gradient = rng.standard_normal((4, 3)).astype(np.float32)
    results = []
    for dtype in ("float32", "bfloat16"):
        p = nn.Parameter(sl.tensor(start, dtype=dtype))
        momentum = {"momentum": 0.9} if kind == "SGD" else {}
        optimizer = getattr(optim, kind)([p], lr=0.1, **momentum)
        run(optimizer, [p], [[gradient]] * 3, lambda g, d=dtype: sl.tensor(g, dtype=d))
        assert p.dtype is sl.as_dtype(dtype)
        kept = [v for v in optimizer.state[p].values() if isinstance(v, sl.Tensor)]
        assert all(v.dtype is sl.float32 for v in kept)
        results.append(plain(p).astype(np.float32))
    np.testing.assert_allclose(results[1], results[0], atol=0.03 * np.abs(results[0]).max())


def test_groups_closure_and_zero_grad():
    a, b = nn.Parameter([1.0]), nn.Parameter([1.0])
    optimizer = optim.SGD([{"params": [a]}, {"params": b, "lr": 1.0}], lr=0.5)
    optimizer.add_param_group({"params": [nn.Parameter([3.0])], "momentum": 0.9})

    def closure():
        optimizer.zero_grad()
        loss = (a + b).sum()
        loss.backward()
        return loss

    with sl.no_grad():
        assert optimizer.step(closure).item() == 2.0
    assert (a.item(), b.item()) == (0.5, 0.0)
    optimizer.zero_grad(set_to_none=False)
    assert a.grad.tolist() == [0.0]
    optimizer.zero_grad()
    assert a.grad is None
    assert "group 2: 1 parameters, lr=0.5, momentum=0.9" in repr(optimizer)


def test_trains_a_network(rng):
    sl.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2))
    x = rng.standard_normal((64, 2)).astype(np.float32)
    target = sl.tensor((x[:, 0] * x[:, 1] > 0).astype(np.int64))
    optimizer, loss_of = optim.AdamW(net.parameters(), lr=0.05), nn.CrossEntropyLoss()
    for _ in range(120):
        optimizer.zero_grad()
        loss = loss_of(net(sl.tensor(x)), target)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
    assert loss.item() < 0.1


# ---- schedules --------------------------------------------------------------------------------


def rates(make, count: int) -> list[float]:
    optimizer = optim.SGD([nn.Parameter([1.0])], lr=2.0)
    schedule = make(optimizer)
    found = []
    for _ in range(count):
        found.append(schedule.get_last_lr()[0])
        schedule.step()
    return found


def test_schedules_by_their_formulas():
    assert rates(lambda o: optim.constant(o, 4), 6) == [0.0, 0.5, 1.0, 1.5, 2.0, 2.0]
    assert rates(lambda o: optim.linear(o, 2, 6), 8) == [0, 1, 2, 1.5, 1, 0.5, 0, 0]
    assert rates(lambda o: optim.linear(o, 0, 2, 0.5), 4) == [2, 1.5, 1, 1]
    half = [1 + math.cos(math.pi * i / 4) for i in range(5)]
    np.testing.assert_allclose(rates(lambda o: optim.cosine(o, 1, 5), 7), [0, *half, 0])
    assert rates(lambda o: optim.cosine(o, 0, 4, 1.0), 5) == [2.0] * 5
    root = [2 * math.sqrt(3 / (3 + i)) for i in range(4)]
    np.testing.assert_allclose(rates(lambda o: optim.inverse_sqrt(o, 3), 7)[3:], root)


def test_schedules_as_transformers():
    peers = pytest.importorskip("transformers.optimization")
    torch = pytest.importorskip("torch")
    pairs = [
        (lambda o: optim.constant(o, 3), lambda o: peers.get_constant_schedule_with_warmup(o, 3)),
        (lambda o: optim.linear(o, 3, 9), lambda o: peers.get_linear_schedule_with_warmup(o, 3, 9)),
        (lambda o: optim.cosine(o, 3, 9), lambda o: peers.get_cosine_schedule_with_warmup(o, 3, 9)),
        (lambda o: optim.inverse_sqrt(o, 3), lambda o: peers.get_inverse_sqrt_schedule(o, 3)),
    ]
    for mine, theirs in pairs:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=2.0)
        schedule, expected = theirs(optimizer), []
        for _ in range(9):
            expected.append(schedule.get_last_lr()[0])
            optimizer.step()
            schedule.step()
        np.testing.assert_allclose(rates(mine, 9), expected, rtol=1e-12)


def test_schedules_resume():
    optimizer = optim.SGD([nn.Parameter([1.0])], lr=2.0)
    schedule = optim.cosine(optimizer, 2, 10)
    for _ in range(5):
        schedule.step()
    other = optim.SGD([nn.Parameter([1.0])], lr=7.0)
    resumed = optim.cosine(other, 2, 10)
    resumed.load_state_dict(schedule.state_dict())
    schedule.step()
    resumed.step()
    assert other.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]


# ---- errors -----------------------------------------------------------------------------------


def parameter() -> nn.Parameter:
    return nn.Parameter([1.0])


SHARED = parameter()
WRONG = {
    "SGD: params must not be empty": lambda: optim.SGD([]),
    "SGD: params must be an iterable of Tensors or dicts": lambda: optim.SGD(parameter()),
    "Adam: params must be Tensors, got float": lambda: optim.Adam([1.0]),
    "params must be floating leaf Tensors": lambda: optim.Adam([parameter() * 2]),
    "Adam: lr must not be negative, got -1": lambda: optim.Adam([parameter()], lr=-1),
    "AdamW: betas must be in [0, 1), got (0.9, 1)": lambda: optim.AdamW(
        [parameter()], betas=(0.9, 1)
    ),
    "AdamW: betas must be two numbers, got (0.9,)": lambda: optim.AdamW(
        [parameter()], betas=(0.9,)
    ),
    "AdamW: betas must be two numbers, got 0.9": lambda: optim.AdamW([parameter()], betas=0.9),
    "SGD: lr must be a number, got str": lambda: optim.SGD([parameter()], lr="fast"),
    "step must not be negative, got -5": lambda: optim.AdamW([parameter()]).load_state_dict(
        {"state": {0: {"step": -5}}, "param_groups": [{"params": [0]}]}
    ),
    "SGD: nesterov needs a positive momentum": lambda: optim.SGD([parameter()], nesterov=True),
    "Adafactor: d must be at least 1": lambda: optim.Adafactor([parameter()], d=0.5),
    "SGD: a parameter must be in one group and once": lambda: optim.SGD([SHARED, SHARED]),
    "SGD: options must be among lr, momentum": lambda: optim.SGD(
        [{"params": [parameter()], "beta": 1}]
    ),
    "groups must hold [1] parameters, got [2]": lambda: optim.SGD([parameter()]).load_state_dict(
        optim.SGD([parameter(), parameter()]).state_dict()
    ),
    "linear: warmup_steps must not be negative": lambda: optim.linear(
        optim.SGD([parameter()]), -1, 5
    ),
    "cosine: total_steps must be an integer, got float": lambda: optim.cosine(
        optim.SGD([parameter()]), 1, 5.0
    ),
}


@pytest.mark.parametrize("message", WRONG)
def test_errors_name_optimizer_and_argument(message):
    with pytest.raises((ValueError, TypeError)) as error:
        WRONG[message]()
    assert message in str(error.value)
