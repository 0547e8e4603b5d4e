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
        header = re.sub(  # what the emulator has for itself
            r"^namespace seqloom::emulation \{.*?^\}  // namespace", "", header, flags=re.M | re.S
        )
        offered.update(
            re.findall(r"^(?:inline [\w ]+?|unsigned |#define )([a-z_]\w+)\(", header, re.M)
        )
        offered.update(re.findall(r"^SEQLOOM_(?:ATOMIC|REDUCE)\((\w+),", header, re.M))
        offered.update(re.findall(r"^inline SEQLOOM_UNCHECKED T (\w+)\(", header, re.M))
    assert len(offered) > 100
    assert {"min", "max", "clock64", "rsqrtf", "atomicCAS", "__ldg"} <= offered
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


# name, element, columns, A in registers, A and B transposed, bytes of a swizzled row
WGMMA = re.compile(
    r"^WGMMA\((\w+), \w+, \"(\w+)(?: edges)?\", (\d+), (\w+), (\d), (\d), k(\w+)\)", re.MULTILINE
)


def shared_operand(stored: np.ndarray, extent: int, transposed: bool, row: int) -> np.ndarray:
    """extent x 16 values of a shared tile, by the canonical layouts of the PTX manual."""
    mn, k = np.ogrid[:extent, :16]
    if row == 16:  # blocks of 8 x 16 bytes: along M or N first, then along K
        at = mn // 8 * 128 + k // 8 * (extent // 8 * 128)
        at = at + (k % 8 * 16 + mn % 8 * 2 if transposed else mn % 8 * 16 + k % 8 * 2)
    elif transposed:
        width = row // 2
        at = mn // width * (16 * row) + k // 8 * (8 * row) + k % 8 * row + mn % width * 2
    else:
        at = mn // 8 * (8 * row) + mn % 8 * row + k * 2
    at = at ^ (at >> 7 & row // 16 - 1) << 4
    return stored[at // 2]


def test_warpgroup_instructions_agree_with_float64(runner):
    """The same for wgmma: descriptors, swizzles and both directions against a dense product."""
    found = {m[1]: m for m in WGMMA.finditer(kernels_text())}
    kernels = [k for k in runner.kernels if k.name in found]
    assert len(kernels) == len(found) > 20
    thread, register = np.ogrid[:128, :4]
    rows = thread // 32 * 16 + thread % 32 // 4
    for kernel in kernels:
        _, kind, columns, registers, trans_a, trans_b, swizzle = found[kernel.name].groups()
        n, row = int(columns), 16 if swizzle == "None" else int(swizzle)
        words = common.words_of(kernel)
        values = [common.halves_to_float(w.copy(), kind) for w in (words[:2048], words[2048:])]
        b = shared_operand(values[1], n, trans_b == "1", row)
        if registers == "true":
            a = np.zeros((64, 16))
            at = rows + register % 2 * 8, thread % 4 * 2 + register // 2 * 8
            a[at], a[at[0], at[1] + 1] = np.moveaxis(values[0][:1024].reshape(128, 4, 2), 2, 0)
        else:
            a = shared_operand(values[0], 64, trans_a == "1", row)
        place = np.arange(n // 2)
        column = place // 4 * 8 + thread % 4 * 2 + place % 2
        with np.errstate(over="ignore", invalid="ignore"):  # as in float32
            products = (a[:, None] * b).astype(np.float32).astype(np.float64)
            want = products.sum(-1)[rows + place // 2 % 2 * 8, column] + place
            want = np.where(np.abs(want) > np.finfo(np.float32).max, want * np.inf, want)
        got = runner.run(kernel).view(np.float32).reshape(n // 2, 128).T
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-4, err_msg=kernel.name)
        assert ("edges" in kernel.inputs) == (not np.isfinite(want).all())
