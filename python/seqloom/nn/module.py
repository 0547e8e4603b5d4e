# SPDX-License-Identifier: Apache-2.0
"""Module: a callable that owns parameters, buffers and other modules.

What a module owns is what its attributes hold, in the order of their first assignment; there is no
second registry, so reading ``self.weight`` is a plain attribute access.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, TypeVar

from ..dtypes import as_dtype
from ..tensor import Tensor
from . import state
from .parameter import Parameter

M = TypeVar("M", bound="Module")


class Module:
    """Base of every layer and model: assign parameters and modules, define ``forward``.

    Attributes
    ----------
    training : bool
        What :meth:`train` and :meth:`eval` set; dropout looks at it.

    Examples
    --------
    >>> import seqloom as sl
    >>> class Scale(sl.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.factor = sl.nn.Parameter([2.0])
    ...     def forward(self, x):
    ...         return x * self.factor
    >>> Scale()(sl.ones(3)).tolist()
    [2.0, 2.0, 2.0]
    >>> list(Scale().state_dict())
    ['factor']
    """

    training: bool = True
    _buffer_names: ClassVar[Mapping[str, bool]] = {}  # name: persistent
    _exact_buffers: ClassVar[frozenset[str]] = frozenset()  # those that keep their dtype

    forward: Callable[..., Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)

    # ---- what it owns ----------------------------------------------------------------------------

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Make `tensor` part of the module's state: moved by :meth:`to`, saved if `persistent`."""
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(
                f"register_buffer: tensor must be a Tensor or None, got {type(tensor).__name__}"
            )
        self.__dict__["_buffer_names"] = {**self._buffer_names, name: persistent}
        setattr(self, name, tensor)

    def register_parameter(self, name: str, parameter: Parameter | None) -> None:
        """The same as ``setattr``, for a name that is computed."""
        if parameter is not None and not isinstance(parameter, Parameter):
            raise TypeError(
                "register_parameter: parameter must be a Parameter or None, got"
                f" {type(parameter).__name__}"
            )
        setattr(self, name, parameter)

    def add_module(self, name: str, module: Module | None) -> None:
        """The same as ``setattr``, for a name that is computed."""
        setattr(self, name, module)

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """(name, module) of the modules held directly."""
        for name, value in list(self.__dict__.items()):
            if isinstance(value, Module):
                yield name, value

    def children(self) -> Iterator[Module]:
        return (m for _, m in self.named_children())

    def named_modules(
        self, prefix: str = "", memo: set[int] | None = None
    ) -> Iterator[tuple[str, Module]]:
        """(path, module) of this module and all below it, each once."""
        seen = set() if memo is None else memo
        if id(self) in seen:
            return
        seen.add(id(self))
        yield prefix, self
        for name, child in self.named_children():
            yield from child.named_modules(f"{prefix}.{name}" if prefix else name, seen)

    def modules(self) -> Iterator[Module]:
        return (m for _, m in self.named_modules())

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """(path, parameter), a tied parameter once, under its first name.

        >>> import seqloom as sl
        >>> [name for name, _ in sl.nn.Linear(2, 3).named_parameters()]
        ['weight', 'bias']
        """
        seen: set[int] = set()
        for name, p in state.own_parameters(self, prefix, recurse):
            if remove_duplicate:
                if id(p) in seen:
                    continue
                seen.add(id(p))
            yield name, p

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """The parameters, a tied one once."""
        return (p for _, p in self.named_parameters(recurse=recurse))

    def named_buffers(self, prefix: str = "", recurse: bool = True) -> Iterator[tuple[str, Tensor]]:
        """(path, buffer), saved or not."""
        for name in self._buffer_names:
            value = getattr(self, name)
            if value is not None:
                yield f"{prefix}.{name}" if prefix else name, value
        if recurse:
            for name, child in self.named_children():
                yield from child.named_buffers(f"{prefix}.{name}" if prefix else name)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        return (b for _, b in self.named_buffers(recurse=recurse))

    def get_submodule(self, path: str) -> Module:
        """The module at a dotted path; the empty path is this module."""
        found: Module = self
        for name in path.split(".") if path else ():
            below = dict(found.named_children())
            if name not in below:
                raise ValueError(
                    f"get_submodule: path must lead to a module, got {path!r} ({name!r} is not in"
                    f" {type(found).__name__})"
                )
            found = below[name]
        return found

    def num_parameters(self, trainable_only: bool = False) -> int:
        """Number of elements of all parameters, tied ones counted once.

        >>> import seqloom as sl
        >>> sl.nn.Linear(2, 3).num_parameters()
        9
        """
        return sum(p.size for p in self.parameters() if p.requires_grad or not trainable_only)

    # ---- state -----------------------------------------------------------------------------------

    def state_dict(self, prefix: str = "") -> dict[str, Tensor]:
        """Parameters and persistent buffers by torch's names, sharing the module's memory."""
        return {name: t.detach() for name, t in state.entries(self, prefix)}

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> state.Mismatch:
        """Copy the values of a state into the module; nothing changes when they don't fit.

        Parameters
        ----------
        state_dict : mapping of names to arrays
            NumPy arrays, Tensors or torch tensors; converted to the parameters' dtypes.
        strict : bool
            Whether names may be missing or unexpected. Wrong shapes never may.
        assign : bool
            Take over the arrays themselves, with their dtype and memory, instead of copying.

        Returns
        -------
        (missing_keys, unexpected_keys) : named tuple of lists

        Examples
        --------
        >>> import numpy as np, seqloom as sl
        >>> layer = sl.nn.Linear(2, 1)
        >>> layer.load_state_dict({"weight": np.ones((1, 2)), "bias": np.zeros(1)})
        Mismatch(missing_keys=[], unexpected_keys=[])
        """
        return state.load(self, state_dict, strict, assign)

    # ---- modes, places, gradients ----------------------------------------------------------------

    def train(self: M, mode: bool = True) -> M:
        """Set training mode here and below."""
        for m in self.modules():
            m.training = mode
        return self

    def eval(self: M) -> M:
        """Leave training mode: dropout lets everything through."""
        return self.train(False)

    def to(self: M, *args: Any, device: Any = None, dtype: Any = None) -> M:
        """Move parameters, buffers and gradients, in place; `dtype` concerns floating ones only.

        >>> import seqloom as sl
        >>> sl.nn.Linear(2, 2).to("bfloat16").weight.dtype
        seqloom.bfloat16
        """
        for a in args:
            if isinstance(a, str) and (a == "cpu" or a.startswith("cuda")):
                device = a
            elif isinstance(a, Tensor):
                device, dtype = a.device, a.dtype
            elif a is not None:
                dtype = a
        wanted = None if dtype is None else as_dtype(dtype)
        if wanted is not None and not wanted.is_floating_point:
            raise TypeError(f"to: dtype of a module must be floating, got {wanted.name}")

        def moved(t: Tensor) -> Tensor:
            kind = wanted if t.dtype.is_floating_point else None
            return t.detach().to(device=device, dtype=kind)

        for p in self.parameters():
            grad = p.grad
            p.grad = None
            p._adopt(moved(p))
            if grad is not None:
                p.grad = moved(grad)
        for m in self.modules():
            for name in m._buffer_names:
                value = getattr(m, name)
                if value is not None:
                    exact = name in m._exact_buffers
                    setattr(m, name, value.to(device=device) if exact else moved(value))
        return self

    def cpu(self: M) -> M:
        return self.to(device="cpu")

    def cuda(self: M, index: int = 0) -> M:
        return self.to(device=f"cuda:{index}")

    def float(self: M) -> M:
        return self.to(dtype="float32")

    def half(self: M) -> M:
        return self.to(dtype="float16")

    def bfloat16(self: M) -> M:
        return self.to(dtype="bfloat16")

    def apply(self: M, function: Callable[[Module], Any]) -> M:
        """Call `function` on every module, children first."""
        for child in self.children():
            child.apply(function)
        function(self)
        return self

    def requires_grad_(self: M, requires_grad: bool = True) -> M:
        """Freeze or unfreeze all parameters."""
        for p in self.parameters():
            p.requires_grad = requires_grad
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients, or with ``set_to_none=False`` fill them with zeros."""
        for p in self.parameters():
            if set_to_none:
                p.grad = None
            elif p.grad is not None:
                p.grad.zero_()

    # ---- for people ------------------------------------------------------------------------------

    def summary(self) -> str:
        """A table of the layers: shapes, parameters, bytes.

        >>> import seqloom as sl
        >>> print(sl.nn.Sequential(sl.nn.Linear(2, 3), sl.nn.ReLU()).summary())
        layer       type        shape   parameters  bytes
        -------------------------------------------------
        -           Sequential                   9     36
          0         Linear                       9     36
            weight  float32     [3, 2]           6     24
            bias    float32     [3]              3     12
          1         ReLU                         0      0
        -------------------------------------------------
        9 parameters (9 trainable), 36 bytes; buffers 0 bytes
        """
        from .summary import table

        return table(self)

    def extra_repr(self) -> str:
        """What stands in parentheses in the module's repr."""
        return ""

    def __repr__(self) -> str:
        inside = [
            f"  ({name}): " + repr(child).replace("\n", "\n  ")
            for name, child in self.named_children()
        ]
        extra = self.extra_repr()
        if not inside:
            return f"{type(self).__name__}({extra})"
        lines = ([f"  {extra}"] if extra else []) + inside
        return "\n".join([f"{type(self).__name__}(", *lines, ")"])
