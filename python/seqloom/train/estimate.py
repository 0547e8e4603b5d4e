# SPDX-License-Identifier: Apache-2.0
"""The memory of a training whose model can't be built here: counted, and read off small ones."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import cuda
from .memory import WORK, Memory, first_batch, held, kept, rows_of, undisturbed
from .precision import precision_of

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from .trainer import Trainer

# Fields of configurations that count layers, say widths, heads, and the width of a head.
_LAYERS = (
    "n_layer", "num_hidden_layers", "num_layers", "num_encoder_layers", "num_decoder_layers",
    "encoder_layers", "decoder_layers",
)  # fmt: skip
_WIDTHS = (
    "n_embd", "hidden_size", "d_model", "embed_dim", "n_inner", "intermediate_size",
    "dim_feedforward", "d_ff", "encoder_ffn_dim", "decoder_ffn_dim", "head_dim", "d_kv",
)  # fmt: skip
_HEADS = (
    "n_head", "num_attention_heads", "num_heads", "nhead", "encoder_attention_heads",
    "decoder_attention_heads",
)  # fmt: skip
_SMALL = 16  # columns of a head, or of a recurrent layer times the next line
_PLAIN_HEADS = 4


def free_memory(device: str = "cpu") -> int | None:
    """Bytes that this process can still have there; None where nobody tells.

    Examples
    --------
    >>> free = free_memory()
    >>> free is None or free >= 0
    True
    """
    if device != "cpu":
        whole = cuda.get_device_properties(device).total_memory
        return max(0, int(whole) - cuda.memory_allocated(device))
    known = [_machine(), _address_space(), *_groups()]
    found = [max(0, n) for n in known if n is not None]
    return min(found) if found else None


def _numbers(path: str | Path) -> dict[str, int]:
    """`name: value kB` lines of a file, in bytes."""
    found = {}
    for line in Path(path).read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        words = value.split()
        if len(words) == 2 and words[1] == "kB":
            found[name] = int(words[0]) << 10
    return found


def _machine() -> int | None:
    try:
        told = _numbers("/proc/meminfo")
        return told["MemAvailable"] + told.get("SwapFree", 0)
    except (OSError, ValueError, KeyError):
        return None


def _address_space() -> int | None:
    """What `ulimit -v` leaves."""
    try:
        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit == resource.RLIM_INFINITY:
            return None
        return int(limit) - _numbers("/proc/self/status")["VmSize"]
    except (OSError, ValueError, KeyError, AttributeError):
        return None


def _groups() -> list[int]:
    """What the control groups of this process leave, in both of Linux's versions of them."""
    root = Path("/sys/fs/cgroup")
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return []
    found = []
    for line in lines:
        number, kinds, path = [*line.split(":", 2), "", ""][:3]
        if number == "0":
            base, names = root, ("memory.max", "memory.current")
        elif "memory" in kinds.split(","):
            base, names = root / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        for folder in {base / path.strip("/"), base}:
            try:
                limit, used = ((folder / n).read_text(encoding="ascii") for n in names)
                stat = (folder / "memory.stat").read_text(encoding="ascii").split()
                spare = int(stat[stat.index("inactive_file") + 1])  # goes when it is wanted
                found.append(int(limit) - int(used) + spare)
            except (OSError, ValueError):  # no such group, or "max"
                continue
    return found


def small_model(model: Any, layers: int, unit: int) -> tuple[Any, float, float]:
    """A model of this kind with so many layers, and heads of `unit` columns.

    Also the layers and the columns of a head that `model` has, to be compared with these. A model
    that is no wider is as wide.

    Examples
    --------
    >>> import seqloom as sl
    >>> big = sl.models.GPT2(vocab_size=9, n_embd=96, n_layer=3, n_head=2, n_positions=8)
    >>> small, depth, width = small_model(big, 1, 16)
    >>> small.config.n_layer, small.config.n_embd, depth, width
    (1, 32, 3.0, 48.0)
    """
    config = model.config
    fields = {k: v for k, v in config.to_dict().items() if k != "model_type"}
    own = [n for n in config.names() if isinstance(fields.get(n), int)]
    depths = [n for n in _LAYERS if n in own]
    widths = [n for n in _WIDTHS if n in own]
    heads = math.lcm(*[fields[n] for n in _HEADS if n in own])
    main = next((fields[n] for n in ("n_embd", "hidden_size", "d_model") if n in own), 0)
    if not main or not depths:
        raise ValueError(f"{type(model).__name__} has no known sizes")
    if heads == 1 or fields.get("body", "transformer") != "transformer":
        heads = _PLAIN_HEADS
    width = main / heads
    share = min(1.0, unit / width)
    for name in depths:
        fields[name] = min(fields[name], layers)
    for name in widths:
        fields[name] = max(2, 2 * round(fields[name] * share / 2)) if share < 1 else fields[name]
    if share < 1:
        main_name = next(n for n in ("n_embd", "hidden_size", "d_model") if n in own)
        fields[main_name] = heads * unit
    if "layer_types" in fields:
        fields["layer_types"] = None
    depth = sum(config.get(n) for n in depths) / len(depths)
    return type(model)(type(config).from_dict(fields)), depth, width


def _bilinear(values: dict[tuple[int, int], float], depth: float, width: float) -> float:
    """What (layers, columns) -> value at 1 and 2 layers, u and 2 u columns tells about others."""
    unit = min(u for _, u in values)
    across = min(width, 2 * unit) / unit - 1  # how far the second one is from the first

    def at(layers: int) -> float:
        near, far = values[layers, unit], values[layers, 2 * unit]
        slope = (far - near) / across if across > 0 else 0.0
        return near + slope * (max(width, unit) / unit - 1)

    return at(1) + (at(2) - at(1)) * (depth - 1)


def estimated(trainer: Trainer, precision: str) -> Memory:
    """What :func:`seqloom.train.memory.needed` would tell, without the model's weights.

    Weights, gradients and the optimizer's state are counted; the model may have shapes only
    (``nn.init.shapes_only``). What the graph keeps is measured with models of one and two layers,
    a few columns wide, and grows in proportion to layers, columns and rows.
    """
    batch = first_batch(trainer)
    count = rows_of(batch, 1)[1]
    once: dict[tuple[int, int], float] = {}
    a_row: dict[tuple[int, int], float] = {}
    depth = width = 1.0
    with undisturbed(trainer.model):
        for layers in (1, 2):
            for unit in (_SMALL, 2 * _SMALL):
                small, depth, width = small_model(trainer.model, layers, unit)
                small.to(device=trainer.device).train()
                how = precision_of(small, precision)
                one = kept(trainer, small, how, rows_of(batch, 1)[0])
                two = kept(trainer, small, how, rows_of(batch, 2)[0]) if count > 1 else 2 * one
                grown = max(1, two - one)
                a_row[layers, unit], once[layers, unit] = grown, max(0, one - grown)
    whole = _bilinear(once, depth, width) + _bilinear(a_row, depth, width) * count
    return held(trainer, precision, max(1, int(whole * WORK)))
