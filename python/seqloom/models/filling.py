# SPDX-License-Identifier: Apache-2.0
"""A checkpoint's tensors into a model: all names and shapes are judged first, then copied.

The files are mapped. Tensors are copied out one at a time, in pieces, and the pages of what has
been copied are given back, so that the peak is the model and one piece.
"""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np

from ..creation import empty
from ..dtypes import DType, as_dtype
from ..nn import state
from ..tensor import Tensor, from_numpy
from ..weights import CheckpointError, Weights
from .base import CheckpointRules, Model

Array = np.ndarray[Any, Any]

_SHOWN = 8
_PIECE = 8 << 20  # bytes that are copied before their pages go
_FLOATING = ("float16", "bfloat16", "float32", "float64")


def fill(
    model: Model, weights: Weights, where: str, dtype: DType | None, device: Any, other: bool
) -> None:
    """Give `model`, which has shapes only, the tensors of a checkpoint.

    Parameters
    ----------
    model : Model
    weights : Weights
    where : str
        What errors begin with.
    dtype : DType, optional
        Of the floating tensors; by default the one that most of the checkpoint has.
    device
        Where to.
    other : bool
        Whether the checkpoint may be that of another class of the family, with other heads.
    """
    rules = model.checkpoint_rules()
    own = dict(state.entries(model, ""))
    found = _match(own, weights, rules, where, other)
    groups: dict[int, list[str]] = {}  # the names of each tensor: a tied one has several
    for name, t in own.items():
        groups.setdefault(id(t), []).append(name)
    fresh = _judge(model, own, groups, found, weights, rules, where, other)
    kind = dtype or _common_dtype(weights, found, where)
    for names in groups.values():
        given = [name for name in names if name in found]
        if not given:
            if names[0] not in fresh:  # an optional buffer, which may have had a shape only
                own[names[0]]._adopt(own[names[0]].to(device=device).clone())
            continue
        target, source = own[names[0]], found[given[0]]
        for name in given[1:]:
            _check_tied(weights, source, found[name], where)
        transposed = rules.matches("transposed", given[0])
        wanted = kind if target.dtype.is_floating_point else target.dtype
        target._adopt(_copy(weights, source, transposed, wanted, device))
    if fresh:
        _start_afresh(model, fresh, kind, device)
        warnings.warn(
            f"{where}: the checkpoint has no {_listed(fresh)}; initialised afresh", stacklevel=5
        )


# ---- names, shapes, dtypes -----------------------------------------------------------------------


def _match(
    own: dict[str, Tensor], weights: Weights, rules: CheckpointRules, where: str, other: bool
) -> dict[str, str]:
    """Own (or unexpected) name -> name in the files, of all that isn't to be ignored."""
    bare = rules.prefix and not any(name.startswith(rules.prefix) for name in weights)
    found: dict[str, str] = {}
    for name in weights:
        new = name
        for pattern, replacement in rules.renamed:
            new = re.sub(pattern, replacement, new)
        if bare and new not in own and rules.prefix + new in own:
            new = rules.prefix + new
        if new not in own:
            if rules.matches("ignored", name) or rules.matches("ignored", new):
                continue
            if other and (rules.matches("heads", name) or rules.matches("heads", new)):
                continue
        if new in found:
            raise CheckpointError(f"{where}: {found[new]} and {name} are names of the same tensor")
        found[new] = name
    return found


