# SPDX-License-Identifier: Apache-2.0
"""No input, however malformed, ends the process or raises anything but a readable error.

Every public op and Tensor method is called with arguments that fit, and with some of them
replaced by junk. A call that fits must succeed; one that does not may succeed or raise one of
five exceptions whose message reads ``name: ...``. SEQLOOM_FUZZ_CALLS sets how many calls are
made in all; SEQLOOM_FUZZ_LOG names a file that holds the call in progress, for the case that
the process did not survive it.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("hypothesis", reason="hypothesis is not installed")

from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

import seqloom as sl
from fuzz_cases import CASES, Call, Drawer, junk

CALLS = int(os.environ.get("SEQLOOM_FUZZ_CALLS", "1200"))
LOG = os.environ.get("SEQLOOM_FUZZ_LOG")
ALLOWED = (ValueError, TypeError, IndexError, RuntimeError, MemoryError)
# The library's own form, and what Python says when neither operand knows the other.
MESSAGE = re.compile(
    r"^[A-Za-z_][\w.]*: \S|^unsupported operand type|.*not supported between inst"
    r"|^can only concatenate |^can't concat "
)
SMALL = 100_000  # elements of a result that are read back


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest):
    count: Counter[str] = Counter()
    yield count
    total = sum(count.values())
    summary = ", ".join(f"{n} {what}" for what, n in count.most_common())
    request.config.stash[request.config.fuzz_key] = f"fuzz: {total} calls ({summary})"


def describe(value: Any) -> str:
    if isinstance(value, sl.Tensor):
        grad = ", requires_grad" if value.requires_grad else ""
        return f"Tensor({list(value.shape)}, {value.dtype.name}{grad})"
    if isinstance(value, np.ndarray):
        return f"ndarray({list(value.shape)}, {value.dtype})"
    if isinstance(value, list | tuple):
        inner = ", ".join(map(describe, value))
        return f"[{inner}]" if isinstance(value, list) else f"({inner})"
    return repr(value)


def read_back(result: Any) -> None:
    """Uses the result: a view outside its memory or a wrong shape shows here."""
    for t in result if isinstance(result, tuple | list) else (result,):
        if not isinstance(t, sl.Tensor) or t.size > SMALL:
            continue
        values = t.detach().cpu().numpy()
        assert values.shape == t.shape
        values.copy()
        if t.requires_grad and t.size:
            t.backward(sl.ones_like(t.detach()), retain_graph=True)


def run(call: Call, text: str, fits: bool, outcomes: Counter[str]) -> None:
    if LOG:
        Path(LOG).write_text(text)
    error = None
    try:
        read_back(call.function(**call.arguments))
    except ALLOWED as caught:
        error = caught
    outcomes[type(error).__name__ if error else "succeeded"] += 1
    if error is not None:
        said = f"{type(error).__name__}: {error}\n{text}"
        assert not fits, f"these arguments fit, but: {said}"
        assert MESSAGE.match(str(error)), f"an error must begin with the op's name: {said}"


@pytest.mark.parametrize("name", CASES)
def test_calls(name: str, device: str, outcomes: Counter[str]) -> None:
    @settings(
        max_examples=max(4, -(-CALLS // len(CASES))),
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def calls(data: st.DataObject) -> None:
        d = Drawer(data.draw, device)
        call = CASES[name](d)
        # The object whose method is called stays a Tensor; everything else may be anything.
        bad = data.draw(st.sets(st.sampled_from(sorted(call.arguments)), max_size=2))
        for argument in bad:
            call.arguments[argument] = d.any_tensor(0, 5) if argument == "x" else junk(d)
        text = f"{name}: {call.function.__name__}(" + ", ".join(
            f"{n}={describe(v)}" for n, v in call.arguments.items()
        )
        note(text)
        run(call, text, not bad, outcomes)

    calls()
