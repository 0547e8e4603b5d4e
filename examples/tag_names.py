# SPDX-License-Identifier: Apache-2.0
"""Tagging as for named entities: which part does a name play in a line of code?

A bidirectional LSTM reads the tokens of a line alone and says of every name whether it is a class,
a function, an argument, an attribute, a module or a variable. The truth comes from Python's parser,
which sees the whole file.

    python examples/tag_names.py

After ten seconds 99.8 % of all tokens are right (63.4 % play no role); names of modules are the
hardest, F1 94 %.
"""

from __future__ import annotations

import argparse

import numpy as np
from stdlib_texts import ROLES, tagged_lines

import seqloom as sl
from seqloom.data import Loader, PadCollate
from seqloom.data.random import permutation
from seqloom.train import Trainer

TAGS = ("O", *ROLES)
UNKNOWN = 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="fewer lines and one epoch: seconds")
    options = parser.parse_args()

    lines = tagged_lines(4000 if options.quick else 30_000)
    lines = [lines[i] for i in permutation(len(lines), 0, 1)]
    cut = len(lines) * 9 // 10
    counts: dict[str, int] = {}
    for words, _ in lines[:cut]:
        for word in words:
            counts[word] = counts.get(word, 0) + 1
    known = sorted(word for word, count in counts.items() if count > 1)
    numbers = {word: number for number, word in enumerate(known, UNKNOWN + 1)}

    def items(part: list[tuple[list[str], list[str]]]) -> list[dict[str, list[int]]]:
        return [
            {
                "input_ids": [numbers.get(word, UNKNOWN) for word in words[:60]],
                "labels": [TAGS.index(tag) for tag in tags[:60]],
            }
            for words, tags in part
        ]

    train, test = items(lines[:cut]), items(lines[cut:])
    print(f"{len(train)} lines to learn from, {len(test)} to be judged by, {len(known)} words")
    sl.manual_seed(0)
    model = sl.models.SequenceTagger(
        len(TAGS), vocab_size=len(numbers) + 2, body="lstm", embed_dim=64, hidden_size=64,
        bidirectional=True, dropout=0.2,
    )  # fmt: skip
    trainer = Trainer(
        model, "tagging", Loader(train, 64, shuffle=True, collate=PadCollate()),
        Loader(test, 64, collate=PadCollate()), lr=3e-3, schedule="cosine", warmup_steps=50,
        epochs=1 if options.quick else options.epochs,
    )  # fmt: skip
    trainer.train()

    hits, said, there = (np.zeros(len(TAGS)) for _ in range(3))
    model.eval()
    for batch in Loader(test, 64, collate=PadCollate()):
        with sl.no_grad():
            logits = model(batch["input_ids"], lengths=batch["lengths"])
        guess, truth = logits.numpy().argmax(-1), batch["labels"]
        for number in range(len(TAGS)):
            hits[number] += ((guess == number) & (truth == number)).sum()
            said[number] += ((guess == number) & (truth >= 0)).sum()
            there[number] += (truth == number).sum()
    print(f"accuracy {hits.sum() / there.sum():.1%} over all tokens, always saying 'O' gives "
          f"{there[0] / there.sum():.1%}; F1 of the roles:")  # fmt: skip
    for number, tag in enumerate(TAGS[1:], 1):
        f1 = 2 * hits[number] / max(1, said[number] + there[number])
        print(f"  {tag:<10}{f1:6.1%}  of {int(there[number])}")


if __name__ == "__main__":
    main()
