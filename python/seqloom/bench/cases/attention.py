# SPDX-License-Identifier: Apache-2.0
"""Attention: scaled dot-product in all its uses, Bahdanau's and Luong's, the whole module."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from seqloom.bench.case import Case, Part, Work, register
from seqloom.bench.cases.common import by_rows, glorot, module, normal

# Operations of a backward pass in forward passes: five products against two.
_BACKWARD = 2.5
# Float64 scores of this many query rows, times keys, are what a check may hold.
_CHECKED_SCORES = 8 << 20


def attention_work(
    batch: int, heads: int, queries: int, keys: int, width: int, pairs: float, kv_heads: int
) -> Callable[[str, float], Work]:
    """Two products over the visible pairs; every array once."""
    flops = 4.0 * batch * heads * pairs * width
    by_query = float(batch * heads * queries * width)
    by_key = float(batch * kv_heads * keys * width)

    def work(mode: str, item: float) -> Work:
        ahead = Work((2 * by_query + 2 * by_key) * item, flops)
        back = Work((4 * by_query + 4 * by_key) * item, _BACKWARD * flops)
        return {"fwd": ahead, "bwd": back, "fwdbwd": ahead + back}[mode]

    return work


def sdpa(
    batch: int,
    heads: int,
    length: int,
    width: int,
    *,
    causal: bool = False,
    window: int = 0,
    kv_heads: int = 0,
    **changes: Any,
) -> Case:
    """Self-attention of [batch, heads, length, width], full, causal or in a causal window."""
    kv = kv_heads or heads
    pairs = length * length / 2 if causal else float(length * length)
    if window:
        pairs = float(length * window)
    options: dict[str, Any] = {"is_causal": causal}
    if window:
        options["window"] = window
    group = heads // kv

    def make(rng: np.random.Generator) -> dict[str, Any]:
        return {
            "query": normal(rng, batch, heads, length, width),
            "key": normal(rng, batch, kv, length, width),
            "value": normal(rng, batch, kv, length, width),
        }

    def last_rows(ref: Any, query: Any, key: Any, value: Any) -> Any:
        """Of long sequences the last rows of one key head, and the gradient of those queries."""
        start = length - max(1, _CHECKED_SCORES // (group * length))
        rows = (slice(0, 1), slice(0, group), slice(start, length))
        head = (slice(0, 1), slice(0, 1))
        offset = {"causal_offset": start} if causal else {}
        output, pull = ref.scaled_dot_product_attention.vjp(
            query[rows], key[head], value[head], **options, **offset
        )
        return Part(rows, output), lambda dy: {"query": Part(rows, pull(dy[rows])["query"])}

    def reference(ref: Any, query: Any, key: Any, value: Any) -> Any:
        if group * length * length > 4 * _CHECKED_SCORES:
            return last_rows(ref, query, key, value)
        # Key heads are independent: as many of them as a check can hold.
        count = max(1, min(kv, _CHECKED_SCORES // (group * length * length)))
        part = (slice(0, 1), slice(0, count))
        query_part = (slice(0, 1), slice(0, count * group))
        output, pull = ref.scaled_dot_product_attention.vjp(
            query[query_part], key[part], value[part], **options
        )

        def backward(dy: Any) -> dict[str, Any]:
            grads = pull(dy[query_part])
            return {
                "query": Part(query_part, grads["query"]),
                "key": Part(part, grads["key"]),
                "value": Part(part, grads["value"]),
            }

        return Part(query_part, output), backward

    def in_torch(torch: Any, query: Any, key: Any, value: Any) -> Any:
        functional = torch.nn.functional
        if not window:
            return functional.scaled_dot_product_attention(
                query, key, value, is_causal=causal, enable_gqa=group > 1
            )
        row = torch.arange(length, device=query.device)
        distance = row[None, :] - row[:, None]
        mask = (distance <= 0) & (distance >= -window)
        return functional.scaled_dot_product_attention(query, key, value, mask)

    name = "sdpa_window" if window else "sdpa_causal" if causal else "sdpa"
    label = f"{batch}x{heads}x{length}x{width}"
    label += f"_kv{kv}" if group > 1 else ""
    label += f"_w{window}" if window else ""
    return Case(
        family="attention",
        name=name,
        label=label,
        sizes={"batch": batch, "heads": heads, "length": length, "width": width},
        make=make,
        ours=lambda sl, query, key, value: sl.ops.scaled_dot_product_attention(
            query, key, value, **options
        ),
        needs=("ops.scaled_dot_product_attention",),
        work=attention_work(batch, heads, length, length, width, pairs, kv),
        wrt=("query", "key", "value"),
        peers={"torch": in_torch},
        reference=reference,
        **{"modes": ("fwd", "fwdbwd"), **changes},
    )


def decode(
    batch: int, heads: int, keys: int, width: int, *, kv_heads: int = 0, **changes: Any
) -> Case:
    """One query position against a cache of keys: reading the cache is all there is."""
    kv = kv_heads or heads

    def make(rng: np.random.Generator) -> dict[str, Any]:
        return {
            "query": normal(rng, batch, heads, 1, width),
            "key": normal(rng, batch, kv, keys, width),
            "value": normal(rng, batch, kv, keys, width),
        }

    return Case(
        family="attention",
        name="sdpa_decode",
        label=f"{batch}x{heads}x{keys}x{width}" + (f"_kv{kv}" if kv != heads else ""),
        sizes={"batch": batch, "heads": heads, "length": keys, "width": width},
        make=make,
        ours=lambda sl, query, key, value: sl.ops.scaled_dot_product_attention(query, key, value),
        needs=("ops.scaled_dot_product_attention",),
        work=attention_work(batch, heads, 1, keys, width, float(keys), kv),
        peers={
            "torch": lambda torch, query, key, value: (
                torch.nn.functional.scaled_dot_product_attention(
                    query, key, value, enable_gqa=kv != heads
                )
            ),
        },
        reference=by_rows(
            lambda ref, query, key, value: ref.scaled_dot_product_attention.vjp(query, key, value),
            batch, kv * keys * width, checked=1, rowwise=("query", "key", "value"),
        ),
        **{"modes": ("fwd",), **changes},
    )  # fmt: skip


def paged_decode(
    batch: int, heads: int, keys: int, width: int, page: int, *, kv_heads: int = 0, **changes: Any
) -> Case:
    """The same over a cache in pages; torch has to gather them first."""
    kv = kv_heads or heads
    pages = keys // page

    def make(rng: np.random.Generator) -> dict[str, Any]:
        return {
            "query": normal(rng, batch, heads, 1, width),
            "key_pages": normal(rng, batch * pages, kv, page, width),
            "value_pages": normal(rng, batch * pages, kv, page, width),
            "tables": rng.permutation(batch * pages).reshape(batch, pages),
            "lengths": np.full(batch, keys),
        }

    def gathered(pool: Any, tables: Any) -> Any:
        return pool[tables].swapaxes(1, 2).reshape(batch, kv, keys, width)

    return Case(
        family="attention",
        name="paged_decode",
        label=f"{batch}x{heads}x{keys}x{width}p{page}" + (f"_kv{kv}" if kv != heads else ""),
        sizes={"batch": batch, "heads": heads, "length": keys, "width": width, "page": page},
        make=make,
        ours=lambda sl, query, key_pages, value_pages, tables, lengths: sl.ops.paged_attention(
            query, key_pages, value_pages, tables, lengths
        ),
        needs=("ops.paged_attention",),
        work=attention_work(batch, heads, 1, keys, width, float(keys), kv),
        peers={
            "torch": lambda torch, query, key_pages, value_pages, tables, lengths: (
                torch.nn.functional.scaled_dot_product_attention(
                    query,
                    gathered(key_pages, tables),
                    gathered(value_pages, tables),
                    enable_gqa=kv != heads,
                )
            ),
        },
        reference=lambda ref, query, key_pages, value_pages, tables, lengths: (
            ref.scaled_dot_product_attention.vjp(
                query, gathered(key_pages, tables), gathered(value_pages, tables)
            )
        ),
        **{"modes": ("fwd",), **changes},
    )


def additive(batch: int, queries: int, keys: int, width: int, hidden: int, **changes: Any) -> Case:
    """Bahdanau's attention; torch has no kernel for it, so its peer is the formula."""

    def make(rng: np.random.Generator) -> dict[str, Any]:
        return {
            "query": normal(rng, batch, queries, width),
            "keys": normal(rng, batch, keys, width),
            "w_query": glorot(rng, hidden, width),
            "w_key": glorot(rng, hidden, width),
            "v": normal(rng, hidden, scale=hidden**-0.5),
        }

    def in_torch(torch: Any, query: Any, keys: Any, w_query: Any, w_key: Any, v: Any) -> Any:
        scores = torch.tanh((query @ w_query.T)[:, :, None] + (keys @ w_key.T)[:, None]) @ v
        return torch.softmax(scores, -1) @ keys

    def work(mode: str, item: float) -> Work:
        pairs = float(batch * queries * keys)
        flops = 2.0 * batch * (queries + keys) * width * hidden + pairs * (4 * hidden + 2 * width)
        arrays = float(batch * (2 * queries + keys) * width + 2 * hidden * width)
        ahead, back = Work(arrays * item, flops), Work(2 * arrays * item, 2 * flops)
        return {"fwd": ahead, "bwd": back, "fwdbwd": ahead + back}[mode]

    return Case(
        family="attention",
        name="additive_attention",
        label=f"{batch}x{queries}x{keys}x{width}",
        sizes={"batch": batch, "queries": queries, "keys": keys, "width": width},
        make=make,
        ours=lambda sl, **inputs: sl.ops.additive_attention(**inputs),
        needs=("ops.additive_attention",),
        work=work,
        wrt=("query", "keys", "w_query", "w_key", "v"),
        peers={"torch": in_torch},
        reference=lambda ref, **inputs: ref.additive_attention.vjp(**inputs),
        modes=("fwd", "fwdbwd"),
        **changes,
    )


