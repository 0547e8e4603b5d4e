# SPDX-License-Identifier: Apache-2.0
"""How a reference op is written: one function that returns its value and its backward.

A function under ``@op`` returns ``(value, backward)``. Calling the op gives the value
alone, ``op.vjp(...)`` gives both. ``value`` is an array or a tuple of arrays;
``backward`` takes one gradient for each differentiable output (``None`` stands for
zeros where the op says so) and returns a dict from argument name to gradient.

Every op computes in the dtype of its floating-point arguments: with float64 arrays it is
the reference, with float32 arrays it shows what the same formula loses in float32.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray
Backward = Callable[..., dict[str, Array]]


class Op:
    """A reference op: ``op(...)`` is its value, ``op.vjp(...)`` its value and backward."""

    def __init__(self, function: Callable[..., tuple[Any, Backward]]) -> None:
        self._function = function
        functools.update_wrapper(self, function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.vjp(*args, **kwargs)[0]

    def vjp(self, *args: Any, **kwargs: Any) -> tuple[Any, Backward]:
        # Infinities and NaN are values here: IEEE arithmetic says what comes out.
        with np.errstate(all="ignore"):
            value, backward = self._function(*args, **kwargs)

        def quiet_backward(*grads: Any) -> dict[str, Array]:
            with np.errstate(all="ignore"):
                return {name: np.asarray(grad) for name, grad in backward(*grads).items()}

        return value, quiet_backward


op = Op


def unbroadcast(grad: Array, shape: tuple[int, ...]) -> Array:
    """Sum ``grad`` back to ``shape``: the backward of broadcasting."""
    grad = np.asarray(grad)
    extra = grad.ndim - len(shape)
    if extra:
        grad = grad.sum(axis=tuple(range(extra)))
    stretched = tuple(i for i, n in enumerate(shape) if n == 1 and grad.shape[i] != 1)
    if stretched:
        grad = grad.sum(axis=stretched, keepdims=True)
    return grad
