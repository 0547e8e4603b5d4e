# SPDX-License-Identifier: Apache-2.0
"""Anybody's arrays into the kernels and back: NumPy in gives NumPy out, torch in gives torch out.

A public function of ``sl.ops`` works on Tensors and carries the decorator :func:`public`, which
turns other arrays into Tensors over the same memory and the results into the caller's kind.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np

from ..tensor import Tensor, _native, from_dlpack, from_numpy

F = TypeVar("F", bound=Callable[..., Any])

# Types that go straight to the op; a room with a subclass of Tensor adds it here.
PLAIN: set[type] = {Tensor, type(None), bool, int, float, str, tuple, dict}


def public(function: F) -> F:
    """Let `function`, written for Tensors, take and give anybody's arrays."""
    name = function.__name__
    plain = PLAIN

    @functools.wraps(function)
    def on_any_array(*args: Any, **kwargs: Any) -> Any:
        for a in args:
            if type(a) not in plain:
                return _on_foreign(function, args, kwargs)
        for a in kwargs.values():
            if type(a) not in plain:
                return _on_foreign(function, args, kwargs)
        try:
            return function(*args, **kwargs)
        except TypeError as error:
            raise _readable(name, error, args, kwargs) from None

    return cast(F, on_any_array)


def on_tensors(function: F) -> F:
    """A public function without its detour, for callers that hold Tensors and count time."""
    return cast(F, function.__wrapped__)  # type: ignore[attr-defined]


def _on_foreign(function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    give: Callable[[Tensor], Any] | None = None
    tensors = False

    def take(value: Any) -> Any:
        nonlocal give, tensors
        if isinstance(value, Tensor):
            tensors = True
            return value
        if isinstance(value, (np.ndarray, np.generic)):
            if isinstance(value, np.generic) and value.ndim == 0 and not isinstance(value, np.void):
                return value.item()
            t = from_numpy(_native(np.asarray(value), None))
            give = give or Tensor.numpy
            return t
        if hasattr(value, "__dlpack__") or hasattr(value, "__cuda_array_interface__"):
            if getattr(value, "requires_grad", False):
                raise TypeError(
                    f"{function.__name__}: an array of another library that requires a gradient"
                    " can't be followed; detach it, or use sl.tensor"
                )
            t = from_dlpack(value)
            give = _exporter(value)
            return t
        if isinstance(value, tuple) and any(hasattr(v, "__array__") for v in value):
            return tuple(take(v) for v in value)
        return value

    new_args = [take(a) for a in args]
    new_kwargs = {k: take(v) for k, v in kwargs.items()}
    try:
        result = function(*new_args, **new_kwargs)
    except TypeError as error:
        raise _readable(function.__name__, error, args, kwargs) from None
    if tensors or give is None:
        return result
    if isinstance(result, tuple):
        return tuple(give(r) if isinstance(r, Tensor) else r for r in result)
    return give(result) if isinstance(result, Tensor) else result


def _exporter(value: Any) -> Callable[[Tensor], Any]:
    """How the library of `value` makes an array of ours its own."""
    root = type(value).__module__.partition(".")[0]
    library = sys.modules.get({"jaxlib": "jax"}.get(root, root))
    for place in (library, getattr(library, "dlpack", None), getattr(library, "numpy", None)):
        convert = getattr(place, "from_dlpack", None)
        if convert is not None:
            return cast(Callable[[Tensor], Any], convert)
    raise TypeError(f"{type(value).__module__}: has no from_dlpack to give the result back with")


def _readable(name: str, error: TypeError, args: Any, kwargs: Any) -> TypeError:
    """pybind11's list of overloads and values, as one line of ours."""
    text = str(error)
    if "incompatible function arguments" not in text:
        return (
            error
            if text.startswith(f"{name}:")
            else TypeError(f"{name}: {text.removeprefix(name + '() ')}")
        )
    wanted = text.partition("1. ")[2].splitlines()
    signature = wanted[0].partition("(")[2].rpartition(")")[0] if wanted else ""
    signature = signature.replace("TensorBase", "Tensor").replace("typing.", "")
    given = [_kind(a) for a in args] + [f"{k}: {_kind(v)}" for k, v in kwargs.items()]
    return TypeError(f"{name}: arguments must be ({signature}), got ({', '.join(given)})")


def _kind(value: Any) -> str:
    shape = getattr(value, "shape", None)
    kind = type(value).__name__
    if shape is None:
        return kind
    return f"{kind} of {getattr(value, 'dtype', 'no dtype')} {list(shape)}"
