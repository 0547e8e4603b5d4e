# SPDX-License-Identifier: Apache-2.0
"""`seqloom bench`: cases of a GPU's size, runs that end early, rows that are missing."""

from __future__ import annotations

import json
import signal
import time
from dataclasses import replace

import numpy as np
import pytest

import seqloom as sl
from bench_support import report, row
from seqloom.bench import runner, table
from seqloom.bench.case import Part, all_cases
from seqloom.bench.cases import attention, common, loss, norm, rnn, softmax
from seqloom.bench.check import load_reference, verify
from seqloom.bench.libraries import Peers, Seqloom, first
from seqloom.bench.record import INTERRUPTED, OURS, OUT_OF_TIME, load, merge, save
from seqloom.bench.roofline import Roofline
from seqloom.bench.runner import Job, Runner, Settings, plan, run_all
from seqloom.cli import main

# --- what a GPU is measured at ----------------------------------------------------------

LARGE = {
    "softmax": lambda: softmax.softmax(5, 7),
    "layer_norm": lambda: norm.layer_norm(5, 7),
    "cross_entropy": lambda: loss.cross_entropy(5, 7, each=True),
    "linear_cross_entropy": lambda: loss.linear_cross_entropy(5, 3, 7, each=True),
    "sdpa": lambda: attention.sdpa(2, 4, 12, 8),
    "sdpa_causal": lambda: attention.sdpa(2, 4, 12, 8, causal=True, kv_heads=2),
    "sdpa_window": lambda: attention.sdpa(2, 4, 12, 8, causal=True, window=3),
    "sdpa_decode": lambda: attention.decode(3, 4, 12, 8, kv_heads=2),
    "lstm": lambda: rnn.recurrent("lstm", 4, 3, 5, 6),
    "gru_ragged": lambda: rnn.ragged("gru", 4, 3, 5, 6),
    "lstm_layer_norm": lambda: rnn.layer_norm_lstm(4, 3, 5, 6),
}


@pytest.mark.parametrize("name", LARGE)
def test_a_part_of_a_large_case_is_checked_and_can_fail(name, monkeypatch):
    def only_a_part(*arguments, **options):
        return common.by_rows(*arguments, **{**options, "checked": 1, "whole": 0})

    for family in (softmax, norm, loss, attention, rnn):
        monkeypatch.setattr(family, "by_rows", only_a_part)
    monkeypatch.setattr(attention, "_CHECKED_SCORES", 24)
    case, library = LARGE[name](), Seqloom("cpu", 2, sl)
    inputs = case.make(np.random.default_rng(3))
    value, _ = case.reference(load_reference(), **inputs)
    assert isinstance(value, Part)
    for mode in case.modes:
        assert verify(case, library, inputs, mode, "f32").ok, mode
    wrong = replace(case, ours=lambda sl, **given: 1.01 * first(case.ours(sl, **given)))
    for mode in case.modes:
        assert not verify(wrong, library, inputs, mode, "f32").ok, mode


def test_large_inputs_repeat_themselves(monkeypatch):
    monkeypatch.setattr(common, "_DRAWN", 10)
    values = common.normal(np.random.default_rng(0), 3, 8)
    assert values.shape == (3, 8)
    np.testing.assert_array_equal(values.ravel()[:10], values.ravel()[10:20])


def test_a_gpu_has_a_short_run_of_its_own():
    jobs = plan(all_cases(), Settings(device="cuda:0", quick=True))
    assert 15 <= len(jobs) <= 40
    assert {job.case.family for job in jobs} >= {"softmax", "norm", "attention", "rnn", "loss"}


# --- runs that end early ----------------------------------------------------------------


def jobs_and_runner(count=3):
    settings = Settings(threads=1, peers=(), seconds=1.0, min_rounds=3, max_rounds=3)
    jobs = [Job(softmax.softmax(2 + k, 8), "fwd", "f32") for k in range(count)]
    return jobs, Runner(sl, settings, Roofline(1e10, 1e10, 0, {"f32": 1e11}), Peers("cpu", 1, ()))


def test_an_interrupt_keeps_what_has_been_measured(monkeypatch):
    jobs, bench = jobs_and_runner()
    monkeypatch.setattr(bench, "run", lambda job, _: interrupt(job, bench))

    def interrupt(job, bench):
        if job is jobs[1]:
            raise KeyboardInterrupt
        return Runner.run(bench, job)

    rows = run_all(bench, jobs)
    assert [(r.status, r.note) for r in rows] == [
        ("timed", ""),
        ("absent", INTERRUPTED),
        ("absent", INTERRUPTED),
    ]
    old = report(*(row(label=r.label, note="old") for r in rows))
    old.rows[1].id = rows[1].id
    assert merge(old, report(*rows)).by_id()[rows[1].id].note == "old"


