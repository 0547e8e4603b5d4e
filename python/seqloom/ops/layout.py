# SPDX-License-Identifier: Apache-2.0
"""Shapes: views, joining and splitting, triangles. Views share memory with the tensor they show."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from .. import _core
from ..autograd import Node, record
from ..dtypes import BY_CODE
from ..tensor import Tensor

__all__ = [
    "cat",
    "chunk",
    "clone",
    "contiguous",
    "expand",
    "flatten",
    "flip",
    "pad",
    "permute",
    "repeat",
    "reshape",
    "roll",
    "split",
    "squeeze",
    "stack",
    "transpose",
    "tril",
    "triu",
    "unbind",
    "unsqueeze",
    "view",
]

Gradients = tuple["Tensor | None", ...]


# ---- one tensor in, a view out -----------------------------------------------------------------


def reshape(x: Tensor, shape: Sequence[int]) -> Tensor:
    """The same elements in another shape: a view where strides allow, else a copy.

    Parameters
    ----------
    x : Tensor [...]
    shape : sequence of int
        As many elements as x; one extent may be -1.

    Examples
    --------
    >>> import seqloom as sl
    >>> sl.ops.reshape(sl.arange(6), (2, -1)).tolist()
    [[0, 1, 2], [3, 4, 5]]
    """
    y = _core.reshape(x, shape)
    if x._needs_grad:
        record(y, "reshape", (x,), _reshape_backward, (), x.shape)
    y._set_base(x)
    return y


def _reshape_backward(node: Node, grad: Tensor) -> Gradients:
    return (_core.reshape(grad, node.context),)


def view(x: Tensor, shape: Sequence[int]) -> Tensor:
    """The same memory in another shape; ValueError when that takes a copy.

    >>> import seqloom as sl
    >>> sl.ops.view(sl.arange(4), (2, 2)).shape
    (2, 2)
    """
    y = _core.view(x, shape)
    if x._needs_grad:
        record(y, "view", (x,), _reshape_backward, (), x.shape)
    y._set_base(x)
    return y


def flatten(x: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Axes start_dim to end_dim as one.

    >>> import seqloom as sl
    >>> sl.ops.flatten(sl.zeros(2, 3, 4), 1).shape
    (2, 12)
    """
    y = _core.flatten(x, start_dim, end_dim)
    if x._needs_grad:
        record(y, "flatten", (x,), _reshape_backward, (), x.shape)
    y._set_base(x)
    return y


def squeeze(x: Tensor, dim: int | Sequence[int] | None = None) -> Tensor:
    """Without the axes of extent 1; `dim` names which ones may go.

    >>> import seqloom as sl
    >>> sl.ops.squeeze(sl.zeros(1, 3, 1)).shape
    (3,)
    """
    y = _core.squeeze(x, dim)
    if x._needs_grad:
        record(y, "squeeze", (x,), _reshape_backward, (), x.shape)
    y._set_base(x)
    return y


def unsqueeze(x: Tensor, dim: int) -> Tensor:
    """With a new axis of extent 1 at `dim`.

    >>> import seqloom as sl
    >>> sl.ops.unsqueeze(sl.zeros(3), -1).shape
    (3, 1)
    """
    y = _core.unsqueeze(x, dim)
    if x._needs_grad:
        record(y, "unsqueeze", (x,), _reshape_backward, (), x.shape)
    y._set_base(x)
    return y


def transpose(x: Tensor, dim0: int, dim1: int) -> Tensor:
    """Two axes exchanged.

    >>> import seqloom as sl
    >>> sl.ops.transpose(sl.zeros(2, 3, 4), 0, -1).shape
    (4, 3, 2)
    """
    y = _core.transpose(x, dim0, dim1)
    if x._needs_grad:
        record(y, "transpose", (x,), _transpose_backward, (), (dim0, dim1))
    y._set_base(x)
    return y


