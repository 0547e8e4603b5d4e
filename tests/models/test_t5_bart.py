# SPDX-License-Identifier: Apache-2.0
"""T5, BART and Marian against transformers: logits, steps, greedy and beam search, gradients."""

from __future__ import annotations

import numpy as np
import pytest

import seqloom as sl
from model_support import (
    BART,
    MARIAN,
    MASKS,
    T5,
    assert_near,
    quiet,
    reloaded,
    some_ids,
    tensors,
    twin,
)

IDS, TARGET = some_ids(3, 11), some_ids(3, 6)
T5_START = {**T5, "decoder_start_token_id": 0}
FAMILIES = {
    "t5": ("T5", T5_START),
    "t5-gated-untied": (
        "T5",
        {**T5_START, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    ),
    "t5-gated-silu": ("T5", {**T5_START, "feed_forward_proj": "gated-silu"}),
    "bart": ("Bart", BART),
    "bart-scaled": (
        "Bart",
        {**BART, "scale_embedding": True, "activation_function": "relu", "forced_bos_token_id": 0},
    ),
    "marian": ("Marian", {**MARIAN, "scale_embedding": True, "activation_function": "swish"}),
    "marian-two": (
        "Marian",
        {**MARIAN, "decoder_vocab_size": 61, "share_encoder_decoder_embeddings": False},
    ),
}
THEIR_CLASS = {
    "T5": "T5ForConditionalGeneration",
    "Bart": "BartForConditionalGeneration",
    "Marian": "MarianMTModel",
}


@pytest.fixture(scope="module")
def transformers():
    pytest.importorskip("torch")
    return pytest.importorskip("transformers")


def pair(transformers, family, directory):
    """(theirs, ours) with the same random weights."""
    name, fields = FAMILIES[family]
    config = getattr(transformers, f"{name}Config")(**fields)
    theirs = twin(getattr(transformers, THEIR_CLASS[name]), config, directory)
    return theirs, sl.models.from_pretrained(directory)


def logits_of(model, mask):
    import torch

    with torch.no_grad():
        inputs = tensors(input_ids=IDS, attention_mask=mask, decoder_input_ids=TARGET)
        return model(**inputs).logits.numpy()


def until_end(row, end):
    """A row up to its end token; what transformers fills up with differs by search."""
    found = np.flatnonzero(row == end)
    return row[: found[0] + 1].tolist() if found.size else row.tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_equal_those_of_transformers(family, transformers, tmp_path):
    theirs, mine = pair(transformers, family, tmp_path)
    for mask in MASKS.values():
        expected = logits_of(theirs, mask)
        with sl.no_grad():
            assert_near(mine(IDS, TARGET, mask), expected)
            y, maps = mine(IDS, TARGET, mask, return_weights=True)
        assert_near(y, expected)
        assert {k: [w.shape for w in v] for k, v in maps.items()} == {
            "encoder": [(3, 4, 11, 11)] * 2,
            "decoder": [(3, 4, 6, 6)] * 2,
            "cross": [(3, 4, 6, 11)] * 2,
        }


@pytest.mark.parametrize("family", FAMILIES)
def test_steps_give_what_the_whole_gives(family, transformers, tmp_path):
    theirs, mine = pair(transformers, family, tmp_path)
    for mask in (MASKS["right"], MASKS["left"]):
        expected = logits_of(theirs, mask)
        with sl.no_grad():
            state = mine.start(3, capacity=2, input_ids=IDS, attention_mask=mask)
            steps = [mine.decode(TARGET[:, t : t + 1], state).numpy() for t in range(6)]
        assert_near(np.stack(steps, 1), expected)
        assert state.lengths.tolist() == [6, 6, 6]


@pytest.mark.parametrize("family", ["t5", "bart", "marian"])
def test_rows_of_unequal_length_decode_together(family, transformers, tmp_path):
    theirs, mine = pair(transformers, family, tmp_path)
    expected = logits_of(theirs, MASKS["left"])
    first = np.array([2, 3, 1])
    rest = np.stack([np.roll(row, -n) for row, n in zip(TARGET, first, strict=True)])[:, :5]
    with sl.no_grad():
        state = mine.start(3, capacity=4, input_ids=IDS, attention_mask=MASKS["left"])
        mine.decode(np.ascontiguousarray(TARGET[:, :3]), state, first)
        logits = mine.decode(np.ascontiguousarray(rest), state, 6 - first)
        assert_near(logits, expected[:, -1])
        # Rows change places and are repeated; the last two tokens are forgotten and read again.
        state.reorder(np.array([2, 0, 0]))
        state.truncate(np.array([4, 4, 4]))
        again = mine.decode(np.ascontiguousarray(TARGET[[2, 0, 0], 4:]), state)
    assert_near(again, expected[[2, 0, 0], -1])


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_search_writes_what_transformers_writes(family, beams, transformers, tmp_path):
    theirs, mine = pair(transformers, family, tmp_path)
    end = theirs.config.eos_token_id
    options = {"max_new_tokens": 12, "num_beams": beams, "num_return_sequences": beams}
    for mask in (MASKS["right"], MASKS["left"]):
        inputs = tensors(input_ids=IDS, attention_mask=mask)
        expected = quiet(theirs.generate, **inputs, do_sample=False, **options).numpy()[:, 1:]
        rows = mine.generate(IDS, attention_mask=mask, **options)
        assert [until_end(r, end) for r in rows] == [until_end(r, end) for r in expected]


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_loads_what_was_saved(family, transformers, tmp_path):
    theirs, mine = pair(transformers, family, tmp_path / "theirs")
    mine.save_pretrained(tmp_path / "mine")
    again = quiet(type(theirs).from_pretrained, tmp_path / "mine").eval()
    assert np.array_equal(logits_of(again, MASKS["right"]), logits_of(theirs, MASKS["right"]))
    assert theirs.config.to_dict().keys() - again.config.to_dict().keys() <= {"_name_or_path"}


@pytest.mark.parametrize("family", ["t5", "bart", "marian"])
def test_gradients_equal_those_of_transformers(family, transformers, tmp_path):
    theirs, mine = pair(transformers, family, tmp_path)
    labels = np.where(TARGET > 35, -100, TARGET)
    logits = mine(IDS, mine.shift_right(labels), MASKS["left"])
    loss = sl.nn.CrossEntropyLoss()(logits.reshape(-1, 61), sl.tensor(labels.reshape(-1)))
    loss.backward()
    expected = theirs(**tensors(input_ids=IDS, attention_mask=MASKS["left"], labels=labels)).loss
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    grads = {n: p.grad.numpy() for n, p in theirs.named_parameters() if p.grad is not None}
    largest = max(np.abs(g).max() for g in grads.values())
    for name, p in mine.named_parameters():
        assert np.abs(p.grad.numpy() - grads[name]).max() <= 2e-5 * largest, name
    if family == "t5":
        bias = "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        assert np.abs(grads[bias]).max() > 0


def test_a_bare_model_gets_its_tied_head(transformers, tmp_path):
    theirs = twin(transformers.BartModel, transformers.BartConfig(**BART), tmp_path)
    mine = sl.models.from_pretrained(tmp_path)
    states = theirs(**tensors(input_ids=IDS, decoder_input_ids=TARGET)).last_hidden_state
    assert_near(mine.hidden(IDS, TARGET), states)
    assert mine.lm_head.weight is mine.model.shared.weight


def tiny(name):
    sl.manual_seed(1)
    fields = {"T5": T5, "Bart": BART, "Marian": MARIAN}[name]
    return getattr(sl.models, name)(**fields)


@pytest.mark.parametrize("name", ["T5", "Bart", "Marian"])
def test_hidden_and_lm_head_give_the_logits(name):
    model = tiny(name).eval()
    logits = model.lm_head(model.hidden(IDS, TARGET))
    assert_near(logits, model(IDS, TARGET), rtol=1e-6)
    assert model.encode(IDS).shape == (3, 11, 32)
    text = model.summary()
    assert f"{model.num_parameters():,} parameters" in text
    assert "lm_head" in text


@pytest.mark.parametrize("name", ["T5", "Bart", "Marian"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(name, dtype, tmp_path):
    model = tiny(name).eval()
    exact = model(IDS, TARGET, MASKS["right"]).detach().numpy()
    half = reloaded(model, tmp_path, dtype=dtype)
    y = half(IDS, TARGET, MASKS["right"]).detach()
    assert y.dtype.name == dtype
    assert np.abs(y.to(dtype="float32").numpy() - exact).max() < 0.05 * np.abs(exact).max()
    assert half.generate(IDS, max_new_tokens=3).shape[0] == 3


@pytest.mark.parametrize("name", ["T5", "Bart", "Marian"])
def test_it_learns_on_any_device(name, device):
    model = tiny(name).to(device=device)
    labels = IDS[:, :5]
    optimizer = sl.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(6):
        logits = model(IDS, model.shift_right(labels), MASKS["left"])
        target = sl.tensor(labels.reshape(-1), device=device)
        loss = sl.nn.CrossEntropyLoss()(logits.reshape(-1, 61), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    model.eval()
    with sl.no_grad():
        whole = model(IDS, TARGET, MASKS["left"])[:, -1]
        state = model.start(3, capacity=4, input_ids=IDS, attention_mask=MASKS["left"])
        for part in (TARGET[:, :4], TARGET[:, 4:]):
            last = model.decode(np.ascontiguousarray(part), state)
    assert_near(last, whole.cpu().numpy(), rtol=1e-4)


def test_layers_are_dropped_in_training_only():
    sl.manual_seed(3)
    model = sl.models.Bart(**BART, encoder_layerdrop=0.5, dropout=0.0)
    outputs = {model.encode(IDS).detach().numpy().tobytes() for _ in range(12)}
    assert 1 < len(outputs) <= 4
    model.eval()
    assert len({model.encode(IDS).detach().numpy().tobytes() for _ in range(3)}) == 1


def test_shift_right_puts_the_start_token_in_front():
    shifted = tiny("Marian").shift_right(np.array([[4, 5, -100]]))
    assert shifted.tolist() == [[60, 4, 5]]
    assert tiny("Bart").shift_right(np.array([[4, -100, -100]])).tolist() == [[2, 4, 1]]


BAD = [
    ("T5", lambda m: m(IDS, TARGET[:2]), ValueError, "T5: decoder_input_ids must have shape"),
    ("T5", lambda m: m(IDS.astype(float), TARGET), TypeError, "T5: input_ids must hold integers"),
    ("T5", lambda m: m(IDS, TARGET, MASKS["left"][:2]), ValueError, "T5: attention_mask must have"),
    ("T5", lambda m: m.start(3, capacity=4), ValueError, "T5: start needs input_ids"),
    ("T5", lambda m: m.start(2, capacity=4, input_ids=IDS), ValueError, "must have B = 2 rows"),
    ("T5", lambda m: m.shift_right(np.array([1])), ValueError, "T5: labels must be integers"),
    ("Bart", lambda m: m(np.ones((1, 41), int), TARGET[:1]), ValueError, "at most 40 positions"),
    ("Marian", lambda m: m(TARGET, np.ones((3, 41), int)), ValueError, "Marian: a sequence must"),
    ("Marian", lambda m: m(IDS + 60, TARGET), IndexError, "embedding"),
]


@pytest.mark.parametrize(("name", "call", "error", "text"), BAD)
def test_bad_arguments_are_named(name, call, error, text):
    with pytest.raises(error, match=text):
        call(tiny(name).eval())
