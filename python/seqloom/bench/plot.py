# SPDX-License-Identifier: Apache-2.0
"""Pictures of a report: the roofline, and how time grows with size. Needs matplotlib."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from seqloom.bench.record import OURS, Report, Row

HINT = "plots need matplotlib: pip install matplotlib"


class NoMatplotlib(Exception):
    """matplotlib is not installed."""


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError:
        raise NoMatplotlib(HINT) from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def plot(report: Report, path: str | Path) -> None:
    """Write a PNG (or whatever the suffix says) with a roofline panel and scaling panels."""
    pyplot = _pyplot()
    series = scaling_series(report.rows)
    columns = 1 + min(3, len(series))
    figure, axes = pyplot.subplots(1, columns, figsize=(6.4 * columns, 5.2), squeeze=False)
    _roofline(axes[0][0], report)
    for axis, (title, lines) in zip(axes[0][1:], series[:3], strict=False):
        _scaling(axis, title, lines)
    env = report.env
    figure.suptitle(
        f"seqloom {env.get('seqloom', '')} on {env.get('machine', '')}, "
        f"{env.get('threads', '?')} threads, {env.get('date', '')}",
        fontsize=10,
    )
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _roofline(axis: Any, report: Report) -> None:
    roof = report.roofline
    bandwidth = float(roof.get("memory", 0.0))
    rows = [r for r in report.rows if r.samples() and r.flops > 0 and r.bytes > 0]
    intensities = [row.flops / row.bytes for row in rows] or [1.0]
    x = np.geomspace(min(0.1, *intensities) / 2, max(100.0, *intensities) * 2, 200)
    peaks = {**roof.get("gemm", {}), **roof.get("peak", {})}
    for dtype, peak in peaks.items():
        axis.plot(x, np.minimum(x * bandwidth, peak) / 1e9, color="0.4", linewidth=1)
        axis.annotate(
            f"{dtype} {peak / 1e9:.0f} GFLOP/s", (x[-1], peak / 1e9), ha="right", va="bottom",
            fontsize=8, color="0.3",
        )  # fmt: skip
    if not peaks:
        axis.plot(x, x * bandwidth / 1e9, color="0.4", linewidth=1)
    families = list(dict.fromkeys(row.family for row in rows))
    for number, family in enumerate(families):
        members = [row for row in rows if row.family == family]
        axis.scatter(
            [row.flops / row.bytes for row in members],
            [row.flops / _p50(row) / 1e9 for row in members],
            s=22, color=f"C{number % 10}", marker="os^Dv<>P*X"[number // 10 % 10], label=family,
            zorder=3,
        )  # fmt: skip
    axis.set(
        xscale="log", yscale="log", xlabel="useful operations per compulsory byte",
        ylabel="GFLOP/s", title=f"Roofline (copy bandwidth {bandwidth / 1e9:.0f} GB/s)",
    )  # fmt: skip
    axis.grid(True, which="major", alpha=0.3)
    if families:
        axis.legend(fontsize=8, loc="lower right")


def _p50(row: Row, contestant: str = OURS) -> float:
    summary = row.summary(contestant)
    return summary.p50 if summary is not None else float("nan")


def scaling_series(rows: list[Row]) -> list[tuple[str, list[Row]]]:
    """Groups of rows that differ in size alone, the largest groups first."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.samples():
            groups[f"{row.name} {row.mode} {row.dtype}"].append(row)
    series = [(t, sorted(g, key=_volume)) for t, g in groups.items() if len(g) > 1]
    return sorted(series, key=lambda item: -len(item[1]))


def _volume(row: Row) -> float:
    return max(row.flops, row.bytes)


def _scaling(axis: Any, title: str, rows: list[Row]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row.seconds))
    x = list(range(len(rows)))
    for name in names:
        points = [(k, row.summary(name)) for k, row in zip(x, rows, strict=True)]
        known = [(k, s) for k, s in points if s is not None]
        middle = [s.p50 * 1e6 for _, s in known]
        low = [(s.p50 - s.p20) * 1e6 for _, s in known]
        high = [(s.p80 - s.p50) * 1e6 for _, s in known]
        axis.errorbar(
            [k for k, _ in known], middle, yerr=[low, high], marker="o", markersize=4, capsize=2,
            linewidth=2 if name == OURS else 1, label=name,
        )  # fmt: skip
    axis.set(yscale="log", ylabel="p50 with p20-p80 (us)", title=title)
    axis.set_xticks(x, [row.label for row in rows], rotation=30, ha="right", fontsize=8)
    axis.grid(True, which="major", alpha=0.3)
    axis.legend(fontsize=8)
