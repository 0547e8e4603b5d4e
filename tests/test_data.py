# SPDX-License-Identifier: Apache-2.0
"""Readers, windows, padding, bucketing, pairs and forecasting windows."""

from __future__ import annotations

import doctest
import gzip
import importlib
import itertools
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from seqloom.data import (
    ContiguousBatches,
    DataError,
    ForecastWindows,
    LMWindows,
    PadCollate,
    PairCollate,
    RandomWindows,
    Standardizer,
    TokenBudget,
    chronological_split,
    default_collate,
    demo_text,
    encode_corpus,
    encode_pairs,
    encode_texts,
    mask_from_lengths,
    pad,
    read_csv,
    read_jsonl,
    read_pairs,
    read_text,
)
from seqloom.data import readers as readers_module
from seqloom.text import Tokenizer

MODULES = [
    *("bucketing", "checksum", "demo", "forecasting", "loader", "masking"),
    *("padding", "pairs", "questions", "random", "readers", "windows"),
]


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    result = doctest.testmod(importlib.import_module(f"seqloom.data.{name}"))
    assert result.attempted
    assert not result.failed


# ---------------------------------------------------------------------------------- readers


def test_text_units(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("one\r\ntwo é\n\n \nthree\nfour".encode())
    reader = read_text(path)
    assert list(reader) == list(reader) == ["one", "two é", "three", "four"]
    assert list(read_text(path, skip_blank=False)) == ["one", "two é", "", " ", "three", "four"]
    assert list(read_text(path, unit="paragraph")) == ["one\ntwo é", "three\nfour"]
    assert list(read_text(path, unit="file")) == ["one\r\ntwo é\n\n \nthree\nfour"]
    whole = read_text(path, keep_newlines=True, skip_blank=False)
    assert "".join(whole) == path.read_bytes().decode()
    assert list(read_text([path, path]))[4:] == list(reader)
    assert list(reader.map(len)) == [3, 5, 5, 4]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "latin-1", "utf-8-sig"])
def test_encodings_and_gzip(tmp_path, encoding):
    text = "é\nü\n"
    (tmp_path / "a.txt").write_bytes(text.encode(encoding))
    with gzip.open(tmp_path / "a.txt.gz", "wb") as handle:
        handle.write(text.encode(encoding))
    for name in ("a.txt", "a.txt.gz"):
        assert list(read_text(tmp_path / name, encoding=encoding)) == ["é", "ü"]
    if encoding == "utf-8-sig":
        assert list(read_text(tmp_path / "a.txt")) == ["é", "ü"]


def test_reading_streams(tmp_path):
    """A file of 30 MB is read in little memory, and the first record comes at once."""
    path = tmp_path / "big.txt"
    with open(path, "wb") as handle:
        for _ in range(300):
            handle.write(b"some words that make a line\n" * 3600)
    tracemalloc.start()
    assert next(iter(read_text(path))) == "some words that make a line"
    assert sum(1 for _ in itertools.islice(read_text(path), 100_000)) == 100_000
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()


