# SPDX-License-Identifier: Apache-2.0
"""`seqloom bench`: its table, its cases, its checks, the command and the README."""

from __future__ import annotations

import getpass
import json
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench_support import noise, report, row
from seqloom.bench import comparison, environment, table
from seqloom.bench.case import MODES, Case, Part, Work, all_cases, select
from seqloom.bench.check import error_of, verify
from seqloom.bench.comparison import compare
from seqloom.bench.libraries import Peers, Seqloom
from seqloom.bench.progress import Progress
from seqloom.bench.record import OURS, load, save
from seqloom.bench.roofline import Roofline
from seqloom.bench.runner import Job, Runner, Settings, plan
from seqloom.cli import available, main

ROOT = Path(__file__).resolve().parent.parent


# --- the table --------------------------------------------------------------------------


def awkward_rows():
    names = ["torch", "torch.compile", "torch.fused", "numpy", "onnxruntime", "ctranslate2", "jax"]
    everybody = {name: [1e-5 * k] * 9 for k, name in enumerate(names, 1)}
    failures = {"ort": "RuntimeError: " + "long " * 40}
    yield row(peers=everybody, noisy=[OURS, "jax"], failures=failures)
    long = {"name": "linear_cross_entropy", "label": "16384x4096x131072"}
    yield row(**long, ours=[123.456] * 9, error=1e-3)
    yield row(label="1x32x16384x128", ours=[9.87e-7] * 9, flops=0.0, error=None, cache="warm")
    yield row(ours=[0.9999] * 9, unit="tok/s", per_call=512.0, peak_bytes={OURS: 5 << 30})
    yield row(status="wrong", note="gradient of weight: " + "error 0.1 " * 20, seconds={})
    yield row(status="failed", note="RuntimeError: " + "x" * 150, seconds={})


def test_the_table_fits_a_hundred_columns():
    missing = row(status="absent", note="this seqloom has no ops.nothing", seconds={})
    more = {"load": [0.1], "microarchitecture": "zen5", "python": "3.11", "last_level_cache": 1}
    whole = report(*awkward_rows(), missing, **more)
    lines = [
        *table.header_lines(),
        *table.legend_lines(),
        *table.report_lines(whole),
        *comparison.comparison_lines(whole, whole, compare(whole, whole)),
    ]
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
    families = {c.family for c in cases if "cpu" in c.devices}
    assert {job.case.family for job in jobs} == families - {"models"}  # 124M parameters


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
        ["bench", "--peers", "tensorflow"],
        ["bench", "--peers", ""],
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
        ["bench", "softmax/8x64", "--device", "cuda:x"],
        ["bench", "softmax/8x64", "--device", "cpu:1"],
        ["bench", "softmax/8x64", "--device", "cuda:7777"],
        ["bench", "softmax/8x64", "--threads", "100000"],
        ["bench", "softmax/8x64", "--json", "."],
        ["bench", "env", "--device", "tpu"],
        ["bench", "adamw", "--dtype", "f16"],
    ],
)
def test_unusable_files_exit_1_with_one_line(arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
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


def test_peers_that_are_not_installed_are_named(capsys, monkeypatch):
    monkeypatch.setattr(environment, "installed_peers", lambda: {"numpy": "2"})
    assert main(["bench", "softmax/8x64", "--peers", "numpy,torch.compile,jax"]) == 1
    err = capsys.readouterr().err
    assert err == "seqloom: --peers: not installed here: torch.compile, jax\n"


def test_a_comparison_of_nothing_is_no_success(tmp_path, capsys):
    save(report(row(ours=noise(1))), tmp_path / "a.json")
    save(report(row(label="b", ours=noise(2))), tmp_path / "b.json")
    files = [str(tmp_path / "a.json"), str(tmp_path / "b.json")]
    assert main(["bench", "compare", *files]) == 0
    assert main(["bench", "compare", *files, "--fail-above", "5%"]) == 1
    assert main(["bench", "compare", *files[:1], *files[:1], "--relative", "jax"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "seqloom: no row is in both files: nothing has been compared",
        "seqloom: no row of both files was timed beside jax",
    ]


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
    assert main(["bench", "plot", str(source), "--out", "r.xyz"]) == 1
    assert capsys.readouterr().err.startswith("seqloom: r.xyz: pictures end in .")
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
    options = ["--page", readme, "--results", tmp_path]
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


def test_a_brief_table_names_torch_and_the_fastest_peer(tmp_path):
    peers = {"torch": [3e-3] * 9, "numpy": [2e-3] * 9, "jax": [4e-3] * 9}
    save(report(row(peers=peers)), tmp_path / "test-2c.json")
    page = tmp_path / "page.md"
    page.write_text("<!-- bench-brief: test-2c softmax -->\n<!-- /bench -->\n")
    assert tables("--page", page, "--results", tmp_path).returncode == 0
    *_, line, _ = page.read_text().splitlines()
    assert "**3.00x** | numpy 2.00 ms, **2.00x** |" in line
    assert "jax" not in line


def test_the_pages_say_what_the_results_say():
    if not (ROOT / "benchmarks" / "FIGURES.md").is_file():
        pytest.skip("needs the source tree")
    checked = tables("--check")
    assert checked.returncode == 0, checked.stdout + checked.stderr
