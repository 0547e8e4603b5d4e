# SPDX-License-Identifier: Apache-2.0
"""``x[key]``, ``x[key] = value`` and their gradients, judged by NumPy; order; in-place rules."""

from __future__ import annotations

import numpy as np
import pytest

import seqloom as sl
from support import INTS, make_tensor, np_dtype, refuses

SHAPE = (4, 5, 6)
MASK = np.arange(20).reshape(4, 5) % 3 == 0
ROWS = np.array([[3, 0], [-1, 2]])

KEYS = {
    "int": 2,
    "negative": (-1, ..., -2),
    "numpy-int": np.int64(1),
    "slices": (slice(1, None), slice(None, None, 2), slice(4, 1, -1)),
    "reversed": (slice(None, None, -1), slice(None, None, -2)),
    "empty-slice": (slice(3, 1), slice(None)),
    "new-axes": (None, 1, None, ..., None),
    "array": ROWS,
    "list": [0, 3, 3],
    "empty-list": [],
    "array-middle": (slice(None), ROWS),
    "array-last": (..., np.array([5, 0, -6])),
    "two-arrays": (ROWS, np.array([4, 1])),
    "two-apart": (ROWS, slice(None), np.array([4, 1])),
    "array-int": (ROWS, 3),
    "int-apart": (1, slice(None), np.array([4, 1, 0])),
    "int-array": (slice(None), 2, np.array([4, 1, 0])),
    "array-slice": (np.array([2, 0]), slice(None, None, -2), slice(1, 3)),
    "array-none-array": (np.array([2, 0]), None, np.array([1, 1])),
    "mask": np.arange(4) % 2 == 1,
    "mask-two-axes": MASK,
    "mask-nothing": np.zeros(4, bool),
    "mask-array": (np.arange(4) % 2 == 1, np.array([1, 2])),
    "mask-slice-array": (np.arange(4) % 2 == 1, slice(1, 4), np.array([1, 2])),
    "mask-last": (..., np.arange(6) > 2),
    "true": True,
    "false": (slice(None), False),
    "scalar-array": (np.array(2), slice(1, 3)),
}


@pytest.fixture(params=KEYS)
def key(request):
    return KEYS[request.param]


def as_tensors(key, device):
    """The same key with Tensors for its arrays."""
    if isinstance(key, tuple):
        return tuple(as_tensors(k, device) for k in key)
    return sl.tensor(key, device=device) if isinstance(key, np.ndarray) else key


def test_reading(key, device, rng):
    a = rng.standard_normal(SHAPE).astype(np.float32)
    for layout in ("contiguous", "transposed"):
        x = make_tensor(a, device=device, layout=layout)
        for k in (key, as_tensors(key, device)):
            np.testing.assert_array_equal(x[k].cpu().numpy(), a[key])


@pytest.mark.parametrize("kind", [*INTS, "bool", "float16", "bfloat16", "float64"])
def test_reading_every_dtype(kind, device, rng):
    a = rng.integers(0, 2, SHAPE).astype(np_dtype(kind))
    for key in (ROWS, MASK, (slice(None), [1, 2], slice(None, None, 2)), (..., [0, 5])):
        got = make_tensor(a, device=device)[key].cpu().numpy()
        np.testing.assert_array_equal(got, a[key])
        assert got.dtype == a.dtype


def test_gradient_of_reading(key, dtype, device, rng):
    x = make_tensor(rng.standard_normal(SHAPE), dtype, device, requires_grad=True)
    y = x[key]
    # Small integers add up exactly in every dtype.
    grad = rng.integers(-8, 8, y.shape).astype(np.float64)
    y.backward(make_tensor(grad, dtype, device))
    expected = np.zeros(SHAPE)
    np.add.at(expected, key, grad)
    np.testing.assert_array_equal(x.grad.cpu().numpy().astype(np.float64), expected)


