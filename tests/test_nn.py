# SPDX-License-Identifier: Apache-2.0
"""Modules against torch's with the same weights: values, gradients, names; states and errors."""

from __future__ import annotations

import copy
import pickle

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


@pytest.mark.parametrize("bidirectional", [False, True])
def test_lstm_projection(torch, rng, device, bidirectional):
    options = {"num_layers": 2, "proj_size": 3, "bidirectional": bidirectional}
    rows = 2 * (1 + bidirectional)
    hx = (f32(rng, rows, 4, 3), f32(rng, rows, 4, 6))
    pair = nn.LSTM(5, 6, **options), torch.nn.LSTM(5, 6, **options)
    assert_same_module(*pair, f32(rng, 3, 4, 5), hx, device=device)


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


# ---- modules ----------------------------------------------------------------------------------


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", sl.tensor([3, 4]))
        self.register_buffer("cache", sl.zeros(2), persistent=False)
        self.embed = nn.Embedding(5, 4)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Dropout()) for _ in range(2))
        self.heads = nn.ModuleDict({"a": nn.Linear(4, 3, bias=False)})
        self.out = nn.Linear(4, 5, bias=False)
        self.out.weight = self.embed.weight
        self.scale = nn.Parameter([2.0])


def test_names_and_tied_parameters():
    m = Tied()
    names = [n for n, _ in m.named_parameters()]
    assert names == [
        "scale", "embed.weight", "blocks.0.0.weight", "blocks.0.0.bias", "blocks.1.0.weight",
        "blocks.1.0.bias", "heads.a.weight",
    ]  # fmt: skip
    assert list(m.state_dict()) == ["scale", "steps", *names[1:], "out.weight"]
    assert m.num_parameters() == 1 + 20 + 2 * 20 + 12
    assert [n for n, _ in m.named_buffers()] == ["steps", "cache"]
    assert [n for n, _ in m.named_modules()][:4] == ["", "embed", "blocks", "blocks.0"]
    assert m.get_submodule("blocks.1.0") is m.blocks[1][0]
    with pytest.raises(ValueError, match=r"path must lead to a module, got 'heads\.b'"):
        m.get_submodule("heads.b")


def test_copies_keep_ties_and_share_nothing():
    m = Tied()
    for other in (copy.deepcopy(m), pickle.loads(pickle.dumps(m))):
        assert other.out.weight is other.embed.weight
        assert isinstance(other.scale, nn.Parameter)
        assert other.scale.requires_grad
        with sl.no_grad():
            other.embed.weight.fill_(7)
        assert (plain(m.embed.weight) != 7).all()


def test_parameter_is_a_tensor_whose_results_are_not_parameters():
    p = nn.Parameter(np.ones((2, 3), np.float32))
    assert isinstance(p, nn.Parameter)
    assert isinstance(p, sl.Tensor)
    assert type(p * 2) is sl.Tensor
    assert type(p.detach()) is sl.Tensor
    frozen = nn.Parameter(sl.ones(2), requires_grad=False)
    assert not frozen.requires_grad
    t = sl.ones(2)
    t_shared = nn.Parameter(t)
    t[0] = 5.0
    assert t_shared.tolist() == [5.0, 1.0]
    assert sl.ops.relu(p).requires_grad
    m = nn.Module()
    m.weight = p
    assert list(m.state_dict()) == ["weight"]
    m.weight = None
    assert list(m.state_dict()) == []


def test_train_and_eval():
    m = Tied()
    x = sl.ones(100, 4)
    assert m.blocks[0][1].training
    m.eval()
    assert not m.blocks[0][1].training
    np.testing.assert_array_equal(plain(m.blocks[0][1](x)), 1)
    m.train()
    dropped = plain(m.blocks[0][1](x))
    assert set(np.unique(dropped)) == {0.0, 2.0}
    assert 0.3 < (dropped == 0).mean() < 0.7


