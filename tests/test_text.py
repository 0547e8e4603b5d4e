# SPDX-License-Identifier: Apache-2.0
"""Tokenizers and streaming decoding."""

from __future__ import annotations

import doctest
import gzip
import importlib
import json
import random
import sys
import threading

import numpy as np
import pytest

from seqloom.text import IncrementalDecoder, Tokenizer
from seqloom.text.engine import shorten

MODULES = [
    *("engine", "loading", "pieces", "streaming", "subword"),
    *("tokenizer", "training", "vocabulary"),
]
NEEDS_TOKENIZERS = {"subword", "streaming", "tokenizer", "training"}
LINES = [
    "The quick brown fox jumps over the lazy dog.",
    "A journey of a thousand miles begins with a single step!",
    "Don't count your chickens before they hatch, said Anna.",
    "Où est la bibliothèque? Übung macht den Meister; 今日は良い天気です。",
    "Costs: $3.50, 20% off -- hurry... (limited)",
    "emoji 👩\u200d👩\u200d👧 and ☃ and \u0001control\ttabs",
]
CORPUS = LINES * 4
TRICKY = [
    "",
    " ",
    "  two  spaces  ",
    "line\nbreak\r\n\ttab",
    "ﬁ ligature, ½, ①, Å Å",
    "a" * 300,
    "👩\u200d👩\u200d👧☃🏴\U000e0067",
    "<s> </s> <pad> [CLS]",
    "\x00\x7f\ufeff\ufffd",
    "İstanbul ΟΔΟΣ",
]
ALL_KINDS = ["bpe", "wordpiece", "unigram", "char", "word"]
SUBWORD = ["bpe", "wordpiece", "unigram"]


def make(kind: str, **options) -> Tokenizer:
    if kind in SUBWORD:
        pytest.importorskip("tokenizers")
        options.setdefault("vocab_size", 400)
    return Tokenizer.train_from_texts(CORPUS, kind=kind, **options)


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    if name in NEEDS_TOKENIZERS:
        pytest.importorskip("tokenizers")
    result = doctest.testmod(importlib.import_module(f"seqloom.text.{name}"))
    assert not result.failed


# -------------------------------------------------------------------------------- round trips


@pytest.mark.parametrize("text", TRICKY + LINES)
def test_byte_level_bpe_loses_nothing(text):
    tokenizer = make("bpe", special_tokens={})
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("text", LINES)
def test_characters_lose_nothing_that_was_seen(text):
    tokenizer = make("char")
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode(text)) == len(text)


@pytest.mark.parametrize("kind", ["wordpiece", "unigram", "word"])
def test_words_survive(kind):
    tokenizer = make(kind, vocab_size=600)
    for text in LINES[:2]:
        assert (
            tokenizer.decode(tokenizer.encode(text)).replace(" .", ".").replace(" !", "!") == text
        )


@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize("lowercase", [False, True])
def test_saved_and_read_back_is_the_same(tmp_path, kind, lowercase):
    tokenizer = make(kind, lowercase=lowercase, model_max_length=77)
    tokenizer.padding_side = "left"
    tokenizer.save_pretrained(tmp_path)
    again = Tokenizer.from_pretrained(tmp_path)
    assert again.get_vocab() == tokenizer.get_vocab()
    assert again.special_tokens == tokenizer.special_tokens
    assert (again.kind, again.vocab_size) == (tokenizer.kind, tokenizer.vocab_size)
    assert (again.padding_side, again.model_max_length) == ("left", 77)
    for text in TRICKY + LINES:
        ids = tokenizer.encode(text)
        assert again.encode(text) == ids
        assert again.decode(ids) == tokenizer.decode(ids)


def test_a_save_replaces_one_of_another_kind(tmp_path):
    for kind in ["char", "bpe", "word", "char"]:
        make(kind).save_pretrained(tmp_path)
        assert Tokenizer.from_pretrained(tmp_path).kind == kind


def test_training_is_deterministic_and_bounded():
    for kind in ALL_KINDS:
        first, second = make(kind, vocab_size=350), make(kind, vocab_size=350)
        assert first.get_vocab() == second.get_vocab()
        assert first.vocab_size <= 350
        if kind not in SUBWORD:
            assert sorted(first.get_vocab().values()) == list(range(first.vocab_size))


