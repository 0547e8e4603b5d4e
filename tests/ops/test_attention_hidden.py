# SPDX-License-Identifier: Apache-2.0
"""What a hidden key, value or query holds has no part in anything; no number hides by its size."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from test_attention import SDPA, additive_inputs, shapes

import seqloom as sl
from support import assert_close_to_reference, draws, make_tensor, np_dtype, to_float64

NAMES = ("query", "key", "value")
SPECIALS = {"nan": np.nan, "infinity": np.inf}


def hiding(name, queries, keys):
    """(options, mask or None, visible [queries, keys]) with keys that nobody and that some see."""
    at = np.arange(keys)
    position = np.arange(queries)[:, None] + keys - queries - 3
    if name in ("bool", "additive"):
        visible = (at >= 2) & (at < keys - 5) & ((at + np.arange(queries)[:, None]) % 3 > 0)
        mask = visible if name == "bool" else np.where(visible, 0.5, -np.inf)
        return {}, mask, visible
    if name == "lengths":
        return {"key_lengths": np.array([keys - 5])}, None, np.tile(at < keys - 5, (queries, 1))
    if name == "causal":
        options = {"is_causal": True, "causal_offset": keys - queries - 3}
        return options, None, at <= position
    options = {"window": (4, 2), "causal_offset": keys - queries - 3}
    return options, None, (at >= position - 4) & (at <= position + 2)


def run(arrays, options, mask, gradient, dtype, device):
    """Output and gradients of query, key, value and an additive mask."""
    t = {n: make_tensor(a, dtype, device, requires_grad=True) for n, a in arrays.items()}
    given = {
        n: sl.tensor(o, device=device) if isinstance(o, np.ndarray) else o
        for n, o in options.items()
    }
    if mask is not None and mask.dtype == bool:
        given["attn_mask"] = sl.tensor(mask, device=device)
    elif mask is not None:
        t["attn_mask"] = make_tensor(mask, dtype, device, requires_grad=True)
    y = SDPA(**t, **given)
    y = y[0] if options.get("return_weights") else y
    y.backward(make_tensor(gradient, dtype, device))
    return {"output": to_float64(y)} | {n: to_float64(x.grad) for n, x in t.items()}


HIDINGS = ("bool", "additive", "lengths", "causal", "window")


@pytest.mark.parametrize("special", SPECIALS)
@pytest.mark.parametrize("which", ["key", "value"])
@pytest.mark.parametrize("name", HIDINGS)
@pytest.mark.parametrize(
    ("queries", "keys", "width"), [(1, 70, 64), (4, 20, 5), (40, 90, 16), (20, 40, 136)]
)
def test_hidden_keys_and_values(
    queries, keys, width, name, which, special, isa, dtype, device, rng
):
    """Where nobody looks anything may lie: the results are those with zeros there."""
    options, mask, visible = hiding(name, queries, keys)
    arrays = draws(rng, **shapes(1, 2, 1, queries, keys, width))
    gradient = rng.standard_normal((1, 2, queries, width))
    unseen = ~visible.any(axis=0)
    assert unseen.any()
    results = []
    for filling in (0, SPECIALS[special]):
        arrays[which][:, :, unseen] = filling
        results.append(run(arrays, options, mask, gradient, dtype, device))
    for n, clean in results[0].items():
        assert_close_to_reference(
            results[1][n], clean, dtype=dtype, kind="product", scale=np.abs(clean).max(), what=n
        )


@pytest.mark.parametrize("return_weights", [False, True])
def test_hidden_keys_where_weights_are_asked_for(return_weights, dtype, device, rng):
    options, mask, visible = hiding("bool", 6, 20)
    options["return_weights"] = return_weights
    arrays = draws(rng, **shapes(1, 4, 2, 6, 20, 8))
    unseen = ~visible.any(axis=0)
    results = []
    for filling in (0, np.nan):
        for n in ("key", "value"):
            arrays[n][:, :, unseen] = filling
        results.append(run(arrays, options, mask, np.ones((1, 4, 6, 8)), dtype, device))
    for n, clean in results[0].items():
        assert_close_to_reference(
            results[1][n], clean, dtype=dtype, kind="product", scale=np.abs(clean).max(), what=n
        )


@pytest.mark.parametrize("queries", [7, 70])
@pytest.mark.parametrize("name", ["bool", "causal", "window"])
def test_a_value_that_some_see_stays_with_them(name, queries, isa, dtype, device, rng):
    keys = 90
    options, mask, visible = hiding(name, queries, keys)
    arrays = draws(rng, **shapes(1, 1, 1, queries, keys, 16))
    gradient = rng.standard_normal((1, 1, queries, 16))
    bad = int(np.argmax(visible[-1]))
    sees = visible[:, bad]
    assert sees.any()
    clean = run(arrays, options, mask, gradient, dtype, device)
    arrays["value"][:, :, bad, 3] = np.nan
    got = run(arrays, options, mask, gradient, dtype, device)
    assert np.isnan(got["output"][0, 0, sees, 3]).all()
    for n in ("output", "query"):
        assert_close_to_reference(
            got[n][0, 0, ~sees], clean[n][0, 0, ~sees], dtype=dtype, kind="product",
            scale=np.abs(clean[n]).max(), what=n,
        )  # fmt: skip


def test_a_query_that_sees_nothing_may_hold_anything(isa, dtype, device, rng):
    arrays = draws(rng, **shapes(1, 2, 1, 20, 30, 16))
    mask = np.ones((20, 30), bool)
    mask[4:7] = False
    gradient = rng.standard_normal((1, 2, 20, 16))
    results = []
    for filling in (0, np.nan):
        arrays["query"][:, :, 4:7] = filling
        results.append(run(arrays, {}, mask, gradient, dtype, device))
    for n, clean in results[0].items():
        assert_close_to_reference(
            results[1][n], clean, dtype=dtype, kind="product", scale=np.abs(clean).max(), what=n
        )


# --- the least numbers -------------------------------------------------------------------


def least(dtype, name):
    """What hides by convention in a mask of that dtype, as large as a number can be."""
    return float(ml_dtypes.finfo(np_dtype(dtype)).min) if name == "finfo" else -3e38


def softmax_result(arrays, mask, gradient):
    """Output and gradients of the float64 formula."""
    q, k, v = (arrays[n] for n in NAMES)
    group = q.shape[1] // k.shape[1]
    k, v = np.repeat(k, group, 1), np.repeat(v, group, 1)
    scale = q.shape[3] ** -0.5
    s = scale * q @ k.swapaxes(2, 3) + mask
    p = np.exp(s - s.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    dp = gradient @ v.swapaxes(2, 3)
    ds = p * (dp - (p * dp).sum(-1, keepdims=True))
    dk, dv = scale * ds.swapaxes(2, 3) @ q, p.swapaxes(2, 3) @ gradient

    def grouped(x):
        return x.reshape(x.shape[0], -1, group, *x.shape[2:]).sum(2)

    return {"output": p @ v, "query": scale * ds @ k, "key": grouped(dk), "value": grouped(dv)}


@pytest.mark.parametrize("mask_dtype", ["own", "float32"])
@pytest.mark.parametrize("name", ["finfo", "large"])
@pytest.mark.parametrize("rows", ["whole", "part"])
@pytest.mark.parametrize(("queries", "keys"), [(1, 9), (1, 1100), (5, 70), (40, 90)])
def test_the_least_numbers(queries, keys, rows, name, mask_dtype, isa, dtype, device, rng):
    """A row of nothing else is a mean; beside others they weigh nothing."""
    mask_dtype = dtype if mask_dtype == "own" else mask_dtype
    if name == "large" and mask_dtype == "float16":
        pytest.skip("float16 ends before")
    keys = keys if device == "cpu" else min(keys, 500)
    value = least(mask_dtype, name)
    mask = np.zeros((queries, keys))
    mask[:, keys // 3 :] = value
    if rows == "whole":
        mask[-1] = value
    arrays = {
        n: to_float64(make_tensor(a, dtype, "cpu"))
        for n, a in draws(rng, **shapes(1, 2, 1, queries, keys, 16)).items()
    }
    gradient = to_float64(make_tensor(rng.standard_normal((1, 2, queries, 16)), dtype, "cpu"))
    t = {n: make_tensor(a, dtype, device, requires_grad=True) for n, a in arrays.items()}
    y = SDPA(**t, attn_mask=make_tensor(mask, mask_dtype, device))
    y.backward(make_tensor(gradient, dtype, device))
    truth = softmax_result(arrays, mask, gradient)
    # The same in float32, scores being rounded where they meet the mask.
    narrow = softmax_result(
        {n: a.astype(np.float32) for n, a in arrays.items()},
        mask.astype(np.float32),
        gradient.astype(np.float32),
    )
    got = {"output": y.detach()} | {n: x.grad for n, x in t.items()}
    for n, want in truth.items():
        size = max(np.abs(want).max(), np.abs(truth["output"]).max())
        assert_close_to_reference(
            got[n], want, narrow[n], dtype=dtype, kind="product", scale=size, what=n
        )


@pytest.mark.parametrize("queries", [3, 40])
@pytest.mark.parametrize("size", [64.0, 2.0**20])
def test_products_that_are_large(queries, size, isa, dtype, device, rng):
    """Scores of thousands, or of a million millions: the largest takes all, backward too."""
    if dtype == "float16" and size > 100:
        pytest.skip("float16 ends before")
    keys = 70
    arrays = draws(rng, **shapes(1, 1, 1, queries, keys, 16))
    arrays["key"] = np.sign(arrays["key"]) * size
    arrays["query"] = np.sign(arrays["query"]) * size
    arrays = {n: to_float64(make_tensor(a, dtype, "cpu")) for n, a in arrays.items()}
    gradient = to_float64(make_tensor(rng.standard_normal((1, 1, queries, 16)), dtype, "cpu"))
    t = {n: make_tensor(a, dtype, device, requires_grad=True) for n, a in arrays.items()}
    y = SDPA(**t)
    y.backward(make_tensor(gradient, dtype, device))
    truth = softmax_result(arrays, 0.0, gradient)
    for n, got in ({"output": y.detach()} | {n: x.grad for n, x in t.items()}).items():
        scale = np.abs(truth[n]).max() + (size if n in ("query", "key") else 1)
        assert_close_to_reference(got, truth[n], dtype=dtype, kind="product", scale=scale, what=n)


# --- attention of recurrent decoders -----------------------------------------------------


@pytest.mark.parametrize("return_weights", [False, True])
@pytest.mark.parametrize("kind", ["additive", "projected", "dot", "general"])
def test_padding_of_decoders_may_hold_anything(kind, return_weights, dtype, device, rng):
    lengths = sl.tensor(np.array([3, 5]), device=device)
    inputs = additive_inputs(rng, keys=7, dq=6, dk=6, values=4)
    weights = draws(rng, weight=(6, 6))
    module = sl.nn.AdditiveAttention(6, 6, 9, dtype=dtype, device=device)
    results = []
    for filling in (0, np.nan):
        for b, n in enumerate((3, 5)):
            inputs["keys"][b, n:] = inputs["values"][b, n:] = filling
        names = {"additive": 6, "projected": 2, "dot": 2, "general": 2}[kind]
        used = dict(list(inputs.items())[:names]) | {"values": inputs["values"]}
        used |= weights if kind == "general" else {}
        t = {n: make_tensor(a, dtype, device, requires_grad=True) for n, a in used.items()}
        more = {"key_lengths": lengths, "return_weights": return_weights}
        module.zero_grad()
        if kind == "projected":
            projected = module.project_keys(t["keys"], lengths)
            y = module(**t, key_lengths=lengths, projected_keys=projected)
        elif kind == "additive":
            y = sl.ops.additive_attention(**t, **more)
        else:
            y = sl.ops.dot_attention(**t, **more)
        y = y[0] if isinstance(y, tuple) else y
        (y * y).sum().backward()
        grads = [x.grad for x in (*t.values(), *module.parameters()) if x.grad is not None]
        results.append([to_float64(x) for x in (y, *grads)])
    for clean, got in zip(*results, strict=True):
        assert_close_to_reference(
            got, clean, dtype=dtype, kind="product", scale=np.abs(clean).max()
        )
