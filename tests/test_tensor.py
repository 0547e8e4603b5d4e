# SPDX-License-Identifier: Apache-2.0
"""Arrays that travel: NumPy, DLPack, threads, forks, and what is refused on the way."""

import os
import threading
import time

import ml_dtypes
import numpy as np
import pytest

import seqloom as sl

DTYPES = ["float32", "float16", "bfloat16", "float64", "int64", "int32", "int8", "uint8", "bool"]


# ---- NumPy and DLPack ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_numpy_both_ways_without_a_copy(dtype):
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    a = np.zeros((3, 4), kind)[::-1, ::2]
    t = sl.from_numpy(a)
    assert (t.dtype.name, t.shape, t.strides) == (dtype, (3, 2), (-4, 2))
    back = t.numpy()
    assert back.dtype == a.dtype
    assert np.shares_memory(back, a)
    back[0, 1] = 1
    assert t.tolist()[0][1] == 1
    t[2, 0] = 1
    assert a[2, 0] == 1


@pytest.mark.parametrize("version", [None, (1, 0)])
def test_dlpack_capsules_of_both_kinds(version):
    class Producer:
        def __init__(self, t):
            self.t = t

        def __dlpack__(self, **_):
            return self.t.__dlpack__(max_version=version)

        def __dlpack_device__(self):
            return (1, 0)

    t = sl.arange(6).reshape(2, 3).T
    name = repr(t.__dlpack__(max_version=version))
    assert ("dltensor_versioned" in name) == (version is not None)
    u = sl.from_dlpack(Producer(t))
    assert (u.shape, u.strides, u.tolist()) == ((3, 2), (1, 3), t.tolist())
    u[0, 0] = 9
    assert t[0, 0].item() == 9
    capsule = t.__dlpack__(max_version=version)
    sl._core.from_dlpack(capsule)
    with pytest.raises(TypeError, match="from_dlpack: must be an unused DLPack capsule"):
        sl._core.from_dlpack(capsule)


def test_read_only_memory_stays_so():
    a = np.arange(3.0)
    a.flags.writeable = False
    for t in (sl.from_numpy(a), sl.from_dlpack(a)):
        with pytest.raises(ValueError, match="add_: the tensor is read-only"):
            t.add_(1)
        assert not t.numpy().flags.writeable
        assert not np.from_dlpack(t).flags.writeable
        with pytest.raises(BufferError, match="read-only"):
            t.__dlpack__()


def test_dlpack_refuses_what_it_cannot_give():
    t = sl.ones(2)
    with pytest.raises(BufferError, match="is on cpu, not on device"):
        t.__dlpack__(dl_device=(2, 0))
    with pytest.raises(BufferError, match="stream must be None on the CPU"):
        t.__dlpack__(stream=1)
    with pytest.raises(BufferError, match="requires a gradient"):
        sl.ones(2, requires_grad=True).__dlpack__()
    assert not hasattr(t, "__cuda_array_interface__")


def test_memory_outlives_its_maker():
    t = sl.from_numpy(np.full(5000, 3.0))
    view = sl.full((5000,), 4.0)[1:].numpy()
    other = np.from_dlpack(sl.full((5000,), 5.0))
    sl.full((5000,), 0.0)
    assert (t.sum().item(), view.sum(), other.sum()) == (15000.0, 19996.0, 25000.0)


def test_products_with_arrays_on_either_side():
    a = np.arange(6, dtype=np.float32).reshape(2, 3)
    t = sl.tensor(a.T)
    assert (a @ t).tolist() == (t.T @ a.T).tolist() == (a @ a.T).tolist()
    assert isinstance(a @ t, sl.Tensor)


# ---- what is refused ----------------------------------------------------------------------------


def test_out_of_memory_names_the_size_and_life_goes_on():
    held = sl.zeros(1000)
    for make in (lambda: sl.zeros(10**15), lambda: sl.zeros(1).expand(10**15).contiguous()):
        with pytest.raises(MemoryError, match=r"asked for 4000000000000000 bytes on cpu, \d+ b"):
            make()
    assert held.sum().item() == 0
    with pytest.raises(ValueError, match=r"shape: \[4611686018427387904\] of float32 does not"):
        sl.zeros(2**62)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: sl.randint(0, 300, (2,), dtype="int8"), ValueError, r"randint: high - 1 must be"),
        (lambda: sl.randint(0, 2**64, (2,)), ValueError, r"randint: high - 1 must be in"),
        (lambda: sl.full(2, 2**70, dtype="int64"), ValueError, r"full: value must be in"),
        (lambda: sl.full(2, 300, dtype="uint8"), ValueError, r"full: value must be in \[0, 255\]"),
        (lambda: sl.full(2, float("nan"), dtype="int32"), ValueError, "full: value must be finite"),
        (lambda: sl.set_num_threads(2**40), ValueError, "set_num_threads: n must be in"),
        (lambda: sl.set_random_state(1), TypeError, "set_random_state: state must be what"),
        (lambda: sl.set_random_state((2**70, 0)), ValueError, "set_random_state: seed and offset"),
        (lambda: sl.ones(2).var(correction="a"), TypeError, "var: correction must be a number"),
        (lambda: sl.ones(2).register_hook(1), TypeError, "register_hook: hook must be callable"),
        (
            lambda: sl.autograd.grad(1, sl.ones(1)),
            TypeError,
            "grad: outputs must be",
        ),
    ],
)
def test_one_form_of_message(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_the_ends_of_an_integer_type_are_in_reach():
    assert sl.full(1, -128, dtype="int8").tolist() == [-128]
    assert set(sl.randint(-128, 128, (5000,), dtype="int8").tolist()) == set(range(-128, 128))
    assert sl.randint(2**63 - 2, 2**63, (4,)).tolist() == [2**63 - 2] * 4


# ---- threads and forks --------------------------------------------------------------------------


def _work(x):
    y = x @ x.T
    return (y.tanh() + sl.ops.softmax(y)).numpy()


def test_two_threads_compute_at_once():
    inputs = [sl.randn(150, 161) for _ in range(3)]
    expected = [_work(x).copy() for x in inputs]
    wrong = []

    def run(i):
        for _ in range(20):
            if not np.array_equal(_work(inputs[i]), expected[i]):
                wrong.append(i)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert wrong == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_goes_on_computing():
    before = sl.get_num_threads()
    sl.set_num_threads(2)
    x = sl.randn(256, 256)
    expected = _work(x).copy()
    child = os.fork()
    if child == 0:
        os._exit(0 if np.array_equal(_work(x), expected) else 3)
    status = None
    for _ in range(600):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.05)
    else:
        os.kill(child, 9)
        os.waitpid(child, 0)
        pytest.fail("the child hangs")
    sl.set_num_threads(before)
    assert os.waitstatus_to_exitcode(status) == 0
    assert np.array_equal(_work(x), expected)
