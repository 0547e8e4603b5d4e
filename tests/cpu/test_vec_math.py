# SPDX-License-Identifier: Apache-2.0
"""The bounds that cpu/vec_math.h states, against float64, on every instruction set."""

from __future__ import annotations

import ctypes
import os

import numpy as np
import pytest
from cpu_harness import FUNCTIONS, LEVELS, run_map

# name: (ULP, absolute error that is accepted beyond those ULP, results below 2^-126 may be 0)
BOUNDS = {
    "exp": (1.2, 0, False),
    "expm1": (2, 0, False),
    "log": (1, 0, False),
    "log1p": (2, 0, False),
    "tanh": (2.5, 0, False),
    "sigmoid": (2.5, 0, True),
    "softplus": (2.5, 0, True),
    "erf": (3, 0, False),
    "sin": (1.6, 0, False),
    "cos": (1.6, 0, False),
    "silu": (4, 1e-36, True),
    "silu_grad": (4, 1e-7, True),
    "gelu_tanh": (4, 1e-7, True),
    "gelu_tanh_grad": (4, 1.5e-7, True),
    "gelu_erf": (4, 1e-7, True),
    "gelu_erf_grad": (4, 1e-7, True),
    "sqrt": (0.5, 0, False),
    "rsqrt": (1.6, 0, False),
    "pow": (1, 0, False),
    "round": (0, 0, False),
    "floor": (0, 0, False),
    "ceil": (0, 0, False),
    "trunc": (0, 0, False),
    "abs": (0, 0, False),
}

# Every stride-th float of all, and closer among magnitudes from 2^-6 to 128. The bounds were
# established with SEQLOOM_CPU_TEST_STRIDE=397.
STRIDE = int(os.environ.get("SEQLOOM_CPU_TEST_STRIDE", "4001"))
RANGES = (
    (0, 1 << 32, STRIDE),
    (0x3C800000, 0x43000000, max(STRIDE // 31, 31)),
    (0xBC800000, 0xC3000000, max(STRIDE // 31, 31)),
)


# avx512bf16 runs the code of avx512.
@pytest.mark.parametrize("level", [v for v in LEVELS if v != "avx512bf16"], indirect=True)
@pytest.mark.parametrize("name", BOUNDS)
def test_error_bounds(lib, level, name):
    ulp, absolute, flush = BOUNDS[name]
    for first, end, stride in RANGES:
        worst, beyond, at = ctypes.c_double(), ctypes.c_double(), ctypes.c_uint32()
        lib.cpu_test_sweep(
            FUNCTIONS[name],
            ctypes.c_float(1.37),
            ctypes.c_uint64(first + len(level)),
            ctypes.c_uint64(end),
            ctypes.c_uint64(stride),
            ctypes.c_double(ulp),
            int(flush),
            ctypes.byref(worst),
            ctypes.byref(beyond),
            ctypes.byref(at),
        )
        x = np.uint32(at.value).view(np.float32)
        message = f"{name}({x!r}) is {worst.value:.3g} ULP off, {beyond.value:.3g} absolutely"
        assert worst.value <= ulp or beyond.value <= absolute, message


EDGES_TEXT = """
0.0 -0.0 1e-45 -1e-45 1.1754942e-38 1.1754944e-38 -1.1754944e-38 3.4028235e38
-3.4028235e38 inf -inf nan -nan 88.72283 88.72284 -103.97208 -103.97209 -87.33655
1.0 -1.0 -0.99999994 0.5 -0.5 8388608 8388609 -2147483648 65536.0 65537.0 1e30
9.010913 3.9192059 13.0 -13.5 -150.0 150.0
"""
EDGES = np.array(EDGES_TEXT.split(), np.float32)


@pytest.mark.parametrize("name", [n for n in BOUNDS if n != "pow"])
def test_edges(lib, level, name):
    got = run_map(lib, name, EDGES)
    ulp, absolute, _ = BOUNDS[name]
    for x, y in zip(EDGES, got, strict=True):
        exact = lib.cpu_test_reference(FUNCTIONS[name], ctypes.c_double(x), ctypes.c_double(0))
        # The reference leaves the limits of x sigmoid(x) and its derivative at infinity open.
        if np.isnan(exact) and not np.isnan(x) and name in ("silu", "silu_grad", "gelu_tanh"):
            assert np.isnan(y) or abs(y) < 1e-30 or y == 1
            continue
        with np.errstate(over="ignore"):
            nearest = np.float32(exact)
        if np.isnan(nearest) or np.isinf(nearest):
            np.testing.assert_equal(y, nearest, err_msg=f"{name}({x!r})")
        else:
            unit = 2.0 ** (max(np.frexp(nearest)[1], -125) - 24)
            limit = np.finfo(np.float32).max
            assert abs(min(y, limit) - exact) <= max(ulp * unit, absolute), (name, x, y, exact)


SIGNED_ZERO = ("expm1", "log1p", "tanh", "erf", "sin", "sqrt", "round", "floor", "ceil", "trunc")


@pytest.mark.parametrize("name", SIGNED_ZERO)
def test_the_sign_of_zero(lib, level, name):
    got = run_map(lib, name, np.array([0.0, -0.0], np.float32))
    np.testing.assert_array_equal(np.signbit(got), [False, True])
    np.testing.assert_array_equal(got, 0)


def test_small_negatives_round_to_minus_zero(lib, level):
    for name in ("round", "ceil", "trunc"):
        got = run_map(lib, name, np.array([-0.3], np.float32))
        assert got[0] == 0
        assert np.signbit(got[0])


@pytest.mark.parametrize("name", BOUNDS)
def test_a_lane_depends_on_itself_alone(lib, level, name):
    """The same bits in every position, in whole and partial vectors, beside any neighbour."""
    rng = np.random.default_rng(3)
    x = np.concatenate([rng.normal(0, 4, 40), EDGES]).astype(np.float32)
    rng.shuffle(x)
    alone = np.concatenate([run_map(lib, name, x[i : i + 1], 1.37) for i in range(x.size)])
    for start in range(17):
        together = run_map(lib, name, x[start:], 1.37)
        same = alone[start:].view(np.uint32) == together.view(np.uint32)
        both_nan = np.isnan(alone[start:]) & np.isnan(together)
        assert np.all(same | both_nan), x[start:][~(same | both_nan)]


def test_doubles(lib, level):
    from cpu_harness import i64, pointer

    rng = np.random.default_rng(4)
    for n in (1, 3, 8, 9, 30):
        x = rng.normal(0, 3, n)
        out, reduced = np.empty(n), np.empty(2)
        for name in ("exp", "tanh", "sigmoid", "gelu_tanh", "gelu_erf", "silu_grad"):
            function = FUNCTIONS[name]
            lib.cpu_test_double_run(function, pointer(x), pointer(out), i64(n), pointer(reduced))
            exact = [
                lib.cpu_test_reference(function, ctypes.c_double(v), ctypes.c_double(0)) for v in x
            ]
            np.testing.assert_allclose(out, exact, rtol=1e-13, atol=1e-15)
            np.testing.assert_allclose(reduced, [x.sum(), max(x.max(), -np.inf)], rtol=1e-13)
        lib.cpu_test_double_run(-1, pointer(x), pointer(out), i64(n), pointer(reduced))
        np.testing.assert_allclose(out, np.where(x < 0, -np.abs(x), x), rtol=1e-12)
