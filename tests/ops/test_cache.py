# SPDX-License-Identifier: Apache-2.0
"""Keys and values that grow step by step: rows written into buffers, attention over them."""

from __future__ import annotations

import numpy as np
import pytest

import reference as ref
import seqloom as sl
from seqloom.ops.cache import Step, cached_attention, cached_attention_joint
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


def judged(got, query, keys, values, dtype, **options):
    exact = [rounded(a, dtype) for a in (query, keys, values)]
    single = [a.astype(np.float32) for a in exact]
    assert_close_to_reference(
        got, ref.scaled_dot_product_attention(*exact, **options),
        ref.scaled_dot_product_attention(*single, **options), dtype=dtype, kind="product",
    )  # fmt: skip


def without_last(buffer, lengths, n):
    """The buffer before a step of n tokens, and the rows [B, H, n, D] of the step."""
    before = buffer.copy()
    rows = np.stack([buffer[b, :, end - n : end] for b, end in enumerate(lengths)])
    for b, end in enumerate(lengths):
        before[b, :, end - n : end] = 7
    return before, rows


@pytest.mark.parametrize("left", [None, 2])
@pytest.mark.parametrize("queries", [1, 3])
def test_attention_over_buffers(queries, left, isa, dtype, device, rng):
    lengths = np.array([9, 3, 6])
    query = rng.standard_normal((3, 4, queries, 16))
    full = rng.standard_normal((2, 3, 2, 12, 16))
    steps = [without_last(buffer, lengths, queries) for buffer in full]
    keys, values = (make_tensor(before, dtype, device) for before, _ in steps)
    starts = sl.tensor(lengths - queries, device=device)
    got = cached_attention(
        Step(starts, None, sl.tensor(lengths, device=device)), make_tensor(query, dtype, device),
        *(make_tensor(rows, dtype, device) for _, rows in steps), keys, values, None, left, None,
    )  # fmt: skip
    for ours, theirs in ((keys, full[0]), (values, full[1])):
        want = make_tensor(theirs, dtype, device).cpu().numpy()
        assert ours.cpu().numpy().tobytes() == want.tobytes()
    options = {"key_lengths": lengths, "is_causal": True, "causal_offset": lengths - queries}
    if left is not None:
        options["window"] = (left, 0)
    judged(got, query, *full, dtype, **options)


@pytest.mark.parametrize("by_head", [False, True])
@pytest.mark.parametrize("queries", [1, 3])
def test_attention_of_a_joint_product(queries, by_head, isa, dtype, device, rng):
    batch, heads, width, length = 2, 3, 16, 7
    query = rng.standard_normal((batch, heads, queries, width))
    full = rng.standard_normal((2, batch, heads, 12, width))
    steps = [without_last(buffer, [length] * batch, queries) for buffer in full]
    keys, values = (make_tensor(before, dtype, device) for before, _ in steps)
    parts = np.stack([query, steps[0][1], steps[1][1]])  # [3, B, H, n, D]
    joint = parts.transpose(1, 3, 2, 0, 4) if by_head else parts.transpose(1, 3, 0, 2, 4)
    step = Step(length - queries, None, sl.tensor([length] * batch, device=device))
    product = make_tensor(joint.reshape(batch, queries, -1), dtype, device)
    got = cached_attention_joint(step, product, keys, values, by_head, None, None)
    assert got.shape == (batch, queries, heads * width)
    heads_apart = got.reshape(batch, queries, heads, width).transpose(1, 2).contiguous()
    options = {"key_lengths": np.array([length] * batch), "is_causal": True}
    judged(heads_apart, query, *full, dtype, causal_offset=length - queries, **options)
    with refuses(ValueError, "cached_attention"):
        cached_attention_joint(step, product[..., 1:], keys, values, by_head, None, None)


def test_float64_is_composed(rng):
    query, key, value = (sl.tensor(rng.standard_normal((2, 2, 1, 4))) for _ in range(3))
    keys, values = sl.zeros(2, 2, 2, 2, 4, dtype="float64")
    step = Step(0, None, sl.tensor([1, 1]))
    got = cached_attention(step, query, key, value, keys, values, None, None, None)
    np.testing.assert_array_equal(got.numpy(), value.numpy())
    joint = sl.cat([query, key, value], 1).reshape(2, 1, 24)
    again = cached_attention_joint(step, joint, keys, values, False, None, None)
    np.testing.assert_array_equal(again.numpy().reshape(2, 2, 1, 4), value.numpy())
