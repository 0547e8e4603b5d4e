# SPDX-License-Identifier: Apache-2.0
"""Dtypes, strides and memory of elementwise ops: promotion, casts, in-place changes, creation."""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np
import pytest

import seqloom as sl
from support import make_tensor, np_dtype, refuses, to_float64

FLOATS = ("float32", "float16", "bfloat16", "float64")
INTS = ("int64", "int32", "int8", "uint8")
DTYPES = (*FLOATS, *INTS, "bool")


def expected_dtype(a: str, b: str) -> str:
    """The wider of two kinds; within a kind what holds both."""
    if a == b:
        return a
    for kind in (FLOATS, INTS):
        both = [d for d in (a, b) if d in kind]
        if len(both) == 1:
            return both[0]
        if len(both) == 2:
            if kind is FLOATS:
                return "float64" if "float64" in both else "float32"
            return "int64" if "int64" in both else "int32"
    raise AssertionError


def small(dtype: str) -> np.ndarray:
    values = np.array([[0, 1, 3], [5, 2, 7]])
    return (values % 2 == 1) if dtype == "bool" else values.astype(np_dtype(dtype))


@pytest.mark.parametrize(("a", "b"), list(itertools.product(DTYPES, DTYPES)))
def test_two_tensors_promote(a, b, device):
    if device == "cuda" and "float64" in (a, b):
        pytest.skip("float64 is a dtype of the CPU")
    x, y = small(a), small(b)[:1]
    out = sl.tensor(x, device=device) + sl.tensor(y, device=device)
    want = expected_dtype(a, b)
    assert out.dtype.name == want
    exact = x.astype(np.float64) + y.astype(np.float64)
    np.testing.assert_array_equal(to_float64(out), exact != 0 if want == "bool" else exact)
    less = sl.tensor(x, device=device) < sl.tensor(y, device=device)
    assert less.dtype == sl.bool_
    np.testing.assert_array_equal(less.cpu().numpy(), x.astype(np.float64) < y.astype(np.float64))


@pytest.mark.parametrize("dtype", DTYPES)
def test_numbers_and_scalars_are_weak(dtype, device):
    if device == "cuda" and dtype == "float64":
        pytest.skip("float64 is a dtype of the CPU")
    x = sl.tensor(small(dtype), device=device)
    kind = 0 if dtype == "bool" else 1 if dtype in INTS else 2
    for number, order in ((True, 0), (2, 1), (1.5, 2)):
        want = dtype if order <= kind else {1: "int64", 2: "float32"}[order]
        assert (x * number).dtype.name == want
        assert (number * x).dtype.name == want
    # A tensor of rank 0 does not widen an array of its own kind.
    for scalar in ("float32", "int64"):
        zero_d = sl.tensor(np.ones((), scalar), device=device)
        order = 2 if scalar == "float32" else 1
        want = dtype if order <= kind else scalar
        assert (x * zero_d).dtype.name == want
        assert (zero_d * zero_d).dtype.name == scalar


def test_numpy_operands_join_in(device):
    x = sl.tensor([1.0, 2.0], device=device)
    a = np.array([3.0, 4.0], np.float32)
    for out in (x + a, a + x):
        assert isinstance(out, sl.Tensor)
        assert out.tolist() == [4.0, 6.0]
    assert (a - x).tolist() == [2.0, 2.0]
    assert (x * np.float32(2)).tolist() == [2.0, 4.0]
    assert (np.float64(2) ** x).tolist() == [2.0, 4.0]
    assert (x > np.array([1.5, 1.5])).tolist() == [False, True]


def test_foreign_operands_are_refused():
    x = sl.ones(2)
    for operand in ("a", None, [1.0], object()):
        with pytest.raises(TypeError, match="unsupported operand"):
            x + operand
        with pytest.raises(TypeError, match="unsupported operand"):
            operand - x
    assert (x == None) is False  # noqa: E711
    assert (x != "a") is True
    with refuses(TypeError, "maximum"):
        sl.ops.maximum(x, "a")


