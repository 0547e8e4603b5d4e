# SPDX-License-Identifier: Apache-2.0
"""`seqloom bench`: statistics, the timing engine, records, comparison, and the command."""

from __future__ import annotations

import getpass
import itertools
import json
import os
import platform
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest

from seqloom.bench import comparison, environment, table
from seqloom.bench.case import MODES, Case, Part, Work, all_cases, select
from seqloom.bench.check import error_of, verify
from seqloom.bench.comparison import compare, percent, regressions
from seqloom.bench.libraries import Peers, Seqloom
from seqloom.bench.progress import Progress
from seqloom.bench.record import OURS, BadFile, Report, Row, csv_rows, load, merge, save
from seqloom.bench.roofline import Roofline, copy_bandwidth
from seqloom.bench.runner import Job, Runner, Settings, plan
from seqloom.bench.stats import mann_whitney, summarize
from seqloom.bench.timing import (
    Contestant,
    HostClock,
    keep_samples,
    measure,
    wait_fraction,
    waited,
)
from seqloom.cli import available, main

ROOT = Path(__file__).resolve().parent.parent


# --- statistics -------------------------------------------------------------------------


def by_enumeration(a, b):
    """Two-sided Mann-Whitney p-value from every way to deal the ranks."""
    values = sorted([*a, *b])
    n = len(a)

    def u(group):
        return sum(values.index(x) + 1 for x in group) - n * (n + 1) / 2

    mean = n * len(b) / 2
    ours = abs(u(a) - mean)
    deals = list(itertools.combinations(values, n))
    return sum(abs(u(deal) - mean) >= ours for deal in deals) / len(deals)


@pytest.mark.parametrize("seed", range(8))
def test_mann_whitney_is_exact_for_small_samples(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=4 + seed % 3), rng.normal(loc=0.4 * seed, size=5)
    assert mann_whitney(a, b) == pytest.approx(by_enumeration(list(a), list(b)), abs=1e-12)


@pytest.mark.parametrize("sizes", [(30, 30), (60, 20), (7, 9), (9, 9)])
@pytest.mark.parametrize("shift", [0.0, 0.3, 2.0])
def test_mann_whitney_agrees_with_scipy(sizes, shift):
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(sizes[0])
    for digits in (1, 9):  # with ties and without
        a = rng.normal(size=sizes[0]).round(digits)
        b = (rng.normal(size=sizes[1]) + shift).round(digits)
        tied = len(set(a) | set(b)) < sum(sizes)
        method = "asymptotic" if tied or sizes[0] * sizes[1] > 900 else "exact"
        expected = stats.mannwhitneyu(a, b, method=method).pvalue
        assert mann_whitney(a, b) == pytest.approx(expected, rel=1e-6)


def test_mann_whitney_of_equal_or_empty_samples_finds_nothing():
    assert mann_whitney([1.0] * 9, [1.0] * 9) == 1.0
    assert mann_whitney([], [1.0]) == 1.0


def test_mann_whitney_false_alarms_are_as_rare_as_promised():
    rng = np.random.default_rng(0)
    alarms = sum(mann_whitney(*rng.exponential(size=(2, 15))) < 0.01 for _ in range(1000))
    assert alarms <= 22  # 10 expected


def test_summary_is_the_median_and_the_quintiles():
    s = summarize([5.0, 1.0, 2.0, 3.0, 4.0, 6.0])
    assert (s.p20, s.p50, s.p80, s.count) == (2.0, 3.5, 5.0, 6)
    with pytest.raises(ValueError, match="must not be empty"):
        summarize([])


# --- the timing engine ------------------------------------------------------------------


class CountingClock:
    """Runs the calls and says that each took a fixed time."""

    def __init__(self, seconds, log, name):
        self.seconds, self.log, self.name = seconds, log, name

    def time(self, contestant, repeat):
        contestant.run(repeat)
        self.log.append(self.name)
        return self.seconds


def test_contestants_take_turns_in_an_order_that_rotates():
    log = []
    players = [Contestant(name, [lambda: None], CountingClock(0.01, log, name)) for name in "abc"]
    timings = measure(
        players, threads=1, budget=0.0, min_rounds=3, max_rounds=3, settle=0, sample_seconds=0.01
    )
    rounds = "".join(log)[-9:]
    assert rounds == "abcbcacab"
    assert {len(samples) for samples in timings.seconds.values()} == {3}


