# SPDX-License-Identifier: Apache-2.0
"""Scaled dot-product attention with every option, additive and Luong attention."""

from __future__ import annotations

import math

import numpy as np
import pytest

import reference as ref
import seqloom as sl
from reference.vjp import unbroadcast
from support import (
    LAYOUTS,
    assert_close_to_reference,
    check_op,
    draws,
    make_tensor,
    refuses,
    to_float64,
)

SDPA = sl.ops.scaled_dot_product_attention
OPTIONS = {"kind": "product"}


def shapes(batch=2, heads=2, kv_heads=None, queries=5, keys=7, width=8, value_width=None):
    kv_heads = heads if kv_heads is None else kv_heads
    return {
        "query": (batch, heads, queries, width),
        "key": (batch, kv_heads, keys, width),
        "value": (batch, kv_heads, keys, width if value_width is None else value_width),
    }


def cancelling(inputs, options):
    """Largest sums of the sizes of the terms of the output and of each gradient.

    Gradients of scores are p (g.v - g.o), so that their terms are p |g.v| and p |g.o|.
    """
    plain = {n: o for n, o in options.items() if n != "return_weights"}
    output, p = ref.scaled_dot_product_attention(**inputs, **plain, return_weights=True)
    batch, kv_heads, _, width = inputs["key"].shape
    group = output.shape[1] // max(kv_heads, 1)
    k, v = (np.repeat(inputs[n], group, axis=1) for n in ("key", "value"))
    g = np.random.default_rng(4).standard_normal(output.shape)  # as check_op draws it
    terms = p * (np.abs(g @ v.swapaxes(-1, -2)) + np.abs(g * output).sum(axis=-1, keepdims=True))

    def per_key_head(d):
        return d.reshape(batch, kv_heads, group, *d.shape[2:]).sum(axis=2)

    given = options.get("scale")
    scale = 1 / math.sqrt(max(width, 1)) if given is None else abs(given)
    sums = {
        "output 0": p @ np.abs(v),
        "query": scale * (terms @ np.abs(k)),
        "key": scale * per_key_head(terms.swapaxes(-1, -2) @ np.abs(inputs["query"])),
        "value": per_key_head(p.swapaxes(-1, -2) @ np.abs(g)),
    }
    if "attn_mask" in inputs:
        sums["attn_mask"] = unbroadcast(terms, inputs["attn_mask"].shape)
    if "alibi_slopes" in inputs:
        queries, keys = terms.shape[2:]
        position = np.arange(queries) + np.reshape(options.get("causal_offset", 0), (-1, 1))
        away = np.abs(np.arange(keys) - position[:, None, :, None])
        sums["alibi_slopes"] = (terms * away).sum(axis=(0, 2, 3))
    return {n: float(np.max(a, initial=0)) for n, a in sums.items()}


def in_another_order(seed):
    """The reference with the features of the heads in another order, scaled before or after."""

    def vjp(query, key, value, attn_mask=None, *, scale=None, **options):
        width = query.shape[-1]
        order = np.random.default_rng(seed).permutation(width)
        scale = query.dtype.type(1 / math.sqrt(max(width, 1)) if scale is None else scale)
        before, after = (scale, 1.0) if seed % 2 else (query.dtype.type(1), float(scale))
        output, pull = ref.scaled_dot_product_attention.vjp(
            (query * before)[..., order], key[..., order], value, attn_mask, scale=after, **options
        )

        def backward(*gradients):
            grads, back = dict(pull(*gradients)), np.argsort(order)
            grads["query"] = grads["query"][..., back] * before
            grads["key"] = grads["key"][..., back]
            return grads

        return output, backward

    return ref.Op(vjp)


WAYS = [in_another_order(seed) for seed in range(7)]