def _transpose_backward(node: Node, grad: Tensor) -> Gradients:
    return (_core.transpose(grad, *node.context),)


def permute(x: Tensor, dims: Sequence[int]) -> Tensor:
    """Axis i of the result is axis dims[i] of x.

    >>> import seqloom as sl
    >>> sl.ops.permute(sl.zeros(2, 3, 4), (2, 0, 1)).shape
    (4, 2, 3)
    """
    y = _core.permute(x, dims)
    if x._needs_grad:
        record(y, "permute", (x,), _permute_backward, (), dims)
    y._set_base(x)
    return y


def _inverse(dims: Sequence[int]) -> tuple[int, ...]:
    inverse = [0] * len(dims)
    for i, d in enumerate(dims):
        inverse[d] = i
    return tuple(inverse)


def _permute_backward(node: Node, grad: Tensor) -> Gradients:
    return (_core.permute(grad, _inverse(node.context)),)


def expand(x: Tensor, shape: Sequence[int]) -> Tensor:
    """Broadcast to `shape` without a copy; -1 keeps an extent.

    >>> import seqloom as sl
    >>> sl.ops.expand(sl.arange(2), (3, -1)).tolist()
    [[0, 1], [0, 1], [0, 1]]
    """
    y = _core.expand(x, shape)
    if x._needs_grad:
        record(y, "expand", (x,), _expand_backward, (), x.shape)
    y._set_base(x)
    return y


def _expand_backward(node: Node, grad: Tensor) -> Gradients:
    return (_core.sum_to(grad, node.context, grad._dtype_code),)


def flip(x: Tensor, dims: int | Sequence[int]) -> Tensor:
    """The order of elements reversed along `dims`: a view, as in NumPy.

    >>> import seqloom as sl
    >>> sl.ops.flip(sl.arange(3), (0,)).tolist()
    [2, 1, 0]
    """
    axes = (dims,) if isinstance(dims, int) else dims
    y = _core.flip(x, axes)
    if x._needs_grad:
        record(y, "flip", (x,), _flip_backward, (), axes)
    y._set_base(x)
    return y


def _flip_backward(node: Node, grad: Tensor) -> Gradients:
    return (_core.flip(grad, node.context),)


def split(
    x: Tensor, split_size_or_sections: int | Sequence[int], dim: int = 0
) -> tuple[Tensor, ...]:
    """Pieces of an axis, as views: of a given length (the last may be shorter), or of each length.

    >>> import seqloom as sl
    >>> [t.tolist() for t in sl.ops.split(sl.arange(5), 2)]
    [[0, 1], [2, 3], [4]]
    """
    pieces: tuple[Tensor, ...] = _core.split(x, split_size_or_sections, dim)
    if x._needs_grad:
        shapes = [piece.shape for piece in pieces]
        record(pieces, "split", (x,), _split_backward, (), (shapes, dim))
    for piece in pieces:
        piece._set_base(x)
    return pieces


def _split_backward(node: Node, *grads: Tensor | None) -> Gradients:
    shapes, dim = node.context
    like = next(g for g in grads if g is not None)
    return (_core.cat([_or_zeros(g, s, like) for g, s in zip(grads, shapes, strict=True)], dim),)


def _or_zeros(grad: Tensor | None, shape: tuple[int, ...], like: Tensor) -> Tensor:
    return _core.full(shape, 0, like._dtype_code, like.device) if grad is None else grad


