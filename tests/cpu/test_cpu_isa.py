# SPDX-License-Identifier: Apache-2.0
"""Choosing the instruction set."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import numpy as np
import pytest
from cpu_harness import load_library, pointer, run_in_python

SHOW = "print(lib.cpu_test_active_isa().decode(), '|', (lib.cpu_test_isa_error() or b'').decode())"


def test_environment_lowers_the_level(lib):
    shown = run_in_python(SHOW, SEQLOOM_ISA="baseline").stdout.strip()
    assert shown == "baseline |"


@pytest.mark.parametrize(
    "name", ["sse9", "AVX2", "neon" if platform.machine() == "x86_64" else "avx2"]
)
def test_bad_levels_are_reported(lib, name):
    best = run_in_python(SHOW, SEQLOOM_ISA="").stdout.split()[0]
    active, message = run_in_python(SHOW, SEQLOOM_ISA=name).stdout.strip().split(" | ")
    assert active == best
    assert message.startswith("SEQLOOM_ISA: isa must be")
    assert name in message


def test_set_isa(lib, level):
    assert lib.cpu_test_active_isa().decode() == level
    assert lib.cpu_test_set_isa(b"no such level") == 1
    assert lib.cpu_test_active_isa().decode() == level
    assert lib.cpu_test_lane_count() == {"baseline": 4, "avx2": 8, "neon": 4}.get(level, 16)


def test_cache_sizes(lib):
    sizes = np.empty(3, np.int64)
    lib.cpu_test_caches(pointer(sizes))
    assert 8 << 10 <= sizes[0] <= 1 << 20
    assert 64 << 10 <= sizes[1] <= 64 << 20
    assert sizes[2] == 0 or sizes[2] >= 1 << 20


def test_detection_agrees_with_the_kernel(lib):
    info = Path("/proc/cpuinfo")
    if not info.exists() or "flags" not in info.read_text():
        pytest.skip("needs /proc/cpuinfo of an x86-64 machine")
    flags = set(info.read_text().split("flags", 1)[1].split("\n", 1)[0].split())
    needed = {"avx2": {"avx2", "fma", "f16c", "bmi2"}}
    needed["avx512"] = needed["avx2"] | {f"avx512{x}" for x in ("f", "bw", "vl", "dq", "cd")}
    needed["avx512bf16"] = needed["avx512"] | {"avx512_bf16", "avx512_vnni"}
    before = lib.cpu_test_active_isa()
    for name, wanted in needed.items():
        assert (lib.cpu_test_set_isa(name.encode()) == 0) == (wanted <= flags)
    lib.cpu_test_set_isa(before)


def test_kernel_symbols_carry_their_level(lib):
    """Nothing that a kernel file defines may be shared with a file of other flags."""
    folder = Path(load_library()._name).parent
    objects = sorted(folder.glob("*.o"))
    if not objects:
        pytest.skip("needs the object files")
    checked = 0
    for path in objects:
        lines = subprocess.run(
            ["nm", "--defined-only", str(path)], capture_output=True, text=True, check=True
        ).stdout.splitlines()
        symbols = [line.split()[-1] for line in lines if line.split()[-2] in "TtWwVuBbDd"]
        if not any("cpu_test_map" in s and "_isa" not in s and "isa_" in s for s in symbols):
            continue
        checked += 1
        assert all("isa_" in s for s in symbols), [s for s in symbols if "isa_" not in s]
    assert checked >= 1
