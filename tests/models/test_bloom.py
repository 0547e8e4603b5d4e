# SPDX-License-Identifier: Apache-2.0
"""BLOOM against transformers."""

from __future__ import annotations

import pytest

import causal
import seqloom as sl

TINY = {"hidden_size": 24, "n_layer": 2, "n_head": 3}


@pytest.fixture(scope="module")
def models(tmp_path_factory, device):
    theirs, ours = causal.pair("Bloom", tmp_path_factory.mktemp("bloom"), **TINY)
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


def test_residual_after_the_norm(tmp_path, device):
    fields = {**TINY, "apply_residual_connection_post_layernorm": True}
    theirs, ours = causal.pair("Bloom", tmp_path, **fields)
    causal.check_logits(theirs, ours.to(device=device))


def test_bad_configurations():
    with pytest.raises(ValueError, match="hidden_size"):
        sl.models.Bloom(hidden_size=10, n_head=3)
