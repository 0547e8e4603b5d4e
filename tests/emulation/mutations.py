# SPDX-License-Identifier: Apache-2.0
"""Tests of the tester: errors planted in the test kernels, and which build notices them.

    python tests/emulation/mutations.py            prints the table and writes mutations.csv

A row says for the plain and for the checked build how the error shows: "report" (the launch fails
with a text), "numbers" (the result is wrong), "crash", "hang" or "missed".
"""

from __future__ import annotations

import csv
import multiprocessing
import sys
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from emulation import cases
from emulation.library import load, why_not

TABLE = Path(__file__).with_name("mutations.csv")
MODES = ("plain", "checked")
# Schedule, seed and moment of asynchronous copies, in the order in which they are tried.
RUNS = [
    ("fifo", 1, "lazy"),
    ("reverse", 1, "lazy"),
    ("random", 1, "lazy"),
    ("random", 2, "lazy"),
    ("fifo", 1, "eager"),
    ("random", 3, "random"),
]
TIME_LIMIT = 20.0

MUTATIONS: dict[str, dict[int, str]] = {
    "block_sum": {
        1: "no __syncwarp between lanes that exchange through shared memory",
        2: "misaligned float4 load",
        3: "host pointer dereferenced",
        4: "shared memory read before anybody wrote it",
        5: "local array overrun",
        6: "all blocks add to one cell without an atomic",
        7: "no __threadfence before publishing",
        8: "one element past dynamic shared memory",
        11: "full-mask shuffle after two lanes have left",
        12: "warp-synchronous tail without barriers",
        13: "shared flag overwritten while others read it",
        14: "spin on a flag that nobody raises",
        15: "no __threadfence after the counter",
        16: "no bound check on the ragged end",
    },
    "exchange": {1: "__ldg of memory that the launch writes", 2: "no __syncthreads in between"},
    "publish": {
        1: "no __syncwarp before lane 0's release",
        2: "relaxed store where a release is due",
        3: "reads the wrong half of the array",
    },
    "readers": {1: "one of fifteen readers does not wait for the write"},
    "streams": {
        1: "second stream does not wait for the first one's event",
        2: "host reads pinned memory without synchronising",
    },
    "released": {1: "memory released before the kernel that uses it"},
    "graph": {1: "synchronisation during capture", 2: "graph replayed once instead of twice"},
    "layer_norm": {
        1: "no __syncthreads before the partial sums are read",
        2: "no __syncthreads before the buffer is reused",
        3: "threads return before a barrier",
        4: "barriers on two sides of a branch",
        5: "reads one float4 past the last row",
        6: "full-mask shuffle in half of a warp",
        7: "shuffle from a lane outside the mask",
        8: "last element never written",
    },
    "attention": {
        1: "cp.async wait off by one",
        2: "no barrier after the wait",
        3: "ldmatrix with the wrong chunk",
        4: "ldmatrix without .trans",
        6: "no barrier before the buffer is refilled",
        7: "ldmatrix row not 16-byte aligned",
        8: "causal mask off by one",
        9: "running output not rescaled",
        10: "thread exits with cp.async under way",
    },
    "ragged_attention": {5: "no bound check on the ragged tail"},
    "lstm": {
        1: "cell starts from memory before the weights",
        2: "block barrier instead of the grid barrier",
        4: "one block skips the grid barrier",
        6: "no barrier after loading the state",
        7: "no barrier before the gates are read",
    },
    "lstm_flags": {
        3: "no barrier before the release",
        5: "relaxed counter instead of a release",
        8: "waits for one arrival too few",
    },
    "lstm_not_cooperative": {1: "grid barrier in a launch that is not cooperative"},
    "cluster": {
        1: "no cluster barrier before the parts are read",
        2: "rank outside the cluster",
        3: "no cluster barrier before remote memory is written",
    },
    "mailbox": {
        1: "barrier expects too many bytes",
        2: "no wait for the mailbox",
        3: "block exits while others still write to it",
    },
    "split": {
        1: "cluster: memory written between arrive and wait is read by another block",
        2: "cluster: the two sides of a branch arrive apart",
    },
    "phases": {1: "value of a barrier's next phase read after this one"},
    "proxy": {
        1: "global memory: proxy fence of shared memory alone before a bulk load",
        2: "global memory: no proxy fence before a bulk load",
    },
    "wgmma": {
        1: "no mbarrier wait",
        2: "wrong stride in the descriptor",
        3: "accumulators read before the wait",
        4: "no barrier before the stage is refilled",
        5: "wrong parity",
        6: "barrier expects half of the bytes",
        7: "barriers not fenced after their initialisation",
        8: "no wgmma_fence",
        9: "accumulators changed without a new fence",
        10: "no proxy fence before the tensor store",
        11: "descriptor with the wrong swizzle",
        12: "stage refilled while wgmma still reads it",
        13: "buffer changed while the tensor store reads it",
        14: "thread exits while its store still reads",
        15: "one warp of the four does not wait for the mbarrier",
        16: "accumulators written after the fence, the wgmma does not read them",
        17: "new accumulators set to zero after the fence",
        18: "accumulator written before the wait",
    },
    "wgmma_registers": {
        1: "no mbarrier wait",
        2: "wrong stride in the descriptor",
        15: "one warp of the four does not wait for the mbarrier",
        20: "registers of A loaded after the fence",
        21: "registers of A used again before the wait",
    },
    "ring": {
        1: "no wait for the empty stage",
        2: "one thread does not arrive",
        3: "one arrival too many",
        4: "misaligned bulk copy",
        5: "no proxy fence before the bulk store",
        6: "no barrier before the bulk store",
        7: "result buffer reused while the store reads it",
        8: "barriers used before the block has seen them",
        9: "named barrier with two thread counts",
        10: "result read back when its store has only left shared memory",
    },
}