def test_writing(key, device, rng):
    a = rng.standard_normal(SHAPE).astype(np.float32)
    shape = a[key].shape
    values = [np.float32(7), rng.standard_normal(shape).astype(np.float32)]
    values.append(rng.standard_normal((1, *shape[-1:])).astype(np.float32))
    if a[key].ndim and a[key].shape[-1] != 1:
        values.append(rng.standard_normal((*shape[:-1], 1)).astype(np.float32))
    for value in values:
        for layout in ("contiguous", "transposed", "strided"):
            x, expected = make_tensor(a, device=device, layout=layout), a.copy()
            x[key] = sl.tensor(value, device=device) if np.ndim(value) else float(value)
            expected[key] = value
            np.testing.assert_array_equal(x.cpu().numpy(), expected)


def test_gradient_of_writing(key, device, rng):
    x = make_tensor(rng.standard_normal(SHAPE), "float32", device, requires_grad=True)
    a = np.zeros(SHAPE)
    value = rng.standard_normal(a[key].shape)
    v = make_tensor(value, "float32", device, requires_grad=True)
    y = x * 2.0
    y[key] = v
    grad = rng.integers(-8, 8, SHAPE).astype(np.float64)
    y.backward(make_tensor(grad, "float32", device))
    left, winner = np.ones(SHAPE), np.full(SHAPE, -1)
    left[key] = 0
    winner[key] = np.arange(value.size).reshape(value.shape)
    of_v = np.where(winner[key] == np.arange(value.size).reshape(value.shape), grad[key], 0)
    np.testing.assert_array_equal(x.grad.cpu().numpy(), 2 * grad * left)
    np.testing.assert_array_equal(v.grad.cpu().numpy(), of_v)


def test_last_value_stays(device):
    x = sl.zeros(3, device=device)
    x[[1, 1, 1]] = sl.tensor([5.0, 6.0, 7.0], device=device)
    assert x.tolist() == [0, 7, 0]


def test_writing_converts_and_broadcasts(device):
    x = sl.zeros(2, 3, device=device)
    x[...] = np.array([1, 2, 3])
    x[0] = [4, 5, 6]
    assert x.tolist() == [[4, 5, 6], [1, 2, 3]]
    x[:, 1:] = x[:, :2]
    assert x.tolist() == [[4, 4, 5], [1, 1, 2]]


@pytest.mark.parametrize(
    ("error", "key"),
    [
        (IndexError, 4),
        (IndexError, -5),
        (IndexError, 2**70),
        (IndexError, (0, 0, 0, 0)),
        (IndexError, (..., ...)),
        (IndexError, (..., 0, ...)),
        (IndexError, [0, 4]),
        (IndexError, (slice(None), [-6])),
        (IndexError, ([0, 1], [0, 1, 2])),
        (IndexError, [0.5]),
        (IndexError, "a"),
        (IndexError, 1.0),
        (IndexError, np.ones(3, bool)),
        (IndexError, np.ones((4, 4), bool)),
        (IndexError, ([0], [0], [0], [0])),
        (IndexError, [[0], [1, 2]]),
        (IndexError, (None,) * 6),
    ],
    ids=str,
)
def test_bad_keys(error, key):
    x = sl.zeros(SHAPE)
    with refuses(error, "getitem"):
        x[key]
    with pytest.raises(error):
        x[key] = 1.0
    assert float(x.sum()) == 0


def test_slices_with_bad_steps():
    with pytest.raises(ValueError):
        sl.zeros(3)[::0]
    with pytest.raises(TypeError):
        sl.zeros(3)["a":]


def test_bad_values():
    x = sl.zeros(2, 3)
    for value in (np.zeros(4), np.zeros((3, 2)), sl.zeros(2, 2, 3)):
        with refuses(ValueError, "setitem"):
            x[:] = value
        with refuses(ValueError, "setitem"):
            x[[0, 1]] = value
    with refuses(TypeError, "setitem"):
        x[0] = object()


# --- in place ---------------------------------------------------------------------------


def test_read_only_memory_is_not_written():
    a = np.zeros(3, np.float32)
    a.flags.writeable = False
    x = sl.from_numpy(a)
    for key in (0, slice(None), [0, 1]):
        with refuses(ValueError, "setitem"):
            x[key] = 1.0
    assert a.sum() == 0


