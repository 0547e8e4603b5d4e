# SPDX-License-Identifier: Apache-2.0
"""Character and word vocabularies, in plain Python."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from seqloom.files import read_json, write_json
from seqloom.text.engine import ROLES, Piece, SegmentingEngine

FILE = "seqloom_tokenizer.json"
DEFAULT_SPECIAL = {"pad": "<pad>", "unk": "<unk>", "bos": "<s>", "eos": "</s>"}

_WORD = re.compile(r"\w+(?:['\u2019]\w+)*|[^\w\s]")
_NO_SPACE_BEFORE = frozenset(".,;:!?%)]}\u2019\u201d\u00bb\u2026")
_NO_SPACE_AFTER = frozenset("([{\u2018\u201c\u00ab$\u20ac\u00a3")


def words(text: str) -> list[str]:
    """Cut text into words and punctuation marks.

    Examples
    --------
    >>> words("Don't stop, Anna!")
    ["Don't", 'stop', ',', 'Anna', '!']
    """
    return _WORD.findall(text)


def join_words(tokens: Iterable[str]) -> str:
    """Words back to text, with the usual spaces around punctuation.

    Examples
    --------
    >>> join_words(["Don't", "stop", ",", "Anna", "!"])
    "Don't stop, Anna!"
    """
    out: list[str] = []
    glue = True
    for token in tokens:
        if not glue and token not in _NO_SPACE_BEFORE:
            out.append(" ")
        out.append(token)
        glue = token in _NO_SPACE_AFTER
    return "".join(out)


class VocabularyEngine(SegmentingEngine):
    """Characters (`kind="char"`) or words (`kind="word"`) by a list."""

    def __init__(
        self,
        kind: str,
        tokens: Sequence[str],
        special: Mapping[str, str],
        *,
        lowercase: bool = False,
        add_bos: bool = False,
        add_eos: bool = False,
    ) -> None:
        self.kind = kind
        self.lowercase, self.add_bos, self.add_eos = lowercase, add_bos, add_eos
        for role, wanted in (("bos", add_bos), ("eos", add_eos)):
            if wanted and role not in special:
                raise ValueError(f"Tokenizer: add_{role} needs a special token {role!r}")
        separator = special.get("sep", special.get("eos"))
        super().__init__(
            tokens,
            special,
            prefix=[special["bos"]] if add_bos else [],
            middle=[separator] if separator is not None else [],
            suffix=[special["eos"]] if add_eos else [],
        )

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        kind: str,
        *,
        vocab_size: int | None,
        special: Mapping[str, str],
        extra: Sequence[str],
        min_frequency: int,
        lowercase: bool,
        add_bos: bool,
        add_eos: bool,
    ) -> VocabularyEngine:
        """Count tokens; the most frequent ones stay, in a fixed order.

        Examples
        --------
        >>> engine = VocabularyEngine.train(
        ...     ["b a b"], "char", vocab_size=None, special={}, extra=(), min_frequency=1,
        ...     lowercase=False, add_bos=False, add_eos=False)
        >>> engine.tokens
        [' ', 'a', 'b']
        """
        counts: Counter[str] = Counter()
        for text in texts:
            if kind == "char":
                counts.update((low for c in text for low in c.lower()) if lowercase else text)
            else:
                counts.update(word.lower() if lowercase else word for word in words(text))
        reserved = list(dict.fromkeys([*special.values(), *extra]))
        threshold = 1 if kind == "char" else min_frequency
        ranked = sorted((-n, t) for t, n in counts.items() if n >= threshold and t not in reserved)
        kept = [token for _, token in ranked]
        if vocab_size is not None:
            if vocab_size <= len(reserved):
                raise ValueError(
                    f"Tokenizer.train: vocab_size must exceed the {len(reserved)} special tokens, "
                    f"got {vocab_size}"
                )
            kept = kept[: vocab_size - len(reserved)]
        if kind == "char":
            kept.sort()
        return cls(
            kind, reserved + kept, special, lowercase=lowercase, add_bos=add_bos, add_eos=add_eos
        )

    def _lookup(self, token: str, where: int) -> int:
        found = self.ids.get(token)
        if found is not None:
            return found
        if "unk" in self.special:
            return self.ids[self.special["unk"]]
        raise ValueError(
            f"Tokenizer: {token!r} at character {where} is not in the vocabulary, "
            "which has no 'unk' token"
        )

    def segment(self, text: str) -> list[Piece]:
        """Cut plain text into known tokens."""
        if self.kind == "char":
            # Lowering one character may give two ('\u0130'), so it happens one by one.
            pieces, word, inside = [], -1, False
            for i, c in enumerate(text):
                is_word = c.isalnum()
                if not (is_word and inside):
                    word += 1
                inside = is_word
                for low in c.lower() if self.lowercase else c:
                    pieces.append(Piece(self._lookup(low, i), i, i + 1, word))
            return pieces
        return [
            Piece(
                self._lookup(m[0].lower() if self.lowercase else m[0], m.start()),
                m.start(),
                m.end(),
                number,
            )
            for number, m in enumerate(_WORD.finditer(text))
        ]

    def plain_ids(self, text: str) -> list[int]:
        """Ids of a text without anything around it."""
        if self.kind == "char" and not self.lowercase:
            found = list(map(self.ids.get, text))
            if None not in found:
                return cast("list[int]", found)
        return super().plain_ids(text)

    def join(self, tokens: Sequence[str]) -> str:
        """Glue tokens together."""
        return "".join(tokens) if self.kind == "char" else join_words(tokens)

    def save(self, directory: Path) -> None:
        """Write `seqloom_tokenizer.json`."""
        write_json(
            directory / FILE,
            {
                "format": "seqloom-tokenizer",
                "version": 1,
                "kind": self.kind,
                "lowercase": self.lowercase,
                "add_bos": self.add_bos,
                "add_eos": self.add_eos,
                "special": self.special,
                "tokens": self.tokens,
            },
        )

    @classmethod
    def load(cls, path: Path) -> VocabularyEngine:
        """Read what `save` wrote.

        Examples
        --------
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> VocabularyEngine("char", ["a", "b"], {}).save(folder)
        >>> VocabularyEngine.load(folder / FILE).tokens
        ['a', 'b']
        """
        where = f"from_pretrained: {path}"
        data: Any = read_json(path, "from_pretrained")
        if not isinstance(data, dict) or data.get("format") != "seqloom-tokenizer":
            raise ValueError(f"{where}: is not a seqloom tokenizer")
        if data.get("version") != 1:
            raise ValueError(f"{where}: has version {data.get('version')!r}, this reads 1")
        tokens, special = data.get("tokens"), data.get("special")
        flags: list[Any] = [data.get(name) for name in ("lowercase", "add_bos", "add_eos")]
        if (
            data.get("kind") not in ("char", "word")
            or not isinstance(tokens, list)
            or not all(isinstance(t, str) for t in tokens)
            or not isinstance(special, dict)
            or not all(k in ROLES and isinstance(v, str) for k, v in special.items())
            or not all(isinstance(flag, bool) for flag in flags)
        ):
            raise ValueError(f"{where}: is damaged: fields are missing or of the wrong type")
        return cls(
            data["kind"], tokens, special, lowercase=flags[0], add_bos=flags[1], add_eos=flags[2]
        )
