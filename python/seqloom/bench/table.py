# SPDX-License-Identifier: Apache-2.0
"""The table for people: at most 100 columns, ours on one line and the peers under it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

from seqloom.bench.record import OURS, Report, Row

WIDTH = 100
_NAME = 31
_HEADER = (
    f"{'case':<{_NAME}} {'mode':<6} {'dtype':<5} {'p50':>8} {'p20-p80':>11} {'GB/s':>6} "
    f"{'GFLOP/s':>7} {'roof':>5} {'MiB':>5} {'error':>7}"
)
LEGEND = (
    "p50 and p20-p80 of the samples that had their CPUs (* = too few had). GB/s and GFLOP/s count "
    "compulsory bytes and useful operations. roof: percent of this run's measured roofline, m = "
    "memory, c = compute. MiB: peak memory of one call. error: largest error against float64 over "
    "the largest value. Under it the peers: time, and their time / ours ('~' = no difference by "
    "Mann-Whitney, p >= 0.01)."
)


def duration(seconds: float) -> tuple[float, str]:
    """A factor and unit that show the duration in three or four digits."""
    if seconds < 1e-3:
        return 1e6, "us"
    if seconds < 1.0:
        return 1e3, "ms"
    return 1.0, "s"


def digits(value: float) -> str:
    """Three significant digits, no exponent."""
    if value != value:
        return "nan"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def seconds_text(seconds: float) -> str:
    factor, unit = duration(seconds)
    return f"{digits(seconds * factor)} {unit}"


def cells(row: Row) -> dict[str, str]:
    """The texts of one timed row."""
    ours = row.summary()
    if ours is None:
        return {}
    factor, unit = duration(ours.p50)
    share = row.roof_share
    peak = row.peak_bytes.get(OURS)
    return {
        "p50": f"{digits(ours.p50 * factor)} {unit}{'*' if OURS in row.noisy else ''}",
        "spread": f"{digits(ours.p20 * factor)}-{digits(ours.p80 * factor)}",
        "bandwidth": digits(row.bytes / ours.p50 / 1e9),
        "rate": digits(row.flops / ours.p50 / 1e9) if row.flops else "-",
        "roof": "-" if share is None else f"{min(999, 100 * share):.0f}{row.bound[:1]}",
        "memory": "-" if peak is None else digits(peak / 2**20),
        "error": "-" if row.error is None else f"{row.error:.0e}",
    }


def peer_texts(row: Row) -> list[str]:
    """``torch 1.13 ms 2.31x`` for each peer, the fastest first."""
    timed = [(row.summary(peer), peer) for peer in row.peers]
    ordered = sorted((s.p50, peer) for s, peer in timed if s is not None)
    out = []
    for p50, peer in ordered:
        ratio = row.ratio(peer)
        if ratio is not None:
            same = "" if row.differs(peer) else "~"
            noisy = "*" if peer in row.noisy else ""
            out.append(f"{peer} {seconds_text(p50)}{noisy} {digits(ratio)}x{same}")
    return out


def row_lines(row: Row) -> list[str]:
    """The lines of one row."""
    title = f"{row.name} {row.label}" + (" warm" if row.cache == "warm" else "")
    lines = []
    if len(title) > _NAME:
        lines.append(title[:WIDTH])
        title = ""
    if row.status != "timed" or not row.samples():
        head = f"{title:<{_NAME}} {row.mode:<6} {row.dtype:<5} "
        text = f"{row.status}: {row.note}" if row.note else row.status
        return lines + textwrap.wrap(text, WIDTH, initial_indent=head, subsequent_indent="    ")
    c = cells(row)
    lines.append(
        f"{title:<{_NAME}} {row.mode:<6} {row.dtype:<5} {c['p50']:>8} {c['spread']:>11} "
        f"{c['bandwidth']:>6} {c['rate']:>7} {c['roof']:>5} {c['memory']:>5} {c['error']:>7}"
    )
    extra = []
    ours = row.summary()
    if row.unit and ours is not None:
        extra.append(f"{digits(row.per_call / ours.p50)} {row.unit}")
    extra += peer_texts(row)
    extra += [f"{peer} failed ({reason})" for peer, reason in row.failures.items()]
    if extra:
        lines += textwrap.wrap(
            "   ".join(extra), WIDTH, initial_indent="    ", subsequent_indent="    "
        )
    return lines


def header_lines() -> list[str]:
    return [_HEADER, "-" * WIDTH]


def legend_lines() -> list[str]:
    return textwrap.wrap(LEGEND, WIDTH)


def absent_lines(rows: Iterable[Row]) -> list[str]:
    """Rows that this build does not have, told once for each reason rather than once a row."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row.status == "absent":
            title = f"{row.name} {row.label} {row.mode} {row.dtype}"
            reasons.setdefault(row.note, []).append(title)
    lines = []
    for reason, titles in reasons.items():
        if len(titles) > 12:
            titles[6:] = [f"and {len(titles) - 6} more"]
        lines += textwrap.wrap(
            f"not measured, {reason}: {', '.join(titles)}", WIDTH, subsequent_indent="    "
        )
    return lines


def brief_lines(report: Report) -> list[str]:
    """One line a row: time, rate, share of the roofline, and the fastest peer's time over ours."""
    from seqloom.bench.environment import describe

    header = f"{'case':<38} {'mode':<6} {'dtype':<5} {'p50':>8} {'rate':>12} {'roof':>5} best peer"
    lines = [*describe(report.env), "", header, "-" * WIDTH]
    for row in report.rows:
        title = f"{row.name} {row.label}" + (" warm" if row.cache == "warm" else "")
        if row.status == "absent":
            continue
        if len(title) > 38:
            lines.append(title[:WIDTH])
            title = ""
        head = f"{title:<38} {row.mode:<6} {row.dtype:<5}"
        ours, c = row.summary(), cells(row)
        if row.status != "timed" or ours is None:
            lines.append(f"{head} {row.status}: {row.note}"[:WIDTH])
            continue
        rate = f"{c['bandwidth']} GB/s"
        if row.bound == "compute":
            work = row.flops / ours.p50
            rate = f"{digits(work / 1e12)} TFLOP/s" if work > 1e12 else f"{c['rate']} GFLOP/s"
        others = sorted((s.p50, peer) for peer in row.peers if (s := row.summary(peer)) is not None)
        best = "-"
        if others:
            peer = others[0][1]
            marks = ("*" if peer in row.noisy else "") + ("" if row.differs(peer) else "~")
            best = f"{peer} {digits(others[0][0] / ours.p50)}x{marks}"
        lines.append(f"{head} {c['p50']:>8} {rate:>12} {c['roof']:>5} {best}"[:WIDTH])
    return lines


def report_lines(report: Report) -> list[str]:
    """A whole report, for results that are read back from a file."""
    from seqloom.bench.environment import describe

    lines = [*describe(report.env), "", *header_lines()]
    for row in report.rows:
        if row.status != "absent":
            lines += row_lines(row)
    absent = absent_lines(report.rows)
    return lines + (["", *absent] if absent else [])