def test_a_run_out_of_time_takes_no_more_rows_and_shortens_none(monkeypatch):
    jobs, bench = jobs_and_runner()
    given, pause = [], 0.02

    def run(job, seconds):
        given.append(seconds)
        time.sleep(pause)
        return Runner.run(bench, job)

    monkeypatch.setattr(bench, "run", run)
    rows = run_all(bench, jobs, deadline=time.monotonic() + 0.01)
    assert [r.note for r in rows] == ["", OUT_OF_TIME, OUT_OF_TIME]
    assert given == [None]
    run_all(bench, jobs, deadline=time.monotonic() + 60, shared=True)
    assert given[1:] == [bench.settings.seconds] * 3
    pause = 0.3
    run_all(bench, jobs, deadline=time.monotonic() + 1.0, shared=True)
    assert given[4] > given[5]  # inputs and checks are paid for by later rows


def test_a_terminated_run_writes_its_rows_and_says_so(tmp_path, capsys, monkeypatch):
    target, seen = tmp_path / "r.json", []
    plain = runner.Runner.run

    def run(self, job, seconds=None):
        seen.append(load(target) if target.exists() else None)
        if len(seen) == 2:
            signal.raise_signal(signal.SIGTERM)
        return plain(self, job, seconds)

    monkeypatch.setattr(runner.Runner, "run", run)
    before = signal.getsignal(signal.SIGTERM)
    options = ["--mode", "fwd", "--peers", "none", "--seconds", "0.01", "--json", str(target)]
    try:
        assert main(["bench", "softmax/8x64", *options]) == 130
    finally:
        signal.signal(signal.SIGTERM, before)
    assert len(seen[1].rows) == 1  # the first row was on the disk before the second began
    assert [r.note for r in load(target).rows] == ["", INTERRUPTED]
    assert capsys.readouterr().err == ""


def test_missing_rows_come_before_disturbed_ones(tmp_path, capsys):
    target = tmp_path / "r.json"
    short = ["--mode", "fwd", "--peers", "none", "--seconds", "0.01", "--json", str(target)]
    assert main(["bench", "softmax/8x64", *short]) == 0
    data = load(target)
    data.rows[0].noisy, data.rows[1].noisy = [OURS], []
    save(data, target)
    capsys.readouterr()
    assert main(["bench", "*softmax/8x64", *short, "--update", "--missing"]) == 0
    order = [line.split()[:5] for line in capsys.readouterr().out.splitlines() if "8x64" in line]
    assert [f"{words[0]} {words[4]}" for words in order] == [
        "log_softmax f32",
        "log_softmax bf16",
        "softmax f32",
    ]
    assert json.loads(target.read_text())["rows"][0]["name"] == "softmax"


def test_many_rows_without_time_are_counted():
    rows = [row(label=str(k), status="absent", note=OUT_OF_TIME, seconds={}) for k in range(50)]
    lines = table.absent_lines(rows)
    assert len(lines) <= 3
    assert lines[-1].endswith("softmax 5 fwd f32, and 44 more")


def test_the_brief_table_has_one_line_a_row():
    peers = {"torch": [3e-3] * 9, "numpy": [2e-3] * 9}
    rows = [
        row(peers=peers),
        row(label="x" * 60, bound="compute"),
        row(status="failed", note="RuntimeError: " + "long " * 30, seconds={}),
        row(status="absent", note=OUT_OF_TIME, seconds={}),
    ]
    gpu = {"name": "NVIDIA H200", "major": 9, "minor": 0, "multi_processor_count": 132,
           "total_memory": 141 << 30, "l2_cache_size": 60 << 20}  # fmt: skip
    env = {"threads": 2, "python": "3", "load": [], "last_level_cache": 1 << 20, "gpu": gpu}
    lines = table.brief_lines(report(*rows, **env))
    assert max(map(len, lines)) <= 100
    assert any(line.startswith("NVIDIA H200: compute capability 9.0, 132") for line in lines)
    assert [line.split()[0] for line in lines[-4:]] == ["softmax", "softmax", "fwd", "softmax"]
    assert lines[-4].endswith(" 1.00 GB/s   50m numpy 2.00x")
