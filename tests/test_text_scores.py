# SPDX-License-Identifier: Apache-2.0
"""Word vectors and BLEU."""

from __future__ import annotations

import doctest
import importlib
import random

import numpy as np
import pytest

from seqloom.text import Tokenizer, bleu, load_glove


@pytest.mark.parametrize("name", ["bleu", "glove"])
def test_docstring_examples(name):
    result = doctest.testmod(importlib.import_module(f"seqloom.text.{name}"))
    assert result.attempted
    assert not result.failed


# ---------------------------------------------------------------------------- word vectors


def write_vectors(path, words, dim=4, header=False):
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((len(words), dim)).astype(np.float32)
    lines = [f"{len(words)} {dim}\n"] if header else []
    lines += [
        f"{word} {' '.join(repr(float(x)) for x in row)}\n"
        for word, row in zip(words, matrix, strict=True)
    ]
    path.write_text("".join(lines), encoding="utf-8")
    return matrix


@pytest.mark.parametrize("header", [False, True])
def test_glove_whole_file(tmp_path, header):
    words = ["the", "Où", "1990", ".", "two words", "☃"]
    matrix = write_vectors(tmp_path / "v.txt", words, header=header)
    vectors = load_glove(tmp_path / "v.txt")
    assert list(vectors.vocabulary) == words
    np.testing.assert_array_equal(vectors.matrix, matrix)
    assert vectors.matrix.dtype == np.float32
    assert "two words" in vectors
    assert len(load_glove(tmp_path / "v.txt", limit=2)) == 2


def test_glove_for_a_tokenizer(tmp_path):
    matrix = write_vectors(tmp_path / "v.txt", ["dog", "Dog", "cat", "fox"])
    tokenizer = Tokenizer.train_from_texts(["dog Dog CAT bird"], kind="word", min_frequency=1)
    vectors = load_glove(tmp_path / "v.txt", vocabulary=tokenizer)
    assert vectors.matrix.shape == (len(tokenizer), 4)
    assert vectors.found == 3
    for word, row in {"dog": 0, "Dog": 1, "CAT": 2}.items():
        np.testing.assert_array_equal(vectors[word], matrix[row])
    assert not vectors.matrix[tokenizer.pad_token_id].any()
    assert vectors["bird"].any()
    again = load_glove(tmp_path / "v.txt", vocabulary=tokenizer)
    np.testing.assert_array_equal(again.matrix, vectors.matrix)


def test_glove_fills_an_embedding(tmp_path):
    class Embedding:
        weight = np.zeros((2, 4), np.float32)

        def load_state_dict(self, state):
            self.weight = state["weight"]

    matrix = write_vectors(tmp_path / "v.txt", ["a", "b"])
    embedding = Embedding()
    load_glove(tmp_path / "v.txt", embedding=embedding)
    np.testing.assert_array_equal(embedding.weight, matrix)
    with pytest.raises(ValueError, match=r"must have weight \[1, 4\], got \[2, 4\]"):
        load_glove(tmp_path / "v.txt", vocabulary=["a"], embedding=embedding)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "holds no vectors"),
        (b"the a b c\n", "line 1: must be a word and its numbers"),
        (b"the 1 2\ncat 3\n", "line 2: has fewer than 2 numbers"),
        (b"the 1 2\ncat 3 x\n", "line 2: could not convert"),
        (b"the 1 2\ncat 3 nan\n", "line 2: numbers must be finite"),
        (b"the 1 2\n\xff 3 4\n", "line 2, byte 8: not valid UTF-8"),
    ],
)
def test_bad_vector_files(tmp_path, text, message):
    (tmp_path / "v.txt").write_bytes(text)
    with pytest.raises(ValueError, match=rf"load_glove: .*v\.txt: {message}"):
        load_glove(tmp_path / "v.txt")


# -------------------------------------------------------------------------------------- BLEU


def noisy_corpus(seed):
    rng = random.Random(seed)
    words = [
        *("the", "a", "cat", "dog", "sat", "on", "mat", "it's", "well-known", "3.50"),
        *("$5", "(so)", "1,000", "end.", "&amp;", "U.S.", "x"),
    ]
    hypotheses, references = [], []
    for _ in range(rng.randint(1, 12)):
        reference = [rng.choice(words) for _ in range(rng.randint(1, 14))]
        other = [rng.choice(words) if rng.random() < 0.2 else w for w in reference]
        hypothesis = [rng.choice(words) if rng.random() < 0.3 else w for w in reference]
        hypotheses.append(" ".join(hypothesis[: rng.randint(0, 14)]))
        references.append([" ".join(reference), " ".join(other[: rng.randint(1, 14)])])
    return hypotheses, references


@pytest.mark.parametrize("smoothing", ["exp", "floor", "add-k", "none"])
@pytest.mark.parametrize("tokenize", ["13a", "char", "none"])
def test_bleu_equals_sacrebleu(smoothing, tokenize):
    sacrebleu = pytest.importorskip("sacrebleu")
    for seed in range(12):
        hypotheses, references = noisy_corpus(seed)
        for count in (1, 2):
            streams = [[refs[i] for refs in references] for i in range(count)]
            metric = sacrebleu.BLEU(
                smooth_method=smoothing, tokenize=tokenize, lowercase=seed % 2 == 0, force=True
            )
            want = metric.corpus_score(hypotheses, streams)
            got = bleu(
                hypotheses,
                [refs[:count] for refs in references],
                smoothing=smoothing,
                tokenize=tokenize,
                lowercase=seed % 2 == 0,
            )
            if smoothing != "add-k":  # there it reports counts with k added
                assert got.matches == tuple(want.counts)
                assert got.totals == tuple(want.totals)
            assert got.hypothesis_length == want.sys_len
            assert got.reference_length == want.ref_len
            assert got.brevity_penalty == pytest.approx(want.bp, abs=1e-12)
            assert got.score == pytest.approx(want.score, abs=1e-9)


def test_bleu_by_hand():
    score = bleu(["a b c d e"], ["a b c d f"], smoothing="none", tokenize="none")
    assert score.matches == (4, 3, 2, 1)
    assert score.totals == (5, 4, 3, 2)
    assert float(score) == pytest.approx(100 * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25)
    short = bleu(["a b c d"], ["a b c d e f g h"])
    assert float(short) == pytest.approx(100 * np.exp(1 - 8 / 4))
    assert float(bleu([], [])) == 0
    assert float(bleu([""], ["a"])) == 0


@pytest.mark.parametrize(
    ("args", "kwargs", "error", "message"),
    [
        (("abc", ["abc"]), {}, TypeError, "got one str"),
        ((["a"], []), {}, ValueError, "one entry for each of the 1"),
        ((["a"], [[]]), {}, ValueError, r"references\[0\] must hold"),
        ((["a"], ["a"]), {"smoothing": "x"}, ValueError, "smoothing must be"),
        ((["a"], ["a"]), {"tokenize": "x"}, ValueError, "tokenize must be"),
        ((["a"], ["a"]), {"max_order": 0}, ValueError, "max_order must be"),
    ],
)
def test_bad_bleu_arguments(args, kwargs, error, message):
    with pytest.raises(error, match=f"bleu: .*{message}"):
        bleu(*args, **kwargs)
