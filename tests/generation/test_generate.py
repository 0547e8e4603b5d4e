# SPDX-License-Identifier: Apache-2.0
"""Greedy search and sampling: what is written, when it stops, what comes back."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import seqloom as sl
from generation_support import VOCABULARY, Letters, greedy, logits_of, prompts, tiny

KINDS = ("GPT2", "Llama", "LSTM", "GRU")


@pytest.fixture(scope="module", params=KINDS)
def model(request, device):
    return tiny(device, request.param)


@pytest.fixture(scope="module")
def gpt2(device):
    return tiny(device)


def padded(ids: np.ndarray, lengths: list[int], side: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows of these lengths in one batch, and their mask."""
    width = max(lengths)
    out = np.full((len(lengths), width), 3)
    mask = np.zeros((len(lengths), width), np.int64)
    for i, n in enumerate(lengths):
        where = slice(0, n) if side == "right" else slice(width - n, width)
        out[i, where], mask[i, where] = ids[i, :n], 1
    return out, mask


def test_greedy_is_the_likeliest_token_again_and_again(model):
    ids = prompts()
    out = model.generate(ids, max_new_tokens=9)
    assert out.dtype == np.int64
    assert out.shape == (3, 15)
    np.testing.assert_array_equal(out[:, :6], ids)
    for row, prompt in zip(out, ids, strict=True):
        assert row[6:].tolist() == greedy(model, prompt, 9)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("chunk", [None, 2])
def test_unequal_prompts_in_one_batch_write_what_they_write_alone(model, side, chunk):
    lengths = [2, 7, 4]
    ids = prompts(3, 7)
    batch, mask = padded(ids, lengths, side)
    out = model.generate(
        batch, attention_mask=mask, max_new_tokens=6, prefill_chunk=chunk, pad_token_id=16
    )
    for i, n in enumerate(lengths):
        want = greedy(model, ids[i, :n], 6)
        if side == "left":
            np.testing.assert_array_equal(out[i, :7], batch[i])
            assert out[i, 7:].tolist() == want
        else:
            assert out[i].tolist() == [*ids[i, :n], *want, *[16] * (7 - n)]


def test_a_mask_with_holes_hides_what_it_hides(gpt2):
    ids = prompts(1, 6)
    mask = np.array([[1, 0, 1, 1, 0, 1]])
    out = gpt2.generate(ids, attention_mask=mask, max_new_tokens=4)
    kept = ids[0, mask[0] == 1]
    assert out[0].tolist() == [*kept, *greedy(gpt2, kept, 4)]


def test_long_prompts_in_pieces(model):
    ids = prompts(2, 40)
    whole = model.generate(ids, max_new_tokens=5)
    for chunk in (1, 7, 16, 100):
        np.testing.assert_array_equal(
            model.generate(ids, max_new_tokens=5, prefill_chunk=chunk), whole
        )


def test_inputs_may_be_tensors_lists_and_small_integers(gpt2):
    ids = prompts()
    want = gpt2.generate(ids, max_new_tokens=3)
    for given in (sl.tensor(ids), ids.tolist(), ids.astype(np.int32), ids.astype(np.uint8)):
        np.testing.assert_array_equal(gpt2.generate(given, max_new_tokens=3), want)
    mask = sl.ones(3, 6)
    np.testing.assert_array_equal(gpt2.generate(ids, attention_mask=mask, max_new_tokens=3), want)


# ---- when it stops ------------------------------------------------------------------------------


def test_every_row_ends_at_its_own_end_token(model):
    ids = prompts(5)
    free = [greedy(model, row, 12) for row in ids]
    eos = (free[0][3], free[1][6])
    out = model.generate(ids, max_new_tokens=12, eos_token_id=list(eos), pad_token_id=16)
    longest = 0
    for row, prompt in zip(out, ids, strict=True):
        want = greedy(model, prompt, 12, eos)
        longest = max(longest, len(want))
        assert row[6 : 6 + len(want)].tolist() == want
        assert set(row[6 + len(want) :].tolist()) <= {16}
    assert out.shape[1] == 6 + longest


