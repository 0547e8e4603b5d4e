# SPDX-License-Identifier: Apache-2.0
"""Models without a checkpoint family: torch's values and gradients, padding, saving, decoding."""

from __future__ import annotations

import numpy as np
import pytest

import seqloom as sl
from nn_support import assert_close, plain

M = sl.models
IDS = np.random.default_rng(0).integers(0, 11, (4, 7))
TARGET = np.random.default_rng(1).integers(0, 13, (4, 5))
SERIES = np.random.default_rng(2).standard_normal((4, 7, 3)).astype(np.float32)
LENGTHS = [7, 3, 1, 5]
SMALL = {"embed_dim": 6, "hidden_size": 8}
TRANSFORMER = {
    "d_model": 8, "nhead": 2, "num_encoder_layers": 2, "num_decoder_layers": 2,
    "dim_feedforward": 16, "dropout": 0.0,
}  # fmt: skip
ATTENTION = (None, "bahdanau", "luong-dot", "luong-general", "luong-concat")


@pytest.fixture
def peers():
    pytest.importorskip("torch")
    import torch_models

    return torch_models


def seq2seq(**fields):
    sl.manual_seed(3)
    return M.Seq2Seq(11, 13, **{**SMALL, **fields})


def transformer(**fields):
    sl.manual_seed(3)
    return M.Transformer(11, 13, **{**TRANSFORMER, **fields})


def language_model(**fields):
    sl.manual_seed(3)
    return M.RNNLanguageModel(11, **{**SMALL, **fields})


def headed(kind, **fields):
    sl.manual_seed(3)
    if kind == "forecaster":
        fields["cell"] = fields.pop("body")
        return M.Forecaster(3, 4, hidden_size=8, nhead=2, **fields)
    inputs = {"vocab_size": 11} if fields.pop("tokens", True) else {"input_size": 3}
    cls = M.SequenceTagger if kind == "tagger" else M.SequenceClassifier
    return cls(5, **inputs, **{**SMALL, "nhead": 2, "dim_feedforward": 16, **fields})


def ragged(ids, lengths, fill=9):
    out = np.full_like(ids, fill)
    for row, n in enumerate(lengths):
        out[row, :n] = ids[row, :n]
    return out


def mask_of(lengths, width):
    return (np.arange(width) < np.array(lengths)[:, None]).astype(np.int64)


# ---- torch's values and gradients ---------------------------------------------------------------


def assert_same(mine, theirs, ours_args, their_args, **named):
    """Equal logits and gradients of every parameter."""
    import torch

    state = mine.state_dict()
    wanted = theirs.state_dict()
    assert set(state) == set(wanted)
    theirs.load_state_dict({k: torch.tensor(v.numpy()) for k, v in state.items()})
    y, t = mine(*ours_args, **named), theirs(*their_args)
    assert_close(y, t, "output")
    direction = np.random.default_rng(5).standard_normal(y.shape).astype(np.float32)
    (y * sl.tensor(direction)).sum().backward()
    (t * torch.tensor(direction)).sum().backward()
    for name, p in theirs.named_parameters():
        got = dict(mine.named_parameters(remove_duplicate=False))[name]
        assert_close(got.grad, p.grad, f"gradient of {name}", 1e-4)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("tied", [False, True])
def test_language_model_equals_torch(peers, cell, tied):
    fields = {"cell": cell, "num_layers": 2, "tie_weights": tied}
    if tied:
        fields["embed_dim"] = 8
    mine = language_model(**fields)
    assert_same(mine, peers.RNNLanguageModel(mine.config), (IDS,), (IDS,))


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("attention", ATTENTION)
def test_seq2seq_equals_torch(peers, attention, cell, layers, padded):
    mine = seq2seq(attention=attention, cell=cell, num_layers=layers, bidirectional=layers == 1)
    lengths = LENGTHS if padded else None
    named = {"src_lengths": np.array(lengths)} if padded else {}
    theirs = peers.Seq2Seq(mine.config)
    assert_same(mine, theirs, (IDS, TARGET), (IDS, TARGET, lengths), **named)


