# SPDX-License-Identifier: Apache-2.0
"""Results as data: one JSON document with every sample, and the same samples as CSV."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from seqloom.bench.stats import MIN_SAMPLES, Summary, mann_whitney, summarize
from seqloom.files import atomic_write

FORMAT = "seqloom-bench"
VERSION = 1
OURS = "seqloom"
# A plain copy that takes part in the rounds of memory-bound rows: their roof, not a peer.
COPY = "copy"
OUT_OF_TIME, INTERRUPTED = "out of time", "interrupted"

# What became of a row. Only 'timed' has samples.
STATUSES = ("timed", "absent", "wrong", "failed")


class BadFile(Exception):
    """A results file that cannot be read."""


@dataclass
class Row:
    """One case in one mode and dtype: samples of every contestant, and what they mean."""

    id: str
    family: str
    name: str
    label: str
    sizes: dict[str, int]
    mode: str
    dtype: str
    device: str
    threads: int
    cache: str
    date: str = ""
    status: str = "timed"
    note: str = ""
    bytes: float = 0.0
    flops: float = 0.0
    unit: str = ""
    per_call: float = 0.0
    copies: int = 1
    seconds: dict[str, list[float]] = field(default_factory=dict)
    repeat: dict[str, int] = field(default_factory=dict)
    wait: dict[str, list[float | None]] = field(default_factory=dict)
    kept: dict[str, list[bool]] = field(default_factory=dict)
    noisy: list[str] = field(default_factory=list)
    error: float | None = None
    tolerance: float | None = None
    peak_bytes: dict[str, int | None] = field(default_factory=dict)
    roof_seconds: float = 0.0
    bound: str = ""
    copy_bandwidth: float = 0.0
    failures: dict[str, str] = field(default_factory=dict)

    def samples(self, contestant: str = OURS) -> list[float]:
        """The samples that count."""
        pairs = zip(self.seconds.get(contestant, []), self.kept.get(contestant, []), strict=False)
        return [seconds for seconds, kept in pairs if kept]

    def relative(self, peer: str) -> list[float]:
        """Our time in units of the peer's in the same round, where both samples count."""
        if peer not in self.seconds:
            return []
        columns = (self.seconds[OURS], self.kept[OURS], self.seconds[peer], self.kept[peer])
        return [a / b for a, a_kept, b, b_kept in zip(*columns, strict=False) if a_kept and b_kept]

    def summary(self, contestant: str = OURS) -> Summary | None:
        samples = self.samples(contestant)
        return summarize(samples) if samples else None

    @property
    def peers(self) -> list[str]:
        return [name for name in self.seconds if name not in (OURS, COPY)]

    def ratio(self, peer: str) -> float | None:
        """Peer's time over ours: above one we are faster."""
        ours, theirs = self.summary(), self.summary(peer)
        return theirs.p50 / ours.p50 if ours and theirs and ours.p50 > 0 else None

    def differs(self, peer: str, alpha: float = 0.01) -> bool:
        """Whether the peer's samples are distinguishable from ours.

        With too few of them for the test, they are where their ranges don't overlap.
        """
        ours, theirs = self.samples(), self.samples(peer)
        if min(len(ours), len(theirs)) < MIN_SAMPLES:
            return max(ours) < min(theirs) or max(theirs) < min(ours)
        return mann_whitney(ours, theirs) < alpha

    @property
    def roof_share(self) -> float | None:
        """The roofline's time over ours; None where the roof is too small to mean anything."""
        from seqloom.bench.roofline import SMALLEST_ROOF

        ours = self.summary()
        if ours is None or self.roof_seconds < SMALLEST_ROOF:
            return None
        return self.roof_seconds / ours.p50


@dataclass
class Report:
    """A whole run."""

    env: dict[str, Any]
    roofline: dict[str, Any]
    rows: list[Row]

    def to_json(self) -> str:
        head = {
            "format": FORMAT,
            "version": VERSION,
            "env": self.env,
            "roofline": self.roofline,
        }
        rows = [_compact(asdict(row)) for row in self.rows]
        lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
        # One row a line: a difference of two runs shows which rows changed.
        return json.dumps(head, indent=1)[:-2] + ',\n "rows": [\n' + lines + "\n ]\n}\n"

    def by_id(self) -> dict[str, Row]:
        return {row.id: row for row in self.rows}


def merge(older: Report, newer: Report) -> Report:
    """The newer report, with those rows of the older one that it does not have.

    Rows keep the older order; what is new comes last. The environment is the newer one's. A row for
    which there was no time replaces nothing.
    """
    unmeasured = (OUT_OF_TIME, INTERRUPTED)
    fresh = {id: row for id, row in newer.by_id().items() if row.note not in unmeasured}
    rows = [fresh.pop(row.id, row) for row in older.rows]
    return Report(newer.env, newer.roofline, rows + list(fresh.values()))


def _compact(value: Any) -> Any:
    """Seven significant digits are more than any clock resolves."""
    if isinstance(value, float):
        return float(f"{value:.7g}")
    if isinstance(value, dict):
        return {key: _compact(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_compact(item) for item in value]
    return value


def save(report: Report, path: str | Path) -> None:
    """Write the file whole or not at all."""
    with atomic_write(path) as file:
        file.write(report.to_json().encode())


def load(path: str | Path) -> Report:
    """Read a results file; `BadFile` says in one line what is wrong with it."""
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise BadFile(f"{path}: {error.strerror or error}") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise BadFile(f"{path}: not JSON ({error})") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise BadFile(f"{path}: not a results file of seqloom bench")
    if document.get("version") != VERSION:
        raise BadFile(f"{path}: version {document.get('version')}, this seqloom reads {VERSION}")
    try:
        rows = [Row(**row) for row in document["rows"]]
        return Report(dict(document["env"]), dict(document["roofline"]), rows)
    except (KeyError, TypeError, ValueError) as error:
        raise BadFile(f"{path}: malformed results ({error})") from None


CSV_FIELDS = (
    "id", "family", "name", "label", "mode", "dtype", "device", "threads", "cache", "machine",
    "date", "contestant", "version", "round", "kept", "wait", "seconds",
)  # fmt: skip


def csv_rows(report: Report) -> Iterator[dict[str, Any]]:
    """One line a sample."""
    versions = {OURS: report.env.get("seqloom", ""), **report.env.get("peers", {})}
    for row in report.rows:
        shared = {name: getattr(row, name) for name in CSV_FIELDS if hasattr(row, name)}
        shared |= {"machine": report.env.get("machine", ""), "date": report.env.get("date", "")}
        for contestant, seconds in row.seconds.items():
            version = versions.get(contestant.partition(".")[0], "")
            for index, value in enumerate(seconds):
                wait = row.wait[contestant][index]
                yield {
                    **shared,
                    "contestant": contestant,
                    "version": version,
                    "round": index,
                    "kept": int(row.kept[contestant][index]),
                    "wait": "" if wait is None else f"{wait:.4f}",
                    "seconds": f"{value:.9g}",
                }


def save_csv(report: Report, path: str | Path) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, CSV_FIELDS)
        writer.writeheader()
        writer.writerows(csv_rows(report))
