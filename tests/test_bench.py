# SPDX-License-Identifier: Apache-2.0
"""`seqloom bench`: statistics, the timing engine, records, comparison, the roofline."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import weakref

import numpy as np
import pytest

from bench_support import noise, report, row
from seqloom.bench import comparison, environment, timing
from seqloom.bench.comparison import compare, percent, regressions
from seqloom.bench.record import OURS, BadFile, csv_rows, load, merge, save
from seqloom.bench.roofline import Roofline, best_time, numpy_copy
from seqloom.bench.stats import mann_whitney, summarize
from seqloom.bench.timing import (
    Contestant,
    HostClock,
    judge,
    keep_samples,
    measure,
    wait_fraction,
    waited,
)
from seqloom.cli import main

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


def test_who_always_waits_while_others_do_not_waits_for_itself():
    def contestant(name, wait):
        return Contestant(name, [], HostClock(), wait=list(wait))

    calm, crowded = contestant("calm", [0.0] * 8 + [0.5]), contestant("crowded", [0.2, 0.3] * 5)
    assert judge([calm, crowded])["crowded"] == ([True] * 10, False)
    assert judge([crowded])["crowded"][1]  # nobody to compare with
    assert judge([crowded, contestant("too", [0.2, 0.4] * 5)])["crowded"][1]
    few = contestant("few", [0.0, 0.4, 0.4, 0.0, 0.4, 0.4, 0.4])  # no more than a neighbour does
    assert judge([contestant("calm", [0.0, 0.4, 0.0, 0.0, 0.4, 0.0, 0.0]), few])["few"][1]
    assert judge([calm, contestant("short", [0.2] * 4)])["short"][1]


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


@pytest.mark.parametrize(
    ("waited", "ran", "cpus", "share"),
    [
        (0.4, 1.6, 2, 0.2),  # a neighbour had the rest
        (1.0, 2.0, 2, 0.0),  # three threads of our own on two CPUs
        (1.0, 1.9, 2, 0.05),  # the same, and a neighbour
        (0.4, 1.6, 16, 0.2),
        (0.1, 2.01, 2, 0.0),  # clocks are read one after the other
    ],
)
def test_waiting_for_ones_own_threads_is_no_disturbance(waited, ran, cpus, share):
    found = wait_fraction({"1": 0}, {"1": int(1e9 * waited)}, 1.0, 2, ran, cpus)
    assert found == pytest.approx(share)


def test_more_rounds_are_taken_while_too_few_samples_count(monkeypatch):
    seen = iter([0.5, 0.5, 0.0, 0.5, 0.0, 0.0, 0.0])
    monkeypatch.setattr(timing, "wait_fraction", lambda *_: next(seen, 0.0))
    monkeypatch.setattr(timing, "_PATIENCE", float("inf"))
    contestant = Contestant("a", [lambda: None], CountingClock(10.0, [], "a"))
    found = measure([contestant], threads=1, budget=0.0, min_rounds=3, max_rounds=40)
    assert len(found.samples("a")) == 3
    assert len(contestant.seconds) == 6
    assert not found.noisy
    seen = iter([0.5] * 9)
    contestant = Contestant("a", [lambda: None], CountingClock(10.0, [], "a"))
    options = {"threads": 1, "budget": 0.0, "min_rounds": 3, "max_rounds": 40}
    assert measure([contestant], **options, patient=False).noisy == ["a"]
    assert len(contestant.seconds) == 3


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


# --- the roofline -----------------------------------------------------------------------


def test_the_slower_of_memory_and_arithmetic_is_the_bound():
    roof = Roofline(
        memory=1e10, cache=1e11, cache_bytes=1000, peak={"f32": 1e12}, gemm={"bf16": 2e12}
    )
    assert roof.bound(1e10, 1e9, "f32", "cold") == (pytest.approx(1.0), "memory")
    assert roof.bound(1e6, 1e12, "f32", "cold") == (pytest.approx(1.0), "compute")
    assert roof.bound(0, 2e12, "bf16", "cold")[0] == pytest.approx(1.0)
    assert roof.compute("int4") == roof.compute("f16") == 1e12
    assert Roofline(0, 0, 0, {"f32": 1.0, "int8": 4.0}).compute("int4") == 4.0
    assert roof.bound(1000, 0, "f32", "warm")[0] == pytest.approx(1e-8)
    assert roof.bound(2000, 0, "f32", "warm")[0] == pytest.approx(2e-7)


def test_copy_bandwidth_is_measured():
    copy = numpy_copy(1 << 20, 2)
    assert 1e8 < copy.bytes / best_time(copy.call, 0.01) < 1e13
