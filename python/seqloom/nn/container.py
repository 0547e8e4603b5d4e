# SPDX-License-Identifier: Apache-2.0
"""Modules that hold modules: Sequential, ModuleList, ModuleDict."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, KeysView, Mapping
from typing import Any, overload

from .module import Module


def _checked(owner: str, module: Any) -> Module:
    if not isinstance(module, Module):
        raise TypeError(f"{owner}: items must be Modules, got {type(module).__name__}")
    return module


class _Container(Module):
    """Items answer to their names as attributes too: what walks over a model and replaces children
    by ``setattr(parent, name, other)`` reaches them.
    """

    def _named(self) -> dict[str, Module]:
        raise NotImplementedError

    def _replace(self, name: str, module: Module) -> None:
        raise NotImplementedError

    def named_children(self) -> Iterator[tuple[str, Module]]:
        yield from super().named_children()
        yield from list(self._named().items())

    def __getattr__(self, name: str) -> Any:
        if "_items" in self.__dict__ and name in (named := self._named()):
            return named[name]
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        own = self.__dict__
        if name not in own and "_items" in own and name in self._named():
            self._replace(name, _checked(type(self).__name__, value))
        else:
            super().__setattr__(name, value)


class ModuleList(_Container):
    """A list whose modules belong to whoever holds it, named 0, 1, 2...

    Examples
    --------
    >>> import seqloom as sl
    >>> layers = sl.nn.ModuleList(sl.nn.Linear(2, 2) for _ in range(3))
    >>> len(layers), next(iter(layers.state_dict()))
    (3, '0.weight')
    """

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        super().__init__()
        self._items: list[Module] = []
        self.extend(modules)

    def _named(self) -> dict[str, Module]:
        return {str(i): m for i, m in enumerate(self._items)}

    def _replace(self, name: str, module: Module) -> None:
        self._items[int(name)] = module

    def append(self, module: Module) -> ModuleList:
        self._items.append(_checked(type(self).__name__, module))
        return self

    def extend(self, modules: Iterable[Module]) -> ModuleList:
        for m in modules:
            self.append(m)
        return self

    def insert(self, index: int, module: Module) -> None:
        self._items.insert(index, _checked(type(self).__name__, module))

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> ModuleList: ...
    def __getitem__(self, index: int | slice) -> Any:
        return type(self)(self._items[index]) if isinstance(index, slice) else self._items[index]

    def __setitem__(self, index: int, module: Module) -> None:
        self._items[index] = _checked(type(self).__name__, module)

    def __delitem__(self, index: int | slice) -> None:
        del self._items[index]


class Sequential(_Container):
    """Modules called one after the other.

    Parameters
    ----------
    *modules : Module, or one mapping of names to modules

    Examples
    --------
    >>> import seqloom as sl
    >>> net = sl.nn.Sequential(sl.nn.Linear(4, 8), sl.nn.ReLU(), sl.nn.Linear(8, 1))
    >>> net(sl.ones(2, 4)).shape
    (2, 1)
    """

    def __init__(self, *modules: Any) -> None:
        super().__init__()
        if len(modules) == 1 and isinstance(modules[0], Mapping):
            named = dict(modules[0])
        else:
            named = {str(i): m for i, m in enumerate(modules)}
        self._items = {name: _checked("Sequential", m) for name, m in named.items()}

    def _named(self) -> dict[str, Module]:
        return self._items

    def _replace(self, name: str, module: Module) -> None:
        self._items[name] = module

    def forward(self, x: Any) -> Any:
        for module in self._items.values():
            x = module(x)
        return x

    def append(self, module: Module) -> Sequential:
        number = len(self._items)
        while str(number) in self._items:  # a slice keeps the names that its modules had
            number += 1
        self._items[str(number)] = _checked("Sequential", module)
        return self

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Any]:
        return iter(list(self._items.values()))

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return Sequential(dict(list(self._items.items())[index]))
        return list(self._items.values())[index]

    def __setitem__(self, index: int, module: Module) -> None:
        self._items[list(self._items)[index]] = _checked("Sequential", module)


class ModuleDict(_Container):
    """A dict whose modules belong to whoever holds it, under their keys.

    Examples
    --------
    >>> import seqloom as sl
    >>> heads = sl.nn.ModuleDict({"tags": sl.nn.Linear(4, 3)})
    >>> heads["tags"](sl.ones(1, 4)).shape
    (1, 3)
    """

    def __init__(self, modules: Mapping[str, Module] | None = None) -> None:
        super().__init__()
        self._items: dict[str, Module] = {}
        self.update(modules or {})

    def _named(self) -> dict[str, Module]:
        return self._items

    def _replace(self, name: str, module: Module) -> None:
        self._items[name] = module

    def update(self, modules: Mapping[str, Module]) -> None:
        for name, m in modules.items():
            self[name] = m

    def keys(self) -> KeysView[str]:
        return self._items.keys()

    def values(self) -> Iterable[Any]:
        return self._items.values()

    def items(self) -> Iterable[tuple[str, Any]]:
        return self._items.items()

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __contains__(self, name: object) -> bool:
        return name in self._items

    def __getitem__(self, name: str) -> Any:
        return self._items[name]

    def __setitem__(self, name: str, module: Module) -> None:
        self._items[str(name)] = _checked("ModuleDict", module)

    def __delitem__(self, name: str) -> None:
        del self._items[name]
