# SPDX-License-Identifier: Apache-2.0
"""Bad arguments are refused in one form, before anything is computed."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

from generation_support import VOCABULARY, Letters, prompts, tiny

IDS = prompts(2, 4)
ONES = np.ones_like(IDS)


@pytest.fixture(scope="module")
def model():
    return tiny()


BAD = [
    (TypeError, {"input_ids": "text"}, "input_ids"),
    (TypeError, {"input_ids": IDS.astype(np.float32)}, "input_ids"),
    (TypeError, {"input_ids": None}, "input_ids"),
    (ValueError, {"input_ids": IDS[0]}, "input_ids"),
    (ValueError, {"input_ids": [[1, 2], [3]]}, "input_ids"),
    (ValueError, {"input_ids": np.zeros((0, 3), np.int64)}, "input_ids"),
    (ValueError, {"input_ids": np.zeros((2, 0), np.int64)}, "input_ids"),
    (IndexError, {"input_ids": np.full((1, 2), VOCABULARY)}, "input_ids"),
    (IndexError, {"input_ids": np.full((1, 2), -1)}, "input_ids"),
    (ValueError, {"attention_mask": ONES[:, :2]}, "attention_mask"),
    (ValueError, {"attention_mask": 2 * ONES}, "attention_mask"),
    (ValueError, {"attention_mask": np.array([[1, 1, 1, 1], [0, 0, 0, 0]])}, "attention_mask"),
    (TypeError, {"attention_mask": "left"}, "attention_mask"),
    (ValueError, {"max_new_tokens": 0}, "max_new_tokens"),
    (ValueError, {"max_new_tokens": -3}, "max_new_tokens"),
    (TypeError, {"max_new_tokens": 2.0}, "max_new_tokens"),
    (TypeError, {"max_new_tokens": True}, "max_new_tokens"),
    (ValueError, {"max_new_tokens": 94}, "96 positions"),
    (ValueError, {"min_new_tokens": -1}, "min_new_tokens"),
    (ValueError, {"min_new_tokens": 9, "max_new_tokens": 8}, "min_new_tokens"),
    (TypeError, {"do_sample": 1}, "do_sample"),
    (TypeError, {"do_sample": "yes"}, "do_sample"),
    (ValueError, {"temperature": 0.0}, "temperature"),
    (ValueError, {"temperature": -1}, "temperature"),
    (ValueError, {"temperature": float("nan")}, "temperature"),
    (ValueError, {"temperature": float("inf")}, "temperature"),
    (TypeError, {"temperature": "hot"}, "temperature"),
    (ValueError, {"top_k": -1}, "top_k"),
    (TypeError, {"top_k": 1.5}, "top_k"),
    (ValueError, {"top_p": 0.0}, "top_p"),
    (ValueError, {"top_p": 1.1}, "top_p"),
    (ValueError, {"min_p": -0.1}, "min_p"),
    (ValueError, {"min_p": 2.0}, "min_p"),
    (ValueError, {"repetition_penalty": 0.0}, "repetition_penalty"),
    (TypeError, {"repetition_penalty": [1.0]}, "repetition_penalty"),
    (ValueError, {"no_repeat_ngram_size": -2}, "no_repeat_ngram_size"),
    (ValueError, {"num_beams": 0}, "num_beams"),
    (TypeError, {"num_beams": 2.5}, "num_beams"),
    (ValueError, {"length_penalty": float("inf")}, "length_penalty"),
    (ValueError, {"length_penalty": 1e5, "num_beams": 2}, "length_penalty"),
    (ValueError, {"length_penalty": -1e5, "num_beams": 2}, "length_penalty"),
    (ValueError, {"length_penalty": 10**400}, "length_penalty"),
    (ValueError, {"temperature": 10**400}, "temperature"),
    (ValueError, {"early_stopping": "always"}, "early_stopping"),
    (ValueError, {"num_return_sequences": 0}, "num_return_sequences"),
    (ValueError, {"num_return_sequences": 2}, "num_return_sequences"),
    (ValueError, {"num_return_sequences": 3, "num_beams": 2}, "num_return_sequences"),
    (ValueError, {"eos_token_id": VOCABULARY}, "eos_token_id"),
    (ValueError, {"eos_token_id": [1, -1]}, "eos_token_id"),
    (TypeError, {"eos_token_id": "end"}, "eos_token_id"),
    (TypeError, {"eos_token_id": [1, 2.0]}, "eos_token_id"),
    (ValueError, {"pad_token_id": VOCABULARY}, "pad_token_id"),
    (TypeError, {"bad_words_ids": 3}, "bad_words_ids"),
    (TypeError, {"bad_words_ids": [3]}, "bad_words_ids"),
    (ValueError, {"bad_words_ids": [[]]}, "bad_words_ids"),
    (ValueError, {"suppress_tokens": [VOCABULARY]}, "suppress_tokens"),
    (ValueError, {"stop": "x"}, "tokenizer"),
    (TypeError, {"stop": "x", "tokenizer": 3}, "tokenizer"),
    (TypeError, {"stop": 3, "tokenizer": Letters()}, "stop"),
    (TypeError, {"stop": [3], "tokenizer": Letters()}, "stop"),
    (ValueError, {"stop": "", "tokenizer": Letters()}, "stop"),
    (ValueError, {"stop": [["a"]], "tokenizer": Letters()}, "stop"),
    (ValueError, {"seed": -1}, "seed"),
    (TypeError, {"seed": 1.5}, "seed"),
    (TypeError, {"logits_processors": [3]}, "logits_processors"),
    (TypeError, {"logits_processors": 3}, "logits_processors"),
    (TypeError, {"decoder_input_ids": IDS}, "decoder_input_ids"),
    (TypeError, {"state": {}}, "state"),
    (ValueError, {"prefill_chunk": 0}, "prefill_chunk"),
]


@pytest.mark.parametrize(("error", "options", "words"), BAD)
@pytest.mark.parametrize("method", ["generate", "stream"])
def test_refused(model, method, error, options, words):
    options = {"input_ids": IDS, **options}
    with pytest.raises(error, match=rf"^{method}: .*{words}"):
        getattr(model, method)(**options)


@pytest.mark.parametrize(
    ("error", "options", "words"),
    [
        (TypeError, {"streamer": 3}, "streamer"),
        (TypeError, {"return_state": 1}, "return_state"),
        (TypeError, {"return_scores": None}, "return_scores"),
        (ValueError, {"num_beams": 2, "return_state": True}, "num_beams"),
        (ValueError, {"num_beams": 2, "streamer": print}, "num_beams"),
    ],
)
def test_refused_by_generate(model, error, options, words):
    with pytest.raises(error, match=rf"^generate: .*{words}"):
        model.generate(IDS, **options)


def test_refused_by_stream(model):
    with pytest.raises(ValueError, match=r"^stream: num_beams"):
        model.stream(IDS, num_beams=2)
    with pytest.raises(TypeError, match=r"^stream: .*'streamer'"):
        model.stream(IDS, streamer=print)


def test_unknown_options(model):
    with pytest.raises(TypeError, match="temprature"):
        model.generate(IDS, temprature=1.0)
    with pytest.raises(TypeError, match="temprature"):
        model.stream(IDS, temprature=1.0)


def test_a_state_of_another_batch(model):
    _, memory = model.generate(IDS, max_new_tokens=2, return_state=True)
    with pytest.raises(ValueError, match="generate: state must have 1 rows, got 2"):
        model.generate(IDS[:1], state=memory)


def test_a_state_that_a_call_has_used_up(model):
    """It holds that call's text by now; going on from it would give wrong logits."""
    ids, memory = model.generate(IDS, max_new_tokens=2, return_state=True)
    late = model.stream(IDS, max_new_tokens=2, state=memory)
    model.generate(IDS[:, ::-1].copy(), max_new_tokens=2, state=memory)
    with pytest.raises(ValueError, match="generate: state must be new, got one that a call"):
        model.generate(ids, state=memory)
    with pytest.raises(ValueError, match="stream: state must be new"):
        next(late)


