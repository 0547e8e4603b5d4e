# SPDX-License-Identifier: Apache-2.0
"""What this build is and what it runs on."""

from __future__ import annotations

from . import _core, cuda


def show_config() -> None:
    """Print version, compiler, instruction set, threads, matrix product, CUDA and devices.

    >>> import seqloom as sl
    >>> sl.show_config()  # doctest: +ELLIPSIS
    seqloom ...
    """
    build = _core.build_info()
    lines = [
        f"seqloom {build['version']}",
        f"compiler: {build['compiler']}",
        f"instruction set: {_core.active_isa()} of {', '.join(_core.supported_isas())}",
        f"threads: {_core.get_num_threads()}",
        "matrix product: our own (no BLAS)",
        f"CUDA build: {build['cuda']}",
    ]
    why = cuda.why_unavailable()
    if why:
        lines.append(f"CUDA devices: none, {why}")
    else:
        driver = _core.cuda_driver_version() or "none"
        lines.append(f"CUDA matrix product: {_core.cublaslt_status()}")
        lines.append(f"CUDA run time: {_core.cuda_runtime_version()}, driver: {driver}")
        for index in range(cuda.device_count()):
            p = cuda.get_device_properties(index)
            lines.append(f"cuda:{index}: {p.name}, sm_{p.major}{p.minor}, {p.total_memory} bytes")
    print("\n".join(lines))
