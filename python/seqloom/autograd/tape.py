# SPDX-License-Identifier: Apache-2.0
"""The tape: nodes that ops record, and the walk that runs them backwards. No maths.

An op that wants a gradient calls :func:`record` with its outputs, its inputs, a function that turns
output gradients into input gradients, and what that function needs. Nodes are numbered as they are
made, so walking them from the highest number down is a topological order.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import threading
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, TypeVar, cast

from .. import _core
from ..tensor import Tensor

__all__ = [
    "Node",
    "enable_grad",
    "grad",
    "is_grad_enabled",
    "no_grad",
    "record",
    "record_in_place",
]

F = TypeVar("F", bound=Callable[..., Any])
Gradients = tuple["Tensor | None", ...]
_next_order = itertools.count().__next__


# ---- modes --------------------------------------------------------------------------------------


class _GradMode:
    """Context manager and decorator that sets whether this thread records."""

    __slots__ = ("_previous",)
    _enabled = True

    def __enter__(self) -> None:
        self._previous = _core.grad_enabled()
        _core.set_grad_enabled(self._enabled)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _core.set_grad_enabled(self._previous)

    def __call__(self, function: F) -> F:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with type(self)():
                return function(*args, **kwargs)

        return cast(F, wrapped)


class no_grad(_GradMode):
    """Record nothing inside: ``with sl.no_grad(): ...`` or ``@sl.no_grad()``.

    >>> import seqloom as sl
    >>> x = sl.ones(2, requires_grad=True)
    >>> with sl.no_grad():
    ...     y = x * 2
    >>> y.requires_grad
    False
    """

    __slots__ = ()
    _enabled = False


class enable_grad(_GradMode):
    """Record again inside a :class:`no_grad` block."""

    __slots__ = ()


def is_grad_enabled() -> bool:
    """Whether ops of this thread record for backward."""
    return _core.grad_enabled()


# ---- the tape -----------------------------------------------------------------------------------


class Node:
    """One recorded op."""

    __slots__ = (
        "__weakref__",
        "backward",
        "context",
        "edges",
        "hooks",
        "name",
        "order",
        "outputs",
        "saved",
        "versions",
    )

    def __init__(
        self,
        name: str,
        edges: list[Any],
        backward: Callable[..., Any],
        saved: tuple[Tensor | None, ...],
        context: Any,
        outputs: int,
    ) -> None:
        self.name = name
        self.edges: list[Any] | None = edges  # per input: (node, output), a leaf Tensor, or None
        self.backward = backward
        self.saved: tuple[Tensor | None, ...] | None = saved
        self.versions = [-1 if t is None else t._version for t in saved]
        self.context = context
        self.order = _next_order()
        self.outputs = outputs
        self.hooks: dict[int, list[Callable[[Tensor], Tensor | None]]] | None = None

    def __lt__(self, other: Node) -> bool:  # a heap gives the newest first
        return self.order > other.order

    def saved_tensors(self) -> tuple[Any, ...]:
        """What the op kept; an error that names the tensor if it was changed since."""
        saved = self.saved
        if saved is None:
            raise RuntimeError(
                f"backward: the graph of {self.name} has been freed; pass retain_graph=True to the"
                " first backward"
            )
        for i, (t, version) in enumerate(zip(saved, self.versions, strict=True)):
            if t is not None and t._version != version:
                raise RuntimeError(
                    f"backward: tensor {i} that {self.name} saved, shape {list(t.shape)}, was"
                    f" modified in place (version {t._version}, saved at {version})"
                )
        return saved


def _edge(t: Tensor | None) -> Any:
    if t is None or not t.requires_grad:
        return None
    node = t._node
    return t if node is None else (node, t._node_output)


def record(
    outputs: Tensor | Sequence[Tensor],
    name: str,
    inputs: Iterable[Tensor | None],
    backward: Callable[..., Any],
    saved: tuple[Tensor | None, ...] = (),
    context: Any = None,
) -> None:
    """Make `outputs` the results of `name` applied to `inputs`.

    ``backward(node, *output_gradients)`` returns one gradient (or None) per input; output gradients
    that nobody asked for are None. Save outputs as ``y.detach()``, or the graph would hold itself.
    """
    edges = [_edge(t) for t in inputs]
    if isinstance(outputs, Tensor):
        outputs._set_node(Node(name, edges, backward, saved, context, 1), 0)
    else:
        node = Node(name, edges, backward, saved, context, len(outputs))
        for i, t in enumerate(outputs):
            if t.dtype.is_floating_point:
                t._set_node(node, i)


# ---- views and changes in place -----------------------------------------------------------------
#
# A view and its base share memory, so a change of one is a change of the other. The base has the
# history: changing a view is recorded as a new value of the base, of which one part went through
# the op. Views then find that their base has another node, and theirs is made anew by _view_again.

_Geometry = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...], int]


def record_in_place(
    x: Tensor,
    name: str,
    inputs: tuple[Tensor | None, ...],
    backward: Callable[..., Any],
    saved: tuple[Tensor | None, ...] = (),
    context: Any = None,
) -> None:
    """Make `x`, which is the first of `inputs` and changed in place, the result of `name`."""
    base = x._base
    if base is None:
        record(x, name, inputs, backward, saved, context)
        return
    edges = [_edge(t) for t in inputs]
    change = Node(name, edges, backward, saved, context, 1)
    whole = [_edge(base), *edges[1:]]
    base._set_node(Node(name, whole, _part_backward, (), (change, _geometry(base, x)), 1), 0)


def _geometry(base: Tensor, view: Tensor) -> _Geometry:
    """Shape and strides of both, and where the view begins."""
    offset = _core.view_offset(base, view)
    return base.shape, base.strides, view.shape, view.strides, offset


def _windows(like: Tensor, geometry: _Geometry) -> tuple[Tensor, Tensor]:
    """Zeros that lie as base and view do, over the same memory."""
    shape, strides, view_shape, view_strides, offset = geometry
    reach = [(n - 1) * s for n, s in zip(shape, strides, strict=True)]
    first = -sum(r for r in reach if r < 0)
    extent = 0 if 0 in shape else first + 1 + sum(r for r in reach if r > 0)
    flat = _core.full((extent,), 0, like._dtype_code, like.device)
    base = _core.as_strided(flat, shape, strides, first)
    return base, _core.as_strided(flat, view_shape, view_strides, first + offset)


def _part_backward(node: Node, gradient: Tensor) -> Gradients:
    """Through an op that changed one part: the rest of the gradient passes."""
    change, geometry = node.context
    whole, part = _windows(gradient, geometry)
    _core.copy_(whole, gradient)
    results: Gradients = change.backward(change, _core.clone(part))
    if results[0] is None:
        _core.fill_(part, 0)
    else:
        _core.copy_(part, results[0])
    return (whole, *results[1:])


def _view_again(view: Tensor) -> Node:
    """The node of a view of a base that was changed in place."""
    base = view._base
    assert base is not None
    context = _geometry(base, view)
    return Node("view", [_edge(base)], _view_again_backward, (), context, 1)


def _view_again_backward(node: Node, gradient: Tensor) -> Gradients:
    shape, strides, view_shape, view_strides, offset = node.context
    # Along axes that were expanded one element got many gradients.
    once = tuple(1 if s == 0 else n for n, s in zip(view_shape, view_strides, strict=True))
    if once != view_shape:
        gradient = _core.sum_to(gradient, once, gradient._dtype_code)
    whole, part = _windows(gradient, (shape, strides, once, view_strides, offset))
    _core.copy_(part, gradient)
    return (whole,)


_core._set_view_recorder(_view_again)


class _Sink:
    """Where gradients of leaves go: `.grad`, or the results of :func:`grad`."""

    def __init__(self, wanted: dict[int, int] | None = None) -> None:
        self.wanted = wanted
        self.found: dict[int, Tensor] = {}
        self.stored: dict[int, Tensor] = {}
        self.hooked: dict[int, tuple[Tensor, Tensor]] = {}  # leaves whose hooks wait for the sum

    def add(self, leaf: Tensor, gradient: Tensor) -> None:
        if self.wanted is not None and id(leaf) not in self.wanted:
            return
        if leaf._hooks:
            _, held = self.hooked.get(id(leaf), (leaf, None))
            self.hooked[id(leaf)] = (leaf, gradient if held is None else _core.add(held, gradient))
        else:
            self.deliver(leaf, gradient)

    def finish(self) -> None:
        """Leaves with hooks: those see the whole gradient of a walk, once."""
        for leaf, gradient in self.hooked.values():
            for hook in tuple(leaf._hooks or ()):
                gradient = _hooked(hook, gradient)
            self.deliver(leaf, gradient)

    def deliver(self, leaf: Tensor, gradient: Tensor) -> None:
        if self.wanted is not None:
            self.keep(self.wanted[id(leaf)], gradient)
            return
        held = leaf.grad
        if held is None:
            # Whoever else holds this memory must not see later in-place changes of leaf.grad, which
            # must not be a broadcast view either.
            if (
                id(gradient) in self.stored
                or _core.storage_references(gradient) > 1
                or not gradient.is_contiguous()
            ):
                gradient = _core.clone(gradient)
            self.stored[id(gradient)] = gradient
            leaf.grad = gradient
        else:
            _core.add_(held, gradient)

    def keep(self, slot: int, gradient: Tensor) -> None:
        held = self.found.get(slot)
        self.found[slot] = gradient if held is None else _core.add(held, gradient)


class _Sinks(threading.local):
    """Of the walks that this thread is running, innermost last (checkpoint nests)."""

    def __init__(self) -> None:
        self.stack: list[_Sink] = []


_sinks = _Sinks()


def _hooked(hook: Callable[[Tensor], Tensor | None], gradient: Tensor) -> Tensor:
    changed = hook(gradient)
    return gradient if changed is None else _checked("hook", changed, gradient)


def _checked(caller: str, given: Any, like: Tensor) -> Tensor:
    """A gradient that a user's function gave, if it can stand for `like`."""
    if not isinstance(given, Tensor):
        raise TypeError(f"{caller}: must return a Tensor or None, got {type(given).__name__}")
    if given.shape != like.shape:
        raise ValueError(
            f"{caller}: must return a gradient of shape {list(like.shape)}, got {list(given.shape)}"
        )
    if given._dtype_code != like._dtype_code or given.device != like.device:
        raise TypeError(
            f"{caller}: must return a gradient of {like.dtype.name} on {like.device}, got"
            f" {given.dtype.name} on {given.device}"
        )
    return given


