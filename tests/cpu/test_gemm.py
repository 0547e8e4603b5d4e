# SPDX-License-Identifier: Apache-2.0
"""The matrix product against float64: random shapes around every block boundary, on every level.

Operands end (or begin) at a page that may not be touched. Each product runs with one and with more
threads and must give the same bits.
"""

from __future__ import annotations

import ctypes
import math
import mmap

import gemm_harness as h
import numpy as np
import pytest

PAGE = mmap.PAGESIZE
SIZES_M = (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 16, 17, 31, 32, 33, 50, 65, 100)
SIZES_N = (1, 2, 3, 4, 7, 8, 15, 16, 17, 33, 47, 48, 49, 63, 64, 95, 96, 97, 130, 200, 400)
SIZES_K = (0, 1, 2, 3, 5, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 383, 385, 777, 1600)


@pytest.fixture(scope="module")
def lib():
    library = h.load_library()
    if library is None:
        pytest.skip("needs the source tree and a C++ compiler")
    yield library
    library.gemm_test_set_threads(1)


@pytest.fixture(params=h.LEVELS)
def level(request, lib):
    if lib.gemm_test_set_isa(request.param.encode()) != 0:
        pytest.skip(f"no {request.param} in this build or CPU")
    return request.param


def fenced(values: np.ndarray, at_end: bool) -> np.ndarray:
    """A copy whose last (or first) byte borders on a page without access."""
    size = max(values.nbytes, 1)
    pages = -(-size // PAGE)
    area = mmap.mmap(-1, (pages + 2) * PAGE)
    base = ctypes.addressof(ctypes.c_char.from_buffer(area))
    libc = ctypes.CDLL(None, use_errno=True)
    for fence in (base, base + (pages + 1) * PAGE):
        assert libc.mprotect(ctypes.c_void_p(fence), PAGE, 0) == 0
    start = (pages + 1) * PAGE - size if at_end else PAGE
    start -= start % values.itemsize
    out = np.frombuffer(area, values.dtype, values.size, start).reshape(values.shape)
    out[...] = values
    return out


def activate(kind: int, x: np.ndarray) -> np.ndarray:
    if kind == h.RELU:
        return np.where(x < 0, 0.0, x)
    if kind == h.SILU:
        return x / (1 + np.exp(-x))
    if kind == h.GELU:
        return 0.5 * x * (1 + np.vectorize(math.erf, otypes=[float])(x / math.sqrt(2)))
    if kind == h.GELU_TANH:
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return x


def run_twice(lib, args: h.GemmArgs, c: np.ndarray) -> None:
    """One thread and three, same bits; c holds the result."""
    before = c.copy()
    results = []
    for threads in (1, 2, 3):
        c[...] = before
        lib.gemm_test_set_threads(threads)
        lib.gemm_test_run(ctypes.byref(args))
        results.append(c.tobytes())
    assert results[0] == results[1] == results[2]


def check(got: np.ndarray, expected: np.ndarray, size: np.ndarray, k: int, c_type: int) -> None:
    """`size` is the product of absolute values: float32 sums lose about sqrt(k) roundings of it."""
    unit = {h.F32: 2.0**-24, h.F16: 2.0**-11, h.BF16: 2.0**-8}[c_type]
    bound = 4 * math.sqrt(k + 8) * 2.0**-24 * size + 6 * unit * np.abs(expected) + 2e-7
    if c_type == h.F16:
        bound = bound + 2.0**-24
    error = np.abs(got - expected)
    assert (error <= bound).all(), f"worst {np.max(error / bound):.3g} of the bound"


@pytest.mark.parametrize("seed", range(6))
def test_random_products(lib, level, seed: int) -> None:
    r = np.random.default_rng([seed, 17])
    for _ in range(25):
        m, n, k = (int(r.choice(s)) for s in (SIZES_M, SIZES_N, SIZES_K))
        types = [int(t) for t in r.integers(0, 3, 3)]
        if r.random() < 0.5:
            types[0] = types[1] = int(r.choice([h.F32, h.BF16]))
        a_type, b_type, c_type = types
        trans_a, trans_b, shared_b = r.random() < 0.4, r.random() < 0.5, r.random() < 0.3
        pad, batch, end = int(r.integers(0, 3)), int(r.choice([1, 1, 3])), bool(r.integers(2))
        a = h.encode(
            r.standard_normal((batch, k, m + pad) if trans_a else (batch, m, k + pad)), a_type
        )
        b = h.encode(
            r.standard_normal((batch, n, k + pad) if trans_b else (batch, k, n + pad)), b_type
        )
        if shared_b:
            b[:] = b[:1]
        shape = (batch, m, n + pad)
        a, b = fenced(a, end), fenced(b, end)
        c = fenced(h.encode(r.standard_normal(shape), c_type), end)
        before = c.copy()
        alpha, beta = float(r.choice([1, 1, 2.5])), float(r.choice([0, 0, 1, 0.5]))
        args = h.GemmArgs(m=m, n=n, k=k, a_type=a_type, b_type=b_type, c_type=c_type)
        args.a, args.lda, args.trans_a, args.a_batch = a.ctypes.data, a.shape[2], trans_a, a[0].size
        args.b, args.ldb, args.trans_b, args.b_batch = b.ctypes.data, b.shape[2], trans_b, b[0].size
        args.c, args.ldc, args.c_batch, args.batch = c.ctypes.data, n + pad, m * (n + pad), batch
        args.alpha, args.beta = alpha, beta
        if shared_b:
            args.b_batch = 0
        x = h.decode(a)[:, :, :m].swapaxes(1, 2) if trans_a else h.decode(a)[:, :, :k]
        y = h.decode(b)[:, :, :k].swapaxes(1, 2) if trans_b else h.decode(b)[:, :, :n]
        old = h.decode(before)[:, :, :n]
        expected = alpha * (x @ y) + beta * old
        size = abs(alpha) * (np.abs(x) @ np.abs(y)) + abs(beta) * np.abs(old)
        if r.random() < 0.4:
            kind, per_row = int(r.integers(0, 3)), bool(r.random() < 0.4)
            bias = fenced(h.encode(r.standard_normal(m if per_row else n), kind), end)
            args.bias, args.bias_type, args.bias_per_row = bias.ctypes.data, kind, per_row
            term = h.decode(bias)
            expected = expected + (term[:, None] if per_row else term)
            size = size + np.max(np.abs(term))
        preact = None
        if r.random() < 0.3:
            preact = fenced(np.zeros_like(before), end)
            args.preact, args.ld_preact = preact.ctypes.data, n + pad
            args.preact_batch = m * (n + pad)
        linear = expected
        args.activation = int(r.choice([0, 0, h.RELU, h.GELU, h.GELU_TANH, h.SILU]))
        expected = activate(args.activation, expected)
        if r.random() < 0.3:
            residual = fenced(h.encode(r.standard_normal(shape), c_type), end)
            args.residual, args.ld_residual = residual.ctypes.data, n + pad
            args.residual_batch = m * (n + pad)
            expected = expected + h.decode(residual)[:, :, :n]
            size = size + np.abs(h.decode(residual)[:, :, :n])
        if r.random() < 0.4 and (shared_b or batch == 1):
            forms = [h.PACK_F32]
            forms += {h.BF16: [h.PACK_BF16], h.F16: [h.PACK_F16]}.get(b_type, [])
            packed = (
                h.pack(lib, b[0], b_type, trans_b, int(r.choice(forms)), 0) if pad == 0 else None
            )
            if packed is not None:
                args.packed_b, args.b = ctypes.addressof(packed), None
        run_twice(lib, args, c)
        assert (c[:, :, n:] == before[:, :, n:]).all(), "wrote between the rows of C"
        check(h.decode(c)[:, :, :n], expected, size, k, c_type)
        if preact is not None:
            check(h.decode(preact)[:, :, :n], linear, size, k, c_type)


@pytest.mark.parametrize("form", [h.PACK_INT8, h.PACK_INT4])
@pytest.mark.parametrize("quantize_a", [False, True])
def test_quantized_weights_that_are_exact(lib, level, form: int, quantize_a: bool) -> None:
    """Operands that 8 (4) bits hold exactly: only the sums' float32 rounding is left."""
    r = np.random.default_rng(5)
    for _ in range(25):
        m, n = int(r.choice([1, 2, 3, 4, 5, 9, 17, 65])), int(r.choice([1, 5, 16, 17, 49, 130]))
        k, group = int(r.choice([1, 3, 8, 33, 64, 100, 385, 1600])), int(r.choice([32, 64, 128]))
        trans_b = bool(r.integers(2))
        if form == h.PACK_INT8:
            w = r.integers(-127, 128, (k, n)).astype(np.float32)
            w[0] = 127
            w *= 2.0 ** r.integers(-3, 3, n)
        else:
            w = r.integers(0, 16, (k, n)).astype(np.float32)
            for g in range(0, k, group):
                w[g], w[min(g + 1, k - 1)] = 15, 0
            w = w * 0.5 - 3
        a = r.integers(-127, 128, (m, k)).astype(np.float32)
        a[:, 0] = 127
        a *= 0.25
        b = np.ascontiguousarray(w.T) if trans_b else np.ascontiguousarray(w, np.float32)
        packed = h.pack(lib, b.astype(np.float32), h.F32, trans_b, form, group)
        bias = r.standard_normal(n).astype(np.float32)
        c = fenced(np.zeros((m, n), np.float32), True)
        args = h.GemmArgs(m=m, n=n, k=k, a=a.ctypes.data, lda=k, c=c.ctypes.data, ldc=n, alpha=1)
        args.packed_b, args.quantize_a, args.batch = ctypes.addressof(packed), quantize_a, 1
        args.bias = bias.ctypes.data
        run_twice(lib, args, c)
        size = np.abs(a).astype(np.float64) @ np.abs(w) + np.abs(bias)
        check(c.astype(np.float64), a.astype(np.float64) @ w + bias, size, k, h.F32)


@pytest.mark.parametrize(("form", "loss"), [(h.PACK_INT8, 0.012), (h.PACK_INT4, 0.12)])
@pytest.mark.parametrize("quantize_a", [False, True])
def test_quantized_weights_lose_little(
    lib, level, form: int, loss: float, quantize_a: bool
) -> None:
    r = np.random.default_rng(6)
    m, n, k = 5, 70, 512
    a, w = (r.standard_normal(s).astype(np.float32) for s in ((m, k), (n, k)))
    packed = h.pack(lib, w, h.F32, True, form, 32)
    c = np.zeros((m, n), np.float32)
    args = h.GemmArgs(
        m=m, n=n, k=k, a=a.ctypes.data, lda=k, c=c.ctypes.data, ldc=n, alpha=1, batch=1
    )
    args.packed_b, args.quantize_a = ctypes.addressof(packed), quantize_a
    run_twice(lib, args, c)
    exact = a.astype(np.float64) @ w.T.astype(np.float64)
    relative = np.linalg.norm(c - exact) / np.linalg.norm(exact)
    assert 1e-4 < relative < loss


@pytest.mark.parametrize("dtype", [h.F64, h.I64, h.I32])
def test_plain_types(lib, level, dtype: int) -> None:
    r = np.random.default_rng(7)
    for m, n, k in ((1, 1, 1), (5, 7, 3), (33, 65, 64), (40, 130, 150), (3, 4, 0)):
        for trans_a, trans_b in ((False, False), (True, False), (False, True), (True, True)):
            draw = r.standard_normal if dtype == h.F64 else lambda s: r.integers(-9, 9, s)
            a = fenced(h.encode(draw((2, k, m) if trans_a else (2, m, k)), dtype), True)
            b = fenced(h.encode(draw((2, n, k) if trans_b else (2, k, n)), dtype), True)
            c = fenced(h.encode(draw((2, m, n)), dtype), True)
            x = a.swapaxes(1, 2) if trans_a else a
            y = b.swapaxes(1, 2) if trans_b else b
            expected = 2 * (x @ y) + 3 * c
            args = h.GemmArgs(m=m, n=n, k=k, a=a.ctypes.data, lda=a.shape[2], trans_a=trans_a)
            args.b, args.ldb, args.trans_b = b.ctypes.data, b.shape[2], trans_b
            args.c, args.ldc, args.alpha, args.beta, args.batch = c.ctypes.data, n, 2, 3, 2
            args.a_type = args.b_type = args.c_type = dtype
            args.a_batch, args.b_batch, args.c_batch = m * k, k * n, m * n
            run_twice(lib, args, c)
            np.testing.assert_allclose(c, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("m", "trans_b"), [(1, True), (1, False), (20, True), (64, False)])
def test_special_values_stay_in_their_row_and_column(lib, level, value, m, trans_b) -> None:
    n, k = 70, 33
    a, b = np.ones((m, k), np.float32), np.ones((n, k) if trans_b else (k, n), np.float32)
    a[m // 2, k - 1] = value
    c = np.zeros((m, n), np.float32)
    args = h.GemmArgs(m=m, n=n, k=k, a=a.ctypes.data, lda=k, b=b.ctypes.data, ldb=b.shape[1])
    args.trans_b, args.c, args.ldc, args.alpha, args.batch = trans_b, c.ctypes.data, n, 1, 1
    lib.gemm_test_run(ctypes.byref(args))
    np.testing.assert_array_equal(c[m // 2], np.full(n, value, np.float32))
    np.testing.assert_array_equal(np.delete(c, m // 2, 0), k)


def test_nothing_to_do(lib, level) -> None:
    c = np.full((3, 4), 7, np.float32)
    for m, n, batch in ((0, 4, 1), (3, 0, 1), (3, 4, 0)):
        args = h.GemmArgs(m=m, n=n, k=5, lda=5, ldb=4, c=c.ctypes.data, ldc=4, alpha=1, batch=batch)
        lib.gemm_test_run(ctypes.byref(args))
    assert (c == 7).all()