@pytest.mark.parametrize("attention", ["luong-dot", "luong-general", "luong-concat"])
def test_input_feeding_equals_torch(peers, attention):
    mine = seq2seq(attention=attention, input_feeding=True, cell="lstm")
    theirs = peers.Seq2Seq(mine.config)
    assert_same(mine, theirs, (IDS, TARGET), (IDS, TARGET, LENGTHS), src_lengths=LENGTHS)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"norm_first": True, "positions": "learned", "max_positions": 9},
        {"activation": "gelu", "tgt_vocab_size": 11, "tie_embeddings": True},
    ],
    ids=["post-norm", "pre-norm learned", "tied gelu"],
)
@pytest.mark.parametrize("padded", [False, True])
def test_transformer_equals_torch(peers, fields, padded):
    sl.manual_seed(3)
    mine = M.Transformer(**{"src_vocab_size": 11, "tgt_vocab_size": 13, **TRANSFORMER, **fields})
    target = TARGET % mine.config.tgt_vocab_size
    mask = mask_of(LENGTHS, 7) if padded else None
    theirs = peers.Transformer(mine.config)
    assert_same(mine, theirs, (IDS, target, mask), (IDS, target, mask))


@pytest.mark.parametrize("body", ["lstm", "gru", "rnn", "transformer"])
@pytest.mark.parametrize("kind", ["classifier", "tagger", "forecaster"])
@pytest.mark.parametrize("padded", [False, True])
def test_classifier_tagger_and_forecaster_equal_torch(peers, kind, body, padded):
    mine = headed(kind, body=body, num_layers=2)
    outputs = 12 if kind == "forecaster" else 5
    x = SERIES if kind == "forecaster" else IDS
    lengths = LENGTHS if padded else None
    theirs = peers.Headed(mine.config, outputs, kind)
    theirs.forward = lambda *a, f=theirs.forward: f(*a).reshape(mine(x).shape)
    if kind == "tagger" and padded:  # what stands behind a length is nobody's
        valid = mask_of(lengths, 7).astype(np.float32)[..., None]
        import torch

        ours, other = mine.forward, theirs.forward
        mine.forward = lambda *a, **k: ours(*a, **k) * sl.tensor(valid)
        theirs.forward = lambda *a: other(*a) * torch.tensor(valid)
    named = {"lengths": lengths} if padded else {}
    assert_same(mine, theirs, (x,), (x, lengths), **named)


@pytest.mark.parametrize("pooling", ["last", "mean", "max"])
@pytest.mark.parametrize("body", ["gru", "transformer"])
def test_pooling_equals_torch(peers, body, pooling):
    mine = headed("classifier", body=body, pooling=pooling, tokens=False)
    theirs = peers.Headed(mine.config, 5, "classifier")
    assert_same(mine, theirs, (SERIES,), (SERIES, LENGTHS), lengths=np.array(LENGTHS))


# ---- Bahdanau's decoder as one op ---------------------------------------------------------------


@pytest.mark.parametrize("cell", ["gru", "lstm", "rnn"])
@pytest.mark.parametrize("lengths", [None, [4, 0, 2]], ids=["whole", "ragged"])
def test_attentive_rnn_and_its_gradients(cell, lengths):
    """The kernel's way against tensor operations in float64."""
    from seqloom.ops._attentive_rnn import GATES, _composed, _fused

    rng = np.random.default_rng(0)
    b, t, s, h, a = 3, 5, 4, 6, 7
    gates = GATES[cell] * h
    shapes = [(t, b, gates), (b, s, a), (b, s, gates), (b, h), (b, h), (a, h), (a,), (gates, h),
              (gates,)]  # fmt: skip
    values = [rng.standard_normal(shape) for shape in shapes]
    if cell != "lstm":
        values[4] = None
    limits = None if lengths is None else sl.tensor(np.array(lengths))
    results = []
    for run, dtype in ((_fused, np.float32), (_composed, np.float64)):
        inputs = [
            None if v is None else sl.tensor(v.astype(dtype), requires_grad=True) for v in values
        ]
        y, h_n, c_n, weights = run(cell, *inputs, limits)
        loss = None
        for i, out in enumerate((y, h_n, c_n)):
            if out is not None:
                direction = np.random.default_rng(i).standard_normal(out.shape).astype(dtype)
                part = (out * sl.tensor(direction)).sum()
                loss = part if loss is None else loss + part
        loss.backward()
        results.append((y, h_n, weights, *(v.grad for v in inputs if v is not None)))
    for i, (mine, exact) in enumerate(zip(*results, strict=True)):
        assert_close(mine, exact, f"result {i}")
    weights = plain(results[0][2])
    if lengths is not None:
        assert (weights[1] == 0).all()
        assert (weights[2, :, 2:] == 0).all()


