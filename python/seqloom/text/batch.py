# SPDX-License-Identifier: Apache-2.0
"""What calling a tokenizer gives: padded arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from seqloom.text.engine import Encoded

Ids = npt.NDArray[np.int64]


class Batch(Mapping[str, Ids]):
    """Encoded texts as padded arrays; `model(**batch)` passes what models take.

    Attributes
    ----------
    input_ids, attention_mask, token_type_ids, special_tokens_mask, word_ids
        int64 `[B, T]`; the mask is 1 on tokens and 0 on padding, `word_ids` is -1 on tokens
        that belong to no word.
    lengths
        int64 `[B]`, tokens per row.
    offsets
        int64 `[B, T, 2]`: the characters `text[start:end]` that a token stands for.

    As a mapping it holds `input_ids`, `attention_mask` and, for tokenizers of the BERT kind,
    `token_type_ids`.
    """

    def __init__(
        self,
        rows: Sequence[Encoded],
        *,
        pad_id: int,
        width: int,
        side: str,
        with_types: bool,
    ) -> None:
        shape = (len(rows), width)
        self.input_ids: Ids = np.full(shape, pad_id, np.int64)
        self.attention_mask: Ids = np.zeros(shape, np.int64)
        self.token_type_ids: Ids = np.zeros(shape, np.int64)
        self.special_tokens_mask: Ids = np.ones(shape, np.int64)
        self.word_ids: Ids = np.full(shape, -1, np.int64)
        self.offsets: Ids = np.zeros((*shape, 2), np.int64)
        self.lengths: Ids = np.array([len(row.ids) for row in rows], np.int64)
        for number, row in enumerate(rows):
            size = len(row.ids)
            if size == 0:
                continue
            at = slice(0, size) if side == "right" else slice(width - size, width)
            self.input_ids[number, at] = row.ids
            self.attention_mask[number, at] = 1
            self.token_type_ids[number, at] = row.type_ids
            self.special_tokens_mask[number, at] = row.special
            self.word_ids[number, at] = row.words
            self.offsets[number, at] = row.offsets
        self._keys = ["input_ids", "attention_mask"] + ["token_type_ids"] * with_types

    def __getitem__(self, key: str) -> Ids:
        if key not in self._keys:
            raise KeyError(key)
        value: Ids = getattr(self, key)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def __repr__(self) -> str:
        return f"Batch({', '.join(self._keys)}: {list(self.input_ids.shape)})"
