#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Registers, spills and shared memory of every CUDA kernel, from ptxas.

    python scripts/cuda_resources.py            compile all kernels, rewrite csrc/cuda/resources.csv
    python scripts/cuda_resources.py --check    the same, but fail where the file is out of date
    python scripts/cuda_resources.py FILE.cu    only these files
    python scripts/cuda_resources.py --names    without nvcc: does the file name every kernel?

Fails when a kernel, or a function that it calls, spills registers, or when a kernel cannot be
launched with the block size of its __launch_bounds__ (without them: 1024 threads) because registers
or shared memory run out. Needs nvcc (but for --names), no GPU.

A kernel whose instructions an architecture lacks is a trap there (cuda/ptx.h) or empty, and no
launcher chooses it; its row says so in the column "runs" and is not judged. The dynamic shared
memory of a launch is not known here: the emulator refuses what a device has no room for.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "csrc" / "cuda" / "resources.csv"
ARCHITECTURES = ("75", "80", "90a", "120")
COLUMNS = ["file", "architecture", "kernel", "threads", "registers", "shared_bytes", "stack_bytes",
           "spill_store_bytes", "spill_load_bytes", "runs"]  # fmt: skip
REGISTERS = 65536
STATIC_SHARED = 48 * 1024


def demangle(names: list[str]) -> list[str]:
    done = subprocess.run(
        ["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def short(name: str) -> str:
    """The kernel's name with its template arguments, without parameters and namespaces."""
    name = re.sub(r"\(anonymous namespace\)::|seqloom::(ops|cuda)::|seqloom::", "", name)
    name = re.sub(r"^void ", "", name)
    depth = 0
    for i, c in enumerate(name):
        depth += (c == "<") - (c == ">")
        if c == "(" and depth == 0:
            return name[:i]
    return name


def threads_of(ptx: str) -> dict[str, int]:
    """Block size of each entry from its __launch_bounds__."""
    found = {}
    for entry in re.finditer(r"\.entry\s+(\w+)\s*\(.*?\)(.*?)\{", ptx, re.S):
        bounds = re.search(r"\.maxntid\s+(\d+)(?:\s*,\s*(\d+))?(?:\s*,\s*(\d+))?", entry[2])
        sizes = [int(x) for x in bounds.groups() if x] if bounds else []
        found[entry[1]] = 1
        for size in sizes:
            found[entry[1]] *= size
        if not sizes:
            found[entry[1]] = 1024
    return found


def stand_ins_of(ptx: str) -> dict[str, str]:
    """Entries that only take the place of a kernel that this architecture cannot run: a trap where
    the missing instruction would be, or nothing at all."""
    found = {}
    for body in re.finditer(r"\.entry\s+(\w+)\s*\(.*?\n\}", ptx, re.S):
        if re.search(r"^\s*trap;", body[0], re.M):
            found[body[1]] = "trap"
        elif re.findall(r"^\s*(?:@\S+\s+)?([a-z]\w*)[\w.]*.*;$", body[0], re.M) == ["ret"]:
            found[body[1]] = "empty"
    return found


def functions_called_by(ptx: str, entry: str) -> set[str]:
    """What this entry calls that was not inlined, directly or not."""
    function = re.compile(
        r"^(?:\.\w+\s+)*\.(?:entry|func)\s+(?:\([^)]*\)\s*)?([\w$]+)\s*\([^;]*?\{.*?^\}",
        re.S | re.M,
    )
    call = re.compile(r"\bcall(?:\.uni)?\s+(?:\([^)]*\)\s*,\s*)?([\w$]+)\s*[,;]")
    calls = {body[1]: set(call.findall(body[0])) for body in function.finditer(ptx)}
    found: set[str] = set()
    new = {entry}
    while new:
        new = set().union(*(calls.get(name, set()) for name in new)) - found
        found |= new
    return found


def kernels_of(source: Path, architecture: str, folder: Path) -> list[dict[str, object]]:
    ptx = folder / f"{source.stem}.{architecture}.ptx"
    subprocess.run(
        ["nvcc", "-std=c++17", "-O2", "--expt-relaxed-constexpr", f"-I{ROOT / 'csrc'}",
         "-w", "-DSEQLOOM_WITH_CUDA=1", f"-arch=compute_{architecture}", "-ptx", str(source),
         "-o", str(ptx)],
        check=True,
    )  # fmt: skip
    log = subprocess.run(
        ["ptxas", "-v", f"-arch=sm_{architecture}", str(ptx), "-o", str(ptx.with_suffix(".cubin"))],
        check=True, capture_output=True, text=True,
    ).stderr  # fmt: skip
    text = ptx.read_text()
    threads, stand_ins = threads_of(text), stand_ins_of(text)
    rows, name, function = {}, "", ""
    spills: dict[str, tuple[int, int]] = {}  # of functions that are called, not inlined
    for line in log.splitlines():
        if found := re.search(r"Compiling entry function '(\w+)'", line):
            name = found[1]
            rows[name] = {"file": source.relative_to(ROOT).as_posix(), "architecture": architecture,
                          "threads": threads[name], "shared_bytes": 0,
                          "runs": stand_ins.get(name, "yes")}  # fmt: skip
        elif found := re.search(r"Function properties for (\S+)", line):
            function = found[1]
        elif found := re.search(
            r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line
        ):
            if function == name:
                rows[name].update(
                    stack_bytes=int(found[1]),
                    spill_store_bytes=int(found[2]),
                    spill_load_bytes=int(found[3]),
                )
            else:
                spills[function] = int(found[2]), int(found[3])
        elif found := re.search(r"Used (\d+) registers", line):
            rows[name]["registers"] = int(found[1])
            if shared := re.search(r"(\d+) bytes smem", line):
                rows[name]["shared_bytes"] = int(shared[1])
    for entry, row in rows.items() if any(map(any, spills.values())) else ():
        for called in functions_called_by(text, entry) & spills.keys():
            row["spill_store_bytes"] += spills[called][0]
            row["spill_load_bytes"] += spills[called][1]
    for row, readable in zip(rows.values(), demangle(list(rows)), strict=True):
        row["kernel"] = short(readable)
    return list(rows.values())


def problems(row: dict[str, object]) -> list[str]:
    """Why this kernel must not be shipped."""
    found: list[str] = []
    if row["runs"] != "yes":
        return found
    if int(row["spill_store_bytes"]) or int(row["spill_load_bytes"]):
        found.append(f"spills {row['spill_store_bytes']} + {row['spill_load_bytes']} bytes")
    # Registers are given to warps in units of 8 a thread.
    per_thread = (int(row["registers"]) + 7) // 8 * 8
    per_block = per_thread * ((int(row["threads"]) + 31) // 32 * 32)
    if per_block > REGISTERS:
        found.append(
            f"{row['threads']} threads x {per_thread} registers exceed {REGISTERS} (bounds?)"
        )
    if int(row["shared_bytes"]) > STATIC_SHARED:
        found.append(f"{row['shared_bytes']} bytes of static shared memory exceed {STATIC_SHARED}")
    return found


def kernels_in(text: str) -> set[str]:
    """Names of the kernels that a source defines."""
    text = re.sub(r"//.*", "", text)
    bounds = r"(?:__launch_bounds__\((?:[^()]|\([^()]*\))*\)\s*)?"
    return set(re.findall(rf"__global__\s+void\s+{bounds}(\w+)\s*\(", text))


def with_headers(source: Path, seen: set[Path]) -> set[Path]:
    """A source and those of the project's headers that it includes, directly or not."""
    seen.add(source)
    for name in re.findall(r'^#include "([^"]+)"', source.read_text(encoding="utf-8"), re.M):
        header = ROOT / "csrc" / name
        if header.is_file() and header not in seen:
            with_headers(header, seen)
    return seen


def wrong_names(tracked: list[dict[str, str]]) -> list[str]:
    """Kernels that a file defines and the table lacks for an architecture, or the reverse."""
    found = []
    sources = {f.relative_to(ROOT).as_posix(): f for f in (ROOT / "csrc").rglob("*.cu")}
    listed: dict[tuple[str, str], set[str]] = {}
    for row in tracked:
        names = listed.setdefault((row["file"], row["architecture"]), set())
        names.add(row["kernel"].split("<")[0].split("::")[-1])
    for file in sorted(sources):
        own = kernels_in(sources[file].read_text(encoding="utf-8"))
        reached = with_headers(sources[file], set())
        known = set().union(*(kernels_in(f.read_text(encoding="utf-8")) for f in reached))
        for architecture in ARCHITECTURES:
            names = listed.pop((file, architecture), set())
            found += [f"{file} (sm_{architecture}): no row for {n}" for n in sorted(own - names)]
            found += [f"{file} (sm_{architecture}): {n} is gone" for n in sorted(names - known)]
    return found + [f"{file} (sm_{a}): not to be listed" for file, a in sorted(listed)]


def read_table(table: Path) -> list[dict[str, str]]:
    with table.open(newline="") as f:
        return list(csv.DictReader(f))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--names", action="store_true", help="only compare names, without nvcc")
    parser.add_argument("--table", type=Path, default=TABLE, help="of --names")
    parser.add_argument("-j", "--jobs", type=int, default=os.cpu_count(), help="compilers at once")
    arguments = parser.parse_args()
    if arguments.names:
        wrong = wrong_names(read_table(arguments.table))
        print("\n".join(wrong) or f"{arguments.table.name} names every kernel")
        return 1 if wrong else 0
    sources = [f.resolve() for f in arguments.files] or sorted((ROOT / "csrc").rglob("*.cu"))
    rows: list[dict[str, object]] = []
    jobs = [(source, architecture) for source in sources for architecture in ARCHITECTURES]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(arguments.jobs) as pool:
        for found in pool.map(lambda job: kernels_of(*job, Path(folder)), jobs):
            rows += found
    rows.sort(key=lambda r: (r["file"], r["architecture"], r["kernel"]))
    bad = 0
    for row in rows:
        for problem in problems(row):
            bad += 1
            print(f"{row['file']} (sm_{row['architecture']}) {row['kernel']}: {problem}")
    text = [[str(row[c]) for c in COLUMNS] for row in rows]
    tracked: list[list[str]] = []
    if TABLE.exists():
        with TABLE.open(newline="") as f:
            tracked = list(csv.reader(f))[1:]
    if arguments.files:
        names = {row[0] for row in text}
        text = sorted([r for r in tracked if r[0] not in names] + text)
    stale = sorted(tracked) != sorted(text)
    if arguments.check and stale:
        print(f"{TABLE.relative_to(ROOT)} is out of date: run scripts/cuda_resources.py")
    if not arguments.check:
        with TABLE.open("w", newline="") as f:
            writer = csv.writer(f, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows(text)
    print(f"{len(rows)} kernels in {len(sources)} files, {bad} problems")
    return 1 if bad or (arguments.check and stale) else 0


if __name__ == "__main__":
    sys.exit(main())
