# SPDX-License-Identifier: Apache-2.0
"""Attention over a cache in pages: the same as over contiguous keys, read where they lie."""

from __future__ import annotations

import numpy as np
import pytest

import reference as ref
import seqloom as sl
from support import check_op, draws, make_tensor, refuses, to_float64

PAGED = sl.ops.paged_attention


def cache(rng, lengths, page, kv_heads=2, width=16, value_width=12, spare=2):
    """Pools of pages, and tables whose unused entries name no page at all."""
    pages = [-(-n // page) for n in lengths]
    tables = np.full((len(lengths), max(pages) + 1), -99)
    order = iter(rng.permutation(sum(pages) + spare))
    for table, count in zip(tables, pages, strict=True):
        table[:count] = [next(order) for _ in range(count)]
    pools = draws(
        rng,
        key_pages=(sum(pages) + spare, kv_heads, page, width),
        value_pages=(sum(pages) + spare, kv_heads, page, value_width),
    )
    return pools, tables


def gathered(pool, tables):
    """[B, Hkv, keys, D]: every sequence's pages one after the other."""
    rows = pool[np.maximum(tables, 0)]  # [B, pages, Hkv, page, D]
    batch, pages, heads, page, width = rows.shape
    return rows.swapaxes(1, 2).reshape(batch, heads, pages * page, width)


def check_paged(
    rng, lengths, page, device, dtype, queries=1, heads=4, layout="contiguous", **sizes
):
    options = sizes.pop("options", {})
    pools, tables = cache(rng, lengths, page, **sizes)
    inputs = draws(rng, query=(len(lengths), heads, queries, pools["key_pages"].shape[-1])) | pools
    at = np.array(lengths)

    def paged(query, key_pages, value_pages, window=None, **rest):
        where = (sl.tensor(tables, device=device), sl.tensor(at, device=device))
        return PAGED(query, key_pages, value_pages, *where, window=window, **rest)

    def contiguous(query, key_pages, value_pages, window=None, **rest):
        return ref.scaled_dot_product_attention.vjp(
            query, gathered(key_pages, tables), gathered(value_pages, tables), is_causal=True,
            causal_offset=at - queries, key_lengths=at,
            window=None if window is None else (window, 0), **rest,
        )  # fmt: skip

    check_op(
        paged, ref.Op(contiguous), inputs, options, device=device, dtype=dtype, layout=layout,
        kind="twice", gradients=False,
    )  # fmt: skip


@pytest.mark.parametrize("page", [1, 8, 16, 64, 128])
@pytest.mark.parametrize("heads", [2, 8])
def test_page_sizes(page, heads, isa, dtype, device, rng):
    check_paged(rng, (1, 130, 64, 17), page, device, dtype, heads=heads)


@pytest.mark.parametrize("queries", [1, 3, 9])
def test_several_tokens_are_causal(queries, dtype, device, rng):
    check_paged(rng, (40, 2, 33), 16, device, dtype, queries=queries)


OPTIONS = {
    "scale": {"scale": 0.3},
    "window": {"window": 20},
    "window-zero": {"window": 0},
    "softcap": {"softcap": 2.0},
    "alibi": {"alibi_slopes": np.array([0.5, 0.25, 0.125, 0.0])},
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("queries", [1, 2])
def test_options(name, queries, dtype, device, rng):
    check_paged(rng, (70, 9), 16, device, dtype, queries, options=OPTIONS[name])


@pytest.mark.parametrize("layout", ["misaligned", "strided"])
@pytest.mark.parametrize("width", [5, 72])
def test_layouts_and_odd_widths(width, layout, dtype, device, rng):
    check_paged(rng, (33, 65), 32, device, dtype, layout=layout, width=width, value_width=width + 1)


def test_long_caches_are_split(dtype, device, rng):
    check_paged(rng, (600, 3, 411), 32, device, dtype, kv_heads=1, heads=2)


def test_an_empty_sequence_gives_zeros(dtype, device, rng):
    check_paged(rng, (0, 5), 8, device, dtype)
    check_paged(rng, (1, 2), 8, device, dtype, queries=3)  # tokens before the first key


@pytest.mark.parametrize("capability", [75, 80])
def test_older_devices(capability, dtype, device, rng):
    configure = getattr(sl._core, "emulation_configure", None)
    if device == "cpu" or configure is None:
        pytest.skip("needs the emulated device")
    configure("capability", str(capability))
    try:
        check_paged(rng, (130, 17), 16, device, dtype, queries=2, width=64, value_width=40)
    finally:
        configure("capability", "90")


def test_pages_of_others_do_not_matter(dtype, device, rng):
    lengths, page = (21, 40), 16
    pools, tables = cache(rng, lengths, page)
    query = rng.standard_normal((2, 4, 1, 16))

    def run():
        t = [make_tensor(a, dtype, device) for a in (query, *pools.values())]
        where = (sl.tensor(tables, device=device), sl.tensor(np.array(lengths), device=device))
        return to_float64(PAGED(*t, *where))

    before = run()
    free = sorted(set(range(len(pools["key_pages"]))) - set(tables[tables >= 0].tolist()))
    for pool in pools.values():
        pool[free] = np.nan
        pool[tables[0, 1], :, lengths[0] - page :] = np.inf
    np.testing.assert_array_equal(before, run())


def test_mistakes_are_named(rng):
    pools, tables = cache(rng, (21, 40), 16)
    good = {
        "query": sl.ones(2, 4, 1, 16),
        **{n: sl.tensor(a.astype(np.float32)) for n, a in pools.items()},
        "block_tables": sl.tensor(tables),
        "key_lengths": sl.tensor(np.array([21, 40])),
    }
    wrong = [
        (ValueError, {"query": sl.ones(2, 4, 16)}),
        (ValueError, {"query": sl.ones(2, 3, 1, 16)}),
        (ValueError, {"query": sl.ones(2, 4, 1, 8)}),
        (ValueError, {"query": sl.ones(2, 4, 1, 16, requires_grad=True)}),
        (ValueError, {"key_pages": sl.ones(8, 2, 12, 16), "value_pages": sl.ones(8, 2, 12, 12)}),
        (ValueError, {"value_pages": sl.ones(5, 2, 16, 12)}),
        (ValueError, {"block_tables": sl.tensor(tables[:1])}),
        (ValueError, {"key_lengths": sl.tensor(np.array([21, 65]))}),
        (ValueError, {"key_lengths": sl.tensor(np.array([21]))}),
        (ValueError, {"window": -1}),
        (ValueError, {"softcap": 0.0}),
        (ValueError, {"alibi_slopes": sl.ones(3)}),
        (IndexError, {"key_lengths": sl.tensor(np.array([40, 40]))}),
        (TypeError, {"block_tables": sl.ones(2, 4)}),
        (TypeError, {"key_pages": sl.ones(7, 2, 16, 16, dtype="float16")}),
        (TypeError, {"window": 1.5}),
        (TypeError, {"query": "query"}),
    ]
    for error, changed in wrong:
        with refuses(error, "paged_attention"):
            PAGED(**(good | changed))
