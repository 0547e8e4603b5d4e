# SPDX-License-Identifier: Apache-2.0
"""rnn, gru and lstm over whole sequences, forward and backward through time."""

from __future__ import annotations

import numpy as np
import pytest

import reference as ref
import seqloom as sl
from support import assert_close_to_reference, check_op, draws, make_tensor, refuses, to_float64

GATES = {"rnn": 1, "gru": 3, "lstm": 4}


def inputs_of(name, rng, steps=5, batch=3, width=4, hidden=6, state=None, biases=True):
    """Weights scaled so that states neither die nor saturate."""
    state = hidden if state is None else state
    rows = GATES[name] * hidden
    out = {
        "x": rng.standard_normal((steps, batch, width)),
        "h0": rng.standard_normal((batch, state)),
        "w_ih": rng.standard_normal((rows, width)) / np.sqrt(max(width, 1)),
        "w_hh": rng.standard_normal((rows, state)) / np.sqrt(max(state, 1)),
    }
    if name == "lstm":
        out["c0"] = rng.standard_normal((batch, hidden))
    if biases:
        out |= draws(rng, b_ih=(rows,), b_hh=(rows,))
    return out


def check(name, inputs, options, device, dtype="float32", layout="contiguous", **more):
    inputs = dict(inputs)
    # States that are not given are None, by position in the signature.
    missing = {n: None for n in ("h0", "c0") if n not in inputs and (n == "h0" or name == "lstm")}
    check_op(
        lambda **given: getattr(sl.ops, name)(**missing, **given),
        ref.Op(lambda **given: getattr(ref, name).vjp(**missing, **given)),
        inputs,
        options,
        device=device,
        dtype=dtype,
        layout=layout,
        kind="recurrence",
        **more,
    )


@pytest.mark.parametrize("hidden", [1, 3, 16, 17, 65])
@pytest.mark.parametrize("name", GATES)
def test_over_hidden_sizes(name, hidden, isa, dtype, device, rng):
    # With one unit the recurrent weight's gradient is one sum of terms that cancel.
    scales = {"w_hh": 1.0} if hidden == 1 else None
    check(name, inputs_of(name, rng, hidden=hidden), {}, device, dtype, scales=scales)


@pytest.mark.parametrize("batch", [1, 2, 9, 33])
@pytest.mark.parametrize("steps", [1, 2, 11])
@pytest.mark.parametrize("name", GATES)
def test_over_steps_and_batches(name, steps, batch, dtype, device, rng):
    inputs = inputs_of(name, rng, steps, batch, width=7, hidden=8)
    check(name, inputs, {}, device, dtype)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", [None, (2, 5, 3), (5, 0, 1), (4, 4, 4)], ids=str)
@pytest.mark.parametrize("name", GATES)
def test_lengths_and_direction(name, lengths, reverse, dtype, device, rng):
    options = {"reverse": reverse}
    if lengths is not None:
        options["lengths"] = np.array(lengths)
    check(name, inputs_of(name, rng), options, device, dtype)


@pytest.mark.parametrize("name", GATES)
def test_ragged_batches_give_the_same_bits_on_any_number_of_threads(name, device, rng):
    """Large enough for a team of threads; sequences end while it runs."""
    inputs = inputs_of(name, rng, steps=24, batch=32, width=16, hidden=96, biases=False)
    lengths = rng.permutation(np.linspace(1, 24, 32).astype(np.int64))
    names = [n for n in ("x", "h0", "c0", "w_ih", "w_hh") if n in inputs]
    before, results = sl.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            sl.set_num_threads(threads)
            given = [make_tensor(inputs[n], "float32", device, requires_grad=True) for n in names]
            output = getattr(sl.ops, name)(*given, lengths=lengths)[0]
            grads = sl.autograd.grad((output * output).sum(), given)
            results.append([to_float64(t) for t in (output, *grads)])
    finally:
        sl.set_num_threads(before)
    for other in results[1:]:
        for one, same in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(one, same)


