# SPDX-License-Identifier: Apache-2.0
"""The caching allocator and the scratch stack."""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np
import pytest
from cpu_harness import i64, pointer, run_in_python, u64

KB, MB = 1 << 10, 1 << 20


class Stats(NamedTuple):
    in_use: int
    peak: int
    cached: int
    limit: int
    allocations: int
    system_allocations: int


def stats(lib) -> Stats:
    out = np.empty(6, np.uint64)
    lib.cpu_test_memory_stats(pointer(out))
    return Stats(*map(int, out))


@pytest.fixture
def clean(lib):
    """An empty cache before, the default limit after."""
    lib.cpu_test_empty_cache()
    before = stats(lib)
    yield before
    lib.cpu_test_set_cache_limit(u64(before.limit))
    lib.cpu_test_empty_cache()
    assert stats(lib).in_use == before.in_use


SIZES = (
    0,
    1,
    63,
    64,
    65,
    1000,
    1024,
    1025,
    1152,
    1153,
    65536,
    2 * MB - 1,
    2 * MB,
    2 * MB + 1,
    9 * MB,
)


@pytest.mark.parametrize("size", SIZES)
def test_blocks_are_aligned_counted_and_reused(lib, clean, size):
    first = lib.cpu_test_allocate(u64(size))
    assert first % 64 == 0
    if size >= 2 * MB:
        assert first % (2 * MB) == 0
    used = stats(lib).in_use - clean.in_use
    assert max(size, 64) <= used <= max(64, size * 1.125 + 64)
    lib.cpu_test_free(u64(first), u64(size))
    assert stats(lib).in_use == clean.in_use
    assert stats(lib).cached == used
    system = stats(lib).system_allocations
    again = lib.cpu_test_allocate(u64(size))
    assert again == first
    assert stats(lib).system_allocations == system
    lib.cpu_test_free(u64(again), u64(size))


def test_every_size_up_to_64_kb_fits(lib, clean):
    """Two neighbours never overlap, whatever the sizes."""
    for size in range(1, 64 * KB, 977):
        a, b = (lib.cpu_test_allocate(u64(size)) for _ in range(2))
        assert abs(a - b) >= size
        lib.cpu_test_free(u64(a), u64(size))
        lib.cpu_test_free(u64(b), u64(size))


def test_the_cache_is_bounded_and_drops_the_oldest(lib, clean):
    lib.cpu_test_set_cache_limit(u64(8 * MB))
    blocks = [(lib.cpu_test_allocate(u64(n * MB)), n * MB) for n in (3, 4, 2)]
    for block, size in blocks:  # 3, then 4, then 2 MB: the third pushes the first out
        lib.cpu_test_free(u64(block), u64(size))
    assert stats(lib).cached == 6 * MB
    kept = stats(lib).system_allocations
    assert lib.cpu_test_allocate(u64(4 * MB)) == blocks[1][0]
    assert stats(lib).system_allocations == kept
    lib.cpu_test_free(u64(blocks[1][0]), u64(4 * MB))
    lib.cpu_test_set_cache_limit(u64(0))
    assert stats(lib).cached == 0
    big = lib.cpu_test_allocate(u64(4 * MB))
    lib.cpu_test_free(u64(big), u64(4 * MB))
    assert stats(lib).cached == 0


def test_out_of_memory_is_null_and_harmless(lib, clean):
    for size in (1 << 62, (1 << 64) - 1, 1 << 50):
        assert lib.cpu_test_allocate(u64(size)) is None
    assert stats(lib).in_use == clean.in_use
    lib.cpu_test_free(None, u64(100))


def test_peak(lib, clean):
    block = lib.cpu_test_allocate(u64(32 * MB))
    lib.cpu_test_free(u64(block), u64(32 * MB))
    assert stats(lib).peak >= 32 * MB


def test_threads_share_the_allocator(lib, clean):
    assert lib.cpu_test_allocator_threads(4, 3000) == 0


def test_limit_from_the_environment():
    code = (
        "import numpy as np\nout = np.empty(6, np.uint64)\n"
        "lib.cpu_test_memory_stats(cpu_harness.pointer(out)); print(int(out[3]))"
    )
    assert run_in_python(code, SEQLOOM_CPU_CACHE_MB="7").stdout.strip() == str(7 * MB)


@pytest.mark.parametrize(
    ("size", "depth"), [(1, 3), (1000, 5), (100_000, 4), (5 * MB, 2), (40 * MB, 1)]
)
def test_scratch_nests(lib, clean, size, depth):
    assert lib.cpu_test_scratch(i64(size), depth) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_cache_survives_a_fork():
    run = run_in_python(
        "size = cpu_harness.u64(1 << 20)\n"
        "lib.cpu_test_free(cpu_harness.u64(lib.cpu_test_allocate(size)), size)\n"
        "print(lib.cpu_test_fork(cpu_harness.i64(100)))"
    )
    assert run.stdout.strip() == "0", run.stderr