def test_what_the_tape_cannot_follow_is_refused():
    leaf = sl.ones(3, requires_grad=True)
    with refuses(RuntimeError, "setitem"):
        leaf[0] = 2.0
    with sl.no_grad():
        leaf[0] = 2.0
    assert leaf.tolist() == [2, 1, 1]
    with refuses(RuntimeError, "setitem"):
        leaf[1:][0] = 5.0
    with refuses(ValueError, "setitem"):
        sl.ones(1).expand(3)[0] = 2.0


def test_writing_bumps_the_version():
    x = sl.ones(3, requires_grad=True)
    y = x * 1.0
    z = y * y
    y[0] = 3.0
    with pytest.raises(RuntimeError, match="modified in place"):
        z.sum().backward()


# --- order ------------------------------------------------------------------------------


def ordered(a, axis, descending):
    """NumPy's stable sort; NaN largest, so it comes first when descending."""
    key = -np.nan_to_num(a, nan=np.inf) if descending else a
    return np.argsort(key, axis=axis, kind="stable")


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize(
    ("shape", "axis"),
    [((1,), 0), ((7,), 0), ((0, 3), 0), ((3, 0), 0), ((4, 33), 1), ((65, 3), 0), ((3000,), 0)],
    ids=str,
)
def test_sort(shape, axis, descending, device, rng):
    a = np.round(rng.standard_normal(shape) * 8).astype(np.float32)  # with ties
    if a.size > 20:
        a.flat[3], a.flat[9], a.flat[11] = np.nan, -0.0, -np.inf
    values, indices = sl.tensor(a, device=device).sort(axis, descending)
    expected = ordered(a.astype(np.float64), axis, descending)
    np.testing.assert_array_equal(indices.cpu().numpy(), expected)
    np.testing.assert_array_equal(values.cpu().numpy(), np.take_along_axis(a, expected, axis))


@pytest.mark.parametrize("kind", [*INTS, "bool", "float16", "bfloat16", "float64"])
def test_sort_of_every_dtype(kind, device, rng):
    low = 0 if kind in ("uint8", "bool") else -100
    a = rng.integers(low, 2 if kind == "bool" else 120, (3, 300)).astype(np_dtype(kind))
    if kind == "int64":
        a[0, :2] = np.iinfo(np.int64).min, np.iinfo(np.int64).max
    indices = sl.tensor(a, device=device).argsort()
    wide = a.astype(np.float64) if kind not in ("int64",) else a
    np.testing.assert_array_equal(indices.cpu().numpy(), np.argsort(wide, -1, kind="stable"))


@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize(("n", "k"), [(5, 0), (5, 5), (100, 3), (5000, 20), (5000, 4000)])
def test_topk(n, k, largest, device, rng):
    a = np.round(rng.standard_normal((3, n)) * 50).astype(np.float32)
    values, indices = sl.tensor(a, device=device).topk(k, largest=largest)
    expected = ordered(a, 1, largest)[:, :k]
    np.testing.assert_array_equal(indices.cpu().numpy(), expected)
    np.testing.assert_array_equal(values.cpu().numpy(), np.take_along_axis(a, expected, 1))


def test_gradients_of_order(dtype, device, rng):
    x = make_tensor(rng.permutation(24).reshape(4, 6), dtype, device, requires_grad=True)
    values, indices = x.topk(2, 0)
    values.backward(make_tensor([[1.0] * 6, [2.0] * 6], dtype, device))
    expected = np.zeros((4, 6))
    np.put_along_axis(expected, indices.cpu().numpy(), np.array([[1.0], [2.0]]), 0)
    np.testing.assert_array_equal(x.grad.cpu().numpy().astype(np.float64), expected)


def test_mistakes_of_order():
    x = sl.ones(3, 4)
    with refuses(ValueError, "topk"):
        x.topk(5)
    with refuses(ValueError, "topk"):
        x.topk(-1)
    with refuses(ValueError, "sort"):
        x.sort(2)
    with refuses(TypeError, "sort"):
        x.sort("a")