def _walk(
    roots: Sequence[Tensor],
    gradients: Sequence[Tensor],
    retain_graph: bool,
    sink: _Sink,
    interior: dict[tuple[int, int], int],
) -> None:
    heap: list[Node] = []
    pending: dict[int, list[Tensor | None]] = {}

    def deliver(edge: Any, gradient: Tensor) -> None:
        if type(edge) is not tuple:
            sink.add(edge, gradient)
            return
        node, output = edge
        slots = pending.get(node.order)
        if slots is None:
            slots = pending[node.order] = [None] * node.outputs
            heapq.heappush(heap, node)
        held = slots[output]
        slots[output] = gradient if held is None else _core.add(held, gradient)

    for root, gradient in zip(roots, gradients, strict=True):
        node = root._node
        deliver(root if node is None else (node, root._node_output), gradient)

    while heap:
        node = heapq.heappop(heap)
        arrived = pending.pop(node.order)
        if node.hooks is not None:
            for output, hooks in node.hooks.items():
                for hook in tuple(hooks):
                    held = arrived[output]
                    if held is not None:
                        arrived[output] = _hooked(hook, held)
        if interior:
            for output, held in enumerate(arrived):
                slot = interior.get((node.order, output))
                if slot is not None and held is not None:
                    sink.keep(slot, held)
        edges = node.edges
        if edges is None:
            node.saved_tensors()  # raises: the graph has been freed
            raise AssertionError
        results = node.backward(node, *arrived)
        if type(results) is not tuple:
            results = (results,)
        if len(results) != len(edges):
            raise RuntimeError(
                f"backward: {node.name} must return {len(edges)} gradients, got {len(results)}"
            )
        for edge, result in zip(edges, results, strict=True):
            if edge is not None and result is not None:
                deliver(edge, result)
        if not retain_graph:
            node.saved = node.edges = node.context = None


