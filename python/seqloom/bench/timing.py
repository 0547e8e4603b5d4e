# SPDX-License-Identifier: Apache-2.0
"""The timing engine: contestants take turns, round after round, and every sample is kept.

Absolute times drift by a factor of two on a shared machine while ratios hold, so contestants are
interleaved: a round times each of them once, in an order that rotates. A sample during which other
processes kept this one from its CPUs says something about the neighbours and nothing about the
code; the scheduler's own counts mark it, and it is left out of the quantiles. A library whose own
threads crowd each other out is as slow as that: such waiting is no disturbance.
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from seqloom.bench.environment import cores
from seqloom.bench.stats import MIN_SAMPLES, mann_whitney

Call = Callable[[], Any]

WAIT_LIMIT = 0.03
_SLOW, _PATIENCE = 4.0, 8.0
TASKS = "/proc/self/task"


class Clock(Protocol):
    """Times `repeat` passes over the calls and gives seconds per call."""

    def time(self, contestant: Contestant, repeat: int) -> float: ...

    def finish(self) -> None:
        """Wait for whatever the calls have started."""


@dataclass
class Contestant:
    """One implementation: its calls, one for each set of inputs, and the samples so far."""

    name: str
    calls: Sequence[Call]
    clock: Clock
    repeat: int = 1
    estimate: float = 1e-8
    seconds: list[float] = field(default_factory=list)
    wait: list[float | None] = field(default_factory=list)
    position: int = 0
    results: list[Any] = field(default_factory=list)

    def run(self, repeat: int) -> None:
        # Results are held for one trip round the ring: an allocator that hands the same warm
        # buffer out again would otherwise hide the cost of writing to memory.
        calls, ring, at = self.calls, self.results, self.position
        size = len(calls)
        if len(ring) != size:
            ring[:] = [None] * size
        for _ in range(repeat):
            ring[at] = None
            ring[at] = calls[at]()
            at += 1
            if at == size:
                at = 0
        self.position = at


class HostClock:
    """Wall-clock time of calls that return when their result is ready."""

    def time(self, contestant: Contestant, repeat: int) -> float:
        start = time.perf_counter_ns()
        contestant.run(repeat)
        return (time.perf_counter_ns() - start) * 1e-9 / repeat

    def finish(self) -> None:
        """A call that has returned is done."""


class EventClock:
    """Device time between two events of the library that issues the work.

    Work that is bound by its launches is captured into a graph of one trip round the ring, and
    replays of it are timed, so that a row shows what the kernels cost.
    """

    # Calls that take less than this on the device are mostly launch.
    LAUNCH_BOUND = 1e-4

    def __init__(
        self,
        make_event: Callable[[], Any],
        wait: Callable[[], None],
        capture: Callable[[Sequence[Call]], Call | None],
    ) -> None:
        self.make_event = make_event
        self.finish = wait
        self.capture = capture
        self.replay: Call | None = None
        self.tried = False

    def time(self, contestant: Contestant, repeat: int) -> float:
        seconds = self._time(contestant, repeat)
        if not self.tried and seconds < self.LAUNCH_BOUND:
            self.tried = True
            self.replay = self.capture(contestant.calls)
            seconds = self._time(contestant, repeat)
        return seconds

    def _time(self, contestant: Contestant, repeat: int) -> float:
        size = len(contestant.calls)
        start, end = self.make_event(), self.make_event()
        start.record()
        if self.replay is None:
            contestant.run(repeat)
            count = repeat
        else:
            trips = max(1, repeat // size)
            for _ in range(trips):
                self.replay()
            count = trips * size
        end.record()
        self.finish()
        return float(start.elapsed_time(end)) * 1e-3 / count


@dataclass
class Timings:
    """All samples by contestant and round: seconds, share taken by others, whether it counts."""

    seconds: dict[str, list[float]]
    wait: dict[str, list[float | None]]
    kept: dict[str, list[bool]]
    noisy: list[str]

    def samples(self, name: str) -> list[float]:
        """The samples that count."""
        return [s for s, k in zip(self.seconds[name], self.kept[name], strict=True) if k]


def waited(tasks: str = TASKS) -> dict[str, int] | None:
    """Nanoseconds that each thread has spent runnable but not running; None where unknown."""
    out: dict[str, int] = {}
    try:
        for task in os.listdir(tasks):
            try:
                with open(f"{tasks}/{task}/schedstat", encoding="ascii") as file:
                    out[task] = int(file.read().split()[1])
            except (OSError, IndexError, ValueError):
                continue  # the thread ended between the two calls
    except OSError:
        return None
    return out or None


def wait_fraction(
    before: dict[str, int] | None,
    after: dict[str, int] | None,
    elapsed: float,
    threads: int,
    ran: float = 0.0,
    cpus: int = 0,
) -> float | None:
    """Share of the threads' time that other processes took between two readings, at most.

    They took no more than the threads waited, and no more than the `cpus` (default: one a thread)
    had left after the `ran` seconds of this process; what it waited beyond that it waited for its
    own threads.
    """
    if before is None or after is None or elapsed <= 0:
        return None
    # A thread that was born in between starts from zero.
    waiting = 1e-9 * sum(after[task] - before.get(task, 0) for task in after)
    left = max(0.0, elapsed * (cpus or max(1, threads)) - ran)
    return min(waiting, left) / (elapsed * max(1, threads))


def keep_samples(
    waits: Sequence[float | None], limit: float = WAIT_LIMIT
) -> tuple[list[bool], bool]:
    """Which samples count, and whether the machine was too noisy to choose.

    Samples of which others took more than `limit` are dropped. Where fewer than a third (or fewer
    than three) would remain, all are kept and the contestant is called noisy.
    """
    kept = [wait is None or wait <= limit for wait in waits]
    if sum(kept) < max(min(3, len(kept)), math.ceil(len(kept) / 3)):
        return [True] * len(kept), True
    return kept, False


def judge(contestants: Sequence[Contestant]) -> dict[str, tuple[list[bool], bool]]:
    """`keep_samples` of each, though what a contestant does to itself is no disturbance.

    Neighbours don't know whose turn it is. A contestant that nearly always waits, and distinctly
    longer than another one that takes turns with it and is left alone, waits for its own threads
    (two of them on one CPU, say): that is how fast it is, and all its samples count.
    """
    found = {c.name: keep_samples(c.wait) for c in contestants}
    waits = {c.name: [w for w in c.wait if w is not None] for c in contestants}
    left_alone = [name for name, (_, noisy) in found.items() if not noisy]
    for name, (kept, noisy) in found.items():
        if noisy and any(
            np.median(waits[name]) > np.median(waits[other])
            and min(len(waits[name]), len(waits[other])) >= MIN_SAMPLES
            and mann_whitney(waits[name], waits[other]) < 0.01
            for other in left_alone
        ):
            found[name] = kept, False
    return found


def measure(
    contestants: Sequence[Contestant],
    *,
    threads: int,
    budget: float = 2.0,
    min_rounds: int = 5,
    max_rounds: int = 40,
    sample_seconds: float = 1e-2,
    settle: float = 1.2e-2,
    patient: bool = True,
) -> Timings:
    """Time the contestants in interleaved rounds until the budget or `max_rounds` is spent.

    Slow calls may take `_SLOW` budgets to reach `min_rounds`, a disturbed machine `_PATIENCE` of
    them (where `patient`) to give enough samples that count. There are three rounds in any case.
    """
    for contestant in contestants:
        _calibrate(contestant, sample_seconds, settle)
    begin = time.perf_counter()
    with _no_collections():
        for index in range(max_rounds):
            spent = time.perf_counter() - begin
            limit = budget if index >= min_rounds else _SLOW * budget
            if patient and any(noisy for _, noisy in judge(contestants).values()):
                limit = _PATIENCE * budget
            if spent > limit and index >= min(3, min_rounds):
                break
            for k in range(len(contestants)):
                _sample(contestants[(index + k) % len(contestants)], threads, settle)
    decided = judge(contestants)
    return Timings(
        {c.name: c.seconds for c in contestants},
        {c.name: c.wait for c in contestants},
        {name: kept for name, (kept, _) in decided.items()},
        [name for name, (_, noisy) in decided.items() if noisy],
    )


@contextlib.contextmanager
def _no_collections() -> Iterator[None]:
    """The collector's pauses belong to nobody in particular."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _calibrate(contestant: Contestant, sample_seconds: float, settle: float) -> None:
    contestant.run(len(contestant.calls))
    contestant.estimate = max(contestant.clock.time(contestant, 1), 1e-8)
    _settle(contestant, settle)
    seconds = contestant.clock.time(contestant, 1)
    if seconds < sample_seconds / 8:
        seconds = contestant.clock.time(contestant, 8)
    contestant.estimate = max(seconds, 1e-8)
    contestant.repeat = max(1, min(100_000, math.ceil(sample_seconds / contestant.estimate)))


def _settle(contestant: Contestant, settle: float) -> None:
    # Two things spoil the first milliseconds: the previous library's workers, which spin for more
    # work before they sleep, and our own, which wake on a CPU that is taken and stay there until
    # the scheduler's next balance. Both are over after a while of untimed work.
    if contestant.estimate > 4 * settle:
        return
    end = time.perf_counter() + settle
    while time.perf_counter() < end:
        contestant.run(max(1, int(1e-3 / contestant.estimate)))
        contestant.clock.finish()


def _sample(contestant: Contestant, threads: int, settle: float) -> None:
    _settle(contestant, settle)
    before, ran, start = waited(), time.process_time(), time.perf_counter()
    contestant.seconds.append(contestant.clock.time(contestant, contestant.repeat))
    elapsed, ran = time.perf_counter() - start, time.process_time() - ran
    contestant.wait.append(wait_fraction(before, waited(), elapsed, threads, ran, cores()))
