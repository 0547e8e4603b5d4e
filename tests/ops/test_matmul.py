# SPDX-License-Identifier: Apache-2.0
"""Products: matmul with batches and vectors, linear with its activations, einsum."""

from __future__ import annotations

import os

import numpy as np
import pytest

import reference as ref
import seqloom as sl
from support import (
    LAYOUTS,
    assert_close_to_reference,
    check_op,
    draws,
    make_tensor,
    refuses,
)

# m, k, n around the tiles of a GEMM and the width of every vector.
SIZES = [
    (1, 1, 1),
    (1, 7, 3),
    (2, 3, 5),
    (1, 64, 129),
    (5, 16, 16),
    (7, 33, 17),
    (16, 128, 15),
    (31, 65, 33),
    (65, 31, 130),
    (130, 257, 9),
    (3, 1, 300),
]


def matmul(a, b):
    return a @ b


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_matmul_over_sizes(size, isa, dtype, device, rng):
    m, k, n = size
    inputs = draws(rng, a=(m, k), b=(k, n))
    check_op(matmul, ref.matmul, inputs, device=device, dtype=dtype)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((4,), (4,)),
        ((4,), (4, 5)),
        ((3, 4), (4,)),
        ((2, 3, 4), (4, 5)),
        ((2, 3, 4), (2, 4, 5)),
        ((2, 1, 3, 4), (5, 4, 2)),
        ((4,), (2, 4, 5)),
        ((2, 3, 4), (4,)),
        ((6, 1, 9, 17), (1, 2, 17, 8)),
    ],
    ids=str,
)
def test_matmul_of_batches_and_vectors(a, b, dtype, device, rng):
    inputs = draws(rng, a=a, b=b)
    check_op(matmul, ref.matmul, inputs, device=device, dtype=dtype)
    check_op(sl.ops.matmul, ref.matmul, inputs, device=device, dtype=dtype, gradients=False)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [(5, 7, 3), (33, 64, 17)], ids=str)
def test_matmul_of_views(size, layout, isa, dtype, device, rng):
    m, k, n = size
    for batch in ((), (3,)):
        inputs = draws(rng, a=(*batch, m, k), b=(*batch, k, n))
        check_op(matmul, ref.matmul, inputs, device=device, dtype=dtype, layout=layout)


@pytest.mark.parametrize(
    ("a", "b"), [((0, 3), (3, 4)), ((2, 0), (0, 4)), ((2, 3), (3, 0)), ((0, 2, 3), (3, 4))], ids=str
)
def test_matmul_of_nothing(a, b, dtype, device, rng):
    check_op(matmul, ref.matmul, draws(rng, a=a, b=b), device=device, dtype=dtype)


def test_matmul_in_float64(rng):
    check_op(matmul, ref.matmul, draws(rng, a=(9, 33), b=(33, 5)), dtype="float64")


def test_matmul_accumulates_in_float32(dtype, device):
    """4096 ones times ones: a sum in 16 bits would stop at 256 or 2048."""
    a, b = np.ones((2, 4096)), np.ones((4096, 3))
    y = make_tensor(a, dtype, device) @ make_tensor(b, dtype, device)
    assert_close_to_reference(y, a @ b, a @ b, dtype=dtype)


def test_infinities_and_nan_pass_through(isa, dtype, device, rng):
    a, b = rng.standard_normal((5, 9)), rng.standard_normal((9, 7))
    a[1, 2], a[3, 4] = np.inf, np.nan
    y = make_tensor(a, dtype, device) @ make_tensor(b, dtype, device)
    got = y.cpu().numpy().astype(np.float64)
    assert np.isnan(got[3]).all()
    np.testing.assert_array_equal(got[1], np.where(b[2] > 0, np.inf, -np.inf))
    assert np.isfinite(got[[0, 2, 4]]).all()


# --- linear -----------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [(1, 1, 1), (3, 5, 7), (9, 64, 33), (40, 17, 65)], ids=str)
def test_linear_over_sizes(size, bias, isa, dtype, device, rng):
    rows, width, out = size
    inputs = draws(rng, x=(rows, width), weight=(out, width), bias=(out,))
    if not bias:
        del inputs["bias"]
    check_op(sl.ops.linear, ref.linear, inputs, device=device, dtype=dtype)


