# SPDX-License-Identifier: Apache-2.0
"""seqloom: sequence models, from the plain RNN to the LLM, in one small wheel."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from . import _core as _core
from . import autograd as autograd
from . import ops as ops
from . import tensor as _tensor
from ._version import __version__
from .autograd import checkpoint, enable_grad, is_grad_enabled, no_grad
from .creation import (
    arange,
    empty,
    empty_like,
    full,
    get_random_state,
    manual_seed,
    ones,
    ones_like,
    rand,
    randint,
    randn,
    set_random_state,
    zeros,
    zeros_like,
)
from .dtypes import (
    DType,
    as_dtype,
    bfloat16,
    bool_,
    float16,
    float32,
    float64,
    int8,
    int32,
    int64,
    uint8,
)
from .ops import cat, einsum, maximum, minimum, stack, where
from .tensor import Tensor, from_dlpack, from_numpy, tensor

_tensor._bind(ops, autograd)


def get_num_threads() -> int:
    """How many threads a CPU kernel may use."""
    return _core.get_num_threads()


def set_num_threads(n: int) -> None:
    """Let CPU kernels use `n` threads; results do not depend on it.

    >>> import seqloom as sl
    >>> before = sl.get_num_threads()
    >>> sl.set_num_threads(1); sl.get_num_threads()
    1
    >>> sl.set_num_threads(before)
    """
    if not isinstance(n, int) or isinstance(n, bool):
        raise TypeError(f"set_num_threads: n must be an integer, got {type(n).__name__}")
    if not -(2**31) <= n < 2**31:
        raise ValueError(f"set_num_threads: n must be in [1, 256], got {n}")
    _core.set_num_threads(n)


_LAZY_FUNCTIONS = {"show_config": "config"}
# Rooms that load when they are first entered, so that `import seqloom` stays quick.
_LAZY = (
    "bench",
    "cuda",
    "data",
    "generation",
    "models",
    "nn",
    "optim",
    "plot",
    "text",
    "train",
    "weights",
)

if TYPE_CHECKING:
    from . import cuda
    from .config import show_config


def __getattr__(name: str) -> Any:
    if name in _LAZY_FUNCTIONS:
        return getattr(importlib.import_module(f"{__name__}.{_LAZY_FUNCTIONS[name]}"), name)
    if name in _LAZY:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module 'seqloom' has no attribute {name!r}")
