# SPDX-License-Identifier: Apache-2.0
"""Encoded texts and pairs of texts: classification, tagging, translation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from seqloom.data.padding import pad
from seqloom.data.readers import DataError, Reader, as_paths, numbered_lines
from seqloom.files import PathLike

if TYPE_CHECKING:
    from seqloom.text import Tokenizer

Ids = npt.NDArray[np.int64]


def read_pairs(
    source: PathLike, target: PathLike | None = None, *, encoding: str = "utf-8"
) -> Reader[tuple[str, str]]:
    """Stream sentence pairs: two parallel files, or one with a tab in every line.

    Parameters
    ----------
    source, target
        Two files whose lines belong together, or one of lines `source<TAB>target`.
    encoding
        The files' encoding.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile("w", suffix=".tsv", delete=False) as f:
    ...     _ = f.write("hello\\tbonjour\\nyes\\toui\\n")
    >>> list(read_pairs(f.name))
    [('hello', 'bonjour'), ('yes', 'oui')]
    """
    (first,) = as_paths(source, "read_pairs")
    second = None if target is None else as_paths(target, "read_pairs")[0]

    def start() -> Iterator[tuple[str, str]]:
        ours = numbered_lines(first, encoding, "read_pairs")
        if second is None:
            for number, line in ours:
                if line.strip():
                    left, tab, right = line.rstrip("\r\n").partition("\t")
                    if not tab:
                        raise DataError(f"read_pairs: {first}: line {number}: has no tab")
                    yield left, right.partition("\t")[0]
            return
        theirs = numbered_lines(second, encoding, "read_pairs")
        for left_line, right_line in zip_longest(ours, theirs):
            if left_line is None or right_line is None:
                short, long = (first, second) if left_line is None else (second, first)
                raise DataError(f"read_pairs: {short} has fewer lines than {long}")
            yield left_line[1].rstrip("\r\n"), right_line[1].rstrip("\r\n")

    return Reader(start)


def encode_texts(
    texts: Iterable[str],
    tokenizer: Tokenizer,
    *,
    pairs: Iterable[str] | None = None,
    labels: Iterable[int] | None = None,
    max_length: int | None = None,
) -> list[dict[str, Any]]:
    """Encode texts (or pairs) as items for `Loader` with `PadCollate` or `MaskCollate`.

    Returns
    -------
    list of dict
        `input_ids`, `token_type_ids`, `special_tokens_mask`, `word_ids` as int64 `[T]`, and
        `labels` as a number where given.

    Examples
    --------
    >>> from seqloom.text import Tokenizer
    >>> tokenizer = Tokenizer.train_from_texts(["abc"], kind="char")
    >>> items = encode_texts(["ab", "c"], tokenizer, labels=[1, 0])
    >>> items[0]["input_ids"], items[0]["labels"]
    (array([4, 5]), 1)
    """
    first = list(texts)
    second = None if pairs is None else list(pairs)
    marks = None if labels is None else list(labels)
    if marks is not None and len(marks) != len(first):
        raise ValueError(
            f"encode_texts: labels must have one entry for each of the {len(first)} texts, "
            f"got {len(marks)}"
        )
    items: list[dict[str, Any]] = []
    for start in range(0, len(first), 256):
        part = slice(start, start + 256)
        batch = tokenizer(
            first[part],
            None if second is None else second[part],
            max_length=max_length,
            padding_side="right",
        )
        for row, size in enumerate(batch.lengths.tolist()):
            item: dict[str, Any] = {
                "input_ids": batch.input_ids[row, :size],
                "token_type_ids": batch.token_type_ids[row, :size],
                "special_tokens_mask": batch.special_tokens_mask[row, :size],
                "word_ids": batch.word_ids[row, :size],
            }
            if marks is not None:
                item["labels"] = marks[start + row]
            items.append(item)
    return items


def encode_pairs(
    pairs: Iterable[tuple[str, str]],
    source: Tokenizer,
    target: Tokenizer,
    *,
    max_length: int | None = None,
    drop_long: bool = True,
) -> list[dict[str, Ids]]:
    """Encode sentence pairs as items for `Loader` with `PairCollate`.

    A target becomes `bos, tokens..., eos`; a source ends in `eos` where its tokenizer has one.

    Parameters
    ----------
    pairs
        (source, target) texts.
    source, target
        Their tokenizers (the same one, perhaps); the target's needs `bos` (or `pad`, which
        stands in for it) and `eos`.
    max_length
        Limit for both sides, special tokens included.
    drop_long
        Leave longer pairs out; otherwise cut them.

    Returns
    -------
    list of dict
        `src_ids` and `tgt_ids`, int64 `[T]`.

    Examples
    --------
    >>> from seqloom.text import Tokenizer
    >>> tokenizer = Tokenizer.train_from_texts(["abc"], kind="char")
    >>> encode_pairs([("ab", "c")], tokenizer, tokenizer)
    [{'src_ids': array([4, 5, 3]), 'tgt_ids': array([2, 6, 3])}]
    """
    begin = target.bos_token_id if target.bos_token_id is not None else target.pad_token_id
    end = target.eos_token_id
    if begin is None or end is None:
        raise ValueError("encode_pairs: target must have the special tokens bos (or pad) and eos")
    items = []
    everything = list(pairs)
    left = source.encode_batch([p[0] for p in everything], add_special_tokens=False)
    right = target.encode_batch([p[1] for p in everything], add_special_tokens=False)
    tail = [] if source.eos_token_id is None else [source.eos_token_id]
    limit = max_length if max_length is not None else 1 << 62
    if limit < 3:
        raise ValueError(f"encode_pairs: max_length must be at least 3, got {max_length}")
    for src, tgt in zip(left, right, strict=True):
        if len(src) + len(tail) > limit or len(tgt) + 2 > limit:
            if drop_long:
                continue
            src, tgt = src[: limit - len(tail)], tgt[: limit - 2]
        items.append(
            {
                "src_ids": np.array([*src, *tail], np.int64),
                "tgt_ids": np.array([begin, *tgt, end], np.int64),
            }
        )
    return items


class PairCollate:
    """Batch encoded pairs for teacher forcing.

    Parameters
    ----------
    src_pad, tgt_pad
        What fills the rows.
    multiple_of
        Round the widths up.

    The batch holds `src_ids` `[B, S]`, `src_lengths` `[B]`, `tgt_ids` `[B, T]` (what the decoder
    reads: all but the last token), and `labels` `[B, T]` (what it is to say: all but the first,
    -100 on padding).

    Examples
    --------
    >>> batch = PairCollate()([{"src_ids": [5, 6], "tgt_ids": [2, 7, 3]},
    ...                        {"src_ids": [5], "tgt_ids": [2, 3]}])
    >>> batch["tgt_ids"].tolist(), batch["labels"].tolist()
    ([[2, 7], [2, 0]], [[7, 3], [3, -100]])
    """

    def __init__(self, src_pad: int = 0, tgt_pad: int = 0, *, multiple_of: int = 1) -> None:
        self.src_pad, self.tgt_pad, self.multiple_of = src_pad, tgt_pad, multiple_of

    def __call__(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Ids]:
        """Make one batch."""
        size: dict[str, Any] = {"multiple_of": self.multiple_of, "dtype": np.int64}
        src, src_lengths = pad([item["src_ids"] for item in items], self.src_pad, **size)
        tgt, _ = pad([item["tgt_ids"][:-1] for item in items], self.tgt_pad, **size)
        labels, _ = pad([item["tgt_ids"][1:] for item in items], -100, **size)
        return {"src_ids": src, "src_lengths": src_lengths, "tgt_ids": tgt, "labels": labels}
