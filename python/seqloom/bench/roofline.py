# SPDX-License-Identifier: Apache-2.0
"""What this machine can do, measured in this run: copy bandwidth, FMA peak and GEMM rate.

'Percent of the roofline' is the time that the slower of memory and arithmetic would need at these
rates, divided by the time that was measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

# Below this the roof is smaller than the cost of calling anything from Python.
SMALLEST_ROOF = 1e-6


@dataclass(frozen=True)
class Copy:
    """A call that copies, and the bytes that one call reads and writes."""

    call: Callable[[], Any]
    bytes: float


@dataclass
class Roofline:
    """Bytes per second by level, operations per second by dtype.

    `copy` is the call behind `memory`: a row that memory bounds is timed beside it, since a shared
    memory bus can be twice as fast a minute later.
    """

    memory: float
    cache: float
    cache_bytes: int
    peak: dict[str, float] = field(default_factory=dict)
    gemm: dict[str, float] = field(default_factory=dict)
    copy: Copy | None = None

    def compute(self, dtype: str) -> float:
        """The arithmetic roof of a dtype: its FMA peak, or the best GEMM seen.

        int4 is multiplied as int8; a dtype that was not measured has float32's.
        """
        for kind in (dtype, "int8" if dtype == "int4" else "f32", "f32"):
            if both := [table[kind] for table in (self.peak, self.gemm) if kind in table]:
                return max(both)
        return 0.0

    def bandwidth(self, bytes_moved: float, cache: str) -> float:
        """Bandwidth of the level that the data comes from."""
        if cache == "warm" and bytes_moved <= self.cache_bytes:
            return max(self.cache, self.memory)
        return self.memory

    def bound(self, bytes_moved: float, flops: float, dtype: str, cache: str) -> tuple[float, str]:
        """The least time in seconds, and which resource sets it ('memory' or 'compute')."""
        rate, width = self.compute(dtype), self.bandwidth(bytes_moved, cache)
        by_memory = bytes_moved / width if width > 0 else 0.0
        by_compute = flops / rate if rate > 0 else 0.0
        return (by_memory, "memory") if by_memory >= by_compute else (by_compute, "compute")

    def to_json(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "copy"}

    def describe(self) -> str:
        parts = [f"copy {self.memory / 1e9:.1f} GB/s (cached {self.cache / 1e9:.0f})"]
        for title, table in (("FMA", self.peak), ("GEMM", self.gemm)):
            if table:
                values = ", ".join(f"{d} {rate / 1e9:.0f}" for d, rate in table.items())
                parts.append(f"{title} {values} GFLOP/s")
        return "roofline of this run: " + "; ".join(parts)


def best_time(call: Callable[[], Any], seconds: float) -> float:
    """The fastest of the calls that fit into `seconds` (at least three): a roof is a maximum."""
    call()
    best, end, count = float("inf"), time.perf_counter() + seconds, 0
    while count < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
        count += 1
    return best


def numpy_copy(total_bytes: int, threads: int) -> Copy:
    """`threads` threads copy arrays of their own; source and target fill `total_bytes`."""
    each = max(1 << 12, total_bytes // (2 * threads) // 8 * 8)
    pairs = [(np.ones(each // 8), np.zeros(each // 8)) for _ in range(threads)]
    passes = max(1, (8 << 20) // each)

    def one(pair: tuple[Any, Any]) -> None:
        for _ in range(passes):
            np.copyto(pair[1], pair[0])

    moved = 2.0 * each * threads * passes
    if threads == 1:
        return Copy(lambda: one(pairs[0]), moved)
    pool = ThreadPoolExecutor(threads)
    return Copy(lambda: list(pool.map(one, pairs)), moved)


def fastest_copy(total_bytes: int, threads: int, library: Any, torch: Any, seconds: float) -> Copy:
    """The fastest way to copy among NumPy's, torch's and our own."""
    half = total_bytes // 8  # float32 values in each of source and target
    copies = [numpy_copy(total_bytes, threads)]
    if torch is not None:
        a, b = torch.ones(half), torch.ones(half)
        copies.append(Copy(lambda: b.copy_(a), 8.0 * half))
    ops: Any = getattr(library, "ops", None)
    if hasattr(ops, "copy_"):
        x, y = library.ones(half), library.ones(half)
        copies.append(Copy(lambda: ops.copy_(y, x), 8.0 * half))
    rates = [copy.bytes / best_time(copy.call, seconds / len(copies)) for copy in copies]
    return copies[rates.index(max(rates))]


def numpy_gemm(seconds: float = 0.3, size: int = 1024) -> float:
    """float32 operations per second of NumPy's own matrix product."""
    a = np.ones((size, size), np.float32)
    out = np.empty_like(a)
    return 2.0 * size**3 / best_time(lambda: np.matmul(a, a, out=out), seconds)


def torch_gemm(torch: Any, dtype: str, seconds: float = 0.3, size: int = 1024) -> float:
    """Operations per second of torch's matrix product."""
    a = torch.ones(size, size, dtype=getattr(torch, dtype))
    return 2.0 * size**3 / best_time(lambda: torch.matmul(a, a), seconds)


def measure_cpu(
    threads: int, cache_bytes: int, *, library: Any = None, torch: Any = None, seconds: float = 0.3
) -> Roofline:
    """Measure all the roofs of the CPU; about eight times `seconds`."""
    small = max(1 << 20, cache_bytes // 4)
    copy = fastest_copy(max(128 << 20, 4 * cache_bytes), threads, library, torch, seconds)
    cached = fastest_copy(small, threads, library, torch, seconds)
    roof = Roofline(
        memory=copy.bytes / best_time(copy.call, seconds),
        cache=cached.bytes / best_time(cached.call, seconds),
        cache_bytes=small,
        copy=copy,
    )
    roof.gemm["f32"] = numpy_gemm(seconds)
    if torch is not None:
        roof.gemm["f32"] = max(roof.gemm["f32"], torch_gemm(torch, "float32", seconds))
        roof.gemm["bf16"] = torch_gemm(torch, "bfloat16", seconds)
    for dtype in ("f32", "bf16", "int8"):
        rate = fma_peak(library, dtype, threads)
        if rate > 0:
            roof.peak[dtype] = rate
    return roof


def fma_peak(library: Any, dtype: str, threads: int) -> float:
    """Operations per second of an endless chain of FMAs in registers; 0 where not available."""
    probe = getattr(getattr(library, "_core", None), "roofline_fma_gflops", None)
    if probe is None:
        return 0.0
    with ThreadPoolExecutor(threads) as pool:
        runs = [list(pool.map(lambda _: float(probe(dtype)), range(threads))) for _ in range(5)]
    return max(sum(run) for run in runs) * 1e9
