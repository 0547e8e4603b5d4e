# SPDX-License-Identifier: Apache-2.0
"""Layout ops: views, indexing, joining, triangles, gather and embedding. All are exact."""

from __future__ import annotations

import numpy as np
import pytest

import reference as ref
import seqloom as sl
from support import (
    INTS,
    LAYOUTS,
    assert_close_to_reference,
    check_op,
    draws,
    make_tensor,
    np_dtype,
    refuses,
)

INDEX = np.array([2, 0, 0, 3])

# name: (shape, on a tensor, on a NumPy array)
MOVES = {
    "reshape": ((4, 6), lambda x: x.reshape(3, 8), lambda x: x.reshape(3, 8)),
    "reshape-infer": ((4, 6), lambda x: x.reshape(2, -1), lambda x: x.reshape(2, -1)),
    "transpose": ((3, 4, 5), lambda x: x.transpose(0, 2), lambda x: x.swapaxes(0, 2)),
    "permute": ((3, 4, 5), lambda x: x.permute(2, 0, 1), lambda x: x.transpose(2, 0, 1)),
    "permute-reshape": (
        (3, 4, 5),
        lambda x: x.permute(1, 2, 0).reshape(4, 15),
        lambda x: x.transpose(1, 2, 0).reshape(4, 15),
    ),
    "expand": ((3, 1, 5), lambda x: x.expand(3, 4, 5), lambda x: np.broadcast_to(x, (3, 4, 5))),
    "expand-new": ((5,), lambda x: x.expand(2, -1), lambda x: np.broadcast_to(x, (2, 5))),
    "squeeze": ((1, 3, 1), lambda x: x.squeeze(), lambda x: x.squeeze()),
    "squeeze-one": ((1, 3, 1), lambda x: x.squeeze(-1), lambda x: x.squeeze(-1)),
    "unsqueeze": ((3, 5), lambda x: x.unsqueeze(1), lambda x: x[:, None]),
    "unsqueeze-last": ((3, 5), lambda x: x.unsqueeze(-1), lambda x: x[..., None]),
    "flatten": ((2, 3, 4), lambda x: x.flatten(), lambda x: x.ravel()),
    "flatten-some": ((2, 3, 4), lambda x: x.flatten(1), lambda x: x.reshape(2, 12)),
    "contiguous": ((3, 5), lambda x: x.transpose(0, 1).contiguous(), lambda x: x.T),
    "int": ((4, 5), lambda x: x[2], lambda x: x[2]),
    "negative-int": ((4, 5), lambda x: x[-1, 1], lambda x: x[-1, 1]),
    "slice": ((7, 5), lambda x: x[1:6:2, :3], lambda x: x[1:6:2, :3]),
    "slice-beyond": ((4, 5), lambda x: x[2:99, -3:], lambda x: x[2:99, -3:]),
    "slice-none": ((4, 5), lambda x: x[3:1], lambda x: x[3:1]),
    "ellipsis": ((2, 3, 4), lambda x: x[..., 1], lambda x: x[..., 1]),
    "new-axis": ((3, 4), lambda x: x[:, None, 1:], lambda x: x[:, None, 1:]),
    "index-list": ((4, 5), lambda x: x[[2, 0, 0, 3]], lambda x: x[INDEX]),
    "index-array": ((4, 5), lambda x: x[INDEX], lambda x: x[INDEX]),
    "index-pairs": ((4, 5), lambda x: x[INDEX, INDEX], lambda x: x[INDEX, INDEX]),
    "flip": ((3, 4, 5), lambda x: x.flip(0, -1), lambda x: np.flip(x, (0, 2))),
    "roll": ((3, 5), lambda x: sl.ops.roll(x, -2, 1), lambda x: np.roll(x, -2, 1)),
    "repeat": ((2, 3), lambda x: sl.ops.repeat(x, (2, 1, 3)), lambda x: np.tile(x, (2, 1, 3))),
    "index_select": (
        (3, 4, 5),
        lambda x: x.index_select(1, sl.tensor(INDEX, device=x.device)),
        lambda x: x[:, INDEX],
    ),
    "unbind": ((3, 4), lambda x: sl.stack(sl.ops.unbind(x, 1)), lambda x: x.T),
    "tril": ((2, 4, 5), lambda x: x.tril(), np.tril),
    "triu": ((4, 5), lambda x: x.triu(1), lambda x: np.triu(x, 1)),
}


