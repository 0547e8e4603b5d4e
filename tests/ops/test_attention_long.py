# SPDX-License-Identifier: Apache-2.0
"""Attention past one tile: many tiles, parts and runs of keys; threads; memory."""

from __future__ import annotations

import math
import subprocess
import sys
import time

import numpy as np
import pytest
from test_attention import SDPA, cancelling, check_sdpa, shapes

import reference as ref
import seqloom as sl
from support import assert_close_to_reference, check_op, draws, make_tensor, to_float64


def test_many_tiles_and_parts(isa, device, rng):
    inputs = draws(rng, **shapes(1, 2, 1, queries=330, keys=410, width=24, value_width=20))
    check_sdpa(inputs, {"is_causal": True, "causal_offset": 60}, device)


def test_a_window_far_from_the_start(dtype, device, rng):
    inputs = draws(rng, **shapes(2, 1, 1, queries=40, keys=700, width=16))
    options = {"window": (70, 9), "causal_offset": np.array([300, 655])}
    check_sdpa(inputs, options, device, dtype)


CUT_MASKS = [(1, 2, 90, 1100), (2, 1, 90, 1), (1100,), (2, 1, 1, 1100)]


@pytest.mark.parametrize("shape", CUT_MASKS, ids=str)
def test_mask_gradients_when_keys_are_cut(shape, device, rng):
    keys = 1100 if device == "cpu" else 330  # more would only take the emulator longer
    shape = tuple(keys if n == 1100 else n for n in shape)
    inputs = draws(rng, **shapes(2, 2, 1, queries=90, keys=keys, width=8), attn_mask=shape)
    check_op(
        SDPA,
        ref.scaled_dot_product_attention,
        inputs,
        {"softcap": 4.0},
        device=device,
        kind="product",
        scales={n: 16 * size for n, size in cancelling(inputs, {}).items()},
    )


FEW_QUERIES = [(2, 2, 1), (8, 1, 1), (3, 1, 2), (1, 1, 7)]


@pytest.mark.parametrize("keys", [1, 63, 64, 65, 700, 1500])
@pytest.mark.parametrize(("heads", "kv_heads", "queries"), FEW_QUERIES)
def test_decoding(heads, kv_heads, queries, keys, isa, dtype, device, rng):
    keys = keys if device == "cpu" else min(keys, 500)  # three splits
    inputs = draws(rng, **shapes(2, heads, kv_heads, queries, keys, width=20, value_width=36))
    options = {"key_lengths": np.array([keys, keys // 2]), "is_causal": True}
    options["causal_offset"] = options["key_lengths"] - queries
    check_sdpa(inputs, options, device, dtype)


def test_dropout_backward_draws_the_same_numbers(isa, device, rng):
    """The fused kernel and the one that has its weights in memory drop the same pairs."""
    arrays = draws(rng, **shapes(1, 2, 1, queries=70, keys=135, width=16))
    results = []
    for fused in (True, False):
        t = {n: make_tensor(a, "float32", device, requires_grad=True) for n, a in arrays.items()}
        sl.manual_seed(3)
        y = SDPA(**t, dropout_p=0.4, is_causal=True, causal_offset=65, return_weights=not fused)
        y = y if fused else y[0]
        (y * y).sum().backward()
        results.append([to_float64(y), *(to_float64(x.grad) for x in t.values())])
    for fused, plain in zip(*results, strict=True):
        assert_close_to_reference(fused, plain, dtype="float32", kind="long")


@pytest.mark.parametrize("queries", [1, 300])
def test_bits_do_not_depend_on_threads(queries, dtype, device, rng):
    # One device has one number of threads: there, twice the same is enough.
    keys, counts = (1200, (1, 2, 3)) if device == "cpu" else (400, (1, 2))
    arrays = draws(rng, **shapes(1, 2, 1, queries=queries, keys=keys, width=16))
    before, results = sl.get_num_threads(), []
    try:
        for threads in counts:
            sl.set_num_threads(threads)
            t = {n: make_tensor(a, dtype, device, requires_grad=True) for n, a in arrays.items()}
            y = SDPA(**t, window=3 * keys // 4)
            y.sum().backward()
            results.append([to_float64(x) for x in (y, *(x.grad for x in t.values()))])
    finally:
        sl.set_num_threads(before)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_memory_grows_linearly(device):
    """At 16,384 queries and keys a matrix of scores would take 1 GB."""
    if device != "cpu":
        pytest.skip("measures the process")
    code = """
import resource, seqloom as sl
q, k, v = (sl.randn(1, 1, 16384, 16, requires_grad=True) for _ in range(3))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
sl.ops.scaled_dot_product_attention(q, k, v, is_causal=True).sum().backward()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(out.stdout) < 100  # MB


def seconds(run, times=5):
    best = math.inf
    for _ in range(times):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best


def test_time_is_that_of_what_is_seen(device, rng):
    """A window of a thirty-second part, and lengths of a quarter on average."""
    if device != "cpu":
        pytest.skip("measures the processor")
    arrays = draws(rng, **shapes(4, 2, 2, queries=1024, keys=1024, width=64))
    t = {n: make_tensor(a, "float32", device) for n, a in arrays.items()}
    lengths = sl.tensor(np.array([64, 128, 320, 512]))
    whole = seconds(lambda: SDPA(**t))
    assert seconds(lambda: SDPA(**t, window=(32, 0))) < whole / 3
    assert seconds(lambda: SDPA(**t, key_lengths=lengths)) < whole / 2


@pytest.mark.parametrize("backward", [False, True])
def test_additive_attention_holds_no_hidden_layer(backward, device):
    """[B, Tq, Tk, A] would take 512 MB here, scores and weights 2 MB each."""
    if device != "cpu":
        pytest.skip("measures the process")
    code = f"""
import resource, seqloom as sl
q, k = (sl.randn(1, 724, 16, requires_grad={backward}) for _ in range(2))
w, v = (sl.randn(256, 16, requires_grad={backward}) for _ in range(2)), sl.randn(256)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
y = sl.ops.additive_attention(q, k, *w, v)
if {backward}: y.sum().backward()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(out.stdout) < 64  # MB


def test_heads_inside_the_last_axis_but_one(dtype, device, rng):
    """[B, T, H, D] seen as [B, H, T, D], as projections give it: read where it is."""
    inputs = {n: rng.standard_normal((2, 9, 3, 16)) for n in ("query", "key", "value")}

    def from_projections(query, key, value):
        return SDPA(*(t.transpose(1, 2) for t in (query, key, value)), is_causal=True)

    def vjp(query, key, value):
        y, pull = ref.scaled_dot_product_attention.vjp(
            *(a.swapaxes(1, 2) for a in (query, key, value)), is_causal=True
        )
        return y, lambda g: {n: d.swapaxes(1, 2) for n, d in pull(g).items()}

    scales = dict.fromkeys(inputs, 12.0)
    check_op(from_projections, ref.Op(vjp), inputs, device=device, dtype=dtype, kind="product",
             scales=scales)  # fmt: skip
