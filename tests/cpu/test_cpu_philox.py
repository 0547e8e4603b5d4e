# SPDX-License-Identifier: Apache-2.0
"""Random streams: published vectors, scalar against vector, and the distribution."""

from __future__ import annotations

import math

import numpy as np
import pytest
from cpu_harness import i64, pointer, u64

SEED = 0x1234_5678_9ABC_DEF0


def block(lib, seed: int, counter: int, substream: int) -> list[int]:
    out = np.empty(4, np.uint32)
    lib.cpu_test_philox_block(u64(seed), u64(counter), u64(substream), pointer(out))
    return [int(w) for w in out]


def test_known_answers(lib):
    """The vectors that Random123 publishes for philox4x32-10."""
    ones = 2**64 - 1
    assert block(lib, 0, 0, 0) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert block(lib, ones, ones, ones) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
    key, low, high = 0x299F31D0A4093822, 0x85A308D3243F6A88, 0x0370734413198A2E
    assert block(lib, key, low, high) == [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]


def stream(lib, normal: bool, offset: int, n: int, vector: bool = True) -> np.ndarray:
    out = np.full(n + 1, -99, np.float32)
    run = lib.cpu_test_random_run if vector else lib.cpu_test_philox_scalar
    run(int(normal), u64(SEED), u64(offset), pointer(out), i64(n))
    assert out[n] == -99
    return out[:n]


@pytest.mark.parametrize("offset", [0, 1, 2, 3, 4, 70, 4 * (2**32 - 3) + 1, 2**62 + 5])
def test_uniforms_are_the_scalar_ones(lib, level, offset):
    for n in (1, 3, 16, 63, 64, 65, 500):
        np.testing.assert_array_equal(
            stream(lib, False, offset, n), stream(lib, False, offset, n, vector=False)
        )


@pytest.mark.parametrize("offset", [0, 3, 4 * (2**32 - 3)])
def test_normals_are_the_scalar_ones(lib, level, offset):
    n = 100_001
    vector = stream(lib, True, offset, n)
    scalar = stream(lib, True, offset, n, vector=False)
    if level != "baseline":
        np.testing.assert_array_equal(vector.view(np.uint32), scalar.view(np.uint32))
        return
    # Without fused multiply-add: within 4 ULP of the larger of the pair.
    first = (4 - offset % 4) % 4
    pairs = slice(first, first + (n - first) // 2 * 2)
    error = np.abs(vector - scalar)[pairs].reshape(-1, 2)
    unit = np.spacing(np.abs(scalar[pairs]).reshape(-1, 2).max(1))
    assert np.all(error <= 4 * unit[:, None])


def test_a_part_of_a_stream_is_the_stream(lib, level):
    for normal in (False, True):
        whole = stream(lib, normal, 0, 1000)
        for begin, end in ((1, 1000), (7, 500), (333, 334), (998, 1000)):
            np.testing.assert_array_equal(stream(lib, normal, begin, end - begin), whole[begin:end])


def test_definition_of_normals(lib):
    n = 40_000
    x = stream(lib, True, 0, n, vector=False).astype(np.float64)
    pairs = np.array([block(lib, SEED, b, 0) for b in range(n // 4)], np.uint32).reshape(-1, 2)
    u = pairs[:, 0].astype(np.float32).astype(np.float64) * 2.0**-32 + 2.0**-33
    radius = np.sqrt(-2 * np.log(u.astype(np.float32).astype(np.float64)))
    angle = 2 * math.pi * (pairs[:, 1] >> 8) * 2.0**-24
    exact = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1).ravel()
    np.testing.assert_allclose(x, exact, rtol=0, atol=2e-6)


def test_distribution(lib, level):
    n = 400_000
    u = stream(lib, False, 8, n).astype(np.float64)
    assert u.min() >= 0
    assert u.max() < 1
    counts, _ = np.histogram(u, 64, (0, 1))
    assert np.sum((counts - n / 64) ** 2 / (n / 64)) < 120  # chi-squared, 63 degrees of freedom
    x = stream(lib, True, 8, n).astype(np.float64)
    assert abs(x.mean()) < 5 / math.sqrt(n)
    assert abs(x.var() - 1) < 5 * math.sqrt(2 / n)
    assert abs((x**4).mean() - 3) < 5 * math.sqrt(96 / n)
    assert abs(np.mean(x[1:] * x[:-1])) < 5 / math.sqrt(n)
    assert np.abs(x).max() < 6.8


def test_seeds_differ(lib):
    a = block(lib, 1, 0, 0)
    assert a != block(lib, 2, 0, 0)
    assert a != block(lib, 1 << 32, 0, 0)
    assert a != block(lib, 1, 0, 1)