def test_training_from_files(tmp_path):
    plain, packed = tmp_path / "a.txt", tmp_path / "b.txt.gz"
    plain.write_text("\n".join(LINES[:3]) + "\n", encoding="utf-8")
    with gzip.open(packed, "wt", encoding="utf-8") as handle:
        handle.write("\n".join(LINES[3:]) + "\n")
    tokenizer = Tokenizer.train([plain, packed], kind="char")
    assert tokenizer.token_to_id("\n") is not None
    assert all(tokenizer.decode(tokenizer.encode(line)) == line for line in LINES)
    (tmp_path / "latin.txt").write_bytes("caf\u00e9 ".encode("latin-1") * 3)
    with pytest.raises(ValueError, match=r"latin\.txt: line 1, byte 3: not valid UTF-8 \(0xe9\)"):
        Tokenizer.train(tmp_path / "latin.txt", kind="char")
    assert Tokenizer.train(tmp_path / "latin.txt", kind="char", encoding="latin-1").encode("é")


def test_small_word_vocabulary_keeps_the_frequent_words():
    texts = ["a a a b b c c c c d"]
    tokenizer = Tokenizer.train_from_texts(texts, kind="word", vocab_size=6)
    assert list(tokenizer.get_vocab()) == ["<pad>", "<unk>", "<s>", "</s>", "c", "a"]
    assert tokenizer.encode("c d a") == [4, 1, 5]


# ------------------------------------------------------------------------- specials and pairs


def test_bert_template_types_offsets_and_words():
    tokenizer = make("wordpiece", vocab_size=900, lowercase=True)
    first, second = "Chickens hatch!", "The lazy dog"
    batch = tokenizer([first], [second])
    assert list(batch) == ["input_ids", "attention_mask", "token_type_ids"]
    tokens = tokenizer.tokens(batch.input_ids[0])
    assert tokens[0] == "[CLS]"
    assert [i for i, t in enumerate(tokens) if t == "[SEP]"] == [
        tokens.index("[SEP]"),
        len(tokens) - 1,
    ]
    middle = tokens.index("[SEP]")
    assert batch.token_type_ids[0].tolist() == [0] * (middle + 1) + [1] * (len(tokens) - middle - 1)
    for i, token in enumerate(tokens):
        start, end = batch.offsets[0, i]
        special = token in ("[CLS]", "[SEP]")
        assert batch.special_tokens_mask[0, i] == special
        assert (batch.word_ids[0, i] == -1) == special
        if not special:
            text = first if i < middle else second
            assert text[start:end].lower() == token.removeprefix("##")


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_offsets_point_at_the_text(kind):
    tokenizer = make(kind)
    text = "The quick  brown fox, said Anna."
    batch = tokenizer([text])
    covered = set()
    for (start, end), special in zip(batch.offsets[0], batch.special_tokens_mask[0], strict=True):
        assert 0 <= start <= end <= len(text)
        if not special:
            covered.update(range(start, end))
    assert {i for i, c in enumerate(text) if c != " "} <= covered


@pytest.mark.parametrize("kind", ["bpe", "unigram", "char", "word"])
def test_bos_and_eos_on_request(kind):
    tokenizer = make(kind, add_bos=True, add_eos=True)
    plain = tokenizer.encode("the dog", add_special_tokens=False)
    assert tokenizer.encode("the dog") == [
        tokenizer.bos_token_id,
        *plain,
        tokenizer.eos_token_id,
    ]
    pair = tokenizer.encode("the", "dog")
    assert pair.count(tokenizer.eos_token_id) == 2
    assert tokenizer.decode(pair, skip_special_tokens=True).replace(" ", "") == "thedog"


def test_special_tokens_of_ones_own():
    special = {"eos": "<|end|>", "pad": "<|fill|>"}
    tokenizer = make("bpe", special_tokens=special, extra_special_tokens=["<|user|>"])
    assert [tokenizer.token_to_id(t) for t in ("<|end|>", "<|fill|>", "<|user|>")] == [0, 1, 2]
    assert tokenizer.encode("<|user|>hi<|end|>")[0] == 2
    assert tokenizer.decode(tokenizer.encode("<|user|>hi<|end|>")) == "hi"
    assert tokenizer.unk_token_id is None


def test_characters_without_unknown_token():
    tokenizer = Tokenizer.train_from_texts(["abc"], kind="char", special_tokens={})
    assert (tokenizer.vocab_size, tokenizer.encode("cab")) == (3, [2, 0, 1])
    with pytest.raises(ValueError, match="'x' at character 1 is not in the vocabulary"):
        tokenizer.encode("ax")


