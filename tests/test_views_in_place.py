# SPDX-License-Identifier: Apache-2.0
"""Changes in place of tensors that views show, of views, and of what backward kept."""

import numpy as np
import pytest

import seqloom as sl

# A program changes views and bases; its result is checked by finite differences.
VIEWS = {
    "row": lambda t: t[1],
    "rows": lambda t: t[1:],
    "columns": lambda t: t[:, ::2],
    "backwards": lambda t: t.flip(0),
    "transposed": lambda t: t.T,
    "flat": lambda t: t.reshape(-1),
    "cell": lambda t: t[2, 1],
    "inner": lambda t: t[1:, 1:][0],
    "new axis": lambda t: t.unsqueeze(1)[:, 0],
    "piece": lambda t: t.split([1, 2])[1],
    "line": lambda t: t.T.chunk(2)[0],
    "permuted": lambda t: t.permute(1, 0)[2:],
}
CHANGES = {
    "add_": lambda t, w: t.add_(w.sum()),
    "sub_": lambda t, w: t.sub_(w[0]),
    "mul_": lambda t, w: t.mul_(w[1]),
    "mul_itself": lambda t, w: t.mul_(t),
    "div_": lambda t, w: t.div_(w[2] + 3),
    "fill_": lambda t, w: t.fill_(0.5),
    "copy_": lambda t, w: t.copy_(w[3]),
    "setitem": lambda t, w: t.__setitem__(..., w[0] * 2),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("view", VIEWS)
def test_a_change_of_a_view_reaches_base_and_other_views(view, change, rng):
    x = sl.tensor(rng.standard_normal((3, 4)) + 3, requires_grad=True)
    w = sl.tensor(rng.standard_normal(4), requires_grad=True)

    def program(x, w):
        base = x * 2
        earlier = base[:, 1:3]
        stretched = base[:, :1].expand(3, 4)
        CHANGES[change](VIEWS[view](base), w)
        later = VIEWS[view](base)
        return (base**2).sum() + (earlier**3).sum() + (later * 3).sum() + (stretched * base).sum()

    assert sl.autograd.gradcheck(program, (x, w))


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_the_base_reaches_its_views(change, rng):
    x = sl.tensor(rng.standard_normal((3, 4)) + 3, requires_grad=True)
    w = sl.tensor(rng.standard_normal(4), requires_grad=True)

    def program(x, w):
        base = x * 2
        views = [show(base) for show in VIEWS.values()]
        CHANGES[change](base, w)
        return sum((v**2).sum() for v in views) + (base**3).sum()

    assert sl.autograd.gradcheck(program, (x, w))


def test_random_programs(rng):
    for _ in range(20):
        steps = [
            (str(rng.choice(list(VIEWS))), str(rng.choice([c for c in CHANGES if c != "div_"])))
            for _ in range(4)
        ]

        def program(x, w, steps=steps):
            base = x * 1.5
            early = [VIEWS[v](base) for v, _ in steps]
            for i, (v, c) in enumerate(steps):
                target = early[i] if i % 2 else VIEWS[v](base)
                CHANGES[c](target, w)
                base.mul_(0.5)
            return sum((e * e).sum() for e in early) + base.sum()

        x = sl.tensor(rng.standard_normal((3, 4)), requires_grad=True)
        w = sl.tensor(rng.standard_normal(4), requires_grad=True)
        assert sl.autograd.gradcheck(program, (x, w)), steps


def test_parts_of_zeros_are_filled_with_results(device):
    x = sl.tensor([1.0, 2.0], device=device, requires_grad=True)
    out = sl.zeros(2, 2, device=device)
    first, second = out
    first.copy_(x * 3)
    second.add_(x)
    out[0, 0].mul_(10)
    assert out.requires_grad
    assert out.tolist() == [[30.0, 6.0], [1.0, 2.0]]
    out.sum().backward()
    assert x.grad.tolist() == [31.0, 4.0]


def test_a_base_with_strides_of_its_own(rng):
    memory = rng.standard_normal((4, 6))
    x = sl.tensor(rng.standard_normal(3), requires_grad=True)

    def program(x):
        base = sl.from_numpy(memory.copy()[::-2, ::2]) * 1  # dense
        sparse = sl.from_numpy(memory.copy())[::-2, 1::2].detach()
        sparse[0].mul_(x)
        base.T[1:, 0].add_(x[1:])
        return (sparse * sparse).sum() + (base * sparse).sum()

    assert sl.autograd.gradcheck(program, (x,))


def test_a_changed_saved_tensor_is_an_error_only_where_it_is_needed(device):
    x = sl.ones(2, 3, device=device, requires_grad=True)
    y = x * 2
    square = y * y
    added = y + 1
    y[0].add_(1)  # a view shares the version of its base
    added.sum().backward()
    assert x.grad.tolist() == [[2.0] * 3] * 2
    with pytest.raises(RuntimeError, match="mul saved"):
        square.sum().backward()


def test_a_detached_tensor_may_change_but_not_unseen(device):
    x = sl.ones(3, device=device, requires_grad=True)
    y = x * 2
    z = y * y
    y.detach().add_(1)
    with pytest.raises(RuntimeError, match="modified in place"):
        z.sum().backward()


def test_leaves_and_their_views_are_refused(device):
    x = sl.ones(3, device=device, requires_grad=True)
    for change in (lambda: x.add_(1), lambda: x[0].add_(1), lambda: x.reshape(3, 1).mul_(2)):
        with pytest.raises(RuntimeError, match="a leaf that requires a gradient"):
            change()
    with sl.no_grad():
        x[0].add_(1)
    assert x.tolist() == [2.0, 1.0, 1.0]


def test_a_view_of_no_grad_is_refused(device):
    x = sl.ones(3, device=device, requires_grad=True)
    out = sl.zeros(3, 3, device=device)
    with sl.no_grad():
        row = out[0]
    with pytest.raises(RuntimeError, match="made in no_grad"):
        row.copy_(x)
    row.add_(1)  # nothing to follow
    assert out.tolist()[0] == [1.0, 1.0, 1.0]


def test_a_view_may_become_a_leaf(device):
    base = sl.zeros(2, 3, device=device)
    leaf = base[0]
    leaf.requires_grad = True
    (leaf * 2).sum().backward()
    assert leaf.grad.tolist() == [2.0, 2.0, 2.0]
    with pytest.raises(RuntimeError, match="leaf"):
        leaf.add_(1)


def test_integers_take_values_without_gradients(device):
    x = sl.tensor([1.5, 2.5], device=device, requires_grad=True)
    n = sl.zeros(2, dtype="int64", device=device)
    n.copy_(x)
    assert n.tolist() == [1, 2]
    assert not n.requires_grad


def test_factors_that_lie_in_the_changed_tensor(rng):
    x = sl.tensor(rng.standard_normal(4) + 2, requires_grad=True)

    def overlapping(x):
        y = x * 1
        y[1:].mul_(y[:-1])
        return (y * y).sum()

    def detached(x):
        y = x * 1
        y.mul_(y.detach())
        return y.sum()

    assert sl.autograd.gradcheck(overlapping, (x,))
    (grad,) = sl.autograd.grad(detached(x), x)
    np.testing.assert_array_equal(grad.numpy(), x.detach().numpy())


def test_views_keep_what_they_were_after_backward(device):
    x = sl.ones(3, device=device, requires_grad=True)
    y = x * 2
    v = y[1:]
    y.sum().backward()
    with pytest.raises(RuntimeError, match="freed"):
        v.sum().backward()
