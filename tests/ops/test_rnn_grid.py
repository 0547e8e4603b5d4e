# SPDX-License-Identifier: Apache-2.0
"""The persistent CUDA recurrence: on grids of any size, against the reference and step by step."""

from __future__ import annotations

import numpy as np
import pytest
from test_rnn import GATES, check, inputs_of

import seqloom as sl
from support import assert_close_to_reference, make_tensor, to_float64

STEP_BY_STEP = -1


@pytest.fixture
def grid(device):
    """Sets the most blocks of the kernel; the device's own choice again afterwards."""
    if device != "cuda":
        pytest.skip("a CUDA kernel")
    yield sl._core.rnn_set_grid
    sl._core.rnn_set_grid(0)


@pytest.fixture
def multiprocessors(device):
    """Sets how many blocks of a cooperative launch the emulated device holds."""
    if device != "cuda" or not hasattr(sl._core, "emulation_configure"):
        pytest.skip("an emulated device")
    yield lambda n: sl._core.emulation_configure("sms", str(n))
    sl._core.emulation_configure("sms", "8")


def run(name, inputs, dtype, **options):
    given = {n: make_tensor(a, dtype, "cuda") for n, a in inputs.items()}
    return [to_float64(t) for t in getattr(sl.ops, name)(**given, **options)]


@pytest.mark.parametrize("blocks", [1, 2, 3, 8])
@pytest.mark.parametrize("name", GATES)
def test_blocks_share_the_units(name, blocks, grid, dtype, device, rng):
    grid(blocks)
    inputs = inputs_of(name, rng, steps=6, batch=5, hidden=30)
    check(name, inputs, {"lengths": np.array([6, 2, 0, 5, 6])}, device, dtype)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("batch", [1, 16, 37])
def test_batches_and_directions(batch, reverse, grid, dtype, device, rng):
    grid(3)
    inputs = inputs_of("lstm", rng, steps=4, batch=batch, hidden=18)
    check("lstm", inputs, {"reverse": reverse}, device, dtype)


@pytest.mark.parametrize("name", GATES)
def test_it_is_this_kernel_that_runs(name, grid, rng):
    """Tensor cores multiply a rounded state and the steps do not: the bits tell them apart."""
    inputs = inputs_of(name, rng, steps=4, hidden=24)
    grid(STEP_BY_STEP)
    apart = run(name, inputs, "bfloat16")[0]
    grid(2)
    together = run(name, inputs, "bfloat16")[0]
    assert (apart != together).any()
    assert_close_to_reference(
        together, apart, apart, dtype="bfloat16", kind="recurrence", what="in one launch"
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_132_blocks_at_once(dtype, grid, multiprocessors, device, rng):
    multiprocessors(132)
    grid(132)
    inputs = inputs_of("lstm", rng, steps=3, batch=2, width=3, hidden=528)
    check("lstm", inputs, {}, device, dtype, gradients=False)
    if dtype == "bfloat16":
        together = run("lstm", inputs, dtype)[0]
        grid(STEP_BY_STEP)
        assert (run("lstm", inputs, dtype)[0] != together).any()
