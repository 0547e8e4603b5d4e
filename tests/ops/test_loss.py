# SPDX-License-Identifier: Apache-2.0
"""cross_entropy, linear_cross_entropy and ctc_loss."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import reference as ref
import seqloom as sl
from support import (
    LAYOUTS,
    ODD_SIZES,
    assert_close_to_reference,
    check_op,
    draws,
    make_tensor,
    refuses,
    rounded,
    to_float64,
)


def some_targets(rng, rows, classes, ignored=0.2, ignore_index=-100):
    targets = rng.integers(0, classes, rows)
    return np.where(rng.random(rows) < ignored, ignore_index, targets)


# --- cross entropy ----------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["contiguous", "misaligned"])
def test_over_sizes_and_alignments(layout, isa, dtype, device, rng):
    for classes in (*ODD_SIZES, 1000):
        check_op(
            sl.ops.cross_entropy,
            ref.cross_entropy,
            {"logits": rng.standard_normal((5, classes)) * 2},
            {"targets": rng.integers(0, classes, 5)},
            device=device,
            dtype=dtype,
            layout=layout,
        )


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ignore_index", [-100, 2])
def test_options(reduction, smoothing, weighted, ignore_index, dtype, device, rng):
    rows, classes = 13, 21
    weight = rng.random(classes) + 0.1
    options = {
        "targets": some_targets(rng, rows, classes, ignore_index=ignore_index),
        "ignore_index": ignore_index,
        "label_smoothing": smoothing,
        "reduction": reduction,
        "weight": weight if weighted else None,
    }
    check_op(
        sl.ops.cross_entropy,
        ref.cross_entropy,
        draws(rng, logits=(rows, classes)),
        options,
        device=device,
        dtype=dtype,
        kind="product",
    )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["int64", "int32"])
def test_views_and_both_widths_of_targets(kind, layout, dtype, device, rng):
    options = {"targets": some_targets(rng, 9, 34).astype(kind), "reduction": "none"}
    check_op(
        sl.ops.cross_entropy,
        ref.cross_entropy,
        draws(rng, logits=(9, 34)),
        options,
        device=device,
        dtype=dtype,
        layout=layout,
    )


def test_a_large_vocabulary(isa, dtype, device, rng):
    check_op(
        sl.ops.cross_entropy,
        ref.cross_entropy,
        {"logits": rng.standard_normal((3, 50257)) * 3},
        {"targets": rng.integers(0, 50257, 3)},
        device=device,
        dtype=dtype,
        kind="long",
    )


def test_large_logits_do_not_overflow(device, rng):
    check_op(
        sl.ops.cross_entropy,
        ref.cross_entropy,
        {"logits": rng.standard_normal((4, 50)) * 1e4},
        {"targets": rng.integers(0, 50, 4), "reduction": "none"},
        device=device,
    )


@pytest.mark.parametrize("mean", [1e2, 1e4, 1e6])
@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_logits_far_from_zero_keep_their_digits(reduction, mean, isa, device, rng):
    """A logarithm added to a maximum of 1e4 would keep three digits of its loss."""
    check_op(
        sl.ops.cross_entropy,
        ref.cross_entropy,
        {"logits": rng.standard_normal((5, 700)) * 2 + mean},
        {"targets": some_targets(rng, 5, 700), "label_smoothing": 0.1, "reduction": reduction},
        device=device,
    )


@pytest.mark.parametrize("size", [1e30, 3e38])
def test_equal_logits_of_any_size(size, isa, device):
    logits = np.full((2, 40), size)
    logits[1] *= -1
    check_op(
        sl.ops.cross_entropy,
        ref.cross_entropy,
        {"logits": logits},
        {"targets": np.array([3, 39]), "reduction": "none"},
        device=device,
    )


def test_nothing_to_count_is_nan_with_zero_gradient(device):
    x = sl.tensor(np.ones((3, 4), np.float32), device=device, requires_grad=True)
    loss = sl.ops.cross_entropy(x, sl.tensor([-100] * 3, device=device))
    assert np.isnan(loss.item())
    loss.backward()
    assert not x.grad.cpu().numpy().any()
    empty = sl.ops.cross_entropy(
        sl.zeros(0, 4, device=device), sl.zeros(0, dtype="int64", device=device), reduction="sum"
    )
    assert empty.item() == 0


def test_a_hidden_class_costs_infinity(device):
    logits = np.array([[0.0, -np.inf, 1.0], [0.0, -np.inf, 1.0]], np.float32)
    loss = sl.ops.cross_entropy(
        sl.tensor(logits, device=device), sl.tensor([0, 1], device=device), reduction="none"
    )
    want = ref.cross_entropy(logits.astype(np.float64), np.array([0, 1]), reduction="none")
    assert_close_to_reference(loss, want, dtype="float32")


@pytest.mark.parametrize("classes", [300, 3000, 100_000])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_gradient_may_lie_over_the_logits(reduction, classes, dtype, device, rng):
    values = rng.standard_normal((3, classes))
    targets = sl.tensor([0, classes - 1, -100], device=device)
    results = []
    for in_place in (False, True):
        logits = make_tensor(values, dtype, device, requires_grad=True)
        loss = sl.ops.cross_entropy(logits, targets, reduction=reduction, in_place=in_place)
        loss.backward()
        results.append((loss.item(), to_float64(logits.grad)))
        replaced = to_float64(logits)
    assert results[0][0] == results[1][0]
    np.testing.assert_array_equal(results[0][1], results[1][1])
    np.testing.assert_array_equal(replaced, results[1][1])


def test_targets_outside_the_classes_are_reported_by_a_gpu(device):
    if device == "cpu":
        pytest.skip("refused before the kernel runs")
    loss = sl.ops.cross_entropy(sl.ones(2, 5, device=device), sl.tensor([0, 7], device=device))
    with pytest.raises(IndexError, match=r"7"):
        loss.item()
    fine = sl.ops.cross_entropy(sl.ones(2, 5, device=device), sl.tensor([0, 4], device=device))
    assert np.isfinite(fine.item())


@pytest.mark.parametrize("bad", [5, -1, -101])
def test_targets_outside_the_classes_are_an_index_error(bad, device):
    if device != "cpu":
        pytest.skip("a GPU reports them later")
    with refuses(IndexError, "cross_entropy"):
        sl.ops.cross_entropy(sl.ones(2, 5), sl.tensor([0, bad]))
    with refuses(IndexError, "linear_cross_entropy"):
        sl.ops.linear_cross_entropy(sl.ones(2, 3), sl.ones(5, 3), sl.tensor([0, bad]))


@pytest.mark.parametrize(
    ("error", "call"),
    [
        (ValueError, lambda x, t: sl.ops.cross_entropy(x, sl.tensor([0]))),
        (ValueError, lambda x, t: sl.ops.cross_entropy(x, t, reduction="average")),
        (ValueError, lambda x, t: sl.ops.cross_entropy(x, t, label_smoothing=1.5)),
        (ValueError, lambda x, t: sl.ops.cross_entropy(x, t, label_smoothing=float("nan"))),
        (TypeError, lambda x, t: sl.ops.cross_entropy(x, t, label_smoothing="much")),
        (ValueError, lambda x, t: sl.ops.cross_entropy(x, t, ignore_index=2**70)),
        (TypeError, lambda x, t: sl.ops.cross_entropy(x, t, ignore_index=1.5)),
        (ValueError, lambda x, t: sl.ops.cross_entropy(x, t, weight=sl.ones(3))),
        (ValueError, lambda x, t: sl.ops.cross_entropy(sl.ones(5), t)),
        (TypeError, lambda x, t: sl.ops.cross_entropy(x, sl.ones(2))),
        (TypeError, lambda x, t: sl.ops.cross_entropy(x.to(dtype="int32"), t)),
    ],
)
def test_mistakes_are_named(error, call):
    with refuses(error, "cross_entropy"):
        call(sl.ones(2, 5), sl.tensor([0, 1]))


# --- linear cross entropy ---------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("size", [(1, 1, 2), (7, 9, 33), (33, 17, 130)], ids=str)
def test_linear_cross_entropy(size, smoothing, reduction, dtype, device, rng):
    rows, width, classes = size
    options = {
        "targets": some_targets(rng, rows, classes, 0.0 if rows == 1 else 0.2),
        "label_smoothing": smoothing,
        "reduction": reduction,
    }
    check_op(
        sl.ops.linear_cross_entropy,
        ref.linear_cross_entropy,
        draws(rng, hidden=(rows, width), weight=(classes, width)),
        options,
        device=device,
        dtype=dtype,
        kind="product",
    )


def test_linear_cross_entropy_over_many_chunks(device, rng):
    rows, width, classes = 300, 8, 5003
    check_op(
        sl.ops.linear_cross_entropy,
        ref.linear_cross_entropy,
        draws(rng, hidden=(rows, width), weight=(classes, width)),
        {"targets": some_targets(rng, rows, classes)},
        device=device,
        kind="long",
    )


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_linear_cross_entropy_in_chunks_of_a_few_rows(reduction, dtype, device, rng, monkeypatch):
    """Nine chunks, the last of them shorter; the weight's gradient is summed over all."""
    module = sys.modules["seqloom.ops.loss"]
    for name in ("_CHUNK_BYTES", "_CHUNK_BYTES_CUDA"):
        monkeypatch.setattr(module, name, 4 * 33 * 4)
    check_op(
        sl.ops.linear_cross_entropy,
        ref.linear_cross_entropy,
        draws(rng, hidden=(35, 9), weight=(33, 9)),
        {"targets": some_targets(rng, 35, 33), "reduction": reduction},
        device=device,
        dtype=dtype,
        kind="product",
    )