def test_csv(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('label,text\n1,"a, ""b""\nc"\n\n0,d\n', encoding="utf-8")
    rows = [{"label": "1", "text": 'a, "b"\nc'}, {"label": "0", "text": "d"}]
    assert list(read_csv(path)) == rows
    assert list(read_csv(path, columns=["text"])) == [{"text": r["text"]} for r in rows]
    (tmp_path / "a.tsv").write_text("1\ta b\n0\tc\n", encoding="utf-8")
    got = list(read_csv(tmp_path / "a.tsv", delimiter="\t", header=["y", "x"]))
    assert got == [{"y": "1", "x": "a b"}, {"y": "0", "x": "c"}]


def test_jsonl(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a\\u2603", "n": [1]}\n\n{"text": "b", "n": []}\n', encoding="utf-8")
    assert list(read_jsonl(path)) == [{"text": "a☃", "n": [1]}, {"text": "b", "n": []}]
    assert list(read_jsonl(path, fields=["text"])) == [{"text": "a☃"}, {"text": "b"}]


TEXT = {
    "latin-1 text": (b"fine\ncaf\xe9 noir\n", r"line 2, byte 8: not valid UTF-8 \(0xe9\)"),
    "a cut character": (b"abc\xe2\x98", "line 1, byte 3: not valid UTF-8"),
    "an overlong form": (b"\n\n\xc0\xaf", "line 3, byte 2: not valid UTF-8"),
    "a surrogate": (b"\xed\xa0\x80", "byte 0: not valid UTF-8"),
    "UTF-16": ("text".encode("utf-16"), "looks like UTF-16; pass encoding='utf-16'"),
    "after a mark": (b"\xef\xbb\xbfok\n\xff", "line 2, byte 6: not valid UTF-8"),
    "a PNG": (b"\x89PNG\r\n\x1a\n", "line 1, byte 0: not valid UTF-8"),
}


@pytest.mark.parametrize("case", sorted(TEXT))
@pytest.mark.parametrize("reader", [read_text, read_csv, read_jsonl, read_pairs])
def test_text_that_is_not_utf8(tmp_path, case, reader):
    data, message = TEXT[case]
    (tmp_path / "bad.txt").write_bytes(data)
    if reader in (read_jsonl, read_pairs) and data.startswith((b"fine", b"abc", b"\xef")):
        data = data.replace(b"fine", b"{}\t ").replace(b"abc", b"").replace(b"ok", b"{}\t")
        (tmp_path / "bad.txt").write_bytes(data)
        message = "not valid UTF-8"
    with pytest.raises(DataError, match=rf"{reader.__name__}: .*bad\.txt: .*{message}"):
        list(reader(tmp_path / "bad.txt"))


def test_other_unreadable_files(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"read_text: .*absent\.txt does not exist"):
        read_text(tmp_path / "absent.txt")
    with pytest.raises(ValueError, match="not a regular file"):
        read_text(tmp_path)
    with pytest.raises(ValueError, match="at least one file"):
        read_text([])
    with pytest.raises(ValueError, match="unit must be"):
        read_text(tmp_path, unit="word")
    (tmp_path / "a.txt").write_text("a line\nanother one\n")
    with pytest.raises(DataError, match="there is no encoding 'klingon'"):
        list(read_text(tmp_path / "a.txt", encoding="klingon"))
    with pytest.raises(DataError, match="there is no encoding 'rot13'"):  # bytes to bytes
        list(read_text(tmp_path / "a.txt", encoding="rot13"))
    with pytest.raises(TypeError, match="read_text: paths must be a path or many, got int"):
        read_text(5)
    (tmp_path / "b.txt").write_bytes(b"\xff")
    with pytest.raises(DataError, match="line 1: not valid ascii"):
        list(read_text(tmp_path / "b.txt", encoding="ascii"))
    (tmp_path / "a.gz").write_bytes(b"not gzip")
    with pytest.raises(DataError, match=r"a\.gz: broken gzip file"):
        list(read_text(tmp_path / "a.gz"))
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"text " * 1000)[:-20])
    with pytest.raises(DataError, match=r"cut\.gz: broken gzip file"):
        list(read_text(tmp_path / "cut.gz"))
    monkeypatch.setattr(readers_module, "MAX_LINE_BYTES", 8)
    with pytest.raises(DataError, match=r"line 2: longer than 8 bytes"):
        list(read_text(tmp_path / "a.txt"))

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(PermissionError, match=r"cannot read .*a\.txt: Permission denied"):
        list(read_text(tmp_path / "a.txt"))


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("a,b\n1,2\n3\n", {}, "line 3: 1 fields, but 2 columns"),
        ("a,b\n1,2,3\n", {}, "line 2: 3 fields, but 2 columns"),
        ("a,a\n", {}, "line 1: a column name occurs twice"),
        ("a,b\n1,2\n", {"columns": ["c"]}, "has no column 'c', only a, b"),
        ("", {"columns": ["c", "d"]}, "is empty, without a first line that names c, d"),
        ("\n\n", {"columns": ["c"]}, "is empty, without a first line that names c"),
        ("1,2\n", {"columns": ["c"], "header": ["a", "b"]}, "has no column 'c', only a, b"),
        ('a,b\n1,"2\n', {}, "line 2: unexpected end of data"),
        ('a,b\n1,"2"3\n', {}, "line 2: .* expected after"),
        ("a\n" + "x" * 200_000 + "\n", {}, "line 2: field larger than field limit"),
    ],
)
def test_bad_csv(tmp_path, text, options, message):
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(DataError, match=rf"read_csv: .*bad\.csv: {message}"):
        list(read_csv(tmp_path / "bad.csv", **options))
    for delimiter in ("ab", "\n", '"', ""):
        with pytest.raises(ValueError, match="delimiter must be one character"):
            read_csv(tmp_path / "bad.csv", delimiter=delimiter)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2, column [12]: not JSON"),
        ("[1]", "line 2: must be a JSON object, got list"),
        ("null", "line 2: must be a JSON object, got NoneType"),
        ('{"x": 1}', "line 2: has no field 'text', only x"),
        ("[" * 100_000, "line 2: nested too deeply"),
        ('{"text": ' + "9" * 5000 + "}", "line 2: "),
        ('{"text": 1} {"text": 2}', "line 2, column 13: not JSON"),
    ],
)
def test_bad_jsonl(tmp_path, line, message):
    (tmp_path / "bad.jsonl").write_text('{"text": "ok"}\n' + line + "\n")
    with pytest.raises(DataError, match=rf"read_jsonl: .*bad\.jsonl: {message}"):
        list(read_jsonl(tmp_path / "bad.jsonl", fields=["text"]))


