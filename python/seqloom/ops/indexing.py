# SPDX-License-Identifier: Apache-2.0
"""``x[key]`` and ``x[key] = value`` with NumPy's rules.

Integers, slices, None and Ellipsis give a view. Masks and integer arrays give a copy: the basic
part of the key is applied first, masks become integer arrays, and the arrays broadcast to one
shape. Its axes come where the arrays stood when those are neighbours, else first.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .. import _core
from ..autograd import Node, record, record_in_place
from ..tensor import Tensor, from_dlpack, from_numpy, tensor
from .layout import permute
from .selection import take

__all__ = ["getitem", "setitem"]

Gradients = tuple["Tensor | None", ...]


def getitem(x: Tensor, key: Any) -> Tensor:
    """``x[key]``: a view for integers, slices, None and Ellipsis, a copy for masks and arrays.

    Examples
    --------
    >>> import seqloom as sl
    >>> x = sl.tensor([[1, 2, 3], [4, 5, 6]])
    >>> x[1, ::-1].tolist(), x[:, [2, 0]].tolist(), x[x > 4].tolist()
    ([6, 5, 4], [[3, 1], [6, 4]], [5, 6])
    """
    y = _core.index(x, key)
    if y is None:
        plan = _plan("getitem", x, key)
        source = getitem(x, plan.basic) if plan.basic else x
        if plan.order is not None:
            source = permute(source, plan.order)
        return take("getitem", source, plan.first, plan.indices)
    if x._needs_grad:
        record(y, "getitem", (x,), _getitem_backward, (), (x.shape, key))
    y._set_base(x)
    return y


def _view(x: Tensor, key: Any) -> Tensor:
    """``x[key]`` of a key without masks and arrays."""
    return _core.index(x, key)  # type: ignore[return-value]  # None is for masks and arrays only


def _getitem_backward(node: Node, grad: Tensor) -> Gradients:
    shape, key = node.context
    out = _core.full(shape, 0, grad._dtype_code, grad.device)
    _core.copy_(_view(out, key), grad)
    return (out,)


def setitem(x: Tensor, key: Any, value: Any) -> None:
    """``x[key] = value``, in place; where positions repeat the last value stays.

    Examples
    --------
    >>> import seqloom as sl
    >>> x = sl.zeros(3)
    >>> x[1:] = sl.tensor([5.0, 6.0])
    >>> x.tolist()
    [0.0, 5.0, 6.0]
    """
    source = _value(x, value)
    records = _core.check_in_place("setitem", x, source)
    shown = _core.index(x, key, "setitem")
    if shown is not None:
        _check_fits(shown.shape, source.shape)
        _core.copy_(shown, _squeezed(source.detach(), shown.ndim))
        plan = None
    else:
        plan = _plan("setitem", x, key)
        target = x.detach()
        if plan.basic:
            target = _view(target, plan.basic)
        if plan.order is not None:
            target = _core.permute(target, plan.order)
        _core.put(target, plan.first, plan.indices, source.detach(), plan.unique)
    if records:
        context: tuple[Any, tuple[int, ...], tuple[int, ...] | None]
        if plan is None:
            context = (key, source.shape, None)
        else:
            # Of values written to one place only the last has a gradient.
            context = (plan, source.shape, None if plan.unique else x.shape)
        record_in_place(x, "setitem", (x, source), _setitem_backward, (), context)


def _value(x: Tensor, value: Any) -> Tensor:
    """`value` in x's dtype and on its device."""
    if isinstance(value, Tensor):
        if value._dtype_code == x._dtype_code and value.device == x.device:
            return value
        if value.device != x.device and value.size != 1:
            raise ValueError(
                f"setitem: value must be on the device of the tensor = {x.device}, got"
                f" {value.device}"
            )
        return value.to(device=x.device, dtype=x.dtype)
    if isinstance(value, (bool, int, float)):
        filled: Tensor = _core.full((), value, x._dtype_code, x.device, "setitem")
        return filled
    if not isinstance(value, (np.ndarray, np.generic, list, tuple)) and not hasattr(
        value, "__dlpack__"
    ):
        raise TypeError(f"setitem: value must be a number or an array, got {type(value).__name__}")
    return tensor(value, dtype=x.dtype, device=x.device)


def _check_fits(shape: tuple[int, ...], given: tuple[int, ...]) -> None:
    extra = len(given) - len(shape)
    fits = all(g == 1 for g in given[: max(0, extra)]) and all(
        g in (1, s) for g, s in zip(given[max(0, extra) :], shape[max(0, -extra) :], strict=True)
    )
    if not fits:
        raise ValueError(f"setitem: value must broadcast to shape {list(shape)}, got {list(given)}")


def _squeezed(source: Tensor, ndim: int) -> Tensor:
    extra = source.ndim - ndim
    return source if extra <= 0 else _core.reshape(source, source.shape[extra:])


def _setitem_backward(node: Node, grad: Tensor) -> Gradients:
    key, shape, repeated = node.context
    of_x: Tensor = _core.clone(grad)
    zero = _core.full((), 0, grad._dtype_code, grad.device)
    if not isinstance(key, _Plan):
        picked = _view(grad, key)
        _core.copy_(_view(of_x, key), zero)
    else:

        def through(t: Tensor) -> Tensor:
            t = _view(t, key.basic) if key.basic else t
            return t if key.order is None else _core.permute(t, key.order)

        picked, _ = _core.take("setitem", through(grad), key.first, key.indices)
        _core.put(through(of_x), key.first, key.indices, zero, key.unique)
        if repeated is not None:
            # Number the written places; what reads its own number back was the last one there.
            count = picked.size
            numbers = _core.reshape(_count(count, grad.device), picked.shape)
            board = _core.full(repeated, 0, 4, grad.device)
            _core.put(through(board), key.first, key.indices, numbers, False)
            last, _ = _core.take("setitem", through(board), key.first, key.indices)
            wins = _core.convert(_core.eq(last, numbers), grad._dtype_code, grad.device, False)
            picked = _core.mul(picked, wins)
    if picked.ndim < len(shape):
        picked = _core.reshape(picked, (1,) * (len(shape) - picked.ndim) + picked.shape)
    return of_x, _core.sum_to(picked, shape, picked._dtype_code)