@pytest.mark.parametrize("activation", ["relu", "gelu", "gelu_tanh", "silu"])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_with_activation(activation, bias, dtype, device, rng):
    inputs = draws(rng, x=(2, 3, 19), weight=(35, 19), bias=(35,))
    if not bias:
        del inputs["bias"]
    options = {"activation": activation}
    check_op(sl.ops.linear, ref.linear, inputs, options, device=device, dtype=dtype, kind="product")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_linear_of_views(layout, dtype, device, rng):
    inputs = draws(rng, x=(2, 3, 18), weight=(5, 18), bias=(5,))
    check_op(sl.ops.linear, ref.linear, inputs, device=device, dtype=dtype, layout=layout)


@pytest.mark.parametrize("lead", [(), (0,), (2, 0, 3), (4,)], ids=str)
def test_linear_of_any_rank(lead, device, rng):
    inputs = draws(rng, x=(*lead, 6), weight=(5, 6), bias=(5,))
    check_op(sl.ops.linear, ref.linear, inputs, device=device)


# --- einsum -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("ij,jk->ik", [(3, 4), (4, 5)]),
        ("ij,kj->ki", [(3, 4), (5, 4)]),
        ("bij,bjk->bik", [(2, 3, 4), (2, 4, 5)]),
        ("bhid,bhjd->bhij", [(2, 3, 4, 5), (2, 3, 6, 5)]),
        ("bthd,bshd->bhts", [(2, 4, 3, 5), (2, 6, 3, 5)]),
        ("i,j->ij", [(3,), (4,)]),
        ("ij->ji", [(3, 4)]),
        ("ijk->j", [(3, 4, 5)]),
        ("ij,ij->", [(3, 4), (3, 4)]),
        ("ij,jk,k->i", [(3, 4), (4, 5), (5,)]),
    ],
)
def test_einsum(equation, shapes, dtype, device, rng):
    def reference(**xs):
        value, backward = ref.einsum.vjp(equation, *xs.values())
        return value, lambda g: {f"x{k}": v for k, v in backward(g).items()}

    check_op(
        lambda **xs: sl.einsum(equation, *xs.values()),
        ref.Op(reference),
        {f"x{i}": rng.standard_normal(s) for i, s in enumerate(shapes)},
        device=device,
        dtype=dtype,
        kind="product",
    )


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("ii->i", [(4, 4)]),
        ("ii", [(4, 4)]),
        ("iji->j", [(3, 4, 3)]),
        ("ijij->ji", [(2, 3, 2, 3)]),
        ("...ij,...jk->...ik", [(2, 3, 4), (5, 1, 4, 2)]),
        ("b...,b...->...", [(2, 3, 4), (2, 3, 4)]),
        ("i...->...", [(3, 4)]),
        ("...", [(2, 3)]),
        ("ab,cd->dbca", [(2, 3), (4, 2)]),
        ("abc,cde,ebf->adf", [(2, 3, 4), (4, 2, 5), (5, 3, 2)]),
        (" i j , j -> i ", [(3, 4), (4,)]),
        (",->", [(), ()]),
        ("i,->i", [(3,), ()]),
        ("ij,jk->", [(3, 0), (0, 4)]),
        ("iij,jkk->ik", [(3, 3, 4), (4, 2, 2)]),
        ("a...b,b...->...a", [(2, 3, 4), (4, 3)]),
    ],
)
def test_einsum_in_float64(equation, shapes, rng):
    """Diagonals, ellipses, implied results and order, with gradients by differences."""
    arrays = [rng.standard_normal(s) for s in shapes]
    tensors = [sl.tensor(a, dtype="float64", requires_grad=True) for a in arrays]
    y = sl.einsum(equation, *tensors)
    expected = np.einsum(equation, *arrays)
    assert_close_to_reference(y, expected, expected, dtype="float64")
    if y.size and all(a.size for a in arrays):
        assert sl.autograd.gradcheck(lambda *t: sl.einsum(equation, *t), tensors)


