# SPDX-License-Identifier: Apache-2.0
"""Steps of one token: the model's `decode`, or on CUDA one captured graph that is replayed.

A step of a small batch is a few hundred launches of microseconds each, and Python takes longer to
give them out than the device to run them. So what changes from step to step lies in device memory:

    ids     [B, 1]  the tokens to read; the likeliest of this step are left there for the next
    starts  [B]     tokens that each row holds: positions, and where the cache is written
    counts  [B]     1, or 0 for rows that are over; added to `starts` at the end of the step
    logits  [B, V]  float32

The work between them is the same every time and is captured once for a batch and the room of its
cache; again when the cache grows, which doubles the room. The first step after such a change runs
as it is: it makes what is made once (tables, workspaces, handles of libraries).
"""

from __future__ import annotations

import gc
from typing import Any

import numpy as np

from .. import cuda
from ..autograd import no_grad
from ..creation import empty, zeros
from ..dtypes import float32, int64
from ..tensor import Tensor, from_numpy
from .cache import Decodable, Ints, State


class Device:
    """An int64 tensor on the device, and what the host knows of its values."""

    def __init__(self, *shape: int, device: str) -> None:
        self.tensor: Tensor = zeros(*shape, dtype=int64, device=device)
        self.known: Ints | None = np.zeros(shape, np.int64)

    def put(self, values: Ints) -> None:
        """Make it so, without a copy when it is."""
        if self.known is None or not np.array_equal(self.known, values):
            self.tensor.copy_(from_numpy(np.ascontiguousarray(values, np.int64)))
            self.known = values.copy()

    def get(self) -> Ints:
        """Its values; waits for the device unless they are known."""
        if self.known is None:
            self.known = self.tensor.cpu().numpy()
        return self.known


def tensors_of(model: Any) -> list[Any]:
    """Parameters, buffers and tables of a model's modules, as they are now."""
    kept: list[Any] = []
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, Tensor):
                kept.append(value.detach())  # a parameter may be given other memory
            elif callable(getattr(value, "held_tables", None)):
                kept.extend(value.held_tables())
    return kept


class StepGraph:
    """The captured step of one state; made anew when the number of rows changes.

    Attributes
    ----------
    captures : int
        How often the work was captured.
    """

    def __init__(self, model: Any, state: Any, device: str) -> None:
        self.model, self.state = model, state
        self.batch = int(state.lengths.size)
        self.ids = Device(self.batch, 1, device=device)
        self.starts = Device(self.batch, device=device)
        self.counts = Device(self.batch, device=device)
        self.logits: Tensor | None = None
        self.captures = 0
        self._graph: cuda.Graph | None = None
        self._kept: list[Any] = []  # what the graph reads, should the model get others meanwhile
        self._room: Any = None  # of the cache when the last step ran

    def fits(self, state: Any) -> bool:
        """Whether this is the graph of that state as it is now."""
        return state is self.state and self.batch == state.lengths.size

    def step(self, ids: Ints, counts: Ints | None) -> Tensor:
        """Read ids [B, 1]; logits float32 [B, V], overwritten by the next step."""
        state = self.state
        count = np.ones(self.batch, np.int64) if counts is None else counts
        state.prepare_on_device()
        self.ids.put(ids)
        self.starts.put(state.lengths)
        self.counts.put(count)
        self.ids.known = self.starts.known = None
        if self._room is not state.room():
            self._graph, self._room = None, state.room()
            self._work()
        else:
            if self._graph is None:
                self._capture()
            assert self._graph is not None
            self._graph.replay()
        state.lengths = self.starts.known = state.lengths + count
        assert self.logits is not None
        return self.logits

    def chosen(self) -> Ints:
        """The likeliest token [B] of the last step."""
        return self.ids.get().reshape(self.batch).copy()

    def _work(self) -> None:
        """One step from and to device memory; nothing that it makes outlives it."""
        state = self.state
        with no_grad():
            state.begin_on_device(self.starts.tensor, self.counts.tensor)
            try:
                logits = self.model.step(self.ids.tensor, state)
                if self.logits is None:
                    device = self.ids.tensor.device
                    self.logits = empty(*logits.shape, dtype=float32, device=device)
                self.logits.copy_(logits)
                self.ids.tensor.copy_(logits.argmax(-1, keepdim=True))
                self.starts.tensor.add_(self.counts.tensor)
            finally:
                state.end_on_device()

    def _capture(self) -> None:
        # A collection would release memory of others into the graph.
        collecting = gc.isenabled()
        gc.disable()
        try:
            graph = cuda.Graph()
            with graph.capture():
                self._work()
            self._graph, self._kept = graph, tensors_of(self.model)
            self.captures += 1
        finally:
            if collecting:
                gc.enable()


class Steps:
    """The steps of a call of generate: whatever reads one token a row goes through here."""

    enabled = True  # graphs on CUDA, for models that can be captured

    def __init__(self, model: Decodable) -> None:
        self.model = model
        self.graph: StepGraph | None = None
        self._captures = 0

    @property
    def captures(self) -> int:
        """Graphs captured so far."""
        return self._captures + (0 if self.graph is None else self.graph.captures)

    def __call__(self, state: State, ids: Ints, counts: Ints | None) -> Tensor:
        """Read ids [B, 1], counts[b] of them in row b; logits [B, V] until the next call."""
        model: Any = self.model
        can = getattr(model, "can_capture", None)
        # sl.cuda.Graph is of the first device.
        if (
            can is None
            or not self.enabled
            or model.device not in ("cuda", "cuda:0")
            or not can(state, counts)
        ):
            with no_grad():
                return self.model.decode(ids, state, counts)
        if self.graph is None or not self.graph.fits(state):
            self._captures = self.captures
            self.graph = StepGraph(model, state, model.device)
        return self.graph.step(ids, counts)

    def likeliest(self, logits: Tensor) -> Ints:
        """The best token [B] of logits that a call gave; only they cross to the host."""
        if self.graph is not None and logits is self.graph.logits:
            return self.graph.chosen()
        out: Ints = logits.argmax(-1).cpu().numpy()
        return out