def _count(n: int, device: str) -> Tensor:
    return from_numpy(np.arange(n)).to(device=device)


# ---- keys with masks and arrays -----------------------------------------------------------------


class _Plan(NamedTuple):
    basic: tuple[Any, ...] | None  # the view to take first
    order: tuple[int, ...] | None  # then this permutation
    first: int  # the arrays run over the axes from here on
    indices: tuple[Tensor, ...]
    unique: bool  # no position is named twice


def _as_array(name: str, entry: Any) -> Tensor:
    """A mask or an int64 array."""
    if isinstance(entry, Tensor):
        t = entry.detach()
    elif isinstance(entry, (bool, np.bool_)):
        t = from_numpy(np.asarray(bool(entry)))
    elif isinstance(entry, (list, np.ndarray, np.generic, range)):
        try:
            values = np.asarray(
                [e.tolist() if isinstance(e, Tensor) else e for e in entry]
                if isinstance(entry, list)
                else entry
            )
        except ValueError:
            raise IndexError(f"{name}: a list in the key must be rectangular") from None
        if values.size == 0 and isinstance(entry, list):
            values = values.astype(np.int64)
        if values.dtype.kind not in "iub":
            raise IndexError(
                f"{name}: arrays in the key must be integers or masks, got {values.dtype}"
            )
        t = tensor(values)
    elif hasattr(entry, "__dlpack__"):
        t = from_dlpack(entry)
    else:
        raise IndexError(
            f"{name}: key must be integers, slices, None, Ellipsis, masks or integer arrays, got"
            f" {type(entry).__name__}"
        )
    if t._dtype_code < 4:
        raise IndexError(f"{name}: arrays in the key must be integers or masks, got {t.dtype.name}")
    if t._dtype_code not in (4, 8):
        t = _core.convert(t, 4, t.device, False)
    return t


def _plan(name: str, x: Tensor, key: Any) -> _Plan:
    entries = list(key) if isinstance(key, tuple) else [key]
    arrays: dict[int, Tensor] = {}
    used = 0
    for i, e in enumerate(entries):
        if e is None or e is Ellipsis:
            continue
        if isinstance(e, slice) or (isinstance(e, (int, np.integer)) and not isinstance(e, bool)):
            used += 1
            continue
        arrays[i] = t = _as_array(name, e)
        used += t.ndim if t._dtype_code == 8 else 1
    if used > x.ndim:
        raise IndexError(f"{name}: key must have at most {x.ndim} indices, got {used}")
    if sum(e is Ellipsis for e in entries) > 1:
        raise IndexError(f"{name}: key must have at most one ellipsis")

    basic: list[Any] = []
    places: list[int] = []  # axes of the view that the arrays run over
    indices: list[Tensor] = []
    axis = 0  # of x
    shown = 0  # of the view
    runs = 0  # groups of neighbouring arrays and integers
    start = 0  # axes of the view before the first of them
    inside = False
    masks_only = True
    for i, e in enumerate(entries):
        advanced = i in arrays or (isinstance(e, (int, np.integer)) and not isinstance(e, bool))
        if advanced and not inside:
            runs += 1
            start = shown if runs == 1 else start
        inside = advanced
        if e is Ellipsis:
            n = x.ndim - used
            basic += [slice(None)] * n
            axis += n
            shown += n
        elif e is None:
            basic.append(None)
            shown += 1
        elif isinstance(e, slice):
            basic.append(e)
            axis += 1
            shown += 1
        elif i not in arrays:
            basic.append(e)
            axis += 1
        elif arrays[i]._dtype_code != 8:
            masks_only = False
            indices.append(arrays[i])
            basic.append(slice(None))
            places.append(shown)
            axis += 1
            shown += 1
        else:
            mask = arrays[i]
            wanted = x.shape[axis : axis + mask.ndim]
            if mask.shape != wanted:
                raise IndexError(
                    f"{name}: a mask for axes {axis} to {axis + mask.ndim - 1} must have shape"
                    f" {list(wanted)}, got {list(mask.shape)}"
                )
            if mask.ndim == 0:  # x[True]: a new axis with one position or none
                basic.append(None)
                indices.append(from_numpy(np.zeros(int(bool(mask)), np.int64)))
                places.append(shown)
                shown += 1
            else:
                indices += _core.nonzero(mask.cpu())
                basic += [slice(None)] * mask.ndim
                places += range(shown, shown + mask.ndim)
                axis += mask.ndim
                shown += mask.ndim
    total = shown + x.ndim - axis
    indices = [t if t.device == x.device else t.to(device=x.device) for t in indices]
    neighbours = runs == 1
    first = start if neighbours else 0
    order: tuple[int, ...] | None = None
    if not neighbours and places != list(range(len(places))):
        order = (*places, *(a for a in range(total) if a not in places))
    plain = all(isinstance(b, slice) and b == slice(None) for b in basic)
    return _Plan(
        None if plain else tuple(basic),
        order,
        first,
        tuple(indices),
        masks_only and len(arrays) == 1,
    )
