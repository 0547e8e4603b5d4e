# SPDX-License-Identifier: Apache-2.0
"""The tape: hooks, accumulation, in-place safety, user-defined ops, recomputation, threads."""

import threading

import numpy as np
import pytest

import seqloom as sl


def ones(*shape, **kwargs):
    return sl.ones(*shape, requires_grad=True, **kwargs)


# ---- walks --------------------------------------------------------------------------------------


def test_gradients_accumulate_over_uses_and_walks():
    x = sl.tensor([2.0, 3.0], requires_grad=True)
    loss = (x * x + x).sum()
    loss.backward(retain_graph=True)
    assert x.grad.tolist() == [5.0, 7.0]
    loss.backward()
    assert x.grad.tolist() == [10.0, 14.0]
    with pytest.raises(RuntimeError, match="has been freed; pass retain_graph=True"):
        loss.backward()


def test_grad_leaves_every_grad_alone():
    x = ones(2)
    y = x * 3
    of_y, of_x = sl.autograd.grad((y * y).sum(), [y, x])
    assert of_y.tolist() == [6.0, 6.0]
    assert of_x.tolist() == [18.0, 18.0]
    assert x.grad is None


def test_a_saved_tensor_that_changed_is_named():
    x = ones(4)
    y = x.exp()
    y.add_(1)
    with pytest.raises(RuntimeError, match=r"tensor 0 that exp saved, shape \[4\], was modified"):
        y.sum().backward()


def test_a_leaf_changes_in_no_grad_only():
    x = ones(2)
    with pytest.raises(RuntimeError, match=r"mul_: a leaf that requires a gradient"):
        x.mul_(2)
    with sl.no_grad():
        x.mul_(2)
    (x * x).sum().backward()
    assert x.grad.tolist() == [4.0, 4.0]


def test_a_long_chain_is_walked_and_freed():
    x = ones(1)
    y = x
    for _ in range(20_000):
        y = y * 1.0
    y.backward()
    assert x.grad.tolist() == [1.0]


# ---- hooks --------------------------------------------------------------------------------------


def test_a_hook_sees_the_whole_gradient_of_a_leaf_once():
    x = sl.tensor(3.0, requires_grad=True)
    seen = []

    def hook(gradient):
        seen.append(gradient.item())
        return gradient.clamp(max=4.0)

    remove = x.register_hook(hook)
    (x * x).backward()
    assert seen == [6.0]
    assert x.grad.item() == 4.0
    assert sl.autograd.grad(x * x, x)[0].item() == 4.0
    remove()
    (x * x).backward()
    assert x.grad.item() == 10.0


def test_a_hook_changes_what_goes_further_back():
    x = ones(2)
    y = x * 2
    y.retain_grad()
    remove = y.register_hook(lambda gradient: gradient * 10)
    z = (y * y).sum()
    z.backward(retain_graph=True)
    assert x.grad.tolist() == [80.0, 80.0]
    remove()
    x.grad = y.grad = None
    z.backward(retain_graph=True)
    z.backward()
    assert y.grad.tolist() == [8.0, 8.0]


@pytest.mark.parametrize("leaf", [True, False])
def test_a_hook_that_gives_no_gradient_is_an_error(leaf):
    for wrong, error in (
        (3.0, TypeError),
        (sl.ones(3), ValueError),
        (sl.ones(2).long(), TypeError),
    ):
        x = ones(2)
        y = x * 1
        (x if leaf else y).register_hook(lambda gradient, wrong=wrong: wrong)
        with pytest.raises(error, match="hook: must return a"):
            (y * y).sum().backward()
        assert x.grad is None


# ---- user-defined ops ---------------------------------------------------------------------------


