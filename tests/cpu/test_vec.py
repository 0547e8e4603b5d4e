# SPDX-License-Identifier: Apache-2.0
"""The vector interface of cpu/vec.h against NumPy, on every instruction set."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from cpu_harness import CONVERSIONS, i64, pointer, run_binary, run_in_python, run_map

SPECIAL_TEXT = """
0.0 -0.0 1.0 -1.0 0.5 inf -inf nan 1e-45 -1e-40 3.4e38 -3.4e38 7.25 7.25 0.001 16777216
"""
SPECIAL = np.array(SPECIAL_TEXT.split(), np.float32)


def operands(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three arrays of random bits and special values in every combination."""
    rng = np.random.default_rng(seed)
    x, y = (a.ravel() for a in np.meshgrid(SPECIAL, SPECIAL))
    bits = rng.integers(0, 1 << 32, (3, 2048), dtype=np.uint32).view(np.float32)
    x = np.concatenate([x, bits[0], rng.normal(size=512).astype(np.float32)])
    y = np.concatenate([y, bits[1], rng.normal(size=512).astype(np.float32)])
    z = np.resize(np.concatenate([bits[2], SPECIAL]), x.size)
    return x, y, z


def lower(x, y):
    return np.where(x < y, x, y)


def upper(x, y):
    return np.where(x > y, x, y)


def quiet_nan(mask, value):
    return np.where(mask, np.float32(np.nan), value)


EXACT = {
    "add": lambda x, y, z: x + y,
    "sub": lambda x, y, z: x - y,
    "mul": lambda x, y, z: x * y,
    "div": lambda x, y, z: x / y,
    "min": lambda x, y, z: lower(x, y),
    "max": lambda x, y, z: upper(x, y),
    "min_nan": lambda x, y, z: quiet_nan(np.isnan(x) | np.isnan(y), lower(x, y)),
    "max_nan": lambda x, y, z: quiet_nan(np.isnan(x) | np.isnan(y), upper(x, y)),
    "copy_sign": lambda x, y, z: np.copysign(x, y),
    "less": lambda x, y, z: np.where(x < y, x, z),
    "less_equal": lambda x, y, z: np.where(x <= y, x, z),
    "greater": lambda x, y, z: np.where(x > y, x, z),
    "greater_equal": lambda x, y, z: np.where(x >= y, x, z),
    "equal": lambda x, y, z: np.where(x == y, x, z),
    "not_equal": lambda x, y, z: np.where(x != y, x, z),
    "zero_unless": lambda x, y, z: np.where((x < y) | ~(y == z), x, np.float32(0)),
}


@pytest.mark.parametrize("name", EXACT)
def test_float_operations(lib, level, name):
    x, y, z = operands(1)
    with np.errstate(all="ignore"):
        expected = EXACT[name](x, y, z)
    np.testing.assert_array_equal(run_binary(lib, name, x, y, z)[: x.size], expected)


@pytest.mark.parametrize("name", ["fma", "fnma", "fms"])
def test_fused_multiply_add(lib, level, name):
    x, y, z = (np.random.default_rng(2).normal(size=(3, 1024))).astype(np.float32)
    a, b, c = (v.astype(np.float64) for v in (x, y, z))
    exact = {"fma": a * b + c, "fnma": c - a * b, "fms": a * b - c}[name]
    got = run_binary(lib, name, x, y, z)[: x.size]
    if level == "baseline":
        np.testing.assert_allclose(got, exact, rtol=0, atol=1e-6)
    else:
        np.testing.assert_array_equal(got, exact.astype(np.float32))


def shift_logical(x):
    return (x.view(np.uint32) >> np.uint32(5)).view(np.int32)


def product(x, y):
    return x.view(np.uint32).astype(np.uint64) * y.view(np.uint32).astype(np.uint64)


INTEGER = {
    "int_add": lambda x, y, z: x + y,
    "int_sub": lambda x, y, z: x - y,
    "int_mul": lambda x, y, z: x * y,
    "int_and": lambda x, y, z: x & y,
    "int_or": lambda x, y, z: x | y,
    "int_xor": lambda x, y, z: x ^ y,
    "int_not": lambda x, y, z: ~x,
    "int_min": lambda x, y, z: np.minimum(x, y),
    "int_max": lambda x, y, z: np.maximum(x, y),
    "int_greater": lambda x, y, z: np.where(x > y, x, z),
    "int_less": lambda x, y, z: np.where(x < y, x, z),
    "int_equal": lambda x, y, z: np.where(x == y, x, z),
    "shift_left": lambda x, y, z: x << 5,
    "shift_right": lambda x, y, z: x >> 5,
    "shift_right_logical": lambda x, y, z: shift_logical(x),
    "mul_high": lambda x, y, z: (product(x, y) >> np.uint64(32)).astype(np.uint32).view(np.int32),
    "mul_low": lambda x, y, z: product(x, y).astype(np.uint32).view(np.int32),
}


