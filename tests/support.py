# SPDX-License-Identifier: Apache-2.0
"""What the tests of the ops share: arrays of every layout, and the one way to judge."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import seqloom as sl
from tolerances import EPS, TOLERANCES, ULPS

FLOATS = ("float32", "float16", "bfloat16")
INTS = ("int64", "int32", "int8", "uint8")

# Around every vector width: 4, 8, 16 and 32 lanes, and longer than one block of each.
ODD_SIZES = (1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 33, 63, 65, 129, 257)

# How an array lies in memory; the values are the same.
LAYOUTS = ("contiguous", "misaligned", "strided", "transposed")


def np_dtype(name: str) -> np.dtype:
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def rounded(array: Any, dtype: str) -> np.ndarray:
    """The values as the dtype holds them, in float64."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return np.asarray(array, np.float64).astype(np_dtype(dtype)).astype(np.float64)


def make_tensor(
    array: Any,
    dtype: str | None = None,
    device: str = "cpu",
    layout: str = "contiguous",
    requires_grad: bool = False,
) -> sl.Tensor:
    """A leaf tensor of these values that lies in memory as ``layout`` says."""
    a = np.asarray(array)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        a = a if dtype is None else a.astype(np_dtype(dtype))
    if layout == "misaligned":  # one element past an aligned address
        t = sl.tensor(np.concatenate([np.ones(1, a.dtype), a.ravel()]), device=device)
        t = t[1:].reshape(a.shape)
    elif layout == "strided" and a.ndim:  # every second element of a longer last axis
        t = sl.tensor(np.repeat(a, 2, axis=-1), device=device)[..., ::2]
    elif layout == "transposed" and a.ndim > 1:  # the last two axes swapped
        t = sl.tensor(np.ascontiguousarray(a.swapaxes(-1, -2)), device=device)
        t = t.transpose(-1, -2)
    else:
        t = sl.tensor(a, device=device)
    if requires_grad:
        t.requires_grad = True
    return t


def to_float64(x: Any) -> np.ndarray:
    """A tensor's or an array's values in float64."""
    array = x.detach().cpu().numpy() if isinstance(x, sl.Tensor) else np.asarray(x)
    return array.astype(np.float64)


def dtype_name(x: Any) -> str:
    return str(x.dtype).rpartition(".")[2]


def _same_specials(actual: np.ndarray, expected: np.ndarray, dtype: str, what: str) -> np.ndarray:
    """Asserts that NaN and infinities agree; the mask of what is finite."""
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape}, not {expected.shape}"
    target = rounded(expected, dtype)
    np.testing.assert_array_equal(np.isnan(actual), np.isnan(target), f"{what}: NaN")
    infinite = np.isinf(actual) | np.isinf(target)
    # At the edge of overflow either side may round to infinity.
    edge = np.abs(expected) > float(ml_dtypes.finfo(np_dtype(dtype)).max) * (1 - 4 * EPS[dtype])
    wrong = infinite & ~edge & (actual != target)
    assert not wrong.any(), f"{what}: infinity at {np.argwhere(wrong)[:5].tolist()}"
    return ~(infinite | np.isnan(target))


def assert_close_to_reference(
    actual: Any,
    expected: np.ndarray,
    yardstick: Any = None,
    *,
    dtype: str,
    kind: str = "formula",
    scale: float = 0.0,
    what: str = "result",
) -> None:
    """Judge ``actual`` against the float64 ``expected`` by the rule of tolerances.py.

    ``yardstick`` is the same formula in float32 (any array; it is rounded to ``dtype`` here), or a
    list of several ways to compute it, of which the worst counts; without it only the floor is
    allowed. kind="ulp" judges each element by its own size.
    ``scale`` is the size of the terms that cancel in the result, where it is larger than that.
    """
    actual, expected = to_float64(actual), np.asarray(expected, np.float64)
    finite = _same_specials(actual, expected, dtype, what)
    if not finite.any():
        return
    error, size = np.abs(actual[finite] - expected[finite]), np.abs(expected)[finite]
    if kind == "ulp":
        smallest = float(ml_dtypes.finfo(np_dtype(dtype)).smallest_subnormal)
        normal = float(ml_dtypes.finfo(np_dtype(dtype)).smallest_normal)
        spacing = EPS[dtype] * 2.0 ** np.floor(np.log2(np.maximum(size, normal)))
        ulps = error / np.maximum(spacing, smallest)
        worst = int(np.argmax(ulps))
        assert ulps[worst] <= ULPS[dtype], (
            f"{what}: {ulps[worst]:.2f} ulp off, got {actual[finite][worst]!r} for"
            f" {expected[finite][worst]!r} ({int((ulps > ULPS[dtype]).sum())} of {ulps.size} wrong)"
        )
        return
    multiple, floor = TOLERANCES[kind][dtype]
    owns = [np.zeros_like(error)]
    for way in yardstick if isinstance(yardstick, list) else [yardstick]:
        if way is not None:
            own = np.abs(rounded(way, dtype)[finite] - expected[finite])
            owns.append(np.where(np.isfinite(own), own, 0))
    measures = (("largest", np.max), ("mean", np.mean))
    for name, measure in measures[:1] if kind == "twice" else measures:
        got, least = float(measure(error)), max(float(measure(own)) for own in owns)
        spacing = floor * EPS[dtype] * max(scale, float(measure(size)))
        allowed = multiple * max(least, spacing) if kind == "twice" else multiple * least + spacing
        worst = np.argwhere(finite)[np.flatnonzero(error == error.max())[:3]]
        assert got <= allowed, (
            f"{what}: {name} error {got:.3g}, allowed {allowed:.3g} ({dtype}, {kind}); the formula"
            f" in NumPy loses {least:.3g}; worst at {worst.tolist()}"
            f" of {list(actual.shape)}"
        )


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def _narrow(options: dict[str, Any], dtype: str, to: type) -> dict[str, Any]:
    """Options with their float arrays as ``dtype`` holds them, computed with in ``to``."""
    return {
        n: rounded(o, dtype).astype(to) if isinstance(o, np.ndarray) and o.dtype.kind == "f" else o
        for n, o in options.items()
    }