@pytest.mark.parametrize(
    ("error", "changed"),
    [
        (ValueError, {"weight": sl.ones(5, 4)}),
        (ValueError, {"weight": sl.ones(5)}),
        (ValueError, {"targets": sl.tensor([0])}),
        (ValueError, {"label_smoothing": 1.5}),
        (ValueError, {"reduction": "average"}),
        (TypeError, {"weight": sl.ones(5, 3).to(dtype="float16")}),
        (TypeError, {"weight": "head"}),
        (TypeError, {"targets": sl.ones(2)}),
    ],
)
def test_mistakes_of_linear_cross_entropy_are_named(error, changed):
    given = {"hidden": sl.ones(2, 3), "weight": sl.ones(5, 3), "targets": sl.tensor([0, 1])}
    with refuses(error, "linear_cross_entropy"):
        sl.ops.linear_cross_entropy(**given | changed)


# --- CTC --------------------------------------------------------------------------------


def ctc_of_logits(function):
    """CTC behind log_softmax, where its gradient has one meaning."""

    def call(logits, **options):
        return function(sl.ops.log_softmax(logits), **options)

    return call


def ctc_reference(logits, targets, input_lengths, target_lengths, **options):
    logp, to_logits = ref.log_softmax.vjp(logits)
    loss, to_logp = ref.ctc_loss.vjp(logp, targets, input_lengths, target_lengths, **options)
    return loss, lambda g: {"logits": to_logits(to_logp(g)["log_probs"])["x"]}