# ------------------------------------------------------------------- padding and truncation


@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding(kind, side):
    tokenizer = make(kind)
    texts = ["the dog", "the lazy dog jumps over", "fox"]
    batch = tokenizer(texts, padding_side=side, pad_to_multiple_of=8)
    assert batch.input_ids.shape[1] % 8 == 0
    assert batch.input_ids.dtype == np.int64
    for i, text in enumerate(texts):
        ids, n = tokenizer.encode(text), batch.lengths[i]
        row, mask = batch.input_ids[i], batch.attention_mask[i]
        assert n == len(ids) == mask.sum()
        kept = row[:n] if side == "right" else row[len(row) - n :]
        assert kept.tolist() == ids
        assert (row[mask == 0] == tokenizer.pad_token_id).all()
    assert tokenizer(["fox"], padding="max_length", max_length=30).input_ids.shape == (1, 30)
    assert tokenizer([]).input_ids.shape == (0, 0)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_truncation_keeps_the_template(kind):
    tokenizer = make(kind) if kind == "wordpiece" else make(kind, add_bos=True, add_eos=True)
    whole = tokenizer.encode(LINES[0])
    plain = tokenizer.encode(LINES[0], add_special_tokens=False)
    for size in range(3, len(whole) + 3):
        cut = tokenizer.encode(LINES[0], max_length=size)
        assert len(cut) == min(size, len(whole))
        assert (cut[0], cut[-1]) == (whole[0], whole[-1])
        assert cut[1:-1] == plain[: len(cut) - 2]
    assert tokenizer.encode(LINES[0]) == whole
    tokenizer.truncation_side = "left"
    assert tokenizer.encode(LINES[0], max_length=6)[1:-1] == plain[-4:]


@pytest.mark.parametrize("kind", ["wordpiece", "char"])
def test_of_a_pair_the_longer_text_is_cut(kind):
    tokenizer = make(kind) if kind == "wordpiece" else make(kind, add_bos=True, add_eos=True)
    long, short = LINES[0], "fox"
    short_ids = tokenizer.encode(short, add_special_tokens=False)
    ids = tokenizer.encode(long, short, max_length=len(short_ids) + 8)
    assert len(ids) == len(short_ids) + 8
    assert ids[-1 - len(short_ids) : -1] == short_ids


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_the_quick_way_gives_the_same_ids(kind):
    tokenizer = make(kind) if kind == "wordpiece" else make(kind, add_bos=True, add_eos=True)
    texts = [*TRICKY, *LINES]
    for special in (True, False):
        want = tokenizer._encode(texts, None, special, None)
        got = tokenizer.encode_batch(texts, add_special_tokens=special)
        assert got == [row.ids for row in want]


def test_shorten_against_one_by_one():
    for first in range(8):
        for second in range(8):
            for room in range(1, 16):
                a, b = first, second
                while a + b > room:
                    if a > b:
                        a -= 1
                    else:
                        b -= 1
                got = shorten(first, second, room)
                assert sum(got) == a + b
                assert abs(got[0] - a) <= 1
                assert got[0] <= first
                assert got[1] <= second


# ------------------------------------------------------------------------------- streaming


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_streamed_text_is_the_decoded_text(kind):
    options = {} if kind == "wordpiece" else {"add_bos": True, "add_eos": True}
    tokenizer = make(kind, **options)
    for text in [*TRICKY, *LINES, " ".join(LINES)]:
        ids = tokenizer.encode(text)
        for size in (1, 3):
            decoder = IncrementalDecoder(tokenizer)
            pieces = [decoder.push(ids[i : i + size]) for i in range(0, len(ids), size)]
            assert "".join(pieces) + decoder.finish() == tokenizer.decode(ids)


def test_streaming_never_splits_a_character():
    tokenizer = make("bpe", vocab_size=260)
    text = "a👩\u200d👧☃é" * 20
    pieces = list(IncrementalDecoder(tokenizer).stream(tokenizer.encode(text)))
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)
    assert len(pieces) == len(text)


def test_streaming_survives_random_ids():
    """A model under training writes broken bytes; streaming agrees with decoding."""
    tokenizer = make("bpe", special_tokens={"eos": "</s>"})
    rng = random.Random(1)
    for _ in range(30):
        ids = [rng.randrange(tokenizer.vocab_size) for _ in range(80)]
        decoder = IncrementalDecoder(tokenizer)
        text = "".join(decoder.push(i) for i in ids) + decoder.finish()
        assert text == tokenizer.decode(ids)


