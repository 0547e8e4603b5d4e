# SPDX-License-Identifier: Apache-2.0
"""Where cuBLASLt may be: the kernels ask once, at the first matrix product on a GPU."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

NAME = "libcublasLt.so.13"


def _from_pathfinder() -> str | None:
    """NVIDIA's own search: loaded already, wheels, conda, the loader, CUDA_PATH."""
    try:
        pathfinder = importlib.import_module("cuda.pathfinder")
    except ImportError:
        return None
    try:
        return str(pathfinder.load_nvidia_dynamic_lib("cublasLt").abs_path)
    except Exception:  # its errors are of its own classes, and all mean "not found"
        return None


def candidates() -> str:
    """Paths to try before the loader's own search, the likeliest first, one a line.

    ``SEQLOOM_CUBLASLT`` (a path), what cuda-pathfinder finds, then the folders of
    NVIDIA's wheels on ``sys.path``.

    >>> import os
    >>> os.environ["SEQLOOM_CUBLASLT"] = "/opt/libcublasLt.so.13"
    >>> candidates().splitlines()[0]
    '/opt/libcublasLt.so.13'
    >>> del os.environ["SEQLOOM_CUBLASLT"]
    """
    found: list[str] = []
    named = os.environ.get("SEQLOOM_CUBLASLT", "")
    if named:
        found.append(os.path.abspath(named))
    known = _from_pathfinder()
    if known is not None:
        found.append(known)
    for folder in sys.path:
        file = Path(folder, "nvidia", "cu13", "lib", NAME)
        if file.is_file():
            found.append(str(file))
    return "\n".join(found)
