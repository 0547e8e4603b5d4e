# SPDX-License-Identifier: Apache-2.0
"""On CUDA a step of one token is captured once and replayed, and says what it says uncaptured."""

from __future__ import annotations

import numpy as np
import pytest

import seqloom as sl
from generation_support import VOCABULARY, prompts, tiny
from seqloom.generation.graph import StepGraph, Steps

NEW = {"max_new_tokens": 9, "eos_token_id": []}
MASK = np.array([[1] * 6, [0, 0] + [1] * 4, [0] * 3 + [1] * 3])
V = {"vocab_size": VOCABULARY}
LLAMA = {
    **V, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.4,
    "eos_token_id": None,
}  # fmt: skip
BART = {
    **V, "d_model": 16, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "init_std": 0.4,
    "max_position_embeddings": 32, "forced_eos_token_id": None,
}  # fmt: skip
START = {"decoder_start_token_id": 0}
WHOLE = {**START, "attention_mask": None}
TRANSFORMER = {
    "d_model": 16, "nhead": 2, "num_encoder_layers": 1, "num_decoder_layers": 2,
    "dim_feedforward": 16,
}  # fmt: skip

# name -> (how to make it, options of generate)
MODELS = {
    "gpt2": (lambda: tiny("cpu", "GPT2"), {}),
    "llama with grouped heads": (lambda: tiny("cpu", "Llama"), {}),
    "yarn": (
        lambda: sl.models.Llama(
            **LLAMA, rope_scaling={"rope_type": "yarn", "factor": 4.0}, max_position_embeddings=8
        ),
        {},
    ),
    "sliding window": (lambda: sl.models.Mistral(**LLAMA, sliding_window=4), {}),
    "some sliding windows": (
        lambda: sl.models.Qwen2(
            **LLAMA, use_sliding_window=True, sliding_window=4, max_window_layers=1
        ),
        {},
    ),
    "head norms": (lambda: sl.models.Qwen3(**LLAMA, head_dim=8), {}),
    "alibi": (
        lambda: sl.models.Bloom(
            **V, hidden_size=16, n_layer=2, n_head=2, initializer_range=0.4, eos_token_id=None
        ),
        {},
    ),
    "bart": (lambda: sl.models.Bart(**BART), {}),
    "marian": (lambda: sl.models.Marian(**BART, pad_token_id=8, decoder_start_token_id=8), {}),
    "t5": (
        lambda: sl.models.T5(
            **V, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, initializer_factor=2.0,
            relative_attention_num_buckets=8, relative_attention_max_distance=10,
        ),
        {},
    ),
    "transformer": (lambda: sl.models.Transformer(17, 17, **TRANSFORMER), START),
    "learned positions": (
        lambda: sl.models.Transformer(17, 17, positions="learned", **TRANSFORMER), START
    ),
    "lstm": (lambda: tiny("cpu", "LSTM"), {}),
    "gru": (lambda: tiny("cpu", "GRU"), {}),
    "bahdanau": (lambda: sl.models.Seq2Seq(17, 17, embed_dim=8, hidden_size=8), WHOLE),
    "luong": (
        lambda: sl.models.Seq2Seq(
            17, 17, embed_dim=8, hidden_size=8, cell="lstm", attention="luong-general"
        ),
        WHOLE,
    ),
    "without attention": (
        lambda: sl.models.Seq2Seq(17, 17, embed_dim=8, hidden_size=8, attention=None), START
    ),
}  # fmt: skip


@pytest.fixture
def on_cuda(device):
    if device == "cpu":
        pytest.skip("graphs are CUDA's")


@pytest.fixture
def captures(monkeypatch, on_cuda):
    """A list that grows with every capture and, by another key, with every replayed step."""
    seen = {"captures": 0, "steps": 0}
    capture, step = StepGraph._capture, StepGraph.step

    def captured(self):
        capture(self)
        seen["captures"] += 1

    def stepped(self, *arguments):
        seen["steps"] += 1
        return step(self, *arguments)

    monkeypatch.setattr(StepGraph, "_capture", captured)
    monkeypatch.setattr(StepGraph, "step", stepped)
    return seen


