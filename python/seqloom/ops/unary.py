# SPDX-License-Identifier: Apache-2.0
"""Functions of one variable: what Tensor's methods call. Integers give float32 where they must."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import _core
from ..autograd import Node, record
from ..dtypes import float32
from ..tensor import Tensor
from .elementwise import _shapes, _take, _zero_backward, maximum, minimum, to

__all__ = [
    "abs",
    "bitwise_not",
    "clamp",
    "cos",
    "erf",
    "exp",
    "floor",
    "log",
    "logical_not",
    "neg",
    "reciprocal",
    "round",
    "rsqrt",
    "sign",
    "sin",
    "sqrt",
]


def _unary(name: str, saves: str, doc: str) -> Callable[[Tensor], Tensor]:
    """An op whose gradient kernel takes the output gradient and what it `saves`, x or y."""
    kernel = getattr(_core, name)
    backward_kernel = getattr(_core, f"{name}_backward")

    def backward(node: Node, gradient: Tensor) -> Tensor:
        (saved,) = node.saved_tensors()
        out: Tensor = backward_kernel(gradient, saved)
        return out

    def op(x: Tensor) -> Tensor:
        y: Tensor = kernel(x)
        if y.requires_grad:
            record(y, name, (x,), backward, (y.detach() if saves == "y" else x,))
        return y

    op.__name__ = op.__qualname__ = name
    op.__doc__ = doc
    return op


exp = _unary(
    "exp",
    "y",
    """e to the power x.

    >>> import seqloom as sl
    >>> sl.tensor([0.0]).exp().tolist()
    [1.0]
    """,
)
log = _unary(
    "log",
    "x",
    """The natural logarithm.

    >>> import seqloom as sl
    >>> sl.tensor([1.0]).log().tolist()
    [0.0]
    """,
)
sqrt = _unary(
    "sqrt",
    "y",
    """The square root.

    >>> import seqloom as sl
    >>> sl.tensor([4.0, 9.0]).sqrt().tolist()
    [2.0, 3.0]
    """,
)
rsqrt = _unary(
    "rsqrt",
    "y",
    """One over the square root.

    >>> import seqloom as sl
    >>> sl.tensor([4.0]).rsqrt().tolist()
    [0.5]
    """,
)
sin = _unary(
    "sin",
    "x",
    """The sine.

    >>> import seqloom as sl
    >>> sl.tensor([0.0]).sin().tolist()
    [0.0]
    """,
)
cos = _unary(
    "cos",
    "x",
    """The cosine.

    >>> import seqloom as sl
    >>> sl.tensor([0.0]).cos().tolist()
    [1.0]
    """,
)
erf = _unary(
    "erf",
    "x",
    """The error function.

    >>> import seqloom as sl
    >>> sl.tensor([0.0]).erf().tolist()
    [0.0]
    """,
)
reciprocal = _unary(
    "reciprocal",
    "y",
    """1 / x.

    >>> import seqloom as sl
    >>> sl.tensor([4.0]).reciprocal().tolist()
    [0.25]
    """,
)
abs = _unary(
    "abs",
    "x",
    """The absolute value; its gradient at 0 is 0.

    >>> import seqloom as sl
    >>> abs(sl.tensor([-1, 2])).tolist()
    [1, 2]
    """,
)


def neg(x: Tensor) -> Tensor:
    """-x.

    >>> import seqloom as sl
    >>> (-sl.tensor([1, -2])).tolist()
    [-1, 2]
    """
    y = _core.neg(x)
    if y.requires_grad:
        record(y, "neg", (x,), _neg_backward)
    return y


def _neg_backward(node: Node, gradient: Tensor) -> Tensor:
    return _core.neg(gradient)


def _step(name: str, doc: str) -> Callable[[Tensor], Tensor]:
    kernel = getattr(_core, name)

    def op(x: Tensor) -> Tensor:
        y: Tensor = kernel(x)
        if y.requires_grad:
            record(y, name, (x,), _zero_backward, (), _shapes(x))
        return y

    op.__name__ = op.__qualname__ = name
    op.__doc__ = doc
    return op


floor = _step(
    "floor",
    """The largest integer that is not above x; its gradient is 0.

    >>> import seqloom as sl
    >>> sl.tensor([1.5, -1.5]).floor().tolist()
    [1.0, -2.0]
    """,
)
round = _step(
    "round",
    """The nearest integer, halves to even; its gradient is 0.

    >>> import seqloom as sl
    >>> sl.tensor([0.5, 1.5]).round().tolist()
    [0.0, 2.0]
    """,
)
sign = _step(
    "sign",
    """-1, 0 or 1; its gradient is 0.

    >>> import seqloom as sl
    >>> sl.ops.sign(sl.tensor([-3, 0, 2])).tolist()
    [-1, 0, 1]
    """,
)


def logical_not(x: Tensor) -> Tensor:
    """x == 0, a bool Tensor.

    >>> import seqloom as sl
    >>> sl.ops.logical_not(sl.tensor([0, 3])).tolist()
    [True, False]
    """
    return _core.logical_not(x)


def bitwise_not(x: Tensor) -> Tensor:
    """~x of integers; of bools the negation.

    >>> import seqloom as sl
    >>> (~sl.tensor([True, False])).tolist()
    [False, True]
    """
    return _core.bitwise_not(x)


def clamp(x: Tensor, min: Any = None, max: Any = None) -> Tensor:
    """x limited to [min, max]; the gradient passes inside and on the limits.

    >>> import seqloom as sl
    >>> sl.tensor([-2.0, 0.5, 2.0]).clamp(-1, 1).tolist()
    [-1.0, 0.5, 1.0]
    """
    min, max = _take(min, x), _take(max, x)
    if isinstance(min, Tensor) or isinstance(max, Tensor):
        y = x if min is None else maximum(x, min)
        return y if max is None else minimum(y, max)
    if min is None and max is None:
        raise ValueError("clamp: min or max must be given, got neither")
    for name, limit in (("min", min), ("max", max)):
        if limit is not None and not isinstance(limit, (int, float)):
            raise TypeError(f"clamp: {name} must be a number, got {type(limit).__name__}")
    if not x.dtype.is_floating_point and (isinstance(min, float) or isinstance(max, float)):
        x = to(x, float32, None)
    y = _core.clamp(x, min, max)
    if y.requires_grad:
        record(y, "clamp", (x,), _clamp_backward, (x,), (min, max))
    return y


def _clamp_backward(node: Node, gradient: Tensor) -> Tensor:
    (x,) = node.saved_tensors()
    return _core.clamp_backward(gradient, x, *node.context)
