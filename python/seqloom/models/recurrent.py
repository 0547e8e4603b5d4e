# SPDX-License-Identifier: Apache-2.0
"""What recurrent models share: cells by name, initial values, padding, states of decoding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np

from ..nn import GRU, LSTM, RNN, Linear, Module, init
from ..tensor import Tensor, from_numpy
from .inputs import as_array, as_padding

CELLS: tuple[str, ...] = ("lstm", "gru", "rnn")
Ints = np.ndarray[Any, np.dtype[np.int64]]
States = tuple[Tensor, ...]  # h, and c of an LSTM: [layers * directions, B, H]

_CLASSES: dict[str, Callable[..., Any]] = {"lstm": LSTM, "gru": GRU, "rnn": RNN}


def new_rnn(cell: str, inputs: int, units: int, layers: int, **options: Any) -> Any:
    """A stack of the cells of this name, time first."""
    return _CLASSES[cell](inputs, units, layers, **options)


def run_rnn(
    rnn: Any, x: Tensor, states: States | None = None, lengths: Any = None
) -> tuple[Tensor, States]:
    """Outputs [T, B, D H] and last states of any of the three."""
    if isinstance(rnn, LSTM):
        y, last = rnn(x, states, lengths)
        return y, last
    y, h = rnn(x, None if states is None else states[0], lengths)
    return y, (h,)


def initialise(module: Module) -> None:
    """The initial values of recurrent models.

    Input matrices are Glorot's uniform; recurrent ones are orthogonal gate by gate (Saxe et al.;
    Bahdanau et al.); biases are zero but for one in an LSTM's forget gates (Gers et al.;
    Jozefowicz et al.). Embeddings are normal with variance one, which deep stacks need to hear
    them; everything else is uniform in +-1 / sqrt(inputs).
    """
    if isinstance(module, RNN | GRU | LSTM):
        n = module.hidden_size
        for name, p in module.named_parameters():
            if name.startswith("weight_hh"):
                for first in range(0, p.shape[0], n):
                    init.orthogonal_(p.detach()[first : first + n])
            elif name.startswith("weight_ih"):
                init.xavier_uniform_(p)
            else:
                init.zeros_(p)
                if isinstance(module, LSTM) and name.startswith("bias_ih"):
                    init.ones_(p.detach()[n : 2 * n])
    elif isinstance(module, Linear):
        module.reset_parameters()
        if module.bias is not None:
            init.zeros_(module.bias)
    else:
        reset = getattr(module, "reset_parameters", None)
        if reset is not None:
            reset()


class Packing:
    """Where the valid steps of each row are, for recurrences that read them without gaps.

    Attributes
    ----------
    lengths : int64 [B] or None
        Valid steps; None when no row is padded.
    order : int64 [B, T] or None
        Valid steps first, for masks that hide more than the end of rows.
    """

    def __init__(self, owner: str, mask: Any, lengths: Any, batch: int, steps: int) -> None:
        self.lengths: Ints | None = None
        self.order: Ints | None = None
        if lengths is not None:
            if mask is not None:
                raise ValueError(f"{owner}: give attention_mask or lengths, not both")
            self.lengths = _lengths(owner, lengths, batch, steps)
            if (self.lengths == steps).all():
                self.lengths = None
            return
        padding = as_padding(owner, mask, batch, steps, "cpu")
        if padding.key_lengths is not None:
            self.lengths = padding.key_lengths.numpy()
        elif padding.attn_mask is not None:
            kept = padding.attn_mask.numpy()[:, 0, 0]
            self.lengths = kept.sum(axis=1).astype(np.int64)
            self.order = np.argsort(~kept, axis=1, kind="stable").astype(np.int64)

    def tensor(self) -> Tensor | None:
        """The lengths as ops take them."""
        return None if self.lengths is None else from_numpy(self.lengths)

    def pack(self, x: Tensor) -> Tensor:
        """[B, T, ...] with the valid steps in front."""
        return x if self.order is None else _picked(x, self.order)

    def unpack(self, x: Tensor, dim: int = 1) -> Tensor:
        """[B, T, ...] (or time at `dim`) with every step back in its place; others hold zeros."""
        if self.order is None:
            return x
        back = np.argsort(self.order, axis=1)
        moved = _picked(x if dim == 1 else x.transpose(1, dim), back)
        return moved if dim == 1 else moved.transpose(1, dim)


def _picked(x: Tensor, order: Ints) -> Tensor:
    rows = np.arange(order.shape[0])[:, None]
    device = x.device
    return x[from_numpy(rows).to(device=device), from_numpy(order).to(device=device)]


def _lengths(owner: str, lengths: Any, batch: int, steps: int) -> Ints:
    array = as_array(owner, "lengths", lengths)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{owner}: lengths must be integers, got {array.dtype}")
    if array.shape != (batch,):
        raise ValueError(
            f"{owner}: lengths must have shape [B] = [{batch}], got {list(array.shape)}"
        )
    if array.size and (array.min() < 0 or array.max() > steps):
        wrong = array.min() if array.min() < 0 else array.max()
        raise ValueError(f"{owner}: lengths must be in [0, {steps}], got {wrong}")
    return array.astype(np.int64)


class RecurrentState:
    """The states of a batch of recurrences that is being decoded.

    Attributes
    ----------
    lengths : int64 array [B]
    hidden : h [layers, B, H], and c of an LSTM; None before the first step
    """

    def __init__(self, batch: int, hidden: States | None = None) -> None:
        self.lengths: Ints = np.zeros(batch, np.int64)
        self.hidden = hidden
        self._places: States | None = None  # what a captured step reads and writes
        self._room = object()

    # What a step carries on to the next; a subclass may carry more.
    def _carried(self) -> States:
        assert self.hidden is not None
        return self.hidden

    def _carry(self, tensors: States) -> None:
        self.hidden = tensors

    def prepare_on_device(self) -> None:
        """What is carried moves to where captured steps find it."""
        carried, places = self._carried(), self._places
        if places is None or [p.shape for p in places] != [t.shape for t in carried]:
            self._places = tuple(t.clone() for t in carried)
            self._room = object()
        self._settle()

    def _settle(self) -> None:
        assert self._places is not None
        for place, t in zip(self._places, self._carried(), strict=True):
            if place is not t:
                place.copy_(t)
        self._carry(self._places)

    def room(self) -> object:
        """Another object whenever a captured step would find nothing where it looks."""
        return self._room

    def begin_on_device(self, starts: Tensor, counts: Tensor) -> None:
        """A step of one token for every row, perhaps captured."""

    def end_on_device(self) -> None:
        """That step is over: what it carries goes to where the next one looks."""
        self._settle()

    def can_capture(self, counts: Ints | None) -> bool:
        """Whether a step can be captured in a CUDA graph: on CUDA, of all rows."""
        if self.hidden is None or not self.hidden[0].is_cuda:
            return False
        return counts is None or bool((counts == 1).all())

    def advance(self, n: int, counts: Ints | None) -> None:
        """A step of `n` tokens a row, `counts` of them valid, is over."""
        self.lengths = self.lengths + (n if counts is None else counts)

    def reorder(self, rows: Any) -> None:
        """Row i becomes what row ``rows[i]`` was."""
        index = np.ascontiguousarray(rows, np.int64)
        if self.hidden is not None:
            at = from_numpy(index).to(device=self.hidden[0].device)
            self.hidden = tuple(s.index_select(1, at) for s in self.hidden)
        self.lengths = self.lengths[index]

    def truncate(self, lengths: Any) -> None:
        """Only to where it is: a recurrence doesn't go back."""
        if not np.array_equal(np.asarray(lengths), self.lengths):
            _cannot_go_back()


def _cannot_go_back() -> NoReturn:
    raise NotImplementedError("truncate: a recurrent state can't forget tokens it has read")