def dot(batch: int, queries: int, keys: int, width: int, **changes: Any) -> Case:
    """Luong's general attention."""

    def make(rng: np.random.Generator) -> dict[str, Any]:
        return {
            "query": normal(rng, batch, queries, width),
            "keys": normal(rng, batch, keys, width),
            "weight": normal(rng, width, width, scale=1.0 / width),
        }

    def work(mode: str, item: float) -> Work:
        flops = 2.0 * batch * queries * width * width + 4.0 * batch * queries * keys * width
        arrays = float(batch * (2 * queries + keys) * width + width * width)
        ahead, back = Work(arrays * item, flops), Work(2 * arrays * item, 2.5 * flops)
        return {"fwd": ahead, "bwd": back, "fwdbwd": ahead + back}[mode]

    def in_torch(torch: Any, query: Any, keys: Any, weight: Any) -> Any:
        return torch.softmax(query @ weight @ keys.transpose(-1, -2), -1) @ keys

    return Case(
        family="attention",
        name="dot_attention",
        label=f"{batch}x{queries}x{keys}x{width}",
        sizes={"batch": batch, "queries": queries, "keys": keys, "width": width},
        make=make,
        ours=lambda sl, query, keys, weight: sl.ops.dot_attention(query, keys, weight=weight),
        needs=("ops.dot_attention",),
        work=work,
        wrt=("query", "keys", "weight"),
        peers={"torch": in_torch},
        reference=lambda ref, query, keys, weight: ref.dot_attention.vjp(
            query, keys, weight=weight
        ),
        modes=("fwd", "fwdbwd"),
        **changes,
    )