def _run(
    roots: Sequence[Tensor],
    gradients: Sequence[Tensor],
    retain_graph: bool,
    sink: _Sink,
    interior: dict[tuple[int, int], int] | None = None,
) -> None:
    previous = _core.grad_enabled()
    _core.set_grad_enabled(False)
    _sinks.stack.append(sink)
    try:
        _walk(roots, gradients, retain_graph, sink, interior or {})
        sink.finish()
    finally:
        _sinks.stack.pop()
        _core.set_grad_enabled(previous)


def _root_gradient(caller: str, root: Tensor, gradient: Tensor | None) -> Tensor:
    if not root.requires_grad:
        raise RuntimeError(f"{caller}: the tensor does not require a gradient")
    if gradient is None:
        if root.size != 1:
            raise RuntimeError(
                f"{caller}: gradient must be given for a tensor of shape {list(root.shape)}; only a"
                " single element has the default 1"
            )
        return _core.full(root.shape, 1.0, root._dtype_code, root.device)
    if not isinstance(gradient, Tensor):
        raise TypeError(f"{caller}: gradient must be a Tensor, got {type(gradient).__name__}")
    if gradient.shape != root.shape:
        raise ValueError(
            f"{caller}: gradient must have shape {list(root.shape)}, got {list(gradient.shape)}"
        )
    if gradient._dtype_code != root._dtype_code or gradient.device != root.device:
        raise TypeError(
            f"{caller}: gradient must be {root.dtype.name} on {root.device}, got"
            f" {gradient.dtype.name} on {gradient.device}"
        )
    return gradient.detach()