@pytest.mark.parametrize("kind", ["int64", "int32"])
@pytest.mark.parametrize("name", GATES)
def test_lengths_may_be_numpy_arrays(name, kind, device, rng):
    options = {"lengths": np.array([1, 5, 2]).astype(kind)}
    check(name, inputs_of(name, rng), options, device, as_numpy=["lengths"])


@pytest.mark.parametrize("layout", ["misaligned", "strided", "transposed"])
@pytest.mark.parametrize("name", GATES)
def test_views(name, layout, dtype, device, rng):
    check(name, inputs_of(name, rng), {}, device, dtype, layout)


@pytest.mark.parametrize("absent", [("h0",), ("b_ih",), ("b_hh",), ("b_ih", "b_hh", "h0")], ids=str)
@pytest.mark.parametrize("name", GATES)
def test_optional_arguments(name, absent, dtype, device, rng):
    inputs = {n: a for n, a in inputs_of(name, rng).items() if n not in absent}
    if "h0" in absent:
        inputs.pop("c0", None)
    check(name, inputs, {}, device, dtype)


@pytest.mark.parametrize(("steps", "batch"), [(0, 3), (4, 0), (0, 0)])
@pytest.mark.parametrize("name", GATES)
def test_without_steps_or_batch_the_state_stays(name, steps, batch, device, rng):
    check(name, inputs_of(name, rng, steps, batch), {}, device)


def test_relu_recurrence(isa, dtype, device, rng):
    inputs = inputs_of("rnn", rng, hidden=17)
    check("rnn", inputs, {"nonlinearity": "relu"}, device, dtype)


@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize("hidden", [1, 16, 33])
def test_gru_with_the_reset_before_the_product(hidden, biases, isa, dtype, device, rng):
    inputs = inputs_of("gru", rng, hidden=hidden, biases=biases)
    check("gru", inputs, {"reset_after": False, "lengths": np.array([5, 2, 4])}, device, dtype)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("hidden", "state"), [(6, 2), (17, 5), (16, 16)])
def test_lstm_with_projection(hidden, state, reverse, dtype, device, rng):
    inputs = inputs_of("lstm", rng, hidden=hidden, state=state)
    inputs["w_hr"] = rng.standard_normal((state, hidden)) / np.sqrt(hidden)
    options = {"reverse": reverse, "lengths": np.array([3, 5, 1])}
    check("lstm", inputs, options, device, dtype)


@pytest.mark.parametrize("hidden", [3, 16, 33])
def test_lstm_with_peepholes(hidden, isa, dtype, device, rng):
    inputs = inputs_of("lstm", rng, hidden=hidden) | draws(rng, peepholes=(3, hidden))
    check("lstm", inputs, {}, device, dtype)


def test_peepholes_may_be_a_tuple_of_three(device, rng):
    inputs = inputs_of("lstm", rng) | draws(rng, p_i=(6,), p_f=(6,), p_o=(6,))

    def call(p_i, p_f, p_o, **given):
        return sl.ops.lstm(**given, peepholes=(p_i, p_f, p_o))

    def reference(p_i, p_f, p_o, **given):
        value, backward = ref.lstm.vjp(**given, peepholes=np.stack([p_i, p_f, p_o]))

        def renamed(*grads):
            out = backward(*grads)
            return out | dict(zip(("p_i", "p_f", "p_o"), out["peepholes"], strict=True))

        return value, renamed

    check_op(call, ref.Op(reference), inputs, device=device, kind="recurrence")


def with_norms(op):
    def call(n0, n1, n2, n3, **given):
        return op(**given, layer_norm=(n0, n1, n2, n3))

    return call


def reference_with_norms(n0, n1, n2, n3, **given):
    value, backward = ref.lstm.vjp(**given, layer_norm_weights=(n0, n1, n2, n3))

    def renamed(*grads):
        return {n.replace("layer_norm_weights.", "n"): g for n, g in backward(*grads).items()}

    return value, renamed


