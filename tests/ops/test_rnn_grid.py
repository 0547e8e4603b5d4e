# SPDX-License-Identifier: Apache-2.0
"""The recurrences in one CUDA launch: on any grid, against the reference and step by step."""

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


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("hidden", [1, 3, 17, 65])
@pytest.mark.parametrize("name", GATES)
def test_odd_sizes_with_lengths(name, hidden, reverse, grid, dtype, device, rng):
    grid(3)
    options = {"lengths": np.array([4, 1, 5]), "reverse": reverse}
    scales = {"w_hh": 1.0} if hidden == 1 else None
    check(name, inputs_of(name, rng, hidden=hidden), options, device, dtype, scales=scales)


@pytest.mark.parametrize(("steps", "batch"), [(0, 3), (4, 0)])
@pytest.mark.parametrize("name", GATES)
def test_nothing_to_do(name, steps, batch, grid, device, rng):
    grid(2)
    check(name, inputs_of(name, rng, steps, batch), {}, device)


def final_gradients(name, inputs):
    """The first output, and the gradient of h0: what came through all steps."""
    given = {n: make_tensor(a, "bfloat16", "cuda", requires_grad=True) for n, a in inputs.items()}
    y = getattr(sl.ops, name)(**given)[0]
    (y * y).sum().backward()
    return to_float64(y), to_float64(given["h0"].grad)


@pytest.mark.parametrize("name", GATES)
def test_it_is_this_kernel_that_runs(name, grid, rng):
    """Tensor cores multiply a rounded state and the steps do not: the bits tell them apart."""
    inputs = inputs_of(name, rng, steps=6, batch=16, hidden=24)
    grid(STEP_BY_STEP)
    apart = final_gradients(name, inputs)
    grid(2)
    together = final_gradients(name, inputs)
    for one, other, what in zip(together, apart, ("output", "gradient of h0"), strict=True):
        assert (one != other).any(), what
        assert_close_to_reference(one, other, other, dtype="bfloat16", kind="recurrence", what=what)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_132_blocks_at_once(dtype, grid, multiprocessors, device, rng):
    multiprocessors(132)
    grid(132)
    inputs = inputs_of("lstm", rng, steps=2, batch=2, width=3, hidden=528)
    check("lstm", inputs, {}, device, dtype)
    if dtype == "bfloat16":
        together = final_gradients("lstm", inputs)
        grid(STEP_BY_STEP)
        for one, other in zip(together, final_gradients("lstm", inputs), strict=True):
            assert (one != other).any()