@pytest.mark.parametrize("name", INTEGER)
def test_integer_operations(lib, level, name):
    rng = np.random.default_rng(5)
    edges = np.array([0, 1, -1, 2**31 - 1, -(2**31), 12345, -12345, 2**16], np.int32)
    x, y = (a.ravel() for a in np.meshgrid(edges, edges))
    random = rng.integers(-(2**31), 2**31, (3, 1024), dtype=np.int32)
    x, y = np.concatenate([x, random[0]]), np.concatenate([y, random[1]])
    z = np.resize(random[2], x.size)
    with np.errstate(over="ignore"):
        expected = INTEGER[name](x, y, z)
    got = run_binary(lib, name, *(a.view(np.float32) for a in (x, y, z)))[: x.size]
    np.testing.assert_array_equal(got.view(np.int32), expected)


def test_conversions_of_integers(lib, level):
    rng = np.random.default_rng(6)
    edges = np.array([0, 1, -1, 2**24 + 1, 2**31 - 1, -(2**31), -(2**24) - 3], np.int32)
    i = np.concatenate([edges, rng.integers(-(2**31), 2**31, 4096, dtype=np.int32)])
    bits = i.view(np.float32)
    np.testing.assert_array_equal(run_map(lib, "int_to_float", bits), i.astype(np.float32))
    unsigned = i.view(np.uint32).astype(np.float64).astype(np.float32)
    np.testing.assert_array_equal(run_map(lib, "uint_to_float", bits), unsigned)
    x = np.concatenate([rng.normal(0, 1e6, 4096), np.arange(-20, 20) / 2]).astype(np.float32)
    rounded = run_map(lib, "round_to_int", x).view(np.int32)
    np.testing.assert_array_equal(rounded, np.rint(x).astype(np.int32))
    truncated = run_map(lib, "trunc_to_int", x).view(np.int32)
    np.testing.assert_array_equal(truncated, np.trunc(x).astype(np.int32))


# --- storage types ---


def convert(lib, kind, x, out_dtype, partial=False, vector=True):
    out = np.empty(x.shape, out_dtype)
    if vector:
        lib.cpu_test_convert_run(
            CONVERSIONS[kind], pointer(x), pointer(out), i64(x.size), int(partial)
        )
    else:
        lib.cpu_test_scalar_convert(CONVERSIONS[kind], pointer(x), pointer(out), i64(x.size))
    return out


@pytest.mark.parametrize(("kind", "dtype"), [("f16", np.float16), ("bf16", ml_dtypes.bfloat16)])
@pytest.mark.parametrize("partial", [False, True])
def test_sixteen_bit_floats(lib, level, kind, dtype, partial):
    every = np.arange(1 << 16, dtype=np.uint16)
    exact = every.view(dtype).astype(np.float32)
    wide = convert(lib, f"from_{kind}", every, np.float32, partial)
    np.testing.assert_array_equal(wide, exact)
    scalar = convert(lib, f"from_{kind}", every, np.float32, vector=False)
    np.testing.assert_array_equal(scalar.view(np.uint32), wide.view(np.uint32))

    # All floats nearby: every representable number, the ties between neighbours, and their
    # neighbours; and random bits.
    rng = np.random.default_rng(7)
    finite = np.sort(exact[np.isfinite(exact)]).astype(np.float64)
    ties = ((finite[1:] + finite[:-1]) / 2).astype(np.float32)
    x = np.concatenate(
        [
            exact,
            ties,
            np.nextafter(ties, np.float32(np.inf)),
            np.nextafter(ties, np.float32(-9000000000.0)),
            rng.integers(0, 1 << 32, 1 << 17, dtype=np.uint32).view(np.float32),
        ]
    )
    with np.errstate(over="ignore", invalid="ignore"):
        expected = x.astype(dtype).view(np.uint16)
    narrow = convert(lib, f"to_{kind}", x, np.uint16, partial)
    number = ~np.isnan(x)
    np.testing.assert_array_equal(narrow[number], expected[number])
    # A NaN stays one, with its sign; scalar and vector agree to the bit.
    assert np.all(np.isnan(narrow[~number].view(dtype).astype(np.float32)))
    np.testing.assert_array_equal(narrow[~number] >> 15, x[~number].view(np.uint32) >> 31)
    np.testing.assert_array_equal(convert(lib, f"to_{kind}", x, np.uint16, vector=False), narrow)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("partial", [False, True])