@pytest.mark.parametrize("peepholes", [False, True])
@pytest.mark.parametrize("hidden", [3, 17])
def test_lstm_with_layer_norm(hidden, peepholes, dtype, device, rng):
    inputs = inputs_of("lstm", rng, hidden=hidden)
    inputs |= draws(rng, n0=(4 * hidden,), n1=(4 * hidden,), n2=(hidden,), n3=(hidden,))
    if peepholes:
        inputs |= draws(rng, peepholes=(3, hidden))

    check_op(
        with_norms(sl.ops.lstm),
        ref.Op(reference_with_norms),
        inputs,
        {"lengths": np.array([4, 5, 2])},
        device=device,
        dtype=dtype,
        kind="recurrence",
    )


def test_zoneout_at_inference_is_the_expected_value(dtype, device, rng):
    check(
        "lstm",
        inputs_of("lstm", rng),
        {"zoneout": 0.3, "training": False},
        device,
        dtype,
        gradients=False,
        reference_options={"zoneout": 0.3},
    )


def test_zoneout_in_training_keeps_some_units_as_they_were(device, rng):
    """One step shows which; with that mask the op is the reference, values and gradients."""
    batch, hidden, p = 40, 33, 0.3
    inputs = inputs_of("lstm", rng, steps=1, batch=batch, hidden=hidden)
    tensors = {n: make_tensor(a, "float32", device) for n, a in inputs.items()}
    sl.manual_seed(3)
    kept = to_float64(sl.ops.lstm(**tensors, zoneout=p)[0]) == to_float64(tensors["h0"])
    assert abs(kept.mean() - p) < 5 * np.sqrt(p * (1 - p) / kept.size)

    def call(**given):
        sl.manual_seed(3)
        return sl.ops.lstm(**given, zoneout=p)

    check_op(
        call,
        ref.Op(lambda **given: ref.lstm.vjp(**given, zoneout=p, zoneout_keep_old=kept)),
        inputs,
        device=device,
        kind="recurrence",
    )


def lstm_with_everything(rng, steps=5, batch=3, hidden=9, state=6):
    """Every option at once, by name; layer_norm as n0 .. n3."""
    inputs = inputs_of("lstm", rng, steps, batch, hidden=hidden, state=state)
    inputs["w_hr"] = rng.standard_normal((state, hidden)) / np.sqrt(hidden)
    shapes = {"peepholes": (3, hidden), "n0": (4 * hidden,), "n1": (4 * hidden,)}
    return inputs | draws(rng, **shapes, n2=(hidden,), n3=(hidden,))


@pytest.mark.parametrize(("steps", "batch"), [(5, 3), (0, 2), (2, 0)])
@pytest.mark.parametrize("reverse", [False, True])
def test_lstm_with_every_option(reverse, steps, batch, dtype, device, rng):
    """Step by step with zoneout's mean, ragged where there is something to be."""
    options = {"reverse": reverse, "zoneout": 0.25}
    if steps and batch:
        options["lengths"] = np.array([3, 5, 1])

    def call(**given):
        return with_norms(sl.ops.lstm)(**given, training=False)

    check_op(
        call,
        ref.Op(reference_with_norms),
        lstm_with_everything(rng, steps, batch),
        options,
        device=device,
        dtype=dtype,
        kind="recurrence",
    )


