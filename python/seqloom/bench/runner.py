# SPDX-License-Identifier: Apache-2.0
"""From cases to rows: prepare, check, measure memory, time."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from seqloom.bench.case import ITEM_SIZE, MODES, Case
from seqloom.bench.check import verify
from seqloom.bench.environment import cores, last_level_cache, today
from seqloom.bench.libraries import Library, Peers, Seqloom, Unsupported
from seqloom.bench.memory import peak_of_call
from seqloom.bench.record import COPY, INTERRUPTED, OURS, OUT_OF_TIME, Row
from seqloom.bench.roofline import Roofline
from seqloom.bench.timing import Call, Contestant, HostClock, measure

MAX_COPIES = 256


@dataclass(frozen=True)
class Settings:
    """How a run is done; the defaults are those of the command line."""

    device: str = "cpu"
    threads: int = 0
    dtypes: tuple[str, ...] = ()
    modes: tuple[str, ...] = ()
    cache: str = ""
    peers: tuple[str, ...] | None = None
    compiled: bool = True
    check: bool = True
    seconds: float = 2.0
    min_rounds: int = 9
    max_rounds: int = 40
    quick: bool = False

    def resolved(self) -> Settings:
        """With the number of threads filled in."""
        return replace(self, threads=self.threads or cores())


@dataclass(frozen=True)
class Job:
    """One row to be measured."""

    case: Case
    mode: str
    dtype: str

    def row_id(self, settings: Settings) -> str:
        """What identifies the row from run to run."""
        kind = settings.device.partition(":")[0]
        cache = settings.cache or self.case.cache
        return f"{self.case.id}/{self.mode}/{self.dtype}/{kind}/{settings.threads}t/{cache}"

    def title(self) -> str:
        return f"{self.case.name} {self.case.label} {self.mode} {self.dtype}"


def quick_of(case: Case, kind: str) -> tuple[str, ...]:
    """The rows of a case in a short run on this kind of device."""
    return case.quick_cuda if kind == "cuda" else case.quick


def plan(cases: Iterable[Case], settings: Settings) -> list[Job]:
    """The rows that the settings ask for, among those that the cases offer."""
    jobs = []
    kind = settings.device.partition(":")[0]
    for case in cases:
        if kind not in case.devices:
            continue
        for mode in MODES:
            for dtype in case.dtypes:
                if settings.modes and mode not in settings.modes:
                    continue
                if settings.dtypes and dtype not in settings.dtypes:
                    continue
                if mode not in case.modes:
                    continue
                if settings.quick and f"{mode}/{dtype}" not in quick_of(case, kind):
                    continue
                jobs.append(Job(case, mode, dtype))
    return jobs


class Runner:
    """Measures jobs one after the other; knows the libraries and the roofline."""

    def __init__(
        self, module: Any, settings: Settings, roofline: Roofline, peers: Peers | None = None
    ) -> None:
        self.settings = settings
        self.module = module
        self.roofline = roofline
        self.ours = Seqloom(settings.device, settings.threads, module)
        self.peers = peers or Peers(settings.device, settings.threads, settings.peers)
        self.cache_bytes = self._cache_bytes()

    def _cache_bytes(self) -> int:
        if self.settings.device == "cpu":
            return last_level_cache()
        properties = self.module.cuda.get_device_properties(0)
        return int(getattr(properties, "l2_cache_size", 0) or 64 << 20)

    def run(self, job: Job, seconds: float | None = None) -> Row:
        """One row, whatever happens: trouble becomes the row's status and note."""
        row = self._blank(job)
        need = job.case.missing(self.module)
        if need:
            row.status, row.note = "absent", f"this seqloom has no {need}"
            return row
        try:
            self._measure(job, row, seconds or self.settings.seconds)
        except Unsupported:
            row.status, row.note = "absent", f"not offered in {job.dtype} {job.mode}"
        except Exception as error:  # a row must not end the run
            row.status = "failed"
            row.note = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        gc.collect()
        return row

    def skip(self, job: Job, reason: str) -> Row:
        """A row that says why it was not measured."""
        row = self._blank(job)
        row.status, row.note = "absent", reason
        return row

    def _blank(self, job: Job) -> Row:
        case, settings = job.case, self.settings
        cache = settings.cache or case.cache
        work = case.work(job.mode, ITEM_SIZE[job.dtype])
        roof, bound = self.roofline.bound(work.bytes, work.flops, job.dtype, cache)
        return Row(
            id=job.row_id(settings),
            family=case.family,
            name=case.name,
            label=case.label,
            sizes=dict(case.sizes),
            mode=job.mode,
            dtype=job.dtype,
            device=settings.device,
            threads=settings.threads,
            cache=cache,
            date=today(),
            bytes=work.bytes,
            flops=work.flops,
            unit=case.unit,
            per_call=case.per_call,
            roof_seconds=roof,
            bound=bound,
        )

    def _measure(self, job: Job, row: Row, seconds: float) -> None:
        case = job.case
        inputs = case.make(np.random.default_rng(0))
        if self.settings.check:
            verdict = verify(case, self.ours, inputs, job.mode, job.dtype)
            if verdict is not None:
                row.error, row.tolerance = verdict.error, verdict.tolerance
                if not verdict.ok:
                    row.status = "wrong"
                    row.note = (
                        f"{verdict.what}: error {verdict.error:.2g}, "
                        f"at most {verdict.tolerance:.2g} allowed"
                    )
                    return
        row.copies = self._copies(row, inputs)
        copies = [inputs] * row.copies
        contestants = [self._contestant(row, OURS, self.ours, case, case.ours, copies, job)]
        for name, contender in self.peers.contenders(
            case, compiled=self.settings.compiled and not self.settings.quick
        ).items():
            library = self.peers.library(name)
            assert library is not None
            if name == "torch.compile":
                library = self.peers.library("torch.compile") or library
            try:
                contestants.append(
                    self._contestant(row, name, library, case, contender, copies, job)
                )
            except Unsupported:
                continue
            except Exception as error:  # a peer's trouble is a note in our row
                text = str(error).splitlines()[0] if str(error) else ""
                row.failures[name] = f"{type(error).__name__}: {text}"[:200]
        if copy := self._copy_beside(row):
            contestants.append(copy)
        timings = measure(
            contestants,
            threads=self.settings.threads,
            budget=seconds,
            min_rounds=self.settings.min_rounds,
            max_rounds=self.settings.max_rounds,
            sample_seconds=5e-3 if self.settings.quick else 1e-2,
            settle=8e-3 if self.settings.quick else 1.2e-2,
            patient=not self.settings.quick,
        )
        row.seconds, row.wait, row.kept = timings.seconds, timings.wait, timings.kept
        row.noisy = timings.noisy
        row.repeat = {c.name: c.repeat for c in contestants}
        self._bound_by_copy(row)

    def _copy_beside(self, row: Row) -> Contestant | None:
        """The copy as a contestant, where the row's roof depends on memory."""
        copy = self.roofline.copy
        compute = self.roofline.compute(row.dtype)
        if copy is None or row.cache == "warm" or self.settings.device != "cpu":
            return None
        if compute and row.flops / compute > 4 * row.bytes / self.roofline.memory:
            return None
        return Contestant(COPY, [copy.call], HostClock())

    def _bound_by_copy(self, row: Row) -> None:
        """Judge the row by the copies of its own rounds."""
        copy, beside = self.roofline.copy, row.summary(COPY)
        if copy is None or beside is None:
            return
        local = replace(self.roofline, memory=copy.bytes / beside.p50)
        row.copy_bandwidth = local.memory
        row.roof_seconds, row.bound = local.bound(row.bytes, row.flops, row.dtype, row.cache)

    def _copies(self, row: Row, inputs: Any) -> int:
        if row.cache == "warm":
            return 1
        held = sum(a.nbytes for a in inputs.values() if isinstance(a, np.ndarray))
        footprint = max(row.bytes, float(held), 1.0)
        return min(MAX_COPIES, max(1, math.ceil(2 * self.cache_bytes / footprint)))

    def _contestant(
        self,
        row: Row,
        name: str,
        library: Library,
        case: Case,
        contender: Any,
        copies: Sequence[Any],
        job: Job,
    ) -> Contestant:
        calls = library.calls(case, contender, copies, job.mode, job.dtype)
        release: Callable[[], None] | None = None
        if name == OURS:
            release = getattr(getattr(self.module, "_core", None), "cpu_empty_cache", None)
        if self.settings.device == "cpu":
            calls[0]()  # lazy work (threads, plans, compilation) is nobody's peak
            row.peak_bytes[name] = peak_of_call(calls[0], release)
        else:
            row.peak_bytes[name] = self._device_peak(library, calls[0])
        return Contestant(name, calls, library.clock())

    def _device_peak(self, library: Library, call: Call) -> int | None:
        cuda: Any = getattr(library.module, "cuda", None)
        try:
            reset = getattr(cuda, "reset_peak_memory", None) or cuda.reset_peak_memory_stats
            call()
            reset()
            before = cuda.memory_allocated()
            result = call()
            peak = int(cuda.max_memory_allocated() - before)
            del result
        except (AttributeError, RuntimeError):
            return None
        return peak


