# SPDX-License-Identifier: Apache-2.0
"""Two results files side by side: what became slower or faster, and what merely looks so."""

from __future__ import annotations

from dataclasses import dataclass

from seqloom.bench.record import OURS, Report
from seqloom.bench.stats import MIN_SAMPLES, mann_whitney, summarize
from seqloom.bench.table import WIDTH, seconds_text

ALPHA = 0.01


@dataclass(frozen=True)
class Change:
    """One row in both files. `delta` is new / old - 1: positive is slower."""

    id: str
    old: float
    new: float
    delta: float
    p_value: float
    verdict: str
    relative: bool = False


def compare(
    old: Report, new: Report, *, alpha: float = ALPHA, relative_to: str = ""
) -> list[Change]:
    """Compare the rows that both files have timed, in the new file's order.

    A row is 'faster' or 'slower' only where the Mann-Whitney test says that the samples differ;
    with `relative_to` a peer, both sides are measured in units of that peer's time in the same
    round, which takes the mood of the machine out.
    """
    before = old.by_id()
    changes = []
    for row in new.rows:
        other = before.get(row.id)
        if other is None:
            continue
        if relative_to:
            a, b = other.relative(relative_to), row.relative(relative_to)
        else:
            a, b = other.samples(), row.samples()
        if not a or not b:
            continue
        was, now = summarize(a).p50, summarize(b).p50
        p_value = mann_whitney(a, b)
        verdict = "no difference"
        if min(len(a), len(b)) < MIN_SAMPLES:
            verdict = "too few samples"
        elif p_value < alpha and now != was:
            verdict = "slower" if now > was else "faster"
        changes.append(Change(row.id, was, now, now / was - 1, p_value, verdict, bool(relative_to)))
    return changes


def regressions(changes: list[Change], limit: float) -> list[Change]:
    """Rows that are slower beyond doubt, and by more than `limit` (0.05 is five percent)."""
    return [c for c in changes if c.verdict == "slower" and c.delta > limit]


def differences_of_setting(old: Report, new: Report) -> list[str]:
    """What differs between the two environments and makes the comparison doubtful."""
    out = []
    for key in ("machine", "cpu", "cores", "threads", "python"):
        if old.env.get(key) != new.env.get(key):
            out.append(f"{key}: {old.env.get(key)} -> {new.env.get(key)}")
    was, now = old.env.get("peers", {}), new.env.get("peers", {})
    for name in sorted(set(was) | set(now)):
        if was.get(name) != now.get(name):
            out.append(f"{name}: {was.get(name, 'none')} -> {now.get(name, 'none')}")
    return out


def percent(text: str) -> float:
    """``5%`` or ``0.05`` as a fraction; a negative or unreadable one is a `ValueError`."""
    value = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    if not 0 <= value < float("inf"):
        raise ValueError(f"a share such as 5% is wanted, got {text}")
    return value


def comparison_lines(old: Report, new: Report, changes: list[Change]) -> list[str]:
    """The comparison in lines of at most 100 columns."""
    lines = [f"old: seqloom {old.env.get('seqloom', '')}, {old.env.get('date', '')}"]
    lines.append(f"new: seqloom {new.env.get('seqloom', '')}, {new.env.get('date', '')}")
    lines += [f"differs  {text}"[:WIDTH] for text in differences_of_setting(old, new)]
    lines += ["", f"{'row':<52} {'old':>8} {'new':>8} {'delta':>7} {'p':>6}  verdict", "-" * WIDTH]
    for change in changes:
        show = (lambda v: f"{v:.3f}x") if change.relative else seconds_text
        identity = change.id
        if len(identity) > 52:
            lines.append(identity[:WIDTH])
            identity = ""
        lines.append(
            f"{identity:<52} {show(change.old):>8} {show(change.new):>8} "
            f"{100 * change.delta:>+6.1f}% {change.p_value:>6.3f}  {change.verdict}"
        )
    matched = {change.id for change in changes}
    only = [row.id for row in new.rows if row.seconds.get(OURS) and row.id not in matched]
    gone = [row.id for row in old.rows if row.seconds.get(OURS) and row.id not in matched]
    counts: dict[str, int] = {}
    for change in changes:
        counts[change.verdict] = counts.get(change.verdict, 0) + 1
    summary = ", ".join(f"{count} {verdict}" for verdict, count in counts.items()) or "none"
    lines += ["", f"{len(changes)} rows in both: {summary}"]
    if only or gone:
        lines.append(f"{len(only)} rows only in the new file, {len(gone)} only in the old one")
    return lines