@pytest.mark.parametrize("recompute", [False, True])
def test_options_give_the_same_bits_with_recompute_and_on_any_number_of_threads(
    recompute, device, rng
):
    batch, hidden = (19, 80) if device == "cpu" else (5, 20)
    inputs = lstm_with_everything(rng, 7, batch, hidden, state=hidden // 2)
    first = inputs_of("gru", rng, steps=7, batch=batch, hidden=hidden)
    lengths = rng.permutation(np.linspace(0, 7, batch).astype(np.int64))
    before, results = sl.get_num_threads(), []
    try:
        for threads, again in ((1, False), (2, recompute), (3, recompute)):
            sl.set_num_threads(threads)
            sl.manual_seed(5)
            given = {
                n: make_tensor(a, "float32", device, requires_grad=True) for n, a in inputs.items()
            }
            mine = {
                n: make_tensor(a, "float32", device, requires_grad=True) for n, a in first.items()
            }
            y = with_norms(sl.ops.lstm)(**given, zoneout=0.4, lengths=lengths, recompute=again)[0]
            z = sl.ops.gru(**mine, reset_after=False, lengths=lengths, recompute=again)[0]
            ((y * y).sum() + (z * z).sum()).backward()
            leaves = [*given.values(), *mine.values()]
            results.append([to_float64(t) for t in (y, z, *(t.grad for t in leaves))])
    finally:
        sl.set_num_threads(before)
    for other in results[1:]:
        for one, same in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(one, same)


def test_padding_may_hold_anything(dtype, device, rng):
    """Outputs past a length are zero, and what x holds there reaches nothing."""
    lengths = np.array([2, 5, 3])
    for name in GATES:
        inputs = inputs_of(name, rng)
        clean = {n: make_tensor(a, dtype, device) for n, a in inputs.items()}
        first = [to_float64(t) for t in getattr(sl.ops, name)(**clean, lengths=lengths)]
        for b, n in enumerate(lengths):
            inputs["x"][n:, b] = np.nan
            assert not first[0][n:, b].any()
        dirty = {n: make_tensor(a, dtype, device) for n, a in inputs.items()}
        for reverse in (False, True):
            after = getattr(sl.ops, name)(**dirty, lengths=lengths, reverse=reverse)
            before = getattr(sl.ops, name)(**clean, lengths=lengths, reverse=reverse)
            for a, b in zip(before, after, strict=True):
                np.testing.assert_array_equal(to_float64(a), to_float64(b))


@pytest.mark.parametrize("name", GATES)
def test_a_long_sequence_in_pieces_is_the_whole(name, dtype, device, rng):
    """States handed on from piece to piece: what streaming does."""
    inputs = inputs_of(name, rng, steps=12, hidden=16)
    tensors = {n: make_tensor(a, dtype, device) for n, a in inputs.items()}
    x = tensors.pop("x")
    whole = getattr(sl.ops, name)(x, **tensors)
    pieces, states = [], {n: tensors.pop(n) for n in ("h0", "c0") if n in tensors}
    for start, stop in ((0, 1), (1, 6), (6, 12)):
        out, *final = getattr(sl.ops, name)(x[start:stop], **states, **tensors)
        states = dict(zip(states, final, strict=True))
        pieces.append(to_float64(out))
    whole = to_float64(whole[0])
    assert_close_to_reference(
        np.concatenate(pieces), whole, whole, dtype=dtype, kind="recurrence", what="pieces"
    )


@pytest.mark.parametrize(
    ("error", "changed"),
    [
        (ValueError, {"x": sl.ones(5, 4)}),
        (ValueError, {"x": sl.ones(5, 3, 7)}),
        (ValueError, {"h0": sl.ones(3, 5)}),
        (ValueError, {"w_ih": sl.ones(7, 4)}),
        (ValueError, {"w_hh": sl.ones(6, 6, 6)}),
        (ValueError, {"b_ih": sl.ones(5)}),
        (ValueError, {"lengths": np.array([6, 1, 1])}),
        (ValueError, {"lengths": np.array([-1, 1, 1])}),
        (ValueError, {"lengths": np.array([1, 1])}),
        (TypeError, {"lengths": np.array([1.0, 1.0, 1.0])}),
        (TypeError, {"w_hh": "weights"}),
        (TypeError, {"x": sl.ones(5, 3, 4).to(dtype="int64")}),
    ],
    ids=lambda v: v.__name__ if isinstance(v, type) else "-".join(v),
)
@pytest.mark.parametrize("name", GATES)
def test_mistakes_are_named(name, error, changed, rng):
    given = {n: make_tensor(a, "float32") for n, a in inputs_of(name, rng).items()} | changed
    with refuses(error, name):
        getattr(sl.ops, name)(**given)


def test_more_mistakes(rng):
    given = {n: make_tensor(a, "float32") for n, a in inputs_of("rnn", rng).items()}
    with refuses(ValueError, "rnn"):
        sl.ops.rnn(**given, nonlinearity="sigmoid")
    given = {n: make_tensor(a, "float32") for n, a in inputs_of("lstm", rng).items()}
    for changed in ({"zoneout": 1.5}, {"peepholes": sl.ones(2, 6)}, {"w_hr": sl.ones(2, 7)}):
        with refuses(ValueError, "lstm"):
            sl.ops.lstm(**given, **changed)
