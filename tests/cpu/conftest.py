# SPDX-License-Identifier: Apache-2.0
"""The test library, and each instruction set of this machine in turn."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from cpu_harness import LEVELS, load_library


@pytest.fixture(scope="session")
def lib() -> ctypes.CDLL:
    return load_library()


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest, lib: ctypes.CDLL):
    """The library with one instruction set active."""
    before = lib.cpu_test_active_isa()
    if lib.cpu_test_set_isa(request.param.encode()) != 0:
        pytest.skip(f"no {request.param} in this build or CPU")
    yield request.param
    lib.cpu_test_set_isa(before)


@pytest.fixture
def threads(lib: ctypes.CDLL):
    """A setter for the number of threads, undone afterwards."""
    before = lib.cpu_test_num_threads()

    def set_threads(n: int) -> None:
        assert lib.cpu_test_set_num_threads(n) == 0

    yield set_threads
    lib.cpu_test_set_num_threads(before)