def test_rows_that_are_over_are_filled_with_the_end_token_without_another(gpt2):
    ids = prompts(4)
    eos = greedy(gpt2, ids[0], 3)[2]
    out = gpt2.generate(ids, max_new_tokens=10, eos_token_id=eos)
    first = out[0, 6:].tolist()
    assert set(first[first.index(eos) :]) == {eos}


def test_no_end_before_the_minimum(gpt2):
    ids = prompts(2)
    eos = greedy(gpt2, ids[0], 1)[0]
    out = gpt2.generate(ids, max_new_tokens=8, min_new_tokens=5, eos_token_id=eos)
    assert eos not in out[0, 6:11]
    assert gpt2.generate(ids[:1], max_new_tokens=8, eos_token_id=eos).shape[1] == 7


def test_the_default_length_is_20_or_what_the_model_has_room_for(gpt2):
    assert gpt2.generate(prompts(1, 6)).shape == (1, 26)
    assert gpt2.generate(prompts(1, 90)).shape == (1, 96)
    # the last token is never read, so it needs no position
    assert gpt2.generate(prompts(1, 90), max_new_tokens=7).shape == (1, 97)


def test_stop_strings(gpt2):
    ids, letters = prompts(3), Letters()
    free = [letters.decode(greedy(gpt2, row, 14)) for row in ids]
    stop = [free[0][2:4], free[1][5:8]]
    out = gpt2.generate(ids, max_new_tokens=14, stop=stop, tokenizer=letters, pad_token_id=16)
    for row, text in zip(out, free, strict=True):
        ends = [text.find(s) + len(s) for s in stop if s in text]
        wanted = text[: min(ends)] if ends else text
        assert letters.decode(row[6:]) == wanted


def test_stop_strings_of_each_row(gpt2):
    ids, letters = prompts(3), Letters()
    free = [letters.decode(greedy(gpt2, row, 14)) for row in ids]
    stop = [[free[0][1:3]], [], [free[2][6:7]]]
    out = gpt2.generate(ids, max_new_tokens=14, stop=stop, tokenizer=letters, pad_token_id=16)
    for row, text, strings in zip(out, free, stop, strict=True):
        end = text.find(strings[0]) + len(strings[0]) if strings else len(text)
        assert letters.decode(row[6:]) == text[:end]


# ---- what comes back ----------------------------------------------------------------------------


def test_scores_are_the_models_log_probabilities(model):
    ids = prompts()
    out, scores = model.generate(
        ids, max_new_tokens=7, return_scores=True, temperature=3.0, repetition_penalty=1.5
    )
    assert scores.dtype == np.float32
    assert scores.shape == (3, 7)
    logits = logits_of(model, out).astype(np.float64)
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    want = np.take_along_axis(logp[:, 5:-1], out[:, 6:, None], 2)[..., 0]
    np.testing.assert_allclose(scores, want, atol=2e-5)


def test_scores_after_the_end_are_zero(gpt2):
    ids = prompts(4)
    eos = greedy(gpt2, ids[0], 3)[2]
    out, scores = gpt2.generate(
        ids, max_new_tokens=8, eos_token_id=eos, return_scores=True, pad_token_id=16
    )
    end = out[0, 6:].tolist().index(eos) + 1
    assert (scores[0, :end] < 0).all()
    assert not scores[0, end:].any()


def test_a_stream_gives_the_same_tokens(model):
    ids = prompts()
    out = model.generate(ids, max_new_tokens=8)
    assert list(model.stream(ids[:1], max_new_tokens=8)) == out[0, 6:].tolist()
    steps = list(model.stream(ids, max_new_tokens=8))
    np.testing.assert_array_equal(np.stack(steps, 1), out[:, 6:])


def test_a_stream_says_which_rows_are_over(gpt2):
    ids = prompts(4)
    eos = greedy(gpt2, ids[0], 3)[2]
    steps = np.stack(list(gpt2.stream(ids, max_new_tokens=8, eos_token_id=eos)), 1)
    for row, prompt in zip(steps, ids, strict=True):
        want = greedy(gpt2, prompt, 8, (eos,))
        assert row.tolist() == want + [-1] * (row.size - len(want))


