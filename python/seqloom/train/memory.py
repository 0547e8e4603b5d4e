# SPDX-License-Identifier: Apache-2.0
"""How much memory a training will need, before it is begun."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..creation import get_random_state, set_random_state
from ..nn import Module
from ..tensor import Tensor
from .precision import FullPrecision
from .task import Context

if TYPE_CHECKING:
    from .trainer import Trainer

# Arrays of the optimizer for each parameter, in float32.
_STATES = {"AdamW": 2.0, "Adam": 2.0, "SGD": 1.0, "Adafactor": 0.0}
# What a step is measured with: so many rows that they keep about this, or all.
_MEASURED = 96 << 20
# Work space of backward beside what the graph keeps, where it can't be measured.
WORK = 1.25


@dataclass(frozen=True)
class Memory:
    """Bytes that a training needs."""

    weights: int
    gradients: int
    optimizer: int
    copies: int
    activations: int  # and the work space of forward and backward

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.copies + self.activations

    def __str__(self) -> str:
        parts = [
            ("weights", self.weights),
            ("gradients", self.gradients),
            ("optimizer", self.optimizer),
            ("16-bit copies", self.copies),
            ("activations", self.activations),
            ("together", self.total),
        ]
        return "\n".join(f"{name:<14}{size / 2**20:>12,.1f} MiB" for name, size in parts if size)


def saved_bytes(loss: Tensor, known: set[int]) -> int:
    """Bytes that the graph behind a loss keeps for backward, each array once.

    Examples
    --------
    >>> import seqloom as sl
    >>> x = sl.ones(256, 4, requires_grad=True)
    >>> saved_bytes((x * x).sum(), set()) >= 4096
    True
    """
    seen_nodes: set[int] = set()
    todo = [loss._node] if loss._node is not None else []
    total = 0
    while todo:
        node = todo.pop()
        if id(node) in seen_nodes:
            continue
        seen_nodes.add(id(node))
        for t in node.saved or ():
            if t is not None and _place(t) not in known:
                known.add(_place(t))
                total += t.nbytes
        todo += [edge[0] for edge in node.edges or () if type(edge) is tuple]
    return total


def _place(t: Tensor) -> int:
    """The address of its memory, on the CPU."""
    if t.is_cuda:
        return id(t)
    return int(t.detach().numpy().__array_interface__["data"][0])


def rows_of(batch: Any, count: int) -> tuple[Any, int]:
    """The first examples of a batch, and how many it has."""
    if isinstance(batch, Mapping):
        whole = len(next(iter(batch.values())))
        return {name: value[:count] for name, value in batch.items()}, whole
    return tuple(part[:count] for part in batch), len(batch[0])


def _status(name: str) -> int:
    """A size of this process in bytes, as Linux tells it."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) << 10
    raise OSError(f"no {name}")


def _start() -> int | None:
    """The size of this process, and a fresh start for its peak; None where nobody can tell."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        return _status("VmRSS")
    except OSError:
        return None


def first_batch(trainer: Trainer) -> Any:
    """The first batch; the loader stays where it is."""
    position = trainer.loader.state_dict()
    batch = next(iter(trainer.loader))
    trainer.loader.load_state_dict(position)
    return batch


@contextmanager
def undisturbed(model: Module) -> Iterator[None]:
    """Leave the random numbers and the model's mode as they were."""
    random, training = get_random_state(), model.training
    try:
        yield
    finally:
        set_random_state(random)
        model.train(training)


def held(trainer: Trainer, precision: str, activations: int = 0) -> Memory:
    """What is there all the time, counted; `activations` come from elsewhere."""
    every = list(trainer.model.parameters())
    trained = trainer.optimizer_parameters()
    size = sum(p.nbytes for p in every)
    of_trained = sum(p.nbytes for p in trained)
    kind = type(trainer.optimizer).__name__
    states = _STATES.get(kind, 2.0)
    if kind == "SGD" and not trainer.optimizer.defaults["momentum"]:
        states = 0.0
    copies = 0
    if precision != "float32":
        copies = size // 2 + of_trained // 2  # of the weights, and of the gradients on their way
    work = max(p.nbytes for p in trained) if kind == "Adafactor" else 0
    return Memory(size, of_trained, int(of_trained * states) + work, copies, activations)


def needed(trainer: Trainer) -> Memory:
    """What a training will need, beside Python itself: within 15 % of the peak on the CPU of Linux.

    Weights, gradients and the optimizer's state are counted. What forward and backward need is
    measured with some rows of the first batch, and grows in proportion to the rows; a batch of
    other lengths needs more or less. Where it can't be measured (on a GPU, on other systems), what
    the graph keeps is counted, and a quarter is added.
    """
    model, precision = trainer.model, trainer.precision
    every = list(model.parameters())
    of_trained = sum(p.nbytes for p in trainer.optimizer_parameters())
    batch = first_batch(trainer)
    with undisturbed(model):
        model.train()
        count, before = rows_of(batch, 1)[1], _start()
        # What one row keeps beside what doesn't grow with the rows, such as the gradient of a head.
        one = kept(trainer, model, precision, rows_of(batch, 1)[0])
        a_row = one
        if count > 1:
            a_row = max(1, kept(trainer, model, precision, rows_of(batch, 2)[0]) - one)
        fixed = max(0, one - a_row)
        whole = fixed + a_row * count
        activations = int(whole * WORK)
        if before is not None and trainer.device == "cpu" and all(p.grad is None for p in every):
            some = min(count, max(1, _MEASURED // a_row))
            _gradients(trainer, rows_of(batch, some)[0])
            for p in every:
                p.grad = None
            work = _status("VmHWM") - before - of_trained - fixed
            # Never less than what the graph keeps: memory from before may have been used again.
            activations = max(whole, fixed + work * count // some)
    return held(trainer, precision.name, activations)


def kept(trainer: Trainer, model: Any, precision: FullPrecision, batch: Any) -> int:
    """Bytes that the graph of a batch keeps, the weights aside."""
    with precision:
        known = {_place(p) for p in model.parameters()}
        loss = trainer.task.loss(model, batch, Context(trainer.device)).loss
        return saved_bytes(loss, known)


def _gradients(trainer: Trainer, batch: Any) -> None:
    """Forward and backward, twice: the second finds the first one's gradients there."""
    for _ in range(2):
        with trainer.precision:
            loss = trainer.task.loss(trainer.model, batch, Context(trainer.device)).loss
            trainer.precision.backward(loss, 1.0)
