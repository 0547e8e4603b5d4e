# SPDX-License-Identifier: Apache-2.0
"""LLaMA, Mistral, Qwen2 and Qwen3 against transformers; scaled rotary angles."""

from __future__ import annotations

import json

import numpy as np
import pytest

import causal
import seqloom as sl

TINY = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
FAMILIES = {
    "Llama": {"head_dim": 8},
    "Mistral": {"sliding_window": 4},
    "Qwen2": {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
    "Qwen3": {"head_dim": 8},
}
SCALINGS = {
    "linear": {"rope_type": "linear", "factor": 2.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8},
}


@pytest.fixture(scope="module", params=FAMILIES)
def models(request, tmp_path_factory, device):
    theirs, ours = causal.pair(
        request.param, tmp_path_factory.mktemp(request.param), **TINY, **FAMILIES[request.param]
    )
    assert type(ours).__name__ == request.param
    return theirs, ours.to(device=device)


def test_logits_and_attention_maps(models):
    causal.check_logits(*models)


def test_gradients(models):
    causal.check_gradients(*models)


def test_generation(models):
    causal.check_generation(*models)


def test_saved_and_loaded_back(models, tmp_path):
    causal.check_round_trip(*models, tmp_path)


def test_16_bits(models):
    causal.check_16_bits(models[1])


@pytest.mark.parametrize(
    "fields",
    [
        {"attention_bias": True, "mlp_bias": True},
        {"tie_word_embeddings": True},
        {"hidden_act": "gelu"},
        {"num_key_value_heads": 1},
        {"rope_theta": 500.0},
    ],
    ids=lambda f: next(iter(f)),
)
def test_variants(fields, tmp_path, device):
    theirs, ours = causal.pair("Llama", tmp_path, **{**TINY, **fields})
    causal.check_logits(theirs, ours.to(device=device))


@pytest.mark.parametrize("kind", SCALINGS)
def test_scaled_angles(kind, tmp_path, device):
    # Texts of 11 tokens are beyond what the dynamic kind begins with.
    longest = 10 if kind == "dynamic" else 32
    theirs, ours = causal.pair(
        "Llama", tmp_path, **TINY, rope_scaling=SCALINGS[kind], max_position_embeddings=longest
    )
    ours.to(device=device)
    causal.check_logits(theirs, ours, length=11)
    causal.check_generation(theirs, ours, length=9)


def test_dynamic_angles_are_those_of_the_whole_prompt(tmp_path, device):
    """However many pieces it is read in, and whatever the rows of its batch."""
    theirs, ours = causal.pair(
        "Llama", tmp_path, **TINY, rope_scaling=SCALINGS["dynamic"], max_position_embeddings=10
    )
    ours.to(device=device)
    ids = np.random.default_rng(0).integers(3, 40, (2, 18))
    mask = np.ones_like(ids)
    mask[1, :5] = 0
    options = {"attention_mask": mask, "max_new_tokens": 6, "pad_token_id": 1}
    want, scores = ours.generate(ids, return_scores=True, **options)
    reference = causal.theirs_generate(theirs, ids, mask, max_new_tokens=6)
    np.testing.assert_array_equal(want, reference)
    for chunk in (1, 4, 9, 16):
        got, again = ours.generate(ids, return_scores=True, prefill_chunk=chunk, **options)
        np.testing.assert_array_equal(got, want)
        np.testing.assert_allclose(again, scores, rtol=1e-4, atol=1e-4)


def test_yarn_options(tmp_path):
    scaling = {**SCALINGS["yarn"], "beta_fast": 4.0, "beta_slow": 2.0, "truncate": False}
    for extra in ({"attention_factor": 1.3}, {"mscale": 0.7, "mscale_all_dim": 0.4}):
        directory = tmp_path / next(iter(extra))
        theirs, ours = causal.pair(
            "Llama", directory, **TINY, rope_scaling={**scaling, **extra},
            max_position_embeddings=32,
        )  # fmt: skip
        causal.check_logits(theirs, ours)


def test_newer_files_have_the_angles_in_one_field(tmp_path):
    fields = {**TINY, "rope_theta": 300.0, "rope_scaling": SCALINGS["linear"]}
    theirs, _ = causal.pair("Llama", tmp_path, **fields)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    scaling = config.pop("rope_scaling")
    config["rope_parameters"] = {**scaling, "rope_theta": config.pop("rope_theta")}
    path.write_text(json.dumps(config))
    causal.check_logits(theirs, sl.models.from_pretrained(tmp_path))


@pytest.mark.parametrize(
    ("error", "fields", "words"),
    [
        (ValueError, {"num_key_value_heads": 3}, "num_key_value_heads"),
        (ValueError, {"hidden_size": 26, "num_attention_heads": 4}, "hidden_size"),
        (ValueError, {"head_dim": 7}, "head_dim"),
        (ValueError, {"rope_theta": 0.5}, "rope_theta"),
        (ValueError, {"rope_scaling": {"rope_type": "longrope"}}, "rope_type"),
        (ValueError, {"rope_scaling": {"rope_type": "linear"}}, "factor"),
        (ValueError, {"rope_scaling": {"rope_type": "linear", "factor": -1}}, "factor"),
        (ValueError, {"rope_scaling": {"rope_type": "linear", "factor": "2"}}, "factor"),
        (
            ValueError,
            {"rope_scaling": {**SCALINGS["llama3"], "high_freq_factor": 1.0}},
            "high_freq_factor",
        ),
        (ValueError, {"rope_scaling": {**SCALINGS["yarn"], "truncate": 1}}, "truncate"),
        (
            ValueError,
            {"rope_scaling": {**SCALINGS["linear"], "short_factor": [1.0]}},
            "short_factor",
        ),
        (TypeError, {"rope_scaling": "linear"}, "rope_scaling"),
        (ValueError, {"rope_scaling": {"type": ["linear"]}}, "rope_type"),
        (ValueError, {"rope_scaling": {**SCALINGS["linear"], "factor": 10**400}}, "factor"),
        (ValueError, {"rope_scaling": {**SCALINGS["linear"], "factor": 1e-320}}, "factor"),
        (ValueError, {"rope_scaling": SCALINGS["dynamic"], "head_dim": 2}, "head_dim"),
        (ValueError, {"rope_theta": 1e300}, "rope_theta"),
        (ValueError, {"hidden_act": "softplus"}, "hidden_act"),
    ],
)
def test_bad_configurations(error, fields, words):
    with pytest.raises(error, match=words):
        sl.models.Llama(**{**TINY, **fields})


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ("linear", "rope_parameters must be an object or null"),
        ({"rope_theta": -5.0}, "rope_theta must be above 1"),
        ({"rope_theta": 10**400}, "rope_theta must be above 1 and at most"),
        ({"rope_theta": True}, "rope_theta must be a number"),
        ({"rope_type": {}}, "rope_type must be one of"),
        ({"type": "longrope"}, "rope_type must be one of"),
        ({"partial_rotary_factor": 0.5}, "no field partial_rotary_factor"),
    ],
)
def test_bad_newer_fields(value, word):
    with pytest.raises(ValueError, match=word):
        sl.models.LlamaConfig.from_dict({**TINY, "rope_parameters": value})


def test_a_class_for_all_configurations(tmp_path):
    model = sl.models.Llama(sl.models.MistralConfig(vocab_size=40, **TINY))
    model.save_pretrained(tmp_path)
    assert type(sl.models.from_pretrained(tmp_path)).__name__ == "Mistral"


def test_layers_have_windows_of_their_own():
    config = sl.models.Qwen3Config(
        **TINY, use_sliding_window=True, sliding_window=4, max_window_layers=1
    )
    assert [config.window(i) for i in range(2)] == [None, 4]
    with pytest.raises(ValueError, match="layer_types"):
        sl.models.Qwen3Config(**TINY, layer_types=["full_attention"])


def test_a_text_beyond_the_window_still_matches_step_by_step(models):
    _, ours = models
    ids = np.random.default_rng(3).integers(0, causal.VOCABULARY, (2, 40))
    with sl.no_grad():
        want = causal.values(ours(ids))[:, -1]
    cache = ours.start(2, capacity=8)
    for i in range(0, 40, 13):
        last = ours.decode(ids[:, i : i + 13], cache)
    causal.close(causal.values(last), want, "logits of the last token")
