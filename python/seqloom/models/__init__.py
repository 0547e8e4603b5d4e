# SPDX-License-Identifier: Apache-2.0
"""Named architectures, from the RNN to the LLM, and checkpoints in and out.

model = sl.models.from_pretrained("directory")
model = sl.models.GPT2(n_layer=4, n_embd=256, n_head=4)
"""

from __future__ import annotations

import importlib
from typing import Any

from .base import CheckpointRules, Model
from .config import Config
from .loading import from_pretrained
from .quantize import quantize_model
from .registry import CLASSES

__all__ = [
    "CheckpointRules",
    "Config",
    "Model",
    "from_pretrained",
    "quantize_model",
    *sorted(CLASSES),
]


def __getattr__(name: str) -> Any:
    if name in CLASSES:
        return getattr(importlib.import_module(f"{__name__}.{CLASSES[name]}"), name)
    raise AttributeError(f"module 'seqloom.models' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
