# SPDX-License-Identifier: Apache-2.0
"""The roofs of a GPU, through torch where it is installed and through seqloom otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from seqloom.bench.roofline import Roofline

_SIZE = 8192
_COPY_BYTES = 1 << 30


def measure_cuda(library: Any, torch: Any = None) -> Roofline:
    """Copy bandwidth and matrix-product rates of the current device."""
    if torch is not None and torch.cuda.is_available():
        return _through_torch(torch)
    return _through_seqloom(library)


def _best(event: Callable[[], Any], wait: Callable[[], None], call: Callable[[], Any]) -> float:
    for _ in range(3):
        call()
    best = float("inf")
    for _ in range(20):
        start, end = event(), event()
        start.record()
        call()
        end.record()
        wait()
        best = min(best, float(start.elapsed_time(end)) * 1e-3)
    return best


def _through_torch(torch: Any) -> Roofline:
    def timed(call: Callable[[], Any]) -> float:
        return _best(lambda: torch.cuda.Event(enable_timing=True), torch.cuda.synchronize, call)

    source = torch.ones(_COPY_BYTES // 4, device="cuda")
    target = torch.empty_like(source)
    memory = 2.0 * _COPY_BYTES / timed(lambda: target.copy_(source))
    roof = Roofline(memory=memory, cache=memory, cache_bytes=0)
    for name, dtype in (("f32", torch.float32), ("bf16", torch.bfloat16), ("f16", torch.float16)):
        a = torch.randn(_SIZE, _SIZE, device="cuda").to(dtype)
        roof.gemm[name] = 2.0 * _SIZE**3 / timed(lambda a=a: a @ a)  # type: ignore[misc]
    return roof


def _through_seqloom(library: Any) -> Roofline:
    def timed(call: Callable[[], Any]) -> float:
        cuda = library.cuda
        return _best(lambda: cuda.Event(enable_timing=True), cuda.synchronize, call)

    source = library.ones(_COPY_BYTES // 4, device="cuda")
    memory = 2.0 * _COPY_BYTES / timed(lambda: source.clone())
    roof = Roofline(memory=memory, cache=memory, cache_bytes=0)
    for name, dtype in (("f32", library.float32), ("bf16", library.bfloat16)):
        a = library.randn(_SIZE, _SIZE, device="cuda").to(dtype=dtype)
        roof.gemm[name] = 2.0 * _SIZE**3 / timed(lambda a=a: library.ops.matmul(a, a))  # type: ignore[misc]
    return roof