def test_pairs_from_two_files(tmp_path):
    (tmp_path / "en").write_text("a\nb\n")
    (tmp_path / "fr").write_text("x\ny\n")
    assert list(read_pairs(tmp_path / "en", tmp_path / "fr")) == [("a", "x"), ("b", "y")]
    (tmp_path / "fr").write_text("x\n")
    with pytest.raises(DataError, match=r"fr has fewer lines than .*en"):
        list(read_pairs(tmp_path / "en", tmp_path / "fr"))
    with pytest.raises(DataError, match="en: line 1: has no tab"):
        list(read_pairs(tmp_path / "en"))


# ---------------------------------------------------------------------------------- windows


def test_encode_corpus(tmp_path):
    tokenizer = Tokenizer.train_from_texts(["abc\n"], kind="char")
    path = tmp_path / "a.txt"
    path.write_text("ab\n\nc\n" * 400)
    reader = read_text(path, keep_newlines=True, skip_blank=False)
    tokens = encode_corpus(reader, tokenizer)
    assert tokens.dtype == np.uint16
    assert tokenizer.decode(tokens) == path.read_text()
    on_disk = encode_corpus(reader, tokenizer, path=tmp_path / "a.npy")
    assert isinstance(on_disk, np.memmap)
    np.testing.assert_array_equal(on_disk, tokens)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), tokens)
    ended = encode_corpus(["ab", "c"], tokenizer, separator=tokenizer.eos_token_id)
    assert ended.tolist() == [*tokenizer.encode("ab"), 3, *tokenizer.encode("c"), 3]
    assert encode_corpus([], tokenizer).shape == (0,)
    assert encode_corpus([], tokenizer, path=tmp_path / "e.npy").shape == (0,)


def test_contiguous_batches_go_on_where_they_ended():
    tokens = np.arange(1000)
    batches = ContiguousBatches(tokens, batch_size=4, seq_len=7)
    seen = np.concatenate([batches[i][0] for i in range(len(batches))], axis=1)
    assert (np.diff(seen, axis=1) == 1).all()
    for inputs, targets in (batches[i] for i in range(len(batches))):
        assert inputs.shape == targets.shape == (4, 7)
        assert inputs.dtype == np.int64
        np.testing.assert_array_equal(targets, inputs + 1)
    assert seen.size > 1000 - 4 * 8
    with pytest.raises(IndexError, match="index must be in"):
        batches[len(batches)]


