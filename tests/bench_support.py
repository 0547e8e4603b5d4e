# SPDX-License-Identifier: Apache-2.0
"""Results for the tests of `seqloom bench`, made by hand."""

from __future__ import annotations

import numpy as np

from seqloom.bench.record import OURS, Report, Row


def row(name="softmax", label="8x64", ours=(1e-3,) * 9, peers=None, **fields):
    seconds = {OURS: list(ours), **{k: list(v) for k, v in (peers or {}).items()}}
    given = {
        "id": f"{name}/{label}/fwd/f32/cpu/2t/cold",
        "family": name,
        "name": name,
        "label": label,
        "sizes": {"rows": 8, "columns": 64},
        "mode": "fwd",
        "dtype": "f32",
        "device": "cpu",
        "threads": 2,
        "cache": "cold",
        "bytes": 1e6,
        "flops": 2e6,
        "seconds": seconds,
        "wait": {name: [0.0] * len(v) for name, v in seconds.items()},
        "kept": {name: [True] * len(v) for name, v in seconds.items()},
        "repeat": dict.fromkeys(seconds, 3),
        "error": 1e-7,
        "tolerance": 1e-6,
        "peak_bytes": {OURS: 4096, "torch": None},
        "roof_seconds": 5e-4,
        "bound": "memory",
    }
    return Row(**{**given, **fields})


def report(*rows, **env):
    block = {"machine": "test-2c", "seqloom": "0.1.0", "date": "2026-01-01 00:00 UTC",
             "cpu": "Test", "cores": 2, "threads": 2, "peers": {"torch": "2.13.0"}}  # fmt: skip
    roof = {
        "memory": 1e10,
        "cache": 2e10,
        "cache_bytes": 1 << 20,
        "peak": {"f32": 1e11},
        "gemm": {},
    }
    return Report({**block, **env}, roof, list(rows))


def noise(seed, scale=1.0, count=15):
    return 1e-3 * scale * (1 + 0.02 * np.random.default_rng(seed).standard_normal(count))