def test_every_copy_of_the_inputs_is_used_and_results_live_for_one_trip():
    class Result:
        pass

    used, alive = [], []

    def call(k):
        used.append(k)
        result = Result()
        alive.append(weakref.ref(result))
        return result

    contestant = Contestant("a", [lambda k=k: call(k) for k in range(4)], HostClock())
    contestant.run(6)
    contestant.run(2)
    assert used == [0, 1, 2, 3, 0, 1, 2, 3]
    assert [ref() is not None for ref in alive] == [False] * 4 + [True] * 4


def test_short_calls_are_repeated_until_the_sample_is_long_enough():
    contestant = Contestant("a", [lambda: None], HostClock())
    measure([contestant], threads=1, budget=0, min_rounds=1, max_rounds=1, sample_seconds=1e-3)
    assert contestant.repeat > 100


def test_slow_rows_stop_early_but_not_before_three_rounds():
    clock = CountingClock(10.0, [], "a")
    contestant = Contestant("a", [lambda: None], clock)
    measure([contestant], threads=1, budget=0.0, min_rounds=9, max_rounds=40)
    assert len(contestant.seconds) == 3


def test_samples_that_waited_for_a_cpu_do_not_count():
    kept, noisy = keep_samples([0.0, 0.01, 0.5, None, 0.02])
    assert kept == [True, True, False, True, True]
    assert not noisy


def test_a_machine_that_is_never_quiet_is_called_noisy_and_nothing_is_dropped():
    kept, noisy = keep_samples([0.5, 0.4, 0.0, 0.6, 0.01, 0.7])
    assert kept == [True] * 6
    assert noisy
    kept, noisy = keep_samples([0.5] * 6 + [0.0] * 3)
    assert sum(kept) == 3
    assert not noisy


def test_wait_is_read_from_the_scheduler(tmp_path):
    for task, text in {"1": "100 2000 3", "2": "5 500 1", "3": "garbage"}.items():
        (tmp_path / task).mkdir()
        (tmp_path / task / "schedstat").write_text(text)
    assert waited(str(tmp_path)) == {"1": 2000, "2": 500}
    assert waited(str(tmp_path / "none")) is None
    # Two threads over one millisecond; a thread that was born meanwhile counts from zero.
    share = wait_fraction({"1": 0}, {"1": 50_000, "2": 50_000}, 1e-3, 2)
    assert share == pytest.approx(0.05)
    assert wait_fraction(None, {"1": 1}, 1.0, 1) is None


def test_a_busy_neighbour_is_noticed():
    if waited() is None or environment.cores() < 1 or not hasattr(os, "sched_setaffinity"):
        pytest.skip("no scheduler statistics here")
    mine = os.sched_getaffinity(0)
    one = {min(mine)}
    code = f"import os; os.sched_setaffinity(0, {one}); print(1, flush=True)\nwhile True: pass"
    neighbour = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        neighbour.stdout.readline()
        os.sched_setaffinity(0, one)
        work = np.random.default_rng(0).normal(size=20_000)
        contestant = Contestant("a", [lambda: np.sort(work)], HostClock())
        measure([contestant], threads=1, budget=0, min_rounds=4, max_rounds=4, sample_seconds=0.03)
        assert max(contestant.wait) > 0.1
    finally:
        os.sched_setaffinity(0, mine)
        neighbour.kill()
        neighbour.communicate()


# --- records ----------------------------------------------------------------------------


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


def test_json_keeps_every_sample_and_comes_back_as_it_was(tmp_path):
    samples = [1.25e-3, 1.5e-3, 1.75e-3]
    first = row(ours=samples, peers={"torch": [2e-3, 3e-3, 4e-3]})
    first.kept[OURS][1] = False
    first.wait[OURS][1] = 0.5
    first.wait["torch"][0] = None
    before = report(first, row(label="4096x768", status="absent", note="no op", seconds={}))
    save(before, tmp_path / "r.json")
    after = load(tmp_path / "r.json")
    assert after == before
    assert after.rows[0].samples() == [1.25e-3, 1.75e-3]
    assert after.rows[0].seconds[OURS] == samples
    assert json.loads((tmp_path / "r.json").read_text())["format"] == "seqloom-bench"