def test_a_state_of_another_model(model):
    _, memory = tiny().generate(IDS, max_new_tokens=2, return_state=True)
    with pytest.raises(ValueError, match="generate: state must be that of this model"):
        model.generate(IDS, state=memory)


@pytest.mark.parametrize("sample", [False, True])
@pytest.mark.parametrize(
    ("processor", "error", "words"),
    [
        (lambda h, x: np.full_like(x, -np.inf), ValueError, "at least one token"),
        (lambda h, x: np.full_like(x, np.nan), ValueError, "NaN"),
        (lambda h, x: np.full_like(x, np.inf), ValueError, "infinity"),
        (lambda h, x: x[:, :3], ValueError, "shape"),
        (lambda h, x: "logits", (TypeError, ValueError), "logits_processors"),
    ],
)
def test_processors_that_give_nonsense(model, sample, processor, error, words):
    with pytest.raises(error, match=rf"^generate: .*{words}"):
        model.generate(IDS, logits_processors=processor, do_sample=sample, seed=0)


def test_a_model_that_gives_nan(model):
    broken = tiny()
    broken.lm_head.weight.detach().fill_(float("nan"))
    for options in ({}, {"do_sample": True, "seed": 1}):
        with pytest.raises(ValueError, match="NaN from the model"):
            broken.generate(IDS, **options)


