# SPDX-License-Identifier: Apache-2.0
"""The emulator runs correct kernels without a false alarm and notices planted errors."""

from __future__ import annotations

import csv
import shutil
import subprocess
from pathlib import Path

import pytest

from emulation import cases, mutations, project_mutations
from emulation.library import CSRC, HERE, Library, load, why_not

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not() or "can run")


@pytest.fixture(params=mutations.MODES)
def library(request: pytest.FixtureRequest) -> Library:
    return load(request.param)


@pytest.mark.parametrize("case", sorted(cases.CASES))
@pytest.mark.parametrize(("schedule", "seed", "copies"), mutations.RUNS)
def test_correct_kernels_pass_silently(library, case, schedule, seed, copies):
    library.configure(schedule=schedule, seed=seed, sms=16, **{"async": copies})
    assert cases.CASES[case](library, 0) < 1


def tracked() -> dict[tuple[str, int], dict[str, str]]:
    with mutations.TABLE.open(newline="") as f:
        return {(r["kernel"], int(r["bug"])): r for r in csv.DictReader(f)}


def test_the_table_is_complete():
    planted = {(case, bug): text for case, bug, text in mutations.every_mutation()}
    assert {key: row["what"] for key, row in tracked().items()} == planted
    assert len(tracked()) >= 40


@pytest.mark.parametrize(
    ("case", "bug"), [pytest.param(c, b, id=f"{c}-{b}") for c, b, _ in mutations.every_mutation()]
)
def test_planted_errors_are_caught_by_the_checked_build(case, bug):
    kind, _, text = mutations.outcome("checked", case, bug)
    assert kind in ("report", "numbers"), text


def test_every_error_in_the_project_s_kernels_was_noticed():
    """The tracked table is whole; project_mutations.py makes it from two emulated builds."""
    with project_mutations.TABLE.open(newline="") as f:
        rows = {int(r["number"]): r for r in csv.DictReader(f)}
    planted = {n: (Path(f).name, *rest) for n, f, *rest, _, _, _ in project_mutations.MUTATIONS}
    assert {n: (r["file"], r["case"], r["what"]) for n, r in rows.items()} == planted
    assert len(rows) >= 40
    assert not [n for n, r in rows.items() if r["checked"].startswith("missed")]


def test_the_planted_errors_still_fit_the_kernels():
    for file in {m[1] for m in project_mutations.MUTATIONS}:
        project_mutations.mutated(file)


def test_the_device_survives_a_failed_launch(library):
    library.configure(schedule="fifo", seed=1, sms=16, **{"async": "lazy"})
    for bug in (11, 3, 8) if library.checked else (11, 11):
        with pytest.raises(RuntimeError, match=r"reduction\.cu"):
            cases.block_sum(library, bug)
        assert cases.block_sum(library, 0) < 1


def test_reports_name_both_sides_of_a_race():
    library = load("checked")
    library.configure(schedule="fifo", seed=1, sms=16, **{"async": "lazy"})
    with pytest.raises(RuntimeError, match=r"race on .*reduction\.cu:\d+.*reduction\.cu:\d+"):
        cases.exchange(library, 2)


@pytest.mark.parametrize(
    ("compiler", "runner", "flags"),
    [
        ("g++", [], []),
        ("g++", [], ["-DSEQLOOM_FIBER_UCONTEXT"]),
        ("aarch64-linux-gnu-g++", ["qemu-aarch64-static"], ["-static"]),
    ],
    ids=["native", "ucontext", "aarch64"],
)
def test_fibers_keep_their_registers(compiler, runner, flags, tmp_path):
    for tool in (compiler, *runner):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    sources = [HERE / "switch_test.cpp", CSRC / "emulation" / "fiber_switch.cpp"]
    program = tmp_path / "switch"
    command = [compiler, "-O2", "-std=c++17", f"-I{CSRC}", *flags, *map(str, sources)]
    subprocess.run([*command, "-o", str(program)], check=True)
    subprocess.run([*runner, str(program)], check=True)