def test_csv_has_one_line_a_sample():
    lines = list(csv_rows(report(row(peers={"torch": [2e-3] * 9}))))
    assert len(lines) == 18
    assert {line["version"] for line in lines if line["contestant"] == "torch"} == {"2.13.0"}
    assert [line["round"] for line in lines[:9]] == list(range(9))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("nonsense", "not JSON"),
        ("[1, 2]", "not a results file"),
        ('{"format": "seqloom-bench", "version": 99}', "version 99"),
        ('{"format": "seqloom-bench", "version": 1, "rows": [{"x": 1}]}', "malformed"),
        ('{"format": "seqloom-bench", "version": 1}', "malformed"),
    ],
)
def test_a_bad_results_file_is_told_in_one_line(tmp_path, capsys, text, complaint):
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(BadFile, match=complaint):
        load(path)
    assert main(["bench", "compare", str(path), str(path)]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert complaint in err


def test_merging_replaces_rows_and_keeps_the_others():
    old = report(row(label="a", note="old"), row(label="b", note="old"))
    new = report(row(label="b", note="new"), row(label="c", note="new"))
    merged = merge(old, new)
    assert [(r.label, r.note) for r in merged.rows] == [("a", "old"), ("b", "new"), ("c", "new")]


def test_ratio_is_the_peers_time_over_ours():
    r = row(ours=[1e-3] * 9, peers={"torch": [2.5e-3] * 9})
    assert r.ratio("torch") == pytest.approx(2.5)
    assert r.ratio("numpy") is None
    assert r.roof_share == pytest.approx(0.5)
    assert row(roof_seconds=1e-8).roof_share is None


# --- comparison -------------------------------------------------------------------------


def noise(seed, scale=1.0, count=15):
    return 1e-3 * scale * (1 + 0.02 * np.random.default_rng(seed).standard_normal(count))


def test_compare_says_no_difference_when_there_is_none():
    changes = compare(report(row(ours=noise(1))), report(row(ours=noise(2))))
    assert [c.verdict for c in changes] == ["no difference"]
    assert regressions(changes, 0.0) == []


def test_compare_finds_what_became_slower_and_faster():
    old = report(row(label="a", ours=noise(1)), row(label="b", ours=noise(2)))
    new = report(row(label="b", ours=noise(3, 0.8)), row(label="a", ours=noise(4, 1.2)))
    changes = {c.id.split("/")[1]: c for c in compare(old, new)}
    assert changes["a"].verdict == "slower"
    assert changes["a"].delta == pytest.approx(0.2, abs=0.03)
    assert changes["b"].verdict == "faster"
    assert [c.id for c in regressions(list(changes.values()), 0.05)] == [changes["a"].id]
    assert regressions(list(changes.values()), 0.5) == []


def test_compare_does_not_judge_a_handful_of_samples():
    changes = compare(report(row(ours=[1.0] * 4)), report(row(ours=[9.0] * 4)))
    assert changes[0].verdict == "too few samples"


def test_dropped_samples_do_not_enter_a_comparison():
    old, new = row(ours=noise(1)), row(ours=[*noise(2), *noise(3, 50)])
    new.kept[OURS] = [True] * 15 + [False] * 15
    assert compare(report(old), report(new))[0].verdict == "no difference"


def test_in_units_of_a_peer_the_mood_of_the_machine_cancels():
    old = row(ours=noise(1), peers={"torch": noise(2, 2.0)})
    new = row(ours=noise(3, 1.6), peers={"torch": noise(4, 3.2)})
    assert compare(report(old), report(new))[0].verdict == "slower"
    assert compare(report(old), report(new), relative_to="torch")[0].verdict == "no difference"
    assert compare(report(old), report(new), relative_to="jax") == []


def test_a_comparison_names_what_differs_between_the_machines():
    a, b = report(row()), report(row(), machine="other-64c", peers={"torch": "2.14.0"})
    text = "\n".join(comparison.comparison_lines(a, b, compare(a, b)))
    assert "test-2c -> other-64c" in text
    assert "torch: 2.13.0 -> 2.14.0" in text


@pytest.mark.parametrize(("text", "value"), [("5%", 0.05), ("0.05", 0.05), ("0", 0.0)])
def test_a_share_may_be_written_both_ways(text, value):
    assert percent(text) == pytest.approx(value)


@pytest.mark.parametrize(("limit", "status"), [("5%", 1), ("50%", 0)])
def test_fail_above_decides_the_exit_status(tmp_path, capsys, limit, status):
    save(report(row(ours=noise(1))), tmp_path / "old.json")
    save(report(row(ours=noise(2, 1.3))), tmp_path / "new.json")
    files = [str(tmp_path / "old.json"), str(tmp_path / "new.json")]
    assert main(["bench", "compare", *files]) == 0
    assert main(["bench", "compare", *files, "--fail-above", limit]) == status
    assert "slower" in capsys.readouterr().out


# --- the table --------------------------------------------------------------------------


def awkward_rows():
    everybody = {name: [1e-5 * k] * 9 for k, name in enumerate(
        ("torch", "torch.compile", "torch.fused", "numpy", "onnxruntime", "ctranslate2", "jax"), 1)}  # fmt: skip
    yield row(
        peers=everybody, noisy=[OURS, "jax"], failures={"ort": "RuntimeError: " + "long " * 40}
    )
    yield row(
        name="linear_cross_entropy", label="16384x4096x131072", ours=[123.456] * 9, error=1e-3
    )
    yield row(label="1x32x16384x128", ours=[9.87e-7] * 9, flops=0.0, error=None, cache="warm")
    yield row(
        label="4096x768",
        ours=[0.9999] * 9,
        unit="tok/s",
        per_call=512.0,
        peak_bytes={OURS: 5 << 30},
    )
    yield row(status="wrong", note="gradient of weight: " + "error 0.1 " * 20, seconds={})
    yield row(status="failed", note="RuntimeError: " + "x" * 150, seconds={})


def test_the_table_fits_a_hundred_columns():
    rows = [
        *awkward_rows(),
        row(status="absent", note="this seqloom has no ops.nothing", seconds={}),
    ]
    lines = [
        *table.header_lines(),
        *table.legend_lines(),
        *table.report_lines(report(*rows, load=[0.1], microarchitecture="zen5", python="3.11",
                                   last_level_cache=1 << 25)),
        *comparison.comparison_lines(report(*rows), report(*rows), compare(report(*rows), report(*rows))),
    ]  # fmt: skip
    too_long = [line for line in lines if len(line) > 100]
    assert not too_long
    text = "\n".join(lines)
    assert "this seqloom has no ops.nothing" in text
    assert "torch.compile" in text


def test_a_row_shows_rates_from_bytes_and_operations():
    cells = table.cells(row(ours=[1e-3] * 9, bytes=2e9 * 1e-3, flops=3e9 * 1e-3))
    assert (cells["bandwidth"], cells["rate"]) == ("2.00", "3.00")
    assert (cells["p50"], cells["roof"], cells["error"]) == ("1.00 ms", "50m", "1e-07")


def test_peers_are_ordered_and_ties_are_marked():
    r = row(ours=noise(1), peers={"jax": noise(2, 3.0), "torch": noise(3)})
    fastest, slowest = table.peer_texts(r)
    assert fastest.startswith("torch")
    assert fastest.endswith("~")
    assert slowest.endswith("x")


# --- the roofline -----------------------------------------------------------------------


def test_the_slower_of_memory_and_arithmetic_is_the_bound():
    roof = Roofline(
        memory=1e10, cache=1e11, cache_bytes=1000, peak={"f32": 1e12}, gemm={"bf16": 2e12}
    )
    assert roof.bound(1e10, 1e9, "f32", "cold") == (pytest.approx(1.0), "memory")
    assert roof.bound(1e6, 1e12, "f32", "cold") == (pytest.approx(1.0), "compute")
    assert roof.bound(0, 2e12, "bf16", "cold")[0] == pytest.approx(1.0)
    assert roof.bound(1000, 0, "f32", "warm")[0] == pytest.approx(1e-8)
    assert roof.bound(2000, 0, "f32", "warm")[0] == pytest.approx(2e-7)


def test_copy_bandwidth_is_measured():
    assert 1e8 < copy_bandwidth(1 << 20, 2, 0.01) < 1e13


# --- cases ------------------------------------------------------------------------------


def test_the_case_table_is_sound():
    cases = all_cases()
    ids = [(case.id, case.devices) for case in cases]
    assert len(set(ids)) == len(ids)
    for case in cases:
        assert set(case.modes) <= set(MODES), case.id
        for mode in case.modes:
            for item in (4, 2):
                work = case.work(mode, item)
                assert work.bytes > 0, case.id
                assert work.flops >= 0, case.id
        modes_of_quick = {text.partition("/") for text in case.quick}
        assert all(m in case.modes and d in case.dtypes for m, _, d in modes_of_quick), case.id


def test_patterns_choose_cases():
    cases = all_cases()
    assert {case.name for case in select(cases, ["norm"])} >= {"layer_norm", "rms_norm"}
    assert [case.id for case in select(cases, ["softmax/8x64"])] == ["softmax/8x64"]
    assert {case.name for case in select(cases, ["sdpa*causal*"])} == {"sdpa_causal"}
    assert len(select(cases, [])) == len(cases)
    with pytest.raises(KeyError):
        select(cases, ["softmax", "no-such-thing"])


def test_quick_has_rows_of_every_family():
    cases = all_cases()
    jobs = plan(cases, Settings(quick=True))
    assert 15 <= len(jobs) <= 40
    assert {job.case.family for job in jobs} == {c.family for c in cases if "cpu" in c.devices}


def small_cases():
    for case in all_cases():
        if case.reference is None or "cpu" not in case.devices:
            continue
        if max(case.work("fwd", 4)) < 3e7:
            yield case


@pytest.mark.parametrize("case", list(small_cases()), ids=lambda case: case.id)
def test_the_table_holds_seqloom_to_the_reference(case, device):
    """The same table as the benchmark's, at the sizes that a test can afford."""
    import seqloom as sl

    need = case.missing(sl)
    if need:
        pytest.skip(f"no {need} in this build")
    if device != "cpu" and max(case.work("fwd", 4)) > 1e6:
        pytest.skip("too large for an emulated device")
    library = Seqloom(device, 2, sl)
    inputs = case.make(np.random.default_rng(3))
    for mode in case.modes:
        for dtype in case.dtypes:
            verdict = verify(case, library, inputs, mode, dtype)
            assert verdict is not None
            assert verdict.ok, (mode, dtype, verdict)


# --- checking and running, with a library of our own making -----------------------------


class Numbers:
    """Enough of seqloom for one case, in NumPy; `bias` makes it wrong."""

    __version__ = "0"

    def __init__(self, bias=0.0):
        self.bias = bias

    def tensor(self, values, device=None, requires_grad=False):
        return np.asarray(values)

    def double(self, x):
        return 2 * x + np.float32(self.bias)


class DoubleReference:
    pass


def double_case(**changes):
    given = {
        "family": "test",
        "name": "double",
        "label": "1000",
        "sizes": {"count": 1000},
        "make": lambda rng: {"x": rng.standard_normal(1000, np.float32)},
        "ours": lambda sl, x: sl.double(x),
        "needs": ("double",),
        "work": lambda mode, item: Work(2000 * item, 1000),
        "reference": lambda ref, x: (2 * x, lambda dy: {"x": 2 * dy}),
        "peers": {"numpy": lambda np, x: x + x},
        "modes": ("fwd",),
        "dtypes": ("f32",),
    }
    return Case(**{**given, **changes})


def run_double(module, **changes):
    settings = Settings(threads=1, peers=("numpy",), seconds=0.01, min_rounds=5, max_rounds=5)
    roof = Roofline(1e10, 1e10, 0, {"f32": 1e11})
    runner = Runner(module, settings, roof, Peers("cpu", 1, ("numpy",)))
    return runner.run(Job(double_case(**changes), "fwd", "f32"))


def test_a_right_row_is_timed_against_its_peers():
    r = run_double(Numbers())
    assert (r.status, r.error) == ("timed", 0.0)
    assert set(r.seconds) == {OURS, "numpy"}
    assert all(3 <= len(samples) <= 5 for samples in r.seconds.values())
    assert r.copies > 1


def test_a_wrong_row_is_not_timed():
    r = run_double(Numbers(bias=1e-3))
    assert r.status == "wrong"
    assert "error" in r.note
    assert r.seconds == {}


def test_an_absent_op_and_a_crash_become_rows():
    r = run_double(Numbers(), needs=("triple",))
    assert (r.status, r.note) == ("absent", "this seqloom has no triple")

    def broken(sl, x):
        raise MemoryError("no room for 3 bytes")

    r = run_double(Numbers(), ours=broken)
    assert (r.status, r.note) == ("failed", "MemoryError: no room for 3 bytes")


def test_a_peers_trouble_is_a_note_in_our_row():
    def broken(np, x):
        raise RuntimeError("not today")

    r = run_double(Numbers(), peers={"numpy": broken})
    assert r.status == "timed"
    assert r.failures == {"numpy": "RuntimeError: not today"}


@pytest.mark.parametrize(
    ("value", "expected", "error"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([1.0, 2.5], [1.0, 2.0], 0.25),
        ([1.0, 2.0], [[1.0, 2.0]], float("inf")),
        ([5.0, 2.0], Part((slice(1, 2),), np.array([2.0])), 0.0),
        ([], [], 0.0),
    ],
)
def test_error_is_relative_to_the_largest_value(value, expected, error):
    assert (
        error_of(np.array(value), expected if isinstance(expected, Part) else np.array(expected))
        == error
    )


def test_nan_is_never_right():
    r = run_double(Numbers(bias=float("nan")))
    assert r.status == "wrong"


# --- the environment --------------------------------------------------------------------


def test_the_environment_tells_versions_and_keeps_secrets():
    block = environment.collect(Numbers(), threads=3)
    assert block["threads"] == 3
    assert block["peers"]["numpy"] == np.__version__
    text = json.dumps(block)
    assert platform.node() not in text.split('"')
    assert str(Path.home()) not in text
    assert f"/{getpass.getuser()}" not in text
    assert "/" not in block["machine"]


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"model name": "AMD EPYC", "vendor_id": "AuthenticAMD", "cpu family": "26", "model": "2"},
         "epyc-zen5-2c"),
        ({"model name": "AMD EPYC 9R14 96-Core Processor", "vendor_id": "AuthenticAMD",
          "cpu family": "25", "model": "17"}, "epyc-9r14-zen4-2c"),
        ({"model name": "Intel(R) Xeon(R) Platinum 8488C CPU @ 2.40GHz"}, "xeon-platinum-8488c-2c"),
    ],
)  # fmt: skip
def test_a_machine_is_named_by_its_processor(fields, name):
    assert environment.machine_name(fields, 2) == name


