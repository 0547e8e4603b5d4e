# SPDX-License-Identifier: Apache-2.0
"""``seqloom bench``: list, run, compare, plot, env; without a verb it runs."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import re
import signal
import sys
import textwrap
import threading
import time
from typing import Any

from seqloom.bench import comparison, environment, plot, record, table
from seqloom.bench.case import MODES, Case, all_cases, select
from seqloom.bench.libraries import PEER_NAMES, Peers, Unsupported
from seqloom.bench.progress import Progress
from seqloom.bench.record import BadFile, Report
from seqloom.bench.roofline import Roofline, measure_cpu
from seqloom.bench.runner import Runner, Settings, plan, run_all
from seqloom.cli import CommandError, command_parser

VERBS = ("list", "run", "show", "compare", "plot", "env")
DTYPES = {
    "float32": "f32", "float16": "f16", "bfloat16": "bf16", "f32": "f32", "f16": "f16",
    "bf16": "bf16", "int8": "int8", "int4": "int4",
}  # fmt: skip
QUICK_SECONDS = 52.0
USAGE = """seqloom bench [CASE...] [options]
       seqloom bench run [CASE...] [options]
       seqloom bench list [CASE...]
       seqloom bench show FILE.json [--brief]
       seqloom bench compare OLD.json NEW.json [--fail-above 5%%]
       seqloom bench plot FILE.json --out F.png
       seqloom bench env"""


def main(arguments: list[str]) -> int:
    verb = arguments[0] if arguments and arguments[0] in VERBS else ""
    rest = arguments[1:] if verb else arguments
    others = {"list": list_cases, "show": show, "compare": compare, "plot": draw, "env": env}
    run = others.get(verb, run_cases)
    try:
        return run(rest)
    except BadFile as error:
        raise CommandError(str(error)) from None
    except plot.NoMatplotlib as error:
        raise CommandError(str(error)) from None


# ---- running ------------------------------------------------------------------------------------


def _words(kind: dict[str, str] | None, *, choices: tuple[str, ...] = ()) -> Any:
    """An argparse type: comma-separated words, each one of the choices."""

    def parse(text: str) -> tuple[str, ...]:
        out = []
        for word in filter(None, text.split(",")):
            allowed = tuple(kind) if kind is not None else choices
            if allowed and word not in allowed:
                raise argparse.ArgumentTypeError(f"{word!r} is none of {', '.join(allowed)}")
            out.append(kind[word] if kind is not None else word)
        if not out:
            raise argparse.ArgumentTypeError("at least one word is wanted")
        return tuple(out)

    return parse


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be positive, got {text}")
    return value


def _threads(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return value


def _percent(text: str) -> float:
    try:
        return comparison.percent(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"a share such as 5% is wanted, got {text!r}") from None


def _run_parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "bench",
        usage=USAGE,
        example="seqloom bench softmax 'sdpa*' --dtype f32,bf16 --json new.json --compare old.json",
    )
    add = parser.add_argument
    add("cases", nargs="*", metavar="CASE", help="family, name or name/label; * and ? match")
    add("--list", action="store_true", help="list the cases and stop")
    add("--quick", action="store_true", help="a choice of rows in at most a minute")
    add("--device", default="cpu", help="cpu (default), cuda or cuda:N")
    add("--dtype", type=_words(DTYPES), default=(), help="f32,bf16,...; default: all of a case")
    add("--mode", type=_words(None, choices=MODES), default=(), help=",".join(MODES))
    add("--threads", type=_threads, default=0, help="default: every CPU of this process")
    caches = parser.add_mutually_exclusive_group()
    caches.add_argument("--warm", action="store_const", const="warm", dest="cache", default="",
                        help="the same inputs every time")  # fmt: skip
    caches.add_argument("--cold", action="store_const", const="cold", dest="cache",
                        help="inputs rotated through more than the last-level cache "
                        "(the default of most cases)")  # fmt: skip
    add("--peers", type=_words(None, choices=(*PEER_NAMES, "none")), default=None, metavar="NAMES",
        help=",".join(PEER_NAMES) + " or none; default: all that are installed")  # fmt: skip
    add("--seconds", type=_positive, default=2.0, help="time for each row's rounds (2)")
    add("--total", type=_positive, help="time for the whole run; rows that find none left say so")
    add("--no-check", action="store_false", dest="check", help="do not compare with float64 first")
    add("--machine", default="", help="name of the machine in the results")
    add("--json", metavar="F", help="write every sample and the environment")
    add("--update", action="store_true", help="keep the rows of F.json that are not measured now")
    add(
        "--missing",
        action="store_true",
        help="with --update: rows that F.json lacks or has as noisy",
    )
    add("--csv", metavar="F", help="write one line a sample")
    add("--plot", metavar="F.png", help="draw the roofline and scaling with size")
    add("--compare", metavar="OLD.json", help="compare with earlier results")
    add("--fail-above", type=_percent, metavar="SHARE",
        help="with --compare: exit 1 if a row is slower by more than this, say 5%%")  # fmt: skip
    return parser


def run_cases(arguments: list[str]) -> int:
    parser = _run_parser()
    options = parser.parse_intermixed_args(arguments)
    if options.fail_above is not None and not options.compare:
        parser.error("--fail-above needs --compare OLD.json")
    cases = _select(options.cases)
    if options.list:
        return _print_list(cases)
    if options.missing and not options.update:
        parser.error("--missing needs --update")
    if options.update and not options.json:
        parser.error("--update needs --json F")
    # Files are looked at before minutes are spent.
    old = record.load(options.compare) if options.compare else None
    kept = record.load(options.json) if options.update and os.path.exists(options.json) else None
    for path in filter(None, (options.json, options.csv, options.plot)):
        folder = os.path.dirname(path) or "."
        if not os.path.isdir(folder):
            raise CommandError(f"{path}: no such folder")
        if os.path.isdir(path) or not os.access(folder, os.W_OK):
            raise CommandError(f"{path}: cannot be written")
    if options.plot:
        plot.check_format(options.plot)

    library = importlib.import_module("seqloom")
    settings = _settings(options)
    _check_device(library, settings.device)
    jobs = plan(cases, settings)
    if kept is not None and options.missing:
        timed = {row.id: bool(row.noisy) for row in kept.rows if row.samples()}
        # Disturbed rows come last: they may be disturbed again.
        jobs = [job for job in jobs if timed.get(job.row_id(settings), True)]
        jobs.sort(key=lambda job: job.row_id(settings) in timed)
        if not jobs:
            print("every row has been timed")
            return 0
    if not jobs:
        raise CommandError("no row matches these cases, modes and dtypes; see `seqloom bench list`")
    started = time.monotonic()
    total = options.total or (QUICK_SECONDS if settings.quick else None)
    _limit_cpus(settings.threads)
    if threading.current_thread() is threading.main_thread():
        # Whoever ends a run early keeps what has been measured.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    env_block = environment.collect(
        library, threads=settings.threads, device=settings.device, machine=options.machine
    )
    print("\n".join(environment.describe(env_block)))
    with Progress(len(jobs) + 1) as bar:
        bar.show("roofline of this machine")
        peers = Peers(settings.device, settings.threads, settings.peers)
        roofline = _roofline(settings, library, peers)
        bar.step()
        bar.clear()
        print("\n".join(textwrap.wrap(roofline.describe(), table.WIDTH)))
        print("\n" + "\n".join(table.header_lines()), flush=True)
        try:
            runner = Runner(library, settings, roofline, peers)
        except (Unsupported, RuntimeError) as error:
            raise CommandError(f"{settings.device}: {error}") from None

        measured: list[record.Row] = []

        def tell(row: record.Row) -> None:
            bar.step()
            bar.clear()
            if row.status != "absent":
                print("\n".join(table.row_lines(row)), flush=True)
            measured.append(row)
            if options.json:
                _save(options.json, Report(env_block, roofline.to_json(), measured), kept)

        rows = run_all(
            runner,
            jobs,
            on_start=lambda job: bar.show(job.title()),
            on_row=tell,
            deadline=started + total if total else None,
            shared=settings.quick,
        )
    print("-" * table.WIDTH)
    for line in (*table.absent_lines(rows), *table.legend_lines()):
        print(line)
    status = _finish(options, Report(env_block, roofline.to_json(), rows), old, kept)
    return 130 if any(row.note == record.INTERRUPTED for row in rows) else status


def _finish(
    options: argparse.Namespace, report: Report, old: Report | None, kept: Report | None
) -> int:
    if options.json:
        _save(options.json, report, kept)
    if options.csv:
        record.save_csv(report, options.csv)
    if options.plot:
        plot.plot(report, options.plot)
    status = int(any(row.status in ("wrong", "failed") for row in report.rows))
    if old is not None:
        print()
        status = max(status, _show_comparison(old, report, options.fail_above))
    return status


def _save(path: str, report: Report, kept: Report | None) -> None:
    record.save(record.merge(kept, report) if kept is not None else report, path)


def _settings(options: argparse.Namespace) -> Settings:
    peers = options.peers
    if peers is not None and "none" in peers:
        peers = ()
    missing = [n for n in peers or () if n.partition(".")[0] not in environment.installed_peers()]
    if missing:
        raise CommandError(f"--peers: not installed here: {', '.join(missing)}")
    if options.threads > environment.cores():
        raise CommandError(
            f"--threads must be at most {environment.cores()}, the CPUs of this process, "
            f"got {options.threads}"
        )
    return Settings(
        device=_device(options.device),
        threads=options.threads,
        dtypes=options.dtype,
        modes=options.mode,
        cache=options.cache,
        peers=peers,
        compiled=peers is None or "torch.compile" in peers,
        check=options.check,
        seconds=0.8 if options.quick else options.seconds,
        min_rounds=5 if options.quick else 9,
        quick=options.quick,
    ).resolved()


def _device(text: str) -> str:
    """``cpu`` or ``cuda``; another GPU than the first becomes the only one that is seen."""
    found = re.fullmatch(r"cpu|cuda(?::(\d+))?", text)
    if not found:
        raise CommandError(f"--device must be cpu, cuda or cuda:N, got {text}")
    index = int(found[1] or 0)
    if index > 0:
        seen = os.environ.get("CUDA_VISIBLE_DEVICES")
        numbers = seen.split(",") if seen else [str(n) for n in range(index + 1)]
        if index >= len(numbers):
            raise CommandError(f"--device {text}: CUDA_VISIBLE_DEVICES is {seen}")
        os.environ["CUDA_VISIBLE_DEVICES"] = numbers[index]
    return text.partition(":")[0]


def _check_device(library: Any, device: str) -> None:
    if device != "cpu":
        try:
            library.cuda.get_device_properties(0)
        except (RuntimeError, ValueError, IndexError) as error:
            raise CommandError(f"--device {device}: {error}") from None


def _limit_cpus(threads: int) -> None:
    """Libraries that size their pools by the CPUs of the process then agree with --threads."""
    with contextlib.suppress(AttributeError, OSError):
        mine = sorted(os.sched_getaffinity(0))
        if threads < len(mine):
            os.sched_setaffinity(0, mine[:threads])


def _roofline(settings: Settings, library: Any, peers: Peers) -> Roofline:
    torch = peers.library("torch")
    if settings.device != "cpu":
        from seqloom.bench.roofline_cuda import measure_cuda

        return measure_cuda(library, torch.module if torch else None)
    peers.library("numpy")  # its number of threads
    return measure_cpu(
        settings.threads,
        environment.last_level_cache(),
        library=library,
        torch=torch.module if torch else None,
        seconds=min(0.15 if settings.quick else 0.3, settings.seconds),
    )


# ---- the other verbs ----------------------------------------------------------------------------


def _select(patterns: list[str]) -> list[Case]:
    try:
        return select(all_cases(), patterns)
    except KeyError as error:
        print(f"seqloom bench: no case matches {error.args[0]!r}; see `seqloom bench list`",
              file=sys.stderr)  # fmt: skip
        raise SystemExit(2) from None


def list_cases(arguments: list[str]) -> int:
    parser = command_parser("bench list", example="seqloom bench list 'sdpa*'")
    parser.add_argument("cases", nargs="*", metavar="CASE")
    return _print_list(_select(parser.parse_args(arguments).cases))


def _print_list(cases: list[Case]) -> int:
    library = importlib.import_module("seqloom")
    print(f"{'case':<44} {'modes':<15} {'dtypes':<9} {'device':<9} quick")
    for case in cases:
        quick = "quick" if case.quick else ""
        need = case.missing(library)
        absent = f" (this seqloom has no {need})" if need else ""
        text = (
            f"{case.id:<44} {','.join(case.modes):<15} {','.join(case.dtypes):<9} "
            f"{','.join(case.devices):<9} {quick}{absent}"
        )
        print(text.rstrip())
    return 0


def show(arguments: list[str]) -> int:
    parser = command_parser("bench show", example="seqloom bench show results.json")
    parser.add_argument("file", metavar="FILE.json")
    parser.add_argument("--brief", action="store_true", help="one line a row")
    options = parser.parse_args(arguments)
    lines = table.brief_lines if options.brief else table.report_lines
    print("\n".join(lines(record.load(options.file))))
    return 0


def compare(arguments: list[str]) -> int:
    parser = command_parser(
        "bench compare", example="seqloom bench compare old.json new.json --fail-above 5%"
    )
    parser.add_argument("old", metavar="OLD.json")
    parser.add_argument("new", metavar="NEW.json")
    parser.add_argument("--fail-above", type=_percent, metavar="SHARE",
                        help="exit 1 if a row is slower by more than this, say 5%%")  # fmt: skip
    parser.add_argument("--relative", default="", metavar="PEER",
                        help="in units of this peer's time in the same round")  # fmt: skip
    options = parser.parse_args(arguments)
    return _show_comparison(
        record.load(options.old), record.load(options.new), options.fail_above, options.relative
    )


def _show_comparison(old: Report, new: Report, fail_above: float | None, relative: str = "") -> int:
    changes = comparison.compare(old, new, relative_to=relative)
    if relative and not changes:
        raise CommandError(f"no row of both files was timed beside {relative}")
    print("\n".join(comparison.comparison_lines(old, new, changes)))
    if fail_above is None:
        return 0
    if not changes:
        raise CommandError("no row is in both files: nothing has been compared")
    slower = comparison.regressions(changes, fail_above)
    for change in slower:
        print(
            f"slower by more than {100 * fail_above:g}%: {change.id} ({100 * change.delta:+.1f}%)"
        )
    return 1 if slower else 0


def draw(arguments: list[str]) -> int:
    parser = command_parser(
        "bench plot", example="seqloom bench plot results.json --out results.png"
    )
    parser.add_argument("file", metavar="FILE.json")
    parser.add_argument("--out", default="", metavar="F.png", help="default: FILE.png")
    options = parser.parse_args(arguments)
    target = options.out or os.path.splitext(options.file)[0] + ".png"
    plot.check_format(target)
    plot.plot(record.load(options.file), target)
    print(target)
    return 0


def env(arguments: list[str]) -> int:
    parser = command_parser("bench env", example="seqloom bench env")
    parser.add_argument("--device", default="cpu")
    device = _device(parser.parse_args(arguments).device)
    library = importlib.import_module("seqloom")
    block = environment.collect(library, threads=environment.cores(), device=device)
    for key, value in block.items():
        if isinstance(value, dict):
            value = ", ".join(f"{name} {version}" for name, version in value.items()) or "none"
        if isinstance(value, list):
            value = " ".join(str(item) for item in value)
        print(f"{key:<18} {value}")
    return 0
