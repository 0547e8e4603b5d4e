# SPDX-License-Identifier: Apache-2.0
"""Keys and values that grow step by step: rows written into buffers, attention over them."""

from __future__ import annotations

import numpy as np
import pytest

import reference as ref
import seqloom as sl
from seqloom.ops.cache import cached_attention
from support import assert_close_to_reference, make_tensor, np_dtype, refuses, rounded


def written(buffer, rows, starts, counts):
    """The reference, in place."""
    for b in range(buffer.shape[0]):
        n = rows.shape[2] if counts is None else counts[b]
        buffer[b, :, starts[b] : starts[b] + n] = rows[b, :, :n]


@pytest.mark.parametrize("width", [1, 3, 16, 65])
@pytest.mark.parametrize("one_start", [True, False])
def test_cache_write(width, one_start, isa, dtype, device, rng):
    buffer = rng.standard_normal((3, 2, 11, width)).astype(np_dtype(dtype))
    for length, starts, counts in ((1, [4, 4, 4], None), (4, [0, 7, 3], [4, 0, 2])):
        starts = [4] * 3 if one_start else starts
        # Query, key and value of one product: [B, n, H, D] seen as [B, H, n, D].
        fused = make_tensor(rng.standard_normal((3, length, 3, 2, width)), dtype, device)
        rows = fused[:, :, 1].transpose(1, 2)
        ours = make_tensor(buffer, dtype, device)
        version = ours._version
        sl._core.cache_write(
            ours,
            rows,
            4 if one_start else sl.tensor(starts),
            None if counts is None else sl.tensor(counts),
        )
        assert ours._version > version
        theirs = buffer.copy()
        written(theirs, rows.cpu().numpy(), starts, counts)
        assert ours.cpu().numpy().tobytes() == theirs.tobytes()


def test_cache_write_of_many_rows(device, rng):
    """More batch rows than one launch carries, and a view of a larger cache."""
    buffer, rows = rng.standard_normal((70, 1, 6, 8)), rng.standard_normal((70, 1, 2, 8))
    starts = rng.integers(0, 5, 70)
    whole = make_tensor(np.concatenate([buffer, buffer], 2), "float32", device)
    sl._core.cache_write(
        whole[:, :, 6:], make_tensor(rows, "float32", device), sl.tensor(starts), None
    )
    theirs = buffer.astype(np.float32)
    written(theirs, rows.astype(np.float32), starts, None)
    got = whole.cpu().numpy()
    np.testing.assert_array_equal(got[:, :, 6:], theirs)
    np.testing.assert_array_equal(got[:, :, :6], buffer.astype(np.float32))


def test_cache_write_refuses(device):
    buffer, rows = sl.zeros(2, 1, 4, 3, device=device), sl.zeros(2, 1, 2, 3, device=device)

    def write(buffer=buffer, rows=rows, starts=0, counts=None):
        sl._core.cache_write(buffer, rows, starts, counts)

    write(starts=2)
    with refuses(ValueError, "cache_write"):
        write(starts=3)
    with refuses(ValueError, "cache_write"):
        write(starts=-1)
    with refuses(ValueError, "cache_write"):
        write(starts=sl.tensor([0, 3]))
    with refuses(ValueError, "cache_write"):
        write(starts=sl.tensor([0, 2, 1]))
    with refuses(TypeError, "cache_write"):
        write(starts=sl.tensor([0.0, 2.0]))
    with refuses(ValueError, "cache_write"):
        write(counts=sl.tensor([0, 3]))
    with refuses(ValueError, "cache_write"):
        write(rows=sl.zeros(2, 2, 2, 3, device=device))
    with refuses(TypeError, "cache_write"):
        write(rows=rows.to(dtype=sl.float16))
    write(starts=sl.tensor([3, 0]), counts=sl.tensor([1, 2]))


@pytest.mark.parametrize("left", [None, 2])
@pytest.mark.parametrize("queries", [1, 3])
def test_attention_over_buffers(queries, left, isa, dtype, device, rng):
    lengths = np.array([9, 3, 6])
    query = rng.standard_normal((3, 4, queries, 16))
    keys, values = rng.standard_normal((2, 3, 2, 12, 16))
    got = cached_attention(
        *(make_tensor(a, dtype, device) for a in (query, keys, values)),
        sl.tensor(lengths), sl.tensor(lengths - queries), None, left, None,
    )  # fmt: skip
    exact = [rounded(a, dtype) for a in (query, keys, values)]
    options = {"key_lengths": lengths, "is_causal": True, "causal_offset": lengths - queries}
    if left is not None:
        options["window"] = (left, 0)
    single = [a.astype(np.float32) for a in exact]
    assert_close_to_reference(
        got, ref.scaled_dot_product_attention(*exact, **options),
        ref.scaled_dot_product_attention(*single, **options), dtype=dtype, kind="product",
    )  # fmt: skip
