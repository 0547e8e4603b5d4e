# SPDX-License-Identifier: Apache-2.0
"""Rotary angles of checkpoints: the plain ones and those stretched for longer texts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from .. import ops
from ..tensor import Tensor, from_numpy

Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]
Ints: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]

LARGEST = 1e30

# Fields of rope_scaling besides its type: those it must have, those it may have.
_FIELDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "default": ((), ()),
    "linear": (("factor",), ()),
    "dynamic": (("factor",), ("original_max_position_embeddings",)),
    "llama3": (
        ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
        (),
    ),
    "yarn": (
        ("factor",),
        (
            "attention_factor",
            "beta_fast",
            "beta_slow",
            "mscale",
            "mscale_all_dim",
            "original_max_position_embeddings",
            "truncate",
        ),
    ),
}


def check_scaling(refuse: Callable[..., Any], scaling: dict[str, Any]) -> None:
    """Call `refuse(name, must, got)` for what a `rope_scaling` must not be."""
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if not isinstance(kind, str) or kind not in _FIELDS:
        refuse("rope_scaling.rope_type", f"be one of {', '.join(_FIELDS)}", kind)
    needed, allowed = _FIELDS[kind]
    for name in needed:
        if name not in scaling:
            refuse("rope_scaling", f"have {name} when it is {kind}", scaling)
    for name in (*needed, *allowed):
        value = scaling.get(name)
        if value is None and name not in needed:
            continue
        if name == "truncate":
            if not isinstance(value, bool):
                refuse(f"rope_scaling.{name}", "be true or false", value)
        elif isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
            refuse(f"rope_scaling.{name}", "be a positive number", value)
        elif not 1 / LARGEST <= value <= LARGEST:  # float32 holds what comes of it
            refuse(f"rope_scaling.{name}", f"be in [{1 / LARGEST:g}, {LARGEST:g}]", value)
    known = {"rope_type", "type", "rope_theta", *needed, *allowed}
    for name in scaling:
        if name not in known:
            refuse("rope_scaling", f"have no field {name} when it is {kind}", scaling)
    if kind == "llama3" and scaling["high_freq_factor"] <= scaling["low_freq_factor"]:
        refuse(
            "rope_scaling.high_freq_factor",
            f"be above low_freq_factor = {scaling['low_freq_factor']}",
            scaling["high_freq_factor"],
        )


def _plain(base: float, dim: int) -> Floats:
    """Angle per step of each pair. float32, as the checkpoints were trained with."""
    exponent = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    out: Floats = (1.0 / np.float32(base) ** exponent).astype(np.float32)
    return out


def _stretched_base(base: float, dim: int, factor: float, length: int, longest: int) -> float:
    """The base that dynamic scaling takes for a text of `length` tokens."""
    growth = factor * max(length, longest) / longest - (factor - 1)
    return float(base * growth ** (dim / (dim - 2)))


def _llama3(freq: Floats, scaling: dict[str, Any]) -> Floats:
    """Long waves are stretched, short ones stay, those between are mixed."""
    factor, low, high = (scaling[n] for n in ("factor", "low_freq_factor", "high_freq_factor"))
    context = scaling["original_max_position_embeddings"]
    wave = 2 * math.pi / freq
    stretched = np.where(wave > context / low, freq / factor, freq)
    mix = (context / wave - low) / (high - low)
    between = (wave >= context / high) & (wave <= context / low)
    out = np.where(between, (1 - mix) * stretched / factor + mix * stretched, stretched)
    return out.astype(np.float32)


def _yarn(base: float, dim: int, scaling: dict[str, Any], longest: int) -> tuple[Floats, float]:
    """Pairs that turn often keep their angle, slow ones are stretched, a ramp lies between."""
    factor = float(scaling["factor"])
    context = scaling.get("original_max_position_embeddings") or longest

    def gain(scale: float, m: float = 1.0) -> float:
        return 1.0 if scale <= 1 else 0.1 * m * math.log(scale) + 1.0

    attention = scaling.get("attention_factor")
    if attention is None:
        above, below = scaling.get("mscale"), scaling.get("mscale_all_dim")
        attention = gain(factor, above) / gain(factor, below) if above and below else gain(factor)

    def pair(turns: float) -> float:
        """The pair that makes so many turns within the context."""
        return dim * math.log(context / (turns * 2 * math.pi)) / (2 * math.log(base))

    low = pair(scaling.get("beta_fast") or 32)
    high = pair(scaling.get("beta_slow") or 1)
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001
    ramp = np.clip((np.arange(dim // 2, dtype=np.float32) - low) / (high - low), 0, 1)
    freq = _plain(base, dim)
    return (freq / factor * ramp + freq * (1 - ramp)).astype(np.float32), float(attention)


class Rope:
    """cos and sin tables for the positions of a call.

    Parameters
    ----------
    dim : int
        Columns of a head.
    base : float
    scaling : dict, optional
        A checkpoint's `rope_scaling`.
    longest : int
        Its `max_position_embeddings`.

    Examples
    --------
    >>> cos, sin = Rope(4, 10000.0, None, 16).tables(0, 3, "cpu")
    >>> cos.shape, sin[0].tolist()
    ((3, 2), [0.0, 0.0])
    """

    def __init__(self, dim: int, base: float, scaling: dict[str, Any] | None, longest: int) -> None:
        self.dim, self.base, self.longest = dim, base, longest
        scaling = scaling or {}
        kind = scaling.get("rope_type", scaling.get("type", "default"))
        self.gain = 1.0
        self.dynamic = float(scaling["factor"]) if kind == "dynamic" else None
        self.freq = _plain(base, dim)
        if kind == "linear":
            self.freq /= np.float32(scaling["factor"])
        elif kind == "llama3":
            self.freq = _llama3(self.freq, scaling)
        elif kind == "yarn":
            self.freq, self.gain = _yarn(base, dim, scaling, longest)
        nothing = from_numpy(np.zeros((0, dim // 2), np.float32))
        self._held = nothing, nothing  # one attribute, which threads see whole

    def _values(self, positions: Any, freq: Floats, device: str) -> tuple[Tensor, Tensor]:
        angles = np.asarray(positions, np.float64)[..., None] * freq
        return (
            from_numpy((np.cos(angles) * self.gain).astype(np.float32)).to(device=device),
            from_numpy((np.sin(angles) * self.gain).astype(np.float32)).to(device=device),
        )

    def _plain_tables(self, end: int, device: str) -> tuple[Tensor, Tensor]:
        """cos and sin of at least the positions below `end`, kept for the next call."""
        cos, sin = self._held
        if end > cos.shape[0] or cos.device != device:
            rows = max(end, 2 * cos.shape[0], 64)
            cos, sin = self._held = self._values(np.arange(rows), self.freq, device)
        return cos, sin

    def held_tables(self) -> tuple[Tensor, Tensor]:
        """cos and sin as they are kept now; longer texts get others."""
        return self._held

    def tables(
        self, positions: int | Ints | Tensor, n: int, device: str, reach: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """cos and sin, float32 [n, dim / 2] from a position on, or [B, n, dim / 2] at positions.

        `reach` is the length of the text if these positions are not all of it so far; of positions
        that the device alone knows it is one that they stay below.
        """
        if isinstance(positions, Tensor):
            assert reach is not None
            cos, sin = self._plain_tables(reach, device)
            return ops.embedding(positions, cos), ops.embedding(positions, sin)
        end = positions + n if isinstance(positions, int) else int(positions.max(initial=0)) + 1
        length = end if reach is None else reach
        if self.dynamic is not None and length > self.longest:
            # The angles depend on the length so far; keys that are cached keep theirs.
            base = _stretched_base(self.base, self.dim, self.dynamic, length, self.longest)
            where = np.arange(positions, end) if isinstance(positions, int) else positions
            return self._values(where, _plain(base, self.dim), device)
        cos, sin = self._plain_tables(end, device)
        if isinstance(positions, int):
            return cos[positions:end], sin[positions:end]
        index = from_numpy(np.ascontiguousarray(positions)).to(device=device)
        return ops.embedding(index, cos), ops.embedding(index, sin)
