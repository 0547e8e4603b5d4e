# SPDX-License-Identifier: Apache-2.0
"""Mixed precision: float32 weights that are trained, 16-bit copies of them that compute.

Outside of :class:`MixedPrecision` a model is what it was, float32, and so are its gradients: the
optimizer, clipping and checkpoints never meet a 16-bit number. Inside, parameters and buffers show
their copies to forward and backward; on the way out the 16-bit gradients of this pass are added to
the float32 ones. bfloat16 has float32's range, so no loss scaling is needed.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

from ..dtypes import as_dtype, float32
from ..nn import Module
from ..tensor import Tensor

PRECISIONS = ("float32", "bfloat16")


class FullPrecision:
    """The model as it is; losses are scaled before backward."""

    name = "float32"

    def __enter__(self) -> None:
        return None

    def __exit__(self, *error: Any) -> None:
        return None

    def backward(self, loss: Tensor, share: float) -> None:
        """Add `share` times the gradients of `loss` to those of the parameters."""
        (loss if share == 1.0 else loss * share).backward()

    def changed(self) -> None:
        """Called when the weights have changed."""


class MixedPrecision(FullPrecision):
    """Let a float32 model compute in a 16-bit dtype.

    Parameters
    ----------
    model : Module
        Its float32 parameters and buffers take part; the rest stays as it is.
    dtype : "bfloat16"

    Examples
    --------
    >>> import seqloom as sl
    >>> model = sl.nn.Linear(4, 2)
    >>> mixed = MixedPrecision(model, "bfloat16")
    >>> with mixed:
    ...     loss = model(sl.ones(1, 4, dtype="bfloat16")).sum()
    ...     mixed.backward(loss, 1.0)
    >>> loss.dtype, model.weight.dtype, model.weight.grad.dtype
    (seqloom.bfloat16, seqloom.float32, seqloom.float32)
    """

    def __init__(self, model: Module, dtype: str = "bfloat16") -> None:
        self.name = dtype
        kind = as_dtype(dtype)
        self._parameters = [p for p in model.parameters() if p.dtype is float32]
        self._buffers = [
            (module, name)
            for module in model.modules()
            for name in module._buffer_names
            if getattr(module, name) is not None and getattr(module, name).dtype is float32
        ]
        self._copies = [p.detach().to(dtype=kind) for p in self._parameters]
        self._buffer_copies = [getattr(m, n).to(dtype=kind) for m, n in self._buffers]
        self._stale = False
        self._share = 1.0
        self._kept: list[tuple[Tensor, Tensor | None]] = []
        self._kept_buffers: list[Tensor] = []

    def __enter__(self) -> None:
        self._kept = [(p.detach(), p.grad) for p in self._parameters]
        self._kept_buffers = [getattr(m, n) for m, n in self._buffers]
        for p, copy, (master, _) in zip(self._parameters, self._copies, self._kept, strict=True):
            if self._stale:
                copy.copy_(master)
            p.grad = None
            p._adopt(copy)
        for (module, name), held in zip(self._buffers, self._buffer_copies, strict=True):
            setattr(module, name, held)
        self._stale = False

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for p, (master, total) in zip(self._parameters, self._kept, strict=True):
            fresh, p.grad = p.grad, None
            p._adopt(master)
            if fresh is not None and error is None:
                wide = fresh.to(dtype=float32)
                if self._share != 1.0:
                    wide = wide.mul_(self._share)
                total = wide if total is None else total.add_(wide)
            p.grad = total
        for (module, name), held in zip(self._buffers, self._kept_buffers, strict=True):
            setattr(module, name, held)
        self._kept, self._kept_buffers, self._share = [], [], 1.0

    def backward(self, loss: Tensor, share: float) -> None:
        """Gradients of `loss`; `share` is applied in float32, on the way out."""
        self._share = share
        loss.backward()

    def changed(self) -> None:
        """Make the copies anew before they are used again."""
        self._stale = True


def precision_of(model: Module, name: str) -> FullPrecision:
    """The way of computing called `name`."""
    if name not in PRECISIONS:
        raise ValueError(f"Trainer: precision must be 'float32' or 'bfloat16', got {name!r}")
    return FullPrecision() if name == "float32" else MixedPrecision(model, name)
