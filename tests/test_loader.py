# SPDX-License-Identifier: Apache-2.0
"""The loader: order, threads, and positions that are saved and restored exactly."""

from __future__ import annotations

import gc
import json
import threading
import time

import numpy as np
import pytest

from seqloom.data import (
    ContiguousBatches,
    ForecastWindows,
    Loader,
    MaskCollate,
    PadCollate,
    RandomWindows,
    Reader,
    TokenBudget,
    encode_texts,
)
from seqloom.data.checksum import checksum
from seqloom.text import Tokenizer


def same(one, two):
    """Whether two batches hold the same, whatever they are made of."""
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[k], two[k]) for k in one)
    if isinstance(one, (tuple, list)):
        return len(one) == len(two) and all(map(same, one, two))
    return np.array_equal(one, two)


def masked(seed=0, **options):
    """Masked-LM batches under a token budget: everything that is random at once."""
    special = {"pad": "[PAD]", "unk": "[UNK]", "mask": "[MASK]"}
    texts = ["abcdef" * (1 + i % 7) for i in range(60)]
    tokenizer = Tokenizer.train_from_texts(texts, kind="char", special_tokens=special)
    items = encode_texts(texts, tokenizer)
    plan = TokenBudget([len(i["input_ids"]) for i in items], 128, seed=seed)
    return Loader(items, batches=plan, collate=MaskCollate(tokenizer), seed=seed, **options)


def stream(count=50):
    return Reader(lambda: iter(range(count)))