@pytest.mark.parametrize(("a", "b"), list(itertools.product(DTYPES, DTYPES)))
def test_casts_do_as_numpy(a, b, isa, device):
    if device == "cuda" and "float64" in (a, b):
        pytest.skip("float64 is a dtype of the CPU")
    rng = np.random.default_rng(1)
    values = rng.integers(0, 100, (5, 37)) * (1 if "uint8" in (a, b) else rng.choice([-1, 1], 37))
    x = values.astype(np_dtype(a)) if a in (*INTS, "bool") else (values + 0.25).astype(np_dtype(a))
    t = sl.tensor(x, device=device)
    for view, want in ((t, x), (t[:, ::-3], x[:, ::-3]), (t[2:3], x[2:3])):
        out = view.type(b)
        assert out.dtype.name == b
        with np.errstate(invalid="ignore"):
            np.testing.assert_array_equal(out.cpu().numpy(), want.astype(np_dtype(b)))


def test_casts_of_extremes_are_defined(device):
    x = sl.tensor([np.nan, np.inf, -np.inf, 3e38], device=device)
    assert x.long().tolist() == [0, 2**63 - 1, -(2**63), 2**63 - 1]
    assert x.bool().tolist() == [True] * 4
    assert x.half().tolist()[1:] == [np.inf, -np.inf, np.inf]
    big = sl.tensor([2**63 - 1, -(2**63)], device=device)
    assert (big + 1).tolist() == [-(2**63), -(2**63) + 1]
    assert (big // -1).tolist() == [-(2**63) + 1, -(2**63)]
    assert (big // 0).tolist() == [0, 0]
    assert (big % -1).tolist() == [0, 0]


@pytest.mark.parametrize("dtype", INTS)
def test_integers_wrap(dtype, isa, device, rng):
    info = np.iinfo(dtype)
    a = rng.integers(info.min, info.max, 67, dtype=dtype, endpoint=True)
    b = rng.integers(info.min, info.max, 67, dtype=dtype, endpoint=True)
    x, y = sl.tensor(a, device=device), sl.tensor(b, device=device)
    with np.errstate(all="ignore"):
        for got, want in (
            (x + y, a + b),
            (x - y, a - b),
            (x * y, a * b),
            (-x, -a),
            (x & y, a & b),
            (x | y, a | b),
            (x ^ y, a ^ b),
            (~x, ~a),
            (x**3, a**3),
            (sl.ops.maximum(x, y), np.maximum(a, b)),
            (x.clamp(3, 50), np.clip(a, 3, 50)),
        ):
            assert got.dtype.name == dtype
            np.testing.assert_array_equal(got.cpu().numpy(), want)


def test_float_division_follows_python(dtype, isa, device, rng):
    a = rng.uniform(-9, 9, 70).round(1).astype(np_dtype(dtype))
    b = np.where(a > 0, 0.5, -0.75).astype(np_dtype(dtype))
    b[3:6] = [2.5, -2.5, 0.125]
    x, y = sl.tensor(a, device=device), sl.tensor(b, device=device)
    wide_a, wide_b = a.astype(np.float32), b.astype(np.float32)
    for got, want in ((x // y, wide_a // wide_b), (x % y, wide_a % wide_b)):
        np.testing.assert_array_equal(got.cpu().numpy(), want.astype(np_dtype(dtype)))
    special = sl.tensor([1.0, -1.0, 0.0], device=device) // 0.0
    np.testing.assert_array_equal(special.cpu().numpy(), np.array([np.inf, -np.inf, np.nan], "f"))


def test_the_sign_of_zero_and_nan_survive(dtype, device):
    x = make_tensor([0.0, -0.0, np.nan], dtype, device)
    for y in (x.relu(), x.clamp(-1, 1), sl.ops.maximum(x, x), sl.ops.minimum(x, x)):
        assert np.isnan(to_float64(y)[2])
    for y in (-x, x * -1.0):
        np.testing.assert_array_equal(np.signbit(to_float64(y))[:2], [True, False])
    big = make_tensor([1.0, np.nan], dtype, device)
    assert np.isnan(
        to_float64(sl.ops.maximum(big, make_tensor([np.nan, 1.0], dtype, device)))
    ).all()


# --- strides and memory -------------------------------------------------------------------


def test_any_strides_in_and_out(isa, dtype, device, rng):
    a = rng.standard_normal((6, 9, 40)).astype(np_dtype(dtype))
    x = sl.tensor(a, device=device)
    pairs = (
        (x[::2, ::-1], a[::2, ::-1]),
        (x.transpose(0, 2), a.transpose(2, 1, 0)),
        (x[:, :, :1].expand(6, 9, 40), np.broadcast_to(a[:, :, :1], a.shape)),
        (x.permute(2, 0, 1)[3:, 1], a.transpose(2, 0, 1)[3:, 1]),
        (x[2, 3], a[2, 3]),
        (x[..., -1:0:-2], a[..., -1:0:-2]),
    )
    for view, want in pairs:
        np.testing.assert_array_equal(view.contiguous().cpu().numpy(), want)
        np.testing.assert_array_equal((view * 2).cpu().numpy(), want * np_dtype(dtype).type(2))
        np.testing.assert_array_equal((view > view[..., :1]).cpu().numpy(), want > want[..., :1])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "float64"])
@pytest.mark.parametrize("shape", [(64, 100), (3, 70, 33), (1000, 3), (2, 3, 4, 5)], ids=str)
def test_transposes_of_every_item_size(dtype, shape, isa, device, rng):
    if device == "cuda" and dtype == "float64":
        pytest.skip("float64 is a dtype of the CPU")
    a = rng.integers(-100, 100, shape).astype(np_dtype(dtype))
    x = sl.tensor(a, device=device)
    for order in itertools.permutations(range(len(shape))):
        got = x.permute(*order).contiguous()
        assert got.is_contiguous()
        np.testing.assert_array_equal(got.cpu().numpy(), a.transpose(order))


def test_in_place_ops_write_through_views(isa, dtype, device, rng):
    a = rng.integers(-8, 8, (5, 8)).astype(np_dtype(dtype))
    x = sl.tensor(a, device=device)
    one, two = np_dtype(dtype).type(1), np_dtype(dtype).type(2)
    x[:, ::2].add_(1)
    a[:, ::2] += one
    x.transpose(0, 1)[3].mul_(2)
    a[:, 3] *= two
    x[1:, 1:].copy_(x[:-1, :-1])  # overlapping: as if the source was copied first
    a[1:, 1:] = a[:-1, :-1].copy()
    x[-1].fill_(7)
    a[-1] = np_dtype(dtype).type(7)
    x -= sl.tensor(a[0], device=device)
    a -= a[0].copy()
    x /= 2
    a = (a.astype(np.float32) / 2).astype(np_dtype(dtype))
    np.testing.assert_array_equal(x.cpu().numpy(), a)


def test_in_place_ops_keep_the_rules(device):
    x = sl.ones(2, 3, device=device)
    before = x._version
    assert x.add_(1) is x
    assert x._version > before
    with refuses(ValueError, "add_"):
        x.add_(sl.ones(2, 2, 3, device=device))
    with refuses(TypeError, "mul_"):
        sl.ones(3, dtype="int64", device=device).mul_(1.5)
    with refuses(TypeError, "add_"):
        x.add_("a")
    leaf = sl.ones(3, device=device, requires_grad=True)
    with pytest.raises(RuntimeError, match="leaf"):
        leaf += 1
    with sl.no_grad():
        leaf += 1
    assert leaf.tolist() == [2.0, 2.0, 2.0]
    with pytest.raises(ValueError, match="expanded"):
        sl.ones(1, device=device).expand(3).add_(1)


def test_read_only_memory_is_not_written():
    a = np.ones(3, np.float32)
    a.flags.writeable = False
    x = sl.from_numpy(a)
    for change in (lambda: x.add_(1), lambda: x.fill_(0), lambda: x.copy_(sl.zeros(3))):
        with pytest.raises(ValueError, match="read-only"):
            change()
    assert a.tolist() == [1.0, 1.0, 1.0]


def test_gradients_go_through_in_place_changes(device):
    x = sl.tensor([1.0, 2.0, 3.0], device=device, requires_grad=True)
    w = sl.tensor([4.0, 5.0, 6.0], device=device, requires_grad=True)
    y = x * 2
    y.mul_(w)
    y.add_(w)
    y.div_(2)
    y.sub_(x)
    assert y.tolist() == [5.0, 10.5, 18.0]  # (2 x w + w) / 2 - x
    y.sum().backward()
    assert x.grad.tolist() == [3.0, 4.0, 5.0]
    assert w.grad.tolist() == [1.5, 2.5, 3.5]


def test_a_saved_tensor_that_changed_is_named(device):
    x = sl.ones(3, device=device, requires_grad=True)
    y = x * 2
    z = y * y
    y.add_(1)
    with pytest.raises(RuntimeError, match="mul saved"):
        z.sum().backward()


def test_copy_gives_gradients_to_the_source_alone(device):
    x = sl.ones(2, 3, device=device, requires_grad=True)
    source = sl.ones(3, device=device, requires_grad=True)
    y = x * 2
    y.copy_(source)
    (y * 3).sum().backward()
    assert source.grad.tolist() == [6.0, 6.0, 6.0]
    assert x.grad is None or not x.grad.numpy().any()


# --- creation -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_full_of_every_dtype(dtype, device):
    if device == "cuda" and dtype == "float64":
        pytest.skip("float64 is a dtype of the CPU")
    for shape in ((), (0,), (3, 5), (1000,)):
        t = sl.full(shape, 1, dtype=dtype, device=device)
        assert t.shape == shape
        assert t.dtype.name == dtype
        np.testing.assert_array_equal(t.cpu().numpy(), np.ones(shape, np_dtype(dtype)))


def test_random_streams_are_pure_functions_of_the_seed(isa, device):
    import statistics

    sl.manual_seed(5)
    uniform = sl.rand(10000, device=device).cpu().numpy()
    normal = sl.randn(10001, device=device).cpu().numpy()
    integers = sl.randint(-3, 4, (9999,), device=device).cpu().numpy()
    sl.manual_seed(5)
    again = sl.rand(100, 100, device=device).cpu().numpy().ravel()
    np.testing.assert_array_equal(uniform, again)
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert abs(statistics.fmean(uniform) - 0.5) < 5 * (1 / 12 / 10000) ** 0.5
    assert abs(statistics.fmean(normal)) < 5 / 10000**0.5
    assert abs(normal.std() - 1) < 0.05
    assert set(integers.tolist()) == set(range(-3, 4))


def test_cuda_draws_the_numbers_of_the_cpu(device):
    if device == "cpu":
        pytest.skip("compares CUDA with the CPU")
    draws = []
    for where in ("cpu", "cuda"):
        sl.manual_seed(9)
        draws.append(
            [
                t.cpu().numpy()
                for t in (
                    sl.rand(1003, device=where),
                    sl.randint(0, 1000, (333,), device=where),
                    sl.ops.dropout(sl.ones(2049, device=where), 0.3),
                )
            ]
        )
    for on_cpu, on_cuda in zip(*draws, strict=True):
        np.testing.assert_array_equal(on_cpu, on_cuda)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_uniform_never_reaches_one(dtype, device):
    sl.manual_seed(0)
    x = to_float64(sl.rand(200000 if device == "cpu" else 2000, dtype=dtype, device=device))
    assert x.min() >= 0
    assert x.max() < 1


def test_threads_do_not_change_bits(device, rng):
    if device == "cuda":
        pytest.skip("threads are the CPU's")
    x = sl.tensor(rng.standard_normal(100003).astype(np.float32))
    results = []
    before = sl.get_num_threads()
    try:
        for threads in (1, 2, 4):
            sl.set_num_threads(threads)
            sl.manual_seed(1)
            results.append(
                [t.numpy() for t in (sl.ops.gelu(x), x * x + 1, sl.ops.dropout(x), sl.randn(77777))]
            )
    finally:
        sl.set_num_threads(before)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_bfloat16_rounds_to_nearest_even(isa, device):
    bits = np.arange(0x3F7F0000, 0x3F820000, 0x400, dtype=np.uint32)
    x = bits.view(np.float32)
    got = sl.tensor(x, device=device).bfloat16().cpu().numpy()
    np.testing.assert_array_equal(got, x.astype(ml_dtypes.bfloat16))
