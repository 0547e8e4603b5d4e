# SPDX-License-Identifier: Apache-2.0
"""The emulator against what a GPU answered, instruction by instruction."""

from __future__ import annotations

import re

import numpy as np
import pytest

from conformance import common
from conformance.common import disagreement, read_goldens
from emulation.library import CSRC, why_not

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not() or "can run")


@pytest.fixture(scope="module")
def runner() -> common.Runner:
    return common.Runner(common.build_emulated())


# What leaves nothing to compare.
WITHOUT_RESULT = {"__trap", "__activemask"}


def kernels_text() -> str:
    files = [*common.KERNELS, common.HERE / "registry.h"]
    text = "".join(p.read_text(encoding="utf-8") for p in files)
    return re.sub(r"//.*", "", text)


def test_every_wrapper_has_a_conformance_kernel():
    text = kernels_text()
    used = set(re.findall(r"ptx::(\w+)", text)) | set(
        re.findall(r"^[LS][DT]MATRIX\((\w+),", text, re.M)
    )
    wrappers = set()
    for header in sorted((CSRC / "cuda").glob("ptx*.h")):
        found = re.findall(
            r"^SEQLOOM_DEVICE [\w:* ]+?[ *](\w+)\(", header.read_text(encoding="utf-8"), re.M
        )
        wrappers.update(found)
    assert len(wrappers) > 70
    assert wrappers <= used, f"without a kernel: {sorted(wrappers - used)}"


def test_every_intrinsic_has_a_conformance_kernel():
    text = kernels_text()
    offered = set()
    for name in ("device_sync.h", "device_memory.h", "device_math.h"):
        header = (CSRC / "emulation" / name).read_text(encoding="utf-8")
        offered.update(
            re.findall(r"^(?:inline [\w ]+?|unsigned |#define )(__[a-z]\w+)\(", header, re.M)
        )
        offered.update(re.findall(r"^SEQLOOM_(?:ATOMIC|REDUCE)\((\w+),", header, re.M))
        offered.update(re.findall(r"^inline T (__\w+|atomic\w+)\(", header, re.M))
    assert len(offered) > 80
    without = {n for n in offered - WITHOUT_RESULT if not re.search(rf"\b{n}\(", text)}
    assert not without, f"without a kernel: {sorted(without)}"


def test_every_kernel_runs_without_a_report(runner):
    for kernel in runner.kernels:
        first, second = runner.run(kernel), runner.run(kernel)
        np.testing.assert_array_equal(first, second, err_msg=kernel.name)


def test_the_emulator_agrees_with_the_goldens(runner):
    goldens = read_goldens()
    without = [k.name for k in runner.kernels if k.name not in goldens]
    problems = [
        f"{k.name}: {problem}"
        for k in runner.kernels
        if k.name in goldens and (problem := disagreement(k, runner.run(k), goldens[k.name]))
    ]
    assert not problems, "\n".join(problems)
    if without:
        pytest.skip(
            f"no goldens yet for {len(without)} kernels: python -m tests.conformance on a GPU"
        )


def test_matrix_instructions_agree_with_float64(runner):
    """Independent of any golden: the fragment layouts against a dense product."""
    for kernel in runner.kernels:
        if (
            kernel.compare != "mma"
            or not kernel.name.startswith("mma_")
            or "edges" in kernel.inputs
        ):
            continue
        words, got = common.words_of(kernel).reshape(32, 10), runner.run(kernel).view(np.float32)
        depth = 16 if kernel.name.endswith("k16") else 8
        a, b, c = np.zeros((16, depth)), np.zeros((depth, 8)), np.zeros((16, 8))
        for lane in range(32):
            g, t = divmod(lane, 4)
            if kernel.inputs == "float":
                values = (words[lane] & 0xFFFFE000).astype(np.uint32).view(np.float32)
                for i in range(4):
                    a[g + i % 2 * 8, t + i // 2 * 4] = values[i]
                for i in range(2):
                    b[t + i * 4, g] = values[4 + i]
            else:
                values = common.halves_to_float(words[lane].copy(), kernel.inputs).reshape(10, 2)
                for i in range(depth // 4):
                    a[g + i % 2 * 8, t * 2 + i // 2 * 8 :][:2] = values[i]
                for i in range(depth // 8):
                    b[t * 2 + i * 8 : t * 2 + i * 8 + 2, g] = values[4 + i]
            for i in range(4):
                c[g + i // 2 * 8, t * 2 + i % 2] = (lane * 4 + i) * 0.01
        want = a @ b + c
        for lane in range(32):
            g, t = divmod(lane, 4)
            for i in range(4):
                assert got[lane * 4 + i] == pytest.approx(
                    want[g + i // 2 * 8, t * 2 + i % 2], rel=1e-5, abs=1e-4
                ), kernel.name
