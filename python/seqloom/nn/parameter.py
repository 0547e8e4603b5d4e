# SPDX-License-Identifier: Apache-2.0
"""Parameter: the Tensor that a Module owns and an optimizer changes."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..ops import _arrays
from ..tensor import Tensor, tensor
from . import init


class Parameter(Tensor):
    """A leaf Tensor that modules find by its type. Ops on it give ordinary Tensors.

    Parameters
    ----------
    data : Tensor, array or nested sequence
        The memory of a Tensor is shared, everything else is copied.
    requires_grad : bool

    Examples
    --------
    >>> import seqloom as sl
    >>> p = sl.nn.Parameter([1.0, 2.0])
    >>> p.requires_grad, type(p * 2).__name__
    (True, 'Tensor')
    """

    __slots__ = ()

    def __new__(cls, data: Any, requires_grad: bool = True) -> Parameter:
        p = data.detach() if isinstance(data, Tensor) else tensor(data)
        p.__class__ = cls  # same layout: only the type differs
        p.requires_grad = requires_grad
        assert isinstance(p, Parameter)
        return p

    def __repr__(self) -> str:
        return f"Parameter containing:\n{super().__repr__()}"

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (self.detach().cpu().numpy(), self.device, self.requires_grad))

    def __deepcopy__(self, memo: dict[int, Any]) -> Parameter:
        values = self.detach() if init.only_shapes() else self.detach().clone()
        copy = Parameter(values, self.requires_grad)
        memo[id(self)] = copy
        return copy


def _rebuild(values: np.ndarray[Any, Any], device: str, requires_grad: bool) -> Parameter:
    return Parameter(tensor(values, device=device), requires_grad)


_arrays.PLAIN.add(Parameter)  # no detour through foreign arrays
