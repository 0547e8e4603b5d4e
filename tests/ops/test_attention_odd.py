# SPDX-License-Identifier: Apache-2.0
"""Attention's odd ends together: widths of 1, 3 and 257, nothing to see, every option at once."""

from __future__ import annotations

import numpy as np
import pytest
from test_attention import SDPA, cancelling, shapes

import reference as ref
import seqloom as sl
from support import check_op, draws, make_tensor, refuses, to_float64

WIDTHS = [(1, 3), (3, 1), (16, 257), (257, 16), (64, 40)]
LENGTHS = [(1, 0), (3, 0), (1, 1), (1, 130), (2, 70), (9, 40)]
DROPOUT = 0.25


def everything(rng, batch, heads, queries, keys):
    """Options that meet: padding of whole rows, a window off the diagonal, a cap, slopes."""
    return {
        "key_lengths": np.array([keys, 0, keys // 2])[:batch],
        "window": (keys // 2, 3),
        "causal_offset": np.array([keys - queries, 2, keys // 3])[:batch],
        "softcap": 3.0,
    }


@pytest.mark.parametrize("batch", [0, 3])
@pytest.mark.parametrize(("queries", "keys"), LENGTHS)
@pytest.mark.parametrize(("width", "value_width"), WIDTHS)
def test_everything_at_once(width, value_width, queries, keys, batch, dtype, device, rng):
    inputs = draws(rng, **shapes(batch, 4, 2, queries, keys, width, value_width))
    inputs["attn_mask"] = rng.standard_normal((1, 4, 1, keys))
    inputs["alibi_slopes"] = rng.random(4) / 8
    options = everything(rng, batch, 4, queries, keys)

    def seeded(return_weights=False, **given):
        sl.manual_seed(8)
        return SDPA(**given, dropout_p=DROPOUT, return_weights=return_weights)

    on_device = {n: sl.tensor(o, device=device) if isinstance(o, np.ndarray) else o
                 for n, o in options.items()}  # fmt: skip
    tensors = {n: make_tensor(a, dtype, device) for n, a in inputs.items()}
    keep = to_float64(seeded(True, **tensors, **on_device)[1]) != 0
    check_op(
        seeded,
        ref.scaled_dot_product_attention,
        inputs,
        options,
        reference_options=options | {"dropout_p": DROPOUT, "keep": keep},
        device=device,
        dtype=dtype,
        kind="product",
        scales={n: 2 * size for n, size in cancelling(inputs, options).items()},
    )


def test_more_rows_than_a_grid_has_blocks(device):
    """Refused before anything is allocated or launched."""
    if device == "cpu":
        pytest.skip("about the CUDA kernels")
    one = sl.zeros(1, 1, 1, 1, device=device)
    many, few = one.expand(4, 1, 1 << 29, 1), one.expand(4, 1, 2, 1)
    for query, key in ((many, few), (few, many)):
        with refuses(ValueError, "scaled_dot_product_attention"):
            SDPA(query, key, key)
