# SPDX-License-Identifier: Apache-2.0
"""The CPU matrix product in GFLOP/s beside this machine's multiply-add peak, NumPy and PyTorch.

    python benchmarks/gemm_peak.py [--threads N] [--only big,skinny,hot] [--json FILE]

Contestants take turns within a round, after untimed calls that put other libraries' threads to
sleep. The figure is the best of the rounds; rounds during which the process waited for a CPU for
more than 3 % of the time count only where no other is left (marked *). `big` and `hot` use the same
weights in every call, `skinny` rotates through 160 MB of them. C = A [m, k] times W [n, k]
transposed, except where the name says nn (W [k, n]) or tn (A stored [k, m], W [k, n]).
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import datetime
import json
import os
import platform
import sys
import time
from pathlib import Path

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
parser.add_argument("--threads", type=int, default=os.cpu_count())
parser.add_argument("--only", default="big,skinny,hot")
parser.add_argument("--contestants", default="")
parser.add_argument("--rounds", type=int, default=4)
parser.add_argument("--json", type=Path)
options = parser.parse_args()
for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = str(options.threads)

import numpy as np  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "cpu"))
import gemm_harness as h  # noqa: E402

try:
    import torch

    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
except ImportError:
    torch = None

SHAPES = {
    "big": [
        (512, 768, 768),
        (128, 768, 3072),
        (2048, 768, 3072),
        (512, 3072, 768),
        (128, 768, 50257),
        (512, 4096, 4096),
    ],
    "skinny": [(1, 768, 3072), (4, 768, 3072), (8, 768, 3072), (16, 768, 3072), (1, 4096, 4096)],
    "hot": [
        (1, 64, 256),
        (1, 256, 1024),
        (32, 256, 1024),
        (8, 512, 2048),
        (64, 512, 2048),
        (1, 1024, 4096),
        (32, 1024, 4096),
    ],
}
# name: (type of A and W, layout, packed form or None)
OURS = {
    "f32 packed": (h.F32, "nt", h.PACK_F32),
    "f32": (h.F32, "nt", None),
    "f32 nn": (h.F32, "nn", None),
    "f32 tn": (h.F32, "tn", None),
    "bf16 packed": (h.BF16, "nt", h.PACK_BF16),
    "bf16": (h.BF16, "nt", None),
    "int8": (h.F32, "nt", h.PACK_INT8),
    "int4": (h.F32, "nt", h.PACK_INT4),
}
PEERS = ["numpy", "torch", "torch bf16"] if torch else ["numpy"]
COLD_BYTES = 160e6


def ours(lib, m: int, k: int, n: int, copies: int, name: str):
    dtype, layout, form = OURS[name]
    r = np.random.default_rng(0)
    a = h.encode(r.standard_normal((k, m) if layout[0] == "t" else (m, k), np.float32), dtype)
    w = h.encode(r.standard_normal((n, k) if layout[1] == "t" else (k, n), np.float32), dtype)
    c = np.zeros((m, n), np.float32)
    calls = (h.GemmArgs * copies)()
    keep = [a, c, calls]
    for g in calls:
        g.m, g.n, g.k, g.alpha, g.batch, g.quantize_a = m, n, k, 1, 1, True
        g.a, g.lda, g.trans_a, g.a_type = a.ctypes.data, a.shape[1], layout[0] == "t", dtype
        g.c, g.ldc = c.ctypes.data, n
        if form is None:
            weights = w.copy()
            g.b, g.ldb, g.trans_b, g.b_type = (
                weights.ctypes.data,
                w.shape[1],
                layout[1] == "t",
                dtype,
            )
        else:
            weights = h.pack(lib, w, dtype, True, form, 64)
            g.packed_b = ctypes.addressof(weights)
        keep.append(weights)
    address = ctypes.addressof(calls)
    return lambda repeats: (keep, lib.gemm_test_time(address, copies, repeats))[1]


def peer(m: int, k: int, n: int, copies: int, name: str):
    r = np.random.default_rng(0)
    a = r.standard_normal((m, k), np.float32)
    weights = [r.standard_normal((n, k), np.float32) for _ in range(min(copies, 2))]
    weights += [weights[0].copy() for _ in range(copies - len(weights))]
    if name == "numpy":
        out = np.zeros((m, n), np.float32)
        calls = [lambda w=w: np.matmul(a, w.T, out=out) for w in weights]
    else:
        dtype = torch.bfloat16 if name.endswith("bf16") else torch.float32
        x = torch.from_numpy(a).to(dtype)
        calls = [
            lambda w=w: torch.nn.functional.linear(x, w)
            for w in [torch.from_numpy(w).to(dtype) for w in weights]
        ]

    def run(repeats: int) -> float:
        start = time.perf_counter()
        for _ in range(repeats):
            for call in calls:
                call()
        return (time.perf_counter() - start) / (repeats * copies)

    return run


def waited() -> int:
    """Nanoseconds that this process's threads were ready to run and did not."""
    total = 0
    for task in Path("/proc/self/task").glob("*/schedstat"):
        with contextlib.suppress(OSError, IndexError):  # the thread has ended
            total += int(task.read_text().split()[1])
    return total


