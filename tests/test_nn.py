# SPDX-License-Identifier: Apache-2.0
"""Layers against torch's with the same weights: values, gradients, parameter names."""

from __future__ import annotations

import numpy as np
import pytest

import seqloom as sl
from nn_support import assert_close, assert_same_module, plain, same_weights
from seqloom import nn


def f32(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


@pytest.fixture
def torch():
    module = pytest.importorskip("torch")
    module.manual_seed(0)
    return module


# ---- parity with torch ------------------------------------------------------------------------


def test_linear(torch, rng, device):
    for bias in (True, False):
        pair = nn.Linear(7, 5, bias), torch.nn.Linear(7, 5, bias)
        assert_same_module(*pair, f32(rng, 3, 4, 7), device=device)


def test_embedding(torch, rng, device):
    ids = rng.integers(0, 11, (3, 4))
    for padding in (None, 2, -1):
        pair = nn.Embedding(11, 6, padding), torch.nn.Embedding(11, 6, padding)
        assert_same_module(*pair, ids, device=device)


def test_layer_norm(torch, rng, device):
    x = f32(rng, 3, 4, 6)
    for shape, options in ((6, {}), (6, {"bias": False}), ((4, 6), {"eps": 1e-3})):
        pair = nn.LayerNorm(shape, **options), torch.nn.LayerNorm(shape, **options)
        assert_same_module(*pair, x, device=device)


def test_rms_norm(torch, rng, device):
    x = f32(rng, 3, 4, 6)
    for shape, options in ((6, {}), ([4, 6], {"eps": 1e-3})):
        pair = nn.RMSNorm(shape, **options), torch.nn.RMSNorm(shape, **options)
        assert_same_module(*pair, x, device=device)
    plain_norm = (
        nn.RMSNorm(6, elementwise_affine=False),
        torch.nn.RMSNorm(6, elementwise_affine=False),
    )
    assert_same_module(*plain_norm, x, device=device)


ACTIVATIONS = {
    "ReLU": (),
    "GELU": (),
    "GELU-tanh": ("tanh",),
    "SiLU": (),
    "Tanh": (),
    "Sigmoid": (),
    "Softmax": (1,),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation(torch, rng, device, name):
    kind, options = name.partition("-")[0], ACTIVATIONS[name]
    theirs = torch.nn.GELU(approximate="tanh") if options == ("tanh",) else None
    theirs = theirs or getattr(torch.nn, kind)(*options)
    assert_same_module(getattr(nn, kind)(*options), theirs, f32(rng, 4, 9), device=device)


RECURRENT = {
    "plain": {},
    "two layers": {"num_layers": 2},
    "both ways": {"bidirectional": True, "num_layers": 2},
    "batch first, no bias": {"batch_first": True, "bias": False, "bidirectional": True},
}


@pytest.mark.parametrize("options", RECURRENT.values(), ids=RECURRENT)
@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_recurrent(torch, rng, device, kind, options):
    mine = getattr(nn, kind)(5, 6, **options)
    theirs = getattr(torch.nn, kind)(5, 6, **options)
    x = f32(rng, 3, 4, 5)
    rows = (1 + mine.bidirectional) * mine.num_layers
    batch = 3 if mine.batch_first else 4
    state = f32(rng, rows, batch, 6)
    hx = (state, f32(rng, rows, batch, 6)) if kind == "LSTM" else state
    assert_same_module(mine, theirs, x, hx, device=device)
    assert_same_module(mine.to("cpu"), theirs, x, device=device)


def test_recurrent_relu_and_one_sequence(torch, rng, device):
    pair = [m.RNN(5, 6, nonlinearity="relu") for m in (nn, torch.nn)]
    assert_same_module(*pair, f32(rng, 3, 5), f32(rng, 1, 6), device=device)


@pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")  # torch's own
@pytest.mark.parametrize("bidirectional", [False, True])
def test_lstm_projection(torch, rng, device, bidirectional):
    options = {"num_layers": 2, "proj_size": 3, "bidirectional": bidirectional}
    rows = 2 * (1 + bidirectional)
    hx = (f32(rng, rows, 4, 3), f32(rng, rows, 4, 6))
    pair = nn.LSTM(5, 6, **options), torch.nn.LSTM(5, 6, **options)
    assert_same_module(*pair, f32(rng, 3, 4, 5), hx, device=device)


def layers_by_hand(module, run, x):
    """Two layers in both directions: `run` on each one's parameters, without its suffix."""
    for layer in range(2):
        outputs = []
        for suffix in ("", "_reverse"):
            end = f"_l{layer}{suffix}"
            own = {n.removesuffix(end): p for n, p in module.named_parameters() if n.endswith(end)}
            outputs.append(run(x, own, bool(suffix)))
        x = sl.ops.cat(outputs, -1)
    return x


@pytest.mark.parametrize("zoneout", [0.0, 0.3])
@pytest.mark.parametrize("options", ["peepholes", "layer_norm", "peepholes layer_norm proj_size"])
def test_lstm_options_are_those_of_the_op(options, zoneout, rng, device):
    given = {n: 3 if n == "proj_size" else True for n in options.split()}
    module = nn.LSTM(5, 6, 2, bidirectional=True, zoneout=zoneout, **given).to(device).eval()
    norms = ("norm_ih", "norm_hh", "norm_cell", "norm_bias")
    for name, p in module.named_parameters():
        if name.startswith("norm_"):
            assert set(plain(p).ravel()) == {0.0 if name.startswith("norm_bias") else 1.0}
            nn.init.uniform_(p, 0.5, 1.5)

    def run(x, own, reverse):
        return sl.ops.lstm(
            x, None, None, own["weight_ih"], own["weight_hh"], own["bias_ih"], own["bias_hh"],
            w_hr=own.get("weight_hr"), peepholes=own.get("peepholes"),
            layer_norm=tuple(own[n] for n in norms) if "norm_ih" in own else None,
            zoneout=zoneout, reverse=reverse, training=False,
        )[0]  # fmt: skip

    x = sl.tensor(f32(rng, 3, 2, 5), device=device)
    assert_close(module(x)[0], plain(layers_by_hand(module, run, x)))
    assert options.split()[0] in repr(module)


def test_gru_with_the_reset_first_is_that_of_the_op(rng, device):
    module = nn.GRU(5, 6, 2, bidirectional=True, reset_after=False).to(device)

    def run(x, own, reverse):
        weights = (own[n] for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        return sl.ops.gru(x, None, *weights, reset_after=False, reverse=reverse)[0]

    x = sl.tensor(f32(rng, 3, 2, 5), device=device)
    assert_close(module(x)[0], plain(layers_by_hand(module, run, x)))


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_lengths_equal_packed_sequences(torch, rng, kind):
    options = {"num_layers": 2, "bidirectional": True, "batch_first": True}
    mine = getattr(nn, kind)(5, 6, **options)
    theirs = getattr(torch.nn, kind)(5, 6, **options)
    same_weights(mine, theirs)
    x, lengths = f32(rng, 3, 7, 5), np.array([4, 7, 2])
    y, h = mine(sl.tensor(x), lengths=sl.tensor(lengths))
    rnn_tools = torch.nn.utils.rnn
    packed = rnn_tools.pack_padded_sequence(
        torch.tensor(x), torch.tensor(lengths), batch_first=True, enforce_sorted=False
    )
    ty, th = theirs(packed)
    assert_close(y, rnn_tools.pad_packed_sequence(ty, batch_first=True)[0])
    for a, b in zip(h, th, strict=True) if kind == "LSTM" else [(h, th)]:
        assert_close(a, b, "last state")


@pytest.mark.parametrize("kind", ["RNNCell", "GRUCell", "LSTMCell"])
def test_cells(torch, rng, device, kind):
    for bias in (True, False):
        pair = [getattr(m, kind)(5, 6, bias) for m in (nn, torch.nn)]
        h = f32(rng, 4, 6)
        hx = (h, f32(rng, 4, 6)) if kind == "LSTMCell" else h
        assert_same_module(*pair, f32(rng, 4, 5), hx, device=device)
    assert_same_module(*pair, f32(rng, 5), device=device)


def causal(n: int) -> np.ndarray:
    return np.triu(np.ones((n, n), bool), 1)


def padding(*lengths: int) -> np.ndarray:
    return np.arange(max(lengths)) >= np.array(lengths)[:, None]


ATTENTION = {
    "plain": ({}, {}),
    "no weights": ({}, {"need_weights": False}),
    "each head's": ({"batch_first": True, "bias": False}, {"average_attn_weights": False}),
    "padding": ({"batch_first": True}, {"key_padding_mask": padding(3, 5)}),
    "bool mask": ({}, {"attn_mask": causal(5)[:4], "key_padding_mask": padding(3, 5)}),
    "number mask": (
        {},
        {"attn_mask": np.linspace(-1, 1, 80, dtype=np.float32).reshape(4, 4, 5)},
    ),
    "other widths": ({"kdim": 6, "vdim": 3}, {}),
    "learned key": ({"add_bias_kv": True}, {}),
    "learned key, other widths": ({"add_bias_kv": True, "kdim": 6}, {"need_weights": False}),
    "zero key": ({"add_zero_attn": True, "batch_first": True}, {"average_attn_weights": False}),
    "both, bool masks": (
        {"add_bias_kv": True, "add_zero_attn": True},
        {"attn_mask": causal(5)[:4], "key_padding_mask": padding(3, 5)},
    ),
    "both, number mask": (
        {"add_bias_kv": True, "add_zero_attn": True},
        {"attn_mask": np.linspace(-1, 1, 80, dtype=np.float32).reshape(4, 4, 5)},
    ),
}


@pytest.mark.parametrize("case", ATTENTION)
def test_multihead_attention(torch, rng, device, case):
    options, call = ATTENTION[case]
    mine, theirs = (m.MultiheadAttention(8, 2, **options) for m in (nn, torch.nn))
    query = f32(rng, *((2, 4, 8) if mine.batch_first else (4, 2, 8)))
    lead = (2, 5) if mine.batch_first else (5, 2)
    key, value = f32(rng, *lead, mine.kdim), f32(rng, *lead, mine.vdim)
    assert_same_module(mine, theirs, query, key, value, device=device, **call)


def test_multihead_self_attention(torch, rng, device):
    mine, theirs = (m.MultiheadAttention(8, 2, batch_first=True) for m in (nn, torch.nn))
    same_weights(mine, theirs)
    mine.to(device)
    x = f32(rng, 2, 5, 8)
    a, b = sl.tensor(x, device=device), torch.tensor(x)
    y, w = mine(a, a, a, is_causal=True)
    ty, tw = theirs(b, b, b, attn_mask=torch.tensor(causal(5)))
    assert_close(y, ty)
    assert_close(w, tw)
    y, w = mine(a[0], a[0], a[0])
    ty, tw = theirs(b[0], b[0], b[0])
    assert_close(y, ty)
    assert_close(w, tw)
    hidden = sl.tensor(np.ones((2, 5), bool), device=device)
    y, w = mine(a, a, a, key_padding_mask=hidden)
    assert not plain(w).any()
    assert_close(y, np.broadcast_to(plain(mine.out_proj.bias), y.shape))


@pytest.mark.parametrize("numbers", [False, True])
def test_more_keys_stand_outside_the_causal_mask(torch, rng, device, numbers):
    options = {"add_bias_kv": True, "add_zero_attn": True, "batch_first": True}
    mine, theirs = (m.MultiheadAttention(8, 2, **options) for m in (nn, torch.nn))
    same_weights(mine, theirs)
    mine.to(device)
    x, mask = f32(rng, 2, 5, 8), f32(rng, 5, 5) if numbers else None
    a, b = sl.tensor(x, device=device), torch.tensor(x)
    given = None if mask is None else sl.tensor(mask, device=device)
    y, w = mine(a, a, a, attn_mask=given, is_causal=True)
    hidden = causal(5) if mask is None else np.where(causal(5), np.float32(-np.inf), mask)
    ty, tw = theirs(b, b, b, attn_mask=torch.tensor(hidden))
    assert_close(y, ty)
    assert_close(w, tw)
    all_hidden = sl.tensor(np.ones((2, 5), bool), device=device)
    _, w = mine(a, a, a, key_padding_mask=all_hidden)
    assert not plain(w)[..., :5].any()
    np.testing.assert_allclose(plain(w)[..., 5:].sum(-1), 1, rtol=1e-6)


LAYERS = {
    "post-norm": {},
    "pre-norm": {"norm_first": True, "batch_first": True},
    "gelu, no bias": {"activation": "gelu", "bias": False, "batch_first": True},
}


@pytest.mark.parametrize("case", LAYERS)
def test_transformer_layers(torch, rng, device, case):
    options = {"dim_feedforward": 16, "dropout": 0.0, **LAYERS[case]}
    first = options.get("batch_first", False)
    src, tgt = (f32(rng, *((2, n, 8) if first else (n, 2, 8))) for n in (5, 4))
    pair = [m.TransformerEncoderLayer(8, 2, **options) for m in (nn, torch.nn)]
    masks = {"src_mask": causal(5), "src_key_padding_mask": padding(3, 5)}
    assert_same_module(*pair, src, device=device, **masks)
    pair = [m.TransformerDecoderLayer(8, 2, **options) for m in (nn, torch.nn)]
    masks = {"tgt_mask": causal(4), "memory_key_padding_mask": padding(3, 5)}
    assert_same_module(*pair, tgt, src, device=device, **masks)


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
def test_transformer(torch, rng, device):
    pair = [
        m.Transformer(8, 2, 2, 2, 16, dropout=0.0, batch_first=True, norm_first=True)
        for m in (nn, torch.nn)
    ]
    assert_same_module(
        *pair,
        f32(rng, 2, 5, 8),
        f32(rng, 2, 4, 8),
        device=device,
        tgt_is_causal=True,
        memory_key_padding_mask=padding(3, 5),
        theirs_kwargs={"tgt_mask": causal(4), "memory_key_padding_mask": padding(3, 5)},
    )
    mask = nn.Transformer.generate_square_subsequent_mask(4)
    np.testing.assert_array_equal(
        plain(mask), plain(torch.nn.Transformer.generate_square_subsequent_mask(4))
    )


def test_transformer_takes_a_function_as_activation(rng):
    layers = [
        nn.TransformerEncoderLayer(8, 2, 16, 0.0, activation)
        for activation in ("silu", sl.ops.silu, lambda t: t * t.sigmoid())
    ]
    x = sl.tensor(f32(rng, 3, 2, 8))
    state = layers[0].state_dict()
    results = []
    for layer in layers:
        layer.load_state_dict(state)
        results.append(plain(layer(x)))
    assert_close(results[1], results[0])
    assert_close(results[2], results[0])


LOSSES = {
    "CrossEntropyLoss": [{}, {"label_smoothing": 0.1}, {"ignore_index": 2}, {"reduction": "none"}],
    "MSELoss": [{}, {"reduction": "sum"}, {"reduction": "none"}],
    "L1Loss": [{}, {"reduction": "none"}],
    "BCEWithLogitsLoss": [{}, {"reduction": "none"}],
}


@pytest.mark.parametrize("kind", LOSSES)
def test_losses(torch, rng, device, kind):
    x = f32(rng, 3, 5)
    x[0, :2] = 0, 100
    target = rng.integers(0, 5, 3) if kind == "CrossEntropyLoss" else rng.random((3, 5))
    target = target if kind == "CrossEntropyLoss" else target.astype(np.float32)
    for options in LOSSES[kind]:
        pair = [getattr(m, kind)(**options) for m in (nn, torch.nn)]
        assert_same_module(*pair, x, target, device=device)


def test_bce_weights(torch, rng):
    x, t, w, pw = f32(rng, 3, 5), rng.random((3, 5)).astype(np.float32), f32(rng, 5), f32(rng, 5)
    mine = nn.BCEWithLogitsLoss(sl.tensor(w), pos_weight=sl.tensor(pw))
    theirs = torch.nn.BCEWithLogitsLoss(torch.tensor(w), pos_weight=torch.tensor(pw))
    assert_same_module(mine, theirs, x, t)


def test_cross_entropy_of_more_axes_and_of_probabilities(torch, rng, device):
    weight = np.linspace(0.5, 2, 5, dtype=np.float32)
    mine = nn.CrossEntropyLoss(sl.tensor(weight, device=device), label_smoothing=0.1)
    theirs = torch.nn.CrossEntropyLoss(torch.tensor(weight), label_smoothing=0.1)
    x = f32(rng, 2, 5, 3, 4)
    assert_same_module(mine, theirs, x, rng.integers(0, 5, (2, 3, 4)), device=device)
    assert_same_module(mine, theirs, x[0, :, 0, 0], np.array(3), device=device)
    shares = rng.random((2, 5, 3, 4)).astype(np.float32)
    assert_same_module(mine, theirs, x, shares, device=device)
    with pytest.raises(ValueError, match=r"target must have shape \[2, 3, 4\].* got \[2, 3\]"):
        mine(sl.tensor(x), sl.zeros(2, 3, dtype="int64"))


def test_ctc_loss(torch, rng, device):
    logits = f32(rng, 9, 3, 5)
    targets = rng.integers(1, 5, (3, 4))
    steps, labels = np.array([9, 8, 7]), np.array([4, 2, 3])
    for options in ({}, {"reduction": "none"}, {"reduction": "sum", "blank": 0}):
        mine, theirs = (m.CTCLoss(**options) for m in (nn, torch.nn))
        x = sl.tensor(logits, device=device, requires_grad=True)
        t = torch.tensor(logits, requires_grad=True)
        ids = [sl.tensor(a, device=device) for a in (targets, steps, labels)]
        y = mine(sl.ops.log_softmax(x), *ids)
        ty = theirs(t.log_softmax(-1), *(torch.tensor(a) for a in (targets, steps, labels)))
        assert_close(y, ty)
        y.sum().backward()
        ty.sum().backward()
        assert_close(x.grad, t.grad, "gradient", 1e-4)


# ---- attention of recurrent decoders, positions -----------------------------------------------


def softmax(scores: np.ndarray) -> np.ndarray:
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("score", ["additive", "dot", "general", "concat"])
def test_attention_of_decoders(rng, device, score):
    if score == "additive":
        module = nn.AdditiveAttention(4, 6, 5)
    elif score == "dot":
        module = nn.DotAttention()
    else:
        module = nn.DotAttention(score, 4, 6, 5)
    width = 4 if score == "dot" else 6
    q, k, v = f32(rng, 2, 3, 4), f32(rng, 2, 5, width), f32(rng, 2, 5, 7)
    w = {name: plain(p) for name, p in module.named_parameters()}
    if score in ("additive", "concat"):
        w_q = w["w_query"] if score == "additive" else w["weight"][:, :4]
        w_k = w["w_key"] if score == "additive" else w["weight"][:, 4:]
        scores = np.tanh((q @ w_q.T)[:, :, None] + (k @ w_k.T)[:, None]) @ w["v"]
    else:
        scores = (q if score == "dot" else q @ w["weight"]) @ k.swapaxes(1, 2)
    scores[1, :, 3:] = -np.inf
    weights = softmax(scores)
    module.to(device)
    tq, tk, tv = (sl.tensor(a, device=device, requires_grad=True) for a in (q, k, v))
    lengths = sl.tensor([5, 3], device=device)
    context, got = module(tq, tk, tv, key_lengths=lengths)
    assert_close(got, weights, "weights")
    assert_close(context, weights @ v)
    context, got = module(tq[:, 0], tk, key_lengths=lengths, need_weights=False)
    assert got is None
    assert_close(context, (weights @ k)[:, 0])
    context.sum().backward()
    assert all(p.grad is not None for p in (tq, tk, *module.parameters()))


def test_sinusoidal_positions(rng):
    x = f32(rng, 2, 7, 6)
    module = nn.SinusoidalPositionalEncoding(6, max_len=4, batch_first=True)
    angle = np.arange(9)[:, None] / 10000 ** (np.arange(0, 6, 2) / 6)
    table = np.stack([np.sin(angle), np.cos(angle)], -1).reshape(9, 6)
    assert_close(module(sl.tensor(x)), x + table[:7])
    assert_close(module(sl.tensor(x), offset=2), x + table[2:9])
    other = nn.SinusoidalPositionalEncoding(6)
    assert_close(other(sl.tensor(x.swapaxes(0, 1))), (x + table[:7]).swapaxes(0, 1))
    assert module.state_dict() == {}
    with pytest.raises(ValueError, match=r"x must have shape .* with D = 6, got \[2, 5\]"):
        module(sl.zeros(2, 5))


def test_learned_positions(rng):
    module = nn.LearnedPositionalEmbedding(8, 6, batch_first=True)
    x = f32(rng, 2, 3, 6)
    assert_close(module(sl.tensor(x), offset=4), x + plain(module.weight)[4:7])
    with pytest.raises(ValueError, match="offset \\+ T must be at most 8, got 9"):
        module(sl.tensor(x), offset=6)


def test_rotary_embedding(rng, device):
    x = f32(rng, 2, 3, 5, 8)
    for interleaved in (False, True):
        module = nn.RotaryEmbedding(6, interleaved=interleaved)
        angle = (np.arange(5) + 2)[:, None] * 10000.0 ** (-np.arange(3) / 3)
        turns = np.exp(1j * angle)
        a, b = (x[..., 0:6:2], x[..., 1:6:2]) if interleaved else (x[..., :3], x[..., 3:6])
        z = (a + 1j * b) * turns
        expected = x.copy()
        if interleaved:
            expected[..., 0:6:2], expected[..., 1:6:2] = z.real, z.imag
        else:
            expected[..., :3], expected[..., 3:6] = z.real, z.imag
        t = sl.tensor(x, device=device)
        assert_close(module(t, offset=2), expected)
        assert_close(module(t, positions=np.arange(5) + 2), expected)
        each = np.stack([np.arange(5) + 2] * 2)
        assert_close(module(t, positions=sl.tensor(each)), expected)


def test_relative_position_bias():
    t5 = pytest.importorskip("transformers.models.t5.modeling_t5").T5Attention
    torch = pytest.importorskip("torch")
    for bidirectional in (True, False):
        module = nn.RelativePositionBias(3, 16, 40, bidirectional)
        distance = np.arange(90) - (np.arange(70)[:, None] + 15)
        buckets = t5._relative_position_bucket(torch.tensor(distance), bidirectional, 16, 40)
        expected = plain(module.weight)[buckets.numpy()].transpose(2, 0, 1)[None]
        bias = module(70, 90, offset=15)
        np.testing.assert_array_equal(plain(bias), expected)
    bias.sum().backward()
    assert module.weight.grad is not None


def test_alibi():
    slopes = plain(nn.Alibi(12).slopes)
    expected = [2.0**-i for i in range(1, 9)] + [2.0**-e for e in (0.5, 1.5, 2.5, 3.5)]
    np.testing.assert_allclose(slopes, expected, rtol=1e-6)
    bias = plain(nn.Alibi(2)(2, 4, offset=1))
    np.testing.assert_allclose(bias[0], 2.0**-4 * np.array([[-1, 0, 1, 2], [-2, -1, 0, 1]]))