KINDS = {
    "map": lambda **o: Loader(np.arange(47), 4, **o),
    "shuffled": lambda **o: Loader(np.arange(47), 4, shuffle=True, seed=5, **o),
    "dropping": lambda **o: Loader(np.arange(47), 4, shuffle=True, drop_last=True, **o),
    "contiguous": lambda **o: Loader(ContiguousBatches(np.arange(400), 4, 9), **o),
    "windows": lambda **o: Loader(RandomWindows(np.arange(99), 5, 40), 4, shuffle=True, **o),
    "masked": masked,
    "stream": lambda **o: Loader(stream(), 4, **o),
    "shuffled stream": lambda **o: Loader(stream(), 4, shuffle=True, shuffle_buffer=7, **o),
}


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("prefetch", [0, 3])
def test_resuming_gives_the_same_batches(kind, prefetch):
    """From every position of two epochs, through JSON, into a fresh loader."""
    make = KINDS[kind]
    whole = make(prefetch=prefetch)
    epochs = [list(whole) for _ in range(3)]
    assert (whole.epoch, whole.state_dict()["batch"]) == (3, 0)
    length = len(epochs[0])
    assert length > 5
    for stop in (0, 1, length // 2, length - 1, length):
        for epoch in (0, 1):
            first = make(prefetch=prefetch)
            for _ in range(epoch):
                list(first)
            iterator = iter(first)
            for _ in range(stop):
                next(iterator)
            state = json.loads(json.dumps(first.state_dict()))
            second = make(prefetch=prefetch)
            second.load_state_dict(state)
            assert same(list(second), epochs[epoch][stop:])
            assert same(list(second), epochs[epoch + 1])


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_threads_change_nothing(kind):
    assert same(list(KINDS[kind](prefetch=0)), list(KINDS[kind](prefetch=4)))


def test_batches_that_wait_dont_count():
    loader = Loader(np.arange(100), 2, prefetch=8)
    iterator = iter(loader)
    next(iterator)
    time.sleep(0.05)  # the thread is 8 batches ahead now
    assert loader.state_dict()["batch"] == 1


def test_epochs_differ_and_cover_everything():
    for kind in ("shuffled", "shuffled stream"):
        loader = KINDS[kind]()
        first, second = (np.concatenate(list(loader)) for _ in range(2))
        assert sorted(first) == sorted(second) == list(range(len(first)))
        assert (first != second).any()
        assert (first != np.sort(first)).any()
    other = Loader(np.arange(47), 4, shuffle=True, seed=6)
    assert not same(list(other), list(KINDS["shuffled"]()))


def test_iterating_anew_starts_the_epoch_anew():
    loader = KINDS["shuffled"]()
    first = next(iter(loader))
    whole = list(loader)
    assert same(first, whole[0])
    assert len(whole) == len(loader) == 12


def test_a_loaded_position_ends_the_iteration_in_progress():
    loader = KINDS["map"]()
    iterator = iter(loader)
    state = loader.state_dict()
    next(iterator)
    loader.load_state_dict(state)
    next(iterator)  # of the old turn; it no longer moves the position
    assert loader.state_dict()["batch"] == 0
    assert len(list(loader)) == 12


def test_lengths():
    assert len(KINDS["map"]()) == 12
    assert len(KINDS["dropping"]()) == len(list(KINDS["dropping"]())) == 11
    assert len(KINDS["masked"]()) == len(list(KINDS["masked"]()))
    assert len(KINDS["contiguous"]()) == len(list(KINDS["contiguous"]())) == 11
    with pytest.raises(TypeError, match="length of a stream"):
        len(KINDS["stream"]())
    assert list(Loader([], 4)) == []
    assert list(Loader(stream(0), 4)) == []


def test_errors_reach_the_reader_of_the_batches():
    def broken(items):
        if items[0] >= 8:
            raise ZeroDivisionError("in the thread")
        return items

    for prefetch in (0, 2):
        iterator = iter(Loader(np.arange(20), 4, collate=broken, prefetch=prefetch))
        assert [len(next(iterator)) for _ in range(2)] == [4, 4]
        with pytest.raises(ZeroDivisionError, match="in the thread"):
            next(iterator)


def loader_threads():
    return [t for t in threading.enumerate() if t.name == "seqloom-loader"]


def test_no_thread_is_left_behind():
    loader = Loader(np.arange(1000), 2, prefetch=2)
    for number, _ in enumerate(loader):
        if number == 3:
            break
    iterator = iter(loader)
    next(iterator)
    assert len(loader_threads()) >= 1
    del iterator
    gc.collect()
    assert loader_threads() == []
    list(loader)
    assert loader_threads() == []


def test_prefetching_overlaps_with_the_work():
    """While the reader holds the first batch, the thread makes the next two, and no more."""
    made = []
    enough = threading.Event()

    def collate(items):
        made.append(items)
        if len(made) == 4:  # one given out, two wait, one is in the thread's hands
            enough.set()
        return items

    iterator = iter(Loader(np.arange(10), 1, collate=collate, prefetch=2))
    next(iterator)
    assert enough.wait(10)
    time.sleep(0.02)
    assert len(made) == 4
    assert len(list(iterator)) == 9


def test_padding_collate_in_a_loader():
    items = [{"input_ids": list(range(1, 2 + i)), "labels": i} for i in range(5)]
    batches = list(Loader(items, 2, collate=PadCollate()))
    assert [b["input_ids"].shape for b in batches] == [(2, 2), (2, 4), (1, 5)]
    assert batches[2]["lengths"].tolist() == [5]


def test_another_loader_refuses_the_position():
    state = KINDS["shuffled"]().state_dict()
    others = {
        "seed": Loader(np.arange(47), 4, shuffle=True, seed=6),
        "batch_size": Loader(np.arange(47), 5, shuffle=True, seed=5),
        "shuffle": Loader(np.arange(47), 4, seed=5),
        "drop_last": Loader(np.arange(47), 4, shuffle=True, seed=5, drop_last=True),
        "examples": Loader(np.arange(46), 4, shuffle=True, seed=5),
        "batches": masked(seed=5),
    }
    for name, loader in others.items():
        with pytest.raises(
            ValueError, match=r"Loader\.load_state_dict: \w+ must be as it was"
        ) as e:
            loader.load_state_dict(state)
        if name != "batches":
            assert f": {name} must" in str(e.value)
    loader = KINDS["shuffled"]()
    for bad in (
        {},
        {"version": 2},
        [],
        {**state, "epoch": -1},
        {**state, "batch": 1.5},
        {**state, "batch": True},
        {**state, "settings": None},
    ):
        with pytest.raises(ValueError, match=r"Loader\.load_state_dict: "):
            loader.load_state_dict(bad)


@pytest.mark.parametrize(
    ("args", "kwargs", "error", "message"),
    [
        (([1], 0), {}, ValueError, "batch_size must be positive"),
        (([1], 2.5), {}, TypeError, "batch_size must be an integer, got float"),
        (([1], "4"), {}, TypeError, "batch_size must be an integer, got str"),
        (([1], 1), {"prefetch": -1}, ValueError, "prefetch must not be negative"),
        (([1], 1), {"shuffle_buffer": 0}, ValueError, "shuffle_buffer must be positive"),
        ((3, 1), {}, TypeError, "must be map-style or iterable, got int"),
        ((iter([1]), 1), {}, TypeError, "iterable again and again"),
        (([1], 1), {"batches": TokenBudget([1], 9)}, ValueError, "batches replaces batch_size"),
        (([1],), {"batches": TokenBudget([1], 9), "shuffle": True}, ValueError, "replaces"),
    ],
)
def test_bad_arguments(args, kwargs, error, message):
    with pytest.raises(error, match=f"Loader: .*{message}"):
        Loader(*args, **kwargs)


def test_checksums_tell_datasets_apart():
    """Every kind of dataset that lies in memory; nothing is said of streams."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 9, 500)
    other = np.concatenate([tokens[:-1], tokens[-1:] ^ 1])
    items = [{"input_ids": rng.integers(0, 9, 5), "labels": k, "text": "abc"} for k in range(9)]
    changed = [*items[:4], {**items[4], "labels": 99}, *items[5:]]
    series = rng.standard_normal((50, 2)).astype(np.float32)
    pairs = [
        (tokens, other),
        (RandomWindows(tokens, 5), RandomWindows(other, 5)),
        (ForecastWindows(series, 5, 2), ForecastWindows(series + 1, 5, 2)),
        (items, changed),
        ([np.zeros(3)], [np.zeros((3, 1))]),
        ([("a", "b")], [("a", "c")]),
        (np.array(["x", None], object), np.array(["y", None], object)),
    ]
    for one, two in pairs:
        assert checksum(one) == checksum(one)
        assert checksum(one) != checksum(two)
    assert checksum(stream()) is None
    large = np.zeros(20 << 20, np.int32)  # looked at in blocks
    before = checksum(large)
    large[1 << 20 :: 1 << 10] = 7
    assert checksum(large) != before
    # The position of a loader holds it, and another loader with like data takes it.
    one, two = Loader(items, 2), Loader([dict(item) for item in items], 2)
    two.load_state_dict(one.state_dict())
    with pytest.raises(ValueError, match="checksum must be as it was saved"):
        Loader(changed, 2).load_state_dict(one.state_dict())
