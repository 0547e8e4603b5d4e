# SPDX-License-Identifier: Apache-2.0
"""The CPU toolbox as a small shared library: compiled once, called through ctypes.

The flags are read from the project's CMake files, so the tests see what the kernels see.
SEQLOOM_CPU_TEST_LIBRARY names a library that was built elsewhere.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
SHARED = (
    "csrc/cpu/isa.cpp",
    "csrc/cpu/parallel.cpp",
    "csrc/cpu/scratch.cpp",
    "csrc/cpu/topology.cpp",
    "csrc/core/allocator.cpp",
    "tests/cpu/cpu_test.cpp",
)
PER_ISA = "tests/cpu/cpu_test_isa.cpp"

ON_ARM = platform.machine().lower() in ("aarch64", "arm64")
LEVELS = ("baseline", "neon") if ON_ARM else ("baseline", "avx2", "avx512", "avx512bf16")


def enumeration(name: str) -> dict[str, int]:
    """The values of one of cpu_test.h's enums."""
    body = re.search(rf"enum {name} : int {{(.*?)}};", (HERE / "cpu_test.h").read_text(), re.S)
    assert body
    return {k: i for i, k in enumerate(re.findall(r"k_(\w+)", body[1]))}


FUNCTIONS = enumeration("Function")
BINARY = enumeration("Binary")
CONVERSIONS = enumeration("Conversion")


def cmake_flags() -> tuple[list[str], dict[str, list[str]]]:
    """The flags of all sources, and those of each instruction set, from the CMake files."""

    def words(pattern: str, text: str) -> list[str]:
        found = re.search(pattern, text, re.S)
        assert found, pattern
        return [w for w in found[1].split() if w.startswith("-")]

    isa = (ROOT / "cmake" / "SeqloomIsa.cmake").read_text()
    common = words(r"set\(seqloom_flags (-O2.*?)\)", (ROOT / "CMakeLists.txt").read_text())
    common += words(r"target_compile_options\(seqloom_\$\{name\} PRIVATE (-f.*?)\)", isa)
    levels = {"isa_baseline": []}
    if ON_ARM:
        levels["isa_neon"] = []
    elif platform.machine().lower() in ("x86_64", "amd64"):
        avx2 = words(r"set\(avx2 (-.*?)\)", isa)
        avx512 = avx2 + words(r"set\(avx512 \$\{avx2\}(.*?)\)", isa)
        bf16 = avx512 + words(r"list\(APPEND avx512 (.*?)\)", isa)
        levels |= {"isa_avx2": avx2, "isa_avx512": avx512, "isa_avx512bf16": bf16}
    return common, levels


def build(compiler: str) -> Path:
    """The library's path; compiled where no earlier run with the same sources has."""
    common, levels = cmake_flags()
    common += ["-std=c++17", "-fPIC", "-fvisibility=hidden", "-pthread"]
    common += [f"-I{ROOT / 'csrc'}", f"-I{HERE}"]
    common += [f"-DSEQLOOM_HAVE_{n[4:].upper()}=1" for n in levels if n != "isa_baseline"]
    units = [(ROOT / source, []) for source in SHARED]
    units += [(ROOT / PER_ISA, [f"-DSEQLOOM_ISA_NS={n}", *f]) for n, f in levels.items()]
    digest = hashlib.sha256(repr((compiler, common, levels)).encode())
    for path in sorted([*(ROOT / "csrc").glob("c*/*.[hc]*"), *HERE.glob("cpu_test*")]):
        digest.update(path.read_bytes())
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = Path(tempfile.gettempdir()) / f"seqloom-cpu-test-{user}-{digest.hexdigest()[:16]}"
    library = folder / "libseqloom_cpu_test.so"
    folder.mkdir(mode=0o700, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        if os.name == "posix":
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)
        if library.exists():
            return library
        objects = []
        for i, (source, flags) in enumerate(units):
            objects.append(str(folder / f"{i}.o"))
            command = [compiler, *common, *flags, "-c", str(source), "-o", objects[-1]]
            subprocess.run(command, check=True)
        scratch = folder / "linking.so"
        subprocess.run([compiler, "-shared", "-pthread", *objects, "-o", scratch], check=True)
        scratch.rename(library)
    return library


@functools.cache
def load_library() -> ctypes.CDLL:
    path = os.environ.get("SEQLOOM_CPU_TEST_LIBRARY")
    if path is None:
        compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
        if os.name != "posix" or not compiler or not (ROOT / "csrc").is_dir():
            pytest.skip("needs the source tree and a C++ compiler")
        path = str(build(compiler))
    lib = ctypes.CDLL(path)
    lib.cpu_test_active_isa.restype = ctypes.c_char_p
    lib.cpu_test_isa_error.restype = ctypes.c_char_p
    lib.cpu_test_chunk_size.restype = ctypes.c_int64
    lib.cpu_test_parallel_for.restype = ctypes.c_int64
    lib.cpu_test_parallel_sum.restype = ctypes.c_float
    lib.cpu_test_parallel_nested.restype = ctypes.c_int64
    lib.cpu_test_allocate.restype = ctypes.c_void_p
    lib.cpu_test_reference.restype = ctypes.c_double
    return lib


def pointer(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def i64(value: int) -> ctypes.c_int64:
    return ctypes.c_int64(value)


def u64(value: int) -> ctypes.c_uint64:
    return ctypes.c_uint64(value)


def run_map(lib: ctypes.CDLL, name: str, x: np.ndarray, parameter: float = 0.0) -> np.ndarray:
    x = np.ascontiguousarray(x, np.float32)
    out = np.empty_like(x)
    function = FUNCTIONS[name]
    lib.cpu_test_map_run(function, pointer(x), pointer(out), i64(x.size), ctypes.c_float(parameter))
    return out


def run_binary(lib: ctypes.CDLL, name: str, *args: np.ndarray, n: int | None = None) -> np.ndarray:
    """Applies a two- or three-operand function; `out` has room for a transposed square."""
    arrays = [np.ascontiguousarray(a) for a in args]
    while len(arrays) < 3:
        arrays.append(arrays[-1])
    out = np.zeros(max(arrays[0].size, 2 * 16 * 16), np.float32)
    count = arrays[0].size if n is None else n
    lib.cpu_test_binary_run(BINARY[name], *map(pointer, arrays), pointer(out), i64(count))
    return out


def run_in_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs code that starts with `lib` (this library) in a process of its own."""
    prelude = (
        f"import sys; sys.path.insert(0, {str(HERE)!r}); import cpu_harness; "
        "lib = cpu_harness.load_library()\n"
    )
    return subprocess.run(
        [sys.executable, "-c", prelude + code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
