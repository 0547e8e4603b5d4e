# SPDX-License-Identifier: Apache-2.0
"""What users of torch and NumPy try: odd arrays, numbers and keywords; what is refused and how."""

import math

import ml_dtypes
import numpy as np
import pytest

import seqloom as sl
from support import refuses

X = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.mark.parametrize(
    "data",
    [
        np.array([1, None], object),
        np.array([1j]),
        np.array(["2020-01-01"], "M8[D]"),
        np.zeros(2, dtype=[("a", "f4")]),
        np.array([1.5], ml_dtypes.float8_e4m3fn),
        {1, 2},
        ["a"],
        None,
        1j,
    ],
)
def test_data_that_are_no_numbers(data):
    with refuses(TypeError, "tensor"):
        sl.tensor(data)


@pytest.mark.parametrize("number", [2**63, 10**30, [2**63], [-(10**30)]])
def test_integers_that_do_not_fit(number):
    with pytest.raises((ValueError, TypeError), match=r"^tensor: "):
        sl.tensor(number)


def test_other_byte_orders_and_readonly_memory_are_read():
    assert sl.tensor(X.astype(">f4")).tolist() == X.tolist()
    frozen = X.copy()
    frozen.flags.writeable = False
    shared = sl.from_numpy(frozen)
    np.testing.assert_array_equal((shared * 2).numpy(), frozen * 2)
    assert not shared.numpy().flags.writeable
    with refuses(ValueError, "setitem"):
        shared[0] = 1


def test_numpy_scalars_are_numbers():
    assert sl.arange(np.int64(3)).tolist() == [0, 1, 2]
    assert sl.full((2,), np.float32(1.5)).tolist() == [1.5, 1.5]
    assert sl.randint(np.int32(5), size=(3,)).shape == (3,)
    sl.manual_seed(np.int64(3))
    x = sl.tensor(X)
    assert (x * np.float64(2)).dtype is sl.float32
    assert (np.float64(2) * x).dtype is sl.float32
    assert (x.half() + np.int64(3)).dtype is sl.float16
    assert (sl.arange(3) * np.float32(2)).dtype is sl.float32


@pytest.mark.parametrize("dtype", ["int64", "int32", "int8", "uint8"])
def test_numbers_do_not_narrow_silently(dtype, device):
    x = sl.zeros(2, dtype=dtype, device=device)
    top = np.iinfo(dtype).max
    for bad in (1.5, math.nan, math.inf, 1e30, top + 1, -top - 2):
        with refuses(ValueError, "fill_"):
            x.fill_(bad)
        with refuses(ValueError, "setitem"):
            x[0] = bad
        with refuses(ValueError, "full"):
            sl.full((2,), bad, dtype=dtype, device=device)
    assert x.tolist() == [0, 0]
    assert x.fill_(top).tolist() == [top, top]
    x[0] = 2.0
    assert x.tolist() == [2, top]


def test_numbers_beyond_float64_are_infinite():
    x = sl.tensor([1.0])
    assert (x + 10**400).tolist() == [math.inf]
    assert (x - 10**400).tolist() == [-math.inf]


def test_bools_take_bools_only(device):
    x = sl.tensor([True, False], device=device)
    with refuses(TypeError, "add_"):
        x.add_(1)
    assert x.fill_(3).tolist() == [True, True]


def test_backward_views_travel_as_copies():
    x = sl.arange(3).flip(0)
    assert np.from_dlpack(x).tolist() == [2, 1, 0]
    with pytest.raises(BufferError, match="negative strides"):
        x.__dlpack__(copy=False)
    torch = pytest.importorskip("torch")
    assert torch.from_dlpack(x).tolist() == [2, 1, 0]  # torch's own import would end the process


def test_what_producers_of_dlpack_may_get_wrong():
    class Device:
        def __dlpack__(self, **_):
            return None

        def __dlpack_device__(self):
            return 7

    class Capsule(Device):
        def __dlpack_device__(self):
            return (1, 0)

    for bad in (Device(), Capsule(), 3, "a"):
        with refuses(TypeError, "from_dlpack"):
            sl.from_dlpack(bad)
    with refuses(TypeError, "__dlpack__"):
        sl.ones(2).__dlpack__(max_version="a")
    capsule = sl.ones(2).__dlpack__()
    sl.from_dlpack(capsule)
    with refuses(TypeError, "from_dlpack"):
        sl.from_dlpack(capsule)


def test_what_is_no_tensor_is_named_in_one_line():
    for name, call in (
        ("reshape", lambda: sl.ops.reshape("a", (1,))),
        ("tril", lambda: sl.ops.tril(X)),
        ("sum", lambda: sl.ops.sum([1.0])),
        ("flip", lambda: sl.ops.flip(None, (0,))),
        ("softmax", lambda: sl.ops.softmax("a")),
        ("softmax", lambda: sl.ops.softmax(sl.zeros(1000), "a")),
        ("layer_norm", lambda: sl.ops.layer_norm(sl.zeros(3), weight="a")),
        ("checkpoint", lambda: sl.checkpoint(3)),
    ):
        with refuses(TypeError, name) as caught:
            call()
        text = str(caught.value)
        assert "\n" not in text
        assert len(text) < 200


def test_keys_that_are_no_slices():
    x = sl.tensor(X)
    with refuses(ValueError, "getitem"):
        x[::0]
    with refuses(TypeError, "getitem"):
        x["a":]
    with refuses(ValueError, "setitem"):
        x[::0] = 1


def test_requires_grad_is_true_or_false():
    x = sl.ones(2)
    for bad in ("yes", 1, None):
        with refuses(TypeError, "requires_grad"):
            x.requires_grad = bad
    assert x.requires_grad_().requires_grad


def test_torch_s_ways_of_calling():
    x = sl.tensor(X)
    want = X.var(1, ddof=0)
    for got in (x.var(1, False), x.var(dim=1, unbiased=False), x.var(axis=1, correction=0)):
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-6)
    assert x.var(False).item() == pytest.approx(X.var())
    assert x.std(0, True, True).shape == (1, 3)
    assert x.reshape(shape=(3, 2)).shape == x.reshape(3, 2).shape == (3, 2)
    assert x.permute(dims=(1, 0)).shape == (3, 2)
    assert [p.shape for p in x.split(split_size=2, dim=1)] == [(2, 2), (2, 1)]
    assert x.add(1).sub(1).mul(2).div(2).neg().tolist() == (-X).tolist()
    assert x.repeat(2, 1).shape == (4, 3)
    assert x.unbind(1)[0].tolist() == [0.0, 3.0]
    assert f"{x.mean():.2f}" == "2.50"
    assert f"{x}" == repr(x)
    assert 4 in x
    assert 7 not in x
    assert repr(sl.zeros(0, 3)) == "tensor([], shape=[0, 3])"


def test_one_element_where_one_is_needed():
    x = sl.tensor(X)
    for name, convert in (("bool", bool), ("int", int), ("float", float), ("item", sl.Tensor.item)):
        with refuses(ValueError, name):
            convert(x)


def test_the_first_of_nothing():
    with refuses(ValueError, "topk"):
        sl.tensor(3.0).topk(0)
    assert [t.tolist() for t in sl.tensor(3.0).topk(1)] == [3.0, 0]
    assert sl.zeros(2, 3).topk(0)[0].shape == (2, 0)
