# SPDX-License-Identifier: Apache-2.0
"""What a device does not have is refused by name, for every device that can be chosen."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pytest

from emulation import mutations
from emulation.library import Library, load, why_not

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not() or "can run")

KILOBYTE = 1024
# Compute capability: shared memory of a block, threads of a multiprocessor.
DEVICES = {75: (64, 1024), 80: (163, 2048), 86: (99, 1536), 89: (99, 1536), 90: (227, 2048),
           100: (227, 2048), 120: (99, 1536)}  # fmt: skip
PLAIN_BOUND, TEMPLATE_BOUND, NO_BOUND, SHARED, SHARED_OPTED_IN, WARPGROUP = range(6)


@pytest.fixture(params=mutations.MODES)
def library(request: pytest.FixtureRequest) -> Iterator[Library]:
    library = load(request.param)
    library.configure(schedule="fifo", seed=1, sms=16, capability=90, **{"async": "lazy"})
    yield library
    library.configure(capability=90)


def launch(
    library: Library, kernel: int, threads: int = 32, shared: int = 0, cluster: int = 1
) -> None:
    out = library.run("limits", ("empty", 1024, np.float32), kernel, threads, shared, cluster)[0]
    assert (out[:threads] == 1).all()


@pytest.mark.parametrize(("kernel", "bound"), [(PLAIN_BOUND, 96), (TEMPLATE_BOUND, 256)])
def test_a_block_larger_than_the_launch_bounds_is_refused(library, kernel, bound):
    launch(library, kernel, bound)
    with pytest.raises(RuntimeError, match=rf"block of {bound + 1} threads.*allow {bound}"):
        launch(library, kernel, bound + 1)


def test_a_kernel_without_bounds_takes_the_largest_block(library):
    launch(library, NO_BOUND, 1024)
    with pytest.raises(RuntimeError, match="1 to 1024 are possible"):
        launch(library, NO_BOUND, 1056)


@pytest.mark.parametrize("capability", DEVICES)
def test_dynamic_shared_memory_ends_where_the_device_s_does(library, capability):
    library.configure(capability=capability)
    limit = DEVICES[capability][0] * KILOBYTE
    launch(library, NO_BOUND, shared=limit)
    with pytest.raises(RuntimeError, match=f"has at most {limit}"):
        launch(library, NO_BOUND, shared=limit + 16)


@pytest.mark.parametrize("capability", DEVICES)
def test_static_and_dynamic_shared_memory_count_together(library, capability):
    library.configure(capability=capability)
    limits = [(SHARED, 48 * KILOBYTE)]  # until the dynamic part alone is larger
    if capability > 75:
        limits.append((SHARED_OPTED_IN, DEVICES[capability][0] * KILOBYTE))
    for kernel, most in limits:
        launch(library, kernel, shared=most - 16 * KILOBYTE)
        with pytest.raises(
            RuntimeError, match=rf"static \(with second\).* exceed the {most} bytes"
        ):
            launch(library, kernel, shared=most - 16 * KILOBYTE + 16)


def test_clusters_beyond_the_portable_size_are_refused(library):
    launch(library, NO_BOUND, cluster=8)
    with pytest.raises(RuntimeError, match="cluster of 16 blocks: 1 to 8 are portable"):
        launch(library, NO_BOUND, cluster=16)
    library.configure(capability=80)
    with pytest.raises(RuntimeError, match=r"clusters need compute capability 9\.0"):
        launch(library, NO_BOUND, cluster=2)


@pytest.mark.parametrize("capability", DEVICES)
def test_warpgroup_instructions_belong_to_hopper(library, capability):
    library.configure(capability=capability)
    if capability == 90:
        launch(library, WARPGROUP, 128)
    else:
        with pytest.raises(
            RuntimeError, match=r"wgmma\.fence exists on compute capability 9\.0 alone"
        ):
            launch(library, WARPGROUP, 128)


# In the order of instruction_kernel: the name in the refusal, and the first device that has it.
INSTRUCTIONS = [
    ("redux.sync", 80), ("redux.sync", 80), ("cvt.rna.tf32", 80), ("cp.async.commit_group", 80),
    ("cp.async.wait_group", 80), ("%cluster_ctarank", 90), ("%cluster_nctarank", 90),
    ("cp.async.bulk.commit_group", 90), ("cp.async.bulk.wait_group", 90),
    ("cp.async.bulk.wait_group.read", 90), ("elect.sync", 90), ("fence.proxy.async", 90),
    ("barrier.cluster", 90), ("fence.mbarrier_init", 90)]  # fmt: skip


@pytest.mark.parametrize("which", range(len(INSTRUCTIONS)), ids=lambda i: INSTRUCTIONS[i][0])
def test_instructions_are_refused_by_name_where_a_device_lacks_them(library, which):
    name, first = INSTRUCTIONS[which]
    for capability in DEVICES:
        library.configure(capability=capability)
        if capability >= first:
            out = library.run("instruction", ("empty", 32, np.float32), which)[0]
            assert (out == 1).all()
        else:
            with pytest.raises(
                RuntimeError, match=rf"{re.escape(name)}.* needs compute capability"
            ):
                library.run("instruction", ("empty", 32, np.float32), which)


def test_registers_move_between_warpgroups(library):
    out = library.run("registers", ("empty", 384, np.float32), 384, 0)[0]
    assert (out == 1).all()


@pytest.mark.parametrize(
    ("bug", "threads", "why"),
    [
        (0, 96, "not made of whole warpgroups"),
        (1, 384, "ask for 40 and for 48 registers"),
        (2, 384, "setmaxnreg.dec to 232 registers: a thread of the warpgroup has at most 168"),
        (3, 384, "deadlock.*setmaxnreg.inc"),
        (4, 384, "setmaxnreg.inc to 32 registers: a thread of the warpgroup has 40"),
        (5, 384, "setmaxnreg.dec to 48 registers: a thread of the warpgroup has 40"),
    ],
)
def test_registers_that_are_not_there_are_refused(library, bug, threads, why):
    with pytest.raises(RuntimeError, match=f"(?s){why}"):
        library.run("registers", ("empty", 384, np.float32), threads, bug)


NO_ERROR, CAPTURE_UNSUPPORTED, CAPTURE_INVALIDATED = 0, 900, 901
GLOBAL, THREAD_LOCAL, RELAXED = range(3)
WAITING = ["cudaDeviceSynchronize", "cudaStreamSynchronize", "cudaStreamQuery"]
UNSAFE = ["cudaMalloc", "cudaFree", "cudaMallocHost", "cudaFreeHost"]  # they may wait


@pytest.mark.parametrize("call", [*WAITING, *UNSAFE])
@pytest.mark.parametrize("mode", [GLOBAL, THREAD_LOCAL, RELAXED])
@pytest.mark.parametrize("elsewhere", [0, 1])
def test_what_waits_is_refused_during_a_capture_and_ends_it(library, call, mode, elsewhere):
    which = [*WAITING, *UNSAFE].index(call)
    refused = call in WAITING or mode == GLOBAL or (mode == THREAD_LOCAL and not elsewhere)
    found = library.run("capture", ("empty", 2, np.float32), which, mode, elsewhere)[0]
    assert list(found) == (
        [CAPTURE_UNSUPPORTED, CAPTURE_INVALIDATED] if refused else [NO_ERROR] * 2
    )


def test_work_on_the_legacy_stream_ends_the_capture_of_a_stream_that_waits_for_it(library):
    def found(call):
        return list(library.run("capture", ("empty", 2, np.float32), call, RELAXED, 0)[0])

    apart, after_legacy, capture_implicit = 7, 8, 906
    assert found(apart) == [NO_ERROR] * 2
    assert found(after_legacy) == [capture_implicit, CAPTURE_INVALIDATED]


@pytest.mark.parametrize("capability", DEVICES)
def test_occupancy_is_the_device_s(library, capability):
    library.configure(capability=capability)
    shared, threads = DEVICES[capability]
    for block, bytes_, blocks in ((512, 0, threads // 512), (128, shared * KILOBYTE, 1)):
        assert library.run("resident", ("empty", 1, np.float32), block, bytes_)[0][0] == blocks


def test_unknown_devices_are_refused(library):
    with pytest.raises(RuntimeError, match="one of 75 80 86 89 90 100 120, got 85"):
        library.configure(capability=85)
