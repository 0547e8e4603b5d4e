# SPDX-License-Identifier: Apache-2.0
"""Data: streaming readers, windows, pairs, masking, padding, bucketing, and the loader."""

from seqloom.data.bucketing import TokenBudget
from seqloom.data.demo import demo_text
from seqloom.data.forecasting import ForecastWindows, Standardizer, chronological_split
from seqloom.data.loader import Loader
from seqloom.data.masking import MaskCollate, mask_tokens
from seqloom.data.padding import PadCollate, default_collate, mask_from_lengths, pad
from seqloom.data.pairs import PairCollate, encode_pairs, encode_texts, read_pairs
from seqloom.data.questions import context_tokens, encode_questions
from seqloom.data.readers import DataError, Reader, read_csv, read_jsonl, read_text
from seqloom.data.windows import ContiguousBatches, LMWindows, RandomWindows, encode_corpus

__all__ = [
    "ContiguousBatches",
    "DataError",
    "ForecastWindows",
    "LMWindows",
    "Loader",
    "MaskCollate",
    "PadCollate",
    "PairCollate",
    "RandomWindows",
    "Reader",
    "Standardizer",
    "TokenBudget",
    "chronological_split",
    "context_tokens",
    "default_collate",
    "demo_text",
    "encode_corpus",
    "encode_pairs",
    "encode_questions",
    "encode_texts",
    "mask_from_lengths",
    "mask_tokens",
    "pad",
    "read_csv",
    "read_jsonl",
    "read_pairs",
    "read_text",
]
