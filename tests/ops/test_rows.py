# SPDX-License-Identifier: Apache-2.0
"""What the row kernels promise besides numbers: bits on any number of threads, and memory."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import seqloom as sl
from seqloom import _core
from seqloom.bench.environment import last_level_cache
from seqloom.bench.memory import peak_of_call
from support import make_tensor

LOSS = {"label_smoothing": 0.1}


def on_threads(run):
    """What run() gives on 1, 2 and 4 threads."""
    before = sl.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 4):
            sl.set_num_threads(threads)
            sl.manual_seed(5)
            results.append(run())
    finally:
        sl.set_num_threads(before)
    return results


# name: (function of x [rows, n] and the arrays beside it, shapes of those for n columns)
OPS = {
    "softmax": (sl.ops.softmax, ()),
    "log_softmax": (sl.ops.log_softmax, ()),
    "softmax over columns": (lambda x: sl.ops.softmax(x, axis=0), ()),
    "layer_norm": (sl.ops.layer_norm, ("n", "n")),
    "rms_norm": (sl.ops.rms_norm, ("n",)),
    "add_layer_norm": (lambda x, *p: sl.ops.add_layer_norm(x, x, *p)[0], ("n", "n")),
    "add_rms_norm": (lambda x, *p: sl.ops.add_rms_norm(x, x, *p)[0], ("n",)),
    "gelu": (lambda x: sl.ops.gelu(x, "tanh"), ()),
    "silu": (sl.ops.silu, ()),
    "swiglu": (lambda x: sl.ops.swiglu(x, x * x), ()),
    "dropout": (lambda x: sl.ops.dropout(x, 0.3), ()),
    "cross_entropy": (
        lambda x: sl.ops.cross_entropy(x, sl.arange(x.shape[0]), reduction="none", **LOSS),
        (),
    ),
    "mean cross_entropy": (lambda x: sl.ops.cross_entropy(x, sl.arange(x.shape[0]), **LOSS), ()),
    "linear_cross_entropy": (
        lambda x, w: sl.ops.linear_cross_entropy(x, w, sl.arange(x.shape[0]) % 50),
        ((50, "n"),),
    ),
}


@pytest.mark.parametrize("shape", [(301, 333), (3, 40009)], ids=str)
@pytest.mark.parametrize("name", OPS)
def test_the_same_bits_on_any_number_of_threads(name, shape, dtype, device, rng):
    """Results and every gradient, of many rows and of few long ones."""
    if device != "cpu":
        pytest.skip("threads are the CPU's")
    function, beside = OPS[name]
    shapes = [shape]
    for s in beside:
        given = s if isinstance(s, tuple) else (s,)
        shapes.append(tuple(shape[1] if e == "n" else e for e in given))
    values = [rng.standard_normal(s) for s in shapes]

    def run():
        tensors = [make_tensor(v, dtype, requires_grad=True) for v in values]
        y = function(*tensors)
        (y * y).sum().backward()
        return [t.numpy().tobytes() for t in (y.detach(), *(t.grad for t in tensors))]

    first, *others = on_threads(run)
    for other in others:
        assert other == first


@pytest.mark.parametrize("log", [False, True])
def test_outputs_that_bypass_the_caches(log, isa, device, rng):
    """Rows of an array too large for the caches have the bits that they have in small ones."""
    if device != "cpu":
        pytest.skip("the CPU's caches")
    columns = 20011  # rows begin at every place in a vector
    rows = min(48 << 20, last_level_cache() // 2) // (4 * columns) + 1
    x, g = (sl.tensor(rng.standard_normal((rows, columns), np.float32)) for _ in range(2))
    w = sl.tensor(rng.standard_normal(columns).astype(np.float32))
    forward = _core.log_softmax_forward if log else _core.softmax_forward
    backward = _core.log_softmax_backward if log else _core.softmax_backward

    def run(part):
        y = forward(x[part], 1)
        pulled = backward(g[part], y, 1)
        if log:
            normed, rstd = _core.rms_norm_forward(x[part], w, 1e-6, True)
            mean = None
        else:
            normed, mean, rstd = _core.layer_norm_forward(x[part], w, w, 1e-5, True)
        of_x = _core.norm_backward(g[part], None, x[part], w, mean, rstd, True, False)[0]
        return [y, pulled, normed, of_x]

    whole = run(slice(0, rows))
    for at in (0, rows // 2, rows - 17):  # more rows than would be divided
        part = slice(at, at + 17)
        for large, small in zip(whole, run(part), strict=True):
            np.testing.assert_array_equal(large[part].numpy(), small.numpy())


def test_dropout_draws_the_same_on_both_devices(dtype, device, rng):
    x = rng.standard_normal(5003) + 3
    mask = [sl.ops.dropout(make_tensor(x, dtype, d), 0.4, seed=9).cpu().numpy() for d in
            ("cpu", device)]  # fmt: skip
    np.testing.assert_array_equal(*mask)


def test_dropout_keeps_no_mask(device):
    """The call adds its result to memory, and backward needs nothing of it."""
    size = 1 << (24 if device == "cpu" else 16)
    x = sl.ones(size, device=device, requires_grad=True)
    if device == "cpu":
        peak = peak_of_call(lambda: sl.ops.dropout(x, 0.5), _core.cpu_empty_cache)
        if peak is None:
            pytest.skip("the system does not reset peaks")
        assert peak < 4 * size * 1.05  # a mask of bytes would add a quarter
    else:
        before = sl.cuda.memory_allocated()
        y = sl.ops.dropout(x, 0.5)
        assert sl.cuda.memory_allocated() - before < 4 * size * 1.05
        del y


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_linear_cross_entropy_never_holds_the_logits(reduction, device, monkeypatch, rng):
    rows, classes, width = (4096, 8192, 16) if device == "cpu" else (256, 1024, 16)
    chunk = 4 * rows * classes // 32
    for name in ("_CHUNK_BYTES", "_CHUNK_BYTES_CUDA"):
        monkeypatch.setattr(sys.modules["seqloom.ops.loss"], name, chunk)
    hidden = make_tensor(rng.standard_normal((rows, width)), "float32", device, requires_grad=True)
    weight = make_tensor(rng.standard_normal((classes, width)), "float32", device)
    weight.requires_grad = True
    targets = sl.tensor(rng.integers(0, classes, rows), device=device)

    def run():
        loss = sl.ops.linear_cross_entropy(hidden, weight, targets, reduction=reduction)
        loss.sum().backward()
        hidden.grad = weight.grad = None

    logits = 4 * rows * classes
    if device == "cpu":
        peak = peak_of_call(run, _core.cpu_empty_cache)
        if peak is None:
            pytest.skip("the system does not reset peaks")
    else:
        run()
        before = sl.cuda.memory_allocated()
        sl.cuda.reset_peak_memory()
        run()
        peak = sl.cuda.max_memory_allocated() - before
    assert chunk / 2 < peak < logits / 4