def check_sdpa(
    inputs, options, device, dtype="float32", layout="contiguous", as_numpy=(), kind="twice"
):
    check_op(
        SDPA,
        ref.scaled_dot_product_attention,
        inputs,
        options,
        device=device,
        dtype=dtype,
        layout=layout,
        kind=kind,
        as_numpy=as_numpy,
        scales=cancelling(inputs, options),
        ways=WAYS if dtype == "float32" else (),  # 16 bits round more than any order
    )


# --- sizes, layouts ---------------------------------------------------------------------


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("width", [1, 3, 8, 16, 33, 64, 80, 128, 256])
def test_over_head_sizes(width, is_causal, isa, dtype, device, rng):
    inputs = draws(rng, **shapes(batch=1, queries=9, keys=9, width=width))
    check_sdpa(inputs, {"is_causal": is_causal}, device, dtype)


@pytest.mark.parametrize(
    ("queries", "keys"),
    [(1, 1), (1, 17), (1, 300), (3, 2), (8, 64), (17, 65), (64, 33), (70, 130), (129, 127)],
)
def test_over_lengths(queries, keys, isa, dtype, device, rng):
    inputs = draws(rng, **shapes(batch=1, queries=queries, keys=keys, width=16))
    check_sdpa(inputs, {}, device, dtype)
    offset = {"is_causal": True, "causal_offset": keys - queries}
    check_sdpa(inputs, offset, device, dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("width", [7, 16])
def test_views(width, layout, dtype, device, rng):
    inputs = draws(rng, **shapes(queries=6, keys=9, width=width))
    check_sdpa(inputs, {}, device, dtype, layout)


@pytest.mark.parametrize("value_width", [1, 5, 16, 40])
def test_values_of_another_width(value_width, dtype, device, rng):
    inputs = draws(rng, **shapes(queries=6, keys=9, width=12, value_width=value_width))
    check_sdpa(inputs, {}, device, dtype)


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 2), (6, 1), (6, 3), (8, 8)])
def test_grouped_heads(heads, kv_heads, dtype, device, rng):
    inputs = draws(rng, **shapes(heads=heads, kv_heads=kv_heads, width=16))
    check_sdpa(inputs, {"is_causal": True, "causal_offset": 2}, device, dtype)


@pytest.mark.parametrize(
    "extent", [{"batch": 0}, {"heads": 0}, {"queries": 0}, {"keys": 0}], ids=str
)
def test_nothing_to_attend(extent, device, rng):
    check_sdpa(draws(rng, **shapes(**extent)), {}, device)


# --- options ----------------------------------------------------------------------------

SLOPES = np.array([0.5, 0.25])
SINGLE_OPTIONS = {
    "scale": {"scale": 0.7},
    "scale-zero": {"scale": 0.0},
    "softcap": {"softcap": 2.0},
    "window": {"window": (2, 1)},
    "window-int": {"window": 1},
    "window-zero": {"window": 0},
    "window-causal": {"window": 2, "is_causal": True, "causal_offset": 2},
    "causal": {"is_causal": True},
    "causal-offset": {"is_causal": True, "causal_offset": 2},
    "causal-negative": {"is_causal": True, "causal_offset": -3},
    "causal-offsets": {"is_causal": True, "causal_offset": np.array([-2, 4])},
    "lengths": {"key_lengths": np.array([3, 7])},
    "length-zero": {"key_lengths": np.array([0, 4])},
    "alibi": {"alibi_slopes": SLOPES},
    "alibi-causal": {"alibi_slopes": SLOPES, "is_causal": True, "causal_offset": 2},
}


@pytest.mark.parametrize("return_weights", [False, True])
@pytest.mark.parametrize("name", SINGLE_OPTIONS)
def test_each_option(name, return_weights, isa, dtype, device, rng):
    options = SINGLE_OPTIONS[name] | {"return_weights": return_weights}
    check_sdpa(draws(rng, **shapes()), options, device, dtype)


