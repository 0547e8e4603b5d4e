# SPDX-License-Identifier: Apache-2.0
"""The thread pool: coverage, determinism, exceptions, teams, forks, concurrent callers."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from cpu_harness import HERE, i64, pointer, run_in_python


def run_loop(lib, n: int, grain: int, spin: int = 0) -> tuple[np.ndarray, np.ndarray, int]:
    visits = np.zeros(n, np.int32)
    begins = np.zeros(n, np.int8)
    chunks = lib.cpu_test_parallel_for(
        i64(n), i64(grain), pointer(visits), pointer(begins), i64(spin)
    )
    return visits, begins, chunks


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize(("n", "grain"), [(1, 1), (7, 3), (512, 1), (513, 1), (5000, 7), (64, 64)])
def test_every_index_once_and_the_same_chunks(lib, threads, count, n, grain):
    threads(count)
    visits, begins, chunks = run_loop(lib, n, grain, spin=200)
    assert np.all(visits == 1)
    size = lib.cpu_test_chunk_size(i64(n), i64(grain))
    np.testing.assert_array_equal(np.flatnonzero(begins), np.arange(0, n, size))
    assert chunks == -(-n // size) <= 512
    assert size % grain == 0


def test_results_do_not_depend_on_the_thread_count(lib, threads):
    x = np.random.default_rng(1).normal(size=100_003).astype(np.float32)
    sums = set()
    for count in (1, 2, 3, 4, 8):
        threads(count)
        for _ in range(20):
            sums.add(lib.cpu_test_parallel_sum(pointer(x), i64(x.size), i64(100)))
    assert len(sums) == 1


def test_exceptions_reach_the_caller(lib, threads):
    for count in (1, 2, 4):
        threads(count)
        for index in (0, 499, 999):
            assert lib.cpu_test_parallel_throw(i64(1000), i64(1), i64(index)) == 1
        visits, _, _ = run_loop(lib, 1000, 1)
        assert np.all(visits == 1)  # the pool goes on


def test_exceptions_pass_through_kernels(lib, level, threads):
    for count in (1, 2):
        threads(count)
        assert lib.cpu_test_kernel_throw() == 1


def test_nested_loops(lib, threads):
    threads(3)
    n = 500
    size = lib.cpu_test_chunk_size(i64(n), i64(1))
    assert lib.cpu_test_parallel_nested(i64(n)) == n + 9 * -(-n // size)


def test_concurrent_callers(lib, threads):
    threads(2)
    assert lib.cpu_test_parallel_callers(4, 300) == 0


def test_teams(lib, threads):
    n, steps = 101, 300
    expected = np.arange(n, dtype=np.int64)
    for _ in range(steps):
        expected = (expected + np.roll(expected, -1) + np.roll(expected, 1)) % 1000003
    for count in (1, 2, 3, 5):
        threads(count)
        cells = np.arange(n, dtype=np.int64)
        size = lib.cpu_test_team(pointer(cells), i64(n), i64(steps))
        assert 1 <= size <= count
        np.testing.assert_array_equal(cells, expected)


def test_a_failing_member_ends_the_team(lib, threads):
    for count in (1, 2, 4):
        threads(count)
        for thrower in range(count):
            assert lib.cpu_test_team_throw(thrower) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_fork():
    run = run_in_python(
        "lib.cpu_test_set_num_threads(3)\n"
        "print([lib.cpu_test_fork(cpu_harness.i64(2000)) for _ in range(5)])"
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "[0, 0, 0, 0, 0]"


def test_exit_with_a_running_pool():
    run = run_in_python(
        "lib.cpu_test_set_num_threads(4)\n"
        "assert lib.cpu_test_parallel_nested(cpu_harness.i64(1000)) > 0"
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


@pytest.mark.parametrize("mode", [0, 1, 2, 3])
def test_workers_round_like_the_caller(lib, threads, mode):
    threads(3)
    assert lib.cpu_test_rounding_mode(mode) == 0


def test_thread_counts(lib, threads):
    before = lib.cpu_test_num_threads()
    assert 1 <= before <= 256
    for bad in (0, -1, 257):
        assert lib.cpu_test_set_num_threads(bad) == 1
        assert lib.cpu_test_num_threads() == before
    threads(5)
    assert lib.cpu_test_num_threads() == 5


def test_environment():
    code = "print(lib.cpu_test_num_threads(), lib.cpu_test_threads_error())"
    assert run_in_python(code, SEQLOOM_NUM_THREADS="3").stdout.split() == ["3", "0"]
    for bad in ("0", "-2", "three", "1.5", "100000"):
        assert run_in_python(code, SEQLOOM_NUM_THREADS=bad).stdout.split()[1] == "1"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs affinity masks")
def test_default_follows_the_affinity():
    # Bound before the library is loaded: by taskset, say, or a job scheduler.
    code = (
        "import os, sys; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        f"sys.path.insert(0, {str(HERE)!r}); import cpu_harness\n"
        "print(cpu_harness.load_library().cpu_test_num_threads())"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "SEQLOOM_NUM_THREADS": ""},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.stdout.strip() == "1", run.stderr


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs affinity masks")
def test_a_bound_caller_does_not_bind_the_workers():
    """OpenMP binding leaves the main thread on one processor; workers must not inherit that."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two processors")
    run = run_in_python(
        "import os, time, numpy as np\n"
        "before = os.sched_getaffinity(0)\n"
        "os.sched_setaffinity(0, {min(before)})\n"
        "lib.cpu_test_set_num_threads(2)\n"
        "v, b = np.zeros(4000, np.int32), np.zeros(4000, np.int8)\n"
        "sizes = cpu_harness.i64(4000), cpu_harness.i64(1)\n"
        "arrays = cpu_harness.pointer(v), cpu_harness.pointer(b)\n"
        # A busy machine may start the worker late: loop until it has run, 20 seconds at most.
        "widest, end = 0, time.monotonic() + 20\n"
        "while widest < len(before) and time.monotonic() < end:\n"
        "    lib.cpu_test_parallel_for(*sizes, *arrays, cpu_harness.i64(500))\n"
        "    tasks = os.listdir('/proc/self/task')\n"
        "    widest = max(len(os.sched_getaffinity(int(t))) for t in tasks)\n"
        "print(widest == len(before))"
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "True"


def test_chunk_sizes_are_multiples_of_the_grain(lib):
    for n in (1, 5, 511, 512, 513, 10**6, 10**9 + 7):
        for grain in (1, 3, 64):
            size = lib.cpu_test_chunk_size(i64(n), i64(grain))
            assert size % grain == 0
            assert -(-n // size) <= 512
