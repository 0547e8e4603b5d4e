# SPDX-License-Identifier: Apache-2.0
"""Write the benchmark tables of README and FIGURES.md from benchmarks/results, or check them.

    python benchmarks/tables.py            rewrite what stands between the markers
    python benchmarks/tables.py --check    exit 1 and say where a page differs

A table stands between ``<!-- bench: MACHINE PATTERN... -->`` and ``<!-- /bench -->``; the patterns
choose rows by id (``softmax/4096x768/*``) as in ``seqloom bench``, and the rows stand in the order
of the case table. ``bench-brief:`` makes a table of fewer columns: PyTorch and the fastest peer.
What was disturbed while it was measured is left out, rows and peers alike, whatever it said; the
caption counts such rows.
"""

from __future__ import annotations

import argparse
import re
import sys
from fnmatch import fnmatchcase
from pathlib import Path

from seqloom.bench.case import all_cases
from seqloom.bench.record import OURS, BadFile, Report, Row, load
from seqloom.bench.table import digits, seconds_text

ROOT = Path(__file__).resolve().parents[1]

PAGES = (ROOT / "README.md", ROOT / "benchmarks" / "FIGURES.md")

MARKER = re.compile(
    r"(?P<head><!-- bench(?P<brief>-brief)?: (?P<what>[^>]+?) -->\n).*?(?P<tail><!-- /bench -->)",
    re.S,
)
BRIEF_HEADER = (
    "| case | mode | dtype | seqloom | roof | torch eager | fastest peer |\n"
    "| --- | --- | --- | ---: | ---: | ---: | ---: |\n"
)
HEADER = (
    "| case | mode | dtype | p50 | p20-p80 | roof | peers: time and ratio |\n"
    "| --- | --- | --- | ---: | ---: | ---: | --- |\n"
)


def choose(report: Report, patterns: list[str]) -> list[Row]:
    """Timed rows whose id matches a pattern, in the order of the case table."""
    order = {case.id: k for k, case in enumerate(all_cases())}
    timed = [row for row in report.rows if row.samples()]
    # The sort is stable: what the case table no longer has stands last, in the file's order.
    timed.sort(key=lambda row: order.get(f"{row.name}/{row.label}", len(order)))
    return [
        row
        for row in timed
        if not patterns
        or any(fnmatchcase(row.id, p) or fnmatchcase(row.id, f"{p}/*") for p in patterns)
    ]


def against(row: Row) -> list[tuple[float, str, str]]:
    """(seconds, name, time and ratio) of each undisturbed peer, the fastest first."""
    found = []
    for peer in row.peers:
        theirs, ratio = row.summary(peer), row.ratio(peer)
        if peer in row.noisy or theirs is None or ratio is None:
            continue
        same = "" if row.differs(peer) else " (no difference)"
        found.append((theirs.p50, peer, f"{seconds_text(theirs.p50)}, **{digits(ratio)}x**{same}"))
    return sorted(found)


def cells(row: Row) -> tuple[list[str], str]:
    """What both kinds of table begin with, and the share of the roofline."""
    share = None if "copy" in row.noisy else row.roof_share
    name = f"{row.name} {row.label}" + (" warm" if row.cache == "warm" else "")
    return [name, row.mode, row.dtype], "-" if share is None else f"{100 * share:.0f}%"


def line(row: Row) -> str:
    """One row of a table."""
    ours = row.summary()
    assert ours is not None
    first, share = cells(row)
    spread = f"{seconds_text(ours.p20)} - {seconds_text(ours.p80)}"
    peers = "; ".join(f"{name} {text}" for _, name, text in against(row)) or "-"
    return "| " + " | ".join([*first, seconds_text(ours.p50), spread, share, peers]) + " |\n"


def brief_line(row: Row) -> str:
    """One row of a brief table."""
    ours = row.summary()
    assert ours is not None
    first, share = cells(row)
    peers = against(row)
    torch = next((text for _, name, text in peers if name == "torch"), "-")
    best = "-"
    if peers:
        best = "torch" if peers[0][1] == "torch" else f"{peers[0][1]} {peers[0][2]}"
    return "| " + " | ".join([*first, seconds_text(ours.p50), share, torch, best]) + " |\n"


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


def table(what: str, results: Path, *, brief: bool) -> str:
    """The text between one pair of markers."""
    machine, *patterns = what.split()
    report = load(results / f"{machine}.json")
    chosen = choose(report, patterns)
    rows = [row for row in chosen if OURS not in row.noisy]
    if not rows:
        raise BadFile(f"{machine}.json: no undisturbed row matches {' '.join(patterns)}")
    header, write = (BRIEF_HEADER, brief_line) if brief else (HEADER, line)
    return (
        caption(report, rows, len(chosen) - len(rows))
        + header
        + "".join(write(row) for row in rows)
    )


def render(text: str, results: Path) -> str:
    """A page with every table written anew."""

    def again(match: re.Match[str]) -> str:
        body = table(match["what"], results, brief=match["brief"] is not None)
        return match["head"] + body + match["tail"]

    return MARKER.sub(again, text)


def refresh(page: Path, results: Path, *, check: bool) -> bool:
    """Write the tables of `page`, or say where it differs; whether it is current now."""
    old = page.read_text(encoding="utf-8")
    new = render(old, results)
    if old == new:
        return True
    if not check:
        page.write_text(new, encoding="utf-8")
        return True
    for number, (was, now) in enumerate(zip(old.splitlines(), new.splitlines(), strict=False), 1):
        if was != now:
            print(f"{page.name}:{number}: differs from the results\n- {was}\n+ {now}")
            break
    return False


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing, exit 1 if stale")
    parser.add_argument("--page", type=Path, action="append", help="default: README and FIGURES")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args(arguments)
    try:
        current = [
            refresh(page, options.results, check=options.check) for page in options.page or PAGES
        ]
    except (OSError, BadFile) as error:
        print(f"tables.py: {error}", file=sys.stderr)
        return 1
    if all(current):
        return 0
    print("run `python benchmarks/tables.py`", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