def test_to_keeps_parameters_gradients_and_integer_buffers():
    m = Tied()
    weight = m.embed.weight
    (weight * 2).sum().backward()
    assert m.to("bfloat16") is m
    assert m.embed.weight is weight
    assert m.out.weight is weight
    assert weight.dtype is sl.bfloat16
    assert weight.grad.dtype is sl.bfloat16
    assert m.steps.dtype is sl.int64
    assert m.cache.dtype is sl.bfloat16
    m.float()
    assert m.blocks[0](sl.ones(1, 4)).dtype is sl.float32
    with pytest.raises(TypeError, match="to: dtype of a module must be floating, got int64"):
        m.to("int64")


def test_apply_zero_grad_and_freezing():
    m = Tied()
    seen = []
    m.apply(lambda child: seen.append(type(child).__name__))
    assert seen[-1] == "Tied"
    assert seen.count("Linear") == 4
    (m.scale * 3).sum().backward()
    m.zero_grad(set_to_none=False)
    assert m.scale.grad.tolist() == [0.0]
    m.zero_grad()
    assert m.scale.grad is None
    m.requires_grad_(False)
    assert m.num_parameters(trainable_only=True) == 0


def test_state_dict_round_trip(torch):
    m, other = Tied(), Tied()
    state = m.state_dict()
    for given in (
        state,
        {k: plain(v) for k, v in state.items()},
        {k: plain(v).astype(np.float64) for k, v in state.items()},
        {k: torch.tensor(plain(v)) for k, v in state.items()},
        {k: torch.nn.Parameter(torch.tensor(plain(v)), False) for k, v in state.items()},
    ):
        other.apply(lambda c: [p.detach().fill_(9) for p in c.parameters()])
        assert other.load_state_dict(given) == ([], [])
        for name, t in other.state_dict().items():
            np.testing.assert_array_equal(plain(t), plain(state[name]))
            assert t.dtype is state[name].dtype


def test_loading_by_assignment_takes_the_memory():
    m = nn.Linear(2, 3)
    values = np.ones((3, 2), np.float16)
    m.load_state_dict({"weight": values, "bias": np.zeros(3, np.float16)}, assign=True)
    values[0, 0] = 4
    assert m.weight.dtype is sl.float16
    assert m.weight[0, 0].item() == 4
    assert isinstance(m.weight, nn.Parameter)


def test_load_state_dict_names_what_does_not_fit():
    m = Tied()
    state = m.state_dict()
    before = plain(m.scale).copy()
    bad = {k: v for k, v in state.items() if k != "heads.a.weight"}
    bad |= {"extra": sl.ones(1), "scale": sl.ones(1) * 5, "steps": sl.zeros(3)}
    with pytest.raises(ValueError) as error:
        m.load_state_dict(bad)
    assert str(error.value) == (
        "load_state_dict: state_dict must fit Tied, got missing heads.a.weight; unexpected extra;"
        " steps must have shape [2], got [3]"
    )
    np.testing.assert_array_equal(plain(m.scale), before)
    with pytest.raises(ValueError, match=r"got steps must have shape \[2\], got \[3\]"):
        m.load_state_dict(bad, strict=False)
    del bad["steps"]
    result = m.load_state_dict(bad, strict=False)
    assert result.missing_keys == ["steps", "heads.a.weight"]
    assert result.unexpected_keys == ["extra"]
    assert m.scale.item() == 5
    with pytest.raises(TypeError, match="state_dict must be a mapping, got list"):
        m.load_state_dict([])
    with pytest.raises(TypeError, match="load_state_dict: scale must be an array, got str"):
        m.load_state_dict({**state, "scale": "2"})


def test_summary_and_repr():
    text = Tied().summary()
    for piece in ("embed", "Embedding", "[5, 4]", "= embed.weight", "73 parameters", "292 bytes"):
        assert piece in text, text
    assert max(len(line) for line in text.splitlines()) < 80
    assert "(0): Linear(4, 4, bias=True)" in repr(Tied())
    assert "LSTM(3, 4, num_layers=2)" in repr(nn.Sequential(nn.LSTM(3, 4, num_layers=2)))


