# SPDX-License-Identifier: Apache-2.0
"""Tensors from nothing: zeros, ones, ranges and random numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import _core
from .dtypes import DType, as_dtype, float32, int64
from .methods import _flat
from .tensor import Scalar, Tensor, tensor


def _shape_of(caller: str, shape: tuple[Any, ...]) -> tuple[int, ...]:
    flat = _flat(shape)
    try:
        return tuple(s.__index__() for s in flat)
    except (AttributeError, TypeError):
        raise TypeError(f"{caller}: shape must be integers, got {flat!r}") from None


def _number(value: Any) -> Any:
    """Python's number of a NumPy scalar; anything else as it is."""
    return value.item() if isinstance(value, np.generic) and value.dtype.kind in "biuf" else value


def _check_range(caller: str, name: str, value: int, kind: DType) -> None:
    is_bool = kind.name == "bool"
    first = 0 if is_bool else int(np.iinfo(kind.numpy).min)
    last = 1 if is_bool else int(np.iinfo(kind.numpy).max)
    if not first <= value <= last:
        raise ValueError(
            f"{caller}: {name} must be in [{first}, {last}] for {kind.name}, got {value}"
        )


def full(
    shape: Any,
    fill_value: Scalar,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """A tensor of one value.

    >>> import seqloom as sl
    >>> sl.full((2,), 7).tolist()
    [7, 7]
    """
    fill_value = _number(fill_value)
    if dtype is None:
        kind = as_dtype(type(fill_value)) if isinstance(fill_value, (bool, int)) else float32
    else:
        kind = as_dtype(dtype)
    return _filled("full", shape, fill_value, kind, device, requires_grad)


def _filled(
    caller: str, shape: Any, value: Scalar, kind: DType, device: Any, requires_grad: bool
) -> Tensor:
    extents = _shape_of(caller, tuple(shape) if isinstance(shape, (tuple, list)) else (shape,))
    t = _core.full(extents, value, kind.code, "cpu" if device is None else str(device), caller)
    t.requires_grad = requires_grad
    return t


def zeros(
    *shape: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """Zeros, float32 by default.

    >>> import seqloom as sl
    >>> sl.zeros(2, 3).shape
    (2, 3)
    """
    kind = float32 if dtype is None else as_dtype(dtype)
    return _filled("zeros", _flat(shape), 0, kind, device, requires_grad)


def ones(*shape: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Ones, float32 by default.

    >>> import seqloom as sl
    >>> sl.ones(2).tolist()
    [1.0, 1.0]
    """
    kind = float32 if dtype is None else as_dtype(dtype)
    return _filled("ones", _flat(shape), 1, kind, device, requires_grad)


def empty(
    *shape: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """Memory with whatever it holds, float32 by default.

    >>> import seqloom as sl
    >>> sl.empty(4, 2).shape
    (4, 2)
    """
    t = _core.empty(
        _shape_of("empty", shape),
        (float32 if dtype is None else as_dtype(dtype)).code,
        "cpu" if device is None else str(device),
    )
    t.requires_grad = requires_grad
    return t


def zeros_like(t: Tensor) -> Tensor:
    """Zeros with the shape, dtype and device of `t`."""
    return _core.full(t.shape, 0, t._dtype_code, t.device)


def ones_like(t: Tensor) -> Tensor:
    """Ones with the shape, dtype and device of `t`."""
    return _core.full(t.shape, 1, t._dtype_code, t.device)


def empty_like(t: Tensor) -> Tensor:
    """Uninitialised, with the shape, dtype and device of `t`."""
    return _core.empty(t.shape, t._dtype_code, t.device)


def arange(
    start: Scalar,
    stop: Scalar | None = None,
    step: Scalar = 1,
    *,
    dtype: Any = None,
    device: Any = None,
) -> Tensor:
    """Evenly spaced values in [start, stop).

    >>> import seqloom as sl
    >>> sl.arange(3).tolist(), sl.arange(1, 2, 0.5).tolist()
    ([0, 1, 2], [1.0, 1.5])
    """
    start, stop, step = _number(start), _number(stop), _number(step)
    if stop is None:
        start, stop = 0, start
    for name, value in (("start", start), ("stop", stop), ("step", step)):
        if not isinstance(value, (int, float)):
            raise TypeError(f"arange: {name} must be a number, got {type(value).__name__}")
    if step == 0:
        raise ValueError("arange: step must not be 0")
    integral = all(isinstance(v, int) for v in (start, stop, step))
    kind = (int64 if integral else float32) if dtype is None else as_dtype(dtype)
    try:
        values = np.arange(start, stop, step)
    except (ValueError, OverflowError, MemoryError):
        raise ValueError(
            "arange: start, stop and step must give a number of values that fits in memory"
        ) from None
    if values.dtype == object:  # Python's integers, that no dtype of NumPy's holds
        raise ValueError("arange: start and stop must be within the range of int64")
    return tensor(values, dtype=kind, device=device)


def _random(caller: str, shape: Any, dtype: Any, device: Any, kind: int) -> Tensor:
    d = float32 if dtype is None else as_dtype(dtype)
    if not d.is_floating_point:
        raise TypeError(f"{caller}: dtype must be floating, got {d.name}")
    where = "cpu" if device is None else str(device)
    return _core.random(_shape_of(caller, shape), d.code, where, kind)


def rand(*shape: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Uniform numbers in [0, 1) from the default stream: the same on CPU and CUDA.

    >>> import seqloom as sl
    >>> sl.manual_seed(0)
    >>> x = sl.rand(2, 3)
    >>> x.shape, bool((x < 1).all())
    ((2, 3), True)
    """
    t = _random("rand", shape, dtype, device, 0)
    t.requires_grad = requires_grad
    return t


def randn(
    *shape: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """Standard normal numbers from the default stream: the same on CPU and CUDA.

    >>> import seqloom as sl
    >>> sl.manual_seed(0)
    >>> sl.randn(4).shape
    (4,)
    """
    t = _random("randn", shape, dtype, device, 1)
    t.requires_grad = requires_grad
    return t


def randint(
    low: int, high: int | None = None, size: Any = (), *, dtype: Any = None, device: Any = None
) -> Tensor:
    """Uniform integers in [low, high), int64 by default.

    >>> import seqloom as sl
    >>> bool((sl.randint(0, 5, (8,)) < 5).all())
    True
    """
    low, high = _number(low), _number(high)
    if high is None:
        low, high = 0, low
    if not isinstance(low, int) or not isinstance(high, int):
        raise TypeError("randint: low and high must be integers")
    if high <= low:
        raise ValueError(f"randint: high must be above low = {low}, got {high}")
    d = int64 if dtype is None else as_dtype(dtype)
    if not d.is_floating_point:
        _check_range("randint", "low", low, d)
        _check_range("randint", "high - 1", high - 1, d)
        high = min(high, 2**63 - 1)  # of an int64 the last value is out of reach
    where = "cpu" if device is None else str(device)
    extents = _shape_of("randint", tuple(size) if isinstance(size, (tuple, list)) else (size,))
    return _core.random_integers(extents, low, high, d.code, where)


def manual_seed(seed: int) -> None:
    """Start the default random stream afresh: dropout, sampling and initialisation follow it.

    >>> import seqloom as sl
    >>> sl.manual_seed(1); a = sl.rand(3)
    >>> sl.manual_seed(1); bool((a == sl.rand(3)).all())
    True
    """
    seed = _number(seed)
    if not isinstance(seed, int):
        raise TypeError(f"manual_seed: seed must be an integer, got {type(seed).__name__}")
    _core.manual_seed(seed % 2**64)


def get_random_state() -> tuple[int, int]:
    """Where the default random stream is: its seed and how far it has come.

    >>> import seqloom as sl
    >>> state = sl.get_random_state(); a = sl.rand(3)
    >>> sl.set_random_state(state); bool((a == sl.rand(3)).all())
    True
    """
    seed, offset = _core.random_state()
    return seed, offset


def set_random_state(state: tuple[int, int]) -> None:
    """Go on where :func:`get_random_state` was called."""
    numbers = isinstance(state, (tuple, list)) and len(state) == 2
    if not numbers or not all(isinstance(n, int) for n in state):
        raise TypeError("set_random_state: state must be what get_random_state gave")
    seed, offset = state
    if not (0 <= seed < 2**64 and 0 <= offset < 2**64):
        raise ValueError(
            f"set_random_state: seed and offset must be in [0, 2^64), got {seed} and {offset}"
        )
    _core.set_random_state(seed, offset)