@pytest.mark.parametrize("name", ["causal-offsets", "lengths"])
def test_lengths_and_offsets_may_be_numpy_arrays(name, device, rng):
    options = SINGLE_OPTIONS[name]
    check_sdpa(draws(rng, **shapes()), options, device, as_numpy=tuple(options))


MASKS = [(5, 7), (1, 7), (2, 1, 5, 7), (1, 2, 1, 7), (2, 2, 5, 7), (5, 1), ()]


@pytest.mark.parametrize("shape", MASKS, ids=str)
def test_boolean_masks(shape, dtype, device, rng):
    mask = np.asarray(rng.random(shape) > 0.4)
    check_sdpa(draws(rng, **shapes()), {"attn_mask": mask}, device, dtype)


@pytest.mark.parametrize("shape", MASKS, ids=str)
def test_additive_masks_have_a_gradient(shape, dtype, device, rng):
    inputs = draws(rng, **shapes(), attn_mask=shape)
    check_sdpa(inputs, {}, device, dtype)
    check_sdpa(inputs, {"softcap": 3.0, "is_causal": True, "causal_offset": 1}, device, dtype)


@pytest.mark.parametrize("name", ["alibi", "causal-offsets", "softcap", "lengths", "window"])
@pytest.mark.parametrize(("queries", "width"), [(1, 16), (5, 16), (70, 16), (20, 136)])
def test_slopes_have_a_gradient(queries, width, name, isa, dtype, device, rng):
    inputs = draws(rng, **shapes(heads=4, kv_heads=2, queries=queries, keys=90, width=width))
    inputs["alibi_slopes"] = rng.random(4) / 8
    options = {n: o for n, o in SINGLE_OPTIONS[name].items() if n != "alibi_slopes"}
    # Scores are summed in units of log 2: the rounding of a slope there moves a whole row.
    check_sdpa(inputs, options, device, dtype, kind="product")


@pytest.mark.parametrize("shape", [{"batch": 0}, {"queries": 0}, {"keys": 0}], ids=str)
def test_gradients_of_nothing_are_zeros(shape, device, rng):
    inputs = draws(rng, **shapes(**shape), attn_mask=(1, 1), alibi_slopes=(2,))
    check_sdpa(inputs, {}, device)


def test_an_additive_mask_may_hide_with_minus_infinity(dtype, device, rng):
    mask = rng.standard_normal((2, 1, 5, 7))
    mask[:, :, :, 4:] = -np.inf
    mask[1, :, 2] = -np.inf
    check_sdpa(draws(rng, **shapes()), {"attn_mask": mask}, device, dtype)


def test_a_query_that_sees_nothing_gives_zeros_and_zero_gradients(isa, dtype, device, rng):
    hide_all = {
        "lengths": {"key_lengths": np.array([0, 0])},
        "bool": {"attn_mask": np.zeros((5, 7), bool)},
        "additive": {"attn_mask": np.full((5, 7), -np.inf)},
        "causal": {"is_causal": True, "causal_offset": -20},
        "window": {"window": 1, "causal_offset": 50},
    }
    for options in hide_all.values():
        check_sdpa(draws(rng, **shapes()), options, device, dtype)
        tensors = {n: make_tensor(rng.standard_normal(s), dtype, device, requires_grad=True)
                   for n, s in shapes().items()}  # fmt: skip
        passed = {
            n: make_tensor(o, dtype if o.dtype.kind == "f" else None, device)
            if isinstance(o, np.ndarray)
            else o
            for n, o in options.items()
        }
        y = SDPA(**tensors, **passed)
        assert not to_float64(y).any()
        y.sum().backward()
        assert not any(to_float64(t.grad).any() for t in tensors.values())


def test_nan_stays_with_its_query(dtype, device, rng):
    inputs = draws(rng, **shapes())
    inputs["query"][1, 0, 2, 3] = np.nan
    y = to_float64(SDPA(**{n: make_tensor(a, dtype, device) for n, a in inputs.items()}))
    assert np.isnan(y[1, 0, 2]).all()
    assert np.isnan(y).sum() == y.shape[-1]


