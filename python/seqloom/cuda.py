# SPDX-License-Identifier: Apache-2.0
"""sl.cuda: what devices there are, and their streams, events, graphs and memory.

Without a GPU, a driver or a CUDA build, the questions (:func:`is_available`,
:func:`device_count`, :func:`why_unavailable`) are answered, and everything that needs a device
raises a RuntimeError that says which of the three is missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Any

from . import _core

__all__ = [
    "DeviceProperties",
    "Event",
    "Graph",
    "Stream",
    "device_count",
    "empty_cache",
    "get_device_properties",
    "is_available",
    "max_memory_allocated",
    "memory_allocated",
    "memory_reserved",
    "reset_peak_memory",
    "stream",
    "synchronize",
    "why_unavailable",
]


def why_unavailable() -> str:
    """Empty when a device can be used, else what is missing: CUDA build, driver or GPU.

    >>> import seqloom as sl
    >>> isinstance(sl.cuda.why_unavailable(), str)
    True
    """
    return _core.cuda_why_unavailable()


def is_available() -> bool:
    """Whether the device "cuda" can be used; never raises.

    >>> import seqloom as sl
    >>> sl.cuda.is_available() == (sl.cuda.device_count() > 0)
    True
    """
    return not _core.cuda_why_unavailable()


def device_count() -> int:
    """How many CUDA devices there are; never raises."""
    return _core.cuda_device_count()


@dataclass(frozen=True)
class DeviceProperties:
    """What :func:`get_device_properties` tells of a device; sizes in bytes."""

    name: str
    major: int
    minor: int
    multi_processor_count: int
    total_memory: int
    shared_memory_per_block: int
    l2_cache_size: int
    emulated: bool


def _index(device: int | str | None) -> int:
    if device is None:
        index = 0
    elif isinstance(device, int) and not isinstance(device, bool):
        index = device
    elif isinstance(device, str) and (device == "cuda" or device[5:].isdigit()):
        index = int(device[5:] or 0)
    else:
        raise ValueError(f"device: must be 'cuda', 'cuda:N' or a number, got {device!r}")
    if not 0 <= index < 128:
        raise ValueError(f"device: must be in [0, 128), got {index}")
    _core.cuda_require(index)
    return index


def get_device_properties(device: int | str | None = None) -> DeviceProperties:
    """Name, compute capability, multiprocessors and memory of a device."""
    index = _index(device)  # refuses where _core has no CUDA functions
    return DeviceProperties(**_core.cuda_device_properties(index))


def synchronize(device: int | str | None = None) -> None:
    """Wait for everything given to a device; errors of earlier kernels are raised here."""
    index = _index(device)
    _core.cuda_synchronize(index)


def memory_allocated(device: int | str | None = None) -> int:
    """Bytes that tensors hold on a device."""
    index = _index(device)
    return int(_core.cuda_memory(index)[0])


def max_memory_allocated(device: int | str | None = None) -> int:
    """The most that :func:`memory_allocated` has been."""
    index = _index(device)
    return int(_core.cuda_memory(index)[1])


def memory_reserved(device: int | str | None = None) -> int:
    """Bytes that the memory pool holds on a device, in use or not."""
    index = _index(device)
    return int(_core.cuda_memory(index)[2])


def reset_peak_memory(device: int | str | None = None) -> None:
    """Start :func:`max_memory_allocated` afresh."""
    _index(device)
    _core.cuda_reset_peak_memory()


def empty_cache() -> None:
    """Give unused pool memory back to the device."""
    _index(None)
    _core.cuda_empty_cache()


class Stream:
    """A queue of work of its own on a device; ``with stream:`` makes it current."""

    def __init__(self, device: int | str | None = None) -> None:
        index = _index(device)
        self._stream = _core.CudaStream(index)
        self._before: list[int] = []

    @property
    def handle(self) -> int:
        """The ``cudaStream_t`` as an integer."""
        return int(self._stream.handle)

    def synchronize(self) -> None:
        """Wait for the stream's work."""
        self._stream.synchronize()

    def query(self) -> bool:
        """Whether the stream's work is done."""
        return bool(self._stream.query())

    def wait_event(self, event: Event) -> None:
        """Later work of the stream waits for `event`."""
        self._stream.wait_event(event._event)

    def __enter__(self) -> Stream:
        self._before.append(self._stream.make_current())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _core.set_current_stream(self._before.pop())


def stream(s: Stream) -> Stream:
    """``with sl.cuda.stream(s): ...``, torch's spelling."""
    return s


class Event:
    """A point in a stream's work."""

    def __init__(self, enable_timing: bool = True) -> None:
        _index(None)
        self._event = _core.CudaEvent(enable_timing)

    def record(self) -> None:
        """Mark the current stream's work so far."""
        self._event.record()

    def synchronize(self) -> None:
        """Wait until the point has been reached."""
        self._event.synchronize()

    def query(self) -> bool:
        """Whether the point has been reached."""
        return bool(self._event.query())

    def elapsed_time(self, end: Event) -> float:
        """Milliseconds from this event to `end`."""
        return float(self._event.elapsed_time(end._event))


class Graph:
    """Work captured once and replayed with one call.

    ``with graph.capture(): ...`` runs the body on a stream of its own and records its launches;
    tensors made inside must be kept alive as long as the graph is replayed.
    """

    def __init__(self) -> None:
        _index(None)
        self._graph = _core.CudaGraph()
        self._stream: Stream | None = None

    def capture(self) -> _Capture:
        return _Capture(self)

    def replay(self) -> None:
        """Launch everything that was captured on the current stream."""
        self._graph.replay()


class _Capture:
    def __init__(self, graph: Graph) -> None:
        self._owner = graph

    def __enter__(self) -> Graph:
        owner = self._owner
        owner._stream = Stream()
        owner._stream.__enter__()
        owner._graph.begin_capture()
        return owner

    def __exit__(self, *error: Any) -> None:
        owner = self._owner
        assert owner._stream is not None
        try:
            owner._graph.end_capture()
        finally:
            owner._stream.__exit__(None, None, None)