@pytest.mark.parametrize(("size", "seq_len", "stride"), [(10, 3, None), (10, 3, 1), (4, 3, 2)])
def test_windows_cover_the_corpus(size, seq_len, stride):
    windows = LMWindows(np.arange(size, dtype=np.uint16), seq_len, stride)
    starts = range(0, size - seq_len, stride or seq_len)
    assert len(windows) == len(starts)
    for i, start in enumerate(starts):
        inputs, targets = windows[i]
        assert inputs.tolist() == list(range(start, start + seq_len))
        assert targets.tolist() == list(range(start + 1, start + seq_len + 1))
    inputs, targets = windows.take(range(len(windows)))
    assert inputs.shape == (len(windows), seq_len)


def test_random_windows_depend_on_seed_and_epoch():
    tokens = np.arange(50)
    one, two = RandomWindows(tokens, 5, 4000, seed=1), RandomWindows(tokens, 5, 4000, seed=1)
    first = one.take(range(4000))[0]
    np.testing.assert_array_equal(first, two.take(range(4000))[0])
    # Every place occurs, the very last one too.
    assert set(first[:, 0].tolist()) == set(range(45))
    one.set_epoch(1)
    assert (one.take(range(4000))[0] != first).any()
    one.set_epoch(0)
    np.testing.assert_array_equal(one.take(range(4000))[0], first)
    assert (RandomWindows(tokens, 5, 4000, seed=2).take(range(4000))[0] != first).any()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: LMWindows([1, 2], 2), ValueError, "must number more than seq_len"),
        (lambda: LMWindows([1.0, 2.0, 3.0], 1), ValueError, r"integers of shape \[N\]"),
        (lambda: LMWindows([[1, 2, 3]], 1), ValueError, r"integers of shape \[N\]"),
        (lambda: LMWindows([1, 2, 3], 0), ValueError, "seq_len must be positive"),
        (lambda: LMWindows([1, 2, 3], 1, stride=0), ValueError, "stride must be positive"),
        (lambda: LMWindows([1, 2, 3], 1)[2], IndexError, "index must be in"),
        (lambda: LMWindows([1, 2, 3], 1)[-1], IndexError, "index must be in"),
        (lambda: RandomWindows([1, 2, 3], 3), ValueError, "must number more"),
        (lambda: RandomWindows([1, 2, 3], 1, seed=-1), ValueError, "must not be negative"),
        (lambda: ContiguousBatches(range(9), 3, 3), ValueError, "more than batch_size"),
        (lambda: ContiguousBatches(range(9), 0, 3), ValueError, "batch_size must be positive"),
    ],
)
def test_bad_window_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()


# ---------------------------------------------------------------------- padding, bucketing


@pytest.mark.parametrize("side", ["left", "right"])
def test_pad(side):
    rows = [np.ones((2, 3), np.float32), np.zeros((0, 3), np.float32), np.full((5, 3), 2.0)]
    array, lengths = pad(rows, -1, side=side, multiple_of=4)
    assert array.shape == (3, 8, 3)
    assert lengths.tolist() == [2, 0, 5]
    for row, size, want in zip(array, lengths, rows, strict=True):
        kept = row[:size] if side == "right" else row[8 - size :]
        np.testing.assert_array_equal(kept, want)
        assert (row == -1).sum() == (8 - size) * 3
    assert pad([[1], []])[0].dtype == np.int64
    assert pad([[1.5], []])[0].dtype == np.float64
    assert pad([], length=4)[0].shape == (0, 4)
    assert mask_from_lengths([2, 0], 3).tolist() == [[1, 1, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        (([[1, 2], 3],), {}, "sequences must have shape"),
        (([np.zeros((2, 3)), np.zeros((2, 4))],), {}, "sequences must have shape"),
        (([[1, 2]],), {"length": 1}, "length must be at least"),
        (([[1, 2]],), {"side": "top"}, "side must be"),
        (([[1, 2]],), {"multiple_of": 0}, "multiple_of must be positive"),
    ],
)
def test_bad_padding(args, kwargs, message):
    with pytest.raises(ValueError, match=f"pad: {message}"):
        pad(*args, **kwargs)


