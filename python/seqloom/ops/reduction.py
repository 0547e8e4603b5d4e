# SPDX-License-Identifier: Apache-2.0
"""Sums, means, products, extremes, variance, truth and scans: what Tensor's methods call.

``axis`` is None (everything), an int or a tuple of ints. Sums of integers and bools are int64.
"""

from __future__ import annotations

from typing import Any

from .. import _core
from ..autograd import Node, record
from ..tensor import Tensor

__all__ = [
    "all",
    "any",
    "argmax",
    "argmin",
    "cumsum",
    "logsumexp",
    "max",
    "mean",
    "min",
    "prod",
    "sum",
    "var",
]

Axis = Any


def sum(x: Tensor, axis: Axis = None, keepdim: bool = False) -> Tensor:
    """The sum over some axes.

    >>> import seqloom as sl
    >>> sl.tensor([[1, 2], [3, 4]]).sum(0).tolist()
    [4, 6]
    """
    y = _core.sum(x, axis, keepdim)
    if x._needs_grad:
        record(y, "sum", (x,), _sum_backward, (), (x.shape, axis))
    return y


def _sum_backward(node: Node, gradient: Tensor) -> Tensor:
    return _core.expand_reduced(gradient, *node.context)


def mean(x: Tensor, axis: Axis = None, keepdim: bool = False) -> Tensor:
    """The mean over some axes; NaN of nothing.

    >>> import seqloom as sl
    >>> sl.tensor([[1.0, 2.0], [3.0, 4.0]]).mean(1).tolist()
    [1.5, 3.5]
    """
    y = _core.mean(x, axis, keepdim)
    if x._needs_grad:
        record(
            y, "mean", (x,), _mean_backward, (), (x.shape, axis, x.size / y.size if y.size else 1)
        )
    return y


def _mean_backward(node: Node, gradient: Tensor) -> Tensor:
    shape, axis, count = node.context
    return _core.expand_reduced(_core.div(gradient, float(count)), shape, axis)


def prod(x: Tensor, axis: Axis = None, keepdim: bool = False) -> Tensor:
    """The product over one axis or all; its gradient is right beside zeros too.

    >>> import seqloom as sl
    >>> sl.tensor([2, 3, 4]).prod().item()
    24
    """
    y = _core.prod(x, axis, keepdim)
    if x._needs_grad:
        record(y, "prod", (x,), _prod_backward, (x,), axis)
    return y


def _prod_backward(node: Node, gradient: Tensor) -> Tensor:
    (x,) = node.saved_tensors()
    return _core.prod_backward(gradient, x, node.context)


def var(x: Tensor, axis: Axis = None, correction: float = 1, keepdim: bool = False) -> Tensor:
    """sum((x - mean)^2) / max(n - correction, 0) over some axes.

    >>> import seqloom as sl
    >>> sl.tensor([1.0, 3.0]).var().item()
    2.0
    """
    y = _core.var(x, axis, correction, keepdim)
    if x._needs_grad:
        degrees = (x.size / y.size if y.size else 0) - correction
        record(y, "var", (x,), _var_backward, (x,), (axis, degrees if degrees > 0 else 0.0))
    return y


def _wide(code: int) -> int:
    """float32 for 16-bit floats, in which intermediate results would lose too much."""
    return 0 if code in (1, 2) else code


def _var_backward(node: Node, gradient: Tensor) -> Tensor:
    (x,) = node.saved_tensors()
    axis, degrees = node.context
    code = _wide(x._dtype_code)
    centred = _core.sub(x, _core.mean(x, axis, True, code))
    # 2 / 0 is infinite, as the formula says; Python's division would raise.
    factor = _core.convert(gradient, code, x.device, False)
    factor = _core.mul(factor, 2 / degrees if degrees else float("inf"))
    out = _core.mul(centred, _core.expand_reduced(factor, x.shape, axis))
    return _core.convert(out, x._dtype_code, x.device, False)


def logsumexp(x: Tensor, axis: Axis = None, keepdim: bool = False) -> Tensor:
    """log(sum(exp(x))) over some axes, without overflow.

    >>> import seqloom as sl
    >>> sl.tensor([0.0, float("-inf")]).logsumexp(0).item()
    0.0
    """
    if not x._needs_grad:
        return _core.logsumexp(x, axis, keepdim)
    wide = _core.logsumexp(x, axis, keepdim, _wide(x._dtype_code))
    y = _core.convert(wide, x._dtype_code, x.device, False)
    record(y, "logsumexp", (x,), _logsumexp_backward, (x, wide.detach()), axis)
    return y


def _logsumexp_backward(node: Node, gradient: Tensor) -> Tensor:
    x, y = node.saved_tensors()
    weights = _core.exp(_core.sub(x, _core.expand_reduced(y, x.shape, node.context)))
    out = _core.mul(weights, _core.expand_reduced(gradient, x.shape, node.context))
    return _core.convert(out, x._dtype_code, x.device, False)