# ---- padding -------------------------------------------------------------------------------------

PADDED = {
    "lm": (lambda: language_model(), 1),
    "lm gru 2 layers": (lambda: language_model(cell="gru", num_layers=2), 1),
    **{f"seq2seq {a}": (lambda a=a: seq2seq(attention=a), 2) for a in ATTENTION},
    "transformer": (lambda: transformer(), 2),
    "transformer learned": (lambda: transformer(norm_first=True, positions="learned"), 2),
    **{
        f"{kind} {body}": (lambda kind=kind, body=body: headed(kind, body=body), 1)
        for kind in ("classifier", "tagger")
        for body in ("lstm", "transformer")
    },
}


# The positions of a Transformer count padding, as in transformers.
SIDES = [
    (name, side)
    for name in PADDED
    for side in ("right", "left", "anywhere")
    if side == "right" or not name.startswith("transformer")
]


@pytest.mark.parametrize(("name", "side"), SIDES)
def test_a_padded_batch_gives_what_its_rows_give(name, side):
    make, inputs = PADDED[name]
    model = make().eval()
    mask = mask_of(LENGTHS, 7)
    if side == "left":
        mask = mask[:, ::-1].copy()
    elif side == "anywhere":
        mask = np.random.default_rng(0).permuted(mask, axis=1)
    ids = np.full_like(IDS, 9)
    ids[mask == 1] = np.concatenate([IDS[i, :n] for i, n in enumerate(LENGTHS)])
    more = (TARGET,) if inputs == 2 else ()
    whole = plain(model(ids, *more, mask))
    for row, n in enumerate(LENGTHS):
        alone = plain(model(IDS[row : row + 1, :n], *(m[row : row + 1] for m in more)))[0]
        got = whole[row]
        if inputs == 1 and alone.ndim == 2:
            got = got[mask[row] == 1]
        assert_close(got, alone, f"row {row}")


# ---- saving, types, summaries --------------------------------------------------------------------

MODELS = {
    "lm": (lambda: language_model(tie_weights=True, embed_dim=8), (IDS,)),
    "seq2seq": (lambda: seq2seq(cell="lstm"), (IDS, TARGET)),
    "seq2seq luong": (lambda: seq2seq(attention="luong-general"), (IDS, TARGET)),
    "transformer": (
        lambda: M.Transformer(13, 13, **TRANSFORMER, tie_embeddings=True),
        (IDS, TARGET),
    ),
    "classifier": (lambda: headed("classifier", body="gru"), (IDS,)),
    "tagger": (lambda: headed("tagger", body="transformer", tokens=False), (SERIES,)),
    "forecaster": (lambda: headed("forecaster", body="lstm"), (SERIES,)),
}


