# SPDX-License-Identifier: Apache-2.0
"""Masked tokens: which are selected, what becomes of them, and what a batch holds."""

from __future__ import annotations

import numpy as np
import pytest

from seqloom.data import MaskCollate, encode_texts, mask_tokens
from seqloom.text import Tokenizer


def test_masking_shares():
    """15% selected; of these 80% masked, 10% random, 10% as they are: within 4 sigma."""
    rng = np.random.default_rng(0)
    ids = rng.integers(10, 1000, (400, 250))
    inputs, labels = mask_tokens(ids, mask_token_id=3, vocab_size=1000, rng=rng)
    n = ids.size
    selected = labels != -100
    np.testing.assert_array_equal(labels[selected], ids[selected])
    np.testing.assert_array_equal(inputs[~selected], ids[~selected])
    count = int(selected.sum())

    def close(share, want, of):
        assert abs(share - want) < 4 * np.sqrt(want * (1 - want) / of)

    close(count / n, 0.15, n)
    close((inputs[selected] == 3).mean(), 0.8, count)
    same = (inputs == ids)[selected].mean()
    close(same, 0.1 + 0.1 / 1000, count)
    changed = selected & (inputs != ids) & (inputs != 3)
    close(changed.sum() / count, 0.1, count)
    assert inputs[changed].max() > 900
    assert inputs[changed].min() < 100


def test_masking_is_reproducible_and_respects_candidates():
    ids = np.arange(200).reshape(10, 20)
    allowed = np.zeros((10, 20), bool)
    allowed[:9, 5:9] = True
    runs = [
        mask_tokens(
            ids,
            mask_token_id=999,
            vocab_size=50,
            rng=np.random.default_rng(4),
            probability=0.3,
            candidates=allowed,
        )
        for _ in range(2)
    ]
    np.testing.assert_array_equal(runs[0], runs[1])
    selected = runs[0][1] != -100
    assert not selected[~allowed].any()
    assert selected[:9].any(axis=1).all()  # every row with candidates has a target
    assert not selected[9].any()


def test_whole_words_are_selected_as_wholes():
    rng = np.random.default_rng(0)
    ids = rng.integers(5, 100, (300, 30))
    words = np.cumsum(rng.random(ids.shape) < 0.5, axis=1)
    words[:, 0] = words[:, -1] = -1
    inputs, labels = mask_tokens(ids, mask_token_id=1, vocab_size=100, rng=rng, word_ids=words)
    selected = labels != -100
    assert not selected[words < 0].any()
    for row in range(len(ids)):
        for word in range(words[row].max() + 1):
            assert len(set(selected[row][words[row] == word].tolist())) <= 1
    starts = np.diff(words, axis=1, prepend=-1).astype(bool) & (words >= 0)
    chosen, count = selected[starts].sum(), starts.sum()
    assert abs(chosen / count - 0.15) < 4 * np.sqrt(0.15 * 0.85 / count)
    # What becomes of them is drawn token by token: 80% masked, 10% random, 10% as they are.
    found = [(inputs == 1), (inputs == ids), (inputs != 1) & (inputs != ids)]
    total = selected.sum()
    for kind, share in zip(found, (0.8, 0.1, 0.1), strict=True):
        got = (kind & selected).sum() / total
        assert abs(got - share) < 4 * np.sqrt(share * (1 - share) / total) + 0.002


def test_mask_collate():
    special = {"pad": "[PAD]", "unk": "[UNK]", "eos": "[END]", "mask": "[MASK]"}
    tokenizer = Tokenizer.train_from_texts(
        ["the lazy dog"], kind="char", special_tokens=special, add_eos=True
    )
    items = encode_texts(["the lazy dog", "hazy", ""] * 30, tokenizer)
    collate = MaskCollate(tokenizer, probability=0.5, whole_words=True, multiple_of=8)
    batch = collate(items, rng=np.random.default_rng(0))
    assert batch["input_ids"].shape == (90, 16)
    selected = batch["labels"] != -100
    assert not selected[batch["attention_mask"] == 0].any()
    assert not np.isin(batch["labels"], [0, 2]).any()
    changed = selected & (batch["input_ids"] != tokenizer.mask_token_id)
    assert not np.isin(batch["input_ids"][changed], tokenizer.special_ids).any()
    words = np.stack([np.pad(i["word_ids"], (0, 16 - len(i["word_ids"]))) for i in items])
    assert (selected[0][words[0] == 0].all()) or not selected[0][words[0] == 0].any()
    with pytest.raises(ValueError, match="needs items with word_ids"):
        collate([[5, 6]], rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match="must have a mask token"):
        MaskCollate(Tokenizer.train_from_texts(["a"], kind="char"))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"ids": [1, 2]}, r"ids must have shape \[B, T\]"),
        ({"probability": 1.5}, "probability must be in"),
        ({"mask_share": 0.9, "random_share": 0.2}, "must be at most 1"),
        ({"candidates": [[True]]}, "candidates must have shape"),
        ({"word_ids": [[1]]}, "word_ids must have shape"),
    ],
)
def test_bad_masking_arguments(kwargs, message):
    options = {"ids": [[1, 2, 3]], "mask_token_id": 0, "vocab_size": 9, **kwargs}
    with pytest.raises(ValueError, match=f"mask_tokens: .*{message}"):
        mask_tokens(rng=np.random.default_rng(0), **options)
