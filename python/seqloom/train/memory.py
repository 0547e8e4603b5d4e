# SPDX-License-Identifier: Apache-2.0
"""How much memory a training will need, before it is begun."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..creation import get_random_state, set_random_state
from ..tensor import Tensor
from .tasks import Context

if TYPE_CHECKING:
    from .trainer import Trainer

# Arrays of the optimizer for each parameter, in float32.
_STATES = {"AdamW": 2.0, "Adam": 2.0, "SGD": 1.0, "Adafactor": 0.0}


@dataclass(frozen=True)
class Memory:
    """Bytes that a training needs."""

    weights: int
    gradients: int
    optimizer: int
    copies: int
    activations: int

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


def _first_row(batch: Any) -> tuple[Any, int]:
    """The first example of a batch, and how many there are."""
    if isinstance(batch, Mapping):
        count = len(next(iter(batch.values())))
        return {name: value[:1] for name, value in batch.items()}, count
    return tuple(part[:1] for part in batch), len(batch[0])


def needed(trainer: Trainer) -> Memory:
    """What a training keeps: its activations are counted in one example of the first batch.

    A batch of other lengths needs more or less, in proportion.
    """
    model = trainer.model
    every = list(model.parameters())
    trained = trainer.optimizer_parameters()
    size = sum(p.nbytes for p in every)
    of_trained = sum(p.nbytes for p in trained)
    states = _STATES.get(type(trainer.optimizer).__name__, 2.0)
    if type(trainer.optimizer).__name__ == "SGD" and not trainer.optimizer.defaults["momentum"]:
        states = 0.0
    position = trainer.loader.state_dict()
    row, count = _first_row(next(iter(trainer.loader)))
    trainer.loader.load_state_dict(position)
    before = get_random_state()
    model.train()
    with trainer.precision:
        known = {_place(p) for p in every}
        loss = trainer.task.loss(model, row, Context(trainer.device)).loss
        activations = saved_bytes(loss, known) * count
        del loss
    set_random_state(before)
    copies = size // 2 if trainer.precision.name != "float32" else 0
    return Memory(size, of_trained, int(of_trained * states), copies, activations)