def test_einsum_without_an_arrow(device):
    a, b = np.arange(6.0).reshape(2, 3), np.arange(12.0).reshape(3, 4)
    y = sl.einsum("ij,jk", sl.tensor(a, device=device), sl.tensor(b, device=device))
    np.testing.assert_array_equal(y.cpu().numpy(), a @ b)


# --- strategies on CUDA ----------------------------------------------------------------


@pytest.mark.parametrize("size", [(70, 40, 70), (1, 9, 130), (129, 33, 200)], ids=str)
@pytest.mark.parametrize(("capability", "sms"), [(75, 8), (80, 1), (90, 1)])
def test_every_strategy_on_cuda(capability, sms, size, dtype, device, rng):
    """Turing's products, and the large tile, which few multiprocessors are enough for."""
    if device == "cpu" or "emulated" not in sl._core.build_info()["cuda"]:
        pytest.skip("needs the emulated device")
    m, k, n = size
    configure = sl._core.emulation_configure
    configure("capability", str(capability))
    configure("sms", str(sms))
    try:
        for layout in ("contiguous", "transposed"):
            inputs = draws(rng, a=(m, k), b=(k, n))
            check_op(matmul, ref.matmul, inputs, device=device, dtype=dtype, layout=layout)
    finally:
        configure("capability", os.environ.get("SEQLOOM_EMULATION_CAPABILITY", "90"))
        configure("sms", "8")


@pytest.fixture
def library(device):
    """Products take the way that they take on a GPU where cuBLASLt is loaded."""
    if device == "cpu" or "emulated" not in sl._core.build_info()["cuda"]:
        pytest.skip("needs the emulated device")
    sl._core.emulation_configure("library", "1")
    yield
    sl._core.emulation_configure("library", "0")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("a", "b"), [((9, 17), (17, 33)), ((2, 3, 4), (2, 4, 5)), ((6, 1, 9, 17), (1, 2, 17, 8))]
)
def test_products_by_the_library(a, b, layout, dtype, device, rng, library):
    check_op(matmul, ref.matmul, draws(rng, a=a, b=b), device=device, dtype=dtype, layout=layout)


@pytest.mark.parametrize("activation", [None, "gelu", "silu"])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_by_the_library(activation, bias, dtype, device, rng, library):
    inputs = draws(rng, x=(2, 3, 19), weight=(35, 19), bias=(35,))
    if not bias:
        del inputs["bias"]
    options = {"activation": activation}
    check_op(sl.ops.linear, ref.linear, inputs, options, device=device, dtype=dtype, kind="product")


def test_the_library_takes_the_place_of_kernels(device, rng, library):
    x, w = (make_tensor(rng.standard_normal((40, 24)), "float32", device) for _ in range(2))
    count = sl._core.emulation_statistics
    before = count()["launches"]
    sl.ops.linear(x, w).cpu()
    assert count()["launches"] == before
    sl._core.emulation_configure("library", "0")
    sl.ops.linear(x, w).cpu()
    assert count()["launches"] > before


# --- integers, threads, packed weights -------------------------------------------------


@pytest.mark.parametrize("kind", ["int64", "int32", "int8", "uint8"])
def test_matmul_of_integers_wraps(kind, device, rng):
    info = np.iinfo(kind)
    a = rng.integers(info.min, info.max, (5, 9), kind, endpoint=True)
    b = rng.integers(info.min, info.max, (9, 4), kind, endpoint=True)
    y = sl.tensor(a, device=device) @ sl.tensor(b, device=device)
    np.testing.assert_array_equal(y.cpu().numpy(), a @ b)
    assert y.dtype.name == kind


@pytest.mark.parametrize("size", [(7, 300, 500), (300, 64, 64), (1, 512, 900)], ids=str)
def test_the_same_bits_for_any_number_of_threads(size, dtype, rng):
    m, k, n = size
    a, b = (
        make_tensor(rng.standard_normal((m, k)), dtype),
        make_tensor(rng.standard_normal((k, n)), dtype),
    )
    before, results = sl.get_num_threads(), []
    try:
        for threads in (1, 2, 4):
            sl.set_num_threads(threads)
            results.append((a @ b).numpy().tobytes())
    finally:
        sl.set_num_threads(before)
    assert results[0] == results[1] == results[2]


