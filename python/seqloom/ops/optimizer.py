# SPDX-License-Identifier: Apache-2.0
"""Steps of the optimizers over lists of parameters, and the norm of all gradients together.

For :mod:`seqloom.optim` and :mod:`seqloom.nn.utils`: everything here changes its arguments in place
and is not part of the public ops. A step is one kernel for all parameters of a device and dtype.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import _core
from ..creation import zeros
from ..dtypes import float32
from ..tensor import Tensor

Tensors = list[Tensor]
Clip = tuple[Tensor, float] | None  # the norm of the gradients, and what it may be at most


def state_dtype(p: Tensor) -> Any:
    """float32 beside 16-bit parameters, else their own dtype."""
    return p.dtype if p.dtype.itemsize >= 4 else float32


def _fitted(step: Callable[[Tensors, Tensors], None], params: Tensors, gradients: Tensors) -> None:
    """Run `step`, on copies of those parameters that kernels can't take as they lie.

    A gradient of another dtype is taken to the dtype of the state, and its parameter as well.
    """
    if _core.suits_kernels(params, gradients):
        step(params, gradients)
        return
    copies, fitting = [], []
    for p, g in zip(params, gradients, strict=True):
        w = p.detach()
        if g.dtype is not p.dtype:
            w = w.to(dtype=state_dtype(p))
        copies.append(w.contiguous())
        fitting.append(g.detach().to(dtype=w.dtype, device=w.device))
    step(copies, fitting)
    for p, w in zip(params, copies, strict=True):
        if p.dtype is not w.dtype or not p.is_contiguous():
            p.detach().copy_(w)


def sgd_step(
    params: Tensors,
    gradients: Tensors,
    buffers: Tensors,
    fresh: list[bool],
    *,
    lr: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
    maximize: bool,
    clip: Clip = None,
) -> None:
    """SGD; no buffers without momentum, `fresh` where a buffer is not yet initialised."""
    norm, most = clip or (None, 0.0)

    def step(p: Tensors, g: Tensors) -> None:
        _core.sgd_step(
            p, g, buffers, fresh, lr, momentum, dampening, weight_decay, nesterov, maximize,
            norm, most,
        )  # fmt: skip

    _fitted(step, params, gradients)


def adam_step(
    params: Tensors,
    gradients: Tensors,
    means: Tensors,
    squares: Tensors,
    largest: Tensors,
    steps: list[int],
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    decoupled: bool,
    maximize: bool,
    clip: Clip = None,
) -> None:
    """Adam, or AdamW with `decoupled`; `largest` is empty without amsgrad."""
    norm, most = clip or (None, 0.0)
    beta1, beta2 = betas

    def step(p: Tensors, g: Tensors) -> None:
        _core.adam_step(
            p, g, means, squares, largest, steps, lr, beta1, beta2, eps, weight_decay, decoupled,
            maximize, norm, most,
        )  # fmt: skip

    _fitted(step, params, gradients)


def adafactor_step(
    params: Tensors,
    gradients: Tensors,
    rows: list[Tensor | None],
    columns: Tensors,
    steps: list[int],
    *,
    lr: float,
    beta2_decay: float,
    eps: tuple[float | None, float],
    d: float,
    weight_decay: float,
    maximize: bool,
    clip: Clip = None,
) -> None:
    """Adafactor; `rows` is None and `columns` the whole variance where a parameter is a vector."""
    norm, most = clip or (None, 0.0)
    least, floor = eps

    def step(p: Tensors, g: Tensors) -> None:
        _core.adafactor_step(
            p, g, rows, columns, steps, lr, beta2_decay, least, floor, d, weight_decay, maximize,
            norm, most,
        )  # fmt: skip

    _fitted(step, params, gradients)


def gradient_norm(gradients: Tensors) -> Tensor:
    """The root of the sum of all squares, float32 on the device of the first gradient."""
    norms: Tensors = _core.gradient_norms(gradients)
    if len(norms) == 1:
        return norms[0]
    total = zeros(device=gradients[0].device)
    for n in norms:
        there = n.to(device=total.device)
        total.add_(there * there)
    return total.sqrt()


def clip_gradients(gradients: Tensors, norm: Tensor, max_norm: float) -> None:
    """Multiply all gradients by min(1, max_norm / (norm + 1e-6)), in place."""
    whole = [g for g in gradients if g.is_contiguous()]
    for device in {str(g.device) for g in whole}:
        here = [g for g in whole if str(g.device) == device]
        _core.clip_gradients(here, norm.to(device=device), max_norm)
    if len(whole) == len(gradients):
        return
    for g in gradients:
        if not g.is_contiguous():
            copy = g.detach().contiguous()
            _core.clip_gradients([copy], norm.to(device=g.device), max_norm)
            g.detach().copy_(copy)