def test_unfinished_characters_come_at_the_end():
    tokenizer = make("bpe", special_tokens={}, vocab_size=256)
    ids = tokenizer.encode("☃")
    assert len(ids) == 3
    decoder = IncrementalDecoder(tokenizer)
    assert [decoder.push(i) for i in ids[:2]] == ["", ""]
    assert decoder.finish() == "\ufffd"
    assert decoder.push(tokenizer.encode("ok")) == "ok"


# ------------------------------------------------------------------------- foreign formats


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers")


def write_gpt2(folder, special):
    tokenizer = make("bpe", special_tokens=special)
    tokenizer._engine.tokenizer.model.save(str(folder))


def test_gpt2_files(tmp_path, transformers):
    write_gpt2(tmp_path, {"eos": "<|endoftext|>"})
    ours = Tokenizer.from_pretrained(tmp_path)
    theirs = transformers.GPT2Tokenizer.from_pretrained(tmp_path)
    assert ours.eos_token_id == theirs.eos_token_id
    for text in [*TRICKY, *LINES, "one<|endoftext|>two"]:
        assert ours.encode(text) == theirs.encode(text), text
        assert ours.decode(ours.encode(text)) == text.replace("<|endoftext|>", "")
    ours.save_pretrained(tmp_path / "again")
    assert Tokenizer.from_pretrained(tmp_path / "again").encode(LINES[0]) == ours.encode(LINES[0])


