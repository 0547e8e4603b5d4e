# SPDX-License-Identifier: Apache-2.0
"""Selecting: rows of a table, positions along an axis, order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from .. import _core
from ..autograd import Node, record
from ..creation import arange
from ..tensor import Tensor
from ._arrays import public

__all__ = [
    "argsort",
    "embedding",
    "gather",
    "index_select",
    "one_hot",
    "sort",
    "topk",
]

Gradients = tuple["Tensor | None", ...]

# ---- order --------------------------------------------------------------------------------------


def sort(x: Tensor, dim: int = -1, descending: bool = False) -> tuple[Tensor, Tensor]:
    """The elements of an axis in order, and where they stood.

    Equal elements keep their order; NaN counts as the largest.

    Examples
    --------
    >>> import seqloom as sl
    >>> values, indices = sl.ops.sort(sl.tensor([3.0, 1.0, 2.0]))
    >>> values.tolist(), indices.tolist()
    ([1.0, 2.0, 3.0], [1, 2, 0])
    """
    return _sorted("sort", x, dim, None, bool(descending))


def topk(x: Tensor, k: int, dim: int = -1, largest: bool = True) -> tuple[Tensor, Tensor]:
    """The k largest (or smallest) elements of an axis in order, and where they stood.

    >>> import seqloom as sl
    >>> sl.ops.topk(sl.tensor([3, 9, 1]), 2)[0].tolist()
    [9, 3]
    """
    if not isinstance(largest, (bool, int)):
        raise TypeError(f"topk: largest must be True or False, got {type(largest).__name__}")
    return _sorted("topk", x, dim, k, bool(largest))


def argsort(x: Tensor, dim: int = -1, descending: bool = False) -> Tensor:
    """Where the elements of an axis stand when in order.

    >>> import seqloom as sl
    >>> sl.ops.argsort(sl.tensor([3, 9, 1])).tolist()
    [2, 0, 1]
    """
    indices: Tensor = _core.sort("argsort", x, dim, None, bool(descending))[1]
    return indices


def _sorted(
    name: str, x: Tensor, dim: int, k: int | None, descending: bool
) -> tuple[Tensor, Tensor]:
    values, indices = _core.sort(name, x, dim, k, descending)
    if x._needs_grad:
        axis = dim % max(1, x.ndim)
        record(values, name, (x,), _gather_backward, (indices,), (x.shape, axis, True))
    return values, indices


# ---- along an axis ------------------------------------------------------------------------------


def gather(x: Tensor, dim: int, index: Tensor) -> Tensor:
    """``out[i, j, ...] = x[index[i, j, ...], j, ...]``, for dim = 0; NumPy's take_along_axis.

    Parameters
    ----------
    x : Tensor
    dim : int
    index : integer Tensor
        The rank of x, at most its extents but for axis `dim`. Negative indices count from the end.

    Examples
    --------
    >>> import seqloom as sl
    >>> sl.ops.gather(sl.tensor([[1, 2], [3, 4]]), 1, sl.tensor([[1], [0]])).tolist()
    [[2], [3]]
    """
    ids = as_index("gather", index)
    y = _core.gather(x, dim, ids)
    if x._needs_grad:
        axis = dim % max(1, x.ndim)
        record(y, "gather", (x,), _gather_backward, (ids,), (x.shape, axis, False))
    return y


def _gather_backward(node: Node, grad: Tensor, *_: None) -> Gradients:
    shape, axis, unique = node.context
    (ids,) = node.saved_tensors()
    code = grad._dtype_code
    if code in (1, 2) and not unique:  # sums of 16-bit numbers are float32's
        grad = _core.convert(grad, 0, grad.device, False)
        out = _core.gather_backward(grad, ids, shape, axis, unique)
        return (_core.convert(out, code, grad.device, False),)
    return (_core.gather_backward(grad, ids, shape, axis, unique),)


def as_index(name: str, index: Tensor) -> Tensor:
    """int64, whatever integers came in."""
    if not isinstance(index, Tensor):
        raise TypeError(f"{name}: index must be a Tensor, got {type(index).__name__}")
    if index._dtype_code == 4:
        return index.detach()
    if index._dtype_code < 4 or index._dtype_code == 8:
        raise TypeError(f"{name}: index must be an integer array, got {index.dtype.name}")
    converted: Tensor = _core.convert(index, 4, index.device, False)
    return converted


def index_select(x: Tensor, dim: int, index: Tensor) -> Tensor:
    """The positions `index` of an axis.

    >>> import seqloom as sl
    >>> sl.ops.index_select(sl.tensor([[1, 2, 3]]), 1, sl.tensor([2, 0])).tolist()
    [[3, 1]]
    """
    ids = as_index("index_select", index)
    if ids.ndim != 1:
        raise ValueError(f"index_select: index must have one axis, got shape {list(ids.shape)}")
    if not isinstance(dim, int) or not -x.ndim <= dim < x.ndim:
        raise ValueError(f"index_select: dim must be in [{-x.ndim}, {x.ndim - 1}], got {dim}")
    return take("index_select", x, dim % x.ndim, (ids,))


def take(name: str, x: Tensor, first: int, indices: Sequence[Tensor]) -> Tensor:
    """``x[..., indices, ...]``: int64 arrays that broadcast, over the axes from `first` on."""
    y, ids = _core.take(name, x, first, indices)
    if x._needs_grad:
        record(y, name, (x,), _take_backward, (ids,), (x.shape, first, len(indices)))
    return cast(Tensor, y)


def _take_backward(node: Node, grad: Tensor) -> Gradients:
    (ids,) = node.saved_tensors()
    return (_core.take_backward(grad, ids, *node.context),)


@public
def embedding(ids: Tensor, weight: Tensor, *, padding_idx: int | None = None) -> Tensor:
    """Rows of a table.

    Parameters
    ----------
    ids : integer Tensor [...]
        In [0, V): anything else is an IndexError (on CUDA at the next synchronisation).
    weight : Tensor [V, D]
    padding_idx : int, optional
        This row gets no gradient.

    Returns
    -------
    Tensor [..., D]

    Examples
    --------
    >>> import seqloom as sl
    >>> sl.ops.embedding(sl.tensor([1, 0]), sl.tensor([[1.0, 2.0], [3.0, 4.0]])).tolist()
    [[3.0, 4.0], [1.0, 2.0]]
    """
    for name, given in (("ids", ids), ("weight", weight)):
        if not isinstance(given, Tensor):
            raise TypeError(f"embedding: {name} must be an array, got {type(given).__name__}")
    if ids._dtype_code not in (4, 5):
        if ids._dtype_code not in (6, 7):
            raise TypeError(f"embedding: ids must be integers, got {ids.dtype.name}")
        ids = _core.convert(ids, 4, ids.device, False)
    y, flat = _core.embedding(ids, weight)
    if padding_idx is not None:
        rows = weight.shape[0]
        if not isinstance(padding_idx, int) or not -rows <= padding_idx < rows:
            raise ValueError(
                f"embedding: padding_idx must be in [{-rows}, {rows}), got {padding_idx!r}"
            )
        padding_idx %= rows
    if weight._needs_grad:
        skip = -1 if padding_idx is None else padding_idx
        record(y, "embedding", (weight,), _take_backward, (flat,), (weight.shape, 0, 1, skip))
    return cast(Tensor, y)


def one_hot(ids: Tensor, num_classes: int) -> Tensor:
    """int64 rows with a one where the id says.

    >>> import seqloom as sl
    >>> sl.ops.one_hot(sl.tensor([1, 0]), 3).tolist()
    [[0, 1, 0], [1, 0, 0]]
    """
    if not isinstance(num_classes, int) or num_classes < 0:
        raise ValueError(f"one_hot: num_classes must not be negative, got {num_classes!r}")
    index = as_index("one_hot", ids)
    flat = _core.reshape(index, (-1,))
    out: Tensor = _core.full((flat.size, num_classes), 0, 4, ids.device)
    rows = arange(flat.size, device=ids.device)
    one = _core.full((), 1, 4, ids.device)
    _core.put(out, 0, (rows, flat), one, True)
    return _core.reshape(out, (*ids.shape, num_classes))
