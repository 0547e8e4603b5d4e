# SPDX-License-Identifier: Apache-2.0
"""Trading time for memory: run a function again in backward instead of keeping what it needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import _core
from ..tensor import Tensor
from .tape import Gradients, Node, _run, _Sink, _sinks, enable_grad, no_grad, record

__all__ = ["checkpoint"]


def _checkpoint_backward(node: Node, *gradients: Tensor | None) -> Gradients:
    function, kwargs, args, positions, rng = node.context
    node.saved_tensors()
    inner = list(args)
    for p in positions:
        inner[p] = args[p].detach()
        inner[p].requires_grad = args[p].requires_grad
    after = _core.random_state()
    _core.set_random_state(*rng)
    try:
        with enable_grad():
            results = function(*inner, **kwargs)
    finally:
        _core.set_random_state(*after)
    outputs = results if isinstance(results, tuple) else (results,)
    pairs = [
        (o, g)
        for o, g in zip((o for o in outputs if isinstance(o, Tensor)), gradients, strict=True)
        if g is not None and o.requires_grad
    ]
    asked = {id(inner[p]): i for i, p in enumerate(positions)}

    class Through(_Sink):
        """Gradients of the arguments stay here, those of other leaves go to the outer walk."""

        def add(self, leaf: Tensor, gradient: Tensor) -> None:
            slot = asked.get(id(leaf))
            if slot is None:
                outer.add(leaf, gradient)
            else:
                self.keep(slot, gradient)

    outer = _sinks.stack[-1]
    sink = Through()
    _run([o for o, _ in pairs], [g for _, g in pairs], False, sink)
    return tuple(sink.found.get(i) for i in range(len(positions)))


def checkpoint(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run `function` without keeping what its backward needs, and run it again in backward.

    Tensors whose gradient matters must be among `args`, or be leaves such as parameters. Random ops
    draw the same numbers both times.

    Examples
    --------
    >>> import seqloom as sl
    >>> x = sl.ones(4, requires_grad=True)
    >>> sl.checkpoint(lambda t: (t * t).sum(), x).backward()
    >>> x.grad.tolist()
    [2.0, 2.0, 2.0, 2.0]
    """
    if not callable(function):
        raise TypeError(f"checkpoint: function must be callable, got {type(function).__name__}")
    if not _core.grad_enabled():
        return function(*args, **kwargs)
    rng = _core.random_state()
    with no_grad():
        results = function(*args, **kwargs)
    if isinstance(results, (list, dict)):
        raise TypeError(
            "checkpoint: function must return a Tensor or a tuple of Tensors, got"
            f" {type(results).__name__}"
        )
    # An input handed through is a new result: give it an identity of its own.
    outputs = tuple(
        r.detach() if isinstance(r, Tensor) and any(r is a for a in args) else r
        for r in (results if isinstance(results, tuple) else (results,))
    )
    tracked = [r for r in outputs if isinstance(r, Tensor)]
    positions = [i for i, a in enumerate(args) if isinstance(a, Tensor)]
    inputs = [args[i] for i in positions]
    record(
        tracked,
        "checkpoint",
        inputs,
        _checkpoint_backward,
        tuple(t.detach() for t in inputs),
        (function, kwargs, args, positions, rng),
    )
    return outputs if isinstance(results, tuple) else outputs[0]
