# SPDX-License-Identifier: Apache-2.0
"""Loss curves equal torch's on the same data, seed weights and schedule."""

from __future__ import annotations

import json

import numpy as np
import pytest
from parity import BATCH, NANO, SMALL, STEPS, TRACKED, apart, fingerprint, ours, theirs


@pytest.fixture(scope="module")
def expected():
    pytest.importorskip("torch")
    return np.array(theirs(SMALL, 8, 60, 6))


def test_the_loss_curve_is_torchs(expected):
    found = np.array(ours(SMALL, 8, 60, 6))
    assert expected[-1] < 0.75 * expected[0]
    np.testing.assert_allclose(found, expected, rtol=0.002)


def test_the_loss_curve_in_mixed_precision(expected):
    found = np.array(ours(SMALL, 8, 60, 6, precision="bfloat16"))
    np.testing.assert_allclose(found, expected, rtol=0.02)


@pytest.fixture(scope="module")
def tracked():
    held = json.loads(TRACKED.read_text())
    assert len(held["torch"]) == STEPS
    return held


def test_the_tracked_curves_are_torchs(tracked):
    """Of nanoGPT's character configuration, 200 steps; what made them is still the same."""
    assert fingerprint(NANO, BATCH) == pytest.approx(tracked["fingerprint"], rel=1e-6), (
        "the text, the batches or the seed weights have changed: run parity.py on both sides"
    )
    assert tracked["torch"][-1] < 0.6 * tracked["torch"][0]
    for precision in ("float32", "bfloat16"):
        assert apart(tracked[precision], tracked["torch"])[0] < 0.01


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_hundred_steps_of_nanogpt(tracked, request):
    """The same curve within 1 %, trained now: minutes, so only when it is asked for."""
    if "slow" not in request.config.getoption("markexpr"):
        pytest.skip("takes minutes: pytest -m slow")
    losses = ours(NANO, BATCH, STEPS, STEPS // 10)
    most, step = apart(losses, tracked["torch"])
    assert most < 0.01, f"{most:.2%} at step {step}"
