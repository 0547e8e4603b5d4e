# SPDX-License-Identifier: Apache-2.0
"""Topic classification with an LSTM: which package of Python does a sentence speak about?

python examples/classify_topics.py

Eight topics from 6,000 sentences of docstrings: 71.5 % right after ten seconds; the commonest topic
alone would give 22.1 %.
"""

from __future__ import annotations

import argparse
from collections import Counter

import numpy as np
from stdlib_texts import TOPICS, topics

import seqloom as sl
from seqloom.data import Loader, PadCollate, TokenBudget, encode_texts
from seqloom.data.random import permutation
from seqloom.text import Tokenizer
from seqloom.train import Trainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--quick", action="store_true", help="fewer sentences and epochs: seconds")
    options = parser.parse_args()

    pairs = topics()
    pairs = [pairs[i] for i in permutation(len(pairs), 0, 1)][: 3000 if options.quick else None]
    cut = len(pairs) * 9 // 10
    tokenizer = Tokenizer.train_from_texts((t for t, _ in pairs[:cut]), "word", 12_000,
                                           lowercase=True)  # fmt: skip

    def items(part: list[tuple[str, str]]) -> list[dict[str, object]]:
        texts, labels = zip(*part, strict=True)
        numbers = [TOPICS.index(label) for label in labels]
        encoded = encode_texts(texts, tokenizer, labels=numbers, max_length=60)
        return [{"input_ids": e["input_ids"], "labels": e["labels"]} for e in encoded]

    train, test = items(pairs[:cut]), items(pairs[cut:])
    print(f"{len(train)} sentences to learn from, {len(test)} to be judged by")
    plan = TokenBudget([len(i["input_ids"]) for i in train], 2048, max_batch=64, seed=0)
    sl.manual_seed(0)
    model = sl.models.SequenceClassifier(
        len(TOPICS), vocab_size=len(tokenizer), body="lstm", embed_dim=96, hidden_size=96,
        dropout=0.3,
    )  # fmt: skip
    trainer = Trainer(
        model, "classification", Loader(train, batches=plan, collate=PadCollate()),
        Loader(test, 64, collate=PadCollate()), lr=3e-3, schedule="cosine", warmup_steps=50,
        epochs=2 if options.quick else options.epochs,
    )  # fmt: skip
    trainer.train()
    common = Counter(label for _, label in pairs[cut:]).most_common(1)[0]
    print(f"accuracy {trainer.evaluate()['eval_accuracy']:.1%}; always saying {common[0]!r} "
          f"gives {common[1] / len(test):.1%}")  # fmt: skip
    model.eval()
    for sentence in ("Parse a header of the message.", "Draw a button in the window."):
        with sl.no_grad():
            scores = model(np.array([tokenizer.encode(sentence)])).numpy()[0]
        print(f"{sentence} -> {TOPICS[int(scores.argmax())]}")


if __name__ == "__main__":
    main()