def test_packed_weights_follow_every_change(dtype, rng):
    x = make_tensor(rng.standard_normal((8, 96)), dtype)
    w = make_tensor(rng.standard_normal((64, 96)), dtype)
    before = sl._core.packed_bytes_in_use()

    def check(w=w):
        product = x.numpy().astype(np.float64) @ w.clone().numpy().astype(np.float64).T
        assert_close_to_reference(sl.ops.linear(x, w), product, product, dtype=dtype)

    for _ in range(3):
        check()
    assert sl._core.packed_bytes_in_use() > before
    w.mul_(2.0)
    for _ in range(3):
        check()
    w[3] = 1.0
    for _ in range(3):
        check()
    w.numpy()[:] = 0.5  # from here on NumPy may write it at any time
    check()
    del w, check
    assert sl._core.packed_bytes_in_use() == before


def test_gradients_through_strange_strides(device, rng):
    a = make_tensor(rng.standard_normal((3, 1, 5)), device=device, dtype="float32")
    wide = a.expand(3, 4, 5)
    wide.requires_grad = True
    b = make_tensor(rng.standard_normal((5, 2)), "float32", device, requires_grad=True)
    (wide @ b).sum().backward()
    ones = np.ones((3, 4, 2))
    of_b = np.einsum("bij,bik->jk", wide.detach().cpu().numpy(), ones)
    assert_close_to_reference(b.grad, of_b, of_b, dtype="float32")
    of_a = ones @ b.detach().cpu().numpy().T
    assert_close_to_reference(wide.grad, of_a, of_a, dtype="float32")


# --- mistakes ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "name", "call"),
    [
        (ValueError, "matmul", lambda: sl.ones(2, 3) @ sl.ones(4, 5)),
        (ValueError, "matmul", lambda: sl.ones(2, 2, 3) @ sl.ones(3, 3, 4)),
        (ValueError, "matmul", lambda: sl.tensor(1.0) @ sl.ones(3)),
        (TypeError, "matmul", lambda: sl.ones(2, 3) @ sl.ones(3, 2, dtype="float16")),
        (ValueError, "linear", lambda: sl.ops.linear(sl.ones(2, 3), sl.ones(5, 4))),
        (ValueError, "linear", lambda: sl.ops.linear(sl.ones(2, 3), sl.ones(5, 3), sl.ones(4))),
        (
            ValueError,
            "linear",
            lambda: sl.ops.linear(sl.ones(2, 3), sl.ones(5, 3), activation="softplus"),
        ),
        (ValueError, "einsum", lambda: sl.einsum("ij,jk->ik", sl.ones(2, 3), sl.ones(4, 5))),
        (ValueError, "einsum", lambda: sl.einsum("ij->q", sl.ones(2, 3))),
        (ValueError, "einsum", lambda: sl.einsum("ij->ii", sl.ones(2, 3))),
        (ValueError, "einsum", lambda: sl.einsum("ii->i", sl.ones(2, 3))),
        (ValueError, "einsum", lambda: sl.einsum("ij", sl.ones(2, 3), sl.ones(2))),
        (ValueError, "einsum", lambda: sl.einsum("i", sl.ones(2, 3))),
        (ValueError, "einsum", lambda: sl.einsum("i1->i", sl.ones(2, 3))),
        (ValueError, "einsum", lambda: sl.einsum("i->j->i", sl.ones(2))),
        (TypeError, "einsum", lambda: sl.einsum(sl.ones(2), "i")),
        (TypeError, "einsum", lambda: sl.einsum("i,i", sl.ones(2), 3)),
        (TypeError, "matmul", lambda: sl.ops.matmul(sl.ones(2, 2), 3)),
        (TypeError, "matmul", lambda: sl.ones(2, 2).bool() @ sl.ones(2, 2).bool()),
        (TypeError, "linear", lambda: sl.ops.linear(sl.ones(2, 3), None)),
        (TypeError, "linear", lambda: sl.ops.linear(sl.ones(2, 3).long(), sl.ones(5, 3).long())),
        (TypeError, "linear", lambda: sl.ops.linear(sl.ones(2, 3), sl.ones(5, 3), activation=1)),
    ],
)
def test_mistakes_are_named(error, name, call):
    with refuses(error, name):
        call()
