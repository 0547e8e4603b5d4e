# SPDX-License-Identifier: Apache-2.0
"""Writing text: caches, greedy search, sampling, beam search, stopping, streaming."""

from __future__ import annotations

from .cache import Decodable, KVCache, State
from .call import Memory
from .generative import Generative
from .layered import LayeredCache
from .processors import BadWords, Forced, NoRepeatNGram, RepetitionPenalty, Suppress
from .sampling import candidates

__all__ = [
    "BadWords",
    "Decodable",
    "Forced",
    "Generative",
    "KVCache",
    "LayeredCache",
    "Memory",
    "NoRepeatNGram",
    "RepetitionPenalty",
    "State",
    "Suppress",
    "candidates",
]