# ---- extremes -----------------------------------------------------------------------------------


def max(x: Tensor, axis: Axis = None, keepdim: bool = False) -> Any:
    """The largest element; with an axis (values, indices), the first of equals. NaN wins.

    Without an axis the gradient is shared equally among ties, with one it goes to the index.

    >>> import seqloom as sl
    >>> [t.tolist() for t in sl.tensor([[1, 5], [7, 2]]).max(1)]
    [[5, 7], [1, 0]]
    """
    if axis is None and not keepdim:
        return _of_all("max", x, _core.max_all(x))
    values, indices = _core.max(x, axis, keepdim)
    return _chosen("max", x, axis, values, indices)


def min(x: Tensor, axis: Axis = None, keepdim: bool = False) -> Any:
    """The smallest element; with an axis (values, indices), the first of equals. NaN wins.

    Without an axis the gradient is shared equally among ties, with one it goes to the index.

    >>> import seqloom as sl
    >>> [t.tolist() for t in sl.tensor([[1, 5], [7, 2]]).min(1)]
    [[1, 2], [0, 1]]
    """
    if axis is None and not keepdim:
        return _of_all("min", x, _core.min_all(x))
    values, indices = _core.min(x, axis, keepdim)
    return _chosen("min", x, axis, values, indices)


def _of_all(name: str, x: Tensor, y: Tensor) -> Tensor:
    if x._needs_grad:
        record(y, name, (x,), _of_all_backward, (x, y.detach()))
    return y


def _of_all_backward(node: Node, gradient: Tensor) -> Tensor:
    x, y = node.saved_tensors()
    ties = _core.eq(x, y)
    if bool(_core.ne(y, y)):
        ties = _core.ne(x, x)
    share = _core.div(gradient, _core.sum(ties, None, False))
    return _core.where(ties, share, _core.full((), 0, gradient._dtype_code, gradient.device))


def _chosen(
    name: str, x: Tensor, axis: Axis, values: Tensor, indices: Tensor
) -> tuple[Tensor, Tensor]:
    if x._needs_grad:
        record((values, indices), name, (x,), _chosen_backward, (indices,), (x.shape, axis))
    return values, indices


def _chosen_backward(node: Node, gradient: Tensor | None, _: Tensor | None) -> Tensor | None:
    if gradient is None:
        return None
    (indices,) = node.saved_tensors()
    shape, axis = node.context
    if axis is None:  # positions in the flattened array
        flat = _core.extreme_backward(gradient, indices, (_size(shape),), 0)
        return _core.reshape(flat, shape)
    axis = axis[0] if isinstance(axis, (tuple, list)) else axis
    return _core.extreme_backward(gradient, indices, shape, axis)


def _size(shape: tuple[int, ...]) -> int:
    n = 1
    for extent in shape:
        n *= extent
    return n


def argmax(x: Tensor, axis: Axis = None, keepdim: bool = False) -> Tensor:
    """Position of the largest element (the first of equals); without an axis in x flattened.

    >>> import seqloom as sl
    >>> sl.tensor([3, 9, 9]).argmax().item()
    1
    """
    return _core.argmax(x, axis, keepdim)


def argmin(x: Tensor, axis: Axis = None, keepdim: bool = False) -> Tensor:
    """Position of the smallest element (the first of equals); without an axis in x flattened.

    >>> import seqloom as sl
    >>> sl.tensor([3, 9, 2]).argmin().item()
    2
    """
    return _core.argmin(x, axis, keepdim)


# ---- truth and scans ----------------------------------------------------------------------------


def any(x: Tensor, axis: Axis = None, keepdim: bool = False) -> Tensor:
    """Whether some element is not zero.

    >>> import seqloom as sl
    >>> sl.tensor([[0, 0], [0, 5]]).any(1).tolist()
    [False, True]
    """
    return _core.any(x, axis, keepdim)


def all(x: Tensor, axis: Axis = None, keepdim: bool = False) -> Tensor:
    """Whether no element is zero.

    >>> import seqloom as sl
    >>> sl.tensor([[1, 0], [1, 5]]).all(1).tolist()
    [False, True]
    """
    return _core.all(x, axis, keepdim)


def cumsum(x: Tensor, axis: Axis) -> Tensor:
    """Sums of everything up to and with each element along an axis.

    >>> import seqloom as sl
    >>> sl.tensor([1, 2, 3]).cumsum(0).tolist()
    [1, 3, 6]
    """
    if not isinstance(axis, int):
        raise TypeError(f"cumsum: axis must be an int, got {type(axis).__name__}")
    y = _core.cumsum(x, axis, False)
    if x._needs_grad:
        record(y, "cumsum", (x,), _cumsum_backward, (), axis)
    return y


def _cumsum_backward(node: Node, gradient: Tensor) -> Tensor:
    return _core.cumsum(gradient, node.context, True)
