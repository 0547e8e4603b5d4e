# SPDX-License-Identifier: Apache-2.0
"""BERT against transformers: every head, padded batches, and the way back."""

from __future__ import annotations

import numpy as np
import pytest

import seqloom as sl
from model_support import BERT, MASKS, assert_near, quiet, reloaded, some_ids, tensors, twin

IDS = some_ids(3, 11)
TYPES = (some_ids(3, 11) % 2).astype(np.int64)
HEADS = {
    "BertModel": 2,
    "BertForMaskedLM": 2,
    "BertForPreTraining": 2,
    "BertForSequenceClassification": 3,
    "BertForTokenClassification": 3,
    "BertForQuestionAnswering": 2,
}


@pytest.fixture(scope="module")
def transformers():
    pytest.importorskip("torch")
    return pytest.importorskip("transformers")


def theirs(model, mask, **more):
    import torch

    with torch.no_grad():
        y = model(**tensors(input_ids=IDS, attention_mask=mask, token_type_ids=TYPES), **more)
    if "start_logits" in y:
        return [y.start_logits, y.end_logits]
    return [y[0]]


@pytest.mark.parametrize("name", HEADS)
def test_logits_equal_those_of_transformers(name, transformers, tmp_path):
    config = transformers.BertConfig(**BERT, num_labels=HEADS[name])
    model = twin(getattr(transformers, name), config, tmp_path)
    mine = sl.models.from_pretrained(tmp_path)
    for mask in MASKS.values():
        with sl.no_grad():
            y = mine(IDS, mask, TYPES)
        for a, b in zip(y if isinstance(y, tuple) else (y,), theirs(model, mask), strict=True):
            seen = mask > 0 if b.shape[:2] == mask.shape else slice(None)
            assert_near(a.numpy()[seen], b.numpy()[seen])


@pytest.mark.parametrize("name", sorted(set(HEADS) - {"BertForPreTraining"}))
def test_transformers_loads_what_was_saved(name, transformers, tmp_path):
    config = transformers.BertConfig(**BERT, num_labels=HEADS[name])
    model = twin(getattr(transformers, name), config, tmp_path / "theirs")
    sl.models.from_pretrained(tmp_path / "theirs").save_pretrained(tmp_path / "mine")
    again = quiet(getattr(transformers, name).from_pretrained, tmp_path / "mine").eval()
    mask = MASKS["right"]
    for a, b in zip(theirs(again, mask), theirs(model, mask), strict=True):
        assert np.array_equal(a.numpy(), b.numpy())
    state = transformers.BertConfig.from_pretrained(tmp_path / "mine")
    assert state.num_labels == HEADS[name]


def test_attention_weights_equal_those_of_transformers(transformers, tmp_path):
    model = twin(transformers.BertModel, transformers.BertConfig(**BERT), tmp_path)
    model.set_attn_implementation("eager")
    mask = MASKS["right"]
    _, maps = sl.models.from_pretrained(tmp_path)(IDS, mask, TYPES, return_weights=True)
    expected = model(
        **tensors(input_ids=IDS, attention_mask=mask, token_type_ids=TYPES), output_attentions=True
    ).attentions
    assert len(maps) == len(expected) == 2
    for a, b in zip(maps, expected, strict=True):
        assert_near(a.detach().numpy()[1], b.detach().numpy()[1])


def test_gradients_equal_those_of_transformers(transformers, tmp_path):
    model = twin(transformers.BertForMaskedLM, transformers.BertConfig(**BERT), tmp_path)
    mine = sl.models.from_pretrained(tmp_path)
    mask = MASKS["right"]
    labels = np.where(mask > 0, IDS, -100)
    loss = sl.nn.CrossEntropyLoss()(mine(IDS, mask).reshape(-1, 61), sl.tensor(labels.reshape(-1)))
    loss.backward()
    expected = model(**tensors(input_ids=IDS, attention_mask=mask, labels=labels)).loss
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    grads = {n: p.grad for n, p in model.named_parameters()}
    largest = max(float(g.abs().max()) for g in grads.values() if g is not None)
    for name, p in mine.named_parameters():
        if name == "bert.embeddings.word_embeddings.weight":
            # The tied head has a gradient for the padding word, too.
            assert p.grad[0].numpy().any()
        a, b = p.grad.numpy(), grads[name].numpy()
        assert np.abs(a - b).max() <= 2e-6 + 1e-5 * largest, name