def test_a_stream_begins_before_it_is_over_and_may_be_left(gpt2):
    gpt2.train()
    try:
        stream = gpt2.stream(prompts(1), max_new_tokens=50)
        assert not isinstance(next(stream), np.ndarray)
        assert not gpt2.training
        stream.close()
        assert gpt2.training
    finally:
        gpt2.eval()


def test_streamers(gpt2):
    ids = prompts(2)
    out = gpt2.generate(ids, max_new_tokens=5)
    seen = []
    gpt2.generate(ids, max_new_tokens=5, streamer=seen.append)
    np.testing.assert_array_equal(np.stack(seen, 1), out[:, 6:])

    class Collector:
        def __init__(self):
            self.steps, self.over = [], False

        def put(self, tokens):
            self.steps.append(tokens)

        def end(self):
            self.over = True

    collector = Collector()
    gpt2.generate(ids, max_new_tokens=5, streamer=collector)
    np.testing.assert_array_equal(np.stack(collector.steps, 1), out[:, 6:])
    assert collector.over


def test_dropout_is_off_and_the_mode_comes_back(gpt2):
    ids = prompts()
    want = gpt2.generate(ids, max_new_tokens=6)
    gpt2.train()
    try:
        np.testing.assert_array_equal(gpt2.generate(ids, max_new_tokens=6), want)
        assert gpt2.training
    finally:
        gpt2.eval()


def test_nothing_is_recorded(gpt2):
    logits = gpt2.decode(prompts(), gpt2.start(3, capacity=8))
    assert not logits.requires_grad


# ---- sampling -----------------------------------------------------------------------------------


def test_a_seed_gives_the_same_text(model):
    ids = prompts()
    options = {"do_sample": True, "max_new_tokens": 12, "temperature": 1.5}
    one = model.generate(ids, seed=7, **options)
    np.testing.assert_array_equal(model.generate(ids, seed=7, **options), one)
    assert (model.generate(ids, seed=8, **options) != one).any()


def test_without_a_seed_the_global_stream_decides(gpt2):
    ids = prompts()
    options = {"do_sample": True, "max_new_tokens": 12}
    sl.manual_seed(3)
    one, two = gpt2.generate(ids, **options), gpt2.generate(ids, **options)
    sl.manual_seed(3)
    np.testing.assert_array_equal(gpt2.generate(ids, **options), one)
    assert (one != two).any()


def test_a_rows_draws_do_not_depend_on_the_other_rows(gpt2):
    ids = prompts()
    options = {"do_sample": True, "max_new_tokens": 8, "seed": 1}
    np.testing.assert_array_equal(
        gpt2.generate(ids[:1], **options)[0], gpt2.generate(ids, **options)[0]
    )


def test_several_draws_for_each_prompt(gpt2):
    ids = prompts(2)
    out = gpt2.generate(
        ids, do_sample=True, num_return_sequences=5, max_new_tokens=10, seed=0, temperature=2.0
    )
    assert out.shape == (10, 16)
    np.testing.assert_array_equal(out[:, :6], np.repeat(ids, 5, axis=0))
    assert len({tuple(row) for row in out[:5].tolist()}) > 1


def test_draws_follow_the_distribution(gpt2):
    ids = prompts(1)
    x = logits_of(gpt2, ids)[0, -1].astype(np.float64) / 2.5
    p = np.exp(x - x.max())
    p /= p.sum()
    n = 4000
    out = gpt2.generate(
        ids, do_sample=True, num_return_sequences=n, max_new_tokens=1, temperature=2.5, seed=11
    )
    counts = np.bincount(out[:, 6], minlength=VOCABULARY)
    chi2 = ((counts - n * p) ** 2 / (n * p)).sum()
    assert chi2 < 45  # 16 degrees of freedom: 1 in 10,000


def test_a_very_low_temperature_is_greedy(model):
    ids = prompts()
    np.testing.assert_array_equal(
        model.generate(ids, do_sample=True, temperature=1e-4, max_new_tokens=8, seed=0),
        model.generate(ids, max_new_tokens=8),
    )