def triangle(name):
    return name in ("tril", "triu")


def check_move(name, shape, device, dtype, rng, layout="contiguous"):
    _, ours, numpys = MOVES[name]
    reference = (
        ref.Op(lambda x: (numpys(x), lambda g: {"x": numpys(g)}))
        if triangle(name)
        else ref.Op(lambda x: renamed(ref.rearrange.vjp(x, function=numpys)))
    )
    check_op(ours, reference, draws(rng, x=shape), device=device, dtype=dtype, layout=layout)


def renamed(pair):
    value, backward = pair
    return value, lambda g: {"x": backward(g)["0"]}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", MOVES)
def test_moves(name, layout, dtype, device, rng):
    check_move(name, MOVES[name][0], device, dtype, rng, layout)


@pytest.mark.parametrize("kind", [*INTS, "bool", "float64"])
@pytest.mark.parametrize("name", MOVES)
def test_moves_of_every_dtype(name, kind, device, rng):
    shape, ours, numpys = MOVES[name]
    a = rng.integers(0, 2 if kind == "bool" else 100, shape).astype(np_dtype(kind))
    y = ours(make_tensor(a, device=device))
    np.testing.assert_array_equal(y.cpu().numpy(), numpys(a))
    assert y.dtype.name == kind


def test_views_share_memory():
    x = sl.tensor(np.arange(12.0).reshape(3, 4))
    for y in (x.reshape(4, 3), x.view(12), x.transpose(0, 1), x[1:], x[:, ::2], x.flatten()):
        before = y.numpy().copy()
        x[:] = x * -1 - 1
        np.testing.assert_array_equal(y.numpy(), -before - 1)


def test_view_refuses_what_would_need_a_copy():
    with refuses((ValueError, RuntimeError), "view"):
        sl.ones(3, 4).transpose(0, 1).view(12)


def test_assignment_to_parts(device):
    a = np.arange(20.0, dtype=np.float32).reshape(4, 5)
    x = sl.tensor(a, device=device)
    for key, value in ((1, 7.0), ((slice(None), 2), -1.0), ((slice(0, 4, 2), slice(1, 3)), 0.5)):
        x[key] = value
        a[key] = value
    x[3] = sl.tensor(np.arange(5, dtype=np.float32), device=device)
    a[3] = np.arange(5)
    np.testing.assert_array_equal(x.cpu().numpy(), a)


def test_boolean_mask_selects(device, rng):
    a = rng.standard_normal((4, 5)).astype(np.float32)
    x = sl.tensor(a, device=device)
    np.testing.assert_array_equal(x[sl.tensor(a > 0, device=device)].cpu().numpy(), a[a > 0])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_cat_and_stack(axis, layout, dtype, device, rng):
    for ours, numpys, shapes in (
        (sl.cat, np.concatenate, [[2, 3, 4], [2, 3, 4], [2, 3, 4]]),
        (sl.stack, np.stack, [[2, 3], [2, 3]]),
    ):
        if ours is sl.cat:
            shapes[1][axis], shapes[2][axis] = 5, 0
        reference = ref.Op(
            lambda numpys=numpys, **xs: named(
                ref.rearrange.vjp(*xs.values(), function=lambda *a: numpys(a, axis))
            )
        )
        check_op(
            lambda ours=ours, **xs: ours(list(xs.values()), axis),
            reference,
            {f"x{i}": rng.standard_normal(s) for i, s in enumerate(shapes)},
            device=device,
            dtype=dtype,
            layout=layout,
        )


def named(pair):
    value, backward = pair
    return value, lambda g: {f"x{k}": v for k, v in backward(g).items()}


@pytest.mark.parametrize(("size", "axis"), [(2, 0), (3, 1), ([1, 4, 2], 1)], ids=str)
def test_split(size, axis, dtype, device, rng):
    def numpys(x):
        edges = np.cumsum(size)[:-1] if isinstance(size, list) else range(size, x.shape[axis], size)
        return np.split(x, list(edges), axis)

    def reference(x):
        parts = numpys(x)

        def backward(*grads):
            return {"x": np.concatenate(grads, axis)}

        return tuple(parts), backward

    check_op(
        lambda x: x.split(size, axis),
        ref.Op(reference),
        draws(rng, x=(5, 7)),
        device=device,
        dtype=dtype,
    )


