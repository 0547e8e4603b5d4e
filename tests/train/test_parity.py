# SPDX-License-Identifier: Apache-2.0
"""Loss curves equal torch's on the same data, seed weights and schedule."""

from __future__ import annotations

import numpy as np
import pytest
from parity import SMALL, ours, theirs


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