@pytest.mark.parametrize("queries", [3, 40])
def test_nan_in_a_mask_stays_with_its_query(queries, dtype, device, rng):
    inputs = draws(rng, **shapes(queries=queries), attn_mask=(2, 1, queries, 7))
    inputs["attn_mask"][0, 0, 1, 4] = np.nan
    y = to_float64(SDPA(**{n: make_tensor(a, dtype, device) for n, a in inputs.items()}))
    assert np.isnan(y[0, :, 1]).all()
    assert np.isnan(y).sum() == y[0, :, 1].size


@pytest.mark.parametrize("queries", [3, 40])
def test_nan_in_a_query_reaches_its_gradients_alone(queries, dtype, device, rng):
    inputs = draws(rng, **shapes(queries=queries))
    inputs["query"][1, 0, 2, 3] = np.nan
    t = {n: make_tensor(a, dtype, device, requires_grad=True) for n, a in inputs.items()}
    SDPA(**t).sum().backward()
    bad = np.isnan(to_float64(t["query"].grad))
    assert bad[1, 0, 2].all()
    assert bad.sum() == bad.shape[-1]
    for name in ("key", "value"):
        bad = np.isnan(to_float64(t[name].grad))
        assert bad[1, 0].all()
        assert bad.sum() == bad[1, 0].size


def test_what_padding_holds_does_not_matter(dtype, device, rng):
    inputs = draws(rng, **shapes())
    lengths = sl.tensor(np.array([4, 6]), device=device)

    def run():
        tensors = {n: make_tensor(a, dtype, device) for n, a in inputs.items()}
        return to_float64(SDPA(**tensors, key_lengths=lengths))

    before = run()
    for b, n in enumerate((4, 6)):
        inputs["key"][b, :, n:] = 900.0
        inputs["value"][b, :, n:] = -900.0
    np.testing.assert_array_equal(before, run())


# --- everything at once -----------------------------------------------------------------


def random_configuration(
    rng, queries=(1, 2, 7, 16, 33), keys=(1, 3, 16, 35, 70), widths=(1, 4, 8, 15, 32, 40), most=3
):
    """Shapes and options drawn together: what an option breaks in another shows here."""
    batch, group = int(rng.integers(1, most + 1)), int(rng.choice([1, 1, 2, 3]))
    kv_heads = int(rng.integers(1, most + 1))
    heads = kv_heads * group
    queries, keys = int(rng.choice(queries)), int(rng.choice(keys))
    width, value_width = (int(rng.choice(widths)) for _ in range(2))
    inputs = draws(rng, **shapes(batch, heads, kv_heads, queries, keys, width, value_width))
    options = {}

    def maybe(share):
        return rng.random() < share

    if maybe(0.5):
        options["is_causal"] = True
    if maybe(0.5):
        offsets = rng.integers(-3, keys + 3, batch)
        options["causal_offset"] = offsets if maybe(0.5) else int(offsets[0])
    if maybe(0.4):
        options["key_lengths"] = rng.integers(0, keys + 1, batch)
    if maybe(0.4):
        left, right = (int(n) for n in rng.integers(0, keys + 1, 2))
        options["window"] = (left, right) if maybe(0.5) else left
    if maybe(0.3):
        options["softcap"] = float(rng.choice([1.0, 5.0, 30.0]))
    if maybe(0.3):
        where = inputs if maybe(0.5) else options
        where["alibi_slopes"] = rng.random(heads)
    if maybe(0.3):
        options["scale"] = float(rng.random() * 2)
    mask_shape = tuple(int(n) if maybe(0.6) else 1 for n in (batch, heads, queries, keys))
    if maybe(0.3):
        options["attn_mask"] = rng.random(mask_shape) > 0.3
    elif maybe(0.4):
        inputs["attn_mask"] = rng.standard_normal(mask_shape)
    options["return_weights"] = bool(maybe(0.3))
    return inputs, options