def measure(lib, shape: tuple[int, int, int], cold: bool, names: list[str]) -> dict[str, dict]:
    m, k, n = shape
    flops = 2.0 * m * k * n
    samples: dict[str, list[tuple[float, bool]]] = {name: [] for name in names}
    runs, repeats = {}, {}
    for name in names:
        copies = max(2, int(COLD_BYTES / (4 * k * n))) if cold else 1
        make = ours if name in OURS else peer
        runs[name] = (
            make(lib, m, k, n, copies, name) if make is ours else make(m, k, n, copies, name)
        )
        runs[name](1)
        repeats[name] = max(1, int(0.012 / (runs[name](1) * copies)))
    for turn in range(options.rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            deadline = time.perf_counter() + 0.03  # OpenBLAS threads spin for 25 ms
            while time.perf_counter() < deadline:
                runs[name](1)
            before, start = waited(), time.perf_counter()
            seconds = runs[name](repeats[name])
            quiet = waited() - before < 0.03e9 * (time.perf_counter() - start)
            samples[name].append((seconds, quiet))
    result = {}
    for name in names:
        good = [s for s, quiet in samples[name] if quiet]
        best = min(good or [s for s, _ in samples[name]])
        result[name] = {"gflops": round(flops / best * 1e-9, 1), "quiet_rounds": len(good)}
    return result


def main() -> None:
    lib = h.load_library()
    if lib is None:
        raise SystemExit("needs the source tree and a C++ compiler")
    lib.gemm_test_set_threads(options.threads)
    names = options.contestants.split(",") if options.contestants else [*OURS, *PEERS]
    peaks = {}
    for kind, name in enumerate(("f32", "bf16", "int8")):
        peaks[name] = round(max(lib.gemm_test_peak(kind, 2_000_000) for _ in range(5)) * 1e-9, 1)
    print(f"{options.threads} threads, peak GFLOP/s: {peaks}")
    rows = []
    for group in options.only.split(","):
        print(f"\n{group:24s}" + "".join(f"{name:>12s}" for name in names))
        for shape in SHAPES[group]:
            found = measure(lib, shape, group == "skinny", names)
            rows.append({"group": group, "shape": shape, "results": found})
            cells = [
                f"{v['gflops']:.1f}{' ' if v['quiet_rounds'] else '*'}" for v in found.values()
            ]
            print(
                f"{'x'.join(map(str, shape)):24s}" + "".join(f"{c:>12s}" for c in cells), flush=True
            )
        part = [row["results"] for row in rows if row["group"] == group]
        means = [np.exp(np.mean([np.log(r[name]["gflops"]) for r in part])) for name in names]
        print(f"{'geometric mean':24s}" + "".join(f"{x:11.1f} " for x in means), flush=True)
    if options.json:
        cpu = platform.processor() or platform.machine()
        for line in Path("/proc/cpuinfo").read_text().splitlines() if os.name == "posix" else ():
            if line.startswith(("model name", "cpu family")):
                cpu += " " + line.split(":")[1].strip()
            if line == "":
                break
        data = {
            "what": "GFLOP/s of C[m, n] = A[m, k] W; shapes are m x k x n",
            "date": datetime.date.today().isoformat(),
            "cpu": cpu,
            "cores": os.cpu_count(),
            "threads": options.threads,
            "versions": {
                "python": platform.python_version(),
                "numpy": np.__version__,
                "torch": torch.__version__ if torch else None,
            },
            "peak_gflops": peaks,
            "rows": rows,
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
