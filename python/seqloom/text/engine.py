# SPDX-License-Identifier: Apache-2.0
"""What every tokenizer's inside looks like, and the part that those of our own share."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

#: Special tokens by what they are for; the names follow `transformers`.
ROLES = ("pad", "unk", "bos", "eos", "cls", "sep", "mask")


@dataclass
class Encoded:
    """One encoded text (or pair), token by token; all lists have the same length."""

    ids: list[int] = field(default_factory=list)
    type_ids: list[int] = field(default_factory=list)
    offsets: list[tuple[int, int]] = field(default_factory=list)
    special: list[int] = field(default_factory=list)
    words: list[int] = field(default_factory=list)  # -1: belongs to no word

    def append(
        self, token: int, type_id: int, span: tuple[int, int], special: int, word: int
    ) -> None:
        """Add one token.

        Examples
        --------
        >>> encoded = Encoded()
        >>> encoded.append(7, 0, (0, 2), 0, 0)
        >>> encoded.ids, encoded.offsets
        ([7], [(0, 2)])
        """
        self.ids.append(token)
        self.type_ids.append(type_id)
        self.offsets.append(span)
        self.special.append(special)
        self.words.append(word)


class Engine(Protocol):
    """Text to ids and back, without padding and batches."""

    kind: str

    def encode(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None,
        *,
        special: bool,
        max_length: int | None,
        truncation_side: str,
    ) -> list[Encoded]:
        """Encode texts, or pairs of texts."""

    def encode_ids(self, texts: Sequence[str], *, special: bool) -> list[list[int]]:
        """Ids alone, whole texts: the quick way."""

    def decode(self, ids: Sequence[int], *, skip_special: bool) -> str:
        """Turn ids back into text."""

    def vocabulary(self) -> dict[str, int]:
        """Token -> id."""

    def size(self) -> int:
        """One more than the largest id."""

    def save(self, directory: Path) -> None:
        """Write the files that `load` of the same engine reads."""


@dataclass(frozen=True)
class Piece:
    """One token of a segmented text: id, characters it covers, number of its word."""

    token: int
    start: int
    end: int
    word: int


def shorten(first: int, second: int, room: int) -> tuple[int, int]:
    """Lengths of two sequences cut to `room` in total, the longer one first.

    Examples
    --------
    >>> shorten(10, 4, 10), shorten(9, 9, 9), shorten(2, 9, 20)
    ((6, 4), (5, 4), (2, 9))
    """
    excess = first + second - room
    if excess <= 0:
        return first, second
    gap = abs(first - second)
    cut = min(excess, gap)
    if first >= second:
        first -= cut
    else:
        second -= cut
    excess -= cut
    return first - excess // 2, second - (excess - excess // 2)


class SegmentingEngine:
    """The base of engines that cut text by themselves: special tokens, truncation, decoding.

    `tokens` lists the vocabulary by id; `special` maps roles to tokens. A text becomes
    `prefix + tokens + suffix`, a pair `prefix + first + middle + second + suffix`.
    """

    kind = "segmenting"

    def __init__(
        self,
        tokens: Sequence[str],
        special: Mapping[str, str],
        *,
        prefix: Sequence[str] = (),
        middle: Sequence[str] = (),
        suffix: Sequence[str] = (),
        added: Sequence[str] = (),
    ) -> None:
        self.tokens = list(tokens)
        self.special = dict(special)
        self.ids = {token: number for number, token in enumerate(self.tokens)}
        if len(self.ids) != len(self.tokens):
            raise ValueError("Tokenizer: a token occurs twice in the vocabulary")
        for token in (*self.special.values(), *prefix, *middle, *suffix, *added):
            if token not in self.ids:
                raise ValueError(f"Tokenizer: the special token {token!r} is not in the vocabulary")
        self.prefix, self.middle, self.suffix = list(prefix), list(middle), list(suffix)
        self.special_ids = {self.ids[t] for t in (*self.special.values(), *added)}
        # Tokens that are recognised as such inside a text.
        self._added = (
            re.compile("(" + "|".join(re.escape(t) for t in sorted(added, key=len)[::-1]) + ")")
            if added
            else None
        )

    def segment(self, text: str) -> list[Piece]:
        """Cut plain text into known tokens."""
        raise NotImplementedError

    def join(self, tokens: Sequence[str]) -> str:
        """Glue tokens together."""
        raise NotImplementedError

    def _pieces(self, text: str) -> list[Piece]:
        if self._added is None:
            return self.segment(text)
        pieces: list[Piece] = []
        position = 0
        for part in self._added.split(text):
            if self._added.fullmatch(part):
                token = self.ids[part]
                pieces.append(Piece(token, position, position + len(part), -1))
            elif part:
                shift = max((p.word for p in pieces), default=-1) + 1
                pieces += [
                    Piece(p.token, p.start + position, p.end + position, p.word + shift)
                    for p in self.segment(part)
                ]
            position += len(part)
        return pieces

    def encode(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None,
        *,
        special: bool,
        max_length: int | None,
        truncation_side: str,
    ) -> list[Encoded]:
        """Encode texts, or pairs of texts."""
        around = len(self.prefix) + len(self.suffix) + (len(self.middle) if pairs else 0)
        room = None if max_length is None else max_length - (around if special else 0)
        if room is not None and room < 1:
            raise ValueError(
                f"Tokenizer: max_length must leave room beside {around} special tokens, "
                f"got {max_length}"
            )
        left = truncation_side == "left"
        result = []
        for number, text in enumerate(texts):
            first = self._pieces(text)
            second = self._pieces(pairs[number]) if pairs is not None else []
            if room is not None:
                a, b = shorten(len(first), len(second), room)
                first = first[len(first) - a :] if left else first[:a]
                second = second[len(second) - b :] if left else second[:b]
            encoded = Encoded()
            self._put_special(encoded, self.prefix if special else [], 0)
            self._put(encoded, first, 0)
            if pairs is not None:
                self._put_special(encoded, self.middle if special else [], 0)
                self._put(encoded, second, 1)
            self._put_special(encoded, self.suffix if special else [], int(pairs is not None))
            result.append(encoded)
        return result

    def encode_ids(self, texts: Sequence[str], *, special: bool) -> list[list[int]]:
        """Ids alone, whole texts: the quick way."""
        before = [self.ids[token] for token in self.prefix] if special else []
        behind = [self.ids[token] for token in self.suffix] if special else []
        return [[*before, *self.plain_ids(text), *behind] for text in texts]

    def plain_ids(self, text: str) -> list[int]:
        """Ids of a text without anything around it."""
        return [piece.token for piece in self._pieces(text)]

    def _put(self, encoded: Encoded, pieces: Sequence[Piece], type_id: int) -> None:
        for p in pieces:
            encoded.append(p.token, type_id, (p.start, p.end), int(p.word < 0), p.word)

    def _put_special(self, encoded: Encoded, tokens: Sequence[str], type_id: int) -> None:
        for token in tokens:
            encoded.append(self.ids[token], type_id, (0, 0), 1, -1)

    def decode(self, ids: Sequence[int], *, skip_special: bool) -> str:
        """Turn ids back into text."""
        for number in ids:
            if not 0 <= number < len(self.tokens):
                raise IndexError(f"decode: ids must be in [0, {len(self.tokens)}), got {number}")
        return self.join(
            [self.tokens[i] for i in ids if not (skip_special and i in self.special_ids)]
        )

    def vocabulary(self) -> dict[str, int]:
        """Token -> id."""
        return dict(self.ids)

    def size(self) -> int:
        """One more than the largest id."""
        return len(self.tokens)
