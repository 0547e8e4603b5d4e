# SPDX-License-Identifier: Apache-2.0
"""Adam and AdamW."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from ..ops import maximum
from ..tensor import Tensor
from .optimizer import Group, Optimizer, State, widened, zeros_for


class Adam(Optimizer):
    """Steps of the mean gradient over the root of the mean squared gradient.

    Parameters
    ----------
    params : iterable of Tensors, or of dicts (groups)
    lr : float
    betas : (float, float)
        Decay of the means of gradient and squared gradient.
    eps : float
    weight_decay : float
        Added to the gradient, times the parameter.
    amsgrad : bool
        Divide by the largest mean square so far.
    maximize : bool

    Examples
    --------
    >>> import seqloom as sl
    >>> p = sl.nn.Parameter([1.0])
    >>> optimizer = sl.optim.Adam([p], lr=0.1)
    >>> (p * p).sum().backward()
    >>> optimizer.step()
    >>> round(p.item(), 4)
    0.9
    """

    _decoupled = False

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "amsgrad": amsgrad,
                "maximize": maximize,
            },
        )

    def _check(self, group: Group) -> None:
        super()._check(group)
        if not group["eps"] >= 0:
            raise ValueError(f"{type(self).__name__}: eps must be at least 0, got {group['eps']}")

    def _fresh(self, p: Tensor, group: Group) -> State:
        state = {"step": 0, "exp_avg": zeros_for(p, *p.shape), "exp_avg_sq": zeros_for(p, *p.shape)}
        if group["amsgrad"]:
            state["max_exp_avg_sq"] = zeros_for(p, *p.shape)
        return state

    def _update(
        self, params: list[Tensor], grads: list[Tensor], states: list[State], group: Group
    ) -> None:
        beta1, beta2 = group["betas"]
        for p, grad, state in zip(params, grads, states, strict=True):
            state["step"] += 1
            step, mean, square = state["step"], state["exp_avg"], state["exp_avg_sq"]
            g, w = widened(grad, p), widened(p, p)
            if group["maximize"]:
                g = -g
            if group["weight_decay"]:
                if self._decoupled:
                    w = w * (1 - group["lr"] * group["weight_decay"])
                else:
                    g = g + w * group["weight_decay"]
            mean.mul_(beta1).add_(g * (1 - beta1))
            square.mul_(beta2).add_(g * g * (1 - beta2))
            if group["amsgrad"]:
                largest = state["max_exp_avg_sq"]
                square = largest.copy_(maximum(largest, square))
            root = square.sqrt().div_(math.sqrt(1 - beta2**step)).add_(group["eps"])
            p.detach().copy_(w - mean / root * (group["lr"] / (1 - beta1**step)))


class AdamW(Adam):
    """Adam whose weight decay shrinks the parameter itself, apart from the gradient.

    Parameters
    ----------
    params : iterable of Tensors, or of dicts (groups)
    lr : float
    betas : (float, float)
    eps : float
    weight_decay : float
        Each step multiplies the parameter by ``1 - lr * weight_decay``.
    amsgrad, maximize : bool

    Examples
    --------
    >>> import seqloom as sl
    >>> layer = sl.nn.Linear(4, 2)
    >>> decayed, free = [layer.weight], [layer.bias]
    >>> optimizer = sl.optim.AdamW([{"params": decayed}, {"params": free, "weight_decay": 0.0}])
    >>> [group["weight_decay"] for group in optimizer.param_groups]
    [0.01, 0.0]
    """

    _decoupled = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize)
