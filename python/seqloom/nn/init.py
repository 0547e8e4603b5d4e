# SPDX-License-Identifier: Apache-2.0
"""Initialisers, torch's by name: they fill a tensor in place and return it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np

from ..creation import rand, randn
from ..tensor import Tensor, from_numpy

T = TypeVar("T", bound=Tensor)
_skipping = False
_shapes_only = False


@contextmanager
def skip() -> Iterator[None]:
    """Inside, initialisers do nothing: for modules whose values come from a checkpoint.

    >>> import seqloom as sl
    >>> with sl.nn.init.skip():
    ...     layer = sl.nn.Linear(1000, 1000)
    """
    global _skipping
    before, _skipping = _skipping, True
    try:
        yield
    finally:
        _skipping = before


@contextmanager
def shapes_only() -> Iterator[None]:
    """Inside, parameters have a shape and no memory: a checkpoint's tensors take their places.

    >>> import seqloom as sl
    >>> with sl.nn.init.shapes_only():
    ...     layer = sl.nn.Linear(10**6, 10**6)
    >>> layer.weight.shape, layer.weight.is_contiguous()
    ((1000000, 1000000), False)
    """
    global _shapes_only
    before, _shapes_only = _shapes_only, True
    try:
        with skip():
            yield
    finally:
        _shapes_only = before


def only_shapes() -> bool:
    """Whether :func:`shapes_only` is on: a large buffer needs no memory yet, either."""
    return _shapes_only


def _fill(t: T, values: Tensor) -> T:
    t.detach().copy_(values)
    return t


def uniform_(tensor: T, a: float = 0.0, b: float = 1.0) -> T:
    """Uniform in [a, b).

    >>> import seqloom as sl
    >>> 1 <= sl.nn.init.uniform_(sl.empty(3), 1, 2).min().item() < 2
    True
    """
    if _skipping:
        return tensor
    return _fill(tensor, rand(*tensor.shape, device=tensor.device) * (b - a) + a)


def normal_(tensor: T, mean: float = 0.0, std: float = 1.0) -> T:
    """Normal with this mean and standard deviation."""
    if _skipping:
        return tensor
    return _fill(tensor, randn(*tensor.shape, device=tensor.device) * std + mean)


def trunc_normal_(
    tensor: T, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0
) -> T:
    """Normal, drawn again wherever it falls outside [a, b]."""
    if not a < b:
        raise ValueError(f"trunc_normal_: a must be below b, got {a} and {b}")
    if _skipping:
        return tensor
    values = (randn(*tensor.shape) * std + mean).numpy()
    for _ in range(100):
        outside = np.flatnonzero((values.ravel() < a) | (values.ravel() > b))
        if outside.size == 0:
            break
        values.ravel()[outside] = (randn(outside.size) * std + mean).numpy()
    return _fill(tensor, from_numpy(np.clip(values, a, b)).to(device=tensor.device))


def constant_(tensor: T, val: float) -> T:
    """One value everywhere."""
    if not _skipping:
        tensor.detach().fill_(val)
    return tensor


def zeros_(tensor: T) -> T:
    return constant_(tensor, 0.0)


def ones_(tensor: T) -> T:
    return constant_(tensor, 1.0)


def eye_(tensor: T) -> T:
    """The identity matrix."""
    if tensor.ndim != 2:
        raise ValueError(f"eye_: tensor must be a matrix, got shape {list(tensor.shape)}")
    if _skipping:
        return tensor
    eye = np.eye(*tensor.shape, dtype=np.float32)
    return _fill(tensor, from_numpy(eye).to(device=tensor.device))


def _fans(op: str, tensor: Tensor) -> tuple[int, int]:
    """Inputs and outputs of a weight [out, in, ...]."""
    if tensor.ndim < 2:
        raise ValueError(f"{op}: tensor must have at least 2 axes, got {list(tensor.shape)}")
    field = math.prod(tensor.shape[2:])
    return tensor.shape[1] * field, tensor.shape[0] * field


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor that keeps the variance through a nonlinearity.

    >>> import seqloom as sl
    >>> sl.nn.init.calculate_gain("tanh")
    1.6666666666666667
    """
    if nonlinearity == "leaky_relu":
        return math.sqrt(2.0 / (1 + (0.01 if param is None else param) ** 2))
    gains = {
        "linear": 1.0,
        "sigmoid": 1.0,
        "tanh": 5.0 / 3,
        "relu": math.sqrt(2.0),
        "selu": 0.75,
    }
    if nonlinearity not in gains:
        raise ValueError(
            f"calculate_gain: nonlinearity must be one of {', '.join(gains)}, leaky_relu, got"
            f" {nonlinearity!r}"
        )
    return gains[nonlinearity]


def xavier_uniform_(tensor: T, gain: float = 1.0) -> T:
    """Glorot's uniform: bound gain sqrt(6 / (in + out))."""
    fan_in, fan_out = _fans("xavier_uniform_", tensor)
    bound = gain * math.sqrt(6.0 / max(1, fan_in + fan_out))
    return uniform_(tensor, -bound, bound)


def xavier_normal_(tensor: T, gain: float = 1.0) -> T:
    """Glorot's normal: standard deviation gain sqrt(2 / (in + out))."""
    fan_in, fan_out = _fans("xavier_normal_", tensor)
    return normal_(tensor, 0.0, gain * math.sqrt(2.0 / max(1, fan_in + fan_out)))


def _he(op: str, tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    fan_in, fan_out = _fans(op, tensor)
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"{op}: mode must be 'fan_in' or 'fan_out', got {mode!r}")
    fan = fan_in if mode == "fan_in" else fan_out
    return calculate_gain(nonlinearity, a) / math.sqrt(max(1, fan))


def kaiming_uniform_(
    tensor: T, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu"
) -> T:
    """He's uniform: bound gain sqrt(3 / fan)."""
    bound = math.sqrt(3.0) * _he("kaiming_uniform_", tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound)


def kaiming_normal_(
    tensor: T, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu"
) -> T:
    """He's normal: standard deviation gain / sqrt(fan)."""
    return normal_(tensor, 0.0, _he("kaiming_normal_", tensor, a, mode, nonlinearity))


def orthogonal_(tensor: T, gain: float = 1.0) -> T:
    """Orthonormal rows or columns, whichever are fewer; trailing axes are flattened.

    >>> import seqloom as sl
    >>> w = sl.nn.init.orthogonal_(sl.empty(2, 5))
    >>> (w @ w.T).numpy().round(3)
    array([[1., 0.],
           [0., 1.]], dtype=float32)
    """
    if tensor.ndim < 2:
        raise ValueError(f"orthogonal_: tensor must have 2 axes, got {list(tensor.shape)}")
    if _skipping or tensor.size == 0:
        return tensor
    rows = tensor.shape[0]
    a = randn(rows, tensor.size // rows).numpy().astype(np.float64)
    wide = a.shape[0] < a.shape[1]
    q, r = np.linalg.qr(a.T if wide else a)
    q = q * np.sign(np.diag(r))
    values = np.ascontiguousarray(q.T if wide else q, np.float32) * np.float32(gain)
    return _fill(tensor, from_numpy(values.reshape(tensor.shape)).to(device=tensor.device))


def new_parameter(*shape: int, device: Any = None, dtype: Any = None) -> Any:
    """A Parameter with memory that nobody has filled yet."""
    from ..creation import empty
    from .parameter import Parameter

    if _shapes_only:
        return Parameter(empty(1, dtype=dtype).expand(*shape))
    return Parameter(empty(*shape, device=device, dtype=dtype))