def attempt(mode: str, case: str, bug: int, queue: multiprocessing.Queue) -> None:
    library = load(mode)
    function = getattr(cases, case)
    for number, (schedule, seed, copies) in enumerate(RUNS, 1):
        library.configure(schedule=schedule, seed=seed, sms=16)
        library.configure(**{"async": copies})
        try:
            error = function(library, bug)
        except RuntimeError as e:
            lines = [line.strip() for line in str(e).splitlines()]
            detail = next((line for line in lines if line.startswith("*")), lines[0])
            queue.put(("report", number, detail.removeprefix("* ")))
            return
        if not error < 1:
            queue.put(("numbers", number, f"error {error:.3g} x tolerance"))
            return
    queue.put(("missed", len(RUNS), ""))


def outcome(mode: str, case: str, bug: int) -> tuple[str, int, str]:
    """How the planted error shows, in which run, and the text."""
    load(mode)  # before the fork
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=attempt, args=(mode, case, bug, queue))
    process.start()
    try:
        found = queue.get(timeout=TIME_LIMIT)
    except Exception:
        found = ("hang" if process.is_alive() else "crash", 1, "")
    if process.is_alive():
        process.join(1)
        process.kill()
    process.join()
    return found


def every_mutation() -> Iterable[tuple[str, int, str]]:
    for case, bugs in MUTATIONS.items():
        for bug, text in bugs.items():
            yield case, bug, text


def main() -> int:
    if reason := why_not():
        print(f"cannot run: {reason}", file=sys.stderr)
        return 1
    rows = []
    for case, bug, text in every_mutation():
        found = {mode: outcome(mode, case, bug) for mode in MODES}
        rows.append([case, bug, text, *(f"{found[m][0]} ({found[m][1]})" for m in MODES)])
        print(f"{case:22s} {bug:3d} {rows[-1][3]:13s} {rows[-1][4]:13s} {text}")
        print(f"{'':26s} {found['checked'][2][:170]}")
    with TABLE.open("w", newline="") as f:
        writer = csv.writer(f, lineterminator="\n")
        writer.writerow(["kernel", "bug", "what", *MODES])
        writer.writerows(rows)
    for i, mode in enumerate(MODES):
        caught = sum(not r[3 + i].startswith("missed") for r in rows)
        print(f"{mode}: {caught} of {len(rows)} caught")
    return 0


if __name__ == "__main__":
    sys.exit(main())