def test_containers():
    layers = nn.ModuleList([nn.ReLU(), nn.Tanh()])
    layers.append(nn.Sigmoid()).insert(0, nn.SiLU())
    assert [type(m).__name__ for m in layers] == ["SiLU", "ReLU", "Tanh", "Sigmoid"]
    assert len(layers[1:3]) == 2
    layers[0] = nn.GELU()
    del layers[-1]
    assert [n for n, _ in layers.named_children()] == ["0", "1", "2"]
    net = nn.Sequential({"first": nn.ReLU(), "last": nn.Tanh()})
    assert [n for n, _ in net.named_children()] == ["first", "last"]
    assert type(net[-1]) is nn.Tanh
    table = nn.ModuleDict({"a": nn.ReLU()})
    table["b"] = nn.Tanh()
    assert list(table) == ["a", "b"]
    assert "b" in table
    for wrong in (lambda: nn.ModuleList([1]), lambda: nn.Sequential(len)):
        with pytest.raises(TypeError, match="items must be Modules"):
            wrong()


# ---- initialisers, clipping -------------------------------------------------------------------

INITIALISERS = {
    "uniform_": (-1, 3),
    "normal_": (1, 2),
    "trunc_normal_": (0, 1, -1, 0.5),
    "xavier_uniform_": (2,),
    "xavier_normal_": (),
    "kaiming_uniform_": (),
    "kaiming_normal_": (0, "fan_out", "relu"),
}


@pytest.mark.parametrize("name", INITIALISERS)
def test_initialisers_have_torchs_distribution(torch, name):
    sl.manual_seed(1)
    arguments = INITIALISERS[name]
    mine = plain(getattr(nn.init, name)(sl.empty(300, 200), *arguments)).ravel()
    theirs = plain(getattr(torch.nn.init, name)(torch.empty(300, 200), *arguments)).ravel()
    shares = np.linspace(0, 1, 11)[1:-1]
    spread = theirs.std()
    np.testing.assert_allclose(
        np.quantile(mine, shares), np.quantile(theirs, shares), atol=0.03 * spread
    )
    assert abs(np.abs(mine).max() - np.abs(theirs).max()) < 1.5 * spread


def test_deterministic_initialisers():
    w = plain(nn.init.orthogonal_(sl.empty(6, 2, 2), gain=2.0)).reshape(6, 4)
    np.testing.assert_allclose(w.T @ w, 4 * np.eye(4), atol=1e-5)
    np.testing.assert_array_equal(plain(nn.init.eye_(sl.empty(2, 3))), np.eye(2, 3))
    assert nn.init.ones_(sl.empty(2)).tolist() == [1.0, 1.0]
    with nn.init.skip():
        t = nn.init.uniform_(sl.zeros(3))
    assert t.tolist() == [0.0, 0.0, 0.0]
    sl.manual_seed(3)
    a = plain(nn.Linear(4, 4).weight)
    sl.manual_seed(3)
    np.testing.assert_array_equal(a, plain(nn.Linear(4, 4).weight))
    with pytest.raises(ValueError, match="tensor must have at least 2 axes"):
        nn.init.xavier_uniform_(sl.empty(3))


@pytest.mark.parametrize("kind", [2.0, 1.0, float("inf")])
def test_clip_grad_norm(torch, rng, kind):
    values = [f32(rng, 3, 4), f32(rng, 5)]
    mine, theirs = [nn.Parameter(v) for v in values], [torch.tensor(v) for v in values]
    for limit in (1e3, 0.5):
        for p, t, v in zip(mine, theirs, values, strict=True):
            p.grad, t.grad = sl.tensor(v), torch.tensor(v)
        total = nn.utils.clip_grad_norm_([*mine, nn.Parameter([1.0])], limit, kind)
        expected = torch.nn.utils.clip_grad_norm_(theirs, limit, kind)
        assert_close(total, expected)
        for p, t in zip(mine, theirs, strict=True):
            assert_close(p.grad, t.grad)
    nn.utils.clip_grad_value_(mine, 0.01)
    assert max(np.abs(plain(p.grad)).max() for p in mine) == np.float32(0.01)
    mine[0].grad[0, 0] = float("nan")
    with pytest.raises(RuntimeError, match="the norm of the gradients is nan"):
        nn.utils.clip_grad_norm_(mine, 1.0, error_if_nonfinite=True)