def test_bytes(lib, level, dtype, partial):
    info = np.iinfo(dtype)
    every = np.arange(info.min, info.max + 1).astype(dtype)
    wide = convert(lib, f"from_{dtype}", every, np.float32, partial)
    np.testing.assert_array_equal(wide, every.astype(np.float32))
    x = np.concatenate([np.arange(-600, 600) / 4, [1e9, -1e9, 1e30, -1e30, np.inf, -np.inf]])
    x = x.astype(np.float32)
    expected = np.clip(np.rint(x), info.min, info.max).astype(dtype)
    np.testing.assert_array_equal(convert(lib, f"to_{dtype}", x, dtype, partial), expected)
    lowest = convert(lib, f"to_{dtype}", np.full(33, np.nan, np.float32), dtype, partial)
    np.testing.assert_array_equal(lowest, info.min)


def test_partial_accesses_touch_nothing_else(lib, level):
    """Beside unmapped pages, in a process of its own: a stray access ends it."""
    run = run_in_python(
        f"assert lib.cpu_test_set_isa(b'{level}') == 0\nprint(lib.cpu_test_guard_pages())"
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "0"


# --- across lanes ---


def tree(values, combine):
    values = list(values)
    while len(values) > 1:
        half = len(values) // 2
        values = [combine(values[i], values[i + half]) for i in range(half)]
    return values[0]


def test_reductions(lib, level):
    lanes = lib.cpu_test_lane_count()
    rng = np.random.default_rng(8)
    for _ in range(20):
        x = (rng.normal(size=lanes) * 10.0 ** rng.integers(-3, 4, lanes)).astype(np.float32)
        assert run_binary(lib, "reduce_add", x)[0] == tree(x, np.add)
        assert run_binary(lib, "reduce_max", x)[0] == x.max()
        assert run_binary(lib, "reduce_min", x)[0] == x.min()
        assert run_binary(lib, "reduce_max_nan", x)[0] == x.max()
        x[rng.integers(lanes)] = np.nan
        assert np.isnan(run_binary(lib, "reduce_max_nan", x)[0])


def test_masks(lib, level):
    lanes = lib.cpu_test_lane_count()
    x = np.zeros(lanes, np.float32)
    for pattern in {0, 1, 2**lanes - 1, 2 ** (lanes - 1), 0xA5A5 % 2**lanes}:
        y = ((pattern >> np.arange(lanes)) & 1).astype(np.float32)
        got = run_binary(lib, "mask_bits", x, y)
        assert list(got[:3]) == [pattern, pattern != 0, pattern == 2**lanes - 1]


def test_permutations(lib, level):
    lanes = lib.cpu_test_lane_count()
    x = np.arange(lanes, dtype=np.float32)
    y = x + 100
    mixed = np.stack([x, y], 1).ravel()
    np.testing.assert_array_equal(run_binary(lib, "interleave", x, y)[: 2 * lanes], mixed)
    halves = run_binary(lib, "deinterleave", mixed[:lanes].copy(), mixed[lanes:].copy())
    np.testing.assert_array_equal(halves[: 2 * lanes], np.concatenate([x, y]))
    square = np.arange(lanes * lanes, dtype=np.float32).reshape(lanes, lanes)
    turned = run_binary(lib, "transpose", square)[: lanes * lanes]
    np.testing.assert_array_equal(turned.reshape(lanes, lanes), square.T)
    index = np.random.default_rng(9).integers(0, lanes * lanes, lanes)
    picked = run_binary(lib, "gather", square, index.astype(np.float32))[:lanes]
    np.testing.assert_array_equal(picked, square.ravel()[index])


def test_partial_lanes(lib, level):
    lanes = lib.cpu_test_lane_count()
    x = np.arange(1, lanes + 1, dtype=np.float32)
    bytes_ = np.resize(np.array([1, 0, 255, 128, 0, 7], np.uint8), lanes)
    lane = np.arange(lanes)
    for n in range(lanes + 1):
        filled = run_binary(lib, "load_or", x, n=n)[:lanes]
        np.testing.assert_array_equal(filled, np.where(lane < n, x, -7))
        mask = run_binary(lib, "load_mask", np.resize(bytes_, 64), n=n)[:lanes]
        np.testing.assert_array_equal(mask, (lane < n) & (bytes_ != 0))
        whole = run_binary(lib, "load_int", x, n=n)[:lanes]
        np.testing.assert_array_equal(whole, np.where(lane < n, x, 0))