# ---- processors ---------------------------------------------------------------------------------


def test_processors_see_the_whole_history_and_change_the_logits(gpt2):
    lengths = [6, 3]
    batch, mask = padded(prompts(2), lengths, "left")
    seen = []

    def only_even(history, logits):
        seen.append(history.copy())
        assert logits.shape == (2, VOCABULARY)
        logits[:, 1::2] = -np.inf

    out = gpt2.generate(batch, attention_mask=mask, max_new_tokens=4, logits_processors=[only_even])
    assert not (out[:, 6:] % 2).any()
    for step, history in enumerate(seen):
        want = np.where(mask == 1, batch, -1)
        np.testing.assert_array_equal(history[:, :6], want)
        np.testing.assert_array_equal(history[:, 6:], out[:, 6 : 6 + step])


def test_processors_run_one_after_the_other_and_may_give_new_arrays(gpt2):
    def first(history, logits):
        return np.zeros(logits.shape)

    def second(history, logits):
        logits[:, 9] = 1
        return logits

    out = gpt2.generate(prompts(), max_new_tokens=3, logits_processors=[first, second])
    assert set(out[:, 6:].ravel().tolist()) == {9}


def test_no_ngram_twice(model):
    out = model.generate(prompts(3, 4), max_new_tokens=40, no_repeat_ngram_size=2)
    for row in out.tolist():
        pairs = list(itertools.pairwise(row))
        new = pairs[3:]
        assert len(set(new)) == len(new)
        assert not set(new) & set(pairs[:3])


def test_tokens_that_must_not_be_written(gpt2):
    ids = prompts(4)
    first = {greedy(gpt2, row, 1)[0] for row in ids}
    out = gpt2.generate(ids, max_new_tokens=8, suppress_tokens=list(first))
    assert not set(out[:, 6:].ravel().tolist()) & first
    out = gpt2.generate(ids, max_new_tokens=8, begin_suppress_tokens=list(first))
    assert not set(out[:, 6].tolist()) & first
    free = greedy(gpt2, ids[0], 8)
    word = free[3:5]
    out = gpt2.generate(ids[:1], max_new_tokens=8, bad_words_ids=[word])
    row = out[0].tolist()
    assert word not in [row[i : i + 2] for i in range(5, len(row))]
    assert row[6:10] == free[:4]


def test_a_forced_last_token(gpt2):
    out = gpt2.generate(prompts(), max_new_tokens=5, forced_eos_token_id=4)
    assert (out[:, -1] == 4).all()


def test_repetition_penalty_changes_what_is_repeated(gpt2):
    ids = prompts()
    plain = gpt2.generate(ids, max_new_tokens=20)
    other = gpt2.generate(ids, max_new_tokens=20, repetition_penalty=5.0)
    variety = [np.mean([len(set(r)) for r in x[:, 6:].tolist()]) for x in (plain, other)]
    assert variety[1] > variety[0]


# ---- the checkpoint's defaults ------------------------------------------------------------------


def test_the_checkpoints_defaults_hold_until_an_argument_says_otherwise(gpt2):
    ids = prompts()
    eos = greedy(gpt2, ids[0], 3)[2]
    want = gpt2.generate(ids, max_new_tokens=9, eos_token_id=eos, repetition_penalty=1.7)
    gpt2.generation_config = {
        "max_new_tokens": 9,
        "eos_token_id": [eos],
        "pad_token_id": None,
        "repetition_penalty": 1.7,
        "transformers_version": "4.57",
    }
    try:
        np.testing.assert_array_equal(gpt2.generate(ids), want)
        assert gpt2.generate(ids, max_new_tokens=2).shape[1] == 8
        assert gpt2.generate(ids[:1], eos_token_id=[]).shape[1] == 15  # no end token after all
        gpt2.generation_config = {"max_length": 10}
        assert gpt2.generate(ids).shape[1] == 10
        gpt2.generation_config = {"penalty_alpha": 0.6}
        with pytest.warns(UserWarning, match="penalty_alpha"):
            gpt2.generate(ids)
    finally:
        gpt2.generation_config = {}


