# SPDX-License-Identifier: Apache-2.0
"""The reference itself: attention, recurrence, optimizers."""

from __future__ import annotations

import numpy as np
import pytest

import reference as ref
from reference_checks import (
    RNG,
    Cases,
    check_against_torch,
    check_finite_differences,
    check_keeps_float32,
    draw,
)

try:
    import torch
    import torch.nn.functional as F
except ImportError:
    torch = None

CASES = Cases()
case = CASES.add

# --- attention --------------------------------------------------------------------------


def qkv(batch=2, heads=2, kv_heads=2, queries=3, keys=5, width=4, value_width=4):
    return {
        "query": draw(batch, heads, queries, width),
        "key": draw(batch, kv_heads, keys, width),
        "value": draw(batch, kv_heads, keys, value_width),
    }


def as_torch(value):
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


def torch_attention(query, key, value, attn_mask=None, **options):
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=as_torch(attn_mask), enable_gqa=True, **options
    )


def torch_flex(query, key, value, hidden=None, bias=None, cap=None, **_):
    """The formula with explicit scores, for the options that torch has no argument for."""
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    scores = scores if cap is None else cap * torch.tanh(scores / cap)
    scores = scores if bias is None else scores + torch.from_numpy(bias)
    scores = scores if hidden is None else scores.masked_fill(torch.from_numpy(hidden), -torch.inf)
    return scores.softmax(-1) @ value


SDPA = ref.scaled_dot_product_attention
BOOL_MASK = RNG.random((2, 1, 3, 5)) > 0.4
BOOL_MASK[..., 0] = True
case("sdpa", SDPA, qkv(), torch_attention)
case("sdpa-scale", SDPA, qkv(), torch_attention, scale=0.3)
case("sdpa-gqa", SDPA, qkv(heads=6, kv_heads=2), torch_attention)
case("sdpa-value-width", SDPA, qkv(value_width=7), torch_attention)
case("sdpa-bool", SDPA, qkv(), torch_attention, attn_mask=BOOL_MASK)
case("sdpa-causal", SDPA, qkv(queries=5), torch_attention, is_causal=True)
case(
    "sdpa-additive",
    SDPA,
    qkv() | {"attn_mask": draw(2, 1, 5)},
    lambda attn_mask, **x: F.scaled_dot_product_attention(**x, attn_mask=attn_mask),
)
DISTANCE = np.arange(5)[None, :] - (np.arange(3)[:, None] + 1)
for name, options, theirs in (
    ("softcap", {"softcap": 1.5}, {"cap": 1.5}),
    (
        "window",
        {"window": (2, 1), "causal_offset": 1},
        {"hidden": (DISTANCE < -2) | (DISTANCE > 1)},
    ),
    ("window-int", {"window": 1, "causal_offset": 1}, {"hidden": np.abs(DISTANCE) > 1}),
    ("offset", {"is_causal": True, "causal_offset": 1}, {"hidden": DISTANCE > 0}),
    (
        "alibi",
        {"alibi_slopes": np.array([0.5, 0.25]), "causal_offset": 1},
        {"bias": np.array([0.5, 0.25])[:, None, None] * DISTANCE},
    ),
    (
        "lengths",
        {"key_lengths": np.array([2, 5])},
        {"hidden": np.arange(5)[None, None, None] >= np.array([2, 5])[:, None, None, None]},
    ),
):
    case(
        f"sdpa-{name}",
        SDPA,
        qkv(),
        lambda query, key, value, theirs=theirs, **_: torch_flex(query, key, value, **theirs),
        **options,
    )
case("sdpa-slopes", SDPA, qkv() | {"alibi_slopes": draw(2)}, causal_offset=1, softcap=1.5)
case("sdpa-empty-rows", SDPA, qkv(), key_lengths=np.array([0, 3]), return_weights=True)
case("sdpa-offsets", SDPA, qkv(), is_causal=True, causal_offset=np.array([-2, 1]))
case(
    "sdpa-everything",
    SDPA,
    qkv(heads=4, value_width=3) | {"attn_mask": draw(1, 4, 1, 5)},
    is_causal=True,
    causal_offset=np.array([-1, 2]),
    window=2,
    softcap=2.0,
    alibi_slopes=np.array([0.5, 0.25, 0.125, 0.0625]),
    key_lengths=np.array([4, 5]),
    dropout_p=0.25,
    keep=RNG.random((2, 4, 3, 5)) > 0.25,
    return_weights=True,
)