def test_chunk_leaves_the_rest_to_the_last(device):
    a = np.arange(14, dtype=np.float32).reshape(2, 7)
    parts = sl.tensor(a, device=device).chunk(3, 1)
    assert [p.shape[1] for p in parts] == [3, 3, 1]
    np.testing.assert_array_equal(np.concatenate([p.cpu().numpy() for p in parts], 1), a)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("shape", "index_shape", "axis"),
    [((4, 5), (4, 7), 1), ((4, 5), (2, 5), 0), ((3, 4, 5), (3, 2, 6), -1), ((6,), (0,), 0)],
    ids=str,
)
def test_gather(shape, index_shape, axis, layout, dtype, device, rng):
    check_op(
        lambda x, index, axis: x.gather(axis, index),
        ref.gather,
        draws(rng, x=shape),
        {"index": rng.integers(0, shape[axis], index_shape), "axis": axis},
        device=device,
        dtype=dtype,
        layout=layout,
    )


# --- embedding --------------------------------------------------------------------------


def embedding_reference(weight, ids, padding_idx=None):
    return ref.embedding.vjp(ids, weight, padding_idx=padding_idx)


@pytest.mark.parametrize("padding_idx", [None, 0, 3])
@pytest.mark.parametrize("ids_shape", [(), (5,), (3, 4), (2, 0), (2, 3, 4)], ids=str)
@pytest.mark.parametrize("width", [1, 5, 16, 33])
def test_embedding(width, ids_shape, padding_idx, dtype, device, rng):
    check_op(
        lambda weight, ids, padding_idx: sl.ops.embedding(ids, weight, padding_idx=padding_idx),
        ref.Op(embedding_reference),
        draws(rng, weight=(7, width)),
        {"ids": rng.integers(0, 7, ids_shape), "padding_idx": padding_idx},
        device=device,
        dtype=dtype,
    )


def test_embedding_sums_the_gradients_of_repeated_rows(dtype, device, rng):
    ids = np.array([1, 1, 1, 0, 1] * 40)
    check_op(
        lambda weight, ids: sl.ops.embedding(ids, weight),
        ref.Op(embedding_reference),
        draws(rng, weight=(3, 17)),
        {"ids": ids},
        device=device,
        dtype=dtype,
    )


@pytest.mark.parametrize("kind", ["int64", "int32"])
def test_embedding_takes_both_widths_of_ids(kind, device):
    weight = np.arange(12.0, dtype=np.float32).reshape(4, 3)
    ids = np.array([[3, 0], [1, 1]]).astype(kind)
    y = sl.ops.embedding(sl.tensor(ids, device=device), sl.tensor(weight, device=device))
    np.testing.assert_array_equal(y.cpu().numpy(), weight[ids])


@pytest.mark.parametrize("threads", [1, 3])
def test_embedding_gradient_has_the_same_bits_for_any_number_of_threads(threads, rng):
    ids = rng.integers(0, 900, 4000)
    weight = make_tensor(rng.standard_normal((1000, 65)), "float32", requires_grad=True)
    grad = sl.tensor(rng.standard_normal((4000, 65)).astype(np.float32))
    before = sl.get_num_threads()
    try:
        grads = []
        for n in (2, threads):
            sl.set_num_threads(n)
            weight.grad = None
            sl.ops.embedding(sl.tensor(ids), weight).backward(grad)
            grads.append(weight.grad.numpy().copy())
    finally:
        sl.set_num_threads(before)
    np.testing.assert_array_equal(*grads)
    expected = np.zeros((1000, 65))
    np.add.at(expected, ids, grad.numpy().astype(np.float64))
    assert_close_to_reference(grads[0], expected, expected, dtype="float32")


def test_pad(device, rng):
    a = rng.standard_normal((2, 3))
    x = make_tensor(a, "float32", device, requires_grad=True)
    y = sl.ops.pad(x, (1, 2, 0, 1), 4.0)
    widths = ((0, 1), (1, 2))
    expected = np.pad(a.astype(np.float32), widths, constant_values=4)
    np.testing.assert_array_equal(y.detach().cpu().numpy(), expected)
    y.backward(make_tensor(np.arange(18.0).reshape(3, 6), "float32", device))
    np.testing.assert_array_equal(x.grad.cpu().numpy(), np.arange(18.0).reshape(3, 6)[:2, 1:4])