@pytest.mark.parametrize("name", MODELS)
def test_save_and_load(name, tmp_path):
    make, inputs = MODELS[name]
    model = make().eval()
    model.save_pretrained(tmp_path)
    again = M.from_pretrained(tmp_path)
    assert type(again) is type(model)
    again.config.extra = {}  # names of the class and the dtype
    assert again.config == model.config
    assert not again.training
    np.testing.assert_array_equal(plain(again(*inputs)), plain(model(*inputs)))
    half = M.from_pretrained(tmp_path, dtype="bfloat16")
    assert half.dtype is sl.bfloat16
    tied = [n for n, _ in model.named_parameters()]
    assert [n for n, _ in again.named_parameters()] == tied


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", MODELS)
def test_16_bits(name, dtype, device):
    """Close to float32 with the same (rounded) weights, forward and backward."""
    make, inputs = MODELS[name]
    narrow, wide = make().eval().to(dtype), make().eval()
    wide.load_state_dict({k: v.to(dtype="float32") for k, v in narrow.state_dict().items()})
    narrow.to(device)
    y, exact = narrow(*inputs), wide(*inputs)
    assert y.dtype.name == dtype
    eps = 2.0**-10 if dtype == "float16" else 2.0**-7
    assert_close(y.to(dtype="float32"), exact, "output", 8 * eps)
    (y.to(dtype="float32") ** 2).mean().backward()
    (exact**2).mean().backward()
    wanted = dict(wide.named_parameters())
    for key, p in narrow.named_parameters():
        assert p.grad.dtype.name == dtype
        mine, theirs = plain(p.grad.to(dtype="float32")), plain(wanted[key].grad)
        off = np.linalg.norm(mine - theirs)
        assert off <= 16 * eps * np.linalg.norm(theirs) + 1e-6, key