def uncaptured(monkeypatch, model, *arguments, **options):
    with monkeypatch.context() as m:
        m.setattr(Steps, "enabled", False)
        return model.generate(*arguments, **options)


@pytest.mark.parametrize("name", MODELS)
def test_every_family_writes_the_same_with_one_capture(name, captures, monkeypatch):
    make, options = MODELS[name]
    sl.manual_seed(3)
    model = make().eval()
    call = {**NEW, "attention_mask": MASK, **options}
    want = model.generate(prompts(), **call)
    model.to(device="cuda")
    assert np.array_equal(uncaptured(monkeypatch, model, prompts(), **call), want)
    assert captures == {"captures": 0, "steps": 0}
    held = sl.cuda.memory_allocated()
    got = model.generate(prompts(), **call)
    assert np.array_equal(got, want)
    # The first token comes from the prompt; the first step is not captured.
    assert captures == {"captures": 1, "steps": NEW["max_new_tokens"] - 1}
    # Tables that are made once may stay; caches and graphs do not.
    assert np.array_equal(model.generate(prompts(), **call), want)
    assert sl.cuda.memory_allocated() - held < 1 << 16


OPTIONS = {
    "beams": {"num_beams": 3},
    "beams of several prompts": {"num_beams": 2, "num_return_sequences": 2, "attention_mask": MASK},
    "draws": {"do_sample": True, "seed": 4, "top_k": 5},
    "several draws": {"do_sample": True, "seed": 4, "num_return_sequences": 2},
    "penalty": {"repetition_penalty": 1.5},
    "ends": {"eos_token_id": [3, 5], "pad_token_id": 0},
    "one row": {},
}


@pytest.mark.parametrize("kind", ["GPT2", "GRU"])
@pytest.mark.parametrize("name", OPTIONS)
def test_options_of_generate(name, kind, captures, monkeypatch):
    model = tiny("cuda", kind)
    ids = prompts(1) if name == "one row" else prompts()
    call = {**NEW, **OPTIONS[name]}
    want = uncaptured(monkeypatch, model, ids, **call)
    assert np.array_equal(model.generate(ids, **call), want)
    assert captures["captures"] == 1


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "int8"])
def test_dtypes(kind, captures, monkeypatch):
    model = tiny("cpu", "Llama")
    model = sl.models.quantize_model(model, kind) if kind == "int8" else model.to(dtype=kind)
    model.to(device="cuda")
    want = uncaptured(monkeypatch, model, prompts(), **NEW)
    assert np.array_equal(model.generate(prompts(), **NEW), want)
    assert captures["captures"] == 1


def test_a_cache_that_grows_is_captured_again(captures):
    model = tiny("cuda", "Llama")
    ids = prompts(2, 4)
    lengths = np.array([4, 2])
    state, plain = model.start(2, capacity=6), model.start(2, capacity=64)
    model.decode(ids, state, lengths)
    model.decode(ids, plain, lengths)
    steps = Steps(model)
    token = np.array([[1], [2]])
    for _ in range(20):
        got, want = steps(state, token, None), model.decode(token, plain)
        assert np.array_equal(got.cpu().numpy(), want.cpu().numpy())
        token = want.argmax(-1, keepdim=True).cpu().numpy()
        assert np.array_equal(steps.likeliest(got), token[:, 0])
    assert state.capacity == 24
    # 4 + 20 tokens: two steps in room for 6, six in 12, twelve in 24.
    assert captures == {"captures": 3, "steps": 20}
    assert steps.captures == 3


def test_rows_that_are_over_read_nothing(captures):
    model = tiny("cuda", "GPT2")
    ids = prompts(2, 4)
    state, plain = model.start(2, capacity=16), model.start(2, capacity=16)
    model.decode(ids, state)
    model.decode(ids, plain)
    steps = Steps(model)
    for counts in ([1, 1], [1, 0], [1, 0], [0, 1], [1, 1]):
        counts = np.array(counts)
        got = steps(state, ids[:, :1], counts).cpu().numpy()
        want = model.decode(ids[:, :1], plain, counts).cpu().numpy()
        assert np.array_equal(got[counts > 0], want[counts > 0])
        assert state.lengths.tolist() == plain.lengths.tolist()
    assert captures["captures"] == 1


