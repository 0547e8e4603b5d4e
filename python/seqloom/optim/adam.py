# SPDX-License-Identifier: Apache-2.0
"""Adam and AdamW."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..ops.optimizer import Clip, adam_step
from ..tensor import Tensor
from .optimizer import Group, Optimizer, State, zeros_for


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
        self,
        params: list[Tensor],
        grads: list[Tensor],
        states: list[State],
        group: Group,
        clip: Clip,
    ) -> None:
        for state in states:
            state["step"] += 1
        adam_step(
            params,
            grads,
            [s["exp_avg"] for s in states],
            [s["exp_avg_sq"] for s in states],
            [s["max_exp_avg_sq"] for s in states] if group["amsgrad"] else [],
            [s["step"] for s in states],
            lr=group["lr"],
            betas=group["betas"],
            eps=group["eps"],
            weight_decay=group["weight_decay"],
            decoupled=self._decoupled,
            maximize=group["maximize"],
            clip=clip,
        )


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
