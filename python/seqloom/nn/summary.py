# SPDX-License-Identifier: Apache-2.0
"""The table that ``module.summary()`` gives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from .parameter import Parameter

if TYPE_CHECKING:
    from .module import Module

Row = tuple[str, str, str, str, str]
_HEAD: Row = ("layer", "type", "shape", "parameters", "bytes")


def _rows(module: Module, name: str, depth: int, seen: dict[int, str], path: str) -> Iterator[Row]:
    own = list(module.parameters())
    yield (
        "  " * depth + (name or "-"),
        type(module).__name__,
        "",
        f"{sum(p.size for p in own):,}",
        f"{sum(p.nbytes for p in own):,}",
    )
    indent = "  " * (depth + 1)
    for label, p in module.__dict__.items():
        if not isinstance(p, Parameter):
            continue
        here = f"{path}.{label}" if path else label
        first = seen.setdefault(id(p), here)
        count, size = f"{p.size:,}", f"{p.nbytes:,}"
        if first != here:
            count, size = f"= {first}", ""
        yield indent + label, p.dtype.name, str(list(p.shape)), count, size
    for label, child in module.named_children():
        yield from _rows(child, label, depth + 1, seen, f"{path}.{label}" if path else label)


def table(module: Module) -> str:
    """Layers, shapes, parameters (a tied one counts once, its other places name it), bytes."""
    rows = [_HEAD, *_rows(module, "", 0, {}, "")]
    widths = [max(len(r[i]) for r in rows) for i in range(5)]
    lines = [
        "  ".join(
            cell.ljust(w) if i < 3 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    rule = "-" * (sum(widths) + 8)
    total = module.num_parameters()
    trainable = module.num_parameters(trainable_only=True)
    size = sum(p.nbytes for p in module.parameters())
    buffers = sum(b.nbytes for b in module.buffers())
    last = f"{total:,} parameters ({trainable:,} trainable), {size:,} bytes"
    last += f"; buffers {buffers:,} bytes"
    return "\n".join([lines[0], rule, *lines[1:], rule, last])