def _on_device(value: Any, dtype: str, device: str, layout: str) -> Any:
    if not isinstance(value, np.ndarray):
        return value
    return make_tensor(value, dtype if value.dtype.kind == "f" else None, device, layout)


def check_op(
    function: Callable[..., Any],
    reference: Any,
    inputs: dict[str, np.ndarray],
    options: dict[str, Any] | None = None,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    layout: str = "contiguous",
    kind: str = "formula",
    gradients: bool = True,
    scales: dict[str, float] | None = None,
    positive: bool = False,
    as_numpy: Iterable[str] = (),
    reference_options: dict[str, Any] | None = None,
    ways: Sequence[Any] = (),
) -> None:
    """Values and every gradient of ``function`` against a reference op.

    ``inputs`` are float arrays, differentiated; ``options`` are passed on, arrays among them
    as tensors on the device (those named in ``as_numpy`` stay NumPy arrays).
    ``reference_options`` replaces the options that the reference spells differently.
    ``scales`` names gradients (and outputs, "output 0") that are what remains of larger terms, with
    the size of those terms for output gradients of size one: 1 for a softmax, which subtracts such
    terms.
    ``positive`` output gradients never cancel in a sum.
    ``ways`` are reference ops of the same value that add in another order: what the formula loses
    is then the most that one of them does.
    """
    options = dict(options or {})
    inputs = {n: np.asarray(a, np.float64) for n, a in inputs.items()}
    ref_options = options if reference_options is None else reference_options
    exact = {n: rounded(a, dtype) for n, a in inputs.items()}
    expected, backward = reference.vjp(**exact, **_narrow(ref_options, dtype, np.float64))
    wide = np.float64 if dtype == "float64" else np.float32
    narrow = {n: a.astype(wide) for n, a in exact.items()}
    plains = [way.vjp(**narrow, **_narrow(ref_options, dtype, wide)) for way in (reference, *ways)]

    tensors = {n: make_tensor(a, dtype, device, layout, gradients) for n, a in inputs.items()}
    passed = {
        n: o if n in as_numpy else _on_device(o, dtype, device, layout) for n, o in options.items()
    }
    outputs = _as_tuple(function(**tensors, **passed))
    expected = _as_tuple(expected)
    owns = [list(way) for way in zip(*(_as_tuple(value) for value, _ in plains), strict=True)]
    assert len(outputs) == len(expected)
    for i, (out, want, own) in enumerate(zip(outputs, expected, owns, strict=True)):
        what = f"output {i}"
        if np.asarray(want).dtype.kind != "f":
            np.testing.assert_array_equal(out.detach().cpu().numpy(), want, what)
            continue
        assert dtype_name(out) == dtype, f"{what}: dtype {out.dtype}, not {dtype}"
        assert str(out.device).startswith(device), f"{what}: on {out.device}, not {device}"
        assert_close_to_reference(
            out, want, own, dtype=dtype, kind=kind, scale=(scales or {}).get(what, 0.0), what=what
        )
    if not gradients:
        return

    rng = np.random.default_rng(4)
    outs, grads = [], []
    for out, want in zip(outputs, expected, strict=True):
        if np.asarray(want).dtype.kind == "f":
            outs.append(out)
            grad = rng.standard_normal(np.shape(want))
            grads.append(rounded(np.abs(grad) + 0.25 if positive else grad, dtype))
    if len(outs) == 1:
        outs[0].backward(make_tensor(grads[0], dtype, device))
    else:  # d sum(out * g) / d out is g, exactly
        terms = [
            (o * make_tensor(g, dtype, device)).sum() for o, g in zip(outs, grads, strict=True)
        ]
        functools.reduce(operator.add, terms).backward()
    want_grads = backward(*grads)
    own_grads = [pull(*[g.astype(wide) for g in grads]) for _, pull in plains]
    for name, t in tensors.items():
        what = f"gradient of {name}"
        if t.grad is None and inputs[name].size == 0:
            continue
        assert t.grad is not None, f"{what} is missing"
        assert dtype_name(t.grad) == dtype, f"{what}: dtype {t.grad.dtype}"
        grad_kind = "formula" if kind == "ulp" else kind
        assert_close_to_reference(
            t.grad,
            want_grads[name],
            [own[name] for own in own_grads],
            dtype=dtype,
            kind=grad_kind,
            scale=(scales or {}).get(name, 0.0),
            what=what,
        )


def refuses(error: Any, name: str) -> Any:
    """``with refuses(ValueError, "softmax"):`` an error whose message begins ``softmax: ``."""
    return pytest.raises(error, match=rf"^{name}: \S")


def draws(rng: np.random.Generator, **shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Standard normal arrays by name."""
    return {name: rng.standard_normal(shape) for name, shape in shapes.items()}


def distinct(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Small integers, no two alike where a dtype can tell them apart (up to 256)."""
    n = math.prod(shape)
    return (rng.permutation(n).reshape(shape) - n // 2).astype(np.float64)
