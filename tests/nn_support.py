# SPDX-License-Identifier: Apache-2.0
"""What the tests of modules and optimizers share: the same weights here and in torch."""

from __future__ import annotations

from typing import Any

import numpy as np

import seqloom as sl


def plain(x: Any) -> np.ndarray:
    """Values of a Tensor, a torch tensor or an array."""
    return np.asarray(x.detach().cpu().numpy() if hasattr(x, "detach") else x)


def assert_close(mine: Any, theirs: Any, what: str = "result", rtol: float = 2e-5) -> None:
    """Equal up to float32 rounding, relative to the largest element."""
    a, b = plain(mine).astype(np.float64), plain(theirs).astype(np.float64)
    assert a.shape == b.shape, f"{what}: shape {a.shape}, not {b.shape}"
    size = max(float(np.abs(b).max(initial=0.0)), 1e-3)
    error = float(np.abs(a - b).max(initial=0.0))
    assert error <= rtol * size, f"{what}: {error:.3g} off, largest value {size:.3g}"


def same_weights(mine: sl.nn.Module, theirs: Any) -> None:
    """Give a module the weights of its torch counterpart; names and shapes must agree."""
    state = theirs.state_dict()
    assert list(mine.state_dict()) == list(state)
    mine.load_state_dict(state)


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, tuple | list):
        return [leaf for v in value for leaf in _leaves(v)]
    return [] if value is None else [value]


def to_torch(value: Any) -> Any:
    import torch

    if isinstance(value, tuple):
        return tuple(to_torch(v) for v in value)
    if not isinstance(value, np.ndarray):
        return value
    t = torch.tensor(value)
    return t.requires_grad_() if value.dtype == np.float32 else t


def to_ours(value: Any, device: str = "cpu") -> Any:
    if isinstance(value, tuple):
        return tuple(to_ours(v, device) for v in value)
    if not isinstance(value, np.ndarray):
        return value
    return sl.tensor(value, device=device, requires_grad=value.dtype == np.float32)


def assert_same_module(
    mine: sl.nn.Module,
    theirs: Any,
    *args: Any,
    device: str = "cpu",
    theirs_kwargs: dict[str, Any] | None = None,
    rtol: float = 2e-5,
    **kwargs: Any,
) -> None:
    """The same outputs, gradients of inputs and gradients of parameters as torch's module.

    float32 arrays among the arguments get gradients; ``theirs_kwargs`` replaces ``kwargs`` there.
    """
    same_weights(mine, theirs)
    mine.to(device)
    ours_in = to_ours(args, device)
    ours_named = {k: to_ours(v, device) for k, v in kwargs.items()}
    torch_in = to_torch(args)
    torch_named = {
        k: to_torch(v) for k, v in (kwargs if theirs_kwargs is None else theirs_kwargs).items()
    }
    ours, expected = (
        _leaves(f(*a, **k))
        for f, a, k in ((mine, ours_in, ours_named), (theirs, torch_in, torch_named))
    )
    assert len(ours) == len(expected)
    loss, reference = None, None
    for i, (y, t) in enumerate(zip(ours, expected, strict=True)):
        assert_close(y, t, f"output {i}", rtol)
        direction = np.random.default_rng(i).standard_normal(y.shape).astype(np.float32)
        part = (y * sl.tensor(direction, device=device)).sum()
        other = (t * to_torch(direction).detach()).sum()
        loss = part if loss is None else loss + part
        reference = other if reference is None else reference + other
    loss.backward()
    reference.backward()
    both = zip(_leaves(ours_in), _leaves(torch_in), strict=True)
    for i, (a, b) in enumerate(both):
        if getattr(b, "grad", None) is not None:
            assert_close(a.grad, b.grad, f"gradient of input {i}", 5 * rtol)
    named = dict(theirs.named_parameters())
    for name, p in mine.named_parameters():
        assert_close(p.grad, named[name].grad, f"gradient of {name}", 5 * rtol)