def _judge(
    model: Model,
    own: dict[str, Tensor],
    groups: dict[int, list[str]],
    found: dict[str, str],
    weights: Weights,
    rules: CheckpointRules,
    where: str,
    other: bool,
) -> list[str]:
    """Refuse what doesn't fit; give the names that start afresh."""
    missing, fresh = [], []
    for names in groups.values():
        if any(name in found or rules.matches("optional", name) for name in names):
            continue
        if other and all(rules.matches("heads", n.removeprefix(rules.prefix)) for n in names):
            fresh.append(names[0])
        else:
            missing.append(" = ".join(names) + (" (tied)" if len(names) > 1 else ""))
    unexpected = [name for new, name in found.items() if new not in own]
    faults = []
    if missing:
        faults.append(f"missing {_listed(missing)}")
    if unexpected:
        faults.append(f"unexpected {_listed(unexpected)}")
    wrong = []
    for new, name in found.items():
        if new not in own:
            continue
        info, wanted = weights.info(name), own[new].shape
        shape = info.shape[::-1] if rules.matches("transposed", new) else info.shape
        if shape != wanted:
            expected = wanted[::-1] if rules.matches("transposed", new) else wanted
            wrong.append(f"{name} must have shape {list(expected)}, got {list(info.shape)}")
        elif own[new].dtype.is_floating_point and info.dtype.name not in _FLOATING:
            wrong.append(f"{name} must be floating (16 bits or more), got {info.dtype.name}")
    faults += wrong[:_SHOWN] + ([f"{len(wrong) - _SHOWN} more"] if wrong[_SHOWN:] else [])
    if faults:
        raise CheckpointError(
            f"{where}: the weights must fit {type(model).__name__}, got {'; '.join(faults)}"
        )
    return fresh


def _common_dtype(weights: Weights, found: dict[str, str], where: str) -> DType:
    """The floating dtype that has most of the bytes."""
    sizes: dict[str, int] = {}
    for name in found.values():
        info = weights.info(name)
        if info.dtype.name in _FLOATING:
            sizes[info.dtype.name] = sizes.get(info.dtype.name, 0) + info.end - info.begin
    if not sizes:
        raise CheckpointError(f"{where}: holds no floating-point tensors")
    return as_dtype(max(sizes, key=lambda name: sizes[name]))


def _listed(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(n[:160] for n in names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _pieces(rows: int, nbytes: int) -> list[tuple[int, int]]:
    """Ranges of rows that hold about _PIECE bytes each."""
    step = max(1, _PIECE * rows // max(nbytes, 1))
    return [(i, min(i + step, rows)) for i in range(0, rows, step)]


def _check_tied(weights: Weights, first: str, second: str, where: str) -> None:
    """Names that the configuration ties must hold the same numbers."""
    a, b = weights.info(first), weights.info(second)
    same_file = weights.files[first] is weights.files[second]
    if same_file and a == b:
        return
    equal = a.dtype == b.dtype and a.shape == b.shape
    if equal:
        x, y = weights[first], weights[second]
        for i, j in _pieces(a.shape[0], a.end - a.begin):
            equal = equal and x[i:j].tobytes() == y[i:j].tobytes()
            _release(weights, first, i, j)
            _release(weights, second, i, j)
    if not equal:
        raise CheckpointError(
            f"{where}: {first} and {second} are tied by the configuration, but differ"
        )


# ---- numbers -------------------------------------------------------------------------------------


def _release(weights: Weights, name: str, i: int, j: int) -> None:
    """Give back the pages of rows i to j."""
    info = weights.info(name)
    row = (info.end - info.begin) // max(info.shape[0], 1)
    weights.files[name].release(info.begin + i * row, info.begin + j * row)


def _copy(weights: Weights, name: str, transposed: bool, dtype: DType, device: Any) -> Tensor:
    """A tensor of the files, in memory of its own."""
    source = weights[name]
    shape = source.shape[::-1] if transposed else source.shape
    target = empty(*shape, dtype=dtype)
    if source.ndim == 0 or source.size == 0:
        target.copy_(from_numpy(source).to(dtype=dtype))
        return target.to(device=device)
    for i, j in _pieces(source.shape[0], source.nbytes):
        piece = from_numpy(source[i:j]).to(dtype=dtype)
        if transposed:  # in the order of the target: writing columns takes nine times as long
            target[:, i:j].copy_(piece.T)
        else:
            target[i:j].copy_(piece)
        _release(weights, name, i, j)
    return target.to(device=device)


def _start_afresh(model: Model, names: list[str], dtype: DType, device: Any) -> None:
    """Memory and initial values for tensors that the checkpoint lacks."""
    own = dict(state.entries(model, ""))
    owners = {name.rpartition(".")[0] for name in names}
    for name in names:
        t = own[name]
        t._adopt(empty(*t.shape, dtype=dtype if t.dtype.is_floating_point else t.dtype))
    for path in sorted(owners):
        model._initialise(model.get_submodule(path))
    for name in names:
        own[name]._adopt(own[name].detach().to(device=device))
