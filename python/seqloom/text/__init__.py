# SPDX-License-Identifier: Apache-2.0
"""Text: tokenizers, decoding of streams, word vectors, BLEU."""

from seqloom.text.batch import Batch
from seqloom.text.bleu import BleuScore, bleu
from seqloom.text.glove import WordVectors, load_glove
from seqloom.text.streaming import IncrementalDecoder
from seqloom.text.tokenizer import Tokenizer

__all__ = [
    "Batch",
    "BleuScore",
    "IncrementalDecoder",
    "Tokenizer",
    "WordVectors",
    "bleu",
    "load_glove",
]