def test_a_second_turn_reads_only_what_is_new(captures, monkeypatch):
    model = tiny("cuda", "GPT2")
    ids = prompts(1)
    first, memory = model.generate(ids, return_state=True, **NEW)
    longer = np.concatenate([first, prompts(1, 3, seed=9)], axis=1)
    got = model.generate(longer, state=memory, **NEW)
    assert np.array_equal(got, uncaptured(monkeypatch, model, longer, **NEW))


def test_streams(captures, monkeypatch):
    model = tiny("cuda", "LSTM")
    want = uncaptured(monkeypatch, model, prompts(1), **NEW)[0, 6:]
    assert list(model.stream(prompts(1), **NEW)) == want.tolist()
    assert captures["captures"] == 1


@pytest.mark.parametrize("kind", ["llama", "marian", "weights"])
def test_a_graph_keeps_what_it_reads(kind, captures):
    options = {"max_new_tokens": 12, "eos_token_id": []}
    if kind == "marian":
        fields = {**BART, "max_position_embeddings": 400}
        model = sl.models.Marian(**fields, pad_token_id=8, decoder_start_token_id=8).eval()
    else:
        model = tiny("cpu", "Llama")
    model.to(device="cuda")
    ids = prompts(1)
    want = list(model.stream(ids, **options))
    stream = model.stream(ids, **options)
    got = [next(stream) for _ in range(5)]
    if kind == "weights":
        model.to(dtype="bfloat16")  # the memory of the old ones is given back
        model.to(dtype="float32")
    else:  # makes longer tables
        model.generate(ids, max_new_tokens=150, eos_token_id=[])
    got += stream
    assert got == want


def test_angles_that_depend_on_the_length_are_not_captured(captures):
    scaling = {"rope_type": "dynamic", "factor": 2.0}
    model = sl.models.Llama(**LLAMA, rope_scaling=scaling, max_position_embeddings=8).eval()
    want = model.generate(prompts(), **NEW)
    assert np.array_equal(model.to(device="cuda").generate(prompts(), **NEW), want)
    assert captures["captures"] == 0


@pytest.mark.parametrize("attention", ["bahdanau", "luong-dot"])
def test_attention_to_padded_sources_is_not_captured(attention, captures):
    model = sl.models.Seq2Seq(17, 17, embed_dim=8, hidden_size=8, attention=attention).eval()
    call = {**NEW, **START, "attention_mask": MASK}
    want = model.generate(prompts(), **call)
    assert np.array_equal(model.to(device="cuda").generate(prompts(), **call), want)
    assert captures["captures"] == 0


def test_heads_without_a_kernel_are_not_captured(captures):
    model = sl.models.GPT2(**V, n_embd=264, n_layer=1, n_head=1, n_positions=16).eval()
    want = model.generate(prompts(), max_new_tokens=4)
    assert np.array_equal(model.to(device="cuda").generate(prompts(), max_new_tokens=4), want)
    assert captures["captures"] == 0


def test_a_copy_from_the_host_cannot_be_captured(on_cuda):
    x = sl.zeros(4, device="cuda")
    y = sl.ones(4)
    graph = sl.cuda.Graph()
    with pytest.raises(RuntimeError, match="from the host"), graph.capture():
        x.copy_(y)


def test_the_cache_is_written_where_the_device_says(on_cuda):
    from seqloom.ops.cache import cache_write

    buffer = sl.zeros(3, 2, 4, 4, device="cuda")
    rows = sl.ones(3, 2, 2, 4, device="cuda")
    starts = sl.tensor([1, 3, -1], dtype="int64", device="cuda")
    counts = sl.tensor([2, 2, 2], dtype="int64", device="cuda")
    cache_write(buffer, rows, starts, counts)
    written = buffer.cpu().numpy()[:, :, :, 0]
    # What would lie outside is not written.
    assert written[:, 0].tolist() == [[0, 1, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]]
    cache_write(buffer, rows * 2, starts.clamp(0, 2))
    assert buffer.cpu().numpy()[:, 1, :, 3].tolist() == [[0, 2, 2, 0], [0, 0, 2, 2], [2, 2, 0, 0]]
    with pytest.raises(ValueError, match="counts must be where starts are"):
        cache_write(buffer, rows, starts, counts.cpu())
