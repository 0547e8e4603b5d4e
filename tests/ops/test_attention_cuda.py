# SPDX-License-Identifier: Apache-2.0
"""Attention's CUDA kernels: edges of their tiles, older devices, splits, memory, bank conflicts."""

from __future__ import annotations

import os

import numpy as np
import pytest
from test_attention import SDPA, check_sdpa, random_configuration, shapes

import seqloom as sl
from seqloom import _core
from support import assert_close_to_reference, draws, make_tensor, to_float64

EDGES = (1, 15, 16, 17, 31, 33, 63, 64, 65, 80, 129)
WIDTHS = (8, 16, 31, 33, 64, 72, 128, 130, 256)


@pytest.fixture
def emulated(device):
    """Only where the emulator stands for the device: what it counts and what it can pretend."""
    if device == "cpu" or not hasattr(_core, "emulation_configure"):
        pytest.skip("needs the emulated device")
    yield
    _core.emulation_configure("capability", os.environ.get("SEQLOOM_EMULATION_CAPABILITY", "90"))


@pytest.fixture
def on_cuda(device):
    if device == "cpu":
        pytest.skip("about the CUDA kernels")


@pytest.mark.parametrize("seed", range(40))
def test_edges_of_tiles(seed, dtype, device):
    rng = np.random.default_rng(1000 + seed)
    inputs, options = random_configuration(rng, EDGES, (*EDGES, 200), WIDTHS, most=1)
    options["return_weights"] = False
    check_sdpa(inputs, options, device, dtype)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("capability", [75, 80])
def test_older_devices(capability, seed, dtype, device, emulated):
    _core.emulation_configure("capability", str(capability))
    rng = np.random.default_rng(2000 + seed)
    inputs, options = random_configuration(rng, (1, 17, 65), (16, 35, 97), WIDTHS, most=1)
    options["return_weights"] = False
    check_sdpa(inputs, options, device, dtype)


def statistics(run):
    """What the emulator counted while run() made an array."""
    sl.cuda.synchronize()
    _core.emulation_reset_statistics()
    run().cpu()
    sl.cuda.synchronize()
    return _core.emulation_statistics()


@pytest.mark.parametrize("capability", [75, 90])
@pytest.mark.parametrize("width", [32, 64, 128, 256])
def test_no_bank_conflicts(width, capability, device, emulated, rng):
    """No two rows that one ldmatrix reads lie in the same banks: forward and backward."""
    _core.emulation_configure("capability", str(capability))
    arrays = draws(rng, **shapes(1, 2, 1, queries=70, keys=130, width=width), attn_mask=(70, 130))
    t = {n: make_tensor(a, "float16", device, requires_grad=True) for n, a in arrays.items()}
    gradient = sl.ones(1, 2, 70, width, device=device, dtype="float16")

    def run():
        SDPA(**t, is_causal=True, causal_offset=60).backward(gradient)
        return t["query"].grad

    counted = statistics(run)
    assert counted["ldmatrix"] > 1000
    assert counted["ldmatrix_conflicts"] == 0


@pytest.mark.parametrize(("keys", "launches"), [(64, 1), (900, 2)])
def test_few_rows_and_many_keys_are_split(keys, launches, device, emulated, rng):
    arrays = draws(rng, **shapes(1, 4, 1, queries=1, keys=keys, width=64))
    t = {n: make_tensor(a, "bfloat16", device) for n, a in arrays.items()}
    assert statistics(lambda: SDPA(**t))["launches"] == launches


SEEN = {
    "all": {},
    "window": {"window": (64, 0), "is_causal": True},
    "causal": {"is_causal": True},
    "half": {"key_lengths": np.array([256])},
    "quarter": {"key_lengths": np.array([128])},
}


def test_only_what_is_seen_costs(device, emulated, rng):
    """Tiles outside the window, past the diagonal and past the length are not multiplied."""
    arrays = draws(rng, **shapes(1, 1, 1, queries=512, keys=512, width=64))
    reads = {}
    for name, options in SEEN.items():
        t = {n: make_tensor(a, "float16", device, requires_grad=True) for n, a in arrays.items()}

        def run(t=t, options=options):
            SDPA(**t, **options).sum().backward()
            return t["query"].grad

        reads[name] = statistics(run)["ldmatrix"]
    # By tiles of 64: 8 x 8 of them, the diagonal and the one before it, the lower triangle.
    tiles = {"all": 64, "window": 15, "causal": 36, "half": 32, "quarter": 16}
    for name, count in tiles.items():
        assert reads[name] / reads["all"] < (count + 2) / 64, name


def test_dropout_is_that_of_the_cpu(dtype, device, on_cuda, rng):
    arrays = draws(rng, **shapes(2, 2, 1, queries=40, keys=70, width=24))
    outputs = {}
    for where in ("cpu", device):
        sl.manual_seed(11)
        t = {n: make_tensor(a, dtype, where, requires_grad=True) for n, a in arrays.items()}
        y = SDPA(**t, dropout_p=0.3, is_causal=True, causal_offset=20)
        y.sum().backward()
        outputs[where] = [y, *(x.grad for x in t.values())]
    for got, want in zip(outputs[device], outputs["cpu"], strict=True):
        assert_close_to_reference(
            got,
            to_float64(want),
            dtype=dtype,
            kind="product",
            scale=8 * np.abs(to_float64(want)).max(),
        )


def test_lengths_on_the_device_are_clamped(device, on_cuda, rng):
    """Looking at them would wait for the device."""
    t = {n: make_tensor(a, "float32", device) for n, a in draws(rng, **shapes()).items()}
    given = sl.tensor(np.array([-4, 100]), device=device)
    inside = sl.tensor(np.array([0, 7]))
    np.testing.assert_array_equal(
        to_float64(SDPA(**t, key_lengths=given)), to_float64(SDPA(**t, key_lengths=inside))
    )


def test_device_memory_grows_linearly(device, on_cuda, rng):
    length, width = 640, 16
    arrays = draws(rng, **shapes(1, 1, 1, length, length, width))
    t = {n: make_tensor(a, "float32", device, requires_grad=True) for n, a in arrays.items()}
    gradient = sl.ones(1, 1, length, width, device=device)
    sl.cuda.synchronize()
    sl.cuda.reset_peak_memory()
    before = sl.cuda.memory_allocated()
    SDPA(**t, is_causal=True).backward(gradient)
    sl.cuda.synchronize()
    used = sl.cuda.max_memory_allocated() - before
    assert used < 10 * length * width * 4 < length * length * 4


def test_heads_wider_than_the_kernels(device, on_cuda, rng):
    inputs = draws(rng, **shapes(1, 1, 1, queries=3, keys=5, width=264, value_width=8))
    check_sdpa(inputs, {"is_causal": True, "causal_offset": 2}, device)
