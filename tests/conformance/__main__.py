# SPDX-License-Identifier: Apache-2.0
"""Runs every wrapper and intrinsic on this machine's GPU and writes goldens.npz.

python -m tests.conformance            on a GPU machine: build with nvcc, run, write the goldens
python -m tests.conformance --compare  anywhere: the emulator against the goldens
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
from tests.conformance.common import (
    GOLDENS,
    Runner,
    build_emulated,
    build_for_gpu,
    disagreement,
    read_goldens,
)


def native_architecture() -> str:
    """What nvcc calls this machine's GPU, with the "a" that wgmma and setmaxnreg need on Hopper."""
    command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "native"
    found = answer.split()[0].replace(".", "") if answer.split() else ""
    return "sm_90a" if found == "90" else "native"


def write(architecture: str, target: Path) -> int:
    runner = Runner(build_for_gpu(architecture))
    if runner.library.c.test_device_count() < 1:
        print("no GPU: the goldens are what a GPU answers", file=sys.stderr)
        return 1
    goldens = read_goldens()
    for kernel in runner.kernels:
        if runner.supports(kernel):
            goldens[kernel.name] = runner.run(kernel)
        else:
            print(f"{kernel.name}: not on compute capability {runner.capability}")
    target.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(target, **dict(sorted(goldens.items())))
    print(
        f"{target}: {len(goldens)} kernels. Commit it as {GOLDENS.name}, then run with --compare."
    )
    return 0


def compare() -> int:
    runner, goldens, wrong = Runner(build_emulated()), read_goldens(), 0
    for kernel in runner.kernels:
        got = runner.run(kernel)
        if kernel.name not in goldens:
            print(f"{kernel.name:28s} no golden yet")
            continue
        problem = disagreement(kernel, got, goldens[kernel.name])
        wrong += bool(problem)
        print(f"{kernel.name:28s} {problem or 'agrees'}")
    print(f"{len(goldens)} of {len(runner.kernels)} kernels have goldens, {wrong} disagree")
    return 1 if wrong else 0


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.conformance",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--compare", action="store_true", help="emulator against the goldens")
    parser.add_argument("--arch", help="nvcc -arch (this machine's GPU)")
    parser.add_argument("--out", metavar="DIR", help="where goldens.npz goes (this folder)")
    arguments = parser.parse_args()
    if arguments.compare:
        return compare()
    target = Path(arguments.out, GOLDENS.name).resolve() if arguments.out else GOLDENS
    return write(arguments.arch or native_architecture(), target)


if __name__ == "__main__":
    sys.exit(main())
