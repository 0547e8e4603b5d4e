# SPDX-License-Identifier: Apache-2.0
"""Pictures of a report: the roofline, and how time grows with size. Needs matplotlib."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from seqloom.bench.record import COPY, OURS, BadFile, Report, Row

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


def check_format(path: str | Path) -> None:
    """`BadFile` where matplotlib has no such format."""
    formats = _pyplot().Figure().canvas.get_supported_filetypes()
    suffix = Path(path).suffix.lstrip(".").lower()
    if suffix and suffix not in formats:
        raise BadFile(f"{path}: pictures end in .{', .'.join(sorted(formats))}")


def plot(report: Report, path: str | Path) -> None:
    """Write a PNG (or whatever the suffix says): the roofline, and up to three scaling panels."""
    pyplot = _pyplot()
    # What was disturbed while it was measured is left out, as in the tables.
    report = replace(report, rows=[row for row in report.rows if OURS not in row.noisy])
    series = scaling_series(report.rows)[:3]
    columns = 2 if series else 1
    lines = (len(series) + 2) // 2
    figure, axes = pyplot.subplots(
        lines, columns, figsize=(7.2 * columns, 5.0 * lines), squeeze=False
    )
    panels = list(axes.flat)
    _roofline(panels[0], report)
    for axis, (title, rows) in zip(panels[1:], series, strict=False):
        _scaling(axis, title, rows)
    for axis in panels[1 + len(series) :]:
        axis.set_visible(False)
    env = report.env
    figure.suptitle(
        f"seqloom {env.get('seqloom', '')} on {env.get('machine', '')}, "
        f"{env.get('threads', '?')} threads, {env.get('date', '')}",
        fontsize=10,
    )
    figure.tight_layout()
    figure.savefig(path, dpi=110)
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
            f" {dtype} {peak / 1e9:.0f} GFLOP/s", (x[-1], peak / 1e9), ha="left", va="center",
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
        xscale="log", yscale="log", xlim=(x[0], x[-1] * (x[-1] / x[0]) ** 0.25),
        xlabel="useful operations per compulsory byte",
        ylabel="GFLOP/s", title=f"Roofline (copy bandwidth {bandwidth / 1e9:.0f} GB/s)",
    )  # fmt: skip
    axis.grid(True, which="major", alpha=0.3)
    if families:
        axis.legend(fontsize=8, loc="lower right")


def _p50(row: Row, contestant: str = OURS) -> float:
    summary = row.summary(contestant)
    return summary.p50 if summary is not None else float("nan")


def scaling_series(rows: list[Row]) -> list[tuple[str, list[Row]]]:
    """Rows that differ in size alone, one group a case, the largest first."""
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        if row.samples():
            groups[row.family, f"{row.name} {row.mode} {row.dtype} {row.cache}"].append(row)
    best: dict[str, tuple[str, list[Row]]] = {}
    for (family, title), members in groups.items():
        if len(members) > 1 and len(members) > len(best.get(family, ("", []))[1]):
            best[family] = (title, sorted(members, key=_volume))
    return sorted(best.values(), key=lambda item: -len(item[1]))


def _volume(row: Row) -> float:
    return row.flops if row.bound == "compute" else row.bytes


def _scaling(axis: Any, title: str, rows: list[Row]) -> None:
    for name in dict.fromkeys(name for row in rows for name in row.seconds if name != COPY):
        undisturbed = [row for row in rows if name not in row.noisy]
        known = [(row, s) for row in undisturbed if (s := row.summary(name)) is not None]
        if not known:
            continue
        axis.errorbar(
            [_volume(row) for row, _ in known],
            [s.p50 * 1e6 for _, s in known],
            yerr=[
                [(s.p50 - s.p20) * 1e6 for _, s in known],
                [(s.p80 - s.p50) * 1e6 for _, s in known],
            ],
            marker="o",
            markersize=4,
            capsize=2,
            linewidth=2 if name == OURS else 1,
            zorder=3 if name == OURS else 2,
            label=name,
        )
    roof = [(_volume(row), row.roof_seconds * 1e6) for row in rows]
    axis.plot(*zip(*roof, strict=True), color="0.6", linestyle=":", label="roofline")
    for row in rows:
        ours = row.summary()
        if ours is not None:
            axis.annotate(
                row.label,
                (_volume(row), ours.p50 * 1e6),
                xytext=(4, -9),
                textcoords="offset points",
                fontsize=6,
                color="0.3",
                annotation_clip=True,
            )
    unit = "useful operations" if rows[-1].bound == "compute" else "compulsory bytes"
    axis.set(xscale="log", yscale="log", xlabel=unit, ylabel="p50 with p20-p80 (us)", title=title)
    axis.margins(x=0.2)
    axis.grid(True, which="major", alpha=0.3)
    axis.legend(fontsize=8)