PADDED = np.array([[1, 2, 2, 3], [4, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 0]])
CTC = {
    "targets": PADDED,
    "input_lengths": np.array([9, 7, 4, 8]),
    "target_lengths": np.array([4, 1, 0, 3]),
}


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("layout", ["contiguous", "misaligned", "transposed"])
def test_ctc(layout, reduction, device, rng):
    check_op(
        ctc_of_logits(sl.ops.ctc_loss),
        ref.Op(ctc_reference),
        draws(rng, logits=(9, 4, 5)),
        CTC | {"reduction": reduction},
        device=device,
        layout=layout,
        kind="product",
    )


def test_ctc_of_targets_in_one_row(device, rng):
    options = CTC | {"targets": np.array([1, 2, 2, 3, 4, 1, 1, 1])}
    inputs = draws(rng, logits=(9, 4, 5))
    check_op(
        ctc_of_logits(sl.ops.ctc_loss),
        ref.Op(ctc_reference),
        inputs,
        options,
        device=device,
        kind="product",
    )


@pytest.mark.parametrize("blank", [0, 2, 6])
@pytest.mark.parametrize("steps", [1, 12, 60])
def test_ctc_with_other_blanks_and_lengths(blank, steps, device, rng):
    batch, classes, longest = 5, 7, max(1, steps // 3)
    labels = np.array([c for c in range(classes) if c != blank])
    options = {
        "targets": rng.choice(labels, (batch, longest)),
        "input_lengths": rng.integers(max(1, 2 * longest), steps + 1, batch)
        if steps > 1
        else np.ones(batch, np.int64),
        "target_lengths": rng.integers(0, longest + 1, batch),
        "blank": blank,
    }
    check_op(
        ctc_of_logits(sl.ops.ctc_loss),
        ref.Op(ctc_reference),
        draws(rng, logits=(steps, batch, classes)),
        options,
        device=device,
        kind="product",
    )


def ctc_with_gradient(values, dtype, device, **options):
    x = make_tensor(values, dtype, device, requires_grad=True)
    losses = sl.ops.ctc_loss(x, reduction="none", **options)
    losses.sum().backward()
    return losses.detach().cpu().numpy(), x.grad.cpu().numpy()


@pytest.mark.parametrize("longest", [3, 4, 8, 20])  # states around the vectors
def test_ctc_of_long_sequences(longest, isa, device, rng):
    """Hundreds of steps lose no more than one: judged by the formula in float64."""
    steps, batch, classes = (300, 3, 9) if device == "cpu" else (60, 2, 9)
    logits = rng.standard_normal((steps, batch, classes)) * 4
    values = rounded(logits - np.log(np.exp(logits).sum(-1, keepdims=True)), "float32")
    options = {
        "targets": rng.integers(1, classes, (batch, longest)),
        "input_lengths": np.array([steps, steps - 7, steps // 2][:batch]),
        "target_lengths": np.array([longest, longest - 1, longest][:batch]),
    }
    losses, slope = ctc_with_gradient(values, "float32", device, **options)
    exact, exact_slope = ctc_with_gradient(values, "float64", device, **options)
    assert_close_to_reference(losses, exact, dtype="float32", kind="long")
    # Every step rounds once more: their errors add up as a random walk.
    assert_close_to_reference(slope, exact_slope, dtype="float32", kind="long", scale=steps**0.5)


def test_ctc_has_the_same_bits_on_any_number_of_threads(rng):
    values = -np.abs(rng.standard_normal((40, 7, 6)))
    options = {
        "targets": rng.integers(1, 6, (7, 9)),
        "input_lengths": np.arange(34, 41),
        "target_lengths": np.arange(3, 10),
    }
    before = sl.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 4):
            sl.set_num_threads(threads)
            results.append(ctc_with_gradient(values, "float32", "cpu", **options))
    finally:
        sl.set_num_threads(before)
    for losses, slope in results[1:]:
        np.testing.assert_array_equal(losses, results[0][0])
        np.testing.assert_array_equal(slope, results[0][1])


def test_ctc_of_an_impossible_target_costs_infinity(device):
    logp = ref.log_softmax(np.zeros((3, 2, 4))).astype(np.float32)
    loss = sl.ops.ctc_loss(
        sl.tensor(logp, device=device),
        sl.tensor([[1, 2, 3, 1], [1, 1, 0, 0]], device=device),
        np.array([3, 2]),
        np.array([4, 2]),
        reduction="none",
    )
    assert np.isposinf(loss.cpu().numpy()).all()


@pytest.mark.parametrize("zero_infinity", [False, True])
def test_ctc_gradient_where_one_target_does_not_fit(zero_infinity, device):
    """NaN, or with zero_infinity nothing; its neighbour in the batch is as it would be alone."""
    logp = ref.log_softmax(np.linspace(-1, 1, 24).reshape(3, 2, 4))
    x = sl.tensor(logp.astype(np.float32), device=device, requires_grad=True)
    targets, lengths = np.array([[1, 1], [2, 3]]), np.array([2, 2])
    steps = np.array([2, 3])
    loss = sl.ops.ctc_loss(
        x, targets, steps, lengths, reduction="none", zero_infinity=zero_infinity
    )
    assert loss[0].item() == (0 if zero_infinity else np.inf)
    loss[1].backward() if zero_infinity else loss.sum().backward()
    grad = x.grad.cpu().numpy()
    first = grad[:2, 0]
    assert not first.any() if zero_infinity else np.isnan(first).all()
    assert not grad[2, 0].any()
    alone = (logp[:, 1:], targets[1:], steps[1:], lengths[1:])
    value, pull = ref.ctc_loss.vjp(*alone, reduction="sum")
    assert_close_to_reference(loss[1], value, dtype="float32")
    want = pull(np.ones(()))["log_probs"]
    assert_close_to_reference(grad[:, 1:], want, want.astype(np.float32), dtype="float32")


@pytest.mark.parametrize("bad", [5, -1])
def test_ctc_targets_outside_the_classes_are_an_index_error(bad):
    targets = np.where(PADDED == 4, bad, PADDED)
    with refuses(IndexError, "ctc_loss"):
        sl.ops.ctc_loss(make_tensor(np.zeros((9, 4, 5)), "float32"), **CTC | {"targets": targets})


@pytest.mark.parametrize("narrow", ["float16", "bfloat16"])
def test_ctc_of_narrow_log_probs(narrow, device, rng):
    check_op(
        sl.ops.ctc_loss,
        ref.ctc_loss,
        {"log_probs": ref.log_softmax(rng.standard_normal((9, 4, 5)))},
        CTC,
        device=device,
        dtype=narrow,
        gradients=False,
    )


@pytest.mark.parametrize(
    "changed",
    [
        {"input_lengths": np.array([10, 7, 4, 8])},
        {"input_lengths": np.array([9, 7, 4])},
        {"target_lengths": np.array([5, 1, 0, 3])},
        {"target_lengths": np.array([-1, 1, 0, 3])},
        {"blank": 5},
        {"blank": -1},
        {"reduction": "median"},
    ],
    ids=str,
)
def test_ctc_mistakes_are_named(changed):
    options = CTC | changed
    with refuses(ValueError, "ctc_loss"):
        sl.ops.ctc_loss(make_tensor(np.zeros((9, 4, 5)), "float32"), **options)
