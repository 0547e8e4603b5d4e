# SPDX-License-Identifier: Apache-2.0
"""Arithmetic, comparisons, choices and casts: what Tensor's operators and methods call.

Operators take Tensors and numbers, and NumPy arrays on a slower path; they give NotImplemented for
anything else. Numbers don't decide the dtype of the result unless they are of a higher kind.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import _core
from ..autograd import Node, record
from ..dtypes import DType
from ..tensor import Operand, Tensor, _native, from_numpy

__all__ = [
    "add",
    "bitwise_and",
    "bitwise_or",
    "bitwise_xor",
    "div",
    "eq",
    "floor_divide",
    "ge",
    "gt",
    "le",
    "lt",
    "masked_fill",
    "maximum",
    "minimum",
    "mul",
    "ne",
    "pow",
    "remainder",
    "sub",
    "to",
    "where",
]

Gradients = tuple["Tensor | None", ...]
Fit = Any  # what _core.fit_context gives: None, or a (shape, dtype) for each operand


# ---- operands -----------------------------------------------------------------------------------


def _take(value: Any, like: Tensor | None = None) -> Any:
    """A NumPy array as a Tensor on the device of `like`, a NumPy scalar as a number."""
    if isinstance(value, np.generic) and value.ndim == 0:
        return value.item()
    if isinstance(value, np.ndarray):
        t = from_numpy(_native(value, None))
        return t if like is None or not like.is_cuda else to(t, None, like.device)
    return value


def _foreign(op: Callable[[Any, Any], Any], a: Any, b: Any) -> Any:
    kinds = (np.ndarray, np.generic)
    if isinstance(a, Tensor) and isinstance(b, kinds):
        return op(a, _take(b, a))
    if isinstance(b, Tensor) and isinstance(a, kinds):
        return op(_take(a, b), b)
    return NotImplemented


def _kept(a: Any, b: Any) -> tuple[Tensor | None, Tensor | None]:
    return (a if isinstance(a, Tensor) else None, b if isinstance(b, Tensor) else None)


def _fitted(node: Node, fit: Fit, i: int, gradient: Tensor) -> Tensor | None:
    """The gradient of operand `i`, summed over the axes along which it was stretched."""
    edges = node.edges
    if edges is None or edges[i] is None:
        return None
    return gradient if fit is None else _core.sum_to(gradient, *fit[i])


def _needs(node: Node, i: int) -> bool:
    return node.edges is not None and node.edges[i] is not None


# ---- arithmetic ---------------------------------------------------------------------------------


def add(a: Any, b: Any) -> Any:
    """a + b, broadcast.

    >>> import seqloom as sl
    >>> (sl.tensor([1.0, 2.0]) + 1).tolist()
    [2.0, 3.0]
    """
    out = _core.add(a, b)
    if out is None:
        return _foreign(add, a, b)
    if out.requires_grad:
        record(out, "add", _kept(a, b), _add_backward, (), _core.fit_context(out, a, b))
    return out


def _add_backward(node: Node, gradient: Tensor) -> Gradients:
    fit = node.context
    if fit is None:
        return gradient, gradient
    return _fitted(node, fit, 0, gradient), _fitted(node, fit, 1, gradient)


def sub(a: Any, b: Any) -> Any:
    """a - b, broadcast.

    >>> import seqloom as sl
    >>> (5 - sl.tensor([1, 2])).tolist()
    [4, 3]
    """
    out = _core.sub(a, b)
    if out is None:
        return _foreign(sub, a, b)
    if out.requires_grad:
        record(out, "sub", _kept(a, b), _sub_backward, (), _core.fit_context(out, a, b))
    return out


def _sub_backward(node: Node, gradient: Tensor) -> Gradients:
    fit = node.context
    second = _fitted(node, fit, 1, gradient)
    return _fitted(node, fit, 0, gradient), None if second is None else _core.neg(second)


def mul(a: Any, b: Any) -> Any:
    """a * b, broadcast.

    >>> import seqloom as sl
    >>> (sl.tensor([[1], [2]]) * sl.tensor([3, 4])).tolist()
    [[3, 4], [6, 8]]
    """
    out = _core.mul(a, b)
    if out is None:
        return _foreign(mul, a, b)
    if out.requires_grad:
        _record_with_operands(out, "mul", a, b, _mul_backward)
    return out


def _record_with_operands(
    out: Tensor, name: str, a: Any, b: Any, backward: Callable[..., Any]
) -> None:
    """Keep both operands; the context is (fit, a, b) with the operands that are numbers."""
    inputs = _kept(a, b)
    x, y = inputs
    context = (
        _core.fit_context(out, a, b),
        a if x is None else None,
        b if y is None else None,
    )
    record(out, name, inputs, backward, inputs, context)


def _operands(node: Node) -> tuple[Fit, Any, Any]:
    a, b = node.saved_tensors()
    fit, x, y = node.context
    return fit, x if a is None else a, y if b is None else b


def _mul_backward(node: Node, gradient: Tensor) -> Gradients:
    fit, a, b = _operands(node)
    return (
        _fitted(node, fit, 0, _core.mul(gradient, b)) if _needs(node, 0) else None,
        _fitted(node, fit, 1, _core.mul(gradient, a)) if _needs(node, 1) else None,
    )


def div(a: Any, b: Any) -> Any:
    """a / b, broadcast; integers give float32.

    >>> import seqloom as sl
    >>> (sl.tensor([1, 2]) / 2).tolist()
    [0.5, 1.0]
    """
    out = _core.div(a, b)
    if out is None:
        return _foreign(div, a, b)
    if out.requires_grad:
        _record_with_operands(out, "div", a, b, _div_backward)
    return out


def _div_backward(node: Node, gradient: Tensor) -> Gradients:
    fit, a, b = _operands(node)
    return (
        _fitted(node, fit, 0, _core.div(gradient, b)) if _needs(node, 0) else None,
        _fitted(node, fit, 1, _core.div_backward(gradient, _core.div(a, b), b))
        if _needs(node, 1)
        else None,
    )


def floor_divide(a: Any, b: Any) -> Any:
    """floor(a / b), broadcast. An integer divided by 0 gives 0. Its gradient is 0.

    >>> import seqloom as sl
    >>> (sl.tensor([7, -7]) // 2).tolist()
    [3, -4]
    """
    out = _core.floor_divide(a, b)
    if out is None:
        return _foreign(floor_divide, a, b)
    if out.requires_grad:
        record(out, "floor_divide", _kept(a, b), _zero_backward, (), _shapes(a, b))
    return out


def _shapes(*operands: Any) -> list[Any]:
    return [(t.shape, t._dtype_code, t.device) if isinstance(t, Tensor) else None for t in operands]


def _zero_backward(node: Node, gradient: Tensor) -> Gradients:
    return tuple(
        None if of is None or not _needs(node, i) else _core.full(of[0], 0, of[1], of[2])
        for i, of in enumerate(node.context)
    )


def remainder(a: Any, b: Any) -> Any:
    """a - floor(a / b) b, broadcast: the sign of b, as Python's %.

    >>> import seqloom as sl
    >>> (sl.tensor([7, -7]) % 4).tolist()
    [3, 1]
    """
    out = _core.remainder(a, b)
    if out is None:
        return _foreign(remainder, a, b)
    if out.requires_grad:
        _record_with_operands(out, "remainder", a, b, _remainder_backward)
    return out


def _remainder_backward(node: Node, gradient: Tensor) -> Gradients:
    fit, a, b = _operands(node)
    second = None
    if _needs(node, 1):
        second = _fitted(node, fit, 1, _core.neg(_core.mul(gradient, _core.floor_divide(a, b))))
    return _fitted(node, fit, 0, gradient), second


def pow(a: Any, b: Any) -> Any:
    """a to the power b, broadcast.

    >>> import seqloom as sl
    >>> (sl.tensor([2.0, 3.0]) ** 2).tolist()
    [4.0, 9.0]
    """
    out = _core.pow(a, b)
    if out is None:
        return _foreign(pow, a, b)
    if out.requires_grad:
        _record_with_operands(out, "pow", a, b, _pow_backward)
    return out


def _pow_backward(node: Node, gradient: Tensor) -> Gradients:
    fit, a, b = _operands(node)
    first = second = None
    if _needs(node, 0):
        if isinstance(b, (int, float)) and b == 2:
            first = _core.mul(_core.mul(gradient, 2.0), a)
        elif isinstance(b, (int, float)) and b != 0:
            first = _core.mul(_core.mul(gradient, float(b)), _core.pow(a, b - 1))
        else:
            first = _core.pow_backward_base(gradient, a, b)
        first = _fitted(node, fit, 0, first)
    if _needs(node, 1):
        second = _fitted(node, fit, 1, _core.pow_backward_exponent(gradient, a, b))
    return first, second


def maximum(a: Any, b: Any) -> Any:
    """The larger of a and b, broadcast; NaN wins. Ties share the gradient equally.

    >>> import seqloom as sl
    >>> sl.maximum(sl.tensor([1.0, 5.0]), sl.tensor([3.0, 2.0])).tolist()
    [3.0, 5.0]
    """
    out = _core.maximum(a, b)
    if out is None:
        return _named_foreign("maximum", maximum, a, b)
    if out.requires_grad:
        _record_with_operands(out, "maximum", a, b, _maximum_backward)
    return out


def _maximum_backward(node: Node, gradient: Tensor) -> Gradients:
    return _extremum_backward(_core.maximum_backward, node, gradient)


def minimum(a: Any, b: Any) -> Any:
    """The smaller of a and b, broadcast; NaN wins. Ties share the gradient equally.

    >>> import seqloom as sl
    >>> sl.minimum(sl.tensor([1.0, 5.0]), 2.0).tolist()
    [1.0, 2.0]
    """
    out = _core.minimum(a, b)
    if out is None:
        return _named_foreign("minimum", minimum, a, b)
    if out.requires_grad:
        _record_with_operands(out, "minimum", a, b, _minimum_backward)
    return out


def _minimum_backward(node: Node, gradient: Tensor) -> Gradients:
    return _extremum_backward(_core.minimum_backward, node, gradient)


def _extremum_backward(kernel: Any, node: Node, gradient: Tensor) -> Gradients:
    fit, a, b = _operands(node)
    return (
        _fitted(node, fit, 0, kernel(gradient, a, b)) if _needs(node, 0) else None,
        _fitted(node, fit, 1, kernel(gradient, b, a)) if _needs(node, 1) else None,
    )


def _named_foreign(name: str, op: Callable[[Any, Any], Any], a: Any, b: Any) -> Any:
    out = _foreign(op, a, b)
    if out is NotImplemented:
        wrong = b if isinstance(a, Tensor) else a
        raise TypeError(
            f"{name}: operands must be a Tensor and a Tensor or number, got {type(wrong).__name__}"
        )
    return out


# ---- comparisons and bits -----------------------------------------------------------------------


def _plain_binary(name: str, doc: str) -> Callable[[Any, Any], Any]:
    kernel = getattr(_core, name)

    def op(a: Any, b: Any) -> Any:
        out = kernel(a, b)
        return _foreign(op, a, b) if out is None else out

    op.__name__ = op.__qualname__ = name
    op.__doc__ = doc
    return op


eq = _plain_binary(
    "eq",
    """a == b, broadcast: a bool Tensor.

    >>> import seqloom as sl
    >>> (sl.tensor([1, 2]) == 2).tolist()
    [False, True]
    """,
)
ne = _plain_binary(
    "ne",
    """a != b, broadcast: a bool Tensor.

    >>> import seqloom as sl
    >>> (sl.tensor([1, 2]) != 2).tolist()
    [True, False]
    """,
)
lt = _plain_binary(
    "lt",
    """a < b, broadcast: a bool Tensor.

    >>> import seqloom as sl
    >>> (sl.tensor([1, 2]) < 2).tolist()
    [True, False]
    """,
)
le = _plain_binary(
    "le",
    """a <= b, broadcast: a bool Tensor.

    >>> import seqloom as sl
    >>> (sl.tensor([1, 2]) <= 1).tolist()
    [True, False]
    """,
)
gt = _plain_binary(
    "gt",
    """a > b, broadcast: a bool Tensor.

    >>> import seqloom as sl
    >>> (sl.tensor([1, 2]) > 1).tolist()
    [False, True]
    """,
)
ge = _plain_binary(
    "ge",
    """a >= b, broadcast: a bool Tensor.

    >>> import seqloom as sl
    >>> (sl.tensor([1, 2]) >= 2).tolist()
    [False, True]
    """,
)
bitwise_and = _plain_binary(
    "bitwise_and",
    """a & b of integers or bools, broadcast.

    >>> import seqloom as sl
    >>> (sl.tensor([6, 3]) & 5).tolist()
    [4, 1]
    """,
)
bitwise_or = _plain_binary(
    "bitwise_or",
    """a | b of integers or bools, broadcast.

    >>> import seqloom as sl
    >>> (sl.tensor([6, 3]) | 1).tolist()
    [7, 3]
    """,
)
bitwise_xor = _plain_binary(
    "bitwise_xor",
    """a ^ b of integers or bools, broadcast.

    >>> import seqloom as sl
    >>> (sl.tensor([6, 3]) ^ 1).tolist()
    [7, 2]
    """,
)


# ---- choices ------------------------------------------------------------------------------------


def where(condition: Tensor, x: Operand, y: Operand) -> Tensor:
    """x where the condition is True, else y; all three broadcast.

    >>> import seqloom as sl
    >>> sl.where(sl.tensor([True, False]), sl.tensor([1.0, 2.0]), 0.0).tolist()
    [1.0, 0.0]
    """
    like = next((t for t in (condition, x, y) if isinstance(t, Tensor)), None)
    condition, x, y = (_take(t, like) for t in (condition, x, y))
    out = _core.where(condition, x, y)
    if out.requires_grad:
        inputs = (None, *_kept(x, y))
        record(out, "where", inputs, _where_backward, (condition,), _core.fit_context(out, x, y))
    return out


def _where_backward(node: Node, gradient: Tensor) -> Gradients:
    (condition,) = node.saved_tensors()
    fit = node.context if node.context is None else (None, *node.context)
    return (
        None,
        _fitted(node, fit, 1, _core.where(condition, gradient, 0)) if _needs(node, 1) else None,
        _fitted(node, fit, 2, _core.where(condition, 0, gradient)) if _needs(node, 2) else None,
    )


def masked_fill(x: Tensor, mask: Tensor, value: Any) -> Tensor:
    """`value` where the mask is True, else x.

    >>> import seqloom as sl
    >>> sl.tensor([1.0, 2.0]).masked_fill(sl.tensor([True, False]), 0.0).tolist()
    [0.0, 2.0]
    """
    mask, value = _take(mask, x), _take(value, x)
    out = _core.masked_fill(x, mask, value)
    of_value = isinstance(value, Tensor) and value._needs_grad
    if of_value:
        return where(mask, to(value, x.dtype, None), x)
    if out.requires_grad:
        fit = _core.fit_context(out, x, x)
        record(out, "masked_fill", (x,), _masked_fill_backward, (mask,), fit)
    return out


def _masked_fill_backward(node: Node, gradient: Tensor) -> Gradients:
    (mask,) = node.saved_tensors()
    return (_fitted(node, node.context, 0, _core.masked_fill(gradient, mask, 0)),)


# ---- dtype and device ---------------------------------------------------------------------------


def to(x: Tensor, dtype: DType | None, device: str | None) -> Tensor:
    """x with another dtype, on another device; x itself when nothing changes.

    >>> import seqloom as sl
    >>> sl.tensor([1.7, -1.7]).to(dtype="int32").tolist()
    [1, -1]
    """
    code = x._dtype_code if dtype is None else dtype.code
    here = x.device
    if code == x._dtype_code and (
        device is None or device == here or (device == "cuda" and here == "cuda:0")
    ):
        return x
    out = _core.convert(x, code, here if device is None else device, False)
    if x._needs_grad and out.dtype.is_floating_point:
        record(out, "to", (x,), _to_backward, (), (x._dtype_code, here))
    return out


def _to_backward(node: Node, gradient: Tensor) -> Tensor:
    code, device = node.context
    return _core.convert(gradient, code, device, False)