def backward(root: Tensor, gradient: Tensor | None, retain_graph: bool) -> None:
    """Accumulate the gradients of `root` into the leaves' ``.grad``: ``Tensor.backward``."""
    _run([root], [_root_gradient("backward", root, gradient)], retain_graph, _Sink())


def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Tensor | Sequence[Tensor | None] | None = None,
    retain_graph: bool = False,
    *,
    allow_unused: bool = False,
) -> tuple[Tensor | None, ...]:
    """Gradients of `outputs` with respect to `inputs`, leaving every ``.grad`` alone.

    Parameters
    ----------
    outputs, inputs : Tensor or sequence of Tensor
    grad_outputs : Tensor or sequence, optional
        One per output; may be left out for outputs of one element.
    retain_graph : bool
        Keep the graph for another walk.
    allow_unused : bool
        Give None for an input that no output depends on, instead of an error.

    Returns
    -------
    tuple of Tensor, one per input, in the shapes of the inputs

    Examples
    --------
    >>> import seqloom as sl
    >>> x = sl.tensor([3.0], requires_grad=True)
    >>> sl.autograd.grad(x * x, x)[0].tolist()
    [6.0]
    """
    for name, value in (("outputs", outputs), ("inputs", inputs)):
        if not isinstance(value, (Tensor, Iterable)):
            raise TypeError(f"grad: {name} must be a Tensor or several, got {type(value).__name__}")
    roots = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    wanted = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    for r in roots:
        if not isinstance(r, Tensor):
            raise TypeError(f"grad: outputs must be Tensors, got {type(r).__name__}")
    given: list[Tensor | None]
    if grad_outputs is None or isinstance(grad_outputs, Tensor):
        given = [grad_outputs] * len(roots) if grad_outputs is None else [grad_outputs]
    else:
        given = list(grad_outputs)
    if len(given) != len(roots):
        raise ValueError(f"grad: grad_outputs must have {len(roots)} entries, got {len(given)}")
    leaves: dict[int, int] = {}
    interior: dict[tuple[int, int], int] = {}
    slots: list[int] = []
    for slot, t in enumerate(wanted):
        if not isinstance(t, Tensor):
            raise TypeError(f"grad: inputs must be Tensors, got {type(t).__name__}")
        if not t.requires_grad:
            raise RuntimeError("grad: an input does not require a gradient")
        if t._node is None:
            slots.append(leaves.setdefault(id(t), slot))
        else:
            slots.append(interior.setdefault((t._node.order, t._node_output), slot))
    sink = _Sink(leaves)
    gradients = [_root_gradient("grad", r, g) for r, g in zip(roots, given, strict=True)]
    _run(roots, gradients, retain_graph, sink, interior)
    results = tuple(sink.found.get(slot) for slot in slots)
    if not allow_unused and any(r is None for r in results):
        raise RuntimeError("grad: an input was not used by the outputs; pass allow_unused=True")
    return results


def register_hook(t: Tensor, hook: Callable[[Tensor], Tensor | None]) -> Callable[[], None]:
    """Call `hook(gradient)` when the gradient of `t` is known; returns a remover."""
    if not callable(hook):
        raise TypeError(f"register_hook: hook must be callable, got {type(hook).__name__}")
    if not t.requires_grad:
        raise RuntimeError("register_hook: the tensor does not require a gradient")
    node = t._node
    if node is None:
        hooks: list[Any] = t._hooks if t._hooks is not None else []
        t._hooks = hooks
    else:
        if node.hooks is None:
            node.hooks = {}
        hooks = node.hooks.setdefault(t._node_output, [])
    hooks.append(hook)

    def remove() -> None:
        if hook in hooks:
            hooks.remove(hook)

    return remove
