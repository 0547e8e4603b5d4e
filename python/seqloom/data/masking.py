# SPDX-License-Identifier: Apache-2.0
"""Masked-language-model targets (Devlin et al., 2018): 80% masked, 10% random, 10% as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from seqloom.data.padding import mask_from_lengths, pad

if TYPE_CHECKING:
    from seqloom.text import Tokenizer

Ids = npt.NDArray[np.int64]
IGNORED = -100


def mask_tokens(
    ids: Any,
    *,
    mask_token_id: int,
    vocab_size: int,
    rng: np.random.Generator,
    probability: float = 0.15,
    mask_share: float = 0.8,
    random_share: float = 0.1,
    candidates: Any = None,
    word_ids: Any = None,
    random_ids: Any = None,
) -> tuple[Ids, Ids]:
    """Hide tokens for masked-language-model training.

    Parameters
    ----------
    ids
        int `[B, T]`.
    mask_token_id
        What hides a token.
    vocab_size
        Random replacements come from `[0, vocab_size)`, or from `random_ids`.
    rng
        A NumPy generator; equal generators give equal masks.
    probability
        Share of the candidates that are selected. A row with candidates always gets one.
    mask_share, random_share
        Shares of the selected tokens that are masked and replaced; the rest stays as it is.
    candidates
        bool `[B, T]`: which tokens may be selected (no padding, no special tokens); all when
        absent.
    word_ids
        int `[B, T]`, -1 for no word: select whole words rather than tokens.
    random_ids
        Ids that replacements are drawn from.

    Returns
    -------
    (inputs, labels)
        int64 `[B, T]`; labels are -100 where nothing was selected.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> inputs, labels = mask_tokens([[5, 6, 7, 8]], mask_token_id=1, vocab_size=9, rng=rng,
    ...                              probability=0.5, mask_share=1.0, random_share=0.0)
    >>> bool(((labels == -100) | (inputs == 1)).all())
    True
    """
    original = np.asarray(ids, np.int64)
    if original.ndim != 2:
        raise ValueError(f"mask_tokens: ids must have shape [B, T], got {list(original.shape)}")
    shares = {"probability": probability, "mask_share": mask_share, "random_share": random_share}
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ValueError(f"mask_tokens: {name} must be in [0, 1], got {share}")
    if mask_share + random_share > 1 + 1e-9:
        raise ValueError(
            "mask_tokens: mask_share + random_share must be at most 1, "
            f"got {mask_share + random_share}"
        )
    allowed = np.ones(original.shape, bool) if candidates is None else np.asarray(candidates, bool)
    words = None if word_ids is None else np.asarray(word_ids, np.int64)
    for name, array in (("candidates", allowed), ("word_ids", words)):
        if array is not None and array.shape != original.shape:
            raise ValueError(
                f"mask_tokens: {name} must have shape [B, T] = {list(original.shape)}, "
                f"got {list(array.shape)}"
            )
    draws = rng.random(original.shape)
    if words is not None:
        allowed = allowed & (words >= 0)
        # One draw a word: every token of it takes the draw of the word's number.
        wide = int(words.max(initial=0)) + 1
        per_word = rng.random((len(original), wide))
        draws = np.take_along_axis(per_word, np.maximum(words, 0), axis=1)
    draws = np.where(allowed, draws, 2.0)
    selected = draws < probability
    if probability > 0 and original.shape[1]:
        # A row without any target would teach nothing, and give NaN in a mean over targets.
        bare = np.logical_and(allowed.any(axis=1), ~selected.any(axis=1)).reshape(-1, 1)
        selected |= bare & (draws == draws.min(axis=1, keepdims=True))
    labels = np.where(selected, original, IGNORED)
    kind = rng.random(original.shape)
    if random_ids is None:
        replacements = rng.integers(0, vocab_size, original.shape)
    else:
        pool = np.asarray(random_ids, np.int64)
        replacements = pool[rng.integers(0, len(pool), original.shape)]
    inputs = np.where(selected & (kind < mask_share), mask_token_id, original)
    swap = selected & (kind >= mask_share) & (kind < mask_share + random_share)
    return np.where(swap, replacements, inputs), labels


class MaskCollate:
    """Batch encoded texts for masked-language-model training.

    Items are sequences of ids, or dictionaries with `input_ids` and, where known,
    `special_tokens_mask` and `word_ids` (as `encode_texts` gives them). The loader passes the
    random generator, so that a resumed run masks the same tokens.

    Parameters
    ----------
    tokenizer
        With a mask token; its special tokens are neither selected nor drawn as replacements.
    probability
        Share of selected tokens.
    whole_words
        Select whole words.
    multiple_of
        Round the width up.

    Examples
    --------
    >>> from seqloom.text import Tokenizer
    >>> roles = {"pad": "[PAD]", "mask": "[MASK]"}
    >>> tokenizer = Tokenizer.train_from_texts(["abcdef"], kind="char", special_tokens=roles)
    >>> collate = MaskCollate(tokenizer)
    >>> batch = collate([tokenizer.encode("abc"), tokenizer.encode("fe")],
    ...                 rng=np.random.default_rng(0))
    >>> sorted(batch), batch["input_ids"].shape
    (['attention_mask', 'input_ids', 'labels'], (2, 3))
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        probability: float = 0.15,
        whole_words: bool = False,
        multiple_of: int = 1,
    ) -> None:
        mask = tokenizer.mask_token_id
        if mask is None:
            raise ValueError("MaskCollate: tokenizer must have a mask token")
        self.mask_token_id = mask
        self.pad_token_id = tokenizer.pad_token_id or 0
        self.special = np.array(tokenizer.special_ids, np.int64)
        self.vocab_size = len(tokenizer)
        self.plain = np.setdiff1d(np.arange(self.vocab_size), self.special)
        self.probability, self.whole_words = probability, whole_words
        self.multiple_of = multiple_of

    def __call__(self, items: Sequence[Any], *, rng: np.random.Generator) -> dict[str, Ids]:
        """Make one batch: `input_ids`, `attention_mask`, `labels`, int64 `[B, T]`."""
        records = [i if isinstance(i, Mapping) else {"input_ids": i} for i in items]
        ids, lengths = pad(
            [r["input_ids"] for r in records],
            self.pad_token_id,
            multiple_of=self.multiple_of,
            dtype=np.int64,
        )
        mask = mask_from_lengths(lengths, ids.shape[1])
        allowed = (mask == 1) & ~np.isin(ids, self.special)
        words = None
        if self.whole_words:
            if "word_ids" not in records[0]:
                raise ValueError("MaskCollate: whole_words needs items with word_ids")
            words = pad([r["word_ids"] for r in records], -1, length=ids.shape[1], dtype=np.int64)[
                0
            ]
        if "special_tokens_mask" in records[0]:
            flags = [r["special_tokens_mask"] for r in records]
            allowed &= pad(flags, 1, length=ids.shape[1], dtype=np.int64)[0] == 0
        inputs, labels = mask_tokens(
            ids,
            mask_token_id=self.mask_token_id,
            vocab_size=self.vocab_size,
            rng=rng,
            probability=self.probability,
            candidates=allowed,
            word_ids=words,
            random_ids=self.plain,
        )
        return {"input_ids": inputs, "attention_mask": mask, "labels": labels}
