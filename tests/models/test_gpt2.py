# SPDX-License-Identifier: Apache-2.0
"""GPT-2 against transformers."""

from __future__ import annotations

import numpy as np
import pytest

import causal
import seqloom as sl

TINY = {"n_positions": 64, "n_embd": 24, "n_layer": 2, "n_head": 3}


@pytest.fixture(scope="module")
def models(tmp_path_factory, device):
    theirs, ours = causal.pair("GPT2", tmp_path_factory.mktemp("gpt2"), **TINY)
    return theirs, ours.to(device=device)


def test_logits_and_attention_maps(models):
    causal.check_logits(*models)


def test_gradients(models):
    causal.check_gradients(*models, transposed=("c_attn.weight", "c_proj.weight", "c_fc.weight"))


def test_generation(models):
    causal.check_generation(*models)


def test_saved_and_loaded_back(models, tmp_path):
    causal.check_round_trip(*models, tmp_path)


def test_16_bits(models):
    causal.check_16_bits(models[1])


@pytest.mark.parametrize(
    "fields",
    [
        {"scale_attn_by_inverse_layer_idx": True},
        {"scale_attn_weights": False},
        {"n_inner": 40, "activation_function": "relu"},
        {"tie_word_embeddings": False},
    ],
    ids=lambda f: next(iter(f)),
)
def test_variants(fields, tmp_path, device):
    theirs, ours = causal.pair("GPT2", tmp_path, **TINY, **fields)
    causal.check_logits(theirs, ours.to(device=device))


def test_positions_can_be_given(models):
    import torch

    theirs, ours = models
    ids, _, left = causal.batch()
    positions = np.maximum(left.cumsum(1) - 1, 0)
    with torch.no_grad():
        want = theirs(
            torch.tensor(ids),
            attention_mask=torch.tensor(left),
            position_ids=torch.tensor(positions),
        ).logits.numpy()
    with sl.no_grad():
        got = causal.values(ours(ids, left, position_ids=positions))
    kept = left.astype(bool)
    causal.close(got[kept], want[kept], "logits")


def test_the_bare_model_loads(tmp_path):
    transformers = pytest.importorskip("transformers")
    ours = causal.pair("GPT2", tmp_path / "a", **TINY)[1]
    transformers.GPT2Model.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    bare = sl.models.from_pretrained(tmp_path / "b")
    ids, _, _ = causal.batch()
    np.testing.assert_array_equal(causal.values(bare(ids)), causal.values(ours(ids)))


def test_initial_weights_are_transformers():
    model = sl.models.GPT2(vocab_size=500, n_positions=64, n_embd=128, n_layer=8, n_head=4)
    block = model.transformer.h[3]
    for weight, std in (
        (model.transformer.wte.weight, 0.02),
        (block.attn.c_attn.weight, 0.02),
        (block.attn.c_proj.weight, 0.02 / 4),
        (block.mlp.c_proj.weight, 0.02 / 4),
    ):
        assert weight.std().item() == pytest.approx(std, rel=0.05)
    assert not block.attn.c_attn.bias.detach().numpy().any()
    assert model.lm_head.weight is model.transformer.wte.weight


@pytest.mark.parametrize(
    ("error", "fields", "words"),
    [
        (ValueError, {"n_embd": 10, "n_head": 3}, "n_embd"),
        (ValueError, {"activation_function": "mish"}, "activation_function"),
        (ValueError, {"n_layer": 0}, "n_layer"),
        (TypeError, {"n_head": 2.5}, "n_head"),
        (TypeError, {"heads": 2}, "heads"),
    ],
)
def test_bad_configurations(error, fields, words):
    with pytest.raises(error, match=words):
        sl.models.GPT2(**fields)


@pytest.mark.parametrize(
    ("error", "call", "words"),
    [
        (TypeError, lambda m: m(np.zeros((1, 2), np.float32)), "input_ids"),
        (ValueError, lambda m: m(np.zeros(3, np.int64)), "input_ids"),
        (ValueError, lambda m: m(np.zeros((1, 3), np.int64), np.ones((1, 2))), "attention_mask"),
        (ValueError, lambda m: m(np.zeros((1, 65), np.int64)), "positions below 64"),
        (IndexError, lambda m: m(np.full((1, 3), 400)), "ids"),
        (
            ValueError,
            lambda m: m(np.zeros((1, 3), np.int64), position_ids=np.zeros((1, 2), np.int64)),
            "position_ids",
        ),
        (
            ValueError,
            lambda m: m(np.zeros((1, 3), np.int64), position_ids=np.array([0, 1, -1])),
            "position_ids",
        ),
        (
            TypeError,
            lambda m: m(np.zeros((1, 3), np.int64), position_ids=np.zeros((1, 3))),
            "position_ids",
        ),
    ],
)
def test_bad_inputs(error, call, words):
    with pytest.raises(error, match=words):
        call(sl.models.GPT2(vocab_size=40, **TINY))


@pytest.mark.parametrize("early", [True, False, "never"])
@pytest.mark.parametrize("penalty", [-1.0, 0.3, 1.0, 2.5])
def test_when_a_beam_search_is_over(early, penalty, tmp_path):
    """Prompts that end at different steps: what is better, and when no more is looked for."""
    theirs, ours = causal.pair(
        "GPT2", tmp_path, n_embd=8, n_layer=1, n_head=2, n_positions=48, seed=4
    )
    ids = np.random.default_rng(2).integers(2, 40, (12, 4))
    for beams, eos in ((3, list(range(4, 13))), (4, list(range(2, 40, 3)))):
        options = {
            "max_new_tokens": 20, "num_beams": beams, "num_return_sequences": beams,
            "early_stopping": early, "length_penalty": penalty, "eos_token_id": eos,
        }  # fmt: skip
        want = causal.theirs_generate(theirs, ids, np.ones_like(ids), **options)
        got = ours.generate(ids, pad_token_id=1, **options)
        np.testing.assert_array_equal(got, want, f"{beams} beams")
