# SPDX-License-Identifier: Apache-2.0
"""Modules as containers: names, states, modes, summaries; initialisers, clipping and errors."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import seqloom as sl
from nn_support import assert_close, plain
from seqloom import nn


def f32(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


@pytest.fixture
def torch():
    module = pytest.importorskip("torch")
    module.manual_seed(0)
    return module


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
    assert [n for n, _ in net[1:].append(nn.ReLU()).named_children()] == ["last", "1"]
    net[0] = nn.SiLU()
    assert [type(m).__name__ for m in net] == ["SiLU", "Tanh"]
    for wrong in (lambda: nn.ModuleList([1]), lambda: nn.Sequential(len)):
        with pytest.raises(TypeError, match="items must be Modules"):
            wrong()


@pytest.mark.parametrize(
    "net",
    [
        nn.Sequential(nn.Linear(3, 3)),
        nn.ModuleList([nn.Linear(3, 3)]),
        nn.ModuleDict({"0": nn.Linear(3, 3)}),
    ],
    ids=lambda net: type(net).__name__,
)
def test_items_are_attributes_that_can_be_replaced(net):
    key = "0" if isinstance(net, nn.ModuleDict) else 0
    assert getattr(net, "0") is net[key]
    for _, parent in list(net.named_modules()):
        for name, child in list(parent.named_children()):
            setattr(parent, name, nn.Sequential(child, nn.ReLU()))
    assert [n for n, _ in net.named_children()] == ["0"]
    assert list(net.state_dict()) == ["0.0.weight", "0.0.bias"]
    assert copy.deepcopy(net)[key][0].weight.shape == (3, 3)
    with pytest.raises(TypeError, match="items must be Modules"):
        setattr(net, "0", None)
    with pytest.raises(AttributeError, match="no attribute 'absent'"):
        net.absent  # noqa: B018
    sl.models.quantize_model(net, "int8")
    assert type(net[key][0]).__name__ == "QuantizedLinear"


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