def chunk(x: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """At most `chunks` pieces of an axis, of equal length but for the last, as views.

    >>> import seqloom as sl
    >>> [t.tolist() for t in sl.ops.chunk(sl.arange(5), 2)]
    [[0, 1, 2], [3, 4]]
    """
    if not isinstance(chunks, int) or isinstance(chunks, bool):
        raise TypeError(f"chunk: chunks must be an integer, got {type(chunks).__name__}")
    if chunks < 1:
        raise ValueError(f"chunk: chunks must be positive, got {chunks}")
    if not isinstance(dim, int) or not -x.ndim <= dim < x.ndim:
        return split(x, 1, dim)  # which says what is wrong
    return split(x, max(1, -(-x.shape[dim] // chunks)), dim)


def unbind(x: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    """One view for each position of an axis, without that axis.

    >>> import seqloom as sl
    >>> [t.tolist() for t in sl.ops.unbind(sl.tensor([[1, 2], [3, 4]]))]
    [[1, 2], [3, 4]]
    """
    views: tuple[Tensor, ...] = _core.unbind(x, dim)
    if views and x._needs_grad:
        record(views, "unbind", (x,), _unbind_backward, (), (views[0].shape, dim))
    for v in views:
        v._set_base(x)
    return views


def _unbind_backward(node: Node, *grads: Tensor | None) -> Gradients:
    shape, dim = node.context
    like = next(g for g in grads if g is not None)
    return (_core.stack([_or_zeros(g, shape, like) for g in grads], dim),)


# ---- copies -------------------------------------------------------------------------------------


def clone(x: Tensor) -> Tensor:
    """A copy with memory of its own, row-major.

    >>> import seqloom as sl
    >>> x = sl.zeros(2)
    >>> y = x.clone()
    >>> y[0] = 1
    >>> x.tolist()
    [0.0, 0.0]
    """
    y = _core.clone(x)
    if x._needs_grad:
        record(y, "clone", (x,), _clone_backward)
    return y


def _clone_backward(node: Node, gradient: Tensor) -> Tensor:
    return gradient


def contiguous(x: Tensor) -> Tensor:
    """The tensor itself when its elements lie in row-major order, else a copy that does.

    >>> import seqloom as sl
    >>> sl.ops.contiguous(sl.zeros(2, 3).T).strides
    (2, 1)
    """
    return x if x.is_contiguous() else clone(x)


def _same_dtype(name: str, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """Arrays of several dtypes become the dtype that arithmetic would give them."""
    if not isinstance(tensors, (tuple, list)):
        raise TypeError(f"{name}: tensors must be a list of Tensors, got {type(tensors).__name__}")
    codes = {t._dtype_code for t in tensors if isinstance(t, Tensor)}
    if len(codes) <= 1:
        return tensors
    code = functools.reduce(_core.promote, codes)
    return [t if t._dtype_code == code else t.to(dtype=BY_CODE[code]) for t in tensors]


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Tensors one after the other along an axis.

    Parameters
    ----------
    tensors : sequence of Tensor
        Of one shape but for axis `dim`; mixed dtypes are promoted.
    dim : int

    Examples
    --------
    >>> import seqloom as sl
    >>> sl.cat([sl.arange(2), sl.arange(3)]).tolist()
    [0, 1, 0, 1, 2]
    """
    parts = _same_dtype("cat", tensors)
    y = _core.cat(parts, dim)
    if _core.grad_enabled() and any(t.requires_grad for t in parts):
        record(y, "cat", parts, _cat_backward, (), ([t.shape for t in parts], dim))
    return y


def _cat_backward(node: Node, grad: Tensor) -> Gradients:
    shapes, dim = node.context
    return tuple(_core.split(grad, [s[dim] for s in shapes], dim))


def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Tensors of one shape along a new axis.

    >>> import seqloom as sl
    >>> sl.stack([sl.arange(2), sl.arange(2)], 1).tolist()
    [[0, 0], [1, 1]]
    """
    parts = _same_dtype("stack", tensors)
    y = _core.stack(parts, dim)
    if _core.grad_enabled() and any(t.requires_grad for t in parts):
        record(y, "stack", parts, _stack_backward, (), dim if dim >= 0 else dim + y.ndim)
    return y


def _stack_backward(node: Node, grad: Tensor) -> Gradients:
    return tuple(_core.unbind(grad, node.context))


def tril(x: Tensor, diagonal: int = 0) -> Tensor:
    """The lower triangle of matrices, zeros above.

    Parameters
    ----------
    x : Tensor [..., R, C]
    diagonal : int
        Elements with column - row <= diagonal stay.

    Examples
    --------
    >>> import seqloom as sl
    >>> sl.ops.tril(sl.ones(2, 3)).tolist()
    [[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]]
    """
    y = _core.triangle(x, diagonal, False)
    if x._needs_grad:
        record(y, "tril", (x,), _triangle_backward, (), (diagonal, False))
    return y


def triu(x: Tensor, diagonal: int = 0) -> Tensor:
    """The upper triangle of matrices, zeros below; see :func:`tril`.

    >>> import seqloom as sl
    >>> sl.ops.triu(sl.ones(2, 3), 1).tolist()
    [[0.0, 1.0, 1.0], [0.0, 0.0, 1.0]]
    """
    y = _core.triangle(x, diagonal, True)
    if x._needs_grad:
        record(y, "triu", (x,), _triangle_backward, (), (diagonal, True))
    return y


def _triangle_backward(node: Node, grad: Tensor) -> Gradients:
    return (_core.triangle(grad, *node.context),)


def roll(x: Tensor, shift: int, dim: int) -> Tensor:
    """Elements moved by `shift` along an axis; those that leave come back on the other side.

    >>> import seqloom as sl
    >>> sl.ops.roll(sl.arange(4), 1, 0).tolist()
    [3, 0, 1, 2]
    """
    n = x.shape[dim] if -x.ndim <= dim < x.ndim else 0
    if n == 0 or shift % n == 0:
        return clone(x)
    head, tail = split(x, [n - shift % n, shift % n], dim)
    return cat([tail, head], dim)


def repeat(x: Tensor, repeats: Sequence[int]) -> Tensor:
    """Copies of the tensor side by side, repeats[i] of them along axis i.

    >>> import seqloom as sl
    >>> sl.ops.repeat(sl.arange(2), (2, 2)).tolist()
    [[0, 1, 0, 1], [0, 1, 0, 1]]
    """
    if any(not isinstance(r, int) or r < 0 for r in repeats):
        raise ValueError(f"repeat: repeats must not be negative, got {list(repeats)}")
    if len(repeats) < x.ndim:
        raise ValueError(f"repeat: repeats must have at least {x.ndim} entries, got {len(repeats)}")
    out = x
    for _ in range(len(repeats) - x.ndim):
        out = unsqueeze(out, 0)
    for axis, r in enumerate(repeats):
        if r != 1:
            shape = out.shape
            wide = expand(unsqueeze(out, axis), (*shape[:axis], r, *shape[axis:]))
            out = reshape(wide, (*shape[:axis], r * shape[axis], *shape[axis + 1 :]))
    return clone(out) if out is x else out


def pad(x: Tensor, widths: Sequence[int], value: float = 0) -> Tensor:
    """Room before and after the last axes: torch's order, (left, right) of the last axis first.

    >>> import seqloom as sl
    >>> sl.ops.pad(sl.ones(2), (1, 2)).tolist()
    [0.0, 1.0, 1.0, 0.0, 0.0]
    """
    if len(widths) % 2 != 0 or len(widths) > 2 * x.ndim:
        raise ValueError(f"pad: widths must be at most {x.ndim} pairs, got {list(widths)}")
    if any(not isinstance(w, int) or w < 0 for w in widths):
        raise ValueError(f"pad: widths must not be negative, got {list(widths)}")
    out = x
    for pair in range(len(widths) // 2):
        axis = x.ndim - 1 - pair
        parts = []
        for width in widths[2 * pair : 2 * pair + 2]:
            shape = (*out.shape[:axis], width, *out.shape[axis + 1 :])
            parts.append(_core.full(shape, value, x._dtype_code, x.device))
        out = cat([parts[0], out, parts[1]], axis)
    return out