BAHDANAU = {
    "query": draw(2, 3, 4),
    "keys": draw(2, 5, 6),
    "w_query": draw(7, 4),
    "w_key": draw(7, 6),
    "v": draw(7),
}


def torch_additive(query, keys, w_query, w_key, v, values=None, key_lengths=None, **_):
    hidden = torch.tanh((query @ w_query.T)[:, :, None] + (keys @ w_key.T)[:, None])
    return torch_attend(hidden @ v, keys if values is None else values, key_lengths)


def torch_attend(scores, values, key_lengths):
    if key_lengths is not None:
        hidden = torch.arange(scores.shape[-1]) >= torch.from_numpy(key_lengths)[:, None, None]
        scores = scores.masked_fill(hidden, -torch.inf)
    weights = scores.softmax(-1)
    return weights @ values, weights


case("additive", ref.additive_attention, BAHDANAU, torch_additive, return_weights=True)
case(
    "additive-values",
    ref.additive_attention,
    BAHDANAU | {"values": draw(2, 5, 3)},
    torch_additive,
    key_lengths=np.array([3, 5]),
    return_weights=True,
)
case("additive-empty", ref.additive_attention, BAHDANAU, key_lengths=np.array([0, 5]))


def torch_dot(query, keys, weight=None, values=None, key_lengths=None, **_):
    scores = (query if weight is None else query @ weight) @ keys.transpose(1, 2)
    return torch_attend(scores, keys if values is None else values, key_lengths)


DOT = {"query": draw(2, 3, 4), "keys": draw(2, 5, 4)}
GENERAL = {"query": draw(2, 3, 4), "keys": draw(2, 5, 6), "weight": draw(4, 6)}
case("dot", ref.dot_attention, DOT, torch_dot, return_weights=True)
case(
    "dot-general",
    ref.dot_attention,
    GENERAL | {"values": draw(2, 5, 3)},
    torch_dot,
    key_lengths=np.array([5, 1]),
    return_weights=True,
)
case("dot-empty", ref.dot_attention, DOT, key_lengths=np.array([0, 2]))

# --- recurrence -------------------------------------------------------------------------

T, N, D, H = 4, 3, 3, 5


def weights(gates, hidden=H, state=None, biases=True):
    state = hidden if state is None else state
    out = {
        "x": draw(T, N, D),
        "h0": draw(N, state),
        "w_ih": draw(gates * hidden, D),
        "w_hh": draw(gates * hidden, state, scale=0.5),
    }
    if biases:
        out |= {"b_ih": draw(gates * hidden), "b_hh": draw(gates * hidden)}
    return out


def torch_recurrent(kind, **module_options):
    """torch's module with our arguments, one sequence at a time so that lengths are plain."""

    def run(x, h0, w_ih, w_hh, b_ih=None, b_hh=None, c0=None, w_hr=None, lengths=None,
            reverse=False, **_):  # fmt: skip
        projection = {} if w_hr is None else {"proj_size": w_hr.shape[0]}
        gates = {"RNN": 1, "GRU": 3, "LSTM": 4}[kind]
        module = getattr(torch.nn, kind)(
            x.shape[2],
            w_ih.shape[0] // gates,
            bias=b_ih is not None,
            dtype=x.dtype,
            **module_options,
            **projection,
        )
        named = {"weight_ih_l0": w_ih, "weight_hh_l0": w_hh, "bias_ih_l0": b_ih,
                 "bias_hh_l0": b_hh, "weight_hr_l0": w_hr}  # fmt: skip
        named = {n: w for n, w in named.items() if w is not None}
        outputs, finals = [], []
        for b in range(x.shape[1]):
            n = x.shape[0] if lengths is None else int(lengths[b])
            sequence = x[:n, b : b + 1]
            sequence = sequence.flip(0) if reverse else sequence
            state = h0[None, b : b + 1]
            state = state if c0 is None else (state, c0[None, b : b + 1])
            if n:
                y, state = torch.func.functional_call(module, named, (sequence, state))
            else:
                y = sequence.new_zeros(0, 1, h0.shape[1])
            y = y.flip(0) if reverse else y
            outputs.append(F.pad(y, (0, 0, 0, 0, 0, x.shape[0] - n)))
            finals.append(state if c0 is not None else (state,))
        states = [torch.cat([f[i][0] for f in finals]) for i in range(len(finals[0]))]
        return (torch.cat(outputs, 1), *states)

    return run