@pytest.mark.parametrize("seed", range(60))
def test_random_configurations(seed, dtype, device):
    rng = np.random.default_rng(seed)
    for _ in range(3):
        inputs, options = random_configuration(rng)
        check_sdpa(inputs, options, device, dtype)


# --- dropout ----------------------------------------------------------------------------


def test_dropout_drops_its_share_and_scales_the_rest(device, rng):
    batch, heads, queries, keys, p = 2, 3, 40, 50, 0.3
    inputs = draws(rng, **shapes(batch, heads, heads, queries, keys, 16))
    tensors = {n: make_tensor(a, "float32", device, requires_grad=True) for n, a in inputs.items()}
    sl.manual_seed(5)
    _, weights = SDPA(**tensors, dropout_p=p, return_weights=True)
    keep = to_float64(weights) != 0
    assert abs(keep.mean() - (1 - p)) < 5 * np.sqrt(p * (1 - p) / keep.size)
    # With the mask that it used, the op is the reference: values and gradients.
    sl.manual_seed(5)
    check_op(
        lambda query, key, value: SDPA(query, key, value, dropout_p=p),
        ref.Op(
            lambda query, key, value: ref.scaled_dot_product_attention.vjp(
                query, key, value, dropout_p=p, keep=keep
            )
        ),
        inputs,
        device=device,
        kind="product",
    )


def test_dropout_limits(device, rng):
    tensors = {n: make_tensor(a, "float32", device) for n, a in draws(rng, **shapes()).items()}
    np.testing.assert_array_equal(
        to_float64(SDPA(**tensors, dropout_p=0.0)), to_float64(SDPA(**tensors))
    )
    assert not to_float64(SDPA(**tensors, dropout_p=1.0)).any()
    for p in (-0.1, 1.5):
        with refuses(ValueError, "scaled_dot_product_attention"):
            SDPA(**tensors, dropout_p=p)


# --- additive and Luong attention -------------------------------------------------------


def additive_inputs(rng, batch=2, queries=3, keys=7, dq=5, dk=6, hidden=9, values=None):
    extra = {} if values is None else {"values": (batch, keys, values)}
    return draws(
        rng,
        query=(batch, queries, dq),
        keys=(batch, keys, dk),
        w_query=(hidden, dq),
        w_key=(hidden, dk),
        v=(hidden,),
        **extra,
    )


@pytest.mark.parametrize("lengths", [None, (3, 7), (0, 5)], ids=str)
@pytest.mark.parametrize("values", [None, 4])
@pytest.mark.parametrize("layout", ["contiguous", "misaligned", "transposed"])
def test_additive_attention(layout, values, lengths, dtype, device, rng):
    options = {"return_weights": True}
    if lengths is not None:
        options["key_lengths"] = np.array(lengths)
    check_op(
        sl.ops.additive_attention,
        ref.additive_attention,
        additive_inputs(rng, values=values),
        options,
        device=device,
        dtype=dtype,
        layout=layout,
        kind="product",
    )


@pytest.mark.parametrize("size", [(1, 1, 1, 1, 1), (1, 40, 8, 16, 33), (9, 65, 3, 17, 64)], ids=str)
def test_additive_attention_over_sizes(size, isa, dtype, device, rng):
    queries, keys, dq, dk, hidden = size
    check_op(
        sl.ops.additive_attention,
        ref.additive_attention,
        additive_inputs(rng, 3, queries, keys, dq, dk, hidden),
        device=device,
        dtype=dtype,
        kind="product",
    )