def test_collates():
    items = [
        {"input_ids": [1, 2], "labels": [0, 1], "x": 0.5, "text": "a"},
        {"input_ids": [3], "labels": [1], "x": 1.5, "text": "b"},
    ]
    batch = PadCollate(side="left")(items)
    assert batch["input_ids"].tolist() == [[1, 2], [0, 3]]
    assert batch["attention_mask"].tolist() == [[1, 1], [0, 1]]
    assert batch["labels"].tolist() == [[0, 1], [-100, 1]]
    assert batch["x"].tolist() == [0.5, 1.5]
    assert batch["text"] == ["a", "b"]
    frames = PadCollate()([{"inputs": np.ones((3, 2))}, {"inputs": np.ones((1, 2))}])
    assert frames["inputs"].shape == (2, 3, 2)
    assert frames["lengths"].tolist() == [3, 1]
    assert frames["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    stacked = default_collate([(np.ones(2), 1, "a"), (np.zeros(2), 2, "b")])
    assert stacked[0].tolist() == [[1, 1], [0, 0]]
    assert stacked[1].tolist() == [1, 2]
    assert stacked[2] == ["a", "b"]
    with pytest.raises(ValueError, match="items must have one shape"):
        default_collate([np.ones(2), np.ones(3)])


@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("pool", [None, 64])
def test_token_budget(columns, pool):
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 60, (1000, columns))
    budget = TokenBudget(lengths.squeeze(), 512, max_batch=40, seed=3, pool=pool)
    for epoch in range(2):
        batches = budget.batches(epoch)
        assert sorted(np.concatenate(batches).tolist()) == list(range(1000))
        for batch in batches:
            assert 1 <= len(batch) <= 40
            assert len(batch) * lengths[batch].max(axis=0).sum() <= 512
    first = [b.tolist() for b in budget.batches(0)]
    assert first == [b.tolist() for b in budget.batches(0)]
    assert first != [b.tolist() for b in budget.batches(1)]
    if columns == 1 and pool is None:
        assert budget.efficiency() > 0.97


def test_token_budget_limits():
    with pytest.raises(ValueError, match="at most max_tokens = 8, got 9 at 1"):
        TokenBudget([3, 9], 8)
    assert [b.tolist() for b in TokenBudget([3, 9], 8, drop_long=True).batches(0)] == [[0]]
    assert TokenBudget([], 8).batches(0) == []
    assert TokenBudget([], 8).efficiency() == 1
    with pytest.raises(ValueError, match="lengths must not be negative, got -4"):
        TokenBudget([3, -4], 8)
    for kwargs in ({"max_tokens": 0}, {"max_batch": 0}, {"pool": 0}):
        with pytest.raises(ValueError, match="must be positive"):
            TokenBudget([1], **{"max_tokens": 8, **kwargs})
    with pytest.raises(ValueError, match=r"shape \[N\] or \[N, S\]"):
        TokenBudget([[[1]]], 8)


# ------------------------------------------------------------------------- pairs and series


def test_pairs_for_teacher_forcing():
    tokenizer = Tokenizer.train_from_texts(["abcdef"], kind="char")
    items = encode_pairs([("abc", "de"), ("a", "fedcb"), ("f", "")], tokenizer, tokenizer)
    batch = PairCollate(tokenizer.pad_token_id, tokenizer.pad_token_id)(items)
    assert batch["src_ids"].tolist() == [[4, 5, 6, 3], [4, 3, 0, 0], [9, 3, 0, 0]]
    assert batch["src_lengths"].tolist() == [4, 2, 2]
    assert batch["tgt_ids"][0].tolist() == [2, 7, 8, 0, 0, 0]
    assert batch["labels"][0].tolist() == [7, 8, 3, -100, -100, -100]
    for inputs, labels in zip(batch["tgt_ids"], batch["labels"], strict=True):
        n = int((labels != -100).sum())
        assert inputs[1:n].tolist() == labels[: n - 1].tolist()
    short = encode_pairs([("abc", "de"), ("a", "b")], tokenizer, tokenizer, max_length=3)
    assert len(short) == 1
    cut = encode_pairs([("abc", "de")], tokenizer, tokenizer, max_length=3, drop_long=False)
    assert cut[0]["src_ids"].tolist() == [4, 5, 3]
    assert cut[0]["tgt_ids"].tolist() == [2, 7, 3]
    bare = Tokenizer.train_from_texts(["ab"], kind="char", special_tokens={})
    with pytest.raises(ValueError, match="must have the special tokens"):
        encode_pairs([("a", "b")], bare, bare)


