# SPDX-License-Identifier: Apache-2.0
"""User-defined ops, torch's protocol."""

from __future__ import annotations

from typing import Any

from .. import _core
from ..tensor import Tensor
from .tape import Gradients, Node, no_grad, record

__all__ = ["Context", "Function"]


class Context:
    """What a :class:`Function` keeps between forward and backward."""

    def __init__(self, needs_input_grad: tuple[bool, ...]) -> None:
        self.needs_input_grad = needs_input_grad
        self._to_save: tuple[Tensor | None, ...] = ()
        self._constant: tuple[Tensor, ...] = ()
        self._node: Node | None = None

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keep tensors; read them in backward as ``ctx.saved_tensors``."""
        self._to_save = tensors

    def mark_non_differentiable(self, *tensors: Tensor) -> None:
        """Outputs that never get a gradient."""
        self._constant = tensors

    @property
    def saved_tensors(self) -> tuple[Any, ...]:
        return self._to_save if self._node is None else self._node.saved_tensors()


def _function_backward(node: Node, *gradients: Tensor | None) -> Gradients:
    function, ctx, positions, shapes = node.context
    ctx._node = node
    filled = [
        _core.full(shape, 0.0, code, device) if g is None else g
        for g, (shape, code, device) in zip(gradients, shapes, strict=True)
    ]
    results = function.backward(ctx, *filled)
    ctx._node = None
    if not isinstance(results, tuple):
        results = (results,)
    if len(results) != len(ctx.needs_input_grad):
        raise RuntimeError(
            f"{function.__name__}.backward: must return {len(ctx.needs_input_grad)} gradients, one"
            f" per argument of forward, got {len(results)}"
        )
    # A gradient may be a tensor that the user goes on using: hand on memory of our own.
    return tuple(None if results[p] is None else _core.clone(results[p]) for p in positions)


class Function:
    """An op of your own: static ``forward`` and ``backward``, called by ``apply``, as in torch.

    Examples
    --------
    >>> import seqloom as sl
    >>> class Cube(sl.autograd.Function):
    ...     @staticmethod
    ...     def forward(ctx, x):
    ...         ctx.save_for_backward(x)
    ...         return x * x * x
    ...     @staticmethod
    ...     def backward(ctx, grad):
    ...         (x,) = ctx.saved_tensors
    ...         return 3 * x * x * grad
    >>> x = sl.tensor([2.0], requires_grad=True)
    >>> Cube.apply(x).backward()
    >>> x.grad.tolist()
    [12.0]
    """

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Any:
        raise TypeError("Function: forward must be defined")

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise TypeError("Function: backward must be defined")

    @classmethod
    def apply(cls, *args: Any) -> Any:
        needs = tuple(isinstance(a, Tensor) and a.requires_grad for a in args)
        ctx = Context(needs)
        recording = _core.grad_enabled() and any(needs)
        with no_grad():
            results = cls.forward(ctx, *args)
        if not recording:
            return results
        outputs = list(results) if isinstance(results, tuple) else [results]
        # An input handed through is a new result: give it an identity of its own.
        outputs = [
            r.detach() if isinstance(r, Tensor) and any(r is a for a in args) else r
            for r in outputs
        ]
        tracked = [
            t
            for t in outputs
            if isinstance(t, Tensor)
            and t.dtype.is_floating_point
            and not any(t is c for c in ctx._constant)
        ]
        positions = [i for i, a in enumerate(args) if isinstance(a, Tensor)]
        shapes = [(t.shape, t._dtype_code, t.device) for t in tracked]
        saved = tuple(
            s.detach() if s is not None and any(s is r for r in outputs) else s
            for s in ctx._to_save
        )
        ctx._to_save = ()
        record(
            tracked,
            cls.__name__,
            [args[i] for i in positions],
            _function_backward,
            saved,
            (cls, ctx, positions, shapes),
        )
        return tuple(outputs) if isinstance(results, tuple) else outputs[0]