@pytest.mark.parametrize("name", MODELS)
def test_on_a_device(name, device):
    """The same values and gradients wherever it runs."""
    make, inputs = MODELS[name]
    here, there = make().eval(), make().eval()
    there.load_state_dict(here.state_dict())
    there.to(device)
    a, b = here(*inputs), there(*inputs)
    assert b.device.startswith(device)
    assert_close(b, a, "output")
    (a * a).sum().backward()
    (b * b).sum().backward()
    wanted = dict(here.named_parameters())
    for key, p in there.named_parameters():
        assert_close(p.grad, wanted[key].grad, key, 1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_dropout_and_summary(name):
    make, inputs = MODELS[name]
    model = make()
    config = model.config
    config.dropout = 0.5
    model = type(model)(config)
    text = model.summary()
    assert type(model).__name__ in text
    assert f"{model.num_parameters():,} parameters" in text
    model.train()
    first, second = plain(model(*inputs)), plain(model(*inputs))
    assert (first != second).any()
    model.eval()
    np.testing.assert_array_equal(plain(model(*inputs)), plain(model(*inputs)))


def test_language_model_goes_on_from_a_state():
    model = language_model(num_layers=2).eval()
    whole = plain(model(IDS))
    first, state = model(IDS[:, :3], return_state=True)
    second = model(IDS[:, 3:], state=state)
    assert_close(np.concatenate([plain(first), plain(second)], 1), whole)


def test_attention_maps():
    mask = mask_of(LENGTHS, 7)[:, ::-1].copy()
    for attention in ATTENTION[1:]:
        logits, maps = seq2seq(attention=attention)(IDS, TARGET, mask, return_weights=True)
        (weights,) = (plain(w) for w in maps["cross"])
        assert logits.shape == (4, 5, 13)
        assert weights.shape == (4, 1, 5, 7)
        assert_close(weights.sum(-1), np.ones((4, 1, 5)))
        assert (weights[np.broadcast_to(mask[:, None, None] == 0, weights.shape)] == 0).all()
    _, maps = transformer()(IDS, TARGET, mask, return_weights=True)
    shapes = {k: [w.shape for w in v] for k, v in maps.items()}
    assert shapes == {
        "encoder": [(4, 2, 7, 7)] * 2, "decoder": [(4, 2, 5, 5)] * 2, "cross": [(4, 2, 5, 7)] * 2,
    }  # fmt: skip
    series = np.random.default_rng(0).normal(size=(4, 7, 3)).astype(np.float32)
    forecaster = headed("forecaster", body="transformer", num_layers=2).eval()
    values, maps = forecaster(series, mask, return_weights=True)
    assert_close(plain(values), plain(forecaster(series, mask)))
    seen = np.broadcast_to(mask[:, None] == 1, (4, 2, 7))
    assert_close(np.stack([plain(w).sum(-1)[seen] for w in maps]), np.ones((2, seen.sum())))
    _, maps = headed("tagger", body="transformer")(IDS, mask, return_weights=True)
    assert_close(plain(maps[0]).sum(-1)[np.broadcast_to(mask[:, None] == 1, (4, 2, 7))], 1.0 * (
        np.ones(2 * mask.sum())))  # fmt: skip


# ---- decoding ------------------------------------------------------------------------------------

WRITERS = {
    **{f"seq2seq {a}": lambda a=a: seq2seq(attention=a, cell="lstm") for a in ATTENTION},
    "seq2seq bahdanau 2 layers": lambda: seq2seq(num_layers=2),
    "seq2seq input feeding": lambda: seq2seq(attention="luong-dot", input_feeding=True),
    "transformer": transformer,
    "transformer learned": lambda: transformer(positions="learned", norm_first=True),
}


@pytest.mark.parametrize("name", WRITERS)
def test_generation_agrees_with_a_full_forward(name):
    model = WRITERS[name]().eval()
    mask = mask_of(LENGTHS, 7)
    start = np.zeros((4, 1), np.int64)
    written = model.generate(IDS, attention_mask=mask, decoder_start_token_id=0, max_new_tokens=6)
    read = np.concatenate([start, written[:, :-1]], 1)
    logits = plain(model(IDS, read, mask))
    np.testing.assert_array_equal(logits.argmax(-1), written)
    beams, scores = model.generate(
        IDS, attention_mask=mask, decoder_start_token_id=0, max_new_tokens=6, num_beams=3,
        num_return_sequences=2, return_scores=True,
    )  # fmt: skip
    assert beams.shape == (8, 6)
    twice = np.repeat(np.arange(4), 2)
    read = np.concatenate([start[twice], beams[:, :-1]], 1)
    logits = plain(model(IDS[twice], read, mask[twice])).astype(np.float64)
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    chosen = np.take_along_axis(logp, beams[..., None], -1)[..., 0]
    assert_close(scores, chosen, "scores of the beams", 1e-4)
    totals = chosen.sum(1).reshape(4, 2)
    assert (totals[:, 0] >= totals[:, 1]).all()
    greedy = np.take_along_axis(
        plain(model(IDS, np.concatenate([start, written[:, :-1]], 1), mask)).astype(np.float64),
        written[..., None], -1,
    )  # fmt: skip
    assert greedy.shape == (4, 6, 1)


@pytest.mark.parametrize("name", WRITERS)
def test_rows_may_read_different_numbers_of_tokens(name):
    model = WRITERS[name]().eval()
    counts = np.array([4, 0, 2, 3])
    with sl.no_grad():
        state = model.start(4, capacity=8, input_ids=IDS)
        model.decode(TARGET[:, :1], state)
        logits = plain(model.decode(TARGET[:, 1:], state, counts))
        np.testing.assert_array_equal(state.lengths, counts + 1)
        for row, n in enumerate(counts):
            if n == 0:
                continue
            whole = plain(model(IDS[row : row + 1], TARGET[row : row + 1, : n + 1]))
            assert_close(logits[row], whole[0, -1], f"row {row}")
        state.reorder(np.array([2, 2, 0]))
        again = plain(model.decode(TARGET[:3, :1], state))
    assert_close(again[0], plain(model(IDS[2:3], np.r_[TARGET[2, :3], TARGET[0, 0]][None]))[0, -1])
    assert_close(again[2], plain(model(IDS[:1], np.r_[TARGET[0], TARGET[2, 0]][None]))[0, -1])


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_language_model_writes_what_a_full_forward_says(cell):
    model = language_model(cell=cell, num_layers=2).eval()
    mask = mask_of(LENGTHS, 7)[:, ::-1].copy()
    ids = np.full_like(IDS, 9)
    ids[mask == 1] = np.concatenate([IDS[i, :n] for i, n in enumerate(LENGTHS)])
    written = model.generate(ids, attention_mask=mask, max_new_tokens=5)
    chunked = model.generate(ids, attention_mask=mask, max_new_tokens=5, prefill_chunk=2)
    np.testing.assert_array_equal(written, chunked)
    beams = model.generate(ids, attention_mask=mask, max_new_tokens=5, num_beams=3)
    for row, n in enumerate(LENGTHS):
        alone = model.generate(IDS[row : row + 1, :n], max_new_tokens=5)
        np.testing.assert_array_equal(alone[0, n:], written[row, 7:])
        best = model.generate(IDS[row : row + 1, :n], max_new_tokens=5, num_beams=3)
        np.testing.assert_array_equal(best[0, n:], beams[row, 7:])
        logits = plain(model(alone[:, :-1]))[0, n - 1 :]
        np.testing.assert_array_equal(logits.argmax(-1), alone[0, n:])


def test_language_model_keeps_its_state_across_calls():
    model = language_model().eval()
    first, memory = model.generate(IDS, max_new_tokens=3, return_state=True)
    read = []
    decode = model.decode
    model.decode = lambda ids, *rest: read.append(ids.shape[1]) or decode(ids, *rest)
    longer = np.concatenate([first, IDS[:, :2]], 1)
    second = model.generate(longer, max_new_tokens=3, state=memory)
    del model.decode
    assert read[0] <= 3  # what was written last, and what is new
    np.testing.assert_array_equal(second, model.generate(longer, max_new_tokens=3))
    state = model.start(2)
    model.decode(IDS[:2], state)
    with pytest.raises(RuntimeError, match="truncate: a recurrent state can't forget"):
        state.truncate(np.array([1, 1]))


def test_scheduled_sampling():
    for attention in ("bahdanau", "luong-dot", None):
        model = seq2seq(attention=attention).eval()
        start = np.zeros((4, 5), np.int64)
        written = model.generate(IDS, decoder_start_token_id=0, max_new_tokens=5)
        own = plain(model(IDS, start, teacher_forcing=0.0)).argmax(-1)
        np.testing.assert_array_equal(own, written)
        sl.manual_seed(0)
        some = plain(model(IDS, TARGET, teacher_forcing=0.5))
        sl.manual_seed(0)
        np.testing.assert_array_equal(plain(model(IDS, TARGET, teacher_forcing=0.5)), some)
        assert_close(some[:, 0], plain(model(IDS, TARGET))[:, 0])
        assert np.abs(some - plain(model(IDS, TARGET))).max() > 0


# ---- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: M.RNNLanguageModel(), ValueError, "vocab_size must be a positive integer, got 0"),
        (lambda: M.RNNLanguageModel(5, cell="gpu"), ValueError, "cell must be one of 'lstm'"),
        (lambda: M.RNNLanguageModel(5, size=3), TypeError, "'size' is no field"),
        (
            lambda: M.RNNLanguageModel(5, tie_weights=True, embed_dim=4, hidden_size=8),
            ValueError, "embed_dim must equal hidden_size = 8 with tie_weights, got 4",
        ),
        (lambda: M.RNNLanguageModel(5, dropout=1.5), ValueError, r"dropout must be in \[0, 1\]"),
        (lambda: M.Seq2Seq(5), ValueError, "tgt_vocab_size must be a positive integer"),
        (lambda: M.Seq2Seq(5, 5, attention="luong"), ValueError, "attention must be one of"),
        (lambda: M.Seq2Seq(5, 5, num_layers=0), ValueError, "num_layers must be a positive"),
        (lambda: M.Seq2Seq(5, 5, hidden_size="8"), TypeError, "hidden_size must be an integer"),
        (
            lambda: M.Seq2Seq(5, 5, input_feeding=True), ValueError,
            "input_feeding must be False with attention = 'bahdanau'",
        ),
        (
            lambda: M.Transformer(5, 5, d_model=10, nhead=4), ValueError,
            "d_model must be a multiple of nhead = 4, got 10",
        ),
        (
            lambda: M.Transformer(5, 6, tie_embeddings=True), ValueError,
            "tgt_vocab_size must equal src_vocab_size = 5",
        ),
        (lambda: M.Transformer(5, 5, positions="none"), ValueError, "positions must be one of"),
        (lambda: M.Transformer(5, 5, activation="elu"), ValueError, "activation must be one of"),
        (lambda: M.SequenceClassifier(3), ValueError, "vocab_size must be given, or input_size"),
        (
            lambda: M.SequenceTagger(3, vocab_size=4, input_size=4), ValueError,
            "vocab_size must be given, or input_size, but not both",
        ),
        (lambda: M.SequenceTagger(vocab_size=4), ValueError, "num_classes must be a positive"),
        (lambda: M.SequenceClassifier(3, vocab_size=4, body="cnn"), ValueError, "body must be"),
        (lambda: M.SequenceClassifier(3, vocab_size=4, pooling="sum"), ValueError, "pooling must"),
        (
            lambda: M.SequenceTagger(3, vocab_size=4, body="transformer", hidden_size=6),
            ValueError, "hidden_size must be a multiple of nhead = 4",
        ),
        (lambda: M.Forecaster(2), ValueError, "horizon must be a positive integer"),
        (lambda: M.Forecaster(2, 3, cell="mlp"), ValueError, "cell must be one of"),
        (lambda: M.Forecaster(2, 3, vocab_size=4), ValueError, "vocab_size must be None"),
    ],
)  # fmt: skip
def test_bad_configurations(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: language_model()(IDS[0]), ValueError, r"input_ids must have shape \[B, T\]"),
        (lambda: language_model()(IDS * 1.0), TypeError, "input_ids must hold integers"),
        (lambda: language_model()(IDS + 50), IndexError, "embedding"),
        (
            lambda: language_model()(IDS, np.ones((4, 3))), ValueError,
            r"attention_mask must have shape \[B, T\] = \[4, 7\], got \[4, 3\]",
        ),
        (
            lambda: language_model()(IDS, lengths=[1, 2, 3, 9]), ValueError,
            r"lengths must be in \[0, 7\], got 9",
        ),
        (
            lambda: language_model()(IDS, lengths=[1, 2]), ValueError,
            r"lengths must have shape \[B\] = \[4\], got \[2\]",
        ),
        (lambda: language_model()(IDS, lengths=[1.0] * 4), TypeError, "lengths must be integers"),
        (
            lambda: language_model()(IDS, np.ones((4, 7)), lengths=LENGTHS), ValueError,
            "give attention_mask or lengths, not both",
        ),
        (lambda: seq2seq()(IDS, TARGET[:2]), ValueError, r"decoder_input_ids must have shape"),
        (
            lambda: seq2seq()(IDS, TARGET, teacher_forcing=2), ValueError,
            r"teacher_forcing must be in \[0, 1\], got 2",
        ),
        (
            lambda: seq2seq()(IDS, TARGET, teacher_forcing=True), TypeError,
            "teacher_forcing must be a number, got bool",
        ),
        (lambda: seq2seq().generate(IDS), ValueError, "decoder_start_token_id must be given"),
        (lambda: seq2seq().start(4), ValueError, "start needs input_ids"),
        (lambda: seq2seq().start(3, input_ids=IDS), ValueError, "must have B = 3 rows, got 4"),
        (lambda: seq2seq().shift_right(TARGET), ValueError, "decoder_start_token_id must be"),
        (lambda: transformer()(IDS, TARGET[:2]), ValueError, "decoder_input_ids must have shape"),
        (
            lambda: transformer(positions="learned", max_positions=4)(IDS, TARGET), ValueError,
            r"offset \+ T must be at most 4, got 7",
        ),
        (
            lambda: headed("forecaster", body="gru")(SERIES[0]), ValueError,
            r"inputs must have shape \[B, T, F\] with F = 3, got \[7, 3\]",
        ),
        (
            lambda: headed("tagger", body="gru", tokens=False)(SERIES[..., :2]), ValueError,
            r"inputs must have shape \[B, T, F\] with F = 3",
        ),
        (
            lambda: headed("tagger", body="gru", tokens=False)(SERIES.astype("U")), TypeError,
            "inputs must be numbers",
        ),
        (lambda: headed("classifier", body="gru")(SERIES), TypeError, "must hold integers"),
    ],
)  # fmt: skip
def test_bad_calls(call, error, message):
    with pytest.raises(error, match=message):
        call()
