# SPDX-License-Identifier: Apache-2.0
"""What models make of lists that are no arrays, and of inputs without a step."""

from __future__ import annotations

import numpy as np
import pytest

import seqloom as sl

IDS = np.arange(12).reshape(2, 6)
RAGGED = [[1, 2], [3]]
BERT = {
    "vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 8, "max_position_embeddings": 8,
}  # fmt: skip


def language_model():
    return sl.models.RNNLanguageModel(20, embed_dim=4, hidden_size=4)


def seq2seq(**fields):
    return sl.models.Seq2Seq(20, 15, embed_dim=4, hidden_size=4, **fields)


def tagger():
    return sl.models.SequenceTagger(3, input_size=2, body="gru")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: language_model()(RAGGED), "RNNLanguageModel: input_ids must be rectangular"),
        (lambda: language_model()(IDS, RAGGED), "attention_mask must be rectangular"),
        (lambda: language_model()(IDS, lengths=[1, [2]]), "lengths must be rectangular"),
        (lambda: language_model().generate(RAGGED), "generate: input_ids must be rectangular"),
        (
            lambda: language_model().generate(IDS, attention_mask=RAGGED),
            "generate: attention_mask must be rectangular",
        ),
        (lambda: tagger()([[[1.0, 2.0]], [[1.0]]]), "inputs must be rectangular"),
        (lambda: seq2seq()(IDS, RAGGED), "decoder_input_ids must be rectangular"),
        (
            lambda: sl.models.Bert(**BERT)(IDS, position_ids=RAGGED),
            "Bert: position_ids must be rectangular",
        ),
        (
            lambda: sl.models.Bert(**BERT)(IDS, position_ids=[1, 2]),
            r"Bert: position_ids must have shape \[B, T\] = \[2, 6\], got \[2\]",
        ),
        (
            lambda: sl.models.Forecaster(3, 2, hidden_size=4, cell="transformer")(
                np.ones((2, 0, 3), np.float32)
            ),
            "inputs must have at least one step",
        ),
    ],
)
def test_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("attention", [None, "bahdanau", "luong-general"])
def test_a_target_without_words(attention):
    model = seq2seq(attention=attention)
    logits, weights = model(IDS, IDS[:, :0], return_weights=True)
    assert logits.shape == (2, 0, 15)
    assert [w.shape for w in weights["cross"]] == ([] if attention is None else [(2, 1, 0, 6)])
