# SPDX-License-Identifier: Apache-2.0
"""Write the README's benchmark tables from benchmarks/results, or check that they are current.

    python benchmarks/tables.py            rewrite what stands between the markers
    python benchmarks/tables.py --check    exit 1 and say where the README differs

A table stands between ``<!-- bench: MACHINE PATTERN... -->`` and ``<!-- /bench -->``; the patterns
choose rows by id (``softmax/4096x768/*``) as in ``seqloom bench``. What was disturbed while it was
measured is left out, rows and peers alike, whatever it said; the caption counts such rows.
"""

from __future__ import annotations

import argparse
import re
import sys
from fnmatch import fnmatchcase
from pathlib import Path

from seqloom.bench.record import OURS, BadFile, Report, Row, load
from seqloom.bench.table import digits, seconds_text

ROOT = Path(__file__).resolve().parents[1]

MARKER = re.compile(r"(<!-- bench: (?P<what>[^>]+?) -->\n)(?P<body>.*?)(<!-- /bench -->)", re.S)
HEADER = (
    "| case | mode | dtype | p50 | p20-p80 | roof | peers: time and ratio |\n"
    "| --- | --- | --- | ---: | ---: | ---: | --- |\n"
)


def choose(report: Report, patterns: list[str]) -> list[Row]:
    """Timed rows whose id matches a pattern, in the order of the file."""
    timed = [row for row in report.rows if row.samples()]
    return [
        row
        for row in timed
        if not patterns
        or any(fnmatchcase(row.id, p) or fnmatchcase(row.id, f"{p}/*") for p in patterns)
    ]


def line(row: Row) -> str:
    """One row of a table."""
    ours = row.summary()
    assert ours is not None
    share = None if "copy" in row.noisy else row.roof_share
    peers = []
    for peer in row.peers:
        if peer in row.noisy:
            continue
        theirs, ratio = row.summary(peer), row.ratio(peer)
        if theirs is not None and ratio is not None:
            same = "" if row.differs(peer) else " (no difference)"
            peers.append(
                (theirs.p50, f"{peer} {seconds_text(theirs.p50)}, **{digits(ratio)}x**{same}")
            )
    spread = f"{seconds_text(ours.p20)} - {seconds_text(ours.p80)}"
    cells = [
        f"{row.name} {row.label}" + (" warm" if row.cache == "warm" else ""),
        row.mode,
        row.dtype,
        seconds_text(ours.p50),
        spread,
        "-" if share is None else f"{100 * share:.0f}%",
        "; ".join(text for _, text in sorted(peers)) or "-",
    ]
    return "| " + " | ".join(cells) + " |\n"


def caption(report: Report, rows: list[Row], disturbed: int) -> str:
    """Machine, dates, versions, threads: what a number is worth nothing without."""
    env = report.env
    days = sorted({row.date[:10] for row in rows})
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    threads = ", ".join(str(n) for n in sorted({row.threads for row in rows}))
    used = {p.partition(".")[0] for row in rows for p in row.peers if p not in row.noisy}
    versions = [
        f"{name} {version}" for name, version in env.get("peers", {}).items() if name in used
    ]
    where = f"{env.get('machine', '')} ({env.get('cpu', '')}, {env.get('cores', '?')} cores)"
    gpu = env.get("gpu", {}).get("name", "")
    if gpu:
        where += f", {gpu}"
    against = f" against {', '.join(versions)}" if versions else ""
    ours = f"seqloom {env.get('seqloom', '')}"
    left = f" Left out as disturbed while measured: {disturbed} rows." if disturbed else ""
    return f"Measured on {where}, {when}, {threads} threads: {ours}{against}.{left}\n\n"


def table(what: str, results: Path) -> str:
    """The text between one pair of markers."""
    machine, *patterns = what.split()
    report = load(results / f"{machine}.json")
    chosen = choose(report, patterns)
    rows = [row for row in chosen if OURS not in row.noisy]
    if not rows:
        raise BadFile(f"{machine}.json: no undisturbed row matches {' '.join(patterns)}")
    return (
        caption(report, rows, len(chosen) - len(rows)) + HEADER + "".join(line(row) for row in rows)
    )


def render(text: str, results: Path) -> str:
    """The README with every table written anew."""
    return MARKER.sub(lambda m: m[1] + table(m["what"], results) + m[4], text)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing, exit 1 if stale")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args(arguments)
    try:
        old = options.readme.read_text(encoding="utf-8")
        new = render(old, options.results)
    except (OSError, BadFile) as error:
        print(f"tables.py: {error}", file=sys.stderr)
        return 1
    if old == new:
        return 0
    if not options.check:
        options.readme.write_text(new, encoding="utf-8")
        return 0
    for number, (was, now) in enumerate(zip(old.splitlines(), new.splitlines(), strict=False), 1):
        if was != now:
            print(f"{options.readme.name}:{number}: differs from the results\n- {was}\n+ {now}")
            break
    print("run `python benchmarks/tables.py`", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