def multihead(batch: int, length: int, width: int, heads: int, **changes: Any) -> Case:
    """The module: projections, self-attention, output projection."""

    def truth(ref: Any, p: dict[str, Any], x: Any) -> Any:
        joined = x @ p["in_proj_weight"].T + p["in_proj_bias"]
        split = joined.reshape(batch, length, 3, heads, width // heads).transpose(2, 0, 3, 1, 4)
        y = ref.scaled_dot_product_attention(*split).transpose(0, 2, 1, 3)
        return y.reshape(batch, length, width) @ p["out_proj.weight"].T + p["out_proj.bias"]

    contestant = module(
        lambda nn: nn.MultiheadAttention(width, heads, batch_first=True),
        truth,
        lambda built, x: built(x, x, x, need_weights=False)[0],
    )

    def work(mode: str, item: float) -> Work:
        flops = 8.0 * batch * length * width * width + 4.0 * batch * length * length * width
        arrays = float(2 * batch * length * width + 4 * width * width)
        return {
            "fwd": Work(arrays * item, flops),
            "fwdbwd": Work(3 * arrays * item, 3 * flops),
        }[mode]

    return Case(
        family="attention",
        name="mha",
        label=f"{batch}x{length}x{width}h{heads}",
        sizes={"batch": batch, "length": length, "width": width, "heads": heads},
        make=lambda rng: {"x": normal(rng, batch, length, width)},
        ours=contestant,
        needs=("nn.MultiheadAttention",),
        work=work,
        peers={"torch": contestant},
        modes=("fwd", "fwdbwd"),
        **changes,
    )


@register("attention")
def cases() -> Iterable[Case]:
    shapes = ((1, 12, 128, 64), (1, 12, 1024, 64), (8, 12, 512, 64), (1, 32, 2048, 128))
    for causal in (False, True):
        for shape in shapes:
            usual = shape == (1, 12, 1024, 64)
            quick = ("fwd/f32", "fwdbwd/f32") if usual and causal else ("fwd/f32",) if usual else ()
            yield sdpa(*shape, causal=causal, quick=quick)
    # Grouped queries, a window, and a length at which quadratic memory would be 12 GiB of scores.
    yield sdpa(1, 32, 1024, 128, causal=True, kv_heads=8, modes=("fwd",))
    yield sdpa(1, 12, 4096, 64, causal=True, window=256, modes=("fwd",))
    yield sdpa(1, 12, 16384, 64, causal=True, modes=("fwd",), dtypes=("f32",))
    for shape in ((1, 12, 1024, 64), (1, 12, 8192, 64), (8, 12, 1024, 64), (1, 32, 8192, 128)):
        yield decode(*shape, quick=("fwd/f32",) if shape == (1, 12, 8192, 64) else ())
    for page in (16, 128):
        yield paged_decode(8, 12, 1024, 64, page)
    yield additive(64, 30, 30, 256, 256)
    yield dot(64, 30, 30, 256)
    yield multihead(1, 128, 768, 12)
    yield multihead(8, 512, 768, 12)

    on_gpu: dict[str, Any] = {"devices": ("cuda",), "dtypes": ("bf16",)}
    both = ("fwd/bf16", "fwdbwd/bf16")
    for width, heads in ((128, 16), (64, 32)):
        for causal in (False, True):
            yield sdpa(1, heads, 16384, width, causal=causal, quick_cuda=both, **on_gpu)
    yield sdpa(1, 32, 16384, 64, causal=True, window=1024, quick_cuda=both, **on_gpu)
    yield decode(16, 32, 8192, 128, kv_heads=8, quick_cuda=both[:1], **on_gpu)