def test_bart_files(tmp_path, transformers):
    special = {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>", "mask": "<mask>"}
    write_gpt2(tmp_path, special)
    ours = Tokenizer.from_pretrained(tmp_path)
    theirs = transformers.BartTokenizer.from_pretrained(tmp_path)
    for text in LINES:
        assert ours.encode(text) == theirs.encode(text)
        assert ours.encode(text, "the fox") == theirs.encode(text, "the fox")


@pytest.mark.parametrize("lowercase", [True, False])
def test_bert_files(tmp_path, transformers, lowercase):
    trained = make("wordpiece", lowercase=lowercase)
    table = sorted(trained.get_vocab().items(), key=lambda item: item[1])
    (tmp_path / "vocab.txt").write_text("".join(f"{t}\n" for t, _ in table), encoding="utf-8")
    settings = {"do_lower_case": lowercase, "tokenizer_class": "BertTokenizer"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    ours = Tokenizer.from_pretrained(tmp_path)
    theirs = transformers.BertTokenizer.from_pretrained(tmp_path)
    for text in [*TRICKY[:6], *LINES]:
        assert ours.encode(text) == theirs.encode(text), text
        assert ours.encode(text, "the fox") == theirs.encode(text, "the fox")
    want = theirs(LINES[:3], ["a fox", "dogs", "x"], padding=True, max_length=20, truncation=True)
    got = ours(LINES[:3], ["a fox", "dogs", "x"], max_length=20)
    for key in got:
        assert got[key].tolist() == want[key]
    assert (ours.mask_token_id, ours.pad_token_id) == (theirs.mask_token_id, theirs.pad_token_id)


@pytest.mark.parametrize("kind", SUBWORD)
def test_transformers_reads_what_we_save(tmp_path, transformers, kind):
    ours = make(kind)
    ours.save_pretrained(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in LINES:
        assert theirs.encode(text) == ours.encode(text)
    assert theirs.pad_token_id == ours.pad_token_id
    assert theirs.eos_token_id == ours.eos_token_id


@pytest.fixture(scope="module")
def piece_model(tmp_path_factory):
    sentencepiece = pytest.importorskip("sentencepiece")
    prefix = tmp_path_factory.mktemp("spm") / "m"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_prefix=str(prefix),
        vocab_size=100,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return prefix.with_suffix(".model")


def test_t5_files(tmp_path, transformers, piece_model):
    (tmp_path / "spiece.model").write_bytes(piece_model.read_bytes())
    ours = Tokenizer.from_pretrained(tmp_path)
    theirs = transformers.T5Tokenizer.from_pretrained(tmp_path, legacy=True)
    assert ours.vocab_size == len(theirs) == 200
    assert (ours.pad_token_id, ours.eos_token_id) == (0, 1)
    for text in LINES:
        assert ours.encode(text) == theirs.encode(text)
        assert ours.decode(ours.encode(text)) == theirs.decode(
            theirs.encode(text), skip_special_tokens=True
        )
    ids = ours.encode("the <extra_id_0> dog <extra_id_1>")
    assert [i for i in ids if i >= 100] == [199, 198]
    ours.save_pretrained(tmp_path / "again")
    again = Tokenizer.from_pretrained(tmp_path / "again")
    assert again.encode(LINES[0], LINES[1]) == ours.encode(LINES[0], LINES[1])
    batch = ours(["The quick  brown fox"])
    for (start, end), token in zip(batch.offsets[0], ours.tokens(batch.input_ids[0]), strict=True):
        piece = token.replace("\u2581", " ").strip()
        if piece and token != "</s>":
            assert "The quick  brown fox"[start:end].strip() == piece


@pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")
def test_marian_files(tmp_path, transformers, piece_model):
    for name in ("source.spm", "target.spm"):
        (tmp_path / name).write_bytes(piece_model.read_bytes())
    import sentencepiece

    pieces = sentencepiece.SentencePieceProcessor(model_file=str(piece_model))
    names = [pieces.id_to_piece(i) for i in range(pieces.get_piece_size())]
    order = ["</s>", "<unk>", *(n for n in reversed(names) if not n.startswith("<")), "<pad>"]
    table = {name: i for i, name in enumerate(dict.fromkeys(order))}
    (tmp_path / "vocab.json").write_text(json.dumps(table), encoding="utf-8")
    ours = Tokenizer.from_pretrained(tmp_path)
    settings = {"source_lang": "en", "target_lang": "fr", "tokenizer_class": "MarianTokenizer"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    theirs = transformers.MarianTokenizer.from_pretrained(tmp_path)
    for text in LINES[:3]:
        assert ours.encode(text) == theirs.encode(text)
        assert ours.decode(ours.encode(text)) == theirs.decode(
            theirs.encode(text), skip_special_tokens=True
        )
    ours.save_pretrained(tmp_path / "again")
    assert Tokenizer.from_pretrained(tmp_path / "again").encode("fox") == ours.encode("fox")


# ------------------------------------------------------------------------------ bad inputs

BROKEN = {
    "no files": ({}, FileNotFoundError, "holds no tokenizer"),
    "empty tokenizer.json": ({"tokenizer.json": b""}, ValueError, r"tokenizer\.json"),
    "foreign tokenizer.json": ({"tokenizer.json": b'{"a": 1}'}, ValueError, r"tokenizer\.json"),
    "cut tokenizer.json": ({"tokenizer.json": b'{"version": "1.0", '}, ValueError, "not a usable"),
    "own file is a list": ({"seqloom_tokenizer.json": b"[]"}, ValueError, "not a seqloom"),
    "own file of the future": (
        {"seqloom_tokenizer.json": b'{"format": "seqloom-tokenizer", "version": 2}'},
        ValueError,
        "version 2",
    ),
    "own file damaged": (
        {"seqloom_tokenizer.json": b'{"format": "seqloom-tokenizer", "version": 1}'},
        ValueError,
        "is damaged",
    ),
    "own file with a token twice": (
        {
            "seqloom_tokenizer.json": json.dumps(
                {"format": "seqloom-tokenizer", "version": 1, "kind": "char", "lowercase": False,
                 "add_bos": False, "add_eos": False, "special": {}, "tokens": ["a", "a"]}
            ).encode()
        },
        ValueError,
        "twice",
    ),
    "vocab.json a list": (
        {"vocab.json": b"[]", "merges.txt": b""}, ValueError, r"vocab\.json must hold"
    ),
    "vocab.json with text ids": (
        {"vocab.json": b'{"a": "b"}', "merges.txt": b""}, ValueError, "map tokens to ids"
    ),
    "merges of unknown tokens": (
        {"vocab.json": b'{"a": 0}', "merges.txt": b"x y\n"}, ValueError, "not a usable"
    ),
    "vocab.txt without [CLS]": ({"vocab.txt": b"[UNK]\na\n"}, ValueError, "lacks the token"),
    "vocab.txt not UTF-8": ({"vocab.txt": b"[UNK]\n\xff\n"}, ValueError, "byte 6: not valid UTF-8"),
    "config not JSON": ({"tokenizer_config.json": b"{"}, ValueError, r"tokenizer_config\.json"),
    "broken spiece.model": ({"spiece.model": b"\x00\x01junk"}, ValueError, "not a usable Sentence"),
    "empty spiece.model": ({"spiece.model": b""}, ValueError, "not a usable Sentence"),
}  # fmt: skip


@pytest.mark.parametrize("case", sorted(BROKEN))
def test_broken_directories_are_refused(tmp_path, case, capfd):
    pytest.importorskip("tokenizers")
    pytest.importorskip("sentencepiece")
    contents, error, message = BROKEN[case]
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(error, match=f"(from_pretrained|Tokenizer): .*{message}"):
        Tokenizer.from_pretrained(tmp_path)


def test_a_hub_name_is_no_directory():
    with pytest.raises(FileNotFoundError, match="gpt2 is not a directory; nothing is downloaded"):
        Tokenizer.from_pretrained("gpt2")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda t: t.encode(b"x"), TypeError, "text must be str, got bytes"),
        (lambda t: t.encode(None), TypeError, "text must be str, got NoneType"),
        (lambda t: t.encode("a", max_length=0), ValueError, "max_length must be positive"),
        (lambda t: t.encode("a", max_length=2), ValueError, "must leave room beside 2 special"),
        (lambda t: t.encode_batch("abc"), TypeError, "sequence of str, got one str"),
        (lambda t: t(["a"], ["b", "c"]), ValueError, "pairs must have one text for each"),
        (lambda t: t(["a"], padding_side="up"), ValueError, "padding_side must be"),
        (lambda t: t(["a"], padding="no"), ValueError, "padding must be"),
        (lambda t: t(["a"], padding="max_length"), ValueError, "needs max_length"),
        (lambda t: t(["a"], pad_to_multiple_of=0), ValueError, "must be positive"),
        (lambda t: t.decode([10**6]), IndexError, "ids must be in"),
        (lambda t: t.decode([-1]), IndexError, "ids must be in"),
        (lambda t: t.decode([1.5]), TypeError, "integers of one dimension"),
        (lambda t: t.decode([[1]]), TypeError, "integers of one dimension"),
    ],
)
@pytest.mark.parametrize("kind", ["wordpiece", "char"])
def test_bad_arguments(kind, call, error, message):
    tokenizer = make(kind) if kind == "wordpiece" else make(kind, add_bos=True, add_eos=True)
    with pytest.raises(error, match=message):
        call(tokenizer)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"kind": "syllable"}, ValueError, "kind must be"),
        ({"vocab_size": 0}, ValueError, "vocab_size must be positive"),
        ({"vocab_size": 100}, ValueError, "at least 260"),
        ({"kind": "char", "vocab_size": 4}, ValueError, "must exceed the 4 special"),
        ({"special_tokens": {"end": "x"}}, ValueError, "must have roles of"),
        ({"kind": "word", "special_tokens": {}, "add_eos": True}, ValueError, "needs a special"),
        ({"special_tokens": {}, "add_bos": True}, ValueError, "needs a special"),
        ({"kind": "wordpiece", "special_tokens": {}}, ValueError, "needs a special token 'unk'"),
        ({"kind": "unigram", "special_tokens": {}}, ValueError, "needs a special token 'unk'"),
    ],
)
def test_bad_training_arguments(options, error, message):
    pytest.importorskip("tokenizers")
    with pytest.raises(error, match=message):
        Tokenizer.train_from_texts(CORPUS, **options)
    with pytest.raises(TypeError, match="got one str"):
        Tokenizer.train_from_texts("text")


def test_without_the_extra_there_is_a_hint(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(ImportError, match=r"pip install 'seqloom\[text\]'"):
        Tokenizer.train_from_texts(CORPUS, kind="bpe")
    (tmp_path / "spiece.model").write_bytes(b"x")
    with pytest.raises(ImportError, match=r"spiece\.model needs .* pip install 'seqloom\[text\]'"):
        Tokenizer.from_pretrained(tmp_path)
    assert Tokenizer.train_from_texts(CORPUS, kind="char").encode("T")


def test_threads_share_a_tokenizer():
    """Truncation is a setting inside the shared object; it must not leak between threads."""
    tokenizer = make("bpe")
    want = {size: tokenizer.encode(LINES[0], max_length=size) for size in (3, 7, 40)}
    wrong = []

    def work(size):
        for _ in range(200):
            if tokenizer.encode(LINES[0], max_length=size) != want[size]:
                wrong.append(size)

    threads = [threading.Thread(target=work, args=(size,)) for size in want]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
