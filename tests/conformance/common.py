# SPDX-License-Identifier: Apache-2.0
"""Inputs, builds and comparison of the conformance kernels.

Each kernel turns 32-bit words into 32-bit words. Inputs follow from the kernel's name, so that the
GPU's answers (goldens.npz) stay comparable as long as the kernel keeps its name.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import subprocess
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from emulation import library as emulated  # noqa: E402

GOLDENS = HERE / "goldens.npz"
KERNELS = sorted((HERE / "kernels").glob("*.cu"))

FLOAT_EDGES = [0x00000000, 0x80000000, 0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC12345, 0x7F800001,
               0x00000001, 0x807FFFFF, 0x00800000, 0x7F7FFFFF, 0xFF7FFFFF, 0x3F800000, 0x3F7FFFFF,
               0x3F800001, 0x477FE000, 0x477FF000, 0x387FC000, 0x33800000, 0x33000001, 0x42B00000,
               0xC2D00000, 0x3F801000, 0x3F803000]  # fmt: skip
INTEGER_EDGES = [0, 1, 0xFFFFFFFF, 0x80000000, 0x7FFFFFFF, 0x0000FFFF, 0xFFFF0000, 0xFFFFFFFE]
HALF_EDGES = [
    0x0000,
    0x8000,
    0x7C00,
    0xFC00,
    0x7E00,
    0xFE01,
    0x0001,
    0x83FF,
    0x0400,
    0x7BFF,
    0x3C00,
]
BFLOAT_EDGES = [
    0x0000,
    0x8000,
    0x7F80,
    0xFF80,
    0x7FC0,
    0xFFC1,
    0x0001,
    0x807F,
    0x0080,
    0x7F7F,
    0x3F80,
]


HALF_STRIDE = 67


@dataclass(frozen=True)
class Kernel:
    index: int
    name: str
    inputs: str
    compare: str
    in_words: int
    out_words: int
    capability: int


def words_of(kernel: Kernel) -> np.ndarray:
    """Random words of the kernel's kind, the first ones replaced by edge cases."""
    r = np.random.default_rng(zlib.crc32(kernel.name.encode()))
    n = kernel.in_words
    kind, *flags = kernel.inputs.split()
    edges = "edges" in flags
    if kind == "bits":
        w = r.integers(0, 1 << 32, n, np.uint64).astype(np.uint32)
        if n == 256:  # a word a thread, each by itself: others fold all of them into one
            w[: len(INTEGER_EDGES)] = INTEGER_EDGES
        return w
    if kind == "small":
        return r.standard_normal(n).astype(np.float32).view(np.uint32)
    if kind == "float":
        scale = 1.0 if kernel.compare == "mma" else 8.0
        w = (r.standard_normal(n) * scale).astype(np.float32).view(np.uint32).copy()
        if edges or kernel.compare != "mma":
            w[: len(FLOAT_EDGES)] = FLOAT_EDGES
        return w
    values = r.standard_normal(2 * n).astype(np.float32)
    if kind == "half":
        halves, special = values.astype(np.float16).view(np.uint16).copy(), HALF_EDGES
    else:
        bits = values.view(np.uint32)
        halves, special = (bits >> 16).astype(np.uint16), BFLOAT_EDGES
    if kernel.compare != "mma":
        halves[: len(special)] = special
    elif edges:  # spread out, so that rows and columns without one are left
        halves[::HALF_STRIDE] = np.resize(np.array(special, np.uint16), -(-2 * n // HALF_STRIDE))
    return halves.view(np.uint32)


class Runner:
    """The kernels of one library: the emulator's, or one that nvcc made for this machine's GPU."""

    def __init__(self, path: Path) -> None:
        self.library = emulated.Library.__new__(emulated.Library)
        c = self.library.c = ctypes.CDLL(str(path))
        c.test_allocate.restype = ctypes.c_void_p
        c.test_allocate.argtypes = [ctypes.c_size_t]
        c.test_release.argtypes = [ctypes.c_void_p]
        for name in ("test_copy_in", "test_copy_out"):
            getattr(c, name).argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
        c.test_error.restype = c.conformance_text.restype = ctypes.c_char_p
        self.kernels = [
            Kernel(
                i,
                *(c.conformance_text(i, k).decode() for k in range(3)),
                *(c.conformance_number(i, k) for k in range(3)),
            )
            for i in range(c.conformance_count())
        ]

    @functools.cached_property
    def capability(self) -> int:
        """90 counts as 91: sm_90a is the same chip."""
        found = self.library.c.test_capability()
        return 91 if found == 90 else found

    def supports(self, kernel: Kernel) -> bool:
        # wgmma and setmaxnreg belong to compute capability 9.0 alone.
        return (
            self.capability == 91
            if kernel.capability == 91
            else self.capability >= kernel.capability
        )

    def run(self, kernel: Kernel) -> np.ndarray:
        # The result array starts as ones, like nothing a kernel leaves by accident.
        out = np.full(kernel.out_words, 0xFFFFFFFF, np.uint32)
        return self.library.run("conformance", words_of(kernel), out, kernel.index)[1]


def build_emulated(mode: str = "checked") -> Path:
    """The conformance library for the emulator, from the same cache as the other test kernels."""
    flags = emulated.KERNEL + (emulated.CHECKED if mode == "checked" else [])
    registry = hashlib.sha256((HERE / "registry.h").read_bytes()).hexdigest()
    objects = emulated.emulator_objects(mode)
    objects += [emulated.compile_object(p, [*flags, f"-DREGISTRY_{registry[:8]}"]) for p in KERNELS]
    return emulated.link(f"conformance-{mode}", objects, [])


def build_for_gpu(architecture: str) -> Path:
    """Compiled by nvcc with the static runtime: what the GPU itself answers."""
    target = emulated.cache_folder() / f"conformance-{architecture}.so"
    sources = [*KERNELS, emulated.HERE / "support.cpp"]
    sources += [emulated.CSRC / "cuda" / f"{n}.cpp" for n in emulated.HOST_PARTS]
    command = ["nvcc", "-std=c++17", "-O2", "-shared", "-Xcompiler=-fPIC", "-DSEQLOOM_WITH_CUDA=1"]
    command += ["--expt-relaxed-constexpr", f"-I{emulated.CSRC}", f"-arch={architecture}", "-t0"]
    subprocess.run([*command, *map(str, sources), "-o", str(target), "-ldl"], check=True)
    return target


def halves_to_float(words: np.ndarray, kind: str) -> np.ndarray:
    halves = words.view(np.uint16)
    if kind == "half":
        return halves.view(np.float16).astype(np.float64)
    return (halves.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def disagreement(kernel: Kernel, got: np.ndarray, golden: np.ndarray) -> str:
    """Empty when `got` is as close to the GPU's answer as the kernel promises."""
    if kernel.compare == "words" or (
        kernel.compare == "exact" and kernel.inputs not in ("float", "small")
    ):
        wrong = got != golden
        return f"{wrong.sum()} of {got.size} words differ" if wrong.any() else ""
    x, y = got.view(np.float32).astype(np.float64), golden.view(np.float32).astype(np.float64)
    if kernel.compare == "exact":  # floats: any NaN is a NaN, else the same bits
        wrong = (got != golden) & ~(np.isnan(x) & np.isnan(y))
        return f"{wrong.sum()} of {got.size} words differ" if wrong.any() else ""
    infinite = np.isinf(x) | np.isinf(y)
    same_special = (np.isnan(x) == np.isnan(y)) & (~infinite | (x == y))
    if not same_special.all():
        return f"{(~same_special).sum()} of {got.size} differ in NaN or infinity"
    finite = np.isfinite(x) & np.isfinite(y)
    # Tensor cores truncate products' sums; results below the smallest normal number may be flushed.
    tolerance = 2e-4 if kernel.compare == "mma" else float(kernel.compare)
    floor = 16.0 if kernel.compare == "mma" else 1e-30
    scale = np.maximum(np.abs(y[finite]), floor)
    worst = float(np.max(np.abs(x[finite] - y[finite]) / scale, initial=0.0))
    return f"error {worst:.3g}, allowed {tolerance:.3g}" if worst > tolerance else ""


def read_goldens() -> dict[str, np.ndarray]:
    if not GOLDENS.exists():
        return {}
    with np.load(GOLDENS) as data:
        return {name: data[name] for name in data.files}
