# SPDX-License-Identifier: Apache-2.0
"""BERT: learn words by masking, then fine-tune for topic classification.

With `--bert DIR` (config.json, model.safetensors, vocab.txt as Hugging Face has them) it fine-tunes
that one; without, a small BERT first reads the sentences with masked words.

    python examples/finetune_bert.py
    python examples/finetune_bert.py --bert bert-base-uncased

The small one finds 14.4 % of the masked words and then 63.2 % of the topics, in a minute on one
core; the commonest topic alone would give 18.7 %.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from typing import Any

from stdlib_texts import TOPICS, topics

import seqloom as sl
from seqloom.data import Loader, MaskCollate, PadCollate, encode_texts
from seqloom.data.random import permutation
from seqloom.text import Tokenizer
from seqloom.train import Trainer

LENGTH = 48


def pretrained(texts: list[str], quick: bool) -> str:
    """The directory of a small BERT that has seen these texts with masked words."""
    tokenizer = Tokenizer.train_from_texts(texts, "wordpiece", 1500 if quick else 4000,
                                           lowercase=True)  # fmt: skip
    size = (64, 2, 2) if quick else (128, 3, 4)
    model = sl.models.BertForMaskedLM(
        vocab_size=len(tokenizer), hidden_size=size[0], num_hidden_layers=size[1],
        num_attention_heads=size[2], intermediate_size=4 * size[0], max_position_embeddings=LENGTH,
        initializer_range=0.06,
    )  # fmt: skip
    items = encode_texts(texts, tokenizer, max_length=LENGTH)
    held_out = len(items) // 20
    collate = MaskCollate(tokenizer, whole_words=True)
    trainer = Trainer(
        model, "masked-token", Loader(items[held_out:], 32, shuffle=True, collate=collate),
        Loader(items[:held_out], 32, collate=collate), lr=2e-3, schedule="linear", warmup_steps=50,
        steps=60 if quick else 600,
    )  # fmt: skip
    trainer.train()
    found = trainer.evaluate()
    print(f"masked words: {found['eval_accuracy']:.1%} found, "
          f"perplexity {found['eval_perplexity']:.1f}")  # fmt: skip
    folder = tempfile.mkdtemp(prefix="small-bert-")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bert", metavar="DIR", help="a BERT in Hugging Face's layout")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument(
        "--quick", action="store_true", help="a smaller model and fewer sentences: seconds"
    )
    options = parser.parse_args()

    sl.manual_seed(0)
    pairs = topics()
    pairs = [pairs[i] for i in permutation(len(pairs), 0, 1)][: 2400 if options.quick else 6000]
    cut = len(pairs) * 9 // 10
    folder = options.bert or pretrained([text for text, _ in pairs[:cut]], options.quick)
    tokenizer = Tokenizer.from_pretrained(folder)
    labels = {str(number): topic for number, topic in enumerate(TOPICS)}
    # The head is new, which the class says in a warning.
    model = sl.models.BertForSequenceClassification.from_pretrained(
        folder, dtype="float32", id2label=labels
    )

    def items(part: list[tuple[str, str]]) -> list[dict[str, Any]]:
        texts, names = zip(*part, strict=True)
        numbers = [TOPICS.index(name) for name in names]
        keys = ("input_ids", "token_type_ids", "labels")
        encoded = encode_texts(texts, tokenizer, labels=numbers, max_length=LENGTH)
        return [{key: item[key] for key in keys} for item in encoded]

    collate = PadCollate({"input_ids": tokenizer.pad_token_id or 0})
    rate = 5e-5 if options.bert else 1.5e-3 if options.quick else 5e-4
    trainer = Trainer(
        model, "classification", Loader(items(pairs[:cut]), 32, shuffle=True, collate=collate),
        Loader(items(pairs[cut:]), 64, collate=collate), lr=rate,
        schedule="linear", warmup_steps=20, epochs=4 if options.quick else options.epochs,
    )  # fmt: skip
    trainer.train()
    common = Counter(name for _, name in pairs[cut:]).most_common(1)[0]
    print(f"accuracy {trainer.evaluate()['eval_accuracy']:.1%} over {len(TOPICS)} topics; "
          f"always saying {common[0]!r} gives {common[1] / (len(pairs) - cut):.1%}")  # fmt: skip


if __name__ == "__main__":
    main()
