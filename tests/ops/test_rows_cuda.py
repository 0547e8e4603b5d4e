# SPDX-License-Identifier: Apache-2.0
"""Row kernels on CUDA: lengths around every way to share a row, with and without clusters."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from test_norm import NORMS, inputs_of, scales_of

import reference as ref
import seqloom as sl
from seqloom import _core
from support import check_op, make_tensor

SOFTMAX = ("softmax", "log_softmax")

# In chunks of 16 bytes: parts of a warp, a warp, a block with registers, one with shared memory.
EDGES = (1, 2, 4, 16, 32, 64, 96, 128, 256, 1024)
# In bytes: one block and clusters of 2, 4 and 8 of them; without clusters the longest is too long
# for one block's shared memory.
LONG = (20 << 10, 64 << 10, 128 << 10, 256 << 10)
WIDTH = {"float32": 4, "float16": 8, "bfloat16": 8}


@pytest.fixture(params=[75, 80, 90])
def capability(request, device):
    """The emulator as one device after the other: plain copies, asynchronous ones, clusters."""
    if device == "cpu":
        pytest.skip("about the CUDA kernels")
    if not hasattr(_core, "emulation_configure"):
        if request.param != 90:
            pytest.skip("needs the emulated device")
        yield request.param
        return
    _core.emulation_configure("capability", str(request.param))
    yield request.param
    _core.emulation_configure("capability", "90")


def lengths(dtype, chunks):
    """One column less than whole chunks, whole chunks, one more."""
    return [
        n for c in chunks for n in (c * WIDTH[dtype] - 1, c * WIDTH[dtype], c * WIDTH[dtype] + 1)
    ]


def check_softmax(name, rows, n, dtype, rng, layout="contiguous", kind="formula"):
    inputs = {"x": rng.standard_normal((rows, n)) * 3}
    # The gradient may start from the rounded output: a logarithm's error counts times exp(y) sum g.
    log_p = ref.log_softmax(inputs["x"])
    cancels = float((np.exp(log_p) * -log_p).max()) * n**0.5 if name == "log_softmax" else 1.0
    check_op(
        getattr(sl.ops, name),
        getattr(ref, name),
        inputs,
        device="cuda",
        dtype=dtype,
        layout=layout,
        kind=kind,
        scales={"x": max(1.0, cancels)},
    )


def check_norm(name, rows, n, dtype, rng, layout="contiguous", kind="product"):
    inputs = inputs_of(name, rng, rows, n)
    check_op(
        getattr(sl.ops, name),
        getattr(ref, name),
        inputs,
        device="cuda",
        dtype=dtype,
        layout=layout,
        kind=kind,
        scales=scales_of(inputs),
    )


def check_loss(rows, n, dtype, rng, layout="contiguous", kind="formula", **options):
    check_op(
        sl.ops.cross_entropy,
        ref.cross_entropy,
        {"logits": rng.standard_normal((rows, n)) * 2},
        {"targets": rng.integers(0, n, rows), **options},
        device="cuda",
        dtype=dtype,
        layout=layout,
        kind=kind,
    )


@pytest.mark.parametrize("chunks", EDGES)
def test_lengths_around_whole_chunks(chunks, dtype, capability, rng):
    if capability != 90 and chunks < 1024:
        pytest.skip("the same on every device")
    for n in lengths(dtype, [chunks]):
        for name in SOFTMAX:
            check_softmax(name, 5, n, dtype, rng)
        for name in ("layer_norm", "add_rms_norm"):
            check_norm(name, 5, n, dtype, rng)
        check_loss(5, n, dtype, rng, label_smoothing=0.1)


@pytest.mark.parametrize("size", LONG)
@pytest.mark.parametrize("more", [0, 1])
def test_long_rows(size, more, dtype, capability, rng):
    if capability == 75 and dtype != "float32":
        pytest.skip("as 80 but for the copies")
    n = size * WIDTH[dtype] // 16 + more
    check_softmax("softmax", 3, n, dtype, rng, kind="long")
    check_softmax("log_softmax", 2, n, dtype, rng, kind="long")
    check_norm("layer_norm", 3, n, dtype, rng, kind="long")
    check_norm("add_layer_norm", 2, n, dtype, rng, kind="long")
    check_norm("rms_norm", 2, n, dtype, rng, kind="long")
    check_loss(3, n, dtype, rng, kind="long", label_smoothing=0.1)


@pytest.mark.parametrize("n", [262143, 262144])
def test_rows_of_a_quarter_of_a_million(n, dtype, capability, rng):
    if capability == 75 and dtype != "float32":
        pytest.skip("as 80 but for the copies")
    if capability == 80 and n % 2:
        pytest.skip("one of them does")
    check_softmax("softmax", 1, n, dtype, rng, kind="long")
    check_norm("layer_norm", 1, n, dtype, rng, kind="long")
    check_loss(1, n, dtype, rng, kind="long")


@pytest.mark.parametrize("n", [24, 1000, 5001, 40000])
def test_misaligned_inputs(n, dtype, capability, rng):
    """Inputs one element past an aligned address; outputs are aligned, odd rows are not."""
    if capability == 75 and dtype != "float32":
        pytest.skip("as 80 but for the copies")
    kind = "long" if n > 10000 else "product"
    for name in SOFTMAX:
        check_softmax(name, 2, n, dtype, rng, "misaligned", kind)
    for name in NORMS:
        check_norm(name, 2, n, dtype, rng, "misaligned", kind)
    check_loss(2, n, dtype, rng, "misaligned", kind)


@pytest.mark.parametrize("n", [3, 8, 64, 77, 776, 1001, 4096, 4999, 20000])
@pytest.mark.parametrize("rows", [1, 700])
def test_parameter_gradients_of_many_rows(rows, n, device, capability, rng):
    """More rows than the blocks that stay for them, and less than one team has room for."""
    if rows * n > 600_000:
        rows = 40
    check_norm("layer_norm", rows, n, "float32", rng, kind="long")
    check_norm("rms_norm", rows, n, "bfloat16", rng, kind="long")


# An axis that fits in shared memory on each device, on some, on none; columns that are read in
# chunks of 16 bytes and one by one.
@pytest.mark.parametrize("inner", [40, 43])
@pytest.mark.parametrize("n", [500, 1700, 3700])
@pytest.mark.parametrize("name", SOFTMAX)
def test_columns_that_are_kept_and_read_again(name, n, inner, dtype, capability, rng):
    if capability == 80 or (n == 1700 and capability == 75):
        pytest.skip("the others keep more and less")
    log_p = ref.log_softmax(x := rng.standard_normal((n, inner)) * 3, 0)
    cancels = float((np.exp(log_p) * -log_p).max()) * n**0.5 if name == "log_softmax" else 1.0
    check_op(
        getattr(sl.ops, name),
        getattr(ref, name),
        {"x": x},
        {"axis": 0},
        device="cuda",
        dtype=dtype,
        kind="long",
        scales={"x": max(1.0, cancels)},
    )


def blocks_of(run):
    sl.cuda.synchronize()
    _core.emulation_reset_statistics()
    run()
    sl.cuda.synchronize()
    return _core.emulation_statistics()["blocks"]


@pytest.mark.parametrize(
    ("rows", "n", "with_clusters", "without"),
    [(256, 4, 2, 2), (5, 512, 2, 2), (4, 1024, 4, 4), (40, 16384, 40, 40), (40, 20000, 80, 40),
     (1, 262144, 8, 1)],
)  # fmt: skip
def test_how_many_blocks_share_rows(rows, n, with_clusters, without, capability):
    if not hasattr(_core, "emulation_statistics"):
        pytest.skip("counted by the emulator")
    x = sl.zeros(rows, n, device="cuda")
    want = with_clusters if capability >= 90 else without
    assert blocks_of(lambda: sl.ops.softmax(x)) == want


def test_a_first_launch_with_48_kb_of_shared_memory(device):
    """Beside them the kernel has static shared memory, for which it must opt in all the same."""
    if not hasattr(_core, "emulation_configure"):
        pytest.skip("needs a device of capability 75")
    program = (
        "import seqloom as sl; from seqloom import _core;"
        "_core.emulation_configure('capability', '75');"
        "print(sl.ops.softmax(sl.zeros(1, 100_000, device='cuda')).sum().item() > 0)"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "True", done.stderr


@pytest.mark.parametrize("name", SOFTMAX)
@pytest.mark.parametrize("n", [300, 3000, 100_000])
def test_special_rows(name, n, device, capability, rng):
    """+inf, NaN or nothing but -inf make a row NaN; threads that see nothing but -inf do not."""
    x = rng.standard_normal((5, n)).astype(np.float32)
    x[1, n // 2] = np.inf
    x[2, n // 3] = np.nan
    x[3] = -np.inf
    x[4, 1:] = -np.inf
    y = getattr(sl.ops, name)(make_tensor(x, "float32", "cuda")).cpu().numpy()
    with np.errstate(all="ignore"):
        want = getattr(ref, name)(x.astype(np.float64))
    np.testing.assert_array_equal(np.isnan(y), np.isnan(want))
    np.testing.assert_array_equal(np.isneginf(y), np.isneginf(want))
    np.testing.assert_array_equal(y[4], want[4].astype(np.float32))
