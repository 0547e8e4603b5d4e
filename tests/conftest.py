# SPDX-License-Identifier: Apache-2.0
"""Options, fixtures, and the count of what was skipped. Tolerances are in tolerances.py."""

from __future__ import annotations

import collections
import os
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

# The helpers beside this file, whatever the import mode: reference, support, tolerances.
sys.path.insert(0, str(Path(__file__).parent))

try:
    from hypothesis import HealthCheck, settings
except ImportError:  # only the property-based tests need it
    settings = None
else:
    settings.register_profile("local", deadline=None, print_blob=True)
    settings.register_profile(
        "ci",
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    settings.load_profile("ci" if os.environ.get("CI") else "local")


fuzz_key = pytest.StashKey[str]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device", choices=("cpu", "cuda"), default="cpu", help="where the ops under test run"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.fuzz_key = fuzz_key
    if config.getoption("--device") == "cuda":
        import seqloom as sl

        if not sl.cuda.is_available():
            raise pytest.UsageError("--device cuda: this build or machine has no CUDA device")


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    return str(request.config.getoption("--device"))


@pytest.fixture(params=("float32", "float16", "bfloat16"))
def dtype(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def supported_isas() -> list[str]:
    import seqloom as sl

    return list(sl._core.supported_isas())


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "isa" in metafunc.fixturenames:
        on_cpu = metafunc.config.getoption("--device") == "cpu"
        metafunc.parametrize("isa", supported_isas() if on_cpu else ["gpu"], indirect=True)


@pytest.fixture
def isa(request: pytest.FixtureRequest):
    """Runs the test once for every instruction set of this machine (once on a GPU)."""
    if request.param == "gpu":
        yield request.param
        return
    import seqloom as sl

    before = sl._core.active_isa()
    sl._core.set_isa(request.param)
    try:
        yield request.param
    finally:
        sl._core.set_isa(before)


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Random numbers that depend on the test's name alone."""
    return np.random.default_rng(zlib.crc32(request.node.nodeid.encode()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = collections.Counter(
        report.longrepr[2].removeprefix("Skipped: ")
        if isinstance(report.longrepr, tuple)
        else str(report.longrepr)
        for report in skipped
    )
    terminalreporter.write_line(f"{len(skipped)} skipped")
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"  {count:5d}  {reason}")
    fuzz = terminalreporter.config.stash.get(fuzz_key, None)
    if fuzz:
        terminalreporter.write_line(fuzz)
