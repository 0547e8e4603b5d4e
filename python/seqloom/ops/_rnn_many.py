# SPDX-License-Identifier: Apache-2.0
"""Recurrent layers that run at once on the CPU: the directions of a layer, a stack as a wave.

For steps too small to be shared among threads; with larger ones the layers take their turns.
"""

from __future__ import annotations

from typing import Any

from .. import _core
from ..autograd import Node, record
from ..tensor import Tensor
from ._arrays import public
from .rnn import _CELLS, _OPS, _backward, _small_gradients, host_lengths

# h0, c0, w_ih, w_hh, b_ih, b_hh of one layer and direction
Layer = tuple[Tensor | None, ...]
_INPUTS, _RESULTS = 8, 3  # tensors of a direction: as _core takes them, and what is kept


def run_at_once(cell: str, x: Tensor, hidden_size: int) -> bool:
    """Whether layers over x are better run side by side than one after the other."""
    if x.is_cuda or x._dtype_code > 2 or x.size == 0:
        return False
    return not _core.rnn_shares_steps(_CELLS[cell], x.shape[1], hidden_size)


def _trains(row: tuple[Tensor | None, ...]) -> bool:
    return any(t is not None and t._needs_grad for t in row)


@public
def run_stack(
    cell: str, x: Tensor, layers: tuple[Layer, ...], lengths: Any
) -> list[tuple[Tensor, ...]]:
    """(y, h_n[, c_n]) of each layer; each takes the outputs of the one before."""
    code, steps = _CELLS[cell], host_lengths(_OPS[_CELLS[cell]], lengths)
    rows = [(x if i == 0 else None, *layer, None) for i, layer in enumerate(layers)]
    keep = any(_trains(row) for row in rows)
    results: list[tuple[Tensor, ...]] = []
    for row, (y, h_n, c_n, saved, cells) in zip(
        rows, _core.rnn_forward_many(code, rows, steps, True, keep), strict=True
    ):
        inputs = (x, *row[1:])
        outputs = (y, h_n) if c_n is None else (y, h_n, c_n)
        if _trains(inputs):
            kept = (*inputs, steps, y.detach(), saved, cells)
            record(outputs, _OPS[code], inputs, _backward, kept, (code, False))
        results.append(outputs)
        x = y
    return results


@public
def run_directions(
    cell: str, x: Tensor, layers: tuple[Layer, ...], lengths: Any
) -> list[tuple[Tensor, ...]]:
    """(y, h_n[, c_n]) of the pass over x from the left and of the one from the right."""
    code, steps = _CELLS[cell], host_lengths(_OPS[_CELLS[cell]], lengths)
    rows = [(x, *layer, None) for layer in layers]
    keep = any(_trains(row) for row in rows)
    done = _core.rnn_forward_many(code, rows, steps, False, keep)
    results: list[tuple[Tensor, ...]] = [
        (y, h_n) if c_n is None else (y, h_n, c_n) for y, h_n, c_n, _, _ in done
    ]
    if keep:
        kept: list[Tensor | None] = [steps]
        for row, (y, _, _, saved, cells) in zip(rows, done, strict=True):
            kept += [*row, y.detach(), saved, cells]
        outputs = (*results[0], *results[1])
        record(outputs, _OPS[code], (*rows[0], *rows[1]), _backward_pair, tuple(kept), code)
    return results


def _backward_pair(node: Node, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
    code = node.context
    steps, *kept = node.saved_tensors()
    size, states = _INPUTS + _RESULTS, len(gradients) // 2
    directions, rows = [], []
    for d in range(2):
        tensors = kept[d * size : (d + 1) * size]
        rows.append(tensors[:_INPUTS])
        given = (*gradients[d * states : (d + 1) * states], None)[:3]
        directions.append(((*rows[d], steps), tuple(tensors[_INPUTS:]), *given))
    x = rows[0][0]
    assert x is not None
    want_weights = any(w is not None and w.requires_grad for row in rows for w in row[3:])
    found = _core.rnn_backward_pair(code, directions, x.requires_grad, want_weights)
    out: list[Tensor | None] = []
    for row, (*large, db_ih, db_hh, dpeepholes) in zip(rows, found, strict=True):
        out += [*large, *_small_gradients((db_ih, db_hh, dpeepholes), row[5:])]
    return tuple(out)
