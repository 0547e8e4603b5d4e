# SPDX-License-Identifier: Apache-2.0
"""The state of a module: walking it, and loading it all or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..tensor import Tensor, _native, from_dlpack, from_numpy, tensor
from .parameter import Parameter

if TYPE_CHECKING:
    from .module import Module

_SHOWN = 20  # names of each kind that an error lists


class Mismatch(NamedTuple):
    """What :meth:`Module.load_state_dict` with ``strict=False`` passed over."""

    missing_keys: list[str]
    unexpected_keys: list[str]


def own_parameters(
    module: Module, prefix: str, recurse: bool = True
) -> Iterator[tuple[str, Parameter]]:
    """(path, parameter), a tied one under each of its names."""
    for name, value in list(module.__dict__.items()):
        if isinstance(value, Parameter):
            yield f"{prefix}.{name}" if prefix else name, value
    if recurse:
        for name, child in module.named_children():
            yield from own_parameters(child, f"{prefix}.{name}" if prefix else name)


def entries(module: Module, prefix: str) -> Iterator[tuple[str, Tensor]]:
    """What a checkpoint holds, in torch's order: parameters, buffers, then the children's."""
    yield from own_parameters(module, prefix, recurse=False)
    for name, persistent in module._buffer_names.items():
        value = getattr(module, name)
        if persistent and value is not None:
            yield f"{prefix}.{name}" if prefix else name, value
    for name, child in module.named_children():
        yield from entries(child, f"{prefix}.{name}" if prefix else name)


def _as_tensor(name: str, value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, (np.ndarray, np.generic)):
        return from_numpy(_native(np.asarray(value), None))
    if hasattr(value, "__dlpack__"):
        detach = getattr(value, "detach", None)
        return from_dlpack(value if detach is None else detach())
    if isinstance(value, (bool, int, float, list, tuple)):
        return tensor(value)
    raise TypeError(f"load_state_dict: {name} must be an array, got {type(value).__name__}")


def _listed(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def load(module: Module, state: Mapping[str, Any], strict: bool, assign: bool) -> Mismatch:
    """See :meth:`Module.load_state_dict`."""
    if not isinstance(state, Mapping):
        raise TypeError(
            f"load_state_dict: state_dict must be a mapping, got {type(state).__name__}"
        )
    own = dict(entries(module, ""))
    missing = [name for name in own if name not in state]
    unexpected = [str(name) for name in state if name not in own]
    given = {name: _as_tensor(name, state[name]) for name in own if name in state}
    wrong = [
        f"{name} must have shape {list(own[name].shape)}, got {list(t.shape)}"
        for name, t in given.items()
        if t.shape != own[name].shape
    ]
    faults = []
    if strict and missing:
        faults.append(f"missing {_listed(missing)}")
    if strict and unexpected:
        faults.append(f"unexpected {_listed(unexpected)}")
    faults += wrong[:_SHOWN] + ([f"{len(wrong) - _SHOWN} more shapes"] if wrong[_SHOWN:] else [])
    if faults:
        raise ValueError(
            f"load_state_dict: state_dict must fit {type(module).__name__}, got "
            + "; ".join(faults)
        )
    for name, t in given.items():
        target = own[name]
        if assign:
            target._adopt(t.to(device=target.device))
        else:
            target.detach().copy_(t.to(device=target.device, dtype=target.dtype))
    return Mismatch(missing, unexpected)