@pytest.mark.parametrize("lengths", [None, (3, 5)], ids=str)
def test_keys_are_projected_once_for_all_steps(lengths, dtype, device, rng):
    module = sl.nn.AdditiveAttention(4, 6, 5, dtype=dtype, device=device)
    arrays = draws(rng, keys=(2, 5, 6), first=(2, 4), second=(2, 4))
    given = None if lengths is None else sl.tensor(np.array(lengths), device=device)
    results = []
    for once in (False, True):
        t = {n: make_tensor(a, dtype, device, requires_grad=True) for n, a in arrays.items()}
        more = {"projected_keys": module.project_keys(t["keys"])} if once else {}
        module.zero_grad()
        steps = [module(t[n], t["keys"], key_lengths=given, **more)[0] for n in ("first", "second")]
        (steps[0] * steps[1]).sum().backward()
        results.append([*steps, *(x.grad for x in (*t.values(), *module.parameters()))])
    for step in (0, 1):
        np.testing.assert_array_equal(to_float64(results[0][step]), to_float64(results[1][step]))
    for separate, once in zip(*results, strict=True):
        assert_close_to_reference(
            once, to_float64(separate), dtype=dtype, kind="product", scale=4.0
        )
    with refuses(ValueError, "AdditiveAttention"):
        module(t["first"], t["keys"], projected_keys=sl.ones(2, 5, 4))
    with refuses(ValueError, "AdditiveAttention"):
        module.project_keys(sl.ones(2, 5, 4))


@pytest.mark.parametrize("lengths", [None, (3, 7), (0, 5)], ids=str)
@pytest.mark.parametrize("values", [None, 4])
@pytest.mark.parametrize("general", [False, True])
@pytest.mark.parametrize("return_weights", [False, True])
def test_dot_attention(return_weights, general, values, lengths, dtype, device, rng):
    inputs = draws(rng, query=(2, 3, 6), keys=(2, 7, 5 if general else 6))
    if general:
        inputs["weight"] = rng.standard_normal((6, 5))
    if values is not None:
        inputs["values"] = rng.standard_normal((2, 7, values))
    options = {"return_weights": return_weights}
    if lengths is not None:
        options["key_lengths"] = np.array(lengths)
    check_op(
        sl.ops.dot_attention,
        ref.dot_attention,
        inputs,
        options,
        device=device,
        dtype=dtype,
        kind="product",
    )


# --- mistakes ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "changed"),
    [
        (ValueError, {"key": sl.ones(2, 2, 7, 9)}),
        (ValueError, {"key": sl.ones(2, 2, 6, 8)}),
        (ValueError, {"key": sl.ones(2, 3, 7, 8), "value": sl.ones(2, 3, 7, 8)}),
        (ValueError, {"value": sl.ones(1, 2, 7, 8)}),
        (ValueError, {"query": sl.ones(2, 5, 8)}),
        (ValueError, {"attn_mask": sl.ones(5, 6)}),
        (ValueError, {"key_lengths": np.array([1, 2, 3])}),
        (ValueError, {"key_lengths": np.array([8, 1])}),
        (ValueError, {"key_lengths": np.array([-1, 1])}),
        (ValueError, {"causal_offset": np.array([1, 2, 3]), "is_causal": True}),
        (ValueError, {"window": (1, 2, 3)}),
        (ValueError, {"softcap": 0.0}),
        (ValueError, {"softcap": -1.0}),
        (ValueError, {"alibi_slopes": sl.ones(3)}),
        (TypeError, {"query": sl.ones(2, 2, 5, 8, dtype="float16")}),
        (TypeError, {"query": sl.ones(2, 2, 5, 8).to(dtype="int32")}),
        (TypeError, {"key": "keys"}),
        (TypeError, {"key_lengths": np.array([1.5, 2.0])}),
    ],
    ids=lambda v: v.__name__ if isinstance(v, type) else "-".join(v),
)
def test_mistakes_are_named(error, changed):
    given = {n: sl.ones(*s) for n, s in shapes().items()} | changed
    with refuses(error, "scaled_dot_product_attention"):
        SDPA(**given)
