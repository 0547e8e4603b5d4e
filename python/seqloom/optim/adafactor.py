# SPDX-License-Identifier: Apache-2.0
"""Adafactor: second moments of a matrix kept as one row and one column."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..tensor import Tensor
from .optimizer import Group, Optimizer, State, widened, zeros_for

_EPS = {"float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7, "float64": 2.0**-52}


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
        self, params: list[Tensor], grads: list[Tensor], states: list[State], group: Group
    ) -> None:
        for p, grad, state in zip(params, grads, states, strict=True):
            state["step"] += 1
            step = state["step"]
            smallest, floor = group["eps"]
            eps = _EPS[p.dtype.name] if smallest is None else smallest
            g, w = widened(grad, p), widened(p, p)
            if group["maximize"]:
                g = -g
            fresh = step ** group["beta2_decay"]
            relative = min(group["lr"], step**-0.5)
            scale = max(floor, (w * w).mean().sqrt().item()) * relative
            if group["weight_decay"]:
                w = w * (1 - group["lr"] * group["weight_decay"])
            squares = g * g
            if p.ndim >= 2:
                row, column = state["row_var"], state["col_var"]
                row.mul_(1 - fresh).add_(squares.mean(-1, keepdim=True) * fresh)
                column.mul_(1 - fresh).add_(squares.mean(-2, keepdim=True) * fresh)
                variance = row * column / row.mean(-2, keepdim=True).clamp(eps)
            else:
                variance = state["variance"].mul_(1 - fresh).add_(squares * fresh)
            update = variance.clamp(eps * eps).rsqrt().mul_(g)
            size = (update * update).mean().sqrt().item()
            p.detach().copy_(w - update * (scale / max(1.0, size / group["d"])))
