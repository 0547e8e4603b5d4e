# SPDX-License-Identifier: Apache-2.0
"""Questions about texts, and where in them the answers begin and end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from seqloom.text import Tokenizer


def encode_questions(
    records: Iterable[Mapping[str, Any]],
    tokenizer: Tokenizer,
    *,
    max_length: int | None = None,
) -> list[dict[str, Any]]:
    """Encode questions as items for `Loader` with `PadCollate`.

    Parameters
    ----------
    records
        Mappings with `question`, `context` and `answer`, a part of the context; `answer_start` says
        at which character where it occurs more than once (the first time when absent). An empty
        answer means that there is none.
    tokenizer
        With a template for pairs, such as BERT's.
    max_length
        Longer pairs are cut; an answer that was cut off has the places -1, which don't count.

    Returns
    -------
    list of dict
        `input_ids` and `token_type_ids`, int64 `[T]`, and the tokens `start_positions` and
        `end_positions`; both are 0, the first token, where there is no answer.

    Examples
    --------
    >>> from seqloom.text import Tokenizer
    >>> tokenizer = Tokenizer.train_from_texts(["who came? ann came"], kind="char")
    >>> record = {"question": "who?", "context": "ann came", "answer": "ann"}
    >>> item = encode_questions([record], tokenizer)[0]
    >>> tokenizer.decode(item["input_ids"][item["start_positions"] : item["end_positions"] + 1])
    'ann'
    """
    items: list[dict[str, Any]] = []
    for number, record in enumerate(records, 1):
        question, context, answer = (
            _text(record, name, number) for name in ("question", "context", "answer")
        )
        first = _place(record, context, answer, number)
        batch = tokenizer([question], [context], max_length=max_length, padding_side="right")
        # Characters count from 0 in both texts; only the second one's tokens may answer.
        offsets = batch.offsets[0]
        inside = context_tokens(batch.token_type_ids[0], batch.special_tokens_mask[0] == 0)
        begins = inside & (offsets[:, 0] <= first) & (first < offsets[:, 1])
        last = first + len(answer) - 1
        ends = inside & (offsets[:, 0] <= last) & (last < offsets[:, 1])
        places = [0, 0]
        if answer:
            whole = begins.any() and ends.any()
            places = [int(begins.argmax()), int(ends.argmax())] if whole else [-1, -1]
        items.append(
            {
                "input_ids": batch.input_ids[0],
                "token_type_ids": batch.token_type_ids[0],
                "start_positions": places[0],
                "end_positions": places[1],
            }
        )
    return items


def _text(record: Mapping[str, Any], name: str, number: int) -> str:
    value = record.get(name)
    if not isinstance(value, str):
        raise ValueError(f"encode_questions: {name} of record {number} must be a text")
    return value


def _place(record: Mapping[str, Any], context: str, answer: str, number: int) -> int:
    given = record.get("answer_start")
    first = context.find(answer) if given is None else given
    if isinstance(first, bool) or not isinstance(first, int):
        raise ValueError(f"encode_questions: answer_start of record {number} must be an integer")
    if first < 0 or context[first : first + len(answer)] != answer:
        where = "in the context" if given is None else f"at character {first} of the context"
        raise ValueError(f"encode_questions: record {number}: {answer!r} is not {where}")
    return first


def context_tokens(types: Any, plain: Any) -> Any:
    """Which tokens are the second text's: by their types, or behind the tokens between the two.

    Parameters
    ----------
    types : integers [T]
        `token_type_ids` of a pair.
    plain : bool [T]
        Where there is no special token.

    Examples
    --------
    >>> plain = np.array([False, True, False, True, True, False])
    >>> context_tokens(np.zeros(6, int), plain).tolist()
    [False, False, False, True, True, False]
    """
    if types.any():
        return (types == 1) & plain
    places = np.flatnonzero(plain)
    gaps = np.flatnonzero(np.diff(places) > 1)
    inside = np.zeros(len(types), bool)
    if len(gaps):
        inside[places[gaps[0] + 1 :]] = True
    return inside
