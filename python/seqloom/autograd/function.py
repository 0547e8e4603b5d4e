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
        self._dirty: tuple[Tensor, ...] = ()
        self._materialize = True
        self._node: Node | None = None

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keep tensors; read them in backward as ``ctx.saved_tensors``."""
        self._to_save = tensors

    def mark_non_differentiable(self, *tensors: Tensor) -> None:
        """Outputs that never get a gradient."""
        self._constant = tensors

    def mark_dirty(self, *tensors: Tensor) -> None:
        """Inputs that forward changed in place and returns."""
        self._dirty = tensors

    def set_materialize_grads(self, value: bool) -> None:
        """Whether backward gets zeros (the default) or None for outputs that nobody used."""
        self._materialize = value

    @property
    def saved_tensors(self) -> tuple[Any, ...]:
        return self._to_save if self._node is None else self._node.saved_tensors()


def _facts(t: Tensor) -> tuple[tuple[int, ...], int, str]:
    return t.shape, t._dtype_code, t.device


def _function_backward(node: Node, *gradients: Tensor | None) -> Gradients:
    function, ctx, inputs, outputs = node.context
    ctx._node = node
    arrived = iter(gradients)
    filled: list[Tensor | None] = []  # one per output of forward, as torch gives them
    for facts, tracked in outputs:
        g = next(arrived) if tracked else None
        if g is None and facts is not None and ctx._materialize:
            shape, code, device = facts
            g = _core.full(shape, 0, code, device)
        filled.append(g)
    results = function.backward(ctx, *filled)
    ctx._node = None
    if not isinstance(results, tuple):
        results = (results,)
    count = len(ctx.needs_input_grad)
    if len(results) < count or any(r is not None for r in results[count:]):
        raise RuntimeError(
            f"{function.__name__}.backward: must return {count} gradients, one per argument of"
            f" forward, got {len(results)}"
        )
    return tuple(
        _own(function.__name__, p, results[p], facts) if ctx.needs_input_grad[p] else None
        for p, facts in inputs
    )


def _own(name: str, position: int, given: Any, facts: tuple[Any, ...]) -> Tensor | None:
    """A gradient may be a tensor that the user goes on using: hand on memory of our own."""
    if given is None:
        return None
    if not isinstance(given, Tensor):
        raise TypeError(
            f"{name}.backward: gradient {position} must be a Tensor or None, got"
            f" {type(given).__name__}"
        )
    shape, code, device = facts
    if given.shape != shape:
        raise ValueError(
            f"{name}.backward: gradient {position} must have shape {list(shape)}, got"
            f" {list(given.shape)}"
        )
    return _core.convert(given, code, device, True)


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
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Defined, forward takes no ``ctx``, and this keeps what backward needs."""

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise TypeError("Function: backward must be defined")

    @classmethod
    def apply(cls, *args: Any) -> Any:
        needs = tuple(isinstance(a, Tensor) and a.requires_grad for a in args)
        ctx = Context(needs)
        recording = _core.grad_enabled() and any(needs)
        with no_grad():
            if cls.setup_context is Function.setup_context:
                results = cls.forward(ctx, *args)
            else:
                results = cls.forward(*args)
                cls.setup_context(ctx, args, results)
        if not recording:
            return results
        outputs = list(results) if isinstance(results, tuple) else [results]
        # An input handed through is a new result: give it an identity of its own.
        outputs = [
            r.detach()
            if isinstance(r, Tensor)
            and any(r is a for a in args)
            and not any(r is d for d in ctx._dirty)
            else r
            for r in outputs
        ]
        for d in ctx._dirty:
            _core.check_in_place(cls.__name__, d, d)
            if d._base is not None:
                raise RuntimeError(
                    f"{cls.__name__}: a view can't be marked dirty; use clone() first"
                )
        tracked = [
            t
            for t in outputs
            if isinstance(t, Tensor)
            and t.dtype.is_floating_point
            and not any(t is c for c in ctx._constant)
        ]
        positions = [i for i, a in enumerate(args) if isinstance(a, Tensor)]
        context = (
            cls,
            ctx,
            [(i, _facts(args[i])) for i in positions],
            [
                (_facts(r) if isinstance(r, Tensor) else None, any(r is t for t in tracked))
                for r in outputs
            ],
        )
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
            context,
        )
        return tuple(outputs) if isinstance(results, tuple) else outputs[0]
