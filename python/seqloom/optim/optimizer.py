# SPDX-License-Identifier: Apache-2.0
"""Optimizer: parameter groups, state and the step, by torch's protocol."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from typing import Any

import numpy as np

from ..autograd import enable_grad, no_grad
from ..creation import empty, zeros
from ..ops.optimizer import Clip, gradient_norm, state_dtype
from ..tensor import Tensor, _native, from_dlpack, from_numpy, tensor

Group = dict[str, Any]
State = dict[str, Any]


class Optimizer:
    """Base of the optimizers: a subclass defines ``_update`` for one group.

    Parameters
    ----------
    params : iterable of Tensors, or of dicts
        Each dict is a group: "params" and the options in which it differs from the defaults.
    defaults : dict
        Options of every group.

    Attributes
    ----------
    param_groups : list of dict
        Options may be changed between steps, ``group["lr"]`` above all.
    state : dict
        What is kept for each parameter.
    grad_norm : scalar Tensor or None
        The norm of all gradients at the last ``step(max_norm=...)``.
    """

    def __init__(self, params: Iterable[Any], defaults: Mapping[str, Any]) -> None:
        self.defaults: Group = dict(defaults)
        self.param_groups: list[Group] = []
        self.state: dict[Tensor, State] = {}
        self.grad_norm: Tensor | None = None
        if isinstance(params, Tensor):
            raise TypeError(
                f"{type(self).__name__}: params must be an iterable of Tensors or dicts, got a"
                " Tensor"
            )
        given = list(params)
        if not given:
            raise ValueError(f"{type(self).__name__}: params must not be empty")
        for group in given if isinstance(given[0], dict) else [{"params": given}]:
            self.add_param_group(group)

    def add_param_group(self, param_group: Mapping[str, Any]) -> None:
        """Add ``{"params": [...], option: value, ...}``."""
        owner = type(self).__name__
        if not isinstance(param_group, Mapping) or "params" not in param_group:
            raise TypeError(f"{owner}: a group must be a dict with 'params'")
        held = param_group["params"]
        params = [held] if isinstance(held, Tensor) else list(held)
        unknown = sorted(set(param_group) - {"params", "initial_lr", "name"} - set(self.defaults))
        if unknown:
            raise ValueError(
                f"{owner}: options must be among {', '.join(self.defaults)}, got {unknown[0]!r}"
            )
        taken = {id(p) for g in self.param_groups for p in g["params"]}
        for p in params:
            if not isinstance(p, Tensor):
                raise TypeError(f"{owner}: params must be Tensors, got {type(p).__name__}")
            if not p.is_leaf or not p.dtype.is_floating_point:
                raise ValueError(f"{owner}: params must be floating leaf Tensors")
            if id(p) in taken:
                raise ValueError(f"{owner}: a parameter must be in one group and once")
            taken.add(id(p))
        group = {**self.defaults, **param_group, "params": params}
        # NumPy's numbers would round schedules to their width, and no JSON takes them.
        group = {n: v.item() if isinstance(v, np.generic) else v for n, v in group.items()}
        self._check(group)
        self.param_groups.append(group)

    def _check(self, group: Group) -> None:
        """Refuse options out of range."""
        for name, low, high in (
            ("lr", 0.0, math.inf),
            ("weight_decay", 0.0, math.inf),
            ("momentum", 0.0, math.inf),
        ):
            value: Any = group.get(name)
            if value is None:
                continue
            kind = type(value).__name__
            if kind != "Tensor" and not isinstance(value, Real):
                raise TypeError(f"{type(self).__name__}: {name} must be a number, got {kind}")
            if not low <= value <= high:
                raise ValueError(f"{type(self).__name__}: {name} must not be negative, got {value}")
        betas: Any = group.get("betas", (0.0, 0.0))
        if not isinstance(betas, (tuple, list)) or len(betas) != 2:
            raise TypeError(f"{type(self).__name__}: betas must be two numbers, got {betas!r}")
        if not all(0.0 <= beta < 1.0 for beta in betas):
            raise ValueError(f"{type(self).__name__}: betas must be in [0, 1), got {betas}")

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients, or with ``set_to_none=False`` fill them with zeros."""
        for group in self.param_groups:
            for p in group["params"]:
                if set_to_none:
                    p.grad = None
                elif p.grad is not None:
                    p.grad.zero_()

    def step(
        self, closure: Callable[[], Any] | None = None, *, max_norm: float | None = None
    ) -> Any:
        """Change the parameters by their gradients.

        Parameters
        ----------
        closure : callable, optional
            Computes the loss again before; its result is returned.
        max_norm : float, optional
            Step as if :func:`clip_grad_norm_` had been called with it, without writing the
            gradients; their norm before clipping is then ``self.grad_norm``.
        """
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        work: list[tuple[list[Tensor], list[Tensor], list[State], Group]] = []
        with no_grad():
            known = self.state.get
            for group in self.param_groups:
                active: list[Tensor] = []
                grads: list[Tensor] = []
                states: list[State] = []
                for p in group["params"]:
                    grad = p.grad
                    if grad is None:
                        continue
                    state = known(p)
                    if state is None:
                        state = self.state[p] = self._fresh(p, group)
                    active.append(p)
                    grads.append(grad)
                    states.append(state)
                if active:
                    work.append((active, grads, states, group))
            clip: Clip = None
            if max_norm is not None and work:
                self.grad_norm = gradient_norm([g for _, grads, _, _ in work for g in grads])
                clip = self.grad_norm, float(max_norm)
            for active, grads, states, group in work:
                self._update(active, grads, states, group, clip)
        return loss

    def _fresh(self, p: Tensor, group: Group) -> State:
        """The state of a parameter before its first step."""
        raise NotImplementedError

    def _update(
        self,
        params: list[Tensor],
        grads: list[Tensor],
        states: list[State],
        group: Group,
        clip: Clip,
    ) -> None:
        """One step of one group, everything in place."""
        raise NotImplementedError

    # ---- state -----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """``{"state": {number: ...}, "param_groups": [...]}``, parameters by number as in torch."""
        numbers: dict[int, int] = {}
        groups = []
        for group in self.param_groups:
            for p in group["params"]:
                numbers[id(p)] = len(numbers)
            groups.append({**group, "params": [numbers[id(p)] for p in group["params"]]})
        state = {numbers[id(p)]: dict(s) for p, s in self.state.items()}
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave, here or in torch; values are copied."""
        owner = type(self).__name__
        groups = list(state_dict["param_groups"])
        if [len(g["params"]) for g in groups] != [len(g["params"]) for g in self.param_groups]:
            raise ValueError(
                f"{owner}: load_state_dict: groups must hold"
                f" {[len(g['params']) for g in self.param_groups]} parameters, got"
                f" {[len(g['params']) for g in groups]}"
            )
        pairs = [
            (number, p)
            for g, mine in zip(groups, self.param_groups, strict=True)
            for number, p in zip(g["params"], mine["params"], strict=True)
        ]
        loaded: dict[Tensor, State] = {}
        for number, p in pairs:
            if number not in state_dict["state"]:
                continue
            entry: State = {}
            for name, value in state_dict["state"][number].items():
                entry[name] = self._loaded(name, value, p)
            loaded[p] = entry
        self.state = loaded
        for g, mine in zip(groups, self.param_groups, strict=True):
            known = (*self.defaults, "initial_lr", "name")
            mine.update({k: v for k, v in g.items() if k in known})

    @staticmethod
    def _loaded(name: str, value: Any, p: Tensor) -> Any:
        if name == "step":
            if not value >= 0:
                raise ValueError(f"load_state_dict: step must not be negative, got {value}")
            return int(value)
        if isinstance(value, Tensor):
            held = value
        elif isinstance(value, np.ndarray):
            held = from_numpy(_native(value, None))
        elif hasattr(value, "__dlpack__"):
            held = from_dlpack(value)
        else:
            return value
        return tensor(held, dtype=state_dtype(p), device=p.device)

    def __repr__(self) -> str:
        lines = [
            f"  group {i}: {len(g['params'])} parameters, "
            + ", ".join(f"{k}={v}" for k, v in g.items() if k != "params")
            for i, g in enumerate(self.param_groups)
        ]
        return "\n".join([f"{type(self).__name__}(", *lines, ")"])


def zeros_for(p: Tensor, *shape: int) -> Tensor:
    """Zeros of this shape in the dtype of p's state, on its device."""
    return zeros(*shape, dtype=state_dtype(p), device=p.device)


def empty_for(p: Tensor) -> Tensor:
    """Uninitialised state of p's shape, in its dtype and on its device."""
    return empty(*p.shape, dtype=state_dtype(p), device=p.device)
