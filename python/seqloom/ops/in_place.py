# SPDX-License-Identifier: Apache-2.0
"""Changes in place. The tape sees the tensor become the result of the op; leaves are refused."""

from __future__ import annotations

from typing import Any

from .. import _core
from ..autograd import Node, record_in_place
from ..tensor import Operand, Tensor
from .elementwise import (
    Gradients,
    _add_backward,
    _div_backward,
    _kept,
    _mul_backward,
    _needs,
    _sub_backward,
    _take,
)

__all__ = ["add_", "copy_", "div_", "fill_", "mul_", "sub_"]


def add_(x: Tensor, other: Any) -> Tensor:
    """x += other.

    >>> import seqloom as sl
    >>> sl.tensor([1.0, 2.0]).add_(1).tolist()
    [2.0, 3.0]
    """
    other = _take(other, x)
    recorded = _core.check_in_place("add_", x, other)
    _core.add_(x, other)
    if recorded:
        record_in_place(
            x, "add_", _kept(x, other), _add_backward, (), _core.fit_context(x, x, other)
        )
    return x


def sub_(x: Tensor, other: Any) -> Tensor:
    """x -= other.

    >>> import seqloom as sl
    >>> sl.tensor([1.0, 2.0]).sub_(1).tolist()
    [0.0, 1.0]
    """
    other = _take(other, x)
    recorded = _core.check_in_place("sub_", x, other)
    _core.sub_(x, other)
    if recorded:
        record_in_place(
            x, "sub_", _kept(x, other), _sub_backward, (), _core.fit_context(x, x, other)
        )
    return x


def mul_(x: Tensor, other: Any) -> Tensor:
    """x *= other.

    >>> import seqloom as sl
    >>> sl.tensor([1.0, 2.0]).mul_(2).tolist()
    [2.0, 4.0]
    """
    return _scaled_in_place("mul_", _core.mul_, _mul_backward, x, other)


def div_(x: Tensor, other: Any) -> Tensor:
    """x /= other.

    >>> import seqloom as sl
    >>> sl.tensor([1.0, 2.0]).div_(2).tolist()
    [0.5, 1.0]
    """
    return _scaled_in_place("div_", _core.div_, _div_backward, x, other)


def _scaled_in_place(name: str, kernel: Any, backward: Any, x: Tensor, other: Any) -> Tensor:
    other = _take(other, x)
    if not _core.check_in_place(name, x, other):
        kernel(x, other)
        return x
    # Backward needs the factors as they were.
    shared = isinstance(other, Tensor) and _core.shares_storage(x, other)
    before = _core.clone(x) if isinstance(other, Tensor) and other.requires_grad else None
    factor = other
    if isinstance(other, Tensor):
        factor = _core.clone(other) if shared else other
    kernel(x, other)
    inputs = _kept(x, other)
    saved = (before, factor if isinstance(factor, Tensor) else None)
    fit = _core.fit_context(x, x, other)
    number = None if isinstance(other, Tensor) else other
    record_in_place(x, name, inputs, backward, saved, (fit, None, number))
    return x


def fill_(x: Tensor, value: Any) -> Tensor:
    """Every element becomes `value`.

    >>> import seqloom as sl
    >>> sl.tensor([1.0, 2.0]).fill_(7).tolist()
    [7.0, 7.0]
    """
    value = _take(value, x)
    recorded = _core.check_in_place("fill_", x, value)
    _core.fill_(x, value)
    if recorded:
        record_in_place(
            x, "fill_", _kept(x, value), _copy_backward, (), _core.fit_context(x, x, value)
        )
    return x


def copy_(x: Tensor, source: Operand) -> Tensor:
    """The elements of `source`, broadcast, converted and moved to x's device.

    >>> import seqloom as sl
    >>> sl.tensor([1.0, 2.0]).copy_(sl.tensor([3, 4])).tolist()
    [3.0, 4.0]
    """
    given = _take(source, x)
    if isinstance(given, (bool, int, float)):
        return fill_(x, given)
    recorded = _core.check_in_place("copy_", x, given)
    _core.copy_(x, given)
    if recorded:
        fit = (None, (given.shape, given._dtype_code, given.device))
        record_in_place(x, "copy_", (x, given), _copy_backward, (), fit)
    return x


def _copy_backward(node: Node, gradient: Tensor) -> Gradients:
    """Nothing is left of what x held before."""
    if not _needs(node, 1):
        return None, None
    fit = node.context
    if fit is None:
        return None, gradient
    of = fit[1]
    second = _core.sum_to(gradient, of[0], of[1])
    return None, second if len(of) < 3 else _core.convert(second, of[1], of[2], False)
