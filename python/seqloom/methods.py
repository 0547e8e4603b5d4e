# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="misc"
"""The methods and operators of Tensor: each hands over to the op of that name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy as np

    from . import ops as _ops
    from .tensor import Tensor
else:
    _ops = None  # bound when the ops have loaded: they need Tensor first

Operand: TypeAlias = "Tensor | bool | int | float | np.ndarray[Any, Any]"
Dim: TypeAlias = "int | Sequence[int] | None"


class TensorMethods:
    """Mixed into Tensor. Methods take torch's arguments, and NumPy's axis and keepdims."""

    __slots__ = ()

    # ---- layout ---------------------------------------------------------------------------------

    def contiguous(self: Tensor) -> Tensor:
        return _ops.contiguous(self)

    def clone(self: Tensor) -> Tensor:
        return _ops.clone(self)

    def reshape(self: Tensor, *sizes: Any, shape: Any = ()) -> Tensor:
        return _ops.reshape(self, _flat(sizes) or _flat((shape,)))

    def view(self: Tensor, *shape: Any) -> Tensor:
        return _ops.view(self, _flat(shape))

    def transpose(self: Tensor, dim0: Any, dim1: Any) -> Tensor:
        return _ops.transpose(self, dim0, dim1)

    def permute(self: Tensor, *order: Any, dims: Any = ()) -> Tensor:
        return _ops.permute(self, _flat(order) or _flat((dims,)))

    def expand(self: Tensor, *shape: Any) -> Tensor:
        return _ops.expand(self, _flat(shape))

    def squeeze(self: Tensor, dim: Dim = None) -> Tensor:
        return _ops.squeeze(self, dim)

    def unsqueeze(self: Tensor, dim: Any) -> Tensor:
        return _ops.unsqueeze(self, dim)

    def flatten(self: Tensor, start_dim: Any = 0, end_dim: Any = -1) -> Tensor:
        return _ops.flatten(self, start_dim, end_dim)

    def split(self: Tensor, split_size: Any, dim: Any = 0) -> tuple[Tensor, ...]:
        return _ops.split(self, split_size, dim)

    def chunk(self: Tensor, chunks: Any, dim: Any = 0) -> tuple[Tensor, ...]:
        return _ops.chunk(self, chunks, dim)

    def unbind(self: Tensor, dim: Any = 0) -> tuple[Tensor, ...]:
        return _ops.unbind(self, dim)

    def repeat(self: Tensor, *repeats: Any) -> Tensor:
        return _ops.repeat(self, _flat(repeats))

    def flip(self: Tensor, *dims: Any) -> Tensor:
        return _ops.flip(self, _flat(dims))

    def gather(self: Tensor, dim: Any, index: Tensor) -> Tensor:
        return _ops.gather(self, dim, index)

    def index_select(self: Tensor, dim: Any, index: Tensor) -> Tensor:
        return _ops.index_select(self, dim, index)

    def tril(self: Tensor, diagonal: Any = 0) -> Tensor:
        return _ops.tril(self, diagonal)

    def triu(self: Tensor, diagonal: Any = 0) -> Tensor:
        return _ops.triu(self, diagonal)

    def sort(
        self: Tensor,
        dim: Any = -1,
        descending: Any = False,
        *,
        stable: Any = True,
        axis: Any = None,
    ) -> tuple[Tensor, Tensor]:
        """(values, indices); always stable."""
        return _ops.sort(self, dim if axis is None else axis, descending)

    def argsort(self: Tensor, dim: Any = -1, descending: Any = False) -> Tensor:
        return _ops.sort(self, dim, descending)[1]

    def topk(
        self: Tensor,
        k: Any,
        dim: Any = -1,
        largest: Any = True,
        sorted: Any = True,
        *,
        axis: Any = None,
    ) -> tuple[Tensor, Tensor]:
        """The k largest or smallest, in order whether `sorted` asks for it or not."""
        return _ops.topk(self, k, dim if axis is None else axis, largest)

    def masked_fill(self: Tensor, mask: Tensor, value: Any) -> Tensor:
        return _ops.masked_fill(self, mask, value)

    def where(self: Tensor, condition: Tensor, other: Operand) -> Tensor:
        return _ops.where(condition, self, other)

    def __getitem__(self: Tensor, key: Any) -> Tensor:
        return _ops.getitem(self, key)

    def __setitem__(self: Tensor, key: Any, value: Operand) -> None:
        _ops.setitem(self, key, value)

    # ---- reductions -----------------------------------------------------------------------------

    def sum(
        self: Tensor,
        dim: Dim = None,
        keepdim: Any = False,
        *,
        dtype: Any = None,
        axis: Dim = None,
        keepdims: Any = False,
    ) -> Tensor:
        out = self if dtype is None else self.to(dtype=dtype)
        return _ops.sum(out, dim if axis is None else axis, keepdim or keepdims)

    def mean(
        self: Tensor,
        dim: Dim = None,
        keepdim: Any = False,
        *,
        dtype: Any = None,
        axis: Dim = None,
        keepdims: Any = False,
    ) -> Tensor:
        out = self if dtype is None else self.to(dtype=dtype)
        return _ops.mean(out, dim if axis is None else axis, keepdim or keepdims)

    def prod(
        self: Tensor,
        dim: Any = None,
        keepdim: Any = False,
        *,
        axis: Any = None,
        keepdims: Any = False,
    ) -> Tensor:
        return _ops.prod(self, dim if axis is None else axis, keepdim or keepdims)

    def max(
        self: Tensor,
        dim: Any = None,
        keepdim: Any = False,
        *,
        axis: Any = None,
        keepdims: Any = False,
    ) -> Any:
        """The largest element; with an axis, (values, indices)."""
        return _ops.max(self, dim if axis is None else axis, keepdim or keepdims)

    def min(
        self: Tensor,
        dim: Any = None,
        keepdim: Any = False,
        *,
        axis: Any = None,
        keepdims: Any = False,
    ) -> Any:
        """The smallest element; with an axis, (values, indices)."""
        return _ops.min(self, dim if axis is None else axis, keepdim or keepdims)

    def argmax(
        self: Tensor,
        dim: Any = None,
        keepdim: Any = False,
        *,
        axis: Any = None,
        keepdims: Any = False,
    ) -> Tensor:
        return _ops.argmax(self, dim if axis is None else axis, keepdim or keepdims)

    def argmin(
        self: Tensor,
        dim: Any = None,
        keepdim: Any = False,
        *,
        axis: Any = None,
        keepdims: Any = False,
    ) -> Tensor:
        return _ops.argmin(self, dim if axis is None else axis, keepdim or keepdims)

    def var(
        self: Tensor,
        dim: Any = None,
        unbiased: Any = None,
        keepdim: Any = False,
        *,
        correction: Any = 1,
        axis: Dim = None,
        keepdims: Any = False,
    ) -> Tensor:
        """The variance; `correction` is subtracted from the count (torch's default 1)."""
        if isinstance(dim, bool):  # x.var(False)
            dim, unbiased = None, dim
        if unbiased is not None:
            correction = 1 if unbiased else 0
        if not isinstance(correction, (int, float)):
            raise TypeError(f"var: correction must be a number, got {type(correction).__name__}")
        return _ops.var(self, dim if axis is None else axis, correction, keepdim or keepdims)

    def std(
        self: Tensor,
        dim: Any = None,
        unbiased: Any = None,
        keepdim: Any = False,
        *,
        correction: Any = 1,
        axis: Dim = None,
        keepdims: Any = False,
    ) -> Tensor:
        return self.var(
            dim, unbiased, keepdim, correction=correction, axis=axis, keepdims=keepdims
        ).sqrt()

    def any(self: Tensor, dim: Dim = None, keepdim: Any = False, *, axis: Dim = None) -> Tensor:
        return _ops.any(self, dim if axis is None else axis, keepdim)

    def all(self: Tensor, dim: Dim = None, keepdim: Any = False, *, axis: Dim = None) -> Tensor:
        return _ops.all(self, dim if axis is None else axis, keepdim)

    def cumsum(self: Tensor, dim: Any = None, *, dtype: Any = None, axis: Any = None) -> Tensor:
        out = self if dtype is None else self.to(dtype=dtype)
        return _ops.cumsum(out, dim if axis is None else axis)

    def logsumexp(self: Tensor, dim: Dim, keepdim: Any = False) -> Tensor:
        return _ops.logsumexp(self, dim, keepdim)

    def norm(self: Tensor, dim: Dim = None, keepdim: Any = False) -> Tensor:
        """The Euclidean norm."""
        return (self * self).sum(dim, keepdim).sqrt()

    # ---- elementwise ----------------------------------------------------------------------------

    def exp(self: Tensor) -> Tensor:
        return _ops.exp(self)

    def log(self: Tensor) -> Tensor:
        return _ops.log(self)

    def sqrt(self: Tensor) -> Tensor:
        return _ops.sqrt(self)

    def rsqrt(self: Tensor) -> Tensor:
        return _ops.rsqrt(self)

    def sin(self: Tensor) -> Tensor:
        return _ops.sin(self)

    def cos(self: Tensor) -> Tensor:
        return _ops.cos(self)

    def tanh(self: Tensor) -> Tensor:
        return _ops.tanh(self)

    def sigmoid(self: Tensor) -> Tensor:
        return _ops.sigmoid(self)

    def erf(self: Tensor) -> Tensor:
        return _ops.erf(self)

    def relu(self: Tensor) -> Tensor:
        return _ops.relu(self)

    def floor(self: Tensor) -> Tensor:
        return _ops.floor(self)

    def round(self: Tensor) -> Tensor:
        return _ops.round(self)

    def reciprocal(self: Tensor) -> Tensor:
        return _ops.reciprocal(self)

    def neg(self: Tensor) -> Tensor:
        return _ops.neg(self)

    def add(self: Tensor, other: Operand) -> Tensor:
        return self + other

    def sub(self: Tensor, other: Operand) -> Tensor:
        return self - other

    def mul(self: Tensor, other: Operand) -> Tensor:
        return self * other

    def div(self: Tensor, other: Operand) -> Tensor:
        return self / other

    def square(self: Tensor) -> Tensor:
        out: Tensor = _ops.mul(self, self)
        return out

    def pow(self: Tensor, exponent: Operand) -> Tensor:
        return self**exponent

    def clamp(self: Tensor, min: Any = None, max: Any = None) -> Tensor:
        return _ops.clamp(self, min, max)

    clip = clamp

    def abs(self: Tensor) -> Tensor:
        return _ops.abs(self)

    def softmax(self: Tensor, dim: Any = -1) -> Tensor:
        return _ops.softmax(self, dim)

    def log_softmax(self: Tensor, dim: Any = -1) -> Tensor:
        return _ops.log_softmax(self, dim)

    def matmul(self: Tensor, other: Tensor) -> Tensor:
        return _ops.matmul(self, other)

    # ---- in place -------------------------------------------------------------------------------

    def copy_(self: Tensor, source: Operand) -> Tensor:
        return _ops.copy_(self, source)

    def fill_(self: Tensor, value: Any) -> Tensor:
        return _ops.fill_(self, value)

    def zero_(self: Tensor) -> Tensor:
        return _ops.fill_(self, 0)

    def add_(self: Tensor, other: Operand) -> Tensor:
        return _ops.add_(self, other)

    def sub_(self: Tensor, other: Operand) -> Tensor:
        return _ops.sub_(self, other)

    def mul_(self: Tensor, other: Operand) -> Tensor:
        return _ops.mul_(self, other)

    def div_(self: Tensor, other: Operand) -> Tensor:
        return _ops.div_(self, other)

    # ---- operators ------------------------------------------------------------------------------

    def __matmul__(self: Tensor, other: Any) -> Tensor:
        return _ops.matmul(self, other)

    def __rmatmul__(self: Tensor, other: Any) -> Tensor:
        return _ops.matmul(other, self)

    def __add__(self: Tensor, other: Any) -> Tensor:
        out: Tensor = _ops.add(self, other)
        return out

    def __radd__(self: Tensor, other: Any) -> Tensor:
        out: Tensor = _ops.add(self, other)
        return out

    def __sub__(self: Tensor, other: Any) -> Tensor:
        out: Tensor = _ops.sub(self, other)
        return out

    def __rsub__(self: Tensor, other: Any) -> Tensor:
        out: Tensor = _ops.sub(other, self)
        return out

    def __mul__(self: Tensor, other: Any) -> Tensor:
        out: Tensor = _ops.mul(self, other)
        return out

    def __rmul__(self: Tensor, other: Any) -> Tensor:
        out: Tensor = _ops.mul(self, other)
        return out

    def __truediv__(self: Tensor, other: Any) -> Tensor:
        out: Tensor = _ops.div(self, other)
        return out

    def __rtruediv__(self: Tensor, other: Any) -> Tensor:
        out: Tensor = _ops.div(other, self)
        return out

    def __floordiv__(self: Tensor, other: Any) -> Tensor:
        out: Tensor = _ops.floor_divide(self, other)
        return out

    def __rfloordiv__(self: Tensor, other: Any) -> Tensor:
        out: Tensor = _ops.floor_divide(other, self)
        return out

    def __mod__(self: Tensor, other: Any) -> Tensor:
        out: Tensor = _ops.remainder(self, other)
        return out

    def __rmod__(self: Tensor, other: Any) -> Tensor:
        out: Tensor = _ops.remainder(other, self)
        return out

    def __pow__(self: Tensor, other: Any) -> Tensor:
        out: Tensor = _ops.pow(self, other)
        return out

    def __rpow__(self: Tensor, other: Any) -> Tensor:
        out: Tensor = _ops.pow(other, self)
        return out

    def __neg__(self: Tensor) -> Tensor:
        return _ops.neg(self)

    def __pos__(self: Tensor) -> Tensor:
        return self

    def __abs__(self: Tensor) -> Tensor:
        return _ops.abs(self)

    def __invert__(self: Tensor) -> Tensor:
        return _ops.bitwise_not(self)

    def __and__(self: Tensor, other: Any) -> Tensor:
        out: Tensor = _ops.bitwise_and(self, other)
        return out

    def __or__(self: Tensor, other: Any) -> Tensor:
        out: Tensor = _ops.bitwise_or(self, other)
        return out

    def __xor__(self: Tensor, other: Any) -> Tensor:
        out: Tensor = _ops.bitwise_xor(self, other)
        return out

    __rand__ = __and__
    __ror__ = __or__
    __rxor__ = __xor__

    def __iadd__(self: Tensor, other: Any) -> Tensor:
        return _ops.add_(self, other)

    def __isub__(self: Tensor, other: Any) -> Tensor:
        return _ops.sub_(self, other)

    def __imul__(self: Tensor, other: Any) -> Tensor:
        return _ops.mul_(self, other)

    def __itruediv__(self: Tensor, other: Any) -> Tensor:
        return _ops.div_(self, other)

    def __eq__(self: Tensor, other: Any) -> Any:
        return _ops.eq(self, other)

    def __ne__(self: Tensor, other: Any) -> Any:
        return _ops.ne(self, other)

    def __lt__(self: Tensor, other: Any) -> Tensor:
        out: Tensor = _ops.lt(self, other)
        return out

    def __le__(self: Tensor, other: Any) -> Tensor:
        out: Tensor = _ops.le(self, other)
        return out

    def __gt__(self: Tensor, other: Any) -> Tensor:
        out: Tensor = _ops.gt(self, other)
        return out

    def __ge__(self: Tensor, other: Any) -> Tensor:
        out: Tensor = _ops.ge(self, other)
        return out


def _flat(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """``x.reshape(2, 3)`` and ``x.reshape((2, 3))`` mean the same."""
    if len(values) == 1 and isinstance(values[0], (tuple, list)):
        return tuple(values[0])
    return values


def bind(ops: Any) -> None:
    """Called once, when the ops have loaded."""
    global _ops
    _ops = ops
