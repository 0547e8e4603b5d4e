# SPDX-License-Identifier: Apache-2.0
"""MultiheadAttention under padding masks: what padding holds and costs."""

from __future__ import annotations

import numpy as np
import pytest

import seqloom as sl
from seqloom.nn.attention import visible_lengths

MASKS = {
    "right": np.arange(9) >= np.array([9, 4, 0])[:, None],
    "left": np.arange(9) < np.array([0, 3, 8])[:, None],
    "holes": np.array([[0, 1, 0, 1, 1, 0, 1, 1, 1], [1] * 9, [0] * 9], bool),
}


@pytest.mark.parametrize("numbers", [False, True])
@pytest.mark.parametrize("with_mask", [False, True])
@pytest.mark.parametrize("name", MASKS)
def test_the_fused_way_agrees_with_the_weights(name, with_mask, numbers, device, rng):
    """Without weights the keys behind the last visible one are skipped; nothing else changes."""
    attention = sl.nn.MultiheadAttention(8, 2, batch_first=True, device=device)
    hidden = np.where(MASKS[name], -np.inf, 0).astype(np.float32) if numbers else MASKS[name]
    x = rng.standard_normal((3, 9, 8)).astype(np.float32)
    more = {"attn_mask": sl.tensor(np.triu(np.ones((9, 9), bool), 1), device=device)}
    results = []
    for need_weights in (False, True):
        t = sl.tensor(x, device=device, requires_grad=True)
        y, _ = attention(
            t, t, t, sl.tensor(hidden, device=device), need_weights, **(more if with_mask else {})
        )
        (y * y).sum().backward()
        results.append([y.detach().cpu().numpy(), t.grad.cpu().numpy()])
    for fused, composed in zip(*results, strict=True):
        np.testing.assert_allclose(fused, composed, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "lengths", "enough"),
    [("right", [9, 4, 0], True), ("left", [9, 9, 9], False), ("holes", [6, 0, 9], False)],
)
def test_lengths_of_masks(name, lengths, enough, device):
    got, suffix = visible_lengths(sl.tensor(MASKS[name], device=device))
    assert got.tolist() == lengths
    assert got.device == sl.tensor(0, device=device).device
    assert suffix == (enough and device == "cpu")


def test_padding_is_not_multiplied(device, rng):
    if device == "cpu" or not hasattr(sl._core, "emulation_statistics"):
        pytest.skip("counts in the emulator")
    attention = sl.nn.MultiheadAttention(64, 1, batch_first=True, device=device, dtype="float16")
    x = sl.tensor(rng.standard_normal((2, 256, 64)).astype(np.float16), device=device)
    reads = []
    for length in (256, 64):
        hidden = sl.tensor(np.tile(np.arange(256) >= length, (2, 1)), device=device)
        sl.cuda.synchronize()
        sl._core.emulation_reset_statistics()
        attention(x, x, x, hidden, need_weights=False)[0].cpu()
        reads.append(sl._core.emulation_statistics()["ldmatrix"])
    assert reads[1] < reads[0]