# ---- errors -----------------------------------------------------------------------------------

WRONG = {
    "Linear: in_features must be positive, got 0": lambda: nn.Linear(0, 2),
    "Linear: out_features must be an integer, got float": lambda: nn.Linear(2, 2.0),
    "Embedding: padding_idx must be in": lambda: nn.Embedding(3, 2, padding_idx=3),
    "LayerNorm: normalized_shape must not be empty": lambda: nn.LayerNorm(()),
    "RMSNorm: x must have shape [..., 2, 3]": lambda: nn.RMSNorm((2, 3))(sl.ones(3, 2)),
    "Dropout: p must be in [0, 1], got 2": lambda: nn.Dropout(2),
    "GELU: approximate must be": lambda: nn.GELU("erf"),
    "MSELoss: reduction must be": lambda: nn.MSELoss("max"),
    "MSELoss: target must have shape [2], got [3]": lambda: nn.MSELoss()(sl.ones(2), sl.ones(3)),
    "RNN: nonlinearity must be": lambda: nn.RNN(2, 3, nonlinearity="gelu"),
    "LSTM: proj_size must be below hidden_size = 3, got 3": lambda: nn.LSTM(2, 3, proj_size=3),
    "GRU: dropout must be in [0, 1], got -1": lambda: nn.GRU(2, 3, dropout=-1),
    "GRU: x must have shape [T, B, I]": lambda: nn.GRU(2, 3)(sl.ones(4, 1, 3)),
    "GRU: hx must have shape": lambda: nn.GRU(2, 3)(sl.ones(4, 1, 2), sl.ones(1, 2, 3)),
    "LSTM: hx must be a pair": lambda: nn.LSTM(2, 3)(sl.ones(4, 1, 2), sl.ones(1, 1, 3)),
    "GRUCell: x must have shape [B, I]": lambda: nn.GRUCell(2, 3)(sl.ones(1, 3)),
    "must be a multiple of num_heads = 3, got 8": lambda: nn.MultiheadAttention(8, 3),
    "add_bias_kv must be False": lambda: nn.MultiheadAttention(8, 2, add_bias_kv=True),
    "key must have shape [T, B, E]": lambda: nn.MultiheadAttention(8, 2)(
        sl.ones(2, 1, 8), sl.ones(2, 1, 7), sl.ones(2, 1, 8)
    ),
    "attn_mask must have shape [Tq, Tk] = [2, 2]": lambda: nn.MultiheadAttention(8, 2)(
        *[sl.ones(2, 1, 8)] * 3, attn_mask=sl.zeros(3, 2)
    ),
    "key_padding_mask must be bool or floating": lambda: nn.MultiheadAttention(8, 2)(
        *[sl.ones(2, 1, 8)] * 3, key_padding_mask=sl.zeros(1, 2, dtype="int64")
    ),
    "activation must be 'relu'": lambda: nn.TransformerEncoderLayer(8, 2, activation="elu"),
    "TransformerEncoder: num_layers must be positive": lambda: nn.TransformerEncoder(nn.ReLU(), 0),
    "DotAttention: score must be": lambda: nn.DotAttention("bilinear"),
    "AdditiveAttention: keys must have shape [B, Tk, 3]": lambda: nn.AdditiveAttention(2, 3)(
        sl.ones(1, 2), sl.ones(1, 4, 2)
    ),
    "RotaryEmbedding: dim must be even, got 3": lambda: nn.RotaryEmbedding(3),
}


@pytest.mark.parametrize("message", WRONG)
def test_errors_name_module_and_argument(message):
    with pytest.raises((ValueError, TypeError)) as error:
        WRONG[message]()
    assert message in str(error.value)
