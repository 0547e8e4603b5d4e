# SPDX-License-Identifier: Apache-2.0
"""Builds the test kernels with the host compiler and the emulator, and calls them.

Two libraries: "plain" and "checked" (instrumented). Objects are cached by the hash of everything
that goes into them, so that a second run compiles nothing.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CSRC = ROOT / "csrc"

COMMON = ["-std=c++17", "-O2", "-g", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra"]
COMMON += ["-Wno-psabi", "-Wno-unknown-pragmas", "-ffp-contract=off"]
COMMON += ["-DSEQLOOM_WITH_CUDA=1", "-DSEQLOOM_CUDA_EMULATED=1", f"-I{CSRC}"]
KERNEL = ["-x", "c++", "-ftrivial-auto-var-init=pattern"]
CHECKED = ["-fsanitize=thread,undefined", "-fno-sanitize=vptr"]
CHECKED += ["--param=tsan-instrument-func-entry-exit=0", "--param=tsan-distinguish-volatile=1"]


@functools.cache
def cuda_headers() -> Path | None:
    """The folder with cuda_runtime.h: of the toolkit, or of the pip packages."""
    candidates = [
        Path(os.environ[k]) / "include" for k in ("CUDA_HOME", "CUDA_PATH") if k in os.environ
    ]
    if nvcc := shutil.which("nvcc"):
        listing = subprocess.run(
            [nvcc, "--dryrun", "-c", "x.cu"], capture_output=True, text=True, check=False
        ).stderr
        if found := re.search(r"TOP=(.*)", listing):
            candidates.append(Path(found[1].strip()).resolve() / "include")
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        candidates.append(Path(folder) / "cu13" / "include")
    candidates.append(Path("/usr/local/cuda/include"))
    return next((c for c in candidates if (c / "cuda_runtime.h").is_file()), None)


def why_not() -> str:
    """Empty when the libraries can be built."""
    if shutil.which("g++") is None:
        return "needs g++"
    if cuda_headers() is None:
        return "needs NVIDIA's headers (pip: nvidia-cuda-runtime nvidia-cuda-crt nvidia-cuda-cccl)"
    return "" if CSRC.is_dir() else "needs the source tree"


def cache_folder() -> Path:
    given = os.environ.get("SEQLOOM_TEST_CACHE")
    folder = Path(given) if given else Path(tempfile.gettempdir()) / f"seqloom-tests-{os.getuid()}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@functools.cache
def headers_hash() -> str:
    digest = hashlib.sha256()
    folders = [CSRC / "cuda", CSRC / "emulation", CSRC / "core", HERE]
    for path in sorted(p for f in folders for p in f.rglob("*.h")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def compile_object(source: Path, flags: list[str]) -> Path:
    headers = cuda_headers()
    command = ["g++", *COMMON, "-isystem", str(headers), "-isystem", f"{headers}/cccl", *flags]
    key = hashlib.sha256()
    key.update(" ".join(command).encode() + headers_hash().encode() + source.read_bytes())
    target = cache_folder() / f"{source.stem}-{key.hexdigest()[:20]}.o"
    if not target.exists():
        partial = target.with_suffix(f".{os.getpid()}.tmp")
        done = subprocess.run(
            [*command, "-c", str(source), "-o", str(partial)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{source.name} does not compile:\n{done.stderr[-4000:]}")
        partial.rename(target)
    return target


# The host half of csrc/cuda, which every library of test kernels links beside the emulator.
HOST_PARTS = sorted(p.stem for p in (CSRC / "cuda").glob("*.cpp") if p.stem != "unavailable")


def link(name: str, objects: list[Path], flags: list[str]) -> Path:
    key = hashlib.sha256("".join(map(str, objects)).encode()).hexdigest()[:20]
    library = cache_folder() / f"{name}-{key}.so"
    if not library.exists():
        partial = library.with_suffix(f".{os.getpid()}.tmp")
        command = ["g++", "-shared", "-Wl,--no-undefined", "-Wl,-Bsymbolic", "-o", str(partial)]
        subprocess.run([*command, *map(str, objects), *flags, "-ldl", "-lpthread"], check=True)
        partial.rename(library)
    return library


def emulator_objects(mode: str) -> list[Path]:
    """The emulator and the CUDA toolbox; never instrumented."""
    left_out = "no_callouts" if mode == "checked" else "callouts"
    sources = [p for p in sorted((CSRC / "emulation").glob("*.cpp")) if p.stem != left_out]
    sources += [CSRC / "cuda" / f"{n}.cpp" for n in HOST_PARTS] + [HERE / "support.cpp"]
    return [compile_object(p, []) for p in sources]


@functools.cache
def build(mode: str) -> Path:
    """Path of the library of test kernels, "plain" or "checked"."""
    flags = KERNEL + (CHECKED if mode == "checked" else [])
    kernels = [compile_object(p, flags) for p in sorted((HERE / "kernels").glob("*.cu"))]
    return link(f"kernels-{mode}", emulator_objects(mode) + kernels, [])


class Library:
    """The test kernels of one build, with NumPy arrays as arguments."""

    def __init__(self, path: Path) -> None:
        self.c = ctypes.CDLL(str(path))
        self.c.test_allocate.restype = ctypes.c_void_p
        self.c.test_allocate.argtypes = [ctypes.c_size_t]
        self.c.test_release.argtypes = [ctypes.c_void_p]
        for name in ("test_copy_in", "test_copy_out"):
            getattr(self.c, name).argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
        self.c.test_error.restype = ctypes.c_char_p
        self.checked = bool(self.c.test_has_checker())

    def _check(self, code: int) -> None:
        if code:
            raise RuntimeError(self.c.test_error().decode())

    def configure(self, **settings: Any) -> None:
        for name, value in settings.items():
            self._check(self.c.test_configure(name.replace("_", "").encode(), str(value).encode()))

    def run(self, name: str, *arguments: Any) -> list[np.ndarray]:
        """Calls run_<name>. NumPy arrays travel to the device and back; returns them after.

        An array given as ("empty", shape, dtype) starts as the device's fresh memory; ("host",
        array) stays a host pointer.
        """
        arrays: list[tuple[int, np.ndarray]] = []
        raw: list[Any] = []
        try:
            for a in arguments:
                if isinstance(a, tuple) and a[0] == "host":
                    raw.append(ctypes.c_void_p(a[1].ctypes.data))
                elif isinstance(a, np.ndarray | tuple):
                    host = np.empty(a[1], a[2]) if isinstance(a, tuple) else np.ascontiguousarray(a)
                    p = self.c.test_allocate(max(host.nbytes, 1))
                    arrays.append((p, host))
                    if isinstance(a, np.ndarray):
                        self._check(self.c.test_copy_in(p, host.ctypes.data, host.nbytes))
                    raw.append(ctypes.c_void_p(p))
                elif isinstance(a, float):
                    raw.append(ctypes.c_float(a))
                else:
                    raw.append(ctypes.c_int(int(a)))
            self._check(getattr(self.c, f"run_{name}")(*raw))
            out = []
            for p, host in arrays:
                result = np.empty_like(host)
                self._check(self.c.test_copy_out(result.ctypes.data, p, host.nbytes))
                out.append(result)
            return out
        finally:
            for p, _ in arrays:
                self.c.test_release(p)
            self.c.test_synchronize()

    def statistics(self) -> dict[str, int]:
        values = (ctypes.c_ulonglong * 9)()
        self.c.test_statistics(values)
        names = "launches blocks threads switches collectives mma accesses ldmatrix conflicts"
        return dict(zip(names.split(), values, strict=True))


@functools.cache
def load(mode: str) -> Library:
    return Library(build(mode))
