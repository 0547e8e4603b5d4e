#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Line and branch coverage of device code over what was run in the emulator.

    cmake -S . -B build/coverage -G Ninja -DSEQLOOM_CUDA=EMULATED -DSEQLOOM_COVERAGE=ON
    ninja -C build/coverage
    PYTHONPATH=build/coverage/python pytest tests/ops --device cuda
    python scripts/device_coverage.py build/coverage [--minimum 90] [--missing]

Counts the lines of __global__ and SEQLOOM_DEVICE functions, in headers as well; a line of a
template counts as run when any instantiation ran it.
"""

from __future__ import annotations

import argparse
import collections
import gzip
import json
import re
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CSRC = ROOT / "csrc"


@cache
def lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


@cache
def device_lines(path: Path) -> frozenset[int]:
    """Lines of the functions that are device code by their own words. gcov's list of functions will
    not do: those that are always inlined are not in it, only their lines are."""
    text = re.sub(r"//[^\n]*", "", "\n".join(lines_of(path)))
    found: set[int] = set()
    for head in re.finditer(r"__global__|SEQLOOM_DEVICE\w*|CONFORMANCE\(", text):
        if text.rfind("#define", text.rfind("\n", 0, head.start()), head.start()) >= 0:
            continue
        depth, at = 0, head.end()
        while at < len(text):
            c = text[at]
            if c == ";" and depth == 0:  # a declaration
                break
            depth += (c == "{") - (c == "}")
            if c == "}" and depth == 0:
                first, last = (text.count("\n", 0, k) + 1 for k in (head.start(), at))
                found.update(range(first, last + 1))
                break
            at += 1
    return frozenset(found)


def reports(build: Path) -> list[dict]:
    found = []
    for data in sorted(build.resolve().rglob("*.cu.gcda")):
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                ["gcov", "--json-format", "--branch-probabilities", str(data)],
                cwd=folder, capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode:
                print(done.stderr, file=sys.stderr)
            for name in Path(folder).glob("*.gcov.json.gz"):
                with gzip.open(name) as f:
                    found.append(json.load(f))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("build", type=Path)
    parser.add_argument(
        "--minimum", type=float, default=0.0, help="fail below this percentage of lines"
    )
    parser.add_argument("--missing", action="store_true", help="print the lines that never ran")
    arguments = parser.parse_args()
    lines: dict[Path, dict[int, int]] = collections.defaultdict(
        lambda: collections.defaultdict(int)
    )
    branches: dict[Path, dict[tuple[int, int], int]] = collections.defaultdict(
        lambda: collections.defaultdict(int)
    )
    for report in reports(arguments.build):
        base = Path(report.get("current_working_directory", "."))
        for file in report.get("files", []):
            path = (base / file["file"]).resolve()
            if CSRC not in path.parents or CSRC / "emulation" in path.parents:
                continue
            device = device_lines(path)
            for line in file["lines"]:
                if line["line_number"] not in device:
                    continue
                lines[path][line["line_number"]] += line["count"]
                for i, branch in enumerate(line["branches"]):
                    if not branch["throw"]:
                        branches[path][line["line_number"], i] += branch["count"]
    if not lines:
        print("no coverage data: build with SEQLOOM_COVERAGE=ON and run the tests", file=sys.stderr)
        return 1

    def row(name: str, paths: list[Path]) -> float:
        total = sum(len(lines[p]) for p in paths)
        hit = sum(count > 0 for p in paths for count in lines[p].values())
        ways = sum(len(branches[p]) for p in paths)
        taken = sum(count > 0 for p in paths for count in branches[p].values())
        percent = 100 * hit / max(total, 1)
        ways_percent = 100 * taken / max(ways, 1)
        print(
            f"{name:52s} {hit:5d}/{total:<5d} {percent:5.1f} %"
            f"  {taken:5d}/{ways:<5d} {ways_percent:5.1f} %"
        )
        return percent

    print(f"{'device code':52s} {'lines':>19s} {'branches':>19s}")
    for path in sorted(lines):
        row(path.relative_to(ROOT).as_posix(), [path])
        if arguments.missing:
            gaps = [str(n) for n, count in sorted(lines[path].items()) if not count]
            if gaps:
                print(f"    never run: {', '.join(gaps)}")
    percent = row("all", list(lines))
    return 1 if percent < arguments.minimum else 0


if __name__ == "__main__":
    sys.exit(main())
