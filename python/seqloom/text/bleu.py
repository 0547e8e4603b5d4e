# SPDX-License-Identifier: Apache-2.0
"""Corpus BLEU (Papineni et al., 2002) with the tokenization of mteval-v13a."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Smoothing = Literal["exp", "floor", "add-k", "none"]

_SYMBOL = re.compile(r"([\x21-\x26\x28-\x2b\x2f\x3a-\x40\x5b-\x60\x7b-\x7e])")
_MARK_AFTER_TEXT = re.compile(r"([^0-9])([.,])")
_MARK_BEFORE_TEXT = re.compile(r"([.,])([^0-9])")
_DASH_AFTER_DIGIT = re.compile(r"([0-9])(-)")
_ENTITIES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))


@dataclass(frozen=True)
class BleuScore:
    """BLEU in percent with what it is made of; prints as one line, counts as its score."""

    score: float
    precisions: tuple[float, ...]
    brevity_penalty: float
    matches: tuple[int, ...]
    totals: tuple[int, ...]
    hypothesis_length: int
    reference_length: int

    def __float__(self) -> float:
        return self.score

    def __str__(self) -> str:
        parts = "/".join(f"{p:.1f}" for p in self.precisions)
        return (
            f"BLEU = {self.score:.2f} {parts} (BP = {self.brevity_penalty:.3f}, "
            f"{self.hypothesis_length} words for {self.reference_length})"
        )


def tokenize_13a(text: str) -> list[str]:
    """Cut text as mteval-v13a does, by ASCII punctuation.

    Examples
    --------
    >>> tokenize_13a("It costs $3.50, no?")
    ['It', 'costs', '$', '3.50', ',', 'no', '?']
    """
    text = text.replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for entity, character in _ENTITIES:
        text = text.replace(entity, character)
    text = _SYMBOL.sub(r" \1 ", f" {text} ")
    text = _MARK_AFTER_TEXT.sub(r"\1 \2 ", text)
    text = _MARK_BEFORE_TEXT.sub(r" \1 \2", text)
    return _DASH_AFTER_DIGIT.sub(r"\1 \2 ", text).split()


def _ngrams(tokens: Sequence[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(
        tuple(tokens[i : i + n]) for n in range(1, order + 1) for i in range(len(tokens) - n + 1)
    )


def bleu(
    hypotheses: Sequence[str],
    references: Sequence[str | Sequence[str]],
    *,
    max_order: int = 4,
    smoothing: Smoothing = "exp",
    smoothing_value: float | None = None,
    tokenize: Literal["13a", "char", "none"] = "13a",
    lowercase: bool = False,
) -> BleuScore:
    """Corpus BLEU of translations, in percent; the defaults are those of sacreBLEU.

    Parameters
    ----------
    hypotheses
        Translations.
    references
        For each translation one reference, or several.
    max_order
        Longest n-grams that count.
    smoothing
        What an order without a match becomes: `"exp"` halves from order to order, `"floor"`
        gives `smoothing_value` matches (0.1), `"add-k"` adds `smoothing_value` (1) to matches
        and totals of the orders from 2, `"none"` leaves 0.
    smoothing_value
        See `smoothing`.
    tokenize
        `"13a"`, characters, or white space alone.
    lowercase
        Fold the case.

    Examples
    --------
    >>> print(bleu(["the cat sat on a mat"], ["the cat sat on the mat"]))
    BLEU = 53.73 83.3/60.0/50.0/33.3 (BP = 1.000, 6 words for 6)
    >>> round(float(bleu(["a b c d"], [["a b c x", "a b c d"]])), 1)
    100.0
    """
    if isinstance(hypotheses, str) or isinstance(references, str):
        raise TypeError("bleu: hypotheses and references must be sequences of texts, got one str")
    if len(hypotheses) != len(references):
        raise ValueError(
            f"bleu: references must have one entry for each of the {len(hypotheses)} hypotheses, "
            f"got {len(references)}"
        )
    if max_order < 1:
        raise ValueError(f"bleu: max_order must be positive, got {max_order}")
    if smoothing not in ("exp", "floor", "add-k", "none"):
        raise ValueError(
            f"bleu: smoothing must be 'exp', 'floor', 'add-k' or 'none', got {smoothing!r}"
        )
    if tokenize not in ("13a", "char", "none"):
        raise ValueError(f"bleu: tokenize must be '13a', 'char' or 'none', got {tokenize!r}")

    def cut(text: str) -> list[str]:
        text = (text.lower() if lowercase else text).rstrip()
        if tokenize == "13a":
            return tokenize_13a(text)
        return [c for c in text if not c.isspace()] if tokenize == "char" else text.split()

    matches, totals = [0] * max_order, [0] * max_order
    ours = theirs = 0
    for number, (hypothesis, given) in enumerate(zip(hypotheses, references, strict=True)):
        tokens = cut(hypothesis)
        several = [cut(r) for r in ([given] if isinstance(given, str) else given)]
        if not several:
            raise ValueError(f"bleu: references[{number}] must hold at least one text")
        ours += len(tokens)
        # The closest reference length counts, the shorter one of two equally close.
        theirs += min((abs(len(r) - len(tokens)), len(r)) for r in several)[1]
        found = _ngrams(tokens, max_order)
        allowed: Counter[tuple[str, ...]] = Counter()
        for reference in several:
            allowed |= _ngrams(reference, max_order)
        for ngram, count in found.items():
            totals[len(ngram) - 1] += count
            matches[len(ngram) - 1] += min(count, allowed[ngram])
    penalty = 1.0 if ours >= theirs else math.exp(1 - theirs / ours) if ours else 0.0
    precisions = _precisions(matches, totals, smoothing, smoothing_value)
    score = 0.0
    if any(matches) and min(precisions) > 0:
        score = penalty * math.exp(sum(map(math.log, precisions)) / max_order)
    return BleuScore(score, tuple(precisions), penalty, tuple(matches), tuple(totals), ours, theirs)


def _precisions(
    matches: Sequence[int], totals: Sequence[int], smoothing: Smoothing, value: float | None
) -> list[float]:
    precisions, halving = [], 1.0
    for order, (matched, total) in enumerate(zip(matches, totals, strict=True)):
        top, bottom = float(matched), float(total)
        if smoothing == "add-k" and order > 0:
            extra = 1.0 if value is None else value
            top, bottom = top + extra, bottom + extra
        if bottom == 0:
            precisions.append(0.0)
            continue
        if top == 0 and smoothing == "exp":
            halving *= 2
            top = 1 / halving
        elif top == 0 and smoothing == "floor":
            top = 0.1 if value is None else value
        precisions.append(100 * top / bottom)
    return precisions