def test_a_tokenizer_that_gives_no_text(model):
    class Bytes:
        def decode(self, ids):
            return bytes(ids)

    with pytest.raises(TypeError, match="generate: tokenizer must decode to a string, got bytes"):
        model.generate(IDS, stop="a", tokenizer=Bytes())


def test_a_processor_cannot_change_the_text(model):
    def rewrite(history, logits):
        history[:] = 0
        return logits

    with pytest.raises(ValueError, match="read-only"):
        model.generate(IDS, logits_processors=[rewrite])


def test_modes_are_left_as_they_were():
    """A part that its owner keeps out of training stays so, also when a stream is given up."""
    model = tiny().train()
    frozen = next(m for m in model.modules() if m is not model)
    frozen.eval()
    before = [m.training for m in model.modules()]
    model.generate(IDS, max_new_tokens=2)
    assert [m.training for m in model.modules()] == before
    stream = model.stream(IDS, max_new_tokens=4)
    next(stream)
    assert not any(m.training for m in model.modules())
    stream.close()
    assert [m.training for m in model.modules()] == before


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 10**10},
        {"num_beams": 2**40},
        {"do_sample": True, "num_return_sequences": 10**11},
    ],
)
def test_more_rows_than_memory_are_refused_at_once(model, options):
    name = next(k for k in options if k.startswith("num"))
    with pytest.raises(MemoryError, match=rf"^generate: {name} = .* bytes"):
        model.generate(IDS, max_new_tokens=40, **options)


def test_the_signature_shows_what_holds_when_nothing_is_given(model):
    shown = {k: repr(p.default) for k, p in inspect.signature(model.generate).parameters.items()}
    for name, value in {
        "max_new_tokens": 20, "min_new_tokens": 0, "do_sample": False, "temperature": 1.0,
        "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0, "num_beams": 1,
        "length_penalty": 1.0, "early_stopping": False, "num_return_sequences": 1,
        "no_repeat_ngram_size": 0, "prefill_chunk": 2048, "seed": None, "stop": None,
    }.items():  # fmt: skip
        assert shown[name] == repr(value), name
    # They don't stand in the way of a checkpoint's own, as a value that is given does.
    model.generation_config = {"max_new_tokens": 3}
    try:
        assert model.generate(IDS).shape[1] == 7
        assert model.generate(IDS, max_new_tokens=20).shape[1] == 24
        assert model.generate(IDS, max_new_tokens=None).shape[1] == 7
    finally:
        model.generation_config = {}