def run_all(
    runner: Runner,
    jobs: Sequence[Job],
    *,
    on_start: Callable[[Job], None] | None = None,
    on_row: Callable[[Row], None] | None = None,
    deadline: float | None = None,
    shared: bool = False,
) -> list[Row]:
    """Every job in turn, until the deadline (monotonic); `shared`: each with its share of the time.

    An interrupt ends the run early: what has been measured is returned.
    """
    rows: list[Row] = []
    beside = 0.0  # what rows have taken beyond their rounds: inputs, checks, compilation
    for index, job in enumerate(jobs):
        if on_start is not None:
            on_start(job)
        seconds = None
        if deadline is not None and time.monotonic() > deadline:
            rows.append(runner.skip(job, OUT_OF_TIME))
            continue
        if deadline is not None and shared:
            share = (deadline - time.monotonic()) / (len(jobs) - index)
            seconds = min(runner.settings.seconds, max(0.05, share - beside / max(1, index)))
        start = time.monotonic()
        try:
            row = runner.run(job, seconds)
        except KeyboardInterrupt:
            return rows + [runner.skip(left, INTERRUPTED) for left in jobs[index:]]
        beside += max(0.0, time.monotonic() - start - (seconds or 0.0))
        rows.append(row)
        if on_row is not None:
            on_row(row)
    return rows