def test_backward_gets_a_gradient_for_every_output():
    class Op(sl.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            index = sl.arange(3)
            ctx.mark_non_differentiable(index)
            return index, x * 2, None, x * 3

        @staticmethod
        def backward(ctx, of_index, of_double, of_none, of_triple):
            assert (of_index.dtype.name, of_index.tolist()) == ("int64", [0, 0, 0])
            assert of_none is None
            assert of_triple.tolist() == [0.0, 0.0, 0.0]
            return of_double * 2 + of_triple * 3

    x = ones(3)
    Op.apply(x)[1].sum().backward()
    assert x.grad.tolist() == [2.0, 2.0, 2.0]


def test_unused_outputs_may_come_as_none():
    class Op(sl.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.set_materialize_grads(False)
            return x * 2, x * 3

        @staticmethod
        def backward(ctx, first, second):
            assert second is None
            return first * 2

    x = ones(2)
    Op.apply(x)[0].sum().backward()
    assert x.grad.tolist() == [2.0, 2.0]


def test_setup_context_and_trailing_nones():
    class Scale(sl.autograd.Function):
        @staticmethod
        def forward(x, factor):
            return x * factor

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.factor = inputs[1]

        @staticmethod
        def backward(ctx, gradient):
            return gradient * ctx.factor, None, None

    x = ones(2)
    Scale.apply(x, 3.0).sum().backward()
    assert x.grad.tolist() == [3.0, 3.0]


def test_an_op_in_place():
    class Double(sl.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.mark_dirty(x)
            x.mul_(2)
            return x

        @staticmethod
        def backward(ctx, gradient):
            return gradient * 2

    x = ones(2)
    y = x * 1
    assert Double.apply(y) is y
    (y * 5).sum().backward()
    assert x.grad.tolist() == [10.0, 10.0]
    with pytest.raises(RuntimeError, match="Double: a leaf that requires a gradient"):
        Double.apply(x)


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        (1.0, TypeError, "gradient 0 must be a Tensor or None, got float"),
        (sl.ones(2), ValueError, r"gradient 0 must have shape \[3\], got \[2\]"),
        ((), RuntimeError, "must return 1 gradients"),
        ((None, sl.ones(1)), RuntimeError, "must return 1 gradients"),
    ],
)
def test_what_backward_may_not_return(given, error, text):
    class Op(sl.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, gradient):
            return given

    with pytest.raises(error, match=f"Op.backward: {text}"):
        Op.apply(ones(3) * 1).sum().backward()


# ---- recomputation ------------------------------------------------------------------------------


def test_checkpoint_gives_the_gradients_of_the_plain_function():
    sl.manual_seed(3)
    x, w = sl.randn(4, 4, requires_grad=True), sl.randn(4, 4, requires_grad=True)

    def block(t):
        return (sl.ops.dropout(t, 0.5) @ w).tanh()

    state = sl.get_random_state()
    block(x).sum().backward()
    expected = x.grad.numpy().copy(), w.grad.numpy().copy()
    x.grad = w.grad = None
    sl.set_random_state(state)
    sl.checkpoint(block, x).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), expected[0])
    np.testing.assert_array_equal(w.grad.numpy(), expected[1])


def test_checkpoint_leaves_its_arguments_as_they_are():
    x = ones(2)
    y = sl.checkpoint(lambda t: t, x)
    assert y is not x
    assert x.is_leaf
    y.sum().backward()
    assert x.grad.tolist() == [1.0, 1.0]
    with pytest.raises(TypeError, match="checkpoint: function must return a Tensor or a tuple"):
        sl.checkpoint(lambda t: [t * 2], x)


def test_threads_walk_their_own_graphs():
    """Recomputation in one thread hands gradients of parameters to that thread's walk."""
    together = threading.Barrier(2)
    results = {}

    def work(i, weight):
        def block(t):
            together.wait(30)  # both walks are inside their recomputation
            return t * weight

        (results[i],) = sl.autograd.grad(sl.checkpoint(block, ones(3)).sum(), weight)

    weights = [ones(3), ones(3)]
    threads = [threading.Thread(target=work, args=(i, w)) for i, w in enumerate(weights)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(results) == [0, 1]
    assert all(g.tolist() == [1.0, 1.0, 1.0] for g in results.values())


# ---- without a device ---------------------------------------------------------------------------


@pytest.mark.skipif(sl.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize(
    "name",
    [
        "Event",
        "Graph",
        "Stream",
        "empty_cache",
        "get_device_properties",
        "max_memory_allocated",
        "memory_allocated",
        "memory_reserved",
        "reset_peak_memory",
        "synchronize",
    ],
)
def test_without_a_device_cuda_says_why(name):
    with pytest.raises(RuntimeError, match="device: 'cuda' is not available, "):
        getattr(sl.cuda, name)()