def test_encode_texts_with_pairs_and_labels():
    tokenizer = Tokenizer.train_from_texts(["abc"], kind="char", add_bos=True, add_eos=True)
    items = encode_texts(["ab"] * 300, tokenizer, pairs=["c"] * 300, labels=range(300))
    assert len(items) == 300
    assert items[299]["labels"] == 299
    assert items[0]["input_ids"].tolist() == tokenizer.encode("ab", "c")
    assert items[0]["token_type_ids"].tolist() == [0, 0, 0, 0, 1, 1]
    with pytest.raises(ValueError, match="labels must have one entry"):
        encode_texts(["a"], tokenizer, labels=[])


def test_forecasting_windows():
    series = np.stack([np.arange(20.0), 100 + np.arange(20.0)], axis=1)
    windows = ForecastWindows(series, context=5, horizon=3, stride=2, targets=[1])
    assert len(windows) == 7
    for i in range(len(windows)):
        past, future = windows[i]
        assert past.shape == (5, 2)
        assert past[0, 0] == 2 * i
        assert future[:, 0].tolist() == [100 + 2 * i + 5 + k for k in range(3)]
    assert windows[6][1][-1, 0] == 119
    with pytest.raises(IndexError):
        windows[7]


def test_scaling_knows_the_training_part_only():
    series = np.random.default_rng(0).normal(5, 3, (100, 2))
    train, valid, test = chronological_split(series, 0.7, 0.1, 0.2)
    assert [len(p) for p in (train, valid, test)] == [70, 10, 20]
    np.testing.assert_array_equal(np.concatenate([train, valid, test]), series)
    scaler = Standardizer(train)
    scaled = scaler.transform(train)
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(scaled.std(axis=0), 1, atol=1e-6)
    np.testing.assert_allclose(scaler.inverse(scaler.transform(test)), test, rtol=1e-5)
    np.testing.assert_allclose(
        scaler.inverse(scaled[:, [1]], targets=[1]), train[:, [1]], rtol=1e-5
    )
    assert np.isfinite(Standardizer(np.ones(5)).transform(np.ones(5))).all()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ForecastWindows(np.zeros(4), 3, 2), ValueError, "at least context"),
        (lambda: ForecastWindows(np.zeros(4), 0, 2), ValueError, "context must be positive"),
        (lambda: ForecastWindows(np.zeros((2, 2, 2)), 1, 1), ValueError, "series must have shape"),
        (lambda: ForecastWindows(np.zeros(4), 1, 1, targets=[1]), IndexError, "targets must be"),
        (lambda: Standardizer([1.0, np.nan]), ValueError, "must be finite"),
        (lambda: chronological_split(range(4), 0.5, 0.4), ValueError, "sum to 1"),
    ],
)
def test_bad_series(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_demo_text_is_varied_english():
    text = demo_text()
    assert 60_000 < len(text) < 125_000
    assert set(text) <= set(map(chr, range(32, 127))) | {"\n"}
    words = text.lower().split()
    assert len(set(words)) > 1200
    paragraphs = [p for p in text.split("\n\n") if len(p) > 60]
    assert len(set(paragraphs)) > 0.97 * len(paragraphs)


def test_demo_text_is_what_its_tool_writes():
    tool = Path(__file__).resolve().parent.parent / "tools" / "make_demo_text.py"
    if not tool.is_file():
        pytest.skip("needs the source tree")
    subprocess.run([sys.executable, str(tool), "--check"], check=True)
