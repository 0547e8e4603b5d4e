# SPDX-License-Identifier: Apache-2.0
"""Answers of encoder-decoders: start tokens, forced tokens, padded sources, beams."""

from __future__ import annotations

import numpy as np
import pytest

import seqloom as sl

V, START = 19, 2
SOURCES = np.random.default_rng(0).integers(3, V, (3, 7))


def build(kind: str):
    sl.manual_seed(4)
    if kind == "Bart":
        model = sl.models.Bart(
            vocab_size=V, d_model=16, encoder_layers=1, decoder_layers=2, encoder_ffn_dim=24,
            decoder_ffn_dim=24, encoder_attention_heads=2, decoder_attention_heads=2,
            max_position_embeddings=40,
        )  # fmt: skip
    elif kind == "T5":
        model = sl.models.T5(vocab_size=V, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2)
    elif kind == "Transformer":
        model = sl.models.Transformer(
            V, V, d_model=16, nhead=2, num_encoder_layers=1, num_decoder_layers=2,
            dim_feedforward=24,
        )  # fmt: skip
    else:
        model = sl.models.Seq2Seq(V, V, embed_dim=12, hidden_size=12, attention="luong-general")
    for p in model.parameters():
        if p.ndim > 1:
            sl.nn.init.normal_(p, std=0.5)
    return model.eval()


@pytest.fixture(scope="module", params=["Bart", "T5", "Transformer", "Seq2Seq"])
def model(request, device):
    return build(request.param).to(device=device)


PLAIN = {
    "decoder_start_token_id": START,
    "forced_eos_token_id": [],
    "eos_token_id": [],
    "pad_token_id": 0,
}


def greedy(model, source, new, begun=(START,)):
    ids = list(begun)
    for _ in range(new):
        with sl.no_grad():
            logits = model(source[None], np.array([ids]))
        ids.append(int(logits.cpu().numpy()[0, -1].argmax()))
    return ids[len(begun) :]


def test_greedy_without_the_start_token(model):
    out = model.generate(SOURCES, max_new_tokens=6, **PLAIN)
    assert out.shape == (3, 6)
    for row, source in zip(out, SOURCES, strict=True):
        assert row.tolist() == greedy(model, source, 6)
    steps = list(model.stream(SOURCES, max_new_tokens=6, **PLAIN))
    np.testing.assert_array_equal(np.stack(steps, 1), out)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_sources_give_what_they_give_alone(model, side):
    mask = np.ones_like(SOURCES)
    mask[0, 4:] = 0
    mask[2, 2:] = 0
    lengths = mask.sum(1)
    batch = SOURCES.copy()
    if side == "left":
        mask = np.ascontiguousarray(mask[:, ::-1])
        for i, n in enumerate(lengths):
            batch[i, 7 - n :] = SOURCES[i, :n]
    if side == "left" and type(model).__name__ in ("Bart", "Transformer"):
        pytest.skip("positions count from the first column, padding or not")
    out = model.generate(batch, attention_mask=mask, max_new_tokens=5, **PLAIN)
    for row, source, n in zip(out, SOURCES, lengths, strict=True):
        assert row.tolist() == greedy(model, source[:n], 5)


def test_answers_that_are_begun(model):
    begun = np.array([[START, 5, 6]] * 3)
    out = model.generate(SOURCES, decoder_input_ids=begun, max_new_tokens=4, **PLAIN)
    for row, source in zip(out, SOURCES, strict=True):
        assert row.tolist() == greedy(model, source, 4, (START, 5, 6))


def test_forced_tokens(model):
    options = {**PLAIN, "forced_bos_token_id": 7, "forced_eos_token_id": 1}
    for beams in (1, 3):
        out = model.generate(SOURCES, max_new_tokens=5, num_beams=beams, **options)
        assert (out[:, 0] == 7).all()
        assert (out[:, -1] == 1).all()


def test_beams_of_a_batch_are_those_of_its_rows(model):
    options = {**PLAIN, "eos_token_id": 4, "num_beams": 4, "num_return_sequences": 2}
    out = model.generate(SOURCES, max_new_tokens=7, **options)
    assert out.shape[0] == 6
    for i in range(3):
        alone = model.generate(SOURCES[i : i + 1], max_new_tokens=7, **options)
        for got, want in zip(out[2 * i : 2 * i + 2], alone, strict=True):
            n = min(got.size, want.size)
            np.testing.assert_array_equal(got[:n], want[:n])
            assert not got[n:].any()
            assert not want[n:].any()


def test_several_draws_read_the_source_once(model):
    options = {**PLAIN, "do_sample": True, "num_return_sequences": 4, "seed": 0}
    out = model.generate(SOURCES, max_new_tokens=6, temperature=2.0, **options)
    assert out.shape == (12, 6)
    np.testing.assert_array_equal(
        out, model.generate(SOURCES, max_new_tokens=6, temperature=2.0, **options)
    )
    cold = model.generate(SOURCES, max_new_tokens=6, temperature=1e-4, **options)
    np.testing.assert_array_equal(
        cold, np.repeat(model.generate(SOURCES, max_new_tokens=6, **PLAIN), 4, axis=0)
    )


def test_bad_arguments(model):
    with pytest.raises(ValueError, match="generate: decoder_input_ids must have 3 rows"):
        model.generate(SOURCES, decoder_input_ids=np.array([[START]]), **PLAIN)
    with pytest.raises(IndexError, match="decoder_input_ids"):
        model.generate(SOURCES, decoder_input_ids=np.full((3, 1), V), **PLAIN)
    with pytest.raises(ValueError, match="decoder_start_token_id"):
        model.generate(SOURCES, decoder_start_token_id=V)
    _, memory = build_decoder().generate(SOURCES, max_new_tokens=1, return_state=True)
    with pytest.raises(ValueError, match="state"):
        model.generate(SOURCES, state=memory, **PLAIN)


def build_decoder():
    return sl.models.GPT2(vocab_size=V, n_positions=16, n_embd=8, n_layer=1, n_head=1)


def test_a_start_token_is_needed():
    with pytest.raises(ValueError, match="generate: decoder_start_token_id must be given"):
        build("Transformer").generate(SOURCES)
