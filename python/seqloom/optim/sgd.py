# SPDX-License-Identifier: Apache-2.0
"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..ops.optimizer import Clip, sgd_step
from ..tensor import Tensor
from .optimizer import Group, Optimizer, State, empty_for


class SGD(Optimizer):
    """Gradient descent with momentum.

    Parameters
    ----------
    params : iterable of Tensors, or of dicts (groups)
    lr : float
    momentum, dampening : float
    weight_decay : float
        Added to the gradient, times the parameter.
    nesterov : bool
        Needs a momentum and no dampening.
    maximize : bool

    Examples
    --------
    >>> import seqloom as sl
    >>> p = sl.nn.Parameter([1.0])
    >>> optimizer = sl.optim.SGD([p], lr=0.1)
    >>> (p * p).sum().backward()
    >>> optimizer.step()
    >>> round(p.item(), 4)
    0.8
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "dampening": dampening,
                "weight_decay": weight_decay,
                "nesterov": nesterov,
                "maximize": maximize,
            },
        )

    def _check(self, group: Group) -> None:
        super()._check(group)
        if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0):
            raise ValueError("SGD: nesterov needs a positive momentum and no dampening")

    def _fresh(self, p: Tensor, group: Group) -> State:
        return {}

    def _update(
        self,
        params: list[Tensor],
        grads: list[Tensor],
        states: list[State],
        group: Group,
        clip: Clip,
    ) -> None:
        buffers: list[Tensor] = []
        fresh: list[bool] = []
        if group["momentum"]:
            for p, state in zip(params, states, strict=True):
                held = state.get("momentum_buffer")
                fresh.append(held is None)
                if held is None:
                    held = state["momentum_buffer"] = empty_for(p)
                buffers.append(held)
        sgd_step(
            params,
            grads,
            buffers,
            fresh,
            lr=group["lr"],
            momentum=group["momentum"],
            dampening=group["dampening"],
            weight_decay=group["weight_decay"],
            nesterov=group["nesterov"],
            maximize=group["maximize"],
            clip=clip,
        )