for name, options in (
    ("", {}),
    ("-lengths", {"lengths": np.array([2, 4, 0])}),
    ("-reverse", {"reverse": True}),
    ("-reverse-lengths", {"reverse": True, "lengths": np.array([1, 3, 4])}),
):
    for biases in (True, False):
        name = name if biases else name + "-plain"
        case(f"rnn{name}", ref.rnn, weights(1, biases=biases), torch_recurrent("RNN"), **options)
        case(f"gru{name}", ref.gru, weights(3, biases=biases), torch_recurrent("GRU"), **options)
        case(
            f"lstm{name}",
            ref.lstm,
            weights(4, biases=biases) | {"c0": draw(N, H)},
            torch_recurrent("LSTM"),
            **options,
        )
        case(f"gru-before{name}", ref.gru, weights(3, biases=biases), reset_after=False, **options)
case(
    "rnn-relu",
    ref.rnn,
    weights(1),
    torch_recurrent("RNN", nonlinearity="relu"),
    nonlinearity="relu",
)
PROJECTED = weights(4, state=2) | {"c0": draw(N, H), "w_hr": draw(2, H)}
case(
    "lstm-projection",
    ref.lstm,
    PROJECTED,
    torch_recurrent("LSTM"),
    lengths=np.array([4, 2, 3]),
)


def lstm_with_norms(layer_norm=(), **arguments):
    """The four layer-norm weights as separate arguments."""
    names = ("n0", "n1", "n2", "n3")
    if all(n in arguments for n in names):
        layer_norm = tuple(arguments.pop(n) for n in names)
    value, backward = ref.lstm.vjp(layer_norm_weights=layer_norm or None, **arguments)

    def renamed(*grads):
        return {n.replace("layer_norm_weights.", "n"): g for n, g in backward(*grads).items()}

    return value, renamed


NORMS = {"n0": draw(4 * H), "n1": draw(4 * H), "n2": draw(H), "n3": draw(H)}
CELL = weights(4) | {"c0": draw(N, H)}
case("lstm-peepholes", ref.lstm, CELL | {"peepholes": draw(3, H)}, reverse=True)
case("lstm-norm", ref.Op(lstm_with_norms), CELL | NORMS, lengths=np.array([4, 1, 3]))
case("lstm-zoneout", ref.lstm, CELL, zoneout=0.3)
case(
    "lstm-everything",
    ref.Op(lstm_with_norms),
    PROJECTED | NORMS | {"peepholes": draw(3, H)},
    zoneout=0.3,
    zoneout_keep_old=RNG.random((T, N, 2)) < 0.3,
    lengths=np.array([2, 0, 4]),
    reverse=True,
)


@pytest.mark.parametrize("c", CASES, ids=lambda c: c.name)
def test_backward_is_the_finite_difference(c):
    check_finite_differences(c.op, c.inputs, c.options, c.constant)


@pytest.mark.skipif(torch is None, reason="torch is not installed")
@pytest.mark.parametrize("c", [c for c in CASES if c.torch], ids=lambda c: c.name)
def test_agrees_with_torch(c):
    check_against_torch(c.op, c.inputs, c.options, c.torch)


@pytest.mark.parametrize("c", CASES, ids=lambda c: c.name)
def test_computes_in_the_dtype_of_its_arguments(c):
    check_keeps_float32(c.op, c.inputs, c.options)


# --- what the fine print says -----------------------------------------------------------