def tiny(cls=None, **more):
    sl.manual_seed(1)
    return (cls or sl.models.Bert)(**{**BERT, **more})


def test_a_head_starts_afresh_on_a_pretrained_body(tmp_path):
    tiny(sl.models.BertForMaskedLM).save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match=r"no bert\.pooler.*classifier\.bias; initialised afresh"):
        model = sl.models.BertForSequenceClassification.from_pretrained(tmp_path, num_labels=5)
    assert model(IDS).shape == (3, 5)
    weight = model.classifier.weight.detach().numpy()
    assert 0.005 < weight.std() < 0.06
    assert not model.classifier.bias.detach().numpy().any()
    body = sl.models.BertForMaskedLM.from_pretrained(tmp_path).bert
    assert np.array_equal(
        model.bert.encoder.layer[1].output.dense.weight.detach().numpy(),
        body.encoder.layer[1].output.dense.weight.detach().numpy(),
    )


def test_a_body_comes_out_of_a_checkpoint_with_a_head(tmp_path):
    model = tiny(sl.models.BertForSequenceClassification, num_labels=3).eval()
    model.save_pretrained(tmp_path)
    body = sl.models.Bert.from_pretrained(tmp_path)
    assert_near(body(IDS), model.hidden(IDS).detach().numpy(), rtol=0)


def test_old_names_of_the_norms_are_understood(tmp_path):
    model = tiny().eval()
    model.save_pretrained(tmp_path)
    arrays = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): a
        for name, a in sl.weights.load_weights(tmp_path).items()
    }
    arrays["embeddings.position_ids"] = np.arange(40)[None]
    sl.weights.save_weights(tmp_path, arrays)
    assert_near(sl.models.from_pretrained(tmp_path)(IDS), model(IDS), rtol=0)


def test_hidden_and_lm_head_give_the_logits():
    model = tiny(sl.models.BertForMaskedLM).eval()
    assert_near(model.lm_head(model.hidden(IDS)), model(IDS), rtol=0)
    assert model.lm_head.weight is model.bert.embeddings.word_embeddings.weight
    assert "= bert.embeddings.word_embeddings.weight" in model.summary()


def test_dropout_acts_in_training_only():
    model = tiny()
    assert model.training
    assert np.abs((model(IDS) - model(IDS)).detach().numpy()).max() > 0
    model.eval()
    assert np.abs((model(IDS) - model(IDS)).detach().numpy()).max() == 0


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_half_precision(name, tmp_path):
    model = tiny(sl.models.BertForMaskedLM).eval()
    exact = model(IDS, MASKS["right"]).detach().numpy()
    half = reloaded(model, tmp_path, dtype=name)
    assert half.dtype.name == name
    y = half(IDS, MASKS["right"]).detach().to(dtype="float32").numpy()
    assert np.abs(y - exact)[MASKS["right"] > 0].max() < 0.03 * np.abs(exact).max()
    assert half.to(dtype="float32").dtype.name == "float32"


def test_it_learns_on_any_device(device):
    model = tiny(sl.models.BertForTokenClassification, num_labels=3, num_hidden_layers=1)
    model.to(device=device)
    target = sl.tensor(IDS % 3, device=device)
    optimizer = sl.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(6):
        loss = sl.nn.CrossEntropyLoss()(
            model(IDS, MASKS["left"]).reshape(-1, 3), target.reshape(-1)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (([[1.0, 2.0]],), TypeError, "Bert: input_ids must hold integers"),
        ((np.array([1, 2]),), ValueError, r"Bert: input_ids must have shape \[B, T\]"),
        ((np.ones((1, 41), int),), ValueError, "Bert: input_ids must have T <= 40"),
        ((np.array([[61]]),), IndexError, "embedding"),
        ((np.array([[1, 2]]), np.ones((1, 3))), ValueError, "attention_mask must have shape"),
        ((np.array([[1, 2]]), [["a", "b"]]), TypeError, "attention_mask must hold numbers"),
        ((np.array([[1, 2]]), None, np.ones((1, 1), int)), ValueError, "token_type_ids"),
        ((np.array([[1, 2]]), None, np.array([[0, 2]])), IndexError, "embedding"),
    ],
)
def test_bad_arguments_are_named(arguments, error, text):
    with pytest.raises(error, match=text):
        tiny().eval()(*arguments)
