# SPDX-License-Identifier: Apache-2.0
"""Adafactor: second moments of a matrix kept as one row and one column."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..ops.optimizer import Clip, adafactor_step
from ..tensor import Tensor
from .optimizer import Group, Optimizer, State, zeros_for


class Adafactor(Optimizer):
    """Shazeer and Stern's optimizer, in torch's form.

    Parameters
    ----------
    params : iterable of Tensors, or of dicts (groups)
    lr : float
        Bounds the relative step, which is 1 / sqrt(step) otherwise.
    beta2_decay : float
        The mean squares decay with ``1 - step^beta2_decay``.
    eps : (float or None, float)
        Floors of the root mean squares of update and parameter; None is the dtype's smallest step.
    d : float
        Updates of a larger root mean square are scaled down to it.
    weight_decay : float
        Each step multiplies the parameter by ``1 - lr * weight_decay``.
    maximize : bool

    Examples
    --------
    >>> import seqloom as sl
    >>> layer = sl.nn.Linear(100, 50)
    >>> optimizer = sl.optim.Adafactor(layer.parameters())
    >>> layer(sl.ones(1, 100)).sum().backward()
    >>> optimizer.step()
    >>> [t.size for n, t in optimizer.state[layer.weight].items() if n != "step"]
    [50, 100]
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        beta2_decay: float = -0.8,
        eps: tuple[float | None, float] = (None, 1e-3),
        d: float = 1.0,
        weight_decay: float = 0.0,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "beta2_decay": beta2_decay,
                "eps": eps,
                "d": d,
                "weight_decay": weight_decay,
                "maximize": maximize,
            },
        )

    def _check(self, group: Group) -> None:
        super()._check(group)
        if group["beta2_decay"] > 0:
            raise ValueError(
                f"Adafactor: beta2_decay must not be positive, got {group['beta2_decay']}"
            )
        if group["d"] < 1:
            raise ValueError(f"Adafactor: d must be at least 1, got {group['d']}")

    def _fresh(self, p: Tensor, group: Group) -> State:
        if p.ndim < 2:
            return {"step": 0, "variance": zeros_for(p, *p.shape)}
        row, column = (*p.shape[:-1], 1), (*p.shape[:-2], 1, p.shape[-1])
        return {"step": 0, "row_var": zeros_for(p, *row), "col_var": zeros_for(p, *column)}

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
        adafactor_step(
            params,
            grads,
            [s.get("row_var") for s in states],
            [s["col_var"] if "col_var" in s else s["variance"] for s in states],
            [s["step"] for s in states],
            lr=group["lr"],
            beta2_decay=group["beta2_decay"],
            eps=group["eps"],
            d=group["d"],
            weight_decay=group["weight_decay"],
            maximize=group["maximize"],
            clip=clip,
        )