def test_an_attention_row_that_sees_nothing_is_zero_forward_and_backward():
    x = qkv()
    for options in (
        {"key_lengths": np.array([0, 5])},
        {"attn_mask": np.full((2, 1, 1, 1), -np.inf)},
        {"attn_mask": np.zeros((2, 1, 1, 1), bool)},
        {"is_causal": True, "causal_offset": -9},
    ):
        value, backward = SDPA.vjp(**x, **options)
        assert not value[0].any()
        grads = backward(np.ones_like(value))
        assert all(np.isfinite(g).all() for g in grads.values())
        assert not grads["query"][0].any()
        assert not grads["key"][0].any()


def test_nan_in_a_query_stays_and_in_a_hidden_key_does_not():
    x = qkv()
    x["query"][0, 0, 0, 0] = np.nan
    x["key"][1, :, 3:] = np.nan
    x["value"][1, :, 3:] = np.nan
    y = SDPA(**x, key_lengths=np.array([5, 3]))
    assert np.isnan(y[0, 0, 0]).all()
    assert np.isfinite(y[1]).all()
    assert np.isnan(y).sum() == 4


@pytest.mark.parametrize("op", [ref.softmax, ref.log_softmax], ids=["softmax", "log_softmax"])
@pytest.mark.parametrize("bad", [[np.inf, 1], [np.nan, 1], [-np.inf, -np.inf]], ids=str)
def test_softmax_of_impossible_rows_is_nan(op, bad):
    y = op(np.array([bad, [0.0, 1.0]]))
    assert np.isnan(y[0]).all()
    assert np.isfinite(y[1]).all()


def test_an_infeasible_ctc_target_costs_infinity():
    logp = ref.log_softmax(draw(2, 1, 4))
    loss = ref.ctc_loss(logp, np.array([[1, 1]]), np.array([2]), np.array([2]), reduction="none")
    assert np.isposinf(loss).all()


def test_a_recurrence_without_steps_keeps_its_state():
    w = weights(3)
    w["x"] = w["x"][:0]
    output, h_n = ref.gru(**w)
    assert output.shape == (0, N, H)
    np.testing.assert_array_equal(h_n, w["h0"])


# --- optimizers -------------------------------------------------------------------------

OPTIMIZERS = [
    ("sgd", "SGD", {"lr": 0.1}),
    ("sgd", "SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}),
    ("sgd", "SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}),
    ("sgd", "SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    ("adam", "Adam", {"lr": 1e-2, "weight_decay": 0.1}),
    ("adam", "Adam", {"lr": 1e-2, "betas": (0.8, 0.95), "eps": 1e-4}),
    ("adamw", "AdamW", {"lr": 1e-2, "weight_decay": 0.1}),
    ("adafactor", "Adafactor", {}),
    ("adafactor", "Adafactor", {"warmup_init": True}),
    (
        "adafactor",
        "Adafactor",
        {"lr": 1e-2, "relative_step": False, "scale_parameter": False, "beta1": 0.9},
    ),
    (
        "adafactor",
        "Adafactor",
        {"lr": 1e-2, "relative_step": False, "weight_decay": 0.1, "clip_threshold": 0.5},
    ),
]


@pytest.mark.parametrize(("ours", "theirs", "options"), OPTIMIZERS, ids=str)
@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 4)], ids=str)
def test_twenty_optimizer_steps_agree_with_their_source(ours, theirs, options, shape):
    if torch is None:
        pytest.skip("torch is not installed")
    if theirs == "Adafactor":
        library = pytest.importorskip("transformers.optimization", reason="needs transformers")
    else:
        library = torch.optim
    start = draw(*shape)
    their_p = torch.from_numpy(start.copy()).requires_grad_()
    optimizer = getattr(library, theirs)([their_p], **options)
    p, state = start, {}
    for _ in range(20):
        g = draw(*shape)
        p, state = getattr(ref.optimizer, ours)(p, g, state, **options)
        their_p.grad = torch.from_numpy(g)
        optimizer.step()
        np.testing.assert_allclose(p, their_p.detach().numpy(), rtol=1e-6, atol=1e-7)
