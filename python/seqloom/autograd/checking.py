# SPDX-License-Identifier: Apache-2.0
"""Backward against central differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..tensor import Tensor, tensor
from .tape import grad, no_grad

__all__ = ["gradcheck"]


def gradcheck(
    function: Callable[..., Any],
    inputs: Tensor | Sequence[Tensor],
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    raise_exception: bool = True,
) -> bool:
    """Compare the gradients of `function` with central differences, in float64.

    Parameters
    ----------
    function : callable
        Takes `inputs`, returns a Tensor or a tuple of Tensors.
    inputs : Tensor or sequence of Tensor
        float64 on the CPU; those with ``requires_grad`` are checked.
    eps, atol, rtol : float
        Step of the differences, and the tolerances of the comparison.
    raise_exception : bool
        Raise a RuntimeError that says where they differ; else return False.

    Examples
    --------
    >>> import seqloom as sl
    >>> x = sl.tensor([0.3, -1.2], dtype="float64", requires_grad=True)
    >>> sl.autograd.gradcheck(lambda t: (t * t).sum(), x)
    True
    """
    args = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    checked = [t for t in args if isinstance(t, Tensor) and t.requires_grad]
    for t in checked:
        if t.dtype.name != "float64":
            raise TypeError(f"gradcheck: inputs must be float64, got {t.dtype.name}")
    if not checked:
        raise ValueError("gradcheck: no input requires a gradient")

    def outputs_of() -> list[Tensor]:
        results = function(*args)
        results = results if isinstance(results, tuple) else (results,)
        return [r for r in results if isinstance(r, Tensor) and r.dtype.is_floating_point]

    rng = np.random.default_rng(0)
    outputs = outputs_of()
    if not any(o.requires_grad for o in outputs):
        raise RuntimeError("gradcheck: no output depends on an input that requires a gradient")
    weights = [rng.standard_normal(o.shape) for o in outputs]
    used = [(o, w) for o, w in zip(outputs, weights, strict=True) if o.requires_grad]
    analytic = grad(
        [o for o, _ in used],
        checked,
        [tensor(w, dtype=o.dtype) for o, w in used],
        allow_unused=True,
    )

    def weighted() -> float:
        with no_grad():
            return float(
                sum(
                    (o.numpy().astype(np.float64) * w).sum()
                    for o, w in zip(outputs_of(), weights, strict=True)
                )
            )

    for number, (t, g) in enumerate(zip(checked, analytic, strict=True)):
        values = t.detach().numpy()
        numeric = np.zeros(t.shape)
        for index in np.ndindex(*t.shape):
            held = values[index]
            values[index] = held + eps
            above = weighted()
            values[index] = held - eps
            below = weighted()
            values[index] = held
            numeric[index] = (above - below) / (2 * eps)
        exact = np.zeros(t.shape) if g is None else g.numpy()
        if not np.allclose(exact, numeric, rtol=rtol, atol=atol):
            if not raise_exception:
                return False
            worst = np.unravel_index(np.argmax(np.abs(exact - numeric)), exact.shape)
            raise RuntimeError(
                f"gradcheck: input {number} differs at {tuple(int(i) for i in worst)}: backward"
                f" {exact[worst]:.6g}, differences {numeric[worst]:.6g}"
            )
    return True
