# SPDX-License-Identifier: Apache-2.0
"""Is the answer right? Asked of every row before anything is timed.

The judge is the float64 reference that the tests use. It lives in the checkout under
``tests/reference``; a wheel carries a copy of the same files as ``seqloom.bench._reference``.
The tolerance is not a typed constant: a few roundings of the case's own dtype, or, where that is
not enough, a small multiple of what the same formula loses when NumPy computes it in float32.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seqloom.bench.case import EPSILON, Built, Case, Context, Inputs, Part
from seqloom.bench.libraries import Seqloom, first, round_inputs, upstream

FACTOR = 16.0


@dataclass(frozen=True)
class Verdict:
    """Largest error relative to the largest reference value, and the most that is allowed."""

    error: float
    tolerance: float
    what: str

    @property
    def ok(self) -> bool:
        return bool(self.error <= self.tolerance)  # NaN is not


@functools.cache
def load_reference() -> Any:
    """The reference package, or None where neither a checkout nor a copy is there."""
    if importlib.util.find_spec("seqloom.bench._reference") is not None:
        return importlib.import_module("seqloom.bench._reference")
    folder = Path(__file__).resolve().parents[3] / "tests" / "reference"
    entry = folder / "__init__.py"
    if not entry.is_file():
        return None
    name = "seqloom_reference"
    spec = importlib.util.spec_from_file_location(
        name, entry, submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None:
        return None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def as_float64(value: Any) -> Any:
    """A Tensor or array as a float64 array."""
    if hasattr(value, "detach"):
        value = value.detach()
    if hasattr(value, "cpu"):
        value = value.cpu()
    if hasattr(value, "numpy"):
        value = value.numpy()
    return np.asarray(value).astype(np.float64)


def error_of(value: Any, expected: Any) -> float:
    """max |value - expected| / max |expected|; infinite for a wrong shape, NaN for NaN."""
    index: Any = ...
    if isinstance(expected, Part):
        index, expected = expected
    got, want = as_float64(value)[index], np.asarray(expected, np.float64)
    if got.shape != want.shape:
        return float("inf")
    if want.size == 0:
        return 0.0
    scale = float(np.max(np.abs(want))) or 1.0
    return float(np.max(np.abs(got - want))) / scale


def _exact(inputs: Inputs, dtype: Any) -> Inputs:
    def convert(value: Any) -> Any:
        floating = isinstance(value, np.ndarray) and value.dtype.kind not in "iub"
        return value.astype(dtype) if floating else value

    return {name: convert(value) for name, value in inputs.items()}


def _value(expected: Any) -> Any:
    return expected.value if isinstance(expected, Part) else expected


def verify(case: Case, library: Seqloom, inputs: Inputs, mode: str, dtype: str) -> Verdict | None:
    """Compare seqloom with the reference; None where the case or the checkout has none."""
    reference = load_reference()
    if reference is None:
        return None
    if isinstance(case.ours, Built):
        return _judge_built(case.ours, library, inputs, mode, dtype, reference)
    if case.reference is None:
        return None
    seen = round_inputs(case, inputs, dtype)
    formula = case.reference
    exact, backward = formula(reference, **_exact(seen, np.float64))
    single = functools.cache(lambda: formula(reference, **_exact(seen, np.float32)))
    allowed = FACTOR * EPSILON[dtype]
    result = library.call(case, case.ours, inputs, "fwd", dtype)()
    expected = first_expected(exact)
    worst = _judge(first(result), expected, lambda: first_expected(single()[0]), allowed, "output")
    if mode == "fwd":
        return worst
    shape = tuple(first(result).shape)
    dy = rounded_like(upstream(shape), dtype, bool(shape))
    exact_grads = backward(dy.astype(np.float64))
    single_grads = functools.cache(lambda: single()[1](dy.astype(np.float32)))
    grads = library.call(case, case.ours, inputs, "fwdbwd", dtype)()
    for name, grad in zip(case.wrt, grads, strict=True):
        if name not in exact_grads:
            continue  # too large to be worth it
        loss: Any = functools.partial(lambda name: single_grads()[name], name)
        verdict = _judge(grad, exact_grads[name], loss, allowed, f"gradient of {name}")
        if not verdict.ok or verdict.error > worst.error:
            worst = verdict
        if not verdict.ok:
            break
    return worst


def _judge_built(
    ours: Built, library: Seqloom, inputs: Inputs, mode: str, dtype: str, reference: Any
) -> Verdict | None:
    if ours.judged is None:
        return None
    context = Context(library.module, inputs, mode, dtype, library.device, library.threads)
    value, truth, layers, rounding = ours.judged(context, reference)
    # Layers err independently; what quantizing costs is known, no bound to be multiplied.
    factor = 1.0 if dtype in ("int8", "int4") else FACTOR
    allowed = factor * (rounding or EPSILON[dtype]) * math.sqrt(layers)
    return _judge(value, truth(np.float64), lambda: truth(np.float32), allowed, "output")


def rounded_like(dy: Any, dtype: str, rounds: bool) -> Any:
    """The upstream gradient as it arrives in the dtype of the output."""
    if not rounds or dtype == "f32":
        return dy
    from seqloom.bench.libraries import rounded

    return rounded(dy, dtype).astype(np.float32)


def first_expected(value: Any) -> Any:
    """The first output of a reference; a `Part` is one output although it is a tuple."""
    return value if isinstance(value, Part) else first(value)


def _judge(got: Any, exact: Any, single: Callable[[], Any], allowed: float, what: str) -> Verdict:
    verdict = Verdict(error_of(got, exact), allowed, what)
    if verdict.ok:
        return verdict  # what float32 loses need not be known
    lost = error_of(_value(single()), _value(exact))
    if not np.isfinite(lost):
        lost = 0.0
    return Verdict(verdict.error, max(allowed, FACTOR * lost), what)