# ---- the state across calls ---------------------------------------------------------------------


def test_a_second_turn_reads_only_what_is_new(model, monkeypatch):
    ids = prompts(1, 8)
    out, memory = model.generate(ids, max_new_tokens=5, return_state=True)
    turn = np.concatenate([out, prompts(1, 4, seed=9)], axis=1)
    want = model.generate(turn, max_new_tokens=5)
    read = []
    decode = type(model).decode

    def counted(self, ids, state, counts=None):
        read.append(ids.shape[1])
        return decode(self, ids, state, counts)

    monkeypatch.setattr(type(model), "decode", counted)
    got, again = model.generate(turn, max_new_tokens=5, state=memory, return_state=True)
    np.testing.assert_array_equal(got, want)
    # The last written token had not been read, and four are new; on CUDA steps are replayed.
    assert read == [5] + ([1] * 4 if model.device == "cpu" else [])
    assert again.tokens[0].tolist() == got[0, :-1].tolist()


def test_a_turn_that_begins_differently_is_read_from_there_on(model):
    ids = prompts(2, 8)
    _, memory = model.generate(ids, max_new_tokens=5, return_state=True)
    other = ids.copy()
    other[0, 3] = (other[0, 3] + 1) % VOCABULARY
    np.testing.assert_array_equal(
        model.generate(other, max_new_tokens=6, state=memory),
        model.generate(other, max_new_tokens=6),
    )


def test_the_state_of_rows_that_ended_at_different_times(model):
    ids = prompts(4, 8)
    free = [greedy(model, row, 10) for row in ids]
    eos = [free[0][2], free[1][4]]
    out, memory = model.generate(
        ids, max_new_tokens=10, eos_token_id=eos, pad_token_id=16, return_state=True
    )
    for row, prompt, held in zip(out, ids, memory.tokens, strict=True):
        want = greedy(model, prompt, 10, tuple(eos))
        assert held.tolist() == [*prompt, *want][:-1]
        assert row[8 : 8 + len(want)].tolist() == want
    lengths = [t.size + 1 for t in memory.tokens]
    np.testing.assert_array_equal(memory.state.lengths, np.array(lengths) - 1)
    # A second turn for all of them.
    width = max(lengths) + 2
    batch, mask = np.full((4, width), 3), np.zeros((4, width), np.int64)
    for i, n in enumerate(lengths):
        batch[i, : n + 2] = [*out[i, :n], 5, 6]
        mask[i, : n + 2] = 1
    want = model.generate(batch, attention_mask=mask, max_new_tokens=4)
    got = model.generate(batch, attention_mask=mask, max_new_tokens=4, state=memory)
    np.testing.assert_array_equal(got, want)


def test_scores_and_state_together(gpt2):
    out = gpt2.generate(prompts(), max_new_tokens=3, return_scores=True, return_state=True)
    assert [type(x).__name__ for x in out] == ["ndarray", "ndarray", "Memory"]


def far(model, ids, **options):
    """What generate and a beam search give when they stop long before max_new_tokens."""
    return model.generate(ids, eos_token_id=3, pad_token_id=0, return_scores=True, **options)


@pytest.mark.parametrize("beams", [1, 3])
def test_room_grows_with_what_is_written(monkeypatch, beams):
    """A bound far beyond what will be written, "until the end", costs nothing."""
    model = tiny(kind="LSTM")

    def end(history, logits):
        if history.shape[1] == 5 + 11:
            logits[:] = -np.inf
            logits[:, 3] = 0
        return logits

    options = {"num_beams": beams, "logits_processors": [end], "suppress_tokens": []}
    want = far(model, prompts(2, 5), max_new_tokens=12, **options)
    for module in ("call", "beam"):
        monkeypatch.setattr(f"seqloom.generation.{module}.FIRST_STEPS", 4)
    got = far(model, prompts(2, 5), max_new_tokens=10**11, **options)
    for a, b in zip(want, got, strict=True):
        np.testing.assert_array_equal(a, b)
