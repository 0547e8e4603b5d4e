# SPDX-License-Identifier: Apache-2.0
"""The matrix product of csrc/cpu as a small shared library, and its structs for ctypes."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from cpu_harness import LEVELS, ROOT, cmake_flags  # noqa: E402, F401

SHARED = (
    "csrc/cpu/isa.cpp",
    "csrc/cpu/parallel.cpp",
    "csrc/cpu/scratch.cpp",
    "csrc/cpu/topology.cpp",
    "csrc/cpu/gemm.cpp",
    "csrc/core/allocator.cpp",
    "tests/cpu/gemm_test.cpp",
)
PER_ISA = ("csrc/cpu/gemm_bf16_cpu.cpp", "csrc/cpu/roofline_bf16_cpu.cpp")

i64, u8, flag, address = ctypes.c_int64, ctypes.c_uint8, ctypes.c_bool, ctypes.c_void_p
F32, F16, BF16, F64, I64, I32 = range(6)  # DType
PACK_F32, PACK_BF16, PACK_F16, PACK_INT8, PACK_INT4 = range(5)  # PackFormat
NONE, RELU, GELU, GELU_TANH, SILU = range(5)  # Activation


class PackedMatrix(ctypes.Structure):
    _fields_ = [("format", u8), ("isa", ctypes.c_int), ("k", i64), ("n", i64), ("group", i64)]
    _fields_ += [(name, address) for name in ("panels", "scales", "mins", "sums")]


class PackArgs(ctypes.Structure):
    _fields_ = [("format", u8), ("type", u8), ("k", i64), ("n", i64), ("b", address)]
    _fields_ += [("ldb", i64), ("trans_b", flag), ("group", i64), ("memory", address)]
    _fields_ += [("out", address)]


class GemmArgs(ctypes.Structure):
    _fields_ = [("m", i64), ("n", i64), ("k", i64)]
    _fields_ += [("a", address), ("lda", i64), ("trans_a", flag), ("a_type", u8)]
    _fields_ += [("b", address), ("ldb", i64), ("trans_b", flag), ("b_type", u8)]
    _fields_ += [("packed_b", address), ("quantize_a", flag)]
    _fields_ += [("c", address), ("ldc", i64), ("c_type", u8)]
    _fields_ += [("alpha", ctypes.c_double), ("beta", ctypes.c_double), ("batch", i64)]
    _fields_ += [("a_batch", i64), ("b_batch", i64), ("c_batch", i64)]
    _fields_ += [("bias", address), ("bias_type", u8), ("bias_per_row", flag), ("activation", u8)]
    _fields_ += [("residual", address), ("ld_residual", i64), ("residual_batch", i64)]
    _fields_ += [("preact", address), ("ld_preact", i64), ("preact_batch", i64)]


def compile_library(compiler: str) -> Path:
    common, levels = cmake_flags()
    common += ["-std=c++17", "-fPIC", "-fvisibility=hidden", "-pthread", f"-I{ROOT / 'csrc'}"]
    common += [f"-DSEQLOOM_HAVE_{n[4:].upper()}=1" for n in levels if n != "isa_baseline"]
    units = [(ROOT / source, []) for source in SHARED]
    for source in PER_ISA:
        units += [(ROOT / source, [f"-DSEQLOOM_ISA_NS={n}", *f]) for n, f in levels.items()]
    digest = hashlib.sha256(repr((compiler, common, levels)).encode())
    for path in sorted([*(ROOT / "csrc").glob("c*/*.[hc]*"), *HERE.glob("gemm_test*")]):
        digest.update(path.read_bytes())
    folder = Path(tempfile.gettempdir()) / f"seqloom-gemm-{os.getuid()}-{digest.hexdigest()[:16]}"
    library = folder / "libseqloom_gemm_test.so"
    folder.mkdir(mode=0o700, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        import fcntl

        fcntl.flock(lock, fcntl.LOCK_EX)
        if library.exists():
            return library
        objects = []
        for i, (source, flags) in enumerate(units):
            objects.append(str(folder / f"{i}.o"))
            command = [compiler, *common, "-w", *flags, "-c", str(source), "-o", objects[-1]]
            subprocess.run(command, check=True)
        scratch = folder / "linking.so"
        subprocess.run([compiler, "-shared", "-pthread", *objects, "-o", scratch], check=True)
        scratch.rename(library)
    return library


@functools.cache
def load_library() -> ctypes.CDLL | None:
    """None where there is no source tree or compiler."""
    path = os.environ.get("SEQLOOM_GEMM_TEST_LIBRARY")
    if path is None:
        compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
        if os.name != "posix" or not compiler or not (ROOT / "csrc").is_dir():
            return None
        path = str(compile_library(compiler))
    lib = ctypes.CDLL(path)
    lib.gemm_test_packed_bytes.restype = ctypes.c_uint64
    lib.gemm_test_packed_bytes.argtypes = [ctypes.c_int, i64, i64, i64]
    lib.gemm_test_time.restype = ctypes.c_double
    lib.gemm_test_time.argtypes = [address, i64, i64]
    lib.gemm_test_peak.restype = ctypes.c_double
    lib.gemm_test_peak.argtypes = [ctypes.c_int, i64]
    for which, struct in enumerate((GemmArgs, PackArgs, PackedMatrix)):
        assert lib.gemm_test_sizeof(which) == ctypes.sizeof(struct)
    return lib


def encode(x: np.ndarray, dtype: int) -> np.ndarray:
    """x rounded to the dtype; bfloat16 as uint16."""
    if dtype == BF16:
        bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return x.astype(
        {F32: np.float32, F16: np.float16, F64: np.float64, I64: np.int64, I32: np.int32}[dtype]
    )


def decode(x: np.ndarray) -> np.ndarray:
    """The values in float64."""
    if x.dtype == np.uint16:
        return (x.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return x.astype(np.float64)


def pack(lib, b: np.ndarray, dtype: int, trans_b: bool, form: int, group: int = 0) -> PackedMatrix:
    """The packed b; its memory lives as long as the struct."""
    n, k = b.shape if trans_b else b.shape[::-1]
    size = lib.gemm_test_packed_bytes(form, k, n, group)
    memory = np.full(size + 128, 0xA5, np.uint8)
    start = (memory.ctypes.data + 63) // 64 * 64
    out = PackedMatrix()
    args = PackArgs(format=form, type=dtype, k=k, n=n, b=b.ctypes.data, ldb=b.shape[1])
    args.trans_b, args.group, args.memory, args.out = trans_b, group, start, ctypes.addressof(out)
    lib.gemm_test_pack(ctypes.byref(args))
    assert (memory[start - memory.ctypes.data + size :] == 0xA5).all()
    out.keep = memory
    return out
