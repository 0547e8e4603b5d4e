# SPDX-License-Identifier: Apache-2.0
"""How the reference is judged: cases, finite differences, agreement with torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import reference as ref

try:
    import torch
except ImportError:
    torch = None

RNG = np.random.default_rng(20240229)


def draw(*shape, scale=1.0):
    return RNG.standard_normal(shape) * scale


def distinct(*shape):
    """Values at least 0.1 apart, so that a finite difference never swaps two of them."""
    n = int(np.prod(shape))
    return (RNG.permutation(n).reshape(shape) - n / 2) * 0.1


def positive(*shape):
    return np.abs(draw(*shape)) + 0.3


@dataclass
class Case:
    name: str
    op: ref.Op
    inputs: dict[str, np.ndarray]
    options: dict[str, Any] = field(default_factory=dict)
    torch: Callable[..., Any] | None = None
    constant: tuple[str, ...] = ()  # float inputs without a gradient


class Cases(list):
    """A list of cases with a short way to add one."""

    def add(self, name, op, inputs, torch=None, constant=(), **options):
        self.append(Case(name, op, inputs, options, torch, constant))


def outputs_of(value):
    values = value if isinstance(value, tuple) else (value,)
    return [v for v in map(np.asarray, values) if v.dtype.kind == "f"]


def output_gradients(value):
    rng = np.random.default_rng(7)
    return [rng.standard_normal(np.shape(v)) for v in outputs_of(value)]


def check_finite_differences(op, inputs, options, constant=(), step=1e-6, tries=4):
    """Directional derivatives of sum(output * gradient), several directions an input."""
    value, backward = op.vjp(**inputs, **options)
    grads = output_gradients(value)
    analytic = backward(*grads)
    assert set(analytic) >= set(inputs) - set(constant)

    def loss(changed):
        outs = outputs_of(op(**changed, **options))
        return sum(float((o * g).sum()) for o, g in zip(outs, grads, strict=True))

    rng = np.random.default_rng(11)
    for name in sorted(set(inputs) - set(constant)):
        assert analytic[name].shape == inputs[name].shape
        for _ in range(tries):
            direction = rng.standard_normal(inputs[name].shape)
            up = loss(inputs | {name: inputs[name] + step * direction})
            down = loss(inputs | {name: inputs[name] - step * direction})
            slope = float((analytic[name] * direction).sum())
            np.testing.assert_allclose(
                slope, (up - down) / (2 * step), rtol=2e-6, atol=2e-6, err_msg=name
            )


def check_against_torch(op, inputs, options, function):
    value, backward = op.vjp(**inputs, **options)
    tensors = {n: torch.from_numpy(a.copy()).requires_grad_() for n, a in inputs.items()}
    theirs = function(**tensors, **options)
    theirs = theirs if isinstance(theirs, tuple) else (theirs,)
    ours = value if isinstance(value, tuple) else (value,)
    for mine, their in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, their.detach().numpy(), rtol=1e-10, atol=1e-12)
    differentiable = [t for t in theirs if t.dtype.is_floating_point]
    grads = output_gradients(value)
    torch.autograd.backward(differentiable, [torch.from_numpy(np.asarray(g)) for g in grads])
    pulled = backward(*grads)
    for name, t in tensors.items():
        np.testing.assert_allclose(
            pulled[name], t.grad.numpy(), rtol=1e-9, atol=1e-11, err_msg=name
        )


def check_keeps_float32(op, inputs, options):
    narrow = {n: a.astype(np.float32) for n, a in inputs.items()}
    options = {
        n: o.astype(np.float32) if getattr(o, "dtype", None) == np.float64 else o
        for n, o in options.items()
    }
    value, backward = op.vjp(**narrow, **options)
    grads = [g.astype(np.float32) for g in output_gradients(value)]
    assert {o.dtype for o in outputs_of(value)} == {np.dtype(np.float32)}
    for name, grad in backward(*grads).items():
        assert grad.dtype == np.float32, name
