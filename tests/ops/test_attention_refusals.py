# SPDX-License-Identifier: Apache-2.0
"""Attention with the weights asked for takes and refuses what it takes and refuses without."""

from __future__ import annotations

import numpy as np
import pytest

import seqloom as sl
from support import make_tensor, refuses, to_float64

SDPA = sl.ops.scaled_dot_product_attention
SHAPES = {"query": (2, 4, 5, 8), "key": (2, 2, 7, 8), "value": (2, 2, 7, 6)}


def ones(device="cpu", dtype="float32"):
    return {n: sl.ones(*s, device=device).to(dtype=dtype) for n, s in SHAPES.items()}


@pytest.mark.parametrize("return_weights", [False, True])
@pytest.mark.parametrize("kind", ["float32", "bool"])
@pytest.mark.parametrize(
    "shape",
    [(6, 7), (2, 4, 5, 8), (2, 2, 5, 7), (3, 1, 5, 7), (0,), (5, 0), (1, 2, 4, 5, 7), (1,) * 5],
    ids=str,
)
def test_masks_that_do_not_broadcast(shape, kind, return_weights, device):
    mask = sl.ones(*shape, device=device).to(dtype=kind)
    with refuses(ValueError, "scaled_dot_product_attention"):
        SDPA(**ones(device), attn_mask=mask, return_weights=return_weights)


@pytest.mark.parametrize("return_weights", [False, True])
@pytest.mark.parametrize("kind", ["int64", "int32", "int8", "uint8", "bool"])
def test_arrays_of_no_floating_dtype(kind, return_weights, device):
    with refuses(TypeError, "scaled_dot_product_attention"):
        SDPA(**ones(device, kind), return_weights=return_weights)


@pytest.mark.parametrize("kind", ["int64", "uint8", "bool"])
def test_decoder_attention_of_no_floating_dtype(kind):
    def some(*shape):
        return sl.ones(*shape).to(dtype=kind)

    weights = some(5, 3), some(5, 3), some(5)
    with refuses(TypeError, "additive_attention"):
        sl.ops.additive_attention(some(1, 2, 3), some(1, 4, 3), *weights)
    for return_weights in (False, True):
        with refuses(TypeError, "dot_attention"):
            sl.ops.dot_attention(some(1, 2, 3), some(1, 4, 3), return_weights=return_weights)


@pytest.mark.parametrize("far", [2**62, -(2**62), 2**63 - 1, -(2**63)])
@pytest.mark.parametrize("return_weights", [False, True])
def test_offsets_that_would_overflow(return_weights, far):
    with refuses(ValueError, "scaled_dot_product_attention"):
        SDPA(
            **ones(), is_causal=True, causal_offset=np.array([0, far]),
            return_weights=return_weights,
        )  # fmt: skip


@pytest.mark.parametrize("return_weights", [False, True])
@pytest.mark.parametrize("name", ["key", "value", "attn_mask", "alibi_slopes"])
def test_arrays_of_another_device(name, return_weights, device):
    if device == "cpu":
        pytest.skip("needs two devices")
    more = {"attn_mask": sl.ones(5, 7, device=device), "alibi_slopes": sl.ones(4, device=device)}
    given = ones(device) | more
    given[name] = given[name].cpu()
    with pytest.raises(ValueError, match=f"scaled_dot_product_attention: {name} must be on the"):
        SDPA(**given, return_weights=return_weights)


@pytest.mark.parametrize("softcap", [1e-300, 1e-45, 1e39, 1e300, float("inf"), 10**400])
def test_softcaps_that_float32_cannot_hold(softcap):
    """Rounded to zero such a cap would be none at all, rounded to infinity it would give NaN."""
    with refuses(ValueError, "scaled_dot_product_attention"):
        SDPA(**ones(), softcap=softcap)


def test_windows_of_numpy_integers(rng):
    given = {n: make_tensor(rng.standard_normal(s), "float32") for n, s in SHAPES.items()}
    wanted = SDPA(**given, window=(2, 1)).numpy()
    numbers = (np.int64(2), np.int32(1))
    for window in (numbers, list(numbers)):
        np.testing.assert_array_equal(SDPA(**given, window=window).numpy(), wanted)
    with refuses(TypeError, "scaled_dot_product_attention"):
        SDPA(**given, window=(1.0, 2))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("return_weights", [False, True])
def test_padding_may_hold_anything(return_weights, bad, dtype, device, rng):
    """The rows of a cache that nothing has written yet, as `empty` left them."""
    lengths = np.array([4, 7])
    results = []
    for fill in (0.0, bad):
        arrays = {n: np.random.default_rng(3).standard_normal(s) for n, s in SHAPES.items()}
        arrays["key"][0, :, 4:] = arrays["value"][0, :, 4:] = fill
        t = {n: make_tensor(a, dtype, device, requires_grad=True) for n, a in arrays.items()}
        y = SDPA(**t, key_lengths=lengths, return_weights=return_weights)
        y = y[0] if return_weights else y
        y.sum().backward()
        results.append([to_float64(x) for x in (y, *(x.grad for x in t.values()))])
    for clean, dirty in zip(*results, strict=True):
        np.testing.assert_array_equal(dirty, clean)


def test_padding_masks_of_modules_are_tensors():
    module, x = sl.nn.MultiheadAttention(8, 2), sl.ones(3, 8)
    with refuses(TypeError, "MultiheadAttention"):
        module(x, x, x, key_padding_mask=np.zeros(3, bool))


MODULES = {
    "AdditiveAttention": lambda: sl.nn.AdditiveAttention(4, 4),
    "dot": lambda: sl.nn.DotAttention(),
    "general": lambda: sl.nn.DotAttention("general", 4, 4),
    "concat": lambda: sl.nn.DotAttention("concat", 4, 4),
}


@pytest.mark.parametrize(
    "bad", [np.ones((2, 5, 4), np.float32), [1.0], None], ids=["array", "list", "none"]
)
@pytest.mark.parametrize("name", MODULES)
def test_decoder_modules_take_tensors(name, bad):
    module = MODULES[name]()
    owner = type(module).__name__
    with refuses(TypeError, owner):
        module(bad, sl.ones(2, 5, 4))
    with refuses(TypeError, owner):
        module(sl.ones(2, 4), bad)
    with refuses(ValueError, owner):
        module(sl.ones(2, 4), sl.tensor(1.0))
    if name == "AdditiveAttention" and bad is not None:
        with refuses(TypeError, owner):
            module(sl.ones(2, 4), sl.ones(2, 5, 4), projected_keys=bad)
        with refuses(TypeError, owner):
            module.project_keys(bad)


def test_values_of_additive_attention_keep_their_dtype(rng):
    arrays = [rng.standard_normal(s) for s in ((1, 2, 3), (1, 4, 3), (5, 3), (5, 3), (5,))]
    values = rng.standard_normal((1, 4, 2))
    given = [a.astype(np.float32) for a in arrays]
    narrow = sl.ops.additive_attention(*given, values=values.astype(np.float32))
    wide = sl.ops.additive_attention(*given, values=values)
    assert wide.dtype == np.float64
    np.testing.assert_array_equal(wide.astype(np.float32), narrow)