def test_a_gpu_names_its_machine():
    assert environment.machine_name({}, 16, "NVIDIA H200") == "h200"


def test_progress_is_silent_without_a_terminal(capsys):
    with Progress(3) as bar:
        bar.show("softmax")
        bar.step()
    assert capsys.readouterr().err == ""


def test_progress_says_where_it_is():
    class Terminal:
        def __init__(self):
            self.text = ""

        def isatty(self):
            return True

        def write(self, text):
            self.text += text

        def flush(self):
            pass

    stream = Terminal()
    with Progress(4, stream) as bar:
        bar.step()
        bar.show("softmax 8x64")
    assert "1/4" in stream.text
    assert "softmax 8x64" in stream.text
    assert max(map(len, stream.text.split("\r"))) <= 100


# --- the command ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["no-such-command"],
        [],
        ["bench", "--no-such-option"],
        ["bench", "no-such-case"],
        ["bench", "--dtype", "f31"],
        ["bench", "--mode", "sideways"],
        ["bench", "--threads", "0"],
        ["bench", "--seconds", "-1"],
        ["bench", "--fail-above", "5%"],
        ["bench", "--update"],
        ["bench", "compare", "one.json"],
        ["info", "--verbose"],
    ],
)
def test_bad_options_exit_2(arguments, capsys):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["bench", "compare", "missing.json", "missing.json"],
        ["bench", "plot", "missing.json"],
        ["bench", "softmax/8x64", "--compare", "missing.json"],
        ["bench", "softmax/8x64", "--json", "no-such-folder/out.json"],
        ["bench", "softmax/8x64", "--device", "tpu"],
        ["bench", "adamw", "--dtype", "f16"],
    ],
)
def test_unusable_files_exit_1_with_one_line(arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("seqloom: ")


@pytest.mark.parametrize(
    "command", [[], ["bench"], ["bench", "compare"], ["bench", "plot"], ["info"]]
)
def test_every_command_has_help_with_an_example(command, capsys):
    assert main([*command, "--help"]) == 0
    assert "example:" in capsys.readouterr().out


def test_only_commands_that_exist_are_offered(capsys):
    main(["--help"])
    text = capsys.readouterr().out
    assert {"info", "bench"} <= set(available())
    for name in ("demo", "train", "generate", "translate"):
        assert (f"\n  {name}" in text) == (name in available())


def test_list_shows_every_case(capsys):
    assert main(["bench", "list"]) == 0
    listed = capsys.readouterr().out
    assert main(["bench", "--list"]) == 0
    assert capsys.readouterr().out == listed
    assert all(case.id in listed for case in all_cases())


def test_env_and_info_print_something(capsys):
    assert main(["bench", "env"]) == 0
    assert "machine" in capsys.readouterr().out
    assert main(["info"]) == 0
    assert "devices: cpu" in capsys.readouterr().out


def test_a_run_writes_its_table_its_data_and_its_comparison(tmp_path, capsys):
    target, lines, again = (str(tmp_path / n) for n in ("a.json", "a.csv", "b.json"))
    short = ["--mode", "fwd", "--dtype", "f32", "--peers", "numpy", "--seconds", "0.01"]
    assert main(["bench", "softmax/8x64", *short, "--json", target, "--csv", lines]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "softmax 8x64" in captured.out
    assert max(map(len, captured.out.splitlines())) <= 100
    data = load(target)
    assert [r.status for r in data.rows] == ["timed"]
    assert len(Path(lines).read_text().splitlines()) == 1 + sum(
        map(len, data.rows[0].seconds.values())
    )

    more = ["--json", target, "--update"]
    assert main(["bench", "run", "log_softmax/8x64", *short, *more]) == 0
    assert [r.name for r in load(target).rows] == ["softmax", "log_softmax"]
    slowest = ["--compare", target, "--fail-above", "900%", "--json", again]
    assert main(["bench", "softmax/8x64", *short, *slowest]) == 0
    assert "rows in both" in capsys.readouterr().out


def test_plots_are_drawn_or_the_missing_package_is_named(tmp_path, capsys, monkeypatch):
    source, target = tmp_path / "r.json", tmp_path / "r.png"
    peers = {"torch": noise(5)}
    save(report(*(row(label=f"{n}x64", flops=n * 1e6, peers=peers) for n in (8, 16, 32))), source)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["bench", "plot", str(source), "--out", str(target)]) == 1
    assert "pip install matplotlib" in capsys.readouterr().err
    monkeypatch.undo()
    pytest.importorskip("matplotlib")
    assert main(["bench", "plot", str(source), "--out", str(target)]) == 0
    assert target.read_bytes().startswith(b"\x89PNG")


def test_a_closed_pipe_is_not_an_error():
    command = f"{sys.executable} -m seqloom bench list | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1


# --- the README -------------------------------------------------------------------------


def tables(*arguments):
    script = ROOT / "benchmarks" / "tables.py"
    command = [sys.executable, str(script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_readme_tables_come_from_the_results(tmp_path):
    save(
        report(row(peers={"torch": [2e-3] * 9}, date="2026-01-02 03:04 UTC")),
        tmp_path / "test-2c.json",
    )
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- bench: test-2c softmax/* -->\n<!-- /bench -->\nafter\n")
    options = ["--readme", readme, "--results", tmp_path]
    stale = tables(*options, "--check")
    assert stale.returncode == 1
    assert "README.md:" in stale.stdout
    assert tables(*options).returncode == 0
    text = readme.read_text()
    assert "**2.00x**" in text
    assert "torch 2.13.0" in text
    assert "2026-01-02" in text
    assert "2 threads" in text
    assert tables(*options, "--check").returncode == 0
    readme.write_text(text.replace("2.00x", "3.00x"))
    assert tables(*options, "--check").returncode == 1
    readme.write_text("<!-- bench: nowhere -->\n<!-- /bench -->\n")
    missing = tables(*options)
    assert missing.returncode == 1
    assert missing.stderr.count("\n") == 1


def test_the_readme_says_what_the_results_say():
    readme = ROOT / "README.md"
    if not readme.is_file() or "<!-- bench:" not in readme.read_text(encoding="utf-8"):
        pytest.skip("no benchmark tables in the README")
    checked = tables("--check")
    assert checked.returncode == 0, checked.stdout + checked.stderr