def test_one_hot(device):
    ids = np.array([[2, 0], [1, 1]])
    got = sl.ops.one_hot(sl.tensor(ids, device=device), 4)
    np.testing.assert_array_equal(got.cpu().numpy(), np.eye(4, dtype=np.int64)[ids])


def test_cat_promotes(device):
    y = sl.cat([sl.tensor([1, 2], device=device), sl.tensor([0.5], device=device)])
    assert y.dtype.name == "float32"
    assert y.tolist() == [1.0, 2.0, 0.5]


# --- mistakes ---------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [7, -1, 2**40])
def test_ids_outside_the_table_are_an_index_error(bad, device):
    ids, weight = sl.tensor([0, bad], device=device), sl.ones(7, 3, device=device)
    if device == "cpu":
        with refuses(IndexError, "embedding"):
            sl.ops.embedding(ids, weight)
        return
    y = sl.ops.embedding(ids, weight)
    with refuses(IndexError, "embedding"):
        sl._core.cuda_synchronize(0)
    assert y.tolist() == [[1, 1, 1], [0, 0, 0]]  # reported once; the table was not left


def test_indices_outside_the_axis_are_an_index_error():
    x = sl.ones(3, 4)
    for bad in (3, -4):
        with pytest.raises(IndexError):
            x[bad]
    with refuses(IndexError, "gather"):
        x.gather(1, sl.tensor([[4]]))


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("reshape", lambda x: x.reshape(5, 5)),
        ("reshape", lambda x: x.reshape(-1, -1)),
        ("permute", lambda x: x.permute(0, 0)),
        ("expand", lambda x: x.expand(4, 4)),
        ("cat", lambda x: sl.cat([x, x[:, :2]], 0)),
        ("stack", lambda x: sl.stack([x, x[:2]], 0)),
        ("split", lambda x: x.split([1, 1], 0)),
        ("split", lambda x: x.split(0)),
        ("chunk", lambda x: x.chunk(0)),
        ("cat", lambda x: sl.cat([])),
        ("cat", lambda x: sl.cat([sl.tensor(1.0)])),
        ("reshape", lambda x: x.reshape(2**40, 2**40)),
        ("reshape", lambda x: x.reshape(-2, 6)),
        ("reshape", lambda x: x.reshape(*[1] * 9)),
        ("expand", lambda x: x.expand(2**62, 2**62, 3, 4)),
        ("expand", lambda x: x.expand(4)),
        ("unsqueeze", lambda x: x.reshape(*[1] * 6, 3, 4).unsqueeze(0)),
        ("transpose", lambda x: x.transpose(0, 2)),
        ("flip", lambda x: x.flip(0, 0)),
        ("flatten", lambda x: x.flatten(1, 0)),
        ("tril", lambda x: x[0].tril()),
        ("squeeze", lambda x: x.squeeze(3)),
        ("gather", lambda x: x.gather(0, sl.tensor([0]))),
        ("embedding", lambda x: sl.ops.embedding(sl.tensor([0]), x[0])),
        ("embedding", lambda x: sl.ops.embedding(sl.tensor([0]), x, padding_idx=3)),
    ],
)
def test_impossible_shapes_are_refused(name, call):
    with refuses(ValueError, name):
        call(sl.ones(3, 4))


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("reshape", lambda x: x.reshape("a")),
        ("reshape", lambda x: x.reshape(2.0, 6)),
        ("permute", lambda x: x.permute(None, 1)),
        ("transpose", lambda x: x.transpose(0, True)),
        ("unsqueeze", lambda x: x.unsqueeze(1.5)),
        ("cat", lambda x: sl.cat(x)),
        ("cat", lambda x: sl.cat([x, 3])),
        ("stack", lambda x: sl.stack([x, None])),
        ("gather", lambda x: x.gather(0, x)),
        ("embedding", lambda x: sl.ops.embedding(x, x)),
        ("topk", lambda x: x.topk("3")),
    ],
)
def test_wrong_types_are_named(name, call):
    with refuses(TypeError, name):
        call(sl.ones(3, 4))
